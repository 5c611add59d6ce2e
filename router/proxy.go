package router

import (
	"net/netip"

	"udrouter/config"
	"udrouter/policy"
	"udrouter/stack"
)

var (
	allNodes    = netip.MustParseAddr("ff02::1")
	allNodesMAC = policy.MAC{0x33, 0x33, 0, 0, 0, 1}
)

// guestARP answers a guest for the gateway, for what else it believes to be on its link, and never for itself.
func (w *worker) guestARP(p *policy.Packet, g *policy.Guest) {
	if !p.ARP.SPA.IsUnspecified() {
		w.present(g, p.ARP.SPA)
	}
	if p.ARP.Op != 1 || !w.answersGuest(g, p.ARP.TPA) {
		return
	}
	if !w.take(w.world.of(g).neighbours) {
		w.drop(g, policy.NDLimit)
		return
	}
	// A probe (RFC 5227 2.1.1) for an address that is another's is told so as well.
	w.out[stack.Guests] = append(w.out[stack.Guests],
		stack.BuildARP(2, g.MAC, w.world.RouterMAC, p.ARP.TPA, g.MAC, p.ARP.SPA))
}

// answersGuest tells whether the router is where a guest finds an address: its own, another guest's behind an isolated
// port, the provider's router and dom0 where they lie in the guests' prefix. Never the asker's own, never an unbound one.
func (w *worker) answersGuest(g *policy.Guest, a netip.Addr) bool {
	wd := w.world
	if wd.Own[a] {
		return true
	}
	if wd.Network(a) == nil {
		return false
	}
	if wd.Upstream[a] || wd.Held[a] && wd.host {
		return true
	}
	owner := wd.ByAddr(a)
	return owner != nil && owner != g && wd.isolate
}

// guestND is guestARP for IPv6. NA wants no answer.
func (w *worker) guestND(p *policy.Packet, g *policy.Guest) {
	wd := w.world
	if !p.Src.IsUnspecified() {
		w.present(g, p.Src)
	}
	if p.ICMPType == policy.NeighborAdvertisement {
		w.present(g, p.ND.Target)
	}
	if p.ICMPType == policy.RouterSolicitation {
		w.solicited(g)
	}
	if p.ICMPType != policy.NeighborSolicitation {
		return
	}
	if wd.toAnother(p, linkLocal1) {
		w.drop(g, policy.NDMalformed)
		return
	}
	target, probe := p.ND.Target, p.Src.IsUnspecified()
	taken := target.IsLinkLocalUnicast() && probe && wd.linkLocalTaken(g, target)
	if !taken && !w.answersGuest(g, target) {
		return
	}
	if !w.take(w.world.of(g).neighbours) {
		w.drop(g, policy.NDLimit)
		return
	}
	var flags uint8
	switch {
	case wd.Own[target]:
		flags = policy.NARouter | policy.NAOverride
	case wd.Upstream[target]:
		flags = policy.NARouter
	}
	to := p.Src
	if probe {
		to = allNodes // RFC 4861 7.2.4
	} else {
		flags |= policy.NASolicited
	}
	// To that guest's MAC also where the address is all nodes' (RFC 6085 3): its neighbours must not hear that an address
	// of theirs is somebody else's.
	w.out[stack.Guests] = append(w.out[stack.Guests], stack.BuildNA(g.MAC, wd.RouterMAC, linkLocal1, to, target, flags))
}

// toAnother tells whether a solicitation is on its way to another host than the router, which has a link-local address on the side that it comes from: a
// node answers what it receives for itself (RFC 4861 7.2.3), and neighbour discovery passes no router.
func (wd *world) toAnother(p *policy.Packet, linkLocal netip.Addr) bool {
	own := p.Dst == linkLocal || wd.Own[p.Dst] && !p.Dst.IsLinkLocalUnicast()
	return !p.Dst.IsMulticast() && p.Dst != p.ND.Target && !own
}

// linkLocalTaken tells whether a link-local address is another guest's.
func (wd *world) linkLocalTaken(g *policy.Guest, a netip.Addr) bool {
	if owner, ok := wd.LinkLocals.Owner(a); ok {
		return owner != g.MAC
	}
	return !g.Pinned && !wd.MayUseLinkLocal(g, a)
}

// uplinkARP answers the provider's side for addresses of proxied networks, and lets netstack have the answers it waits for.
func (w *worker) uplinkARP(p *policy.Packet) {
	if p.ARP.Op == 2 && p.DstMAC == w.world.UplinkMAC && p.ARP.TPA == w.world.address4 {
		if w.neighbours.answered(p.ARP.SPA, p.ARP.SHA) {
			w.toNetstack(p)
		}
		return
	}
	w.neighbours.claimed(p.ARP.SPA, p.ARP.SHA)
	if p.ARP.Op != 1 || p.ARP.SPA == p.ARP.TPA {
		return
	}
	g, network := w.answersUplink(p.ARP.TPA)
	if network == nil {
		return
	}
	if !w.mayAnswerUplink(p, g) {
		w.drop(g, policy.NDLimit)
		return
	}
	reply := stack.BuildARP(2, p.ARP.SHA, w.world.UplinkMAC, p.ARP.TPA, p.ARP.SHA, p.ARP.SPA)
	w.answerWhenPresent(g, network, p.ARP.TPA, reply)
}

// uplinkND is uplinkARP for IPv6 (RFC 4861 7.2.4 and 7.2.8). It answers multicast solicitations, unicast ones of a
// neighbour that checks whether we are still there, and those of duplicate address detection.
func (w *worker) uplinkND(p *policy.Packet) {
	switch p.ICMPType {
	case policy.NeighborAdvertisement:
		w.uplinkNA(p)
	case policy.NeighborSolicitation:
		w.uplinkNS(p)
	} // RS is not for us, and RA is for dom0's kernel
}

func (w *worker) uplinkNA(p *policy.Packet) {
	if p.ND.Target == w.world.UplinkLL {
		w.duplicate(p.SrcMAC)
		return
	}
	mac := p.SrcMAC // an answer to a unicast question may leave the option out (RFC 4861 4.4)
	if p.ND.HasTarget {
		mac = p.ND.TargetLL
	}
	if p.ND.Flags&policy.NASolicited != 0 && p.DstMAC == w.world.UplinkMAC && p.Dst == w.world.UplinkLL {
		if w.neighbours.answered(p.ND.Target, mac) {
			w.toNetstack(p)
		}
	} else if p.ND.HasTarget {
		w.neighbours.claimed(p.ND.Target, mac)
	}
}

func (w *worker) uplinkNS(p *policy.Packet) {
	wd := w.world
	if wd.toAnother(p, wd.UplinkLL) {
		w.drop(nil, policy.NDMalformed)
		return
	}
	if p.ND.HasSource {
		w.neighbours.claimed(p.Src, p.ND.SourceLL)
	}
	target := p.ND.Target
	var flags uint8
	var g *policy.Guest
	from := wd.UplinkLL
	network := (*config.Network)(nil)
	if target == wd.UplinkLL {
		flags = policy.NARouter | policy.NAOverride
	} else {
		if g, network = w.answersUplink(target); network == nil {
			return
		}
		flags = w.proxyFlags(g, network)
		if network.Proxy.Source == config.SourceTarget {
			from = target
		}
	}
	if !w.mayAnswerUplink(p, g) {
		w.drop(g, policy.NDLimit)
		return
	}
	to, mac := p.Src, p.SrcMAC
	if p.Src.IsUnspecified() {
		to, mac = allNodes, allNodesMAC
	} else {
		flags |= policy.NASolicited
		if p.ND.HasSource {
			mac = p.ND.SourceLL
		}
	}
	reply := stack.BuildNA(mac, wd.UplinkMAC, from, to, target, flags)
	w.answerWhenPresent(g, network, target, reply)
}

// proxyFlags are R and O of an advertisement on the uplink. A proxy leaves O clear (RFC 4861 7.2.8) unless it is told
// otherwise; the router's own address is no proxy's.
func (r *Router) proxyFlags(g *policy.Guest, n *config.Network) uint8 {
	var flags uint8
	if n.Proxy.Router {
		flags |= policy.NARouter
	}
	if n.Proxy.Override || g == nil {
		flags |= policy.NAOverride
	}
	return flags
}

// answersUplink is the guest and the proxied network of an address that the provider's side is answered for; the guest is
// nil for the network's gateway. The network is nil where the router keeps silent: about the provider's own routers, what
// dom0's kernel holds, broadcasts, unbound addresses, and networks that are routed here.
func (w *worker) answersUplink(a netip.Addr) (*policy.Guest, *config.Network) {
	wd := w.world
	if wd.Upstream[a] || wd.Held[a] {
		return nil, nil
	}
	n := wd.Network(a)
	if n == nil || !n.Proxied {
		return nil, nil
	}
	if wd.Own[a] {
		return nil, wd.config[n]
	}
	g := wd.ByAddr(a)
	if g == nil || wd.Taken[a] {
		return nil, nil
	}
	return g, wd.config[n]
}

// mayAnswerUplink takes an answer about a guest's address, or the router's own, from its share. What other stations on the uplink ask for
// takes nothing from the gateways, without whose questions nothing comes to the guest.
func (w *worker) mayAnswerUplink(p *policy.Packet, g *policy.Guest) bool {
	set := w.world.of(g)
	for a := range w.world.Upstream {
		if n := w.neighbours.lookup(a); n != nil && n.bits.Load() == p.SrcMAC.Bits() {
			return w.take(set.answersToGateway)
		}
	}
	return w.take(set.answers)
}

// answerWhenPresent sends an answer on the uplink, at once or when the guest has shown that it is there.
func (w *worker) answerWhenPresent(g *policy.Guest, n *config.Network, a netip.Addr, reply *stack.Frame) {
	if g == nil || n.Proxy.Answer == config.AnswerBound || w.world.of(g).shown(n, a, reply, w.now()) {
		w.out[stack.UplinkSide] = append(w.out[stack.UplinkSide], reply)
		return
	}
	if probe := w.presence.probe(w.world, g, a); probe != nil {
		w.out[stack.Guests] = append(w.out[stack.Guests], probe)
	}
}

func (w *worker) toNetstack(p *policy.Packet) {
	if !w.netstack.Load().Deliver(stack.Resolver, p) {
		w.drop(nil, policy.Internal)
		w.rebuildNetstack()
	}
}
