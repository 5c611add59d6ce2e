package stack

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Waker makes Wait return. It is safe for concurrent use.
type Waker struct {
	mu     sync.Mutex
	event  int // eventfd, readable for ever after close
	closed atomic.Bool
}

// NewWaker makes a waker.
func NewWaker() (*Waker, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("creating an eventfd: %w", err)
	}
	w := &Waker{event: fd}
	runtime.AddCleanup(w, func(fd int) { unix.Close(fd) }, fd)
	return w, nil
}

// Closed tells whether Close was called.
func (w *Waker) Closed() bool { return w.closed.Load() }

// Wake makes Wait return once, at once or the next time.
func (w *Waker) Wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed.Load() {
		w.signal()
	}
}

// Close makes Wait return at once for good; false where it was closed before.
func (w *Waker) Close() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed.Swap(true) {
		return false
	}
	w.signal()
	return true
}

func (w *Waker) signal() {
	one := uint64(1)
	_, _ = unix.Write(w.event, (*[8]byte)(unsafe.Pointer(&one))[:])
}

// woken forgets a Wake that has been noticed.
func (w *Waker) woken() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed.Load() {
		var b [8]byte
		_, _ = unix.Read(w.event, b[:])
	}
}

// retryAfter is how long Wait waits at most for a queue without a descriptor, so that an error that will not go away by itself makes no
// loop spin.
const retryAfter = 100 * time.Millisecond

// pace keeps those who look for what is missing from doing so more often than they would alone. The zero value lets the first one look.
type pace struct{ last time.Time }

func (p *pace) due() bool {
	now := time.Now()
	if now.Sub(p.last) < retryAfter {
		return false
	}
	p.last = now
	return true
}

// Poll looks at queues, see Queue.Input. One goroutine uses it. The zero value is ready.
type Poll struct{ fds []unix.PollFd }

// Wait finds out which of the queues have frames, an error or a wake; with block it waits until one has. It may return early, and name queues that
// have nothing.
func (p *Poll) Wait(queues []Queue, block bool) {
	p.fds = p.fds[:0]
	timeout := 0
	if block {
		timeout = -1
	}
	for _, q := range queues {
		fd := q.Input()
		if fd < 0 && block {
			timeout = int(retryAfter.Milliseconds())
		}
		p.fds = append(p.fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}, unix.PollFd{Fd: int32(q.Waker().event), Events: unix.POLLIN})
	}
	// EINTR and the like bring the caller round once more, which is harmless.
	_, _ = unix.Poll(p.fds, timeout)
	for i, q := range queues {
		if p.fds[2*i+1].Revents != 0 {
			q.Waker().woken()
		}
	}
}

// Ready tells whether the last Wait named the i-th queue.
func (p *Poll) Ready(i int) bool {
	return p.fds[2*i].Fd < 0 || p.fds[2*i].Revents != 0 || p.fds[2*i+1].Revents != 0
}

// rawRead and rawWrite are read(2) and write(2) of a descriptor that does not wait, see tunQueue.
func rawRead(fd int, b []byte) (int, error) {
	n, _, e := syscall.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

func rawWrite(fd int, b []byte) unix.Errno {
	_, _, e := syscall.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return e
}
