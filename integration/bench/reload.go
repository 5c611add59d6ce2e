package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

const (
	reloadFlows   = 1_000_000
	hotFlows      = 1 << 13 // of them every second datagram is
	warmPackets   = 24      // of each, before anything is measured
	reloads       = 3       // in a row
	reloadSetUp   = 3 * time.Minute
	lossFree      = 12 // tries to find a rate at which nothing is lost
	whyNoHeldRate = "datagrams are lost at any rate, without a reload: this machine has too much else to do"
)

// reloadColumns are what there is of each router, in the order in which underReload has them. Gaps are the longest time between two datagrams.
var reloadColumns = []column{
	{"full load: arriving", "kpps", false},
	{"full load: longest gap", "ms", true},
	{"full load, reloads: longest gap", "ms", true},
	{"full load, takeover: longest gap", "ms", true},
	{"held rate", "kpps", false},
	{"held rate: longest gap", "ms", true},
	{"held rate, reloads: lost", "datagrams", true},
	{"held rate, reloads: longest gap", "ms", true},
	{"held rate, takeover: lost", "datagrams", true},
	{"held rate, takeover: longest gap", "ms", true},
	{"longest reload, full load", "ms", true},
	{"longest reload, held rate", "ms", true},
	{"flows afterwards", "", false},
}

// underReload reloads a router, and has another process take over from it, while datagrams pass.
func underReload(w way, size int) measure {
	return measure{
		name:    fmt.Sprintf("reload/%s/%d", w, size),
		columns: reloadColumns,
		setUp:   reloadSetUp,
		run: func(ctx context.Context, c *contestant, d time.Duration) ([]float64, error) {
			up, down, err := numberedUp(c, w.family, size)
			if err != nil {
				return nil, err
			}
			defer up.close()
			defer down.close()
			if err := establish(ctx, up.stream, down); err != nil {
				return nil, err
			}
			return reloadLoaded(ctx, c, up, d)
		},
	}
}

// reloadLoaded has the columns' values.
func reloadLoaded(ctx context.Context, c *contestant, up *numbered, d time.Duration) ([]float64, error) {
	nothing := func() error { return nil }
	if err := up.warm(ctx); err != nil {
		return nil, err
	}
	quiet, err := up.during(ctx, 0, d/2, d/2, nothing)
	if err != nil {
		return nil, err
	}
	var fullTook, heldTook time.Duration
	fullReload, err := up.during(ctx, 0, d/2, d/2, func() (err error) { fullTook, err = c.reload(ctx, d/2); return err })
	if err != nil {
		return nil, err
	}
	fullOver, err := up.during(ctx, 0, d/2, d/2, func() error { return c.takeOver(ctx) })
	if err != nil {
		return nil, err
	}
	pps, held, err := up.holds(ctx, quiet.pps()/2, d)
	if err != nil {
		return nil, err
	}
	heldReload, err := up.during(ctx, pps, d/2, d/2, func() (err error) { heldTook, err = c.reload(ctx, d/2); return err })
	if err != nil {
		return nil, err
	}
	heldOver, err := up.during(ctx, pps, d/2, d/2, func() error { return c.takeOver(ctx) })
	if err != nil {
		return nil, err
	}
	s, err := c.proc.Status(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.knows(ctx, up.flows()); err != nil {
		return nil, fmt.Errorf("after reloads and takeovers: %w", err)
	}
	return []float64{
		quiet.pps() / 1e3, ms(quiet.longest), ms(fullReload.longest), ms(fullOver.longest),
		held.pps() / 1e3, ms(held.longest), float64(heldReload.lost()), ms(heldReload.longest), float64(heldOver.lost()), ms(heldOver.longest),
		ms(fullTook), ms(heldTook), float64(s.Flows.Active),
	}, nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// warm has the first flows pass so often that they are the kernel's where the router has it forward.
func (s *numbered) warm(ctx context.Context) error {
	for came := 0; came < 2*warmPackets*s.hot; {
		t, err := s.during(ctx, 0, 0, settle, func() error { return nil })
		if err != nil {
			return err
		}
		came += t.came
	}
	return nil
}

// holds finds a rate, beginning with one, at which nothing is lost in 2 d.
func (s *numbered) holds(ctx context.Context, pps float64, d time.Duration) (float64, *tally, error) {
	for range lossFree {
		t, err := s.during(ctx, pps, d, d, func() error { return nil })
		if err != nil || t.lost() == 0 {
			return pps, t, err
		}
		pps *= 0.8
	}
	return 0, nil, errors.New(whyNoHeldRate)
}

// reload has the router reload a file that has changed, some times with a pause between them, and returns how long it took at most.
func (c *contestant) reload(ctx context.Context, pause time.Duration) (most time.Duration, err error) {
	file, err := c.lab.ConfigPath()
	if err != nil {
		return 0, err
	}
	for i := range reloads {
		s := c.shape
		s.Rules += (i + 1) % 2
		src, err := s.source()
		if err != nil {
			return 0, err
		}
		if err := os.WriteFile(file, src, 0o644); err != nil {
			return 0, err
		}
		began := time.Now()
		if text, err := c.lab.Dom0.Command(ctx, c.exe, "reload", "--socket", c.proc.Socket).CombinedOutput(); err != nil {
			return 0, fmt.Errorf("reloading: %w\n%s", err, text)
		}
		most = max(most, time.Since(began))
		if err := wait(ctx, pause); err != nil {
			return 0, err
		}
	}
	return most, nil
}

// takeOver starts another process that takes over.
func (c *contestant) takeOver(ctx context.Context) error {
	old := c.proc
	if i := slices.Index(c.args, "--cpuprofile"); i >= 0 { // the old one writes its own when it ends
		c.args[i+1] += ".next"
	}
	next, err := c.lab.StartRouter(ctx, c.exe, append([]string{"--takeover", "--state", old.State, "--socket", old.Socket}, c.args...)...)
	if err != nil {
		return err
	}
	next.State, next.Socket = old.State, old.Socket
	c.proc = next
	select {
	case <-old.Exited():
		return old.Stop() // says whether it ended well
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// reloaded is what reloads and takeovers cost.
type reloaded struct {
	flows int
	names []string // of the contestants
	rows  []row
}

// reloads measures them with each program, all of them up at the same time.
func (o options) reloads(ctx context.Context, rep *report) (err error) {
	m := underReload(way{ipv4, false}, 60)
	if !o.only.MatchString(m.name) {
		return nil
	}
	cs := slices.DeleteFunc(o.contestants(), func(c *contestant) bool { return c.kernel != nil })
	if len(cs) == 0 {
		return fmt.Errorf("no program matches %s", o.among)
	}
	r := &reloaded{flows: o.flows}
	for _, c := range cs {
		c.flows, c.shape.Flows = o.flows, max(c.shape.Flows, 1<<20)
		r.names = append(r.names, c.name)
	}
	var mach machine
	defer func() { err = errors.Join(err, allDown(cs), mach.restore()) }()
	if err := allUp(ctx, cs, &mach, o.progress); err != nil {
		return err
	}
	if r.rows, err = o.rounds.run(ctx, []measure{m}, cs); err == nil {
		rep.Reloads = r
	}
	return err
}

// write writes medians, and behind each the least and the greatest.
func (r *reloaded) write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "with %d flows\tunit\t%s\n", r.flows, strings.Join(r.names, "\t"))
	for _, row := range r.rows {
		fmt.Fprintf(t, "%s\t%s", row.name, row.unit)
		for _, v := range row.values {
			fmt.Fprintf(t, "\t%s (%s-%s)", number(median(v)), number(slices.Min(v)), number(slices.Max(v)))
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}

func (r *reloaded) json() *jsonReloads {
	out := &jsonReloads{Flows: r.flows}
	for _, row := range r.rows {
		f := jsonFigure{Name: row.name, Unit: row.unit, Lower: row.lower, Values: make(map[string]jsonValue)}
		for i, v := range row.values {
			f.Values[r.names[i]] = jsonValue{Rounds: v, Median: median(v)}
		}
		out.Figures = append(out.Figures, f)
	}
	return out
}
