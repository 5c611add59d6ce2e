package policy

// Next compiles what comes after this engine's policies. Guests of the same Side keep their flows, and what is owed to limits that have not
// changed. The two may be used at the same time, until TakeOver.
func (e *Engine) Next(guests []GuestPolicy, host *Chain) (*Engine, error) {
	next := &Engine{budget: e.budget, bySide: map[Side]*Guest{}, pickUp: e.pickUp}
	return next, next.compile(guests, host, e)
}

// TakeOver ends what the engine before this one has for itself: the flows of guests that are gone, and those for which admits is false, of which it
// is asked when a packet comes for them, or by Review. It may change their Verdict, see Admits. Nobody uses the other engine any more. Review has to be
// through before the next TakeOver.
func (e *Engine) TakeOver(old *Engine, admits func(*Flow) bool) {
	for i := range old.guests {
		if g := &old.guests[i]; e.bySide[g.guest.Side] == nil {
			g.table.Close()
		}
	}
	for i := range e.guests {
		g := &e.guests[i]
		g.table.SetMax(g.flows)
		g.table.Ask(admits)
	}
	// Shares that shrink come first, so that together they never are more than there is.
	e.share(func(g *guestEngine, n int) bool { return n < g.table.share })
	e.share(func(g *guestEngine, n int) bool { return n > g.table.share })
}

// reviewStep is how many flows Review asks about before it lets go of their table, 0.5 to 2 µs each: a pause takes a millisecond where all processors are busy.
const reviewStep = 512

// Review asks about all flows for which no packet has come since TakeOver. Between two steps it holds no lock and calls pause: who only lets go of a lock to
// take it again at once has it before those that wait for it, and packets would hardly pass meanwhile.
func (e *Engine) Review(pause func()) {
	for i := range e.guests {
		for next := uint32(0); ; {
			if next = e.guests[i].table.Review(next, reviewStep); next == 0 {
				break
			}
			pause()
		}
	}
}

// Admits tells whether the rules of both ends admit the packet that has opened a flow, and notes which. The ends are those between which it would
// go now; a flow between others is none that it admits.
func (e *Engine) Admits(f *Flow, from, to End) bool {
	if f.From != from.Side() || f.To != to.Side() {
		return false
	}
	dst := f.Dst()
	q := Query{Src: f.Src().Addr(), Dst: dst.Addr(), SrcZone: from.Zone, DstZone: to.Zone, Proto: f.Key.Proto, DstPort: dst.Port(), HasPort: RulePorts(int(f.Key.Proto))}
	v := Verdict{Action: Accept}
	if !e.ask(&v, q, from, to) {
		return false
	}
	f.Verdict = v.ofFlow()
	return true
}
