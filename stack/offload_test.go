package stack

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"udrouter/policy"
)

// drawSuper makes a GSO frame of random shape with a partial checksum, as a guest's kernel does.
func drawSuper(t *rapid.T) (*Frame, []byte) {
	v6 := rapid.Bool().Draw(t, "v6")
	tcp := rapid.Bool().Draw(t, "tcp")
	payload := rapid.SliceOfN(rapid.Byte(), 1, 5000).Draw(t, "payload")
	options := 4 * rapid.IntRange(0, 10).Draw(t, "tcp options")
	l3, l4, proto := 20, 8, byte(policy.ProtoUDP)
	if v6 {
		l3 = 40
	}
	if tcp {
		l4, proto = 20+options, policy.ProtoTCP
	}
	f := NewFrame(14 + l3 + l4 + len(payload))
	b := f.Bytes()
	ip := b[14:]
	src, dst := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("198.51.100.7")
	if v6 {
		src, dst = netip.MustParseAddr("2001:db8:3:2:1::10"), netip.MustParseAddr("2001:db8:ffff::7")
		ipv6Header(ip, src, dst, proto, 64)
		f.SetEthernet(farMAC, nearMAC, policy.EtherIPv6)
	} else {
		ip[0], ip[8], ip[9] = 0x45, 64, proto
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		binary.BigEndian.PutUint16(ip[4:], uint16(rapid.IntRange(0, 65535).Draw(t, "id")))
		copy(ip[12:], src.AsSlice())
		copy(ip[16:], dst.AsSlice())
		ipv4Checksum(ip)
		f.SetEthernet(farMAC, nearMAC, policy.EtherIPv4)
	}
	h := ip[l3:]
	at := 6
	if tcp {
		at = 16
		binary.BigEndian.PutUint32(h[4:], rapid.Uint32().Draw(t, "seq"))
		h[12], h[13] = byte(l4/4)<<4, byte(rapid.IntRange(0, 255).Draw(t, "flags"))
		for i := range options {
			h[20+i] = 1
		}
	} else {
		binary.BigEndian.PutUint16(h[4:], uint16(len(h)))
	}
	copy(h[l4:], payload)
	binary.BigEndian.PutUint16(h[at:], policy.FoldChecksum(policy.PseudoSum(src, dst, proto, len(h))))
	f.Offload = policy.Offload{Flags: policy.NeedsCsum, CsumStart: uint16(14 + l3), CsumOffset: uint16(at), GSOSize: uint16(rapid.IntRange(1, 1460).Draw(t, "size")), HdrLen: uint16(14 + l3 + l4)}
	switch {
	case !tcp:
		f.GSOType = policy.GSOUDPL4
	case v6:
		f.GSOType = policy.GSOTCPv6
	default:
		f.GSOType = policy.GSOTCPv4
	}
	return f, payload
}

// What goes in as one comes out as many, with nothing lost or changed: payload, sequence, flags, identification; and each is
// a packet with right lengths and checksums.
func TestSegment(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f, payload := drawSuper(t)
		var super policy.Packet
		if r := super.Parse(f.Bytes(), f.Offload); r != policy.None {
			t.Fatalf("the frame itself is %v", r)
		}
		var got []byte
		segments := Segment(f, &super)
		for i, s := range segments {
			var p policy.Packet
			if r := p.Parse(s.Bytes(), s.Offload); r != policy.None {
				t.Fatalf("segment %d is %v", i, r)
			}
			if p.L3Len() > super.SegmentLen() || len(p.Frame) != len(s.Bytes()) {
				t.Fatalf("segment %d has %d bytes, %d announced", i, p.L3Len(), super.SegmentLen())
			}
			l4 := p.Frame[p.L4:]
			if policy.FoldChecksum(policy.Sum(l4, policy.PseudoSum(p.Src, p.Dst, p.Proto, len(l4)))) != 0xffff {
				t.Fatalf("segment %d has a wrong checksum", i)
			}
			if p.IsIPv4() && uint16(p.FragID) != uint16(super.FragID)+uint16(i) {
				t.Fatalf("segment %d has identification %d", i, p.FragID)
			}
			if p.Proto == policy.ProtoTCP {
				seq := binary.BigEndian.Uint32(super.Frame[super.L4+4:]) + uint32(len(got))
				if binary.BigEndian.Uint32(l4[4:]) != seq {
					t.Fatalf("segment %d has a wrong sequence number", i)
				}
				want := super.TCPFlags
				if i < len(segments)-1 {
					want &^= 1 | 8
				}
				if i > 0 {
					want &^= 0x80
				}
				if p.TCPFlags != want {
					t.Fatalf("segment %d has flags %#x, want %#x", i, p.TCPFlags, want)
				}
				got = append(got, l4[int(l4[12]>>4)*4:]...)
			} else {
				got = append(got, l4[8:]...)
			}
		}
		if !bytes.Equal(got, payload) {
			t.Fatalf("%d bytes of payload became %d", len(payload), len(got))
		}
	})
}

// A completed checksum is right; a whole one stays, also when it is wrong.
func TestCompleteChecksum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f, _ := drawSuper(t)
		f.GSOType, f.GSOSize = 0, 0
		before := bytes.Clone(f.Bytes())
		whole := f.Clone()
		whole.Flags = 0
		CompleteChecksum(whole)
		if !bytes.Equal(whole.Bytes(), before) {
			t.Fatal("a whole checksum was changed")
		}
		CompleteChecksum(f)
		var p policy.Packet
		if r := p.Parse(f.Bytes(), f.Offload); r != policy.None {
			t.Fatal(r)
		}
		l4 := p.Frame[p.L4:]
		if policy.FoldChecksum(policy.Sum(l4, policy.PseudoSum(p.Src, p.Dst, p.Proto, len(l4)))) != 0xffff {
			t.Fatal("the checksum is wrong")
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
