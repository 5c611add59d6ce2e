package config

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/hashicorp/hcl/v2"

	"udrouter/policy"
)

// decodeTests reads the questions that `udrouter check` asks of the policy. Their addresses may be anyone's,
// forged ones among them: a test may well expect that such a packet is dropped.
func (d *decoder) decodeTests(raws []rawTest) {
	for i := range raws {
		d.cfg.Tests = append(d.cfg.Tests, d.decodeTest(&raws[i]))
	}
}

func (d *decoder) decodeTest(raw *rawTest) policy.TestCase {
	t := policy.TestCase{Name: raw.Name, TestStep: policy.TestStep{Question: policy.Question{Proto: policy.AnyProto}, Source: place(raw.At)}}
	var srcAt, dstAt hcl.Range
	if d.require(raw.From, raw.At, "from", takesSender) {
		t.From = d.testPeer(raw.From, takesSender)
	}
	t.Src, srcAt = d.anyAddr(raw.Src, anyIP)
	if t.From.Kind == policy.PeerUplink && !given(raw.Src) {
		d.errorf(raw.At, "Missing src", `From the uplink anyone may send. Say who: src = "198.51.100.7"`)
	}
	switch {
	case given(raw.To) && given(raw.Dst):
		d.conflictf(raw.Dst.NameRange, raw.To.NameRange, "Both to and dst", "A packet has one destination. Keep to for a guest or dom0, or dst for an address.")
	case !given(raw.To) && !given(raw.Dst):
		d.errorf(raw.At, "Missing destination", `This block needs to = "domu:NAME", to = "host" or dst = "198.51.100.7".`)
	case given(raw.To):
		t.To = d.testPeer(raw.To, takesReceiver)
	}
	t.Dst, dstAt = d.anyAddr(raw.Dst, anyIP)
	d.testFamilies(t, raw, srcAt, dstAt)

	known := false
	if d.require(raw.Proto, raw.At, "proto", `"tcp", "udp", "icmp", "icmpv6" or a protocol number`) {
		t.Proto, known = d.proto(raw.Proto)
	}
	const takes = "a port from 1 to 65535"
	if n, ok := d.integer(d.scalar(raw.Port, takes), 1, 65535, takes); ok {
		t.Port = uint16(n)
	}
	hasPorts := policy.RulePorts(t.Proto)
	if known && given(raw.Port) {
		d.hasPorts(raw.Port, raw.Proto, t.Proto)
	} else if known && hasPorts {
		d.errorf(raw.At, "Missing port", "A packet of %s goes to a port. Say which: port = 443", policy.ProtoName(t.Proto))
	}
	if d.require(raw.Expect, raw.At, "expect", takesAction) {
		t.Expect = d.action(raw.Expect, 0)
	}
	t.Rule = d.testRule(raw.Rule)
	return t
}

const (
	takesSender   = `"uplink", "host" or "domu:NAME"`
	takesReceiver = `"host" or "domu:NAME"; an address is given as dst`
)

// testPeer is the sender or receiver of a test's packet.
func (d *decoder) testPeer(a *hcl.Attribute, takes string) policy.Peer {
	v := d.scalar(a, takes)
	s, ok := d.str(v, takes)
	if !ok {
		return policy.Peer{}
	}
	p, named := d.namedPeer(s, v.at)
	switch {
	case named && p.Kind == policy.PeerUplink && a.Name == "to":
		d.errorf(v.at, "Uplink is no destination", `Behind it are many. Name one: dst = "198.51.100.7"`)
		return policy.Peer{}
	case named:
		return p
	}
	hint := d.didYouMean(s, []string{"host", "uplink"})
	if d.guests.has(s) {
		hint = fmt.Sprintf(" For the guest write %q.", "domu:"+s)
	} else if _, err := netip.ParseAddr(s); err == nil {
		hint = fmt.Sprintf(" For an address write %s = %q.", map[string]string{"from": "src", "to": "dst"}[a.Name], s)
	}
	d.errorf(v.at, fmt.Sprintf("Unknown peer %q", excerpt(s)), "%s takes %s.%s", a.Name, takes, hint)
	return policy.Peer{}
}

// testFamilies wants one version of IP for source and destination.
func (d *decoder) testFamilies(t policy.TestCase, raw *rawTest, srcAt, dstAt hcl.Range) {
	switch {
	case t.Src.IsValid() && t.Dst.IsValid():
		if familyOf(t.Src) != familyOf(t.Dst) {
			d.conflictf(dstAt, srcAt, "Addresses of both versions of IP", "src is %v and dst is %v. A packet has one of them.", familyOf(t.Src), familyOf(t.Dst))
		}
	case t.Src.IsValid() && t.To.Kind == policy.PeerDomu && !d.hasFamily(t.To.Domu, familyOf(t.Src)):
		d.errorf(raw.To.Expr.Range(), "Guest without such an address", "src is %v, and domu %q has no %v address to send to. Name another guest or another src.", familyOf(t.Src), t.To.Domu, familyOf(t.Src))
	case t.Dst.IsValid() && t.From.Kind == policy.PeerDomu && !given(raw.Src) && !d.hasFamily(t.From.Domu, familyOf(t.Dst)):
		d.errorf(raw.From.Expr.Range(), "Guest without such an address", "dst is %v, and domu %q has no %v address to send from. Name another guest, or give the packet a src.", familyOf(t.Dst), t.From.Domu, familyOf(t.Dst))
	}
}

// hasFamily tells whether a guest has a routed address of the family. Where one of its addresses was
// reported, it counts as one.
func (d *decoder) hasFamily(guest string, f family) bool {
	for i := range d.cfg.Templates {
		if t := &d.cfg.Templates[i]; t.Name == guest {
			return slices.ContainsFunc(d.cfg.Networks, func(n Network) bool {
				return t.Allows(&n) && (!n.Prefix.IsValid() || familyOf(n.Prefix.Addr()) == f)
			})
		}
	}
	for i := range d.domus {
		g := &d.domus[i]
		if g.Name != guest {
			continue
		}
		list := map[family][]netip.Prefix{ip4: g.IPv4, ip6: g.IPv6}[f]
		for _, p := range list {
			if !p.Addr().IsLinkLocalUnicast() {
				return true
			}
		}
		if g.listed[f] > len(list) {
			return true
		}
	}
	return false
}

// testRule is the name of a rule that has to decide; any rule of that name in the file will do.
func (d *decoder) testRule(a *hcl.Attribute) string {
	const takes = "the name of a rule in quotes"
	v := d.scalar(a, takes)
	name, ok := d.str(v, takes)
	if !ok {
		return ""
	}
	if !d.rules.has(name) {
		hint := d.didYouMean(name, d.rules.list)
		if hint == "" {
			hint = " Leave rule out if any may decide."
		}
		d.errorf(v.at, fmt.Sprintf("Unknown rule %q", excerpt(name)), "No policy and no chain of the host has a rule of that name.%s", hint)
	}
	return name
}
