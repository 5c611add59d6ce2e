package main

import (
	"strings"
	"testing"

	"udrouter/integration/lab"
)

// The unit's sandbox is as tight as it is said to be, and systemd finds nothing wrong with it.
func TestUnitSecurity(t *testing.T) {
	unit := source("integration/systemd/udrouter.service")
	verify(t, "systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=19", unit)
}

// The service under a real systemd, in the network of the reference: it is not started by its installation, but by its file; it is ready when
// packets pass, comes back when it is killed, and leaves dom0 as it was.
func TestService(t *testing.T) {
	h := start(t, true)
	must(t, h.Dom0.SetSysctl("net.ipv4.ip_forward", "1")) // something to warn of
	before, err := h.Dom0State()
	must(t, err)
	h.install(deb)
	if out := h.run("systemctl", "is-enabled", "udrouter"); out != "enabled" {
		t.Errorf("after its installation it is %s", out)
	}
	h.run("systemctl", "start", "udrouter") // its condition does not hold
	if out, _ := h.try("systemctl", "is-active", "udrouter"); out != "inactive" {
		t.Errorf("without a file it is %s", out)
	}
	if out := h.run("systemd-analyze", "verify", "udrouter.service"); out != "" {
		t.Errorf("systemd-analyze verify: %s", out)
	}
	h.configure()
	h.run("systemctl", "start", "udrouter")
	h.forwards()
	if out := h.run("udrouter", "status"); !strings.Contains(out, built.version) {
		t.Errorf("it says of itself: %s", out)
	}
	pid := h.run("systemctl", "show", "--value", "--property=MainPID", "udrouter")
	if out := h.run("ps", "-o", "user=", "-p", pid); out != "udrouter" {
		t.Errorf("it runs as %s", out)
	}
	if out := h.run("journalctl", "--unit", "udrouter", "--priority", "warning..warning", "--output", "cat"); !strings.Contains(out, "ip_forward") {
		t.Errorf("the journal has this as warnings: %s", out)
	}
	h.run("kill", "-KILL", pid)
	h.recovers()
	h.run("systemctl", "restart", "udrouter")
	h.forwards()
	if out := h.run("systemctl", "show", "--value", "--property=NRestarts", "udrouter"); out != "0" { // an administrator's restart begins anew
		t.Errorf("%s automatic restarts since the last one by hand", out)
	}
	h.run("systemctl", "stop", "udrouter")
	after, err := h.Dom0State()
	must(t, err)
	if diff := lab.DiffState(before, after); len(diff) > 0 {
		t.Errorf("after its stop dom0 differs:\n%s", strings.Join(diff, "\n"))
	}
}
