package policy

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// verify tests that a table's lists agree with each other.
func verify(t interface{ Fatalf(string, ...any) }, table *FlowTable) {
	inBuckets, inQueues, free := 0, 0, 0
	for b := range table.buckets {
		for i := table.heads[b>>slabShift][b&(slabSize-1)]; i != 0; i = table.at(i).chain {
			f := table.at(i)
			if table.find(&f.Key, f.hash) != i || f.serial == 0 {
				t.Fatalf("flow %d is in bucket %d and not found", i, b)
			}
			inBuckets++
		}
	}
	for q := range table.queues {
		last, was, before := uint32(0), time.Duration(math.MinInt64), inQueues // what is adopted may be older than the clock
		for i := table.queues[q].oldest; i != 0; i = table.at(i).newer {
			f := table.at(i)
			if f.older != last || f.queued < was || f.queue != queueID(q) || f.queueOf() != f.queue || f.used < f.queued || f.used-f.queued >= queueGrain {
				t.Fatalf("flow %d in queue %d: %+v", i, q, f)
			}
			last, was = i, f.queued
			inQueues++
		}
		if table.queues[q].newest != last || table.queues[q].n != inQueues-before {
			t.Fatalf("queue %d of %d ends at %d, not %d with %d", q, table.queues[q].n, table.queues[q].newest, last, inQueues-before)
		}
	}
	for i, before := table.free, uint32(0); i != 0; i = table.at(i).chain {
		if f := table.at(i); f.older != before || f.serial != 0 {
			t.Fatalf("place %d is free behind %d: %+v", i, before, f)
		}
		free++
		before = i
	}
	if inBuckets != table.count || inQueues != table.count || free+table.count != table.used || table.count > max(table.max, 0) {
		t.Fatalf("%d flows, %d in buckets, %d in queues, %d free of %d", table.count, inBuckets, inQueues, free, table.used)
	}
}

// FuzzFlow gives a table two frames in every order and from every side.
func FuzzFlow(f *testing.F) {
	e := ends("192.0.2.10:40000", "198.51.100.7:443")
	six := ends("[2001:db8:3:2:1::10]:40000", "[2001:db8:ffff::7]:443")
	syn, synACK := tcpBytes(tcpSYN, 1, 0, 1000, 0, 3, 3, 7), tcpBytes(tcpSYN|tcpACK, 9, 2, 1000, 0, 3, 3, 7)
	f.Add(e.frame(false, 6, syn, nil), e.frame(true, 6, synACK, nil), uint16(1))
	f.Add(six.frame(false, 6, syn, nil), six.frame(true, 6, tcpBytes(tcpRST|tcpACK, 0, 2, 0, 0), nil), uint16(240))
	f.Add(e.frame(false, 17, udp(8), fragmentField(1, 0, true)), e.frame(false, 17, make([]byte, 8), fragmentField(1, 16, false)), uint16(0))
	f.Add(e.frame(false, 17, udp(8), nil), flowEnds{e.dst, e.src}.frame(false, 1, cat([]byte{3, 3, 0, 0, 0, 0, 0, 0}, e.frame(false, 17, udp(8), nil)[EthernetLen:]), nil), uint16(29))
	f.Add(six.frame(false, 6, syn, nil), flowEnds{six.dst, six.src}.frame(false, 58, cat([]byte{2, 0, 0, 0, 0, 0, 5, 0}, six.frame(false, 6, syn, nil)[EthernetLen:]), nil), uint16(0))
	f.Add(e.frame(false, 1, echo(8, 1), nil), e.frame(true, 1, echo(0, 1), nil), uint16(30))
	for _, s := range seeds() {
		f.Add(s, s, uint16(31))
	}
	f.Fuzz(func(t *testing.T, a, b []byte, seconds uint16) {
		total := NewFlowBudget(3)
		table := NewFlowTable(2, total)
		var packets []*Packet
		for _, frame := range [][]byte{a, b} {
			p := new(Packet)
			if p.Parse(frame, Offload{}) == None {
				packets = append(packets, p)
			}
		}
		now := time.Duration(0)
		for _, i := range []int{0, 1, 1, 0, 0, 1} {
			if i >= len(packets) {
				continue
			}
			p := packets[i]
			from, to := SideGuest, SideUplink
			if i == 1 {
				from, to = to, from
			}
			key, _, has := p.FlowKey()
			hit, found := table.Lookup(p, from, now)
			table.Related(p, from, now)
			if found && hit.Reason == None && hit.State.String() == "invalid" {
				t.Fatalf("%+v", hit)
			}
			if !found {
				made, r := table.Create(p, from, to, 1, 1, now)
				if r == None && (!has || entry(table, key, now) == nil || made.Ref == FlowRef{}) {
					t.Fatalf("%+v makes %+v", p, made)
				}
				if again, ok := table.Lookup(p, from, now); r == None && (!ok || again.Reason != None && p.Proto != ProtoTCP) {
					t.Fatalf("%+v was let in, and then %v", p, again.Reason)
				}
			}
			verify(t, table)
			now += time.Duration(seconds) * time.Second
		}
		table.Sweep(now+24*time.Hour, 10)
		if verify(t, table); table.Len() != 0 || total.Used() != 0 {
			t.Fatalf("%d flows for ever", table.Len())
		}
	})
}

// honest is an endpoint that sends what TCP allows: no more than it is offered, again what may be lost, and no window taken back.
type honest struct {
	una, next, edge uint32 // of what it sends; edge is what it may
	got, offered    uint32 // of what it receives
	syn             uint16 // the window of its SYN
	scale           uint8
	started, heard  bool // it has sent its SYN; it has got the peer's
	opened, fin     bool // and its own is acknowledged; it has sent a FIN
}

// Nothing that two honest endpoints send is refused, whatever is lost, doubled or overtaken before the table and behind it.
func TestTCPHonest(t *testing.T) { rapid.Check(t, honestly(t, false)) }

// Nor is it where the table is lost on the way, and the connection picked up from the middle, but for a handshake that begins again.
func TestPickUpHonest(t *testing.T) { rapid.Check(t, honestly(t, true)) }

// FuzzHonest is both for inputs of the fuzzer's.
func FuzzHonest(f *testing.F) {
	seedDraws(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		rapid.MakeFuzz(func(rt *rapid.T) { honestly(t, rapid.Bool().Draw(rt, "lose"))(rt) })(t, b)
	})
}

// seedDraws gives a fuzzer what properties may draw from, eight bytes for a draw.
func seedDraws(f *testing.F) {
	for seed := range uint64(16) {
		b := make([]byte, 4096)
		for i, r := 0, rand.New(rand.NewPCG(seed, 0)); i < len(b); i += 8 {
			binary.LittleEndian.PutUint64(b[i:], r.Uint64())
		}
		f.Add(b)
	}
}

func honestly(t *testing.T, lose bool) func(*rapid.T) {
	e := ends("192.0.2.10:40000", "198.51.100.7:443")
	return func(rt *rapid.T) {
		table, now := NewFlowTable(4, NewFlowBudget(4)), time.Hour
		scales := rapid.Bool().Draw(rt, "scales")
		var ends [2]*honest
		for i := range ends {
			iss := rapid.Uint32().Draw(rt, "iss")
			ends[i] = &honest{una: iss, next: iss, syn: uint16(rapid.SampledFrom([]int{1, 1000, 60000}).Draw(rt, "SYN's window"))}
			if scales {
				ends[i].scale = uint8(rapid.IntRange(0, 7).Draw(rt, "scale"))
			}
		}
		type wire struct {
			from  int
			flags byte
			seq   uint32
			ack   uint32
			n     uint32
			win   uint16
		}
		var before, behind []wire
		segment := func(i int, flags byte, seq, n uint32) {
			x := ends[i]
			w := wire{i, flags, seq, x.got, n, 0}
			size := uint32(rapid.SampledFrom([]int{0, 1000, 60000}).Draw(rt, "window"))
			if flags&tcpSYN != 0 {
				w.win = x.syn
				x.offered = x.got + uint32(w.win)
			} else {
				if !before32(x.got+size, x.offered) {
					x.offered = x.got + size
				}
				w.win = uint16(min((x.offered-x.got+1<<x.scale-1)>>x.scale, 0xffff))
				if o := x.got + uint32(w.win)<<x.scale; before32(x.offered, o) {
					x.offered = o
				}
			}
			before = append(before, w)
		}
		send := func(i int) {
			x := ends[i]
			switch {
			case !x.opened && i == 0:
				x.started, x.next = true, x.una+1
				segment(i, tcpSYN, x.una, 0)
			case !x.opened && x.heard:
				segment(i, tcpSYN|tcpACK, x.una, 0)
			case !x.opened:
			default:
				if x.next == x.una || rapid.Bool().Draw(rt, "new") { // new data within the window
					room := int32(x.edge - x.next)
					if n := uint32(rapid.SampledFrom([]int{0, 1, 1400, 30000}).Draw(rt, "bytes")); room > 0 && !x.fin {
						n = min(n, uint32(room))
						segment(i, tcpACK, x.next, n)
						x.next += n
						return
					}
					if !x.fin && rapid.IntRange(0, 9).Draw(rt, "close") == 0 {
						x.fin = true
						segment(i, tcpACK|tcpFIN, x.next, 0)
						x.next++
						return
					}
					segment(i, tcpACK, x.next, 0)
					return
				}
				n := x.next - x.una // again, with the FIN if it is among it
				if x.fin && n <= 30000 {
					segment(i, tcpACK|tcpFIN, x.una, n-1)
				} else {
					segment(i, tcpACK, x.una, min(n, 1400))
				}
			}
		}
		receive := func(w wire) {
			x := ends[1-w.from]
			if w.flags&tcpSYN != 0 && !x.heard {
				x.heard, x.got = true, w.seq+1
			}
			if w.flags == tcpSYN { // answered, also when it comes again
				if x.opened {
					segment(1, tcpACK, x.next, 0)
					return
				}
				if !x.started {
					x.started, x.next = true, x.una+1
					x.edge = x.next + uint32(w.win)
				}
				segment(1, tcpSYN|tcpACK, x.una, 0)
				return
			}
			if w.flags&tcpACK != 0 && !before32(x.next, w.ack) && before32(x.una, w.ack) {
				x.una = w.ack
				if !x.opened && w.from == 1 {
					x.edge = x.una
				}
				x.opened = true
			}
			if !x.opened || !x.heard {
				return
			}
			shift := ends[w.from].scale
			if w.flags&tcpSYN != 0 {
				shift = 0
			}
			if edge := w.ack + uint32(w.win)<<shift; w.flags&tcpACK != 0 && before32(x.edge, edge) {
				x.edge = edge
			}
			if end := w.seq + w.n; !before32(x.got, w.seq) && before32(x.got, end) {
				x.got = end
			}
			if w.flags&tcpFIN != 0 && w.seq+w.n == x.got {
				x.got++
			}
			if w.n > 0 || w.flags&(tcpFIN|tcpSYN) != 0 {
				segment(1-w.from, tcpACK, x.next, 0)
			}
		}
		take := func(q *[]wire) (w wire) {
			i := rapid.IntRange(0, min(len(*q)-1, 2)).Draw(rt, "which")
			w = (*q)[i]
			if rapid.IntRange(0, 9).Draw(rt, "double") != 0 {
				*q = append((*q)[:i:i], (*q)[i+1:]...)
			}
			return w
		}
		send(0)
		steps, lost := rapid.IntRange(10, 150).Draw(rt, "steps"), -1
		if lose {
			lost = rapid.IntRange(0, steps).Draw(rt, "lost")
		}
		for step := range steps {
			if step == lost {
				table = NewFlowTable(4, NewFlowBudget(4))
			}
			switch what := rapid.IntRange(0, 9).Draw(rt, "what"); {
			case what < 3 && len(before) < 8:
				send(what & 1)
			case what < 7 && len(before) > 0:
				w := take(&before)
				if rapid.IntRange(0, 9).Draw(rt, "lost before") == 0 {
					continue
				}
				var options []byte
				if w.flags&tcpSYN != 0 && scales {
					options = []byte{1, 3, 3, ends[w.from].scale}
				}
				ack := w.ack
				if w.flags&tcpACK == 0 {
					ack = 0
				}
				p := e.packet(t, w.from == 1, 6, tcpBytes(w.flags, w.seq, ack, w.win, int(w.n), options...))
				if lose && step >= lost && w.flags == tcpSYN && ends[1].heard { // a late copy, of which the table would make a connection
					continue
				}
				from, to := SideGuest, SideUplink
				if w.from == 1 {
					from, to = to, from
				}
				hit, ok := table.Lookup(p, from, now)
				if !ok {
					picked := lose && step >= lost && p.continues()
					if hit, hit.Reason = table.create(p, from, to, 1, 1, now, picked); w.flags != tcpSYN && !lose {
						rt.Fatalf("%+v: %v", w, hit.Reason)
					}
				}
				if lose && step >= lost && w.flags&tcpSYN != 0 {
					if hit.Reason == None {
						behind = append(behind, w)
					}
					continue
				}
				x := ends[w.from]
				stale := before32(w.seq+w.n, x.una) || before32(w.ack, x.got-60000) // a copy that comes too late to be missed
				if hit.Reason == TCPWindow && stale {
					continue
				}
				if hit.Reason != None {
					f := snapshot(table, now)[0]
					rt.Fatalf("%+v: %v in %v\n%+v", w, hit.Reason, f.State, f.tcp)
				}
				behind = append(behind, w)
			case len(behind) > 0:
				if w := take(&behind); rapid.IntRange(0, 9).Draw(rt, "lost behind") != 0 {
					receive(w)
				}
			}
		}
		verify(rt, table)
	}
}

func before32(a, b uint32) bool { return int32(a-b) < 0 }
