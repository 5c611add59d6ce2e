package policy

import "sync/atomic"

// DefaultTotalFlows is how many flows there may be at a time, of all guests together.
const DefaultTotalFlows = 1 << 20

// FlowBudget bounds the flows of all tables together. It is safe for concurrent use.
type FlowBudget struct {
	used     atomic.Int64
	shared   atomic.Int64 // of them, those beyond their table's reserved share
	reserved atomic.Int64 // by all tables, in use or not
	max      int64
}

// NewFlowBudget makes a budget of that many flows.
func NewFlowBudget(max int) *FlowBudget { return &FlowBudget{max: int64(max)} }

// Used and Max tell how many flows there are and may be.
func (b *FlowBudget) Used() int { return int(b.used.Load()) }
func (b *FlowBudget) Max() int  { return int(b.max) }

// take is a place for a table that has so many flows.
func (b *FlowBudget) take(count, reserved int) bool {
	if count >= reserved && b.shared.Add(1) > b.max-b.reserved.Load() {
		b.shared.Add(-1)
		return false
	}
	b.used.Add(1)
	return true
}

// reserve changes the share of a table that has so many flows.
func (b *FlowBudget) reserve(count, from, to int) {
	b.reserved.Add(int64(to - from))
	b.shared.Add(int64(max(count-to, 0) - max(count-from, 0)))
}

// give takes back n places of a table that had so many flows.
func (b *FlowBudget) give(n, count, reserved int) {
	b.used.Add(int64(-n))
	b.shared.Add(-int64(max(count-reserved, 0) - max(count-n-reserved, 0)))
}
