package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	"gvisor.dev/gvisor/pkg/tcpip"

	"udrouter/config"
	"udrouter/policy"
	"udrouter/stack"
	"udrouter/stack/offload"
)

// UplinkLink is a Link that follows its interface.
type UplinkLink interface {
	stack.Link
	SetMAC(policy.MAC)
	SetFilter(stack.Filter) error
	SetScreen(stack.Screen) error
	Rebind()
}

// Options are what a Router is made of. The links are closed by Run.
type Options struct {
	Config  *config.Config // to begin with, see Reload
	Around  Surroundings   // nil: there is no reloading
	Hotplug Hotplug        // nil: only the file binds guests; it wants Around
	Guests  stack.Link
	Uplink  UplinkLink
	Host    stack.Link    // nil: dom0 and its guests do not meet
	Tier    *offload.Tier // where the kernel forwards flows that are decided; nil: nowhere
	Control net.Listener  // of the control socket; nil: none
	Metrics net.Listener  // where metrics are scraped; nil: nowhere
	Dom0    Namespace     // nil: nobody can take over

	// StateDir is where a snapshot may be written that another process takes over.
	StateDir string

	Log *slog.Logger

	// HostUplink reads what the rules of host.uplink have counted in dom0's kernel, in their order and the default last; nil: nobody knows.
	HostUplink func() ([]HostCount, error)

	// ReadKernel and Watch are stack.ReadKernel and stack.WatchKernel, or a test's.
	ReadKernel func() (stack.Kernel, error)
	Watch      func(context.Context, func() error) error

	// WatchPort opens a look at a port of the bridge, by its index, at which a guest may send with one MAC; nil: nobody looks.
	WatchPort func(index int, own policy.MAC) (PortWatch, error)

	RouterMAC policy.MAC
	GuestMTU  int         // of the TAP, the bridge and the host TUN, in bytes
	Clock     tcpip.Clock // of netstack, flows and shares; nil: the real one
}

// HostCount is what a rule of host.uplink has decided on; bytes from the IP header on.
type HostCount struct{ Packets, Bytes uint64 }

// Router forwards between the links. Its methods are safe for concurrent use.
type Router struct {
	Options
	log     *slog.Logger
	links   [stack.Host + 1]stack.Link
	started time.Time
	epoch   tcpip.MonotonicTime

	current    atomic.Pointer[world]
	netstack   atomic.Pointer[stack.Netstack]
	rebuilt    chan struct{}
	rebuilding sync.Mutex
	updating   sync.Mutex
	running    atomic.Pointer[running]
	asking     sync.Mutex   // held by who waits for workers
	besides    sync.RWMutex // see aside
	unpause    func()       // see pause
	handing    sync.Mutex   // held while another process takes over
	handedOver atomic.Bool  // and has
	keepUntil  atomic.Int64 // see Store
	barrier    barrier
	stopped    int64        // CLOCK_BOOTTIME when the router before this one stopped, ns; 0: there was none
	loads      int          // how often Preload was called
	gap        atomic.Int64 // and how long nobody forwarded, ns
	reloading  sync.Mutex
	reloads    atomic.Uint64
	lastReload atomic.Pointer[ReloadStatus]
	longWay    bool          // no packet takes the short way, for tests to compare
	hits       atomic.Uint64 // packets that did

	suspended       bool          // the kernel forwards nothing for now; under updating
	behind          bool          // nor does it while its program does not come first, see watchOffload; under updating
	offloadedBefore atomic.Uint64 // packets that the kernel has forwarded for the router before this one
	duplicates      atomic.Int32  // link-local addresses on the uplink that somebody else has

	linkLocals *policy.LinkLocals
	nobody     *guestState // for what no guest is behind
	neighbours *neighbours
	presence   *presence
	advertiser *advertiser
	watches    portWatches
	drops      [policy.Reasons]atomic.Uint64
	would      [policy.Reasons]atomic.Uint64 // what policies in shadow mode would have dropped
	capturing  capturing
	dropLog    dropLog
	wouldLog   dropLog
	defects    rate.Sometimes // how often a defect is described
}

// New makes a router that is ready to run. It errs where the kernel cannot be read.
func New(o Options) (*Router, error) {
	r := &Router{Options: o, log: o.Log, started: time.Now(), rebuilt: make(chan struct{}, 1), defects: rate.Sometimes{Interval: logEvery},
		linkLocals: policy.NewLinkLocals()}
	r.links = [...]stack.Link{stack.Guests: o.Guests, stack.UplinkSide: o.Uplink, stack.Host: o.Host}
	if o.Clock == nil {
		r.Clock = tcpip.NewStdClock()
	}
	first, err := newPlan(o.Config, nil)
	if err != nil {
		return nil, err
	}
	r.offer(first)
	r.epoch, r.nobody = r.Clock.NowMonotonic(), first.nobody
	r.neighbours, r.presence, r.advertiser = newNeighbours(r), newPresence(r), newAdvertiser(r)
	ns, err := stack.NewNetstack(r.Clock, r.transmit)
	if err != nil {
		return nil, err
	}
	r.netstack.Store(ns)
	if UnderSystemd() {
		if r.barrier, err = newBarrier(); err != nil {
			ns.Close()
			return nil, err
		}
	}
	k, err := o.ReadKernel()
	if err != nil {
		ns.Close()
		return nil, err
	}
	if err := r.apply(k, first); err != nil {
		ns.Close()
		return nil, err
	}
	return r, nil
}

// task is a goroutine with a name. Its end, but by ctx, ends the router: none dies silently.
type task struct {
	name  string
	run   func(ctx context.Context, asked <-chan struct{}) error
	asked chan struct{} // which run receives from whenever it does nothing else; nil: it does not
}

// Run forwards until ctx ends, then closes the links. ready is called when all tasks are under way.
func (r *Router) Run(ctx context.Context, ready func()) error {
	tasks := []task{
		{"neighbours", r.neighbours.run, make(chan struct{})},
		{"announcements", r.presence.run, make(chan struct{})},
		{"router advertisements", r.advertiser.run, make(chan struct{})},
		{"housekeeping", every(time.Second, r.housekeep), make(chan struct{})},
		{"kernel watch", func(ctx context.Context, _ <-chan struct{}) error { return r.Watch(ctx, r.changed) }, nil},
		{"log of drops", every(logEvery, func() { r.dropLog.write(r.log, "dropped") }), make(chan struct{})},
		{"log of shadow mode", every(logEvery, func() { r.wouldLog.write(r.log, "would have been dropped") }), make(chan struct{})},
	}
	if r.Control != nil {
		tasks = append(tasks, task{"control socket", func(ctx context.Context, _ <-chan struct{}) error { return r.serveControl(ctx) }, nil})
	}
	if r.Metrics != nil {
		tasks = append(tasks, task{"metrics", func(ctx context.Context, _ <-chan struct{}) error { return r.serveMetrics(ctx) }, nil})
	}
	var open []stack.Link
	for _, link := range r.links {
		if link != nil {
			open = append(open, link)
		}
	}
	workers := r.newWorkers()
	for i, w := range workers {
		tasks = append(tasks, task{fmt.Sprint("worker ", i), func(context.Context, <-chan struct{}) error { return w.run() }, nil})
	}
	r.running.Store(&running{tasks, workers})
	r.beginStrangers()
	g, ctx := errgroup.WithContext(ctx)
	for _, t := range tasks {
		g.Go(func() error {
			if err := t.run(ctx, t.asked); err != nil {
				return fmt.Errorf("running the %s: %w", t.name, err)
			}
			if ctx.Err() == nil {
				return fmt.Errorf("running the %s: it ended by itself", t.name)
			}
			return nil
		})
	}
	g.Go(func() error {
		<-ctx.Done()
		r.handing.Lock() // a hand-over that is under way hears of ctx as well, and undoes itself first
		defer r.handing.Unlock()
		if !r.handedOver.Load() {
			r.advertiser.cease()
		}
		r.endStrangers()
		var errs []error
		for _, l := range open {
			errs = append(errs, l.Close())
		}
		if r.handedOver.Load() {
			r.unpause()
		}
		return errors.Join(errs...)
	})
	if r.stopped > 0 {
		r.gap.Store(max(bootTime()-r.stopped, 0))
		r.log.Info("the router before this one was taken over from", "gap", time.Duration(r.gap.Load()))
	}
	r.detectDuplicate()
	r.links[stack.Guests].Write(r.current.Load().gateways())
	ready()
	err := g.Wait()
	r.netstack.Load().Close()
	return err
}

// every is a task that does something now and then.
func every(interval time.Duration, do func()) func(context.Context, <-chan struct{}) error {
	return func(ctx context.Context, asked <-chan struct{}) error {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-asked:
			case <-tick.C:
				do()
			}
		}
	}
}

// housekeep does once a second what no packet does: it forgets flows, and makes a netstack anew in which a timer met a defect. Those who
// use netstack may hang in that one, so they cannot.
func (r *Router) housekeep() {
	r.rebuildNetstack()
	r.sweep()
	r.watchOffload()
	r.countStrangers()
}

// errBusy is why hotplug is looked at later.
var errBusy = errors.New("a reload or a hand-over is under way")

// changed follows what may have changed in the kernel. After an error it wants to be called once more. It does not wait for a hand-over, which may take
// minutes, in which the uplink may come and go.
func (r *Router) changed() error {
	err := r.update()
	if !r.reloading.TryLock() {
		return errors.Join(err, errBusy)
	}
	defer r.reloading.Unlock()
	return errors.Join(err, r.settle())
}

// update looks at the kernel again. After an error it wants to be called once more.
func (r *Router) update() error {
	r.updating.Lock()
	defer r.updating.Unlock()
	k, err := r.ReadKernel()
	if missing := (*stack.MissingUplinkError)(nil); errors.As(err, &missing) {
		old := r.current.Load().kernel
		if old.Uplink.Index == 0 {
			return nil
		}
		r.log.Warn("the uplink is gone; waiting for it to come back", "uplink", missing.Name)
		old.Uplink.Index, old.Uplink.Up = 0, false
		k, err = old, nil
	}
	if err == nil {
		err = r.apply(k, r.current.Load().plan)
		r.countStrangers()
	}
	if err != nil {
		r.log.Error("what dom0's kernel changed could not be followed yet; the router goes on with what it knew", "error", err)
	}
	return err
}

// apply makes a new world, and tells everything that has to know. r.updating is held, but in New.
func (r *Router) apply(k stack.Kernel, pl *plan) error {
	old := r.current.Load()
	w := newWorld(pl, r.linkLocals, r.RouterMAC, r.GuestMTU, int(r.duplicates.Load()), k)
	if old != nil && old.same(w) {
		r.follow(old)
		return nil
	}
	if old != nil && old.leads(w) { // guests come and go, and nobody's flows have to be decided anew for that
		w.generation = old.generation
		r.current.Store(w)
		r.follow(w)
		w.vanish(old)
		return nil
	}
	if w.generation = 1; old != nil {
		w.generation = max(old.generation+1, 1)
	}
	r.stopOffload()
	if err := r.Uplink.SetFilter(w.filter()); err != nil {
		return err
	}
	r.Uplink.SetMAC(w.UplinkMAC)
	if err := r.netstack.Load().SetAddresses(w.addresses()); err != nil {
		return err
	}
	r.current.Store(w)
	r.neighbours.keep(w.Upstream)
	r.follow(w)
	for _, text := range w.warnings {
		if old == nil || !contains(old.warnings, text) {
			r.log.Warn(text)
		}
	}
	if old == nil {
		return nil
	}
	now, was := k.Uplink, old.kernel.Uplink
	if now.Index != was.Index && now.Index != 0 {
		r.Uplink.Rebind()
	}
	if now.Up && (!was.Up || now.MAC != was.MAC) {
		r.log.Info("the uplink is up", "uplink", pl.config.Uplink.Name, "mac", now.MAC)
		r.neighbours.refresh()
		r.presence.announceAll(w)
		r.detectDuplicate()
	}
	w.vanish(old)
	return nil
}

// rebuildNetstack replaces a netstack in which a packet met a defect: a lock of its may have stayed held.
func (r *Router) rebuildNetstack() {
	if !r.rebuilding.TryLock() {
		return
	}
	defer r.rebuilding.Unlock()
	if r.netstack.Load().Panics.Load() == 0 {
		return
	}
	r.updating.Lock() // so that the new one gets the addresses that are right when it is put in
	defer r.updating.Unlock()
	old := r.netstack.Load()
	if old.Panics.Load() == 0 {
		return
	}
	ns, err := stack.NewNetstack(r.Clock, r.transmit)
	if err == nil {
		err = ns.SetAddresses(r.current.Load().addresses())
	}
	if err != nil {
		r.log.Error("netstack met a defect and could not be made anew", "error", err)
		return
	}
	r.netstack.Store(ns)
	r.log.Error("netstack met a defect and was made anew; please report it")
	select {
	case r.rebuilt <- struct{}{}:
	default:
	}
}

// detectDuplicate asks whether somebody on the uplink has the router's own link-local address (RFC 4862 5.4.2). An answer
// comes by uplinkND.
func (r *Router) detectDuplicate() {
	wd := r.current.Load()
	to := policy.SolicitedNode(wd.UplinkLL)
	r.Uplink.Write([]*stack.Frame{stack.BuildDAD(policy.MulticastMAC(to), wd.UplinkMAC, to, wd.UplinkLL)})
}

// duplicate is called when somebody else claims the router's link-local address on the uplink: it takes another one, a
// few times (RFC 7217 6), so that nobody can keep it changing.
func (r *Router) duplicate(mac policy.MAC) {
	const retries = 3 // IDGEN_RETRIES
	n := r.duplicates.Load()
	if n >= retries || !r.duplicates.CompareAndSwap(n, n+1) {
		return
	}
	r.log.Warn("another station on the uplink has the router's link-local address; taking another one", "mac", mac)
	select {
	case r.presence.renew <- struct{}{}:
	default:
	}
}

// count counts a packet that goes no further, for its guest if there is one. p may be nil.
func (r *Router) count(g *policy.Guest, reason policy.Reason, p *policy.Packet) {
	r.countBy(nil, 0, g, reason, p)
}

// countBy is count for what a rule of an engine has refused; 0 is none.
func (r *Router) countBy(e *policy.Engine, rule policy.RuleID, g *policy.Guest, reason policy.Reason, p *policy.Packet) {
	r.drops[reason].Add(1)
	if g != nil {
		g.Counters.Drops[reason].Add(1)
	}
	r.note(&r.dropLog, e, reason, rule, g, p)
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}
