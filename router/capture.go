package router

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"udrouter/policy"
	"udrouter/stack"
)

// Captures see frames as they arrive, with what became of them. Workers copy into slots that a reader gives back and never wait for one: what finds no slot
// is missed, and counted. While nobody captures, a batch of frames costs one load of a pointer.
const (
	maxCaptures   = 4
	captureMemory = 8 << 20 // bytes of a capture's slots
	captureSlots  = 4096    // at most
	leastSnap     = 64      // bytes of a frame
	defaultSnap   = 2048
	maxSnap       = stack.MaxFrame
)

// CaptureStatus counts for all captures of this process; Frames and Missed those that they wanted.
type CaptureStatus struct {
	Active int    `json:"active"`
	Frames uint64 `json:"frames"`
	Missed uint64 `json:"missed"`
}

// fate is what became of the packet at hand.
type fate struct {
	reason, would   policy.Reason
	rule, wouldRule policy.RuleID
	passed          bool // it goes to a link, or waits for its next hop
	to              stack.Side
}

// verdict is "accept" for what goes on, "drop" for what is refused, and "router" for what the router itself has taken, or what concerns nobody.
func (f *fate) verdict() string {
	switch {
	case f.reason != policy.None:
		return "drop"
	case f.passed:
		return "accept"
	}
	return "router"
}

// capturing are the captures that go on.
type capturing struct {
	all            atomic.Pointer[[]*capture] // nil: none
	mu             sync.Mutex                 // held by who changes it
	frames, missed atomic.Uint64
}

// list is nil where nobody captures.
func (c *capturing) list() []*capture {
	if all := c.all.Load(); all != nil {
		return *all
	}
	return nil
}

var errCaptures = fmt.Errorf("%d captures go on already, which is as many as there may be: end one", maxCaptures)

func (c *capturing) add(one *capture) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.list()
	if len(all) == maxCaptures {
		return errCaptures
	}
	all = append(slices.Clone(all), one)
	c.all.Store(&all)
	return nil
}

func (c *capturing) remove(one *capture) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := slices.DeleteFunc(slices.Clone(c.list()), func(o *capture) bool { return o == one })
	if len(all) == 0 {
		c.all.Store(nil)
		return
	}
	c.all.Store(&all)
}

func (c *capturing) status() CaptureStatus {
	return CaptureStatus{Active: len(c.list()), Frames: c.frames.Load(), Missed: c.missed.Load()}
}

// capture is what somebody wants to see.
type capture struct {
	domu, verdict string        // "": any
	reason        policy.Reason // None: any
	snap          int           // bytes of a frame
	limit         int           // frames, after which it ends; 0: none
	json          bool

	free, full chan *captured
	missed     atomic.Uint64 // since the last that was taken
}

// captured is a frame as it came, and what became of it.
type captured struct {
	data     []byte // of its first bytes
	length   int    // of all
	at       time.Time
	from     stack.Side
	fate     fate
	engine   *policy.Engine // whose rules fate names
	src, dst string         // guests; "": none
	offload  policy.Offload
	missed   uint64 // frames before it
}

// newCapture reads a question: domu, verdict, reason, snaplen, count and format.
func (r *Router) newCapture(q url.Values) (*capture, error) {
	c := &capture{domu: q.Get("domu"), verdict: q.Get("verdict"), json: q.Get("format") == "json"}
	if c.domu != "" && !slices.ContainsFunc(r.current.Load().Guests, func(g *policy.Guest) bool { return g.Name == c.domu }) {
		return nil, fmt.Errorf("there is no domu %q", c.domu)
	}
	if word := q.Get("reason"); word != "" {
		var err error
		if c.reason, err = policy.ParseReason(word); err != nil {
			return nil, err
		}
	}
	switch {
	case c.verdict != "" && c.verdict != "accept" && c.verdict != "drop":
		return nil, fmt.Errorf("verdict takes accept or drop, not %q", c.verdict)
	case c.verdict == "accept" && c.reason != policy.None:
		return nil, errors.New("what is accepted has no reason: leave one of the two out")
	}
	var err error
	number := func(key string, least, most, dflt int) int {
		n, e := strconv.Atoi(cmp.Or(q.Get(key), strconv.Itoa(dflt)))
		if e != nil || n < least || n > most {
			err = errors.Join(err, fmt.Errorf("%s takes a number from %d to %d, not %q", key, least, most, q.Get(key)))
		}
		return n
	}
	c.snap, c.limit = number("snaplen", leastSnap, maxSnap, defaultSnap), number("count", 0, 1<<31-1, 0)
	if err != nil {
		return nil, err
	}
	slots := min(captureMemory/c.snap, captureSlots)
	c.free, c.full = make(chan *captured, slots), make(chan *captured, slots)
	memory := make([]byte, slots*c.snap)
	for i := range slots {
		c.free <- &captured{data: memory[i*c.snap:][:0:c.snap]}
	}
	return c, nil
}

// wants tells whether a capture is about a frame.
func (c *capture) wants(f *fate, src, dst string) bool {
	return (c.domu == "" || c.domu == src || c.domu == dst) && (c.verdict == "" || c.verdict == f.verdict()) && (c.reason == policy.None || c.reason == f.reason)
}

// wantsAccepted tells whether a capture is about frames that are accepted, as are all that the kernel forwards by itself.
func (c *capture) wantsAccepted() bool { return c.verdict != "drop" && c.reason == policy.None }

// watch handles a frame, and shows it to who captures.
func (w *worker) watch(f *stack.Frame) {
	if w.before == nil {
		w.before = make([]byte, maxSnap)
	}
	data := w.before[:copy(w.before, f.Bytes())]
	length, offload := len(f.Bytes()), f.Offload
	w.fate = fate{}
	w.handle(f)
	src, dst := w.guests()
	for _, c := range w.captures {
		if !c.wants(&w.fate, src, dst) {
			continue
		}
		select {
		case s := <-c.free:
			*s = captured{data: append(s.data[:0], data[:min(len(data), c.snap)]...), length: length, at: time.Now(), from: w.side, fate: w.fate, engine: w.world.engine,
				src: src, dst: dst, offload: offload, missed: c.missed.Swap(0)}
			c.full <- s // it has as much room as there are slots
			w.capturing.frames.Add(1)
		default:
			c.missed.Add(1)
			w.capturing.missed.Add(1)
		}
	}
}

// guests are the names of those that the packet at hand is from and to; "" for none.
func (w *worker) guests() (src, dst string) {
	p := &w.pkt
	if w.side == stack.Guests {
		if g := w.world.ByMAC(p.SrcMAC); g != nil {
			src = g.Name
		}
	}
	if p.Dst.IsValid() {
		if g := w.world.ByAddr(p.Dst); g != nil {
			dst = g.Name
		}
	}
	return src, dst
}

// comment says what became of a frame, in a line.
func (s *captured) comment(links *[stack.Host + 1]string) string {
	text := s.fate.verdict()
	rule := func(id policy.RuleID) {
		if info, ok := s.engine.Rule(id); ok && id != 0 {
			text += fmt.Sprintf(", %s of %s in %s, %s", cmp.Or(info.Rule, "default"), info.Chain, info.Policy, info.Source)
		}
	}
	switch {
	case s.fate.reason != policy.None:
		text += fmt.Sprintf(" %s: %s", s.fate.reason, s.fate.reason.Text())
		rule(s.fate.rule)
	case s.fate.passed:
		text += " to " + links[s.fate.to]
	}
	if s.src != "" {
		text += "; from domu " + s.src
	}
	if s.dst != "" {
		text += "; to domu " + s.dst
	}
	if s.fate.would != policy.None {
		text += fmt.Sprintf("; in shadow mode: %s", s.fate.would)
		rule(s.fate.wouldRule)
	}
	if s.offload.GSOType != policy.GSONone {
		text += fmt.Sprintf("; GSO: segments of %d bytes", s.offload.GSOSize)
	}
	if s.offload.Flags&policy.NeedsCsum != 0 {
		text += "; checksum not filled in yet"
	}
	return text
}
