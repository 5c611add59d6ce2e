// Command bench measures udrouter against the kernel as a router, in one run:
//
//	go run ./integration/bench
//
// It is for Linux and root. Each contestant has a whole lab of its own (package lab: internet, upstream router, dom0 and guests in
// namespaces), all of them up at the same time:
//
//	kernel       forwarding and proxy NDP, no policy, nothing bound
//	kernel+nft   the same with bindings and the policy in nftables and conntrack: the fair peer, and the base of the ratios
//	udrouter     the program; --program NAME=PATH, given several times, holds builds against each other
//	NAME+ebpf    each program once more, with --offload: the kernel forwards flows that it has decided
//
// They have the same configuration: one guest with an address of each family, and ten rules in each chain of its policy, of which the last
// admits everything. All but the first show, before they are measured, that a forged MAC, a forged source and what a rule drops do not pass. A round does each measure with one contestant right after the other, the next round in reverse order. On a machine
// that does other things as well, or that is itself virtual, only ratios mean something; they are those of each round, and the
// table has their median with the least and the greatest.
//
//	tcp/FAMILY/WAY/FLOWS   throughput of connections between guest and internet, as their receivers count it, and beside it the
//	                       processor time that the whole machine, both ends included, spends on a Gbit
//	udp/FAMILY/WAY/SIZE    datagrams that arrive, of 64 flows, while one thread sends as many as it can; SIZE is the frame's
//	connect/FAMILY/WAY     TCP connections that eight threads open, each one after the other, and that are reset when they are accepted
//	ping/FAMILY/...        echo, guest to internet: half the answers come within p50, 99 of 100 within p99; a lost one counts as 1 s
//	rest/...               the program's memory after all that, and its processor time when nobody uses it
//
// WAY is up, from the guest to the internet, or down; for connect it is who opens. Datagrams are sent and counted with raw sockets,
// in the guest and at the upstream router's link to dom0, so that the way has nothing in it that is not the router's; flows were opened
// and answered before, and the router must know of all of them afterwards. The fewest bytes of an IPv6 datagram are 62.
//
// --scaling measures what more guests, rules and flows cost: throughput is then one guest's, datagrams are spread over all guests
// and flows, and the rule that admits is the last one. Each figure has its ratio to that of the first network. The kernel's rules for
// its guests are a list, as one writes them by hand, which is not the best that nftables could do for hundreds.
//
// --reload measures what a reload and a takeover cost: with a million flows, each answered, numbered datagrams of 60 bytes pass from the guest to the
// internet, of which every second one is of 8192 flows, while the router reloads a file that has changed, three times, and then while another process takes over
// (run --takeover). Once there are as many datagrams as one thread can send, and once a rate at which nothing is lost otherwise: half of what arrived at
// full load, or less until that is so. A gap is the longest time between two that arrive, by the kernel's clock at the receiving link; lost is what was sent and
// never came. A run fails when the receiver misses one, when one comes twice, or when the router knows fewer flows in the end.
//
// Limits. Everything shares the machine's cores: the ends of a connection, a sender that never pauses and the router take them from each
// other, so that a figure is that of the whole way, and one of a machine with more cores may have other ratios. The kernel forwards a
// datagram on the core that sent it: one sender gets one core's worth of it, and --senders says what two get. Links are veth pairs:
// they have no wire, and carry super-packets of TCP whole. The connections' ends are Go programs. Processor time is counted in ticks of
// 1/100 s, that of everything else on the machine included. A router that joins datagrams would be counted too low; this is
// noticed, and ends the run. The kernel's limits of neighbours and tracked connections, which are the machine's, are raised while it
// runs, and put back.
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
	"regexp"
	"slices"
	"strings"
	"time"
	"udrouter/integration/tool"
)

func main() {
	tool.Main("bench", func(ctx context.Context, args []string, out, progress io.Writer) error {
		err := run(ctx, args, out, progress)
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("interrupted: %w", err)
		}
		return err
	})
}

// options are the command line's.
type options struct {
	rounds
	programs []program
	only     *regexp.Regexp // measures
	among    *regexp.Regexp // contestants
	senders  int
	scaling  bool
	reload   bool
	flows    int // that reload is measured with
	json     bool
	svg      string // a file, or ""
	profile  string // a file, or ""
}

func parse(args []string, out io.Writer) (options, error) {
	o := options{only: regexp.MustCompile(""), among: regexp.MustCompile("")}
	o.progress = out
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(out)
	f.IntVar(&o.n, "rounds", 3, "how often everything is measured")
	f.DurationVar(&o.time, "time", 2*time.Second, "how long a single measurement takes")
	f.IntVar(&o.senders, "senders", 1, "how many threads send datagrams")
	f.BoolVar(&o.scaling, "scaling", false, "measure as well what more guests, rules and flows cost; --only selects by scaling/guests/ and so on")
	f.BoolVar(&o.reload, "reload", false, "measure what reloads and takeovers cost under load, and nothing else")
	f.IntVar(&o.flows, "flows", reloadFlows, "how many flows --reload has")
	f.BoolVar(&o.json, "json", false, "print JSON, with the values of every round")
	f.StringVar(&o.svg, "svg", "", "write a plot of the ratios to a `file`")
	f.StringVar(&o.profile, "profile", "", "write where the first program's processor time went to a `file` (go tool pprof), from its start to its end")
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
	if f.NArg() > 0 || o.n < 1 || o.senders < 1 || o.time <= 0 || o.flows < leastFlows {
		return o, fmt.Errorf("no arguments; --rounds, --senders and --time are above 0, --flows is %d or more", leastFlows)
	}
	if o.reload && (o.scaling || o.svg != "") {
		return o, errors.New("--reload measures nothing else: leave --scaling and --svg out")
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
	if rep.Facts, err = facts(o); err != nil {
		return err
	}
	if o.reload {
		err = o.reloads(ctx, rep)
	} else {
		err = o.usual(ctx, rep)
	}
	if err != nil {
		return err
	}
	if o.scaling {
		if err := o.scale(ctx, rep); err != nil {
			return err
		}
	}
	if len(rep.Rows)+len(rep.Scaling) == 0 && rep.Reloads == nil {
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
	var m machine
	defer func() { err = errors.Join(err, allDown(cs), m.restore()) }()
	if err := allUp(ctx, cs, &m, o.progress); err != nil {
		return err
	}
	if rep.Rows, err = o.rounds.run(ctx, list, cs); err != nil {
		return err
	}
	if !o.rests() {
		return nil
	}
	rows, err := rest(ctx, cs, 5*o.time/2)
	rep.Rows = append(rep.Rows, rows...)
	return err
}

// contestants are those that the command line asks for.
func (o options) contestants() []*contestant {
	cs := contestants(o.programs)
	for _, c := range cs {
		if o.profile != "" && c.name == o.programs[0].name {
			c.args = append(c.args, "--cpuprofile", o.profile)
		}
		c.senders = o.senders
	}
	return slices.DeleteFunc(cs, func(c *contestant) bool { return !o.among.MatchString(c.name) })
}

// rests tells whether the programs are to be watched at rest.
func (o options) rests() bool { return o.only.MatchString(restMemory) || o.only.MatchString(restCPU) }
