package stack

import (
	"errors"

	"golang.org/x/sys/unix"

	"udrouter/policy"
)

// tunQueue is a queue of a TAP or TUN. It implements Queue.
//
// Its calls never wait, so they are made without telling Go's scheduler, which would else give the processor away for each that takes longer
// than some microseconds, and want it back.
type tunQueue struct {
	queue
	t *TunTap

	// Of the goroutine that receives.
	ring *ring // nil: there is none
}

func (q *tunQueue) attached() bool {
	q.mu.RLock()
	defer q.mu.RUnlock()
	return q.fd >= 0
}

// still tells whether nothing has replaced the descriptor since that opening.
func (q *tunQueue) still(opening int) bool {
	q.mu.RLock()
	defer q.mu.RUnlock()
	return q.opening == opening
}

// errDetached says that there is no descriptor.
var errDetached = errors.New("no device")

// Receive implements Queue.
func (q *tunQueue) Receive(batch []*Frame) (int, error) {
	if q.waker.Closed() {
		q.dropRing()
		return 0, ErrClosed
	}
	if q.failed = false; q.load.wasEmpty() {
		return 0, nil
	}
	n, bytes, opening, err := q.receive(batch)
	q.load.saw(n, bytes, n > 0 && errors.Is(err, unix.EAGAIN))
	if n > 0 {
		q.t.RxPackets.Add(uint64(n))
		q.t.RxBytes.Add(uint64(bytes))
	}
	switch {
	case err == nil, errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
	case errors.Is(err, errDetached):
		q.failed = !q.t.reopen()
	case errors.Is(err, unix.EBADFD), errors.Is(err, unix.ENODEV):
		q.t.Errors.Add(1)
		q.t.abandon(q, opening)
	default:
		q.t.Errors.Add(1)
		q.failed = true
	}
	return n, nil
}

// receive reads until the queue is empty, the batch is full or has bytes enough.
func (q *tunQueue) receive(batch []*Frame) (n, bytes, opening int, err error) {
	q.mu.RLock()
	defer q.mu.RUnlock()
	if q.fd < 0 {
		return 0, 0, q.opening, errDetached
	}
	// One read more than there were frames the last time, then more at once, as long as all of them find one: a read that finds none
	// costs a little, a call more costs most.
	for ask := max(q.load.frames+1, 2); n < len(batch) && bytes < BatchBytes && err == nil; ask = min(4*ask, batchLen) {
		frames := batch[n:][:q.load.ask(min(ask, len(batch)-n, batchLen), bytes)]
		var got, size int
		if r := q.theRing(); r == nil || len(frames) == 1 {
			got, size, err = q.readEach(frames)
		} else {
			got, size, err = q.readAll(r, frames)
		}
		n += got
		bytes += size
	}
	return n, bytes, q.opening, err
}

// readEach reads frames one by one, and ends with the first error.
func (q *tunQueue) readEach(batch []*Frame) (n, bytes int, err error) {
	for n < len(batch) {
		f := batch[n]
		got, err := rawRead(q.fd, f.buf[q.t.packet-vnetLen:])
		if err != nil {
			return n, bytes, err
		}
		if q.received(f, got) {
			bytes += got - vnetLen
			n++
		}
	}
	return n, bytes, nil
}

// readAll reads frames in one call. The error is the first read's that had one; those behind it have found nothing either, or a frame
// that came in between. A ring that fails is no error: what it has not read is read without.
func (q *tunQueue) readAll(r *ring, batch []*Frame) (n, bytes int, err error) {
	for _, f := range batch {
		r.add(opRead, q.fd, f.buf[q.t.packet-vnetLen:])
	}
	results, failed := r.do()
	if failed != nil {
		q.dropRing()
	}
	for i, res := range results {
		switch {
		case res >= 0 && q.received(batch[i], int(res)):
			bytes += int(res) - vnetLen
			batch[i], batch[n] = batch[n], batch[i]
			n++
		case res < 0 && err == nil:
			err = unix.Errno(-res)
		}
	}
	return n, bytes, err
}

func (q *tunQueue) received(f *Frame, n int) bool {
	if !f.received(q.t.packet-vnetLen, n) {
		q.t.Errors.Add(1)
		return false
	}
	f.Truncated = q.t.packet-vnetLen+n == len(f.buf)
	return true
}

// theRing is the ring, started by the goroutine that uses it; nil where there is none.
func (q *tunQueue) theRing() *ring {
	if q.ring != nil && q.ring.start() != nil {
		q.dropRing()
	}
	return q.ring
}

func (q *tunQueue) dropRing() {
	if q.ring != nil {
		q.ring.close()
		q.ring = nil
	}
}

// Write implements Queue.
func (q *tunQueue) Write(batch []*Frame) { q.send(batch, true) }

// send is Write; without the ring it is for any goroutine.
func (q *tunQueue) send(batch []*Frame, ring bool) {
	q.mu.RLock()
	defer q.mu.RUnlock()
	if q.fd < 0 {
		q.t.drop(policy.LinkDown, len(batch))
		return
	}
	var sent, bytes uint64
	for len(batch) > 0 {
		part := batch[:min(len(batch), batchLen)]
		batch = batch[len(part):]
		if ring && len(part) > 1 {
			if r := q.theRing(); r != nil {
				part = q.writeAll(r, part, &sent, &bytes)
			}
		}
		q.writeEach(part, &sent, &bytes)
	}
	q.t.TxPackets.Add(sent)
	q.t.TxBytes.Add(bytes)
}

// writeAll writes frames in one call, and returns those that a ring that fails has left.
func (q *tunQueue) writeAll(r *ring, batch []*Frame, sent, bytes *uint64) []*Frame {
	for _, f := range batch {
		r.add(opWrite, q.fd, f.transmit(q.t.packet))
	}
	results, failed := r.do()
	for i, res := range results {
		q.wrote(batch[i].end-q.t.packet, unix.Errno(max(-res, 0)), sent, bytes)
	}
	if failed != nil {
		q.dropRing()
	}
	return batch[len(results):]
}

func (q *tunQueue) writeEach(batch []*Frame, sent, bytes *uint64) {
	for _, f := range batch {
		b := f.transmit(q.t.packet)
		errno := rawWrite(q.fd, b)
		if errno == unix.EINTR {
			errno = rawWrite(q.fd, b)
		}
		q.wrote(len(b)-vnetLen, errno, sent, bytes)
	}
}

// wrote counts a frame of n bytes; errno is 0 where the kernel has taken it.
func (q *tunQueue) wrote(n int, errno unix.Errno, sent, bytes *uint64) {
	if errno != 0 {
		q.t.Errors.Add(1)
		q.t.drop(dropReason(errno), 1)
		return
	}
	*sent++
	*bytes += uint64(n)
}
