package dom0

import (
	"context"
	"errors"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"udrouter/policy"
)

// A port that joins the bridge passes nothing until it is locked, even when nobody is there to lock it.
func TestLateVif(t *testing.T) {
	w := newWorld(t)
	d := w.open(w.spec())
	g3ns, g9ns := newNS(t), newNS(t)
	w.guest("vif3.0", g3ns, guest3MAC)
	w.guest("vif9.0", g9ns, mac("00:16:3e:00:00:09"))
	g1, g3, g9 := w.packetSocket(w.g1, "eth0"), w.packetSocket(g3ns, "eth0"), w.packetSocket(g9ns, "eth0")

	// Not locked yet. It tries to pass for its neighbour, and to reach the router and other guests.
	attack := []([]byte){frame(routerMAC, guest3MAC, 'a'), frame(routerMAC, guest1MAC, 'b'), frame(guest1MAC, guest3MAC, 'c'),
		frame(broadcast, guest3MAC, 'd'), frame(broadcast, routerMAC, 'e')}
	send(t, g3, attack...)
	send(t, g9, attack...)
	send(t, g1, frame(routerMAC, guest1MAC, 'z'))
	if seen := until(t, w.tap, 'z'); len(seen) > 0 {
		t.Errorf("from ports that are not locked the router got %q", seen)
	}
	send(t, w.tap, frame(broadcast, routerMAC, 'f'), frame(guest1MAC, routerMAC, 'y'))
	if seen := until(t, g1, 'y'); string(seen) != "f" {
		t.Errorf("the guest got %q", seen)
	}
	n, err := d.Counters()
	must(t, err)
	if n[CountUnsecured] == 0 {
		t.Errorf("nothing counted: %v", n)
	}

	w.run(d)
	eventually(t, "vif3.0 is served", func() bool {
		send(t, g3, frame(routerMAC, guest3MAC, 'g'))
		send(t, g1, frame(routerMAC, guest1MAC, 'x'))
		return slices.Contains(until(t, w.tap, 'x'), 'g')
	})
	send(t, g3, attack...)
	send(t, g9, attack...)
	send(t, g3, frame(routerMAC, guest3MAC, 'w'))
	if seen := until(t, w.tap, 'w'); string(slices.DeleteFunc(seen, func(b byte) bool { return b == 'g' })) != "ad" {
		t.Errorf("from vif3.0, locked, and vif9.0 the router got %q", seen)
	}
	// Locked, it has not become its neighbour either.
	send(t, w.tap, frame(guest1MAC, routerMAC, 'v'))
	until(t, g1, 'v')
	st := observed(t, d)
	for _, name := range []string{"vif3.0", "vif9.0"} {
		if l := st.named(name); st.ports[l.index]["locked"] != 1 || !l.noIPv6 {
			t.Errorf("%s is not locked", name)
		}
	}
}

// A guest's restart: the vif goes, and another of the same name comes.
func TestVifReturns(t *testing.T) {
	w := newWorld(t)
	d := w.open(w.spec())
	w.run(d)
	for range 5 {
		w.do(w.dom0, func() error { return delLink("vif1.0") })
		w.guest("vif1.0", w.g1, guest1MAC)
		g1 := w.packetSocket(w.g1, "eth0")
		g2 := w.packetSocket(w.g2, "eth0")
		eventually(t, "vif1.0 is served", func() bool {
			send(t, g1, frame(routerMAC, guest1MAC, 'a'))
			send(t, g2, frame(routerMAC, guest2MAC, 'z'))
			return slices.Contains(until(t, w.tap, 'z'), 'a')
		})
		must(t, g1.Close())
		must(t, g2.Close())
	}
}

func TestBridgeAndTAPReturn(t *testing.T) {
	w := newWorld(t)
	d := w.open(w.spec())
	w.run(d)
	served := func(what string) {
		t.Helper()
		g1 := w.packetSocket(w.g1, "eth0")
		defer g1.Close()
		buf := make([]byte, 2000)
		eventually(t, what, func() bool {
			send(t, g1, frame(routerMAC, guest2MAC, 'f'), frame(routerMAC, guest1MAC, 'a'))
			st, err := d.observe()
			if err != nil || st.tap == nil || st.bridge == nil || len(d.secured(st)) != 3 || !st.tap.up {
				return false
			}
			send(t, g1, frame(routerMAC, guest1MAC, 'a'))
			n, err := w.tap.Read(buf)
			return err == nil && n == 60 && buf[14] == 'a'
		})
	}
	served("at the start")
	must(t, w.tap.Close())
	eventually(t, "the TAP's loss is noticed", func() bool {
		return slices.ContainsFunc(d.Warnings(), func(s string) bool { return strings.Contains(s, "udr0 is not there") })
	})
	w.tap = w.tuntap("udr0", unix.IFF_TAP)
	served("after the TAP's return")

	w.do(w.dom0, func() error { return delLink("xenbr0") })
	eventually(t, "the bridge's loss is noticed", func() bool {
		return slices.ContainsFunc(d.Warnings(), func(s string) bool { return strings.Contains(s, "bridge xenbr0 is not there") })
	})
	w.do(w.dom0, func() error {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "xenbr0"}}
		return errors.Join(netlink.LinkAdd(br), setMaster("vif1.0", "xenbr0"), setMaster("vif2.0", "xenbr0"))
	})
	served("after the bridge's return")
}

// A vif that is taken to another bridge is no longer ours, and gets its IPv6 back.
func TestVifLeaves(t *testing.T) {
	w := newWorld(t)
	w.do(w.dom0, func() error {
		return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "other"}})
	})
	d := w.open(w.spec())
	w.run(d)
	w.do(w.dom0, func() error { return setMaster("vif2.0", "other") })
	eventually(t, "IPv6 is back on vif2.0", func() bool {
		var v string
		w.do(w.dom0, func() error { v = readSysctl("ipv6/conf/vif2.0/disable_ipv6"); return nil })
		return v == "0"
	})
	st := observed(t, d)
	ports, _, err := d.rt.ports(st.named("other").index)
	must(t, err)
	if f := ports[st.named("vif2.0").index]; f["locked"] != 0 || f["learning"] != 1 {
		t.Errorf("in another bridge it is %v", f)
	}
}

func TestUpdateMovesGuests(t *testing.T) {
	w := newWorld(t)
	d := w.open(w.spec())
	g1, g2 := w.packetSocket(w.g1, "eth0"), w.packetSocket(w.g2, "eth0")
	spec := w.spec()
	spec.Ports = []Port{{"vif1.0", 0, []policy.MAC{guest2MAC, guest3MAC}}, {"vif2.0", 0, []policy.MAC{guest1MAC}}}
	must(t, d.Update(spec))
	send(t, g1, frame(routerMAC, guest1MAC, 'a'), frame(routerMAC, guest2MAC, 'b'), frame(routerMAC, guest3MAC, 'c'))
	send(t, g2, frame(routerMAC, guest2MAC, 'd'), frame(routerMAC, guest1MAC, 'z'))
	if seen := until(t, w.tap, 'z'); string(seen) != "bc" {
		t.Errorf("after the guests' exchange the router got %q", seen)
	}
	spec.Ports = spec.Ports[1:]
	must(t, d.Update(spec))
	send(t, g1, frame(routerMAC, guest2MAC, 'e'))
	send(t, g2, frame(routerMAC, guest1MAC, 'y'))
	if seen := until(t, w.tap, 'y'); len(seen) > 0 {
		t.Errorf("from a port whose guest is gone the router got %q", seen)
	}
	spec.Bridge = "other"
	if err := d.Update(spec); err == nil || !strings.Contains(err.Error(), "needs a restart") {
		t.Errorf("another bridge: %v", err)
	}
}

// What is changed behind the router's back is set again, and does not keep it busy.
func TestPortIsLockedAgain(t *testing.T) {
	w := newWorld(t)
	d := w.open(w.spec())
	w.run(d)
	st := observed(t, d)
	l := st.named("vif1.0")
	must(t, d.rt.setPort(l.index, portFlags{"locked": 0, "learning": 1}, false))
	eventually(t, "vif1.0 is locked again", func() bool { return observed(t, d).ports[l.index]["locked"] == 1 })
}

// Nothing is left of a run in the process.
func TestNothingIsLeftInTheProcess(t *testing.T) {
	w := newWorld(t)
	cycle := func() {
		d, err := w.tryOpen(w.spec())
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- d.Run(ctx) }()
		w.do(w.dom0, func() error { return errors.Join(addAddr("eth0", "192.0.2.1/32"), delAddr("eth0", "192.0.2.1/32")) })
		cancel()
		must(t, <-done)
		must(t, d.Close())
		must(t, d.Close())
		if _, err := d.Counters(); !errors.Is(err, errClosed) {
			t.Errorf("counters of a closed one: %v", err)
		}
		if _, err := d.InputCounts(); !errors.Is(err, errClosed) {
			t.Errorf("counts of a closed one: %v", err)
		}
	}
	cycle()
	fds := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(list)
	}
	goroutines, open := runtime.NumGoroutine(), fds()
	for range 5 {
		cycle()
	}
	eventually(t, "no goroutine or descriptor is left", func() bool { return runtime.NumGoroutine() <= goroutines && fds() <= open })

	// Close ends Run by itself.
	d, err := w.tryOpen(w.spec())
	must(t, err)
	done := make(chan error)
	go func() { done <- d.Run(context.Background()) }()
	must(t, d.Close())
	must(t, <-done)
	eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= goroutines })
}
