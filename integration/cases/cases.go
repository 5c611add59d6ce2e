package cases

import (
	"net/netip"
	"slices"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"udrouter/policy"
)

var (
	broadcast = policy.BroadcastMAC
	zero      = policy.MAC{}
)

// pass is a row of a frame that is forwarded unchanged but for what a hop changes.
func pass(name, ref string, from Place, f Frame, to Place) Case {
	return Case{Name: name, Ref: ref, From: from, Frame: f, Out: []Out{arrives(to, f)}}
}

// arrives is a frame behind the router.
func arrives(to Place, f Frame) Out {
	return Out{to, func(n Net) []byte {
		router, own := n.macs(to)
		return Forwarded(f(n), own, router)
	}}
}

// drop is a row of a frame of which nothing is seen, but a reason counted.
func drop(name, ref string, from Place, reason policy.Reason, f Frame) Case {
	return Case{Name: name, Ref: ref, From: from, Frame: f, Reason: reason}
}

// kernels is a row of a frame that dom0's kernel answers, once, and the router does not.
func kernels(name, ref string, from Place, f Frame) Case {
	return Case{Name: name, Ref: ref, From: from, Frame: f, Kernel: true}
}

// silent is a row of a frame that is none of the router's business.
func silent(name, ref string, from Place, f Frame) Case { return drop(name, ref, from, policy.None, f) }

// answer is a row of a frame to which exactly one is sent back.
func answer(name, ref string, from Place, f, out Frame) Case {
	return Case{Name: name, Ref: ref, From: from, Frame: f, Out: []Out{{from, out}}}
}

// All is every row.
func All() []Case {
	return slices.Concat(Forward(), Guards(), neighbours(), Errors(), Local(),
		State(), // before what leaves flows of every protocol behind
		Ethernet(), Lengths(), Checksums(), IPv4(), Hairpin(), Protocols(), IPv6(), LinkLocals(),
		Fragments(), Headers(), IPv4Options(), PathMTU(), Silence(), HopLimits(), ICMPTypes(), Groups(), Services())
}

// neighbours are rows of what neighbours on a link say, and of what only pretends to be that. One of each sort is also under the reference's
// own policy, which is not asked.
func neighbours() []Case {
	rows := slices.Concat(GuestARP(), UplinkARP(), RoutedARP(), NDValidation(), GuestND(), UplinkND(), NDBehindHeaders(), NDInFragments(), RouterAdvertisements(), Redirects(), DHCP())
	type sort struct {
		from     Place
		reason   policy.Reason
		answered bool
	}
	seen := map[sort]bool{}
	for _, c := range rows {
		if s := (sort{c.From, c.Reason, len(c.Out) > 0}); !seen[s] {
			seen[s] = true
			c.Name += ", under rules"
			rows = append(rows, c.enforced())
		}
	}
	return rows
}

// Canary are packets that pass whatever was sent before. Under the reference's policy the internet may ping, and guests open anything.
func Canary() []Case {
	echo := func(d, s policy.MAC, from, to netip.Addr) []byte { return Echo(d, s, from, to, false, 8, TTL(33)) }
	udp := func(d, s policy.MAC, from, to netip.Addr) []byte { return UDP(d, s, from, to, 8, TTL(33)) }
	var rows []Case
	for _, g := range []struct {
		place  Place
		mac    policy.MAC
		v4, v6 netip.Addr
	}{{Two, MAC2, Two4, Two6}, {One, MAC1, One4, One6}} {
		rows = append(rows,
			pass(string(g.place)+" to the internet, IPv4", "", g.place, func(n Net) []byte { return udp(n.Router, g.mac, g.v4, X4) }, Uplink),
			pass(string(g.place)+" to the internet, IPv6", "", g.place, func(n Net) []byte { return udp(n.Router, g.mac, g.v6, X6) }, Uplink),
			pass("the internet to "+string(g.place)+", IPv4", "", Uplink, func(n Net) []byte { return echo(n.Eth0, n.Gateway, X4, g.v4) }, g.place),
			pass("the internet to "+string(g.place)+", IPv6", "", Uplink, func(n Net) []byte { return echo(n.Eth0, n.Gateway, X6, g.v6) }, g.place))
	}
	return rows
}

// fromOne and so on are frames of a kind in the right Ethernet frame for where they are sent.
func fromOne(m maker) Frame     { return framed(One, m) }
func fromTwo(m maker) Frame     { return framed(Two, m) }
func fromGateway(m maker) Frame { return framed(Uplink, m) }

// Forward are packets that go through.
func Forward() []Case {
	udp4 := func(d, s policy.MAC) []byte { return UDP(d, s, One4, X4, 100) }
	corrupt := func(at int) Frame {
		return fromOne(func(d, s policy.MAC) []byte { f := udp4(d, s); f[at] ^= 0xff; return f })
	}
	return []Case{
		pass("guest to internet, IPv4", "RFC 1812 5.2", One, fromOne(udp4), Uplink),
		pass("guest to internet, IPv6", "RFC 8200 3", One, fromOne(func(d, s policy.MAC) []byte { return UDP(d, s, One6, X6, 100) }), Uplink),
		pass("internet to guest, IPv4", "RFC 1812 5.2", Uplink, fromGateway(func(d, s policy.MAC) []byte { return Echo(d, s, X4, One4, false, 56) }), One),
		pass("internet to guest, IPv6", "RFC 8200 3", Uplink, fromGateway(func(d, s policy.MAC) []byte { return Echo(d, s, X6, Two6, false, 56) }), Two),
		pass("guest to guest, IPv4", "case 24", One, fromOne(func(d, s policy.MAC) []byte { return UDP(d, s, One4, Two4, 8) }), Two),
		pass("guest to guest, IPv6", "case 24", Two, fromTwo(func(d, s policy.MAC) []byte { return UDP(d, s, Two6, One6, 8) }), One),
		pass("to the provider's gateway in the prefix", "design", One, fromOne(func(d, s policy.MAC) []byte { return Echo(d, s, One6, Gateway6, false, 8) }), Uplink),
		pass("to the provider's IPv4 gateway", "design", One, fromOne(func(d, s policy.MAC) []byte { return Echo(d, s, One4, Gateway4, false, 8) }), Uplink),
		pass("wrong UDP checksum stays wrong", "facts N3, F5; case 14", One, corrupt(40), Uplink),
		pass("UDP checksum 0 stays 0", "facts F5; case 14", One, fromOne(func(d, s policy.MAC) []byte {
			f := udp4(d, s)
			f[40], f[41] = 0, 0
			return f
		}), Uplink),
		pass("padding is cut off", "contract", One, fromOne(func(d, s policy.MAC) []byte {
			return append(UDP(d, s, One4, X4, 100), 0xde, 0xad, 0xbe, 0xef)
		}), Uplink),
		pass("first fragment", "facts N3", One, fromOne(func(d, s policy.MAC) []byte { return UDP(d, s, One4, X4, 16, fragment(0, true)) }), Uplink),
		pass("later fragment as it came", "facts N3", One, fromOne(func(d, s policy.MAC) []byte {
			return serialize(eth(d, s, layers.EthernetTypeIPv4), edited(ip4(One4, X4, layers.IPProtocolUDP), fragment(3, false), identified(2)), pay(13))
		}), Uplink).after(One, fromOne(func(d, s policy.MAC) []byte { return UDP(d, s, One4, X4, 16, fragment(0, true), identified(2)) })),
		pass("IPv6 fragment as it came", "RFC 8200 4.5", One, fromOne(func(d, s policy.MAC) []byte {
			return serialize(eth(d, s, layers.EthernetTypeIPv6), ip6(One6, X6, layers.IPProtocolIPv6Fragment), raw([]byte{17, 0, 0, 17, 0, 0, 0, 9}), pay(24))
		}), Uplink).after(One, fromOne(func(d, s policy.MAC) []byte {
			return serialize(eth(d, s, layers.EthernetTypeIPv6), ip6(One6, X6, layers.IPProtocolIPv6Fragment), raw([]byte{17, 0, 0, 1, 0, 0, 0, 9}), raw([]byte{0x9c, 0x40, 0x13, 0x88, 0, 80, 1, 1}), pay(8))
		})),
		drop("later fragment without its first", "case 61", One, policy.FragmentOrphan, fromOne(func(d, s policy.MAC) []byte {
			return serialize(eth(d, s, layers.EthernetTypeIPv4), edited(ip4(One4, X4, layers.IPProtocolUDP), fragment(3, false), identified(77)), pay(13))
		})),
		pass("an IP protocol that nobody knows", "facts F12; case 25", One, fromOne(func(d, s policy.MAC) []byte {
			return serialize(eth(d, s, layers.EthernetTypeIPv4), ip4(One4, X4, 253), pay(20))
		}), Uplink),
		pass("SCTP", "facts F12", Uplink, fromGateway(func(d, s policy.MAC) []byte {
			return serialize(eth(d, s, layers.EthernetTypeIPv6), ip6(X6, One6, layers.IPProtocolSCTP), pay(20))
		}), One),
		pass("ICMP error whose inner packet has options", "facts F12", Uplink, fromGateway(func(d, s policy.MAC) []byte {
			inner := ip4(One4, X4, layers.IPProtocolUDP)
			inner.Options = []layers.IPv4Option{{OptionType: 7, OptionLength: 7, OptionData: []byte{4, 1, 2, 3, 4}}, {OptionType: 0}}
			body := serialize(inner, raw([]byte{0x9c, 0x40, 0x13, 0x88, 0, 8, 0, 0}))
			return serialize(eth(d, s, layers.EthernetTypeIPv4), ip4(X4, One4, layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 1)}, raw(body))
		}), One).after(One, fromOne(udp4)),
		pass("destination options", "case 65", One, fromOne(func(d, s policy.MAC) []byte {
			return serialize(eth(d, s, layers.EthernetTypeIPv6), ip6(One6, X6, layers.IPProtocolIPv6Destination), raw([]byte{59, 0, 1, 4, 0, 0, 0, 0}))
		}), Uplink),
		pass("no next header with 1300 bytes", "facts N1", One, fromOne(func(d, s policy.MAC) []byte {
			return serialize(eth(d, s, layers.EthernetTypeIPv6), ip6(One6, X6, layers.IPProtocolNoNextHeader), pay(1300))
		}), Uplink),
		pass("TTL 2 leaves with TTL 1", "facts N5, F4", One, fromOne(func(d, s policy.MAC) []byte { return UDP(d, s, One4, X4, 8, TTL(2)) }), Uplink),
		pass("hop limit 2 leaves with 1", "RFC 8200 3", One, fromOne(func(d, s policy.MAC) []byte { return UDP(d, s, One6, X6, 8, TTL(2)) }), Uplink),
		pass("1500 bytes", "", One, fromOne(func(d, s policy.MAC) []byte { return UDP(d, s, One4, X4, 1472, DF) }), Uplink),
		pass("traffic class and flow label stay", "RFC 8200 6", One, fromOne(func(d, s policy.MAC) []byte {
			return UDP(d, s, One6, X6, 8, func(l gopacket.SerializableLayer) {
				h := l.(*layers.IPv6)
				h.TrafficClass, h.FlowLabel = 0x2e, 0x12345
			})
		}), Uplink),
		pass("TOS stays", "RFC 1812 5.3.13", One, fromOne(func(d, s policy.MAC) []byte {
			return UDP(d, s, One4, X4, 8, tos(0xb9))
		}), Uplink),
	}
}

func edited(h *layers.IPv4, edit ...func(gopacket.SerializableLayer)) *layers.IPv4 {
	for _, e := range edit {
		e(h)
	}
	return h
}

// fragment makes an IPv4 datagram a fragment; off is in units of 8 bytes.
func fragment(off uint16, more bool) func(gopacket.SerializableLayer) {
	return func(l gopacket.SerializableLayer) {
		h := l.(*layers.IPv4)
		h.FragOffset = off
		if more {
			h.Flags |= layers.IPv4MoreFragments
		}
	}
}

// identified gives an IPv4 datagram another identification.
func identified(id uint16) func(gopacket.SerializableLayer) {
	return func(l gopacket.SerializableLayer) { l.(*layers.IPv4).Id = id }
}

func raw(b []byte) gopacket.Payload { return b }
