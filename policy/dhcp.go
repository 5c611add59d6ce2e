package policy

import (
	"encoding/binary"
	"net/netip"
)

// Ports of DHCP (RFC 2131 4.1, RFC 8415 7.2).
const (
	bootpServer  = 67
	bootpClient  = 68
	dhcp6Client  = 546
	dhcp6Server  = 547
	bootRequest  = 1
	bootReply    = 2
	bootpLen     = 236        // bytes before the options
	dhcpCookie   = 0x63825363 // RFC 2131 3
	optOverload  = 52         // RFC 2132 9.3
	optRelay     = 82         // RFC 3046
	overloadFrom = 44         // the fields sname and file, which may hold options too
)

// isDHCP tells what a server says, and what a client says to whoever is there. Neither crosses a router; a client that knows its server
// asks it like anyone, but for itself only: a guest relays for nobody. Of a first fragment enough must be there to tell.
func (v *View) isDHCP(p *Packet, guest bool) bool {
	if p.Proto != ProtoUDP || p.L4 == 0 {
		return false
	}
	body := p.Frame[p.L4+8:]
	switch {
	case p.IsIPv6():
		return p.DstPort == dhcp6Client || p.DstPort == dhcp6Server && (p.Dst.IsMulticast() || !clientDHCPv6(body, guest))
	case p.DstPort == bootpClient:
		return p.SrcPort == bootpServer || len(body) == 0 || body[0] == bootReply
	case p.DstPort != bootpServer:
		return false
	case p.Src.IsUnspecified(), Classify(p.Dst) == BroadcastIP, v.Broadcasts[p.Dst]:
		return true
	case p.Fragment:
		return guest || len(body) == 0 || body[0] == bootReply
	case len(body) < bootpLen: // no server and no relay takes it for BOOTP
		return false
	case body[0] == bootRequest:
		return guest && !ownRequest(body, p.SrcMAC)
	}
	return body[0] == bootReply
}

// dhcpAgents are all DHCPv6 relays and servers of a link (RFC 8415 7.1).
var dhcpAgents = netip.AddrFrom16([16]byte{0xff, 2, 13: 1, 15: 2})

// guestDHCP lets what a client says to every server pass to the router's own, where that serves the guest: in one piece, without anything between the headers, and about
// the guest itself, from no address or from one that it may have.
func (v *View) guestDHCP(g *Guest, p *Packet) Reason {
	if !v.servesDHCP(g, p.IsIPv6()) || !v.toServer(p) || p.FragHdr || p.HopOption != 0 || p.Routed {
		return DHCPGuard
	}
	body := p.Frame[p.L4+8:]
	if p.IsIPv6() {
		if !p.Src.IsLinkLocalUnicast() || !clientDHCPv6(body, true) {
			return DHCPGuard
		}
		return v.guestSource(g, p)
	}
	if len(body) < bootpLen || body[0] != bootRequest || !ownRequest(body, p.SrcMAC) {
		return DHCPGuard
	}
	if p.Src.IsUnspecified() {
		return None
	}
	return v.guestSource(g, p)
}

// ForServer tells whether a guest's packet that has passed the guards is for the router's DHCP server.
func (v *View) ForServer(g *Guest, p *Packet) bool {
	return v.toServer(p) && v.servesDHCP(g, p.IsIPv6())
}

// toServer tells whether a datagram in one piece goes to where DHCP servers listen: everybody's, or the router's address.
func (v *View) toServer(p *Packet) bool {
	switch {
	case p.Proto != ProtoUDP || p.L4 == 0 || p.Fragment || p.GSOType != GSONone:
		return false
	case p.IsIPv6():
		return p.DstPort == dhcp6Server && p.Dst == dhcpAgents
	}
	return p.DstPort == bootpServer && (Classify(p.Dst) == BroadcastIP || v.Own[p.Dst])
}

// servesDHCP tells whether a guest has an address in a network whose guests are served.
func (v *View) servesDHCP(g *Guest, v6 bool) bool {
	for _, a := range g.Addrs {
		if n := v.Network(a.Addr()); n != nil && n.DHCP && a.Addr().Is6() == v6 {
			return true
		}
	}
	return false
}

// mayBeDHCP tells whether isDHCP looks into a UDP datagram.
func (p *Packet) mayBeDHCP() bool {
	switch p.DstPort {
	case bootpServer, bootpClient:
		return p.IsIPv4()
	case dhcp6Client, dhcp6Server:
		return p.IsIPv6()
	}
	return false
}

// ownRequest tells a BOOTREQUEST that a client sends for itself (RFC 2131 4.4.1) from one that has passed a relay, or is for another's MAC.
func ownRequest(b []byte, mac MAC) bool {
	const ethernet, giaddr, chaddr = 1, 24, 28
	direct := b[1] == ethernet && b[2] == 6 && b[3] == 0 && binary.BigEndian.Uint32(b[giaddr:]) == 0 && MAC(b[chaddr:chaddr+6]) == mac
	if !direct || len(b) < bootpLen+4 || binary.BigEndian.Uint32(b[bootpLen:]) != dhcpCookie {
		return direct
	}
	options := b[bootpLen+4:]
	if hasOption(options, optRelay) {
		return false
	}
	return !hasOption(options, optOverload) || !hasOption(b[overloadFrom:108], optRelay) && !hasOption(b[108:bootpLen], optRelay)
}

// hasOption walks DHCP's options (RFC 2132 2).
func hasOption(b []byte, want uint8) bool {
	for len(b) > 0 && b[0] != 255 {
		switch {
		case b[0] == 0:
			b = b[1:]
			continue
		case b[0] == want:
			return true
		case len(b) < 2 || int(b[1])+2 > len(b):
			return false
		}
		b = b[int(b[1])+2:]
	}
	return false
}

// clientDHCPv6 tells whether a message to a server's port may be a client's: not a server's, which goes to a relay there, nor of a guest
// that relays (RFC 8415 7.3).
func clientDHCPv6(b []byte, guest bool) bool {
	const advertise, reply, reconfigure, relayForw, relayRepl = 2, 7, 10, 12, 13
	if len(b) == 0 {
		return false
	}
	switch b[0] {
	case advertise, reply, reconfigure, relayRepl:
		return false
	case relayForw:
		return !guest
	}
	return true
}
