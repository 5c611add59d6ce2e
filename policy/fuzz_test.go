package policy

import (
	"encoding/binary"
	"testing"
)

// seeds are frames of every kind that the parser tells apart.
func seeds() [][]byte {
	return [][]byte{
		nil, ethernet(EtherIPv4), v4(6, tcp(2), nil), v4(17, udp(9), nil), v4(1, []byte{8, 0, 0, 0, 0, 1, 0, 1}, nil),
		v4(17, udp(16), func(ip []byte) { ip[6] = 0x20 }), v6(6, tcp(2), nil), v6(0, cat(ext(60, 8), ext(6, 16), tcp(2)), nil),
		v6(44, cat([]byte{17, 0, 0, 1, 0, 0, 0, 7}, udp(8)), nil), v6(43, cat([]byte{6, 0, 0, 1, 0, 0, 0, 0}, tcp(2)), nil),
		nd(135, "2001:db8:3:2:1::10", "ff02::1:ff00:11", target("2001:db8:3:2:1::11", sllao...), nil),
		nd(136, "2001:db8:3:2:1::10", "ff02::1", cat([]byte{0x20, 0, 0, 0}, target("2001:db8:3:2:1::10", sllao...)[4:]), nil),
		nd(134, "fe80::1", "ff02::1", cat(make([]byte, 12), []byte{3, 4}, make([]byte, 30)), nil),
		ethernet(EtherARP, 0, 1, 8, 0, 6, 4, 0, 1, 0, 0x16, 0x3e, 0, 0, 1, 192, 0, 2, 10, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1),
	}
}

// check holds for every packet that the parser lets through.
func check(t *testing.T, p *Packet, in []byte) {
	if len(p.Frame) > len(in) || len(p.Frame) < EthernetLen {
		t.Fatalf("frame of %d bytes became %d", len(in), len(p.Frame))
	}
	if p.L4 != 0 && (p.L4 < EthernetLen+IPv4Len || p.L4 > len(p.Frame)) {
		t.Fatalf("transport header at %d of %d", p.L4, len(p.Frame))
	}
	switch p.EtherType {
	case EtherIPv4:
		if want := int(binary.BigEndian.Uint16(in[EthernetLen+2:])); p.L3Len() != want || !p.Src.Is4() || !p.Dst.Is4() {
			t.Fatalf("IPv4 of %d bytes became %d: %+v", want, p.L3Len(), p)
		}
	case EtherIPv6:
		if want := IPv6Len + int(binary.BigEndian.Uint16(in[EthernetLen+4:])); p.L3Len() != want || !p.Src.Is6() || !p.Dst.Is6() {
			t.Fatalf("IPv6 of %d bytes became %d: %+v", want, p.L3Len(), p)
		}
		if p.L4 > EthernetLen+IPv6Len+MaxChain {
			t.Fatalf("a chain of %d bytes passed", p.L4-EthernetLen-IPv6Len)
		}
	case EtherARP:
		if p.L3Len() != 28 {
			t.Fatalf("ARP of %d bytes", p.L3Len())
		}
	default:
		t.Fatalf("EtherType %#x passed", p.EtherType)
	}
	if p.Fragment != (p.More || p.FragOff > 0) || p.L4 != 0 && p.FragOff > 0 {
		t.Fatalf("fragment fields contradict: %+v", p)
	}
	if n := p.SegmentLen(); n < IPv4Len && p.EtherType != EtherARP || n > p.L3Len() {
		t.Fatalf("segments of %d bytes from %d", n, p.L3Len())
	}
	if p.IsND() && (p.TTL != 255 || p.FragHdr) {
		t.Fatalf("ND passed: %+v", p)
	}
	p.IsICMPError()
	p.IsEchoRequest()
}

// FuzzFrame parses any frame with any metadata.
func FuzzFrame(f *testing.F) {
	for _, s := range seeds() {
		f.Add(s, uint8(0), uint8(0), uint16(0), uint16(0), uint16(0))
		f.Add(s, uint8(NeedsCsum), uint8(GSOTCPv4), uint16(1448), uint16(34), uint16(16))
	}
	f.Fuzz(func(t *testing.T, b []byte, flags, gso uint8, size, start, offset uint16) {
		var p Packet
		if p.Parse(b, Offload{Flags: flags, GSOType: gso, GSOSize: size, CsumStart: start, CsumOffset: offset}) == None {
			check(t, &p, b)
		}
	})
}

// FuzzARP mutates the 28 bytes of ARP behind a valid Ethernet header.
func FuzzARP(f *testing.F) {
	f.Add(seeds()[13][EthernetLen:])
	f.Add(make([]byte, 28))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p Packet
		if p.Parse(ethernet(EtherARP, b...), Offload{}) != None {
			return
		}
		check(t, &p, ethernet(EtherARP, b...))
		if p.ARP.Op != 1 && p.ARP.Op != 2 || !p.ARP.SPA.Is4() || !p.ARP.TPA.Is4() {
			t.Fatalf("passed: %+v", p.ARP)
		}
	})
}

// FuzzNDOptions gives ND of every type options and a right checksum, so that mutation reaches what is behind it.
func FuzzNDOptions(f *testing.F) {
	for typ := uint8(133); typ <= 137; typ++ {
		f.Add(typ, make([]byte, 36), sllao)
		f.Add(typ, make([]byte, 36), []byte{1, 0, 0, 0, 0, 0, 0, 0})
		f.Add(typ, make([]byte, 36), []byte{25, 3, 0, 0, 0, 0, 0, 1})
	}
	f.Fuzz(func(t *testing.T, typ uint8, body, options []byte) {
		src := "2001:db8:3:2:1::10"
		if typ == 134 || typ == 137 {
			src = "fe80::1"
		}
		b := nd(typ, src, "ff02::1", cat(body, options), nil)
		var p Packet
		if p.Parse(b, Offload{}) != None {
			return
		}
		check(t, &p, b)
		if p.ND.HasSource != (p.ND.SourceLL != MAC{}) && !p.ND.HasSource {
			t.Fatalf("an option from nowhere: %+v", p.ND)
		}
	})
}
