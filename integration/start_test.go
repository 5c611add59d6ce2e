package integration

import (
	"bytes"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"udrouter/integration/lab"
	"udrouter/integration/wire"
)

// A TAP and a TUN that the user has made are left as they were found, also when the router was killed in between.
func TestUsersDevicesStay(t *testing.T) {
	l := buildLab(t, "", lab.Options{})
	must(t, l.Dom0.Do(func() error {
		for name, mode := range map[string]netlink.TuntapMode{l.Config.Bridge.TAP: netlink.TUNTAP_MODE_TAP, l.Config.Host.Interface: netlink.TUNTAP_MODE_TUN} {
			dev := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: mode}
			if err := netlink.LinkAdd(dev); err != nil {
				return err
			}
			// Up and down, since a device that was up once keeps a queueing discipline.
			if err := errors.Join(netlink.LinkSetMTU(dev, 1333), netlink.LinkSetTxQLen(dev, 222), netlink.LinkSetUp(dev), netlink.LinkSetDown(dev)); err != nil {
				return err
			}
		}
		return nil
	}))
	before, err := l.Dom0State()
	must(t, err)
	state := t.TempDir()
	p := startRouter(t, l, "--state", state)
	reaches(t, l.Guests[0].Node, l.Internet.Addr4())
	must(t, p.Stop())
	same(t, l, before)
	must(t, startRouter(t, l, "--state", state).Kill())
	must(t, startRouter(t, l, "--state", state).Stop())
	same(t, l, before)
}

func TestMemory(t *testing.T) {
	l := buildLab(t, "", lab.Options{})
	p := startRouter(t, l)
	ping(t, l.Guests[0].Node, l.Internet.Addr4())
	m, err := p.RSS()
	must(t, err)
	if limit := uint64(64 << 20); !wire.RaceEnabled && m.RSS >= limit {
		t.Errorf("%d MiB at rest, want less than %d", m.RSS>>20, limit>>20)
	}
}

// What a user does wrong ends with one sentence that says what to do, and status 1.
func TestMistakes(t *testing.T) {
	l := buildLab(t, "", lab.Options{})
	file, err := l.ConfigPath()
	must(t, err)
	missing := strings.Replace(readFile(t, file), `uplink "eth0"`, `uplink "eth7"`, 1)
	for _, c := range []struct {
		name string
		args []string
		src  string
		uid  uint32
		want []string
	}{
		{"no root", nil, readFile(t, file), 65534, []string{"root", "CAP_NET_ADMIN"}},
		{"missing uplink", nil, missing, 0, []string{"eth7", "does not exist", "ip link"}},
		{"a mistake in the file", nil, strings.Replace(missing, "192.0.2.0/24", "192.0.2.1/24", 1), 0, []string{"192.0.2.0/24"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := runIn(t, l, c.src, c.uid)
			for _, w := range c.want {
				if !strings.Contains(out, w) {
					t.Errorf("no %q in:\n%s", w, out)
				}
			}
			if strings.Contains(out, "panic") || strings.Count(out, "udrouter: ") > 1 {
				t.Errorf("more than one sentence:\n%s", out)
			}
		})
	}
	if out, err := exec.Command(wire.Exe, "run").CombinedOutput(); err == nil || !bytes.Contains(out, []byte("config")) {
		t.Errorf("without a file: %v, %s", err, out)
	}
}

// A second router refuses to start, whatever its state directory, and the first one does not notice.
func TestSecondRun(t *testing.T) {
	l := buildLab(t, "", lab.Options{})
	dir := publicDir(t)
	p := startRouter(t, l, "--state", dir)
	ping(t, l.Guests[0].Node, l.Internet.Addr4())
	before, err := l.Dom0State()
	must(t, err)
	errorsOf := func() (n uint64) {
		for _, link := range status(t, p).Links {
			n += link.Errors + link.Reopened
		}
		return n
	}
	had := errorsOf()
	file, err := l.ConfigPath()
	must(t, err)
	for name, c := range map[string]struct{ state, want string }{
		"same state directory":  {dir, "another udrouter runs for bridge xenbr0"},
		"other state directory": {publicDir(t), "another process reads it"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := l.Dom0.Command(testContext(t), wire.Exe, "run", "-c", file, "--state", c.state, "--socket", c.state+"/second.sock").CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), c.want) {
				t.Errorf("ended with %v, want status 1 and %q:\n%s", err, c.want, out)
			}
			if now, err := l.Dom0State(); err != nil || len(lab.DiffState(before, now)) > 0 {
				t.Errorf("dom0 has changed: %v\n%s", err, strings.Join(lab.DiffState(before, now), "\n"))
			}
		})
	}
	if n := errorsOf(); n != had {
		t.Errorf("the first one's links had %d errors", n-had)
	}
	ping(t, l.Guests[0].Node, l.Internet.Addr6())
}

// runIn runs the router in a lab's dom0 as a user and returns what it said when it failed.
func runIn(t *testing.T, l *lab.Lab, src string, uid uint32) string {
	t.Helper()
	dir := publicDir(t)
	file, program := writeFile(t, dir, "router.hcl", []byte(src), 0o644), writeFile(t, dir, "udrouter", []byte(readFile(t, wire.Exe)), 0o755)
	cmd := l.Dom0.Command(testContext(t), program, "run", "-c", file, "--state", dir, "--socket", dir+"/control.sock")
	if uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("ended with %v, want status 1", err)
	}
	lines := slices.DeleteFunc(strings.Split(string(out), "\n"), func(s string) bool { return strings.Contains(s, "level=WARN") })
	return strings.Join(lines, "\n")
}
