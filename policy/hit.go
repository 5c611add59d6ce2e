package policy

import (
	"hash/maphash"
	"time"
)

// What the forwarder remembers of a flow lets the next packet of a direction go its way without the guards, rules and lookups that the one
// before it went through. They all depend on nothing but the flow's key, the side that the packet comes from, and what the
// forwarder's generation stands for: bindings, policy, addresses and routes. What depends on the packet itself is either looked at by Hit, or is the
// forwarder's to look at: MACs, TTL, size, and that it is Plain.

// Plain tells whether a packet is like every other of its flow to the guards: TCP, or UDP but DHCP, whole, without IPv4 options and IPv6 extension headers.
func (p *Packet) Plain() bool {
	if p.Fragment || p.Proto != ProtoTCP && p.Proto != ProtoUDP || p.Proto == ProtoUDP && p.mayBeDHCP() {
		return false
	}
	return p.IsIPv4() && p.L4 == EthernetLen+IPv4Len || p.IsIPv6() && p.L4 == EthernetLen+IPv6Len
}

// Hit is Decide for a plain packet of a flow of a guest's that the forwarder remembers the way of, see Remember: None of its
// generation means that it is to be decided anew, by Decide, and nothing has been counted. So it is for all that Decide would refuse, and where
// passable says no.
//
// It allocates nothing, and takes one lock, which other flows of the same guest share.
func (e *Engine) Hit(p *Packet, g *Guest, from Side, generation uint32, now time.Duration, passable func(NextHop) bool) (NextHop, bool) {
	key, reversed, ok := p.FlowKey()
	if !ok {
		return NextHop{}, false
	}
	ge := &e.guests[g.ID]
	t, dir := ge.table, Ingress
	if from == SideGuest+Side(g.ID) {
		dir = Egress
	}
	hash := uint32(maphash.Comparable(t.seed, key))
	t.mu.Lock()
	defer t.mu.Unlock()
	now = t.clock(now)
	i := t.find(&key, hash)
	if i == 0 {
		return NextHop{}, false
	}
	f := t.at(i)
	d := 0
	if reversed != f.Reversed {
		d = 1
	}
	next := f.next[d]
	if f.Generation != generation || next == (NextHop{}) || from != f.side(d) || f.expired(now) || !passable(next) {
		return NextHop{}, false
	}
	conn, state, quiet := f.tcp, f.State, false
	if key.Proto == ProtoTCP {
		s, ok := p.segment()
		if !ok || s.opens() && (f.State == TCPTimeWait || f.State == TCPClosed) {
			return NextHop{}, false
		}
		var r Reason
		if r, quiet = conn.advance(d, &s); r != None {
			return NextHop{}, false
		}
		state = conn.state()
	}
	if ge.meter.Admit(p, dir, false, now) != None {
		return NextHop{}, false
	}
	f.tcp, f.State = conn, state
	f.count(d, p)
	if !quiet {
		t.touch(i, now)
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
