package dom0

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lock keeps a network namespace to one router: there is one nftables guard and one set of routes in it. The kernel
// releases it when the process ends, however it does.
type lock struct{ f *os.File }

// HeldError tells that another router runs in this network namespace.
type HeldError struct {
	Bridge string // the other one's
	PID    int
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("another udrouter runs for bridge %s (pid %d): stop it first", e.Bridge, e.PID)
}

// heldBy is who has written a lock's file.
func heldBy(text []byte) *HeldError {
	pid, bridge, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	held := &HeldError{Bridge: bridge}
	held.PID, _ = strconv.Atoi(pid)
	return held
}

// takeLock fails with a HeldError when it is taken.
func takeLock(dir string, netns uint64, bridge string) (*lock, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	path := filepath.Join(dir, stateName(netns)+".lock")
	for looked := 0; ; {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600) // Go adds O_CLOEXEC
		if err != nil {
			return nil, fmt.Errorf("opening the lock: %w", err)
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) && looked < 3 { // by who only looks whether it is, for an instant
			f.Close()
			looked++
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if errors.Is(err, unix.EWOULDBLOCK) {
			defer f.Close()
			b := make([]byte, 64)
			n, _ := f.ReadAt(b, 0)
			return nil, heldBy(b[:n])
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		// A lock that was released between open and flock has been unlinked; its successor is another file.
		if !isFile(f, path) {
			f.Close()
			continue
		}
		l := &lock{f}
		if err := l.write(bridge); err != nil {
			l.release()
			return nil, err
		}
		return l, nil
	}
}

func (l *lock) write(bridge string) error {
	b := fmt.Appendf(nil, "%d %s\n", os.Getpid(), bridge)
	if err := l.f.Truncate(0); err != nil {
		return fmt.Errorf("writing the lock: %w", err)
	}
	if _, err := l.f.WriteAt(b, 0); err != nil {
		return fmt.Errorf("writing the lock: %w", err)
	}
	return nil
}

func isFile(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Lstat(path)
	return err == nil && os.SameFile(a, b)
}

// release unlinks the file while it is still locked, so that nobody can have locked the file that goes.
func (l *lock) release() {
	os.Remove(l.f.Name())
	l.f.Close()
}

// abandon gives the lock up as the end of the process does.
func (l *lock) abandon() { l.f.Close() }
