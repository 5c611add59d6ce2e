package policy

import (
	"hash/maphash"
	"time"
)

// What the forwarder remembers of a flow lets the next packet of a direction go its way without the guards, rules and lookups that the one
// before it went through. They all depend on nothing but the flow's key, the side that the packet comes from, and what the
// forwarder's generation stands for: bindings, policy, addresses and routes. What depends on the packet itself is either looked at by Hit, or is the
// forwarder's to look at: MACs, TTL, size, and that it is Plain.

// Plain tells whether a packet is like every other of its flow to the guards: TCP, UDP but DHCP, or echo, whole, without IPv4 options and IPv6 extension
// headers.
func (p *Packet) Plain() bool {
	if p.Fragment {
		return false
	}
	switch p.Proto {
	case ProtoTCP:
	case ProtoUDP:
		if p.mayBeDHCP() {
			return false
		}
	default:
		if !p.IsEchoRequest() && !p.isEchoReply() {
			return false
		}
	}
	return p.IsIPv4() && p.L4 == EthernetLen+IPv4Len || p.IsIPv6() && p.L4 == EthernetLen+IPv6Len
}

// Hit is Decide for a plain packet between a guest and the uplink or dom0, whose flow remembers its way (see Remember) by that generation. ok is
// false where it does not, where passable says no of the way, and where Decide would refuse the packet: Decide is to be asked then, and nothing has
// been counted.
//
// It allocates nothing, and takes one lock, which other flows of the same guest share.
func (e *Engine) Hit(p *Packet, g *Guest, from Side, generation uint32, now time.Duration, passable func(NextHop) bool) (next NextHop, ok bool) {
	key, reversed, ok := p.FlowKey()
	if !ok {
		return next, false
	}
	ge := &e.guests[g.ID]
	t, way := ge.table, Ingress
	if from == g.Side {
		way = Egress
	}
	hash := uint32(maphash.Comparable(t.seed, key))
	t.mu.Lock()
	defer t.mu.Unlock()
	now = t.clock(now)
	i := t.find(&key, hash)
	if i == 0 {
		return next, false
	}
	f := t.at(i)
	dir := f.dir(reversed)
	next = f.next[dir]
	if f.Generation != generation || next == (NextHop{}) || from != f.side(dir) || f.expired(now) || !passable(next) {
		return next, false
	}
	r, ok := t.accept(p, i, dir, now, func() Reason { return ge.meter.Admit(p, way, false, now) })
	if !ok || r != None {
		return next, false
	}
	if ge.offers {
		t.offer(f, g, now)
	}
	return next, true
}

// Remember notes where the direction of a flow that a packet was admitted by goes, for Hit. The generation is not 0. It does so for flows between a
// guest and the uplink or dom0; of two guests both decide, and of a policy in shadow mode each packet is counted.
func (e *Engine) Remember(v *Verdict, next NextHop, generation uint32) {
	if v.table != nil {
		v.table.SetNext(v.flow, v.reply, next, generation)
	}
}
