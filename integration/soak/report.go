package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"udrouter/integration/plot"
	"udrouter/integration/tool"
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

// What a router may hold at any time. Memory is the program's with its rings and queues, each guest's, and each flow's: of less than 256 bytes, and as many
// again before they are collected. None of the others grows with guests or flows, and only workers with processors.
const (
	baseMemory  = 96 << 20  // bytes
	guestMemory = 128 << 10 // bytes
	flowMemory  = 512       // bytes

	mostGoroutines, mostThreads, mostFiles = 48, 16, 40
	perProcessor                           = 8 // more of each
)

// held is one of what a router holds.
type held struct {
	what    string
	of      func(sample) uint64
	more    uint64 // that it may hold in the end than after a third of the time
	ceiling uint64 // of every sample
}

// held lists what is judged.
func (s *soak) held() []held {
	flows := s.most(func(p sample) uint64 { return uint64(p.status.Flows.Active) })
	workers := uint64(runtime.NumCPU()) * perProcessor
	return []held{
		{"bytes of memory", func(p sample) uint64 { return p.rss }, moreMemory, baseMemory + uint64(s.guests)*guestMemory + flows*flowMemory},
		{"goroutines", func(p sample) uint64 { return p.status.Process.Goroutines }, moreGoroutines, mostGoroutines + workers},
		{"threads", func(p sample) uint64 { return uint64(p.threads) }, moreThreads, mostThreads + workers},
		{"descriptors", func(p sample) uint64 { return uint64(p.files) }, moreFiles, mostFiles + workers + uint64(s.guests)}, // a guest's port is watched by a socket,
	}
}

// most is the highest of all samples.
func (s *soak) most(of func(sample) uint64) (n uint64) {
	for _, p := range s.samples {
		n = max(n, of(p))
	}
	return n
}

// judge looks at the samples.
func (s *soak) judge() {
	first, last := s.samples[len(s.samples)/3], s.samples[len(s.samples)-1]
	for _, h := range s.held() {
		if h.of(last) > h.of(first)+h.more {
			s.complain("%d %s at the end, %d after a third of the time", h.of(last), h.what, h.of(first))
		}
		if most := s.most(h.of); most > h.ceiling {
			s.complain("%d %s at a time, the ceiling is %d", most, h.what, h.ceiling)
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
	if forged := s.done["forged frames"]; forged != nil && forged.ill.Load() > calmFew && forged.well.Load()*100 < forged.all()*calmBound {
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
	fmt.Fprintf(&b, "# Soak of %v with %d guests, %d of them by hotplug\n\nudrouter %s, %s, seed %d. It went on for %v until %s, with %d samples.\n\n",
		s.time, s.guests, comers, last.status.Version, tool.Revision(s.exe), s.seed, last.at.Round(time.Second), time.Now().UTC().Format(time.DateOnly), len(s.samples))
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
	fmt.Fprintf(&b, "\n| what it holds | first | most | at the end | ceiling |\n|---|--:|--:|--:|--:|\n")
	for _, h := range append(s.held(),
		held{what: "bytes of heap", of: func(p sample) uint64 { return p.status.Process.Heap }},
		held{what: "flows", of: func(p sample) uint64 { return uint64(p.status.Flows.Active) }, ceiling: uint64(last.status.Flows.Max)}) {
		ceiling := ""
		if h.ceiling > 0 {
			ceiling = fmt.Sprint(h.ceiling)
		}
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %s |\n", h.what, h.of(s.samples[0]), s.most(h.of), h.of(last), ceiling)
	}
	fmt.Fprintf(&b, "\nThe ceiling of memory is %d MiB, and %d KiB for each guest and %d bytes for each of the most flows that there were; that of the others is %d, %d and %d, and %d for each of %d processors, of descriptors one for each guest besides.\n",
		baseMemory>>20, guestMemory>>10, flowMemory, mostGoroutines, mostThreads, mostFiles, perProcessor, runtime.NumCPU())
	fmt.Fprintf(&b, "\n| dropped for | packets |\n|---|--:|\n")
	for _, reason := range slices.Sorted(maps.Keys(last.status.Drops)) {
		fmt.Fprintf(&b, "| `%s` | %d |\n", reason, last.status.Drops[reason])
	}
	return b.Bytes()
}
