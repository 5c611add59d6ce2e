package integration

import (
	"fmt"
	"os"
	"testing"

	"udrouter/integration/lab"
)

// held is what the router's process holds.
type held struct {
	files, threads int
	goroutines     uint64
	rss            uint64 // bytes
}

func holds(t testing.TB, p *lab.Proc) (h held) {
	t.Helper()
	h.goroutines = status(t, p).Process.Goroutines
	for name, n := range map[string]*int{"fd": &h.files, "task": &h.threads} {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/%s", p.PID(), name))
		must(t, err)
		*n = len(entries)
	}
	m, err := p.RSS()
	must(t, err)
	h.rss = m.RSS
	return h
}

// grown tells whether a process holds more than it did before, but for what comes and goes: a thread that a call has kept, a descriptor that
// is open just now, memory that nobody has collected yet.
func (h held) grown(before held) bool {
	return h.files > before.files+4 || h.threads > before.threads+4 || h.goroutines > before.goroutines+4 || h.rss > before.rss+64<<20
}
