package stack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"udrouter/policy"
)

// Kernel is what dom0's kernel knows that the router goes by. It is a value: a change makes a new one.
type Kernel struct {
	Uplink  Interface
	Held    []netip.Addr    // addresses of all interfaces, but for loopback (127/8, ::1) and IPv6 link-local ones
	LL      []netip.Addr    // the kernel's link-local addresses on the uplink
	Global6 netip.Addr      // a global IPv6 address on the uplink, or zero
	Subnets []netip.Prefix  // connected IPv4 prefixes of the uplink
	Routes  []Route         // main table, through the uplink, longest prefix first, then lowest metric
	Up      map[string]bool // interfaces that exist; true when running
	Ports   map[string]Port // those that belong to another: a bridge's
}

// Port is an interface that belongs to another.
type Port struct {
	Index  int
	Master string
}

// Interface is the uplink's state.
type Interface struct {
	Index int
	MAC   policy.MAC
	MTU   int // bytes of IP
	Up    bool
}

// Route is a way through the uplink. A zero Gateway is on-link.
type Route struct {
	Prefix  netip.Prefix
	Gateway netip.Addr
	Source  netip.Addr // preferred, may be zero
	Metric  int
}

// ReadKernel asks for all of it. A missing uplink is a *MissingUplinkError.
func ReadKernel(uplink string) (Kernel, error) {
	const tries = 10 // a listing during which something changed is incomplete
	for i := 1; ; i++ {
		k, err := readKernel(uplink)
		if i == tries || !errors.Is(err, netlink.ErrDumpInterrupted) {
			return k, err
		}
	}
}

func readKernel(uplink string) (Kernel, error) {
	k := Kernel{Up: map[string]bool{}, Ports: map[string]Port{}}
	links, err := netlink.LinkList()
	if err != nil {
		return k, fmt.Errorf("listing interfaces: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	for _, l := range links {
		a := l.Attrs()
		if a.MasterIndex != 0 {
			k.Ports[a.Name] = Port{Index: a.Index, Master: names[a.MasterIndex]}
		}
		running := a.Flags&net.FlagUp != 0 && a.RawFlags&unix.IFF_RUNNING != 0
		k.Up[a.Name] = running
		if a.Name == uplink {
			k.Uplink = Interface{Index: a.Index, MTU: a.MTU, Up: running}
			if len(a.HardwareAddr) == 6 {
				k.Uplink.MAC = policy.MAC(a.HardwareAddr)
			}
		}
	}
	if k.Uplink.Index == 0 {
		return k, &MissingUplinkError{Name: uplink}
	}
	if k.Uplink.MAC.IsZero() {
		return k, fmt.Errorf("%s is no Ethernet interface: the uplink must have a MAC address", uplink)
	}
	if err := k.readAddresses(); err != nil {
		return k, err
	}
	return k, k.readRoutes()
}

// MissingUplinkError says that the uplink does not exist.
type MissingUplinkError struct{ Name string }

func (e *MissingUplinkError) Error() string {
	return fmt.Sprintf("the uplink %s does not exist: give the interface toward the provider as the uplink's name (ip link shows them)", e.Name)
}

func (k *Kernel) readAddresses() error {
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("listing addresses: %w", err)
	}
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		if !ok {
			continue
		}
		ip = ip.Unmap()
		ones, _ := a.Mask.Size()
		switch {
		case ip.IsLoopback():
		case ip.IsLinkLocalUnicast() && ip.Is6():
			if a.LinkIndex == k.Uplink.Index {
				k.LL = append(k.LL, ip)
			}
		default:
			k.Held = append(k.Held, ip)
			if ip.Is6() && a.LinkIndex == k.Uplink.Index && !k.Global6.IsValid() {
				k.Global6 = ip
			}
			if ip.Is4() && a.LinkIndex == k.Uplink.Index {
				k.Subnets = append(k.Subnets, netip.PrefixFrom(ip, ones).Masked())
			}
		}
	}
	slices.SortFunc(k.Held, netip.Addr.Compare)
	k.Held = slices.Compact(k.Held)
	return nil
}

func (k *Kernel) readRoutes() error {
	filter := &netlink.Route{Table: unix.RT_TABLE_MAIN}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteListFiltered(family, filter, netlink.RT_FILTER_TABLE)
		if err != nil {
			return fmt.Errorf("listing routes: %w", err)
		}
		for _, r := range routes {
			if r.Type != unix.RTN_UNICAST {
				continue
			}
			index, gw := r.LinkIndex, gateway(r.Gw, r.Via)
			for _, hop := range r.MultiPath {
				if hop.LinkIndex == k.Uplink.Index {
					index, gw = hop.LinkIndex, gateway(hop.Gw, hop.Via)
					break
				}
			}
			if index != k.Uplink.Index {
				continue
			}
			prefix := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
			if family == netlink.FAMILY_V6 {
				prefix = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
			}
			if r.Dst != nil {
				ip, ok := netip.AddrFromSlice(r.Dst.IP)
				ones, _ := r.Dst.Mask.Size()
				if !ok {
					continue
				}
				if family == netlink.FAMILY_V4 {
					ip = ip.Unmap()
				}
				prefix = netip.PrefixFrom(ip, ones)
			}
			if prefix.Addr().IsLinkLocalUnicast() || prefix.Addr().IsMulticast() {
				continue
			}
			src, _ := netip.AddrFromSlice(r.Src)
			k.Routes = append(k.Routes, Route{Prefix: prefix, Gateway: gw, Source: src.Unmap(), Metric: r.Priority})
		}
	}
	slices.SortStableFunc(k.Routes, func(a, b Route) int {
		if d := b.Prefix.Bits() - a.Prefix.Bits(); d != 0 {
			return d
		}
		return a.Metric - b.Metric
	})
	return nil
}

func gateway(gw net.IP, via netlink.Destination) netip.Addr {
	if v, ok := via.(*netlink.Via); ok && gw == nil {
		gw = v.Addr
	}
	a, _ := netip.AddrFromSlice(gw)
	return a.Unmap()
}

// DefaultGateway is the gateway of the default route of a family, or zero.
func (k Kernel) DefaultGateway(v6 bool) netip.Addr {
	for _, r := range k.Routes {
		if r.Prefix.Bits() == 0 && r.Prefix.Addr().Is6() == v6 {
			return r.Gateway
		}
	}
	return netip.Addr{}
}

// Address4 is dom0's IPv4 address on the uplink for reaching gateway: the one in a common prefix, else the first.
func (k Kernel) Address4(gateway netip.Addr) netip.Addr {
	var first netip.Addr
	for _, s := range k.Subnets {
		for _, a := range k.Held {
			if !a.Is4() || !s.Contains(a) {
				continue
			}
			if gateway.IsValid() && s.Contains(gateway) {
				return a
			}
			if !first.IsValid() {
				first = a
			}
		}
	}
	return first
}

// ForwardingWarnings says, a sentence each, where dom0's kernel forwards or proxies as well, and what to do. The guard keeps it
// from doing so for guests.
func ForwardingWarnings() []string {
	var out []string
	for _, s := range []struct{ key, does string }{
		{"net/ipv4/ip_forward", "forwards IPv4"}, {"net/ipv6/conf/all/forwarding", "forwards IPv6"},
		{"net/ipv4/conf/all/proxy_arp", "answers ARP for others"}, {"net/ipv6/conf/all/proxy_ndp", "answers NDP for others"},
	} {
		b, err := os.ReadFile("/proc/sys/" + s.key)
		if err != nil || strings.TrimSpace(string(b)) == "0" {
			continue
		}
		name := strings.ReplaceAll(s.key, "/", ".")
		out = append(out, fmt.Sprintf("dom0's kernel %s as well (%s = %s): its guests' packets are kept from it; set it to 0 unless something else needs it (sysctl -w %s=0)",
			s.does, name, strings.TrimSpace(string(b)), name))
	}
	return out
}

// WatchKernel calls changed once at the beginning and whenever an interface, an address or a route may have changed, until
// ctx ends. Several changes in a moment make one call. A lost message costs nothing, as all is read anew; after an error it is
// called again.
func WatchKernel(ctx context.Context, changed func() error) error {
	// A burst, such as a routing daemon's, costs at most ten readings a second; one that failed is soon repeated.
	const pace, retry = 100 * time.Millisecond, time.Second
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return fmt.Errorf("subscribing to netlink: %w", err)
	}
	events := make(chan struct{}, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			_, _, err := s.Receive()
			if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.ENOMEM) && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
				return
			}
			select {
			case events <- struct{}{}:
			default:
			}
		}
	}()
	defer func() { <-done }()
	defer s.Close()
	err = changed()
	for {
		var again <-chan time.Time
		if err != nil {
			again = time.After(retry)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-done:
			return errors.New("receiving from netlink ended")
		case <-events:
		case <-again:
		}
		err = changed()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pace):
		}
	}
}
