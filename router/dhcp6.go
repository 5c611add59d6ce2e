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
// gets an address out of each: they are routed to its MAC and not to an address of its, so without one it would have none to send from.
type lease6 struct {
	addrs    []netip.Addr
	prefixes []netip.Prefix
	excluded map[netip.Prefix]netip.Addr // the addresses that are out of prefixes
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
		l.excluded = map[netip.Prefix]netip.Addr{}
		for _, p := range l.prefixes {
			if a, ok := wd.firstAddress(p); ok {
				l.addrs = append(l.addrs, a)
				l.excluded[p] = a
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
		wd.bind(l, m, answer)
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		switch {
		case client == nil || id == nil:
			return nil, policy.Malformed
		case !forUs: // it has chosen another one
			return nil, policy.None
		}
		if m.MessageType == dhcpv6.MessageTypeRequest || m.MessageType == dhcpv6.MessageTypeRenew {
			wd.bind(l, m, answer)
		} else {
			status(answer, iana.StatusSuccess)
			l.release(m, answer)
		}
	case dhcpv6.MessageTypeRebind:
		if client == nil || id != nil {
			return nil, policy.Malformed
		}
		wd.bind(l, m, answer)
	case dhcpv6.MessageTypeConfirm:
		list := confirmed(m)
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
		case m.Options.IANA() != nil || m.Options.IATA() != nil || m.Options.IAPD() != nil:
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

// confirmed are the addresses that a message names.
func confirmed(m *dhcpv6.Message) (list []netip.Addr) {
	for _, ia := range m.Options.IANA() {
		list = append(list, addresses(ia.Options)...)
	}
	for _, ia := range m.Options.IATA() {
		list = append(list, addresses(ia.Options)...)
	}
	return list
}

// addresses are those that an association names.
func addresses(ia dhcpv6.IdentityOptions) (list []netip.Addr) {
	for _, o := range ia.Addresses() {
		if a, ok := netip.AddrFromSlice(o.IPv6Addr); ok {
			list = append(list, a)
		}
	}
	return list
}

// bind answers each association of a message. One of a kind gets all that there is, the first that names something of it or else the first: an address is in one
// association only. What that one names besides is over (RFC 8415 18.3.4). The others get nothing, as there are no temporary addresses (21.5): a client that asks is
// told that there is none, and one that wants to keep what it has that there is no such binding (18.3.4, 18.3.5).
func (wd *world) bind(l lease6, m, answer *dhcpv6.Message) {
	noAddress, noPrefix := iana.StatusNoAddrsAvail, iana.StatusNoPrefixAvail
	if m.MessageType == dhcpv6.MessageTypeRenew || m.MessageType == dhcpv6.MessageTypeRebind {
		noAddress, noPrefix = iana.StatusNoBinding, iana.StatusNoBinding
	}
	list := m.Options.IANA()
	mine := max(slices.IndexFunc(list, l.holds), 0)
	for i, ia := range list {
		switch {
		case m.MessageType == dhcpv6.MessageTypeRequest && slices.ContainsFunc(addresses(ia.Options), func(a netip.Addr) bool { return wd.Network(a) == nil }):
			answer.AddOption(refusedNA(ia.IaId, iana.StatusNotOnLink)) // 18.3.2
		case i != mine || len(l.addrs) == 0:
			answer.AddOption(refusedNA(ia.IaId, noAddress))
		default:
			answer.AddOption(l.bindNA(ia, m.MessageType))
		}
	}
	prefixes := m.Options.IAPD()
	mine = max(slices.IndexFunc(prefixes, l.delegates), 0)
	for i, ia := range prefixes {
		if i != mine || len(l.prefixes) == 0 {
			answer.AddOption(refusedPD(ia.IaId, noPrefix))
			continue
		}
		answer.AddOption(l.bindPD(ia, m))
	}
	for _, ia := range m.Options.IATA() {
		answer.AddOption(refusedTA(ia.IaId, noAddress))
	}
}

// bindNA is an association with all addresses.
func (l lease6) bindNA(ia *dhcpv6.OptIANA, t dhcpv6.MessageType) *dhcpv6.OptIANA {
	out := &dhcpv6.OptIANA{IaId: ia.IaId}
	out.T1, out.T2 = l.renewal()
	for _, a := range l.addrs {
		out.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: a.AsSlice(), PreferredLifetime: l.lease, ValidLifetime: l.lease})
	}
	for _, a := range addresses(ia.Options) {
		if t != dhcpv6.MessageTypeSolicit && !slices.Contains(l.addrs, a) {
			out.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: a.AsSlice()})
		}
	}
	return out
}

// bindPD is an association with all prefixes. A client that asks which of their addresses it has by itself is told (RFC 6603 4.2).
func (l lease6) bindPD(ia *dhcpv6.OptIAPD, m *dhcpv6.Message) *dhcpv6.OptIAPD {
	out := &dhcpv6.OptIAPD{IaId: ia.IaId}
	out.T1, out.T2 = l.renewal()
	excludes := m.Options.RequestedOptions().Contains(dhcpv6.OptionPDExclude)
	for _, p := range l.prefixes {
		o := &dhcpv6.OptIAPrefix{Prefix: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 128)}, PreferredLifetime: l.lease, ValidLifetime: l.lease}
		if a, ok := l.excluded[p]; ok && excludes {
			o.Options.Add(exclude(p, a))
		}
		out.Options.Add(o)
	}
	for _, o := range ia.Options.Prefixes() {
		if m.MessageType != dhcpv6.MessageTypeSolicit && o.Prefix != nil && !l.has(o.Prefix) {
			out.Options.Add(&dhcpv6.OptIAPrefix{Prefix: o.Prefix})
		}
	}
	return out
}

// exclude is an address that is not delegated with its prefix: its length, and its bits from the prefix's end on, moved to a byte's beginning.
func exclude(p netip.Prefix, a netip.Addr) dhcpv6.Option {
	bits, shift := a.As16(), p.Bits()%8
	id := bits[p.Bits()/8:]
	for i := range id {
		id[i] <<= shift
		if i+1 < len(id) {
			id[i] |= id[i+1] >> (8 - shift)
		}
	}
	return &dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionPDExclude, OptionData: append([]byte{128}, id...)}
}

// release answers for the associations of a message that are not the guest's (RFC 8415 18.3.7 and 18.3.8). What it gives back of its own is still its own.
func (l lease6) release(m, answer *dhcpv6.Message) {
	list := m.Options.IANA()
	mine := slices.IndexFunc(list, l.holds)
	for i, ia := range list {
		if i != mine {
			answer.AddOption(refusedNA(ia.IaId, iana.StatusNoBinding))
		}
	}
	prefixes := m.Options.IAPD()
	mine = slices.IndexFunc(prefixes, l.delegates)
	for i, ia := range prefixes {
		if i != mine {
			answer.AddOption(refusedPD(ia.IaId, iana.StatusNoBinding))
		}
	}
	for _, ia := range m.Options.IATA() {
		answer.AddOption(refusedTA(ia.IaId, iana.StatusNoBinding))
	}
}

// renewal is when a client asks this server again, and when any (RFC 8415 21.4).
func (l lease6) renewal() (t1, t2 time.Duration) {
	return wholeSeconds(l.lease / 2), wholeSeconds(l.lease / 5 * 4)
}

// holds tells whether an association names an address that the guest is given.
func (l lease6) holds(ia *dhcpv6.OptIANA) bool {
	return slices.ContainsFunc(addresses(ia.Options), func(a netip.Addr) bool { return slices.Contains(l.addrs, a) })
}

// delegates tells whether an association names a prefix that the guest is given.
func (l lease6) delegates(ia *dhcpv6.OptIAPD) bool {
	return slices.ContainsFunc(ia.Options.Prefixes(), func(o *dhcpv6.OptIAPrefix) bool { return l.has(o.Prefix) })
}

// has tells whether a prefix, which a message may leave out, is one that the guest is given.
func (l lease6) has(p *net.IPNet) bool {
	if p == nil {
		return false
	}
	a, ok := netip.AddrFromSlice(p.IP)
	bits, _ := p.Mask.Size()
	return ok && slices.Contains(l.prefixes, netip.PrefixFrom(a, bits))
}

func status(m *dhcpv6.Message, code iana.StatusCode) {
	m.AddOption(&dhcpv6.OptStatusCode{StatusCode: code})
}

func refusedNA(id [4]byte, code iana.StatusCode) *dhcpv6.OptIANA {
	out := &dhcpv6.OptIANA{IaId: id}
	out.Options.Add(&dhcpv6.OptStatusCode{StatusCode: code})
	return out
}

func refusedTA(id [4]byte, code iana.StatusCode) *dhcpv6.OptIATA {
	return &dhcpv6.OptIATA{IaId: id, Options: refusedNA(id, code).Options}
}

func refusedPD(id [4]byte, code iana.StatusCode) *dhcpv6.OptIAPD {
	out := &dhcpv6.OptIAPD{IaId: id}
	out.Options.Add(&dhcpv6.OptStatusCode{StatusCode: code})
	return out
}
