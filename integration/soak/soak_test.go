package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A short soak of a few guests holds, and its report and plots can be read.
func TestSoak(t *testing.T) {
	dir := t.TempDir()
	var out, progress bytes.Buffer
	if err := run(t.Context(), []string{"-time", "20s", "-guests", "16", "-seed", "1", "-out", dir}, &out, &progress); err != nil {
		t.Fatalf("%v\n%s\n%s", err, out.String(), progress.String())
	}
	for _, want := range []string{"All held: 12 connections", "| event: reloads |", "| event: uplink down and up |", "| forged frames |", "| `ip-binding` |", "![memory](memory.svg)"} {
		text, err := os.ReadFile(filepath.Join(dir, "report.md"))
		if err != nil || !strings.Contains(string(text), want) {
			t.Errorf("the report lacks %q: %v\n%s", want, err, text)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.svg"))
	if err != nil || len(files) != 5 {
		t.Fatalf("plots %v, %v", files, err)
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for d := xml.NewDecoder(f); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
}

func TestOptions(t *testing.T) {
	for _, args := range [][]string{{"-guests", "255"}, {"-guests", "7"}, {"-time", "0s"}, {"extra"}} {
		if _, err := parse(args, io.Discard); err == nil {
			t.Errorf("%q is taken", args)
		}
	}
}
