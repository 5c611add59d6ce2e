package cases

import (
	"slices"

	"github.com/gopacket/gopacket/layers"

	"udrouter/policy"
)

// groups are addresses of many stations, which no station has: broadcast, IPv4 and IPv6 multicast, and one of neither.
var groups = []policy.MAC{broadcast, {1, 0, 0x5e, 0, 0, 1}, {0x33, 0x33, 0, 0, 0, 1}, {1, 0, 0xc, 0xcc, 0xcc, 0xcc}}

// Ethernet are frames whose Ethernet header is not in order.
func Ethernet() []Case { return slices.Concat(sourceMACs(), groupFrames(), tags(), llc()) }

// who is guest one's ARP request for the gateway, solicit its NS, and advertise an RA from whoever sends it.
func who(_, s policy.MAC) []byte { return ARP(broadcast, s, 1, s, One4, zero, Router4) }

func solicit(_, s policy.MAC) []byte {
	to := policy.SolicitedNode(Router6)
	return NS(policy.MulticastMAC(to), s, One6, to, Router6, s)
}

func advertise(_, s policy.MAC) []byte {
	h := ip6(policy.EUI64(s), AllNodes, layers.IPProtocolICMPv6)
	h.HopLimit = 255
	return icmp6(policy.MAC{0x33, 0x33, 0, 0, 0, 1}, s, h, 134, 0, &layers.ICMPv6RouterAdvertisement{HopLimit: 64, RouterLifetime: 0})
}

// whoHas is the gateway's ARP request for guest one, offer what a DHCP server says to it.
func whoHas(_, s policy.MAC) []byte { return ARP(broadcast, s, 1, s, Gateway4, zero, One4) }

func offer(d, s policy.MAC) []byte {
	h := ip4(Gateway4, One4, layers.IPProtocolUDP)
	u := &layers.UDP{SrcPort: 67, DstPort: 68}
	must(u.SetNetworkLayerForChecksum(h))
	return serialize(eth(d, s, layers.EthernetTypeIPv4), h, u, raw(append([]byte{2, 1, 6}, make([]byte, 237)...)))
}

func sourceMACs() []Case {
	up := []maker{udpOf(One4, X4), udpOf(One6, X6), who, solicit, advertise}
	down := []maker{udpOf(X4, One4), udpOf(X6, One6), whoHas, advertise}
	var flipped, impossible, fromUplink []Frame
	for bit := range 48 {
		mac := MAC1
		if mac[bit/8] ^= 1 << (bit % 8); !mac.IsGroup() {
			flipped = append(flipped, as(One, zero, mac, up...)...)
		}
	}
	for _, mac := range append(groups, policy.MAC{1, 0x16, 0x3e, 0, 0, 1}) {
		impossible = append(impossible, as(One, zero, mac, up...)...)
		fromUplink = append(fromUplink, as(Uplink, zero, mac, down...)...)
	}
	for i := range up {
		impossible = append(impossible, func(n Net) []byte { return up[i](n.Router, zero) })
	}
	for i := range down {
		fromUplink = append(fromUplink, func(n Net) []byte { return down[i](n.Eth0, zero) },
			func(n Net) []byte { return down[i](n.Eth0, n.Eth0) }, func(n Net) []byte { return down[i](n.Eth0, n.Router) })
	}
	return []Case{
		drops("a MAC that nobody has", "case 4", One, policy.MACBinding, as(One, zero, Nobody, up...)),
		drops("a guest's MAC with one bit changed", "case 4; RFC 7039 3.2", One, policy.MACBinding, flipped),
		drops("a MAC that no station has", "case 5; IEEE 802.3 3.2.3", One, policy.MACInvalid, impossible),
		drops("a MAC that no station on the uplink has", "case 5; IEEE 802.3 3.2.3", Uplink, policy.MACInvalid, fromUplink),
	}
}

// groupFrames are unicast packets in frames to many: none is forwarded or answered, by an error least of all.
func groupFrames() []Case {
	var guest, uplink, nd []Frame
	for _, mac := range groups {
		for _, ttl := range []uint8{64, 1, 0} {
			guest = append(guest, as(One, mac, zero, udpOf(One4, X4, TTL(ttl)), udpOf(One6, X6, TTL(ttl)), udpOf(One4, Two4, TTL(ttl)), udpOf(One6, Two6, TTL(ttl)),
				udpOf(One4, Unbound4, TTL(ttl)), udpOf(One6, Unbound6, TTL(ttl)))...)
			uplink = append(uplink, as(Uplink, mac, zero, udpOf(X4, One4, TTL(ttl)), udpOf(X6, Two6, TTL(ttl)), udpOf(X4, Unbound4, TTL(ttl)))...)
		}
		guest = append(guest, as(One, mac, zero, echoOf(One4, Router4), echoOf(One6, Router6), echoOf(One4, Dom04), echoOf(One4, Gateway4), synOf(One4, Two4, 443))...)
		uplink = append(uplink, as(Uplink, mac, zero, echoOf(X4, Router4), synOf(X4, One4, 443))...)
		nd = append(nd, as(One, mac, zero, func(d, s policy.MAC) []byte { return NS(d, s, One6, Router6, Router6, s) })...)
	}
	return []Case{
		drops("unicast in frames to many", "case 7; RFC 1812 5.3.4 and 4.3.2.7; RFC 4443 2.4(e.4)", One, policy.L2Multicast, guest),
		drops("unicast in frames to many, from the uplink", "case 7; RFC 1812 5.3.4 and 4.3.2.7; RFC 4443 2.4(e.4)", Uplink, policy.L2Multicast, uplink),
		drops("unicast NS in frames to many", "case 7", One, policy.L2Multicast, nd),
		drop("TCP to a port that is rejected, in a broadcast frame", "case 7", One, policy.L2Multicast, as(One, broadcast, zero, synOf(One4, X4, 25))[0]).enforced(),
	}
}

// tagged puts tags between the MACs and what follows; each is TPID and TCI.
func tagged(m maker, tags ...byte) maker {
	return func(d, s policy.MAC) []byte {
		f := m(d, s)
		return slices.Concat(f[:12], tags, f[12:])
	}
}

func tags() []Case {
	var rows []Case
	up, down := []maker{udpOf(One4, X4), udpOf(One6, X6), who, solicit, advertise, offer}, []maker{udpOf(X4, One4), udpOf(X6, One6), whoHas, advertise, offer}
	for _, t := range []struct {
		name    string
		tags    []byte
		unheard bool // the kernel strips an outer tag of 802.1Q or 802.1ad alone
	}{
		{"802.1Q", []byte{0x81, 0, 0, 5}, false}, {"priority", []byte{0x81, 0, 0, 0}, false}, {"priority 7", []byte{0x81, 0, 0xe0, 0}, false},
		{"VLAN 4095", []byte{0x81, 0, 0x0f, 0xff}, false}, {"802.1ad", []byte{0x88, 0xa8, 0, 5}, false}, {"802.1ad, no VLAN", []byte{0x88, 0xa8, 0, 0}, false},
		{"QinQ", []byte{0x88, 0xa8, 0, 5, 0x81, 0, 0, 6}, true}, {"QinQ, no VLAN", []byte{0x88, 0xa8, 0, 0, 0x81, 0, 0, 0}, true},
		{"802.1Q twice", []byte{0x81, 0, 0, 5, 0x81, 0, 0, 6}, true}, {"0x9100", []byte{0x91, 0, 0, 5}, true}, {"0x9200", []byte{0x92, 0, 0, 5}, true},
	} {
		var guest, uplink []Frame
		for _, m := range up {
			guest = append(guest, framed(One, tagged(m, t.tags...)))
		}
		for _, m := range down {
			uplink = append(uplink, framed(Uplink, tagged(m, t.tags...)))
		}
		onUplink := drops("tag on the uplink: "+t.name, "case 9; facts F11; IEEE 802.1Q 9", Uplink, policy.VLAN, uplink)
		if t.unheard {
			onUplink = onUplink.unheard()
		}
		rows = append(rows, drops("tag: "+t.name, "case 9; IEEE 802.1Q 9", One, policy.VLAN, guest), onUplink)
	}
	return rows
}

// typed replaces the EtherType by another, or by a length, and puts bytes behind it.
func typed(m maker, typ uint16, behind ...byte) maker {
	return func(d, s policy.MAC) []byte {
		f := m(d, s)
		return slices.Concat(f[:12], []byte{byte(typ >> 8), byte(typ)}, behind, f[14:])
	}
}

func llc() []Case {
	up, down := []maker{udpOf(One4, X4), udpOf(One6, X6), who, solicit, advertise}, []maker{udpOf(X4, One4), udpOf(X6, One6), whoHas, advertise}
	snap := func(m maker) []maker {
		f := m(zero, zero)
		size := uint16(len(f) - 14 + 8)
		var out []maker
		for _, oui := range [][]byte{{0, 0, 0}, {0, 0, 0xf8}, {0, 0x80, 0xc2}} { // RFC 1042, 802.1H, bridged
			head := append(append([]byte{0xaa, 0xaa, 3}, oui...), f[12:14]...)
			for _, length := range []uint16{size, size - 1, size + 1, 0, 3, 0x26, 1500} {
				out = append(out, typed(m, length, head...))
			}
		}
		return out
	}
	var guest, uplink, types []Frame
	for _, m := range up {
		guest = append(guest, framesOf(One, append(snap(m), typed(m, 0x26, 0x42, 0x42, 3), typed(m, 0x26, 0xff, 0xff), typed(m, 0x26))...)...)
	}
	for _, m := range down {
		uplink = append(uplink, framesOf(Uplink, snap(m)...)...)
	}
	for typ := uint16(0x05dc); typ <= 0x0600; typ++ {
		types = append(types, framesOf(One, typed(udpOf(One4, X4), typ), typed(advertise, typ))...)
	}
	for _, typ := range []uint16{0x0801, 0x0805, 0x0807, 0x0835, 0x6558, 0x86dc, 0x86de, 0x8847, 0x8848, 0x8863, 0x8864, 0x8870, 0x888e, 0x88e5, 0x88e7, 0x88f7, 0x9000, 0xffff} {
		types = append(types, framesOf(One, typed(udpOf(One4, X4), typ), typed(who, typ))...)
	}
	return []Case{
		drops("802.3 with LLC and SNAP around what would pass or be answered", "case 10; RFC 1042", One, policy.EtherType, guest),
		drops("802.3 with LLC and SNAP, on the uplink", "case 10; RFC 1042", Uplink, policy.EtherType, uplink).unheard(),
		drops("EtherTypes that are none, and those of others", "case 10; RFC 1122 2.3.3", One, policy.EtherType, types),
	}
}
