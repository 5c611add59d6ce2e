package dom0

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Look tells what routers have in the calling thread's network namespace, and changes nothing: the one that runs, nil when none does, and the
// journals of those that were killed. A router that runs has a journal of its own, which is not among them.
func Look(stateDir string) (running *HeldError, left []string, err error) {
	ns, err := openNetNS()
	if err != nil {
		return nil, nil, err
	}
	defer ns.close()
	boot, err := bootID()
	if err != nil {
		return nil, nil, err
	}
	if running, err = lockHolder(filepath.Join(stateDir, stateName(ns.cookie)+".lock")); err != nil || running != nil {
		return running, nil, err
	}
	paths, err := filepath.Glob(filepath.Join(stateDir, stateName(ns.cookie)+"-*.json"))
	if err != nil {
		return nil, nil, fmt.Errorf("looking for undo journals: %w", err)
	}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			return nil, nil, fmt.Errorf("reading the undo journal: %w", err)
		}
		if strings.Contains(string(b), strconv.Quote(boot)) { // else it is of another boot, and describes nothing that is there
			left = append(left, p)
		}
	}
	return nil, left, nil
}

// lockHolder is who has locked a file, by /proc/locks: to try the lock would have a router that starts at that moment find it taken.
func lockHolder(path string) (*HeldError, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the lock: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("looking at %s: %w", path, err)
	}
	f, err := os.Open("/proc/locks")
	if err != nil {
		return nil, fmt.Errorf("reading who holds locks: %w", err)
	}
	defer f.Close()
	inode := ":" + strconv.FormatUint(st.Ino, 10)
	for s := bufio.NewScanner(f); s.Scan(); {
		if words := strings.Fields(s.Text()); slices.Contains(words, "FLOCK") && slices.ContainsFunc(words, func(w string) bool { return strings.HasSuffix(w, inode) }) {
			pid, bridge, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
			held := &HeldError{Bridge: bridge}
			held.PID, _ = strconv.Atoi(pid)
			return held, nil
		}
	}
	return nil, nil
}
