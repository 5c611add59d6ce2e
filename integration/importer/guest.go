package importer

import (
	"net/netip"
	"slices"
	"strings"

	"udrouter/policy"
)

// guest is who a domu block is for.
type guest struct {
	name   string
	vif    string     // "": not known
	mac    policy.MAC // zero: not known
	addrs  []netip.Prefix
	policy *guestPolicy // nil: none
	from   *Note
}

// findGuests takes guests from Xen's files, and addresses that no such guest has from routes and proxy entries.
func (p *plan) findGuests() {
	for _, v := range p.vifs {
		if v.bridge != "" && v.bridge != p.bridge {
			continue // it was told of
		}
		g := p.addGuest(v.guest, v.note)
		g.vif, g.mac = v.vif, v.mac
		kind := Carried
		for _, a := range v.addrs { // which share the vif's note
			if p.bind(g, netip.PrefixFrom(a, a.BitLen()), v.note); v.note.Kind == Left {
				kind = Left
				v.says = append(v.says, v.note.Why)
			}
		}
		v.note.Kind = kind
		v.conclude()
	}
	p.guestsOfRoutes(false)
	for _, x := range p.proxies {
		dst := netip.PrefixFrom(x.addr, x.addr.BitLen())
		if p.owner(x.addr) == nil && (p.canBind(x.addr) || p.networkOf(dst) == nil) {
			p.bindAnyone(nil, dst, "", x.note)
		}
	}
	for _, x := range p.ndppd {
		for _, r := range x.rules {
			if x.dev == p.uplink && r.prefix.IsSingleIP() && p.owner(r.prefix.Addr()) == nil && p.canBind(r.prefix.Addr()) {
				p.bindAnyone(nil, r.prefix, r.iface, r.note)
			}
		}
	}
	p.guestsOfRoutes(true)
	p.guestsOfRules()
}

// guestsOfRoutes finds guests by routes to them: those by way of another address come when who has that is known.
func (p *plan) guestsOfRoutes(via bool) {
	for _, r := range p.routes {
		toVif := strings.HasPrefix(r.dev, "vif")
		if r.via.IsValid() != via || !p.onGuestSide(r.dev) || r.dst.Bits() == 0 || !r.dst.IsSingleIP() && !via && !toVif {
			continue
		}
		g := p.owner(r.via)
		if g == nil && toVif {
			g = p.byVif(r.dev)
		}
		p.bindAnyone(g, r.dst, r.dev, r.note)
	}
}

// guestsOfRules finds guests that only rules speak of: without a block their rules would be lost.
func (p *plan) guestsOfRules() {
	for _, t := range p.tables {
		if t == nil {
			continue
		}
		for _, name := range t.order {
			if name == "INPUT" || name == "OUTPUT" {
				continue
			}
			for _, r := range t.chains[name].rules {
				for _, q := range r.named {
					if q.IsSingleIP() && p.owner(q.Addr()) == nil && p.canBind(q.Addr()) {
						p.bindAnyone(nil, q, "", r.use.note)
					}
				}
			}
		}
	}
}

// addGuest adds a guest of a name, changed where it is no name of a domu or is taken.
func (p *plan) addGuest(name string, from *Note) *guest {
	name = strings.Map(func(c rune) rune {
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("._+-", c) {
			return c
		}
		return '-'
	}, name)
	if len(name) > maxGuestName {
		name = name[:maxGuestName]
	}
	if name = strings.TrimLeft(name, "-"); name == "" {
		name = "guest"
	}
	g := &guest{name: unique(name, func(s string) bool {
		return slices.ContainsFunc(p.guests, func(o *guest) bool { return o.name == s })
	}), from: from}
	p.guests = append(p.guests, g)
	return g
}

const maxGuestName = 40

func (p *plan) isGateway(a netip.Addr) bool {
	return a == p.gateway4 || a == p.gateway6 || slices.ContainsFunc(p.nets, func(n *network) bool { return n.gateway == a })
}

// canBind tells whether a guest can have an address: it is in a network, and neither a gateway nor one that nobody has there.
func (p *plan) canBind(a netip.Addr) bool {
	n := p.networkOf(netip.PrefixFrom(a, a.BitLen()))
	if n == nil || p.isGateway(a) {
		return false
	}
	first, last := policy.Edges(n.prefix)
	return a != first && a != last
}

// owner is the guest that has an address.
func (p *plan) owner(a netip.Addr) *guest {
	for _, g := range p.guests {
		if slices.ContainsFunc(g.addrs, func(q netip.Prefix) bool { return q.Contains(a) }) {
			return g
		}
	}
	return nil
}

func (p *plan) byVif(vif string) *guest {
	for _, g := range p.guests {
		if g.vif == vif {
			return g
		}
	}
	return nil
}

// bindAnyone binds addresses to a guest, or to a new one that is named after them.
func (p *plan) bindAnyone(g *guest, dst netip.Prefix, vif string, note *Note) {
	if p.networkOf(dst) == nil {
		note.left("no network holds %s: udrouter wants one with its prefix and a gateway in it, then add a domu block for the guest", dst)
		return
	}
	if o := p.owner(dst.Addr()); o != nil && g == nil {
		note.is(needlessOr(note), whyProxy)
		return
	}
	if g == nil {
		g = p.addGuest("guest-"+strings.NewReplacer(":", "-", ".", "-", "/", "-").Replace(strings.TrimSuffix(dst.String(), single(dst))), note)
		if strings.HasPrefix(vif, "vif") || strings.HasPrefix(vif, "vnet") || strings.HasPrefix(vif, "tap") {
			g.vif = vif
		}
	}
	kind, why := note.Kind, note.Why
	p.bind(g, dst, note)
	if kind == Needless && note.Kind == Carried {
		note.is(kind, why) // a proxy entry: its address is there, and it goes
	}
}

func needlessOr(n *Note) Kind {
	if n.Kind == Stays {
		return Needless
	}
	return n.Kind
}

func single(p netip.Prefix) string {
	if p.Addr().Is4() {
		return "/32"
	}
	return "/128"
}

// bind gives a guest an address or prefix, unless it is someone else's or in no network.
func (p *plan) bind(g *guest, q netip.Prefix, note *Note) {
	n := p.networkOf(q)
	switch {
	case q.Addr().IsLinkLocalUnicast() && q.Addr().Is6():
	case n == nil:
		note.left("no network holds %s: write one with its prefix, then add %s to domu %q", q, q, g.name)
		return
	case n.prefix.Bits() > q.Bits():
		note.left("%s is larger than the network %s", q, n.prefix)
		return
	case q.IsSingleIP() && !p.canBind(q.Addr()):
		note.left("%s is a gateway, or the first or last of its network, and no guest's", q.Addr())
		return
	}
	for _, o := range p.guests {
		if slices.ContainsFunc(o.addrs, func(r netip.Prefix) bool { return r.Overlaps(q) }) {
			if o != g {
				note.left("%s is guest %q's already", q, o.name)
			}
			return
		}
	}
	g.addrs = append(g.addrs, q)
	note.carried()
}
