package router

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"udrouter/config"
	"udrouter/policy"
	"udrouter/stack"
)

// Explainer answers what becomes of a packet, by a file alone: it makes the packet that opens a flow and asks the guards, ways, rules and limits
// that a Router would. What only the machine knows it stands in for: dom0's addresses, and gateways that the file leaves to the kernel. It is
// not safe for concurrent use.
type Explainer struct {
	cfg    *config.Config
	world  *world
	uplink *policy.Matcher // host.uplink; nil: none
	now    time.Duration
	dom0   *policy.Packet // the first of a connection that dom0's kernel has opened without the router; nil: none
}

// Answer is what becomes of a packet. Its JSON is `udrouter explain --json`; fields are only ever added.
type Answer struct {
	From    string     `json:"from"` // "uplink", "host" or "domu:NAME"
	To      string     `json:"to"`   // the same, or "router"; "" for nobody, and where a guard came before
	Src     netip.Addr `json:"src"`
	Dst     netip.Addr `json:"dst"`
	Proto   string     `json:"proto"`
	Port    uint16     `json:"port,omitempty"`
	Verdict string     `json:"verdict"`          // "accept", "drop" or "reject"
	Reason  string     `json:"reason,omitempty"` // policy.Reason; "" when accepted
	Text    string     `json:"text"`             // what decided, in a sentence
	By      string     `json:"by"`               // what decided: "guard", "binding", "way", "rule", "default", "state", "router" or "dom0"
	Decision
	Shadow *Refusal   `json:"shadow,omitempty"` // what would have refused it, if its policy were in force
	Steps  []Decision `json:"steps"`            // the rules or defaults that were asked, in order
	Forge  string     `json:"forge,omitempty"`  // what is wrong with the packet, of tests
	Opened *Answer    `json:"opened,omitempty"` // what became of what has opened the connection that it answers in, of tests
	Live   *Seen      `json:"live,omitempty"`   // what became of the real packet, of `udrouter test --live`
}

// Decision is a rule, a chain's default, or a binding.
type Decision struct {
	Policy string `json:"policy,omitempty"` // "host" for the host block
	Chain  string `json:"chain,omitempty"`  // "egress", "ingress", "uplink"
	Rule   string `json:"rule,omitempty"`   // "" for the default
	Source string `json:"source,omitempty"` // file:line
	Action string `json:"action,omitempty"` // what it says
}

// Seen is what became of a packet that was sent for real.
type Seen struct {
	Verdict string   `json:"verdict"` // "accept": it came to its destination; "reject": its sender was told otherwise; "drop": neither
	At      []string `json:"at"`      // who has seen it: "uplink", "host", "domu:NAME"
	Told    string   `json:"told,omitempty"`
	Counted []string `json:"counted"`         // the reasons under which the router has counted drops meanwhile, and "uplink:NAME" for rules of host.uplink
	Wrong   string   `json:"wrong,omitempty"` // what is not as it should be besides
}

// Refusal is what a policy in shadow mode would have done.
type Refusal struct {
	Reason string `json:"reason"`
	Decision
}

// Stand-ins for what a file does not tell: dom0's addresses, a station of the internet for each family, and the MACs on the uplink.
var (
	standInHost = []netip.Addr{netip.MustParseAddr("192.0.0.8"), netip.MustParseAddr("2001:db8:ffff:ffff::d0")}
	strangers   = []netip.Addr{netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("9.9.9.9"),
		netip.MustParseAddr("2001:db8:ffff::7"), netip.MustParseAddr("2620:fe::9")}
	standInMAC  = policy.MAC{2, 0, 0, 0, 0, 1}
	standInPeer = policy.MAC{2, 0, 0, 0, 0, 2}
)

// NewExplainer compiles a file. For each template there is a guest of its name.
func NewExplainer(cfg *config.Config) (*Explainer, error) {
	held := slices.Clone(standInHost)
	if a := cfg.Uplink.Address4; a.IsValid() {
		held[0] = a
	}
	return NewExplainerOf(cfg, held)
}

// NewExplainerOf is NewExplainer for a host of which it is known what addresses dom0 holds, the one first that it sends from.
func NewExplainerOf(cfg *config.Config, held []netip.Addr) (*Explainer, error) {
	cfg = cfg.StandIns()
	pl, err := newPlan(cfg, nil)
	if err != nil {
		return nil, err
	}
	k := stack.Kernel{Uplink: stack.Interface{Index: 1, MAC: standInMAC, MTU: 1500, Up: true}, Held: held,
		Routes: []stack.Route{{Prefix: netip.MustParsePrefix("0.0.0.0/0")}, {Prefix: netip.MustParsePrefix("::/0")}}}
	e := &Explainer{cfg: cfg, world: newWorld(pl, policy.NewLinkLocals(), RouterMAC(cfg, standInMAC), GuestMTU(cfg, k), 0, k)}
	if cfg.Host != nil && cfg.Host.Uplink != nil {
		// Guests are not on the uplink: what names one matches nothing, as in the kernel.
		e.uplink, err = policy.CompileChain(*cfg.Host.Uplink, func(string) []netip.Prefix { return nil })
	}
	return e, err
}

func (e *Explainer) guest(name string) *policy.Guest {
	for _, g := range e.world.Guests {
		if g.Name == name {
			return g
		}
	}
	return nil
}

// Explain answers a question: once for each family that source and destination have in common. Flows that an earlier question has opened are
// forgotten. It errs when there is no such guest or no such packet.
func (e *Explainer) Explain(q policy.Question) ([]Answer, error) { return e.explain(q, nil) }

// explain is Explain for a packet that, where opened is not nil, answers in the connection of the packet that opened asks about.
func (e *Explainer) explain(q policy.Question, opened *policy.Question) ([]Answer, error) {
	for _, p := range []policy.Peer{q.From, q.To} {
		if p.Kind == policy.PeerDomu && e.guest(p.Domu) == nil {
			return nil, fmt.Errorf("the file has no domu %q", p.Domu)
		}
	}
	var list []Answer
	for _, v6 := range []bool{false, true} {
		if v6 && q.Proto == policy.ProtoICMP || !v6 && q.Proto == policy.ProtoICMPv6 || !q.Forge.Has(v6) {
			continue
		}
		src, dst := e.ends(q, v6)
		if !src.IsValid() || !dst.IsValid() {
			continue
		}
		e.forget()
		var by *Answer
		if opened != nil {
			server, client := e.ends(*opened, v6)
			if !server.IsValid() || !client.IsValid() {
				continue
			}
			o := e.answer(policy.Question{From: e.peerOf(client), Proto: opened.Proto, Port: opened.Port}, client, server, false)
			by = &o
		}
		a := e.answer(q, src, dst, opened != nil)
		a.Opened = by
		list = append(list, a)
	}
	if list == nil {
		return nil, fmt.Errorf("there is no such packet: %s", unmade(q))
	}
	return list, nil
}

// forget has the next packet be the first: there are no flows, and nobody has used a link-local address or any of a limit.
func (e *Explainer) forget() {
	e.world.engine.Forget()
	e.world.LinkLocals = policy.NewLinkLocals()
	e.dom0 = nil
	e.now += time.Hour // limits are those of a guest at rest
}

// ends are a question's source and destination in a family; the zero address where it has none.
func (e *Explainer) ends(q policy.Question, v6 bool) (src, dst netip.Addr) {
	dst = e.destination(q, v6)
	return e.source(q, dst, v6), dst
}

// peerOf is who has an address; who is not here is beyond the uplink.
func (e *Explainer) peerOf(a netip.Addr) policy.Peer {
	if g := e.world.ByAddr(a); g != nil && !e.world.Taken[a] {
		return policy.Peer{Kind: policy.PeerDomu, Domu: g.Name}
	}
	if e.world.Held[a] {
		return policy.Peer{Kind: policy.PeerHost}
	}
	return policy.Peer{Kind: policy.PeerUplink}
}

// unmade tells why there is no packet for a question.
func unmade(q policy.Question) string {
	switch {
	case q.Src.IsValid() && q.Dst.IsValid() && q.Src.Is4() != q.Dst.Is4():
		return fmt.Sprintf("%s and %s are of different families", q.Src, q.Dst)
	case q.Proto == policy.ProtoICMP:
		return "sender and receiver do not both have IPv4, which icmp is for; icmpv6 is that of IPv6"
	case q.Proto == policy.ProtoICMPv6:
		return "sender and receiver do not both have IPv6, which icmpv6 is for; icmp is that of IPv4"
	}
	return "sender and receiver have no family in common"
}

// destination is where a question's packet goes in a family; the zero address where that has none.
func (e *Explainer) destination(q policy.Question, v6 bool) netip.Addr {
	if q.Dst.IsValid() {
		return ofFamily(q.Dst, v6)
	}
	return e.address(q.To, v6)
}

// source is where a question's packet comes from: the sender's own address, unless it is told.
func (e *Explainer) source(q policy.Question, dst netip.Addr, v6 bool) netip.Addr {
	switch {
	case q.Forge == policy.ForgeSource:
		return e.anothers(q.From, dst, v6)
	case q.Forge == policy.ForgeRA && q.From.Kind == policy.PeerDomu, q.Forge == policy.ForgeRedirect && v6 && q.From.Kind == policy.PeerDomu:
		return linkLocal(e.guest(q.From.Domu))
	case q.Forge == policy.ForgeRedirect && v6 && q.Src.Is6(): // what is not from a link-local address is no redirect (RFC 4861 8.1)
		return strangerLL
	case q.Src.IsValid():
		return ofFamily(q.Src, v6)
	case q.From.Kind == policy.PeerDomu && dst.IsLinkLocalUnicast() && v6:
		return linkLocal(e.guest(q.From.Domu))
	}
	return e.address(q.From, v6)
}

// strangerLL is a link-local address of a station on the uplink.
var strangerLL = netip.MustParseAddr("fe80::bad")

// anothers is an address that a sender does not have: another guest's, or a gateway where there is none. On the uplink it is the receiver's own.
func (e *Explainer) anothers(from policy.Peer, dst netip.Addr, v6 bool) netip.Addr {
	if from.Kind == policy.PeerUplink && e.world.ByAddr(dst) != nil {
		return dst
	}
	for _, g := range e.world.Guests {
		if a := e.address(policy.Peer{Kind: policy.PeerDomu, Domu: g.Name}, v6); a.IsValid() && g.Name != from.Domu && a != dst {
			return a
		}
	}
	for _, n := range e.cfg.Networks {
		if n.Gateway.Is6() == v6 && !n.Gateway.IsLinkLocalUnicast() {
			return n.Gateway
		}
	}
	return netip.Addr{}
}

// linkLocal is a guest's IPv6 link-local address; one without its own uses what it likes.
func linkLocal(g *policy.Guest) netip.Addr {
	for _, a := range g.Addrs {
		if a.Addr().Is6() && a.Addr().IsLinkLocalUnicast() {
			return a.Addr()
		}
	}
	return policy.EUI64(g.MAC)
}

// address is a party's address of a family: the first that a guest is bound to, or the first of its first prefix.
func (e *Explainer) address(p policy.Peer, v6 bool) netip.Addr {
	switch p.Kind {
	case policy.PeerUplink:
		for _, a := range strangers {
			if a.Is6() == v6 && e.world.Network(a) == nil && !e.world.Upstream[a] && !e.world.Held[a] {
				return a
			}
		}
	case policy.PeerHost:
		for _, a := range e.world.kernel.Held {
			if a.Is6() == v6 {
				return a
			}
		}
	case policy.PeerDomu:
		for _, a := range e.guest(p.Domu).Addrs {
			if a.Addr().Is6() == v6 && !a.Addr().IsLinkLocalUnicast() {
				return e.hostOf(a)
			}
		}
	}
	return netip.Addr{}
}

// hostOf is an address, or the first that a host has of a prefix: the very first may mean the prefix itself.
func (e *Explainer) hostOf(p netip.Prefix) netip.Addr {
	host := p.Addr()
	for !p.IsSingleIP() && p.Contains(host) && (e.world.Taken[host] || host == p.Addr()) {
		host = host.Next()
	}
	return host
}

func ofFamily(a netip.Addr, v6 bool) netip.Addr {
	if a.Is6() != v6 {
		return netip.Addr{}
	}
	return a
}

// answer makes a packet and asks everyone, in the order in which a Router does. reply: it answers in a connection.
func (e *Explainer) answer(q policy.Question, src, dst netip.Addr, reply bool) Answer {
	a := Answer{From: q.From.String(), Src: src, Dst: dst, Proto: policy.ProtoName(q.Proto), Port: q.Port, Verdict: policy.Accept.String(), Steps: []Decision{}, Forge: q.Forge.String()}
	if q.Forge.Message() {
		a.Proto = a.Forge
	}
	probe := ProbeOf(q, src, dst, ephemeralPort, reply)
	from := e.attach(&probe, q)
	f := probe.Build()
	p := new(policy.Packet)
	if r := p.Parse(f.Bytes(), policy.Offload{}); r != policy.None {
		return a.refuse(r, "guard", Decision{})
	}
	neighbours := p.EtherType == policy.EtherARP || p.IsND()
	if from.Zone == policy.ZoneHost && e.passesBy(p, from) {
		to, guest, _ := e.world.way(p, from)
		a.To, a.By, a.Text = targetName(to, guest), "dom0", "Dom0's kernel sends it without the router"
		e.dom0 = p
		return a
	}
	if from.Zone == policy.ZoneUplink && e.world.Held[dst] && (!neighbours || p.IsND() && p.ICMPType == policy.RedirectMessage) {
		return e.kernels(a, p, q.Forge)
	}
	if g := e.meets(from, dst, q.Forge); g != nil {
		a.To, a.By, a.Text = targetName(toGuest, g), "dom0", "Guests meet in the bridge, which hides it from the router: isolate = false"
		return a
	}
	if r := e.guards(p, from); r != policy.None {
		if r == policy.IPBinding || r == policy.IP6Binding {
			return a.refuse(r, "binding", Decision{Source: e.cfg.Domus[from.Guest.ID].Range.String()})
		}
		return a.refuse(r, "guard", Decision{})
	}
	if neighbours {
		a = a.refuse(policy.LinkLocal, "guard", Decision{})
		a.Text = "What neighbours say to each other stays on their link"
		return a
	}
	to, guest, r := e.world.way(p, from)
	a.To = targetName(to, guest)
	switch {
	case from.Zone == policy.ZoneHost && !e.world.host:
		a = a.refuse(policy.NoRoute, "dom0", Decision{})
		a.Text = "Without a host block dom0 and guests do not meet"
		return a
	case r == policy.RouterLocal && from.Zone != policy.ZoneGuest:
		a = a.refuse(r, "way", Decision{})
		a.Text += "; where dom0 has the same address, its kernel gets it"
		return a
	case r == policy.RouterLocal && e.world.host:
		a = a.refuse(r, "way", Decision{})
		a.Text += "; where dom0 has the same address, host.ingress decides"
		return a
	case r != policy.None:
		return a.refuse(r, "way", Decision{})
	case to == toRouter && from.Zone == policy.ZoneHost && !e.leadsHere(dst):
		a = a.refuse(policy.NoRoute, "dom0", Decision{})
		a.To, a.Text = "", "Dom0's kernel knows no way to the router there, and looks for it beyond the uplink; where dom0 has the same address, it answers itself"
		return a
	case to == toRouter:
		a.By, a.Text = "router", "The router itself answers"
		return a
	}
	return e.decide(a, p, from, to.end(guest))
}

// ephemeralPort is the port that the opener of a connection has: the first of those (RFC 6335 6).
const ephemeralPort = 49152

// ProbeOf is the packet of a question between two addresses, but for its MACs. port is that of who has opened the connection.
func ProbeOf(q policy.Question, src, dst netip.Addr, port uint16, reply bool) stack.Probe {
	p := stack.Probe{Src: src, Dst: dst, Proto: uint8(q.Proto), SrcPort: port, DstPort: q.Port, Answer: reply || q.Forge == policy.ForgeAnswer, Forge: q.Forge}
	if p.Answer && policy.RulePorts(q.Proto) {
		p.SrcPort, p.DstPort = q.Port, port
	}
	return p
}

// Attach gives a frame the MACs of its sender and of the router; anothers is what the sender forges as its own.
func Attach(p *stack.Probe, own, router, anothers policy.MAC) {
	p.SrcMAC, p.DstMAC = own, router
	switch p.Forge {
	case policy.ForgeMAC:
		p.SrcMAC = anothers
	case policy.ForgeARP:
		p.DstMAC = policy.BroadcastMAC
	case policy.ForgeND, policy.ForgeRA:
		p.DstMAC = policy.MAC{0x33, 0x33, 0, 0, 0, 1}
	}
}

// StrangersMAC is one like a guest's that nobody has.
func StrangersMAC(own policy.MAC) policy.MAC {
	own[0] ^= 2 // IEEE 802: the other of globally unique and locally administered
	return own
}

// attach gives the frame its MACs, and tells where it comes from.
func (e *Explainer) attach(p *stack.Probe, q policy.Question) policy.End {
	switch q.From.Kind {
	case policy.PeerHost: // a TUN has none
		return policy.End{Zone: policy.ZoneHost}
	case policy.PeerUplink:
		Attach(p, standInPeer, e.world.UplinkMAC, e.world.RouterMAC)
		return policy.End{Zone: policy.ZoneUplink}
	}
	g := e.guest(q.From.Domu)
	Attach(p, g.MAC, e.world.RouterMAC, StrangersMAC(g.MAC))
	return policy.End{Zone: policy.ZoneGuest, Guest: g}
}

func (e *Explainer) guards(p *policy.Packet, from policy.End) policy.Reason {
	switch from.Zone {
	case policy.ZoneGuest:
		_, r := e.world.FromGuest(p)
		return r
	case policy.ZoneHost:
		return e.world.FromHost(p)
	}
	return e.world.FromUplink(p)
}

// decide asks the rules of both ends.
func (e *Explainer) decide(a Answer, p *policy.Packet, from, to policy.End) Answer {
	for _, r := range e.world.engine.Rules(p, from, to) {
		a.Steps = append(a.Steps, e.decision(r.Rule, r.Action))
	}
	e.now += time.Second
	v := e.world.engine.Decide(p, from, to, e.now)
	if v.Would != policy.None {
		a.Shadow = &Refusal{v.Would.String(), e.decision(v.WouldRule, policy.Drop)}
	}
	d := e.decision(v.Rule, v.Action)
	if v.Action == policy.Accept && v.IsReply() {
		a.Steps = []Decision{}
		a.By, a.Decision, a.Text = "state", d, "It answers in a connection that the rules have admitted"
		return a
	}
	by := "rule"
	if d.Rule == "" {
		by = "default"
	}
	if v.Action != policy.Accept {
		a.Verdict = v.Action.String()
		if v.Rule == 0 {
			by = "state"
		}
		return a.refuse(v.Reason, by, d)
	}
	a.By, a.Decision = by, d
	a.Text = "Every rule or default on its way accepts it"
	if a.Shadow != nil {
		a.Text = "A policy in shadow mode only counts what it would have refused"
	}
	return a
}

// refuse completes the answer for a packet that does not pass.
func (a Answer) refuse(r policy.Reason, by string, d Decision) Answer {
	if a.Verdict == policy.Accept.String() {
		a.Verdict = policy.Drop.String()
	}
	a.Reason, a.Text, a.By, a.Decision = r.String(), r.Text(), by, d
	return a
}

func (e *Explainer) decision(id policy.RuleID, action policy.Action) Decision {
	r, ok := e.world.engine.Rule(id)
	if !ok {
		return Decision{}
	}
	return Decision{r.Policy, r.Chain, r.Rule, r.Source, action.String()}
}

func targetName(t target, g *policy.Guest) string {
	switch {
	case t == toRouter:
		return "router"
	case t == toHost:
		return policy.Peer{Kind: policy.PeerHost}.String()
	case t == toUplink:
		return policy.Peer{Kind: policy.PeerUplink}.String()
	case g != nil:
		return policy.Peer{Kind: policy.PeerDomu, Domu: g.Name}.String()
	}
	return ""
}

// String is the answer for people: the packet, what was asked, and what became of it.
func (a Answer) String() string {
	var s strings.Builder
	port := ""
	if a.Port != 0 {
		port = fmt.Sprintf(" port %d", a.Port)
	}
	to := ""
	if a.To != "" {
		to = fmt.Sprintf(" (%s)", a.To)
	}
	forged := ""
	if a.Forge != "" {
		forged = fmt.Sprintf(", forged: %s", a.Forge)
	}
	if a.Opened != nil {
		answer := ", an answer"
		if a.Port != 0 {
			answer += " from" + port
		}
		port, forged = "", answer+forged
	}
	fmt.Fprintf(&s, "%s%s from %s (%s) to %s%s%s\n", a.Proto, port, a.Src, a.From, a.Dst, to, forged)
	for _, d := range a.Steps {
		fmt.Fprintf(&s, "  %s\n", d)
	}
	if a.Shadow != nil {
		fmt.Fprintf(&s, "  in shadow mode: %s\n", a.Shadow.Reason)
	}
	switch {
	case a.Reason != "" && a.Source != "":
		fmt.Fprintf(&s, "%s: %s, %s (%s)", a.Verdict, a.Reason, a.Source, a.By)
	case a.Reason != "":
		fmt.Fprintf(&s, "%s: %s (%s)", a.Verdict, a.Reason, a.By)
	default:
		fmt.Fprintf(&s, "%s", a.Verdict)
	}
	fmt.Fprintf(&s, ". %s.", a.Text)
	return s.String()
}

func (d Decision) String() string {
	what := "default"
	if d.Rule != "" {
		what = fmt.Sprintf("rule %q", d.Rule)
	}
	return fmt.Sprintf("%-7s %s of %s in %s, %s", d.Action, what, d.Chain, d.Policy, d.Source)
}
