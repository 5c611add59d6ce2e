package policy

import (
	"testing"
	"time"
)

// A connection that is picked up goes on in both directions, whichever end speaks first, and is then tracked like one that was seen to open.
func TestPickUpTCP(t *testing.T) {
	for _, c := range []struct{ name, script string }{
		{"data, and the other side is further on", `
			> A 1000 ack 5000 len 100 | new established
			< A 5000 ack 9000 len 10 | established
			> A 9000 ack 5010 | established
			< A 5010 ack 9001 | established`},
		{"an acknowledgement, and then what it lacks again", `
			< A 5000 ack 1000 | new established
			> A 1000 ack 5000 len 1400 | established
			< A 5000 ack 900000 | established`},
		{"what is far from it", `
			> A 1000 ack 5000 len 100 | new established
			< A 5000 ack 1100 len 10 | established
			< A 2000000000 ack 1100 | tcp-window established
			> A 2000000000 ack 5010 | tcp-window established
			> A 1100 ack 2000000000 | tcp-window established`},
		{"old copies with closed windows, which have been opened since", `
			> A 1000 ack 5000 win 0 | new established
			< A 5002 ack 1000 win 0 | established
			> A 1002 ack 5002 win 0 | established
			< A 5002 ack 1002 win 0 | established
			< A 80000 ack 1002 win 0 | tcp-window established
			> A 80000 ack 5002 win 0 | tcp-window established`},
		{"close", `
			> FA 1000 ack 5000 len 100 | new fin-wait
			< A 5000 ack 1101 | close-wait
			< FA 5000 ack 1101 | last-ack
			> A 1101 ack 5001 | time-wait`},
		{"a reset that is exact, and one that is not", `
			> A 1000 ack 5000 len 100 | new established
			< A 5000 ack 1100 | established
			< R 5001 | tcp-window established
			> R 1101 | tcp-window established
			< R 5000 | closed`},
		{"what opens, resets or is impossible picks up nothing", `
			> SA 0 ack 1 | no-flow -
			> R 1 | no-flow -
			> F 1 | tcp-flags -
			> SFA 1 ack 1 | tcp-flags -
			> S 0 | new syn-sent`},
	} {
		for _, base := range [][2]uint32{{0, 0}, {0xffffff00, 0x7ffffff0}} {
			table := NewFlowTable(10, NewFlowBudget(10))
			for _, s := range parseScript(t, c.script) {
				if got := pickTCP(t, table, ends("192.0.2.10:40000", "198.51.100.7:443"), base, s, time.Hour, true); got != s.want {
					t.Errorf("%s, %v: %s\n got %s", c.name, base, s.line, got)
				}
			}
		}
	}
}

// With picking up, an engine admits without a flow what it admits to open one, and no more: of every party at either end and every kind of packet. Before
// and after its time nothing is picked up.
func TestPickUpAdmitsNoMoreThanOpening(t *testing.T) {
	e := ends("192.0.2.10:40000", "192.0.2.11:53")
	const until = time.Minute
	picked := 0
	for _, from := range parties(true) {
		for _, to := range parties(false) {
			if from.zone != ZoneGuest && to.zone != ZoneGuest {
				continue
			}
			for flags := range 64 {
				for _, l4 := range [][]byte{tcpBytes(byte(flags), 7, 9, 1000, 0), tcpBytes(byte(flags), 7, 9, 0, 20)} {
					decide := func(l4 []byte, until, now time.Duration) Verdict {
						engine, a, b := meeting(t, from, to)
						engine.PickUp(until)
						return engine.Decide(e.packet(t, false, ProtoTCP, l4), a, b, now)
					}
					opening, never := decide(tcpBytes(tcpSYN, 7, 0, 1000, 0), until, 0), decide(l4, 0, 0)
					in, over := decide(l4, until, until-1), decide(l4, until, until)
					if over != never && (over.Action != never.Action || over.Reason != never.Reason || over.Would != never.Would) {
						t.Errorf("%v to %v, flags %#x: %+v after its time, %+v without", from, to, flags, over, never)
					}
					middle := flags&tcpACK != 0 && flags&(tcpSYN|tcpRST) == 0
					switch {
					case middle && (in.Action != opening.Action || in.Reason != opening.Reason || in.Rule != opening.Rule || in.Would != opening.Would):
						t.Errorf("%v to %v, flags %#x: %+v, and %+v opens", from, to, flags, in, opening)
					case !middle && (in.Action != never.Action || in.Reason != never.Reason):
						t.Errorf("%v to %v, flags %#x: %+v, want %+v", from, to, flags, in, never)
					}
					if middle && in.Action == Accept && never.Action != Accept {
						picked++
					}
				}
			}
		}
	}
	if picked == 0 {
		t.Error("nothing was picked up")
	}
}
