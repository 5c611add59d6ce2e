// Command bench measures udrouter against the kernel.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	if ctx.Err() != nil {
		err = errors.New("interrupted; nothing is left behind")
	}
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the command line's.
type options struct {
	rounds
	programs []program
	only     *regexp.Regexp // measures
	among    *regexp.Regexp // contestants
	scaling  bool
	json     bool
	svg      string // a file, or ""
}

func parse(args []string, out io.Writer) (options, error) {
	o := options{only: regexp.MustCompile(""), among: regexp.MustCompile("")}
	o.progress = out
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(out)
	f.IntVar(&o.n, "rounds", 3, "how often everything is measured")
	f.DurationVar(&o.time, "time", 2*time.Second, "how long a single measurement takes")
	f.BoolVar(&o.scaling, "scaling", false, "measure as well what more guests, rules and flows cost; --only selects by scaling/guests/ and so on")
	f.BoolVar(&o.json, "json", false, "print JSON, with the values of every round")
	f.StringVar(&o.svg, "svg", "", "write a plot of the ratios to a `file`")
	f.Func("only", "measure only what matches this regular `expression`, such as tcp/4", into(&o.only))
	f.Func("contestants", "only those whose name matches this regular `expression`", into(&o.among))
	f.Func("program", "a build of udrouter as `name=path`; may be given several times (default: that of this source)", func(s string) error {
		name, path, ok := strings.Cut(s, "=")
		if !ok || name == "" || path == "" {
			return errors.New("want name=path")
		}
		path, err := filepath.Abs(path)
		o.programs = append(o.programs, program{name, path})
		return err
	})
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 || o.n < 1 || o.time <= 0 {
		return o, errors.New("no arguments; --rounds and --time are above 0")
	}
	return o, nil
}

func into(to **regexp.Regexp) func(string) error {
	return func(s string) (err error) {
		*to, err = regexp.Compile(s)
		return err
	}
}

func run(ctx context.Context, args []string, out, progress io.Writer) (err error) {
	o, err := parse(args, progress)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("namespaces and raw sockets need root")
	}
	if len(o.programs) == 0 {
		dir, err := os.MkdirTemp("", "udrouter-bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		p, err := build(ctx, dir)
		if err != nil {
			return err
		}
		o.programs = append(o.programs, p)
	}
	rep := &report{}
	if rep.Facts, err = facts(o.programs, o.rounds); err != nil {
		return err
	}
	if err := o.usual(ctx, rep); err != nil {
		return err
	}
	if o.scaling {
		if err := o.scale(ctx, rep); err != nil {
			return err
		}
	}
	if len(rep.Rows)+len(rep.Scaling) == 0 {
		return fmt.Errorf("no measure matches %s", o.only)
	}
	if o.svg != "" {
		if err := os.WriteFile(o.svg, rep.plot(), 0o644); err != nil {
			return err
		}
	}
	if o.json {
		return rep.writeJSON(out)
	}
	return rep.write(out)
}

// build builds this module's program.
func build(ctx context.Context, dir string) (program, error) {
	p := program{"udrouter", filepath.Join(dir, "udrouter")}
	// The revision is part of the report, whatever GOFLAGS says.
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=auto", "-o", p.path, "udrouter/cmd/udrouter")
	if text, err := cmd.CombinedOutput(); err != nil {
		return p, fmt.Errorf("building udrouter: %w\n%s", err, text)
	}
	return p, nil
}

// usual measures everything on the usual network.
func (o options) usual(ctx context.Context, rep *report) (err error) {
	list := selected(measures(), o.only)
	cs := o.contestants()
	if len(cs) == 0 {
		return fmt.Errorf("no contestant matches %s", o.among)
	}
	for _, c := range cs {
		rep.Names = append(rep.Names, c.name)
	}
	rep.Base = baseOf(rep.Names)
	if len(list) == 0 && !o.rests() {
		return nil
	}
	defer func() { err = errors.Join(err, allDown(cs)) }()
	if err := allUp(ctx, cs, o.progress); err != nil {
		return err
	}
	restore, err := raiseConntrack(1<<21, 0)
	defer func() { err = errors.Join(err, restore()) }()
	if err != nil {
		return err
	}
	if rep.Rows, err = o.rounds.run(ctx, list, cs); err != nil {
		return err
	}
	if !o.rests() {
		return nil
	}
	rows, err := rest(ctx, cs)
	rep.Rows = append(rep.Rows, rows...)
	return err
}

// contestants are those that the command line asks for.
func (o options) contestants() []*contestant {
	return slices.DeleteFunc(contestants(o.programs), func(c *contestant) bool { return !o.among.MatchString(c.name) })
}

// rests tells whether the programs are to be watched at rest.
func (o options) rests() bool { return o.only.MatchString(restMemory) || o.only.MatchString(restCPU) }
