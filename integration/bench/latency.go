package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"udrouter/integration/lab"
)

const (
	pings       = 500
	pingEvery   = 2 * time.Millisecond
	pingTimeout = time.Second
)

// latency is the time of echo requests from the first guest to the internet and back, alone or while one TCP connection goes the way
// load says.
func latency(f family, load *way) measure {
	name := fmt.Sprintf("ping/%d/idle", f)
	if load != nil {
		name = fmt.Sprintf("ping/%d/load-%s", f, load.direction())
	}
	return measure{
		name:    name,
		columns: []column{{name + "/p50", "us", true}, {name + "/p99", "us", true}},
		run: func(ctx context.Context, c *contestant, d time.Duration) ([]float64, error) {
			p, err := c.lab.Guests[0].Pinger(ctx, f.of(c.lab.Internet))
			if err != nil {
				return nil, err
			}
			defer p.Close()
			var us []float64
			if load == nil {
				us, err = pingFor(ctx, p, d, pings)
			} else {
				us, err = pingLoaded(ctx, c, *load, p, d)
			}
			if err != nil {
				return nil, err
			}
			return []float64{percentile(us, 50), percentile(us, 99)}, nil
		},
	}
}

// pingFor pings for a time, but at most so often; a request without an answer counts as one that took all of pingTimeout.
func pingFor(ctx context.Context, p *lab.Pinger, d time.Duration, most int) (us []float64, err error) {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	lost := 0
	for end := time.Now().Add(d); len(us) < most && time.Now().Before(end); {
		rtt, err := p.Ping(pingTimeout)
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errors.Is(err, lab.ErrNoEcho):
			lost++
			rtt = pingTimeout
		case err != nil:
			return nil, err
		}
		us = append(us, float64(rtt)/float64(time.Microsecond))
		<-tick.C
	}
	if lost > 2+len(us)/10 {
		return nil, fmt.Errorf("%d of %d pings were not answered", lost, len(us))
	}
	return us, nil
}

func pingLoaded(ctx context.Context, c *contestant, load way, p *lab.Pinger, d time.Duration) ([]float64, error) {
	done := make(chan error, 1)
	go func() {
		_, err := throughput(ctx, c, load, 1, d+2*settle)
		done <- err
	}()
	err := wait(ctx, settle)
	var us []float64
	if err == nil {
		us, err = pingFor(ctx, p, d, int(d/pingEvery)+1)
	}
	return us, errors.Join(err, <-done)
}

// differences says how much more a program takes than the base, which a ratio of two small times does not.
func (r *report) differences() (lines []string) {
	for _, row := range r.Rows {
		if row.unit != "us" || row.name != "ping/4/idle/p50" && row.name != "ping/6/idle/p50" {
			continue
		}
		for i, v := range row.values {
			if i != r.Base && len(v) > 0 {
				lines = append(lines, fmt.Sprintf("%s: %s - %s = %+.1f us", row.name, r.Names[i], r.Names[r.Base], median(v)-median(row.values[r.Base])))
			}
		}
	}
	return lines
}
