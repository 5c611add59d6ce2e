package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"udrouter/integration/cases"
	"udrouter/integration/wire"
)

var update = flag.Bool("update", false, "rewrite the tables of attacks from a run")

// result is what became of an attack's hostile rows.
type result struct {
	rows           int
	kernel, router int // that came through
	kernelTo       harm
}

// Every hostile row is sent for real into two networks: one where dom0's kernel is the router, as the reference sets it up, and one
// with the router under test. The witnesses are the same, and what counts as coming through (see stage.suffer). With the router nothing
// does, and the neighbours' traffic goes on; the README's table tells of both.
func TestAttackTable(t *testing.T) {
	results := map[int]*result{}
	of := func(c cases.Case) *result {
		r := results[c.Attack()]
		if r == nil {
			r = &result{}
			results[c.Attack()] = r
		}
		return r
	}
	kernel := newStage(t, sourceOf(false), true)
	for _, c := range cases.All() {
		if !hostile(c) {
			continue
		}
		t.Run("kernel/"+c.Name, func(t *testing.T) {
			h, what := kernel.suffer(t, c)
			r := of(c)
			r.rows++
			if h != (harm{}) {
				r.kernel++
				r.kernelTo = r.kernelTo.or(h)
				t.Logf("%s: through the kernel to %s\n%s", c.Ref, h, strings.Join(what, "\n"))
			}
		})
	}
	for _, enforced := range []bool{false, true} {
		router := newStage(t, sourceOf(enforced), false)
		for _, c := range cases.All() {
			if !hostile(c) || c.Enforced != enforced {
				continue
			}
			t.Run("udrouter/"+c.Name, func(t *testing.T) {
				if h, what := router.suffer(t, c); h != (harm{}) {
					of(c).router++
					t.Errorf("%s: through udrouter to %s\n%s", c.Ref, h, strings.Join(what, "\n"))
				}
			})
		}
		router.T = t
		router.Canary()
		for _, a := range router.Lab.Internet.Addrs {
			wire.Ping(t, router.honest.Node, a.Addr())
		}
	}
	var all harm
	for _, r := range results {
		all = all.or(r.kernelTo)
	}
	if !all.neighbour || !all.provider || !all.dom0 {
		t.Errorf("at the kernel only %s were reached: a witness that sees nothing there proves nothing", all)
	}
	if !t.Failed() {
		compareTable(t, results)
	}
}

const tableStart, tableEnd = "<!-- attacks: TestAttackTable writes it -->\n", "\n### What it does not stop\n"

// compareTable holds the README's table against a run: what is sent, and that nothing comes through udrouter. What comes through the
// kernel is the kernel's, and may differ in another version.
func compareTable(t *testing.T, results map[int]*result) {
	const readme = "../../README.md"
	b, err := os.ReadFile(readme)
	wire.Must(t, err)
	text := string(b)
	head, rest, ok := strings.Cut(text, tableStart)
	old, tail, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		t.Fatal("README has no table of attacks")
	}
	table := writeTable(results)
	if *update {
		wire.Must(t, os.WriteFile(readme, []byte(head+tableStart+table+tableEnd+tail), 0o644))
		return
	}
	was, is := strings.Split(old, "\n"), strings.Split(table, "\n")
	for i := range max(len(was), len(is)) {
		switch {
		case i >= len(was) || i >= len(is) || withoutKernel(was[i]) != withoutKernel(is[i]):
			t.Fatalf("README's table of attacks is out of date: go test ./integration/attacks -run TestAttackTable -update\n got %q\nwant %q",
				was[min(i, len(was)-1)], is[min(i, len(is)-1)])
		case was[i] != is[i]:
			t.Logf("this kernel is another than README's: %s", is[i])
		}
	}
}

func withoutKernel(line string) string {
	cells := strings.Split(line, "|")
	if len(cells) < 6 {
		return line
	}
	cells[4] = ""
	return strings.Join(cells, "|")
}

func writeTable(results map[int]*result) string {
	var b strings.Builder
	b.WriteString("| case | attack | rows | through the kernel, to | through udrouter |\n|---|---|---|---|---|\n")
	var sum result
	for _, a := range cases.Attacks {
		r := results[a.Number]
		if r == nil {
			continue
		}
		through := "0"
		if r.kernel > 0 {
			through = fmt.Sprintf("%d: %s", r.kernel, r.kernelTo)
		}
		fmt.Fprintf(&b, "| %d | %s | %d | %s | %d |\n", a.Number, a.Title, r.rows, through, r.router)
		sum.rows, sum.kernel, sum.router = sum.rows+r.rows, sum.kernel+r.kernel, sum.router+r.router
	}
	fmt.Fprintf(&b, "| | all | %d | %d | %d |\n", sum.rows, sum.kernel, sum.router)
	return b.String()
}
