package router

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"udrouter/integration/cases"
	"udrouter/policy"
	"udrouter/stack"
)

// flood is a kind of frames of guest one, one after the other, with what each is counted as when the router owes no answer.
type flood struct {
	frame  func(i int) []byte
	answer bool // within the guest's share
	reason policy.Reason
}

func floods() map[string]flood {
	v4 := func(a byte, i int) netip.Addr {
		return netip.AddrFrom4([4]byte{a, byte(i >> 16), byte(i >> 8), byte(i)})
	}
	arp := func(spa, tpa netip.Addr) []byte {
		return cases.ARP(policy.BroadcastMAC, cases.MAC1, 1, cases.MAC1, spa, policy.MAC{}, tpa)
	}
	ns := func(src, target netip.Addr) []byte {
		to, opt := policy.SolicitedNode(target), cases.MAC1
		if src.IsUnspecified() {
			opt = policy.MAC{}
		}
		return cases.NS(policy.MulticastMAC(to), cases.MAC1, src, to, target, opt)
	}
	na := func(target netip.Addr) []byte {
		return cases.NA(allNodesMAC, cases.MAC1, cases.One6, allNodes, target, cases.MAC1, policy.NAOverride)
	}
	return map[string]flood{
		"ARP for the gateway":                {func(int) []byte { return arp(cases.One4, cases.Router4) }, true, policy.NDLimit},
		"ARP for the other guest":            {func(int) []byte { return arp(cases.One4, cases.Two4) }, true, policy.NDLimit},
		"probes for the other guest":         {func(int) []byte { return arp(netip.IPv4Unspecified(), cases.Two4) }, true, policy.NDLimit},
		"ARP for address after address":      {func(i int) []byte { return arp(cases.One4, v4(10, i)) }, false, policy.None},
		"ARP from address after address":     {func(i int) []byte { return arp(v4(10, i), cases.Router4) }, false, policy.ARPSpoof},
		"NS for the gateway":                 {func(int) []byte { return ns(cases.One6, cases.Router6) }, true, policy.NDLimit},
		"NS for the other guest":             {func(int) []byte { return ns(cases.One6, cases.Two6) }, true, policy.NDLimit},
		"DAD for the other guest's":          {func(int) []byte { return ns(netip.IPv6Unspecified(), cases.Two6) }, true, policy.NDLimit},
		"NS from link-locals, one by one":    {func(i int) []byte { return ns(ll(i), cases.Router6) }, true, policy.NDLimit},
		"NS for address after address":       {func(i int) []byte { return ns(cases.One6, ll(i)) }, false, policy.None},
		"NS from address after address":      {func(i int) []byte { return ns(in64(i), cases.Router6) }, false, policy.IP6Binding},
		"DAD for address after address":      {func(i int) []byte { return ns(netip.IPv6Unspecified(), in64(i)) }, false, policy.None},
		"NA for itself":                      {func(int) []byte { return na(cases.One6) }, false, policy.None},
		"NA for address after address":       {func(i int) []byte { return na(in64(i)) }, false, policy.NDSpoof},
		"NA for link-local after link-local": {func(i int) []byte { return na(ll(i)) }, false, policy.None},
	}
}

// ll is a link-local address that no guest is known by.
func ll(i int) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: 0xaa, 12: byte(i >> 24), 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)})
}

// in64 is an address of the guests' prefix that nobody is bound to.
func in64(i int) netip.Addr {
	a := [16]byte{0x20, 1, 0x0d, 0xb8, 0, 3, 0, 2, 0xee}
	binary.BigEndian.PutUint32(a[12:], uint32(i))
	return netip.AddrFrom16(a)
}

// A guest that floods its neighbourhood (attacks 37 and 49; RFC 6583) is answered within its share, and leaves no trace: the router holds
// no more than before, and the other guest is answered at once.
func TestNeighbourFloods(t *testing.T) {
	const n = 20 * neighbourPerSecond
	for name, f := range floods() {
		t.Run(name, func(t *testing.T) {
			s := seed(t)
			s.learn()
			s.newWorker(stack.Guests).appearedAll()
			known := len(s.neighbours.all())
			for i := range n {
				s.send(stack.Guests, f.frame(i))
			}
			answers := len(s.links[stack.Guests].Take())
			if f.answer && answers != neighbourPerSecond || !f.answer && answers != 0 {
				t.Errorf("%d answers, the share is %d a second", answers, neighbourPerSecond)
			}
			want := map[policy.Reason]uint64{}
			if f.reason != policy.None {
				want[f.reason] = uint64(n - answers)
			}
			if got := s.counts(); got[f.reason] != want[f.reason] || len(got) != len(want) {
				t.Errorf("counted %v, want %v", got, want)
			}
			if got := s.links[stack.UplinkSide].Take(); len(got) != 0 {
				t.Errorf("%d frames went to the provider", len(got))
			}
			p := s.current.Load().states[0]
			if len(s.neighbours.all()) != known || len(p.until) > maxPresent || len(p.waiting) > maxAwaited {
				t.Errorf("%d neighbours, %d before; %d addresses shown, %d awaited", len(s.neighbours.all()), known, len(p.until), len(p.waiting))
			}
			if _, ok := s.linkLocals.Owner(ll(0)); ok {
				t.Error("the first of thousands of link-local addresses is still the guest's")
			}
			to := policy.SolicitedNode(cases.Router6)
			s.send(stack.Guests, cases.ARP(policy.BroadcastMAC, cases.MAC2, 1, cases.MAC2, cases.Two4, policy.MAC{}, cases.One4),
				cases.NS(policy.MulticastMAC(to), cases.MAC2, cases.Two6, to, cases.Router6, cases.MAC2))
			if got := s.frames(stack.Guests); len(got) != 2 || got[0].ARP.SPA != cases.One4 || got[0].DstMAC != cases.MAC2 || got[1].ND.Target != cases.Router6 {
				t.Errorf("the other guest was told %+v", got)
			}
			for _, w := range s.canary() {
				t.Error(w)
			}
		})
	}
}

// Solicitations of any station on the uplink for a guest, as many as it likes, leave the gateway's own answered (attacks 42 and 50).
func TestAnswersToGateway(t *testing.T) {
	s := seed(t)
	s.learn()
	stranger := policy.MAC{2, 0, 0, 0, 0, 0x66}
	to := policy.SolicitedNode(cases.One6)
	for range 5 * answersPerSecond {
		s.send(stack.UplinkSide, cases.NS(policy.MulticastMAC(to), stranger, netip.MustParseAddr("fe80::66"), to, cases.One6, stranger))
	}
	if s.current.Load().Guests[0].Counters.Drops[policy.NDLimit].Load() == 0 {
		t.Error("no limit was met: this test shows nothing")
	}
	s.links[stack.UplinkSide].Take()
	s.send(stack.UplinkSide, solicit(cases.One6))
	if got := s.frames(stack.UplinkSide); len(got) != 1 || got[0].DstMAC != gatewayMAC || got[0].ND.Target != cases.One6 {
		t.Errorf("the gateway was told %+v; %v", got, s.counts())
	}
}

// A sweep of the guests' IPv4 prefix from the uplink (attack 50) asks nobody anything and is answered by nobody.
func TestSweep(t *testing.T) {
	s := seed(t)
	s.learn()
	s.newWorker(stack.Guests).appearedAll()
	known := len(s.neighbours.all())
	want := uint64(0)
	for range 20 {
		for i := range 256 {
			a := netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
			if a == cases.One4 || a == cases.Two4 || a == cases.Router4 || i == 0 || i == 255 {
				continue
			}
			want++
			s.send(stack.UplinkSide, cases.Echo(eth0MAC, gatewayMAC, cases.X4, a, false, 8))
		}
	}
	if got := s.counts(); got[policy.UnboundDst] != want || len(got) != 1 {
		t.Errorf("counted %v, want %d", got, want)
	}
	for sd, l := range s.links {
		if got := l.Take(); len(got) != 0 {
			t.Errorf("side %d was sent %d frames", sd, len(got))
		}
	}
	if n := len(s.neighbours.all()); n != known {
		t.Errorf("%d neighbours, %d before", n, known)
	}
}

// What a guard refuses once it refuses however often, and the other guest is served: RA, RS, redirects and DHCP (attacks 51, 54, 55, 56).
func TestGuardFloods(t *testing.T) {
	const n = 5000
	seen := map[policy.Reason]bool{}
	for _, c := range slices.Concat(cases.RouterAdvertisements(), cases.Redirects(), cases.DHCP()) {
		if seen[c.Reason] || c.From != cases.One || len(c.Before)+len(c.Out) > 0 || c.Bridge {
			continue
		}
		seen[c.Reason] = true
		t.Run(c.Name, func(t *testing.T) {
			s := seed(t)
			s.learn()
			s.newWorker(stack.Guests).appearedAll()
			for range n {
				s.send(stack.Guests, c.Frame(s.net))
			}
			want := map[policy.Reason]uint64{c.Reason: n}
			if c.Reason == policy.None {
				want = map[policy.Reason]uint64{}
			}
			if got := s.counts(); !maps.Equal(got, want) {
				t.Errorf("counted %v", got)
			}
			for sd, l := range s.links {
				if got := l.Take(); len(got) != 0 {
					t.Errorf("side %d was sent %d frames", sd, len(got))
				}
			}
			for _, w := range s.canary() {
				t.Error(w)
			}
		})
	}
	for _, r := range []policy.Reason{policy.None, policy.RAGuard, policy.Redirect, policy.DHCPGuard} {
		if !seen[r] {
			t.Errorf("no row is %v", r)
		}
	}
}

// Guests whose ports are not isolated answer each other; the router answers for itself alone (attacks 31 and 43).
func TestNotIsolated(t *testing.T) {
	s := newSim(t, parseConfig(t, strings.NewReplacer("PROXY", "", `bridge "xenbr0" {}`, `bridge "xenbr0" { isolate = false }`).Replace(seedFile)), seedKernel())
	s.newWorker(stack.Guests).appearedAll()
	to := policy.SolicitedNode(cases.Two6)
	s.send(stack.Guests,
		cases.ARP(policy.BroadcastMAC, cases.MAC1, 1, cases.MAC1, cases.One4, policy.MAC{}, cases.Two4),
		cases.ARP(policy.BroadcastMAC, cases.MAC1, 1, cases.MAC1, netip.IPv4Unspecified(), policy.MAC{}, cases.Two4),
		cases.NS(policy.MulticastMAC(to), cases.MAC1, cases.One6, to, cases.Two6, cases.MAC1),
		cases.NS(policy.MulticastMAC(to), cases.MAC1, netip.IPv6Unspecified(), to, cases.Two6, policy.MAC{}))
	if got := s.frames(stack.Guests); len(got) != 0 {
		t.Errorf("answered %+v", got)
	}
	s.send(stack.Guests, cases.ARP(policy.BroadcastMAC, cases.MAC1, 1, cases.MAC1, cases.One4, policy.MAC{}, cases.Router4))
	if got := s.frames(stack.Guests); len(got) != 1 || got[0].ARP.SPA != cases.Router4 {
		t.Errorf("for the gateway answered %+v", got)
	}
}
