// Package stacktest has links without a kernel, for tests.
package stacktest

import (
	"sync"

	"udrouter/policy"
	"udrouter/stack"
)

// Sent is a frame that was written to a Link.
type Sent struct {
	Frame []byte
	policy.Offload
}

// Link is a stack.Link with one queue whose far end is the test. It is safe for concurrent use.
type Link struct {
	stack.Stats
	name  string
	in    chan *stack.Frame
	waker *stack.Waker

	mu      sync.Mutex
	sent    []Sent
	mac     policy.MAC
	filters []stack.Filter
	rebinds int
}

// NewLink makes a link.
func NewLink(name string) *Link {
	w, err := stack.NewWaker()
	if err != nil {
		panic(err)
	}
	return &Link{name: name, in: make(chan *stack.Frame, 1024), waker: w}
}

// Frame makes a frame of bytes and metadata.
func Frame(b []byte, o policy.Offload) *stack.Frame {
	f := stack.NewFrame(len(b))
	f.Set(b)
	f.Offload = o
	return f
}

// Inject makes Receive return a frame.
func (l *Link) Inject(b []byte, o policy.Offload) {
	l.in <- Frame(b, o)
	l.waker.Wake()
}

// Take returns what has been written since the last Take.
func (l *Link) Take() []Sent {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.sent
	l.sent = nil
	return s
}

// Name implements stack.Link.
func (l *Link) Name() string { return l.name }

// Queues implements stack.Link: the link is its only queue.
func (l *Link) Queues() []stack.Queue { return []stack.Queue{l} }

// Waker implements stack.Queue.
func (l *Link) Waker() *stack.Waker { return l.waker }

// Input implements stack.Queue. Inject wakes.
func (l *Link) Input() int { return -1 }

// Receive implements stack.Queue.
func (l *Link) Receive(batch []*stack.Frame) (int, error) {
	if l.waker.Closed() {
		return 0, stack.ErrClosed
	}
	select {
	case f := <-l.in:
		batch[0].Set(f.Bytes())
		batch[0].Offload = f.Offload
		return 1, nil
	default:
		return 0, nil
	}
}

// Write implements stack.Link.
func (l *Link) Write(batch []*stack.Frame) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range batch {
		l.sent = append(l.sent, Sent{append([]byte(nil), f.Bytes()...), f.Offload})
	}
}

// Close implements stack.Link.
func (l *Link) Close() error {
	l.waker.Close()
	return nil
}

// SetMAC implements router.UplinkLink.
func (l *Link) SetMAC(m policy.MAC) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mac = m
}

// SetFilter implements router.UplinkLink.
func (l *Link) SetFilter(f stack.Filter) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.filters = append(l.filters, f)
	return nil
}

// SetScreen implements router.UplinkLink. Nothing stands before a Link.
func (l *Link) SetScreen(stack.Screen) error { return nil }

// Rebind implements router.UplinkLink.
func (l *Link) Rebind() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rebinds++
}

// Rebinds is how often Rebind was called.
func (l *Link) Rebinds() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rebinds
}
