package stack

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"udrouter/policy"
	"udrouter/stack/gsotest"
)

// drawPacket makes a packet of a kind, in either family, of TCP or UDP.
func drawPacket(t *rapid.T, kind gsotest.Kind) (gsotest.Packet, *Frame) {
	e := gsotest.Ends{DstMAC: farMAC, SrcMAC: nearMAC, TCP: rapid.Bool().Draw(t, "TCP"), Seq: rapid.Uint32().Draw(t, "seq"),
		Src: netip.MustParseAddrPort("192.0.2.10:40000"), Dst: netip.MustParseAddrPort("198.51.100.7:443")}
	if rapid.Bool().Draw(t, "IPv6") {
		e.Src, e.Dst = netip.MustParseAddrPort("[2001:db8:3:2:1::10]:40000"), netip.MustParseAddrPort("[2001:db8:ffff::7]:443")
	}
	g := gsotest.Draw(t, kind, e, rapid.SampledFrom([]int{576, 1280, 1500, 9000}).Draw(t, "MTU"))
	f := NewFrame(len(g.Frame))
	f.Set(g.Frame)
	f.Offload = g.Offload
	return g, f
}

// What goes in as one comes out as the segments that the RFCs want, byte by byte, of whatever kind it was; none is longer than was announced.
func TestSegment(t *testing.T) {
	rapid.Check(t, segment)
}

func segment(t *rapid.T) {
	g, f := drawPacket(t, gsotest.DrawKind(t, true))
	want, err := gsotest.Segments(g.Frame, g.Offload)
	if err != nil {
		t.Fatal(err)
	}
	var super policy.Packet
	if r := super.Parse(f.Bytes(), f.Offload); r != policy.None {
		t.Fatalf("the frame itself is %v", r)
	}
	if g.Kind == gsotest.LRO {
		MakePartial(f, &super)
	}
	f.Cut(len(super.Frame))
	got := Segment(f, &super)
	if len(got) != len(want) {
		t.Fatalf("%d segments, want %d", len(got), len(want))
	}
	longest := 0
	for i, s := range got {
		if !bytes.Equal(s.Bytes(), want[i]) || s.GSOType != policy.GSONone || s.Flags&policy.NeedsCsum != 0 {
			t.Fatalf("segment %d of %d with %+v:\n got %x\nwant %x", i, len(got), s.Offload, s.Bytes(), want[i])
		}
		longest = max(longest, len(want[i])-policy.EthernetLen)
	}
	if super.SegmentLen() != longest {
		t.Fatalf("segments of %d bytes, %d announced", longest, super.SegmentLen())
	}
}

// A partial checksum is completed once; a whole one stays, also when it is wrong.
func TestCompleteChecksum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g, f := drawPacket(t, gsotest.Partial)
		whole := f.Clone()
		whole.Flags = 0
		CompleteChecksum(whole)
		if !bytes.Equal(whole.Bytes(), g.Frame) {
			t.Fatal("a whole checksum was changed")
		}
		want, err := gsotest.Segments(g.Frame, g.Offload)
		if err != nil {
			t.Fatal(err)
		}
		f.Cut(len(want[0]))
		for range 2 {
			CompleteChecksum(f)
			if !bytes.Equal(f.Bytes(), want[0]) || f.Flags != 0 {
				t.Fatalf("flags %d\n got %x\nwant %x", f.Flags, f.Bytes(), want[0])
			}
		}
	})
}

// Fragments are no longer than the MTU, begin where they say, and together are what was split; also when that was a
// fragment, and also with options, of which those that are copied stay in all.
func TestFragment(t *testing.T) {
	options := [][]byte{{}, {7, 7, 4, 1, 2, 3, 4, 0}, {0x94, 4, 0, 0}, {0x94, 4, 0, 0, 7, 3, 4, 1}}
	rapid.Check(t, func(t *rapid.T) {
		o := rapid.SampledFrom(options).Draw(t, "options")
		payload := rapid.SliceOfN(rapid.Byte(), 1, 4000).Draw(t, "payload")
		mtu := rapid.IntRange(68, 1500).Draw(t, "mtu")
		first := rapid.IntRange(0, 100).Draw(t, "offset")
		more := rapid.Bool().Draw(t, "more")
		f := NewFrame(14 + 20 + len(o) + len(payload))
		f.SetEthernet(farMAC, nearMAC, policy.EtherIPv4)
		ip := f.Bytes()[14:]
		ip[0], ip[8], ip[9] = 0x40|byte(5+len(o)/4), 64, 253
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		field := uint16(first)
		if more {
			field |= 0x2000
		}
		binary.BigEndian.PutUint16(ip[6:], field)
		copy(ip[20:], o)
		copy(ip[20+len(o):], payload)
		ipv4Checksum(ip)
		var got []byte
		parts := Fragment(f, mtu)
		for i, s := range parts {
			h := s.Bytes()[14:]
			ihl := int(h[0]&15) * 4
			if len(h) > mtu || int(binary.BigEndian.Uint16(h[2:])) != len(h) || policy.FoldChecksum(policy.Sum(h[:ihl], 0)) != 0xffff {
				t.Fatalf("fragment %d of %d bytes at MTU %d: %x", i, len(h), mtu, h[:ihl])
			}
			field := binary.BigEndian.Uint16(h[6:])
			if int(field&0x1fff)*8 != first*8+len(got) || (field&0x2000 != 0) != (more || i < len(parts)-1) {
				t.Fatalf("fragment %d at %d says %#x", i, len(got), field)
			}
			if i > 0 && (bytes.IndexByte(h[20:ihl], 7) >= 0 || len(o) > 0 && o[0] == 0x94 && h[20] != 0x94) {
				t.Fatalf("fragment %d has options %x", i, h[20:ihl])
			}
			got = append(got, h[ihl:]...)
		}
		if !bytes.Equal(got, payload) {
			t.Fatalf("%d bytes became %d", len(payload), len(got))
		}
	})
}

func TestFragmentWithoutRoom(t *testing.T) {
	f := NewFrame(14 + 60 + 100)
	f.Bytes()[14] = 0x4f
	for i := range 40 {
		f.Bytes()[34+i] = 1
	}
	if got := Fragment(f, 67); got != nil {
		t.Errorf("got %d fragments", len(got))
	}
}
