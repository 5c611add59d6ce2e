package policy

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"
	"testing"
	"time"
)

// piece is a fragment of a datagram: the bytes from a to b of what is behind the IP header or the Fragment header.
type piece struct {
	a, b int
	last bool
	want string // "ok", a reason, or "miss"
}

func fragmentOf(t testing.TB, e flowEnds, proto uint8, id uint32, f piece) *Packet {
	t.Helper()
	l4 := make([]byte, f.b-f.a)
	if f.a == 0 {
		switch proto {
		case ProtoUDP:
			binary.BigEndian.PutUint16(l4[4:], 60000)
			ports(l4, e.src.Port(), e.dst.Port())
		case ProtoICMP:
			l4[0] = 8
		case ProtoICMPv6:
			l4[0] = 128
		}
	}
	if e.src.Addr().Is4() {
		p := new(Packet)
		frame := e.frame(false, 255, l4, func(ip []byte) { ip[9] = proto; fragmentField(uint16(id), f.a, !f.last)(ip) })
		if r := p.Parse(frame, Offload{}); r != None {
			t.Fatalf("%+v: %v", f, r)
		}
		return p
	}
	header := make([]byte, 8)
	header[0] = proto
	v := uint16(f.a)
	if !f.last {
		v |= 1
	}
	binary.BigEndian.PutUint16(header[2:], v)
	binary.BigEndian.PutUint32(header[4:], id)
	return e.packet(t, false, ProtoFragment, cat(header, l4))
}

// Later fragments follow their first; a datagram whose fragments overlap does not pass any more. Each row holds for both families.
func TestFragments(t *testing.T) {
	for _, c := range []struct {
		name, ref string
		pieces    []piece
	}{
		{"in order", "", []piece{{0, 1480, false, "ok"}, {1480, 2960, false, "ok"}, {2960, 3001, true, "ok"}}},
		{"out of order", "", []piece{{0, 1480, false, "ok"}, {2960, 3001, true, "ok"}, {1480, 2960, false, "ok"}}},
		{"the last before the first", "attack 61", []piece{{1480, 1500, true, "miss"}, {0, 1480, false, "ok"}, {1480, 1500, true, "ok"}}},
		{"an exact copy", "RFC 8200 4.5", []piece{{0, 1480, false, "ok"}, {0, 1480, false, "ok"}, {1480, 2960, false, "ok"}, {1480, 2960, false, "ok"}, {2960, 3001, true, "ok"}}},
		{"a second first one, longer", "RFC 5722 4; firewall6 28", []piece{{0, 1480, false, "ok"}, {0, 1488, false, "fragment-overlap"}, {1488, 1500, true, "fragment-overlap"}, {0, 1480, false, "fragment-overlap"}}},
		{"a second first one, shorter", "RFC 5722 4", []piece{{0, 1480, false, "ok"}, {0, 80, false, "fragment-overlap"}, {1480, 1500, true, "fragment-overlap"}}},
		{"the tail of the first", "RFC 5722 4; teardrop", []piece{{0, 1480, false, "ok"}, {1472, 1500, true, "fragment-overlap"}, {1480, 1500, true, "fragment-overlap"}}},
		{"within the first", "RFC 5722 4", []piece{{0, 1480, false, "ok"}, {80, 160, false, "fragment-overlap"}, {1480, 1500, true, "fragment-overlap"}}},
		{"the head of a later one", "RFC 5722 4", []piece{{0, 80, false, "ok"}, {160, 240, false, "ok"}, {80, 168, false, "fragment-overlap"}, {80, 160, false, "fragment-overlap"}}},
		{"around a later one", "RFC 5722 4", []piece{{0, 80, false, "ok"}, {160, 240, false, "ok"}, {80, 320, false, "fragment-overlap"}}},
		{"the same start, shorter", "RFC 5722 4", []piece{{0, 80, false, "ok"}, {80, 240, false, "ok"}, {80, 160, false, "fragment-overlap"}}},
		{"the last one overlaps by a byte", "bonk", []piece{{0, 80, false, "ok"}, {80, 89, true, "ok"}, {88, 96, true, "fragment-overlap"}}},
		{"behind one that came early", "RFC 5722 4", []piece{{0, 80, false, "ok"}, {240, 320, false, "ok"}, {80, 160, false, "ok"}, {248, 256, false, "fragment-overlap"}}},
		{"whole, and then overlapped", "RFC 5722 4", []piece{{0, 80, false, "ok"}, {80, 100, true, "ok"}, {72, 88, false, "fragment-overlap"}, {0, 80, false, "fragment-overlap"}}},
		{"beyond the end", "RFC 5722 4", []piece{{0, 80, false, "ok"}, {160, 200, true, "ok"}, {200, 208, false, "fragment-overlap"}, {80, 160, false, "fragment-overlap"}}},
		{"more at the end", "RFC 8200 4.5", []piece{{0, 80, false, "ok"}, {160, 200, true, "ok"}, {160, 200, false, "fragment-overlap"}}},
		{"two ends", "RFC 8200 4.5", []piece{{0, 80, false, "ok"}, {160, 200, true, "ok"}, {80, 120, true, "fragment-overlap"}}},
		{"the end before another", "RFC 8200 4.5", []piece{{0, 80, false, "ok"}, {160, 240, false, "ok"}, {80, 160, true, "fragment-overlap"}}},
		{"an empty last one", "", []piece{{0, 80, false, "ok"}, {80, 80, true, "malformed"}, {80, 88, true, "ok"}}},
	} {
		for family, e := range map[string]flowEnds{"IPv4": ends("192.0.2.10:40000", "198.51.100.7:53"), "IPv6": ends("[2001:db8:ffff::7]:53", "[2001:db8:3:2:1::10]:40000")} {
			t.Run(c.name+"/"+family, func(t *testing.T) {
				table := NewFlowTable(10, NewFlowBudget(10))
				for i, f := range c.pieces {
					if got := playFragment(table, fragmentOf(t, e, 17, 7, f), time.Hour); got != f.want {
						t.Fatalf("piece %d of %+v: %s (%s)", i, c.pieces, got, c.ref)
					}
				}
			})
		}
	}
}

func playFragment(table *FlowTable, p *Packet, now time.Duration) string {
	hit, ok := table.Lookup(p, SideGuest, now)
	if !ok {
		if p.L4 == 0 {
			return "miss"
		}
		_, hit.Reason = table.Create(p, SideGuest, SideUplink, 1, 1, now)
	}
	if hit.Reason != None {
		return hit.Reason.String()
	}
	return "ok"
}

// A datagram is one only with its addresses, its identification, from its side, and in IPv4 with its protocol; for half a minute.
func TestFragmentOwner(t *testing.T) {
	four, six := ends("192.0.2.10:40000", "198.51.100.7:53"), ends("[2001:db8:3:2:1::10]:40000", "[2001:db8:ffff::7]:53")
	other := ends("192.0.2.10:40000", "198.51.100.8:53")
	table := NewFlowTable(10, NewFlowBudget(10))
	now := time.Hour
	first, tail := piece{0, 80, false, ""}, piece{80, 100, true, ""}
	for _, e := range []flowEnds{four, six} {
		if got := playFragment(table, fragmentOf(t, e, 17, 7, first), now); got != "ok" {
			t.Fatal(got)
		}
	}
	for name, p := range map[string]*Packet{
		"another identification": fragmentOf(t, four, 17, 8, tail), "another host": fragmentOf(t, other, 17, 7, tail),
		"another protocol": fragmentOf(t, four, 1, 7, tail), "another identification in IPv6": fragmentOf(t, six, 17, 1<<16+7, tail),
	} {
		if got := playFragment(table, p, now); got != "miss" {
			t.Errorf("%s: %s", name, got)
		}
	}
	if _, ok := table.Lookup(fragmentOf(t, four, 17, 7, tail), SideUplink, now); ok {
		t.Error("passed from another side")
	}
	// In IPv6 the Next Header of later fragments counts for nothing.
	if got := playFragment(table, fragmentOf(t, six, ProtoDstOpts, 7, tail), now); got != "ok" {
		t.Error(got)
	}
	if got := playFragment(table, fragmentOf(t, four, 17, 7, tail), now+FragmentIdle); got != "miss" {
		t.Errorf("after half a minute: %s", got)
	}
	// Another flow's first fragment in the same datagram would put other ports before what has passed.
	if got := playFragment(table, fragmentOf(t, six, 17, 9, first), now); got != "ok" {
		t.Fatal(got)
	}
	port := ends("[2001:db8:3:2:1::10]:40000", "[2001:db8:ffff::7]:22")
	for _, p := range []*Packet{fragmentOf(t, port, 17, 9, first), fragmentOf(t, six, 17, 9, tail)} {
		if got := playFragment(table, p, now); got != "fragment-overlap" {
			t.Error(got)
		}
	}
}

// Identifications of IPv4 come round: a datagram that has passed whole makes room for another, those of IPv6 do not.
func TestFragmentIDReuse(t *testing.T) {
	for _, c := range []struct {
		e    flowEnds
		want string
	}{
		{ends("192.0.2.10:40000", "198.51.100.7:53"), "ok"},
		{ends("[2001:db8:3:2:1::10]:40000", "[2001:db8:ffff::7]:53"), "fragment-overlap"},
	} {
		table := NewFlowTable(10, NewFlowBudget(10))
		for _, f := range []piece{{0, 80, false, "ok"}, {80, 100, true, "ok"}, {0, 160, false, c.want}, {160, 200, true, c.want}} {
			if got := playFragment(table, fragmentOf(t, c.e, 17, 7, f), time.Hour); got != f.want {
				t.Errorf("%v: %+v: %s", c.e.src, f, got)
			}
		}
	}
}

// A datagram may have any number of pieces in order, and some out of order.
func TestFragmentRanges(t *testing.T) {
	e := ends("192.0.2.10:40000", "198.51.100.7:53")
	table := NewFlowTable(10, NewFlowBudget(10))
	play := func(id uint32, a, b int, last bool) string {
		return playFragment(table, fragmentOf(t, e, 17, id, piece{a, b, last, ""}), time.Hour)
	}
	for a := 0; a < 65000; a += 1000 {
		if got := play(1, a, a+1000, a == 64000); got != "ok" {
			t.Fatalf("at %d: %s", a, got)
		}
	}
	if got := play(1, 64000, 65000, true); got != "ok" {
		t.Errorf("a copy: %s", got)
	}
	play(2, 0, 8, false)
	for i := 1; i < maxRanges; i++ { // all with gaps
		if got := play(2, 16*i, 16*i+8, false); got != "ok" {
			t.Fatalf("gap %d: %s", i, got)
		}
	}
	if got := play(2, 8000, 8008, false); got != "fragment-limit" {
		t.Error(got)
	}
	if got := play(2, 8, 16, false); got != "fragment-overlap" {
		t.Errorf("what lacks a piece goes on: %s", got)
	}
	play(3, 0, 8, false)
	for i := 1; i < maxRanges; i++ {
		play(3, 16*i, 16*i+8, false)
	}
	if got := play(3, 8, 16, false); got != "fragment-limit" {
		t.Errorf("there was no room: %s", got)
	}
	play(4, 0, 8, false)
	for i := 1; i < maxRanges; i++ {
		play(4, 8*i, 8*i+8, false)
	}
	for i := range maxRanges - 1 {
		play(5, 8*i, 8*i+8, false)
	}
	for _, f := range []piece{{800, 808, false, "ok"}, {120, 128, false, "ok"}, {800, 816, false, "fragment-overlap"}} { // between what was joined and the last
		if got := play(5, f.a, f.b, false); got != f.want {
			t.Errorf("%+v: %s", f, got)
		}
	}
	for _, f := range []piece{{400, 408, false, "ok"}, {128, 136, false, "ok"}, {136, 400, false, "ok"}, {8, 16, false, "fragment-overlap"}} {
		if got := play(4, f.a, f.b, false); got != f.want {
			t.Errorf("%+v: %s", f, got)
		}
	}
}

// Who sends more first fragments than it may loses its oldest. Overlaps stay condemned until their time is over.
func TestFragmentBound(t *testing.T) {
	e := ends("[2001:db8:3:2:1::10]:40000", "[2001:db8:ffff::7]:53")
	table := NewFlowTable(10, NewFlowBudget(10))
	for id := range uint32(MaxDatagrams + 1) {
		if got := playFragment(table, fragmentOf(t, e, 17, id, piece{0, 80, false, ""}), time.Hour+time.Duration(id)); got != "ok" {
			t.Fatal(got)
		}
	}
	for id, want := range map[uint32]string{0: "miss", 1: "ok", MaxDatagrams: "ok"} {
		if got := playFragment(table, fragmentOf(t, e, 17, id, piece{80, 100, true, ""}), time.Hour+time.Second); got != want {
			t.Errorf("datagram %d: %s", id, got)
		}
	}
	bad := fragmentOf(t, e, 17, 1, piece{0, 88, false, ""})
	for _, c := range []struct {
		at   time.Duration
		want string
	}{{0, "fragment-overlap"}, {29 * time.Second, "fragment-overlap"}, {31 * time.Second, "ok"}} {
		if got := playFragment(table, bad, time.Hour+c.at); got != c.want {
			t.Errorf("after %v: %s", c.at, got)
		}
	}
}

// Later fragments count, keep their flow alive, and go with it.
func TestFragmentFlow(t *testing.T) {
	e := ends("192.0.2.10:40000", "198.51.100.7:53")
	table := NewFlowTable(10, NewFlowBudget(10))
	play := func(f piece, now time.Duration) string { return playFragment(table, fragmentOf(t, e, 17, 7, f), now) }
	play(piece{0, 80, false, ""}, 0)
	if got := play(piece{80, 160, false, ""}, 20*time.Second); got != "ok" {
		t.Fatal(got)
	}
	f := snapshot(table, 0)[0]
	if f.Packets[0] != 2 || f.Bytes[0] != 200 || f.Expires() != 50*time.Second {
		t.Errorf("%+v", f)
	}
	ref := FlowRef{1, f.serial}
	if !table.Delete(ref) {
		t.Fatal("not there")
	}
	if got := play(piece{160, 200, true, ""}, 20*time.Second); got != "miss" {
		t.Error(got)
	}
}

// Whoever floods a guest with first fragments loses its own: one host, the uplink under any number of addresses, another guest, or the guest itself.
func TestFragmentShares(t *testing.T) {
	const own, other = SideGuest, SideGuest + 1
	guest, remote := "192.0.2.10", "198.51.100.7"
	type sender struct {
		from Side
		e    flowEnds
	}
	senders := map[string]sender{
		"itself": {own, ends(guest+":40000", remote+":53")}, "a host": {SideUplink, ends(remote+":53", guest+":53")},
		"another host": {SideUplink, ends("198.51.100.8:53", guest+":53")}, "another guest": {other, ends("192.0.2.11:53", guest+":53")},
	}
	play := func(table *FlowTable, s sender, p *Packet, now time.Duration) string {
		hit, ok := table.Lookup(p, s.from, now)
		if !ok && p.L4 != 0 {
			_, hit.Reason = table.Create(p, s.from, own, 1, 1, now)
		} else if !ok {
			return "miss"
		}
		if hit.Reason != None {
			return hit.Reason.String()
		}
		return "ok"
	}
	for flooder, f := range senders {
		for _, spoofed := range []bool{false, true} {
			if spoofed && f.from != SideUplink {
				continue
			}
			table := tellingApart(senders["a host"].e.src.Addr(), senders["another host"].e.src.Addr())
			now := time.Hour
			for id := range uint32(5) {
				for name, s := range senders {
					if got := play(table, s, fragmentOf(t, s.e, 17, id, piece{0, 80, false, ""}), now); got != "ok" {
						t.Fatalf("%s: %s", name, got)
					}
				}
			}
			for id := range uint32(1000) {
				s := f
				if spoofed {
					s.e.src = netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(id >> 8), byte(id)}), 53)
				}
				now += time.Microsecond
				if got := play(table, s, fragmentOf(t, s.e, 17, 100+id, piece{0, 80, false, ""}), now); got != "ok" {
					t.Fatal(got)
				}
			}
			for id := range uint32(5) {
				for name, s := range senders {
					if got := play(table, s, fragmentOf(t, s.e, 17, id, piece{80, 100, true, ""}), now); name != flooder && got != "ok" && !(spoofed && s.from == SideUplink) {
						t.Errorf("a flood from %s (spoofed: %v) costs %s datagram %d: %s", flooder, spoofed, name, id, got)
					}
				}
			}
		}
	}
}

// Fragments of any number of datagrams take the memory of as many as are remembered, once.
func TestFragmentAllocatesNothing(t *testing.T) {
	e := ends("192.0.2.10:40000", "198.51.100.7:53")
	table := NewFlowTable(10, NewFlowBudget(10))
	first, later := fragmentOf(t, e, 17, 0, piece{0, 80, false, ""}), fragmentOf(t, e, 17, 0, piece{80, 100, true, ""})
	playFragment(table, first, time.Hour)
	id := uint32(0)
	if n := testing.AllocsPerRun(200000, func() {
		id++
		first.FragID, later.FragID = id, id
		if id%2 == 0 {
			later.FragID = id + 1<<31
		}
		if r := playFragment(table, first, time.Hour); r != "ok" {
			t.Fatal(r)
		}
		playFragment(table, later, time.Hour)
	}); n != 0 {
		t.Errorf("%v allocations for each", n)
	}
}

// tellingApart is a table whose seed tells two hosts apart: one in MaxDatagrams does not.
func tellingApart(a, b netip.Addr) *FlowTable {
	for {
		t := NewFlowTable(100000, NewFlowBudget(100000))
		if maphash.Comparable(t.seed, a)%MaxDatagrams != maphash.Comparable(t.seed, b)%MaxDatagrams {
			return t
		}
	}
}
