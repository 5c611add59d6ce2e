package router

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"udrouter/config"
	"udrouter/policy"
	"udrouter/stack"
)

const (
	maxPresent  = 65536 // addresses remembered, of all guests
	maxWaiting  = 4     // solicitations that wait for one guest's answer
	maxAwaited  = 1024  // addresses that are being probed at a time
	announceFor = 3     // RFC 4861 10: MAX_NEIGHBOR_ADVERTISEMENT, a second apart
)

// presence knows which guests have shown themselves. Memory is bounded; safe for concurrent use.
type presence struct {
	r    *Router
	seen []atomic.Bool  // by guest: a frame has come since its vif appeared
	left []atomic.Int32 // by guest: announcements still to be sent
	wake chan struct{}

	renew chan struct{} // the router needs another link-local address on the uplink

	mu      sync.Mutex
	last    map[netip.Addr]time.Duration // when an address last answered
	waiting map[netip.Addr]*awaited
}

type awaited struct {
	replies []*stack.Frame
	until   time.Duration
}

func newPresence(r *Router, guests int) *presence {
	return &presence{r: r, seen: make([]atomic.Bool, guests), left: make([]atomic.Int32, guests), wake: make(chan struct{}, 1), renew: make(chan struct{}, 1),
		last: map[netip.Addr]time.Duration{}, waiting: map[netip.Addr]*awaited{}}
}

// appeared notes that a guest has sent something; the first time it is announced.
func (w *worker) appeared(g *policy.Guest) {
	if !w.presence.seen[g.ID].Load() && !w.presence.seen[g.ID].Swap(true) {
		w.presence.announce(g)
	}
}

// announce makes the task tell the upstream about a guest.
func (s *presence) announce(g *policy.Guest) {
	s.left[g.ID].Store(announceFor)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// announceAll does so for all guests that are there, after the uplink came up or changed its MAC.
func (s *presence) announceAll(b *policy.Bindings) {
	for _, g := range b.Guests {
		if s.seen[g.ID].Load() {
			s.announce(g)
		}
	}
}

// vanished forgets a guest whose vif is gone, so that it is announced when it returns.
func (s *presence) vanished(g *policy.Guest) {
	s.seen[g.ID].Store(false)
	s.left[g.ID].Store(0)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range g.Addrs {
		delete(s.last, p.Addr())
	}
}

// present notes that a guest has shown an address that is its own, and releases the answers that waited for it.
func (w *worker) present(g *policy.Guest, a netip.Addr) {
	if n := w.world.Network(a); n == nil || w.world.config[n].Proxy.Answer != config.AnswerLearned || w.world.ByAddr(a) != g {
		return
	}
	w.out[stack.UplinkSide] = append(w.out[stack.UplinkSide], w.presence.learn(a)...)
}

func (s *presence) learn(a netip.Addr) []*stack.Frame {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.last[a]; ok || len(s.last) < maxPresent {
		s.last[a] = s.r.now()
	}
	waiting := s.waiting[a]
	if waiting == nil {
		return nil
	}
	delete(s.waiting, a)
	return waiting.replies
}

// answers tells whether a guest's address has answered within the network's TTL. If not, the reply is kept for when it does.
func (s *presence) answers(g *policy.Guest, n *config.Network, a netip.Addr, reply *stack.Frame) bool {
	now := s.r.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, ok := s.last[a]; ok {
		if now-at < n.Proxy.TTL {
			return true
		}
		delete(s.last, a)
	}
	waiting := s.waiting[a]
	if waiting == nil {
		if len(s.waiting) >= maxAwaited {
			return false
		}
		waiting = new(awaited)
		s.waiting[a] = waiting
	}
	waiting.until = now + n.Proxy.Timeout
	if len(waiting.replies) < maxWaiting {
		waiting.replies = append(waiting.replies, reply)
	}
	return false
}

// probe asks a guest whether it is there, as its gateway would.
func (s *presence) probe(wd *world, g *policy.Guest, a netip.Addr) *stack.Frame {
	if a.Is6() {
		return stack.BuildNS(g.MAC, wd.RouterMAC, linkLocal1, policy.SolicitedNode(a), a)
	}
	return stack.BuildARP(1, g.MAC, wd.RouterMAC, wd.Network(a).Gateway, policy.MAC{}, a)
}

// run announces guests and forgets what waited too long.
func (s *presence) run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		timer := false
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-s.renew:
			s.r.update()
			s.r.detectDuplicate()
		case <-tick.C:
			timer = true
			s.expire()
		}
		wd := s.r.current.Load()
		for _, g := range wd.Guests {
			// A guest that has just appeared is announced at once, and then by the clock.
			if left := s.left[g.ID].Load(); left > 0 && (timer || left == announceFor) && s.left[g.ID].CompareAndSwap(left, left-1) {
				s.r.links[stack.UplinkSide].Write(s.r.announcements(wd, g))
			}
		}
	}
}

func (s *presence) expire() {
	now := s.r.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for a, w := range s.waiting {
		if w.until <= now {
			delete(s.waiting, a)
		}
	}
}

// announcements tell the upstream where a guest's addresses are: unsolicited advertisements (RFC 4861 7.2.6) and ARP
// announcements (RFC 5227 3). A prefix has no list of addresses; they are announced when the upstream asks.
func (r *Router) announcements(wd *world, g *policy.Guest) []*stack.Frame {
	var out []*stack.Frame
	for _, p := range g.Addrs {
		a := p.Addr()
		n := wd.Network(a)
		if n == nil || !n.Proxied || !p.IsSingleIP() || wd.Held[a] || wd.Upstream[a] || !wd.config[n].Proxy.Announce {
			continue
		}
		if a.Is4() {
			out = append(out, stack.BuildARP(1, policy.BroadcastMAC, wd.UplinkMAC, a, policy.MAC{}, a))
			continue
		}
		from := wd.UplinkLL
		if wd.config[n].Proxy.Source == config.SourceTarget {
			from = a
		}
		out = append(out, stack.BuildNA(allNodesMAC, wd.UplinkMAC, from, allNodes, a, r.proxyFlags(g, wd.config[n])))
	}
	return out
}
