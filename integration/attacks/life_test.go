package main

import (
	"strings"
	"syscall"
	"testing"

	"udrouter/integration/cases"
	"udrouter/integration/wire"
	"udrouter/policy"
)

// A router that is stopped for a while, as by a starved processor or a debugger, loses no connection and goes on with what has waited for it (attack 79).
func TestStopped(t *testing.T) {
	s := newStage(t, sourceOf(true), false)
	forged := func() {
		for range 100 {
			wire.Must(t, s.Send[cases.One].Send(cases.UDP(s.Net.Router, cases.MAC1, cases.Two4, cases.X4, 8)))
		}
	}
	before := wire.Status(t, s.Proc).Drops[policy.IPBinding.String()]
	for range 3 {
		wire.Must(t, s.Proc.Signal(syscall.SIGSTOP))
		forged()
		talk := make(chan error, 1)
		ctx := wire.Context(t)
		go func() { talk <- s.converse(ctx) }()
		wire.Must(t, s.Proc.Signal(syscall.SIGCONT))
		wire.Must(t, <-talk)
		s.Settle(cases.One)
	}
	s.Canary()
	st := wire.Status(t, s.Proc)
	if n := st.Drops[policy.IPBinding.String()] - before; n != 300 {
		t.Errorf("%d of 300 forged packets were counted", n)
	}
	if st.ForeignMAC != 0 || st.Drops[policy.Internal.String()] != 0 {
		t.Errorf("foreign MACs %d, drops %v", st.ForeignMAC, st.Drops)
	}
}

// A flood of packets that are dropped is counted to the last one, and is no flood of the log (attack 80).
func TestLogIsBounded(t *testing.T) {
	s := newStage(t, sourceOf(true), false)
	lines := func() int { return strings.Count(s.Proc.Log(), "\n") }
	counts := func() (n uint64) {
		for _, r := range []policy.Reason{policy.IPBinding, policy.MartianSrc, policy.ARPSpoof, policy.RAGuard} {
			n += wire.Status(t, s.Proc).Drops[r.String()]
		}
		return n
	}
	had, before := lines(), counts()
	const sent = 100000
	frames := [][]byte{
		cases.UDP(s.Net.Router, cases.MAC1, cases.Two4, cases.X4, 8), cases.UDP(s.Net.Router, cases.MAC1, cases.Router4, cases.X4, 8),
		cases.ARP(policy.BroadcastMAC, cases.MAC1, 1, cases.MAC1, cases.Two4, policy.MAC{}, cases.Router4),
	}
	for i := range sent {
		wire.Must(t, s.Send[cases.One].Send(frames[i%len(frames)]))
		if i%250 == 249 {
			s.Fence(cases.One, cases.X4)
		}
	}
	s.Settle(cases.One)
	if n := counts() - before; n != sent {
		t.Errorf("%d of %d packets were counted", n, sent)
	}
	// Each reason makes a line in ten seconds, and this takes less than minutes.
	if n := lines() - had; n > sent/100 {
		t.Errorf("%d lines of log about %d packets", n, sent)
	}
}
