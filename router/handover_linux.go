package router

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxMessage     = 64 << 10 // bytes
	maxDescriptors = 128      // beside a message; the kernel takes 253 (SCM_MAX_FD)
)

// peer is the other side of a hand-over.
type peer struct {
	c *net.UnixConn

	mu      sync.Mutex // held while the deadline is set that stop sets
	stopped bool
}

// stop ends receive with errStopped, now and from now on.
func (p *peer) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	_ = p.c.SetReadDeadline(time.Unix(1, 0))
}

// due sets receive's deadline.
func (p *peer) due(wait time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return errStopped
	}
	return p.c.SetReadDeadline(time.Now().Add(wait))
}

// awaitEnd waits until the other process has closed the connection.
func (p *peer) awaitEnd(wait time.Duration) {
	_ = p.c.SetReadDeadline(time.Now().Add(wait))
	_, _ = io.Copy(io.Discard, p.c)
}

func (p *peer) send(m takeOverMessage, fds []int) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_ = p.c.SetWriteDeadline(time.Now().Add(frozenWait))
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	_, _, err = p.c.WriteMsgUnix(append(b, '\n'), oob, nil)
	return err
}

// sendAll sends descriptors in as many messages as it takes.
func (p *peer) sendAll(files []descriptorFor, fds []int) error {
	for len(files) > 0 {
		n := min(len(files), maxDescriptors)
		if err := p.send(takeOverMessage{Files: files[:n], More: n < len(files)}, fds[:n]); err != nil {
			return err
		}
		files, fds = files[n:], fds[n:]
	}
	return nil
}

// receive waits for a message, and returns it with the descriptors beside it, which the caller closes, also after an error. Neither side sends another
// message before the other has had its turn, but for those with More.
func (p *peer) receive(wait time.Duration) (m takeOverMessage, fds []int, err error) {
	if err := p.due(wait); err != nil {
		return m, nil, err
	}
	line, oob, one := []byte(nil), make([]byte, unix.CmsgSpace(4*maxDescriptors)), make([]byte, 1)
	for { // a byte at a time: what follows may have descriptors of its own
		n, oobn, flags, _, err := p.c.ReadMsgUnix(one, oob)
		if err == nil && n == 0 {
			err = io.EOF
		}
		if err == nil && flags&unix.MSG_CTRUNC != 0 {
			err = errors.New("descriptors were lost")
		}
		if oobn > 0 {
			got, e := rights(oob[:oobn])
			fds = append(fds, got...)
			err = errors.Join(err, e)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = cmp.Or(p.due(0), err)
		}
		if err != nil {
			return m, fds, err
		}
		if one[0] == '\n' {
			break
		}
		if line = append(line, one[0]); len(line) > maxMessage || len(fds) > maxDescriptors {
			return m, fds, errors.New("what came is no message")
		}
	}
	d := json.NewDecoder(bytes.NewReader(line))
	if err := d.Decode(&m); err != nil {
		return m, fds, fmt.Errorf("what came is no message: %w", err)
	}
	if m.Error != "" {
		return m, fds, fmt.Errorf("the other process: %s", m.Error)
	}
	return m, fds, nil
}

// await waits for a step, beside which there are no descriptors.
func (p *peer) await(step string, wait time.Duration) error {
	got, err := p.step(wait)
	if err == nil && got != step {
		err = fmt.Errorf("%q came instead of %q", got, step)
	}
	return err
}

// step waits for any step.
func (p *peer) step(wait time.Duration) (string, error) {
	m, fds, err := p.receive(wait)
	for _, fd := range fds {
		unix.Close(fd)
	}
	return m.Step, err
}

func rights(oob []byte) (fds []int, err error) {
	list, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for i := range list {
		got, err := unix.ParseUnixRights(&list[i])
		if err != nil {
			return fds, err
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

// listenerCopy is a copy of a listener's descriptor.
func listenerCopy(l net.Listener) (int, error) {
	c, ok := l.(syscall.Conn)
	if !ok {
		return -1, fmt.Errorf("a %T has no descriptor", l)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	return copyOf(raw)
}

// copyOf is a copy of a descriptor.
func copyOf(raw syscall.RawConn) (fd int, err error) {
	e := raw.Control(func(own uintptr) { fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) })
	return fd, errors.Join(e, err)
}

// snapshotFile is a file without a name that has what write writes, which the caller closes.
func (r *Router) snapshotFile(write func(io.Writer) error) (int, error) {
	f, err := os.CreateTemp(r.StateDir, "snapshot-")
	if err != nil {
		return -1, fmt.Errorf("making the snapshot: %w", err)
	}
	defer f.Close()
	if err := errors.Join(os.Remove(f.Name()), write(f)); err != nil {
		return -1, fmt.Errorf("writing the snapshot: %w", err)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	return copyOf(raw)
}

// sendSnapshot sends what write writes.
func (r *Router) sendSnapshot(p *peer, write func(io.Writer) error) error {
	fd, err := r.snapshotFile(write)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return p.send(takeOverMessage{Files: []descriptorFor{forSnapshot}}, []int{fd})
}

// receiveSnapshot waits for a snapshot.
func (p *peer) receiveSnapshot(wait time.Duration) (*os.File, error) {
	m, fds, err := p.receive(wait)
	if err == nil && len(fds) == 1 && len(m.Files) == 1 && m.Files[0] == forSnapshot {
		return os.NewFile(uintptr(fds[0]), "snapshot"), nil
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	return nil, cmp.Or(err, errors.New("the router that runs sent no snapshot"))
}

// beside runs f on a thread of its own that has a lower priority: packets go first.
func beside(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: a thread does not get its priority back, and ends with the goroutine
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 10)
		f()
	}()
	<-done
}

// bootTime is CLOCK_BOOTTIME in nanoseconds.
func bootTime() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // it has no error with a clock that exists
	return ts.Nano()
}
