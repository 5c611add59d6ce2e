package batchfacts

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// bound ends a batch: after so many frames, or when so many bytes were read. With io_uring one call reads a batch.
type bound struct {
	frames, bytes int
	uring         bool
}

// forwarder moves what the kernel sends into a TAP to a packet socket, and back.
type forwarder struct {
	tap, uplink     int
	bound           atomic.Pointer[bound]
	stop            atomic.Bool
	frames, batches atomic.Int64
}

// BenchmarkTCP lets the kernel's TCP send through a process that moves its frames. The bounds of a batch take turns in it, while senders and
// receivers go on, on all CPUs that there are. It says what the receivers got.
func BenchmarkTCP(b *testing.B) {
	for _, n := range []int{1, 8} {
		b.Run(fmt.Sprint("connections=", n), func(b *testing.B) { tcp(b, n) })
	}
}

func tcp(b *testing.B, connections int) {
	const window, rounds = 80 * time.Millisecond, 15
	const all = queued * maxLen
	bounds := []bound{{64, all, false}, {1, all, false}, {2, all, false}, {4, all, false}, {8, all, false}, {16, all, false}, {64, 256 << 10, false},
		{64, 512 << 10, false}, {4, all, true}, {8, all, true}, {64, all, true}}
	f := &forwarder{}
	f.bound.Store(&bounds[0])
	received := f.connect(b, connections)
	rates, ratios := make([][]float64, len(bounds)), make([][]float64, len(bounds))
	lengths, kib := make([][]float64, len(bounds)), make([][]float64, len(bounds))
	for range rounds {
		for i := range bounds {
			f.bound.Store(&bounds[i])
			time.Sleep(window / 5)
			start, bytes, frames, batches := time.Now(), received.Load(), f.frames.Load(), f.batches.Load()
			time.Sleep(window)
			rates[i] = append(rates[i], float64(received.Load()-bytes)*8/float64(time.Since(start)))
			kib[i] = append(kib[i], float64(received.Load()-bytes)/1024/float64(max(1, f.frames.Load()-frames)))
			lengths[i] = append(lengths[i], float64(f.frames.Load()-frames)/float64(max(1, f.batches.Load()-batches)))
			ratios[i] = append(ratios[i], rates[i][len(rates[i])-1]/rates[0][len(rates[i])-1])
		}
	}
	for i, bound := range bounds {
		b.Run(fmt.Sprintf("frames=%d,KiB=%d,io_uring=%v", bound.frames, bound.bytes>>10, bound.uring), func(b *testing.B) {
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(rates[i]), "Gbit/s")
			b.ReportMetric(median(ratios[i]), "x-first")
			b.ReportMetric(median(lengths[i]), "frames/batch")
			b.ReportMetric(median(kib[i]), "KiB/frame")
		})
	}
}

// connect makes the network, starts to forward and to send, and returns how many bytes the receiver has had.
func (f *forwarder) connect(b *testing.B, connections int) *atomic.Int64 {
	far, listening, release := make(chan int), make(chan int), make(chan bool)
	go func() { // the receiver's thread and namespace
		far <- newNamespace(b)
		<-listening // the veth is there
		reach(b, "b", "10.0.0.2/24", "10.0.0.1", macs[0])
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		must(b, err)
		must(b, unix.Bind(fd, &unix.SockaddrInet4{Port: 2000}))
		must(b, unix.Listen(fd, 1))
		listening <- fd
		<-release
	}()
	ns := <-far
	newNamespace(b)
	var tap netlink.Link
	f.tap, tap = newTAP(b, "tap0", 0)
	must(b, netlink.LinkSetTxQLen(tap, 10_000))
	must(b, netlink.LinkSetHardwareAddr(tap, macs[0]))
	must(b, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "a"}, PeerName: "b", PeerHardwareAddr: macs[1], PeerNamespace: netlink.NsFd(ns)}))
	reach(b, "tap0", "10.0.0.1/24", "10.0.0.2", macs[1])
	f.uplink = packet(b, up(b, "a"), true)
	listening <- 0
	listener := <-listening
	var running, ends sync.WaitGroup
	received := new(atomic.Int64)
	running.Go(func() { f.out(b) })
	running.Go(func() { f.back(b) })
	receive := func(conn int) {
		var err error
		for buf := make([]byte, 256<<10); err == nil; {
			var n int
			if n, err = unix.Read(conn, buf); n == 0 {
				break
			}
			received.Add(int64(max(n, 0)))
		}
		unix.Close(conn)
	}
	send := func(client int) {
		for buf := make([]byte, 256<<10); !f.stop.Load(); {
			_, _ = unix.Write(client, buf)
		}
		unix.SetsockoptLinger(client, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}) // resets the connection
		unix.Close(client)
	}
	for range connections {
		client, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		must(b, err)
		must(b, unix.Connect(client, &unix.SockaddrInet4{Port: 2000, Addr: [4]byte{10, 0, 0, 2}}))
		conn, _, err := unix.Accept(listener)
		must(b, err)
		ends.Go(func() { receive(conn) })
		ends.Go(func() { send(client) })
	}
	b.Cleanup(func() {
		f.stop.Store(true)
		ends.Wait()
		f.bound.Store(nil)
		running.Wait()
		unix.Close(listener)
		close(release)
	})
	return received
}

var macs = []net.HardwareAddr{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}}

// reach gives the interface its address and tells it where the other one is.
func reach(b testing.TB, name, prefix, other string, mac net.HardwareAddr) {
	l := up(b, name)
	a, err := netlink.ParseAddr(prefix)
	must(b, err)
	must(b, netlink.AddrAdd(l, a))
	must(b, netlink.NeighAdd(&netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(other), HardwareAddr: mac}))
}

// out moves what the sender sends.
func (f *forwarder) out(b *testing.B) {
	bufs, m, ring, results := buffers(queued), newMmsgs(nil), newUring(b), make([]int32, queued)
	for bd := f.bound.Load(); bd != nil; bd = f.bound.Load() {
		n := 0
		if bd.uring {
			ring.do(b, uringOpRead, f.tap, bufs[:bd.frames], results)
			for i, got := range results[:bd.frames] { // those that found nothing lie between those that found something
				if got > 0 {
					m.set(n, bufs[i][:got])
					n++
				}
			}
		}
		for bytes := 0; !bd.uring && n < bd.frames && bytes < bd.bytes; n++ {
			got, err := unix.Read(f.tap, bufs[n])
			if err != nil {
				break
			}
			m.set(n, bufs[n][:got])
			bytes += got
		}
		if n == 0 {
			wait(f.tap)
			continue
		}
		for at := 0; at < n; {
			at += max(1, m.send(f.uplink, at, n)) // TCP repeats what is lost
		}
		f.frames.Add(int64(n))
		f.batches.Add(1)
	}
}

// back moves what the receiver sends.
func (f *forwarder) back(b *testing.B) {
	bufs := buffers(queued)
	m := newMmsgs(bufs)
	for f.bound.Load() != nil {
		n := m.recv(f.uplink, 0, queued)
		if n < 0 {
			wait(f.uplink)
			continue
		}
		for i := range n {
			_, _ = unix.Write(f.tap, bufs[i][:m.hdrs[i].n])
		}
	}
}

// wait returns when there is something to read, or soon.
func wait(fd int) { _, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100) }
