package stack

import (
	"encoding/binary"
	"net/netip"

	"udrouter/policy"
)

// openingPort is the source port of an opening packet: the first ephemeral one (RFC 6335 6).
const openingPort = 49152

// Probe is a packet that is made to find out what becomes of it. Source and destination are of one family.
type Probe struct {
	Src, Dst netip.Addr
	Proto    uint8
	SrcPort  uint16 // of TCP and UDP; the identifier of an echo request; of other protocols, a word in the packet
	DstPort  uint16 // of TCP and UDP
}

// BuildOpening makes the packet that opens a flow: a TCP SYN, a UDP datagram or an echo request, and 20 bytes of any other protocol. src and
// dst are of one family. port is the destination's, of TCP and UDP. The Ethernet addresses are not yet set.
func BuildOpening(src, dst netip.Addr, proto uint8, port uint16) *Frame {
	return Probe{Src: src, Dst: dst, Proto: proto, SrcPort: openingPort, DstPort: port}.Build()
}

// Build makes the packet as BuildOpening does.
func (q Probe) Build() *Frame {
	src, dst, proto := q.Src, q.Dst, q.Proto
	f, b := newDatagram(src, dst, proto, 20, 0, dontFragment)
	switch {
	case proto == policy.ProtoTCP:
		const syn = 2
		binary.BigEndian.PutUint16(b, q.SrcPort)
		binary.BigEndian.PutUint16(b[2:], q.DstPort)
		b[12], b[13] = 5<<4, syn
		binary.BigEndian.PutUint16(b[14:], 65535)
		transportChecksum(b[16:], b, src, dst, proto)
	case proto == policy.ProtoUDP:
		binary.BigEndian.PutUint16(b, q.SrcPort)
		binary.BigEndian.PutUint16(b[2:], q.DstPort)
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
		transportChecksum(b[6:], b, src, dst, proto)
	case proto == policy.ProtoICMP && src.Is4():
		b[0] = 8
		binary.BigEndian.PutUint16(b[4:], q.SrcPort)
		binary.BigEndian.PutUint16(b[2:], ^policy.FoldChecksum(policy.Sum(b, 0)))
	case proto == policy.ProtoICMPv6 && src.Is6():
		b[0] = 128
		binary.BigEndian.PutUint16(b[4:], q.SrcPort)
		icmpv6Checksum(b, src, dst)
	default:
		binary.BigEndian.PutUint16(b[18:], q.SrcPort)
		if src.Is6() {
			b[0] = policy.ProtoNone // behind an extension header, should the number be one's
		}
	}
	return f
}
