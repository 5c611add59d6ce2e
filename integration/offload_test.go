package integration

import (
	"fmt"
	"net/netip"
	"testing"

	"udrouter/integration/lab"
)

// What the kernel forwards by itself arrives, in both directions and families, and is counted as if the router had forwarded it.
func TestOffload(t *testing.T) {
	const port, size = 443, 64 << 20
	l := buildLab(t, "", lab.Options{})
	p := startRouter(t, l, "--offload")
	guest, x := l.Guests[0].Node, l.Internet
	for _, node := range []*lab.Node{guest, x} {
		_, err := node.ServeTCP(port)
		must(t, err)
	}
	for _, dir := range []struct {
		name     string
		from, to *lab.Node
	}{{"up", guest, x}, {"down", x, guest}} {
		for _, a := range []netip.Addr{dir.to.Addr4(), dir.to.Addr6()} {
			t.Run(fmt.Sprint(dir.name, " ", a), func(t *testing.T) {
				before := status(t, p)
				must(t, dir.from.Transfer(testContext(t), netip.AddrPortFrom(a, port), size))
				after := status(t, p)
				if n := after.Flows.OffloadHits - before.Flows.OffloadHits; n < 500 {
					t.Errorf("the kernel has forwarded %d packets", n)
				}
				t.Logf("%+v %+v %v", before.Flows, after.Flows, after.Drops)
			})
		}
	}
}
