package cases

import (
	"fmt"
	"net/netip"
	"slices"

	"udrouter/policy"
)

// TCP flags (RFC 9293 3.1).
const (
	fin = 1 << iota
	syn
	rst
	psh
	ack
	urg
)

// conn is a connection of a row, on ports of its own, since rows meet one router. a opens it, and its sequence numbers count from
// 1000000, those of b from 5000000.
type conn struct{ a, b station }

// station is one end of a connection.
type station struct {
	at   Place
	addr netip.AddrPort
}

const isnA, isnB = 1000000, 5000000

// segment is one of a conn, with numbers as above.
type segment struct {
	back     bool // from b
	flags    uint8
	seq, ack uint32
	n        int  // bytes of data
	drop     bool // it must not pass
	from     netip.AddrPort
}

// handshake opens a connection.
var handshake = []segment{{flags: syn}, {back: true, flags: syn | ack, ack: 1}, {flags: ack, seq: 1, ack: 1}}

// closing and resetting are what may follow it.
var (
	closing   = []segment{{flags: fin | ack, seq: 1, ack: 1}, {back: true, flags: fin | ack, seq: 1, ack: 2}, {flags: ack, seq: 2, ack: 2}}
	resetting = []segment{{back: true, flags: rst, seq: 1}}
)

func (c conn) frame(s segment) Frame {
	from, to, own, other := c.a, c.b, uint32(isnA), uint32(isnB)
	if s.back {
		from, to, own, other = to, from, other, own
	}
	if s.from.IsValid() {
		from.addr = s.from
	}
	if s.flags&ack == 0 {
		other = 0
	}
	return func(n Net) []byte {
		dst, src := n.macs(from.at)
		return TCP(dst, src, from.addr, to.addr, s.flags, own+s.seq, other+s.ack, s.n)
	}
}

// row is a row of segments from one end, after those of before. Those that do not pass are counted as reason.
func (c conn) row(name, ref string, reason policy.Reason, before []segment, segments ...segment) Case {
	row := Case{Ref: ref, Enforced: true, Reason: reason, Name: name + ", IPv4"}
	if c.a.addr.Addr().Is6() {
		row.Name = name + ", IPv6"
	}
	for _, s := range before {
		from := c.a.at
		if s.back {
			from = c.b.at
		}
		row = row.after(from, c.frame(s))
	}
	for i, s := range segments {
		from, to := c.a.at, c.b.at
		if s.back {
			from, to = to, from
		}
		f := c.frame(s)
		if i == 0 {
			row.From, row.Frame = from, f
		} else {
			row = row.then(f)
		}
		if s.drop {
			row.Count++
		} else {
			row.Out = append(row.Out, arrives(to, f))
		}
	}
	return row
}

// refused says that none of the segments passes.
func refused(segments ...segment) []segment {
	segments = slices.Clone(segments)
	for i := range segments {
		segments[i].drop = true
	}
	return segments
}

// flagged are segments with every combination of flags, ECE and CWR among them, of which want is true.
func flagged(s segment, want func(flags uint8) bool) (out []segment) {
	for f := range 256 {
		if s.flags = uint8(f); want(s.flags) {
			out = append(out, s)
		}
	}
	return out
}

// impossible tells flags that no TCP sends together (RFC 9293 3.5 to 3.10), opening those that ask for a connection.
func impossible(f uint8) bool {
	switch f & (fin | syn | rst | ack) {
	case syn, syn | ack, rst, rst | ack, ack, fin | ack:
		return false
	}
	return true
}
func opening(f uint8) bool { return f&(fin|syn|rst|ack) == syn }

// network is a family's addresses.
type network struct {
	one, two, x, other, dom0 netip.Addr
	next                     *uint16 // the last port that a row has
}

// port is one that no other row has.
func (w network) port() uint16 { *w.next++; return *w.next }

// from is a connection from a place to a port of another.
func (w network) from(a, b Place, port uint16) conn {
	addr := map[Place]netip.Addr{One: w.one, Two: w.two, Uplink: w.x, Dom0: w.dom0}
	return conn{station{a, netip.AddrPortFrom(addr[a], w.port())}, station{b, netip.AddrPortFrom(addr[b], port)}}
}

// State is what passes by state, and what pretends to (RFC 9293, RFC 5961, RFC 5382, RFC 4787), under the reference's policy: of what nobody has
// asked for, guests get TCP to 22, 80 and 443 and echo requests, and send anything but TCP to 25.
func State() (rows []Case) {
	port := uint16(20000)
	for _, w := range []network{{One4, Two4, X4, ip("198.51.100.8"), Dom04, &port}, {One6, Two6, X6, ip("2001:db8:ffff::8"), Router6, &port}} {
		rows = append(rows, slices.Concat(w.unasked(), w.opening(), w.tracked(), w.over(), w.datagrams(), w.strangers(), w.rejected())...)
	}
	return rows
}

// unasked are segments without a connection: scans with every combination of flags.
func (w network) unasked() (rows []Case) {
	all := func(uint8) bool { return true }
	none := func(f uint8) bool { return !impossible(f) && !opening(f) }
	scan := func(name string, a, b Place, port uint16, reason policy.Reason, which func(uint8) bool) {
		rows = append(rows, w.from(a, b, port).row(name, "case 71; RFC 9293 3.10.7.1", reason, nil, refused(flagged(segment{n: 4}, which)...)...))
	}
	scan("the internet to a closed port, all flags", Uplink, One, 5000, policy.IngressPolicy, all)
	scan("the internet to an open port, no SYN", Uplink, One, 443, policy.NoFlow, none)
	scan("the internet to an open port, impossible flags", Uplink, One, 443, policy.TCPFlags, impossible)
	scan("a guest to the internet, no SYN", One, Uplink, 443, policy.NoFlow, none)
	scan("a guest to the internet, impossible flags", One, Uplink, 443, policy.TCPFlags, impossible)
	scan("a guest to a neighbour's closed port, all flags", One, Two, 5000, policy.IngressPolicy, all)
	scan("a guest to a neighbour's open port, no SYN", One, Two, 22, policy.NoFlow, none)
	scan("a guest to a neighbour's open port, impossible flags", One, Two, 22, policy.TCPFlags, impossible)
	scan("a guest to dom0, all flags", One, Dom0, 22, policy.HostPolicy, all)
	for _, s := range flagged(segment{}, opening) {
		rows = append(rows, w.from(Uplink, One, 443).row(fmt.Sprintf("a SYN with flags %#x", s.flags), "case 71; RFC 3168 6.1.1", policy.None, nil, s))
	}
	return rows
}

// opening are the beginnings of connections that a guest opens, after which its peer may say only what belongs to them.
func (w network) opening() []Case {
	one := func() conn { return w.from(One, Uplink, 443) }
	asked, back := handshake[:1], true
	simultaneous := []segment{{flags: syn}, {back: true, flags: syn}}
	return []Case{
		one().row("SYN+ACK", "case 71; RFC 9293 3.5", policy.None, asked, segment{back: back, flags: syn | ack, ack: 1}),
		one().row("SYN+ACK of something else", "case 71; RFC 9293 3.10.7.3", policy.TCPWindow, asked,
			refused(segment{back: back, flags: syn | ack}, segment{back: back, flags: syn | ack, ack: 2}, segment{back: back, flags: syn | ack, ack: 1 << 31}, segment{back: back, flags: syn | ack, ack: 1<<32 - 900000})...),
		one().row("data, FIN before any SYN of the peer", "case 71; RFC 9293 3.10.7.3", policy.TCPState, asked,
			refused(segment{back: back, flags: ack, seq: 1, ack: 1, n: 1}, segment{back: back, flags: fin | ack, seq: 1, ack: 1}, segment{back: back, flags: psh | ack | urg, seq: 1, ack: 1, n: 9})...),
		one().row("impossible flags for an answer", "case 71", policy.TCPFlags, asked, refused(flagged(segment{back: back, seq: 1, ack: 1}, impossible)...)...),
		one().row("reset of a SYN", "case 71; RFC 9293 3.10.7.3", policy.None, asked, segment{back: back, flags: rst | ack, ack: 1}),
		one().row("resets that acknowledge no SYN", "case 71; RFC 9293 3.10.7.3", policy.TCPWindow, asked,
			refused(segment{back: back, flags: rst}, segment{back: back, flags: rst, seq: 1}, segment{back: back, flags: rst | ack}, segment{back: back, flags: rst | ack, ack: 2}, segment{back: back, flags: rst | ack, ack: 1 << 31})...),
		one().row("answers from another port", "case 71; RFC 5382 4.3", policy.IngressPolicy, asked, refused(answers(netip.AddrPortFrom(w.x, 444))...)...),
		one().row("answers from another address", "case 71; RFC 5382 4.3", policy.IngressPolicy, asked, refused(answers(netip.AddrPortFrom(w.other, 443))...)...),
		one().row("simultaneous open: the peer's SYN", "case 71; RFC 9293 3.5, figure 7; RFC 5382 4.2", policy.None, asked, segment{back: back, flags: syn}),
		one().row("simultaneous open: the guest's SYN+ACK", "case 71; RFC 5382 4.2", policy.None, simultaneous, segment{flags: syn | ack, ack: 1}),
		one().row("simultaneous open: data", "case 71; RFC 5382 4.2", policy.None,
			append(slices.Clone(simultaneous), segment{flags: syn | ack, ack: 1}), segment{back: back, flags: syn | ack, ack: 1}, segment{back: back, flags: ack, seq: 1, ack: 1, n: 10}),
		one().row("split handshake: ACK, then SYN", "case 71; RFC 9293 3.10.7.3", policy.None, asked, segment{back: back, flags: ack, seq: 900, ack: 1}, segment{back: back, flags: syn}),
		one().row("split handshake: its end", "case 71; RFC 9293 3.10.7.3", policy.None,
			[]segment{{flags: syn}, {back: true, flags: ack, ack: 1}, {back: true, flags: syn}, {flags: syn | ack, ack: 1}}, segment{back: back, flags: ack, seq: 1, ack: 1, n: 5}),
		one().row("split handshake: data before the SYN is acknowledged", "case 71; RFC 9293 3.10.7.4", policy.TCPWindow,
			[]segment{{flags: syn}, {back: true, flags: syn}}, refused(segment{back: back, flags: ack, seq: 1, n: 5}, segment{back: back, flags: fin | ack, seq: 1, ack: 2})...),
		one().row("the peer knows an old connection", "case 71; RFC 9293 3.5.1, figure 10", policy.None, asked, segment{back: back, flags: ack, seq: 900000, ack: 500000}),
		one().row("the guest resets the old connection", "case 71; RFC 9293 3.5.1, figure 10", policy.TCPWindow,
			append(slices.Clone(asked), segment{back: true, flags: ack, seq: 900000, ack: 500000}),
			segment{flags: rst, seq: 500001, drop: true}, segment{flags: rst, seq: 500000}, segment{flags: syn}),
	}
}

// answers are what a peer may say to a SYN, from somebody else.
func answers(from netip.AddrPort) (out []segment) {
	for _, f := range []uint8{syn, syn | ack, ack, rst, rst | ack, fin | ack} {
		out = append(out, segment{back: true, flags: f, ack: 1, from: from})
	}
	return out
}

// tracked are segments of connections that stand: one that a guest has opened, one that the internet has, one between guests.
func (w network) tracked() (rows []Case) {
	for _, k := range []struct {
		name string
		a, b Place
		port uint16
	}{{"a guest's connection", One, Uplink, 443}, {"a connection to a guest", Uplink, One, 443}, {"a connection between guests", One, Two, 22}} {
		add := func(name, ref string, reason policy.Reason, before []segment, s ...segment) {
			rows = append(rows, w.from(k.a, k.b, k.port).row(k.name+": "+name, "case 71; "+ref, reason, before, s...))
		}
		sent := append(slices.Clone(handshake), segment{flags: ack, seq: 1, ack: 1, n: 1000}, segment{back: true, flags: ack, seq: 1, ack: 1001, n: 1000}, segment{flags: ack, seq: 1001, ack: 1001})
		add("data", "RFC 9293 3.10.7.4", policy.None, handshake, segment{flags: psh | ack, seq: 1, ack: 1, n: 1000}, segment{flags: ack, seq: 1001, ack: 1, n: 400}, segment{flags: ack, seq: 1, ack: 1, n: 1000})
		add("data back", "RFC 9293 3.10.7.4", policy.None, sent, segment{back: true, flags: psh | ack | urg, seq: 1001, ack: 1001, n: 1000})
		for _, back := range []bool{false, true} {
			dir := ""
			if back {
				dir = " back"
			}
			at := func(flags uint8, seq, ack uint32, n int) segment {
				return segment{back: back, flags: flags, seq: seq, ack: ack, n: n}
			}
			// 65535 is the window that each has shown; beyond it one byte may probe.
			add("beyond the window"+dir, "RFC 9293 3.10.7.4; RFC 5961 5.2", policy.TCPWindow, sent, refused(
				at(ack, 1001+65537, 1001, 1), at(ack, 1<<31, 1001, 1), at(ack, 1<<32+1001-70000, 1001, 1), at(ack, 1001, 1002, 1), at(ack, 1001, 1001+1<<30, 0),
				at(ack, 1001, 1<<32+1001-70000, 0), at(fin|ack, 1001+65537, 1001, 0), at(syn|ack, 0, 0, 0), at(syn|ack, 77, 1, 0))...)
			add("resets that are not exact"+dir, "RFC 5961 3.2", policy.TCPWindow, sent, refused(
				at(rst, 0, 0, 0), at(rst, 1, 0, 0), at(rst, 1000, 0, 0), at(rst, 1002, 0, 0), at(rst, 30000, 0, 0), at(rst, 1001+65535, 0, 0), at(rst, 1<<31, 0, 0), at(rst, 1<<32-isnA, 0, 0),
				at(rst|ack, 1000, 1001, 0), at(rst|ack, 1002, 1001, 0), at(rst|ack, 900, 7, 0))...)
			add("exact reset"+dir, "RFC 5961 3.2", policy.None, sent, at(rst, 1001, 0, 0))
			add("impossible flags"+dir, "RFC 9293 3.10.7.4", policy.TCPFlags, sent, refused(flagged(at(0, 1001, 1001, 0), impossible)...)...)
			add("nothing but its acknowledgement after a reset"+dir, "RFC 5961 3.2", policy.TCPState, append(slices.Clone(sent), at(rst, 1001, 0, 0)),
				refused(at(ack, 1001, 1001, 10), at(psh|ack, 1002, 1001, 10), at(fin|ack, 1001, 1001, 0), at(ack, 1001, 1001, 0), at(syn|ack, 0, 1, 0))...)
			reply := at(rst, 1001, 0, 0)
			reply.back = !back
			add("data to who has reset"+dir, "RFC 5961 3.2", policy.TCPState, append(slices.Clone(sent), reply), refused(at(ack, 1001, 1001, 10), at(fin|ack, 1001, 1001, 0))...)
			add("FIN, and data the other way"+dir, "RFC 9293 3.6; RFC 6146 3.5.2.2", policy.None, append(slices.Clone(sent), segment{back: !back, flags: fin | ack, seq: 1001, ack: 1001}, at(ack, 1001, 1002, 0)),
				at(psh|ack, 1001, 1002, 1000), at(ack, 2001, 1002, 1000), at(fin|ack, 3001, 1002, 0))
		}
		add("SYN of who has not opened", "RFC 5961 4.2", policy.TCPState, sent, refused(segment{back: true, flags: syn, seq: 1001}, segment{back: true, flags: syn, seq: 70000000})...)
		add("another SYN of who has opened, and all goes on", "RFC 5961 4.2", policy.None, sent, segment{flags: syn, seq: 5000}, segment{flags: syn, seq: 70000000}, segment{flags: ack, seq: 1001, ack: 1001, n: 100})
	}
	return rows
}

// over are connections that have ended. A SYN begins another one, and needs the policy's leave like the first: what a guest was once
// connected to cannot connect to it.
func (w network) over() (rows []Case) {
	for _, k := range []struct {
		name string
		how  []segment
	}{{"TIME-WAIT", closing}, {"a reset", resetting}} {
		add := func(a, b Place, port uint16, name string, reason policy.Reason, s ...segment) {
			rows = append(rows, w.from(a, b, port).row("after "+k.name+": "+name, "case 71; RFC 6191; RFC 9293 3.6.1", reason, append(slices.Clone(handshake), k.how...), s...))
		}
		syns := func(back bool) []segment {
			return []segment{{back: back, flags: syn, seq: 90000000}, {back: back, flags: syn, seq: 1000}}
		}
		add(One, Uplink, 443, "the guest connects again", policy.None, syns(false)[0])
		add(One, Uplink, 443, "the peer connects to the guest", policy.IngressPolicy, refused(syns(true)...)...)
		add(Uplink, One, 443, "the peer connects again", policy.None, syns(false)[0])
		add(Uplink, One, 443, "the guest connects to the peer", policy.None, syns(true)[0])
		add(One, Two, 22, "the neighbour connects to the guest", policy.IngressPolicy, refused(syns(true)...)...)
		add(One, Uplink, 443, "data", map[bool]policy.Reason{true: policy.TCPState, false: policy.TCPWindow}[k.name == "a reset"],
			refused(segment{back: true, flags: ack, seq: 200000, ack: 2, n: 10})...)
		// Between guests either has a table of flows; what is left in one's is no part of the other's new connection.
		c := w.from(One, Two, 22)
		c.a.addr = netip.AddrPortFrom(w.one, 22)
		c.b.addr = netip.AddrPortFrom(w.two, w.port())
		back := conn{c.b, c.a}
		row := c.row("after "+k.name+": the neighbour's own connection is answered", "case 71; RFC 6191", policy.None, append(slices.Clone(handshake), k.how...))
		row.From, row.Frame = One, back.frame(segment{back: true, flags: syn | ack, seq: 40000000, ack: 1})
		row.Enforced = false
		row.Out = []Out{arrives(Two, row.Frame)}
		rows = append(rows, row.after(Two, back.frame(segment{flags: syn})))
	}
	return rows
}
