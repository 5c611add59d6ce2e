package dom0

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Look finds a router that runs, a killed one's journal, and nothing where there is nothing; and whatever it finds can be locked still.
func TestLook(t *testing.T) {
	w := newWorld(t)
	look := func() (running *HeldError, left []string) {
		t.Helper()
		w.do(w.dom0, func() (err error) {
			running, left, err = Look(w.dir)
			return err
		})
		return running, left
	}
	if running, left := look(); running != nil || left != nil {
		t.Fatalf("nothing has run: %v, %v", running, left)
	}
	d := w.open(w.spec())
	if running, left := look(); running == nil || running.Bridge != "xenbr0" || running.PID != os.Getpid() || left != nil {
		t.Errorf("a router runs: %v, %v", running, left)
	}
	pid := func() (pid int, err error) {
		w.do(w.dom0, func() error { pid, err = Running(w.dir); return nil })
		return pid, err
	}
	if got, err := pid(); got != os.Getpid() || err != nil {
		t.Errorf("its process is %d, %v", got, err)
	}
	locks, err := filepath.Glob(filepath.Join(w.dir, "*.lock"))
	must(t, err)
	must(t, os.WriteFile(locks[0], []byte("1 xenbr0\n"), 0o600))
	if got, err := pid(); got != 0 || err == nil || !strings.Contains(err.Error(), "process 1") {
		t.Errorf("process %d is taken for it, %v", got, err)
	}
	d.abandon()
	if got, err := pid(); got != 0 || err != nil {
		t.Errorf("after a kill its process is %d, %v", got, err)
	}
	running, left := look()
	if running != nil || len(left) != 1 || !slices.Contains(mustGlob(t, w.dir), left[0]) {
		t.Errorf("a router was killed: %v, %v", running, left)
	}
	b, err := os.ReadFile(left[0])
	must(t, err)
	must(t, os.WriteFile(left[0], []byte(`{"version":1,"boot":"another"}`), 0o600))
	if _, other := look(); other != nil {
		t.Errorf("a journal of another boot: %v", other)
	}
	must(t, os.WriteFile(left[0], b, 0o600))
	d = w.open(w.spec())
	must(t, d.Close())
	if running, left := look(); running != nil || left != nil {
		t.Errorf("after an orderly end: %v, %v", running, left)
	}
}

func mustGlob(t *testing.T, dir string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "*.json"))
	must(t, err)
	return list
}
