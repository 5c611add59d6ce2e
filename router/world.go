package router

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"github.com/gaissmai/bart"

	"udrouter/config"
	"udrouter/policy"
	"udrouter/stack"
)

// linkLocal1 is a gateway's usual link-local address, which is the router's on every guests' link.
var linkLocal1 = netip.MustParseAddr("fe80::1")

// world is all that a packet's fate depends on besides the packet. It is immutable; workers load it once a batch.
type world struct {
	policy.View
	plan       *plan
	engine     *policy.Engine
	states     []*guestState // by ID
	kernel     stack.Kernel
	config     map[*policy.Network]*config.Network
	routes     bart.Table[stack.Route] // through the uplink
	all        []stack.Route
	address4   netip.Addr
	global6    netip.Addr // a global address for ICMPv6 errors of a network that has only a link-local gateway
	guestMTU   int
	leastMTU   int    // of all links
	generation uint32 // tells worlds apart in which packets go other ways; never 0
	isolate    bool
	host       bool
	warnings   []string
	gatewayFor map[bool]netip.Addr // by IPv6
}

// newWorld puts together what the file says and what the kernel knows. duplicates is how many link-local addresses on the uplink
// somebody else was found to have.
func newWorld(pl *plan, ll *policy.LinkLocals, routerMAC policy.MAC, guestMTU, duplicates int, k stack.Kernel) *world {
	cfg, b := pl.config, pl.bindings
	w := &world{plan: pl, engine: pl.engine, states: pl.states, kernel: k, config: map[*policy.Network]*config.Network{}, isolate: cfg.Bridge.Isolate, host: cfg.Host != nil, gatewayFor: map[bool]netip.Addr{}}
	w.View = policy.View{
		Bindings: b, RouterMAC: routerMAC, UplinkMAC: k.Uplink.MAC, LinkLocals: ll,
		Own: map[netip.Addr]bool{linkLocal1: true}, Held: map[netip.Addr]bool{}, Upstream: map[netip.Addr]bool{}, Taken: map[netip.Addr]bool{}, Broadcasts: map[netip.Addr]bool{},
	}
	w.UplinkLL = uplinkLinkLocal(k, duplicates)
	w.guestMTU, w.leastMTU, w.global6 = guestMTU, min(guestMTU, k.Uplink.MTU), k.Global6
	for i, n := range b.Networks {
		w.config[n] = &cfg.Networks[i]
		w.Own[n.Gateway] = true
		w.addBroadcasts(n.Prefix)
	}
	for _, p := range k.Subnets {
		w.addBroadcasts(p)
	}
	for _, a := range k.Held {
		w.Held[a] = true
	}
	for _, a := range k.LL {
		w.Held[a] = true
	}
	w.addRoutes(cfg, k)
	w.address4 = cfg.Uplink.Address4
	if !w.address4.IsValid() {
		w.address4 = k.Address4(w.gatewayFor[false])
	}
	w.take("the router's", w.Own)
	w.take("dom0's", w.Held)
	w.take("the provider's router's", w.Upstream)
	w.take("a broadcast address", w.Broadcasts)
	w.warn(cfg, k)
	return w
}

// take keeps addresses from the guests to whom they are bound.
func (w *world) take(whose string, list map[netip.Addr]bool) {
	for _, a := range slices.SortedFunc(maps.Keys(list), netip.Addr.Compare) {
		g := w.ByAddr(a)
		if g == nil || w.Taken[a] {
			continue
		}
		w.Taken[a] = true
		w.warnings = append(w.warnings, fmt.Sprintf("%s is bound to domu %q, but it is %s: the guest may not use it; give the guest another address or prefix", a, g.Name, whose))
	}
}

func (w *world) addBroadcasts(p netip.Prefix) {
	if first, last := policy.Edges(p); first.IsValid() {
		w.Broadcasts[first], w.Broadcasts[last] = true, true
	}
}

// addRoutes takes the kernel's routes through the uplink, with the configured gateways in place of its defaults. A gateway
// is reached on the link itself, whatever prefix it lies in: also off every prefix, in the guests' own, or link-local.
func (w *world) addRoutes(cfg *config.Config, k stack.Kernel) {
	for _, v6 := range []bool{false, true} {
		gw, all := cfg.Uplink.Gateway4, netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if v6 {
			gw, all = cfg.Uplink.Gateway6, netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		if gw.IsValid() {
			w.all = append(w.all, stack.Route{Prefix: all, Gateway: gw})
		} else {
			gw = k.DefaultGateway(v6)
		}
		w.gatewayFor[v6] = gw
	}
	for _, r := range k.Routes {
		if r.Prefix.Bits() == 0 && slices.ContainsFunc(w.all, func(d stack.Route) bool { return d.Prefix == r.Prefix }) {
			continue
		}
		w.all = append(w.all, r)
	}
	for _, r := range slices.Clone(w.all) {
		if r.Gateway.IsValid() && !w.Upstream[r.Gateway] {
			w.Upstream[r.Gateway] = true
			w.all = append(w.all, stack.Route{Prefix: netip.PrefixFrom(r.Gateway, r.Gateway.BitLen())})
		}
	}
	for _, r := range slices.Backward(w.all) { // the first of equal prefixes has the lowest metric, and must win
		w.routes.Insert(r.Prefix, r)
	}
}

// nextHop is the neighbour on the uplink to which a packet for a goes.
func (w *world) nextHop(a netip.Addr) (netip.Addr, bool) {
	if w.Upstream[a] || a.IsLinkLocalUnicast() {
		return a, true
	}
	r, ok := w.routes.Lookup(a)
	if !ok {
		return netip.Addr{}, false
	}
	if r.Gateway.IsValid() {
		return r.Gateway, true
	}
	return a, true
}

// addresses is what netstack is to be.
func (w *world) addresses() stack.Addresses {
	a := stack.Addresses{UplinkMAC: w.UplinkMAC, UplinkMTU: w.kernel.Uplink.MTU, GuestMTU: w.guestMTU, UplinkLL: w.UplinkLL, Address4: w.address4}
	for own := range w.Own {
		a.Own = append(a.Own, own)
	}
	return a
}

// filter is what the uplink's socket is to see.
func (w *world) filter() stack.Filter {
	f := stack.Filter{Own: []netip.Addr{w.UplinkLL}}
	for a := range w.Held {
		f.Held = append(f.Held, a)
	}
	slices.SortFunc(f.Held, netip.Addr.Compare)
	for _, n := range w.Networks {
		f.Prefixes = append(f.Prefixes, n.Prefix)
	}
	return f
}

// gatewayAddress is the address from which the router speaks about a packet between a guest's address and other: that of the
// guest's network.
func (w *world) gatewayAddress(guest netip.Addr, onLink bool) netip.Addr {
	n := w.Network(guest)
	switch {
	case guest.IsLinkLocalUnicast() && guest.Is6():
		return linkLocal1
	case n == nil:
		return netip.Addr{}
	case n.Gateway.IsLinkLocalUnicast() && !onLink:
		return w.global6
	}
	return n.Gateway
}

func (w *world) warn(cfg *config.Config, k stack.Kernel) {
	say := func(format string, args ...any) { w.warnings = append(w.warnings, fmt.Sprintf(format, args...)) }
	var v4, v6 bool
	for _, n := range cfg.Networks {
		v4, v6 = v4 || n.Prefix.Addr().Is4(), v6 || n.Prefix.Addr().Is6()
	}
	if v4 && !w.gatewayFor[false].IsValid() {
		say("no IPv4 gateway: dom0 has no default route through %s; guests reach only what is on the link until it has one or uplink.gateway4 is set", cfg.Uplink.Name)
	}
	if v6 && !w.gatewayFor[true].IsValid() {
		say("no IPv6 gateway: dom0 has no default route through %s; guests reach only what is on the link until it has one or uplink.gateway6 is set", cfg.Uplink.Name)
	}
	if v4 && !w.address4.IsValid() {
		say("dom0 has no IPv4 address on %s, so nobody answers the router's ARP requests: give it one or set uplink.address4", cfg.Uplink.Name)
	}
	if v6 && k.Uplink.MTU < 1280 {
		say("%s has an MTU of %d: IPv6 needs 1280 (RFC 8200 5); larger packets are dropped", cfg.Uplink.Name, k.Uplink.MTU)
	}
	if !k.Uplink.Up {
		say("%s is down: nothing leaves until it is up", cfg.Uplink.Name)
	}
}

// GuestMTU is the MTU toward the guests in bytes: the configured one, or the uplink's when the router starts. TAP, bridge and guests
// do not follow the uplink later on, and neither does this.
func GuestMTU(cfg *config.Config, k stack.Kernel) int {
	if cfg.Bridge.MTU != 0 {
		return cfg.Bridge.MTU
	}
	return max(k.Uplink.MTU, 1280)
}

// UplinkLinkLocal is the router's own link-local address on the uplink, as long as nobody else there has it.
func UplinkLinkLocal(k stack.Kernel) netip.Addr { return uplinkLinkLocal(k, 0) }

// uplinkLinkLocal makes the router's own link-local address on the uplink: stable, and not the one that the kernel derives
// from the same MAC (RFC 7217 5, with the MAC as Net_Iface). A higher counter makes the next one after a duplicate.
func uplinkLinkLocal(k stack.Kernel, counter int) netip.Addr {
	for {
		h := sha256.Sum256(fmt.Appendf(nil, "udrouter uplink %v %d", k.Uplink.MAC, counter))
		a := netip.AddrFrom16([16]byte{0xfe, 0x80, 8: h[0] &^ 2, 9: h[1], 10: h[2], 11: h[3], 12: h[4], 13: h[5], 14: h[6], 15: h[7]})
		if !slices.Contains(k.LL, a) {
			return a
		}
		counter++
	}
}

// RouterMAC is the router's MAC toward the guests: the configured one, or one that stays the same for a bridge on a
// machine: locally administered, from the uplink's MAC and the bridge's name.
func RouterMAC(cfg *config.Config, uplink policy.MAC) policy.MAC {
	if !cfg.Bridge.MAC.IsZero() {
		return cfg.Bridge.MAC
	}
	h := sha256.Sum256(fmt.Appendf(nil, "udrouter bridge %s %v", cfg.Bridge.Name, uplink))
	return policy.MAC{h[0]&^1 | 2, h[1], h[2], h[3], h[4], h[5]}
}

// same tells whether two worlds differ in nothing that the router goes by.
func (w *world) same(o *world) bool {
	return w.leads(o) && maps.Equal(w.kernel.Up, o.kernel.Up) && maps.Equal(w.kernel.Ports, o.kernel.Ports)
}

// leads tells whether all packets go the same way in two worlds, which then have one generation: interfaces but the uplink may differ in their state
// and place.
func (w *world) leads(o *world) bool {
	k := w.kernel
	k.Up, k.Ports = o.kernel.Up, o.kernel.Ports
	return w.plan == o.plan && w.UplinkLL == o.UplinkLL && reflect.DeepEqual(k, o.kernel)
}

// vanish forgets which guests were there whose vif is not running any more, as it was in the world before.
func (w *world) vanish(before *world) {
	for i, g := range w.Guests {
		if before.kernel.Up[g.Vif] && !w.kernel.Up[g.Vif] {
			w.states[i].vanished()
		}
	}
}
