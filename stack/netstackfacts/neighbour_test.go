package netstackfacts

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// learn makes the router learn ip on the lan, by a question for the router's own address.
func (r *router) learn(ip string, mac tcpip.LinkAddress) {
	r.t.Helper()
	if family(addr(ip)) == protoIPv4 {
		r.lan.in(arpPacket(arpRequest, mac, ip, lan4))
	} else {
		r.lan.in(ns(ip, lan6, lan6, mac))
	}
	r.one(r.lan)
}

// reachable makes gw a dynamic neighbour in state Reachable.
func (r *router) reachable() {
	r.t.Helper()
	r.lan.in(ip4(d1, x, protoUDP, datagram(d1, x, nil)))
	r.one(r.up)
	r.up.in(arpPacket(arpReply, macGW, gw, up4))
	r.one(r.up)
	r.entry(upNIC, gw, macGW, stack.Reachable)
}

func (r *router) entry(nic tcpip.NICID, ip string, mac tcpip.LinkAddress, state stack.NeighborState) {
	r.t.Helper()
	if e := r.neighbour(nic, ip); e == nil || e.LinkAddr != mac || e.State != state {
		r.t.Fatalf("neighbour %s: %+v, want %x %s", ip, e, string(mac), state)
	}
}

// noProxy: only the NIC's own addresses are answered for.
func noProxy(t *testing.T) {
	r := newRouter(t, conf{})
	for _, ip := range []string{d1, d2, gw, up4, "192.0.2.200"} {
		r.lan.in(arpPacket(arpRequest, macD1, d1, ip))
		r.up.in(arpPacket(arpRequest, macGW, gw, ip))
		if ip == up4 {
			r.one(r.up)
		}
		r.silent(r.lan, r.up)
	}
	for _, ip := range []string{d1v6, d2v6, gwv6, "2001:db8:1::dead"} {
		r.lan.in(ns(d1v6, solicited(ip), ip, macD1))
		r.up.in(ns(gwv6, solicited(ip), ip, macGW))
		r.silent(r.lan, r.up)
	}
	r.learn(d1, macD1) // so it does answer
	r.learn(d1v6, macD1)
}

// promiscuousTakesAll: with SetPromiscuousMode every destination is local.
func promiscuousTakesAll(t *testing.T) {
	r := newRouter(t, conf{})
	r.ok(r.s.SetPromiscuousMode(lanNIC, true))
	r.lan.in(ip4(d1, x, protoUDP, datagram(d1, x, nil)))
	r.lan.in(ip6(d1v6, xv6, protoUDP, datagram(d1v6, xv6, nil)))
	r.silent(r.up)
}

// forwardsSolicitation: NUD probes are unicast, and that a neighbour discovery message must not be forwarded netstack does not know.
func forwardsSolicitation(t *testing.T) {
	r := newRouter(t, conf{})
	if got := r.transit(r.up, r.lan, ns(gwv6, d1v6, d1v6, macGW)); got[7] != 254 || got[40] != icmp6NS {
		t.Errorf("forwarded as %x", got)
	}
}

// neighboursLRU: neighbor_cache.go:25,84. Static entries do not count.
func neighboursLRU(t *testing.T) {
	r := newRouter(t, conf{dynamic: true})
	r.static(upNIC, gw, macGW)
	for i := range 600 {
		r.static(lanNIC, fmt.Sprintf("10.1.%d.%d", i/256, i%256), macD1)
	}
	r.learn(d1, macD1)
	r.learn(d2, macD2)
	for i := range 510 {
		r.learn(fmt.Sprintf("10.0.%d.%d", i/256, i%256), macD1)
	}
	if all, _ := r.s.Neighbors(lanNIC, protoIPv4); len(all) != 600+512 {
		t.Fatalf("%d neighbours", len(all))
	}
	r.up.in(ip4(x, d1, protoUDP, datagram(x, d1, nil))) // a packet to d1 makes it the most recently used
	r.one(r.lan)
	r.learn("10.0.9.9", macD1)
	if r.neighbour(lanNIC, d1) == nil || r.neighbour(lanNIC, d2) != nil {
		t.Error("d2, the least recently used, should have gone, and d1 stayed")
	}
	if all, _ := r.s.Neighbors(lanNIC, protoIPv4); len(all) != 600+512 {
		t.Errorf("%d neighbours", len(all))
	}
}

// packetsPerResolution: pending_packets.go:28. The newest 256 survive.
func packetsPerResolution(t *testing.T) {
	r := newRouter(t, conf{dynamic: true})
	for i := range uint16(300) {
		r.lan.in(ip4(d1, x, protoUDP, datagram(d1, x, binary.BigEndian.AppendUint16(nil, i))))
	}
	if f := r.one(r.up); f.proto != protoARP {
		t.Fatalf("written: %v", f)
	}
	r.up.in(arpPacket(arpReply, macGW, gw, up4))
	out := r.took(r.up)
	if len(out) != 256 {
		t.Fatalf("%d packets left, want 256", len(out))
	}
	for i, f := range out {
		if n := binary.BigEndian.Uint16(f.b[28:]); int(n) != i+44 {
			t.Fatalf("packet %d is number %d, want %d", i, n, i+44)
		}
	}
}

// pendingResolutions: pending_packets.go:27. The 65th resolution drops what waits for the first one.
func pendingResolutions(t *testing.T) {
	r := newRouter(t, conf{})
	guest := func(i int) string { return fmt.Sprintf("192.0.2.%d", 20+i) }
	for i := range 65 {
		r.up.in(ip4(x, guest(i), protoUDP, datagram(x, guest(i), nil)))
	}
	if n := len(r.took(r.lan)); n != 65 {
		t.Fatalf("%d ARP requests", n)
	}
	r.up.await(1) // from a goroutine that no clock knows of (pending_packets.go:181)
	if m := r.one(r.up).b; m[20] != icmpUnreach || m[21] != 1 || string(m[44:48]) != string(octets(guest(0))) {
		t.Errorf("sent back: %x", m)
	}
	for i := range 65 {
		r.lan.in(arpPacket(arpReply, macD1, guest(i), lan4))
		if i == 0 {
			r.silent(r.lan)
			continue
		}
		r.one(r.lan)
	}
}

// gratuitousARP: arp.go:180,246.
// Differs in a detail: not quite ignored: it makes a Reachable entry Stale, with the old MAC.
func gratuitousARP(t *testing.T) {
	request, reply := arpPacket(arpRequest, macNew, gw, gw), arpPacket(arpReply, macNew, gw, gw)
	broadcast := func(pkt *stack.PacketBuffer) { pkt.PktType = tcpip.PacketBroadcast }

	r := newRouter(t, conf{dynamic: true})
	r.up.in(request, broadcast)
	r.up.in(reply, broadcast)
	if e := r.neighbour(upNIC, gw); e != nil {
		t.Errorf("learned %+v", e)
	}

	r.reachable()
	r.up.in(request, broadcast)
	r.entry(upNIC, gw, macGW, stack.Reachable)
	r.up.in(reply, broadcast)
	r.entry(upNIC, gw, macGW, stack.Stale)
	r.up.in(reply)
	r.entry(upNIC, gw, macGW, stack.Stale)

	r = newRouter(t, conf{dynamic: true})
	r.lan.in(ip4(d1, x, protoUDP, datagram(d1, x, nil)))
	r.one(r.up)
	r.up.in(reply, broadcast) // but while a resolution is under way anyone's is taken
	r.entry(upNIC, gw, macNew, stack.Stale)
}

// changedMAC: at worst 45 s Reachable (30 s x 1.5), 5 s Delay, 3 s Probe; the entry changes at the first packet after that.
func changedMAC(t *testing.T) {
	if c := stack.DefaultNUDConfigurations(); c.BaseReachableTime != 30*time.Second || c.MinRandomFactor != 0.5 || c.MaxRandomFactor != 1.5 ||
		c.DelayFirstProbeTime != 5*time.Second || c.RetransmitTimer != time.Second || c.MaxUnicastProbes != 3 || c.MaxMulticastProbes != 3 {
		t.Errorf("defaults: %+v", c)
	}
	for _, c := range []struct {
		name    string
		reply   bool // the new owner says so, once
		seconds int
	}{
		{"nobody says a word", false, 53},
		{"gratuitous reply", true, 8},
	} {
		r := newRouter(t, conf{dynamic: true, opts: func(o *stack.Options) {
			o.NUDConfigs = stack.NUDConfigurations{MinRandomFactor: 1.5, MaxRandomFactor: 1.5}
		}})
		r.reachable()
		if c.reply {
			r.up.in(arpPacket(arpReply, macNew, gw, gw))
		}
		seconds, probes := 0, 0
	loop:
		for ; ; seconds++ {
			r.lan.in(ip4(d1, x, protoUDP, datagram(d1, x, nil)))
			for _, f := range r.took(r.up) {
				switch {
				case f.proto == protoARP && f.to == ethBC:
					break loop
				case f.to != macGW:
					t.Fatalf("after %d s: %v", seconds, f)
				case f.proto == protoARP: // NUD asks the old MAC
					probes++
				}
			}
			r.clock.Advance(time.Second)
		}
		if seconds != c.seconds || probes != 3 {
			t.Errorf("%s: asked again after %d s and %d probes, want %d s and 3", c.name, seconds, probes, c.seconds)
		}
		r.up.in(arpPacket(arpReply, macNew, gw, up4))
		if f := r.one(r.up); f.to != macNew {
			t.Errorf("%s: the packet goes to %x", c.name, string(f.to))
		}
	}
}

// refreshAtOnce: what udrouter can do when it has checked that the gateway has changed its MAC.
func refreshAtOnce(t *testing.T) {
	r := newRouter(t, conf{dynamic: true})
	r.reachable()
	n, err := r.s.GetNICByID(upNIC)
	r.ok(err)

	r.ok(n.HandleNeighborProbe(protoIPv4, addr(gw), macNew))
	r.entry(upNIC, gw, macNew, stack.Stale)
	r.ok(n.HandleNeighborConfirmation(protoIPv4, addr(gw), macGW, stack.ReachabilityConfirmationFlags{Solicited: true, Override: true}))
	r.entry(upNIC, gw, macGW, stack.Reachable)

	r.ok(r.s.RemoveNeighbor(upNIC, protoIPv4, addr(gw)))
	var got []stack.LinkResolutionResult
	resolve := func() tcpip.Error {
		return r.s.GetLinkAddress(upNIC, addr(gw), tcpip.Address{}, protoIPv4, func(res stack.LinkResolutionResult) { got = append(got, res) })
	}
	if _, ok := resolve().(*tcpip.ErrWouldBlock); !ok {
		t.Error("resolved without asking")
	}
	if f := r.one(r.up); f.proto != protoARP || f.to != ethBC {
		t.Errorf("written: %v", f)
	}
	r.up.in(arpPacket(arpReply, macNew, gw, up4))
	r.ok(resolve())
	if len(got) != 2 || got[0].LinkAddress != macNew || got[1].LinkAddress != macNew {
		t.Errorf("resolved: %+v", got)
	}

	// A failure is not remembered: each lookup starts three more questions.
	r.ok(r.s.RemoveNeighbor(upNIC, protoIPv4, addr(gw)))
	for range 2 {
		got = nil
		resolve()
		r.clock.Advance(3 * time.Second)
		if n := len(r.took(r.up)); n != 3 {
			t.Errorf("%d questions", n)
		}
		if _, ok := got[0].Err.(*tcpip.ErrTimeout); !ok {
			t.Errorf("resolved: %+v", got)
		}
		r.entry(upNIC, gw, "", stack.Unreachable)
	}
}

// findRouteWantsAddress: stack.go:1659,1691.
func findRouteWantsAddress(t *testing.T) {
	for _, c := range []struct {
		name  string
		conf  conf
		found bool
	}{
		{"no address at all", conf{bareLan: true, bareUp: true}, false},
		{"an address on the other NIC", conf{bareUp: true}, true},
		{"an address on the other NIC, forwarding off", conf{bareUp: true, host: true}, false},
		{"an address on the NIC, forwarding off", conf{bareLan: true, host: true}, true},
	} {
		r := newRouter(t, c.conf)
		for _, ip := range []string{x, xv6} {
			route, err := r.s.FindRoute(0, tcpip.Address{}, addr(ip), family(addr(ip)), false)
			if (err == nil) != c.found {
				t.Errorf("%s: route to %s: %v", c.name, ip, err)
			}
			if err == nil {
				route.Release()
			}
		}
	}
}

// arpWantsAddress: arp.go:317. For IPv6 a link-local address is enough.
func arpWantsAddress(t *testing.T) {
	r := newRouter(t, conf{bareUp: true, dynamic: true})
	resolve := func(ip string) (res stack.LinkResolutionResult) {
		r.s.GetLinkAddress(upNIC, addr(ip), tcpip.Address{}, family(addr(ip)), func(got stack.LinkResolutionResult) { res = got })
		r.clock.RunImmediatelyScheduledJobs()
		return res
	}
	for _, ip := range []string{gw, gwv6} {
		if _, ok := resolve(ip).Err.(*tcpip.ErrNetworkUnreachable); !ok {
			t.Errorf("resolving %s without an address: %v", ip, resolve(ip).Err)
		}
	}
	r.silent(r.up)
	r.address(upNIC, upLocal+"/64")
	resolve(gwv6)
	r.one(r.up)
}

// evictedByStrangers: 600 solicitations by one guest, or packets from outside to 2000 addresses that nobody has.
func evictedByStrangers(t *testing.T) {
	for _, static := range []bool{false, true} {
		known := func(r *router) bool { return r.neighbour(lanNIC, d2v6) != nil }
		router := func() *router {
			r := newRouter(t, conf{dynamic: true})
			r.learn(d2v6, macD2)
			if static {
				r.static(lanNIC, d2v6, macD2)
			}
			return r
		}
		r := router()
		for i := range 600 {
			r.learn(fmt.Sprintf("2001:db8:1::1:%x", i), macD1)
		}
		if known(r) != static {
			t.Errorf("static %t: known after 600 solicitations: %t", static, known(r))
		}
		r = router()
		for i := range 2000 {
			dst := fmt.Sprintf("2001:db8:1::2:%x", i)
			r.up.in(ip6(xv6, dst, protoUDP, datagram(xv6, dst, nil)))
		}
		all, _ := r.s.Neighbors(lanNIC, protoIPv6)
		incomplete := 0
		for _, e := range all {
			if e.State == stack.Incomplete {
				incomplete++
			}
		}
		if known(r) != static || incomplete != 512 {
			t.Errorf("static %t: known after a scan: %t, with %d incomplete entries", static, known(r), incomplete)
		}
	}
}

// overwrittenByAnyone: whoever asks for an address of the router changes the entry that he names; static entries stay.
func overwrittenByAnyone(t *testing.T) {
	for _, c := range []struct {
		name, ip string
		attack   []byte
		mac      tcpip.LinkAddress // what stands there then
	}{
		{"ARP request", d2, arpPacket(arpRequest, macEvil, d2, lan4), macEvil},
		{"ARP request with a broadcast SHA", d2, arpPacket(arpRequest, ethBC, d2, lan4), ethBC},
		{"ARP reply", d2, arpPacket(arpReply, macEvil, d2, lan4), macD2},
		{"NS", d2v6, ns(d2v6, lan6, lan6, macEvil), macEvil},
		{"NA with O", d2v6, na(d2v6, lan6, d2v6, 0x20, macEvil), macEvil},
		{"NA with O from another address", d2v6, na(d1v6, lan6, d2v6, 0x20, macEvil), macEvil},
		{"NA without O", d2v6, na(d2v6, lan6, d2v6, 0x40, macEvil), macD2},
	} {
		r := newRouter(t, conf{dynamic: true})
		r.learn(d2, macD2)
		r.learn(d2v6, macD2)
		r.lan.in(c.attack)
		if e := r.neighbour(lanNIC, c.ip); e == nil || e.LinkAddr != c.mac {
			t.Errorf("%s: %+v, want %x", c.name, e, string(c.mac))
		}
		r = newRouter(t, conf{})
		r.lan.in(c.attack)
		r.entry(lanNIC, c.ip, macD2, stack.Static)
	}
	r := newRouter(t, conf{})
	for _, ip := range []string{"8.8.8.8", lan4, "0.0.0.0", "255.255.255.255"} { // learned although they make no sense
		r.learn(ip, macEvil)
		r.entry(lanNIC, ip, macEvil, stack.Stale)
	}
	// A router advertisement that is not handled teaches as well.
	r.lan.in(ip6("fe80::66", "ff02::1", protoICMP6, icmp6("fe80::66", "ff02::1", icmp6RA, 0, append(make([]byte, 12), append([]byte{1, 1}, macEvil...)...)), hops(255)))
	r.entry(lanNIC, "fe80::66", macEvil, stack.Stale)
	r.silent(r.lan)
}

// spoofingAnswers: nic.go:1041.
// Differs for NS: one to the solicited-node group of an address that is not ours does not arrive, as netstack is not in the group;
// one that does arrive (unicast, all nodes, a group that is shared by chance) is answered for every target.
func spoofingAnswers(t *testing.T) {
	r := newRouter(t, conf{})
	r.ok(r.s.SetSpoofing(lanNIC, true))
	for _, ip := range []string{d2, gw, d1, "192.0.2.200", "8.8.8.8"} { // d1 asks, for himself too
		r.lan.in(arpPacket(arpRequest, macD1, d1, ip))
		if f := r.one(r.lan); f.b[7] != arpReply || string(f.b[8:18]) != string(macLan)+string(octets(ip)) {
			t.Errorf("who-has %s: %v", ip, f)
		}
	}
	for _, ip := range []string{d2v6, gwv6, d1v6, "2001:db8:1::dead"} {
		for _, dst := range []string{"ff02::1", lan6} {
			r.lan.in(ns(d1v6, dst, ip, macD1))
			if f := r.one(r.lan); f.b[40] != icmp6NA || string(f.b[48:64]) != string(octets(ip)) {
				t.Errorf("NS for %s: %v", ip, f)
			}
		}
		r.lan.in(ns(d1v6, solicited(ip), ip, macD1))
		r.silent(r.lan)
	}
}

// naAlwaysOverride: ipv6/icmp.go:540-542.
func naAlwaysOverride(t *testing.T) {
	for _, c := range []struct {
		name     string
		host     bool
		packet   []byte
		to       tcpip.LinkAddress
		flags    byte
		dst, tgt string
	}{
		{"multicast", false, ns(d1v6, solicited(lan6), lan6, macD1), macD1, 0xe0, d1v6, lan6},
		{"unicast", false, ns(d1v6, lan6, lan6, macD1), macD1, 0xe0, d1v6, lan6},
		{"link-local", false, ns("fe80::a", lanLocal, lanLocal, macD1), macD1, 0xe0, "fe80::a", lanLocal},
		{"duplicate address detection", false, ns("::", solicited(lan6), lan6, ""), "\x33\x33\x00\x00\x00\x01", 0xa0, "ff02::1", lan6},
		{"forwarding off: not a router", true, ns(d1v6, lan6, lan6, macD1), macD1, 0x60, d1v6, lan6},
	} {
		r := newRouter(t, conf{host: c.host})
		r.lan.in(c.packet)
		f := r.one(r.lan)
		if f.to != c.to || f.b[7] != 255 || f.b[40] != icmp6NA || f.b[44] != c.flags ||
			string(f.b[24:40]) != string(octets(c.dst)) || string(f.b[8:24]) != string(octets(c.tgt)) {
			t.Errorf("%s: %v", c.name, f)
		}
	}
}

// nsBehindOptions: a guard that only looks at the first Next Header misses them.
func nsBehindOptions(t *testing.T) {
	solicit := func(next byte, wrap func([]byte) []byte) []byte {
		return ip6(d1v6, lan6, next, wrap(nsBody(d1v6, lan6, lan6, macEvil)), hops(255))
	}
	for _, c := range []struct {
		name      string
		packet    []byte
		processed bool
	}{
		{"destination options", solicit(protoDst, func(b []byte) []byte { return ext(protoICMP6, 8, b) }), true},
		{"two of them", solicit(protoDst, func(b []byte) []byte { return ext(protoDst, 8, ext(protoICMP6, 16, b)) }), true},
		{"hop-by-hop options", solicit(protoHop, func(b []byte) []byte { return ext(protoICMP6, 8, b) }), true},
		{"routing header, no segments left", solicit(protoRouting, func(b []byte) []byte { return ext(protoICMP6, 8, b) }), true},
		{"atomic fragment", solicit(protoFrag, func(b []byte) []byte { return frag6(protoICMP6, 0, false, b) }), false},
	} {
		r := newRouter(t, conf{dynamic: true})
		r.lan.in(c.packet)
		if e := r.neighbour(lanNIC, d1v6); (e != nil) != c.processed || len(r.took(r.lan)) == 1 != c.processed {
			t.Errorf("%s: neighbour %+v, want processed %t", c.name, e, c.processed)
		}
	}
}
