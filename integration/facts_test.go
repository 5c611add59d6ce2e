package integration

import (
	"context"
	"encoding/binary"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/integration/lab"
	"udrouter/integration/wire"
	"udrouter/policy"
)

// facts are what netstack (N) and the kernel (F) get wrong, and the tests that send this router, on real links, what triggers it: rows
// of package cases by their reference, or tests of this package. package stack/netstackfacts shows each fact itself.
var facts = map[string][]func(*testing.T){
	"N1": nil, "N3": nil, "N5": nil, "N6": nil, "N9": nil, "N10": nil, "N16": nil,
	"N2":  {TestFlaps},
	"N4":  {TestPathMTU},
	"N7":  {TestGSO},
	"N11": {TestFlowsAreBounded},
	"N13": {TestScan, TestGatewayMoves},
	"N14": {TestTopologies},
	"N15": {TestErrorShares},

	"F4": nil, "F5": nil, "F7": nil, "F8": nil, "F11": nil, "F12": nil,
	"F1":  {TestFlaps},
	"F2":  {TestFlaps},
	"F3":  {TestMTUChanges},
	"F6":  {TestFlowsAreBounded},
	"F9":  {TestTopologies}, // "one sends as two, MAC and all"
	"F10": {TestDom0OnBridge},
}

// elsewhere are facts that no packet triggers: N8 is speed, N12 and N17 are parts of netstack that are not used.
var elsewhere = []string{"N8", "N12", "N17"}

func TestFactsHaveTests(t *testing.T) {
	rows := map[string]bool{}
	word := regexp.MustCompile(`\b[NF][0-9]+\b`)
	for _, c := range cases.All() {
		for _, name := range word.FindAllString(c.Ref, -1) {
			rows[name] = true
		}
	}
	for name, tests := range facts {
		if len(tests) == 0 && !rows[name] {
			t.Errorf("no row of package cases and no test sends what %s is about", name)
		}
	}
	if got, want := len(facts)+len(elsewhere), 17+12; got != want {
		t.Errorf("%d facts are listed, want %d", got, want)
	}
}

// Super-packets cross the router whole, both ways and in both families (N7): on the wire they would be many times as many.
func TestGSO(t *testing.T) {
	l := buildLab(t, "", lab.Options{})
	p := startRouter(t, l)
	const port, size = 443, 32 << 20
	g := l.Guests[0]
	for _, c := range []struct {
		name, link string
		from, to   *lab.Node
	}{{"up", l.Config.Uplink.Name, g.Node, l.Internet}, {"down", l.Config.Bridge.TAP, l.Internet, g.Node}} {
		_, err := c.to.ServeTCP(port)
		must(t, err)
		for _, a := range []netip.Addr{c.to.Addr4(), c.to.Addr6()} {
			sent := func() (packets, bytes uint64) {
				for _, link := range status(t, p).Links {
					if link.Name == c.link {
						return link.TxPackets, link.TxBytes
					}
				}
				t.Fatalf("no link %s", c.link)
				return
			}
			packets, bytes := sent()
			must(t, c.from.Transfer(testContext(t), netip.AddrPortFrom(a, port), size))
			p, b := sent()
			if p, b = p-packets, b-bytes; b < size || b/p < 2*1500 {
				t.Errorf("%s to %s: %d frames with %d bytes left by %s, %d bytes each", c.name, a, p, b, c.link, b/max(p, 1))
			}
		}
	}
}

// A guest that opens flow after flow has as many as its policy says, and the router no more memory for them than that (N11, F6).
func TestFlowsAreBounded(t *testing.T) {
	const most = 16384 // of the reference's policy
	w := wire.New(t, cases.Open(config.Reference))
	next := 0
	send := func(n int) {
		for range n {
			i := next
			next++
			f := cases.UDP(w.Net.Router, cases.MAC1, cases.One4, cases.X4, 8)
			binary.BigEndian.PutUint16(f[34:], uint16(1000+i))
			binary.BigEndian.PutUint16(f[40:], 0) // no checksum
			must(t, w.Send[cases.One].Send(f))
			if i%500 == 499 {
				w.Fence(cases.One, cases.X4)
			}
		}
	}
	send(5000)
	before, err := w.Proc.RSS()
	must(t, err)
	send(40000)
	after, err := w.Proc.RSS()
	must(t, err)
	if grown := int64(after.RSS) - int64(before.RSS); !wire.RaceEnabled && grown > most*256+4<<20 {
		t.Errorf("memory grew by %d KiB for %d flows at most", grown>>10, most)
	}
	if s := status(t, w.Proc); s.Domus[0].Flows != most || s.Domus[1].Flows > 10 {
		t.Errorf("the guest has %d flows, want %d; the other %d", s.Domus[0].Flows, most, s.Domus[1].Flows)
	}
}

// A scan of the guests' prefixes from the uplink and of neighbours by a guest asks nobody anything and evicts nobody (N13, F7).
func TestScan(t *testing.T) {
	w := wire.New(t, cases.Open(config.Reference))
	w.Settle(cases.Uplink)
	for _, p := range wire.Places {
		w.Take(p)
	}
	before := status(t, w.Proc).Drops[policy.UnboundDst.String()]
	const scan = 2000
	for i := range scan {
		dst := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 3, 0, 2, 0xff, 14: byte(i >> 8), 15: byte(i)})
		must(t, w.Send[cases.Uplink].Send(cases.UDP(w.Net.Eth0, w.Net.Gateway, cases.X6, dst, 8)))
		if i < 600 {
			src := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 3, 0, 2, 0xee, 14: byte(i >> 8), 15: byte(i)})
			must(t, w.Send[cases.One].Send(cases.NS(w.Net.Router, cases.MAC1, src, cases.LL1, cases.LL1, cases.MAC1)))
		}
		if i%250 == 249 {
			w.Fence(cases.Uplink, cases.Two4)
		}
	}
	w.Settle(cases.Uplink)
	for _, p := range wire.Places {
		if got := w.Take(p); len(got) > 0 {
			t.Errorf("%d frames came to %s, the first %x", len(got), p, got[0])
		}
	}
	if n := status(t, w.Proc).Drops[policy.UnboundDst.String()] - before; n != scan {
		t.Errorf("%d packets were dropped as %s, want %d", n, policy.UnboundDst, scan)
	}
}

// ICMP errors are a share of each guest's: one that has used up its own takes nothing from the other (N15).
func TestErrorShares(t *testing.T) {
	w := wire.New(t, cases.Open(config.Reference))
	const sent = 3000
	for range sent {
		must(t, w.Send[cases.One].Send(cases.UDP(w.Net.Router, cases.MAC1, cases.One4, cases.X4, 8, cases.TTL(1))))
	}
	w.Settle(cases.One)
	if n := len(w.Take(cases.One)); n == 0 || n >= sent/2 {
		t.Errorf("%d errors about %d packets", n, sent)
	}
	w.Take(cases.Two)
	must(t, w.Send[cases.Two].Send(cases.UDP(w.Net.Router, cases.MAC2, cases.Two4, cases.X4, 8, cases.TTL(1))))
	w.Settle(cases.Two)
	if n := len(w.Take(cases.Two)); n != 1 {
		t.Errorf("the other guest got %d errors, want 1", n)
	}
}

// The provider's router gets another MAC, and says so as routers do: packets follow long before the 53 seconds that netstack by itself
// takes (N13). A stranger's claim to be it changes nothing.
func TestGatewayMoves(t *testing.T) {
	l := buildLab(t, "", lab.Options{})
	startRouter(t, l)
	g, gw := l.Guests[0], l.Gateway
	for _, a := range []netip.Addr{l.Internet.Addr4(), l.Internet.Addr6()} {
		ping(t, g.Node, a)
	}
	s, err := gw.Sniff(gw.Link, lab.SniffOptions{Keep: isEcho})
	must(t, err)
	sender, err := gw.Sender(gw.Link)
	must(t, err)
	claim := func(mac policy.MAC) {
		must(t, sender.Send(cases.ARP(policy.BroadcastMAC, mac, 1, mac, cases.Gateway4, policy.MAC{}, cases.Gateway4)))
		must(t, sender.Send(cases.NA(policy.MAC{0x33, 0x33, 0, 0, 0, 1}, mac, cases.Gateway6, cases.AllNodes, cases.Gateway6, mac, policy.NARouter|policy.NAOverride)))
	}
	echoesTo := func(mac policy.MAC) int {
		return s.Count(func(f lab.Frame) bool { return !f.Outgoing && policy.MAC(f.Data[:6]) == mac })
	}
	stranger := policy.MAC{2, 0, 0, 0, 0x66, 0x66}
	claim(stranger)
	for range 3 {
		for _, a := range []netip.Addr{l.Internet.Addr4(), l.Internet.Addr6()} {
			ping(t, g.Node, a)
		}
	}
	if n := echoesTo(stranger); n > 0 {
		t.Errorf("%d packets went to a stranger who claimed to be the gateway", n)
	}
	moved := policy.MAC{2, 0, 0, 0, 0x77, 0x77}
	must(t, gw.SetLinkMAC(gw.Link, moved))
	claim(moved)
	ctx, cancel := context.WithTimeout(testContext(t), 30*time.Second)
	defer cancel()
	for _, a := range []netip.Addr{l.Internet.Addr4(), l.Internet.Addr6()} {
		if _, err := g.Ping(ctx, a, lab.PingOptions{Every: 100 * time.Millisecond}); err != nil {
			t.Errorf("%s does not answer by the gateway's new MAC: %v", a, err)
		}
	}
	if n := echoesTo(moved); n == 0 {
		t.Error("no packet went to the gateway's new MAC")
	}
}

// A guest cannot reach dom0 on an address that the kernel would have made on the bridge, the vif or the TAP by itself (F10).
func TestDom0OnBridge(t *testing.T) {
	l := buildLab(t, "", lab.Options{})
	p := startRouter(t, l)
	g := l.Guests[0]
	for _, name := range []string{l.Config.Bridge.Name, g.Domu.Vif, l.Config.Bridge.TAP} {
		key := "net.ipv6.conf." + strings.ReplaceAll(name, ".", "/") + ".disable_ipv6"
		if v, err := l.Dom0.Sysctl(key); v != "1" || err != nil {
			t.Errorf("%s is %q, %v", key, v, err)
		}
	}
	s, err := g.Sniff(g.Link, lab.SniffOptions{Keep: func(f []byte) bool {
		var p policy.Packet
		return p.Parse(f, policy.Offload{}) == policy.None && (p.IsND() && p.ICMPType == policy.NeighborAdvertisement || p.Proto == policy.ProtoTCP)
	}})
	must(t, err)
	sender, err := g.Sender(g.Link)
	must(t, err)
	mac, err := l.Dom0.LinkMAC(l.Config.Bridge.Name)
	must(t, err)
	_, err = l.Dom0.ServeTCP(22)
	must(t, err)
	target, own := policy.EUI64(mac), policy.EUI64(g.MAC)
	to := policy.SolicitedNode(target)
	must(t, sender.Send(cases.NS(policy.MulticastMAC(to), g.MAC, own, to, target, g.MAC)))
	fd, err := g.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fd)
	index, err := g.LinkIndex(g.Link)
	must(t, err)
	// The neighbour is put there by hand, so that the SYN leaves whether or not anyone answers for the address.
	must(t, g.AddNeighbour(g.Link, target, mac))
	if err := unix.Connect(fd, &unix.SockaddrInet6{Addr: target.As16(), Port: 22, ZoneId: uint32(index)}); err != unix.EINPROGRESS {
		t.Fatalf("connecting: %v", err)
	}
	ping(t, g.Node, l.Internet.Addr6()) // what was sent before has been dealt with
	if n := s.Count(func(f lab.Frame) bool { return !f.Outgoing && policy.MAC(f.Data[6:12]) == mac }); n > 0 {
		t.Errorf("dom0 answered %d times on the bridge", n)
	}
	if out := s.Count(func(f lab.Frame) bool { return f.Outgoing && policy.MAC(f.Data[:6]) == mac }); out == 0 {
		t.Error("the SYN was not sent")
	}
	must(t, p.Stop())
}
