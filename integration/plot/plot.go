// Package plot draws the figures of reports as SVG that follows the reader's light or dark theme.
package plot

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"text/template"
)

// Style is that of all plots: text, the grid, and the colours c0 to c3 of areas and of lines.
const Style = `<style>
text { font: 11px sans-serif; fill: #24292f }
.grid { stroke: #d0d7de } .one { stroke: #cf222e; stroke-width: 1.5 }
.c0 { fill: #8c959f } .c1 { fill: #0969da } .c2 { fill: #1a7f37 } .c3 { fill: #bf8700 }
polyline { fill: none; stroke-width: 1.5 }
polyline.c0 { fill: none; stroke: #8c959f } polyline.c1 { fill: none; stroke: #0969da } polyline.c2 { fill: none; stroke: #1a7f37 } polyline.c3 { fill: none; stroke: #bf8700 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .grid { stroke: #3d444d } .one { stroke: #ff7b72 }
  .c0 { fill: #768390 } .c1 { fill: #4493f8 } .c2 { fill: #3fb950 } .c3 { fill: #d29922 }
  polyline.c0 { stroke: #768390 } polyline.c1 { stroke: #4493f8 } polyline.c2 { stroke: #3fb950 } polyline.c3 { stroke: #d29922 }
}
</style>`

// Colors is how many series a plot tells apart.
const Colors = 4

// Series is what is measured at each of the times.
type Series struct {
	Name   string
	Values []float64
}

// The measures of a plot of lines, in pixels.
const (
	left, top     = 70, 44
	width, height = 620, 180
	right, bottom = 20, 30
)

// Lines draws series over time, which is in seconds, from zero up.
func Lines(title string, times []float64, series ...Series) []byte {
	most, end := 0.0, 1.0
	for _, s := range series {
		for _, v := range s.Values {
			most = math.Max(most, v)
		}
	}
	for _, t := range times {
		end = math.Max(end, t)
	}
	step := nice(most / 4)
	most = math.Max(step*math.Ceil(most/step), step)
	type text struct {
		X, Y   float64
		Text   string
		Class  int
		Points string
	}
	d := struct {
		Title                            string
		Style                            string
		Width, Height, Left, Right, Base int
		Rows, Columns, Names             []text
	}{Title: title, Style: Style, Width: left + width + right, Height: top + height + bottom, Left: left, Right: left + width, Base: top + height}
	x := func(t float64) float64 { return math.Round((left+t/end*width)*10) / 10 }
	y := func(v float64) float64 { return math.Round((top+height-v/most*height)*10) / 10 }
	for v := 0.0; v <= most+step/2; v += step {
		d.Rows = append(d.Rows, text{Y: y(v), Text: short(v)})
	}
	for t, step := 0.0, nice(end/6); t <= end; t += step {
		d.Columns = append(d.Columns, text{X: x(t), Text: fmt.Sprintf("%gs", t)})
	}
	at := float64(left)
	for i, s := range series {
		var points []string
		for k, v := range s.Values[:min(len(s.Values), len(times))] {
			points = append(points, fmt.Sprintf("%g,%g", x(times[k]), y(v)))
		}
		d.Names = append(d.Names, text{X: at, Text: s.Name, Class: i % Colors, Points: strings.Join(points, " ")})
		at += 30 + 7*float64(len(s.Name))
	}
	var b bytes.Buffer
	if err := lines.Execute(&b, d); err != nil {
		panic(err) // the template is ours, and a buffer takes everything
	}
	return b.Bytes()
}

// nice is the next of 1, 2 and 5 times a power of ten.
func nice(v float64) float64 {
	if v <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, n := range []float64{1, 2, 5} {
		if n*power >= v {
			return n * power
		}
	}
	return 10 * power
}

// short writes a number with k, M and G.
func short(v float64) string {
	for _, u := range []struct {
		unit string
		one  float64
	}{{"G", 1e9}, {"M", 1e6}, {"k", 1e3}} {
		if v >= u.one {
			return fmt.Sprintf("%.4g%s", v/u.one, u.unit)
		}
	}
	return fmt.Sprintf("%.4g", v)
}

var lines = template.Must(template.New("lines").Funcs(template.FuncMap{"under": func(a int) int { return a + 14 }, "text": func(x float64) float64 { return x + 14 }, "mid": func(y float64) float64 { return y + 4 }}).Parse(
	`<svg xmlns="http://www.w3.org/2000/svg" width="{{.Width}}" height="{{.Height}}" viewBox="0 0 {{.Width}} {{.Height}}" role="img">
<title>{{.Title | html}}</title>
{{.Style}}
<text x="{{.Left}}" y="14">{{.Title | html}}</text>
{{- $d := .}}
{{- range .Rows}}
<line class="grid" x1="{{$d.Left}}" x2="{{$d.Right}}" y1="{{.Y}}" y2="{{.Y}}"/><text x="{{$d.Left}}" dx="-6" y="{{mid .Y}}" text-anchor="end">{{.Text}}</text>
{{- end}}
{{- range .Columns}}
<text x="{{.X}}" y="{{under $d.Base}}" text-anchor="middle">{{.Text}}</text>
{{- end}}
{{- range .Names}}
<rect class="c{{.Class}}" x="{{.X}}" y="23" width="10" height="10"/><text x="{{text .X}}" y="32">{{.Text | html}}</text>
<polyline class="c{{.Class}}" points="{{.Points}}"/>
{{- end}}
</svg>
`))
