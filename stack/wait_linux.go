package stack

import (
	"fmt"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// waiter lets one goroutine wait for a descriptor or for the end.
type waiter struct {
	mu     sync.Mutex
	event  int // eventfd, readable for ever after close
	closed bool
}

func newWaiter() (*waiter, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("creating an eventfd: %w", err)
	}
	w := &waiter{event: fd}
	runtime.AddCleanup(w, func(fd int) { unix.Close(fd) }, fd)
	return w, nil
}

// forInput waits until fd can be read or has an error; at once after close.
func (w *waiter) forInput(fd int) {
	w.poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(w.event), Events: unix.POLLIN}}, -1)
}

// pause waits a moment after an error that will not go away by itself, so that no loop spins; not after close.
func (w *waiter) pause() {
	const pause = 100 * time.Millisecond
	w.poll([]unix.PollFd{{Fd: -1}, {Fd: int32(w.event), Events: unix.POLLIN}}, int(pause.Milliseconds()))
}

func (w *waiter) poll(fds []unix.PollFd, timeout int) {
	// EINTR and the like bring the caller round once more, which is harmless.
	_, _ = unix.Poll(fds, timeout)
	w.mu.Lock()
	defer w.mu.Unlock()
	if fds[1].Revents != 0 && !w.closed {
		var b [8]byte
		_, _ = unix.Read(w.event, b[:]) // a nudge counts once; close stays
	}
}

func (w *waiter) isClosed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.closed
}

// nudge brings the waiting goroutine round once.
func (w *waiter) nudge() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.signal()
	}
}

func (w *waiter) signal() {
	one := uint64(1)
	_, _ = unix.Write(w.event, (*[8]byte)(unsafe.Pointer(&one))[:])
}

// close wakes the waiting goroutine for good; false where it was closed before.
func (w *waiter) close() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	w.closed = true
	w.signal()
	return true
}
