package lab

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

	"udrouter/config"
)

// KernelOptions vary the kernel's router.
type KernelOptions struct {
	// Isolate has guests reach each other through the router only, as behind udrouter: the ports are
	// isolated and the bridge answers ARP and NDP for the other guests. The reference set-up lets the
	// bridge carry that traffic.
	Isolate bool

	// Bind adds nftables: each port passes only its guest's MAC and addresses, and connections are
	// tracked and held against the guests' rules. It is the fair peer of a comparison.
	Bind bool

	// Protect adds what the reference set-up protects dom0 itself with, and nobody else: of what comes to dom0, replies,
	// SSH and ICMP pass. The reference lists it for IPv6; here IPv4 has the same.
	Protect bool
}

// KernelRouter makes dom0's kernel the router, as the reference set-up does: forwarding, proxy NDP
// (and ARP) for each guest's address, and the gateways' addresses on the bridge, where the
// reference had a dummy0 beside it. Without options it has no policy and binds nothing. It is the
// peer that udrouter is compared with. NoKernelRouter undoes it.
func (l *Lab) KernelRouter(o KernelOptions) error {
	if err := l.kernelRouter(o); err != nil {
		return fmt.Errorf("making the kernel the router: %w", err)
	}
	return nil
}

// NoKernelRouter puts dom0 back, in the opposite order; its ports' isolation stays.
func (l *Lab) NoKernelRouter() error {
	for n := len(l.undo); n > 0; n = len(l.undo) {
		if err := l.undo[n-1](); err != nil {
			return fmt.Errorf("undoing the kernel's router: %w", err)
		}
		l.undo = l.undo[:n-1]
	}
	return nil
}

// forNow does something that NoKernelRouter undoes.
func (l *Lab) forNow(do, undo func() error) error {
	if err := do(); err != nil {
		return err
	}
	l.undo = append(l.undo, undo)
	return nil
}

// setForNow is SetSysctl of dom0 for now.
func (l *Lab) setForNow(key, value string) error {
	was, err := l.Dom0.Sysctl(key)
	if err != nil {
		return err
	}
	return l.forNow(func() error { return l.Dom0.SetSysctl(key, value) }, func() error { return l.Dom0.SetSysctl(key, was) })
}

// routeForNow is AddRoute of dom0 for now.
func (l *Lab) routeForNow(link string, r Route) error {
	return l.forNow(func() error { return l.Dom0.AddRoute(link, r) }, func() error { return l.Dom0.DelRoute(link, r.Dst) })
}

// proxyForNow is addProxy of dom0 for now.
func (l *Lab) proxyForNow(link string, a netip.Addr) error {
	return l.forNow(func() error { return l.Dom0.addProxy(link, a) }, func() error { return l.Dom0.delProxy(link, a) })
}

func (l *Lab) kernelRouter(o KernelOptions) error {
	uplink, bridge := l.Dom0.Link, l.Config.Bridge.Name
	for _, s := range [][2]string{
		{"net.ipv4.ip_forward", "1"},
		{"net.ipv6.conf.all.forwarding", "1"},
		{"net.ipv6.conf.all.proxy_ndp", "1"},
		// Proxy answers are delayed at random for up to 0.8 s, to let the owner go first; there is none.
		{"net.ipv6.neigh." + sysctlName(uplink) + ".proxy_delay", "0"},
		{"net.ipv4.neigh." + sysctlName(uplink) + ".proxy_delay", "0"},
		{"net.ipv6.neigh." + sysctlName(bridge) + ".proxy_delay", "0"},
		{"net.ipv4.neigh." + sysctlName(bridge) + ".proxy_delay", "0"},
		{"net.ipv4.icmp_ratelimit", "0"},
		{"net.ipv6.icmp.ratelimit", "0"},
	} {
		if err := l.setForNow(s[0], s[1]); err != nil {
			return err
		}
	}
	for _, n := range l.Config.Networks {
		if err := l.kernelNetwork(n); err != nil {
			return fmt.Errorf("network %s: %w", n.Name, err)
		}
	}
	for _, g := range l.Guests {
		for _, a := range g.Addrs {
			n := networkOf(l.Config, a.Addr())
			if n == nil {
				continue
			}
			if n.Upstream == config.Proxied {
				if err := l.proxyForNow(uplink, a.Addr()); err != nil {
					return err
				}
			}
			if o.Isolate {
				if err := l.proxyForNow(bridge, a.Addr()); err != nil {
					return err
				}
			}
		}
	}
	if o.Isolate {
		if err := l.isolate(); err != nil {
			return err
		}
	}
	if o.Protect {
		if err := l.ProtectDom0(); err != nil {
			return err
		}
	}
	if o.Bind {
		return l.bindByKernel()
	}
	return nil
}

// kernelNetwork puts a network's gateway on the bridge and, with it, the kernel's route. A prefix
// that the uplink has as well is taken away there, but not the gateway in it.
func (l *Lab) kernelNetwork(n config.Network) error {
	dom0, uplink := l.Dom0, l.Dom0.Link
	for _, own := range l.plan.dom0 {
		if own.Masked() != n.Prefix || own.IsSingleIP() {
			continue
		}
		for _, gw := range []netip.Addr{l.plan.gw4.Addr(), l.plan.gw6.Addr()} {
			if n.Prefix.Contains(gw) {
				if err := l.routeForNow(uplink, Route{Dst: host(gw)}); err != nil {
					return err
				}
			}
		}
		err := l.forNow(func() error { return dom0.DelRoute(uplink, n.Prefix) }, func() error { return dom0.AddRoute(uplink, connected(own)) })
		if err != nil {
			return err
		}
		// Guests take dom0's address to be on their link, where NDP does not answer for the uplink's.
		if err := l.proxyForNow(l.Config.Bridge.Name, own.Addr()); err != nil {
			return err
		}
	}
	if !n.Gateway.IsValid() {
		return l.routeForNow(l.Config.Bridge.Name, Route{Dst: n.Prefix})
	}
	bits := n.Prefix.Bits()
	if n.Gateway.IsLinkLocalUnicast() {
		if err := l.routeForNow(l.Config.Bridge.Name, Route{Dst: n.Prefix}); err != nil {
			return err
		}
		bits = 64
	}
	bridge, gateway := l.Config.Bridge.Name, netip.PrefixFrom(n.Gateway, bits)
	return l.forNow(func() error { return dom0.AddAddr(bridge, gateway) }, func() error { return dom0.DelAddr(bridge, gateway) })
}

// connected is the route that the kernel makes of its own address.
func connected(own netip.Prefix) Route {
	if own.Addr().Is6() {
		return Route{Dst: own.Masked(), Metric: 256}
	}
	return Route{Dst: own.Masked(), Source: own.Addr()}
}

// isolate keeps guests apart on the bridge and has the kernel forward between them.
func (l *Lab) isolate() error {
	dom0, bridge := l.Dom0, l.Config.Bridge.Name
	for _, s := range [][2]string{
		{"net.ipv4.conf." + sysctlName(bridge) + ".proxy_arp_pvlan", "1"}, // answer for the same link
		{"net.ipv4.conf." + sysctlName(bridge) + ".send_redirects", "0"},
		{"net.ipv4.conf.all.send_redirects", "0"},
	} {
		if err := l.setForNow(s[0], s[1]); err != nil {
			return err
		}
	}
	for _, g := range l.Guests {
		err := dom0.onLink("isolating", g.Domu.Vif, func(h *netlink.Handle, link netlink.Link) error {
			return h.LinkSetIsolated(link, true)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
