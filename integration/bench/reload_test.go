package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What is lost, and the longest time between two, as numbers and times tell.
func TestTally(t *testing.T) {
	for _, row := range []struct {
		name    string
		from    uint32
		numbers []uint32
		times   []time.Duration
		came    int
		twice   int
		longest time.Duration
	}{
		{"all", 0, []uint32{0, 1, 2}, []time.Duration{10, 11, 13}, 3, 0, 2},
		{"one is lost", 7, []uint32{7, 9}, []time.Duration{10, 20}, 2, 0, 10},
		{"the longest is not the last", 0, []uint32{0, 1, 2}, []time.Duration{10, 30, 31}, 3, 0, 20},
		{"another order", 0, []uint32{1, 0, 2}, []time.Duration{10, 9, 12}, 3, 0, 2},
		{"twice", 0, []uint32{0, 0}, []time.Duration{10, 11}, 1, 1, 1},
		{"from before", 5, []uint32{4, 5}, []time.Duration{10, 60}, 1, 0, 0},
		{"numbers begin anew", 1<<32 - 1, []uint32{1<<32 - 1, 0, 1000}, []time.Duration{1, 2, 3}, 3, 0, 1},
	} {
		y := &tally{from: row.from, sent: 5}
		for i, n := range row.numbers {
			y.add(n, row.times[i])
		}
		if y.came != row.came || y.twice != row.twice || y.longest != row.longest || y.lost() != 5-row.came {
			t.Errorf("%s: %+v", row.name, y)
		}
	}
}

// Datagrams in a row are of different flows, so that each has a frame of its own, and in the end of all.
func TestNumberedFlows(t *testing.T) {
	s := &numbered{stream: &stream{frames: make([]byte, 1000), size: 1}, hot: 100}
	all := map[int]bool{}
	for n := range uint32(4000) {
		row := map[int]bool{}
		for i := range uint32(batch) {
			row[s.flow(n+i)] = true
		}
		if len(row) != batch {
			t.Fatalf("from %d on, %d flows are of %d datagrams", n, len(row), batch)
		}
		all[s.flow(n)] = true
	}
	if len(all) != 1000 {
		t.Errorf("%d flows of 1000", len(all))
	}
}

// The measure itself with few flows: both routers are reloaded and taken over from as often as it says, and each datagram is known by its number.
func TestReload(t *testing.T) {
	var cs []*contestant
	for _, c := range start(t, 1) {
		if c.proc != nil {
			c.flows = 1000
			cs = append(cs, c)
		}
	}
	m := underReload(way{ipv4, false}, 60)
	before := map[*contestant]int{}
	for _, c := range cs {
		before[c] = c.proc.PID()
	}
	rows, err := rounds{n: 1, time: 100 * time.Millisecond, progress: t.Output()}.run(t.Context(), []measure{m}, cs)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		for i, c := range cs {
			// A busy machine may lose some, or none.
			if v := row.values[i]; len(v) != 1 || v[0] < 0 || v[0] == 0 && !strings.HasSuffix(row.name, "lost") {
				t.Errorf("%s of %s: %v", row.name, c.name, v)
			}
		}
	}
	for _, c := range cs {
		s, err := c.proc.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if s.Reloads != 2*reloads || c.proc.PID() == before[c] {
			t.Errorf("%s was reloaded %d times, and its process was %d and is %d", c.name, s.Reloads, before[c], c.proc.PID())
		}
		var by struct {
			Flows struct {
				Hits uint64 `json:"offload_hits"`
			} `json:"flows"`
		}
		if err := json.Unmarshal(s.Raw, &by); err != nil || (by.Flows.Hits > 0) != strings.HasSuffix(c.name, tierName) {
			t.Errorf("the kernel has forwarded %d packets of %s: %v", by.Flows.Hits, c.name, err)
		}
	}
}

// What is lost is counted: of a stream for which the way is closed for a while.
func TestNumberedLoss(t *testing.T) {
	c := start(t, 1)[1]
	if c.name != base {
		t.Fatal(c.name)
	}
	c.flows = 1000
	up, down, err := numberedUp(c, ipv4, 60)
	if err != nil {
		t.Fatal(err)
	}
	defer up.close()
	defer down.close()
	if err := establish(t.Context(), up.stream, down); err != nil {
		t.Fatal(err)
	}
	const closed = 50 * time.Millisecond
	for _, row := range []struct {
		name string
		do   func() error
		lost bool
	}{
		{"nothing", func() error { return nil }, false},
		{"the link is down", func() error {
			vif := c.lab.Guests[0].Domu.Vif
			err := c.lab.Dom0.SetDown(vif)
			return errors.Join(err, wait(t.Context(), closed), c.lab.Dom0.SetUp(vif))
		}, true},
	} {
		y, err := up.during(t.Context(), 5000, closed, closed, row.do)
		if err != nil {
			t.Fatalf("%s: %v", row.name, err)
		}
		// A sender that has to wait for so long loses nothing; the gap is there.
		if y.lost() > 0 && !row.lost || row.lost && y.longest < closed {
			t.Errorf("%s: of %d datagrams %d came, the longest gap is %v", row.name, y.sent, y.came, y.longest)
		}
	}
}

func TestReloadTable(t *testing.T) {
	rep := &report{Facts: []fact{{"CPU", "one"}}, Reloads: &reloaded{flows: 10, names: []string{"a", "a+ebpf"}, rows: []row{
		{column{"held rate, reloads: lost", "datagrams", true}, [][]float64{{0, 3, 1}, {0, 0, 0}}},
	}}}
	var b bytes.Buffer
	if err := rep.write(&b); err != nil {
		t.Fatal(err)
	}
	want := `CPU: one

with 10 flows             unit       a           a+ebpf
held rate, reloads: lost  datagrams  1.00 (0-3.00)  0 (0-0)
`
	if diff := cmp.Diff(strings.Fields(want), strings.Fields(b.String())); diff != "" {
		t.Error(diff)
	}
	b.Reset()
	if err := rep.writeJSON(&b); err != nil {
		t.Fatal(err)
	}
	var got jsonReport
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if f := got.Reloads.Figures; got.Reloads.Flows != 10 || len(f) != 1 || !cmp.Equal(f[0].Values["a"], jsonValue{Rounds: []float64{0, 3, 1}, Median: 1}) {
		t.Errorf("%s", &b)
	}
}
