package importer

import (
	"net/netip"
	"slices"

	"udrouter/policy"
)

// addrSet is a set of addresses of one family: everyone, or a list of prefixes, which may be empty.
type addrSet struct {
	some bool
	list []netip.Prefix // masked; without meaning unless some
}

func (s addrSet) empty() bool { return s.some && len(s.list) == 0 }

// and is what is in both.
func (s addrSet) and(t addrSet) addrSet {
	switch {
	case !s.some:
		return t
	case !t.some:
		return s
	}
	out := addrSet{some: true}
	for _, a := range s.list {
		for _, b := range t.list {
			switch {
			case a.Bits() >= b.Bits() && b.Contains(a.Addr()):
				out.list = append(out.list, a)
			case a.Contains(b.Addr()):
				out.list = append(out.list, b)
			}
		}
	}
	slices.SortFunc(out.list, netip.Prefix.Compare)
	out.list = slices.Compact(out.list)
	return out
}

// minus is what of a list is in none of others.
func minus(list, others []netip.Prefix) (out []netip.Prefix) {
	for _, p := range list {
		out = append(out, without(p, others)...)
	}
	return out
}

func without(p netip.Prefix, others []netip.Prefix) (out []netip.Prefix) {
	hit := false
	for _, o := range others {
		if o.Bits() <= p.Bits() && o.Contains(p.Addr()) {
			return nil
		}
		hit = hit || p.Overlaps(o)
	}
	if !hit {
		return []netip.Prefix{p}
	}
	lo, hi := halves(p)
	return append(without(lo, others), without(hi, others)...)
}

// halves are the two prefixes that make up one with less than all bits.
func halves(p netip.Prefix) (lo, hi netip.Prefix) {
	b := p.Addr().AsSlice()
	b[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(p.Addr(), p.Bits()+1), netip.PrefixFrom(a, p.Bits()+1)
}

// everyone is all addresses of a family.
func everyone(v6 bool) netip.Prefix {
	if v6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

func (s addrSet) maybeNot(not, v6 bool) addrSet {
	if !not {
		return s
	}
	return addrSet{some: true, list: minus([]netip.Prefix{everyone(v6)}, s.list)}
}

// and is the match of packets that both match.
func (m match) and(n match) match {
	m.in, m.out = slices.Concat(m.in, n.in), slices.Concat(m.out, n.out)
	m.src, m.dst = m.src.and(n.src), m.dst.and(n.dst)
	m.states &= n.states
	m.other = slices.Concat(m.other, n.other)
	m.never = m.never || n.never
	switch {
	case m.proto == policy.AnyProto:
		m.proto = n.proto
	case n.proto != policy.AnyProto && n.proto != m.proto:
		m.never = true
	}
	switch {
	case m.icmp < 0:
		m.icmp = n.icmp
	case n.icmp >= 0 && n.icmp != m.icmp:
		m.never = true
	}
	if m.ports == nil {
		m.ports = n.ports
	} else if n.ports != nil {
		var both []policy.PortRange
		for _, a := range m.ports {
			for _, b := range n.ports {
				if lo, hi := max(a.First, b.First), min(a.Last, b.Last); lo <= hi {
					both = append(both, policy.PortRange{First: lo, Last: hi})
				}
			}
		}
		m.ports = both
		m.never = m.never || len(both) == 0
	}
	if n.comment != "" {
		m.comment = n.comment
	}
	m.never = m.never || m.src.empty() || m.dst.empty() || m.states == 0
	return m
}

// flat is a rule that decides.
type flat struct {
	match
	action policy.Action
	use    *usage
}

// flattener puts user-defined chains in the place of the jumps to them.
type flattener struct {
	*setup
	table *table
	dflt  policy.Action
	out   []flat
}

const maxDepth = 16 // of jumps

func (in *setup) flatten(t *table, name string) ([]flat, policy.Action) {
	c := t.chain(name)
	f := &flattener{setup: in, table: t, dflt: policy.Accept}
	if c.policy == "DROP" {
		f.dflt = policy.Drop
	}
	f.expand(c, everything(), 0)
	return f.out, f.dflt
}

func (f *flattener) expand(c *chain, outer match, depth int) {
	for _, r := range c.rules {
		m := outer.and(r.match)
		if m.never {
			r.use.need("no packet meets all its conditions")
			continue
		}
		at := r.use.note
		switch {
		case len(f.out) >= maxRules || depth > maxDepth:
			f.failf(at.File, at.Line, "jumps from chain to chain make more than %d rules, or are more than %d deep", maxRules, maxDepth)
			return
		case slices.Contains(quiet, r.target):
			r.use.need("it says nothing of what passes; `udrouter drops` and `udrouter status` count")
		case r.target == "ACCEPT":
			f.out = append(f.out, flat{m, policy.Accept, r.use})
		case r.target == "DROP":
			f.out = append(f.out, flat{m, policy.Drop, r.use})
		case r.target == "REJECT":
			f.out = append(f.out, flat{m, policy.Reject, r.use})
		case r.target == "RETURN" && depth == 0:
			f.out = append(f.out, flat{m, f.dflt, r.use})
		case r.target == "RETURN":
			r.use.carried = true
			if r.unconditional() {
				return
			}
			outer = f.except(outer, r)
		case r.jump && f.table.chains[r.target] != nil:
			r.use.carried = true
			f.expand(f.table.chains[r.target], m, depth+1)
			if r.goes {
				if r.unconditional() {
					return
				}
				outer = f.except(outer, r)
			}
		default: // what a program or an unknown target does with it, nobody knows
			m.other = append(m.other, "-j "+clean(r.target))
			f.out = append(f.out, flat{m, policy.Drop, r.use})
		}
	}
}

// except has the rules that follow know that they do not see everything.
func (f *flattener) except(outer match, r *rule) match {
	outer.other = append(slices.Clone(outer.other), "not what "+r.use.note.place()+" has sent back before")
	r.use.leave("the rules after it in its chain do not see what it matches, which cannot be said: those of them that accept are left out")
	return outer
}

func (r *rule) unconditional() bool {
	m := r.match
	return len(m.in)+len(m.out)+len(m.other) == 0 && !m.src.some && !m.dst.some && m.proto == policy.AnyProto && m.ports == nil && m.states == anyState && m.icmp < 0
}
