package main

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"udrouter/integration/cases"
	"udrouter/integration/wire"
)

// source is what an attack or a row refers to: an RFC with its section, one that is about nothing else, or something else that has a name.
var source = regexp.MustCompile(`RFC [0-9]+ [0-9]|packet\(7\)|systemd\.service\(5\)|RFC (826|1042|1858|3046|3128|5095|6105|6918)\b|CVE-[0-9]+-[0-9]+|IEEE 802|VU#[0-9]+`)

// Every attack has a source and parts, every part something that sends it, and every row of an attack a part.
func TestAttacksHaveTests(t *testing.T) {
	known := map[int]bool{0: true}
	for _, a := range cases.Attacks {
		known[a.Number] = true
		if !source.MatchString(a.Source) {
			t.Errorf("attack %d, %s, has no source but %q", a.Number, a.Title, a.Source)
		}
		if strings.TrimRight(a.Departs, " .,;:") != a.Departs {
			t.Errorf("attack %d, %s, departs without an end: %q", a.Number, a.Title, a.Departs)
		}
		if !slices.ContainsFunc(cases.Sections, func(s struct{ Letter, Title string }) bool { return s.Letter == a.Section }) {
			t.Errorf("attack %d is in no section", a.Number)
		}
		if !slices.ContainsFunc(parts, func(p part) bool { return p.attack == a.Number }) {
			t.Errorf("attack %d, %s, has no part", a.Number, a.Title)
		}
	}
	all := cases.All()
	for _, p := range parts {
		switch {
		case !known[p.attack]:
			t.Errorf("attack %d of %q is not in the catalogue", p.attack, p.what)
		case p.rows != "" && !slices.ContainsFunc(all, p.has):
			t.Errorf("attack %d, %s: no row is named like %q", p.attack, p.what, p.rows)
		case p.rows == "" && !slices.ContainsFunc(floods, func(f flood) bool { return f.of(p) }) && notCompared[p.attack] == "":
			t.Errorf("attack %d, %s: nothing is known of the kernel, nor why", p.attack, p.what)
		case (p.rows == "" && p.tests == "") != (p.not != ""):
			t.Errorf("attack %d, %s: something sends it, or there is a reason why not", p.attack, p.what)
		}
		for _, name := range p.testNames() {
			if !wire.TestExists(t, name) {
				t.Errorf("attack %d, %s, is said to be sent by %s, which there is not", p.attack, p.what, name)
			}
		}
	}
	for _, c := range all {
		if !known[c.Attack()] {
			t.Errorf("%s: attack %d is not in the catalogue", c.Name, c.Attack())
		}
		n := 0
		for _, p := range parts {
			if p.has(c) {
				n++
			}
		}
		if c.Attack() != 0 && n != 1 {
			t.Errorf("%s (attack %d) is in %d parts: it would be counted as often", c.Name, c.Attack(), n)
		}
	}
	for _, f := range floods {
		for _, begin := range f.parts {
			if !slices.ContainsFunc(parts, func(p part) bool { return flood{parts: []string{begin}}.of(p) }) {
				t.Errorf("the flood of %s: there is no part %q", f.args, begin)
			}
		}
	}
}

// Every set of tools or tests has something that sends the same, and every tool a set.
func TestSetsHaveTests(t *testing.T) {
	for _, s := range sets {
		if s.tools == "" && s.attacks == nil && s.tests == "" || s.tools != "" && !slices.ContainsFunc(tools, s.has) {
			t.Errorf("%s: nothing sends it", s.what)
		}
		for _, n := range s.attacks {
			if !slices.ContainsFunc(parts, func(p part) bool { return p.attack == n && p.rows != "" }) {
				t.Errorf("%s: attack %d has no rows", s.what, n)
			}
		}
		for name := range strings.FieldsSeq(s.tests) {
			if !wire.TestExists(t, name) {
				t.Errorf("%s: there is no %s", s.what, name)
			}
		}
	}
	for _, l := range tools {
		if !slices.ContainsFunc(sets, func(s set) bool { return s.has(l) }) {
			t.Errorf("%s is in no set", l.args)
		}
	}
}
