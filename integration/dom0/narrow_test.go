package dom0

import (
	"testing"

	"udrouter/policy"
)

// Between two specs a port passes what both let pass, and the kernel keeps its hands off what either has for guests.
func TestNarrow(t *testing.T) {
	w := newWorld(t)
	g3ns := newNS(t)
	w.guest("vif3.0", g3ns, guest3MAC)
	spec := w.spec()
	d := w.open(spec)
	next := w.spec()
	next.Ports = []Port{{"vif1.0", 0, []policy.MAC{guest2MAC}}, {"vif2.0", 0, []policy.MAC{guest1MAC}}, {"vif3.0", 0, []policy.MAC{guest3MAC}}} // two have changed their MACs
	next.Guests = prefixes(guests4, "2001:db8:7::/64")
	next.Bound = prefixes("192.0.2.10/32", "2001:db8:7::10/128")
	next.HostRoutes = prefixes(guests4)
	next.Isolate = false

	g1, g2, g3 := w.packetSocket(w.g1, "eth0"), w.packetSocket(w.g2, "eth0"), w.packetSocket(g3ns, "eth0")
	passes := func(when string, want string) {
		t.Helper()
		send(t, g1, frame(routerMAC, guest1MAC, '1'), frame(routerMAC, guest2MAC, 'B'))
		send(t, g2, frame(routerMAC, guest2MAC, '2'), frame(routerMAC, guest1MAC, 'A'))
		send(t, g3, frame(routerMAC, guest3MAC, 'z'))
		if got := string(until(t, w.tap, 'z')); got != want {
			t.Errorf("%s the router got %q, want %q", when, got, want)
		}
	}
	passes("before,", "12")
	must(t, d.Narrow(next))
	passes("in between,", "")
	if s := d.spec; !s.Isolate || len(s.guestPrefixes()) != len(mergePrefixes(append(spec.guestPrefixes(), next.guestPrefixes()...))) {
		t.Errorf("in between %+v", s)
	}
	must(t, d.Update(next))
	passes("afterwards,", "BA")
	// Nothing in common is changed for a spec that is the same.
	if err := d.Narrow(next); err != nil || !d.opened {
		t.Error(err)
	}
	bad := next
	bad.Ports = append(bad.Ports, Port{"vif4.0", 0, []policy.MAC{routerMAC}})
	if err := d.Narrow(bad); err == nil {
		t.Error("a spec that is none is narrowed to")
	}
	passes("after a bad one,", "BA")
}
