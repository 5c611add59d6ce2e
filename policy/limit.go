package policy

import (
	"sync/atomic"
	"time"
)

// Bucket is a token bucket in the form of a virtual scheduling algorithm (GCRA, ITU-T I.371; it admits what a bucket of that rate and
// burst admits): one number, the time at which all that was admitted would be paid for. It differs in one thing: what alone is more than the
// burst passes when nothing is owed, and all of it has to be paid for before the next passes; else it would never pass.
//
// A price is a whole number of nanoseconds, rounded down and never 0: at 10 Gbit/s the smallest frames get 0.4 % more than the limit.
//
// Safe for concurrent use, without locks. A time that is before one that another goroutine has told is as good as that one. The zero value
// admits everything.
type Bucket struct {
	cost  float64 // nanoseconds a unit
	burst int64   // nanoseconds of debt that are allowed
	paid  atomic.Int64
}

// Set gives the bucket a rate in units a second and a burst in units; a rate of 0 is no limit. Not while the bucket is in use.
func (b *Bucket) Set(rate, burst uint64) {
	b.cost, b.burst = 0, 0
	if rate > 0 {
		b.cost = float64(time.Second) / float64(rate)
		b.burst = b.price(burst)
	}
}

// maxPrice is 73 years: no sum of a time, a burst and a price overflows.
const maxPrice = 1 << 61

// price is what n units cost, in nanoseconds.
func (b *Bucket) price(n uint64) int64 { return max(1, int64(min(b.cost*float64(n), maxPrice))) }

// Take takes n units at the monotonic time now, or nothing where there are not so many.
func (b *Bucket) Take(n uint64, now time.Duration) bool {
	if b.cost == 0 {
		return true
	}
	price := b.price(n)
	for {
		paid := b.paid.Load()
		next := max(paid, int64(now)) + price
		if paid > int64(now) && next-int64(now) > b.burst {
			return false
		}
		if b.paid.CompareAndSwap(paid, next) {
			return true
		}
	}
}

// giveBack undoes a Take that has only just been made; in between another packet may have been refused for it.
func (b *Bucket) giveBack(n uint64) {
	if b.cost != 0 {
		b.paid.Add(-b.price(n))
	}
}

// follow takes over what another bucket of the same rate and burst is owed.
func (b *Bucket) follow(o *Bucket) {
	if b.cost == o.cost && b.burst == o.burst {
		b.paid.Store(o.paid.Load())
	}
}

// Meter holds what the limits of one guest's policy count, each direction by itself.
type Meter struct {
	Packets   [2]Bucket // by Direction
	Bandwidth [2]Bucket // bits of frames, without preamble and FCS
	NewFlows  [2]Bucket // Egress: those that the guest opens; so that a flood toward it does not keep it from opening its own
}

// Direction is seen from the guest.
type Direction uint8

// Directions of a guest's packets.
const (
	Egress  Direction = iota // from the guest
	Ingress                  // to it
)

// burstTime is how much of a second's share may come at once: a few super-packets even at a low rate, see minBurst.
const burstTime = 10 // 1/10 s

// minBurst is the least bandwidth burst in bits: two super-packets, which come whole.
const minBurst = 2 * 65536 * 8

// Set makes the meter follow limits. Not while it is in use.
func (m *Meter) Set(l Limits) {
	for d := range m.Packets {
		m.Packets[d].Set(l.Packets, max(l.Packets/burstTime, 64))
		m.Bandwidth[d].Set(l.Bandwidth, max(l.Bandwidth/burstTime, minBurst))
		m.NewFlows[d].Set(l.NewFlows, max(l.NewFlows, 1))
	}
}

// follow takes over what another meter's buckets are owed, where they are the same.
func (m *Meter) follow(o *Meter) {
	for d := range m.Packets {
		m.Packets[d].follow(&o.Packets[d])
		m.Bandwidth[d].follow(&o.Bandwidth[d])
		m.NewFlows[d].follow(&o.NewFlows[d])
	}
}

// Admit counts a packet and tells whether the limits let it pass: None, or the first limit that does not, and then no limit has counted it. opens
// tells that it opens a flow. A GSO frame counts as the packets and bytes that it becomes on the wire.
func (m *Meter) Admit(p *Packet, d Direction, opens bool, now time.Duration) Reason {
	packets, bytes := p.WireCost()
	switch {
	case !m.Packets[d].Take(packets, now):
		return LimitPackets
	case !m.Bandwidth[d].Take(8*bytes, now):
		m.Packets[d].giveBack(packets)
		return LimitBandwidth
	case opens && !m.NewFlows[d].Take(1, now):
		m.Packets[d].giveBack(packets)
		m.Bandwidth[d].giveBack(8 * bytes)
		return LimitNewFlows
	}
	return None
}

// WireCost is how many frames leave on the wire for a packet, and how many bytes they have together (Ethernet header included, preamble
// and FCS not).
func (p *Packet) WireCost() (packets, bytes uint64) {
	total := uint64(len(p.Frame))
	if p.GSOType == GSONone || p.GSOSize == 0 {
		return 1, total
	}
	header := uint64(EthernetLen + p.SegmentLen() - int(p.GSOSize))
	if total <= header+uint64(p.GSOSize) {
		return 1, total
	}
	packets = (total - header + uint64(p.GSOSize) - 1) / uint64(p.GSOSize)
	return packets, total + (packets-1)*header
}

// Owed is what each of the meter's buckets is owed at the monotonic time now, in nanoseconds; Owe has another meter be owed as much, or its burst.
func (m *Meter) Owed(now time.Duration) (owed [6]int64) {
	for i, b := range m.buckets() {
		owed[i] = max(b.paid.Load()-int64(now), 0)
	}
	return owed
}

// Owe is the way back, see Owed.
func (m *Meter) Owe(owed [6]int64, now time.Duration) {
	for i, b := range m.buckets() {
		b.paid.Store(int64(now) + min(max(owed[i], 0), b.burst))
	}
}

func (m *Meter) buckets() [6]*Bucket {
	return [...]*Bucket{&m.Packets[0], &m.Packets[1], &m.Bandwidth[0], &m.Bandwidth[1], &m.NewFlows[0], &m.NewFlows[1]}
}
