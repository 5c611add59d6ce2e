package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"udrouter/policy"
)

// Ports of a rule that drops datagrams, see shape; and addresses of the guests' networks that are nobody's.
const refusedPort = firstPort + portsApart

var (
	nobody4   = netip.MustParseAddr("198.18.255.1")
	nobody6   = netip.MustParseAddr("2001:db8:3:2:ffff::1")
	nobodyMAC = policy.MAC{2, 0, 0, 0, 0xff, 1}
)

// refuses fails where a contestant lets pass what the bindings or rules refuse that all but one of them have: then it would do less than its rivals.
func (c *contestant) refuses(ctx context.Context) error {
	for _, f := range []family{ipv4, ipv6} {
		for _, down := range []bool{false, true} {
			if err := c.refusesOn(ctx, way{f, down}); err != nil {
				return fmt.Errorf("trying what must not pass, %s: %w", way{f, down}, err)
			}
		}
	}
	return nil
}

func (c *contestant) refusesOn(ctx context.Context, w way) error {
	const size = 100
	gw, g := c.lab.Gateway, c.lab.Guests[0]
	from, to := g.Node, gw
	if w.down {
		from, to = to, from
	}
	s := &stream{size: size, run: 1}
	defer s.close()
	if err := errors.Join(s.sender(from.NS, from.Link), s.counter(to.NS, to.Link, w.family, false)); err != nil {
		return err
	}
	payload := make([]byte, size-headers(w.family))
	guest, other := own(w.family, g), far(w.family, 0)
	if w.down {
		other = netip.AddrPortFrom(other.Addr(), udpPort) // what is counted comes from this port
		s.add(gw.MAC, c.lab.Dom0.MAC, other, netip.AddrPortFrom(guest.Addr(), refusedPort), payload)
		s.add(gw.MAC, c.lab.Dom0.MAC, other, guest, payload)
	} else {
		mac, err := g.GatewayMAC()
		if err != nil {
			return err
		}
		nobody := nobody4
		if w.family == ipv6 {
			nobody = nobody6
		}
		s.add(g.MAC, mac, guest, netip.AddrPortFrom(other.Addr(), refusedPort), payload)
		s.add(g.MAC, mac, netip.AddrPortFrom(nobody, udpPort), other, payload)
		s.add(nobodyMAC, mac, guest, other, payload)
		s.add(g.MAC, mac, guest, other, payload)
	}
	return s.lastAlone(ctx)
}

// lastAlone sends each frame once, and wants the last to arrive and no other.
func (s *stream) lastAlone(ctx context.Context) error {
	if _, err := s.take(); err != nil {
		return err
	}
	b := newBurst(s.size)
	for at := 0; at < s.flows(); {
		n, err := s.send(b, at, s.flows()-at)
		if err != nil {
			return err
		}
		at += n
	}
	came := 0
	for end := time.Now().Add(10 * time.Second); came == 0 && time.Now().Before(end); {
		if err := wait(ctx, time.Millisecond); err != nil {
			return err
		}
		n, err := s.take()
		if err != nil {
			return err
		}
		came += n
	}
	if err := wait(ctx, settle); err != nil { // others may be on their way by another worker
		return err
	}
	n, err := s.take()
	if came += n; err == nil && came != 1 {
		err = fmt.Errorf("%d of %d datagrams arrive, and one alone should", came, s.flows())
	}
	return err
}
