package main

import (
	"io"
	"log/slog"
	"regexp"
	"strings"
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
