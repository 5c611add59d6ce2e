package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"

	"udrouter/config"
	"udrouter/integration/lab"
	"udrouter/integration/wire"
	"udrouter/policy"
	"udrouter/router"
)

// hotplugFile has two guests whom the file names wholly, one that waits for hotplug, and templates.
const hotplugFile = open + guests + routed4 + `
uplink "eth0" {
  gateway4 = "192.0.1.1"
  gateway6 = "2001:db8:3:2::1"
}
network "v6" {
  prefix   = "2001:db8:3:2::/64"
  gateway  = "2001:db8:3:2:1::1"
  upstream = "proxied"
}
domu "waits" {
  mac    = "00:16:3e:00:00:03"
  ipv4   = ["192.0.2.12"]
  ipv6   = ["2001:db8:3:2:1::12"]
  policy = "open"
}
domu "web" {
  match  = "web-*"
  policy = "open"
}
`

// plugged is a lab whose dom0 has the commands of hotplug.
type plugged struct {
	*lab.Lab
	t     *testing.T
	proc  *lab.Proc
	state string
}

func plugLab(t *testing.T) *plugged {
	state := t.TempDir() // which is taken away after the lab, whose router writes there to its end
	return &plugged{Lab: buildLab(t, hotplugFile, lab.Options{}), t: t, state: state}
}

func (p *plugged) start() {
	p.t.Helper()
	p.proc = startRouter(p.t, p.Lab, "--state", p.state)
}

// guest makes a domain with a vif that is in no bridge and down, as netback does. It has the addresses, and default routes.
func (p *plugged) guest(vif, mac string, addrs ...string) *lab.Node {
	p.t.Helper()
	ns, err := lab.NewNS(vif)
	must(p.t, err)
	p.t.Cleanup(func() { ns.Close() })
	m, err := policy.ParseMAC(mac)
	must(p.t, err)
	n := &lab.Node{NS: ns, Link: lab.GuestLink, MAC: m}
	p.veth(n, vif)
	for _, s := range addrs {
		a := netip.MustParseAddr(s)
		network := p.Config.NetworkOf(a)
		prefix := netip.PrefixFrom(a, network.Prefix.Bits())
		must(p.t, n.AddAddr(n.Link, prefix))
		n.Addrs = append(n.Addrs, prefix)
	}
	must(p.t, n.SetUp(n.Link))
	p.route(n)
	return n
}

// veth joins a node to dom0 by a new vif.
func (p *plugged) veth(n *lab.Node, vif string) {
	p.t.Helper()
	h, err := p.Dom0.Handle()
	must(p.t, err)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = vif
	attrs.HardwareAddr = []byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff}
	must(p.t, h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: n.Link, PeerHardwareAddr: n.MAC[:], PeerNamespace: netlink.NsFd(n.FD())}))
}

func (p *plugged) route(n *lab.Node) {
	p.t.Helper()
	for _, prefix := range n.Addrs {
		network := p.Config.NetworkOf(prefix.Addr())
		zero := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		if prefix.Addr().Is4() {
			zero = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		}
		must(p.t, n.AddRoute(n.Link, lab.Route{Dst: zero, Via: network.Gateway, Source: prefix.Addr()}))
	}
}

// vif runs `udrouter vif` in dom0.
func (p *plugged) vif(wantStatus int, args ...string) string {
	p.t.Helper()
	return ended(p.t, p.vifCommand(args...), wantStatus)
}

func (p *plugged) vifCommand(args ...string) *lab.Cmd {
	p.t.Helper()
	args = append([]string{"vif"}, args...)
	socket := filepath.Join(p.state, "nobody.sock")
	if p.proc != nil {
		socket = p.proc.Socket
	}
	args = append(args, "--socket", socket)
	if args[1] != "list" {
		args = append(args, "--state", p.state)
	}
	return p.Dom0.Command(testContext(p.t), wire.Exe, args...)
}

// bound are the ports that the router says are bound, as "VIF=DOMU".
func (p *plugged) bound() (list []string) {
	p.t.Helper()
	var l router.VifList
	out := p.vif(0, "list", "--json")
	matches(p.t, "vif-list", out)
	must(p.t, json.Unmarshal([]byte(out), &l))
	for _, v := range l.Vifs {
		if v.State == config.AttachBound {
			list = append(list, v.Vif+"="+v.Domu)
		}
	}
	slices.Sort(list)
	return list
}

func (p *plugged) wantBound(when string, want ...string) {
	p.t.Helper()
	if got := p.bound(); !slices.Equal(got, want) {
		p.t.Errorf("%s: bound are %q, want %q", when, got, want)
	}
}

// silent checks that what a guest sends does not come to the router: a packet that would, and after it another guest's that does.
func (p *plugged) silent(when string, g *lab.Node) {
	p.t.Helper()
	gateway := p.Config.NetworkOf(g.Addr4()).Gateway
	s, err := p.proc.Status(testContext(p.t))
	must(p.t, err)
	var st router.Status
	must(p.t, json.Unmarshal(s.Raw, &st))
	mac, err := policy.ParseMAC(st.RouterMAC)
	must(p.t, err)
	must(p.t, g.AddNeighbour(g.Link, gateway, mac))
	sniffer, err := p.Dom0.Sniff("udr0", lab.SniffOptions{})
	must(p.t, err)
	defer sniffer.Close()
	nobody := netip.MustParseAddr("198.51.100.201")
	_, _ = g.Ping(expired(p.t), nobody, lab.PingOptions{})
	ping(p.t, p.Guests[0].Node, p.Internet.Addr4())
	if n := sniffer.Count(func(f lab.Frame) bool { return bytes.Contains(f.Data, nobody.AsSlice()) }); n > 0 {
		p.t.Errorf("%s: %d frames of %s came to the router", when, n, g.Name())
	}
}

// A guest that waits and one of a template are bound when hotplug names them, and pass nothing before and after; so it is as well while one router after the other
// takes over.
func TestVifAddRemove(t *testing.T) {
	p := plugLab(t)
	p.start()
	web := p.guest("vif7.0", "00:16:3e:00:00:77", "192.0.2.77", "2001:db8:3:2:1::77")
	waits := p.guest("vif8.0", "00:16:3e:00:00:03", "192.0.2.12", "2001:db8:3:2:1::12")
	addWeb := []string{"add", "--vif", "vif7.0", "--bridge", "xenbr0", "--mac", "00:16:3E:00:00:77", "--ip", "192.0.2.77, 2001:db8:3:2:1::77", "--domain", "web-1"}
	for range 2 { // the script may run twice
		contains(t, p.vif(0, addWeb...), `vif7.0: bound to domu "web-1" (`, "router.hcl:")
	}
	addWaits := []string{"add", "--vif", "vif8.0", "--bridge", "xenbr0", "--mac", "00:16:3e:00:00:03", "--ip", "192.0.2.99"}
	contains(t, p.vif(0, addWaits...), `bound to domu "waits"`, "192.0.2.99")
	p.wantBound("after add", "vif7.0=web-1", "vif8.0=waits")
	for _, g := range []*lab.Node{web, waits} {
		ping(t, g, p.Internet.Addr4())
		ping(t, g, p.Internet.Addr6())
		ping(t, p.Internet, g.Addr6())
	}
	ping(t, web, waits.Addr4())

	path, err := p.ConfigPath()
	must(t, err)
	if findings, _ := consult(t, p.Lab, "-c", path, "--state", p.state, "--socket", p.proc.Socket); len(findings) > 0 {
		t.Errorf("doctor finds fault with guests of hotplug: %v", findings)
	}

	// What is refused stays locked, and says why.
	thief := p.guest("vif9.0", "00:16:3e:00:00:99", "192.0.2.78")
	contains(t, p.vif(1, "add", "--vif", "vif9.0", "--bridge", "xenbr0", "--mac", "00:16:3e:00:00:99", "--ip", "192.0.2.77", "--domain", "web-2"), "Address used twice", `"web-1"`)
	contains(t, p.vif(1, "add", "--vif", "vif9.0", "--mac", "00:16:3e:00:00:99", "--domain", "db"), "No domu block has the MAC")
	contains(t, p.vif(1, "add", "--vif", "vif9.0", "--mac", "00:16:3e:00:00:01", "--domain", "web-2"), `which has vif = "vif1.0" in the file`)
	contains(t, p.vif(1, "add", "--vif", "vif10.0", "--mac", "00:16:3e:00:00:01", "--domain", "web-2"), "vif10.0: no such interface")
	p.silent("refused", thief)
	out := p.vif(0, "list")
	contains(t, out, "vif9.0", "refused", "vif7.0", "bound")

	// The same by a file that has a template for it, once it is read.
	must(t, os.WriteFile(path, []byte(hotplugFile+"domu \"rest\" {\n  match  = \"any\"\n  policy = \"open\"\n}\n"), 0o600))
	contains(t, p.vif(1, "add", "--vif", "vif9.0", "--mac", "00:16:3e:00:00:99", "--domain", "db", "--ip", "192.0.2.78"), "none with match is for domain")
	_, err = p.proc.Post(testContext(t), "/v1/reload")
	must(t, err)
	p.wantBound("after a reload", "vif7.0=web-1", "vif8.0=waits", "vif9.0=db")
	ping(t, thief, p.Internet.Addr4())

	out = p.vif(0, "remove", "--vif", "vif7.0", "--json")
	matches(t, "vif", out)
	contains(t, out, `"vif":"vif7.0"`)
	contains(t, p.vif(0, "remove", "--vif", "vif7.0"), "It was not known.")
	p.silent("removed", web)
	p.wantBound("after remove", "vif8.0=waits", "vif9.0=db")
	// One that is gone without a word.
	must(t, p.Dom0.DelLink("vif9.0"))
	must(t, lab.Await(testContext(t), "the end of vif9.0", func() (bool, error) { return len(p.bound()) == 1, nil }))
	ping(t, waits, p.Internet.Addr4())

	var told atomic.Int32
	var over atomic.Bool
	say := func(want string, args ...string) error {
		out, err := p.vifCommand(args...).CombinedOutput()
		if told.Add(1); err != nil || !strings.Contains(string(out), want) {
			return fmt.Errorf("%q: %v, no %q in: %s", args, err, want, out)
		}
		return nil
	}
	var scripts errgroup.Group
	for vif, add := range map[string][]string{"vif7.0": addWeb, "vif8.0": addWaits} {
		scripts.Go(func() error {
			for !over.Load() {
				if err := errors.Join(say("bound to domu", add...), say("It is forgotten.", "remove", "--vif", vif)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	now := p.proc
	for range 20 {
		next := takeOver(t, p.Lab, now, "--state", p.state)
		<-now.Exited()
		must(t, now.Stop()) // it has ended with status 0
		now = next
	}
	over.Store(true)
	must(t, scripts.Wait())
	t.Logf("%d times a script has told of a vif", told.Load())
	p.proc = now
	p.wantBound("after removes that met takeovers")
	contains(t, p.vif(0, addWaits...), `bound to domu "waits"`)
	p.wantBound("after the takeovers", "vif8.0=waits")
	ping(t, waits, p.Internet.Addr4())
	p.silent("removed while others took over", web)
}

// The uplink is no guest's port: it does not join the bridge, whether it has addresses or only the file knows of it.
func TestVifIsNotTheUplink(t *testing.T) {
	p := plugLab(t)
	path, err := p.ConfigPath()
	must(t, err)
	add := []string{"add", "--vif", "eth0", "--bridge", "xenbr0", "--mac", "00:16:3e:00:00:03"}
	contains(t, p.vif(1, add...), "eth0 has the address ", "no guest's port")
	contains(t, p.vif(1, append(add, "-c", path)...), "eth0 is the uplink in "+path)
	h, err := p.Dom0.Handle()
	must(t, err)
	link, err := h.LinkByName("eth0")
	if must(t, err); link.Attrs().MasterIndex != 0 || link.Attrs().Flags&net.FlagUp == 0 {
		t.Errorf("the uplink is %+v", link.Attrs())
	}
}

// A domain that starts anew has its binding at once; what comes late of its life before changes nothing.
func TestVifRenumbered(t *testing.T) {
	p := plugLab(t)
	p.start()
	old := p.guest("vif7.0", "00:16:3e:00:00:77", "192.0.2.77")
	add := func(vif string) string {
		return p.vif(0, "add", "--vif", vif, "--bridge", "xenbr0", "--mac", "00:16:3e:00:00:77", "--ip", "192.0.2.77", "--domain", "web-1", "--instance", vif)
	}
	add("vif7.0")
	ping(t, old, p.Internet.Addr4())
	now := p.guest("vif8.0", "00:16:3e:00:00:77", "192.0.2.77")
	contains(t, add("vif8.0"), `bound to domu "web-1"`)
	ping(t, now, p.Internet.Addr4())
	p.silent("replaced", old)
	contains(t, add("vif7.0"), "replaced", "vif8.0 is the younger")
	p.vif(0, "remove", "--vif", "vif7.0", "--instance", "vif7.0")
	p.wantBound("after a late remove", "vif8.0=web-1")
	contains(t, p.vif(0, "remove", "--vif", "vif8.0", "--instance", "vif7.0"), `bound to domu "web-1"`)
	ping(t, now, p.Internet.Addr4())
	// Another interface of the name is not the guest's, though nobody has said a word.
	must(t, p.Dom0.DelLink("vif8.0"))
	stranger := p.guest("vif8.0", "00:16:3e:00:00:77", "192.0.2.77")
	must(t, lab.Await(testContext(t), "the end of vif8.0", func() (bool, error) { return len(p.bound()) == 0, nil }))
	h, err := p.Dom0.Handle()
	must(t, err)
	link, err := h.LinkByName("vif8.0")
	must(t, err)
	br, err := h.LinkByName("xenbr0")
	must(t, err)
	must(t, errors.Join(h.LinkSetMaster(link, br), h.LinkSetUp(link)))
	p.silent("another interface of the name", stranger)
}

// silentAlone sees to it, while no router runs, that nothing passes a guest's port.
func (p *plugged) silentAlone(g *lab.Node) {
	p.t.Helper()
	sniffer, err := p.Guests[0].Sniff(p.Guests[0].Link, lab.SniffOptions{})
	must(p.t, err)
	defer sniffer.Close()
	_, _ = g.Ping(expired(p.t), p.Guests[0].Addr4(), lab.PingOptions{})
	ping(p.t, p.Guests[0].Node, p.Guests[1].Addr4()) // what the bridge passes as long as nobody locks
	if n := sniffer.Count(func(f lab.Frame) bool { return bytes.Contains(f.Data, g.MAC[:]) }); n > 0 {
		p.t.Errorf("past a locked port came %d frames", n)
	}
}

// The end of the router does not open the ports that have joined for it, bound or refused, or forgotten since: guests do not reach each other without one. Ports
// that hotplug has not named are as they were.
func TestVifStaysLocked(t *testing.T) {
	p := plugLab(t)
	p.start()
	web := p.guest("vif7.0", "00:16:3e:00:00:77", "192.0.2.77")
	refused := p.guest("vif8.0", "00:16:3e:00:00:78", "192.0.2.78")
	gone := p.guest("vif9.0", "00:16:3e:00:00:79", "192.0.2.79")
	h, err := p.Dom0.Handle()
	must(t, err)
	br, err := h.LinkByName("xenbr0")
	must(t, err)
	add := func(status int, vif, mac, ip, domain string) {
		t.Helper()
		link, err := h.LinkByName(vif)
		must(t, err)
		must(t, errors.Join(h.LinkSetMaster(link, br), h.LinkSetUp(link))) // as toolstacks that join it by themselves
		must(t, lab.Await(testContext(t), vif+" to be locked", func() (bool, error) {
			protinfo, err := h.LinkGetProtinfo(link)
			return protinfo.Isolated, err
		}))
		p.vif(status, "add", "--vif", vif, "--mac", mac, "--ip", ip, "--domain", domain)
	}
	add(0, "vif7.0", "00:16:3e:00:00:77", "192.0.2.77", "web-1")
	add(1, "vif8.0", "00:16:3e:00:00:78", "192.0.2.78", "db-1") // no template is for it
	add(0, "vif9.0", "00:16:3e:00:00:79", "192.0.2.79", "web-2")
	p.vif(0, "remove", "--vif", "vif9.0")
	ping(t, web, p.Internet.Addr4())
	must(t, p.proc.Stop())
	for _, g := range []*lab.Node{web, refused, gone} {
		p.silentAlone(g)
	}
	p.start()
	ping(t, web, p.Internet.Addr4())
	must(t, p.proc.Kill())
	p.start()
	must(t, p.proc.Stop())
	for _, g := range []*lab.Node{web, refused, gone} {
		p.silentAlone(g)
	}
}

// Without a router the port is locked and noted; the one that starts binds it, and one that starts again as well, if it is still there.
func TestVifWithoutRouter(t *testing.T) {
	p := plugLab(t)
	web := p.guest("vif7.0", "00:16:3e:00:00:77", "192.0.2.77")
	other := p.guest("vif8.0", "00:16:3e:00:00:78", "192.0.2.78")
	for i, g := range []*lab.Node{web, other} {
		contains(t, p.vif(0, "add", "--vif", g.Name(), "--bridge", "xenbr0", "--mac", g.MAC.String(), "--ip", g.Addr4().String(), "--domain", fmt.Sprint("web-", i)), "No router runs")
	}
	p.silentAlone(web)
	p.start()
	p.wantBound("at the start", "vif7.0=web-0", "vif8.0=web-1")
	ping(t, web, p.Internet.Addr4())
	ping(t, web, other.Addr4())
	must(t, p.proc.Kill())
	must(t, p.Dom0.DelLink("vif8.0"))
	p.start()
	p.wantBound("after a crash", "vif7.0=web-0")
	ping(t, web, p.Internet.Addr4())
	must(t, p.proc.Stop())
	p.proc = nil
	contains(t, p.vif(0, "remove", "--vif", "vif7.0"), "It is forgotten.")
	p.start()
	p.wantBound("after a remove without a router")
	p.silent("removed", web)
}
