package policy

import (
	"os"
	"strings"
	"testing"
)

// The README's table has each reason once, in the type's order, with its text, and no other.
func TestREADME(t *testing.T) {
	b, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(b), "<!-- reasons")
	if !ok {
		t.Fatal("README has no table of reasons")
	}
	var words, texts []string
	for line := range strings.Lines(table) {
		if strings.HasPrefix(line, "### ") {
			break
		}
		if cells := strings.Split(line, "|"); len(cells) == 4 && strings.HasPrefix(cells[1], " `") {
			words, texts = append(words, strings.Trim(cells[1], " `")), append(texts, strings.TrimSpace(cells[2]))
		}
	}
	for r := Reason(1); int(r) < Reasons; r++ {
		i := int(r) - 1
		if i >= len(words) || words[i] != r.String() {
			t.Fatalf("row %d is not %q; the table has %q", i, r, words)
		}
		if texts[i] != r.Text() || r.Text() == "" {
			t.Errorf("%s is explained as %q, and in README as %q", r, r.Text(), texts[i])
		}
	}
	if len(words) != Reasons-1 {
		t.Errorf("%d rows for %d reasons", len(words), Reasons-1)
	}
}
