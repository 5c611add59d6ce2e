package batchfacts

import (
	"fmt"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// receiver is a way to receive.
type receiver struct {
	name  string
	ready func(n int) // waits until n frames can be taken
	drain func(n int) // takes n frames
}

// BenchmarkUplinkReceive sends frames over a veth to a packet socket and takes them out, all on one CPU. In group "all" it measures the
// sending too, since that makes the copy into a ring; its first rival has no receiver. In "drain" it measures what the receiver does, and in
// "latency" what it takes until a lone frame can be seen. That a block of TPACKET_V3 waits until it retires counts in the last only.
func BenchmarkUplinkReceive(b *testing.B) {
	perSize(b, func(b *testing.B, size int) {
		var all, drain, latency []rival
		for i, open := range []func(*testing.B, netlink.Link, int) receiver{nobody, recvfrom, recvmmsg(8), recvmmsg(16), recvmmsg(64), v3, v2} {
			la, lb := veth(b, fmt.Sprint("a", i), fmt.Sprint("b", i))
			r, send := open(b, la, size), sender(b, packet(b, lb, false), size)
			for range 2 * blocks { // memory that a virtual machine touches first is so slow that a ring overflows
				send(8)
				r.ready(8)
				r.drain(8)
			}
			all = append(all, rival{r.name, func() time.Duration {
				start := time.Now()
				send(queued)
				spent := time.Since(start)
				r.ready(queued)
				start = time.Now()
				r.drain(queued)
				return spent + time.Since(start)
			}})
			drain = append(drain, rival{r.name, func() time.Duration {
				send(queued)
				r.ready(queued)
				start := time.Now()
				r.drain(queued)
				return time.Since(start)
			}})
			latency = append(latency, rival{r.name, func() time.Duration {
				start := time.Now()
				send(1)
				r.ready(1)
				r.drain(1)
				return time.Since(start) * queued // compare takes it for so many
			}})
		}
		compare(b, "all", size, all...)
		compare(b, "drain", size, drain[1:]...)
		compare(b, "latency", size, latency[1:]...)
	})
}

func atOnce(int) {} // veth hands frames over within the call that sends them

func nobody(*testing.B, netlink.Link, int) receiver { return receiver{"nobody", atOnce, atOnce} }

// recvfrom receives one frame a call.
func recvfrom(b *testing.B, l netlink.Link, size int) receiver {
	fd, bufs := packet(b, l, true), buffers(queued)
	return receiver{"recvfrom", atOnce, func(n int) {
		for i := range n {
			got, _, e := unix.Syscall6(unix.SYS_RECVFROM, uintptr(fd), pointer(bufs[i]), maxLen, unix.MSG_DONTWAIT, 0, 0)
			if e != 0 || int(got) != vnetLen+size {
				b.Fatalf("received %d bytes, %v", got, e)
			}
		}
	}}
}

// recvmmsg receives up to so many frames a call.
func recvmmsg(step int) func(*testing.B, netlink.Link, int) receiver {
	return func(b *testing.B, l netlink.Link, size int) receiver {
		fd, m := packet(b, l, true), newMmsgs(buffers(queued))
		return receiver{fmt.Sprint("recvmmsg-", step), atOnce, func(n int) {
			for from := 0; from < n; from += step {
				want := min(step, n-from)
				if got := m.recv(fd, from, from+want); got != want || int(m.hdrs[from].n) != vnetLen+size {
					b.Fatalf("received %d of %d", got, want)
				}
			}
		}}
	}
}

// v3 takes frames out of the blocks of a TPACKET_V3 ring, in place.
func v3(b *testing.B, l netlink.Link, size int) receiver {
	r := newRing(b, l, unix.TPACKET_V3, unix.PACKET_RX_RING)
	var sum byte
	ready := func(n int) {
		for i, start := 0, time.Now(); n > 0; {
			if frames := r.frames(i); frames > 0 && i < blocks {
				n -= frames
				i++
			} else if time.Since(start) > 50*time.Millisecond {
				b.Logf("the ring was full: %d of them lost", n) // blocks had retired nearly empty; the median is of other rounds
				return
			}
		}
	}
	return receiver{"tpacket-v3", ready, func(n int) {
		for n > 0 {
			got := r.block(func(f []byte) {
				if sum += f[vnetLen]; len(f) != vnetLen+size {
					b.Fatalf("received %d bytes", len(f))
				}
			})
			if n -= got; got == 0 {
				return
			}
		}
	}}
}

// v2 takes frames out of the slots of a TPACKET_V2 ring, in place.
func v2(b *testing.B, l netlink.Link, size int) receiver {
	r := newRing(b, l, unix.TPACKET_V2, unix.PACKET_RX_RING)
	var sum byte
	return receiver{"tpacket-v2", atOnce, func(n int) {
		for range n {
			if !r.next(func(f []byte) {
				if sum += f[vnetLen]; len(f) != vnetLen+size {
					b.Fatalf("received %d bytes", len(f))
				}
			}) {
				b.Fatal("a frame is missing")
			}
		}
	}}
}
