package policy

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

func ports(b []byte, src, dst uint16) []byte {
	binary.BigEndian.PutUint16(b, src)
	binary.BigEndian.PutUint16(b[2:], dst)
	return b
}

// The table and an obvious search agree about whose an address is.
func TestBindings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var guests []*Guest
		seen := map[netip.Prefix]bool{}
		for i := range rapid.IntRange(1, 20).Draw(t, "guests") {
			g := &Guest{Name: string(rune('a' + i)), MAC: MAC{0, 0x16, 0x3e, 0, 0, byte(i)}}
			for range rapid.IntRange(0, 4).Draw(t, "addresses") {
				bits := rapid.SampledFrom([]int{24, 26, 28, 30, 32}).Draw(t, "bits")
				p := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, rapid.Byte().Draw(t, "host")}), bits).Masked()
				if !seen[p] {
					seen[p] = true
					g.Addrs = append(g.Addrs, p)
				}
			}
			guests = append(guests, g)
		}
		b, err := NewBindings(nil, guests)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 256 {
			a := netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
			var want *Guest
			best := -1
			for _, g := range guests {
				for _, p := range g.Addrs {
					if p.Contains(a) && p.Bits() > best {
						want, best = g, p.Bits()
					}
				}
			}
			if got := b.ByAddr(a); got != want {
				t.Fatalf("%v is %v's, want %v's", a, got, want)
			}
		}
	})
}

func TestLinkLocals(t *testing.T) {
	one, two := &Guest{Name: "one", MAC: MAC{0, 0x16, 0x3e, 0, 0, 1}}, &Guest{Name: "two", MAC: MAC{0, 0x16, 0x3e, 0, 0, 2}, Addrs: []netip.Prefix{netip.MustParsePrefix("fe80::2/128")}}
	b, err := NewBindings(nil, []*Guest{one, two})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		g    *Guest
		addr string
		want bool
	}{
		{one, "fe80::77", true}, {one, EUI64(one.MAC).String(), true}, {one, EUI64(two.MAC).String(), false}, {one, "fe80::2", false},
		{two, "fe80::2", true}, {two, "fe80::77", false}, {two, EUI64(two.MAC).String(), false},
	} {
		if got := b.MayUseLinkLocal(c.g, netip.MustParseAddr(c.addr)); got != c.want {
			t.Errorf("%s may use %s: %v", c.g.Name, c.addr, got)
		}
	}
	// First come, first served, and a bounded number each: the oldest claim goes.
	l := NewLinkLocals()
	addr := func(i int) netip.Addr { return netip.AddrFrom16([16]byte{0xfe, 0x80, 15: byte(i)}) }
	for i := range MaxLinkLocals + 1 {
		if !l.claim(one, addr(i+10)) {
			t.Errorf("claim %d was refused", i)
		}
	}
	if l.claim(two, addr(11)) {
		t.Error("an address that is in use was taken over")
	}
	if _, ok := l.Owner(addr(10)); ok || len(l.owner) != MaxLinkLocals {
		t.Errorf("%d claims are remembered", len(l.owner))
	}
}
