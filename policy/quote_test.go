package policy

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

// An ICMP error passes when it quotes what the flow has sent, comes from where that went, and goes to whom it was from.
func TestRelated(t *testing.T) {
	four, six := ends("192.0.2.10:40000", "198.51.100.7:443"), ends("[2001:db8:3:2:1::10]:40000", "[2001:db8:ffff::7]:443")
	router4, router6 := netip.MustParseAddrPort("203.0.113.1:0"), netip.MustParseAddrPort("[2001:db8:eeee::1]:0")
	const base0, base1 = 1000000, 2000000
	// errorTo makes an error from a router to a host about the datagram in.
	errorTo := func(to netip.AddrPort, typ, code byte, in []byte) *Packet {
		proto, from := uint8(ProtoICMP), router4
		if to.Addr().Is6() {
			proto, from = ProtoICMPv6, router6
		}
		return flowEnds{from, to}.packet(t, false, proto, cat([]byte{typ, code, 0, 0, 0, 0, 5, 120}, in))
	}
	mtu := func(p *Packet, n uint32) *Packet {
		binary.BigEndian.PutUint32(p.Frame[p.L4+4:], n)
		return p
	}
	ip := func(e flowEnds, back bool, proto uint8, l4 []byte, edit func([]byte)) []byte {
		return e.frame(back, proto, l4, edit)[EthernetLen:]
	}
	seg := func(e flowEnds, back bool, seq uint32) []byte {
		return ip(e, back, 6, tcpBytes(tcpACK, seq, 1, 1000, 400), nil)
	}
	datagram := func(e flowEnds, back bool) []byte { return ip(e, back, 17, udp(40), nil) }
	ping := func(e flowEnds, back bool, typ byte, id uint16) []byte { return ip(e, back, 1, echo(typ, id), nil) }
	other := ends("192.0.2.11:40000", "198.51.100.7:443")
	port := ends("192.0.2.10:40001", "198.51.100.7:443")
	options := func(b []byte) []byte { // eight bytes of IPv4 options
		b = cat(b[:20], []byte{1, 1, 1, 1, 1, 1, 1, 0}, b[20:])
		b[0] = 0x47
		return b
	}
	chain := func(headers ...byte) []byte { // extension headers of 8 bytes before TCP
		var b []byte
		for i := range headers {
			next := byte(ProtoTCP)
			if i+1 < len(headers) {
				next = headers[i+1]
			}
			h := ext(next, 8)
			if headers[i] == ProtoFragment {
				h = []byte{next, 0, 0, 1, 0, 0, 0, 9}
			}
			b = append(b, h...)
		}
		l4 := ports(tcpBytes(tcpACK, base0+1, 1, 1000, 0), 40000, 443)
		return ip(six, false, headers[0], cat(b, l4), nil)
	}
	many := make([]byte, MaxHeaders+1)
	for i := range many {
		many[i] = ProtoDstOpts
	}
	const uplink, guest = SideUplink, SideGuest
	for _, c := range []struct {
		name string
		p    *Packet
		from Side
		want bool
	}{
		{"port unreachable about UDP", errorTo(four.src, 3, 3, datagram(four, false)), uplink, true},
		{"time exceeded about UDP", errorTo(four.src, 11, 0, datagram(four, false)), uplink, true},
		{"parameter problem, IPv6", errorTo(six.src, 4, 0, datagram(six, false)), uplink, true},
		{"about the answer", errorTo(four.dst, 3, 3, datagram(four, true)), guest, true},
		{"fragmentation needed about TCP", errorTo(four.src, 3, 4, seg(four, false, base0+1)), uplink, true},
		{"packet too big about TCP", errorTo(six.src, 2, 0, seg(six, false, base0+1)), uplink, true},
		{"8 bytes of TCP", errorTo(four.src, 3, 4, seg(four, false, base0+1)[:28]), uplink, true},
		{"7 bytes of TCP", errorTo(four.src, 3, 4, seg(four, false, base0+1)[:27]), uplink, false},
		{"a cut IPv4 header", errorTo(four.src, 3, 4, seg(four, false, base0+1)[:19]), uplink, false},
		{"a cut IPv6 header", errorTo(six.src, 2, 0, seg(six, false, base0+1)[:39]), uplink, false},
		{"nothing", errorTo(six.src, 2, 0, nil), uplink, false},
		{"IPv4 options", errorTo(four.src, 3, 4, options(seg(four, false, base0+1))), uplink, true},
		{"IPv4 options, cut", errorTo(four.src, 3, 4, options(seg(four, false, base0+1))[:27]), uplink, false},
		{"a header length of 16", errorTo(four.src, 3, 4, ip(four, false, 6, tcpBytes(tcpACK, base0+1, 1, 1, 8), func(b []byte) { b[0] = 0x44 })), uplink, false},
		{"an MTU of 0, from before RFC 1191", mtu(errorTo(four.src, 3, 4, datagram(four, false)), 0), uplink, true},
		{"an MTU of 1", mtu(errorTo(four.src, 3, 4, datagram(four, false)), 1), uplink, false},
		{"an MTU of 67", mtu(errorTo(four.src, 3, 4, datagram(four, false)), 67), uplink, false},
		{"an MTU of 68", mtu(errorTo(four.src, 3, 4, datagram(four, false)), 68), uplink, true},
		{"67 in an error that has no MTU", mtu(errorTo(four.src, 3, 3, datagram(four, false)), 67), uplink, true},
		{"an MTU of 0, IPv6", mtu(errorTo(six.src, 2, 0, datagram(six, false)), 0), uplink, false},
		{"an MTU of 1279", mtu(errorTo(six.src, 2, 0, datagram(six, false)), 1279), uplink, false},
		{"an MTU of 1280", mtu(errorTo(six.src, 2, 0, datagram(six, false)), 1280), uplink, true},
		{"1279 in an error that has no MTU", mtu(errorTo(six.src, 1, 0, datagram(six, false)), 1279), uplink, true},
		{"what is on its way", errorTo(four.src, 3, 4, seg(four, false, base0+501)), uplink, true},
		{"its end", errorTo(four.src, 3, 4, seg(four, false, base0+1001)), uplink, true},
		{"a number not sent yet", errorTo(four.src, 3, 4, seg(four, false, base0+1002)), uplink, false},
		{"a number long acknowledged", errorTo(four.src, 3, 4, seg(four, false, base0)), uplink, false},
		{"the answer's numbers", errorTo(four.dst, 3, 4, seg(four, true, base1+1)), guest, true},
		{"not the answer's numbers", errorTo(four.dst, 3, 4, seg(four, true, base1+2)), guest, false},
		{"from the wrong side", errorTo(four.src, 3, 3, datagram(four, false)), guest, false},
		{"from dom0's side", errorTo(four.src, 3, 3, datagram(four, false)), SideHost, false},
		{"about the answer, from the wrong side", errorTo(four.dst, 3, 3, datagram(four, true)), uplink, false},
		{"to another host", errorTo(other.src, 3, 3, datagram(four, false)), uplink, false},
		{"to the other end", errorTo(four.dst, 3, 3, datagram(four, false)), uplink, false},
		{"about another host", errorTo(four.src, 3, 3, datagram(other, false)), uplink, false},
		{"about another port", errorTo(four.src, 3, 3, datagram(port, false)), uplink, false},
		{"about another protocol", errorTo(four.src, 3, 3, ip(four, false, 132, make([]byte, 12), nil)), uplink, false},
		{"about echo", errorTo(four.src, 3, 1, ping(four, false, 8, 7)), uplink, true},
		{"about another echo", errorTo(four.src, 3, 1, ping(four, false, 8, 8)), uplink, false},
		{"about an echo reply that was not sent", errorTo(four.dst, 3, 1, ping(four, true, 0, 7)), guest, false},
		{"about an error", errorTo(four.src, 3, 1, ping(four, false, 3, 7)), uplink, false},
		{"about a first fragment", errorTo(four.src, 11, 1, ip(four, false, 17, udp(40), fragmentField(7, 0, true))), uplink, true},
		{"about a later fragment", errorTo(four.src, 11, 1, ip(four, false, 17, udp(40), fragmentField(7, 8, false))), uplink, false},
		{"source quench", errorTo(four.src, 4, 0, datagram(four, false)), uplink, false},
		{"redirect", errorTo(four.src, 5, 1, datagram(four, false)), uplink, false},
		{"an unknown ICMPv6 error", errorTo(six.src, 100, 0, datagram(six, false)), uplink, false},
		{"not an error", errorTo(four.src, 8, 0, datagram(four, false)), uplink, false},
		{"IPv4 in ICMPv6", errorTo(six.src, 1, 0, datagram(four, false)), uplink, false},
		{"IPv6 in ICMP", errorTo(four.src, 3, 0, datagram(six, false)), uplink, false},
		{"extension headers", errorTo(six.src, 2, 0, chain(ProtoHopByHop, ProtoDstOpts, ProtoRouting, ProtoFragment, ProtoDstOpts)), uplink, true},
		{"as many headers as the parser reads", errorTo(six.src, 2, 0, chain(many[:MaxHeaders]...)), uplink, true},
		{"more headers", errorTo(six.src, 2, 0, chain(many...)), uplink, false},
		{"a cut chain", errorTo(six.src, 2, 0, chain(ProtoDstOpts, ProtoDstOpts)[:50]), uplink, false},
		{"a chain that ends beyond the quote", errorTo(six.src, 2, 0, ip(six, false, ProtoDstOpts, []byte{6, 200, 0, 0, 0, 0, 0, 0}, nil)), uplink, false},
		{"a later fragment, IPv6", errorTo(six.src, 2, 0, ip(six, false, ProtoFragment, cat([]byte{6, 0, 0, 9, 0, 0, 0, 9}, make([]byte, 8)), nil)), uplink, false},
		{"in fragments", flowEnds{router4, four.src}.edited(t, false, 1, cat([]byte{3, 3, 0, 0, 0, 0, 0, 0}, datagram(four, false)[:40]), fragmentField(3, 0, true)), uplink, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			table, now := NewFlowTable(100, NewFlowBudget(100)), time.Hour
			for _, e := range []flowEnds{four, six} {
				for _, s := range parseScript(t, handshake+`
					> A 1 ack 1 len 1000 | established`) {
					playTCP(t, table, e, [2]uint32{base0, base1}, s, now)
				}
				if _, r := table.Create(e.packet(t, false, 17, udp(40)), guest, uplink, 4, 5, now); r != None {
					t.Fatal(r)
				}
				table.Lookup(e.packet(t, true, 17, udp(40)), uplink, now)
			}
			if _, r := table.Create(four.packet(t, false, 1, echo(8, 7)), guest, uplink, 4, 5, now); r != None {
				t.Fatal(r)
			}
			before := snapshot(table, now)
			hit, ok := table.Related(c.p, c.from, now+time.Second)
			if ok != c.want {
				t.Fatalf("related: %v", ok)
			}
			if ok && hit.Reply != (c.from == uplink) {
				t.Errorf("the error goes the other way: %+v", hit)
			}
			after := snapshot(table, now)
			for i := range before {
				if before[i] != after[i] {
					t.Error("an error has changed a flow")
				}
			}
			if _, ok := table.Related(c.p, c.from, now+3*time.Hour); ok {
				t.Error("related to what has expired")
			}
		})
	}
}

// A SYN that nobody has answered may be unreachable; only its own number counts.
// Packet Too Big about what a guest has sent, or was sent, passes whatever its rules say of ICMPv6 (RFC 4890 4.3.1), and so does fragmentation needed.
func TestTooBigWhateverTheRules(t *testing.T) {
	never := []Rule{{Name: "no icmpv6", Action: Drop, Proto: ProtoICMPv6}, {Name: "no icmp", Action: Drop, Proto: ProtoICMP}, {Name: "udp", Action: Accept, Proto: ProtoUDP}}
	pol := &Policy{Egress: Chain{Default: Drop, Rules: never}, Ingress: Chain{Default: Drop, Rules: never}}
	for _, e := range []flowEnds{ends("192.0.2.10:40000", "198.51.100.7:443"), ends("[2001:db8:3:2:1::10]:40000", "[2001:db8:ffff::7]:443")} {
		for _, opens := range []string{"the guest", "the internet", "nobody"} {
			host := netip.PrefixFrom(e.src.Addr(), e.src.Addr().BitLen())
			g := &Guest{Side: SideGuest, Name: "one", Addrs: []netip.Prefix{host}}
			engine, err := NewEngine([]GuestPolicy{{g, pol}}, nil, 100)
			if err != nil {
				t.Fatal(err)
			}
			guest, uplink := End{Zone: ZoneGuest, Guest: g}, End{Zone: ZoneUplink}
			router, proto, typ, code := netip.MustParseAddrPort("203.0.113.1:0"), uint8(ProtoICMP), byte(3), byte(4)
			if e.src.Addr().Is6() {
				router, proto, typ, code = netip.MustParseAddrPort("[2001:db8:eeee::1]:0"), ProtoICMPv6, 2, 0
			}
			about := func(back bool) *Packet { // of the datagram that went there, or back
				to := e.src
				if back {
					to = e.dst
				}
				return flowEnds{router, to}.packet(t, false, proto, cat([]byte{typ, code, 0, 0, 0, 0, 5, 120}, e.frame(back, ProtoUDP, udp(40), nil)[EthernetLen:]))
			}
			send := func() { engine.Decide(e.packet(t, false, ProtoUDP, udp(40)), guest, uplink, time.Hour) }
			want := Accept
			switch opens {
			case "the guest":
				send()
				engine.Decide(e.packet(t, true, ProtoUDP, udp(40)), uplink, guest, time.Hour)
			case "the internet":
				engine.Decide(e.packet(t, true, ProtoUDP, udp(40)), uplink, guest, time.Hour)
				send()
			default:
				want = Drop
			}
			if v := engine.Decide(about(false), uplink, guest, time.Hour); v.Action != want {
				t.Errorf("%v, opened by %s: the guest is told %v (%v), want %v", e.src, opens, v.Action, v.Reason, want)
			}
			if v := engine.Decide(about(true), guest, uplink, time.Hour); v.Action != want {
				t.Errorf("%v, opened by %s: the internet is told %v (%v), want %v", e.src, opens, v.Action, v.Reason, want)
			}
		}
	}
}

func TestRelatedSYN(t *testing.T) {
	e := ends("192.0.2.10:40000", "198.51.100.7:443")
	table := NewFlowTable(10, NewFlowBudget(10))
	for _, s := range parseScript(t, "> S 0 | new syn-sent") {
		playTCP(t, table, e, [2]uint32{5000, 0}, s, 0)
	}
	for seq, want := range map[uint32]bool{4999: false, 5000: true, 5002: false} {
		in := tcpBytes(tcpSYN, seq, 0, 1000, 0)
		p := flowEnds{e.dst, e.src}.packet(t, false, 1, cat([]byte{3, 1, 0, 0, 0, 0, 0, 0}, e.frame(false, 6, in, nil)[EthernetLen:]))
		if _, ok := table.Related(p, SideUplink, 0); ok != want {
			t.Errorf("sequence number %d: %v", seq, ok)
		}
	}
	back := e.frame(true, 6, tcpBytes(tcpSYN|tcpACK, 0, 0, 0, 0), nil)
	binary.BigEndian.PutUint32(back[EthernetLen+24:], 0)
	p := flowEnds{e.src, e.dst}.packet(t, false, 1, cat([]byte{3, 1, 0, 0, 0, 0, 0, 0}, back[EthernetLen:]))
	if _, ok := table.Related(p, SideGuest, 0); ok {
		t.Error("about an answer that has not been sent")
	}
}
