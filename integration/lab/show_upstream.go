package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"udrouter/config"
	"udrouter/policy"
)

// probe is an address that was asked for on the uplink.
type probe struct {
	target netip.Addr
	net    *config.Network // that it is bound in; nil: nobody may answer for it
}

// upstream shows what the provider's router sees of the guests: answers for bound addresses of
// proxied networks, each with the uplink's MAC, and for nothing else. How often an address was
// answered is counted at the end of the run, when late answers have come too.
func (s *show) upstream() {
	s.group("What the upstream router sees")
	// First what is not to be answered: the answers and pings after it mark the time until which an
	// answer would have come.
	for _, gw := range []netip.Addr{s.plan.gw4.Addr(), s.plan.gw6.Addr()} {
		if gw.IsValid() {
			s.silence("the upstream gateway", gw)
		}
	}
	proxied := false
	for i := range s.Config.Networks {
		n := &s.Config.Networks[i]
		if n.Upstream != config.Proxied {
			continue
		}
		proxied = true
		if a, ok := s.plan.unbound(s.Config, n); ok {
			s.silence("an address of nobody", a)
		} else {
			s.line("asked for an address of nobody: silent", "", notShown("every address of "+n.Name+" is bound"))
		}
		for _, g := range s.shown() {
			for _, a := range g.Addrs {
				if n.Prefix.Contains(a.Addr()) {
					s.answer(g, n, a.Addr())
					break
				}
			}
		}
	}
	if !proxied {
		s.line("asked for a guest's address", "", notShown("no network is proxied: nobody asks"))
	}
}

// silence asks for an address from another station on the uplink, and expects to hear nothing.
func (s *show) silence(what string, target netip.Addr) {
	name := fmt.Sprintf("asked for %s: silent", what)
	s.check(name, func(ctx context.Context) (string, error) {
		if err := s.ask(target, s.plan.strangerMAC); err != nil {
			return "", err
		}
		s.probed = append(s.probed, probe{target: target})
		if err := s.fence(ctx); err != nil {
			return "", err
		}
		if _, answers := s.count(target); answers > 0 {
			return "", fmt.Errorf("%s was answered for by dom0's side", target)
		}
		return target.String(), nil
	})
}

// answer asks for a guest's address as the upstream router does, and reads the answer.
func (s *show) answer(g *Guest, n *config.Network, target netip.Addr) {
	s.check("asked for "+g.Name()+"'s address: answered", func(ctx context.Context) (string, error) {
		s.probed = append(s.probed, probe{target, n})
		frame, err := s.awaitAnswer(ctx, target)
		if err != nil {
			return "", err
		}
		if a, ok := ParseARP(frame); ok {
			if a.SHA != s.Dom0.MAC || a.Src != s.Dom0.MAC {
				return "", fmt.Errorf("%s is at %s by the answer, and dom0's uplink is %s", target, a.SHA, s.Dom0.MAC)
			}
			return fmt.Sprintf("%s is at %s", target, a.SHA), nil
		}
		m, _ := ParseND(frame)
		var wrong []string
		if m.LinkAddr != s.Dom0.MAC || m.SrcMAC != s.Dom0.MAC {
			wrong = append(wrong, fmt.Sprintf("it says %s, and dom0's uplink is %s", m.LinkAddr, s.Dom0.MAC))
		}
		if got := m.Flags&NAOverride != 0; got != n.Proxy.Override {
			wrong = append(wrong, fmt.Sprintf("override is %t, not %t", got, n.Proxy.Override))
		}
		if got := m.Flags&NARouter != 0; got != n.Proxy.Router {
			wrong = append(wrong, fmt.Sprintf("router is %t, not %t", got, n.Proxy.Router))
		}
		if m.Flags&NASolicited == 0 {
			wrong = append(wrong, "solicited is not set")
		}
		if wrong != nil {
			return "", errors.New(strings.Join(wrong, ", "))
		}
		return fmt.Sprintf("%s is at %s, override %t", target, m.LinkAddr, n.Proxy.Override), nil
	})
}

// awaitAnswer asks until there is an answer.
func (s *show) awaitAnswer(ctx context.Context, target netip.Addr) ([]byte, error) {
	for {
		if err := s.ask(target, s.Gateway.MAC); err != nil {
			return nil, err
		}
		once, cancel := context.WithTimeout(ctx, time.Second)
		f, err := s.uplink.AwaitFrame(once, func(f Frame) bool { return !f.Outgoing && isAnswer(f.Data, target) })
		cancel()
		if err == nil || ctx.Err() != nil {
			return f.Data, err
		}
	}
}

// ask sends an ARP request or a neighbour solicitation on the uplink from the upstream router's
// side, where mac is the router's or another station's.
func (s *show) ask(target netip.Addr, mac policy.MAC) error {
	own := mac == s.Gateway.MAC
	if target.Is4() {
		source := s.plan.gw4.Addr()
		if !own {
			var err error
			if source, err = freeAddr(s.Config, s.plan.gw4, 40, source, s.Dom0.Addr4()); err != nil {
				return notShown("there is no room on the uplink for another station")
			}
		}
		return s.wire.Send(WhoHas(mac, source, target).Frame())
	}
	source := linkLocal(mac)
	if own && s.plan.gw6.Addr().IsLinkLocalUnicast() {
		source = s.plan.gw6.Addr()
	}
	return s.wire.Send(Solicit(mac, source, target).Frame())
}

// count counts, over the whole run, the questions for an address that left the upstream router's
// side and the answers that came. Announcements are no answers.
func (s *show) count(target netip.Addr) (questions, answers int) {
	for _, f := range s.uplink.Frames() {
		switch {
		case f.Outgoing && isQuestion(f.Data, target):
			questions++
		case !f.Outgoing && isAnswer(f.Data, target):
			answers++
		}
	}
	return questions, answers
}

func isQuestion(f []byte, target netip.Addr) bool {
	if a, ok := ParseARP(f); ok {
		return a.Op == ARPRequest && a.TPA == target
	}
	m, ok := ParseND(f)
	return ok && !m.Advertise && m.Target == target
}

func isAnswer(f []byte, target netip.Addr) bool {
	if a, ok := ParseARP(f); ok {
		return a.Op == ARPReply && a.SPA == target && !a.Dst.IsGroup()
	}
	m, ok := ParseND(f)
	return ok && m.Advertise && m.Target == target && !m.DstMAC.IsGroup()
}

// fence returns when what was sent before, from either side, must have gone through the router or
// died in it: something has gone both ways and come back after it. It asks more than once, because a
// router may do its work on several threads.
func (s *show) fence(ctx context.Context) error {
	for _, g := range s.shown() {
		for range 2 {
			_, err := families(g.Node, s.Internet, func(from, to netip.Addr) (string, error) {
				out := s.through(ctx, g.Node, s.Internet, guestParty(g, from), s.internet(to))
				in := s.through(ctx, s.Internet, g.Node, s.internet(to), guestParty(g, from))
				return "", errors.Join(out, in)
			})
			var skip notShown
			if err != nil && !errors.As(err, &skip) {
				return fmt.Errorf("knowing the end: %w", err)
			}
		}
	}
	return nil
}

// through is a packet there and back, by whatever the rules accept; if that is nothing, so be it:
// the end of the run counts everything again.
func (s *show) through(ctx context.Context, n, server *Node, from, to party) error {
	if s.isDead(from, to) {
		return nil // another check has failed for that
	}
	_, err := s.ping(ctx, n, from, to, 0)
	var skip notShown
	if errors.As(err, &skip) {
		_, err = s.tcp(ctx, n, server, from, to)
	}
	if errors.As(err, &skip) {
		return nil
	}
	if err != nil {
		s.setDead(from, to)
	}
	return err
}

// whole shows what holds over the whole run, before the router is stopped.
func (s *show) whole() {
	s.group("Over the whole run")
	s.check("one MAC on the uplink", func(context.Context) (string, error) {
		if foreign := s.macs.Foreign(); len(foreign) > 0 {
			var list []string
			for mac, n := range foreign {
				list = append(list, fmt.Sprintf("%s %d times", mac, n))
			}
			slices.Sort(list)
			return "", errors.New("seen beside dom0's: " + strings.Join(list, ", "))
		}
		return s.Dom0.MAC.String(), nil
	})
	s.check("each question answered once, if at all", func(ctx context.Context) (string, error) {
		total := 0
		var errs []error
		for _, p := range s.probed {
			var q, a int
			err := Await(ctx, fmt.Sprintf("answers for %s", p.target), func() (bool, error) {
				q, a = s.count(p.target)
				switch {
				case p.net == nil && a > 0:
					return false, fmt.Errorf("it is nobody's here and was answered for %d times", a)
				case a > q:
					return false, fmt.Errorf("%d answers to %d questions", a, q)
				case p.net != nil && p.net.Proxy.Answer == config.AnswerLearned:
					return a > 0, nil // the first questions only made the router look
				}
				return p.net == nil || a == q, nil
			})
			if err != nil {
				errs = append(errs, fmt.Errorf("%w (%d questions, %d answers)", err, q, a))
			}
			total += a
		}
		if len(s.probed) == 0 {
			return "", notShown("nothing was asked for")
		}
		return fmt.Sprintf("%d answers for %d addresses", total, len(s.probed)), errors.Join(errs...)
	})
	s.check("nothing forged came later", func(context.Context) (string, error) {
		var errs []error
		for _, sp := range s.forged {
			if up, there := s.came(sp); up+there > sp.came {
				errs = append(errs, fmt.Errorf("%s: %d frames after all", sp.name, up+there-sp.came))
			}
		}
		return fmt.Sprintf("of %d kinds", len(s.forged)), errors.Join(errs...)
	})
	if s.o.Router != nil {
		s.check("the router counts no foreign MAC", func(ctx context.Context) (string, error) {
			st, err := s.o.Router.Status(ctx)
			if err != nil {
				return "", err
			}
			if st.ForeignMAC != 0 {
				return "", fmt.Errorf("foreign_mac_uplink is %d", st.ForeignMAC)
			}
			m, err := s.o.Router.RSS()
			return fmt.Sprintf("0; it occupies %d MiB", m.RSS>>20), err
		})
	}
	if n := s.uplink.Lost(); n > 0 {
		s.line("everything was seen", "", fmt.Errorf("%d frames were lost to the lab itself", n))
	}
}

// after stops the router and shows that dom0 does not miss it.
func (s *show) after() {
	if s.o.Router == nil || s.o.Keep {
		return
	}
	s.group("After the router")
	s.check("it ends when asked to", func(context.Context) (string, error) {
		return "exit status 0", s.o.Router.Stop()
	})
	s.check("dom0's open connections live", func(ctx context.Context) (string, error) {
		var errs []error
		for _, c := range s.open {
			errs = append(errs, c.Check(ctx))
		}
		return fmt.Sprintf("%d since the beginning", len(s.open)), errors.Join(errs...)
	})
	s.check("TCP: dom0 to the internet", func(ctx context.Context) (string, error) {
		return families(s.Dom0, s.Internet, func(from, to netip.Addr) (string, error) {
			return s.tcp(ctx, s.Dom0, s.Internet, s.dom0(from), s.internet(to))
		})
	})
	s.check("dom0 is as it was before", func(ctx context.Context) (string, error) {
		var diff []string
		err := Await(ctx, "dom0 as it was", func() (bool, error) {
			now, err := s.Dom0State()
			diff = DiffState(s.o.Router.before, now)
			return len(diff) == 0, err
		})
		if err != nil {
			return "", fmt.Errorf("%w: %s", err, strings.Join(diff[:min(len(diff), 6)], "; "))
		}
		return "links, ports, addresses, routes, settings, nftables", nil
	})
}

// linkLocal is the address that the kernel makes from a MAC.
func linkLocal(m policy.MAC) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
}
