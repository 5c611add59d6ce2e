package batchfacts

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// BenchmarkTAPReceive takes out of a TAP what waits there. In group "poll" each batch begins as one does that has to wait: with a read that
// finds nothing and a poll. Group "all" includes what the sender does, for a packet socket on a veth in place of the TAP.
func BenchmarkTAPReceive(b *testing.B) {
	perSize(b, func(b *testing.B, size int) {
		fd, dev := newTAP(b, "tap0", 0)
		send := sender(b, packet(b, dev, false, unix.PACKET_QDISC_BYPASS), size)
		bufs := buffers(queued)
		read := func(buf []byte) {
			if n, err := unix.Read(fd, buf); n != vnetLen+size {
				b.Fatalf("read %d bytes, %v", n, err)
			}
		}
		after := func(f func()) func() time.Duration {
			return func() time.Duration {
				send(queued)
				return timed(f)()
			}
		}
		ring, results := newUring(b), make([]int32, queued)
		byUring := func(step int) func() time.Duration {
			return after(func() {
				for at := 0; at < queued; at += step {
					ring.do(b, uringOpRead, fd, bufs[at:at+step], results)
					for _, n := range results[:step] {
						if n != int32(vnetLen+size) {
							b.Fatalf("read %d bytes", n)
						}
					}
				}
			})
		}
		compare(b, "way", size,
			rival{"read", after(func() {
				for _, buf := range bufs {
					read(buf)
				}
			})},
			rival{"io_uring-8", byUring(8)}, rival{"io_uring-64", byUring(64)},
		)
		whole := func(f func() time.Duration, send func(int)) func() time.Duration {
			return timed(func() { send(queued); f() })
		}
		byVeth := func(i, step int) rival {
			la, lb := veth(b, fmt.Sprint("a", i), fmt.Sprint("b", i))
			r := recvmmsg(step)(b, la, size)
			return rival{fmt.Sprint("veth-", r.name), whole(timed(func() { r.drain(queued) }), sender(b, packet(b, lb, false), size))}
		}
		compare(b, "all", size, rival{"read", whole(after(func() {
			for _, buf := range bufs {
				read(buf)
			}
		}), func(int) {})}, rival{"io_uring-8", whole(byUring(8), func(int) {})}, rival{"io_uring-64", whole(byUring(64), func(int) {})},
			byVeth(0, 8), byVeth(1, 64))
		polled := func(step int) rival {
			return rival{fmt.Sprint("batch-", step), func() time.Duration {
				var spent time.Duration
				for at := 0; at < queued; at += step {
					start := time.Now()
					if _, err := unix.Read(fd, bufs[0]); err != unix.EAGAIN {
						b.Fatalf("read: %v", err)
					}
					spent += time.Since(start)
					send(step)
					start = time.Now()
					if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: -1}}, -1); n != 1 {
						b.Fatalf("polled %d, %v", n, err)
					}
					for i := range step {
						read(bufs[i])
					}
					spent += time.Since(start)
				}
				return spent
			}}
		}
		compare(b, "poll", size, rival{"none", after(func() {
			for _, buf := range bufs {
				read(buf)
			}
		})}, polled(1), polled(4), polled(64))
	})
}

// BenchmarkTAPSend hands frames to a bridge that forwards them to a port whose other end takes in nothing.
func BenchmarkTAPSend(b *testing.B) {
	perSize(b, func(b *testing.B, size int) {
		bridge := newBridge(b)
		bufs := copies(size)
		plain, dev := newTAP(b, "tap0", 0)
		must(b, netlink.LinkSetMaster(dev, bridge))
		napi, dev := newTAP(b, "tap1", unix.IFF_NAPI)
		must(b, netlink.LinkSetMaster(dev, bridge))
		frags, dev := newTAP(b, "tap2", unix.IFF_NAPI|unix.IFF_NAPI_FRAGS)
		must(b, netlink.LinkSetMaster(dev, bridge))
		end, port := veth(b, "end", "port") // in place of a TAP
		must(b, netlink.LinkSetMaster(port, bridge))
		write := func(fd int) func() time.Duration {
			return timed(func() {
				for _, buf := range bufs {
					if _, err := unix.Write(fd, buf); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		ring, results := newUring(b), make([]int32, queued)
		byUring := func(step int) func() time.Duration {
			return timed(func() {
				for at := 0; at < queued; at += step {
					ring.do(b, uringOpWrite, plain, bufs[at:at+step], results)
					for _, n := range results[:step] {
						if n < 0 {
							b.Fatal(unix.Errno(-n))
						}
					}
				}
			})
		}
		sendmmsg := func(step int, l netlink.Link) func() time.Duration {
			fd, m := packet(b, l, false), newMmsgs(bufs)
			return timed(func() {
				for from := 0; from < queued; from += step {
					if n := m.send(fd, from, from+step); n != step {
						b.Fatalf("sent %d of %d", n, step)
					}
				}
			})
		}
		compare(b, "way", size,
			rival{"write", write(plain)},
			rival{"writev", timed(func() {
				for _, buf := range bufs {
					if _, err := unix.Writev(plain, [][]byte{buf[:vnetLen], buf[vnetLen:]}); err != nil {
						b.Fatal(err)
					}
				}
			})},
			rival{"io_uring-8", byUring(8)}, rival{"io_uring-64", byUring(64)},
			rival{"napi", write(napi)},
			rival{"napi-frags", write(frags)},
			rival{"bridge-sendmmsg-8", sendmmsg(8, bridge)}, rival{"bridge-sendmmsg-64", sendmmsg(64, bridge)},
			rival{"veth-sendmmsg-8", sendmmsg(8, end)}, rival{"veth-sendmmsg-64", sendmmsg(64, end)},
		)
	})
}

// newBridge makes a bridge whose table has the receiver of tcpFrame behind a veth.
func newBridge(b testing.TB) netlink.Link {
	b.Helper()
	must(b, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}))
	bridge := up(b, "br0")
	vif, _ := veth(b, "vif", "guest")
	must(b, netlink.LinkSetMaster(vif, bridge))
	must(b, netlink.NeighAdd(&netlink.Neigh{LinkIndex: vif.Attrs().Index, Family: unix.AF_BRIDGE, State: netlink.NUD_NOARP, Flags: netlink.NTF_MASTER,
		HardwareAddr: []byte("\x02\x00\x00\x00\x00\x02")}))
	return bridge
}

// TestNAPI writes segments of one TCP connection to a TAP of a bridge, with and without IFF_NAPI. They come out as they were: a write is
// polled before it returns, so that GRO has but one at a time.
func TestNAPI(t *testing.T) {
	for _, flags := range []uint16{0, unix.IFF_NAPI, unix.IFF_NAPI | unix.IFF_NAPI_FRAGS} {
		t.Run(fmt.Sprintf("%#x", flags), func(t *testing.T) {
			newNamespace(t)
			bridge := newBridge(t)
			fd, dev := newTAP(t, "tap0", flags)
			must(t, netlink.LinkSetMaster(dev, bridge))
			guest, err := netlink.LinkByName("guest")
			must(t, err)
			in := packet(t, guest, true)
			sent := copies(headers + mss)
			for _, f := range sent {
				_, err := unix.Write(fd, f)
				must(t, err)
			}
			got := make([]byte, maxLen)
			for i, want := range sent {
				n, err := unix.Read(in, got)
				for err == nil && got[vnetLen]&1 != 0 { // the bridge's own multicast
					n, err = unix.Read(in, got)
				}
				must(t, err)
				if !bytes.Equal(got[:n], want) {
					t.Fatalf("frame %d: %d bytes % x, want % x", i, n, got[:min(n, vnetLen+headers)], want[:vnetLen+headers])
				}
			}
		})
	}
}
