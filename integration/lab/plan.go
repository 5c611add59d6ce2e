package lab

import (
	"errors"
	"fmt"
	"net/netip"

	"udrouter/config"
	"udrouter/policy"
)

// plan is every address of a lab, worked out from the file without touching the machine.
type plan struct {
	inet4, inet6     netip.Prefix // of the host X in the internet; zero: no such family here
	inetGW4, inetGW6 netip.Addr   // the upstream router's, toward X

	gw4, gw6   netip.Prefix   // the upstream router's, toward dom0; gw6 may be link-local
	gwMore     []netip.Prefix // its other addresses there
	gwRoutes   []Route        // to the guests and dom0
	dom0       []netip.Prefix // dom0's addresses on the uplink
	dom0Routes []Route

	uplinkMAC, gwMAC, inetMAC policy.MAC
	strangerMAC               policy.MAC // of another station on the uplink, which only sends raw frames
	guests                    []guestPlan
	skipped                   []string // why a domu of the file is not there
}

// guestPlan is one guest as its domu block has it.
type guestPlan struct {
	domu      config.Domu
	addrs     []netip.Prefix // with the lengths of the networks that they lie in
	linkLocal bool           // addrs has its link-local address: none is made from its MAC
	routes    []Route
	net4      *config.Network // that of its first IPv4 address, or nil
	net6      *config.Network
}

// Addresses for what the file leaves open, from the documentation prefixes; the first that is not
// in the guests' networks.
var (
	internet4 = []string{"198.51.100.7/24", "203.0.113.7/24", "192.0.2.7/24", "100.64.7.7/24"}
	internet6 = []string{"2001:db8:ffff::7/64", "2001:db8:eeee::7/64", "3fff:ffff::7/64", "2001:db8:7777:7::7/64"}
	uplinks4  = []string{"192.0.1.1/26", "198.18.1.1/26", "100.64.1.1/26", "10.255.1.1/26"}
	transfer6 = []string{"2001:db8:fffe::1/64", "2001:db8:eeef::1/64", "3fff:fffe::1/64", "2001:db8:7776:6::1/64"}
)

// newPlan works out the addresses. A family is there when the file speaks of it: by a network, a
// gateway or dom0's address. A file that speaks of neither has both.
func newPlan(cfg *config.Config) (*plan, error) {
	p := &plan{}
	has4 := cfg.Uplink.Gateway4.IsValid() || cfg.Uplink.Address4.IsValid()
	has6 := cfg.Uplink.Gateway6.IsValid()
	for _, n := range cfg.Networks {
		if !n.Prefix.IsValid() {
			return nil, fmt.Errorf("network %q has no prefix", n.Name)
		}
		has4 = has4 || n.Prefix.Addr().Is4()
		has6 = has6 || n.Prefix.Addr().Is6()
	}
	if !has4 && !has6 {
		has4, has6 = true, true
	}
	if cfg.Bridge.Name == "" {
		return nil, errors.New("the file names no bridge")
	}
	macs := spareMACs(cfg)
	p.uplinkMAC, p.gwMAC, p.inetMAC, p.strangerMAC = macs[0], macs[1], macs[2], macs[3]
	if has4 {
		if err := p.plan4(cfg); err != nil {
			return nil, fmt.Errorf("choosing IPv4 addresses: %w", err)
		}
	}
	if has6 {
		if err := p.plan6(cfg); err != nil {
			return nil, fmt.Errorf("choosing IPv6 addresses: %w", err)
		}
	}
	for _, d := range cfg.Domus {
		switch {
		case d.Vif == "":
			p.skipped = append(p.skipped, fmt.Sprintf("domu %q is not here: its block names no vif", d.Name))
		case d.MAC.IsZero():
			p.skipped = append(p.skipped, fmt.Sprintf("domu %q is not here: its block names no mac", d.Name))
		default:
			p.guests = append(p.guests, p.guest(cfg, d))
		}
	}
	return p, nil
}

// spareMACs are addresses of our own for hosts outside the file.
func spareMACs(cfg *config.Config) (spare [4]policy.MAC) {
	taken := map[policy.MAC]bool{cfg.Bridge.MAC: true}
	for _, d := range cfg.Domus {
		taken[d.MAC] = true
	}
	mac := policy.MAC{0x02, 0x00, 0xc0, 0x00, 0x01, 0x03}
	for i := range spare {
		for taken[mac] {
			mac[5]++
		}
		spare[i] = mac
		taken[mac] = true
	}
	return spare
}

func (p *plan) plan4(cfg *config.Config) error {
	var err error
	if p.inet4, p.inetGW4, err = pickInternet(cfg, internet4); err != nil {
		return err
	}
	link, err := uplink4(cfg)
	if err != nil {
		return err
	}
	p.gw4 = link
	gw := link.Addr()
	own := cfg.Uplink.Address4
	bits := link.Bits()
	if !own.IsValid() {
		if own, err = freeAddr(cfg, link.Masked(), 3, gw); err != nil { // all of it is the guests'
			var t netip.Prefix
			if t, err = pick(cfg, uplinks4); err == nil {
				own, err = freeAddr(cfg, t, 3)
			}
		}
		if err != nil {
			return err
		}
	}
	if !link.Contains(own) { // point to point, as some providers have it
		bits = 32
		p.gwRoutes = append(p.gwRoutes, Route{Dst: host(own)})
		p.dom0Routes = append(p.dom0Routes, Route{Dst: host(gw)})
	}
	p.dom0 = append(p.dom0, netip.PrefixFrom(own, bits))
	p.dom0Routes = append(p.dom0Routes, Route{Dst: defaultRoute(gw), Via: gw})
	p.routeNetworks(cfg, link, own)
	return nil
}

// uplink4 is the upstream router's address with the length of the uplink's subnet: that of the
// network it lies in, or else the longest of some usual ones that holds it and dom0's address.
func uplink4(cfg *config.Config) (netip.Prefix, error) {
	gw, own := cfg.Uplink.Gateway4, cfg.Uplink.Address4
	if !gw.IsValid() && !own.IsValid() {
		for _, s := range uplinks4 {
			if p := netip.MustParsePrefix(s); !overlaps(cfg, p) {
				return p, nil
			}
		}
		return netip.Prefix{}, errors.New("the file's networks leave no prefix for the uplink: name gateway4")
	}
	if !gw.IsValid() {
		subnet := netip.PrefixFrom(own, 26).Masked()
		a, err := freeAddr(cfg, subnet, 1, own)
		if err != nil {
			return netip.Prefix{}, err
		}
		return netip.PrefixFrom(a, 26), nil
	}
	if n := networkOf(cfg, gw); n != nil && n.Upstream == config.Proxied {
		return netip.PrefixFrom(gw, n.Prefix.Bits()), nil
	}
	for _, bits := range []int{26, 24, 22, 20, 16} {
		subnet := netip.PrefixFrom(gw, bits).Masked()
		if gw != subnet.Addr() && gw != lastAddr(subnet) && (!own.IsValid() || subnet.Contains(own)) {
			return netip.PrefixFrom(gw, bits), nil
		}
	}
	return host(gw), nil // they share no subnet
}

func (p *plan) plan6(cfg *config.Config) error {
	var err error
	if p.inet6, p.inetGW6, err = pickInternet(cfg, internet6); err != nil {
		return err
	}
	gw := cfg.Uplink.Gateway6
	if !gw.IsValid() {
		gw = netip.MustParseAddr("fe80::1") // what most providers of a /64 have
	}
	var proxied *config.Network
	for i, n := range cfg.Networks {
		if n.Prefix.Addr().Is6() && n.Upstream == config.Proxied {
			proxied = &cfg.Networks[i]
			break
		}
	}
	in := networkOf(cfg, gw)
	p.gw6 = netip.PrefixFrom(gw, 64)
	if in != nil && in.Upstream == config.Proxied {
		p.gw6 = netip.PrefixFrom(gw, in.Prefix.Bits())
	} else if in != nil {
		p.gw6 = host(gw) // in a prefix that is routed to dom0: alone
	}

	var own netip.Prefix
	switch {
	case proxied != nil && !proxied.Gateway.IsLinkLocalUnicast() && proxied.Gateway != gw:
		own = netip.PrefixFrom(proxied.Gateway, proxied.Prefix.Bits()) // shared, as in the reference
	case proxied != nil:
		own, err = freeIn(cfg, proxied.Prefix, gw)
	case !gw.IsLinkLocalUnicast() && in == nil:
		own, err = freeIn(cfg, p.gw6.Masked(), gw)
	}
	if !own.IsValid() { // nothing says which prefix the link has, or all of it is the guests'
		var t netip.Prefix
		if t, err = pick(cfg, transfer6); err == nil {
			p.gwMore = append(p.gwMore, t)
			own, err = freeIn(cfg, t.Masked(), t.Addr())
		}
	}
	if err != nil {
		return err
	}
	p.dom0 = append(p.dom0, own)
	if !gw.IsLinkLocalUnicast() && !own.Contains(gw) {
		p.dom0Routes = append(p.dom0Routes, Route{Dst: host(gw)})
	}
	p.dom0Routes = append(p.dom0Routes, Route{Dst: defaultRoute(gw), Via: gw})
	p.routeNetworks(cfg, p.gw6, own.Addr())
	return nil
}

// routeNetworks tells the upstream router the way to the networks of one family: proxied ones are
// on its link, and routed ones behind dom0's address.
func (p *plan) routeNetworks(cfg *config.Config, gw netip.Prefix, dom0 netip.Addr) {
	for _, n := range cfg.Networks {
		if n.Prefix.Addr().Is4() != dom0.Is4() {
			continue
		}
		switch {
		case n.Upstream == config.Routed:
			p.gwRoutes = append(p.gwRoutes, Route{Dst: n.Prefix, Via: dom0})
		case gw.Masked() != n.Prefix: // else the kernel's own route for the address will do
			p.gwRoutes = append(p.gwRoutes, Route{Dst: n.Prefix})
		}
	}
}

// guest works out what a domu's administrator would configure: every bound address with its
// network's length, so that the whole network seems on-link, and the network's gateway as default.
func (p *plan) guest(cfg *config.Config, d config.Domu) guestPlan {
	g := guestPlan{domu: d}
	for _, bound := range append(append([]netip.Prefix(nil), d.IPv4...), d.IPv6...) {
		if bound.Addr().IsLinkLocalUnicast() {
			g.linkLocal = g.linkLocal || bound.Addr().Is6()
			g.addrs = append(g.addrs, netip.PrefixFrom(bound.Addr(), 64))
			continue
		}
		n := networkOf(cfg, bound.Addr())
		if n == nil {
			p.skipped = append(p.skipped, fmt.Sprintf("%s of domu %q is not here: it lies in no network", bound, d.Name))
			continue
		}
		first := &g.net4
		if bound.Addr().Is6() {
			first = &g.net6
		}
		for _, a := range p.usable(cfg, n, bound) {
			g.addrs = append(g.addrs, netip.PrefixFrom(a, n.Prefix.Bits()))
			if *first == nil && n.Gateway.IsValid() {
				*first = n
				g.routes = append(g.routes, Route{Dst: defaultRoute(a), Via: n.Gateway, Source: a})
			}
		}
	}
	return g
}

// usable are the addresses of a binding that its guest configures: the address; or, of a prefix,
// the first and the last that belong to nobody else.
func (p *plan) usable(cfg *config.Config, n *config.Network, bound netip.Prefix) []netip.Addr {
	if bound.IsSingleIP() {
		return []netip.Addr{bound.Addr()}
	}
	bound = bound.Masked()
	taken := func(a netip.Addr) bool {
		if a == n.Gateway || a == cfg.Uplink.Gateway4 || a == cfg.Uplink.Gateway6 || isEdge(n.Prefix, a) {
			return true
		}
		for _, own := range p.dom0 {
			if own.Addr() == a {
				return true
			}
		}
		return false
	}
	first, last := bound.Addr(), lastAddr(bound)
	for bound.Contains(first) && taken(first) {
		first = first.Next()
	}
	for bound.Contains(last) && taken(last) {
		last = last.Prev()
	}
	if !bound.Contains(first) || !bound.Contains(last) {
		return nil
	}
	if first == last {
		return []netip.Addr{first}
	}
	return []netip.Addr{first, last}
}

// unbound is an address of a network that nobody has; false: every one is bound.
func (p *plan) unbound(cfg *config.Config, n *config.Network) (netip.Addr, bool) {
	a, err := freeAddr(cfg, n.Prefix, 200, p.gw4.Addr(), p.gw6.Addr())
	for err == nil {
		own := false
		for _, d := range p.dom0 {
			own = own || d.Addr() == a
		}
		if !own {
			return a, true
		}
		if a = a.Next(); !n.Prefix.Contains(a) || bound(cfg, a) || isEdge(n.Prefix, a) {
			return netip.Addr{}, false
		}
	}
	return netip.Addr{}, false
}

// pickInternet chooses X's prefix and the upstream router's address in it.
func pickInternet(cfg *config.Config, from []string) (netip.Prefix, netip.Addr, error) {
	x, err := pick(cfg, from)
	if err != nil {
		return x, netip.Addr{}, err
	}
	return x, x.Masked().Addr().Next(), nil
}

func pick(cfg *config.Config, from []string) (netip.Prefix, error) {
	for _, s := range from {
		p := netip.MustParsePrefix(s)
		u := cfg.Uplink
		if !overlaps(cfg, p) && !p.Contains(u.Gateway4) && !p.Contains(u.Address4) && !p.Contains(u.Gateway6) {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("the file's networks cover all of %v", from)
}

func overlaps(cfg *config.Config, p netip.Prefix) bool {
	for _, n := range cfg.Networks {
		if n.Prefix.Overlaps(p) {
			return true
		}
	}
	return false
}

// networkOf is the network with the longest prefix that holds an address, or nil.
func networkOf(cfg *config.Config, a netip.Addr) (best *config.Network) {
	for i, n := range cfg.Networks {
		if n.Prefix.Contains(a) && (best == nil || n.Prefix.Bits() > best.Prefix.Bits()) {
			best = &cfg.Networks[i]
		}
	}
	return best
}

func freeIn(cfg *config.Config, p netip.Prefix, not netip.Addr) (netip.Prefix, error) {
	a, err := freeAddr(cfg, p, 3, not)
	return netip.PrefixFrom(a, p.Bits()), err
}

// freeAddr is an address of a prefix that the file gives to nobody, the start-th if that is free.
func freeAddr(cfg *config.Config, p netip.Prefix, start int, not ...netip.Addr) (netip.Addr, error) {
	p = p.Masked()
	nth := p.Addr()
	for range start {
		if next := nth.Next(); p.Contains(next) {
			nth = next
		}
	}
	ok := func(a netip.Addr) bool {
		for _, b := range not {
			if a == b {
				return false
			}
		}
		return a != cfg.Uplink.Gateway4 && a != cfg.Uplink.Gateway6 && !isEdge(p, a) && !bound(cfg, a)
	}
	const most = 1 << 16 // a guest may be bound to nearly all of a /64
	for i, a := 0, nth; i < most && p.Contains(a); i, a = i+1, a.Next() {
		if ok(a) {
			return a, nil
		}
	}
	for i, a := 0, lastAddr(p); i < most && p.Contains(a); i, a = i+1, a.Prev() {
		if ok(a) {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%s has no address left that the file does not give away", p)
}

// bound tells whether the file gives an address to a guest or a network's gateway.
func bound(cfg *config.Config, a netip.Addr) bool {
	for _, n := range cfg.Networks {
		if n.Gateway == a {
			return true
		}
	}
	for _, d := range cfg.Domus {
		for _, p := range d.IPv4 {
			if p.Contains(a) {
				return true
			}
		}
		for _, p := range d.IPv6 {
			if p.Contains(a) {
				return true
			}
		}
	}
	return false
}

// isEdge tells whether an address is its prefix's first (the network, or the routers' anycast
// address) or its IPv4 broadcast address.
func isEdge(p netip.Prefix, a netip.Addr) bool {
	if p.Bits() >= p.Addr().BitLen()-1 {
		return false
	}
	return a == p.Masked().Addr() || a.Is4() && a == lastAddr(p)
}

func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func defaultRoute(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}
