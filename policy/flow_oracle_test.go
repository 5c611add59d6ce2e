package policy

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// slowTable is a flow table as one would write it for few flows: a list in the order in which flows went to the end of their queue. Times are whole
// seconds, so that queueGrain does not show.
type slowTable struct {
	max   int
	share int
	limit int // of all together
	all   *[2]*slowTable
	flows []*slowFlow
}

// full tells whether there is no place for another flow, but in place of one that is there: beyond its share a table takes what none has reserved.
func (s *slowTable) full() bool {
	free := s.limit
	for _, o := range s.all {
		free -= max(o.share, len(o.flows))
	}
	return len(s.flows) >= s.max || len(s.flows) >= s.share && free <= 0
}

type slowFlow struct {
	key     string // the packet's from and to, or those of the way back
	state   FlowState
	proto   uint8
	uplink  bool // the uplink has opened it
	used    time.Duration
	packets [2]uint64
	heard   bool    // TCP: the other side has sent its SYN
	reset   [2]bool // and who has reset
}

// class is the idle time of a flow, how soon it is given up, and its place among those with the same use. Those of the uplink come last.
func (f *slowFlow) class() (idle time.Duration, yields, place int) {
	if idle, yields, place = f.kind(); f.uplink {
		place += 9
	}
	return idle, yields, place
}

func (f *slowFlow) kind() (idle time.Duration, yields, place int) {
	switch {
	case f.state == TCPSynSent || f.state == TCPSynReceived:
		return 4 * time.Minute, 0, 0
	case f.state == FlowUnreplied && f.proto == 17:
		return 30 * time.Second, 0, 1
	case f.state == FlowUnreplied && f.proto == 1:
		return 30 * time.Second, 0, 2
	case f.state == FlowUnreplied:
		return 10 * time.Minute, 0, 3
	case f.state == TCPClosed:
		return 4 * time.Minute, 1, 4
	case f.state == TCPEstablished:
		return 2*time.Hour + 4*time.Minute, 2, 5
	case f.proto == 17:
		return 5 * time.Minute, 2, 6
	case f.proto == 1:
		return 30 * time.Second, 2, 7
	}
	return 10 * time.Minute, 2, 8
}

func (f *slowFlow) over(now time.Duration) bool {
	idle, _, _ := f.class()
	return now >= f.used+idle
}

func (s *slowTable) find(key string) int {
	return slices.IndexFunc(s.flows, func(f *slowFlow) bool { return f.key == key })
}

func (s *slowTable) drop(i int) {
	s.flows = slices.Delete(s.flows, i, i+1)
}

// last moves a flow behind all others.
func (s *slowTable) last(i int) {
	f := s.flows[i]
	s.flows = append(slices.Delete(s.flows, i, i+1), f)
}

// lookup finds a flow; expired ones go when they are met.
func (s *slowTable) lookup(key string, now time.Duration) *slowFlow {
	i := s.find(key)
	if i >= 0 && s.flows[i].over(now) {
		s.drop(i)
		i = -1
	}
	if i < 0 {
		return nil
	}
	return s.flows[i]
}

func (s *slowTable) refresh(f *slowFlow, was FlowState, now time.Duration) {
	_, _, a := f.class()
	_, _, b := (&slowFlow{state: was, proto: f.proto, uplink: f.uplink}).class()
	if f.used != now || a != b {
		s.last(slices.Index(s.flows, f))
	}
	f.used = now
}

// expire forgets up to n, those of the queue that comes first before others.
func (s *slowTable) expire(now time.Duration, n int) {
	for place := range 18 {
		for i := 0; i < len(s.flows) && n > 0; {
			if _, _, p := s.flows[i].class(); p == place && s.flows[i].over(now) {
				s.drop(i)
				n--
				continue
			}
			i++
		}
	}
}

func (s *slowTable) create(f *slowFlow, now time.Duration) bool {
	s.expire(now, 2)
	if s.full() {
		if len(s.flows) == 0 {
			return false
		}
		s.drop(s.first())
	}
	f.used, f.packets[0] = now, 1
	s.flows = append(s.flows, f)
	return true
}

// first is the flow that is given up first: of those that are, the oldest of the place that has most.
func (s *slowTable) first() int {
	unanswered, places := 0, map[int]int{}
	for _, f := range s.flows {
		_, yields, place := f.class()
		places[place]++
		if yields == 0 {
			unanswered++
		}
	}
	rank := func(f *slowFlow) []int64 {
		_, yields, place := f.class()
		if yields == 0 && unanswered <= len(s.flows)/16 {
			yields = 3
		}
		return []int64{int64(yields), int64(-places[place]), int64(f.used), int64(place % 9), int64(place)}
	}
	best := 0
	for i, f := range s.flows {
		if slices.Compare(rank(f), rank(s.flows[best])) < 0 {
			best = i
		}
	}
	return best
}

// Two guests' tables do what the slow ones do, whatever comes in whatever order, and never more than they may.
func TestFlowOracle(t *testing.T) { rapid.Check(t, asTheSlowOnes(t)) }

// FuzzFlowOracle is TestFlowOracle for inputs of the fuzzer's.
func FuzzFlowOracle(f *testing.F) {
	seedDraws(f)
	f.Fuzz(func(t *testing.T, b []byte) { rapid.MakeFuzz(asTheSlowOnes(t))(t, b) })
}

func asTheSlowOnes(t *testing.T) func(*rapid.T) {
	protos := []uint8{6, 17, 1, 132}
	packets := map[string]*Packet{}
	packet := func(guest, n int, proto uint8, back bool, flags byte) *Packet {
		key := fmt.Sprint(guest, n, proto, back, flags)
		if p := packets[key]; p != nil {
			return p
		}
		e := numbered(byte(10+guest), 1000+n)
		var l4 []byte
		switch proto {
		case 6:
			seq, ack := uint32(1), uint32(1)
			if flags&tcpSYN != 0 {
				seq = 0
			}
			if flags == tcpSYN || flags == tcpRST {
				ack = 0
			}
			l4 = tcpBytes(flags, seq, ack, 1000, 0)
		case 17:
			l4 = udp(3)
		case 1:
			l4 = echo(8, uint16(n))
			if back {
				l4 = echo(0, uint16(n))
			}
		case 132:
			e = numbered(byte(10+guest), n<<16)
			l4 = make([]byte, 12)
		}
		p := e.packet(t, back, proto, l4)
		packets[key] = p
		return p
	}
	return func(rt *rapid.T) {
		limit := rapid.IntRange(1, 10).Draw(rt, "limit")
		total := NewFlowBudget(limit)
		var fast [2]*FlowTable
		var slow [2]*slowTable
		for g := range fast {
			max := rapid.IntRange(1, 8).Draw(rt, "max")
			share := min(max, rapid.IntRange(0, limit/2).Draw(rt, "share"))
			fast[g], slow[g] = NewFlowTable(max, total), &slowTable{max: max, share: share, limit: limit, all: &slow}
			fast[g].Reserve(share)
		}
		now := time.Hour
		for range rapid.IntRange(1, 120).Draw(rt, "steps") {
			g := rapid.IntRange(0, 1).Draw(rt, "guest")
			switch rapid.IntRange(0, 9).Draw(rt, "what") {
			case 0:
				now += rapid.SampledFrom([]time.Duration{1, 10, 29, 30, 31, 239, 240, 300, 600, 7440}).Draw(rt, "seconds") * time.Second
			case 1:
				n := rapid.IntRange(1, 5).Draw(rt, "sweep")
				fast[g].Sweep(now, n)
				slow[g].expire(now, n)
			case 2:
				cut := rapid.IntRange(1, 3).Draw(rt, "delete")
				for at, more := uint32(0), true; more; more = at != 0 {
					at = fast[g].DeleteIf(at, 2, func(f *Flow) bool { return int(f.Key.Proto)%4 == cut })
				}
				for i := len(slow[g].flows) - 1; i >= 0; i-- {
					if int(slow[g].flows[i].proto)%4 == cut {
						slow[g].drop(i)
					}
				}
			default:
				n, proto, back := rapid.IntRange(0, 5).Draw(rt, "flow"), rapid.SampledFrom(protos).Draw(rt, "proto"), rapid.Bool().Draw(rt, "back")
				flags := byte(0)
				if proto == 6 {
					flags = rapid.SampledFrom([]byte{tcpSYN, tcpSYN, tcpACK, tcpACK, tcpSYN | tcpACK, tcpSYN | tcpACK, tcpRST}).Draw(rt, "flags")
					back = back && flags != tcpSYN
				}
				playOracle(rt, fast[g], slow[g], packet(g, n, proto, back, flags), fmt.Sprint(n, proto), n%2 == 1, back, flags, now)
			}
			for g := range fast {
				compareOracle(rt, fast[g], slow[g], now)
				verify(rt, fast[g])
			}
			if used := len(slow[0].flows) + len(slow[1].flows); total.Used() != used || used > limit {
				rt.Fatalf("%d of the budget, want %d", total.Used(), used)
			}
		}
	}
}

// playOracle looks a packet up in both, and makes the flow where there is none.
func playOracle(t *rapid.T, fast *FlowTable, slow *slowTable, p *Packet, key string, uplink, back bool, flags byte, now time.Duration) {
	from, to, dir := SideGuest, SideUplink, 0
	if uplink {
		from, to = to, from
	}
	if back {
		from, to, dir = to, from, 1
	}
	hit, ok := fast.Lookup(p, from, now)
	f := slow.lookup(key, now)
	if f != nil && f.state == TCPClosed && flags == tcpSYN {
		f = nil
	}
	if ok != (f != nil) {
		t.Fatalf("%s: found %v", key, ok)
	}
	if f == nil {
		if back && p.Proto != 6 && p.Proto != 1 {
			return // the oracle knows flows by who opened them
		}
		_, r := fast.Create(p, from, to, 1, 1, now)
		if p.Proto == 6 && flags != tcpSYN || p.Proto == 1 && back {
			if r != NoFlow {
				t.Fatalf("%s: %v", key, r)
			}
			return
		}
		if i := slow.find(key); i >= 0 {
			slow.drop(i)
		}
		state := FlowUnreplied
		if p.Proto == 6 {
			state = TCPSynSent
		}
		if made := slow.create(&slowFlow{key: key, state: state, proto: p.Proto, uplink: uplink}, now); made != (r == None) {
			t.Fatalf("%s: %v, want made %v", key, r, made)
		}
		return
	}
	was, passes, quiet := f.state, true, false
	switch {
	case p.Proto != 6:
		if back {
			f.state = FlowReplied
		}
	default:
		passes, quiet = f.tcp(dir, flags)
	}
	if passes != (hit.Reason == None) || hit.State != f.state {
		t.Fatalf("%s: %v %v, want %v, was %v, flags %#x back %v", key, hit.Reason, hit.State, f.state, was, flags, back)
	}
	if !passes {
		return
	}
	f.packets[dir]++
	if !quiet {
		slow.refresh(f, was, now)
	}
}

// tcp is what the few segments of the oracle, each with the right numbers, do to a connection.
func (f *slowFlow) tcp(dir int, flags byte) (passes, quiet bool) {
	const syn, synACK, ack, rst = tcpSYN, tcpSYN | tcpACK, tcpACK, tcpRST
	type event struct {
		state FlowState
		dir   int
		flags byte
	}
	switch (event{f.state, dir, flags}) {
	case event{TCPSynSent, 0, syn}:
		quiet = true
	case event{TCPSynSent, 1, synACK}:
		f.state, f.heard = TCPSynReceived, true
	case event{TCPSynSent, 1, ack}:
		quiet = true
	case event{TCPSynReceived, 1, ack}, event{TCPEstablished, 0, ack}, event{TCPEstablished, 1, ack}:
	case event{TCPSynReceived, 0, ack}, event{TCPSynReceived, 0, synACK}:
		f.state = TCPEstablished
	case event{TCPSynReceived, 0, syn}, event{TCPSynReceived, 1, synACK}, event{TCPEstablished, 0, syn}, event{TCPEstablished, 0, synACK}, event{TCPEstablished, 1, synACK}:
		quiet = true
	case event{TCPSynSent, 0, rst}, event{TCPSynReceived, 0, rst}, event{TCPSynReceived, 1, rst}, event{TCPEstablished, 0, rst}, event{TCPEstablished, 1, rst}:
		f.state, f.reset[dir] = TCPClosed, true
	case event{TCPClosed, 0, rst}, event{TCPClosed, 1, rst}:
		if dir == 1 && !f.heard {
			return false, false
		}
		f.reset[dir], quiet = true, true
	case event{TCPClosed, 0, ack}, event{TCPClosed, 1, ack}:
		return f.heard && !f.reset[dir], true
	default:
		return false, false
	}
	return true, quiet
}

func compareOracle(t *rapid.T, fast *FlowTable, slow *slowTable, now time.Duration) {
	if fast.Len() != len(slow.flows) || fast.Len() > slow.max {
		t.Fatalf("%d flows, want %d", fast.Len(), len(slow.flows))
	}
	want := map[string]int{}
	for _, f := range slow.flows {
		if !f.over(now) {
			want[fmt.Sprint(f.proto, f.state, f.packets)]++
		}
	}
	fast.Each(now, func(f *Flow) bool {
		want[fmt.Sprint(f.Key.Proto, f.State, f.Packets)]--
		return true
	})
	for k, n := range want {
		if n != 0 {
			t.Fatalf("%s: %d missing", k, n)
		}
	}
}
