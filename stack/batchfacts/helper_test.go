package batchfacts

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// queued is how many frames wait for whoever receives when a round begins, or how many a round sends.
const queued = 64

// The sizes of Ethernet frames. The last is a GSO frame of TCP over IPv4: 45 segments of 1448 bytes.
var sizes = []int{60, 1400, headers + 45*mss}

const (
	mss     = 1448
	headers = 14 + 20 + 20
	vnetLen = 10 // struct virtio_net_hdr, without num_buffers
	maxLen  = vnetLen + 14 + 65536
)

// rival is one way to do what its rivals do too. A round moves queued frames and says how long that took.
type rival struct {
	name  string
	round func() time.Duration
}

// compare runs the rivals in turn, round by round, so that what the machine does besides hits all alike. Each becomes a sub-benchmark
// under the name of the group, with its median time, and the median of its rounds' times divided by the first rival's.
func compare(b *testing.B, group string, size int, rivals ...rival) {
	b.Helper()
	const budget, atLeast = 2 * time.Second, 15
	times := make([][]float64, len(rivals))
	for i, start := 0, time.Now(); i < atLeast || time.Since(start) < budget; i++ {
		for j, r := range rivals {
			r.round() // the rival before has left its own in the caches
			times[j] = append(times[j], float64(r.round()))
		}
	}
	for j, r := range rivals {
		ratios := make([]float64, len(times[j]))
		for i, d := range times[j] {
			ratios[i] = d / times[0][i]
		}
		ns, ratio := median(times[j])/queued, median(ratios)
		b.Run(group+"/"+r.name, func(b *testing.B) {
			b.ReportMetric(0, "ns/op") // says nothing here
			b.ReportMetric(ns, "ns/frame")
			b.ReportMetric(1e9/ns, "frames/s")
			b.ReportMetric(float64(size)*1e3/ns, "MB/s")
			b.ReportMetric(ratio, "x-first")
		})
	}
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}

// perSize runs f for each size of frame, on one CPU and in a network namespace that goes when f's thread does.
func perSize(b *testing.B, f func(b *testing.B, size int)) {
	for _, size := range sizes {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			newNamespace(b)
			pin(b, 0)
			f(b, size)
		})
	}
}

// newNamespace puts the goroutine into a network namespace of its own. The result stands for it.
func newNamespace(b testing.TB) int {
	b.Helper()
	runtime.LockOSThread() // and never unlocked: the runtime ends the thread with the goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		b.Fatalf("making a network namespace (these benchmarks want root): %v", err)
	}
	for _, which := range []string{"all", "default"} { // no frames but ours
		must(b, os.WriteFile("/proc/sys/net/ipv6/conf/"+which+"/disable_ipv6", []byte("1"), 0o644))
	}
	ns, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	must(b, err)
	b.Cleanup(func() { unix.Close(ns) })
	return ns
}

// pin ties the thread to the n-th CPU that it may run on, modulo their number.
func pin(b testing.TB, n int) {
	b.Helper()
	n %= runtime.NumCPU()
	var all, one unix.CPUSet
	must(b, unix.SchedGetaffinity(os.Getpid(), &all))
	for i := range len(all) * 64 {
		if !all.IsSet(i) {
			continue
		}
		if n == 0 {
			one.Set(i)
			break
		}
		n--
	}
	must(b, unix.SchedSetaffinity(0, &one))
}

func pointer(b []byte) uintptr { return uintptr(unsafe.Pointer(&b[0])) }

func must(b testing.TB, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// veth makes the pair a and b, both up; nothing on b takes in what a sends, unless a socket does.
func veth(b testing.TB, name, peer string) (netlink.Link, netlink.Link) {
	b.Helper()
	must(b, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, NumTxQueues: 1, NumRxQueues: 1}, PeerName: peer}))
	up(b, name)
	up(b, peer)
	return running(b, name), running(b, peer)
}

// running waits until the kernel has noticed that the interface can send.
func running(b testing.TB, name string) netlink.Link {
	b.Helper()
	for {
		l, err := netlink.LinkByName(name)
		must(b, err)
		if l.Attrs().OperState == netlink.OperUp {
			return l
		}
	}
}

func up(b testing.TB, name string) netlink.Link {
	b.Helper()
	l, err := netlink.LinkByName(name)
	must(b, err)
	must(b, netlink.LinkSetUp(l))
	return l
}

// packet opens a packet socket with a virtio_net_hdr that sends on l, and receives where receive is set.
func packet(b testing.TB, l netlink.Link, receive bool, options ...int) int {
	b.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	must(b, err)
	b.Cleanup(func() { unix.Close(fd) })
	for _, o := range append(options, unix.PACKET_VNET_HDR, unix.PACKET_IGNORE_OUTGOING) {
		must(b, unix.SetsockoptInt(fd, unix.SOL_PACKET, o, 1))
	}
	for _, o := range []int{unix.SO_RCVBUFFORCE, unix.SO_SNDBUFFORCE} {
		must(b, unix.SetsockoptInt(fd, unix.SOL_SOCKET, o, 32<<20))
	}
	bind(b, fd, l, receive)
	return fd
}

func bind(b testing.TB, fd int, l netlink.Link, receive bool) {
	b.Helper()
	sa := &unix.SockaddrLinklayer{Ifindex: l.Attrs().Index}
	if receive {
		sa.Protocol = unix.ETH_P_ALL << 8 // in network byte order
	}
	must(b, unix.Bind(fd, sa))
}

// newTAP makes a TAP with a virtio_net_hdr, up. The descriptor does not block.
func newTAP(b testing.TB, name string, flags uint16) (int, netlink.Link) {
	b.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	must(b, err)
	b.Cleanup(func() { unix.Close(fd) })
	ifr, err := unix.NewIfreq(name)
	must(b, err)
	ifr.SetUint16(flags | unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	must(b, unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr))
	must(b, unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6))
	return fd, up(b, name)
}

// tcpFrame is a frame of TCP over IPv4 after its virtio_net_hdr, with the checksum left to the link and, where it is large, for GSO.
func tcpFrame(size int, seq uint32) []byte {
	b := make([]byte, vnetLen+size)
	b[0] = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM
	binary.NativeEndian.PutUint16(b[6:], 14+20)
	binary.NativeEndian.PutUint16(b[8:], 16)
	if size > headers+mss {
		b[1] = 1 // VIRTIO_NET_HDR_GSO_TCPV4
		binary.NativeEndian.PutUint16(b[2:], headers)
		binary.NativeEndian.PutUint16(b[4:], mss)
	}
	f := b[vnetLen:]
	copy(f, "\x02\x00\x00\x00\x00\x02\x02\x00\x00\x00\x00\x01\x08\x00")
	ip, tcp := f[14:34], f[34:54]
	copy(ip, []byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, unix.IPPROTO_TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2})
	binary.BigEndian.PutUint16(ip[2:], uint16(size-14))
	binary.BigEndian.PutUint16(ip[10:], ^onesSum(ip))
	copy(tcp, []byte{3, 232, 7, 208, 0, 0, 0, 0, 0, 0, 0, 1, 0x50, 0x10, 255, 255})
	binary.BigEndian.PutUint32(tcp[4:], seq)
	pseudo := binary.BigEndian.AppendUint16([]byte{10, 0, 0, 1, 10, 0, 0, 2, 0, unix.IPPROTO_TCP}, uint16(size-34))
	binary.BigEndian.PutUint16(tcp[16:], onesSum(pseudo))
	return b
}

func onesSum(b []byte) uint16 {
	var s uint32
	for i := 0; i < len(b); i += 2 {
		s += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for s>>16 != 0 {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// buffers are n buffers for a largest frame, touched.
func buffers(n int) [][]byte {
	bufs := make([][]byte, n)
	for i := range bufs {
		bufs[i] = make([]byte, maxLen)
		for j := 0; j < maxLen; j += 4096 {
			bufs[i][j] = 1
		}
	}
	return bufs
}

// copies are queued frames of that size, of one TCP connection, in buffers of their own.
func copies(size int) [][]byte {
	bufs := make([][]byte, queued)
	for i := range bufs {
		bufs[i] = tcpFrame(size, uint32(i*(size-headers)))
	}
	return bufs
}

// mmsgs are the arguments of recvmmsg(2) and sendmmsg(2).
type mmsgs struct {
	hdrs [queued]struct {
		unix.Msghdr
		n uint32
		_ [4]byte
	}
	iovs [queued]unix.Iovec
}

func newMmsgs(bufs [][]byte) *mmsgs {
	m := new(mmsgs)
	for i := range m.hdrs {
		m.hdrs[i].Iov = &m.iovs[i]
		m.hdrs[i].SetIovlen(1)
		if i < len(bufs) {
			m.set(i, bufs[i])
		}
	}
	return m
}

func (m *mmsgs) set(i int, b []byte) {
	m.iovs[i].Base = &b[0]
	m.iovs[i].SetLen(len(b))
}

// call does recvmmsg or sendmmsg with the messages from..to and says how many there were; -1 where that fails.
func (m *mmsgs) call(trap uintptr, fd, from, to int) int {
	n, _, e := unix.Syscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(&m.hdrs[from])), uintptr(to-from), unix.MSG_DONTWAIT, 0, 0)
	if e != 0 {
		return -1
	}
	return int(n)
}

func (m *mmsgs) recv(fd, from, to int) int { return m.call(unix.SYS_RECVMMSG, fd, from, to) }
func (m *mmsgs) send(fd, from, to int) int { return m.call(unix.SYS_SENDMMSG, fd, from, to) }

// sender is what sends queued frames to fd, or fewer.
func sender(b *testing.B, fd, size int) func(n int) {
	bufs := copies(size)
	m := newMmsgs(bufs)
	return func(n int) {
		for at := 0; at < n; {
			sent := m.send(fd, at, n)
			if sent < 0 {
				b.Fatal("the kernel takes no more frames")
			}
			at += sent
		}
	}
}
