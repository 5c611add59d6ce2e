package cases

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/gopacket/gopacket/layers"

	"udrouter/policy"
)

// way is a direction in which packets cross the router.
type way struct {
	name     string
	from, to Place
	src, dst netip.Addr
}

// ways are all that lead through it, but for dom0's.
var ways = []way{
	{"guest to internet, IPv4", One, Uplink, One4, X4}, {"guest to internet, IPv6", One, Uplink, One6, X6},
	{"internet to guest, IPv4", Uplink, One, X4, One4}, {"internet to guest, IPv6", Uplink, One, X6, One6},
	{"guest to guest, IPv4", One, Two, One4, Two4}, {"guest to guest, IPv6", One, Two, One6, Two6},
}

func (w way) v4() bool { return w.src.Is4() }

// frame is a frame of the way's sender to the router.
func (w way) frame(m maker) Frame { return framed(w.from, m) }

// packet is an IP packet of any protocol.
func (w way) packet(proto uint8, l4 []byte) Frame {
	return w.frame(protoOf(w.src, w.dst, proto, l4...))
}

// fragment is one of any protocol: b goes behind the IP header, or the Fragment header, at byte off of the datagram.
func (w way) fragment(proto uint8, id uint16, off int, more bool, b []byte) Frame {
	if w.v4() {
		return w.frame(func(d, s policy.MAC) []byte {
			return serialize(eth(d, s, layers.EthernetTypeIPv4), edited(ip4(w.src, w.dst, layers.IPProtocol(proto)), fragment(uint16(off/8), more), identified(id)), raw(b))
		})
	}
	return w.packet(policy.ProtoFragment, append(fragmentHeader(proto, id, off, more), b...))
}

func fragmentHeader(next uint8, id uint16, off int, more bool) []byte {
	return before(next, fragment6(off, more, uint32(id)))
}

// before are the bytes of an extension header, with the number of the next.
func before(next uint8, h extension) []byte {
	h.bytes[0] = next
	return h.bytes
}

// header6 is an extension header with a body that fills it.
func header6(next uint8, body []byte) []byte {
	return append([]byte{next, byte((len(body)+2)/8 - 1)}, body...)
}

// part is a fragment with the bytes from a to b of a UDP datagram of 4000 bytes.
func (w way) part(id uint16, p part) Frame {
	udp := append([]byte{0x9c, 0x40, 0x13, 0x88, 0x0f, 0xa0, 0, 0}, pay(3992)...)
	return w.fragment(policy.ProtoUDP, id, p.a, !p.last, udp[p.a:p.b])
}

type part struct {
	a, b int
	last bool
}

// through is a row of frames that all pass.
func through(name, ref string, w way, frames ...Frame) Case {
	c := pass(name, ref, w.from, frames[0], w.to)
	for _, f := range frames[1:] {
		c = c.then(f)
		c.Out = append(c.Out, pass("", "", w.from, f, w.to).Out...)
	}
	return c
}

// overlaps are datagrams whose good parts pass; the others, and nothing after them, do not.
var overlaps = []struct {
	name, ref string
	good, bad []part
}{
	{"a second first one, longer", "RFC 5722 4", []part{{0, 1400, false}}, []part{{0, 1408, false}, {1408, 1500, true}, {0, 1400, false}}},
	{"a second first one, shorter", "RFC 5722 4", []part{{0, 1400, false}}, []part{{0, 80, false}, {1400, 1500, true}}},
	{"the tail of the first (teardrop)", "RFC 5722 4", []part{{0, 1400, false}}, []part{{1392, 1500, true}, {1400, 1500, true}}},
	{"within the first", "RFC 5722 4", []part{{0, 1400, false}}, []part{{80, 160, false}, {1400, 1500, true}}},
	{"by 8 bytes, the end first", "RFC 5722 4", []part{{0, 80, false}, {160, 200, true}}, []part{{80, 168, false}, {80, 160, false}}},
	{"the head of a later one", "RFC 5722 4", []part{{0, 80, false}, {160, 240, false}}, []part{{80, 168, false}, {240, 300, true}}},
	{"around a later one", "RFC 5722 4", []part{{0, 80, false}, {160, 240, false}}, []part{{80, 320, false}, {80, 160, false}}},
	{"the same start, shorter", "RFC 5722 4", []part{{0, 80, false}, {80, 240, false}}, []part{{80, 160, false}, {240, 300, true}}},
	{"the same end", "RFC 5722 4", []part{{0, 80, false}, {80, 240, false}}, []part{{160, 240, false}, {240, 300, true}}},
	{"the last one by a byte (bonk)", "RFC 5722 4", []part{{0, 80, false}, {80, 89, true}}, []part{{88, 96, true}}},
	{"after it is whole", "RFC 5722 4", []part{{0, 80, false}, {80, 100, true}}, []part{{72, 88, false}, {0, 80, false}, {80, 100, true}}},
	{"beyond the end", "RFC 8200 4.5", []part{{0, 80, false}, {160, 200, true}}, []part{{200, 208, false}, {80, 160, false}}},
	{"more at the end", "RFC 8200 4.5", []part{{0, 80, false}, {160, 200, true}}, []part{{160, 200, false}, {80, 160, false}}},
	{"two ends", "RFC 8200 4.5", []part{{0, 80, false}, {160, 200, true}}, []part{{80, 120, true}, {80, 160, false}}},
	{"the end before another", "RFC 8200 4.5", []part{{0, 80, false}, {160, 240, false}}, []part{{80, 160, true}, {240, 248, true}}},
}

// Fragments are datagrams in pieces.
func Fragments() (rows []Case) {
	id := uint16(0x5000) // of the next datagram: no row meets what another has left
	for _, w := range ways {
		next := func() uint16 { id++; return id }
		add := func(ref string, name string, c Case) {
			c.Name, c.Ref = name+", "+w.name, ref
			rows = append(rows, c)
		}
		bad := func(reason policy.Reason, f Frame) Case { return drop("", "", w.from, reason, f) }
		rows = append(rows, w.tinyFragments(next)...)
		if w.to == Two {
			rows = append(rows, w.twoFlows(next)...)
		}
		for _, o := range overlaps {
			n := next()
			c := bad(policy.FragmentOverlap, w.part(n, o.bad[0])).times(uint64(len(o.bad)))
			for _, g := range o.good {
				c = c.after(w.from, w.part(n, g))
			}
			for _, b := range o.bad[1:] {
				c = c.then(w.part(n, b))
			}
			add("case 59; "+o.ref, "overlap: "+o.name, c)
		}
		n := next()
		first, tail := w.part(n, part{0, 1400, false}), w.part(n, part{1400, 1500, true})
		add("case 59; RFC 8200 4.5", "copies of fragments", through("", "", w, first, first, tail, tail))
		n = next()
		add("case 59", "fragments out of order", through("", "", w, w.part(n, part{0, 80, false}), w.part(n, part{160, 200, true}), w.part(n, part{80, 160, false})))
		if !w.v4() {
			n = next()
			atomic := w.packet(policy.ProtoFragment, append(fragmentHeader(policy.ProtoUDP, n, 0, false), 0x9c, 0x40, 0x13, 0x88, 0, 8, 1, 1))
			c := bad(policy.FragmentOverlap, w.part(n, part{72, 100, true})).then(atomic).after(w.from, w.part(n, part{0, 80, false}))
			c.Out = pass("", "", w.from, atomic, w.to).Out
			add("case 59; RFC 6946 4", "overlap, then an atomic fragment of the same identification", c)
			// What the first says decides, to the router as to its receiver.
			n = next()
			add("case 61; RFC 8200 4.5", "a later fragment that names another protocol", through("", "", w, w.part(n, part{0, 80, false}), w.fragment(policy.ProtoTCP, n, 80, false, pay(20))))
			n = next()
			add("case 61; RFC 8200 4.5; CVE-2019-5597", "a later fragment with other headers than the first", through("", "", w, w.part(n, part{0, 80, false}),
				w.packet(policy.ProtoDstOpts, slices.Concat(header6(policy.ProtoFragment, []byte{1, 4, 0, 0, 0, 0}), fragmentHeader(policy.ProtoUDP, n, 80, false), pay(20)))))
			add("case 61; RFC 8200 4.5", "two Fragment headers", bad(policy.Malformed,
				w.packet(policy.ProtoFragment, slices.Concat(fragmentHeader(policy.ProtoFragment, next(), 0, true), fragmentHeader(policy.ProtoUDP, id, 0, true), pay(16)))))
		}

		add("case 61", "the end of a datagram without its first fragment", bad(policy.FragmentOrphan, w.part(next(), part{80, 100, true})).then(w.part(id, part{160, 200, true})).times(2))
		add("case 61", "the middle without the first, then all", func() Case {
			n := next()
			rest := through("", "", w, w.part(n, part{0, 80, false}), w.part(n, part{80, 160, false}), w.part(n, part{160, 200, true}))
			c := bad(policy.FragmentOrphan, w.part(n, part{80, 160, false}))
			c.Then, c.Out = append(c.Then, Sent{w.from, rest.Frame}), rest.Out
			c.Then = append(c.Then, rest.Then...)
			return c
		}())
		add("case 61; RFC 791 3.2", "a later fragment of another datagram", bad(policy.FragmentOrphan, w.part(next()+0x800, part{80, 100, true})).after(w.from, w.part(id, part{0, 80, false})))
		if w.v4() {
			add("case 61; RFC 791 3.2", "a later fragment of another protocol", bad(policy.FragmentOrphan, w.fragment(253, next(), 80, false, pay(20))).after(w.from, w.part(id, part{0, 80, false})))
		}
		add("case 61; RFC 791 3.2, RFC 8200 4.5", "a fragment of 9 bytes with more to come", bad(policy.Malformed, w.part(next(), part{0, 9, false})).then(w.part(id, part{16, 25, false})).times(2))
		add("case 61", "an empty fragment", bad(policy.Malformed, w.part(next(), part{0, 0, false})).then(w.part(id, part{80, 80, false})).times(2))
		add("case 61", "an empty last fragment", bad(policy.Malformed, w.part(next(), part{80, 80, true})).after(w.from, w.part(id, part{0, 80, false})))

		// 65535 bytes count from the IP header in IPv4, from behind the first header in IPv6.
		end := 0xffff - 20
		if !w.v4() {
			end = 0xffff
		}
		far := end &^ 7
		oversize := func(off, n int, more bool) Frame { return w.fragment(policy.ProtoUDP, next(), off, more, pay(n)) }
		add("case 61; RFC 791 3.2, RFC 8200 4.5", "a datagram of 65535 bytes ends", through("", "", w, w.part(next(), part{0, 80, false}), w.fragment(policy.ProtoUDP, id, far, false, pay(end-far))))
		add("case 61; RFC 791 3.2, RFC 8200 4.5", "fragments beyond 65535 bytes (ping of death)", bad(policy.OversizeFrag, oversize(far, end-far+1, false)).
			then(oversize(8190*8, 100, false), oversize(8191*8, 8, true), oversize(8191*8, 1400, false), oversize(far-1392, 1408, true)).times(5))

		n = next()
		gaps := bad(policy.FragmentLimit, w.part(n, part{16 * 16, 16*16 + 8, false})).after(w.from, w.part(n, part{0, 8, false}))
		for i := 1; i < 16; i++ {
			gaps = gaps.after(w.from, w.part(n, part{16 * i, 16*i + 8, false}))
		}
		add("case 61", "more pieces with gaps than are remembered", gaps)
	}
	return rows
}

// twoFlows are datagrams of a guest to another with two first fragments, of a flow that it has opened and of one that the other has opened.
func (w way) twoFlows(next func() uint16) (rows []Case) {
	back := way{"", w.to, w.from, w.dst, w.src}
	theirs := back.packet(policy.ProtoUDP, append([]byte{0x2e, 0xe0, 0x2e, 0xe1, 0, 16, 1, 1}, pay(8)...))
	for _, own := range []bool{true, false} {
		id := next()
		first, other := w.part(id, part{0, 80, false}), w.fragment(policy.ProtoUDP, id, 0, true, append([]byte{0x2e, 0xe1, 0x2e, 0xe0, 0x0f, 0xa0, 0, 0}, pay(80)...))
		if !own {
			first, other = other, first
		}
		rows = append(rows, drop(fmt.Sprintf("two first fragments, of an own flow first: %v, %s", own, w.name), "case 59; RFC 5722 4", w.from, policy.FragmentOverlap, other).
			then(w.part(id, part{88, 100, true}), first).times(3).after(w.to, theirs).after(w.from, w.packet(policy.ProtoUDP, udpBytes)).after(w.from, first))
	}
	return rows
}

// tinyFragments are those that keep a header from who looks at first fragments only.
func (w way) tinyFragments(next func() uint16) (rows []Case) {
	add := func(name, ref string, c Case) {
		c.Name, c.Ref = name+", "+w.name, "case 58; "+ref
		rows = append(rows, c)
	}
	tiny := func(f Frame) Case { return drop("", "", w.from, policy.TinyFragment, f) }
	tcp := func(port uint16, header int) []byte {
		b := make([]byte, header)
		binary.BigEndian.PutUint16(b, port)
		binary.BigEndian.PutUint16(b[2:], 443)
		b[7], b[12], b[13], b[14] = 9, byte(header/4)<<4, 2, 0x20
		return b
	}
	piece := func(b []byte, id uint16, from, to int) Frame {
		return w.fragment(policy.ProtoTCP, id, from, to < len(b), b[from:to])
	}
	for _, n := range []int{8, 16} {
		add(fmt.Sprintf("a first fragment with %d bytes of TCP", n), "RFC 1858 3, RFC 7112 5", tiny(piece(tcp(40000, 24), next(), 0, n)))
	}
	add("TCP options beyond the first fragment", "RFC 7112 5", tiny(piece(tcp(40000, 40), next(), 0, 24)))
	n := next()
	add("TCP in pieces of 8 bytes (nmap -f)", "RFC 1858 3", tiny(piece(tcp(40000, 20), n, 0, 8)).then(piece(tcp(40000, 20), n, 8, 16)).times(2))
	add("and the rest of it", "RFC 1858 3", drop("", "", w.from, policy.FragmentOrphan, piece(tcp(40000, 20), n, 16, 20)))
	add("TCP in pieces of 16 bytes", "RFC 1858 3", drop("", "", w.from, policy.TinyFragment, piece(tcp(40000, 20), next(), 0, 16)))
	n = next()
	whole := piece(append(tcp(40000+n, 24), pay(16)...), n, 0, 24)
	add("the TCP flags written once more", "RFC 3128", tiny(w.fragment(policy.ProtoTCP, n, 8, true, pay(16))).after(w.from, whole))
	n = next()
	whole = piece(append(tcp(40000+n, 24), pay(16)...), n, 0, 24)
	add("the TCP options written once more", "RFC 3128, RFC 5722", drop("", "", w.from, policy.FragmentOverlap, w.fragment(policy.ProtoTCP, n, 16, true, pay(16))).after(w.from, whole))
	for _, l4 := range []struct {
		proto uint8
		name  string
	}{{policy.ProtoICMP, "ICMP"}, {policy.ProtoUDP, "UDP"}} {
		if !w.v4() && l4.proto == policy.ProtoICMP {
			l4.proto = policy.ProtoICMPv6
		}
		add("no fragment has less than 8 bytes of "+l4.name, "RFC 791 3.2", drop("", "", w.from, policy.Malformed, w.fragment(l4.proto, next(), 0, true, pay(7))))
	}
	n = next()
	var parts []Frame
	for i := range 64 {
		parts = append(parts, w.part(n, part{8 * i, 8*i + 8, i == 63}))
	}
	add("64 fragments of 8 bytes of UDP in order", "RFC 791 3.2", through("", "", w, parts...))
	if w.v4() {
		return rows
	}
	options := func(next uint8, n int) []byte {
		return header6(next, append([]byte{1, byte(n - 4)}, make([]byte, n-4)...))
	}
	for _, f := range []struct {
		name   string
		reason policy.Reason
		b      []byte
	}{
		{"only destination options", policy.TinyFragment, options(policy.ProtoTCP, 496)},
		{"1232 bytes of destination options", policy.HeaderChain, options(policy.ProtoICMPv6, 1232)},
		{"options that go on", policy.TinyFragment, options(policy.ProtoUDP, 64)[:48]},
		{"a routing header that goes on", policy.TinyFragment, append(options(policy.ProtoRouting, 8), policy.ProtoUDP, 4, 4, 1, 0, 0, 0, 0)},
		{"a routing header in the second", policy.TinyFragment, options(policy.ProtoRouting, 8)},
		{"hop-by-hop in the second", policy.TinyFragment, options(policy.ProtoHopByHop, 8)},
		{"another Fragment header in the second", policy.TinyFragment, options(policy.ProtoFragment, 8)},
		{"UDP in the second", policy.TinyFragment, options(policy.ProtoUDP, 8)},
		{"ICMPv6 in the second", policy.TinyFragment, options(policy.ProtoICMPv6, 8)},
	} {
		c := tiny(w.packet(policy.ProtoFragment, append(fragmentHeader(policy.ProtoDstOpts, next(), 0, true), f.b...)))
		c.Reason = f.reason
		add("a first fragment with "+f.name, "RFC 7112 5", c)
	}
	return rows
}
