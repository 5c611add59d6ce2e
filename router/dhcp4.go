package router

import (
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"udrouter/config"
	"udrouter/policy"
	"udrouter/stack"
)

// lease4 is what a guest is given: DHCP has one address for an interface, so it is the first that the guest is bound to. What it is told of another one that it has by
// itself is informed4.
type lease4 struct {
	addr    netip.Addr
	network *config.Network
}

func (wd *world) lease4(g *policy.Guest) (l lease4) {
	wd.served(g, false, func(p netip.Prefix, n *config.Network) {
		a, ok := p.Addr(), true
		if !p.IsSingleIP() {
			a, ok = wd.firstAddress(p)
		}
		if ok && !l.addr.IsValid() {
			l = lease4{a, n}
		}
	})
	return l
}

// informed4 is what goes for an address that a guest says it has: nothing where it may not have it, or is not served there.
func (wd *world) informed4(g *policy.Guest, ip net.IP) (l lease4) {
	a, _ := netip.AddrFromSlice(ip.To4())
	if n := wd.config[wd.Network(a)]; n != nil && n.DHCP != nil && wd.ByAddr(a) == g && !wd.Taken[a] {
		l = lease4{a, n}
	}
	return l
}

// serve4 is a DHCPv4 server (RFC 2131 4.3). The answer is nil where there is none to be given.
func (wd *world) serve4(g *policy.Guest, body []byte) (*stack.Frame, policy.Reason) {
	m, err := dhcpv4.FromBytes(body)
	if err != nil {
		return nil, policy.Malformed
	}
	l := wd.lease4(g)
	if m.MessageType() == dhcpv4.MessageTypeInform && !m.ClientIPAddr.IsUnspecified() {
		l = wd.informed4(g, m.ClientIPAddr)
	}
	if !l.addr.IsValid() {
		return nil, policy.DHCPGuard
	}
	t := dhcpv4.MessageTypeAck
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		t = dhcpv4.MessageTypeOffer
	case dhcpv4.MessageTypeRequest:
		if id := m.ServerIdentifier(); id != nil && !id.Equal(l.server()) { // it has chosen another one's offer
			return nil, policy.None
		}
		wanted := m.RequestedIPAddress()
		if wanted == nil {
			wanted = m.ClientIPAddr
		}
		if !wanted.Equal(l.addr.AsSlice()) {
			t = dhcpv4.MessageTypeNak
		}
	case dhcpv4.MessageTypeInform:
	case dhcpv4.MessageTypeDecline, dhcpv4.MessageTypeRelease:
		return nil, policy.None
	default: // BOOTP, and what only servers say
		return nil, policy.DHCPGuard
	}
	// The library copies the client identifier (RFC 6842).
	answer, err := dhcpv4.NewReplyFromRequest(m, dhcpv4.WithMessageType(t), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(l.server())))
	if err != nil {
		return nil, policy.Malformed
	}
	if t != dhcpv4.MessageTypeNak {
		wd.tell4(answer, l, m.MessageType() != dhcpv4.MessageTypeInform)
	}
	return stack.BuildUDP(netip.AddrPortFrom(l.network.Gateway, 67), netip.AddrPortFrom(l.destination(m, t), 68), answer.ToBytes()), policy.None
}

// server is what the server calls itself.
func (l lease4) server() net.IP { return l.network.Gateway.AsSlice() }

// tell4 puts into an answer what the client is to know (RFC 2132), the address with its lease where it wants one.
func (wd *world) tell4(m *dhcpv4.DHCPv4, l lease4, lease bool) {
	n := l.network
	m.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(n.Prefix.Bits(), 32)))
	m.UpdateOption(dhcpv4.OptRouter(l.server()))
	m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, []byte{byte(wd.guestMTU >> 8), byte(wd.guestMTU)}))
	if len(n.DHCP.DNS) > 0 {
		m.UpdateOption(dhcpv4.OptDNS(netIPs(n.DHCP.DNS)...))
	}
	if !lease {
		return
	}
	m.YourIPAddr = l.addr.AsSlice()
	m.UpdateOption(dhcpv4.OptIPAddressLeaseTime(wholeSeconds(n.DHCP.Lease)))
	m.UpdateOption(dhcpv4.OptRenewTimeValue(wholeSeconds(n.DHCP.Lease / 2)))
	m.UpdateOption(dhcpv4.OptRebindingTimeValue(wholeSeconds(n.DHCP.Lease / 8 * 7)))
}

// destination is where an answer goes (RFC 2131 4.1): to the address that the client has or is given, unless it wants a broadcast, or is told that it has the wrong one.
func (l lease4) destination(m *dhcpv4.DHCPv4, t dhcpv4.MessageType) netip.Addr {
	everybody := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	switch {
	case t == dhcpv4.MessageTypeNak:
		return everybody
	case !m.ClientIPAddr.IsUnspecified() && m.ClientIPAddr.Equal(l.addr.AsSlice()):
		return l.addr
	case m.IsBroadcast(), m.MessageType() == dhcpv4.MessageTypeInform:
		return everybody
	}
	return l.addr
}
