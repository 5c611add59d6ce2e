package router

import (
	"encoding/binary"

	"udrouter/policy"
	"udrouter/stack"
)

// Kinds of policy.NextHop, in its first byte; the rest is a number: the guest's ID, or slot and serial of the neighbour. What a flow remembers
// holds as long as its world, whose generation it has with it. A neighbour's MAC is not remembered, but read for each packet, so that all flows
// follow it at once.
const (
	nextGuest = iota + 1
	nextUplink
	nextHost
)

func (w *worker) hopToGuest(g *policy.Guest) hop {
	h := hop{side: stack.Guests, dst: g.MAC, src: w.world.RouterMAC, mtu: w.world.guestMTU, guest: g, next: policy.NextHop{nextGuest}}
	binary.NativeEndian.PutUint32(h.next[4:], uint32(g.ID))
	return h
}

// hopToUplink has no dst where the neighbour's MAC is not known, which ok tells. A neighbour without a slot is not remembered.
func (w *worker) hopToUplink(n *neighbour) (h hop, ok bool) {
	h = hop{side: stack.UplinkSide, src: w.world.UplinkMAC, mtu: w.world.kernel.Uplink.MTU}
	if n.slot >= 0 {
		h.next[0] = nextUplink
		binary.NativeEndian.PutUint16(h.next[2:], uint16(n.slot))
		binary.NativeEndian.PutUint32(h.next[4:], n.serial)
	}
	h.dst, ok = n.mac()
	return h, ok
}

func (w *worker) hopToHost() hop {
	return hop{side: stack.Host, mtu: w.world.guestMTU, next: policy.NextHop{nextHost}}
}

// hit forwards a packet whose flow remembers its way. What it does not forward has left no trace, and goes the long way: guards, rules, lookups.
// Both ways count and change the same.
func (w *worker) hit(f *stack.Frame, p *policy.Packet) bool {
	wd := w.world
	if w.longWay || !p.Plain() || p.TTL <= 1 || p.SegmentLen() > wd.leastMTU {
		return false
	}
	var g *policy.Guest
	from := policy.SideUplink
	switch w.side {
	case stack.Guests:
		if g = wd.ByMAC(p.SrcMAC); g == nil || p.DstMAC != wd.RouterMAC {
			return false
		}
		from = g.Side
	case stack.UplinkSide:
		if p.DstMAC != wd.UplinkMAC || !wd.MayBeOnUplink(p.SrcMAC) {
			return false
		}
		g = wd.ByAddr(p.Dst)
	case stack.Host:
		from = policy.SideHost
		g = wd.ByAddr(p.Dst)
	}
	if g == nil {
		return false
	}
	if _, ok := wd.engine.Hit(p, g, from, wd.generation, w.now(), w.passable); !ok {
		return false
	}
	if w.side == stack.Guests {
		w.sentBy(g, p)
	}
	w.hits++
	w.emit(f, p, w.way)
	return true
}

// locate turns what a flow remembers into a hop, in w.way. It is false where the packet cannot go there now.
func (w *worker) locate(next policy.NextHop) (ok bool) {
	switch next[0] {
	case nextGuest:
		w.way = w.hopToGuest(w.world.Guests[binary.NativeEndian.Uint32(next[4:])])
	case nextUplink:
		n := w.neighbours.slots[binary.NativeEndian.Uint16(next[2:])].Load()
		if n == nil || n.serial != binary.NativeEndian.Uint32(next[4:]) {
			return false
		}
		w.way, ok = w.hopToUplink(n)
		return ok
	default:
		w.way = w.hopToHost()
	}
	return true
}

// remember has a packet's flow remember where it went.
func (w *worker) remember(p *policy.Packet, h hop) {
	if h.next != (policy.NextHop{}) && p.Plain() {
		w.world.engine.Remember(&w.verdict, h.next, w.world.generation)
	}
}
