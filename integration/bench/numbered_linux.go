package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	numberLen   = 8         // of a number and its complement, with which the checksum stays the same
	waiting     = 256 << 20 // bytes of datagrams that may wait for the receiver: seconds of them
	mostAtOnce  = 4 * batch // datagrams that a sender with a rate may be late with
	quietAfter  = time.Second / 2
	receiveTick = time.Millisecond
	leastFlows  = 2 * batch // all that are sent at once are different flows, half of them of the first
)

// numbered is a stream of one guest's datagrams upwards, each with a number. Every second one is of one of the first flows, the others of all others by turns:
// so some flows have enough packets for the kernel to forward them where it does.
type numbered struct {
	*stream
	hot  int    // so many are the first flows
	next uint32 // number
	fd   int    // receives
	off  int    // of the number in the frame
}

// numberedUp are the two ways of a contestant's flows, of which that upwards has numbers. The caller closes both.
func numberedUp(c *contestant, f family, size int) (up *numbered, down *stream, err error) {
	plain, down, err := streams(c, f, size)
	if err != nil {
		return nil, nil, err
	}
	up = &numbered{stream: plain, hot: min(plain.flows()/2, hotFlows), off: headers(f)}
	gw := c.lab.Gateway
	if up.fd, err = datagrams(gw.NS, gw.Link, f, false, waiting); err == nil {
		err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(up.fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1))
	}
	if err == nil && (size-up.off < numberLen || up.flows() < leastFlows || len(up.senders) != 1) {
		err = fmt.Errorf("there is no room for numbers in %d flows of %d bytes", up.flows(), size)
	}
	if err != nil {
		up.close()
		down.close()
		return nil, nil, err
	}
	return up, down, nil
}

func (s *numbered) close() {
	s.stream.close()
	unix.Close(s.fd)
}

// flow is that of a number. Those of numbers in a row differ.
func (s *numbered) flow(number uint32) int {
	k := int(number / 2)
	if number%2 == 0 {
		return k % s.hot
	}
	return s.hot + k%(s.flows()-s.hot)
}

// send sends at most n datagrams with the next numbers, and returns how many.
func (s *numbered) send(b *burst, n int) (int, error) {
	for i := range n {
		number := s.next + uint32(i)
		frame := s.frames[s.flow(number)*s.size:]
		binary.BigEndian.PutUint32(frame[s.off:], number)
		binary.BigEndian.PutUint32(frame[s.off+4:], ^number)
		b.iovs[i].Base = &frame[0]
	}
	k, err := b.send(s.senders[0], n)
	s.next += uint32(k)
	return k, err
}

// load sends until it shall stop: so many datagrams a second, or with 0 as many as it can.
func (s *numbered) load(stop *atomic.Bool, pps float64) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b, due, last := newBurst(s.size), 0.0, time.Now()
	for !stop.Load() {
		n := batch
		if pps > 0 {
			// What could not be sent while others had the processor is not made up for: all at once it might find a queue full.
			now := time.Now()
			due, last = min(due+pps*now.Sub(last).Seconds(), mostAtOnce), now
			if n = min(int(due), batch); n < batch/2 {
				time.Sleep(time.Duration((batch - due) / pps * float64(time.Second)))
				continue
			}
		}
		k, err := s.send(b, n)
		if err != nil {
			return err
		}
		due -= float64(k)
	}
	return nil
}

// tally is what came of the numbers from one on. Times are the kernel's, at the receiving link.
type tally struct {
	from                 uint32
	seen                 []uint64 // bit by bit
	came                 int
	twice                int
	first, last, longest time.Duration // longest is that between two in a row
	sent                 int
}

func (t *tally) add(number uint32, at time.Duration) {
	i := number - t.from
	if i >= 1<<31 { // from before
		return
	}
	for int(i/64) >= len(t.seen) {
		t.seen = append(t.seen, make([]uint64, 1+len(t.seen))...)
	}
	if bit := uint64(1) << (i % 64); t.seen[i/64]&bit != 0 {
		t.twice++
	} else {
		t.seen[i/64] |= bit
		t.came++
	}
	if t.first == 0 {
		t.first, t.last = at, at
	}
	t.longest, t.last = max(t.longest, at-t.last), max(t.last, at)
}

func (t *tally) lost() int { return t.sent - t.came }

// pps is how many came a second.
func (t *tally) pps() float64 { return float64(t.came) / (t.last - t.first).Seconds() }

// inbox is what one call receives.
type inbox struct {
	msgs  [batch]mmsghdr
	iovs  [batch]unix.Iovec
	bytes [batch][64]byte
	times [batch]struct {
		head unix.Cmsghdr
		at   unix.Timespec
	}
}

// drain receives all that is there.
func (s *numbered) drain(in *inbox, t *tally) error {
	for {
		for i := range in.msgs {
			in.iovs[i].Base = &in.bytes[i][0]
			in.iovs[i].SetLen(len(in.bytes[i]))
			h := &in.msgs[i].hdr
			h.Iov, h.Control = &in.iovs[i], (*byte)(unsafe.Pointer(&in.times[i]))
			h.SetIovlen(1)
			h.SetControllen(int(unsafe.Sizeof(in.times[i])))
		}
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&in.msgs[0])), batch, unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return nil
		default:
			return os.NewSyscallError("recvmmsg", errno)
		}
		for i := range int(n) {
			b, c := in.bytes[i][s.off:][:numberLen], &in.times[i]
			if c.head.Level != unix.SOL_SOCKET || c.head.Type != unix.SCM_TIMESTAMPNS {
				return errors.New("a datagram has no time")
			}
			number := binary.BigEndian.Uint32(b)
			if int(in.msgs[i].len) >= s.off+numberLen && binary.BigEndian.Uint32(b[4:]) == ^number {
				t.add(number, time.Duration(c.at.Nano()))
			}
		}
		if n < batch {
			return nil
		}
	}
}

// during has the stream pass while something is done, with some time before and after it, and returns what came when no more comes.
func (s *numbered) during(ctx context.Context, pps float64, before, after time.Duration, do func() error) (*tally, error) {
	t, in := &tally{from: s.next}, &inbox{}
	if err := s.drain(in, t); err != nil { // what others have sent
		return nil, err
	}
	if _, err := (&counter{s.fd}).take(); err != nil {
		return nil, err
	}
	*t = tally{from: s.next}
	var stop, over atomic.Bool
	var sending, receiving errgroup.Group
	sending.Go(func() error { return s.load(&stop, pps) })
	var came atomic.Int64
	receiving.Go(func() error {
		// Nobody is woken by what comes, which would take the router's time.
		for !over.Load() {
			if err := s.drain(in, t); err != nil {
				return err
			}
			came.Store(int64(t.came))
			time.Sleep(receiveTick)
		}
		return s.drain(in, t)
	})
	err := wait(ctx, before)
	if err == nil {
		err = do()
	}
	if err == nil {
		err = wait(ctx, after)
	}
	stop.Store(true)
	err = errors.Join(err, sending.Wait())
	t.sent = int(s.next - t.from)
	for n := int64(-1); err == nil && n != came.Load() && came.Load() < int64(t.sent); {
		n = came.Load()
		err = wait(ctx, quietAfter)
	}
	over.Store(true)
	if err = errors.Join(err, receiving.Wait()); err != nil {
		return nil, err
	}
	st, err := unix.GetsockoptTpacketStats(s.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	switch {
	case err != nil:
		return nil, os.NewSyscallError("getsockopt", err)
	case st.Drops > 0:
		return nil, fmt.Errorf("the receiver did not keep up: it missed %d datagrams", st.Drops)
	case t.came < 2:
		return nil, fmt.Errorf("%d of %d datagrams arrive", t.came, t.sent)
	case t.twice > 0:
		return nil, fmt.Errorf("%d datagrams came twice", t.twice)
	}
	return t, nil
}
