package integration

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"udrouter/integration/lab"
	"udrouter/integration/wire"
)

// relay stands between the router that runs and the next one. It passes their messages on, with the descriptors beside them, and keeps one back for a while.
type relay struct {
	socket  string // of its own, for the next one
	running string // of the router that runs
	kept    chan struct{}
	release func()
	passed  chan struct{}

	mu   sync.Mutex
	keep []string // what messages to come have in them, one after the other; the last one is kept back
}

func startRelay(t *testing.T, running string, keep ...string) *relay {
	t.Helper()
	r := &relay{socket: filepath.Join(t.TempDir(), "relay.sock"), running: running, kept: make(chan struct{}), passed: make(chan struct{}), keep: keep}
	r.release = sync.OnceFunc(func() { close(r.passed) })
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: r.socket, Net: "unix"})
	must(t, err)
	done := make(chan error, 1)
	go func() { done <- r.serve(l) }()
	t.Cleanup(func() {
		r.release()
		l.Close()
		must(t, <-done)
	})
	return r
}

// serve serves one connection, until both routers have closed it.
func (r *relay) serve(l *net.UnixListener) error {
	next, err := l.AcceptUnix()
	l.Close() // where nobody hands a socket over, the path is the next one's to listen at
	if err != nil {
		return err
	}
	defer next.Close()
	running, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: r.running, Net: "unix"})
	if err != nil {
		return err
	}
	defer running.Close()
	var both sync.WaitGroup
	both.Go(func() { r.pass(next, running) })
	both.Go(func() { r.pass(running, next) })
	both.Wait()
	return nil
}

// pass passes on what comes until nothing does any more. Each side waits for the other after each message, so that none comes in pieces or with another.
func (r *relay) pass(from, to *net.UnixConn) {
	defer to.CloseWrite()
	b, oob := make([]byte, 64<<10), make([]byte, 4096)
	for {
		n, oobn, _, _, err := from.ReadMsgUnix(b, oob)
		if err != nil || n == 0 {
			return
		}
		if r.isKept(b[:n]) {
			close(r.kept)
			<-r.passed
		}
		_, _, err = to.WriteMsgUnix(bytes.ReplaceAll(b[:n], []byte(r.socket), []byte(r.running)), oob[:oobn], nil)
		list, _ := unix.ParseSocketControlMessage(oob[:oobn])
		for i := range list {
			fds, _ := unix.ParseUnixRights(&list[i])
			for _, fd := range fds {
				unix.Close(fd)
			}
		}
		if err != nil {
			return
		}
	}
}

func (r *relay) isKept(message []byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.keep) == 0 || !bytes.Contains(message, []byte(r.keep[0])) {
		return false
	}
	r.keep = r.keep[1:]
	return len(r.keep) == 0
}

// At each message of a takeover, SIGTERM comes to the router that runs, to the next one, or to both: who was not told goes on or takes over, alone, with the
// connections that there are; when nobody is left, nothing of them is.
func TestToldToEndWhileTakingOver(t *testing.T) {
	const goesOn, takesOver, startsAnew, nobody = "the one that runs", "the next one", "the next one anew", ""
	l := buildLab(t, "", lab.Options{})
	before, err := l.Dom0State()
	must(t, err)
	guest, x := l.Guests[0].Node, l.Internet
	for _, c := range []struct {
		message                string
		keep                   []string
		next, running, andBoth string // who is left when that one is told, or both are
	}{
		{"request", []string{"POST /v1/takeover"}, goesOn, startsAnew, nobody},
		{"hello", []string{`"version"`}, goesOn, takesOver, nobody},
		{"descriptors", []string{`"lock"`}, goesOn, takesOver, nobody},
		{"preload", []string{`"preload"`}, goesOn, takesOver, nobody},
		{"flows", []string{`"preload"`, `"snapshot"`}, goesOn, takesOver, nobody},
		{"freeze", []string{`"freeze"`}, goesOn, takesOver, nobody},
		{"snapshot", []string{`"freeze"`, `"snapshot"`}, goesOn, takesOver, nobody},
		{"taken", []string{`"taken"`}, nobody, takesOver, nobody}, // it is the next one that runs then
	} {
		for told, left := range map[string]string{"the next one": c.next, "the one that runs": c.running, "both": c.andBoth} {
			t.Run(strings.ReplaceAll(c.message+" "+told, " ", "-"), func(t *testing.T) {
				running := startRouter(t, l)
				conn := openTCP(t, guest, x, x.Addr4(), 443)
				must(t, conn.Check(testContext(t)))
				held, err := l.Dom0State()
				must(t, err)
				r := startRelay(t, running.Socket, c.keep...)
				next, err := l.LaunchRouter(wire.Exe, nil, "--confine=strict", "--takeover", "--state", running.State, "--socket", r.socket)
				must(t, err)
				showLog(t, next)
				next.Socket = running.Socket
				select {
				case <-r.kept:
				case <-next.Exited():
					t.Fatalf("the next one has ended, without a message of %q:\n%s", c.keep, next.Log())
				}
				hears := regexp.MustCompile("told to end")
				if told != "the next one" {
					must(t, running.Signal(syscall.SIGTERM))
					must(t, running.AwaitLog(testContext(t), hears))
				}
				if told != "the one that runs" {
					must(t, next.Signal(syscall.SIGTERM))
				}
				if told != "the one that runs" && c.next == goesOn { // else it hears when it has taken over
					must(t, next.AwaitLog(testContext(t), hears))
				}
				if left == startsAnew {
					<-running.Exited()
					next.Socket = r.socket
				}
				r.release()
				ended := map[string][]*lab.Proc{goesOn: {next}, takesOver: {running}, startsAnew: {running}, nobody: {running, next}}[left]
				for _, p := range ended {
					<-p.Exited()
					must(t, p.Stop()) // with status 0
				}
				if left == nobody {
					untouched(t, l, running, before)
					return
				}
				survivor := running
				if left == goesOn {
					same(t, l, held)
				} else {
					survivor = next
					must(t, next.AwaitReady(testContext(t)))
				}
				ping(t, guest, x.Addr4())
				ping(t, x, guest.Addr6())
				if left != startsAnew {
					must(t, conn.Check(testContext(t)))
				}
				if s := status(t, survivor); s.ForeignMAC != 0 || s.Drops["internal"] != 0 {
					t.Errorf("foreign MACs %d, drops %v", s.ForeignMAC, s.Drops)
				}
				must(t, survivor.Stop())
				untouched(t, l, survivor, before)
			})
		}
	}
}

// untouched checks that nothing of a router is left.
func untouched(t *testing.T, l *lab.Lab, p *lab.Proc, before []string) {
	t.Helper()
	same(t, l, before)
	files, err := os.ReadDir(p.State)
	must(t, err)
	for _, f := range files {
		if !f.IsDir() {
			t.Errorf("%s is left in the state directory", f.Name())
		}
	}
}
