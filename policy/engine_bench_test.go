package policy

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"
)

// benchRouter is a way with guests and flows, as many for each. A guest's flows are established TCP connections and half-open ones by turns: new
// ones push the latter out, so that the tables stay as full as they are.
type benchRouter struct {
	*way
	guests, flows int
	next          int // number of the flow that comes next
	turn          int // of established flows
	perFlow       float64
	frames        [2]benchFrame // by direction: from the guest, and back
}

const (
	benchPort = 1005             // of a rule of distinctChain
	benchTick = time.Microsecond // between packets: a million a second
)

// benchFrame is a TCP segment whose addresses and ports are filled in.
type benchFrame struct {
	bytes []byte
	sum   uint64 // of the IPv4 header without addresses
}

func newBenchFrame() benchFrame {
	f := v4(ProtoTCP, tcpBytes(tcpACK, 1, 1, 60000, 0), func(ip []byte) { clear(ip[12:20]) })
	ip := f[EthernetLen : EthernetLen+IPv4Len]
	ip[10], ip[11] = 0, 0
	return benchFrame{f, Sum(ip, 0)}
}

// set makes the frame one of the flow i: of guest i modulo their number, to a host and from a port that no other of its flows has.
func (r *benchRouter) set(i int, reply bool, flags byte) ([]byte, Zone) {
	g, k := i%r.guests, i/r.guests
	guest, host, port := uint32(100<<24|64<<16+g+1), uint32(100<<24|65<<16+k&0xffff), uint16(1024+k>>16)
	dir, zone, src, dst, sport, dport := 0, ZoneGuest, guest, host, port, uint16(benchPort)
	if reply {
		dir, zone, src, dst, sport, dport = 1, ZoneUplink, host, guest, dport, port
	}
	f := &r.frames[dir]
	if reply {
		copy(f.bytes, wayUplinkMAC[:])
		copy(f.bytes[6:], wayProviderMAC[:])
	} else {
		f.bytes[10], f.bytes[11] = byte(g>>8), byte(g)
	}
	ip, l4 := f.bytes[EthernetLen:], f.bytes[EthernetLen+IPv4Len:]
	binary.BigEndian.PutUint32(ip[12:], src)
	binary.BigEndian.PutUint32(ip[16:], dst)
	binary.BigEndian.PutUint16(ip[10:], ^FoldChecksum(f.sum+uint64(src>>16+src&0xffff+dst>>16+dst&0xffff)))
	binary.BigEndian.PutUint16(l4, sport)
	binary.BigEndian.PutUint16(l4[2:], dport)
	l4[7], l4[13] = 1, flags
	if flags&tcpSYN != 0 {
		l4[7] = 0
	}
	return f.bytes, zone
}

// send passes a segment of a flow, whose sequence number is 0 for a SYN and 1 for any other.
func (r *benchRouter) send(b *testing.B, i int, reply bool, flags byte) {
	frame, zone := r.set(i, reply, flags)
	r.now += benchTick
	if reason := r.pass(frame, zone); reason != None {
		b.Fatalf("flow %d: %v", i, reason)
	}
}

// newBenchRouter fills tables with about so many flows, and measures what one weighs in the heap, its part of the buckets and of what is kept
// free included.
func newBenchRouter(b *testing.B, guests, flows int) *benchRouter {
	each := flows / guests &^ 1
	r := &benchRouter{guests: guests, flows: each * guests, frames: [2]benchFrame{newBenchFrame(), newBenchFrame()}}
	policy := &Policy{Name: "bench", Egress: Chain{Default: Accept}, Ingress: Chain{Default: Drop}, Limits: Limits{Flows: uint64(each)}}
	var list []GuestPolicy
	for g := range guests {
		mac := MAC{0, 0x16, 0x3e, 0, byte(g >> 8), byte(g)}
		list = append(list, GuestPolicy{&Guest{ID: g, Side: SideGuest + Side(g), Name: fmt.Sprint("g", g), MAC: mac, Addrs: []netip.Prefix{netip.PrefixFrom(nth(g+1), 32)}}, policy})
	}
	r.way = newWay(b, []*Network{{Name: "v4", Prefix: netip.PrefixFrom(nth(0), 16)}}, list, flows)
	before := heapAlloc()
	for i := range r.flows {
		r.open(b)
		if i/guests&1 == 0 {
			r.send(b, i, true, tcpSYN|tcpACK)
			r.send(b, i, false, tcpACK)
		}
	}
	r.perFlow = float64(heapAlloc()-before) / float64(r.flows)
	return r
}

// established is the number of an established flow: all of them by turns, in an order that no cache foresees.
func (r *benchRouter) established() int {
	r.turn++
	i := r.turn * 2654435761 % (r.flows / 2)
	return i/r.guests*2*r.guests + i%r.guests
}

// open sends the first segment of a flow that is new.
func (r *benchRouter) open(b *testing.B) {
	r.send(b, r.next, false, tcpSYN)
	r.next++
}

func heapAlloc() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// benchChains have n rules, of which only the last one is for the frames of a benchRouter: the worst, where all words of all sets have rules
// for one or the other, and rules that have little in common.
func benchChains(n int) map[string]Chain {
	worst, distinct := overlappingChain(n-1), distinctChain(n-1)
	wide := func(p *Peer) { // nth(0) becomes all guests and hosts, nth(1) what is none
		i := int(p.Prefix.Addr().As4()[3])
		p.Prefix = netip.PrefixFrom(nth(i<<21), 11)
	}
	for i := range worst.Rules {
		r := &worst.Rules[i]
		r.Ports[0].First += benchPort - 80
		r.Ports[0].Last += benchPort - 80
		wide(&r.From[0])
		wide(&r.To[0])
	}
	chains := map[string]Chain{"overlapping": worst, "distinct": distinct}
	for name, c := range chains {
		c.Rules = append(c.Rules, Rule{Name: "last", Action: Accept, Proto: ProtoTCP})
		chains[name] = c
	}
	return chains
}

// BenchmarkEngine is what a packet costs on its whole way through this package, some 10 ns for making the frame included: TCP segments of flows that
// are there (all by turns, cold in every cache, or one and the same) and first ones of flows that are new in tables that are full. B/flow is
// the heap's growth for each flow.
func BenchmarkEngine(b *testing.B) {
	type compiledRules struct {
		name string
		m    *Matcher
	}
	var rules []compiledRules
	for _, n := range []int{10, 1000, 10000} {
		chains := benchChains(n)
		for _, name := range []string{"distinct", "overlapping"} {
			rules = append(rules, compiledRules{fmt.Sprintf("new/rules=%d/%s", n, name), compiled(b, chains[name])})
		}
	}
	for _, c := range []struct {
		name          string
		guests, flows int
	}{{"flows=1k/guests=1", 1, 1 << 10}, {"flows=1k/guests=254", 254, 1 << 10}, {"flows=1M/guests=1", 1, 1 << 20},
		{"flows=1M/guests=254", 254, 1 << 20}, {"flows=1M/guests=4096", 4096, 1 << 20}} {
		b.Run(c.name, func(b *testing.B) {
			r := newBenchRouter(b, c.guests, c.flows)
			hit := func(name string, reply bool, number func() int) {
				b.Run(name, func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						r.send(b, number(), reply, tcpACK)
					}
					if c.flows >= 1<<20 {
						b.ReportMetric(r.perFlow, "B/flow")
					}
				})
			}
			hit("hit/out", false, r.established)
			hit("hit/in", true, r.established)
			hit("hit/same", false, func() int { return 0 })
			for _, rule := range rules {
				b.Run(rule.name, func(b *testing.B) {
					for g := range r.engine.guests {
						r.engine.guests[g].egress = chainEngine{rule.m, 1}
					}
					b.ReportAllocs()
					was := r.engine.Budget().Used()
					for b.Loop() {
						r.open(b)
					}
					if n := r.engine.Budget().Used(); n != was || r.p.TCPFlags != tcpSYN {
						b.Fatalf("%d flows became %d", was, n)
					}
				})
			}
		})
	}
}
