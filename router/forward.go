package router

import (
	"encoding/binary"
	"net/netip"
	"time"

	"udrouter/policy"
	"udrouter/stack"
)

// hop is where a packet leaves.
type hop struct {
	side     stack.Side
	dst, src policy.MAC
	mtu      int // bytes of IP
	guest    *policy.Guest
	next     policy.NextHop // the same for a flow to remember; zero: not
}

// forward sends a packet that the guards have passed where it goes. from is the guest that sent it, nil elsewhere.
func (w *worker) forward(f *stack.Frame, p *policy.Packet, from *policy.Guest) {
	t, to, reason := w.world.way(p, w.end(from))
	switch {
	case reason != policy.None:
		w.drop(from, reason)
	case p.HopOption != 0:
		w.refuseOption(p, from, to, p.HopOption)
	case t == toRouter:
		w.local(f, p, from)
	case t == toHost:
		w.toHost(f, p, from)
	case t == toUplink:
		w.toUplink(f, p, from)
	default:
		w.toGuest(f, p, from, to)
	}
}

// refuseOption drops a packet for an IPv6 option and tells its sender, where the option says so.
func (w *worker) refuseOption(p *policy.Packet, from, to *policy.Guest, at int) {
	w.dropBetween(from, to, policy.IPv6Option)
	if p.TellOption(at) {
		w.report(p, from, stack.UnknownOption(at))
	}
}

func (w *worker) toGuest(f *stack.Frame, p *policy.Packet, from, to *policy.Guest) {
	if !w.admit(p, from, toGuest.end(to)) {
		return
	}
	w.send(f, p, from, w.hopToGuest(to))
}

func (w *worker) toUplink(f *stack.Frame, p *policy.Packet, from *policy.Guest) {
	if !w.admit(p, from, toUplink.end(nil)) {
		return
	}
	addr, ok := w.world.nextHop(p.Dst)
	if !ok {
		w.drop(from, policy.NoRoute)
		w.report(p, from, stack.NetUnreachable)
		return
	}
	n := w.neighbours.get(addr, w.world.Upstream[addr], w.world.of(from))
	if n == nil {
		w.drop(from, policy.NoNeighbour)
		return
	}
	h, ok := w.hopToUplink(n)
	if ok {
		w.send(f, p, from, h)
		return
	}
	// All that can be wrong with the packet is told before it waits.
	if !w.fits(p, from, h) {
		return
	}
	w.fate.passed, w.fate.to = true, h.side
	c := f.Clone()
	c.Cut(len(p.Frame))
	w.neighbours.wait(n, pendingFrame{frame: c, from: from, plan: w.world.plan})
}

// toHost passes what the guest's egress rules and the host policy admit, and what answers dom0.
func (w *worker) toHost(f *stack.Frame, p *policy.Packet, from *policy.Guest) {
	if w.admit(p, from, toHost.end(nil)) {
		w.send(f, p, from, w.hopToHost())
	}
}

// followsToHost tells whether a later fragment of ICMP, to an address that the router shares with dom0, belongs to a datagram for dom0.
func (w *worker) followsToHost(p *policy.Packet, from *policy.Guest) bool {
	if p.L4 != 0 || !w.world.host {
		return false
	}
	v := w.world.engine.Decide(p, w.end(from), toHost.end(nil), w.now())
	if v.Action != policy.Accept {
		return false
	}
	w.countWould(&v, p)
	return true
}

// local answers an echo request to the router.
func (w *worker) local(f *stack.Frame, p *policy.Packet, from *policy.Guest) {
	switch {
	case w.world.Held[p.Dst] && w.followsToHost(p, from):
		w.send(f, p, from, hop{side: stack.Host, mtu: w.world.guestMTU})
	case p.EndProblem < 0:
		w.drop(from, policy.Malformed)
	case p.EndRouting: // RFC 8200 4.4: it follows none, of type 0 as of others (RFC 5095 3)
		w.drop(from, policy.RoutingHeader)
		w.report(p, from, stack.HeaderField(p.EndProblem))
	case p.EndProblem > 0:
		w.refuseOption(p, from, nil, p.EndProblem)
	case w.side != stack.Host && !w.take(w.world.of(from).echoes):
		w.drop(from, policy.RouterLimit)
	case f.Flags&policy.NeedsCsum == 0 && !intact(p):
		w.drop(from, policy.Checksum)
	default:
		stack.CompleteChecksum(f)
		if !w.netstack.Load().Deliver(w.side, p) {
			w.drop(from, policy.Internal)
			w.rebuildNetstack()
		}
	}
}

// intact tests the checksum of an ICMP message to the router (RFC 792, RFC 4443 2.3). Netstack does too, without a word; a datagram in
// pieces is left to it.
func intact(p *policy.Packet) bool {
	switch {
	case p.Fragment:
		return true
	case p.IsIPv6():
		return policy.ICMPv6ChecksumOK(p.Src, p.Dst, p.Frame[p.L4:])
	}
	return policy.FoldChecksum(policy.Sum(p.Frame[p.L4:], 0)) == 0xffff
}

// fits tells whether a packet may leave by a hop: TTL and MTU. If not, it is counted and its sender told.
func (w *worker) fits(p *policy.Packet, from *policy.Guest, h hop) bool {
	if p.TTL <= 1 {
		w.dropBetween(from, h.guest, policy.TTLExceeded)
		w.report(p, from, stack.TimeExceeded)
		return false
	}
	if p.SegmentLen() > h.mtu && (p.IsIPv6() || p.DF) {
		w.dropBetween(from, h.guest, policy.TooBig)
		// No IPv6 sender goes below 1280 (RFC 8201 4), so to tell it a smaller MTU helps nobody.
		if mtu := max(h.mtu, 1280); p.IsIPv4() {
			w.report(p, from, stack.TooBig(h.mtu))
		} else if p.SegmentLen() > mtu {
			w.report(p, from, stack.TooBig(mtu))
		}
		return false
	}
	return true
}

// send decides, changes and queues.
func (w *worker) send(f *stack.Frame, p *policy.Packet, from *policy.Guest, h hop) {
	if !w.fits(p, from, h) {
		return
	}
	w.remember(p, h)
	if p.SegmentLen() <= h.mtu {
		w.emit(f, p, h)
		return
	}
	w.change(f, p, h)
	var parts []*stack.Frame
	for _, s := range stack.Segment(f, p) {
		pieces := stack.Fragment(s, h.mtu)
		if pieces == nil { // all or nothing
			w.dropBetween(from, h.guest, policy.TooBig)
			return
		}
		parts = append(parts, pieces...)
	}
	w.out[h.side] = append(w.out[h.side], parts...)
}

// emit changes and queues a packet that fits.
func (w *worker) emit(f *stack.Frame, p *policy.Packet, h hop) {
	w.change(f, p, h)
	w.out[h.side] = append(w.out[h.side], f)
}

// change makes a packet what it is on its next link, MACs and TTL being all that changes in one that is forwarded, and counts it as its receiver's.
func (w *worker) change(f *stack.Frame, p *policy.Packet, h hop) {
	w.fate.passed, w.fate.to = true, h.side
	f.Trim(p)
	f.SetEthernet(h.dst, h.src, p.EtherType)
	decrement(f.Bytes(), p.IsIPv4())
	if h.guest != nil {
		w.tally.received(h.guest, len(p.Frame))
	}
}

// decrement takes one from TTL or hop limit, and gives the IPv4 header checksum what that makes (RFC 1141), which is never
// the 0xffff that RFC 1624 warns of.
func decrement(frame []byte, v4 bool) {
	ip := frame[policy.EthernetLen:]
	if !v4 {
		ip[7]--
		return
	}
	ip[8]--
	sum := uint32(binary.BigEndian.Uint16(ip[10:])) + 0x0100
	if sum >= 0xffff {
		sum++
	}
	binary.BigEndian.PutUint16(ip[10:], uint16(sum))
}

// transmit puts what netstack sends on a link. It is called from any goroutine, also from within Deliver.
func (r *Router) transmit(side stack.Side, f *stack.Frame) {
	wd := r.current.Load()
	if side == stack.Resolver {
		r.links[stack.UplinkSide].Write([]*stack.Frame{f})
		return
	}
	dst, ok := destination(f)
	link := r.links[side]
	if !ok || link == nil || wd == nil {
		r.count(nil, policy.Internal, nil)
		return
	}
	mac, src := policy.MAC{}, wd.RouterMAC
	switch side {
	case stack.Guests:
		if mac, ok = wd.guestMAC(dst); !ok {
			r.count(nil, policy.UnboundDst, nil)
			return
		}
	case stack.UplinkSide:
		src = wd.UplinkMAC
		hop, ok := wd.nextHop(dst)
		if !ok {
			r.count(nil, policy.NoRoute, nil)
			return
		}
		n := r.neighbours.get(hop, wd.Upstream[hop], r.nobody)
		if n == nil {
			r.count(nil, policy.NoNeighbour, nil)
			return
		}
		if mac, ok = n.mac(); !ok {
			r.neighbours.wait(n, pendingFrame{frame: f, plan: wd.plan, own: true})
			return
		}
	}
	f.SetEthernet(mac, src, etherType(dst))
	link.Write([]*stack.Frame{f})
}

// guestMAC is the MAC of the guest that has an address, link-local ones included.
func (wd *world) guestMAC(a netip.Addr) (policy.MAC, bool) {
	if a.IsLinkLocalUnicast() && a.Is6() {
		return wd.LinkLocals.Owner(a)
	}
	if g := wd.ByAddr(a); g != nil {
		return g.MAC, true
	}
	return policy.MAC{}, false
}

func destination(f *stack.Frame) (netip.Addr, bool) {
	ip := f.Bytes()[policy.EthernetLen:]
	switch {
	case len(ip) >= policy.IPv4Len && ip[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(ip[16:20])), true
	case len(ip) >= policy.IPv6Len && ip[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(ip[24:40])), true
	}
	return netip.Addr{}, false
}

func etherType(a netip.Addr) uint16 {
	if a.Is4() {
		return policy.EtherIPv4
	}
	return policy.EtherIPv6
}

// now is the monotonic time since the router was made.
func (r *Router) now() time.Duration { return r.Clock.NowMonotonic().Sub(r.epoch) }
