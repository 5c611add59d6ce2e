package stack

import (
	"encoding/binary"

	"udrouter/policy"
)

// Fragment splits an IPv4 datagram without DF so that none is longer than mtu bytes (RFC 791 3.2, RFC 1812 5.2.6). The
// frame must hold a whole transport checksum. A fragment may be split once more: offsets and the last one's MF go on. Options
// whose copied bit is clear stay in the first only. It returns nil where mtu has no room for eight bytes of payload.
func Fragment(f *Frame, mtu int) []*Frame {
	b := f.Bytes()
	ip := b[policy.EthernetLen:]
	ihl := int(ip[0]&15) * 4
	field := binary.BigEndian.Uint16(ip[6:])
	offset, more := int(field&0x1fff), field&0x2000
	flags := field &^ 0x3fff
	payload := ip[ihl:]
	header := ip[:ihl]
	var out []*Frame
	for len(payload) > 0 {
		n := len(payload)
		if n > mtu-len(header) {
			if n = (mtu - len(header)) &^ 7; n <= 0 {
				return nil
			}
		}
		s := NewFrame(policy.EthernetLen + len(header) + n)
		d := s.Bytes()
		copy(d, b[:policy.EthernetLen])
		h := d[policy.EthernetLen:]
		copy(h, header)
		copy(h[len(header):], payload[:n])
		payload = payload[n:]
		mf := more
		if len(payload) > 0 {
			mf = 0x2000
		}
		binary.BigEndian.PutUint16(h[2:], uint16(len(h)))
		binary.BigEndian.PutUint16(h[6:], flags|mf|uint16(offset))
		ipv4Checksum(h)
		out = append(out, s)
		offset += n / 8
		if len(out) == 1 {
			header = copiedOptions(header)
		}
	}
	return out
}

// copiedOptions is an IPv4 header with only the options that belong in every fragment (RFC 791 3.1). Its options are
// well-formed: the parser has seen them.
func copiedOptions(header []byte) []byte {
	if len(header) == policy.IPv4Len {
		return header
	}
	h := append([]byte(nil), header[:policy.IPv4Len]...)
	for o := header[policy.IPv4Len:]; len(o) > 0 && o[0] != 0; {
		n := 1
		if o[0] != 1 {
			n = int(o[1])
		}
		if o[0]&0x80 != 0 {
			h = append(h, o[:n]...)
		}
		o = o[n:]
	}
	for len(h)%4 != 0 {
		h = append(h, 0)
	}
	h[0] = 0x40 | byte(len(h)/4)
	return h
}
