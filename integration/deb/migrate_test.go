package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"udrouter/integration/doctor"
	"udrouter/integration/lab"
)

// reference is what the importer is tested with: the files of the network that udrouter replaces.
const reference = "integration/importer/testdata/seed/"

// oldSetup writes the reference's files and brings up what they say by the real ifup and sysctl, as far as plain Debian has what they call: rules are loaded
// by the lab, since iptables-restore is not there, and a proxy entry for the second guest is in ndppd's place. dummy0 is a veth that leads to the
// bridge, for kernels without dummies.
func (h *host) oldSetup() {
	h.t.Helper()
	for _, name := range []string{"ndppd.conf", "iptables.rules", "ip6tables.rules"} {
		h.write("/etc/"+name, readFile(h.t, source(reference+name)))
	}
	second := []byte("    up ip -6 neigh add proxy 2001:DB8:3:2:1::11 dev eth0\n    up ifconfig dummy0 promisc\n")
	h.write("/etc/network/interfaces", bytes.Replace(readFile(h.t, source(reference+"interfaces")), []byte("    up ifconfig dummy0 promisc\n"), second, 1))
	h.write("/etc/sysctl.conf", []byte("net.ipv4.ip_forward = 1\nnet.ipv6.conf.all.forwarding = 1\nnet.ipv6.conf.all.proxy_ndp = 1\n"))
	h.run("mkdir", "-p", "/etc/xen")
	h.write("/etc/xen/one.cfg", readFile(h.t, source(reference+"one.cfg")))
	// The second guest's vif has the number that Xen gives it.
	h.write("/etc/xen/two.cfg", bytes.Replace(readFile(h.t, source(reference+"two.cfg")), []byte("vifname=vif2.0, "), nil, 1))
	for _, name := range []string{"iptables-restore", "ip6tables-restore"} {
		h.write("/usr/local/sbin/"+name, []byte("#!/bin/sh\nexec cat >/dev/null\n"))
		h.run("chmod", "+x", "/usr/local/sbin/"+name)
	}
	h.run("sh", "-c", "ip link add xenbr0 up type bridge && ip link add dummy0 type veth peer name dummyport && ip link set dummyport master xenbr0 up")
	must(h.t, h.ProtectDom0())
	h.hotplug()
	h.run("sysctl", "-p")
	h.run("ifup", "-a")
}

// busy is a connection that is in use all the time.
type busy struct {
	name  string
	conn  *lab.Conn
	uses  atomic.Int64
	ended chan error    // why it is in use no more
	worst time.Duration // for an answer
}

// use uses it until ctx ends.
func (b *busy) use(ctx context.Context) error {
	pace := time.NewTicker(5 * time.Millisecond) // the machine has other things to do as well
	defer pace.Stop()
	for ctx.Err() == nil {
		<-pace.C
		start := time.Now()
		wait, cancel := context.WithTimeout(context.Background(), timeout/4)
		err := b.conn.Check(wait)
		cancel()
		if err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
		b.worst = max(b.worst, time.Since(start))
		b.uses.Add(1)
	}
	return nil
}

// What migration.md says, done word by word by an administrator of the reference's server, and undone again: connections of guests and of dom0, of both
// families and directions, are in use all the time, and none is reset.
func TestMigration(t *testing.T) {
	h := start(t, true)
	must(t, h.Install(testContext(t), "ifupdown"))
	h.bare()
	h.install(deb)
	h.oldSetup()
	h.recovers()
	h.forwards()

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var conns []*busy
	open := func(name string, from, to *lab.Node, port uint16) {
		t.Helper()
		_, err := to.ServeTCP(int(port))
		must(t, err)
		for _, a := range []netip.Addr{to.Addr4(), to.Addr6()} {
			c, err := from.Open(testContext(t), netip.AddrPortFrom(a, port))
			must(t, err)
			b := &busy{name: name + ", " + a.String(), conn: c, ended: make(chan error, 1)}
			conns = append(conns, b)
			go func() { b.ended <- b.use(ctx) }()
		}
	}
	open("dom0's ssh", h.Internet, h.Dom0, 22)
	open("dom0 to the internet", h.Dom0, h.Internet, 443)
	for _, g := range h.Guests {
		open("guest "+g.Domu.Name+" to the internet", g.Node, h.Internet, 443)
		open("the internet to guest "+g.Domu.Name, h.Internet, g.Node, 22)
	}
	all := func(when string) { // each has been answered since
		t.Helper()
		for _, b := range conns {
			before := b.uses.Load()
			must(t, lab.Await(testContext(t), b.name+" "+when, func() (bool, error) {
				select {
				case err := <-b.ended:
					return false, fmt.Errorf("%s: %w", when, err)
				default:
					return b.uses.Load() > before+1, nil
				}
			}))
		}
		for _, g := range h.Guests { // new ones
			for _, a := range []netip.Addr{h.Internet.Addr4(), h.Internet.Addr6()} {
				must(t, g.Transfer(testContext(t), netip.AddrPortFrom(a, 443), 10000))
			}
		}
	}
	all("while the kernel routes")

	// The file.
	h.run("sh", "-c", `cd /root && udrouter import --interfaces /etc/network/interfaces --ndppd /etc/ndppd.conf --iptables /etc/iptables.rules --ip6tables /etc/ip6tables.rules \
		--xl /etc/xen/one.cfg --xl /etc/xen/two.cfg -o router.hcl 2>notes`)
	contains(t, string(readFile(t, h.Path("/root/notes"))), "two.cfg:3: ", "script=vif-udrouter", "take it off dummy0")
	contains(t, h.run("udrouter", "check", "-c", "/root/router.hcl"), "is valid: 2 networks, 2 domus")
	h.run("cp", "/root/router.hcl", "/etc/udrouter/router.hcl")

	// The switch.
	h.write("/etc/default/udrouter", []byte("UDROUTER_OPTS=--pick-up\n"))
	two := h.Guests[1].Domu
	h.run("udrouter", "vif", "add", "--vif", two.Vif, "--mac", two.MAC.String())
	h.run("systemctl", "start", "udrouter")
	all("when the router has started beside the old set-up")

	// What is left is taken away as the doctor says, line by line.
	findings := func() (list []doctor.Finding) {
		t.Helper()
		out, _ := h.try("udrouter", "doctor", "--json")
		var answer struct{ Findings []doctor.Finding }
		if err := json.Unmarshal([]byte(out), &answer); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return answer.Findings
	}
	seen := map[string]bool{}
	for round := 0; ; round++ {
		list := findings()
		if len(list) == 0 {
			break
		}
		if round == 5 {
			t.Fatalf("the doctor is not content: %v", list)
		}
		for _, f := range list {
			seen[f.Check] = true
			t.Logf("%s", f)
			if out, err := h.try("sh", "-c", f.Remedy); err != nil && round == 0 {
				t.Logf("%s: %v: %s", f.Remedy, err, out) // what another remedy has done already
			}
		}
	}
	for _, check := range []string{"forwarding", "proxy", "addresses"} {
		if !seen[check] {
			t.Errorf("the doctor has not named what is of %q", check)
		}
	}
	all("when what was there by hand is gone")
	h.write("/etc/default/udrouter", nil)

	var status struct {
		ForeignMAC uint64 `json:"foreign_mac_uplink"`
	}
	must(t, json.Unmarshal([]byte(h.run("udrouter", "status", "--json")), &status))
	if status.ForeignMAC != 0 {
		t.Errorf("%d frames with a foreign MAC", status.ForeignMAC)
	}

	// Undone. Guests are in no hurry to find the gateway's old MAC unless they are told; these are.
	for _, g := range h.Guests {
		must(t, g.HurryNeighbours(g.Link))
	}
	h.run("systemctl", "stop", "udrouter")
	h.run("bridge", "link", "set", "dev", two.Vif, "locked", "off", "isolated", "off", "learning", "on", "flood", "on", "mcast_flood", "on", "bcast_flood", "on")
	h.run("ifup", "--force", "dummy0")
	h.run("sysctl", "-p")
	all("when the kernel routes again")
	stop()
	for _, b := range conns {
		must(t, <-b.ended)
		t.Logf("%s: used %d times, answered within %v", b.name, b.uses.Load(), b.worst.Round(time.Millisecond))
		must(t, b.conn.Close())
	}
}
