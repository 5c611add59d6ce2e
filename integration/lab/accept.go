package lab

import (
	"net/netip"

	"udrouter/config"
	"udrouter/policy"
)

// party is one end of a probe as the rules of a policy see it.
type party struct {
	kind policy.PeerKind // PeerDomu, PeerHost or PeerUplink
	domu *config.Domu    // PeerDomu
	addr netip.Addr
}

// allows tells whether the file's rules let the first packet of a flow pass: those of a policy in shadow
// mode do. It reads the rules in the plainest way and for itself: the lab checks the router's evaluation,
// it does not share it.
func (l *Lab) allows(from, to party, proto int, port uint16) bool {
	if from.domu != nil {
		if p := l.policy(from.domu); p.Mode != policy.Shadow && !accepts(p.Egress, from, to, proto, port) {
			return false
		}
	}
	if to.domu != nil {
		if p := l.policy(to.domu); p.Mode != policy.Shadow && !accepts(p.Ingress, from, to, proto, port) {
			return false
		}
	}
	return true
}

// policy is the one a domu names, or what holds without one.
func (l *Lab) policy(d *config.Domu) policy.Policy {
	for _, p := range l.Config.Policies {
		if p.Name == d.Policy {
			return p
		}
	}
	return policy.Policy{Egress: policy.Chain{Default: policy.Accept}, Ingress: policy.Chain{Default: policy.Drop}}
}

func accepts(c policy.Chain, from, to party, proto int, port uint16) bool {
	for _, r := range c.Rules {
		if r.Proto != policy.AnyProto && r.Proto != proto {
			continue
		}
		if inPorts(r.Ports, port) && inPeers(r.From, from) && inPeers(r.To, to) {
			return r.Action == policy.Accept
		}
	}
	return c.Default == policy.Accept
}

func inPorts(ports []policy.PortRange, port uint16) bool {
	for _, p := range ports {
		if p.First <= port && port <= p.Last {
			return true
		}
	}
	return len(ports) == 0
}

func inPeers(peers []policy.Peer, who party) bool {
	for _, p := range peers {
		switch p.Kind {
		case policy.PeerPrefix:
			if p.Prefix.Contains(who.addr) {
				return true
			}
		case policy.PeerDomu:
			if who.domu != nil && who.domu.Name == p.Domu {
				return true
			}
		default:
			if who.kind == p.Kind {
				return true
			}
		}
	}
	return len(peers) == 0
}

// usualPorts are tried first: they say something to who reads the report.
var usualPorts = []uint16{443, 80, 22, 8080, 5201, 53, 4500, 40000}

// port is one that the rules treat in the wanted way, if there is any among the usual ones and
// those at which the policies' rules begin or end.
func (l *Lab) port(from, to party, proto int, allowed bool) (uint16, bool) {
	candidates := usualPorts
	for _, p := range l.Config.Policies {
		for _, c := range []policy.Chain{p.Ingress, p.Egress} {
			for _, r := range c.Rules {
				for _, pr := range r.Ports {
					candidates = append(candidates[:len(candidates):len(candidates)], pr.First, pr.Last)
				}
			}
		}
	}
	for _, p := range candidates {
		if l.allows(from, to, proto, p) == allowed {
			return p, true
		}
	}
	return 0, false
}
