package stack

import (
	"sync"

	"golang.org/x/sys/unix"
)

// queue is what the queues of all links have: a descriptor that is replaced when the device comes back, and what wakes who waits for it.
type queue struct {
	waker *Waker

	mu      sync.RWMutex // held for reading while fd is used, for writing while it is replaced
	fd      int          // -1: there is none
	opening int          // how often it was replaced, since numbers of descriptors come again

	// Of the goroutine that receives.
	load   load
	failed bool // the last call had an error that may come again at once
}

// init makes the queue ready to be attached.
func (q *queue) init() (err error) {
	q.fd = -1
	q.waker, err = NewWaker()
	return err
}

// attach replaces the descriptor; -1 for none. The queue closes the old one.
func (q *queue) attach(fd int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.fd >= 0 {
		unix.Close(q.fd)
	}
	q.fd = fd
	q.opening++
	q.waker.Wake()
}

// Waker implements Queue.
func (q *queue) Waker() *Waker { return q.waker }

// Input implements Queue.
func (q *queue) Input() int {
	q.mu.RLock()
	defer q.mu.RUnlock()
	if q.failed {
		return -1
	}
	return q.fd
}

// listed are queues as Link has them.
func listed[Q Queue](queues []Q) (list []Queue) {
	for _, q := range queues {
		list = append(list, q)
	}
	return list
}
