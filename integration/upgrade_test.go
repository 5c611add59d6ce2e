package integration

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"udrouter/config"
	"udrouter/integration/lab"
	"udrouter/integration/wire"
	"udrouter/router"
)

// manager is what a service sees of systemd: a socket for notifications, and a store of descriptors.
type manager struct {
	path string
	c    *net.UnixConn

	mu    sync.Mutex
	store map[string]int
}

func startManager(t *testing.T) *manager {
	t.Helper()
	m := &manager{path: filepath.Join(t.TempDir(), "notify"), store: map[string]int{}}
	var err error
	m.c, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"})
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.serve()
	}()
	t.Cleanup(func() {
		m.c.Close()
		<-done
		for _, fd := range m.store {
			unix.Close(fd)
		}
	})
	return m
}

func (m *manager) serve() {
	b, oob := make([]byte, 4096), make([]byte, 4096)
	for {
		n, oobn, _, _, err := m.c.ReadMsgUnix(b, oob)
		if err != nil {
			return
		}
		var fds []int
		if list, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil && len(list) > 0 {
			fds, _ = unix.ParseUnixRights(&list[0])
		}
		lines := strings.Split(string(b[:n]), "\n")
		name := ""
		for _, l := range lines {
			if v, ok := strings.CutPrefix(l, "FDNAME="); ok {
				name = v
			}
		}
		m.mu.Lock()
		switch {
		case slices.Contains(lines, "FDSTORE=1") && len(fds) == 1:
			m.store[name], fds = fds[0], nil
		case slices.Contains(lines, "FDSTOREREMOVE=1"):
			if fd, ok := m.store[name]; ok {
				unix.Close(fd)
				delete(m.store, name)
			}
		}
		m.mu.Unlock()
		for _, fd := range fds { // a barrier's among them
			unix.Close(fd)
		}
	}
}

func (m *manager) stored() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.store)
}

// emptied waits until nothing is in the store: what is told comes after the router has answered.
func (m *manager) emptied(t *testing.T) {
	t.Helper()
	must(t, lab.Await(testContext(t), "an empty store", func() (bool, error) { return m.stored() == 0, nil }))
}

// start runs the router as a service, with what is in the store.
func (m *manager) start(t *testing.T, l *lab.Lab, args ...string) *lab.Proc {
	t.Helper()
	m.mu.Lock()
	var files []*os.File
	var names []string
	for name, fd := range m.store { // in no order
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		must(t, err)
		files, names = append(files, os.NewFile(uintptr(own), name)), append(names, name)
	}
	m.mu.Unlock()
	var env []string
	if len(files) > 0 {
		env = []string{"LISTEN_PID=$$", fmt.Sprintf("LISTEN_FDS=%d", len(files)), "LISTEN_FDNAMES=" + strings.Join(names, ":")}
	}
	return startService(t, l, m.path, files, env, args...)
}

// startService runs the router as systemd does its service: told by these variables, where $$ is its own process. It closes the files.
func startService(t *testing.T, l *lab.Lab, notify string, files []*os.File, env []string, args ...string) *lab.Proc {
	t.Helper()
	text := "#!/bin/sh\nexport NOTIFY_SOCKET=" + notify + " SYSTEMD_EXEC_PID=$$ " + strings.Join(env, " ") + "\nexec " + wire.Exe + " \"$@\"\n"
	p, err := l.StartRouterWith(testContext(t), writeFile(t, t.TempDir(), "service", []byte(text), 0o755), files, args...)
	for _, f := range files {
		f.Close()
	}
	must(t, err)
	showLog(t, p)
	return p
}

// A service that is asked to keep links for a configuration that names others refuses. Where the file is changed after that, the next one says that what was kept is of no
// use, and forgets it: it does not meet it again at each start.
func TestUpgradeOfServiceWithOtherLinks(t *testing.T) {
	l := buildLab(t, "", lab.Options{})
	before, err := l.Dom0State()
	must(t, err)
	m, dir := startManager(t), t.TempDir()
	file, err := l.ConfigPath()
	must(t, err)
	src := readFile(t, file)
	args := []string{"--state", dir, "--socket", filepath.Join(dir, "control.sock"), "--workers", "2"}
	for i, c := range []struct{ old, new string }{{`tap = "udr0"`, `tap = "udr1"`}, {`interface = "udrhost"`, `interface = "udrh1"`}} {
		changed := strings.Replace(src, c.old, c.new, 1)
		if changed == src {
			t.Fatalf("the file has no %s:\n%s", c.old, src)
		}
		other := writeFile(t, t.TempDir(), "router.hcl", []byte(changed), 0o600)
		p := m.start(t, l, args...)
		p.Socket = filepath.Join(dir, "control.sock")
		cfg, diags := config.Load(other)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		if _, err := p.Post(testContext(t), router.KeepPath(cfg)); err == nil || !strings.Contains(err.Error(), "would be") {
			t.Errorf("%s: asked to keep: %v", c.new, err)
		}
		cfg, _ = config.Load(file)
		_, err := p.Post(testContext(t), router.KeepPath(cfg))
		must(t, err)
		must(t, p.Stop())
		if n := m.stored(); n != 2+2+1+1 {
			t.Fatalf("%d descriptors are in the store", n)
		}
		p = m.start(t, l, append([]string{"-c", other}, args...)...)
		contains(t, p.Log(), "cannot be used")
		m.emptied(t)
		guest := l.Guests[0].Node
		conn := openTCP(t, guest, l.Internet, l.Internet.Addr4(), 443+i)
		must(t, conn.Check(testContext(t)))
		must(t, p.Stop())
		same(t, l, before)
	}
}

// As a service the router leaves links and flows in systemd's store when it was asked to and is restarted: connections and datagrams go on. Without being
// asked it undoes everything, and so it does in the end.
func TestUpgradeOfService(t *testing.T) {
	l := buildLab(t, "", lab.Options{})
	before, err := l.Dom0State()
	must(t, err)
	m, dir := startManager(t), t.TempDir()
	args := []string{"--state", dir, "--socket", filepath.Join(dir, "control.sock"), "--workers", "2"}
	p := m.start(t, l, args...)
	p.Socket = filepath.Join(dir, "control.sock")
	guest, x := l.Guests[0].Node, l.Internet
	must(t, x.ServeUDP(7))
	s := startStream(t, guest, netip.AddrPortFrom(x.Addr6(), 7))
	ctx, stop := context.WithCancel(testContext(t))
	defer stop()
	var sending, transfers errgroup.Group
	sending.Go(func() error { return s.send(ctx) })
	idle := openTCP(t, x, guest, guest.Addr4(), 443)
	must(t, idle.Check(testContext(t)))
	_, err = x.ServeTCP(443)
	must(t, err)
	transfers.Go(func() error { return guest.Transfer(testContext(t), netip.AddrPortFrom(x.Addr4(), 443), 64<<20) })
	gap := regexp.MustCompile(`gap=(\S+)`)
	for range 2 {
		was := status(t, p)
		_, err := p.Post(testContext(t), "/v1/keep")
		must(t, err)
		must(t, p.Stop())
		if n := m.stored(); n != 2+2+1+1 {
			t.Fatalf("%d descriptors are in the store", n)
		}
		p = m.start(t, l, args...)
		p.Socket = filepath.Join(dir, "control.sock")
		now := status(t, p)
		if now.Uptime < was.Uptime || now.Domus[0].TxPackets < was.Domus[0].TxPackets || now.Flows.Active < was.Flows.Active || now.ForeignMAC != 0 {
			t.Errorf("counters go back: %+v, was %+v", now, was)
		}
		m.emptied(t)
		for _, touched := range []string{"locking", "binding", "joining", "removing", "picked up"} {
			if strings.Contains(p.Log(), touched) {
				t.Errorf("%s:\n%s", touched, p.Log())
			}
		}
		if found := gap.FindStringSubmatch(p.Log()); found != nil {
			t.Logf("nobody forwarded for %s", found[1])
		}
		must(t, idle.Check(testContext(t)))
	}
	must(t, transfers.Wait())
	stop()
	must(t, sending.Wait())
	_ = lab.Await(testContext(t), "all datagrams", func() (bool, error) { return s.received.Load() == s.sent.Load(), nil })
	s.conn.Close()
	<-s.done
	if s.received.Load() != s.sent.Load() {
		t.Errorf("%d of %d datagrams came back", s.received.Load(), s.sent.Load())
	}
	t.Logf("%d datagrams, the longest gap %v", s.sent.Load(), s.longest)
	must(t, p.Stop()) // nobody has asked it to keep anything
	same(t, l, before)
	m.emptied(t)
	// Who is no service has no store; and says what to do.
	p = startRouter(t, l)
	if _, err := p.Post(testContext(t), "/v1/keep"); err == nil || !strings.Contains(err.Error(), "--takeover") || !strings.Contains(err.Error(), http.StatusText(http.StatusConflict)) {
		t.Errorf("asked to keep: %v", err)
	}
	must(t, p.Stop())
}
