package dom0

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"udrouter/policy"
)

// Dom0 is dom0's kernel as a router needs it. Its methods may be called concurrently.
type Dom0 struct {
	log     *slog.Logger
	ns      *netNS
	rt      *rtnl
	events  *events
	lock    *lock
	boot    string
	kick    chan struct{} // something may have changed; holds at most one
	closing chan struct{}

	mu         sync.Mutex // protects what follows
	spec       Spec
	guard      *guard
	journal    *journal // nil: nothing was changed
	journalled bool     // the journal is on disk
	opened     bool     // Start succeeded
	inherited  bool     // another process has handed over, see Inherit
	recovered  bool     // one was killed
	held       bool     // see Hold
	closed     bool
	conflicts  *routeConflicts // nil: to be looked for
	warnings   []string
}

var errClosed = errors.New("dom0 is closed")

// Acquire keeps the calling thread's network namespace for this router, before anything in it is touched: a second one is to disturb
// nothing. It changes nothing. It fails with a HeldError when another router runs in the namespace. log may be nil.
func Acquire(stateDir, bridge string, log *slog.Logger) (*Dom0, error) {
	if stateDir == "" {
		return nil, errors.New("no state directory")
	}
	return newDom0(log, func(netns uint64) (*lock, error) { return takeLock(stateDir, netns, bridge) })
}

// Start brings the namespace to the spec, once, with the bridge and the state directory of Acquire. It may find it as a killed run left
// it, and takes from that run's journal what the state before it was. When it fails it leaves what it found, the user's state
// or the killed run's, which is closed to guests; and then there is only Close.
func (d *Dom0) Start(spec Spec) error {
	if err := spec.validate(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errClosed
	}
	d.spec = spec.clone()
	recovered, err := d.recover()
	d.recovered = recovered && !d.inherited
	if err == nil {
		err = d.precheck()
	}
	if err == nil {
		_, err = d.sync()
	}
	if err == nil {
		err = d.awaitTAP()
	}
	if err != nil {
		if d.journalled && !recovered {
			err = errors.Join(err, d.undo(d.journal))
		}
		d.journal = nil // what is left to undo is the next run's
		return explain(err)
	}
	d.opened = true
	return nil
}

// Open is Acquire and Start.
func Open(spec Spec) (*Dom0, error) {
	if err := spec.validate(); err != nil {
		return nil, err
	}
	d, err := Acquire(spec.StateDir, spec.Bridge, spec.Log)
	if err != nil {
		return nil, err
	}
	if err := d.Start(spec); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// Restore undoes what killed runs left in the calling thread's network namespace, and does nothing when they left nothing.
// It fails with a HeldError while a router runs there. log may be nil.
func Restore(stateDir string, log *slog.Logger) error {
	d, err := newDom0(log, func(netns uint64) (*lock, error) { return takeLock(stateDir, netns, "") })
	if err != nil {
		return err
	}
	defer d.release()
	list, err := otherJournals(stateDir, d.boot, d.ns.cookie, "")
	errs := []error{err}
	for _, j := range list {
		errs = append(errs, d.undo(j))
	}
	return explain(errors.Join(errs...))
}

// newDom0 opens what the work needs; take takes the lock.
func newDom0(log *slog.Logger, take func(netns uint64) (*lock, error)) (_ *Dom0, err error) {
	d := &Dom0{log: log, kick: make(chan struct{}, 1), closing: make(chan struct{})}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	defer func() {
		if err != nil {
			d.release()
			err = explain(err)
		}
	}()
	if d.boot, err = bootID(); err != nil {
		return nil, err
	}
	if d.ns, err = openNetNS(); err != nil {
		return nil, err
	}
	if d.lock, err = take(d.ns.cookie); err != nil {
		return nil, err
	}
	if d.rt, err = openRtnl(d.ns); err != nil {
		return nil, err
	}
	if d.guard, err = openGuard(d.ns); err != nil {
		return nil, err
	}
	// Before the first look at the kernel's state: what changes after it is not missed.
	if d.events, err = openEvents(d.ns); err != nil {
		return nil, err
	}
	d.guard.dialled = d.events.ignore
	return d, d.events.ignore(d.guard.portID.Load())
}

// recover reads the journal that a killed run left for this bridge, and undoes those for others.
func (d *Dom0) recover() (found bool, err error) {
	d.journal, found, err = readJournal(d.spec.StateDir, d.boot, d.ns.cookie, d.spec.Bridge)
	if err := d.tolerate(err); err != nil {
		return false, err
	}
	d.journalled = found
	if found && !d.inherited {
		d.log.Info("dom0: an earlier run has left this as it was; what it found is what will be restored", "journal", d.journal.path)
	}
	others, err := otherJournals(d.spec.StateDir, d.boot, d.ns.cookie, d.spec.Bridge)
	if err := d.tolerate(err); err != nil {
		return found, err
	}
	for _, j := range others {
		d.log.Info("dom0: an earlier run was killed; restoring what it found", "bridge", j.Bridge, "journal", j.path)
		if err := d.undo(j); err != nil {
			return found, err
		}
	}
	return found, nil
}

// tolerate logs a damaged journal: better no undo than no router.
func (d *Dom0) tolerate(err error) error {
	var damaged *damagedError
	if errors.As(err, &damaged) {
		d.log.Warn("dom0: " + err.Error())
		return nil
	}
	return err
}

// precheck finds what a running router waits for but a starting one needs.
func (d *Dom0) precheck() error {
	st, err := d.observe()
	if err != nil {
		return err
	}
	if st.uplink == nil {
		return fmt.Errorf("uplink %s: no such interface: name the one toward the provider, see `ip link`", d.spec.Uplink)
	}
	if st.tap == nil {
		return fmt.Errorf("tap %s: no such interface: it has to be created first", d.spec.TAP)
	}
	if d.spec.HostTUN != "" && st.hostTUN == nil {
		return fmt.Errorf("host interface %s: no such interface: it has to be created first", d.spec.HostTUN)
	}
	for index, f := range st.ports {
		if l := st.links[index]; st.isPort(l) && !f.supported() {
			return fmt.Errorf("port %s: this kernel's bridge cannot lock it: Linux 5.18 or newer is needed", l.name)
		}
	}
	return nil
}

// openWait is how long Open waits for the TAP's port: the kernel notices a carrier within a second.
const openWait = 3 * time.Second

// awaitTAP waits until frames pass between the bridge and a TAP that has a reader, so that whoever calls the router ready is right.
func (d *Dom0) awaitTAP() error {
	deadline := time.Now().Add(openWait)
	buf := make([]byte, 1<<16)
	for {
		st, err := d.observe()
		if err != nil || st.tap == nil || !st.isPort(st.tap) || st.states[st.tap.index] == portForwarding {
			return err
		}
		if carrier, err := d.rt.noticeCarrier(st.tap.index); err != nil || !carrier {
			return err
		}
		// The port's opening is an event as well. Events that are read here concern what was just observed, and all that follows
		// from them is looked at by Run's first sync.
		_ = d.events.route.SetReadDeadline(deadline)
		_, err = d.events.route.Read(buf)
		d.wake()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			d.log.Warn(fmt.Sprintf("dom0: the bridge has not opened the port of %s yet", d.spec.TAP))
			return nil
		}
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("reading the kernel's notifications: %w", err)
		}
	}
}

// Update brings the kernel to another spec: guests come and go, networks change. Bridge and state directory have to be as they were.
// When it fails the kernel may be in between, and on the closed side: Run or another Update goes on from there.
func (d *Dom0) Update(spec Spec) error {
	if err := spec.validate(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errClosed
	}
	if spec.Bridge != d.spec.Bridge || spec.StateDir != d.spec.StateDir {
		return fmt.Errorf("changing the bridge from %s to %s: that needs a restart", d.spec.Bridge, spec.Bridge)
	}
	next := spec.clone()
	if reflect.DeepEqual(next.HostUplink, d.spec.HostUplink) {
		next.HostUplink = d.spec.HostUplink // which the tables were made of: they stay, with their counters
	}
	d.spec = next
	d.conflicts = nil
	_, err := d.sync()
	if err != nil {
		d.wake()
	}
	return explain(err)
}

// clone copies what the caller may change later. The logger is Open's for good.
func (s Spec) clone() Spec {
	s.Ports, s.Hotplugged = slices.Clone(s.Ports), slices.Clone(s.Hotplugged)
	for i := range s.Ports {
		s.Ports[i].MACs = slices.Clone(s.Ports[i].MACs)
	}
	s.HostRoutes = slices.Clone(s.HostRoutes)
	s.Guests, s.Bound, s.Answered = slices.Clone(s.Guests), slices.Clone(s.Bound), slices.Clone(s.Answered)
	if s.HostUplink != nil {
		c := policy.Chain{Default: s.HostUplink.Default, Rules: slices.Clone(s.HostUplink.Rules)}
		for i := range c.Rules {
			r := &c.Rules[i]
			r.Ports, r.From, r.To = slices.Clone(r.Ports), slices.Clone(r.From), slices.Clone(r.To)
			r.Source = "" // a rule that has moved in its file is the same rule
		}
		s.HostUplink = &c
	}
	return s
}

// Warnings are what the user should know and mend, each with its remedy, as of the latest look.
func (d *Dom0) Warnings() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.warnings)
}

// warn logs those that are new, and those that are no longer true. d.mu is held.
func (d *Dom0) warn(list []string) {
	slices.Sort(list)
	list = slices.Compact(list)
	for _, w := range list {
		if !slices.Contains(d.warnings, w) {
			d.log.Warn("dom0: " + w)
		}
	}
	for _, w := range d.warnings {
		if !slices.Contains(list, w) {
			d.log.Info("dom0: no longer: " + w)
		}
	}
	d.warnings = list
}

// Close restores what was found, ends Run, and gives the namespace free. What could not be restored is in the error and
// stays in the journal for a later Start or Restore. A second Close does nothing.
func (d *Dom0) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	var err error
	if d.journal != nil {
		err = d.undo(d.journal)
	}
	d.release()
	return explain(err)
}

// release closes the descriptors, and with them the lock.
func (d *Dom0) release() {
	d.closed = true
	close(d.closing)
	if d.events != nil {
		d.events.close()
	}
	if d.guard != nil {
		d.guard.close()
	}
	if d.rt != nil {
		d.rt.close()
	}
	if d.lock != nil {
		d.lock.release()
	}
	if d.ns != nil {
		d.ns.close()
	}
}

// explain adds the remedy for a missing privilege.
func explain(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w (it needs root or CAP_NET_ADMIN)", err)
	}
	return err
}
