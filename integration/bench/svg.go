package main

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"text/template"

	"udrouter/integration/plot"
)

// The plot's measures, in pixels.
const (
	plotLabels = 180 // to the left of the bars
	plotBars   = 480
	plotRight  = 60 // for the numbers behind the bars
	plotBar    = 11 // the height of one
	plotGap    = 8  // between groups
	plotTop    = 44 // for the legend
)

type (
	plotGroup struct {
		Name string
		Y    float64 // of its label
		Bars []plotOne
	}
	plotOne struct {
		Y, Width float64
		Class    int
		Text     string
	}
	plotName struct {
		X     int
		Class int
		Name  string
	}
	plotLine struct {
		X    float64
		Text string
		One  bool
	}
	plotData struct {
		Width, Height, Bottom, Left, Bar int
		Title                            string
		Names                            []plotName
		Lines                            []plotLine
		Groups                           []plotGroup
	}
)

// plot draws the ratios to the base as groups of bars, one group for each figure of which more is better: above 1 is faster.
func (r *report) plot() []byte {
	d := plotData{Width: plotLabels + plotBars + plotRight, Left: plotLabels, Bar: plotBar - 2}
	d.Title = fmt.Sprintf("Relative to %s (= 1.0), more is better", r.Names[r.Base])
	class := make([]int, len(r.Names))
	at := 0
	for i, name := range r.Names {
		if i == r.Base {
			continue
		}
		class[i] = at % plot.Colors
		d.Names = append(d.Names, plotName{plotLabels + 130*at, class[i], name})
		at++
	}
	top := 1.0
	for _, row := range r.Rows {
		for i, v := range row.values {
			if m := ratios(v, row.values[r.Base]).median; i != r.Base && !row.lower && m > top {
				top = m
			}
		}
	}
	top = math.Ceil(top*4) / 4
	scale := plotBars / top
	y := float64(plotTop)
	for _, row := range r.Rows {
		if row.lower {
			continue
		}
		g := plotGroup{Name: title(row.name)}
		start := y
		for i, v := range row.values {
			m := ratios(v, row.values[r.Base]).median
			if i == r.Base || math.IsNaN(m) {
				continue
			}
			g.Bars = append(g.Bars, plotOne{Y: y, Width: math.Round(m*scale*10) / 10, Class: class[i], Text: fmt.Sprintf("%.2f", m)})
			y += plotBar
		}
		g.Y = (start + y) / 2
		y += plotGap
		d.Groups = append(d.Groups, g)
	}
	d.Bottom = int(y)
	d.Height = d.Bottom + 24
	for x := 0.0; x <= top; x += 0.25 {
		d.Lines = append(d.Lines, plotLine{math.Round(plotLabels + x*scale), fmt.Sprint(x), x == 1})
	}
	var b bytes.Buffer
	if err := plotFile.Execute(&b, d); err != nil {
		panic(err) // the template is ours, and a buffer takes everything
	}
	return b.Bytes()
}

// title is a figure's name in words.
func title(name string) string {
	f := append(strings.Split(name, "/"), "", "", "")
	what := map[string]string{"tcp": "TCP", "udp": "UDP", "connect": "New TCP"}[f[0]]
	if what == "" {
		return name
	}
	more := map[string]string{"tcp": ", flows: ", "udp": ", bytes: "}[f[0]] + f[3]
	return fmt.Sprintf("%s, IPv%s %s%s", what, f[1], f[2], more)
}

var plotFile = template.Must(template.New("svg").Funcs(template.FuncMap{
	"add": func(a, b any) float64 { return number64(a) + number64(b) },
}).Parse(`<svg xmlns="http://www.w3.org/2000/svg" width="{{.Width}}" height="{{.Height}}" viewBox="0 0 {{.Width}} {{.Height}}" role="img">
<title>{{.Title | html}}</title>
` + plot.Style + `
<text x="{{.Left}}" y="14">{{.Title | html}}</text>
{{- range .Names}}
<rect class="c{{.Class}}" x="{{.X}}" y="23" width="10" height="10"/><text x="{{add .X 14}}" y="32">{{.Name | html}}</text>
{{- end}}
{{- $d := .}}
{{- range .Lines}}
<line class="grid" x1="{{.X}}" x2="{{.X}}" y1="38" y2="{{$d.Bottom}}"/><text x="{{.X}}" y="{{add $d.Bottom 14}}" text-anchor="middle">{{.Text}}</text>
{{- end}}
{{- range .Groups}}
<text x="{{add $d.Left -8}}" y="{{add .Y 3}}" text-anchor="end">{{.Name | html}}</text>
{{- range .Bars}}
<rect class="c{{.Class}}" x="{{$d.Left}}" y="{{.Y}}" width="{{.Width}}" height="{{$d.Bar}}"/><text x="{{add (add $d.Left .Width) 4}}" y="{{add .Y 9}}">{{.Text}}</text>
{{- end}}
{{- end}}
{{- range .Lines}}{{if .One}}
<line class="one" x1="{{.X}}" x2="{{.X}}" y1="38" y2="{{$d.Bottom}}"/>
{{- end}}{{end}}
</svg>
`))

func number64(v any) float64 {
	switch n := v.(type) {
	case int:
		return float64(n)
	case float64:
		return n
	}
	panic(fmt.Sprintf("%T in a plot", v))
}
