package router

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/policy"
	"udrouter/stack"
	"udrouter/stack/stacktest"
)

// frames are what a side was sent, parsed.
func (s *sim) frames(sd stack.Side) []policy.Packet {
	var out []policy.Packet
	for _, f := range s.links[sd].Take() {
		var p policy.Packet
		if r := p.Parse(f.Frame, f.Offload); r != policy.None {
			s.t.Fatalf("the router sent a frame that is %v: %x", r, f.Frame)
		}
		out = append(out, p)
	}
	return out
}

// settle lets netstack's timers and the neighbours' task do what is due.
func (s *sim) settle() {
	for {
		s.clock.RunImmediatelyScheduledJobs()
		select {
		case a := <-s.neighbours.ask:
			s.netstack.Load().Resolve(a)
		case e := <-s.netstack.Load().Events():
			s.neighbours.event(e)
		default:
			return
		}
	}
}

// seedFile is the reference's network, with a place for a proxy block.
const seedFile = `
uplink "eth0" {
  gateway4 = "192.0.1.1"
  gateway6 = "2001:db8:3:2::1"
}
bridge "xenbr0" {}
network "v4" {
  prefix   = "192.0.2.0/24"
  gateway  = "192.0.2.1"
  upstream = "routed"
}
network "v6" {
  prefix   = "2001:db8:3:2::/64"
  gateway  = "2001:db8:3:2:1::1"
  upstream = "proxied"
PROXY}
domu "one" {
  vif  = "vif1.0"
  mac  = "00:16:3e:00:00:01"
  ipv4 = ["192.0.2.10"]
  ipv6 = ["2001:db8:3:2:1::10"]
  policy = "open"
}
domu "two" {
  vif  = "vif2.0"
  mac  = "00:16:3e:00:00:02"
  ipv4 = ["192.0.2.11"]
  ipv6 = ["2001:db8:3:2:1::11"]
  policy = "open"
}
policy "open" {
  ingress {
    default = "accept"
  }
}
host {}
`

func seed(t testing.TB) *sim {
	return newSim(t, parseConfig(t, cases.Open(config.Reference)), seedKernel())
}

// withProxy is the network with a proxy block for IPv6.
func withProxy(t testing.TB, proxy string) *sim {
	return newSim(t, parseConfig(t, strings.Replace(seedFile, "PROXY", proxy, 1)), seedKernel())
}

func upstream(s *sim, v6 bool) []byte {
	if v6 {
		return cases.UDP(s.RouterMAC, cases.MAC1, cases.One6, cases.X6, 8)
	}
	return cases.UDP(s.RouterMAC, cases.MAC1, cases.One4, cases.X4, 8)
}

// A packet for a gateway whose MAC is not known waits while the router asks, with dom0's address or its own link-local one,
// and goes on when the answer comes.
func TestNextHopResolution(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("IPv6 %v", v6), func(t *testing.T) {
			s := seed(t)
			s.newWorker(stack.Guests).appearedAll()
			for range 3 {
				s.send(stack.Guests, upstream(s, v6))
			}
			s.settle()
			asked := s.frames(stack.UplinkSide)
			if len(asked) != 1 {
				t.Fatalf("%d frames on the uplink, want one question: %+v", len(asked), asked)
			}
			q := asked[0]
			if v6 {
				if q.ICMPType != 135 || q.ND.Target != cases.Gateway6 || q.Src != s.net.UplinkLL || q.ND.SourceLL != eth0MAC || q.SrcMAC != eth0MAC || q.Dst != policy.SolicitedNode(cases.Gateway6) {
					t.Errorf("asked %+v", q)
				}
				s.send(stack.UplinkSide, cases.NA(eth0MAC, gatewayMAC, cases.Gateway6, s.net.UplinkLL, cases.Gateway6, gatewayMAC, policy.NASolicited|policy.NAOverride|policy.NARouter))
			} else {
				if q.ARP.Op != 1 || q.ARP.TPA != cases.Gateway4 || q.ARP.SPA != cases.Dom04 || q.ARP.SHA != eth0MAC || q.SrcMAC != eth0MAC || q.DstMAC != policy.BroadcastMAC {
					t.Errorf("asked %+v", q.ARP)
				}
				s.send(stack.UplinkSide, cases.ARP(eth0MAC, gatewayMAC, 2, gatewayMAC, cases.Gateway4, eth0MAC, cases.Dom04))
			}
			s.settle()
			got := s.frames(stack.UplinkSide)
			if len(got) != 3 {
				t.Fatalf("%d packets went on, want 3", len(got))
			}
			for _, p := range got {
				if p.DstMAC != gatewayMAC || p.SrcMAC != eth0MAC || p.TTL != 63 {
					t.Errorf("sent %+v", p)
				}
			}
		})
	}
}

// A gateway that does not answer costs a bounded number of packets, whose sender is told once the router has given up.
func TestNextHopUnreachable(t *testing.T) {
	s := seed(t)
	for range maxWaitingPackets + 5 {
		s.send(stack.Guests, upstream(s, false))
	}
	s.settle()
	if n := s.counts()[policy.QueueFull]; n != 5 {
		t.Errorf("%d packets beyond the queue were counted, want 5", n)
	}
	s.links[stack.Guests].Take()
	s.clock.Advance(10 * time.Second)
	s.settle()
	if n := s.counts()[policy.NoNeighbour]; n != maxWaitingPackets {
		t.Errorf("%d packets counted as no-neighbour, want %d", n, maxWaitingPackets)
	}
	told := s.frames(stack.Guests)
	if len(told) != maxWaitingPackets || told[0].ICMPType != 3 || told[0].ICMPCode != 1 || told[0].Src != cases.Router4 {
		t.Errorf("told %d times: %+v", len(told), told)
	}
	s.send(stack.Guests, upstream(s, false))
	if n := s.counts()[policy.NoNeighbour]; n != maxWaitingPackets+1 {
		t.Errorf("the next packet waits again at once")
	}
}

// Nobody is believed who says that a gateway has another MAC, neither unasked nor in a false answer: the known MAC is asked itself, and
// keeps its packets as long as it answers. When it is silent everyone is asked, and who answers has the address.
func TestGatewayMACChange(t *testing.T) {
	other := policy.MAC{2, 0, 0, 0, 0, 0x98}
	for _, c := range []struct {
		name  string
		frame func(s *sim) []byte
		v6    bool
	}{
		{"gratuitous ARP request", func(s *sim) []byte {
			return cases.ARP(policy.BroadcastMAC, other, 1, other, cases.Gateway4, policy.MAC{}, cases.Gateway4)
		}, false},
		{"gratuitous ARP reply", func(s *sim) []byte {
			return cases.ARP(policy.BroadcastMAC, other, 2, other, cases.Gateway4, other, cases.Gateway4)
		}, false},
		{"unsolicited NA", func(s *sim) []byte {
			return cases.NA(policy.MAC{0x33, 0x33, 0, 0, 0, 1}, other, cases.Gateway6, cases.AllNodes, cases.Gateway6, other, policy.NAOverride)
		}, true},
		{"NS", func(s *sim) []byte {
			return cases.NS(eth0MAC, other, cases.Gateway6, s.net.UplinkLL, s.net.UplinkLL, other)
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := seed(t)
			s.newWorker(stack.Guests).appearedAll()
			answer := func(mac policy.MAC) {
				if c.v6 {
					s.send(stack.UplinkSide, cases.NA(eth0MAC, mac, cases.Gateway6, s.net.UplinkLL, cases.Gateway6, mac, policy.NASolicited|policy.NAOverride|policy.NARouter))
				} else {
					s.send(stack.UplinkSide, cases.ARP(eth0MAC, mac, 2, mac, cases.Gateway4, eth0MAC, cases.Dom04))
				}
				s.settle()
			}
			s.send(stack.Guests, upstream(s, c.v6))
			s.settle()
			answer(gatewayMAC)
			s.links[stack.UplinkSide].Take()

			s.send(stack.UplinkSide, c.frame(s))
			s.settle()
			checks := func() (n int) {
				for _, p := range s.frames(stack.UplinkSide) {
					asks := p.EtherType == policy.EtherARP && p.ARP.Op == 1 && p.ARP.TPA == cases.Gateway4 || p.IsND() && p.ICMPType == 135 && p.ND.Target == cases.Gateway6
					if asks && p.DstMAC == gatewayMAC && p.SrcMAC == eth0MAC {
						n++
					}
				}
				return n
			}
			goesTo := func(when string, want policy.MAC) {
				t.Helper()
				s.links[stack.UplinkSide].Take()
				s.send(stack.Guests, upstream(s, c.v6))
				if got := s.frames(stack.UplinkSide); len(got) != 1 || got[0].DstMAC != want {
					t.Errorf("%s sent %+v", when, got)
				}
			}
			tick := func() {
				s.clock.Advance(time.Second)
				s.neighbours.tick(s.netstack.Load())
				s.settle()
			}
			if n := checks(); n != 1 {
				t.Errorf("the known MAC was asked %d times", n)
			}
			goesTo("after a claim", gatewayMAC)
			answer(other)
			goesTo("after a false answer", gatewayMAC)
			answer(gatewayMAC)
			tick()
			goesTo("a second after its own answer", gatewayMAC)
			// A flood of claims has it asked once a second, and changes nothing.
			s.links[stack.UplinkSide].Take()
			for range 50 {
				s.send(stack.UplinkSide, c.frame(s))
				answer(other)
			}
			if n := checks(); n > 1 {
				t.Errorf("a flood of claims has it asked %d times", n)
			}
			answer(gatewayMAC)
			tick()
			answer(gatewayMAC)
			goesTo("after a flood of claims", gatewayMAC)
			// It has moved: nobody answers at the old MAC.
			tick()
			s.send(stack.UplinkSide, c.frame(s))
			goesTo("while the old MAC is asked", gatewayMAC)
			tick()
			goesTo("while everyone is asked", gatewayMAC)
			answer(other)
			goesTo("after it has moved", other)
		})
	}
}

// answer = "learned": the guest is asked first, the upstream gets its answer when the guest has shown itself, and for the
// network's ttl after that at once.
func TestLearned(t *testing.T) {
	s := withProxy(t, "  proxy {\n    answer = \"learned\"\n  }\n")
	ns := cases.NS(policy.MulticastMAC(policy.SolicitedNode(cases.One6)), gatewayMAC, cases.Gateway6, policy.SolicitedNode(cases.One6), cases.One6, gatewayMAC)
	s.send(stack.UplinkSide, ns)
	if got := s.frames(stack.UplinkSide); len(got) != 0 {
		t.Fatalf("answered for a guest that nobody has seen: %+v", got)
	}
	probes := s.frames(stack.Guests)
	if len(probes) != 1 || probes[0].ICMPType != 135 || probes[0].ND.Target != cases.One6 || probes[0].DstMAC != cases.MAC1 || probes[0].SrcMAC != s.RouterMAC || probes[0].Src != cases.LL1 {
		t.Fatalf("asked the guest %+v", probes)
	}
	s.newWorker(stack.Guests).appearedAll()
	s.send(stack.Guests, cases.NA(s.RouterMAC, cases.MAC1, cases.One6, cases.LL1, cases.One6, cases.MAC1, policy.NASolicited|policy.NAOverride))
	got := s.frames(stack.UplinkSide)
	if len(got) != 1 || got[0].ICMPType != 136 || got[0].ND.Target != cases.One6 || got[0].DstMAC != gatewayMAC || got[0].ND.TargetLL != eth0MAC {
		t.Fatalf("after the guest's answer: %+v", got)
	}
	s.send(stack.UplinkSide, ns)
	if got := s.frames(stack.UplinkSide); len(got) != 1 {
		t.Errorf("a guest that was just seen is answered for at once: %+v", got)
	}
	if got := s.frames(stack.Guests); len(got) != 0 {
		t.Errorf("and not asked: %+v", got)
	}
	// Solicitations that wait are bounded, whoever sends them.
	ns2 := cases.NS(policy.MulticastMAC(policy.SolicitedNode(cases.Two6)), gatewayMAC, cases.Gateway6, policy.SolicitedNode(cases.Two6), cases.Two6, gatewayMAC)
	for range 100 {
		s.send(stack.UplinkSide, ns2)
	}
	if n := len(s.current.Load().states[1].waiting[cases.Two6].replies); n != maxWaiting {
		t.Errorf("%d answers wait for one guest, want %d", n, maxWaiting)
	}
}

// Flags and source of an advertisement are the file's.
func TestProxyOptions(t *testing.T) {
	ns := cases.NS(policy.MulticastMAC(policy.SolicitedNode(cases.One6)), gatewayMAC, cases.Gateway6, policy.SolicitedNode(cases.One6), cases.One6, gatewayMAC)
	for _, c := range []struct {
		proxy  string
		flags  uint8
		target bool
	}{
		{"", policy.NARouter | policy.NASolicited, false},
		{"  proxy {\n    override = true\n  }\n", policy.NARouter | policy.NASolicited | policy.NAOverride, false},
		{"  proxy {\n    router = false\n  }\n", policy.NASolicited, false},
		{"  proxy {\n    source = \"target\"\n  }\n", policy.NARouter | policy.NASolicited, true},
	} {
		s := withProxy(t, c.proxy)
		s.send(stack.UplinkSide, ns)
		got := s.frames(stack.UplinkSide)
		if len(got) != 1 || got[0].ND.Flags != c.flags || (got[0].Src == cases.One6) != c.target || !c.target && got[0].Src != s.net.UplinkLL {
			t.Errorf("%q: %+v", c.proxy, got)
		}
	}
}

// ARP is answered for a proxied IPv4 network as ND for a proxied IPv6 one, and for the provider's own hosts in it never.
func TestProxyARP(t *testing.T) {
	src := strings.NewReplacer("PROXY", "", `gateway4 = "192.0.1.1"`, `gateway4 = "192.0.2.62"`, `upstream = "routed"`, `upstream = "proxied"`, `"192.0.2.0/24"`, `"192.0.2.0/26"`).Replace(seedFile)
	k := seedKernel()
	k.Held = []netip.Addr{netip.MustParseAddr("192.0.2.3"), cases.Router6}
	k.Subnets = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/26")}
	k.Routes = []stack.Route{{Prefix: netip.MustParsePrefix("192.0.2.0/26")}}
	gw := netip.MustParseAddr("192.0.2.62")
	for _, c := range []struct {
		name   string
		target string
		spa    netip.Addr
		dst    policy.MAC
		answer bool
	}{
		{"bound", "192.0.2.10", gw, policy.BroadcastMAC, true},
		{"unicast", "192.0.2.10", gw, eth0MAC, true},
		{"somebody's probe", "192.0.2.10", netip.MustParseAddr("0.0.0.0"), policy.BroadcastMAC, true},
		{"the network's gateway, which the kernel does not hold", "192.0.2.1", gw, policy.BroadcastMAC, true},
		{"unbound", "192.0.2.40", gw, policy.BroadcastMAC, false},
		{"dom0's own", "192.0.2.3", gw, policy.BroadcastMAC, false},
		{"the provider's gateway", "192.0.2.62", gw, policy.BroadcastMAC, false},
		{"for another station", "192.0.2.10", gw, gatewayMAC, false},
		{"elsewhere", "203.0.113.9", gw, policy.BroadcastMAC, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSim(t, parseConfig(t, src), k)
			a := netip.MustParseAddr(c.target)
			s.send(stack.UplinkSide, cases.ARP(c.dst, gatewayMAC, 1, gatewayMAC, c.spa, policy.MAC{}, a))
			got := s.links[stack.UplinkSide].Take()
			if !c.answer {
				if len(got) != 0 {
					t.Errorf("answered %x", got[0].Frame)
				}
				return
			}
			want := cases.ARP(gatewayMAC, eth0MAC, 2, eth0MAC, a, gatewayMAC, c.spa)
			if len(got) != 1 || !bytes.Equal(got[0].Frame, want) {
				t.Errorf("got %+v, want %x", got, want)
			}
		})
	}
}

// A guest that sends for the first time is announced, three times; its prefixes are not, and nothing of a routed network.
func TestAnnounce(t *testing.T) {
	s := seed(t)
	s.learn()
	s.send(stack.Guests, cases.UDP(s.RouterMAC, cases.MAC1, cases.One4, cases.X4, 8))
	s.links[stack.UplinkSide].Take()
	wd := s.current.Load()
	if s.current.Load().states[0].left.Load() != announceFor || s.current.Load().states[1].left.Load() != 0 {
		t.Fatalf("guest one has %d announcements to come, guest two %d", s.current.Load().states[0].left.Load(), s.current.Load().states[1].left.Load())
	}
	out := s.announcements(wd, wd.Guests[0])
	want := cases.NA(policy.MAC{0x33, 0x33, 0, 0, 0, 1}, eth0MAC, s.net.UplinkLL, cases.AllNodes, cases.One6, eth0MAC, policy.NARouter)
	if len(out) != 1 || !bytes.Equal(out[0].Bytes(), want) {
		t.Errorf("announced %d frames, want one: %x", len(out), want)
	}
	s.send(stack.Guests, cases.UDP(s.RouterMAC, cases.MAC1, cases.One4, cases.X4, 8))
	// The vif vanishes and returns: it is announced anew.
	s.current.Load().states[0].left.Store(0)
	s.kernel.Up = map[string]bool{"vif2.0": true}
	s.update()
	s.kernel.Up = map[string]bool{"vif1.0": true, "vif2.0": true}
	s.update()
	s.send(stack.Guests, cases.UDP(s.RouterMAC, cases.MAC1, cases.One4, cases.X4, 8))
	if s.current.Load().states[0].left.Load() != announceFor {
		t.Error("a guest that came back was not announced")
	}
	// The uplink comes up: whoever is there is announced.
	s.current.Load().states[0].left.Store(0)
	for _, up := range []bool{false, true} {
		s.kernel.Uplink.Up = up
		s.kernel.Up = map[string]bool{"vif1.0": true, "vif2.0": true, "eth0": up}
		s.update()
	}
	if s.current.Load().states[0].left.Load() != announceFor || s.current.Load().states[1].left.Load() != 0 {
		t.Error("after the uplink came up, guest one alone is announced")
	}
}

// Guests are told at the start where their gateways are.
func TestAnnounceGateways(t *testing.T) {
	s := seed(t)
	allNodesMAC := policy.MAC{0x33, 0x33, 0, 0, 0, 1}
	want := [][]byte{
		cases.ARP(policy.BroadcastMAC, s.RouterMAC, 1, s.RouterMAC, cases.Router4, policy.MAC{}, cases.Router4),
		cases.NA(allNodesMAC, s.RouterMAC, cases.Router6, cases.AllNodes, cases.Router6, s.RouterMAC, policy.NARouter|policy.NAOverride),
		cases.NA(allNodesMAC, s.RouterMAC, linkLocal1, cases.AllNodes, linkLocal1, s.RouterMAC, policy.NARouter|policy.NAOverride),
	}
	s.links[stack.Guests].Take()
	s.start(t)
	got := s.links[stack.Guests].Take()
	if len(got) != len(want) {
		t.Fatalf("%d frames, want %d", len(got), len(want))
	}
	for i := range got {
		if !bytes.Equal(got[i].Frame, want[i]) {
			t.Errorf("told %x, want %x", got[i].Frame, want[i])
		}
	}
}

// So are guests told who come, or come to another place, while the router runs, and nobody is for less.
func TestAnnounceGatewaysToNewGuests(t *testing.T) {
	for _, c := range []struct {
		name string
		src  string
		told bool
	}{
		{"nothing", edit(), false},
		{"another address", edit(`ipv4 = ["192.0.2.10"]`, `ipv4 = ["192.0.2.10", "192.0.2.12"]`), false},
		{"another name", edit(`domu "one"`, `domu "uno"`), true},
		{"another vif", edit(`"vif1.0"`, `"vif7.0"`), true},
		{"another MAC", edit(`"00:16:3e:00:00:01"`, `"00:16:3e:00:00:09"`), true},
		{"a new guest", edit(`domu "one" {`, "domu \"zero\" {\n vif = \"vif9.0\"\n mac = \"00:16:3e:00:00:09\"\n}\ndomu \"one\" {"), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := knowing(t, edit())
			if err := s.reload(c.src); err != nil {
				t.Fatal(err)
			}
			want := cases.ARP(policy.BroadcastMAC, s.RouterMAC, 1, s.RouterMAC, cases.Router4, policy.MAC{}, cases.Router4)
			told := slices.ContainsFunc(s.links[stack.Guests].Take(), func(f stacktest.Sent) bool { return bytes.Equal(f.Frame, want) })
			if told != c.told {
				t.Errorf("the gateway is announced: %v", told)
			}
		})
	}
}

// What the kernel changes is followed: its address, its default route, its MAC and index.
func TestFollowKernel(t *testing.T) {
	src := strings.NewReplacer("PROXY", "", `gateway4 = "192.0.1.1"`, ``, `gateway6 = "2001:db8:3:2::1"`, ``).Replace(seedFile)
	s := newSim(t, parseConfig(t, src), seedKernel())
	if a, ok := s.current.Load().nextHop(cases.X6); !ok || a != cases.Gateway6 {
		t.Errorf("next hop %v", a)
	}
	gw := netip.MustParseAddr("fe80::99")
	mac := policy.MAC{2, 0, 0, 0, 0, 0xe1}
	s.kernel.Routes = []stack.Route{{Prefix: netip.MustParsePrefix("::/0"), Gateway: gw}}
	s.kernel.Held = append(s.kernel.Held, cases.Unbound6)
	s.kernel.Uplink.MAC, s.kernel.Uplink.Index = mac, 7
	s.update()
	wd := s.current.Load()
	if a, ok := wd.nextHop(cases.X6); !ok || a != gw {
		t.Errorf("next hop %v", a)
	}
	if _, ok := wd.nextHop(cases.X4); ok {
		t.Error("an IPv4 route that is gone is still used")
	}
	if !wd.Held[cases.Unbound6] || wd.UplinkMAC != mac || s.links[stack.UplinkSide].Rebinds() != 1 {
		t.Errorf("held %v, MAC %v, rebinds %d", wd.Held, wd.UplinkMAC, s.links[stack.UplinkSide].Rebinds())
	}
	if wd.RouterMAC != s.RouterMAC {
		t.Error("the router's MAC toward guests has changed")
	}
}

// MTU is tested per segment, and told; without DF a datagram is split.
func TestMTU(t *testing.T) {
	k := seedKernel()
	k.Uplink.MTU = 1400
	cfg := parseConfig(t, strings.NewReplacer("PROXY", "", `bridge "xenbr0" {}`, `bridge "xenbr0" { mtu = 1500 }`).Replace(seedFile))
	tcpFrame := func(s *sim, df bool) ([]byte, policy.Offload) {
		one, x := netip.AddrPortFrom(cases.One4, 40000), netip.AddrPortFrom(cases.X4, 443)
		s.connect(one, x)
		var edit []func(gopacket.SerializableLayer)
		if df {
			edit = append(edit, cases.DF)
		}
		return cases.TCP(s.RouterMAC, cases.MAC1, one, x, 16, 1000, 2000, 8000, edit...),
			policy.Offload{Flags: policy.NeedsCsum, GSOType: policy.GSOTCPv4, GSOSize: 1460, HdrLen: 54, CsumStart: 34, CsumOffset: 16}
	}
	for _, c := range []struct {
		name   string
		send   func(s *sim) ([]byte, policy.Offload)
		mtu    uint32 // told
		pieces int    // sent
	}{
		{"IPv4 with DF", func(s *sim) ([]byte, policy.Offload) {
			return cases.UDP(s.RouterMAC, cases.MAC1, cases.One4, cases.X4, 1400, cases.DF), policy.Offload{}
		}, 1400, 0},
		{"IPv4 without DF", func(s *sim) ([]byte, policy.Offload) {
			return cases.UDP(s.RouterMAC, cases.MAC1, cases.One4, cases.X4, 1400), policy.Offload{}
		}, 0, 2},
		{"IPv6", func(s *sim) ([]byte, policy.Offload) {
			return cases.UDP(s.RouterMAC, cases.MAC1, cases.One6, cases.X6, 1400), policy.Offload{}
		}, 1400, 0},
		{"IPv6 that fits", func(s *sim) ([]byte, policy.Offload) {
			return cases.UDP(s.RouterMAC, cases.MAC1, cases.One6, cases.X6, 1400-48), policy.Offload{}
		}, 0, 1},
		{"GSO with DF, segments too big", func(s *sim) ([]byte, policy.Offload) { return tcpFrame(s, true) }, 1400, 0},
		{"GSO without DF, segments too big", func(s *sim) ([]byte, policy.Offload) { return tcpFrame(s, false) }, 0, 11},
		{"GSO, segments fit", func(s *sim) ([]byte, policy.Offload) {
			b, o := tcpFrame(s, true)
			o.GSOSize = 1360
			return b, o
		}, 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSim(t, cfg, k)
			s.learn()
			s.newWorker(stack.Guests).appearedAll()
			b, o := c.send(s)
			s.newWorker(stack.Guests).batch([]*stack.Frame{stacktest.Frame(b, o)})
			told := s.frames(stack.Guests)
			if c.mtu == 0 && len(told) != 0 || c.mtu != 0 && (len(told) != 1 || binary.BigEndian.Uint32(told[0].Frame[told[0].L4+4:]) != c.mtu || !told[0].IsICMPError()) {
				t.Errorf("told %+v", told)
			}
			sent := s.frames(stack.UplinkSide)
			if len(sent) != c.pieces {
				t.Errorf("sent %d pieces, want %d", len(sent), c.pieces)
			}
			for _, p := range sent {
				if p.SegmentLen() > 1400 {
					t.Errorf("sent %d bytes", p.SegmentLen())
				}
			}
			if n := s.counts()[policy.TooBig]; (n == 1) != (c.mtu != 0) {
				t.Errorf("counted %v", s.counts())
			}
		})
	}
}

// Errors are bounded for each guest by itself: what one makes the router send takes nothing from another's share.
func TestErrorLimits(t *testing.T) {
	s := seed(t)
	for range 10 * errorsPerSecond {
		s.send(stack.Guests, cases.UDP(s.RouterMAC, cases.MAC1, cases.One4, cases.X4, 8, cases.TTL(1)))
	}
	if n := len(s.frames(stack.Guests)); n < errorsPerSecond*3/4 || n > 2*errorsPerSecond {
		t.Errorf("%d errors for a flood, the share is %d a second", n, errorsPerSecond)
	}
	s.send(stack.Guests, cases.UDP(s.RouterMAC, cases.MAC2, cases.Two4, cases.X4, 8, cases.TTL(1)))
	if n := len(s.frames(stack.Guests)); n != 1 {
		t.Errorf("the other guest got %d errors, want 1", n)
	}
	// So are those toward the uplink, by the guest that the packets were for.
	s.learn()
	for range 10 * errorsPerSecond {
		s.send(stack.UplinkSide, cases.UDP(eth0MAC, gatewayMAC, cases.X4, cases.One4, 8, cases.TTL(1)))
	}
	if n := len(s.frames(stack.UplinkSide)); n < errorsPerSecond*3/4 || n > 2*errorsPerSecond {
		t.Errorf("%d errors toward the uplink for a flood, the share is %d a second", n, errorsPerSecond)
	}
	s.send(stack.UplinkSide, cases.UDP(eth0MAC, gatewayMAC, cases.X4, cases.Two4, 8, cases.TTL(1)))
	if n := len(s.frames(stack.UplinkSide)); n != 1 {
		t.Errorf("%d errors about a packet for the other guest, want 1", n)
	}
}

// After the uplink was down nothing is taken for granted: the gateways are asked for anew, and packets go on to the MACs that were known.
func TestFlapRefreshes(t *testing.T) {
	s := seed(t)
	s.newWorker(stack.Guests).appearedAll()
	s.send(stack.Guests, upstream(s, false), upstream(s, true))
	s.settle()
	s.send(stack.UplinkSide, cases.ARP(eth0MAC, gatewayMAC, 2, gatewayMAC, cases.Gateway4, eth0MAC, cases.Dom04),
		cases.NA(eth0MAC, gatewayMAC, cases.Gateway6, s.net.UplinkLL, cases.Gateway6, gatewayMAC, policy.NASolicited|policy.NAOverride|policy.NARouter))
	s.settle()
	for _, up := range []bool{false, true} {
		s.links[stack.UplinkSide].Take()
		s.kernel.Uplink.Up = up
		if err := s.update(); err != nil {
			t.Fatal(err)
		}
		s.settle()
	}
	var asked4, asked6 bool
	for _, p := range s.frames(stack.UplinkSide) {
		asked4 = asked4 || p.EtherType == policy.EtherARP && p.ARP.TPA == cases.Gateway4 && p.DstMAC == policy.BroadcastMAC
		asked6 = asked6 || p.IsND() && p.ND.Target == cases.Gateway6 && p.Dst.IsMulticast()
	}
	if !asked4 || !asked6 {
		t.Errorf("the gateways were asked for anew: IPv4 %v, IPv6 %v", asked4, asked6)
	}
	for _, v6 := range []bool{false, true} {
		s.send(stack.Guests, upstream(s, v6))
		if got := s.frames(stack.UplinkSide); len(got) != 1 || got[0].DstMAC != gatewayMAC {
			t.Errorf("IPv6 %v: meanwhile sent %+v", v6, got)
		}
	}
}

// What dom0 opens is answered, and only that.
func TestHostFlows(t *testing.T) {
	s := seed(t)
	out := func(dst, src netip.Addr, sp, dp uint16) []byte {
		b := cases.UDP(s.RouterMAC, cases.MAC1, src, dst, 8)
		at := 34
		if src.Is6() {
			at = 54
		}
		binary.BigEndian.PutUint16(b[at:], sp)
		binary.BigEndian.PutUint16(b[at+2:], dp)
		return b
	}
	for _, c := range []struct{ guest, host netip.Addr }{{cases.One4, cases.Dom04}, {cases.One6, cases.Router6}} {
		s.send(stack.Guests, out(c.host, c.guest, 53, 4000))
		if got := s.frames(stack.Host); len(got) != 0 {
			t.Errorf("%v: a guest reached dom0: %+v", c.guest, got)
		}
		s.send(stack.Host, out(c.guest, c.host, 4000, 53))
		if got := s.frames(stack.Guests); len(got) != 1 || got[0].DstMAC != cases.MAC1 || got[0].TTL != 63 {
			t.Errorf("%v: dom0 did not reach the guest: %+v", c.guest, got)
		}
		s.send(stack.Guests, out(c.host, c.guest, 53, 4000), out(c.host, c.guest, 54, 4000), out(c.host, c.guest, 53, 4001))
		if got := s.frames(stack.Host); len(got) != 1 || got[0].SrcPort != 53 || got[0].DstPort != 4000 {
			t.Errorf("%v: the answer, and nothing else, reaches dom0: %+v", c.guest, got)
		}
	}
	// dom0's kernel sends only from what it holds.
	s.send(stack.Host, out(cases.One4, cases.X4, 1, 2))
	if got := s.frames(stack.Guests); len(got) != 0 || s.counts()[policy.HostSource] != 1 {
		t.Errorf("what dom0 forwards got in: %+v, %v", got, s.counts())
	}
}

// A defect in one packet's handling costs that packet.
func TestPanicIsContained(t *testing.T) {
	s := seed(t)
	w := s.newWorker(stack.Guests)
	w.world = nil
	w.handle(stacktest.Frame(upstream(s, false), policy.Offload{}))
	if s.counts()[policy.Internal] != 1 {
		t.Errorf("counted %v", s.counts())
	}
}

// Somebody else on the uplink has the router's link-local address: it takes another, a few times at most.
func TestDuplicateLinkLocal(t *testing.T) {
	s := seed(t)
	s.detectDuplicate()
	asked := s.frames(stack.UplinkSide)
	first := s.current.Load().UplinkLL
	if len(asked) != 1 || asked[0].ICMPType != 135 || !asked[0].Src.IsUnspecified() || asked[0].ND.Target != first || asked[0].ND.HasSource {
		t.Fatalf("asked %+v", asked)
	}
	seen := map[netip.Addr]bool{first: true}
	for i := range 10 {
		a := s.current.Load().UplinkLL
		s.send(stack.UplinkSide, cases.NA(policy.MAC{0x33, 0x33, 0, 0, 0, 1}, gatewayMAC, a, cases.AllNodes, a, gatewayMAC, policy.NAOverride))
		s.update()
		if b := s.current.Load().UplinkLL; seen[b] != (i >= 3) {
			t.Fatalf("after %d duplicates the address is %v", i+1, b)
		}
		seen[s.current.Load().UplinkLL] = true
	}
	if seen[policy.EUI64(eth0MAC)] {
		t.Error("the router took the kernel's address")
	}
}

// A scan of the prefix from the uplink, and a flood of solicitations from a guest, leave no trace: nothing is asked for,
// nothing learned, and the gateway stays known (facts F7).
func TestScanLearnsNothing(t *testing.T) {
	s := seed(t)
	s.newWorker(stack.Guests).appearedAll()
	s.learn()
	before := len(s.neighbours.all())
	for i := range 2000 {
		a := netip.AddrFrom16([16]byte{0x20, 1, 0x0d, 0xb8, 0, 3, 0, 2, 0xff, 14: byte(i >> 8), 15: byte(i)})
		s.send(stack.UplinkSide, cases.UDP(eth0MAC, gatewayMAC, cases.X6, a, 8))
		s.send(stack.UplinkSide, cases.NS(policy.MulticastMAC(policy.SolicitedNode(a)), gatewayMAC, cases.Gateway6, policy.SolicitedNode(a), a, gatewayMAC))
	}
	if got := s.counts(); got[policy.UnboundDst] != 2000 || len(got) != 1 {
		t.Errorf("counted %v", got)
	}
	for range 2000 {
		to := policy.SolicitedNode(cases.Unbound6)
		s.send(stack.Guests, cases.NS(policy.MulticastMAC(to), cases.MAC1, cases.One6, to, cases.Unbound6, cases.MAC1))
	}
	for sd, l := range s.links {
		if got := l.Take(); len(got) != 0 {
			t.Errorf("side %d was sent %d frames", sd, len(got))
		}
	}
	if n := len(s.neighbours.all()); n != before {
		t.Errorf("%d neighbours, %d before", n, before)
	}
	if mac, ok := s.neighbours.lookup(cases.Gateway6).mac(); !ok || mac != gatewayMAC {
		t.Errorf("the gateway is at %v now", mac)
	}
}

// Hosts on the uplink's own link are bounded for each guest, and the gateway never makes room for them.
func TestOnLinkScan(t *testing.T) {
	s := seed(t)
	s.newWorker(stack.Guests).appearedAll()
	s.learn()
	for i := 2; i < 62; i++ {
		s.send(stack.Guests, cases.UDP(s.RouterMAC, cases.MAC1, cases.One4, netip.AddrFrom4([4]byte{192, 0, 1, byte(i)}), 8))
	}
	if n := len(s.neighbours.all()); n > newNextHopPerSecond+5 {
		t.Errorf("%d neighbours after a scan", n)
	}
	s.links[stack.UplinkSide].Take()
	s.send(stack.Guests, cases.UDP(s.RouterMAC, cases.MAC2, cases.Two4, netip.MustParseAddr("192.0.1.61"), 8))
	if s.neighbours.lookup(netip.MustParseAddr("192.0.1.61")) == nil {
		t.Error("the other guest has no share left")
	}
	if mac, ok := s.neighbours.lookup(cases.Gateway4).mac(); !ok || mac != gatewayMAC {
		t.Errorf("the gateway is at %v now", mac)
	}
}

// What dom0's own kernel is told, whose MAC is the router's on the uplink, or another station, is no answer to the router.
func TestAnswersToOthers(t *testing.T) {
	other := policy.MAC{2, 0, 0, 0, 0, 0x98}
	for name, c := range map[string]struct {
		frame policy.MAC
		to    func(s *sim) netip.Addr
		ours  bool
	}{
		"to the router":           {eth0MAC, func(s *sim) netip.Addr { return s.net.UplinkLL }, true},
		"to dom0":                 {eth0MAC, func(s *sim) netip.Addr { return netip.MustParseAddr("fe80::77") }, false},
		"in another's frame":      {other, func(s *sim) netip.Addr { return s.net.UplinkLL }, false},
		"to a guest that it asks": {eth0MAC, func(s *sim) netip.Addr { return cases.One6 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := seed(t)
			s.newWorker(stack.Guests).appearedAll()
			s.send(stack.Guests, upstream(s, true))
			s.settle()
			s.links[stack.UplinkSide].Take()
			s.send(stack.UplinkSide, cases.NA(c.frame, gatewayMAC, cases.Gateway6, c.to(s), cases.Gateway6, gatewayMAC, policy.NASolicited|policy.NAOverride|policy.NARouter))
			s.settle()
			sent := slices.ContainsFunc(s.frames(stack.UplinkSide), func(p policy.Packet) bool { return !p.IsND() && p.DstMAC == gatewayMAC })
			if sent != c.ours {
				t.Errorf("the packet that waits is sent: %t", sent)
			}
		})
	}
}
