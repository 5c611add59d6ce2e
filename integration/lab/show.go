package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"udrouter/policy"
)

// ShowOptions vary what Show does.
type ShowOptions struct {
	Router   *Proc // what routes; Show stops it and looks what is left. nil: something that has no end
	Keep     bool  // leave Router running, and leave out what can only be seen after it
	Enforced bool  // show as well that what the policies deny does not pass
}

// How long one check may take before it fails. Nothing waits that long when all is well.
const checkTimeout = 3 * time.Second

// Checks are shown for so many guests in full; of the others it is shown that pings pass.
const shownGuests = 4

// Show runs the checks that a lab's router has to hold and writes a line on each. held is false
// when one failed; err is not nil when the checks could not be carried out, or ctx ended.
func (l *Lab) Show(ctx context.Context, w io.Writer, o ShowOptions) (held bool, err error) {
	s := &show{Lab: l, ctx: ctx, o: o, report: newReport(w), dead: make(map[way]bool)}
	defer s.close()
	s.group("The network of " + l.Config.File)
	l.draw(s.out)
	if err := s.start(); err != nil {
		return false, fmt.Errorf("showing the lab: %w", err)
	}
	for _, group := range []func(){s.reach, s.paths, s.upstream, s.spoofs, s.denied, s.whole, s.after} {
		group()
		if ctx.Err() != nil {
			return false, fmt.Errorf("showing the lab: %w", context.Cause(ctx))
		}
	}
	s.summary()
	return s.failed == 0, s.out.err
}

// show is one run of Show.
type show struct {
	*Lab
	*report
	ctx context.Context
	o   ShowOptions

	uplink *Sniffer            // short frames on the upstream router's link to dom0
	guests map[*Guest]*Sniffer // short frames on the links of the guests that are shown in full
	macs   *MACWatch
	wire   *FrameSender // the upstream router's, toward dom0
	marker []byte       // in every datagram that must not pass
	probed []probe      // on the uplink, counted at the end
	forged []spoof      // by a guest, counted at the end
	mu     sync.Mutex
	open   []*Conn // dom0's connections to the internet, over the whole run
	closer []func() error

	dead map[way]bool // on which nothing came through

	singing bool         // the canary has something to ping
	beats   atomic.Int64 // its pings so far
}

// start opens what watches the whole run.
func (s *show) start() (err error) {
	s.marker = newMarker()
	lan := s.Gateway
	if s.uplink, err = lan.Sniff(lan.Link, SniffOptions{BPF: shortFrames}); err != nil {
		return err
	}
	s.closer = append(s.closer, s.uplink.Close)
	if s.macs, err = lan.WatchMACs(lan.Link, s.Dom0.MAC); err != nil {
		return err
	}
	s.closer = append(s.closer, s.macs.Close)
	if s.wire, err = lan.Sender(lan.Link); err != nil {
		return err
	}
	s.closer = append(s.closer, s.wire.Close)
	s.guests = make(map[*Guest]*Sniffer)
	for _, g := range s.shown() {
		sn, err := g.Sniff(g.Link, SniffOptions{BPF: shortFrames})
		if err != nil {
			return err
		}
		s.guests[g] = sn
		s.closer = append(s.closer, sn.Close)
	}
	return nil
}

func (s *show) close() {
	for _, f := range s.closer {
		_ = f() // sniffers and connections of this run: nothing is lost with them
	}
}

// shown are the guests whose checks are shown in full.
func (s *show) shown() []*Guest { return s.Guests[:min(len(s.Guests), shownGuests)] }

// notShown is why a check was not made: the file does not allow for it.
type notShown string

func (n notShown) Error() string { return "not shown: " + string(n) }

// check runs one check and writes its line. f returns what to say when it held.
func (s *show) check(name string, f func(ctx context.Context) (string, error)) {
	if s.ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeoutCause(s.ctx, checkTimeout, fmt.Errorf("no success within %v", checkTimeout))
	defer cancel()
	said, err := f(ctx)
	if s.ctx.Err() != nil {
		return // the run was ended, the check did not fail
	}
	s.line(name, said, err)
}

// families runs a part of a check for each family in which both nodes have an address, at the same
// time, and joins what the parts say.
func families(a, b *Node, f func(from, to netip.Addr) (string, error)) (string, error) {
	parts := []struct {
		name     string
		from, to netip.Addr
		said     string
		err      error
	}{
		{name: "IPv4", from: a.Addr4(), to: b.Addr4()},
		{name: "IPv6", from: a.Addr6(), to: b.Addr6()},
	}
	var wg sync.WaitGroup
	for i := range parts {
		if p := &parts[i]; p.from.IsValid() && p.to.IsValid() {
			wg.Go(func() { p.said, p.err = f(p.from, p.to) })
		}
	}
	wg.Wait()

	var said, skipped []string
	var errs []error
	for _, p := range parts {
		var skip notShown
		switch {
		case errors.As(p.err, &skip):
			skipped = append(skipped, p.name+": "+string(skip))
		case p.err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", p.name, p.err))
		case p.said != "":
			said = append(said, p.name+" "+p.said)
		}
	}
	switch {
	case errs != nil:
		return "", errors.Join(errs...)
	case said == nil && skipped == nil:
		return "", notShown("they have no address of the same family")
	case said == nil:
		return "", notShown(strings.Join(skipped, ", "))
	}
	return strings.Join(append(said, skipped...), ", "), nil
}

// The parties of a check.
func (s *show) internet(a netip.Addr) party { return party{kind: policy.PeerUplink, addr: a} }
func (s *show) dom0(a netip.Addr) party     { return party{kind: policy.PeerHost, addr: a} }
func guestParty(g *Guest, a netip.Addr) party {
	return party{kind: policy.PeerDomu, domu: &g.Domu, addr: a}
}

// report writes lines and remembers what failed.
type report struct {
	out      *printer
	terminal bool
	held     int
	failed   int
	skipped  int
}

// printer keeps the first error of a writer, so that not every line has to look.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) Write(b []byte) (int, error) {
	if p.err == nil {
		_, p.err = p.w.Write(b)
	}
	return len(b), nil
}

func newReport(w io.Writer) *report {
	return &report{out: &printer{w: w}, terminal: isTerminal(w)}
}

func (r *report) group(name string) { fmt.Fprintf(r.out, "\n%s\n", name) }

func (r *report) line(name, said string, err error) {
	mark, plain := "✓", "ok"
	var skip notShown
	switch {
	case errors.As(err, &skip):
		r.skipped++
		mark, plain, said = "-", "-", skip.Error()
	case err != nil:
		r.failed++
		mark, plain, said = "✗", "FAIL", oneLine(err)
	default:
		r.held++
	}
	if !r.terminal {
		mark = fmt.Sprintf("%-4s", plain)
	}
	fmt.Fprintf(r.out, "  %s  %-40s  %s\n", mark, name, said)
}

func (r *report) summary() {
	fmt.Fprintf(r.out, "\n%d held, %d failed, %d not shown\n", r.held, r.failed, r.skipped)
}

func oneLine(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(c rune) bool { return c == '\n' }), "; ")
}

// short writes a duration as the report has it.
func short(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}
