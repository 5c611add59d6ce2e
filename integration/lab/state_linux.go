package lab

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Dom0State lists what of dom0's network a router may change, one sorted line each: links, bridge
// ports with their flags and static entries, addresses, routes, rules, queueing disciplines,
// settings and nftables' tables. What a router leaves behind is the difference between before
// and after.
func (l *Lab) Dom0State() ([]string, error) {
	s := state{ns: l.Dom0.NS, names: make(map[int]string)}
	var err error
	if s.h, err = s.ns.Handle(); err != nil {
		return nil, err
	}
	for _, list := range []func() error{
		s.links, s.ports, s.static, s.addrs, s.routes, s.qdiscs, s.settings, s.tables,
	} {
		if err := list(); err != nil {
			return nil, fmt.Errorf("listing dom0's state: %w", err)
		}
	}
	slices.Sort(s.lines)
	return s.lines, nil
}

// DiffState lists how a state differs from an earlier one: "- " what is gone, "+ " what is new.
func DiffState(before, now []string) []string {
	var diff []string
	for _, s := range before {
		if !slices.Contains(now, s) {
			diff = append(diff, "- "+s)
		}
	}
	for _, s := range now {
		if !slices.Contains(before, s) {
			diff = append(diff, "+ "+s)
		}
	}
	return diff
}

// state collects the lines. Links are called by name: an index is new each time.
type state struct {
	ns    *NS
	h     *netlink.Handle
	names map[int]string
	lines []string
}

func (s *state) add(format string, args ...any) {
	s.lines = append(s.lines, fmt.Sprintf(format, args...))
}

func (s *state) links() error {
	links, err := s.h.LinkList()
	for _, l := range links {
		s.names[l.Attrs().Index] = l.Attrs().Name
	}
	for _, l := range links {
		a := l.Attrs()
		s.add("link %s %s mac %s mtu %d txqueuelen %d flags %s promisc %d allmulti %d master %q xdp %t", a.Name, l.Type(),
			a.HardwareAddr, a.MTU, a.TxQLen, a.Flags, a.Promisc, a.Allmulti, s.names[a.MasterIndex], a.Xdp != nil && a.Xdp.Attached)
		if b, ok := l.(*netlink.Bridge); ok && b.MulticastSnooping != nil && b.VlanFiltering != nil {
			s.add("bridge %s multicast snooping %t vlan filtering %t", a.Name, *b.MulticastSnooping, *b.VlanFiltering)
		}
	}
	return err
}

// portFlags are the settings of a bridge port, as opposed to its timers and identifiers.
var portFlags = map[uint16]string{
	nl.IFLA_BRPORT_STATE:         "state",
	nl.IFLA_BRPORT_MODE:          "hairpin",
	nl.IFLA_BRPORT_GUARD:         "guard",
	nl.IFLA_BRPORT_PROTECT:       "root_block",
	nl.IFLA_BRPORT_LEARNING:      "learning",
	nl.IFLA_BRPORT_UNICAST_FLOOD: "flood",
	nl.IFLA_BRPORT_MCAST_FLOOD:   "mcast_flood",
	nl.IFLA_BRPORT_BCAST_FLOOD:   "bcast_flood",
	nl.IFLA_BRPORT_PROXYARP:      "proxy_arp",
	nl.IFLA_BRPORT_ISOLATED:      "isolated",
	nl.IFLA_BRPORT_LOCKED:        "locked",
	nl.IFLA_BRPORT_MAB:           "mab",
}

// ports reads the ports' flags by hand: package netlink knows only some of them.
func (s *state) ports() error {
	var msgs [][]byte
	err := s.ns.Do(func() (err error) {
		req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfInfomsg(unix.AF_BRIDGE))
		msgs, err = req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
	if err != nil {
		return err
	}
	for _, m := range msgs {
		info := nl.DeserializeIfInfomsg(m)
		attrs, err := nl.ParseRouteAttr(m[info.Len():])
		if err != nil {
			return err
		}
		for _, attr := range attrs {
			if attr.Attr.Type != unix.IFLA_PROTINFO|unix.NLA_F_NESTED {
				continue
			}
			flags, err := nl.ParseRouteAttr(attr.Value)
			if err != nil {
				return err
			}
			var text []string
			for _, f := range flags {
				if name := portFlags[f.Attr.Type]; name != "" && len(f.Value) > 0 {
					text = append(text, fmt.Sprintf("%s %d", name, f.Value[0]))
				}
			}
			slices.Sort(text)
			s.add("port %s %s", s.names[int(info.Index)], strings.Join(text, " "))
		}
	}
	return nil
}

// static lists a bridge's entries that do not come from learning. Those without a master are the
// links' own filters, which follow the groups that the host has joined.
func (s *state) static() error {
	list, err := s.h.NeighList(0, unix.AF_BRIDGE)
	for _, e := range list {
		if e.State&(netlink.NUD_PERMANENT|netlink.NUD_NOARP) != 0 && e.MasterIndex != 0 {
			s.add("fdb %s dev %s master %q state %#x", e.HardwareAddr, s.names[e.LinkIndex], s.names[e.MasterIndex], e.State)
		}
	}
	return err
}

func (s *state) addrs() error {
	list, err := s.h.AddrList(nil, netlink.FAMILY_ALL)
	for _, a := range list {
		s.add("addr %s dev %s", a.IPNet, s.names[a.LinkIndex])
	}
	return err
}

func (s *state) routes() error {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		list, err := s.h.RouteListFiltered(family, &netlink.Route{}, netlink.RT_FILTER_TABLE) // table 0: all
		if err != nil {
			return err
		}
		for _, r := range list {
			// The local table follows the addresses, a moment later.
			if r.Table == unix.RT_TABLE_LOCAL {
				continue
			}
			s.add("route %v via %v dev %s table %d scope %s type %d metric %d src %v",
				r.Dst, r.Gw, s.names[r.LinkIndex], r.Table, r.Scope, r.Type, r.Priority, r.Src)
		}
		rules, err := s.h.RuleList(family)
		if err != nil {
			return err
		}
		for _, r := range rules {
			s.add("rule %d %s", family, r)
		}
	}
	return nil
}

func (s *state) qdiscs() error {
	for index, name := range s.names {
		list, err := s.h.QdiscList(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: index}})
		if err != nil {
			return err
		}
		for _, q := range list {
			s.add("qdisc %s dev %s", q.Type(), name)
		}
	}
	return nil
}

func (s *state) settings() error {
	keys := []string{"net.ipv4.ip_forward"}
	for _, name := range s.names {
		name = sysctlName(name)
		for _, k := range []string{"forwarding", "rp_filter", "proxy_arp", "arp_ignore", "arp_announce", "accept_local", "route_localnet"} {
			keys = append(keys, "net.ipv4.conf."+name+"."+k)
		}
		for _, k := range []string{"forwarding", "disable_ipv6", "proxy_ndp", "accept_ra", "accept_dad", "addr_gen_mode"} {
			keys = append(keys, "net.ipv6.conf."+name+"."+k)
		}
	}
	for _, k := range keys {
		v, err := s.ns.Sysctl(k)
		if err != nil {
			return err
		}
		s.add("sysctl %s=%s", k, v)
	}
	return nil
}

func (s *state) tables() error {
	conn, err := nftables.New(nftables.WithNetNSFd(s.ns.FD()))
	if err != nil {
		return err
	}
	list, err := conn.ListTables()
	for _, t := range list {
		s.add("nftables table %s family %d", t.Name, t.Family)
	}
	return err
}
