package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"udrouter/config"
	"udrouter/integration/lab"
	"udrouter/integration/xen/xentest"
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
	// What the unit refuses must not be what the router confines itself with, or reads and writes with.
	out := h.run("journalctl", "--unit", "udrouter", "--output", "cat")
	if !strings.Contains(out, "msg=confined") || strings.Contains(out, "landlock_abi=0") || !strings.Contains(out, "seccomp=true") {
		t.Errorf("in the unit the router is confined so: %s", out)
	}
	h.run("systemctl", "reload", "udrouter")
	h.write("/etc/udrouter/router.hcl", []byte("uplink {\n"))
	if out, err := h.try("systemctl", "reload", "udrouter"); err == nil {
		t.Errorf("a file with a mistake is reloaded: %s", out)
	}
	h.forwards()
	h.configure()
	if now := h.run("systemctl", "show", "--value", "--property=MainPID", "udrouter"); now != pid {
		t.Errorf("after reloads its process is %s, it was %s", now, pid)
	}
	if out := h.run("udrouter", "status", "--json"); !strings.Contains(strings.ReplaceAll(out, " ", ""), `"reloads":1,`) {
		t.Errorf("after one reload that was good: %s", out)
	}
	h.run("kill", "-KILL", pid)
	h.recovers()
	h.run("systemctl", "restart", "udrouter")
	h.forwards()
	if out := h.run("systemctl", "show", "--value", "--property=NRestarts", "udrouter"); out != "0" { // an administrator's restart begins anew
		t.Errorf("%s automatic restarts since the last one by hand", out)
	}
	h.run("systemctl", "stop", "udrouter")
	h.differs(before)

	// What root has run by hand, and killed, the service undoes.
	h.run("sh", "-c", "udrouter run -c /etc/udrouter/router.hcl >/run/by-hand 2>&1 & echo $! >/run/by-hand.pid")
	must(t, lab.Await(testContext(t), "ready", func() (bool, error) {
		return strings.Contains(string(readFile(t, h.Path("/run/by-hand"))), "msg=ready"), nil
	}))
	h.run("sh", "-c", "kill -KILL $(cat /run/by-hand.pid)")
	h.run("systemctl", "start", "udrouter")
	h.forwards()
	h.run("systemctl", "stop", "udrouter")
	h.differs(before)
}

// Xen's script, root's, tells the service, which is another user, of a guest's vif that the file does not name: it is bound when the script ends, again by a service
// that has started anew, was killed or starts only later, and passes nothing once it is removed.
func TestServiceHotplug(t *testing.T) {
	h := start(t, true)
	h.install(deb)
	must(t, xentest.WriteTools(h.Path("/usr/local/bin")))
	guest := h.Guest("one")
	line := regexp.MustCompile(`(?m)^ *vif += "` + regexp.QuoteMeta(guest.Domu.Vif) + `".*\n`)
	if !line.Match(config.Reference) {
		t.Fatalf("the reference has no vif %s", guest.Domu.Vif)
	}
	h.write("/etc/udrouter/router.hcl", line.ReplaceAll(config.Reference, nil))
	const keys, backend = "/run/xenstore", "/local/domain/0/backend/vif/1/0"
	for key, value := range map[string]string{"/local/domain/1/name": "one", "/local/domain/1/vm": "/vm/1111", backend + "/frontend-id": "1", backend + "/mac": guest.MAC.String(), backend + "/bridge": h.Config.Bridge.Name} {
		must(t, os.MkdirAll(filepath.Dir(h.Path(keys+key)), 0o755))
		h.write(keys+key, []byte(value))
	}
	script := func(command string) string {
		return h.run("env", "XENSTORE="+keys, "XENBUS_PATH="+backend, "vif="+guest.Domu.Vif, "/etc/xen/scripts/vif-udrouter", command, "type_if=vif")
	}
	silent := func(when string) {
		t.Helper()
		if _, err := guest.Ping(brief(t), h.Internet.Addr4(), lab.PingOptions{}); err == nil {
			t.Errorf("%s the guest reaches the internet", when)
		}
	}
	h.run("ip", "link", "set", guest.Domu.Vif, "nomaster", "down") // as netback makes it
	h.run("systemctl", "start", "udrouter")
	silent("before the script")
	contains(t, script("online"), `bound to domu "one"`)
	if status := string(readFile(t, h.Path(keys+backend+"/hotplug-status"))); status != "connected" {
		t.Errorf("the toolstack is told %q", status)
	}
	h.forwards()
	if out := h.run("sh", "-c", "stat -c %U /run/udrouter/vifs-* /run/udrouter/vifs-*/* | sort -u"); out != "udrouter" {
		t.Errorf("what is noted is %s's", out)
	}
	h.run("systemctl", "restart", "udrouter")
	h.forwards()
	h.run("kill", "-KILL", h.run("udrouter", "pid"))
	h.recovers()
	h.forwards()
	script("offline")
	silent("after the removal")
	if out := h.run("udrouter", "vif", "list"); strings.Contains(out, guest.Domu.Vif) {
		t.Errorf("after the removal there is: %s", out)
	}
	h.run("systemctl", "stop", "udrouter")
	contains(t, script("online"), "No router runs")
	silent("without a router")
	h.run("systemctl", "start", "udrouter")
	h.forwards()
}

// The control socket's group is the service's own, or another that the service has been put into; until then the log says what to do.
func TestServiceGroup(t *testing.T) {
	h := start(t, true)
	h.install(deb)
	h.write("/etc/udrouter/router.hcl", bytes.Replace(config.Reference, []byte("#group = "), []byte("group = "), 1))
	if out, err := h.try("systemctl", "start", "udrouter"); err == nil {
		t.Errorf("it starts without being in the group: %s", out)
	}
	contains(t, h.run("journalctl", "--unit", "udrouter", "--output", "cat"), "SupplementaryGroups=adm")
	h.run("mkdir", "/etc/systemd/system/udrouter.service.d")
	h.write("/etc/systemd/system/udrouter.service.d/group.conf", []byte("[Service]\nSupplementaryGroups=adm\n"))
	h.run("systemctl", "daemon-reload")
	h.run("systemctl", "restart", "udrouter")
	if out := h.run("stat", "-c", "%G %a", "/run/udrouter/control.sock"); out != "adm 660" {
		t.Errorf("the socket is %s", out)
	}
}

// Metrics on loopback want what the package has an example of, and until then the log says so; on a socket they want nothing more.
func TestServiceMetrics(t *testing.T) {
	h := start(t, true)
	h.install(deb)
	with := func(listen string) {
		h.write("/etc/udrouter/router.hcl", fmt.Appendf(bytes.Clone(config.Reference), "\nmetrics {\n  listen = %q\n}\n", listen))
	}
	with("127.0.0.1:9469")
	if out, err := h.try("systemctl", "start", "udrouter"); err == nil {
		t.Errorf("it starts without an IP socket: %s", out)
	}
	const example = "/usr/share/doc/udrouter/examples/systemd/metrics.conf"
	contains(t, h.run("journalctl", "--unit", "udrouter", "--output", "cat"), example)
	scrape := func(network, address string) {
		t.Helper()
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			if network == "unix" {
				return new(net.Dialer).DialContext(ctx, network, h.Path(address))
			}
			return h.Dom0.Dial(ctx, network, address)
		}}}
		resp, err := client.Get("http://localhost/metrics")
		must(t, err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		must(t, err)
		contains(t, string(text), `udrouter_domu_flows{domu="one"}`)
	}
	h.run("install", "-D", "-m", "644", example, "/etc/systemd/system/udrouter.service.d/metrics.conf")
	h.run("systemctl", "daemon-reload")
	h.run("systemctl", "restart", "udrouter")
	scrape("tcp", "127.0.0.1:9469")
	h.run("udrouter", "upgrade", "-c", "/etc/udrouter/router.hcl")
	scrape("tcp", "127.0.0.1:9469")
	h.run("rm", "-r", "/etc/systemd/system/udrouter.service.d")
	h.run("systemctl", "daemon-reload")
	with("unix:/run/udrouter/metrics.sock")
	h.run("systemctl", "restart", "udrouter")
	scrape("unix", "/run/udrouter/metrics.sock")
}

// differs fails if dom0 is not as it was.
func (h *host) differs(before []string) {
	h.t.Helper()
	after, err := h.Dom0State()
	must(h.t, err)
	if diff := lab.DiffState(before, after); len(diff) > 0 {
		h.t.Errorf("dom0 differs from what it was:\n%s", strings.Join(diff, "\n"))
	}
}
