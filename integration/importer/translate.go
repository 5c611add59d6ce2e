package importer

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"udrouter/policy"
)

// newRule is a rule of router.hcl.
type newRule struct {
	name     string
	action   string // "accept", "drop", "reject", or todo
	proto    int    // or policy.AnyProto
	ports    []policy.PortRange
	from, to []string // nil: everyone
	sources  []string // file:line of what it was made of
	todo     string   // what it leaves unsaid
	says     string   // a remark
	v6       bool
	both     bool // of both families
}

// newChain is a list of them.
type newChain struct {
	rules []newRule
	dflt  policy.Action
}

// Why rules end up as they do.
const (
	whyState  = "replies and related errors pass by state"
	whyReply  = "errors and replies pass by the connection that they belong to, and no others do"
	whyND     = "neighbour discovery and MLD on dom0's link pass whatever the rules say"
	whyRouter = "no router passes this type on, and udrouter does not"
	whyGuard  = "udrouter drops what opens no connection in order, whatever the rules say"
	whyForged = "udrouter drops forged sources, whatever the rules say"
)

// view is one of udrouter's chains, as far as its packets' ends are concerned: what a rule's interfaces and addresses come to there.
type view interface {
	// peers are the two ends in one family; ok is false for a rule that matches nothing here. why then may say the reason.
	peers(m *match, v6 bool) (from, to []string, ok bool, why string)
	// transit tells whether the guards of forwarded packets come before the rules.
	transit() bool
}

// chainOf translates the rules of one family. Of what is behind a rule that matches everything nothing is left.
func chainOf(list []flat, dflt policy.Action, v6 bool, v view) (c newChain) {
	c.dflt = dflt
	for i := range list {
		f := &list[i]
		from, to, ok, why := v.peers(&f.match, v6)
		if !ok {
			if why != "" {
				f.use.need(why)
			}
			continue
		}
		r, ok := f.translate(v6, v.transit())
		if !ok {
			continue
		}
		r.from, r.to = from, to
		f.use.carried = true
		if from == nil && to == nil && r.proto == policy.AnyProto && r.todo == "" {
			c.dflt = f.action
			for j := range list[i+1:] {
				list[i+1+j].use.need(fmt.Sprintf("%s decides before it is asked", f.use.note.place()))
			}
			return c
		}
		c.rules = append(c.rules, r)
	}
	return c
}

// translate is a rule without its ends. ok is false where it is left out, of which its usage tells.
func (f *flat) translate(v6, transit bool) (r newRule, ok bool) {
	m := &f.match
	accepts := f.action == policy.Accept
	r = newRule{name: m.comment, action: f.action.String(), proto: m.proto, ports: m.ports, sources: []string{f.use.note.place()}, v6: v6}
	skip := func(acceptWhy, dropWhy string, dropIsLost bool) (newRule, bool) {
		switch {
		case accepts && acceptWhy != "":
			f.use.need(acceptWhy)
		case accepts:
			f.use.leave(dropWhy)
		case dropIsLost:
			f.use.leave(dropWhy)
		default:
			f.use.need(dropWhy)
		}
		return newRule{}, false
	}
	switch s := m.states; {
	case s&stateNew != 0:
	case s&^(stateEstablished|stateRelated) == 0:
		return skip(whyState, "replies of what was opened pass in udrouter: it can only refuse that it is opened", true)
	case accepts:
		return skip("", "what belongs to no connection does not pass", true)
	case !transit:
		return skip("", "host.uplink does not ask for invalid packets: its default drops them, its rules let them to dom0's own stack, which checks; keep this rule in dom0's iptables to be as strict", true)
	default:
		return skip("", whyGuard, false)
	}
	other := slices.Clone(m.other)
	if len(r.ports) > 0 && !policy.RulePorts(m.proto) {
		other, r.ports = append(other, "ports of a protocol that is neither tcp nor udp"), nil
	}
	if len(other) > 0 && m.proto == policy.ProtoTCP && onlyFlags(other) {
		if accepts && !slices.ContainsFunc(other, func(s string) bool { return s != "! --syn" }) {
			return skip(whyState, "", false)
		}
		if !accepts && transit {
			return skip("", whyGuard, false)
		}
	}
	if t := m.icmp; t >= 0 && (m.proto == policy.ProtoICMP || m.proto == policy.ProtoICMPv6) {
		switch {
		case v6 && (t >= 130 && t <= 136 || t == 143):
			if transit {
				return skip(whyND, whyRouter, false)
			}
			return skip(whyND, whyND, true)
		case !v6 && (t == 0 || t == 3 || t == 11 || t == 12 || t == 4) || v6 && (t >= 1 && t <= 4 || t == 129):
			return skip(whyReply, whyReply, false)
		case t == 8 && !v6 || t == 128 && v6:
			if accepts && !transit {
				return skip("", `host.uplink has no types of icmp: a rule for the protocol would admit timestamp requests and redirects besides echo; if that is acceptable, add rule "ping" { action = "accept", proto = "`+policy.ProtoName(m.proto)+`" }, on lines of its own`, true)
			}
		case transit:
			return skip("", whyRouter, accepts)
		default:
			other = append(other, fmt.Sprintf("--icmp-type %d", t))
		}
	}
	if len(other) == 0 {
		return r, true
	}
	what := strings.Join(other, ", ")
	if accepts {
		f.use.leave(fmt.Sprintf("udrouter's rules cannot say %q; without the rule less is accepted, which is the safer side", what))
		return r, false
	}
	f.use.leave(fmt.Sprintf("udrouter's rules cannot say %q: the rule is there with the action %s, and drops more than before, which is the safer side, once you write %q; or delete it", what, todo, r.action))
	r.todo = fmt.Sprintf("%q cannot be said here. With action = %q the rule drops more than before, the safer side; without the rule less is dropped.", what, r.action)
	r.action = todo
	return r, true
}

func onlyFlags(other []string) bool {
	return !slices.ContainsFunc(other, func(s string) bool { return !strings.Contains(s, "--syn") && !strings.Contains(s, "--tcp-flags") })
}

// prefixStrings are prefixes as the file has them: single addresses without a length.
func prefixStrings(list []netip.Prefix) (out []string) {
	for _, p := range list {
		out = append(out, strings.TrimSuffix(p.String(), single(p)))
	}
	return out
}

// unique is a name that is not taken yet.
func unique(name string, taken func(string) bool) string {
	for n, try := 2, name; ; n++ {
		if !taken(try) {
			return try
		}
		try = fmt.Sprintf("%s-%d", name, n)
	}
}
