package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"github.com/coreos/go-systemd/v22/journal"

	"udrouter/config"
)

// logger writes what is of a level that may change, with priorities where stderr is the journal's.
func logger(w io.Writer, c config.Log, level *slog.LevelVar) *slog.Logger {
	setLevel(level, c)
	if is, err := journal.StderrIsJournalStream(); is && err == nil {
		return slog.New(newJournalHandler(w, func(w io.Writer) slog.Handler { return logHandler(w, c, level) }))
	}
	return slog.New(logHandler(w, c, level))
}

func logHandler(w io.Writer, c config.Log, level slog.Leveler) slog.Handler {
	o := slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.NewJSONHandler(w, &o)
	}
	return slog.NewTextHandler(w, &o)
}

func setLevel(level *slog.LevelVar, c config.Log) {
	var l slog.Level
	if l.UnmarshalText([]byte(c.Level)) == nil {
		level.Set(l)
	}
}

// journalHandler begins each line with its priority, which the journal takes off (sd-daemon(3)): journalctl -p warning.
type journalHandler struct {
	slog.Handler
	out *prioritized
}

// prioritized writes a handler's lines with the priority that was set last.
type prioritized struct {
	mu       sync.Mutex
	w        io.Writer
	priority journal.Priority
}

func newJournalHandler(w io.Writer, lines func(io.Writer) slog.Handler) slog.Handler {
	out := &prioritized{w: w}
	return journalHandler{lines(out), out}
}

// Handle implements slog.Handler. A handler writes a record by one call of Write.
func (h journalHandler) Handle(ctx context.Context, r slog.Record) error {
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	switch {
	case r.Level >= slog.LevelError:
		h.out.priority = journal.PriErr
	case r.Level >= slog.LevelWarn:
		h.out.priority = journal.PriWarning
	case r.Level >= slog.LevelInfo:
		h.out.priority = journal.PriInfo
	default:
		h.out.priority = journal.PriDebug
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return journalHandler{h.Handler.WithAttrs(attrs), h.out}
}

// WithGroup implements slog.Handler.
func (h journalHandler) WithGroup(name string) slog.Handler {
	return journalHandler{h.Handler.WithGroup(name), h.out}
}

func (p *prioritized) Write(line []byte) (int, error) {
	if _, err := fmt.Fprintf(p.w, "<%d>%s", p.priority, line); err != nil {
		return 0, err
	}
	return len(line), nil
}
