package batchfacts

import (
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Numbers of linux/io_uring.h.
const (
	uringEntries                 = 64
	uringOpRead, uringOpWrite    = 22, 23
	uringEnterGetEvents          = 1
	uringOffSQRing, uringOffSQEs = 0, 0x10000000
	uringSingleMMap              = 1
)

type uringParams struct {
	sqEntries, cqEntries, flags, sqCPU, sqIdle, features, wqFD uint32
	_                                                          [3]uint32
	sq                                                         struct {
		head, tail, mask, entries, flags, dropped, array, _ uint32
		_                                                   uint64
	}
	cq struct {
		head, tail, mask, entries, overflow, cqes, flags, _ uint32
		_                                                   uint64
	}
}

type uringSQE struct {
	op, flags    uint8
	prio         uint16
	fd           int32
	off, addr    uint64
	len, opFlags uint32
	user         uint64
	_            [3]uint64
}

type uringCQE struct {
	user  uint64
	res   int32
	flags uint32
}

// uring is an io_uring.
type uring struct {
	fd   int
	p    uringParams
	mem  []byte
	sqes []byte
}

func newUring(b testing.TB) *uring {
	b.Helper()
	u := new(uring)
	fd, _, e := unix.Syscall(unix.SYS_IO_URING_SETUP, uringEntries, uintptr(unsafe.Pointer(&u.p)), 0)
	if e != 0 {
		b.Fatalf("making an io_uring: %v", e)
	}
	u.fd = int(fd)
	b.Cleanup(func() { unix.Close(u.fd) })
	if u.p.features&uringSingleMMap == 0 {
		b.Fatal("the kernel is too old for these tests")
	}
	var err error
	size := max(u.p.sq.array+4*u.p.sqEntries, u.p.cq.cqes+16*u.p.cqEntries)
	u.mem, err = unix.Mmap(u.fd, uringOffSQRing, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	must(b, err)
	u.sqes, err = unix.Mmap(u.fd, uringOffSQEs, int(u.p.sqEntries)*int(unsafe.Sizeof(uringSQE{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	must(b, err)
	b.Cleanup(func() { unix.Munmap(u.mem); unix.Munmap(u.sqes) })
	return u
}

func (u *uring) u32(at uint32) *uint32 { return (*uint32)(unsafe.Pointer(&u.mem[at])) }

// do reads into or writes from each buffer and sets n to each result: bytes or a negative errno. One system call does all, in order.
func (u *uring) do(b testing.TB, op uint8, fd int, bufs [][]byte, n []int32) {
	flags := map[uint8]uint32{uringOpRead: unix.RWF_NOWAIT} // a read that finds nothing would wait, although the descriptor does not block
	tail, mask := *u.u32(u.p.sq.tail), *u.u32(u.p.sq.mask)
	for i, buf := range bufs {
		slot := (tail + uint32(i)) & mask
		*(*uringSQE)(unsafe.Pointer(&u.sqes[slot*uint32(unsafe.Sizeof(uringSQE{}))])) = uringSQE{
			op: op, fd: int32(fd), opFlags: flags[op], addr: uint64(pointer(buf)), len: uint32(len(buf)), user: uint64(i)}
		*u.u32(u.p.sq.array + 4*slot) = slot
	}
	atomic.StoreUint32(u.u32(u.p.sq.tail), tail+uint32(len(bufs)))
	if _, _, e := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(u.fd), uintptr(len(bufs)), uintptr(len(bufs)), uringEnterGetEvents, 0, 0); e != 0 {
		b.Fatalf("entering an io_uring: %v", e)
	}
	head := *u.u32(u.p.cq.head)
	mask = *u.u32(u.p.cq.mask)
	end := atomic.LoadUint32(u.u32(u.p.cq.tail))
	if int(end-head) != len(bufs) {
		b.Fatalf("%d of %d done", end-head, len(bufs))
	}
	for ; head != end; head++ {
		c := (*uringCQE)(unsafe.Pointer(&u.mem[u.p.cq.cqes+16*(head&mask)]))
		n[c.user] = c.res
	}
	atomic.StoreUint32(u.u32(u.p.cq.head), head)
}
