package router

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/policy"
	"udrouter/stack"
)

// TCP flags.
const (
	fin = 1
	syn = 2
	rst = 4
	ack = 16
)

// floodWorld is one family's addresses in a flood.
type floodWorld struct {
	*sim
	v6          bool
	one, two, x netip.Addr
	rand        *rand.Rand
	frame       map[string][]byte // templates
	sent        int
}

func newFloodWorld(t *testing.T, src string, v6 bool) *floodWorld {
	s := newSim(t, parseConfig(t, src), seedKernel())
	s.learn()
	s.newWorker(stack.Guests).appearedAll()
	w := &floodWorld{sim: s, v6: v6, one: cases.One4, two: cases.Two4, x: cases.X4, rand: rand.New(rand.NewPCG(1, 2)), frame: map[string][]byte{}}
	if v6 {
		w.one, w.two, w.x = cases.One6, cases.Two6, cases.X6
	}
	return w
}

// like is a copy of a frame that is made once, with other ports, and a sum over its IPv4 header that fits.
func (w *floodWorld) like(name string, make func() []byte, edit func(ip, l4 []byte)) []byte {
	f := w.frame[name]
	if f == nil {
		f = make()
		w.frame[name] = f
	}
	f = bytes.Clone(f)
	ip := f[policy.EthernetLen:]
	if w.v6 {
		edit(ip, ip[policy.IPv6Len:])
		return f
	}
	edit(ip, ip[policy.IPv4Len:])
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], ^policy.FoldChecksum(policy.Sum(ip[:policy.IPv4Len], 0)))
	return f
}

// anywhere writes a random host's address at the end of a field of an IP header.
func (w *floodWorld) anywhere(ip []byte, source bool) {
	at, v6at := 16, 24
	if source {
		at, v6at = 12, 8
	}
	if w.v6 {
		copy(ip[v6at:], []byte{0x20, 1, 0xd, 0xb8, 0xff, 0xff})
		binary.BigEndian.PutUint32(ip[v6at+12:], w.rand.Uint32())
		return
	}
	copy(ip[at:], []byte{198, 18 + byte(w.rand.UintN(2)), byte(w.rand.Uint32()), 1 + byte(w.rand.UintN(250))})
}

func (w *floodWorld) guest(mac policy.MAC) [2]policy.MAC { return [2]policy.MAC{w.RouterMAC, mac} }
func (w *floodWorld) provider() [2]policy.MAC            { return [2]policy.MAC{eth0MAC, gatewayMAC} }

// passes sends a frame and wants exactly one to come out, unchanged but for the hop.
func (w *floodWorld) passes(what string, from, to stack.Side, f []byte, dst, src policy.MAC) {
	w.t.Helper()
	w.links[to].Take()
	w.send(from, f)
	if got := w.links[to].Take(); len(got) != 1 || !bytes.Equal(got[0].Frame, cases.Forwarded(f, dst, src)) {
		w.t.Fatalf("%s: %d frames came out; counted %v", what, len(got), w.counts())
	}
}

// talk sends a segment of a connection from a guest to the internet, or back, and wants it to arrive.
func (w *floodWorld) talk(what string, mac policy.MAC, guest, x netip.AddrPort, back bool, flags uint8, seq, acked uint32, n int) {
	w.t.Helper()
	if m := w.provider(); back {
		w.passes(what, stack.UplinkSide, stack.Guests, cases.TCP(m[0], m[1], x, guest, flags, seq, acked, n), mac, w.RouterMAC)
		return
	}
	m := w.guest(mac)
	w.passes(what, stack.Guests, stack.UplinkSide, cases.TCP(m[0], m[1], guest, x, flags, seq, acked, n), gatewayMAC, eth0MAC)
}

// opens makes a whole connection from a guest to the internet.
func (w *floodWorld) opens(what string, mac policy.MAC, a netip.Addr, port uint16) {
	w.t.Helper()
	guest, x := netip.AddrPortFrom(a, port), netip.AddrPortFrom(w.x, 443)
	w.talk(what, mac, guest, x, false, syn, 999, 0, 0)
	w.talk(what, mac, guest, x, true, syn|ack, 1999, 1000, 0)
	w.talk(what, mac, guest, x, false, ack, 1000, 2000, 0)
	w.lives(what, mac, a, port)
}

// lives sends the same data both ways on a connection that opens has made.
func (w *floodWorld) lives(what string, mac policy.MAC, a netip.Addr, port uint16) {
	w.t.Helper()
	guest, x := netip.AddrPortFrom(a, port), netip.AddrPortFrom(w.x, 443)
	w.talk(what, mac, guest, x, false, ack, 1000, 2000, 100)
	w.talk(what, mac, guest, x, true, ack, 2000, 1100, 100)
}

// stateFlood is a flood: its packets, and what becomes of others meanwhile.
type stateFlood struct {
	name   string
	packet func(w *floodWorld) (from stack.Side, frames [][]byte)
	hoards bool // also of guest one's own established connections
	at     bool // it is aimed at guest two
	flows  bool // it makes flows
}

func tcpFlood(name string, from stack.Side, edit func(w *floodWorld, ip, l4 []byte), a, b func(w *floodWorld) netip.AddrPort) func(w *floodWorld) (stack.Side, [][]byte) {
	return func(w *floodWorld) (stack.Side, [][]byte) {
		m := w.guest(cases.MAC1)
		if from == stack.UplinkSide {
			m = w.provider()
		}
		return from, [][]byte{w.like(name, func() []byte { return cases.TCP(m[0], m[1], a(w), b(w), syn, 1, 0, 0) }, func(ip, l4 []byte) {
			binary.BigEndian.PutUint16(l4, uint16(1024+w.rand.UintN(60000)))
			binary.BigEndian.PutUint32(l4[4:], w.rand.Uint32())
			edit(w, ip, l4)
		})}
	}
}

var (
	atOne = func(w *floodWorld) netip.AddrPort { return netip.AddrPortFrom(w.one, 443) }
	atTwo = func(w *floodWorld) netip.AddrPort { return netip.AddrPortFrom(w.two, 443) }
	atX   = func(w *floodWorld) netip.AddrPort { return netip.AddrPortFrom(w.x, 8443) }
)

var stateFloods = []stateFlood{
	{name: "SYN to random hosts and ports", flows: true, packet: tcpFlood("syn", stack.Guests, func(w *floodWorld, ip, l4 []byte) {
		w.anywhere(ip, false)
		binary.BigEndian.PutUint16(l4[2:], uint16(1024+w.rand.UintN(60000)))
	}, atOne, atX)},
	{name: "SYN from random sources", packet: tcpFlood("spoofed", stack.Guests, func(w *floodWorld, ip, l4 []byte) { w.anywhere(ip, true) }, atOne, atX)},
	{name: "SYN from the internet, spoofed, to an open port", flows: true, packet: tcpFlood("in", stack.UplinkSide, func(w *floodWorld, ip, l4 []byte) { w.anywhere(ip, true) }, atX, atOne)},
	{name: "SYN from the internet, spoofed, to random ports", packet: tcpFlood("closed", stack.UplinkSide, func(w *floodWorld, ip, l4 []byte) {
		w.anywhere(ip, true)
		binary.BigEndian.PutUint16(l4[2:], uint16(1024+w.rand.UintN(60000)))
	}, atX, atOne)},
	{name: "SYN from the internet, spoofed, to the neighbour", at: true, flows: true, packet: tcpFlood("at two", stack.UplinkSide, func(w *floodWorld, ip, l4 []byte) { w.anywhere(ip, true) }, atX, atTwo)},
	{name: "SYN to the neighbour", at: true, flows: true, packet: tcpFlood("one to two", stack.Guests, func(w *floodWorld, ip, l4 []byte) {}, atOne, atTwo)},
	{name: "UDP to random hosts and ports", flows: true, packet: func(w *floodWorld) (stack.Side, [][]byte) {
		return stack.Guests, [][]byte{w.like("udp", func() []byte { return cases.UDP(w.RouterMAC, cases.MAC1, w.one, w.x, 8) }, func(ip, l4 []byte) {
			w.anywhere(ip, false)
			binary.BigEndian.PutUint32(l4, w.rand.Uint32())
		})}
	}},
	{name: "every echo identifier", flows: true, packet: func(w *floodWorld) (stack.Side, [][]byte) {
		return stack.Guests, [][]byte{w.like("echo", func() []byte { return cases.Echo(w.RouterMAC, cases.MAC1, w.one, w.x, false, 8) }, func(ip, l4 []byte) {
			binary.BigEndian.PutUint16(l4[4:], uint16(w.sent))
		})}
	}},
	{name: "pings from the internet, spoofed, which the guest answers", flows: true, packet: func(w *floodWorld) (stack.Side, [][]byte) {
		m, p := w.guest(cases.MAC1), w.provider()
		ask := w.like("ping", func() []byte { return cases.Echo(p[0], p[1], w.x, w.one, false, 8) }, func(ip, _ []byte) { w.anywhere(ip, true) })
		answer := w.like("pong", func() []byte { return cases.Echo(m[0], m[1], w.one, w.x, true, 8) }, func(ip, _ []byte) {
			if w.v6 {
				copy(ip[24:40], ask[policy.EthernetLen+8:])
			} else {
				copy(ip[16:20], ask[policy.EthernetLen+12:])
			}
		})
		w.send(stack.UplinkSide, ask)
		return stack.Guests, [][]byte{answer}
	}},
	{name: "first fragments of 64 KiB", flows: true, packet: func(w *floodWorld) (stack.Side, [][]byte) {
		return stack.Guests, [][]byte{w.like("fragments", func() []byte {
			return cases.UDP(w.RouterMAC, cases.MAC1, w.one, w.x, 1472, func(l gopacket.SerializableLayer) {
				if h, ok := l.(*layers.IPv4); ok {
					h.Flags = layers.IPv4MoreFragments
				}
			})
		}, func(ip, l4 []byte) {
			if !w.v6 {
				binary.BigEndian.PutUint16(ip[4:], uint16(w.sent))
				binary.BigEndian.PutUint16(l4[4:], 65000)
			}
			binary.BigEndian.PutUint32(l4, w.rand.Uint32())
		})}
	}},
	{name: "half-open connections that an accomplice answers", flows: true, packet: func(w *floodWorld) (stack.Side, [][]byte) { return hoard(w, false) }},
	{name: "connections that an accomplice completes", flows: true, hoards: true, packet: func(w *floodWorld) (stack.Side, [][]byte) { return hoard(w, true) }},
}

// hoard opens a connection to an accomplice on the internet as far as it can be had for three packets.
func hoard(w *floodWorld, complete bool) (stack.Side, [][]byte) {
	one, x := netip.AddrPortFrom(w.one, uint16(1024+w.sent%60000)), netip.AddrPortFrom(w.x, uint16(5000+w.sent/60000))
	ports := func(a, b netip.AddrPort) func(ip, l4 []byte) {
		return func(ip, l4 []byte) {
			binary.BigEndian.PutUint16(l4, a.Port())
			binary.BigEndian.PutUint16(l4[2:], b.Port())
		}
	}
	m, p := w.guest(cases.MAC1), w.provider()
	s := w.like("h1", func() []byte { return cases.TCP(m[0], m[1], one, x, syn, 999, 0, 0) }, ports(one, x))
	sa := w.like("h2", func() []byte { return cases.TCP(p[0], p[1], x, one, syn|ack, 1999, 1000, 0) }, ports(x, one))
	a := w.like("h3", func() []byte { return cases.TCP(m[0], m[1], one, x, ack, 1000, 2000, 0) }, ports(one, x))
	w.send(stack.Guests, s)
	w.send(stack.UplinkSide, sa)
	if complete {
		return stack.Guests, [][]byte{a}
	}
	return stack.Guests, [][]byte{s} // asks again
}

// Whatever one guest or the internet floods with, at a hundred thousand packets a second, with the reference's limits and with none but that of flows
// at a time: the neighbour's connections live, each new one that it opens succeeds, one's own established ones are given up last, and memory is
// bounded (attack 72; RFC 4987).
func TestStateFloods(t *testing.T) {
	const most, steps, step = 16384, 25, 1000
	for _, limits := range []string{"limits", "flows only"} {
		src := string(config.Reference)
		if limits != "limits" {
			src = strings.Replace(src, "    new_flows = 2000\n", "", 1)
		}
		for _, f := range stateFloods {
			for _, v6 := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/%v", limits, f.name, map[bool]string{false: "IPv4", true: "IPv6"}[v6]), func(t *testing.T) { runFlood(t, newFloodWorld(t, src, v6), f, most, steps, step) })
			}
		}
	}
}

func runFlood(t *testing.T, w *floodWorld, f stateFlood, most, steps, step int) {
	const connections = 20
	one, two := w.current.Load().Guests[0], w.current.Load().Guests[1]
	for i := range connections {
		w.opens("before", cases.MAC1, w.one, uint16(200+i))
		w.opens("before", cases.MAC2, w.two, uint16(200+i))
	}
	before := heapInUse()
	for n := range steps {
		w.clock.Advance(10 * time.Millisecond)
		for range step {
			from, frames := f.packet(w)
			w.sent++
			w.send(from, frames...)
		}
		w.opens("a new connection of the neighbour", cases.MAC2, w.two, uint16(300+n))
		for _, l := range w.links {
			l.Take()
		}
	}
	for i := range connections {
		w.lives("a connection of the neighbour", cases.MAC2, w.two, uint16(200+i))
		if !f.hoards {
			w.lives("the guest's own established connection", cases.MAC1, w.one, uint16(200+i))
		}
	}
	if grown := heapInUse() - before; grown > int64(2*most*256+4<<20) {
		t.Errorf("memory grew by %d KiB", grown>>10)
	}
	flows := w.current.Load().engine.Flows(one).Len()
	if flows > most || w.current.Load().engine.Flows(two).Len() > most {
		t.Errorf("%d and %d flows, want %d at most", flows, w.current.Load().engine.Flows(two).Len(), most)
	}
	if !f.at && w.current.Load().engine.Flows(two).Len() != connections+steps {
		t.Errorf("the neighbour has %d flows", w.current.Load().engine.Flows(two).Len())
	}
	if n := two.Counters.DropTotal(); !f.at && n != 0 {
		t.Errorf("%d packets of the neighbour were dropped", n)
	}
	if made := flows + w.current.Load().engine.Flows(two).Len() - 2*connections - steps; f.flows == (made == 0) {
		t.Errorf("the flood made %d flows", made)
	}
	// It is over, and the guest itself is served like any other.
	w.clock.Advance(time.Second)
	w.opens("a new connection of the guest that was flooded or has flooded", cases.MAC1, w.one, 500)
}

func heapInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
