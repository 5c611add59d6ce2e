package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"udrouter/integration/lab"
	"udrouter/policy"
)

// neighbourAnew has the neighbour do what a host does that comes up: ask whether somebody has its address, where its gateway is, and who hands out addresses.
// The error tells what has gone wrong with it.
func (s *scene) neighbourAnew(ctx context.Context) error {
	two := s.lab.Guest("two")
	select { // tools that listen have begun to, and say nothing of it
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(time.Second):
	}
	if err := two.HurryNeighbours(two.Link); err != nil {
		return err
	}
	own := two.Addrs[slices.IndexFunc(two.Addrs, func(p netip.Prefix) bool { return p.Addr() == two.Addr6() })]
	if err := errors.Join(two.SetDAD(two.Link, true), two.DelAddr(two.Link, own), two.AddAddrDAD(two.Link, own)); err != nil {
		return err
	}
	to, err := two.Sender(two.Link)
	if err != nil {
		return err
	}
	defer to.Close()
	servers := netip.MustParseAddr("ff02::1:2")
	// SOLICIT with a client's identifier, for an address.
	solicit := lab.UDP{SrcMAC: two.MAC, DstMAC: policy.MulticastMAC(servers), Src: netip.AddrPortFrom(policy.EUI64(two.MAC), 546), Dst: netip.AddrPortFrom(servers, 547),
		HopLimit: 1, Payload: append([]byte{1, 0x12, 0x34, 0x56, 0, 1, 0, 10, 0, 3, 0, 1}, append(two.MAC[:], 0, 3, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0)...)}
	if err := to.Send(solicit.Frame()); err != nil {
		return err
	}
	if err := awaitAddrs(ctx, two.Node); err != nil {
		return err
	}
	_, err = two.Ping(ctx, s.lab.Internet.Addr6(), lab.PingOptions{Every: 100 * time.Millisecond})
	return err
}

// awaitAddrs waits until a host may use all its IPv6 addresses, and fails when somebody else is said to have one.
func awaitAddrs(ctx context.Context, n *lab.Node) error {
	h, err := n.Handle()
	if err != nil {
		return err
	}
	return lab.Await(ctx, "the neighbour's addresses", func() (bool, error) {
		list, err := h.AddrList(nil, unix.AF_INET6)
		for _, a := range list {
			if a.Flags&unix.IFA_F_DADFAILED != 0 {
				return false, fmt.Errorf("somebody else has %s", a.IP)
			}
		}
		return !slices.ContainsFunc(list, func(a netlink.Addr) bool { return a.Flags&unix.IFA_F_TENTATIVE != 0 }), err
	})
}

// beliefs are what the neighbours' kernels hold for true and an attacker may want to change, a line each: their addresses and routes, and stations that are
// not where they are believed.
func (s *scene) beliefs() (lines []string, err error) {
	for _, name := range []string{"two", "three"} {
		g := s.lab.Guest(name)
		h, err := g.Handle()
		if err != nil {
			return nil, err
		}
		addrs, err := h.AddrList(nil, netlink.FAMILY_ALL)
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			lines = append(lines, fmt.Sprintf("%s has %s", name, a.IPNet))
		}
		routes, err := h.RouteList(nil, netlink.FAMILY_ALL)
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			lines = append(lines, fmt.Sprintf("%s reaches %s by %s, MTU %d", name, r.Dst, r.Gw, r.MTU))
		}
		neighbours, err := h.NeighList(0, netlink.FAMILY_ALL)
		if err != nil {
			return nil, err
		}
		for _, e := range neighbours {
			a, _ := netip.AddrFromSlice(e.IP)
			if mac := macOf(e.HardwareAddr); e.State&(netlink.NUD_NOARP|netlink.NUD_INCOMPLETE|netlink.NUD_FAILED) == 0 && len(e.HardwareAddr) == 6 && !s.isAt(a.Unmap(), mac) {
				lines = append(lines, fmt.Sprintf("%s has %s at %s", name, a, mac))
			}
		}
	}
	return lines, nil
}

// isAt tells whether an address may be reached by a MAC: its station's, or the router's.
func (s *scene) isAt(a netip.Addr, mac policy.MAC) bool {
	if mac == s.router {
		return true
	}
	for _, g := range s.lab.Guests {
		if g.MAC == mac {
			return g.Has(a) || a == policy.EUI64(mac)
		}
	}
	return false
}

func macOf(b []byte) (m policy.MAC) { copy(m[:], b); return m }
