package router

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"udrouter/integration/cases"
	"udrouter/policy"
	"udrouter/stack"
	"udrouter/stack/stacktest"
)

// source is a link that always has frames: of one flow after the other, as many as it may give out.
type source struct {
	*stacktest.Link
	frames [2][]byte    // of a guest each
	allow  atomic.Int64 // until so many
	given  atomic.Int64
	flows  int64
}

func (l *source) Queues() []stack.Queue { return []stack.Queue{l} }

func (l *source) Receive(batch []*stack.Frame) (int, error) {
	if l.Waker().Closed() {
		return 0, stack.ErrClosed
	}
	given := l.given.Load()
	n := max(0, min(int64(len(batch)), l.allow.Load()-given))
	for i := range n {
		// Neighbours in the tables do not follow each other.
		flow := uint32((given + i) * 7919 % l.flows)
		b := l.frames[flow&1]
		at := policy.EthernetLen + policy.IPv4Len
		copy(b[at-4:], []byte{203, 0, 113, byte(flow >> 16)})
		binary.BigEndian.PutUint16(b[at:], uint16(flow))
		ip := b[policy.EthernetLen:at]
		ip[10], ip[11] = 0, 0
		binary.BigEndian.PutUint16(ip[10:], ^policy.FoldChecksum(policy.Sum(ip, 0)))
		batch[i].Set(b)
		batch[i].Offload = policy.Offload{}
	}
	l.given.Add(n)
	return int(n), nil
}

// more lets so many more frames come.
func (l *source) more(n int64) {
	l.allow.Add(n)
	l.Waker().Wake()
}

// sink is an uplink that counts, and knows the longest time in which nothing came.
type sink struct {
	*stacktest.Link
	taken atomic.Int64
	last  atomic.Int64 // ns, 0: nobody asks
	gap   atomic.Int64
	start time.Time
	until atomic.Int64  // so many are awaited; 0: none are
	there chan struct{} // they have come
}

func (l *sink) Queues() []stack.Queue { return []stack.Queue{l} }

func (l *sink) Write(batch []*stack.Frame) {
	for _, f := range batch {
		if f.Bytes()[12] == 8 && f.Bytes()[13] == 0 {
			l.taken.Add(1)
		}
	}
	if n := l.until.Load(); n != 0 && l.taken.Load() >= n && l.until.CompareAndSwap(n, 0) {
		l.there <- struct{}{}
	}
	now := int64(time.Since(l.start))
	if last := l.last.Swap(now); last != 0 {
		l.gap.Store(max(l.gap.Load(), now-last))
	}
}

// await returns when so many frames have come in all.
func (l *sink) await(t testing.TB, n int64) {
	t.Helper()
	l.until.Store(n)
	if l.taken.Load() >= n && l.until.CompareAndSwap(n, 0) {
		return
	}
	select {
	case <-l.there:
	case <-time.After(2 * time.Minute):
		t.Fatalf("%d of %d frames have come", l.taken.Load(), n)
	}
}

// gapOf is the longest time without a frame while something is done.
func (l *sink) gapOf(do func()) time.Duration {
	l.gap.Store(0)
	do()
	return time.Duration(l.gap.Load())
}

// underLoad reloads a router with so many flows again and again while it has as much to do as it can, and tells for how long nothing passed: at most
// without a reload, and with one; and how long the reloads took.
func underLoad(t testing.TB, flows, reloads int) (quiet, gap, took time.Duration) {
	many := strings.Replace(edit(ingressOpen, "  limits {\n    flows = 1000000\n  }\n"+ingressOpen), "PROXY", "", 1)
	other := strings.Replace(many, `policy "open" {`, "policy \"open\" {\n  egress {\n    rule \"no mail\" {\n      action = \"drop\"\n      proto  = \"tcp\"\n      ports  = [25]\n    }\n  }", 1)
	s := knowing(t, many)
	in := &source{Link: stacktest.NewLink("udr0"), flows: int64(flows)}
	in.frames[0] = cases.UDP(s.RouterMAC, cases.MAC1, cases.One4, netip.MustParseAddr("203.0.113.0"), 8)
	in.frames[1] = cases.UDP(s.RouterMAC, cases.MAC2, cases.Two4, netip.MustParseAddr("203.0.113.0"), 8)
	out := &sink{Link: stacktest.NewLink("eth0"), start: time.Now(), there: make(chan struct{}, 1)}
	s.Uplink = out
	s.Router.links[stack.Guests], s.Router.links[stack.UplinkSide] = in, out
	s.start(t)
	in.more(int64(flows))
	out.await(t, int64(flows))
	if n := s.Status().Flows.Active; n != flows {
		t.Fatalf("%d flows, want %d", n, flows)
	}
	in.more(1 << 40) // full load until the end
	await := func(n int) { out.await(t, out.taken.Load()+int64(n)) }
	await(flows) // each remembers its way
	quiet = out.gapOf(func() { await(flows) })
	for i := range reloads {
		src := []string{other, many}[i%2]
		s.Around = &around{next: parseConfig(t, src)}
		gap = max(gap, out.gapOf(func() {
			began := time.Now()
			if err := s.Reload(); err != nil {
				t.Fatal(err)
			}
			took = max(took, time.Since(began))
			await(flows / 10)
		}))
	}
	in.allow.Store(0)
	if err := s.settled(t.Context()); err != nil { // all that was given has been written
		t.Fatal(err)
	}
	if n := s.counts(); len(n) != 0 || out.taken.Load() != in.given.Load() {
		t.Fatalf("%d frames came and %d left; counted %v", in.given.Load(), out.taken.Load(), n)
	}
	if n := s.Status().Flows.Active; n != flows {
		t.Fatalf("%d flows after the reloads, want %d", n, flows)
	}
	return quiet, gap, took
}

// Reloads under load lose no packet and no flow.
func TestReloadLosesNothing(t *testing.T) {
	quiet, gap, took := underLoad(t, 20_000, 20)
	t.Logf("longest time without a packet: %v, around a reload %v; a reload took up to %v", quiet, gap, took)
}

// The same with as many flows as there may be.
func BenchmarkReloadUnderLoad(b *testing.B) {
	for range b.N {
		quiet, gap, took := underLoad(b, 1_000_000, 6)
		b.ReportMetric(float64(quiet.Microseconds()), "µs-gap-without")
		b.ReportMetric(float64(gap.Microseconds()), "µs-gap")
		b.ReportMetric(float64(took.Milliseconds()), "ms-reload")
	}
}
