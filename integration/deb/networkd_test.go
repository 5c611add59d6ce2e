package main

import (
	"os"
	"path"
	"strings"
	"testing"

	"udrouter/integration/lab"
)

// The examples for systemd-networkd, read by the real one: it sets up uplink, bridge and TAP, and leaves vifs and udrhost to the router.
func TestNetworkd(t *testing.T) {
	h := start(t, true)
	h.bare()
	h.install(deb)
	h.configure()
	examples, err := os.ReadDir(h.Path(installed + "networkd"))
	must(t, err)
	for _, e := range examples {
		h.copyExample(path.Join("networkd", e.Name()), "/etc/systemd/network/"+e.Name())
	}
	h.write("/etc/systemd/network/99-all.network", []byte("[Match]\nName=*\n[Network]\nAddress=198.18.0.1/32\nConfigureWithoutCarrier=yes\n")) // an administrator's
	h.run("systemctl", "start", "systemd-networkd")
	h.awaitLinks("xenbr0", "udr0")
	h.run("systemctl", "start", "udrouter")
	h.hotplug()
	h.recovers()
	h.forwards()
	if out := h.run("journalctl", "--unit", "systemd-networkd", "--priority", "warning", "--quiet", "--output", "cat"); out != "" {
		t.Errorf("networkd warns:\n%s", out)
	}
	h.run("/lib/systemd/systemd-networkd-wait-online", "--timeout=30") // waits for the uplink alone
	before := h.run("ip", "-6", "route", "show", "dev", h.Config.Host.Interface)
	h.run("systemctl", "restart", "systemd-networkd")
	h.run("/lib/systemd/systemd-networkd-wait-online", "--timeout=30")
	h.forwards()
	if out := h.run("ip", "-o", "address", "show", "to", "198.18.0.1"); strings.Contains(out, "vif") || strings.Contains(out, h.Config.Host.Interface) || !strings.Contains(out, "lo ") {
		t.Errorf("a file for all links reaches %s", out)
	}
	if after := h.run("ip", "-6", "route", "show", "dev", h.Config.Host.Interface); after != before || before == "" {
		t.Errorf("a restart of networkd has changed the router's routes from\n%s\nto\n%s", before, after)
	}
}

// The example for netplan, through the real generator and networkd. netplan knows no TAP: the router makes it.
func TestNetplan(t *testing.T) {
	h := start(t, true)
	must(t, h.Unpack(testContext(t), "netplan.io", "libnetplan0"))
	h.bare()
	h.install(deb)
	h.configure()
	h.run("mkdir", "-p", "/etc/netplan")
	h.copyExample("netplan/udrouter.yaml", "/etc/netplan/udrouter.yaml")
	h.copyExample("networkd/10-udrouter-unmanaged.network", "/etc/systemd/network/10-udrouter-unmanaged.network")
	must(t, os.Chmod(h.Path("/etc/netplan/udrouter.yaml"), 0o600))
	if out := h.run("/lib/netplan/generate"); out != "" {
		t.Errorf("netplan says: %s", out)
	}
	h.run("systemctl", "start", "systemd-networkd")
	h.awaitLinks("xenbr0")
	h.run("systemctl", "start", "udrouter")
	h.hotplug()
	h.recovers()
	h.forwards()
}

// awaitLinks waits until these links are there and up.
func (h *host) awaitLinks(names ...string) {
	h.t.Helper()
	for _, name := range names {
		must(h.t, lab.Await(testContext(h.t), name+" to be up", func() (bool, error) {
			out, err := h.try("ip", "-o", "link", "show", "up", "dev", name)
			return err == nil && out != "", nil
		}))
	}
}
