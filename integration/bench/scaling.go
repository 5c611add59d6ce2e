package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// dimension is something that a network has more or less of.
type dimension struct {
	name     string
	values   []int
	with     func(n int) (s shape, flows int)
	measures []measure
	raise    []setting
}

// dimensions are all of a run, in their order.
func dimensions() []dimension {
	up, down := way{ipv4, false}, way{ipv4, true}
	with := func(change func(s *shape, flows *int, n int)) func(int) (shape, int) {
		return func(n int) (shape, int) {
			s, flows := usual, usualFlows
			change(&s, &flows, n)
			return s, flows
		}
	}
	return []dimension{
		{
			name: "guests", values: []int{1, 16, 64, 254},
			with:     with(func(s *shape, _ *int, n int) { s.Guests = n }),
			measures: []measure{tcp(up, 1), packets(up, 60), packets(down, 60)}, // of one guest; spread over all
		},
		{
			name: "rules", values: []int{10, 100, 1000, 10_000},
			with:     with(func(s *shape, _ *int, n int) { s.Rules = n }),
			measures: []measure{tcp(up, 1), packets(up, 60), connections(up)},
		},
		{
			name: "flows", values: []int{1, 1000, 100_000, 1_000_000},
			with: with(func(s *shape, flows *int, n int) {
				s.Flows, *flows = max(s.Flows, 1<<20), n
			}),
			measures: []measure{packets(up, 60), packets(down, 60)},
			raise:    moreBuckets,
		},
	}
}

// scaled is what a dimension costs.
type scaled struct {
	name   string
	values []int
	names  []string // of the contestants
	rows   []row    // values[i] are those of contestant i/len(values) with the value i%len(values)
}

// scale measures every dimension. All networks of one are up at the same time, so that each meets what else the machine does like the others;
// only the program and its fair peer take part.
func (o options) scale(ctx context.Context, rep *report) error {
	for _, d := range dimensions() {
		d.measures = scalingOnly(d, o)
		if len(d.measures) == 0 {
			continue
		}
		s, err := o.scaleOne(ctx, d)
		if err != nil {
			return fmt.Errorf("scaling %s: %w", d.name, err)
		}
		rep.Scaling = append(rep.Scaling, s)
	}
	return nil
}

func scalingOnly(d dimension, o options) (list []measure) {
	for _, m := range d.measures {
		if o.only.MatchString("scaling/" + d.name + "/" + m.name) {
			list = append(list, m)
		}
	}
	return list
}

func (o options) scaleOne(ctx context.Context, d dimension) (s scaled, err error) {
	s = scaled{name: d.name, values: d.values}
	var cs []*contestant
	for i, c := range o.contestants() {
		if c.name == "kernel" {
			continue
		}
		s.names = append(s.names, c.name)
		for _, n := range d.values {
			one := o.contestants()[i]
			one.shape, one.flows = d.with(n)
			one.name = fmt.Sprintf("%s with %d %s", c.name, n, d.name)
			cs = append(cs, one)
		}
	}
	var m machine
	defer func() { err = errors.Join(err, allDown(cs), m.restore()) }()
	if err := allUp(ctx, cs, &m, o.progress); err != nil {
		return s, err
	}
	if err := m.raise(d.raise); err != nil {
		return s, err
	}
	s.rows, err = o.rounds.run(ctx, d.measures, cs)
	return s, err
}

// write writes medians, and behind each its ratio to that of the first value.
func (s scaled) write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	head := []string{"figure", "unit", "contestant"}
	for _, n := range s.values {
		head = append(head, fmt.Sprintf("%d %s", n, s.name))
	}
	fmt.Fprintln(t, strings.Join(head, "\t"))
	for _, r := range s.rows {
		for i, name := range s.names {
			of := r.values[i*len(s.values):][:len(s.values)]
			fmt.Fprintf(t, "%s\t%s\t%s", r.name, r.unit, name)
			for _, v := range of {
				fmt.Fprintf(t, "\t%s (%.2f)", number(median(v)), ratios(v, of[0]).median)
			}
			fmt.Fprintln(t)
		}
	}
	return t.Flush()
}
