package cases

import (
	"encoding/binary"
	"net/netip"

	"github.com/gopacket/gopacket/layers"

	"udrouter/policy"
)

// igmp is an IGMP message with TTL 1; option is Router Alert (RFC 2113), which IGMPv2 and v3 want.
func igmp(src, dst netip.Addr, typ uint8, alert bool, edit ...func(*layers.IPv4)) maker {
	return func(d, s policy.MAC) []byte {
		h := ip4(src, dst, 2)
		h.TTL = 1
		if alert {
			h.Options = []layers.IPv4Option{{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}}
		}
		for _, e := range edit {
			e(h)
		}
		if dst.IsMulticast() {
			a := dst.As4()
			d = policy.MAC{1, 0, 0x5e, a[1] & 0x7f, a[2], a[3]}
		}
		b := []byte{typ, 100, 0, 0, 0, 0, 0, 0}
		binary.BigEndian.PutUint16(b[2:], ^policy.FoldChecksum(policy.Sum(b, 0)))
		return serialize(eth(d, s, layers.EthernetTypeIPv4), h, raw(b))
	}
}

// mld is a message of Multicast Listener Discovery with hop limit 1; alert puts Router Alert (RFC 2711) before it.
func mld(src, dst netip.Addr, typ uint8, body []byte, alert bool, edit ...func(*layers.IPv6)) maker {
	return func(d, s policy.MAC) []byte {
		f := icmp6Typed(d, s, src, dst, typ, 0, body, append([]func(*layers.IPv6){func(h *layers.IPv6) { h.HopLimit = 1 }}, edit...)...)
		if !alert {
			return f
		}
		f = append(append(append([]byte{}, f[:54]...), 58, 0, 5, 2, 0, 0, 1, 0), f[54:]...)
		f[20] = 0
		binary.BigEndian.PutUint16(f[payload6:], uint16(len(f)-54))
		return f
	}
}

// Groups are what hosts and routers of multicast say. Nobody but the link hears it, and nobody becomes its querier by it.
func Groups() []Case {
	const ref4, ref6 = "case 74; RFC 3376 4; RFC 2236 2", "case 74; RFC 3810 5; RFC 2710 3"
	group, reports, routers := ip("239.1.1.1"), ip("224.0.0.22"), ip("224.0.0.2")
	var igmps, mlds, queries []maker
	for _, alert := range []bool{true, false} {
		for _, typ := range []uint8{0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x1e, 0x1f, 0x22, 0x30, 0xff} {
			for _, dst := range []netip.Addr{ip("224.0.0.1"), routers, reports, group} {
				igmps = append(igmps, igmp(One4, dst, typ, alert))
			}
		}
		for _, ttl := range []uint8{0, 2, 64, 255} {
			igmps = append(igmps, igmp(One4, ip("224.0.0.1"), 0x11, alert, func(h *layers.IPv4) { h.TTL = ttl }))
		}
		v6 := ip("ff0e::101").As16()
		body := append(make([]byte, 4), v6[:]...)
		for _, src := range []netip.Addr{oneLL, One6, none6} {
			for _, typ := range []uint8{131, 132} {
				mlds = append(mlds, mld(src, ip("ff02::2"), typ, body, alert), mld(src, ip("ff0e::101"), typ, body, alert))
			}
			for _, dst := range []netip.Addr{AllNodes, ip("ff02::2"), ip("ff0e::101")} {
				queries = append(queries, mld(src, dst, 130, body, alert), mld(src, dst, 130, make([]byte, 20), alert), mld(src, dst, 130, append(body, 2, 125, 0, 0), alert))
			}
			many := binary.BigEndian.AppendUint32(nil, 70) // records of 20 bytes, about what a frame holds
			for i := range 70 {
				many = append(append(many, 4, 0, 0, 0), v6[:]...)
				many[len(many)-1] = byte(i)
			}
			mlds = append(mlds, mld(src, ip("ff02::16"), 143, many, alert), mld(src, ip("ff02::16"), 143, binary.BigEndian.AppendUint32(nil, 1000), alert),
				mld(src, ip("ff02::16"), 143, many, alert, func(h *layers.IPv6) { h.HopLimit = 255 }))
		}
	}
	return []Case{
		drops("IGMP of all types", ref4, One, policy.None, framesOf(One, igmps...)),
		drops("MLD reports", ref6, One, policy.None, framesOf(One, mlds...)),
		drops("MLD queries of a guest", ref6, One, policy.Multicast, framesOf(One, queries...)),
		drops("MLD queries from nobody's and others' addresses", "case 74; RFC 3810 5.1.14", One, policy.IP6Binding,
			framesOf(One, mld(LL1, AllNodes, 130, make([]byte, 20), true), mld(policy.EUI64(MAC2), AllNodes, 130, make([]byte, 20), true), mld(Two6, ip("ff02::16"), 143, make([]byte, 4), true))),
		drops("IGMP from others' addresses", ref4, One, policy.IPBinding, framesOf(One, igmp(Two4, ip("224.0.0.1"), 0x11, true), igmp(Unbound4, reports, 0x22, true))),
		drops("IGMP from the router's address, and nobody's", ref4, One, policy.MartianSrc, framesOf(One, igmp(Router4, ip("224.0.0.1"), 0x11, true), igmp(ip("0.0.0.0"), ip("224.0.0.1"), 0x11, true))),
		drops("IGMP to the router alone", ref4, One, policy.RouterLocal, framesOf(One, igmp(One4, Router4, 0x11, false), igmp(One4, Router4, 0x22, false))),
		drops("MLD to the router alone", ref6, One, policy.ICMPType, framesOf(One, mld(oneLL, LL1, 130, make([]byte, 20), false), mld(oneLL, LL1, 143, make([]byte, 4), true), mld(One6, X6, 131, make([]byte, 20), false))),
		drops("IGMP and MLD from the uplink", ref4, Uplink, policy.None, framesOf(Uplink, igmp(Gateway4, ip("224.0.0.1"), 0x11, true), igmp(X4, reports, 0x22, true),
			mld(gatewayLL, AllNodes, 130, make([]byte, 20), true), mld(gatewayLL, ip("ff02::16"), 143, make([]byte, 4), true))),
	}
}

// Services are what a scan of the router's own addresses sends: nothing there answers but to an echo request.
func Services() []Case {
	const ref = "case 76; RFC 6192 3"
	var guest, uplink []maker
	for _, port := range []uint16{21, 22, 23, 53, 67, 80, 123, 161, 179, 443, 546, 1812, 5353, 8080, 51820} {
		for _, flags := range []uint8{syn, ack, fin, 0, fin | psh | urg, syn | ack, rst, syn | fin} {
			tcp := func(src, dst netip.Addr) maker {
				return func(d, s policy.MAC) []byte {
					return TCP(d, s, netip.AddrPortFrom(src, 43210), netip.AddrPortFrom(dst, port), flags, 999, 5, 0)
				}
			}
			guest = append(guest, tcp(One4, Router4), tcp(oneLL, LL1))
			uplink = append(uplink, tcp(X4, Router4))
		}
		udp := func(src, dst netip.Addr) maker {
			return func(d, s policy.MAC) []byte {
				return Datagram(d, s, netip.AddrPortFrom(src, 43210), netip.AddrPortFrom(dst, port), pay(12))
			}
		}
		if port != 67 && port != 546 { // those are DHCP's
			guest = append(guest, udp(One4, Router4), udp(oneLL, LL1))
			uplink = append(uplink, udp(X4, Router4))
		}
	}
	onLink := func(m func(d, s policy.MAC, ll netip.Addr) []byte) Frame {
		return func(n Net) []byte { return m(n.Eth0, n.Gateway, n.UplinkLL) }
	}
	var asked []Frame
	for _, typ := range []uint8{10, 13, 15, 17, 37} {
		asked = append(asked, framed(One, protoOf(One4, Router4, 1, typ, 0, 0, 0, 0, 7, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)))
	}
	for _, typ := range []uint8{138, 139, 144, 146} {
		asked = append(asked, func(n Net) []byte { return icmp6Typed(n.Router, MAC1, oneLL, LL1, typ, 0, make([]byte, 28)) })
	}
	return []Case{
		drops("a scan of the router", ref, One, policy.RouterLocal, framesOf(One, guest...)),
		drops("a scan of the router, from the internet", ref, Uplink, policy.RouterLocal, framesOf(Uplink, uplink...)),
		drops("a scan of the router's own address on the uplink", ref, Uplink, policy.RouterLocal, []Frame{
			onLink(func(d, s policy.MAC, ll netip.Addr) []byte {
				return TCP(d, s, netip.AddrPortFrom(gatewayLL, 999), netip.AddrPortFrom(ll, 22), syn, 1, 0, 0)
			}),
			onLink(func(d, s policy.MAC, ll netip.Addr) []byte { return UDP(d, s, gatewayLL, ll, 8) }),
			onLink(func(d, s policy.MAC, ll netip.Addr) []byte {
				return protoOf(gatewayLL, ll, 253, make([]byte, 20)...)(d, s)
			}),
		}),
		drops("ICMP that asks the router for time, mask or name", "case 76; RFC 6918 3; RFC 4890 4.4", One, policy.ICMPType, asked),
		drops("ICMP that asks the router for time or mask, from the internet", "case 76; RFC 6918 3", Uplink, policy.ICMPType,
			framesOf(Uplink, protoOf(X4, Router4, 1, append([]byte{13, 0, 0, 0}, make([]byte, 16)...)...), protoOf(X4, Router4, 1, append([]byte{17, 0, 0, 0}, make([]byte, 16)...)...))),
	}
}
