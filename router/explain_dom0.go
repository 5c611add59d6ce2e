package router

import (
	"net/netip"

	"udrouter/config"
	"udrouter/policy"
)

// passesBy tells whether what dom0 sends is for somebody to whom its kernel knows a way without the router, with whatever source that a host may have.
func (e *Explainer) passesBy(p *policy.Packet, from policy.End) bool {
	if policy.Classify(p.Src) != policy.Unicast || policy.Classify(p.Dst) != policy.Unicast || e.world.Broadcasts[p.Dst] {
		return false
	}
	_, _, r := e.world.way(p, from)
	return r == policy.NoRoute || r == policy.HostPolicy || r == policy.KernelHeld
}

// kernels is the answer for what comes by the uplink for dom0 itself: the router has no part in it, but for the rules that it gave the kernel.
func (e *Explainer) kernels(a Answer, p *policy.Packet, forge policy.Forgery) Answer {
	a.To, a.By = "host", "dom0"
	switch {
	case p.RH0:
		a = a.refuse(policy.RoutingHeader, "dom0", Decision{})
		a.Text = "Dom0's kernel follows no routing header"
		return a
	case kernelRefuses(p.Src) || p.IsIPv4() && e.world.Held[p.Src]:
		a = a.refuse(policy.MartianSrc, "dom0", Decision{})
		a.Text = "Dom0's kernel takes nothing from such a source"
		return a
	case e.leadsHere(p.Src) && !e.world.Held[p.Src]:
		a = a.refuse(policy.SpoofUplink, "dom0", Decision{})
		a.Text = "Dom0's kernel takes nothing by the uplink from an address that it knows behind the router"
		return a
	}
	if e.dom0 != nil && forge == policy.NoForgery && answersTo(p, e.dom0) {
		a.By, a.Text = "state", "Dom0's kernel gets it, as it does every answer to its own connections"
		return a
	}
	if e.uplink == nil {
		a.Text = "Dom0's kernel gets it; without host.uplink only dom0's own firewall decides"
		return a
	}
	switch {
	case p.Proto == policy.ProtoUDP && (p.IsIPv4() && p.SrcPort == 67 && p.DstPort == 68 || p.SrcPort == 547 && p.DstPort == 546 && p.Src.IsLinkLocalUnicast()):
		a.Text = "Dom0's kernel gets it, as it does what DHCP servers say, whatever host.uplink says"
		return a
	case p.L4 != 0 && (p.IsIPv4() && p.Proto == policy.ProtoICMP && p.ICMPType == 0 || p.IsIPv6() && p.Proto == policy.ProtoICMPv6 && p.ICMPType == 129):
		a = a.refuse(policy.NoFlow, "dom0", Decision{})
		a.Text = "Dom0's kernel refuses it, as it does every echo reply to nothing of its own"
		return a
	}
	chain := e.cfg.Host.Uplink
	q := p.Query(policy.ZoneUplink, policy.ZoneHost)
	action, i := e.uplink.Match(&q)
	a.By, a.Decision = "default", Decision{Policy: "host", Chain: "uplink", Source: chain.Source, Action: action.String()}
	if i >= 0 {
		a.By, a.Rule, a.Source = "rule", chain.Rules[i].Name, chain.Rules[i].Source
	}
	a.Steps = append(a.Steps, a.Decision)
	a.Verdict, a.Text = action.String(), "Dom0's kernel gets it, unless a firewall of dom0's own drops it"
	if action != policy.Accept {
		a.Reason, a.Text = policy.HostPolicy.String(), "Dom0's kernel refuses it"
	}
	return a
}

// answersTo tells whether a packet is of the connection that another has opened, the other way (nf_conntrack(7) calls it the reply direction).
func answersTo(p, opener *policy.Packet) bool {
	there, _, ok := opener.FlowKey()
	back, _, same := p.FlowKey()
	return ok && same && there == back && p.Src == opener.Dst && p.SrcPort == opener.DstPort && p.Proto == opener.Proto
}

// meets is the guest to whom the bridge brings what a guest sends, without the router; nil: there is none. Of a bridge whose ports are not isolated that
// is whatever the sender's port lets in.
func (e *Explainer) meets(from policy.End, dst netip.Addr, forge policy.Forgery) *policy.Guest {
	if from.Zone != policy.ZoneGuest || e.world.isolate || forge == policy.ForgeMAC {
		return nil
	}
	if g := e.world.ByAddr(dst); g != nil && g != from.Guest && !e.world.Taken[dst] {
		return g
	}
	return nil
}

// leadsHere tells whether dom0's kernel has a route through the router to an address: to routed networks, and to what guests are bound to in others.
func (e *Explainer) leadsHere(a netip.Addr) bool {
	n := e.cfg.NetworkOf(a)
	return e.world.host && n != nil && (n.Upstream == config.Routed || e.world.ByAddr(a) != nil)
}

// kernelRefuses tells whether Linux takes no packet from an address, whatever its firewall says: ip_route_input_slow and ip6_rcv_core.
func kernelRefuses(src netip.Addr) bool {
	return src.IsMulticast() || src.IsLoopback() || src.Is4In6() || src.Is4() && (src.As4()[0] == 0 || src == netip.AddrFrom4([4]byte{255, 255, 255, 255}))
}
