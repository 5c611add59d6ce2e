package importer

import (
	"net/netip"
	"slices"
	"strings"

	"udrouter/policy"
)

// guestPolicy is a policy block.
type guestPolicy struct {
	name            string
	egress, ingress newChain
}

// hostChains are those of the host block; nil: left out.
type hostChains struct{ ingress, uplink *newChain }

// rulesOf are the flat rules of one chain of iptables in both families; a family that no file speaks of has none.
type rulesOf struct {
	known [2]bool
	list  [2][]flat
	dflt  [2]policy.Action
}

func (p *plan) rulesOf(name string) (r rulesOf) {
	for f, t := range p.tables {
		r.dflt[f] = policy.Accept
		if t == nil {
			continue
		}
		if c := t.chain(name); len(c.rules) > 0 || c.policyNote != nil {
			r.known[f] = true
			r.list[f], r.dflt[f] = p.flatten(t, name)
			for i := range r.list[f] {
				p.nameUnknown(&r.list[f][i].match)
			}
		}
	}
	return r
}

// nameUnknown turns an interface that may be a guest's, but whose is not known, into a condition that cannot be said: to match nobody would lose
// a rule that drops.
func (p *plan) nameUnknown(m *match) {
	nameless := slices.ContainsFunc(p.guests, func(g *guest) bool { return g.vif == "" })
	unclear := func(i ifMatch) bool {
		begin, open := strings.CutSuffix(i.name, "+")
		if strings.HasPrefix(begin, "vif") || strings.HasPrefix(begin, "vnet") || strings.HasPrefix(begin, "tap") {
			return open && nameless && begin != "vif" || !open && p.byVif(i.name) == nil
		}
		return (p.uplink == "" || p.bridge == "") && i.name != "lo" && p.existing(i.name) == nil
	}
	known := func(list []ifMatch) (keep []ifMatch) {
		for _, i := range list {
			if unclear(i) {
				m.other = append(m.other, "interface "+clean(i.name))
				continue
			}
			keep = append(keep, i)
		}
		return keep
	}
	m.in, m.out = known(m.in), known(m.out)
}

// translate makes policies and the host block of the rules.
func (p *plan) translate() {
	forward, input, output := p.rulesOf("FORWARD"), p.rulesOf("INPUT"), p.rulesOf("OUTPUT")
	if forward.known[0] || forward.known[1] {
		everyGuest := p.guests
		if len(everyGuest) == 0 {
			everyGuest = []*guest{{name: "one"}} // whoever comes
		}
		for _, g := range everyGuest {
			p.setPolicy(g, p.policyOf(g, forward, output))
		}
	}
	in := p.chain(input, hostView{p}, [2]policy.Action{policy.Drop, policy.Drop})
	p.host.ingress = &in
	if up := p.chain(input, uplinkView{p}, [2]policy.Action{policy.Accept, policy.Accept}); len(up.rules) > 0 || up.dflt != policy.Accept {
		p.host.uplink = &up
	}
	p.settleRules()
}

// chain translates both families; dflt is for a family without rules.
func (p *plan) chain(r rulesOf, v view, dflt [2]policy.Action) newChain {
	return mergeFamilies(p.chains(r, v, dflt))
}

func (p *plan) chains(r rulesOf, v view, dflt [2]policy.Action) (c [2]newChain) {
	for f := range c {
		if !r.known[f] {
			c[f].dflt = dflt[f]
			continue
		}
		c[f] = chainOf(r.list[f], r.dflt[f], f == 1, v)
	}
	return c
}

// policyOf is a guest's policy. What a guest sends another passes its egress, and meets the rules of FORWARD as the other's ingress. What dom0 and the
// guest send each other was INPUT's and OUTPUT's, so it is decided before the rules of FORWARD.
func (p *plan) policyOf(g *guest, forward, output rulesOf) *guestPolicy {
	gp := &guestPolicy{}
	families := p.families()
	build := func(r rulesOf, v view, dflt policy.Action) newChain {
		c := p.chains(r, v, [2]policy.Action{dflt, dflt})
		for f := range c {
			if !families[f] { // as the other, so that its default does not count
				c[f] = newChain{dflt: c[1-f].dflt}
			}
		}
		m := mergeFamilies(c)
		if families[0] != families[1] {
			m.bothFamilies()
		}
		return m
	}
	gp.egress = build(forward, guestView{p, g, false}, policy.Accept)
	if e := &gp.egress; len(e.rules) > 0 || e.dflt != policy.Accept {
		e.rules = append([]newRule{
			{name: "to-dom0", action: "accept", proto: policy.AnyProto, to: []string{"host"}, both: true, says: "host.ingress decides"},
			{name: "to-guests", action: "accept", proto: policy.AnyProto, to: p.otherGuests(), both: true, says: "their ingress decides"},
		}, e.rules...)
	}
	gp.ingress = build(forward, guestView{p, g, true}, policy.Drop)
	fromHost := build(output, outputView{p, g}, policy.Accept)
	for i := range fromHost.rules {
		if r := &fromHost.rules[i]; r.from[0] != "host" { // a family's default
			r.from, r.to = []string{"host"}, r.from
		}
	}
	if i := &gp.ingress; len(i.rules) > 0 || i.dflt != policy.Accept || len(fromHost.rules) > 0 || fromHost.dflt != policy.Accept {
		last := newRule{name: "from-dom0", action: fromHost.dflt.String(), proto: policy.AnyProto, from: []string{"host"}, both: true}
		i.rules = slices.Concat(fromHost.rules, []newRule{last}, i.rules)
	}
	return gp
}

// otherGuests are guests as peers: their networks, or one by one where the provider's router is in there.
func (p *plan) otherGuests() (list []string) {
	nets := slices.Concat(p.netsOf(false), p.netsOf(true))
	if !inList(nets, p.gateway4) && !inList(nets, p.gateway6) {
		return prefixStrings(nets)
	}
	for _, g := range p.guests {
		list = append(list, "domu:"+g.name)
	}
	if len(list) > 0 {
		return list
	}
	for _, gw := range []netip.Addr{p.gateway4, p.gateway6} {
		if gw.IsValid() {
			nets = minus(nets, []netip.Prefix{netip.PrefixFrom(gw, gw.BitLen())})
		}
	}
	return prefixStrings(nets)
}

// bothFamilies has rules not name the family: there is no network of the other.
func (c *newChain) bothFamilies() {
	for i := range c.rules {
		c.rules[i].both = true
	}
}

// families are those of the networks: a guest that has one of them today may get the other tomorrow, and keeps its policy.
func (p *plan) families() (has [2]bool) {
	for _, n := range p.nets {
		has[family(n.prefix.Addr().Is6())] = true
	}
	return has
}

// setPolicy gives a guest a policy, and the same to those with the same rules.
func (p *plan) setPolicy(g *guest, gp *guestPolicy) {
	text := gp.text()
	if have := p.byText[text]; have != nil {
		g.policy = have
		return
	}
	p.byText[text] = gp
	gp.name = "imported"
	if len(p.policies) > 0 {
		gp.name = unique(g.name, func(s string) bool {
			return slices.ContainsFunc(p.policies, func(o *guestPolicy) bool { return o.name == s })
		})
	}
	p.policies = append(p.policies, gp)
	g.policy = gp
}

// settleRules gives each line of rules its outcome.
func (p *plan) settleRules() {
	for _, t := range p.tables {
		if t == nil {
			continue
		}
		for _, name := range t.order {
			for _, r := range t.chains[name].rules {
				r.use.settle()
			}
		}
		for _, r := range t.chain("OUTPUT").rules {
			if r.use.note.Kind == Needless {
				r.use.note.stays("what dom0 sends to others than guests stays dom0's own")
			}
		}
	}
}

// netsOf are the prefixes of guests in one family.
func (p *plan) netsOf(v6 bool) (list []netip.Prefix) {
	for _, n := range p.nets {
		if n.prefix.Addr().Is6() == v6 {
			list = append(list, n.prefix)
		}
	}
	return list
}

// reaches tells whether all conditions on interfaces hold for an end that is known by any of some names.
func reaches(conditions []ifMatch, names ...string) bool {
	for _, c := range conditions {
		yes := ifMatch{name: c.name}
		if slices.ContainsFunc(names, yes.matches) == c.not {
			return false
		}
	}
	return true
}

// uplinkNames are what rules may call the uplink: a bridge that it is a port of among them.
func (p *plan) uplinkNames() []string {
	names := []string{p.uplink}
	for _, i := range p.interfaces {
		if slices.Contains(i.ports, p.uplink) {
			names = append(names, i.name)
		}
	}
	return names
}

// sideNames are what a guest's packets come from and go to in dom0's kernel: the bridge, or its own vif. Where no bridge is known it may be each interface
// on the guests' side.
func (p *plan) sideNames(g *guest) (names []string) {
	if p.bridge != "" {
		names = append(names, p.bridge)
	} else {
		for _, i := range p.interfaces {
			if p.onGuestSide(i.name) && !strings.HasPrefix(i.name, "vif") {
				names = append(names, i.name)
			}
		}
	}
	switch {
	case g == nil:
	case g.vif != "":
		names = append(names, g.vif)
	default:
		names = append(names, "vif") // which vif+ matches
	}
	return names
}

// far is the other end of a guest's packets, which is no dom0's: the uplink, guests, or both. why tells where nobody is left.
func (p *plan) far(conditions []ifMatch, set addrSet, v6 bool) (peers []string, ok bool, why string) {
	nets := p.netsOf(v6)
	uplink, all, some := true, true, []*guest(nil)
	if len(conditions) > 0 {
		uplink, all, some = reaches(conditions, p.uplinkNames()...), reaches(conditions, p.sideNames(nil)...), p.reached(conditions)
		all = all && len(some) == len(p.guests)
	}
	if uplink && all {
		if p.allButGuests(set, v6) {
			return []string{"uplink"}, true, ""
		}
		return prefixStrings(set.list), !set.empty(), ""
	}
	var list []string
	if uplink {
		if !set.some {
			list = append(list, "uplink")
		} else {
			there := minus(set.list, nets)
			for _, gw := range []netip.Addr{p.gateway4, p.gateway6} { // the provider's, which may lie in a guests' network
				if gw.IsValid() && inList(nets, gw) && inList(set.list, gw) {
					there = append(there, netip.PrefixFrom(gw, gw.BitLen()))
				}
			}
			list = append(list, prefixStrings(there)...)
			why = whyForged
		}
	}
	switch {
	case all:
		within := addrSet{some: true, list: nets}.and(set)
		list = append(list, prefixStrings(within.list)...)
	case !set.some:
		for _, g := range some {
			list = append(list, "domu:"+g.name)
		}
	default:
		for _, g := range some {
			within := addrSet{some: true, list: ofFamily(g.addrs, v6)}.and(set)
			list = append(list, prefixStrings(within.list)...)
		}
	}
	return list, len(list) > 0, why
}

// reached are the guests for whom conditions on interfaces hold.
func (p *plan) reached(conditions []ifMatch) (some []*guest) {
	for _, g := range p.guests {
		if reaches(conditions, p.sideNames(g)...) {
			some = append(some, g)
		}
	}
	return some
}

// beyond is the far end on the uplink alone.
func (p *plan) beyond(conditions []ifMatch, set addrSet, v6 bool) (peers []string, ok bool) {
	if !reaches(conditions, p.uplinkNames()...) {
		return nil, false
	}
	peers, ok, _ = p.far([]ifMatch{{name: p.uplink}}, set, v6)
	if len(peers) == 1 && peers[0] == "uplink" {
		peers = nil // guests and dom0 are decided before
	}
	return peers, ok
}

// allButGuests tells whether a set is everyone except the guests, who have no address of the provider's router in their networks.
func (p *plan) allButGuests(set addrSet, v6 bool) bool {
	nets := p.netsOf(v6)
	if !set.some || len(nets) == 0 || inList(nets, p.gateway4) || inList(nets, p.gateway6) {
		return false
	}
	others := minus([]netip.Prefix{everyone(v6)}, nets)
	return slices.Equal(slices.SortedFunc(slices.Values(set.list), netip.Prefix.Compare), slices.SortedFunc(slices.Values(others), netip.Prefix.Compare))
}

// near is the guest's own end: nil where the addresses are all its own.
func (p *plan) near(g *guest, conditions []ifMatch, set addrSet, v6 bool) (peers []string, ok bool) {
	if !reaches(conditions, p.sideNames(g)...) {
		return nil, false
	}
	own := ofFamily(g.addrs, v6)
	if len(g.addrs) == 0 {
		own = p.netsOf(v6) // not known
	}
	if len(own) == 0 {
		return nil, false
	}
	within := addrSet{some: true, list: own}.and(set)
	if slices.Equal(within.list, slices.SortedFunc(slices.Values(own), netip.Prefix.Compare)) {
		return nil, true
	}
	return prefixStrings(within.list), len(within.list) > 0
}

func ofFamily(list []netip.Prefix, v6 bool) (out []netip.Prefix) {
	for _, p := range list {
		if p.Addr().Is6() == v6 && !(v6 && p.Addr().IsLinkLocalUnicast()) {
			out = append(out, p)
		}
	}
	return out
}

func inList(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}

// guestView is FORWARD as a guest's ingress or egress sees it.
type guestView struct {
	p       *plan
	g       *guest
	ingress bool
}

func (guestView) transit() bool { return true }

func (v guestView) peers(m *match, v6 bool) (from, to []string, ok bool, why string) {
	if v.ingress {
		if to, ok = v.p.near(v.g, m.out, m.dst, v6); ok {
			from, ok, why = v.p.far(m.in, m.src, v6)
		}
		return from, to, ok, why
	}
	if from, ok = v.p.near(v.g, m.in, m.src, v6); ok {
		to, ok = v.p.beyond(m.out, m.dst, v6)
	}
	return from, to, ok, ""
}

// outputView is OUTPUT as a guest's ingress sees it.
type outputView struct {
	p *plan
	g *guest
}

func (outputView) transit() bool { return true }

func (v outputView) peers(m *match, v6 bool) (from, to []string, ok bool, why string) {
	if m.src.some && !slices.Contains(m.other, "-s in OUTPUT") {
		m.other = append(m.other, "-s in OUTPUT")
	}
	to, ok = v.p.near(v.g, m.out, m.dst, v6)
	return []string{"host"}, to, ok && reaches(m.in, ""), "" // what dom0 sends came in nowhere
}

// hostView is INPUT as host.ingress sees it.
type hostView struct{ p *plan }

func (hostView) transit() bool { return true }

func (v hostView) peers(m *match, v6 bool) (from, to []string, ok bool, why string) {
	nets := v.p.netsOf(v6)
	all, some := reaches(m.in, v.p.sideNames(nil)...), []string(nil)
	for _, g := range v.p.guests {
		switch {
		case !reaches(m.in, v.p.sideNames(g)...):
			all = false
		case m.src.some:
			some = append(some, prefixStrings(addrSet{some: true, list: ofFamily(g.addrs, v6)}.and(m.src).list)...)
		default:
			some = append(some, "domu:"+g.name)
		}
	}
	if all {
		some = prefixStrings(addrSet{some: true, list: nets}.and(m.src).list)
	}
	if len(some) == 0 || !reaches(m.out, "") { // what is for dom0 goes out nowhere
		return nil, nil, false, ""
	}
	if all && !m.src.some {
		some = nil // nobody else is there
	}
	return some, prefixStrings(m.dst.list), true, ""
}

// uplinkView is INPUT as host.uplink sees it.
type uplinkView struct{ p *plan }

func (uplinkView) transit() bool { return false }

func (v uplinkView) peers(m *match, v6 bool) (from, to []string, ok bool, why string) {
	if !reaches(m.in, v.p.uplinkNames()...) || !reaches(m.out, "") {
		return nil, nil, false, ""
	}
	return prefixStrings(m.src.list), prefixStrings(m.dst.list), true, ""
}
