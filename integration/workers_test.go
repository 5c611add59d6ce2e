package integration

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sync/errgroup"

	"udrouter/integration/lab"
)

// With several workers everything is as with one: what the lab shows holds, and of many connections at a time, in both directions and families,
// nothing is lost but by TCP's own doing, and nothing refused.
func TestWorkers(t *testing.T) {
	const port, flows, size = 443, 16, 1 << 20
	for _, n := range []int{1, 2, 4} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			l := buildLab(t, "", lab.Options{})
			p := startRouter(t, l, "--workers", fmt.Sprint(n))
			before := status(t, p)
			guest, x := l.Guests[0].Node, l.Internet
			for _, node := range []*lab.Node{guest, x} {
				_, err := node.ServeTCP(port)
				must(t, err)
			}
			var g errgroup.Group
			for i := range flows {
				from, to := guest, x
				if i%2 == 1 {
					from, to = x, guest
				}
				addr := to.Addr4()
				if i%4 >= 2 {
					addr = to.Addr6()
				}
				g.Go(func() error { return from.Transfer(testContext(t), netip.AddrPortFrom(addr, port), size) })
			}
			must(t, g.Wait())
			after := status(t, p)
			for _, reason := range []string{"tcp-state", "no-flow", "malformed", "checksum", "internal", "no-neighbour", "link-down"} {
				if d := after.Drops[reason] - before.Drops[reason]; d != 0 {
					t.Errorf("%d packets were dropped as %s", d, reason)
				}
			}
			if after.Flows.Hits == before.Flows.Hits || after.ForeignMAC != 0 {
				t.Errorf("%d hits, %d foreign MACs", after.Flows.Hits-before.Flows.Hits, after.ForeignMAC)
			}
			var report bytes.Buffer
			held, err := l.Show(testContext(t), &report, lab.ShowOptions{Router: p, Enforced: true})
			if err != nil || !held {
				t.Errorf("held %v, %v\n%s", held, err, report.String())
			}
		})
	}
}
