package policy

import (
	"net/netip"
	"time"
)

// Tier forwards packets of flows that it is given by itself, by the same checks as FlowTable.Lookup and what its owner makes of a flow's way. What it
// does not forward comes to the table as ever. It knows a flow by its place, which is not 0. Of TCP, its windows are those that count while it has a flow:
// the table looks at them before it judges a packet, and raises them by what it has accepted. Nobody else lowers them, so that both may judge at a time.
//
// Its methods are called under a table's lock: they must be quick, and not call the table. They are safe for concurrent use.
type Tier interface {
	// Offer gives it a flow. ok is false where it does not take it, now.
	Offer(f *OffloadFlow) (place uint16, ok bool)

	// Look tells what it has forwarded, and of TCP the windows.
	Look(place uint16, w *[2]WindowState) Offloaded

	// Raise raises the windows, which were looked at just before, and tells for how long the flow has not been used.
	Raise(place uint16, w *[2]WindowState, unused time.Duration)

	// Withdraw takes a flow away: no packet that comes later is forwarded. What it has forwarded until then is in the result, the windows in w.
	Withdraw(place uint16, w *[2]WindowState) Offloaded
}

// OffloadFlow is a flow whose way is known in both directions. What there is of each direction is indexed by Direction.
type OffloadFlow struct {
	Guest        *Guest
	Proto        uint8
	Inner, Outer netip.AddrPort // the guest's end, and the other on the uplink; of echo the port is its identifier
	Opener       Direction      // in which its first packet went
	Next         [2]NextHop
	Generation   uint32         // of the ways
	Unused       time.Duration  // since its last packet
	Idle         time.Duration  // after which without a packet it is over
	Window       [2]WindowState // of the guest, and of the other
}

// WindowState is what is known of one side of a connection that is open, see tcpSide. Sequence numbers are in host byte order.
type WindowState struct {
	UNA, End, Edge uint32
	Window         uint32 // bytes
	Shift          uint8  // by which the windows are scaled that this side offers (RFC 7323 2.2)
}

// Offloaded is what was forwarded of a flow since it was offered, by Direction. Bytes count from the IP header on.
type Offloaded struct {
	Unused         time.Duration
	Packets, Bytes [2]uint64
}

// A flow is offered first when it has had some packets, since one that is soon over is not worth it, and then now and then until it is taken.
const offerFirst, offerEvery = 16, 64

// SetTier has flows between guests and the uplink offered, but for guests that have limits for packets or whose policy is in shadow mode: there each packet
// is counted. Before the engine is used.
func (e *Engine) SetTier(o Tier) {
	for i := range e.guests {
		g := &e.guests[i]
		g.offers = !g.shadow && g.limits.Packets == 0 && g.limits.Bandwidth == 0
		g.table.setTier(o)
	}
}

// setTier gives a table its tier, always the same.
func (t *FlowTable) setTier(o Tier) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.offload = o
}

// offer offers a guest's flow that it has just accepted a packet of, if it is time for it.
func (t *FlowTable) offer(f *Flow, g *Guest, now time.Duration) {
	if t.offload == nil || f.offloaded != 0 || (f.Packets[0]+f.Packets[1])%offerEvery != offerFirst || !f.offloadable() {
		return
	}
	inner, outer := f.Src(), f.Dst()
	if f.way(0) == Ingress {
		inner, outer = outer, inner
	}
	o := OffloadFlow{Guest: g, Proto: f.Key.Proto, Inner: inner, Outer: outer, Opener: f.way(0), Generation: f.Generation, Unused: now - f.used,
		Idle: f.queue.idle(), Window: f.windows()}
	for dir, next := range f.next {
		o.Next[f.way(dir)] = next
	}
	if place, ok := t.offload.Offer(&o); ok {
		f.offloaded = place
	}
}

// offloadable tells whether nothing but plain packets between a guest and the uplink is to be expected of a flow.
func (f *Flow) offloadable() bool {
	return (f.From == SideUplink || f.To == SideUplink) && f.next[0] != NextHop{} && f.next[1] != NextHop{} && f.settled(f.State)
}

// settled tells whether in a state a packet changes nothing but windows.
func (f *Flow) settled(s FlowState) bool {
	switch f.Key.Proto {
	case ProtoTCP:
		return s == TCPEstablished
	case ProtoUDP, ProtoICMP, ProtoICMPv6:
		return s == FlowReplied
	}
	return false
}

// way is a direction of a flow as its guest sees it, the other end being the uplink.
func (f *Flow) way(dir int) Direction {
	if f.side(dir) == SideUplink {
		return Ingress
	}
	return Egress
}

// catchUp takes over what was forwarded elsewhere of the flow i, and tells what was here.
func (t *FlowTable) catchUp(i uint32) {
	if f := t.at(i); f.offloaded != 0 {
		w := f.windows()
		f.follow(t.offload.Look(f.offloaded, &w), &w, t.now)
	}
}

// raise has it known elsewhere what was accepted here of the flow i.
func (t *FlowTable) raise(i uint32) {
	if f := t.at(i); f.offloaded != 0 {
		w := f.windows()
		t.offload.Raise(f.offloaded, &w, t.now-f.used)
	}
}

// withdraw takes the flow i back.
func (t *FlowTable) withdraw(i uint32) {
	f := t.at(i)
	if f.offloaded == 0 {
		return
	}
	w := f.windows()
	o := t.offload.Withdraw(f.offloaded, &w)
	f.follow(o, &w, t.now)
	f.offloaded = 0
	t.changed.note(i)
	f.add(&o)
}

// add counts what was forwarded elsewhere.
func (f *Flow) add(o *Offloaded) {
	for dir := range f.Packets {
		f.Packets[dir] += o.Packets[f.way(dir)]
		f.Bytes[dir] += o.Bytes[f.way(dir)]
	}
}

// copyOf is a copy of the flow i with what was forwarded elsewhere of it.
func (t *FlowTable) copyOf(i uint32) Flow {
	f := *t.at(i)
	if f.offloaded != 0 {
		w := f.windows()
		o := t.offload.Look(f.offloaded, &w)
		f.follow(o, &w, t.now)
		f.add(&o)
	}
	return f
}

// Offloaded tells of a copy whether a tier had the flow.
func (f *Flow) Offloaded() bool { return f.offloaded != 0 }

func (f *Flow) follow(o Offloaded, w *[2]WindowState, now time.Duration) {
	f.used = max(f.used, now-o.Unused)
	if f.Key.Proto == ProtoTCP {
		f.setWindows(w)
	}
}

// windows is what is known of both sides, by the direction in which they send.
func (f *Flow) windows() (w [2]WindowState) {
	for dir := range f.tcp.side {
		x := &f.tcp.side[dir]
		w[f.way(dir)] = WindowState{UNA: x.una, End: x.end, Edge: x.edge, Window: x.window}
		if f.tcp.side[0].flags&f.tcp.side[1].flags&sideScales != 0 {
			w[f.way(dir)].Shift = x.scale
		}
	}
	return w
}

func (f *Flow) setWindows(w *[2]WindowState) {
	for dir := range f.tcp.side {
		x, y := &f.tcp.side[dir], &w[f.way(dir)]
		x.una, x.end, x.edge, x.window = y.UNA, y.End, y.Edge, y.Window
	}
}

// expired tells whether a flow is over, as far as anybody knows.
func (t *FlowTable) expired(i uint32, now time.Duration) bool {
	f := t.at(i)
	if f.expired(now) {
		t.catchUp(i)
	}
	return f.expired(now)
}
