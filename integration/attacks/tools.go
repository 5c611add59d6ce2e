package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/bpf"

	"udrouter/integration/lab"
	"udrouter/policy"
)

func (s *scene) attacker(t tool) *lab.Node {
	if t.from == internet {
		return s.lab.Internet
	}
	return s.lab.Guest("one").Node
}

// try runs a tool and looks what has come of it.
func (s *scene) try(ctx context.Context, t tool) outcome {
	return s.suffer(ctx, t, func() ([]byte, error, error) { return s.run(ctx, t) })
}

// suffer looks what comes of an attack: run tells what the attacker has said, what a neighbour missed meanwhile, and whether it ran as it should.
func (s *scene) suffer(ctx context.Context, t tool, run func() (said []byte, lost, err error)) (o outcome) {
	w, err := s.watch(ctx, t)
	if err != nil {
		return outcome{err: err}
	}
	defer w.close()
	o.lost = s.during(ctx, func() error {
		var said []byte
		var lost error
		said, lost, o.err = run()
		if t.answer != nil {
			o.answers = len(t.answer.FindAll(bytes.ReplaceAll(said, []byte("\r"), []byte("\n")), -1))
		}
		return lost
	})
	o.lost = errors.Join(o.lost, s.witnesses(ctx))
	if err := w.look(ctx, &o); err != nil {
		o.err = errors.Join(o.err, err)
	}
	return o
}

var errEnded = errors.New("exit status 0")

// run runs a tool to its end, an endless one until it is killed, and tells what it has said, and whether a neighbour that came up meanwhile could. Anything
// but that end is an error: the tool may not have sent what it is run for.
func (s *scene) run(ctx context.Context, t tool) (said []byte, lost, err error) {
	words := strings.Fields(t.args)
	seconds := t.seconds
	if s.proc == nil && t.endless {
		seconds = min(seconds, 10) // the kernel's outcome is for comparison, and shows by then
	}
	timed, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second)
	defer cancel()
	cmd := s.attacker(t).Command(timed, words[0], words[1:]...)
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("starting %s: %w", words[0], err)
	}
	if t.anew {
		lost = s.neighbourAnew(timed)
	}
	err = cmd.Wait()
	said = out.Bytes()
	var exit *exec.ExitError
	switch killed := timed.Err() != nil; {
	case ctx.Err() != nil:
		return said, lost, context.Cause(ctx)
	case killed && !t.endless:
		return said, lost, fmt.Errorf("%s did not end in %d s, and has not sent all: give it more", t.args, t.seconds)
	case !killed && t.endless:
		return said, lost, fmt.Errorf("%s ended by itself, which it does only when it fails: %w\n%s", t.args, cmp.Or(err, errEnded), last(said))
	case killed, err == nil, errors.As(err, &exit) && exit.ExitCode() == t.status && t.status > 0:
		return said, lost, nil
	}
	return said, lost, fmt.Errorf("%s failed: %w\n%s", t.args, err, last(said))
}

// last is the end of what a tool has said.
func last(said []byte) []byte { return bytes.TrimSpace(said[max(0, len(said)-500):]) }

// patience is how long others wait for an answer. With udrouter they wait longer: an attack that costs this machine its processors is not one on the router.
func (s *scene) patience() time.Duration {
	if s.proc == nil {
		return 5 * time.Second
	}
	return 15 * time.Second
}

// during has the honest guest's connections used while something is done.
func (s *scene) during(ctx context.Context, do func() error) error {
	done, talked := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			for _, c := range s.conns {
				timed, cancel := context.WithTimeout(ctx, s.patience())
				err := c.Check(timed)
				cancel()
				if err != nil {
					talked <- err
					return
				}
			}
			select {
			case <-done:
				talked <- nil
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	err := do()
	close(done)
	return errors.Join(err, <-talked)
}

// watching is what is looked at while a tool runs.
type watching struct {
	s                   *scene
	t                   tool
	neighbour, provider *lab.Sniffer
	counters            []*lab.Sniffer
	own, came           atomic.Int64
	heard               atomic.Int64 // the neighbour's frames, by the attacker
	foreign, past       atomic.Int64 // frames with a MAC that is not the guest's, at its port and at the router
	sent                uint64
	drops               map[string]uint64
	believed            []string
}

// arriving keeps what a host itself sends from its sniffer, which would lose others to a flood of that.
var arriving = lab.Arriving([]bpf.Instruction{bpf.RetConstant{Val: 1 << 18}})

func (s *scene) watch(ctx context.Context, t tool) (_ *watching, err error) {
	w := &watching{s: s, t: t}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	from, two, gw, dom0 := s.attacker(t), s.lab.Guest("two"), s.lab.Gateway, s.lab.Dom0
	if w.neighbour, err = two.Sniff(two.Link, lab.SniffOptions{BPF: arriving, Keep: func(f []byte) bool { return s.leaked(f, two) }}); err != nil {
		return nil, err
	}
	if w.provider, err = gw.Sniff(gw.Link, lab.SniffOptions{BPF: arriving, Keep: s.forged}); err != nil {
		return nil, err
	}
	if err := w.count(gw, gw.Link, &w.own, func(p *policy.Packet) bool { return from.Has(p.Src) && p.SrcMAC == dom0.MAC && t.from == guest }); err != nil {
		return nil, err
	}
	if err := w.count(from, from.Link, &w.heard, func(p *policy.Packet) bool { return p.SrcMAC == two.MAC }); err != nil {
		return nil, err
	}
	if t.from == internet {
		err = w.count(dom0, dom0.Link, &w.came, func(p *policy.Packet) bool { return p.SrcMAC == gw.MAC && w.aimed(p) })
	} else if s.proc != nil {
		err = w.countPort(from.MAC)
	}
	if err != nil {
		return nil, err
	}
	before, err := from.Count(from.Link)
	if err != nil {
		return nil, err
	}
	w.sent = before.TxPackets
	if w.believed, err = s.beliefs(); err != nil {
		return nil, err
	}
	st, err := s.status(ctx)
	w.drops = st.Drops
	return w, err
}

// countPort counts what a guest sends, where it comes into dom0 and where it comes to the router.
func (w *watching) countPort(mac policy.MAC) error {
	l := w.s.lab
	port, err := l.Dom0.LinkMAC(l.Guest("one").Domu.Vif)
	if err != nil {
		return err
	}
	known := []policy.MAC{w.s.router, port, {}}
	for _, g := range l.Guests {
		known = append(known, g.MAC)
	}
	return errors.Join(
		w.count(l.Dom0, l.Guest("one").Domu.Vif, &w.foreign, func(p *policy.Packet) bool { return p.SrcMAC != mac && p.SrcMAC != w.s.router }),
		w.count(l.Dom0, l.Config.Bridge.TAP, &w.past, func(p *policy.Packet) bool { return !slices.Contains(known, p.SrcMAC) }),
		w.count(l.Dom0, l.Config.Bridge.TAP, &w.came, func(p *policy.Packet) bool { return p.SrcMAC == mac && w.aimed(p) }))
}

// count counts frames without keeping them.
func (w *watching) count(n *lab.Node, link string, to *atomic.Int64, is func(*policy.Packet) bool) error {
	c, err := n.Sniff(link, lab.SniffOptions{Keep: func(f []byte) bool {
		var p policy.Packet
		if p.Parse(f, policy.Offload{}); is(&p) {
			to.Add(1)
		}
		return false
	}})
	if err == nil {
		w.counters = append(w.counters, c)
	}
	return err
}

// aimed tells a packet that is for what the tool attacks, or asks for it.
func (w *watching) aimed(p *policy.Packet) bool {
	if w.t.to == "" {
		return true
	}
	to := netip.MustParsePrefix(w.t.to)
	return to.Contains(p.Dst) || p.EtherType == policy.EtherARP && to.Contains(p.ARP.TPA) || p.IsND() && to.Contains(p.ND.Target)
}

// look ends the watch and says what was seen.
func (w *watching) look(ctx context.Context, o *outcome) error {
	from := w.s.attacker(w.t)
	now, err := from.Count(from.Link)
	if err != nil {
		return err
	}
	o.sent = now.TxPackets - w.sent
	st, err := w.s.status(ctx)
	if err != nil {
		return err
	}
	o.drops = map[string]uint64{}
	for reason, n := range st.Drops {
		if n > w.drops[reason] {
			o.drops[reason] = n - w.drops[reason]
		}
	}
	beliefs, err := w.s.beliefs()
	if err != nil {
		return err
	}
	o.believed = lab.DiffState(w.believed, beliefs)
	w.close()
	arrived := func(f lab.Frame) bool { return !f.Outgoing }
	o.neighbour, o.provider = w.neighbour.Count(arrived)+w.neighbour.Lost(), w.provider.Count(arrived)+w.provider.Lost()
	if open := w.t.open; open != nil {
		o.unlike = w.neighbour.Count(func(f lab.Frame) bool { return arrived(f) && !open.admits(f.Data) })
	}
	for _, sniffed := range [][]lab.Frame{w.neighbour.Frames(), w.provider.Frames()} {
		for _, f := range sniffed {
			if arrived(f) && len(o.seen) < 5 {
				o.seen = append(o.seen, f.Data)
			}
		}
	}
	o.own, o.came, o.foreign, o.past = int(w.own.Load()), int(w.came.Load()), int(w.foreign.Load()), int(w.past.Load())
	o.heard = int(w.heard.Load())
	return nil
}

func (w *watching) close() {
	for _, s := range append(w.counters, w.neighbour, w.provider) {
		if s != nil {
			s.Close()
		}
	}
}

// witnesses asks whether others are still served: the honest guest's connections, and the neighbour's way to the internet.
func (s *scene) witnesses(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.patience())
	defer cancel()
	var err error
	for _, c := range s.conns {
		err = errors.Join(err, c.Check(ctx))
	}
	for _, a := range []netip.Addr{s.lab.Internet.Addr4(), s.lab.Internet.Addr6()} {
		_, e := s.lab.Guest("two").Ping(ctx, a, lab.PingOptions{Every: 100 * time.Millisecond})
		err = errors.Join(err, e)
	}
	return err
}
