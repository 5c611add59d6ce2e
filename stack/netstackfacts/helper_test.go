package netstackfacts

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/faketime"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/header/parse"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
)

// The bare router, a netstack with forwarding on, and who is around it:
//
//	d1 192.0.2.10, 2001:db8:1::a                              gw 198.51.100.1, 2001:db8:2::fe, and behind it
//	d2 192.0.2.11, 2001:db8:1::b                              x  203.0.113.9, 2001:db8:9::9
//	 |                                                         |
//	lan (NIC 1) 192.0.2.1/24, 2001:db8:1::1/64, fe80::1 ----- up (NIC 2) 198.51.100.2/24, 2001:db8:2::2/64, fe80::2
const (
	lanNIC, upNIC = tcpip.NICID(1), tcpip.NICID(2)

	d1, d2, lan4           = "192.0.2.10", "192.0.2.11", "192.0.2.1"
	gw, x, up4             = "198.51.100.1", "203.0.113.9", "198.51.100.2"
	d1v6, d2v6, lan6       = "2001:db8:1::a", "2001:db8:1::b", "2001:db8:1::1"
	gwv6, xv6, up6         = "2001:db8:2::fe", "2001:db8:9::9", "2001:db8:2::2"
	lanLocal, upLocal      = "fe80::1", "fe80::2"
	macLan, macD1, macD2   = tcpip.LinkAddress("\x02\x00\x00\x00\x00\x01"), tcpip.LinkAddress("\x02\x00\x00\x00\x00\x0a"), tcpip.LinkAddress("\x02\x00\x00\x00\x00\x0b")
	macUp, macGW           = tcpip.LinkAddress("\x02\x00\x00\x00\x00\x02"), tcpip.LinkAddress("\x02\x00\x00\x00\x00\xfe")
	macEvil, macNew, ethBC = tcpip.LinkAddress("\x02\x00\x00\x00\x66\x66"), tcpip.LinkAddress("\x02\x00\x00\x00\x77\x77"), tcpip.LinkAddress("\xff\xff\xff\xff\xff\xff")

	protoARP, protoIPv4, protoIPv6                         = arp.ProtocolNumber, ipv4.ProtocolNumber, ipv6.ProtocolNumber
	protoICMP, protoTCP, protoUDP, protoICMP6              = 1, 6, 17, 58
	protoHop, protoRouting, protoFrag, protoNone, protoDst = 0, 43, 44, 59, 60

	arpRequest, arpReply                                     = 1, 2
	icmpEchoReply, icmpUnreach, icmpEcho, icmpTimeExceeded   = 0, 3, 8, 11
	icmp6Unreach, icmp6TooBig, icmp6TimeExceeded, icmp6Param = 1, 2, 3, 4
	icmp6Echo, icmp6EchoReply, icmp6RA, icmp6NS, icmp6NA     = 128, 129, 134, 135, 136
	flagMF                                                   = 0x2000
)

// frame is what netstack wrote: a layer 3 packet and where its frame would go.
type frame struct {
	proto tcpip.NetworkProtocolNumber
	to    tcpip.LinkAddress
	b     []byte
	gso   stack.GSO
}

func (f frame) String() string {
	return fmt.Sprintf("%#04x to %x: %x", int(f.proto), string(f.to), f.b)
}

// wire is a link endpoint that keeps what is written, or fails to write it.
type wire struct {
	*channel.Endpoint // for all that has to do with reading; its queue is not used
	caps              stack.LinkEndpointCapabilities
	fail              tcpip.Error                   // returned by WritePackets
	onWrite           func(pkt *stack.PacketBuffer) // sees each packet that is written

	mu   sync.Mutex
	more sync.Cond
	out  []frame
}

func newWire(mtu uint32, mac tcpip.LinkAddress) *wire {
	w := &wire{Endpoint: channel.New(0, mtu, mac), caps: stack.CapabilityResolutionRequired}
	w.more.L = &w.mu
	return w
}

func (w *wire) Capabilities() stack.LinkEndpointCapabilities { return w.caps }

func (w *wire) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	for i, pkt := range pkts.AsSlice() {
		if w.fail != nil {
			return i, w.fail
		}
		if w.onWrite != nil {
			w.onWrite(pkt)
		}
		w.mu.Lock()
		w.out = append(w.out, frame{pkt.NetworkProtocolNumber, pkt.EgressRoute.RemoteLinkAddress, pkt.ToView().AsSlice(), pkt.GSOOptions})
		w.more.Broadcast()
		w.mu.Unlock()
	}
	return pkts.Len(), nil
}

// await blocks until n frames have been written; it is for what netstack does in goroutines of its own that no clock knows of.
func (w *wire) await(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.out) < n {
		w.more.Wait()
	}
}

// in delivers a layer 3 packet as if it had been received in a unicast frame to us.
func (w *wire) in(b []byte, mut ...func(*stack.PacketBuffer)) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
	defer pkt.DecRef()
	for _, m := range mut {
		m(pkt)
	}
	proto := protoARP
	switch b[0] >> 4 {
	case 4:
		proto = protoIPv4
	case 6:
		proto = protoIPv6
	}
	w.InjectInbound(proto, pkt)
}

// withTransports lets netstack parse UDP and TCP, without the endpoints of their packages.
func withTransports(o *stack.Options) {
	for _, n := range []tcpip.TransportProtocolNumber{protoUDP, protoTCP} {
		o.TransportProtocols = append(o.TransportProtocols, func(*stack.Stack) stack.TransportProtocol { return transport{number: n} })
	}
}

type transport struct {
	stack.TransportProtocol // nil: forwarding needs no other method
	number                  tcpip.TransportProtocolNumber
}

func (p transport) Number() tcpip.TransportProtocolNumber { return p.number }
func (transport) Close()                                  {}
func (transport) Wait()                                   {}
func (p transport) Parse(pkt *stack.PacketBuffer) bool {
	if p.number == protoTCP {
		return parse.TCP(pkt)
	}
	return parse.UDP(pkt)
}

// router is the stack under test with its two wires.
type router struct {
	t       *testing.T
	s       *stack.Stack
	clock   *faketime.ManualClock
	lan, up *wire
}

// conf is how a test wants its router; the zero value forwards and knows d1, d2 and gw as static neighbours.
type conf struct {
	host     bool // forwarding off
	dynamic  bool // no static neighbours
	bareUp   bool // no addresses on the uplink
	bareLan  bool // no addresses on the lan
	mtuUp    uint32
	capsUp   stack.LinkEndpointCapabilities
	upEP     stack.LinkEndpoint // instead of a wire
	opts     func(*stack.Options)
	noRoutes bool
}

func newRouter(t *testing.T, c conf) *router {
	t.Helper()
	r := &router{t: t, clock: faketime.NewManualClock()}
	opts := stack.Options{
		Clock:              r.clock,
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{icmp.NewProtocol4, icmp.NewProtocol6},
	}
	if c.opts != nil {
		c.opts(&opts)
	}
	r.s = stack.New(opts)
	t.Cleanup(r.s.Destroy)

	if c.mtuUp == 0 {
		c.mtuUp = 1500
	}
	r.lan, r.up = newWire(1500, macLan), newWire(c.mtuUp, macUp)
	r.up.caps |= c.capsUp
	var upEP stack.LinkEndpoint = r.up
	if c.upEP != nil {
		upEP = c.upEP
	}
	r.ok(r.s.CreateNIC(lanNIC, r.lan))
	r.ok(r.s.CreateNIC(upNIC, upEP))
	if !c.bareLan {
		r.address(lanNIC, lan4+"/24", lan6+"/64", lanLocal+"/64")
	}
	if !c.bareUp {
		r.address(upNIC, up4+"/24", up6+"/64", upLocal+"/64")
	}
	if !c.noRoutes {
		r.s.SetRouteTable([]tcpip.Route{
			{Destination: subnet("192.0.2.0/24"), NIC: lanNIC}, {Destination: subnet("2001:db8:1::/64"), NIC: lanNIC},
			{Destination: subnet("198.51.100.0/24"), NIC: upNIC}, {Destination: subnet("2001:db8:2::/64"), NIC: upNIC},
			{Destination: subnet("0.0.0.0/0"), NIC: upNIC, Gateway: addr(gw)}, {Destination: subnet("::/0"), NIC: upNIC, Gateway: addr(gwv6)},
		})
	}
	if !c.host {
		r.ok(r.s.SetForwardingDefaultAndAllNICs(protoIPv4, true))
		r.ok(r.s.SetForwardingDefaultAndAllNICs(protoIPv6, true))
	}
	if !c.dynamic {
		r.static(lanNIC, d1, macD1)
		r.static(lanNIC, d1v6, macD1)
		r.static(lanNIC, d2, macD2)
		r.static(lanNIC, d2v6, macD2)
		r.static(upNIC, gw, macGW)
		r.static(upNIC, gwv6, macGW)
	}
	return r
}

func (r *router) ok(err tcpip.Error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *router) address(nic tcpip.NICID, prefixes ...string) {
	r.t.Helper()
	for _, s := range prefixes {
		p := netip.MustParsePrefix(s)
		r.ok(r.s.AddProtocolAddress(nic, tcpip.ProtocolAddress{
			Protocol:          family(addr(p.Addr().String())),
			AddressWithPrefix: tcpip.AddressWithPrefix{Address: addr(p.Addr().String()), PrefixLen: p.Bits()},
		}, stack.AddressProperties{}))
	}
}

func (r *router) static(nic tcpip.NICID, ip string, mac tcpip.LinkAddress) {
	r.t.Helper()
	r.ok(r.s.AddStaticNeighbor(nic, family(addr(ip)), addr(ip), mac))
}

// neighbour is the cache's entry for ip, or nil.
func (r *router) neighbour(nic tcpip.NICID, ip string) *stack.NeighborEntry {
	r.t.Helper()
	all, err := r.s.Neighbors(nic, family(addr(ip)))
	r.ok(err)
	for _, e := range all {
		if e.Addr == addr(ip) {
			return &e
		}
	}
	return nil
}

// took is what was written to w since the last call.
func (r *router) took(w *wire) []frame {
	r.clock.RunImmediatelyScheduledJobs()
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.out
	w.out = nil
	return out
}

// one is the single frame written to w since the last call.
func (r *router) one(w *wire) frame {
	r.t.Helper()
	out := r.took(w)
	if len(out) != 1 {
		r.t.Fatalf("%d frames written, want 1: %v", len(out), out)
	}
	return out[0]
}

// silent wants nothing written to ws since the last call.
func (r *router) silent(ws ...*wire) {
	r.t.Helper()
	for _, w := range ws {
		if out := r.took(w); len(out) != 0 {
			r.t.Fatalf("written, want silence: %v", out)
		}
	}
}

// transit sends b into from and returns the one packet that leaves by to; nothing may come back.
func (r *router) transit(from, to *wire, b []byte, mut ...func(*stack.PacketBuffer)) []byte {
	r.t.Helper()
	from.in(b, mut...)
	f := r.one(to)
	r.silent(from)
	return f.b
}

// icmpError sends b into from and returns the ICMP message that comes back; nothing may go on.
func (r *router) icmpError(from, to *wire, b []byte, typ, code byte, mut ...func(*stack.PacketBuffer)) []byte {
	r.t.Helper()
	from.in(b, mut...)
	f := r.one(from)
	r.silent(to)
	m := f.b[20:]
	if f.proto == protoIPv6 {
		m = f.b[40:]
	}
	if m[0] != typ || m[1] != code {
		r.t.Fatalf("ICMP type %d code %d, want %d/%d", m[0], m[1], typ, code)
	}
	return m
}

// panicOf is the text f panics with, "" when it does not.
func panicOf(f func()) (text string) {
	defer func() {
		if v := recover(); v != nil {
			text = fmt.Sprint(v)
		}
	}()
	f()
	return ""
}

func addr(s string) tcpip.Address { return tcpip.AddrFromSlice(octets(s)) }

func octets(s string) []byte { return netip.MustParseAddr(s).AsSlice() }

func family(a tcpip.Address) tcpip.NetworkProtocolNumber {
	if a.Len() == 4 {
		return protoIPv4
	}
	return protoIPv6
}

func subnet(s string) tcpip.Subnet {
	p := netip.MustParsePrefix(s)
	return tcpip.AddressWithPrefix{Address: addr(p.Addr().String()), PrefixLen: p.Bits()}.Subnet()
}

// ip4 makes a packet with TTL 64; mut may change its header before the checksum is made.
func ip4(src, dst string, proto byte, body []byte, mut ...func(header.IPv4)) []byte {
	return ip4Options(src, dst, proto, nil, body, mut...)
}

func ip4Options(src, dst string, proto byte, options, body []byte, mut ...func(header.IPv4)) []byte {
	h := header.IPv4(make([]byte, 20+len(options)))
	h[0] = 4<<4 | byte(len(h)/4)
	copy(h[20:], options)
	h.SetTotalLength(uint16(len(h) + len(body)))
	h.SetID(7)
	h[8], h[9] = 64, proto
	h.SetSourceAddress(addr(src))
	h.SetDestinationAddress(addr(dst))
	for _, m := range mut {
		m(h)
	}
	h.SetChecksum(0)
	h.SetChecksum(^h.CalculateChecksum())
	return append(h, body...)
}

// fragmented sets the flags and the offset (in bytes).
func fragmented(flags, offset uint16) func(header.IPv4) {
	return func(h header.IPv4) { binary.BigEndian.PutUint16(h[6:], flags|offset/8) }
}

func ttl(n byte) func(header.IPv4) { return func(h header.IPv4) { h.SetTTL(n) } }

func dontFragment(h header.IPv4) { h[6] |= 0x40 }

// ip6 makes a packet with hop limit 64; mut may change its header.
func ip6(src, dst string, next byte, body []byte, mut ...func(header.IPv6)) []byte {
	h := header.IPv6(make([]byte, 40))
	h.Encode(&header.IPv6Fields{PayloadLength: uint16(len(body)), HopLimit: 64, SrcAddr: addr(src), DstAddr: addr(dst)})
	h.SetNextHeader(next)
	for _, m := range mut {
		m(h)
	}
	return append(h, body...)
}

func hops(n byte) func(header.IPv6) { return func(h header.IPv6) { h.SetHopLimit(n) } }

// ext makes an extension header of n bytes, a multiple of 8, full of Pad1, before body.
func ext(next byte, n int, body []byte) []byte {
	return append(append([]byte{next, byte(n/8 - 1)}, make([]byte, n-2)...), body...)
}

// frag6 makes a Fragment header before body; offset in bytes.
func frag6(next byte, offset uint16, more bool, body []byte) []byte {
	f := []byte{next, 0, byte(offset >> 8), byte(offset) &^ 7, 0, 0, 0, 7}
	if more {
		f[3] |= 1
	}
	return append(f, body...)
}

// datagram makes a UDP datagram from port 1000 to 2000 with a correct checksum.
func datagram(src, dst string, payload []byte) []byte {
	return datagramPorts(src, dst, 1000, 2000, payload)
}

func datagramPorts(src, dst string, sport, dport uint16, payload []byte) []byte {
	b := make([]byte, 8, 8+len(payload))
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[6:], ^checksum.Checksum(b, pseudo(src, dst, protoUDP, len(b))))
	return b
}

// segment makes a TCP segment from port 1000 to 2000 with a correct checksum.
func segment(src, dst string, seq uint32, flags byte, payload []byte) []byte {
	return segmentPorts(src, dst, 1000, 2000, seq, 0, flags, payload)
}

func segmentPorts(src, dst string, sport, dport uint16, seq, ack uint32, flags byte, payload []byte) []byte {
	b := make([]byte, 20, 20+len(payload))
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	binary.BigEndian.PutUint32(b[4:], seq)
	binary.BigEndian.PutUint32(b[8:], ack)
	b[12], b[13], b[14] = 5<<4, flags, 0xff
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[16:], ^checksum.Checksum(b, pseudo(src, dst, protoTCP, len(b))))
	return b
}

// icmp4 makes an ICMPv4 message; rest stands after the checksum.
func icmp4(typ, code byte, rest []byte) []byte {
	b := append([]byte{typ, code, 0, 0}, rest...)
	binary.BigEndian.PutUint16(b[2:], ^checksum.Checksum(b, 0))
	return b
}

// icmp6 makes an ICMPv6 message; rest stands after the checksum.
func icmp6(src, dst string, typ, code byte, rest []byte) []byte {
	b := append([]byte{typ, code, 0, 0}, rest...)
	binary.BigEndian.PutUint16(b[2:], ^checksum.Checksum(b, pseudo(src, dst, protoICMP6, len(b))))
	return b
}

func pseudo(src, dst string, proto tcpip.TransportProtocolNumber, n int) uint16 {
	return header.PseudoHeaderChecksum(proto, addr(src), addr(dst), uint16(n))
}

// echo6 is an echo request packet.
func echo6(src, dst string, payload []byte) []byte {
	return ip6(src, dst, protoICMP6, icmp6(src, dst, icmp6Echo, 0, append([]byte{0, 1, 0, 1}, payload...)))
}

// arpPacket makes an ARP packet.
func arpPacket(op byte, sha tcpip.LinkAddress, spa, tpa string) []byte {
	b := append([]byte{0, 1, 8, 0, 6, 4, 0, op}, sha...)
	b = append(b, octets(spa)...)
	return append(append(b, make([]byte, 6)...), octets(tpa)...)
}

// nsBody is a solicitation's ICMPv6 message with a source link-layer address unless mac is empty.
func nsBody(src, dst, target string, mac tcpip.LinkAddress) []byte {
	rest := append(make([]byte, 4), octets(target)...)
	if mac != "" {
		rest = append(append(rest, 1, 1), mac...)
	}
	return icmp6(src, dst, icmp6NS, 0, rest)
}

func ns(src, dst, target string, mac tcpip.LinkAddress) []byte {
	return ip6(src, dst, protoICMP6, nsBody(src, dst, target, mac), hops(255))
}

// na makes an advertisement; flags are R 0x80, S 0x40, O 0x20.
func na(src, dst, target string, flags byte, mac tcpip.LinkAddress) []byte {
	rest := append([]byte{flags, 0, 0, 0}, octets(target)...)
	rest = append(append(rest, 2, 1), mac...)
	return ip6(src, dst, protoICMP6, icmp6(src, dst, icmp6NA, 0, rest), hops(255))
}

// solicited is the solicited-node group of an address.
func solicited(ip string) string {
	return netip.AddrFrom16(header.SolicitedNodeAddr(addr(ip)).As16()).String()
}
