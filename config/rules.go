package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"udrouter/policy"
)

func (d *decoder) decodePolicies(raws []rawPolicy) {
	for i := range raws {
		raw := &raws[i]
		p := policy.Policy{Name: raw.Name, Source: place(raw.At)}
		p.Mode, _ = oneWord(d.reporter, raw.Mode, policy.Enforce, choice[policy.Mode]{"enforce", policy.Enforce}, choice[policy.Mode]{"shadow", policy.Shadow})
		p.Egress = d.decodeChain(raw.Egress, policy.Accept, raw.At, nil)
		p.Ingress = d.decodeChain(raw.Ingress, policy.Drop, raw.At, nil)
		p.Limits = d.decodeLimits(raw.Limits)
		d.cfg.Policies = append(d.cfg.Policies, p)
	}
}

// ends are who alone stands at the two ends of a block's packets, besides addresses; nil where others do too.
type ends struct{ from, to policy.PeerKind }

var uplinkToHost = &ends{policy.PeerUplink, policy.PeerHost}

// decodeChain is the chain of a block, or the default alone; at is the place of what contains the block.
func (d *decoder) decodeChain(raw *rawChain, dflt policy.Action, at hcl.Range, e *ends) policy.Chain {
	if raw == nil {
		return policy.Chain{Default: dflt, Source: place(at)}
	}
	c := policy.Chain{Default: d.action(raw.Default, dflt), Source: place(raw.At)}
	var seen names
	for i := range raw.Rules {
		d.name("rule", raw.Rules[i].Name, raw.Rules[i].NameAt, &seen)
		d.rules.enter(raw.Rules[i].Name, raw.Rules[i].NameAt)
		c.Rules = append(c.Rules, d.decodeRule(&raw.Rules[i], e))
	}
	return c
}

func (d *decoder) action(a *hcl.Attribute, dflt policy.Action) policy.Action {
	act, _ := oneWord(d.reporter, a, dflt, choice[policy.Action]{"accept", policy.Accept}, choice[policy.Action]{"drop", policy.Drop}, choice[policy.Action]{"reject", policy.Reject})
	return act
}

const takesAction = `"accept", "drop" or "reject"`

func (d *decoder) decodeRule(raw *rawRule, e *ends) policy.Rule {
	r := policy.Rule{Name: raw.Name, Proto: policy.AnyProto, Source: place(raw.At)}
	if d.require(raw.Action, raw.At, "action", takesAction) {
		r.Action = d.action(raw.Action, 0)
	}
	known := true
	if given(raw.Proto) {
		r.Proto, known = d.proto(raw.Proto)
	}
	if given(raw.Ports) {
		r.Ports = d.ports(raw.Ports)
		if known {
			d.hasPorts(raw.Ports, raw.Proto, r.Proto)
		}
	}
	if e == nil {
		e = &ends{}
	}
	r.From = d.peers(raw.From, e.from)
	r.To = d.peers(raw.To, e.to)
	return r
}

// hasPorts reports ports where the protocol has none that the router reads.
func (d *decoder) hasPorts(ports, protoKey *hcl.Attribute, proto int) {
	switch {
	case protoKey == nil:
		d.errorf(ports.NameRange, "Ports without a protocol", `Ports are a protocol's. Add proto = "tcp" or proto = "udp"; for both, write two rules.`)
	case !policy.RulePorts(proto):
		d.errorf(ports.NameRange, "Protocol without ports", "Only tcp and udp have ports here, not %s. Remove %s, or name another protocol.", excerpt(strings.Trim(d.src.text(protoKey.Expr.Range()), `"`)), ports.Name)
	}
}

// protoNumbers helps who writes a name that is none of ours (IANA's assignments).
var protoNumbers = map[string]string{
	"gre": "47", "esp": "50", "ah": "51", "sctp": "132", "ospf": "89", "vrrp": "112", "igmp": "2", "ipip": "4", "ipv6": "41", "udplite": "136",
	"ipv6-icmp": `"icmpv6"`, "icmp6": `"icmpv6"`, "icmpv4": `"icmp"`,
}

// proto is a protocol by name or number; number strings are numbers.
func (d *decoder) proto(a *hcl.Attribute) (int, bool) {
	const takes = `"tcp", "udp", "icmp", "icmpv6" or a protocol number from 0 to 255`
	v := d.scalar(a, takes)
	if !v.ok() {
		return policy.AnyProto, false
	}
	if v.v.Type() != cty.String {
		n, ok := d.integer(v, 0, 255, takes)
		return int(n), ok
	}
	s := v.v.AsString()
	if n, ok := policy.ParseProto(s); ok {
		return n, true
	}
	if isDigits(s) {
		if n, err := strconv.ParseUint(s, 10, 8); err == nil {
			return int(n), true
		}
		d.errorf(v.at, "Number out of range", "%s takes %s.", a.Name, takes)
		return policy.AnyProto, false
	}
	hint := d.didYouMean(s, []string{"tcp", "udp", "icmp", "icmpv6"})
	if n := protoNumbers[strings.ToLower(s)]; n != "" {
		hint = fmt.Sprintf(" For %s write %s.", s, n)
	} else if s == "any" || s == "all" || s == "*" || s == "ip" {
		hint = " Leave it out to match every protocol."
	}
	d.errorf(v.at, fmt.Sprintf("Unknown protocol %q", excerpt(s)), "%s takes %s.%s", a.Name, takes, hint)
	return policy.AnyProto, false
}

const takesPort = `a port from 1 to 65535, or a range such as "5201-5210"`

func (d *decoder) ports(a *hcl.Attribute) []policy.PortRange {
	elems, ok := d.list(a, `a list such as [22, "5201-5210"]`)
	if !ok {
		return nil
	}
	if len(elems) == 0 {
		d.errorf(a.Expr.Range(), "Empty list of ports", "It would match no packet. Leave ports out to match all, or name some.")
		return nil
	}
	var ports []policy.PortRange
	for _, e := range elems {
		if p, ok := d.portRange(d.literal(e, a.Name, takesPort)); ok {
			ports = append(ports, p)
		}
	}
	return ports
}

func (d *decoder) portRange(v value) (policy.PortRange, bool) {
	none := policy.PortRange{}
	if !v.ok() {
		return none, false
	}
	if v.v.Type() != cty.String {
		n, ok := d.integer(v, 1, 65535, takesPort)
		return policy.PortRange{First: uint16(n), Last: uint16(n)}, ok
	}
	s := v.v.AsString()
	a, b, ranged := strings.Cut(s, "-")
	a, b = strings.TrimSpace(a), strings.TrimSpace(b)
	if !ranged {
		b = a
	}
	if !isDigits(a) || !isDigits(b) {
		d.errorf(v.at, "Malformed port", "%q is none. Write %s.", excerpt(s), takesPort)
		return none, false
	}
	first, err1 := strconv.ParseUint(a, 10, 16)
	last, err2 := strconv.ParseUint(b, 10, 16)
	switch {
	case err1 != nil || err2 != nil || first == 0 || last == 0:
		d.errorf(v.at, "Number out of range", "ports takes %s.", takesPort)
	case first > last:
		d.errorf(v.at, "Range of ports is reversed", "The lower port comes first: %q.", fmt.Sprintf("%d-%d", last, first))
	default:
		return policy.PortRange{First: uint16(first), Last: uint16(last)}, true
	}
	return none, false
}

const takesPeer = `an address, a prefix, "domu:NAME", "host" or "uplink", in quotes`

// peers are one end of a rule. Where only has a kind, another that is named never stands there: a rule that says so is a mistake, and one
// that denies would give false comfort.
func (d *decoder) peers(a *hcl.Attribute, only policy.PeerKind) []policy.Peer {
	elems, ok := d.list(a, `a list of addresses, prefixes, "domu:NAME", "host" or "uplink"`)
	if !ok {
		return nil
	}
	if len(elems) == 0 {
		d.errorf(a.Expr.Range(), fmt.Sprintf("Empty list %s", a.Name), "It would match no packet. Leave %s out to match everyone, or name some.", a.Name)
		return nil
	}
	var peers []policy.Peer
	for _, e := range elems {
		v := d.literal(e, a.Name, takesPeer)
		s, ok := d.str(v, takesPeer)
		if !ok {
			continue
		}
		p, named := d.namedPeer(s, v.at)
		if !named {
			p, ok = d.prefixPeer(s, a.Name, v.at)
		}
		if ok && p.Kind != policy.PeerPrefix && p.Kind != 0 && only != 0 && p.Kind != only {
			end, is := "sender", `"uplink"`
			if only == policy.PeerHost {
				end, is = "receiver", `"host"`
			}
			d.errorf(v.at, "Peer that never matches", "This block is about packets that come by the uplink to dom0: their %s is %s or an address there, never %q. What guests send to dom0 is the host's ingress block's.", end, is, excerpt(s))
			continue
		}
		if ok && p.Kind != 0 {
			peers = append(peers, p)
		}
	}
	return peers
}

// namedPeer is a peer that is no address. named tells whether s is of that form; the Kind is zero where it was
// reported.
func (d *decoder) namedPeer(s string, at hcl.Range) (p policy.Peer, named bool) {
	p, named = policy.ParsePeer(s)
	if p.Kind == policy.PeerDomu && !d.guests.has(p.Domu) {
		hint := ""
		if n := d.nearest(p.Domu, d.guests.list); n != "" {
			hint = fmt.Sprintf(" Did you mean %q?", "domu:"+n)
		} else if len(d.guests.list) > 0 {
			hint = fmt.Sprintf(" The guests are %s.", someOf(d.guests.list))
		}
		d.errorf(at, fmt.Sprintf("Unknown domu %q", excerpt(p.Domu)), "The file has no domu of that name.%s", hint)
		return policy.Peer{}, true
	}
	return p, named
}

func (d *decoder) prefixPeer(s, key string, at hcl.Range) (policy.Peer, bool) {
	if !strings.ContainsAny(s, ".:/") {
		hint := d.didYouMean(s, []string{"host", "uplink"})
		if s == "any" || s == "all" || s == "*" {
			hint = fmt.Sprintf(" Leave %s out to match everyone.", key)
		} else if d.guests.has(s) {
			hint = fmt.Sprintf(" For the guest write %q.", "domu:"+s)
		}
		d.errorf(at, fmt.Sprintf("Unknown peer %q", excerpt(s)), "An element of %s is %s.%s", key, takesPeer, hint)
		return policy.Peer{}, false
	}
	p, ok := d.parsePrefix(s, at)
	if !ok {
		return policy.Peer{}, false
	}
	if p != p.Masked() {
		d.unmasked(p, at, orAddress(p))
	}
	return policy.Peer{Kind: policy.PeerPrefix, Prefix: p.Masked()}, true
}

func (d *decoder) decodeLimits(raw *rawLimits) policy.Limits {
	l := policy.Limits{Flows: policy.DefaultFlows}
	if raw == nil {
		return l
	}
	l.Packets = d.count(raw.Packets, 0, "a whole number of packets a second, at least 1")
	l.NewFlows = d.count(raw.NewFlows, 0, "a whole number of flows opened a second, at least 1")
	l.Flows = d.count(raw.Flows, policy.DefaultFlows, "a whole number of flows at a time, at least 1")
	l.Bandwidth = d.bandwidth(raw.Bandwidth)
	return l
}

// maxCount keeps limits in what both kinds of integers hold.
const maxCount = math.MaxInt64

func (d *decoder) count(a *hcl.Attribute, dflt uint64, takes string) uint64 {
	return d.countOf(d.scalar(a, takes), dflt, takes)
}

func (d *decoder) countOf(v value, dflt uint64, takes string) uint64 {
	if v.ok() && v.v.Type() == cty.Number && v.v.AsBigFloat().Sign() == 0 {
		without := "no limit"
		if dflt != 0 {
			without = fmt.Sprintf("the default, %d", dflt)
		}
		d.errorf(v.at, "Limit of zero", "Nothing would pass. Leave %s out for %s.", v.key, without)
		return dflt
	}
	if n, ok := d.integer(v, 1, maxCount, takes); ok {
		return n
	}
	return dflt
}

// rateUnits are tc(8)'s words for bits a second, by powers of 1000.
var rateUnits = map[string]uint64{"": 1, "bit": 1, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9, "tbit": 1e12}

// bandwidth is bits a second: a number, or a string such as "100Mbit".
func (d *decoder) bandwidth(a *hcl.Attribute) uint64 {
	const takes = `bits a second: a whole number, or one with a unit in quotes, such as "100Mbit" (bit, kbit, Mbit, Gbit, Tbit)`
	v := d.scalar(a, takes)
	if !v.ok() || v.v.Type() != cty.String {
		return d.countOf(v, 0, takes)
	}
	s := v.v.AsString()
	digits := s[:len(s)-len(strings.TrimLeft(s, "0123456789"))]
	unit, known := rateUnits[strings.ToLower(strings.TrimSpace(s[len(digits):]))]
	n, err := strconv.ParseUint(digits, 10, 64)
	switch {
	case digits == "" || !known:
		hint := ""
		if strings.Contains(s, ".") {
			hint = " Fractions have a smaller unit: 1500Mbit for 1.5Gbit."
		} else if strings.HasSuffix(strings.ToLower(s), "b") || strings.Contains(strings.ToLower(s), "bps") {
			hint = " Bytes and bps are not understood, because they are read either way: write bits."
		}
		d.errorf(v.at, "Malformed bandwidth", "%s takes %s.%s", a.Name, takes, hint)
	case err != nil || n > maxCount/unit:
		d.errorf(v.at, "Number out of range", "%s is more bits a second than there can be.", excerpt(s))
	case n == 0:
		d.errorf(v.at, "Limit of zero", "Nothing would pass. Leave %s out for no limit.", a.Name)
	default:
		return n * unit
	}
	return 0
}
