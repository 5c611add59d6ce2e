package policy

import (
	"slices"
	"testing"
	"time"
)

// A flow that is written and read is the same, but for what is the owner's and for the clock.
func TestFlowState(t *testing.T) {
	table := NewFlowTable(100, NewFlowBudget(100))
	const hour = time.Hour
	for i, script := range []string{"> S 0 len 3 ws 7 | new syn-sent", handshake, handshake + "\n> A 1 ack 1 len 10 | established\n< FA 1 ack 11 | fin-wait"} {
		for _, s := range parseScript(t, script) {
			playTCP(t, table, numbered(10, i), [2]uint32{4e9, 77}, s, hour)
		}
	}
	for _, e := range []flowEnds{ends("[2001:db8::1]:5", "[2001:db8::2]:4"), numbered(10, 50)} {
		if _, r := table.Create(e.packet(t, false, 17, udp(8)), SideGuest, SideUplink, 1, 1, hour+time.Second); r != None {
			t.Fatal(r)
		}
	}
	const now, other = hour + 5*time.Second, 3 * time.Second
	var saved []Flow
	var b []byte
	table.Save(now, func(f *Flow) { saved, b = append(saved, *f), f.AppendState(b, now) })
	if len(saved) != 5 || len(b) != 5*FlowStateLen {
		t.Fatalf("%d flows, %d bytes", len(saved), len(b))
	}
	next := NewFlowTable(100, NewFlowBudget(100))
	for i := range saved {
		f, ok := ReadFlow(b[i*FlowStateLen:], other)
		if !ok || !next.Adopt(f, other) {
			t.Fatalf("flow %d is not taken: %+v", i, f)
		}
		if again := f.AppendState(nil, other); !slices.Equal(again, b[i*FlowStateLen:][:FlowStateLen]) {
			t.Errorf("flow %d is another", i)
		}
	}
	verify(t, next)
	for _, f := range saved {
		g := entry(next, f.Key, other)
		if g == nil || g.tcp != f.tcp || g.State != f.State || g.Packets != f.Packets || g.Bytes != f.Bytes || g.From != f.From || g.To != f.To || g.Reversed != f.Reversed ||
			other-g.Opened != now-f.Opened || g.Expires()-other != f.Expires()-now {
			t.Errorf("%+v\nwas %+v", g, f)
		}
	}
	// Idle times go on.
	if table.Sweep(hour+40*time.Second, 100); next.Len() != 5 {
		t.Error("a flow is gone early")
	}
	if next.Sweep(other+35*time.Second, 100); table.Len() != next.Len() || table.Len() == 5 {
		t.Errorf("%d flows are left, and %d in the table after", table.Len(), next.Len())
	}
}

// Whatever is read as a flow is one that a table can hold, or none.
func FuzzReadFlow(f *testing.F) {
	table := NewFlowTable(10, NewFlowBudget(10))
	e := numbered(10, 1)
	for _, s := range parseScript(f, handshake) {
		playTCP(f, table, e, [2]uint32{}, s, time.Hour)
	}
	table.Save(time.Hour, func(flow *Flow) { f.Add(flow.AppendState(nil, time.Hour)) })
	f.Add(make([]byte, FlowStateLen))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < FlowStateLen {
			return
		}
		const now = time.Minute
		flow, ok := ReadFlow(b, now)
		if !ok {
			return
		}
		table := NewFlowTable(2, NewFlowBudget(2))
		if table.Adopt(flow, now) {
			verify(t, table)
		}
		for _, back := range []bool{false, true} {
			e := flowEnds{flow.Src(), flow.Dst()}
			if flow.Key.Proto == ProtoTCP {
				table.Lookup(e.packet(t, back, ProtoTCP, tcpBytes(tcpACK, 1, 1, 1000, 5)), flow.side(map[bool]int{true: 1}[back]), now)
			}
		}
		table.Sweep(now+24*time.Hour, 10)
		if verify(t, table); table.Len() != 0 {
			t.Errorf("%+v stays", flow)
		}
	})
}
