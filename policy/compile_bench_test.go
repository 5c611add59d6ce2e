package policy

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
)

// nth is an address of its own for each i, in 100.64.0.0/10.
func nth(i int) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, 100<<24|64<<16+uint32(i))))
}

// distinctChain has n rules, each of a source prefix, a destination prefix and a port of its own.
func distinctChain(n int) Chain {
	c := Chain{Default: Drop}
	for i := range n {
		c.Rules = append(c.Rules, Rule{
			Name: fmt.Sprintf("r%d", i), Action: Accept, Proto: 6, Ports: []PortRange{{uint16(1000 + i), uint16(1000 + i)}},
			From: []Peer{{Kind: PeerPrefix, Prefix: netip.PrefixFrom(nth(i), 32)}},
			To:   []Peer{{Kind: PeerPrefix, Prefix: netip.PrefixFrom(nth(i+1<<16), 32)}, {Kind: PeerHost}},
		})
	}
	return c
}

// matches is what rule i of distinctChain alone matches.
func matches(i int) *Query {
	return &Query{Src: nth(i), Dst: nth(i + 1<<16), DstZone: ZoneUplink, Proto: 6, DstPort: uint16(1000 + i), HasPort: true}
}

// distinct is distinctChain compiled, with what the last rule matches and what none does.
func distinct(t testing.TB, n int) (m *Matcher, last, none *Query) {
	return compiled(t, distinctChain(n)), matches(max(0, n-1)), matches(n)
}

// overlappingChain has n rules for one port or another, one source or another, one destination or another. All words have
// rules with the right one of each, but no rule has all three, so that all words are read: the worst that rules can be.
func overlappingChain(n int) Chain {
	c := Chain{Default: Drop}
	for i := range n {
		have := [][3]int{{0, 0, 1}, {0, 1, 0}, {1, 0, 0}}[i%3]
		port := uint16(80 + have[0])
		c.Rules = append(c.Rules, Rule{
			Action: Accept, Proto: 6, Ports: []PortRange{{port, port}},
			From: []Peer{{Kind: PeerPrefix, Prefix: netip.PrefixFrom(nth(have[1]), 32)}},
			To:   []Peer{{Kind: PeerPrefix, Prefix: netip.PrefixFrom(nth(have[2]), 32)}},
		})
	}
	return c
}

var benchmarkSizes = []int{10, 100, 1000, 10000}

func benchmarkMatch(b *testing.B, m *Matcher, q *Query, want int) {
	b.Helper()
	if _, i := m.Match(q); i != want {
		b.Fatalf("rule %d, want %d", i, want)
	}
	b.ReportAllocs()
	for b.Loop() {
		m.Match(q)
	}
}

func BenchmarkMatch(b *testing.B) {
	for _, n := range benchmarkSizes {
		m, last, none := distinct(b, n)
		b.Run(fmt.Sprintf("rules=%d/first", n), func(b *testing.B) { benchmarkMatch(b, m, matches(0), 0) })
		b.Run(fmt.Sprintf("rules=%d/last", n), func(b *testing.B) { benchmarkMatch(b, m, last, n-1) })
		b.Run(fmt.Sprintf("rules=%d/none", n), func(b *testing.B) { benchmarkMatch(b, m, none, -1) })
	}
	for _, n := range benchmarkSizes {
		m := compiled(b, overlappingChain(n))
		q := &Query{Src: nth(0), Dst: nth(0), Proto: 6, DstPort: 80, HasPort: true}
		b.Run(fmt.Sprintf("rules=%d/overlapping", n), func(b *testing.B) { benchmarkMatch(b, m, q, -1) })
	}
}

// A thousand rules are for one guest each, in turn; the last one, which matches, names all of them.
func BenchmarkMatchGuests(b *testing.B) {
	for _, guests := range []int{1, 254, 4096} {
		bound := map[string][]netip.Prefix{}
		for i := range guests {
			bound[fmt.Sprintf("g%d", i)] = []netip.Prefix{netip.PrefixFrom(nth(i), 32)}
		}
		c := Chain{Default: Drop}
		for i := range 1000 {
			port := uint16(1000 + i)
			to := []Peer{{Kind: PeerDomu, Domu: fmt.Sprintf("g%d", i%guests)}}
			c.Rules = append(c.Rules, Rule{Action: Accept, Proto: 6, Ports: []PortRange{{port, port}}, To: to})
		}
		all := Rule{Action: Accept, Proto: 17}
		for i := range guests {
			all.To = append(all.To, Peer{Kind: PeerDomu, Domu: fmt.Sprintf("g%d", i)})
		}
		c.Rules = append(c.Rules, all)
		m, err := CompileChain(c, func(name string) []netip.Prefix { return bound[name] })
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("guests=%d", guests), func(b *testing.B) {
			benchmarkMatch(b, m, &Query{Dst: nth(guests - 1), Proto: 17, DstPort: 53, HasPort: true}, 1000)
		})
	}
}

// BenchmarkScan tells what a plain scan would save for short chains: some 30 ns for each flow that is opened, up to 16 rules
// whose ports differ and less where addresses do. That is not worth a second way to match.
func BenchmarkScan(b *testing.B) {
	for _, n := range []int{1, 2, 4, 8, 16} {
		c := distinctChain(n)
		m, q := compiled(b, c), matches(n-1)
		b.Run(fmt.Sprintf("rules=%d/scan", n), func(b *testing.B) {
			for b.Loop() {
				matchSlowly(&c, nil, q)
			}
		})
		b.Run(fmt.Sprintf("rules=%d/match", n), func(b *testing.B) {
			for b.Loop() {
				m.Match(q)
			}
		})
	}
}

func BenchmarkCompileChain(b *testing.B) {
	for _, n := range benchmarkSizes {
		for name, c := range map[string]Chain{"distinct": distinctChain(n), "overlapping": overlappingChain(n)} {
			b.Run(fmt.Sprintf("rules=%d/%s", n, name), func(b *testing.B) {
				b.ReportAllocs()
				var m *Matcher
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				for b.Loop() {
					m = compiled(b, c)
				}
				runtime.GC()
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(after.HeapAlloc)-float64(before.HeapAlloc), "B/matcher")
				runtime.KeepAlive(m)
			})
		}
	}
}
