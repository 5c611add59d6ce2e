package stack

import (
	"encoding/binary"
	"net/netip"

	"udrouter/policy"
)

// Probe is a packet that is made to find out what becomes of it. Source and destination are of one family.
type Probe struct {
	SrcMAC, DstMAC policy.MAC
	Src, Dst       netip.Addr
	Proto          uint8
	SrcPort        uint16 // of TCP and UDP; the identifier of an echo; of other protocols, a word in the packet
	DstPort        uint16 // of TCP and UDP
	Answer         bool   // a SYN-ACK to a SYN of number 0, or an echo reply; datagrams are the same both ways
	Forge          policy.Forgery
}

const (
	tcpSYN, tcpFIN, tcpACK = 2, 1, 16

	linkHops = 255 // the hop limit of ND (RFC 4861 7.1)
)

// Build makes the packet: a TCP SYN, a UDP datagram or an echo request, 20 bytes of any other protocol, or what Forge says. Of that, the source MAC and
// the source address are forged already by who tells them.
func (q Probe) Build() *Frame {
	f := q.build()
	switch q.Forge {
	case policy.ForgeRoute:
		f = q.routed(f)
	case policy.ForgeFragment:
		f = q.tiny(f)
	}
	etherType := binary.BigEndian.Uint16(f.Bytes()[12:])
	f.SetEthernet(q.DstMAC, q.SrcMAC, etherType)
	if q.Forge == policy.ForgeVLAN {
		f = q.tagged(f)
	}
	return f
}

func (q Probe) build() *Frame {
	switch q.Forge {
	case policy.ForgeARP:
		return q.arp()
	case policy.ForgeND:
		return q.icmp6(linkHops, append([]byte{byte(policy.NeighborAdvertisement), 0, 0, 0, policy.NAOverride, 0, 0, 0}, q.claim(2)...))
	case policy.ForgeRA:
		return q.icmp6(linkHops, append([]byte{byte(policy.RouterAdvertisement), 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0}, q.linkOption(1)...))
	case policy.ForgeRedirect:
		return q.redirect()
	case policy.ForgeDHCP:
		return q.dhcp()
	}
	return q.transport()
}

// transport is an honest packet, but for TCP flags.
func (q Probe) transport() *Frame {
	src, dst, proto := q.Src, q.Dst, q.Proto
	f, b := newDatagram(src, dst, proto, 20, 0, dontFragment)
	switch {
	case proto == policy.ProtoTCP:
		binary.BigEndian.PutUint16(b, q.SrcPort)
		binary.BigEndian.PutUint16(b[2:], q.DstPort)
		b[12], b[13] = 5<<4, tcpSYN
		if q.Answer {
			binary.BigEndian.PutUint32(b[8:], 1)
			b[13] |= tcpACK
		}
		if q.Forge == policy.ForgeFlags {
			b[13] |= tcpFIN
		}
		binary.BigEndian.PutUint16(b[14:], 65535)
		transportChecksum(b[16:], b, src, dst, proto)
	case proto == policy.ProtoUDP:
		q.datagram(b)
	case proto == policy.ProtoICMP && src.Is4():
		if !q.Answer {
			b[0] = 8
		}
		binary.BigEndian.PutUint16(b[4:], q.SrcPort)
		binary.BigEndian.PutUint16(b[2:], ^policy.FoldChecksum(policy.Sum(b, 0)))
	case proto == policy.ProtoICMPv6 && src.Is6():
		b[0] = 128
		if q.Answer {
			b[0] = 129
		}
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

// datagram writes a UDP header before what is in b.
func (q Probe) datagram(b []byte) {
	binary.BigEndian.PutUint16(b, q.SrcPort)
	binary.BigEndian.PutUint16(b[2:], q.DstPort)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	transportChecksum(b[6:], b, q.Src, q.Dst, policy.ProtoUDP)
}

// arp is the reply to everyone that the destination's address is at the source's MAC.
func (q Probe) arp() *Frame {
	f := NewFrame(policy.EthernetLen + 28)
	f.SetEthernet(q.DstMAC, q.SrcMAC, policy.EtherARP)
	b := append(f.Bytes()[policy.EthernetLen:][:0], 0, 1, 8, 0, 6, 4, 0, 2)
	b = append(append(b, q.SrcMAC[:]...), q.Dst.AsSlice()...)
	b = append(append(b, q.DstMAC[:]...), q.Dst.AsSlice()...)
	copy(f.Bytes()[policy.EthernetLen:], b)
	return f
}

// icmp6 is an ICMPv6 message of some bytes, with its checksum; what is no claim goes to whom Dst says.
func (q Probe) icmp6(hops uint8, m []byte) *Frame {
	dst := q.Dst
	if q.Forge == policy.ForgeND || q.Forge == policy.ForgeRA {
		dst = allNodes
	}
	f := NewFrame(policy.EthernetLen + policy.IPv6Len + len(m))
	f.SetEthernet(policy.MAC{}, policy.MAC{}, policy.EtherIPv6)
	b := ipv6Header(f.Bytes()[policy.EthernetLen:], q.Src, dst, policy.ProtoICMPv6, hops)
	copy(b, m)
	icmpv6Checksum(b, q.Src, dst)
	return f
}

// allNodes is the group of every IPv6 host on a link.
var allNodes = netip.MustParseAddr("ff02::1")

// claim is the destination's address as an advertisement's target, and the sender's MAC for it.
func (q Probe) claim(option byte) []byte { return append(q.Dst.AsSlice(), q.linkOption(option)...) }

// linkOption is the option of ND with the sender's MAC (RFC 4861 4.6.1).
func (q Probe) linkOption(option byte) []byte { return append([]byte{option, 1}, q.SrcMAC[:]...) }

// redirect tells the destination of a better way to somebody, which is by the sender.
func (q Probe) redirect() *Frame {
	if q.Src.Is6() {
		target := append([]byte{byte(policy.RedirectMessage), 0, 0, 0, 0, 0, 0, 0}, q.Src.AsSlice()...)
		return q.icmp6(linkHops, append(target, netip.MustParseAddr("2001:db8::1").AsSlice()...))
	}
	inner := Probe{Src: q.Dst, Dst: netip.MustParseAddr("198.51.100.1"), Proto: policy.ProtoUDP, SrcPort: q.SrcPort, DstPort: 53}.Build()
	quoted := inner.Bytes()[policy.EthernetLen:][:policy.IPv4Len+8]
	f, b := newDatagram(q.Src, q.Dst, policy.ProtoICMP, 8+len(quoted), 0, 0)
	b[0], b[1] = 5, 1 // RFC 792: for the host
	copy(b[4:], q.Src.AsSlice())
	copy(b[8:], quoted)
	binary.BigEndian.PutUint16(b[2:], ^policy.FoldChecksum(policy.Sum(b, 0)))
	return f
}

// dhcp is what a server says to a client: the first bytes of a BOOTREPLY, or of an ADVERTISE.
func (q Probe) dhcp() *Frame {
	q.SrcPort, q.DstPort = 67, 68
	if q.Src.Is6() {
		q.SrcPort, q.DstPort = 547, 546
	}
	f, b := newDatagram(q.Src, q.Dst, policy.ProtoUDP, 8+240, 0, dontFragment)
	b[8] = 2 // both the operation of a BOOTREPLY and the type of an ADVERTISE
	q.datagram(b)
	return f
}

// routed puts a route through the destination into a packet: an option (RFC 791 3.1), or a routing header of type 0 (RFC 5095).
func (q Probe) routed(f *Frame) *Frame {
	b := f.Bytes()[policy.EthernetLen:]
	if q.Src.Is4() {
		const lsrr = 131
		d := q.Dst.As4()
		g := NewFrame(policy.EthernetLen + len(b) + 8)
		g.SetEthernet(policy.MAC{}, policy.MAC{}, policy.EtherIPv4)
		ip := g.Bytes()[policy.EthernetLen:]
		copy(ip, b[:policy.IPv4Len])
		copy(ip[policy.IPv4Len:], append([]byte{lsrr, 7, 4}, d[:]...))
		copy(ip[policy.IPv4Len+8:], b[policy.IPv4Len:])
		ip[0] = 0x47
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		ipv4Checksum(ip)
		return g
	}
	const routing = 43
	g := NewFrame(policy.EthernetLen + len(b) + 24)
	g.SetEthernet(policy.MAC{}, policy.MAC{}, policy.EtherIPv6)
	l4 := ipv6Header(g.Bytes()[policy.EthernetLen:], q.Src, q.Dst, routing, 64)
	copy(l4, []byte{b[6], 2, 0, 1})
	copy(l4[8:], q.Dst.AsSlice())
	copy(l4[24:], b[policy.IPv6Len:])
	return g
}

// tiny makes the first fragment of a packet with the first 8 bytes of its TCP header.
func (q Probe) tiny(f *Frame) *Frame {
	const more = 1
	b := f.Bytes()[policy.EthernetLen:]
	if q.Src.Is4() {
		f.Cut(policy.EthernetLen + policy.IPv4Len + 8)
		b = f.Bytes()[policy.EthernetLen:]
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		binary.BigEndian.PutUint16(b[4:], q.SrcPort)
		b[6] = more << 5
		ipv4Checksum(b)
		return f
	}
	const fragment = 44
	g := NewFrame(policy.EthernetLen + policy.IPv6Len + 16)
	g.SetEthernet(policy.MAC{}, policy.MAC{}, policy.EtherIPv6)
	l4 := ipv6Header(g.Bytes()[policy.EthernetLen:], q.Src, q.Dst, fragment, 64)
	copy(l4, []byte{b[6], 0, 0, more, 0, 0, byte(q.SrcPort >> 8), byte(q.SrcPort)})
	copy(l4[8:], b[policy.IPv6Len:][:8])
	return g
}

// tagged puts a tag of VLAN 1 into a frame (802.1Q).
func (q Probe) tagged(f *Frame) *Frame {
	b := f.Bytes()
	g := NewFrame(len(b) + 4)
	copy(g.Bytes(), b[:12])
	copy(g.Bytes()[12:], []byte{0x81, 0, 0, 1})
	copy(g.Bytes()[16:], b[12:])
	return g
}
