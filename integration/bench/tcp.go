package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"udrouter/integration/lab"
)

// tcp is the throughput of connections between the first guest and the internet, all flows together, and what it costs the
// whole machine, both ends included.
func tcp(w way, flows int) measure {
	name := fmt.Sprintf("tcp/%s/%d", w, flows)
	return measure{
		name:    name,
		columns: []column{{name, "Gbit/s", false}, {name + "/cpu", "CPU s/Gbit", true}},
		run: func(ctx context.Context, c *contestant, d time.Duration) ([]float64, error) {
			before, err := busyTime()
			if err != nil {
				return nil, err
			}
			start := time.Now()
			bits, err := throughput(ctx, c, w, flows, d)
			if err != nil {
				return nil, err
			}
			took := time.Since(start)
			after, err := busyTime()
			if err != nil {
				return nil, err
			}
			gbit := bits / 1e9
			return []float64{gbit, (after - before).Seconds() / (gbit * took.Seconds())}, nil
		},
	}
}

// throughput is the sum of what the flows' receivers counted, in bits a second.
func throughput(ctx context.Context, c *contestant, w way, flows int, d time.Duration) (float64, error) {
	guest := c.lab.Guests[0].Node
	to := netip.AddrPortFrom(w.family.of(c.lab.Internet), tcpPort)
	send := (*lab.NS).Throughput
	if w.down {
		send = (*lab.NS).ThroughputFrom
	}
	bits := make([]float64, flows)
	g, ctx := errgroup.WithContext(ctx)
	for i := range flows {
		g.Go(func() (err error) {
			bits[i], err = send(guest.NS, ctx, to, d)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	sum := 0.0
	for _, b := range bits {
		sum += b
	}
	return sum, nil
}
