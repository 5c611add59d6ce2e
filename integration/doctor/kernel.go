package doctor

import (
	"fmt"
	"net/netip"
	"strconv"
)

func (m *machine) checkKernel() (list []Finding) {
	var major, minor int
	if _, err := fmt.Sscanf(m.release, "%d.%d", &major, &minor); err == nil && (major < 5 || major == 5 && minor < 18) {
		list = append(list, problem("install Linux 5.18 or later", "Linux %s cannot lock a bridge's ports to their guests", m.release))
	}
	for _, name := range m.missing {
		list = append(list, problem("modprobe "+name, "the kernel's %s cannot be used", name))
	}
	return list
}

// setTo0 is a finding about a setting that is on.
func (m *machine) setTo0(s func(remedy, format string, args ...any) Finding, key, does string) []Finding {
	if !m.on(key) {
		return nil
	}
	return []Finding{s(fmt.Sprintf("sysctl -w %s=0", key), "dom0's kernel %s (%s = %s)", does, key, m.settings[key])}
}

func (m *machine) checkForwarding() []Finding {
	const does = "forwards %s as well: guests' packets are kept from it while the router runs, and are not when it does not; switch it off unless something else needs it"
	return append(m.setTo0(warning, "net.ipv4.ip_forward", fmt.Sprintf(does, "IPv4")), m.setTo0(warning, "net.ipv6.conf.all.forwarding", fmt.Sprintf(does, "IPv6"))...)
}

func (m *machine) checkProxy() (list []Finding) {
	const arp, ndp = "answers ARP for others", "answers NDP for others"
	list = append(m.setTo0(problem, "net.ipv4.conf.all.proxy_arp", arp), m.setTo0(problem, "net.ipv6.conf.all.proxy_ndp", ndp)...)
	for _, name := range m.ours() {
		list = append(list, m.setTo0(problem, "net.ipv4.conf."+settingName(name)+".proxy_arp", arp+" on "+name)...)
		list = append(list, m.setTo0(problem, "net.ipv6.conf."+settingName(name)+".proxy_ndp", ndp+" on "+name)...)
	}
	for _, n := range m.proxies {
		a, ok := netip.AddrFromSlice(n.IP)
		if !ok {
			continue
		}
		a, dev := a.Unmap(), m.nameOf(n.LinkIndex)
		list = append(list, problem(fmt.Sprintf("ip %sneigh del proxy %s dev %s", flag(a), a, dev), "dom0's kernel answers for %s on %s; the router answers for those that domu blocks bind", a, dev))
	}
	return list
}

// ours are the interfaces that the router has to do with, of those that there are.
func (m *machine) ours() (names []string) {
	if m.Config == nil {
		return nil
	}
	names = []string{m.Config.Uplink.Name, m.Config.Bridge.Name, m.Config.Bridge.TAP}
	if m.Config.Host != nil {
		names = append(names, m.Config.Host.Interface)
	}
	for i := range m.Config.Domus {
		names = append(names, m.Config.Domus[i].Vif)
	}
	return names
}

func (m *machine) checkBridgeNetfilter() (list []Finding) {
	for _, name := range []string{"iptables", "ip6tables", "arptables"} {
		list = append(list, m.setTo0(warning, "net.bridge.bridge-nf-call-"+name, "shows frames in bridges to "+name+", whose rules are about other packets and may drop them")...)
	}
	return list
}

func (m *machine) checkConntrack() []Finding {
	count, err1 := strconv.Atoi(m.settings["net.netfilter.nf_conntrack_count"])
	most, err2 := strconv.Atoi(m.settings["net.netfilter.nf_conntrack_max"])
	if err1 != nil || err2 != nil || most == 0 || count < most-most/10 {
		return nil
	}
	return []Finding{warning(fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_max=%d", 2*most),
		"dom0's table of connections has %d of at most %d entries; when it is full, new connections to dom0 are dropped (guests' are not in it)", count, most)}
}

// hasFamily tells whether guests have addresses of a family.
func (m *machine) hasFamily(v6 bool) bool {
	if m.Config == nil {
		return false
	}
	for _, n := range m.Config.Networks {
		if n.Prefix.Addr().Is6() == v6 {
			return true
		}
	}
	return false
}

func (m *machine) checkRoutes() (list []Finding) {
	if m.Config == nil {
		return nil
	}
	u := m.Config.Uplink
	if m.link(u.Name) == nil {
		return nil // reported
	}
	type way struct {
		via netip.Addr
		dev string
	}
	defaults := map[bool][]way{}
	for _, r := range m.routes {
		gw, _ := netip.AddrFromSlice(r.Gw)
		gw = gw.Unmap()
		dev := m.nameOf(r.LinkIndex)
		dst, ok := netip.Prefix{}, false
		if r.Dst != nil {
			ones, _ := r.Dst.Mask.Size()
			dst, ok = prefixOf(r.Dst.IP, ones)
		}
		if !ok || dst.Bits() == 0 {
			v6 := ok && dst.Addr().Is6() || gw.Is6()
			defaults[v6] = append(defaults[v6], way{gw, dev})
			continue
		}
		if n := m.networkOf(dst); n != nil && dev != "" && dev != u.Name && (m.Config.Host == nil || dev != m.Config.Host.Interface) && dst.Bits() >= n.Prefix.Bits() && r.Protocol != protocolKernel {
			list = append(list, problem(fmt.Sprintf("ip %sroute del %s dev %s", flag(dst.Addr()), dst, dev), "dom0 sends what is for %s of network %q (%s) to %s, past the router", dst, n.Name, n.Range, dev))
		}
	}
	for _, f := range []struct {
		v6      bool
		name    string
		gateway netip.Addr
	}{{false, "IPv4", u.Gateway4}, {true, "IPv6", u.Gateway6}} {
		if !m.hasFamily(f.v6) {
			continue
		}
		ways := defaults[f.v6]
		there := false
		for _, w := range ways {
			there = there || w.dev == u.Name
		}
		option := map[bool]string{true: "-6 "}[f.v6]
		if !there && !f.gateway.IsValid() {
			list = append(list, problem(fmt.Sprintf("ip %sroute add default via GATEWAY dev %s, or gateway%c in the uplink block", option, u.Name, f.name[3]), "there is no default route of %s by %s, and the configuration names no gateway: guests reach nobody beyond it", f.name, u.Name))
		}
		for _, w := range ways {
			if w.dev != u.Name && w.dev != "" {
				remedy := fmt.Sprintf("ip %sroute del default via %s dev %s", option, w.via, w.dev)
				if !w.via.IsValid() {
					remedy = fmt.Sprintf("ip %sroute del default dev %s", option, w.dev)
				}
				list = append(list, warning(remedy, "dom0 has a default route of %s by %s as well, which guests' packets never take", f.name, w.dev))
			}
		}
	}
	return list
}

// protocolKernel is of routes that come and go with addresses, which are findings themselves (linux/rtnetlink.h RTPROT_KERNEL).
const protocolKernel = 2
