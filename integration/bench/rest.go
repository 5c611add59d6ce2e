package main

import (
	"context"
	"time"
)

// What --only selects them by.
const restMemory, restCPU = "rest/rss", "rest/cpu"

// rest is what the programs take when nobody uses them: memory, after all that was measured before, and processor time,
// watched for d.
func rest(ctx context.Context, cs []*contestant, d time.Duration) ([]row, error) {
	memory := newRow(column{restMemory, "MiB", true}, len(cs))
	cpu := newRow(column{restCPU, "% of a core", true}, len(cs))
	before := make([]time.Duration, len(cs))
	for i, c := range cs {
		if c.proc == nil {
			continue
		}
		m, err := c.proc.RSS()
		if err != nil {
			return nil, err
		}
		memory.values[i] = []float64{float64(m.RSS) / (1 << 20)}
		if before[i], err = c.proc.CPU(); err != nil {
			return nil, err
		}
	}
	if err := wait(ctx, d); err != nil {
		return nil, err
	}
	for i, c := range cs {
		if c.proc == nil {
			continue
		}
		after, err := c.proc.CPU()
		if err != nil {
			return nil, err
		}
		cpu.values[i] = []float64{100 * float64(after-before[i]) / float64(d)}
	}
	return []row{memory, cpu}, nil
}
