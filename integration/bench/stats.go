package main

import (
	"math"
	"slices"
	"strconv"
)

// row is one figure of all contestants.
type row struct {
	column
	values [][]float64 // by contestant and round; empty: it does not have this figure
}

func newRow(c column, contestants int) row { return row{c, make([][]float64, contestants)} }

// median is the middle of the values, NaN if there are none.
func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// percentile is the least value that p per cent of the values do not exceed (the nearest rank), NaN if there are none.
func percentile(v []float64, p float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(v))
	rank := int(math.Ceil(p / 100 * float64(len(s))))
	return s[min(max(rank, 1), len(s))-1]
}

// ratio is how one contestant's values relate to another's, round by round.
type ratio struct{ median, min, max float64 }

func ratios(v, base []float64) (r ratio) {
	var each []float64
	for i := range min(len(v), len(base)) {
		if base[i] != 0 {
			each = append(each, v[i]/base[i])
		}
	}
	if len(each) == 0 {
		return ratio{math.NaN(), math.NaN(), math.NaN()}
	}
	return ratio{median(each), slices.Min(each), slices.Max(each)}
}

// number writes a value with three digits that count, or all of those before the point.
func number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return "-"
	case a >= 100 || a == 0:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case a >= 1:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return strconv.FormatFloat(v, 'f', 3, 64)
}
