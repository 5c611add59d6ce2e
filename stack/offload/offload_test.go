package offload

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/net/bpf"

	"udrouter/policy"
)

var (
	guestMAC, routerMAC     = policy.MAC{0, 0x16, 0x3e, 0, 0, 1}, policy.MAC{2, 0, 0, 0, 0, 1}
	uplinkMAC, providerMAC  = policy.MAC{2, 0, 0, 0, 0, 2}, policy.MAC{2, 0, 0, 0, 0, 3}
	inner4, outer4          = netip.MustParseAddrPort("192.0.2.10:40000"), netip.MustParseAddrPort("198.51.100.7:443")
	inner6, outer6          = netip.MustParseAddrPort("[2001:db8:3:2:1::10]:40000"), netip.MustParseAddrPort("[2001:db8:ffff::7]:443")
	guestNext, providerNext = policy.NextHop{1}, policy.NextHop{2}
)

const (
	generation, slot, serial, mtu = 7, 3, 1<<16 + 9, 1500
	payload                       = 100
	scale                         = 2
	unacked                       = 50 // bytes that each end has sent and not had acknowledged
)

// pair is two engines with the same flow: of one the kernel forwards, the other has the router alone. Of the latter, what it offers is written down.
type pair struct {
	tier     *Tier
	guest    *policy.Guest
	engines  [2]*policy.Engine
	offers   int
	windows  [2]policy.WindowState
	now      time.Duration
	withTier uint16
}

// Offer, Look, Raise and Withdraw make a pair the policy.Tier of the engine that forwards by itself.
func (p *pair) Offer(f *policy.OffloadFlow) (uint16, bool) {
	p.offers++
	p.windows = f.Window
	return 1, true
}
func (p *pair) Look(_ uint16, w *[2]policy.WindowState) (o policy.Offloaded) {
	for i := range w {
		w[i].UNA, w[i].End, w[i].Edge, w[i].Window = p.windows[i].UNA, p.windows[i].End, p.windows[i].Edge, p.windows[i].Window
	}
	return o
}
func (p *pair) Raise(_ uint16, w *[2]policy.WindowState, _ time.Duration) { p.windows = *w }
func (p *pair) Withdraw(_ uint16, w *[2]policy.WindowState) policy.Offloaded {
	return p.Look(0, w)
}

// kernelTier puts flows into the tier as package router does.
type kernelTier struct{ *pair }

func (k kernelTier) Offer(f *policy.OffloadFlow) (place uint16, ok bool) {
	place, ok = k.tier.Put(f, slot, serial)
	k.withTier = place
	return place, ok
}
func (k kernelTier) Look(place uint16, w *[2]policy.WindowState) policy.Offloaded {
	return k.tier.Look(place, w)
}
func (k kernelTier) Raise(place uint16, w *[2]policy.WindowState, unused time.Duration) {
	k.tier.Raise(place, w, unused)
}
func (k kernelTier) Withdraw(place uint16, w *[2]policy.WindowState) policy.Offloaded {
	return k.tier.Withdraw(place, w)
}

func openTier(t testing.TB) *Tier {
	t.Helper()
	tier, err := Open("none", 1, 16)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() {
		if err := tier.Close(); err != nil {
			t.Error(err)
		}
	})
	w := tier.world
	w.Generation, w.Mtu, w.Tap, w.Uplink, w.RouterMac, w.UplinkMac = generation, mtu, 1, 1, words(routerMAC), words(uplinkMAC)
	tier.SetNeighbour(slot, serial, providerMAC)
	return tier
}

// newPair opens a flow in both engines and has packets go both ways until it is offered.
func newPair(t testing.TB, tier *Tier, k kind) *pair {
	t.Helper()
	p := &pair{tier: tier, now: time.Hour, guest: &policy.Guest{Name: "one", Side: policy.SideGuest, MAC: guestMAC,
		Addrs: []netip.Prefix{netip.PrefixFrom(k.inner.Addr(), k.inner.Addr().BitLen())}}}
	open := policy.Chain{Default: policy.Accept}
	for i, tier := range []policy.Tier{kernelTier{p}, p} {
		e, err := policy.NewEngine([]policy.GuestPolicy{{Guest: p.guest, Policy: &policy.Policy{Name: "open", Egress: open, Ingress: open}}}, nil, 100)
		if err != nil {
			t.Fatal(err)
		}
		e.SetTier(tier)
		p.engines[i] = e
		remember := func(f []byte, way policy.Direction) {
			ends := [2]policy.End{{Zone: policy.ZoneGuest, Guest: p.guest}, {Zone: policy.ZoneUplink}}
			var pkt policy.Packet
			if r := pkt.Parse(f, policy.Offload{}); r != policy.None {
				t.Fatal(r)
			}
			v := e.Decide(&pkt, ends[way], ends[1-way], p.now)
			if v.Action != policy.Accept {
				t.Fatal(v.Reason)
			}
			e.Remember(&v, [2]policy.NextHop{providerNext, guestNext}[way], generation)
		}
		if k.proto == policy.ProtoTCP {
			remember(k.frame(policy.Egress, 2, 999, 0, 0), policy.Egress)
			remember(k.frame(policy.Ingress, 18, 1999, 1000, 0), policy.Ingress)
		}
		if k.opener == policy.Ingress {
			remember(k.frame(policy.Ingress, 16, 2000, 1000, 0), policy.Ingress)
		}
		for range 5 {
			remember(k.frame(policy.Egress, 16, 1000, 2000, 0), policy.Egress)
			remember(k.frame(policy.Ingress, 16, 2000, 1000, 0), policy.Ingress)
		}
		remember(k.frame(policy.Egress, 16, 1000, 2000, unacked), policy.Egress)
		remember(k.frame(policy.Ingress, 16, 2000, 1000, unacked), policy.Ingress)
		for range 20 {
			p.hit(e, k.frame(policy.Egress, 16, 1000, 2000, 0), policy.Egress)
		}
	}
	if p.withTier == 0 || p.offers != 1 {
		t.Fatalf("place %d, %d offers", p.withTier, p.offers)
	}
	return p
}

// kind is a flow.
type kind struct {
	proto        uint8
	inner, outer netip.AddrPort
	opener       policy.Direction
}

var kinds = []kind{
	{policy.ProtoTCP, inner4, outer4, policy.Egress}, {policy.ProtoTCP, inner6, outer6, policy.Egress},
	{policy.ProtoUDP, inner4, outer4, policy.Egress}, {policy.ProtoUDP, inner6, outer6, policy.Ingress},
	{policy.ProtoICMP, inner4, outer4, policy.Egress}, {policy.ProtoICMPv6, inner6, outer6, policy.Egress},
	{policy.ProtoICMP, inner4, outer4, policy.Ingress}, {policy.ProtoICMPv6, inner6, outer6, policy.Ingress},
}

func (k kind) String() string { return fmt.Sprint(k.proto, " ", k.inner.Addr(), " ", k.opener) }

func (k kind) echo() bool { return k.proto == policy.ProtoICMP || k.proto == policy.ProtoICMPv6 }

// echoType is the type of an echo request or reply.
func (k kind) echoType(reply bool) byte {
	switch {
	case k.v4() && reply:
		return 0
	case k.v4():
		return 8
	case reply:
		return 129
	}
	return 128
}

func (k kind) v4() bool { return k.inner.Addr().Is4() }

// l4 is where the transport header begins.
func (k kind) l4() int {
	if k.v4() {
		return policy.EthernetLen + policy.IPv4Len
	}
	return policy.EthernetLen + policy.IPv6Len
}

// frame is a packet of a flow with so many bytes of payload. Transport checksums are nobody's business here.
func (k kind) frame(way policy.Direction, flags uint8, seq, ack uint32, n int) []byte {
	src, dst, m := k.inner, k.outer, [2]policy.MAC{routerMAC, guestMAC}
	if way == policy.Ingress {
		src, dst, m = dst, src, [2]policy.MAC{uplinkMAC, providerMAC}
	}
	l4 := binary.BigEndian.AppendUint16(nil, src.Port())
	l4 = binary.BigEndian.AppendUint16(l4, dst.Port())
	if k.proto == policy.ProtoTCP {
		l4 = binary.BigEndian.AppendUint32(l4, seq)
		l4 = binary.BigEndian.AppendUint32(l4, ack)
		l4 = append(l4, 5<<4, flags, 0x7f, 0xff, 1, 2, 0, 0)
		if flags&2 != 0 { // a SYN scales the windows that follow
			l4[12] = 6 << 4
			l4 = append(l4, 3, 3, scale, 0)
		}
	} else if k.echo() {
		l4 = []byte{k.echoType(way != k.opener), 0, 1, 2, 0x9c, 0x40, byte(seq >> 8), byte(seq)}
	} else {
		l4 = append(binary.BigEndian.AppendUint16(l4, uint16(8+n)), 1, 2)
	}
	l4 = append(l4, make([]byte, n)...)
	f := slices.Concat(m[0][:], m[1][:])
	if k.v4() {
		f = append(f, 8, 0, 0x45, 0)
		f = binary.BigEndian.AppendUint16(f, uint16(20+len(l4)))
		f = append(f, 0, 1, 0x40, 0, 64, k.proto, 0, 0)
	} else {
		f = append(f, 0x86, 0xdd, 0x60, 0, 0, 0)
		f = append(binary.BigEndian.AppendUint16(f, uint16(len(l4))), k.proto, 64)
	}
	f = slices.Concat(f, src.Addr().AsSlice(), dst.Addr().AsSlice(), l4)
	k.sum(f)
	return f
}

// sum makes an IPv4 header's checksum right.
func (k kind) sum(f []byte) {
	if h := f[policy.EthernetLen:]; k.v4() && len(h) >= policy.IPv4Len && int(h[0]&15)*4 <= len(h) {
		h[10], h[11] = 0, 0
		binary.BigEndian.PutUint16(h[10:], ^policy.FoldChecksum(policy.Sum(h[:int(h[0]&15)*4], 0)))
	}
}

// hit is what the router's worker does with a packet on its short way, up to where it is sent: the frame that leaves, or nil.
func (p *pair) hit(e *policy.Engine, frame []byte, way policy.Direction) []byte {
	var pkt policy.Packet
	if pkt.Parse(frame, policy.Offload{}) != policy.None || !pkt.Plain() || pkt.TTL <= 1 || pkt.SegmentLen() > mtu {
		return nil
	}
	from, dst, src := policy.SideGuest, providerMAC, uplinkMAC
	if way == policy.Egress {
		if pkt.SrcMAC != guestMAC || pkt.DstMAC != routerMAC {
			return nil
		}
	} else {
		v := policy.View{RouterMAC: routerMAC, UplinkMAC: uplinkMAC}
		if pkt.DstMAC != uplinkMAC || !v.MayBeOnUplink(pkt.SrcMAC) || !slices.Contains(p.guest.Addrs, netip.PrefixFrom(pkt.Dst, pkt.Dst.BitLen())) {
			return nil
		}
		from, dst, src = policy.SideUplink, guestMAC, routerMAC
	}
	if _, ok := e.Hit(&pkt, p.guest, from, generation, p.now, func(policy.NextHop) bool { return true }); !ok {
		return nil
	}
	out := slices.Concat(dst[:], src[:], pkt.Frame[12:])
	if ip := out[policy.EthernetLen:]; pkt.IsIPv4() {
		ip[8]--
		kind{inner: inner4}.sum(out)
	} else {
		ip[7]--
	}
	return out
}

// kernel runs the program of a direction: the frame that leaves, or nil. Of what comes from the uplink the router's sockets must get the opposite.
func (p *pair) kernel(t testing.TB, frame []byte, way policy.Direction) []byte {
	t.Helper()
	if way == policy.Egress {
		return run(t, p.tier.objs.FromGuest, frame)
	}
	// The test of a socket filter takes an Ethernet header off that a packet socket sees.
	seen, _, err := p.tier.objs.Admit.Test(slices.Concat(frame[:policy.EthernetLen], frame))
	if err != nil {
		t.Fatal(err)
	}
	out := run(t, p.tier.objs.FromUplink, frame)
	if (seen == admitted) != (out == nil) {
		t.Errorf("a socket gets %d bytes of it; the program: %x", seen, out)
	}
	return out
}

const admitted = 1 << 18

func run(t testing.TB, prog *ebpf.Program, frame []byte) []byte {
	t.Helper()
	const redirect = 7 // TC_ACT_REDIRECT
	code, out, err := prog.Test(frame)
	if err != nil {
		t.Fatal(err)
	}
	switch code {
	case redirect:
		return out
	case 1<<32 - 1: // TCX_NEXT
		if !bytes.Equal(out, frame) {
			t.Errorf("a frame that is not forwarded was changed:\n%x\n%x", frame, out)
		}
		return nil
	}
	t.Fatalf("the program returned %d", code)
	return nil
}

// A packet is forwarded by the kernel only if the router would have forwarded it without looking at rules; it leaves it with the same bytes, and the
// flow with the same windows and counters. What is like any other of its flow is forwarded.
func TestForwardsAsTheRouterDoes(t *testing.T) {
	tier := openTier(t)
	if err := tier.SetFilter([]bpf.Instruction{bpf.RetConstant{Val: admitted}}); err != nil {
		t.Fatal(err)
	}
	for _, k := range kinds {
		for _, way := range []policy.Direction{policy.Egress, policy.Ingress} {
			for _, r := range rows(k, way) {
				t.Run(fmt.Sprint(k, "/", way, "/", r.name), func(t *testing.T) {
					p := newPair(t, tier, k)
					defer p.engines[0].Forget()
					out := p.check(t, r.frame, way)
					if (out != nil) != r.forwards {
						t.Errorf("forwarded by the kernel: %v, want %v", out != nil, r.forwards)
					}
				})
			}
		}
	}
}

// check compares what becomes of a frame.
func (p *pair) check(t testing.TB, frame []byte, way policy.Direction) []byte {
	t.Helper()
	before := p.tier.Look(p.withTier, new([2]policy.WindowState))
	out := p.kernel(t, frame, way)
	after := p.tier.Look(p.withTier, new([2]policy.WindowState))
	if out == nil {
		if before.Packets != after.Packets || before.Bytes != after.Bytes {
			t.Errorf("counted though not forwarded: %v, %v", before, after)
		}
		return nil
	}
	if want := p.hit(p.engines[1], frame, way); !bytes.Equal(out, want) {
		t.Fatalf("the kernel sends\n%x, the router\n%x", out, want)
	}
	before.Packets[way]++
	before.Bytes[way] += uint64(len(frame) - policy.EthernetLen)
	if before.Packets != after.Packets || before.Bytes != after.Bytes {
		t.Errorf("%v, %v packets and bytes are counted; want %v, %v", after.Packets, after.Bytes, before.Packets, before.Bytes)
	}
	var w [2]policy.WindowState
	if p.tier.Look(p.withTier, &w); p.tier.flows[p.withTier].Key.Proto == policy.ProtoTCP {
		for i := range w {
			w[i].Shift = p.windows[i].Shift
		}
		if w != p.windows {
			t.Errorf("windows\n%+v, of the router\n%+v", w, p.windows)
		}
	}
	return out
}

type row struct {
	name     string
	frame    []byte
	forwards bool
}

// rows are packets of a flow, and such as are nearly so.
func rows(k kind, way policy.Direction) (list []row) {
	tcp := k.proto == policy.ProtoTCP
	seq, ack := uint32(1000), uint32(2000)
	if way == policy.Ingress {
		seq, ack = ack, seq
	}
	base := func(n int) []byte { return k.frame(way, 16, seq, ack, n) }
	add := func(name string, forwards bool, f []byte) { list = append(list, row{name, f, forwards}) }
	edit := func(name string, forwards bool, change func(f, ip, l4 []byte)) {
		f := base(payload)
		change(f, f[policy.EthernetLen:], f[k.l4():])
		k.sum(f)
		add(name, forwards, f)
	}
	add("plain", true, base(payload))
	add("no payload", true, base(0))
	add("as large as the MTU", true, base(mtu-len(base(0))+policy.EthernetLen))
	add("a byte larger", false, base(mtu-len(base(0))+policy.EthernetLen+1))
	add("a trailer", false, append(base(payload), 0))
	add("padding", false, append(base(0), make([]byte, 18)...))
	for _, n := range []int{k.l4(), k.l4() + 7, len(base(0)) - 1} { // the kernel itself tests none whose IP header is cut
		add(fmt.Sprint("cut at ", n), false, base(0)[:n])
	}
	for name, m := range map[string]policy.MAC{"nobody's": {4, 5, 6, 7, 8, 9}, "zero": {}, "group": {1, 0, 0x5e, 0, 0, 1}, "the router's": routerMAC, "the uplink's": uplinkMAC,
		"the guest's": guestMAC, "broadcast": policy.BroadcastMAC} {
		other := name == "nobody's" || name == "the guest's"
		edit("source MAC "+name, way == policy.Ingress && other || way == policy.Egress && m == guestMAC, func(f, _, _ []byte) { copy(f[6:], m[:]) })
		edit("destination MAC "+name, way == policy.Egress && m == routerMAC || way == policy.Ingress && m == uplinkMAC, func(f, _, _ []byte) { copy(f, m[:]) })
	}
	for _, typ := range []uint16{0x8100, 0x88a8, 0x0806, 0x86dd, 0x0800, 0} {
		f := base(payload)
		same := binary.BigEndian.Uint16(f[12:]) == typ
		binary.BigEndian.PutUint16(f[12:], typ)
		add(fmt.Sprintf("type %04x", typ), same, f)
	}
	at := 7
	if k.v4() {
		at = 8
	}
	for _, ttl := range []byte{0, 1, 2, 255} {
		edit(fmt.Sprint("TTL ", ttl), ttl > 1, func(_, ip, _ []byte) { ip[at] = ttl })
	}
	edit("source", false, func(_, ip, _ []byte) { ip[k.l4()-policy.EthernetLen-1-(k.l4()-policy.EthernetLen-12)/2] ^= 1 })
	edit("destination", false, func(_, ip, _ []byte) { ip[k.l4()-policy.EthernetLen-1] ^= 1 })
	if k.echo() {
		for typ := range 256 {
			edit(fmt.Sprint("ICMP type ", typ), byte(typ) == k.echoType(way != k.opener), func(_, _, l4 []byte) { l4[0] = byte(typ) })
		}
		edit("code", true, func(_, _, l4 []byte) { l4[1] = 1 })
		edit("sequence", true, func(_, _, l4 []byte) { l4[6], l4[7] = 0xff, 0xff })
		edit("identifier", false, func(_, _, l4 []byte) { l4[4] ^= 1 })
		edit("other end of the identifier", false, func(_, _, l4 []byte) { l4[5] ^= 1 })
	} else {
		edit("source port", false, func(_, _, l4 []byte) { l4[1] ^= 1 })
		edit("destination port", false, func(_, _, l4 []byte) { l4[3] ^= 1 })
		edit("DHCP", false, func(_, _, l4 []byte) { l4[2], l4[3] = 0, 67 })
	}
	for proto := range 256 {
		at := 6
		if k.v4() {
			at = 9
		}
		edit(fmt.Sprint("protocol ", proto), byte(proto) == k.proto, func(_, ip, _ []byte) { ip[at] = byte(proto) })
	}
	edit("version", false, func(_, ip, _ []byte) { ip[0] ^= 0x20 })
	if k.v4() {
		edit("options", false, func(_, ip, _ []byte) { ip[0], ip[20], ip[21], ip[22], ip[23] = 0x46, 1, 1, 1, 1 })
		edit("short header", false, func(_, ip, _ []byte) { ip[0] = 0x44 })
		edit("more fragments", false, func(_, ip, _ []byte) { ip[6] |= 0x20 })
		edit("fragment", false, func(_, ip, _ []byte) { ip[7] = 1 })
		edit("reserved bit", false, func(_, ip, _ []byte) { ip[6] |= 0x80 })
		edit("no DF", true, func(_, ip, _ []byte) { ip[6] = 0 })
		edit("longer than it is", false, func(_, ip, _ []byte) { ip[3]++ })
		edit("shorter than it is", false, func(_, ip, _ []byte) { ip[3]-- })
		f := base(payload)
		f[policy.EthernetLen+10] ^= 1
		add("checksum", false, f)
		for id := range 300 { // the checksum's carry
			f := base(0)
			binary.BigEndian.PutUint16(f[policy.EthernetLen+4:], uint16(id*219))
			k.sum(f)
			add(fmt.Sprint("id ", id*219), true, f)
		}
	} else {
		edit("longer than it is", false, func(_, ip, _ []byte) { ip[5]++ })
		edit("shorter than it is", false, func(_, ip, _ []byte) { ip[5]-- })
		edit("flow label", true, func(_, ip, _ []byte) { ip[1], ip[3] = 0xff, 0xff })
	}
	if k.echo() {
		return list
	}
	if !tcp {
		edit("UDP longer than it is", false, func(_, _, l4 []byte) { l4[5]++ })
		edit("UDP shorter than it is", false, func(_, _, l4 []byte) { l4[5]-- })
		edit("UDP of no length", false, func(_, _, l4 []byte) { l4[4], l4[5] = 0, 0 })
		return list
	}
	for flags := range 256 {
		f := k.frame(way, uint8(flags), seq, ack, payload)
		add(fmt.Sprintf("flags %08b", flags), flags&(1|2|4|16) == 16, f)
	}
	for offset := range byte(16) {
		edit(fmt.Sprint("data offset ", offset), offset >= 5, func(_, _, l4 []byte) { l4[12] = offset << 4 })
	}
	edit("data offset beyond the end", false, func(_, _, l4 []byte) { l4[12] = 15 << 4 })
	list = list[:len(list)-1]
	f := base(8)
	f[k.l4()+12] = 15 << 4
	add("data offset beyond the end", false, f)
	edit("a larger window", true, func(_, _, l4 []byte) { l4[14] = 0xff })
	edit("a smaller window", true, func(_, _, l4 []byte) { l4[14] = 0 })
	const edge, slack = 0x7fff << scale, 0x7fff << scale
	for _, w := range []struct {
		name     string
		seq, ack int64
		forwards bool
	}{
		{"at the edge", edge, 0, true}, {"behind the edge", edge + 1, 0, true}, {"beyond the edge", edge + 2, 0, false},
		{"old", unacked - slack - payload, 0, true}, {"too old", unacked - slack - payload - 1, 0, false},
		{"acknowledges all", 0, unacked, true}, {"acknowledges what was not sent", 0, unacked + 1, false}, {"acknowledges what is old", 0, -slack, true}, {"acknowledges what is too old", 0, -slack - 1, false},
		{"half a world away", 1 << 31, 0, false}, {"acknowledges half a world away", 0, 1 << 31, false},
	} {
		add(w.name, w.forwards, k.frame(way, 16, uint32(int64(seq)+w.seq), uint32(int64(ack)+w.ack), payload))
	}
	return list
}

// What a flow depends on besides its packets is followed by the next one.
func TestFollows(t *testing.T) {
	tier := openTier(t)
	k := kinds[0]
	for _, c := range []struct {
		name   string
		change func(*pair)
		ways   [2]bool // that are still forwarded
	}{
		{"nothing", func(*pair) {}, [2]bool{true, true}},
		{"another generation", func(*pair) { tier.world.Generation++ }, [2]bool{}},
		{"none", func(*pair) { tier.world.Generation = 0 }, [2]bool{}},
		{"MTU", func(*pair) { tier.world.Mtu = 100 }, [2]bool{}},
		{"the neighbour is lost", func(*pair) { tier.SetNeighbour(slot, serial, policy.MAC{}) }, [2]bool{false, true}},
		{"another neighbour", func(*pair) { tier.SetNeighbour(slot, serial+1, providerMAC) }, [2]bool{false, true}},
		{"one whose number looks alike", func(*pair) { tier.SetNeighbour(slot, serial+1<<16, providerMAC) }, [2]bool{false, true}},
		{"one who is just coming", func(*pair) { tier.neighbours[slot].Mac ^= 1 << 48 }, [2]bool{false, true}},
		{"time", func(p *pair) { tier.flows[p.withTier].Used -= uint64(policy.TCPEstablishedIdle + time.Second) }, [2]bool{}},
		{"almost time", func(p *pair) { tier.flows[p.withTier].Used -= uint64(policy.TCPEstablishedIdle - time.Minute) }, [2]bool{true, true}},
		{"withdrawn", func(p *pair) { p.engines[0].Forget() }, [2]bool{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			world := *tier.world
			p := newPair(t, tier, k)
			defer func() {
				p.engines[0].Forget()
				*tier.world = world
				tier.SetNeighbour(slot, serial, providerMAC)
			}()
			c.change(p)
			for _, way := range []policy.Direction{policy.Egress, policy.Ingress} {
				prog := []*ebpf.Program{tier.objs.FromGuest, tier.objs.FromUplink}[way]
				seq, ack := uint32(1000), uint32(2000)
				if way == policy.Ingress {
					seq, ack = ack, seq
				}
				if got := run(t, prog, k.frame(way, 16, seq, ack, payload)) != nil; got != c.ways[way] {
					t.Errorf("direction %d is forwarded: %v", way, got)
				}
			}
		})
	}
	p := newPair(t, tier, k)
	tier.NeighbourUsed(slot)
	tier.SetNeighbour(slot, serial, policy.MAC{2, 0, 0, 0, 9, 9})
	if out := run(t, tier.objs.FromGuest, k.frame(policy.Egress, 16, 1000, 2000, 0)); out == nil || policy.MAC(out[:6]) != (policy.MAC{2, 0, 0, 0, 9, 9}) {
		t.Errorf("a neighbour has another MAC, and gets %x", out)
	}
	if !tier.NeighbourUsed(slot) || tier.NeighbourUsed(slot) {
		t.Error("a neighbour that was used is not known to be, once")
	}
	p.engines[0].Forget()
}

// Places are not used again at once, no guest takes those that are kept for others, and what their flows have had stays counted.
func TestPlaces(t *testing.T) {
	tier := openTier(t)
	a, b := policy.SideGuest, policy.SideGuest+1
	tier.share, tier.common, tier.flows = 2, 4, tier.flows[:7] // 6 places, 2 of them for each of two guests
	var got []uint16
	for range 5 {
		if place, ok := tier.take(a); ok {
			got = append(got, place)
			tier.flows[place].Packets[policy.Egress] = 10
		}
	}
	if len(got) != 4 {
		t.Errorf("a guest has %d places", len(got))
	}
	for range 2 {
		if _, ok := tier.take(b); !ok {
			t.Error("a guest has not the places that are its own")
		}
	}
	for _, place := range got {
		tier.rest(place)
	}
	if _, ok := tier.take(a); ok {
		t.Error("a place is used again at once")
	}
	for i := range tier.resting {
		tier.resting[i].since -= grace
	}
	place, ok := tier.take(b)
	if !ok {
		t.Fatal("a place is not used again")
	}
	tier.flows[place] = flowFlow{}
	counted := func() (of, all uint64) {
		guests, sum := tier.Counters()
		return guests[a].Packets[policy.Egress], sum.Packets[policy.Egress]
	}
	if of, all := counted(); of != 40 || all != 40 {
		t.Errorf("%d packets are counted, %d in all", of, all)
	}
	tier.Retain([]policy.Side{b})
	if of, all := counted(); all != 40 || len(tier.finished) != 0 {
		t.Errorf("of a guest that is gone %d packets are counted, %d in all, %d entries", of, all, len(tier.finished))
	}
	if tier.share != 3 || tier.common != 3 {
		t.Errorf("a share is %d of %d places, %d are taken or kept", tier.share, len(tier.flows)-1, tier.common)
	}
}

// Nothing of a place's last flow counts for the next one's guest.
func TestPlaceIsEmpty(t *testing.T) {
	tier := openTier(t)
	a, b := policy.SideGuest, policy.SideGuest+1
	tier.flows, tier.share, tier.common = tier.flows[:2], 1, 0
	place, _ := tier.take(a)
	tier.flows[place].Packets[policy.Egress] = 10
	tier.rest(place)
	tier.resting[0].since -= grace
	if _, ok := tier.take(b); !ok {
		t.Fatal("no place")
	}
	guests, _ := tier.Counters()
	if guests[a].Packets[policy.Egress] != 10 || guests[b].Packets[policy.Egress] != 0 {
		t.Errorf("%v, %v", guests[a], guests[b])
	}
}

// A flow whose packets go by the router for a while is none that is not used.
func TestUsedByTheRouter(t *testing.T) {
	tier := openTier(t)
	for _, k := range kinds {
		p := newPair(t, tier, k)
		f := k.frame(policy.Egress, 16, 1000, 2000, 0)
		tier.flows[p.withTier].Used -= uint64(3 * time.Hour)
		if run(t, tier.objs.FromGuest, f) != nil {
			t.Errorf("%v is forwarded after three hours", k)
		}
		p.hit(p.engines[0], f, policy.Egress)
		if run(t, tier.objs.FromGuest, f) == nil {
			t.Errorf("%v is not forwarded any more", k)
		}
		p.engines[0].Forget()
	}
}

// A classic program means the same in the kernel's own instructions.
func TestTranslate(t *testing.T) {
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x0800, SkipTrue: 1},
		bpf.Jump{Skip: 4},
		bpf.LoadAbsolute{Off: 30, Size: 4},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xffffff00},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0xc6336400, SkipTrue: 1},
		bpf.RetConstant{Val: admitted},
		bpf.LoadAbsolute{Off: 20, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: 133, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: 137, SkipTrue: 1},
		bpf.RetConstant{Val: 99},
		bpf.RetConstant{},
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	ins, err := translate(program)
	if err != nil {
		t.Fatal(err)
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SocketFilter, Instructions: ins, License: "GPL"})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	seen := map[int]bool{}
	for _, typ := range []byte{8, 0x86} {
		for _, last := range []byte{0x64, 0x65} {
			for _, kind := range []byte{132, 133, 137, 138} {
				f := make([]byte, 40)
				f[12], f[20], f[30], f[31], f[32] = typ, kind, 0xc6, 0x33, last
				want, err := vm.Run(f)
				if err != nil {
					t.Fatal(err)
				}
				got, _, err := p.Test(append(make([]byte, policy.EthernetLen), f...))
				if err != nil || int(got) != want {
					t.Errorf("% x: %d, want %d (%v)", f, got, want, err)
				}
				seen[want] = true
			}
		}
	}
	if len(seen) != 3 {
		t.Errorf("results were %v", seen)
	}
	if _, err := translate([]bpf.Instruction{bpf.LoadIndirect{}}); err == nil {
		t.Error("an instruction without a translation is taken")
	}
}

// FuzzForwards is TestForwardsAsTheRouterDoes for whatever becomes of a packet by changes here and there: of each three bytes, the first two say where,
// and the last by what.
func FuzzForwards(f *testing.F) {
	tier := openTier(f)
	if err := tier.SetFilter([]bpf.Instruction{bpf.RetConstant{Val: admitted}}); err != nil {
		f.Fatal(err)
	}
	f.Add(uint8(0), uint16(0), []byte{})
	f.Add(uint8(3), uint16(90), []byte{0, 14, 1, 0, 47, 2})
	f.Add(uint8(6), uint16(1400), []byte{0, 22, 63})
	f.Fuzz(func(t *testing.T, which uint8, n uint16, changes []byte) {
		k, way := kinds[int(which/2)%len(kinds)], policy.Direction(which%2)
		seq, ack := uint32(1000), uint32(2000)
		if way == policy.Ingress {
			seq, ack = ack, seq
		}
		frame := k.frame(way, 16, seq, ack, int(n%2000))
		for ; len(changes) >= 3; changes = changes[3:] {
			frame[int(binary.BigEndian.Uint16(changes))%min(len(frame), k.l4()+20)] ^= changes[2]
		}
		if which&128 != 0 {
			k.sum(frame)
		}
		if typ := binary.BigEndian.Uint16(frame[12:]); typ == policy.EtherIPv6 && len(frame) < policy.EthernetLen+policy.IPv6Len {
			return // the kernel does not test it
		}
		p := newPair(t, tier, k)
		defer p.engines[0].Forget()
		p.check(t, frame, way)
	})
}
