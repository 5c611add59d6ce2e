package router

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"udrouter/config"
	"udrouter/stack"
)

// Under systemd a process does not meet the next one: at its end it leaves links and snapshot in systemd's file descriptor store (sd_notify(3), FDSTORE),
// from which the next one gets them (sd_listen_fds(3)). It does so only for a while after it was asked to: it cannot tell a restart from a stop.

// keepTime is for how long POST /v1/keep is good.
const keepTime = time.Minute

// storePrefix is what the names of descriptors in the store begin with; what they are, and a number, follow.
const storePrefix = "udrouter-"

// storeWait is how long systemd may take to store everything.
const storeWait = 5 * time.Second

// UnderSystemd tells whether this process is the main one of a service that systemd wants to be told of (SYSTEMD_EXEC_PID in systemd.exec(5), since version 248). Others set
// NOTIFY_SOCKET as well, such as start-stop-daemon, which awaits the start and is gone then; and what a service has started inherits its variables.
func UnderSystemd() bool { return os.Getenv("NOTIFY_SOCKET") != "" && startedBySystemd() }

// startedBySystemd tells whether this process is the main one of any service.
func startedBySystemd() bool { return os.Getenv("SYSTEMD_EXEC_PID") == strconv.Itoa(os.Getpid()) }

// KeepPath is what to post for the router to leave everything to the next process, whose configuration this is.
func KeepPath(cfg *config.Config) string {
	query := url.Values{}
	for side, name := range linksOf(cfg) {
		query.Set(string(linkFiles[side]), name)
	}
	return "/v1/keep?" + query.Encode()
}

// keep has the router leave everything to the next process if it is told to end within keepTime. It refuses where the query names other links than it
// has; who names none answers for them.
func (r *Router) keep(query url.Values) error {
	if err := r.cannotHandOver(); err != nil {
		return err
	}
	switch {
	case UnderSystemd():
	case startedBySystemd():
		return errors.New("this router is a service of systemd's, but not of Type=notify, which an upgrade without loss wants: systemctl restart it, or give it that type")
	default:
		return errors.New("this router is no service of systemd's: udrouter run --takeover takes over from it")
	}
	if len(query) > 0 {
		var next [stack.Host + 1]string
		for side, what := range linkFiles {
			next[side] = query.Get(string(what))
		}
		if err := r.sameLinks(next); err != nil {
			return err
		}
	}
	r.keepUntil.Store(int64(r.now() + keepTime))
	return nil
}

// Store leaves links, dom0 and snapshot to the next process by systemd's store, where keep has asked for it; Run must be told to end then. When it fails
// the router goes on.
func (r *Router) Store() error {
	if int64(r.now()) >= r.keepUntil.Load() {
		return nil
	}
	r.reloading.Lock() // or the snapshot is one of a plan that knows no flows yet
	defer r.reloading.Unlock()
	r.handing.Lock()
	defer r.handing.Unlock()
	if r.handedOver.Load() {
		return nil
	}
	lock, err := r.Dom0.Hold()
	if err != nil {
		return err
	}
	stack.CloseAll([]int{lock}) // which the next one takes itself
	ctx, cancel := context.WithTimeout(context.Background(), storeWait)
	defer cancel()
	err = r.suspendOffload()
	if err == nil {
		var resume func()
		if resume, err = r.pause(ctx); err == nil {
			if err = r.store(); err != nil {
				resume()
			}
		}
	}
	if err != nil {
		return errors.Join(fmt.Errorf("leaving the links in systemd's store: %w", err), r.resumeOffload(), r.Dom0.Resume())
	}
	for _, l := range r.links {
		if l != nil {
			l.(handable).Release()
		}
	}
	r.handedOver.Store(true)
	r.Dom0.Leave()
	return nil
}

func (r *Router) store() error {
	snapshot, err := r.snapshotFile(func(w io.Writer) error { return r.save(w, nil) })
	if err != nil {
		return err
	}
	fds, files := []int{snapshot}, []descriptorFor{forSnapshot}
	defer func() { stack.CloseAll(fds) }()
	for side, l := range r.links {
		if l == nil {
			continue
		}
		own, err := l.(handable).Descriptors()
		if err != nil {
			return err
		}
		for i, fd := range own {
			fds, files = append(fds, fd), append(files, linkFiles[side]+descriptorFor("-"+strconv.Itoa(i)))
		}
	}
	for i, fd := range fds {
		if err := tellSystemd("FDSTORE=1\nFDPOLL=0\nFDNAME="+storePrefix+string(files[i]), fd); err != nil {
			return err
		}
	}
	return r.barrier.pass()
}

// barrier is a pipe whose end systemd closes when it has dealt with all that it was told before. It is made before the process is confined.
type barrier struct {
	read *os.File
	end  int
}

func newBarrier() (b barrier, err error) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return b, fmt.Errorf("making a pipe: %w", err)
	}
	return barrier{os.NewFile(uintptr(pipe[0]), "barrier"), pipe[1]}, nil
}

// pass waits for systemd, once.
func (b *barrier) pass() error {
	defer b.read.Close()
	err := tellSystemd("BARRIER=1", b.end)
	stack.CloseAll([]int{b.end})
	if err != nil {
		return err
	}
	_ = b.read.SetReadDeadline(time.Now().Add(storeWait))
	if _, err := b.read.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("awaiting systemd: %w", err)
	}
	return nil
}

// tellSystemd sends a notification with descriptors.
func tellSystemd(state string, fds ...int) error {
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	_ = unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: int64(storeWait.Seconds())})
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	return unix.Sendmsg(s, []byte(state), oob, &unix.SockaddrUnix{Name: os.Getenv("NOTIFY_SOCKET")}, 0)
}

// FromStore is what the process before this one has left in systemd's store; nil where there is nothing.
func FromStore() *Heritage {
	defer os.Unsetenv("LISTEN_FDS")
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil
	}
	const first = 3 // SD_LISTEN_FDS_START
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	if err != nil || n != len(names) {
		return nil
	}
	h := &Heritage{Lock: -1, Control: -1, Metrics: -1}
	byName := map[string]int{}
	for i, name := range names {
		unix.CloseOnExec(first + i)
		if what, ok := strings.CutPrefix(name, storePrefix); ok {
			byName[what] = first + i
			h.stored = append(h.stored, name)
		}
	}
	if len(h.stored) == 0 {
		return nil
	}
	if fd, ok := byName[string(forSnapshot)]; ok {
		h.snapshot = os.NewFile(uintptr(fd), "snapshot")
	}
	for _, what := range linkFiles {
		for i := 0; ; i++ { // the store has them in no order
			fd, ok := byName[fmt.Sprint(what, "-", i)]
			if !ok {
				break
			}
			h.take(what, fd)
		}
	}
	return h
}

// Discard closes descriptors from systemd's store that cannot be used, or not any more, and deletes the devices, where the router has
// made them.
func (h *Heritage) Discard(fds *[]int) {
	stack.Discard(*fds)
	*fds = nil
}

// forget has systemd's store let go of everything, so that nothing outlives this process but what it leaves itself.
func (h *Heritage) forget() error {
	var errs []error
	for _, name := range h.stored {
		errs = append(errs, tellSystemd("FDSTOREREMOVE=1\nFDNAME="+name))
	}
	h.stored = nil
	return errors.Join(errs...)
}
