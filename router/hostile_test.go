package router

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/policy"
	"udrouter/stack"
	"udrouter/stack/stacktest"
)

// solicit is the provider's router asking for an address.
func solicit(a netip.Addr) []byte {
	to := policy.SolicitedNode(a)
	return cases.NS(policy.MulticastMAC(to), gatewayMAC, cases.Gateway6, to, a, gatewayMAC)
}

// superFrame is 64 KiB of UDP from guest one, as a guest's kernel hands them over.
func superFrame(s *sim, dst netip.Addr) *stack.Frame {
	b := cases.UDP(s.RouterMAC, cases.MAC1, cases.One4, dst, 65000, cases.DF)
	return stacktest.Frame(b, policy.Offload{Flags: policy.NeedsCsum, GSOType: policy.GSOUDPL4, GSOSize: 1400, HdrLen: 42, CsumStart: 34, CsumOffset: 6})
}

// connect opens a TCP connection from guest one to a host, or from a host to guest one, which begins with sequence numbers 1000 and 2000.
func (s *sim) connect(a, b netip.AddrPort) {
	s.t.Helper()
	from, to := stack.Guests, stack.UplinkSide
	fromMACs, toMACs := [2]policy.MAC{s.RouterMAC, cases.MAC1}, [2]policy.MAC{eth0MAC, gatewayMAC}
	if a.Addr() == cases.X4 {
		from, to, fromMACs, toMACs = to, from, toMACs, fromMACs
	}
	const syn, ack = 2, 16
	s.send(from, cases.TCP(fromMACs[0], fromMACs[1], a, b, syn, 999, 0, 0))
	s.send(to, cases.TCP(toMACs[0], toMACs[1], b, a, syn|ack, 1999, 1000, 0))
	s.send(from, cases.TCP(fromMACs[0], fromMACs[1], a, b, ack, 1000, 2000, 0))
	if n := len(s.links[stack.Guests].Take()) + len(s.links[stack.UplinkSide].Take()); n != 3 {
		s.t.Fatalf("%d segments of a handshake passed: %v", n, s.counts())
	}
}

// A solicitation that is on its way to another host is not the router's to answer, on either side (RFC 4861 7.2.3); one to the target itself, to a group, or to
// another of the router's addresses is.
func TestSolicitationToAnother(t *testing.T) {
	s := seed(t)
	s.learn()
	own, group := cases.Router6, policy.SolicitedNode(cases.Router6)
	for _, c := range []struct {
		side    stack.Side
		dst     netip.Addr
		target  netip.Addr
		answers int
	}{
		{stack.Guests, cases.Two6, own, 0},
		{stack.Guests, cases.X6, own, 0},
		{stack.Guests, own, own, 1},
		{stack.Guests, group, own, 1},
		{stack.Guests, linkLocal1, own, 1},
		{stack.Guests, own, linkLocal1, 1},
		{stack.Guests, cases.Two6, cases.Two6, 1}, // asked anew by who knows it
		{stack.UplinkSide, cases.Two6, cases.One6, 0},
		{stack.UplinkSide, cases.X6, cases.One6, 0},
		{stack.UplinkSide, cases.One6, cases.One6, 1},
		{stack.UplinkSide, policy.SolicitedNode(cases.One6), cases.One6, 1},
		{stack.UplinkSide, s.net.UplinkLL, cases.One6, 1},
		{stack.UplinkSide, cases.One6, s.net.UplinkLL, 0},
		{stack.UplinkSide, linkLocal1, cases.One6, 0}, // which the router has on its other side
		{stack.Guests, s.net.UplinkLL, cases.Two6, 0},
	} {
		f := cases.NS(s.RouterMAC, cases.MAC1, cases.One6, c.dst, c.target, cases.MAC1)
		if c.side == stack.UplinkSide {
			f = cases.NS(eth0MAC, gatewayMAC, cases.Gateway6, c.dst, c.target, gatewayMAC)
		}
		before := s.counts()[policy.NDMalformed]
		s.links[c.side].Take()
		s.send(c.side, f)
		answers := 0
		for _, p := range s.frames(c.side) {
			if p.IsND() && p.ICMPType == policy.NeighborAdvertisement && p.ND.Target == c.target {
				answers++
			}
		}
		if dropped := s.counts()[policy.NDMalformed] - before; answers != c.answers || dropped != uint64(1-c.answers) {
			t.Errorf("side %d, to %v for %v: %d answers, %d dropped", c.side, c.dst, c.target, answers, dropped)
		}
	}
}

// What a link-layer option or an ARP packet of the uplink says cannot be nobody, a group or this host.
func TestImpossibleMACsFromUplink(t *testing.T) {
	for _, mac := range []policy.MAC{{}, {1, 0, 0x5e, 0, 0, 1}, eth0MAC} {
		s := seed(t)
		s.learn()
		s.send(stack.UplinkSide,
			cases.ARP(eth0MAC, gatewayMAC, 2, mac, cases.Gateway4, eth0MAC, cases.Dom04),
			cases.NS(eth0MAC, gatewayMAC, cases.Gateway6, s.net.UplinkLL, s.net.UplinkLL, orGroup(mac)))
		c := s.counts()
		if c[policy.ARPSpoof] != 1 || c[policy.NDSpoof] != 1 && !mac.IsZero() {
			t.Errorf("%v: counted %v", mac, c)
		}
		for _, v6 := range []bool{false, true} {
			s.links[stack.UplinkSide].Take()
			s.send(stack.Guests, upstream(s, v6))
			for _, p := range s.frames(stack.UplinkSide) {
				if p.Proto == policy.ProtoUDP && p.DstMAC != gatewayMAC {
					t.Errorf("%v: packets go to %v", mac, p.DstMAC)
				}
			}
		}
	}
}

// orGroup is mac, or where it is zero, which the maker of frames takes for no option, a group's.
func orGroup(mac policy.MAC) policy.MAC {
	if mac.IsZero() {
		return policy.MAC{1}
	}
	return mac
}

// One guest's packets to hosts that do not answer take neither the memory nor the places of the others.
func TestNextHopShares(t *testing.T) {
	k := seedKernel()
	k.Routes = append(k.Routes, stack.Route{Prefix: netip.MustParsePrefix("203.0.112.0/22")})
	s := newSim(t, parseConfig(t, strings.Replace(seedFile, "PROXY", "", 1)), k)
	host := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{203, 0, byte(112 + i>>8), byte(i)}) }
	one, two := s.current.Load().Guests[0], s.current.Load().Guests[1]
	// The gateway is not known either: one's super-packets for it do not keep two's from waiting.
	for range 100 {
		s.newWorker(stack.Guests).batch([]*stack.Frame{superFrame(s, cases.X4)})
	}
	s.send(stack.Guests, cases.UDP(s.RouterMAC, cases.MAC2, cases.Two4, cases.X4, 8))
	if n := two.Counters.Drops[policy.QueueFull].Load(); n != 0 || one.Counters.Drops[policy.QueueFull].Load() == 0 {
		t.Errorf("two lost %d packets, one %d", n, one.Counters.Drops[policy.QueueFull].Load())
	}
	if sh := s.current.Load().of(one).share; sh.bytes > maxWaitingBytes || sh.packets > maxWaitingPackets {
		t.Errorf("%+v wait of one guest", sh)
	}
	s.learn()
	if sh := [2]share{s.current.Load().of(one).share, s.current.Load().of(two).share}; sh != [2]share{} {
		t.Errorf("%+v wait after the gateway has answered", sh)
	}
	// All places are one's, and in use.
	for i := range maxNeighbours {
		s.neighbours.mu.Lock()
		n := &neighbour{addr: host(i + 1), owner: s.current.Load().of(one)}
		s.neighbours.m[n.addr] = n
		s.neighbours.mu.Unlock()
		n.used.Store(true)
		s.neighbours.wait(n, pendingFrame{frame: stack.NewFrame(100), from: one, plan: s.current.Load().plan})
	}
	lost := one.Counters.Drops[policy.NoNeighbour].Load()
	if s.neighbours.get(host(900), false, s.current.Load().of(two)) == nil {
		t.Error("two finds no place for a next hop, with one having all")
	}
	waited := 0
	for _, n := range s.neighbours.all() {
		waited += len(n.pending)
	}
	if n := one.Counters.Drops[policy.NoNeighbour].Load() - lost; int(n)+waited != maxWaitingPackets {
		t.Errorf("%d packets wait and %d were counted when their neighbour went, of %d", waited, n, maxWaitingPackets)
	}
	// The next packet for the one that went is not lost in it.
	gone := &neighbour{addr: host(901), removed: true}
	if r := s.neighbours.enqueue(gone, pendingFrame{frame: stack.NewFrame(100), from: two}); r != policy.NoNeighbour {
		t.Errorf("a packet waits for a neighbour that was forgotten: %v", r)
	}
}

// Solicitations for one guest, as many as anyone likes, leave those for another answered.
func TestAnswerShares(t *testing.T) {
	s := seed(t)
	for range 3 * answersPerSecond {
		s.send(stack.UplinkSide, solicit(cases.Two6))
	}
	s.links[stack.UplinkSide].Take()
	s.send(stack.UplinkSide, solicit(cases.One6))
	if got := s.frames(stack.UplinkSide); len(got) != 1 || got[0].ND.Target != cases.One6 {
		t.Errorf("answered %+v; %v", got, s.counts())
	}
	if s.current.Load().Guests[1].Counters.Drops[policy.NDLimit].Load() == 0 {
		t.Error("no limit was met: this test shows nothing")
	}
}

// prefixFile is the seed's network with answers that are learned, a guest that has a whole prefix, and the kernel's gateway6.
var prefixFile = strings.NewReplacer("PROXY", "  proxy {\n    answer = \"learned\"\n  }\n", "  gateway6 = \"2001:db8:3:2::1\"\n", "",
	"2001:db8:3:2:1::11", "2001:db8:3:2:2::/80").Replace(seedFile)

// A guest with a whole prefix shows more addresses than it may, and has more of them asked for than may wait: the other guest is
// learned and answered for all the same. When its vif is gone, none of its addresses is answered for.
func TestLearnedShares(t *testing.T) {
	s := newSim(t, parseConfig(t, prefixFile), seedKernel())
	in := func(i int) netip.Addr {
		return netip.AddrFrom16([16]byte{0x20, 1, 0x0d, 0xb8, 0, 3, 0, 2, 0, 2, 0, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)})
	}
	s.newWorker(stack.Guests).appearedAll()
	for i := range 2 * maxPresent {
		s.send(stack.Guests, cases.NA(s.RouterMAC, cases.MAC2, in(i), cases.LL1, in(i), cases.MAC2, policy.NAOverride))
	}
	two := s.current.Load().states[1]
	if n := len(two.until); n != maxPresent {
		t.Errorf("%d addresses of a guest are remembered, want %d", n, maxPresent)
	}
	for i := range 2 * maxAwaited {
		two.shown(s.current.Load().config[s.current.Load().Bindings.Networks[1]], in(0x10000+i), stack.NewFrame(60), s.now())
	}
	if n := len(two.waiting); n != maxAwaited {
		t.Errorf("%d addresses of a guest are awaited, want %d", n, maxAwaited)
	}
	s.send(stack.UplinkSide, solicit(cases.One6))
	s.send(stack.Guests, cases.NA(s.RouterMAC, cases.MAC1, cases.One6, cases.LL1, cases.One6, cases.MAC1, policy.NASolicited|policy.NAOverride))
	if got := s.frames(stack.UplinkSide); len(got) != 1 || got[0].ND.Target != cases.One6 {
		t.Errorf("one is there, and is not answered for: %+v", got)
	}
	last := in(2*maxPresent - 1)
	s.send(stack.UplinkSide, solicit(last))
	if got := s.frames(stack.UplinkSide); len(got) != 1 {
		t.Errorf("the address that two showed last is not answered for: %+v", got)
	}
	s.kernel.Up = map[string]bool{"vif1.0": true}
	if err := s.update(); err != nil {
		t.Fatal(err)
	}
	s.send(stack.UplinkSide, solicit(last))
	if got := s.frames(stack.UplinkSide); len(got) != 0 {
		t.Errorf("answered for a guest whose vif is gone: %+v", got)
	}
}

// What is over is forgotten by the clock, not when a packet needs room: a guest that shows ever new addresses would have all that is remembered
// looked through for each of them, and the others wait.
func TestLearnedIsForgotten(t *testing.T) {
	var p guestPresence
	for i := range byte(10) {
		p.learn(netip.AddrFrom4([4]byte{192, 0, 2, i}), time.Duration(i)*time.Second, 5*time.Second)
	}
	p.expire(10 * time.Second)
	if len(p.until) != 4 {
		t.Errorf("%d addresses are remembered, want the 4 that are not over", len(p.until))
	}
}

// A guest's prefix covers addresses that dom0 and the provider's router turn out to have: they stay theirs, and the log says so.
func TestPrefixCoversOthers(t *testing.T) {
	k := seedKernel()
	dom0, gw := netip.MustParseAddr("2001:db8:3:2:2::5"), netip.MustParseAddr("2001:db8:3:2:2::6")
	k.Held = append(k.Held, dom0)
	k.Routes = []stack.Route{{Prefix: netip.MustParsePrefix("::/0"), Gateway: gw}}
	s := newSim(t, parseConfig(t, prefixFile), k)
	s.learn()
	for _, a := range []netip.Addr{dom0, gw} {
		s.send(stack.Guests,
			cases.UDP(s.RouterMAC, cases.MAC2, a, cases.X6, 8),
			cases.UDP(s.RouterMAC, cases.MAC2, a, cases.One6, 8),
			cases.NA(policy.MAC{0x33, 0x33, 0, 0, 0, 1}, cases.MAC2, policy.EUI64(cases.MAC2), cases.AllNodes, a, cases.MAC2, policy.NAOverride))
		for _, side := range []stack.Side{stack.Guests, stack.UplinkSide} {
			for _, p := range s.frames(side) {
				if p.Src == a {
					t.Errorf("guest two sent from %v", a)
				}
			}
		}
	}
	if c := s.counts(); c[policy.MartianSrc] != 4 || c[policy.NDSpoof] != 2 {
		t.Errorf("counted %v", c)
	}
	if all := fmt.Sprint(s.current.Load().warnings); !strings.Contains(all, dom0.String()) || !strings.Contains(all, gw.String()) {
		t.Errorf("warned of %v", all)
	}
	// What else is in the prefix is the guest's.
	s.send(stack.Guests, cases.UDP(s.RouterMAC, cases.MAC2, netip.MustParseAddr("2001:db8:3:2:2::7"), cases.One6, 8))
	if got := s.frames(stack.Guests); len(got) != 1 {
		t.Errorf("sent %+v", got)
	}
}

// A guest's prefix covers the broadcast address of the uplink's own subnet: nobody sends from that.
func TestPrefixCoversBroadcast(t *testing.T) {
	src := strings.NewReplacer("192.0.2.0/24", "192.0.1.0/24", `"192.0.2.1"`, `"192.0.1.129"`, `"routed"`, `"proxied"`,
		`"192.0.2.10"`, `"192.0.1.32/27"`, `"192.0.2.11"`, `"192.0.1.130"`).Replace(string(config.Reference))
	s := newSim(t, parseConfig(t, src), seedKernel()) // 192.0.1.0/26 is on the uplink
	s.learn()
	for a, want := range map[string]policy.Reason{"192.0.1.62": policy.None, "192.0.1.63": policy.MartianSrc} {
		_, got := s.current.Load().FromGuest(parsed(t, cases.UDP(s.RouterMAC, cases.MAC1, netip.MustParseAddr(a), cases.X4, 8)))
		if got != want {
			t.Errorf("from %s: %v, want %v", a, got, want)
		}
	}
}

func parsed(t *testing.T, f []byte) *policy.Packet {
	t.Helper()
	p := new(policy.Packet)
	if r := p.Parse(f, policy.Offload{}); r != policy.None {
		t.Fatal(r)
	}
	return p
}

// The devices toward guests have the MTU that they were set up with, whatever becomes of the uplink's.
func TestGuestMTUStays(t *testing.T) {
	s := seed(t)
	s.learn()
	s.kernel.Uplink.MTU = 9000
	if err := s.update(); err != nil {
		t.Fatal(err)
	}
	s.send(stack.UplinkSide, cases.UDP(eth0MAC, gatewayMAC, cases.X4, cases.One4, 4000, cases.DF))
	if got := s.frames(stack.Guests); len(got) != 0 {
		t.Errorf("%d bytes go to a bridge of 1500", got[0].L3Len())
	}
	got := s.frames(stack.UplinkSide)
	if len(got) != 1 || got[0].ICMPType != 3 || got[0].ICMPCode != 4 || binary.BigEndian.Uint16(got[0].Frame[got[0].L4+6:]) != 1500 {
		t.Errorf("told %+v", got)
	}
}

// The kernel's changes are taken while neighbours are looked after: for the race detector.
func TestUpdateWhileTicking(t *testing.T) {
	s := seed(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 200 {
			s.kernel.Up = map[string]bool{fmt.Sprint(i): true}
			if err := s.update(); err != nil {
				t.Error(err)
			}
		}
	}()
	for {
		select {
		case <-done:
			return
		default:
			s.neighbours.tick(s.netstack.Load())
		}
	}
}

// A kernel that could not be read is read again; until then the router goes on with what it knew.
func TestUpdateFails(t *testing.T) {
	s := seed(t)
	good := s.ReadKernel
	s.ReadKernel = func() (stack.Kernel, error) { return stack.Kernel{}, errors.New("no buffer space") }
	if s.update() == nil {
		t.Error("the watch is not told to try again")
	}
	if s.current.Load().UplinkMAC != eth0MAC {
		t.Error("what was known is gone")
	}
	s.ReadKernel = good
	if err := s.update(); err != nil {
		t.Error(err)
	}
}

// The router's link-local address on the uplink is there alone, and that of the guests' side is not on the uplink.
func TestLinkLocalsAreOfTheirLink(t *testing.T) {
	s := seed(t)
	s.newWorker(stack.Guests).appearedAll()
	s.send(stack.Guests, cases.Echo(s.RouterMAC, cases.MAC1, policy.EUI64(cases.MAC1), s.net.UplinkLL, false, 8))
	s.send(stack.Guests, cases.Echo(s.RouterMAC, cases.MAC1, cases.One6, s.net.UplinkLL, false, 8))
	s.send(stack.UplinkSide, cases.Echo(eth0MAC, gatewayMAC, netip.MustParseAddr("fe80::99"), cases.LL1, false, 8))
	if n := len(s.frames(stack.Guests)) + len(s.frames(stack.UplinkSide)); n != 0 || s.counts()[policy.LinkLocal] != 3 {
		t.Errorf("%d answers, counted %v", n, s.counts())
	}
}

// A NIC with LRO says that it has checked the segments which it has put together; they go on, and are split again on the way to a
// smaller link. A guest has no NIC.
func TestLRO(t *testing.T) {
	k := seedKernel()
	s := newSim(t, parseConfig(t, strings.NewReplacer("PROXY", "", `bridge "xenbr0" {}`, `bridge "xenbr0" { mtu = 1400 }`).Replace(seedFile)), k)
	lro := policy.Offload{Flags: policy.DataValid, GSOType: policy.GSOTCPv4, GSOSize: 1360}
	x, one := netip.AddrPortFrom(cases.X4, 40000), netip.AddrPortFrom(cases.One4, 443)
	s.learn()
	s.connect(x, one)
	f := stacktest.Frame(cases.TCP(eth0MAC, gatewayMAC, x, one, 16, 1000, 2000, 64000), policy.Offload{})
	b := f.Bytes()
	f.Offload = lro
	var p policy.Packet
	if r := p.Parse(b, lro); r != policy.None {
		t.Fatal(r)
	}
	s.newWorker(stack.UplinkSide).batch([]*stack.Frame{f})
	got := s.links[stack.Guests].Take()
	if len(got) != 1 || got[0].Flags != policy.NeedsCsum || got[0].GSOSize != 1360 || got[0].CsumStart != 34 || got[0].CsumOffset != 16 {
		t.Fatalf("sent %+v; %v", got, s.counts())
	}
	out := stacktest.Frame(got[0].Frame, got[0].Offload)
	if r := p.Parse(out.Bytes(), out.Offload); r != policy.None {
		t.Fatal(r)
	}
	for _, seg := range stack.Segment(out, &p) {
		l4 := seg.Bytes()[34:]
		if policy.FoldChecksum(policy.Sum(l4, policy.PseudoSum(p.Src, p.Dst, policy.ProtoTCP, len(l4)))) != 0xffff {
			t.Fatal("a segment has a wrong checksum")
		}
	}
	guest := superFrame(s, cases.X4)
	guest.Offload = lro
	s.newWorker(stack.Guests).batch([]*stack.Frame{guest})
	if s.counts()[policy.Malformed] != 1 {
		t.Errorf("a guest's counted %v", s.counts())
	}
}

// What waited for a neighbour that was silent for a minute is counted when the neighbour goes.
func TestIdleNeighbourGoes(t *testing.T) {
	s := seed(t)
	n := s.neighbours.get(netip.MustParseAddr("192.0.1.7"), false, s.nobody)
	n.idle = idleTicks - 1
	s.neighbours.wait(n, pendingFrame{frame: stack.NewFrame(100), from: s.current.Load().Guests[0], plan: s.current.Load().plan})
	s.neighbours.tick(s.netstack.Load())
	if s.neighbours.lookup(n.addr) != nil || s.counts()[policy.NoNeighbour] != 1 {
		t.Errorf("still there: %v, counted %v", s.neighbours.lookup(n.addr) != nil, s.counts())
	}
}

// A tick that finds a neighbour idle which was forgotten in the meantime, and which may be known anew, leaves what has come in its place.
func TestForgottenNeighbourGoesOnce(t *testing.T) {
	s := seed(t)
	a := netip.MustParseAddr("192.0.1.7")
	old := s.neighbours.get(a, false, s.nobody)
	forget := func() {
		s.neighbours.mu.Lock()
		defer s.neighbours.mu.Unlock()
		s.neighbours.remove(old)
	}
	forget()
	n := s.neighbours.get(a, false, s.nobody)
	s.neighbours.wait(n, pendingFrame{frame: stack.NewFrame(100), from: s.current.Load().Guests[0], plan: s.current.Load().plan})
	forget()
	if s.neighbours.lookup(a) != n || s.neighbours.slots[n.slot].Load() != n {
		t.Error("who has come in its place is forgotten as well")
	}
	s.neighbours.event(stack.NeighbourEvent{Addr: a, MAC: gatewayMAC})
	if sh := s.current.Load().states[0].share; sh != (share{}) {
		t.Errorf("%+v wait for ever", sh)
	}
}
