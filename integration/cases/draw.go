package cases

import (
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"pgregory.net/rapid"

	"udrouter/policy"
)

// hosts are the addresses that packets are drawn from and to, of one family: those that somebody has, nobody's, and those that no host may have.
func hosts(v6 bool) []netip.Addr {
	if v6 {
		return []netip.Addr{One6, Two6, X6, Gateway6, Router6, Unbound6, policy.EUI64(MAC1), policy.EUI64(MAC2), LL1, AllNodes, ip("ff02::1:ff00:10"), ip("::"), ip("::1"), ip("::ffff:192.0.2.11")}
	}
	return []netip.Addr{One4, Two4, X4, Gateway4, Router4, Dom04, Unbound4, ip("192.0.2.255"), ip("255.255.255.255"), ip("224.0.0.1"), ip("127.0.0.1"), ip("0.0.0.0"), ip("169.254.1.1"), ip("240.0.0.1")}
}

// owner are the addresses that a place's hosts have.
func owner(at Place, v6 bool) []netip.Addr {
	switch at {
	case One:
		return pickAll(v6, []netip.Addr{One4}, []netip.Addr{One6, policy.EUI64(MAC1)})
	case Two:
		return pickAll(v6, []netip.Addr{Two4}, []netip.Addr{Two6, policy.EUI64(MAC2)})
	case Dom0:
		return pickAll(v6, []netip.Addr{Dom04}, []netip.Addr{Router6})
	}
	return pickAll(v6, []netip.Addr{X4, X4, Gateway4}, []netip.Addr{X6, X6, Gateway6, ip("fe80::99")})
}

func pickAll(v6 bool, four, six []netip.Addr) []netip.Addr {
	if v6 {
		return six
	}
	return four
}

// Draw draws a frame that a host might send, with lengths and checksums that are right, and most often with one defect.
func Draw(t *rapid.T, n Net) (from Place, frame []byte) {
	from = rapid.SampledFrom([]Place{One, One, One, Two, Uplink, Uplink, Uplink, Dom0}).Draw(t, "from")
	defect := rapid.SampledFrom([]string{"", "", "", "source", "MAC", "to another MAC", "byte", "byte", "byte", "wrong sum", "cut", "tail", "TTL"}).Draw(t, "defect")
	v6 := rapid.Bool().Draw(t, "IPv6")
	dst, src := n.macs(from)
	macs := []policy.MAC{n.Router, n.Eth0, n.Gateway, MAC1, MAC2, Nobody, broadcast, {0x33, 0x33, 0, 0, 0, 1}, zero}
	a := rapid.SampledFrom(owner(from, v6)).Draw(t, "source")
	b := rapid.SampledFrom(hosts(v6)).Draw(t, "destination")
	switch defect {
	case "source":
		a = rapid.SampledFrom(hosts(v6)).Draw(t, "other source")
	case "MAC":
		src = rapid.SampledFrom(macs).Draw(t, "other MAC")
	case "to another MAC":
		dst = rapid.SampledFrom(macs).Draw(t, "other MAC")
	}
	frame = drawKind(t, dst, src, a, b)
	switch defect {
	case "byte", "wrong sum":
		at := rapid.IntRange(min(12, len(frame)-1), min(len(frame)-1, policy.EthernetLen+100)).Draw(t, "at")
		frame[at] ^= rapid.ByteRange(1, 255).Draw(t, "bits")
		if defect == "byte" {
			Seal(frame)
		}
	case "cut":
		frame = frame[:rapid.IntRange(policy.EthernetLen, len(frame)).Draw(t, "length")]
	case "tail":
		frame = append(frame, make([]byte, rapid.IntRange(1, 60).Draw(t, "length"))...)
	case "TTL":
		if ttl := map[bool]int{false: policy.EthernetLen + 8, true: policy.EthernetLen + 7}[v6]; ttl < len(frame) && frame[12] != 0x08 || frame[13] != 0x06 {
			frame[ttl] = rapid.SampledFrom([]byte{0, 1, 2, 255}).Draw(t, "TTL")
			Seal(frame)
		}
	}
	return from, frame
}

func drawKind(t *rapid.T, dst, src policy.MAC, a, b netip.Addr) []byte {
	ports := []uint16{22, 53, 67, 443, 547, 40000, 40001}
	from := netip.AddrPortFrom(a, rapid.SampledFrom(ports).Draw(t, "source port"))
	to := netip.AddrPortFrom(b, rapid.SampledFrom(ports).Draw(t, "destination port"))
	size := rapid.SampledFrom([]int{0, 1, 8, 100, 1000, 1400}).Draw(t, "size")
	kinds := []string{"udp", "udp", "tcp", "tcp", "tcp", "echo", "reply", "error", "fragment", "protocol", "neighbour", "neighbour"}
	switch kind := rapid.SampledFrom(kinds).Draw(t, "kind"); kind {
	case "tcp":
		flags := rapid.SampledFrom([]uint8{2, 2, 18, 16, 16, 24, 17, 4, 20, 0, 3, 6, 63}).Draw(t, "flags")
		seq := rapid.Uint32Range(998, 1003)
		return TCP(dst, src, from, to, flags, seq.Draw(t, "sequence"), seq.Draw(t, "acknowledged"), size)
	case "echo", "reply":
		return Echo(dst, src, a, b, kind == "reply", size)
	case "error": // about something that b may have sent
		quote := drawKind(t, src, dst, b, rapid.SampledFrom(hosts(a.Is6())).Draw(t, "quoted destination"))
		typ, code := rapid.SampledFrom([]uint8{0, 1, 2, 3, 4, 5, 11, 12, 137}).Draw(t, "type"), rapid.Uint8Range(0, 6).Draw(t, "code")
		mtu := rapid.SampledFrom([]uint32{0, 68, 576, 1279, 1280, 1400, 1500, 65535}).Draw(t, "mtu")
		if a.Is4() {
			return icmp4Error(dst, src, a, b, typ, code, uint16(mtu), quote)
		}
		return icmp6Error(dst, src, a, b, typ, code, mtu, quote)
	case "fragment":
		off, more, id := rapid.SampledFrom([]uint16{0, 0, 1, 3, 100, 8191}).Draw(t, "offset"), rapid.Bool().Draw(t, "more"), rapid.Uint16Range(1, 3).Draw(t, "id")
		if a.Is4() {
			return Datagram(dst, src, from, to, pay(size&^7), fragment(off, more), identified(id))
		}
		header := fragmentHeader(17, id, int(off)*8, more)
		return serialize(eth(dst, src, layers.EthernetTypeIPv6), ip6(a, b, layers.IPProtocolIPv6Fragment), raw(header), pay(8+size&^7))
	case "protocol":
		return protoOf(a, b, rapid.Byte().Draw(t, "protocol"), pay(size)...)(dst, src)
	case "neighbour":
		return drawNeighbour(t, dst, src, a, b)
	}
	return Datagram(dst, src, from, to, pay(size))
}

// drawNeighbour is ARP or ND, most often to whom it should be sent.
func drawNeighbour(t *rapid.T, dst, src policy.MAC, a, b netip.Addr) []byte {
	target := rapid.SampledFrom(hosts(a.Is6())).Draw(t, "target")
	asks, group := rapid.Bool().Draw(t, "asks"), rapid.Bool().Draw(t, "to all")
	mac := rapid.SampledFrom([]policy.MAC{src, src, src, MAC2, zero}).Draw(t, "its MAC")
	if a.Is4() {
		op := uint16(2)
		if asks {
			op = 1
		}
		if group {
			dst = broadcast
		}
		return ARP(dst, src, op, mac, a, zero, target)
	}
	switch {
	case group && asks:
		b = policy.SolicitedNode(target)
		dst = policy.MulticastMAC(b)
	case group:
		b, dst = AllNodes, policy.MulticastMAC(AllNodes)
	}
	if asks {
		return NS(dst, src, a, b, target, mac)
	}
	return NA(dst, src, a, b, target, mac, rapid.SampledFrom([]uint8{0, 0x20, 0x40, 0x60, 0xe0}).Draw(t, "flags"))
}

// Seal gives a frame's IPv4 header, and the TCP, UDP or ICMP behind it or an IPv6 header, right checksums, as far as it has them.
func Seal(f []byte) {
	p := gopacket.NewPacket(f, layers.LayerTypeEthernet, gopacket.DecodeOptions{NoCopy: true})
	switch h := p.NetworkLayer().(type) {
	case *layers.IPv4:
		if len(h.Contents) >= policy.IPv4Len {
			seal(h.Contents)
			sealTransport(uint8(h.Protocol), h.SrcIP, h.DstIP, h.Payload)
		}
	case *layers.IPv6:
		sealTransport(uint8(h.NextHeader), h.SrcIP, h.DstIP, h.Payload)
	}
}

func sealTransport(proto uint8, src, dst, b []byte) {
	at, ok := map[uint8]int{policy.ProtoTCP: 16, policy.ProtoUDP: 6, policy.ProtoICMP: 2, policy.ProtoICMPv6: 2}[proto]
	if !ok || len(b) < at+2 {
		return
	}
	b[at], b[at+1] = 0, 0
	sum := uint32(0)
	add := func(b []byte) {
		for i, c := range b {
			sum += uint32(c) << (8 * (1 - i%2))
		}
	}
	if add(b); proto != policy.ProtoICMP {
		add(src)
		add(dst)
		sum += uint32(proto) + uint32(len(b))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	b[at], b[at+1] = byte(^sum>>8), byte(^sum)
}
