package stack

import (
	"encoding/binary"
	"net/netip"

	"udrouter/policy"
)

// BuildUDP makes a datagram (RFC 768) as an Ethernet frame whose Ethernet addresses are not yet set. Source and destination are of one family.
func BuildUDP(src, dst netip.AddrPort, payload []byte) *Frame {
	f, udp := newDatagram(src.Addr(), dst.Addr(), policy.ProtoUDP, 8+len(payload), 0, 0)
	binary.BigEndian.PutUint16(udp, src.Port())
	binary.BigEndian.PutUint16(udp[2:], dst.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	copy(udp[8:], payload)
	transportChecksum(udp[6:], udp, src.Addr(), dst.Addr(), policy.ProtoUDP)
	if udp[6] == 0 && udp[7] == 0 { // 0 means that there is none
		udp[6], udp[7] = 0xff, 0xff
	}
	return f
}

// BuildRA makes a frame of a router advertisement (RFC 4861 4.2) with its checksum, from one address to another.
func BuildRA(dst, src policy.MAC, from, to netip.Addr, advertisement []byte) *Frame {
	f := NewFrame(policy.EthernetLen + policy.IPv6Len + len(advertisement))
	f.SetEthernet(dst, src, policy.EtherIPv6)
	icmp := ipv6Header(f.Bytes()[policy.EthernetLen:], from, to, policy.ProtoICMPv6, 255)
	copy(icmp, advertisement)
	icmpv6Checksum(icmp, from, to)
	return f
}
