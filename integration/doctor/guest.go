package doctor

import (
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"

	"udrouter/config"
	"udrouter/policy"
)

func (m *machine) checkVifs() (list []Finding) {
	if m.Config == nil {
		return nil
	}
	bridge := m.link(m.Config.Bridge.Name)
	for i := range m.Config.Domus {
		d := &m.Config.Domus[i]
		if d.Vif == "" {
			continue
		}
		l := m.link(d.Vif)
		if l == nil {
			list = append(list, warning("start the guest, or name its vif in "+d.Range.String(), "%s of guest %q does not exist: the guest is taken in when it comes", d.Vif, d.Name))
			continue
		}
		if bridge != nil && l.Attrs().MasterIndex != bridge.Attrs().Index {
			list = append(list, problem(fmt.Sprintf("ip link set dev %s master %s", d.Vif, m.Config.Bridge.Name), "%s of guest %q is no port of %s: the guest reaches nobody", d.Vif, d.Name, m.Config.Bridge.Name))
		}
		if l.Attrs().Flags&net.FlagUp == 0 {
			list = append(list, problem("ip link set dev "+d.Vif+" up", "%s of guest %q is down", d.Vif, d.Name))
		}
	}
	if bridge == nil || m.hotplugs() {
		return list
	}
	for _, l := range m.links {
		a := l.Attrs()
		if a.MasterIndex != bridge.Attrs().Index || a.Name == m.Config.Bridge.TAP || a.Name == m.Config.Uplink.Name {
			continue
		}
		if !slices.ContainsFunc(m.Config.Domus, func(d config.Domu) bool { return d.Vif == a.Name }) {
			list = append(list, warning(fmt.Sprintf("write a domu block with vif = %q, or ip link set dev %s nomaster", a.Name, a.Name), "%s is a port of %s, but no domu block names it: nothing passes it", a.Name, m.Config.Bridge.Name))
		}
	}
	return list
}

// hotplugs tells whether the file leaves it to hotplug to name vifs: then "udrouter vif list" says whose a port is, and why a port is nobody's.
func (m *machine) hotplugs() bool {
	return len(m.Config.Templates) > 0 || slices.ContainsFunc(m.Config.Domus, func(d config.Domu) bool { return d.Vif == "" })
}

// checkGuestMACs looks at what the bridge has learned of guests before it was told to learn nothing.
func (m *machine) checkGuestMACs() (list []Finding) {
	if m.Config == nil {
		return nil
	}
	for _, n := range m.fdb {
		const permanent, static = netlink.NUD_PERMANENT, netlink.NUD_NOARP
		if n.State&(permanent|static) != 0 || len(n.HardwareAddr) != 6 || n.HardwareAddr[0]&1 != 0 {
			continue
		}
		mac, dev := policy.MAC(n.HardwareAddr), m.nameOf(n.LinkIndex)
		for i := range m.Config.Domus {
			if d := &m.Config.Domus[i]; d.Vif == dev && dev != "" && mac != d.MAC {
				list = append(list, warning(fmt.Sprintf("mac = %q in %s, if that is the guest's, or %s in the guest", mac.String(), d.Range, d.MAC),
					"the bridge has seen the MAC %s on %s, but guest %q is bound to %s: what it sends with another MAC does not pass", mac, dev, d.Name, d.MAC))
			}
		}
	}
	return list
}
