package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"udrouter/config"
	"udrouter/integration/confine"
	"udrouter/integration/dom0"
	"udrouter/integration/hotplug"
	"udrouter/policy"
	"udrouter/router"
	"udrouter/stack"
	"udrouter/stack/offload"
)

const defaultState = "/run/udrouter"

func runCommand() *cobra.Command {
	var f runFlags
	c := &cobra.Command{
		Use: "run -c FILE", Short: "Route, in the foreground, until SIGTERM or SIGINT", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if f.workers < 1 || f.workers > stack.MaxQueues {
				return fmt.Errorf("--workers is %d: give 1 to %d", f.workers, stack.MaxQueues)
			}
			if !slices.Contains(confinements, f.confinement) {
				return fmt.Errorf("--confine is %q: give one of %s", f.confinement, strings.Join(confinements, ", "))
			}
			read := func(w io.Writer) (*config.Config, []router.Diagnostic, error) { // now, and at each reload
				cfg, list, err := loadAll(f.file, w)
				if cfg != nil && f.socket != "" {
					cfg.Control.Socket = f.socket
				}
				if cfg != nil && f.noMetrics {
					cfg.Metrics = nil
				}
				return cfg, list, err
			}
			cfg, _, err := read(c.ErrOrStderr())
			if err != nil {
				return err
			}
			level := new(slog.LevelVar)
			signal.Ignore(syscall.SIGPIPE) // that the log's reader has gone ends no router
			out := newLines(c.ErrOrStderr(), logger(c.ErrOrStderr(), cfg.Log, level))
			defer out.close()
			log := logger(out, cfg.Log, level)
			around := &surroundings{level: level, log: log, load: read}
			var confined func() error
			if f.confinement != confineOff {
				o := confine.Options{Config: f.file, State: f.state, Socket: cfg.Control.Socket, Strict: f.confinement == confineStrict, Offload: f.offload, Log: log}
				if cfg.Metrics != nil {
					if network, path := cfg.Metrics.Address(); network == "unix" {
						o.Remove = []string{path}
					}
				}
				if f.profile != "" {
					o.Read = []string{"/proc/self/maps"}
				}
				confined = func() error {
					around.moved = confine.Moved(o)
					return confine.Apply(o)
				}
			}
			run := func() error { return inFormat(route(c.Context(), cfg, around, f, log, confined), cfg.Log, log) }
			if f.profile != "" {
				return profiled(f.profile, run)
			}
			return run()
		},
	}
	f.of(c)
	required(c, "config")
	return c
}

// inFormat logs the error with which a router ends where a machine reads the log; a person is told it in a sentence.
func inFormat(err error, c config.Log, log *slog.Logger) error {
	if err == nil || c.Format != "json" {
		return err
	}
	log.Error("the router ends", "error", err)
	return errors.Join(errSaid, err)
}

// runFlags are what run is told.
type runFlags struct {
	file, state, socket, profile, confinement string
	workers                                   int
	takeOver, offload, pickUp, noMetrics      bool
}

func (f *runFlags) of(c *cobra.Command) {
	c.Flags().StringVarP(&f.file, "config", "c", "", configUsage)
	c.Flags().StringVar(&f.state, "state", defaultState, "directory for what a killed run leaves to be undone")
	c.Flags().StringVar(&f.socket, "socket", "", "the control socket (default: the configuration's)")
	c.Flags().IntVar(&f.workers, "workers", max(1, runtime.NumCPU()/2), "threads that forward, each with a queue of its own on both sides; the default leaves half of the processors to the guests' vifs")
	c.Flags().Lookup("workers").DefValue = "half of the processors" // manual pages are the same wherever they are made
	c.Flags().StringVar(&f.confinement, "confine", confineAuto, "give up what is not needed any more once all is open: auto, as far as the kernel can; strict, and a system call that is refused ends the program; off")
	c.Flags().BoolVar(&f.offload, "offload", false, "have the kernel forward flows that are decided (Linux 6.6)")
	c.Flags().BoolVar(&f.takeOver, "takeover", false, "take over from the router that answers on the control socket, if one does, without loss: it ends")
	c.Flags().BoolVar(&f.pickUp, "pick-up", false, fmt.Sprintf("for %v let TCP connections go on that another router has forwarded, where the rules would admit them; so it is after kill -9 without this", router.PickUpTime))
	c.Flags().BoolVar(&f.noMetrics, "no-metrics", false, "offer no metrics, whatever the configuration says")
	c.Flags().StringVar(&f.profile, "cpuprofile", "", "write where the program's processor time went to this file (go tool pprof)")
}

// takeRunFlags has a command take those flags of run that it does not have itself, so that a script can give it what it gives run. They mean nothing to it.
func takeRunFlags(c *cobra.Command) {
	run := new(cobra.Command)
	new(runFlags).of(run)
	run.Flags().VisitAll(func(f *pflag.Flag) {
		if c.Flags().Lookup(f.Name) == nil {
			f.Hidden = true
			c.Flags().AddFlag(f)
		}
	})
}

// What --confine takes.
const confineAuto, confineStrict, confineOff = "auto", "strict", "off"

var confinements = []string{confineAuto, confineStrict, confineOff}

// profiled does something and writes a profile of it.
func profiled(file string, do func() error) (err error) {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := pprof.StartCPUProfile(f); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	return do()
}

// route opens everything, in an order in which nothing passes before it is guarded: the TAP joins the bridge only when the
// kernel's guards are up, and nobody reads it before all is open. What was changed is put back in the opposite order.
// confined, where it is not nil, is called in between: before the first packet is read.
func route(ctx context.Context, cfg *config.Config, around *surroundings, f runFlags, log *slog.Logger, confined func() error) (err error) {
	var closers []func() error
	defer func() {
		for i := len(closers) - 1; i >= 0; i-- {
			err = errors.Join(err, closers[i]())
		}
	}()
	hup, stop := hangupSignal()
	defer stop()
	kernel, err := stack.ReadKernel(cfg.Uplink.Name)
	if err != nil {
		return err
	}
	h := heir{Heritage: router.FromStore(), log: log}
	h.waits = f.takeOver && h.Heritage == nil
	defer func() { err = h.abandon(ctx, err) }() // before anything is put back, which stays the other router's
	if h.waits {
		if h.Heritage, err = router.TakeOver(ctx, cfg); err != nil {
			return err
		}
	}
	guard, err := h.acquire(ctx, f.state, cfg.Bridge.Name, log) // before the TAP, which may be another router's
	if err != nil {
		return err
	}
	closers = append(closers, guard.Close)
	store, err := hotplug.Open(f.state)
	if err != nil {
		return err
	}
	routerMAC := router.RouterMAC(cfg, kernel.Uplink.MAC)
	around.ports = &hotplug.Ports{Store: store, Interfaces: guard.Interfaces, RouterMAC: routerMAC, Log: log}
	if cfg, err = around.ports.Attach(cfg); err != nil { // what is named after this look is settled when the router runs
		return err
	}
	around.ports.Tell(nil, cfg.Attached)
	mtu := router.GuestMTU(cfg, kernel)
	o := router.Options{Config: cfg, Around: around, Hotplug: vifs{around.ports, guard}, Log: log, RouterMAC: routerMAC, GuestMTU: mtu,
		ReadKernel: func() (stack.Kernel, error) { return stack.ReadKernel(cfg.Uplink.Name) }, Watch: stack.WatchKernel,
		HostUplink: func() ([]router.HostCount, error) { return hostCounts(guard) },
		WatchPort:  func(index int, own policy.MAC) (router.PortWatch, error) { return stack.WatchPort(index, own) }}
	tap, err := h.tap(cfg.Bridge.TAP, mtu, f.workers)
	if err != nil {
		return err
	}
	closers = append(closers, tap.Close)
	o.Guests = tap
	if n := len(tap.Queues()); n < f.workers { // as many on the uplink, or a flow's two directions would have different workers
		log.Warn("the TAP takes fewer queues than there are workers; delete it, or make it with multi_queue", "tap", cfg.Bridge.TAP, "queues", n, "workers", f.workers)
		f.workers = n
	}
	if cfg.Host != nil {
		tun, err := h.tun(cfg.Host.Interface, mtu)
		if err != nil {
			return err
		}
		closers = append(closers, tun.Close)
		o.Host = tun
	}
	around.guard, around.spec = guard, func(cfg *config.Config) dom0.Spec { return dom0Spec(cfg, kernel, o.RouterMAC, mtu, f.state, log) }
	if err := guard.Start(around.spec(cfg)); err != nil {
		return err
	}
	closers = append(closers, guard.Close) // first of all at the end: while TAP and TUN are there
	uplink, err := h.uplink(cfg.Uplink.Name, f.workers)
	if err != nil {
		return err
	}
	closers = append(closers, uplink.Close)
	o.Uplink = uplink
	if f.offload {
		if o.Tier, err = openTier(cfg, uplink); err != nil {
			log.Warn("the kernel forwards nothing by itself; the router does", "error", err)
		} else {
			closers = append(closers, o.Tier.Close)
		}
	}
	if o.Control, err = h.listen(cfg.Control); err != nil {
		return err
	}
	o.Dom0, o.StateDir = guard, f.state
	closers = append(closers, closing(o.Control))
	if o.Metrics, err = h.listenMetrics(cfg); err != nil {
		return err
	}
	if o.Metrics != nil {
		closers = append(closers, closing(o.Metrics))
	}
	r, err := router.New(o)
	if err != nil {
		return err
	}
	for _, text := range stack.ForwardingWarnings() {
		log.Warn(text)
	}
	if confined != nil {
		if err := confined(); err != nil {
			return fmt.Errorf("confining the process: %w; --confine=off goes without", err)
		}
	}
	lost, err := h.inherit(ctx, r, f.pickUp || guard.Recovered(), log)
	if err != nil {
		return err
	}
	if lost {
		log.Info("connections whose flows the router before this one has not left are picked up where the rules admit them", "for", router.PickUpTime)
		r.PickUp()
	}

	g, ctx := errgroup.WithContext(storing(ctx, r, log))
	g.Go(func() error { return guard.Run(ctx) })
	g.Go(func() error {
		return r.Run(ctx, func() {
			g.Go(func() error { return hangups(ctx, r, log, hup) })
			g.Go(func() error { return watchdog(ctx, r, log) })
			if cfg.Metrics != nil {
				log.Info("metrics are offered", "at", cfg.Metrics.Listen)
			}
			log.Info("ready", "uplink", cfg.Uplink.Name, "bridge", cfg.Bridge.Name, "domus", len(cfg.Domus), "router_mac", o.RouterMAC)
			notify(log, daemon.SdNotifyReady)
			if !router.UnderSystemd() { // who has awaited the start is not there any more
				os.Unsetenv("NOTIFY_SOCKET")
			}
		})
	})
	err = g.Wait()
	notify(log, daemon.SdNotifyStopping)
	if errors.Is(err, router.ErrHandedOver) {
		return nil
	}
	return err
}

// closing closes a listener, which the router may have closed before.
func closing(l net.Listener) func() error {
	return func() error {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	}
}

// openTier has the kernel ready to forward flows, and leave the others to the uplink's sockets.
func openTier(cfg *config.Config, uplink *stack.Uplink) (*offload.Tier, error) {
	t, err := offload.Open(cfg.Bridge.TAP, len(cfg.Domus), router.Neighbours)
	if err != nil {
		return nil, err
	}
	if err := uplink.SetScreen(t); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// hostCounts is what the rules of host.uplink have counted.
func hostCounts(guard *dom0.Dom0) (list []router.HostCount, err error) {
	counts, err := guard.InputCounts()
	for _, c := range counts {
		list = append(list, router.HostCount(c))
	}
	return list, err
}

// dom0Spec is what dom0's kernel is to be like while the router runs.
func dom0Spec(cfg *config.Config, kernel stack.Kernel, mac policy.MAC, mtu int, state string, log *slog.Logger) dom0.Spec {
	s := dom0.Spec{Uplink: cfg.Uplink.Name, Bridge: cfg.Bridge.Name, MTU: mtu, TxQueueLen: stack.TxQueueLen, TAP: cfg.Bridge.TAP, RouterMAC: mac, Isolate: cfg.Bridge.Isolate, StateDir: state, Log: log,
		UplinkLL: router.UplinkLinkLocal(kernel)}
	if cfg.Host != nil {
		s.HostTUN, s.HostUplink = cfg.Host.Interface, cfg.Host.Uplink
	}
	for _, n := range cfg.Networks {
		s.Guests = append(s.Guests, n.Prefix)
		if n.Upstream == config.Routed && cfg.Host != nil {
			s.HostRoutes = append(s.HostRoutes, n.Prefix)
		}
		if n.Upstream == config.Proxied && !n.Gateway.IsLinkLocalUnicast() {
			s.Answered = append(s.Answered, n.Gateway)
		}
	}
	for _, a := range cfg.Attached {
		s.Hotplugged = append(s.Hotplugged, a.Index)
	}
	for _, d := range cfg.Domus {
		if d.Vif != "" {
			s.Ports = append(s.Ports, dom0.Port{Vif: d.Vif, Index: d.Index, MACs: []policy.MAC{d.MAC}})
		}
		for _, p := range append(append([]netip.Prefix(nil), d.IPv4...), d.IPv6...) {
			if p.Addr().IsLinkLocalUnicast() {
				continue
			}
			s.Bound = append(s.Bound, p)
			if n := cfg.NetworkOf(p.Addr()); cfg.Host != nil && n != nil && n.Upstream == config.Proxied {
				s.HostRoutes = append(s.HostRoutes, p)
			}
		}
	}
	return s
}

// notify tells systemd, where it has asked to be told (sd_notify(3)).
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("telling systemd failed", "error", fmt.Errorf("%s: %w", state, err))
	}
}
