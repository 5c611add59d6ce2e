// Package gsotest makes super-packets and splits them, for tests. Segments is written from the RFCs and shares no code with what it judges: it
// sums, walks headers and counts by itself.
package gsotest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"udrouter/policy"
)

var be = binary.BigEndian

const eth = policy.EthernetLen

// header is what there is to know of a frame's headers.
type header struct {
	v4       bool
	end      int    // of the IP datagram, in bytes of the frame
	proto    byte   // the transport's
	l4       int    // its header
	src, dst []byte // of the pseudo-header: behind a routing header dst is its last address (RFC 8200 8.1)
}

// parse walks the headers of a frame that is known to be valid and no fragment (RFC 791 3.1, RFC 8200 4).
func parse(f []byte) (h header, err error) {
	if len(f) < eth+20 {
		return h, errors.New("no room for an IP header")
	}
	ip := f[eth:]
	switch be.Uint16(f[12:]) {
	case 0x0800:
		h = header{v4: true, end: eth + int(be.Uint16(ip[2:])), proto: ip[9], l4: eth + int(ip[0]&15)*4, src: ip[12:16], dst: ip[16:20]}
	case 0x86dd:
		h = header{end: eth + 40 + int(be.Uint16(ip[4:])), proto: ip[6], l4: eth + 40, src: ip[8:24], dst: ip[24:40]}
		for h.proto == 0 || h.proto == 43 || h.proto == 60 { // hop-by-hop, routing, destination options
			b := f[h.l4:]
			if h.proto == 43 && b[3] > 0 {
				h.dst = f[h.l4+8*int(b[1])-8:][:16]
			}
			h.proto, h.l4 = b[0], h.l4+8+8*int(b[1])
		}
	default:
		return h, fmt.Errorf("EtherType %x", f[12:14])
	}
	if h.end > len(f) || h.l4 > h.end {
		return h, fmt.Errorf("headers of %d and a datagram of %d in a frame of %d bytes", h.l4, h.end, len(f))
	}
	return h, nil
}

// sum adds 16-bit words in one's complement, an odd byte with a zero behind it (RFC 1071).
func sum(start uint16, parts ...[]byte) uint16 {
	s := uint64(start)
	for _, b := range parts {
		for i, c := range b {
			s += uint64(c) << (8 * (1 - i%2))
		}
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// pseudo is the sum of the pseudo-header for n bytes of transport (RFC 9293 3.1, RFC 768, RFC 8200 8.1).
func (h header) pseudo(n int) uint16 {
	return sum(0, h.src, h.dst, be.AppendUint32(nil, uint32(n)), []byte{0, h.proto})
}

// sealIP makes an IPv4 header checksum (RFC 791 3.1).
func sealIP(ip []byte) {
	ip[10], ip[11] = 0, 0
	be.PutUint16(ip[10:], ^sum(0, ip[:int(ip[0]&15)*4]))
}

// Segments are the frames that a frame with that metadata stands for on a wire without offloads, with whole checksums and nothing behind the
// datagram. A frame that is no GSO frame stands for itself. Of a GSO frame:
//
//   - every segment but the last has GSOSize bytes of payload, and the sequence number of its first byte (RFC 9293 3.4);
//   - FIN and PSH are the last one's, since they stand behind the data (RFC 9293 3.1, 3.9.1.2); CWR is the first one's alone, ECE
//     everyone's (RFC 3168 6.1.2, 6.1.3);
//   - each IPv4 datagram has an identification of its own, here the next (RFC 791 3.2, RFC 6864 4.2), and the options and extension
//     headers of the whole;
//   - a UDP datagram has its own length (RFC 768), a checksum of 0 is sent as 0xffff.
//
// A partial checksum that is not the sum of the pseudo-header is an error: segments made with it would be wrong.
func Segments(frame []byte, o policy.Offload) ([][]byte, error) {
	h, err := parse(frame)
	if err != nil {
		return nil, err
	}
	f := bytes.Clone(frame[:h.end])
	if o.GSOType == policy.GSONone {
		return [][]byte{f}, complete(f, o)
	}
	field, hdr := 16, 20
	switch {
	case h.proto == 6 && len(f)-h.l4 >= 20:
		hdr = int(f[h.l4+12]>>4) * 4
	case h.proto == 17:
		field, hdr = 6, 8
	default:
		return nil, fmt.Errorf("a super-packet of protocol %d", h.proto)
	}
	if h.l4+hdr > len(f) || o.GSOSize == 0 {
		return nil, fmt.Errorf("a transport header of %d in %d bytes, segments of %d", hdr, len(f)-h.l4, o.GSOSize)
	}
	if o.Flags&policy.NeedsCsum != 0 {
		if int(o.CsumStart) != h.l4 || int(o.CsumOffset) != field {
			return nil, fmt.Errorf("a checksum at %d+%d, not %d+%d", o.CsumStart, o.CsumOffset, h.l4, field)
		}
		if got, want := be.Uint16(f[h.l4+field:]), h.pseudo(len(f)-h.l4); got != want {
			return nil, fmt.Errorf("a partial checksum of %#x, not %#x", got, want)
		}
	}
	var out [][]byte
	payload := f[h.l4+hdr:]
	for at := 0; at == 0 || at < len(payload); at += int(o.GSOSize) {
		part := payload[at:min(len(payload), at+int(o.GSOSize))]
		s := append(bytes.Clone(f[:h.l4+hdr]), part...)
		h.finish(s, len(out), at, at+len(part) == len(payload), field)
		out = append(out, s)
	}
	return out, nil
}

// finish gives the segment at an offset of the payload the fields that are its own.
func (h header) finish(s []byte, index, at int, last bool, field int) {
	ip, l4 := s[eth:], s[h.l4:]
	if h.v4 {
		be.PutUint16(ip[2:], uint16(len(ip)))
		be.PutUint16(ip[4:], be.Uint16(ip[4:])+uint16(index))
		sealIP(ip)
	} else {
		be.PutUint16(ip[4:], uint16(len(ip)-40))
	}
	if h.proto == 17 {
		be.PutUint16(l4[4:], uint16(len(l4)))
	} else {
		be.PutUint32(l4[4:], be.Uint32(l4[4:])+uint32(at))
		if !last {
			l4[13] &= 0xff - 0x01 - 0x08
		}
		if index > 0 {
			l4[13] &= 0xff - 0x80
		}
	}
	l4[field], l4[field+1] = 0, 0
	c := ^sum(h.pseudo(len(l4)), l4)
	if c == 0 && h.proto == 17 {
		c = 0xffff
	}
	be.PutUint16(l4[field:], c)
}

// complete makes the partial checksum of a frame whole. The field holds what is to be added to the sum from CsumStart on.
func complete(f []byte, o policy.Offload) error {
	if o.Flags&policy.NeedsCsum == 0 {
		return nil
	}
	at := int(o.CsumStart) + int(o.CsumOffset)
	if at+2 > len(f) {
		return fmt.Errorf("a checksum at %d of %d bytes", at, len(f))
	}
	c := ^sum(0, f[o.CsumStart:])
	if c == 0 && o.CsumOffset == 6 {
		c = 0xffff
	}
	be.PutUint16(f[at:], c)
	return nil
}

// Reassemble puts IPv4 fragments together that come in order, each datagram's by themselves (RFC 791 3.2). None may be longer than mtu, and the later
// ones have only the options that are copied.
func Reassemble(frames [][]byte, mtu int) ([][]byte, error) {
	var out [][]byte
	var whole []byte // the datagram whose last fragment has not come
	for i, f := range frames {
		h, err := parse(f)
		if err != nil {
			return nil, fmt.Errorf("frame %d: %w", i, err)
		}
		ip := f[eth:h.end]
		if len(ip) > mtu || h.end != len(f) {
			return nil, fmt.Errorf("frame %d has %d bytes, a datagram of %d", i, len(f), len(ip))
		}
		if !h.v4 {
			out = append(out, f)
			continue
		}
		if sum(0, f[eth:h.l4]) != 0xffff {
			return nil, fmt.Errorf("frame %d has a wrong header checksum", i)
		}
		flags := be.Uint16(ip[6:])
		off, more := int(flags&0x1fff)*8, flags&0x2000 != 0
		switch {
		case more && (len(f)-h.l4)%8 != 0:
			return nil, fmt.Errorf("fragment %d brings %d bytes", i, len(f)-h.l4)
		case off == 0 && whole == nil:
			whole = bytes.Clone(f)
		case off == 0 || whole == nil:
			return nil, fmt.Errorf("frame %d at %d, %d bytes before", i, off, len(whole))
		default:
			first := whole[:eth+int(whole[eth]&15)*4]
			if off != len(whole)-len(first) || !bytes.Equal(f[:eth+2], append(bytes.Clone(first[:eth]), f[eth], first[eth+1])) || !bytes.Equal(ip[4:6], first[eth+4:eth+6]) ||
				!bytes.Equal(ip[8:10], first[eth+8:eth+10]) || !bytes.Equal(ip[12:20], first[eth+12:eth+20]) || !bytes.Equal(f[eth+20:h.l4], copied(first[eth+20:])) {
				return nil, fmt.Errorf("fragment %d at %d does not follow %d bytes: %x behind %x", i, off, len(whole)-len(first), f[:h.l4], first)
			}
			whole = append(whole, f[h.l4:]...)
		}
		if !more {
			be.PutUint16(whole[eth+2:], uint16(len(whole)-eth))
			be.PutUint16(whole[eth+6:], be.Uint16(whole[eth+6:])&0xc000)
			sealIP(whole[eth:])
			out, whole = append(out, whole), nil
		}
	}
	if whole != nil {
		return nil, errors.New("the last fragment is missing")
	}
	return out, nil
}

// copied are the options that belong in every fragment (RFC 791 3.1), with their padding.
func copied(o []byte) (out []byte) {
	for len(o) > 0 && o[0] != 0 {
		n := 1
		if o[0] != 1 {
			n = int(o[1])
		}
		if o[0] >= 0x80 {
			out = append(out, o[:n]...)
		}
		o = o[n:]
	}
	for len(out)%4 != 0 {
		out = append(out, 0)
	}
	return out
}

// Accepts tells why the kernel would refuse a frame that is written with that metadata, nil if it would not: Linux 6.18, linux/virtio_net.h,
// virtio_net_hdr_to_skb, and what tun_get_user and packet_snd ask before. That a super-packet has a partial checksum is what a driver owes to its
// device (virtio 1.2, 5.1.6.2.1), though the kernel looks for headers itself where it has none.
func Accepts(frame []byte, o policy.Offload) error {
	n := len(frame)
	csum := o.Flags&policy.NeedsCsum != 0
	start, end := int(o.CsumStart), int(o.CsumStart)+int(o.CsumOffset)+2
	if o.GSOType != policy.GSONone && int(o.HdrLen) > n {
		return errors.New("headers longer than the frame")
	}
	thlen := map[uint8]int{policy.GSONone: 0, policy.GSOTCPv4: 20, policy.GSOTCPv6: 20, policy.GSOUDPL4: 8}
	need, ok := thlen[o.GSOType&^policy.GSOECN]
	switch {
	case !ok || o.GSOType == policy.GSOECN || o.GSOType == policy.GSOUDPL4|policy.GSOECN:
		return errors.New("no such type")
	case csum && (end > n || start+need > n || start < 20 || start < 40 && o.GSOType&^policy.GSOECN == policy.GSOTCPv6):
		return errors.New("the checksum is outside of the frame")
	case o.GSOType == policy.GSONone:
		return nil
	case o.GSOSize == 0 || o.GSOSize == 0xffff: // GSO_BY_FRAGS
		return errors.New("no such size")
	case !csum:
		return errors.New("a super-packet with a whole checksum")
	case o.GSOType == policy.GSOUDPL4 && (o.CsumOffset != 6 || n-start-8 > 128*int(o.GSOSize)):
		return errors.New("not UDP in at most 128 segments") // UDP_MAX_SEGMENTS
	case o.GSOType != policy.GSOUDPL4 && o.CsumOffset != 16:
		return errors.New("not TCP's checksum")
	}
	return nil
}
