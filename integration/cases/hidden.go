package cases

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/gopacket/gopacket/layers"

	"udrouter/policy"
)

// routerAdvertisement is what another router would say, for a prefix of its own.
func routerAdvertisement(lifetime uint16, options ...[]byte) []byte {
	b := []byte{64, 0x08, byte(lifetime >> 8), byte(lifetime), 0, 0, 0, 0, 0, 0, 0, 0}
	return slices.Concat(b, slices.Concat(options...))
}

// chains are headers behind which a receiver finds an ICMPv6 message all the same.
var chains = map[string][]extension{
	"hop-by-hop":                       {options6(0, 8)},
	"64 bytes of hop-by-hop":           {options6(0, 64)},
	"destination options":              {options6(60, 8)},
	"destination options twice":        repeat(options6(60, 8), 2),
	"10 headers":                       repeat(options6(60, 8), 10),
	"512 bytes of destination options": {options6(60, 512)},
	"all that may come together":       {options6(0, 8), options6(60, 8), routing6(2, 0, X6), options6(60, 8)},
	"routing header 2 at its end":      {routing6(2, 0, X6)},
	"routing header 4 at its end":      {routing6(4, 0, X6)},
	"an unknown routing header":        {routing6(200, 0, X6)},
	"AH":                               {{51, append([]byte{0, 4, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1}, make([]byte, 12)...)}},
	"a mobility header":                {{135, make([]byte, 8)}},
	"a HIP header":                     {{139, make([]byte, 8)}},
	"a Shim6 header":                   {{140, make([]byte, 8)}},
}

// NDBehindHeaders are ND messages that do not stand right behind the IPv6 header: the guards are the same (RFC 7113 3).
func NDBehindHeaders() (rows []Case) {
	for _, e := range ndEnds {
		at := " from " + string(e.from)
		// The uplink's socket has no eye for groups behind headers, and dom0's kernel needs none; so there it is a guest's address.
		to := func(group netip.Addr) netip.Addr {
			if e.from == Uplink {
				return One6
			}
			return group
		}
		ns := e.send(135, 0, e.ll, to(policy.SolicitedNode(e.asks)), targeted(e.asks))
		for chain, h := range sorted(chains) {
			row := func(name string, reason policy.Reason, f Frame) {
				rows = append(rows, drop(name+" behind "+chain+at, "case 48; RFC 7113 3; RFC 8200 4.1", e.from, reason, func(n Net) []byte { return behind(f(n), h...) }))
			}
			rows = append(rows, e.answered("NS behind "+chain+at, "case 48", func(n Net) []byte { return behind(ns(n), h...) }))
			row("NS with hop limit 64", policy.NDHopLimit, e.send(135, 0, e.ll, to(policy.SolicitedNode(e.asks)), targeted(e.asks), func(h *layers.IPv6) { h.HopLimit = 64 }))
			row("NS with the router's MAC", policy.NDSpoof, func(n Net) []byte {
				return e.send(135, 0, e.ll, to(policy.SolicitedNode(e.asks)), targeted(e.asks, linkLayer(1, n.Router)))(n)
			})
			row("NA for another guest", policy.NDSpoof, e.send(136, 0, e.ll, to(AllNodes), targeted(Two6)))
			row("redirect", policy.Redirect, e.send(137, 0, e.ll, to(AllNodes), append(targeted(e.ll), X6.AsSlice()...)))
			if e.from == One {
				rows = append(rows, drop("RA behind "+chain, "case 52; RFC 7113 3", One, policy.RAGuard, func(n Net) []byte {
					return behind(e.send(134, 0, e.ll, AllNodes, routerAdvertisement(9000))(n), h...)
				}))
			}
		}
		if e.from == Uplink {
			continue
		}
		for name, f := range sorted(map[string]Frame{"NS": ns, "RA": e.send(134, 0, e.ll, AllNodes, routerAdvertisement(9000)), "NA for another guest": e.send(136, 0, e.ll, AllNodes, targeted(Two6))}) {
			rows = append(rows, unreadable(name, f)...)
		}
	}
	return rows
}

// unreadable is a message of guest one's behind what no receiver, or not every one, can walk: none of it goes anywhere.
func unreadable(name string, f Frame) (rows []Case) {
	ref := "case 48; RFC 7113 3; RFC 7112 5"
	for _, c := range []struct {
		name   string
		chain  []extension
		reason policy.Reason
	}{
		{"11 headers", repeat(options6(60, 8), 11), policy.HeaderChain},
		{"64 destination options", repeat(options6(60, 8), 64), policy.HeaderChain},
		{"150 destination options", repeat(options6(60, 8), 150), policy.HeaderChain},
		{"520 bytes of options", []extension{options6(60, 520)}, policy.HeaderChain},
		{"1232 bytes of options", []extension{options6(60, 1232)}, policy.HeaderChain},
		{"hop-by-hop twice", repeat(options6(0, 8), 2), policy.Malformed},
		{"hop-by-hop behind options", []extension{options6(60, 8), options6(0, 8)}, policy.Malformed},
		{"routing header 0", []extension{routing6(0, 0, X6)}, policy.RoutingHeader},
		{"a routing header with a way to go", []extension{routing6(2, 1, X6)}, policy.NDMalformed},
		{"a segment routing header with a way to go", []extension{options6(60, 8), routing6(4, 1, X6)}, policy.NDMalformed},
		{"options that go on behind the end", []extension{{60, []byte{0, 200, 1, 4, 0, 0, 0, 0}}}, policy.HeaderChain},
		{"options that go on behind the end, shorter", []extension{{60, []byte{0, 20, 1, 4, 0, 0, 0, 0}}}, policy.Malformed},
	} {
		rows = append(rows, drop(name+" behind "+c.name, ref, One, c.reason, func(n Net) []byte { return behind(f(n), c.chain...) }))
	}
	if name != "RA" {
		return rows
	}
	// What cannot be looked into dies by where it goes: to groups, to link-local addresses, to the router.
	for _, proto := range []uint8{50, 59, 4, 41, 47, 108, 143, 253, 254, 255} {
		for _, to := range []struct {
			name   string
			addr   netip.Addr
			reason policy.Reason
		}{{"all nodes", AllNodes, policy.Multicast}, {"all routers", ip("ff02::2"), policy.Multicast}, {"the other guest's solicited node", policy.SolicitedNode(Two6), policy.Multicast},
			{"a link-local address", policy.EUI64(MAC2), policy.LinkLocal}, {"the router", LL1, policy.RouterLocal}} {
			rows = append(rows, drop(fmt.Sprintf("RA behind header %d to %s", proto, to.name), ref, One, to.reason, func(n Net) []byte {
				return behind(icmp6Typed(n.Router, MAC1, oneLL, to.addr, 134, 0, routerAdvertisement(9000)), extension{proto, make([]byte, 8)})
			}))
		}
	}
	return rows
}

// NDInFragments are ND messages with a Fragment header, whole or in pieces: never (RFC 6980 5).
func NDInFragments() (rows []Case) {
	id := uint32(0x6980_0000)
	for _, e := range ndEnds {
		at := " from " + string(e.from)
		kinds := messages(e.own, e.asks, policy.None, policy.None)
		if e.from == One {
			kinds = append(kinds, message{name: "certification path solicitation", typ: 148, to: ip("ff02::2"), body: make([]byte, 4)},
				message{name: "certification path advertisement", typ: 149, to: AllNodes, body: make([]byte, 8)})
		}
		for _, m := range kinds {
			tos := []netip.Addr{m.to, LL1, Two6}
			if e.from == Uplink {
				tos = []netip.Addr{One6}
			}
			for _, to := range tos {
				f := e.send(m.typ, 0, e.ll, to, append(slices.Clone(m.body), option(14, 1)...))
				row := func(name string, f Frame) {
					rows = append(rows, drop(fmt.Sprintf("%s to %v in %s%s", m.name, to, name, at), "case 47; RFC 6980 5", e.from, policy.NDFragment, f))
				}
				id++
				whole, first, options := id, id+1, id+2
				id += 2
				row("an atomic fragment", func(n Net) []byte { return behind(f(n), fragment6(0, false, whole)) })
				row("an atomic fragment behind options", func(n Net) []byte { return behind(f(n), options6(0, 8), fragment6(0, false, whole)) })
				row("an atomic fragment before options", func(n Net) []byte { return behind(f(n), fragment6(0, false, whole), options6(60, 8)) })
				row("a first fragment of 8 bytes", func(n Net) []byte { return behind(f(n)[:62], fragment6(0, true, first)) })
				row("a first fragment behind options", func(n Net) []byte { return behind(f(n)[:62], fragment6(0, true, options), options6(60, 8)) })
			}
		}
	}
	// The rest finds nobody who keeps it. Pieces to the router itself are netstack's to put together, and have no first one.
	ns := func(n Net) []byte { return NS(n.Router, MAC1, oneLL, LL1, LL1, MAC1) }
	rest := func(at int, more bool, id uint32, to netip.Addr, next uint8) Frame {
		return func(n Net) []byte {
			h := ip6(oneLL, to, layers.IPProtocol(next))
			h.HopLimit = 255
			dst := n.Router
			if to.IsMulticast() {
				dst = policy.MulticastMAC(to)
			}
			f := serialize(eth(dst, MAC1, layers.EthernetTypeIPv6), h, raw(ns(n)[54+at:]))
			return behind(f, fragment6(at, more, id))
		}
	}
	return append(rows,
		drop("NS to the router in pieces of 8 bytes", "case 47; RFC 6980 5", One, policy.NDFragment, func(n Net) []byte { return behind(ns(n)[:62], fragment6(0, true, 0x6981)) }).
			then(rest(8, false, 0x6981, LL1, 58)),
		drop("the second half of ND to all nodes", "case 47; RFC 6980 5", One, policy.Multicast, rest(8, false, 0x6982, AllNodes, 58)),
		drop("a second fragment to all nodes that begins with options", "case 52; RFC 7113 3", One, policy.Multicast, rest(8, false, 0x6983, AllNodes, 60)),
		drop("the second half of ND to another guest's link-local address", "case 47", One, policy.LinkLocal, rest(8, false, 0x6984, policy.EUI64(MAC2), 58)),
		drop("a second fragment to the router that begins with options", "case 52; RFC 7112 5", One, policy.RouterLocal, rest(8, false, 0x6985, LL1, 60)))
}
