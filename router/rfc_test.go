package router

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"udrouter/integration/cases"
	"udrouter/policy"
)

// reading is what RFCs say of a frame that comes to a router which knows no flow yet. It is read with nothing of the router's: where the router gives
// a reason for a drop, this says whether it is true.
type reading struct {
	net        cases.Net
	from       cases.Place
	macs       [2]policy.MAC // destination, source
	src, dst   netip.Addr    // of IP
	own        []netip.Addr  // that the sender, known by its MAC, may send from
	is         map[policy.Reason]bool
	neighbour  bool       // ARP or ND
	asked      netip.Addr // what a whole question of ARP or ND is about
	askedByAll bool       // it has no sender address: a probe (RFC 5227 2.1.1, RFC 4862 5.4)
	quoted     []byte     // the IP packet
}

// The network of seedFile, once more.
var (
	rfcNetworks   = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:3:2::/64")}
	rfcBroadcasts = addrs("192.0.2.0", "192.0.2.255", "192.0.1.0", "192.0.1.63") // RFC 1812 4.2.3.1, 5.3.5
	rfcGuests     = addrs("192.0.2.10", "2001:db8:3:2:1::10", "192.0.2.11", "2001:db8:3:2:1::11")
	rfcRouter     = addrs("192.0.2.1", "2001:db8:3:2:1::1", "fe80::1")
	rfcDom0       = addrs("192.0.1.3", "2001:db8:3:2:1::1")
	rfcUpstream   = addrs("192.0.1.1", "2001:db8:3:2::1")
)

func addrs(list ...string) (as []netip.Addr) {
	for _, s := range list {
		as = append(as, netip.MustParseAddr(s))
	}
	return as
}

// read reads a frame.
func read(from cases.Place, n cases.Net, f []byte) *reading {
	x := &reading{net: n, from: from, is: map[policy.Reason]bool{}}
	if len(f) < 14 {
		x.is[policy.Malformed] = true
		return x
	}
	x.macs = [2]policy.MAC{policy.MAC(f[:6]), policy.MAC(f[6:12])}
	x.ethernet()
	b := f[14:]
	switch binary.BigEndian.Uint16(f[12:]) {
	case 0x0806:
		x.arp(b)
	case 0x0800:
		x.ipv4(b)
	case 0x86dd:
		x.ipv6(b)
	case 0x8100, 0x88a8, 0x9100, 0x9200: // IEEE 802.1Q, and what came before it
		x.is[policy.VLAN] = true
	default:
		x.is[policy.EtherType] = true
	}
	return x
}

func (x *reading) uplink() bool { return x.from == cases.Uplink }

// ethernet: stations have MACs of their own (IEEE 802.3 3.2.3), and guests those that they are bound to.
func (x *reading) ethernet() {
	dst, src, router := x.macs[0], x.macs[1], x.net.Router
	if x.uplink() {
		router = x.net.Eth0
	}
	x.is[policy.MACInvalid] = src == policy.MAC{} || src[0]&1 != 0 || x.uplink() && (src == x.net.Eth0 || src == x.net.Router)
	x.is[policy.MACBinding] = !x.uplink() && src != cases.MAC1 && src != cases.MAC2
	x.is[policy.OtherHost] = dst[0]&1 == 0 && dst != router
	switch src {
	case cases.MAC1:
		x.own = rfcGuests[:2]
	case cases.MAC2:
		x.own = rfcGuests[2:]
	}
	if x.uplink() {
		x.own = nil
	}
}

// noStation tells whether a MAC is not one that a station of the uplink may have.
func (x *reading) noStation(m policy.MAC) bool {
	return m == policy.MAC{} || m[0]&1 != 0 || m == x.net.Eth0 || m == x.net.Router
}

// arp: RFC 826, RFC 5227.
func (x *reading) arp(b []byte) {
	x.neighbour = true
	if len(b) < 28 || [6]byte(b[:6]) != [6]byte{0, 1, 8, 0, 6, 4} || b[6] != 0 || b[7] != 1 && b[7] != 2 {
		x.is[policy.ARPMalformed] = true
		return
	}
	sender, mac := netip.AddrFrom4([4]byte(b[14:18])), policy.MAC(b[8:14])
	if b[7] == 1 {
		x.asked, x.askedByAll = netip.AddrFrom4([4]byte(b[24:28])), sender.IsUnspecified()
	}
	probe := sender.IsUnspecified() && b[7] == 1
	if x.uplink() {
		x.is[policy.ARPSpoof] = x.noStation(mac) || x.isOurs(sender) || slices.Contains(rfcBroadcasts, sender) || noHost(sender) && !probe && !sender.IsLinkLocalUnicast()
		return
	}
	x.is[policy.ARPSpoof] = mac != x.macs[1] || !probe && !slices.Contains(x.own, sender)
}

// isOurs tells whether an address is on this side of the uplink.
func (x *reading) isOurs(a netip.Addr) bool {
	if slices.Contains(rfcUpstream, a) {
		return false
	}
	return slices.ContainsFunc(rfcNetworks, func(p netip.Prefix) bool { return p.Contains(a) }) || slices.Contains(rfcDom0, a) || slices.Contains(rfcRouter, a)
}

// isOwn tells whether a packet to an address is for the router itself, on the side that the frame comes from.
func (x *reading) isOwn(a netip.Addr) bool {
	if x.uplink() {
		return a == x.net.UplinkLL || slices.Contains(rfcRouter[:2], a)
	}
	return slices.Contains(rfcRouter, a)
}

// noHost tells addresses that no host sends from or is sent to beyond its link: RFC 6890 2.2, RFC 4291 2.5.5, RFC 3879, RFC 6666, RFC 3964 5.1.
func noHost(a netip.Addr) bool {
	if a.Is4() {
		b := a.As4()
		return b[0] == 0 || b[0] == 127 || b[0] >= 224 || b[0] == 169 && b[1] == 254
	}
	b := a.As16()
	private := func(b []byte) bool {
		return noHost(netip.AddrFrom4([4]byte(b))) || netip.AddrFrom4([4]byte(b)).IsPrivate()
	}
	switch {
	case a.IsMulticast(), a.IsLinkLocalUnicast(), b[0] == 0xfe && b[1]&0xc0 == 0xc0, [8]byte(b[:8]) == [8]byte{1}:
		return true
	case [10]byte(b[:10]) == [10]byte{}: // ::, ::1, compatible, mapped
		return b[10] == b[11] && (b[10] == 0 || b[10] == 255)
	case [12]byte(b[:12]) == [12]byte{0, 0x64, 0xff, 0x9b}:
		return private(b[12:])
	}
	return b[0] == 0x20 && b[1] == 2 && private(b[2:6])
}

// sum is the ones' complement sum of RFC 1071; it is 0xffff over what has a right checksum in it.
func sum(parts ...[]byte) uint16 {
	n := uint32(0)
	for _, b := range parts {
		for i, c := range b {
			n += uint32(c) << (8 * (1 - i%2))
		}
	}
	for n > 0xffff {
		n = n>>16 + n&0xffff
	}
	return uint16(n)
}

// ipv4: RFC 791 3.1, RFC 1812 5.2.2.
func (x *reading) ipv4(b []byte) {
	if len(b) < 20 || b[0]>>4 != 4 || b[0]&15 < 5 || int(b[0]&15)*4 > len(b) {
		x.is[policy.Malformed] = true
		return
	}
	header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	x.is[policy.Checksum] = sum(b[:header]) != 0xffff
	if total < header || total > len(b) {
		x.is[policy.Malformed] = true
		return
	}
	x.quoted = b[:total]
	x.src, x.dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	for o := b[20:header]; len(o) > 0 && o[0] != 0; {
		if o[0] == 1 {
			o = o[1:]
			continue
		}
		if o[0] == 131 || o[0] == 137 { // RFC 7126 4.3, 4.4
			x.is[policy.SourceRoute] = true
		}
		if len(o) < 2 || o[1] < 2 || int(o[1]) > len(o) {
			x.is[policy.Malformed] = true
			break
		}
		o = o[o[1]:]
	}
	where, p := binary.BigEndian.Uint16(b[6:]), part{proto: b[9], b: b[header:total]}
	p.off, p.more = int(where&0x1fff)*8, where&0x2000 != 0
	x.fragment(p, header)
	x.addresses(p, b[8])
}

// part is what is behind the IP headers: a transport header and its data, or a fragment of that.
type part struct {
	proto  uint8
	b      []byte
	off    int // of a fragment, in bytes
	more   bool
	header bool  // an IPv6 fragment header, maybe of an atomic one
	routed bool  // a routing header with segments left
	rh0    bool  // of type 0
	toTold bool  // an extension header's unknown option, for which its destination drops it
	hop    bool  // the same, for which every router does
	v6     bool  //
	hops   uint8 // hop limit
}

// fragment: RFC 791 3.2, RFC 8200 4.5, RFC 3128 4; before is what counts toward the length of the whole besides the part.
func (x *reading) fragment(p part, before int) {
	if p.more && (len(p.b) == 0 || len(p.b)%8 != 0) {
		x.is[policy.Malformed] = true
	}
	if p.off+len(p.b)+before > 0xffff {
		x.is[policy.OversizeFrag] = true
	}
	if p.off == 8 && p.proto == 6 {
		x.is[policy.TinyFragment] = true
	}
	if p.off > 0 {
		x.is[policy.FragmentOrphan] = true
	}
}

// ipv6: RFC 8200 3 and 4.
func (x *reading) ipv6(b []byte) {
	if len(b) < 40 || b[0]>>4 != 6 || 40+int(binary.BigEndian.Uint16(b[4:])) > len(b) {
		x.is[policy.Malformed] = true
		return
	}
	b = b[:40+int(binary.BigEndian.Uint16(b[4:]))]
	x.quoted = b
	x.src, x.dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	p, ok := x.chain(b)
	p.v6, p.hops = true, b[7]
	if ok {
		x.addresses(p, b[7])
	}
}

// chain walks the extension headers; not ok is a chain that cannot be read to its end.
func (x *reading) chain(b []byte) (p part, ok bool) {
	next, rest := b[6], b[40:]
	for n := 0; ; n++ {
		p.proto, p.b = next, rest
		if !slices.Contains([]uint8{0, 43, 44, 51, 60, 135, 139, 140}, next) { // RFC 8200 4, RFC 7045 4
			return p, true
		}
		size := 8
		if len(rest) >= 8 {
			switch next {
			case 44:
			case 51:
				size = (int(rest[1]) + 2) * 4 // RFC 4302 2.2
			default:
				size = (int(rest[1]) + 1) * 8
			}
		}
		cut := len(rest) < 8 || size > len(rest)
		x.is[policy.HeaderChain] = x.is[policy.HeaderChain] || n >= 10 || len(b)-40-len(rest)+size > 512
		x.is[policy.TinyFragment] = x.is[policy.TinyFragment] || cut && p.more // RFC 7112 5
		if cut || next == 0 && n > 0 || next == 44 && p.header {
			x.is[policy.Malformed] = true
			return p, false
		}
		switch next {
		case 0, 60:
			bad, told := options(rest[2:size])
			x.is[policy.Malformed] = x.is[policy.Malformed] || bad && (next == 0 || x.isOwn(x.dst))
			p.hop, p.toTold = p.hop || told && next == 0, p.toTold || told && next == 60
		case 43:
			p.rh0, p.routed = p.rh0 || rest[2] == 0, p.routed || rest[3] != 0
		case 44:
			where := binary.BigEndian.Uint16(rest[2:])
			p.header, p.off, p.more = true, int(where&^7), where&1 != 0
			first := p
			if first.proto, first.b = rest[0], rest[8:]; p.off > 0 || p.more {
				x.fragment(first, len(b)-40-len(rest))
			}
			if p.off > 0 {
				return first, true
			}
		}
		next, rest = rest[0], rest[size:]
	}
}

// options tells of IPv6 options whether they contradict their header, and whether one wants its packet dropped by who does not know it (RFC 8200 4.2).
func options(b []byte) (bad, told bool) {
	alerts := 0
	for len(b) > 0 {
		if b[0] == 0 {
			b = b[1:]
			continue
		}
		if len(b) < 2 || 2+int(b[1]) > len(b) {
			return true, told
		}
		if b[0] == 5 {
			alerts++ // RFC 2711 2.1: one at most
		}
		told, b = told || b[0]>>6 != 0, b[2+int(b[1]):]
	}
	return alerts > 1, told
}

// addresses: who may send from where to where.
func (x *reading) addresses(p part, ttl uint8) {
	x.transport(p)
	toOwn := x.isOwn(x.dst)
	x.is[policy.TTLExceeded] = ttl <= 1
	x.is[policy.IPv6Option] = p.hop || p.toTold && toOwn
	x.is[policy.RoutingHeader] = p.rh0 || p.routed && toOwn
	x.is[policy.L2Multicast] = x.macs[0][0]&1 != 0 && !x.dst.IsMulticast() && x.dst != netip.AddrFrom4([4]byte{255, 255, 255, 255})
	x.source(p)
	x.destination(p)
}

// source: RFC 2827, RFC 4291 2.5.2 and 2.5.6, RFC 1812 5.3.7.
func (x *reading) source(p part) {
	spoof, six := policy.IPBinding, p.v6
	if six {
		spoof = policy.IP6Binding
	}
	link := six && x.src.IsLinkLocalUnicast()
	x.is[policy.MartianSrc] = noHost(x.src) && !link || slices.Contains(rfcBroadcasts, x.src)
	if x.uplink() {
		x.is[policy.SpoofUplink] = x.isOurs(x.src) && !link || link && (x.src == x.net.UplinkLL || x.src == policy.EUI64(x.net.Eth0))
		return
	}
	x.is[policy.MartianSrc] = x.is[policy.MartianSrc] || slices.Contains(slices.Concat(rfcRouter, rfcDom0, rfcUpstream), x.src)
	others := policy.EUI64(cases.MAC2)
	if x.macs[1] == cases.MAC2 {
		others = policy.EUI64(cases.MAC1)
	}
	x.is[spoof] = !link && !slices.Contains(x.own, x.src) || link && (x.src == rfcRouter[2] || x.src == others)
}

// destination: RFC 1812 5.3.4 and 5.3.5, RFC 4291 2.5.6, RFC 2644.
func (x *reading) destination(p part) {
	bound := slices.Contains(rfcGuests, x.dst)
	ours := slices.ContainsFunc(rfcNetworks, func(n netip.Prefix) bool { return n.Contains(x.dst) }) && !slices.Contains(rfcUpstream, x.dst)
	x.is[policy.Multicast] = x.dst.IsMulticast()
	x.is[policy.Broadcast] = slices.Contains(rfcBroadcasts, x.dst) || x.dst == netip.AddrFrom4([4]byte{255, 255, 255, 255})
	x.is[policy.LinkLocal] = p.v6 && (x.src.IsLinkLocalUnicast() || x.dst.IsLinkLocalUnicast())
	x.is[policy.MartianDst] = noHost(x.dst)
	x.is[policy.UnboundDst] = ours && !bound && !slices.Contains(rfcRouter, x.dst) && !slices.Contains(rfcDom0, x.dst)
	x.is[policy.KernelHeld] = x.uplink() && slices.Contains(rfcDom0, x.dst) && !x.neighbour
	x.is[policy.Loop] = slices.Contains(x.own, x.dst)
	x.is[policy.NoRoute] = x.uplink() && !ours && !x.isOwn(x.dst) && !slices.Contains(rfcDom0, x.dst)
	x.is[policy.NoNeighbour] = netip.MustParsePrefix("192.0.1.0/26").Contains(x.dst) && !slices.Contains(rfcUpstream, x.dst) && !x.forDom0()
	asksEcho := len(p.b) > 0 && (!p.v6 && p.proto == 1 && p.b[0] == 8 || p.v6 && p.proto == 58 && p.b[0] == 128)
	x.is[policy.RouterLocal] = x.isOwn(x.dst) && !asksEcho && !x.neighbour && !x.forDom0()
}

// transport: RFC 9293 3.1, RFC 768, RFC 792, RFC 4443, and what a router without flows makes of it.
func (x *reading) transport(p part) {
	if p.off > 0 {
		return
	}
	short, b := policy.Malformed, p.b
	if p.more {
		short = policy.TinyFragment // RFC 1858 3, RFC 7112 5
	}
	if p.proto == 1 && p.v6 || p.proto == 58 && !p.v6 { // ICMP is of one family (RFC 792, RFC 4443): nobody answers the other's
		x.is[policy.NoFlow] = true
	}
	least := map[uint8]int{6: 20, 17: 8, 33: 4, 132: 4, 136: 4}[p.proto]
	icmp := p.proto == 1 && !p.v6 || p.proto == 58 && p.v6
	if icmp {
		least = 8
	}
	if len(b) < least {
		x.is[short] = true
		return
	}
	switch {
	case p.proto == 6:
		const fin, syn, rst, ack = 1, 2, 4, 16
		header, flags := int(b[12]>>4)*4, b[13]
		x.is[policy.Malformed] = x.is[policy.Malformed] || header < 20
		x.is[short] = x.is[short] || header > len(b)
		x.is[policy.TCPFlags] = flags&(fin|syn|rst|ack) == 0 || flags&(syn|fin) == syn|fin || flags&(syn|rst) == syn|rst || flags&(fin|ack) == fin
		x.is[policy.NoFlow] = flags&(fin|syn|rst|ack) != syn
	case p.proto == 17:
		n := int(binary.BigEndian.Uint16(b[4:]))
		x.is[policy.Malformed] = x.is[policy.Malformed] || n < 8 || n > len(b) && !p.more
		x.is[policy.DHCPGuard] = x.dhcp(p)
	case icmp && p.v6:
		x.icmp6(p)
	case icmp:
		x.is[policy.Redirect] = b[0] == 5
		x.is[policy.ICMPType] = !slices.Contains([]uint8{0, 3, 5, 8, 11, 12}, b[0]) // RFC 6633, 6918
		x.is[policy.Unrelated] = slices.Contains([]uint8{3, 11, 12}, b[0])
		x.is[policy.NoFlow] = b[0] == 0
		x.is[policy.Checksum] = x.is[policy.Checksum] || x.isOwn(x.dst) && sum(b) != 0xffff
	}
}

// dhcp tells what is of its link: what servers and relays say, and what everybody is asked (RFC 2131 2 and 4.1, RFC 8415 7). A client may ask the server
// that it knows, wherever that is, for itself; what is no DHCP is anybody's.
func (x *reading) dhcp(p part) bool {
	from, to, m := binary.BigEndian.Uint16(p.b), binary.BigEndian.Uint16(p.b[2:]), p.b[8:]
	says := func(types ...byte) bool { return len(m) > 0 && slices.Contains(types, m[0]) }
	switch {
	case p.v6 && to == 547:
		return x.dst.IsMulticast() || len(m) == 0 || says(2, 7, 10, 13) || says(12) && !x.uplink()
	case p.v6:
		return to == 546
	case to == 68:
		return from == 67 || len(m) == 0 || says(2)
	case to != 67:
		return false
	case x.src.IsUnspecified(), slices.Contains(rfcBroadcasts, x.dst), x.dst == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return true
	case p.more:
		return !x.uplink() || len(m) == 0 || says(2)
	case len(m) < 236:
		return false
	}
	own := [3]byte(m[1:4]) == [3]byte{1, 6, 0} && [4]byte(m[24:28]) == [4]byte{} && policy.MAC(m[28:34]) == x.macs[1]
	return says(2) || says(1) && !own && !x.uplink()
}

// icmp6: RFC 4443, RFC 4890 4.3, RFC 4861.
func (x *reading) icmp6(p part) {
	b, typ, code := p.b, p.b[0], p.b[1]
	wrong := sum(x.src.AsSlice(), x.dst.AsSlice(), []byte{0, 0, byte(len(b) >> 8), byte(len(b)), 0, 0, 0, 58}, b) != 0xffff
	x.is[policy.Checksum] = wrong && (x.isOwn(x.dst) || typ >= 133 && typ <= 137)
	x.is[policy.ICMPType] = !(typ == 1 || typ == 2 || typ == 3 && code <= 1 || typ == 4 && code <= 10 || typ == 128 || typ == 129)
	x.is[policy.Unrelated] = typ >= 1 && typ <= 4
	x.is[policy.NoFlow] = typ == 129
	x.is[policy.NDFragment] = p.header && (typ >= 133 && typ <= 137 || typ == 148 || typ == 149) // RFC 6980 5
	if typ >= 133 && typ <= 137 {
		x.nd(p)
	}
}

// nd: RFC 4861 6.1, 7.1 and 8.1; RFC 6105 for what a guest says as a router.
func (x *reading) nd(p part) {
	b, typ := p.b, p.b[0]
	x.neighbour = true
	x.is[policy.NDHopLimit] = p.hops != 255
	x.is[policy.Redirect] = typ == 137
	x.is[policy.RAGuard] = typ == 134 && !x.uplink()
	body := map[uint8]int{133: 8, 134: 16, 135: 24, 136: 24, 137: 40}[typ]
	if len(b) < body {
		x.is[policy.NDMalformed] = true
		return
	}
	lls, bad := x.ndOptions(b[body:])
	probe := x.src.IsUnspecified()
	solicited := x.dst.As16()
	toSolicited := [13]byte(solicited[:13]) == [13]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff}
	bad = bad || b[1] != 0 || p.routed || probe && typ == 135 && !toSolicited || probe && typ <= 135 && lls[1] != nil ||
		(typ == 134 || typ == 137) && !x.src.IsLinkLocalUnicast() || typ == 136 && x.dst.IsMulticast() && b[4]&0x40 != 0
	var target netip.Addr
	if typ >= 135 {
		target = netip.AddrFrom16([16]byte(b[8:24]))
		bad = bad || target.IsMulticast() || typ == 135 && !x.dst.IsMulticast() && x.dst != target && !x.isOwn(x.dst) // 7.2.3: a node answers what it receives for itself
	}
	if x.is[policy.NDMalformed] = bad; typ == 135 && !bad {
		x.asked, x.askedByAll = target, probe
	}
	for _, ll := range lls {
		if ll != nil && (x.uplink() && x.noStation(policy.MAC(ll)) || !x.uplink() && policy.MAC(ll) != x.macs[1]) {
			x.is[policy.NDSpoof] = true
		}
	}
	if typ == 136 && (x.uplink() && !target.IsLinkLocalUnicast() && x.isOurs(target) || !x.uplink() && (b[4]&0x80 != 0 || !slices.Contains(x.own, target) && target != policy.EUI64(x.macs[1]))) {
		x.is[policy.NDSpoof] = true
	}
}

// ndOptions are the link-layer addresses of ND options, by type (RFC 4861 4.6.1), and whether an option contradicts its length or another one.
func (x *reading) ndOptions(b []byte) (lls [3][]byte, bad bool) {
	for len(b) > 0 {
		if len(b) < 8 || b[1] == 0 || int(b[1])*8 > len(b) {
			return lls, true
		}
		if t := b[0]; t == 1 || t == 2 {
			ll := b[2:8]
			bad = bad || b[1] != 1 || lls[t] != nil && string(lls[t]) != string(ll)
			lls[t] = ll
		}
		b = b[int(b[1])*8:]
	}
	return lls, bad
}

// answerDue tells whether a router that proxies as seedFile wants answers what is asked: guests, for itself, each other and the provider's router where it
// lies in their prefix; on the uplink, for guests of the proxied network and for its own link-local address there. What probes ask is answered for others' addresses.
func (x *reading) answerDue() bool {
	a := x.asked
	switch {
	case !a.IsValid():
		return false
	case x.uplink():
		return a == x.net.UplinkLL || a.Is6() && slices.Contains(rfcGuests, a)
	}
	return slices.Contains(rfcRouter, a) || a == rfcUpstream[1] || slices.Contains(rfcGuests, a) && !slices.Contains(x.own, a)
}

// nothingDue tells of ARP and ND that need no answer of the router's.
func (x *reading) nothingDue() bool { return x.neighbour && (!x.answerDue() || x.askedByAll) }

// forDom0 tells of what a guest sends to dom0.
func (x *reading) forDom0() bool { return !x.uplink() && slices.Contains(rfcDom0, x.dst) }

// groupOnUplink tells of what is for a group on the uplink.
func (x *reading) groupOnUplink() bool { return x.uplink() && x.dst.IsMulticast() }

// reasons are those that are true.
func (x *reading) reasons() (list []policy.Reason) {
	for r, is := range x.is {
		if is {
			list = append(list, r)
		}
	}
	slices.Sort(list)
	return list
}
