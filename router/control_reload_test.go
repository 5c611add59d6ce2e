package router

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"udrouter/config"
	"udrouter/policy"
	"udrouter/stack"
)

// as does something as another user of a group, in a thread that ends with it.
func as(t *testing.T, uid, gid int, do func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread is thrown away
		for _, c := range [][4]uintptr{{unix.SYS_SETGROUPS, 0, 0, 0}, {unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)}, {unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)}} {
			if _, _, e := unix.RawSyscall(c[0], c[1], c[2], c[3]); e != 0 {
				done <- e
				return
			}
		}
		do()
		done <- nil
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// controlOf serves the control socket to a group and root until the test ends, and returns where it is.
func (s *sim) controlOf(t *testing.T, group int) (socket string) {
	t.Helper()
	dir := t.TempDir()
	socket = filepath.Join(dir, "control.sock")
	for d := dir; d != "/"; d = filepath.Dir(d) {
		if fi, err := os.Stat(d); err != nil || fi.Mode().Perm()&0o001 == 0 {
			if err := os.Chmod(d, 0o711); err != nil {
				t.Fatal(err)
			}
		}
	}
	var err error
	if s.Control, err = ListenControl(config.Control{Socket: socket}); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(socket, -1, group); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error)
	go func() { served <- s.serveControl(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return socket
}

// Who may connect may ask; only root may reload. Everyone gets what is wrong with the file.
func TestControlReload(t *testing.T) {
	s := knowing(t, edit())
	const group = 1
	socket := s.controlOf(t, group)
	wrong := &ReloadError{Text: "router.hcl:3: all of it", Diagnostics: []Diagnostic{{"router.hcl", 3, 5, "No", "Mend it"}, {"router.hcl", 4, 5, "Nor", "Mend that"}}}
	for _, c := range []struct {
		name         string
		uid          int
		method, path string
		around       *around
		code         int
		reloads      uint64
	}{
		{"root asks", 0, "GET", "/v1/status", nil, 200, 0},
		{"the group asks", 65534, "GET", "/v1/status", nil, 200, 0},
		{"the group asks for two guests' flows", 65534, "GET", "/v1/flows?domu=one&domu=two", nil, 400, 0},
		{"the group reloads", 65534, "POST", "/v1/reload", &around{next: s.Config}, 403, 0},
		{"root reloads", 0, "POST", "/v1/reload", &around{next: s.Config}, 200, 1},
		{"root reloads by GET", 0, "GET", "/v1/reload", &around{next: s.Config}, 405, 1},
		{"the group asks for vifs", 65534, "GET", "/v1/vifs", nil, 403, 1},
		{"the group tells of a vif", 65534, "POST", "/v1/vifs?vif=vif1.0", nil, 403, 1},
		{"root asks for vifs", 0, "GET", "/v1/vifs", nil, 200, 1},
		{"root tells of a vif", 0, "POST", "/v1/vifs?vif=vif1.0", nil, 200, 1},
		{"root tells of no vif", 0, "POST", "/v1/vifs?vif=", nil, 400, 1},
		{"the group captures", 65534, "GET", "/v1/capture", nil, 403, 1},
		{"root captures nobody's", 0, "GET", "/v1/capture?domu=nobody", nil, 400, 1},
		{"a bad file", 0, "POST", "/v1/reload", &around{err: wrong}, 422, 1},
		{"the kernel refuses", 0, "POST", "/v1/reload", &around{next: s.Config, refuse: errors.New("no room")}, 422, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.Around = c.around
			var conn net.Conn
			var err error
			as(t, c.uid, group, func() { conn, err = net.Dial("unix", socket) })
			if err != nil {
				t.Fatal(err)
			}
			client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}}
			defer client.CloseIdleConnections()
			req, err := http.NewRequest(c.method, "http://udrouter"+c.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != c.code || s.Status().Reloads != c.reloads {
				t.Fatalf("%d, %d reloads, %v: %s", resp.StatusCode, s.Status().Reloads, err, body)
			}
			if c.path != "/v1/reload" || c.code != 200 && c.code != 422 {
				return
			}
			var a ReloadAnswer
			if err := json.Unmarshal(body, &a); err != nil || a.Reloads != c.reloads || (a.Error == "") != (c.code == 200) {
				t.Errorf("%v, %s", err, body)
			}
			if c.around.err != nil && (a.Text != wrong.Text || len(a.Diagnostics) != 2 || a.Diagnostics[1] != wrong.Diagnostics[1]) {
				t.Errorf("%s", body)
			}
		})
	}
}

// start runs the router until the test ends, with links whose far end is the test.
func (s *sim) start(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error)
	go func() { ended <- s.Run(ctx, func() { close(ready) }) }()
	<-ready
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// stuck is a link whose queues' Write does not return for a while.
type stuck struct {
	stack.Link
	hold, held chan struct{}
}

func (l *stuck) Queues() (list []stack.Queue) {
	for _, q := range l.Link.Queues() {
		list = append(list, stuckQueue{q, l})
	}
	return list
}

type stuckQueue struct {
	stack.Queue
	l *stuck
}

func (q stuckQueue) Write(batch []*stack.Frame) {
	q.l.held <- struct{}{}
	<-q.l.hold
	q.Queue.Write(batch)
}

// An idle router is alive; one whose worker is stuck in a system call is not, and a reload waits for it: when it returns, nothing goes by the old file.
func TestAlive(t *testing.T) {
	s := knowing(t, edit())
	l := &stuck{s.links[stack.Guests], make(chan struct{}), make(chan struct{}, 100)}
	s.Router.links[stack.Guests] = l
	s.start(t)
	alive := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return s.Alive(ctx)
	}
	for range 3 {
		if err := alive(); err != nil {
			t.Fatal(err)
		}
	}
	// The gateway sends something to a guest, and the TAP takes it for ever.
	s.links[stack.UplinkSide].Inject(timed("udp", [2]policy.MAC{eth0MAC, gatewayMAC}, talks()[0].x, talks()[0].guest, true, 0, 0, 0, 0), policy.Offload{})
	<-l.held
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := s.Alive(ctx); err == nil || !strings.Contains(err.Error(), "worker 0 does not come round") {
		t.Errorf("a worker that is stuck is alive: %v", err)
	}
	reloaded := make(chan error)
	go func() { reloaded <- s.reload(edit(ingressOpen, "")) }()
	swapped := func() bool { return s.current.Load().plan.config != s.Config }
	for !swapped() {
		runtime.Gosched()
	}
	select {
	case err := <-reloaded:
		t.Errorf("a reload did not wait for who goes by the old file: %v", err)
	default:
	}
	close(l.hold)
	if err := <-reloaded; err != nil {
		t.Error(err)
	}
	if n := s.Status().Flows.Active; n != 0 {
		t.Errorf("%d flows of the old file", n)
	}
	if err := alive(); err != nil {
		t.Error(err)
	}
}
