package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"slices"

	"udrouter/config"
	"udrouter/integration/lab"
	"udrouter/policy"
	"udrouter/router"
)

// scene is a network with a router, an attacker and its witnesses.
type scene struct {
	name   string
	lab    *lab.Lab
	proc   *lab.Proc  // nil: dom0's kernel is the router
	router policy.MAC // toward guests
	conns  []*lab.Conn
}

// newScene makes one of the reference's network; without a program dom0's kernel is the router.
func newScene(ctx context.Context, exe string) (*scene, error) {
	return newSceneOf(ctx, exe, string(config.Reference))
}

func newSceneOf(ctx context.Context, exe, source string) (_ *scene, err error) {
	s := &scene{name: "udrouter"}
	if s.lab, err = buildLab(ctx, source); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.lab.Close())
		}
	}()
	l := s.lab
	if exe == "" {
		s.name = "kernel"
		if err := l.KernelRouter(lab.KernelOptions{Protect: true}); err != nil {
			return nil, err
		}
		if s.router, err = l.Dom0.LinkMAC(l.Config.Bridge.Name); err != nil {
			return nil, err
		}
	} else {
		if s.proc, err = l.StartRouter(ctx, exe); err != nil {
			return nil, err
		}
		st, err := s.status(ctx)
		if err != nil {
			return nil, err
		}
		if s.router, err = policy.ParseMAC(st.RouterMAC); err != nil {
			return nil, err
		}
	}
	const port = 443
	if _, err := l.Internet.ServeTCP(port); err != nil {
		return nil, err
	}
	for _, a := range []netip.Addr{l.Internet.Addr4(), l.Internet.Addr6()} {
		c, err := l.Guest("three").Open(ctx, netip.AddrPortFrom(a, port))
		if err != nil {
			return nil, err
		}
		s.conns = append(s.conns, c)
	}
	return s, s.witnesses(ctx) // who have found each other then
}

// status is udrouter's; of the kernel it is empty.
func (s *scene) status(ctx context.Context) (st router.Status, err error) {
	if s.proc == nil {
		return st, nil
	}
	raw, err := s.proc.Get(ctx, "/v1/status")
	if err != nil {
		return st, err
	}
	return st, json.Unmarshal(raw, &st)
}

func (s *scene) close() error {
	var err error
	for _, c := range s.conns {
		err = errors.Join(err, c.Close())
	}
	return errors.Join(err, s.lab.Close())
}

// leaked tells a frame at the neighbour that is there by the attacker's doing: not the router's, or a packet that the attacker's address or nobody's is the source of.
func (s *scene) leaked(f []byte, two *lab.Guest) bool {
	var p policy.Packet
	reason := p.Parse(f, policy.Offload{})
	switch {
	case p.SrcMAC == two.MAC:
		return false
	case p.SrcMAC != s.router:
		return p.SrcMAC != s.lab.Guest("three").MAC || reason != policy.None // that one's kernel talks of its groups
	case reason != policy.None || p.EtherType == policy.EtherARP || p.IsND():
		return reason != policy.None
	}
	answer := p.Proto == policy.ProtoICMP && p.ICMPType == 0 || p.Proto == policy.ProtoICMPv6 && p.ICMPType == 129 // to what the neighbour has asked
	return !p.Dst.IsMulticast() && !p.Src.IsLinkLocalUnicast() && !s.gateway(p.Src) && !(answer && s.lab.Internet.Has(p.Src))
}

func (s *scene) gateway(a netip.Addr) bool {
	for _, n := range s.lab.Config.Networks {
		if n.Gateway == a {
			return true
		}
	}
	return false
}

// nobodys tells an address that no station has.
func (s *scene) nobodys(a netip.Addr) bool {
	return !a.IsLinkLocalUnicast() && !s.gateway(a) && !slices.ContainsFunc(s.lab.Nodes(), func(n *lab.Node) bool { return n.Has(a) })
}

// forged tells a frame at the provider that no station behind dom0 may send: another MAC, or another's address.
func (s *scene) forged(f []byte) bool {
	var p policy.Packet
	if p.Parse(f, policy.Offload{}) != policy.None || p.SrcMAC == s.lab.Gateway.MAC {
		return p.SrcMAC != s.lab.Gateway.MAC && p.SrcMAC != s.lab.Dom0.MAC
	}
	if p.SrcMAC != s.lab.Dom0.MAC {
		return true
	}
	// A claim that somebody is there who is not.
	if p.EtherType == policy.EtherARP && p.ARP.Op == 2 && s.nobodys(p.ARP.SPA) || p.IsND() && p.ICMPType == policy.NeighborAdvertisement && s.nobodys(p.ND.Target) {
		return true
	}
	if p.EtherType == policy.EtherARP || p.Src.IsUnspecified() || p.Src.IsLinkLocalUnicast() && p.Dst.IsLinkLocalUnicast() || p.Dst.IsMulticast() || p.IsND() {
		return false
	}
	attacker := s.lab.Guest("one")
	for _, n := range s.lab.Nodes() {
		if n.Has(p.Src) && (n != attacker.Node || !p.Src.IsLinkLocalUnicast()) && n != s.lab.Guest("two").Node && n != s.lab.Internet {
			return false
		}
	}
	// The neighbour itself talks to the internet only when it is asked to: echo.
	return !s.gateway(p.Src) && !(s.lab.Guest("two").Has(p.Src) && (p.Proto == policy.ProtoICMP || p.Proto == policy.ProtoICMPv6))
}
