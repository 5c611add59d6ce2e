package dom0

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Recovered tells whether Start found what a killed run had left in the namespace for this bridge.
func (d *Dom0) Recovered() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.recovered
}

// Hold has the namespace be left alone until Resume, for another process that is to take it over; Run goes on and does nothing. It returns a copy of
// the lock's descriptor, for Inherit, which the caller closes.
func (d *Dom0) Hold() (lock int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return -1, errClosed
	}
	if lock, err = unix.FcntlInt(d.lock.f.Fd(), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return -1, fmt.Errorf("copying the lock: %w", err)
	}
	d.held = true
	return lock, nil
}

// Resume goes on after Hold: what the other process has changed meanwhile is put right by Run, and what it has noted is not lost.
func (d *Dom0) Resume() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || !d.held {
		return nil
	}
	d.held, d.guard.installed = false, false
	d.wake()
	err := d.lock.write(d.spec.Bridge)
	if j, found, e := readJournal(d.spec.StateDir, d.boot, d.ns.cookie, d.spec.Bridge); found {
		d.journal, d.journalled = j, true
	} else {
		err = errors.Join(err, e)
	}
	return err
}

// Leave is Close without an undo: the namespace, its lock and the journal are left to who has inherited them, or to the next Start.
func (d *Dom0) Leave() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	d.journal = nil
	d.lock.abandon()
	d.lock = nil
	d.release()
}

// Inherit is Acquire with the lock that another process has got from Hold; it closes the descriptor, or takes it over.
func Inherit(stateDir, bridge string, fd int, log *slog.Logger) (*Dom0, error) {
	d, err := newDom0(log, func(netns uint64) (*lock, error) { return inheritLock(stateDir, netns, bridge, fd) })
	if err == nil {
		d.inherited = true
	}
	return d, err
}

func inheritLock(dir string, netns uint64, bridge string, fd int) (*lock, error) {
	path := filepath.Join(dir, stateName(netns)+".lock")
	l := &lock{os.NewFile(uintptr(fd), path)}
	if !isFile(l.f, path) {
		l.abandon()
		return nil, fmt.Errorf("the lock that was handed over is not %s: the other router has another state directory, or runs in another network namespace", path)
	}
	if err := l.write(bridge); err != nil {
		l.abandon()
		return nil, err
	}
	return l, nil
}
