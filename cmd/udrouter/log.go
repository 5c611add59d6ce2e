package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

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

// maxLines is how many lines wait to be written at most.
const maxLines = 1024

// lines writes what it is given, each a line, without ever waiting for who takes it: a pipe that nobody reads, a terminal that is held or a disk that
// hangs must stop nothing that has something to log. What finds no place is lost, and how much that was is written when there is place again.
type lines struct {
	w    io.Writer
	told *slog.Logger // to w, of what was lost
	done chan struct{}

	mu    sync.Mutex
	queue chan []byte // nil after close
	lost  int
}

func newLines(w io.Writer, told *slog.Logger) *lines {
	l := &lines{w: w, told: told, done: make(chan struct{}), queue: make(chan []byte, maxLines)}
	go l.run(l.queue)
	return l
}

// Write implements io.Writer.
func (l *lines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case l.queue <- bytes.Clone(line):
	default:
		l.lost++
	}
	return len(line), nil
}

func (l *lines) run(queue <-chan []byte) {
	defer close(l.done)
	for line := range queue {
		l.mu.Lock()
		lost := l.lost
		l.lost = 0
		l.mu.Unlock()
		// Nobody can be told of an error of the log.
		_, _ = l.w.Write(line)
		if lost > 0 {
			l.told.Warn("lines of the log were lost", "lines", lost)
		}
	}
}

// close writes what there is, if that takes no longer than a moment.
func (l *lines) close() {
	l.mu.Lock()
	queue := l.queue
	l.queue = nil
	l.mu.Unlock()
	close(queue)
	moment := time.NewTimer(time.Second)
	defer moment.Stop()
	select {
	case <-l.done:
	case <-moment.C:
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
