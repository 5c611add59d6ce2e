package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// pulse is a router that is alive or not.
type pulse struct {
	asked chan struct{}
	err   chan error
}

func (p *pulse) Alive(context.Context) error {
	p.asked <- struct{}{}
	return <-p.err
}

// The watchdog is told nothing as long as something does not come round.
func TestWatchdog(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify.sock")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	t.Setenv("NOTIFY_SOCKET", socket)
	t.Setenv("WATCHDOG_USEC", "2000")
	ctx, cancel := context.WithCancel(t.Context())
	p := &pulse{make(chan struct{}), make(chan error)}
	ended := make(chan error, 1)
	go func() { ended <- watchdog(ctx, p, slog.New(slog.DiscardHandler)) }()
	told := func() (n int) {
		buf := make([]byte, 100)
		for {
			if err := c.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(buf); err != nil {
				return n
			}
			n++
		}
	}
	total := 0
	for i, err := range []error{nil, errors.New("stuck"), errors.New("stuck"), nil} {
		<-p.asked
		if n := told(); n != total { // what came of the question before is there: notify comes before the next question
			t.Fatalf("before question %d it was told %d times, want %d", i, n, total)
		}
		total = 0
		if err == nil {
			total = 1
		}
		p.err <- err
	}
	<-p.asked
	if n := told(); n != 1 {
		t.Errorf("told %d times at the end", n)
	}
	cancel()
	p.err <- ctx.Err()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
