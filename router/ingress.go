package router

import (
	"errors"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"udrouter/policy"
	"udrouter/stack"
)

// batchLen is how many frames a worker takes at a time before it writes any: as many as one system call moves.
const batchLen = 64

// worker takes frames from the queues of one number, one of each link, to wherever they go. Each has a thread of its own, since it spends
// its life in system calls. The kernel gives both directions of a flow the same number (see stack.Link), so that two workers seldom want the same
// flow, as for its fragments and the errors about it.
type worker struct {
	*Router
	ports []port
	write [stack.Host + 1]func([]*stack.Frame) // to each link
	side  stack.Side                           // where the packet at hand came from
	out   [stack.Host + 1][]*stack.Frame       // what the batch has for each link
	tally tally
	hits  uint64                   // of the batch, see hit
	asked atomic.Pointer[question] // see comeRound
	ended chan struct{}

	// Of the batch and the packet at hand.
	world    *world
	time     time.Duration // when the batch came; 0: no batch
	pkt      policy.Packet
	verdict  policy.Verdict
	way      hop
	passable func(policy.NextHop) bool // locate, made once
	captures []*capture                // that want to see it; nil: nobody captures
	fate     fate                      // what became of it
	before   []byte                    // as it came
}

// now is the time of the batch, or of the call where there is none.
func (w *worker) now() time.Duration {
	if w.time != 0 {
		return w.time
	}
	return w.Router.now()
}

// port is where a worker takes frames from.
type port struct {
	side  stack.Side
	queue stack.Queue
}

// newWorker makes a worker that takes what it is given, from one side.
func (r *Router) newWorker(side stack.Side) *worker {
	w := &worker{Router: r, side: side, ended: make(chan struct{})}
	w.passable = w.locate
	for side, link := range r.links {
		if link != nil {
			w.write[side] = link.Write
		}
	}
	return w
}

// newWorkers makes as many workers as the link with most queues has.
func (r *Router) newWorkers() (list []*worker) {
	for side, link := range r.links {
		if link == nil {
			continue
		}
		for i, q := range link.Queues() {
			if i == len(list) {
				list = append(list, r.newWorker(0))
			}
			list[i].ports = append(list[i].ports, port{stack.Side(side), q})
			list[i].write[side] = q.Write
		}
	}
	return list
}

// lookEvery is after how many rounds a worker that is busy looks again at the queues that had nothing.
const lookEvery = 2

// run works until the links are closed. It looks at queues that had nothing when no other has anything, or now and then.
func (w *worker) run() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(w.ended)
	batch := stack.NewBatch(batchLen)
	var queues []stack.Queue
	for _, p := range w.ports {
		queues = append(queues, p.queue)
	}
	skip := make([]bool, len(queues))
	var poll stack.Poll
	for round := 1; ; round++ {
		w.answer()
		idle := true
		for i, q := range queues {
			if skip[i] {
				continue
			}
			n, err := q.Receive(batch)
			if errors.Is(err, stack.ErrClosed) {
				return nil
			}
			if err != nil {
				return err
			}
			skip[i] = n == 0
			if n > 0 {
				idle = false
				w.side = w.ports[i].side
				w.batch(batch[:n])
			}
		}
		if idle || round%lookEvery == 0 {
			poll.Wait(queues, idle)
			for i := range skip {
				skip[i] = skip[i] && !poll.Ready(i)
			}
		}
	}
}

// batch handles frames that came together, then writes what became of them.
func (w *worker) batch(frames []*stack.Frame) {
	w.world, w.time, w.captures = w.current.Load(), w.Router.now(), w.capturing.list()
	for _, f := range frames {
		if w.captures == nil {
			w.handle(f)
		} else {
			w.watch(f)
		}
	}
	w.flush()
}

// flush counts for the guests, and writes what there is for each link.
func (w *worker) flush() {
	w.tally.settle()
	w.Router.hits.Add(w.hits)
	w.hits = 0
	for side, out := range w.out {
		if len(out) > 0 {
			w.write[side](out)
			clear(out)
			w.out[side] = out[:0]
		}
	}
}

// handle decides about one frame. A defect of ours costs that frame only.
func (w *worker) handle(f *stack.Frame) {
	defer func() {
		if v := recover(); v != nil {
			w.drop(nil, policy.Internal)
			w.defects.Do(func() {
				w.log.Error("a defect was met and the packet dropped; please report it", "panic", v, "stack", string(debug.Stack()))
			})
		}
	}()
	p := &w.pkt
	reason := p.Parse(f.Bytes(), f.Offload)
	switch {
	case f.VLAN:
		reason = policy.VLAN
	case f.Truncated && reason == policy.None:
		reason = policy.Malformed
	}
	if reason == policy.None && f.GSOType != policy.GSONone && f.Flags&policy.NeedsCsum == 0 {
		if w.side == stack.UplinkSide {
			stack.MakePartial(f, p)
		} else {
			reason = policy.Malformed // no NIC is behind it
		}
	}
	if w.side == stack.Host {
		p.SrcMAC, p.DstMAC = policy.MAC{}, policy.MAC{} // a TUN has none
	}
	if reason == policy.None && w.hit(f, p) {
		return
	}
	switch w.side {
	case stack.Guests:
		w.fromGuest(f, p, reason)
	case stack.UplinkSide:
		w.fromUplink(f, p, reason)
	case stack.Host:
		w.fromHost(f, p, reason)
	}
}

func (w *worker) fromGuest(f *stack.Frame, p *policy.Packet, reason policy.Reason) {
	var g *policy.Guest
	if reason != policy.None {
		w.drop(w.world.ByMAC(p.SrcMAC), reason)
		return
	}
	g, reason = w.world.FromGuest(p)
	if g != nil {
		w.sentBy(g, p)
	}
	switch reason {
	case policy.None:
	case policy.LinkLocal:
		w.drop(g, reason)
		if p.Src.IsLinkLocalUnicast() && !p.Dst.IsLinkLocalUnicast() {
			w.report(p, g, stack.BeyondScope)
		}
		return
	case policy.Multicast:
		if !isGroupReport(p) { // every host reports its groups, and nobody forwards that
			w.drop(g, reason)
		}
		return
	default:
		w.drop(g, reason)
		return
	}
	switch {
	case p.EtherType == policy.EtherARP:
		w.guestARP(p, g)
	case p.IsND():
		w.guestND(p, g)
	case w.world.ForServer(g, p):
		w.serve(p, g)
	default:
		w.forward(f, p, g)
	}
}

// sentBy counts what a guest has sent, and notes that it is there.
func (w *worker) sentBy(g *policy.Guest, p *policy.Packet) {
	w.tally.sent(g, len(p.Frame))
	w.appeared(g)
}

func (w *worker) fromUplink(f *stack.Frame, p *policy.Packet, reason policy.Reason) {
	if reason == policy.None {
		reason = w.world.FromUplink(p)
	}

	if reason == policy.OtherHost || reason == policy.Multicast {
		return // the link's business, of which an interface that receives all multicast gets a copy
	}
	if reason != policy.None {
		w.drop(nil, reason)
		return
	}
	switch {
	case p.EtherType == policy.EtherARP:
		w.uplinkARP(p)
	case p.IsND():
		w.uplinkND(p)
	default:
		w.forward(f, p, nil)
	}
}

func (w *worker) fromHost(f *stack.Frame, p *policy.Packet, reason policy.Reason) {
	if reason == policy.None {
		if p.Dst.IsMulticast() {
			return // what a kernel says on every interface of its own
		}
		reason = w.world.FromHost(p)
	}
	switch {
	case reason != policy.None:
		w.drop(nil, reason)
	case p.IsND():
		w.drop(nil, policy.RouterLocal)
	default:
		w.forward(f, p, nil)
	}
}

// drop counts the packet at hand.
func (w *worker) drop(g *policy.Guest, reason policy.Reason) {
	w.fate.reason = reason
	w.count(g, reason, &w.pkt)
}

// dropBetween is drop for a packet from one guest, or to another.
func (w *worker) dropBetween(from, to *policy.Guest, reason policy.Reason) {
	if from == nil {
		from = to
	}
	w.drop(from, reason)
}

// isGroupReport tells whether a packet to a group is IGMP or MLD: addressed to the routers and switches of the link.
func isGroupReport(p *policy.Packet) bool {
	const igmp = 2
	return p.IsIPv4() && p.Proto == igmp ||
		p.IsIPv6() && p.Proto == policy.ProtoICMPv6 && p.L4 != 0 && (p.ICMPType == 131 || p.ICMPType == 132 || p.ICMPType == 143)
}
