package batchfacts

import (
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A ring's memory is blocks of 1 MiB. A slot of TPACKET_V2 has room for a largest frame; 15 of them fit into a block.
const (
	blockSize     = 1 << 20
	blocks        = 16 // under load a block of TPACKET_V3 often retires with a frame or two
	slotSize      = 68 << 10
	slotsPerBlock = blockSize / slotSize
	slots         = slotsPerBlock * blocks
	slotData      = 32 // TPACKET2_HDRLEN - sizeof(struct sockaddr_ll): where the virtio_net_hdr of what a slot sends is
)

// ring is the memory that a packet socket shares with the kernel (packet_mmap).
type ring struct {
	fd  int
	mem []byte
	at  int // the block, or the slot of TPACKET_V2, that is next
}

// newRing opens a packet socket with a ring: option is PACKET_RX_RING or PACKET_TX_RING. Blocks of TPACKET_V3 retire after 1 ms.
func newRing(b testing.TB, l netlink.Link, version, option int, options ...int) *ring {
	b.Helper()
	fd := packet(b, l, false, options...)
	must(b, unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, version))
	req := unix.TpacketReq3{Block_size: blockSize, Block_nr: blocks, Frame_size: slotSize, Frame_nr: slots}
	if version == unix.TPACKET_V3 {
		req.Retire_blk_tov = 1
		must(b, unix.SetsockoptTpacketReq3(fd, unix.SOL_PACKET, option, &req))
	} else {
		must(b, unix.SetsockoptTpacketReq(fd, unix.SOL_PACKET, option, (*unix.TpacketReq)(unsafe.Pointer(&req))))
	}
	mem, err := unix.Mmap(fd, 0, blockSize*blocks, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(b, err)
	b.Cleanup(func() { unix.Munmap(mem) })
	bind(b, fd, l, option == unix.PACKET_RX_RING)
	return &ring{fd: fd, mem: mem}
}

func (r *ring) u32(at int) *uint32 { return (*uint32)(unsafe.Pointer(&r.mem[at])) }

// slot is where the slot i of TPACKET_V2 begins: with its status.
func (r *ring) slot(i int) int { return i/slotsPerBlock*blockSize + i%slotsPerBlock*slotSize }

// frames is how many frames are in the block of TPACKET_V3 that is i after the next; 0 while it is the kernel's.
func (r *ring) frames(i int) int {
	at := (r.at + i) % blocks * blockSize
	if atomic.LoadUint32(r.u32(at+8))&unix.TP_STATUS_USER == 0 {
		return 0
	}
	return int(*r.u32(at + 12))
}

// block hands the frames of the next block of TPACKET_V3 to f, virtio_net_hdr included, gives the block back and says how many they were.
func (r *ring) block(f func(frame []byte)) int {
	at, n := r.at*blockSize, r.frames(0)
	if n == 0 {
		return 0
	}
	p := at + int(*r.u32(at + 16))
	for range n {
		h := (*unix.Tpacket3Hdr)(unsafe.Pointer(&r.mem[p]))
		start := p + int(h.Mac) - vnetLen
		f(r.mem[start : start+vnetLen+int(h.Snaplen)])
		p += int(h.Next_offset)
	}
	atomic.StoreUint32(r.u32(at+8), unix.TP_STATUS_KERNEL)
	r.at = (r.at + 1) % blocks
	return n
}

// next hands the frame in the next slot of TPACKET_V2 to f and gives the slot back; false where none has come.
func (r *ring) next(f func(frame []byte)) bool {
	at := r.slot(r.at)
	if atomic.LoadUint32(r.u32(at))&unix.TP_STATUS_USER == 0 {
		return false
	}
	h := (*unix.Tpacket2Hdr)(unsafe.Pointer(&r.mem[at]))
	start := at + int(h.Mac) - vnetLen
	f(r.mem[start : start+vnetLen+int(h.Snaplen)])
	atomic.StoreUint32(r.u32(at), unix.TP_STATUS_KERNEL)
	r.at = (r.at + 1) % slots
	return true
}

// put makes the next slot of TPACKET_V2 ready to send n bytes and returns the room for them; nil while the kernel has the slot.
func (r *ring) put(n int) []byte {
	at := r.slot(r.at)
	if atomic.LoadUint32(r.u32(at)) != unix.TP_STATUS_AVAILABLE {
		return nil
	}
	*r.u32(at + 4) = uint32(n)
	atomic.StoreUint32(r.u32(at), unix.TP_STATUS_SEND_REQUEST)
	r.at = (r.at + 1) % slots
	return r.mem[at+slotData : at+slotData+n]
}

// flush sends what was put.
func (r *ring) flush() error {
	_, _, e := unix.Syscall6(unix.SYS_SENDTO, uintptr(r.fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
	if e != 0 {
		return e
	}
	return nil
}
