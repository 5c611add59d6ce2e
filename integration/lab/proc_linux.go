package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Proc is a router that runs as a process in dom0.
type Proc struct {
	Socket string // of its control
	State  string // its state directory

	before []string // dom0's state when it was started
	cmd    *Cmd
	log    *logBuffer
	exited chan struct{}
	err    error // what the process ended with; set before exited is closed
	client *http.Client
}

// How long Stop waits for an orderly end before it kills.
const stopTimeout = 15 * time.Second

// readyLine is a line of the router's log, text or JSON, whose message begins with "ready".
var readyLine = regexp.MustCompile(`(?m)(\bmsg"?[=:]"?|^)ready\b`)

// StartRouter runs "exe run -c FILE --state DIR --socket PATH args..." in dom0 and returns when its
// log says ready. It fails with the log's end when the process ends before that or ctx is done;
// ctx does not concern the process later on.
func (l *Lab) StartRouter(ctx context.Context, exe string, args ...string) (*Proc, error) {
	return l.StartRouterWith(ctx, exe, nil, args...)
}

// StartRouterWith is StartRouter for a process that gets files as descriptors 3 and on.
func (l *Lab) StartRouterWith(ctx context.Context, exe string, files []*os.File, args ...string) (*Proc, error) {
	p, err := l.LaunchRouter(exe, files, args...)
	if err != nil {
		return nil, err
	}
	if err := p.AwaitReady(ctx); err != nil {
		return nil, errors.Join(err, p.Kill())
	}
	return p, nil
}

// LaunchRouter is StartRouterWith that returns at once.
func (l *Lab) LaunchRouter(exe string, files []*os.File, args ...string) (*Proc, error) {
	file, err := l.ConfigPath()
	if err != nil {
		return nil, err
	}
	state, err := os.MkdirTemp(l.dir, "state-") // its path is short: a socket's may have 107 bytes
	if err != nil {
		return nil, fmt.Errorf("making the router's state directory: %w", err)
	}
	before, err := l.Dom0State()
	if err != nil {
		return nil, err
	}
	p := &Proc{
		before: before,
		Socket: filepath.Join(state, "control.sock"),
		State:  state,
		log:    newLogBuffer(),
		exited: make(chan struct{}),
	}
	p.client = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, // each request sees the router of that moment
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", p.Socket)
		},
	}}
	argv := append([]string{"run", "-c", file, "--state", state, "--socket", p.Socket}, args...)
	if m := l.Config.Metrics; m != nil {
		if network, path := m.Address(); network == "unix" && !strings.HasPrefix(path, l.dir+"/") { // the machine's own router may have it
			argv = append(argv, "--no-metrics")
		}
	}
	p.cmd = l.Dom0.Command(context.Background(), exe, argv...)
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.ExtraFiles = p.log, p.log, files
	p.cmd.WaitDelay = time.Second // for a grandchild that keeps the log open
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the router: %w", err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	l.mu.Lock()
	l.procs = append(l.procs, p)
	l.mu.Unlock()
	return p, nil
}

// AwaitReady waits until the log says ready. It fails with the log's end when the process ends before that or ctx is done.
func (p *Proc) AwaitReady(ctx context.Context) error {
	if err := p.AwaitLog(ctx, readyLine); err != nil {
		return fmt.Errorf("awaiting the router's ready: %w; its log ends with:\n%s", err, tail(p.Log(), 20))
	}
	return nil
}

// PID is the process's.
func (p *Proc) PID() int { return p.cmd.Process.Pid }

// Exited is closed when the process has ended.
func (p *Proc) Exited() <-chan struct{} { return p.exited }

// Log is what the router has written so far, without the oldest part when it is over a megabyte.
func (p *Proc) Log() string { return p.log.String() }

// AwaitLog waits until a line of the log matches. It fails when the process ends first.
func (p *Proc) AwaitLog(ctx context.Context, line *regexp.Regexp) error {
	for {
		text, more := p.log.await()
		if line.MatchString(text) {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-p.exited:
			if line.MatchString(p.Log()) {
				return nil
			}
			return fmt.Errorf("the router ended: %w", p.exitError())
		}
	}
}

// exitError tells how the process ended; for use after exited.
func (p *Proc) exitError() error {
	if p.err == nil {
		return errors.New("exit status 0")
	}
	return p.err
}

// Signal sends a signal: SIGHUP reloads.
func (p *Proc) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// Stop asks the router to end, waits, and reports an end that is not exit status 0. A router that
// does not end within 15 seconds is killed. Stopping one that has ended reports how that was.
func (p *Proc) Stop() error {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping the router: %w", err)
	}
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-p.exited:
	case <-timer.C:
		return errors.Join(fmt.Errorf("stopping the router: it did not end within %v", stopTimeout), p.Kill())
	}
	if p.err != nil {
		return fmt.Errorf("stopping the router: %w; its log ends with:\n%s", p.err, tail(p.Log(), 20))
	}
	return nil
}

// Kill ends the process at once (SIGKILL) and waits for it.
func (p *Proc) Kill() error {
	if err := p.Signal(os.Kill); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("killing the router: %w", err)
	}
	<-p.exited
	return nil
}

// Memory is what the process occupies: now and at most so far, in bytes.
type Memory struct{ RSS, Peak uint64 }

// CPU is the processor time that the router has used, of all its threads.
func (p *Proc) CPU() (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
	if err != nil {
		return 0, fmt.Errorf("reading the router's processor time: %w", err)
	}
	// proc(5): utime and stime are fields 14 and 15, in ticks of 1/100 s; the name in parentheses may hold anything.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("reading the router's processor time: %q", b)
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reading the router's processor time: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// RSS reads the process's resident memory.
func (p *Proc) RSS() (m Memory, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		return m, fmt.Errorf("reading the router's memory: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		var to *uint64
		switch {
		case strings.HasPrefix(line, "VmRSS:"):
			to = &m.RSS
		case strings.HasPrefix(line, "VmHWM:"):
			to = &m.Peak
		default:
			continue
		}
		f := strings.Fields(line)
		kb, err := strconv.ParseUint(f[1], 10, 64)
		if err != nil {
			return m, fmt.Errorf("reading the router's memory: %w", err)
		}
		*to = kb << 10
	}
	return m, nil
}

// Status is what a running router tells of itself; Raw has what this type lacks.
type Status struct {
	Version string  `json:"version"`
	Uptime  float64 `json:"uptime_s"`
	Links   []struct {
		Name      string `json:"name"`
		RxPackets uint64 `json:"rx_packets"`
		TxPackets uint64 `json:"tx_packets"`
		RxBytes   uint64 `json:"rx_bytes"`
		TxBytes   uint64 `json:"tx_bytes"`
		Errors    uint64 `json:"errors"`
	} `json:"links"`
	Domus []struct {
		Name      string `json:"name"`
		Flows     uint64 `json:"flows"`
		RxPackets uint64 `json:"rx_packets"`
		TxPackets uint64 `json:"tx_packets"`
		Drops     uint64 `json:"drops"`
	} `json:"domus"`
	Flows struct {
		Active uint64 `json:"active"`
		Max    uint64 `json:"max"`
	} `json:"flows"`
	Drops      map[string]uint64 `json:"drops"`
	ForeignMAC uint64            `json:"foreign_mac_uplink"`
	Reloads    uint64            `json:"reloads"`

	Raw json.RawMessage `json:"-"`
}

// Status asks the router, over its control socket.
func (p *Proc) Status(ctx context.Context) (*Status, error) {
	raw, err := p.Get(ctx, "/v1/status")
	if err != nil {
		return nil, err
	}
	s := &Status{Raw: raw}
	if err := json.Unmarshal(raw, s); err != nil {
		return nil, fmt.Errorf("reading the router's status: %w", err)
	}
	return s, nil
}

// Get is an HTTP GET of a path on the control socket; anything but 200 is an error with its text.
func (p *Proc) Get(ctx context.Context, path string) ([]byte, error) {
	return p.do(ctx, http.MethodGet, path)
}

// Post is an HTTP POST without a body on the control socket.
func (p *Proc) Post(ctx context.Context, path string) ([]byte, error) {
	return p.do(ctx, http.MethodPost, path)
}

func (p *Proc) do(ctx context.Context, method, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://udrouter"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("asking the router: %w", err)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking the router: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return nil, fmt.Errorf("reading the router's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("asking the router for %s: %s: %s", path, resp.Status, bytes.TrimSpace(body))
	}
	return body, nil
}

// logBuffer keeps the end of what is written to it and tells who waits.
type logBuffer struct {
	mu   sync.Mutex
	text []byte
	more chan struct{} // closed by the next write
}

const maxLog = 1 << 20 // bytes

func newLogBuffer() *logBuffer { return &logBuffer{more: make(chan struct{})} }

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = append(b.text, p...)
	if over := len(b.text) - maxLog; over > 0 {
		b.text = append(b.text[:0], b.text[over:]...)
	}
	close(b.more)
	b.more = make(chan struct{})
	return len(p), nil
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.text)
}

// await returns the text and what is closed when there is more.
func (b *logBuffer) await() (string, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.text), b.more
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
