package stack

import (
	"encoding/binary"

	"udrouter/policy"
)

// A buffer has room for the virtio_net_hdr right before the packet that the kernel reads or writes: before the Ethernet
// header for a TAP and AF_PACKET, before the IP header for a TUN. So a frame goes from link to link without a copy, and
// the IP header is aligned to a cache line.
const (
	vnetLen  = 10 // struct virtio_net_hdr, without num_buffers
	ipStart  = 64
	ethStart = ipStart - policy.EthernetLen

	// MaxFrame is the largest Ethernet frame in bytes: a GSO frame whose IP length field is full.
	MaxFrame = policy.EthernetLen + 65535 + 1
)

// Frame is an Ethernet frame and what its virtio_net_hdr says, in a buffer of its own. It is not safe for concurrent use.
// A frame of a TUN has an Ethernet header as well, whose bytes mean nothing until somebody writes them.
type Frame struct {
	buf []byte
	end int
	policy.Offload

	VLAN      bool // a VLAN tag was stripped from it (PACKET_AUXDATA)
	Truncated bool // the buffer was too small for it
}

// NewFrame makes a frame with room for n bytes, Ethernet header included.
func NewFrame(n int) *Frame { return &Frame{buf: make([]byte, ethStart+n), end: ethStart + n} }

// NewBatch makes n frames of the largest size, one behind the other.
func NewBatch(n int) []*Frame {
	const size = (ethStart + MaxFrame + 63) &^ 63
	b := make([]*Frame, n)
	slab := hugeSlab(n * size)
	for i := range b {
		b[i] = &Frame{buf: slab[i*size:][:size:size]}
	}
	return b
}

// Bytes is the frame from its Ethernet header on.
func (f *Frame) Bytes() []byte { return f.buf[ethStart:f.end] }

// Cut shortens the frame to n bytes, Ethernet header included. HdrLen is then no more than that: it is what the kernel had in one piece, often all of the
// frame, and the kernel refuses a frame that is shorter.
func (f *Frame) Cut(n int) {
	f.end = ethStart + n
	f.HdrLen = uint16(min(int(f.HdrLen), n))
}

// Trim takes off what is not the packet's, which was parsed from the frame: what stands behind the declared length, and the metadata of a super-packet from
// one that is a single segment, which the kernel fails to split where its TCP options are longer than GSOSize.
func (f *Frame) Trim(p *policy.Packet) {
	f.Cut(len(p.Frame))
	if f.GSOType != policy.GSONone && p.SegmentLen() == p.L3Len() {
		f.GSOType, f.GSOSize, f.HdrLen = policy.GSONone, 0, 0
	}
}

// Set copies an Ethernet frame into the buffer and forgets the old one; false where it does not fit.
func (f *Frame) Set(b []byte) bool {
	if ethStart+len(b) > len(f.buf) {
		return false
	}
	f.end = ethStart + copy(f.buf[ethStart:], b)
	f.Offload, f.VLAN, f.Truncated = policy.Offload{}, false, false
	return true
}

// Clone is a copy with a buffer just large enough.
func (f *Frame) Clone() *Frame {
	c := NewFrame(len(f.Bytes()))
	copy(c.Bytes(), f.Bytes())
	c.Offload, c.VLAN, c.Truncated = f.Offload, f.VLAN, f.Truncated
	return c
}

// SetEthernet writes the Ethernet header.
func (f *Frame) SetEthernet(dst, src policy.MAC, etherType uint16) {
	b := f.buf[ethStart:ipStart]
	copy(b, dst[:])
	copy(b[6:], src[:])
	binary.BigEndian.PutUint16(b[12:], etherType)
}

// received takes the virtio_net_hdr at start and n bytes in all that the kernel wrote there; skip is what lies between
// Ethernet header and the packet's start. It is false where n is less than the header.
func (f *Frame) received(start, n int) bool {
	f.VLAN, f.Truncated = false, false
	if n < vnetLen {
		return false
	}
	h := f.buf[start:]
	f.Offload = policy.Offload{
		Flags: h[0], GSOType: h[1], HdrLen: binary.NativeEndian.Uint16(h[2:]), GSOSize: binary.NativeEndian.Uint16(h[4:]),
		CsumStart: binary.NativeEndian.Uint16(h[6:]), CsumOffset: binary.NativeEndian.Uint16(h[8:]),
	}
	f.end = start + n
	if shift := uint16(start + vnetLen - ethStart); shift != 0 {
		f.CsumStart += shift
		f.HdrLen += shift
		binary.BigEndian.PutUint16(f.buf[ethStart+12:], etherTypeOf(f.buf[ipStart:f.end]))
	}
	return true
}

// transmit writes the virtio_net_hdr so that the packet starts at ethStart or, for a TUN, at ipStart; the result is what the
// kernel is to be given.
func (f *Frame) transmit(packet int) []byte {
	start := packet - vnetLen
	h := f.buf[start:packet]
	shift := uint16(packet - ethStart)
	clear(h)
	if f.Flags&policy.NeedsCsum != 0 {
		h[0] = policy.NeedsCsum
		binary.NativeEndian.PutUint16(h[6:], f.CsumStart-shift)
		binary.NativeEndian.PutUint16(h[8:], f.CsumOffset)
	}
	if f.GSOType != policy.GSONone {
		h[1] = f.GSOType
		binary.NativeEndian.PutUint16(h[2:], max(f.HdrLen, shift)-shift)
		binary.NativeEndian.PutUint16(h[4:], f.GSOSize)
	}
	return f.buf[start:f.end]
}

func etherTypeOf(ip []byte) uint16 {
	if len(ip) > 0 {
		switch ip[0] >> 4 {
		case 4:
			return policy.EtherIPv4
		case 6:
			return policy.EtherIPv6
		}
	}
	return 0
}
