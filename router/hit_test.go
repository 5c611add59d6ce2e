package router

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/policy"
	"udrouter/stack"
	"udrouter/stack/stacktest"
)

// twins are two routers that get the same; one never takes the short way.
type twins [2]*sim

func newTwins(t testing.TB, src string) (w twins) {
	w = twins{knowing(t, src), knowing(t, src)}
	w[1].longWay = true
	return w
}

// knowing is a router that knows its gateways and has seen its guests.
func knowing(t testing.TB, src string) *sim {
	return knowingOf(t, parseConfig(t, src))
}

// knowingOf is knowing with a configuration.
func knowingOf(t testing.TB, cfg *config.Config) *sim {
	s := newSim(t, cfg, seedKernel())
	s.learn()
	s.newWorker(stack.Guests).appearedAll()
	for _, l := range s.links {
		l.Take()
	}
	return s
}

// talk is one flow's two ends: its guest's MAC and address, and the other's, with ports.
type talk struct {
	kind     string
	mac      policy.MAC
	guest, x netip.AddrPort
	other    stack.Side
}

func talks() (list []talk) {
	for _, kind := range []string{"tcp", "udp", "echo"} {
		for i, g := range []netip.Addr{cases.One4, cases.One6, cases.Two4, cases.Two6} {
			mac, x, dom0 := cases.MAC1, cases.X4, cases.Dom04
			if i >= 2 {
				mac = cases.MAC2
			}
			if g.Is6() {
				x, dom0 = cases.X6, cases.Router6
			}
			for port := range uint16(2) {
				list = append(list, talk{kind, mac, netip.AddrPortFrom(g, 40000+port), netip.AddrPortFrom(x, 443), stack.UplinkSide})
			}
			if kind != "echo" { // the router answers it itself, up to a limit by chance
				list = append(list, talk{kind, mac, netip.AddrPortFrom(g, 40007), netip.AddrPortFrom(dom0, 8443), stack.Host})
			}
		}
	}
	dhcp := talk{"udp", cases.MAC1, netip.AddrPortFrom(cases.One4, 68), netip.AddrPortFrom(cases.X4, 67), stack.UplinkSide}
	between := talk{"tcp", cases.MAC1, netip.AddrPortFrom(cases.One4, 40000), netip.AddrPortFrom(cases.Two4, 443), stack.Guests}
	return append(list, dhcp, between)
}

// packet is the next of a talk, from its guest or back, as one of the two would send it, or nearly.
func (k talk) packet(t *rapid.T, s *sim, back bool) (from stack.Side, f []byte) {
	from, src, dst, m := stack.Guests, k.guest, k.x, [2]policy.MAC{s.RouterMAC, k.mac}
	if back {
		from, src, dst, m = k.other, dst, src, [2]policy.MAC{s.current.Load().UplinkMAC, gatewayMAC}
		if k.other == stack.Guests {
			m = [2]policy.MAC{s.RouterMAC, cases.MAC2}
		}
	}
	if rapid.IntRange(0, 19).Draw(t, "side") == 0 { // not where it belongs
		from = rapid.SampledFrom([]stack.Side{stack.Guests, stack.UplinkSide, stack.Host}).Draw(t, "from")
	}
	flags := rapid.SampledFrom([]uint8{16, 16, 16, 16, 24, 2, 18, 17, 4, 20, 0, 41}).Draw(t, "flags")
	seq, acked := uint32(1000), uint32(1000)
	if flags&2 != 0 {
		seq = 999
	}
	seq += rapid.SampledFrom([]uint32{0, 0, 0, 10, 20, 1 << 30}).Draw(t, "seq")
	acked += rapid.SampledFrom([]uint32{0, 0, 0, 10, 20, 1 << 30}).Draw(t, "ack")
	f = timed(k.kind, m, src, dst, back, flags, seq, acked, rapid.SampledFrom([]int{0, 10, 20, 700, 1300}).Draw(t, "bytes"))
	return from, k.twist(t, f)
}

// twist makes something of a packet unlike the rest of its flow, now and then.
func (k talk) twist(t *rapid.T, f []byte) []byte {
	v4 := k.guest.Addr().Is4()
	ip := f[policy.EthernetLen:]
	switch rapid.SampledFrom([]string{"", "", "", "", "", "", "mac", "dst mac", "ttl", "fragment", "source", "length", "byte", "options", "trailer"}).Draw(t, "twist") {
	case "mac":
		copy(f[6:], rapid.SampledFrom([][]byte{cases.MAC1[:], cases.MAC2[:], eth0MAC[:], {1, 2, 3, 4, 5, 6}, make([]byte, 6)}).Draw(t, "mac"))
	case "dst mac":
		copy(f, rapid.SampledFrom([][]byte{cases.MAC1[:], policy.BroadcastMAC[:], eth0MAC[:]}).Draw(t, "dst mac"))
	case "ttl":
		ttl := rapid.SampledFrom([]byte{0, 1, 2, 255}).Draw(t, "ttl")
		if v4 {
			ip[8] = ttl
		} else {
			ip[7] = ttl
		}
	case "fragment":
		if v4 {
			ip[6] |= 0x20
		}
	case "source":
		last := 15
		if !v4 {
			last = 23
		}
		ip[last] ^= 1
	case "length":
		f = f[:len(f)-rapid.IntRange(1, min(len(f)-policy.EthernetLen, 30)).Draw(t, "cut")]
	case "byte":
		f[rapid.IntRange(12, len(f)-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
	case "options":
		if v4 {
			f = slices.Insert(f, policy.EthernetLen+policy.IPv4Len, rapid.SampledFrom([][]byte{{1, 1, 1, 1}, {131, 3, 4, 1}}).Draw(t, "option")...)
			ip = f[policy.EthernetLen:]
			ip[0]++
			ip[3] += 4
		}
	case "trailer":
		f = append(f, make([]byte, 9)...)
	}
	if ip = f[policy.EthernetLen:]; v4 && len(ip) >= policy.IPv4Len && int(ip[0]&15)*4 <= len(ip) {
		ip[10], ip[11] = 0, 0
		sum := ^policy.FoldChecksum(policy.Sum(ip[:int(ip[0]&15)*4], 0))
		ip[10], ip[11] = byte(sum>>8), byte(sum)
	}
	return f
}

// event is what happens besides packets.
func (w twins) event(t *rapid.T) {
	what := rapid.SampledFrom([]string{"time", "time", "mtu", "mac", "gateway", "no gateway", "sweep"}).Draw(t, "event")
	wait := rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second, time.Minute, 10 * time.Minute}).Draw(t, "wait")
	n := rapid.ByteRange(0, 3).Draw(t, "n")
	for _, s := range w {
		switch what {
		case "time":
			s.clock.Advance(wait)
		case "mtu":
			s.kernel.Uplink.MTU = 1500 - int(n)*400
			s.update()
		case "mac":
			s.kernel.Uplink.MAC[5] = n
			s.update()
		case "gateway", "no gateway":
			mac := policy.MAC{2, 0, 0, 0, 9, n}
			if what != "gateway" {
				mac = policy.MAC{}
			}
			for _, a := range slices.SortedFunc(maps.Keys(s.current.Load().Upstream), netip.Addr.Compare) {
				s.neighbours.event(stack.NeighbourEvent{Addr: a, MAC: mac})
			}
		case "sweep":
			s.sweep()
		}
	}
}

// same compares what the two have sent, counted and remembered. How many ICMP errors there are depends on chance (see limits), and in which order
// the router asks for neighbours too.
func (w twins) same(t *rapid.T) {
	var sent, state [2][]string
	for i, s := range w {
		for _, side := range []stack.Side{stack.Guests, stack.UplinkSide, stack.Host} {
			for _, f := range s.links[side].Take() {
				var p policy.Packet
				if p.Parse(f.Frame, f.Offload); p.Proto == policy.ProtoTCP || p.Proto == policy.ProtoUDP || p.Plain() {
					sent[i] = append(sent[i], fmt.Sprintf("%v %x %+v", side, f.Frame, f.Offload))
				}
			}
		}
		state[i] = append(state[i], fmt.Sprint(s.counts()))
		for _, g := range s.current.Load().Guests {
			c := g.Counters
			state[i] = append(state[i], fmt.Sprint(g.Name, " rx ", c.RxPackets.Load(), c.RxBytes.Load(), " tx ", c.TxPackets.Load(), c.TxBytes.Load()))
			for r := range c.Drops {
				state[i] = append(state[i], fmt.Sprint(policy.Reason(r), c.Drops[r].Load(), c.Would[r].Load()))
			}
			state[i] = append(state[i], flowsOf(s, g)...)
		}
	}
	for _, l := range [][2][]string{sent, state} {
		if !slices.Equal(l[0], l[1]) {
			t.Fatalf("by the short way\n%s\nby the long way\n%s", l[0], l[1])
		}
	}
}

func flowsOf(s *sim, g *policy.Guest) (list []string) {
	var flows []policy.Flow
	s.current.Load().engine.Flows(g).Each(s.now(), func(f *policy.Flow) bool {
		flows = append(flows, *f)
		return true
	})
	slices.SortFunc(flows, func(a, b policy.Flow) int {
		return cmp.Or(bytes.Compare(a.Key.A[:], b.Key.A[:]), bytes.Compare(a.Key.B[:], b.Key.B[:]), cmp.Compare(a.Key.APort, b.Key.APort), cmp.Compare(a.Key.BPort, b.Key.BPort), cmp.Compare(a.Key.Proto, b.Key.Proto))
	})
	for _, f := range flows {
		list = append(list, fmt.Sprint(f.Key, f.State, f.Packets, f.Bytes, f.From, f.To, f.Opened, f.Expires()))
	}
	return list
}

// Whatever comes, and whatever changes in between, a packet whose flow remembers its way fares as one that goes the long way, and is counted the
// same.
func TestHitIsWhatDecideSays(t *testing.T) {
	list := talks()
	short := 0
	shadow := string(bytes.Replace([]byte(seedFile), []byte(`policy "open" {`), []byte("policy \"open\" {\n  mode = \"shadow\"\n  limits {\n    packets = 50\n  }"), 1))
	for name, src := range map[string]string{"open": seedFile, "limits": limitedFile, "shadow": shadow} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				w := newTwins(t, string(bytes.ReplaceAll([]byte(src), []byte("PROXY"), nil)))
				few := rapid.SliceOfN(rapid.SampledFrom(list), 1, 3).Draw(rt, "talks")
				for range rapid.IntRange(5, 40).Draw(rt, "steps") {
					if rapid.IntRange(0, 9).Draw(rt, "what") == 0 {
						w.event(rt)
						continue
					}
					from, f := rapid.SampledFrom(few).Draw(rt, "talk").packet(rt, w[0], rapid.Bool().Draw(rt, "back"))
					for _, s := range w {
						s.send(from, f)
					}
					w.same(rt)
				}
				short += w[0].shortWays()
				if n := w[1].shortWays(); n != 0 {
					rt.Fatalf("%d packets of the long way went the short one", n)
				}
			})
		})
	}
	if short == 0 {
		t.Error("no packet went the short way")
	}
}

// limitedFile is seedFile with limits low enough to be met.
var limitedFile = string(bytes.Replace([]byte(seedFile), []byte(`policy "open" {`), []byte("policy \"open\" {\n  limits {\n    packets = 70\n    flows = 3\n  }"), 1))

// What a guard looks for within a packet is looked for in each: here, whom a guest asks a DHCP server for.
func TestHitLooksIntoDHCP(t *testing.T) {
	s := newTwins(t, string(bytes.ReplaceAll([]byte(seedFile), []byte("PROXY"), nil)))[0]
	ask := func(mac policy.MAC) []byte {
		f := timed("udp", [2]policy.MAC{s.RouterMAC, cases.MAC1}, netip.AddrPortFrom(cases.One4, 68), netip.AddrPortFrom(cases.X4, 67), false, 0, 0, 0, 0)
		body := make([]byte, 244)
		body[0], body[1], body[2] = 1, 1, 6
		copy(body[28:], mac[:])
		f = append(f[:policy.EthernetLen+policy.IPv4Len+8], body...)
		ip := f[policy.EthernetLen:]
		ip[2], ip[3] = byte(len(ip)>>8), byte(len(ip))
		ip[24], ip[25], ip[26], ip[27] = byte((len(ip)-20)>>8), byte(len(ip)-20), 0, 0
		ip[10], ip[11] = 0, 0
		sum := ^policy.FoldChecksum(policy.Sum(ip[:20], 0))
		ip[10], ip[11] = byte(sum>>8), byte(sum)
		return f
	}
	for range 3 {
		s.send(stack.Guests, ask(cases.MAC1))
	}
	if n := len(s.frames(stack.UplinkSide)); n != 3 {
		t.Fatalf("%d of 3 requests of its own passed: %v", n, s.counts())
	}
	s.send(stack.Guests, ask(cases.MAC2))
	if n := len(s.frames(stack.UplinkSide)); n != 0 || s.counts()[policy.DHCPGuard] != 1 {
		t.Errorf("%d requests for another passed: %v", n, s.counts())
	}
}

// A flow follows its neighbour at once, and a world's change sends it the long way once.
func TestHitFollows(t *testing.T) {
	w := newTwins(t, string(bytes.ReplaceAll([]byte(seedFile), []byte("PROXY"), nil)))
	s := w[0]
	k := talks()[12] // UDP
	send := func(want policy.MAC, short bool) {
		t.Helper()
		before := s.shortWays()
		s.send(stack.Guests, timed(k.kind, [2]policy.MAC{s.RouterMAC, k.mac}, k.guest, k.x, false, 0, 0, 0, 0))
		got := slices.DeleteFunc(s.frames(stack.UplinkSide), func(p policy.Packet) bool { return p.Proto != policy.ProtoUDP })
		if len(got) != 1 || got[0].DstMAC != want || got[0].SrcMAC != s.current.Load().UplinkMAC {
			t.Fatalf("sent %+v, want it to %v", got, want)
		}
		if took := s.shortWays() > before; took != short {
			t.Errorf("went the short way: %v", took)
		}
	}
	send(gatewayMAC, false) // makes the flow
	send(gatewayMAC, false) // finds its way
	send(gatewayMAC, true)
	other := policy.MAC{2, 0, 0, 0, 9, 9}
	for a := range s.current.Load().Upstream {
		s.neighbours.event(stack.NeighbourEvent{Addr: a, MAC: other})
	}
	send(other, true)
	s.kernel.Uplink.MAC[5]++
	s.update()
	s.learn()
	s.links[stack.UplinkSide].Take()
	send(gatewayMAC, false)
	send(gatewayMAC, true)
}

// What changes about interfaces but the uplink concerns no flow: a guest whose vif comes and goes costs the others nothing. The guest itself has vanished all
// the same.
func TestHitOutlivesInterfaces(t *testing.T) {
	s := newTwins(t, strings.Replace(seedFile, "PROXY", "", 1))[0]
	k := talks()[12] // UDP
	send := func() {
		t.Helper()
		s.send(stack.Guests, timed(k.kind, [2]policy.MAC{s.RouterMAC, k.mac}, k.guest, k.x, false, 0, 0, 0, 0))
		if n := len(s.frames(stack.UplinkSide)); n != 1 {
			t.Fatalf("%d packets were sent: %v", n, s.counts())
		}
	}
	send()
	send()
	for _, up := range []map[string]bool{{"vif1.0": false, "vif2.0": true}, {"vif2.0": true}, {"vif1.0": true, "vif2.0": true, "veth0": false}} {
		before := s.shortWays()
		s.kernel.Up = up
		if err := s.update(); err != nil {
			t.Fatal(err)
		}
		if _, there := up["vif1.0"]; there && s.current.Load().states[0].seen.Load() != up["vif1.0"] {
			t.Errorf("%v: the guest is there: %v", up, !up["vif1.0"])
		}
		send()
		if s.shortWays() == before {
			t.Errorf("%v: a packet went the long way", up)
		}
		s.newWorker(stack.Guests).appearedAll()
		s.links[stack.UplinkSide].Take()
	}
}

// An address that dom0 gains is dom0's: a flow that a guest has opened to it before, when it was somebody else's, is no way around the host block.
func TestFlowIsNotForWhoGainsTheAddress(t *testing.T) {
	s := newTwins(t, strings.Replace(seedFile, "PROXY", "", 1))[0]
	send := func() {
		for _, kind := range []string{"udp", "tcp"} {
			s.send(stack.Guests, timed(kind, [2]policy.MAC{s.RouterMAC, cases.MAC1}, netip.AddrPortFrom(cases.One4, 40000), netip.AddrPortFrom(cases.X4, 514), false, 2, 999, 0, 0))
		}
	}
	send()
	if n := len(s.frames(stack.UplinkSide)); n != 2 {
		t.Fatalf("%d of 2 flows are open: %v", n, s.counts())
	}
	k := seedKernel()
	k.Held = append(k.Held, cases.X4)
	s.kernel = k
	if err := s.update(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		send()
	}
	if n := len(s.frames(stack.Host)); n > 0 || s.counts()[policy.FlowSide] != 6 {
		t.Errorf("%d packets reached dom0, %d by the short way: %v", n, s.shortWays(), s.counts())
	}
}

// A hit allocates nothing.
func TestHitAllocatesNothing(t *testing.T) {
	w := newTwins(t, string(bytes.ReplaceAll([]byte(seedFile), []byte("PROXY"), nil)))
	s := w[0]
	k := talks()[12]
	b := timed(k.kind, [2]policy.MAC{s.RouterMAC, k.mac}, k.guest, k.x, false, 0, 0, 0, 0)
	f := stacktest.Frame(b, policy.Offload{})
	worker := s.newWorker(stack.Guests)
	worker.write[stack.UplinkSide] = func([]*stack.Frame) {}
	batch := []*stack.Frame{f}
	send := func() {
		f.Set(b)
		worker.batch(batch)
	}
	send()
	send()
	before := s.shortWays()
	const runs = 100
	if n := testing.AllocsPerRun(runs, send); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if n := s.shortWays() - before; n < runs {
		t.Errorf("%d of %d packets went the short way", n, runs)
	}
}

func (s *sim) shortWays() int { return int(s.Router.hits.Load()) }
