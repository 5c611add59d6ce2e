package policy

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// way is all that package policy does with a frame, in the router's order: parser, guard, whom it is for, and the engine.
type way struct {
	view   *View
	engine *Engine
	p      Packet
	now    time.Duration
}

var (
	wayUplinkMAC   = MAC{2, 0, 0, 0, 0, 2}
	wayProviderMAC = MAC{2, 0, 0, 0, 0, 3}
	wayHost        = netip.MustParseAddr("203.0.113.5") // dom0's; the provider may speak from it too
)

// newWay makes a way for guests, of which each has a policy of its own.
func newWay(t testing.TB, networks []*Network, guests []GuestPolicy, flows int) *way {
	t.Helper()
	var list []*Guest
	for _, g := range guests {
		list = append(list, g.Guest)
	}
	b, err := NewBindings(networks, list)
	if err != nil {
		t.Fatal(err)
	}
	e, err := NewEngine(guests, nil, flows)
	if err != nil {
		t.Fatal(err)
	}
	host, broadcasts := map[netip.Addr]bool{wayHost: true}, map[netip.Addr]bool{}
	for _, n := range networks {
		if first, last := Edges(n.Prefix); first.IsValid() {
			broadcasts[first], broadcasts[last] = true, true
		}
	}
	v := &View{Bindings: b, RouterMAC: testDst, UplinkMAC: wayUplinkMAC, Held: host, Upstream: host, Broadcasts: broadcasts, LinkLocals: NewLinkLocals()}
	return &way{view: v, engine: e, now: time.Hour}
}

// pass tells what becomes of a frame that comes from a zone.
func (w *way) pass(frame []byte, zone Zone) Reason {
	p := &w.p
	if r := p.Parse(frame, Offload{}); r != None {
		return r
	}
	from, r := End{Zone: zone}, None
	switch zone {
	case ZoneGuest:
		from.Guest, r = w.view.FromGuest(p)
	case ZoneHost:
		r = w.view.FromHost(p)
	default:
		r = w.view.FromUplink(p)
	}
	if r != None || p.EtherType == EtherARP || p.IsND() {
		return r
	}
	to := End{Zone: ZoneUplink}
	if g := w.view.ByAddr(p.Dst); g != nil {
		to = End{Zone: ZoneGuest, Guest: g}
	} else if w.view.Held[p.Dst] {
		to = End{Zone: ZoneHost}
	}
	return w.engine.Decide(p, from, to, w.now).Reason
}

// sent is a frame and where it comes from.
type sent struct {
	frame []byte
	zone  Zone
}

// byGuest gives a frame the MAC of a guest of wayGuests, by its number.
func byGuest(n byte, frame []byte) sent {
	copy(frame[6:], testSrc[:])
	frame[11] = 1 + n
	return sent{frame, ZoneGuest}
}

func byUplink(frame []byte) sent {
	copy(frame, wayUplinkMAC[:])
	copy(frame[6:], wayProviderMAC[:])
	return sent{frame, ZoneUplink}
}

// wayGuests are the guests of TestEngineAllocatesNothing, by what is special about them.
const (
	freeGuest byte = iota
	mutedGuest
	packetsGuest
	bandwidthGuest
	newFlowsGuest
	idleGuest
)

func wayGuests() (guests []GuestPolicy) {
	accept := Chain{Default: Accept}
	ingress := Chain{Default: Drop, Rules: []Rule{{Action: Accept, Proto: ProtoUDP, Ports: []PortRange{{53, 53}}}}}
	for i := range idleGuest + 1 {
		g := &Guest{ID: int(i), Side: SideGuest + Side(i), Name: string('a' + rune(i)), MAC: MAC{0, 0x16, 0x3e, 0, 0, 1 + i}, Addrs: []netip.Prefix{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, 10 + i}), 32), netip.PrefixFrom(wayAddr6(i), 128)}}
		p := &Policy{Name: g.Name, Egress: accept, Ingress: ingress}
		switch i {
		case mutedGuest:
			p.Egress = Chain{Default: Drop}
		case packetsGuest:
			p.Limits.Packets = 1
		case bandwidthGuest:
			p.Limits.Bandwidth = 1000
		case newFlowsGuest:
			p.Limits.NewFlows = 1
		}
		guests = append(guests, GuestPolicy{g, p})
	}
	return guests
}

// wayAddr6 is 2001:db8:3:2:1::10 for the first guest, and the next ones for the others.
func wayAddr6(n byte) netip.Addr {
	a := v6src.As16()
	a[15] += n
	return netip.AddrFrom16(a)
}

// wayFlows are so few that guests have no share of them to themselves, and one may find none.
const wayFlows = 8

// A packet costs no memory, whatever becomes of it. Each row is a story from nothing, of which all but the last frame pass; it is told again
// after all its flows have expired, so that new flows take the memory of old ones.
func TestEngineAllocatesNothing(t *testing.T) {
	covered := map[Reason]bool{}
	networks := []*Network{{Name: "v4", Prefix: netip.MustParsePrefix("192.0.2.0/24")}, {Name: "v6", Prefix: netip.MustParsePrefix("2001:db8:3:2::/64")}}
	for _, c := range slices.Concat(passingWays(), guardedWays(), refusedWays()) {
		w := newWay(t, networks, wayGuests(), wayFlows)
		covered[c.want] = true
		n := testing.AllocsPerRun(20, func() {
			w.now += 3 * time.Hour
			for i, s := range c.story {
				want := None
				if i == len(c.story)-1 {
					want = c.want
				}
				if r := w.pass(s.frame, s.zone); r != want {
					t.Fatalf("%s: frame %d: %v, want %v", c.name, i, r, want)
				}
			}
		})
		if n != 0 {
			t.Errorf("%s: %v allocations", c.name, n)
		}
	}
	for r := range HostSource + 1 {
		if !covered[r] && r != NDLimit { // counted by the router
			t.Errorf("no row for %v", r)
		}
	}
	for r := TCPFlags; r <= LimitNewFlows; r++ {
		if !covered[r] {
			t.Errorf("no row for %v", r)
		}
	}
}

type wayRow struct {
	name  string
	want  Reason // of the last frame
	story []sent
}

var (
	four = ends("192.0.2.10:40000", "198.51.100.7:443")
	six  = ends("[2001:db8:3:2:1::10]:40000", "[2001:db8:ffff::7]:443")
)

// out and back are frames of a flow that the first guest has opened.
func out(e flowEnds, proto uint8, l4 []byte) sent {
	return byGuest(freeGuest, e.frame(false, proto, l4, nil))
}
func back(e flowEnds, proto uint8, l4 []byte) sent { return byUplink(e.frame(true, proto, l4, nil)) }

// opened is a TCP handshake.
func opened(e flowEnds) []sent {
	return []sent{out(e, ProtoTCP, tcpBytes(tcpSYN, 0, 0, 1000, 0)), back(e, ProtoTCP, tcpBytes(tcpSYN|tcpACK, 0, 1, 1000, 0)),
		out(e, ProtoTCP, tcpBytes(tcpACK, 1, 1, 1000, 0))}
}

func fragment4(off, n int, more bool) sent {
	l4 := make([]byte, n)
	if off == 0 {
		l4 = udp(n - 8)
	}
	return byGuest(freeGuest, four.frame(false, ProtoUDP, l4, fragmentField(7, off, more)))
}

func fragment6(off byte, l4 []byte) sent {
	more := byte(0)
	if off == 0 {
		more, l4 = 1, ports(l4, 40000, 443)
	}
	return out(six, ProtoFragment, cat([]byte{ProtoUDP, 0, 0, off | more, 0, 0, 0, 7}, l4))
}

// unreachable is an error of the other end about a frame.
func unreachable(e flowEnds, about []byte) sent {
	if e.src.Addr().Is4() {
		return back(e, ProtoICMP, cat([]byte{3, 3, 0, 0, 0, 0, 0, 0}, about[EthernetLen:]))
	}
	return back(e, ProtoICMPv6, cat([]byte{1, 4, 0, 0, 0, 0, 0, 0}, about[EthernetLen:]))
}

func arp(spa ...byte) []byte {
	return ethernet(EtherARP, cat([]byte{0, 1, 8, 0, 6, 4, 0, 1, 0, 0x16, 0x3e, 0, 0, 1}, spa, make([]byte, 6), []byte{192, 0, 2, 1})...)
}

func passingWays() (rows []wayRow) {
	for name, e := range map[string]flowEnds{"IPv4": four, "IPv6": six} {
		ask, answer, proto := byte(8), byte(0), uint8(ProtoICMP)
		if e == six {
			ask, answer, proto = 128, 129, ProtoICMPv6
		}
		datagram := out(e, ProtoUDP, udp(8))
		rows = append(rows, []wayRow{
			{"TCP, both ways", None, append(opened(e), out(e, ProtoTCP, tcpBytes(tcpACK, 1, 1, 1000, 100)),
				back(e, ProtoTCP, tcpBytes(tcpACK, 1, 101, 1000, 100)))},
			{"UDP, both ways", None, []sent{datagram, datagram, back(e, ProtoUDP, udp(8))}},
			{"echo", None, []sent{out(e, proto, echo(ask, 7)), out(e, proto, echo(ask, 7)), back(e, proto, echo(answer, 7))}},
			{"an ICMP error", None, []sent{datagram, unreachable(e, datagram.frame)}},
			{"another protocol", None, []sent{out(e, 50, make([]byte, 12)), back(e, 50, make([]byte, 12))}},
		}...)
		for i := len(rows) - 5; i < len(rows); i++ {
			rows[i].name += ", " + name
		}
	}
	peer := flowEnds{four.src, netip.MustParseAddrPort("192.0.2.15:53")}
	host := flowEnds{netip.AddrPortFrom(wayHost, 53), netip.MustParseAddrPort("192.0.2.10:53")}
	solicit := func(from string) sent {
		return byGuest(freeGuest, nd(135, from, "ff02::1:ff00:11", target("2001:db8:3:2:1::11", sllao...), nil))
	}
	return append(rows, []wayRow{
		{"fragments", None, []sent{fragment4(0, 32, true), fragment4(32, 32, false)}},
		{"fragments, IPv6", None, []sent{fragment6(0, udp(8)), fragment6(16, make([]byte, 8))}},
		{"ARP", None, []sent{byGuest(freeGuest, arp(192, 0, 2, 10))}},
		{"ARP of the provider", None, []sent{byUplink(providersARP())}},
		{"a neighbour solicitation", None, []sent{solicit("2001:db8:3:2:1::10")}},
		{"one from a link-local address", None, []sent{solicit("fe80::10")}},
		{"a neighbour advertisement", None, []sent{byGuest(freeGuest, nd(136, "2001:db8:3:2:1::10", "ff02::1", target("2001:db8:3:2:1::10"), nil))}},
		{"to another guest", None, []sent{out(peer, ProtoUDP, udp(8)), byGuest(idleGuest, peer.frame(true, ProtoUDP, udp(8), nil))}},
		{"from dom0", None, []sent{{host.frame(false, ProtoUDP, udp(8), nil), ZoneHost}, out(flowEnds{host.dst, host.src}, ProtoUDP, udp(8))}},
	}...)
}

func providersARP() []byte {
	f := arp(198, 51, 100, 1)
	copy(f[EthernetLen+8:], wayProviderMAC[:])
	return f
}

// edited changes a frame of the first guest at a place; bytes of the IPv4 header change its checksum.
func edited(frame []byte, at int, with ...byte) sent {
	copy(byGuest(freeGuest, frame).frame[at:], with)
	return sent{frame, ZoneGuest}
}

// from4 and to4 are datagrams from and to an address.
func from4(a ...byte) []byte { return v4(ProtoUDP, udp(0), func(ip []byte) { copy(ip[12:], a) }) }
func to4(a ...byte) []byte   { return v4(ProtoUDP, udp(0), func(ip []byte) { copy(ip[16:], a) }) }

// guardedWays are what the parser or a guard refuses.
func guardedWays() (rows []wayRow) {
	one := func(want Reason, s sent) { rows = append(rows, wayRow{want.String(), want, []sent{s}}) }
	guest := func(want Reason, frame []byte) { one(want, byGuest(freeGuest, frame)) }
	solicit := func(ip int, body []byte) []byte {
		return nd(135, "2001:db8:3:2:1::10", "ff02::1:ff00:11", body, func(b []byte) { b[7] = byte(ip) })
	}
	ns := target("2001:db8:3:2:1::11", sllao...)
	guest(Malformed, ethernet(EtherIPv4))
	one(Checksum, edited(v4(ProtoUDP, udp(0), nil), EthernetLen+10, 0, 0))
	guest(VLAN, ethernet(0x8100, 0, 1, 8, 0))
	guest(EtherType, ethernet(0x1234))
	guest(HeaderChain, v6(ProtoDstOpts, cat(bytes.Repeat(ext(ProtoDstOpts, 8), MaxHeaders+1), udp(0)), nil))
	guest(RoutingHeader, v6(ProtoRouting, cat([]byte{ProtoUDP, 0, 0, 1, 0, 0, 0, 0}, udp(0)), nil))
	guest(IPv6Option, v6(ProtoHopByHop, cat([]byte{ProtoICMPv6, 0, 0x40, 0, 0, 0, 0, 0}, []byte{135, 0, 0, 0}, ns), func(ip []byte) { ip[7] = 255 }))
	guest(SourceRoute, v4(ProtoUDP, cat([]byte{131, 3, 4, 0}, udp(0)), func(ip []byte) { ip[0] = 0x46 }))
	guest(TinyFragment, v4(ProtoTCP, tcp(tcpSYN)[:8], fragmentField(1, 0, true)))
	guest(OversizeFrag, v4(ProtoUDP, make([]byte, 16), fragmentField(1, 65528, false)))
	guest(NDHopLimit, solicit(64, ns))
	guest(NDMalformed, solicit(255, ns[:8]))
	guest(NDFragment, v6(ProtoFragment, cat([]byte{ProtoICMPv6, 0, 0, 0, 0, 0, 0, 1}, []byte{135, 0, 0, 0}, ns), nil))
	guest(ARPMalformed, ethernet(EtherARP, make([]byte, 28)...))
	one(MACInvalid, edited(to4(198, 51, 100, 7), 6, 1))
	one(MACBinding, edited(to4(198, 51, 100, 7), 11, 99))
	one(OtherHost, edited(to4(198, 51, 100, 7), 5, 99))
	one(L2Multicast, edited(to4(198, 51, 100, 7), 0, BroadcastMAC[:]...))
	guest(MartianSrc, from4(127, 0, 0, 1))
	guest(MartianDst, to4(127, 0, 0, 1))
	guest(IPBinding, from4(192, 0, 2, 99))
	guest(IP6Binding, ends("[2001:db8:3:2:1::99]:1", "[2001:db8:ffff::7]:2").frame(false, ProtoUDP, udp(0), nil))
	one(SpoofUplink, byUplink(from4(192, 0, 2, 99)))
	guest(ARPSpoof, arp(192, 0, 2, 99))
	guest(NDSpoof, solicit(255, target("2001:db8:3:2:1::11", 1, 1, 0, 0x16, 0x3e, 0, 0, 9)))
	guest(RAGuard, nd(134, "fe80::10", "ff02::1", make([]byte, 12), nil))
	guest(Redirect, v4(ProtoICMP, echo(5, 1), nil))
	guest(ICMPType, v4(ProtoICMP, echo(13, 1), nil))
	guest(DHCPGuard, v4(ProtoUDP, ports(udp(8), 67, 68), nil))
	one(HostSource, sent{from4(192, 0, 2, 10), ZoneHost})
	guest(Multicast, to4(224, 0, 0, 251))
	guest(Broadcast, to4(192, 0, 2, 255))
	guest(LinkLocal, v6(ProtoUDP, udp(0), func(ip []byte) { copy(ip[24:], []byte{0xfe, 0x80}) }))
	return rows
}

// refusedWays are what state, rules or limits refuse.
func refusedWays() (rows []wayRow) {
	add := func(want Reason, story ...sent) { rows = append(rows, wayRow{want.String(), want, story}) }
	segment := func(flags byte, seq uint32) sent { return out(four, ProtoTCP, tcpBytes(flags, seq, 1, 1000, 0)) }
	datagram := out(four, ProtoUDP, udp(8))
	add(TCPFlags, segment(0, 0))
	add(TCPState, segment(tcpSYN, 0), segment(tcpACK, 1))
	add(TCPWindow, append(opened(four), segment(tcpACK, 900000))...)
	add(NoFlow, segment(tcpACK, 1))
	add(NoFlow, back(four, ProtoICMP, echo(0, 7)))
	host := flowEnds{netip.AddrPortFrom(wayHost, 53), netip.MustParseAddrPort("192.0.2.10:53")}
	add(FlowSide, sent{host.frame(false, ProtoUDP, udp(8), nil), ZoneHost}, byUplink(host.frame(false, ProtoUDP, udp(8), nil)))
	var many []sent
	for port := range uint16(wayFlows) {
		e := flowEnds{netip.AddrPortFrom(four.src.Addr(), 1000+port), four.dst}
		many = append(many, out(e, ProtoUDP, udp(8)))
	}
	add(FlowLimit, append(many, byGuest(idleGuest, v4(ProtoUDP, udp(8), func(ip []byte) { ip[15] += idleGuest })))...)
	add(FragmentOverlap, fragment4(0, 32, true), fragment4(24, 32, false))
	add(FragmentOrphan, fragment4(32, 32, false))
	pieces := []sent{fragment4(0, 16, true)}
	for i := range maxRanges {
		pieces = append(pieces, fragment4(32+16*i, 8, true))
	}
	add(FragmentLimit, pieces...)
	add(Unrelated, unreachable(four, datagram.frame))
	add(EgressPolicy, byGuest(mutedGuest, v4(ProtoUDP, udp(8), func(ip []byte) { ip[15] += mutedGuest })))
	add(IngressPolicy, back(four, ProtoUDP, udp(8)))
	add(HostPolicy, out(flowEnds{four.src, netip.AddrPortFrom(wayHost, 53)}, ProtoUDP, udp(8)))
	limited := func(n byte, port uint16, size int) sent {
		return byGuest(n, v4(ProtoUDP, ports(udp(size), port, 53), func(ip []byte) { ip[15] += n }))
	}
	add(LimitPackets, slices.Repeat([]sent{limited(packetsGuest, 1, 8)}, 65)...)
	const size = 65536/2 - EthernetLen - IPv4Len - 8 // a quarter of the burst
	add(LimitBandwidth, slices.Repeat([]sent{limited(bandwidthGuest, 1, size)}, 5)...)
	add(LimitNewFlows, limited(newFlowsGuest, 1, 8), limited(newFlowsGuest, 2, 8))
	return rows
}

// A flow leads where its other end was. Where that address has come to be dom0's, or is dom0's no longer, the flow is no way around the rules of whose
// it is now.
func TestFlowEndsWithItsSide(t *testing.T) {
	datagram, asked := out(four, ProtoUDP, udp(8)), flowEnds{four.dst, netip.AddrPortFrom(four.src.Addr(), 53)}
	fromX, fromHost := byUplink(asked.frame(false, ProtoUDP, udp(8), nil)), sent{asked.frame(false, ProtoUDP, udp(8), nil), ZoneHost}
	answer := byGuest(freeGuest, asked.frame(true, ProtoUDP, udp(8), nil))
	failure := byGuest(freeGuest, asked.frame(true, ProtoICMP, cat([]byte{3, 3, 0, 0, 0, 0, 0, 0}, fromX.frame[EthernetLen:]), nil))
	for _, c := range []struct {
		name         string
		held         bool // before; then the other way round
		before, then sent
		want         Reason
	}{
		{"UDP", false, datagram, datagram, FlowSide},
		{"TCP", false, opened(four)[0], opened(four)[0], FlowSide},
		{"echo", false, out(four, ProtoICMP, echo(8, 7)), out(four, ProtoICMP, echo(8, 7)), FlowSide},
		{"a later fragment", false, fragment4(0, 32, true), fragment4(32, 32, false), FlowSide},
		{"an answer", false, fromX, answer, FlowSide},
		{"an ICMP error", false, fromX, failure, Unrelated},
		{"an answer to dom0", true, fromHost, answer, FlowSide},
		{"an ICMP error to dom0", true, fromHost, failure, Unrelated},
	} {
		for _, moves := range []bool{false, true} {
			w := newWay(t, []*Network{{Name: "v4", Prefix: netip.MustParsePrefix("192.0.2.0/24")}}, wayGuests(), wayFlows)
			w.view.Held[four.dst.Addr()] = c.held
			if r := w.pass(c.before.frame, c.before.zone); r != None {
				t.Fatalf("%s: the flow is not opened: %v", c.name, r)
			}
			want := None
			if moves {
				w.view.Held[four.dst.Addr()], want = !c.held, c.want
			}
			if r := w.pass(c.then.frame, c.then.zone); r != want {
				t.Errorf("%s, whose end moves: %v: %v, want %v", c.name, moves, r, want)
			}
		}
	}
}
