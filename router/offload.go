package router

import (
	"encoding/binary"
	"errors"
	"slices"

	"udrouter/policy"
	"udrouter/stack/offload"
)

// tier has the kernel forward what flows remember, see package offload. It is policy.Tier, and knows what a policy.NextHop is.
type tier struct{ *offload.Tier }

// Offer implements policy.Tier.
func (t tier) Offer(f *policy.OffloadFlow) (place uint16, ok bool) {
	out, in := f.Next[policy.Egress], f.Next[policy.Ingress]
	if out[0] != nextUplink || in[0] != nextGuest || int(binary.NativeEndian.Uint32(in[4:])) != f.Guest.ID {
		return 0, false
	}
	return t.Put(f, int(binary.NativeEndian.Uint16(out[2:])), binary.NativeEndian.Uint32(out[4:]))
}

// offer has the kernel offered the flows of a plan.
func (r *Router) offer(pl *plan) {
	if r.Tier != nil {
		pl.engine.SetTier(tier{r.Tier})
	}
}

// stopOffload has the kernel forward nothing until follow.
func (r *Router) stopOffload() {
	if r.Tier != nil {
		_ = r.Tier.SetWorld(offload.World{})
	}
}

// suspendOffload has the router get everything and forward it by itself, also what it would leave to the kernel, so that another may take over.
func (r *Router) suspendOffload() error {
	if r.Tier == nil {
		return nil
	}
	r.updating.Lock()
	defer r.updating.Unlock()
	r.suspended = true
	r.stopOffload() // first, or a packet is forwarded twice
	return r.Uplink.SetScreen(nil)
}

func (r *Router) resumeOffload() error {
	if r.Tier == nil {
		return nil
	}
	r.updating.Lock()
	defer r.updating.Unlock()
	if err := r.Uplink.SetScreen(r.Tier); err != nil {
		return err
	}
	r.suspended, r.behind = false, false // watchOffload looks again
	r.follow(r.current.Load())
	return nil
}

// watchOffload has the router do all by itself while there is another program before the tier's on the uplink, while that is taken away, or while the kernel
// does not tell: the sockets are spared what would then get nowhere.
func (r *Router) watchOffload() {
	if r.Tier == nil || !r.updating.TryLock() {
		return
	}
	defer r.updating.Unlock()
	if r.suspended {
		return
	}
	switch err := r.Tier.InFront(); {
	case err != nil && !r.behind:
		r.behind = true
		r.stopOffload() // first, or a packet is forwarded twice
		r.log.Warn("the kernel forwards nothing by itself any more; the router does", "error", errors.Join(err, r.Uplink.SetScreen(nil)))
	case err == nil && r.behind:
		if r.Uplink.SetScreen(r.Tier) != nil { // as long as not, all goes on, and it is tried again
			return
		}
		r.behind = false
		r.follow(r.current.Load())
		r.log.Info("the kernel forwards by itself again")
	}
}

// follow has the kernel forward by a world, unless it is suspended or behind; r.updating is held, but in New. Where it cannot, the router does all by itself.
func (r *Router) follow(w *world) {
	if r.Tier == nil || r.suspended || r.behind {
		return
	}
	if err := r.Tier.SetWorld(r.offloadWorld(w)); err != nil {
		r.log.Warn("the kernel forwards nothing by itself; the router does", "error", err)
	}
}

// offloadWorld is what the kernel forwards by: nothing where the uplink is down, or while a capture is to see what it would forward. r.updating is held, but in New.
func (r *Router) offloadWorld(w *world) offload.World {
	to := offload.World{Generation: w.generation, MTU: w.leastMTU, Uplink: w.kernel.Uplink.Index, RouterMAC: w.RouterMAC, UplinkMAC: w.UplinkMAC}
	if !w.kernel.Uplink.Up || slices.ContainsFunc(r.capturing.list(), (*capture).wantsAccepted) {
		to.Generation = 0
	}
	return to
}

// beginCapture shows a capture what arrives from now on. What the kernel has forwarded by itself so far, the router forwards until endCapture, if the capture wants it.
func (r *Router) beginCapture(c *capture) error {
	r.updating.Lock()
	defer r.updating.Unlock()
	if err := r.capturing.add(c); err != nil {
		return err
	}
	r.follow(r.current.Load())
	return nil
}

func (r *Router) endCapture(c *capture) {
	r.updating.Lock()
	defer r.updating.Unlock()
	r.capturing.remove(c)
	r.follow(r.current.Load())
}

// tell has the kernel send what it forwards to a neighbour to a MAC; zero: nothing. n.mu is held.
func (s *neighbours) tell(n *neighbour, mac policy.MAC) {
	if s.r.Tier != nil && n.slot >= 0 && !n.removed {
		s.r.Tier.SetNeighbour(n.slot, n.serial, mac)
	}
}

// learned notes a neighbour's MAC, or with zero its loss.
func (s *neighbours) learned(n *neighbour, mac policy.MAC) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.bits.Store(mac.Bits())
	s.tell(n, mac)
}

// inUse tells whether packets went to a neighbour since the last tick, by the router or by the kernel.
func (s *neighbours) inUse(n *neighbour) bool {
	if s.r.Tier != nil && n.slot >= 0 && s.r.Tier.NeighbourUsed(n.slot) {
		n.used.Store(true)
	}
	return n.used.Load()
}

// offloaded is what the kernel has forwarded, by its guest's side, and in all.
func (r *Router) offloaded() (guests map[policy.Side]offload.Counters, all offload.Counters) {
	if r.Tier == nil {
		return nil, all
	}
	return r.Tier.Counters()
}

// retain says whose flows may be offered from now on.
func (r *Router) retain(guests []*policy.Guest) {
	if r.Tier == nil {
		return
	}
	sides := make([]policy.Side, len(guests))
	for i, g := range guests {
		sides[i] = g.Side
	}
	r.Tier.Retain(sides)
}

// passed is what of that was received by and sent to a link: packets and bytes of the one, and of the other.
func (r *Router) passed(link string, all offload.Counters) [4]uint64 {
	in, out := policy.Egress, policy.Ingress
	switch link {
	case r.Guests.Name():
	case r.Uplink.Name():
		in, out = out, in
	default:
		return [4]uint64{}
	}
	return [4]uint64{all.Packets[in], all.Bytes[in], all.Packets[out], all.Bytes[out]}
}

// addOffloaded adds to a status what the kernel has forwarded.
func (r *Router) addOffloaded(s *Status) {
	guests, all := r.offloaded()
	s.Flows.OffloadHits = r.offloadedBefore.Load() + all.Packets[policy.Egress] + all.Packets[policy.Ingress]
	if r.Tier == nil {
		return
	}
	s.Flows.Offloaded, _ = r.Tier.Flows()
	for i, g := range r.current.Load().Guests {
		if i >= len(s.Domus) || s.Domus[i].Name != g.Name { // reloaded just now
			break
		}
		c, d := guests[g.Side], &s.Domus[i]
		d.TxPackets += c.Packets[policy.Egress]
		d.TxBytes += c.Bytes[policy.Egress]
		d.RxPackets += c.Packets[policy.Ingress]
		d.RxBytes += c.Bytes[policy.Ingress]
	}
	for i := range s.Links {
		l := &s.Links[i]
		p := r.passed(l.Name, all)
		l.RxPackets += p[0]
		l.RxBytes += p[1]
		l.TxPackets += p[2]
		l.TxBytes += p[3]
	}
}
