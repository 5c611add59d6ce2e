package stack

import (
	"encoding/binary"
	"net/netip"

	"udrouter/policy"
)

// openingPort is the source port of an opening packet: the first ephemeral one (RFC 6335 6).
const openingPort = 49152

// BuildOpening makes the packet that opens a flow: a TCP SYN, a UDP datagram or an echo request, and 20 bytes of any other protocol. src and
// dst are of one family. port is the destination's, of TCP and UDP. The Ethernet addresses are not yet set.
func BuildOpening(src, dst netip.Addr, proto uint8, port uint16) *Frame {
	f, b := newDatagram(src, dst, proto, 20, 0, dontFragment)
	switch {
	case proto == policy.ProtoTCP:
		const syn = 2
		binary.BigEndian.PutUint16(b, openingPort)
		binary.BigEndian.PutUint16(b[2:], port)
		b[12], b[13] = 5<<4, syn
		binary.BigEndian.PutUint16(b[14:], 65535)
		transportChecksum(b[16:], b, src, dst, proto)
	case proto == policy.ProtoUDP:
		binary.BigEndian.PutUint16(b, openingPort)
		binary.BigEndian.PutUint16(b[2:], port)
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
		transportChecksum(b[6:], b, src, dst, proto)
	case proto == policy.ProtoICMP && src.Is4():
		b[0] = 8
		binary.BigEndian.PutUint16(b[2:], ^policy.FoldChecksum(policy.Sum(b, 0)))
	case proto == policy.ProtoICMPv6 && src.Is6():
		b[0] = 128
		icmpv6Checksum(b, src, dst)
	case src.Is6():
		b[0] = policy.ProtoNone // behind an extension header, should the number be one's
	}
	return f
}
