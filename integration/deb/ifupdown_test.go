package main

import (
	"strings"
	"testing"

	"udrouter/integration/lab"
)

const installed = "/usr/share/doc/udrouter/examples/" // what users copy from

// bare takes from dom0 what the lab has set up there, for the machine's own tools to do.
func (h *host) bare() {
	h.t.Helper()
	must(h.t, h.Dom0.DelLink(h.Config.Bridge.Name))
	for _, family := range []string{"-4", "-6"} {
		h.run("ip", family, "address", "flush", "dev", h.Config.Uplink.Name)
	}
	must(h.t, h.Dom0.SetDown(h.Config.Uplink.Name))
	must(h.t, h.Dom0.SetSysctl("net.ipv6.conf."+h.Config.Uplink.Name+".accept_ra", "0")) // ifup's, who never sets it back
}

// hotplug makes the guests' vifs ports of the bridge, as Xen's script does when a guest starts.
func (h *host) hotplug() {
	h.t.Helper()
	for _, g := range h.Guests {
		h.run("ip", "link", "set", g.Domu.Vif, "master", h.Config.Bridge.Name, "up")
	}
}

// copyExample puts one of the package's examples in place.
func (h *host) copyExample(name, to string) { h.write(to, readFile(h.t, h.Path(installed+name))) }

// An /etc/network/interfaces without dummy0 brings up uplink, bridge, TAP and router, and down again, by the real ifup and ifdown: with bridge-utils and
// without, with systemd and without.
func TestIfupdown(t *testing.T) {
	for _, c := range []struct {
		example string
		debian  []string
		systemd bool
	}{
		{"interfaces", []string{"ifupdown", "bridge-utils"}, false},
		{"interfaces.ip", []string{"ifupdown"}, false},
		{"interfaces", []string{"ifupdown", "bridge-utils"}, true},
	} {
		name := c.example
		if c.systemd {
			name += " by systemd"
		}
		t.Run(name, func(t *testing.T) {
			h := start(t, c.systemd)
			must(t, h.Install(testContext(t), c.debian...))
			h.bare()
			h.install(deb)
			h.configure()
			h.copyExample(c.example, "/etc/network/interfaces")
			before, err := h.Dom0State()
			must(t, err)
			up, down := []string{"ifup", "-a"}, []string{"ifdown", "-a", "--exclude=lo"}
			if c.systemd {
				up, down = []string{"systemctl", "start", "networking"}, []string{"systemctl", "stop", "networking"}
			}
			h.run(up[0], up[1:]...)
			h.hotplug()
			h.recovers()
			h.forwards()
			h.run("ifdown", "xenbr0")
			if out, _ := h.try("pgrep", "-x", "udrouter"); out != "" || h.exists("/sys/class/net/udr0") || h.exists("/sys/class/net/xenbr0") {
				t.Errorf("after ifdown there is still process %q, TAP %v, bridge %v", out, h.exists("/sys/class/net/udr0"), h.exists("/sys/class/net/xenbr0"))
			}
			h.run("ifup", "xenbr0")
			h.run("udrouter", "status") // ifup has waited until packets are forwarded
			h.hotplug()
			h.recovers()
			if c.systemd {
				h.run("systemctl", "restart", "networking")
				h.hotplug()
				h.recovers()
			}
			h.run(down[0], down[1:]...)
			h.differs(before)
		})
	}
}

// ifup says that the router does not start, and where its reason is.
func TestIfupFails(t *testing.T) {
	for name, c := range map[string]struct {
		systemd bool
		says    string
		log     []string
	}{
		"by the program": {false, "/var/log/udrouter.log", []string{"cat", "/var/log/udrouter.log"}},
		"by systemd":     {true, "journalctl -xeu udrouter.service", []string{"journalctl", "--unit", "udrouter", "--output", "cat"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := start(t, c.systemd)
			must(t, h.Install(testContext(t), "ifupdown"))
			h.bare()
			h.install(deb)
			h.write("/etc/udrouter/router.hcl", []byte("uplink \"eth0\" {}\n"))
			h.copyExample("interfaces.ip", "/etc/network/interfaces")
			h.run("ifup", "eth0")
			out, err := h.try("ifup", "xenbr0")
			if err == nil || !strings.Contains(out, c.says) {
				t.Errorf("ifup: %v\n%s", err, out)
			}
			if strings.Contains(out, "timed out") {
				t.Errorf("ifup has waited for a router that had ended:\n%s", out)
			}
			contains(t, h.run(c.log[0], c.log[1:]...), "bridge")
		})
	}
}

// A router that ifup has started without systemd hands over to a newer one, which ifdown ends then; a second ifup starts none beside it, and one that was killed
// is started anew. The package's removal ends it. All of them know of the options that the router has.
func TestIfupTakeOver(t *testing.T) {
	h := start(t, false)
	must(t, h.Install(testContext(t), "ifupdown"))
	h.bare()
	h.install(deb)
	h.configure()
	h.write("/etc/default/udrouter", []byte("UDROUTER_OPTS=\"--workers 2 --state /run/other --socket /run/other.sock\"\n"))
	pid := func() string { return h.run("udrouter", "pid", "--state", "/run/other") }
	h.copyExample("interfaces.ip", "/etc/network/interfaces")
	before, err := h.Dom0State()
	must(t, err)
	h.run("ifup", "-a")
	h.hotplug()
	h.recovers()
	talks := h.talk()
	first := pid()
	if out, err := h.try("udrouter", "upgrade", "-c", "/etc/udrouter/router.hcl", "--socket", "/run/other.sock"); err == nil || !strings.Contains(out, "udrouter run --takeover") {
		t.Errorf("upgrade: %v, %s", err, out)
	}
	h.run("sh", "-c", ". /etc/default/udrouter; setsid udrouter run --takeover -c /etc/udrouter/router.hcl $UDROUTER_OPTS >>/var/log/udrouter.log 2>&1 &")
	must(t, lab.Await(testContext(t), "the end of the first one", func() (bool, error) { return !h.exists("/proc/" + first), nil }))
	talks.goOn("after a takeover")
	second := pid()
	if second == first || second == "" {
		t.Fatalf("after process %s runs %q", first, second)
	}
	h.run("env", "IF_UDROUTER=yes", "MODE=start", "/etc/network/if-up.d/udrouter")
	if now := pid(); now != second {
		t.Errorf("a second ifup has replaced process %s by %q", second, now)
	}
	talks.goOn("after a second ifup")
	h.run("kill", "-KILL", second)
	h.run("env", "IF_UDROUTER=yes", "MODE=start", "/etc/network/if-up.d/udrouter")
	talks.goOn("after a kill")
	h.run("ifdown", "xenbr0")
	if out, _ := h.try("pgrep", "-x", "udrouter"); out != "" {
		t.Errorf("after ifdown there is still process %q", out)
	}
	h.run("env", "IF_UDROUTER=yes", "MODE=stop", "/etc/network/if-down.d/udrouter") // where none runs any more
	h.run("ifup", "xenbr0")
	if pid() == "" {
		t.Error("a third ifup has started none")
	}
	h.run("dpkg", "--remove", "udrouter")
	if out, _ := h.try("pgrep", "-x", "udrouter"); out != "" {
		t.Errorf("after the package's removal there is still process %q", out)
	}
	h.run("ifdown", "-a", "--exclude=lo")
	h.differs(before)
	if log := string(readFile(t, h.Path("/var/log/udrouter.log"))); strings.Contains(log, "telling systemd") {
		t.Errorf("who is not systemd is told more than of the start:\n%s", log)
	}

	// Where a process is left that has taken over from the one that ifdown has stopped, that is stopped as well.
	h.write("/run/pids", []byte("1\n2\n"))
	for file, text := range map[string]string{"/usr/sbin/udrouter": "head -n 1 /run/pids", "/usr/local/sbin/start-stop-daemon": "sed -i 1d /run/pids"} {
		h.write(file, []byte("#!/bin/sh\n"+text+"\n"))
		h.run("chmod", "755", file)
	}
	h.run("env", "IF_UDROUTER=yes", "MODE=stop", "/etc/network/if-down.d/udrouter")
	if left := readFile(t, h.Path("/run/pids")); len(left) > 0 {
		t.Errorf("ifdown leaves process %s", left)
	}
}
