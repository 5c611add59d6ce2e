package policy

import (
	"maps"
	"net/netip"
	"sync"
)

// View is what the guards know of the world: immutable, replaced as a whole when an address, a MAC or a route changes.
// Concurrent use is safe.
type View struct {
	*Bindings
	RouterMAC MAC // the router's toward guests
	UplinkMAC MAC // the router's toward the provider, which is the uplink interface's

	Own      map[netip.Addr]bool // the router's addresses toward guests: gateways and fe80::1
	Held     map[netip.Addr]bool // dom0's kernel's own addresses
	Upstream map[netip.Addr]bool // the provider's routers
	UplinkLL netip.Addr          // the router's own link-local address on the uplink

	// Broadcasts are the directed broadcasts of the networks and of the kernel's connected prefixes on the uplink, see Edges.
	Broadcasts map[netip.Addr]bool

	// Taken are addresses that a guest's prefix covers and that are the router's, dom0's or the provider's all the same.
	Taken map[netip.Addr]bool

	LinkLocals *LinkLocals
}

// FromGuest finds whose frame it is, and whether that guest may send it. The guest is nil where the MAC is nobody's.
func (v *View) FromGuest(p *Packet) (*Guest, Reason) {
	if p.SrcMAC.IsZero() || p.SrcMAC.IsGroup() {
		return nil, MACInvalid
	}
	g := v.ByMAC(p.SrcMAC)
	if g == nil {
		return nil, MACBinding
	}
	if p.DstMAC != v.RouterMAC && !p.DstMAC.IsGroup() {
		return g, OtherHost
	}
	if p.EtherType == EtherARP {
		return g, v.guestARP(g, p)
	}
	if v.isDHCP(p, true) {
		return g, v.guestDHCP(g, p)
	}
	if r := routersOnly(p); r != None {
		return g, r
	}
	if r := v.guestSource(g, p); r != None {
		return g, r
	}
	if p.IsND() {
		return g, v.guestND(g, p)
	}
	return g, v.destination(p, false)
}

// owns tells whether an address is a guest's and nobody's before it.
func (v *View) owns(g *Guest, a netip.Addr) bool { return v.ByAddr(a) == g && !v.Taken[a] }

// guestARP wants both sender fields to be the guest's own (RFC 5227: a probe has no sender address).
func (v *View) guestARP(g *Guest, p *Packet) Reason {
	switch {
	case p.ARP.SHA != p.SrcMAC:
		return ARPSpoof
	case p.ARP.SPA.IsUnspecified() && p.ARP.Op == 1:
		return None
	case !v.owns(g, p.ARP.SPA):
		return ARPSpoof
	}
	return None
}

// routersOnly refuses what only a router says, whatever address it comes from (RFC 6105, RFC 4861 8.2).
func routersOnly(p *Packet) Reason {
	switch {
	case !p.IsND():
	case p.ICMPType == RouterAdvertisement:
		return RAGuard
	case p.ICMPType == RedirectMessage:
		return Redirect
	}
	return None
}

func (v *View) guestSource(g *Guest, p *Packet) Reason {
	switch Classify(p.Src) {
	case Unspecified:
		// Only what an interface without an address yet must send: DAD, RS (RFC 4861), MLD (RFC 3590).
		if p.IsIPv6() && p.Proto == ProtoICMPv6 && p.Dst.IsMulticast() && (p.IsND() || isMLD(p)) {
			return None
		}
		return MartianSrc
	case LinkScope:
		if p.IsIPv4() {
			return MartianSrc
		}
		if v.Own[p.Src] || !v.MayUseLinkLocal(g, p.Src) || !v.LinkLocals.claim(g, p.Src) {
			return IP6Binding
		}
		return None
	case Unicast:
	default:
		return MartianSrc
	}
	if v.owns(g, p.Src) {
		return None
	}
	if v.Own[p.Src] || v.Held[p.Src] || v.Upstream[p.Src] || v.Broadcasts[p.Src] {
		return MartianSrc
	}
	if p.IsIPv4() {
		return IPBinding
	}
	return IP6Binding
}

func (v *View) guestND(g *Guest, p *Packet) Reason {
	if p.ND.HasSource && p.ND.SourceLL != p.SrcMAC || p.ND.HasTarget && p.ND.TargetLL != p.SrcMAC {
		return NDSpoof
	}
	if p.ICMPType == NeighborAdvertisement {
		// The target is what neighbours would believe; the source address proves nothing.
		if !v.mayHave(g, p.ND.Target) {
			return NDSpoof
		}
		// A guest that routes a prefix of its own says so; any other has no reason to call itself a router.
		if p.ND.Flags&NARouter != 0 && !g.routes() {
			return NDSpoof
		}
	}
	if !p.Dst.IsMulticast() && p.DstMAC.IsGroup() {
		return L2Multicast
	}
	return None
}

// mayHave tells whether an address may be a guest's.
func (v *View) mayHave(g *Guest, a netip.Addr) bool {
	if a.IsLinkLocalUnicast() {
		return !v.Own[a] && v.MayUseLinkLocal(g, a) && v.LinkLocals.claim(g, a)
	}
	return v.owns(g, a)
}

// routes tells whether a guest has a whole prefix.
func (g *Guest) routes() bool {
	for _, p := range g.Addrs {
		if !p.IsSingleIP() {
			return true
		}
	}
	return false
}

// FromUplink tells whether a frame may come from the provider's side.
func (v *View) FromUplink(p *Packet) Reason {
	if !v.MayBeOnUplink(p.SrcMAC) {
		return MACInvalid
	}
	if p.DstMAC != v.UplinkMAC && !p.DstMAC.IsGroup() {
		return OtherHost
	}
	if v.isDHCP(p, false) {
		return DHCPGuard
	}
	if p.EtherType == EtherARP {
		return v.uplinkARP(p)
	}
	switch Classify(p.Src) {
	case LinkScope:
		if p.IsIPv4() {
			return MartianSrc
		}
		// Its owner answers from it when two stations have the same address (RFC 4862 5.4.4).
		if (p.Src == v.UplinkLL || v.Held[p.Src]) && !(p.IsND() && p.ICMPType == NeighborAdvertisement) {
			return SpoofUplink
		}
	case Unspecified:
		if !p.IsND() && !isMLD(p) {
			return MartianSrc
		}
	case Unicast:
		if v.ours(p.Src) {
			return SpoofUplink
		}
		if v.Broadcasts[p.Src] {
			return MartianSrc
		}
	default:
		return MartianSrc
	}
	if p.IsND() {
		if p.ICMPType == RedirectMessage {
			return Redirect
		}
		if p.ND.HasSource && !v.MayBeOnUplink(p.ND.SourceLL) || p.ND.HasTarget && !v.MayBeOnUplink(p.ND.TargetLL) {
			return NDSpoof
		}
		// Link-local addresses are another link's; fe80::1 may well be the provider's.
		if p.ICMPType == NeighborAdvertisement && !p.ND.Target.IsLinkLocalUnicast() && v.ours(p.ND.Target) {
			return NDSpoof
		}
		if !p.Dst.IsMulticast() && p.DstMAC.IsGroup() {
			return L2Multicast
		}
		return None
	}
	return v.destination(p, true)
}

// uplinkARP wants a sender that may be a station on the uplink. A probe has no sender address (RFC 5227 1.1).
func (v *View) uplinkARP(p *Packet) Reason {
	if !v.MayBeOnUplink(p.ARP.SHA) || v.ours(p.ARP.SPA) || v.Broadcasts[p.ARP.SPA] {
		return ARPSpoof
	}
	switch Classify(p.ARP.SPA) {
	case Unicast, LinkScope:
		return None
	case Unspecified:
		if p.ARP.Op == 1 {
			return None
		}
	}
	return ARPSpoof
}

// MayBeOnUplink tells whether a MAC may be another station's on the uplink.
func (v *View) MayBeOnUplink(m MAC) bool {
	return !m.IsZero() && !m.IsGroup() && m != v.UplinkMAC && m != v.RouterMAC
}

// ours tells whether an address is on this side, so that nobody on the uplink may send from it.
func (v *View) ours(a netip.Addr) bool {
	if v.Upstream[a] {
		return false
	}
	return v.Held[a] || v.Own[a] || v.Network(a) != nil || v.ByAddr(a) != nil
}

// FromHost tells whether dom0's kernel may send a packet through the host TUN: only with an address that it holds, so
// that nothing that dom0 forwards by mistake gets in.
func (v *View) FromHost(p *Packet) Reason {
	if Classify(p.Src) != Unicast || !v.Held[p.Src] {
		return HostSource
	}
	return v.destination(p, false)
}

// destination refuses what no router forwards, whoever sent it. The router's link-local address on the uplink is there alone.
func (v *View) destination(p *Packet, uplink bool) Reason {
	own := v.Own[p.Dst] && !(uplink && p.Dst.IsLinkLocalUnicast()) || uplink && p.Dst == v.UplinkLL
	if p.RH0 && !(own && p.IsEchoRequest()) { // who is its destination answers (RFC 5095 3)
		return RoutingHeader
	}
	if p.Src.IsLinkLocalUnicast() && !own && !p.Dst.IsMulticast() {
		return LinkLocal
	}
	switch Classify(p.Dst) {
	case MulticastIP:
		return Multicast
	case BroadcastIP:
		return Broadcast
	case LinkScope:
		if own {
			break
		}
		if p.IsIPv4() {
			return MartianDst
		}
		return LinkLocal
	case Unicast:
		if v.Broadcasts[p.Dst] {
			return Broadcast
		}
	default:
		return MartianDst
	}
	if p.DstMAC.IsGroup() {
		return L2Multicast
	}
	return icmpType(p)
}

// icmpType refuses what a router does not pass, whatever the rules say: all but errors and echo. Of IPv4 that is redirect, source quench
// (RFC 6633), router discovery, timestamps and what RFC 6918 deprecates; of IPv6 (RFC 4890 4.3 and 4.4) what is for the link, router
// renumbering, node information, mobility, experiments and what nobody has assigned, codes of time exceeded and parameter problem (RFC 4443, 7112,
// 8883, 8986) among it. All codes of packet too big pass, since nobody looks at them.
func icmpType(p *Packet) Reason {
	if p.L4 == 0 {
		return None
	}
	switch {
	case p.IsIPv4() && p.Proto == ProtoICMP:
		switch p.ICMPType {
		case 0, 3, 8, 11, 12:
			return None
		case 5:
			return Redirect
		}
		return ICMPType
	case p.IsIPv6() && p.Proto == ProtoICMPv6:
		switch t := p.ICMPType; {
		case t == 1, t == 2, t == 3 && p.ICMPCode <= 1, t == 4 && p.ICMPCode <= 10, t == 128, t == 129:
			return None
		}
		return ICMPType
	}
	return None
}

// isMLD tells whether a packet is Multicast Listener Discovery (RFC 2710, 3810), which every IPv6 host sends.
func isMLD(p *Packet) bool {
	return p.IsIPv6() && p.Proto == ProtoICMPv6 && p.L4 != 0 && (p.ICMPType >= 130 && p.ICMPType <= 132 || p.ICMPType == 143)
}

// MaxLinkLocals is how many link-local addresses a guest may have at a time besides the reserved ones.
const MaxLinkLocals = 8

// LinkLocals remembers which guest first used a link-local address that no binding names, so that no other takes it over.
// It is safe for concurrent use and holds MaxLinkLocals a guest.
type LinkLocals struct {
	mu     sync.Mutex
	owner  map[netip.Addr]MAC
	claims map[MAC][]netip.Addr // oldest first
}

// NewLinkLocals makes an empty memory.
func NewLinkLocals() *LinkLocals {
	return &LinkLocals{owner: map[netip.Addr]MAC{}, claims: map[MAC][]netip.Addr{}}
}

// Owner is the MAC that uses a link-local address.
func (l *LinkLocals) Owner(a netip.Addr) (MAC, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m, ok := l.owner[a]
	return m, ok
}

// Retain forgets what MACs use that nobody is bound to.
func (l *LinkLocals) Retain(b *Bindings) {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.owner, func(_ netip.Addr, m MAC) bool { return b.ByMAC(m) == nil })
	maps.DeleteFunc(l.claims, func(m MAC, _ []netip.Addr) bool { return b.ByMAC(m) == nil })
}

func (l *LinkLocals) claim(g *Guest, a netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m, ok := l.owner[a]; ok {
		return m == g.MAC
	}
	own := l.claims[g.MAC]
	if len(own) >= MaxLinkLocals {
		delete(l.owner, own[0])
		own = append(own[:0], own[1:]...)
	}
	l.owner[a] = g.MAC
	l.claims[g.MAC] = append(own, a)
	return true
}
