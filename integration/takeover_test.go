package integration

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"udrouter/integration/lab"
	"udrouter/integration/wire"
)

// takeOver starts the next router, which takes over from p.
func takeOver(t testing.TB, l *lab.Lab, p *lab.Proc, args ...string) *lab.Proc {
	t.Helper()
	next := startRouter(t, l, append([]string{"--takeover", "--state", p.State, "--socket", p.Socket}, args...)...)
	next.Socket, next.State = p.Socket, p.State
	return next
}

// stream sends numbered datagrams that are echoed, and counts those that come back.
type stream struct {
	conn     net.Conn
	sent     atomic.Uint64
	longest  time.Duration // between two that came
	received atomic.Uint64
	done     chan struct{}
}

func startStream(t *testing.T, from *lab.Node, to netip.AddrPort) *stream {
	t.Helper()
	c, err := from.DialFrom(testContext(t), "udp", netip.Addr{}, to.String())
	must(t, err)
	s := &stream{conn: c, done: make(chan struct{})}
	t.Cleanup(func() { c.Close() })
	go s.receive()
	return s
}

func (s *stream) receive() {
	defer close(s.done)
	seen, b, last := map[uint64]bool{}, make([]byte, 100), time.Now()
	for {
		n, err := s.conn.Read(b)
		if err != nil {
			return
		}
		if id := binary.BigEndian.Uint64(b[:n]); !seen[id] {
			seen[id] = true
			s.received.Add(1)
		}
		s.longest = max(s.longest, time.Since(last))
		last = time.Now()
	}
}

// send sends a datagram every 4 ms until ctx ends: what comes at once after a pause is to fit into the ends' own sockets (208 KiB).
func (s *stream) send(ctx context.Context) error {
	tick := time.NewTicker(4 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if _, err := s.conn.Write(binary.BigEndian.AppendUint64(nil, s.sent.Load())); err != nil {
				return err
			}
			s.sent.Add(1)
		}
	}
}

// everyWay opens connections between two nodes, of both families and directions, and has as many transfer so many bytes meanwhile.
func everyWay(t *testing.T, a, b *lab.Node, port uint16, size int, transfers *errgroup.Group) (idle []*lab.Conn) {
	t.Helper()
	for _, ends := range [][2]*lab.Node{{a, b}, {b, a}} {
		from, to := ends[0], ends[1]
		for _, addr := range []netip.Addr{to.Addr4(), to.Addr6()} {
			c := openTCP(t, from, to, addr, int(port))
			must(t, c.Check(testContext(t)))
			idle = append(idle, c)
			transfers.Go(func() error { return from.Transfer(testContext(t), netip.AddrPortFrom(addr, port), size) })
		}
	}
	return idle
}

// A new process takes over, several times in a row, while connections of both families and directions are busy or idle: all go on, no datagram is lost, the
// counters go on, and in the end dom0 is as it was before the first.
func TestTakeOver(t *testing.T) {
	one, two, offload := []string{"--workers", "1"}, []string{"--workers", "2"}, []string{"--workers", "1", "--offload"}
	for name, args := range map[string][][]string{"a worker": {one, one, one, one}, "two workers": {two, two, two, two}, "offload": {offload, offload, offload, offload},
		"offload by turns": {offload, one, offload, one}} {
		t.Run(name, func(t *testing.T) {
			l := buildLab(t, "", lab.Options{})
			before, err := l.Dom0State()
			must(t, err)
			p := startRouter(t, l, args[0]...)
			guest, x := l.Guests[0].Node, l.Internet
			const port, size = 443, 64 << 20
			must(t, x.ServeUDP(7))
			streams := []*stream{startStream(t, guest, netip.AddrPortFrom(x.Addr4(), 7)), startStream(t, guest, netip.AddrPortFrom(x.Addr6(), 7))}
			ctx, stop := context.WithCancel(testContext(t))
			defer stop()
			var sending, transfers errgroup.Group
			for _, s := range streams {
				sending.Go(func() error { return s.send(ctx) })
			}
			idle := everyWay(t, guest, x, port, size, &transfers)
			stopped := regexp.MustCompile(`gap=(\S+)`)
			for _, args := range args[1:] {
				was := status(t, p)
				next := takeOver(t, l, p, args...)
				<-p.Exited()
				must(t, p.Stop()) // it has ended with status 0
				now := status(t, next)
				if now.Uptime < was.Uptime || now.Domus[0].TxPackets < was.Domus[0].TxPackets || now.Links[0].RxPackets < was.Links[0].RxPackets || now.Flows.Active < was.Flows.Active ||
					now.Flows.OffloadHits < was.Flows.OffloadHits {
					t.Errorf("counters go back: %+v, was %+v", now, was)
				}
				if now.ForeignMAC != 0 || now.Drops["internal"] != 0 {
					t.Errorf("foreign MACs %d, drops %v", now.ForeignMAC, now.Drops)
				}
				for _, touched := range []string{"locking", "binding", "joining", "removing"} {
					if strings.Contains(next.Log(), "dom0: "+touched) {
						t.Errorf("a port was touched (%s):\n%s", touched, next.Log())
					}
				}
				if m := stopped.FindStringSubmatch(next.Log()); m != nil {
					t.Logf("nobody forwarded for %s", m[1])
				}
				for i, c := range idle {
					if err := c.Check(testContext(t)); err != nil {
						t.Errorf("idle connection %d: %v", i, err)
					}
				}
				p = next
			}
			must(t, transfers.Wait())
			stop()
			must(t, sending.Wait())
			for _, s := range streams {
				ctx, cancel := context.WithTimeout(testContext(t), 5*time.Second)
				defer cancel()
				_ = lab.Await(ctx, "all datagrams", func() (bool, error) { return s.received.Load() == s.sent.Load(), nil })
				s.conn.Close()
				<-s.done
				if s.received.Load() != s.sent.Load() {
					t.Errorf("%d of %d datagrams came back; drops %v", s.received.Load(), s.sent.Load(), status(t, p).Drops)
				}
				t.Logf("%d datagrams, the longest gap %v", s.sent.Load(), s.longest)
			}
			drops := status(t, p).Drops
			for _, reason := range []string{"no-flow", "tcp-window", "tcp-state", "no-neighbour", "unbound-dst"} {
				// What waits in the TAP while the kernel begins to forward comes late, and may be refused as old.
				if drops[reason] != 0 && (reason != "tcp-window" || !strings.Contains(name, "offload") || drops[reason] > 8) {
					t.Errorf("drops %v", drops)
				}
			}
			must(t, p.Stop())
			same(t, l, before)
			if _, err := os.Lstat(p.Socket); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is left: %v", p.Socket, err)
			}
		})
	}
}

// Without a router that runs, --takeover starts as usual; what cannot be taken over leaves the one that runs as it was.
func TestTakeOverRefused(t *testing.T) {
	for _, args := range [][]string{nil, {"--offload"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) { takeOverRefused(t, args) })
	}
}

func takeOverRefused(t *testing.T, args []string) {
	l := buildLab(t, "", lab.Options{})
	before, err := l.Dom0State()
	must(t, err)
	p := startRouter(t, l, append([]string{"--takeover"}, args...)...)
	c := openTCP(t, l.Guests[0].Node, l.Internet, l.Internet.Addr4(), 443)
	must(t, c.Check(testContext(t)))
	running, err := l.Dom0State()
	must(t, err)
	file, err := l.ConfigPath()
	must(t, err)
	for _, x := range []struct{ name, old, new, want string }{
		{"another TAP", `tap = "udr0"`, `tap = "udr1"`, "links"},
		{"a mistake", `uplink "eth0"`, `uplonk "eth0"`, "uplonk"},
	} {
		src := strings.Replace(readFile(t, file), x.old, x.new, 1)
		if src == readFile(t, file) {
			t.Fatalf("%s: the file has no %s", x.name, x.old)
		}
		other := filepath.Join(t.TempDir(), "router.hcl")
		must(t, os.WriteFile(other, []byte(src), 0o600))
		out, err := l.Dom0.Command(testContext(t), wire.Exe, "run", "--takeover", "-c", other, "--state", p.State, "--socket", p.Socket).CombinedOutput()
		if err == nil || !strings.Contains(string(out), x.want) {
			t.Errorf("%s: %v\n%s", x.name, err, out)
		}
		must(t, c.Check(testContext(t)))
	}
	// Another state directory is found out only when the links are there already.
	out, err := l.Dom0.Command(testContext(t), wire.Exe, "run", "--takeover", "-c", file, "--state", t.TempDir(), "--socket", p.Socket).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "state directory") {
		t.Errorf("another state directory: %v\n%s", err, out)
	}
	must(t, c.Check(testContext(t)))
	if now, err := l.Dom0State(); err != nil || len(lab.DiffState(running, now)) > 0 {
		t.Errorf("dom0 has changed: %v\n%s", err, strings.Join(lab.DiffState(running, now), "\n"))
	}
	if len(args) > 0 {
		must(t, lab.Await(testContext(t), "the kernel to forward again", func() (bool, error) {
			before := status(t, p).Flows.OffloadHits
			if err := c.Check(testContext(t)); err != nil {
				return false, err
			}
			return status(t, p).Flows.OffloadHits > before, nil
		}))
	}
	must(t, p.Stop())
	same(t, l, before)
}
