package cases

import (
	"fmt"
	"net/netip"
	"slices"

	"udrouter/policy"
)

// udpBytes is a UDP header with 8 bytes of payload and some checksum.
var udpBytes = append([]byte{0x9c, 0x40, 0x13, 0x88, 0, 16, 1, 1}, pay(8)...)

// ipv6Option is an IPv6 option and what becomes of a packet with it.
type ipv6Option struct {
	name string
	b    []byte // without the padding that fills the header
	act  byte   // the two highest bits of the type of the first that is not known (RFC 8200 4.2); noAction: none
}

const (
	noAction = 0
	silently = 0x40
	tell     = 0x80
	tellOne  = 0xc0 // not about what went to a group
)

var options = []ipv6Option{
	{"padding of single bytes", []byte{0, 0, 0, 0, 0, 0}, noAction},
	{"padding with something in it", []byte{1, 4, 0xde, 0xad, 0xbe, 0xef}, noAction},
	{"padding of no bytes", []byte{1, 0, 1, 0, 1, 0}, noAction},
	{"router alert", []byte{5, 2, 0, 0, 1, 0}, noAction},
	{"an unknown option 00", []byte{0x1e, 4, 1, 2, 3, 4}, noAction},
	{"an unknown option 00 that may change", []byte{0x3e, 4, 1, 2, 3, 4}, noAction},
	{"the tunnel limit", []byte{4, 1, 4, 1, 1, 0}, noAction},
	{"an unknown option 01", []byte{0x5e, 4, 1, 2, 3, 4}, silently},
	{"an unknown option 01 that may change", []byte{0x7e, 4, 1, 2, 3, 4}, silently},
	{"an unknown option 10", []byte{0x9e, 4, 1, 2, 3, 4}, tell},
	{"an unknown option 10 behind others", []byte{0, 5, 2, 0, 0, 0x1e, 0, 0x9e, 4, 1, 2, 3, 4, 0}, tell},
	{"an unknown option 11", []byte{0xde, 4, 1, 2, 3, 4}, tellOne},
	{"an unknown option 11 that may change", []byte{0xfe, 4, 1, 2, 3, 4}, tellOne},
	{"an unknown option 01, and 10 behind it", []byte{0x5e, 1, 1, 0x9e, 1, 1}, silently},
	{"an unknown option 10, and 01 behind it", []byte{0x9e, 1, 1, 0x5e, 1, 1}, tell},
	{"jumbo payload in a packet that is none", []byte{0xc2, 4, 0, 0, 0, 24}, tellOne},
	{"jumbo payload of 65536 bytes", []byte{0xc2, 4, 0, 1, 0, 0}, tellOne},
	{"a home address", append([]byte{1, 2, 0, 0, 0xc9, 16}, Two6.AsSlice()...), tellOne},
}

// at is where the unknown option begins, from the header's start.
func (o ipv6Option) at() uint32 {
	for i := 0; i < len(o.b); i += 2 + int(o.b[i+1]) {
		for o.b[i] == 0 {
			i++
		}
		if o.b[i]&0xc0 != 0 {
			return uint32(2 + i)
		}
	}
	return 0
}

// header is the option in a header.
func (o ipv6Option) header(next uint8) []byte { return header6(next, o.b) }

// badOptions are router alert twice (RFC 2711 2.1), and options that do not end with their header.
var badOptions = [][]byte{{5, 2, 0, 0, 5, 2, 0, 1, 1, 4, 0, 0, 0, 0}, {1, 5, 0, 0, 0, 0}, {0, 0, 0, 0, 0, 1}, {5, 2, 0, 0, 0x1e, 1}, {0x1e, 255, 1, 2, 3, 4}, {0x5e, 5, 1, 2, 3, 4}, {0xc2, 6, 0, 1, 0, 0}}

// told is the error that the sender of a frame gets from the router, which speaks as src.
func (w way) told(src netip.Addr, typ, code uint8, info uint32, f Frame) Out {
	return Out{w.from, func(n Net) []byte {
		mac, dst := n.macs(w.from)
		if w.v4() {
			return icmp4Error(dst, mac, src, w.src, typ, code, uint16(info), f(n))
		}
		return icmp6Error(dst, mac, src, w.src, typ, code, info, f(n))
	}}
}

// refused is a row of a frame that is dropped and whose sender is told.
func (w way) refused(name, ref string, reason policy.Reason, src netip.Addr, typ, code uint8, info uint32, f Frame) Case {
	c := drop(name, ref, w.from, reason, f)
	c.Out = []Out{w.told(src, typ, code, info, f)}
	return c
}

// Headers are IPv6 extension headers.
func Headers() (rows []Case) {
	for _, w := range ways {
		if w.v4() {
			continue
		}
		add := func(c Case) { c.Name += ", " + w.name; rows = append(rows, c) }
		for _, o := range options {
			name, ref := o.name+" from hop to hop", "case 65; RFC 8200 4.2, RFC 9673 5.2"
			f := w.packet(policy.ProtoHopByHop, append(o.header(policy.ProtoUDP), udpBytes...))
			switch {
			case o.act == noAction:
				add(through(name, ref, w, f))
			case o.act == silently:
				add(drop(name, ref, w.from, policy.IPv6Option, f))
			default:
				add(w.refused(name, ref, policy.IPv6Option, Router6, 4, 2, 40+o.at(), f))
			}
			add(through(o.name+" for the destination", "case 65; RFC 8200 4.6", w, w.packet(policy.ProtoDstOpts, append(o.header(policy.ProtoUDP), udpBytes...))))
		}
		for i, b := range badOptions {
			add(drop(fmt.Sprintf("bad hop-by-hop options, %d", i), "case 65; RFC 8200 4.2", w.from, policy.Malformed,
				w.packet(policy.ProtoHopByHop, append(header6(policy.ProtoUDP, b), udpBytes...))))
			add(through(fmt.Sprintf("bad destination options, %d", i), "case 65; RFC 8200 4.6", w,
				w.packet(policy.ProtoDstOpts, append(header6(policy.ProtoUDP, b), udpBytes...))))
		}
		rows = append(rows, w.jumbo()...)
		rows = append(rows, w.chains()...)
		rows = append(rows, w.routingHeaders()...)
	}
	return append(rows, ownHeaders()...)
}

func (w way) jumbo() (rows []Case) {
	jumbo := header6(policy.ProtoUDP, []byte{0xc2, 4, 0, 1, 0, 0})
	none := w.packet(policy.ProtoHopByHop, append(jumbo, udpBytes...))
	fragmented := w.packet(policy.ProtoHopByHop, slices.Concat(header6(policy.ProtoFragment, []byte{0xc2, 4, 0, 1, 0, 0}), fragmentHeader(policy.ProtoUDP, 0x7001, 0, true), udpBytes))
	later := w.packet(policy.ProtoHopByHop, slices.Concat(header6(policy.ProtoFragment, []byte{0xc2, 4, 0, 1, 0, 0}), fragmentHeader(policy.ProtoUDP, 0x7001, 16, false), udpBytes))
	return []Case{
		drop("a jumbogram, "+w.name, "case 65; RFC 2675 3", w.from, policy.Malformed, func(n Net) []byte {
			f := none(n)
			f[18], f[19] = 0, 0
			return f
		}),
		w.refused("jumbo payload in a first fragment, "+w.name, "case 65; RFC 2675 3", policy.IPv6Option, Router6, 4, 2, 42, fragmented),
		drop("jumbo payload in a later fragment, "+w.name, "case 65, 68; RFC 2675 3", w.from, policy.IPv6Option, later),
	}
}

// chains are long, out of order, or end where they should not.
func (w way) chains() (rows []Case) {
	padded := func(next uint8, n int) []byte {
		return header6(next, append([]byte{1, byte(n - 4)}, make([]byte, n-4)...))
	}
	many := func(n int) (b []byte) { // headers of 8 bytes
		for range n - 1 {
			b = append(b, padded(policy.ProtoDstOpts, 8)...)
		}
		return append(append(b, padded(policy.ProtoUDP, 8)...), udpBytes...)
	}
	two := func(n int) []byte { // headers that have n bytes together
		return slices.Concat(padded(policy.ProtoDstOpts, 256), padded(policy.ProtoUDP, n-256), udpBytes)
	}
	ok := func(name, ref string, next uint8, b []byte) {
		rows = append(rows, through(name+", "+w.name, ref, w, w.packet(next, b)))
	}
	bad := func(name, ref string, r policy.Reason, next uint8, b []byte) {
		rows = append(rows, drop(name+", "+w.name, ref, w.from, r, w.packet(next, b)))
	}
	const limits, first, none = "case 65; RFC 8504 5.3, RFC 8883 2", "case 65; RFC 8200 4.1", "case 65; RFC 8200 4.7"
	ok("10 extension headers", limits, policy.ProtoDstOpts, many(10))
	for _, n := range []int{11, 128, 170} {
		bad(fmt.Sprintf("%d extension headers", n), limits, policy.HeaderChain, policy.ProtoDstOpts, many(n))
	}
	ok("512 bytes of extension headers", limits, policy.ProtoDstOpts, two(512))
	bad("520 bytes of extension headers", limits, policy.HeaderChain, policy.ProtoDstOpts, two(520))
	bad("a hop-by-hop header of 1400 bytes", limits, policy.HeaderChain, policy.ProtoHopByHop, append(padded(policy.ProtoUDP, 1400), udpBytes...))
	bad("a hop-by-hop header of 2048 bytes in 64", limits, policy.HeaderChain, policy.ProtoHopByHop, append([]byte{policy.ProtoUDP, 255}, make([]byte, 62)...))
	bad("hop-by-hop behind destination options", first, policy.Malformed, policy.ProtoDstOpts, slices.Concat(padded(policy.ProtoHopByHop, 8), padded(policy.ProtoUDP, 8), udpBytes))
	bad("hop-by-hop twice", first, policy.Malformed, policy.ProtoHopByHop, slices.Concat(padded(policy.ProtoHopByHop, 8), padded(policy.ProtoUDP, 8), udpBytes))
	bad("an extension header that is cut off", first, policy.Malformed, policy.ProtoDstOpts, padded(policy.ProtoUDP, 64)[:56])
	bad("an extension header of which nothing is left", first, policy.Malformed, policy.ProtoDstOpts, padded(policy.ProtoHIP, 8))
	ok("no next header, and data behind it", none, policy.ProtoNone, pay(64))
	ok("no next header behind destination options, and data", none, policy.ProtoDstOpts, append(padded(policy.ProtoNone, 8), pay(64)...))
	ok("AH", "case 65; RFC 4302 2.2", policy.ProtoAH, append([]byte{policy.ProtoUDP, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, udpBytes...))
	ok("hop-by-hop, options, routing, fragment, options", "case 65; RFC 8200 4.1", policy.ProtoHopByHop, slices.Concat(padded(policy.ProtoDstOpts, 8), padded(policy.ProtoRouting, 8),
		[]byte{policy.ProtoFragment, 0, 253, 0, 0, 0, 0, 0}, fragmentHeader(policy.ProtoDstOpts, 0x7002, 0, false), padded(policy.ProtoUDP, 8), udpBytes))
	return rows
}

// routing is a routing header with the number of the next.
func routing(next, typ, left uint8) []byte { return before(next, routing6(typ, left, Two6)) }

func (w way) routingHeaders() (rows []Case) {
	bad := func(name string, next uint8, b []byte) {
		rows = append(rows, drop(name+", "+w.name, "case 64; RFC 5095 4.2", w.from, policy.RoutingHeader, w.packet(next, append(b, udpBytes...))))
	}
	for _, left := range []uint8{0, 1, 2, 127, 255} {
		bad(fmt.Sprintf("routing header 0 with %d segments left", left), policy.ProtoRouting, routing(policy.ProtoUDP, 0, left))
	}
	bad("routing header 0 without addresses", policy.ProtoRouting, []byte{policy.ProtoUDP, 0, 0, 0, 0, 0, 0, 0})
	bad("routing header 0 behind another", policy.ProtoRouting, append(routing(policy.ProtoRouting, 2, 0), routing(policy.ProtoUDP, 0, 1)...))
	bad("routing header 0 behind options", policy.ProtoDstOpts, append(header6(policy.ProtoRouting, make([]byte, 6)), routing(policy.ProtoUDP, 0, 1)...))
	bad("routing header 0 in a first fragment", policy.ProtoFragment, append(fragmentHeader(policy.ProtoRouting, 0x7003, 0, true), routing(policy.ProtoUDP, 0, 1)...))
	bad("routing header 0 in an atomic fragment", policy.ProtoFragment, append(fragmentHeader(policy.ProtoRouting, 0x7004, 0, false), routing(policy.ProtoUDP, 0, 1)...))
	for _, typ := range []uint8{1, 2, 3, 4, 77, 253, 254, 255} { // none of them is this router's business (RFC 8200 4.4)
		for _, left := range []uint8{0, 1, 255} {
			rows = append(rows, through(fmt.Sprintf("routing header %d with %d segments left, %s", typ, left, w.name), "case 64; RFC 8200 4.4", w,
				w.packet(policy.ProtoRouting, append(routing(policy.ProtoUDP, typ, left), udpBytes...))))
		}
	}
	rows = append(rows, drop("a routing header that is cut off, "+w.name, "case 64; RFC 8200 4.4", w.from, policy.Malformed, w.packet(policy.ProtoRouting, []byte{policy.ProtoUDP, 4, 4, 1, 0, 0, 0, 0})))
	return rows
}

// ownHeaders are in packets to the router itself, which is their destination. It speaks as the address that it was spoken to (RFC 4443 2.2).
func ownHeaders() (rows []Case) {
	for _, w := range []way{{"to the gateway", One, One, One6, Router6}, {"to fe80::1", One, One, ip("fe80::10"), LL1}} {
		reply := func(name, ref string, f Frame) {
			rows = append(rows, answer(name+", "+w.name, ref, w.from, f, func(n Net) []byte { return Echo(MAC1, n.Router, w.dst, w.src, true, 8) }))
		}
		echo := func(next uint8, header []byte) Frame {
			return w.frame(func(d, s policy.MAC) []byte {
				return w.packet(next, append(header, Echo(d, s, w.src, w.dst, false, 8)[54:]...))(Net{Router: d})
			})
		}
		bad := func(name, ref string, r policy.Reason, f Frame) {
			rows = append(rows, drop(name+", "+w.name, ref, w.from, r, f))
		}
		for _, o := range options {
			for _, h := range []struct {
				next uint8
				name string
			}{{policy.ProtoHopByHop, " from hop to hop"}, {policy.ProtoDstOpts, " for the destination"}} {
				name, ref, f := o.name+h.name, "case 65; RFC 8200 4.2", echo(h.next, o.header(policy.ProtoICMPv6))
				switch {
				case o.act == noAction:
					reply(name, ref, f)
				case o.act == silently:
					bad(name, ref, policy.IPv6Option, f)
				default:
					rows = append(rows, w.refused(name+", "+w.name, ref, policy.IPv6Option, w.dst, 4, 2, 40+o.at(), f))
				}
			}
		}
		for i, b := range badOptions {
			bad(fmt.Sprintf("bad options, %d", i), "case 65; RFC 8200 4.2", policy.Malformed, echo(policy.ProtoDstOpts, header6(policy.ProtoICMPv6, b)))
		}
		for _, typ := range []uint8{0, 2, 3, 4, 77, 253} {
			name, ref := fmt.Sprintf("routing header %d ", typ), "case 64; RFC 8200 4.4, RFC 5095 3"
			reply(name+"with no segments left", ref, echo(policy.ProtoRouting, routing(policy.ProtoICMPv6, typ, 0)))
			for _, left := range []uint8{1, 127} {
				rows = append(rows, w.refused(fmt.Sprintf("%swith %d segments left, %s", name, left, w.name), ref, policy.RoutingHeader, w.dst, 4, 0, 42, echo(policy.ProtoRouting, routing(policy.ProtoICMPv6, typ, left))))
			}
		}
		bad("routing header 0 before UDP", "case 64; RFC 5095 3", policy.RoutingHeader, w.packet(policy.ProtoRouting, append(routing(policy.ProtoUDP, 0, 1), udpBytes...)))
	}
	return rows
}
