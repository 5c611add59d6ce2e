package main

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"udrouter/integration/cases"
	"udrouter/integration/wire"
	"udrouter/policy"
)

var update = flag.Bool("update", false, "rewrite the tables of attacks from a run")

// result is what became of a hostile row: who was reached through the kernel, and through the router under test; nil: it was not sent there.
type result struct{ kernel, router *harm }

// Every hostile row is sent for real into two networks: one where dom0's kernel is the router, as the reference sets it up, and one
// with the router under test. The witnesses are the same, and what counts as coming through (see stage.suffer). With the router nothing
// does, and the neighbours' traffic goes on; the tables of README and ATTACKS.md tell of both.
func TestAttackTable(t *testing.T) {
	all := cases.All()
	results := make([]result, len(all))
	kernel := newStage(t, sourceOf(false), true)
	for i, c := range all {
		if !hostile(c) {
			continue
		}
		t.Run("kernel/"+c.Name, func(t *testing.T) {
			h, what := kernel.suffer(t, c)
			results[i].kernel = &h
			if h != (harm{}) {
				t.Logf("%s: through the kernel to %s\n%s", c.Ref, h, strings.Join(what, "\n"))
			}
		})
	}
	for _, enforced := range []bool{false, true} {
		router := newStage(t, sourceOf(enforced), false)
		for i, c := range all {
			if !hostile(c) || c.Enforced != enforced {
				continue
			}
			t.Run("udrouter/"+c.Name, func(t *testing.T) {
				h, what := router.suffer(t, c)
				if results[i].router = &h; h != (harm{}) {
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
	flooded := runFloods(t, "")
	held := runFloods(t, wire.Exe)
	if t.Failed() {
		return
	}
	if what := missing(all, results, flooded, held); what != "" {
		if *update {
			t.Fatalf("the tables are of a run of all rows, and this was not sent: %s", what)
		}
		t.Logf("not held against the tables, since this was not sent: %s", what)
		return
	}
	var reached harm
	for _, r := range results {
		if r.kernel != nil {
			reached = reached.or(*r.kernel)
		}
	}
	if kernel.strayed == 0 {
		t.Error("no connection's packet went astray at the kernel: who looks for them and sees none proves nothing")
	}
	if !reached.neighbour || !reached.provider || !reached.dom0 {
		t.Errorf("at the kernel only %s were reached: a witness that sees nothing there proves nothing", reached)
	}
	if t.Failed() {
		return
	}
	compare(t, "../../README.md", "<!-- attacks: TestAttackTable writes it -->\n", "\n### What it does not stop\n", writeTable(all, results), 4)
	compare(t, "ATTACKS.md", "<!-- TestAttackTable writes what follows -->\n", "", writeParts(all, results, flooded), 5)
}

// compare holds what a file has between two lines against a run. What comes through the kernel, in one cell of each row, is the kernel's, and
// may differ in another version.
func compare(t *testing.T, file, start, end, table string, kernels int) {
	b, err := os.ReadFile(file)
	wire.Must(t, err)
	head, rest, ok := strings.Cut(string(b), start)
	if !ok {
		t.Fatalf("%s has no table of attacks", file)
	}
	old, tail := rest, ""
	if end != "" {
		if old, tail, ok = strings.Cut(rest, end); !ok {
			t.Fatalf("%s: the table of attacks has no end", file)
		}
	}
	if *update {
		wire.Must(t, os.WriteFile(file, []byte(head+start+table+end+tail), 0o644))
		return
	}
	was, is := strings.Split(old, "\n"), strings.Split(table, "\n")
	for i := range max(len(was), len(is)) {
		switch {
		case i >= len(was) || i >= len(is) || withoutCell(was[i], kernels) != withoutCell(is[i], kernels):
			t.Fatalf("%s is out of date: go test ./integration/attacks -run TestAttackTable -update\n got %q\nwant %q", file, was[min(i, len(was)-1)], is[min(i, len(is)-1)])
		case was[i] != is[i]:
			t.Logf("this kernel is another than that of %s: %s", file, is[i])
		}
	}
}

func withoutCell(line string, n int) string {
	cells := strings.Split(line, "|")
	if len(cells) <= n {
		return line
	}
	cells[n] = ""
	return strings.Join(cells, "|")
}

// sums are results of several rows.
type sums struct {
	rows, kernel, router int // sent, and through
	kernelTo             harm
}

func (s *sums) add(r result) {
	if r.kernel == nil || r.router == nil {
		return
	}
	s.rows++
	if *r.kernel != (harm{}) {
		s.kernel++
		s.kernelTo = s.kernelTo.or(*r.kernel)
	}
	if *r.router != (harm{}) {
		s.router++
	}
}

func (s *sums) throughKernel() string {
	if s.kernel == 0 {
		return "0"
	}
	return fmt.Sprintf("%d: %s", s.kernel, s.kernelTo)
}

func writeTable(all []cases.Case, results []result) string {
	var b strings.Builder
	b.WriteString("| case | attack | rows | through the kernel, to | through udrouter |\n|---|---|---|---|---|\n")
	var total sums
	for _, a := range cases.Attacks {
		var s sums
		for i, c := range all {
			if c.Attack() == a.Number {
				s.add(results[i])
			}
		}
		if s.rows == 0 {
			continue
		}
		fmt.Fprintf(&b, "| %d | %s | %d | %s | %d |\n", a.Number, a.Title, s.rows, s.throughKernel(), s.router)
		total.rows, total.kernel, total.router = total.rows+s.rows, total.kernel+s.kernel, total.router+s.router
	}
	fmt.Fprintf(&b, "| | all | %d | %d | %d |\n", total.rows, total.kernel, total.router)
	return b.String()
}

// missing names something that a run of all would have sent.
func missing(all []cases.Case, results []result, flooded, held []*outcome) string {
	for i, c := range all {
		if r := results[i]; hostile(c) && (r.kernel == nil || r.router == nil) {
			return c.Name
		}
	}
	for i, f := range floods {
		if flooded[i] == nil || held[i] == nil {
			return "the flood of " + f.args
		}
	}
	return ""
}

// throughKernel is a part's cell: what came through of its hostile rows, who came to harm by its floods, or why there is nothing to tell.
func throughKernel(p part, rows int, s sums, flooded []*outcome) string {
	if s.rows > 0 {
		return s.throughKernel()
	}
	if rows > 0 {
		return "must pass"
	}
	harm, is := map[string]bool{}, false
	for i, f := range floods {
		if !f.of(p) {
			continue
		}
		is = true
		for _, h := range flooded[i].harm() {
			harm[h] = true
		}
	}
	if is {
		return "flood: " + cmp.Or(words(harm), "0")
	}
	return "not compared: " + notCompared[p.attack]
}

// notCompared tells of attacks why parts of theirs are neither sent as rows nor as floods to the kernel.
var notCompared = map[int]string{
	1:  "it binds no port",
	3:  "it is dom0's kernel itself",
	13: "the sizes of packets are dom0's own there",
	15: "checksums are dom0's own there",
	32: "as of a routed network",
	67: "no attack",
	68: "not sent",
	72: "it has no shares",
	73: "its links are dom0's own",
	75: "its links are dom0's own",
	76: "it has no such socket",
	77: "there is no process",
	78: "there is no file",
	79: "there is no process",
	80: "there is no file",
}

// writeParts is the list of all attacks in detail, by sections.
func writeParts(all []cases.Case, results []result, flooded []*outcome) string {
	var b strings.Builder
	for _, section := range cases.Sections {
		fmt.Fprintf(&b, "\n## %s. %s\n", section.Letter, section.Title)
		for _, a := range cases.Attacks {
			if a.Section != section.Letter {
				continue
			}
			fmt.Fprintf(&b, "\n**%d. %s** (%s).", a.Number, a.Title, a.Source)
			if a.Departs != "" {
				fmt.Fprintf(&b, " %s.", a.Departs)
			}
			b.WriteString("\n\n| what | from | expected | rows | through the kernel, to | tests |\n|---|---|---|---|---|---|\n")
			for _, p := range parts {
				if p.attack != a.Number {
					continue
				}
				n, s, from, expected := 0, sums{}, map[string]bool{}, map[string]bool{}
				for i, c := range all {
					if !p.has(c) {
						continue
					}
					n++
					s.add(results[i])
					from[place(c.From)] = true
					expected[expectation(c)] = true
				}
				through := throughKernel(p, n, s, flooded)
				tests := strings.ReplaceAll(p.tests, " ", ", ")
				if p.not != "" {
					tests = "none: " + p.not
				}
				fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", p.what, words(from), words(expected), number(n), through, tests)
			}
		}
	}
	b.WriteString("\n## Tools and others' tests\n\nCommand lines are those of TOOLS.md. Where others have tests of their own, their packets are rows.\n\n| what | command lines | attacks whose rows send the same | tests |\n|---|---|---|---|\n")
	for _, s := range sets {
		n := 0
		for _, t := range tools {
			if s.has(t) {
				n++
			}
		}
		var attacks []string
		for _, a := range s.attacks {
			attacks = append(attacks, fmt.Sprint(a))
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", s.what, number(n), strings.Join(attacks, ", "), strings.ReplaceAll(s.tests, " ", ", "))
	}
	return b.String()
}

func number(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func place(p cases.Place) string {
	switch p {
	case cases.One:
		return "guest"
	case cases.Two:
		return "neighbour"
	}
	return string(p)
}

// expectation is what must become of a row: what is counted, or that it passes, is answered, or is left alone.
func expectation(c cases.Case) string {
	switch {
	case c.Reason != policy.None && len(c.Out) > 0 && c.Out[0].At == c.From:
		return "`" + c.Reason.String() + "`, told"
	case c.Reason != policy.None:
		return "`" + c.Reason.String() + "`"
	case c.Kernel:
		return "dom0 answers"
	case len(c.Out) == 0:
		return "silence"
	case c.Out[0].At == c.From:
		return "answered"
	}
	return "passes"
}
