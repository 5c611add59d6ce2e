package kernelfacts

import (
	"bytes"
	"encoding/binary"
	"os"
	"runtime"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Frames are told apart by their EtherType; these are for local experiments (IEEE 802).
const typeA, typeB = 0x88b5, 0x88b6

var (
	mac1, mac2, macTAP = []byte("\x02\x00\x00\x00\x00\x01"), []byte("\x02\x00\x00\x00\x00\x02"), []byte("\x02\x00\x00\x00\x00\x0a")
	macRouter, macEvil = []byte("\x02\x00\x00\x00\x00\x0f"), []byte("\x02\x00\x00\x00\x66\x66")
	broadcast          = []byte("\xff\xff\xff\xff\xff\xff")
)

// newNamespace puts the test's goroutine into a network namespace of its own, which goes when the goroutine's thread does, and on one CPU,
// where frames are handled in the order in which they were sent.
func newNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the runtime ends the thread with the goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("making a network namespace (these tests want root): %v", err)
	}
	var cpus unix.CPUSet
	must(t, unix.SchedGetaffinity(0, &cpus))
	for i := range len(cpus) * 64 {
		if cpus.IsSet(i) {
			cpus.Zero()
			cpus.Set(i)
			break
		}
	}
	must(t, unix.SchedSetaffinity(0, &cpus))
	for _, which := range []string{"all", "default"} { // no frames but ours
		sysctl(t, "ipv6/conf/"+which+"/disable_ipv6", "1")
	}
}

func sysctl(t *testing.T, name, value string) {
	t.Helper()
	must(t, os.WriteFile("/proc/sys/net/"+name, []byte(value), 0o644))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// veth makes the pair a and b, both up and ready to send. The kernel makes the first one ready in its own time after the second is up.
func veth(t *testing.T, a, b string) (netlink.Link, netlink.Link) {
	t.Helper()
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: a, NumTxQueues: 1, NumRxQueues: 1}, PeerName: b}))
	la, lb := up(t, a), up(t, b)
	from, to := tap(t, la, 0), tap(t, lb, typeA)
	must(t, unix.SetNonblock(int(to), true))
	sent, got, i := frame(broadcast, mac1, typeA), make([]byte, 60), uint64(0)
	until(func() bool {
		i++
		binary.NativeEndian.PutUint64(sent[14:], i)
		unix.Write(int(from), sent)
		for n := 1; n > 0; n, _ = unix.Read(int(to), got) {
		}
		return bytes.Equal(got, sent) // the last one has come, and so no more will
	})
	return la, lb
}

// until waits for what the kernel does in its own time.
func until(done func() bool) {
	for !done() {
		runtime.Gosched()
	}
}

func link(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	return l
}

func up(t *testing.T, name string) netlink.Link {
	t.Helper()
	must(t, netlink.LinkSetUp(link(t, name)))
	return link(t, name)
}

func address(t *testing.T, l netlink.Link, prefix string) {
	t.Helper()
	a, err := netlink.ParseAddr(prefix)
	must(t, err)
	must(t, netlink.AddrAdd(l, a))
}

func static(t *testing.T, l netlink.Link, ip [4]byte, mac []byte) {
	t.Helper()
	must(t, netlink.NeighAdd(&netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: ip[:], HardwareAddr: mac}))
}

// port is a descriptor that frames are written to and read from: a packet socket or a TAP.
type port int

// tap is a packet socket on l for one EtherType or ETH_P_ALL, with int options of SOL_PACKET.
func tap(t *testing.T, l netlink.Link, etherType int, options ...int) port {
	t.Helper()
	proto := etherType&0xff<<8 | etherType>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	for _, o := range options {
		must(t, unix.SetsockoptInt(fd, unix.SOL_PACKET, o, 1))
	}
	must(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(proto), Ifindex: l.Attrs().Index}))
	return port(fd)
}

// attach opens a queue of the TAP (or, with IFF_TUN, TUN) device name.
func attach(name string, flags uint16) (port, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if flags&unix.IFF_TUN == 0 {
		flags |= unix.IFF_TAP
	}
	ifr, _ := unix.NewIfreq(name)
	ifr.SetUint16(flags | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return port(fd), nil
}

// newTAP makes a TAP, up.
func newTAP(t *testing.T, name string, flags uint16) (port, netlink.Link) {
	t.Helper()
	p, err := attach(name, flags)
	must(t, err)
	t.Cleanup(func() { unix.Close(int(p)) })
	return p, up(t, name)
}

func (p port) send(t *testing.T, b []byte) {
	t.Helper()
	_, err := unix.Write(int(p), b)
	must(t, err)
}

// next reads one frame.
func (p port) next(t *testing.T) []byte {
	t.Helper()
	b := make([]byte, 70_000)
	for {
		n, err := unix.Read(int(p), b)
		if err == unix.EINTR {
			continue
		}
		must(t, err)
		return b[:n]
	}
}

// want reads frames with these EtherTypes, and no others.
func (p port) want(t *testing.T, what string, types ...int) {
	t.Helper()
	for _, typ := range types {
		if got := etherType(p.next(t)); got != typ {
			t.Fatalf("%s: EtherType %#x, want %#x", what, got, typ)
		}
	}
}

// empty wants nothing there to be read.
func (p port) empty(t *testing.T, what string) {
	t.Helper()
	must(t, unix.SetNonblock(int(p), true))
	b := make([]byte, 70_000)
	if n, err := unix.Read(int(p), b); err != unix.EAGAIN {
		t.Fatalf("%s: read %x, %v, want nothing", what, b[:max(n, 0)], err)
	}
	must(t, unix.SetNonblock(int(p), false))
}

// frame makes an Ethernet frame of at least 60 bytes.
func frame(to, from []byte, etherType int, body ...byte) []byte {
	b := binary.BigEndian.AppendUint16(append(bytes.Clone(to), from...), uint16(etherType))
	b = append(b, body...)
	return append(b, make([]byte, max(0, 60-len(b)))...)
}

func etherType(b []byte) int { return int(binary.BigEndian.Uint16(b[12:])) }

// setPort sets one flag of a bridge port (IFLA_BRPORT_*).
func setPort(t *testing.T, l netlink.Link, attr int, value byte) {
	t.Helper()
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
	msg.Index = int32(l.Attrs().Index)
	req.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	info.AddRtAttr(attr, []byte{value})
	req.AddData(info)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	must(t, err)
}

// fdb adds, replaces or deletes a static entry.
func fdb(l netlink.Link, mac []byte) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: l.Attrs().Index, Family: unix.AF_BRIDGE, State: netlink.NUD_NOARP, Flags: netlink.NTF_MASTER, HardwareAddr: mac}
}

// loadBPF loads a program of BPF_PROG_TYPE typ.
func loadBPF(t *testing.T, typ uint32, insns ...uint64) int {
	t.Helper()
	license := []byte("GPL\x00")
	attr := struct {
		typ, n                uint32
		insns, license        uint64
		logLevel, logSize     uint32
		log                   uint64
		kernVersion, progFlag uint32
	}{typ: typ, n: uint32(len(insns)), insns: uint64(uintptr(unsafe.Pointer(&insns[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0])))}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(insns)
	runtime.KeepAlive(license)
	if errno != 0 {
		t.Fatalf("loading a BPF program: %v", errno)
	}
	t.Cleanup(func() { unix.Close(int(fd)) })
	return int(fd)
}

// insn is an eBPF instruction.
func insn(op, dst, src byte, off int16, imm int32) uint64 {
	return uint64(op) | uint64(src<<4|dst)<<8 | uint64(uint16(off))<<16 | uint64(uint32(imm))<<32
}

// onesSum is the ones' complement sum of b.
func onesSum(b []byte) uint16 {
	var s uint32
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		s += uint32(b[len(b)-1]) << 8
	}
	for s>>16 != 0 {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// udp4 makes an IPv4 packet with a UDP datagram in it from port 1000 to 2000. Its UDP checksum is the pseudo header's sum alone, as a
// sender leaves it whose link does the rest.
func udp4(src, dst [4]byte, payload []byte) []byte {
	u := append([]byte{1000 >> 8, 1000 & 0xff, 2000 >> 8, 2000 & 0xff, 0, 0, 0, 0}, payload...)
	binary.BigEndian.PutUint16(u[4:], uint16(len(u)))
	binary.BigEndian.PutUint16(u[6:], pseudoSum(src, dst, unix.IPPROTO_UDP, len(u)))
	return ip4(src, dst, unix.IPPROTO_UDP, u)
}

func ip4(src, dst [4]byte, proto byte, body []byte) []byte {
	b := []byte{0x45, 0, 0, 0, 0, 7, 0, 0, 64, proto, 0, 0, src[0], src[1], src[2], src[3], dst[0], dst[1], dst[2], dst[3]}
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(body)))
	binary.BigEndian.PutUint16(b[10:], ^onesSum(b))
	return append(b, body...)
}

func pseudoSum(src, dst [4]byte, proto byte, n int) uint16 {
	return onesSum([]byte{src[0], src[1], src[2], src[3], dst[0], dst[1], dst[2], dst[3], 0, proto, byte(n >> 8), byte(n)})
}

// complete says whether the checksum of an IPv4 frame's UDP or TCP part is right.
func complete(b []byte) bool {
	l4 := b[34 : 14+binary.BigEndian.Uint16(b[16:])]
	pseudo := pseudoSum([4]byte(b[26:30]), [4]byte(b[30:34]), b[23], len(l4))
	return onesSum(binary.BigEndian.AppendUint16(append([]byte(nil), l4...), pseudo)) == 0xffff || len(l4)%2 == 1 &&
		onesSum(append(binary.BigEndian.AppendUint16(nil, pseudo), l4...)) == 0xffff
}

// vnet is a virtio_net_hdr, in the machine's byte order.
type vnet struct {
	flags, gsoType                         byte
	hdrLen, gsoSize, csumStart, csumOffset uint16
}

const (
	needsCsum, gsoTCPv4, gsoUDP, gsoUDPL4 = 1, 1, 3, 5 // VIRTIO_NET_HDR_*
	vnetLen                               = 10
)

func (v vnet) before(b []byte) []byte {
	h := []byte{v.flags, v.gsoType}
	for _, n := range []uint16{v.hdrLen, v.gsoSize, v.csumStart, v.csumOffset} {
		h = binary.NativeEndian.AppendUint16(h, n)
	}
	return append(h, b...)
}

func parseVnet(b []byte) vnet {
	n := binary.NativeEndian.Uint16
	return vnet{b[0], b[1], n(b[2:]), n(b[4:]), n(b[6:]), n(b[8:])}
}
