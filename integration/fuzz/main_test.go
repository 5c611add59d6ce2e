package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A module with a target that holds, one that does not, and what is none.
func TestFuzz(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example\n\ngo 1.24\n",
		"a/a_test.go": `package a

import (
	"fmt"
	"os"
	"testing"
)

func TestMain(m *testing.M) { fmt.Println("FuzzyWords that are no target"); os.Exit(m.Run()) }

func FuzzGood(f *testing.F) { f.Fuzz(func(t *testing.T, b []byte) {}) }

func FuzzBad(f *testing.F) {
	f.Add([]byte("seed"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 0 && b[0] != 's' {
			t.Fatal("the defect")
		}
	})
}

func TestFuzz(t *testing.T) { t.Fatal("no test is run") }
`,
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	for _, c := range []struct {
		args []string
		err  string
		rows []string // regular expressions
		said string
	}{
		{[]string{"-time", "200x"}, "1 of 2 targets failed", []string{`example/a.FuzzGood +\d+s +\d+ +\d+ +\d+ +ok`, `example/a.FuzzBad .* FAILED`}, "the defect"},
		{[]string{"-time", "200x", "-run", "a.FuzzGood$"}, "", []string{`example/a.FuzzGood .* ok`}, "1 of 1: example/a.FuzzGood"},
		{[]string{"-time", "200x", "-skip", "Bad"}, "", []string{`example/a.FuzzGood .* ok`}, "1 of 1: example/a.FuzzGood"},
		// In that time not even the seeds are through: it gets more.
		{[]string{"-time", "1ms", "-run", "a.FuzzGood$"}, "", []string{`example/a.FuzzGood +\d+s +[1-9]\d* .* ok`}, "gathering baseline coverage"},
		{[]string{"-run", "Nothing"}, `no fuzz target in ./... matches "Nothing"`, nil, ""},
		{[]string{"./nowhere"}, "listing the targets", nil, ""},
	} {
		var out, progress bytes.Buffer
		err := run(t.Context(), c.args, &out, &progress)
		if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: %v, want %q", c.args, err, c.err)
		}
		rows := strings.Split(strings.TrimSpace(out.String()), "\n")[min(1, len(c.rows)):]
		if len(c.rows) == 0 {
			rows = nil
		}
		if len(rows) != len(c.rows) || !strings.Contains(progress.String(), c.said) {
			t.Errorf("%q: %s\n%s", c.args, out.String(), progress.String())
		}
		for _, want := range c.rows {
			if !regexp.MustCompile(want).MatchString(out.String()) {
				t.Errorf("%q: no row is like %s in\n%s", c.args, want, out.String())
			}
		}
	}
}
