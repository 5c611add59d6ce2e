package policy

import (
	"hash/maphash"
	"slices"
	"time"
)

const (
	// FragmentIdle is how long later fragments may follow their first. Reassembly takes up to 60 s (RFC 8200 4.5), but what has
	// not come after half of that is lost.
	FragmentIdle = 30 * time.Second

	// MaxDatagrams is how many datagrams of a guest, in both directions, may be on their way in pieces. Of whom most are from loses its oldest.
	MaxDatagrams = 64

	// maxRanges bounds the pieces of a datagram that leave gaps between them.
	maxRanges = 16
)

// datagram is a datagram whose first fragment has passed. Nothing is held back or put together: it knows which bytes have
// passed, so that none passes twice.
type datagram struct {
	src, dst [16]byte
	id       uint32
	proto    uint8 // IPv4 only: an IPv6 receiver does not tell datagrams apart by it (RFC 8200 4.5)
	v6       bool
	bad      bool // overlapped; nothing of it passes any more (RFC 5722 4)
	dir      uint8
	n        uint8 // of ranges
	side     uint8 // where it comes from, and from whom: see place
	addr     uint8
	first    uint16 // bytes in the first fragment
	total    uint16 // known from the last fragment; 0 before
	from     Side
	flow     FlowRef
	expires  time.Duration
	ranges   [maxRanges]byteRange // in order; neighbours are joined when there is no room
}

type byteRange struct{ from, to uint16 }

// datagram finds the record that a fragment belongs to, or nil.
func (t *FlowTable) datagram(p *Packet, from Side, now time.Duration) *datagram {
	if t.datagrams == nil {
		return nil
	}
	src, dst, v6 := p.Src.As16(), p.Dst.As16(), p.IsIPv6()
	for i := range t.datagrams {
		d := &t.datagrams[i]
		if d.expires > now && d.id == p.FragID && d.src == src && d.dst == dst && d.from == from && d.v6 == v6 && (v6 || d.proto == p.Proto) {
			return d
		}
	}
	return nil
}

// firstFragment tests a first fragment of a flow, or of none yet, against what has passed of its datagram. known tells that
// there is a record.
func (t *FlowTable) firstFragment(p *Packet, flow FlowRef, from Side, now time.Duration) (known bool, r Reason) {
	d := t.datagram(p, from, now)
	switch {
	case d == nil:
		return false, None
	case !d.v6 && !d.bad && d.complete():
		d.expires = 0 // 16 bits of identification come round soon
		return false, None
	case int(d.first) != p.FragLen || d.flow != flow:
		d.bad = true
	}
	if d.bad {
		return true, FragmentOverlap
	}
	return true, None
}

// Overlaps tells whether a first fragment, whose flow is here or elsewhere, is of a datagram that does not pass any more, for which it may be the
// reason.
func (t *FlowTable) Overlaps(p *Packet, from Side, now time.Duration) bool {
	key, _, ok := p.FlowKey()
	if !ok {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now = t.clock(now)
	if t.datagram(p, from, now) == nil {
		return false
	}
	var ref FlowRef
	if i := t.find(&key, uint32(maphash.Comparable(t.seed, key))); i != 0 && !t.at(i).expired(now) {
		ref = FlowRef{i, t.at(i).serial}
	}
	_, r := t.firstFragment(p, ref, from, now)
	return r != None
}

// follow remembers a datagram whose first fragment has passed.
func (t *FlowTable) follow(p *Packet, flow FlowRef, dir int, from Side, now time.Duration) {
	if t.datagrams == nil {
		t.datagrams = new([MaxDatagrams]datagram)
	}
	d := t.place(now)
	*d = datagram{src: p.Src.As16(), dst: p.Dst.As16(), id: p.FragID, v6: p.IsIPv6(), dir: uint8(dir), from: from, flow: flow,
		first: uint16(p.FragLen), expires: now + FragmentIdle, n: 1,
		side: uint8(from % MaxDatagrams), addr: uint8(maphash.Comparable(t.seed, p.Src) % MaxDatagrams)}
	if !d.v6 {
		d.proto = p.Proto
	}
	d.ranges[0] = byteRange{0, d.first}
}

// place is where the next datagram goes: to a free place, or instead of the oldest datagram of the sender that has most of them, on the side
// that has most. So first fragments without end from one host, or from the uplink under many addresses, cost others none of theirs.
func (t *FlowTable) place(now time.Duration) *datagram {
	var sides, addrs [MaxDatagrams]uint8
	for i := range t.datagrams {
		d := &t.datagrams[i]
		if d.expires <= now {
			return d
		}
		sides[d.side]++
	}
	most := slices.Max(sides[:])
	for i := range t.datagrams {
		if d := &t.datagrams[i]; sides[d.side] == most {
			addrs[d.addr]++
		}
	}
	mostOf := slices.Max(addrs[:])
	var oldest *datagram
	for i := range t.datagrams {
		d := &t.datagrams[i]
		if sides[d.side] == most && addrs[d.addr] == mostOf && (oldest == nil || d.expires < oldest.expires) {
			oldest = d
		}
	}
	return oldest
}

// laterFragment passes a fragment on the flow of its first.
func (t *FlowTable) laterFragment(p *Packet, from, to Side, now time.Duration, admit func() Reason) (hit FlowHit, ok bool) {
	d := t.datagram(p, from, now)
	if d == nil {
		return hit, false
	}
	f := t.get(d.flow)
	if f == nil || f.expired(now) {
		return hit, false
	}
	dir := int(d.dir)
	if !f.leads(dir, to) {
		return f.hit(d.flow, dir, FlowSide), true
	}
	if r := d.add(p.FragOff, p.FragOff+p.FragLen, p.More); r != None {
		return f.hit(d.flow, dir, r), true
	}
	if admit != nil {
		if r := admit(); r != None {
			return f.hit(d.flow, dir, r), true
		}
	}
	f.count(dir, p)
	t.changed.note(d.flow.index)
	t.touch(d.flow.index, now)
	return f.hit(d.flow, dir, None), true
}

// add takes the bytes from a to b of a datagram. An exact copy passes (RFC 8200 4.5 lets receivers ignore it), any other overlap
// condemns the whole: also where the last fragment ends before another one, and where a copy can no longer be told from an
// overlap.
func (d *datagram) add(a, b int, more bool) Reason {
	if a == b || b > 0xffff {
		return Malformed
	}
	if d.bad {
		return FragmentOverlap
	}
	from, to := uint16(a), uint16(b)
	if !d.fits(to, more) {
		d.bad = true
		return FragmentOverlap
	}
	at := int(d.n)
	for i := int(d.n) - 1; i >= 0; i-- {
		r := d.ranges[i]
		if r.to <= from {
			break
		}
		if r.from == from && r.to == to {
			return None
		}
		if r.from < to {
			d.bad = true
			return FragmentOverlap
		}
		at = i
	}
	if d.n == maxRanges {
		d.join()
		if d.n == maxRanges {
			d.bad = true // it would lack this piece
			return FragmentLimit
		}
		for at = int(d.n); at > 0 && d.ranges[at-1].from > from; at-- {
		}
	}
	copy(d.ranges[at+1:], d.ranges[at:d.n])
	d.ranges[at] = byteRange{from, to}
	d.n++
	return None
}

// fits tests an end against that of the datagram, and notes the latter.
func (d *datagram) fits(to uint16, more bool) bool {
	if d.total != 0 {
		return more && to < d.total || !more && to == d.total
	}
	if more {
		return true
	}
	d.total = to
	return d.ranges[d.n-1].to <= to
}

// join makes one of ranges that touch.
func (d *datagram) join() {
	n := 0
	for _, r := range d.ranges[1:d.n] {
		if d.ranges[n].to == r.from {
			d.ranges[n].to = r.to
			continue
		}
		n++
		d.ranges[n] = r
	}
	d.n = uint8(n + 1)
}

// complete tells whether all of it has passed.
func (d *datagram) complete() bool {
	if d.total == 0 {
		return false
	}
	d.join()
	return d.n == 1 && d.ranges[0] == byteRange{0, d.total}
}
