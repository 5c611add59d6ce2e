package stack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"udrouter/policy"
)

// enterNS puts the test's thread into a network namespace of its own; the thread ends with the test.
func enterNS(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("making a network namespace (these tests need root): %v", err)
	}
}

func mustLink(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var (
	nearMAC = policy.MAC{2, 0, 0, 0, 0, 1}
	farMAC  = policy.MAC{2, 0, 0, 0, 0, 2}
)

// veth makes eth0 and its other end, far, both up and without IPv6 of their own.
func veth(t *testing.T) {
	t.Helper()
	check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0", HardwareAddr: nearMAC[:]}, PeerName: "far", PeerHardwareAddr: farMAC[:]}))
	for _, n := range []string{"eth0", "far"} {
		quiet(t, n)
		check(t, netlink.LinkSetUp(mustLink(t, n)))
	}
}

// quiet keeps the kernel from sending anything of its own on an interface.
func quiet(t *testing.T, name string) {
	t.Helper()
	check(t, os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0))
}

// packetSocket is the test's own end of an interface, with virtio_net_hdr or without.
func packetSocket(t *testing.T, name string, vnet bool) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
	check(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	if vnet {
		check(t, unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1))
	}
	check(t, unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1))
	check(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: mustLink(t, name).Attrs().Index}))
	check(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	return fd
}

func recv(t *testing.T, fd int) []byte {
	t.Helper()
	b := make([]byte, 70000)
	n, err := unix.Read(fd, b)
	check(t, err)
	return b[:n]
}

// udp4 is a frame with a UDP datagram of n bytes to 192.0.2.last.
func udp4(dst, src policy.MAC, last byte, n int) []byte {
	b := make([]byte, 14+20+8+n)
	copy(b, dst[:])
	copy(b[6:], src[:])
	binary.BigEndian.PutUint16(b[12:], policy.EtherIPv4)
	ip := b[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, policy.ProtoUDP
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:], []byte{198, 51, 100, 7, 192, 0, 2, last})
	ipv4Checksum(ip)
	binary.BigEndian.PutUint16(ip[24:], uint16(8+n))
	return b
}

var guests = Filter{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:3:2::/64")},
	Held: []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8:3:2:1::1")}, Own: []netip.Addr{netip.MustParseAddr("fe80::77")}}

func openUplink(t *testing.T) *Uplink {
	t.Helper()
	u, err := OpenUplink("eth0", guests, 1)
	check(t, err)
	t.Cleanup(func() { check(t, u.Close()) })
	return u
}

func read(t *testing.T, l Link) []*Frame {
	t.Helper()
	b := NewBatch(8)
	n, err := wait(l, b)
	check(t, err)
	return b[:n]
}

// wait waits for frames, as a worker does.
func wait(l Link, batch []*Frame) (int, error) {
	var p Poll
	for {
		n, err := l.Queues()[0].Receive(batch)
		if n > 0 || err != nil {
			return n, err
		}
		p.Wait(l.Queues()[:1], true)
	}
}

// The filter lets in what concerns the guests. Each frame is followed by one that passes, so that nothing has to be
// waited for to know that it did not.
func TestUplinkFilter(t *testing.T) {
	enterNS(t)
	veth(t)
	u := openUplink(t)
	far := packetSocket(t, "far", false)
	v6 := func(next, typ byte, dst string) []byte {
		b := make([]byte, 14+40+24)
		copy(b, nearMAC[:])
		copy(b[6:], farMAC[:])
		binary.BigEndian.PutUint16(b[12:], policy.EtherIPv6)
		b[14], b[20], b[21], b[54] = 0x60, next, 255, typ
		b[19] = 24
		copy(b[38:], netip.MustParseAddr(dst).AsSlice())
		return b
	}
	tagged := append(append(append([]byte{}, udp4(nearMAC, farMAC, 10, 1)[:12]...), 0x81, 0, 0, 5), udp4(nearMAC, farMAC, 10, 1)[12:]...)
	arp := BuildARP(1, policy.BroadcastMAC, farMAC, netip.MustParseAddr("10.0.0.1"), policy.MAC{}, netip.MustParseAddr("10.0.0.2")).Bytes()
	for _, c := range []struct {
		name string
		b    []byte
		pass bool
	}{
		{"guest", udp4(nearMAC, farMAC, 10, 1), true},
		{"held by the kernel", udp4(nearMAC, farMAC, 2, 1), false},
		{"last of the prefix", udp4(nearMAC, farMAC, 255, 1), true},
		{"elsewhere", func() []byte { b := udp4(nearMAC, farMAC, 10, 1); b[32] = 3; return b }(), false},
		{"tagged", tagged, true},
		{"ARP", arp, true},
		{"IPv6 guest", v6(17, 0, "2001:db8:3:2:ffff::1"), true},
		{"IPv6 held", v6(17, 0, "2001:db8:3:2:1::1"), false},
		{"IPv6 elsewhere", v6(17, 0, "2001:db8:3:3::1"), false},
		{"the router's link-local address", v6(58, 128, "fe80::77"), true},
		{"another link-local address", v6(58, 128, "fe80::78"), false},
		{"NS to a group", v6(58, 135, "ff02::1:ff00:1"), true},
		{"redirect", v6(58, 137, "2001:db8:3:2:1::1"), true},
		{"MLD", v6(58, 143, "ff02::16"), false},
		{"type 132", v6(58, 132, "ff02::2"), false},
		{"type 138", v6(58, 138, "ff02::2"), false},
		{"LLDP", append(append([]byte{1, 0x80, 0xc2, 0, 0, 0xe}, farMAC[:]...), 0x88, 0xcc, 0, 0), false},
	} {
		fence := udp4(nearMAC, farMAC, 99, 2)
		for _, b := range [][]byte{c.b, fence} {
			_, err := unix.Write(far, b)
			check(t, err)
		}
		var got [][]byte
		for len(got) == 0 || !bytes.Equal(got[len(got)-1], fence) {
			for _, f := range read(t, u) {
				got = append(got, bytes.Clone(f.Bytes()))
				if f.VLAN != (c.name == "tagged" && len(got) == 1) {
					t.Errorf("%s: VLAN is %v", c.name, f.VLAN)
				}
			}
		}
		if passed := len(got) == 2; passed != c.pass {
			t.Errorf("%s: passed %v, want %v", c.name, passed, c.pass)
		}
	}
}

// What the machine itself sends through the interface is not read, what the router writes is seen by the other end.
func TestUplinkWrite(t *testing.T) {
	enterNS(t)
	veth(t)
	u := openUplink(t)
	far := packetSocket(t, "far", false)
	own := packetSocket(t, "eth0", false)
	_, err := unix.Write(own, udp4(nearMAC, farMAC, 10, 1))
	check(t, err)
	recv(t, far)

	foreign, good := NewFrame(60), NewFrame(60)
	foreign.Set(udp4(farMAC, farMAC, 10, 5))
	good.Set(udp4(farMAC, nearMAC, 10, 6))
	u.Write([]*Frame{foreign, good})
	if got := recv(t, far); !bytes.Equal(got, udp4(farMAC, nearMAC, 10, 6)) {
		t.Errorf("got %x", got)
	}
	if u.Foreign.Load() != 1 || u.Drops[policy.ForeignMAC].Load() != 1 || u.TxPackets.Load() != 1 {
		t.Errorf("foreign %d, sent %d", u.Foreign.Load(), u.TxPackets.Load())
	}
	_, err = unix.Write(far, udp4(nearMAC, farMAC, 10, 7))
	check(t, err)
	if got := read(t, u); len(got) != 1 || !bytes.Equal(got[0].Bytes(), udp4(nearMAC, farMAC, 10, 7)) {
		t.Errorf("read %d frames, the machine's own among them", len(got))
	}
}

// More than one batch in one Write, each frame once and in order.
func TestUplinkBatch(t *testing.T) {
	enterNS(t)
	veth(t)
	u := openUplink(t)
	far := packetSocket(t, "far", false)
	var batch []*Frame
	for i := range 3*batchLen + 5 {
		f := NewFrame(100)
		f.Set(udp4(farMAC, nearMAC, byte(i), 20))
		batch = append(batch, f)
	}
	u.Write(batch)
	for i := range batch {
		if got := recv(t, far); got[33] != byte(i) {
			t.Fatalf("frame %d is number %d", i, got[33])
		}
	}
}

func TestUplinkDownAndUp(t *testing.T) {
	enterNS(t)
	veth(t)
	u := openUplink(t)
	check(t, netlink.LinkSetDown(mustLink(t, "eth0")))
	f := NewFrame(60)
	f.Set(udp4(farMAC, nearMAC, 10, 6))
	u.Write([]*Frame{f, f, f})
	if n := u.Drops[policy.LinkDown].Load(); n != 3 {
		t.Errorf("%d of 3 frames counted as link-down: %v", n, u.Errors.Load())
	}
	check(t, netlink.LinkSetUp(mustLink(t, "eth0")))
	far := packetSocket(t, "far", false)
	_, err := unix.Write(far, udp4(nearMAC, farMAC, 10, 7))
	check(t, err)
	if got := read(t, u); len(got) != 1 {
		t.Errorf("read %d frames after the flap", len(got))
	}
	u.Write([]*Frame{f})
	recv(t, far)
}

func TestUplinkDeletedAndMadeAgain(t *testing.T) {
	enterNS(t)
	veth(t)
	u := openUplink(t)
	check(t, netlink.LinkDel(mustLink(t, "eth0")))
	f := NewFrame(60)
	f.Set(udp4(farMAC, nearMAC, 10, 6))
	u.Write([]*Frame{f})
	if u.Drops[policy.LinkDown].Load() != 1 {
		t.Errorf("drops %v", u.Drops[policy.LinkDown].Load())
	}
	nearMAC2 := policy.MAC{2, 0, 0, 0, 0, 3}
	check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0", HardwareAddr: nearMAC2[:]}, PeerName: "far", PeerHardwareAddr: farMAC[:]}))
	for _, n := range []string{"eth0", "far"} {
		quiet(t, n)
		check(t, netlink.LinkSetUp(mustLink(t, n)))
	}
	u.Rebind()
	// The reader binds when it comes round, and waits for a frame, which only a bound socket gets: so it has to be
	// bound first, by what the reader calls.
	if !u.rebind() {
		t.Fatal("binding again failed")
	}
	far := packetSocket(t, "far", false)
	_, err := unix.Write(far, udp4(policy.MulticastMAC(netip.MustParseAddr("ff02::1:ff00:10")), farMAC, 10, 7))
	check(t, err)
	if got := read(t, u); len(got) != 1 {
		t.Errorf("read %d frames", len(got))
	}
	f.SetEthernet(farMAC, nearMAC2, policy.EtherIPv4)
	u.Write([]*Frame{f})
	recv(t, far)
}

// A link whose queue is full loses what it does not take, counts it, and takes what comes later. A qdisc that lets nothing through makes
// the kernel say ENOBUFS; a full send buffer, EAGAIN.
func TestUplinkQueueFull(t *testing.T) {
	for name, c := range map[string]struct{ limit, sndbuf int }{"ENOBUFS": {3000, 0}, "EAGAIN": {1 << 20, 4096}} {
		t.Run(name, func(t *testing.T) {
			enterNS(t)
			veth(t)
			u := openUplink(t)
			if c.sndbuf != 0 {
				check(t, unix.SetsockoptInt(u.queues[0].fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, c.sndbuf))
			}
			far := packetSocket(t, "far", false)
			slow := &netlink.Tbf{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: mustLink(t, "eth0").Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
				Rate: 1000, Buffer: netlink.Xmittime(1000, 2000), Limit: uint32(c.limit)}
			check(t, netlink.QdiscAdd(slow))
			const frames = 200
			batch := NewBatch(frames)
			for i, f := range batch {
				f.Set(udp4(farMAC, nearMAC, byte(i), 1000))
			}
			u.Write(batch)
			sent, lost := u.TxPackets.Load(), u.Drops[policy.QueueFull].Load()
			if sent == 0 || lost == 0 || sent+lost != frames || u.Errors.Load() == 0 {
				t.Errorf("of %d frames %d were sent and %d counted as queue-full, with %d errors", frames, sent, lost, u.Errors.Load())
			}
			check(t, netlink.QdiscDel(slow))
			batch[0].Set(udp4(farMAC, nearMAC, 250, 6))
			u.Write(batch[:1])
			for got := recv(t, far); got[33] != 250; got = recv(t, far) {
			}
		})
	}
}

func TestDropReasons(t *testing.T) {
	for err, want := range map[error]policy.Reason{
		unix.EAGAIN: policy.QueueFull, unix.ENOBUFS: policy.QueueFull, unix.ENOMEM: policy.QueueFull, unix.EMSGSIZE: policy.TooBig, unix.EINVAL: policy.Malformed,
		unix.ENETDOWN: policy.LinkDown, unix.EIO: policy.LinkDown, unix.ENXIO: policy.LinkDown, unix.ENODEV: policy.LinkDown, unix.EBADFD: policy.LinkDown,
	} {
		if got := dropReason(err); got != want {
			t.Errorf("%v is counted as %v, want %v", err, got, want)
		}
	}
}

// tapUplink makes eth0 a TAP, and returns its far end: what is written there may have any metadata.
func tapUplink(t *testing.T) int {
	t.Helper()
	check(t, netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, Mode: netlink.TUNTAP_MODE_TAP}))
	fd, err := attach("eth0", false)
	check(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	quiet(t, "eth0")
	link := mustLink(t, "eth0")
	check(t, netlink.LinkSetHardwareAddr(link, nearMAC[:]))
	check(t, netlink.LinkSetUp(link))
	return fd
}

// A super-packet of a kind that no virtio_net_hdr expresses costs itself, is counted, and what follows is read. UFO is one: it may
// be written to a TAP, and not be read by an AF_PACKET socket.
func TestUplinkInexpressibleGSO(t *testing.T) {
	enterNS(t)
	fd := tapUplink(t)
	u := openUplink(t)
	f := NewFrame(4000)
	f.Set(udp4(nearMAC, farMAC, 10, 3000))
	f.Offload = policy.Offload{Flags: policy.NeedsCsum, GSOType: policy.GSOUDP, HdrLen: 42, GSOSize: 1000, CsumStart: 34, CsumOffset: 6}
	_, err := unix.Write(fd, f.transmit(ethStart))
	check(t, err)
	f.Set(udp4(nearMAC, farMAC, 10, 7))
	_, err = unix.Write(fd, f.transmit(ethStart))
	check(t, err)
	if got := read(t, u); len(got) != 1 || len(got[0].Bytes()) != 14+20+8+7 {
		t.Errorf("read %d frames", len(got))
	}
	if u.Errors.Load() != 1 || u.Drops[policy.Malformed].Load() != 1 {
		t.Errorf("%d errors, %d drops", u.Errors.Load(), u.Drops[policy.Malformed].Load())
	}
}

// Nothing is written after Close: the descriptor's number may be another's by then.
func TestUplinkWriteAfterClose(t *testing.T) {
	enterNS(t)
	veth(t)
	u, err := OpenUplink("eth0", guests, 1)
	check(t, err)
	check(t, u.Close())
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0)
	check(t, err)
	f := NewFrame(60)
	f.Set(udp4(farMAC, nearMAC, 10, 6))
	u.Write([]*Frame{f})
	if err := u.SetFilter(guests); !errors.Is(err, ErrClosed) {
		t.Errorf("setting the filter after Close: %v", err)
	}
	for _, fd := range pair {
		if n, err := unix.Read(fd, make([]byte, 100)); err != unix.EAGAIN {
			t.Errorf("somebody else's socket got %d bytes, %v", n, err)
		}
		unix.Close(fd)
	}
	if u.Drops[policy.LinkDown].Load() != 1 {
		t.Error("the frame was not counted")
	}
}

func TestUplinkMissing(t *testing.T) {
	enterNS(t)
	if _, err := OpenUplink("eth9", guests, 1); err == nil {
		t.Error("a missing interface was opened")
	}
	var missing *MissingUplinkError
	if _, err := ReadKernel("eth9"); !errors.As(err, &missing) {
		t.Errorf("got %v", err)
	}
}

// A GSO frame and a partial checksum go through TAP and uplink as they came: what one end sends is what the other gets.
func TestGSOStaysWhole(t *testing.T) {
	enterNS(t)
	veth(t)
	u := openUplink(t)
	tap, err := OpenTAP("udr0", 1500, 1)
	check(t, err)
	defer tap.Close()
	quiet(t, "udr0")
	check(t, netlink.LinkSetUp(mustLink(t, "udr0")))
	near := packetSocket(t, "udr0", true)
	far := packetSocket(t, "far", true)
	payload := bytes.Repeat([]byte("0123456789abcdef"), 2000)
	b := udp4(farMAC, nearMAC, 10, 12+len(payload))
	ip := b[14:]
	ip[9] = policy.ProtoTCP
	ipv4Checksum(ip)
	tcp := ip[20:]
	clear(tcp[:20])
	tcp[12], tcp[13] = 0x50, 0x18
	copy(tcp[20:], payload)
	sum := policy.PseudoSum(netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("192.0.2.10"), 6, len(tcp))
	binary.BigEndian.PutUint16(tcp[16:], policy.FoldChecksum(sum))
	h := make([]byte, vnetLen)
	h[0], h[1] = policy.NeedsCsum, policy.GSOTCPv4
	binary.NativeEndian.PutUint16(h[2:], 54)
	binary.NativeEndian.PutUint16(h[4:], 1448)
	binary.NativeEndian.PutUint16(h[6:], 34)
	binary.NativeEndian.PutUint16(h[8:], 16)
	sent := append(h, b...)
	_, err = unix.Write(near, sent)
	check(t, err)
	frames := read(t, tap)
	if len(frames) != 1 || !bytes.Equal(frames[0].Bytes(), b) {
		t.Fatalf("read %d frames", len(frames))
	}
	var p policy.Packet
	if r := p.Parse(frames[0].Bytes(), frames[0].Offload); r != policy.None || p.SegmentLen() != 1488 {
		t.Fatalf("parsed as %v, segments of %d bytes; %+v", r, p.SegmentLen(), frames[0].Offload)
	}
	u.Write(frames)
	if got := recv(t, far); !bytes.Equal(got[vnetLen:], b) || got[1] != policy.GSOTCPv4 || binary.NativeEndian.Uint16(got[4:]) != 1448 || got[0]&policy.NeedsCsum == 0 {
		t.Errorf("the far end got %d bytes, header %x", len(got), got[:vnetLen])
	}
}

// sameNS runs f on another thread of the test's namespace.
func sameNS(t *testing.T, f func()) {
	t.Helper()
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	check(t, err)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		f()
	}()
}

func TestTAPDownDeletedAndMadeAgain(t *testing.T) {
	enterNS(t)
	tap, err := OpenTAP("udr0", 1400, 1)
	check(t, err)
	quiet(t, "udr0")
	f := NewFrame(60)
	f.Set(udp4(farMAC, nearMAC, 10, 6))
	tap.Write([]*Frame{f})
	if tap.Drops[policy.LinkDown].Load() != 1 {
		t.Error("a write to a TAP that is down was not counted")
	}
	first := mustLink(t, "udr0").Attrs()
	if first.MTU != 1400 || first.TxQLen < 1000 || first.Alias != deviceAlias {
		t.Errorf("MTU %d, queue %d, alias %q", first.MTU, first.TxQLen, first.Alias)
	}
	events, done := make(chan netlink.LinkUpdate, 100), make(chan struct{})
	defer close(done)
	check(t, netlink.LinkSubscribe(events, done))
	check(t, netlink.LinkDel(mustLink(t, "udr0")))
	got := make(chan int, 1)
	sameNS(t, func() {
		for { // quiet multicast of the kernel's own may come first
			b := NewBatch(1)
			n, err := wait(tap, b)
			if err != nil || n == 1 && bytes.Equal(b[0].Bytes(), udp4(farMAC, nearMAC, 10, 9)) {
				got <- n
				return
			}
		}
	})
	for e := range events { // the device is ours again when its alias is set
		if a := e.Link.Attrs(); a.Name == "udr0" && a.Index != first.Index && a.Alias == deviceAlias && a.MTU == 1400 {
			break
		}
	}
	quiet(t, "udr0")
	check(t, netlink.LinkSetUp(mustLink(t, "udr0")))
	near := packetSocket(t, "udr0", false)
	_, err = unix.Write(near, udp4(farMAC, nearMAC, 10, 9))
	check(t, err)
	if n := <-got; n != 1 || tap.Reopened.Load() != 1 {
		t.Errorf("read %d frames, reopened %d times", n, tap.Reopened.Load())
	}
	check(t, tap.Close())
	if _, err := wait(tap, NewBatch(1)); !errors.Is(err, ErrClosed) {
		t.Errorf("reading after Close: %v", err)
	}
	if err := tap.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	if _, err := netlink.LinkByName("udr0"); err == nil {
		t.Error("the TAP that the router made is still there")
	}
}

// Close ends a Read that waits.
func TestCloseEndsRead(t *testing.T) {
	enterNS(t)
	tap, err := OpenTAP("udr0", 0, 1)
	check(t, err)
	ended := make(chan error, 1)
	sameNS(t, func() {
		_, err := wait(tap, NewBatch(1))
		ended <- err
	})
	check(t, tap.Close())
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// A device that was there before stays, and one queue more than one router is refused with a remedy.
func TestTAPKept(t *testing.T) {
	enterNS(t)
	check(t, netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "udr0"}, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI}))
	tap, err := OpenTAP("udr0", 0, 1)
	check(t, err)
	if _, err := OpenTAP("udr0", 0, 1); err == nil {
		t.Error("a second router attached to a single-queue TAP")
	}
	if _, err := OpenTUN("udr0", 0, 1); err == nil {
		t.Error("a TAP was opened as a TUN")
	}
	check(t, tap.Close())
	mustLink(t, "udr0")
	check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "far"}))
	if _, err := OpenTAP("eth0", 0, 1); err == nil {
		t.Error("a veth was opened as a TAP")
	}
}

// A TUN has no Ethernet header; frames have one all the same, and offsets count from it.
func TestTUN(t *testing.T) {
	enterNS(t)
	tun, err := OpenTUN("udrhost", 1500, 1)
	check(t, err)
	defer tun.Close()
	quiet(t, "udrhost")
	check(t, netlink.LinkSetUp(mustLink(t, "udrhost")))
	check(t, netlink.AddrAdd(mustLink(t, "udrhost"), &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 1, 3), Mask: net.CIDRMask(32, 32)}}))
	check(t, netlink.RouteAdd(&netlink.Route{LinkIndex: mustLink(t, "udrhost").Attrs().Index, Dst: &net.IPNet{IP: net.IPv4(192, 0, 2, 0), Mask: net.CIDRMask(24, 32)}, Scope: netlink.SCOPE_LINK}))
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	defer unix.Close(s)
	check(t, unix.Bind(s, &unix.SockaddrInet4{Addr: [4]byte{192, 0, 1, 3}, Port: 4000}))
	check(t, unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	check(t, unix.Sendto(s, []byte("ping"), 0, &unix.SockaddrInet4{Addr: [4]byte{192, 0, 2, 10}, Port: 5000}))
	frames := read(t, tun)
	var p policy.Packet
	if r := p.Parse(frames[0].Bytes(), frames[0].Offload); r != policy.None || p.DstPort != 5000 || p.Dst.String() != "192.0.2.10" || p.L3Len() != 32 {
		t.Fatalf("parsed as %v: %+v", r, p)
	}
	if p.Flags&policy.NeedsCsum != 0 && int(p.CsumStart) != p.L4 {
		t.Errorf("checksum starts at %d, transport header at %d", p.CsumStart, p.L4)
	}
	// Back with addresses and ports exchanged; the checksum stays right, as its sum does.
	CompleteChecksum(frames[0])
	ip := frames[0].Bytes()[14:]
	swap(ip[12:16], ip[16:20])
	swap(ip[20:22], ip[22:24])
	tun.Write(frames[:1])
	b := make([]byte, 100)
	n, _, err := unix.Recvfrom(s, b, 0)
	check(t, err)
	if string(b[:n]) != "ping" {
		t.Errorf("got %q", b[:n])
	}
}

func swap(a, b []byte) {
	for i := range a {
		a[i], b[i] = b[i], a[i]
	}
}
