package cases

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"udrouter/policy"
)

// RouterAdvertisements are those of a guest, which no guest has to send, and solicitations. The router sends none of its own.
func RouterAdvertisements() (rows []Case) {
	guest := ndEnds[0]
	prefix := option(3, 4, append([]byte{64, 0xc0, 0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0, 0, 0}, ip("2001:db8:bad::").AsSlice()...)...)
	bodies := map[string][]byte{
		"lifetime 9000": routerAdvertisement(9000), "lifetime 0": routerAdvertisement(0), "a prefix": routerAdvertisement(9000, prefix),
		"a route": routerAdvertisement(0, option(24, 2, 0, 0, 0, 0, 0xff, 0xff)), "name servers": routerAdvertisement(0, option(25, 3, 0, 0, 0, 0, 2, 88)),
		"an MTU": routerAdvertisement(0, option(5, 1, 0, 0, 0, 0, 5, 0)), "its MAC": routerAdvertisement(9000, linkLayer(1, MAC1)), "the router's lifetime and another's MAC": routerAdvertisement(0, linkLayer(1, MAC2)),
		"everything": routerAdvertisement(9000, linkLayer(1, MAC1), prefix, option(5, 1), option(24, 3), option(25, 3), option(31, 3), option(38, 2)),
	}
	for name, body := range sorted(bodies) {
		for src, from := range sorted(map[string]netip.Addr{"its own address": oneLL, "fe80::1": LL1, "the other guest's address": policy.EUI64(MAC2)}) {
			for _, to := range []netip.Addr{AllNodes, ip("ff02::2"), policy.SolicitedNode(Two6), Two6, policy.EUI64(MAC2), LL1, Router6, X6} {
				rows = append(rows, drop(fmt.Sprintf("RA with %s from %s to %v", name, src, to), "case 51; RFC 6105 2; RFC 4861 6.2.4", One, policy.RAGuard, guest.send(134, 0, from, to, body)))
			}
		}
	}
	ra := guest.send(134, 0, oneLL, AllNodes, routerAdvertisement(9000))
	tagged := func(tags ...byte) Frame {
		return func(n Net) []byte { f := ra(n); return append(append(append([]byte{}, f[:12]...), tags...), f[12:]...) }
	}
	snap := func(oui ...byte) Frame {
		return func(n Net) []byte {
			f := ra(n)
			b := append(append([]byte{}, f[:12]...), byte((len(f)-6)>>8), byte(len(f)-6), 0xaa, 0xaa, 3)
			return append(append(b, oui...), f[12:]...)
		}
	}
	rows = append(rows,
		drop("RA with a priority tag", "case 52; RFC 7113 3", One, policy.VLAN, tagged(0x81, 0, 0, 0)),
		drop("RA with a tag", "case 52", One, policy.VLAN, tagged(0x81, 0, 0, 5)),
		drop("RA with two tags", "case 52", One, policy.VLAN, tagged(0x88, 0xa8, 0, 5, 0x81, 0, 0, 0)),
		drop("RA with a provider's tag", "case 52", One, policy.VLAN, tagged(0x91, 0, 0, 0)),
		drop("RA in SNAP", "case 52", One, policy.EtherType, snap(0, 0, 0)),
		drop("RA in SNAP of a bridge tunnel", "case 52", One, policy.EtherType, snap(0, 0, 0xf8)),
		drop("RA in SNAP with a priority tag", "case 52", One, policy.VLAN, func(n Net) []byte {
			f := snap(0, 0, 0)(n)
			return append(append(append([]byte{}, f[:12]...), 0x81, 0, 0, 0), f[12:]...)
		}),
		drop("RA in an IPv4 frame", "case 52", One, policy.Malformed, func(n Net) []byte { f := ra(n); f[12], f[13] = 8, 0; return f }),
		drop("RA in a broadcast frame", "case 51", One, policy.RAGuard, func(n Net) []byte { f := ra(n); copy(f, broadcast[:]); return f }),
		drop("RA in a frame to the router", "case 51", One, policy.RAGuard, func(n Net) []byte { f := ra(n); copy(f, n.Router[:]); return f }),
		Case{Name: "RA in a frame to the other guest", Ref: "case 51", From: One, Reason: policy.OtherHost, Bridge: true, Frame: func(n Net) []byte { f := ra(n); copy(f, MAC2[:]); return f }},
		drop("RA in two fragments, its type in the second", "case 52; RFC 7112 5; RFC 7113 3", One, policy.TinyFragment, func(n Net) []byte { return behind(ra(n)[:54], fragment6(0, true, 0x7113), options6(60, 64)) }),
		drop("RA in two fragments, its type behind 1232 bytes of options", "case 52; RFC 7112 5", One, policy.HeaderChain, func(n Net) []byte { return behind(ra(n)[:54], fragment6(0, true, 0x7114), options6(60, 1232)) }),
		drop("RA in two fragments, options cut in the middle", "case 52; RFC 7112 5", One, policy.TinyFragment, func(n Net) []byte {
			return behind(ra(n)[:54], fragment6(0, true, 0x7115), extension{60, []byte{0, 3, 1, 28, 0, 0, 0, 0}})
		}),
		drop("RA in two fragments, its own header cut", "case 52; RFC 7112 5", One, policy.Malformed, func(n Net) []byte { return behind(ra(n)[:58], fragment6(0, true, 0x7116)) }),
		drop("RA in a first fragment, with another to overlap it", "case 52; RFC 5722 4", One, policy.NDFragment, func(n Net) []byte { return behind(ra(n), fragment6(0, true, 0x7117)) }).
			then(func(n Net) []byte { return behind(ra(n), fragment6(0, false, 0x7117)) }).times(2),
		drop("RA with two Fragment headers", "case 52; RFC 7112", One, policy.Malformed, func(n Net) []byte { return behind(ra(n), fragment6(0, true, 0x7118), fragment6(0, true, 0x7119)) }),
		silent("RA of the provider's router", "case 51", Uplink, ndEnds[1].send(134, 0, gatewayLL, AllNodes, routerAdvertisement(0))),
		silent("RA from the uplink to a guest", "case 51; RFC 4861 6.1.2", Uplink, ndEnds[1].send(134, 0, gatewayLL, Two6, routerAdvertisement(9000))))

	routers := ip("ff02::2")
	rows = append(rows,
		silent("RS", "case 54; RFC 4861 6.3.7", One, guest.send(133, 0, oneLL, routers, append(make([]byte, 4), linkLayer(1, MAC1)...))),
		silent("RS from nowhere", "case 54; RFC 4861 6.1.1", One, guest.send(133, 0, none6, routers, make([]byte, 4))),
		silent("RS to the router alone", "case 54; RFC 4861 6.2.6", One, guest.send(133, 0, oneLL, LL1, make([]byte, 4))),
		silent("RS from the uplink", "case 54", Uplink, ndEnds[1].send(133, 0, gatewayLL, routers, make([]byte, 4))),
		drop("RS with another's MAC", "case 54", One, policy.NDSpoof, guest.send(133, 0, oneLL, routers, append(make([]byte, 4), linkLayer(1, MAC2)...))),
		drop("RS from another guest's address", "case 54", One, policy.IP6Binding, guest.send(133, 0, policy.EUI64(MAC2), routers, make([]byte, 4))))
	return rows
}

// Redirects are ICMP's and ICMPv6's, from whomever to whomever: a router takes none, and passes none on.
func Redirects() (rows []Case) {
	redirect4 := func(code uint8, from, to netip.Addr) func(d, s policy.MAC) []byte {
		return func(d, s policy.MAC) []byte {
			quote := UDP(d, s, to, X4, 8)[policy.EthernetLen:]
			return serialize(eth(d, s, layers.EthernetTypeIPv4), ip4(from, to, layers.IPProtocolICMPv4),
				&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(5, code), Id: 0xc000, Seq: 0x020b}, raw(quote)) // go by way of 192.0.2.11
		}
	}
	for code := range uint8(4) {
		for _, to := range []netip.Addr{Two4, Router4, X4, Gateway4, Dom04} {
			rows = append(rows, drop(fmt.Sprintf("ICMP redirect %d to %v", code, to), "case 55; RFC 1812 5.2.7.2; RFC 6274 4.1", One, policy.Redirect, fromOne(redirect4(code, One4, to))))
		}
		for _, from := range []netip.Addr{Gateway4, X4} {
			for _, to := range []netip.Addr{One4, Two4, Router4} {
				rows = append(rows, drop(fmt.Sprintf("ICMP redirect %d from %v to %v", code, from, to), "case 55; RFC 1812 5.2.7.2", Uplink, policy.Redirect, fromGateway(redirect4(code, from, to))))
			}
		}
	}
	rows = append(rows,
		drop("ICMP redirect from the provider's gateway, by a guest", "case 55", One, policy.MartianSrc, fromOne(redirect4(1, Gateway4, Two4))),
		drop("ICMP redirect in fragments", "case 55", One, policy.Redirect, func(n Net) []byte {
			h := edited(ip4(One4, Two4, layers.IPProtocolICMPv4), fragment(0, true), identified(0x5500))
			return serialize(eth(n.Router, MAC1, layers.EthernetTypeIPv4), h, raw([]byte{5, 1, 0, 0, 192, 0, 2, 11}))
		}))
	for i, e := range ndEnds {
		body := append(targeted(e.ll), X6.AsSlice()...)
		onLink := append(targeted(X6), X6.AsSlice()...)
		tos := [][]netip.Addr{{AllNodes, Two6, LL1, Router6, X6, policy.EUI64(MAC2)}, {AllNodes, One6, Two6}}[i]
		for _, to := range tos {
			rows = append(rows,
				drop(fmt.Sprintf("redirect to %v from %s", to, e.from), "case 55; RFC 4861 8.1; RFC 4890 4.3.3", e.from, policy.Redirect, e.send(137, 0, e.ll, to, body)),
				drop(fmt.Sprintf("redirect with all options to %v from %s", to, e.from), "case 55; RFC 4861 4.5", e.from, policy.Redirect,
					func(n Net) []byte {
						return e.send(137, 0, e.ll, to, append(append(onLink, linkLayer(2, e.mac(n))...), option(4, 8)...))(n)
					}),
				drop(fmt.Sprintf("redirect as of fe80::1 to %v from %s", to, e.from), "case 55", e.from, policy.Redirect, e.send(137, 0, LL1, to, body)))
		}
	}
	return rows
}

// dhcp4 is a BOOTP message (RFC 951) with DHCP's options (RFC 2131 2).
func dhcp4(op uint8, relay netip.Addr, chaddr policy.MAC, options ...byte) []byte {
	b := make([]byte, 240)
	b[0], b[1], b[2] = op, 1, 6
	copy(b[24:], relay.AsSlice())
	copy(b[28:], chaddr[:])
	binary.BigEndian.PutUint32(b[236:], 0x63825363)
	return append(append(b, options...), 255)
}

// DHCP are servers, relays and clients among the guests, and servers on the internet.
func DHCP() (rows []Case) {
	limited, none := ip("255.255.255.255"), ip("0.0.0.0")
	send := func(from netip.Addr, sport uint16, to netip.Addr, dport uint16, payload []byte, edit ...func(gopacket.SerializableLayer)) Frame {
		return func(n Net) []byte {
			dst := n.Router
			switch {
			case to == limited:
				dst = broadcast
			case to.IsMulticast():
				dst = policy.MulticastMAC(to)
			}
			return Datagram(dst, MAC1, netip.AddrPortFrom(from, sport), netip.AddrPortFrom(to, dport), payload, edit...)
		}
	}
	guard := func(name, ref string, f Frame) {
		rows = append(rows, drop("DHCP: "+name, "case 56; "+ref, One, policy.DHCPGuard, f))
	}
	say := func(kind uint8) []byte { return []byte{53, 1, kind, 54, 4, 192, 0, 2, 10} }
	for name, kind := range sorted(map[string]uint8{"OFFER": 2, "ACK": 5, "NAK": 6, "FORCERENEW": 9, "LEASEQUERY's answer": 13}) {
		for _, to := range []netip.Addr{limited, Two4, X4, Router4, ip("192.0.2.255")} {
			for _, sport := range []uint16{67, 68, 40000} {
				guard(fmt.Sprintf("%s to %v from port %d", name, to, sport), "RFC 2131 4.1", send(One4, sport, to, 68, dhcp4(2, none, MAC2, say(kind)...)))
			}
			guard(fmt.Sprintf("%s to %v as to a relay", name, to), "RFC 2131 4.1", send(One4, 67, to, 67, dhcp4(2, to, MAC2, say(kind)...)))
		}
	}
	option := func(l gopacket.SerializableLayer) {
		h := l.(*layers.IPv4)
		h.Options = []layers.IPv4Option{{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}}
	}
	guard("OFFER from a forged address", "RFC 2131 4.1", send(Router4, 67, limited, 68, dhcp4(2, none, MAC2, say(2)...)))
	guard("OFFER with an IP option", "RFC 2131 4.1", send(One4, 67, limited, 68, dhcp4(2, none, MAC2, say(2)...), option))
	guard("OFFER without a body", "RFC 951", send(One4, 67, Two4, 68, nil))
	guard("OFFER in a first fragment", "RFC 2131 4.1", func(n Net) []byte {
		h := edited(ip4(One4, Two4, layers.IPProtocolUDP), fragment(0, true), identified(0x5601))
		return serialize(eth(n.Router, MAC1, layers.EthernetTypeIPv4), h, raw([]byte{0, 67, 0, 68, 1, 4, 0, 0, 2, 1, 6, 0, 0, 0, 0, 0}))
	})
	guard("OFFER in a first fragment without its operation", "RFC 2131 4.1", func(n Net) []byte {
		h := edited(ip4(One4, Two4, layers.IPProtocolUDP), fragment(0, true), identified(0x5602))
		return serialize(eth(n.Router, MAC1, layers.EthernetTypeIPv4), h, raw([]byte{0x9c, 0x40, 0, 68, 1, 4, 0, 0}))
	})

	discover := []byte{53, 1, 1}
	for _, from := range []netip.Addr{none, One4, Two4} {
		for _, to := range []netip.Addr{limited, ip("192.0.2.255")} {
			guard(fmt.Sprintf("DISCOVER from %v to %v", from, to), "RFC 2131 4.1", send(from, 68, to, 67, dhcp4(1, none, MAC1, discover...)))
		}
	}
	guard("DISCOVER from nowhere to one server", "RFC 2131 4.1", send(none, 68, X4, 67, dhcp4(1, none, MAC1, discover...)))
	renew := []byte{53, 1, 3}
	relayed := append(append([]byte{}, renew...), 82, 6, 1, 4, 'v', 'i', 'f', '2')
	for name, body := range sorted(map[string][]byte{
		"with another's MAC": dhcp4(1, none, MAC2, renew...), "through a relay": dhcp4(1, One4, MAC1, renew...), "with a relay's option": dhcp4(1, none, MAC1, relayed...),
		"with a relay's option behind padding": dhcp4(1, none, MAC1, append([]byte{0, 0, 0}, relayed...)...),
		"with hops":                            func() []byte { b := dhcp4(1, none, MAC1, renew...); b[3] = 1; return b }(),
		"with another hardware":                func() []byte { b := dhcp4(1, none, MAC1, renew...); b[1], b[2] = 6, 8; return b }(),
		"with a relay's option in another field": func() []byte {
			b := dhcp4(1, none, MAC1, append(renew, 52, 1, 1)...)
			copy(b[108:], []byte{82, 2, 1, 0})
			return b
		}(),
	}) {
		for _, sport := range []uint16{67, 68, 40000} {
			guard(fmt.Sprintf("a request %s from port %d to one server", name, sport), "RFC 2131 4.1; RFC 3046 2.1", send(One4, sport, X4, 67, body))
		}
	}
	guard("a request in a first fragment to one server", "RFC 3046 2.1", func(n Net) []byte {
		h := edited(ip4(One4, X4, layers.IPProtocolUDP), fragment(0, true), identified(0x5603))
		return serialize(eth(n.Router, MAC1, layers.EthernetTypeIPv4), h, raw([]byte{0, 68, 0, 67, 1, 4, 0, 0, 1, 1, 6, 0, 0, 0, 0, 0}))
	})
	rows = append(rows,
		pass("DHCP: a client renews with its server", "case 56; RFC 2131 4.4.5", One, send(One4, 68, X4, 67, dhcp4(1, none, MAC1, renew...)), Uplink),
		pass("DHCP: what is too short for it, on a server's port", "case 56; RFC 951 3", One, send(One4, 40001, X4, 67, []byte{1, 0, 0, 0}), Uplink),
		pass("DHCP: what is neither, on a client's port", "case 56", One, send(One4, 40001, X4, 68, []byte{1, 2, 3, 4}), Uplink),
		pass("DHCP: from a port of DHCP to another", "case 56", One, send(One4, 67, X4, 5000, []byte{2, 1, 6, 0}), Uplink))

	for name, kind := range sorted(map[string]uint8{"ADVERTISE": 2, "REPLY": 7, "RECONFIGURE": 10}) {
		for _, to := range []netip.Addr{Two6, policy.EUI64(MAC2), X6, AllNodes, LL1} {
			for _, sport := range []uint16{547, 546, 40000} {
				guard(fmt.Sprintf("%s to %v from port %d", name, to, sport), "RFC 7610 4; RFC 8415 7.2", send(oneLL, sport, to, 546, []byte{kind, 0, 0, 1}))
			}
		}
		guard(name+" to a server's port", "RFC 8415 7.2", send(One6, 547, X6, 547, []byte{kind, 0, 0, 1}))
	}
	for name, kind := range sorted(map[string]uint8{"RELAY-FORW": 12, "RELAY-REPL": 13}) {
		guard(name, "RFC 8415 19", send(One6, 547, X6, 547, append([]byte{kind, 0}, make([]byte, 32)...)))
	}
	for _, to := range []netip.Addr{ip("ff02::1:2"), ip("ff05::1:3")} {
		guard(fmt.Sprintf("SOLICIT to %v", to), "RFC 8415 7.1", send(oneLL, 546, to, 547, []byte{1, 0, 0, 1}))
	}
	guard("a message without a type to a server", "RFC 8415 8", send(One6, 546, X6, 547, nil))
	rows = append(rows, pass("DHCP: a client renews with its IPv6 server", "case 56; RFC 8415 18.2.4", One, send(One6, 546, X6, 547, []byte{5, 0, 0, 1}), Uplink))
	for chain, headers := range sorted(chains) {
		guard("REPLY behind "+chain, "RFC 7610 4", func(n Net) []byte {
			return behind(send(oneLL, 547, Two6, 546, []byte{7, 0, 0, 1})(n), headers...)
		})
	}
	guard("REPLY in an atomic fragment", "RFC 7610 4", func(n Net) []byte {
		return behind(send(oneLL, 547, Two6, 546, []byte{7, 0, 0, 1})(n), fragment6(0, false, 0x7610))
	})
	guard("REPLY in a first fragment", "RFC 7610 4", func(n Net) []byte {
		return behind(send(oneLL, 547, Two6, 546, make([]byte, 8))(n), fragment6(0, true, 0x7611))
	})
	for _, to := range []netip.Addr{One4, Two4} {
		rows = append(rows, drop(fmt.Sprintf("DHCP: OFFER from the internet to %v", to), "case 56; RFC 2131 4.1", Uplink, policy.DHCPGuard,
			func(n Net) []byte {
				return Datagram(n.Eth0, n.Gateway, netip.AddrPortFrom(X4, 67), netip.AddrPortFrom(to, 68), dhcp4(2, none, MAC1, say(2)...))
			}))
	}
	return append(rows, drop("DHCP: REPLY from the internet", "case 56; RFC 7610 4", Uplink, policy.DHCPGuard,
		func(n Net) []byte {
			return Datagram(n.Eth0, n.Gateway, netip.AddrPortFrom(X6, 547), netip.AddrPortFrom(One6, 546), []byte{7, 0, 0, 1})
		}))
}
