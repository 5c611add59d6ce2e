package stack

import (
	"net/netip"
)

// openingPort is the source port of an opening packet: the first ephemeral one (RFC 6335 6).
const openingPort = 49152

// BuildOpening makes the packet that opens a flow: a TCP SYN, a UDP datagram or an echo request, and 20 bytes of any other protocol. src and
// dst are of one family. port is the destination's, of TCP and UDP. The Ethernet addresses are not yet set.
func BuildOpening(src, dst netip.Addr, proto uint8, port uint16) *Frame {
	return Probe{Src: src, Dst: dst, Proto: proto, SrcPort: openingPort, DstPort: port}.Build()
}
