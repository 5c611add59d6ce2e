package router

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"udrouter/integration/cases"
	"udrouter/policy"
	"udrouter/stack"
)

// sequenceFiles are what a reload in a sequence goes on with.
var sequenceFiles = []string{
	edit(),
	edit(`ipv4 = ["192.0.2.11"]`, `ipv4 = ["192.0.2.10"]`, `ipv4 = ["192.0.2.10"]`, `ipv4 = ["192.0.2.11"]`), // guests change places
	edit(`ipv6 = ["2001:db8:3:2:1::10"]`, `ipv6 = ["2001:db8:3:2:1::10", "2001:db8:3:2:9::/80"]`),
	edit(`mac  = "00:16:3e:00:00:02"`, `mac  = "00:16:3e:00:00:03"`),
	edit(ingressOpen, "  egress {\n    default = \"reject\"\n  }\n  ingress {\n    default = \"drop\"\n  }"),
	edit(`upstream = "routed"`, `upstream = "proxied"`),
	edit("domu \"two\" {\n  vif  = \"vif2.0\"\n  mac  = \"00:16:3e:00:00:02\"\n  ipv4 = [\"192.0.2.11\"]\n  ipv6 = [\"2001:db8:3:2:1::11\"]\n  policy = \"open\"\n}\n", ""),
}

// sequence is a router that gets plausible frames in any order, with time, the time of day, the uplink, its MTU and the file changing in between. What it
// sends keeps to the promises whatever it was sent, and in the end everybody is served.
func sequence(t *rapid.T, tb testing.TB) {
	s := knowing(tb, meeting(seedFile))
	for range rapid.IntRange(1, 60).Draw(t, "steps") {
		switch rapid.IntRange(0, 21).Draw(t, "what") {
		case 0:
			s.clock.Advance(rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second, 31 * time.Second, 5 * time.Minute, 3 * time.Hour, 90 * 24 * time.Hour}).Draw(t, "time"))
			s.sweep()
		case 1:
			s.neighbours.tick(s.netstack.Load())
		case 2:
			s.kernel.Uplink.Up = rapid.Bool().Draw(t, "up")
			s.kernel.Up = map[string]bool{"vif1.0": s.kernel.Uplink.Up, "vif2.0": true}
			if err := s.update(); err != nil {
				t.Fatal(err)
			}
		case 3:
			s.kernel.Uplink.MTU = rapid.SampledFrom([]int{68, 576, 1280, 1500, 9000}).Draw(t, "mtu")
			if err := s.update(); err != nil {
				t.Fatal(err)
			}
		case 4:
			s.wall.set += rapid.SampledFrom([]time.Duration{-20 * 365 * 24 * time.Hour, -time.Hour, -time.Second, time.Second, time.Hour, 20 * 365 * 24 * time.Hour}).Draw(t, "time of day")
		case 5:
			refused := rapid.Bool().Draw(t, "refused")
			s.Around = &around{next: parseConfig(tb, rapid.SampledFrom(sequenceFiles).Draw(t, "file"))}
			if refused {
				s.Around = &around{err: errors.New("the file has a mistake")}
			}
			if err := s.Reload(); (err != nil) != refused {
				t.Fatalf("a reload that is refused %v ends with %v", refused, err)
			}
		default:
			from, f := cases.Draw(t, s.net)
			s.send(side(from), f)
		}
		s.settle()
		s.keepsPromises(t)
	}
	s.kernel = seedKernel()
	if err := errors.Join(s.update(), s.reload(sequenceFiles[0])); err != nil {
		t.Fatal(err)
	}
	s.clock.Advance(time.Minute) // shares are full again
	s.settle()
	s.learn()
	s.newWorker(stack.Guests).appearedAll()
	s.quiet()
	for _, wrong := range s.canary() {
		t.Error(wrong)
	}
}

// keepsPromises looks at what was sent, and at what must stay bounded.
func (s *sim) keepsPromises(t *rapid.T) {
	if n := s.drops[policy.Internal].Load(); n != 0 || s.netstack.Load().Panics.Load() != 0 {
		t.Fatalf("%d defects were met, %d in netstack", n, s.netstack.Load().Panics.Load())
	}
	wd := s.current.Load()
	if len(s.neighbours.all()) > 2*maxNeighbours || wd.engine.Budget().Used() > wd.engine.Budget().Max() {
		t.Fatalf("%d neighbours, %d flows", len(s.neighbours.all()), wd.engine.Budget().Used())
	}
	for sd, l := range s.links {
		for _, f := range l.Take() {
			var p policy.Packet
			if r := p.Parse(f.Frame, f.Offload); r != policy.None {
				t.Fatalf("the router sends to side %v what is %v: %s", sd, r, describe(f.Frame))
			}
			if wrong := s.promised(sd, &p); wrong != "" {
				t.Fatalf("to side %v: %s: %s", sd, wrong, describe(f.Frame))
			}
		}
	}
}

// promised is what is wrong with a packet that leaves.
func (s *sim) promised(to stack.Side, p *policy.Packet) string {
	wd := s.current.Load()
	ours := slices.Concat(keys(wd.Own), []netip.Addr{wd.UplinkLL, wd.address4, linkLocal1})
	mine := func(a netip.Addr) bool { return slices.Contains(ours, a) }
	bound := func(a netip.Addr) *policy.Guest { return wd.ByAddr(a) }
	switch to {
	case stack.UplinkSide:
		switch {
		case p.SrcMAC != eth0MAC:
			return "a foreign MAC"
		case p.EtherType == policy.EtherARP && !mine(p.ARP.SPA) && (bound(p.ARP.SPA) == nil || p.ARP.SHA != eth0MAC):
			return "ARP for what is nobody's"
		case p.EtherType == policy.EtherARP:
		case p.IsND() && p.ICMPType == policy.NeighborAdvertisement && !mine(p.ND.Target) && bound(p.ND.Target) == nil:
			return "an advertisement for what is nobody's"
		case !mine(p.Src) && bound(p.Src) == nil && !(p.IsND() && p.Src.IsUnspecified()):
			return "a source that is not bound"
		case bound(p.Src) != nil && p.Src.IsLinkLocalUnicast():
			return "a link-local source"
		case !p.IsND() && (p.Dst.IsLoopback() || p.Dst.IsUnspecified() || bound(p.Dst) != nil):
			return "a destination that is not out there"
		}
	case stack.Guests:
		g := wd.ByMAC(p.DstMAC)
		switch {
		case p.SrcMAC != s.RouterMAC:
			return "a MAC that is not the router's"
		case g == nil && !p.DstMAC.IsGroup():
			return "for nobody"
		case p.EtherType == policy.EtherARP && p.ARP.SHA != s.RouterMAC:
			return "ARP that gives away a MAC"
		case p.EtherType == policy.EtherARP && p.ARP.Op == 2 && !mine(p.ARP.SPA) && bound(p.ARP.SPA) == nil && !wd.Upstream[p.ARP.SPA]:
			return "ARP for what is nobody's"
		case p.EtherType == policy.EtherARP:
		case g == nil && !p.IsND():
			return "IP to a group"
		case g != nil && bound(p.Src) == g && !p.IsND():
			return "back to who has sent it"
		case !p.IsND() && !p.Dst.IsLinkLocalUnicast() && bound(p.Dst) != g:
			return "to who does not have the address"
		}
	default:
		if !wd.Held[p.Dst] {
			return "not for dom0"
		}
	}
	return ""
}

func keys(m map[netip.Addr]bool) (list []netip.Addr) {
	for a := range m {
		list = append(list, a)
	}
	return list
}

// Time jumps, as on a machine that was asleep: what is over by then is over, and everything goes on.
func TestClockJumps(t *testing.T) {
	a, b := netip.AddrPortFrom(cases.One4, 40000), netip.AddrPortFrom(cases.X4, 443)
	for jump, passes := range map[time.Duration]int{0: 1, time.Second: 1, time.Hour: 1, 3 * time.Hour: 0, 90 * 24 * time.Hour: 0, 20 * 365 * 24 * time.Hour: 0} {
		s := knowing(t, meeting(seedFile))
		s.connect(a, b)
		s.clock.Advance(jump)
		s.housekeep()
		s.neighbours.tick(s.netstack.Load())
		s.settle()
		s.learn()
		s.newWorker(stack.Guests).appearedAll()
		s.quiet()
		s.send(stack.Guests, cases.TCP(s.RouterMAC, cases.MAC1, a, b, 16, 1000, 2000, 4))
		if got := s.frames(stack.UplinkSide); len(got) != passes || s.counts()[policy.NoFlow] != uint64(1-passes) {
			t.Errorf("after %v: %d segments of the connection pass, counted %v", jump, len(got), s.counts())
		}
		for _, wrong := range s.canary() {
			t.Errorf("after %v: %s", jump, wrong)
		}
	}
}

// The time of day is set, by an administrator or by NTP: nothing that the router does depends on it. Flows live as long as they would have, and shares of errors fill up
// as they would have.
func TestTimeOfDay(t *testing.T) {
	a, b := netip.AddrPortFrom(cases.One4, 40000), netip.AddrPortFrom(cases.X4, 443)
	for _, step := range []time.Duration{0, -time.Second, time.Second, -24 * time.Hour, 24 * time.Hour, -20 * 365 * 24 * time.Hour, 20 * 365 * 24 * time.Hour} {
		s := knowing(t, meeting(seedFile))
		s.connect(a, b)
		errors := func() (n int) {
			s.quiet()
			for range 1000 {
				s.send(stack.Guests, cases.UDP(s.RouterMAC, cases.MAC1, cases.One4, cases.X4, 8, cases.TTL(1)))
				n += len(s.frames(stack.Guests))
			}
			return n
		}
		share := errors()
		if share == 0 || share == 1000 {
			t.Fatalf("%d errors of 1000 are sent", share)
		}
		s.wall.set += step
		s.sweep()
		s.neighbours.tick(s.netstack.Load())
		s.settle()
		s.learn()
		s.quiet()
		s.send(stack.Guests, cases.TCP(s.RouterMAC, cases.MAC1, a, b, 16, 1000, 2000, 4))
		if got := s.frames(stack.UplinkSide); len(got) != 1 {
			t.Errorf("the time of day is %v off: the connection has %d segments, counted %v", step, len(got), s.counts())
		}
		s.clock.Advance(time.Hour)
		if again := errors(); again < share/2 || again > share*2 { // what an error costs of a share varies
			t.Errorf("the time of day is %v off: an hour later, %d errors are sent, before %d", step, again, share)
		}
		s.quiet()
		for _, wrong := range s.canary() {
			t.Errorf("the time of day is %v off: %s", step, wrong)
		}
	}
}

func TestSequences(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) { sequence(rt, t) })
}

// FuzzSequences is TestSequences for inputs of the fuzzer's.
func FuzzSequences(f *testing.F) {
	for seed := range uint64(32) {
		b := make([]byte, 8192)
		for i, r := 0, rand.New(rand.NewPCG(seed, 0)); i < len(b); i += 8 {
			binary.LittleEndian.PutUint64(b[i:], r.Uint64())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { rapid.MakeFuzz(func(rt *rapid.T) { sequence(rt, t) })(t, b) })
}
