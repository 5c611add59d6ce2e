package netstackfacts

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/stack/gro"
)

// headerChainPanics: ipv6.go:2879 -> :1226 -> :1472.
// Differs: with Next Header 59 it takes 1241 bytes, the sheet says 1240: 40+1240 are just the 1280 that are allowed.
func headerChainPanics(t *testing.T) {
	body := func() []byte { return datagram(d1v6, xv6, nil) }
	for _, c := range []struct {
		name   string
		packet []byte
		panics bool
	}{
		{"59, 1240 bytes", ip6(d1v6, xv6, protoNone, make([]byte, 1240)), false},
		{"59, 1241 bytes", ip6(d1v6, xv6, protoNone, make([]byte, 1241)), true},
		{"destination options, 1240 bytes", ip6(d1v6, xv6, protoDst, ext(protoUDP, 1240, body())), false},
		{"destination options, 1248 bytes", ip6(d1v6, xv6, protoDst, ext(protoUDP, 1248, body())), true},
		{"hop-by-hop options, 1248 bytes", ip6(d1v6, xv6, protoHop, ext(protoUDP, 1248, body())), true},
		{"156 chained headers", ip6(d1v6, xv6, protoDst, chain(156, body())), true},
		// What follows the declared length counts as well: an Ethernet frame's padding, or a guest's.
		{"59, payload length 0, 1241 bytes behind it", trailing(ip6(d1v6, xv6, protoNone, nil), 1241), true},
	} {
		r := newRouter(t, conf{})
		text := panicOf(func() { r.lan.in(c.packet) })
		if !c.panics {
			if text != "" {
				t.Errorf("%s: panic: %s", c.name, text)
			}
			r.one(r.up)
			continue
		}
		if !strings.Contains(text, "unrecognized tcpip forwarding error: header is malformed") {
			t.Errorf("%s: panic = %q", c.name, text)
		}
		r.silent(r.lan, r.up)
	}
}

// chain is n destination options headers of 8 bytes before a UDP datagram.
func chain(n int, body []byte) []byte {
	body = ext(protoUDP, 8, body)
	for range n - 1 {
		body = ext(protoDst, 8, body)
	}
	return body
}

func trailing(packet []byte, n int) []byte { return append(packet, make([]byte, n)...) }

// writeErrorsPanic: ipv4.go:855,1328; ipv6.go:1226,1473. Only forwarded packets: what netstack sends itself it just counts, and
// what waited for a neighbour is written later with its error ignored (pending_packets.go:219).
func writeErrorsPanic(t *testing.T) {
	for _, c := range []struct {
		err    tcpip.Error
		panics bool
	}{
		{&tcpip.ErrNoBufferSpace{}, false},
		{&tcpip.ErrMessageTooLong{}, false},
		{&tcpip.ErrClosedForSend{}, false},
		{&tcpip.ErrInvalidEndpointState{}, true},
		{&tcpip.ErrWouldBlock{}, true},
		{&tcpip.ErrAborted{}, true},
		{&tcpip.ErrHostUnreachable{}, true},
		{&tcpip.ErrNetworkUnreachable{}, true},
		{&tcpip.ErrNotPermitted{}, true},
		{&tcpip.ErrBadBuffer{}, true},
	} {
		for _, packet := range [][]byte{ip4(d1, x, protoUDP, datagram(d1, x, nil)), ip6(d1v6, xv6, protoUDP, datagram(d1v6, xv6, nil))} {
			r := newRouter(t, conf{})
			r.up.fail = c.err
			text := panicOf(func() { r.lan.in(packet) })
			if got := strings.HasPrefix(text, "unrecognized tcpip forwarding error"); got != c.panics || (text != "") != c.panics {
				t.Errorf("%T: panic = %q, want one: %t", c.err, text, c.panics)
			}
		}
	}

	r := newRouter(t, conf{dynamic: true})
	r.lan.in(ip4(d1, x, protoUDP, datagram(d1, x, nil)))
	r.one(r.up) // who-has gw
	r.up.fail = &tcpip.ErrInvalidEndpointState{}
	r.up.in(arpPacket(arpReply, macGW, gw, up4))
	r.silent(r.up)

	r = newRouter(t, conf{})
	r.up.fail = &tcpip.ErrInvalidEndpointState{}
	r.up.in(ip4(gw, up4, protoICMP, icmp4(icmpEcho, 0, make([]byte, 4))))
	r.up.in(echo6(gwv6, up6, nil))
	r.up.in(arpPacket(arpRequest, macGW, gw, up4))
	r.silent(r.up, r.lan)
}

// rewritesChecksums: ipv4.go:832, ipv6.go:1204; ICMP is left alone.
func rewritesChecksums(t *testing.T) {
	// The datagram of the sheet is not known any more, so not its 0xf609: right is what a sender makes.
	wrong := func(l4 []byte, at int, sum uint16) []byte {
		b := bytes.Clone(l4)
		binary.BigEndian.PutUint16(b[at:], sum)
		return b
	}
	u4, u6 := datagram(d1, x, []byte("payload")), datagram(d1v6, xv6, []byte("payload"))
	t4, t6 := segment(d1, x, 1, 2, []byte("payload")), segment(d1v6, xv6, 1, 2, []byte("payload"))
	i4, i6 := icmp4(icmpEcho, 0, make([]byte, 4)), icmp6(d1v6, xv6, icmp6Echo, 0, make([]byte, 4))

	for _, transports := range []func(*stack.Options){nil, withTransports} { // the same whether UDP and TCP are registered or not
		for _, c := range []struct {
			name           string
			v6             bool
			proto          byte
			sent           []byte
			plain, offload []byte // what leaves without and with CapabilityTXChecksumOffload
		}{
			{"UDP, wrong", false, protoUDP, wrong(u4, 6, 0x1234), u4, wrong(u4, 6, 0x1234)},
			{"UDP, none", false, protoUDP, wrong(u4, 6, 0), u4, wrong(u4, 6, 0)},
			{"TCP, wrong", false, protoTCP, wrong(t4, 16, 0x1234), t4, wrong(t4, 16, 0x1234)},
			{"ICMP, wrong", false, protoICMP, wrong(i4, 2, 0x1234), wrong(i4, 2, 0x1234), wrong(i4, 2, 0x1234)},
			{"UDP over IPv6, wrong", true, protoUDP, wrong(u6, 6, 0x1234), u6, wrong(u6, 6, 0x1234)},
			{"UDP over IPv6, none", true, protoUDP, wrong(u6, 6, 0), u6, wrong(u6, 6, 0)},
			{"TCP over IPv6, wrong", true, protoTCP, wrong(t6, 16, 0x1234), t6, wrong(t6, 16, 0x1234)},
			{"ICMPv6, wrong", true, protoICMP6, wrong(i6, 2, 0x1234), wrong(i6, 2, 0x1234), wrong(i6, 2, 0x1234)},
		} {
			packet, headerLen := ip4(d1, x, c.proto, c.sent), 20
			if c.v6 {
				packet, headerLen = ip6(d1v6, xv6, c.proto, c.sent), 40
			}
			r := newRouter(t, conf{opts: transports})
			if got := r.transit(r.lan, r.up, packet)[headerLen:]; !bytes.Equal(got, c.plain) {
				t.Errorf("%s: leaves as %x, want %x", c.name, got, c.plain)
			}
			r = newRouter(t, conf{opts: transports, capsUp: stack.CapabilityTXChecksumOffload})
			if got := r.transit(r.lan, r.up, packet)[headerLen:]; !bytes.Equal(got, c.offload) {
				t.Errorf("%s: leaves with offload as %x, want %x", c.name, got, c.offload)
			}
		}
	}
}

// corruptsFragments: a fragment's bytes 6 and 7 are taken for a UDP checksum (16 and 17 for TCP's), in later fragments too
// (packet_buffer.go:1097). IPv6 fragments are left alone: the Next Header is 44.
func corruptsFragments(t *testing.T) {
	u, s := datagram(d1, x, bytes.Repeat([]byte("u"), 40)), segment(d1, x, 1, 2, bytes.Repeat([]byte{5 << 4}, 40))
	for _, c := range []struct {
		name    string
		proto   byte
		body    []byte
		flags   func(header.IPv4)
		at      int
		changed bool
	}{
		{"UDP, first", protoUDP, u[:24], fragmented(flagMF, 0), 6, true},
		{"UDP, last", protoUDP, u[24:], fragmented(0, 24), 6, true},
		{"UDP, last, of less than 8 bytes", protoUDP, u[41:], fragmented(0, 40), 6, false},
		{"TCP, first", protoTCP, s[:24], fragmented(flagMF, 0), 16, true},
		{"TCP, last, byte 12 like a data offset", protoTCP, s[24:], fragmented(0, 24), 16, true},
		{"ICMP", protoICMP, u[:24], fragmented(flagMF, 0), 2, false},
	} {
		for _, offload := range []bool{false, true} {
			cf := conf{}
			if offload {
				cf.capsUp = stack.CapabilityTXChecksumOffload
			}
			r := newRouter(t, cf)
			got := r.transit(r.lan, r.up, ip4(d1, x, c.proto, c.body, c.flags))[20:]
			if offload || !c.changed {
				if !bytes.Equal(got, c.body) {
					t.Errorf("%s, offload %t: changed to %x from %x", c.name, offload, got, c.body)
				}
				continue
			}
			want := bytes.Clone(c.body)
			copy(want[c.at:], got[c.at:c.at+2])
			if bytes.Equal(got, c.body) || !bytes.Equal(got, want) {
				t.Errorf("%s: leaves as %x, want only the bytes at %d changed in %x", c.name, got, c.at, c.body)
			}
		}
	}
	u = datagram(d1v6, xv6, bytes.Repeat([]byte("u"), 40))
	r := newRouter(t, conf{})
	first := ip6(d1v6, xv6, protoFrag, frag6(protoUDP, 0, true, u[:24]))
	if got := r.transit(r.lan, r.up, first); !bytes.Equal(got[40:], first[40:]) {
		t.Errorf("IPv6 first fragment changed to %x", got[40:])
	}
}

// tooBigWithoutMTU: ipv6/icmp.go:1170. ICMPv4 has it right by now.
func tooBigWithoutMTU(t *testing.T) {
	r := newRouter(t, conf{mtuUp: 1400})
	m := r.icmpError(r.lan, r.up, ip6(d1v6, xv6, protoUDP, datagram(d1v6, xv6, make([]byte, 1400))), icmp6TooBig, 0)
	if mtu := binary.BigEndian.Uint32(m[4:]); mtu != 0 {
		t.Errorf("Packet Too Big with MTU %d", mtu)
	}
	m = r.icmpError(r.lan, r.up, ip4(d1, x, protoUDP, datagram(d1, x, make([]byte, 1400)), dontFragment), icmpUnreach, 4)
	if mtu := binary.BigEndian.Uint32(m[4:]); mtu != 1400 {
		t.Errorf("fragmentation needed with MTU %d", mtu)
	}
}

// ttlOne: ipv4.go:873 compares with 0, not 1. IPv6 is right.
func ttlOne(t *testing.T) {
	r := newRouter(t, conf{})
	if got := r.transit(r.lan, r.up, ip4(d1, x, protoUDP, datagram(d1, x, nil), ttl(1))); got[8] != 0 {
		t.Errorf("TTL 1 leaves as %d", got[8])
	}
	r.icmpError(r.lan, r.up, ip4(d1, x, protoUDP, datagram(d1, x, nil), ttl(0)), icmpTimeExceeded, 0)
	for _, n := range []byte{0, 1} {
		r.icmpError(r.lan, r.up, ip6(d1v6, xv6, protoUDP, datagram(d1v6, xv6, nil), hops(n)), icmp6TimeExceeded, 0)
	}
	if got := r.transit(r.lan, r.up, ip6(d1v6, xv6, protoUDP, datagram(d1v6, xv6, nil), hops(2))); got[7] != 1 {
		t.Errorf("hop limit 2 leaves as %d", got[7])
	}
}

// dropsGSO: packet_buffer.go:458-488 (DeepCopyForForwarding) copies no GSOOptions, so a super-packet is too big for the egress MTU.
func dropsGSO(t *testing.T) {
	gso := func(pkt *stack.PacketBuffer) {
		pkt.GSOOptions = stack.GSO{Type: stack.GSOTCPv4, NeedsCsum: true, CsumOffset: 16, MSS: 1448, L3HdrLen: 20, MaxSize: 65536}
	}
	r := newRouter(t, conf{})
	r.lan.in(ip4(d1, x, protoTCP, segment(d1, x, 1, 16, make([]byte, 1000)), dontFragment), gso)
	if f := r.one(r.up); f.gso != (stack.GSO{}) {
		t.Errorf("GSO options survive: %+v", f.gso)
	}
	r.icmpError(r.lan, r.up, ip4(d1, x, protoTCP, segment(d1, x, 1, 16, make([]byte, 9000)), dontFragment), icmpUnreach, 4, gso)
	r.icmpError(r.lan, r.up, ip6(d1v6, xv6, protoTCP, segment(d1v6, xv6, 1, 16, make([]byte, 9000))), icmp6TooBig, 0, gso)
	r.lan.in(ip4(d1, x, protoTCP, segment(d1, x, 1, 16, make([]byte, 9000))), gso)
	if n := len(r.took(r.up)); n != 7 {
		t.Errorf("without DF it leaves in %d fragments, want 7", n)
	}
}

// copiesPacket: not one byte of what is written lies in what was received, and a lookup allocates its route.
// Not asserted, as nothing outside netstack can see it: the linear route list (stack.go:1648), 25+ lock operations, the neighbour
// cache's exclusive lock (neighbor_cache.go:84). That the list moves on each use is row 13.
func copiesPacket(t *testing.T) {
	r := newRouter(t, conf{})
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(ip4(d1, x, protoUDP, datagram(d1, x, make([]byte, 1400))))})
	defer pkt.DecRef()
	const mark = 0xa5
	r.up.onWrite = func(out *stack.PacketBuffer) {
		for _, s := range pkt.AsSlices() { // scribbling over the original now must not show in the copy
			for i := range s {
				s[i] = mark
			}
		}
		for _, s := range out.AsSlices() {
			if bytes.IndexByte(s, mark) >= 0 {
				t.Error("the forwarded packet shares memory with the received one")
			}
		}
	}
	r.lan.InjectInbound(protoIPv4, pkt)
	r.one(r.up)

	dst := addr(x)
	if n := testing.AllocsPerRun(100, func() {
		route, err := r.s.FindRoute(0, tcpip.Address{}, dst, protoIPv4, false)
		if err != nil {
			t.Fatal(err)
		}
		route.Release()
	}); n < 1 {
		t.Errorf("FindRoute makes %v allocations", n)
	}
}

// groTooBig: GRO joins segments and does not mend the IPv4 header checksum (gro.go:595), so the packet is dropped as malformed; where the
// NIC claims RX checksum offload, it is too big to forward, as no GSO options tell what it is made of.
func groTooBig(t *testing.T) {
	for _, rxOffload := range []bool{false, true} {
		r := newRouter(t, conf{})
		if rxOffload {
			r.lan.caps |= stack.CapabilityRXChecksumOffload
		}
		var g gro.GRO
		g.Init(true)
		g.Dispatcher = toWire{r.lan}
		for i := range uint32(2) {
			pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
				Payload: buffer.MakeWithData(ip4(d1, x, protoTCP, segment(d1, x, i*1448, 16, make([]byte, 1448)), dontFragment)),
			})
			pkt.NetworkProtocolNumber = protoIPv4
			g.Enqueue(pkt)
			pkt.DecRef()
		}
		r.silent(r.lan, r.up)
		g.Flush()
		r.silent(r.up)
		if !rxOffload {
			r.silent(r.lan)
			continue
		}
		if m := r.one(r.lan).b; m[20] != icmpUnreach || m[21] != 4 {
			t.Errorf("ICMP type %d code %d", m[20], m[21])
		}
	}
}

// toWire hands what GRO dispatches to a wire's NIC.
type toWire struct{ w *wire }

func (d toWire) DeliverNetworkPacket(p tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	d.w.InjectInbound(p, pkt)
}
func (toWire) DeliverLinkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer) {}

// smallMTU: calculateNetworkMTU fails, handleForwardingError panics. The ingress MTU does not matter.
func smallMTU(t *testing.T) {
	v4, v6 := ip4(d1, x, protoUDP, datagram(d1, x, nil)), ip6(d1v6, xv6, protoUDP, datagram(d1v6, xv6, nil))
	for _, c := range []struct {
		mtu    uint32
		packet []byte
		panics bool
	}{
		{1280, v6, false}, {1279, v6, true}, {68, v4, false}, {67, v4, true}, {1279, v4, false},
	} {
		r := newRouter(t, conf{mtuUp: c.mtu})
		if text := panicOf(func() { r.lan.in(c.packet) }); strings.Contains(text, "unrecognized tcpip forwarding error") != c.panics {
			t.Errorf("MTU %d, IPv%d: panic = %q", c.mtu, c.packet[0]>>4, text)
		}
	}
	r := newRouter(t, conf{})
	r.ok(r.s.SetNICMTU(upNIC, 1279)) // at run time as well
	if text := panicOf(func() { r.lan.in(v6) }); text == "" {
		t.Error("no panic after the MTU has shrunk")
	}
	r = newRouter(t, conf{})
	r.ok(r.s.SetNICMTU(lanNIC, 60))
	r.lan.in(v6)
	r.one(r.up)
}
