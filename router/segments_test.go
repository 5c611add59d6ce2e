package router

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"udrouter/integration/cases"
	"udrouter/policy"
	"udrouter/stack"
	"udrouter/stack/gsotest"
	"udrouter/stack/stacktest"
)

// course is one through the router: what its sender and its receiver are called there.
type course struct {
	name           string
	from, to       cases.Place
	src4, dst4     netip.Addr
	src6, dst6     netip.Addr
	router, sender policy.MAC // of the frames that the router gets
}

func courses(s *sim) []course {
	return []course{
		{"guest to uplink", cases.One, cases.Uplink, cases.One4, cases.X4, cases.One6, cases.X6, s.RouterMAC, cases.MAC1},
		{"uplink to guest", cases.Uplink, cases.One, cases.X4, cases.One4, cases.X6, cases.One6, eth0MAC, gatewayMAC},
		{"guest to guest", cases.One, cases.Two, cases.One4, cases.Two4, cases.One6, cases.Two6, s.RouterMAC, cases.MAC1},
		{"host to guest", cases.Dom0, cases.One, cases.Dom04, cases.One4, cases.Router6, cases.One6, policy.MAC{}, policy.MAC{}},
		{"guest to host", cases.One, cases.Dom0, cases.One4, cases.Dom04, cases.One6, cases.Router6, s.RouterMAC, cases.MAC1},
	}
}

// macs are those of a frame that the router sends to a place.
func (s *sim) macs(to cases.Place) (dst, src policy.MAC) {
	switch to {
	case cases.One:
		return cases.MAC1, s.RouterMAC
	case cases.Two:
		return cases.MAC2, s.RouterMAC
	case cases.Uplink:
		return gatewayMAC, eth0MAC
	}
	return
}

func (s *sim) mtu(to cases.Place) int {
	if to == cases.Uplink {
		return s.kernel.Uplink.MTU
	}
	return s.GuestMTU
}

// segmentNets are routers between links of equal and of different MTUs, below what IPv6 needs among them.
func segmentNets(t testing.TB) (nets []*sim) {
	for _, mtu := range []struct{ uplink, guests int }{{1500, 1500}, {1400, 1500}, {1500, 1300}, {9000, 1500}, {1500, 9000}, {1000, 1280}, {68, 1280}} {
		k := seedKernel()
		k.Uplink.MTU = mtu.uplink
		s := newSim(t, parseConfig(t, strings.NewReplacer("PROXY", "", "host {}", "host {\n  ingress {\n    default = \"accept\"\n  }\n}",
			`bridge "xenbr0" {}`, fmt.Sprintf(`bridge "xenbr0" { mtu = %d }`, mtu.guests)).Replace(seedFile)), k)
		s.learn()
		s.newWorker(stack.Guests).appearedAll()
		s.quiet()
		nets = append(nets, s)
	}
	return nets
}

// What comes out of the router, split as the RFCs want, is what went in, split as the RFCs want, but for MACs and the TTL: for every kind of
// packet, in every direction, between any MTUs.
func TestSegments(t *testing.T) {
	nets := segmentNets(t)
	rapid.Check(t, func(t *rapid.T) { carried(t, nets) })
}

// FuzzSegments is TestSegments and TestLyingOffloads for inputs of the fuzzer's.
func FuzzSegments(f *testing.F) {
	nets := segmentNets(f)
	for seed := range uint64(32) { // what is drawn, eight bytes for a draw
		b := make([]byte, 2048)
		for i, r := 0, rand.New(rand.NewPCG(seed, 0)); i < len(b); i += 8 {
			binary.LittleEndian.PutUint64(b[i:], r.Uint64())
		}
		f.Add(b)
	}
	f.Fuzz(rapid.MakeFuzz(func(t *rapid.T) {
		if rapid.Bool().Draw(t, "lies") {
			lying(t, nets)
		} else {
			carried(t, nets)
		}
	}))
}

func carried(t *rapid.T, nets []*sim) {
	s, c, g := drawSent(t, nets)
	want, err := gsotest.Segments(g.Frame, g.Offload)
	if err != nil {
		t.Fatal(err)
	}
	longest, mtu := 0, s.mtu(c.to)
	for _, w := range want {
		longest = max(longest, len(w)-policy.EthernetLen)
	}
	got, told := s.outcome(c, g)
	v6 := g.Frame[12] == 0x86
	if longest > mtu && (v6 || g.Frame[20]&0x40 != 0) {
		if s.tooBig(t, g, mtu, longest, told); len(got) != 0 {
			t.Fatalf("%s: %d frames left though segments have %d bytes", c.name, len(got), longest)
		}
		return
	}
	if n := s.counts(); len(n) != 0 || len(told) != 0 {
		t.Fatalf("%s: counted %v, told %d times", c.name, n, len(told))
	}
	if longest <= mtu && len(got) != 1 {
		t.Fatalf("%s: one frame became %d", c.name, len(got))
	}
	if err := s.same(c, want, got); err != nil {
		t.Fatalf("%s: %v", c.name, err)
	}
}

// drawSent is a packet that may pass, the router for it and its way. Of TCP, the connection is there.
func drawSent(t *rapid.T, nets []*sim) (*sim, course, gsotest.Packet) {
	s := nets[rapid.IntRange(0, len(nets)-1).Draw(t, "MTUs")]
	for i := range s.drops {
		s.drops[i].Store(0)
	}
	s.clock.Advance(3 * time.Hour) // no flow and no limit is left
	s.sweep()
	c := courses(s)[rapid.IntRange(0, 4).Draw(t, "course")]
	kind := gsotest.DrawKind(t, c.from == cases.Uplink)
	e := gsotest.Ends{DstMAC: c.router, SrcMAC: c.sender, Src: netip.AddrPortFrom(c.src4, 40000), Dst: netip.AddrPortFrom(c.dst4, 443), TCP: rapid.Bool().Draw(t, "TCP") || kind == gsotest.LRO,
		Seq: rapid.Uint32().Draw(t, "seq"), Ack: 2000}
	if rapid.Bool().Draw(t, "IPv6") {
		e.Src, e.Dst = netip.AddrPortFrom(c.src6, 40000), netip.AddrPortFrom(c.dst6, 443)
	}
	g := gsotest.Draw(t, kind, e, s.mtu(c.to))
	if e.TCP {
		s.open(t, c, e)
	}
	return s, c, g
}

// open does the handshake after which the sender is at e.Seq.
func (s *sim) open(t *rapid.T, c course, e gsotest.Ends) {
	const syn, ack = 2, 16
	dst, src := s.macs(c.to) // the receiver's frames are those that it gets the other way round
	s.send(side(c.from), cases.TCP(e.DstMAC, e.SrcMAC, e.Src, e.Dst, syn, e.Seq-1, 0, 0))
	s.send(side(c.to), cases.TCP(src, dst, e.Dst, e.Src, syn|ack, e.Ack-1, e.Seq, 0))
	s.send(side(c.from), cases.TCP(e.DstMAC, e.SrcMAC, e.Src, e.Dst, ack, e.Seq, e.Ack, 0))
	if n := s.quiet(); n != 3 || len(s.counts()) > 0 {
		t.Fatalf("%s: %d segments of a handshake passed: %v", c.name, n, s.counts())
	}
}

// outcome sends a packet: what its receiver gets, and what its sender is told.
func (s *sim) outcome(c course, g gsotest.Packet) (got []stacktest.Sent, told [][]byte) {
	s.newWorker(side(c.from)).batch([]*stack.Frame{stacktest.Frame(g.Frame, g.Offload)})
	for sd, l := range s.links {
		for _, f := range l.Take() {
			if dst, ok := destination(stacktest.Frame(f.Frame, f.Offload)); ok && sd == side(c.to) && (dst == c.dst4 || dst == c.dst6) {
				got = append(got, f)
			} else {
				told = append(told, f.Frame)
			}
		}
	}
	return got, told
}

// same tells how what a receiver got differs from the segments that were sent.
func (s *sim) same(c course, sent [][]byte, got []stacktest.Sent) error {
	var out [][]byte
	for i, f := range got {
		if err := gsotest.Accepts(f.Frame, f.Offload); err != nil {
			return fmt.Errorf("frame %d of %d bytes with %+v is none that the kernel takes: %w", i, len(f.Frame), f.Offload, err)
		}
		segments, err := gsotest.Segments(f.Frame, f.Offload)
		if err != nil {
			return fmt.Errorf("frame %d with %+v: %w", i, f.Offload, err)
		}
		if len(segments[len(segments)-1]) > len(f.Frame) || f.GSOType == policy.GSONone && len(segments[0]) != len(f.Frame) {
			return fmt.Errorf("frame %d has %d bytes", i, len(f.Frame))
		}
		out = append(out, segments...)
	}
	out, err := gsotest.Reassemble(out, s.mtu(c.to))
	if err != nil {
		return err
	}
	if len(out) != len(sent) {
		return fmt.Errorf("%d segments became %d", len(sent), len(out))
	}
	dst, src := s.macs(c.to)
	for i, f := range out {
		want := cases.Forwarded(sent[i], dst, src)
		if side(c.to) == stack.Host { // a TUN has no MACs
			clear(want[:12])
			clear(f[:12])
		}
		if !bytes.Equal(f, want) {
			return fmt.Errorf("segment %d of %d\n got %x\nwant %x", i, len(out), f, want)
		}
	}
	return nil
}

// tooBig tests what becomes of a packet whose segments have longest bytes, beyond an MTU, and may not be fragmented (RFC 1191 4, RFC 4443 3.2).
func (s *sim) tooBig(t *rapid.T, g gsotest.Packet, mtu, longest int, told [][]byte) {
	if n := s.counts(); !maps.Equal(n, map[policy.Reason]uint64{policy.TooBig: 1}) {
		t.Fatalf("counted %v", n)
	}
	icmp, want, head := 34, []byte{3, 4}, 28
	if g.Frame[12] == 0x86 {
		icmp, want, head, mtu = 54, []byte{2, 0}, 48, max(mtu, 1280)
		if longest <= mtu { // to say 1280 would not help
			if len(told) != 0 {
				t.Fatal("told of an MTU below 1280")
			}
			return
		}
	}
	if len(told) != 1 || !bytes.Equal(told[0][icmp:icmp+2], want) || int(binary.BigEndian.Uint32(told[0][icmp+4:])) != mtu || !bytes.Equal(told[0][icmp+8:][:head], g.Frame[14:14+head]) {
		t.Fatalf("MTU %d, segments of %d: told %x", mtu, longest, told)
	}
}

// A frame whose metadata lies is dropped and counted once; one that passes, since the lie makes sense, is what it says it is, and none that the
// kernel would refuse. None costs more than itself.
func TestLyingOffloads(t *testing.T) {
	nets := segmentNets(t)
	rapid.Check(t, func(t *rapid.T) { lying(t, nets) })
}

func lying(t *rapid.T, nets []*sim) {
	s, c, g := drawSent(t, nets)
	word := func(name string, v *uint16) {
		near := rapid.Map(rapid.IntRange(-2, 2), func(n int) uint16 { return *v + uint16(n) })
		*v = rapid.OneOf(rapid.Just(*v), rapid.Just(*v), near, rapid.SampledFrom([]uint16{0, 1, 13, 14, 34, 54, uint16(len(g.Frame)), 0xfffe, 0xffff}), rapid.Uint16()).Draw(t, name)
	}
	word("header length", &g.HdrLen)
	word("segment size", &g.GSOSize)
	word("checksum start", &g.CsumStart)
	word("checksum offset", &g.CsumOffset)
	g.Flags = rapid.OneOf(rapid.Just(g.Flags), rapid.SampledFrom([]uint8{0, 1, 2, 3}), rapid.Byte()).Draw(t, "flags")
	g.GSOType = rapid.OneOf(rapid.Just(g.GSOType), rapid.SampledFrom([]uint8{0, 1, 3, 4, 5, 0x80, 0x81, 0x83, 0x84, 0x85, 0x20, 0x41}), rapid.Byte()).Draw(t, "type")
	flip := -1
	if rapid.Bool().Draw(t, "flip") { // of what is behind the Ethernet header, the addresses of IPv6 or IPv4 apart
		flip = rapid.IntRange(14, min(len(g.Frame)-1, 140)).Draw(t, "at")
		g.Frame[flip] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
	}
	if rapid.Bool().Draw(t, "cut") {
		g.Frame = g.Frame[:rapid.IntRange(0, len(g.Frame)).Draw(t, "length")]
	}
	sent := bytes.Clone(g.Frame)
	got, told := s.outcome(c, g)
	counts := s.counts()
	total := uint64(0)
	for _, n := range counts {
		total += n
	}
	if counts[policy.Internal] > 0 {
		t.Fatalf("%s: a defect was met: %+v, %x", c.name, g.Offload, g.Frame)
	}
	for i, f := range got {
		if err := gsotest.Accepts(f.Frame, f.Offload); err != nil {
			t.Fatalf("%s: frame %d of %d bytes with %+v is none that the kernel takes: %v", c.name, i, len(f.Frame), f.Offload, err)
		}
	}
	if flip >= 0 {
		return // it may be for anybody, and about anything
	}
	if total > 1 || (total == 1) != (len(got) == 0) || total == 0 && len(told) > 0 {
		t.Fatalf("%s: %d frames left, counted %v, told %d times: %+v", c.name, len(got), counts, len(told), g.Offload)
	}
	if len(got) == 0 {
		return
	}
	want, err := gsotest.Segments(sent, g.Offload)
	if err != nil {
		t.Fatalf("%s: passed with %+v: %v", c.name, g.Offload, err)
	}
	if err := s.same(c, want, got); err != nil {
		t.Fatalf("%s, %+v: %v", c.name, g.Offload, err)
	}
}
