package router

import (
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"udrouter/policy"
)

// logEvery is the least time between two lines about one reason: so much log at most, whatever arrives.
const logEvery = 10 * time.Second

// dropLog says now and then what is being dropped. Counters are exact; the log is a sample.
type dropLog struct {
	since [policy.Reasons]atomic.Uint64
	first [policy.Reasons]atomic.Pointer[[]any] // of each interval: what a line says of the packet
}

// note counts a packet in a log; the first of an interval is described. g and p may be nil; so may be the engine, whose rule has decided, and rule is
// 0 then.
func (r *Router) note(l *dropLog, e *policy.Engine, reason policy.Reason, rule policy.RuleID, g *policy.Guest, p *policy.Packet) {
	if l.since[reason].Add(1) == 1 {
		var info policy.RuleInfo
		if rule != 0 {
			info, _ = e.Rule(rule)
		}
		l.describe(reason, info, g, p)
	}
}

// describe keeps what a line says of a packet.
func (l *dropLog) describe(reason policy.Reason, rule policy.RuleInfo, g *policy.Guest, p *policy.Packet) {
	var args []any
	if g != nil {
		args = append(args, "domu", g.Name)
	}
	if rule.Chain != "" {
		name := rule.Rule
		if name == "" {
			name = "default"
		}
		args = append(args, "policy", rule.Policy, "chain", rule.Chain, "rule", name, "source", rule.Source)
	}
	if p != nil {
		args = append(args, "src_mac", p.SrcMAC, "dst_mac", p.DstMAC, "ethertype", fmt.Sprintf("%#04x", p.EtherType))
		if p.Src.IsValid() {
			args = append(args, "src", p.Src, "dst", p.Dst, "proto", p.Proto)
		}
	}
	l.first[reason].Store(&args)
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
			args = append(args, *first...)
		}
		log.Info(what, args...)
	}
}
