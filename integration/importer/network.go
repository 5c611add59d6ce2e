package importer

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// plan is what the files come to.
type plan struct {
	*setup
	uplink             string // "": not known
	gateway4, gateway6 netip.Addr
	address4           netip.Addr
	bridge             string
	mtu                int
	nets               []*network
	guests             []*guest
	linkLocal          netip.Addr // the guests' gateway on their link, where the bridge has one
	policies           []*guestPolicy
	byText             map[string]*guestPolicy // policies by what stands in their blocks
	host               hostChains
	todos              int // values that were left to be filled in
}

// network is a prefix of guests' addresses.
type network struct {
	name    string
	prefix  netip.Prefix
	gateway netip.Addr // zero: not known
	proxied bool
	asked   bool // ndppd asks the guest before it answers
	static  bool // or answers without
	router  *bool
	ttl     time.Duration
	timeout time.Duration
	from    *Note
}

// conclude makes a plan of what was read.
func (in *setup) conclude() *plan {
	p := &plan{setup: in, byText: map[string]*guestPolicy{}}
	p.findUplink()
	p.findBridge()
	p.findNetworks()
	p.findProxied()
	p.findGuests()
	p.judgeLines()
	p.translate()
	return p
}

// findUplink is the interface of the default routes.
func (p *plan) findUplink() {
	type way struct {
		dev  string
		via  netip.Addr
		note *Note
	}
	var ways []way
	for _, i := range p.interfaces {
		for _, g := range i.gateways {
			ways = append(ways, way{i.name, g.addr, g.note})
		}
	}
	for _, r := range p.routes {
		if r.dst.Bits() == 0 && r.dst.IsValid() {
			ways = append(ways, way{r.dev, r.via, r.note})
		}
	}
	slices.SortStableFunc(ways, func(a, b way) int { return family(a.via.Is6()) - family(b.via.Is6()) })
	for _, w := range ways {
		if p.uplink == "" {
			p.uplink = w.dev
		}
		gw := &p.gateway4
		if w.via.Is6() {
			gw = &p.gateway6
		}
		switch {
		case w.dev != p.uplink:
			w.note.left("there is one uplink, taken to be %s: this way out is not used", clean(p.uplink))
		case !w.via.IsValid():
		case gw.IsValid() && *gw != w.via:
			w.note.left("there is one default route for each family, here by %s", *gw)
		default:
			*gw = w.via
			w.note.carried()
		}
	}
	if p.uplink == "" {
		for _, i := range p.interfaces {
			if i.dynamic != nil {
				p.uplink = i.name
				break
			}
		}
	}
	for _, x := range p.ndppd {
		if p.uplink == "" {
			p.uplink = x.dev
		}
	}
	if i := p.existing(p.uplink); i != nil {
		for _, a := range i.addrs {
			if a.prefix.Addr().Is4() && !p.address4.IsValid() {
				p.address4 = a.prefix.Addr()
			}
		}
		p.moveOffBridge(i)
	}
}

func (p *plan) existing(name string) *iface {
	for _, i := range p.interfaces {
		if i.name == name && name != "" {
			return i
		}
	}
	return nil
}

// moveOffBridge handles a server whose guests are bridged to the provider's switch: the port is the uplink.
func (p *plan) moveOffBridge(i *iface) {
	if !i.bridge || len(i.ports) == 0 {
		return
	}
	p.uplink = i.ports[0]
	i.bridgeAt.left("guests are on the provider's switch here: give %s's address and gateway to %s, and leave a bridge without %s to the guests", i.name, p.uplink, p.uplink)
}

// onGuestSide tells whether an interface leads to guests.
func (p *plan) onGuestSide(name string) bool {
	if name == p.uplink || name == "" {
		return false
	}
	begins := func(list ...string) bool {
		return slices.ContainsFunc(list, func(begin string) bool { return strings.HasPrefix(name, begin) })
	}
	switch {
	case name == p.bridge, begins("dummy", "vif"):
		return true
	case p.bridge != "": // another bridge or network of dom0's is not the guests'
		return false
	case begins("tap", "vnet", "veth", "virbr"):
		return true
	}
	i := p.existing(name)
	return i != nil && i.bridge && !slices.Contains(i.ports, p.uplink)
}

// findBridge is the bridge of the guests' vifs: what Xen's files name, or else a bridge that the uplink is no port of.
func (p *plan) findBridge() {
	for _, v := range p.vifs {
		switch {
		case v.bridge == "":
		case p.bridge == "":
			p.bridge = v.bridge
		case v.bridge != p.bridge:
			v.note.left("udrouter serves one bridge, here %s: move this vif there", clean(p.bridge))
		}
	}
	for _, i := range p.interfaces {
		if !i.bridge || slices.Contains(i.ports, p.uplink) {
			continue
		}
		switch p.bridge {
		case "":
			p.bridge = i.name
		case i.name:
		default:
			i.bridgeAt.left("udrouter serves one bridge, here %s: move the guests of %s there", clean(p.bridge), clean(i.name))
		}
	}
	if i := p.existing(p.bridge); i != nil {
		p.mtu = i.mtu
	}
}

// findNetworks takes the addresses on the guests' side for their gateways.
func (p *plan) findNetworks() {
	for _, i := range p.interfaces {
		if !p.onGuestSide(i.name) {
			continue
		}
		for n := range i.addrs {
			a := &i.addrs[n]
			addr := a.prefix.Addr()
			switch masked := a.prefix.Masked(); {
			case addr.IsLinkLocalUnicast() && addr.Is6():
				p.linkLocal = addr
				a.note.is(Carried, "guests reach the router there: take it off "+clean(i.name))
			case a.prefix.IsSingleIP():
				a.note.left("an address by itself is no network of guests: write a network block with their prefix, and this as its gateway if it lies in there")
			default:
				a.note.is(Carried, "it is the network's gateway now: take it off "+clean(i.name))
				p.addNetwork(masked, addr, a.note)
			}
		}
	}
	for _, r := range p.routes {
		if !p.onGuestSide(r.dev) || r.dst.IsSingleIP() || r.dst.Bits() == 0 || r.via.IsValid() || strings.HasPrefix(r.dev, "vif") {
			continue
		}
		if n := p.networkOf(r.dst); n != nil {
			r.note.needless(whyRoute)
			continue
		}
		r.note.carried()
		p.addNetwork(r.dst, netip.Addr{}, r.note)
	}
	for _, x := range p.ndppd {
		for _, rule := range x.rules {
			if x.dev == p.uplink && !rule.prefix.IsSingleIP() && p.networkOf(rule.prefix) == nil {
				p.addNetwork(rule.prefix, netip.Addr{}, rule.note)
			}
		}
	}
	for _, n := range p.nets {
		if !n.gateway.IsValid() && n.prefix.Addr().Is6() {
			n.gateway = p.linkLocal
		}
	}
}

// networkOf is the network that shares addresses with a prefix.
func (p *plan) networkOf(q netip.Prefix) *network {
	for _, n := range p.nets {
		if n.prefix.Overlaps(q) {
			return n
		}
	}
	return nil
}

// addNetwork adds a network; one whose prefix there is already only learns its gateway.
func (p *plan) addNetwork(prefix netip.Prefix, gateway netip.Addr, from *Note) {
	if n := p.networkOf(prefix); n != nil {
		switch {
		case n.prefix != prefix:
			from.left("%s overlaps %s of %s: udrouter's networks do not; keep one of them", prefix, n.prefix, n.from.place())
		case !n.gateway.IsValid():
			n.gateway = gateway
		case gateway.IsValid() && gateway != n.gateway:
			from.left("network %s has the gateway %s already, by %s", prefix, n.gateway, n.from.place())
		}
		return
	}
	name := "v4"
	if prefix.Addr().Is6() {
		name = "v6"
	}
	for n := 2; slices.ContainsFunc(p.nets, func(o *network) bool { return o.name == name }); n++ {
		name = fmt.Sprintf("%s-%d", name[:2], n)
	}
	p.nets = append(p.nets, &network{name: name, prefix: prefix, gateway: gateway, from: from})
}

// findProxied tells which networks the provider takes for on-link: those that were answered for, or that the uplink's own subnet overlaps.
func (p *plan) findProxied() {
	if i := p.existing(p.uplink); i != nil {
		for _, a := range i.addrs {
			if n := p.networkOf(a.prefix.Masked()); n != nil && !a.prefix.IsSingleIP() {
				n.proxied = true
			}
		}
	}
	for _, x := range p.proxies {
		if n := p.networkOf(netip.PrefixFrom(x.addr, x.addr.BitLen())); n != nil && !p.onGuestSide(x.dev) {
			n.proxied = true
		}
	}
	for _, n := range p.nets {
		n.proxied = n.proxied || p.proxyARP && n.prefix.Addr().Is4() && p.onUplink(n.prefix)
	}
	for _, x := range p.ndppd {
		if x.dev != p.uplink {
			const why = "guests find the router by itself on their side, and each other through it"
			x.note.needless(why)
			for _, n := range x.notes {
				n.needless(why)
			}
			for _, r := range x.rules {
				r.note.needless(why)
			}
			continue
		}
		x.note.carried()
		for _, r := range x.rules {
			n := p.networkOf(r.prefix)
			if n == nil {
				r.note.left("no network holds %s: write one with the prefix that the provider has assigned", r.prefix)
				continue
			}
			r.note.carried()
			n.proxied = true
			n.asked, n.static = n.asked || !r.static, n.static || r.static
			n.router, n.ttl, n.timeout = x.router, x.ttl, x.timeout
		}
	}
}

// onUplink tells whether a prefix lies in the uplink's own subnet.
func (p *plan) onUplink(q netip.Prefix) bool {
	i := p.existing(p.uplink)
	return i != nil && slices.ContainsFunc(i.addrs, func(a ifaceAddr) bool { return a.prefix.Masked().Overlaps(q) })
}

// judgeLines gives the lines of interfaces their outcome, by the part that the interface plays.
func (p *plan) judgeLines() {
	for _, i := range p.interfaces {
		for _, n := range i.notes {
			if n.Kind != Stays {
				continue // it was judged by itself
			}
			switch {
			case strings.HasPrefix(i.name, "dummy"):
				n.needless("no interface has to hold the guests' gateways")
			case i.name == p.bridge && strings.HasPrefix(n.Text, "netmask"):
				n.carried()
			case i.name == p.bridge:
				n.stays("the bridge stays, without addresses")
			case n.Why == "":
				n.stays("dom0's own")
			}
		}
	}
}
