package router

import (
	"net/netip"
	"slices"
	"time"

	"udrouter/policy"
)

// NeighbourList is what GET /v1/neighbours answers, and `udrouter neighbours --json` prints. Fields are only ever added.
type NeighbourList struct {
	Uplink []UplinkNeighbour `json:"uplink"` // next hops
	Guests []GuestNeighbour  `json:"guests"` // addresses of guests, for which the router answers upstream
}

// UplinkNeighbour is a next hop on the uplink. The states are those of RFC 4861 7.3.2 as far as a forwarder knows them.
type UplinkNeighbour struct {
	Addr    netip.Addr `json:"addr"`
	MAC     string     `json:"mac"`   // "": unknown
	State   string     `json:"state"` // "reachable", "probe" (somebody else claims the address), "incomplete" or "failed"
	Gateway bool       `json:"gateway"`
	Domu    string     `json:"domu"`    // on whose behalf it is known; "" for gateways and dom0
	Waiting int        `json:"waiting"` // packets for it
}

// GuestNeighbour is an address or prefix that a guest is bound to.
type GuestNeighbour struct {
	Addr    string  `json:"addr"`
	MAC     string  `json:"mac"`
	Domu    string  `json:"domu"`
	Vif     string  `json:"vif"`       // "": none is known yet
	State   string  `json:"state"`     // "bound", or "present" where the guest has shown itself with it
	Expires float64 `json:"expires_s"` // how long it counts as present; 0: it does not
}

// Neighbours lists who is known on both sides.
func (r *Router) Neighbours() NeighbourList {
	wd, now := r.current.Load(), r.now()
	l := NeighbourList{Uplink: []UplinkNeighbour{}, Guests: []GuestNeighbour{}}
	for _, n := range r.neighbours.all() {
		l.Uplink = append(l.Uplink, n.describe(wd))
	}
	slices.SortFunc(l.Uplink, func(a, b UplinkNeighbour) int {
		if a.Gateway != b.Gateway {
			if a.Gateway {
				return -1
			}
			return 1
		}
		return a.Addr.Compare(b.Addr)
	})
	for i, g := range wd.Guests {
		_, present := wd.states[i].saved(now)
		shown := map[netip.Addr]time.Duration{}
		for _, a := range present {
			if a.For > 0 {
				shown[a.Addr] = time.Duration(a.For)
			}
		}
		for _, p := range g.Addrs {
			n := GuestNeighbour{Addr: p.String(), MAC: g.MAC.String(), Domu: g.Name, Vif: g.Vif, State: "bound"}
			if p.IsSingleIP() {
				n.Addr = p.Addr().String()
				if left, ok := shown[p.Addr()]; ok {
					n.State, n.Expires = "present", left.Seconds()
				}
			}
			l.Guests = append(l.Guests, n)
			if p.IsSingleIP() {
				continue
			}
			for a, left := range shown { // of a prefix, those that have shown themselves
				if p.Contains(a) {
					l.Guests = append(l.Guests, GuestNeighbour{Addr: a.String(), MAC: n.MAC, Domu: n.Domu, Vif: n.Vif, State: "present", Expires: left.Seconds()})
				}
			}
		}
	}
	return l
}

// describe is what is known of a neighbour.
func (n *neighbour) describe(wd *world) UplinkNeighbour {
	bits := n.bits.Load()
	u := UplinkNeighbour{Addr: n.addr, State: "incomplete", Gateway: n.gateway.Load()}
	for i, s := range wd.states {
		if s == n.owner && !u.Gateway {
			u.Domu = wd.Guests[i].Name
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	u.Waiting = len(n.pending)
	switch {
	case bits != 0:
		u.MAC, u.State = policy.MACFromBits(bits).String(), "reachable"
		if n.checking || n.asking.Load() {
			u.State = "probe"
		}
	case n.failedAt != 0:
		u.State = "failed"
	}
	return u
}
