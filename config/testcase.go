package config

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

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
	t := policy.TestCase{Name: raw.Name, TestStep: d.decodeStep(raw)}
	t.Open = d.boolean(raw.Open, false)
	switch {
	case !t.Open:
	case t.Forge.Message(), t.Forge == policy.ForgeAnswer:
		d.conflictf(raw.Open.NameRange, raw.Forge.NameRange, "No connection to answer in", "What is forged here is no answer in a connection. Leave open out.")
	case !policy.RulePorts(t.Proto) && t.Proto != policy.ProtoICMP && t.Proto != policy.ProtoICMPv6 && t.Proto != policy.AnyProto:
		d.errorf(raw.Open.NameRange, "No connection to answer in", "Only tcp, udp, icmp and icmpv6 have answers that tests know. Leave open out.")
	}
	said := len(d.diags)
	for i := range raw.Then {
		step := raw.Then[i].of(raw)
		t.Then = append(t.Then, d.decodeStep(&step))
	}
	d.once(said)
	return t
}

// of is a further packet of a test: what is left out is as in the test itself.
func (r *rawThen) of(t *rawTest) rawTest {
	s := rawTest{Name: t.Name, From: r.From, Src: r.Src, To: r.To, Dst: r.Dst, Proto: r.Proto, Port: r.Port, Expect: r.Expect, Rule: r.Rule, Forge: r.Forge, At: r.At}
	forge := ""
	if given(r.Forge) {
		forge = literalText(r.Forge)
	}
	if !given(s.From) {
		s.From = t.From
		if !given(s.Src) && forge != policy.ForgeSource.String() {
			s.Src = t.Src
		}
	}
	if !given(s.To) && !given(s.Dst) {
		s.To, s.Dst = t.To, t.Dst
	}
	if !given(s.Proto) && !isMessage(forge) {
		s.Proto = t.Proto
		if !given(s.Port) {
			s.Port = t.Port
		}
	}
	return s
}

// literalText is the text of a value that is one, or "".
func literalText(a *hcl.Attribute) string {
	if v, diags := a.Expr.Value(nil); !diags.HasErrors() && v.Type() == cty.String && v.IsKnown() && !v.IsNull() {
		return v.AsString()
	}
	return ""
}

func isMessage(word string) bool {
	return slices.ContainsFunc(policy.Forgeries(), func(f policy.Forgery) bool { return f.Message() && f.String() == word })
}

// once takes out complaints after the first ones that say the same of the same place: what packets have in common is read for each.
func (d *decoder) once(first int) {
	seen := map[string]bool{}
	for _, c := range d.diags[:first] {
		seen[place(*c.Subject)+c.Subject.String()+c.Summary] = true
	}
	kept := d.diags[:first]
	for _, c := range d.diags[first:] {
		if key := place(*c.Subject) + c.Subject.String() + c.Summary; !seen[key] {
			seen[key] = true
			kept = append(kept, c)
		}
	}
	d.diags = kept
}

func (d *decoder) decodeStep(raw *rawTest) policy.TestStep {
	t := policy.TestStep{Question: policy.Question{Proto: policy.AnyProto}, Source: place(raw.At)}
	var srcAt, dstAt hcl.Range
	t.Forge = d.forgery(raw.Forge)
	if d.require(raw.From, raw.At, "from", takesSender) {
		t.From = d.testPeer(raw.From, takesSender)
	}
	t.Src, srcAt = d.anyAddr(raw.Src, anyIP)
	switch {
	case t.Forge == policy.ForgeSource && given(raw.Src):
		d.conflictf(raw.Src.NameRange, raw.Forge.NameRange, "Forged source with a src", `The source is another's address already. Leave out one of the two.`)
	case t.From.Kind == policy.PeerUplink && !given(raw.Src) && t.Forge != policy.ForgeSource:
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
	d.testProto(&t, raw)
	d.forgeable(&t, raw)
	if d.require(raw.Expect, raw.At, "expect", takesAction) {
		t.Expect = d.action(raw.Expect, 0)
	}
	t.Rule = d.testRule(raw.Rule)
	return t
}

// testProto reads the protocol and port, which a forged message brings along.
func (d *decoder) testProto(t *policy.TestStep, raw *rawTest) {
	if t.Forge.Message() {
		if given(raw.Proto) {
			d.conflictf(raw.Proto.NameRange, raw.Forge.NameRange, "Forged message with a protocol", "It is %s whatever proto says. Leave proto and port out.", t.Forge)
		} else if given(raw.Port) {
			d.conflictf(raw.Port.NameRange, raw.Forge.NameRange, "Forged message with a port", "It is %s, and has no port to choose. Leave port out.", t.Forge)
		}
		return
	}
	known := false
	if d.require(raw.Proto, raw.At, "proto", `"tcp", "udp", "icmp", "icmpv6" or a protocol number`) {
		t.Proto, known = d.proto(raw.Proto)
	}
	const takes = "a port from 1 to 65535"
	if n, ok := d.integer(d.scalar(raw.Port, takes), 1, 65535, takes); ok {
		t.Port = uint16(n)
	}
	if known && given(raw.Port) {
		d.hasPorts(raw.Port, raw.Proto, t.Proto)
	} else if known && policy.RulePorts(t.Proto) {
		d.errorf(raw.At, "Missing port", "A packet of %s goes to a port. Say which: port = 443", policy.ProtoName(t.Proto))
	}
}

func (d *decoder) forgery(a *hcl.Attribute) policy.Forgery {
	var words []choice[policy.Forgery]
	for _, f := range policy.Forgeries() {
		words = append(words, choice[policy.Forgery]{f.String(), f})
	}
	f, _ := oneWord(d.reporter, a, policy.NoForgery, words...)
	return f
}

// forgeable reports what a sender cannot forge.
func (d *decoder) forgeable(t *policy.TestStep, raw *rawTest) {
	report := func(detail string, args ...any) {
		d.errorf(raw.Forge.Expr.Range(), fmt.Sprintf("Cannot forge %q", t.Forge), detail, args...)
	}
	tcpOnly := t.Forge == policy.ForgeFlags || t.Forge == policy.ForgeFragment
	switch {
	case t.From.Kind == policy.PeerHost && t.Forge != policy.NoForgery && t.Forge != policy.ForgeSource:
		report(`Dom0's kernel sends what it likes, and is trusted with that but for its sources. From the host only "source" is forged.`)
	case t.From.Kind == policy.PeerUplink && t.Forge == policy.ForgeRA:
		report("Routers on the uplink advertise themselves, to dom0's kernel, and the router passes none of that on. Guests alone forge it.")
	case tcpOnly && t.Proto != policy.ProtoTCP && t.Proto != policy.AnyProto:
		report(`It is done to TCP: proto = "tcp".`)
	case t.Dst.IsValid() && !t.Forge.Has(t.Dst.Is6()), t.Src.IsValid() && !t.Forge.Has(t.Src.Is6()):
		report("There is no such message in the version of IP that the addresses are of.")
	}
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
func (d *decoder) testFamilies(t policy.TestStep, raw *rawTest, srcAt, dstAt hcl.Range) {
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
