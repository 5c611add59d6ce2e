package router

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/policy"
	"udrouter/stack"
	"udrouter/stack/stacktest"
)

// limited is the reference's network, in which every guest may do everything within these limits. With two of them, the second is guest two's,
// which then has a policy of its own.
func limited(t testing.TB, limits ...policy.Limits) *sim {
	t.Helper()
	cfg := parseConfig(t, cases.Open(config.Reference))
	shared := slices.IndexFunc(cfg.Policies, func(p policy.Policy) bool { return p.Name == cfg.Domus[0].Policy })
	if cfg.Domus[1].Policy != cfg.Domus[0].Policy {
		t.Fatal("the guests share no policy")
	}
	cfg.Policies[shared].Limits = limits[0]
	if len(limits) > 1 {
		other := cfg.Policies[shared]
		other.Name, other.Limits = "of guest two", limits[1]
		cfg.Policies = append(cfg.Policies, other)
		cfg.Domus[1].Policy = other.Name
	}
	s := newSim(t, cfg, seedKernel())
	s.learn()
	s.newWorker(stack.Guests).appearedAll()
	s.links[stack.UplinkSide].Take()
	return s
}

// datagram is UDP with n bytes from a guest or the internet; what is more than 1400 bytes comes as segments of so many.
func (s *sim) datagram(from, to netip.Addr, n int) *stack.Frame {
	dst, src := s.RouterMAC, map[netip.Addr]policy.MAC{cases.One4: cases.MAC1, cases.Two4: cases.MAC2}[from]
	if from == cases.X4 {
		dst, src = eth0MAC, gatewayMAC
	}
	var o policy.Offload
	if n > 1400 {
		o = policy.Offload{Flags: policy.NeedsCsum, GSOType: policy.GSOUDPL4, GSOSize: 1400, HdrLen: 42, CsumStart: 34, CsumOffset: 6}
	}
	return stacktest.Frame(cases.UDP(dst, src, from, to, n, cases.DF), o)
}

// passing sends as many datagrams one by one and tells how many go on.
func (s *sim) passing(count int, from, to netip.Addr, n int) (passed int) {
	s.t.Helper()
	in, out := stack.Guests, stack.Guests
	if from == cases.X4 {
		in = stack.UplinkSide
	}
	if to == cases.X4 {
		out = stack.UplinkSide
	}
	f, w := s.datagram(from, to, n), s.newWorker(in)
	for range count {
		w.batch([]*stack.Frame{stacktest.Frame(f.Bytes(), f.Offload)})
	}
	for _, f := range s.links[out].Take() {
		if n > 1400 && f.GSOSize != 1400 {
			s.t.Error("a super-packet was split")
		}
		passed++
	}
	return passed
}

// Packets and bandwidth, in each direction by itself, for each guest by itself though they share a policy, and again when time has passed. GSO
// frames count as the packets and bytes that they are on the wire.
func TestLimitsOfTraffic(t *testing.T) {
	const small, super = 1000, 65000 // frames of 1042 bytes; 47 frames of 66974 bytes together
	for _, c := range []struct {
		name   string
		limits policy.Limits
		reason policy.Reason
		n      int
		atOnce int // the burst: a tenth of a second's, and two super-packets at least
		wait   time.Duration
		then   int
	}{
		{"packets", policy.Limits{Packets: 1000}, policy.LimitPackets, small, 100, 20 * time.Millisecond, 20},
		{"few packets", policy.Limits{Packets: 1}, policy.LimitPackets, small, 64, 3 * time.Second, 3},
		{"packets in super-packets", policy.Limits{Packets: 1000}, policy.LimitPackets, super, 2, 41 * time.Millisecond, 1},
		{"bandwidth", policy.Limits{Bandwidth: 100_000_000}, policy.LimitBandwidth, small, 10_000_000 / 8 / 1042, time.Millisecond, 12},
		{"bandwidth in super-packets", policy.Limits{Bandwidth: 100_000_000}, policy.LimitBandwidth, super, 10_000_000 / 8 / 66974, 5358 * time.Microsecond, 1},
		{"little bandwidth", policy.Limits{Bandwidth: 8000}, policy.LimitBandwidth, super, 1, 3 * time.Second, 1},
		{"a bit a second", policy.Limits{Bandwidth: 1}, policy.LimitBandwidth, small, 1 << 20 / 8 / 1042, 8336 * time.Second, 1},
		{"both, packets first", policy.Limits{Packets: 1000, Bandwidth: 1_000_000_000}, policy.LimitPackets, small, 100, time.Millisecond, 1},
		{"both, bandwidth first", policy.Limits{Packets: 1_000_000, Bandwidth: 8_000_000}, policy.LimitBandwidth, small, 125, 2 * time.Millisecond, 2},
	} {
		for _, inward := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, to the guest %v", c.name, inward), func(t *testing.T) {
				s := limited(t, c.limits)
				there, other := [2]netip.Addr{cases.One4, cases.X4}, [2]netip.Addr{cases.Two4, cases.X4}
				if inward {
					there, other = [2]netip.Addr{cases.X4, cases.One4}, [2]netip.Addr{cases.X4, cases.Two4}
				}
				tried := c.atOnce + 5
				refused := uint64(0)
				step := func(name string, want int) {
					t.Helper()
					got := s.passing(tried, there[0], there[1], c.n)
					refused += uint64(tried - want)
					one, two := s.current.Load().Guests[0].Counters, s.current.Load().Guests[1].Counters
					if n := s.counts(); got != want || n[c.reason] != refused || len(n) != 1 || one.Drops[c.reason].Load() != refused || two.DropTotal() != 0 {
						t.Fatalf("%s: %d passed, want %d; counted %v, %d of the guest's, %d of the other's", name, got, want, n, one.DropTotal(), two.DropTotal())
					}
				}
				step("at once", c.atOnce)
				step("at the same time", 0)
				if n := s.passing(1, there[1], there[0], small); n != 1 {
					t.Errorf("the other direction has no share of its own: %v", s.counts())
				}
				if n := s.passing(1, other[0], other[1], c.n); n != 1 {
					t.Errorf("the other guest has no share of its own: %v", s.counts())
				}
				s.clock.Advance(c.wait)
				step(fmt.Sprint("after ", c.wait), c.then)
			})
		}
	}
}

// Between guests both ends' limits hold. What the sender's refuses costs the receiver nothing, and what the receiver's refuses is the receiver's.
func TestLimitsBetweenGuests(t *testing.T) {
	few, more, none := policy.Limits{Packets: 1, Flows: 10}, policy.Limits{Packets: 700, Flows: 10}, policy.Limits{Flows: 10}
	s := limited(t, few, more)
	if n := s.passing(1000, cases.One4, cases.Two4, 8); n != 64 || s.current.Load().Guests[0].Counters.Drops[policy.LimitPackets].Load() != 936 {
		t.Errorf("%d passed the sender's limit: %v", n, s.counts())
	}
	if n := s.passing(1000, cases.X4, cases.Two4, 8); n != 6 || s.current.Load().Guests[1].Counters.Drops[policy.LimitPackets].Load() != 994 {
		t.Errorf("%d more reached the receiver, whose limit is 70 at once: %v", n, s.counts())
	}
	if one, two := s.current.Load().Guests[0].Counters, s.current.Load().Guests[1].Counters; one.TxPackets.Load() != 1000 || two.RxPackets.Load() != 70 {
		t.Errorf("%d sent and %d received", one.TxPackets.Load(), two.RxPackets.Load())
	}
	s = limited(t, none, few)
	if n := s.passing(1000, cases.One4, cases.Two4, 8); n != 64 || s.current.Load().Guests[1].Counters.Drops[policy.LimitPackets].Load() != 936 || s.current.Load().Guests[0].Counters.DropTotal() != 0 {
		t.Errorf("%d passed the receiver's limit: %v", n, s.counts())
	}
	if n := s.passing(1000, cases.One4, cases.X4, 8); n != 1000 {
		t.Errorf("the receiver's limit keeps the sender from others: %d, %v", n, s.counts())
	}
}

// New flows a second and flows at a time, each guest by itself, whoever opens them.
func TestLimitsOfFlows(t *testing.T) {
	syn := func(s *sim, from, to netip.Addr, port int) []byte {
		dst, src := s.RouterMAC, map[netip.Addr]policy.MAC{cases.One4: cases.MAC1, cases.Two4: cases.MAC2}[from]
		if from == cases.X4 {
			dst, src = eth0MAC, gatewayMAC
		}
		return cases.TCP(dst, src, netip.AddrPortFrom(from, uint16(port)), netip.AddrPortFrom(to, 443), 2, 999, 0, 0)
	}
	s := limited(t, policy.Limits{NewFlows: 50, Flows: 1000})
	one, two := s.current.Load().Guests[0].Counters, s.current.Load().Guests[1].Counters
	for i := range 80 {
		s.send(stack.Guests, syn(s, cases.One4, cases.X4, 1000+i))
	}
	if n := len(s.frames(stack.UplinkSide)); n != 50 || one.Drops[policy.LimitNewFlows].Load() != 30 || s.counts()[policy.LimitNewFlows] != 30 {
		t.Errorf("%d of 80 were opened, %v", n, s.counts())
	}
	if n := s.Status().Domus[0].Flows; n != 50 {
		t.Errorf("%d flows", n)
	}
	s.send(stack.Guests, syn(s, cases.One4, cases.X4, 1000), syn(s, cases.Two4, cases.X4, 1000))
	s.send(stack.UplinkSide, syn(s, cases.X4, cases.One4, 1000))
	if up, down := len(s.frames(stack.UplinkSide)), len(s.frames(stack.Guests)); up != 2 || down != 1 || two.DropTotal() != 0 {
		t.Errorf("an open one, the other guest's and one from the internet: %d and %d passed, %v", up, down, s.counts())
	}
	s.clock.Advance(100 * time.Millisecond)
	for i := range 10 {
		s.send(stack.Guests, syn(s, cases.One4, cases.X4, 2000+i))
	}
	if n := len(s.frames(stack.UplinkSide)); n != 5 {
		t.Errorf("%d of 10 were opened after a tenth of a second", n)
	}

	s = limited(t, policy.Limits{Flows: 10})
	for i := range 30 {
		s.send(stack.Guests, syn(s, cases.One4, cases.X4, 1000+i), syn(s, cases.Two4, cases.X4, 1000+i%5))
	}
	if st := s.Status(); st.Domus[0].Flows != 10 || st.Domus[1].Flows != 5 || len(s.counts()) > 0 {
		t.Errorf("%d and %d flows, counted %v", st.Domus[0].Flows, st.Domus[1].Flows, s.counts())
	}
	s.links[stack.UplinkSide].Take()
	answer := func(to netip.Addr, port int) []byte {
		return cases.TCP(eth0MAC, gatewayMAC, netip.AddrPortFrom(cases.X4, 443), netip.AddrPortFrom(to, uint16(port)), 2|16, 1999, 1000, 0)
	}
	for i := range 30 {
		s.send(stack.UplinkSide, answer(cases.One4, 1000+i))
	}
	if n := len(s.frames(stack.Guests)); n != 10 {
		t.Errorf("%d answers of 10 flows passed, %v", n, s.counts())
	}
	s.send(stack.UplinkSide, answer(cases.Two4, 1000))
	if n := len(s.frames(stack.Guests)); n != 1 {
		t.Errorf("the other guest has lost a flow: %v", s.counts())
	}
}

// When all guests' flows together are too many, who has none gets none, and it is counted as theirs; others give up their own.
func TestFlowsOfAll(t *testing.T) {
	s := limited(t, policy.Limits{Flows: 10})
	var guests []policy.GuestPolicy
	for i, g := range s.current.Load().Guests {
		guests = append(guests, policy.GuestPolicy{Guest: g, Policy: s.Config.PolicyFor(&s.Config.Domus[i])})
	}
	var err error
	if s.current.Load().engine, err = policy.NewEngine(guests, nil, 1); err != nil {
		t.Fatal(err)
	}
	if one, two := s.passing(2, cases.One4, cases.X4, 8), s.passing(3, cases.Two4, cases.X4, 8); one != 2 || two != 0 ||
		s.counts()[policy.FlowLimit] != 3 || s.current.Load().Guests[1].Counters.Drops[policy.FlowLimit].Load() != 3 {
		t.Errorf("%d and %d passed, counted %v", one, two, s.counts())
	}
}

// In shadow mode limits only tell, of each packet once.
func TestLimitsInShadow(t *testing.T) {
	s := limited(t, policy.Limits{Packets: 1, Flows: 10})
	cfg := s.Config
	for i := range cfg.Policies {
		cfg.Policies[i].Mode = policy.Shadow
	}
	s = newSim(t, cfg, seedKernel())
	s.learn()
	if n := s.passing(100, cases.One4, cases.X4, 8); n != 100 || s.would[policy.LimitPackets].Load() != 36 || s.current.Load().Guests[0].Counters.Would[policy.LimitPackets].Load() != 36 || s.counts()[policy.LimitPackets] != 0 {
		t.Errorf("%d passed, %d would not have, counted %v", n, s.would[policy.LimitPackets].Load(), s.counts())
	}
}
