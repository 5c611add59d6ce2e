package integration

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"testing"

	"udrouter/integration/cases"
	"udrouter/integration/lab"
	"udrouter/integration/wire"
	"udrouter/policy"
)

// The reference's guest one floods, or the internet floods it, as fast as frames can be sent. The neighbour's connections, both ways, live through each
// flood, every connection that it opens or is opened to it succeeds, and the router's memory is bounded (attack 72; RFC 4987).
func TestStateFloods(t *testing.T) {
	const most = 16384 // flows of a guest, in the reference
	l := buildLab(t, "", lab.Options{})
	p := startRouter(t, l)
	one, two, x := l.Guests[0], l.Guests[1], l.Internet
	var conns []*lab.Conn
	for _, a := range []netip.Addr{x.Addr4(), x.Addr6()} {
		conns = append(conns, openTCP(t, two.Node, x, a, 8443))
	}
	for _, a := range []netip.Addr{two.Addr4(), two.Addr6()} {
		conns = append(conns, openTCP(t, x, two.Node, a, 443))
	}
	ping(t, one.Node, x.Addr4()) // so that the gateway is known
	router, err := one.GatewayMAC()
	must(t, err)
	guest, err := one.Sender(one.Link)
	must(t, err)
	provider, err := l.Gateway.Sender(l.Gateway.Link)
	must(t, err)
	const flags = 2 // SYN
	at := netip.AddrPortFrom
	random := func(f []byte, fields ...int) []byte {
		for _, i := range fields {
			binary.BigEndian.PutUint16(f[i:], uint16(rand.Uint32()))
		}
		return f
	}
	const l4, l6 = policy.EthernetLen + policy.IPv4Len, policy.EthernetLen + policy.IPv6Len
	before, err := p.RSS()
	must(t, err)
	for _, f := range []struct {
		name string
		from *lab.FrameSender
		make func() []byte
		want policy.Reason // what stops some of it
	}{
		{"SYN to random ports", guest, func() []byte {
			return random(cases.TCP(router, cases.MAC1, at(one.Addr4(), 1), at(x.Addr4(), 1), flags, rand.Uint32(), 0, 0), l4, l4+2)
		}, policy.LimitNewFlows},
		{"SYN to random ports, IPv6", guest, func() []byte {
			return random(cases.TCP(router, cases.MAC1, at(one.Addr6(), 1), at(x.Addr6(), 1), flags, rand.Uint32(), 0, 0), l6, l6+2)
		}, policy.LimitNewFlows},
		{"SYN from random sources", guest, func() []byte {
			src := netip.AddrFrom4([4]byte{203, 0, 113, byte(rand.Uint32())})
			return random(cases.TCP(router, cases.MAC1, at(src, 1), at(x.Addr4(), 443), flags, rand.Uint32(), 0, 0), l4)
		}, policy.IPBinding},
		{"UDP to random ports", guest, func() []byte { return random(cases.UDP(router, cases.MAC1, one.Addr4(), x.Addr4(), 8), l4, l4+2) }, policy.LimitNewFlows},
		{"every echo identifier", guest, func() []byte { return random(cases.Echo(router, cases.MAC1, one.Addr4(), x.Addr4(), false, 8), l4+4) }, policy.LimitNewFlows},
		{"SYN to the neighbour", guest, func() []byte {
			return random(cases.TCP(router, cases.MAC1, at(one.Addr4(), 1), at(two.Addr4(), 443), flags, rand.Uint32(), 0, 0), l4)
		}, policy.LimitNewFlows},
		{"SYN from the internet, spoofed", provider, func() []byte {
			src := netip.AddrFrom4([4]byte{203, 0, 113, byte(rand.Uint32())})
			return random(cases.TCP(l.Dom0.MAC, l.Gateway.MAC, at(src, 1), at(one.Addr4(), 443), flags, rand.Uint32(), 0, 0), l4)
		}, policy.LimitNewFlows},
	} {
		t.Run(f.name, func(t *testing.T) {
			dropped := status(t, p).Drops[f.want.String()]
			stop, sent := flooding(t, f.from, f.make)
			defer stop()
			for round := 0; round < 5 || sent.Load() < 20000; round++ {
				for _, c := range conns {
					must(t, c.Check(testContext(t)))
				}
				for _, a := range []netip.Addr{x.Addr4(), x.Addr6()} {
					must(t, two.Transfer(testContext(t), at(a, 8443), 1000))
				}
				for _, a := range []netip.Addr{two.Addr4(), two.Addr6()} {
					must(t, x.Transfer(testContext(t), at(a, 443), 1000))
				}
			}
			stop()
			s := status(t, p)
			if s.Drops[f.want.String()] == dropped {
				t.Errorf("nothing of %d frames was dropped as %s: this shows nothing; %v", sent.Load(), f.want, s.Drops)
			}
			if n := s.Domus[0].Flows; n > most {
				t.Errorf("the guest has %d flows", n)
			}
			// It is over, and the guest is served like any other.
			reaches(t, one.Node, x.Addr4())
			reaches(t, x, one.Addr4())
		})
	}
	after, err := p.RSS()
	must(t, err)
	if grown := int64(after.RSS) - int64(before.RSS); !wire.RaceEnabled && grown > 2*most*256+16<<20 {
		t.Errorf("memory grew by %d KiB", grown>>10)
	}
	if s := status(t, p); s.ForeignMAC != 0 || s.Drops[policy.Internal.String()] != 0 {
		t.Errorf("foreign MACs %d, drops %v", s.ForeignMAC, s.Drops)
	}
}

// flooding sends frames until it is stopped, and tells how many.
func flooding(t *testing.T, to *lab.FrameSender, next func() []byte) (stop func(), sent *atomic.Int64) {
	sent = new(atomic.Int64)
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-end:
				return
			default:
			}
			if to.Send(next()) == nil { // a queue may be full
				sent.Add(1)
			}
		}
	}()
	var stopped bool
	return func() {
		if !stopped {
			stopped = true
			close(end)
			<-ended
			t.Logf("%d frames", sent.Load())
		}
	}, sent
}
