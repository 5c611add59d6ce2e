package router

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/policy"
	"udrouter/stack"
)

func reference(t testing.TB) *sim {
	s := newSim(t, parseConfig(t, string(config.Reference)), seedKernel())
	s.learn()
	s.newWorker(stack.Guests).appearedAll()
	s.links[stack.UplinkSide].Take()
	return s
}

// The reference's rules on packets: what is admitted passes with its answers, what is rejected is told, what is dropped is not.
func TestRules(t *testing.T) {
	one, two, x := netip.AddrPortFrom(cases.One4, 40000), netip.AddrPortFrom(cases.Two4, 5000), netip.AddrPortFrom(cases.X4, 25)
	t.Run("reject", func(t *testing.T) {
		s := reference(t)
		s.send(stack.Guests, cases.TCP(s.RouterMAC, cases.MAC1, one, x, 2, 999, 0, 0))
		got := s.frames(stack.Guests)
		if len(got) != 1 || got[0].Proto != policy.ProtoTCP || got[0].TCPFlags != 4|16 || got[0].Src != cases.X4 || got[0].DstMAC != cases.MAC1 || got[0].SrcPort != 25 {
			t.Errorf("told %+v", got)
		}
		if n := len(s.frames(stack.UplinkSide)); n != 0 || s.counts()[policy.EgressPolicy] != 1 {
			t.Errorf("%d frames left, counted %v", n, s.counts())
		}
	})
	t.Run("the receiver's policy", func(t *testing.T) {
		s := reference(t)
		s.send(stack.Guests, cases.UDP(s.RouterMAC, cases.MAC1, cases.One4, two.Addr(), 8))
		if n := len(s.frames(stack.Guests)); n != 0 || s.counts()[policy.IngressPolicy] != 1 || s.current.Load().Guests[1].Counters.Drops[policy.IngressPolicy].Load() != 1 {
			t.Errorf("%d frames, counted %v", n, s.counts())
		}
	})
	t.Run("answers pass by state", func(t *testing.T) {
		s := reference(t)
		answer := cases.TCP(eth0MAC, gatewayMAC, netip.AddrPortFrom(cases.X4, 443), one, 2|16, 1999, 1000, 0)
		s.send(stack.UplinkSide, answer)
		if n := len(s.frames(stack.Guests)); n != 0 {
			t.Errorf("an answer to nothing passed: %v", s.counts())
		}
		s.send(stack.Guests, cases.TCP(s.RouterMAC, cases.MAC1, one, netip.AddrPortFrom(cases.X4, 443), 2, 999, 0, 0))
		s.send(stack.UplinkSide, answer)
		if n := len(s.frames(stack.Guests)); n != 1 {
			t.Errorf("%d answers passed: %v", n, s.counts())
		}
	})
	t.Run("new flows a second", func(t *testing.T) {
		s := reference(t)
		for i := range 2100 { // the file admits 2000
			s.send(stack.Guests, cases.TCP(s.RouterMAC, cases.MAC1, netip.AddrPortFrom(cases.One4, uint16(1000+i)), netip.AddrPortFrom(cases.X4, 443), 2, 999, 0, 0))
		}
		if n := s.counts()[policy.LimitNewFlows]; n != 100 {
			t.Errorf("%d of 2100 new flows were refused, want 100", n)
		}
		s.send(stack.Guests, cases.TCP(s.RouterMAC, cases.MAC2, netip.AddrPortFrom(cases.Two4, 1000), netip.AddrPortFrom(cases.X4, 443), 2, 999, 0, 0))
		if n := s.current.Load().Guests[1].Counters.Drops[policy.LimitNewFlows].Load(); n != 0 {
			t.Error("the other guest's first flow was refused")
		}
	})
}

// In shadow mode a policy drops nothing, and counts what it would have dropped; guards drop all the same.
func TestShadow(t *testing.T) {
	cfg := parseConfig(t, string(config.Reference))
	cfg.Policies[0].Mode = policy.Shadow
	s := newSim(t, cfg, seedKernel())
	s.learn()
	s.newWorker(stack.Guests).appearedAll()
	s.links[stack.UplinkSide].Take()
	s.send(stack.Guests,
		cases.TCP(s.RouterMAC, cases.MAC1, netip.AddrPortFrom(cases.One4, 40000), netip.AddrPortFrom(cases.X4, 25), 2, 999, 0, 0),
		cases.UDP(s.RouterMAC, cases.MAC1, cases.Two4, cases.X4, 8))
	if n := len(s.frames(stack.UplinkSide)); n != 1 {
		t.Errorf("%d frames left, want the one that the policy would have rejected", n)
	}
	if n := len(s.frames(stack.Guests)); n != 0 {
		t.Errorf("the guest was told %d times", n)
	}
	if s.would[policy.EgressPolicy].Load() != 1 || s.current.Load().Guests[0].Counters.Would[policy.EgressPolicy].Load() != 1 || s.counts()[policy.EgressPolicy] != 0 || s.counts()[policy.IPBinding] != 1 {
		t.Errorf("counted %v, would have %d", s.counts(), s.would[policy.EgressPolicy].Load())
	}
}

// mixed is the reference with guest one in shadow mode.
func mixed(t testing.TB) *sim {
	src := string(config.Reference)
	at := strings.Index(src, "policy \"untrusted\"")
	block := src[at : at+strings.Index(src[at:], "\n}\n")+3]
	watched := strings.NewReplacer("\"untrusted\"", "\"watched\"", "\"enforce\"", "\"shadow\"").Replace(block)
	s := newSim(t, parseConfig(t, strings.Replace(src, "policy = \"untrusted\"", "policy = \"watched\"", 1)+watched), seedKernel())
	s.learn()
	s.newWorker(stack.Guests).appearedAll()
	s.links[stack.UplinkSide].Take()
	return s
}

// One end in shadow mode changes nothing about what the other admits: who is in shadow mode may be opened to and may open, answers included, and is
// counted for what it would have refused, but for answers.
func TestShadowAmongOthers(t *testing.T) {
	const port = 8080 // which the reference's ingress refuses
	for _, c := range []struct {
		name     string
		from, to netip.Addr
		port     uint16
		opened   bool
		would    policy.Reason
	}{
		{"the internet opens", cases.X4, cases.One4, port, true, policy.IngressPolicy},
		{"dom0 opens", cases.Dom04, cases.One4, port, true, policy.IngressPolicy},
		{"a guest opens", cases.Two4, cases.One4, port, true, policy.IngressPolicy},
		{"a guest opens what it may not", cases.Two4, cases.One4, 25, false, policy.None},
		{"it opens mail", cases.One4, cases.X4, 25, true, policy.EgressPolicy},
		{"it opens what its neighbour admits", cases.One4, cases.Two4, 443, true, policy.None},
		{"it opens what its neighbour refuses", cases.One4, cases.Two4, port, false, policy.None},
		{"it opens dom0, which refuses", cases.One4, cases.Dom04, 443, false, policy.None},
	} {
		s := mixed(t)
		side := func(a netip.Addr) (side stack.Side, dst, src policy.MAC) {
			switch a {
			case cases.X4:
				return stack.UplinkSide, eth0MAC, gatewayMAC
			case cases.Dom04:
				return stack.Host, policy.MAC{}, policy.MAC{}
			case cases.One4:
				return stack.Guests, s.RouterMAC, cases.MAC1
			}
			return stack.Guests, s.RouterMAC, cases.MAC2
		}
		a, b := netip.AddrPortFrom(c.from, 40000), netip.AddrPortFrom(c.to, c.port)
		passed := 0
		for i, x := range []struct {
			flags    uint8
			seq, ack uint32
			data     int
		}{{2, 999, 0, 0}, {2 | 16, 1999, 1000, 0}, {16, 1000, 2000, 100}, {16, 2000, 1100, 100}, {1 | 16, 1100, 2100, 0}} {
			from, to := a, b
			if i%2 == 1 {
				from, to = b, a
			}
			in, dst, src := side(from.Addr())
			out, _, _ := side(to.Addr())
			s.send(in, cases.TCP(dst, src, from, to, x.flags, x.seq, x.ack, x.data))
			for _, p := range s.frames(out) {
				if p.Src == from.Addr() { // and no answer of the router's
					passed++
				}
			}
			if !c.opened {
				break
			}
		}
		want, would := 0, uint64(0)
		if c.opened {
			want = 5
		}
		if c.would != policy.None {
			would = 3 // the segments of who has opened
		}
		if passed != want || s.would[c.would].Load() != would || c.opened != (len(s.counts()) == 0) {
			t.Errorf("%s: %d segments passed, want %d; counted %v, %d would have been dropped, want %d", c.name, passed, want, s.counts(), s.would[c.would].Load(), would)
		}
	}
}

// A policy in shadow mode excuses its own guest, and nobody else: what has no flow reaches neither an enforcing neighbour nor dom0 by it.
func TestShadowEndsAtOthers(t *testing.T) {
	for _, to := range []struct {
		name    string
		v4, v6  netip.Addr
		side    stack.Side
		passing bool // by the uplink nobody else is concerned
	}{{"another guest", cases.Two4, cases.Two6, stack.Guests, false}, {"dom0", cases.Dom04, cases.Router6, stack.Host, false}, {"the internet", cases.X4, cases.X6, stack.UplinkSide, true}} {
		for name, frame := range map[string]func(d, s policy.MAC) []byte{
			"later fragment": func(d, s policy.MAC) []byte {
				return cases.UDP(d, s, cases.One4, to.v4, 16, func(l gopacket.SerializableLayer) { l.(*layers.IPv4).FragOffset = 3 })
			},
			"echo reply": func(d, s policy.MAC) []byte { return cases.Echo(d, s, cases.One6, to.v6, true, 8) },
			"ACK": func(d, s policy.MAC) []byte {
				return cases.TCP(d, s, netip.AddrPortFrom(cases.One4, 40000), netip.AddrPortFrom(to.v4, 443), 16, 1, 1, 0)
			},
		} {
			s := mixed(t)
			s.send(stack.Guests, frame(s.RouterMAC, cases.MAC1))
			if n := len(s.links[to.side].Take()); (n == 1) != to.passing {
				t.Errorf("%s to %s: %d frames, counted %v", name, to.name, n, s.counts())
			}
		}
	}
}
