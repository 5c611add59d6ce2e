package doctor

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"udrouter/config"
)

func (m *machine) checkUplink() (list []Finding) {
	if m.Config == nil {
		return nil
	}
	name := m.Config.Uplink.Name
	l := m.link(name)
	if l == nil {
		return []Finding{problem("name the interface toward the provider in the uplink block (ip link shows them)", "the uplink %s does not exist", name)}
	}
	a := l.Attrs()
	if a.Flags&net.FlagUp == 0 {
		list = append(list, problem("ip link set dev "+name+" up", "the uplink %s is down", name))
	}
	if len(a.HardwareAddr) != 6 {
		list = append(list, problem("name the interface toward the provider in the uplink block (ip link shows them)", "the uplink %s is no Ethernet interface", name))
	}
	if master := m.nameOf(a.MasterIndex); a.MasterIndex != 0 {
		what := "is a port of " + master + ", which takes its packets"
		if ml := m.link(master); ml != nil && ml.Type() == "vrf" {
			what = "is in the VRF " + master + ", whose routes are not in the main table, by which the router goes"
		}
		list = append(list, problem("ip link set dev "+name+" nomaster", "the uplink %s %s; dom0's address and routes belong on %s itself", name, what, name))
	}
	return list
}

func (m *machine) checkOffload() []Finding {
	if !m.lro {
		return nil
	}
	name := m.Config.Uplink.Name
	return []Finding{problem("ethtool -K "+name+" lro off", "%s joins packets so that they cannot be sent on as they were (large-receive-offload)", name)}
}

// guestSide tells whether an interface is the bridge, the TAP or a guest's vif.
func (m *machine) guestSide(name string) bool {
	c := m.Config
	return c != nil && (name == c.Bridge.Name || name == c.Bridge.TAP || slices.ContainsFunc(c.Domus, func(d config.Domu) bool { return d.Vif == name && name != "" }))
}

// checkAddresses looks for addresses that dom0's kernel answers for in the router's place. The uplink's own may be a gateway of the guests'.
func (m *machine) checkAddresses() (list []Finding) {
	if m.Config == nil {
		return nil
	}
	for _, entry := range m.addrs {
		ones, _ := entry.Mask.Size()
		p, ok := prefixOf(entry.IP, ones)
		dev := m.nameOf(entry.LinkIndex)
		if !ok || dev == "" || dev == "lo" {
			continue
		}
		a := p.Addr()
		remedy := fmt.Sprintf("ip %saddr del %s dev %s", flag(a), p, dev)
		linkLocal := a.Is6() && a.IsLinkLocalUnicast()
		switch g := m.bound(a); {
		case g != nil:
			list = append(list, problem(remedy, "dom0 holds %s on %s, which is bound to guest %q (%s)", a, dev, g.Name, g.Range))
		case linkLocal: // the router takes care of those of its interfaces, see checkBridge
		case m.guestSide(dev):
			list = append(list, problem(remedy, "dom0 holds %s on %s, where guests reach it past the router's rules", a, dev))
		case dev == m.Config.Uplink.Name:
		default:
			if n := m.networkOf(netip.PrefixFrom(a, a.BitLen())); n != nil {
				list = append(list, problem(remedy, "dom0 holds %s of network %q (%s) on %s, and with it a route to the guests past the router", p, n.Name, n.Range, dev))
			}
		}
	}
	return list
}

func (m *machine) checkBridge() (list []Finding) {
	if m.Config == nil {
		return nil
	}
	name := m.Config.Bridge.Name
	l := m.link(name)
	if l == nil {
		return nil // it is made
	}
	br, ok := l.(*netlink.Bridge)
	if !ok {
		return []Finding{problem("name the guests' bridge in the bridge block", "%s exists, but is no bridge", name)}
	}
	if m.running == nil {
		return list // the router sets what follows
	}
	if br.MulticastSnooping != nil && *br.MulticastSnooping {
		list = append(list, problem("ip link set dev "+name+" type bridge mcast_snooping 0", "multicast snooping has been switched on: a guest can take neighbour discovery away from the others"))
	}
	if br.Attrs().Flags&net.FlagUp == 0 {
		list = append(list, problem("ip link set dev "+name+" up", "the bridge %s is down", name))
	}
	for _, dev := range append([]string{name, m.Config.Bridge.TAP}, m.vifs()...) {
		if v, ok := m.settings["net.ipv6.conf."+settingName(dev)+".disable_ipv6"]; ok && v == "0" {
			list = append(list, problem("sysctl -w net.ipv6.conf."+settingName(dev)+".disable_ipv6=1", "IPv6 has been switched on on %s: guests reach dom0 on an automatic address there", dev))
		}
	}
	return list
}

// vifs are the guests' vifs that exist.
func (m *machine) vifs() (names []string) {
	for i := range m.Config.Domus {
		if v := m.Config.Domus[i].Vif; v != "" && m.link(v) != nil {
			names = append(names, v)
		}
	}
	return names
}

func (m *machine) checkMTU() (list []Finding) {
	if m.Config == nil || m.link(m.Config.Uplink.Name) == nil {
		return nil
	}
	uplink := m.link(m.Config.Uplink.Name).Attrs()
	if uplink.MTU < 1280 && m.hasFamily(true) {
		list = append(list, problem(fmt.Sprintf("ip link set dev %s mtu 1500", uplink.Name), "the uplink %s carries packets of %d bytes only, and IPv6 needs 1280 (RFC 8200 5)", uplink.Name, uplink.MTU))
	}
	want := m.Config.Bridge.MTU
	if want == 0 {
		want = max(uplink.MTU, 1280)
	}
	devices := m.vifs()
	if m.running != nil { // else it is the router that sets them
		devices = append([]string{m.Config.Bridge.Name, m.Config.Bridge.TAP}, devices...)
	}
	for _, name := range devices {
		if l := m.link(name); l != nil && l.Attrs().MTU != want {
			list = append(list, warning(fmt.Sprintf("ip link set dev %s mtu %d", name, want), "%s carries packets of %d bytes, and the router's side of the guests %d: larger ones are lost on the way without a word", name, l.Attrs().MTU, want))
		}
	}
	return list
}
