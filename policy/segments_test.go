package policy

import "testing"

// Segments have the extension headers of the whole, where that makes sense: an authentication header is of one datagram, a Fragment header's identification as
// well, and what is a message by itself is not repeated.
func TestSegmentsBehindHeaders(t *testing.T) {
	for header, want := range map[uint8]Reason{ProtoHopByHop: None, ProtoRouting: None, ProtoDstOpts: None,
		ProtoFragment: Malformed, ProtoAH: Malformed, ProtoMobility: Malformed, ProtoHIP: Malformed, ProtoShim6: Malformed} {
		h := []byte{17, 0, 0, 0, 0, 0, 0, 0}
		switch header {
		case ProtoAH:
			h = append([]byte{17, 1}, make([]byte, 10)...)
		case ProtoRouting:
			h[2] = 253
		case ProtoHopByHop, ProtoDstOpts:
			h[2], h[3] = 1, 4 // PadN
		}
		f := v6(header, cat(h, udp(3000)), nil)
		start := uint16(EthernetLen + IPv6Len + len(h))
		for typ, want := range map[uint8]Reason{GSOUDPL4: want, GSONone: None} {
			var p Packet
			if r := p.Parse(f, Offload{Flags: NeedsCsum, GSOType: typ, GSOSize: 1000, HdrLen: start + 8, CsumStart: start, CsumOffset: 6}); r != want {
				t.Errorf("header %d, type %d: got %v, want %v", header, typ, r, want)
			}
		}
	}
}

// UDP comes in no more segments than the kernel takes.
func TestSegmentsOfUDP(t *testing.T) {
	for n, want := range map[int]Reason{1: None, 128 * 100: None, 128*100 + 1: Malformed, 65507: Malformed} {
		var p Packet
		if r := p.Parse(v4(17, udp(n), nil), Offload{Flags: NeedsCsum, GSOType: GSOUDPL4, GSOSize: 100, HdrLen: 42, CsumStart: 34, CsumOffset: 6}); r != want {
			t.Errorf("%d bytes: got %v, want %v", n, r, want)
		}
	}
}

// What a NIC has put together (LRO) gets a new pseudo-header's sum, so that there must be no doubt about the addresses in it (RFC 8200 8.1).
func TestSegmentsByTheNIC(t *testing.T) {
	for left, want := range map[byte]Reason{0: None, 1: Malformed} {
		f := v6(ProtoRouting, cat([]byte{ProtoTCP, 0, 253, left, 0, 0, 0, 0}, tcp(0x10), make([]byte, 3000)), nil)
		var p Packet
		if r := p.Parse(f, Offload{Flags: DataValid, GSOType: GSOTCPv6, GSOSize: 1000, HdrLen: 82}); r != want {
			t.Errorf("%d hops left: got %v, want %v", left, r, want)
		}
	}
}
