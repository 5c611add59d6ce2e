package policy

import (
	"hash/maphash"
	"math"
	"math/bits"
	"sync"
	"time"
)

const (
	// SweepStep is a number of flows to look at in a call of Sweep or DeleteIf that keeps it far below a millisecond, on a busy machine as well.
	SweepStep = 256

	// Memory comes in slabs. One of 256 flows is 7 pages of the Go heap to the byte. What Create takes where it makes one goes by their size: 42 µs
	// for 1024 flows of 240 bytes (median; 93 at the 90th percentile) and 23 (58) for 512, on a machine where a page fault costs 16; a step of
	// Sweep over 1024 takes 90. What took longer than 1 ms was as frequent among lookups, which allocate nothing: other work on the machine. The collector
	// has about 1 ms of marking to do with a million flows, since they hold no pointers.
	slabShift = 8
	slabSize  = 1 << slabShift // flows; buckets come in as many
	firstSlab = 16             // of a guest with few flows
	slabGrain = 6              // a slab begins with this part of the flows, as a power of two

)

// FlowTable remembers the flows of one guest: those that it has opened, and those that the uplink or dom0 has opened toward it.
// One guest's flows are never given up for another's. It is safe for concurrent use. Nothing that it does to one packet takes
// longer when there are more flows: the hash table grows by a bucket or two with each flow (linear hashing), memory by at most 256
// flows, and what expires is at hand.
type FlowTable struct {
	mu    sync.Mutex
	seed  maphash.Seed // so that a guest cannot choose ports whose flows share a bucket
	total *FlowBudget
	max   int
	share int           // places of the budget that are kept for this table
	now   time.Duration // the latest time seen; time does not go back

	slabs  [][]Flow // index i is at i-1; the last slab grows by doubling
	used   int      // indexes that were ever given out
	free   uint32   // those that came back, by chain; older is the one before
	count  int
	serial uint32

	heads   [][]uint32 // of buckets' chains
	buckets int
	mask    uint32 // the buckets, rounded up to a power of two, less one

	queues    [queueCount]queue
	datagrams *[MaxDatagrams]datagram
	offload   Tier // nil: none
	disorder  bool // see Adopt
	changed   changes

	epoch  uint8            // see Ask
	admits func(*Flow) bool // asked about flows of another epoch
}

// NewFlowTable makes a table for at most max flows, which take their place in total.
func NewFlowTable(max int, total *FlowBudget) *FlowTable {
	return &FlowTable{seed: maphash.MakeSeed(), total: total, max: max}
}

// Reserve keeps n places of the budget for this table, or as many as it may have flows, instead of those that it had so far. All tables' shares
// together must fit into the budget.
func (t *FlowTable) Reserve(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n = min(n, t.max)
	t.total.reserve(t.count, t.share, n)
	t.share = n
}

// Ask begins another epoch: from now on admits is asked about each flow that is there, when a packet comes for it or by Review, whichever is first. A
// flow that it refuses ends; of one that it admits it may change the Verdict. It runs under the lock, as drop of DeleteIf. Not before Review is
// through with the epoch before.
func (t *FlowTable) Ask(admits func(*Flow) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.admits = admits
	t.epoch++
}

// Review asks about flows as Ask says, n places from a position on, and returns the next position, as DeleteIf.
func (t *FlowTable) Review(from uint32, n int) (next uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.eachOf(from, n, func(i uint32) { t.lives(i) })
}

// clock is now, but not before any time that was seen: goroutines read the clock before they wait for the lock.
func (t *FlowTable) clock(now time.Duration) time.Duration {
	t.now = max(t.now, now)
	return t.now
}

func (t *FlowTable) at(i uint32) *Flow { return &t.slabs[(i-1)>>slabShift][(i-1)&(slabSize-1)] }

// get is the flow that a reference names, or nil.
func (t *FlowTable) get(r FlowRef) *Flow {
	if r.serial == 0 || int(r.index) > t.used {
		return nil
	}
	if f := t.at(r.index); f.serial == r.serial && t.lives(r.index) {
		t.catchUp(r.index)
		return f
	}
	return nil
}

// lives tells whether a flow is still admitted, and forgets one that is not. It asks once an epoch.
func (t *FlowTable) lives(i uint32) bool {
	f := t.at(i)
	if f.epoch == t.epoch {
		return true
	}
	if !t.admits(f) {
		t.remove(i)
		return false
	}
	f.epoch = t.epoch
	return true
}

func (t *FlowTable) head(hash uint32) *uint32 {
	b := hash & t.mask
	if int(b) >= t.buckets {
		b &= t.mask >> 1
	}
	return &t.heads[b>>slabShift][b&(slabSize-1)]
}

// find is the index of a flow, expired or not, or 0.
func (t *FlowTable) find(key *FlowKey, hash uint32) uint32 {
	if t.count == 0 {
		return 0
	}
	for i := *t.head(hash); i != 0; {
		f := t.at(i)
		if f.hash == hash && f.Key == *key {
			if !t.lives(i) {
				return 0
			}
			t.catchUp(i)
			return i
		}
		i = f.chain
	}
	return 0
}

// insert takes a place for a flow that is not in the table, at the cost of the guest's own oldest if it must.
func (t *FlowTable) insert(f *Flow, now time.Duration) (ref FlowRef, ok bool) {
	t.expire(now, 2)
	for n := 0; t.count > t.max && n < 4; n++ { // the maximum was lowered
		t.remove(t.oldest())
	}
	switch {
	case t.max <= 0:
		return ref, false
	case t.count < t.max && t.total.take(t.count, t.share):
	case t.count > 0:
		t.unlink(t.leastUsed(now)) // the place in the budget goes over
	default:
		return ref, false
	}
	for t.buckets < 2*(t.count+1) {
		t.split()
	}
	i := t.alloc()
	p := t.at(i)
	*p = *f
	if t.serial++; t.serial == 0 {
		t.serial++
	}
	head := t.head(f.hash)
	p.serial, p.chain, *head = t.serial, *head, i
	t.count++
	p.used, p.epoch = now, t.epoch
	t.enqueue(i, now)
	t.changed.note(i)
	return FlowRef{i, p.serial}, true
}

// split adds a bucket and moves into it what belongs there from the one bucket that held it.
func (t *FlowTable) split() {
	n := uint32(t.buckets)
	s := int(n >> slabShift)
	if s == len(t.heads) {
		size := slabSize
		if s == 0 {
			size = firstSlab
		}
		t.heads = append(t.heads, make([]uint32, 0, size))
	}
	t.heads[s] = append(t.heads[s], 0)
	t.buckets++
	if n > t.mask {
		t.mask = t.mask<<1 | 1
	}
	if n == 0 {
		return
	}
	b := n & (t.mask >> 1)
	from, to := &t.heads[b>>slabShift][b&(slabSize-1)], &t.heads[s][n&(slabSize-1)]
	for *from != 0 {
		f := t.at(*from)
		if f.hash&t.mask != n {
			from = &f.chain
			continue
		}
		i := *from
		*from, f.chain, *to = f.chain, *to, i
	}
}

func (t *FlowTable) alloc() uint32 {
	if i := t.free; i != 0 {
		t.take(i)
		return i
	}
	switch s := t.used >> slabShift; {
	case s == len(t.slabs): // no copy of nothing here: it would make the runtime touch all of the memory at once
		size := max(firstSlab, min(1<<bits.Len(uint(t.used>>slabGrain)), slabSize))
		t.slabs = append(t.slabs, make([]Flow, size))
	case t.used&(slabSize-1) == len(t.slabs[s]):
		more := make([]Flow, 2*len(t.slabs[s]))
		copy(more, t.slabs[s])
		t.slabs[s] = more
	}
	t.used++
	return uint32(t.used)
}

// remove forgets a flow.
func (t *FlowTable) remove(i uint32) {
	t.total.give(1, t.count, t.share)
	t.unlink(i)
}

// unlink is remove without giving back the place in the budget.
func (t *FlowTable) unlink(i uint32) {
	f := t.at(i)
	t.withdraw(i)
	p := t.head(f.hash)
	for *p != i {
		p = &t.at(*p).chain
	}
	*p = f.chain
	t.dequeue(i)
	if t.free != 0 {
		t.at(t.free).older = i
	}
	f.serial, f.chain, f.older, t.free = 0, t.free, 0, i
	if t.count--; t.count == 0 && len(t.slabs) > 1 {
		t.release()
	}
}

// release gives the memory of an empty table back.
func (t *FlowTable) release() {
	t.slabs, t.used, t.free, t.heads, t.buckets, t.mask = nil, 0, 0, nil, 0, 0
}

// take takes a place out of those that are free.
func (t *FlowTable) take(i uint32) {
	f := t.at(i)
	if f.older == 0 {
		t.free = f.chain
	} else {
		t.at(f.older).chain = f.chain
	}
	if f.chain != 0 {
		t.at(f.chain).older = f.older
	}
}

// shrink gives memory back, by at most n places, where more are free than taken: a flow in the last place moves to one that is free.
func (t *FlowTable) shrink(n int) {
	for ; n > 0 && t.count > 0 && t.used-t.count > max(t.count, slabSize); n-- {
		last := uint32(t.used)
		if t.at(last).serial == 0 {
			t.take(last)
		} else {
			to := t.free
			t.take(to)
			t.move(last, to)
		}
		t.used--
		if s := t.used >> slabShift; t.used&(slabSize-1) == 0 {
			t.slabs[s] = nil
			t.slabs = t.slabs[:s]
		}
		for i := 0; i < 2 && t.buckets > 4*(t.count+1); i++ {
			t.merge()
		}
	}
}

// move puts a flow into a place that is nobody's. Whoever has a reference to it does not find it there any more, but for its datagrams.
func (t *FlowTable) move(i, to uint32) {
	f := t.at(to)
	*f = *t.at(i)
	p := t.head(f.hash)
	for *p != i {
		p = &t.at(*p).chain
	}
	*p = to
	q := &t.queues[f.queue]
	if f.older == 0 {
		q.oldest = to
	} else {
		t.at(f.older).newer = to
	}
	if f.newer == 0 {
		q.newest = to
	} else {
		t.at(f.newer).older = to
	}
	t.at(i).serial = 0
	t.changed.note(to)
	if t.datagrams == nil {
		return
	}
	for d := range t.datagrams {
		if ref := &t.datagrams[d].flow; *ref == (FlowRef{i, f.serial}) {
			ref.index = to
		}
	}
}

// merge undoes the last split.
func (t *FlowTable) merge() {
	n := uint32(t.buckets - 1)
	b, s := n&(t.mask>>1), int(n>>slabShift)
	p := &t.heads[b>>slabShift][b&(slabSize-1)]
	for *p != 0 {
		p = &t.at(*p).chain
	}
	last := len(t.heads[s]) - 1
	*p = t.heads[s][last]
	if t.heads[s] = t.heads[s][:last]; last == 0 {
		t.heads[s] = nil
		t.heads = t.heads[:s]
	}
	if t.buckets--; n == t.mask>>1+1 {
		t.mask >>= 1
	}
}

// Sweep forgets at most n flows that have expired, or that are beyond a lowered maximum. more tells that there may be others;
// another packet may come in between. A flow may stay for a second longer than Lookup finds it. When it has less to forget, it gives back
// memory that was needed before.
func (t *FlowTable) Sweep(now time.Duration, n int) (more bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	done := t.expire(t.clock(now), n)
	for ; done < n && t.count > t.max; done++ {
		t.remove(t.oldest())
	}
	t.shrink(n - done)
	return done == n
}

// Len is the number of flows, those that have expired included until they are swept.
func (t *FlowTable) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.count
}

// SetMax changes how many flows there may be. What is too many goes with Sweep and Create.
func (t *FlowTable) SetMax(max int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.max = max
}

// Close forgets all flows and refuses others: the guest is gone.
func (t *FlowTable) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.used {
		if t.at(uint32(i+1)).serial != 0 {
			t.withdraw(uint32(i + 1))
		}
	}
	t.total.give(t.count, t.count, t.share)
	t.total.reserved.Add(int64(-t.share))
	t.release()
	t.max, t.share, t.count, t.queues, t.datagrams = 0, 0, 0, [queueCount]queue{}, nil
}

// SetNext notes where a direction of a flow goes, as a generation of the owner's has it. What another one had of the other direction is forgotten.
// It tells whether the flow is still there, as Delete does.
func (t *FlowTable) SetNext(r FlowRef, reply bool, next NextHop, generation uint32) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.get(r)
	if f == nil {
		return false
	}
	dir := 0
	if reply {
		dir = 1
	}
	if f.Generation != generation || f.next[dir] != next {
		t.withdraw(r.index)
	}
	if f.Generation != generation {
		f.Generation, f.next = generation, [2]NextHop{}
	}
	f.next[dir] = next
	return true
}

// Delete forgets a flow that was found.
func (t *FlowTable) Delete(r FlowRef) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.get(r) == nil {
		return false
	}
	t.remove(r.index)
	return true
}

// DeleteIf forgets flows for which drop is true, n places from a position on, the first of which is 0. It returns the next
// position, 0 when it is through. drop runs under the lock: it must be quick and not call the table. Positions go down, as flows do that move, so that
// none is passed over.
func (t *FlowTable) DeleteIf(from uint32, n int, drop func(*Flow) bool) (next uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.eachOf(from, n, func(i uint32) {
		if drop(t.at(i)) {
			t.remove(i)
		}
	})
}

// eachOf calls f for the flows in n places from a position downward, and returns the next position, 0 when it is through. f may remove the flow.
func (t *FlowTable) eachOf(from uint32, n int, f func(i uint32)) (next uint32) {
	if from == 0 || int(from) > t.used {
		from = uint32(t.used)
	}
	for ; n > 0 && from > 0 && t.count > 0; n-- {
		if t.at(from).serial != 0 {
			f(from)
		}
		from--
	}
	if t.count == 0 {
		return 0
	}
	return from
}

// Each calls f with a copy of each flow that has not expired, in no order, until f returns false. It holds the lock for a few
// flows at a time and not while f runs, so that flows which come or go meanwhile may be missed, and others be met twice.
func (t *FlowTable) Each(now time.Duration, f func(*Flow) bool) {
	flows := make([]Flow, 0, 64)
	for from := math.MaxInt; from > 0; {
		flows, from = t.some(flows[:0], from, now)
		for i := range flows {
			if !f(&flows[i]) {
				return
			}
		}
	}
}

// some lists a few flows, from a position downward as DeleteIf, and tells where to go on.
func (t *FlowTable) some(flows []Flow, from int, now time.Duration) ([]Flow, int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	from = min(from, t.used)
	for n := 0; n < slabSize && from > 0 && len(flows) < cap(flows); n++ {
		if t.at(uint32(from)).serial != 0 && !t.expired(uint32(from), now) {
			flows = append(flows, t.copyOf(uint32(from)))
		}
		from--
	}
	return flows, from
}
