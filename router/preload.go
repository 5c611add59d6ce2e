package router

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"udrouter/policy"
)

// What takes time in a hand-over is flows: 2 to 5 us each. So the next process loads them while packets pass, and then what has changed meanwhile, and what
// has changed meanwhile again, until that is little: each round takes less time than the one before, unless more packets pass than it can load flows.
const (
	fewFlows  = 5000 // that a last round has, 10 to 25 ms
	maxRounds = 10

	// besideRounds are the first rounds, of most flows, which may take long. The others have to be quick.
	besideRounds = 2

	listStep = 4 * policy.SweepStep // flows to list with the table's lock held: 0.1 to 0.2 ms

	// preloadWait is how long a side waits for a round of the other's, which leaves the processors to packets.
	preloadWait = 2 * time.Minute

	// preloadTime bounds all rounds together: reloads and guests that come wait meanwhile.
	preloadTime = 2 * preloadWait

	// roundAhead is longer than a round takes.
	roundAhead = time.Hour
)

// flowRounds are the flows that the next process has, by the side of their guest.
type flowRounds map[policy.Side]policy.Rounds

// close has nobody note any more what changes.
func (rounds flowRounds) close() {
	for _, r := range rounds {
		r.Close()
	}
}

// list calls f with a copy of each flow that is due, and pause (nil: nobody) now and then without a lock held, for the reasons of policy.Engine.Review. It
// returns how many there were.
func (r *Router) list(rounds flowRounds, f func(*policy.Flow), pause func()) (n int) {
	wd, flows := r.current.Load(), []policy.Flow(nil)
	for _, g := range wd.Guests {
		of, ok := rounds[g.Side]
		if !ok {
			of = wd.engine.Flows(g).Rounds()
			rounds[g.Side] = of
		}
		for from := 0; ; {
			flows, from = of.Some(flows[:0], from, listStep, r.now())
			for i := range flows {
				f(&flows[i])
			}
			if n += len(flows); from == 0 {
				break
			}
			if pause != nil {
				pause()
			}
		}
	}
	return n
}

// preload has the next process load flows as often as it asks for it, until it says freeze, or a time has come.
func (r *Router) preload(p *peer, rounds flowRounds, until time.Time) error {
	for range maxRounds + 1 {
		switch step, err := p.step(min(preloadWait, time.Until(until))); {
		case err != nil:
			return err
		case step == stepFreeze:
			return nil
		case step != stepPreload:
			return fmt.Errorf("%q came instead of %q", step, stepFreeze)
		}
		if err := r.sendSnapshot(p, func(w io.Writer) error { return r.saveRound(w, rounds) }); err != nil {
			return err
		}
	}
	return errors.New("the next process does not come to an end with loading flows")
}

// saveRound writes a snapshot of nothing but the flows that are due, while packets pass.
func (r *Router) saveRound(out io.Writer, rounds flowRounds) error {
	m := snapshotMeta{FlowLen: policy.FlowStateLen, Taken: bootTime(), Ahead: int64(roundAhead)}
	now := r.now() + roundAhead // flows that are used while it is written are not of the future
	for _, g := range r.current.Load().Guests {
		m.Guests = append(m.Guests, snapshotGuest{Name: g.Name, Side: g.Side})
	}
	return m.write(out, now, func(f func(*policy.Flow)) { r.list(rounds, f, func() { time.Sleep(reviewPause) }) })
}

// Preload takes over the flows of a snapshot of size bytes of a router that still runs, as Restore does, before that. It returns how many there were.
func (r *Router) Preload(f io.ReaderAt, size int64) (n int, err error) {
	where := func(f func()) { f() }
	if r.loads++; r.loads <= besideRounds {
		where = beside
	}
	where(func() {
		m, flows, e := readSnapshot(f, size)
		if e != nil {
			err = fmt.Errorf("reading the flows of the router that runs: %w", e)
			return
		}
		n = int(flows.Size()) / policy.FlowStateLen
		all, refused := r.adopt(m, flows)
		r.log.Info("flows of the router that runs were loaded", "flows", n, "refused", refused, "all", all)
	})
	return n, err
}

// Preload loads the flows of the router that runs by load, which closes a snapshot and returns how many flows it had; 0 ends it. So does the end of ctx,
// which is an error.
func (h *Heritage) Preload(ctx context.Context, load func(*os.File) int) error {
	if h.Stored() {
		return nil
	}
	defer context.AfterFunc(ctx, h.p.stop)()
	last, begun := math.MaxInt, time.Now()
	for round := range maxRounds {
		err := h.p.send(takeOverMessage{Step: stepPreload}, nil)
		if err != nil && !ended(err) {
			return err
		}
		f, err := h.p.receiveSnapshot(preloadWait)
		if ended(err) { // Freeze finds out
			return nil
		}
		if err != nil {
			return cmp.Or(context.Cause(ctx), err)
		}
		n := load(f)
		if err := context.Cause(ctx); err != nil {
			return err
		}
		// As many in the first quick round tell only that those before it were slow.
		if n <= fewFlows || round > besideRounds && n > last/4*3 || time.Since(begun) > preloadWait {
			return nil
		}
		last = n
	}
	return nil
}
