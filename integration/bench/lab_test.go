package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// start has all contestants route for so many guests.
func start(t *testing.T, guests int) []*contestant {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	p, err := build(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cs := contestants([]program{p})
	for _, c := range cs {
		c.shape.Guests = guests
	}
	var m machine
	t.Cleanup(func() {
		if err := errors.Join(allDown(cs), m.restore()); err != nil {
			t.Error(err)
		}
	})
	if err := allUp(ctx, cs, &m, t.Output()); err != nil {
		t.Fatal(err)
	}
	for _, s := range moreNeighbours {
		if n := settings(t)[s.path]; n < s.least {
			t.Errorf("%s is %d, want %d", s.path, n, s.least)
		}
	}
	return cs
}

// Each measure works with each contestant, and finds more than nothing.
func TestMeasures(t *testing.T) {
	cs := start(t, 2)
	r := rounds{n: 1, time: 50 * time.Millisecond, progress: t.Output()}
	for _, m := range selected(measures(), regexp.MustCompile("(tcp|connect)/4/|tcp/6/up/8|udp|connect/6/down|ping")) {
		const tries = 20 // in so short a time a busy machine may have come round to nothing
		for try := 1; ; try++ {
			rows, err := r.run(t.Context(), []measure{m}, cs)
			if err != nil {
				t.Fatal(err)
			}
			lacks := lacking(rows, cs)
			if len(lacks) == 0 {
				break
			}
			if try == tries {
				t.Errorf("%d times: %q", tries, lacks)
				break
			}
		}
	}
	if t.Failed() {
		return
	}
	for _, c := range cs {
		if err := c.knows(t.Context(), 1<<30); (err == nil) != (c.name == "kernel") {
			t.Errorf("%s knows a thousand million flows: %v", c.name, err)
		}
	}
}

// lacking are the figures of one round that are missing, or nothing.
func lacking(rows []row, cs []*contestant) (list []string) {
	for _, row := range rows {
		for i, c := range cs {
			v := row.values[i]
			// The processors may not have had a single tick.
			if len(v) != 1 || math.IsNaN(v[0]) || v[0] < 0 || v[0] == 0 && !strings.HasSuffix(row.name, "/cpu") {
				list = append(list, fmt.Sprintf("%s of %s: %v", row.name, c.name, v))
			}
		}
	}
	return list
}

// What the raw sockets send and count is what the links carry: nothing is lost on the way while little is sent, and nothing else is taken
// for it.
func TestCounts(t *testing.T) {
	cs := start(t, 2)
	for _, c := range cs {
		for _, f := range []family{ipv4, ipv6} {
			t.Run(fmt.Sprintf("%s/%d", c.name, f), func(t *testing.T) { counts(t, c, f) })
		}
	}
}

func counts(t *testing.T, c *contestant, f family) {
	up, down, err := streams(c, f, 100)
	if err != nil {
		t.Fatal(err)
	}
	defer up.close()
	defer down.close()
	if err := establish(t.Context(), up, down); err != nil {
		t.Fatal(err)
	}
	var before, after [2]uint64
	read := func(to *[2]uint64) {
		for i, g := range c.lab.Guests {
			n, err := g.Count(g.Link)
			if err != nil {
				t.Fatal(err)
			}
			to[i] = n.TxPackets
		}
	}
	read(&before)
	for _, s := range []*stream{up, down} {
		if n, err := s.take(); n != 0 || err != nil {
			t.Fatalf("%d came unasked, %v", n, err)
		}
		came, b := 0, newBurst(s.size)
		for at := 0; at < s.flows(); {
			sent, err := s.send(b, at, 4)
			if err != nil {
				t.Fatal(err)
			}
			for at += sent; came < at; {
				if t.Context().Err() != nil {
					t.Fatal("the test ended")
				}
				n, err := s.take()
				if err != nil {
					t.Fatal(err)
				}
				came += n
			}
		}
		if came != s.flows() {
			t.Errorf("%d came, %d were sent", came, s.flows())
		}
	}
	read(&after)
	for i, g := range c.lab.Guests {
		want := uint64(up.flows() / len(c.lab.Guests))
		if n := after[i] - before[i]; n < want || n > want+10 { // and what neighbours say
			t.Errorf("%s sent %d frames, want %d", g.Name(), n, want)
		}
	}
	if err := c.knows(t.Context(), up.flows()); err != nil {
		t.Error(err)
	}
}

// Who has no policy is found out.
func TestRefuses(t *testing.T) {
	for _, c := range start(t, 1) {
		for _, w := range ways {
			if err := c.refusesOn(t.Context(), w); (err != nil) != (c.name == "kernel") {
				t.Errorf("%s, %s: %v", c.name, w, err)
			}
		}
	}
}

// The whole command, and what it leaves of its settings.
func TestRun(t *testing.T) {
	before := settings(t)
	var out, progress bytes.Buffer
	args := strings.Fields("--rounds 1 --time 50ms --only udp/4/up/60|rest/rss --contestants ^udrouter$")
	err := run(t.Context(), args, &out, &progress)
	if err != nil {
		t.Fatalf("%v\n%s", err, &progress)
	}
	for _, want := range []string{"CPU: ", "kernel: Linux", "load: ", "udrouter: ", "udp/4/up/60", "rest/rss"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("there is no %q in\n%s", want, &out)
		}
	}
	if diff := cmp.Diff(before, settings(t)); diff != "" {
		t.Errorf("the machine's settings have changed: %s", diff)
	}
}

// settings are those of the machine that a run may raise; conntrack's are there when it is.
func settings(t *testing.T) map[string]int {
	t.Helper()
	list := make(map[string]int)
	for _, s := range moreNeighbours {
		text, err := os.ReadFile(filepath.Join("/proc/sys/net", s.path))
		if err != nil {
			t.Fatal(err)
		}
		if list[s.path], err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil {
			t.Fatal(err)
		}
	}
	return list
}
