package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"udrouter/config"
)

// Under the journal each line begins with its priority (sd-daemon(3)), whatever the format and whoever the logger is derived from.
func TestJournalPriorities(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		var b strings.Builder
		log := slog.New(newJournalHandler(&b, func(w io.Writer) slog.Handler { return logHandler(w, config.Log{Format: format}, slog.LevelDebug) }))
		log.Debug("d")
		log.Info("i")
		log.With("k", 1).Warn("w")
		log.WithGroup("g").Error("e", "k", 1)
		begin := map[string]string{"text": "time=", "json": "{"}[format]
		want := regexp.MustCompile("^<7>" + begin + ".*\n<6>" + begin + ".*\n<4>" + begin + ".*\n<3>" + begin + ".*\n$")
		if !want.MatchString(b.String()) {
			t.Errorf("%s:\n%s", format, b.String())
		}
	}
}

// Elsewhere there are none: this process's stderr is a pipe or a terminal.
func TestNoPriorities(t *testing.T) {
	t.Setenv("JOURNAL_STREAM", "1:1")
	var b strings.Builder
	logger(&b, config.Log{Level: "info"}, new(slog.LevelVar)).Warn("w")
	if !strings.HasPrefix(b.String(), "time=") {
		t.Errorf("%s", b.String())
	}
}

// stuck is a log that takes a line only when it is let.
type stuck struct {
	let chan bool
	got strings.Builder
}

func (s *stuck) Write(b []byte) (int, error) {
	<-s.let
	return s.got.Write(b)
}

// Who logs waits for nobody, what finds no place is counted, and what has found one is written in the end.
func TestLinesDoNotWait(t *testing.T) {
	w := &stuck{let: make(chan bool)}
	l := newLines(w, slog.New(slog.NewTextHandler(w, nil)))
	line := []byte("first\n")
	for range maxLines + 10 {
		if n, err := l.Write(line); n != len(line) || err != nil {
			t.Fatal(n, err)
		}
		copy(line, "again\n") // the caller's once more
	}
	close(w.let)
	l.close()
	_, _ = l.Write([]byte("late\n"))
	got := w.got.String()
	lost := regexp.MustCompile(`(?m)^time=\S+ level=WARN msg="lines of the log were lost" lines=(\d+)$`).FindStringSubmatch(got)
	if lost == nil || !strings.HasPrefix(got, "first\n") || strings.Contains(got, "late") {
		t.Fatalf("%d bytes, %q", len(got), got[:min(len(got), 100)])
	}
	n, err := strconv.Atoi(lost[1])
	if written := strings.Count(got, "first\n") + strings.Count(got, "again\n"); err != nil || written < maxLines || written+n != maxLines+10 {
		t.Errorf("%d lines were written and %d lost, of %d; %v", written, n, maxLines+10, err)
	}
}

// The end does not wait for a log that takes nothing.
func TestLinesEnd(t *testing.T) {
	l := newLines(&stuck{let: make(chan bool)}, slog.New(slog.DiscardHandler))
	_, _ = l.Write([]byte("line\n"))
	l.close()
}

// What a machine reads is JSON to the end, with what was lost and why the router ends; a person reads the latter as a sentence.
func TestJSONToTheEnd(t *testing.T) {
	w := &stuck{let: make(chan bool)}
	c := config.Log{Format: "json"}
	l := newLines(w, logger(w, c, new(slog.LevelVar)))
	log := logger(l, c, new(slog.LevelVar))
	for range maxLines + 10 {
		log.Info("said")
	}
	close(w.let)
	why := fmt.Errorf("opening it: %w", syscall.ENODEV)
	if err := inFormat(why, config.Log{Format: "text"}, log); !errors.Is(err, why) || errors.Is(err, errSaid) {
		t.Errorf("a person is told %v", err)
	}
	if inFormat(nil, c, log) != nil {
		t.Error("an error where there is none")
	}
	l.close()
	if err := inFormat(why, c, logger(&w.got, c, new(slog.LevelVar))); !errors.Is(err, errSaid) || !errors.Is(err, syscall.ENODEV) {
		t.Errorf("a machine is told %v", err)
	}
	seen := map[string]int{}
	for line := range strings.Lines(w.got.String()) {
		var r struct {
			Msg, Error string
			Lines      int
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		seen[r.Msg]++
		if r.Msg == "lines of the log were lost" && r.Lines == 0 || r.Msg == "the router ends" && r.Error != why.Error() {
			t.Errorf("%s", line)
		}
	}
	if seen["lines of the log were lost"] == 0 || seen["the router ends"] != 1 {
		t.Errorf("%v", seen)
	}
}
