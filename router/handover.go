package router

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"udrouter/config"
	"udrouter/stack"
)

// A router hands over to the next process by this protocol, on a connection to its control socket that an HTTP request has opened. Each message is
// a line of JSON, with descriptors beside it (SCM_RIGHTS); an error ends it, and the router that runs goes on.
//
//	the next one                      the one that runs
//	hello: version, names of links -> holds dom0 as it is
//	                               <- the descriptors of links, lock and control socket
//	sets everything up
//	preload, some times            <- a snapshot of the flows, and then of those that have changed
//	freeze                         -> ends what is under way, and stops
//	                               <- the snapshot, without the flows that have not changed
//	taken                          -> leaves everything to the next one
//	                               <- released, and ends
//	forwards
//
// What the kernel receives meanwhile waits in the links' queues. The one that runs goes on as if nothing had been when the next one errs, ends, or takes
// longer than it may, before it has said taken; when the one that runs ends, the next one has what was sent to it. One that is told to end says so first, and
// puts back what it has found only when the next one has let go of everything.
const takeOverVersion = 2

// How long a side waits for the other's next message: while packets pass, and while they do not; without preload, a million flows have taken 6 s. And for the
// workers to pause.
const (
	setUpWait  = 30 * time.Second
	frozenWait = 20 * time.Second
	pauseWait  = 5 * time.Second
	leaveWait  = 10 * time.Second // for the end of one that does not take over after all
)

// ErrHandedOver is what Run returns when another process has taken over: links and dom0 are that one's.
var ErrHandedOver = errors.New("another process has taken over")

var errStopped = errors.New("this router is being stopped: start the next one when it has ended")

// Namespace is dom0's kernel, as package dom0 has it.
type Namespace interface {
	// Hold leaves it alone until Resume, and returns a copy of the lock that keeps other routers out.
	Hold() (lock int, err error)
	Resume() error

	// Leave leaves it to who has the lock.
	Leave()
}

// takeOverMessage is a message of either side.
type takeOverMessage struct {
	Version int                     `json:"version,omitempty"`
	Links   *[stack.Host + 1]string `json:"links,omitempty"`   // names by stack.Side
	Socket  string                  `json:"socket,omitempty"`  // the control socket's path
	Metrics string                  `json:"metrics,omitempty"` // where those are scraped
	Files   []descriptorFor         `json:"files,omitempty"`   // what the descriptors beside it are
	More    bool                    `json:"more,omitempty"`    // there are more descriptors
	Step    string                  `json:"step,omitempty"`
	Error   string                  `json:"error,omitempty"`
}

type descriptorFor string

const (
	forGuests   descriptorFor = "guests"
	forUplink   descriptorFor = "uplink"
	forHost     descriptorFor = "host"
	forLock     descriptorFor = "lock"
	forControl  descriptorFor = "control"
	forMetrics  descriptorFor = "metrics"
	forSnapshot descriptorFor = "snapshot"
)

const (
	stepPreload  = "preload"
	stepFreeze   = "freeze"
	stepTaken    = "taken"
	stepReleased = "released"
)

// handable is a link that can be handed over.
type handable interface {
	Descriptors() ([]int, error)
	Release()
}

var linkFiles = [...]descriptorFor{stack.Guests: forGuests, stack.UplinkSide: forUplink, stack.Host: forHost}

func (r *Router) linkNames() (names [stack.Host + 1]string) {
	for side, l := range r.links {
		if l != nil {
			names[side] = l.Name()
		}
	}
	return names
}

// linksOf are the names of a configuration's links.
func linksOf(cfg *config.Config) (names [stack.Host + 1]string) {
	names[stack.Guests], names[stack.UplinkSide] = cfg.Bridge.TAP, cfg.Uplink.Name
	if cfg.Host != nil {
		names[stack.Host] = cfg.Host.Interface
	}
	return names
}

// sameLinks refuses to hand over to who has links of other names.
func (r *Router) sameLinks(next [stack.Host + 1]string) error {
	if now := r.linkNames(); next != now {
		return fmt.Errorf("the links are %q and would be %q: stop this router and start the next one; connections do not go on then", now, next)
	}
	return nil
}

// serveTakeOver answers POST /v1/takeover and tells whether another process has taken over. When ctx ends, this router is being stopped.
func (r *Router) serveTakeOver(ctx context.Context, w http.ResponseWriter) bool {
	if err := r.cannotHandOver(); err != nil {
		http.Error(w, err.Error(), http.StatusNotImplemented)
		return false
	}
	if startedBySystemd() { // it would start this one again, beside the next
		http.Error(w, "this router is a service of systemd's: udrouter upgrade", http.StatusConflict)
		return false
	}
	if !r.handing.TryLock() {
		http.Error(w, "another process is about to take over", http.StatusConflict)
		return false
	}
	defer r.handing.Unlock()
	if ctx.Err() != nil { // Run has not waited for this one
		http.Error(w, errStopped.Error(), http.StatusServiceUnavailable)
		return false
	}
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		r.log.Error("handing over failed", "error", err)
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Time{})
	p := &peer{c: c.(*net.UnixConn)}
	defer context.AfterFunc(ctx, p.stop)()
	_, err = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: udrouter-takeover\r\n\r\n")
	if err == nil {
		err = r.handOver(p)
	}
	if err != nil {
		r.log.Error("another process wanted to take over and did not", "error", err)
		return false
	}
	r.log.Info("another process has taken over")
	return true
}

// AwaitHandOver returns when no other process is about to take over. Who is told to end while one is waits for that before it ends Run: the next one fails otherwise.
func (r *Router) AwaitHandOver() {
	r.handing.Lock()
	defer r.handing.Unlock()
}

// cannotHandOver is why nobody can take over.
func (r *Router) cannotHandOver() error {
	if r.Dom0 == nil {
		return errors.New("this router cannot hand over")
	}
	return nil
}

func (r *Router) handOver(p *peer) (err error) {
	undo := func() error { return nil }
	defer func() {
		if err != nil { // as if nothing had been
			_ = p.send(takeOverMessage{Error: err.Error()}, nil)
			err = errors.Join(err, undo())
		}
	}()
	r.reloading.Lock() // the next one reads the file itself
	defer r.reloading.Unlock()
	hello, _, err := p.receive(setUpWait)
	switch {
	case err != nil:
		return err
	case hello.Version != takeOverVersion:
		return fmt.Errorf("the next process speaks version %d of the protocol, and this one %d: stop this one and start that", hello.Version, takeOverVersion)
	case hello.Links == nil:
		return errors.New("the next process names no links")
	}
	if err := r.sameLinks(*hello.Links); err != nil {
		return err
	}
	lock, err := r.Dom0.Hold()
	if err != nil {
		return err
	}
	fds, files := []int{lock}, []descriptorFor{forLock}
	suspended := r.suspendOffload()
	defer func() { stack.CloseAll(fds) }()
	resume := func() {}
	undo = func() error {
		err := r.Uplink.SetFilter(r.current.Load().filter())
		resume()
		err = errors.Join(err, r.resumeOffload())
		p.awaitEnd(leaveWait) // until then it may still set dom0 up, and note what it has found there
		return errors.Join(err, r.Dom0.Resume())
	}
	if suspended != nil {
		return suspended
	}
	for side, l := range r.links {
		if l == nil {
			continue
		}
		own, err := l.(handable).Descriptors()
		if err != nil {
			return fmt.Errorf("%w: it can be taken over when it is there", err)
		}
		for _, fd := range own {
			fds, files = append(fds, fd), append(files, linkFiles[side])
		}
	}
	listener, ok := r.Control.(*net.UnixListener)
	if ok && listener.Addr().String() == hello.Socket {
		fd, err := listenerCopy(listener)
		if err != nil {
			return err
		}
		fds, files = append(fds, fd), append(files, forControl)
	}
	if r.Metrics != nil && hello.Metrics == listenOf(r.current.Load().plan.config) {
		fd, err := listenerCopy(r.Metrics)
		if err != nil {
			return err
		}
		fds, files = append(fds, fd), append(files, forMetrics)
	}
	if err := p.sendAll(files, fds); err != nil {
		return err
	}
	rounds := flowRounds{}
	defer rounds.close()
	if err := r.preload(p, rounds, time.Now().Add(preloadTime)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), pauseWait)
	defer cancel()
	if resume, err = r.pause(ctx); err != nil {
		resume = func() {}
		return err
	}
	if err := r.sendSnapshot(p, func(w io.Writer) error { return r.save(w, rounds) }); err != nil {
		return err
	}
	if err := p.await(stepTaken, frozenWait); err != nil {
		return err
	}
	for _, l := range r.links {
		if l != nil {
			l.(handable).Release()
		}
	}
	if ok {
		listener.SetUnlinkOnClose(listener.Addr().String() != hello.Socket)
	}
	if l, ok := r.Metrics.(*net.UnixListener); ok {
		l.SetUnlinkOnClose(hello.Metrics != listenOf(r.current.Load().plan.config))
	}
	r.handedOver.Store(true) // before dom0 is closed: who asks for something that fails by that asks the next one
	r.Dom0.Leave()
	_ = p.send(takeOverMessage{Step: stepReleased}, nil) // the next one goes by the connection's end as well
	return nil
}

// Heritage is what a router has handed over so far. Whoever goes on with descriptors sets them to nil, or to -1.
type Heritage struct {
	Guests, Uplink, Host   []int
	Lock, Control, Metrics int // -1: none

	p         *peer               // nil: it is from systemd's store
	goOn      func() bool         // has the end of TakeOver's context not matter any more, and tells whether it has not come before
	listeners []*net.UnixListener // whose paths are this router's from Taken on
	snapshot  *os.File            // from there; nil: there was none
	stored    []string            // names there
}

// Stored tells that the heritage is from systemd's store, and no router runs that goes on when it is not used.
func (h *Heritage) Stored() bool { return h.p == nil }

// TakeOver asks the router that answers on cfg's control socket to hand over; nil where none does. When the heritage has been used, Freeze and then
// Taken have it end; Abandon has it go on. When ctx ends before Taken, each of them fails, and no other router ends for this one.
func TakeOver(ctx context.Context, cfg *config.Config) (*Heritage, error) {
	c, err := new(net.Dialer).DialContext(ctx, "unix", cfg.Control.Socket)
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("asking the router that runs to hand over: %w", err)
	}
	h := &Heritage{Lock: -1, Control: -1, Metrics: -1, p: &peer{c: c.(*net.UnixConn)}}
	h.goOn = context.AfterFunc(ctx, h.p.stop)
	if err := h.begin(cfg); err != nil {
		h.Abandon(err)
		if ended(err) { // by itself
			return nil, nil
		}
		return nil, fmt.Errorf("taking over from the router that runs: %w", err)
	}
	return h, nil
}

func (h *Heritage) begin(cfg *config.Config) error {
	if err := h.p.due(setUpWait); err != nil {
		return err
	}
	if _, err := io.WriteString(h.p.c, "POST /v1/takeover HTTP/1.1\r\nHost: udrouter\r\nContent-Length: 0\r\n\r\n"); err != nil {
		return err
	}
	// The router sends nothing more before it has the next message.
	resp, err := http.ReadResponse(bufio.NewReader(h.p.c), nil)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		why, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return fmt.Errorf("it answers %s: %s", resp.Status, why)
	}
	links := linksOf(cfg)
	if err := h.p.send(takeOverMessage{Version: takeOverVersion, Links: &links, Socket: cfg.Control.Socket, Metrics: listenOf(cfg)}, nil); err != nil {
		return err
	}
	for more := true; more; {
		m, fds, err := h.p.receive(setUpWait)
		if err == nil && len(fds) != len(m.Files) {
			err = fmt.Errorf("%d descriptors came for %d names", len(fds), len(m.Files))
		}
		if err != nil {
			stack.CloseAll(fds)
			return err
		}
		for i, fd := range fds {
			h.take(m.Files[i], fd)
		}
		more = m.More
	}
	if len(h.Guests) == 0 || len(h.Uplink) == 0 || (len(h.Host) > 0) != (cfg.Host != nil) || h.Lock < 0 {
		return errors.New("descriptors are missing")
	}
	return nil
}

func (h *Heritage) take(what descriptorFor, fd int) {
	switch what {
	case forGuests:
		h.Guests = append(h.Guests, fd)
	case forUplink:
		h.Uplink = append(h.Uplink, fd)
	case forHost:
		h.Host = append(h.Host, fd)
	case forLock:
		h.Lock = fd
	case forControl:
		h.Control = fd
	case forMetrics:
		h.Metrics = fd
	default:
		stack.CloseAll([]int{fd})
	}
}

// Freeze has the router that runs stop, and returns what it knows; nil where it has ended by itself.
func (h *Heritage) Freeze() (*os.File, error) {
	if h.Stored() {
		f := h.snapshot
		h.snapshot = nil
		return f, nil
	}
	if err := h.p.send(takeOverMessage{Step: stepFreeze}, nil); err != nil && !ended(err) {
		return nil, err
	}
	f, err := h.p.receiveSnapshot(2 * frozenWait)
	if ended(err) {
		return nil, nil
	}
	return f, err
}

// Taken tells the router that runs that everything is there, for it to end. After an error it goes on.
func (h *Heritage) Taken() error {
	if !h.Stored() && !h.goOn() {
		return errStopped
	}
	defer h.close()
	for _, l := range h.listeners {
		defer l.SetUnlinkOnClose(true) // from here on the path is this router's to remove
	}
	if h.Stored() {
		h.Discard(&h.Host) // what the configuration has no use for any more
		return h.forget()
	}
	defer h.p.c.Close()
	if err := h.p.send(takeOverMessage{Step: stepTaken}, nil); err != nil && !ended(err) {
		return err
	}
	if err := h.p.await(stepReleased, 2*frozenWait); err != nil && !ended(err) {
		return err
	}
	return nil
}

// Abandon closes what was not used, and has the router that runs go on.
func (h *Heritage) Abandon(err error) {
	if errors.Is(err, errStopped) {
		err = errors.New("it was told to end")
	}
	if !h.Stored() {
		_ = h.p.send(takeOverMessage{Error: err.Error()}, nil)
		h.p.c.Close()
	}
	h.close()
}

// close closes what was not used.
func (h *Heritage) close() {
	for _, fds := range [][]int{h.Guests, h.Uplink, h.Host} {
		stack.CloseAll(fds)
	}
	for _, fd := range []int{h.Lock, h.Control, h.Metrics} {
		if fd >= 0 {
			stack.CloseAll([]int{fd})
		}
	}
	h.Guests, h.Uplink, h.Host, h.Lock, h.Control, h.Metrics = nil, nil, nil, -1, -1, -1
	if h.snapshot != nil {
		h.snapshot.Close()
	}
}

// ended tells whether an error means that the other process is no more: who only gives up says so first.
func ended(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// Listener is the control socket that was handed over; nil where there is none. It takes the descriptor over.
func (h *Heritage) Listener() (net.Listener, error) { return h.listen(&h.Control, "control socket") }

// MetricsListener is where metrics are scraped, as it was handed over; nil where it was not. It takes the descriptor over.
func (h *Heritage) MetricsListener() (net.Listener, error) { return h.listen(&h.Metrics, "metrics") }

func (h *Heritage) listen(fd *int, what string) (net.Listener, error) {
	if *fd < 0 {
		return nil, nil
	}
	f := os.NewFile(uintptr(*fd), what)
	*fd = -1
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("taking over where %s is listened on: %w", what, err)
	}
	if u, ok := l.(*net.UnixListener); ok {
		h.listeners = append(h.listeners, u)
	}
	return l, nil
}
