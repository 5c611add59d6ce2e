package main

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"time"

	"golang.org/x/net/bpf"

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
			err = w.Send(forgery(rng, g, victim, router))
			s.counted("forged frames", err)
		}
		if err := w.Close(); err != nil {
			return err
		}
	}
}

// leaks takes the frames on the provider's side that are forgeries by where they go to: nobody sends anything else there.
var leaks = []bpf.Instruction{
	bpf.LoadAbsolute{Off: 12, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: policy.EtherIPv4, SkipFalse: 2},
	bpf.LoadAbsolute{Off: policy.EthernetLen + 16, Size: 4},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: 203<<24 | 113<<8 | 9, SkipTrue: 3, SkipFalse: 4},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: policy.EtherIPv6, SkipFalse: 3},
	bpf.LoadAbsolute{Off: policy.EthernetLen + 36, Size: 4}, // 2001:db8:ffff::9
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: 9, SkipFalse: 1},
	bpf.RetConstant{Val: 1 << 16},
	bpf.RetConstant{Val: 0},
}

// forgery is a frame of a guest's that nobody may ever see.
func forgery(rng *rand.Rand, g, victim *lab.Guest, router policy.MAC) []byte {
	var random [4]byte
	binary.BigEndian.PutUint32(random[:], rng.Uint32())
	u := lab.UDP{SrcMAC: g.MAC, DstMAC: router, Src: netip.AddrPortFrom(g.Addr4(), 4000), Dst: netip.MustParseAddrPort("203.0.113.9:9"), Payload: random[:]}
	switch rng.IntN(7) {
	case 0: // the victim's address
		u.Src = netip.AddrPortFrom(victim.Addr4(), 4000)
	case 1: // the victim's IPv6 address
		u.Src, u.Dst = netip.AddrPortFrom(victim.Addr6(), 4000), netip.MustParseAddrPort("[2001:db8:ffff::9]:9")
	case 2: // anybody's address
		u.Src = netip.AddrPortFrom(netip.AddrFrom4(random), 4000)
	case 3: // anybody's MAC
		u.SrcMAC = policy.MAC{2, 0, random[0], random[1], random[2], random[3]}
	case 4: // the victim's MAC, past the router
		u.SrcMAC, u.DstMAC = victim.MAC, victim.MAC
	case 5: // the victim is here
		a := lab.WhoHas(g.MAC, victim.Addr4(), g.Net4.Gateway)
		return a.Frame()
	case 6:
		return lab.Solicit(g.MAC, victim.Addr6(), g.Net6.Gateway).Frame()
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
