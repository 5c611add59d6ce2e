package stack

import (
	"encoding/binary"
	"net/netip"

	"udrouter/policy"
)

// BuildARP makes an ARP packet (RFC 826) from sha to the station dst.
func BuildARP(op uint16, dst, sha policy.MAC, spa netip.Addr, tha policy.MAC, tpa netip.Addr) *Frame {
	f := NewFrame(policy.EthernetLen + 28)
	f.SetEthernet(dst, sha, policy.EtherARP)
	b := f.Bytes()[policy.EthernetLen:]
	binary.BigEndian.PutUint16(b, 1)
	binary.BigEndian.PutUint16(b[2:], policy.EtherIPv4)
	b[4], b[5] = 6, 4
	binary.BigEndian.PutUint16(b[6:], op)
	copy(b[8:], sha[:])
	copy(b[14:], spa.AsSlice())
	copy(b[18:], tha[:])
	copy(b[24:], tpa.AsSlice())
	return f
}

// BuildNA makes a neighbour advertisement with a target link-layer address option (RFC 4861 4.4): that target is at the
// station src. flags are NARouter and the like; ip addresses are from and to.
func BuildNA(dst, src policy.MAC, from, to, target netip.Addr, flags uint8) *Frame {
	return buildND(dst, src, from, to, policy.NeighborAdvertisement, flags, target, 2)
}

// BuildNS makes a neighbour solicitation with a source link-layer address option (RFC 4861 4.3).
func BuildNS(dst, src policy.MAC, from, to, target netip.Addr) *Frame {
	return buildND(dst, src, from, to, policy.NeighborSolicitation, 0, target, 1)
}

// BuildDAD makes the solicitation of duplicate address detection for target (RFC 4862 5.4.2).
func BuildDAD(dst, src policy.MAC, to, target netip.Addr) *Frame {
	f := BuildNS(dst, src, netip.IPv6Unspecified(), to, target)
	f.Cut(policy.EthernetLen + policy.IPv6Len + 24) // no source has no link-layer address
	ip := f.Bytes()[policy.EthernetLen:]
	binary.BigEndian.PutUint16(ip[4:], 24)
	icmpv6Checksum(ip[policy.IPv6Len:], netip.IPv6Unspecified(), to)
	return f
}

func buildND(dst, src policy.MAC, from, to netip.Addr, typ, flags uint8, target netip.Addr, option uint8) *Frame {
	f := NewFrame(policy.EthernetLen + policy.IPv6Len + 32)
	f.SetEthernet(dst, src, policy.EtherIPv6)
	icmp := ipv6Header(f.Bytes()[policy.EthernetLen:], from, to, policy.ProtoICMPv6, 255)
	icmp[0], icmp[4] = typ, flags
	t := target.As16()
	copy(icmp[8:], t[:])
	icmp[24], icmp[25] = option, 1
	copy(icmp[26:], src[:])
	icmpv6Checksum(icmp, from, to)
	return f
}
