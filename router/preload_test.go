package router

import (
	"bytes"
	"io"
	"net/netip"
	"testing"
	"time"

	"udrouter/integration/cases"
	"udrouter/policy"
	"udrouter/stack"
)

// What was loaded of a router that ends before it has said all is out of date: its connections are picked up as those of which nothing came.
func TestPickUpForgetsWhatWasLoaded(t *testing.T) {
	s, next := knowing(t, edit()), knowing(t, edit())
	guest, x := netip.AddrPortFrom(cases.One4, 40000), netip.AddrPortFrom(cases.X4, 443)
	s.connect(guest, x)
	var b bytes.Buffer
	if err := s.saveRound(&b, flowRounds{}); err != nil {
		t.Fatal(err)
	}
	if n, err := next.Preload(bytes.NewReader(b.Bytes()), int64(b.Len())); n != 1 || err != nil || len(next.flows()) != 1 {
		t.Fatalf("%d flows, %v", n, err)
	}
	next.PickUp()
	next.send(stack.Guests, cases.TCP(next.RouterMAC, cases.MAC1, guest, x, 16, 1<<20, 1<<24, 10)) // it has come so far meanwhile
	if n := len(next.links[stack.UplinkSide].Take()); n != 1 {
		t.Errorf("the connection does not go on: %v", next.counts())
	}
}

// A flow that the sweep moves while flows are listed for the last time is in the snapshot as it is.
func TestSaveWhileFlowsMove(t *testing.T) {
	const first, more, stay = 1000, 16 * listStep, 8 * listStep
	s, rounds, packets := knowing(t, edit()), flowRounds{}, map[uint16]uint64{}
	use := func(from, to int) {
		for port := from; port < to; port++ {
			s.send(stack.Guests, timed("udp", [2]policy.MAC{s.RouterMAC, cases.MAC1}, netip.AddrPortFrom(cases.One4, uint16(port)), netip.AddrPortFrom(cases.X4, 53), false, 0, 0, 0, 0))
		}
	}
	use(first, more) // which expire, so that those behind them move to their places
	use(more, more+stay)
	if n := s.list(rounds, func(*policy.Flow) {}, nil); n != more+stay-first {
		t.Fatalf("%d flows", n)
	}
	s.clock.Advance(policy.UDPUnrepliedIdle - time.Second)
	use(more, more+stay)
	s.clock.Advance(time.Second)
	var b swept
	b.sweep = func() {
		for range 64 {
			s.sweep()
		}
	}
	if err := s.save(&b, rounds); err != nil {
		t.Fatal(err)
	}
	_, flows, err := readSnapshot(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	for state := make([]byte, policy.FlowStateLen); ; {
		if _, err := io.ReadFull(flows, state); err != nil {
			break
		}
		f, _ := policy.ReadFlow(state, s.now())
		packets[f.Src().Port()] = f.Packets[0]
	}
	for port := more; port < more+stay; port++ {
		if packets[uint16(port)] != 2 {
			t.Fatalf("%d flows are written, of port %d with %d packets", len(packets), port, packets[uint16(port)])
		}
	}
}

// swept has something be done when the first is written to it.
type swept struct {
	bytes.Buffer
	sweep func()
}

func (b *swept) Write(p []byte) (int, error) {
	if b.sweep != nil {
		b.sweep()
		b.sweep = nil
	}
	return b.Buffer.Write(p)
}
