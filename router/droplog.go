package router

import (
	"cmp"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"udrouter/policy"
)

// logEvery is the least time between two lines about one reason: so much log at most, whatever arrives.
const logEvery = 10 * time.Second

// dropLog says now and then what is being dropped. Counters are exact; the log is a sample.
type dropLog struct {
	since [policy.Reasons]atomic.Uint64
	first [policy.Reasons]atomic.Pointer[DropExample] // of each interval
}

// DropExample is a packet that was dropped, or would have been: one of the last for its reason.
type DropExample struct {
	At        time.Time  `json:"at"`
	Domu      string     `json:"domu"`   // from or for which it was; "": none
	Policy    string     `json:"policy"` // whose rule has decided; "": none has
	Chain     string     `json:"chain"`
	Rule      string     `json:"rule"`    // "default"
	Source    string     `json:"source"`  // file:line
	SrcMAC    string     `json:"src_mac"` // "": the packet was not looked at
	DstMAC    string     `json:"dst_mac"`
	EtherType uint16     `json:"ethertype"`
	Src       netip.Addr `json:"src"` // "": not of IP
	Dst       netip.Addr `json:"dst"`
	Proto     string     `json:"proto"`
	SrcPort   uint16     `json:"src_port"` // 0: none
	DstPort   uint16     `json:"dst_port"`

	// Of ARP and ND, the address that the packet says is at a MAC: ARP's sender, an advertisement's target, or who solicits.
	ClaimedAddr netip.Addr `json:"claimed_addr"` // "": the packet says of none where it is
	ClaimedMAC  string     `json:"claimed_mac"`  // "": an advertisement without a link-layer address
}

// note counts a packet in a log; the first of an interval is described. g and p may be nil; so may be the engine, whose rule has decided, and rule is
// 0 then.
func (r *Router) note(l *dropLog, e *policy.Engine, reason policy.Reason, rule policy.RuleID, g *policy.Guest, p *policy.Packet) {
	r.noteMany(l, 1, e, reason, rule, g, p)
}

// noteMany is note for so many packets of which one is at hand.
func (r *Router) noteMany(l *dropLog, n uint64, e *policy.Engine, reason policy.Reason, rule policy.RuleID, g *policy.Guest, p *policy.Packet) {
	if l.since[reason].Add(n) == n {
		var info policy.RuleInfo
		if rule != 0 {
			info, _ = e.Rule(rule)
		}
		l.describe(reason, info, g, p)
	}
}

// describe keeps what a line says of a packet.
func (l *dropLog) describe(reason policy.Reason, rule policy.RuleInfo, g *policy.Guest, p *policy.Packet) {
	e := &DropExample{At: time.Now()}
	if g != nil {
		e.Domu = g.Name
	}
	if rule.Chain != "" {
		e.Policy, e.Chain, e.Rule, e.Source = rule.Policy, rule.Chain, cmp.Or(rule.Rule, "default"), rule.Source
	}
	if p != nil {
		e.SrcMAC, e.DstMAC, e.EtherType = p.SrcMAC.String(), p.DstMAC.String(), p.EtherType
		if p.Src.IsValid() {
			e.Src, e.Dst, e.Proto = p.Src, p.Dst, policy.ProtoName(int(p.Proto))
			if policy.RulePorts(int(p.Proto)) {
				e.SrcPort, e.DstPort = p.SrcPort, p.DstPort
			}
		}
		e.claims(p)
	}
	l.first[reason].Store(e)
}

// claims keeps what ARP and ND say of who is where (RFC 826, RFC 4861 4.6.1).
func (e *DropExample) claims(p *policy.Packet) {
	switch {
	case p.EtherType == policy.EtherARP && p.ARP.SPA.IsValid():
		e.ClaimedAddr, e.ClaimedMAC = p.ARP.SPA, p.ARP.SHA.String()
	case !p.IsND():
	case p.ICMPType == policy.NeighborAdvertisement, p.ICMPType == policy.RedirectMessage:
		if e.ClaimedAddr = p.ND.Target; p.ND.HasTarget {
			e.ClaimedMAC = p.ND.TargetLL.String()
		}
	case p.ND.HasSource:
		e.ClaimedAddr, e.ClaimedMAC = p.Src, p.ND.SourceLL.String()
	}
}

// args are what a line of the log says.
func (e *DropExample) args() (args []any) {
	if e.Domu != "" {
		args = append(args, "domu", e.Domu)
	}
	if e.Chain != "" {
		args = append(args, "policy", e.Policy, "chain", e.Chain, "rule", e.Rule, "source", e.Source)
	}
	if e.SrcMAC != "" {
		args = append(args, "src_mac", e.SrcMAC, "dst_mac", e.DstMAC, "ethertype", fmt.Sprintf("%#04x", e.EtherType))
	}
	if e.Src.IsValid() {
		args = append(args, "src", e.Src, "dst", e.Dst, "proto", e.Proto)
	}
	if e.SrcPort != 0 || e.DstPort != 0 {
		args = append(args, "src_port", e.SrcPort, "dst_port", e.DstPort)
	}
	if e.ClaimedAddr.IsValid() {
		args = append(args, "claimed_addr", e.ClaimedAddr)
	}
	if e.ClaimedMAC != "" {
		args = append(args, "claimed_mac", e.ClaimedMAC)
	}
	return args
}

// examples are by their reasons' words.
func (l *dropLog) examples() map[string]DropExample {
	m := map[string]DropExample{}
	for i := range l.first {
		if e := l.first[i].Load(); e != nil {
			m[policy.Reason(i).String()] = *e
		}
	}
	return m
}

// write says what there was since it was called last, a line for each reason.
func (l *dropLog) write(log *slog.Logger, what string) {
	for i := range l.since {
		n := l.since[i].Swap(0)
		if n == 0 {
			continue
		}
		args := []any{"reason", policy.Reason(i).String(), "packets", n, "seconds", int(logEvery.Seconds())}
		if first := l.first[i].Load(); first != nil {
			args = append(args, first.args()...)
		}
		log.Info(what, args...)
	}
}
