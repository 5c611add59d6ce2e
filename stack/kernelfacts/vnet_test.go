package kernelfacts

import (
	"bytes"
	"encoding/binary"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var ipA, ipB = [4]byte{192, 0, 2, 1}, [4]byte{192, 0, 2, 2}

// sender is a UDP socket of the kernel's whose datagrams leave by l in frames to mac.
func sender(t *testing.T, l netlink.Link, mac []byte) int {
	t.Helper()
	address(t, l, "192.0.2.1/24")
	static(t, l, ipB, mac)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	must(t, unix.Connect(fd, &unix.SockaddrInet4{Port: 2000, Addr: ipB}))
	return fd
}

// vnetHeader: PACKET_VNET_HDR puts 10 bytes before the frame, both ways.
func vnetHeader(t *testing.T) {
	newNamespace(t)
	a, b := veth(t, "a", "b")
	plain, with, peer := tap(t, a, unix.ETH_P_ALL), tap(t, a, unix.ETH_P_ALL, unix.PACKET_VNET_HDR), tap(t, b, unix.ETH_P_ALL, unix.PACKET_IGNORE_OUTGOING)
	sent := frame(mac1, mac2, typeA, 1, 2, 3)
	peer.send(t, sent)
	if got := plain.next(t); !bytes.Equal(got, sent) {
		t.Errorf("plain: %x", got)
	}
	if got := with.next(t); !bytes.Equal(got, vnet{}.before(sent)) {
		t.Errorf("with header: %x", got)
	}
	with.send(t, vnet{}.before(sent))
	if got := peer.next(t); !bytes.Equal(got, sent) {
		t.Errorf("sent with header: %x", got)
	}
	if _, err := unix.Write(int(with), vnet{}.before(nil)); err == nil {
		t.Error("a header alone can be sent")
	}
	if n, err := unix.GetsockoptInt(int(with), unix.SOL_PACKET, unix.PACKET_VNET_HDR); err != nil || n != 1 {
		t.Errorf("PACKET_VNET_HDR is %d, %v", n, err)
	}
}

// partialChecksums: what the kernel (or a virtual machine) sends over a veth has only the pseudo header's sum; the vnet header alone tells, and
// a socket without one has a broken packet.
func partialChecksums(t *testing.T) {
	newNamespace(t)
	a, b := veth(t, "a", "b")
	plain, with := tap(t, b, unix.ETH_P_ALL), tap(t, b, unix.ETH_P_ALL, unix.PACKET_VNET_HDR)
	s := sender(t, a, b.Attrs().HardwareAddr)
	_, err := unix.Write(s, []byte("payload"))
	must(t, err)
	got := plain.next(t)
	l4 := got[34 : 34+8+7]
	if sum := binary.BigEndian.Uint16(l4[6:]); sum != pseudoSum(ipA, ipB, unix.IPPROTO_UDP, len(l4)) || complete(got) {
		t.Errorf("plain: %x", got)
	}
	v := with.next(t)
	if h := parseVnet(v); h != (vnet{flags: needsCsum, csumStart: 34, csumOffset: 6}) || !bytes.Equal(v[vnetLen:], got) {
		t.Errorf("with header: %x", v)
	}

	// TCP alike: its SYN.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 2000, Addr: ipB}); err != unix.EINPROGRESS {
		t.Fatal(err)
	}
	if got := plain.next(t); got[23] != unix.IPPROTO_TCP || complete(got) {
		t.Errorf("SYN, plain: %x", got)
	}
	if h := parseVnet(with.next(t)); h != (vnet{flags: needsCsum, csumStart: 34, csumOffset: 16}) {
		t.Errorf("SYN, with header: %+v", h)
	}
}

// gsoWhole: a super-packet comes whole, longer than the MTU; without the header nothing says what it is made of.
func gsoWhole(t *testing.T) {
	newNamespace(t)
	a, b := veth(t, "a", "b")
	plain, with := tap(t, b, unix.ETH_P_ALL), tap(t, b, unix.ETH_P_ALL, unix.PACKET_VNET_HDR)
	s := sender(t, a, b.Attrs().HardwareAddr)
	must(t, unix.SetsockoptInt(s, unix.SOL_UDP, unix.UDP_SEGMENT, 1000))
	_, err := unix.Write(s, make([]byte, 30_000))
	must(t, err)
	if got := plain.next(t); len(got) != 42+30_000 {
		t.Errorf("plain: %d bytes", len(got))
	}
	v := with.next(t)
	if h := parseVnet(v); len(v) != vnetLen+42+30_000 || h.gsoType != gsoUDPL4 || h.gsoSize != 1000 || h.flags != needsCsum || h.csumStart != 34 {
		t.Errorf("with header: %d bytes, %+v", len(v), h)
	}
}

// inexpressibleGSO: a GSO type that the vnet header has no number for costs that packet, and EINVAL, once. The TAP lets one in: UFO, which
// may be written with VIRTIO_NET_HDR_GSO_UDP and not be read any more.
func inexpressibleGSO(t *testing.T) {
	newNamespace(t)
	dev, l := newTAP(t, "tap", unix.IFF_VNET_HDR)
	plain, with := tap(t, l, unix.ETH_P_ALL), tap(t, l, unix.ETH_P_ALL, unix.PACKET_VNET_HDR)
	ufo := vnet{flags: needsCsum, gsoType: gsoUDP, hdrLen: 42, gsoSize: 1000, csumStart: 34, csumOffset: 6}
	big := frame(mac1, mac2, unix.ETH_P_IP, udp4(ipB, ipA, make([]byte, 3000))...)
	dev.send(t, vnet{}.before(frame(mac1, mac2, typeA)))
	dev.send(t, ufo.before(big))
	dev.send(t, vnet{}.before(frame(mac1, mac2, typeB)))

	plain.want(t, "plain", typeA, unix.ETH_P_IP, typeB)
	buf := make([]byte, 70_000)
	for i, want := range []error{nil, unix.EINVAL, nil} {
		n, err := unix.Read(int(with), buf)
		if err != want && (err != nil || want != nil) {
			t.Errorf("read %d: %v, want %v", i, err, want)
		}
		if typ := []int{typeA, 0, typeB}[i]; err == nil && etherType(buf[vnetLen:n]) != typ {
			t.Errorf("read %d: %x", i, buf[:n])
		}
	}
	if n, err := unix.GetsockoptInt(int(with), unix.SOL_SOCKET, unix.SO_ERROR); err != nil || n != 0 {
		t.Errorf("the socket has error %d, %v", n, err)
	}
	with.empty(t, "with header")
}

// qdiscBypass: a GSO frame that the link cannot segment is dropped with PACKET_QDISC_BYPASS, and segmented without.
func qdiscBypass(t *testing.T) {
	newNamespace(t)
	a, b := veth(t, "a", "b")
	bypass, queued := tap(t, a, 0, unix.PACKET_VNET_HDR, unix.PACKET_QDISC_BYPASS), tap(t, a, 0, unix.PACKET_VNET_HDR)
	peer := tap(t, b, unix.ETH_P_ALL, unix.PACKET_VNET_HDR)
	tcp := make([]byte, 20+3000)
	tcp[12] = 5 << 4
	binary.BigEndian.PutUint16(tcp[16:], pseudoSum(ipA, ipB, unix.IPPROTO_TCP, len(tcp)))
	tso := vnet{flags: needsCsum, gsoType: gsoTCPv4, hdrLen: 54, gsoSize: 1000, csumStart: 34, csumOffset: 16}
	big := tso.before(frame(mac2, mac1, unix.ETH_P_IP, ip4(ipA, ipB, unix.IPPROTO_TCP, tcp)...))

	for _, s := range []port{bypass, queued} { // a veth does TSO
		s.send(t, big)
		if got := peer.next(t); len(got) != len(big) {
			t.Errorf("%d bytes, want %d", len(got), len(big))
		}
	}
	tsoOff(t, "a")
	if _, err := unix.Write(int(bypass), big); err != unix.ENOBUFS {
		t.Errorf("bypass: %v, want ENOBUFS", err)
	}
	queued.send(t, big)
	for range 3 {
		if got := peer.next(t); len(got) != vnetLen+54+1000 || parseVnet(got).gsoType != 0 {
			t.Errorf("segment: %d bytes", len(got))
		}
	}
	peer.empty(t, "peer")
}

// tsoOff is ethtool -K name tso off.
func tsoOff(t *testing.T, name string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fd)
	value := struct{ cmd, data uint32 }{unix.ETHTOOL_STSO, 0}
	var ifr struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(ifr.name[:], name)
	ifr.data = unsafe.Pointer(&value)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr))); errno != 0 {
		t.Fatalf("switching TSO off: %v", errno)
	}
}
