package router

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"udrouter/config"
	"udrouter/policy"
	"udrouter/stack"
)

// Surroundings are what a reload concerns besides the router. One goroutine at a time calls them.
type Surroundings interface {
	// Load reads and validates the configuration. What is wrong with it is a *ReloadError where it has a place in a file.
	Load() (*config.Config, error)

	// Narrow has dom0's kernel let pass only what both the running and the next configuration admit; on an error it is as it was.
	Narrow(next *config.Config) error

	// Follow has dom0's kernel, and the log, be as a configuration says.
	Follow(cfg *config.Config) error
}

// ReloadError is what is wrong with a configuration, all of it at once.
type ReloadError struct {
	Text        string // of several lines, as `udrouter check` shows it
	Diagnostics []Diagnostic
}

// Diagnostic is a mistake with its place; lines and columns count from 1.
type Diagnostic struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Summary string `json:"summary"`
	Detail  string `json:"detail"`
}

func (e *ReloadError) Error() string {
	if len(e.Diagnostics) == 1 {
		return e.Diagnostics[0].String()
	}
	return fmt.Sprintf("%s, and %d more", e.Diagnostics[0], len(e.Diagnostics)-1)
}

func (d Diagnostic) String() string {
	return fmt.Sprintf("%s:%d: %s: %s", d.File, d.Line, d.Summary, d.Detail)
}

// ReloadStatus is the last reload in Status.
type ReloadStatus struct {
	At    time.Time `json:"at"`
	Error string    `json:"error"` // "": it went well
}

// maxLogged is how many mistakes of a file the log names; who asks for a reload is told all.
const maxLogged = 20

// Reload reads the configuration anew and goes on with it, see takeOver. When it fails nothing has changed, but where the error says so. Of several calls at
// a time one follows the other. It is ErrHandedOver when another process has taken over, whose matter it is.
func (r *Router) Reload() error {
	r.reloading.Lock()
	defer r.reloading.Unlock()
	if r.handedOver.Load() {
		return ErrHandedOver
	}
	err := r.reload()
	s := &ReloadStatus{At: time.Now()}
	if err != nil {
		s.Error = err.Error()
		r.log.Error("reloading failed: the router goes on with what it has", "error", err)
		var bad *ReloadError
		if errors.As(err, &bad) {
			for _, d := range bad.Diagnostics[:min(len(bad.Diagnostics), maxLogged)] {
				r.log.Error("wrong with the configuration", "at", fmt.Sprintf("%s:%d", d.File, d.Line), "what", d.Summary, "detail", d.Detail)
			}
		}
	} else {
		r.log.Info("reloaded", "domus", len(r.current.Load().Guests), "reloads", r.reloads.Add(1))
	}
	r.lastReload.Store(s)
	return err
}

func (r *Router) reload() error {
	if r.Around == nil {
		return errors.New("this router cannot reload")
	}
	cfg, err := r.Around.Load()
	if err != nil {
		return err
	}
	return r.goOn(cfg)
}

// goOn goes on with another configuration. r.reloading is held.
func (r *Router) goOn(cfg *config.Config) error {
	old := r.current.Load().plan
	if err := r.fixed(old.config, cfg); err != nil {
		return err
	}
	next, err := newPlan(cfg, old)
	if err != nil {
		return err
	}
	r.offer(next)
	if err := r.Around.Narrow(cfg); err != nil {
		return err
	}
	was, err := r.install(next)
	if err != nil {
		return errors.Join(err, r.Around.Follow(old.config))
	}
	if err := r.takeOver(was, next); err != nil {
		return err
	}
	err = r.Around.Follow(cfg)
	r.tell(was)
	if err != nil {
		return fmt.Errorf("the new configuration is in force in the router, but dom0's kernel does not follow it yet (which goes on being tried): %w", err)
	}
	if r.Hotplug != nil {
		r.Hotplug.Tell(old.config.Attached, cfg.Attached)
	}
	return nil
}

// roundWait is how long a reload waits for workers, which take milliseconds at most.
const roundWait = 5 * time.Second

// reviewPause is how long packets have the flow tables for themselves between two steps of a review, which take less than a millisecond each.
const reviewPause = 100 * time.Microsecond

// takeOver ends what was before another plan. When it returns, all packets go by that plan: flows that it does not admit have ended, and so has what
// there was of guests that are gone.
func (r *Router) takeOver(was *world, next *plan) error {
	ctx, cancel := context.WithTimeout(context.Background(), roundWait)
	defer cancel()
	err := r.settled(ctx)
	// Flows are asked about only now: until here some were opened by the old plan.
	next.engine.TakeOver(was.engine, func(f *policy.Flow) bool { return r.current.Load().admits(f) })
	r.retain(r.current.Load().Guests)
	stays := map[*guestState]bool{next.nobody: true}
	for _, s := range next.states {
		stays[s] = true
	}
	r.neighbours.retire(func(s *guestState) bool { return !stays[s] })
	r.linkLocals.Retain(next.bindings)
	next.engine.Review(func() { time.Sleep(reviewPause) })
	if err != nil {
		return fmt.Errorf("the new configuration is in force, but for what is stuck: %w", err)
	}
	return nil
}

// install makes a plan the current one, which workers take with their next batch, and returns the world before. On an error everything is as it was.
func (r *Router) install(next *plan) (was *world, err error) {
	r.updating.Lock()
	defer r.updating.Unlock()
	old := r.current.Load()
	if err := r.apply(old.kernel, next); err != nil {
		err = errors.Join(err, r.Uplink.SetFilter(old.filter()), r.netstack.Load().SetAddresses(old.addresses()))
		r.follow(r.current.Load())
		return nil, err
	}
	r.countStrangers()
	return old, nil
}

// admits tells whether a flow's opening packet would pass now, and go where the flow does. Guards that look at what a packet contains have had their
// say.
func (wd *world) admits(f *policy.Flow) bool {
	src, dst := f.Src(), f.Dst()
	p := policy.Packet{EtherType: etherType(src.Addr()), Src: src.Addr(), Dst: dst.Addr(), Proto: f.Key.Proto, SrcPort: src.Port(), DstPort: dst.Port()}
	var from policy.End
	var reason policy.Reason
	switch f.From {
	case policy.SideUplink:
		from.Zone = policy.ZoneUplink
		p.SrcMAC, p.DstMAC = wd.somebody(), wd.UplinkMAC
		reason = wd.FromUplink(&p)
	case policy.SideHost:
		from.Zone = policy.ZoneHost
		reason = wd.FromHost(&p)
	default:
		if from.Guest = wd.engine.Guest(f.From); from.Guest == nil {
			return false
		}
		p.SrcMAC, p.DstMAC = from.Guest.MAC, wd.RouterMAC
		_, reason = wd.FromGuest(&p)
	}
	if reason != policy.None {
		return false
	}
	t, g, reason := wd.way(&p, from)
	return reason == policy.None && t != toRouter && wd.engine.Admits(f, from, t.end(g))
}

// somebody is a MAC that a station on the uplink may have.
func (wd *world) somebody() policy.MAC {
	m := standInPeer
	for !wd.MayBeOnUplink(m) {
		m[5]++
	}
	return m
}

// tell announces addresses and gateways that are new, and asks new guests, and those that have changed their place, whether they are there. They are told where
// their gateways are: of one that comes from another host, connections go on.
func (r *Router) tell(was *world) {
	wd := r.current.Load()
	before := map[string]*policy.Guest{}
	for _, g := range was.Guests {
		before[g.Name] = g
	}
	var probes []*stack.Frame
	arrived := false // one of them
	for i, g := range wd.Guests {
		s, b := wd.states[i], before[g.Name]
		var had []netip.Prefix
		stays := b != nil && b.MAC == g.MAC && b.Vif == g.Vif
		if stays {
			had = b.Addrs
			announced := was.announced(b)
			if s.seen.Load() && slices.ContainsFunc(wd.announced(g), func(a netip.Addr) bool { return !slices.Contains(announced, a) }) {
				r.presence.announce(s)
			}
		} else {
			s.vanished()
			arrived = true
		}
		if !stays || !reflect.DeepEqual(wd.advertisement(g), was.advertisement(b)) {
			r.advertiser.tell(s)
		}
		for _, p := range g.Addrs {
			if p.IsSingleIP() && wd.Network(p.Addr()) != nil && !wd.Taken[p.Addr()] && !slices.Contains(had, p) {
				probes = append(probes, r.presence.probe(wd, g, p.Addr()))
			}
		}
	}
	for chunk := range slices.Chunk(probes, batchLen) {
		r.links[stack.Guests].Write(chunk)
	}
	if now := wd.gateways(); arrived || !slices.EqualFunc(was.gateways(), now, func(a, b *stack.Frame) bool { return bytes.Equal(a.Bytes(), b.Bytes()) }) {
		r.links[stack.Guests].Write(now)
	}
}

// fixed finds what cannot change while the router runs.
func (r *Router) fixed(old, next *config.Config) error {
	var list []Diagnostic
	say := func(at config.Range, key string, was, now any) {
		if was != now {
			list = append(list, Diagnostic{next.File, at.Line, at.Column, fmt.Sprintf("%s has changed", key),
				fmt.Sprintf("It was %v and is %v now, which needs a restart of the router. Nothing was changed.", was, now)})
		}
	}
	top := config.Range{Line: 1, Column: 1}
	say(next.Uplink.Range, "uplink's name", old.Uplink.Name, next.Uplink.Name)
	say(next.Bridge.Range, "bridge's name", old.Bridge.Name, next.Bridge.Name)
	say(next.Bridge.Range, "bridge.tap", old.Bridge.TAP, next.Bridge.TAP)
	k := r.current.Load().kernel
	if old.Bridge.MAC != next.Bridge.MAC {
		say(next.Bridge.Range, "bridge.mac", r.RouterMAC, RouterMAC(next, k.Uplink.MAC))
	}
	if old.Bridge.MTU != next.Bridge.MTU {
		say(next.Bridge.Range, "bridge.mtu", r.GuestMTU, GuestMTU(next, k))
	}
	switch {
	case old.Host == nil && next.Host == nil:
	case old.Host == nil:
		say(next.Host.Range, "host", "left out", "there")
	case next.Host == nil:
		say(top, "host", "there", "left out")
	default:
		say(next.Host.Range, "host.interface", old.Host.Interface, next.Host.Interface)
	}
	say(top, "control.socket", old.Control.Socket, next.Control.Socket)
	say(top, "control.group", old.Control.Group, next.Control.Group)
	say(top, "metrics.listen", listenOf(old), listenOf(next))
	say(top, "log.format", old.Log.Format, next.Log.Format)
	if len(list) == 0 {
		return nil
	}
	e := &ReloadError{Diagnostics: list}
	for _, d := range list {
		e.Text += d.String() + "\n"
	}
	return e
}
