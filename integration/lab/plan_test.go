package lab

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"udrouter/config"
)

// changed is the reference file with a change.
func changed(f func(*config.Config)) *config.Config {
	c := seed()
	f(c)
	return c
}

// onlyFour is the reference file without IPv6.
func onlyFour() *config.Config {
	return changed(func(c *config.Config) {
		c.Uplink.Gateway6 = netip.Addr{}
		c.Networks = c.Networks[:1]
		for i := range c.Domus {
			c.Domus[i].IPv6 = nil
		}
	})
}

// onlySix is the reference file without IPv4.
func onlySix() *config.Config {
	return changed(func(c *config.Config) {
		c.Uplink.Gateway4 = netip.Addr{}
		c.Networks = c.Networks[1:]
		for i := range c.Domus {
			c.Domus[i].IPv4 = nil
		}
	})
}

// linkLocals has link-local gateways on both sides of the router.
func linkLocals() *config.Config {
	return changed(func(c *config.Config) {
		c.Uplink.Gateway6 = addr("fe80::1")
		c.Networks[1].Gateway = addr("fe80::1")
	})
}

// onLink has the guests' IPv4 network on the provider's link, gateway4 in it.
func onLink() *config.Config {
	return changed(func(c *config.Config) {
		c.Uplink.Gateway4 = addr("192.0.2.254")
		c.Networks[0].Upstream = config.Proxied
	})
}

// routedSix has the /64 routed, with the gateway in another prefix.
func routedSix() *config.Config {
	return changed(func(c *config.Config) {
		c.Uplink.Gateway6 = addr("2001:db8:3:1::1")
		c.Networks[1].Upstream = config.Routed
	})
}

// wholePrefix binds a guest to all of an IPv6 network and a part of the IPv4 one.
func wholePrefix() *config.Config {
	return changed(func(c *config.Config) {
		c.Networks = append(c.Networks, config.Network{
			Name: "customer", Prefix: netip.MustParsePrefix("2001:db8:30::/64"), Gateway: addr("fe80::1"), Upstream: config.Proxied,
		})
		c.Uplink.Gateway6 = addr("fe80::1")
		c.Networks = slices.Delete(c.Networks, 1, 2)
		c.Domus[0].IPv4 = prefixes("192.0.2.16/28")
		c.Domus[0].IPv6 = prefixes("2001:db8:30::/64")
		c.Domus[1].IPv6 = nil
	})
}

// severalNetworks has two of each family, with a guest in all of them.
func severalNetworks() *config.Config {
	return changed(func(c *config.Config) {
		c.Networks = append(c.Networks,
			config.Network{Name: "v4b", Prefix: netip.MustParsePrefix("198.51.100.0/25"), Gateway: addr("198.51.100.1"), Upstream: config.Proxied},
			config.Network{Name: "v6b", Prefix: netip.MustParsePrefix("2001:db8:ffff::/64"), Gateway: addr("2001:db8:ffff::1"), Upstream: config.Routed})
		c.Domus[1].IPv4 = prefixes("192.0.2.11", "198.51.100.11")
		c.Domus[1].IPv6 = prefixes("2001:db8:3:2:1::11", "2001:db8:ffff::11", "fe80::11")
	})
}

// unnamed leaves to the kernel what can be left to it.
func unnamed() *config.Config {
	return changed(func(c *config.Config) { c.Uplink = config.Uplink{Name: "eth0"} })
}

var shapes = []struct {
	name  string
	cfg   func() *config.Config
	dom0  string // its addresses
	gw    string // the upstream router's, toward it
	inet  string
	guest string // the last one's addresses
	skips int
}{
	{"the reference", seed, "192.0.1.3/26 2001:db8:3:2:1::1/64", "192.0.1.1/26 2001:db8:3:2::1/64",
		"198.51.100.7/24 2001:db8:ffff::7/64", "192.0.2.11/24 2001:db8:3:2:1::11/64", 0},
	{"IPv4 only", onlyFour, "192.0.1.3/26", "192.0.1.1/26", "198.51.100.7/24", "192.0.2.11/24", 0},
	{"IPv6 only", onlySix, "2001:db8:3:2:1::1/64", "2001:db8:3:2::1/64", "2001:db8:ffff::7/64", "2001:db8:3:2:1::11/64", 0},
	{"link-local gateways", linkLocals, "192.0.1.3/26 2001:db8:3:2::3/64", "192.0.1.1/26 fe80::1/64",
		"198.51.100.7/24 2001:db8:ffff::7/64", "192.0.2.11/24 2001:db8:3:2:1::11/64", 0},
	{"gateway4 in the guests' network", onLink, "192.0.2.3/24 2001:db8:3:2:1::1/64", "192.0.2.254/24 2001:db8:3:2::1/64",
		"198.51.100.7/24 2001:db8:ffff::7/64", "192.0.2.11/24 2001:db8:3:2:1::11/64", 0},
	{"IPv6 routed", routedSix, "192.0.1.3/26 2001:db8:3:1::3/64", "192.0.1.1/26 2001:db8:3:1::1/64",
		"198.51.100.7/24 2001:db8:ffff::7/64", "192.0.2.11/24 2001:db8:3:2:1::11/64", 0},
	{"a guest with prefixes", wholePrefix, "192.0.1.3/26 2001:db8:fffe::3/64", "192.0.1.1/26 fe80::1/64 2001:db8:fffe::1/64",
		"198.51.100.7/24 2001:db8:ffff::7/64", "192.0.2.11/24", 0},
	{"several networks", severalNetworks, "192.0.1.3/26 2001:db8:3:2:1::1/64", "192.0.1.1/26 2001:db8:3:2::1/64",
		"203.0.113.7/24 2001:db8:eeee::7/64",
		"192.0.2.11/24 198.51.100.11/25 2001:db8:3:2:1::11/64 2001:db8:ffff::11/64 fe80::11/64", 0},
	{"gateways left to the kernel", unnamed, "192.0.1.3/26 2001:db8:3:2:1::1/64", "192.0.1.1/26 fe80::1/64",
		"198.51.100.7/24 2001:db8:ffff::7/64", "192.0.2.11/24 2001:db8:3:2:1::11/64", 0},
	{"nothing but interfaces", func() *config.Config {
		return changed(func(c *config.Config) { *c = config.Config{Uplink: config.Uplink{Name: "eth0"}, Bridge: c.Bridge} })
	}, "192.0.1.3/26 2001:db8:fffe::3/64", "192.0.1.1/26 fe80::1/64 2001:db8:fffe::1/64", "198.51.100.7/24 2001:db8:ffff::7/64", "", 0},
	{"a guest without vif, one outside", func() *config.Config {
		return changed(func(c *config.Config) {
			c.Domus[0].Vif = ""
			c.Domus[1].IPv4 = prefixes("10.1.2.3")
		})
	}, "192.0.1.3/26 2001:db8:3:2:1::1/64", "192.0.1.1/26 2001:db8:3:2::1/64",
		"198.51.100.7/24 2001:db8:ffff::7/64", "2001:db8:3:2:1::11/64", 2},
	{"point to point", func() *config.Config {
		return changed(func(c *config.Config) { c.Uplink.Address4 = addr("203.0.113.80") })
	}, "203.0.113.80/32 2001:db8:3:2:1::1/64", "192.0.1.1/32 2001:db8:3:2::1/64",
		"198.51.100.7/24 2001:db8:ffff::7/64", "192.0.2.11/24 2001:db8:3:2:1::11/64", 0},
	{"dom0's address, a wider subnet", func() *config.Config {
		return changed(func(c *config.Config) { c.Uplink.Address4 = addr("192.0.1.200") })
	}, "192.0.1.200/24 2001:db8:3:2:1::1/64", "192.0.1.1/24 2001:db8:3:2::1/64",
		"198.51.100.7/24 2001:db8:ffff::7/64", "192.0.2.11/24 2001:db8:3:2:1::11/64", 0},
	{"dom0's address alone", func() *config.Config {
		return changed(func(c *config.Config) { c.Uplink.Gateway4, c.Uplink.Address4 = netip.Addr{}, addr("203.0.113.80") })
	}, "203.0.113.80/26 2001:db8:3:2:1::1/64", "203.0.113.65/26 2001:db8:3:2::1/64",
		"198.51.100.7/24 2001:db8:ffff::7/64", "192.0.2.11/24 2001:db8:3:2:1::11/64", 0},
}

func TestPlan(t *testing.T) {
	for _, c := range shapes {
		t.Run(c.name, func(t *testing.T) {
			p, err := newPlan(c.cfg())
			if err != nil {
				t.Fatal(err)
			}
			var guest []netip.Prefix
			if len(p.guests) > 0 {
				guest = p.guests[len(p.guests)-1].addrs
			}
			for _, x := range []struct {
				what, want string
				got        []netip.Prefix
			}{
				{"dom0", c.dom0, p.dom0},
				{"the upstream router", c.gw, append([]netip.Prefix{p.gw4, p.gw6}, p.gwMore...)},
				{"the internet", c.inet, []netip.Prefix{p.inet4, p.inet6}},
				{"the last guest", c.guest, guest},
			} {
				if got := text(x.got); got != x.want {
					t.Errorf("%s has %q, want %q", x.what, got, x.want)
				}
			}
			if len(p.skipped) != c.skips {
				t.Errorf("skipped: %q", p.skipped)
			}
		})
	}
}

// TestPlanGivesNothingTwice holds every plan against what the file gives away.
func TestPlanGivesNothingTwice(t *testing.T) {
	for _, c := range shapes {
		t.Run(c.name, func(t *testing.T) {
			cfg := c.cfg()
			p, err := newPlan(cfg)
			if err != nil {
				t.Fatal(err)
			}
			owner := map[netip.Addr]string{}
			give := func(who string, list ...netip.Prefix) {
				for _, a := range list {
					if !a.IsValid() {
						continue
					}
					if other := owner[a.Addr()]; other != "" {
						t.Errorf("%s has %s as well as %s", who, a, other)
					}
					owner[a.Addr()] = who
				}
			}
			give("internet", p.inet4, p.inet6)
			give("gw", append([]netip.Prefix{p.gw4, p.gw6}, p.gwMore...)...)
			give("dom0", p.dom0...)
			for _, g := range p.guests {
				give(g.domu.Name, g.addrs...)
				for _, a := range g.addrs {
					if !slices.ContainsFunc(append(slices.Clone(g.domu.IPv4), g.domu.IPv6...), func(b netip.Prefix) bool { return b.Contains(a.Addr()) }) {
						t.Errorf("%s has %s, which it is not bound to", g.domu.Name, a)
					}
				}
			}
			for i := range cfg.Networks {
				n := &cfg.Networks[i]
				a, ok := p.unbound(cfg, n)
				if ok && (!n.Prefix.Contains(a) || owner[a] != "" || bound(cfg, a)) {
					t.Errorf("%s is called unbound", a)
				}
				if !ok && n.Name != "customer" {
					t.Errorf("network %s has no unbound address", n.Name)
				}
			}
		})
	}
}

func TestPlanRefuses(t *testing.T) {
	for _, c := range []struct {
		name, want string
		cfg        *config.Config
	}{
		{"no bridge", "no bridge", changed(func(c *config.Config) { c.Bridge.Name = "" })},
		{"no prefix", `network "v4" has no prefix`, changed(func(c *config.Config) { c.Networks[0].Prefix = netip.Prefix{} })},
		{"everything", "cover all of", changed(func(c *config.Config) { c.Networks[0].Prefix = netip.MustParsePrefix("0.0.0.0/0") })},
	} {
		if _, err := newPlan(c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestUsableAddressesOfAPrefix(t *testing.T) {
	p, err := newPlan(wholePrefix())
	if err != nil {
		t.Fatal(err)
	}
	// Of an IPv4 part of the network every address may be used; of a whole /64 not the routers' anycast.
	want := "192.0.2.16/24 192.0.2.31/24 2001:db8:30::1/64 2001:db8:30:0:ffff:ffff:ffff:ffff/64"
	if got := text(p.guests[0].addrs); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func text(list []netip.Prefix) string {
	var s []string
	for _, p := range list {
		if p.IsValid() {
			s = append(s, p.String())
		}
	}
	return strings.Join(s, " ")
}
