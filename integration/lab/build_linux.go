package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"udrouter/config"
	"udrouter/policy"
)

// The names of links that the file does not name.
const (
	InternetLink = "eth0" // X's
	GatewayWAN   = "wan"  // the upstream router's, toward X
	GatewayLAN   = "lan"  // the upstream router's, toward dom0
	GuestLink    = "eth0"
)

const defaultMTU = 1500 // bytes

// Options vary a lab. The zero value is the reference network's way.
type Options struct {
	Source   []byte // the file's text, for StartRouter; nil: cfg.File is read
	MTU      int    // bytes, of every link but those that bridge.mtu concerns; 0: 1500
	GuestDAD bool   // guests detect duplicate addresses; that costs a second and more of their start
}

// Node is a host of the lab.
type Node struct {
	*NS
	Link  string // faces the network; the upstream router's faces dom0
	MAC   policy.MAC
	Addrs []netip.Prefix // those of all its links, Link's first
}

// Addr4 is the node's first IPv4 address, the zero Addr if it has none.
func (n *Node) Addr4() netip.Addr { return n.first(netip.Addr.Is4) }

// Addr6 is the node's first IPv6 address that is not link-local, or the zero Addr.
func (n *Node) Addr6() netip.Addr {
	return n.first(func(a netip.Addr) bool { return a.Is6() && !a.IsLinkLocalUnicast() })
}

func (n *Node) first(is func(netip.Addr) bool) netip.Addr {
	for _, p := range n.Addrs {
		if is(p.Addr()) {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// Has tells whether an address is one of the node's.
func (n *Node) Has(a netip.Addr) bool {
	return slices.ContainsFunc(n.Addrs, func(p netip.Prefix) bool { return p.Addr() == a })
}

// Guest is a node that a domu block describes.
type Guest struct {
	*Node
	Domu config.Domu
	Net4 *config.Network // nil: it has no IPv4 address
	Net6 *config.Network
}

// Lab is the network of a file, in namespaces. See the package's comment for its shape.
type Lab struct {
	Config   *config.Config
	Internet *Node // X
	Gateway  *Node // the upstream router
	Dom0     *Node
	Guests   []*Guest
	Skipped  []string // what of the file is not here, and why: one sentence each

	plan  *plan
	opts  Options
	gwLAN []netip.Prefix // the upstream router's addresses toward dom0
	dir   string
	undo  []func() error // what the kernel's router has changed

	mu    sync.Mutex
	procs []*Proc
}

// Build makes the lab of a file: addresses, routes and links, with everything up, but no router in
// dom0. Whatever happens, Close leaves nothing of it; after an error Build has called it.
func Build(ctx context.Context, cfg *config.Config, opts Options) (*Lab, error) {
	if opts.MTU == 0 {
		opts.MTU = defaultMTU
	}
	if !initialUserNS() { // whose root may open it: here the device's mode decides
		if err := usableTUN(); err != nil {
			return nil, fmt.Errorf("building the lab: %w", err)
		}
	}
	l := &Lab{Config: cfg, opts: opts}
	if err := l.build(ctx); err != nil {
		if errors.Is(err, unix.EPERM) && !initialUserNS() {
			err = noUserNS(err, privilege()) // some machines let users make such a namespace, and nothing in it
		}
		return nil, errors.Join(fmt.Errorf("building the lab: %w", err), l.Close())
	}
	return l, nil
}

func (l *Lab) build(ctx context.Context) (err error) {
	if l.plan, err = newPlan(l.Config); err != nil {
		return err
	}
	l.Skipped = l.plan.skipped
	if l.dir, err = os.MkdirTemp("", "udrouter-lab-"); err != nil {
		return err
	}
	for _, step := range []func() error{l.buildUpstream, l.buildDom0, l.buildBridge} {
		if err := step(); err != nil {
			return err
		}
	}
	for _, g := range l.plan.guests {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := l.buildGuest(g); err != nil {
			return fmt.Errorf("adding guest %s: %w", g.domu.Name, err)
		}
	}
	if err := l.Dom0.SetUp(l.Config.Bridge.Name); err != nil {
		return err
	}
	return l.awaitLinks(ctx)
}

// buildUpstream makes the internet host and the upstream router.
func (l *Lab) buildUpstream() (err error) {
	p := l.plan
	if l.Internet, err = newNode("internet", InternetLink, p.inetMAC); err != nil {
		return err
	}
	if l.Gateway, err = newNode("gw", GatewayLAN, p.gwMAC); err != nil {
		return err
	}
	x, gw := l.Internet, l.Gateway
	// An upstream router forwards whatever the machine's own settings are, and the traces of a whole
	// run are not to meet its limits on errors.
	for _, s := range [][2]string{
		{"net.ipv4.ip_forward", "1"},
		{"net.ipv6.conf.all.forwarding", "1"},
		{"net.ipv4.icmp_ratelimit", "0"},
		{"net.ipv6.icmp.ratelimit", "0"},
	} {
		if err := gw.SetSysctl(s[0], s[1]); err != nil {
			return err
		}
	}
	// X stands for hosts behind many routers: what these tell each other of a better way, while dom0 has none to a guest, is not for it (it would
	// look for the guest on its own link for minutes).
	for _, v := range []string{"4", "6"} {
		for _, conf := range []string{"all", "default"} {
			if err := x.SetSysctl("net.ipv"+v+".conf."+conf+".accept_redirects", "0"); err != nil {
				return err
			}
		}
	}
	if err := addVeth(end{x.NS, x.Link, x.MAC}, end{ns: gw.NS, link: GatewayWAN}, l.opts.MTU); err != nil {
		return err
	}
	if err := errors.Join(x.SetUp(x.Link), gw.SetUp(GatewayWAN)); err != nil {
		return err
	}
	for _, f := range []struct {
		own netip.Prefix
		gw  netip.Addr
	}{{p.inet4, p.inetGW4}, {p.inet6, p.inetGW6}} {
		if !f.own.IsValid() {
			continue
		}
		if err := x.own(x.Link, f.own); err != nil {
			return err
		}
		if err := gw.AddAddr(GatewayWAN, netip.PrefixFrom(f.gw, f.own.Bits())); err != nil {
			return err
		}
		if err := x.AddRoute(x.Link, Route{Dst: defaultRoute(f.gw), Via: f.gw}); err != nil {
			return err
		}
	}
	return nil
}

// buildDom0 makes dom0 and its link to the upstream router.
func (l *Lab) buildDom0() (err error) {
	p, gw := l.plan, l.Gateway
	if l.Dom0, err = newNode("dom0", l.Config.Uplink.Name, p.uplinkMAC); err != nil {
		return err
	}
	dom0 := l.Dom0
	// Where br_netfilter is loaded, the machine's firewall would have a word in the lab's bridge.
	for _, key := range []string{"iptables", "ip6tables", "arptables"} {
		if err := dom0.SetSysctl("net.bridge.bridge-nf-call-"+key, "0"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, a := range append([]netip.Prefix{p.gw4, p.gw6}, p.gwMore...) {
		if a.IsValid() {
			gw.Addrs = append(gw.Addrs, a)
		}
	}
	l.gwLAN = slices.Clone(gw.Addrs)
	for _, a := range []netip.Addr{p.inetGW4, p.inetGW6} {
		if a.IsValid() { // the wide area side's are set, and come last
			gw.Addrs = append(gw.Addrs, host(a))
		}
	}
	dom0.Addrs = slices.Clone(p.dom0)
	return l.MakeUplink()
}

// MakeUplink makes dom0's link to the upstream router with all that belongs to it, also after it was deleted.
func (l *Lab) MakeUplink() error {
	p, gw, dom0 := l.plan, l.Gateway, l.Dom0
	if err := addVeth(end{dom0.NS, dom0.Link, dom0.MAC}, end{gw.NS, gw.Link, gw.MAC}, l.opts.MTU); err != nil {
		return err
	}
	if err := errors.Join(dom0.SetUp(dom0.Link), gw.SetUp(gw.Link)); err != nil {
		return err
	}
	for _, a := range l.gwLAN {
		if err := gw.AddAddr(gw.Link, a); err != nil {
			return err
		}
	}
	for _, r := range p.gwRoutes {
		if err := gw.AddRoute(gw.Link, r); err != nil {
			return err
		}
	}
	return l.RestoreUplink()
}

// RestoreUplink gives dom0's link the addresses and routes that the kernel has taken away when it went down, as ifup would.
func (l *Lab) RestoreUplink() error {
	dom0 := l.Dom0
	for _, a := range dom0.Addrs {
		if err := dom0.AddAddr(dom0.Link, a); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	for _, r := range l.plan.dom0Routes {
		if err := dom0.AddRoute(dom0.Link, r); err != nil {
			return err
		}
	}
	return nil
}

// buildBridge makes the bridge as the administrator of a Xen host has it before the router is
// there: without addresses, and with the kernel's defaults, which the router has to harden. It is
// brought up when it has its ports, because its link-local address comes from their MAC.
func (l *Lab) buildBridge() error {
	return l.Dom0.addBridge(l.Config.Bridge.Name, l.guestMTU())
}

// guestMTU is the MTU of bridge, vifs and guests in bytes.
func (l *Lab) guestMTU() int {
	if l.Config.Bridge.MTU != 0 {
		return l.Config.Bridge.MTU
	}
	return l.opts.MTU
}

// vifMAC is what Xen's scripts give to dom0's end of every vif.
var vifMAC = policy.MAC{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff}

func (l *Lab) buildGuest(gp guestPlan) error {
	node, err := newNode(gp.domu.Name, GuestLink, gp.domu.MAC)
	if err != nil {
		return err
	}
	g := &Guest{Node: node, Domu: gp.domu, Net4: gp.net4, Net6: gp.net6}
	l.Guests = append(l.Guests, g)
	if err := addVeth(end{l.Dom0.NS, gp.domu.Vif, vifMAC}, end{g.NS, g.Link, g.MAC}, l.guestMTU()); err != nil {
		return err
	}
	if err := l.Dom0.enslave(gp.domu.Vif, l.Config.Bridge.Name); err != nil {
		return err
	}
	if gp.linkLocal {
		if err := g.SetSysctl("net.ipv6.conf."+g.Link+".addr_gen_mode", "1"); err != nil {
			return err
		}
	}
	if l.opts.GuestDAD {
		if err := g.SetDAD(g.Link, true); err != nil {
			return err
		}
	}
	if err := errors.Join(l.Dom0.SetUp(gp.domu.Vif), g.SetUp(g.Link)); err != nil {
		return err
	}
	add := g.AddAddr
	if l.opts.GuestDAD {
		add = g.AddAddrDAD
	}
	for _, a := range gp.addrs {
		g.Addrs = append(g.Addrs, a)
		if err := add(g.Link, a); err != nil {
			return err
		}
	}
	for _, r := range gp.routes {
		if l.opts.GuestDAD {
			r.Source = netip.Addr{} // a tentative address cannot be preferred yet
		}
		if err := g.AddRoute(g.Link, r); err != nil {
			return err
		}
	}
	return nil
}

// awaitLinks waits until every link has carrier and every host its link-local address: neighbour
// discovery comes from that.
func (l *Lab) awaitLinks(ctx context.Context) error {
	type link struct {
		ns   *NS
		name string
		ll   bool
	}
	six := l.plan.inet6.IsValid()
	links := []link{
		{l.Internet.NS, l.Internet.Link, six}, {l.Gateway.NS, GatewayWAN, six},
		{l.Gateway.NS, l.Gateway.Link, six}, {l.Dom0.NS, l.Dom0.Link, six},
	}
	for _, g := range l.Guests {
		links = append(links, link{l.Dom0.NS, g.Domu.Vif, false}, link{g.NS, g.Link, six})
	}
	if len(l.Guests) > 0 { // without ports a bridge has no carrier
		links = append(links, link{l.Dom0.NS, l.Config.Bridge.Name, six})
	}
	for _, x := range links {
		err := Await(ctx, x.name+" of "+x.ns.name, func() (bool, error) { return x.ns.ready(x.name, x.ll) })
		if err != nil {
			return err
		}
	}
	return nil
}

func newNode(name, link string, mac policy.MAC) (*Node, error) {
	ns, err := NewNS(name)
	if err != nil {
		return nil, err
	}
	return &Node{NS: ns, Link: link, MAC: mac}, nil
}

// own gives the node an address and remembers it.
func (n *Node) own(link string, p netip.Prefix) error {
	n.Addrs = append(n.Addrs, p)
	return n.AddAddr(link, p)
}

// Guest is the guest of a name, or nil.
func (l *Lab) Guest(name string) *Guest {
	for _, g := range l.Guests {
		if g.Name() == name {
			return g
		}
	}
	return nil
}

// Nodes are all hosts: internet, upstream router, dom0, guests.
func (l *Lab) Nodes() []*Node {
	var nodes []*Node
	for _, n := range []*Node{l.Internet, l.Gateway, l.Dom0} {
		if n != nil { // a lab that was not finished
			nodes = append(nodes, n)
		}
	}
	for _, g := range l.Guests {
		nodes = append(nodes, g.Node)
	}
	return nodes
}

// Dir is the lab's own directory, which Close removes: the file, sockets and state of its routers.
func (l *Lab) Dir() string { return l.dir }

// ConfigPath is a file with the configuration's text, in Dir where Options.Source gave it.
func (l *Lab) ConfigPath() (string, error) {
	if l.opts.Source == nil {
		return filepath.Abs(l.Config.File)
	}
	path := filepath.Join(l.dir, "router.hcl")
	if err := os.WriteFile(path, l.opts.Source, 0o644); err != nil {
		return "", fmt.Errorf("writing the lab's configuration: %w", err)
	}
	return path, nil
}

// SetHopMTU sets the MTU in bytes of the hop between the upstream router and the internet, both
// ends: what is longer meets an ICMP error there.
func (l *Lab) SetHopMTU(mtu int) error {
	return errors.Join(l.Gateway.SetMTU(GatewayWAN, mtu), l.Internet.SetMTU(l.Internet.Link, mtu))
}

// SetOffload sets the offloads of every host's link. The lab's default is the kernel's: partial
// checksums and TSO, as between virtual machines.
func (l *Lab) SetOffload(o Offload) error {
	errs := []error{l.Gateway.SetOffload(GatewayWAN, o)}
	for _, n := range l.Nodes() {
		errs = append(errs, n.SetOffload(n.Link, o))
	}
	for _, g := range l.Guests {
		errs = append(errs, l.Dom0.SetOffload(g.Domu.Vif, o))
	}
	return errors.Join(errs...)
}

// GatewayMAC is the address by which a guest knows its network's gateway, that is the router's on the
// bridge, or the zero MAC while the guest has not spoken to it.
func (g *Guest) GatewayMAC() (mac policy.MAC, err error) {
	for _, n := range []*config.Network{g.Net4, g.Net6} {
		if n == nil {
			continue
		}
		m, ok, err := g.Neighbour(g.Link, n.Gateway)
		if ok || err != nil {
			return m, err
		}
	}
	return mac, nil
}

// Close ends the lab's processes and gives its namespaces and directory up. It may be called twice.
func (l *Lab) Close() error {
	var errs []error
	l.mu.Lock()
	procs := l.procs
	l.procs = nil
	l.mu.Unlock()
	for _, p := range procs {
		errs = append(errs, p.Kill())
	}
	// Sockets that outlive their namespace's descriptor keep its links alive: take those down first,
	// by removing one end of each pair.
	if l.Dom0 != nil {
		errs = append(errs, l.Dom0.delLinks())
	}
	for _, n := range l.Nodes() {
		errs = append(errs, n.Close())
	}
	if l.dir != "" {
		errs = append(errs, os.RemoveAll(l.dir))
	}
	return errors.Join(errs...)
}

// delLinks removes every link but the loopback.
func (n *NS) delLinks() error {
	h, err := n.Handle()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	if err != nil {
		return err
	}
	links, err := h.LinkList()
	if err != nil {
		return fmt.Errorf("listing links of %s: %w", n.name, err)
	}
	for _, link := range links {
		if link.Type() == "device" { // lo, or a real one that someone moved here
			continue
		}
		if err := h.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("removing %s of %s: %w", link.Attrs().Name, n.name, err)
		}
	}
	return nil
}
