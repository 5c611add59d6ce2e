package lab

import (
	"encoding/binary"
	"net/netip"

	"udrouter/policy"
)

// EtherTypes and protocol numbers of the frames that are made here.
const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd

	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58

	ndSolicit   = 135
	ndAdvertise = 136
)

var broadcastMAC = policy.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// ARP operations.
const (
	ARPRequest = 1
	ARPReply   = 2
)

// ARP is an ARP packet for IPv4 on Ethernet and the frame around it.
type ARP struct {
	Src, Dst policy.MAC // of the frame
	Op       uint16
	SHA      policy.MAC
	SPA      netip.Addr
	THA      policy.MAC
	TPA      netip.Addr
}

// WhoHas is the broadcast question for an address, from the host with mac and source.
func WhoHas(mac policy.MAC, source, target netip.Addr) ARP {
	return ARP{Src: mac, Dst: broadcastMAC, Op: ARPRequest, SHA: mac, SPA: source, TPA: target}
}

// Frame is the frame, without padding.
func (a ARP) Frame() []byte {
	f := ethernet(a.Src, a.Dst, etherARP)
	f = append(f, 0, 1, 8, 0, 6, 4)
	f = binary.BigEndian.AppendUint16(f, a.Op)
	f = append(append(f, a.SHA[:]...), a.SPA.AsSlice()...)
	return append(append(f, a.THA[:]...), a.TPA.AsSlice()...)
}

// ParseARP reads a frame; false: it is not such a packet.
func ParseARP(f []byte) (a ARP, ok bool) {
	if len(f) < 42 || binary.BigEndian.Uint16(f[12:]) != etherARP || [6]byte(f[14:20]) != [6]byte{0, 1, 8, 0, 6, 4} {
		return a, false
	}
	return ARP{
		Dst: policy.MAC(f[0:6]), Src: policy.MAC(f[6:12]),
		Op:  binary.BigEndian.Uint16(f[20:]),
		SHA: policy.MAC(f[22:28]), SPA: netip.AddrFrom4([4]byte(f[28:32])),
		THA: policy.MAC(f[32:38]), TPA: netip.AddrFrom4([4]byte(f[38:42])),
	}, true
}

// Flags of a neighbour advertisement.
const (
	NARouter    = 0x80
	NASolicited = 0x40
	NAOverride  = 0x20
)

// ND is a neighbour solicitation or advertisement and the frame around it.
type ND struct {
	SrcMAC, DstMAC policy.MAC
	Src, Dst       netip.Addr
	Advertise      bool
	Flags          uint8 // of an advertisement
	Target         netip.Addr
	LinkAddr       policy.MAC // the option with the source's or target's; zero: none
}

// Solicit is the multicast question for an address, from the host with mac and source.
func Solicit(mac policy.MAC, source, target netip.Addr) ND {
	t := target.As16()
	group := [16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff, 13: t[13], 14: t[14], 15: t[15]}
	return ND{
		SrcMAC: mac, DstMAC: policy.MAC{0x33, 0x33, 0xff, t[13], t[14], t[15]},
		Src: source, Dst: netip.AddrFrom16(group), Target: target, LinkAddr: mac,
	}
}

// AllNodes is the group of every IPv6 host on a link, and its hardware address.
var (
	AllNodes    = netip.MustParseAddr("ff02::1")
	AllNodesMAC = policy.MAC{0x33, 0x33, 0, 0, 0, 1}
)

// Frame is the frame, with its checksum.
func (m ND) Frame() []byte {
	b := make([]byte, 8, 32)
	option := byte(1)
	b[0] = ndSolicit
	if m.Advertise {
		b[0], b[4] = ndAdvertise, m.Flags
		option = 2
	}
	b = append(b, m.Target.AsSlice()...)
	if !m.LinkAddr.IsZero() {
		b = append(append(b, option, 1), m.LinkAddr[:]...)
	}
	binary.BigEndian.PutUint16(b[2:], checksum(b, pseudo(m.Src, m.Dst, protoICMPv6, len(b))))
	return append(ipv6(ethernet(m.SrcMAC, m.DstMAC, etherIPv6), m.Src, m.Dst, protoICMPv6, 255, len(b)), b...)
}

// ParseND reads a frame whose IPv6 header has no extension; false: it is not such a message.
func ParseND(f []byte) (m ND, ok bool) {
	if len(f) < 78 || binary.BigEndian.Uint16(f[12:]) != etherIPv6 || f[20] != protoICMPv6 ||
		f[54] != ndSolicit && f[54] != ndAdvertise {
		return m, false
	}
	m = ND{
		DstMAC: policy.MAC(f[0:6]), SrcMAC: policy.MAC(f[6:12]),
		Src: netip.AddrFrom16([16]byte(f[22:38])), Dst: netip.AddrFrom16([16]byte(f[38:54])),
		Advertise: f[54] == ndAdvertise, Target: netip.AddrFrom16([16]byte(f[62:78])),
	}
	want := byte(1)
	if m.Advertise {
		m.Flags, want = f[58], 2
	}
	for o := f[78:]; len(o) >= 8 && o[1] > 0 && len(o) >= int(o[1])*8; o = o[int(o[1])*8:] {
		if o[0] == want {
			m.LinkAddr = policy.MAC(o[2:8])
		}
	}
	return m, true
}

// UDP is a datagram and the frame around it.
type UDP struct {
	SrcMAC, DstMAC policy.MAC
	Src, Dst       netip.AddrPort
	HopLimit       uint8 // 0: 64
	Payload        []byte
}

// Frame is the frame, with its checksums.
func (u UDP) Frame() []byte {
	hops := u.HopLimit
	if hops == 0 {
		hops = 64
	}
	b := make([]byte, 8, 8+len(u.Payload))
	binary.BigEndian.PutUint16(b[0:], u.Src.Port())
	binary.BigEndian.PutUint16(b[2:], u.Dst.Port())
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(u.Payload)))
	b = append(b, u.Payload...)
	src, dst := u.Src.Addr(), u.Dst.Addr()
	sum := checksum(b, pseudo(src, dst, protoUDP, len(b)))
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[6:], sum)
	if src.Is4() {
		return append(ipv4(ethernet(u.SrcMAC, u.DstMAC, etherIPv4), src, dst, protoUDP, hops, len(b)), b...)
	}
	return append(ipv6(ethernet(u.SrcMAC, u.DstMAC, etherIPv6), src, dst, protoUDP, hops, len(b)), b...)
}

func ethernet(src, dst policy.MAC, etherType uint16) []byte {
	f := make([]byte, 0, 128)
	f = append(append(f, dst[:]...), src[:]...)
	return binary.BigEndian.AppendUint16(f, etherType)
}

func ipv4(f []byte, src, dst netip.Addr, proto, ttl uint8, length int) []byte {
	h := make([]byte, 20)
	h[0] = 0x45
	binary.BigEndian.PutUint16(h[2:], uint16(20+length))
	h[6] = 0x40 // DF: no identification is needed
	h[8], h[9] = ttl, proto
	copy(h[12:], src.AsSlice())
	copy(h[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(h[10:], checksum(h, 0))
	return append(f, h...)
}

func ipv6(f []byte, src, dst netip.Addr, proto, hops uint8, length int) []byte {
	h := make([]byte, 40)
	h[0] = 0x60
	binary.BigEndian.PutUint16(h[4:], uint16(length))
	h[6], h[7] = proto, hops
	copy(h[8:], src.AsSlice())
	copy(h[24:], dst.AsSlice())
	return append(f, h...)
}

// pseudo is the sum over the pseudo header of either family, which differ in layout but not in sum.
func pseudo(src, dst netip.Addr, proto uint8, length int) uint32 {
	return sum16(dst.AsSlice(), sum16(src.AsSlice(), uint32(proto)+uint32(length)))
}

// checksum is the Internet checksum of b, on top of a sum of pseudo.
func checksum(b []byte, start uint32) uint16 {
	s := sum16(b, start)
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

func sum16(b []byte, s uint32) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}
