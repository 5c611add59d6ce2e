package dom0

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"udrouter/integration/dom0/dom0test"
	"udrouter/policy"
)

// The network of the tests, each in namespaces of its own:
//
//	up:eth0 ---- eth0:dom0:xenbr0 -- vif1.0 ---- eth0:g1
//	                        |    `-- vif2.0 ---- eth0:g2
//	                      udr0 (a TAP that the test holds in the router's place), udrhost (its TUN)
const (
	upV4, dom0V4     = "192.0.1.1", "192.0.1.3"
	upV6, dom0V6     = "2001:db8:3:2::1", "2001:db8:3:2:1::1" // the gateway lies in the guests' prefix
	guests4, guests6 = "192.0.2.0/24", "2001:db8:3:2::/64"
)

var (
	routerMAC = mac("02:00:5e:00:53:01")
	guest1MAC = mac("00:16:3e:00:00:01")
	guest2MAC = mac("00:16:3e:00:00:02")
	guest3MAC = mac("00:16:3e:00:00:03")
	broadcast = mac("ff:ff:ff:ff:ff:ff")
)

func mac(s string) policy.MAC {
	m, err := policy.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return m
}

// world is the test's network.
type world struct {
	t                testing.TB
	dom0, up, g1, g2 netns.NsHandle
	tap, tun         *os.File
	dir              string
	log              *testLog
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), log: &testLog{t: t}}
	t.Cleanup(w.log.end)
	for _, ns := range []*netns.NsHandle{&w.dom0, &w.up, &w.g1, &w.g2} {
		*ns = newNS(t)
	}
	w.veth(w.dom0, "eth0", w.up, "eth0", policy.MAC{})
	w.do(w.dom0, func() error {
		return errors.Join(addAddr("eth0", dom0V4+"/26"), addAddr("eth0", dom0V6+"/64"))
	})
	w.do(w.up, func() error {
		return errors.Join(addAddr("eth0", upV4+"/26"), addAddr("eth0", upV6+"/64"))
	})
	w.do(w.dom0, func() error {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "xenbr0"}}
		return errors.Join(netlink.LinkAdd(br), netlink.LinkSetUp(br))
	})
	w.guest("vif1.0", w.g1, guest1MAC)
	w.guest("vif2.0", w.g2, guest2MAC)
	w.tap = w.tuntap("udr0", unix.IFF_TAP)
	w.tun = w.tuntap("udrhost", unix.IFF_TUN)
	return w
}

func (w *world) spec() Spec {
	return Spec{
		Uplink: "eth0", Bridge: "xenbr0", TAP: "udr0", RouterMAC: routerMAC, Isolate: true,
		Ports:      []Port{{"vif1.0", 0, []policy.MAC{guest1MAC}}, {"vif2.0", 0, []policy.MAC{guest2MAC}}, {"vif3.0", 0, []policy.MAC{guest3MAC}}},
		HostTUN:    "udrhost",
		HostRoutes: prefixes(guests4, "2001:db8:3:2:1::10/128", "2001:db8:3:2:1::11/128"),
		Guests:     prefixes(guests4, guests6),
		Bound:      prefixes("192.0.2.10/32", "192.0.2.11/32", "2001:db8:3:2:1::10/128", "2001:db8:3:2:1::11/128"),
		StateDir:   w.dir,
		Log:        slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// open opens, and closes with the test unless the test does.
func (w *world) open(spec Spec) *Dom0 {
	w.t.Helper()
	d, err := w.tryOpen(spec)
	must(w.t, err)
	w.t.Cleanup(func() {
		if err := d.Close(); err != nil {
			w.t.Errorf("closing: %v", err)
		}
	})
	return d
}

func (w *world) tryOpen(spec Spec) (d *Dom0, err error) {
	e := dom0test.Do(w.dom0, func() error {
		d, err = Open(spec)
		return nil
	})
	must(w.t, e)
	return d, err
}

// run runs d until the test ends.
func (w *world) run(d *Dom0) {
	ctx, done := w.t.Context(), make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	w.t.Cleanup(func() { // the context is done by now
		if err := <-done; err != nil {
			w.t.Errorf("running: %v", err)
		}
	})
}

func (w *world) snapshot() string {
	w.t.Helper()
	s, err := dom0test.Snapshot(w.dom0)
	must(w.t, err)
	return s
}

func (w *world) do(ns netns.NsHandle, f func() error) {
	w.t.Helper()
	must(w.t, dom0test.Do(ns, f))
}

func newNS(t testing.TB) netns.NsHandle {
	t.Helper()
	type result struct {
		ns  netns.NsHandle
		err error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here
		ns, err := netns.New()
		if err == nil {
			var lo netlink.Link
			if lo, err = netlink.LinkByName("lo"); err == nil {
				err = netlink.LinkSetUp(lo)
			}
		}
		made <- result{ns, err}
	}()
	r := <-made
	if r.err != nil {
		t.Fatalf("making a network namespace (this test needs root): %v", r.err)
	}
	t.Cleanup(func() { r.ns.Close() })
	return r.ns
}

// veth connects two namespaces. Duplicate address detection is off, so that addresses can be used at once.
func (w *world) veth(a netns.NsHandle, aName string, b netns.NsHandle, bName string, bMAC policy.MAC) {
	w.t.Helper()
	v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: aName}, PeerName: bName, PeerNamespace: netlink.NsFd(int(b))}
	if !bMAC.IsZero() {
		v.PeerHardwareAddr = bMAC[:]
	}
	w.do(a, func() error { return netlink.LinkAdd(v) })
	for _, end := range []struct {
		ns   netns.NsHandle
		name string
	}{{a, aName}, {b, bName}} {
		w.do(end.ns, func() error {
			l, err := netlink.LinkByName(end.name)
			if err != nil {
				return err
			}
			if err := sysctl("ipv6/conf/"+end.name+"/accept_dad", "0"); err != nil {
				return err
			}
			return netlink.LinkSetUp(l)
		})
	}
}

// guest joins a new vif to the bridge.
func (w *world) guest(vif string, ns netns.NsHandle, m policy.MAC) {
	w.t.Helper()
	w.veth(w.dom0, vif, ns, "eth0", m)
	w.do(w.dom0, func() error { return setMaster(vif, "xenbr0") })
}

func setMaster(name, bridge string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if bridge == "" {
		return netlink.LinkSetNoMaster(l)
	}
	br, err := netlink.LinkByName(bridge)
	if err != nil {
		return err
	}
	return netlink.LinkSetMaster(l, br)
}

func delLink(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkDel(l)
}

func addAddr(name, cidr string) error { return changeAddr(name, cidr, netlink.AddrAdd) }
func delAddr(name, cidr string) error { return changeAddr(name, cidr, netlink.AddrDel) }

func changeAddr(name, cidr string, f func(netlink.Link, *netlink.Addr) error) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	if a.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD
	}
	if err := f(l, a); err != nil {
		return fmt.Errorf("%s on %s: %w", cidr, name, err)
	}
	return nil
}

func addRoute(name, dst string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	_, n, err := net.ParseCIDR(dst)
	if err != nil {
		return err
	}
	r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: n}
	if n.IP.To4() != nil {
		r.Scope = netlink.SCOPE_LINK
	}
	return netlink.RouteAdd(r)
}

func sysctl(path, v string) error { return os.WriteFile("/proc/sys/net/"+path, []byte(v), 0) }

func readSysctl(path string) string {
	b, _ := os.ReadFile("/proc/sys/net/" + path)
	return strings.TrimSpace(string(b))
}

// tuntap makes a TAP or TUN in dom0 that lives as long as the file.
func (w *world) tuntap(name string, kind uint16) (f *os.File) {
	w.t.Helper()
	w.do(w.dom0, func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		req, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		req.SetUint16(kind | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
			return err
		}
		f = os.NewFile(uintptr(fd), name)
		return nil
	})
	w.t.Cleanup(func() { f.Close() })
	return f
}

// packetSocket sees and sends whole frames of an interface.
func (w *world) packetSocket(ns netns.NsHandle, name string) (f *os.File) {
	w.t.Helper()
	w.do(ns, func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
			return err
		}
		f = os.NewFile(uintptr(fd), name)
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}), Ifindex: l.Attrs().Index})
	})
	w.t.Cleanup(func() { f.Close() })
	return f
}

// send writes frames one after the other from one CPU, so that the kernel delivers them in that order.
func send(t testing.TB, f *os.File, frames ...[]byte) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var old, one unix.CPUSet
	must(t, unix.SchedGetaffinity(0, &old))
	for cpu := range 1024 {
		if old.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	must(t, unix.SchedSetaffinity(0, &one))
	defer unix.SchedSetaffinity(0, &old)
	for _, b := range frames {
		if _, err := f.Write(b); err != nil {
			t.Fatalf("sending a frame: %v", err)
		}
	}
}

// patience ends a test that hangs; nothing waits for it otherwise.
const patience = 20 * time.Second

// until reads test frames (see frame) up to the one with that mark, and returns the marks seen on the way.
func until(t testing.TB, f *os.File, mark byte) (seen []byte) {
	t.Helper()
	must(t, f.SetReadDeadline(time.Now().Add(patience)))
	buf := make([]byte, 1<<16)
	for {
		n, err := f.Read(buf)
		if err != nil {
			t.Fatalf("waiting for frame %q on %s: %v (seen %q)", mark, f.Name(), err, seen)
		}
		if b := buf[:n]; n == 60 && binary.BigEndian.Uint16(b[12:]) == testEtherType {
			if b[14] == mark {
				return seen
			}
			seen = append(seen, b[14])
		}
	}
}

const testEtherType = 0x88b5 // IEEE 802: for experiments

// frame is recognised by its mark.
func frame(dst, src policy.MAC, mark byte) []byte {
	b := make([]byte, 60)
	copy(b, dst[:])
	copy(b[6:], src[:])
	binary.BigEndian.PutUint16(b[12:], testEtherType)
	b[14] = mark
	return b
}

// ether puts a packet into a frame.
func ether(dst, src policy.MAC, etherType uint16, packet []byte) []byte {
	return slices.Concat(dst[:], src[:], binary.BigEndian.AppendUint16(nil, etherType), packet)
}

// udp is a packet with a UDP datagram, for IPv4 or IPv6.
func udp(src, dst string, port uint16, payload string) []byte {
	return udpFrom(src, 4000, dst, port, payload)
}

func udpFrom(src string, srcPort uint16, dst string, port uint16, payload string) []byte {
	s, d := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	h := make([]byte, 8, 8+len(payload))
	binary.BigEndian.PutUint16(h, srcPort)
	binary.BigEndian.PutUint16(h[2:], port)
	binary.BigEndian.PutUint16(h[4:], uint16(8+len(payload)))
	h = append(h, payload...)
	pseudo := slices.Concat(s.AsSlice(), d.AsSlice(), []byte{0, 17}, h[4:6])
	binary.BigEndian.PutUint16(h[6:], checksum(slices.Concat(pseudo, h)))
	if s.Is4() {
		ip := make([]byte, 20)
		ip[0], ip[8], ip[9] = 0x45, 64, 17
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(h)))
		copy(ip[12:], s.AsSlice())
		copy(ip[16:], d.AsSlice())
		binary.BigEndian.PutUint16(ip[10:], checksum(ip))
		return append(ip, h...)
	}
	return append(ip6(s, d, 17, 64, len(h)), h...)
}

func ip6(src, dst netip.Addr, next, hops byte, length int) []byte {
	ip := make([]byte, 40)
	ip[0], ip[6], ip[7] = 0x60, next, hops
	binary.BigEndian.PutUint16(ip[4:], uint16(length))
	copy(ip[8:], src.AsSlice())
	copy(ip[24:], dst.AsSlice())
	return ip
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i, c := range b {
		sum += uint32(c) << (8 * (1 - i%2))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// whoHas is an ARP request, broadcast.
func whoHas(src policy.MAC, from, target string) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, 1}
	b = append(b, src[:]...)
	b = append(b, netip.MustParseAddr(from).AsSlice()...)
	b = append(b, 0, 0, 0, 0, 0, 0)
	b = append(b, netip.MustParseAddr(target).AsSlice()...)
	return ether(broadcast, src, unix.ETH_P_ARP, b)
}

// solicit is a neighbour solicitation to the target's multicast group.
func solicit(src policy.MAC, from, target string) []byte {
	t := netip.MustParseAddr(target)
	a := t.As16()
	group := netip.AddrFrom16([16]byte{0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a[13], a[14], a[15]})
	m := append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, a[:]...)
	m = append(append(m, 1, 1), src[:]...)
	s := netip.MustParseAddr(from)
	binary.BigEndian.PutUint16(m[2:], checksum(slices.Concat(s.AsSlice(), group.AsSlice(), []byte{0, 0, 0, 58, 0, 0, 0, byte(len(m))}, m)))
	return ether(policy.MAC{0x33, 0x33, 0xff, a[13], a[14], a[15]}, src, unix.ETH_P_IPV6, append(ip6(s, group, 58, 255, len(m)), m...))
}

// eventually waits for a state that the kernel or Run brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// testLog shows what was logged when the test fails.
type testLog struct {
	t  testing.TB
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *testLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *testLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *testLog) end() {
	if l.t.Failed() {
		l.t.Log("\n" + l.String())
	}
}
