package stack

import (
	"encoding/binary"

	"udrouter/policy"
)

// CompleteChecksum finishes a partial transport checksum (RFC 1071, over what the checksum field already holds: the
// pseudo-header's sum) where a frame leaves the path on which the kernel would do it. A whole checksum, right or wrong,
// stays as it came.
func CompleteChecksum(f *Frame) {
	if f.Flags&policy.NeedsCsum == 0 {
		return
	}
	f.Flags &^= policy.NeedsCsum
	b := f.Bytes()
	start, at := int(f.CsumStart), int(f.CsumStart)+int(f.CsumOffset)
	if start > len(b) || at+2 > len(b) {
		return
	}
	sum := ^policy.FoldChecksum(policy.Sum(b[start:], 0))
	if sum == 0 && f.CsumOffset == 6 { // UDP: 0 would mean none (RFC 768)
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[at:], sum)
}

// MakePartial turns a super-packet that a NIC has put together by itself (LRO), whose segments' checksums it has checked
// (DataValid), into one with a partial checksum, as every kernel's own are: only so can it be split again.
func MakePartial(f *Frame, p *policy.Packet) {
	at := p.L4 + 16
	f.Flags, f.CsumStart, f.CsumOffset = policy.NeedsCsum, uint16(p.L4), 16
	p.Offload = f.Offload
	binary.BigEndian.PutUint16(p.Frame[at:], policy.FoldChecksum(policy.PseudoSum(p.Src, p.Dst, p.Proto, len(p.Frame)-p.L4)))
}

// Segment splits a GSO frame into frames that carry at most GSOSize bytes of payload each, with complete checksums, as
// the kernel's tcp_gso_segment and __udp_gso_segment do: IPv4 identification counts up, sequence numbers go on, FIN and PSH stay
// with the last segment, CWR with the first. The packet p was parsed from f. A frame that is no GSO frame comes back alone.
func Segment(f *Frame, p *policy.Packet) []*Frame {
	if f.GSOType == policy.GSONone {
		CompleteChecksum(f)
		return []*Frame{f}
	}
	b := p.Frame
	tcp := p.Proto == policy.ProtoTCP
	header := p.L4 + 8
	if tcp {
		header = p.L4 + int(b[p.L4+12]>>4)*4
	}
	payload, size := b[header:], int(f.GSOSize)
	var out []*Frame
	for i := 0; i == 0 || len(payload) > 0; i++ {
		n := min(size, len(payload))
		s := NewFrame(header + n)
		d := s.Bytes()
		copy(d, b[:header])
		copy(d[header:], payload[:n])
		payload = payload[n:]
		segmentHeaders(d, p, i, size, len(payload) == 0)
		sum := policy.PseudoSum(p.Src, p.Dst, p.Proto, len(d)-p.L4)
		at := p.L4 + 6
		if tcp {
			at = p.L4 + 16
		}
		binary.BigEndian.PutUint16(d[at:], 0)
		c := ^policy.FoldChecksum(policy.Sum(d[p.L4:], sum))
		if c == 0 && !tcp {
			c = 0xffff
		}
		binary.BigEndian.PutUint16(d[at:], c)
		out = append(out, s)
	}
	return out
}

func segmentHeaders(d []byte, p *policy.Packet, i, size int, last bool) {
	ip := d[policy.EthernetLen:]
	if p.IsIPv4() {
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		binary.BigEndian.PutUint16(ip[4:], uint16(p.FragID)+uint16(i))
		ipv4Checksum(ip)
	} else {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-policy.IPv6Len))
	}
	l4 := d[p.L4:]
	if p.Proto == policy.ProtoUDP {
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
		return
	}
	binary.BigEndian.PutUint32(l4[4:], binary.BigEndian.Uint32(l4[4:])+uint32(i*size))
	const fin, psh, cwr = 1, 8, 0x80
	if !last {
		l4[13] &^= fin | psh
	}
	if i > 0 {
		l4[13] &^= cwr
	}
}

// ipv4Checksum writes the header checksum of an IPv4 datagram.
func ipv4Checksum(ip []byte) {
	binary.BigEndian.PutUint16(ip[10:], 0)
	binary.BigEndian.PutUint16(ip[10:], ^policy.FoldChecksum(policy.Sum(ip[:int(ip[0]&15)*4], 0)))
}
