package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// matchSlowly is what Match shall be: one rule after the other, one field after the other.
func matchSlowly(c *Chain, guest func(string) []netip.Prefix, q *Query) (Action, int) {
	for i := range c.Rules {
		r := &c.Rules[i]
		if (r.Proto == AnyProto || r.Proto == int(q.Proto)) && portMatches(r.Ports, q) &&
			peerMatches(r.From, guest, q.Src, q.SrcZone) && peerMatches(r.To, guest, q.Dst, q.DstZone) {
			return r.Action, i
		}
	}
	return c.Default, -1
}

func portMatches(ranges []PortRange, q *Query) bool {
	for _, p := range ranges {
		if q.HasPort && p.First <= q.DstPort && q.DstPort <= p.Last {
			return true
		}
	}
	return len(ranges) == 0
}

func peerMatches(peers []Peer, guest func(string) []netip.Prefix, a netip.Addr, z Zone) bool {
	for _, p := range peers {
		switch p.Kind {
		case PeerHost:
			if z == ZoneHost {
				return true
			}
		case PeerUplink:
			if z == ZoneUplink {
				return true
			}
		case PeerPrefix:
			if p.Prefix.Contains(a) {
				return true
			}
		case PeerDomu:
			for _, q := range guest(p.Domu) {
				if q.Contains(a) {
					return true
				}
			}
		}
	}
	return len(peers) == 0
}

// peersOf reads peers as router.hcl writes them, with spaces between.
func peersOf(s string) []Peer {
	var peers []Peer
	for _, w := range strings.Fields(s) {
		switch name, isDomu := strings.CutPrefix(w, "domu:"); {
		case isDomu:
			peers = append(peers, Peer{Kind: PeerDomu, Domu: name})
		case w == "host":
			peers = append(peers, Peer{Kind: PeerHost})
		case w == "uplink":
			peers = append(peers, Peer{Kind: PeerUplink})
		default:
			peers = append(peers, Peer{Kind: PeerPrefix, Prefix: netip.MustParsePrefix(w)})
		}
	}
	return peers
}

// rulesGuests are the guests of these tests; "bare" has no address.
func rulesGuests(name string) []netip.Prefix {
	switch name {
	case "web":
		return []netip.Prefix{netip.MustParsePrefix("192.0.2.10/32"), netip.MustParsePrefix("2001:db8:3:2::/80")}
	case "mail":
		return []netip.Prefix{netip.MustParsePrefix("192.0.2.11/32"), netip.MustParsePrefix("2001:db8:3:2:2::10/128")}
	}
	return nil
}

func compiled(t testing.TB, c Chain) *Matcher {
	t.Helper()
	m, err := CompileChain(c, rulesGuests)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMatch(t *testing.T) {
	chains := map[string]Chain{
		"empty": {Default: Reject},
		"first": {Default: Drop, Rules: []Rule{
			{Action: Drop, Proto: 6, Ports: []PortRange{{25, 25}}},
			{Action: Accept, Proto: 6, Ports: []PortRange{{1, 1}, {20, 30}, {31, 40}, {65535, 65535}}},
			{Action: Reject, Proto: 6},
			{Action: Accept, Proto: 0},
			{Action: Accept, Proto: 1},
		}},
		"peers": {Default: Drop, Rules: []Rule{
			{Action: Accept, Proto: AnyProto, From: peersOf("domu:web host 198.51.100.0/24"), To: peersOf("domu:mail uplink 203.0.113.7/32")},
			{Action: Reject, Proto: AnyProto, From: peersOf("domu:bare")},
			{Action: Drop, Proto: AnyProto, To: peersOf("domu:bare")},
			{Action: Reject, Proto: AnyProto, To: peersOf("0.0.0.0/0"), From: peersOf("198.51.100.0/25 198.51.100.128/25 198.51.100.0/24")},
			{Action: Accept, Proto: AnyProto, To: peersOf("::/0"), From: peersOf("2001:db8:3:2:2::10/128")},
		}},
	}
	const g, h, u = ZoneGuest, ZoneHost, ZoneUplink
	const web, mail, web6, mail6 = "192.0.2.10", "192.0.2.11", "2001:db8:3:2::10", "2001:db8:3:2:2::10"
	for _, c := range []struct {
		name     string
		chain    string
		src      string
		srcZone  Zone
		dst      string
		dstZone  Zone
		proto    uint8
		port     uint16
		hasPort  bool
		want     Action
		wantRule int
	}{
		{"no rule", "empty", web, g, mail, g, 6, 80, true, Reject, -1},
		{"the first that matches decides", "first", web, g, mail, g, 6, 25, true, Drop, 0},
		{"one of several ranges", "first", web, g, mail, g, 6, 24, true, Accept, 1},
		{"where ranges touch, below", "first", web, g, mail, g, 6, 30, true, Accept, 1},
		{"where ranges touch, above", "first", web, g, mail, g, 6, 31, true, Accept, 1},
		{"the first port of a range", "first", web, g, mail, g, 6, 20, true, Accept, 1},
		{"the port before", "first", web, g, mail, g, 6, 19, true, Reject, 2},
		{"the last port of a range", "first", web, g, mail, g, 6, 40, true, Accept, 1},
		{"the port behind", "first", web, g, mail, g, 6, 41, true, Reject, 2},
		{"port 1", "first", web, g, mail, g, 6, 1, true, Accept, 1},
		{"port 65535", "first", web, g, mail, g, 6, 65535, true, Accept, 1},
		{"port 0 is in no range", "first", web, g, mail, g, 6, 0, true, Reject, 2},
		{"another protocol's port", "first", web, g, mail, g, 17, 24, true, Drop, -1},
		{"a later fragment has no port", "first", web, g, mail, g, 6, 25, false, Reject, 2},
		{"protocol 0 is one", "first", web, g, mail, g, 0, 0, false, Accept, 3},
		{"and not all of them", "first", web, g, mail, g, 2, 0, false, Drop, -1},
		{"icmp has no port", "first", web, g, mail, g, 1, 0, false, Accept, 4},
		{"guest to guest, by name", "peers", web, g, mail, g, 6, 80, true, Accept, 0},
		{"of the other family", "peers", web6, g, mail6, g, 6, 80, true, Accept, 0},
		{"the guest's whole prefix", "peers", "2001:db8:3:2::ffff:ffff", g, mail6, g, 6, 80, true, Accept, 0},
		{"beyond the guest's prefix", "peers", "2001:db8:3:2:1::", g, mail6, g, 6, 80, true, Drop, -1},
		{"the other way", "peers", mail, g, web, g, 6, 80, true, Drop, -1},
		{"the host, whatever its address", "peers", "203.0.113.99", h, mail, g, 6, 80, true, Accept, 0},
		{"to the host", "peers", web, g, "203.0.113.99", h, 6, 80, true, Drop, -1},
		{"the uplink, whatever the address", "peers", web, g, "2001:db8:ffff::1", u, 6, 80, true, Accept, 0},
		{"a prefix, whatever the zone", "peers", "198.51.100.9", u, mail, g, 6, 80, true, Accept, 0},
		{"an address of a union", "peers", web, g, "203.0.113.7", g, 6, 80, true, Accept, 0},
		{"beside it", "peers", web, g, "203.0.113.8", g, 6, 80, true, Drop, -1},
		{"a narrower prefix in the same rule", "peers", "198.51.100.200", u, "203.0.113.8", g, 6, 80, true, Reject, 3},
		{"0.0.0.0/0 is no IPv6", "peers", "198.51.100.200", u, mail6 + "0", g, 6, 80, true, Drop, -1},
		{"::/0 is no IPv4", "peers", mail6, g, web, g, 6, 80, true, Drop, -1},
		{"::/0 is all IPv6", "peers", mail6, g, "ff02::1", g, 6, 80, true, Accept, 4},
		{"IPv4-mapped is not IPv4", "peers", "::ffff:192.0.2.10", g, mail, g, 6, 80, true, Drop, -1},
		{"IPv4-mapped is IPv6", "peers", mail6, g, "::ffff:192.0.2.10", g, 6, 80, true, Accept, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			chain := chains[c.chain]
			q := &Query{netip.MustParseAddr(c.src), netip.MustParseAddr(c.dst), c.srcZone, c.dstZone, c.proto, c.port, c.hasPort}
			if a, i := compiled(t, chain).Match(q); a != c.want || i != c.wantRule {
				t.Errorf("got %v by rule %d, want %v by %d", a, i, c.want, c.wantRule)
			}
			if a, i := matchSlowly(&chain, rulesGuests, q); a != c.want || i != c.wantRule {
				t.Errorf("the oracle says %v by rule %d, want %v by %d", a, i, c.want, c.wantRule)
			}
		})
	}
}

// An address that is none is in no prefix.
func TestMatchInvalidAddress(t *testing.T) {
	m := compiled(t, Chain{Default: Drop, Rules: []Rule{
		{Action: Reject, Proto: AnyProto, From: peersOf("0.0.0.0/0 ::/0")}, {Action: Accept, Proto: AnyProto},
	}})
	if a, i := m.Match(&Query{}); a != Accept || i != 1 {
		t.Errorf("got %v by rule %d", a, i)
	}
}

func TestCompileErrors(t *testing.T) {
	ok := Rule{Name: "r", Action: Accept, Proto: 6, Source: "router.hcl:7"}
	for _, c := range []struct {
		edit func(r *Rule)
		want string
	}{
		{func(r *Rule) { r.Action = 0 }, `rule "r" at router.hcl:7: action 0 is none`},
		{func(r *Rule) { r.Action = 4 }, `rule "r" at router.hcl:7: action 4 is none`},
		{func(r *Rule) { r.Proto = 256 }, `rule "r" at router.hcl:7: protocol 256 is none`},
		{func(r *Rule) { r.Proto = -2 }, `rule "r" at router.hcl:7: protocol -2 is none`},
		{func(r *Rule) { r.Ports = []PortRange{{0, 5}} }, `rule "r" at router.hcl:7: ports 0-5 are no range`},
		{func(r *Rule) { r.Ports = []PortRange{{6, 5}} }, `rule "r" at router.hcl:7: ports 6-5 are no range`},
		{func(r *Rule) { r.Proto, r.Ports = 1, []PortRange{{5, 5}} }, `rule "r" at router.hcl:7: ports without tcp or udp`},
		{func(r *Rule) { r.Proto, r.Ports = AnyProto, []PortRange{{5, 5}} }, `rule "r" at router.hcl:7: ports without tcp or udp`},
		{func(r *Rule) { r.From = []Peer{{}} }, `rule "r" at router.hcl:7: from: peer of kind 0 is none`},
		{func(r *Rule) { r.To = []Peer{{Kind: PeerPrefix}} }, `rule "r" at router.hcl:7: to: prefix invalid Prefix is none`},
		{func(r *Rule) { r.To = peersOf("10.0.0.1/8") }, `rule "r" at router.hcl:7: to: prefix 10.0.0.1/8 is none`},
		{func(r *Rule) { r.To = peersOf("domu:bad") }, `rule "r" at router.hcl:7: to: domu "bad": prefix 10.0.0.1/8 is none`},
	} {
		r := ok
		c.edit(&r)
		_, err := CompileChain(Chain{Default: Drop, Rules: []Rule{r}}, func(string) []netip.Prefix {
			return []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}
		})
		if err == nil || err.Error() != c.want {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
	if _, err := CompileChain(Chain{Source: "router.hcl:3"}, nil); err == nil || err.Error() != "chain at router.hcl:3: default action 0 is none" {
		t.Errorf("got %v", err)
	}
}

// prefixPool has prefixes that are nested, next to each other, and at both ends of each family.
var prefixPool = peersOf(`0.0.0.0/0 0.0.0.0/1 128.0.0.0/1 0.0.0.0/32 255.255.255.255/32 10.0.0.0/8 10.0.0.0/9 10.128.0.0/9 10.0.0.0/24 10.0.1.0/24
	10.0.0.0/23 10.0.0.128/25 10.0.0.255/32 10.0.1.0/32 10.0.1.0/31 ::/0 ::/1 8000::/1 ::/128 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128
	::ffff:0:0/96 ::ffff:10.0.0.0/104 ::ffff:10.0.1.0/128 a00::/8 2001:db8::/32 2001:db8:0:1::/64 2001:db8:0:1::/65 2001:db8:0:1:8000::/65
	2001:db8:0:2::/64 2001:db8:0:1:ffff:ffff:ffff:ffff/128 2001:db8:0:2::/128`)

var portPool = []uint16{1, 2, 3, 22, 23, 24, 79, 80, 81, 1023, 1024, 65533, 65534, 65535}

// drawn makes rules and queries from numbers: choose(n) is one below n.
type drawn struct{ choose func(n int) int }

func (d drawn) prefix() netip.Prefix {
	p := prefixPool[d.choose(len(prefixPool))].Prefix
	if d.choose(3) == 0 {
		p = netip.PrefixFrom(p.Addr(), d.choose(p.Addr().BitLen()+1)).Masked()
	}
	return p
}

func (d drawn) peers() []Peer {
	var peers []Peer
	for range max(0, d.choose(5)-1) {
		p := Peer{Kind: PeerPrefix + PeerKind(max(0, d.choose(8)-4))}
		switch p.Kind {
		case PeerPrefix:
			p.Prefix = d.prefix()
		case PeerDomu:
			p.Domu = []string{"web", "mail", "bare"}[d.choose(3)]
		}
		peers = append(peers, p)
	}
	return peers
}

func (d drawn) rule() Rule {
	r := Rule{Action: Accept + Action(d.choose(3)), From: d.peers(), To: d.peers()}
	r.Proto = []int{AnyProto, 6, 6, 17, 0, 1, 255}[d.choose(7)]
	if r.Proto == 6 || r.Proto == 17 {
		for range d.choose(4) {
			a, b := portPool[d.choose(len(portPool))], portPool[d.choose(len(portPool))]
			r.Ports = append(r.Ports, PortRange{min(a, b), max(a, b)})
		}
	}
	return r
}

// addr is an end of some prefix, or an address beside it.
func (d drawn) addr() netip.Addr {
	p := d.prefix()
	if d.choose(4) == 0 {
		p = append(rulesGuests("web"), rulesGuests("mail")...)[d.choose(4)]
	}
	a := p.Addr()
	if d.choose(2) == 0 {
		b := a.AsSlice()
		for i := p.Bits(); i < len(b)*8; i++ {
			b[i/8] |= 0x80 >> (i % 8)
		}
		a, _ = netip.AddrFromSlice(b)
	}
	beside := a
	switch d.choose(6) {
	case 0:
		beside = a.Prev()
	case 1:
		beside = a.Next()
	case 2:
		beside = netip.AddrFrom16(a.As16())
	}
	if beside.IsValid() {
		return beside
	}
	return a
}

func (d drawn) query() *Query {
	q := &Query{Src: d.addr(), Dst: d.addr(), SrcZone: Zone(d.choose(3)), DstZone: Zone(d.choose(3))}
	q.Proto = []uint8{6, 6, 17, 0, 1, 255, 2}[d.choose(7)]
	if q.HasPort = (q.Proto == 6 || q.Proto == 17) && d.choose(4) > 0; q.HasPort {
		q.DstPort = portPool[d.choose(len(portPool))] + uint16(d.choose(3)) - 1
	}
	return q
}

func compare(t interface {
	Helper()
	Fatalf(string, ...any)
}, m *Matcher, c *Chain, q *Query) int {
	t.Helper()
	a, i := m.Match(q)
	if wantA, wantI := matchSlowly(c, rulesGuests, q); a != wantA || i != wantI {
		t.Fatalf("%+v: got %v by rule %d, want %v by %d of %d", *q, a, i, wantA, wantI, len(c.Rules))
	}
	return i
}

func TestMatchOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := drawn{func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "") }}
		c := Chain{Default: Drop}
		for range rapid.IntRange(0, 12).Draw(t, "rules") {
			c.Rules = append(c.Rules, d.rule())
		}
		m, err := CompileChain(c, rulesGuests)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			compare(t, m, &c, d.query())
		}
	})
}

// filler is a rule that matches none of the queries of drawn, though in each field it is like many that do.
func filler(i int) Rule {
	never := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16 + byte(i>>16), byte(i >> 8), byte(i)}), 32)
	r := Rule{Action: Accept, Proto: 6, From: peersOf("10.0.0.0/8 ::/0 host"), Ports: []PortRange{{1, 80}}}
	switch i / 64 % 4 {
	case 0:
		r.To = []Peer{{Kind: PeerPrefix, Prefix: never}}
	case 1:
		r.From, r.To = []Peer{{Kind: PeerPrefix, Prefix: never}}, peersOf("0.0.0.0/0 uplink")
	case 2:
		r.Ports = []PortRange{{2000, 2001 + uint16(i%1000)}}
	case 3:
		r.Proto, r.Ports = 100+i%2, nil
	}
	return r
}

// fillers are n rules that match none of the queries of drawn.
func fillers(n int) Chain {
	c := Chain{Default: Reject}
	for i := range n {
		c.Rules = append(c.Rules, filler(i))
	}
	return c
}

// wordEdges are the rules at both ends of words and blocks.
var wordEdges = []int{4096, 4095, 0, 63, 64, 4032, 8191, 8192, 4159, 4160}

// One rule that matches is found wherever it stands.
func TestMatchAtEveryEdge(t *testing.T) {
	c := fillers(2*blockRules + 1)
	d := drawn{rand.New(rand.NewPCG(3, 3)).IntN}
	q := d.query()
	if i := compare(t, compiled(t, c), &c, q); i != -1 {
		t.Fatalf("rule %d matches", i)
	}
	for _, at := range wordEdges {
		c.Rules[at] = Rule{Action: Accept, Proto: AnyProto}
		if i := compare(t, compiled(t, c), &c, q); i != at {
			t.Errorf("rule %d, want %d", i, at)
		}
		c.Rules[at] = filler(at)
	}
}

// Some rules stand at the ends of words and blocks, with thousands of others between them.
func TestMatchOracleLong(t *testing.T) {
	base := fillers(2*blockRules + 1)
	rapid.Check(t, func(t *rapid.T) {
		d := drawn{func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "") }}
		n := []int{65, 64, 4097, 63, 4096, 4161, 8193, 4095}[d.choose(8)]
		c := Chain{Default: base.Default, Rules: slices.Clone(base.Rules[:n])}
		for range 1 + d.choose(4) {
			c.Rules[min(wordEdges[d.choose(len(wordEdges))], n-1)] = d.rule()
		}
		m, err := CompileChain(c, rulesGuests)
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			compare(t, m, &c, d.query())
		}
	})
}

// Chains whose rules all are of the pools have long unions in every field. Tails of a chain let other rules be the first.
func TestMatchOracleDense(t *testing.T) {
	for seed := range uint64(2) {
		d := drawn{rand.New(rand.NewPCG(seed, 0)).IntN}
		c := Chain{Default: Drop}
		for len(c.Rules) < 2*blockRules+77 {
			if r := d.rule(); len(r.From) == 1 && len(r.To) == 1 && r.Proto != AnyProto {
				c.Rules = append(c.Rules, r)
			}
		}
		for len(c.Rules) > 0 {
			m := compiled(t, c)
			for range 200 {
				compare(t, m, &c, d.query())
			}
			c.Rules = c.Rules[min(len(c.Rules), 1+d.choose(2*blockRules)):]
		}
	}
}

func TestMatchAllocatesNothing(t *testing.T) {
	for _, n := range []int{0, 10, 5000} {
		m, last, none := distinct(t, n)
		if got := testing.AllocsPerRun(100, func() { m.Match(last); m.Match(none) }); got != 0 {
			t.Errorf("%d rules: %v allocations", n, got)
		}
	}
}

// The race detector looks on while several goroutines use one Matcher.
func TestMatchConcurrently(t *testing.T) {
	c := Chain{Default: Drop}
	d := drawn{rand.New(rand.NewPCG(1, 1)).IntN}
	for range 200 {
		c.Rules = append(c.Rules, d.rule())
	}
	m := compiled(t, c)
	var wg sync.WaitGroup
	for seed := range uint64(4) {
		wg.Go(func() {
			d := drawn{rand.New(rand.NewPCG(seed, 2)).IntN}
			for range 200 {
				q := d.query()
				a, i := m.Match(q)
				if wantA, wantI := matchSlowly(&c, rulesGuests, q); a != wantA || i != wantI {
					t.Errorf("%+v: got %v by rule %d, want %v by %d", *q, a, i, wantA, wantI)
				}
			}
		})
	}
	wg.Wait()
}

// bytes is what a Matcher's sets take, without its tables of prefixes.
func (m *Matcher) bytes() int {
	return 16*cap(m.sets.blocks) + 8*cap(m.sets.words) + 2*cap(m.starts) + 4*cap(m.ports) + cap(m.actions)
}

// The memory stays in proportion to the chain, however its rules overlap.
func TestMatcherMemory(t *testing.T) {
	const n = 10000
	random := rand.New(rand.NewPCG(7, 7))
	for name, rule := range map[string]func(i int) Rule{
		"distinct prefixes": func(i int) Rule {
			return Rule{From: peersOf(fmt.Sprintf("10.%d.%d.0/24", i>>8, i&255)), To: peersOf(fmt.Sprintf("2001:db8:%x::/48", i))}
		},
		"half of them around the others": func(i int) Rule {
			if i%2 == 0 {
				return Rule{From: peersOf("10.0.0.0/8"), To: peersOf("2001:db8::/32")}
			}
			return Rule{From: peersOf(fmt.Sprintf("10.%d.%d.0/24", i>>8, i&255)), To: peersOf(fmt.Sprintf("2001:db8:%x::/48", i))}
		},
		"each within another": func(i int) Rule {
			a := netip.AddrFrom16([16]byte{0x20, byte(i >> 7), byte(i>>7) * 7, 15: 1})
			return Rule{From: []Peer{{Kind: PeerPrefix, Prefix: netip.PrefixFrom(a, i%128+1).Masked()}}}
		},
		"ranges of ports that overlap": func(int) Rule {
			a, b := uint16(1+random.IntN(65535)), uint16(1+random.IntN(65535))
			return Rule{Ports: []PortRange{{min(a, b), max(a, b)}}}
		},
	} {
		c := Chain{Default: Drop}
		for i := range n {
			r := rule(i)
			r.Action, r.Proto = Accept, 6
			c.Rules = append(c.Rules, r)
		}
		got := compiled(t, c).bytes()
		t.Logf("%s: %d KiB", name, got>>10)
		if got > 32<<20 {
			t.Errorf("%s: %d KiB", name, got>>10)
		}
	}
}
