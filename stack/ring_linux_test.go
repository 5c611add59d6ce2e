package stack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"udrouter/policy"
)

// openTAP makes udr0, up and quiet, with that many queues.
func openTAP(t *testing.T, queues int) *TunTap {
	t.Helper()
	tap, err := OpenTAP("udr0", 1500, queues)
	check(t, err)
	t.Cleanup(func() { check(t, tap.Close()) })
	quiet(t, "udr0")
	check(t, netlink.LinkSetUp(mustLink(t, "udr0")))
	return tap
}

// numbered is a frame whose last four bytes are a number.
func numbered(number int) []byte {
	b := udp4(farMAC, nearMAC, 10, 60)
	binary.BigEndian.PutUint32(b[len(b)-4:], uint32(number))
	return b
}

func numberOf(b []byte) int { return int(binary.BigEndian.Uint32(b[len(b)-4:])) }

// put gives the kernel frames with the numbers from first up, as somebody behind the interface does.
func put(t *testing.T, fd, first, n int) {
	t.Helper()
	for i := range n {
		_, err := unix.Write(fd, numbered(first+i))
		check(t, err)
	}
}

// take reads so many frames and compares their numbers with those from first up.
func take(t *testing.T, l Link, batch []*Frame, first, n int) {
	t.Helper()
	for n > 0 {
		got, err := wait(l, batch)
		if err != nil {
			t.Error(err)
			return
		}
		for _, f := range batch[:got] {
			if number := numberOf(f.Bytes()); number != first {
				t.Errorf("frame %d came where %d was to come", number, first)
				return
			}
			first, n = first+1, n-1
		}
	}
}

// batchOf are frames to write, with the numbers from first up.
func batchOf(first, n int) []*Frame {
	batch := make([]*Frame, n)
	for i := range batch {
		batch[i] = NewFrame(200)
		batch[i].Set(numbered(first + i))
	}
	return batch
}

// written compares the numbers of what the kernel has got with those from first up.
func written(t *testing.T, fd, first, n int) {
	t.Helper()
	for i := range n {
		if got := numberOf(recv(t, fd)); got != first+i {
			t.Errorf("frame %d was written where %d was to be", got, first+i)
			return
		}
	}
}

// A ring that the kernel refuses to use, here because another thread started it, gives way to plain calls: nothing is lost, nothing comes twice.
func TestRingRefused(t *testing.T) {
	for _, writes := range []bool{false, true} {
		t.Run(fmt.Sprint("writes ", writes), func(t *testing.T) {
			enterNS(t)
			tap := openTAP(t, 1)
			q := tap.queues[0]
			near := packetSocket(t, "udr0", false)
			put(t, near, 0, 8)
			take(t, tap, NewBatch(batchLen), 0, 8)
			if q.ring == nil {
				t.Skip("this kernel allows no ring")
			}
			done := make(chan bool)
			put(t, near, 8, 100)
			sameNS(t, func() {
				defer close(done)
				if writes {
					q.Write(batchOf(1000, 100))
				}
				take(t, tap, NewBatch(batchLen), 8, 100)
			})
			<-done
			if writes {
				written(t, near, 1000, 100)
			}
			if q.ring != nil {
				t.Error("the ring is still used")
			}
			if rx, errs := tap.RxPackets.Load(), tap.Errors.Load(); rx != 108 || errs != 0 {
				t.Errorf("%d received, %d errors", rx, errs)
			}
		})
	}
}

// What a ring has done before it failed counts: calls that were made are not made again, and what they read is not lost.
func TestRingFailsOnTheWay(t *testing.T) {
	enterNS(t)
	tap := openTAP(t, 1)
	near := packetSocket(t, "udr0", false)
	put(t, near, 0, 8)
	take(t, tap, NewBatch(batchLen), 0, 8)
	q := tap.queues[0]
	if q.ring == nil {
		t.Skip("this kernel allows no ring")
	}
	// fails lets the kernel carry out the first n calls of those that are queued, and refuse the rest.
	fails := func(n int) {
		real := q.ring.enter
		q.ring.enter = func(fd, submit, want int) (int, syscall.Errno) {
			if n == 0 {
				return 0, unix.EAGAIN
			}
			submit = min(submit, n)
			n -= submit
			return real(fd, submit, submit)
		}
	}
	fails(3)
	put(t, near, 8, 20)
	take(t, tap, NewBatch(batchLen), 8, 20)
	if q.ring != nil {
		t.Fatal("the ring did not fail")
	}
	var err error
	q.ring, err = newRing(batchLen)
	check(t, err)
	put(t, near, 28, 8)
	take(t, tap, NewBatch(batchLen), 28, 8)
	fails(5)
	q.Write(batchOf(1000, 20))
	written(t, near, 1000, 20)
	if q.ring != nil {
		t.Error("the ring did not fail")
	}
	if tx, errs := tap.TxPackets.Load(), tap.Errors.Load(); tx != 20 || errs != 0 {
		t.Errorf("%d sent, %d errors", tx, errs)
	}
}

// More frames than a ring has entries, in either direction, with a ring and without.
func TestMoreFramesThanEntries(t *testing.T) {
	for _, without := range []bool{false, true} {
		t.Run(fmt.Sprint("plain ", without), func(t *testing.T) {
			enterNS(t)
			tap := openTAP(t, 1)
			if without {
				tap.queues[0].dropRing()
			}
			near := packetSocket(t, "udr0", false)
			const n = 5*batchLen + 7
			first := 0
			for range 4 { // the more frames came the last time, the more are asked for
				put(t, near, first, n)
				take(t, tap, NewBatch(n), first, n)
				first += n
			}
			const m = 2*batchLen + 7 // what the socket has room for
			tap.queues[0].Write(batchOf(1000, m))
			written(t, near, 1000, m)
			if without == (tap.queues[0].ring != nil) {
				t.Errorf("without a ring is %v", !without)
			}
			if rx, tx, bytes := tap.RxPackets.Load(), tap.TxPackets.Load(), tap.TxBytes.Load(); rx != 4*n || tx != m || bytes != m*uint64(len(numbered(0))) {
				t.Errorf("%d received, %d sent, %d bytes", rx, tx, bytes)
			}
		})
	}
}

// Once a batch has nearly its bytes, room for one more large frame is room for many small ones, which come one a call then: the last of them as well.
func TestSmallFramesBehindLargeOnes(t *testing.T) {
	enterNS(t)
	const large = 60000
	tap, err := OpenTAP("udr0", 65000, 1)
	check(t, err)
	t.Cleanup(func() { check(t, tap.Close()) })
	quiet(t, "udr0")
	check(t, netlink.LinkSetUp(mustLink(t, "udr0")))
	near := packetSocket(t, "udr0", false)
	putLarge := func(n int) {
		for range n {
			_, err := unix.Write(near, udp4(farMAC, nearMAC, 10, large))
			check(t, err)
		}
	}
	batch := NewBatch(batchLen)
	putLarge(1)
	if n, err := wait(tap, batch); n != 1 || err != nil {
		t.Fatalf("%d frames, %v", n, err)
	}
	putLarge(BatchBytes / large)
	put(t, near, 0, batchLen)
	for want := BatchBytes/large + batchLen; want > 0; {
		n, err := wait(tap, batch)
		if err != nil {
			t.Fatal(err)
		}
		want -= n
	}
}

// Each frame that a TAP does not take is counted, and those behind it are written.
func TestWriteErrors(t *testing.T) {
	for _, without := range []bool{false, true} {
		t.Run(fmt.Sprint("plain ", without), func(t *testing.T) {
			enterNS(t)
			tap := openTAP(t, 1)
			q := tap.queues[0]
			if without {
				q.dropRing()
			}
			near := packetSocket(t, "udr0", false)
			put(t, near, 0, 1)
			take(t, tap, NewBatch(1), 0, 1)
			batch := batchOf(0, 100)
			for _, bad := range []int{0, 50, 99} {
				batch[bad].Offload = policy.Offload{GSOType: 0x44, GSOSize: 1}
			}
			q.Write(batch)
			for i := range batch {
				if i != 0 && i != 50 && i != 99 {
					written(t, near, i, 1)
				}
			}
			if tx, errs, drops := tap.TxPackets.Load(), tap.Errors.Load(), tap.Drops[policy.Malformed].Load(); tx != 97 || errs != 3 || drops != 3 {
				t.Errorf("%d sent, %d errors, %d drops", tx, errs, drops)
			}
			check(t, netlink.LinkSetDown(mustLink(t, "udr0")))
			q.Write(batchOf(0, 100))
			if tx, errs, drops := tap.TxPackets.Load(), tap.Errors.Load(), tap.Drops[policy.LinkDown].Load(); tx != 97 || errs != 103 || drops != 100 {
				t.Errorf("down: %d sent, %d errors, %d drops", tx, errs, drops)
			}
		})
	}
}

// A kernel that allows no ring makes no difference but for the time.
func TestWithoutRings(t *testing.T) {
	makeRing = func(int) (*ring, error) { return nil, errors.New("not allowed") }
	t.Cleanup(func() { makeRing = newRing })
	for name, test := range map[string]func(*testing.T){"GSO": TestGSOStaysWhole, "TAP": TestTAPDownDeletedAndMadeAgain, "TUN": TestTUN,
		"segments": TestLinksCarrySegments, "close": TestCloseEndsRead, "kept": TestTAPKept, "load": TestCloseUnderLoad} {
		t.Run(name, test)
	}
}

// A ring takes no call but those that it is for: what goes by it no seccomp filter sees.
func TestRingTakesReadsAndWritesAlone(t *testing.T) {
	const opNop, opFsync, opOpenat, opSocket = 0, 3, 18, 45
	fd, err := unix.Open("/dev/zero", unix.O_RDWR|unix.O_CLOEXEC, 0)
	check(t, err)
	defer unix.Close(fd)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r, err := newRing(8)
	check(t, err)
	defer r.close()
	check(t, r.start())
	for op, want := range map[uint8]int32{opRead: 8, opWrite: 8, opNop: -int32(unix.EACCES), opFsync: -int32(unix.EACCES),
		opOpenat: -int32(unix.EACCES), opSocket: -int32(unix.EACCES)} {
		r.add(op, fd, make([]byte, 8))
		results, err := r.do()
		check(t, err)
		if results[0] != want {
			t.Errorf("operation %d has the result %d, want %d", op, results[0], want)
		}
	}
}
