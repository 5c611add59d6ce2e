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

// Neighbours is how many next hops flows may remember, those that are gateways included.
const Neighbours = 2 * maxNeighbours

const (
	maxNeighbours = 256         // on-link hosts on the uplink, besides gateways
	idleTicks     = 60          // seconds after which an on-link host is forgotten
	retryAfter    = time.Second // between two questions for a neighbour that did not answer
	checkEvery    = time.Second // between two checks of a neighbour that somebody else claims to be

	// What of one guest waits for neighbours at a time, all of them together.
	maxWaitingPackets = 64
	maxWaitingBytes   = 128 << 10
)

// neighbours are the next hops on the uplink. Their MACs come from netstack, which asks and checks; here is what a worker
// needs a packet at a time. Safe for concurrent use.
//
// Any station on the uplink can say that it is the gateway. Nobody is believed against a neighbour that is there: a claim makes the
// router ask the known MAC itself, and only when that stays silent does it ask everyone, and takes who answers.
type neighbours struct {
	r      *Router
	mu     sync.RWMutex
	m      map[netip.Addr]*neighbour
	slots  [Neighbours]atomic.Pointer[neighbour] // of those that flows may remember
	serial uint32                                // of the last that got one

	waiting sync.Mutex // protects all guests' shares

	ask chan netip.Addr // to resolve; what does not fit is asked for at the next packet
}

type share struct{ packets, bytes int }

type neighbour struct {
	addr    netip.Addr
	owner   *guestState // on whose behalf it is here
	gateway atomic.Bool
	bits    atomic.Uint64 // the MAC, 0 while unknown
	used    atomic.Bool   // since the last tick
	slot    int           // -1: none
	serial  uint32        // of the neighbour in its slot
	asking  atomic.Bool   // everyone was asked: who answers is believed

	mu        sync.Mutex
	pending   []pendingFrame
	failedAt  time.Duration // 0: not failed
	idle      int
	checkedAt time.Duration // when the known MAC was asked last, 0: never
	checking  bool          // and has not answered
	doubted   bool          // a claim came that is yet to be looked into
	removed   bool          // a worker may hold it still
}

type pendingFrame struct {
	frame *stack.Frame
	from  *policy.Guest
	plan  *plan // by which it was let through
	own   bool  // the router's, which takes nothing from its TTL
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
	return policy.MACFromBits(b), b != 0
}

// get finds a neighbour or makes it. It is nil where a guest asks for more new ones than its share, or the table is full of
// those of guests that have fewer.
func (s *neighbours) get(a netip.Addr, gateway bool, from *guestState) *neighbour {
	if n := s.lookup(a); n != nil {
		return n
	}
	if !gateway && !s.r.take(from.nextHops) {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.m[a]; n != nil {
		return n
	}
	if !gateway && len(s.m) >= maxNeighbours && !s.evict(from) {
		return nil
	}
	n := &neighbour{addr: a, owner: from}
	n.gateway.Store(gateway)
	s.m[a] = n
	s.place(n)
	return n
}

// place gives a neighbour a slot, if there is one. s.mu is held.
func (s *neighbours) place(n *neighbour) {
	n.slot = -1
	for i := range s.slots {
		if s.slots[i].Load() == nil {
			s.serial++
			n.slot, n.serial = i, s.serial
			s.slots[i].Store(n)
			s.learned(n, policy.MAC{})
			return
		}
	}
}

// evict makes room for a neighbour of a guest's: at the cost of a host that nobody has used since the last tick, or else of the guest
// that has most. s.mu is held.
func (s *neighbours) evict(from *guestState) bool {
	count := map[*guestState]int{}
	var most *neighbour
	for _, n := range s.m {
		if n.gateway.Load() {
			continue
		}
		if !s.inUse(n) {
			s.remove(n)
			return true
		}
		if count[n.owner]++; most == nil || count[n.owner] > count[most.owner] {
			most = n
		}
	}
	if most == nil || count[most.owner] <= count[from] {
		return false
	}
	s.remove(most)
	return true
}

// remove forgets a neighbour, if nobody has before; what waited for it is lost. s.mu is held.
func (s *neighbours) remove(n *neighbour) {
	if s.m[n.addr] != n { // what is there now, and in its slot, is another
		return
	}
	delete(s.m, n.addr)
	n.mu.Lock()
	s.tell(n, policy.MAC{})
	n.removed = true
	n.mu.Unlock()
	if n.slot >= 0 {
		s.slots[n.slot].Store(nil)
	}
	for _, f := range s.release(n, 0) {
		s.r.count(f.from, policy.NoNeighbour, nil)
	}
}

// lookup finds a neighbour, or nil.
func (s *neighbours) lookup(a netip.Addr) *neighbour {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.m[a]
}

// wait keeps a packet until its neighbour is known, and has it asked for.
func (s *neighbours) wait(n *neighbour, f pendingFrame) {
	if reason := s.enqueue(n, f); reason != policy.None {
		s.r.count(f.from, reason, nil)
		return
	}
	select {
	case s.ask <- n.addr:
	default:
	}
}

func (s *neighbours) enqueue(n *neighbour, f pendingFrame) policy.Reason {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.removed || n.failedAt != 0 && s.r.now()-n.failedAt < retryAfter {
		return policy.NoNeighbour
	}
	if !s.account(f, 1) {
		return policy.QueueFull
	}
	n.failedAt = 0
	n.pending = append(n.pending, f)
	return policy.None
}

// account adds a packet to what waits of its guest, or takes it away; false where it has no more room.
func (s *neighbours) account(f pendingFrame, sign int) bool {
	s.waiting.Lock()
	defer s.waiting.Unlock()
	sh := &f.plan.of(f.from).share
	size := len(f.frame.Bytes())
	if sign > 0 && (sh.packets >= maxWaitingPackets || sh.bytes+size > maxWaitingBytes) {
		return false
	}
	sh.packets += sign
	sh.bytes += sign * size
	return true
}

// release takes out what waits for a neighbour; failedAt is when it was found not to answer, 0 for not.
func (s *neighbours) release(n *neighbour, failedAt time.Duration) []pendingFrame {
	n.mu.Lock()
	defer n.mu.Unlock()
	pending := n.pending
	n.pending, n.failedAt = nil, failedAt
	for _, f := range pending {
		s.account(f, -1)
	}
	return pending
}

// answered takes a station's answer to a question of ours. It tells whether netstack is to have it; an answer that contradicts
// what is known is a claim like any other.
func (s *neighbours) answered(a netip.Addr, m policy.MAC) bool {
	n := s.lookup(a)
	if n == nil {
		return false
	}
	known := n.bits.Load()
	switch {
	case known == m.Bits():
		n.mu.Lock()
		n.checking = false
		n.mu.Unlock()
		return true
	case known == 0, n.asking.Load():
		return true
	}
	s.claimed(a, m)
	return false
}

// claimed is called with a MAC that a neighbour is said to have. If it is another one, the known one is asked, at most once a second
// whoever says what, while packets go on to it.
func (s *neighbours) claimed(a netip.Addr, m policy.MAC) {
	n := s.lookup(a)
	if n == nil {
		return
	}
	known := n.bits.Load()
	if known == 0 || known == m.Bits() || n.asking.Load() {
		return
	}
	n.mu.Lock()
	check := n.checkedAt == 0 || s.r.now()-n.checkedAt >= checkEvery && !n.checking
	if check {
		n.startCheck(s.r.now())
	} else {
		n.doubted = true
	}
	n.mu.Unlock()
	if check {
		s.check(n)
	}
}

func (n *neighbour) startCheck(now time.Duration) {
	n.checkedAt, n.checking, n.doubted = max(now, 1), true, false
}

// check asks the known MAC whether it still has the address (RFC 4861 7.3.1; RFC 1122 2.3.2.1 for ARP).
func (s *neighbours) check(n *neighbour) {
	mac, ok := n.mac()
	if !ok {
		return
	}
	wd := s.r.current.Load()
	f := stack.BuildARP(1, mac, wd.UplinkMAC, wd.address4, policy.MAC{}, n.addr)
	if n.addr.Is6() {
		f = stack.BuildNS(mac, wd.UplinkMAC, wd.UplinkLL, n.addr, n.addr)
	} else if !wd.address4.IsValid() {
		return
	}
	s.r.links[stack.UplinkSide].Write([]*stack.Frame{f})
}

// followUp is what a tick makes of doubts: one that is still open is looked into, and a neighbour that did not answer its check is
// asked for anew.
func (s *neighbours) followUp(ns *stack.Netstack, n *neighbour) {
	now := s.r.now()
	n.mu.Lock()
	due := n.checkedAt != 0 && now-n.checkedAt >= checkEvery
	silent := due && n.checking
	check := due && !silent && n.doubted
	switch {
	case silent:
		n.checking, n.doubted = false, false
	case check:
		n.startCheck(now)
	}
	n.mu.Unlock()
	if silent {
		s.askAnew(ns, n)
	} else if check {
		s.check(n)
	}
}

// askAnew makes netstack ask everyone for a neighbour, whatever it believes to know.
func (s *neighbours) askAnew(ns *stack.Netstack, n *neighbour) {
	n.asking.Store(true)
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
		s.get(a, true, s.r.nobody).gateway.Store(true)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for a, n := range s.m {
		if n.gateway.Load() && !gateways[a] {
			s.remove(n)
		}
	}
}

// run takes netstack's events, and once a second lets it check the neighbours that are in use.
func (s *neighbours) run(ctx context.Context, asked <-chan struct{}) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		ns := s.r.netstack.Load()
		select {
		case <-ctx.Done():
			return nil
		case <-s.r.rebuilt:
		case <-asked:
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
		s.followUp(ns, n)
		if inUse := s.inUse(n); n.used.Swap(false) || inUse || n.gateway.Load() {
			n.idle = 0
			if mac, ok := ns.Resolve(n.addr); ok {
				s.event(stack.NeighbourEvent{Addr: n.addr, MAC: mac})
			}
		} else if n.idle++; n.idle >= idleTicks {
			s.mu.Lock()
			s.remove(n)
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
	s.learned(n, e.MAC)
	n.asking.Store(false)
	failedAt := time.Duration(0)
	if e.MAC.IsZero() {
		failedAt = max(s.r.now(), 1)
	}
	pending := s.release(n, failedAt)
	if len(pending) == 0 {
		return
	}
	w := s.r.newWorker(stack.Guests)
	wd, done := s.r.aside()
	defer done()
	w.world = wd
	for _, f := range pending {
		w.resume(f, e.MAC)
	}
	w.flush()
}

// resume goes on with a packet that has waited.
func (w *worker) resume(f pendingFrame, mac policy.MAC) {
	if f.own {
		if mac.IsZero() {
			w.count(nil, policy.NoNeighbour, nil)
			return
		}
		dst, _ := destination(f.frame)
		f.frame.SetEthernet(mac, w.world.UplinkMAC, etherType(dst))
		w.out[stack.UplinkSide] = append(w.out[stack.UplinkSide], f.frame)
		return
	}
	p := &w.pkt
	if r := p.Parse(f.frame.Bytes(), f.frame.Offload); r != policy.None {
		w.drop(f.from, r)
		return
	}
	if f.plan != w.world.plan {
		w.again(f, p, mac)
		return
	}
	if mac.IsZero() {
		w.unreachable(p, f.from)
		return
	}
	w.send(f.frame, p, f.from, hop{side: stack.UplinkSide, dst: mac, src: w.world.UplinkMAC, mtu: w.world.kernel.Uplink.MTU})
}

func (w *worker) unreachable(p *policy.Packet, from *policy.Guest) {
	w.drop(from, policy.NoNeighbour)
	w.report(p, from, stack.HostUnreachable)
}

// again goes on with a packet that was let through by a configuration that is no longer the one: the one that is has its word.
func (w *worker) again(f pendingFrame, p *policy.Packet, mac policy.MAC) {
	from, reason := w.world.FromGuest(p)
	switch {
	case reason != policy.None:
		w.drop(from, reason)
	case mac.IsZero():
		w.unreachable(p, from)
	default:
		w.forward(f.frame, p, from)
	}
}

// retire forgets the hosts that are here on behalf of guests that are gone.
func (s *neighbours) retire(gone func(*guestState) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.m {
		if gone(n.owner) && !n.gateway.Load() {
			s.remove(n)
		}
	}
}
