package policy

import (
	"math/rand/v2"
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

// A table that adopts another's flows by rounds, while that one is in use, is at the end as that one is.
func TestRounds(t *testing.T) {
	const most = 10000
	random := rand.New(rand.NewPCG(1, 2))
	table, next := NewFlowTable(most, NewFlowBudget(most)), NewFlowTable(most, NewFlowBudget(most))
	now, opened := time.Hour, 0
	use := func(n int) {
		for i := range n {
			now += 20 * time.Millisecond
			e := numbered(10, random.IntN(800))
			table.Lookup(e.packet(t, true, ProtoUDP, udp(8)), SideUplink, now)
			if random.IntN(3) > 0 {
				if _, r := table.Create(e.packet(t, false, ProtoUDP, udp(8)), SideGuest, SideUplink, 1, 1, now); r != None {
					t.Fatal(r)
				}
			}
			if i%20 == 0 {
				opened++
				openTCP(t, table, numbered(11, opened), now)
			}
		}
		table.Sweep(now, most)
	}
	use(1500)
	for i := range 2000 { // whose places are free when they have expired: others move there
		if _, r := table.Create(numbered(12, i).packet(t, false, ProtoUDP, udp(8)), SideGuest, SideUplink, 1, 1, now); r != None {
			t.Fatal(r)
		}
	}
	rounds, sizes := table.Rounds(), []int(nil)
	for round := range 6 {
		var list []Flow
		n := 0
		use(200)
		for from := 0; ; {
			if round < 5 && n < 1000 { // the last is of a table that nobody uses meanwhile
				use(20)
			}
			list, from = rounds.Some(list[:0], from, 50, now)
			for _, f := range list {
				f, ok := ReadFlow(f.AppendState(nil, now+time.Hour), now+time.Hour)
				if f.Verdict = 1; !ok || !next.Adopt(f, now) && !f.expired(now) {
					t.Fatalf("%+v is refused", f)
				}
				n++
			}
			if from == 0 {
				break
			}
		}
		next.Order()
		verify(t, next)
		sizes = append(sizes, n)
	}
	for _, f := range snapshot(table, now) {
		g := entry(next, f.Key, now)
		if g == nil || g.tcp != f.tcp || g.State != f.State || g.Packets != f.Packets || g.Bytes != f.Bytes || g.From != f.From || g.Opened != f.Opened ||
			g.Verdict != 1 || g.used < f.used || g.used-f.used >= queueGrain {
			t.Fatalf("%+v\nwas %+v", g, f)
		}
	}
	next.Sweep(now+queueGrain, most) // what the other has forgotten meanwhile
	verify(t, next)
	for _, g := range snapshot(next, now+queueGrain) {
		if entry(table, g.Key, now) == nil {
			t.Errorf("%+v stays", g)
		}
	}
	if sizes[0] < 400 || sizes[5] == 0 || sizes[5] > 300 || opened < 80 {
		t.Errorf("rounds of %d flows, %d connections", sizes, opened)
	}
	if list, from := rounds.Some(nil, 0, 2*most, now); len(list) != 0 || from != 0 {
		t.Errorf("%d flows have changed and nobody used them", len(list))
	}
	e := numbered(13, 1)
	for i, edit := range []func([]byte){fragmentField(1, 0, true), fragmentField(1, 16, false)} {
		part := e.edited(t, false, ProtoUDP, udp(8), edit)
		if _, ok := table.Lookup(part, SideGuest, now); !ok && i == 0 {
			table.Create(part, SideGuest, SideUplink, 1, 1, now)
		}
		if list, _ := rounds.Some(nil, 0, 10, now); len(list) != 1 || list[0].Packets[0] != uint64(i+1) {
			t.Errorf("fragment %d: %+v", i, list)
		}
	}
	if rounds.Close(); table.changed != nil {
		t.Error("the table still notes changes")
	}
}

// Flows that are adopted in any order end in that of their use.
func TestOrder(t *testing.T) {
	table := NewFlowTable(100, NewFlowBudget(100))
	old := NewFlowTable(100, NewFlowBudget(100))
	for i := range 100 {
		if _, r := old.Create(numbered(10, i).packet(t, false, ProtoUDP, udp(8)), SideGuest, SideUplink, 1, 1, time.Duration(i)*100*time.Millisecond); r != None {
			t.Fatal(r)
		}
	}
	flows := snapshot(old, 10*time.Second)
	rand.New(rand.NewPCG(3, 4)).Shuffle(len(flows), func(i, j int) { flows[i], flows[j] = flows[j], flows[i] })
	for _, f := range flows {
		if !table.Adopt(f, 10*time.Second) {
			t.Fatal("refused")
		}
	}
	few := NewFlowTable(30, NewFlowBudget(100)) // in which those stay that were used last
	for _, f := range flows {
		few.Adopt(f, 10*time.Second)
	}
	few.Order()
	verify(t, few)
	for _, f := range snapshot(few, 10*time.Second) {
		if f.Opened < 7*time.Second-queueGrain || few.Len() != 30 {
			t.Errorf("%+v stays, of %d", f, few.Len())
		}
	}
	table.Order()
	verify(t, table)
	for at := range 12 {
		now := time.Duration(at)*time.Second + UDPUnrepliedIdle
		table.Sweep(now, 100)
		if n, want := table.Len(), max(0, 99-10*at); n < want-1 || n > want+10 {
			t.Errorf("%d flows of %d at %v", n, want, now)
		}
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
