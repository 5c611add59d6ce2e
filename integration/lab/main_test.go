package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"udrouter/config"
	"udrouter/policy"
)

// TestMain lets the test binary stand in for the programs that the lab starts: a router, when it is
// called like one, and the lab's own command.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && helpers[os.Args[1]] != nil {
		if err := helpers[os.Args[1]](os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// helpers are the programs by their first argument.
var helpers = map[string]func(args []string) error{
	"links": links,
	"sleep": func([]string) error { time.Sleep(time.Hour); return nil },
	"run":   fakeRouter,
	"hold":  holdLab,
	"user":  asUser,
	"caps":  fewerCaps,
	"weak":  asWeakRoot,
	"lab":   userLab,
	"mount": userMounts,
	"fixed": fixedSysctls,
}

// testTimeout ends a test that hangs with a message instead of a stack of everything; none waits
// for it otherwise.
const testTimeout = 2 * time.Minute

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

// mac is 00:16:3e:00:00:last, from Xen's range.
func mac(last byte) policy.MAC { return policy.MAC{0x00, 0x16, 0x3e, 0, 0, last} }

func prefixes(s ...string) (list []netip.Prefix) {
	for _, s := range s {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			p = host(netip.MustParseAddr(s))
		}
		list = append(list, p)
	}
	return list
}

func addr(s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	return netip.MustParseAddr(s)
}

func domu(name string, last byte, ipv4, ipv6 []netip.Prefix) config.Domu {
	return config.Domu{
		Name: name, Vif: fmt.Sprintf("vif%d.0", last), MAC: mac(last), IPv4: ipv4, IPv6: ipv6, Policy: "untrusted",
	}
}

// untrusted is the policy of the reference file.
func untrusted() policy.Policy {
	tcp := func(name string, ports ...uint16) policy.Rule {
		r := policy.Rule{Name: name, Action: policy.Accept, Proto: protoTCP}
		for _, p := range ports {
			r.Ports = append(r.Ports, policy.PortRange{First: p, Last: p})
		}
		return r
	}
	noMail := tcp("no-smtp", 25)
	noMail.Action = policy.Reject
	return policy.Policy{
		Name:   "untrusted",
		Egress: policy.Chain{Default: policy.Accept, Rules: []policy.Rule{noMail}},
		Ingress: policy.Chain{Default: policy.Drop, Rules: []policy.Rule{
			tcp("ssh", 22), tcp("web", 80, 443),
			{Name: "ping4", Action: policy.Accept, Proto: protoICMP},
			{Name: "ping6", Action: policy.Accept, Proto: protoICMPv6},
		}},
	}
}

// seed is the reference network, by hand.
func seed() *config.Config {
	return &config.Config{
		File:   "router.hcl",
		Uplink: config.Uplink{Name: "eth0", Gateway4: addr("192.0.1.1"), Gateway6: addr("2001:db8:3:2::1")},
		Bridge: config.Bridge{Name: "xenbr0", TAP: "udr0", Isolate: true},
		Networks: []config.Network{
			{Name: "v4", Prefix: netip.MustParsePrefix("192.0.2.0/24"), Gateway: addr("192.0.2.1"), Upstream: config.Routed},
			{Name: "v6", Prefix: netip.MustParsePrefix("2001:db8:3:2::/64"), Gateway: addr("2001:db8:3:2:1::1"), Upstream: config.Proxied},
		},
		Policies: []policy.Policy{untrusted()},
		Domus: []config.Domu{
			domu("one", 1, prefixes("192.0.2.10"), prefixes("2001:db8:3:2:1::10")),
			domu("two", 2, prefixes("192.0.2.11"), prefixes("2001:db8:3:2:1::11")),
		},
		Host: &config.Host{Interface: "udrhost"},
	}
}

// build makes a lab that is closed with the test.
func build(t *testing.T, cfg *config.Config, o Options) *Lab {
	t.Helper()
	l, err := Build(testContext(t), cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("closing the lab: %v", err)
		}
	})
	return l
}

// kernel makes a lab that the kernel routes, guests apart.
func kernel(t *testing.T, cfg *config.Config, o Options) *Lab {
	t.Helper()
	l := build(t, cfg, o)
	if err := l.KernelRouter(KernelOptions{Isolate: true}); err != nil {
		t.Fatal(err)
	}
	return l
}
