package policy

import (
	"encoding/binary"
	"net/netip"
	"reflect"
	"sync"
	"testing"
	"time"
	"unsafe"
)

func echo(typ byte, id uint16) []byte {
	b := make([]byte, 12)
	b[0] = typ
	binary.BigEndian.PutUint16(b[4:], id)
	return b
}

// Both directions of a flow have one key, and what has no flow has none.
func TestFlowKey(t *testing.T) {
	four := ends("192.0.2.10:40000", "198.51.100.7:53")
	six := ends("[2001:db8:3:2:1::10]:40000", "[2001:db8:ffff::7]:53")
	key := func(p *Packet) (FlowKey, bool, bool) { return p.FlowKey() }
	for _, c := range []struct {
		name   string
		e      flowEnds
		proto  uint8
		go_    []byte
		back   []byte
		a, b   string
		flowOK bool
	}{
		{"TCP", four, 6, tcp(2), tcp(0x12), "192.0.2.10:40000", "198.51.100.7:53", true},
		{"UDP, IPv6", six, 17, udp(4), udp(5), "[2001:db8:3:2:1::10]:40000", "[2001:db8:ffff::7]:53", true},
		{"echo", four, 1, echo(8, 7), echo(0, 7), "192.0.2.10:7", "198.51.100.7:7", true},
		{"echo, IPv6", six, 58, echo(128, 7), echo(129, 7), "[2001:db8:3:2:1::10]:7", "[2001:db8:ffff::7]:7", true},
		{"SCTP", four, 132, make([]byte, 12), make([]byte, 12), "192.0.2.10:40000", "198.51.100.7:53", true},
		{"DCCP, IPv6", six, 33, make([]byte, 12), make([]byte, 16), "[2001:db8:3:2:1::10]:40000", "[2001:db8:ffff::7]:53", true},
		{"UDP-Lite", four, 136, make([]byte, 8), make([]byte, 8), "192.0.2.10:40000", "198.51.100.7:53", true},
		{"GRE", four, 47, make([]byte, 8), make([]byte, 8), "192.0.2.10:0", "198.51.100.7:0", true},
		{"ESP", six, 50, make([]byte, 12), make([]byte, 12), "[2001:db8:3:2:1::10]:0", "[2001:db8:ffff::7]:0", true},
		{"an ICMP error", four, 1, echo(3, 7), echo(11, 7), "", "", false},
		{"an ICMPv6 error", six, 58, echo(1, 7), echo(2, 7), "", "", false},
		{"a timestamp", four, 1, echo(13, 7), echo(14, 7), "", "", false},
		{"MLD", six, 58, echo(131, 7), echo(143, 7), "", "", false},
		{"ICMPv6 in IPv4", four, 58, echo(128, 7), echo(129, 7), "", "", false},
		{"ICMP in IPv6", six, 1, echo(8, 7), echo(0, 7), "", "", false},
	} {
		k1, r1, ok1 := key(c.e.packet(t, false, c.proto, c.go_))
		k2, r2, ok2 := key(c.e.packet(t, true, c.proto, c.back))
		if ok1 != c.flowOK || ok2 != c.flowOK {
			t.Errorf("%s: %v and %v", c.name, ok1, ok2)
			continue
		}
		if !ok1 {
			continue
		}
		if k1 != k2 || r1 == r2 {
			t.Errorf("%s: %+v %v, back %+v %v", c.name, k1, r1, k2, r2)
		}
		f := Flow{Key: k1, Reversed: r1}
		if f.Src().String() != c.a || f.Dst().String() != c.b {
			t.Errorf("%s: from %v to %v", c.name, f.Src(), f.Dst())
		}
	}
	// Both ends may ask each other with the same identifier.
	k1, _, _ := key(four.packet(t, false, 1, echo(8, 7)))
	k2, _, _ := key(four.packet(t, true, 1, echo(8, 7)))
	if k1 == k2 {
		t.Error("two who ask each other share a flow")
	}
	for name, p := range map[string]*Packet{
		"ND":               parsed(t, nd(135, "2001:db8:3:2:1::10", "ff02::1:ff00:11", target("2001:db8:3:2:1::11", sllao...), nil)),
		"ARP":              parsed(t, seeds()[13]),
		"a later fragment": four.edited(t, false, 17, make([]byte, 16), fragmentField(1, 16, false)),
		"to itself":        ends("192.0.2.10:53", "192.0.2.10:53").packet(t, false, 17, udp(1)),
	} {
		if _, _, ok := p.FlowKey(); ok {
			t.Errorf("%s has a flow", name)
		}
	}
}

// What flows are told apart by has to be there, and no checksum is written over it afterwards.
func TestPortsAreThere(t *testing.T) {
	for _, proto := range []uint8{ProtoSCTP, ProtoDCCP, ProtoUDPLite} {
		for _, v6f := range []bool{false, true} {
			frame, at := v4(proto, make([]byte, 3), nil), EthernetLen+IPv4Len
			whole := v4(proto, make([]byte, 12), nil)
			if v6f {
				frame, at, whole = v6(proto, make([]byte, 3), nil), EthernetLen+IPv6Len, v6(proto, make([]byte, 12), nil)
			}
			var p Packet
			if r := p.Parse(frame, Offload{}); r != Malformed {
				t.Errorf("protocol %d without ports: %v", proto, r)
			}
			for offset, want := range []Reason{Malformed, Malformed, Malformed, Malformed, None} {
				if r := p.Parse(whole, Offload{Flags: NeedsCsum, CsumStart: uint16(at), CsumOffset: uint16(offset)}); r != want {
					t.Errorf("protocol %d with a checksum at %d: %v", proto, offset, r)
				}
			}
		}
	}
}

func parsed(t testing.TB, frame []byte) *Packet {
	t.Helper()
	p := new(Packet)
	if r := p.Parse(frame, Offload{}); r != None {
		t.Fatal(r)
	}
	return p
}

// A million entries have a bound, and nothing for the garbage collector to follow.
func TestFlowSize(t *testing.T) {
	if n := unsafe.Sizeof(Flow{}); n > 224 { // and up to 12 for buckets
		t.Errorf("%d bytes", n)
	}
	if pointers(reflect.TypeFor[Flow]()) {
		t.Error("it has pointers")
	}
	if n := unsafe.Sizeof(FlowKey{}); n != 38 {
		t.Errorf("the key has %d bytes, and so padding", n)
	}
	if n := unsafe.Offsetof(Flow{}.used); n > 64 {
		t.Errorf("a lookup reads %d bytes", n)
	}
	for q := range queueKinds {
		if queueIdle[q] == 0 {
			t.Errorf("queue %d has no idle time", q)
		}
	}
	for s := FlowState(1); s < flowStates; s++ {
		if s.String() == "" {
			t.Errorf("state %d has no word", s)
		}
	}
}

// pointers tells whether the garbage collector looks into values of a type.
func pointers(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Array:
		return pointers(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if pointers(t.Field(i).Type) {
				return true
			}
		}
		return false
	}
	return t.Kind() > reflect.Complex128
}

// What one side has opened is answered by the other, for as long as RFC 4787 says, and by nobody else.
func TestFlows(t *testing.T) {
	four := ends("192.0.2.10:40000", "198.51.100.7:53")
	six := ends("[2001:db8:3:2:1::10]:40000", "[2001:db8:ffff::7]:53")
	type packet struct {
		after time.Duration
		p     *Packet
		from  Side
		want  string
	}
	out := func(e flowEnds, proto uint8, l4 []byte) *Packet { return e.packet(t, false, proto, l4) }
	back := func(e flowEnds, proto uint8, l4 []byte) *Packet { return e.packet(t, true, proto, l4) }
	other := ends("192.0.2.10:40000", "198.51.100.8:53")
	port := ends("192.0.2.10:40000", "198.51.100.7:54")
	const guest, uplink = SideGuest, SideUplink
	for _, c := range []struct {
		name    string
		packets []packet
	}{
		{"UDP", []packet{{0, out(four, 17, udp(1)), guest, "new unreplied"}, {0, out(four, 17, udp(1)), guest, "unreplied"}, {0, back(four, 17, udp(1)), uplink, "replied"}}},
		{"UDP, nobody answers", []packet{{0, out(four, 17, udp(1)), guest, "new unreplied"}, {30 * time.Second, back(four, 17, udp(1)), uplink, "miss"}}},
		{"UDP, just in time", []packet{{0, out(six, 17, udp(1)), guest, "new unreplied"}, {29 * time.Second, back(six, 17, udp(1)), uplink, "replied"}, {299 * time.Second, out(six, 17, udp(1)), guest, "replied"}}},
		{"UDP, too late", []packet{{0, out(six, 17, udp(1)), guest, "new unreplied"}, {0, back(six, 17, udp(1)), uplink, "replied"}, {5 * time.Minute, back(six, 17, udp(1)), uplink, "miss"}}},
		{"UDP, another host", []packet{{0, out(four, 17, udp(1)), guest, "new unreplied"}, {0, back(other, 17, udp(1)), uplink, "miss"}}},
		{"UDP, another port", []packet{{0, out(four, 17, udp(1)), guest, "new unreplied"}, {0, back(port, 17, udp(1)), uplink, "miss"}}},
		{"UDP, as TCP", []packet{{0, out(four, 17, udp(1)), guest, "new unreplied"}, {0, back(four, 6, tcp(0x12)), uplink, "miss"}}},
		{"UDP, from another side", []packet{{0, out(four, 17, udp(1)), guest, "new unreplied"}, {0, back(four, 17, udp(1)), SideHost, "flow-side"}, {0, out(four, 17, udp(1)), uplink, "flow-side"}, {29 * time.Second, back(four, 17, udp(1)), uplink, "replied"}}},
		{"echo", []packet{{0, out(four, 1, echo(8, 7)), guest, "new unreplied"}, {0, back(four, 1, echo(0, 7)), uplink, "replied"}, {29 * time.Second, out(four, 1, echo(8, 7)), guest, "replied"}, {30 * time.Second, back(four, 1, echo(0, 7)), uplink, "miss"}}},
		{"echo, another identifier", []packet{{0, out(six, 58, echo(128, 7)), guest, "new unreplied"}, {0, back(six, 58, echo(129, 8)), uplink, "miss"}, {0, back(six, 58, echo(129, 7)), uplink, "replied"}}},
		{"echo request the other way", []packet{{0, out(four, 1, echo(8, 7)), guest, "new unreplied"}, {0, back(four, 1, echo(8, 7)), uplink, "miss"}, {0, out(four, 1, echo(0, 7)), guest, "miss"}}},
		{"SCTP", []packet{{0, out(four, 132, make([]byte, 12)), guest, "new unreplied"}, {9 * time.Minute, back(four, 132, make([]byte, 12)), uplink, "replied"}, {10 * time.Minute, back(four, 132, make([]byte, 12)), uplink, "miss"}}},
		{"SCTP, another port", []packet{{0, out(four, 132, make([]byte, 12)), guest, "new unreplied"}, {0, back(port, 132, make([]byte, 12)), uplink, "miss"}, {0, back(four, 132, make([]byte, 12)), uplink, "replied"}}},
		{"time goes back", []packet{{0, out(four, 17, udp(1)), guest, "new unreplied"}, {-time.Minute, out(four, 17, udp(1)), guest, "unreplied"}, {89 * time.Second, back(four, 17, udp(1)), uplink, "replied"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			table, now := NewFlowTable(10, NewFlowBudget(10)), time.Hour
			for i, s := range c.packets {
				now += s.after
				got := ""
				hit, ok := table.Lookup(s.p, s.from, now)
				switch {
				case ok && hit.Reason != None:
					got = hit.Reason.String()
				case ok:
					got = hit.State.String()
				case i > 0:
					got = "miss"
				default:
					if hit, hit.Reason = table.Create(s.p, s.from, uplink+guest-s.from, 5, 6, now); hit.Reason != None {
						t.Fatal(hit.Reason)
					}
					got = "new " + hit.State.String()
				}
				if got != s.want {
					t.Fatalf("packet %d: %s, want %s", i, got, s.want)
				}
				if hit.Reason == None && ok && (hit.Verdict != 5 || hit.Generation != 6 || hit.Reply != (s.from == uplink)) {
					t.Errorf("packet %d: %+v", i, hit)
				}
			}
		})
	}
}

// Only what may open a flow does.
func TestCreateRefuses(t *testing.T) {
	four := ends("192.0.2.10:40000", "198.51.100.7:53")
	table := NewFlowTable(10, NewFlowBudget(10))
	for _, c := range []struct {
		name string
		p    *Packet
		want Reason
	}{
		{"echo reply", four.packet(t, false, 1, echo(0, 7)), NoFlow},
		{"ICMP error", four.packet(t, false, 1, echo(3, 7)), NoFlow},
		{"ARP", parsed(t, seeds()[13]), NoFlow},
		{"later fragment", four.edited(t, false, 17, make([]byte, 16), fragmentField(1, 16, false)), FragmentOrphan},
		{"TCP, SYN+ACK", four.packet(t, false, 6, tcp(0x12)), NoFlow},
		{"TCP, SYN+FIN", four.packet(t, false, 6, tcp(3)), TCPFlags},
	} {
		if hit, r := table.Create(c.p, SideGuest, SideUplink, 1, 1, 0); r != c.want || hit.Ref != (FlowRef{}) {
			t.Errorf("%s: %v", c.name, r)
		}
	}
	if table.Len() != 0 {
		t.Errorf("%d flows", table.Len())
	}
}

// Packets and bytes are counted by direction, and only those that pass.
func TestFlowCounters(t *testing.T) {
	e := ends("192.0.2.10:40000", "198.51.100.7:443")
	table := NewFlowTable(10, NewFlowBudget(10))
	for _, s := range parseScript(t, handshake+`
		> A 1 ack 1 len 1000 | established
		< A 1 ack 1001 len 500 | established
		< A 9000000 ack 1001 len 500 | tcp-window established`) {
		playTCP(t, table, e, [2]uint32{}, s, time.Hour)
	}
	f := snapshot(table, time.Hour)[0]
	if f.Packets != [2]uint64{3, 2} || f.Bytes != [2]uint64{40 + 40 + 1040, 40 + 540} {
		t.Errorf("%v packets, %v bytes", f.Packets, f.Bytes)
	}
	if f.Opened != time.Hour || f.Expires() != time.Hour+TCPEstablishedIdle || f.From != SideGuest || f.To != SideUplink {
		t.Errorf("%+v", f)
	}
}

// What the owner notes comes back with each hit, until the flow is another.
func TestFlowOwner(t *testing.T) {
	e := ends("192.0.2.10:40000", "198.51.100.7:53")
	table := NewFlowTable(10, NewFlowBudget(10))
	create := func() FlowRef {
		hit, r := table.Create(e.packet(t, false, 17, udp(1)), SideGuest, SideUplink, 1, 1, 0)
		if r != None {
			t.Fatal(r)
		}
		return hit.Ref
	}
	ref := create()
	if !table.SetNext(ref, false, NextHop{1}, 8) || !table.SetNext(ref, true, NextHop{2}, 8) {
		t.Fatal("the flow is not there")
	}
	hit, _ := table.Lookup(e.packet(t, false, 17, udp(1)), SideGuest, 0)
	back, _ := table.Lookup(e.packet(t, true, 17, udp(1)), SideUplink, 0)
	if hit.Generation != 8 || hit.Next != (NextHop{1}) || back.Next != (NextHop{2}) || hit.Ref != ref || back.Ref != ref {
		t.Errorf("%+v, back %+v", hit, back)
	}
	if !table.Delete(ref) || table.Delete(ref) || table.SetNext(ref, true, NextHop{}, 8) {
		t.Error("the flow is gone only once")
	}
	if again := create(); again == ref || table.Delete(ref) {
		t.Error("an old reference names a new flow")
	}
	if table.Delete(FlowRef{}) || table.Delete(FlowRef{99, 1}) {
		t.Error("a reference to nothing")
	}
}

// A hit allocates nothing, whatever it is, nor does a miss; a flow that takes the place of another allocates nothing either.
func TestFlowAllocs(t *testing.T) {
	four, six := ends("192.0.2.10:40000", "198.51.100.7:53"), ends("[2001:db8:3:2:1::10]:40000", "[2001:db8:ffff::7]:53")
	table := NewFlowTable(4, NewFlowBudget(100))
	out, back, syn := four.packet(t, false, 17, udp(1)), four.packet(t, true, 17, udp(1)), six.packet(t, false, 6, tcpBytes(tcpSYN, 1, 0, 1000, 0))
	first, later := four.edited(t, false, 17, udp(8), fragmentField(1, 0, true)), four.edited(t, false, 17, make([]byte, 8), fragmentField(1, 16, false))
	unreachable := four.packet(t, true, 1, cat([]byte{3, 3, 0, 0, 0, 0, 0, 0}, out.Frame[EthernetLen:]))
	for _, p := range []*Packet{out, first, syn} {
		if _, r := table.Create(p, SideGuest, SideUplink, 1, 1, 0); r != None {
			t.Fatal(r)
		}
	}
	miss := four.packet(t, false, 132, make([]byte, 12))
	n := testing.AllocsPerRun(100, func() {
		for _, p := range []*Packet{out, first, later, syn} {
			if hit, ok := table.Lookup(p, SideGuest, 0); !ok || hit.Reason != None {
				t.Fatalf("%v: %v", ok, hit.Reason)
			}
		}
		if hit, ok := table.Lookup(back, SideUplink, 0); !ok || hit.Reason != None {
			t.Fatalf("back: %v", hit.Reason)
		}
		if _, ok := table.Related(unreachable, SideUplink, 0); !ok {
			t.Fatal("unrelated")
		}
		table.Lookup(miss, SideGuest, 0)
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
	id := uint16(0)
	if n := testing.AllocsPerRun(1000, func() {
		id++
		miss.L4, miss.Proto, miss.SrcPort, miss.DstPort = EthernetLen+IPv4Len, ProtoUDP, id, 9
		table.Create(miss, SideGuest, SideUplink, 1, 1, 0)
	}); n != 0 {
		t.Errorf("%v allocations for a new flow", n)
	}
}

// Both directions, sweeps, listings and changes at the same time; the race detector looks on.
func TestFlowRace(t *testing.T) {
	table := NewFlowTable(64, NewFlowBudget(64))
	var all []flowEnds
	for i := range 200 {
		all = append(all, flowEnds{netip.AddrPortFrom(netip.MustParseAddr("192.0.2.10"), uint16(1000+i)), netip.MustParseAddrPort("198.51.100.7:53")})
	}
	var wg sync.WaitGroup
	for _, back := range []bool{false, true} {
		from, to := SideGuest, SideUplink
		if back {
			from, to = to, from
		}
		var packets []*Packet
		for _, e := range all {
			packets = append(packets, e.packet(t, back, 17, udp(8)), e.edited(t, back, 17, udp(8), fragmentField(uint16(e.src.Port()), 0, true)),
				e.edited(t, back, 17, make([]byte, 16), fragmentField(uint16(e.src.Port()), 16, false)))
		}
		wg.Go(func() {
			for i := range 4 * len(packets) {
				p, now := packets[i*7%len(packets)], time.Duration(i)*100*time.Millisecond
				hit, ok := table.Lookup(p, from, now)
				if !ok {
					hit, _ = table.Create(p, from, to, 1, 1, now)
				}
				switch i % 16 {
				case 0:
					table.Sweep(now, 10)
				case 1:
					table.SetNext(hit.Ref, hit.Reply, NextHop{1}, 2)
				case 2:
					table.Ask(func(f *Flow) bool { f.Verdict = 2; return f.Packets[0]%16 != 15 })
					for next := table.Review(0, 50); next != 0; {
						next = table.Review(next, 50)
					}
				case 3:
					table.Delete(hit.Ref)
				case 4:
					table.Each(now, func(f *Flow) bool { return f.Opened < now })
				case 5:
					table.DeleteIf(0, 50, func(f *Flow) bool { return f.Verdict == 2 })
				}
			}
		})
	}
	wg.Wait()
	if n := table.Len(); n > 64 || n != table.total.Used() {
		t.Errorf("%d flows, %d of the budget", n, table.total.Used())
	}
}
