package policy

import (
	"slices"
	"testing"
	"time"
)

// In another epoch each flow is asked about once, by a packet or by Review, and who is refused ends; in which order they come does not matter.
func TestAsk(t *testing.T) {
	const flows = 1000
	budget := NewFlowBudget(flows)
	table := NewFlowTable(flows, budget)
	for i := range flows {
		if _, r := table.Create(numbered(10, i).packet(t, false, 17, udp(1)), SideGuest, SideUplink, uint32(i), 0, time.Hour); r != None {
			t.Fatal(r)
		}
	}
	for epoch := range uint32(300) { // more than an epoch's number has values
		asked := map[uint32]int{}
		table.Ask(func(f *Flow) bool {
			asked[f.Verdict]++
			return f.Verdict%300 != epoch
		})
		before := table.Len()
		known := 0
		for i := range 100 {
			n := (i*7 + int(epoch)) % flows
			hit, ok := table.Lookup(numbered(10, n).packet(t, false, 17, udp(1)), SideGuest, time.Hour)
			if ok != (uint32(n%300) > epoch) || ok && hit.Verdict != uint32(n) {
				t.Fatalf("epoch %d: flow %d was found: %v, %+v", epoch, n, ok, hit)
			}
			if ok {
				known++
			}
		}
		if len(asked) < known || len(asked) > 100 {
			t.Fatalf("epoch %d: asked about %d flows for %d that were found", epoch, len(asked), known)
		}
		for next := table.Review(0, 64); next != 0; {
			next = table.Review(next, 64)
		}
		if len(asked) != before {
			t.Fatalf("epoch %d: asked about %d of %d flows", epoch, len(asked), before)
		}
		for v, n := range asked {
			if n != 1 {
				t.Fatalf("epoch %d: asked %d times about flow %d", epoch, n, v)
			}
		}
	}
	if table.Len() != 0 || budget.Used() != 0 {
		t.Errorf("%d flows are left, and %d of the budget", table.Len(), budget.Used())
	}
}

// A flow that was refused takes its later fragments, the errors about it and what it remembers with it.
func TestAskEndsWhatHangsOn(t *testing.T) {
	e := ends("192.0.2.10:40000", "198.51.100.7:53")
	there := e.packet(t, false, 17, udp(8))
	failed := e.packet(t, true, 1, cat([]byte{3, 3, 0, 0, 0, 0, 0, 0}, there.Frame[EthernetLen:]))
	first, later := e.edited(t, false, 17, udp(16), fragmentField(1, 0, true)), e.edited(t, false, 17, make([]byte, 8), fragmentField(1, 24, false))
	for _, admitted := range []bool{true, false} {
		for name, follows := range map[string]func(*FlowTable, FlowRef) bool{
			"fragment": func(table *FlowTable, _ FlowRef) bool {
				hit, ok := table.Lookup(later, SideGuest, time.Hour)
				return ok && hit.Reason == None
			},
			"error": func(table *FlowTable, _ FlowRef) bool {
				_, ok := table.Related(failed, SideUplink, time.Hour)
				return ok
			},
			"way": func(table *FlowTable, ref FlowRef) bool { return table.SetNext(ref, false, NextHop{1}, 1) },
		} {
			table := NewFlowTable(10, NewFlowBudget(10))
			hit, r := table.Create(first, SideGuest, SideUplink, 1, 0, time.Hour)
			if r != None {
				t.Fatal(r)
			}
			table.Ask(func(*Flow) bool { return admitted })
			if got := follows(table, hit.Ref); got != admitted {
				t.Errorf("%s of a flow that is admitted: %v; passes: %v", name, admitted, got)
			}
		}
	}
}

// Guests come and go: what the shares and the flows take of the budget adds up, and who stays keeps his flows.
func TestTakeOverShares(t *testing.T) {
	const flows = 1200
	e, g := sharing(t, 3, flows, Limits{})
	open := &Policy{Egress: Chain{Default: Accept}, Ingress: Chain{Default: Accept}}
	for i := range 500 {
		for _, g := range g {
			decide(t, e, g, i, false)
		}
	}
	for round, sides := range [][]Side{{0, 1, 2}, {0, 2}, {2, 0, 3, 4, 5, 6}, {4}, {4, 7, 8}, {}, {9}} {
		var guests []GuestPolicy
		for i, s := range sides {
			p := *open
			p.Limits.Flows = uint64(100 * (1 + (int(s)+round)%5))
			addr := g[0].Addrs
			guests = append(guests, GuestPolicy{&Guest{ID: i, Side: SideGuest + s, Name: string(rune('a' + s)), Addrs: addr}, &p})
		}
		next, err := e.Next(guests, nil)
		if err != nil {
			t.Fatal(err)
		}
		kept := map[Side]*FlowTable{}
		for i := range e.guests {
			kept[e.guests[i].guest.Side] = e.guests[i].table
		}
		next.TakeOver(e, func(*Flow) bool { return true })
		next.Review(func() {})
		var used, shared, reserved int
		for i := range next.guests {
			ge := &next.guests[i]
			if was := kept[ge.guest.Side]; was != nil && was != ge.table {
				t.Errorf("round %d: guest %d has another table", round, i)
			}
			if want := min(flows/(2*len(sides)), ge.flows); ge.table.share != want {
				t.Errorf("round %d: guest %d has a share of %d, want %d", round, i, ge.table.share, want)
			}
			n := ge.table.Len()
			used, shared, reserved = used+n, shared+max(n-ge.table.share, 0), reserved+ge.table.share
		}
		b := next.budget
		if b.Used() != used || int(b.shared.Load()) != shared || int(b.reserved.Load()) != reserved {
			t.Errorf("round %d: %d of %d used, %d of %d shared, %d of %d reserved", round, b.Used(), used, b.shared.Load(), shared, b.reserved.Load(), reserved)
		}
		for i := range next.guests {
			for n := range 50 {
				ends := numbered(10, 10000*round+100*i+n)
				if r := next.Decide(ends.packet(t, false, 17, udp(1)), End{ZoneGuest, next.guests[i].guest}, End{Zone: ZoneUplink}, time.Hour).Reason; r != None {
					t.Fatalf("round %d: guest %d opens no flow: %v", round, i, r)
				}
			}
		}
		e = next
	}
}

// Between two steps of a review nobody holds a table, so that packets pass, and a step asks about few flows.
func TestReviewPauses(t *testing.T) {
	const flows = 3 * reviewStep
	e, g := sharing(t, 2, 2*flows, Limits{})
	for i := range flows {
		for _, g := range g {
			decide(t, e, g, i, false)
		}
	}
	asked, pauses, want := 0, 0, 0
	step := make([]int, len(e.guests))
	for i := range e.guests {
		want += e.guests[i].table.Len()
		e.guests[i].table.Ask(func(*Flow) bool {
			asked++
			step[i]++
			return true
		})
	}
	e.Review(func() {
		for i := range e.guests {
			if mu := &e.guests[i].table.mu; mu.TryLock() {
				mu.Unlock()
			} else {
				t.Error("a table is locked")
			}
		}
		if n := slices.Max(step); n > reviewStep {
			t.Errorf("%d flows in a step", n)
		}
		clear(step)
		pauses++
	})
	if asked != want || want == 0 || pauses < want/reviewStep-len(e.guests) {
		t.Errorf("%d of %d flows, and %d pauses", asked, want, pauses)
	}
}
