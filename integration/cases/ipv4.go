package cases

import (
	"net/netip"

	"udrouter/policy"
)

// IPv4 are packets whose source or destination is not what it may be.
func IPv4() []Case {
	anywhere, guests := []netip.Addr{X4, Two4, Router4, Dom04, Gateway4, Unbound4}, []netip.Addr{One4, Two4, Router4, Unbound4}
	special := ips("0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.255.254", "169.254.1.1", "169.254.169.254", "224.0.0.5", "239.1.1.1", "240.0.0.1", "255.255.255.254", "255.255.255.255")
	broadcasts := ips("192.0.1.0", "192.0.1.63") // of the uplink's prefix
	everyone := []netip.Addr{One4, Two4, X4, Router4, Gateway4}
	never := ips("0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.255.255", "169.254.0.1", "169.254.169.254", "169.254.255.255", "240.0.0.1", "255.255.255.254")
	many := ips("224.0.0.1", "224.0.0.5", "224.0.0.251", "232.1.1.1", "239.1.1.1", "239.255.255.250")
	limited, directed := ips("255.255.255.255"), ips("192.0.2.0", "192.0.2.255", "192.0.1.0", "192.0.1.63")
	inBroadcast := func(p Place, src netip.Addr, dsts []netip.Addr) (frames []Frame) {
		for _, dst := range dsts {
			frames = append(frames, as(p, broadcast, zero, everything(src, dst)...)...)
		}
		return
	}
	return []Case{
		drops("the other guest's address", "case 16; RFC 2827 3; RFC 7039 3", One, policy.IPBinding, between(One, []netip.Addr{Two4}, anywhere)),
		drops("the other guest's address, in a flow of the other's", "case 16; RFC 2827 3", One, policy.IPBinding, framesOf(One, udpOf(Two4, X4), echoOf(Two4, X4))).
			after(Two, fromTwo(udpOf(Two4, X4))).after(Two, fromTwo(echoOf(Two4, X4))),
		drops("nobody's address", "case 17; RFC 2827 3", One, policy.IPBinding, between(One, ips("192.0.2.200", "192.0.2.9", "192.0.2.12", "203.0.113.77", "8.8.8.8",
			"10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "198.18.0.1", "192.0.0.8", "192.88.99.1", "192.0.1.7", "192.0.3.10", "198.51.100.7"), []netip.Addr{X4, Two4, Router4})),
		drops("a source that no host has", "case 18; RFC 1812 5.3.7; RFC 6890 2.2.2; RFC 3927 2.7", One, policy.MartianSrc, between(One, special, everyone)),
		drops("a broadcast address as source", "case 18; RFC 1812 4.2.2.11", One, policy.MartianSrc, between(One, append(broadcasts, ips("192.0.2.0", "192.0.2.255")...), everyone)),
		drops("the router's, dom0's and the provider's addresses as sources", "case 18; RFC 6192", One, policy.MartianSrc, between(One, []netip.Addr{Router4, Dom04, Gateway4}, everyone)),

		drops("destinations that are nobody's", "case 20; RFC 1812 5.3.7 and 4.2.2.11; RFC 3927 7", One, policy.MartianDst, between(One, []netip.Addr{One4}, never)),
		drops("groups", "case 20; RFC 1812 5.3.7", One, policy.Multicast, between(One, []netip.Addr{One4}, many)),
		drops("groups, in multicast frames", "case 20; RFC 1112 6.4", One, policy.Multicast,
			as(One, policy.MAC{1, 0, 0x5e, 0, 0, 1}, zero, append(everything(One4, many[0]), everything(One4, many[3])...)...)),
		drops("broadcasts", "case 20; RFC 1812 5.3.5; RFC 2644", One, policy.Broadcast, between(One, []netip.Addr{One4}, append(limited, directed...))),
		drops("broadcasts, in broadcast frames", "case 20; RFC 1812 5.3.5; RFC 2644", One, policy.Broadcast, inBroadcast(One, One4, append(limited, directed...))),
		drops("destinations that are nobody's, from the uplink", "case 20; RFC 1812 5.3.7", Uplink, policy.MartianDst, between(Uplink, []netip.Addr{X4}, never)).unheard(),
		drops("groups, from the uplink", "case 20; RFC 1812 5.3.7", Uplink, policy.None, toGroups(X4, many)),
		drops("limited broadcast, from the uplink", "case 20; RFC 1812 5.3.5.1", Uplink, policy.Broadcast, between(Uplink, []netip.Addr{X4}, limited)).unheard(),
		drops("directed broadcast, from the uplink", "case 20; RFC 2644", Uplink, policy.Broadcast, between(Uplink, []netip.Addr{X4}, directed[:2])),
		drops("directed broadcast, from the uplink, in broadcast frames", "case 20; RFC 2644", Uplink, policy.Broadcast, inBroadcast(Uplink, X4, directed[:2])),

		drops("our own addresses from the uplink", "case 22; RFC 3704 2.1; RFC 2827 3", Uplink, policy.SpoofUplink,
			between(Uplink, []netip.Addr{One4, Two4, Unbound4, Router4, Dom04, ip("192.0.2.0"), ip("192.0.2.255")}, guests)),
		drops("a guest's address from the uplink, in a flow between guests", "case 22; RFC 3704 2.1", Uplink, policy.SpoofUplink, framesOf(Uplink, replyOf(Two4, One4), udpOf(One4, Two4))).
			after(One, fromOne(echoOf(One4, Two4))).after(One, fromOne(udpOf(One4, Two4))),
		drops("sources from the uplink that no host has", "case 23; RFC 1812 5.3.7; RFC 6890 2.2.2; RFC 3927 7", Uplink, policy.MartianSrc,
			between(Uplink, append(special, broadcasts...), guests)),
		passes("private and shared sources from the uplink", "case 23; RFC 1918 3; RFC 6598 4", Uplink, Two, append(append(framesOf(Uplink, udpOf(ip("10.0.0.1"), Two4)),
			framesOf(Uplink, echoOf(ip("172.16.0.1"), Two4), udpOf(ip("192.168.1.1"), Two4))...), framesOf(Uplink, udpOf(ip("100.64.0.1"), Two4), udpOf(ip("192.0.1.7"), Two4))...)),
	}
}

// Hairpin are packets from guest to guest: by the router, which does not redirect (RFC 1812 5.2.7.2), and by the receiver's policy.
func Hairpin() []Case {
	told := func(name string, m maker, err Frame) Case {
		return Case{Name: name, Ref: "case 24; RFC 1812 5.3.1", From: One, Frame: fromOne(m), Reason: policy.TTLExceeded, Out: []Out{{One, err}}}
	}
	kinds := func(src, dst netip.Addr) []maker {
		return []maker{udpOf(src, dst), udpOf(src, dst, TTL(2)), echoOf(src, dst), synOf(src, dst, 80), protoOf(src, dst, 253, make([]byte, 20)...)}
	}
	open := func(src, dst netip.Addr) []maker { return []maker{synOf(src, dst, 443), echoOf(src, dst)} }
	shut := func(src, dst netip.Addr) []maker {
		return []maker{udpOf(src, dst), synOf(src, dst, 8080), protoOf(src, dst, 253, make([]byte, 20)...), protoOf(src, dst, 41, make([]byte, 40)...)}
	}
	return []Case{
		passes("guest to guest, every kind", "case 24; RFC 1812 5.2.7.2; RFC 4861 8.2", One, Two, framesOf(One, append(kinds(One4, Two4), kinds(One6, Two6)...)...)),
		passes("and back", "case 24; RFC 1812 5.2.7.2; RFC 4861 8.2", Two, One, framesOf(Two, append(kinds(Two4, One4), kinds(Two6, One6)...)...)),
		told("TTL 1 to the other guest", udpOf(One4, Two4, TTL(1)), func(n Net) []byte {
			return icmp4Error(MAC1, n.Router, Router4, One4, 11, 0, 0, udpOf(One4, Two4, TTL(1))(n.Router, MAC1))
		}),
		told("hop limit 1 to the other guest", udpOf(One6, Two6, TTL(1)), func(n Net) []byte {
			return icmp6Error(MAC1, n.Router, Router6, One6, 3, 0, 0, udpOf(One6, Two6, TTL(1))(n.Router, MAC1))
		}),
		passes("guest to guest, as the other's policy admits", "case 24; RFC 1812 5.2.7.2", One, Two, framesOf(One, append(open(One4, Two4), open(One6, Two6)...)...)).enforced(),
		drops("guest to guest, as the other's policy refuses", "case 24", One, policy.IngressPolicy, framesOf(One, append(shut(One4, Two4), shut(One6, Two6)...)...)).enforced(),
		pass("an answer to the other guest", "case 24", Two, fromTwo(replyOf(Two4, One4)), One).after(One, fromOne(echoOf(One4, Two4))).enforced(),
		drop("an answer to nothing that the other guest asked", "case 24", Two, policy.NoFlow, func(n Net) []byte {
			f := replyOf(Two4, One4)(n.Router, MAC2)
			f[38], f[39] = 0x77, 0x77 // the identifier; a router does not test the checksum
			return f
		}).enforced(),
	}
}

// tunnels are protocols that carry packets, here one with the other guest's address as its source: it is the rules' matter whether they pass,
// since nobody here opens them.
func tunnels(src, dst netip.Addr) (out []maker) {
	inner4, inner6 := UDP(zero, zero, Two4, X4, 8)[14:], UDP(zero, zero, Two6, X6, 8)[14:]
	gre := []byte{0, 0, 8, 0}
	return []maker{protoOf(src, dst, 4, inner4...), protoOf(src, dst, 41, inner6...), protoOf(src, dst, 47, append(gre, inner4...)...), protoOf(src, dst, 94, inner4...), protoOf(src, dst, 137, inner4...)}
}

// Protocols are those that nobody knows, and tunnels.
func Protocols() []Case {
	known := []uint8{2, 3, 8, 9, 33, 46, 50, 55, 88, 89, 97, 103, 108, 112, 115, 132, 136, 253, 254, 255}
	of := func(src, dst netip.Addr) (out []maker) {
		out = tunnels(src, dst)
		for _, proto := range known {
			out = append(out, protoOf(src, dst, proto, make([]byte, 20)...))
		}
		if src.Is4() { // which are headers of their own in IPv6
			for _, proto := range []uint8{0, 43, 44, 51, 59, 60, 135, 139, 140} {
				out = append(out, protoOf(src, dst, proto, make([]byte, 20)...))
			}
		}
		return
	}
	both := func(p Place, src4, dst4, src6, dst6 netip.Addr) []Frame {
		return framesOf(p, append(of(src4, dst4), of(src6, dst6)...)...)
	}
	icmp := func(p Place, src4, dst4, src6, dst6 netip.Addr) []Frame {
		return framesOf(p, protoOf(src4, dst4, 58, append([]byte{128}, make([]byte, 15)...)...), protoOf(src6, dst6, 1, append([]byte{8}, make([]byte, 15)...)...))
	}
	return []Case{
		passes("protocols of all kinds", "case 25; facts F12", One, Uplink, both(One, One4, X4, One6, X6)),
		passes("protocols of all kinds, from the uplink", "case 25; facts F12", Uplink, One, both(Uplink, X4, One4, X6, One6)),
		passes("protocols of all kinds, where the sender's policy has no rule for them", "case 25", One, Uplink, both(One, One4, X4, One6, X6)).enforced(),
		drops("protocols of all kinds, which no rule of the receiver admits", "case 25; RFC 6169 3", Uplink, policy.IngressPolicy, both(Uplink, X4, Two4, X6, Two6)).enforced(),
		drops("protocols of all kinds to dom0", "case 25", One, policy.HostPolicy, both(One, One4, Dom04, One6, Router6)),
		drops("protocols of all kinds to the router", "case 25", One, policy.RouterLocal, framesOf(One, append(of(One4, Router4), of(ip("fe80::10"), LL1)...)...)),
		drops("protocols of all kinds to the router, from the uplink", "case 25", Uplink, policy.RouterLocal, framesOf(Uplink, of(X4, Router4)...)),
		drops("ICMP of the other family", "case 25; RFC 4443 1", One, policy.NoFlow, icmp(One, One4, X4, One6, X6)),
		drops("ICMP of the other family, from the uplink", "case 25; RFC 4443 1", Uplink, policy.NoFlow, icmp(Uplink, X4, One4, X6, One6)),
	}
}
