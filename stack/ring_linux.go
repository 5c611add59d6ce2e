package stack

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Of linux/io_uring.h.
const (
	opRead  = 22 // IORING_OP_READ
	opWrite = 23 // IORING_OP_WRITE

	setupDisabled     = 1 << 6
	setupSingleIssuer = 1 << 12 // with these two from Linux 6.1 on
	setupDeferTaskrun = 1 << 13
	restrict          = 11 // IORING_REGISTER_RESTRICTIONS
	enable            = 12 // IORING_REGISTER_ENABLE_RINGS
	allowOp           = 1  // IORING_RESTRICTION_SQE_OP
	featSingleMmap    = 1 << 0
	enterGetEvents    = 1 << 0
	offSQRing         = 0
	offSQEs           = 0x10000000
)

type ringParams struct {
	sqEntries, cqEntries, flags, sqCPU, sqIdle, features, wq uint32
	_                                                        [3]uint32
	sq                                                       struct {
		head, tail, mask, entries, flags, dropped, array, _ uint32
		_                                                   uint64
	}
	cq struct {
		head, tail, mask, entries, overflow, cqes, flags, _ uint32
		_                                                   uint64
	}
}

type ringSQE struct {
	op, flags uint8
	prio      uint16
	fd        int32
	off, addr uint64
	len       uint32
	rwFlags   uint32
	user      uint64
	_         [3]uint64
}

type ringRestriction struct {
	opcode uint16
	op     uint8
	_      [13]uint8
}

type ringCQE struct {
	user  uint64
	res   int32
	flags uint32
}

// ring moves many packets to or from a TAP or TUN in one system call, which read(2) and write(2) cannot: it is io_uring(7), used for calls that do
// not wait. They are carried out in order within do. One thread uses it, the one that started it.
//
// What goes by a ring goes past a seccomp filter, so a ring takes nothing but these two calls, and a process that is confined makes none: rings are
// made when the device is opened.
type ring struct {
	fd             int
	started        bool
	rings, entries []byte // mapped
	sqTail         *uint32
	sqMask, cqMask uint32
	cqHead, cqTail *uint32
	sqes           []ringSQE
	cqes           []ringCQE
	queued         uint32
	results        []int32 // of the last do, in the order of add
	enter          func(fd, submit, want int) (int, syscall.Errno)
	cleanup        runtime.Cleanup
}

// makeRing is newRing, or a test's.
var makeRing = newRing

// newRing makes a ring for n calls at a time. It errs where the kernel has none, is too old or does not allow it (kernel.io_uring_disabled, seccomp).
func newRing(n int) (*ring, error) {
	var p ringParams
	p.flags = setupSingleIssuer | setupDeferTaskrun | setupDisabled
	fd, _, e := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(n), uintptr(unsafe.Pointer(&p)), 0)
	if e != 0 {
		return nil, fmt.Errorf("setting up an io_uring: %w", e)
	}
	r := &ring{fd: int(fd), results: make([]int32, n), enter: enterRing}
	if p.features&featSingleMmap == 0 {
		r.release()
		return nil, fmt.Errorf("setting up an io_uring: %w", unix.ENOSYS)
	}
	only := [...]ringRestriction{{opcode: allowOp, op: opRead}, {opcode: allowOp, op: opWrite}}
	if _, _, e := unix.Syscall6(unix.SYS_IO_URING_REGISTER, fd, restrict, uintptr(unsafe.Pointer(&only)), uintptr(len(only)), 0, 0); e != 0 {
		r.release()
		return nil, fmt.Errorf("restricting an io_uring: %w", e)
	}
	size := max(int(p.sq.array+p.sqEntries*4), int(p.cq.cqes+p.cqEntries*uint32(unsafe.Sizeof(ringCQE{}))))
	var err error
	if r.rings, err = unix.Mmap(r.fd, offSQRing, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err == nil {
		r.entries, err = unix.Mmap(r.fd, offSQEs, int(p.sqEntries)*int(unsafe.Sizeof(ringSQE{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	}
	if err != nil {
		r.release()
		return nil, fmt.Errorf("mapping an io_uring: %w", err)
	}
	at := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.rings[off])) }
	r.sqTail, r.sqMask = at(p.sq.tail), *at(p.sq.mask)
	r.cqHead, r.cqTail, r.cqMask = at(p.cq.head), at(p.cq.tail), *at(p.cq.mask)
	r.sqes = unsafe.Slice((*ringSQE)(unsafe.Pointer(&r.entries[0])), p.sqEntries)
	r.cqes = unsafe.Slice((*ringCQE)(unsafe.Pointer(&r.rings[p.cq.cqes])), p.cqEntries)
	array := unsafe.Slice(at(p.sq.array), p.sqEntries)
	for i := range array {
		array[i] = uint32(i)
	}
	r.cleanup = runtime.AddCleanup(r, func(old ring) { old.release() }, ring{fd: r.fd, rings: r.rings, entries: r.entries})
	return r, nil
}

// start makes the ring the calling thread's.
func (r *ring) start() error {
	if r.started {
		return nil
	}
	if _, _, e := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(r.fd), enable, 0, 0, 0, 0); e != 0 {
		return fmt.Errorf("starting an io_uring: %w", e)
	}
	r.started = true
	return nil
}

// add queues a call, which fails with EAGAIN where it would wait, also of a descriptor that does not block otherwise. The bytes must stay where they are until do returns.
func (r *ring) add(op uint8, fd int, b []byte) {
	tail := *r.sqTail + r.queued
	r.sqes[tail&r.sqMask] = ringSQE{op: op, fd: int32(fd), off: ^uint64(0), addr: uint64(uintptr(unsafe.Pointer(&b[0]))), len: uint32(len(b)), rwFlags: unix.RWF_NOWAIT, user: uint64(r.queued)}
	r.queued++
}

// do carries out what was added; the results are bytes, or an errno with a minus. An error is the ring's own, after which it is of no use; then
// only those calls were made that there are results of.
func (r *ring) do() ([]int32, error) {
	n, done := r.queued, uint32(0)
	r.queued = 0
	atomic.StoreUint32(r.sqTail, *r.sqTail+n)
	for submit := n; done < n; {
		got, e := r.enter(r.fd, int(submit), int(n-done))
		if e == 0 {
			submit -= uint32(got)
		}
		head := *r.cqHead
		for tail := atomic.LoadUint32(r.cqTail); head != tail; head++ {
			c := &r.cqes[head&r.cqMask]
			r.results[c.user] = c.res
			done++
		}
		atomic.StoreUint32(r.cqHead, head)
		if e != 0 && e != unix.EINTR {
			return r.results[:done], fmt.Errorf("entering an io_uring: %w", e)
		}
	}
	return r.results[:n], nil
}

// enterRing is io_uring_enter(2).
func enterRing(fd, submit, want int) (int, syscall.Errno) {
	got, _, e := syscall.RawSyscall6(unix.SYS_IO_URING_ENTER, uintptr(fd), uintptr(submit), uintptr(want), enterGetEvents, 0, 0)
	return int(got), e
}

func (r *ring) close() {
	r.cleanup.Stop()
	r.release()
}

func (r *ring) release() {
	for _, m := range [][]byte{r.rings, r.entries} {
		if m != nil {
			_ = unix.Munmap(m)
		}
	}
	unix.Close(r.fd)
}
