package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"udrouter/integration/lab"
	"udrouter/integration/wire"
	"udrouter/policy"
)

// reaches is ping where errors about an earlier state may still come first.
func reaches(t *testing.T, from *lab.Node, to netip.Addr) {
	t.Helper()
	must(t, lab.Await(testContext(t), "an answer from "+to.String(), func() (bool, error) {
		ctx, cancel := context.WithTimeout(testContext(t), 300*time.Millisecond)
		defer cancel()
		_, err := from.Ping(ctx, to, lab.PingOptions{})
		return err == nil, nil
	}))
}

// openTCP opens a TCP connection to a server on a node.
func openTCP(t *testing.T, from, to *lab.Node, a netip.Addr, port int) *lab.Conn {
	t.Helper()
	_, err := to.ServeTCP(port)
	must(t, err)
	c, err := from.Open(testContext(t), netip.AddrPortFrom(a, uint16(port)))
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// dom0's own connections, both families, both ways, live before, while and after the router runs; also when it is killed,
// when it starts again after that, and when it ends in order.
func TestDom0StaysConnected(t *testing.T) {
	l := buildLab(t, "", lab.Options{})
	var conns []*lab.Conn
	for _, v6 := range []bool{false, true} {
		x, dom0 := l.Internet.Addr4(), l.Dom0.Addr4()
		if v6 {
			x, dom0 = l.Internet.Addr6(), l.Dom0.Addr6()
		}
		conns = append(conns, openTCP(t, l.Dom0, l.Internet, x, 443), openTCP(t, l.Internet, l.Dom0, dom0, 22))
	}
	alive := func(when string) {
		t.Helper()
		for _, c := range conns {
			if err := c.Check(testContext(t)); err != nil {
				t.Fatalf("%s: %v", when, err)
			}
		}
		// New ones as well, which need ARP and ND to work.
		for _, a := range []netip.Addr{l.Internet.Addr4(), l.Internet.Addr6()} {
			must(t, l.Dom0.Transfer(testContext(t), netip.AddrPortFrom(a, 443), 1000))
		}
		for _, a := range []netip.Addr{l.Dom0.Addr4(), l.Dom0.Addr6()} {
			must(t, l.Internet.Transfer(testContext(t), netip.AddrPortFrom(a, 22), 1000))
		}
	}
	before, err := l.Dom0State()
	must(t, err)
	state := t.TempDir() // where the second run finds what the first has left
	alive("before")
	p := startRouter(t, l, "--state", state)
	alive("while it runs")
	must(t, p.Kill())
	alive("after SIGKILL")
	p = startRouter(t, l, "--state", state)
	alive("while it runs again")
	ping(t, l.Guests[0].Node, l.Internet.Addr4())
	must(t, p.Stop())
	alive("after SIGTERM")
	same(t, l, before)
}

// same compares dom0's links, addresses, routes, bridge and nftables with what they were.
func same(t *testing.T, l *lab.Lab, before []string) {
	t.Helper()
	err := lab.Await(testContext(t), "dom0 as it was", func() (bool, error) {
		now, err := l.Dom0State()
		return err == nil && len(lab.DiffState(before, now)) == 0, err
	})
	if err != nil {
		now, _ := l.Dom0State()
		t.Fatalf("%v\n%s", err, strings.Join(lab.DiffState(before, now), "\n"))
	}
}

// A hundred starts and stops leave dom0 as it was, and each one routes.
func TestStartStop(t *testing.T) {
	l := buildLab(t, "", lab.Options{})
	before, err := l.Dom0State()
	must(t, err)
	for range 100 {
		p := startRouter(t, l)
		ping(t, l.Guests[0].Node, l.Internet.Addr6())
		must(t, p.Stop())
		same(t, l, before)
	}
}

// TCP through a hop of 1400 bytes: the upstream's fragmentation needed and packet too big reach the sender. And the other way
// round: the guests' link is the smaller one, and the router itself says so.
func TestPathMTU(t *testing.T) {
	for _, c := range []struct {
		name     string
		hop, own int
	}{{"1400 bytes upstream", 1400, 0}, {"1400 bytes toward the guests", 0, 1400}} {
		t.Run(c.name, func(t *testing.T) {
			src := ""
			if c.own != 0 {
				src = strings.Replace(open+guests+routed4+`
uplink "eth0" {
  gateway4 = "192.0.1.1"
  gateway6 = "2001:db8:3:2::1"
}
network "v6" {
  prefix   = "2001:db8:3:2::/64"
  gateway  = "2001:db8:3:2:1::1"
  upstream = "proxied"
}`, `bridge "xenbr0" {}`, `bridge "xenbr0" { mtu = 1400 }`, 1)
			}
			l := buildLab(t, src, lab.Options{})
			if c.hop != 0 {
				must(t, l.SetHopMTU(c.hop))
			}
			startRouter(t, l)
			for _, a := range []netip.Addr{l.Internet.Addr4(), l.Internet.Addr6()} {
				_, err := l.Internet.ServeTCP(443)
				must(t, err)
				must(t, l.Guests[0].Transfer(testContext(t), netip.AddrPortFrom(a, 443), 2<<20))
			}
			for _, a := range []netip.Addr{l.Guests[0].Addr4(), l.Guests[0].Addr6()} {
				_, err := l.Guests[0].ServeTCP(443)
				must(t, err)
				must(t, l.Internet.Transfer(testContext(t), netip.AddrPortFrom(a, 443), 2<<20))
			}
			if c.own != 0 { // with the right MTU (facts N4), from the gateway of the guest's network
				for a, size := range map[netip.Addr]int{l.Guests[0].Addr4(): 1472, l.Guests[0].Addr6(): 1452} {
					_, err := l.Internet.Ping(testContext(t), a, lab.PingOptions{Size: size, DontFragment: true})
					var said *lab.ICMPError
					if !errors.As(err, &said) || said.MTU != c.own || said.From != l.Config.NetworkOf(a).Gateway {
						t.Errorf("1500 bytes to %s: %v, want to be told of %d bytes by %s", a, err, c.own, l.Config.NetworkOf(a).Gateway)
					}
				}
			}
			// Without DF IPv4 is fragmented on the way, and arrives.
			for _, n := range []*lab.Node{l.Internet, l.Guests[0].Node} {
				must(t, n.SetSysctl("net.ipv4.ip_no_pmtu_disc", "1"))
				must(t, n.SetSysctl("net.ipv4.route.flush", "1"))
			}
			for _, size := range []int{1472, 4000} {
				_, err := l.Internet.Ping(testContext(t), l.Guests[0].Addr4(), lab.PingOptions{Size: size, Every: 200 * time.Millisecond})
				must(t, err)
				_, err = l.Guests[0].Ping(testContext(t), l.Internet.Addr4(), lab.PingOptions{Size: size, Every: 200 * time.Millisecond})
				must(t, err)
			}
		})
	}
}

// The uplink goes down and comes up, vanishes and is made again, and so do TAP, TUN, a vif and the bridge: the same process
// goes on.
func TestFlaps(t *testing.T) {
	l := buildLab(t, "", lab.Options{})
	p := startRouter(t, l)
	g, cfg := l.Guests[0], l.Config
	reach := func(t *testing.T) {
		t.Helper()
		for _, a := range []netip.Addr{l.Internet.Addr4(), l.Internet.Addr6()} {
			ping(t, g.Node, a)
		}
		for _, a := range []netip.Addr{g.Addr4(), g.Addr6()} {
			ping(t, l.Internet, a)
			ping(t, l.Dom0, a)
		}
		ping(t, g.Node, l.Guests[1].Addr4())
	}
	reach(t)
	for range 10 {
		must(t, l.Dom0.SetDown(l.Dom0.Link))
		_, _ = g.Ping(expired(t), l.Internet.Addr4(), lab.PingOptions{}) // something to send while it is down
		must(t, l.Dom0.SetUp(l.Dom0.Link))
		must(t, l.RestoreUplink())
		reach(t)
	}
	t.Run("uplink deleted and made again", func(t *testing.T) {
		must(t, l.Dom0.DelLink(l.Dom0.Link))
		must(t, p.AwaitLog(testContext(t), regexp.MustCompile("the uplink is gone")))
		_, _ = g.Ping(expired(t), l.Internet.Addr4(), lab.PingOptions{}) // something to send while there is none
		must(t, l.MakeUplink())
		reach(t)
	})
	for _, name := range []string{cfg.Bridge.TAP, cfg.Host.Interface} {
		t.Run(name+" deleted", func(t *testing.T) {
			must(t, l.Dom0.DelLink(name))
			reach(t)
		})
	}
	for _, name := range []string{g.Domu.Vif, cfg.Bridge.Name} {
		t.Run(name+" down and up", func(t *testing.T) {
			must(t, l.Dom0.SetDown(name))
			must(t, l.Dom0.SetUp(name))
			reach(t)
		})
	}
	select {
	case <-p.Exited():
		t.Error("the process has ended")
	default:
	}
	if s := status(t, p); s.ForeignMAC != 0 || s.Drops[policy.Internal.String()] != 0 {
		t.Errorf("foreign MACs %d, drops %v", s.ForeignMAC, s.Drops)
	}
	must(t, p.Stop())
}

// A router without an uplink waits, and does not spin.
func TestNoBusyLoop(t *testing.T) {
	l := buildLab(t, "", lab.Options{})
	p := startRouter(t, l)
	must(t, l.Dom0.DelLink(l.Dom0.Link))
	must(t, p.AwaitLog(testContext(t), regexp.MustCompile("the uplink is gone")))
	before, err := p.CPU()
	must(t, err)
	// That nothing happens has no event: two guests talk through the router for a second.
	for range 20 {
		ping(t, l.Guests[0].Node, l.Guests[1].Addr4())
		time.Sleep(50 * time.Millisecond)
	}
	after, err := p.CPU()
	must(t, err)
	if used := after - before; !wire.RaceEnabled && used > 300*time.Millisecond {
		t.Errorf("%v of processor time in a second without an uplink", used)
	}
}

// What the file leaves out is the kernel's, and follows it: another gateway, none, and one again.
func TestDefaultsFollowTheKernel(t *testing.T) {
	l := buildLab(t, open+guests+routed4+`
uplink "eth0" {}
network "v6" {
  prefix   = "2001:db8:3:2::/64"
  gateway  = "2001:db8:3:2:1::1"
  upstream = "proxied"
}`, lab.Options{})
	p := startRouter(t, l)
	g, dom0 := l.Guests[0], l.Dom0
	for dst, all := range map[netip.Addr]netip.Prefix{
		l.Internet.Addr4(): netip.PrefixFrom(netip.IPv4Unspecified(), 0), l.Internet.Addr6(): netip.PrefixFrom(netip.IPv6Unspecified(), 0),
	} {
		ping(t, g.Node, dst)
		must(t, dom0.DelRoute(dom0.Link, all))
		must(t, p.AwaitLog(testContext(t), regexp.MustCompile(map[bool]string{true: "no IPv4 gateway", false: "no IPv6 gateway"}[dst.Is4()])))
		_, err := g.Ping(testContext(t), dst, lab.PingOptions{})
		if said := (*lab.ICMPError)(nil); !errors.As(err, &said) || said.Code != 0 || said.From != l.Config.NetworkOf(g.Addr4()).Gateway && said.From != l.Config.NetworkOf(g.Addr6()).Gateway {
			t.Errorf("without a default route %s: %v, want net unreachable from the gateway", dst, err)
		}
		// The upstream router gets another address, and dom0 a route by it.
		other := netip.MustParsePrefix("fe80::5/64")
		if dst.Is4() {
			other = netip.MustParsePrefix("192.0.1.5/26")
		}
		must(t, l.Gateway.AddAddr(l.Gateway.Link, other))
		must(t, dom0.AddRoute(dom0.Link, lab.Route{Dst: all, Via: other.Addr(), OnLink: true}))
		reaches(t, g.Node, dst)
	}
}

// The uplink's MTU changes while the router runs, also below what IPv4 and IPv6 need (facts F3): it follows, says so, and
// lives.
func TestMTUChanges(t *testing.T) {
	l := buildLab(t, "", lab.Options{})
	p := startRouter(t, l)
	g := l.Guests[0]
	uplink, tap := l.Dom0.Link, l.Config.Bridge.TAP
	for _, c := range []struct {
		link string
		mtu  int
	}{{uplink, 9000}, {uplink, 1280}, {uplink, 1279}, {uplink, 576}, {uplink, 68}, {uplink, 1500}, {tap, 9000}, {tap, 1280}, {tap, 68}, {tap, 1500}} {
		must(t, l.Dom0.SetMTU(c.link, c.mtu))
		if c.link == uplink && c.mtu < 1280 {
			must(t, p.AwaitLog(testContext(t), regexp.MustCompile(fmt.Sprintf("has an MTU of %d", c.mtu))))
		}
		for _, a := range []netip.Addr{l.Internet.Addr4(), l.Internet.Addr6()} {
			_, _ = g.Ping(expired(t), a, lab.PingOptions{Size: 1400})
		}
		if c.mtu >= 576 {
			reaches(t, g.Node, l.Internet.Addr4())
		}
	}
	must(t, l.RestoreUplink())
	for _, a := range []netip.Addr{l.Internet.Addr4(), l.Internet.Addr6()} {
		reaches(t, g.Node, a)
	}
	if s := status(t, p); s.Drops[policy.Internal.String()] != 0 {
		t.Errorf("drops %v", s.Drops)
	}
}

// expired is a context that gives a call time to send, and none to wait.
func expired(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// The router runs beside a kernel that forwards and proxies: exactly one copy of each packet leaves, and it says so.
func TestKernelForwardsAsWell(t *testing.T) {
	l := buildLab(t, "", lab.Options{})
	for _, key := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv6.conf.all.proxy_ndp", "net.ipv4.conf.all.proxy_arp"} {
		must(t, l.Dom0.SetSysctl(key, "1"))
	}
	p := startRouter(t, l)
	if !strings.Contains(p.Log(), "ip_forward") {
		t.Errorf("the log does not say that the kernel forwards as well:\n%s", p.Log())
	}
	gw, err := l.Gateway.Sniff(l.Gateway.Link, lab.SniffOptions{Keep: isEcho})
	must(t, err)
	one, err := l.Guests[0].Sniff(l.Guests[0].Link, lab.SniffOptions{Keep: isEcho})
	must(t, err)
	const pings = 20
	for i := range pings {
		for _, a := range []netip.Addr{l.Internet.Addr4(), l.Internet.Addr6()} {
			_, err := l.Guests[0].Ping(testContext(t), a, lab.PingOptions{ID: uint16(100 + i)})
			must(t, err)
		}
		for _, a := range []netip.Addr{l.Guests[0].Addr4(), l.Guests[0].Addr6()} {
			_, err := l.Internet.Ping(testContext(t), a, lab.PingOptions{ID: uint16(200 + i)})
			must(t, err)
		}
	}
	for name, s := range map[string]*lab.Sniffer{"on the uplink": gw, "at the guest": one} {
		var in int
		for _, f := range s.Frames() {
			if !f.Outgoing {
				in++
			}
		}
		// A request or an answer of each of four kinds.
		if in != 4*pings {
			t.Errorf("%s %d echo frames arrived, want %d", name, in, 4*pings)
		}
	}
}

func isEcho(f []byte) bool {
	var p policy.Packet
	return p.Parse(f, policy.Offload{}) == policy.None && (p.IsEchoRequest() || p.Proto == policy.ProtoICMP && p.ICMPType == 0 || p.Proto == policy.ProtoICMPv6 && p.ICMPType == 129)
}
