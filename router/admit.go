package router

import (
	"udrouter/config"
	"udrouter/policy"
	"udrouter/stack"
)

// maxFlows bounds the flows of all guests together, each of less than 256 bytes.
const maxFlows = policy.DefaultTotalFlows

// newEngine compiles a file's policies for the guests that it binds; old is the engine before it, nil for none.
func newEngine(cfg *config.Config, b *policy.Bindings, old *policy.Engine) (*policy.Engine, error) {
	var guests []policy.GuestPolicy
	for i, g := range b.Guests {
		guests = append(guests, policy.GuestPolicy{Guest: g, Policy: cfg.PolicyFor(&cfg.Domus[i])})
	}
	var host *policy.Chain
	if cfg.Host != nil {
		host = &cfg.Host.Ingress
	}
	if old != nil {
		return old.Next(guests, host)
	}
	return policy.NewEngine(guests, host, maxFlows)
}

// end is where the packet at hand comes from.
func (w *worker) end(from *policy.Guest) policy.End {
	switch w.side {
	case stack.Guests:
		return policy.End{Zone: policy.ZoneGuest, Guest: from}
	case stack.Host:
		return policy.End{Zone: policy.ZoneHost}
	}
	return policy.End{Zone: policy.ZoneUplink}
}

// admit tells whether the policy lets a packet go to an end. If not, it is counted, and its sender told where a rule says so.
func (w *worker) admit(p *policy.Packet, from *policy.Guest, to policy.End) bool {
	v := &w.verdict
	*v = w.world.engine.Decide(p, w.end(from), to, w.now())
	w.countWould(v, p)
	if v.Action == policy.Accept {
		return true
	}
	blame := v.Blame
	if blame == nil {
		blame = from
	}
	w.fate.reason, w.fate.rule = v.Reason, v.Rule
	w.countBy(w.world.engine, v.Rule, blame, v.Reason, p)
	if v.Action == policy.Reject {
		w.reject(p, from)
	}
	return false
}

// countWould counts what a policy in shadow mode would have refused.
func (w *worker) countWould(v *policy.Verdict, p *policy.Packet) {
	if v.Would == policy.None {
		return
	}
	w.fate.would, w.fate.wouldRule = v.Would, v.WouldRule
	w.would[v.Would].Add(1)
	v.WouldBlame.Counters.Would[v.Would].Add(1)
	w.note(&w.wouldLog, w.world.engine, v.Would, v.WouldRule, v.WouldBlame, p)
}

// reject tells the sender of a packet that it was refused: by a reset or by communication administratively prohibited (RFC 1812 5.2.7.1,
// RFC 4443 3.1), as often as errors may be reported.
func (w *worker) reject(p *policy.Packet, from *policy.Guest) {
	if p.Proto != policy.ProtoTCP {
		w.report(p, from, stack.Prohibited)
		return
	}
	if !stack.MayReport(p) || !w.mayReport(p, from, false) {
		return
	}
	if f := stack.BuildReset(p); f != nil {
		w.sendError(f, p, from)
	}
}

// sweep forgets flows that have expired, a bounded number of each guest's at a time.
func (r *Router) sweep() {
	const steps = 64
	wd := r.current.Load()
	for _, g := range wd.Guests {
		for i := 0; i < steps && wd.engine.Flows(g).Sweep(r.now(), policy.SweepStep); i++ {
		}
	}
}
