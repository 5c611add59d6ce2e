package policy

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

// fakeTier forwards what a test says that it has.
type fakeTier struct {
	flows     map[uint16]*OffloadFlow
	forwarded map[uint16]*Offloaded
	last      uint16
	full      bool
	withdrawn int
}

func newFakeTier() *fakeTier {
	return &fakeTier{flows: map[uint16]*OffloadFlow{}, forwarded: map[uint16]*Offloaded{}}
}

func (t *fakeTier) Offer(f *OffloadFlow) (uint16, bool) {
	t.last++
	if t.full {
		return 0, false
	}
	c := *f
	t.flows[t.last], t.forwarded[t.last] = &c, &Offloaded{Unused: time.Hour * 24}
	return t.last, true
}

func (t *fakeTier) Look(place uint16, w *[2]WindowState) Offloaded {
	*w = t.flows[place].Window
	return *t.forwarded[place]
}

func (t *fakeTier) Raise(place uint16, w *[2]WindowState, _ time.Duration) {
	t.flows[place].Window = *w
}

func (t *fakeTier) Withdraw(place uint16, w *[2]WindowState) Offloaded {
	o := t.Look(place, w)
	delete(t.flows, place)
	t.withdrawn++
	return o
}

var (
	tieredGuest = &Guest{Name: "one", Side: SideGuest, MAC: MAC{0, 0x16, 0x3e, 0, 0, 1}, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.10/32")}}
	tieredInner = netip.MustParseAddrPort("192.0.2.10:40000")
	tieredOuter = netip.MustParseAddrPort("198.51.100.7:443")
)

// tiered is an engine with a tier, and a flow.
type tiered struct {
	*fakeTier
	engine *Engine
	proto  uint8
	outer  netip.AddrPort
	other  End
	now    time.Duration
}

func newTiered(t *testing.T, proto uint8, mode Mode, limits Limits) *tiered {
	t.Helper()
	open := Chain{Default: Accept}
	e, err := NewEngine([]GuestPolicy{{tieredGuest, &Policy{Name: "p", Mode: mode, Egress: open, Ingress: open, Limits: limits}}}, &open, 100)
	if err != nil {
		t.Fatal(err)
	}
	w := &tiered{newFakeTier(), e, proto, tieredOuter, End{Zone: ZoneUplink}, time.Hour}
	e.SetTier(w.fakeTier)
	return w
}

func (w *tiered) packet(t *testing.T, way Direction, flags byte, seq, ack uint32) *Packet {
	l4 := make([]byte, 8)
	switch w.proto {
	case ProtoTCP:
		l4 = tcpBytes(flags, seq, ack, 1000, 0)
	case ProtoICMP:
		if way == Egress {
			l4[0] = 8
		}
		binary.BigEndian.PutUint16(l4[4:], tieredInner.Port())
	default:
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	}
	return flowEnds{tieredInner, w.outer}.packet(t, way == Ingress, w.proto, l4)
}

// long sends a packet the long way and remembers it, short the short way.
func (w *tiered) long(t *testing.T, way Direction, flags byte, seq, ack uint32, generation uint32) Reason {
	t.Helper()
	p, ends := w.packet(t, way, flags, seq, ack), [2]End{{ZoneGuest, tieredGuest}, w.other}
	v := w.engine.Decide(p, ends[way], ends[1-way], w.now)
	if v.Reason == None {
		w.engine.Remember(&v, NextHop{byte(way) + 1}, generation)
	}
	return v.Reason
}

func (w *tiered) short(t *testing.T, way Direction, flags byte, seq, ack uint32, generation uint32) bool {
	p, from := w.packet(t, way, flags, seq, ack), SideGuest
	if way == Ingress {
		from = w.other.Side()
	}
	_, ok := w.engine.Hit(p, tieredGuest, from, generation, w.now, func(NextHop) bool { return true })
	return ok
}

// open opens the flow, and has as many packets go each way.
func (w *tiered) open(t *testing.T, n int) {
	t.Helper()
	if w.proto == ProtoTCP {
		w.long(t, Egress, tcpSYN, 999, 0, 1)
		w.long(t, Ingress, tcpSYN|tcpACK, 1999, 1000, 1)
	}
	for range 2 { // what opens a flow is not remembered
		w.long(t, Egress, tcpACK, 1000, 2000, 1)
	}
	w.long(t, Ingress, tcpACK, 2000, 1000, 1)
	for range n {
		if !w.short(t, Egress, tcpACK, 1000, 2000, 1) || !w.short(t, Ingress, tcpACK, 2000, 1000, 1) {
			t.Fatal("a packet does not go the short way")
		}
	}
}

func (w *tiered) flow(t *testing.T) (f Flow, ok bool) {
	w.engine.Flows(tieredGuest).Each(w.now, func(flow *Flow) bool {
		f, ok = *flow, true
		return true
	})
	return f, ok
}

// Offered is what is settled between a guest without limits and the uplink, once it has had some packets.
func TestOffered(t *testing.T) {
	for _, c := range []struct {
		name    string
		proto   uint8
		mode    Mode
		limits  Limits
		zone    Zone
		packets int
		offered int
	}{
		{"TCP", ProtoTCP, Enforce, Limits{}, ZoneUplink, 10, 1},
		{"UDP", ProtoUDP, Enforce, Limits{}, ZoneUplink, 10, 1},
		{"echo", ProtoICMP, Enforce, Limits{}, ZoneUplink, 10, 1},
		{"UDP-Lite", ProtoUDPLite, Enforce, Limits{}, ZoneUplink, 0, 0},
		{"limits for new flows", ProtoTCP, Enforce, Limits{NewFlows: 100, Flows: 10}, ZoneUplink, 10, 1},
		{"short", ProtoTCP, Enforce, Limits{}, ZoneUplink, 5, 0},
		{"a limit for packets", ProtoTCP, Enforce, Limits{Packets: 1000}, ZoneUplink, 10, 0},
		{"a limit for bandwidth", ProtoUDP, Enforce, Limits{Bandwidth: 1e9}, ZoneUplink, 10, 0},
		{"shadow mode", ProtoTCP, Shadow, Limits{}, ZoneUplink, 10, 0},
		{"dom0", ProtoTCP, Enforce, Limits{}, ZoneHost, 10, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newTiered(t, c.proto, c.mode, c.limits)
			w.other.Zone = c.zone
			w.open(t, c.packets)
			if len(w.flows) != c.offered {
				t.Errorf("%d flows are offered", len(w.flows))
			}
			for _, f := range w.flows {
				outer := tieredOuter
				if c.proto == ProtoICMP {
					outer = netip.AddrPortFrom(outer.Addr(), tieredInner.Port())
				}
				if f.Inner != tieredInner || f.Outer != outer || f.Next != [2]NextHop{{1}, {2}} || f.Generation != 1 || f.Guest != tieredGuest {
					t.Errorf("%+v", f)
				}
			}
		})
	}
	w := newTiered(t, ProtoTCP, Enforce, Limits{})
	w.full = true
	w.open(t, 5*offerEvery)
	if w.last != 10 {
		t.Errorf("%d packets, and it was offered %d times", 10*offerEvery, w.last)
	}
}

// While a flow is forwarded elsewhere, the windows there count, however far they are by now; what ends the flow takes it back, and nothing else that is
// sent does.
func TestTierWindows(t *testing.T) {
	w := newTiered(t, ProtoTCP, Enforce, Limits{})
	w.open(t, 10)
	f := w.flows[w.last]
	const far = 3 << 30 // more than half of all sequence numbers
	f.Window[Egress].End += far
	f.Window[Egress].UNA += far
	f.Window[Egress].Edge += far
	seq := uint32(1000 + far&0xffffffff)
	for _, c := range []struct {
		name     string
		flags    byte
		seq, ack uint32
		reason   Reason
		away     bool
	}{
		{"a packet from before", tcpACK, 1000, 2000, TCPWindow, false},
		{"a reset from before", tcpRST, 1000, 0, TCPWindow, false},
		{"the next", tcpACK, seq, 2000, None, false},
		{"a SYN again", tcpSYN, 999, 0, None, false},
		{"the end", tcpFIN | tcpACK, seq, 2000, None, true},
	} {
		if r := w.long(t, Egress, c.flags, c.seq, c.ack, 1); r != c.reason {
			t.Errorf("%s: %v, want %v", c.name, r, c.reason)
		}
		if away := len(w.flows) == 0; away != c.away {
			t.Errorf("%s: taken back: %v", c.name, away)
		}
	}
	if w.long(t, Ingress, tcpACK, 2000, seq+1, 1) != None {
		t.Error("the end is not acknowledged")
	}
	w.short(t, Ingress, tcpACK, 2000, seq+1, 1)
	if len(w.flows) != 0 {
		t.Error("a flow that ends is offered")
	}
}

// What is accepted here is known there.
func TestTierRaises(t *testing.T) {
	w := newTiered(t, ProtoTCP, Enforce, Limits{})
	w.open(t, 10)
	if !w.short(t, Egress, tcpACK, 1500, 2000, 1) {
		t.Fatal("refused")
	}
	if end := w.flows[w.last].Window[Egress].End; end != 1500 {
		t.Errorf("it ends at %d", end)
	}
}

// A flow that is in use elsewhere lives on; then it expires, and takes with it what was forwarded.
func TestTierKeepsAlive(t *testing.T) {
	for _, proto := range []uint8{ProtoTCP, ProtoUDP} {
		w := newTiered(t, proto, Enforce, Limits{})
		w.open(t, 10)
		table, o := w.engine.Flows(tieredGuest), w.forwarded[w.last]
		for range 4 {
			w.now += TCPEstablishedIdle
			o.Unused = time.Second
			if table.Sweep(w.now, SweepStep); table.Len() != 1 || len(w.flows) != 1 {
				t.Fatal("a flow that is in use has expired")
			}
		}
		if !w.short(t, Ingress, tcpACK, 2000, 1000, 1) {
			t.Error("it does not take a packet")
		}
		w.now += TCPEstablishedIdle
		o.Unused = TCPEstablishedIdle
		if table.Sweep(w.now, SweepStep); table.Len() != 0 || len(w.flows) != 0 {
			t.Error("a flow that nobody uses has not expired")
		}
	}
}

// Another way, or another generation, takes a flow back, with what was counted; so does its end by any other means.
func TestTierWithdraws(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(*tiered)
		gone bool
	}{
		{"another generation", func(w *tiered) { w.long(t, Egress, tcpACK, 1000, 2000, 2) }, false},
		{"another next hop", func(w *tiered) {
			v := w.engine.Decide(w.packet(t, Egress, tcpACK, 1000, 2000), End{ZoneGuest, tieredGuest}, w.other, w.now)
			w.engine.Remember(&v, NextHop{9}, 1)
		}, false},
		{"saved", func(w *tiered) { w.engine.Flows(tieredGuest).Save(w.now, func(*Flow) {}) }, false},
		{"forgotten", func(w *tiered) { w.engine.Forget() }, true},
		{"the guest is gone", func(w *tiered) { w.engine.Flows(tieredGuest).Close() }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newTiered(t, ProtoTCP, Enforce, Limits{})
			w.open(t, 10)
			before, _ := w.flow(t)
			*w.forwarded[w.last] = Offloaded{Packets: [2]uint64{100, 200}, Bytes: [2]uint64{1000, 2000}}
			c.do(w)
			if len(w.flows) != 0 || w.withdrawn != 1 {
				t.Errorf("%d flows are left, %d were withdrawn", len(w.flows), w.withdrawn)
			}
			after, ok := w.flow(t)
			if ok == c.gone {
				t.Fatalf("it is there: %v", ok)
			}
			if n := after.Packets[1] - before.Packets[1]; !c.gone && n != 200 {
				t.Errorf("%d packets are counted", n)
			}
		})
	}
}

// A flow that is in use elsewhere is not the one that is given up for a new one.
func TestTierLeastUsed(t *testing.T) {
	w := newTiered(t, ProtoUDP, Enforce, Limits{Flows: 2})
	w.open(t, 10)
	w.now += time.Minute
	idle := w.packet(t, Egress, 0, 0, 0)
	idle.SrcPort = 5000
	w.engine.Decide(idle, End{ZoneGuest, tieredGuest}, w.other, w.now)
	idle.SrcPort, idle.DstPort = idle.DstPort, idle.SrcPort
	idle.Src, idle.Dst = idle.Dst, idle.Src
	w.engine.Decide(idle, w.other, End{ZoneGuest, tieredGuest}, w.now)
	w.now += time.Minute
	w.forwarded[w.last].Unused = 0
	third := w.packet(t, Egress, 0, 0, 0)
	third.SrcPort = 6000
	w.engine.Decide(third, End{ZoneGuest, tieredGuest}, w.other, w.now)
	if len(w.flows) != 1 {
		t.Error("a flow that is in use was given up")
	}
}

// What a tier has used just now makes no other flow younger, when a table is saved for the next one; nor do flows that it has used each other, in whatever order
// they were opened.
func TestTierSaveOrder(t *testing.T) {
	w := newTiered(t, ProtoUDP, Enforce, Limits{})
	w.open(t, 10)
	first := w.last
	second := netip.MustParseAddrPort("198.51.100.9:443")
	w.outer = second
	w.open(t, 10)
	w.now += 10 * time.Second
	outer := netip.MustParseAddrPort("198.51.100.8:443")
	ends := [2]End{{ZoneGuest, tieredGuest}, w.other}
	for way := range ends { // another flow, that is idle from here on
		p := flowEnds{tieredInner, outer}.packet(t, way == 1, ProtoUDP, []byte{0, 0, 0, 0, 0, 8, 0, 0})
		if v := w.engine.Decide(p, ends[way], ends[1-way], w.now); v.Reason != None {
			t.Fatal(v.Reason)
		}
	}
	used := map[netip.AddrPort]time.Duration{outer: w.now}
	w.now += 200 * time.Second
	used[tieredOuter], used[second] = w.now, w.now-100*time.Second
	w.forwarded[first].Unused, w.forwarded[w.last].Unused = 0, 100*time.Second
	next := NewFlowTable(100, NewFlowBudget(100))
	w.engine.Flows(tieredGuest).Save(w.now, func(f *Flow) {
		if g, ok := ReadFlow(f.AppendState(nil, w.now), w.now); !ok || !next.Adopt(g, w.now) {
			t.Errorf("%v is not taken", f.Dst())
		}
	})
	next.Each(w.now, func(f *Flow) bool {
		if f.used != used[f.Dst()] {
			t.Errorf("%v was used %v ago, want %v", f.Dst(), w.now-f.used, w.now-used[f.Dst()])
		}
		delete(used, f.Dst())
		return true
	})
	if len(used) > 0 {
		t.Errorf("%v were not saved", used)
	}
}
