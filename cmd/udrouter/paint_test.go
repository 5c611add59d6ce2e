package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/charmbracelet/x/ansi"

	"udrouter/router"
)

// Colours are added to headings and warnings, and to nothing else: without them the text is the same.
func TestPaint(t *testing.T) {
	s := busyStatus(5)
	s.Warnings = []string{"beware"}
	s.LastReload = &router.ReloadStatus{Error: "no"}
	s.HostUplink = []router.HostRuleStatus{{Action: "drop"}}
	var plain, coloured bytes.Buffer
	if err := printStatus(&plain, s); err != nil {
		t.Fatal(err)
	}
	if err := printStatus(&painter{out: &coloured}, s); err != nil {
		t.Fatal(err)
	}
	if got := ansi.Strip(coloured.String()); got != plain.String() {
		t.Errorf("%s\nwant\n%s", got, &plain)
	}
	bold, red := 0, 0
	for line := range strings.Lines(coloured.String()) {
		switch {
		case strings.HasPrefix(line, "\x1b[1m"):
			bold++
		case strings.HasPrefix(line, "\x1b[31m"):
			red++
		case strings.Contains(line, "\x1b"):
			t.Errorf("%q", line)
		}
	}
	if bold != 4 || red != 2 {
		t.Errorf("%d headings and %d warnings:\n%q", bold, red, &coloured)
	}
	p := &painter{out: &coloured}
	coloured.Reset()
	for _, part := range []string{"DO", "MU  RX", "\nmail", "  7\n"} { // as they may come
		if n, err := p.Write([]byte(part)); n != len(part) || err != nil {
			t.Error(n, err)
		}
	}
	if got := coloured.String(); got != "\x1b[1mDOMU  RX\x1b[0m\nmail  7\n" {
		t.Errorf("%q", got)
	}
	// Who is no terminal gets none.
	if w := painted(&coloured); w != &coloured {
		t.Errorf("%T", w)
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if w := painted(f); w != f {
		t.Errorf("%T", w)
	}
}
