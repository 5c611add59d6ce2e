// Package conformance holds the router against the RFCs: what each wants of a router, or of what proxies for others, as a row that tests show to be
// met, or that says why it is not. CONFORMANCE.md is made of it.
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
	update = flag.Bool("update", false, "rewrite CONFORMANCE.md")
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

// The rows that requirements name, over real links: exactly what is expected is seen, and counted.
func TestRows(t *testing.T) {
	wanted := func(cases.Case) bool { return false }
	for _, r := range requirements {
		before, selects := wanted, r.selects()
		wanted = func(c cases.Case) bool { return before(c) || selects(c) }
	}
	for _, enforced := range []bool{false, true} {
		src := cases.Open(config.Reference)
		if enforced {
			src = string(config.Reference)
		}
		var rows []cases.Case
		for _, c := range cases.All() {
			if c.Enforced == enforced && wanted(c) {
				rows = append(rows, c)
			}
		}
		wire.New(t, src).RunAll(t, rows)
	}
}

// The tests of other packages that requirements name.
func TestElsewhere(t *testing.T) {
	if !*all {
		return
	}
	var names []string
	for _, r := range requirements {
		names = append(names, strings.Fields(r.tests)...)
	}
	wire.RunElsewhere(t, names)
}

const (
	file  = "CONFORMANCE.md"
	start = "<!-- TestTable writes what follows -->\n"
)

// CONFORMANCE.md is what the requirements say.
func TestTable(t *testing.T) {
	b, err := os.ReadFile(file)
	wire.Must(t, err)
	head, old, ok := strings.Cut(string(b), start)
	if !ok {
		t.Fatalf("%s has no line %q", file, start)
	}
	table := writeTable()
	if *update {
		wire.Must(t, os.WriteFile(file, []byte(head+start+table), 0o644))
		return
	}
	if table != old {
		was, is := strings.Split(old, "\n"), strings.Split(table, "\n")
		for i := range min(len(was), len(is)) {
			if was[i] != is[i] {
				t.Fatalf("%s is out of date: go test ./integration/conformance -run TestTable -update\n got %q\nwant %q", file, was[i], is[i])
			}
		}
		t.Fatalf("%s is out of date: go test ./integration/conformance -run TestTable -update", file)
	}
}

// about is what the RFCs are about.
var about = map[int]string{
	1027: "proxy ARP", 1812: "IPv4 routers", 4389: "Neighbor Discovery proxies", 4443: "ICMPv6", 4861: "Neighbor Discovery", 4890: "filtering of ICMPv6",
	5227: "IPv4 address conflicts", 6980: "fragments of Neighbor Discovery", 8200: "IPv6", 8504: "IPv6 nodes",
}

func writeTable() string {
	var b, body strings.Builder
	b.WriteString("\n| | requirements | met | in part | not |\n|---|---|---|---|---|\n")
	rows := cases.All()
	for i := 0; i < len(requirements); {
		rfc := requirements[i].rfc
		var met, partly, not int
		fmt.Fprintf(&body, "\n## RFC %d, %s\n\n| section | level | requirement | met | shown by |\n|---|---|---|---|---|\n", rfc, about[rfc])
		for ; i < len(requirements) && requirements[i].rfc == rfc; i++ {
			r := requirements[i]
			n, selects := 0, r.selects()
			for _, c := range rows {
				if selects(c) {
					n++
				}
			}
			shown := strings.ReplaceAll(r.tests, " ", ", ")
			if n > 0 {
				shown = strings.TrimSuffix(fmt.Sprintf("%d rows, %s", n, shown), ", ")
			}
			verdict := "yes"
			switch {
			case r.not == "":
				met++
			case strings.HasPrefix(r.not, "but "):
				partly++
				verdict = "yes, " + r.not
			default:
				not++
				verdict = "no: " + r.not
			}
			fmt.Fprintf(&body, "| %s | %s | %s | %s | %s |\n", r.section, r.level, r.text, verdict, shown)
		}
		fmt.Fprintf(&b, "| RFC %d, %s | %d | %d | %d | %d |\n", rfc, about[rfc], met+partly+not, met, partly, not)
	}
	return b.String() + body.String()
}
