package integration

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"udrouter/integration/cases"
	"udrouter/integration/lab"
	"udrouter/policy"
)

// load is what guests do while somebody looks: TCP connections that are used, transfers, datagrams and echo in both families and directions, to the internet and
// to each other, and a guest that forges. Each waits a little between two packets, so that it is bounded.
type load struct {
	stop    context.CancelFunc
	going   errgroup.Group
	streams []*stream
}

// startLoad has guests one and two talk, and three forge. It ends with the test, if not before.
func startLoad(t *testing.T, l *lab.Lab, router policy.MAC) *load {
	t.Helper()
	ctx, stop := context.WithCancel(testContext(t))
	d := &load{stop: stop}
	t.Cleanup(func() { stop(); _ = d.going.Wait() })
	one, two, x := l.Guest("one").Node, l.Guest("two").Node, l.Internet
	for i, c := range []struct {
		from, to *lab.Node
		a        netip.Addr
	}{{one, x, x.Addr4()}, {one, x, x.Addr6()}, {x, two, two.Addr4()}, {x, one, one.Addr6()}, {two, one, one.Addr4()}, {one, two, two.Addr6()}} {
		conn := openTCP(t, c.from, c.to, c.a, 4000+i)
		d.every(ctx, 10*time.Millisecond, func() error { return conn.Check(testContext(t)) })
	}
	_, err := x.ServeTCP(443)
	must(t, err)
	d.every(ctx, 50*time.Millisecond, func() error { return two.Transfer(testContext(t), netip.AddrPortFrom(x.Addr6(), 443), 1<<20) })
	for _, n := range []*lab.Node{x, two} {
		must(t, n.ServeUDP(7))
	}
	for _, c := range []struct {
		from *lab.Node
		to   netip.Addr
	}{{one, x.Addr4()}, {two, x.Addr6()}, {x, two.Addr4()}} {
		s := startStream(t, c.from, netip.AddrPortFrom(c.to, 7))
		d.streams = append(d.streams, s)
		d.going.Go(func() error { return s.send(ctx) })
		ping, err := c.from.Pinger(testContext(t), c.to)
		must(t, err)
		t.Cleanup(ping.Close)
		d.every(ctx, 20*time.Millisecond, func() error { _, err := ping.Ping(timeout); return err })
	}
	three := l.Guest("three")
	forge, err := three.Sender(three.Link)
	must(t, err)
	for _, f := range [][]byte{
		cases.UDP(router, three.MAC, cases.One4, cases.X4, 8), // another guest's address
		cases.UDP(router, three.MAC, three.Addr4(), netip.MustParseAddr("127.0.0.1"), 8),
	} {
		d.every(ctx, 5*time.Millisecond, func() error { return forge.Send(f) })
	}
	return d
}

// every does something again and again until ctx ends, or it fails.
func (d *load) every(ctx context.Context, pause time.Duration, do func() error) {
	d.going.Go(func() error {
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
				if err := do(); err != nil {
					return err
				}
			}
		}
	})
}

// end stops it. An error says which connection has not lived, or that datagrams were lost.
func (d *load) end(ctx context.Context) error {
	d.stop()
	err := d.going.Wait()
	for _, s := range d.streams {
		err = errors.Join(err, lab.Await(ctx, "all datagrams", func() (bool, error) { return s.received.Load() == s.sent.Load(), nil }))
	}
	return err
}
