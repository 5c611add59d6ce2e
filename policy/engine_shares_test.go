package policy

import (
	"net/netip"
	"testing"
	"time"
)

// sharing is an engine with so many guests, 192.0.2.10 and so on, which accept everything.
func sharing(t *testing.T, guests, flows int, l Limits) (*Engine, []*Guest) {
	t.Helper()
	open := &Policy{Name: "open", Egress: Chain{Default: Accept}, Ingress: Chain{Default: Accept}, Limits: l}
	var all []GuestPolicy
	var list []*Guest
	for i := range guests {
		g := &Guest{ID: i, Side: SideGuest + Side(i), Name: string(rune('a' + i)), Addrs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + i)}), 32)}}
		all, list = append(all, GuestPolicy{g, open}), append(list, g)
	}
	e, err := NewEngine(all, nil, flows)
	if err != nil {
		t.Fatal(err)
	}
	return e, list
}

// decide opens a flow by a SYN of its own, from a guest or to it.
func decide(t *testing.T, e *Engine, g *Guest, n int, in bool) Reason {
	t.Helper()
	ends := numbered(g.Addrs[0].Addr().As4()[3], n)
	guest, uplink := End{ZoneGuest, g}, End{Zone: ZoneUplink}
	if in {
		ends.src, ends.dst = ends.dst, ends.src
		return e.Decide(ends.packet(t, false, ProtoTCP, tcpBytes(tcpSYN, 0, 0, 1000, 0)), uplink, guest, time.Hour).Reason
	}
	return e.Decide(ends.packet(t, false, ProtoTCP, tcpBytes(tcpSYN, 0, 0, 1000, 0)), guest, uplink, time.Hour).Reason
}

// Two guests have taken all that there is to take: the third still opens connections, and is connected to.
func TestSharesOfFlows(t *testing.T) {
	e, g := sharing(t, 3, 1200, Limits{})
	for i := range 3000 {
		for _, g := range g[:2] {
			if r := decide(t, e, g, i, false); r != None {
				t.Fatal(r)
			}
		}
	}
	if n := e.Budget().Used(); n != 1000 {
		t.Fatalf("%d flows of two guests, want all but what is kept for the third", n)
	}
	for i := range 150 {
		if r := decide(t, e, g[2], 2*i, false); r != None {
			t.Fatal(r)
		}
		if r := decide(t, e, g[2], 2*i+1, true); r != None {
			t.Fatal(r)
		}
	}
	if a, b, c := e.Flows(g[0]).Len(), e.Flows(g[1]).Len(), e.Flows(g[2]).Len(); a+b != 1000 || c != 200 || a < 200 || b < 200 {
		t.Errorf("%d, %d and %d flows", a, b, c)
	}
}
