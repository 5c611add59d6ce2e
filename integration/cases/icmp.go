package cases

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/gopacket/gopacket"

	"udrouter/policy"
)

// Routers on the internet, from where errors come.
var far4, far6 = ip("203.0.113.1"), ip("2001:db8:eeee::1")

// talk is a flow about which somebody sends an error to who opened it.
type talk struct {
	way
	port uint16 // of who opened it: no other row has it
	tcp  bool   // bytes 1001 to 1100 are on their way; else UDP
}

// seq is the number of the first byte that is on its way.
const seq = 1001

// open makes the flow, and with TCP the connection.
func (k talk) open(c Case) Case {
	for _, s := range k.opening() {
		c = c.after(s.From, s.Frame)
	}
	return c
}

func (k talk) opening() []Sent {
	if !k.tcp {
		return []Sent{{k.from, k.quote(nil)}}
	}
	const syn, ack = 2, 16
	a, b := netip.AddrPortFrom(k.src, k.port), netip.AddrPortFrom(k.dst, 443)
	there := func(flags uint8, n, m uint32, size int) Sent {
		return Sent{k.from, k.frame(func(d, s policy.MAC) []byte { return TCP(d, s, a, b, flags, n, m, size) })}
	}
	back := Sent{k.to, framed(k.to, func(d, s policy.MAC) []byte { return TCP(d, s, b, a, syn|ack, 7000, 1001, 0) })}
	return []Sent{there(syn, 1000, 0, 0), back, there(ack, 1001, 7001, 0), there(ack, 1001, 7001, 100)}
}

// quote is the packet of the flow that the error is about, as it was sent, once edited.
func (k talk) quote(edit func(ip []byte)) Frame {
	return k.frame(func(d, s policy.MAC) []byte {
		var f []byte
		if k.tcp {
			f = TCP(d, s, netip.AddrPortFrom(k.src, k.port), netip.AddrPortFrom(k.dst, 443), 16, seq, 7001, 100)
		} else {
			f = UDP(d, s, k.src, k.dst, 100)
			binary.BigEndian.PutUint16(f[len(f)-108:], k.port)
		}
		if edit != nil {
			edit(f[14:])
		}
		return f
	})
}

// err is an error of a router on the internet, or of whoever the flow is with, to who opened the flow; info is its second word.
func (k talk) err(typ, code uint8, info uint32, quote Frame, cut int) Frame {
	src := k.dst
	if k.to == Uplink {
		if src = far4; !k.v4() {
			src = far6
		}
	}
	return errorFrom(k.to, src, k.src, typ, code, info, func(n Net) []byte {
		b := quote(n)[14:]
		if cut >= 0 {
			b = b[:cut]
		}
		return b
	})
}

func errorFrom(at Place, src, dst netip.Addr, typ, code uint8, info uint32, quote Frame) Frame {
	return func(n Net) []byte {
		return icmp(at, src, dst, typ, typ, code, append(binary.BigEndian.AppendUint32(nil, info), quote(n)...)...)(n)
	}
}

// PathMTU are reports that a packet was too big, true and forged.
func PathMTU() (rows []Case) {
	port := uint16(20000)
	for _, w := range ways {
		for _, tcp := range []bool{false, true} {
			typ, code, mtu, header := uint8(2), uint8(0), uint32(1280), 40
			if w.v4() {
				typ, code, mtu, header = 3, 4, 576, 20
			}
			name, ref := fmt.Sprintf("%s, UDP", w.name), "case 67; RFC 5927 4"
			if tcp {
				name = fmt.Sprintf("%s, TCP", w.name)
			}
			add := func(what string, ok bool, k talk, f Frame) {
				c := drop(what+", "+name, ref, w.to, policy.Unrelated, f)
				if ok {
					c = pass(what+", "+name, ref, w.to, f, w.from)
				}
				rows = append(rows, k.open(c))
			}
			next := func() talk { port++; return talk{w, port, tcp} }

			for _, m := range []uint32{0, 1, 67, 68, 552, 576, 1279, 1280, 1400, 1499} {
				k := next()
				ok := m >= 1280 || w.v4() && (m == 0 || m >= 68)
				add(fmt.Sprintf("an MTU of %d", m), ok, k, k.err(typ, code, m, k.quote(nil), -1))
			}
			for _, cut := range []int{0, 1, header - 1, header, header + 7, header + 8, header + 20} {
				k := next()
				add(fmt.Sprintf("a quote of %d bytes", cut), cut >= header+8, k, k.err(typ, code, mtu, k.quote(nil), cut))
			}
			for _, e := range unsent(w, header) {
				k := next()
				add(e.name, false, k, k.err(typ, code, mtu, k.quote(e.edit), -1))
			}
			if tcp {
				for _, n := range []struct {
					number uint32
					ok     bool
				}{{seq, true}, {seq + 50, true}, {seq + 100, true}, {seq - 1, false}, {seq + 101, false}, {seq + 1<<31, false}, {0, false}} {
					k := next()
					add(fmt.Sprintf("sequence number %d", n.number), n.ok, k, k.err(typ, code, mtu, k.quote(func(ip []byte) { binary.BigEndian.PutUint32(ip[header+4:], n.number) }), -1))
				}
			}
			rows = append(rows, pathMTUQuotes(name, ref, typ, code, mtu, next, add)...)

			// An error is for who has sent the packet, from where the packet went.
			k, far := next(), pick(w.v4(), far4, far6)
			quote := func(n Net) []byte { return k.quote(nil)(n)[14:] }
			stranger, src := Two, pick(w.v4(), Two4, Two6)
			if w.to == Two {
				stranger, src = Uplink, far
			}
			rows = append(rows,
				k.open(drop("from where the packet did not go, "+name, ref, stranger, policy.Unrelated, errorFrom(stranger, src, w.src, typ, code, mtu, quote))),
				k.open(drop("to who did not send the packet, "+name, ref, Uplink, policy.Unrelated, errorFrom(Uplink, far, pick(w.v4(), Two4, Two6), typ, code, mtu, quote))))
		}
	}
	return rows
}

func pick(v4 bool, a, b netip.Addr) netip.Addr {
	if v4 {
		return a
	}
	return b
}

type edit struct {
	name string
	edit func(ip []byte)
}

// unsent are quotes of what the flow has not sent.
func unsent(w way, header int) []edit {
	src, dst, proto := 12, 16, 9
	if !w.v4() {
		src, dst, proto = 8, 24, 6
	}
	n := dst - src
	list := []edit{
		{"another source port", func(ip []byte) { ip[header] ^= 0x80 }},
		{"another destination port", func(ip []byte) { ip[header+2] ^= 0x80 }},
		{"ports the other way round", func(ip []byte) {
			copy(ip[header:], []byte{ip[header+2], ip[header+3], ip[header], ip[header+1]})
		}},
		{"another source", func(ip []byte) { ip[src+n-1] ^= 1 }},
		{"another destination", func(ip []byte) { ip[dst+n-1] ^= 1 }},
		{"ends the other way round", func(ip []byte) {
			a := slices.Clone(ip[src : src+n])
			copy(ip[src:], ip[dst:dst+n])
			copy(ip[dst:], a)
		}},
		{"another protocol", func(ip []byte) { ip[proto] ^= policy.ProtoTCP ^ policy.ProtoUDP }},
		{"another version", func(ip []byte) { ip[0] ^= 0x20 }},
	}
	if !w.v4() {
		return list
	}
	return append(list,
		edit{"a header length of 16", func(ip []byte) { ip[0] = 0x44 }},
		edit{"a header length of 60", func(ip []byte) { ip[0] = 0x4f }},
		edit{"a later fragment", func(ip []byte) { ip[7] = 1 }})
}

// pathMTUQuotes are errors that quote options, extension headers and fragments, and such that come in fragments.
func pathMTUQuotes(name, ref string, typ, code uint8, mtu uint32, next func() talk, add func(string, bool, talk, Frame)) (rows []Case) {
	k := next()
	insert := func(k talk, proto uint8, b ...byte) Frame { // behind the IP header of what is quoted
		return func(n Net) []byte {
			f := k.quote(nil)(n)
			if k.v4() {
				f[14] += byte(len(b) / 4)
				return slices.Concat(f[:34], b, f[34:])
			}
			f[20] = proto
			return slices.Concat(f[:54], b, f[54:])
		}
	}
	transport := uint8(policy.ProtoUDP)
	if k.tcp {
		transport = policy.ProtoTCP
	}
	pad := func(next uint8) []byte { return header6(next, make([]byte, 6)) }
	if k.v4() {
		add("quoted options", true, k, k.err(typ, code, mtu, insert(k, 0, 7, 7, 4, 1, 2, 3, 4, 0), -1))
		k = next()
		add("quoted options that leave 4 bytes of the rest", false, k, k.err(typ, code, mtu, insert(k, 0, 7, 7, 4, 1, 2, 3, 4, 0), 32))
		k = next()
		add("a quoted first fragment", true, k, k.err(typ, code, mtu, k.quote(func(ip []byte) { ip[6] = 0x20 }), -1))
	} else {
		add("quoted extension headers", true, k, k.err(typ, code, mtu, insert(k, 0, slices.Concat(pad(60), pad(43), pad(44), fragmentHeader(60, 7, 0, true), pad(transport))...), -1))
		k = next()
		add("a quoted chain that is cut off", false, k, k.err(typ, code, mtu, insert(k, 0, slices.Concat(pad(60), pad(transport))...), 52))
		k = next()
		add("a quoted chain that goes on behind the quote", false, k, k.err(typ, code, mtu, insert(k, 60, transport, 200, 0, 0, 0, 0, 0, 0), -1))
		k = next()
		add("a quoted later fragment", false, k, k.err(typ, code, mtu, insert(k, 44, fragmentHeader(transport, 7, 8, false)...), -1))
		k = next()
		var long []byte
		for range 10 {
			long = append(long, pad(60)...)
		}
		add("11 quoted extension headers", false, k, k.err(typ, code, mtu, insert(k, 60, append(long, pad(transport)...)...), -1))
	}
	k = next()
	whole := k.err(typ, code, mtu, k.quote(nil), -1)
	add("an error in a first fragment", false, k, func(n Net) []byte {
		f := whole(n)
		w := way{from: k.to, src: k.src, dst: k.src}
		if k.v4() {
			return w.refragment(f[34:82], f, policy.ProtoICMP)(n)
		}
		return w.refragment(f[54:102], f, policy.ProtoICMPv6)(n)
	})
	return rows
}

// refragment is a first fragment with the addresses of a frame.
func (w way) refragment(l4, f []byte, proto uint8) Frame {
	if w.v4() {
		w.src = netip.AddrFrom4([4]byte(f[26:30]))
	} else {
		w.src = netip.AddrFrom16([16]byte(f[22:38]))
	}
	return w.fragment(proto, 0x7100, 0, true, l4)
}

// Silence are packets about which no error may be sent, whatever is wrong with them.
func Silence() (rows []Case) {
	one := func(src, dst netip.Addr, edit ...func(gopacket.SerializableLayer)) Frame {
		return fromOne(func(d, s policy.MAC) []byte { return UDP(d, s, src, dst, 8, append(edit, TTL(1))...) })
	}
	const v4, v6 = "RFC 1812 4.3.2.7", "RFC 4443 2.4(e)"
	for _, s := range []string{"0.0.0.0", "0.1.2.3", "127.0.0.1", "169.254.1.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.0", "192.0.2.255"} {
		rows = append(rows, drop("TTL 1 from "+s, "case 68 (f); "+v4, One, policy.MartianSrc, one(ip(s), X4)))
	}
	for _, s := range []string{"::", "::1", "ff02::1"} {
		rows = append(rows, drop("hop limit 1 from "+s, "case 68 (f); "+v6, One, policy.MartianSrc, one(ip(s), X6)))
	}
	rows = append(rows,
		drop("hop limit 1 from the subnet's anycast address", "case 68 (h); RFC 4291 2.6.1", One, policy.IP6Binding, one(ip("2001:db8:3:2::"), X6)),
		drop("TTL 1 to a directed broadcast", "case 68 (c); "+v4, One, policy.Broadcast, one(One4, ip("192.0.2.255"))),
		drop("TTL 1 to everyone", "case 68 (c); "+v4, One, policy.Broadcast, one(One4, ip("255.255.255.255"))))
	for _, w := range ways {
		family, header := v4, 20
		if !w.v4() {
			family, header = v6, 40
		}
		short := func(f Frame) Frame { // with TTL or hop limit 1
			return func(n Net) []byte {
				b := f(n)
				if w.v4() {
					b[22], b[24], b[25] = 1, 0, 0
					binary.BigEndian.PutUint16(b[24:], ^policy.FoldChecksum(policy.Sum(b[14:34], 0)))
				} else {
					b[21] = 1
				}
				return b
			}
		}
		bcast := func(f Frame) Frame {
			return func(n Net) []byte { b := f(n); copy(b, broadcast[:]); return b }
		}
		udp := w.packet(policy.ProtoUDP, udpBytes)
		rows = append(rows,
			drop("TTL 1 in a broadcast frame, "+w.name, "case 68 (d); "+family, w.from, policy.L2Multicast, bcast(short(udp))),
			drop("TTL 1 of a later fragment, "+w.name, "case 68 (e); "+family, w.from, policy.TTLExceeded, short(w.part(0x7200, part{80, 100, true}))).after(w.from, w.part(0x7200, part{0, 80, false})))
		k := talk{w, 30000 + uint16(header), false}
		if w.from == Uplink {
			k.port += 1
		}
		for _, e := range relatedErrors(w.v4()) {
			rows = append(rows, k.open(drop(fmt.Sprintf("TTL 1 of error %d/%d, %s", e.typ, e.code, w.name), "case 68 (a); "+family, w.to, policy.TTLExceeded, short(k.err(e.typ, e.code, 1400, k.quote(nil), -1)))))
		}
		redirect := short(errorFrom(w.from, w.src, w.dst, 5, 1, 0, func(n Net) []byte { return udp(n)[14:] }))
		if w.v4() {
			rows = append(rows, drop("TTL 1 of a redirect, "+w.name, "case 68 (b); "+family, w.from, policy.Redirect, redirect))
		}
	}
	return rows
}

// HopLimits are packets whose time is up, on every way, and those for which it does not matter.
func HopLimits() (rows []Case) {
	for _, w := range ways {
		for _, ttl := range []uint8{0, 1} {
			f := w.frame(func(d, s policy.MAC) []byte { return UDP(d, s, w.src, w.dst, 8, TTL(ttl)) })
			typ, src := uint8(3), Router6
			if w.v4() {
				typ, src = 11, Router4
			}
			rows = append(rows, w.refused(fmt.Sprintf("TTL or hop limit %d, %s", ttl, w.name), "case 60; RFC 1812 5.3.1, RFC 8200 3", policy.TTLExceeded, src, typ, 0, 0, f))
		}
		rows = append(rows, through("TTL or hop limit 2 and 255, "+w.name, "case 60; RFC 1812 5.3.1, RFC 8200 3", w,
			w.frame(func(d, s policy.MAC) []byte { return UDP(d, s, w.src, w.dst, 8, TTL(2)) }), w.frame(func(d, s policy.MAC) []byte { return UDP(d, s, w.src, w.dst, 8, TTL(255)) })))
	}
	for _, w := range []way{{"IPv4", One, One, One4, Router4}, {"IPv6", One, One, One6, Router6}, {"fe80::1", Two, Two, ip("fe80::216:3eff:fe00:2"), LL1}, {"the internet", Uplink, Uplink, X4, Router4}} {
		for _, ttl := range []uint8{0, 1} {
			rows = append(rows, answer(fmt.Sprintf("echo to the router with TTL %d, %s", ttl, w.name), "case 60; RFC 1122 3.2.1.7, RFC 8200 3", w.from,
				w.frame(func(d, s policy.MAC) []byte { return Echo(d, s, w.src, w.dst, false, 8, TTL(ttl)) }),
				func(n Net) []byte {
					mac, dst := n.macs(w.from)
					return Echo(dst, mac, w.dst, w.src, true, 8)
				}))
		}
	}
	dns := way{"", One, One, One4, Dom04}
	return append(rows, dns.refused("TTL 1 to dom0", "case 60; RFC 1812 5.3.1", policy.TTLExceeded, Router4, 11, 0, 0, fromOne(func(d, s policy.MAC) []byte {
		f := UDP(d, s, One4, Dom04, 8, TTL(1))
		binary.BigEndian.PutUint16(f[36:], 53)
		return f
	})))
}

type typeCode struct{ typ, code uint8 }

// relatedErrors are the errors that routers and hosts send about packets: RFC 792 with RFC 1812 5.2.7, and RFC 4443 with RFC 4890 4.3.
func relatedErrors(v4 bool) (list []typeCode) {
	codes := func(typ uint8, n int) {
		for i := range n {
			list = append(list, typeCode{typ, uint8(i)})
		}
	}
	if v4 {
		codes(3, 16)
		codes(11, 2)
		codes(12, 3)
		return list
	}
	codes(1, 9)
	codes(2, 1)
	codes(3, 2)
	codes(4, 11)
	return list
}

// ICMPTypes are types in both directions: as first packets, and errors about a flow.
func ICMPTypes() (rows []Case) {
	for _, w := range ways {
		ref := "case 70; RFC 4890 4.3"
		if w.v4() {
			ref = "case 70; RFC 6918, RFC 6633"
		}
		first := func(reason policy.Reason, types ...uint8) {
			for _, t := range types {
				rows = append(rows, drop(fmt.Sprintf("ICMP type %d, %s", t, w.name), ref, w.from, reason,
					errorFrom(w.from, w.src, w.dst, t, 0, 1400, func(Net) []byte { return pay(24) })))
			}
		}
		k := talk{w, 31000, false}
		if w.from == Uplink {
			k.port++
		}
		for _, e := range relatedErrors(w.v4()) {
			rows = append(rows, k.open(pass(fmt.Sprintf("error %d/%d about a flow, %s", e.typ, e.code, w.name), ref, w.to, k.err(e.typ, e.code, 1400, k.quote(nil), -1), w.from)))
		}
		if w.v4() {
			first(policy.NoFlow, 0)
			first(policy.Unrelated, 3, 11, 12)
			first(policy.Redirect, 5)
			first(policy.ICMPType, 1, 2, 4, 6, 7, 9, 10, 13, 14, 15, 16, 17, 18, 19, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 252, 253, 254, 255)
			rows = append(rows, k.open(drop("source quench about a flow, "+w.name, ref, w.to, policy.ICMPType, k.err(4, 0, 0, k.quote(nil), -1))),
				drop("ICMPv6 in IPv4, "+w.name, "case 70; RFC 4443 2.1", w.from, policy.NoFlow, w.packet(policy.ProtoICMPv6, append([]byte{128, 0, 0, 0, 0, 7, 0, 1}, pay(8)...))))
			continue
		}
		first(policy.NoFlow, 129)
		first(policy.Unrelated, 1, 3, 4, 2)
		first(policy.NDHopLimit, 133, 134, 135, 136, 137)
		first(policy.ICMPType, 0, 5, 99, 100, 101, 102, 126, 127, 130, 131, 132, 138, 139, 140, 141, 142, 143, 144, 145, 146, 147, 148, 149, 150, 151, 152, 153, 154, 155, 158, 160, 161, 199, 200, 201, 202, 254, 255)
		for _, e := range []typeCode{{3, 2}, {3, 255}, {4, 11}, {4, 255}, {5, 0}, {100, 0}, {127, 0}} {
			rows = append(rows, k.open(drop(fmt.Sprintf("error %d/%d about a flow, %s", e.typ, e.code, w.name), ref, w.to, policy.ICMPType, k.err(e.typ, e.code, 1400, k.quote(nil), -1))))
		}
		rows = append(rows, drop("ICMP in IPv6, "+w.name, "case 70; RFC 4443 2.1", w.from, policy.NoFlow, w.packet(policy.ProtoICMP, append([]byte{8, 0, 0, 0, 0, 7, 0, 1}, pay(8)...))))
	}
	return rows
}
