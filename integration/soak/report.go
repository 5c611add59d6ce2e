package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"udrouter/integration/plot"
	"udrouter/policy"
	"udrouter/router"
)

// sample is what the router holds and has done at a time.
type sample struct {
	at             time.Duration
	status         router.Status
	rss            uint64 // bytes
	files, threads int
}

// often is the time between two samples; a long run has at most about a thousand.
func (s *soak) often() time.Duration { return max(time.Second, s.time/1000) }

func (s *soak) sampling(ctx context.Context) error {
	tick := time.NewTicker(s.often())
	defer tick.Stop()
	for {
		if err := s.sample(context.WithoutCancel(ctx)); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.proc.Exited():
			return fmt.Errorf("the router has ended: %w", s.proc.Stop())
		case <-tick.C:
		}
	}
}

func (s *soak) sample(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	p := sample{at: time.Since(s.started)}
	if p.status, err = s.status(ctx); err != nil {
		return err
	}
	m, err := s.proc.RSS()
	if err != nil {
		return err
	}
	p.rss = m.RSS
	for name, n := range map[string]*int{"fd": &p.files, "task": &p.threads} {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/%s", s.proc.PID(), name))
		if err != nil {
			return err
		}
		*n = len(entries)
	}
	s.samples = append(s.samples, p)
	return nil
}

// What a router may hold more in the end than after a third of the time, when everything has happened once.
const (
	moreMemory     = 64 << 20 // bytes
	moreGoroutines = 16
	moreThreads    = 8
	moreFiles      = 8
)

// judge looks at the samples.
func (s *soak) judge() {
	first, last := s.samples[len(s.samples)/3], s.samples[len(s.samples)-1]
	for _, c := range []struct {
		what                string
		first, last, allows uint64
	}{
		{"bytes of memory", first.rss, last.rss, moreMemory},
		{"goroutines", first.status.Process.Goroutines, last.status.Process.Goroutines, moreGoroutines},
		{"threads", uint64(first.threads), uint64(last.threads), moreThreads},
		{"descriptors", uint64(first.files), uint64(last.files), moreFiles},
	} {
		if c.last > c.first+c.allows {
			s.complain("%d %s at the end, %d after a third of the time", c.last, c.what, c.first)
		}
	}
	st := last.status
	if st.ForeignMAC != 0 {
		s.complain("the router has kept %d frames with a foreign MAC off the uplink", st.ForeignMAC)
	}
	if n := st.Drops[policy.Internal.String()]; n != 0 {
		s.complain("%d defects were met", n)
	}
	if forged := s.done["forged frames"]; forged != nil && forged.well.Load() > 100 && st.Drops[policy.IPBinding.String()] == 0 {
		s.complain("%d forged frames were sent, and none has an address that is not its guest's", forged.well.Load())
	}
	if st.Flows.Active > st.Flows.Max {
		s.complain("%d flows, of at most %d", st.Flows.Active, st.Flows.Max)
	}
	if forged := s.done["forged frames"]; forged != nil && forged.ill.Load() > fewLost && forged.well.Load()*100 < forged.all()*calmBound {
		s.complain("%d of %d forged frames could not be sent", forged.ill.Load(), forged.all())
	}
	s.judgeTraffic()
}

// plots are the figures over time, by file name.
func (s *soak) plots() map[string][]byte {
	var times []float64
	for _, p := range s.samples {
		times = append(times, p.at.Seconds())
	}
	values := func(f func(sample) float64) (list []float64) {
		for _, p := range s.samples {
			list = append(list, f(p))
		}
		return list
	}
	// rate is how much a counter has grown a second.
	rate := func(f func(sample) float64) []float64 {
		list := values(f)
		for i := len(list) - 1; i > 0; i-- {
			list[i] = max(list[i]-list[i-1], 0) / max(times[i]-times[i-1], 0.001)
		}
		list[0] = 0
		return list
	}
	packets := func(link int) func(sample) float64 {
		return func(p sample) float64 { return float64(p.status.Links[link].RxPackets) }
	}
	series := func(name string, v []float64) plot.Series { return plot.Series{Name: name, Values: v} }
	out := map[string][]byte{
		"memory.svg": plot.Lines("Memory in bytes", times, series("resident", values(func(p sample) float64 { return float64(p.rss) })),
			series("heap", values(func(p sample) float64 { return float64(p.status.Process.Heap) }))),
		"goroutines.svg": plot.Lines("What the process holds", times, series("goroutines", values(func(p sample) float64 { return float64(p.status.Process.Goroutines) })),
			series("threads", values(func(p sample) float64 { return float64(p.threads) })), series("descriptors", values(func(p sample) float64 { return float64(p.files) }))),
		"flows.svg":   plot.Lines("Flows", times, series("active", values(func(p sample) float64 { return float64(p.status.Flows.Active) }))),
		"packets.svg": plot.Lines("Packets per second", times, series("from guests", rate(packets(0))), series("from the uplink", rate(packets(1)))),
	}
	var drops []plot.Series
	for _, reason := range s.mostDropped() {
		drops = append(drops, series(reason, rate(func(p sample) float64 { return float64(p.status.Drops[reason]) })))
	}
	out["drops.svg"] = plot.Lines("Drops per second, the most frequent reasons", times, drops...)
	return out
}

func (s *soak) mostDropped() []string {
	drops := s.samples[len(s.samples)-1].status.Drops
	list := slices.Sorted(maps.Keys(drops))
	slices.SortStableFunc(list, func(a, b string) int { return int(drops[b]) - int(drops[a]) })
	return list[:min(len(list), plot.Colors)]
}

// write writes the report to out, and with its plots to the directory that was asked for.
func (s *soak) write(out io.Writer) error {
	text := s.report()
	if _, err := out.Write(text); err != nil || s.dir == "" {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	files := s.plots()
	var links bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(&links, "\n![%s](%s)\n", strings.TrimSuffix(name, ".svg"), name)
	}
	files["report.md"] = append(text, links.Bytes()...)
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(s.dir, name), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (s *soak) report() []byte {
	var b bytes.Buffer
	last := s.samples[len(s.samples)-1]
	fmt.Fprintf(&b, "# Soak of %v with %d guests, %d of them by hotplug\n\nudrouter %s, seed %d.\n\n", s.time, s.guests, comers, last.status.Version, s.seed)
	if len(s.complaints) == 0 {
		fmt.Fprintf(&b, "All held: %d connections went on from beginning to end, and no foreign MAC was seen.\n", len(s.conns))
	}
	for _, c := range s.complaints {
		fmt.Fprintf(&b, "- **%s**\n", c)
	}
	fmt.Fprintf(&b, "\n| what | went well | came to nothing |\n|---|--:|--:|\n")
	for _, what := range slices.Sorted(maps.Keys(s.done)) {
		fmt.Fprintf(&b, "| %s | %d | %d |\n", what, s.done[what].well.Load(), s.done[what].ill.Load())
	}
	b.WriteString(s.trafficTable())
	fmt.Fprintf(&b, "\n| what it holds | first | most | at the end |\n|---|--:|--:|--:|\n")
	for _, row := range []struct {
		what string
		of   func(sample) uint64
	}{
		{"resident memory, MiB", func(p sample) uint64 { return p.rss >> 20 }},
		{"heap, MiB", func(p sample) uint64 { return p.status.Process.Heap >> 20 }},
		{"goroutines", func(p sample) uint64 { return p.status.Process.Goroutines }},
		{"threads", func(p sample) uint64 { return uint64(p.threads) }},
		{"descriptors", func(p sample) uint64 { return uint64(p.files) }},
		{"flows", func(p sample) uint64 { return uint64(p.status.Flows.Active) }},
	} {
		most := uint64(0)
		for _, p := range s.samples {
			most = max(most, row.of(p))
		}
		fmt.Fprintf(&b, "| %s | %d | %d | %d |\n", row.what, row.of(s.samples[0]), most, row.of(last))
	}
	fmt.Fprintf(&b, "\n| dropped for | packets |\n|---|--:|\n")
	for _, reason := range slices.Sorted(maps.Keys(last.status.Drops)) {
		fmt.Fprintf(&b, "| `%s` | %d |\n", reason, last.status.Drops[reason])
	}
	return b.Bytes()
}
