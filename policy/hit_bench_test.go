package policy

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// BenchmarkHit is what a packet of a remembered flow costs, and what it costs when two threads do nothing but that: with flows of different guests,
// with different flows of one, and with the two directions of one flow, which the links do not spread like this. A table has one lock; that it is
// not worth more locks shows in the difference between the first two, beside the microseconds that a packet's system calls take.
func BenchmarkHit(b *testing.B) {
	for _, c := range []struct {
		name           string
		guests, flows  int // of each thread
		threads, split int
	}{
		{"one", 1, 1000, 1, 0},
		{"two/guests", 2, 1000, 2, 0},
		{"two/flows", 1, 1000, 2, 0},
		{"two/directions", 1, 1, 2, 1},
	} {
		b.Run(c.name, func(b *testing.B) {
			var list []GuestPolicy
			policy := &Policy{Name: "bench", Egress: Chain{Default: Accept}, Ingress: Chain{Default: Accept}}
			for g := range c.guests {
				mac := MAC{0, 0x16, 0x3e, 0, 0, byte(g)}
				list = append(list, GuestPolicy{&Guest{ID: g, Side: SideGuest + Side(g), Name: fmt.Sprint("g", g), MAC: mac, Addrs: []netip.Prefix{netip.PrefixFrom(nth(g+1), 32)}}, policy})
			}
			e, err := NewEngine(list, nil, 1<<20)
			if err != nil {
				b.Fatal(err)
			}
			var packets [2][]*Packet // of each thread
			for thread := range c.threads {
				g := list[thread%c.guests].Guest
				for i := range c.flows {
					port := uint16(1024 + thread*(1-c.split)*c.flows + i)
					out := udpOf(b, g.Addrs[0].Addr(), nth(70000), port, 53)
					back := udpOf(b, nth(70000), g.Addrs[0].Addr(), 53, port)
					for range 2 {
						remember(b, e, out, End{ZoneGuest, g}, End{Zone: ZoneUplink})
						remember(b, e, back, End{Zone: ZoneUplink}, End{ZoneGuest, g})
					}
					p := out
					if thread*c.split == 1 {
						p = back
					}
					packets[thread] = append(packets[thread], p)
				}
			}
			b.ReportAllocs()
			b.ResetTimer()
			var wg sync.WaitGroup
			for thread := range c.threads {
				wg.Go(func() {
					g := list[thread%c.guests].Guest
					from := g.Side
					if thread*c.split == 1 {
						from = SideUplink
					}
					for i := range b.N {
						if _, ok := e.Hit(packets[thread][i%c.flows], g, from, 1, time.Second, func(NextHop) bool { return true }); !ok {
							b.Error("missed")
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

func udpOf(b *testing.B, src, dst netip.Addr, sport, dport uint16) *Packet {
	s, d := src.As4(), dst.As4()
	f := v4(ProtoUDP, []byte{byte(sport >> 8), byte(sport), byte(dport >> 8), byte(dport), 0, 8, 0, 0}, func(ip []byte) {
		copy(ip[12:], s[:])
		copy(ip[16:], d[:])
	})
	p := new(Packet)
	if r := p.Parse(f, Offload{}); r != None {
		b.Fatal(r)
	}
	return p
}

func remember(b *testing.B, e *Engine, p *Packet, from, to End) {
	v := e.Decide(p, from, to, time.Second)
	if v.Action != Accept {
		b.Fatal(v.Reason)
	}
	e.Remember(&v, NextHop{1}, 1)
}
