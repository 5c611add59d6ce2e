package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"udrouter/integration/cases"
	"udrouter/integration/lab"
	"udrouter/integration/wire"
	"udrouter/policy"
)

var long = flag.Bool("long", false, "give floods and operations the whole time and number that the list of attacks asks for")

// times is how often something is done: the whole number in the long form.
func times(short, whole int) int {
	if *long {
		return whole
	}
	return short
}

// flood is an attack by rate: frames as fast as one thread sends them. The tool in it says what must be seen of it.
type flood struct {
	tool
	parts  []string // the attack's number and how the parts begin that it is
	number int      // of frames, where the list of attacks asks for so many; 0: see times
	frame  func(s *scene, i int) []byte
	honest func(ctx context.Context, s *scene) error // what the honest guest does meanwhile, beside new connections to the internet; nil: no more
}

var (
	x4, x6 = netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8:ffff::7")
	toAll  = policy.BroadcastMAC
)

const (
	ip4At = policy.EthernetLen
	ip6At = policy.EthernetLen
	l4At4 = ip4At + policy.IPv4Len
	l4At6 = ip6At + policy.IPv6Len
)

// of tells whether a flood is one of a part's.
func (f flood) of(p part) bool {
	return slices.ContainsFunc(f.parts, func(begin string) bool { return strings.HasPrefix(fmt.Sprintf("%d %s", p.attack, p.what), begin) })
}

// put writes a number into a frame.
func put(f []byte, at int, n uint32, bytes int) []byte {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	copy(f[at:at+bytes], b[4-bytes:])
	return f
}

// numbered is an IPv6 address of a prefix.
func numbered(prefix netip.Addr, i int) netip.Addr {
	b := prefix.As16()
	binary.BigEndian.PutUint32(b[12:], uint32(i))
	return netip.AddrFrom16(b)
}

var floods = []flood{
	{parts: []string{"1 unicast, broadcast"}, tool: tool{args: "past the router", drops: "ra-guard ethertype"}, frame: func(s *scene, i int) []byte {
		switch i % 4 {
		case 0:
			return cases.UDP(cases.MAC2, cases.MAC1, cases.One4, cases.Two4, 8)
		case 1:
			return advertisement()
		case 2: // STP
			return append([]byte{1, 0x80, 0xc2, 0, 0, 0, 0, 0x16, 0x3e, 0, 0, 1, 0, 38, 0x42, 0x42, 3}, make([]byte, 43)...)
		}
		return append([]byte{1, 0x80, 0xc2, 0, 0, 0xe, 0, 0x16, 0x3e, 0, 0, 1, 0x88, 0xcc}, make([]byte, 46)...) // LLDP
	}},
	{parts: []string{"2 as the neighbour"}, tool: tool{args: "the neighbour's MAC", bridge: true}, frame: func(s *scene, i int) []byte {
		return cases.UDP(s.router, cases.MAC2, cases.Two4, x4, 8)
	}},
	{parts: []string{"2 50,000 MACs"}, tool: tool{args: "random MACs", bridge: true}, frame: func(s *scene, i int) []byte {
		return put(cases.UDP(s.router, cases.Nobody, cases.One4, x4, 8), 8, rand.Uint32(), 4)
	}},
	{parts: []string{"37 "}, tool: tool{args: "ARP", drops: "arp-spoof nd-limit"}, frame: func(s *scene, i int) []byte {
		switch i % 3 {
		case 0: // of ever other senders
			return put(cases.ARP(toAll, cases.MAC1, 1, cases.MAC1, netip.AddrFrom4([4]byte{10}), policy.MAC{}, cases.Router4), policy.EthernetLen+15, uint32(i), 3)
		case 1: // for everybody
			return put(cases.ARP(toAll, cases.MAC1, 1, cases.MAC1, cases.One4, policy.MAC{}, netip.AddrFrom4([4]byte{192, 0, 2})), policy.EthernetLen+27, uint32(i/3), 1)
		}
		return cases.ARP(toAll, cases.MAC1, 1, cases.MAC1, cases.One4, policy.MAC{}, cases.Router4)
	}},
	{parts: []string{"49 "}, tool: tool{args: "NS", drops: "ip6-binding nd-limit"}, frame: func(s *scene, i int) []byte {
		from := cases.One6
		if i%2 == 0 {
			from = numbered(netip.MustParseAddr("2001:db8:3:2:ee::"), i)
		}
		return cases.NS(s.router, cases.MAC1, from, cases.LL1, cases.LL1, cases.MAC1)
	}},
	{parts: []string{"50 a whole prefix"}, tool: tool{args: "scan", from: internet, drops: "unbound-dst"}, frame: func(s *scene, i int) []byte {
		if i%2 == 0 {
			return seal(put(cases.UDP(s.lab.Dom0.MAC, s.lab.Gateway.MAC, x4, cases.Unbound4, 8), ip4At+19, 128+uint32(i/2)%100, 1))
		}
		return cases.UDP(s.lab.Dom0.MAC, s.lab.Gateway.MAC, x6, numbered(netip.MustParseAddr("2001:db8:3:2:ff::"), i), 8)
	}},
	{parts: []string{"51 floods"}, tool: tool{args: "RA", drops: "ra-guard"}, frame: func(s *scene, i int) []byte { return advertisement() }},
	{parts: []string{"54 a flood"}, tool: tool{args: "RS", to: "ff02::2/128"}, frame: func(s *scene, i int) []byte {
		routers := netip.MustParseAddr("ff02::2")
		return nd(policy.MulticastMAC(routers), routers, 133, append(make([]byte, 4), 1, 1, 0, 0x16, 0x3e, 0, 0, 1))
	}},
	{parts: []string{"56 a flood"}, tool: tool{args: "DHCP", drops: "dhcp-guard"}, frame: func(s *scene, i int) []byte {
		from, to := netip.AddrPortFrom(cases.One4, 67), netip.AddrPortFrom(netip.MustParseAddr("255.255.255.255"), 68)
		return cases.Datagram(toAll, cases.MAC1, from, to, append([]byte{2, 1, 6, 0}, make([]byte, 240)...))
	}},
	{parts: []string{"74 a flood"}, number: 100000, tool: tool{args: "MLD", to: "ff02::/64", drops: "multicast"}, frame: func(s *scene, i int) []byte {
		reports := netip.MustParseAddr("ff02::16")
		switch group := numbered(netip.MustParseAddr("ff02::db8:0:0"), i).AsSlice(); i % 4 {
		case 0: // a general query, to become querier (RFC 2710 5)
			return nd(policy.MulticastMAC(cases.AllNodes), cases.AllNodes, 130, make([]byte, 20))
		case 1: // of as many records as a frame takes (RFC 3810 5.2)
			const records = 70
			record := append([]byte{4, 0, 0, 0}, group...)
			return nd(policy.MulticastMAC(reports), reports, 143, append([]byte{0, 0, 0, records}, bytes.Repeat(record, records)...))
		case 2: // that says a thousand, and has one
			return nd(policy.MulticastMAC(reports), reports, 143, append([]byte{0, 0, 1000 >> 8, 1000 & 0xff, 4, 0, 0, 0}, group...))
		default: // of ever other groups
			return nd(policy.MulticastMAC(reports), reports, 143, append([]byte{0, 0, 0, 1, 4, 0, 0, 0}, group...))
		}
	}},
	{parts: []string{"61 floods"}, number: 200000, honest: long4, tool: tool{args: "fragments", drops: "fragment-orphan", passes: 1}, frame: func(s *scene, i int) []byte {
		f := put(cases.UDP(s.router, cases.MAC1, cases.One4, x4, 64), ip4At+4, uint32(i), 2)
		if i%2 == 0 {
			f[ip4At+6] = 0x20 // more are to come, and never do
		} else {
			f[ip4At+7] = 8 // a beginning that never was
		}
		return seal(f)
	}},
	{parts: []string{"63 "}, tool: tool{args: "causes of errors", drops: "ttl-exceeded unbound-dst"}, frame: func(s *scene, i int) []byte {
		if i%2 == 0 {
			return cases.UDP(s.router, cases.MAC1, cases.One4, cases.Unbound4, 8) // nobody is there
		}
		return cases.UDP(s.router, cases.MAC1, cases.One4, x4, 8, cases.TTL(1))
	}, honest: traces},
	{parts: []string{"65 hop-by-hop options"}, tool: tool{args: "options from hop to hop", to: "2001:db8:ffff::7/128", passes: 1}, frame: func(s *scene, i int) []byte {
		f := cases.UDP(s.router, cases.MAC1, cases.One6, x6, 8)
		options := append([]byte{17, 15, 5, 2, 0, 0}, make([]byte, 122)...) // a router alert, then padding of one byte
		f[ip6At+5] += byte(len(options))
		f[ip6At+6] = 0
		return append(append(append([]byte{}, f[:l4At6]...), options...), f[l4At6:]...)
	}},
	{parts: []string{"72 SYN, UDP"}, tool: tool{args: "new flows", drops: "limit-new-flows", passes: 1}, frame: func(s *scene, i int) []byte {
		if i%2 == 0 {
			return put(cases.UDP(s.router, cases.MAC1, cases.One4, x4, 8), l4At4, rand.Uint32(), 4)
		}
		return put(cases.TCP(s.router, cases.MAC1, netip.AddrPortFrom(cases.One4, 1), netip.AddrPortFrom(x4, 1), 2, 1, 0, 0), l4At4, rand.Uint32(), 4)
	}},
	{parts: []string{"72 SYN, UDP"}, tool: tool{args: "new flows, spoofed", from: internet, drops: "limit-new-flows"}, frame: func(s *scene, i int) []byte {
		src := netip.AddrFrom4([4]byte{203, 0, 113, byte(i)})
		return put(cases.TCP(s.lab.Dom0.MAC, s.lab.Gateway.MAC, netip.AddrPortFrom(src, 1), netip.AddrPortFrom(cases.One4, 443), 2, 1, 0, 0), l4At4, rand.Uint32(), 2)
	}},
	{parts: []string{"76 echo"}, tool: tool{args: "echo to the router", drops: "router-limit"}, frame: func(s *scene, i int) []byte {
		return cases.Echo(s.router, cases.MAC1, cases.One4, cases.Router4, false, 8)
	}},
	{parts: []string{"80 a flood"}, number: 100000, tool: tool{args: "forged sources", drops: "ip-binding martian-src"}, frame: func(s *scene, i int) []byte {
		return cases.UDP(s.router, cases.MAC1, []netip.Addr{cases.Two4, cases.Router4}[i%2], x4, 8)
	}},
}

// nd makes an ICMPv6 message of guest one's that stays on its link.
func nd(dst policy.MAC, to netip.Addr, typ byte, body []byte) []byte {
	f := cases.Echo(dst, cases.MAC1, policy.EUI64(cases.MAC1), to, false, len(body))
	f[ip6At+7] = 255
	f = f[:l4At6+4+len(body)]
	put(f, ip6At+4, uint32(4+len(body)), 2)
	f[l4At6] = typ
	copy(f[l4At6+4:], body)
	return seal(f)
}

func advertisement() []byte {
	return nd(policy.MulticastMAC(cases.AllNodes), cases.AllNodes, 134, []byte{64, 0, 0x23, 0x28, 0, 0, 0, 0, 0, 0, 0, 0})
}

func seal(f []byte) []byte { cases.Seal(f); return f }

// traces looks for the way to the internet, whose first hop is the router.
func traces(ctx context.Context, s *scene) error {
	hops, err := s.lab.Guest("three").Trace(ctx, x4, lab.TraceOptions{Max: 2})
	if err == nil && (len(hops) == 0 || !hops[0].IsValid()) {
		err = errors.New("the first hop did not answer the honest guest's trace")
	}
	return err
}

// long4 sends the internet what goes in fragments, and comes back in such.
func long4(ctx context.Context, s *scene) error {
	_, err := s.lab.Guest("three").Ping(ctx, x4, lab.PingOptions{Size: 5000})
	return err
}

// send floods while the honest guest, who has to find its gateway anew, opens connections to the internet.
func (f flood) send(ctx context.Context, t *testing.T, s *scene) (said []byte, lost, err error) {
	from := s.lab.Guest("one").Node
	if f.from == internet {
		from = s.lab.Gateway
	}
	to, err := from.Sender(from.Link)
	if err != nil {
		return nil, nil, err
	}
	defer to.Close()
	frames := make([][]byte, cmp.Or(f.number, times(4000, 100000)))
	for i := range frames {
		frames[i] = f.frame(s, i)
	}
	three := s.lab.Guest("three")
	if err := three.HurryNeighbours(three.Link); err != nil {
		return nil, nil, err
	}
	served := make(chan error, 1)
	go func() { served <- f.serve(ctx, s, times(4, 1000)) }()
	start, sent, refused := time.Now(), 0, 0
	for end := false; sent < len(frames) || !end; sent++ {
		if to.Send(frames[sent%len(frames)]) != nil { // a queue is full
			refused++
		}
		if !end && len(served) > 0 {
			end = true
		}
	}
	t.Logf("%d frames, %.0f a second, %d of them refused by the sender's own link", sent, float64(sent)/time.Since(start).Seconds(), refused)
	return nil, <-served, nil
}

// serve is what the honest guest has of the internet meanwhile: new connections of both families.
func (f flood) serve(ctx context.Context, s *scene, connections int) error {
	three := s.lab.Guest("three")
	for n := 0; n < connections; n++ {
		timed, cancel := context.WithTimeout(ctx, s.patience())
		err := three.Transfer(timed, netip.AddrPortFrom([]netip.Addr{x4, x6}[n%2], 443), 1000)
		if err == nil && f.honest != nil && n%4 == 0 {
			err = f.honest(timed, s)
		}
		cancel()
		if err != nil {
			return fmt.Errorf("connection %d of %d: %w", n, connections, err)
		}
	}
	return nil
}

// runFloods sends the floods to a router, "" for dom0's kernel, and tells what came of each.
func runFloods(t *testing.T, exe string) []*outcome {
	var s *scene
	out := make([]*outcome, len(floods))
	t.Cleanup(func() {
		if s != nil {
			wire.Must(t, s.close())
		}
	})
	for i, f := range floods {
		name := "udrouter"
		if exe == "" {
			name = "kernel"
		}
		t.Run(fmt.Sprintf("%s/flood of %s", name, f.args), func(t *testing.T) {
			if s == nil {
				var err error
				s, err = newScene(t.Context(), exe)
				wire.Must(t, err)
			}
			o := s.suffer(wire.Context(t), f.tool, func() ([]byte, error, error) { return f.send(wire.Context(t), t, s) })
			o.sent = max(o.sent, 1)
			out[i] = &o
			t.Log(o.detail())
			if exe == "" {
				wire.Must(t, o.err)
			} else {
				for _, why := range o.bad(f.tool) {
					t.Error(why)
				}
			}
			if o.lost != nil || len(o.believed) > 0 {
				wire.Must(t, s.close())
				s = nil
			}
		})
	}
	return out
}
