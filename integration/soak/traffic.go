package main

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"time"

	"udrouter/integration/lab"
	"udrouter/policy"
)

// talkers is how many use connections, and as many do something else, at a time.
const talkers = 4

// converse uses the connections of every so many guests, in turn. Each goes on whatever happens, or the guest has lost it.
func (s *soak) converse(ctx context.Context, first int) {
	lost := map[int]bool{}
	for ctx.Err() == nil {
		for i := first; i < len(s.conns) && ctx.Err() == nil; i += talkers {
			if !lost[i] {
				lost[i] = !s.holds(context.WithoutCancel(ctx), i)
			}
		}
	}
}

// holds tells whether a guest's connection goes on.
func (s *soak) holds(ctx context.Context, i int) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := s.conns[i].Check(ctx)
	if err != nil {
		s.complain("guest %s has lost its connection: %v", s.Guests[i].Name(), err)
	}
	s.counted("words over open connections", err)
	return err == nil
}

// mix has guests, the internet and dom0 do what they do, each time somebody else something else.
func (s *soak) mix(ctx context.Context, rng *rand.Rand) {
	for ctx.Err() == nil {
		g := s.Guests[rng.IntN(len(s.Guests))].Node
		v6 := rng.IntN(2) == 0
		from, to, where := g, s.Internet, "guest to internet"
		switch rng.IntN(5) {
		case 0:
			from, to, where = s.Internet, g, "internet to guest"
		case 1:
			to, where = s.Guests[rng.IntN(len(s.Guests))].Node, "guest to guest"
		case 2:
			to, where = s.Dom0, "guest to dom0"
		}
		if from == to {
			continue
		}
		began := time.Now()
		what, err := s.once(ctx, from, pick(v6, to), rng)
		if ctx.Err() == nil {
			s.tried(what+", "+where, began, err)
		}
	}
}

// once does one thing.
func (s *soak) once(ctx context.Context, from *lab.Node, to netip.Addr, rng *rand.Rand) (what string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	switch rng.IntN(4) {
	case 0:
		_, err = from.EchoUDP(ctx, netip.AddrPortFrom(to, udpPort), 8+rng.IntN(3000), 0) // fragments among them
		return "datagram and answer", err
	case 1:
		return "TCP connection", from.Transfer(ctx, netip.AddrPortFrom(to, tcpPort), 1<<rng.IntN(21))
	}
	_, err = from.Ping(ctx, to, lab.PingOptions{Size: rng.IntN(3000)})
	return "ping", err
}

// forge has guests send what they may not.
func (s *soak) forge(ctx context.Context, rng *rand.Rand) error {
	router, err := s.routerMAC(ctx)
	if err != nil {
		return err
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		g, victim := s.Guests[rng.IntN(len(s.Guests))], s.Guests[rng.IntN(len(s.Guests))]
		if g == victim {
			continue
		}
		w, err := g.Sender(g.Link)
		if err != nil {
			return err
		}
		for range 20 {
			f := forgeries[rng.IntN(len(forgeries))]
			var random [4]byte
			binary.BigEndian.PutUint32(random[:], rng.Uint32())
			err = w.Send(f.make(g, victim, router, random))
			s.counted("forged frames", err)
			s.counted("forged: "+f.what, err)
		}
		if err := w.Close(); err != nil {
			return err
		}
	}
}

// forgery is a frame that nobody but the router may ever see.
type forgery struct {
	what string
	make func(g, victim *lab.Guest, router policy.MAC, random [4]byte) []byte
}

var forgeries = []forgery{
	{"the victim's IPv4 address", func(g, victim *lab.Guest, router policy.MAC, random [4]byte) []byte {
		return datagram(g.MAC, router, victim.Addr4(), random)
	}},
	{"the victim's IPv6 address", func(g, victim *lab.Guest, router policy.MAC, random [4]byte) []byte {
		return datagram(g.MAC, router, victim.Addr6(), random)
	}},
	{"anybody's address", func(g, _ *lab.Guest, router policy.MAC, random [4]byte) []byte {
		return datagram(g.MAC, router, netip.AddrFrom4(random), random)
	}},
	{"anybody's MAC", func(g, _ *lab.Guest, router policy.MAC, random [4]byte) []byte {
		return datagram(policy.MAC{2, 0, random[0], random[1], random[2], random[3]}, router, g.Addr4(), random)
	}},
	{"the victim's MAC, past the router", func(g, victim *lab.Guest, _ policy.MAC, random [4]byte) []byte {
		return datagram(victim.MAC, victim.MAC, g.Addr4(), random)
	}},
	{"ARP: the victim is here", func(g, victim *lab.Guest, _ policy.MAC, _ [4]byte) []byte {
		return lab.WhoHas(g.MAC, victim.Addr4(), g.Net4.Gateway).Frame()
	}},
	{"NS: the victim is here", func(g, victim *lab.Guest, _ policy.MAC, _ [4]byte) []byte {
		return lab.Solicit(g.MAC, victim.Addr6(), g.Net6.Gateway).Frame()
	}},
}

// datagram is one to nowhere.
func datagram(from, to policy.MAC, source netip.Addr, payload [4]byte) []byte {
	u := lab.UDP{SrcMAC: from, DstMAC: to, Src: netip.AddrPortFrom(source, 4000), Dst: netip.AddrPortFrom(nowhere4, 9), Payload: payload[:]}
	if source.Is6() {
		u.Dst = netip.AddrPortFrom(nowhere6, 9)
	}
	return u.Frame()
}

// served sees in the end that everybody is.
func (s *soak) served(ctx context.Context) {
	for i := range s.conns {
		s.holds(ctx, i)
	}
	for _, g := range s.Guests {
		for _, v6 := range []bool{false, true} {
			for from, to := range map[*lab.Node]*lab.Node{g.Node: s.Internet, s.Internet: g.Node, s.Dom0: g.Node} {
				limited, cancel := context.WithTimeout(ctx, patience)
				if _, err := from.Ping(limited, pick(v6, to), lab.PingOptions{Every: 200 * time.Millisecond}); err != nil {
					s.complain("in the end %s does not reach %s: %v", from.Name(), pick(v6, to), err)
				}
				cancel()
			}
		}
	}
}
