package main

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"udrouter/integration/cases"
	"udrouter/integration/lab"
	"udrouter/integration/wire"
	"udrouter/policy"
)

// perSecond is how many datagrams the theatre's load has.
const perSecond = 10000

// theatre is a network in which much goes on: guest one has flows open to the internet, half of them of each family, and guest two sends ten thousand
// datagrams a second, every fourth of them forged.
type theatre struct {
	lab    *lab.Lab
	proc   *lab.Proc
	conns  []*lab.Conn
	forged *lab.Sniffer // at the provider, where none may be seen
	true   *lab.Sniffer // the others
	sent   atomic.Int64
}

// openTheatre makes one with the reference's policy, until the test ends.
func openTheatre(t *testing.T, flows int, args ...string) *theatre {
	l := wire.BuildLab(t, "", lab.Options{})
	th := &theatre{lab: l, proc: wire.StartRouter(t, l, args...)}
	one, two := l.Guest("one"), l.Guest("two")
	const port = 443
	_, err := l.Internet.ServeTCP(port)
	wire.Must(t, err)
	for i := range flows {
		to := l.Internet.Addr4()
		if i%2 == 1 {
			to = l.Internet.Addr6()
		}
		c, err := one.Open(wire.Context(t), netip.AddrPortFrom(to, port))
		wire.Must(t, err)
		t.Cleanup(func() { c.Close() })
		th.conns = append(th.conns, c)
	}
	st := wire.Status(t, th.proc)
	router, err := policy.ParseMAC(st.RouterMAC)
	wire.Must(t, err)
	from := func(a netip.Addr) func([]byte) bool {
		return func(f []byte) bool {
			var p policy.Packet
			p.Parse(f, policy.Offload{})
			return p.Src == a && p.Proto == policy.ProtoUDP
		}
	}
	one4 := from(one.Addr4())
	th.forged, err = l.Gateway.Sniff(l.Gateway.Link, lab.SniffOptions{Keep: one4})
	wire.Must(t, err)
	th.true, err = l.Gateway.Sniff(l.Gateway.Link, lab.SniffOptions{Keep: from(two.Addr4()), Max: 1 << 20})
	wire.Must(t, err)
	to, err := two.Sender(two.Link)
	wire.Must(t, err)
	frames := [4][]byte{
		cases.UDP(router, two.MAC, two.Addr4(), x4, 8), cases.UDP(router, two.MAC, two.Addr4(), x4, 8), cases.UDP(router, two.MAC, two.Addr4(), x4, 8),
		cases.UDP(router, two.MAC, one.Addr4(), x4, 8),
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		start := time.Now()
		for n := 0; ; {
			select {
			case <-stop:
				return
			case <-tick.C:
				for ; n < int(time.Since(start).Seconds()*perSecond); n++ {
					if to.Send(frames[n%len(frames)]) == nil { // a link may be down
						th.sent.Add(1)
					}
				}
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-stopped })
	return th
}

// goesOn waits until datagrams that are sent from now on get through, and sees that each flow is still served.
func (th *theatre) goesOn(t *testing.T) {
	t.Helper()
	seen := len(th.true.Frames())
	_, err := th.true.AwaitFrom(wire.Context(t), seen, func(lab.Frame) bool { return true })
	wire.Must(t, err)
	var all errgroup.Group
	for i, c := range th.conns {
		all.Go(func() error {
			if err := c.Check(wire.Context(t)); err != nil {
				return fmt.Errorf("flow %d of %d: %w", i, len(th.conns), err)
			}
			return nil
		})
	}
	wire.Must(t, all.Wait())
}

// end sees that nothing forged got through in all the time.
func (th *theatre) end(t *testing.T) {
	t.Helper()
	if n := th.forged.Count(func(lab.Frame) bool { return true }); n > 0 {
		t.Errorf("%d forged datagrams came to the provider", n)
	}
	st := wire.Status(t, th.proc)
	if st.Drops[policy.IPBinding.String()] == 0 {
		t.Errorf("none of %d datagrams was dropped as forged, and a fourth of them was: this shows nothing", th.sent.Load())
	}
	if st.ForeignMAC != 0 || st.Drops[policy.Internal.String()] != 0 {
		t.Errorf("foreign MACs %d, drops %v", st.ForeignMAC, st.Drops)
	}
	t.Logf("%d datagrams", th.sent.Load())
}

// Two hundred connections live through kills by each signal that ends a process at once, while ten thousand datagrams come a second; nothing forged passes
// before the policy is in force (attack 77, CVE-2015-5240).
func TestKilledUnderLoad(t *testing.T) {
	state := t.TempDir()
	th := openTheatre(t, 200, "--state", state)
	for _, s := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSEGV, syscall.SIGABRT} {
		th.goesOn(t)
		wire.Must(t, th.proc.Signal(s))
		<-th.proc.Exited()
		th.proc = wire.StartRouter(t, th.lab, "--state", state)
		th.goesOn(t)
	}
	th.end(t)
}

// The uplink goes down and comes up again and again under the same load: what is sent afterwards gets through, and the process lives (attack 73).
func TestFlapsUnderLoad(t *testing.T) {
	th := openTheatre(t, 20)
	dom0 := th.lab.Dom0
	for range times(10, 100) {
		wire.Must(t, dom0.SetDown(dom0.Link))
		wire.Must(t, dom0.SetUp(dom0.Link))
		wire.Must(t, th.lab.RestoreUplink())
		th.goesOn(t)
	}
	th.end(t)
}

// The router is told to reload over and over, every tenth time by a signal, under the same load: no flow ends, and nothing forged passes under a policy that is
// half in force (attack 78).
func TestReloadsUnderLoad(t *testing.T) {
	th := openTheatre(t, 20)
	n := times(40, 1000)
	for i := range n {
		if i%10 == 9 {
			wire.Must(t, th.proc.Signal(syscall.SIGHUP))
		}
		_, err := th.proc.Post(wire.Context(t), "/v1/reload")
		wire.Must(t, err)
		if i%10 == 0 {
			th.goesOn(t)
		}
	}
	if got := wire.Status(t, th.proc).Reloads; got < uint64(n) {
		t.Errorf("%d reloads of %d are counted", got, n)
	}
	th.goesOn(t)
	th.end(t)
}

// The router is stopped and goes on, over and over, under the same load: no flow ends (attack 79).
func TestStoppedUnderLoad(t *testing.T) {
	th := openTheatre(t, 200)
	for range times(3, 30) {
		wire.Must(t, th.proc.Signal(syscall.SIGSTOP))
		had := th.sent.Load()
		wire.Must(t, lab.Await(wire.Context(t), "ten thousand datagrams", func() (bool, error) { return th.sent.Load() >= had+int64(times(2000, 10000)), nil }))
		wire.Must(t, th.proc.Signal(syscall.SIGCONT))
		th.goesOn(t)
	}
	th.end(t)
}
