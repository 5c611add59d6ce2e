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
