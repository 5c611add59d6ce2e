package policy

import (
	"encoding/binary"
	"net/netip"
)

// EtherTypes and IP protocol numbers that the parser knows by name (IANA).
const (
	EtherIPv4 = 0x0800
	EtherARP  = 0x0806
	EtherIPv6 = 0x86dd

	ProtoHopByHop = 0
	ProtoICMP     = 1
	ProtoTCP      = 6
	ProtoUDP      = 17
	ProtoDCCP     = 33
	ProtoRouting  = 43
	ProtoFragment = 44
	ProtoAH       = 51
	ProtoICMPv6   = 58
	ProtoNone     = 59
	ProtoDstOpts  = 60
	ProtoSCTP     = 132
	ProtoMobility = 135
	ProtoUDPLite  = 136
	ProtoHIP      = 139
	ProtoShim6    = 140
)

// Sizes in bytes.
const (
	EthernetLen = 14
	IPv4Len     = 20
	IPv6Len     = 40

	// MaxChain and MaxHeaders bound the extension headers of an IPv6 packet. RFC 8504 5.3 lets a node set such
	// limits; netstack ends the process beyond 1280 bytes.
	MaxChain   = 512
	MaxHeaders = 10
)

// Offload is what a virtio_net_hdr (virtio 1.2, 5.1.6) says of a frame, in host byte order. CsumStart and HdrLen count
// from the start of the Ethernet header, also for a packet of a TUN, which has none.
type Offload struct {
	Flags      uint8
	GSOType    uint8
	HdrLen     uint16
	GSOSize    uint16
	CsumStart  uint16
	CsumOffset uint16
}

// Flags and types of an Offload (linux/virtio_net.h).
const (
	NeedsCsum = 1 // the transport checksum holds the pseudo-header's sum only
	DataValid = 2 // the checksum has been checked

	GSONone  = 0
	GSOTCPv4 = 1
	GSOUDP   = 3 // UFO, never negotiated by us
	GSOTCPv6 = 4
	GSOUDPL4 = 5
	GSOECN   = 0x80 // or-ed to a TCP type
)

// What the kernel takes from nobody, and therefore never brings (linux/skbuff.h, linux/udp.h).
const (
	gsoByFrags     = 0xffff // a GSOSize with a meaning of its own
	maxUDPSegments = 128    // UDP_MAX_SEGMENTS; 64 before Linux 6.9
)

// Packet is what one pass over a frame finds. It points into the frame and is valid as long as that. The zero value is
// ready; Parse overwrites all of it. It allocates nothing.
type Packet struct {
	Frame []byte // the Ethernet header and all behind it, cut at the end that the IP header declares
	Offload
	SrcMAC, DstMAC MAC
	EtherType      uint16

	Src, Dst netip.Addr // of IP; invalid in ARP
	TTL      uint8      // or hop limit
	Proto    uint8      // the transport protocol, behind all extension headers that could be read
	L4       int        // offset of the transport header from the frame's start; 0 in a later fragment
	DF       bool       // IPv4 don't fragment
	Fragment bool       // one of several; an atomic fragment (RFC 6946) has a header, but is none
	FragHdr  bool       // has an IPv6 Fragment header, atomic or not
	Routed   bool       // has an IPv6 routing header that names further hops: Dst is not where it ends
	Whole    bool       // has an IPv6 header that is not each segment's: the kernel splits no super-packet behind it
	Hiding   bool       // something stands behind an extension header that is a whole message to who takes it: see isMessage
	FragOff  int        // bytes
	FragLen  int        // bytes of the datagram that this fragment brings
	More     bool       // more fragments follow
	FragID   uint32

	RH0        bool // has a type 0 routing header
	HopOption  int  // offset from the IPv6 header of a hop-by-hop option for which every router drops the packet; 0: none
	EndProblem int  // the same for its destination: of a destination option, or of a routing type that it is to follow; <0: malformed options
	EndRouting bool // it is a routing type

	SrcPort, DstPort uint16 // TCP, UDP and the others of hasPorts
	TCPFlags         uint8
	ICMPType         uint8 // ICMP or ICMPv6
	ICMPCode         uint8
	EchoID           uint16

	ARP ARP
	ND  ND
}

// ARP is an ARP packet for IPv4 on Ethernet (RFC 826).
type ARP struct {
	Op       uint16 // 1 request, 2 reply
	SHA, THA MAC
	SPA, TPA netip.Addr
}

// IsIPv4 and IsIPv6 tell the family.
func (p *Packet) IsIPv4() bool { return p.EtherType == EtherIPv4 }
func (p *Packet) IsIPv6() bool { return p.EtherType == EtherIPv6 }

// IsND tells whether the packet is one of Neighbor Discovery's five messages (RFC 4861 4).
func (p *Packet) IsND() bool {
	return p.Proto == ProtoICMPv6 && p.IsIPv6() && p.L4 != 0 && p.ICMPType >= 133 && p.ICMPType <= 137
}

// IsEchoRequest tells whether the packet asks for an echo.
func (p *Packet) IsEchoRequest() bool {
	return p.L4 != 0 && (p.IsIPv4() && p.Proto == ProtoICMP && p.ICMPType == 8 || p.IsIPv6() && p.Proto == ProtoICMPv6 && p.ICMPType == 128)
}

// IsICMPError tells whether the packet reports an error, about which no error may be reported. What is left of an ICMP
// message in a later fragment counts as one, since nobody can tell.
func (p *Packet) IsICMPError() bool {
	if p.IsIPv4() {
		if p.Proto != ProtoICMP {
			return false
		}
		switch p.ICMPType {
		case 3, 4, 5, 11, 12:
			return true
		}
		return p.L4 == 0
	}
	return p.Proto == ProtoICMPv6 && (p.L4 == 0 || p.ICMPType < 128 || p.ICMPType == 137)
}

// L3Len is the length of the IP datagram in bytes.
func (p *Packet) L3Len() int { return len(p.Frame) - EthernetLen }

// SegmentLen is the length in bytes of the largest IP datagram that leaves on the wire: a GSO frame counts as its
// segments (headers and GSOSize).
func (p *Packet) SegmentLen() int {
	if p.GSOType == GSONone || p.L4 == 0 {
		return p.L3Len()
	}
	hdr := 8
	if p.Proto == ProtoTCP {
		hdr = int(p.Frame[p.L4+12]>>4) * 4
	}
	return min(p.L3Len(), p.L4-EthernetLen+hdr+int(p.GSOSize))
}

// Parse reads a frame once. It returns None, or the defect for which the frame must be dropped; the fields that were
// read before the defect stay, for logs. No input makes it panic.
func (p *Packet) Parse(frame []byte, off Offload) Reason {
	*p = Packet{Frame: frame, Offload: off}
	if len(frame) < EthernetLen {
		return Malformed
	}
	copy(p.DstMAC[:], frame[0:6])
	copy(p.SrcMAC[:], frame[6:12])
	p.EtherType = binary.BigEndian.Uint16(frame[12:])
	switch p.EtherType {
	case EtherIPv4:
		if r := p.parseIPv4(); r != None {
			return r
		}
		return p.checkOffload()
	case EtherIPv6:
		if r := p.parseIPv6(); r != None {
			return r
		}
		return p.checkOffload()
	case EtherARP:
		return p.parseARP()
	case 0x8100, 0x88a8, 0x9100, 0x9200:
		return VLAN
	}
	return EtherType
}

func (p *Packet) parseARP() Reason {
	b := p.Frame[EthernetLen:]
	if len(b) < 28 {
		return ARPMalformed
	}
	if binary.BigEndian.Uint16(b[0:]) != 1 || binary.BigEndian.Uint16(b[2:]) != EtherIPv4 || b[4] != 6 || b[5] != 4 {
		return ARPMalformed
	}
	p.ARP.Op = binary.BigEndian.Uint16(b[6:])
	if p.ARP.Op != 1 && p.ARP.Op != 2 {
		return ARPMalformed
	}
	copy(p.ARP.SHA[:], b[8:])
	p.ARP.SPA = netip.AddrFrom4([4]byte(b[14:18]))
	copy(p.ARP.THA[:], b[18:])
	p.ARP.TPA = netip.AddrFrom4([4]byte(b[24:28]))
	p.Frame = p.Frame[:EthernetLen+28]
	return None
}

func (p *Packet) parseIPv4() Reason {
	b := p.Frame[EthernetLen:]
	if len(b) < IPv4Len || b[0]>>4 != 4 {
		return Malformed
	}
	ihl := int(b[0]&15) * 4
	total := int(binary.BigEndian.Uint16(b[2:]))
	if ihl < IPv4Len || total < ihl || total > len(b) {
		return Malformed
	}
	p.Src = netip.AddrFrom4([4]byte(b[12:16]))
	p.Dst = netip.AddrFrom4([4]byte(b[16:20]))
	p.TTL, p.Proto = b[8], b[9]
	if FoldChecksum(Sum(b[:ihl], 0)) != 0xffff {
		return Checksum
	}
	p.Frame, b = p.Frame[:EthernetLen+total], b[:total]
	frag := binary.BigEndian.Uint16(b[6:])
	p.DF = frag&0x4000 != 0
	p.More = frag&0x2000 != 0
	p.FragOff = int(frag&0x1fff) * 8
	p.FragID = uint32(binary.BigEndian.Uint16(b[4:]))
	p.Fragment = p.More || p.FragOff > 0
	if r := ipv4Options(b[IPv4Len:ihl]); r != None {
		return r
	}
	if p.Fragment {
		if r := p.checkFragment(total-ihl, ihl); r != None {
			return r
		}
		if p.FragOff > 0 {
			return None
		}
	}
	return p.parseTransport(EthernetLen + ihl)
}

// checkFragment tests what a single fragment shows: its payload and the header that counts toward the 65535 bytes of the
// whole. How fragments overlap takes memory, and is the flow table's matter.
func (p *Packet) checkFragment(payload, header int) Reason {
	p.FragLen = payload
	if p.More && (payload == 0 || payload%8 != 0) {
		return Malformed
	}
	if p.FragOff+payload+header > 0xffff {
		return OversizeFrag
	}
	// RFC 3128: a fragment at offset 8 rewrites the flags of the TCP header that was let through before it.
	if p.FragOff == 8 && p.Proto == ProtoTCP {
		return TinyFragment
	}
	return None
}

func (p *Packet) parseIPv6() Reason {
	b := p.Frame[EthernetLen:]
	if len(b) < IPv6Len || b[0]>>4 != 6 {
		return Malformed
	}
	total := IPv6Len + int(binary.BigEndian.Uint16(b[4:]))
	if total > len(b) {
		return Malformed
	}
	p.Src = netip.AddrFrom16([16]byte(b[8:24]))
	p.Dst = netip.AddrFrom16([16]byte(b[24:40]))
	p.TTL = b[7]
	p.Frame, b = p.Frame[:EthernetLen+total], b[:total]
	return p.parseChain(b)
}

// parseChain walks the extension headers (RFC 8200 4) to the transport header; b is the IPv6 datagram.
func (p *Packet) parseChain(b []byte) Reason {
	next, at := b[6], IPv6Len
	message := uint8(ProtoNone)
	for headers := 0; ; headers++ {
		if p.Proto = next; next == ProtoNone {
			p.Proto = message
		}
		var size int
		switch next {
		case ProtoHopByHop, ProtoRouting, ProtoDstOpts, ProtoMobility, ProtoHIP, ProtoShim6, ProtoAH, ProtoFragment:
			if len(b)-at < 8 {
				return p.cutChain()
			}
			size = (int(b[at+1]) + 1) * 8
		default:
			if p.Fragment && p.FragOff > 0 {
				return None
			}
			return p.parseTransport(EthernetLen + at)
		}
		p.Whole = p.Whole || next != ProtoHopByHop && next != ProtoRouting && next != ProtoDstOpts
		switch next {
		case ProtoHopByHop:
			if headers > 0 { // RFC 8200 4.1: only directly behind the IPv6 header
				return Malformed
			}
		case ProtoAH:
			size = (int(b[at+1]) + 2) * 4
		case ProtoFragment:
			size = 8
			if p.FragHdr {
				return Malformed
			}
			p.FragHdr = true
			off := binary.BigEndian.Uint16(b[at+2:])
			p.FragOff, p.More = int(off&^7), off&1 != 0
			p.FragID = binary.BigEndian.Uint32(b[at+4:])
			p.Fragment = p.More || p.FragOff > 0
			if p.FragOff > 0 {
				p.Proto = b[at] // the first header behind it in the whole datagram, often the transport's
			}
			if r := p.checkFragment(len(b)-at-8, at-IPv6Len); r != None {
				return r
			}
			if p.FragOff > 0 {
				return None
			}
		}
		if at-IPv6Len+size > MaxChain || headers >= MaxHeaders {
			return HeaderChain
		}
		if at+size > len(b) {
			return p.cutChain()
		}
		if r := p.noteHeader(next, b[:at+size], at); r != None {
			return r
		}
		if isMessage(next, b[at:]) {
			message = next
			p.Hiding = p.Hiding || b[at] != ProtoNone
		}
		next, at = b[at], at+size
	}
}

// isMessage tells whether an extension header is a message, of mobility (RFC 6275 6.1.1), HIP (RFC 7401 5.1) or Shim6 (RFC 5533 5.3). Who takes it
// looks at nothing behind it, which therefore is no more than a pretence for rules to see.
func isMessage(header uint8, b []byte) bool {
	return header == ProtoMobility || header == ProtoHIP || header == ProtoShim6 && b[2]&0x80 == 0
}

// cutChain is a header chain that goes on beyond the datagram: a first fragment must hold all of it (RFC 7112 5).
func (p *Packet) cutChain() Reason {
	if p.Fragment {
		return TinyFragment
	}
	return Malformed
}

// parseTransport reads the transport header at offset at of the frame.
func (p *Packet) parseTransport(at int) Reason {
	b := p.Frame[at:]
	short := Malformed
	if p.Fragment {
		short = TinyFragment
	}
	p.L4 = at
	switch {
	case p.Proto == ProtoTCP:
		if len(b) < 20 {
			return short
		}
		hdr := int(b[12]>>4) * 4
		if hdr < 20 {
			return Malformed
		}
		if hdr > len(b) {
			return short
		}
		p.SrcPort, p.DstPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
		p.TCPFlags = b[13]
	case p.Proto == ProtoUDP:
		if len(b) < 8 {
			return short
		}
		n := int(binary.BigEndian.Uint16(b[4:]))
		if n < 8 || !p.Fragment && n > len(b) {
			return Malformed
		}
		p.SrcPort, p.DstPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	case p.Proto == ProtoICMP && p.IsIPv4(), p.Proto == ProtoICMPv6 && p.IsIPv6():
		if len(b) < 8 {
			return short
		}
		p.ICMPType, p.ICMPCode = b[0], b[1]
		p.EchoID = binary.BigEndian.Uint16(b[4:])
		if p.IsND() {
			return p.parseND()
		}
		if p.FragHdr && p.IsIPv6() && (p.ICMPType == 148 || p.ICMPType == 149) { // RFC 6980 5: SEND's certification paths as well
			return NDFragment
		}
	case p.hasPorts():
		if len(b) < 4 {
			return short
		}
		p.SrcPort, p.DstPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	}
	return None
}

// hasPorts tells whether the transport header begins with two ports (RFC 9293 3.1, RFC 768, RFC 9260 3.1, RFC 4340 5.1, RFC 3828 3.1).
func (p *Packet) hasPorts() bool {
	switch p.Proto {
	case ProtoTCP, ProtoUDP, ProtoSCTP, ProtoDCCP, ProtoUDPLite:
		return true
	}
	return false
}

// checkOffload tests that the metadata fits the frame that it came with, since the egress kernel will act on it: a guest of KVM
// writes it itself.
func (p *Packet) checkOffload() Reason {
	if p.Flags&NeedsCsum != 0 && !p.checksumFits() {
		return Malformed
	}
	switch p.GSOType &^ GSOECN {
	case GSONone:
		if p.GSOType != GSONone {
			return Malformed
		}
		return None
	case GSOTCPv4, GSOTCPv6:
		if p.Proto != ProtoTCP || (p.GSOType&^GSOECN == GSOTCPv4) != p.IsIPv4() {
			return Malformed
		}
	case GSOUDPL4:
		if p.Proto != ProtoUDP || p.GSOType != GSOUDPL4 {
			return Malformed
		}
	default:
		return Malformed
	}
	if p.L4 == 0 || p.Fragment || p.Whole || p.GSOSize == 0 || p.GSOSize == gsoByFrags {
		return Malformed
	}
	if p.Proto == ProtoUDP && len(p.Frame)-p.L4-8 > maxUDPSegments*int(p.GSOSize) {
		return Malformed
	}
	if p.Flags&NeedsCsum == 0 {
		// A NIC with LRO says so: it has checked the segments that it has put together.
		if p.Flags&DataValid == 0 || p.Proto != ProtoTCP || p.Routed {
			return Malformed
		}
	} else if int(p.CsumStart) != p.L4 {
		return Malformed
	}
	return None
}

// checksumFits tells whether a partial checksum is the transport's, or one behind its header, as of a tunnel's inner packet. The
// kernel writes it after the packet was judged, so it must not change what was read: headers, what DHCP says, what an ICMP error quotes. A
// fragment's is always whole.
func (p *Packet) checksumFits() bool {
	start := int(p.CsumStart)
	field := start + int(p.CsumOffset)
	if p.L4 == 0 || p.Fragment || start < p.L4 || field+2 > len(p.Frame) {
		return false
	}
	header := 0
	switch {
	case p.Proto == ProtoTCP:
		if start == p.L4 {
			return p.CsumOffset == 16
		}
		header = int(p.Frame[p.L4+12]>>4) * 4
	case p.Proto == ProtoUDP:
		if start == p.L4 {
			return p.CsumOffset == 6
		}
		if p.mayBeDHCP() {
			return false
		}
		header = 8
	case p.Proto == ProtoICMP, p.Proto == ProtoICMPv6:
		return start == p.L4 && p.Proto == ProtoICMPv6 && p.CsumOffset == 2
	case p.hasPorts():
		header = 4
	}
	return field >= p.L4+header
}
