package cases

import (
	"net/netip"

	"github.com/gopacket/gopacket"
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
	return []Case{
		drop("the router's own MAC", "case 2", One, policy.MACBinding, func(n Net) []byte { return UDP(n.Router, n.Router, One4, X4, 8) }),
		drop("to an unbound address, IPv4", "case 50", Uplink, policy.UnboundDst, in(X4, Unbound4)),
		drop("to an unbound address, IPv6", "facts F7; case 50", Uplink, policy.UnboundDst, in(X6, Unbound6)),
		drop("from a guest to an unbound address", "case 50", One, policy.UnboundDst, udp(One6, Unbound6)),
		drop("routing header 0", "RFC 5095", One, policy.RoutingHeader, fromOne(func(d, s policy.MAC) []byte {
			return serialize(eth(d, s, layers.EthernetTypeIPv6), ip6(One6, X6, layers.IPProtocolIPv6Routing), raw([]byte{59, 2, 0, 1, 0, 0, 0, 0}), raw(Two6.AsSlice()))
		})),
		drop("a chain of 1288 bytes", "facts N1", One, policy.HeaderChain, chain(1288)),
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
}

func hop1(h *layers.IPv6) *layers.IPv6 { h.HopLimit = 1; return h }

// GuestNeighbours are ARP and ND on the guests' side.
func GuestNeighbours() []Case {
	who := func(spa, tpa netip.Addr) Frame {
		return func(Net) []byte { return ARP(broadcast, MAC1, 1, MAC1, spa, zero, tpa) }
	}
	is := func(tpa, spa netip.Addr) Frame {
		return func(n Net) []byte { return ARP(MAC1, n.Router, 2, n.Router, tpa, MAC1, spa) }
	}
	ns := func(src, target netip.Addr) Frame {
		return func(Net) []byte {
			to, ll := policy.SolicitedNode(target), MAC1
			if src.IsUnspecified() {
				ll = zero
			}
			return NS(policy.MulticastMAC(to), MAC1, src, to, target, ll)
		}
	}
	na := func(to, target netip.Addr, flags uint8) Frame {
		return func(n Net) []byte { return NA(MAC1, n.Router, LL1, to, target, n.Router, flags) }
	}
	const r, s, o = policy.NARouter, policy.NASolicited, policy.NAOverride
	none, ll := ip("::"), ip("fe80::10")
	ndEdit := func(edit func(*layers.IPv6)) Frame {
		return func(Net) []byte {
			to := policy.SolicitedNode(Router6)
			return NS(policy.MulticastMAC(to), MAC1, One6, to, Router6, MAC1, func(l gopacket.SerializableLayer) { edit(l.(*layers.IPv6)) })
		}
	}
	claim := func(target netip.Addr, ll policy.MAC, flags uint8) Frame {
		return func(Net) []byte {
			return NA(policy.MAC{0x33, 0x33, 0, 0, 0, 1}, MAC1, One6, AllNodes, target, ll, flags)
		}
	}
	return []Case{
		answer("ARP for the gateway", "case 31", One, who(One4, Router4), is(Router4, One4)),
		answer("ARP for another guest", "case 31", One, who(One4, Two4), is(Two4, One4)),
		silent("ARP for an unbound address", "case 31; facts N9, F8", One, who(One4, Unbound4)),
		silent("ARP off the subnet", "case 31", One, who(One4, ip("203.0.113.9"))),
		silent("ARP for its own address", "case 31", One, who(One4, One4)),
		silent("probe for its own address", "case 35; RFC 5227 2.1.1", One, who(ip("0.0.0.0"), One4)),
		answer("probe for another guest's address", "case 35", One, who(ip("0.0.0.0"), Two4), is(Two4, ip("0.0.0.0"))),
		answer("probe for the gateway's address", "case 35", One, who(ip("0.0.0.0"), Router4), is(Router4, ip("0.0.0.0"))),
		drop("ARP with another sender MAC", "case 33", One, policy.ARPSpoof, func(Net) []byte { return ARP(broadcast, MAC1, 1, MAC2, One4, zero, Router4) }),
		drop("ARP with another guest's address", "case 33", One, policy.ARPSpoof, who(Two4, Router4)),
		drop("gratuitous ARP for the gateway", "case 34", One, policy.ARPSpoof, who(Router4, Router4)),
		drop("reply for the provider's gateway", "case 33", One, policy.ARPSpoof, func(Net) []byte { return ARP(broadcast, MAC1, 2, MAC1, Gateway4, MAC2, Two4) }),
		silent("gratuitous ARP of the owner", "case 34", One, func(Net) []byte { return ARP(broadcast, MAC1, 1, MAC1, One4, zero, One4) }),

		answer("NS for the gateway", "case 43", One, ns(One6, Router6), na(One6, Router6, r|s|o)),
		answer("NS for fe80::1", "case 43", One, ns(ll, LL1), na(ll, LL1, r|s|o)),
		answer("NS for another guest", "case 43; RFC 4861 7.2.8", One, ns(One6, Two6), na(One6, Two6, s)),
		answer("NS for the provider's gateway in the prefix", "design", One, ns(One6, Gateway6), na(One6, Gateway6, r|s)),
		answer("unicast NS for the gateway", "facts N10", One, func(n Net) []byte { return NS(n.Router, MAC1, One6, Router6, Router6, MAC1) }, na(One6, Router6, r|s|o)),
		answer("unicast NS for another guest", "facts N10", One, func(n Net) []byte { return NS(n.Router, MAC1, One6, Two6, Two6, MAC1) }, na(One6, Two6, s)),
		silent("NS for an unbound address", "case 43", One, ns(One6, Unbound6)),
		silent("DAD for its own address", "case 43; RFC 4862 5.4", One, ns(none, One6)),
		silent("DAD for its link-local address", "RFC 4862 5.4", One, ns(none, ll)),
		answer("DAD for another guest's address", "case 43; RFC 4861 7.2.4", One, ns(none, Two6), na(AllNodes, Two6, 0)),
		answer("DAD for another guest's link-local address", "design", One, ns(none, policy.EUI64(MAC2)), na(AllNodes, policy.EUI64(MAC2), 0)),
		answer("DAD for the gateway", "design", One, ns(none, Router6), na(AllNodes, Router6, r|o)),
		drop("NS from another guest's address", "case 26", One, policy.IP6Binding, ns(Two6, Router6)),
		drop("NS from another guest's link-local address", "case 28", One, policy.IP6Binding, ns(policy.EUI64(MAC2), Router6)),
		drop("NS with another MAC as source", "case 45", One, policy.NDSpoof, func(Net) []byte {
			to := policy.SolicitedNode(Router6)
			return NS(policy.MulticastMAC(to), MAC1, One6, to, Router6, MAC2)
		}),
		drop("NS with hop limit 254", "case 38; RFC 4861 7.1.1", One, policy.NDHopLimit, ndEdit(func(h *layers.IPv6) { h.HopLimit = 254 })),
		drop("NA for another guest's address", "case 45", One, policy.NDSpoof, claim(Two6, MAC1, o)),
		drop("NA for the gateway", "case 45", One, policy.NDSpoof, claim(Router6, MAC1, o)),
		drop("NA for fe80::1", "case 45", One, policy.NDSpoof, claim(LL1, MAC1, o)),
		drop("NA with another MAC", "case 45", One, policy.NDSpoof, claim(One6, MAC2, o)),
		drop("NA of a router", "case 45", One, policy.NDSpoof, claim(One6, MAC1, r|o)),
		silent("NA for its own address", "", One, claim(One6, MAC1, o)),
		drop("RA", "case 51", One, policy.RAGuard, func(Net) []byte {
			h := ip6(ll, AllNodes, layers.IPProtocolICMPv6)
			h.HopLimit = 255
			return icmp6(policy.MAC{0x33, 0x33, 0, 0, 0, 1}, MAC1, h, 134, 0, &layers.ICMPv6RouterAdvertisement{HopLimit: 64, RouterLifetime: 9000})
		}),
		drop("NS in an atomic fragment", "RFC 6980 5", One, policy.NDFragment, fromOne(func(d, s policy.MAC) []byte {
			f := NS(d, s, One6, Router6, Router6, MAC1)
			h := ip6(One6, Router6, layers.IPProtocolIPv6Fragment)
			h.HopLimit = 255
			return serialize(eth(d, s, layers.EthernetTypeIPv6), h, raw([]byte{58, 0, 0, 0, 0, 0, 0, 1}), raw(f[54:]))
		})),
	}
}
