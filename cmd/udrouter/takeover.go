package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"udrouter/config"
	"udrouter/integration/dom0"
	"udrouter/router"
	"udrouter/stack"
)

// heir opens what `run` needs: what another router has handed over, or else anew.
type heir struct {
	*router.Heritage // nil: nobody has

	log   *slog.Logger
	leave []func() // has Close of what was opened leave it to the router that runs
	waits bool     // for a router that may run, and has neither taken over from it nor seen its end
}

// How long, and how often, a process that was to take over looks whether another one has ended, of which it has come too late.
const (
	endWait  = 15 * time.Second
	endPause = 50 * time.Millisecond
)

func (h *heir) acquire(ctx context.Context, state, bridge string, log *slog.Logger) (guard *dom0.Dom0, err error) {
	if h.Heritage == nil {
		for late := time.Now().Add(endWait); ; {
			guard, err = dom0.Acquire(state, bridge, log)
			if held := (*dom0.HeldError)(nil); !h.waits || !errors.As(err, &held) || time.Now().After(late) {
				h.waits = h.waits && err != nil
				return guard, err
			}
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(endPause):
			}
		}
	}
	lock := h.Lock
	h.Lock = -1
	if lock < 0 { // nobody has it
		guard, err = dom0.Acquire(state, bridge, log)
	} else {
		guard, err = dom0.Inherit(state, bridge, lock, log)
	}
	if err == nil {
		h.leave = append(h.leave, guard.Leave)
	}
	return guard, err
}

func (h *heir) tap(name string, mtu, queues int) (t *stack.TunTap, err error) {
	if h.Heritage == nil || h.Stored() && len(h.Guests) == 0 {
		return stack.OpenTAP(name, mtu, queues)
	}
	return adopted(h, &h.Guests, func(fds []int) (*stack.TunTap, error) { return stack.AdoptTAP(name, mtu, fds) },
		func() (*stack.TunTap, error) { return stack.OpenTAP(name, mtu, queues) })
}

func (h *heir) tun(name string, mtu int) (*stack.TunTap, error) {
	if h.Heritage == nil || h.Stored() && len(h.Host) == 0 {
		return stack.OpenTUN(name, mtu, 1)
	}
	return adopted(h, &h.Host, func(fds []int) (*stack.TunTap, error) { return stack.AdoptTUN(name, mtu, fds) },
		func() (*stack.TunTap, error) { return stack.OpenTUN(name, mtu, 1) })
}

func (h *heir) uplink(name string, queues int) (*stack.Uplink, error) {
	if h.Heritage == nil || h.Stored() && len(h.Uplink) == 0 {
		return stack.OpenUplink(name, stack.Filter{}, queues)
	}
	return adopted(h, &h.Uplink, func(fds []int) (*stack.Uplink, error) { return stack.AdoptUplink(name, fds) },
		func() (*stack.Uplink, error) { return stack.OpenUplink(name, stack.Filter{}, queues) })
}

// adopted takes descriptors over, and notes that. Those of systemd's store that cannot be used, since their link has another name now or is gone, are discarded:
// nobody else would, and each start would meet them again.
func adopted[L interface{ Release() }](h *heir, fds *[]int, adopt func([]int) (L, error), anew func() (L, error)) (L, error) {
	l, err := adopt(*fds)
	if err != nil && h.Stored() {
		h.log.Warn("what the router before this one has left in systemd's store cannot be used; the link is opened anew, and connections may not go on", "error", err)
		h.Discard(fds)
		return anew()
	}
	if err == nil {
		*fds = nil
		h.leave = append(h.leave, l.Release)
	}
	return l, err
}

func (h *heir) listen(c config.Control) (net.Listener, error) {
	if h.Heritage == nil || h.Control < 0 {
		return router.ListenControl(c)
	}
	return h.Listener()
}

// listenMetrics is nil where the configuration has no metrics.
func (h *heir) listenMetrics(cfg *config.Config) (net.Listener, error) {
	if h.Heritage == nil || h.Metrics < 0 {
		return router.ListenMetrics(cfg)
	}
	return h.MetricsListener()
}

// inherit has the other router end, and goes on with what that one knew. It tells whether that is lost; alone says so of one that does not run any more. When
// ctx ends before the other one is to stop, that one goes on.
func (h *heir) inherit(ctx context.Context, r *router.Router, alone bool, log *slog.Logger) (lost bool, err error) {
	if h.Heritage == nil {
		return alone, nil
	}
	read := func(f *os.File, by func(size int64) error) {
		defer f.Close()
		fi, err := f.Stat()
		if err == nil {
			err = by(fi.Size())
		}
		if err != nil {
			log.Error("the flows of the router before this one are lost", "error", err)
			lost = true
		}
	}
	err = h.Preload(ctx, func(f *os.File) (n int) {
		read(f, func(size int64) (err error) { n, err = r.Preload(f, size); return err })
		return n
	})
	if err != nil {
		return false, fmt.Errorf("taking over from the router that runs: %w", err)
	}
	snapshot, err := h.Freeze()
	if err != nil {
		return false, fmt.Errorf("taking over from the router that runs: %w", err)
	}
	if snapshot == nil {
		log.Warn("what the router before this one knew did not come: its flows are lost")
		lost = true
	} else {
		read(snapshot, func(size int64) error { return r.Restore(snapshot, size) })
	}
	if err := h.Taken(); err != nil {
		return false, fmt.Errorf("taking over from the router that runs: %w", err)
	}
	h.Heritage, h.waits = nil, false
	return lost, nil
}

// abandon leaves everything to the router that runs, where that has not ended for this one, and returns the error that there is nevertheless: none
// where this one was told to end before.
func (h *heir) abandon(ctx context.Context, err error) error {
	if h.Heritage != nil {
		for _, leave := range h.leave {
			leave()
		}
		h.Abandon(cmp.Or(err, errors.New("it has ended")))
	}
	if !h.waits || ctx.Err() == nil {
		return err
	}
	h.log.Info("told to end before it has taken over")
	return nil
}

// storing is a context that ends when ctx does, and a router has left what it has for the next one by then, if it was asked to. Where another process is about to
// take over, it ends by that.
func storing(ctx context.Context, r *router.Router, log *slog.Logger) context.Context {
	later, cancel := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() {
		defer cancel()
		log.Info("told to end")
		r.AwaitHandOver()
		if err := r.Store(); err != nil {
			log.Error("nothing is left for the next router", "error", err)
		}
	})
	return later
}
