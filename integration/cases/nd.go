package cases

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/gopacket/gopacket/layers"

	"udrouter/policy"
)

var (
	none6       = ip("::")
	oneLL       = ip("fe80::10") // guest one's; no guest is pinned to another
	gatewayLL   = ip("fe80::99") // the provider's router's
	allNodesMAC = policy.MAC{0x33, 0x33, 0, 0, 0, 1}
)

// icmp6Typed is an ICMPv6 message with hop limit 255. A multicast destination has its own MAC.
func icmp6Typed(dst, src policy.MAC, from, to netip.Addr, typ, code uint8, body []byte, edit ...func(*layers.IPv6)) []byte {
	h := ip6(from, to, layers.IPProtocolICMPv6)
	h.HopLimit = 255
	for _, e := range edit {
		e(h)
	}
	if to.IsMulticast() {
		dst = policy.MulticastMAC(to)
	}
	return icmp6(dst, src, h, typ, code, raw(body))
}

// option is an ND option of whole 8 bytes; data beyond them is cut off.
func option(t uint8, length int, data ...byte) []byte {
	b := make([]byte, 8*max(length, 1))
	copy(b[2:], data)
	b[0], b[1] = t, uint8(length)
	return b
}

func linkLayer(t uint8, m policy.MAC) []byte { return option(t, 1, m[:]...) }

func targeted(a netip.Addr, options ...[]byte) []byte {
	b := a.As16()
	return slices.Concat(append([][]byte{make([]byte, 4), b[:]}, options...)...)
}

// message is a kind of ND as guest one, or the provider's router, may send it.
type message struct {
	name string
	typ  uint8
	to   netip.Addr
	body []byte
	min  int // bytes of the whole ICMPv6 message
	want policy.Reason
}

// messages are the five kinds of ND, and those of SEND (RFC 3971), which are never passed on.
func messages(own, target netip.Addr, ra, redirect policy.Reason) []message {
	x := X6.As16()
	return []message{
		{"RS", 133, ip("ff02::2"), make([]byte, 4), 8, policy.None},
		{"RA", 134, AllNodes, []byte{64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}, 16, ra},
		{"NS", 135, policy.SolicitedNode(target), targeted(target), 24, policy.None},
		{"NA", 136, AllNodes, targeted(own), 24, policy.None},
		{"redirect", 137, AllNodes, append(targeted(oneLL), x[:]...), 40, redirect},
	}
}

// ends are both sides of the router, as ND sees them.
type ndEnd struct {
	from       Place
	mac        func(Net) policy.MAC
	router     func(Net) policy.MAC
	ll, global netip.Addr
	own        netip.Addr // what it may advertise
	asks       netip.Addr // what it is answered for
	ra         policy.Reason
}

var ndEnds = []ndEnd{
	{One, func(Net) policy.MAC { return MAC1 }, func(n Net) policy.MAC { return n.Router }, oneLL, One6, One6, LL1, policy.RAGuard},
	{Uplink, func(n Net) policy.MAC { return n.Gateway }, func(n Net) policy.MAC { return n.Eth0 }, gatewayLL, ip("2001:db8:9::9"), gatewayLL, One6, policy.None},
}

func (e ndEnd) send(typ, code uint8, from, to netip.Addr, body []byte, edit ...func(*layers.IPv6)) Frame {
	return func(n Net) []byte { return icmp6Typed(e.router(n), e.mac(n), from, to, typ, code, body, edit...) }
}

// answered is a row of a solicitation that is answered as any.
func (e ndEnd) answered(name, ref string, f Frame) Case {
	return answer(name, ref, e.from, f, func(n Net) []byte {
		if e.from == Uplink {
			return NA(n.Gateway, n.Eth0, n.UplinkLL, e.ll, e.asks, n.Eth0, policy.NARouter|policy.NASolicited)
		}
		return NA(MAC1, n.Router, LL1, e.ll, e.asks, n.Router, policy.NARouter|policy.NASolicited|policy.NAOverride)
	})
}

// NDValidation are the tests of RFC 4861 6.1, 7.1 and 8.1, each on both sides.
func NDValidation() (rows []Case) {
	for _, e := range ndEnds {
		at := " from " + string(e.from)
		malformed := func(name, ref string, f Frame) {
			rows = append(rows, drop(name+at, ref, e.from, policy.NDMalformed, f))
		}
		for _, m := range messages(e.own, e.asks, e.ra, policy.Redirect) {
			for _, hops := range []uint8{254, 64, 1, 0} {
				rows = append(rows, drop(fmt.Sprintf("%s with hop limit %d%s", m.name, hops, at), "case 38; RFC 4861 6.1.1, 7.1.1, 8.1", e.from, policy.NDHopLimit,
					e.send(m.typ, 0, e.ll, m.to, m.body, func(h *layers.IPv6) { h.HopLimit = hops })))
			}
			for _, code := range []uint8{1, 255} {
				malformed(fmt.Sprintf("%s with code %d", m.name, code), "case 39; RFC 4861 7.1.1", e.send(m.typ, code, e.ll, m.to, m.body))
			}
			short := policy.NDMalformed
			if m.min == 8 {
				short = policy.Malformed // no ICMPv6 message is shorter
			}
			rows = append(rows,
				drop(fmt.Sprintf("%s of %d bytes%s", m.name, m.min-1, at), "case 39; RFC 4861 6.1.1, 7.1.1, 8.1", e.from, short, e.send(m.typ, 0, e.ll, m.to, m.body[:m.min-5])),
				drop(m.name+" with a wrong checksum"+at, "case 39; RFC 4861 7.1.1", e.from, policy.Checksum, func(n Net) []byte {
					f := e.send(m.typ, 0, e.ll, m.to, m.body)(n)
					f[56] ^= 0x55
					return f
				}))
			malformed(m.name+" with half an option", "case 40; RFC 4861 4.6", e.send(m.typ, 0, e.ll, m.to, append(slices.Clone(m.body), 14, 1, 0, 0)))
			malformed(m.name+" with an option of length 0", "case 40; RFC 4861 4.6", e.send(m.typ, 0, e.ll, m.to, append(slices.Clone(m.body), option(1, 0)...)))
		}
		to := policy.SolicitedNode(e.asks)
		rows = append(rows,
			e.answered("NS with reserved bits"+at, "case 39; RFC 4861 4.3", e.send(135, 0, e.ll, to, append([]byte{0xff, 0xff, 0xff, 0xff}, targeted(e.asks)[4:]...))),
			silent("NA with reserved bits"+at, "case 39; RFC 4861 4.4", e.from, e.send(136, 0, e.ll, AllNodes, append([]byte{0x1f, 0xff, 0xff, 0xff}, targeted(e.own)[4:]...))),
			silent("RS with reserved bits"+at, "case 39; RFC 4861 4.1", e.from, e.send(133, 0, e.ll, ip("ff02::2"), []byte{0xff, 0xff, 0xff, 0xff})))
		malformed("NS for a group", "case 39; RFC 4861 7.1.1", e.send(135, 0, e.ll, to, targeted(AllNodes)))
		malformed("NA for a group", "case 39; RFC 4861 7.1.2", e.send(136, 0, e.ll, AllNodes, targeted(AllNodes)))
		malformed("solicited NA to a group", "case 39; RFC 4861 7.1.2", e.send(136, 0, e.ll, AllNodes, append([]byte{policy.NASolicited, 0, 0, 0}, targeted(e.own)[4:]...)))
		malformed("DAD with a source option", "case 39; RFC 4861 7.1.1", e.send(135, 0, none6, to, targeted(e.asks, linkLayer(1, MAC1))))
		malformed("DAD to all nodes", "case 39; RFC 4861 7.1.1", e.send(135, 0, none6, AllNodes, targeted(e.asks)))
		malformed("RS from nowhere with a source option", "case 54; RFC 4861 6.1.1", e.send(133, 0, none6, ip("ff02::2"), append(make([]byte, 4), linkLayer(1, MAC1)...)))
		malformed("RA from a global address", "case 51; RFC 4861 6.1.2", e.send(134, 0, e.global, AllNodes, make([]byte, 12)))
		malformed("RA from nowhere", "case 51; RFC 4861 6.1.2", e.send(134, 0, none6, AllNodes, make([]byte, 12)))
		malformed("redirect from a global address", "case 55; RFC 4861 8.1", e.send(137, 0, e.global, AllNodes, append(targeted(e.ll), X6.AsSlice()...)))
		rows = append(rows, e.options(at)...)
	}
	return rows
}

// options are what can be wrong, or strange, in the options of a solicitation.
func (e ndEnd) options(at string) (rows []Case) {
	ns := func(options ...[]byte) Frame {
		return e.send(135, 0, e.ll, policy.SolicitedNode(e.asks), targeted(e.asks, options...))
	}
	own := func(t uint8, other policy.MAC) Frame {
		return func(n Net) []byte { return ns(linkLayer(t, e.mac(n)), linkLayer(t, other))(n) }
	}
	for name, o := range sorted(map[string][]byte{
		"another option of length 0": option(14, 0), "an unknown option of length 0": option(200, 0),
		"an option of 16 bytes in 8": option(14, 2)[:8], "an option of 40 bytes in 8": option(1, 5)[:8], "an option of 2040 bytes in 16": option(253, 255)[:16],
		"a source option of 16 bytes": option(1, 2), "a target option of 16 bytes": option(2, 2),
		"1 byte too many": {14}, "2 bytes too many": {14, 1}, "7 bytes too many": option(14, 1)[:7],
		"length 0 behind unknown ones": append(option(200, 3), option(201, 0)...),
	}) {
		rows = append(rows, drop("NS with "+name+at, "case 40; RFC 4861 4.6", e.from, policy.NDMalformed, ns(o)))
	}
	for _, t := range []uint8{1, 2} {
		rows = append(rows,
			drop(fmt.Sprintf("NS with two options %d that differ%s", t, at), "case 40", e.from, policy.NDMalformed, own(t, Nobody)),
			e.answered(fmt.Sprintf("NS with an option %d twice%s", t, at), "case 40", func(n Net) []byte { return own(t, e.mac(n))(n) }))
		for i, mac := range groupMACs {
			rows = append(rows,
				drop(fmt.Sprintf("NS with option %d of MAC %d%s", t, i, at), "case 45; RFC 4861 4.6.1", e.from, policy.NDSpoof, ns(linkLayer(t, mac))),
				drop(fmt.Sprintf("NA with option %d of MAC %d%s", t, i, at), "case 45; RFC 4861 4.6.1", e.from, policy.NDSpoof, e.send(136, 0, e.ll, AllNodes, targeted(e.own, linkLayer(t, mac)))))
		}
		rows = append(rows,
			drop(fmt.Sprintf("NS with option %d of the router%s", t, at), "case 45", e.from, policy.NDSpoof, func(n Net) []byte { return ns(linkLayer(t, n.Router))(n) }),
			drop(fmt.Sprintf("NS with option %d of the uplink%s", t, at), "case 45", e.from, policy.NDSpoof, func(n Net) []byte { return ns(linkLayer(t, n.Eth0))(n) }))
	}
	many := make([][]byte, 170) // what 1500 bytes hold, about
	for i := range many {
		many[i] = option(uint8(100+i%100), 1, byte(i))
	}
	for name, o := range sorted(map[string][]byte{
		"170 unknown options": slices.Concat(many...), "one option of 1360 bytes": option(200, 170), "options 0 and 255": append(option(0, 1), option(255, 1)...),
		"a prefix": option(3, 4), "a redirected header": option(4, 3), "an MTU": option(5, 1), "CGA (SEND)": option(11, 3, 1), "an RSA signature (SEND)": option(12, 17),
		"a timestamp (SEND)": option(13, 2), "a nonce (RFC 7527)": option(14, 1, 1, 2, 3, 4, 5, 6), "a route": option(24, 3), "RDNSS of even length (CVE-2020-16898)": option(25, 4, 0, 0, 0, 0, 2, 88),
		"DNSSL that points at itself": option(31, 2, 0, 0, 0, 0, 2, 88, 0xc0, 0x08), "a captive portal": option(37, 2), "PREF64": option(38, 2),
	}) {
		rows = append(rows, e.answered("NS with "+name+at, "case 40; RFC 4861 4.6", ns(o)))
	}
	return rows
}

// GuestND is ND on the guests' side: what is answered, and what nobody is told.
func GuestND() []Case {
	const r, s, o = policy.NARouter, policy.NASolicited, policy.NAOverride
	ns := func(src, target netip.Addr) Frame {
		return func(Net) []byte {
			to, ll := policy.SolicitedNode(target), MAC1
			if src.IsUnspecified() {
				ll = zero
			}
			return NS(policy.MulticastMAC(to), MAC1, src, to, target, ll)
		}
	}
	unicast := func(src, target netip.Addr) Frame {
		return func(n Net) []byte { return NS(n.Router, MAC1, src, target, target, MAC1) }
	}
	na := func(to, target netip.Addr, flags uint8) Frame {
		return func(n Net) []byte { return NA(MAC1, n.Router, LL1, to, target, n.Router, flags) }
	}
	two := ip("fe80::22") // guest two's, once it has used it
	used := func(Net) []byte { return NA(allNodesMAC, MAC2, two, AllNodes, two, MAC2, o) }
	rows := []Case{
		answer("NS for the gateway", "case 43", One, ns(One6, Router6), na(One6, Router6, r|s|o)),
		answer("NS for the gateway from a link-local address", "case 43", One, ns(oneLL, Router6), na(oneLL, Router6, r|s|o)),
		answer("NS for fe80::1", "case 43", One, ns(oneLL, LL1), na(oneLL, LL1, r|s|o)),
		answer("NS for another guest", "case 43; RFC 4861 7.2.8", One, ns(One6, Two6), na(One6, Two6, s)),
		answer("NS for another guest from a link-local address", "case 43; RFC 4861 7.2.2", One, ns(oneLL, Two6), na(oneLL, Two6, s)),
		answer("NS for another guest from an optimistic address", "case 43; RFC 4429 3.2", One, func(Net) []byte {
			to := policy.SolicitedNode(Two6)
			return NS(policy.MulticastMAC(to), MAC1, One6, to, Two6, zero)
		}, na(One6, Two6, s)),
		answer("NS for the provider's gateway in the prefix", "case 43", One, ns(One6, Gateway6), na(One6, Gateway6, r|s)),
		answer("unicast NS for the gateway", "case 43; facts N10", One, unicast(One6, Router6), na(One6, Router6, r|s|o)),
		answer("unicast NS for fe80::1", "case 43; facts N10", One, unicast(oneLL, LL1), na(oneLL, LL1, r|s|o)),
		answer("unicast NS for another guest", "case 43; facts N10", One, unicast(One6, Two6), na(One6, Two6, s)),
		silent("NS for an unbound address", "case 43", One, ns(One6, Unbound6)),
		silent("NS for its own address", "case 43", One, ns(oneLL, One6)),
		silent("NS for another's link-local address", "case 43", One, ns(oneLL, policy.EUI64(MAC2))),
		silent("NS for what is not on the link", "case 43", One, ns(One6, X6)),
		silent("NS for nothing", "case 43", One, ns(One6, none6)),
		drop("NS in a broadcast frame to one address", "case 43; RFC 4861 7.2.2", One, policy.L2Multicast, func(Net) []byte { return NS(broadcast, MAC1, One6, Router6, Router6, MAC1) }),

		silent("DAD for its own address", "case 43; RFC 4862 5.4", One, ns(none6, One6)),
		silent("DAD for its link-local address", "case 43; RFC 4862 5.4", One, ns(none6, oneLL)),
		silent("DAD for an unbound address", "case 44", One, ns(none6, Unbound6)),
		answer("DAD for another guest's address", "case 43; RFC 4861 7.2.4", One, ns(none6, Two6), na(AllNodes, Two6, 0)),
		answer("DAD for another guest's link-local address", "case 43; RFC 4862 5.4.3", One, ns(none6, policy.EUI64(MAC2)), na(AllNodes, policy.EUI64(MAC2), 0)),
		answer("DAD for the gateway", "case 43", One, ns(none6, Router6), na(AllNodes, Router6, r|o)),
		answer("DAD for fe80::1", "case 43", One, ns(none6, LL1), na(AllNodes, LL1, r|o)),
		answer("DAD for the provider's gateway", "case 43", One, ns(none6, Gateway6), na(AllNodes, Gateway6, r)),
		answer("DAD with a nonce", "case 43; RFC 7527 4.2", One, func(n Net) []byte {
			return icmp6Typed(n.Router, MAC1, none6, policy.SolicitedNode(Two6), 135, 0, targeted(Two6, option(14, 1, 1, 2, 3, 4, 5, 6)))
		}, na(AllNodes, Two6, 0)),
		answer("DAD for a link-local address that another guest uses", "case 44", One, ns(none6, two), na(AllNodes, two, 0)).after(Two, used),
		drop("NS from a link-local address that another guest uses", "case 28; RFC 6620 3", One, policy.IP6Binding, ns(two, Router6)).after(Two, used),
		drop("NA for a link-local address that another guest uses", "case 44", One, policy.NDSpoof, func(Net) []byte { return NA(allNodesMAC, MAC1, oneLL, AllNodes, two, MAC1, o) }).after(Two, used),

		drop("NS from another guest's address", "case 26", One, policy.IP6Binding, ns(Two6, Router6)),
		drop("NS from another guest's link-local address", "case 28", One, policy.IP6Binding, ns(policy.EUI64(MAC2), Router6)),
		drop("NS with another MAC as source", "case 45", One, policy.NDSpoof, func(Net) []byte {
			to := policy.SolicitedNode(Router6)
			return NS(policy.MulticastMAC(to), MAC1, One6, to, Router6, MAC2)
		}),
		silent("NA for its own address", "case 45", One, func(Net) []byte { return NA(allNodesMAC, MAC1, One6, AllNodes, One6, MAC1, o) }),
		silent("NA for its own address without an option", "case 45", One, func(n Net) []byte { return NA(n.Router, MAC1, One6, LL1, One6, zero, s|o) }),
		silent("NA for its link-local address", "case 45", One, func(Net) []byte { return NA(allNodesMAC, MAC1, oneLL, AllNodes, oneLL, MAC1, o) }),
		drop("NA with another MAC", "case 45", One, policy.NDSpoof, func(Net) []byte { return NA(allNodesMAC, MAC1, One6, AllNodes, One6, MAC2, o) }),
		drop("NA of a router", "case 45; RFC 4861 7.3.3", One, policy.NDSpoof, func(Net) []byte { return NA(allNodesMAC, MAC1, One6, AllNodes, One6, MAC1, r|o) }),
		drop("solicited NA of a router", "case 45", One, policy.NDSpoof, func(n Net) []byte { return NA(n.Router, MAC1, One6, LL1, One6, MAC1, r|s|o) }),
	}
	// Whoever tests whatever address, none of another's is taken from it, and the one that it is taken from hears nothing.
	served := Case{Name: "DAD after another guest has claimed the address", Ref: "case 44; RFC 4862 5.4; RFC 3756 4.1.3", From: One, Reason: policy.NDSpoof, Count: 2,
		Frame: func(Net) []byte { return NA(allNodesMAC, MAC1, One6, AllNodes, Two6, MAC1, o) }}
	served.Then = []Sent{
		{Two, func(Net) []byte {
			to := policy.SolicitedNode(Two6)
			return NS(policy.MulticastMAC(to), MAC2, none6, to, Two6, zero)
		}},
		{One, func(Net) []byte { return NA(allNodesMAC, MAC1, oneLL, AllNodes, Two6, MAC1, 0) }},
	}
	rows = append(rows, served)
	return append(rows, falseNA()...)
}

// falseNA are advertisements with a source of its own for a target that is not: the target is what neighbours believe.
func falseNA() (rows []Case) {
	for _, s := range []string{"2001:db8:3:2:1::11", "2001:db8:3:2:1::1", "2001:db8:3:2::1", "fe80::1", "fe80::216:3eff:fe00:2", "2001:db8:3:2:1::dead", "2001:db8:ffff::7", "::", "::1"} {
		for _, to := range []netip.Addr{AllNodes, Two6, LL1} {
			for _, flags := range []uint8{0, policy.NAOverride, policy.NARouter | policy.NAOverride, policy.NASolicited | policy.NAOverride} {
				if to.IsMulticast() && flags&policy.NASolicited != 0 {
					continue
				}
				for _, ll := range []policy.MAC{MAC1, zero} {
					rows = append(rows, drop(fmt.Sprintf("NA for %s to %v, flags %02x, MAC %v", s, to, flags, !ll.IsZero()), "case 45; RFC 3756 4.1.1", One, policy.NDSpoof, func(n Net) []byte {
						dst := n.Router
						if to.IsMulticast() {
							dst = allNodesMAC
						}
						return NA(dst, MAC1, One6, to, ip(s), ll, flags)
					}))
				}
			}
		}
	}
	return rows
}

// UplinkND is ND on the uplink, where the IPv6 network is proxied.
func UplinkND() []Case {
	const r, s = policy.NARouter, policy.NASolicited
	ns := func(src, target netip.Addr, ll bool) Frame {
		return func(n Net) []byte {
			to, opt := policy.SolicitedNode(target), zero
			if ll {
				opt = n.Gateway
			}
			return NS(policy.MulticastMAC(to), n.Gateway, src, to, target, opt)
		}
	}
	na := func(to, target netip.Addr, flags uint8) Frame {
		return func(n Net) []byte { return NA(n.Gateway, n.Eth0, n.UplinkLL, to, target, n.Eth0, flags) }
	}
	toAll := func(target netip.Addr) Frame {
		return func(n Net) []byte { return NA(allNodesMAC, n.Eth0, n.UplinkLL, AllNodes, target, n.Eth0, r) }
	}
	foreign := ip("2001:db8:9::9")
	other := policy.MAC{2, 0, 0, 0, 0, 0x55}
	rows := []Case{
		answer("NS for a bound address", "case 42; RFC 4861 7.2.8", Uplink, ns(Gateway6, One6, true), na(Gateway6, One6, r|s)),
		answer("NS from a link-local address", "case 42", Uplink, ns(gatewayLL, Two6, true), na(gatewayLL, Two6, r|s)),
		answer("NS from an address off the link", "case 42", Uplink, ns(foreign, Two6, true), na(foreign, Two6, r|s)),
		answer("NS without a source option", "case 42; field 3", Uplink, ns(Gateway6, One6, false), na(Gateway6, One6, r|s)),
		answer("NS with another MAC as its source than the frame's", "case 42; RFC 4861 7.2.4", Uplink, func(n Net) []byte {
			to := policy.SolicitedNode(One6)
			return NS(policy.MulticastMAC(to), n.Gateway, ip("fe80::55"), to, One6, other)
		}, func(n Net) []byte { return NA(other, n.Eth0, n.UplinkLL, ip("fe80::55"), One6, n.Eth0, r|s) }),
		answer("unicast NS, as NUD sends it", "case 42; facts N10; field 1", Uplink, func(n Net) []byte { return NS(n.Eth0, n.Gateway, Gateway6, One6, One6, n.Gateway) }, na(Gateway6, One6, r|s)),
		answer("unicast NS without a source option", "case 42; RFC 4861 7.2.2", Uplink, func(n Net) []byte { return NS(n.Eth0, n.Gateway, gatewayLL, One6, One6, zero) }, na(gatewayLL, One6, r|s)),
		answer("DAD of somebody for a bound address", "case 42; RFC 4861 7.2.4", Uplink, ns(none6, One6, false), toAll(One6)),
		answer("DAD with a nonce of somebody for a bound address", "case 42; RFC 7527 4.2", Uplink, func(n Net) []byte {
			return icmp6Typed(zero, n.Gateway, none6, policy.SolicitedNode(One6), 135, 0, targeted(One6, option(14, 1, 1, 2, 3, 4, 5, 6)))
		}, toAll(One6)),
		answer("NS for the router's own link-local address", "case 42", Uplink,
			func(n Net) []byte {
				to := policy.SolicitedNode(n.UplinkLL)
				return NS(policy.MulticastMAC(to), n.Gateway, gatewayLL, to, n.UplinkLL, n.Gateway)
			},
			func(n Net) []byte {
				return NA(n.Gateway, n.Eth0, n.UplinkLL, gatewayLL, n.UplinkLL, n.Eth0, r|s|policy.NAOverride)
			}),
		silent("NS for an unbound address", "case 42; facts F8", Uplink, ns(Gateway6, Unbound6, true)),
		silent("DAD of somebody for an unbound address", "case 42", Uplink, ns(none6, Unbound6, false)),
		silent("NS for gateway6", "case 42", Uplink, ns(gatewayLL, Gateway6, true)),
		silent("DAD for gateway6", "case 42", Uplink, ns(none6, Gateway6, false)),
		kernels("NS for an address that the kernel holds", "case 42", Uplink, ns(Gateway6, Router6, true)),
		silent("NS for a stranger", "case 42; field 6", Uplink, ns(Gateway6, foreign, true)),
		silent("NS for the guests' fe80::1", "case 42", Uplink, ns(gatewayLL, LL1, true)),
		silent("NS for a guest's link-local address", "case 42", Uplink, ns(gatewayLL, policy.EUI64(MAC1), true)),
		silent("NS to another station", "case 42; facts N6", Uplink, func(n Net) []byte { return NS(Nobody, n.Gateway, Gateway6, One6, One6, n.Gateway) }),
		drop("NS in a broadcast frame to a guest's address", "case 42", Uplink, policy.L2Multicast, func(n Net) []byte { return NS(broadcast, n.Gateway, Gateway6, One6, One6, n.Gateway) }),
		drop("NS from a guest's address", "case 30", Uplink, policy.SpoofUplink, ns(Two6, One6, true)),
		drop("NS from the router's own link-local address", "case 30", Uplink, policy.SpoofUplink, func(n Net) []byte { return NS(n.Eth0, n.Gateway, n.UplinkLL, One6, One6, n.Gateway) }),
		drop("NS from an unbound address", "case 30", Uplink, policy.SpoofUplink, ns(Unbound6, One6, true)),
		silent("NA of a station for itself", "case 42", Uplink, func(n Net) []byte {
			return NA(allNodesMAC, n.Gateway, gatewayLL, AllNodes, gatewayLL, n.Gateway, policy.NAOverride)
		}),
		silent("NA of a station for fe80::1, which guests alone know as the router's", "case 42", Uplink, func(n Net) []byte {
			return NA(allNodesMAC, n.Gateway, LL1, AllNodes, LL1, n.Gateway, policy.NAOverride)
		}),
	}
	for _, a := range []netip.Addr{One6, Two6, Router6, Unbound6} {
		for name, to := range sorted(map[string]netip.Addr{"all nodes": AllNodes, "the guest": One6}) {
			rows = append(rows, drop(fmt.Sprintf("NA for %v on the uplink, to %s", a, name), "case 45; RFC 3756 4.1.1", Uplink, policy.NDSpoof, func(n Net) []byte {
				return icmp6Typed(n.Eth0, n.Gateway, gatewayLL, to, 136, 0, append([]byte{policy.NAOverride, 0, 0, 0}, targeted(a, linkLayer(2, n.Gateway))[4:]...))
			}))
		}
	}
	return rows
}

// behind puts extension headers between the IPv6 header of a frame and what follows it. The first byte of each becomes the number of the next.
func behind(f []byte, headers ...extension) []byte {
	out := slices.Clone(f[:policy.EthernetLen+policy.IPv6Len])
	next := &out[policy.EthernetLen+6]
	last, n := *next, 0
	var chain [][]byte
	for _, h := range headers {
		*next = h.proto
		b := slices.Clone(h.bytes)
		next = &b[0]
		chain = append(chain, b)
		n += len(b)
	}
	*next = last
	binary.BigEndian.PutUint16(out[policy.EthernetLen+4:], uint16(len(f)-policy.EthernetLen-policy.IPv6Len+n))
	return slices.Concat(out, slices.Concat(chain...), f[policy.EthernetLen+policy.IPv6Len:])
}

type extension struct {
	proto uint8
	bytes []byte
}

// options6 is a hop-by-hop (0) or destination options (60) header of n bytes of padding.
func options6(proto uint8, n int) extension {
	b := make([]byte, n)
	b[1] = uint8(n/8 - 1)
	for at := 2; at < n; {
		size := min(n-at, 257)
		if n-at-size == 1 {
			size--
		}
		b[at], b[at+1] = 1, uint8(size-2)
		at += size
	}
	return extension{proto, b}
}

// fragment6 is a Fragment header; off is in bytes.
func fragment6(off int, more bool, id uint32) extension {
	b := make([]byte, 8)
	binary.BigEndian.PutUint16(b[2:], uint16(off))
	if more {
		b[3] |= 1
	}
	binary.BigEndian.PutUint32(b[4:], id)
	return extension{policy.ProtoFragment, b}
}

// routing6 is a routing header of a type, with one address in it.
func routing6(typ, left uint8, hop netip.Addr) extension {
	return extension{policy.ProtoRouting, append([]byte{0, 2, typ, left, 0, 0, 0, 0}, hop.AsSlice()...)}
}

func repeat(h extension, n int) []extension { return slices.Repeat([]extension{h}, n) }
