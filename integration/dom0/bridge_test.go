package dom0

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"udrouter/policy"
)

// diff shows two snapshots' differing lines.
func diff(t testing.TB, want, got string) {
	t.Helper()
	if want == got {
		return
	}
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	for _, l := range a {
		if !slices.Contains(b, l) {
			t.Errorf("- %s", l)
		}
	}
	for _, l := range b {
		if !slices.Contains(a, l) {
			t.Errorf("+ %s", l)
		}
	}
	t.Fatalf("the namespace is not as it was")
}

// observed is the kernel's state as the package reads it.
func observed(t testing.TB, d *Dom0) *state {
	t.Helper()
	st, err := d.observe()
	must(t, err)
	return st
}

func (st *state) named(name string) *link {
	for _, l := range st.links {
		if l.name == name {
			return l
		}
	}
	return nil
}

func TestOpenSets(t *testing.T) {
	w := newWorld(t)
	var stranger = newNS(t)
	w.guest("vif9.0", stranger, mac("00:16:3e:00:00:09"))
	w.do(w.dom0, func() error {
		return errors.Join(
			sysctl("bridge/bridge-nf-call-iptables", "0"), sysctl("bridge/bridge-nf-call-ip6tables", "0"))
	})
	spec := w.spec()
	spec.MTU = 1400
	d := w.open(spec)
	st := observed(t, d)

	for name, want := range map[string]portFlags{
		"vif1.0": {"locked": 1, "isolated": 1, "learning": 0, "flood": 0, "mcast_flood": 1, "bcast_flood": 1, "hairpin": 0},
		"vif2.0": {"locked": 1, "isolated": 1, "learning": 0, "flood": 0, "mcast_flood": 1, "bcast_flood": 1, "hairpin": 0},
		"vif9.0": {"locked": 1, "isolated": 1, "learning": 0, "flood": 0, "mcast_flood": 0, "bcast_flood": 0, "hairpin": 0},
		"udr0":   {"locked": 0, "isolated": 0, "learning": 0, "flood": 0, "mcast_flood": 1, "bcast_flood": 1, "hairpin": 0},
	} {
		l := st.named(name)
		for f, v := range want {
			if got := st.ports[l.index][f]; got != v {
				t.Errorf("%s: %s is %d, not %d", name, f, got, v)
			}
		}
		if !l.noIPv6 {
			t.Errorf("%s: IPv6 is on", name)
		}
	}
	for name, want := range map[string][]policy.MAC{"vif1.0": {guest1MAC}, "vif2.0": {guest2MAC}, "vif9.0": nil, "udr0": {routerMAC}} {
		var got []policy.MAC
		for _, e := range st.entries(st.named(name).index) {
			if e.local() {
				continue
			}
			if !e.bound() {
				t.Errorf("%s: %s is not static and sticky: %+v", name, e.mac, e)
			}
			got = append(got, e.mac)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: forwarding entries %v, not %v", name, got, want)
		}
	}
	b := st.bridge
	for _, s := range bridgeSettings {
		if v, ok := s.value(b.bridge); v != s.want || !ok {
			t.Errorf("%s is %#x, reported: %v", s.name, v, ok)
		}
	}
	if !b.up || !b.noIPv6 || b.mtu != 1400 || st.tap.mtu != 1400 || !st.tap.up {
		t.Errorf("bridge %+v\ntap %+v", b, st.tap)
	}
	if got := d.Warnings(); len(got) > 0 {
		t.Errorf("warnings: %q", got)
	}
	// What the bridge's settings are worth without the kernel's help: nothing else may be in the tables.
	if n, err := d.Counters(); err != nil || len(n) != 9 {
		t.Errorf("counters %v, %v", n, err)
	}
	must(t, d.Update(func() Spec { s := spec; s.Isolate = false; return s }()))
	if st := observed(t, d); st.ports[st.named("vif1.0").index]["isolated"] != 0 {
		t.Error("isolated although that was switched off")
	}
}

// Frames pass as soon as Open returns: the kernel by itself opens the TAP's port up to a second after it has a reader.
func TestTAPIsOpen(t *testing.T) {
	w := newWorld(t)
	d := w.open(w.spec())
	w.do(w.dom0, func() error {
		st, err := d.observe()
		if err == nil && st.states[st.tap.index] != portForwarding {
			t.Errorf("the port of udr0 is in state %d, want %d", st.states[st.tap.index], portForwarding)
		}
		return err
	})
}

func TestForgedMACDies(t *testing.T) {
	w := newWorld(t)
	w.open(w.spec())
	g1, g2 := w.packetSocket(w.g1, "eth0"), w.packetSocket(w.g2, "eth0")
	send(t, g1,
		frame(routerMAC, guest2MAC, 'a'), // another guest's
		frame(routerMAC, routerMAC, 'b'), // the router's
		frame(routerMAC, mac("00:16:3e:00:00:77"), 'c'),
		frame(broadcast, guest2MAC, 'd'),
		frame(routerMAC, guest1MAC, 'z'))
	if seen := until(t, w.tap, 'z'); len(seen) > 0 {
		t.Errorf("forged frames came through: %q", seen)
	}
	// The victim is still where it was.
	send(t, w.tap, frame(guest2MAC, routerMAC, 'y'))
	until(t, g2, 'y')
}

func TestGuestsAreApart(t *testing.T) {
	w := newWorld(t)
	d := w.open(w.spec())
	g1, g2 := w.packetSocket(w.g1, "eth0"), w.packetSocket(w.g2, "eth0")
	exchange := func() (seen []byte) {
		send(t, g1,
			frame(guest2MAC, guest1MAC, 'a'),
			frame(broadcast, guest1MAC, 'b'),
			frame(mac("33:33:00:00:00:01"), guest1MAC, 'c'),
			frame(mac("01:80:c2:00:00:00"), guest1MAC, 'd'),
			frame(mac("00:16:3e:00:00:77"), guest1MAC, 'e'),
			frame(routerMAC, guest1MAC, 'z'))
		until(t, w.tap, 'z') // by then the bridge has had all of them
		send(t, w.tap, frame(guest2MAC, routerMAC, 'y'))
		return until(t, g2, 'y')
	}
	if seen := exchange(); len(seen) > 0 {
		t.Errorf("frames from guest to guest: %q", seen)
	}
	// The router's own frames reach every guest, and only its own.
	send(t, w.tap, frame(guest2MAC, routerMAC, 'f'), frame(broadcast, routerMAC, 'g'), frame(mac("33:33:00:00:00:01"), routerMAC, 'h'),
		frame(mac("00:16:3e:00:00:77"), routerMAC, 'i'), frame(guest1MAC, routerMAC, 'x'))
	if seen := until(t, g1, 'x'); string(seen) != "gh" {
		t.Errorf("the guest got %q", seen)
	}
	spec := w.spec()
	spec.Isolate = false
	must(t, d.Update(spec))
	until(t, g2, 'h')
	if seen := exchange(); string(seen) != "abcd" {
		t.Errorf("not isolated, guests got of each other %q", seen)
	}
}

func TestLearnedEntriesGo(t *testing.T) {
	w := newWorld(t)
	g1, g2 := w.packetSocket(w.g1, "eth0"), w.packetSocket(w.g2, "eth0")
	learned := mac("00:16:3e:00:00:77")
	send(t, g1, frame(broadcast, learned, 'a'), frame(broadcast, guest2MAC, 'b'), frame(broadcast, routerMAC, 'c'))
	until(t, g2, 'c')
	static := mac("00:16:3e:00:00:66") // the user's own entry would pass a locked port as well
	w.do(w.dom0, func() error {
		l, err := netlink.LinkByName("vif1.0")
		if err != nil {
			return err
		}
		return netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, Family: unix.AF_BRIDGE, State: netlink.NUD_NOARP,
			Flags: netlink.NTF_MASTER, HardwareAddr: static[:]})
	})
	before := w.snapshot()
	d := w.open(w.spec())
	send(t, g1, frame(routerMAC, learned, 'd'), frame(routerMAC, guest2MAC, 'e'), frame(routerMAC, routerMAC, 'f'),
		frame(routerMAC, static, 'g'), frame(routerMAC, guest1MAC, 'z'))
	if seen := until(t, w.tap, 'z'); len(seen) > 0 {
		t.Errorf("frames of learned or static entries came through: %q", seen)
	}
	must(t, d.Close())
	diff(t, before, w.snapshot())
}

func TestStrangerPassesNothing(t *testing.T) {
	w := newWorld(t)
	ns := newNS(t)
	own := mac("00:16:3e:00:00:09")
	w.guest("vif9.0", ns, own)
	w.open(w.spec())
	g1, g9 := w.packetSocket(w.g1, "eth0"), w.packetSocket(ns, "eth0")
	send(t, g9, frame(routerMAC, own, 'a'), frame(broadcast, own, 'b'), frame(guest1MAC, own, 'c'))
	send(t, g1, frame(routerMAC, guest1MAC, 'z'))
	if seen := until(t, w.tap, 'z'); len(seen) > 0 {
		t.Errorf("from a port that no guest is bound to: %q", seen)
	}
	// Nothing is flooded to it either. A frame on its veth by hand ends the wait.
	vif := w.packetSocket(w.dom0, "vif9.0")
	send(t, w.tap, frame(broadcast, routerMAC, 'd'), frame(mac("33:33:00:00:00:01"), routerMAC, 'e'), frame(own, routerMAC, 'f'),
		frame(guest1MAC, routerMAC, 'y'))
	until(t, g1, 'y')
	send(t, vif, frame(own, routerMAC, 'x'))
	if seen := until(t, g9, 'x'); len(seen) > 0 {
		t.Errorf("to a port that no guest is bound to: %q", seen)
	}
}

// A guest must not reach dom0 past the router: not by a link-local group, which no lock stops, and not by the bridge's MAC.
func TestDom0IsOutOfReach(t *testing.T) {
	w := newWorld(t)
	w.do(w.dom0, func() error {
		return errors.Join(addRoute("eth0", "192.0.2.0/24"), // an answer has to have a way, or the kernel drops the question
			sysctl("bridge/bridge-nf-call-iptables", "0"))
	})
	var sock *net.UDPConn
	w.do(w.dom0, func() (err error) {
		sock, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(dom0V4), Port: 5353})
		return err
	})
	defer sock.Close()
	var bridgeMAC policy.MAC
	w.do(w.dom0, func() error {
		br, err := netlink.LinkByName("xenbr0")
		if err == nil {
			copy(bridgeMAC[:], br.Attrs().HardwareAddr)
		}
		return err
	})
	g1, up := w.packetSocket(w.g1, "eth0"), w.packetSocket(w.up, "eth0")
	var dom0MAC policy.MAC
	w.do(w.dom0, func() error {
		l, err := netlink.LinkByName("eth0")
		if err == nil {
			copy(dom0MAC[:], l.Attrs().HardwareAddr)
		}
		return err
	})
	datagram := func(dst policy.MAC, text string) []byte {
		return ether(dst, guest1MAC, unix.ETH_P_IP, udp("192.0.2.10", dom0V4, 5353, text))
	}
	attack := func() {
		for i := range 16 {
			send(t, g1, datagram(policy.MAC{1, 0x80, 0xc2, 0, 0, byte(i)}, fmt.Sprintf("group %x", i)))
		}
		send(t, g1, datagram(bridgeMAC, "bridge"), datagram(broadcast, "broadcast"), frame(broadcast, guest1MAC, 'z'))
	}
	last := func() (seen []string) {
		// From the uplink, which is open to it: ends the wait.
		send(t, up, ether(dom0MAC, mac("02:00:00:00:00:01"), unix.ETH_P_IP, udp(upV4, dom0V4, 5353, "end")))
		buf := make([]byte, 100)
		for {
			n, err := sock.Read(buf)
			must(t, err)
			if string(buf[:n]) == "end" {
				return seen
			}
			seen = append(seen, string(buf[:n]))
		}
	}
	g2 := w.packetSocket(w.g2, "eth0")
	attack()
	until(t, g2, 'z') // the bridge has had all of them
	if seen := last(); len(seen) < 16 || !slices.Contains(seen, "group e") || !slices.Contains(seen, "bridge") {
		t.Fatalf("without the guard dom0 got %q: this test shows nothing", seen)
	}

	d := w.open(w.spec())
	w.do(w.dom0, func() error { // as read again: joining the TAP may have changed it
		br, err := netlink.LinkByName("xenbr0")
		if err == nil {
			copy(bridgeMAC[:], br.Attrs().HardwareAddr)
		}
		return err
	})
	send(t, w.tap, frame(guest1MAC, routerMAC, 'w'))
	until(t, g1, 'w')
	attack()
	send(t, g1, whoHas(guest1MAC, "192.0.2.10", dom0V4), frame(routerMAC, guest1MAC, 'y'))
	until(t, w.tap, 'y')
	if seen := last(); len(seen) > 0 {
		t.Errorf("dom0 got %q from a guest", seen)
	}
	n, err := d.Counters()
	must(t, err)
	if n[CountBridgeUp] < 17 {
		t.Errorf("counted %d frames to dom0: %v", n[CountBridgeUp], n)
	}
	// dom0 answered nothing: the next frame to the guest is the router's.
	send(t, w.tap, frame(guest1MAC, routerMAC, 'x'))
	buf := make([]byte, 2000)
	for {
		k, err := g1.Read(buf)
		must(t, err)
		if buf[14] == 'x' && k == 60 {
			break
		}
		t.Errorf("the guest was answered: %x", buf[:k])
	}
}

// What dom0's kernel sends on the bridge by itself, such as the group reports of a bridge whose snooping ends, reaches nobody.
func TestDom0IsSilentOnTheBridge(t *testing.T) {
	w := newWorld(t)
	d := w.open(w.spec())
	bridge, g1 := w.packetSocket(w.dom0, "xenbr0"), w.packetSocket(w.g1, "eth0")
	own := w.macOf(w.dom0, "xenbr0")
	send(t, bridge, frame(guest1MAC, own, 'a'), frame(broadcast, own, 'b'), frame(mac("01:00:5e:00:00:16"), own, 'c'), frame(routerMAC, own, 'd'))
	send(t, g1, frame(routerMAC, guest1MAC, 'z'))
	if seen := until(t, w.tap, 'z'); len(seen) > 0 {
		t.Errorf("the router got %q from dom0's kernel", seen)
	}
	send(t, w.tap, frame(guest1MAC, routerMAC, 'y'))
	if seen := until(t, g1, 'y'); len(seen) > 0 {
		t.Errorf("a guest got %q from dom0's kernel", seen)
	}
	if n, err := d.Counters(); err != nil || n[CountBridgeDown] < 4 {
		t.Errorf("counted %v, %v", n, err)
	}
}

// br_netfilter shows bridged frames to dom0's IP rules: they pass those of ours, untracked.
func TestBridgeNetfilter(t *testing.T) {
	w := newWorld(t)
	d := w.open(w.spec())
	if !slices.ContainsFunc(d.Warnings(), func(s string) bool { return strings.Contains(s, "bridge-nf-call-iptables") }) {
		t.Errorf("no warning of br_netfilter in %q", d.Warnings())
	}
	var user *nftables.Conn
	table := &nftables.Table{Name: "user", Family: nftables.TableFamilyINet}
	var chain *nftables.Chain
	w.do(w.dom0, func() (err error) {
		if user, err = nftables.New(nftables.AsLasting()); err != nil {
			return err
		}
		user.AddTable(table)
		chain = user.AddChain(&nftables.Chain{Name: "pre", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityFilter})
		for _, state := range []uint32{expr.CtStateBitUNTRACKED, expr.CtStateBitNEW} {
			b := make([]byte, 4)
			ne.PutUint32(b, state)
			user.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: concat(iifname("xenbr0"),
				[]expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: 1}, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: b, Xor: make([]byte, 4)},
					&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)}, &expr.Counter{}})})
		}
		return user.Flush()
	})
	defer user.CloseLasting()
	g1 := w.packetSocket(w.g1, "eth0")
	send(t, g1, ether(routerMAC, guest1MAC, unix.ETH_P_IP, udp("192.0.2.10", "198.51.100.7", 53, "v4")),
		ether(routerMAC, guest1MAC, unix.ETH_P_IPV6, udp("2001:db8:3:2:1::10", "2001:db8::7", 53, "v6")),
		frame(routerMAC, guest1MAC, 'z'))
	var got []string
	buf := make([]byte, 2000)
	for {
		n, err := w.tap.Read(buf)
		must(t, err)
		if buf[14] == 'z' && n == 60 {
			break
		}
		if text := string(buf[n-2 : n]); text == "v4" || text == "v6" { // or the guest's own solicitations
			got = append(got, text)
		}
	}
	if !slices.Equal(got, []string{"v4", "v6"}) {
		t.Errorf("the router got %q", got)
	}
	rules, err := user.GetRules(table, chain)
	must(t, err)
	var counts []uint64
	for _, r := range rules {
		for _, e := range r.Exprs {
			if c, ok := e.(*expr.Counter); ok {
				counts = append(counts, c.Packets)
			}
		}
	}
	if counts[0] < 2 || counts[1] != 0 {
		t.Errorf("untracked and new packets: %v", counts)
	}
}
