package integration

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"udrouter/integration/lab"
)

// serving is a network whose guests are configured by the router, under a policy that lets the internet in to one port.
const serving = guests + `
uplink "eth0" {
  gateway4 = "192.0.1.1"
  gateway6 = "2001:db8:3:2::1"
}
network "v4" {
  prefix   = "192.0.2.0/24"
  gateway  = "192.0.2.1"
  upstream = "routed"
  dhcp {
    dns = ["198.51.100.7"]
  }
}
network "v6" {
  prefix   = "2001:db8:3:2::/64"
  gateway  = "2001:db8:3:2:1::1"
  upstream = "proxied"
  ra {
    dns = ["2001:db8:ffff::7"]
  }
  dhcp {}
}
policy "open" {
  ingress {
    default = "reject"
    rule "ssh" {
      action = "accept"
      proto  = "tcp"
      ports  = [22]
    }
  }
}
`

// networkd runs systemd-networkd in a node, without anything else of systemd, for a link that is configured by DHCP and router advertisements as a stock installation
// has it. /sys is for reading alone, as in a container: there is no udev to wait for.
const networkd = `
set -e
mount -o remount,ro /sys
mount -t tmpfs run /run
mkdir -p /run/systemd/network /run/systemd/netif
chown -R systemd-network:systemd-network /run/systemd/netif
cat >/run/systemd/network/10-guest.network
exec /lib/systemd/systemd-networkd
`

const stock = `[Match]
Name=%s
[Network]
DHCP=yes
IPv6AcceptRA=yes
`

// runNetworkd runs it in a guest until the test ends.
func runNetworkd(t *testing.T, g *lab.Guest) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cmd := g.Command(ctx, "sh", "-c", networkd)
	cmd.Stdin = strings.NewReader(fmt.Sprintf(stock, g.Link))
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.Env = append(os.Environ(), "SYSTEMD_LOG_LEVEL=debug", "SYSTEMD_LOG_TARGET=console")
	must(t, cmd.Start())
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(said.String())
		}
	})
}

// configured waits until a guest has these addresses, and these default routes and no others.
func configured(t *testing.T, g *lab.Guest, addrs []netip.Prefix, gateways ...string) {
	t.Helper()
	must(t, lab.Await(testContext(t), g.Domu.Name+"'s configuration", func() (bool, error) {
		have, err := g.AddrsOf(g.Link)
		if err != nil {
			return false, err
		}
		routes, err := g.DefaultRoutes(g.Link)
		for _, a := range addrs {
			if !slices.Contains(have, a) {
				return false, err
			}
		}
		for _, a := range gateways {
			if !slices.Contains(routes, netip.MustParseAddr(a)) {
				return false, err
			}
		}
		return len(routes) == len(gateways), err
	}))
}

// A guest that knows nothing but DHCP and router advertisements gets what it is bound to and reaches the internet, and is reached as its policy says, in both
// families. Its client is systemd-networkd; its neighbour's, for the router alone, is the kernel.
func TestGuestIsConfigured(t *testing.T) {
	l := buildLab(t, serving, lab.Options{})
	one, two := l.Guest("one"), l.Guest("two")
	for _, g := range []*lab.Guest{one, two} {
		must(t, g.Strip(g.Link))
	}
	startRouter(t, l)

	runNetworkd(t, one)
	for _, a := range two.Domu.IPv6 { // with an address by hand
		must(t, two.AddAddr(two.Link, a))
	}
	configured(t, one, []netip.Prefix{netip.MustParsePrefix("192.0.2.10/24"), netip.MustParsePrefix("2001:db8:3:2:1::10/128")}, "192.0.2.1", "fe80::1")
	configured(t, two, two.Domu.IPv6, "fe80::1")

	for _, a := range []netip.Addr{l.Internet.Addr4(), l.Internet.Addr6()} {
		_, err := l.Internet.ServeTCP(443)
		if a.Is4() {
			must(t, err)
		}
		must(t, one.Transfer(testContext(t), netip.AddrPortFrom(a, 443), 100000))
	}
	must(t, two.Transfer(testContext(t), netip.AddrPortFrom(l.Internet.Addr6(), 443), 100000))
	for _, port := range []uint16{22, 23} {
		_, err := one.ServeTCP(int(port))
		must(t, err)
		for _, p := range append(slices.Clone(one.Domu.IPv4), one.Domu.IPv6...) {
			if p.Addr().IsLinkLocalUnicast() {
				continue
			}
			c, err := l.Internet.Open(testContext(t), netip.AddrPortFrom(p.Addr(), port))
			if (err == nil) != (port == 22) {
				t.Errorf("the internet to %v, port %d: %v", p.Addr(), port, err)
			}
			if c != nil {
				must(t, c.Close())
			}
		}
	}
}

// A guest that has a prefix to route and no address besides gets one out of it, from which it reaches the internet. Its client, which asks for the prefix as well, would
// give itself none.
func TestGuestWithAPrefixIsConfigured(t *testing.T) {
	l := buildLab(t, strings.Replace(serving, `"2001:db8:3:2:1::10"`, `"2001:db8:3:2:5::/80"`, 1), lab.Options{})
	g := l.Guest("one")
	must(t, g.Strip(g.Link))
	startRouter(t, l)
	runNetworkd(t, g)
	configured(t, g, []netip.Prefix{netip.MustParsePrefix("192.0.2.10/24"), netip.MustParsePrefix("2001:db8:3:2:5::1/128")}, "192.0.2.1", "fe80::1")
	_, err := l.Internet.ServeTCP(443)
	must(t, err)
	must(t, g.Transfer(testContext(t), netip.AddrPortFrom(l.Internet.Addr6(), 443), 100000))
}

// A process takes over whose file has no ra block any more: guests have no default router then, without waiting for the lifetime's end.
func TestGuestIsToldByTheNextProcess(t *testing.T) {
	l := buildLab(t, serving, lab.Options{})
	g := l.Guest("two")
	must(t, g.Strip(g.Link))
	p := startRouter(t, l)
	routers := func(want ...netip.Addr) {
		t.Helper()
		must(t, lab.Await(testContext(t), fmt.Sprintf("default routers %v", want), func() (bool, error) {
			have, err := g.DefaultRoutes(g.Link)
			return slices.Equal(have, want), err
		}))
	}
	routers(netip.MustParseAddr("fe80::1"))
	src := readFile(t, filepath.Join(l.Dir(), "router.hcl"))
	const block = "  ra {\n    dns = [\"2001:db8:ffff::7\"]\n  }\n"
	if !strings.Contains(src, block) {
		t.Fatalf("the file has no ra block:\n%s", src)
	}
	takeOver(t, l, p, "-c", writeFile(t, l.Dir(), "next.hcl", []byte(strings.Replace(src, block, "", 1)), 0o644))
	<-p.Exited()
	routers()
}

// With on_link, a guest's kernel takes the network for on-link by what the router advertises. It asks for its neighbour itself then, is answered by the router, and reaches
// the neighbour by policy. Nothing changes for who is out of the network. Without on_link it has no such route.
func TestOnLinkGuestsReachEachOther(t *testing.T) {
	network := netip.MustParsePrefix("2001:db8:3:2::/64")
	for _, on := range []bool{true, false} {
		t.Run(fmt.Sprint(on), func(t *testing.T) {
			l := buildLab(t, strings.Replace(serving, "  ra {\n", fmt.Sprintf("  ra {\n    on_link = %t\n", on), 1), lab.Options{})
			one, two := l.Guest("one"), l.Guest("two")
			for _, g := range []*lab.Guest{one, two} {
				must(t, g.Strip(g.Link))
			}
			startRouter(t, l)
			for _, g := range []*lab.Guest{one, two} {
				for _, a := range g.Domu.IPv6 { // alone, without its network
					must(t, g.AddAddr(g.Link, a))
				}
				configured(t, g, g.Domu.IPv6, "fe80::1")
				must(t, lab.Await(testContext(t), fmt.Sprintf("that %s takes its network for on-link: %t", g.Domu.Name, on), func() (bool, error) {
					have, err := g.OnLink(g.Link) // from the same advertisement as the default route
					return slices.Contains(have, network) == on, err
				}))
			}
			for _, port := range []uint16{22, 23} {
				_, err := two.ServeTCP(int(port))
				must(t, err)
				c, err := one.Open(testContext(t), netip.AddrPortFrom(two.Domu.IPv6[0].Addr(), port))
				if (err == nil) != (port == 22) {
					t.Errorf("to the neighbour's port %d: %v", port, err)
				}
				if c != nil {
					must(t, c.Check(testContext(t)))
					must(t, c.Close())
				}
			}
			_, err := l.Internet.ServeTCP(443)
			must(t, err)
			must(t, one.Transfer(testContext(t), netip.AddrPortFrom(l.Internet.Addr6(), 443), 100000))
		})
	}
}
