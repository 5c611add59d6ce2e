package lab

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"udrouter/policy"
)

// newMarker is what a run's datagrams carry that must not pass.
func newMarker() []byte {
	return binary.BigEndian.AppendUint64([]byte("udrouter lab "), rand.Uint64())
}

// spoof is something that a guest may not send.
type spoof struct {
	name   string
	frames [][]byte
	match  func(frame []byte) bool // whether it, or what came of it, is in a frame elsewhere
	victim *Guest                  // who must not get it; nil: there is no other guest
	came   int                     // how many frames came through until its check was made
}

// spoofs shows that nothing forged by one guest reaches its neighbour or the uplink, and that the
// neighbour does not notice.
func (s *show) spoofs() {
	s.group("What a guest cannot do")
	if len(s.Guests) == 0 {
		s.line("a guest that forges", "", notShown("the file has no guest"))
		return
	}
	a := s.Guests[0]
	var b *Guest
	if len(s.Guests) > 1 {
		b = s.Guests[1]
	}
	var router policy.MAC
	s.check(a.Name()+" knows the router's MAC", func(ctx context.Context) (string, error) {
		if err := s.speak(ctx, a); err != nil {
			return "", err
		}
		err := Await(ctx, "the gateway's MAC", func() (ok bool, err error) {
			router, err = a.GatewayMAC()
			return !router.IsZero(), err
		})
		return router.String(), err
	})
	if router.IsZero() {
		return
	}
	wire, err := a.Sender(a.Link)
	if err != nil {
		s.line(a.Name()+" sends what it likes", "", err)
		return
	}
	defer wire.Close()

	if b != nil && !s.Config.Bridge.Isolate {
		s.line("what "+a.Name()+" does to "+b.Name(), "", notShown("isolate = false: guests meet in the bridge, where the router sees nothing"))
		b = nil
	}
	stop := s.canary(b)
	for _, sp := range s.forgeries(a, b, router) {
		sp.victim = b
		s.forge(wire, sp)
	}
	stop()
	if b != nil {
		s.check("ping: the internet still to "+b.Name(), func(ctx context.Context) (string, error) {
			return families(s.Internet, b.Node, func(from, to netip.Addr) (string, error) {
				return s.ping(ctx, s.Internet, s.internet(from), guestParty(b, to), 0)
			})
		})
	}
}

// speak has a guest's kernel look for its gateway, for the case that no policy has let it before.
func (s *show) speak(ctx context.Context, g *Guest) error {
	_, err := families(g.Node, s.Internet, func(from, to netip.Addr) (string, error) {
		c, err := g.DialFrom(ctx, "udp", from, netip.AddrPortFrom(to, 9).String())
		if err != nil {
			return "", err
		}
		_, err = c.Write(nil)
		return "", errors.Join(err, c.Close())
	})
	var skip notShown
	if errors.As(err, &skip) {
		return nil
	}
	return err
}

// forge sends one forgery and looks where it came to.
func (s *show) forge(wire *FrameSender, sp spoof) {
	s.check(sp.name, func(ctx context.Context) (string, error) {
		beats := s.beats.Load()
		for range 3 {
			for _, f := range sp.frames {
				if err := wire.Send(f); err != nil {
					return "", err
				}
			}
		}
		errs := []error{s.fence(ctx)}
		if s.singing {
			errs = append(errs, Await(ctx, "the neighbour's pings", func() (bool, error) {
				return s.beats.Load() >= beats+canaryBeats, nil
			}))
		}
		up, there := s.came(sp)
		sp.came = up + there
		s.forged = append(s.forged, sp)
		if up > 0 {
			errs = append(errs, fmt.Errorf("%d frames left on the uplink", up))
		}
		if sp.victim == nil {
			return "not on the uplink", errors.Join(errs...)
		}
		if there > 0 {
			errs = append(errs, fmt.Errorf("%d frames reached %s", there, sp.victim.Name()))
		}
		return "neither on the uplink nor at " + sp.victim.Name(), errors.Join(errs...)
	})
}

// came counts what came of a forgery so far, on the uplink and at its victim.
func (s *show) came(sp spoof) (uplink, victim int) {
	match := func(f Frame) bool { return !f.Outgoing && sp.match(f.Data) }
	if sp.victim != nil {
		victim = s.guests[sp.victim].Count(match)
	}
	return s.uplink.Count(match), victim
}

// forgeries are what a sends: with b's addresses and MAC, with nobody's address, and claims to be
// the gateway or b.
func (s *show) forgeries(a, b *Guest, router policy.MAC) (list []spoof) {
	me := a.Name()
	datagrams := func(name string, src policy.MAC, from ...netip.Addr) {
		sp := spoof{name: name}
		mark := append(slices.Clone(s.marker), byte(len(list)))
		sp.match = func(f []byte) bool { return bytes.Contains(f, mark) }
		for _, from := range from {
			to := s.Internet.Addr6()
			if from.Is4() {
				to = s.Internet.Addr4()
			}
			if !from.IsValid() || !to.IsValid() {
				continue
			}
			port, ok := s.port(guestParty(a, from), s.internet(to), protoUDP, true)
			if !ok {
				port = 9
			}
			sp.frames = append(sp.frames, UDP{
				SrcMAC: src, DstMAC: router, Src: netip.AddrPortFrom(from, 4242), Dst: netip.AddrPortFrom(to, port), Payload: mark,
			}.Frame())
		}
		if sp.frames != nil {
			list = append(list, sp)
		}
	}
	var nobody []netip.Addr
	for i := range s.Config.Networks {
		if u, ok := s.plan.unbound(s.Config, &s.Config.Networks[i]); ok {
			nobody = append(nobody, u)
		}
	}
	datagrams(me+" sends from nobody's addresses", a.MAC, nobody...)
	if b != nil {
		you := b.Name()
		datagrams(me+" sends from "+you+"'s IPv4 address", a.MAC, b.Addr4())
		datagrams(me+" sends from "+you+"'s IPv6 address", a.MAC, b.Addr6())
		datagrams(me+" sends as "+you+", MAC and all", b.MAC, b.Addr4(), b.Addr6())
	}
	if sp, ok := s.arpClaims(a, b, router); ok {
		list = append(list, sp)
	}
	if sp, ok := s.naClaims(a, b, router); ok {
		list = append(list, sp)
	}
	return list
}

// arpClaims say that a is the gateway, and that it is b.
func (s *show) arpClaims(a, b *Guest, router policy.MAC) (spoof, bool) {
	if a.Net4 == nil {
		return spoof{}, false
	}
	gw := a.Net4.Gateway
	claim := func(dst policy.MAC, who, to netip.Addr) []byte {
		return ARP{Src: a.MAC, Dst: dst, Op: ARPReply, SHA: a.MAC, SPA: who, THA: dst, TPA: to}.Frame()
	}
	sp := spoof{
		name:   a.Name() + " claims the gateway by ARP",
		frames: [][]byte{claim(broadcastMAC, gw, gw), WhoHas(a.MAC, gw, gw).Frame()},
	}
	claimed := []netip.Addr{gw}
	if b != nil && b.Addr4().IsValid() {
		sp.name = a.Name() + " claims the gateway and " + b.Name() + " by ARP"
		claimed = append(claimed, b.Addr4())
		sp.frames = append(sp.frames, claim(b.MAC, gw, b.Addr4()), claim(router, b.Addr4(), gw), claim(broadcastMAC, b.Addr4(), b.Addr4()))
	}
	sp.match = func(f []byte) bool {
		p, ok := ParseARP(f)
		if !ok || p.SHA != a.MAC {
			return false
		}
		for _, c := range claimed {
			if p.SPA == c {
				return true
			}
		}
		return false
	}
	return sp, true
}

// naClaims are the same in neighbour discovery.
func (s *show) naClaims(a, b *Guest, router policy.MAC) (spoof, bool) {
	if a.Net6 == nil {
		return spoof{}, false
	}
	gw := a.Net6.Gateway
	claim := func(mac policy.MAC, dst, target netip.Addr) []byte {
		return ND{
			SrcMAC: a.MAC, DstMAC: mac, Src: a.Addr6(), Dst: dst,
			Advertise: true, Flags: NAOverride, Target: target, LinkAddr: a.MAC,
		}.Frame()
	}
	sp := spoof{
		name:   a.Name() + " claims the gateway by NDP",
		frames: [][]byte{claim(AllNodesMAC, AllNodes, gw)},
	}
	claimed := []netip.Addr{gw}
	if b != nil && b.Addr6().IsValid() {
		sp.name = a.Name() + " claims the gateway and " + b.Name() + " by NDP"
		claimed = append(claimed, b.Addr6())
		sp.frames = append(sp.frames, claim(b.MAC, b.Addr6(), gw), claim(router, gw, b.Addr6()), claim(AllNodesMAC, AllNodes, b.Addr6()))
	}
	sp.match = func(f []byte) bool {
		m, ok := ParseND(f)
		if !ok || !m.Advertise || m.LinkAddr != a.MAC {
			return false
		}
		for _, c := range claimed {
			if m.Target == c {
				return true
			}
		}
		return false
	}
	return sp, true
}

// How long the canary waits for one answer before it counts as lost, its pace, and how often it
// has to sing between one forgery and the next.
const (
	canaryTimeout = time.Second
	canaryPace    = 2 * time.Millisecond
	canaryBeats   = 4
)

// canary has a guest ping the internet all the while, in each family that it has; what it returns
// ends that and shows the counts.
func (s *show) canary(b *Guest) (stop func()) {
	if b == nil {
		return func() { s.line("a neighbour's pings meanwhile", "", notShown("no guest is shown beside")) }
	}
	for _, to := range []netip.Addr{s.Internet.Addr4(), s.Internet.Addr6()} {
		proto, from := protoICMPv6, b.Addr6()
		if to.Is4() {
			proto, from = protoICMP, b.Addr4()
		}
		s.singing = s.singing || to.IsValid() && from.IsValid() && s.allows(guestParty(b, from), s.internet(to), proto, 0)
	}
	ctx, cancel := context.WithCancel(s.ctx)
	ended := make(chan struct{})
	var said string
	var err error
	go func() {
		defer close(ended)
		said, err = families(b.Node, s.Internet, func(from, to netip.Addr) (string, error) {
			return s.pingOn(ctx, b, from, to)
		})
	}()
	return func() {
		cancel()
		<-ended
		s.check(b.Name()+"'s pings meanwhile", func(context.Context) (string, error) { return said, err })
	}
}

// pingOn pings until ctx ends, and counts.
func (s *show) pingOn(ctx context.Context, b *Guest, from, to netip.Addr) (string, error) {
	icmp := protoICMPv6
	if to.Is4() {
		icmp = protoICMP
	}
	if !s.allows(guestParty(b, from), s.internet(to), icmp, 0) {
		return "", notShown("the policy accepts no ping")
	}
	var sent, lost int
	var worst time.Duration
	id := uint16(1 + rand.N(1<<15)) // one flow, whatever the policy limits
	pace := canaryPace
	if limit := s.policy(&b.Domu).Limits.Packets; limit > 0 {
		pace = max(pace, 8*time.Second/time.Duration(limit))
	}
	for {
		one, done := context.WithTimeout(ctx, canaryTimeout)
		e, err := b.Ping(one, to, PingOptions{ID: id})
		done()
		switch {
		case ctx.Err() != nil && err != nil: // ended while it waited: neither answered nor lost
			if sent == 0 {
				return "", errors.New("not one was answered")
			}
		default:
			sent++
			s.beats.Add(1)
			if err != nil {
				lost++
			}
			worst = max(worst, e.RTT)
		}
		select {
		case <-ctx.Done():
			if lost > 0 {
				return "", fmt.Errorf("%d of %d were lost", lost, sent)
			}
			return fmt.Sprintf("%d, none lost, at most %s", sent, short(worst)), nil
		case <-time.After(pace):
		}
	}
}

// denied shows that what the policies deny does not pass, where that was asked for.
func (s *show) denied() {
	if !s.o.Enforced || len(s.Guests) == 0 {
		return
	}
	s.group("What the policy stops")
	for _, g := range s.shown() {
		s.check("UDP: the internet to "+g.Name(), func(ctx context.Context) (string, error) {
			return families(s.Internet, g.Node, func(from, to netip.Addr) (string, error) {
				return s.stopped(ctx, s.Internet, s.internet(from), guestParty(g, to), s.guests[g])
			})
		})
		s.check("UDP: "+g.Name()+" to the internet", func(ctx context.Context) (string, error) {
			return families(g.Node, s.Internet, func(from, to netip.Addr) (string, error) {
				return s.stopped(ctx, g.Node, guestParty(g, from), s.internet(to), s.uplink)
			})
		})
		s.check("TCP: "+g.Name()+" to the internet", func(ctx context.Context) (string, error) {
			return families(g.Node, s.Internet, func(from, to netip.Addr) (string, error) {
				return s.refused(ctx, g, from, to)
			})
		})
	}
}

// stopped sends a datagram that the rules deny and looks for it where it would come out.
func (s *show) stopped(ctx context.Context, n *Node, from, to party, where *Sniffer) (string, error) {
	port, ok := s.port(from, to, protoUDP, false)
	if !ok {
		return "", notShown("the policy accepts every port")
	}
	c, err := n.DialFrom(ctx, "udp", from.addr, netip.AddrPortFrom(to.addr, port).String())
	if err != nil {
		return "", err
	}
	defer c.Close()
	mark := binary.BigEndian.AppendUint64(slices.Clone(s.marker), rand.Uint64())
	if _, err := c.Write(mark); err != nil {
		return "", err
	}
	if err := s.fence(ctx); err != nil {
		return "", err
	}
	if where.Count(func(f Frame) bool { return !f.Outgoing && bytes.Contains(f.Data, mark) }) > 0 {
		return "", fmt.Errorf("a datagram to port %d passed", port)
	}
	return fmt.Sprintf("port %d does not pass", port), nil
}

// refused tries to connect where the rules deny it, with somebody listening there.
func (s *show) refused(ctx context.Context, g *Guest, from, to netip.Addr) (string, error) {
	port, ok := s.port(guestParty(g, from), s.internet(to), protoTCP, false)
	if !ok {
		return "", notShown("the policy accepts every port")
	}
	if _, err := s.Internet.ServeTCP(int(port)); err != nil {
		return "", err
	}
	soon, cancel := context.WithTimeout(ctx, time.Second) // a drop is silent
	defer cancel()
	c, err := g.Dial(soon, "tcp", netip.AddrPortFrom(to, port).String())
	if err == nil {
		c.Close()
		return "", fmt.Errorf("a connection to port %d was made", port)
	}
	return fmt.Sprintf("port %d does not pass", port), nil
}
