package router

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"

	"udrouter/policy"
)

// PortWatch counts the frames that come in by a guest's bridge port with another source MAC than the guest's: the bridge's lock drops them, and the
// router's TAP never sees them.
type PortWatch interface {
	// SetMAC says with which MAC the guest may send.
	SetMAC(own policy.MAC) error

	// Take returns how many frames there were since it was called last, and the beginning of one of them or nil, valid until the next call.
	Take() (n uint64, frame []byte, err error)

	Close() error
}

// portWatches are the watches on the guests' ports. Between two routers of which one takes over there is none, for milliseconds.
type portWatches struct {
	mu    sync.Mutex
	ports map[int]*watchedPort // by the interfaces' indexes; nil while the router does not run
}

// watchedPort is a guest's port. Without a watch it could not be opened, and why says so.
type watchedPort struct {
	guest *policy.Guest
	watch PortWatch
	why   string
}

// guestPorts are the ports of the bridge that guests are bound to, by their indexes. Others are locked as well, but nobody's.
func (wd *world) guestPorts() map[int]*policy.Guest {
	list := map[int]*policy.Guest{}
	cfg := wd.plan.config
	for i, g := range wd.Guests {
		p, ok := wd.kernel.Ports[g.Vif]
		if index := cfg.Domus[i].Index; ok && p.Master == cfg.Bridge.Name && (index == 0 || index == p.Index) {
			list[p.Index] = g
		}
	}
	return list
}

func (r *Router) beginStrangers() {
	r.watches.mu.Lock()
	r.watches.ports = map[int]*watchedPort{}
	r.watches.mu.Unlock()
	r.countStrangers()
}

func (r *Router) endStrangers() {
	s := &r.watches
	s.mu.Lock()
	defer s.mu.Unlock()
	for index := range s.ports {
		r.unwatch(index)
	}
	s.ports = nil
}

// countStrangers counts what there was since the last time, and follows the ports that come, go, and get another guest or MAC. It says, a sentence each,
// which ports cannot be watched; they are tried again the next time.
func (r *Router) countStrangers() (warnings []string) {
	s := &r.watches
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ports == nil || r.WatchPort == nil {
		return nil
	}
	now := r.current.Load().guestPorts()
	for index, p := range s.ports {
		if r.takeStrangers(p); now[index] == nil {
			r.unwatch(index)
		}
	}
	for index, g := range now {
		if p := r.watch(index, g); p.why != "" {
			warnings = append(warnings, p.why)
		}
	}
	slices.Sort(warnings)
	return warnings
}

// watch has a port watched for its guest. s.mu is held.
func (r *Router) watch(index int, g *policy.Guest) *watchedPort {
	p := r.watches.ports[index]
	if p == nil {
		p = &watchedPort{guest: g}
		r.watches.ports[index] = p
	}
	var err error
	switch was := p.guest; {
	case p.watch == nil:
		p.watch, err = r.openWatch(index, g.MAC)
	case was.MAC != g.MAC:
		if err = p.watch.SetMAC(g.MAC); err != nil {
			err = errors.Join(err, p.watch.Close())
			p.watch = nil
		}
	}
	said := p.why
	switch p.guest, p.why = g, ""; {
	case err == nil:
	case errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO): // it has gone meanwhile, of which the kernel will tell
	default:
		if p.why = fmt.Sprintf("%s: what guest %q sends with another MAC than its own is dropped, but not counted: %v", g.Vif, g.Name, err); p.why != said {
			r.log.Warn(p.why)
		}
	}
	return p
}

// openWatch returns no watch that is nil and yet not.
func (r *Router) openWatch(index int, own policy.MAC) (PortWatch, error) {
	w, err := r.WatchPort(index, own)
	if err != nil {
		return nil, err
	}
	return w, nil
}

// unwatch forgets a port. s.mu is held.
func (r *Router) unwatch(index int) {
	if w := r.watches.ports[index].watch; w != nil {
		if err := w.Close(); err != nil {
			r.log.Debug("closing the watch on a guest's port", "index", index, "error", err)
		}
	}
	delete(r.watches.ports, index)
}

// takeStrangers counts what a watch has counted, for its guest. s.mu is held.
func (r *Router) takeStrangers(p *watchedPort) {
	if p.watch == nil {
		return
	}
	n, frame, err := p.watch.Take()
	if err != nil {
		r.log.Debug("counting what a guest sends with another MAC", "domu", p.guest.Name, "error", err)
	}
	if n == 0 {
		return
	}
	var packet *policy.Packet
	if frame != nil {
		packet = new(policy.Packet)
		packet.Parse(frame, policy.Offload{}) // a frame that was cut off is described as far as it goes
	}
	r.drops[policy.MACBinding].Add(n)
	p.guest.Counters.Drops[policy.MACBinding].Add(n)
	r.noteMany(&r.dropLog, n, nil, policy.MACBinding, 0, p.guest, packet)
}
