package policy

import (
	"encoding/binary"
	"net/netip"

	"github.com/gaissmai/bart"
)

// AddrClass is what an address is by itself, whoever holds it.
type AddrClass uint8

const (
	Unicast     AddrClass = iota
	Martian               // never on a wire beyond its host (RFC 6890: neither source nor destination)
	LinkScope             // IPv4 or IPv6 link-local unicast
	MulticastIP           // a group
	BroadcastIP           // 255.255.255.255
	Unspecified           // 0.0.0.0 or ::
)

// martians are blocks that are neither source nor destination of a forwarded packet: RFC 6890 2.2, and IPv6
// addresses that embed an IPv4 address which none may send from (RFC 3964 5.1 for 6to4).
var martians = func() *bart.Table[AddrClass] {
	t := new(bart.Table[AddrClass])
	for _, s := range []string{
		"0.0.0.0/8", "127.0.0.0/8", "240.0.0.0/4",
		"::/96",         // IPv4-compatible, deprecated (RFC 4291 2.5.5.1); ::1 among them
		"::ffff:0:0/96", // IPv4-mapped (2.5.5.2)
		"fec0::/10",     // site-local, deprecated (RFC 3879)
		"100::/64",      // discard-only (RFC 6666)
	} {
		t.Insert(netip.MustParsePrefix(s), Martian)
	}
	for _, s := range []string{"0.0.0.0/8", "10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "224.0.0.0/3"} {
		p := netip.MustParsePrefix(s)
		a := p.Addr().As4()
		t.Insert(netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 0x02, a[0], a[1], a[2], a[3]}), 16+p.Bits()), Martian)
		t.Insert(netip.PrefixFrom(netip.AddrFrom16([16]byte{0, 0x64, 0xff, 0x9b, 12: a[0], 13: a[1], 14: a[2], 15: a[3]}), 96+p.Bits()), Martian)
	}
	t.Insert(netip.MustParsePrefix("169.254.0.0/16"), LinkScope)
	t.Insert(netip.MustParsePrefix("fe80::/10"), LinkScope)
	t.Insert(netip.MustParsePrefix("224.0.0.0/4"), MulticastIP)
	t.Insert(netip.MustParsePrefix("ff00::/8"), MulticastIP)
	t.Insert(netip.MustParsePrefix("255.255.255.255/32"), BroadcastIP)
	t.Insert(netip.MustParsePrefix("0.0.0.0/32"), Unspecified)
	t.Insert(netip.MustParsePrefix("::/128"), Unspecified)
	return t
}()

// Classify tells what kind of address a is.
func Classify(a netip.Addr) AddrClass {
	c, _ := martians.Lookup(a)
	return c
}

// Edges are the first and the last address of an IPv4 prefix: the network's own and its directed broadcast, both of which hosts take for broadcasts
// (RFC 1812 5.3.5). They are invalid for a prefix that has none: of IPv6, a /31 (RFC 3021) or a /32.
func Edges(p netip.Prefix) (first, last netip.Addr) {
	if !p.Addr().Is4() || p.Bits() > 30 {
		return
	}
	first = p.Masked().Addr()
	b := first.As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])|1<<(32-p.Bits())-1)
	return first, netip.AddrFrom4(b)
}
