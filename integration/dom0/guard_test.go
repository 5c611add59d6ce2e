package dom0

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"udrouter/policy"
)

// macOf is an interface's own address.
func (w *world) macOf(ns netns.NsHandle, name string) (m policy.MAC) {
	w.t.Helper()
	w.do(ns, func() error {
		l, err := netlink.LinkByName(name)
		if err == nil {
			copy(m[:], l.Attrs().HardwareAddr)
		}
		return err
	})
	return m
}

// heldSet is what the kernel has in a set of the netdev table.
func (w *world) heldSet(name string) (out []netip.Addr) {
	w.t.Helper()
	w.do(w.dom0, func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		t := &nftables.Table{Name: TableName, Family: nftables.TableFamilyNetdev}
		set, err := c.GetSetByName(t, name)
		if err != nil {
			return err
		}
		elems, err := c.GetSetElements(set)
		for _, e := range elems {
			a, _ := netip.AddrFromSlice(e.Key)
			out = append(out, a)
		}
		return err
	})
	return out
}

// asker sends ARP requests and solicitations from the provider's side and collects what is answered.
type asker struct {
	w   *world
	f   *os.File
	mac policy.MAC
}

const askerV4, askerV6 = "192.0.1.2", "2001:db8:3:2::2"

func (w *world) asker() *asker {
	return &asker{w, w.packetSocket(w.up, "eth0"), w.macOf(w.up, "eth0")}
}

// answers returns for which of the targets something claimed to be. dom0's own address, asked for last, ends the wait.
func (a *asker) answers(targets ...string) (out []string) {
	t := a.w.t
	t.Helper()
	for _, last := range []string{dom0V4, dom0V6} {
		var frames [][]byte
		is4 := netip.MustParseAddr(last).Is4()
		for _, target := range append(slices.Clone(targets), last) {
			switch {
			case netip.MustParseAddr(target).Is4() != is4:
			case is4:
				frames = append(frames, whoHas(a.mac, askerV4, target))
			default:
				frames = append(frames, solicit(a.mac, askerV6, target))
			}
		}
		send(t, a.f, frames...)
		must(t, a.f.SetReadDeadline(time.Now().Add(patience)))
		buf := make([]byte, 2000)
		for {
			n, err := a.f.Read(buf)
			if err != nil {
				t.Fatalf("waiting for %s's answer: %v", last, err)
			}
			target, ok := claimed(buf[:n])
			if !ok || target.Is4() != is4 {
				continue
			}
			if target.String() == last {
				break
			}
			out = append(out, target.String())
		}
	}
	return out
}

// claimed is the address that an ARP reply or an advertisement is for.
func claimed(b []byte) (netip.Addr, bool) {
	if len(b) < 42 {
		return netip.Addr{}, false
	}
	switch binary.BigEndian.Uint16(b[12:]) {
	case unix.ETH_P_ARP:
		if b[21] == 2 {
			return netip.AddrFromSlice(b[28:32])
		}
	case unix.ETH_P_IPV6:
		if len(b) >= 78 && b[20] == 58 && b[54] == 136 {
			return netip.AddrFromSlice(b[62:78])
		}
	}
	return netip.Addr{}, false
}

// kernelProxies has dom0's kernel do what the set-up that the router replaces did: forward for the guests and answer for them.
func (w *world) kernelProxies() {
	w.t.Helper()
	w.veth(w.dom0, "old0", newNS(w.t), "eth0", policy.MAC{}) // in the place of the guests' dummy0
	w.do(w.dom0, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return errors.Join(
			sysctl("ipv4/ip_forward", "1"), sysctl("ipv6/conf/all/forwarding", "1"),
			sysctl("ipv4/conf/eth0/proxy_arp", "1"), sysctl("ipv6/conf/eth0/proxy_ndp", "1"),
			sysctl("ipv4/neigh/eth0/proxy_delay", "0"), sysctl("ipv6/neigh/eth0/proxy_delay", "0"),
			addRoute("old0", "192.0.2.0/25"), addRoute("old0", "2001:db8:3:2:1::/112"),
			netlink.NeighAdd(&netlink.Neigh{LinkIndex: l.Attrs().Index, Family: unix.AF_INET6, Flags: netlink.NTF_PROXY,
				IP: net.ParseIP("2001:db8:3:2:1::10")}),
		)
	})
}

func TestKernelNeitherAnswersNorForwards(t *testing.T) {
	w := newWorld(t)
	w.kernelProxies()
	a := w.asker()
	dom0MAC := w.macOf(w.dom0, "eth0")
	targets := []string{"192.0.2.10", "192.0.2.99", "2001:db8:3:2:1::10"}
	old := w.packetSocket(w.dom0, "old0")
	must(t, old.Close())
	var oldPeer *os.File
	// What comes out at old0 has been forwarded. Its frames are seen on their way out.
	w.do(w.dom0, func() error {
		l, err := netlink.LinkByName("old0")
		if err != nil {
			return err
		}
		guest := net.HardwareAddr(guest1MAC[:])
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		oldPeer = os.NewFile(uintptr(fd), "old0")
		return errors.Join(
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}), Ifindex: l.Attrs().Index}),
			netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP("192.0.2.10"), HardwareAddr: guest}),
			netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP("198.51.100.7"), HardwareAddr: guest}),
			netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP("2001:db8:3:2:1::10"), HardwareAddr: guest}),
			addRoute("old0", "198.51.100.7/32"))
	})
	defer oldPeer.Close()
	forwarded := func() (out []string) {
		packet := func(src, dst, text string) []byte {
			et := uint16(unix.ETH_P_IP)
			if strings.Contains(src, ":") {
				et = unix.ETH_P_IPV6
			}
			return ether(dom0MAC, a.mac, et, udp(src, dst, 9, text))
		}
		send(t, a.f, packet("203.0.113.5", "192.0.2.10", "to guest 4"), packet("2001:db8:ffff::5", "2001:db8:3:2:1::10", "to guest 6"),
			packet("192.0.2.10", "198.51.100.7", "from guest 4"), packet("203.0.113.5", "198.51.100.7", "end"))
		buf := make([]byte, 2000)
		must(t, oldPeer.SetReadDeadline(time.Now().Add(patience)))
		for {
			n, err := oldPeer.Read(buf)
			must(t, err)
			switch b := buf[:n]; {
			case strings.HasSuffix(string(b), "end"):
				return out
			case binary.BigEndian.Uint16(b[12:]) == unix.ETH_P_IP && b[23] == 17:
				out = append(out, string(b[42:]))
			case binary.BigEndian.Uint16(b[12:]) == unix.ETH_P_IPV6 && b[20] == 17:
				out = append(out, string(b[62:]))
			}
		}
	}
	check := func(when string, wantAnswers []string, wantForwarded []string) {
		t.Helper()
		if got := a.answers(targets...); !slices.Equal(got, wantAnswers) {
			t.Errorf("%s, the kernel answered for %q, not %q", when, got, wantAnswers)
		}
		if got := forwarded(); !slices.Equal(got, wantForwarded) {
			t.Errorf("%s, the kernel forwarded %q, not %q", when, got, wantForwarded)
		}
	}
	all := []string{"to guest 4", "to guest 6", "from guest 4"}
	check("before", targets, all)
	spec := w.spec()
	spec.HostRoutes = nil // so that the old routes decide
	before := w.snapshot()
	d := w.open(spec)
	check("while it runs", nil, nil)
	n, err := d.Counters()
	must(t, err)
	for what, want := range map[string]uint64{CountUplinkARP: 2, CountUplinkND: 1, CountUplinkGuest: 2, CountForwardGuest: 1} {
		if n[what] < want {
			t.Errorf("%q counted %d, not %d", what, n[what], want)
		}
	}
	// A solicitation behind an extension header is one as well.
	s := solicit(a.mac, askerV6, "2001:db8:3:2:1::10")
	hbh := []byte{58, 0, 1, 4, 0, 0, 0, 0}
	s = slices.Concat(s[:14+40], hbh, s[14+40:])
	s[14+6] = 0
	binary.BigEndian.PutUint16(s[14+4:], binary.BigEndian.Uint16(s[14+4:])+8)
	send(t, a.f, s)
	if got := a.answers(); len(got) > 0 {
		t.Errorf("the kernel answered a solicitation behind a hop-by-hop header: %q", got)
	}
	must(t, d.Close())
	check("after", targets, all)
	diff(t, before, w.snapshot())
}

// echo is a TCP connection between the provider's side and dom0, which goes on as long as it is open.
type echo struct{ a, b net.Conn }

func (w *world) echo(network, addr string) *echo {
	w.t.Helper()
	var l net.Listener
	w.do(w.dom0, func() (err error) {
		l, err = net.Listen(network, net.JoinHostPort(addr, "0"))
		return err
	})
	defer l.Close()
	accepted := make(chan net.Conn)
	go func() {
		c, _ := l.Accept()
		accepted <- c
	}()
	e := new(echo)
	w.do(w.up, func() (err error) {
		e.a, err = (&net.Dialer{Timeout: patience}).Dial(network, l.Addr().String())
		return err
	})
	e.b = <-accepted
	w.t.Cleanup(func() { e.a.Close(); e.b.Close() })
	return e
}

// works sends a word each way.
func (e *echo) works(t testing.TB, when string) {
	t.Helper()
	for _, way := range [][2]net.Conn{{e.a, e.b}, {e.b, e.a}} {
		word := []byte(when)
		must(t, way[0].SetDeadline(time.Now().Add(patience)))
		must(t, way[1].SetDeadline(time.Now().Add(patience)))
		if _, err := way[0].Write(word); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if _, err := way[1].Read(make([]byte, len(word))); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
	}
}

// forgetNeighbours has both sides resolve each other anew, without the benefit of what they knew.
func (w *world) forgetNeighbours() {
	w.t.Helper()
	for _, ns := range []netns.NsHandle{w.dom0, w.up} {
		w.do(ns, func() error {
			list, err := netlink.NeighList(0, 0)
			for _, n := range list {
				if n.State&(netlink.NUD_PERMANENT|netlink.NUD_NOARP) == 0 {
					_ = netlink.NeighDel(&n)
				}
			}
			return err
		})
	}
}

func TestDom0KeepsItsConnections(t *testing.T) {
	w := newWorld(t)
	w.kernelProxies()
	conns := []*echo{w.echo("tcp4", dom0V4), w.echo("tcp6", dom0V6)}
	works := func(when string) {
		t.Helper()
		w.forgetNeighbours() // the gateway's advertisement comes from within the guests' prefix
		for _, c := range append(conns, w.echo("tcp4", dom0V4), w.echo("tcp6", dom0V6)) {
			c.works(t, when)
		}
	}
	works("before")
	d := w.open(w.spec())
	works("while it runs")
	must(t, d.Update(w.spec()))
	works("after an update")
	d.abandon()
	works("after a kill")
	d = w.open(w.spec())
	works("after the next start")
	must(t, d.Close())
	works("after the end")
}

// host is the prefix of one address.
func host(addr string) string {
	a := netip.MustParseAddr(addr)
	return netip.PrefixFrom(a, a.BitLen()).String()
}

func TestHeldAddressesFollow(t *testing.T) {
	w := newWorld(t)
	w.kernelProxies()
	w.run(w.open(w.spec()))
	a := w.asker()
	if got := w.heldSet("held6"); !slices.Equal(got, []netip.Addr{netip.MustParseAddr(dom0V6)}) {
		t.Errorf("held: %v", got)
	}
	for _, addr := range []string{"2001:db8:3:2:1::99", "192.0.2.1"} {
		if got := a.answers(addr); len(got) > 0 {
			t.Fatalf("the kernel answers for %s before it has it", got)
		}
		w.do(w.dom0, func() error { return addAddr("eth0", host(addr)) })
		eventually(t, addr+" is answered for", func() bool { return len(a.answers(addr)) == 1 })
		w.do(w.dom0, func() error { return delAddr("eth0", host(addr)) })
		set := "held6"
		if strings.Contains(addr, ".") {
			set = "held4"
		}
		eventually(t, addr+" is no longer held", func() bool { return !slices.Contains(w.heldSet(set), netip.MustParseAddr(addr)) })
		if got := a.answers(addr); len(got) > 0 {
			t.Errorf("answered for %s after it was removed", got)
		}
	}
}

// Where the guests' network is the uplink's own, its broadcast address is dom0's too.
func TestBroadcastIsHeld(t *testing.T) {
	w := newWorld(t)
	spec := w.spec()
	spec.HostRoutes, spec.Guests = nil, prefixes("192.0.1.0/26")
	w.open(spec)
	got := w.heldSet("held4")
	slices.SortFunc(got, netip.Addr.Compare)
	if fmt.Sprint(got) != "[192.0.1.3 192.0.1.63]" {
		t.Errorf("held: %v", got)
	}
	w.echo("tcp4", dom0V4).works(t, "guests on the uplink's own network")
}

func TestUplinkReturns(t *testing.T) {
	w := newWorld(t)
	d := w.open(w.spec())
	w.run(d)
	for i := range 3 {
		w.do(w.dom0, func() error { return delLink("eth0") })
		eventually(t, "the loss is noticed", func() bool {
			return slices.ContainsFunc(d.Warnings(), func(s string) bool { return strings.Contains(s, "uplink eth0 is not there") })
		})
		w.veth(w.dom0, "eth0", w.up, "eth0", policy.MAC{})
		w.do(w.dom0, func() error {
			return errors.Join(addAddr("eth0", dom0V4+"/26"), addAddr("eth0", dom0V6+"/64"),
				sysctl("ipv4/ip_forward", "1"), sysctl("ipv4/conf/eth0/proxy_arp", "1"), sysctl("ipv4/neigh/eth0/proxy_delay", "0"))
		})
		w.do(w.up, func() error { return errors.Join(addAddr("eth0", upV4+"/26"), addAddr("eth0", upV6+"/64")) })
		eventually(t, "the return is noticed", func() bool { return len(d.Warnings()) == 1 })
		a := w.asker()
		eventually(t, "the guard is back", func() bool {
			send(t, a.f, whoHas(a.mac, askerV4, "192.0.2.10"))
			n, err := d.Counters()
			return err == nil && n[CountUplinkARP] > 0
		})
		// A socket of its own: what was asked before the guard was back may have been answered.
		if got := w.asker().answers("192.0.2.10"); len(got) > 0 {
			t.Errorf("round %d: the kernel answered for %q", i, got)
		}
		eventually(t, "the addresses are held", func() bool { return len(w.heldSet("held6")) == 1 })
		w.echo("tcp6", dom0V6).works(t, "after the return")
	}
}

// A firewall's restart flushes everybody's tables.
func TestFlushedTablesReturn(t *testing.T) {
	w := newWorld(t)
	d := w.open(w.spec())
	w.run(d)
	before := w.snapshot()
	if !strings.Contains(before, TableName) {
		t.Fatal("no table in the snapshot")
	}
	w.do(w.dom0, func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		c.FlushRuleset()
		return c.Flush()
	})
	eventually(t, "the tables are back", func() bool { return w.snapshot() == before })
}
