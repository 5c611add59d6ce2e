// Command soak runs the router in a whole network for a long time, with everything going on at once that an administrator, guests and a provider do:
//
//	go run ./integration/soak -time 2h
//
// It is for Linux and root. 254 guests in namespaces (package lab) talk with the internet, with each other and with dom0 by TCP, UDP and ICMP; some of
// them forge. Guests of hotplug come and go, the file is read anew, the uplink goes down and up, its MTU changes, and the provider's router gets another
// MAC. It holds when, through all that,
//
//   - no guest that behaves loses its connection;
//   - no frame with a foreign MAC leaves, by the router's own count and by what the provider's router sees;
//   - no forgery comes to the provider's router or, past the router or by it, to another guest, as witnesses there see;
//   - no defect is met, and the process neither ends nor holds more memory, goroutines, threads or descriptors at the end than it did at first, nor at any
//     time more than a ceiling;
//   - of each kind of traffic nearly all succeeds while nothing is disturbed, and little less while the uplink or the bridge are;
//   - everybody is served at the end.
//
// The report is Markdown, with plots of memory, goroutines, flows, packets and drops beside it. What comes of the same -seed is the same in what is
// done, not in when.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
	"udrouter/integration/tool"
)

func main() { tool.Main("soak", run) }

// options are the command line's.
type options struct {
	time   time.Duration
	guests int
	seed   uint64
	dir    string // for report and plots; "": none is written
	exe    string // "": this source's is built
}

func parse(args []string, out io.Writer) (o options, err error) {
	f := flag.NewFlagSet("soak", flag.ContinueOnError)
	f.SetOutput(out)
	f.DurationVar(&o.time, "time", 30*time.Minute, "how long")
	f.IntVar(&o.guests, "guests", 254, "how many guests, those of hotplug among them")
	f.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "what events are drawn from")
	f.StringVar(&o.dir, "out", "", "write the report and its plots to a `directory`")
	f.StringVar(&o.exe, "program", "", "the udrouter to run (default: that of this source)")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 || o.time <= 0 || o.guests < 2*comers || o.guests > 254 {
		return o, fmt.Errorf("no arguments; -time is above 0, -guests is from %d to 254", 2*comers)
	}
	return o, nil
}

func run(ctx context.Context, args []string, out, progress io.Writer) (err error) {
	o, err := parse(args, progress)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("namespaces need root")
	}
	if o.exe == "" {
		dir, err := os.MkdirTemp("", "udrouter-soak-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		o.exe = filepath.Join(dir, "udrouter")
		// The revision is part of the report, whatever GOFLAGS says.
		if text, err := exec.CommandContext(ctx, "go", "build", "-buildvcs=auto", "-o", o.exe, "udrouter/cmd/udrouter").CombinedOutput(); err != nil {
			return fmt.Errorf("building udrouter: %w\n%s", err, text)
		}
	}
	s, err := newSoak(ctx, o, progress)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.run(ctx); err != nil {
		return err
	}
	if err := s.write(out); err != nil {
		return err
	}
	if n := len(s.complaints); n > 0 {
		return fmt.Errorf("%d things did not hold", n)
	}
	return nil
}
