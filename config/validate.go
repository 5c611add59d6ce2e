package config

import (
	"fmt"
	"net/netip"

	"github.com/gaissmai/bart"
	"github.com/hashicorp/hcl/v2"

	"udrouter/policy"
)

const (
	minMTU4  = 576  // every IPv4 host takes that much (RFC 1122 3.3.3)
	minMTU6  = 1280 // every IPv6 link carries that much (RFC 8200 5); netstack panics below
	maxMTU   = 65535
	takesMTU = "a whole number of bytes from 1280 to 65535 (from 576 without IPv6 networks)"
)

// validate checks what concerns several values. Values that were reported are zero and checked no further.
func (d *decoder) validate() {
	d.checkNetworks()
	d.checkMTU()
	d.claimOwn()
	for i := range d.domus {
		d.claimInterface(&d.domus[i])
	}
	for i := range d.domus {
		d.claimMAC(&d.domus[i])
	}
	d.deriveLinkLocals()
	for i := range d.domus {
		d.claimAddrs(&d.domus[i])
	}
}

// claims are who has what there is once.
type claims struct {
	interfaces map[string]holder
	macs       map[policy.MAC]holder
	kept       *bart.Table[reserved]
	addrs      bart.Table[claim]
	derived    map[netip.Addr]*domuAt // the link-local addresses that guests form from their MACs (RFC 4291 2.5.1), of those that pin none
}

// holder is who has an interface or a MAC.
type holder struct {
	what  string
	at    hcl.Range
	guest *domuAt // nil: the router or dom0
}

func ofGuest(g *domuAt, at hcl.Range) holder { return holder{fmt.Sprintf("domu %q", g.Name), at, g} }

// claimOwn enters what is the router's, the provider's and dom0's.
func (d *decoder) claimOwn() {
	c := &d.claims
	c.interfaces, c.macs, c.kept = make(map[string]holder), make(map[policy.MAC]holder), d.reservations()
	d.takeInterface(d.cfg.Uplink.Name, holder{"the uplink", d.uplink.name, nil})
	d.takeInterface(d.cfg.Bridge.Name, holder{"the bridge", d.bridge.name, nil})
	d.takeInterface(d.cfg.Bridge.TAP, holder{"the bridge (its tap)", d.bridge.tap, nil})
	if h := d.cfg.Host; h != nil {
		d.takeInterface(h.Interface, holder{"the host block", d.hostIfAt, nil})
	}
	if m := d.cfg.Bridge.MAC; !m.IsZero() {
		c.macs[m] = holder{"the router (the bridge's mac)", d.bridge.mac, nil}
	}
}

// overlapping is an entry of the table that shares an address with p.
func overlapping[V any](t *bart.Table[V], p netip.Prefix) (v V, ok bool) {
	if v, ok = t.LookupPrefix(p); ok {
		return v, true
	}
	for _, v := range t.Subnets(p) {
		return v, true
	}
	return v, false
}

func (d *decoder) checkNetworks() {
	for i := range d.networks {
		n := &d.networks[i]
		if !n.Prefix.IsValid() {
			continue
		}
		if j, ok := overlapping(&d.byPrefix, n.Prefix); ok {
			d.conflictf(n.prefix, d.networks[j].prefix, "Networks overlap", "%s of network %q and %s of network %q share addresses. A network holds a prefix of its own; merge the two, or narrow one.",
				n.Prefix, n.Name, d.networks[j].Prefix, d.networks[j].Name)
		}
		d.byPrefix.Insert(n.Prefix, i)
		if n.Gateway.IsValid() {
			d.checkGateway(n)
		}
	}
}

// checkGateway judges the router's address toward the guests of a network.
func (d *decoder) checkGateway(n *networkAt) {
	u := &d.cfg.Uplink
	first, last := policy.Edges(n.Prefix)
	switch g := n.Gateway; {
	case g.Is6() && g.IsLinkLocalUnicast():
		// On the guests' link only, so that even the provider's fe80::1 is another address.
	case !n.Prefix.Contains(g):
		hint := ""
		if g.Is6() {
			hint = ", or fe80::1"
		}
		d.errorf(n.gateway, "Gateway outside its prefix", "%s is not in %s. The gateway is the router's address toward the guests: choose one of the prefix, such as %s%s.", g, n.Prefix, d.freeAddr(n.Prefix), hint)
	case g == u.Gateway4:
		d.providersGateway(n, "gateway4", d.uplink.gateway4)
	case g == u.Gateway6:
		d.providersGateway(n, "gateway6", d.uplink.gateway6)
	case g == first:
		d.errorf(n.gateway, "Gateway is the network address", "No host can have %s, the first address of %s. Choose another, such as %s.", g, n.Prefix, d.freeAddr(n.Prefix))
	case g == last:
		d.errorf(n.gateway, "Gateway is the broadcast address", "No host can have %s, the last address of %s. Choose another, such as %s.", g, n.Prefix, d.freeAddr(n.Prefix))
	}
}

func (d *decoder) providersGateway(n *networkAt, key string, at hcl.Range) {
	d.conflictf(n.gateway, at, "Gateway is the provider's", "%s is the uplink's %s, which the provider's router has; toward guests it is answered for without being named here. Choose another address of %s, such as %s.",
		n.Gateway, key, n.Prefix, d.freeAddr(n.Prefix))
}

// freeAddr is an address to suggest for a gateway.
func (d *decoder) freeAddr(p netip.Prefix) netip.Addr {
	a := p.Addr().Next()
	for u := &d.cfg.Uplink; a == u.Gateway4 || a == u.Gateway6; {
		a = a.Next()
	}
	if !p.Contains(a) {
		return p.Addr()
	}
	return a
}

func (d *decoder) checkMTU() {
	mtu := d.cfg.Bridge.MTU
	if mtu == 0 || mtu >= minMTU6 {
		return
	}
	for i := range d.networks {
		if n := &d.networks[i]; n.Prefix.Addr().Is6() {
			d.errorf(d.bridge.mtu, "MTU too small for IPv6", "Network %q is IPv6, and every IPv6 link carries packets of %d bytes (RFC 8200 5). Set at least that, or leave mtu out for the uplink's.", n.Name, minMTU6)
			return
		}
	}
}

// takeInterface lets each interface play one part.
func (d *decoder) takeInterface(name string, h holder) {
	if name == "" {
		return
	}
	other, dup := d.claims.interfaces[name]
	if !dup {
		d.claims.interfaces[name] = h
		return
	}
	d.conflictf(h.at, other.at, fmt.Sprintf("Interface %s used twice", excerpt(name)), "It is named as the interface of %s and of %s. Each needs its own.", other.what, h.what)
}

func (d *decoder) claimInterface(g *domuAt) { d.takeInterface(g.Vif, ofGuest(g, g.vif)) }

func (d *decoder) claimMAC(g *domuAt) {
	if g.MAC.IsZero() {
		return
	}
	h := ofGuest(g, g.mac)
	if other, dup := d.claims.macs[g.MAC]; dup {
		d.conflictf(g.mac, other.at, "MAC address used twice", "%s is the MAC of %s and of %s. Whose a frame is shows by its MAC: give each its own.", g.MAC, other.what, h.what)
		return
	}
	d.claims.macs[g.MAC] = h
}

// reserved is an address that no guest may have.
type reserved struct {
	addr netip.Addr
	what string
	at   hcl.Range
}

// claim is who an address or prefix is bound to, and where the file says so.
type claim struct {
	guest *domuAt
	addr  addrAt
}

// routerLinkLocal is the router's address on every guest's link, beside the networks' gateways.
var routerLinkLocal = netip.MustParseAddr("fe80::1")

// reservations are the addresses of the router, the provider and dom0, and those that IPv4 sets apart.
func (d *decoder) reservations() *bart.Table[reserved] {
	t := new(bart.Table[reserved])
	enter := func(a netip.Addr, what string, at hcl.Range) {
		if a.IsValid() {
			t.Insert(full(a), reserved{a, what, at})
		}
	}
	for i := range d.networks {
		n := &d.networks[i]
		if n.Prefix.IsValid() {
			first, last := policy.Edges(n.Prefix)
			enter(first, fmt.Sprintf("the network address of %s", n.Prefix), n.prefix)
			enter(last, fmt.Sprintf("the broadcast address of %s", n.Prefix), n.prefix)
		}
		enter(n.Gateway, fmt.Sprintf("the gateway of network %q", n.Name), n.gateway)
	}
	u := &d.cfg.Uplink
	enter(u.Address4, "dom0's own address (the uplink's address4)", d.uplink.address4)
	enter(u.Gateway4, "the provider's router (the uplink's gateway4)", d.uplink.gateway4)
	if !u.Gateway6.IsLinkLocalUnicast() { // else it is on the uplink's link, where no guest is
		enter(u.Gateway6, "the provider's router (the uplink's gateway6)", d.uplink.gateway6)
	}
	return t
}

// claimAddrs judges a guest's addresses. It wants deriveLinkLocals first.
func (d *decoder) claimAddrs(g *domuAt) {
	for _, a := range g.addrs {
		res, refused := overlapping(d.claims.kept, a.Prefix)
		switch linkLocal := a.Addr().Is6() && a.Addr().IsLinkLocalUnicast(); {
		case refused && (a.IsSingleIP() || d.inNetwork(a)):
			d.refuse(a, res)
		case linkLocal:
			d.checkLinkLocal(g, a)
		default:
			d.checkInNetwork(g, a)
		}
		if c, dup := overlapping(&d.claims.addrs, a.Prefix); dup {
			d.sharedAddr(g, a, c)
			continue
		}
		d.claims.addrs.Insert(a.Prefix, claim{g, a})
	}
}

// refuse reports a guest's address that is the router's, the provider's, dom0's or nobody's.
func (d *decoder) refuse(a addrAt, res reserved) {
	if a.IsSingleIP() {
		d.conflictf(a.at, res.at, "Address is reserved", "%s is %s. Give the guest another.", a.Addr(), res.what)
		return
	}
	d.conflictf(a.at, res.at, "Prefix contains a reserved address", "%s contains %s, %s. Give the guest a prefix without it, or single addresses.", a, res.addr, res.what)
}

func (d *decoder) sharedAddr(g *domuAt, a addrAt, c claim) {
	switch {
	case c.guest == g && a.Prefix == c.addr.Prefix:
		d.conflictf(a.at, c.addr.at, "Address listed twice", "Domu %q has %s already. Remove one of the two.", g.Name, show(a.Prefix))
	case c.guest == g:
		d.conflictf(a.at, c.addr.at, "Addresses overlap", "%s and %s of domu %q share addresses. Remove the narrower one.", show(a.Prefix), show(c.addr.Prefix), g.Name)
	case a.Prefix == c.addr.Prefix:
		d.conflictf(a.at, c.addr.at, "Address used twice", "%s is bound to domu %q and to domu %q. Give each its own.", show(a.Prefix), c.guest.Name, g.Name)
	default:
		d.conflictf(a.at, c.addr.at, "Addresses overlap", "%s of domu %q and %s of domu %q share addresses. Give each guest its own.", show(c.addr.Prefix), c.guest.Name, show(a.Prefix), g.Name)
	}
}

// show writes a single address without its length.
func show(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

func (d *decoder) inNetwork(a addrAt) bool {
	_, ok := d.byPrefix.LookupPrefix(a.Prefix)
	return ok
}

// checkInNetwork wants a guest's address in a network, without which it would not be routed.
func (d *decoder) checkInNetwork(g *domuAt, a addrAt) {
	if d.inNetwork(a) {
		return
	}
	f := familyOf(a.Addr())
	var there []string
	for i := range d.networks {
		p := d.networks[i].Prefix
		switch {
		case !p.IsValid():
			return // reported, and perhaps the one meant
		case a.Overlaps(p):
			d.conflictf(a.at, d.networks[i].prefix, "Prefix is larger than its network", "%s reaches beyond %s of network %q. Give the guest a part of it.", a, p, d.networks[i].Name)
			return
		case familyOf(p.Addr()) == f:
			there = append(there, p.String())
		}
	}
	if len(d.networks) == 0 {
		return // reported
	}
	hint := fmt.Sprintf("there is no %v network. Declare one with the prefix that the provider has assigned.", f)
	if len(there) > 0 {
		hint = fmt.Sprintf("those of %v are %s. Give the guest an address of one, or declare the network.", f, someOf(there))
	}
	d.errorf(a.at, "Address outside every network", "%s of domu %q is in no network: %s", show(a.Prefix), g.Name, hint)
}

func (d *decoder) deriveLinkLocals() {
	d.claims.derived = make(map[netip.Addr]*domuAt, len(d.domus))
	for i := range d.domus {
		if g := &d.domus[i]; !g.MAC.IsZero() && !g.pinned() {
			d.claims.derived[policy.EUI64(g.MAC)] = g
		}
	}
}

// pinned tells whether a guest's link-local addresses are listed, so that it has no others.
func (g *domuAt) pinned() bool {
	for _, a := range g.addrs {
		if a.Addr().IsLinkLocalUnicast() {
			return true
		}
	}
	return false
}

// checkLinkLocal judges an address that a guest is pinned to; networks' gateways are refused before.
func (d *decoder) checkLinkLocal(g *domuAt, a addrAt) {
	if a.Addr() == routerLinkLocal {
		d.errorf(a.at, "Address is reserved", "fe80::1 is the router's on every guest's link. Give the guest another.")
		return
	}
	if other := d.claims.derived[a.Addr()]; other != nil && other != g {
		d.conflictf(a.at, other.mac, "Address is reserved", "%s is what domu %q makes of its MAC. Give domu %q another.", a.Addr(), other.Name, g.Name)
	}
}
