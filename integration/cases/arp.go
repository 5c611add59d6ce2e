package cases

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"udrouter/policy"
)

// groupMACs are MACs that no station has.
var groupMACs = []policy.MAC{{1, 0, 0x5e, 0, 0, 1}, broadcast, zero}

// badARP are ARP packets of other kinds than RFC 826 on Ethernet for IPv4 has: it has operations 1 and 2, and lengths are those of the types.
func badARP(from Place, mac func(Net) policy.MAC, sender netip.Addr) []Case {
	edit := func(name string, e func(b []byte) []byte) Case {
		return drop("ARP with "+name+" from "+string(from), "case 33; RFC 826", from, policy.ARPMalformed, func(n Net) []byte {
			return e(ARP(broadcast, mac(n), 1, mac(n), sender, zero, Two4))
		})
	}
	field := func(name string, at int, v uint16) Case {
		return edit(fmt.Sprintf("%s %#x", name, v), func(b []byte) []byte {
			binary.BigEndian.PutUint16(b[policy.EthernetLen+at:], v)
			return b
		})
	}
	rows := []Case{
		field("hardware", 0, 0), field("hardware", 0, 6), field("hardware", 0, 24), field("protocol", 2, policy.EtherIPv6), field("protocol", 2, policy.EtherARP),
		field("lengths", 4, 0x0804), field("lengths", 4, 0x0610), field("lengths", 4, 0x0600), field("lengths", 4, 0x0004), field("lengths", 4, 0xffff),
		edit("27 bytes", func(b []byte) []byte { return b[:policy.EthernetLen+27] }),
	}
	for _, op := range []uint16{0, 3, 4, 8, 9, 10, 25, 0xffff} {
		rows = append(rows, field("operation", 6, op))
	}
	return rows
}

// GuestARP is ARP on the guests' side: the router answers for what a guest looks for on its link, and believes nobody about others.
func GuestARP() []Case {
	who := func(spa, tpa netip.Addr) Frame {
		return func(Net) []byte { return ARP(broadcast, MAC1, 1, MAC1, spa, zero, tpa) }
	}
	is := func(tpa, spa netip.Addr) Frame {
		return func(n Net) []byte { return ARP(MAC1, n.Router, 2, n.Router, tpa, MAC1, spa) }
	}
	none := ip("0.0.0.0")
	rows := []Case{
		answer("ARP for the gateway", "case 31", One, who(One4, Router4), is(Router4, One4)),
		answer("ARP for another guest", "case 31; RFC 1027 2.1", One, who(One4, Two4), is(Two4, One4)),
		answer("ARP of the other guest", "case 31", Two, func(Net) []byte { return ARP(broadcast, MAC2, 1, MAC2, Two4, zero, One4) },
			func(n Net) []byte { return ARP(MAC2, n.Router, 2, n.Router, One4, MAC2, Two4) }),
		answer("unicast ARP for the gateway", "case 31; RFC 1122 2.3.2.1", One, func(n Net) []byte { return ARP(n.Router, MAC1, 1, MAC1, One4, zero, Router4) }, is(Router4, One4)),
		answer("unicast ARP for another guest", "case 31", One, func(n Net) []byte { return ARP(n.Router, MAC1, 1, MAC1, One4, n.Router, Two4) }, is(Two4, One4)),
		answer("ARP with a target MAC that means nothing", "case 31; RFC 826", One, func(Net) []byte { return ARP(broadcast, MAC1, 1, MAC1, One4, MAC2, Router4) }, is(Router4, One4)),
		answer("ARP with padding", "case 31", One, func(n Net) []byte { return append(who(One4, Two4)(n), make([]byte, 18)...) }, is(Two4, One4)),
		{Name: "ARP to another station's MAC", Ref: "case 31", From: One, Reason: policy.OtherHost, Bridge: true,
			Frame: func(Net) []byte { return ARP(Nobody, MAC1, 1, MAC1, One4, zero, Router4) }},
		silent("a reply that nobody wanted", "case 33", One, func(n Net) []byte { return ARP(n.Router, MAC1, 2, MAC1, One4, n.Router, Router4) }),
		silent("a reply to another guest", "case 33", One, func(n Net) []byte { return ARP(n.Router, MAC1, 2, MAC1, One4, MAC2, Two4) }),

		silent("probe for its own address", "case 35; RFC 5227 2.1.1", One, who(none, One4)),
		answer("probe for another guest's address", "case 35; RFC 5227 2.1.1", One, who(none, Two4), is(Two4, none)),
		answer("probe for the gateway's address", "case 35; RFC 5227 2.1.1", One, who(none, Router4), is(Router4, none)),
		answer("unicast probe for another guest's address", "case 35", One, func(n Net) []byte { return ARP(n.Router, MAC1, 1, MAC1, none, zero, Two4) }, is(Two4, none)),
		silent("probe for an unbound address", "case 35", One, who(none, Unbound4)),
		silent("probe off the subnet", "case 35", One, who(none, X4)),
		silent("probe for nothing", "case 35", One, who(none, none)),
		drop("probe with another MAC", "case 35", One, policy.ARPSpoof, func(Net) []byte { return ARP(broadcast, MAC1, 1, MAC2, none, zero, Two4) }),
		drop("a reply without an address", "case 35; RFC 5227 1.1", One, policy.ARPSpoof, func(n Net) []byte { return ARP(n.Router, MAC1, 2, MAC1, none, n.Router, Router4) }),
		silent("probe for an address that another guest has probed", "case 35", Two, func(Net) []byte { return ARP(broadcast, MAC2, 1, MAC2, none, zero, Two4) }).
			after(Two, func(Net) []byte { return ARP(broadcast, MAC2, 1, MAC2, none, zero, Unbound4) }),

		silent("gratuitous request of the owner", "case 34; RFC 5227 2.3", One, who(One4, One4)),
		silent("gratuitous reply of the owner", "case 34; RFC 5227 3", One, func(Net) []byte { return ARP(broadcast, MAC1, 2, MAC1, One4, broadcast, One4) }),
		drop("frame of the other guest with its own ARP inside", "case 33", One, policy.ARPSpoof, func(Net) []byte { return ARP(broadcast, MAC2, 1, MAC1, One4, zero, Router4) }),
	}
	for _, s := range []string{"192.0.2.200", "192.0.2.0", "192.0.2.255", "203.0.113.9", "192.0.1.1", "192.0.1.3", "0.0.0.0", "127.0.0.1", "169.254.1.1", "224.0.0.1", "255.255.255.255"} {
		rows = append(rows, silent("ARP for "+s, "case 31; facts N9, F8; RFC 1027 2.4", One, who(One4, ip(s))))
	}
	for _, s := range []string{"192.0.2.11", "192.0.2.1", "192.0.2.200", "192.0.2.0", "192.0.2.255", "192.0.1.1", "192.0.1.3", "8.8.8.8", "255.255.255.255", "127.0.0.1", "169.254.1.1", "224.0.0.1"} {
		for op, name := range sorted(map[uint16]string{1: "request", 2: "reply"}) {
			for _, to := range []struct {
				name, ref string
				tpa       netip.Addr
			}{{"ARP " + name + " from " + s, "case 33", Two4}, {"ARP " + name + " from " + s + " to the router", "case 33", Router4},
				{"gratuitous ARP " + name + " for " + s, "case 34; RFC 5227 2.4", ip(s)}} {
				rows = append(rows, drop(to.name, to.ref, One, policy.ARPSpoof, func(Net) []byte { return ARP(broadcast, MAC1, op, MAC1, ip(s), broadcast, to.tpa) }))
			}
		}
	}
	for i, mac := range append([]policy.MAC{MAC2, Nobody}, groupMACs...) {
		for _, op := range []uint16{1, 2} {
			rows = append(rows, drop(fmt.Sprintf("ARP %d with sender MAC %d", op, i), "case 33", One, policy.ARPSpoof,
				func(Net) []byte { return ARP(broadcast, MAC1, op, mac, One4, zero, Router4) }))
		}
	}
	rows = append(rows, drop("ARP with the router's MAC as sender", "case 33", One, policy.ARPSpoof, func(n Net) []byte { return ARP(broadcast, MAC1, 2, n.Router, One4, MAC2, Two4) }))
	return append(rows, badARP(One, func(Net) policy.MAC { return MAC1 }, One4)...)
}

// UplinkARP is ARP on the uplink, whatever the way of the guests' IPv4 network is.
func UplinkARP() []Case {
	who := func(spa, tpa netip.Addr) Frame {
		return func(n Net) []byte { return ARP(broadcast, n.Gateway, 1, n.Gateway, spa, zero, tpa) }
	}
	neighbour := ip("192.0.1.9")
	rows := []Case{
		kernels("ARP for dom0", "case 32", Uplink, who(Gateway4, Dom04)),
		silent("ARP for the provider's gateway", "case 32", Uplink, who(neighbour, Gateway4)),
		silent("ARP for another station of the provider's", "case 32", Uplink, who(Gateway4, ip("192.0.1.5"))),
		silent("ARP for what is elsewhere", "case 32", Uplink, who(Gateway4, X4)),
		silent("ARP of a station for itself", "case 32", Uplink, who(neighbour, neighbour)),
		silent("ARP to another station", "case 32; facts N6", Uplink, func(n Net) []byte { return ARP(Nobody, n.Gateway, 1, n.Gateway, Gateway4, zero, One4) }),
		silent("a reply to a guest's address", "case 32", Uplink, func(n Net) []byte { return ARP(n.Eth0, n.Gateway, 2, n.Gateway, neighbour, n.Eth0, One4) }),
		drop("a reply without an address from the uplink", "case 32; RFC 5227 1.1", Uplink, policy.ARPSpoof,
			func(n Net) []byte { return ARP(n.Eth0, n.Gateway, 2, n.Gateway, ip("0.0.0.0"), n.Eth0, One4) }),
	}
	for _, s := range []string{"192.0.2.10", "192.0.2.11", "192.0.2.1", "192.0.2.200", "192.0.2.255", "192.0.1.3"} {
		rows = append(rows,
			drop("ARP from "+s+" on the uplink", "case 32", Uplink, policy.ARPSpoof, who(ip(s), Two4)),
			drop("gratuitous ARP for "+s+" on the uplink", "case 34; RFC 5227 2.4", Uplink, policy.ARPSpoof, who(ip(s), ip(s))),
			drop("gratuitous reply for "+s+" on the uplink", "case 34", Uplink, policy.ARPSpoof, func(n Net) []byte { return ARP(broadcast, n.Gateway, 2, n.Gateway, ip(s), broadcast, ip(s)) }))
	}
	for _, s := range []string{"127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "0.1.2.3", "192.0.1.63", "192.0.1.0"} {
		rows = append(rows, drop("ARP from "+s+" on the uplink", "case 32; RFC 1812 5.3.7", Uplink, policy.ARPSpoof, who(ip(s), One4)))
	}
	for i, mac := range groupMACs {
		rows = append(rows, drop(fmt.Sprintf("ARP on the uplink with sender MAC %d", i), "case 32", Uplink, policy.ARPSpoof,
			func(n Net) []byte { return ARP(broadcast, n.Gateway, 2, mac, neighbour, zero, One4) }))
	}
	rows = append(rows,
		drop("ARP on the uplink with the uplink's MAC as sender", "case 32", Uplink, policy.ARPSpoof, func(n Net) []byte { return ARP(broadcast, n.Gateway, 2, n.Eth0, neighbour, zero, One4) }),
		drop("ARP on the uplink with the router's MAC as sender", "case 32", Uplink, policy.ARPSpoof, func(n Net) []byte { return ARP(broadcast, n.Gateway, 2, n.Router, neighbour, zero, One4) }))
	return append(rows, badARP(Uplink, func(n Net) policy.MAC { return n.Gateway }, neighbour)...)
}

// RoutedARP is ARP on the uplink for guests of a network that is routed here: nobody has a reason to ask.
func RoutedARP() []Case {
	var rows []Case
	for _, a := range []netip.Addr{One4, Two4, Router4, Unbound4} {
		rows = append(rows, silent("ARP for "+a.String()+" of a routed network", "case 32; RFC 1027 2.4", Uplink,
			func(n Net) []byte { return ARP(broadcast, n.Gateway, 1, n.Gateway, Gateway4, zero, a) }))
	}
	return rows
}

// ProxiedARP is the same for a network that is on-link at the provider: rows for the file of Proxied.
func ProxiedARP() []Case {
	var rows []Case
	ask := func(name, ref string, f func(n Net) []byte, spa, tpa netip.Addr) {
		rows = append(rows, answer(name, ref, Uplink, f, func(n Net) []byte { return ARP(n.Gateway, n.Eth0, 2, n.Eth0, tpa, n.Gateway, spa) }))
	}
	for _, a := range []netip.Addr{One4, Two4, Router4} {
		for _, spa := range []netip.Addr{Gateway4, ip("192.0.1.9"), ip("203.0.113.9"), ip("169.254.7.7")} {
			ask(fmt.Sprintf("ARP for %v from %v", a, spa), "case 32; RFC 1027 2.1", func(n Net) []byte { return ARP(broadcast, n.Gateway, 1, n.Gateway, spa, zero, a) }, spa, a)
		}
		ask(fmt.Sprintf("unicast ARP for %v", a), "case 32; RFC 1122 2.3.2.1", func(n Net) []byte { return ARP(n.Eth0, n.Gateway, 1, n.Gateway, Gateway4, n.Eth0, a) }, Gateway4, a)
		ask(fmt.Sprintf("somebody's probe for %v", a), "case 32; RFC 5227 2.1.1", func(n Net) []byte { return ARP(broadcast, n.Gateway, 1, n.Gateway, ip("0.0.0.0"), zero, a) }, ip("0.0.0.0"), a)
		rows = append(rows, silent(fmt.Sprintf("ARP for %v to another station", a), "case 32; facts N6", Uplink, func(n Net) []byte { return ARP(Nobody, n.Gateway, 1, n.Gateway, Gateway4, zero, a) }))
	}
	for _, s := range []string{"192.0.2.200", "192.0.2.0", "192.0.2.255", "192.0.1.1", "192.0.1.5", "198.51.100.7"} {
		rows = append(rows, silent("ARP for "+s+" of a proxied network", "case 32; RFC 1027 2.4", Uplink,
			func(n Net) []byte { return ARP(broadcast, n.Gateway, 1, n.Gateway, ip("192.0.1.9"), zero, ip(s)) }))
	}
	other := policy.MAC{2, 0, 0, 0, 0, 0x55}
	rows = append(rows, answer("ARP with another sender MAC than the frame's", "case 32; RFC 826", Uplink,
		func(n Net) []byte { return ARP(broadcast, n.Gateway, 1, other, ip("192.0.1.9"), zero, One4) },
		func(n Net) []byte { return ARP(other, n.Eth0, 2, n.Eth0, One4, other, ip("192.0.1.9")) }))
	return append(rows, UplinkARP()...)
}
