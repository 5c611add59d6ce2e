package dom0

import (
	"errors"
	"fmt"
	"io"
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
// a process that has ended and given it on, nor by one outside: there the lock is tried after all, which takeLock reckons with.
func lockHolder(path string) (held *HeldError, seen bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("reading the lock: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 1000))
	if err != nil {
		return nil, false, fmt.Errorf("reading the lock: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, false, fmt.Errorf("looking at %s: %w", path, err)
	}
	held = heldBy(b)
	if hasOpen(held.PID, &st) {
		return held, true, nil
	}
	locked, err := isLocked(f, st.Ino)
	if err == nil && !locked && !seesAll() {
		locked = errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
	}
	if err != nil || !locked {
		return nil, false, err
	}
	return held, false, nil
}

// isLocked tells whether /proc/locks has an open file.
func isLocked(f *os.File, inode uint64) (bool, error) {
	device, err := deviceOf(f)
	if err != nil {
		return false, err
	}
	b, err := os.ReadFile("/proc/locks")
	if err != nil {
		return false, fmt.Errorf("reading who holds locks: %w", err)
	}
	id := fmt.Sprintf("%02x:%02x:%d", unix.Major(device), unix.Minor(device), inode)
	for line := range strings.Lines(string(b)) {
		if words := strings.Fields(line); slices.Contains(words, "FLOCK") && slices.Contains(words, id) {
			return true, nil
		}
	}
	return false, nil
}

// deviceOf is the device of an open file's file system, as /proc/locks has it: what stat tells is another one on btrfs and the like.
func deviceOf(f *os.File) (uint64, error) {
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", f.Fd()))
	if err != nil {
		return 0, fmt.Errorf("looking at %s: %w", f.Name(), err)
	}
	_, rest, _ := strings.Cut(string(info), "mnt_id:")
	id, _, _ := strings.Cut(strings.TrimSpace(rest), "\n")
	mounts, err := os.ReadFile("/proc/self/mountinfo") // proc_pid_mountinfo(5): ID, parent's, major:minor
	if err != nil {
		return 0, fmt.Errorf("reading the mounts: %w", err)
	}
	for line := range strings.Lines(string(mounts)) {
		var mount, parent string
		var major, minor uint32
		if n, _ := fmt.Sscanf(line, "%s %s %d:%d", &mount, &parent, &major, &minor); n == 4 && mount == id {
			return unix.Mkdev(major, minor), nil
		}
	}
	return 0, fmt.Errorf("looking at %s: no mount has it", f.Name())
}

// seesAll tells whether this process is in the first PID namespace, where /proc/locks has everybody's.
func seesAll() bool {
	const first = "pid:[4026531836]" // PROC_PID_INIT_INO
	ns, err := os.Readlink("/proc/self/ns/pid")
	return err == nil && ns == first
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
