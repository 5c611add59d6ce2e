package router

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"udrouter/config"
	"udrouter/policy"
	"udrouter/stack"
)

// Bounds of what is remembered of one guest, so that one with a whole prefix cannot fill the memory of others.
const (
	maxPresent  = 1024 // addresses that have shown themselves
	maxAwaited  = 64   // addresses that are being probed at a time
	maxWaiting  = 4    // solicitations that wait for one of them
	announceFor = 3    // RFC 4861 10: MAX_NEIGHBOR_ADVERTISEMENT, a second apart
)

// presence knows which guests have shown themselves. Memory is bounded; safe for concurrent use.
type presence struct {
	r     *Router
	wake  chan struct{}
	renew chan struct{} // the router needs another link-local address on the uplink
}

type guestPresence struct {
	seen atomic.Bool  // a frame has come since its vif appeared
	left atomic.Int32 // announcements still to be sent

	mu      sync.Mutex
	until   map[netip.Addr]time.Duration // how long an address that has shown itself counts as present
	waiting map[netip.Addr]*awaited
}

type awaited struct {
	replies []*stack.Frame
	until   time.Duration
}

func newPresence(r *Router) *presence {
	return &presence{r: r, wake: make(chan struct{}, 1), renew: make(chan struct{}, 1)}
}

// appeared notes that a guest has sent something; the first time it is announced.
func (w *worker) appeared(g *policy.Guest) {
	if s := w.world.states[g.ID]; !s.seen.Load() && !s.seen.Swap(true) {
		w.presence.announce(s)
	}
}

// announce makes the task tell the upstream about a guest.
func (s *presence) announce(g *guestState) {
	g.left.Store(announceFor)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// announceAll does so for all guests that are there, after the uplink came up or changed its MAC.
func (s *presence) announceAll(wd *world) {
	for _, g := range wd.states {
		if g.seen.Load() {
			s.announce(g)
		}
	}
}

// vanished forgets a guest whose vif is gone, so that it is announced when it returns.
func (p *guestPresence) vanished() {
	p.seen.Store(false)
	p.left.Store(0)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.until = nil
}

// present notes that a guest has shown an address that is its own, and releases the answers that waited for it.
func (w *worker) present(g *policy.Guest, a netip.Addr) {
	n := w.world.Network(a)
	if n == nil || w.world.config[n].Proxy.Answer != config.AnswerLearned || w.world.ByAddr(a) != g {
		return
	}
	waiting := w.world.of(g).learn(a, w.now(), w.world.config[n].Proxy.TTL)
	w.out[stack.UplinkSide] = append(w.out[stack.UplinkSide], waiting...)
}

func (p *guestPresence) learn(a netip.Addr, now, ttl time.Duration) []*stack.Frame {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.until == nil {
		p.until = map[netip.Addr]time.Duration{}
	}
	if _, ok := p.until[a]; !ok && len(p.until) >= maxPresent {
		for other := range p.until { // of this guest's; not the oldest, for which all would have to be looked through
			delete(p.until, other)
			break
		}
	}
	p.until[a] = now + ttl
	waiting := p.waiting[a]
	if waiting == nil {
		return nil
	}
	delete(p.waiting, a)
	return waiting.replies
}

// shown tells whether a guest's address has shown itself within the network's TTL. If not, the reply is kept for when it does.
func (p *guestPresence) shown(n *config.Network, a netip.Addr, reply *stack.Frame, now time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if until, ok := p.until[a]; ok {
		if now < until {
			return true
		}
		delete(p.until, a)
	}
	waiting := p.waiting[a]
	if waiting == nil {
		if len(p.waiting) >= maxAwaited {
			return false
		}
		if p.waiting == nil {
			p.waiting = map[netip.Addr]*awaited{}
		}
		waiting = new(awaited)
		p.waiting[a] = waiting
	}
	waiting.until = now + n.Proxy.Timeout
	if len(waiting.replies) < maxWaiting {
		waiting.replies = append(waiting.replies, reply)
	}
	return false
}

// expire forgets what has waited too long, and addresses that have not shown themselves for too long.
func (p *guestPresence) expire(now time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.until, func(_ netip.Addr, until time.Duration) bool { return until <= now })
	for a, w := range p.waiting {
		if w.until <= now {
			delete(p.waiting, a)
		}
	}
}

// probe asks a guest whether it is there, as its gateway would.
func (s *presence) probe(wd *world, g *policy.Guest, a netip.Addr) *stack.Frame {
	if a.Is6() {
		return stack.BuildNS(g.MAC, wd.RouterMAC, linkLocal1, policy.SolicitedNode(a), a)
	}
	return stack.BuildARP(1, g.MAC, wd.RouterMAC, wd.Network(a).Gateway, policy.MAC{}, a)
}

// run announces guests and forgets what waited too long.
func (s *presence) run(ctx context.Context, asked <-chan struct{}) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		timer := false
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-s.renew:
			_ = s.r.update() // the kernel watch repeats what fails
			s.r.detectDuplicate()
		case <-asked:
			continue
		case <-tick.C:
			timer = true
		}
		s.work(timer)
	}
}

func (s *presence) work(timer bool) {
	wd, done := s.r.aside()
	defer done()
	for i, p := range wd.states {
		if timer {
			p.expire(s.r.now())
		}
		// A guest that has just appeared is announced at once, and then by the clock.
		if left := p.left.Load(); left > 0 && (timer || left == announceFor) && p.left.CompareAndSwap(left, left-1) {
			s.r.links[stack.UplinkSide].Write(s.r.announcements(wd, wd.Guests[i]))
		}
	}
}

// gateways tell the guests where their gateways are now: until the router has run they may have been somebody else's, at another MAC, which guests keep
// for as long as they get no answer from there. So say ARP announcements (RFC 5227 3) and unsolicited advertisements (RFC 4861 7.2.6). Once: the bridge loses none.
func (wd *world) gateways() []*stack.Frame {
	list := map[netip.Addr]bool{linkLocal1: true}
	for _, n := range wd.Networks {
		list[n.Gateway] = true
	}
	var out []*stack.Frame
	for _, a := range slices.SortedFunc(maps.Keys(list), netip.Addr.Compare) {
		switch {
		case wd.ByAddr(a) != nil: // a file that binds it is warned of; the guest is not told that its own address is elsewhere
		case a.Is4():
			out = append(out, stack.BuildARP(1, policy.BroadcastMAC, wd.RouterMAC, a, policy.MAC{}, a))
		default:
			out = append(out, stack.BuildNA(allNodesMAC, wd.RouterMAC, a, allNodes, a, policy.NARouter|policy.NAOverride))
		}
	}
	return out
}

// announcements tell the upstream where a guest's addresses are: unsolicited advertisements (RFC 4861 7.2.6) and ARP
// announcements (RFC 5227 3). A prefix has no list of addresses; they are announced when the upstream asks.
func (r *Router) announcements(wd *world, g *policy.Guest) []*stack.Frame {
	var out []*stack.Frame
	for _, a := range wd.announced(g) {
		n := wd.config[wd.Network(a)]
		if a.Is4() {
			out = append(out, stack.BuildARP(1, policy.BroadcastMAC, wd.UplinkMAC, a, policy.MAC{}, a))
			continue
		}
		from := wd.UplinkLL
		if n.Proxy.Source == config.SourceTarget {
			from = a
		}
		out = append(out, stack.BuildNA(allNodesMAC, wd.UplinkMAC, from, allNodes, a, r.proxyFlags(g, n)))
	}
	return out
}

// announced are the addresses of a guest that the upstream is told of unasked.
func (wd *world) announced(g *policy.Guest) (list []netip.Addr) {
	for _, p := range g.Addrs {
		a := p.Addr()
		n := wd.Network(a)
		if n != nil && n.Proxied && p.IsSingleIP() && !wd.Taken[a] && wd.config[n].Proxy.Announce {
			list = append(list, a)
		}
	}
	return list
}
