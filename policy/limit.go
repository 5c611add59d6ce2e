package policy

import (
	"math"
	"sync/atomic"
	"time"
)

// Bucket is a token bucket in the form of a virtual scheduling algorithm (GCRA, ITU-T I.371; it admits what a bucket of that rate and
// burst admits): one number, the time at which all that was admitted would be paid for. Safe for concurrent use, without locks.
// The zero value admits everything.
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
		b.burst = int64(min(b.cost*float64(burst), math.MaxInt64/4))
	}
}

// Take takes n units at the monotonic time now, or nothing where there are not so many.
func (b *Bucket) Take(n uint64, now time.Duration) bool {
	if b.cost == 0 {
		return true
	}
	price := int64(min(b.cost*float64(n), math.MaxInt64/4))
	for {
		paid := b.paid.Load()
		next := max(paid, int64(now)) + price
		if next-int64(now) > b.burst {
			return false
		}
		if b.paid.CompareAndSwap(paid, next) {
			return true
		}
	}
}

// Meter holds what the limits of one guest's policy count, each direction by itself.
type Meter struct {
	Packets   [2]Bucket // by Direction
	Bandwidth [2]Bucket // bits of frames, without preamble and FCS
	NewFlows  Bucket
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
	}
	m.NewFlows.Set(l.NewFlows, max(l.NewFlows, 1))
}

// Admit counts a packet and tells whether the limits let it pass: None, or the limit's reason. A GSO frame counts as the packets and
// bytes that it becomes on the wire.
func (m *Meter) Admit(p *Packet, d Direction, now time.Duration) Reason {
	packets, bytes := p.WireCost()
	if !m.Packets[d].Take(packets, now) {
		return LimitPackets
	}
	if !m.Bandwidth[d].Take(8*bytes, now) {
		return LimitBandwidth
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
