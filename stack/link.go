package stack

import (
	"errors"
	"sync/atomic"

	"udrouter/policy"
)

// ErrClosed is what Read returns after Close.
var ErrClosed = errors.New("link is closed")

// Link moves frames between the router and a device of the kernel.
type Link interface {
	// Name is the device's name.
	Name() string

	// Read waits until there is a frame, fills at most len(batch) frames and returns how many. A device that is down,
	// gone or out of memory is counted and waited for, and opened again when it comes back; the only error is
	// ErrClosed. One goroutine reads at a time.
	Read(batch []*Frame) (int, error)

	// Write gives the frames to the kernel, in order, and never waits: what the kernel does not take is counted under its
	// reason and forgotten. Frames are the caller's again when it returns; their bytes before the packet have changed.
	// Any number of goroutines may write.
	Write(batch []*Frame)

	// Close ends Read and releases the device. It may be called more than once.
	Close() error
}

// Stats counts what passed a link. Any goroutine may read it; a GSO frame counts once.
type Stats struct {
	RxPackets, RxBytes atomic.Uint64
	TxPackets, TxBytes atomic.Uint64
	Errors             atomic.Uint64 // system calls that failed, each also a drop where a frame was lost
	Reopened           atomic.Uint64
	Drops              [policy.Reasons]atomic.Uint64
}

// Stats returns itself, so that an embedding link has the method.
func (s *Stats) Counters() *Stats { return s }

func (s *Stats) drop(r policy.Reason, n int) { s.Drops[r].Add(uint64(n)) }
