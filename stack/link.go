package stack

import (
	"errors"
	"sync/atomic"

	"udrouter/policy"
)

// ErrClosed is what Receive returns after Close.
var ErrClosed = errors.New("link is closed")

// BatchBytes is about how many bytes Receive returns at a time: what is moved on at once should still be in the processor's cache when it is
// written, see package batchfacts. Small frames come as many as there is room for.
const BatchBytes = 256 << 10

// MaxQueues is how many queues a link may have: what the kernel allows a TAP (MAX_TAP_QUEUES) and a group of sockets.
const MaxQueues = 256

// Link moves frames between the router and a device of the kernel. A device that is down, gone or out of memory is counted and waited for,
// and opened again when it comes back.
type Link interface {
	// Name is the device's name.
	Name() string

	// Queues are the ways in and out, always the same. The kernel spreads frames over them by flow, so that both directions of a flow
	// come by the queues of the same number of all links that have as many, each in order. That is no more than what its dissector makes of a
	// packet: fragments, ICMP errors, and the two directions of ESP may come by other numbers than the rest of their flow (the table shapes of
	// the tests), and what is inside a tunnel of IP or GRE is spread by what it carries.
	Queues() []Queue

	// Write gives the frames to the kernel, in order, and never waits: what the kernel does not take is counted under its
	// reason and forgotten. Frames are the caller's again when it returns; their bytes before the packet have changed.
	// Any number of goroutines may write. A flow of which a TAP is written frames comes by the queue that they were written by, here the first.
	Write(batch []*Frame)

	// Close ends Receive and releases the device. It may be called more than once.
	Close() error
}

// Queue is one of a link's ways in and out. One goroutine, which keeps to its thread, uses it.
type Queue interface {
	// Receive fills the beginning of batch with frames that have come, and returns how many: 0 where there is none now, or was none when it was
	// called last; Input tells when to call again. It does not wait. The only error is ErrClosed.
	Receive(batch []*Frame) (int, error)

	// Write is that of the link.
	Write(batch []*Frame)

	// Input is a descriptor that can be read (poll(2)) when Receive would return frames; -1: nobody knows, and Receive is to be called
	// now and then.
	Input() int

	// Waker wakes who waits for the queue.
	Waker() *Waker
}

// Stats counts what passed a link. Any goroutine may read it; a GSO frame counts once.
type Stats struct {
	RxPackets, RxBytes atomic.Uint64
	_                  [48]byte // both directions are counted by different threads
	TxPackets, TxBytes atomic.Uint64
	Errors             atomic.Uint64 // system calls that failed, each also a drop where a frame was lost
	Reopened           atomic.Uint64
	Drops              [policy.Reasons]atomic.Uint64
}

// Stats returns itself, so that an embedding link has the method.
func (s *Stats) Counters() *Stats { return s }

func (s *Stats) drop(r policy.Reason, n int) { s.Drops[r].Add(uint64(n)) }

// load is what a queue has seen of late, by which it chooses how many frames it asks the kernel for.
type load struct {
	frames int  // in the last batch
	size   int  // of a frame in it, in bytes
	empty  bool // and nothing was left behind it
}

// wasEmpty tells, once, whether the last batch left nothing behind it.
func (l *load) wasEmpty() bool {
	was := l.empty
	l.empty = false
	return was
}

// ask is how many frames to ask for next, of at most max, when so many bytes have come already.
func (l *load) ask(max, bytes int) int {
	if l.size > 0 {
		max = min(max, (BatchBytes-bytes)/l.size+1)
	}
	return max
}

// saw takes note of a batch.
func (l *load) saw(frames, bytes int, empty bool) {
	l.frames, l.empty = frames, empty
	if frames > 0 {
		l.size = bytes / frames
	}
}
