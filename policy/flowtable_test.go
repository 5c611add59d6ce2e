package policy

import (
	"net/netip"
	"runtime"
	"testing"
	"time"
	"unsafe"
)

// numbered are the ends of flow i of a guest.
func numbered(guest byte, i int) flowEnds {
	return flowEnds{netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, guest}), uint16(i)), netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(i >> 24), byte(i >> 16)}), 443)}
}

func openTCP(t testing.TB, table *FlowTable, e flowEnds, now time.Duration) {
	t.Helper()
	for _, s := range parseScript(t, handshake) {
		if got := playTCP(t, table, e, [2]uint32{}, s, now); got != s.want {
			t.Fatalf("%s: %s", s.line, got)
		}
	}
}

func syn(t testing.TB, table *FlowTable, e flowEnds, now time.Duration) Reason {
	t.Helper()
	_, r := table.Create(e.packet(t, false, 6, tcpBytes(tcpSYN, 0, 0, 1000, 0)), SideGuest, SideUplink, 1, 1, now)
	return r
}

func has(t testing.TB, table *FlowTable, e flowEnds, proto uint8, l4 []byte, now time.Duration) bool {
	t.Helper()
	key, _, _ := e.packet(t, false, proto, l4).FlowKey()
	return entry(table, key, now) != nil
}

// A guest that floods loses its own half-open flows, keeps what is established, and harms nobody.
func TestFlowFlood(t *testing.T) {
	total := NewFlowBudget(1000)
	one, two := NewFlowTable(100, total), NewFlowTable(100, total)
	for i := range 50 {
		openTCP(t, one, numbered(10, 1000+i), time.Hour)
		openTCP(t, two, numbered(11, 1000+i), time.Hour)
		syn(t, two, numbered(11, 2000+i), time.Hour)
	}
	for i := range 10000 {
		if r := syn(t, one, numbered(10, 1<<16+i), time.Hour+time.Duration(i)*time.Microsecond); r != None {
			t.Fatal(r)
		}
	}
	now := time.Hour + time.Minute
	established := 0
	for _, f := range snapshot(one, now) {
		if f.State == TCPEstablished {
			established++
		}
	}
	if established != 50 || one.Len() != 100 || two.Len() != 100 || total.Used() != 200 {
		t.Errorf("%d established, %d and %d flows, %d of the budget", established, one.Len(), two.Len(), total.Used())
	}
	// The last half-open ones are there, the first are gone.
	if !has(t, one, numbered(10, 1<<16+9999), 6, tcp(2), now) || has(t, one, numbered(10, 1<<16+9949), 6, tcp(2), now) {
		t.Error("not the oldest have gone")
	}
}

// What a guest gives up: first what nobody has answered, then what is over, then what was used last longest ago of what it has most of.
func TestFlowOrder(t *testing.T) {
	table := NewFlowTable(6, NewFlowBudget(100))
	at := func(i int) time.Duration { return time.Hour + time.Duration(i)*2*time.Second }
	udpFlow := func(i int) flowEnds { return numbered(10, i) }
	create := func(i int, now time.Duration) {
		if _, r := table.Create(udpFlow(i).packet(t, false, 17, udp(1)), SideGuest, SideUplink, 1, 1, now); r != None {
			t.Fatal(r)
		}
	}
	openTCP(t, table, numbered(10, 1), at(0)) // established
	openTCP(t, table, numbered(10, 2), at(1)) // to be closed
	playTCP(t, table, numbered(10, 2), [2]uint32{}, parseScript(t, "> R 1 | closed")[0], at(2))
	openTCP(t, table, numbered(10, 3), at(3)) // established later
	create(4, at(4))                          // answered
	table.Lookup(udpFlow(4).packet(t, true, 17, udp(1)), SideUplink, at(4))
	syn(t, table, numbered(10, 5), at(5)) // half-open
	create(6, at(6))                      // not answered
	// The first established one is used again.
	playTCP(t, table, numbered(10, 1), [2]uint32{}, parseScript(t, "> A 1 ack 1 | established")[0], at(7))
	have := func() (s string) {
		for i, proto := range []uint8{6, 6, 6, 17, 6, 17} {
			l4 := tcp(2)
			if proto == 17 {
				l4 = udp(0)
			}
			if has(t, table, numbered(10, i+1), proto, l4, at(8)) {
				s += string(rune('1' + i))
			}
		}
		return s
	}
	for i, want := range []string{"123456", "12346", "1234", "134", "13", "13"} {
		if got := have(); got != want {
			t.Fatalf("after %d: %s, want %s", i, got, want)
		}
		create(100+i, at(8))
		// It is answered, so that it is not the next to go.
		table.Lookup(udpFlow(100+i).packet(t, true, 17, udp(1)), SideUplink, at(8))
	}
}

// fromUplink are the ends of flow i of a guest, which a host on the uplink opens.
func fromUplink(guest byte, i int) flowEnds {
	e := numbered(guest, i)
	return flowEnds{e.dst, e.src}
}

// What the uplink opens toward a guest, from whatever addresses, with answers or without, costs neither what the guest has opened nor what
// else there is: established connections, those that are being opened, and datagrams.
func TestFlowFloodFromUplink(t *testing.T) {
	const most = 1000
	answered := func(t *testing.T, table *FlowTable, e flowEnds, proto uint8, ask, answer []byte, from, to Side, now time.Duration) {
		t.Helper()
		if _, r := table.Create(e.packet(t, false, proto, ask), from, to, 1, 1, now); r != None {
			t.Fatal(r)
		}
		if hit, ok := table.Lookup(e.packet(t, true, proto, answer), to, now); !ok || hit.Reason != None {
			t.Fatal(ok, hit.Reason)
		}
	}
	for _, c := range []struct {
		name string
		one  func(t *testing.T, table *FlowTable, i int, now time.Duration)
	}{
		{"pings", func(t *testing.T, table *FlowTable, i int, now time.Duration) {
			answered(t, table, fromUplink(10, 1<<16+i), 1, echo(8, uint16(i)), echo(0, uint16(i)), SideUplink, SideGuest, now)
		}},
		{"datagrams", func(t *testing.T, table *FlowTable, i int, now time.Duration) {
			answered(t, table, fromUplink(10, 1<<16+i), 17, udp(1), udp(1), SideUplink, SideGuest, now)
		}},
		{"SYN", func(t *testing.T, table *FlowTable, i int, now time.Duration) {
			if _, r := table.Create(fromUplink(10, 1<<16+i).packet(t, false, 6, tcpBytes(tcpSYN, 0, 0, 1000, 0)), SideUplink, SideGuest, 1, 1, now); r != None {
				t.Fatal(r)
			}
		}},
		{"connections", func(t *testing.T, table *FlowTable, i int, now time.Duration) {
			e := fromUplink(10, 1<<16+i)
			if _, r := table.Create(e.packet(t, false, 6, tcpBytes(tcpSYN, 0, 0, 1000, 0)), SideUplink, SideGuest, 1, 1, now); r != None {
				t.Fatal(r)
			}
			table.Lookup(e.packet(t, true, 6, tcpBytes(tcpSYN|tcpACK, 0, 1, 1000, 0)), SideGuest, now)
			if hit, _ := table.Lookup(e.packet(t, false, 6, tcpBytes(tcpACK, 1, 1, 1000, 0)), SideUplink, now); hit.State != TCPEstablished {
				t.Fatal(hit.State)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			table, now := NewFlowTable(most, NewFlowBudget(1<<20)), time.Hour
			openTCP(t, table, numbered(10, 1), now)
			answered(t, table, numbered(10, 2), 17, udp(1), udp(1), SideGuest, SideUplink, now)
			syn(t, table, numbered(10, 3), now)
			answered(t, table, fromUplink(10, 4), 132, make([]byte, 12), make([]byte, 12), SideUplink, SideGuest, now)
			for i := range 3 * most {
				now += time.Millisecond
				c.one(t, table, i, now)
			}
			if table.Len() != most {
				t.Errorf("%d flows", table.Len())
			}
			for i, f := range []struct {
				e     flowEnds
				proto uint8
				l4    []byte
			}{{numbered(10, 1), 6, tcp(2)}, {numbered(10, 2), 17, udp(1)}, {numbered(10, 3), 6, tcp(2)}, {fromUplink(10, 4), 132, make([]byte, 12)}} {
				if !has(t, table, f.e, f.proto, f.l4, now) {
					t.Errorf("flow %d is gone", i+1)
				}
			}
		})
	}
}

// Among connections that stay, several at a time come about: none is given up for the next one before it can be answered.
func TestFlowOpeningAmongEstablished(t *testing.T) {
	const most, opening = 1000, 50
	table := NewFlowTable(most, NewFlowBudget(1<<20))
	for i := range most {
		openTCP(t, table, numbered(10, 1<<16+i), time.Hour)
	}
	for i := range opening {
		syn(t, table, numbered(10, i), time.Hour+time.Second)
	}
	for i := range opening {
		if !has(t, table, numbered(10, i), 6, tcp(2), time.Hour+time.Second) {
			t.Errorf("%d of %d is gone", i, opening)
		}
	}
	// No more than a part of what stands can be had so.
	for i := range 10 * most {
		syn(t, table, numbered(10, 2<<16+i), time.Hour+time.Minute)
	}
	established := 0
	for _, f := range snapshot(table, time.Hour+time.Minute) {
		if f.State == TCPEstablished {
			established++
		}
	}
	if established < most*15/16-1 {
		t.Errorf("%d connections are left", established)
	}
}

// The memory of a flood is given back when it is over, though the guest is never without a flow: or else the flows of all guests, one after the
// other, would cost many times what they may at a time.
func TestMemoryAfterFlood(t *testing.T) {
	const flood = 1 << 16
	total := NewFlowBudget(flood)
	table := NewFlowTable(flood, total)
	now, kept := time.Hour, numbered(10, 1)
	openTCP(t, table, kept, now)
	p := numbered(10, 0).packet(t, false, 17, udp(1))
	for i := range flood - 2 {
		p.SrcPort, p.DstPort = uint16(i), 53
		if _, r := table.Create(p, SideGuest, SideUplink, 1, 1, now); r != None {
			t.Fatal(r)
		}
	}
	// These are the last, and a datagram of one is on its way in pieces.
	last := numbered(10, 7)
	piece := func(at int, more bool) *Packet {
		b := udp(40)
		if at > 0 {
			b = make([]byte, 8)
		}
		p := new(Packet)
		if r := p.Parse(last.frame(false, 17, b, fragmentField(9, at, more)), Offload{}); r != None {
			t.Fatal(r)
		}
		return p
	}
	if _, r := table.Create(piece(0, true), SideGuest, SideUplink, 1, 1, now+15*time.Second); r != None || table.Len() != flood {
		t.Fatal(r, table.Len())
	}
	now += 31 * time.Second
	for range 2 * flood / SweepStep {
		table.Sweep(now, SweepStep)
		verify(t, table)
	}
	if n := len(table.slabs); table.Len() != 2 || n > 2 || table.buckets > 3*slabSize {
		t.Errorf("%d flows in %d slabs, %d buckets", table.Len(), n, table.buckets)
	}
	if hit, ok := table.Lookup(piece(48, false), SideGuest, now); !ok || hit.Reason != None {
		t.Errorf("the rest of the datagram: %v, %v", ok, hit.Reason)
	}
	for _, s := range parseScript(t, "> A 1 ack 1 len 10 | established") {
		if got := playTCP(t, table, kept, [2]uint32{}, s, now); got != s.want {
			t.Errorf("%s: %s", s.line, got)
		}
	}
	for i := range 3000 {
		syn(t, table, numbered(10, 1<<16+i), now)
	}
	if verify(t, table); table.Len() != 3002 || total.Used() != 3002 {
		t.Errorf("%d flows, %d of the budget", table.Len(), total.Used())
	}
}

// A walk that is interrupted by the return of memory misses nothing.
func TestWalkWhileShrinking(t *testing.T) {
	table := NewFlowTable(1<<14, NewFlowBudget(1<<14))
	now := time.Hour
	for i := range 10000 {
		_, r := table.Create(numbered(10, i).packet(t, false, 17, udp(1)), SideGuest, SideUplink, 1, 1, now+time.Duration(i/9500)*20*time.Second)
		if r != None {
			t.Fatal(r)
		}
	}
	now += 31 * time.Second
	for table.Sweep(now, SweepStep) {
	}
	seen := map[FlowKey]bool{}
	table.Each(now, func(f *Flow) bool {
		table.Sweep(now, 64)
		seen[f.Key] = true
		return true
	})
	if len(seen) != 500 || len(table.slabs) > 4 {
		t.Errorf("seen %d, %d slabs", len(seen), len(table.slabs))
	}
}

// Beyond the maximum of all, who has flows gives up its own, and who has none gets none; what is given back can be taken.
func TestFlowBudget(t *testing.T) {
	total := NewFlowBudget(10)
	one, two := NewFlowTable(100, total), NewFlowTable(100, total)
	for i := range 20 {
		if r := syn(t, one, numbered(10, i+1), time.Hour); r != None {
			t.Fatal(r)
		}
	}
	if one.Len() != 10 || total.Used() != 10 {
		t.Fatalf("%d flows, %d of the budget", one.Len(), total.Used())
	}
	if r := syn(t, two, numbered(11, 1), time.Hour); r != FlowLimit {
		t.Fatal(r)
	}
	one.Delete(FlowRef{1, one.at(1).serial})
	if r := syn(t, two, numbered(11, 1), time.Hour); r != None {
		t.Fatal(r)
	}
	if r := syn(t, two, numbered(11, 2), time.Hour); r != None || two.Len() != 1 || one.Len() != 9 {
		t.Fatalf("%v: %d and %d flows", r, one.Len(), two.Len())
	}
	one.Close()
	if total.Used() != 1 || one.Len() != 0 {
		t.Errorf("%d of the budget", total.Used())
	}
	if r := syn(t, one, numbered(10, 1), time.Hour); r != FlowLimit {
		t.Errorf("a closed table: %v", r)
	}
	if total.Max() != 10 {
		t.Error(total.Max())
	}
}

// A table has its reserved share of the budget whatever others take; what it has beyond that is anyone's.
func TestFlowShares(t *testing.T) {
	total := NewFlowBudget(10)
	one, two := NewFlowTable(100, total), NewFlowTable(3, total)
	one.Reserve(2)
	two.Reserve(4) // it cannot have more than 3
	for i := range 20 {
		if r := syn(t, one, numbered(10, i+1), time.Hour); r != None {
			t.Fatal(r)
		}
	}
	for i := range 5 {
		if r := syn(t, two, numbered(11, i+1), time.Hour); r != None {
			t.Fatal(r)
		}
	}
	if one.Len() != 7 || two.Len() != 3 || total.Used() != 10 {
		t.Errorf("%d and %d flows, %d of the budget", one.Len(), two.Len(), total.Used())
	}
	// What is given back within the share does not become the other's.
	two.Delete(FlowRef{1, two.at(1).serial})
	syn(t, one, numbered(10, 30), time.Hour)
	if one.Len() != 7 || total.Used() != 9 {
		t.Errorf("%d flows, %d of the budget", one.Len(), total.Used())
	}
	two.Close()
	for i := range 5 {
		syn(t, one, numbered(10, 40+i), time.Hour)
	}
	if one.Len() != 10 || total.Used() != 10 {
		t.Errorf("with two gone, %d flows, %d of the budget", one.Len(), total.Used())
	}
	one.Close()
	if total.Used() != 0 || total.shared.Load() != 0 || total.reserved.Load() != 0 {
		t.Errorf("left: %d flows, %d shared, %d reserved", total.Used(), total.shared.Load(), total.reserved.Load())
	}
}

// What has expired goes step by step, and what was lowered too.
func TestSweep(t *testing.T) {
	total := NewFlowBudget(10000)
	table := NewFlowTable(5000, total)
	for i := range 3000 {
		syn(t, table, numbered(10, i), time.Hour)
	}
	for range 10 {
		openTCP(t, table, numbered(10, 60000+table.Len()), time.Hour)
	}
	if table.Sweep(time.Hour+4*time.Minute-1, 1000) || table.Len() != 3010 {
		t.Fatalf("%d flows before their time", table.Len())
	}
	now := time.Hour + 4*time.Minute
	for i, want := range []int{2010, 1010, 10} {
		if more := table.Sweep(now, 1000); !more || table.Len() != want {
			t.Fatalf("sweep %d: %d flows, more %v", i, table.Len(), more)
		}
	}
	if table.Sweep(now, 1000) || table.Len() != 10 || total.Used() != 10 {
		t.Fatalf("%d flows", table.Len())
	}
	table.SetMax(3)
	if !table.Sweep(now, 5) || table.Len() != 5 || table.Sweep(now, 5) || table.Len() != 3 {
		t.Errorf("%d flows", table.Len())
	}
	table.SetMax(1)
	syn(t, table, numbered(10, 5), now)
	if table.Len() != 1 {
		t.Errorf("%d flows", table.Len())
	}
	// A busy flow that moved to the end of its queue less often than it was used lives as long as it should.
	busy := numbered(10, 7)
	table = NewFlowTable(10, total)
	for i := range 10 {
		p := busy.packet(t, false, 17, udp(1))
		if _, ok := table.Lookup(p, SideGuest, time.Duration(i)*100*time.Millisecond); !ok {
			table.Create(p, SideGuest, SideUplink, 1, 1, 0)
		}
	}
	table.Sweep(30*time.Second+900*time.Millisecond-1, 10)
	if table.Len() != 1 {
		t.Error("swept too early")
	}
	table.Sweep(30*time.Second+900*time.Millisecond, 10)
	if table.Len() != 0 {
		t.Error("not swept")
	}
}

// Room is made of what has expired before anything alive goes.
func TestCreateExpires(t *testing.T) {
	table := NewFlowTable(2, NewFlowBudget(10))
	udpOut := func(i int) *Packet { return numbered(10, i).packet(t, false, 17, udp(1)) }
	openTCP(t, table, numbered(10, 1), time.Hour)
	playTCP(t, table, numbered(10, 1), [2]uint32{}, parseScript(t, "> R 1 | closed")[0], time.Hour)
	now := time.Hour + 4*time.Minute
	table.Create(udpOut(2), SideGuest, SideUplink, 1, 1, now-time.Second)
	table.Create(udpOut(3), SideGuest, SideUplink, 1, 1, now)
	if !has(t, table, numbered(10, 2), 17, udp(1), now) || !has(t, table, numbered(10, 3), 17, udp(1), now) || table.Len() != 2 {
		t.Error("what is alive has gone, and not what has expired")
	}
}

// A reload or the end of a rule looks at a few flows at a time.
func TestDeleteIf(t *testing.T) {
	table := NewFlowTable(5000, NewFlowBudget(5000))
	for i := range 3000 {
		_, r := table.Create(numbered(10, i).packet(t, false, 17, udp(1)), SideGuest, SideUplink, uint32(i%3), 1, time.Hour)
		if r != None {
			t.Fatal(r)
		}
	}
	steps := 0
	for at := uint32(0); ; steps++ {
		looked := 0
		at = table.DeleteIf(at, 100, func(f *Flow) bool { looked++; return f.Verdict == 1 })
		if looked > 100 {
			t.Fatalf("looked at %d", looked)
		}
		if at == 0 {
			break
		}
	}
	if table.Len() != 2000 || table.total.Used() != 2000 || steps != 29 {
		t.Errorf("%d flows after %d steps, %d of the budget", table.Len(), steps, table.total.Used())
	}
	n := 0
	table.Each(time.Hour, func(f *Flow) bool { n++; return f.Verdict != 1 && n < 1500 })
	if n != 1500 {
		t.Errorf("listed %d", n)
	}
	// What is empty gives its memory back, and works on.
	for at, more := uint32(0), true; more; more = at != 0 {
		at = table.DeleteIf(at, 1000, func(*Flow) bool { return true })
	}
	if table.Len() != 0 || table.slabs != nil || table.heads != nil {
		t.Errorf("%d flows, %d slabs", table.Len(), len(table.slabs))
	}
	if r := syn(t, table, numbered(10, 5), time.Hour); r != None || !has(t, table, numbered(10, 5), 6, tcp(2), time.Hour) {
		t.Error("does not work any more")
	}
}

// After a restart flows go on where they were, with their windows; there is no other way without a SYN.
func TestAdopt(t *testing.T) {
	e := numbered(10, 1000)
	old, table := NewFlowTable(10, NewFlowBudget(10)), NewFlowTable(1, NewFlowBudget(10))
	openTCP(t, old, e, time.Hour)
	f := snapshot(old, time.Hour)[0]
	f.Verdict, f.Generation, f.next = 9, 1, [2]NextHop{{1}, {2}}
	for range 2 {
		if !table.Adopt(f, time.Minute) || table.Len() != 1 {
			t.Fatal("once, and then in the place of itself")
		}
	}
	for _, s := range parseScript(t, `
		> A 900000 ack 1 | tcp-window established
		> A 1 ack 1 len 10 | established`) {
		if got := playTCP(t, table, e, [2]uint32{}, s, time.Minute); got != s.want {
			t.Errorf("%s: %s", s.line, got)
		}
	}
	if f := snapshot(table, time.Minute)[0]; f.Verdict != 9 || f.Packets[0] != 3 || f.next != [2]NextHop{} {
		t.Errorf("%+v", f)
	}
	for _, bad := range []Flow{{}, {Key: f.Key, State: FlowReplied}, {Key: FlowKey{Proto: ProtoUDP}, State: TCPEstablished}, {State: flowStates}} {
		if table.Adopt(bad, time.Minute) {
			t.Errorf("%+v", bad)
		}
	}
	if f.used = time.Hour; table.Adopt(f, 4*time.Hour) {
		t.Error("what has expired is taken")
	}
	if f.used = 4 * time.Hour; !table.Adopt(f, 4*time.Hour) {
		t.Error("what has expired is in the way")
	}
}

// Each flow takes at most 256 bytes, its buckets included, also in a table that holds few, or one of 254 that share a million.
func TestFlowMemory(t *testing.T) {
	table := NewFlowTable(1<<17, NewFlowBudget(1<<17))
	p := numbered(10, 0).packet(t, false, 17, udp(1))
	for i := range 1 << 17 {
		p.SrcPort, p.DstPort = uint16(i), uint16(i>>16)
		if _, r := table.Create(p, SideGuest, SideUplink, 1, 1, 0); r != None {
			t.Fatal(r)
		}
		if n := i + 1; n == 1 || n == 16 || n == 1024 || n == 1<<20/254 || n == 1<<17 {
			bytes := 0
			for _, s := range table.slabs {
				bytes += cap(s) * int(unsafe.Sizeof(Flow{}))
			}
			for _, s := range table.heads {
				bytes += cap(s) * 4
			}
			if n == 1 && bytes > 4096+256 || n > 1 && bytes > 256*n {
				t.Errorf("%d flows take %d bytes", n, bytes)
			}
		}
	}
	longest := 0
	for b := range table.buckets {
		n := 0
		for i := table.heads[b>>slabShift][b&(slabSize-1)]; i != 0; i = table.at(i).chain {
			n++
		}
		longest = max(longest, n)
	}
	if longest > 20 {
		t.Errorf("a chain of %d", longest)
	}
}

// filled makes a table of established TCP connections, or of unanswered UDP flows.
func filled(b *testing.B, n int, proto uint8) (*FlowTable, func(i int, back bool) *Packet) {
	table := NewFlowTable(n, NewFlowBudget(n))
	e := numbered(10, 1)
	fly := func(back bool, l4 []byte) *Packet { return e.packet(b, back, proto, l4) }
	set := func(p *Packet, i int, back bool) *Packet {
		if back {
			p.SrcPort, p.DstPort = uint16(i>>16), uint16(i)
		} else {
			p.SrcPort, p.DstPort = uint16(i), uint16(i>>16)
		}
		return p
	}
	create := func(p *Packet) {
		if _, r := table.Create(p, SideGuest, SideUplink, 1, 1, 0); r != None {
			b.Fatal(r)
		}
	}
	if proto == ProtoUDP {
		out, in := fly(false, udp(1)), fly(true, udp(1))
		for i := range n {
			create(set(out, i, false))
		}
		return table, func(i int, back bool) *Packet {
			if back {
				return set(in, i, true)
			}
			return set(out, i, false)
		}
	}
	first, second := fly(false, tcpBytes(tcpSYN, 0, 0, 60000, 0)), fly(true, tcpBytes(tcpSYN|tcpACK, 0, 1, 60000, 0))
	out, in := fly(false, tcpBytes(tcpACK, 1, 1, 60000, 1000)), fly(true, tcpBytes(tcpACK, 1, 1, 60000, 1000))
	for i := range n {
		create(set(first, i, false))
		table.Lookup(set(second, i, true), SideUplink, 0)
		table.Lookup(set(out, i, false), SideGuest, 0)
	}
	return table, func(i int, back bool) *Packet {
		if back {
			return set(in, i, true)
		}
		return set(out, i, false)
	}
}

// One packet of any of so many TCP connections, both directions by turns.
func BenchmarkFlowHit(b *testing.B) {
	for _, c := range []struct {
		name string
		n    int
	}{{"1k", 1000}, {"100k", 100000}, {"1M", 1 << 20}} {
		b.Run(c.name, func(b *testing.B) {
			table, packet := filled(b, c.n, ProtoTCP)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				back, from := i&1 == 0, SideGuest
				if back {
					from = SideUplink
				}
				if hit, ok := table.Lookup(packet(i*2654435761%c.n, back), from, time.Duration(i)); !ok || hit.Reason != None {
					b.Fatal(hit.Reason)
				}
			}
		})
	}
}

// A busy flow, as most packets belong to.
func BenchmarkFlowHitSame(b *testing.B) {
	table, packet := filled(b, 1<<20, ProtoTCP)
	p := packet(12345, false)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := table.Lookup(p, SideGuest, 0); !ok {
			b.Fatal("miss")
		}
	}
}

// New flows up to a million, with the longest that one took, and what a flow weighs in the heap.
func BenchmarkFlowCreate(b *testing.B) {
	const n = 1 << 20
	for b.Loop() {
		var m1, m2 runtime.MemStats
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&m1)
		b.StartTimer()
		table := NewFlowTable(n, NewFlowBudget(n))
		p := numbered(10, 1).packet(b, false, 17, udp(1))
		longest := time.Duration(0)
		start := time.Now()
		for i := range n {
			p.SrcPort, p.DstPort = uint16(i), uint16(i>>16)
			was := time.Now()
			table.Create(p, SideGuest, SideUplink, 1, 1, 0)
			longest = max(longest, time.Since(was))
		}
		took := time.Since(start)
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&m2)
		b.ReportMetric(float64(took.Nanoseconds())/n, "ns/flow")
		b.ReportMetric(float64(m2.HeapAlloc-m1.HeapAlloc)/n, "bytes/flow")
		b.ReportMetric(float64(longest.Microseconds()), "us-longest")
		runtime.KeepAlive(table)
		b.StartTimer()
	}
}

// A new flow in a full table, which costs another.
func BenchmarkFlowCreateFull(b *testing.B) {
	const n = 1 << 16
	table, packet := filled(b, n, ProtoUDP)
	b.ReportAllocs()
	i := n
	for b.Loop() {
		i++
		table.Create(packet(i, false), SideGuest, SideUplink, 1, 1, 0)
	}
}

// A step of the sweep: with nothing to do among a million flows, and when all have expired (once: -benchtime 1x).
func BenchmarkSweep(b *testing.B) {
	const n = 1 << 20
	table, _ := filled(b, n, ProtoUDP)
	b.Run("idle", func(b *testing.B) {
		for b.Loop() {
			table.Sweep(time.Second, SweepStep)
		}
	})
	b.Run("expired", func(b *testing.B) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		longest, steps, start := time.Duration(0), 0, cpuTime()
		for range b.N {
			for more := true; more; steps++ {
				was := cpuTime()
				more = table.Sweep(time.Hour, SweepStep)
				longest = max(longest, cpuTime()-was)
			}
		}
		b.ReportMetric(float64((cpuTime()-start).Microseconds())/float64(steps), "us/step")
		b.ReportMetric(float64(longest.Microseconds()), "us-longest")
	})
}
