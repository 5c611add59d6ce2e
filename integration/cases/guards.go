package cases

import (
	"net/netip"

	"github.com/gopacket/gopacket/layers"

	"udrouter/policy"
)

// Guards are frames that are refused.
func Guards() []Case {
	udp := func(src, dst netip.Addr) Frame {
		return fromOne(func(d, s policy.MAC) []byte { return UDP(d, s, src, dst, 8) })
	}
	in := func(src, dst netip.Addr) Frame {
		return fromGateway(func(d, s policy.MAC) []byte { return UDP(d, s, src, dst, 8) })
	}
	chain := func(n int) Frame {
		return fromOne(func(d, s policy.MAC) []byte {
			h := make([]byte, n)
			h[0], h[1], h[2], h[3] = 17, byte(n/8-1), 1, byte(n-4)
			return serialize(eth(d, s, layers.EthernetTypeIPv6), ip6(One6, X6, layers.IPProtocolIPv6Destination), raw(h), raw(make([]byte, 8)))
		})
	}
	rows := []Case{
		drop("unknown MAC with a guest's address", "case 4", One, policy.MACBinding, func(n Net) []byte { return UDP(n.Router, Nobody, One4, X4, 8) }),
		drop("the router's own MAC", "case 2", One, policy.MACBinding, func(n Net) []byte { return UDP(n.Router, n.Router, One4, X4, 8) }),
		drop("group MAC as source", "case 5", One, policy.MACInvalid, func(n Net) []byte { return UDP(n.Router, policy.MAC{1, 0, 0x5e, 0, 0, 1}, One4, X4, 8) }),
		drop("zero MAC as source", "case 5", One, policy.MACInvalid, func(n Net) []byte { return UDP(n.Router, zero, One4, X4, 8) }),
		drop("unicast in a broadcast frame", "case 7", One, policy.L2Multicast, func(n Net) []byte { return UDP(broadcast, MAC1, One4, X4, 8) }),
		drop("unicast in a broadcast frame with TTL 1", "case 7; RFC 1812 4.3.2.7", One, policy.L2Multicast, func(n Net) []byte { return UDP(broadcast, MAC1, One4, X4, 8, TTL(1)) }),
		drop("unicast in a multicast frame, IPv6", "case 7", One, policy.L2Multicast, func(n Net) []byte { return UDP(policy.MAC{0x33, 0x33, 0, 0, 0, 1}, MAC1, One6, X6, 8) }),
		drop("unicast in a broadcast frame from the uplink", "case 7", Uplink, policy.L2Multicast, func(n Net) []byte { return UDP(broadcast, n.Gateway, X4, One4, 8) }),
		drop("802.1Q", "case 9", One, policy.VLAN, fromOne(func(d, s policy.MAC) []byte {
			return serialize(eth(d, s, layers.EthernetTypeDot1Q), &layers.Dot1Q{VLANIdentifier: 5, Type: layers.EthernetTypeIPv4}, ip4(One4, X4, 253), pay(20))
		})),
		drop("802.1Q on the uplink", "case 9; facts F11", Uplink, policy.VLAN, fromGateway(func(d, s policy.MAC) []byte {
			f := UDP(d, s, X4, One4, 8)
			return append(append(append([]byte{}, f[:12]...), 0x81, 0, 0, 5), f[12:]...)
		})),
		drop("priority tag on the uplink", "case 9; facts F11", Uplink, policy.VLAN, fromGateway(func(d, s policy.MAC) []byte {
			f := UDP(d, s, X4, One4, 8)
			return append(append(append([]byte{}, f[:12]...), 0x81, 0, 0, 0), f[12:]...)
		})),
		drop("802.3 with LLC and SNAP", "case 10", One, policy.EtherType, fromOne(func(d, s policy.MAC) []byte {
			return append(append(append([]byte{}, d[:]...), s[:]...), 0, 38, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0, 0x45, 0)
		})),
		drop("wrong IPv4 header checksum", "RFC 1812 5.2.2", One, policy.Checksum, fromOne(func(d, s policy.MAC) []byte {
			f := UDP(d, s, One4, X4, 8)
			f[24] ^= 1
			return f
		})),
		drop("the other guest's address, IPv4", "case 16", One, policy.IPBinding, udp(Two4, X4)),
		drop("the other guest's address, IPv6", "case 26", One, policy.IP6Binding, udp(Two6, X6)),
		drop("an unbound address, IPv4", "case 17", One, policy.IPBinding, udp(Unbound4, X4)),
		drop("an unbound address, IPv6", "case 26", One, policy.IP6Binding, udp(Unbound6, X6)),
		drop("an address of the internet", "case 17", One, policy.IPBinding, udp(ip("203.0.113.77"), X4)),
		drop("dom0's address", "case 18", One, policy.MartianSrc, udp(Dom04, X4)),
		drop("to an unbound address, IPv4", "case 50", Uplink, policy.UnboundDst, in(X4, Unbound4)),
		drop("to an unbound address, IPv6", "facts F7; case 50", Uplink, policy.UnboundDst, in(X6, Unbound6)),
		drop("from a guest to an unbound address", "case 50", One, policy.UnboundDst, udp(One6, Unbound6)),
		drop("routing header 0", "RFC 5095", One, policy.RoutingHeader, fromOne(func(d, s policy.MAC) []byte {
			return serialize(eth(d, s, layers.EthernetTypeIPv6), ip6(One6, X6, layers.IPProtocolIPv6Routing), raw([]byte{59, 2, 0, 1, 0, 0, 0, 0}), raw(Two6.AsSlice()))
		})),
		drop("a chain of 1288 bytes", "facts N1", One, policy.HeaderChain, chain(1288)),
		drop("a guest's link-local to the internet", "case 28; RFC 4291 2.5.6", Uplink, policy.LinkLocal, in(ip("fe80::99"), One6)),
		drop("our own address from the uplink", "case 22", Uplink, policy.SpoofUplink, in(Two4, One4)),
		drop("our gateway from the uplink", "case 22", Uplink, policy.SpoofUplink, in(Router4, One4)),
		drop("dom0's address from the uplink", "case 22", Uplink, policy.SpoofUplink, in(Dom04, One4)),
		drop("our own IPv6 address from the uplink", "case 30", Uplink, policy.SpoofUplink, in(Unbound6, One6)),
		drop("an ICMP redirect", "case 55", Uplink, policy.Redirect, fromGateway(func(d, s policy.MAC) []byte {
			return serialize(eth(d, s, layers.EthernetTypeIPv4), ip4(X4, One4, layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(5, 1)}, pay(28))
		})),
		drop("to dom0, opened by a guest", "case 71", One, policy.HostPolicy, udp(One4, Dom04)),
		drop("to dom0's IPv6 address, opened by a guest", "design", One, policy.HostPolicy, udp(One6, Router6)),
		drop("to itself", "", One, policy.Loop, udp(One4, One4)),
		{Name: "to another station's MAC", Ref: "facts N6", From: One, Reason: policy.OtherHost, Bridge: true,
			Frame: func(n Net) []byte { return UDP(Nobody, MAC1, One4, X4, 8) }},
		silent("to another station's MAC, from the uplink", "facts N6, N16", Uplink, func(n Net) []byte { return UDP(Nobody, n.Gateway, X4, One4, 8) }),
		silent("a multicast listener report", "RFC 3810", One, fromOne(func(_, s policy.MAC) []byte {
			return icmp6(policy.MAC{0x33, 0x33, 0, 0, 0, 0x16}, s, hop1(ip6(ip("::"), ip("ff02::16"), layers.IPProtocolICMPv6)), 143, 0, raw(make([]byte, 4)))
		})),
	}
	for _, s := range []string{"0.0.0.0", "127.0.0.1", "169.254.1.1", "224.0.0.5", "240.0.0.1", "255.255.255.255", "192.0.2.0", "192.0.2.255", "192.0.2.1", "192.0.1.1"} {
		rows = append(rows, drop("source "+s, "case 18", One, policy.MartianSrc, udp(ip(s), X4)))
	}
	for s, r := range map[string]policy.Reason{
		"::": policy.MartianSrc, "::1": policy.MartianSrc, "ff02::1": policy.MartianSrc, "::ffff:8.8.8.8": policy.MartianSrc, "::8.8.8.8": policy.MartianSrc,
		"fec0::1": policy.MartianSrc, "2002:a00:1::1": policy.MartianSrc, "64:ff9b::a00:1": policy.MartianSrc, "100::1": policy.MartianSrc,
		"2001:db8:3:2::1": policy.MartianSrc, "2001:db8:3:2:1::1": policy.MartianSrc, "fe80::1": policy.IP6Binding,
	} {
		rows = append(rows, drop("source "+s, "case 27", One, r, fromOne(func(d, src policy.MAC) []byte { return UDP6(d, src, ip6Bytes(s), X6, 8) })))
	}
	for s, r := range map[string]policy.Reason{
		"0.0.0.0": policy.MartianDst, "127.0.0.1": policy.MartianDst, "169.254.169.254": policy.MartianDst, "240.0.0.1": policy.MartianDst,
		"224.0.0.5": policy.Multicast, "255.255.255.255": policy.Broadcast, "192.0.2.255": policy.Broadcast, "192.0.1.63": policy.Broadcast,
	} {
		rows = append(rows, drop("destination "+s, "case 20", One, r, udp(One4, ip(s))))
	}
	for _, s := range []string{"127.0.0.1", "0.1.2.3", "224.0.0.1", "255.255.255.255", "169.254.3.4"} {
		rows = append(rows, drop("source "+s+" from the uplink", "case 23", Uplink, policy.MartianSrc, in(ip(s), One4)))
	}
	return rows
}

func hop1(h *layers.IPv6) *layers.IPv6 { h.HopLimit = 1; return h }

func ip6Bytes(s string) netip.Addr { return netip.AddrFrom16(ip(s).As16()) }

// UDP6 is UDP for addresses that gopacket would take for IPv4.
func UDP6(dst, src policy.MAC, from, to netip.Addr, n int) []byte {
	u := &layers.UDP{SrcPort: 40000, DstPort: 5000}
	a, b := from.As16(), to.As16()
	h := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP, SrcIP: a[:], DstIP: b[:]}
	must(u.SetNetworkLayerForChecksum(h))
	return serialize(eth(dst, src, layers.EthernetTypeIPv6), h, u, pay(n))
}
