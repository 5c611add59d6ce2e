package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"time"

	"udrouter/integration/lab"
)

// family is an IP version.
type family int

const (
	ipv4 family = 4
	ipv6 family = 6
)

func (f family) of(n *lab.Node) netip.Addr {
	if f == ipv4 {
		return n.Addr4()
	}
	return n.Addr6()
}

// way is a family and a direction: up is from the guest to the internet.
type way struct {
	family
	down bool
}

func (w way) String() string { return fmt.Sprintf("%d/%s", w.family, w.direction()) }

func (w way) direction() string {
	if w.down {
		return "down"
	}
	return "up"
}

var ways = []way{{ipv4, false}, {ipv4, true}, {ipv6, false}, {ipv6, true}}

// column is one figure of a measure.
type column struct {
	name, unit string
	lower      bool // is better
}

// measure is something that is done with one contestant at a time. Its run returns a value for each column, and ends with its context.
type measure struct {
	name    string // what --only selects by
	columns []column
	setUp   time.Duration // what it takes beyond its time and slack
	run     func(ctx context.Context, c *contestant, d time.Duration) ([]float64, error)
}

// measures are all of a run, in their order.
func measures() (list []measure) {
	for _, flows := range []int{1, 8} {
		for _, w := range ways {
			list = append(list, tcp(w, flows))
		}
	}
	for _, size := range []int{60, 1400} {
		for _, w := range ways {
			list = append(list, packets(w, size))
		}
	}
	for _, w := range ways {
		list = append(list, connections(w))
	}
	return append(list, latency(ipv4, nil), latency(ipv6, nil), latency(ipv4, &way{ipv4, false}), latency(ipv4, &way{ipv4, true}))
}

func selected(list []measure, only *regexp.Regexp) []measure {
	return slices.DeleteFunc(list, func(m measure) bool { return !only.MatchString(m.name) })
}

// rounds says how a list of measures is run.
type rounds struct {
	n        int
	time     time.Duration // of a single measurement
	progress io.Writer
}

// slack is what a measurement may take beyond its time, for setting up and for a machine that others use.
const slack = time.Minute

// run does every measure in every round with each contestant, one right after the other, so that what else the machine does
// meets them alike. In every other round their order is the reverse.
func (r rounds) run(ctx context.Context, list []measure, cs []*contestant) ([]row, error) {
	var rows []row
	for _, m := range list {
		for _, col := range m.columns {
			rows = append(rows, newRow(col, len(cs)))
		}
	}
	order := make([]int, len(cs))
	for i := range order {
		order[i] = i
	}
	for round := range r.n {
		at := 0
		for _, m := range list {
			for _, i := range order {
				values, err := r.one(ctx, m, cs[i])
				if err != nil {
					return nil, fmt.Errorf("measuring %s of %s: %w", m.name, cs[i].name, err)
				}
				fmt.Fprintf(r.progress, "round %d of %d: %s %s:", round+1, r.n, m.name, cs[i].name)
				for j, v := range values {
					rows[at+j].values[i] = append(rows[at+j].values[i], v)
					fmt.Fprintf(r.progress, " %s %s", number(v), m.columns[j].unit)
				}
				fmt.Fprintln(r.progress)
			}
			at += len(m.columns)
		}
		slices.Reverse(order)
	}
	return rows, nil
}

func (r rounds) one(ctx context.Context, m measure, c *contestant) ([]float64, error) {
	most := r.time + slack + m.setUp
	ctx, cancel := context.WithTimeoutCause(ctx, most, fmt.Errorf("it takes more than %s", most))
	defer cancel()
	return m.run(ctx, c, r.time)
}
