package dom0

import (
	"os"
	"path/filepath"
	"slices"
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
	d.abandon()
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
