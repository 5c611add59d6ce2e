package policy

import "testing"

// What is noted of extension headers for those who look into them: the first in order that is wrong.
func TestNotedHeaders(t *testing.T) {
	opt := func(next uint8, body ...byte) []byte { return cat([]byte{next, byte((len(body)+2)/8 - 1)}, body) }
	route := func(next, typ, left uint8) []byte { return []byte{next, 0, typ, left, 0, 0, 0, 0} }
	for _, c := range []struct {
		name     string
		next     uint8
		b        []byte
		want     Reason
		hop, end int
		routing  bool
		rh0      bool
	}{
		{"padding", 0, opt(17, 0, 0, 1, 2, 9, 9), None, 0, 0, false, false},
		{"what may be skipped", 0, opt(17, 5, 2, 0, 0, 0x1e, 0), None, 0, 0, false, false},
		{"01", 0, opt(17, 0x5e, 4, 0, 0, 0, 0), None, 42, 0, false, false},
		{"10 behind padding", 0, opt(17, 0, 1, 1, 9, 0x9e, 0), None, 46, 0, false, false},
		{"the first of two", 0, opt(17, 0xde, 0, 0x5e, 0, 0, 0), None, 42, 0, false, false},
		{"a length beyond the header", 0, opt(17, 1, 5, 0, 0, 0, 0), Malformed, badOptions, 0, false, false},
		{"a type at the end", 0, opt(17, 0, 0, 0, 0, 0, 1), Malformed, badOptions, 0, false, false},
		{"router alert twice", 0, opt(17, 5, 0, 5, 0, 0, 0), Malformed, badOptions, 0, false, false},
		{"destination options", 60, opt(17, 1, 0, 0xc9, 2, 0, 0), None, 0, 44, false, false},
		{"malformed destination options", 60, opt(17, 1, 5, 0, 0, 0, 0), None, 0, badOptions, false, false},
		{"both", 0, cat(opt(60, 0x5e, 4, 0, 0, 0, 0), opt(17, 0x9e, 4, 0, 0, 0, 0)), None, 42, 50, false, false},
		{"a routing header that is done", 43, route(17, 4, 0), None, 0, 0, false, false},
		{"a routing header to follow", 43, route(17, 4, 1), None, 0, 42, true, false},
		{"routing header 0", 43, route(17, 0, 0), None, 0, 0, false, true},
		{"routing header 0 behind another", 43, cat(route(43, 2, 1), route(17, 0, 1)), None, 0, 42, true, true},
		{"options before a routing header", 60, cat(opt(43, 0x9e, 4, 0, 0, 0, 0), route(17, 4, 1)), None, 0, 42, false, false},
		{"options behind a routing header", 43, cat(route(60, 4, 1), opt(17, 0x9e, 4, 0, 0, 0, 0)), None, 0, 42, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p Packet
			if r := p.Parse(v6(c.next, cat(c.b, udp(0)), nil), Offload{}); r != c.want {
				t.Fatalf("%v, want %v", r, c.want)
			}
			if p.HopOption != c.hop || p.EndProblem != c.end || p.EndRouting != c.routing || p.RH0 != c.rh0 {
				t.Errorf("hop %d, end %d, routing %v, RH0 %v", p.HopOption, p.EndProblem, p.EndRouting, p.RH0)
			}
		})
	}
}

// A chain of any length and number of headers costs no more than the limits: what is beyond is not looked at.
func TestLongChains(t *testing.T) {
	for _, n := range []int{1, 9, 10, 11, 12, 128, 2000, 8172} {
		b := make([]byte, 0, 8*n+8)
		for i := range n {
			next := byte(ProtoDstOpts)
			if i == n-1 {
				next = ProtoUDP
			}
			b = append(b, ext(next, 8)...)
		}
		want := None
		if n > MaxHeaders {
			want = HeaderChain
			for i := 8 * (MaxHeaders + 1); i < len(b); i++ {
				b[i] = 0 // so that what is beyond would be something else: hop-by-hop
			}
		}
		var p Packet
		if r := p.Parse(v6(ProtoDstOpts, append(b, udp(0)...), nil), Offload{}); r != want {
			t.Errorf("%d headers: %v, want %v", n, r, want)
		}
	}
	for n := 8; n <= 2048; n += 8 {
		want := None
		if n > MaxChain {
			want = HeaderChain
		}
		for _, next := range []uint8{ProtoHopByHop, ProtoDstOpts, ProtoRouting} {
			b := make([]byte, n)
			b[0], b[1], b[2] = ProtoUDP, byte(n/8-1), 1
			if next != ProtoRouting {
				b[2] = 0
			}
			var p Packet
			if r := p.Parse(v6(next, append(b, udp(0)...), nil), Offload{}); r != want {
				t.Errorf("header %d of %d bytes: %v, want %v", next, n, r, want)
			}
		}
	}
}
