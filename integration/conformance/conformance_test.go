// Package conformance holds the router against the RFCs: what each wants of a router, or of what proxies for others, as a row that tests show to be
// met, or that says why it is not. CONFORMANCE.md is made of a run of them.
package conformance

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/integration/wire"
)

var (
	update = flag.Bool("update", false, "run all, and rewrite CONFORMANCE.md if all has passed")
	all    = flag.Bool("all", false, "run the tests of other packages as well, which the go command runs anyway with ./...")
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(wire.Main(m))
}

// selects tells which rows a requirement is shown by.
func (r requirement) selects() func(cases.Case) bool {
	type selector struct {
		attack int
		name   *regexp.Regexp
	}
	var list []selector
	for s := range strings.SplitSeq(r.rows, "; ") {
		if n, name, ok := strings.Cut(s, ":"); ok {
			attack, err := strconv.Atoi(n)
			if err != nil {
				panic(err) // a mistake in the rows of this package
			}
			list = append(list, selector{attack, regexp.MustCompile(name)})
		}
	}
	return func(c cases.Case) bool {
		return slices.ContainsFunc(list, func(s selector) bool { return c.Attack() == s.attack && s.name.MatchString(c.Name) })
	}
}

func (r requirement) String() string { return fmt.Sprintf("RFC %d %s: %s", r.rfc, r.section, r.text) }

// Each requirement is shown by something that there is, or says why it is not met, and each selector finds a row.
func TestRequirementsHaveTests(t *testing.T) {
	rows := cases.All()
	for _, r := range requirements {
		if r.rows == "" && r.tests == "" && r.not == "" {
			t.Errorf("%s: nothing shows it", r)
		}
		if !slices.Contains([]string{must, should, may}, r.level) || strings.HasSuffix(r.text, ".") || strings.HasSuffix(r.not, ".") {
			t.Errorf("%s: %s, %q", r, r.level, r.not)
		}
		for s := range strings.SplitSeq(r.rows, "; ") {
			if one := (requirement{rows: s}); s != "" && !slices.ContainsFunc(rows, one.selects()) {
				t.Errorf("%s: no row is %q", r, s)
			}
		}
		for _, name := range strings.Fields(r.tests) {
			if !wire.TestExists(t, name) {
				t.Errorf("%s: there is no %s", r, name)
			}
		}
	}
}

// What requirements name is run: rows over real links, where exactly what is expected is seen and counted, and with -all the tests of other
// packages. CONFORMANCE.md is what such a run makes.
func TestConformance(t *testing.T) {
	o := outcome{rows: runRows(t), tests: map[string]bool{}}
	switch names := testNames(); {
	case *all || *update:
		o.tests = wire.RunElsewhere(t, names)
	default: // the go command runs them; here the document is held against a run in which they pass
		for _, name := range names {
			o.tests[name] = true
		}
	}
	if t.Failed() {
		t.Fatalf("%s is made of runs that pass, and stays as it is", file)
	}
	wire.Must(t, keep(file, o, *update))
}

// runRows tells of each row of the cases whether it was run and passed.
func runRows(t *testing.T) []bool {
	rows := cases.All()
	passed := make([]bool, len(rows))
	for _, enforced := range []bool{false, true} {
		src := cases.Open(config.Reference)
		if enforced {
			src = string(config.Reference)
		}
		var some []cases.Case
		var at []int
		for i, c := range rows {
			if c.Enforced == enforced && slices.ContainsFunc(requirements, func(r requirement) bool { return r.selects()(c) }) {
				some, at = append(some, c), append(at, i)
			}
		}
		for i, ok := range wire.New(t, src).RunAll(t, some) {
			passed[at[i]] = ok
		}
	}
	return passed
}

// testNames are the tests of other packages that requirements name.
func testNames() (names []string) {
	for _, r := range requirements {
		names = append(names, strings.Fields(r.tests)...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

const (
	file  = "CONFORMANCE.md"
	start = "<!-- TestConformance -update writes what follows -->\n"
	again = "sudo go test ./integration/conformance -timeout 20m -args -update"
)
