package batchfacts

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// group is how many frames are read before they are written, into how many buffers in turn, and whether io_uring does for the TAP what
// recvmmsg and sendmmsg do for the uplink: one call a group.
type group struct {
	frames, buffers int
	uring           bool
}

var groups = []group{{1, 1, false}, {2, 2, false}, {4, 4, false}, {8, 8, false}, {16, 16, false}, {64, 64, false}, {1, 64, false}, {8, 64, false},
	{4, 4, true}, {8, 8, true}, {16, 16, true}, {64, 64, true}}

func (g group) String() string {
	s := fmt.Sprintf("batch=%d,buffers=%d", g.frames, g.buffers)
	if g.uring {
		s += ",io_uring"
	}
	return s
}

// BenchmarkTAPToUplink reads what waits in a TAP and sends it on an uplink: so many frames, then those.
func BenchmarkTAPToUplink(b *testing.B) {
	perSize(b, func(b *testing.B, size int) {
		in, dev := newTAP(b, "tap0", 0)
		la, _ := veth(b, "a", "b")
		out := packet(b, la, false)
		fill := sender(b, packet(b, dev, false, unix.PACKET_QDISC_BYPASS), size)
		bufs, m, ring := buffers(queued), newMmsgs(nil), newUring(b)
		n := make([]int32, queued)
		compareGroups(b, size, fill, func(from int, g group) {
			from %= g.buffers
			if g.uring {
				ring.do(b, uringOpRead, in, bufs[from:from+g.frames], n)
			}
			for i, buf := range bufs[from : from+g.frames] {
				if !g.uring {
					got, err := unix.Read(in, buf)
					must(b, err)
					n[i] = int32(got)
				}
				m.set(i, buf[:n[i]])
			}
			if sent := m.send(out, 0, g.frames); sent != g.frames {
				b.Fatalf("sent %d of %d", sent, g.frames)
			}
		})
	})
}

// BenchmarkUplinkToTAP receives what waits at an uplink and writes it to a TAP.
func BenchmarkUplinkToTAP(b *testing.B) {
	perSize(b, func(b *testing.B, size int) {
		out, _ := newTAP(b, "tap0", 0)
		la, lb := veth(b, "a", "b")
		in := packet(b, la, true)
		fill := sender(b, packet(b, lb, false), size)
		bufs, m, ring := buffers(queued), newMmsgs(nil), newUring(b)
		n, whole := make([]int32, queued), make([][]byte, queued)
		compareGroups(b, size, fill, func(from int, g group) {
			from %= g.buffers
			for i, buf := range bufs[from : from+g.frames] {
				m.set(i, buf)
			}
			if got := m.recv(in, 0, g.frames); got != g.frames {
				b.Fatalf("received %d of %d", got, g.frames)
			}
			for i, buf := range bufs[from : from+g.frames] {
				whole[i] = buf[:m.hdrs[i].n]
				if !g.uring {
					_, err := unix.Write(out, whole[i])
					must(b, err)
				}
			}
			if g.uring {
				ring.do(b, uringOpWrite, out, whole[:g.frames], n)
				for _, written := range n[:g.frames] {
					if written < 0 {
						b.Fatal(unix.Errno(-written))
					}
				}
			}
		})
	})
}

// compareGroups moves frames in groups, out of a queue that is always long and out of one that has as many as are moved at a time.
func compareGroups(b *testing.B, size int, fill func(n int), move func(from int, g group)) {
	for _, long := range []bool{true, false} {
		var rivals []rival
		for _, g := range groups {
			rivals = append(rivals, rival{g.String(), func() time.Duration {
				var spent time.Duration
				step := g.frames
				if long {
					step = queued
				}
				for from := 0; from < queued; from += step {
					fill(step)
					start := time.Now()
					for at := from; at < from+step; at += g.frames {
						move(at, g)
					}
					spent += time.Since(start)
				}
				return spent
			}})
		}
		compare(b, fmt.Sprintf("longqueue=%v", long), size, rivals...)
	}
}
