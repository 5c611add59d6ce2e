package main

import (
	"encoding/json"
	"io"
	"math"
)

// The form of --json. A ratio is that of the rounds, in the middle and at its ends; the base has none, nor has who lacks the figure.
type (
	jsonReport struct {
		Facts   map[string]string `json:"facts"`
		Base    string            `json:"base"`
		Figures []jsonFigure      `json:"figures"`
		Scaling []jsonScaling     `json:"scaling,omitempty"`
		Reloads *jsonReloads      `json:"reloads,omitempty"`
	}
	jsonFigure struct {
		Name   string               `json:"name"`
		Unit   string               `json:"unit"`
		Lower  bool                 `json:"lower_is_better"`
		Values map[string]jsonValue `json:"values"`
	}
	jsonReloads struct {
		Flows   int          `json:"flows"`
		Figures []jsonFigure `json:"figures"`
	}
	jsonScaling struct {
		Name    string        `json:"name"`
		Figures []jsonScalars `json:"figures"`
	}
	jsonScalars struct {
		Name       string      `json:"name"`
		Unit       string      `json:"unit"`
		Contestant string      `json:"contestant"`
		Values     []jsonValue `json:"values"` // each has its ratio to the first
	}
	jsonValue struct {
		Of     int        `json:"of,omitempty"` // guests, rules or flows
		Rounds []float64  `json:"rounds"`
		Median float64    `json:"median"`
		Ratio  *jsonRatio `json:"ratio,omitempty"`
	}
	jsonRatio struct {
		Median float64 `json:"median"`
		Min    float64 `json:"min"`
		Max    float64 `json:"max"`
	}
)

func (r *report) writeJSON(w io.Writer) error {
	out := jsonReport{Facts: make(map[string]string), Figures: []jsonFigure{}}
	if len(r.Names) > 0 {
		out.Base = r.Names[r.Base]
	}
	for _, f := range r.Facts {
		out.Facts[f.Name] = f.Text
	}
	for _, row := range r.Rows {
		f := jsonFigure{Name: row.name, Unit: row.unit, Lower: row.lower, Values: make(map[string]jsonValue)}
		for i, v := range row.values {
			if len(v) == 0 {
				continue
			}
			j := jsonOf(v, row.values[r.Base])
			if i == r.Base {
				j.Ratio = nil
			}
			f.Values[r.Names[i]] = j
		}
		out.Figures = append(out.Figures, f)
	}
	for _, s := range r.Scaling {
		out.Scaling = append(out.Scaling, s.json())
	}
	if r.Reloads != nil {
		out.Reloads = r.Reloads.json()
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(out)
}

func jsonOf(v, base []float64) jsonValue {
	j := jsonValue{Rounds: v, Median: median(v)}
	if r := ratios(v, base); !math.IsNaN(r.median) {
		j.Ratio = &jsonRatio{r.median, r.min, r.max}
	}
	return j
}

func (s scaled) json() jsonScaling {
	out := jsonScaling{Name: s.name}
	for _, r := range s.rows {
		for i, name := range s.names {
			f := jsonScalars{Name: r.name, Unit: r.unit, Contestant: name}
			of := r.values[i*len(s.values):][:len(s.values)]
			for k, v := range of {
				j := jsonOf(v, of[0])
				j.Of = s.values[k]
				f.Values = append(f.Values, j)
			}
			out.Figures = append(out.Figures, f)
		}
	}
	return out
}
