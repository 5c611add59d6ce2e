package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"udrouter/policy"
)

func TestPercentile(t *testing.T) {
	v := []float64{5, 1, 4, 2, 3}
	for _, row := range []struct {
		v          []float64
		p50, p99   float64
		wantMedian float64
	}{
		{nil, math.NaN(), math.NaN(), math.NaN()},
		{[]float64{7}, 7, 7, 7},
		{v, 3, 5, 3},
		{[]float64{4, 3, 2, 1}, 2, 4, 2.5},
	} {
		got := []float64{percentile(row.v, 50), percentile(row.v, 99), median(row.v)}
		if diff := cmp.Diff([]float64{row.p50, row.p99, row.wantMedian}, got, nan); diff != "" {
			t.Errorf("%v: %s", row.v, diff)
		}
	}
	if diff := cmp.Diff([]float64{5, 1, 4, 2, 3}, v); diff != "" {
		t.Errorf("the values were changed: %s", diff)
	}
}

var nan = cmp.Comparer(func(a, b float64) bool { return a == b || math.IsNaN(a) && math.IsNaN(b) })

// A ratio is that of the rounds, not of the medians: 1/1, 10/5 and 3/30 have 1 in the middle, their medians 3/5.
func TestRatios(t *testing.T) {
	for _, row := range []struct {
		v, base []float64
		want    string
	}{
		{[]float64{1, 10, 3}, []float64{1, 5, 30}, "1.00 (0.10-2.00)"},
		{[]float64{1, 2}, []float64{0, 4}, "0.50 (0.50-0.50)"},
		{nil, []float64{1}, "-"},
		{[]float64{1}, nil, "-"},
	} {
		if got := ratios(row.v, row.base).String(); got != row.want {
			t.Errorf("%v to %v: %s, want %s", row.v, row.base, got, row.want)
		}
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.1234: "0.123", 1.234: "1.23", 12.34: "12.3", 123.4: "123", 12345: "12345", -0.5: "-0.500"} {
		if got := number(v); got != want {
			t.Errorf("%g: %s, want %s", v, got, want)
		}
	}
}

func TestParseStat(t *testing.T) {
	got, err := parseStat("cpu  100 10 20 5000 300 4 5 900 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
	if want := 1390 * time.Millisecond; got != want || err != nil { // neither idle, iowait nor steal
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	for _, text := range []string{"", "intr 1 2 3 4 5 6 7 8", "cpu 1 2 3", "cpu x 1 1 1 1 1 1 1"} {
		if _, err := parseStat(text); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}

// Every shape is a file that the program reads, with the guests and rules it says, of which only the last concerns what is measured.
func TestConfig(t *testing.T) {
	shapes := []shape{usual}
	for n := 1; n <= 254; n += 11 {
		shapes = append(shapes, shape{Guests: n, Rules: 1 + n%3, Flows: 1})
	}
	for _, d := range dimensions() {
		for _, n := range d.values {
			s, _ := d.with(n)
			shapes = append(shapes, s)
		}
	}
	for _, s := range shapes {
		cfg, _, err := s.config()
		if err != nil {
			t.Fatalf("%+v: %v", s, err)
		}
		p := cfg.Policies[0]
		if len(cfg.Domus) != s.Guests || p.Limits != (policy.Limits{Flows: uint64(s.Flows)}) {
			t.Fatalf("%+v: %d guests, limits %+v", s, len(cfg.Domus), p.Limits)
		}
		for _, d := range cfg.Domus {
			if d.Policy != p.Name || len(d.IPv4) != 1 || len(d.IPv6) != 1 {
				t.Fatalf("%+v: %+v", s, d)
			}
		}
		for _, c := range []policy.Chain{p.Egress, p.Ingress} {
			if err := checkChain(c, s.Rules); err != nil {
				t.Fatalf("%+v: %v", s, err)
			}
		}
	}
}

func checkChain(c policy.Chain, rules int) error {
	if len(c.Rules) != rules || c.Default != policy.Drop {
		return fmt.Errorf("%d rules, default %v", len(c.Rules), c.Default)
	}
	for i, r := range c.Rules {
		switch {
		case i == rules-1:
			if r.Action != policy.Accept || r.Proto != policy.AnyProto {
				return fmt.Errorf("the last rule is %+v", r)
			}
		case len(r.Ports) == 0 || r.Action != policy.Drop:
			return fmt.Errorf("rule %d is %+v", i, r)
		default:
			for _, p := range r.Ports {
				if p.First <= max(tcpPort, udpPort, connectPort, firstFar+farPorts-1) {
					return fmt.Errorf("rule %d concerns port %d, which is measured", i, p.First)
				}
			}
		}
	}
	return nil
}

// As many flows as are ever measured have ends of their own, in the prefix that is thrown away.
func TestFar(t *testing.T) {
	for f, prefix := range map[family]netip.Prefix{ipv4: far4, ipv6: far6} {
		seen := make(map[netip.AddrPort]bool)
		for n := range 1_000_000 {
			a := far(f, n)
			if seen[a] || !prefix.Contains(a.Addr()) || a.Addr() == prefix.Addr() {
				t.Fatalf("flow %d ends at %s", n, a)
			}
			seen[a] = true
		}
	}
}

func TestSelect(t *testing.T) {
	var names []string
	for _, m := range selected(measures(), regexp.MustCompile("^(tcp/6/down|ping/4/load)")) {
		names = append(names, m.name)
	}
	want := []string{"tcp/6/down/1", "tcp/6/down/8", "ping/4/load-up", "ping/4/load-down"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
	all := make(map[string]bool)
	for _, m := range measures() {
		if all[m.name] {
			t.Errorf("%s is there twice", m.name)
		}
		all[m.name] = true
	}
}

// Each measure is done with all contestants before the next, in every other round from the last to the first.
func TestRounds(t *testing.T) {
	cs := contestants([]program{{"a", "/a"}})
	var order []string
	list := []measure{
		{name: "m", columns: []column{{"m/1", "", false}, {"m/2", "", false}}},
		{name: "n", columns: []column{{"n", "", false}}},
	}
	for i, m := range list {
		list[i].run = func(_ context.Context, c *contestant, d time.Duration) ([]float64, error) {
			order = append(order, m.name+" "+c.name)
			v := make([]float64, len(m.columns))
			for j := range v {
				v[j] = float64(10*len(order) + j)
			}
			return v, nil
		}
	}
	rows, err := rounds{n: 2, time: time.Second, progress: io.Discard}.run(t.Context(), list, cs)
	if err != nil {
		t.Fatal(err)
	}
	wantOrder := []string{
		"m kernel", "m kernel+nft", "m a", "m a+ebpf", "n kernel", "n kernel+nft", "n a", "n a+ebpf",
		"m a+ebpf", "m a", "m kernel+nft", "m kernel", "n a+ebpf", "n a", "n kernel+nft", "n kernel",
	}
	if diff := cmp.Diff(wantOrder, order); diff != "" {
		t.Error(diff)
	}
	var values [][][]float64
	for _, r := range rows {
		values = append(values, r.values)
	}
	want := [][][]float64{{{10, 120}, {20, 110}, {30, 100}, {40, 90}}, {{11, 121}, {21, 111}, {31, 101}, {41, 91}}, {{50, 160}, {60, 150}, {70, 140}, {80, 130}}}
	if diff := cmp.Diff(want, values); diff != "" {
		t.Error(diff)
	}
}

// A measurement that fails ends the run, and says which.
func TestRoundsFail(t *testing.T) {
	broken := errors.New("broken")
	m := measure{name: "m", columns: []column{{"m", "", false}}, run: func(context.Context, *contestant, time.Duration) ([]float64, error) {
		return nil, broken
	}}
	_, err := rounds{n: 1, time: time.Second, progress: io.Discard}.run(t.Context(), []measure{m}, contestants(nil))
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "measuring m of kernel") {
		t.Errorf("%v", err)
	}
}

func TestParse(t *testing.T) {
	for _, row := range []struct {
		args string
		ok   bool
	}{
		{"", true},
		{"--program a=/x --program b=/y --rounds 1 --time 1s --only tcp --contestants a|b --scaling --json --svg f", true},
		{"--program a", false}, {"--program =x", false}, {"--rounds 0", false}, {"--senders 0", false}, {"--time 0s", false}, {"--only (", false}, {"more", false},
		{"--program a=/x --program b=/y --reload --flows 128 --json", true}, {"--reload --flows 127", false}, {"--reload --scaling", false}, {"--reload --svg f", false},
	} {
		o, err := parse(strings.Fields(row.args), io.Discard)
		if (err == nil) != row.ok {
			t.Errorf("%q: %v", row.args, err)
		}
		if row.ok && row.args != "" && !cmp.Equal(o.programs, []program{{"a", "/x"}, {"b", "/y"}}, cmp.AllowUnexported(program{})) {
			t.Errorf("%q: %v", row.args, o.programs)
		}
	}
}

// example is a report with all that a report can have, and what it can lack.
func example() *report {
	return &report{
		Facts: []fact{{"CPU", "one"}, {"date", "today"}},
		Names: []string{"kernel", base, "a<b"}, Base: 1,
		Rows: []row{
			{column{"tcp/4/up/1", "Gbit/s", false}, [][]float64{{20, 40}, {10, 20}, {5, 5}}},
			{column{"ping/4/idle/p50", "us", true}, [][]float64{{10}, {20}, {45.5}}},
			{column{restMemory, "MiB", true}, [][]float64{nil, nil, {37.25}}},
		},
		Scaling: []scaled{{
			name: "rules", values: []int{10, 100}, names: []string{base, "a<b"},
			rows: []row{{column{"connect/4/up", "conn/s", false}, [][]float64{{1000}, {500}, {400}, {400}}}},
		}},
	}
}

func TestTable(t *testing.T) {
	var b bytes.Buffer
	if err := example().write(&b); err != nil {
		t.Fatal(err)
	}
	want := `CPU: one
date: today

figure           unit    kernel  kernel+nft  a<b   kernel / kernel+nft  a<b / kernel+nft
tcp/4/up/1       Gbit/s  30.0    15.0        5.00  2.00 (2.00-2.00)     0.38 (0.25-0.50)
ping/4/idle/p50  us      10.0    20.0        45.5  0.50 (0.50-0.50)     2.27 (2.27-2.27)
rest/rss         MiB     -       -           37.2  -                    -
ping/4/idle/p50: kernel - kernel+nft = -10.0 us
ping/4/idle/p50: a<b - kernel+nft = +25.5 us

figure        unit    contestant  10 rules     100 rules
connect/4/up  conn/s  kernel+nft  1000 (1.00)  500 (0.50)
connect/4/up  conn/s  a<b         400 (1.00)   400 (1.00)
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestJSON(t *testing.T) {
	var b bytes.Buffer
	if err := example().writeJSON(&b); err != nil {
		t.Fatal(err)
	}
	var got jsonReport
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := jsonFigure{"tcp/4/up/1", "Gbit/s", false, map[string]jsonValue{
		"kernel": {Rounds: []float64{20, 40}, Median: 30, Ratio: &jsonRatio{2, 2, 2}},
		base:     {Rounds: []float64{10, 20}, Median: 15},
		"a<b":    {Rounds: []float64{5, 5}, Median: 5, Ratio: &jsonRatio{0.375, 0.25, 0.5}},
	}}
	if diff := cmp.Diff(want, got.Figures[0]); diff != "" {
		t.Error(diff)
	}
	if n := len(got.Figures[2].Values); n != 1 {
		t.Errorf("%d have a memory, want 1", n)
	}
	if v := got.Scaling[0].Figures[0].Values[1]; v.Of != 100 || v.Ratio.Median != 0.5 {
		t.Errorf("scaling has %+v", v)
	}
}

// The plot is XML with a bar for each ratio of a figure of which more is better, as long as that says, and words for all.
func TestPlot(t *testing.T) {
	text := example().plot()
	bars := 0
	for d := xml.NewDecoder(bytes.NewReader(text)); ; {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		if e, ok := tok.(xml.StartElement); ok && e.Name.Local == "rect" {
			bars++
		}
	}
	if bars != 2+2 { // and two in the legend
		t.Errorf("%d rectangles", bars)
	}
	for _, want := range []string{`width="480"`, `width="90"`, "TCP, IPv4 up, flows: 1", "a&lt;b", `class="one"`, "prefers-color-scheme: dark"} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("there is no %s", want)
		}
	}
	if bytes.Contains(text, []byte("NaN")) || bytes.Contains(text, []byte("ping")) {
		t.Error("there is a bar for what is none")
	}
}
