package plot

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

// A plot is XML, has a line for each series, and a point for each value, none of them outside.
func TestLines(t *testing.T) {
	for _, c := range []struct {
		name   string
		times  []float64
		series []Series
	}{
		{"usual", []float64{0, 1, 2}, []Series{{"a & b", []float64{1, 1500, 2.5e6}}, {"c", []float64{0, 0, 7}}}},
		{"nothing", nil, []Series{{"a", nil}}},
		{"zero", []float64{0, 10}, []Series{{"a", []float64{0, 0}}}},
		{"more values than times", []float64{0}, []Series{{"a", []float64{1, 2}}}},
	} {
		var points []string
		for d := xml.NewDecoder(strings.NewReader(string(Lines("x < y", c.times, c.series...)))); ; {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			if e, ok := token.(xml.StartElement); ok && e.Name.Local == "polyline" {
				for _, a := range e.Attr {
					if a.Name.Local == "points" {
						points = append(points, a.Value)
					}
				}
			}
		}
		if len(points) != len(c.series) {
			t.Fatalf("%s: %d lines", c.name, len(points))
		}
		for i, p := range points {
			if got, want := len(strings.Fields(p)), min(len(c.times), len(c.series[i].Values)); got != want {
				t.Errorf("%s: %d points, want %d", c.name, got, want)
			}
			if strings.Contains(p, "-") || strings.Contains(p, "NaN") {
				t.Errorf("%s: outside: %s", c.name, p)
			}
		}
	}
	if got := string(Lines("t", []float64{0, 1}, Series{"a", []float64{0, 100}})); !strings.Contains(got, `points="70,224 690,44"`) {
		t.Errorf("the line is not from the lower left to the upper right:\n%s", got)
	}
}
