// Command fuzz runs each fuzz target of the module in turn:
//
//	go run ./integration/fuzz
//
// It finds the targets by itself, in every package, gives each the same time, and ends with a table. A target that has failed has left the input that
// did it in its package's testdata/fuzz, where `go test` finds it; the others are run all the same. Some targets need root, as their tests do.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"udrouter/integration/tool"
)

func main() { tool.Main("fuzz", run) }

// run fuzzes what args select, in the module of the working directory. progress gets what the targets say.
func run(ctx context.Context, args []string, out, progress io.Writer) error {
	f := flag.NewFlagSet("fuzz", flag.ContinueOnError)
	f.SetOutput(progress)
	each := f.String("time", "10m", "how long each target is run, or how often, as 1000x")
	only := f.String("run", "", "only targets whose PACKAGE.NAME matches this regular `expression`")
	skip := f.String("skip", "", "but for those that match this regular `expression`")
	if err := f.Parse(args); err != nil {
		return err
	}
	packages := f.Args()
	if len(packages) == 0 {
		packages = []string{"./..."}
	}
	match, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	targets, err := find(ctx, packages, match)
	if err != nil {
		return err
	}
	if *skip != "" {
		no, err := regexp.Compile(*skip)
		if err != nil {
			return fmt.Errorf("-skip: %w", err)
		}
		targets = slices.DeleteFunc(targets, func(t target) bool { return no.MatchString(t.String()) })
	}
	if len(targets) == 0 {
		return fmt.Errorf("no fuzz target in %s matches %q", strings.Join(packages, " "), *only)
	}
	var results []result
	failed := 0
	for i, t := range targets {
		fmt.Fprintf(progress, "%d of %d: %s\n", i+1, len(targets), t)
		r := t.fuzzed(ctx, *each, progress)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if r.err != nil {
			failed++
			fmt.Fprintf(progress, "%s\n", r.output)
		}
		results = append(results, r)
	}
	if err := report(out, results); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d targets failed", failed, len(targets))
	}
	return nil
}

// target is a fuzz target of a package.
type target struct{ pkg, name string }

func (t target) String() string { return t.pkg + "." + t.name }

// find asks the packages' tests for the targets that they have.
func find(ctx context.Context, packages []string, match *regexp.Regexp) (list []target, err error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json", "-list", "^Fuzz"}, packages...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	text, err := cmd.Output()
	for d := json.NewDecoder(bytes.NewReader(text)); ; {
		var event struct{ Action, Package, Output string } // of cmd/test2json
		if d.Decode(&event) != nil {
			break
		}
		said.WriteString(event.Output)
		t := target{event.Package, strings.TrimSpace(event.Output)}
		if event.Action == "output" && isTarget.MatchString(t.name) && match.MatchString(t.String()) {
			list = append(list, t)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("listing the targets: %w\n%s", err, said.Bytes())
	}
	return list, nil
}

var isTarget = regexp.MustCompile(`^Fuzz\w*$`)

// result is what became of a target.
type result struct {
	target
	tally
	took   time.Duration
	err    error
	output string // all that it said, where it has failed
}

// tally is what the last of a fuzzer's lines of progress says.
type tally struct {
	execs      string
	found, all string // inputs that reach something new: in this run, and ever
}

var progressLine = regexp.MustCompile(`^fuzz: elapsed: .*, execs: (\d+) .*, new interesting: (\d+) \(total: (\d+)\)`)

func (t *tally) read(line string) {
	if m := progressLine.FindStringSubmatch(line); m != nil {
		*t = tally{m[1], m[2], m[3]}
	}
}

// errUnexecuted is that a target's time went to the inputs that earlier runs have left in Go's cache.
var errUnexecuted = errors.New("its time went to the inputs of earlier runs, and nothing new was executed: give it more (-time)")

// fuzzed is fuzz, with more time where that did not get beyond the inputs of earlier runs.
func (t target) fuzzed(ctx context.Context, each string, progress io.Writer) result {
	r := t.fuzz(ctx, each, progress)
	for long, err := time.ParseDuration(each); err == nil && errors.Is(r.err, errUnexecuted) && long < longest && ctx.Err() == nil; {
		long *= 4
		r = t.fuzz(ctx, long.String(), progress)
	}
	return r
}

// longest is the time of a target from which on it gets no more by itself.
const longest = time.Minute

func (t target) fuzz(ctx context.Context, each string, progress io.Writer) result {
	r := result{target: t}
	start := time.Now()
	cmd := exec.CommandContext(ctx, "go", "test", t.pkg, "-run", "^$", "-fuzz", "^"+t.name+"$", "-fuzztime", each, "-fuzzminimizetime", "100x", "-timeout", "0")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it ends its workers then
	said, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	ended := make(chan error, 1)
	go func() {
		ended <- cmd.Run()
		w.Close()
	}()
	var all strings.Builder
	lines := bufio.NewScanner(said)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		r.tally.read(lines.Text())
		fmt.Fprintln(&all, lines.Text())
		if strings.HasPrefix(lines.Text(), "fuzz: ") {
			fmt.Fprintf(progress, "\t%s\n", lines.Text())
		}
	}
	said.CloseWithError(lines.Err())
	r.err = <-ended
	r.took = time.Since(start)
	// Go says the one or the other, depending on where its time ends.
	if n, _ := strconv.Atoi(r.execs); n == 0 && (r.err == nil || strings.Contains(all.String(), "\n    context deadline exceeded\n")) {
		r.err = errUnexecuted
		fmt.Fprintf(&all, "%v\n", r.err)
	}
	if r.err != nil {
		r.output = all.String()
	}
	return r
}

func report(out io.Writer, results []result) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "target\ttime\texecutions\tnew inputs\tof all\tresult")
	for _, r := range results {
		word := "ok"
		if r.err != nil {
			word = "FAILED"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", r.target, r.took.Round(time.Second), r.execs, r.found, r.all, word)
	}
	return w.Flush()
}
