package cases

import (
	"encoding/binary"

	"github.com/gopacket/gopacket/layers"

	"udrouter/policy"
)

// cut is a frame at every length from first on, but the whole.
func cut(f Frame, first, whole int) (frames []Frame) {
	for n := first; n < whole; n++ {
		frames = append(frames, func(net Net) []byte { return f(net)[:n] })
	}
	return
}

// Where lengths stand in a frame.
const (
	total4, payload6 = 16, 18
	l4Of4, l4Of6     = 34, 54
)

func word(at, v int) func([]byte) {
	return func(b []byte) { binary.BigEndian.PutUint16(b[at:], uint16(v)) }
}

// lies are UDP of 16 bytes and TCP of 24 with one field changed, so that it contradicts the frame. IPv4 header checksums are right.
func lies(u4, u6, t4, t6 maker) (out []maker) {
	lie := func(m maker, edits ...func([]byte)) {
		for _, e := range edits {
			out = append(out, m.changed(func(b []byte) {
				e(b)
				if b[12] == 8 {
					seal(b[14:])
				}
			}))
		}
	}
	for v := range 16 {
		if v != 4 {
			lie(u4, func(b []byte) { b[14] = byte(v<<4 | 5) }) // version
		}
		if v != 6 {
			lie(u6, func(b []byte) { b[14] = byte(v << 4) })
		}
		if v != 5 {
			lie(u4, func(b []byte) { b[14] = byte(0x40 | v) }) // header length; ports make no option
		}
		if v != 5 && v != 6 {
			lie(t4, func(b []byte) { b[l4Of4+12] = byte(v << 4) }) // data offset
			lie(t6, func(b []byte) { b[l4Of6+12] = byte(v << 4) })
		}
	}
	for _, n := range []int{0, 1, 19, 20, 27, 28, 35, 37, 65535} {
		lie(u4, word(total4, n))
	}
	for _, n := range []int{0, 1, 7, 8, 15, 17, 65535} {
		lie(u6, word(payload6, n))
	}
	for _, n := range []int{0, 1, 7, 17, 65535} {
		lie(u4, word(l4Of4+4, n))
		lie(u6, word(l4Of6+4, n))
	}
	return
}

// Lengths are frames that end too early, and headers that lie about what follows.
func Lengths() []Case {
	var icmp, chains []maker
	for n := range 8 {
		icmp = append(icmp, protoOf(One4, X4, 1, make([]byte, n)...), protoOf(One6, X6, 58, append([]byte{128}, make([]byte, 7)...)[:n]...))
		for _, next := range []uint8{0, 43, 44, 51, 60, 135, 139, 140} { // each of which has 8 bytes at least
			chains = append(chains, protoOf(One6, X6, next, append([]byte{59}, make([]byte, 7)...)[:n]...))
		}
	}
	for _, next := range []uint8{0, 43, 51, 60, 135, 139, 140} {
		for _, size := range []byte{5, 20, 255} { // in units of 8 or 4 bytes, and there are 16 bytes in all
			if size < 20 || next == 0 || next == 60 { // what is longer than a chain may be is refused for that
				chains = append(chains, protoOf(One6, X6, next, append([]byte{59, min(size, 30), 2}, make([]byte, 13)...)...))
			}
		}
	}
	// What a header declares, and no more, is a packet.
	whole := framesOf(One, protoOf(One4, X4, 253), protoOf(One6, X6, 59), protoOf(One6, X6, 253), protoOf(One6, X6, 60, 59, 0, 1, 4, 0, 0, 0, 0),
		udpOf(One4, X4).changed(word(l4Of4+4, 9)), udpOf(One6, X6).changed(word(l4Of6+4, 8))) // UDP with bytes behind its length
	return []Case{
		drops("IPv4 cut off at every length", "case 8; RFC 1812 5.2.2", One, policy.Malformed, cut(fromOne(udpOf(One4, X4)), 14, 50)),
		drops("IPv6 cut off at every length", "case 8; RFC 8200 3", One, policy.Malformed, cut(fromOne(udpOf(One6, X6)), 14, 70)),
		drops("TCP cut off at every length", "case 8; RFC 9293 3.1", One, policy.Malformed, cut(fromOne(synOf(One4, X4, 443)), 14, 58)),
		drops("NS cut off at every length", "case 8; RFC 4861 7.1.1", One, policy.Malformed, cut(fromOne(solicit), 14, 86)),
		drops("ARP cut off at every length", "case 8; RFC 826", One, policy.ARPMalformed, cut(fromOne(who), 14, 42)),
		// The filter of the uplink's socket reads the destination, and refuses what has none.
		drops("IPv4 cut off at every length, on the uplink", "case 8; RFC 1812 5.2.2", Uplink, policy.Malformed, cut(fromGateway(udpOf(X4, One4)), 34, 50)),
		drops("IPv6 cut off at every length, on the uplink", "case 8; RFC 8200 3", Uplink, policy.Malformed, cut(fromGateway(udpOf(X6, One6)), 54, 70)),
		drops("ARP cut off at every length, on the uplink", "case 8; RFC 826", Uplink, policy.ARPMalformed, cut(fromGateway(whoHas), 14, 42)),
		drops("headers that lie", "case 8; RFC 1812 5.2.2; RFC 8200 3; RFC 768; RFC 9293 3.1", One, policy.Malformed,
			framesOf(One, lies(udpOf(One4, X4), udpOf(One6, X6), synOf(One4, X4, 443), synOf(One6, X6, 443))...)),
		drops("headers that lie, on the uplink", "case 8; RFC 1812 5.2.2; RFC 8200 3; RFC 768; RFC 9293 3.1", Uplink, policy.Malformed,
			framesOf(Uplink, lies(udpOf(X4, One4), udpOf(X6, One6), synOf(X4, One4, 443), synOf(X6, One6, 443))...)),
		drops("ICMP of less than 8 bytes", "case 8; RFC 792; RFC 4443 2.1", One, policy.Malformed, framesOf(One, icmp...)),
		drops("extension headers of less than they say", "case 8; RFC 8200 4", One, policy.Malformed, framesOf(One, chains...)),
		passes("as short as a packet can be", "case 8; RFC 768; RFC 8200 4.7", One, Uplink, whole),
	}
}

// Checksums are packets with wrong ones: a router tests that of the IPv4 header, and those of what it answers itself.
func Checksums() []Case {
	flip := func(at int) func([]byte) { return func(b []byte) { b[at] ^= 0x55 } }
	var bits, uplink []maker
	for at := 14; at < 34; at++ {
		if at == 14 || at == total4 || at == total4+1 { // lengths are tested before
			continue
		}
		for bit := range 8 {
			bits = append(bits, udpOf(One4, X4).changed(func(b []byte) { b[at] ^= 1 << bit }))
		}
	}
	for bit := range 16 {
		uplink = append(uplink, udpOf(X4, One4).changed(func(b []byte) { b[24+bit/8] ^= 1 << (bit % 8) }))
	}
	bits = append(bits, udpOf(One4, X4, TTL(1)).changed(flip(24)), echoOf(One4, Router4).changed(flip(24)), echoOf(One4, Two4).changed(flip(25)), echoOf(One4, Dom04).changed(flip(25)))
	const tcp, udp, icmp = 16, 6, 2
	payload := func(src, dst string) []maker {
		a, b := ip(src), ip(dst)
		l4 := l4Of6
		if a.Is4() {
			l4 = l4Of4
		}
		zero := func(b []byte) { b[l4+udp], b[l4+udp+1] = 0, 0 }
		ms := []maker{synOf(a, b, 443).changed(flip(l4 + tcp)), udpOf(a, b).changed(flip(l4 + udp)), udpOf(a, b).changed(zero),
			echoOf(a, b).changed(flip(l4 + icmp)), protoOf(a, b, 33, make([]byte, 16)...), protoOf(a, b, 132, make([]byte, 16)...)}
		if a.Is4() {
			ms = append(ms, protoOf(a, b, 2, 0x16, 0, 0x12, 0x34, 0, 0, 0, 0)) // IGMP
		}
		return ms
	}
	nd := func(typ uint8, body int) maker {
		return func(d, s policy.MAC) []byte {
			h := ip6(policy.EUI64(s), AllNodes, layers.IPProtocolICMPv6)
			h.HopLimit = 255
			f := icmp6(policy.MAC{0x33, 0x33, 0, 0, 0, 1}, s, h, typ, 0, raw(make([]byte, body)))
			f[l4Of6+icmp] ^= 1
			return f
		}
	}
	nds := []maker{nd(133, 4), nd(134, 12), nd(135, 20), nd(136, 20), nd(137, 36)}
	toLL := func(n Net) []byte {
		f := Echo(n.Eth0, n.Gateway, ip("fe80::99"), n.UplinkLL, false, 8)
		f[l4Of6+icmp] ^= 1
		return f
	}
	return []Case{
		drops("IPv4 header with one bit changed", "case 14; RFC 1812 5.2.2", One, policy.Checksum, framesOf(One, bits...)),
		drops("wrong IPv4 header checksum from the uplink", "case 14; RFC 1812 5.2.2", Uplink, policy.Checksum, framesOf(Uplink, uplink...)),
		passes("what is wrong behind the IP header stays wrong", "case 14; facts F5, N3; RFC 1812 4.2.2.5", One, Uplink,
			framesOf(One, append(payload(One4.String(), X4.String()), payload(One6.String(), X6.String())...)...)),
		passes("what is wrong behind the IP header stays wrong, from the uplink", "case 14; facts F5, N3", Uplink, Two,
			framesOf(Uplink, append(payload(X4.String(), Two4.String()), payload(X6.String(), Two6.String())...)...)),
		drops("to the router with a wrong checksum", "case 14; RFC 1122 3.2.2; RFC 4443 2.1", One, policy.Checksum,
			framesOf(One, echoOf(One4, Router4).changed(flip(l4Of4+icmp)), echoOf(One6, Router6).changed(flip(l4Of6+icmp)), echoOf(ip("fe80::10"), LL1).changed(flip(l4Of6+icmp)))),
		drops("to the router with a wrong checksum, from the uplink", "case 14; RFC 1122 3.2.2; RFC 4443 2.1", Uplink, policy.Checksum,
			[]Frame{framed(Uplink, echoOf(X4, Router4).changed(flip(l4Of4+icmp))), toLL}),
		drops("ND with a wrong checksum", "case 14; RFC 4861 7.1.1", One, policy.Checksum, framesOf(One, append(nds, maker(solicit).changed(flip(l4Of6+icmp)))...)),
		drops("ND with a wrong checksum, from the uplink", "case 14; RFC 4861 7.1.1", Uplink, policy.Checksum, framesOf(Uplink, nds...)),
		silent("IGMP with a wrong checksum", "case 14", One,
			as(One, policy.MAC{1, 0, 0x5e, 0, 0, 0x16}, zero, protoOf(One4, ip("224.0.0.22"), 2, 0x22, 0, 0x12, 0x34, 0, 0, 0, 0))[0]),
	}
}
