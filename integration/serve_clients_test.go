package integration

import (
	"context"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"udrouter/integration/lab"
)

// alone keeps what a client writes, leases and name servers, out of the machine's own files.
const alone = `
set -e
mount -t tmpfs run /run
for d in etc var; do
	mkdir -p /run/over/$d /run/work/$d
	mount -t overlay overlay -o lowerdir=/$d,upperdir=/run/over/$d,workdir=/run/work/$d /$d
done
mount -t proc proc /proc
exec "$@"
`

// Clients that distributions have, and their installers, configure a guest from nothing. Those that the machine does not have are skipped:
// apt install isc-dhcp-client dhcpcd-base udhcpc
func TestStockClients(t *testing.T) {
	l := buildLab(t, serving, lab.Options{})
	one := l.Guest("one")
	startRouter(t, l)
	servers := []netip.AddrPort{netip.AddrPortFrom(l.Internet.Addr4(), 443), netip.AddrPortFrom(l.Internet.Addr6(), 443)}
	_, err := l.Internet.ServeTCP(443)
	must(t, err)

	four, six := netip.MustParsePrefix("192.0.2.10/24"), netip.MustParsePrefix("2001:db8:3:2:1::10/128")
	for _, c := range []struct {
		args   []string
		addrs  []netip.Prefix
		reach  []netip.AddrPort
		routes []string
	}{
		{[]string{"dhclient", "-4", "-d", "-v", "-lf", "/run/leases", "-pf", "/run/pid", one.Link}, []netip.Prefix{four}, servers[:1], []string{"192.0.2.1", "fe80::1"}},
		{[]string{"dhclient", "-6", "-d", "-v", "-lf", "/run/leases", "-pf", "/run/pid", one.Link}, []netip.Prefix{six}, servers[1:], []string{"fe80::1"}},
		{[]string{"udhcpc", "-f", "-i", one.Link}, []netip.Prefix{four}, servers[:1], []string{"192.0.2.1", "fe80::1"}},
		{[]string{"dhcpcd", "-B", "-d", one.Link}, []netip.Prefix{four, six}, servers, []string{"192.0.2.1", "fe80::1"}},
	} {
		t.Run(strings.Join(c.args[:2], " "), func(t *testing.T) {
			if _, err := exec.LookPath(c.args[0]); err != nil {
				t.Skip(err)
			}
			must(t, one.Strip(one.Link))
			ctx, cancel := context.WithCancel(t.Context())
			cmd := one.Command(ctx, "sh", append([]string{"-c", alone, "sh"}, c.args...)...)
			var said strings.Builder
			cmd.Stdout, cmd.Stderr = &said, &said
			cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWPID // none of its children outlives it
			must(t, cmd.Start())
			t.Cleanup(func() {
				cancel()
				_ = cmd.Wait()
				if t.Failed() {
					t.Log(said.String())
				}
			})
			configured(t, one, c.addrs, c.routes...)
			for _, a := range c.reach {
				must(t, one.Transfer(testContext(t), a, 100000))
			}
		})
	}
}
