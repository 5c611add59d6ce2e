package conformance

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"udrouter/integration/cases"
	"udrouter/integration/wire"
)

// outcome is what ran and passed.
type outcome struct {
	rows  []bool          // of cases.All, in its order
	tests map[string]bool // "package.TestX"
}

// shows is what of a requirement's rows and tests passed, and what did not or was not run.
func (o outcome) shows(r requirement, rows []cases.Case) (passed int, not []string) {
	selects := r.selects()
	for i, c := range rows {
		switch {
		case !selects(c):
		case o.rows[i]:
			passed++
		default:
			not = append(not, "row "+c.Name)
		}
	}
	for _, name := range strings.Fields(r.tests) {
		if !o.tests[name] {
			not = append(not, name)
		}
	}
	return passed, not
}

// about is what the RFCs are about.
var about = map[int]string{
	1027: "proxy ARP", 1812: "IPv4 routers", 4389: "Neighbor Discovery proxies", 4443: "ICMPv6", 4861: "Neighbor Discovery", 4890: "filtering of ICMPv6",
	5227: "IPv4 address conflicts", 6980: "fragments of Neighbor Discovery", 8200: "IPv6", 8504: "IPv6 nodes",
}

// table is what an outcome makes of the requirements. Nothing is met, nor done instead, unless all that shows it has passed; missing is what has not.
func (o outcome) table() (text string, missing []string) {
	var b, body strings.Builder
	rows := cases.All()
	for i := 0; i < len(requirements); {
		rfc := requirements[i].rfc
		var met, partly, not int
		fmt.Fprintf(&body, "\n## RFC %d, %s\n\n| section | level | requirement | met | shown by |\n|---|---|---|---|---|\n", rfc, about[rfc])
		for ; i < len(requirements) && requirements[i].rfc == rfc; i++ {
			r := requirements[i]
			n, failed := o.shows(r, rows)
			var verdict string
			switch {
			case len(failed) > 0:
				not++
				verdict = "not shown: " + strings.Join(failed, ", ")
				missing = append(missing, fmt.Sprintf("%s: %s", r, verdict))
			case r.not == "":
				met++
				verdict = "yes"
			case strings.HasPrefix(r.not, "but "):
				partly++
				verdict = "yes, " + r.not
			default:
				not++
				verdict = "no: " + r.not
			}
			fmt.Fprintf(&body, "| %s | %s | %s | %s | %s |\n", r.section, r.level, r.text, verdict, shownBy(r, n))
		}
		fmt.Fprintf(&b, "| RFC %d, %s | %d | %d | %d | %d |\n", rfc, about[rfc], met+partly+not, met, partly, not)
	}
	return o.sum() + "\n| | requirements | met | in part | not |\n|---|---|---|---|---|\n" + b.String() + body.String(), missing
}

// sum says what passed.
func (o outcome) sum() string {
	rows, tests := 0, 0
	for _, ok := range o.rows {
		if ok {
			rows++
		}
	}
	for _, ok := range o.tests {
		if ok {
			tests++
		}
	}
	return fmt.Sprintf("\n%d rows and %d tests passed in the run that this is made of.\n", rows, tests)
}

func shownBy(r requirement, rows int) string {
	list := strings.Fields(r.tests)
	if rows > 0 {
		list = slices.Insert(list, 0, fmt.Sprintf("%d %s", rows, map[bool]string{true: "row", false: "rows"}[rows == 1]))
	}
	return strings.Join(list, ", ")
}

// keep holds a document against an outcome, or has it say what the outcome is, which it may only if nothing is missing.
func keep(path string, o outcome, update bool) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	head, old, ok := strings.Cut(string(b), start)
	if !ok {
		return fmt.Errorf("%s has no line %q", path, start)
	}
	table, missing := o.table()
	if len(missing) > 0 {
		return fmt.Errorf("%s stays as it is: of %d requirements not all that shows them has passed:\n%s", path, len(missing), strings.Join(missing, "\n"))
	}
	if update {
		return os.WriteFile(path, []byte(head+start+table), 0o644)
	}
	if table == old {
		return nil
	}
	was, is := strings.Split(old, "\n"), strings.Split(table, "\n")
	err = errors.New("it is longer or shorter")
	for i := range min(len(was), len(is)) {
		if was[i] != is[i] {
			err = fmt.Errorf("it says\n%s\nand the run\n%s", was[i], is[i])
			break
		}
	}
	return fmt.Errorf("%s is out of date, %w; the remedy is %s", path, err, again)
}

// The document says what a run was: what has failed or was not run is neither met nor written, and a "yes" by hand is found.
func TestDocumentIsOfARun(t *testing.T) {
	all := func() outcome {
		o := outcome{rows: make([]bool, len(cases.All())), tests: map[string]bool{}}
		for i := range o.rows {
			o.rows[i] = true
		}
		for _, name := range testNames() {
			o.tests[name] = true
		}
		return o
	}
	path := filepath.Join(t.TempDir(), file)
	text := func() string {
		b, err := os.ReadFile(path)
		wire.Must(t, err)
		return string(b)
	}
	wire.Must(t, os.WriteFile(path, []byte("head\n"+start+"old"), 0o644))
	if err := keep(path, all(), false); err == nil {
		t.Error("an old document is taken for that of a run")
	}
	wire.Must(t, keep(path, all(), true))
	whole := text()
	for name, spoil := range map[string]func(o outcome){
		"a row did not pass":      func(o outcome) { o.rows[slices.IndexFunc(cases.All(), requirements[1].selects())] = false },
		"a test failed":           func(o outcome) { o.tests["policy.TestTruncation"] = false },
		"a test was not run":      func(o outcome) { delete(o.tests, "router.TestMTU") },
		"what is done instead":    func(o outcome) { o.tests["dom0.TestBroadcastIsHeld"] = false },
		"a part of what is shown": func(o outcome) { delete(o.tests, "router.TestErrorSource") },
	} {
		o := all()
		spoil(o)
		table, missing := o.table()
		if len(missing) == 0 || strings.Count(table, "| not shown: ") != len(missing) || strings.Count(table, "| yes")+strings.Count(table, "| no: ") != len(requirements)-len(missing) {
			t.Errorf("%s: %d are missing, %q; the table says\n%s", name, len(missing), cmp.Or(missing...), table)
		}
		if err := keep(path, o, true); err == nil || text() != whole {
			t.Errorf("%s: -update: %v, and the document is another: %v", name, err, text() != whole)
		}
	}
	wire.Must(t, os.WriteFile(path, []byte(strings.Replace(whole, "| no: ", "| yes, ", 1)), 0o644))
	if err := keep(path, all(), false); err == nil {
		t.Error("a yes by hand is not found")
	}
}
