package integration

import (
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"udrouter/integration/lab"
)

// TCP connections through a router that is killed go on through the next one, opened by either side, busy or idle; bridge ports are not touched, and in
// the end dom0 is as it was before the first.
func TestConnectionsSurviveKill(t *testing.T) {
	l := buildLab(t, "", lab.Options{})
	before, err := l.Dom0State()
	must(t, err)
	state := t.TempDir()
	p := startRouter(t, l, "--state", state)
	guest, x := l.Guests[0].Node, l.Internet
	const port, size = 443, 32 << 20
	var transfers errgroup.Group
	idle := everyWay(t, guest, x, port, size, &transfers)
	must(t, lab.Await(testContext(t), "transfers under way", func() (bool, error) {
		s, err := p.Status(testContext(t))
		return err == nil && s.Flows.Active >= 8 && s.Domus[0].TxPackets > 500, err
	}))
	must(t, p.Kill())
	p = startRouter(t, l, "--state", state)
	must(t, transfers.Wait())
	for i, c := range idle {
		if err := c.Check(testContext(t)); err != nil {
			t.Errorf("idle connection %d: %v", i, err)
		}
	}
	for _, touched := range []string{"locking", "binding", "joining", "removing"} {
		if strings.Contains(p.Log(), "dom0: "+touched) {
			t.Errorf("a port was touched (%s):\n%s", touched, p.Log())
		}
	}
	if s := status(t, p); s.ForeignMAC != 0 || s.Drops["internal"] != 0 {
		t.Errorf("foreign MACs %d, drops %v", s.ForeignMAC, s.Drops)
	}
	must(t, p.Stop())
	same(t, l, before)
}
