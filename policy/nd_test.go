package policy

import (
	"net/netip"
	"testing"
)

// Of each kind of ND, only what has its whole fixed part and whole options behind it is taken (RFC 4861 6.1, 7.1, 8.1), however many they are.
func TestNDLengths(t *testing.T) {
	filler := make([]byte, 2000)
	copy(filler[4:], netip.MustParseAddr("fe80::10").AsSlice())
	for typ, fixed := range map[uint8]int{133: 8, 134: 16, 135: 24, 136: 24, 137: 40} {
		body := cat(filler[:fixed-4], make([]byte, 1600))
		for at := fixed - 4; at < len(body); at += 8 {
			body[at], body[at+1] = 14, 1 // nonces, without end
		}
		for n := range len(body) {
			want := None
			switch {
			case n < 4:
				want = Malformed // no ICMPv6 message is shorter than 8 bytes
			case 4+n < fixed || (4+n-fixed)%8 != 0:
				want = NDMalformed
			}
			var p Packet
			if got := p.Parse(nd(typ, "fe80::10", "ff02::1", body[:n], nil), Offload{}); got != want {
				t.Fatalf("type %d of %d bytes: %v, want %v", typ, 4+n, got, want)
			}
		}
	}
}

// 8000 options cost no memory.
func TestNDOptionsAllocateNothing(t *testing.T) {
	var options []byte
	for range 8000 {
		options = append(options, 14, 1, 0, 0, 0, 0, 0, 0)
	}
	f := nd(135, "fe80::10", "ff02::1:ff00:10", target("fe80::10", options...), nil)
	var p Packet
	if n := testing.AllocsPerRun(10, func() {
		if r := p.Parse(f, Offload{}); r != None {
			t.Fatal(r)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// The walk over DHCP's options stays in them and ends, whatever they say (RFC 2132 2).
func TestDHCPOptions(t *testing.T) {
	for _, c := range []struct {
		options []byte
		want    bool
	}{
		{nil, false}, {[]byte{255, 82, 0}, false}, {[]byte{82}, true}, {[]byte{82, 0}, true}, {[]byte{0, 0, 82, 4}, true}, {[]byte{53, 1, 3, 82, 0}, true},
		{[]byte{53}, false}, {[]byte{53, 200, 82, 0}, false}, {[]byte{53, 1, 82, 255}, false}, {[]byte{53, 0, 53, 0, 82, 0}, true},
	} {
		if got := hasOption(c.options, optRelay); got != c.want {
			t.Errorf("%v: %v", c.options, got)
		}
	}
}
