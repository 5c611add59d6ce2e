package dom0

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
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

// A lock is this file's, and not one of another file system that has its number; and it is seen from another PID namespace.
func TestLockHolder(t *testing.T) {
	var paths [2]string
	for i := range paths { // whose first files have the same number
		dir := t.TempDir()
		must(t, unix.Mount("none", dir, "tmpfs", 0, ""))
		t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
		paths[i] = filepath.Join(dir, "lock")
		must(t, os.WriteFile(paths[i], []byte("999999999 xenbr0\n"), 0o600)) // nobody's number
	}
	var st [2]unix.Stat_t
	must(t, errors.Join(unix.Stat(paths[0], &st[0]), unix.Stat(paths[1], &st[1])))
	if st[0].Ino != st[1].Ino {
		t.Fatalf("their numbers are %d and %d", st[0].Ino, st[1].Ino)
	}
	other, err := os.Open(paths[1])
	must(t, err)
	defer other.Close()
	must(t, unix.Flock(int(other.Fd()), unix.LOCK_EX))
	for i, want := range []bool{false, true} {
		if held, seen, err := lockHolder(paths[i]); err != nil || seen || (held != nil) != want {
			t.Errorf("%s: %v, %v, %v; want held %v", paths[i], held, seen, err, want)
		}
	}
	for i, want := range []string{"no", "yes"} {
		c := exec.Command(os.Args[0], "-test.run=^TestLockHolderElsewhere$")
		c.Env = append(os.Environ(), "LOCK="+paths[i])
		c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
		if out, err := c.CombinedOutput(); err != nil || !strings.Contains(string(out), "held: "+want) {
			t.Errorf("%s from another PID namespace: %v, %s", paths[i], err, out)
		}
	}
}

// TestLockHolderElsewhere is what TestLockHolder runs in a PID namespace of its own.
func TestLockHolderElsewhere(t *testing.T) {
	path := os.Getenv("LOCK")
	if path == "" {
		return
	}
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(t, unix.Mount("proc", "/proc", "proc", 0, ""))
	held, seen, err := lockHolder(path)
	if err != nil || seen {
		t.Errorf("%v, %v, %v", held, seen, err)
	}
	fmt.Println("held:", map[bool]string{true: "yes", false: "no"}[held != nil])
}

func mustGlob(t *testing.T, dir string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "*.json"))
	must(t, err)
	return list
}
