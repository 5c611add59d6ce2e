package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"udrouter/policy"
)

// end is one end of a veth pair.
type end struct {
	ns   *NS
	link string
	mac  policy.MAC // zero: the kernel's choice
}

// addVeth makes a pair with its ends where they belong at once, both down, of the given MTU in bytes.
func addVeth(a, b end, mtu int) error {
	h, err := a.ns.Handle()
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = a.link, mtu
	veth := &netlink.Veth{
		LinkAttrs:     attrs,
		PeerName:      b.link,
		PeerMTU:       uint32(mtu),
		PeerNamespace: netlink.NsFd(b.ns.FD()),
	}
	if !a.mac.IsZero() {
		veth.HardwareAddr = a.mac[:]
	}
	if !b.mac.IsZero() {
		veth.PeerHardwareAddr = b.mac[:]
	}
	if err := h.LinkAdd(veth); err != nil {
		return fmt.Errorf("linking %s of %s to %s of %s: %w", a.link, a.ns.name, b.link, b.ns.name, err)
	}
	return nil
}

// addBridge makes a bridge without spanning tree, as Xen's scripts do, and leaves all else to the kernel.
func (n *NS) addBridge(name string, mtu int) error {
	h, err := n.Handle()
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, mtu
	if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("adding bridge %s to %s: %w", name, n.name, err)
	}
	return nil
}

// onLink calls f with a handle and the named link, and says where and what failed.
func (n *NS) onLink(doing, name string, f func(*netlink.Handle, netlink.Link) error) error {
	h, err := n.Handle()
	if err != nil {
		return err
	}
	link, err := h.LinkByName(name)
	if err == nil {
		err = f(h, link)
	}
	if err != nil {
		return fmt.Errorf("%s %s of %s: %w", doing, name, n.name, err)
	}
	return nil
}

// LinkIndex is the index of a link.
func (n *NS) LinkIndex(name string) (index int, err error) {
	err = n.onLink("looking up", name, func(_ *netlink.Handle, l netlink.Link) error {
		index = l.Attrs().Index
		return nil
	})
	return index, err
}

// LinkMAC is the hardware address of a link.
func (n *NS) LinkMAC(name string) (mac policy.MAC, err error) {
	err = n.onLink("looking up", name, func(_ *netlink.Handle, l netlink.Link) error {
		copy(mac[:], l.Attrs().HardwareAddr)
		return nil
	})
	return mac, err
}

// SetLinkMAC gives a link another hardware address.
func (n *NS) SetLinkMAC(link string, mac policy.MAC) error {
	return n.onLink("setting the MAC of", link, func(h *netlink.Handle, l netlink.Link) error {
		return h.LinkSetHardwareAddr(l, mac[:])
	})
}

// SetUp brings a link up.
func (n *NS) SetUp(link string) error {
	return n.onLink("bringing up", link, (*netlink.Handle).LinkSetUp)
}

// SetDown takes a link down; the kernel drops its routes and IPv6 addresses with that.
func (n *NS) SetDown(link string) error {
	return n.onLink("taking down", link, (*netlink.Handle).LinkSetDown)
}

// SetMTU sets a link's MTU in bytes, which a veth's peer does not follow.
func (n *NS) SetMTU(link string, mtu int) error {
	return n.onLink("setting the MTU of", link, func(h *netlink.Handle, l netlink.Link) error {
		return h.LinkSetMTU(l, mtu)
	})
}

// SetDAD turns duplicate address detection on a link on or off. Addresses that are added while it is
// on are tentative for a second and more.
func (n *NS) SetDAD(link string, on bool) error {
	value := "0"
	if on {
		value = "1"
	}
	return n.SetSysctl("net.ipv6.conf."+sysctlName(link)+".accept_dad", value)
}

// sysctlName writes a link's name as a part of a sysctl key: "vif1.0" is "vif1/0".
func sysctlName(link string) string {
	name := []byte(link)
	for i, c := range name {
		if c == '.' {
			name[i] = '/'
		}
	}
	return string(name)
}

// DelLink removes a link, and with an end of a veth pair the other.
func (n *NS) DelLink(link string) error {
	return n.onLink("removing", link, (*netlink.Handle).LinkDel)
}

// enslave makes a link a port of a bridge.
func (n *NS) enslave(link, bridge string) error {
	index, err := n.LinkIndex(bridge)
	if err != nil {
		return err
	}
	return n.onLink("enslaving", link, func(h *netlink.Handle, l netlink.Link) error {
		return h.LinkSetMasterByIndex(l, index)
	})
}

// AddAddr gives a link an address with the length of its prefix, to be used at once: even where
// duplicate address detection is off, the kernel calls a new IPv6 address tentative for a moment.
func (n *NS) AddAddr(link string, p netip.Prefix) error {
	return n.addAddr(link, p, unix.IFA_F_NODAD)
}

// AddAddrDAD is AddAddr with duplicate address detection, if that is on (SetDAD).
func (n *NS) AddAddrDAD(link string, p netip.Prefix) error { return n.addAddr(link, p, 0) }

func (n *NS) addAddr(link string, p netip.Prefix, flags int) error {
	if p.Addr().Is4() {
		flags = 0
	}
	return n.onLink("adding "+p.String()+" to", link, func(h *netlink.Handle, l netlink.Link) error {
		return h.AddrAdd(l, &netlink.Addr{IPNet: ipNet(p), Flags: flags})
	})
}

// DelAddr takes an address away from a link.
func (n *NS) DelAddr(link string, p netip.Prefix) error {
	return n.onLink("removing "+p.String()+" from", link, func(h *netlink.Handle, l netlink.Link) error {
		return h.AddrDel(l, &netlink.Addr{IPNet: ipNet(p)})
	})
}

// Strip leaves a link nothing of IP but a link-local address of its own, as of a host that has just booted, and brings it up again.
func (n *NS) Strip(link string) error {
	return n.onLink("stripping", link, func(h *netlink.Handle, l netlink.Link) error {
		if err := h.LinkSetDown(l); err != nil { // with which the routes go
			return err
		}
		list, err := h.AddrList(l, 0)
		if err != nil {
			return err
		}
		for _, a := range list {
			if err := h.AddrDel(l, &a); err != nil {
				return err
			}
		}
		return h.LinkSetUp(l)
	})
}

// AddrsOf are the addresses that a link has, but those that are tentative.
func (n *NS) AddrsOf(link string) (list []netip.Prefix, err error) {
	err = n.onLink("listing the addresses of", link, func(h *netlink.Handle, l netlink.Link) error {
		all, err := h.AddrList(l, 0)
		for _, a := range all {
			ip, _ := netip.AddrFromSlice(a.IP)
			bits, _ := a.Mask.Size()
			if a.Flags&unix.IFA_F_TENTATIVE == 0 {
				list = append(list, netip.PrefixFrom(ip.Unmap(), bits))
			}
		}
		return err
	})
	return list, err
}

// DefaultRoutes are the gateways that a link's default routes name.
func (n *NS) DefaultRoutes(link string) (list []netip.Addr, err error) {
	err = n.onLink("listing the routes of", link, func(h *netlink.Handle, l netlink.Link) error {
		all, err := h.RouteList(l, netlink.FAMILY_ALL)
		for _, r := range all {
			if ones := 0; r.Dst != nil {
				if ones, _ = r.Dst.Mask.Size(); ones != 0 {
					continue
				}
			}
			if gw, ok := netip.AddrFromSlice(r.Gw); ok {
				list = append(list, gw.Unmap())
			}
		}
		return err
	})
	return list, err
}

// OnLink are the prefixes that a link's routes reach without a gateway, but those of single addresses, of link-local ones and of multicast.
func (n *NS) OnLink(link string) (list []netip.Prefix, err error) {
	err = n.onLink("listing the routes of", link, func(h *netlink.Handle, l netlink.Link) error {
		all, err := h.RouteList(l, netlink.FAMILY_ALL)
		for _, r := range all {
			if r.Dst == nil || r.Gw != nil {
				continue
			}
			a, _ := netip.AddrFromSlice(r.Dst.IP)
			bits, _ := r.Dst.Mask.Size()
			if p := netip.PrefixFrom(a.Unmap(), bits); !p.IsSingleIP() && !p.Addr().IsLinkLocalUnicast() && !p.Addr().IsMulticast() {
				list = append(list, p)
			}
		}
		return err
	})
	return list, err
}

// Route says where packets to a prefix go.
type Route struct {
	Dst    netip.Prefix
	Via    netip.Addr // zero: Dst is on the link itself
	Source netip.Addr // what the namespace's own packets are sent from; zero: the kernel's choice
	OnLink bool       // Via is on the link whatever the addresses say
	Metric int        // 0: the kernel's default
}

// AddRoute adds a route out of a link, or replaces the one that has its prefix.
func (n *NS) AddRoute(link string, r Route) error {
	return n.onLink("routing "+r.Dst.String()+" to", link, func(h *netlink.Handle, l netlink.Link) error {
		return h.RouteReplace(r.netlink(l))
	})
}

// DelRoute removes the route of a prefix out of a link.
func (n *NS) DelRoute(link string, dst netip.Prefix) error {
	return n.onLink("removing route "+dst.String()+" to", link, func(h *netlink.Handle, l netlink.Link) error {
		// In IPv4 the scope is compared too; this one stands for any.
		return h.RouteDel(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(dst), Scope: netlink.SCOPE_NOWHERE})
	})
}

func (r Route) netlink(l netlink.Link) *netlink.Route {
	nr := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(r.Dst), Priority: r.Metric}
	if r.Via.IsValid() {
		nr.Gw = r.Via.AsSlice()
	} else if r.Dst.Addr().Is4() {
		nr.Scope = netlink.SCOPE_LINK
	}
	if r.Source.IsValid() {
		nr.Src = r.Source.AsSlice()
	}
	if r.OnLink {
		nr.Flags = int(netlink.FLAG_ONLINK)
	}
	return nr
}

// addProxy has the kernel answer ARP or NDP for one address on a link, as "ip neigh add proxy" does.
func (n *NS) addProxy(link string, a netip.Addr) error {
	return n.onLink("proxying "+a.String()+" on", link, func(h *netlink.Handle, l netlink.Link) error { return h.NeighSet(proxyEntry(l, a)) })
}

// delProxy undoes addProxy; it may be undone already.
func (n *NS) delProxy(link string, a netip.Addr) error {
	return n.onLink("no longer proxying "+a.String()+" on", link, func(h *netlink.Handle, l netlink.Link) error {
		if err := h.NeighDel(proxyEntry(l, a)); !errors.Is(err, unix.ENOENT) {
			return err
		}
		return nil
	})
}

func proxyEntry(l netlink.Link, a netip.Addr) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: l.Attrs().Index, Family: family(a), Flags: netlink.NTF_PROXY, IP: a.AsSlice()}
}

// AddNeighbour tells the kernel where an address is, for good.
func (n *NS) AddNeighbour(link string, a netip.Addr, mac policy.MAC) error {
	return n.onLink("adding a neighbour on", link, func(h *netlink.Handle, l netlink.Link) error {
		return h.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, Family: family(a), State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac[:]})
	})
}

// Neighbour is the hardware address that the kernel has for an address on a link; false: none.
func (n *NS) Neighbour(link string, a netip.Addr) (mac policy.MAC, ok bool, err error) {
	err = n.onLink("listing neighbours on", link, func(h *netlink.Handle, l netlink.Link) error {
		list, err := h.NeighList(l.Attrs().Index, family(a))
		for _, e := range list {
			ip, _ := netip.AddrFromSlice(e.IP)
			if ip.Unmap() == a && len(e.HardwareAddr) == len(mac) && e.State&(netlink.NUD_FAILED|netlink.NUD_INCOMPLETE) == 0 {
				copy(mac[:], e.HardwareAddr)
				ok = true
			}
		}
		return err
	})
	return mac, ok, err
}

// HurryNeighbours has the kernel ask anew after less than a second of silence where a neighbour on a link is, of those it knows already too: by itself it may take a minute.
func (n *NS) HurryNeighbours(link string) error {
	for _, v := range []string{"4", "6"} {
		for key, value := range map[string]string{"base_reachable_time_ms": "500", "delay_first_probe_time": "1", "retrans_time_ms": "200"} {
			if err := n.SetSysctl("net.ipv"+v+".neigh."+sysctlName(link)+"."+key, value); err != nil {
				return err
			}
		}
	}
	// The timer of an entry that has been found runs as it was set then.
	return n.onLink("forgetting neighbours on", link, func(h *netlink.Handle, l netlink.Link) error {
		list, err := h.NeighList(l.Attrs().Index, 0)
		for _, e := range list {
			if e.State&(netlink.NUD_PERMANENT|netlink.NUD_NOARP) != 0 {
				continue
			}
			if err := h.NeighDel(&e); err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
		}
		return err
	})
}

// ready tells whether a link is up with carrier and, where it should have one, has a link-local
// address, and whether none of its IPv6 addresses is tentative.
func (n *NS) ready(link string, wantLinkLocal bool) (ok bool, err error) {
	err = n.onLink("looking at", link, func(h *netlink.Handle, l netlink.Link) error {
		if l.Attrs().OperState != netlink.OperUp {
			return nil
		}
		addrs, err := h.AddrList(l, unix.AF_INET6)
		tentative, linkLocal := false, false
		for _, a := range addrs {
			if a.Flags&unix.IFA_F_DADFAILED != 0 {
				return fmt.Errorf("somebody else has %s", a.IP)
			}
			tentative = tentative || a.Flags&unix.IFA_F_TENTATIVE != 0
			linkLocal = linkLocal || a.IP.IsLinkLocalUnicast()
		}
		ok = !tentative && (linkLocal || !wantLinkLocal)
		return err
	})
	return ok, err
}

// LinkCount is a link's traffic since it was made.
type LinkCount struct{ RxPackets, TxPackets, RxBytes, TxBytes, RxDropped, TxDropped uint64 }

// Count reads a link's counters.
func (n *NS) Count(link string) (c LinkCount, err error) {
	err = n.onLink("counting on", link, func(_ *netlink.Handle, l netlink.Link) error {
		s := l.Attrs().Statistics
		if s == nil {
			return errors.New("the kernel gave no counters")
		}
		c = LinkCount{s.RxPackets, s.TxPackets, s.RxBytes, s.TxBytes, s.RxDropped, s.TxDropped}
		return nil
	})
	return c, err
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Offload are the offloads of a link that change what a peer or a sniffer sees. A veth has all but
// GRO on: its packets arrive with partial checksums and unsegmented.
type Offload struct {
	TxChecksum bool // leave checksums to the receiver; off also turns TSO off
	TSO        bool // send TCP unsegmented
	GSO        bool // segment late, in software, what TSO does not take
	GRO        bool // join what arrives
}

// ETHTOOL commands, from linux/ethtool.h.
const (
	ethtoolSTXCSUM = 0x17
	ethtoolSTSO    = 0x1f
	ethtoolSGSO    = 0x24
	ethtoolSGRO    = 0x2c
)

// SetOffload sets a link's offloads, as "ethtool -K" does.
func (n *NS) SetOffload(link string, o Offload) error {
	fd, err := n.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, s := range []struct {
		name string
		cmd  uint32
		on   bool
	}{ // TSO needs the checksums, so those come first
		{"tx checksum", ethtoolSTXCSUM, o.TxChecksum},
		{"TSO", ethtoolSTSO, o.TSO && o.TxChecksum},
		{"GSO", ethtoolSGSO, o.GSO},
		{"GRO", ethtoolSGRO, o.GRO},
	} {
		if err := ethtool(fd, link, s.cmd, s.on); err != nil {
			return fmt.Errorf("setting %s of %s of %s: %w", s.name, link, n.name, err)
		}
	}
	return nil
}

// ethtool does one SIOCETHTOOL with a struct ethtool_value.
func ethtool(fd int, link string, cmd uint32, on bool) error {
	value := [2]uint32{cmd, 0}
	if on {
		value[1] = 1
	}
	var req struct { // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte // the kernel copies all 40 bytes of its largest member
	}
	copy(req.name[:unix.IFNAMSIZ-1], link)
	req.data = unsafe.Pointer(&value)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	if errno != 0 {
		return errno
	}
	return nil
}
