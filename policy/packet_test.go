package policy

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
)

// unhex4 reads a frame written in hexadecimal with any white space in it.
func frame(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var (
	testDst = MAC{2, 0, 0, 0, 0, 1}
	testSrc = MAC{0, 0x16, 0x3e, 0, 0, 1}
)

func ethernet(typ uint16, payload ...byte) []byte {
	b := append(append(testDst[:len(testDst):len(testDst)], testSrc[:]...), byte(typ>>8), byte(typ))
	return append(b, payload...)
}

// v4 makes an IPv4 frame; edit changes the header before its checksum is computed.
func v4(proto uint8, payload []byte, edit func(ip []byte)) []byte {
	ip := make([]byte, 20, 20+len(payload))
	ip[0], ip[8], ip[9] = 0x45, 64, proto
	copy(ip[12:], []byte{192, 0, 2, 10, 198, 51, 100, 7})
	ip = append(ip, payload...)
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	if edit != nil {
		edit(ip)
	}
	if ihl := int(ip[0]&15) * 4; ihl >= 20 && ihl <= len(ip) {
		ip[10], ip[11] = 0, 0
		binary.BigEndian.PutUint16(ip[10:], ^FoldChecksum(Sum(ip[:ihl], 0)))
	}
	return ethernet(EtherIPv4, ip...)
}

var (
	v6src = netip.MustParseAddr("2001:db8:3:2:1::10")
	v6dst = netip.MustParseAddr("2001:db8:ffff::7")
)

func v6(next uint8, payload []byte, edit func(ip []byte)) []byte {
	ip := make([]byte, 40, 40+len(payload))
	ip[0], ip[6], ip[7] = 0x60, next, 64
	copy(ip[8:], v6src.AsSlice())
	copy(ip[24:], v6dst.AsSlice())
	ip = append(ip, payload...)
	binary.BigEndian.PutUint16(ip[4:], uint16(len(payload)))
	if edit != nil {
		edit(ip)
	}
	return ethernet(EtherIPv6, ip...)
}

// nd makes an ND frame with a right checksum.
func nd(typ uint8, src, dst string, body []byte, edit func(ip []byte)) []byte {
	icmp := append([]byte{typ, 0, 0, 0}, body...)
	f := v6(ProtoICMPv6, icmp, func(ip []byte) {
		ip[7] = 255
		copy(ip[8:], netip.MustParseAddr(src).AsSlice())
		copy(ip[24:], netip.MustParseAddr(dst).AsSlice())
		if edit != nil {
			edit(ip)
		}
	})
	ip := f[EthernetLen:]
	c := ip[40:]
	s, _ := netip.AddrFromSlice(ip[8:24])
	d, _ := netip.AddrFromSlice(ip[24:40])
	binary.BigEndian.PutUint16(c[2:], ^FoldChecksum(Sum(c, PseudoSum(s, d, ProtoICMPv6, len(c)))))
	return f
}

func tcp(flags byte) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, 40000)
	binary.BigEndian.PutUint16(b[2:], 443)
	b[12], b[13] = 0x50, flags
	return b
}

func udp(payload int) []byte {
	b := make([]byte, 8+payload)
	binary.BigEndian.PutUint16(b, 5353)
	binary.BigEndian.PutUint16(b[2:], 53)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	return b
}

func cat(parts ...[]byte) []byte {
	var b []byte
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// ext makes an extension header of n bytes (a multiple of 8), filled with one PadN.
func ext(next uint8, n int) []byte {
	b := make([]byte, n)
	b[0], b[1], b[2], b[3] = next, byte(n/8-1), 1, byte(n-4)
	return b
}

func target(a string, opts ...byte) []byte {
	return cat(make([]byte, 4), netip.MustParseAddr(a).AsSlice(), opts)
}

var sllao = []byte{1, 1, 0, 0x16, 0x3e, 0, 0, 1}

func TestParse(t *testing.T) {
	fragField := func(v uint16) func([]byte) {
		return func(ip []byte) { binary.BigEndian.PutUint16(ip[6:], v) }
	}
	options := func(o ...byte) func([]byte) {
		return func(ip []byte) { ip[0] = 0x40 | byte(5+len(o)/4); copy(ip[20:], o) }
	}
	fragHdr := func(next uint8, off uint16) []byte {
		return []byte{next, 0, byte(off >> 8), byte(off), 0, 0, 0, 7}
	}
	for _, c := range []struct {
		name, ref string
		frame     []byte
		want      Reason
	}{
		{"empty", "case 8", nil, Malformed},
		{"13 bytes", "case 8", ethernet(EtherIPv4)[:13], Malformed},
		{"no payload", "case 8", ethernet(EtherIPv4), Malformed},
		{"802.1Q", "case 9", ethernet(0x8100, 0, 5, 8, 0), VLAN},
		{"priority tag", "case 9", ethernet(0x8100, 0, 0, 8, 0), VLAN},
		{"802.1ad", "case 9", ethernet(0x88a8, 0, 5, 0x81, 0), VLAN},
		{"9100", "case 9", ethernet(0x9100, 0, 5, 8, 0), VLAN},
		{"802.3 with LLC/SNAP", "case 10", ethernet(0x0026, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0), EtherType},
		{"length field 05ff", "case 10", ethernet(0x05ff), EtherType},
		{"LLDP", "case 1", ethernet(0x88cc), EtherType},

		{"TCP", "", v4(6, tcp(2), nil), None},
		{"UDP", "", v4(17, udp(10), nil), None},
		{"any protocol", "case 25", v4(253, nil, nil), None},
		{"protocol 0 is itself", "case 25", v4(0, nil, nil), None},
		{"version 5", "case 8", v4(6, tcp(2), func(ip []byte) { ip[0] = 0x55 }), Malformed},
		{"version 6 in an IPv4 frame", "case 8", ethernet(EtherIPv4, v6(6, tcp(2), nil)[14:]...), Malformed},
		{"IHL 4", "case 8", v4(6, tcp(2), func(ip []byte) { ip[0] = 0x44 }), Malformed},
		{"IHL beyond total length", "case 8", v4(6, nil, func(ip []byte) { ip[0] = 0x46 }), Malformed},
		{"total length below header", "case 8", v4(6, tcp(2), func(ip []byte) { ip[2], ip[3] = 0, 19 }), Malformed},
		{"total length beyond frame", "case 8", v4(6, tcp(2), func(ip []byte) { ip[3]++ }), Malformed},
		{"padding behind the datagram", "RFC 894", append(v4(17, udp(1), nil), make([]byte, 17)...), None},
		{"wrong header checksum", "RFC 1812 5.2.2", func() []byte { f := v4(6, tcp(2), nil); f[24] ^= 1; return f }(), Checksum},
		{"LSRR", "RFC 7126 4.3", v4(6, cat(make([]byte, 8), tcp(2)), options(131, 7, 4, 1, 2, 3, 4, 0)), SourceRoute},
		{"SSRR", "RFC 7126 4.4", v4(6, cat(make([]byte, 8), tcp(2)), options(1, 137, 7, 4, 1, 2, 3, 4)), SourceRoute},
		{"record route passes", "", v4(6, cat(make([]byte, 8), tcp(2)), options(7, 7, 4, 1, 2, 3, 4, 0)), None},
		{"option of length 0", "RFC 791 3.1", v4(6, cat(make([]byte, 4), tcp(2)), options(7, 0, 0, 0)), Malformed},
		{"option beyond header", "RFC 791 3.1", v4(6, cat(make([]byte, 4), tcp(2)), options(7, 9, 0, 0)), Malformed},

		{"first fragment", "", v4(17, udp(16), fragField(0x2000)), None},
		{"first fragment without the TCP header", "RFC 1858 3", v4(6, tcp(2)[:16], fragField(0x2000)), TinyFragment},
		{"first fragment of 8 bytes of UDP", "", v4(17, udp(0), fragField(0x2000)), None},
		{"TCP fragment at offset 8", "RFC 3128", v4(6, make([]byte, 16), fragField(0x0001)), TinyFragment},
		{"UDP fragment at offset 8", "", v4(17, make([]byte, 16), fragField(0x0001)), None},
		{"fragment not a multiple of 8", "RFC 791 3.2", v4(17, udp(9), fragField(0x2000)), Malformed},
		{"ping of death", "case 61", v4(1, make([]byte, 100), fragField(8190)), OversizeFrag},

		{"TCP data offset 4", "case 8", v4(6, func() []byte { b := tcp(2); b[12] = 0x40; return b }(), nil), Malformed},
		{"TCP data offset 15", "case 8", v4(6, func() []byte { b := tcp(2); b[12] = 0xf0; return b }(), nil), Malformed},
		{"TCP of 19 bytes", "case 8", v4(6, tcp(2)[:19], nil), Malformed},
		{"UDP of 7 bytes", "case 8", v4(17, udp(0)[:7], nil), Malformed},
		{"UDP length 7", "case 8", v4(17, func() []byte { b := udp(0); b[5] = 7; return b }(), nil), Malformed},
		{"UDP length beyond datagram", "case 8", v4(17, func() []byte { b := udp(0); b[5] = 9; return b }(), nil), Malformed},
		{"ICMP of 7 bytes", "case 8", v4(1, make([]byte, 7), nil), Malformed},

		{"IPv6 TCP", "", v6(6, tcp(2), nil), None},
		{"IPv6 version 4", "case 8", v6(6, tcp(2), func(ip []byte) { ip[0] = 0x40 }), Malformed},
		{"IPv6 of 39 bytes", "case 8", v6(59, nil, nil)[:53], Malformed},
		{"payload length beyond frame", "case 8", v6(6, tcp(2), func(ip []byte) { ip[5]++ }), Malformed},
		{"no next header", "RFC 8200 4.7", v6(59, make([]byte, 1300), nil), None},
		{"hop-by-hop", "", v6(0, cat(ext(6, 8), tcp(2)), nil), None},
		{"hop-by-hop second", "RFC 8200 4.1", v6(60, cat(ext(0, 8), ext(6, 8), tcp(2)), nil), Malformed},
		{"destination options twice", "", v6(60, cat(ext(60, 8), ext(6, 8), tcp(2)), nil), None},
		{"extension header cut", "case 8", v6(60, ext(6, 16)[:8], nil), Malformed},
		{"extension header of 7 bytes", "case 8", v6(60, ext(6, 8)[:7], nil), Malformed},
		{"chain of over 512 bytes", "facts N1", v6(60, cat(ext(60, 512), ext(6, 8), tcp(2)), nil), HeaderChain},
		{"chain of over 1280 bytes", "facts N1", v6(60, cat(ext(60, 1280), ext(6, 8), tcp(2)), nil), HeaderChain},
		{"11 headers", "RFC 8504 5.3", v6(60, cat(ext(60, 8), ext(60, 8), ext(60, 8), ext(60, 8), ext(60, 8), ext(60, 8), ext(60, 8), ext(60, 8), ext(60, 8), ext(60, 8), ext(6, 8), tcp(2)), nil), HeaderChain},
		{"routing header 0 is for the guards", "RFC 5095", v6(43, cat([]byte{6, 0, 0, 1, 0, 0, 0, 0}, tcp(2)), nil), None},
		{"NS behind routing header 0", "RFC 5095", v6(43, cat([]byte{58, 0, 0, 1, 0, 0, 0, 0}, []byte{135, 0, 0, 0}, target("2001:db8:3:2:1::11")), func(ip []byte) { ip[7] = 255 }), RoutingHeader},
		{"NS behind an option that drops it", "RFC 8200 4.2", v6(0, cat([]byte{58, 0, 0x5e, 4, 0, 0, 0, 0}, []byte{135, 0, 0, 0}, target("2001:db8:3:2:1::11")), func(ip []byte) { ip[7] = 255 }), IPv6Option},
		{"routing header 2", "case 64", v6(43, cat([]byte{6, 0, 2, 0, 0, 0, 0, 0}, tcp(2)), nil), None},
		{"AH", "RFC 4302 2", v6(51, cat([]byte{6, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1}, tcp(2)), nil), None},
		{"IPv6 first fragment", "", v6(44, cat(fragHdr(17, 1), udp(8)), nil), None},
		{"IPv6 later fragment", "", v6(44, cat(fragHdr(6, 16), make([]byte, 13)), nil), None},
		{"two Fragment headers", "contract", v6(44, cat(fragHdr(44, 1), fragHdr(17, 1), udp(8)), nil), Malformed},
		{"IPv6 tiny first fragment", "RFC 7112 5", v6(44, cat(fragHdr(60, 1), ext(6, 8)), nil), TinyFragment},
		{"IPv6 oversize fragment", "RFC 8200 4.5", v6(44, cat(fragHdr(17, 0xfff8), make([]byte, 100)), nil), OversizeFrag},

		{"NS", "", nd(135, "2001:db8:3:2:1::10", "ff02::1:ff00:11", target("2001:db8:3:2:1::11", sllao...), nil), None},
		{"NS, hop limit 254", "RFC 4861 7.1.1", nd(135, "2001:db8:3:2:1::10", "ff02::1:ff00:11", target("2001:db8:3:2:1::11", sllao...), func(ip []byte) { ip[7] = 254 }), NDHopLimit},
		{"NS, code 1", "RFC 4861 7.1.1", nd(135, "2001:db8:3:2:1::10", "ff02::1:ff00:11", target("2001:db8:3:2:1::11"), func(ip []byte) { ip[41] = 1 }), NDMalformed},
		{"NS, 23 bytes", "RFC 4861 7.1.1", nd(135, "2001:db8:3:2:1::10", "ff02::1:ff00:11", target("2001:db8:3:2:1::11")[:19], nil), NDMalformed},
		{"NS, wrong checksum", "RFC 4861 7.1.1", func() []byte {
			f := nd(135, "2001:db8:3:2:1::10", "ff02::1:ff00:11", target("2001:db8:3:2:1::11"), nil)
			f[len(f)-1] ^= 1
			return f
		}(), Checksum},
		{"NS for a group", "RFC 4861 7.1.1", nd(135, "2001:db8:3:2:1::10", "ff02::1:ff00:11", target("ff02::1"), nil), NDMalformed},
		{"NS, option of length 0", "RFC 4861 4.6", nd(135, "2001:db8:3:2:1::10", "ff02::1:ff00:11", target("2001:db8:3:2:1::11", 1, 0, 0, 0, 0, 0, 0, 0), nil), NDMalformed},
		{"NS, option beyond the end", "RFC 4861 4.6", nd(135, "2001:db8:3:2:1::10", "ff02::1:ff00:11", target("2001:db8:3:2:1::11", 1, 5, 0, 0, 0, 0, 0, 0), nil), NDMalformed},
		{"NS, option of 4 bytes", "RFC 4861 4.6", nd(135, "2001:db8:3:2:1::10", "ff02::1:ff00:11", target("2001:db8:3:2:1::11", 14, 1, 0, 0), nil), NDMalformed},
		{"NS, two different source options", "case 40", nd(135, "2001:db8:3:2:1::10", "ff02::1:ff00:11", target("2001:db8:3:2:1::11", cat(sllao, []byte{1, 1, 0, 0x16, 0x3e, 0, 0, 2})...), nil), NDMalformed},
		{"NS, unknown option skipped", "RFC 4861 4.6", nd(135, "2001:db8:3:2:1::10", "ff02::1:ff00:11", target("2001:db8:3:2:1::11", 14, 1, 1, 2, 3, 4, 5, 6), nil), None},
		{"DAD", "", nd(135, "::", "ff02::1:ff00:10", target("2001:db8:3:2:1::10"), nil), None},
		{"DAD with a source option", "RFC 4861 7.1.1", nd(135, "::", "ff02::1:ff00:10", target("2001:db8:3:2:1::10", sllao...), nil), NDMalformed},
		{"DAD not to the solicited node", "RFC 4861 7.1.1", nd(135, "::", "ff02::1", target("2001:db8:3:2:1::10"), nil), NDMalformed},
		{"NA, solicited to a group", "RFC 4861 7.1.2", nd(136, "2001:db8:3:2:1::10", "ff02::1", cat([]byte{0x40, 0, 0, 0}, target("2001:db8:3:2:1::10")[4:]), nil), NDMalformed},
		{"RS from nowhere with an option", "RFC 4861 6.1.1", nd(133, "::", "ff02::2", cat(make([]byte, 4), sllao), nil), NDMalformed},
		{"RS of 7 bytes", "RFC 4861 6.1.1", nd(133, "fe80::10", "ff02::2", make([]byte, 3), nil), Malformed},
		{"RA of 15 bytes", "RFC 4861 6.1.2", nd(134, "fe80::10", "ff02::1", make([]byte, 11), nil), NDMalformed},
		{"RA from a global address", "RFC 4861 6.1.2", nd(134, "2001:db8:3:2:1::10", "ff02::1", make([]byte, 12), nil), NDMalformed},
		{"redirect of 39 bytes", "RFC 4861 8.1", nd(137, "fe80::10", "2001:db8:3:2:1::11", make([]byte, 35), nil), NDMalformed},
		{"NS in an atomic fragment", "RFC 6980 5", v6(44, cat(fragHdr(58, 0), []byte{135, 0, 0, 0}, target("2001:db8:3:2:1::11")), func(ip []byte) { ip[7] = 255 }), NDFragment},
		{"NS behind destination options, hop limit 64", "case 48", v6(60, cat(ext(58, 8), []byte{135, 0, 0, 0}, target("2001:db8:3:2:1::11")), nil), NDHopLimit},

		{"ARP", "", ethernet(EtherARP, frame(t, "0001 0800 06 04 0001 00163e000001 c000020a 000000000000 c0000201")...), None},
		{"ARP of 27 bytes", "RFC 826", ethernet(EtherARP, make([]byte, 27)...), ARPMalformed},
		{"ARP for another hardware", "RFC 826", ethernet(EtherARP, frame(t, "0006 0800 06 04 0001 00163e000001 c000020a 000000000000 c0000201")...), ARPMalformed},
		{"ARP with 8-byte addresses", "RFC 826", ethernet(EtherARP, frame(t, "0001 0800 08 04 0001 00163e000001 c000020a 000000000000 c0000201")...), ARPMalformed},
		{"RARP", "RFC 903", ethernet(EtherARP, frame(t, "0001 0800 06 04 0003 00163e000001 c000020a 000000000000 c0000201")...), ARPMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p Packet
			if got := p.Parse(c.frame, Offload{}); got != c.want {
				t.Errorf("%s: got %v, want %v", c.ref, got, c.want)
			}
		})
	}
}

// Each proper prefix of a valid frame is malformed in one way or another, and none is taken for a shorter packet.
func TestTruncation(t *testing.T) {
	for name, f := range map[string][]byte{
		"tcp4": v4(6, tcp(2), nil), "udp6": v6(17, udp(5), nil), "ns": nd(135, "2001:db8:3:2:1::10", "ff02::1:ff00:11", target("2001:db8:3:2:1::11", sllao...), nil),
		"arp": ethernet(EtherARP, frame(t, "0001 0800 06 04 0001 00163e000001 c000020a 000000000000 c0000201")...),
	} {
		for n := range f {
			var p Packet
			if r := p.Parse(f[:n:n], Offload{}); r == None {
				t.Errorf("%s cut to %d bytes passed", name, n)
			}
		}
	}
}

// Each header that is shorter than its protocol wants is malformed, also where the lengths before it say that there is no more; from the
// first length that is enough on, the packet is one.
func TestShortHeaders(t *testing.T) {
	options := append(tcp(2), make([]byte, 40)...)
	options[12] = 0xf0
	ns := nd(135, "2001:db8:3:2:1::10", "ff02::1:ff00:11", target("2001:db8:3:2:1::11"), nil)
	for _, c := range []struct {
		name   string
		frame  []byte
		enough int // bytes behind the IP header; 0: none but all are
		short  Reason
	}{
		{"TCP", v4(6, append(tcp(2), make([]byte, 9)...), nil), 20, Malformed}, {"TCP over IPv6", v6(6, append(tcp(2), make([]byte, 9)...), nil), 20, Malformed},
		{"TCP with options", v4(6, options, nil), 60, Malformed}, {"UDP", v4(17, udp(9), nil), 0, Malformed}, {"UDP over IPv6", v6(17, udp(9), nil), 0, Malformed},
		{"ICMP", v4(1, append([]byte{8, 0}, make([]byte, 14)...), nil), 8, Malformed}, {"ICMPv6", v6(58, append([]byte{128, 0}, make([]byte, 14)...), nil), 8, Malformed},
		{"an unknown protocol", v4(253, make([]byte, 9), nil), -1, None}, {"NS", ns, 0, NDMalformed},
		{"hop-by-hop options", v6(0, ext(59, 24), nil), 0, Malformed}, {"destination options, TCP", v6(60, cat(ext(6, 16), tcp(2)), nil), 0, Malformed},
		{"routing header", v6(43, cat([]byte{6, 2, 4, 0, 0, 0, 0, 0}, make([]byte, 16), tcp(2)), nil), 0, Malformed},
		{"AH", v6(51, cat([]byte{6, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1}, make([]byte, 12), tcp(2)), nil), 0, Malformed},
		{"mobility header", v6(135, ext(59, 24), nil), 0, Malformed}, {"HIP", v6(139, ext(59, 40), nil), 0, Malformed}, {"Shim6", v6(140, ext(59, 16), nil), 0, Malformed},
		{"first fragment of TCP", v6(44, cat([]byte{6, 0, 0, 1, 0, 0, 0, 7}, tcp(2), make([]byte, 4)), nil), 0, TinyFragment},
	} {
		header := EthernetLen + IPv6Len
		if c.frame[12] == 8 {
			header = EthernetLen + IPv4Len
		}
		whole := len(c.frame) - header
		if c.enough == 0 {
			c.enough = whole
		}
		for n := range whole + 1 {
			var p Packet
			r := p.Parse(declare(c.frame[:header+n]), Offload{})
			ragged := r == Malformed && (n <= 8 || n%8 != 0) // no ICMP, or no first fragment
			if n >= c.enough && r != None || n < c.enough && r != c.short && !ragged {
				t.Errorf("%s with %d of %d bytes: got %v", c.name, n, whole, r)
			}
			if r == None {
				check(t, &p, p.Frame)
			}
		}
	}
}

// declare makes an IP packet's length that of the frame.
func declare(f []byte) []byte {
	f = cat(f)
	ip := f[EthernetLen:]
	if f[12] != 8 {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-IPv6Len))
		return f
	}
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	binary.BigEndian.PutUint16(ip[10:], 0)
	binary.BigEndian.PutUint16(ip[10:], ^FoldChecksum(Sum(ip[:IPv4Len], 0)))
	return f
}

// Of all EtherTypes three are read, four are tags, and all others are refused, lengths among them.
func TestEtherTypes(t *testing.T) {
	body := v4(17, udp(9), nil)[EthernetLen:]
	for typ := range 1 << 16 {
		want := EtherType
		switch typ {
		case EtherIPv4:
			want = None
		case EtherIPv6:
			want = Malformed
		case EtherARP:
			want = ARPMalformed
		case 0x8100, 0x88a8, 0x9100, 0x9200:
			want = VLAN
		}
		var p Packet
		if r := p.Parse(ethernet(uint16(typ), body...), Offload{}); r != want {
			t.Errorf("%#04x: got %v, want %v", typ, r, want)
		}
	}
}

// Of all header checksums one is right; there is no second where it is neither 0 nor 0xffff.
func TestIPv4HeaderChecksum(t *testing.T) {
	f := v4(17, udp(9), nil)
	right := binary.BigEndian.Uint16(f[EthernetLen+10:])
	for sum := range 1 << 16 {
		binary.BigEndian.PutUint16(f[EthernetLen+10:], uint16(sum))
		want := Checksum
		if uint16(sum) == right {
			want = None
		}
		var p Packet
		if r := p.Parse(f, Offload{}); r != want {
			t.Errorf("%#04x: got %v, want %v", sum, r, want)
		}
	}
}

func TestParseFields(t *testing.T) {
	var p Packet
	f := append(v4(6, tcp(0x12), func(ip []byte) { ip[6] = 0x40; ip[8] = 7 }), 1, 2, 3)
	if r := p.Parse(f, Offload{}); r != None {
		t.Fatal(r)
	}
	if p.SrcMAC != testSrc || p.DstMAC != testDst || p.Src.String() != "192.0.2.10" || p.Dst.String() != "198.51.100.7" ||
		p.TTL != 7 || !p.DF || p.Proto != 6 || p.L4 != 34 || p.SrcPort != 40000 || p.DstPort != 443 || p.TCPFlags != 0x12 || p.L3Len() != 40 {
		t.Errorf("got %+v", p)
	}
	if len(p.Frame) != len(f)-3 {
		t.Errorf("bytes behind the declared length were kept: %d of %d", len(p.Frame), len(f))
	}
	f = nd(136, "2001:db8:3:2:1::10", "2001:db8:3:2:1::1", cat([]byte{0x60, 0, 0, 0}, target("2001:db8:3:2:1::10", 2, 1, 0, 0x16, 0x3e, 0, 0, 1)[4:]), nil)
	if r := p.Parse(f, Offload{}); r != None {
		t.Fatal(r)
	}
	if p.ND.Target.String() != "2001:db8:3:2:1::10" || !p.ND.HasTarget || p.ND.TargetLL != testSrc || p.ND.HasSource || p.ND.Flags != 0x60 {
		t.Errorf("got %+v", p.ND)
	}
}

// A GSO frame is as long on the wire as its segments.
func TestSegmentLen(t *testing.T) {
	var p Packet
	f := v4(6, append(tcp(0x10), make([]byte, 40000)...), nil)
	o := Offload{Flags: NeedsCsum, GSOType: GSOTCPv4, GSOSize: 1448, HdrLen: 54, CsumStart: 34, CsumOffset: 16}
	if r := p.Parse(f, o); r != None || p.SegmentLen() != 1488 {
		t.Errorf("got %v, %d", r, p.SegmentLen())
	}
	for name, bad := range map[string]Offload{
		"IPv6 type":               {Flags: NeedsCsum, GSOType: GSOTCPv6, GSOSize: 1448, CsumStart: 34, CsumOffset: 16},
		"UDP type":                {Flags: NeedsCsum, GSOType: GSOUDPL4, GSOSize: 1448, CsumStart: 34, CsumOffset: 16},
		"UFO":                     {Flags: NeedsCsum, GSOType: GSOUDP, GSOSize: 1448, CsumStart: 34, CsumOffset: 16},
		"ECN of nothing":          {GSOType: GSOECN},
		"no size":                 {Flags: NeedsCsum, GSOType: GSOTCPv4, CsumStart: 34, CsumOffset: 16},
		"a size with a meaning":   {Flags: NeedsCsum, GSOType: GSOTCPv4, GSOSize: 0xffff, CsumStart: 34, CsumOffset: 16},
		"whole checksum":          {GSOType: GSOTCPv4, GSOSize: 1448},
		"checksum beyond frame":   {Flags: NeedsCsum, CsumStart: 34, CsumOffset: 60000},
		"checksum in Ethernet":    {Flags: NeedsCsum, CsumStart: 4, CsumOffset: 0},
		"checksum not of the TCP": {Flags: NeedsCsum, GSOType: GSOTCPv4, GSOSize: 1448, CsumStart: 30, CsumOffset: 16},
		"checksum at the ports":   {Flags: NeedsCsum, GSOType: GSOTCPv4, GSOSize: 1448, CsumStart: 34, CsumOffset: 2},
	} {
		if r := p.Parse(f, bad); r != Malformed {
			t.Errorf("%s: got %v", name, r)
		}
	}
}

// The congestion flag is TCP's: what a kernel makes of it with UDP is not to be tried.
func TestGSOOfUDP(t *testing.T) {
	f := v4(17, udp(4000), nil)
	for _, c := range []struct {
		typ  uint8
		want Reason
	}{{GSOUDPL4, None}, {GSOUDPL4 | GSOECN, Malformed}, {GSOUDP, Malformed}, {GSOUDP | GSOECN, Malformed}, {2, Malformed}, {6, Malformed}, {0x7f, Malformed}, {0x40, Malformed}} {
		var p Packet
		if r := p.Parse(f, Offload{Flags: NeedsCsum, GSOType: c.typ, GSOSize: 1400, HdrLen: 42, CsumStart: 34, CsumOffset: 6}); r != c.want {
			t.Errorf("%#x: got %v, want %v", c.typ, r, c.want)
		}
	}
}

// A guest of KVM says where the kernel writes the checksum when the frame leaves, after all that was checked: it must not
// be where anything was read.
func TestPartialChecksum(t *testing.T) {
	t4, u4, u6 := v4(6, tcp(0x10), nil), v4(17, udp(30), nil), v6(17, udp(30), nil)
	echo := v4(1, append([]byte{8, 0, 0, 0, 0, 7, 0, 1}, make([]byte, 30)...), nil)
	gre := v4(47, make([]byte, 60), nil)
	first := v4(17, udp(32), func(ip []byte) { ip[6] = 0x20 })
	later := v4(17, make([]byte, 40), func(ip []byte) { ip[7] = 9 })
	port := func(n uint16, b []byte) []byte { binary.BigEndian.PutUint16(b[2:], n); return b }
	client4, server4, server6 := v4(17, port(68, udp(300)), nil), v4(17, port(67, udp(300)), nil), v6(17, port(547, udp(30)), nil)
	unreachable := v4(1, cat([]byte{3, 1, 0, 0, 0, 0, 0, 0}, v4(17, udp(8), nil)[EthernetLen:]), nil)
	for _, c := range []struct {
		name       string
		frame      []byte
		start, off uint16
		want       Reason
	}{
		{"TCP", t4, 34, 16, None},
		{"UDP", u4, 34, 6, None},
		{"UDP over IPv6", u6, 54, 6, None},
		{"TCP inside of UDP", u4, 44, 16, None},
		{"TCP inside of GRE", gre, 58, 16, None},
		{"the IPv4 source", u4, 14, 12, Malformed},
		{"the IPv6 source", u6, 14, 8, Malformed},
		{"the MACs", u4, 14, 0xfff8, Malformed},
		{"the source port", u4, 34, 0, Malformed},
		{"the destination port", u4, 34, 2, Malformed},
		{"TCP's ports", t4, 34, 2, Malformed},
		{"TCP's flags", t4, 34, 12, Malformed},
		{"TCP's, before the header", t4, 32, 18, Malformed},
		{"the type of ICMP", echo, 34, 0, Malformed},
		{"a first fragment", first, 34, 6, Malformed},
		{"a later fragment", later, 34, 6, Malformed},
		{"DHCP's own", client4, 34, 6, None},
		{"DHCP's operation", client4, 42, 0, Malformed},
		{"the relay in DHCP", server4, 42, 24, Malformed},
		{"DHCPv6's own", server6, 54, 6, None},
		{"DHCPv6's message type", server6, 62, 0, Malformed},
		{"in the data of an echo request", echo, 42, 4, Malformed},
		{"the source that an ICMP error quotes", unreachable, 42, 12, Malformed},
		{"half beyond the end", u4, 34, uint16(len(u4) - 34 - 1), Malformed},
	} {
		var p Packet
		if r := p.Parse(c.frame, Offload{Flags: NeedsCsum, CsumStart: c.start, CsumOffset: c.off}); r != c.want {
			t.Errorf("%s: got %v, want %v", c.name, r, c.want)
		}
	}
}

func TestParseAllocatesNothing(t *testing.T) {
	var p Packet
	ns := nd(135, "2001:db8:3:2:1::10", "ff02::1:ff00:11", target("2001:db8:3:2:1::11", sllao...), nil)
	t4 := v4(6, tcp(2), nil)
	if n := testing.AllocsPerRun(100, func() { p.Parse(ns, Offload{}); p.Parse(t4, Offload{}) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestReasonWords(t *testing.T) {
	seen := map[string]bool{}
	for r := range Reason(Reasons) {
		w := r.String()
		if w == "" || w == "invalid" || seen[w] || w != strings.ToLower(w) || strings.ContainsAny(w, " _") {
			t.Errorf("reason %d has the word %q", r, w)
		}
		seen[w] = true
	}
}

// Who takes a mobility, HIP or Shim6 control message (RFC 6275 6.1.1, RFC 7401 5.1, RFC 5533 5.3) takes it as the whole, and nothing behind it: so
// it is what the rules see, and what pretends to be more belongs to no flow.
func TestMessagesInExtensionHeaders(t *testing.T) {
	message := func(next byte) []byte { return []byte{next, 0, 1, 0x21, 0, 0, 0, 0} }
	for _, c := range []struct {
		header      uint8
		next        byte
		b           []byte
		behind      []byte
		proto       uint8
		opens       Reason
		destination bool // options before it
	}{
		{ProtoMobility, ProtoNone, message(ProtoNone), nil, ProtoMobility, None, false},
		{ProtoHIP, ProtoNone, message(ProtoNone), nil, ProtoHIP, None, true},
		{ProtoShim6, ProtoNone, message(ProtoNone), nil, ProtoShim6, None, false},
		{ProtoMobility, ProtoTCP, message(ProtoTCP), tcp(2), ProtoTCP, NoFlow, false},
		{ProtoHIP, ProtoTCP, message(ProtoTCP), tcp(2), ProtoTCP, NoFlow, true},
		{ProtoHIP, ProtoUDP, message(ProtoUDP), udp(9), ProtoUDP, NoFlow, false},
		{ProtoHIP, ProtoMobility, message(ProtoMobility), message(ProtoNone), ProtoMobility, NoFlow, false},
		{ProtoShim6, ProtoTCP, message(ProtoTCP), tcp(2), ProtoTCP, NoFlow, false},
		{ProtoShim6, ProtoTCP, []byte{ProtoTCP, 0, 0x80, 0, 0, 0, 0, 7}, tcp(2), ProtoTCP, None, false}, // a payload header, which is one
		{ProtoDstOpts, ProtoTCP, []byte{ProtoTCP, 0, 1, 4, 0, 0, 0, 0}, tcp(2), ProtoTCP, None, false},
	} {
		header, b := c.header, cat(c.b, c.behind)
		if c.destination {
			header, b = ProtoDstOpts, cat([]byte{c.header, 0, 1, 4, 0, 0, 0, 0}, b)
		}
		var p Packet
		if r := p.Parse(v6(header, b, nil), Offload{}); r != None || p.Proto != c.proto || p.opens() != c.opens {
			t.Errorf("%d, then %d: %v, protocol %d, %v", c.header, c.next, r, p.Proto, p.opens())
		}
	}
}
