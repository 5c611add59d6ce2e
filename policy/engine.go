package policy

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"
)

// End is where a packet comes from or goes to: a guest, dom0 or the uplink. Guest is nil for the others.
type End struct {
	Zone  Zone
	Guest *Guest
}

// Side is the end as flows know it.
func (e End) Side() Side {
	switch e.Zone {
	case ZoneHost:
		return SideHost
	case ZoneGuest:
		return e.Guest.Side
	}
	return SideUplink
}

// RuleID names a rule of an Engine, or a chain's default. The zero value is none: a guard, the state or a limit decided.
type RuleID uint32

// RuleInfo is what a RuleID stands for.
type RuleInfo struct {
	Policy string // name of the policy; "host" for the host block
	Chain  string // "egress" or "ingress"
	Rule   string // its name; "" for the default
	Source string // file:line of the rule, or of the chain's block
}

// Verdict is what becomes of a packet that the guards have passed.
type Verdict struct {
	Action Action // Accept, Drop, or Reject, which tells the sender
	Reason Reason // why not; None when accepted
	Rule   RuleID // which rule or default said so
	Blame  *Guest // whose rule, state or limit it was; nil for the host block's

	// Would is what the policy of WouldBlame would have refused it for, if that were not in shadow mode.
	Would      Reason
	WouldRule  RuleID
	WouldBlame *Guest

	// The flow by which it was admitted, see Remember; no table: none, or none to be remembered.
	table *FlowTable
	flow  FlowRef
	reply bool
}

// IsReply tells whether the packet goes toward who has opened its flow.
func (v *Verdict) IsReply() bool { return v.reply }

// GuestPolicy is what an Engine needs of a guest.
type GuestPolicy struct {
	Guest  *Guest
	Policy *Policy
}

// Engine decides by state, rules and limits. It is immutable but for flow tables and meters, which are safe for concurrent use: so
// is Decide. It allocates nothing per packet, but for flows that are new.
type Engine struct {
	guests []guestEngine // by Guest.ID
	host   chainEngine   // from guests to dom0; no matcher: there is no host block
	chains []chainInfo
	budget *FlowBudget
	bySide map[Side]*Guest
	pickUp *atomic.Int64 // until when, see PickUp; of all engines that follow one another
}

type guestEngine struct {
	guest           *Guest
	shadow          bool
	offers          bool // its flows to a tier
	egress, ingress chainEngine
	limits          Limits
	flows           int // at most
	meter           *Meter
	table           *FlowTable
}

type chainEngine struct {
	matcher *Matcher
	first   RuleID // of the default; rules follow
}

type chainInfo struct {
	policy, chain string
	Chain
	first RuleID
}

// NewEngine compiles the policies of guests, in the order of their IDs, and the host block's ingress chain (nil: none). A policy that several
// guests have is compiled once; each has its own flows and limits. There are at most flows of all guests together, half of which are kept for the
// guests in equal shares: none is without because others have many.
func NewEngine(guests []GuestPolicy, host *Chain, flows int) (*Engine, error) {
	e := &Engine{budget: NewFlowBudget(flows), bySide: map[Side]*Guest{}, pickUp: new(atomic.Int64)}
	if err := e.compile(guests, host, nil); err != nil {
		return nil, err
	}
	e.share(func(*guestEngine, int) bool { return true })
	return e, nil
}

// share gives the guests their part of the budget, where change is true.
func (e *Engine) share(change func(g *guestEngine, n int) bool) {
	for i := range e.guests {
		g := &e.guests[i]
		if n := min(e.budget.Max()/(2*len(e.guests)), g.flows); change(g, n) {
			g.table.Reserve(n)
		}
	}
}

// compile fills an engine; old is nil for the first one.
func (e *Engine) compile(guests []GuestPolicy, host *Chain, old *Engine) error {
	prefixes := map[string][]netip.Prefix{}
	for _, g := range guests {
		prefixes[g.Guest.Name] = append(prefixes[g.Guest.Name], g.Guest.Addrs...)
		if group := g.Guest.Group; group != "" && group != g.Guest.Name {
			prefixes[group] = append(prefixes[group], g.Guest.Addrs...)
		}
	}
	compile := func(name, chain string, c Chain) (chainEngine, error) {
		m, err := CompileChain(c, func(name string) []netip.Prefix { return prefixes[name] })
		if err != nil {
			return chainEngine{}, fmt.Errorf("compiling %s of %s: %w", chain, name, err)
		}
		first := RuleID(1)
		if n := len(e.chains); n > 0 {
			last := e.chains[n-1]
			first = last.first + RuleID(len(last.Rules)) + 1
		}
		e.chains = append(e.chains, chainInfo{name, chain, c, first})
		return chainEngine{m, first}, nil
	}
	compiled := map[*Policy][2]chainEngine{}
	for i, g := range guests {
		if g.Guest.ID != i {
			return fmt.Errorf("guest %q is number %d, not %d", g.Guest.Name, g.Guest.ID, i)
		}
		if g.Guest.Side < SideGuest || e.bySide[g.Guest.Side] != nil {
			return fmt.Errorf("guest %q has side %d, which is not its own", g.Guest.Name, g.Guest.Side)
		}
		c, ok := compiled[g.Policy]
		if !ok {
			for d, chain := range []Chain{g.Policy.Egress, g.Policy.Ingress} {
				var err error
				if c[d], err = compile(g.Policy.Name, []string{"egress", "ingress"}[d], chain); err != nil {
					return err
				}
			}
			compiled[g.Policy] = c
		}
		ge := guestEngine{guest: g.Guest, shadow: g.Policy.Mode == Shadow, egress: c[Egress], ingress: c[Ingress], limits: g.Policy.Limits, flows: int(g.Policy.Limits.Flows)}
		if ge.flows == 0 {
			ge.flows = DefaultFlows
		}
		ge.state(e.budget, old.of(g.Guest.Side))
		e.guests = append(e.guests, ge)
		e.bySide[g.Guest.Side] = g.Guest
	}
	if host != nil {
		var err error
		if e.host, err = compile("host", "ingress", *host); err != nil {
			return err
		}
	}
	return nil
}

// of is what an engine, which may be nil, has of the guest of a side, or nil.
func (e *Engine) of(s Side) *guestEngine {
	if e == nil || e.bySide[s] == nil {
		return nil
	}
	return &e.guests[e.bySide[s].ID]
}

// state gives a guest its flows and limits: those that it had, if any.
func (g *guestEngine) state(budget *FlowBudget, old *guestEngine) {
	if old != nil && old.limits == g.limits {
		g.meter, g.table = old.meter, old.table
		return
	}
	g.meter = new(Meter)
	g.meter.Set(g.limits)
	if old == nil {
		g.table = NewFlowTable(g.flows, budget)
		return
	}
	g.meter.follow(old.meter)
	g.table = old.table
}

// Guest is the guest of a side, or nil.
func (e *Engine) Guest(s Side) *Guest { return e.bySide[s] }

// Meter is what a guest's limits count.
func (e *Engine) Meter(g *Guest) *Meter { return e.guests[g.ID].meter }

// Flows is the table of a guest's flows; Budget bounds all of them.
func (e *Engine) Flows(g *Guest) *FlowTable { return e.guests[g.ID].table }

// Budget is that of all flow tables.
func (e *Engine) Budget() *FlowBudget { return e.budget }

// Rule tells what a RuleID stands for.
func (e *Engine) Rule(id RuleID) (RuleInfo, bool) {
	for _, c := range e.chains {
		i := int(id) - int(c.first)
		if id == 0 || i < 0 || i > len(c.Rules) {
			continue
		}
		info := RuleInfo{Policy: c.policy, Chain: c.chain, Source: c.Source}
		if i > 0 {
			info.Rule, info.Source = c.Rules[i-1].Name, c.Rules[i-1].Source
		}
		return info, true
	}
	return RuleInfo{}, false
}

// A flow's Verdict is the rule that admitted it; or, with one of these bits, the one that would have refused it if its policy were not in
// shadow mode, and whose that is.
const (
	wouldEgress  = 1 << 31 // of who has opened the flow
	wouldIngress = 1 << 30 // of whom it was opened to
)

// Decide tells what becomes of a packet on its way between two ends, at the monotonic time now. At least one of them is a guest.
//
// Limits count what state and rules let pass. What the sender's limit refuses costs the receiver nothing, and what any limit refuses opens no
// flow and keeps none alive; what the receiver's limit refuses has cost the sender its share, so that nobody competes for his neighbour's with more
// than his own.
//
// In shadow mode flows are made as otherwise, in the same tables of the same size, so that the other end finds its connection: one end's mode
// changes nothing about what the other end's policy admits. Would is told for each packet from who has opened the flow; not for answers, of which
// there would have been none.
func (e *Engine) Decide(p *Packet, from, to End, now time.Duration) Verdict {
	v := Verdict{Action: Accept}
	metered := false
	owner, known := e.state(&v, p, from, to, now, func() Reason {
		metered = true
		e.meter(&v, p, from, to, nil, now)
		return v.Reason
	})
	if v.Action == Accept && !known {
		metered = true
		e.open(&v, p, from, to, owner, now)
	}
	if v.Action == Accept && !metered {
		e.meter(&v, p, from, to, nil, now)
	}
	return v
}

// state looks for the flow that a packet belongs to, in the tables of both ends' guests; the owner is whose table a new one goes into. A
// flow that refuses the packet decides, and so does admit, which the flow asks. Both tables know one where it was opened again from the other
// side: the one that has ended refuses what the other admits.
func (e *Engine) state(v *Verdict, p *Packet, from, to End, now time.Duration, admit func() Reason) (owner *guestEngine, known bool) {
	var found FlowHit
	if e.overlaps(p, from, to, now) {
		e.unfit(v, from, to, FragmentOverlap)
		return nil, true
	}
	for _, end := range [2]End{from, to} {
		if end.Guest == nil {
			continue
		}
		g := &e.guests[end.Guest.ID]
		if owner == nil {
			owner = g
		}
		hit, ok := g.table.LookupIf(p, from.Side(), to.Side(), now, admit)
		if !ok && p.IsICMPError() && p.L4 != 0 {
			hit, ok = g.table.related(p, from.Side(), to.Side(), now)
		}
		if ok && (!known || hit.Reason == None) {
			found, known = hit, true
			v.table, v.flow, v.reply = g.table, hit.Ref, hit.Reply
		}
		if known && (found.Reason == None || v.Action != Accept) {
			break
		}
	}
	if known && v.Action == Accept && (found.Reason == None || e.unfit(v, from, to, found.Reason)) {
		v.follow(&found, from, to)
	}
	if found.Reason != None || from.Guest != nil && to.Guest != nil || found.Verdict&(wouldEgress|wouldIngress) != 0 || p.IsICMPError() {
		v.table = nil
	}
	return owner, known
}

// overlaps tells whether a first fragment is of a datagram whose other first fragment has passed, by the flow of another table than its own: each
// table tells by itself whether fragments of its own flows overlap.
func (e *Engine) overlaps(p *Packet, from, to End, now time.Duration) (bad bool) {
	if !p.Fragment || p.L4 == 0 || from.Guest == nil || to.Guest == nil {
		return false
	}
	for _, end := range [2]End{from, to} {
		bad = e.guests[end.Guest.ID].table.Overlaps(p, from.Side(), now) || bad
	}
	return bad
}

// follow takes what a flow knows of the rules for its packets.
func (v *Verdict) follow(hit *FlowHit, from, to End) {
	rule := RuleID(hit.Verdict &^ (wouldEgress | wouldIngress))
	switch {
	case hit.Verdict == uint32(rule):
		v.Rule = rule
	case hit.Reply:
	case hit.Verdict&wouldEgress != 0:
		v.Would, v.WouldRule, v.WouldBlame = EgressPolicy, rule, from.Guest // before any limit, as rules come first
	default:
		v.Would, v.WouldRule, v.WouldBlame = IngressPolicy, rule, to.Guest
	}
}

// open asks the rules about a packet without a flow, then the limits, and makes one.
func (e *Engine) open(v *Verdict, p *Packet, from, to End, owner *guestEngine, now time.Duration) {
	var unfit Reason
	switch {
	case p.L4 == 0:
		unfit = FragmentOrphan
	case p.IsICMPError():
		unfit = Unrelated
	case p.isEchoReply():
		unfit = NoFlow
	case !e.ask(v, p.Query(from.Zone, to.Zone), from, to):
		return
	default:
		unfit = p.opens()
	}
	pickUp := unfit == NoFlow && now < e.PicksUp() && p.continues()
	if pickUp {
		unfit = None
	}
	if unfit != None {
		if e.unfit(v, from, to, unfit) {
			e.meter(v, p, from, to, nil, now)
		}
		return
	}
	verdict := v.ofFlow()
	if !e.meter(v, p, from, to, owner, now) {
		return
	}
	switch _, r := owner.table.create(p, from.Side(), to.Side(), verdict, 0, now, pickUp); r {
	case None:
	case FlowLimit:
		v.refuse(owner, Drop, r, 0)
	default:
		e.unfit(v, from, to, r)
	}
}

// ofFlow is the Verdict of a flow that rules have admitted.
func (v *Verdict) ofFlow() uint32 {
	switch v.Would {
	case EgressPolicy:
		return uint32(v.WouldRule) | wouldEgress
	case IngressPolicy:
		return uint32(v.WouldRule) | wouldIngress
	}
	return uint32(v.Rule)
}

// Rule is the rule that has admitted the flow; 0: none, such as what was picked up. shadow says that it would have refused the flow if its policy were not
// in shadow mode.
func (f *Flow) Rule() (id RuleID, shadow bool) {
	const would = wouldEgress | wouldIngress
	return RuleID(f.Verdict &^ would), f.Verdict&would != 0
}

// ask asks the rules of both ends.
func (e *Engine) ask(v *Verdict, q Query, from, to End) bool {
	if from.Guest != nil {
		g := &e.guests[from.Guest.ID]
		if a, id := g.egress.match(&q); a != Accept && !v.refuse(g, a, EgressPolicy, id) {
			return false
		} else if a == Accept {
			v.Rule = id
		}
	}
	switch to.Zone {
	case ZoneGuest:
		g := &e.guests[to.Guest.ID]
		if a, id := g.ingress.match(&q); a != Accept && !v.refuse(g, a, IngressPolicy, id) {
			return false
		} else if a == Accept {
			v.Rule = id
		}
	case ZoneHost:
		if e.host.matcher == nil {
			return v.refuse(nil, Drop, HostPolicy, 0)
		}
		a, id := e.host.match(&q)
		if a != Accept {
			return v.refuse(nil, a, HostPolicy, id)
		}
		v.Rule = id
	}
	return true
}

// RuleVerdict is what one chain says of a packet.
type RuleVerdict struct {
	Rule   RuleID
	Action Action
}

// Rules are what the chains on a packet's way say of it when it has no flow, in the order in which Decide asks them: the sender's egress, then
// the receiver's ingress or the host block's. The first that does not accept decides, unless its policy is in shadow mode.
func (e *Engine) Rules(p *Packet, from, to End) (list []RuleVerdict) {
	q := p.Query(from.Zone, to.Zone)
	ask := func(c *chainEngine) {
		a, id := c.match(&q)
		list = append(list, RuleVerdict{id, a})
	}
	if from.Guest != nil {
		ask(&e.guests[from.Guest.ID].egress)
	}
	switch {
	case to.Guest != nil:
		ask(&e.guests[to.Guest.ID].ingress)
	case to.Zone == ZoneHost && e.host.matcher != nil:
		ask(&e.host)
	}
	return list
}

// Query is what rules look at in a packet on its way between two zones.
func (p *Packet) Query(from, to Zone) Query {
	return Query{Src: p.Src, Dst: p.Dst, SrcZone: from, DstZone: to, Proto: p.Proto, DstPort: p.DstPort, HasPort: p.L4 != 0 && RulePorts(int(p.Proto))}
}

// Forget ends all flows.
func (e *Engine) Forget() {
	for i := range e.guests {
		for next := uint32(0); ; {
			if next = e.guests[i].table.DeleteIf(next, SweepStep, func(*Flow) bool { return true }); next == 0 {
				break
			}
		}
	}
}

// unfit refuses what fits no flow. Each guest whose policy is in force, and dom0 as a receiver, wants a flow: one end in shadow mode does
// not excuse the other.
func (e *Engine) unfit(v *Verdict, from, to End, r Reason) bool {
	for _, end := range [2]End{from, to} {
		if end.Guest != nil && !v.refuse(&e.guests[end.Guest.ID], Drop, r, 0) {
			return false
		}
	}
	return to.Zone != ZoneHost || v.refuse(nil, Drop, r, 0)
}

// meter counts a packet that passes against the limits of both ends' guests, the sender's first; one that opens a flow also against its owner's.
func (e *Engine) meter(v *Verdict, p *Packet, from, to End, owner *guestEngine, now time.Duration) bool {
	for d, end := range [2]End{Egress: from, Ingress: to} {
		if end.Guest == nil {
			continue
		}
		g := &e.guests[end.Guest.ID]
		if r := g.meter.Admit(p, Direction(d), g == owner, now); r != None && !v.refuse(g, Drop, r, 0) {
			return false
		}
	}
	return true
}

// refuse notes a refusal by a guest's policy, or by the host block's for nil. It tells whether the packet goes on all the same, as in
// shadow mode: the first thing that would have stopped it is kept.
func (v *Verdict) refuse(g *guestEngine, a Action, r Reason, id RuleID) bool {
	if g != nil && g.shadow {
		if v.Would == None {
			v.Would, v.WouldRule, v.WouldBlame = r, id, g.guest
		}
		return true
	}
	v.Action, v.Reason, v.Rule = a, r, id
	if g != nil {
		v.Blame = g.guest
	}
	return false
}

func (c *chainEngine) match(q *Query) (Action, RuleID) {
	a, i := c.matcher.Match(q)
	return a, c.first + RuleID(i+1)
}
