package integration

import (
	"bytes"
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"

	"udrouter/integration/lab"
	"udrouter/integration/wire"
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

// A TAP that the user has made for one queue has one worker, which says so; an impossible number of workers is a mistake.
func TestWorkersOfOneQueue(t *testing.T) {
	l := buildLab(t, "", lab.Options{})
	must(t, l.Dom0.Do(func() error {
		return netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: l.Config.Bridge.TAP}, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_ONE_QUEUE})
	}))
	p := startRouter(t, l, "--workers", "3")
	must(t, p.AwaitLog(testContext(t), regexp.MustCompile("fewer queues")))
	ping(t, l.Guests[0].Node, l.Internet.Addr4())
	ping(t, l.Guests[0].Node, l.Internet.Addr6())
	for _, n := range []string{"0", "257"} {
		if out, err := exec.Command(wire.Exe, "run", "-c", "router.hcl", "--workers", n).CombinedOutput(); err == nil || !strings.Contains(string(out), "--workers is "+n) {
			t.Errorf("with %s workers: %v, %s", n, err, out)
		}
	}
}
