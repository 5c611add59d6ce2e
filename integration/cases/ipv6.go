package cases

import (
	"net/netip"

	"udrouter/policy"
)

// IPv6 are packets whose source or destination is not what it may be.
func IPv6() []Case {
	anywhere, guests := []netip.Addr{X6, Two6, Router6, Gateway6, Unbound6}, []netip.Addr{One6, Two6, Unbound6}
	special := ips("::", "::1", "ff01::1", "ff02::1", "ff0e::101", "::ffff:8.8.8.8", "::ffff:192.0.2.10", "::8.8.8.8", "::192.0.2.10", "fec0::1", "feff::1", "100::1",
		"2002:a00:1::1", "2002:7f00:1::", "2002:c0a8:101::1", "2002:ac10:1::1", "2002:a9fe:1::1", "2002:e000:1::1", "2002:ffff:ffff::1", "2002:0:1::1",
		"64:ff9b::a00:1", "64:ff9b::7f00:1", "64:ff9b::c0a8:101", "64:ff9b::e000:1")
	slaac, temporary := ip("2001:db8:3:2:216:3eff:fe00:1"), ip("2001:db8:3:2:7d3a:91c2:5be0:4f18")
	nobodys := []netip.Addr{Unbound6, slaac, temporary, ip("2001:db8:3:2::"), ip("2001:db8:3:2:1::"), ip("2001:db8:3:2:1::f"), ip("2001:db8:3:2:ffff:ffff:ffff:ffff"),
		ip("2001:db8:3:3::10"), ip("2001:db8:3:3:1::10"), X6, ip("fd00::1"), ip("fc00::1"), ip("2001::1"), ip("2001:0:4136:e378:8000:63bf:3fff:fdd2"), ip("2002:808:808::1"),
		ip("64:ff9b::808:808"), ip("4000::1")}
	never := ips("::", "::1", "::ffff:8.8.8.8", "::8.8.8.8", "fec0::1", "100::1", "2002:7f00:1::1", "2002:a00:1::1", "64:ff9b::7f00:1", "64:ff9b::a00:1")
	many := ips("ff00::1", "ff01::1", "ff02::1", "ff02::2", "ff02::1:ff00:11", "ff05::2", "ff08::1", "ff0e::101", "ff3e::1")
	return []Case{
		drops("the other guest's address, IPv6", "case 26; RFC 2827 3; RFC 7039 3", One, policy.IP6Binding, between(One, []netip.Addr{Two6}, anywhere)),
		drops("the other guest's address, in a flow of the other's, IPv6", "case 26; RFC 2827 3", One, policy.IP6Binding, framesOf(One, udpOf(Two6, X6), echoOf(Two6, X6))).
			after(Two, fromTwo(udpOf(Two6, X6))).after(Two, fromTwo(echoOf(Two6, X6))),
		drops("nobody's address, SLAAC's and a temporary one among them", "case 26; RFC 6620 2; RFC 8981", One, policy.IP6Binding, between(One, nobodys, []netip.Addr{X6, Two6, Router6})),
		drops("a source that no host has, IPv6", "case 27; RFC 4291 2.5 and 2.7; RFC 3964 5.1; RFC 6890 2.2.3", One, policy.MartianSrc,
			between(One, special, []netip.Addr{X6, Two6, Router6, LL1})),
		drops("the router's, dom0's and the provider's addresses as sources, IPv6", "case 27; RFC 6192", One, policy.MartianSrc, between(One, []netip.Addr{Router6, Gateway6}, []netip.Addr{X6, Two6, LL1})),
		drops("sources from the uplink that no host has, IPv6", "case 27; RFC 4291 2.5 and 2.7; RFC 3964 5.1; RFC 6890 2.2.3", Uplink, policy.MartianSrc, between(Uplink, special, guests)),
		passes("sources from the uplink that some host may have", "case 27; RFC 4193 4.3; RFC 3056 2; RFC 6052 3.1", Uplink, Two,
			framesOf(Uplink, udpOf(ip("fd00::1"), Two6), echoOf(ip("2002:808:808::1"), Two6), udpOf(ip("64:ff9b::808:808"), Two6), udpOf(ip("2001:0:4136:e378::1"), Two6))),
		drops("destinations that are nobody's, IPv6", "case 20; RFC 4291 2.5", One, policy.MartianDst, between(One, []netip.Addr{One6}, never)),
		drops("groups, IPv6", "case 20; RFC 4291 2.7", One, policy.Multicast, between(One, []netip.Addr{One6}, many)),
		drops("destinations that are nobody's, from the uplink, IPv6", "case 20; RFC 4291 2.5", Uplink, policy.MartianDst, between(Uplink, []netip.Addr{X6}, never)).unheard(),
		drops("groups, from the uplink, IPv6", "case 20; RFC 4291 2.7", Uplink, policy.None, toGroups(X6, many)),

		drops("our own addresses from the uplink, IPv6", "case 30; RFC 3704 2.1; RFC 2827 3", Uplink, policy.SpoofUplink,
			between(Uplink, []netip.Addr{One6, Two6, Unbound6, Router6, slaac, ip("2001:db8:3:2::"), ip("2001:db8:3:2:ffff:ffff:ffff:ffff")}, guests)),
		drops("a guest's address from the uplink, in a flow between guests, IPv6", "case 30; RFC 3704 2.1", Uplink, policy.SpoofUplink, framesOf(Uplink, replyOf(Two6, One6), udpOf(One6, Two6))).
			after(One, fromOne(echoOf(One6, Two6))).after(One, fromOne(udpOf(One6, Two6))),
	}
}

// LinkLocals are link-local addresses on the way to another link, and those of others.
func LinkLocals() []Case {
	own, dom0 := ip("fe80::10"), ip("fe80::2:0:0:e0")
	beyond := func(name string, dst netip.Addr, m maker) Case {
		return Case{Name: "link-local source to " + name, Ref: "case 28; RFC 4291 2.5.6; RFC 4443 3.1 code 2", From: One, Frame: fromOne(m), Reason: policy.LinkLocal,
			Out: []Out{{One, func(n Net) []byte { return icmp6Error(MAC1, n.Router, LL1, own, 1, 2, 0, m(n.Router, MAC1)) }}}}
	}
	rows := []Case{
		beyond("the internet, TCP", X6, synOf(own, X6, 443)),
		beyond("the internet, hop limit 1", X6, udpOf(own, X6, TTL(1))),
		beyond("another guest", Two6, udpOf(own, Two6)),
		beyond("the provider's router", Gateway6, echoOf(own, Gateway6)),
		beyond("nobody", Unbound6, udpOf(own, Unbound6)),
		drops("to link-local addresses on other links", "case 28; RFC 4291 2.5.6", One, policy.LinkLocal,
			between(One, []netip.Addr{One6, own}, []netip.Addr{ip("fe80::77"), ip("fe80::ff:1"), policy.EUI64(MAC2), ip("febf::1"), dom0})),
		drops("another guest's link-local address, and the router's", "case 28; RFC 7039 3", One, policy.IP6Binding,
			between(One, []netip.Addr{policy.EUI64(MAC2), LL1}, []netip.Addr{X6, Two6, Router6, LL1, ip("fe80::77")})),
		drops("a link-local address that another guest used first", "case 28; RFC 6620 3.2", One, policy.IP6Binding,
			between(One, ips("fe80::28:2"), []netip.Addr{X6, Two6, Router6, LL1})).after(Two, fromTwo(echoOf(ip("fe80::28:2"), LL1))),
		drops("link-local source to dom0, which is on another link", "case 28; RFC 4291 2.5.6", One, policy.LinkLocal,
			framesOf(One, udpOf(own, Router6), synOf(own, Router6, 22), protoOf(own, Router6, 253, make([]byte, 20)...))),
		drops("link-local addresses from the uplink", "case 30; RFC 4291 2.5.6", Uplink, policy.LinkLocal,
			between(Uplink, ips("fe80::99", "fe80::1", "febf::1"), []netip.Addr{One6, Two6, Unbound6})),
		drops("the router's and dom0's link-local addresses from the uplink", "case 30; RFC 3704 2.1", Uplink, policy.SpoofUplink, []Frame{
			func(n Net) []byte { return udpOf(n.UplinkLL, One6)(n.Eth0, n.Gateway) },
			func(n Net) []byte { return echoOf(n.UplinkLL, n.UplinkLL)(n.Eth0, n.Gateway) },
			func(n Net) []byte { return udpOf(policy.EUI64(n.Eth0), One6)(n.Eth0, n.Gateway) },
			func(n Net) []byte { return echoOf(policy.EUI64(n.Eth0), n.UplinkLL)(n.Eth0, n.Gateway) },
			func(n Net) []byte {
				return NS(n.Eth0, n.Gateway, policy.EUI64(n.Eth0), One6, One6, n.Gateway)
			},
		}),
	}
	return append(rows, drop("link-local source to dom0 by a port that it offers", "case 28; RFC 4291 2.5.6", One, policy.LinkLocal, fromOne(func(d, s policy.MAC) []byte {
		f := UDP(d, s, own, Router6, 8)
		f[l4Of6+2], f[l4Of6+3] = 0, 53 // the checksum does not matter
		return f
	})))
}
