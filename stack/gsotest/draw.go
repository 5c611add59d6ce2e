package gsotest

import (
	"math/rand/v2"
	"net/netip"

	"pgregory.net/rapid"

	"udrouter/policy"
)

// Kind is how a packet comes.
type Kind int

// Kinds of packets.
const (
	GSO     Kind = iota // a super-packet with a partial checksum, as kernels make them
	LRO                 // one of TCP that a NIC has put together, with the checksum of whichever segment
	Partial             // one packet with a partial checksum
	Whole               // one packet with all that it needs
)

// Ends are a packet's addresses and ports. TCP is the protocol, else it is UDP; Seq and Ack are TCP's.
type Ends struct {
	DstMAC, SrcMAC policy.MAC
	Src, Dst       netip.AddrPort
	TCP            bool
	Seq, Ack       uint32
}

// Packet is a frame and what its virtio_net_hdr says.
type Packet struct {
	Kind  Kind
	Frame []byte
	policy.Offload
}

// Options and extension headers to be had in a super-packet. None of IPv4's are source routes, and no option of IPv6 wants its packet dropped.
var (
	options4 = [][]byte{{}, {1, 1, 1, 0}, {7, 7, 4, 0, 0, 0, 0, 0}, {0x94, 4, 0, 0}, {0x94, 4, 0, 0, 7, 3, 4, 1}, {0x86, 6, 0, 0, 0, 1, 1, 0},
		{68, 36, 5, 0, 35: 0, 36: 0x94, 37: 4, 39: 0}}
	optionsTCP = [][]byte{{}, {1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8}, {1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 9}, {1, 1, 1, 0},
		{1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1, 5, 26, 0, 0, 0, 1, 0, 0, 0, 9, 39: 0}}
	extensions = [][]extension{{}, {{0, padN(8)}}, {{0, routerAlert}}, {{60, padN(8)}}, {{60, padN(264)}}, {{0, padN(16)}, {60, padN(24)}},
		{{43, []byte{0, 0, 253, 0, 0, 0, 0, 0}}}, {{60, padN(8)}, {43, []byte{0, 0, 253, 0, 0, 0, 0, 0}}, {60, padN(8)}}}
	routerAlert = []byte{0, 0, 5, 2, 0, 0, 1, 0}
)

type extension struct {
	header byte
	b      []byte // its first byte is yet to be the next header
}

// padN is an extension header of n bytes that is padding.
func padN(n int) []byte {
	b := make([]byte, n)
	b[1] = byte(n/8 - 1)
	for at := 2; at < n; {
		size := min(n-at, 257)
		if size == 1 {
			break // Pad1
		}
		b[at], b[at+1] = 1, byte(size-2)
		at += size
	}
	return b
}

// Draw makes a packet of a kind between ends; mtu is one that its segments are near to, or far beyond.
func Draw(t *rapid.T, kind Kind, e Ends, mtu int) Packet {
	tcp := e.TCP || kind == LRO
	hdr := make([]byte, 8)
	if tcp {
		hdr = append(make([]byte, 20), rapid.SampledFrom(optionsTCP).Draw(t, "TCP options")...)
	}
	ip := drawIP(t, e, tcp)
	size := drawSize(t, mtu-len(ip)-len(hdr))
	n := size // of payload
	if kind == GSO || kind == LRO {
		most := 65535 - len(ip) - len(hdr)
		n = min(rapid.OneOf(rapid.IntRange(0, 2*size), rapid.IntRange(0, 9*size), rapid.Just(most), rapid.IntRange(0, most)).Draw(t, "payload"), most, 128*size)
	}
	f := append(append(make([]byte, eth), ip...), hdr...)
	at := len(f)
	f = append(f, make([]byte, n)...)
	seed := rapid.Uint64().Draw(t, "seed")
	for r, i := rand.New(rand.NewPCG(seed, 0)), at; i < len(f); i++ {
		f[i] = byte(r.Uint32())
	}
	l4 := eth + len(ip)
	p := Packet{Kind: kind, Frame: f, Offload: policy.Offload{CsumStart: uint16(l4), CsumOffset: 6}}
	drawTransport(t, f[l4:], e, tcp)
	if tcp {
		p.CsumOffset = 16
	}
	p.seal(t, e, tcp, size, at)
	p.Frame = append(p.Frame, make([]byte, rapid.SampledFrom([]int{0, 0, 0, 1, 40}).Draw(t, "trailer"))...)
	if p.GSOType != policy.GSONone { // a hint, often all that is linear
		p.HdrLen = rapid.SampledFrom([]uint16{uint16(at), uint16(at), 0, uint16(len(p.Frame))}).Draw(t, "header length")
	}
	return p
}

// drawSize is one for segments' payload, of which room is what the MTU leaves.
func drawSize(t *rapid.T, room int) int {
	room = max(room, 8)
	return rapid.OneOf(rapid.IntRange(max(room-16, 1), room), rapid.IntRange(room+1, room+16), rapid.IntRange(1, room), rapid.IntRange(room, 3*room),
		rapid.SampledFrom([]int{1, 8, 1448, 8948})).Draw(t, "size")
}

// drawIP is an IP header with all that may stand between it and the transport. Its lengths and checksum are yet to be made.
func drawIP(t *rapid.T, e Ends, tcp bool) []byte {
	proto := byte(17)
	if tcp {
		proto = 6
	}
	tos, ttl := rapid.Byte().Draw(t, "traffic class and ECN"), byte(rapid.IntRange(2, 255).Draw(t, "TTL"))
	if e.Src.Addr().Is4() {
		o := rapid.SampledFrom(options4).Draw(t, "options")
		h := append(make([]byte, 20), o...)
		h[0], h[1], h[8], h[9] = 0x40|byte(len(h)/4), tos, ttl, proto
		be.PutUint16(h[4:], rapid.Uint16().Draw(t, "identification"))
		h[6] = rapid.SampledFrom([]byte{0, 0x40}).Draw(t, "DF")
		copy(h[12:], e.Src.Addr().AsSlice())
		copy(h[16:], e.Dst.Addr().AsSlice())
		return h
	}
	h := make([]byte, 40)
	be.PutUint32(h, 6<<28|uint32(tos)<<20|uint32(rapid.IntRange(0, 1<<20-1).Draw(t, "flow label")))
	h[6], h[7] = proto, ttl
	copy(h[8:], e.Src.Addr().AsSlice())
	copy(h[24:], e.Dst.Addr().AsSlice())
	next := 6
	for _, x := range extensions[rapid.IntRange(0, len(extensions)-1).Draw(t, "extension headers")] {
		at := len(h)
		h = append(h, x.b...)
		h[at], h[next] = h[next], x.header
		next = at
	}
	return h
}

// drawTransport writes all of the transport header but its checksum.
func drawTransport(t *rapid.T, h []byte, e Ends, tcp bool) {
	be.PutUint16(h, e.Src.Port())
	be.PutUint16(h[2:], e.Dst.Port())
	if !tcp {
		be.PutUint16(h[4:], uint16(len(h)))
		return
	}
	be.PutUint32(h[4:], e.Seq)
	be.PutUint32(h[8:], e.Ack)
	flags := rapid.SampledFrom([]byte{0, 0, 1, 8, 1 | 8, 0x20}).Draw(t, "FIN, PSH and URG") | rapid.SampledFrom([]byte{0, 0x40, 0x80, 0xc0}).Draw(t, "ECE and CWR")
	h[12] |= byte(rapid.IntRange(0, 1).Draw(t, "AE"))
	h[13] = 16 | flags
	be.PutUint16(h[14:], 65535)
}

// seal makes lengths, checksums and metadata. data is where the payload begins.
func (p *Packet) seal(t *rapid.T, e Ends, tcp bool, size, data int) {
	f, l4 := p.Frame, int(p.CsumStart)
	copy(f, e.DstMAC[:])
	copy(f[6:], e.SrcMAC[:])
	if tcp {
		f[l4+12] |= byte((data-l4)/4) << 4
	}
	if ip := f[eth:]; e.Src.Addr().Is4() {
		be.PutUint16(f[12:], 0x0800)
		be.PutUint16(ip[2:], uint16(len(ip)))
		sealIP(ip)
	} else {
		be.PutUint16(f[12:], 0x86dd)
		be.PutUint16(ip[4:], uint16(len(ip)-40))
	}
	h, err := parse(f)
	if err != nil {
		t.Fatal(err)
	}
	be.PutUint16(f[l4+int(p.CsumOffset):], h.pseudo(len(f)-l4))
	if n := min(size, len(f)-data); !tcp && n >= 2 && rapid.Bool().Draw(t, "checksum 0") {
		c := ^sum(h.pseudo(8+n), f[l4:l4+4], be.AppendUint16(nil, uint16(8+n)), f[data:data+n])
		be.PutUint16(f[data:], sum(c, f[data:data+2]))
	}
	switch {
	case p.Kind == Whole:
		p.Flags = policy.NeedsCsum
		if err := complete(f, p.Offload); err != nil {
			t.Fatal(err)
		}
		p.Offload = policy.Offload{Flags: rapid.SampledFrom([]uint8{0, policy.DataValid}).Draw(t, "checked")}
		return
	case p.Kind == LRO:
		be.PutUint16(f[l4+16:], rapid.Uint16().Draw(t, "checksum"))
		p.Offload = policy.Offload{Flags: policy.DataValid}
	default:
		p.Flags = policy.NeedsCsum
	}
	if p.Kind == Partial {
		return
	}
	p.GSOSize, p.GSOType = uint16(size), policy.GSOUDPL4
	switch {
	case tcp && h.v4:
		p.GSOType = policy.GSOTCPv4
	case tcp:
		p.GSOType = policy.GSOTCPv6
	}
	if tcp && f[l4+13]&0x80 != 0 {
		p.GSOType |= policy.GSOECN
	}
}

// DrawKind draws one that a link without a NIC behind it has, or with one.
func DrawKind(t *rapid.T, nic bool) Kind {
	k := []Kind{GSO, GSO, Partial, Whole}
	if nic {
		k = append(k, LRO)
	}
	return rapid.SampledFrom(k).Draw(t, "kind")
}
