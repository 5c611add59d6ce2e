package live

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"udrouter/integration/lab"
	"udrouter/policy"
	"udrouter/router"
)

func (s *stage) status(ctx context.Context) (*router.Status, error) {
	body, err := s.proc.Get(ctx, "/v1/status")
	if err != nil {
		return nil, err
	}
	st := new(router.Status)
	if err := json.Unmarshal(body, st); err != nil {
		return nil, fmt.Errorf("reading the router's status: %w", err)
	}
	return st, nil
}

// sender is who sends an answer's packet. It has the source address, unless that is forged.
func (s *stage) sender(from policy.Peer, a *router.Answer) (*witness, error) {
	switch from.Kind {
	case policy.PeerDomu:
		w := s.guests[from.Domu]
		if w == nil {
			return nil, fmt.Errorf("domu %q is not in the lab: its block names no mac", from.Domu)
		}
		if s.bound(a.Src) == w {
			return w, s.give(w, a.Src)
		}
		return w, nil
	case policy.PeerHost:
		if s.tun != nil && s.ours(a.Dst) && !s.lab.Dom0.Has(a.Dst) {
			return s.tun, nil
		}
		return s.eth0, nil
	}
	w, err := s.outside(a.Src)
	if w == nil && err == nil {
		w = s.uplink // forged
	}
	return w, err
}

// receiver is who has the destination address; nil: nobody, or the router itself.
func (s *stage) receiver(from policy.Peer, a *router.Answer) (*witness, error) {
	switch w := s.bound(a.Dst); {
	case a.To == "router":
		return nil, nil
	case s.lab.Dom0.Has(a.Dst) && from.Kind != policy.PeerDomu:
		return s.eth0, nil
	case s.lab.Dom0.Has(a.Dst):
		return s.tun, nil
	case w != nil:
		return w, s.give(w, a.Dst)
	}
	return s.outside(a.Dst)
}

// ours tells whether an address is in the guests' networks.
func (s *stage) ours(a netip.Addr) bool { return s.cfg.NetworkOf(a) != nil }

// bound is the guest that is bound to an address and may use it, or nil.
func (s *stage) bound(a netip.Addr) *witness {
	if s.lab.Dom0.Has(a) || s.lab.Gateway.Has(a) {
		return nil
	}
	for _, d := range s.cfg.Domus {
		if slices.ContainsFunc(slices.Concat(d.IPv4, d.IPv6), func(p netip.Prefix) bool { return p.Contains(a) && !a.IsLinkLocalUnicast() }) {
			return s.guests[d.Name]
		}
	}
	return nil
}

// outside is who on the other side of the uplink has an address: the upstream router, or the host in the internet, which is given it. nil: nobody there
// may have it.
func (s *stage) outside(a netip.Addr) (*witness, error) {
	gw := s.lab.Gateway
	switch {
	case s.internet.node.Has(a):
		return s.internet, nil
	case gw.Has(a):
		return s.uplink, nil
	case policy.Classify(a) != policy.Unicast, s.ours(a), s.lab.Dom0.Has(a):
		return nil, nil
	case slices.ContainsFunc(s.lab.Dom0.Addrs, func(p netip.Prefix) bool { return p.Contains(a) }):
		return s.uplink, s.give(s.uplink, a) // a station on the uplink
	}
	if err := s.give(s.internet, a); err != nil {
		return nil, err
	}
	return s.internet, gw.AddRoute(lab.GatewayWAN, lab.Route{Dst: netip.PrefixFrom(a, a.BitLen())})
}

// give has a host own an address.
func (s *stage) give(w *witness, a netip.Addr) error {
	if w.node.Has(a) {
		return nil
	}
	p := netip.PrefixFrom(a, a.BitLen())
	if err := w.node.AddAddr(w.link, p); err != nil {
		return err
	}
	w.node.Addrs = append(w.node.Addrs, p)
	return nil
}
