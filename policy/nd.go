package policy

import (
	"encoding/binary"
	"net/netip"
)

// ICMPv6 types of Neighbor Discovery (RFC 4861 4).
const (
	RouterSolicitation    = 133
	RouterAdvertisement   = 134
	NeighborSolicitation  = 135
	NeighborAdvertisement = 136
	RedirectMessage       = 137
)

// Flags of a neighbour advertisement, in the first byte of its flags field (RFC 4861 4.4).
const (
	NARouter    = 0x80
	NASolicited = 0x40
	NAOverride  = 0x20
)

// ND is a Neighbor Discovery message that has passed the checks of RFC 4861 6.1, 7.1 and 8.1.
type ND struct {
	Target    netip.Addr // NS, NA, Redirect
	Flags     uint8      // of an NA
	SourceLL  MAC        // source link-layer address option
	TargetLL  MAC        // target link-layer address option
	HasSource bool
	HasTarget bool
}

// parseND validates a Neighbor Discovery message; p.L4 is its ICMPv6 header.
func (p *Packet) parseND() Reason {
	if p.FragHdr { // RFC 6980 5: also when the fragment is atomic
		return NDFragment
	}
	if p.TTL != 255 {
		return NDHopLimit
	}
	if p.RH0 {
		return RoutingHeader
	}
	if p.HopOption != 0 {
		return IPv6Option
	}
	b := p.Frame[p.L4:]
	if p.ICMPCode != 0 || p.Routed { // ND goes one hop
		return NDMalformed
	}
	var body int
	switch p.ICMPType {
	case RouterSolicitation:
		body = 8
	case RouterAdvertisement:
		body = 16
	case NeighborSolicitation, NeighborAdvertisement:
		body = 24
	case RedirectMessage:
		body = 40
	}
	if len(b) < body {
		return NDMalformed
	}
	if p.Flags&NeedsCsum == 0 && !ICMPv6ChecksumOK(p.Src, p.Dst, b) {
		return Checksum
	}
	switch p.ICMPType {
	case NeighborSolicitation, NeighborAdvertisement, RedirectMessage:
		p.ND.Target = netip.AddrFrom16([16]byte(b[8:24]))
		if p.ND.Target.IsMulticast() {
			return NDMalformed
		}
	}
	if p.ICMPType == NeighborAdvertisement {
		p.ND.Flags = b[4]
		if p.Dst.IsMulticast() && p.ND.Flags&NASolicited != 0 {
			return NDMalformed
		}
	}
	if r := p.ndOptions(b[body:]); r != None {
		return r
	}
	unspecified := p.Src.IsUnspecified()
	switch p.ICMPType {
	case NeighborSolicitation:
		// RFC 4861 7.1.1: DAD goes to the solicited-node address and has no source link-layer address.
		if unspecified && (!isSolicitedNode(p.Dst) || p.ND.HasSource) {
			return NDMalformed
		}
	case RouterSolicitation:
		if unspecified && p.ND.HasSource {
			return NDMalformed
		}
	case RouterAdvertisement, RedirectMessage:
		if !p.Src.IsLinkLocalUnicast() {
			return NDMalformed
		}
	}
	return None
}

// ndOptions walks the options (RFC 4861 4.6). An option of length 0 or beyond the end discards the packet; unknown ones
// are skipped. Two link-layer options that differ discard it as well: peers would choose differently.
func (p *Packet) ndOptions(b []byte) Reason {
	for len(b) > 0 {
		if len(b) < 8 || b[1] == 0 || int(b[1])*8 > len(b) {
			return NDMalformed
		}
		switch b[0] {
		case 1, 2:
			if b[1] != 1 {
				return NDMalformed
			}
			mac := MAC(b[2:8])
			addr, has := &p.ND.SourceLL, &p.ND.HasSource
			if b[0] == 2 {
				addr, has = &p.ND.TargetLL, &p.ND.HasTarget
			}
			if *has && *addr != mac {
				return NDMalformed
			}
			*addr, *has = mac, true
		}
		b = b[int(b[1])*8:]
	}
	return None
}

// isSolicitedNode tells whether a is in ff02::1:ff00:0/104 (RFC 4291 2.7.1).
func isSolicitedNode(a netip.Addr) bool {
	b := a.As16()
	return [13]byte(b[:13]) == [13]byte{0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff}
}

// SolicitedNode is the multicast address that a's owner listens to (RFC 4291 2.7.1).
func SolicitedNode(a netip.Addr) netip.Addr {
	b := a.As16()
	return netip.AddrFrom16([16]byte{0xff, 2, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
}

// MulticastMAC is the Ethernet address of an IPv6 multicast address (RFC 2464 7).
func MulticastMAC(a netip.Addr) MAC {
	b := a.As16()
	return MAC{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// EUI64 is the link-local address that a station derives from its MAC (RFC 4291 appendix A).
func EUI64(m MAC) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
}

// Sum adds b to an Internet checksum that is not yet folded (RFC 1071).
func Sum(b []byte, sum uint64) uint64 {
	for len(b) >= 8 {
		v := binary.BigEndian.Uint64(b)
		sum += v>>32 + v&0xffffffff
		b = b[8:]
	}
	for len(b) >= 2 {
		sum += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		sum += uint64(b[0]) << 8
	}
	return sum
}

// FoldChecksum folds a sum to 16 bits; the checksum field is its complement.
func FoldChecksum(sum uint64) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// PseudoSum is the unfolded sum of a pseudo-header (RFC 9293 3.1, RFC 8200 8.1) for n bytes of payload.
func PseudoSum(src, dst netip.Addr, proto uint8, n int) uint64 {
	sum := uint64(proto) + uint64(n)
	if src.Is4() {
		s, d := src.As4(), dst.As4()
		return Sum(d[:], Sum(s[:], sum))
	}
	s, d := src.As16(), dst.As16()
	return Sum(d[:], Sum(s[:], sum))
}

// ICMPv6ChecksumOK verifies the checksum of an ICMPv6 message.
func ICMPv6ChecksumOK(src, dst netip.Addr, b []byte) bool {
	return FoldChecksum(Sum(b, PseudoSum(src, dst, ProtoICMPv6, len(b)))) == 0xffff
}
