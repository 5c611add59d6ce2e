package router

import (
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"udrouter/config"
	"udrouter/policy"
	"udrouter/stack"
)

// maxLeased is how many addresses, and how many prefixes, one guest is given: so many fit into an answer.
const maxLeased = 16

// lease6 is what a guest is given: its addresses, and the prefixes that are whole its own to route (RFC 8415 6.3), the first maxLeased of each. Who has prefixes alone
// gets an address out of each.
type lease6 struct {
	addrs    []netip.Addr
	prefixes []netip.Prefix
	dns      []netip.Addr
	lease    time.Duration // the shortest of its networks'
}

func (wd *world) lease6(g *policy.Guest) (l lease6) {
	wd.served(g, true, func(p netip.Prefix, n *config.Network) {
		switch {
		case !p.IsSingleIP() && len(l.prefixes) < maxLeased:
			l.prefixes = append(l.prefixes, p)
		case p.IsSingleIP() && len(l.addrs) < maxLeased:
			l.addrs = append(l.addrs, p.Addr())
		}
		if l.lease == 0 || n.DHCP.Lease < l.lease {
			l.lease = n.DHCP.Lease
		}
		l.dns = appendNew(l.dns, n.DHCP.DNS...)
	})
	if l.addrs == nil {
		for _, p := range l.prefixes {
			if a, ok := wd.firstAddress(p); ok {
				l.addrs = append(l.addrs, a)
			}
		}
	}
	l.lease = wholeSeconds(l.lease)
	return l
}

// serve6 is a DHCPv6 server (RFC 8415 18.3). The answer is nil where there is none to be given.
func (wd *world) serve6(g *policy.Guest, to netip.Addr, body []byte) (*stack.Frame, policy.Reason) {
	m, err := dhcpv6.MessageFromBytes(body)
	if err != nil {
		return nil, policy.Malformed
	}
	server := &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: wd.RouterMAC[:]}
	id := m.Options.ServerID()
	forUs := id != nil && server.Equal(id)
	answer := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeReply, TransactionID: m.TransactionID}
	answer.AddOption(dhcpv6.OptServerID(server))
	client := m.Options.ClientID()
	if client != nil {
		answer.AddOption(dhcpv6.OptClientID(client))
	}
	l := wd.lease6(g)
	switch m.MessageType { // RFC 8415 16: who must say for whom it is, and who must not
	case dhcpv6.MessageTypeSolicit:
		if client == nil || id != nil {
			return nil, policy.Malformed
		}
		if m.GetOneOption(dhcpv6.OptionRapidCommit) != nil {
			answer.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit})
		} else {
			answer.MessageType = dhcpv6.MessageTypeAdvertise
			answer.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionPreference, OptionData: []byte{255}}) // there is no other to wait for
		}
		l.bind(m, answer)
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		switch {
		case client == nil || id == nil:
			return nil, policy.Malformed
		case !forUs: // it has chosen another one
			return nil, policy.None
		}
		if m.MessageType == dhcpv6.MessageTypeRequest || m.MessageType == dhcpv6.MessageTypeRenew {
			l.bind(m, answer)
		} else {
			status(answer, iana.StatusSuccess)
		}
	case dhcpv6.MessageTypeRebind:
		if client == nil || id != nil {
			return nil, policy.Malformed
		}
		l.bind(m, answer)
	case dhcpv6.MessageTypeConfirm:
		list := named(m)
		switch {
		case client == nil || id != nil:
			return nil, policy.Malformed
		case list == nil: // RFC 8415 18.3.3
			return nil, policy.None
		case slices.ContainsFunc(list, func(a netip.Addr) bool { return !slices.Contains(l.addrs, a) }):
			status(answer, iana.StatusNotOnLink)
		default:
			status(answer, iana.StatusSuccess)
		}
	case dhcpv6.MessageTypeInformationRequest:
		switch {
		case m.Options.IANA() != nil || m.Options.IAPD() != nil:
			return nil, policy.Malformed
		case id != nil && !forUs:
			return nil, policy.None
		}
	default:
		return nil, policy.DHCPGuard
	}
	if len(l.dns) > 0 {
		answer.AddOption(dhcpv6.OptDNS(netIPs(l.dns)...))
	}
	return stack.BuildUDP(netip.AddrPortFrom(linkLocal1, 547), netip.AddrPortFrom(to, 546), answer.ToBytes()), policy.None
}

// named are the addresses that a message names.
func named(m *dhcpv6.Message) (list []netip.Addr) {
	for _, ia := range m.Options.IANA() {
		for _, o := range ia.Options.Addresses() {
			if a, ok := netip.AddrFromSlice(o.IPv6Addr); ok {
				list = append(list, a)
			}
		}
	}
	return list
}

// bind answers each association of a message. The first of a kind gets all that there is, what it names besides is over (RFC 8415 18.3.4), and others get nothing:
// an address is in one association only.
func (l lease6) bind(m, answer *dhcpv6.Message) {
	t1, t2 := wholeSeconds(l.lease/2), wholeSeconds(l.lease/5*4)
	for i, ia := range m.Options.IANA() {
		out := &dhcpv6.OptIANA{IaId: ia.IaId}
		if i > 0 || len(l.addrs) == 0 {
			out.Options.Add(&dhcpv6.OptStatusCode{StatusCode: iana.StatusNoAddrsAvail})
			answer.AddOption(out)
			continue
		}
		out.T1, out.T2 = t1, t2
		for _, a := range l.addrs {
			out.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: a.AsSlice(), PreferredLifetime: l.lease, ValidLifetime: l.lease})
		}
		for _, o := range ia.Options.Addresses() {
			if a, ok := netip.AddrFromSlice(o.IPv6Addr); ok && !slices.Contains(l.addrs, a) && m.MessageType != dhcpv6.MessageTypeSolicit {
				out.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: o.IPv6Addr})
			}
		}
		answer.AddOption(out)
	}
	for i, ia := range m.Options.IAPD() {
		out := &dhcpv6.OptIAPD{IaId: ia.IaId}
		if i > 0 || len(l.prefixes) == 0 {
			out.Options.Add(&dhcpv6.OptStatusCode{StatusCode: iana.StatusNoPrefixAvail})
			answer.AddOption(out)
			continue
		}
		out.T1, out.T2 = t1, t2
		for _, p := range l.prefixes {
			out.Options.Add(&dhcpv6.OptIAPrefix{Prefix: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 128)}, PreferredLifetime: l.lease, ValidLifetime: l.lease})
		}
		for _, o := range ia.Options.Prefixes() {
			if !l.delegates(o.Prefix) && m.MessageType != dhcpv6.MessageTypeSolicit {
				out.Options.Add(&dhcpv6.OptIAPrefix{Prefix: o.Prefix})
			}
		}
		answer.AddOption(out)
	}
}

// delegates tells whether a prefix, which a message may leave out, is one that the guest is given; nil is none that could be over.
func (l lease6) delegates(p *net.IPNet) bool {
	if p == nil {
		return true
	}
	a, ok := netip.AddrFromSlice(p.IP)
	bits, _ := p.Mask.Size()
	return ok && slices.Contains(l.prefixes, netip.PrefixFrom(a, bits))
}

func status(m *dhcpv6.Message, code iana.StatusCode) {
	m.AddOption(&dhcpv6.OptStatusCode{StatusCode: code})
}
