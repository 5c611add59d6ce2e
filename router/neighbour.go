package router

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"udrouter/policy"
	"udrouter/stack"
)

const (
	maxNeighbours = 256 // on-link hosts on the uplink, besides gateways
	maxPending    = 16  // packets that wait for one neighbour
	idleTicks     = 60  // seconds after which an on-link host is forgotten
	retryAfter    = time.Second
)

// neighbours are the next hops on the uplink. Their MACs come from netstack, which asks and checks; here is what a worker
// needs a packet at a time. Safe for concurrent use.
type neighbours struct {
	r  *Router
	mu sync.RWMutex
	m  map[netip.Addr]*neighbour

	ask chan netip.Addr // to resolve; what does not fit is asked for at the next packet
}

type neighbour struct {
	addr    netip.Addr
	gateway bool
	bits    atomic.Uint64 // the MAC, 0 while unknown
	used    atomic.Bool   // since the last tick
	doubts  atomic.Int32  // since the last tick: the first is looked into at once, the others together at the tick

	mu       sync.Mutex
	pending  []pendingFrame
	failedAt time.Duration // 0: not failed
	idle     int
}

type pendingFrame struct {
	frame *stack.Frame
	from  *policy.Guest
	own   bool // the router's, which takes nothing from its TTL
}

func newNeighbours(r *Router) *neighbours {
	return &neighbours{r: r, m: map[netip.Addr]*neighbour{}, ask: make(chan netip.Addr, maxNeighbours)}
}

// mac is the neighbour's MAC, if it is known.
func (n *neighbour) mac() (policy.MAC, bool) {
	if !n.used.Load() {
		n.used.Store(true)
	}
	b := n.bits.Load()
	return policy.MAC{byte(b >> 40), byte(b >> 32), byte(b >> 24), byte(b >> 16), byte(b >> 8), byte(b)}, b != 0
}

func bits(m policy.MAC) uint64 {
	var b uint64
	for _, o := range m {
		b = b<<8 | uint64(o)
	}
	return b
}

// get finds a neighbour or makes it. It is nil where a guest asks for more new ones than its share, or the table is full
// of ones in use.
func (s *neighbours) get(a netip.Addr, gateway bool, from *policy.Guest) *neighbour {
	if n := s.lookup(a); n != nil {
		return n
	}
	if !gateway && !s.r.limits.newNeighbour(from) {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.m[a]; n != nil {
		return n
	}
	if !gateway && len(s.m) >= maxNeighbours && !s.evict() {
		return nil
	}
	n := &neighbour{addr: a, gateway: gateway}
	s.m[a] = n
	return n
}

// evict makes room at the cost of a host that nobody has used since the last tick.
func (s *neighbours) evict() bool {
	for a, n := range s.m {
		if !n.gateway && !n.used.Load() {
			delete(s.m, a)
			return true
		}
	}
	return false
}

// lookup finds a neighbour, or nil.
func (s *neighbours) lookup(a netip.Addr) *neighbour {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.m[a]
}

// tracks tells whether an address is a next hop, so that answers from it are of interest.
func (s *neighbours) tracks(a netip.Addr) bool { return s.lookup(a) != nil }

// wait keeps a packet until its neighbour is known, and has it asked for.
func (s *neighbours) wait(n *neighbour, f pendingFrame) {
	n.mu.Lock()
	reason := policy.None
	switch {
	case n.failedAt != 0 && s.r.now()-n.failedAt < retryAfter:
		reason = policy.NoNeighbour
	case len(n.pending) >= maxPending:
		reason = policy.QueueFull
	default:
		n.failedAt = 0
		n.pending = append(n.pending, f)
	}
	n.mu.Unlock()
	if reason != policy.None {
		s.r.count(f.from, reason, nil)
		return
	}
	select {
	case s.ask <- n.addr:
	default:
	}
}

// doubt is called with a MAC that a neighbour is said to have, unasked. Nobody is believed: if it differs, netstack asks
// the neighbour itself, while packets go on to the old MAC.
func (s *neighbours) doubt(a netip.Addr, m policy.MAC) {
	n := s.lookup(a)
	if n == nil {
		return
	}
	if known := n.bits.Load(); known == 0 || known == bits(m) {
		return
	}
	if n.doubts.Add(1) == 1 {
		s.askAnew(s.r.netstack.Load(), n)
	}
}

// askAnew makes netstack ask for a neighbour whatever it believes to know.
func (s *neighbours) askAnew(ns *stack.Netstack, n *neighbour) {
	ns.Forget(n.addr)
	ns.Resolve(n.addr)
}

// refresh asks for all neighbours anew, after the uplink was down or changed its MAC.
func (s *neighbours) refresh() {
	ns := s.r.netstack.Load()
	for _, n := range s.all() {
		s.askAnew(ns, n)
	}
}

func (s *neighbours) all() []*neighbour {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]*neighbour, 0, len(s.m))
	for _, n := range s.m {
		out = append(out, n)
	}
	return out
}

// keep makes the gateways of a world known from the start, so that the first packet does not wait.
func (s *neighbours) keep(gateways map[netip.Addr]bool) {
	for a := range gateways {
		s.get(a, true, nil).gateway = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for a, n := range s.m {
		if n.gateway && !gateways[a] {
			delete(s.m, a)
		}
	}
}

// run takes netstack's events, and once a second lets it check the neighbours that are in use.
func (s *neighbours) run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		ns := s.r.netstack.Load()
		select {
		case <-ctx.Done():
			return nil
		case <-s.r.rebuilt:
		case a := <-s.ask:
			ns.Resolve(a)
		case e := <-ns.Events():
			s.event(e)
		case <-tick.C:
			s.tick(ns)
		}
	}
}

func (s *neighbours) tick(ns *stack.Netstack) {
	for _, n := range s.all() {
		if n.doubts.Swap(0) > 1 {
			s.askAnew(ns, n)
		}
		if n.used.Swap(false) || n.gateway {
			n.idle = 0
			if mac, ok := ns.Resolve(n.addr); ok {
				s.event(stack.NeighbourEvent{Addr: n.addr, MAC: mac})
			}
		} else if n.idle++; n.idle >= idleTicks {
			s.mu.Lock()
			delete(s.m, n.addr)
			s.mu.Unlock()
		}
	}
}

// event takes a neighbour's new MAC, or its loss, and sends or gives up what waited.
func (s *neighbours) event(e stack.NeighbourEvent) {
	n := s.lookup(e.Addr)
	if n == nil || e.MAC.IsGroup() {
		return
	}
	n.bits.Store(bits(e.MAC))
	n.mu.Lock()
	pending := n.pending
	n.pending, n.failedAt = nil, 0
	if e.MAC.IsZero() {
		n.failedAt = s.r.now()
	}
	n.mu.Unlock()
	if len(pending) == 0 {
		return
	}
	w := s.r.newWorker(stack.Guests)
	w.world = s.r.current.Load()
	for _, f := range pending {
		w.resume(f, e.MAC)
	}
	w.flush()
}

// resume goes on with a packet that has waited.
func (w *worker) resume(f pendingFrame, mac policy.MAC) {
	if f.own {
		if !mac.IsZero() {
			dst, _ := destination(f.frame)
			f.frame.SetEthernet(mac, w.world.UplinkMAC, etherType(dst))
			w.out[stack.UplinkSide] = append(w.out[stack.UplinkSide], f.frame)
		}
		return
	}
	p := &w.pkt
	if r := p.Parse(f.frame.Bytes(), f.frame.Offload); r != policy.None {
		w.drop(f.from, r)
		return
	}
	if mac.IsZero() {
		w.drop(f.from, policy.NoNeighbour)
		w.report(p, f.from, stack.HostUnreachable)
		return
	}
	w.send(f.frame, p, f.from, hop{side: stack.UplinkSide, dst: mac, src: w.world.UplinkMAC, mtu: w.world.kernel.Uplink.MTU})
}
