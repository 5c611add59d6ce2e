package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"udrouter/config"
	"udrouter/integration/dom0"
	"udrouter/integration/lab"
)

// waiting has the test program wait until it is killed, in a daemon's place.
const waiting = "DOCTOR_TEST_WAIT"

func TestMain(m *testing.M) {
	if os.Getenv(waiting) != "" {
		time.Sleep(time.Hour) // its parent, or what ends with that, ends it
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ward is a lab whose dom0 is looked at.
type ward struct {
	t    *testing.T
	lab  *lab.Lab
	ns   *lab.NS
	opts Options
}

func newWard(t *testing.T) *ward {
	cfg, diags := config.Parse("router.hcl", config.Reference)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	l, err := lab.Build(ctx, cfg, lab.Options{Source: config.Reference})
	must(t, err)
	t.Cleanup(func() { must(t, l.Close()) })
	return &ward{t: t, lab: l, ns: l.Dom0.NS, opts: Options{Config: cfg, StateDir: t.TempDir()}}
}

func (w *ward) findings() (list []Finding) {
	w.t.Helper()
	must(w.t, w.ns.Do(func() (err error) {
		list, err = Run(w.opts)
		return err
	}))
	return list
}

// do runs something in dom0.
func (w *ward) do(f func() error) {
	w.t.Helper()
	must(w.t, w.ns.Do(f))
}

func link(name string) netlink.Link {
	l, err := netlink.LinkByName(name)
	if err != nil {
		panic(err) // of the test's own making
	}
	return l
}

func addLink(l netlink.Link) error {
	if err := netlink.LinkAdd(l); err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

// dummy is an interface that leads nowhere; not every kernel has those of that kind.
func dummy(name string) netlink.Link {
	return &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
}

func addAddr(dev, cidr string) error {
	a, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	return netlink.AddrAdd(link(dev), a)
}

func ipNet(s string) *net.IPNet {
	_, n, err := net.ParseCIDR(s)
	if err != nil {
		panic(err)
	}
	return n
}

// apply does what a remedy says, as the commands in it would.
func (w *ward) apply(remedy string) error {
	remedy, _, _ = strings.Cut(remedy, ", or ")
	words := slices.DeleteFunc(strings.Fields(remedy), func(s string) bool { return s == "-6" || s == "dev" || s == "-w" })
	switch strings.Join(words[:min(3, len(words))], " ") {
	case "ip addr del":
		a, err := netlink.ParseAddr(words[3])
		if err != nil {
			return err
		}
		return netlink.AddrDel(link(words[4]), a)
	case "ip route del":
		r := &netlink.Route{Scope: netlink.SCOPE_NOWHERE} // any, as ip(8) has it
		dev := words[len(words)-1]
		r.LinkIndex = link(dev).Attrs().Index
		if r.Dst = ipNet("0.0.0.0/0"); words[3] != "default" {
			r.Dst = ipNet(words[3])
		}
		return netlink.RouteDel(r)
	case "ip route add": // default via GATEWAY
		return netlink.RouteAdd(&netlink.Route{LinkIndex: link(words[6]).Attrs().Index, Gw: net.ParseIP(words[5])})
	case "ip neigh del":
		a := net.ParseIP(words[4])
		family := netlink.FAMILY_V6
		if a.To4() != nil {
			family = netlink.FAMILY_V4
		}
		return netlink.NeighDel(&netlink.Neigh{LinkIndex: link(words[5]).Attrs().Index, Family: family, Flags: netlink.NTF_PROXY, IP: a})
	case "ip link set":
		l := link(words[3])
		switch words[4] {
		case "up":
			return netlink.LinkSetUp(l)
		case "nomaster":
			return netlink.LinkSetNoMaster(l)
		case "master":
			return netlink.LinkSetMaster(l, link(words[5]))
		case "mtu":
			n, err := strconv.Atoi(words[5])
			return errors.Join(err, netlink.LinkSetMTU(l, n))
		case "type":
			return netlink.BridgeSetMcastSnoop(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: words[3]}}, words[7] != "0")
		}
	case "nft delete table":
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		for family, word := range familyWords {
			if word == words[3] {
				conn.DelTable(&nftables.Table{Family: family, Name: words[4]})
			}
		}
		return conn.Flush()
	}
	switch words[0] {
	case "sysctl":
		for _, s := range words[1:] {
			key, value, _ := strings.Cut(s, "=")
			if err := os.WriteFile("/proc/sys/"+strings.NewReplacer(".", "/", "/", ".").Replace(key), []byte(value), 0); err != nil {
				return err
			}
		}
		return nil
	case "chmod":
		return os.Chmod(words[2], 0o644)
	case "chown":
		return os.Chown(words[2], 0, -1)
	}
	return fmt.Errorf("no such command: %s", remedy)
}

func sysctl(key, value string) func(*ward) error {
	return func(w *ward) error { return w.apply("sysctl -w " + key + "=" + value) }
}

func dropTable(family nftables.TableFamily, hook *nftables.ChainHook, device string) func(*ward) error {
	return func(*ward) error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		t := conn.AddTable(&nftables.Table{Family: family, Name: "others"})
		kind := nftables.ChainTypeFilter
		c := conn.AddChain(&nftables.Chain{Table: t, Name: "guard", Type: kind, Hooknum: hook, Priority: nftables.ChainPriorityFilter, Device: device})
		conn.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}})
		return conn.Flush()
	}
}

// A healthy lab has no findings. Each conflict is found, by its check and no other, and gone when the remedy has been applied as it was printed.
func TestConflicts(t *testing.T) {
	w := newWard(t)
	if list := w.findings(); len(list) > 0 {
		t.Fatalf("a healthy lab: %v", list)
	}
	vif := func(do func(netlink.Link) error) func(*ward) error {
		return func(*ward) error { return do(link("vif1.0")) }
	}
	for _, c := range []struct {
		name     string
		check    string
		severity Severity
		make     func(w *ward) error
		says     string // in what is found
		clean    func(w *ward) error
	}{
		{"forwarding of IPv4", "forwarding", Warning, sysctl("net.ipv4.ip_forward", "1"), "net.ipv4.ip_forward = 1", nil},
		{"forwarding of IPv6", "forwarding", Warning, sysctl("net.ipv6.conf.all.forwarding", "1"), "IPv6", nil},
		{"proxy ARP", "proxy", Problem, sysctl("net.ipv4.conf.all.proxy_arp", "1"), "ARP", nil},
		{"proxy NDP", "proxy", Problem, sysctl("net.ipv6.conf.all.proxy_ndp", "1"), "NDP", nil},
		{"proxy NDP on the uplink", "proxy", Problem, sysctl("net.ipv6.conf.eth0.proxy_ndp", "1"), "NDP for others on eth0", nil},
		{"proxy ARP on a vif", "proxy", Problem, sysctl("net.ipv4.conf.vif1/0.proxy_arp", "1"), "vif1.0", nil},
		{"a proxy entry", "proxy", Problem, func(*ward) error {
			return netlink.NeighAdd(&netlink.Neigh{LinkIndex: link("eth0").Attrs().Index, Family: netlink.FAMILY_V6, Flags: netlink.NTF_PROXY, IP: net.ParseIP("2001:db8:3:2:1::10")})
		}, "2001:db8:3:2:1::10 on eth0", nil},
		{"a proxy entry of IPv4", "proxy", Problem, func(*ward) error {
			return netlink.NeighAdd(&netlink.Neigh{LinkIndex: link("eth0").Attrs().Index, Family: netlink.FAMILY_V4, Flags: netlink.NTF_PROXY, IP: net.ParseIP("192.0.2.10")})
		}, "192.0.2.10 on eth0", nil},
		{"the bridge calls iptables", "br-netfilter", Warning, sysctl("net.bridge.bridge-nf-call-ip6tables", "1"), "ip6tables", nil},
		{"dummy0 has the guests' gateway", "addresses", Problem, func(*ward) error {
			return errors.Join(addLink(dummy("dummy0")), addAddr("dummy0", "192.0.2.1/24"))
		}, `network "v4"`, nil},
		{"dummy0 has that of IPv6", "addresses", Problem, func(*ward) error { return addAddr("dummy0", "2001:db8:3:2:1::1/64") }, `network "v6"`, nil},
		{"an address on the bridge", "addresses", Problem, func(*ward) error { return addAddr("xenbr0", "10.0.0.1/24") }, "10.0.0.1 on xenbr0", nil},
		{"an address on a vif", "addresses", Problem, func(*ward) error { return addAddr("vif2.0", "10.0.0.1/24") }, "vif2.0", nil},
		{"a guest's address on the uplink", "addresses", Problem, func(*ward) error { return addAddr("eth0", "192.0.2.10/32") }, `guest "one"`, nil},
		{"a route to guests", "routes", Problem, func(*ward) error {
			return netlink.RouteAdd(&netlink.Route{LinkIndex: link("dummy0").Attrs().Index, Dst: ipNet("2001:db8:3:2:1::/80")})
		}, "past the router", nil},
		{"another default route", "routes", Warning, func(*ward) error {
			return netlink.RouteAdd(&netlink.Route{LinkIndex: link("dummy0").Attrs().Index, Dst: ipNet("0.0.0.0/0"), Priority: 500, Scope: netlink.SCOPE_LINK})
		}, "dummy0", nil},
		{"a vif with another MTU", "mtu", Warning, vif(func(l netlink.Link) error { return netlink.LinkSetMTU(l, 1400) }), "1400", nil},
		{"a vif out of the bridge", "vifs", Problem, vif(netlink.LinkSetNoMaster), "no port of xenbr0", nil},
		{"a vif that is down", "vifs", Problem, vif(netlink.LinkSetDown), "down", nil},
		{"a stranger's port", "vifs", Warning, func(*ward) error {
			if err := addLink(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "vif9.0"}, PeerName: "peer"}); err != nil {
				return err
			}
			return netlink.LinkSetMaster(link("vif9.0"), link("xenbr0"))
		}, "vif9.0 is a port",
			func(*ward) error { return netlink.LinkSetNoMaster(link("vif9.0")) }},
		{"another MAC", "guest-mac", Warning, func(*ward) error {
			return netlink.NeighSet(&netlink.Neigh{LinkIndex: link("vif1.0").Attrs().Index, Family: unix.AF_BRIDGE, State: netlink.NUD_REACHABLE, Flags: netlink.NTF_MASTER,
				HardwareAddr: net.HardwareAddr{0, 0x16, 0x3e, 9, 9, 9}})
		}, "00:16:3e:09:09:09", func(*ward) error {
			return netlink.NeighDel(&netlink.Neigh{LinkIndex: link("vif1.0").Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_MASTER, HardwareAddr: net.HardwareAddr{0, 0x16, 0x3e, 9, 9, 9}})
		}},
		{"rules in the bridge", "filters", Warning, dropTable(nftables.TableFamilyBridge, nftables.ChainHookForward, ""), "bridge others", nil},
		{"rules at the vif", "filters", Warning, dropTable(nftables.TableFamilyNetdev, nftables.ChainHookIngress, "vif1.0"), "netdev others", nil},
		{"the uplink in a bridge", "uplink", Problem, func(*ward) error {
			if err := addLink(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br9"}}); err != nil {
				return err
			}
			return netlink.LinkSetMaster(link("eth0"), link("br9"))
		}, "port of br9", nil},
		{"a small MTU of the uplink", "mtu", Problem, func(*ward) error { return netlink.LinkSetMTU(link("eth0"), 1200) }, "1280", nil},
		{"the uplink is down", "uplink", Problem, func(*ward) error { return netlink.LinkSetDown(link("eth0")) }, "down", nil},
	} {
		if !t.Run(c.name, func(t *testing.T) {
			w.t = t
			w.do(func() error { return c.make(w) })
			list := w.findings()
			list = slices.DeleteFunc(list, func(f Finding) bool { return c.check == "mtu" && f.Severity != c.severity }) // a small uplink makes others differ
			if len(list) != 1 || list[0].Check != c.check || list[0].Severity != c.severity || !strings.Contains(list[0].What, c.says) {
				t.Fatalf("found %v, want a %s of %s that says %q", list, c.severity, c.check, c.says)
			}
			remedy := list[0].Remedy
			if c.clean == nil {
				c.clean = func(w *ward) error { return w.apply(remedy) }
			}
			w.do(func() error { return c.clean(w) })
			if list := w.findings(); len(list) > 0 {
				t.Fatalf("after %q: %v", remedy, list)
			}
		}) {
			return // what is left would be found by the others as well
		}
	}
}

// What others drop of what they forward is in the way only when br_netfilter shows them the bridge's frames.
func TestForwardFilter(t *testing.T) {
	w := newWard(t)
	w.do(func() error { return dropTable(nftables.TableFamilyINet, nftables.ChainHookForward, "")(w) })
	if list := w.findings(); len(list) > 0 {
		t.Fatalf("without br_netfilter: %v", list)
	}
	w.do(func() error { return sysctl("net.bridge.bridge-nf-call-iptables", "1")(w) })
	list := w.findings()
	i := slices.IndexFunc(list, func(f Finding) bool { return f.Check == "filters" && f.Severity == Problem })
	if i < 0 {
		t.Fatalf("with br_netfilter: %v", list)
	}
	w.do(func() error { return w.apply(list[i].Remedy) })
	if list := w.findings(); len(list) > 0 {
		t.Errorf("after the remedy: %v", list)
	}
}

func TestDaemon(t *testing.T) {
	w := newWard(t)
	exe, err := os.Executable()
	must(t, err)
	name := filepath.Join(t.TempDir(), "ndppd")
	must(t, os.Symlink(exe, name))
	t.Setenv(waiting, "1")
	cmd := w.ns.Command(t.Context(), name)
	must(t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // killed below
		close(ended)
	}()
	var list []Finding
	must(t, lab.Await(t.Context(), "ndppd to be seen", func() (bool, error) {
		list = w.findings()
		return len(list) > 0, nil
	}))
	if len(list) != 1 || list[0].Check != "daemon" || list[0].Severity != Problem || list[0].Remedy != "systemctl disable --now ndppd" {
		t.Errorf("found %v", list)
	}
	must(t, cmd.Process.Kill()) // as systemd does
	<-ended
	if list := w.findings(); len(list) > 0 {
		t.Errorf("after it has ended: %v", list)
	}
}

// Beside a running router, what it has set must be as it has set it; and what the router says is passed on.
func TestRunning(t *testing.T) {
	w := newWard(t)
	var d *dom0.Dom0
	w.do(func() (err error) { // which takes the lock, and sets nothing
		d, err = dom0.Acquire(w.opts.StateDir, "xenbr0", nil)
		return err
	})
	want := map[string]int{}
	for _, f := range w.findings() {
		want[f.Check]++
		if f.Severity != Problem {
			t.Errorf("%v", f)
		}
		w.do(func() error { return w.apply(f.Remedy) })
	}
	if len(want) != 1 || want["bridge"] != 4 { // snooping, and IPv6 on the bridge and two vifs
		t.Errorf("found %v", want)
	}
	if list := w.findings(); len(list) > 0 {
		t.Errorf("after the remedies: %v", list)
	}
	w.opts.Router = Router{Err: errors.New("connection refused"), ForeignMAC: 2, Warnings: []string{"something"}}
	if got := names(w.findings()); !slices.Equal(got, []string{"router", "router", "foreign-mac"}) {
		t.Errorf("found %v", got)
	}
	must(t, d.Close())
	w.opts.Router = Router{Err: errors.New("connection refused")}
	if list := w.findings(); len(list) > 0 {
		t.Errorf("when none runs: %v", list)
	}
	w.do(func() (err error) {
		d, err = dom0.Acquire(w.opts.StateDir, "br7", nil)
		return err
	})
	if got := w.findings(); !slices.ContainsFunc(got, func(f Finding) bool { return f.Check == "router" && strings.Contains(f.What, "bridge br7") }) {
		t.Errorf("found %v", got)
	}
	must(t, d.Close())
}

func names(list []Finding) (out []string) {
	for _, f := range list {
		out = append(out, f.Check)
	}
	return out
}

// Conflicts of the configuration with the machine.
func TestConfiguration(t *testing.T) {
	w := newWard(t)
	reference := *w.opts.Config
	for _, c := range []struct {
		name   string
		change func(*config.Config)
		want   []string
		says   string
	}{
		{"no such uplink", func(c *config.Config) { c.Uplink.Name = "eth7" }, []string{"uplink"}, "eth7 does not exist"},
		{"the loopback as the uplink", func(c *config.Config) { c.Uplink.Name = "lo" }, []string{"addresses", "addresses", "addresses"}, ""},
		{"the bridge is none", func(c *config.Config) { c.Bridge.Name = "eth0"; c.Uplink.Name = "eth7" }, []string{"bridge"}, "eth0 exists, but is no bridge"},
		{"a guest that is not there", func(c *config.Config) { c.Domus = append(c.Domus, config.Domu{Name: "three", Vif: "vif3.0"}) }, []string{"vifs"}, "vif3.0"},
		{"a guest that is named later", func(c *config.Config) { c.Domus = append(c.Domus, config.Domu{Name: "three"}) }, nil, ""},
		{"an MTU of the bridge's own", func(c *config.Config) { c.Bridge.MTU = 1400 }, []string{"mtu", "mtu"}, "1400"},
	} {
		cfg := reference
		cfg.Domus = slices.Clone(reference.Domus)
		c.change(&cfg)
		w.opts.Config = &cfg
		got := w.findings()
		if c.name == "the loopback as the uplink" { // refused by the configuration; here it must only not panic
			continue
		}
		found := slices.DeleteFunc(slices.Clone(got), func(f Finding) bool { return !slices.Contains(c.want, f.Check) })
		if !slices.Equal(names(found), c.want) || len(found) > 0 && !strings.Contains(found[0].What, c.says) {
			t.Errorf("%s: found %v, want %v", c.name, got, c.want)
		}
	}
	w.opts.Config = nil
	if list := w.findings(); len(list) > 0 {
		t.Errorf("without a configuration: %v", list)
	}
}

// Without a gateway in the file, the kernel has to have one.
func TestNoDefaultRoute(t *testing.T) {
	w := newWard(t)
	cfg := *w.opts.Config
	gateway := cfg.Uplink.Gateway4
	cfg.Uplink.Gateway4, cfg.Uplink.Gateway6 = netip.Addr{}, netip.Addr{}
	w.opts.Config = &cfg
	if list := w.findings(); len(list) > 0 {
		t.Fatalf("a healthy lab: %v", list)
	}
	w.do(func() error {
		return netlink.RouteDel(&netlink.Route{LinkIndex: link("eth0").Attrs().Index, Dst: ipNet("0.0.0.0/0")})
	})
	list := w.findings()
	if len(list) != 1 || list[0].Check != "routes" || list[0].Severity != Problem {
		t.Fatalf("found %v", list)
	}
	w.do(func() error { return w.apply(strings.Replace(list[0].Remedy, "GATEWAY", gateway.String(), 1)) })
	if list := w.findings(); len(list) > 0 {
		t.Errorf("after the remedy: %v", list)
	}
}

func TestFile(t *testing.T) {
	w := newWard(t)
	w.opts.ConfigFile = filepath.Join(t.TempDir(), "router.hcl")
	must(t, os.WriteFile(w.opts.ConfigFile, config.Reference, 0o644))
	if list := w.findings(); len(list) > 0 {
		t.Errorf("found %v", list)
	}
	must(t, os.Chmod(w.opts.ConfigFile, 0o666))
	must(t, os.Chown(w.opts.ConfigFile, 65534, -1))
	list := w.findings()
	if got := names(list); !slices.Equal(got, []string{"file", "file"}) {
		t.Fatalf("found %v", list)
	}
	for _, f := range list {
		must(t, w.apply(f.Remedy))
	}
	if list := w.findings(); len(list) > 0 {
		t.Errorf("after the remedies: %v", list)
	}
	w.opts.Invalid = true
	if got := names(w.findings()); !slices.Equal(got, []string{"file"}) {
		t.Errorf("found %v", got)
	}
}

// What no namespace can be made to have is tested on what would be read.
func TestMachine(t *testing.T) {
	cfg, _ := config.Parse("router.hcl", config.Reference)
	conntrack := func(count, most string) map[string]string {
		return map[string]string{"net.netfilter.nf_conntrack_count": count, "net.netfilter.nf_conntrack_max": most}
	}
	for _, c := range []struct {
		name string
		m    machine
		find func(*machine) []Finding
		want string // a remedy; "": nothing is found
	}{
		{"an old kernel", machine{release: "5.17.9-amd64"}, (*machine).checkKernel, "install Linux 5.18 or later"},
		{"an older one", machine{release: "4.19.0"}, (*machine).checkKernel, "install Linux 5.18 or later"},
		{"a kernel that will do", machine{release: "5.18.0"}, (*machine).checkKernel, ""},
		{"a new one", machine{release: "6.1.0-13-amd64"}, (*machine).checkKernel, ""},
		{"no tun", machine{release: "6.1.0", missing: []string{"tun"}}, (*machine).checkKernel, "modprobe tun"},
		{"the uplink in a VRF", machine{Options: Options{Config: cfg}, links: []netlink.Link{
			&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "eth0", Index: 2, MasterIndex: 3, Flags: net.FlagUp, HardwareAddr: make(net.HardwareAddr, 6)}},
			&netlink.Vrf{LinkAttrs: netlink.LinkAttrs{Name: "red", Index: 3}}}}, (*machine).checkUplink, "ip link set dev eth0 nomaster"},
		{"LRO", machine{Options: Options{Config: cfg}, lro: true}, (*machine).checkOffload, "ethtool -K eth0 lro off"},
		{"a full table of connections", machine{settings: conntrack("920", "1000")}, (*machine).checkConntrack, "sysctl -w net.netfilter.nf_conntrack_max=2000"},
		{"one with room", machine{settings: conntrack("890", "1000")}, (*machine).checkConntrack, ""},
		{"none", machine{}, (*machine).checkConntrack, ""},
	} {
		list := c.find(&c.m)
		if c.want == "" && len(list) == 0 || len(list) == 1 && list[0].Remedy == c.want {
			continue
		}
		t.Errorf("%s: found %v, want %q", c.name, list, c.want)
	}
}
