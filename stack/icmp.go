package stack

import (
	"encoding/binary"
	"net/netip"

	"udrouter/policy"
)

// ICMPError is an error to report about a packet; Info is the MTU or pointer that it carries (0: none).
type ICMPError struct {
	Type4, Code4 uint8 // RFC 792, RFC 1812 5.2.7
	Type6, Code6 uint8 // RFC 4443 3
	Info         uint32
}

// Errors a router reports. NoICMP is none.
var (
	NoICMP          = ICMPError{}
	TimeExceeded    = ICMPError{Type4: 11, Type6: 3}
	NetUnreachable  = ICMPError{Type4: 3, Code4: 0, Type6: 1, Code6: 0}
	HostUnreachable = ICMPError{Type4: 3, Code4: 1, Type6: 1, Code6: 3}
	BeyondScope     = ICMPError{Type4: 3, Code4: 0, Type6: 1, Code6: 2}
	Prohibited      = ICMPError{Type4: 3, Code4: 13, Type6: 1, Code6: 1} // RFC 1812 5.2.7.1, RFC 4443 3.1
)

// TooBig is fragmentation needed (RFC 1191 4) or packet too big (RFC 4443 3.2) for the next hop's MTU in bytes.
func TooBig(mtu int) ICMPError { return ICMPError{Type4: 3, Code4: 4, Type6: 2, Info: uint32(mtu)} }

// UnknownOption is parameter problem about an IPv6 option at an offset of the packet (RFC 4443 3.4).
func UnknownOption(at int) ICMPError { return ICMPError{Type6: 4, Code6: 2, Info: uint32(at)} }

// HeaderField is parameter problem about a field at an offset of the packet.
func HeaderField(at int) ICMPError { return ICMPError{Type6: 4, Info: uint32(at)} }

// IsTooBig tells whether the error says that the packet is too big.
func (e ICMPError) IsTooBig() bool { return e.Type6 == 2 }

// MayReport tells whether an error about a packet may be sent at all: never about an error, a later fragment, a frame to
// many, or a packet whose source or destination is not one host (RFC 1812 4.3.2.7, RFC 4443 2.4(e)).
func MayReport(p *policy.Packet) bool {
	if p.IsICMPError() || p.FragOff > 0 || p.DstMAC.IsGroup() || p.Dst.IsMulticast() {
		return false
	}
	switch policy.Classify(p.Src) {
	case policy.Unicast:
		return true
	case policy.LinkScope:
		return p.IsIPv6()
	}
	return false
}

// Sizes in bytes beyond which an error quotes no more: RFC 1812 4.3.2.3 and RFC 4443 2.4(c).
const (
	maxError4 = 576
	maxError6 = 1280
)

// BuildError makes the error about p as an Ethernet frame whose Ethernet addresses are not yet set. src is the router's address,
// of p's family. The packet is quoted as it came, a partial checksum included, as the kernel's own errors do.
func BuildError(p *policy.Packet, src netip.Addr, e ICMPError) *Frame {
	quote := p.Frame[policy.EthernetLen:]
	if p.IsIPv4() {
		quote = quote[:min(len(quote), maxError4-policy.IPv4Len-8)]
		f, icmp := newDatagram(src, p.Src, policy.ProtoICMP, 8+len(quote), internetworkControl, 0)
		icmp[0], icmp[1] = e.Type4, e.Code4
		binary.BigEndian.PutUint32(icmp[4:], e.Info)
		copy(icmp[8:], quote)
		binary.BigEndian.PutUint16(icmp[2:], ^policy.FoldChecksum(policy.Sum(icmp, 0)))
		return f
	}
	quote = quote[:min(len(quote), maxError6-policy.IPv6Len-8)]
	f, icmp := newDatagram(src, p.Src, policy.ProtoICMPv6, 8+len(quote), 0, 0)
	icmp[0], icmp[1] = e.Type6, e.Code6
	binary.BigEndian.PutUint32(icmp[4:], e.Info)
	copy(icmp[8:], quote)
	icmpv6Checksum(icmp, src, p.Src)
	return f
}

// Of an IPv4 header: internetwork control (RFC 1812 4.3.2.5) of the type of service, and don't fragment of the flags.
const (
	internetworkControl = 0xc0
	dontFragment        = 0x40
)

// newDatagram makes a frame with an IP header of the addresses' family before n bytes, which it returns as well. tos and flags are IPv4's. The Ethernet
// addresses are not yet set.
func newDatagram(src, dst netip.Addr, proto uint8, n int, tos, flags uint8) (*Frame, []byte) {
	if src.Is6() {
		f := NewFrame(policy.EthernetLen + policy.IPv6Len + n)
		f.SetEthernet(policy.MAC{}, policy.MAC{}, policy.EtherIPv6)
		return f, ipv6Header(f.Bytes()[policy.EthernetLen:], src, dst, proto, 64)
	}
	f := NewFrame(policy.EthernetLen + policy.IPv4Len + n)
	f.SetEthernet(policy.MAC{}, policy.MAC{}, policy.EtherIPv4)
	ip := f.Bytes()[policy.EthernetLen:]
	s, d := src.As4(), dst.As4()
	ip[0], ip[1], ip[6], ip[8], ip[9] = 0x45, tos, flags, 64, proto
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:], s[:])
	copy(ip[16:], d[:])
	ipv4Checksum(ip)
	return f, ip[policy.IPv4Len:]
}

// ipv6Header writes an IPv6 header for all of ip and returns what follows it.
func ipv6Header(ip []byte, src, dst netip.Addr, next, hopLimit uint8) []byte {
	s, d := src.As16(), dst.As16()
	ip[0], ip[6], ip[7] = 0x60, next, hopLimit
	binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-policy.IPv6Len))
	copy(ip[8:], s[:])
	copy(ip[24:], d[:])
	return ip[policy.IPv6Len:]
}

func icmpv6Checksum(icmp []byte, src, dst netip.Addr) {
	binary.BigEndian.PutUint16(icmp[2:], 0)
	transportChecksum(icmp[2:], icmp, src, dst, policy.ProtoICMPv6)
}

// BuildReset answers a TCP segment as a host would on which nobody listens (RFC 9293 3.10.7.1), from the address that it was for. The
// Ethernet addresses are not yet set. It is nil for a reset, and for a segment without its whole header.
func BuildReset(p *policy.Packet) *Frame {
	const fin, syn, rst, ack = 1, 2, 4, 16
	if p.Proto != policy.ProtoTCP || p.L4 == 0 || p.TCPFlags&rst != 0 || p.GSOType != policy.GSONone {
		return nil
	}
	b := p.Frame[p.L4:]
	f, tcp := newDatagram(p.Dst, p.Src, policy.ProtoTCP, 20, 0, dontFragment)
	binary.BigEndian.PutUint16(tcp, p.DstPort)
	binary.BigEndian.PutUint16(tcp[2:], p.SrcPort)
	tcp[12], tcp[13] = 5<<4, rst
	if p.TCPFlags&ack != 0 {
		copy(tcp[4:8], b[8:12])
	} else {
		length := uint32(len(b) - int(b[12]>>4)*4)
		if p.TCPFlags&syn != 0 {
			length++
		}
		if p.TCPFlags&fin != 0 {
			length++
		}
		tcp[13] |= ack
		binary.BigEndian.PutUint32(tcp[8:], binary.BigEndian.Uint32(b[4:])+length)
	}
	transportChecksum(tcp[16:], tcp, p.Dst, p.Src, policy.ProtoTCP)
	return f
}

// transportChecksum writes the checksum of b with its pseudo-header (RFC 9293 3.1, RFC 768, RFC 8200 8.1) into a field of b, which is 0.
func transportChecksum(field, b []byte, src, dst netip.Addr, proto uint8) {
	binary.BigEndian.PutUint16(field, ^policy.FoldChecksum(policy.Sum(b, policy.PseudoSum(src, dst, proto, len(b)))))
}
