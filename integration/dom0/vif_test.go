package dom0

import (
	"bytes"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"udrouter/policy"
)

// indexOf is an interface's index in the world's dom0.
func (w *world) indexOf(name string) (index int) {
	w.t.Helper()
	w.do(w.dom0, func() error {
		l, err := net.InterfaceByName(name)
		if err == nil {
			index = l.Index
		}
		return err
	})
	return index
}

// A port that is bound by its index is another guest's when an interface of the same name takes its place.
func TestPortIsOfOneInterface(t *testing.T) {
	w := newWorld(t)
	spec := w.spec()
	first := w.indexOf("vif1.0")
	spec.Ports[0].Index = first
	d := w.open(spec)
	must(t, d.PortSecured("vif1.0", first))
	w.do(w.dom0, func() error { return delLink("vif1.0") })
	w.guest("vif1.0", w.g1, guest1MAC)
	second := w.indexOf("vif1.0")
	must(t, d.Update(spec))
	if err := d.PortSecured("vif1.0", second); err == nil || !strings.Contains(err.Error(), "no guest is bound to it") {
		t.Errorf("another interface of the name: %v", err)
	}
	if err := d.PortSecured("vif1.0", first); err == nil || !strings.Contains(err.Error(), "any more") {
		t.Errorf("the first interface: %v", err)
	}
	g1 := w.packetSocket(w.g1, "eth0")
	g2 := w.packetSocket(w.g2, "eth0")
	send(t, g1, frame(routerMAC, guest1MAC, 'a'))
	send(t, g2, frame(routerMAC, guest2MAC, 'z'))
	if seen := until(t, w.tap, 'z'); len(seen) > 0 {
		t.Errorf("the router got %q", seen)
	}
	spec.Ports[0].Index = second
	must(t, d.Update(spec))
	must(t, d.PortSecured("vif1.0", second))
	send(t, g1, frame(routerMAC, guest1MAC, 'b'), frame(routerMAC, guest1MAC, 'y'))
	if seen := until(t, w.tap, 'y'); string(seen) != "b" {
		t.Errorf("the router got %q", seen)
	}
	w.do(w.dom0, func() error { return setMaster("vif2.0", "") })
	if err := d.PortSecured("vif2.0", w.indexOf("vif2.0")); err == nil || !strings.Contains(err.Error(), "no port of bridge xenbr0") {
		t.Errorf("out of the bridge: %v", err)
	}
}

// Guests that come and go leave the tables, and what they count, in place.
func TestPortsComeAndGoInPlace(t *testing.T) {
	w := newWorld(t)
	spec := w.spec()
	d := w.open(spec)
	before := d.guard.setID
	for range 3 {
		spec.Ports = spec.Ports[:2]
		must(t, d.Update(spec))
		spec.Ports = append(spec.Ports, Port{"vif5.0", 0, []policy.MAC{guest3MAC}})
		must(t, d.Update(spec))
	}
	if d.guard.setID != before { // each replacement has new sets
		t.Error("the tables were replaced")
	}
	var names []string
	w.do(w.dom0, func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		set, err := c.GetSetByName(&nftables.Table{Name: TableName, Family: nftables.TableFamilyBridge}, setVifs)
		if err != nil {
			return err
		}
		elems, err := c.GetSetElements(set)
		for _, e := range elems {
			names = append(names, string(bytes.TrimRight(e.Key, "\x00")))
		}
		slices.Sort(names)
		return err
	})
	if got := strings.Join(names, " "); got != "udr0 vif1.0 vif2.0 vif5.0" {
		t.Errorf("the set of names is %q", got)
	}
}

// Rename is done once, however often it is asked for, and takes nobody's name.
func TestRename(t *testing.T) {
	w := newWorld(t)
	index := w.indexOf("vif1.0")
	w.do(w.dom0, func() error {
		for range 2 {
			if err := Rename("vif1.0", "vif-one"); err != nil {
				t.Error(err)
			}
		}
		if err := Rename("vif2.0", "vif-one"); err == nil || !strings.Contains(err.Error(), "there is an interface of that name") {
			t.Errorf("to another's name: %v", err)
		}
		if err := Rename("vif8.0", "vif-eight"); err == nil || !strings.Contains(err.Error(), "no such interface") {
			t.Errorf("of no interface: %v", err)
		}
		return nil
	})
	if got := w.indexOf("vif-one"); got != index {
		t.Errorf("index %d, want %d", got, index)
	}
}

// LockPort makes a port that passes nothing from its first moment on, and leaves one alone that a router has bound.
func TestLockPort(t *testing.T) {
	w := newWorld(t)
	g9 := newNS(t)
	w.veth(w.dom0, "vif9.0", g9, "eth0", mac("00:16:3e:00:00:09"))
	lock := func(vif, bridge string, mtu int) (index int, err error) {
		w.do(w.dom0, func() error { index, err = LockPort(vif, bridge, true, mtu); return nil })
		return index, err
	}
	w.do(w.dom0, func() error {
		l, err := netlink.LinkByName("vif9.0")
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr("198.51.100.9/32")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(l, a); err != nil {
			return err
		}
		if _, err := LockPort("vif9.0", "xenbr0", true, 0); err == nil || !strings.Contains(err.Error(), "has the address 198.51.100.9/32") {
			t.Errorf("of dom0: %v", err)
		}
		if l, err = netlink.LinkByName("vif9.0"); err != nil || l.Attrs().MasterIndex != 0 {
			t.Errorf("of dom0, it has joined: %+v, %v", l, err)
		}
		return netlink.AddrDel(l, a)
	})
	for _, c := range []struct{ vif, bridge, says string }{{"vif8.0", "xenbr0", "vif8.0: no such interface"}, {"vif9.0", "xenbr9", "xenbr9: no such bridge"}, {"vif9.0", "eth0", "eth0: no such bridge"}} {
		if _, err := lock(c.vif, c.bridge, 0); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	w.do(w.dom0, func() error {
		if index, err := LockPort("vif9.0", "xenbr0", false, 0); err != nil || index == 0 {
			t.Errorf("no port of a bridge: %d, %v", index, err)
		}
		if _, err := LockPort("vif1.0", "xenbr9", false, 0); err == nil || !strings.Contains(err.Error(), "vif1.0 is in another bridge than xenbr9") {
			t.Errorf("a port of another bridge: %v", err)
		}
		return nil
	})
	bridge := w.indexOf("xenbr0")
	check := func(what string, mtu int) {
		t.Helper()
		w.do(w.dom0, func() error {
			ns, rt, err := openNS()
			if err != nil {
				return err
			}
			defer ns.close()
			defer rt.close()
			l, err := netlink.LinkByName("vif9.0")
			if err != nil {
				return err
			}
			a := l.Attrs()
			ports, _, err := rt.ports(bridge)
			if err != nil {
				return err
			}
			if p := ports[a.Index]; p["isolated"] != 1 || p["locked"] != 1 || p["learning"] != 0 || p["flood"] != 0 || a.MTU != mtu || a.Flags&net.FlagUp == 0 {
				t.Errorf("%s: MTU %d, %v, %v", what, a.MTU, a.Flags, p)
			}
			return nil
		})
	}
	for range 2 { // the script may run twice
		_, err := lock("vif9.0", "xenbr0", 1400)
		must(t, err)
		check("without a router", 1400)
	}
	w.do(w.dom0, func() error { return setMaster("vif9.0", "") })
	_, err := lock("vif9.0", "xenbr0", 0)
	must(t, err)
	check("again", 1500)

	spec := w.spec()
	spec.Ports = append(spec.Ports, Port{"vif9.0", 0, []policy.MAC{mac("00:16:3e:00:00:09")}})
	d := w.open(spec)
	must(t, d.PortSecured("vif9.0", w.indexOf("vif9.0")))
	_, err = lock("vif9.0", "xenbr0", 0)
	must(t, err)
	if st := observed(t, d); st.ports[st.named("vif9.0").index]["bcast_flood"] != 1 {
		t.Error("the guest's port is as one that nobody is bound to")
	}
	must(t, d.Close())
	if err := d.PortSecured("vif9.0", 1); !errors.Is(err, errClosed) {
		t.Errorf("after Close: %v", err)
	}
}
