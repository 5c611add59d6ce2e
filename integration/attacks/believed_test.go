package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"udrouter/integration/cases"
	"udrouter/integration/lab"
	"udrouter/integration/wire"
	"udrouter/policy"
)

// entry is a line of a kernel's neighbour table or of dom0's forwarding database that is not true.
type entry struct {
	node  *lab.Node
	neigh netlink.Neigh
	what  string
	asked bool // not an answer believed, but nobody's address asked for
}

// believed are the entries that are not true in the tables of dom0's kernel and of the honest guest's.
func (s *stage) believed() (out []entry) {
	s.T.Helper()
	for _, n := range []*lab.Node{s.Lab.Dom0, s.honest.Node} {
		h, err := n.Handle()
		wire.Must(s.T, err)
		links, err := h.LinkList()
		wire.Must(s.T, err)
		names := map[int]string{}
		for _, l := range links {
			names[l.Attrs().Index] = l.Attrs().Name
		}
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			list, err := h.NeighList(0, family)
			wire.Must(s.T, err)
			for _, e := range list {
				if e.State&(netlink.NUD_NOARP|netlink.NUD_PERMANENT) == 0 {
					out = append(out, s.judgeNeighbour(n, names[e.LinkIndex], e)...)
				}
			}
		}
		if n != s.Lab.Dom0 {
			continue
		}
		list, err := h.NeighList(0, unix.AF_BRIDGE)
		wire.Must(s.T, err)
		for _, e := range list {
			if mac, port := macOf(e.HardwareAddr), names[e.LinkIndex]; e.State&netlink.NUD_PERMANENT == 0 && s.ports[mac] != "" && s.ports[mac] != port {
				out = append(out, entry{node: n, neigh: e, what: fmt.Sprintf("%s is behind %s", mac, port)})
			}
		}
	}
	return out
}

func (s *stage) judgeNeighbour(n *lab.Node, link string, e netlink.Neigh) []entry {
	addr, _ := netip.AddrFromSlice(e.IP)
	addr = addr.Unmap()
	bad := entry{node: n, neigh: e, what: fmt.Sprintf("%s has %s on %s", addr, macOf(e.HardwareAddr), link)}
	if e.State&(netlink.NUD_INCOMPLETE|netlink.NUD_FAILED) != 0 || len(e.HardwareAddr) != 6 {
		bad.asked, bad.what = true, fmt.Sprintf("%s asked for on %s", addr, link)
		if s.owner(n, link, addr).IsZero() && link == s.Lab.Config.Bridge.Name {
			return []entry{bad}
		}
		return nil
	}
	if mac := macOf(e.HardwareAddr); mac == s.owner(n, link, addr) || n != s.Lab.Dom0 && mac == s.Net.Router {
		return nil
	}
	// Stations that the rows do not name may be where they say.
	station := addr.IsLinkLocalUnicast() || link == s.Lab.Dom0.Link && netip.MustParsePrefix("192.0.1.0/26").Contains(addr)
	if station && s.owner(n, link, addr).IsZero() && addr != cases.LL1 && addr != cases.Dom04 {
		return nil
	}
	return []entry{bad}
}

// owner is who has an address on a link, zero for nobody.
func (s *stage) owner(n *lab.Node, link string, addr netip.Addr) policy.MAC {
	return s.owners(n, link)[addr]
}

func (s *stage) owners(n *lab.Node, link string) map[netip.Addr]policy.MAC {
	if link == s.Lab.Dom0.Link && n == s.Lab.Dom0 {
		return map[netip.Addr]policy.MAC{cases.Gateway4: s.Net.Gateway, cases.Gateway6: s.Net.Gateway}
	}
	return map[netip.Addr]policy.MAC{
		cases.One4: cases.MAC1, cases.One6: cases.MAC1, policy.EUI64(cases.MAC1): cases.MAC1, netip.MustParseAddr("fe80::10"): cases.MAC1,
		cases.Two4: cases.MAC2, cases.Two6: cases.MAC2, policy.EUI64(cases.MAC2): cases.MAC2,
		s.honest.Addr4(): s.honest.MAC, s.honest.Addr6(): s.honest.MAC, policy.EUI64(s.honest.MAC): s.honest.MAC,
	}
}

// repair makes the tables true again, so that a row does not meet what another has left.
func (s *stage) repair() {
	s.T.Helper()
	wrong := s.believed()
	for _, e := range wrong {
		h, err := e.node.Handle()
		wire.Must(s.T, err)
		if e.neigh.Family == unix.AF_BRIDGE {
			e.neigh.Flags = netlink.NTF_MASTER
		}
		if err := h.NeighDel(&e.neigh); err != nil && !errors.Is(err, unix.ENOENT) {
			s.T.Fatalf("removing %s: %v", e.what, err)
		}
	}
	if s.Proc != nil {
		return
	}
	if len(wrong) > 0 {
		defer tick()
	}
	h, err := s.Lab.Dom0.Handle()
	wire.Must(s.T, err)
	for _, link := range []string{s.Lab.Config.Bridge.Name, s.Lab.Dom0.Link} {
		index, err := s.Lab.Dom0.LinkIndex(link)
		wire.Must(s.T, err)
		for addr, mac := range s.owners(s.Lab.Dom0, link) {
			if mac != s.honest.MAC { // that one answers for itself
				wire.Must(s.T, h.NeighSet(&netlink.Neigh{LinkIndex: index, State: netlink.NUD_REACHABLE, IP: net.IP(addr.AsSlice()), HardwareAddr: mac[:]}))
			}
		}
	}
}

// tick waits until the kernel's jiffies have moved on: what was changed in this one, ARP does not change again.
func tick() {
	coarse := func() (ts unix.Timespec) {
		_ = unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &ts) // moves with jiffies
		return ts
	}
	for start := coarse(); coarse() == start; {
		runtime.Gosched()
	}
}

// routes are dom0's, one a line.
func (s *stage) routes() string {
	s.T.Helper()
	h, err := s.Lab.Dom0.Handle()
	wire.Must(s.T, err)
	list, err := h.RouteList(nil, netlink.FAMILY_ALL)
	wire.Must(s.T, err)
	var lines []string
	for _, r := range list {
		lines = append(lines, fmt.Sprintf("%s via %s dev %d mtu %d proto %d", r.Dst, r.Gw, r.LinkIndex, r.MTU, r.Protocol))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
