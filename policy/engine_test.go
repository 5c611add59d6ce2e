package policy

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// party is an end of a connection in these tests, and what its chain on the way of the opening packet says.
type party struct {
	zone   Zone
	shadow bool
	action Action // of egress where it opens, of ingress where it is opened to; nothing at the uplink
}

func (p party) String() string {
	mode := ""
	if p.shadow {
		mode = " in shadow"
	}
	return fmt.Sprintf("%s%s that says %v", map[Zone]string{ZoneUplink: "uplink", ZoneHost: "host", ZoneGuest: "guest"}[p.zone], mode, p.action)
}

func (p party) refuses() bool { return p.zone != ZoneUplink && p.action != Accept }

// parties are all that may stand at an end of a packet, in every mode.
func parties(opens bool) (list []party) {
	for _, a := range []Action{Accept, Drop, Reject} {
		list = append(list, party{ZoneGuest, false, a}, party{ZoneGuest, true, a})
		if !opens {
			list = append(list, party{ZoneHost, false, a})
		}
	}
	if opens {
		list = append(list, party{ZoneHost, false, Accept}) // it has no egress rules
	}
	return append(list, party{ZoneUplink, false, Accept})
}

// meeting is an engine for two parties: what neither has opened is refused by both, so that replies pass by state alone.
func meeting(t testing.TB, from, to party, limits ...Limits) (e *Engine, a, b End) {
	t.Helper()
	const closed, port = Drop, 53
	rules := func(p party) []Rule {
		if p.action == closed {
			return nil
		}
		return []Rule{{Name: "it", Action: p.action, Proto: AnyProto}}
	}
	var guests []GuestPolicy
	end := func(p party, egress, ingress Chain, addr string) End {
		if p.zone != ZoneGuest {
			return End{Zone: p.zone}
		}
		g := &Guest{ID: len(guests), Side: SideGuest + Side(len(guests)), Name: fmt.Sprint("guest ", len(guests)), Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}}
		pol := &Policy{Name: g.Name, Egress: egress, Ingress: ingress}
		if p.shadow {
			pol.Mode = Shadow
		}
		if len(limits) > len(guests) {
			pol.Limits = limits[len(guests)]
		}
		guests = append(guests, GuestPolicy{g, pol})
		return End{Zone: ZoneGuest, Guest: g}
	}
	a = end(from, Chain{Default: closed, Rules: rules(from)}, Chain{Default: closed}, "192.0.2.10/32")
	b = end(to, Chain{Default: closed}, Chain{Default: closed, Rules: rules(to)}, "192.0.2.11/32")
	e, err := NewEngine(guests, &Chain{Default: closed, Rules: func() []Rule {
		if to.zone == ZoneHost {
			return rules(to)
		}
		return nil
	}()}, 100)
	if err != nil {
		t.Fatal(err)
	}
	return e, a, b
}

// A connection works exactly when the rules of those who enforce theirs admit it, whatever the mode of the other end: its answers, the errors
// about it and its later fragments pass. Who is in shadow mode is told what it would have refused.
func TestShadowAmongOthers(t *testing.T) {
	e := ends("192.0.2.10:40000", "192.0.2.11:53")
	packets := func(proto uint8) []*Packet { // the first opens; odd ones go back
		there, back := e.packet(t, false, 17, udp(8)), e.packet(t, true, 17, udp(8))
		list := []*Packet{there, back, there}
		switch proto {
		case ProtoTCP:
			list = []*Packet{e.packet(t, false, 6, tcpBytes(tcpSYN, 0, 0, 1000, 0)), e.packet(t, true, 6, tcpBytes(tcpSYN|tcpACK, 0, 1, 1000, 0)),
				e.packet(t, false, 6, tcpBytes(tcpACK, 1, 1, 1000, 0)), e.packet(t, true, 6, tcpBytes(tcpACK, 1, 1, 1000, 8)), e.packet(t, false, 6, tcpBytes(tcpACK, 1, 9, 1000, 8))}
		case ProtoICMP:
			list = []*Packet{e.packet(t, false, 1, echo(8, 7)), e.packet(t, true, 1, echo(0, 7)), e.packet(t, false, 1, echo(8, 7))}
		case ProtoUDP: // with an error about it, and a datagram in two fragments
			failed := e.packet(t, true, 1, cat([]byte{3, 3, 0, 0, 0, 0, 0, 0}, there.Frame[EthernetLen:]))
			list = append(list, failed, e.edited(t, false, 17, udp(16), fragmentField(1, 0, true)), back, e.edited(t, false, 17, make([]byte, 8), fragmentField(1, 24, false)))
		}
		return list
	}
	for _, from := range parties(true) {
		for _, to := range parties(false) {
			if from.zone != ZoneGuest && to.zone != ZoneGuest {
				continue
			}
			for _, proto := range []uint8{ProtoTCP, ProtoUDP, ProtoICMP} {
				name := fmt.Sprintf("%v to %v, protocol %d", from, to, proto)
				engine, a, b := meeting(t, from, to)
				var blame *Guest
				var would, reason Reason
				for _, x := range []struct {
					p party
					g *Guest
					r Reason
				}{{from, a.Guest, EgressPolicy}, {to, b.Guest, map[Zone]Reason{ZoneGuest: IngressPolicy, ZoneHost: HostPolicy}[to.zone]}} {
					if x.p.refuses() && !x.p.shadow && reason == None {
						reason = x.r
					}
					if x.p.refuses() && x.p.shadow && would == None && reason == None {
						would, blame = x.r, x.g
					}
				}
				for i, p := range packets(proto) {
					src, dst := a, b
					wouldNow, blameNow := would, blame
					if i%2 == 1 {
						src, dst = b, a
						wouldNow, blameNow = None, nil // in earnest there would be nothing to answer
					}
					v := engine.Decide(p, src, dst, time.Hour)
					if (v.Action == Accept) != (reason == None) || v.Reason != reason && i == 0 {
						t.Fatalf("%s: packet %d: %v, %v; want %v", name, i, v.Action, v.Reason, reason)
					}
					if v.Would != wouldNow || v.WouldBlame != blameNow {
						t.Fatalf("%s: packet %d would have been %v of %v, want %v of %v", name, i, v.Would, v.WouldBlame, wouldNow, blameNow)
					}
					if info, ok := engine.Rule(v.WouldRule); wouldNow != None && (!ok || info.Policy != blameNow.Name) {
						t.Fatalf("%s: packet %d would have been refused by %+v", name, i, info)
					}
					if reason != None {
						break // what follows has no flow
					}
				}
			}
		}
	}
}

// What opens nothing reaches nobody who enforces, also where a rule in shadow mode would have refused it first: with one end in shadow mode the
// other's connections are still connections.
func TestShadowIsNoWayIn(t *testing.T) {
	e := ends("192.0.2.10:40000", "192.0.2.11:53")
	for _, from := range []party{{ZoneGuest, true, Accept}, {ZoneGuest, true, Drop}} {
		for _, to := range []party{{ZoneGuest, false, Accept}, {ZoneHost, false, Accept}} {
			engine, a, b := meeting(t, from, to)
			for name, c := range map[string]struct {
				p    *Packet
				want Reason
			}{
				"ACK":            {e.packet(t, false, 6, tcpBytes(tcpACK, 1, 1, 1000, 0)), NoFlow},
				"SYN and FIN":    {e.packet(t, false, 6, tcpBytes(tcpSYN|tcpFIN, 1, 0, 1000, 0)), TCPFlags},
				"echo reply":     {e.packet(t, false, 1, echo(0, 7)), NoFlow},
				"timestamp":      {e.packet(t, false, 1, echo(13, 7)), NoFlow},
				"an error":       {e.packet(t, false, 1, cat([]byte{3, 3, 0, 0, 0, 0, 0, 0}, e.frame(true, 17, udp(8), nil)[EthernetLen:])), Unrelated},
				"later fragment": {e.edited(t, false, 17, make([]byte, 8), fragmentField(1, 24, false)), FragmentOrphan},
			} {
				if v := engine.Decide(c.p, a, b, time.Hour); v.Action != Drop || v.Reason != c.want {
					t.Errorf("%v to %v: %s: %v, %v", from, to, name, v.Action, v.Reason)
				}
			}
		}
	}
}

// Limits bound a guest's flows and their rate of coming in shadow mode as well: the one is kept, the other only told.
func TestShadowLimits(t *testing.T) {
	engine, a, b := meeting(t, party{ZoneGuest, true, Drop}, party{ZoneGuest, false, Accept}, Limits{NewFlows: 10, Flows: 20, Packets: 1})
	for i := range 200 {
		p := ends(fmt.Sprintf("192.0.2.10:%d", 1000+i), "192.0.2.11:53").packet(t, false, 17, udp(8))
		if v := engine.Decide(p, a, b, time.Hour); v.Action != Accept || v.Would != EgressPolicy { // what comes first
			t.Fatalf("flow %d: %v, would have been %v", i, v.Action, v.Would)
		}
		answer := ends(fmt.Sprintf("192.0.2.10:%d", 1000+i), "192.0.2.11:53").packet(t, true, 17, udp(8))
		if v := engine.Decide(answer, b, a, time.Hour); v.Action != Accept {
			t.Fatalf("the answer in flow %d: %v", i, v.Reason)
		}
	}
	if n, other := engine.Flows(a.Guest).Len(), engine.Flows(b.Guest).Len(); n != 20 || other != 0 || engine.Budget().Used() != 20 {
		t.Errorf("%d flows of 20, and %d of the other's", n, other)
	}
	engine, a, b = meeting(t, party{ZoneGuest, true, Accept}, party{ZoneUplink, false, Accept}, Limits{NewFlows: 10})
	told := 0
	for i := range 30 {
		p := ends(fmt.Sprintf("192.0.2.10:%d", 1000+i), "198.51.100.7:53").packet(t, false, 17, udp(8))
		if v := engine.Decide(p, a, b, time.Hour); v.Would == LimitNewFlows && v.Action == Accept {
			told++
		}
	}
	if told != 20 || engine.Flows(a.Guest).Len() != 30 {
		t.Errorf("%d told and %d flows", told, engine.Flows(a.Guest).Len())
	}
}

// What a limit refuses has not come: it opens no flow, keeps none alive, closes none, and is no reason for an answer.
func TestLimitedIsAsNotSent(t *testing.T) {
	e := ends("192.0.2.10:40000", "198.51.100.7:443")
	for _, l := range []Limits{{Packets: 1}, {Bandwidth: 1}} {
		engine, a, b := meeting(t, party{ZoneGuest, false, Accept}, party{ZoneUplink, false, Accept}, l)
		now := time.Hour
		decide := func(p *Packet, from, to End) Reason {
			v := engine.Decide(p, from, to, now)
			if (v.Action == Accept) != (v.Reason == None) || v.Reason != None && v.Blame != a.Guest {
				t.Errorf("%+v: %+v", l, v)
			}
			return v.Reason
		}
		exhaust := func(from, to End) (r Reason) {
			filler := ends("192.0.2.10:9", "198.51.100.9:9").packet(t, from == b, 17, udp(1))
			decide(ends("192.0.2.10:9", "198.51.100.9:9").packet(t, false, 17, udp(1)), a, b)
			for r == None {
				r = decide(filler, from, to)
			}
			return r
		}
		syn, synACK := e.packet(t, false, 6, tcpBytes(tcpSYN, 0, 0, 1000, 0)), e.packet(t, true, 6, tcpBytes(tcpSYN|tcpACK, 0, 1, 1000, 0))
		limit := exhaust(a, b)
		if r := decide(syn, a, b); r != limit || engine.Flows(a.Guest).Len() != 1 {
			t.Errorf("%+v: the SYN: %v, %d flows", l, r, engine.Flows(a.Guest).Len())
		}
		if r := decide(synACK, b, a); r != IngressPolicy {
			t.Errorf("%+v: an answer to a SYN that was not sent: %v", l, r)
		}
		now += 1_000_000 * time.Second
		for i, p := range []*Packet{syn, synACK, e.packet(t, false, 6, tcpBytes(tcpACK, 1, 1, 1000, 0))} {
			if r := decide(p, []End{a, b, a}[i], []End{b, a, b}[i]); r != None {
				t.Fatalf("%+v: after a while, segment %d: %v", l, i, r)
			}
		}
		before := *entry(engine.Flows(a.Guest), func() FlowKey { k, _, _ := syn.FlowKey(); return k }(), now)
		now += time.Minute
		exhaust(a, b)
		exhaust(b, a)
		for _, p := range []*Packet{e.packet(t, false, 6, tcpBytes(tcpRST, 1, 0, 0, 0)), e.packet(t, false, 6, tcpBytes(tcpFIN|tcpACK, 1, 1, 1000, 900))} {
			if r := decide(p, a, b); r != limit {
				t.Errorf("%+v: %v", l, r)
			}
		}
		if r := decide(e.packet(t, true, 6, tcpBytes(tcpRST|tcpACK, 1, 1, 0, 0)), b, a); r != limit {
			t.Errorf("%+v: %v", l, r)
		}
		after := *entry(engine.Flows(a.Guest), before.Key, now)
		if before != after {
			t.Errorf("%+v: what was refused has changed the flow:\n%+v\n%+v", l, before, after)
		}
	}
}

// Each pays for what it sends and gets, and for nobody else's: what a rule or the state refuses costs nobody, what the sender's limit refuses
// does not cost the receiver, and what the receiver's does costs the sender.
func TestWhoPays(t *testing.T) {
	open := party{ZoneGuest, false, Accept}
	datagram := func(port int) *Packet {
		return ends(fmt.Sprintf("192.0.2.10:%d", port), "192.0.2.11:53").packet(t, false, 17, udp(8))
	}
	count := func(n int, decide func(i int) Verdict) map[Reason]int {
		m := map[Reason]int{}
		for i := range n {
			m[decide(i).Reason]++
		}
		return m
	}
	want := func(name string, m map[Reason]int, r Reason, n, passed int) {
		t.Helper()
		if m[r] != n || m[None] != passed || len(m) > 2 {
			t.Errorf("%s: %v", name, m)
		}
	}
	now := time.Hour
	one := func(e *Engine, from, to End) func(int) Verdict {
		return func(int) Verdict { return e.Decide(datagram(1000), from, to, now) }
	}
	third := func(e *Engine, b End) func(int) Verdict { // the uplink to the receiver
		return func(int) Verdict {
			return e.Decide(ends("198.51.100.7:1000", "192.0.2.11:53").packet(t, false, 17, udp(8)), End{Zone: ZoneUplink}, b, now)
		}
	}

	e, a, b := meeting(t, open, open, Limits{Packets: 1}, Limits{Packets: 700}) // bursts of 64 and 70
	want("the sender's limit", count(1000, one(e, a, b)), LimitPackets, 936, 64)
	want("the receiver's share is what it got", count(100, third(e, b)), LimitPackets, 94, 6)

	e, a, b = meeting(t, open, open, Limits{Packets: 700}, Limits{Packets: 1})
	want("the receiver's limit", count(65, one(e, a, b)), LimitPackets, 1, 64)
	want("has cost the sender", count(100, func(int) Verdict {
		return e.Decide(ends("192.0.2.10:1000", "198.51.100.7:53").packet(t, false, 17, udp(8)), a, End{Zone: ZoneUplink}, now)
	}), LimitPackets, 95, 5)

	e, a, b = meeting(t, open, party{ZoneGuest, false, Drop}, Limits{Packets: 1}, Limits{Packets: 1})
	want("a rule", count(1000, one(e, a, b)), IngressPolicy, 1000, 0)
	for d, m := range []*Meter{e.guests[0].meter, e.guests[1].meter} {
		if m.Packets[d].paid.Load() != 0 {
			t.Error("what a rule refuses has been paid for")
		}
	}

	e, a, b = meeting(t, open, open, Limits{NewFlows: 10}, Limits{Packets: 1})
	want("new flows", count(1000, func(i int) Verdict { return e.Decide(datagram(1000+i), a, b, now) }), LimitNewFlows, 990, 10)
	want("beyond them the receiver has not paid", count(100, third(e, b)), LimitPackets, 46, 54)

	e, a, b = meeting(t, open, open, Limits{NewFlows: 10}, Limits{NewFlows: 10})
	ack := ends("192.0.2.10:1000", "192.0.2.11:53").packet(t, false, 6, tcpBytes(tcpACK, 1, 1, 1000, 0))
	want("what cannot open", count(1000, func(int) Verdict { return e.Decide(ack, a, b, now) }), NoFlow, 1000, 0)
	want("is no new flow", count(11, func(i int) Verdict { return e.Decide(datagram(1000+i), a, b, now) }), LimitNewFlows, 1, 10)
	want("nor are those of others", count(11, func(i int) Verdict {
		return e.Decide(ends(fmt.Sprintf("198.51.100.7:%d", 1000+i), "192.0.2.11:53").packet(t, false, 17, udp(8)), End{Zone: ZoneUplink}, b, now)
	}), LimitNewFlows, 1, 10)
}

func TestDecideAllocates(t *testing.T) {
	open := party{ZoneGuest, false, Accept}
	e, a, b := meeting(t, open, party{ZoneGuest, true, Drop}, Limits{Packets: 1 << 40, Bandwidth: 1 << 50}, Limits{Packets: 1 << 40})
	there, back := ends("192.0.2.10:40000", "192.0.2.11:53").packet(t, false, 17, udp(8)), ends("192.0.2.10:40000", "192.0.2.11:53").packet(t, true, 17, udp(8))
	refused := ends("192.0.2.10:40000", "192.0.2.11:53").packet(t, false, 6, tcpBytes(tcpACK, 1, 1, 1000, 0))
	e.Decide(there, a, b, time.Hour)
	if n := testing.AllocsPerRun(100, func() {
		e.Decide(there, a, b, time.Hour)
		e.Decide(back, b, a, time.Hour)
		e.Decide(refused, a, b, time.Hour)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkDecide(b *testing.B) {
	open := party{ZoneGuest, false, Accept}
	e, from, to := meeting(b, open, party{ZoneUplink, false, Accept}, Limits{Packets: 1 << 40, Bandwidth: 1 << 50})
	x := ends("192.0.2.10:40000", "198.51.100.7:443")
	for i, p := range []*Packet{x.packet(b, false, 6, tcpBytes(tcpSYN, 0, 0, 1000, 0)), x.packet(b, true, 6, tcpBytes(tcpSYN|tcpACK, 0, 1, 1000, 0))} {
		e.Decide(p, []End{from, to}[i], []End{to, from}[i], time.Hour)
	}
	ack := x.packet(b, false, 6, tcpBytes(tcpACK, 1, 1, 1000, 0))
	now := time.Hour
	for b.Loop() {
		now += 100
		if v := e.Decide(ack, from, to, now); v.Action != Accept {
			b.Fatal(v.Reason)
		}
	}
}

// Two guests may open a connection again from the other side, with the same ports, while the table of who opened it first still remembers it.
func TestOpenedAgainFromTheOtherSide(t *testing.T) {
	e := ends("192.0.2.10:1000", "192.0.2.11:2000")
	accepts := Chain{Default: Accept}
	var guests []GuestPolicy
	for i := range 2 {
		guests = append(guests, GuestPolicy{&Guest{ID: i, Side: SideGuest + Side(i)}, &Policy{Egress: accepts, Ingress: accepts}})
	}
	engine, err := NewEngine(guests, nil, 10)
	if err != nil {
		t.Fatal(err)
	}
	a, b := End{Guest: guests[0].Guest}, End{Guest: guests[1].Guest}
	for i, p := range []*Packet{
		e.packet(t, false, 6, tcpBytes(tcpSYN, 0, 0, 1000, 0)), e.packet(t, true, 6, tcpBytes(tcpSYN|tcpACK, 0, 1, 1000, 0)),
		e.packet(t, false, 6, tcpBytes(tcpRST|tcpACK, 1, 1, 0, 0)),
		e.packet(t, true, 6, tcpBytes(tcpSYN, 70000, 0, 1000, 0)), e.packet(t, false, 6, tcpBytes(tcpSYN|tcpACK, 80000, 70001, 1000, 0)),
		e.packet(t, true, 6, tcpBytes(tcpACK, 70001, 80001, 1000, 9)), e.packet(t, false, 6, tcpBytes(tcpACK, 80001, 70010, 1000, 0)),
	} {
		from, to := a, b
		if p.Src == e.dst.Addr() {
			from, to = b, a
		}
		if v := engine.Decide(p, from, to, time.Hour); v.Action != Accept {
			t.Errorf("segment %d: %v", i, v.Reason)
		}
	}
}
