// Package cases holds frames and what must become of them, in the network of router.hcl. The same rows run over simulated
// links (package router) and over real TAP and veth links in namespaces (package integration).
//
// Frames are made with gopacket, so that no checksum is computed by the code under test. The files of rows stand in the order in which a packet
// meets what they are about:
//
//	net.go make.go             the network, frames, rows
//	cases.go answers.go        what passes and what the router answers
//	attacks.go                 the attacks by number, and where the router departs from what one might expect
//	ethernet.go lengths.go     frames and headers by themselves; checksums
//	headers.go options.go fragments.go
//	                           extension headers, options, fragments
//	guards.go ipv4.go ipv6.go  addresses
//	arp.go nd.go hidden.go ra.go
//	                           what neighbours, routers and DHCP servers say, also behind headers and in fragments
//	state.go stateless.go      connections, datagrams, what rules reject
//	icmp.go                    errors, path MTU, types
//	groups.go                  multicast listeners and routers; scans of the router itself
package cases

import (
	"cmp"
	"iter"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"udrouter/policy"
)

// Place is where a frame is sent or seen.
type Place string

// The places of the network.
const (
	One    Place = "one"    // 192.0.2.10, 2001:db8:3:2:1::10
	Two    Place = "two"    // 192.0.2.11, 2001:db8:3:2:1::11
	Uplink Place = "uplink" // the provider's router and what is behind it
	Dom0   Place = "dom0"   // the host TUN; frames have an Ethernet header that means nothing
)

// Net is what a row needs to know of the network that it runs in.
type Net struct {
	Router   policy.MAC // toward guests
	Eth0     policy.MAC // the uplink's
	Gateway  policy.MAC // the provider's router's
	UplinkLL netip.Addr // the router's own link-local address on the uplink
}

// macs are those of a frame that a place sends to the router; the other way round, of one that it gets. Dom0's have none.
func (n Net) macs(at Place) (router, own policy.MAC) {
	switch at {
	case One:
		return n.Router, MAC1
	case Two:
		return n.Router, MAC2
	case Uplink:
		return n.Eth0, n.Gateway
	}
	return zero, zero
}

// Addresses of the network.
var (
	MAC1   = policy.MAC{0, 0x16, 0x3e, 0, 0, 1}
	MAC2   = policy.MAC{0, 0x16, 0x3e, 0, 0, 2}
	Nobody = policy.MAC{0, 0x16, 0x3e, 0xde, 0xad, 1}

	One4, One6         = ip("192.0.2.10"), ip("2001:db8:3:2:1::10")
	Two4, Two6         = ip("192.0.2.11"), ip("2001:db8:3:2:1::11")
	Unbound4, Unbound6 = ip("192.0.2.200"), ip("2001:db8:3:2:1::dead")
	Router4, Router6   = ip("192.0.2.1"), ip("2001:db8:3:2:1::1") // the kernel holds the second as well
	Gateway4, Gateway6 = ip("192.0.1.1"), ip("2001:db8:3:2::1")
	Dom04              = ip("192.0.1.3")
	X4, X6             = ip("198.51.100.7"), ip("2001:db8:ffff::7")
	LL1, AllNodes      = ip("fe80::1"), ip("ff02::1")
)

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

// Frame is a row's frame, made for a network. Nil parts are left out.
type Frame func(n Net) []byte

// Out is a frame that must be seen somewhere.
type Out struct {
	At    Place
	Frame Frame
}

// Case is a row: exactly Out is seen, anywhere, and exactly Reason is counted (None: nothing is). Afterwards the other guest is served as
// before.
type Case struct {
	Name, Ref string // Ref: "case 24" is that of Attacks; then RFC and section
	From      Place
	Frame     Frame
	Then      []Sent // what follows it
	Out       []Out
	Reason    policy.Reason
	Count     uint64 // how often Reason is counted; 0: once
	Kernel    bool   // dom0's kernel, where there is one, answers once
	Before    []Sent // what is sent before, to open a flow; it passes, and nothing of it is counted
	Bridge    bool   // the bridge, where there is one, stops the frame before the router can count it
	Enforced  bool   // in the reference's own policy, not in the open one
}

// Counts is how often the row's reason is counted.
func (c Case) Counts() uint64 {
	if c.Reason == policy.None {
		return 0
	}
	return max(c.Count, 1)
}

// Sent is a frame from somewhere.
type Sent struct {
	From  Place
	Frame Frame
}

// after gives a row what has to be sent before.
func (c Case) after(from Place, f Frame) Case {
	c.Before = append(c.Before, Sent{from, f})
	return c
}

// then gives a row what follows its frame, from the same place.
func (c Case) then(frames ...Frame) Case {
	for _, f := range frames {
		c.Then = append(c.Then, Sent{c.From, f})
	}
	return c
}

// times is a row whose reason is counted more than once.
func (c Case) times(n uint64) Case {
	c.Count = n
	return c
}

// enforced is a row under the reference's own policy.
func (c Case) enforced() Case {
	c.Enforced = true
	return c
}

// Open is the reference configuration with a policy that refuses nothing, for rows about everything but rules.
func Open(reference []byte) string {
	open := strings.NewReplacer("ingress {\n    default = \"drop\"\n    rule \"ssh\"", "ingress {\n    default = \"accept\"\n    rule \"ssh\"", "new_flows = 2000\n", "").Replace(string(reference))
	if open == string(reference) {
		panic("the reference configuration has changed")
	}
	return open
}

// Proxied is the open network with an IPv4 network that is on-link at the provider, as the IPv6 network is anyway.
func Proxied(reference []byte) string {
	open := Open(reference)
	proxied := strings.Replace(open, `upstream = "routed"`, `upstream = "proxied"`, 1)
	if proxied == open {
		panic("the reference configuration has changed")
	}
	return proxied
}

// serialize makes bytes of layers; lengths and checksums are gopacket's.
func serialize(ls ...gopacket.SerializableLayer) []byte {
	var header []byte
	if e, ok := ls[0].(*layers.Ethernet); ok { // by hand: gopacket would pad to 60 bytes
		header = append(append(append(header, e.DstMAC...), e.SrcMAC...), byte(e.EthernetType>>8), byte(e.EthernetType))
		ls = ls[1:]
	}
	b := gopacket.NewSerializeBuffer()
	// A row that cannot be made is a defect of this package.
	must(gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...))
	return append(header, b.Bytes()...)
}

func eth(dst, src policy.MAC, t layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{DstMAC: dst[:], SrcMAC: src[:], EthernetType: t}
}

func ip4(src, dst netip.Addr, p layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 64, Id: 0x1234, Protocol: p, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
}

func ip6(src, dst netip.Addr, p layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: p, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
}

func pay(n int) gopacket.Payload {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

// UDP makes a datagram of n bytes of payload; edit is of the IP header.
func UDP(dst, src policy.MAC, from, to netip.Addr, n int, edit ...func(gopacket.SerializableLayer)) []byte {
	return Datagram(dst, src, netip.AddrPortFrom(from, 40000), netip.AddrPortFrom(to, 5000), pay(n), edit...)
}

// Datagram is UDP with ports and a payload of its own.
func Datagram(dst, src policy.MAC, from, to netip.AddrPort, payload []byte, edit ...func(gopacket.SerializableLayer)) []byte {
	u := &layers.UDP{SrcPort: layers.UDPPort(from.Port()), DstPort: layers.UDPPort(to.Port())}
	var l gopacket.SerializableLayer
	t := layers.EthernetTypeIPv4
	if from.Addr().Is4() {
		h := ip4(from.Addr(), to.Addr(), layers.IPProtocolUDP)
		must(u.SetNetworkLayerForChecksum(h))
		l = h
	} else {
		h := ip6(from.Addr(), to.Addr(), layers.IPProtocolUDP)
		must(u.SetNetworkLayerForChecksum(h))
		l, t = h, layers.EthernetTypeIPv6
	}
	for _, e := range edit {
		e(l)
	}
	return serialize(eth(dst, src, t), l, u, raw(payload))
}

// Echo makes an echo request, or a reply.
func Echo(dst, src policy.MAC, from, to netip.Addr, reply bool, n int, edit ...func(gopacket.SerializableLayer)) []byte {
	if from.Is4() {
		typ := layers.ICMPv4TypeEchoRequest
		if reply {
			typ = layers.ICMPv4TypeEchoReply
		}
		h := ip4(from, to, layers.IPProtocolICMPv4)
		for _, e := range edit {
			e(h)
		}
		return serialize(eth(dst, src, layers.EthernetTypeIPv4), h, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(uint8(typ), 0), Id: 7, Seq: 1}, pay(n))
	}
	typ := layers.ICMPv6TypeEchoRequest
	if reply {
		typ = layers.ICMPv6TypeEchoReply
	}
	h := ip6(from, to, layers.IPProtocolICMPv6)
	for _, e := range edit {
		e(h)
	}
	return icmp6(dst, src, h, uint8(typ), 0, &layers.ICMPv6Echo{Identifier: 7, SeqNumber: 1}, pay(n))
}

func icmp6(dst, src policy.MAC, h *layers.IPv6, typ, code uint8, body ...gopacket.SerializableLayer) []byte {
	i := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, code)}
	must(i.SetNetworkLayerForChecksum(h))
	return serialize(append([]gopacket.SerializableLayer{eth(dst, src, layers.EthernetTypeIPv6), h, i}, body...)...)
}

// sorted walks a map in the order of its keys, so that rows are the same in each run.
func sorted[K cmp.Ordered, V any](m map[K]V) iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// ARP makes an ARP packet.
func ARP(dst, src policy.MAC, op uint16, sha policy.MAC, spa netip.Addr, tha policy.MAC, tpa netip.Addr) []byte {
	return serialize(eth(dst, src, layers.EthernetTypeARP), &layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4,
		HwAddressSize: 6, ProtAddressSize: 4, Operation: op, SourceHwAddress: sha[:], SourceProtAddress: spa.AsSlice(), DstHwAddress: tha[:], DstProtAddress: tpa.AsSlice()})
}

// NS makes a neighbour solicitation; ll is its source link-layer address, zero for none.
func NS(dst, src policy.MAC, from, to, target netip.Addr, ll policy.MAC, edit ...func(gopacket.SerializableLayer)) []byte {
	h := ip6(from, to, layers.IPProtocolICMPv6)
	h.HopLimit = 255
	for _, e := range edit {
		e(h)
	}
	return icmp6(dst, src, h, 135, 0, &layers.ICMPv6NeighborSolicitation{TargetAddress: net.IP(target.AsSlice()), Options: llOption(layers.ICMPv6OptSourceAddress, ll)})
}

// NA makes a neighbour advertisement; ll is its target link-layer address, zero for none.
func NA(dst, src policy.MAC, from, to, target netip.Addr, ll policy.MAC, flags uint8) []byte {
	h := ip6(from, to, layers.IPProtocolICMPv6)
	h.HopLimit = 255
	return icmp6(dst, src, h, 136, 0, &layers.ICMPv6NeighborAdvertisement{Flags: flags, TargetAddress: net.IP(target.AsSlice()), Options: llOption(layers.ICMPv6OptTargetAddress, ll)})
}

func llOption(t layers.ICMPv6Opt, ll policy.MAC) layers.ICMPv6Options {
	if ll.IsZero() {
		return nil
	}
	return layers.ICMPv6Options{{Type: t, Data: ll[:]}}
}

// Forwarded is a frame after one hop: other MACs, TTL or hop limit less one, a new IPv4 header checksum, nothing behind
// the declared length.
func Forwarded(f []byte, dst, src policy.MAC) []byte {
	f = append([]byte(nil), f...)
	copy(f, dst[:])
	copy(f[6:], src[:])
	h := f[14:]
	if h[0]>>4 == 6 {
		h[7]--
		return f[:14+40+int(h[4])<<8+int(h[5])]
	}
	h[8]--
	seal(h)
	return f[:14+int(h[2])<<8+int(h[3])]
}

// seal gives an IPv4 header its right checksum.
func seal(h []byte) {
	h[10], h[11] = 0, 0
	var sum uint32
	for i := 0; i < min(int(h[0]&15)*4, len(h)-1); i += 2 {
		sum += uint32(h[i])<<8 | uint32(h[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	h[10], h[11] = byte(^sum>>8), byte(^sum)
}

// TTL sets TTL or hop limit.
func TTL(n uint8) func(gopacket.SerializableLayer) {
	return func(l gopacket.SerializableLayer) {
		switch h := l.(type) {
		case *layers.IPv4:
			h.TTL = n
		case *layers.IPv6:
			h.HopLimit = n
		}
	}
}

// DF sets IPv4's don't fragment.
func DF(l gopacket.SerializableLayer) { l.(*layers.IPv4).Flags = layers.IPv4DontFragment }

// TCP makes a segment with n bytes of payload.
func TCP(dst, src policy.MAC, from, to netip.AddrPort, flags uint8, seq, ack uint32, n int, edit ...func(gopacket.SerializableLayer)) []byte {
	t := &layers.TCP{SrcPort: layers.TCPPort(from.Port()), DstPort: layers.TCPPort(to.Port()), Seq: seq, Ack: ack, Window: 65535,
		FIN: flags&1 != 0, SYN: flags&2 != 0, RST: flags&4 != 0, PSH: flags&8 != 0, ACK: flags&16 != 0, URG: flags&32 != 0, ECE: flags&64 != 0, CWR: flags&128 != 0}
	var l gopacket.SerializableLayer
	e := layers.EthernetTypeIPv4
	if from.Addr().Is4() {
		h := ip4(from.Addr(), to.Addr(), layers.IPProtocolTCP)
		must(t.SetNetworkLayerForChecksum(h))
		l = h
	} else {
		h := ip6(from.Addr(), to.Addr(), layers.IPProtocolTCP)
		must(t.SetNetworkLayerForChecksum(h))
		l, e = h, layers.EthernetTypeIPv6
	}
	for _, f := range edit {
		f(l)
	}
	return serialize(eth(dst, src, e), l, t, pay(n))
}
