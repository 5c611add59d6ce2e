package policy

import (
	"cmp"
	"encoding/binary"
	"hash/maphash"
	"math"
	"math/bits"
	"slices"
	"time"
)

// FlowStateLen is how many bytes AppendState appends. Another length, or another meaning of the bytes, is another version of whatever holds them.
const FlowStateLen = len(FlowKey{}.A)*2 + 6 + 2 + 2*4 + 2*8 + 4*8 + 2*tcpSideLen + 12 + 4

const tcpSideLen = 6*4 + 2

// AppendState appends the flow as ReadFlow takes it, big-endian, with ages at the monotonic time now in place of times. What an owner keeps in it, and
// the way that it remembers, are left out.
func (f *Flow) AppendState(b []byte, now time.Duration) []byte {
	e := binary.BigEndian
	b = append(append(b, f.Key.A[:]...), f.Key.B[:]...)
	b = e.AppendUint16(e.AppendUint16(b, f.Key.APort), f.Key.BPort)
	reversed := uint8(0)
	if f.Reversed {
		reversed = 1
	}
	b = append(b, f.Key.Proto, f.Key.Family, uint8(f.State), reversed)
	b = e.AppendUint32(e.AppendUint32(b, uint32(f.From)), uint32(f.To))
	b = e.AppendUint64(e.AppendUint64(b, uint64(now-f.Opened)), uint64(now-f.used))
	for d := range f.Packets {
		b = e.AppendUint64(e.AppendUint64(b, f.Packets[d]), f.Bytes[d])
	}
	for i := range f.tcp.side {
		x := &f.tcp.side[i]
		for _, v := range [...]uint32{x.iss, x.una, x.end, x.edge, x.fin, x.window} {
			b = e.AppendUint32(b, v)
		}
		b = append(b, x.scale, x.flags)
	}
	a := &f.tcp.again
	b = e.AppendUint16(e.AppendUint32(e.AppendUint32(b, a.seq), a.end), a.window)
	b = append(b, a.scale, a.flags)
	return e.AppendUint32(b, f.tcp.challenge)
}

// ReadFlow reads the first FlowStateLen bytes of b, which must be there. It is false for what no flow can be.
func ReadFlow(b []byte, now time.Duration) (f Flow, ok bool) {
	e := binary.BigEndian
	next := func(n int) []byte {
		v := b[:n]
		b = b[n:]
		return v
	}
	copy(f.Key.A[:], next(16))
	copy(f.Key.B[:], next(16))
	f.Key.APort, f.Key.BPort = e.Uint16(next(2)), e.Uint16(next(2))
	v := next(4)
	f.Key.Proto, f.Key.Family, f.State, f.Reversed = v[0], v[1], FlowState(v[2]), v[3] == 1
	f.From, f.To = Side(e.Uint32(next(4))), Side(e.Uint32(next(4)))
	opened, used := e.Uint64(next(8)), e.Uint64(next(8))
	f.Opened, f.used = now-time.Duration(opened), now-time.Duration(used)
	for d := range f.Packets {
		f.Packets[d], f.Bytes[d] = e.Uint64(next(8)), e.Uint64(next(8))
	}
	for i := range f.tcp.side {
		x := &f.tcp.side[i]
		for _, to := range [...]*uint32{&x.iss, &x.una, &x.end, &x.edge, &x.fin, &x.window} {
			*to = e.Uint32(next(4))
		}
		s := next(2)
		x.scale, x.flags = s[0], s[1]
	}
	a := &f.tcp.again
	a.seq, a.end, a.window = e.Uint32(next(4)), e.Uint32(next(4)), e.Uint16(next(2))
	s := next(2)
	a.scale, a.flags = s[0], s[1]
	f.tcp.challenge = e.Uint32(next(4))
	const longest = uint64(1 << 62) // no sum or difference of times overflows
	return f, f.valid() && v[3] <= 1 && used <= opened && opened < longest
}

// valid tells whether a flow is as one that a table makes.
func (f *Flow) valid() bool {
	k := &f.Key
	if f.State == 0 || f.State >= flowStates || (k.Proto == ProtoTCP) != (f.State >= TCPSynSent) || f.From == f.To || k.A == k.B {
		return false
	}
	if a, b := k.end(false).Addr(), k.end(true).Addr(); k.Family != 4 && k.Family != 6 || a.Is4() != (k.Family == 4) || b.Is4() != (k.Family == 4) || b.Is4In6() || a.Is4In6() {
		return false
	}
	for i := range f.tcp.side {
		if f.tcp.side[i].scale > largestScale {
			return false
		}
	}
	return k.Proto == ProtoTCP && f.tcp.state() == f.State && f.tcp.again.scale <= largestScale || k.Proto != ProtoTCP && f.tcp == tcpConn{}
}

// Save calls f with each flow that has not expired, in the order in which those of one idle time were used, for Adopt to find them so. What a tier has is
// taken back before. f runs under the lock: it must not call the table.
func (t *FlowTable) Save(now time.Duration, f func(*Flow)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now = t.clock(now)
	for q := range t.queues {
		away, isAway := t.takeBack(q, now)
		for i := t.queues[q].oldest; i != 0; i = t.at(i).newer {
			e := t.at(i)
			if e.expired(now) || isAway[i] {
				continue
			}
			for len(away) > 0 && away[0].used <= e.queued {
				f(away[0])
				away = away[1:]
			}
			f(e)
		}
		for _, e := range away {
			f(e)
		}
	}
}

// takeBack withdraws the flows of a queue that a tier has. They are not where their use would have put them: it returns them in the order of that.
func (t *FlowTable) takeBack(q int, now time.Duration) (list []*Flow, places map[uint32]bool) {
	for i := t.queues[q].oldest; i != 0; i = t.at(i).newer {
		e := t.at(i)
		if e.offloaded == 0 {
			continue
		}
		if t.withdraw(i); e.expired(now) {
			continue
		}
		if places == nil {
			places = map[uint32]bool{}
		}
		places[i] = true
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b *Flow) int { return cmp.Compare(a.used, b.used) })
	return list, places
}

// Rounds lists the flows of a table that stays in use, for another one to adopt: in the first round all, and in each that follows those that have changed
// since they were listed. Of a flow that is forgotten meanwhile nothing more is said: the other forgets it by its age. A tier gets the flows that it had
// offered anew when they are next used. Its methods are not safe for concurrent use; a table has one at a time.
type Rounds struct{ t *FlowTable }

// changes are the places of flows that have changed since they were listed, a bit each; nil: nobody lists.
type changes []uint64

// Rounds begins with a table, until Close.
func (t *FlowTable) Rounds() Rounds {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.changed = make(changes, t.used/64+1)
	for i := range t.changed {
		t.changed[i] = math.MaxUint64
	}
	return Rounds{t}
}

// Close ends it.
func (r Rounds) Close() {
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	r.t.changed = nil
}

// note notes that the flow i has changed.
func (c *changes) note(i uint32) {
	if *c == nil {
		return
	}
	if more := int(i/64) + 1 - len(*c); more > 0 {
		*c = append(*c, make(changes, more)...)
	}
	(*c)[i/64] |= 1 << (i % 64)
}

// Some appends to list a copy of what is due, in no order, from a position on, the first of which is 0. It returns the next position, 0 when it is through,
// and holds the table's lock for at most n flows and then some.
func (r Rounds) Some(list []Flow, from, n int, now time.Duration) (all []Flow, next int) {
	t := r.t
	t.mu.Lock()
	defer t.mu.Unlock()
	now = t.clock(now)
	for ; from < len(t.changed); from++ {
		if n <= 0 {
			return list, from
		}
		for w := t.changed[from]; w != 0; w &= w - 1 {
			i := uint32(64*from + bits.TrailingZeros64(w))
			if i == 0 || int(i) > t.used || t.at(i).serial == 0 {
				continue
			}
			if t.at(i).offloaded != 0 { // a system call, as dear as to list some
				t.withdraw(i)
				n -= 15
			}
			if n--; !t.at(i).expired(now) {
				list = append(list, *t.at(i))
			}
		}
		t.changed[from] = 0
	}
	return list, 0
}

// Adopt takes a flow over that another table has listed or ReadFlow has read, with its counters, what is known of its windows and since when it is idle:
// after a restart no handshake comes again. Its way is found anew, since the generations of another owner are not this one's. It takes the place of what is
// known of it. It is refused when it has expired, and where the budget has no room for it, which is found as Create finds it. Flows that do not come in the
// order of their use are put into it by Order, before the table is used otherwise; until then there may be more than the table's maximum.
func (t *FlowTable) Adopt(f Flow, now time.Duration) bool {
	if !f.valid() {
		return false
	}
	f.hash, f.next, f.offloaded = uint32(maphash.Comparable(t.seed, f.Key)), [2]NextHop{}, 0
	t.mu.Lock()
	defer t.mu.Unlock()
	now = t.clock(now)
	f.queue = f.queueOf()
	if f.used = min(f.used, now); f.expired(now) {
		return false
	}
	i := t.find(&f.Key, f.hash)
	if i == 0 {
		most := t.max
		if most > 0 {
			t.max = math.MaxInt
		}
		ref, ok := t.insert(&f, now)
		if t.max = most; !ok {
			return false
		}
		i = ref.index
	} else {
		t.withdraw(i)
		e := t.at(i)
		f.chain, f.serial, f.epoch, f.queued, f.older, f.newer, f.queue = e.chain, e.serial, t.epoch, e.queued, e.older, e.newer, e.queue
		t.changed.note(i)
		if *e = f; f.used >= f.queued && f.used-f.queued < queueGrain && f.queueOf() == f.queue {
			return true
		}
		t.requeue(i, now)
	}
	e := t.at(i)
	if e.used = f.used; e.older != 0 {
		if last := t.at(e.older).queued; last-e.used < queueGrain {
			e.used = max(e.used, last)
		} else {
			t.disorder = true
		}
	}
	e.queued = e.used
	return true
}

// Order puts flows that were adopted into the order of their use, which takes half a second for a million, and gives up by it what is beyond the maximum. It
// holds the lock meanwhile.
func (t *FlowTable) Order() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.disorder {
		t.order()
	}
	for t.count > t.max {
		t.remove(t.oldest())
	}
}

func (t *FlowTable) order() {
	t.disorder = false
	type place struct {
		used time.Duration
		i    uint32
	}
	var list []place
	for q := range t.queues {
		list = list[:0]
		for i := t.queues[q].oldest; i != 0; i = t.at(i).newer {
			list = append(list, place{t.at(i).used, i})
		}
		slices.SortFunc(list, func(a, b place) int { return cmp.Compare(a.used, b.used) })
		t.queues[q] = queue{}
		for _, p := range list {
			t.enqueue(p.i, p.used)
		}
	}
}
