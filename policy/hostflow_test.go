package policy

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var dom0 = netip.MustParseAddr("192.0.1.3")

// between makes a parsed packet with other addresses.
func between(t testing.TB, src, dst netip.Addr, proto uint8, l4 []byte, edit func(ip []byte)) *Packet {
	t.Helper()
	p := new(Packet)
	f := v4(proto, l4, func(ip []byte) {
		copy(ip[12:], src.AsSlice())
		copy(ip[16:], dst.AsSlice())
		if edit != nil {
			edit(ip)
		}
	})
	if r := p.Parse(f, Offload{}); r != None {
		t.Fatal(r)
	}
	return p
}

func ports(b []byte, src, dst uint16) []byte {
	binary.BigEndian.PutUint16(b, src)
	binary.BigEndian.PutUint16(b[2:], dst)
	return b
}

func TestHostFlows(t *testing.T) {
	guest, other := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("192.0.2.11")
	echo := func(typ byte) []byte { return []byte{typ, 0, 0, 0, 0, 7, 0, 1} }
	quoted := func(src, dst netip.Addr, sp, dp uint16) []byte {
		inner := between(t, src, dst, 17, ports(udp(0), sp, dp), nil)
		return append([]byte{3, 3, 0, 0, 0, 0, 0, 0}, inner.Frame[EthernetLen:]...)
	}
	fragment := func(field uint16) func([]byte) {
		return func(ip []byte) { binary.BigEndian.PutUint16(ip[4:], 77); binary.BigEndian.PutUint16(ip[6:], field) }
	}
	open := func(proto uint8, l4 []byte) *Packet { return between(t, dom0, guest, proto, l4, nil) }
	for _, c := range []struct {
		name   string
		opened []*Packet
		after  time.Duration
		came   []*Packet // all but the last prepare
		want   bool
	}{
		{"nothing opened", nil, 0, []*Packet{between(t, guest, dom0, 6, ports(tcp(2), 80, 4000), nil)}, false},
		{"TCP", []*Packet{open(6, ports(tcp(2), 4000, 80))}, 0, []*Packet{between(t, guest, dom0, 6, ports(tcp(0x12), 80, 4000), nil)}, true},
		{"TCP, another port", []*Packet{open(6, ports(tcp(2), 4000, 80))}, 0, []*Packet{between(t, guest, dom0, 6, ports(tcp(0x12), 80, 4001), nil)}, false},
		{"TCP, another guest", []*Packet{open(6, ports(tcp(2), 4000, 80))}, 0, []*Packet{between(t, other, dom0, 6, ports(tcp(0x12), 80, 4000), nil)}, false},
		{"TCP, as UDP", []*Packet{open(6, ports(tcp(2), 4000, 80))}, 0, []*Packet{between(t, guest, dom0, 17, ports(udp(0), 80, 4000), nil)}, false},
		{"TCP, idle for two hours", []*Packet{open(6, ports(tcp(2), 4000, 80))}, 2 * time.Hour, []*Packet{between(t, guest, dom0, 6, ports(tcp(0x10), 80, 4000), nil)}, true},
		{"TCP, idle for three hours", []*Packet{open(6, ports(tcp(2), 4000, 80))}, 3 * time.Hour, []*Packet{between(t, guest, dom0, 6, ports(tcp(0x10), 80, 4000), nil)}, false},
		{"TCP, closed long ago", []*Packet{open(6, ports(tcp(2), 4000, 80)), open(6, ports(tcp(1), 4000, 80))}, 5 * time.Minute, []*Packet{between(t, guest, dom0, 6, ports(tcp(0x10), 80, 4000), nil)}, false},
		{"TCP, closed just now", []*Packet{open(6, ports(tcp(2), 4000, 80)), open(6, ports(tcp(1), 4000, 80))}, time.Minute, []*Packet{between(t, guest, dom0, 6, ports(tcp(0x11), 80, 4000), nil)}, true},
		{"UDP", []*Packet{open(17, ports(udp(0), 4000, 53))}, 0, []*Packet{between(t, guest, dom0, 17, ports(udp(5), 53, 4000), nil)}, true},
		{"UDP, later", []*Packet{open(17, ports(udp(0), 4000, 53))}, 6 * time.Minute, []*Packet{between(t, guest, dom0, 17, ports(udp(5), 53, 4000), nil)}, false},
		{"echo", []*Packet{open(1, echo(8))}, 0, []*Packet{between(t, guest, dom0, 1, echo(0), nil)}, true},
		{"echo request the other way", []*Packet{open(1, echo(8))}, 0, []*Packet{between(t, guest, dom0, 1, echo(8), nil)}, false},
		{"dom0's echo reply opens nothing", []*Packet{open(1, echo(0))}, 0, []*Packet{between(t, guest, dom0, 1, echo(0), nil)}, false},
		{"unreachable about what was sent", []*Packet{open(17, ports(udp(0), 4000, 53))}, 0, []*Packet{between(t, guest, dom0, 1, quoted(dom0, guest, 4000, 53), nil)}, true},
		{"unreachable about what was not sent", []*Packet{open(17, ports(udp(0), 4000, 53))}, 0, []*Packet{between(t, guest, dom0, 1, quoted(dom0, guest, 4000, 54), nil)}, false},
		{"unreachable about somebody else's", []*Packet{open(17, ports(udp(0), 4000, 53))}, 0, []*Packet{between(t, guest, dom0, 1, quoted(other, guest, 4000, 53), nil)}, false},
		{"unreachable about another guest's", []*Packet{open(17, ports(udp(0), 4000, 53))}, 0, []*Packet{between(t, other, dom0, 1, quoted(dom0, guest, 4000, 53), nil)}, false},
		{"unreachable with a cut quote", []*Packet{open(17, ports(udp(0), 4000, 53))}, 0, []*Packet{between(t, guest, dom0, 1, quoted(dom0, guest, 4000, 53)[:20], nil)}, false},
		{"fragments of an answer", []*Packet{open(17, ports(udp(0), 4000, 53))}, 0, []*Packet{between(t, guest, dom0, 17, ports(udp(8), 53, 4000), fragment(0x2000)), between(t, guest, dom0, 17, make([]byte, 9), fragment(2))}, true},
		{"a fragment without its first", []*Packet{open(17, ports(udp(0), 4000, 53))}, 0, []*Packet{between(t, guest, dom0, 17, make([]byte, 9), fragment(2))}, false},
		{"SCTP by addresses", []*Packet{open(132, make([]byte, 12))}, 0, []*Packet{between(t, guest, dom0, 132, make([]byte, 12), nil)}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := NewHostFlows()
			now := time.Minute
			for _, p := range c.opened {
				h.Opened(p, now)
			}
			var got bool
			for _, p := range c.came {
				got = admits(h, p, now+c.after)
			}
			if got != c.want {
				t.Errorf("admitted %v", got)
			}
		})
	}
}

// Memory is bounded, and what was used last stays.
func TestHostFlowsBound(t *testing.T) {
	h := NewHostFlows()
	guest := netip.MustParseAddr("192.0.2.10")
	for i := range MaxHostFlows + 1000 {
		h.Opened(between(t, dom0, guest, 6, ports(tcp(2), uint16(i), uint16(i>>16+1)), nil), time.Minute)
	}
	if h.Len() != MaxHostFlows {
		t.Errorf("%d flows, want %d", h.Len(), MaxHostFlows)
	}
	last := MaxHostFlows + 999
	if !admits(h, between(t, guest, dom0, 6, ports(tcp(0x12), uint16(last>>16+1), uint16(last)), nil), time.Minute) {
		t.Error("the flow that was opened last is gone")
	}
	if admits(h, between(t, guest, dom0, 6, ports(tcp(0x12), 1, 0), nil), time.Minute) {
		t.Error("the oldest flow is still there")
	}
}

// A guest that sends more first fragments than it may loses its own, and nothing of dom0's with others.
func TestHostFragmentsBound(t *testing.T) {
	h := NewHostFlows()
	one, two := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("192.0.2.11")
	h.Opened(between(t, dom0, one, 17, ports(udp(0), 4000, 53), nil), time.Minute)
	h.Opened(between(t, dom0, two, 17, ports(udp(0), 4000, 53), nil), time.Minute)
	piece := func(src netip.Addr, id int, field uint16) *Packet {
		return between(t, src, dom0, 17, ports(udp(8), 53, 4000), func(ip []byte) {
			binary.BigEndian.PutUint16(ip[4:], uint16(id))
			binary.BigEndian.PutUint16(ip[6:], field)
		})
	}
	if !admits(h, piece(two, 7, 0x2000), time.Minute) {
		t.Fatal("a first fragment is not admitted")
	}
	for i := range MaxHostFlows + 1 {
		if !admits(h, piece(one, i, 0x2000), time.Minute+time.Duration(i)) {
			t.Fatal("a first fragment is not admitted")
		}
	}
	if h.Len() != 2 || admits(h, piece(one, 0, 2), 2*time.Minute-hostFragIdle) || !admits(h, piece(one, MaxHostFlows, 2), time.Minute) {
		t.Errorf("%d flows; the oldest fragment stays, or the latest went", h.Len())
	}
	if !admits(h, piece(two, 7, 2), time.Minute) || admits(h, piece(two, 7, 2), 2*time.Minute) {
		t.Error("the other guest's datagram went, or stayed too long")
	}
}

var testGuests = map[netip.Addr]*Guest{
	netip.MustParseAddr("192.0.2.10"): {Name: "one"},
	netip.MustParseAddr("192.0.2.11"): {Name: "two"},
}

// admits asks for a packet of the guest whose address it has.
func admits(h *HostFlows, p *Packet, now time.Duration) bool {
	from := testGuests[p.Src]
	return h.Admits(p, from, func(a netip.Addr) bool { return testGuests[a] == from }, now)
}

// The table and an obvious search agree about whose an address is.
func TestBindings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var guests []*Guest
		seen := map[netip.Prefix]bool{}
		for i := range rapid.IntRange(1, 20).Draw(t, "guests") {
			g := &Guest{Name: string(rune('a' + i)), MAC: MAC{0, 0x16, 0x3e, 0, 0, byte(i)}}
			for range rapid.IntRange(0, 4).Draw(t, "addresses") {
				bits := rapid.SampledFrom([]int{24, 26, 28, 30, 32}).Draw(t, "bits")
				p := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, rapid.Byte().Draw(t, "host")}), bits).Masked()
				if !seen[p] {
					seen[p] = true
					g.Addrs = append(g.Addrs, p)
				}
			}
			guests = append(guests, g)
		}
		b, err := NewBindings(nil, guests)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 256 {
			a := netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
			var want *Guest
			best := -1
			for _, g := range guests {
				for _, p := range g.Addrs {
					if p.Contains(a) && p.Bits() > best {
						want, best = g, p.Bits()
					}
				}
			}
			if got := b.ByAddr(a); got != want {
				t.Fatalf("%v is %v's, want %v's", a, got, want)
			}
		}
	})
}

func TestLinkLocals(t *testing.T) {
	one, two := &Guest{Name: "one", MAC: MAC{0, 0x16, 0x3e, 0, 0, 1}}, &Guest{Name: "two", MAC: MAC{0, 0x16, 0x3e, 0, 0, 2}, Addrs: []netip.Prefix{netip.MustParsePrefix("fe80::2/128")}}
	b, err := NewBindings(nil, []*Guest{one, two})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		g    *Guest
		addr string
		want bool
	}{
		{one, "fe80::77", true}, {one, EUI64(one.MAC).String(), true}, {one, EUI64(two.MAC).String(), false}, {one, "fe80::2", false},
		{two, "fe80::2", true}, {two, "fe80::77", false}, {two, EUI64(two.MAC).String(), false},
	} {
		if got := b.MayUseLinkLocal(c.g, netip.MustParseAddr(c.addr)); got != c.want {
			t.Errorf("%s may use %s: %v", c.g.Name, c.addr, got)
		}
	}
	// First come, first served, and a bounded number each: the oldest claim goes.
	l := NewLinkLocals()
	addr := func(i int) netip.Addr { return netip.AddrFrom16([16]byte{0xfe, 0x80, 15: byte(i)}) }
	for i := range MaxLinkLocals + 1 {
		if !l.claim(one, addr(i+10)) {
			t.Errorf("claim %d was refused", i)
		}
	}
	if l.claim(two, addr(11)) {
		t.Error("an address that is in use was taken over")
	}
	if _, ok := l.Owner(addr(10)); ok || len(l.owner) != MaxLinkLocals {
		t.Errorf("%d claims are remembered", len(l.owner))
	}
}
