package main

import (
	"io"
	"strings"
	"testing"
	"time"
)

// A kind of traffic is complained of by the ratio of its tries that succeed, within disturbances by a lower one.
func TestJudgeTraffic(t *testing.T) {
	for _, c := range []struct {
		calmWell, calmIll, well, ill uint64
		want                         string
	}{
		{9900, 100, 7500, 2500, ""},
		{9899, 101, 7500, 2500, "with nothing disturbed: 9899 of 10000 tries succeeded, which is less than 99 %"},
		{9900, 100, 7499, 2501, "within disturbances: 7499 of 10000 tries succeeded, which is less than 75 %"},
		{1, 3, 0, 10, ""},
		{1, 4, 0, 0, "with nothing disturbed: 1 of 5"},
		{1, 0, 0, 11, "within disturbances: 0 of 11"},
		{0, 0, 100, 0, "nothing is shown"},
	} {
		kind := &tries{}
		kind.calm.well.Store(c.calmWell)
		kind.calm.ill.Store(c.calmIll)
		kind.disturbed.well.Store(c.well)
		kind.disturbed.ill.Store(c.ill)
		s := &soak{progress: io.Discard, traffic: map[string]*tries{"ping, guest to guest": kind}}
		s.judgeTraffic()
		if got := strings.Join(s.complaints, "\n"); (got != "") != (c.want != "") || !strings.Contains(got, c.want) || len(s.complaints) > 1 {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

// A try is disturbed by what went on when it began, had just ended, or began while its packets were on the way, and not by what came while it waited.
func TestDisturbances(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(1000, 0).Add(time.Duration(ms) * time.Millisecond) }
	var d disturbances
	d.begin(at(1000))
	d.end(at(2000))
	d.begin(at(8000))
	for _, c := range []struct {
		from, to int
		want     bool
	}{
		{0, 900, false},
		{900, 950, false},
		{700, 5700, false},
		{900, 5900, true},
		{950, 1000, true},
		{1500, 1600, true},
		{2900, 2910, true},
		{3001, 3010, false},
		{7000, 12000, false},
		{7900, 12900, true},
		{9000, 9001, true}, // it goes on
	} {
		if got := d.met(at(c.from), at(c.to)); got != c.want {
			t.Errorf("from %d to %d ms: disturbed is %v, want %v", c.from, c.to, got, c.want)
		}
	}
}
