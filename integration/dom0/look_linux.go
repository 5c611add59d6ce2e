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
	if running, _, err = lockHolder(filepath.Join(stateDir, stateName(ns.cookie)+".lock")); err != nil || running != nil {
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

// Running is the process of the router that runs in the calling thread's network namespace; 0 when none does. It has the lock, so that it can be signalled. It wants
// the rights to look into that process.
func Running(stateDir string) (pid int, err error) {
	ns, err := openNetNS()
	if err != nil {
		return 0, err
	}
	defer ns.close()
	path := filepath.Join(stateDir, stateName(ns.cookie)+".lock")
	running, seen, err := lockHolder(path)
	switch {
	case err != nil || running == nil:
		return 0, err
	case !seen:
		return 0, fmt.Errorf("%s is locked, but process %d, which it names, does not have it open: the router is in another PID namespace, or just being taken over", path, running.PID)
	}
	return running.PID, nil
}

// lockHolder is who has locked a file: to try the lock would have a router that starts at that moment find it taken. seen tells that it has the file open;
// else the file is locked, and what it names may be another process. In a PID namespace of its own, /proc/locks does not have what is locked by
// a process that has ended and given it on.
func lockHolder(path string) (held *HeldError, seen bool, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("reading the lock: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	} else if err != nil {
		return nil, false, fmt.Errorf("looking at %s: %w", path, err)
	}
	held = heldBy(b)
	if hasOpen(held.PID, &st) {
		return held, true, nil
	}
	f, err := os.Open("/proc/locks")
	if err != nil {
		return nil, false, fmt.Errorf("reading who holds locks: %w", err)
	}
	defer f.Close()
	inode := ":" + strconv.FormatUint(st.Ino, 10)
	for s := bufio.NewScanner(f); s.Scan(); {
		if words := strings.Fields(s.Text()); slices.Contains(words, "FLOCK") && slices.ContainsFunc(words, func(w string) bool { return strings.HasSuffix(w, inode) }) {
			return held, false, nil
		}
	}
	return nil, false, nil
}

// hasOpen tells whether a process has a file open, as far as it may be looked into.
func hasOpen(pid int, file *unix.Stat_t) bool {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, _ := os.ReadDir(dir)
	return slices.ContainsFunc(fds, func(fd fs.DirEntry) bool {
		var st unix.Stat_t
		return unix.Stat(filepath.Join(dir, fd.Name()), &st) == nil && st.Dev == file.Dev && st.Ino == file.Ino
	})
}
