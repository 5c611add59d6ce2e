package router

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/policy"
	"udrouter/stack"
	"udrouter/stack/stacktest"
)

// ready is a router that knows its gateways and guests.
func ready(t testing.TB, src string) *sim {
	s := newSim(t, parseConfig(t, src), seedKernel())
	s.learn()
	s.newWorker(stack.Guests).appearedAll()
	s.quiet()
	return s
}

// quiet is how many frames have left since the last time.
func (s *sim) quiet() (n int) {
	for _, l := range s.links {
		n += len(l.Take())
	}
	return
}

// declared is where a frame ends by its own headers, 0 for what has no length.
func declared(f []byte) int {
	if len(f) < 34 {
		return 0
	}
	switch binary.BigEndian.Uint16(f[12:]) {
	case policy.EtherIPv4:
		return 14 + int(binary.BigEndian.Uint16(f[16:]))
	case policy.EtherIPv6:
		return 54 + int(binary.BigEndian.Uint16(f[18:]))
	case policy.EtherARP:
		return 42
	}
	return 0
}

// Whatever passes or is answered does neither, and is counted, at every length that is less than its headers declare.
func TestTruncated(t *testing.T) {
	s := ready(t, cases.Open(config.Reference))
	seen := 0
	for _, c := range cases.All() {
		if len(c.Out) == 0 {
			continue
		}
		for _, sent := range append([]cases.Sent{{From: c.From, Frame: c.Frame}}, c.Then...) {
			f, before := sent.Frame(s.net), s.counts()
			end := declared(f)
			if end == 0 || end > len(f) {
				continue
			}
			seen++
			for n := range end {
				s.send(side(sent.From), f[:n])
			}
			reason := policy.Malformed
			if f[12] == 8 && f[13] == 6 {
				reason = policy.ARPMalformed
				before[policy.Malformed] += 14
				before[reason] -= 14
			}
			before[reason] += uint64(end)
			if got := s.counts(); s.quiet() != 0 || !maps.Equal(got, before) {
				t.Fatalf("%s: cut off, something passed or was counted otherwise: %v, want %v", c.Name, got, before)
			}
		}
	}
	if seen < 100 {
		t.Errorf("only %d frames were cut", seen)
	}
}

// protocol is a packet of any protocol, or IPv6 header, that is in order. What follows an IPv6 extension header is nothing.
func protocol(dst, src policy.MAC, from, to netip.Addr, proto int) []byte {
	payload := append([]byte{59, 0, 2, 0, 0, 0, 0, 0}, make([]byte, 32)...)
	switch proto {
	case policy.ProtoTCP:
		return cases.TCP(dst, src, netip.AddrPortFrom(from, 40000), netip.AddrPortFrom(to, 443), 2, 999, 0, 0)
	case policy.ProtoUDP:
		return cases.UDP(dst, src, from, to, 8)
	case policy.ProtoICMP:
		payload[0] = 8
	case policy.ProtoICMPv6:
		payload[0] = 128
	case policy.ProtoHopByHop, policy.ProtoDstOpts:
		payload = append([]byte{59, 0, 1, 4, 0, 0, 0, 0}, make([]byte, 32)...) // PadN
	case policy.ProtoFragment:
		payload[2] = 0 // atomic
	}
	if from.Is4() {
		f := cases.UDP(dst, src, from, to, len(payload)-8)
		f[23] = byte(proto)
		copy(f[34:], payload)
		binary.BigEndian.PutUint16(f[24:], 0)
		binary.BigEndian.PutUint16(f[24:], ^policy.FoldChecksum(policy.Sum(f[14:34], 0)))
		return f
	}
	f := cases.UDP(dst, src, from, to, len(payload)-8)
	f[20] = byte(proto)
	copy(f[54:], payload)
	return f
}

// Each of the 256 protocols is itself and no other, from either side and in either family: forwarded where nothing refuses it, refused where
// no rule admits it, and never more than a flow.
func TestEveryProtocol(t *testing.T) {
	for _, enforced := range []bool{false, true} {
		src := cases.Open(config.Reference)
		if enforced {
			src = string(config.Reference)
		}
		for _, from := range []cases.Place{cases.One, cases.Uplink} {
			for _, v6 := range []bool{false, true} {
				s := ready(t, src)
				for proto := range 256 {
					s.everyProtocol(fmt.Sprintf("protocol %d, IPv6 %v, from %s, enforced %v", proto, v6, from, enforced), from, v6, enforced, proto)
				}
			}
		}
	}
}

func (s *sim) everyProtocol(name string, from cases.Place, v6, enforced bool, proto int) {
	guest, x := cases.One4, cases.X4
	if v6 {
		guest, x = cases.One6, cases.X6
	}
	f, out, want := protocol(s.RouterMAC, cases.MAC1, guest, x, proto), stack.UplinkSide, [2]policy.MAC{gatewayMAC, eth0MAC}
	if from == cases.Uplink {
		f, out, want = protocol(eth0MAC, gatewayMAC, x, guest, proto), stack.Guests, [2]policy.MAC{cases.MAC1, s.RouterMAC}
	}
	reason := policy.None
	switch {
	case v6 && proto == policy.ProtoICMP, !v6 && proto == policy.ProtoICMPv6: // the other family's
		reason = policy.NoFlow
	case proto == policy.ProtoTCP || proto == policy.ProtoICMP || proto == policy.ProtoICMPv6: // which the reference admits
	case enforced && from == cases.Uplink:
		reason = policy.IngressPolicy
	}
	wantCounts, table := s.counts(), s.current.Load().engine.Flows(s.current.Load().Guests[0])
	flows := table.Len()
	s.send(side(from), f)
	got, counted := s.links[out].Take(), s.counts()
	flows = table.Len() - flows
	if reason != policy.None {
		wantCounts[reason]++
	}
	if !maps.Equal(counted, wantCounts) {
		s.t.Errorf("%s: counted %v, want %v", name, counted, wantCounts)
	}
	// An extension header is none: what is behind each is the flow of protocol 59.
	if passed := reason == policy.None; passed && (len(got) != 1 || !bytes.Equal(got[0].Frame, cases.Forwarded(f, want[0], want[1])) || flows > 1) || !passed && len(got)+flows != 0 {
		s.t.Errorf("%s: %d frames, %d flows", name, len(got), flows)
	}
	if n := s.quiet(); n != 0 {
		s.t.Errorf("%s: %d more frames", name, n)
	}
}

// A sweep of all protocols takes no more flows than the guest may have, whoever does it, and nothing from the other guest.
func TestProtocolSweepIsBounded(t *testing.T) {
	const most = 64
	for _, from := range []cases.Place{cases.One, cases.Uplink} {
		s := ready(t, strings.Replace(cases.Open(config.Reference), "flows = 16384", fmt.Sprintf("flows = %d", most), 1))
		for proto := range 256 {
			for _, v6 := range []bool{false, true} {
				guest, x := cases.One4, cases.X4
				if v6 {
					guest, x = cases.One6, cases.X6
				}
				if from == cases.Uplink {
					s.send(stack.UplinkSide, protocol(eth0MAC, gatewayMAC, x, guest, proto))
				} else {
					s.send(stack.Guests, protocol(s.RouterMAC, cases.MAC1, guest, x, proto))
				}
			}
		}
		one, two := s.current.Load().Guests[0], s.current.Load().Guests[1]
		if n := s.current.Load().engine.Flows(one).Len(); n != most || s.current.Load().engine.Flows(two).Len() != 0 || two.Counters.DropTotal() != 0 {
			t.Errorf("from %s: %d flows, want %d; the other guest has %d and lost %d", from, n, most, s.current.Load().engine.Flows(two).Len(), two.Counters.DropTotal())
		}
		s.quiet()
		s.send(stack.Guests, cases.UDP(s.RouterMAC, cases.MAC2, cases.Two4, cases.X4, 8))
		if n := s.quiet(); n != 1 {
			t.Errorf("from %s: %d frames of the other guest pass", from, n)
		}
	}
}

// Sources drawn at random: not one that is another's leaves, in any protocol, and none is answered.
func TestRandomSources(t *testing.T) {
	s := ready(t, cases.Open(config.Reference))
	const seed1, seed2, n = 17, 26, 20000
	r := rand.New(rand.NewPCG(seed1, seed2))
	for range n {
		var a4 [4]byte
		var a6 [16]byte
		binary.BigEndian.PutUint32(a4[:], r.Uint32())
		binary.BigEndian.PutUint64(a6[:], r.Uint64())
		binary.BigEndian.PutUint64(a6[8:], r.Uint64())
		if r.IntN(2) == 0 { // near the guests' own
			copy(a4[:], []byte{192, 0, 2})
			copy(a6[:], []byte{0x20, 1, 0xd, 0xb8, 0, 3, 0, 2})
		}
		src4, src6 := netip.AddrFrom4(a4), netip.AddrFrom16(a6)
		if src4 == cases.One4 || src6 == cases.One6 || src6.IsLinkLocalUnicast() {
			continue
		}
		proto := r.IntN(256)
		s.send(stack.Guests, protocol(s.RouterMAC, cases.MAC1, src4, cases.X4, proto), protocol(s.RouterMAC, cases.MAC1, src6, cases.X6, proto))
		if n := s.quiet(); n != 0 {
			t.Fatalf("%v or %v, protocol %d: %d frames", src4, src6, proto, n)
		}
	}
	c := s.counts()
	if total := c[policy.IPBinding] + c[policy.IP6Binding] + c[policy.MartianSrc]; total < 2*n*99/100 || len(c) != 3 {
		t.Errorf("counted %v", c)
	}
}

// gridFile is the seed's network where guest two has prefixes, of both families.
var gridFile = strings.NewReplacer("PROXY", "", "\"192.0.2.11\"", "\"192.0.2.64/26\"", "\"2001:db8:3:2:1::11\"", "\"2001:db8:3:2:2::/80\", \"2001:db8:3:2:1::11\"").Replace(seedFile)

// A guest that is bound to addresses may use these, and one that is bound to prefixes all of these and nothing beside them, by its own MAC
// and by no other; neighbours learn of no others from ARP and ND either. Toward the guest it is the same.
func TestBindingGrid(t *testing.T) {
	type who = struct {
		mac   policy.MAC
		owner int // index of the guest, -1: nobody
	}
	macs := []who{{cases.MAC1, 0}, {cases.MAC2, 1}, {cases.Nobody, -1}}
	for addr, owner := range map[string]int{
		"192.0.2.10": 0, "192.0.2.9": -1, "192.0.2.11": -1, "192.0.2.63": -1, "192.0.2.64": 1, "192.0.2.77": 1, "192.0.2.127": 1, "192.0.2.128": -1, "192.0.3.64": -1,
		"2001:db8:3:2:1::10": 0, "2001:db8:3:2:1::f": -1, "2001:db8:3:2:1::11": 1, "2001:db8:3:2:1::12": -1, "2001:db8:3:2:216:3eff:fe00:1": -1, "2001:db8:3:2:216:3eff:fe00:2": -1,
		"2001:db8:3:2:1:ffff:ffff:ffff": -1, "2001:db8:3:2:2::": 1, "2001:db8:3:2:2::1": 1, "2001:db8:3:2:2:16:3eff:fe02": 1, "2001:db8:3:2:2:7d3a:91c2:5be0": 1,
		"2001:db8:3:2:2:ffff:ffff:ffff": 1, "2001:db8:3:2:3::": -1, "2001:db8:3:3:2::1": -1,
	} {
		a := netip.MustParseAddr(addr)
		x, refused := cases.X4, policy.IPBinding
		if a.Is6() {
			x, refused = cases.X6, policy.IP6Binding
		}
		for _, m := range macs {
			want, reason := m.owner >= 0 && m.owner == owner, refused
			if m.owner < 0 {
				reason = policy.MACBinding
			}
			s := ready(t, gridFile)
			s.send(stack.Guests, cases.UDP(s.RouterMAC, m.mac, a, x, 8), cases.Echo(s.RouterMAC, m.mac, a, x, false, 8), protocol(s.RouterMAC, m.mac, a, x, 253))
			if n, c := s.quiet(), s.counts(); want && (n != 3 || len(c) != 0) || !want && (n != 0 || len(c) != 1 || c[reason] != 3) {
				t.Errorf("%v from %v: %d frames left, counted %v", a, m.mac, n, c)
			}
			s = ready(t, gridFile)
			if a.Is4() {
				reason = policy.ARPSpoof
				s.send(stack.Guests, cases.ARP(policy.BroadcastMAC, m.mac, 1, m.mac, a, policy.MAC{}, cases.Router4))
			} else {
				to := policy.SolicitedNode(cases.Router6)
				s.send(stack.Guests, cases.NS(policy.MulticastMAC(to), m.mac, a, to, cases.Router6, m.mac))
			}
			if m.owner < 0 {
				reason = policy.MACBinding
			}
			if n, c := s.quiet(), s.counts(); want && (n != 1 || len(c) != 0) || !want && (n != 0 || c[reason] != 1) {
				t.Errorf("%v from %v asks: %d answers, counted %v", a, m.mac, n, c)
			}
		}
		s := ready(t, gridFile)
		s.send(stack.UplinkSide, cases.UDP(eth0MAC, gatewayMAC, x, a, 8))
		got := s.links[stack.Guests].Take()
		if (len(got) == 1) != (owner >= 0) || owner >= 0 && policy.MAC(got[0].Frame[:6]) != macs[owner].mac {
			t.Errorf("to %v: %d frames; %v", a, len(got), s.counts())
		}
	}
}

// A partial checksum goes on as it came, from link to link; what the kernel makes of it there is right.
func TestPartialChecksums(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, tcp := range []bool{false, true} {
			for _, c := range []struct {
				name     string
				from, to stack.Side
				dst      func() netip.Addr
			}{
				{"guest to internet", stack.Guests, stack.UplinkSide, func() netip.Addr { return family(v6, cases.X4, cases.X6) }},
				{"guest to guest", stack.Guests, stack.Guests, func() netip.Addr { return family(v6, cases.Two4, cases.Two6) }},
				{"internet to guest", stack.UplinkSide, stack.Guests, func() netip.Addr { return family(v6, cases.One4, cases.One6) }},
				{"dom0 to guest", stack.Host, stack.Guests, func() netip.Addr { return family(v6, cases.One4, cases.One6) }},
			} {
				s := ready(t, cases.Open(config.Reference))
				dst, src := s.RouterMAC, cases.MAC1
				from := family(v6, cases.One4, cases.One6)
				switch c.from {
				case stack.UplinkSide:
					dst, src, from = eth0MAC, gatewayMAC, family(v6, cases.X4, cases.X6)
				case stack.Host:
					dst, src, from = policy.MAC{}, policy.MAC{}, family(v6, cases.Dom04, cases.Router6)
				}
				f, o := partial(dst, src, from, c.dst(), tcp)
				s.newWorker(c.from).batch([]*stack.Frame{stacktest.Frame(f, o)})
				got := s.links[c.to].Take()
				if len(got) != 1 || got[0].Offload != o || !bytes.Equal(got[0].Frame[o.CsumStart:], f[o.CsumStart:]) {
					t.Errorf("%s, IPv6 %v, TCP %v: sent %+v, want one with %+v; %v", c.name, v6, tcp, got, o, s.counts())
					continue
				}
				out := stacktest.Frame(got[0].Frame, got[0].Offload)
				stack.CompleteChecksum(out)
				if !rightChecksum(t, out.Bytes()) {
					t.Errorf("%s, IPv6 %v, TCP %v: the checksum is wrong", c.name, v6, tcp)
				}
			}
		}
	}
}

func family(v6 bool, a4, a6 netip.Addr) netip.Addr {
	if v6 {
		return a6
	}
	return a4
}

// partial is UDP, or a SYN, whose checksum holds the pseudo-header's sum only.
func partial(dst, src policy.MAC, from, to netip.Addr, tcp bool) ([]byte, policy.Offload) {
	l4, o := 34, policy.Offload{Flags: policy.NeedsCsum, CsumOffset: 6}
	if from.Is6() {
		l4 = 54
	}
	f, proto := cases.UDP(dst, src, from, to, 100), uint8(policy.ProtoUDP)
	if tcp {
		f, proto, o.CsumOffset = cases.TCP(dst, src, netip.AddrPortFrom(from, 40000), netip.AddrPortFrom(to, 443), 2, 999, 0, 0), policy.ProtoTCP, 16
	}
	o.CsumStart = uint16(l4)
	binary.BigEndian.PutUint16(f[l4+int(o.CsumOffset):], policy.FoldChecksum(policy.PseudoSum(from, to, proto, len(f)-l4)))
	return f, o
}

func rightChecksum(t testing.TB, f []byte) bool {
	t.Helper()
	var p policy.Packet
	if r := p.Parse(f, policy.Offload{}); r != policy.None {
		t.Fatal(r)
	}
	l4 := p.Frame[p.L4:]
	return policy.FoldChecksum(policy.Sum(l4, policy.PseudoSum(p.Src, p.Dst, p.Proto, len(l4)))) == 0xffff
}
