package batchfacts

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// BenchmarkUplinkSend sends frames over a veth whose other end takes in nothing.
func BenchmarkUplinkSend(b *testing.B) {
	perSize(b, func(b *testing.B, size int) {
		la, _ := veth(b, "a", "b")
		bufs := copies(size)
		sendmmsg := func(step int, options ...int) func() time.Duration {
			fd, m := packet(b, la, false, options...), newMmsgs(bufs)
			return timed(func() {
				for from := 0; from < queued; from += step {
					if n := m.send(fd, from, from+step); n != step {
						b.Fatalf("sent %d of %d", n, step)
					}
				}
			})
		}
		compare(b, "way", size,
			rival{"sendto", timed(sendOne(b, packet(b, la, false), bufs))},
			rival{"sendmmsg-8", sendmmsg(8)}, rival{"sendmmsg-16", sendmmsg(16)}, rival{"sendmmsg-64", sendmmsg(64)},
			rival{"sendto-bypass", timed(sendOne(b, packet(b, la, false, unix.PACKET_QDISC_BYPASS), bufs))},
			rival{"sendmmsg-64-bypass", sendmmsg(64, unix.PACKET_QDISC_BYPASS)},
			rival{"ring-v2-filled", timed(sendRing(b, la, bufs, false))},
			rival{"ring-v2-copy", timed(sendRing(b, la, bufs, true))},
		)
	})
}

func timed(f func()) func() time.Duration {
	return func() time.Duration {
		start := time.Now()
		f()
		return time.Since(start)
	}
}

func sendOne(b *testing.B, fd int, bufs [][]byte) func() {
	return func() {
		for _, buf := range bufs {
			if _, _, e := unix.Syscall6(unix.SYS_SENDTO, uintptr(fd), pointer(buf), uintptr(len(buf)), unix.MSG_DONTWAIT, 0, 0); e != 0 {
				b.Fatal(e)
			}
		}
	}
}

// sendRing sends by a ring of TPACKET_V2: what somebody has read into its slots, or what has to be copied there.
func sendRing(b *testing.B, l netlink.Link, bufs [][]byte, copied bool) func() {
	r := newRing(b, l, unix.TPACKET_V2, unix.PACKET_TX_RING)
	for i := range slots {
		copy(r.mem[r.slot(i)+slotData:], bufs[0])
	}
	return func() {
		for _, buf := range bufs {
			room := r.put(len(buf))
			if room == nil {
				b.Fatal("the ring is full")
			}
			if copied {
				copy(room, buf) // the kernel looks when it is called
			}
		}
		if err := r.flush(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkUplinkQdisc is the same with a qdisc that veth has not by itself, as an interface of a NIC has.
func BenchmarkUplinkQdisc(b *testing.B) {
	perSize(b, func(b *testing.B, size int) {
		la, _ := veth(b, "a", "b")
		must(b, netlink.QdiscReplace(&netlink.PfifoFast{QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: la.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}}))
		m := newMmsgs(copies(size))
		var rivals []rival
		for _, bypass := range []bool{false, true} {
			var options []int
			if bypass {
				options = append(options, unix.PACKET_QDISC_BYPASS)
			}
			fd := packet(b, la, false, options...)
			rivals = append(rivals, rival{fmt.Sprintf("bypass=%v", bypass), timed(func() { m.send(fd, 0, queued) })})
		}
		compare(b, "pfifo_fast", size, rivals...)
	})
}

// TestSlotReuse sends a frame by a ring over a veth to where a socket has it in its queue, and writes over the slot as soon as the kernel
// gives it back: the kernel has made a copy by then.
func TestSlotReuse(t *testing.T) {
	for _, size := range sizes {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			newNamespace(t)
			la, lb := veth(t, "a", "b")
			in := packet(t, lb, true)
			r := newRing(t, la, unix.TPACKET_V2, unix.PACKET_TX_RING)
			want := tcpFrame(size, 0)
			slot := r.put(len(want))
			copy(slot, want)
			must(t, r.flush())
			for *r.u32(r.slot(0)) != unix.TP_STATUS_AVAILABLE {
			}
			for i := range slot {
				slot[i] = 0xee
			}
			got := make([]byte, maxLen)
			n, err := unix.Read(in, got)
			must(t, err)
			if !bytes.Equal(got[:n], want) {
				t.Fatalf("received % x, want % x", got[:min(n, 64)], want[:64])
			}
		})
	}
}
