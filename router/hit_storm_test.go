package router

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"udrouter/integration/cases"
	"udrouter/policy"
	"udrouter/stack"
	"udrouter/stack/stacktest"
)

// meeting is a file by which guests may open what they like to dom0.
func meeting(src string) string {
	return strings.NewReplacer("PROXY", "", "host {}", "host {\n  ingress {\n    default = \"accept\"\n  }\n}").Replace(src)
}

// exchange is what opens a talk and lets both directions remember their way.
func (k talk) exchange(s *sim) ([]stack.Side, [][]byte) { return k.opened(s, false) }

// opened is the same, and in tells that the guest is who is called.
func (k talk) opened(s *sim, in bool) (sides []stack.Side, frames [][]byte) {
	add := func(answer bool, flags uint8, seq, acked uint32, n int) {
		back := answer != in
		from, src, dst, m := stack.Guests, k.guest, k.x, [2]policy.MAC{s.RouterMAC, k.mac}
		if back {
			from, src, dst, m = k.other, dst, src, [2]policy.MAC{s.current.Load().UplinkMAC, gatewayMAC}
			if k.other == stack.Guests {
				m = [2]policy.MAC{s.RouterMAC, cases.MAC2}
			}
		}
		sides, frames = append(sides, from), append(frames, timed(k.kind, m, src, dst, answer, flags, seq, acked, n))
	}
	if k.kind == "tcp" {
		add(false, 2, 999, 0, 0)
		add(true, 18, 999, 1000, 0)
		add(false, 16, 1000, 1000, 0)
	}
	for range 2 {
		add(false, 16, 1000, 1000, 10)
		add(true, 16, 1000, 1000, 10)
	}
	return
}

// dress gives a frame what a NIC or a hypervisor may say of it, and headers that no flow's key holds.
func dress(t *rapid.T, b []byte) *stack.Frame {
	o := policy.Offload{}
	l4 := uint16(policy.EthernetLen + policy.IPv6Len)
	v4 := len(b) > 14 && b[12] == 8
	if v4 {
		l4 = policy.EthernetLen + policy.IPv4Len
	}
	what := rapid.SampledFrom([]string{"", "", "", "", "csum", "csum", "gso", "gso", "lro", "bad", "vlan", "cut", "tos", "df", "zero", "id"}).Draw(t, "dress")
	off := rapid.SampledFrom([]uint16{16, 16, 6, 6, 2, 0}).Draw(t, "field")
	switch what {
	case "csum", "gso":
		o = policy.Offload{Flags: policy.NeedsCsum, CsumStart: l4 + rapid.SampledFrom([]uint16{0, 0, 0, 8, 20}).Draw(t, "start"), CsumOffset: off}
		if what == "gso" {
			o.GSOType = rapid.SampledFrom([]uint8{1, 4, 5, 1, 4, 5, 3, 0x81, 0x84, 0x85}).Draw(t, "type")
			o.GSOSize = rapid.SampledFrom([]uint16{1, 4, 100, 536, 1400, 65535}).Draw(t, "size")
			o.HdrLen = rapid.SampledFrom([]uint16{0, 54, 74, 2000}).Draw(t, "hdr")
		}
	case "lro":
		o = policy.Offload{Flags: policy.DataValid, GSOType: rapid.SampledFrom([]uint8{1, 4}).Draw(t, "type"), GSOSize: 500}
	case "bad":
		o = policy.Offload{Flags: rapid.Byte().Draw(t, "flags"), GSOType: rapid.Byte().Draw(t, "type"), GSOSize: rapid.Uint16().Draw(t, "size"), CsumStart: rapid.Uint16().Draw(t, "start"), CsumOffset: off}
	case "tos", "df", "id", "zero":
		if ip := b[policy.EthernetLen:]; len(ip) >= 48 {
			switch {
			case what == "zero":
				ip[l4-14+6], ip[l4-14+7] = 0, 0
			case !v4:
				ip[1] ^= rapid.Byte().Draw(t, "class")
			default:
				ip[map[string]int{"tos": 1, "df": 6, "id": 4}[what]] ^= rapid.SampledFrom([]byte{1, 2, 3, 0x40, 0x80}).Draw(t, "bits")
				ip[10], ip[11] = 0, 0
				sum := ^policy.FoldChecksum(policy.Sum(ip[:20], 0))
				ip[10], ip[11] = byte(sum>>8), byte(sum)
			}
		}
	}
	f := stacktest.Frame(b, o)
	f.VLAN, f.Truncated = what == "vlan", what == "cut"
	return f
}

// turn is an event that changes whose an address is, or forgets what there is.
func (w twins) turn(t *rapid.T) {
	what := rapid.SampledFrom([]string{"held", "upstream", "route", "subnet", "down", "tick", "forget", "vanish", "flows", "reload", "reload"}).Draw(t, "turn")
	a := rapid.SampledFrom([]netip.Addr{cases.X4, cases.X6, cases.One4, cases.Two4, cases.One6, cases.Two6}).Draw(t, "address")
	on := rapid.Bool().Draw(t, "on")
	file := rapid.SampledFrom(files).Draw(t, "file")
	for _, s := range w {
		k := seedKernel()
		k.Uplink.MAC, k.Uplink.MTU = s.kernel.Uplink.MAC, s.kernel.Uplink.MTU
		switch what {
		case "held":
			if on {
				k.Held = append(k.Held, a)
			}
		case "upstream":
			if on {
				k.Routes = append(k.Routes, stack.Route{Prefix: netip.MustParsePrefix("203.0.113.0/24"), Gateway: a})
			}
		case "route":
			if on {
				k.Routes = append(k.Routes, stack.Route{Prefix: netip.PrefixFrom(a, a.BitLen())})
			} else {
				k.Routes = k.Routes[:2]
			}
		case "subnet":
			k.Subnets = append(k.Subnets, netip.PrefixFrom(a, a.BitLen()-2).Masked())
		case "down":
			k.Uplink.Up = on
			k.Up = map[string]bool{"vif1.0": on, "vif2.0": !on}
		case "tick":
			for range 70 {
				s.neighbours.tick(s.netstack.Load())
			}
			continue
		case "forget":
			s.neighbours.mu.Lock()
			for _, n := range s.neighbours.m {
				if !n.gateway.Load() {
					s.neighbours.remove(n)
				}
			}
			s.neighbours.mu.Unlock()
			continue
		case "vanish":
			s.current.Load().states[0].vanished()
			continue
		case "reload":
			if err := s.reload(file); err != nil {
				t.Fatal(err)
			}
			continue
		case "flows":
			s.current.Load().engine.Forget()
			continue
		}
		s.kernel = k
		if err := s.update(); err != nil {
			t.Fatal(err)
		}
		if on {
			s.learn()
		}
		for _, n := range s.neighbours.all() {
			if !n.gateway.Load() && on {
				s.neighbours.event(stack.NeighbourEvent{Addr: n.addr, MAC: policy.MAC{2, 0, 0, 0, 8, 8}})
			}
		}
	}
}

// Flows that remember their way, then everything that a packet can say of itself and a machine can change.
func TestHitStorm(t *testing.T) {
	within := netip.MustParseAddrPort("[2001:db8:3:2:2::7]:40000")
	prefixed := string(bytes.Replace([]byte(seedFile), []byte(`"2001:db8:3:2:1::11"`), []byte(`"2001:db8:3:2:1::11", "2001:db8:3:2:2::/80"`), 1))
	shadow := string(bytes.Replace([]byte(seedFile), []byte(`policy "open" {`), []byte("policy \"open\" {\n  mode = \"shadow\"\n  limits {\n    packets = 50\n  }\n  egress {\n    default = \"drop\"\n  }"), 1))
	bandwidth := string(bytes.Replace([]byte(seedFile), []byte(`policy "open" {`), []byte("policy \"open\" {\n  limits {\n    packets = 200\n    bandwidth = \"64kbit\"\n    flows = 4\n    new_flows = 5\n  }"), 1))
	for name, src := range map[string]string{"open": seedFile, "shadow": shadow, "limits": limitedFile, "bandwidth": bandwidth, "prefix": prefixed} {
		short, list := 0, talks()
		if name == "prefix" {
			list = append(list, talk{"tcp", cases.MAC2, within, netip.AddrPortFrom(cases.X6, 443), stack.UplinkSide}, talk{"udp", cases.MAC2, within, netip.AddrPortFrom(cases.X6, 443), stack.UplinkSide})
		}
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				w := newTwins(t, meeting(src))
				few := rapid.SliceOfN(rapid.SampledFrom(list), 1, 4).Draw(rt, "talks")
				for _, k := range few {
					sides, frames := k.exchange(w[0])
					for i := range sides {
						for _, s := range w {
							s.send(sides[i], frames[i])
						}
					}
				}
				w.same(rt)
				for range rapid.IntRange(5, 40).Draw(rt, "steps") {
					switch rapid.IntRange(0, 19).Draw(rt, "what") {
					case 0:
						w.event(rt)
						continue
					case 1, 2:
						w.turn(rt)
						continue
					}
					var batch [stack.Host + 1][2][]*stack.Frame
					for range rapid.IntRange(1, 4).Draw(rt, "batch") {
						from, b := rapid.SampledFrom(few).Draw(rt, "talk").packet(rt, w[0], rapid.Bool().Draw(rt, "back"))
						f := dress(rt, slices.Clone(b))
						for i := range w {
							batch[from][i] = append(batch[from][i], f.Clone())
						}
					}
					for side := range batch {
						for i, s := range w {
							if len(batch[side][i]) > 0 {
								s.newWorker(stack.Side(side)).batch(batch[side][i])
								s.clock.RunImmediatelyScheduledJobs()
							}
						}
					}
					w.same(rt)
				}
				short += w[0].shortWays()
			})
		})
		if short == 0 {
			t.Errorf("%s: no packet went the short way", name)
		}
	}
}

// Who comes to the slot of a neighbour that was forgotten gets none of its packets.
func TestHitSlotIsReused(t *testing.T) {
	s := newTwins(t, meeting(seedFile))[0]
	first, second := netip.MustParseAddr("192.0.1.7"), netip.MustParseAddr("192.0.1.8")
	other := policy.MAC{2, 0, 0, 0, 9, 9}
	learn := func(a netip.Addr, mac policy.MAC) *neighbour {
		n := s.neighbours.get(a, false, s.nobody)
		s.neighbours.event(stack.NeighbourEvent{Addr: a, MAC: mac})
		return n
	}
	send := func() (got []policy.Packet) {
		s.send(stack.Guests, timed("udp", [2]policy.MAC{s.RouterMAC, cases.MAC1}, netip.AddrPortFrom(cases.One4, 40000), netip.AddrPortFrom(first, 53), false, 0, 0, 0, 0))
		return s.frames(stack.UplinkSide)
	}
	n := learn(first, gatewayMAC)
	for range 3 {
		if got := send(); len(got) != 1 || got[0].DstMAC != gatewayMAC {
			t.Fatalf("sent %+v", got)
		}
	}
	s.neighbours.mu.Lock()
	s.neighbours.remove(n)
	s.neighbours.mu.Unlock()
	if m := learn(second, other); m.slot != n.slot || s.shortWays() == 0 {
		t.Fatalf("slot %d, not %d; %d went the short way", m.slot, n.slot, s.shortWays())
	}
	for _, p := range send() {
		if p.DstMAC == other {
			t.Errorf("sent %+v to another", p)
		}
	}
}

// Of two guests both are asked for each packet: neither's limits and state are passed by.
func TestHitIsNotBetweenGuests(t *testing.T) {
	s := newTwins(t, meeting(seedFile))[0]
	list := talks()
	sides, frames := list[len(list)-1].exchange(s)
	for range 2 {
		for i := range sides {
			s.send(sides[i], frames[i])
		}
	}
	if n := len(s.frames(stack.Guests)); n != 2*len(frames) || s.shortWays() != 0 {
		t.Errorf("%d of %d packets passed, %d by the short way: %v", n, 2*len(frames), s.shortWays(), s.counts())
	}
}

// Workers share flows, guests and neighbours while worlds come and go: each packet is counted once, whatever becomes of it.
func TestHitWorkers(t *testing.T) {
	for name, src := range map[string]string{"open": seedFile, "limits": limitedFile} {
		t.Run(name, func(t *testing.T) { hitWorkers(t, newTwins(t, meeting(src))[0]) })
	}
}

func hitWorkers(t *testing.T, s *sim) {
	list := slices.DeleteFunc(talks(), func(k talk) bool { return k.other == stack.Guests })
	const workers, rounds = 4, 100
	var batches [stack.Host + 1][][]byte // the last two frames of each talk, one of each direction
	for _, k := range list {
		sides, frames := k.exchange(s)
		for i, side := range sides {
			s.send(side, frames[i])
			if i >= len(sides)-2 {
				batches[side] = append(batches[side], frames[i])
			}
		}
	}
	count := func() (passed, sent uint64) {
		for _, g := range s.current.Load().Guests {
			passed += g.Counters.RxPackets.Load()
			sent += g.Counters.TxPackets.Load()
		}
		return passed, sent
	}
	dropped := func() (n uint64) {
		for _, d := range s.counts() {
			n += d
		}
		return n
	}
	received, sent := count()
	drops := dropped()
	for _, l := range s.links {
		l.Take()
	}
	stop := make(chan struct{})
	var busy, others sync.WaitGroup
	others.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			k := seedKernel()
			k.Held = append(k.Held, netip.AddrFrom4([4]byte{192, 0, 1, byte(3 + i%2)}))
			s.Router.ReadKernel = func() (stack.Kernel, error) { return k, nil }
			_ = s.update()
			s.learn()
			s.sweep()
			s.Status()
		}
	})
	for range workers {
		busy.Go(func() {
			for range rounds {
				for side, frames := range batches {
					var batch []*stack.Frame
					for _, f := range frames {
						batch = append(batch, frameOf(f))
					}
					s.newWorker(stack.Side(side)).batch(batch)
				}
			}
		})
	}
	busy.Wait()
	close(stop)
	others.Wait()
	var left uint64
	for _, side := range []stack.Side{stack.UplinkSide, stack.Host} {
		for _, p := range s.frames(side) {
			if p.Proto == policy.ProtoTCP || p.Proto == policy.ProtoUDP || p.Plain() {
				left++
			}
		}
	}
	nowReceived, nowSent := count()
	want := uint64(workers * rounds * len(list))
	if got := nowSent - sent; got != want {
		t.Errorf("guests were counted %d packets sent, want %d", got, want)
	}
	if got := left + nowReceived - received + dropped() - drops; got != 2*want || s.counts()[policy.Internal] != 0 {
		t.Errorf("%d left, %d were received, want %d with the drops: %v", left, nowReceived-received, 2*want, s.counts())
	}
	if s.shortWays() == 0 {
		t.Error("no packet went the short way")
	}
}
