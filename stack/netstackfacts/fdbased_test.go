package netstackfacts

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"
	"gvisor.dev/gvisor/pkg/tcpip/link/xdp"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// newNamespace puts the test's goroutine into a network namespace of its own, which goes when the goroutine's thread does.
func newNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the runtime ends the thread with the goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("making a network namespace (these tests want root): %v", err)
	}
	for _, which := range []string{"all", "default"} { // no frames but ours
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+which+"/disable_ipv6", []byte("1"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// newVeth makes the pair a and b, both up, and returns their indexes.
func newVeth(t *testing.T) (a, b netlink.Link) {
	t.Helper()
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "a"}, PeerName: "b"}); err != nil {
		t.Fatal(err)
	}
	return setUp(t, "a"), setUp(t, "b")
}

func setUp(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil {
		t.Fatalf("setting %s up: %v", name, err)
	}
	return l
}

// newTAP makes the TAP "tap" with these flags, up.
func newTAP(t *testing.T, flags uint16) (fd int, l netlink.Link) {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("opening /dev/net/tun: %v", err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	ifr, _ := unix.NewIfreq("tap")
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		t.Fatalf("making a TAP: %v", err)
	}
	return fd, setUp(t, "tap")
}

// packetSocket is bound to l; what is written goes past the qdisc, which a link that has just got its carrier back may not have yet.
func packetSocket(t *testing.T, l netlink.Link) int {
	t.Helper()
	all := int(unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(all), Ifindex: l.Attrs().Index}); err != nil {
		t.Fatal(err)
	}
	return fd
}

func write(t *testing.T, fd int, b []byte) {
	t.Helper()
	if _, err := unix.Write(fd, b); err != nil {
		t.Fatal(err)
	}
}

// readable reads from fd until a frame ends with tail.
func readable(t *testing.T, fd int, tail []byte) {
	t.Helper()
	b := make([]byte, 65536)
	for {
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1); err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
		n, err := unix.Read(fd, b)
		if err != nil && err != unix.EAGAIN && err != unix.EINTR && err != unix.ENETDOWN { // the flap's error may be pending still
			t.Fatal(err)
		}
		if n > 0 && bytes.HasSuffix(b[:n], tail) {
			return
		}
	}
}

// ether makes an IPv4 frame with the payload; no one looks into it.
func ether(to tcpip.LinkAddress, payload string) []byte {
	return append([]byte(to+macD1+"\x08\x00"), payload...)
}

// reader is an fdbased endpoint whose frames and whose end can be seen.
type reader struct {
	stack.LinkEndpoint
	got    chan *stack.PacketBuffer
	closed chan tcpip.Error
}

func newReader(t *testing.T, fd int, gsoMaxSize uint32) reader {
	t.Helper()
	r := reader{got: make(chan *stack.PacketBuffer, 10), closed: make(chan tcpip.Error, 1)}
	ep, err := fdbased.New(&fdbased.Options{
		FDs: []int{fd}, MTU: 1500, EthernetHeader: true, Address: macLan, GSOMaxSize: gsoMaxSize, ProcessorsPerChannel: 1,
		ClosedFunc: func(err tcpip.Error) { r.closed <- err },
	})
	if err != nil {
		t.Fatal(err)
	}
	r.LinkEndpoint = ep
	ep.Attach(r)
	t.Cleanup(func() { ep.Attach(nil) })
	return r
}

func (r reader) DeliverNetworkPacket(_ tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	r.got <- pkt.IncRef()
}
func (reader) DeliverLinkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer) {}

// fdbasedDiesAtForeignUnicast: packet_dispatchers.go:204 ends the loop. With recvmmsg and PACKET_MMAP it does not, but a TAP is no socket.
func fdbasedDiesAtForeignUnicast(t *testing.T) {
	newNamespace(t)
	fd, l := newTAP(t, 0)
	kernel := packetSocket(t, l)
	r := newReader(t, fd, 0)
	write(t, kernel, ether(macLan, "first"))
	write(t, kernel, ether(ethBC, "second"))
	for _, want := range []string{"first", "second"} {
		pkt := <-r.got
		if got := pkt.Data().AsRange().ToSlice(); string(got) != want {
			t.Errorf("delivered %q, want %q", got, want)
		}
		pkt.DecRef()
	}
	write(t, kernel, ether(macD2, "to another MAC"))
	if err := <-r.closed; err != nil {
		t.Errorf("closed with %v, want no error even", err)
	}
	write(t, kernel, ether(macLan, "nobody reads this"))
	readable(t, fd, []byte("nobody reads this"))
}

// fdbasedDiscardsVnetHeader: packet_dispatchers.go:76. On a TAP with IFF_VNET_HDR it is worse: not a socket, so the header is taken for the
// frame's beginning, and the first frame ends the loop.
func fdbasedDiscardsVnetHeader(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(pair[0]); unix.Close(pair[1]) })
	const needsCsum, gsoTCPv4 = 1, 1
	vnet := []byte{needsCsum, gsoTCPv4, 54, 0, 0xa8, 0x05, 34, 0, 16, 0} // hdr_len 54, gso_size 1448, csum_start 34, csum_offset 16
	r := newReader(t, pair[0], 65536)
	write(t, pair[1], append(vnet, ether(macLan, "payload")...))
	pkt := <-r.got
	if got := pkt.Data().AsRange().ToSlice(); string(got) != "payload" || pkt.GSOOptions != (stack.GSO{}) || pkt.RXChecksumValidated {
		t.Errorf("delivered %q with %+v, checksum validated %t", got, pkt.GSOOptions, pkt.RXChecksumValidated)
	}
	pkt.DecRef()

	newNamespace(t)
	fd, l := newTAP(t, unix.IFF_VNET_HDR)
	r = newReader(t, fd, 65536)
	write(t, packetSocket(t, l), ether(macLan, "to us"))
	if err := <-r.closed; err != nil {
		t.Errorf("closed with %v", err)
	}
}

// fdbasedDiesAtFlap: dispatchLoop returns (endpoint.go:889) at the first error.
// Differs in a detail: mostly the error is not ENETDOWN from readv but POLLERR, which poll's wrapper takes for ECONNRESET.
func fdbasedDiesAtFlap(t *testing.T) {
	newNamespace(t)
	a, b := newVeth(t)
	fd, peer := packetSocket(t, a), packetSocket(t, b)
	r := newReader(t, fd, 0)
	write(t, peer, ether(macLan, "first"))
	(<-r.got).DecRef()
	if err := netlink.LinkSetDown(a); err != nil {
		t.Fatal(err)
	}
	if err := <-r.closed; err == nil {
		t.Error("closed without an error")
	}
	setUp(t, "a")
	write(t, peer, ether(macLan, "nobody reads this"))
	readable(t, fd, []byte("nobody reads this"))
}

// uplinkDownKills: writing to an AF_PACKET socket whose link is down gives ENETDOWN; recovered where a test delivers the packet, and
// deadly where a link's goroutine does.
func uplinkDownKills(t *testing.T) {
	for errno, panics := range map[unix.Errno]bool{
		unix.ENETDOWN: true, unix.EAGAIN: true, unix.ENXIO: true, unix.ENODEV: true, unix.EIO: true, unix.EPERM: true,
		unix.ENOBUFS: false, unix.EMSGSIZE: false, unix.EPIPE: false,
	} {
		r := newRouter(t, conf{})
		r.up.fail = tcpip.TranslateErrno(errno)
		if text := panicOf(func() { r.lan.in(ip4(d1, x, protoUDP, datagram(d1, x, nil))) }); (text != "") != panics {
			t.Errorf("%v: panic = %q, want one: %t", errno, text, panics)
		}
	}

	newNamespace(t)
	a, _ := newVeth(t)
	fd := packetSocket(t, a)
	up, err := fdbased.New(&fdbased.Options{FDs: []int{fd}, MTU: 1500, EthernetHeader: true, Address: macUp})
	if err != nil {
		t.Fatal(err)
	}
	r := newRouter(t, conf{upEP: up})
	packet := ip4(d1, x, protoUDP, datagram(d1, x, nil))
	r.lan.in(packet)
	if err := netlink.LinkSetDown(a); err != nil {
		t.Fatal(err)
	}
	const text = "unrecognized tcpip forwarding error: endpoint is in invalid state"
	const child = "NETSTACKFACTS_CHILD"
	if os.Getenv(child) != "" {
		go r.lan.in(packet)
		select {} // until the process dies of it
	}
	if got := panicOf(func() { r.lan.in(packet) }); got != text {
		t.Errorf("panic = %q", got)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFacts$/^F01_")
	cmd.Env = append(os.Environ(), child+"=1")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "panic: "+text) {
		t.Errorf("the child lives on, %v: %s", err, out)
	}
}

// afXDP: MTU 1500 whatever the link's, one queue a socket (Options.QueueID), and no GSO.
func afXDP(t *testing.T) {
	newNamespace(t)
	a, _ := newVeth(t)
	if err := netlink.LinkSetMTU(a, 3000); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	ep, err := xdp.New(&xdp.Options{FD: fd, Address: macUp, InterfaceIndex: a.Attrs().Index, Bind: true, QueueID: 0})
	if err != nil {
		t.Fatal(err)
	}
	ep.SetMTU(9000)
	if ep.MTU() != 1500 {
		t.Errorf("MTU %d", ep.MTU())
	}
	if _, ok := ep.(stack.GSOEndpoint); ok {
		t.Error("it knows GSO")
	}
}
