package integration

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"udrouter/integration/lab"
	"udrouter/integration/wire"
)

// The way of migration.md and back, with the reference's own files: dom0's kernel routes by what was set up by hand, guests and dom0 have
// connections; the files are imported, the router starts, what was there by hand is taken down, and at the end it is all put back. No connection ends.
func TestMigration(t *testing.T) {
	dir := filepath.Join("importer", "testdata", "seed")
	out := filepath.Join(t.TempDir(), "router.hcl")
	b, err := exec.Command(wire.Exe, "import", "--interfaces", filepath.Join(dir, "interfaces"), "--ndppd", filepath.Join(dir, "ndppd.conf"),
		"--iptables", filepath.Join(dir, "iptables.rules"), "--ip6tables", filepath.Join(dir, "ip6tables.rules"),
		"--xl", filepath.Join(dir, "one.cfg"), "--xl", filepath.Join(dir, "two.cfg"), "-o", out).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	src, err := os.ReadFile(out)
	must(t, err)

	l := buildLab(t, string(src), lab.Options{})
	bare, err := l.Dom0State()
	must(t, err)
	must(t, l.KernelRouter(lab.KernelOptions{Protect: true}))
	byHand, err := l.Dom0State()
	must(t, err)
	conns := map[string]*lab.Conn{}
	one, two := l.Guest("one"), l.Guest("two")
	for family, of := range map[string]func(*lab.Node) netip.Addr{"IPv4": (*lab.Node).Addr4, "IPv6": (*lab.Node).Addr6} {
		conns["dom0's ssh, "+family] = openTCP(t, l.Internet, l.Dom0, of(l.Dom0), 22)
		conns["dom0 to the internet, "+family] = openTCP(t, l.Dom0, l.Internet, of(l.Internet), 443)
		conns["guest one to the internet, "+family] = openTCP(t, one.Node, l.Internet, of(l.Internet), 443)
		conns["the internet to guest two, "+family] = openTCP(t, l.Internet, two.Node, of(two.Node), 22)
	}
	all := func(when string) {
		t.Helper()
		for name, c := range conns {
			start := time.Now()
			if err := c.Check(testContext(t)); err != nil {
				t.Errorf("%s: %s: %v", when, name, err)
			}
			t.Logf("%s: %s: answered after %v", when, name, time.Since(start).Round(time.Millisecond))
		}
		for _, a := range []netip.Addr{l.Internet.Addr4(), l.Internet.Addr6()} { // new ones
			must(t, two.Transfer(testContext(t), netip.AddrPortFrom(a, 443), 10000))
		}
	}
	all("while the kernel routes")

	p := startRouter(t, l, "--pick-up")
	all("when the router has started beside it")
	must(t, l.NoKernelRouter())
	all("when what was there by hand is gone")
	if s, err := p.Status(context.Background()); err != nil || s.ForeignMAC != 0 {
		t.Errorf("%+v, %v", s, err)
	}

	// Nobody tells the guests where their gateway is once the kernel has it again. They find out within a minute; here it is seconds.
	for _, g := range l.Guests {
		must(t, g.HurryNeighbours(g.Link))
	}
	must(t, p.Stop())
	same(t, l, bare)
	must(t, l.KernelRouter(lab.KernelOptions{Protect: true}))
	same(t, l, byHand)
	all("when the kernel routes again")
	must(t, l.NoKernelRouter())
	same(t, l, bare)
}
