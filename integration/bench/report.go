package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"udrouter/integration/tool"
)

// report is all that a run found out.
type report struct {
	Facts   []fact
	Names   []string // of the contestants
	Base    int      // the index of the one that the others are held against
	Rows    []row
	Scaling []scaled
	Reloads *reloaded // nil: not measured
}

// fact is something about the machine, or about the run.
type fact struct{ Name, Text string }

// facts are those of this machine and the programs.
func facts(o options) ([]fact, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, os.NewSyscallError("uname", err)
	}
	list := []fact{
		{"CPU", fmt.Sprintf("%s, %d cores", cpuModel(), runtime.NumCPU())},
		{"kernel", "Linux " + unix.ByteSliceToString(u.Release[:])},
		{"Go", runtime.Version()},
		{"date", time.Now().UTC().Format(time.DateOnly)},
		{"load", loadAverage() + " before the run"},
		{"method", fmt.Sprintf("median of %d rounds of %s each; datagrams by %d sender(s)", o.n, o.time, o.senders)},
	}
	for _, p := range o.programs {
		list = append(list, fact{p.name, tool.Revision(p.path)})
	}
	return list, nil
}

func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// loadAverage is how many processes wanted a processor, on average of 1, 5 and 15 minutes: with others about, figures say less.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if f := strings.Fields(string(text)); err == nil && len(f) > 3 {
		return strings.Join(f[:3], " ")
	}
	return "unknown"
}

// write writes the report as a table: each contestant's median, and but for the base its ratio to the base with the range that the rounds
// have.
func (r *report) write(w io.Writer) error {
	for _, f := range r.Facts {
		fmt.Fprintf(w, "%s: %s\n", f.Name, f.Text)
	}
	if len(r.Rows) > 0 {
		fmt.Fprintln(w)
		if err := r.writeRows(w); err != nil {
			return err
		}
	}
	for _, s := range r.Scaling {
		fmt.Fprintln(w)
		if err := s.write(w); err != nil {
			return err
		}
	}
	if r.Reloads != nil {
		fmt.Fprintln(w)
		return r.Reloads.write(w)
	}
	return nil
}

func (r *report) writeRows(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "figure\tunit\t%s", strings.Join(r.Names, "\t"))
	for i, name := range r.Names {
		if i != r.Base {
			fmt.Fprintf(t, "\t%s / %s", name, r.Names[r.Base])
		}
	}
	fmt.Fprintln(t)
	for _, row := range r.Rows {
		fmt.Fprintf(t, "%s\t%s", row.name, row.unit)
		for _, v := range row.values {
			fmt.Fprintf(t, "\t%s", number(median(v)))
		}
		for i, v := range row.values {
			if i != r.Base {
				fmt.Fprintf(t, "\t%s", ratios(v, row.values[r.Base]))
			}
		}
		fmt.Fprintln(t)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, l := range r.differences() {
		fmt.Fprintln(w, l)
	}
	return nil
}

// String is the median with the range.
func (r ratio) String() string {
	if r.median != r.median {
		return "-"
	}
	return fmt.Sprintf("%.2f (%.2f-%.2f)", r.median, r.min, r.max)
}

// baseOf is the contestant that the others are held against: the first if the usual one is not there.
func baseOf(names []string) int { return max(slices.Index(names, base), 0) }
