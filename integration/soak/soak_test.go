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

	"udrouter/router"
)

// A short soak of a few guests holds, and its report and plots can be read.
func TestSoak(t *testing.T) {
	dir := t.TempDir()
	var out, progress bytes.Buffer
	if err := run(t.Context(), []string{"-time", "20s", "-guests", "16", "-seed", "1", "-out", dir}, &out, &progress); err != nil {
		t.Fatalf("%v\n%s\n%s", err, out.String(), progress.String())
	}
	for _, want := range []string{"All held: 12 connections", "| event: reloads |", "| event: uplink down and up |", "| forged frames |", "| `ip-binding` |", "At least 99 % of the tries", "| ping, guest to internet |", ", go1.", "It went on for 2", "| descriptors |", "![memory](memory.svg)"} {
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

// A soak in whose time not everything has happened shows nothing of the rest, and says so.
func TestSoakTooShort(t *testing.T) {
	var out, progress bytes.Buffer
	err := run(t.Context(), []string{"-time", "1s", "-guests", "8", "-seed", "1"}, &out, &progress)
	if err == nil || !strings.Contains(out.String(), "TAP deleted: it never happened") || strings.Contains(out.String(), "All held") {
		t.Errorf("%v\n%s\n%s", err, out.String(), progress.String())
	}
}

// What has grown, what has left by a foreign MAC, a defect and what never goes well are complained of; the rest is not.
func TestJudge(t *testing.T) {
	for want, change := range map[string]func(*sample, *soak){
		"": func(p *sample, s *soak) {
			p.rss += moreMemory
			p.files += moreFiles
			s.counted("forged frames", errors.New("ENOBUFS"))
		},
		"bytes of memory":                       func(p *sample, _ *soak) { p.rss += moreMemory + 1 },
		"goroutines":                            func(p *sample, _ *soak) { p.status.Process.Goroutines += moreGoroutines + 1 },
		"threads":                               func(p *sample, _ *soak) { p.threads += moreThreads + 1 },
		"descriptors":                           func(p *sample, _ *soak) { p.files += moreFiles + 1 },
		"bytes of memory at a time":             func(_ *sample, s *soak) { s.samples[2].rss = baseMemory + 16*guestMemory + 5*flowMemory + 1 },
		"goroutines at a time":                  func(_ *sample, s *soak) { s.samples[2].status.Process.Goroutines = 1e6 },
		"threads at a time":                     func(_ *sample, s *soak) { s.samples[2].threads = 1e6 },
		"descriptors at a time, the ceiling is": func(_ *sample, s *soak) { s.samples[2].files = 1e6 },
		"foreign MAC off":                       func(p *sample, _ *soak) { p.status.ForeignMAC = 1 },
		"defects were met":                      func(p *sample, _ *soak) { p.status.Drops = map[string]uint64{"internal": 1} },
		"flows, of at most":                     func(p *sample, _ *soak) { p.status.Flows.Active = 11 },
		"forged frames could not be sent":       func(_ *sample, s *soak) { s.done["forged frames"].ill.Store(4) },
		"ping, guest to guest, with nothing disturbed: 1 of 5 tries": func(_ *sample, s *soak) { s.traffic["ping, guest to guest"].calm.ill.Store(4) },
	} {
		s := &soak{options: options{guests: 16}, progress: io.Discard, done: map[string]*count{"forged frames": {}}, traffic: map[string]*tries{"ping, guest to guest": {}}}
		s.done["forged frames"].well.Store(100)
		s.traffic["ping, guest to guest"].calm.well.Store(1)
		first := sample{status: router.Status{Flows: router.FlowStatus{Active: 5, Max: 10}}, rss: 1, files: 1, threads: 1}
		s.samples = []sample{first, first, first, first}
		change(&s.samples[3], s)
		s.judge()
		if got := strings.Join(s.complaints, "\n"); (got != "") != (want != "") || !strings.Contains(got, want) || len(s.complaints) > 1 {
			t.Errorf("%q: %s", want, got)
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
