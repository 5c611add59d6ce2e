package dom0

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// sourceFor is the address that dom0 would send from, and by which interface.
func (w *world) sourceFor(dst string) (src, dev string) {
	w.t.Helper()
	w.do(w.dom0, func() error {
		list, err := netlink.RouteGet(net.ParseIP(dst))
		if err != nil {
			return nil // no route
		}
		l, err := netlink.LinkByIndex(list[0].LinkIndex)
		if err == nil {
			src, dev = list[0].Src.String(), l.Attrs().Name
		}
		return err
	})
	return src, dev
}

func TestHostRoutes(t *testing.T) {
	w := newWorld(t)
	// Another interface, found first when the kernel looks for any IPv4 address, must not give the source.
	w.do(w.dom0, func() error { return addAddr("lo", "10.9.9.9/32") })
	w.do(w.dom0, func() error {
		return errors.Join(sysctl("ipv4/conf/all/rp_filter", "1"), sysctl("ipv4/conf/udrhost/rp_filter", "1"), sysctl("ipv4/conf/eth0/rp_filter", "1"))
	})
	d := w.open(w.spec())
	for dst, want := range map[string][2]string{
		"192.0.2.10":          {dom0V4, "udrhost"},
		"192.0.2.77":          {dom0V4, "udrhost"},
		"2001:db8:3:2:1::10":  {dom0V6, "udrhost"},
		"2001:db8:3:2:1::11":  {dom0V6, "udrhost"},
		"2001:db8:3:2:1::dad": {dom0V6, "eth0"}, // not bound: on the link, as before
		upV6:                  {dom0V6, "eth0"},
	} {
		if src, dev := w.sourceFor(dst); src != want[0] || dev != want[1] {
			t.Errorf("to %s: from %s by %s, not from %s by %s", dst, src, dev, want[0], want[1])
		}
	}
	// A guest's packet that comes in by the TUN is taken, with rp_filter strict, and dom0's own leaves by it.
	for guest, dom0 := range map[string]string{"192.0.2.10": dom0V4, "2001:db8:3:2:1::10": dom0V6} {
		var sock *net.UDPConn
		w.do(w.dom0, func() (err error) {
			sock, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(dom0), Port: 53})
			return err
		})
		defer sock.Close()
		if _, err := w.tun.Write(udp(guest, dom0, 53, "question")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		must(t, sock.SetDeadline(time.Now().Add(patience)))
		n, from, err := sock.ReadFromUDPAddrPort(buf)
		if err != nil || string(buf[:n]) != "question" {
			t.Fatalf("from %s: %q, %v", guest, buf[:n], err)
		}
		if _, err := sock.WriteToUDPAddrPort([]byte("answer"), from); err != nil {
			t.Fatal(err)
		}
		// Nothing else comes out of the TUN, above all no router solicitations from a link-local address of its own.
		packet := make([]byte, 2000)
		must(t, w.tun.SetReadDeadline(time.Now().Add(patience)))
		for {
			n, err = w.tun.Read(packet)
			must(t, err)
			if b := packet[:n]; strings.HasSuffix(string(b), "answer") {
				if src, dst := ends(b); src != dom0 || dst != guest {
					t.Errorf("the answer is from %s to %s", src, dst)
				}
				break
			} else if src, _ := ends(b); src != "::" { // MLD reports before an address is there
				t.Errorf("out of the TUN came %x", b)
			}
		}
	}
	var routes []netlink.Route
	w.do(w.dom0, func() (err error) {
		routes, err = netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: RouteProtocol}, netlink.RT_FILTER_PROTOCOL)
		return err
	})
	if len(routes) != 3 {
		t.Errorf("%d routes of protocol %d, not 3: %v", len(routes), RouteProtocol, routes)
	}
	spec := w.spec()
	spec.HostRoutes = prefixes("192.0.2.0/24")
	must(t, d.Update(spec))
	if _, dev := w.sourceFor("2001:db8:3:2:1::10"); dev != "eth0" {
		t.Errorf("a route that was taken back leads to %s", dev)
	}
}

// From the uplink dom0 itself takes nothing from an address that its routes have behind the TUN, without any rp_filter; all others are served as before.
func TestUplinkSources(t *testing.T) {
	w := newWorld(t)
	a := w.asker()
	dom0MAC := w.macOf(w.dom0, "eth0")
	var socks []*net.UDPConn
	w.do(w.dom0, func() error {
		for _, addr := range []string{dom0V4, dom0V6} {
			c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(addr), Port: 53})
			if err != nil {
				return err
			}
			socks = append(socks, c)
		}
		return errors.Join(sysctl("ipv4/conf/all/rp_filter", "0"), sysctl("ipv4/conf/eth0/rp_filter", "0"))
	})
	got := func() (from []string) {
		for i, sources := range [][]string{{"192.0.2.10", "192.0.2.77", "198.51.100.7"}, {"2001:db8:3:2:1::10", "2001:db8:3:2:1::dad", "fe80::77", "2001:db8:ffff::5"}} {
			defer socks[i].Close()
			dst, et := dom0V4, uint16(unix.ETH_P_IP)
			if i == 1 {
				dst, et = dom0V6, unix.ETH_P_IPV6
			}
			for _, src := range sources {
				send(t, a.f, ether(dom0MAC, a.mac, et, udp(src, dst, 53, src)))
			}
			buf := make([]byte, 100)
			for last := ""; last != sources[len(sources)-1]; from = append(from, last) {
				must(t, socks[i].SetReadDeadline(time.Now().Add(patience)))
				n, err := socks[i].Read(buf)
				must(t, err)
				last = string(buf[:n])
			}
		}
		return from
	}
	d := w.open(w.spec())
	if from, want := got(), []string{"198.51.100.7", "2001:db8:3:2:1::dad", "fe80::77", "2001:db8:ffff::5"}; !slices.Equal(from, want) {
		t.Errorf("dom0 was reached from %q, want %q", from, want)
	}
	n, err := d.Counters()
	must(t, err)
	if n[CountUplinkSource] != 3 {
		t.Errorf("%d are counted, want 3", n[CountUplinkSource])
	}
}

// ends are the source and destination of a packet.
func ends(b []byte) (src, dst string) {
	s, d := b[12:16], b[16:20]
	if b[0]>>4 == 6 {
		s, d = b[8:24], b[24:40]
	}
	x, _ := netip.AddrFromSlice(s)
	y, _ := netip.AddrFromSlice(d)
	return x.String(), y.String()
}

func TestTUNReturns(t *testing.T) {
	w := newWorld(t)
	d := w.open(w.spec())
	w.run(d)
	must(t, w.tun.Close())
	eventually(t, "the loss is noticed", func() bool {
		return slices.ContainsFunc(d.Warnings(), func(s string) bool { return strings.Contains(s, "udrhost is not there") })
	})
	w.tun = w.tuntap("udrhost", unix.IFF_TUN)
	eventually(t, "the routes are back", func() bool {
		_, dev4 := w.sourceFor("192.0.2.10")
		_, dev6 := w.sourceFor("2001:db8:3:2:1::10")
		return dev4 == "udrhost" && dev6 == "udrhost"
	})
	// The uplink's address is the routes' source; when it goes the kernel drops them.
	w.do(w.dom0, func() error { return delAddr("eth0", dom0V4+"/26") })
	w.do(w.dom0, func() error { return addAddr("eth0", "192.0.1.4/26") })
	eventually(t, "the route has the new source", func() bool {
		var list []netlink.Route
		w.do(w.dom0, func() (err error) {
			list, err = netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: RouteProtocol}, netlink.RT_FILTER_PROTOCOL)
			return err
		})
		return len(list) == 1 && list[0].Src.String() == "192.0.1.4"
	})
}

func TestRouteConflicts(t *testing.T) {
	w := newWorld(t)
	w.veth(w.dom0, "old0", newNS(t), "eth0", [6]byte{}) // the dummy0 of the set-up that the router replaces
	w.do(w.dom0, func() error {
		up, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return errors.Join(
			addAddr("old0", "192.0.2.1/24"),
			addRoute("old0", "192.0.2.64/32"),
			addRoute("old0", "2001:db8:3:2:1::10/128"),
			netlink.RouteAdd(&netlink.Route{LinkIndex: up.Attrs().Index, Gw: net.ParseIP(upV6)}),
		)
	})
	before := w.snapshot()
	spec := w.spec()
	spec.HostRoutes = append(spec.HostRoutes, prefixes("2001:db8:3:2::/112", "192.0.1.0/26")...) // would take the gateway away, and the uplink's link
	d := w.open(spec)
	for dst, want := range map[string]string{
		"192.0.2.10":         "udrhost", // ours is put before the one of equal metric
		"2001:db8:3:2:1::10": "udrhost",
		"192.0.2.64":         "old0",
		upV6:                 "eth0",
		upV4:                 "eth0",
	} {
		if _, dev := w.sourceFor(dst); dev != want {
			t.Errorf("to %s by %s, not %s", dst, dev, want)
		}
	}
	all := strings.Join(d.Warnings(), "\n")
	for _, want := range []string{
		"the route `192.0.2.0/24 dev old0` is passed over in favour of udrhost: `ip route del 192.0.2.0/24 dev old0`",
		"the route `2001:db8:3:2:1::10/128 dev old0` is passed over in favour of udrhost: `ip -6 route del 2001:db8:3:2:1::10/128 dev old0`",
		"the route `192.0.2.64/32 dev old0` is more specific than 192.0.2.0/24 to udrhost and takes dom0's packets there: `ip route del 192.0.2.64/32 dev old0`",
		"not routing 2001:db8:3:2::/112 to udrhost: 2001:db8:3:2::1, the gateway of `default dev eth0`, lies in it",
		"not routing 192.0.1.0/26 to udrhost: it is on the link of eth0",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no warning %q in\n%s", want, all)
		}
	}
	w.echo("tcp6", dom0V6).works(t, "with conflicting routes")
	must(t, d.Close())
	diff(t, before, w.snapshot())
}
