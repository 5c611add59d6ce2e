package router

import "udrouter/policy"

// target is whom a packet is for.
type target uint8

const (
	toRouter target = iota
	toHost
	toUplink
	toGuest
)

// end is a target as the policy sees it; the router itself is none.
func (t target) end(g *policy.Guest) policy.End {
	switch t {
	case toHost:
		return policy.End{Zone: policy.ZoneHost}
	case toGuest:
		return policy.End{Zone: policy.ZoneGuest, Guest: g}
	}
	return policy.End{Zone: policy.ZoneUplink}
}

// way tells whom a packet that the guards have passed is for, by its destination, or why for nobody. What the policy says of it comes after.
func (wd *world) way(p *policy.Packet, from policy.End) (target, *policy.Guest, policy.Reason) {
	switch {
	case wd.Own[p.Dst] || p.Dst == wd.UplinkLL:
		return wd.wayToRouter(p, from)
	case wd.Held[p.Dst]:
		return wd.wayToHost(from)
	case wd.Upstream[p.Dst]:
		return wd.wayToUplink(from)
	}
	if g := wd.ByAddr(p.Dst); g != nil {
		if g == from.Guest {
			return toGuest, g, policy.Loop
		}
		return toGuest, g, policy.None
	}
	if wd.Network(p.Dst) != nil { // never resolved: a scan of the prefix costs nothing (RFC 6583)
		return toGuest, nil, policy.UnboundDst
	}
	return wd.wayToUplink(from)
}

// wayToRouter: the router itself answers echo, and nothing else. What more there is for an address that it shares with dom0's kernel goes there.
func (wd *world) wayToRouter(p *policy.Packet, from policy.End) (target, *policy.Guest, policy.Reason) {
	held := wd.Held[p.Dst]
	echo := p.IsEchoRequest() || p.L4 == 0 && (p.Proto == policy.ProtoICMP || p.Proto == policy.ProtoICMPv6)
	switch {
	case held && from.Zone != policy.ZoneGuest:
		return toHost, nil, policy.KernelHeld
	case held && !echo:
		if p.Src.IsLinkLocalUnicast() { // dom0 is on another link (RFC 4291 2.5.6)
			return toHost, nil, policy.LinkLocal
		}
		return wd.wayToHost(from)
	case !echo:
		return toRouter, nil, policy.RouterLocal
	}
	return toRouter, nil, policy.None
}

// wayToHost: a guest may have business with dom0; what comes from the uplink the kernel gets without us.
func (wd *world) wayToHost(from policy.End) (target, *policy.Guest, policy.Reason) {
	switch {
	case from.Zone == policy.ZoneUplink:
		return toHost, nil, policy.KernelHeld
	case from.Zone == policy.ZoneHost || !wd.host:
		return toHost, nil, policy.HostPolicy
	}
	return toHost, nil, policy.None
}

// wayToUplink: what a guest has for the world outside. What comes from there or from dom0 does not go back.
func (wd *world) wayToUplink(from policy.End) (target, *policy.Guest, policy.Reason) {
	if from.Zone != policy.ZoneGuest {
		return toUplink, nil, policy.NoRoute
	}
	return toUplink, nil, policy.None
}
