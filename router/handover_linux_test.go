package router

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/policy"
	"udrouter/stack"
	"udrouter/stack/stacktest"
)

// lendable is a link of tests that can be handed over, with a descriptor that is of nothing.
type lendable struct {
	*stacktest.Link
	released atomic.Bool
}

func (l *lendable) Descriptors() ([]int, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	return []int{fd}, err
}

func (l *lendable) Release() { l.released.Store(true) }

// ground is a Namespace that counts. early is how often it was left before the router has said so to itself.
type ground struct {
	held, resumed, left, early atomic.Int32

	router *Router
}

func (g *ground) Hold() (int, error) {
	g.held.Add(1)
	return unix.Eventfd(0, unix.EFD_CLOEXEC)
}
func (g *ground) Resume() error { g.resumed.Add(1); return nil }
func (g *ground) Leave() {
	g.left.Add(1)
	if !g.router.handedOver.Load() {
		g.early.Add(1)
	}
}

// lending is a router that runs and can be taken over, and what Run has returned.
func lending(t *testing.T) (s *sim, g *ground, links [3]*lendable, ended chan error) {
	t.Helper()
	return lendingUntil(t.Context(), t)
}

// lendingUntil is lending until ctx ends.
func lendingUntil(ctx context.Context, t *testing.T) (s *sim, g *ground, links [3]*lendable, ended chan error) {
	t.Helper()
	return lendingWith(ctx, t, parseConfig(t, edit()))
}

// lendingWith is lendingUntil with a configuration; where that has metrics, they are offered.
func lendingWith(ctx context.Context, t *testing.T, cfg *config.Config) (s *sim, g *ground, links [3]*lendable, ended chan error) {
	t.Helper()
	s = knowingOf(t, cfg)
	g = &ground{router: s.Router}
	for i, side := range []stack.Side{stack.Guests, stack.UplinkSide, stack.Host} {
		links[i] = &lendable{Link: s.links[side]}
		s.Router.links[side] = links[i]
	}
	s.Dom0, s.StateDir = g, t.TempDir()
	s.Config.Control = config.Control{Socket: filepath.Join(t.TempDir(), "control.sock")}
	var err error
	if s.Control, err = ListenControl(s.Config.Control); err != nil {
		t.Fatal(err)
	}
	if s.Metrics, err = ListenMetrics(s.Config); err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	ended = make(chan error, 1)
	go func() { ended <- s.Run(ctx, func() { close(ready) }) }()
	<-ready
	return s, g, links, ended
}

// forwards waits until a packet of a guest's has gone through.
func forwards(t *testing.T, s *sim) {
	t.Helper()
	forwardsFrom(t, s, cases.MAC1, cases.One4)
}

func forwardsFrom(t *testing.T, s *sim, mac policy.MAC, guest netip.Addr) {
	t.Helper()
	s.links[stack.UplinkSide].Take()
	s.links[stack.Guests].Inject(cases.UDP(s.RouterMAC, mac, guest, cases.X4, 8), policy.Offload{})
	for t.Context().Err() == nil {
		for _, f := range s.links[stack.UplinkSide].Take() {
			if f.Frame[12] == 8 && f.Frame[13] == 0 {
				return
			}
		}
		if err := s.Alive(t.Context()); err != nil { // another round
			t.Fatal(err)
		}
	}
}

// readFlows is what a snapshot says, and of how many flows.
func readFlows(t *testing.T, f *os.File) (snapshotMeta, int) {
	t.Helper()
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	m, flows, err := readSnapshot(f, fi.Size())
	if err != nil {
		t.Fatal(err)
	}
	return m, int(flows.Size()) / policy.FlowStateLen
}

// asked is a connection on which the router has agreed to be taken over from.
func asked(t *testing.T, s *sim) *peer {
	t.Helper()
	conn, err := net.Dial("unix", s.Config.Control.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, "POST /v1/takeover HTTP/1.1\r\nHost: udrouter\r\nContent-Length: 0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", resp, err)
	}
	return &peer{c: conn.(*net.UnixConn)}
}

// ownLinks are the links of lending's router.
var ownLinks = [stack.Host + 1]string{stack.Guests: "udr0", stack.UplinkSide: "eth0", stack.Host: "udrhost"}

// hear reads a message.
func hear(p *peer) error {
	_, fds, err := p.receive(frozenWait)
	stack.CloseAll(fds)
	return err
}

// Where the router that runs is stopped while another process takes over, that one is told, and links and dom0 are put back only when it has ended.
func TestStoppedWhileHandingOver(t *testing.T) {
	for _, steps := range [][]string{{}, {stepFreeze}} {
		t.Run(fmt.Sprint(steps), func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			s, g, links, ended := lendingUntil(ctx, t)
			p := asked(t, s)
			if err := errors.Join(p.send(takeOverMessage{Version: takeOverVersion, Links: &ownLinks}, nil), hear(p)); err != nil {
				t.Fatal(err)
			}
			for _, step := range steps {
				if err := errors.Join(p.send(takeOverMessage{Step: step}, nil), hear(p)); err != nil {
					t.Fatal(err)
				}
			}
			stop()
			if err := hear(p); err == nil || !strings.Contains(err.Error(), "is being stopped") {
				t.Errorf("the next one hears %v", err)
			}
			if g.held.Load() != 1 || g.resumed.Load() != 0 || g.left.Load() != 0 || len(ended) > 0 {
				t.Errorf("dom0 is put back while the next one is at it: held %d times, resumed %d, left %d, ended %d", g.held.Load(), g.resumed.Load(), g.left.Load(), len(ended))
			}
			p.c.Close()
			if err := <-ended; err != nil {
				t.Errorf("Run returned %v", err)
			}
			if g.resumed.Load() != 1 || g.left.Load() != 0 || links[0].released.Load() || s.handedOver.Load() {
				t.Errorf("resumed %d times, left %d", g.resumed.Load(), g.left.Load())
			}
		})
	}
}

// Whatever a process that wants to take over does wrong, and wherever it ends, the router that runs goes on; and then hands over to one that does it right.
func TestTakeOverFails(t *testing.T) {
	s, g, links, ended := lending(t)
	hello := takeOverMessage{Version: takeOverVersion, Links: &ownLinks, Socket: s.Config.Control.Socket}
	otherLinks, otherVersion := hello, hello
	otherVersion.Version++
	otherLinks.Links = &[stack.Host + 1]string{stack.Guests: "udr1", stack.UplinkSide: "eth0", stack.Host: "udrhost"}
	say := func(m takeOverMessage) func(*peer) error { return func(p *peer) error { return p.send(m, nil) } }
	raw := func(text string) func(*peer) error {
		return func(p *peer) error { _, err := io.WriteString(p.c, text); return err }
	}
	preload, freeze, oops := say(takeOverMessage{Step: stepPreload}), say(takeOverMessage{Step: stepFreeze}), say(takeOverMessage{Error: "it does not work"})
	noEnd := []func(*peer) error{say(hello), hear}
	for range maxRounds + 1 {
		noEnd = append(noEnd, preload, hear)
	}
	held := int32(0)
	for _, c := range []struct {
		name  string
		holds bool // dom0 was held, and has to be resumed
		steps []func(*peer) error
	}{
		{"ends at once", false, nil},
		{"garbage", false, []func(*peer) error{raw("GET / HTTP/1.1\r\n\r\n")}},
		{"no end of garbage", false, []func(*peer) error{raw(strings.Repeat("x", 2*maxMessage))}},
		{"nulls", false, []func(*peer) error{raw("null\n")}},
		{"another version", false, []func(*peer) error{say(otherVersion)}},
		{"other links", false, []func(*peer) error{say(otherLinks)}},
		{"ends after hello", true, []func(*peer) error{say(hello), hear}},
		{"errs while it sets up", true, []func(*peer) error{say(hello), hear, oops}},
		{"garbage instead of freeze", true, []func(*peer) error{say(hello), hear, raw("{}\n")}},
		{"taken before freeze", true, []func(*peer) error{say(hello), hear, say(takeOverMessage{Step: stepTaken})}},
		{"ends while it loads flows", true, []func(*peer) error{say(hello), hear, preload}},
		{"errs when it has loaded flows", true, []func(*peer) error{say(hello), hear, preload, hear, oops}},
		{"taken instead of freeze", true, []func(*peer) error{say(hello), hear, preload, hear, say(takeOverMessage{Step: stepTaken})}},
		{"loads flows without end", true, noEnd},
		{"errs when it has loaded flows and is frozen", true, []func(*peer) error{say(hello), hear, preload, hear, preload, hear, freeze, hear, oops}},
		{"ends after freeze", true, []func(*peer) error{say(hello), hear, freeze}},
		{"ends with the snapshot", true, []func(*peer) error{say(hello), hear, freeze, hear}},
		{"errs with the snapshot", true, []func(*peer) error{say(hello), hear, freeze, hear, oops}},
		{"garbage with the snapshot", true, []func(*peer) error{say(hello), hear, freeze, hear, raw("taken\n")}},
		{"descriptors and then its end", true, []func(*peer) error{say(hello), hear, freeze, hear, func(p *peer) error {
			return p.send(takeOverMessage{Step: "no"}, []int{0, 0, 0})
		}}},
	} {
		p := asked(t, s)
		for i, step := range c.steps {
			if err := step(p); err != nil && i < len(c.steps)-1 {
				t.Fatalf("%s: step %d: %v", c.name, i, err)
			}
		}
		p.c.Close()
		for !s.handing.TryLock() { // until it is through
			runtime.Gosched()
		}
		s.handing.Unlock()
		if c.holds {
			held++
		}
		if g.held.Load() != held || g.resumed.Load() != held || g.left.Load() != 0 || links[0].released.Load() {
			t.Errorf("%s: held %d times, resumed %d, left %d; want %d", c.name, g.held.Load(), g.resumed.Load(), g.left.Load(), held)
		}
		forwards(t, s)
	}
	h, err := TakeOver(t.Context(), s.Config)
	if err != nil {
		t.Fatal(err)
	}
	if len(h.Guests) != 1 || len(h.Uplink) != 1 || len(h.Host) != 1 || h.Lock < 0 || h.Control < 0 {
		t.Errorf("%+v", h)
	}
	forwards(t, s) // until it is told to stop
	l, err := h.Listener()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var loaded []int
	if err := h.Preload(t.Context(), func(f *os.File) int {
		_, n := readFlows(t, f)
		if loaded = append(loaded, n); len(loaded) == 2 {
			forwardsFrom(t, s, cases.MAC2, cases.Two4)
		}
		return []int{2 * fewFlows, fewFlows}[len(loaded)-1]
	}); err != nil {
		t.Error(err)
	}
	f, err := h.Freeze()
	if err != nil || f == nil {
		t.Fatal(err)
	}
	if m, n := readFlows(t, f); len(m.Guests) != 2 || n != 1 || !slices.Equal(loaded, []int{1, 0}) {
		t.Errorf("%+v, flows %v and %d", m, loaded, n)
	}
	if err := h.Taken(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, ErrHandedOver) {
		t.Errorf("Run returned %v", err)
	}
	if g.left.Load() != 1 || g.resumed.Load() != held || !links[0].released.Load() || !links[1].released.Load() || !links[2].released.Load() {
		t.Errorf("%+v", g)
	}
	// Who asks now waits at the same socket for the next one.
	conn, err := net.Dial("unix", s.Config.Control.Socket)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

// Where the router that runs ends, the next one has what was sent to it; where it says that it goes on, the next one does not.
func TestTakeOverFromOneThatFails(t *testing.T) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	offer := func(p *peer) error {
		return p.sendAll([]descriptorFor{forGuests, forUplink, forLock}, []int{fd, fd, fd})
	}
	no := func(p *peer) error { return p.send(takeOverMessage{Error: "no"}, nil) }
	snapshot := func(p *peer) error { return p.send(takeOverMessage{Files: []descriptorFor{forSnapshot}}, []int{fd}) }
	step := func(name string) func(*peer) error {
		return func(p *peer) error { return p.send(takeOverMessage{Step: name}, nil) }
	}
	for _, c := range []struct {
		name  string
		steps []func(*peer) error // of the router that runs, which ends then
		want  string
	}{
		{"ends at once", nil, "nobody"},
		{"ends after hello", []func(*peer) error{hear}, "nobody"},
		{"refuses", []func(*peer) error{hear, no}, "refused"},
		{"sends too little", []func(*peer) error{hear, func(p *peer) error { return p.sendAll([]descriptorFor{forLock}, []int{fd}) }}, "refused"},
		{"ends with its descriptors sent", []func(*peer) error{hear, offer}, "lost"},
		{"ends when it is to freeze", []func(*peer) error{hear, offer, hear}, "lost"},
		{"cannot freeze", []func(*peer) error{hear, offer, hear, no}, "kept"},
		{"ends with the snapshot sent", []func(*peer) error{hear, offer, hear, snapshot}, "taken"},
		{"goes on after all", []func(*peer) error{hear, offer, hear, snapshot, no}, "taken back"},
		{"ends before it says so", []func(*peer) error{hear, offer, hear, snapshot, hear}, "taken"},
		{"hands over", []func(*peer) error{hear, offer, hear, snapshot, hear, step(stepReleased)}, "taken"},
	} {
		cfg := parseConfig(t, edit())
		cfg.Host = nil
		cfg.Control.Socket = filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", cfg.Control.Socket)
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() {
			conn, err := l.Accept()
			if err == nil {
				_, err = http.ReadRequest(bufio.NewReader(conn))
			}
			if err == nil {
				_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
			}
			for _, s := range c.steps {
				if err == nil {
					err = s(&peer{c: conn.(*net.UnixConn)})
				}
			}
			served <- errors.Join(err, conn.Close())
		}()
		got := func() string {
			h, err := TakeOver(t.Context(), cfg)
			switch {
			case err != nil:
				return "refused"
			case h == nil:
				return "nobody"
			}
			defer h.Abandon(errors.New("over"))
			f, err := h.Freeze()
			switch {
			case err != nil:
				return "kept"
			case f == nil:
				if err := h.Taken(); err != nil {
					return fmt.Sprint("lost, and ", err)
				}
				return "lost"
			}
			f.Close()
			if h.Taken() != nil {
				return "taken back"
			}
			return "taken"
		}()
		if err := <-served; err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if l.Close(); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// Who asks a router that has handed over for something that concerns dom0 has no answer, so that it asks the next one.
func TestHandedOverAnswersNobody(t *testing.T) {
	s, g, _, ended := lending(t)
	h, err := TakeOver(t.Context(), s.Config)
	if err != nil {
		t.Fatal(err)
	}
	f, err := h.Freeze()
	if err != nil || f == nil {
		t.Fatal(err)
	}
	f.Close()
	answer := make(chan string, 1)
	conn, err := net.Dial("unix", s.Config.Control.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "POST /v1/reload HTTP/1.1\r\nHost: udrouter\r\nContent-Length: 0\r\n\r\n"); err != nil { // which waits until it has handed over
		t.Fatal(err)
	}
	go func() {
		b, _ := io.ReadAll(conn)
		answer <- string(b)
	}()
	if err := h.Taken(); err != nil {
		t.Error(err)
	}
	if got := <-answer; got != "" {
		t.Errorf("it has answered %q", got)
	}
	if err := <-ended; !errors.Is(err, ErrHandedOver) {
		t.Errorf("Run returned %v", err)
	}
	if g.left.Load() != 1 || g.early.Load() != 0 {
		t.Errorf("dom0 was left %d times, %d of them while what fails by that would have been answered", g.left.Load(), g.early.Load())
	}
	if err := s.Reload(); !errors.Is(err, ErrHandedOver) {
		t.Errorf("a reload: %v", err)
	}
	for path, answer := range map[string]http.HandlerFunc{"/v1/reload": s.answerReload, "/v1/vifs?vif=vif1.0": s.answerVif} {
		func() {
			w := httptest.NewRecorder()
			defer func() {
				if e := recover(); e != http.ErrAbortHandler {
					t.Errorf("%s: answered %d %s, %v", path, w.Code, w.Body, e)
				}
			}()
			answer(w, httptest.NewRequest(http.MethodPost, path, nil))
		}()
	}
}

// A service of systemd's is only who has been started by it, not what others start or it has started itself.
func TestUnderSystemd(t *testing.T) {
	own := strconv.Itoa(os.Getpid())
	for _, c := range []struct {
		socket, pid string
		want        bool
	}{{"/nowhere", own, true}, {"/nowhere", "", false}, {"/nowhere", strconv.Itoa(os.Getppid()), false}, {"", own, false}} {
		t.Setenv("NOTIFY_SOCKET", c.socket)
		t.Setenv("SYSTEMD_EXEC_PID", c.pid)
		if got := UnderSystemd(); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// Only root may take over, and not from a service of systemd's, nor a router that cannot hand over.
func TestTakeOverForbidden(t *testing.T) {
	s, g, _, ended := lending(t)
	ask := func() string {
		_, err := TakeOver(t.Context(), s.Config)
		if err == nil {
			return "taken"
		}
		return err.Error()
	}
	t.Setenv("NOTIFY_SOCKET", "/nowhere")
	t.Setenv("SYSTEMD_EXEC_PID", strconv.Itoa(os.Getpid()))
	if got := ask(); !strings.Contains(got, "udrouter upgrade") {
		t.Error(got)
	}
	t.Setenv("NOTIFY_SOCKET", "") // of Type=simple
	if got := ask(); !strings.Contains(got, "udrouter upgrade") {
		t.Error(got)
	}
	if err := s.keep(nil); err == nil || !strings.Contains(err.Error(), "Type=notify") {
		t.Errorf("asked to keep: %v", err)
	}
	t.Setenv("SYSTEMD_EXEC_PID", "")
	s.Dom0 = nil
	if got := ask(); !strings.Contains(got, "cannot hand over") {
		t.Error(got)
	}
	if g.held.Load() != 0 {
		t.Error("dom0 was held")
	}
	select {
	case err := <-ended:
		t.Errorf("it has ended: %v", err)
	default:
	}
}

// A message is read whole, with its descriptors, and not beyond its end.
func TestTakeOverMessages(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*peer
	for i, fd := range pair {
		ends[i] = &peer{c: connOf(t, fd)}
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	const n = 2*stack.MaxQueues + 3
	files, fds := make([]descriptorFor, n), make([]int, n)
	for i := range files {
		files[i], fds[i] = forGuests, fd
	}
	sent := make(chan error, 1)
	go func() {
		sent <- errors.Join(ends[0].sendAll(files, fds), ends[0].send(takeOverMessage{Step: "end"}, nil))
	}()
	total, messages := 0, 0
	for more := true; more; messages++ {
		m, got, err := ends[1].receive(frozenWait)
		if err != nil || len(got) != len(m.Files) {
			t.Fatalf("%d descriptors for %d names, %v", len(got), len(m.Files), err)
		}
		stack.CloseAll(got)
		total, more = total+len(got), m.More
	}
	if err := ends[1].await("end", frozenWait); err != nil || total != n || messages < 4 {
		t.Errorf("%d descriptors in %d messages, %v", total, messages, err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if b, err := json.Marshal(takeOverMessage{Files: files[:maxDescriptors], More: true}); err != nil || len(b) > maxMessage {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

func connOf(t *testing.T, fd int) *net.UnixConn {
	t.Helper()
	f := os.NewFile(uintptr(fd), "socket pair")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.UnixConn)
}
