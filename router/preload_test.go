package router

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"udrouter/config"
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

// oneThatRuns is the next process's side of a hand-over in which snapshots of nothing come for each preload.
func oneThatRuns(t *testing.T) *Heritage {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	other := &peer{c: connOf(t, pair[1])}
	go func() {
		for {
			if step, err := other.step(frozenWait); err != nil || step != stepPreload {
				return
			}
			fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
			if err == nil {
				err = other.send(takeOverMessage{Files: []descriptorFor{forSnapshot}}, []int{fd})
				unix.Close(fd)
			}
			if err != nil {
				return
			}
		}
	}()
	return &Heritage{Lock: -1, Control: -1, p: &peer{c: connOf(t, pair[0])}}
}

// Rounds go on as long as they become less, which slow ones say nothing of.
func TestPreloadRounds(t *testing.T) {
	const many = 100 * fewFlows
	for _, c := range []struct {
		flows []int // of a round; the last one again and again
		want  int   // rounds
	}{
		{[]int{0}, 1},
		{[]int{fewFlows}, 1},
		{[]int{many, fewFlows}, 2},
		{[]int{many, many, fewFlows}, 3},
		{[]int{many, many, many, many / 2, many / 4, fewFlows}, 6},
		{[]int{many}, 4},
		{[]int{many, many, many, many / 2}, 5},
		{[]int{many, 0}, 2},
	} {
		n := 0
		err := oneThatRuns(t).Preload(t.Context(), func(f *os.File) int {
			f.Close()
			n++
			return c.flows[min(n, len(c.flows))-1]
		})
		if n != c.want || err != nil {
			t.Errorf("%v: %d rounds, want %d; %v", c.flows, n, c.want, err)
		}
	}
}

// A next process that is told to end while it loads flows, or waits for them, does not take over.
func TestPreloadEnds(t *testing.T) {
	over := errors.New("told to end")
	for name, waiting := range map[string]bool{"waiting": true, "loading": false} {
		ctx, cancel := context.WithCancelCause(t.Context())
		h := oneThatRuns(t)
		if waiting {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			h.p = &peer{c: connOf(t, pair[0])}
			other := &peer{c: connOf(t, pair[1])}
			go func() {
				_, _ = other.step(frozenWait)
				cancel(over)
			}()
		}
		err := h.Preload(ctx, func(f *os.File) int {
			f.Close()
			cancel(over)
			return 0
		})
		if !errors.Is(err, over) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Who loads flows longer than all rounds may take does not keep reloads waiting any more, and does not take over.
func TestPreloadTime(t *testing.T) {
	s := knowing(t, edit())
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{c: connOf(t, pair[0])}
	_ = connOf(t, pair[1]) // who says nothing
	if err := s.preload(p, flowRounds{}, time.Now()); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
}

// unplugged is a Hotplug by which nothing is ever named.
type unplugged struct{}

func (unplugged) Attach(cfg *config.Config) (*config.Config, error) { return cfg, nil }
func (unplugged) Tell([]config.Attached, []config.Attached)         {}
func (unplugged) Secured(string, int) error                         { return nil }

// What changes in the kernel while a hand-over keeps reloads waiting is followed, and hotplug looked at when it is through.
func TestKernelIsFollowedWhileHandingOver(t *testing.T) {
	s := knowing(t, edit())
	s.Hotplug = unplugged{}
	s.reloading.Lock()
	for _, up := range []bool{false, true} {
		s.kernel.Uplink.Up = up
		if err := s.changed(); !errors.Is(err, errBusy) || s.current.Load().kernel.Uplink.Up != up {
			t.Errorf("the uplink is up: %v, want %v; %v", s.current.Load().kernel.Uplink.Up, up, err)
		}
	}
	s.reloading.Unlock()
	if err := s.changed(); err != nil {
		t.Error(err)
	}
}
