package policy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"
)

// Zone is where an end of a packet is.
type Zone uint8

const (
	ZoneGuest Zone = iota
	ZoneHost
	ZoneUplink

	zoneCount
)

// Query is what rules look at in a packet. Its zones are among the three constants; Match panics for others.
type Query struct {
	Src, Dst         netip.Addr // as in Packet: IPv4 is never IPv4-mapped, and IPv6 has no zone identifier
	SrcZone, DstZone Zone
	Proto            uint8
	DstPort          uint16
	HasPort          bool // TCP or UDP, with the header that tells: in a later fragment it is not
}

// Matcher is a compiled chain. It is immutable: concurrent use is safe, and Match allocates nothing.
//
// The method is the aggregated bit vector of Baboescu and Varghese ("Scalable Packet Classification", SIGCOMM 2001) upon
// Lakshman and Stiliadis ("High-Speed Policy-based Packet Forwarding Using Efficient Multi-dimensional Range Matching",
// SIGCOMM 1998). For each field of a packet there is the set of rules that match that field, found by an array
// (protocol, zone), a binary search (port) or a longest prefix match (addresses). The first rule that is in all of these
// sets decides. A set has a bit a rule and a summary bit for each word of 64 of them, so that words in which some field
// matches no rule are passed over.
//
// Of ports and addresses there are two sets: the rules that do not care or name the zone, and those that name the port or
// a prefix. So there are as many sets as ports and prefixes, but they are small.
type Matcher struct {
	sets    ruleSets
	protos  [256]setID
	noPorts setID    // rules that take any port, and packets without one
	starts  []uint16 // where the intervals of ports begin, ascending; the first is 0
	ports   []setID  // rules that name the ports of each interval
	src     side
	dst     side
	actions []Action
	dflt    Action
}

// side is one end of a packet.
type side struct {
	zones    [zoneCount]setID  // rules that everyone in the zone matches
	prefixes bart.Table[setID] // rules that name the prefix, or one around it
}

// Match is the action of the first rule that matches and the rule's index in the chain, or the default and -1. The time
// does not depend on the number of guests or of prefixes. It grows with the logarithm of the number of ports, by a few
// instructions for each 4096 rules, and with the words of 64 rules in which each field by itself matches some rule. At the
// worst these are all words before the first match.
func (m *Matcher) Match(q *Query) (Action, int) {
	ports := union{a: m.noPorts}
	if q.HasPort {
		i, found := slices.BinarySearch(m.starts, q.DstPort)
		if !found {
			i--
		}
		ports.b = m.ports[i]
	}
	i := m.sets.first(m.protos[q.Proto], ports, m.src.find(q.Src, q.SrcZone), m.dst.find(q.Dst, q.DstZone))
	if i < 0 {
		return m.dflt, -1
	}
	return m.actions[i], i
}

func (s *side) find(a netip.Addr, z Zone) union {
	id, _ := s.prefixes.Lookup(a) // 0, the empty set, where no prefix holds the address
	return union{s.zones[z], id}
}

// CompileChain makes the Matcher of a chain. guest tells the prefixes that the guest of a name is bound to, for domu:NAME;
// a guest without any is a peer that nothing matches. guest is called only here, and may be nil where no rule names a guest.
// Errors are what package config reports first: an action, protocol, range, prefix or peer that is none, and ports of a
// protocol without them.
//
// The time is about proportional to the number of rules, ports and prefixes, some 5 microseconds a rule. So is the memory,
// however rules overlap: at most 512 bytes for each prefix that a rule names, 1024 for each range of ports, and 16 for each
// different prefix or end of a range and 4096 rules.
func CompileChain(c Chain, guest func(name string) []netip.Prefix) (*Matcher, error) {
	if !c.Default.valid() {
		return nil, fmt.Errorf("chain at %s: default action %d is none", c.Source, c.Default)
	}
	cc := chainCompiler{
		sets:   newSetMaker(len(c.Rules)),
		guest:  guest,
		protos: map[uint8][]int32{},
		ports:  map[int]*portEdge{},
		src:    peerLists{prefixes: map[netip.Prefix][]int32{}},
		dst:    peerLists{prefixes: map[netip.Prefix][]int32{}},
	}
	m := &Matcher{dflt: c.Default, actions: make([]Action, len(c.Rules))}
	for i := range c.Rules {
		r := &c.Rules[i]
		if err := cc.read(int32(i), r); err != nil {
			return nil, fmt.Errorf("rule %q at %s: %w", r.Name, r.Source, err)
		}
		m.actions[i] = r.Action
	}
	cc.fill(m)
	return m, nil
}

func (a Action) valid() bool { return a >= Accept && a <= Reject }

// chainCompiler sorts a chain's rules by what they name. Its lists are of indices, which ascend, and repeat
// where a rule names something twice.
type chainCompiler struct {
	sets     *setMaker
	guest    func(name string) []netip.Prefix
	anyProto []int32
	protos   map[uint8][]int32
	noPorts  []int32
	ports    map[int]*portEdge // by port; 65536 is behind the last
	src, dst peerLists
}

// portEdge is the rules whose ranges end before a port and those whose ranges begin with it.
type portEdge struct{ ends, begins []int32 }

// peerLists is the rules that name each zone and each prefix at one end. Rules for everyone are in all three zones.
type peerLists struct {
	zones    [zoneCount][]int32
	prefixes map[netip.Prefix][]int32
}

func (c *chainCompiler) read(i int32, r *Rule) error {
	if !r.Action.valid() {
		return fmt.Errorf("action %d is none", r.Action)
	}
	switch {
	case r.Proto == AnyProto:
		c.anyProto = append(c.anyProto, i)
	case r.Proto >= 0 && r.Proto <= 255:
		c.protos[uint8(r.Proto)] = append(c.protos[uint8(r.Proto)], i)
	default:
		return fmt.Errorf("protocol %d is none", r.Proto)
	}
	if err := c.readPorts(i, r); err != nil {
		return err
	}
	if err := c.readPeers(i, r.From, &c.src); err != nil {
		return fmt.Errorf("from: %w", err)
	}
	if err := c.readPeers(i, r.To, &c.dst); err != nil {
		return fmt.Errorf("to: %w", err)
	}
	return nil
}

func (c *chainCompiler) readPorts(i int32, r *Rule) error {
	if len(r.Ports) == 0 {
		c.noPorts = append(c.noPorts, i)
		return nil
	}
	if !RulePorts(r.Proto) {
		return errors.New("ports without tcp or udp")
	}
	for _, p := range r.Ports {
		if p.First == 0 || p.First > p.Last {
			return fmt.Errorf("ports %d-%d are no range", p.First, p.Last)
		}
	}
	for _, p := range mergeRanges(r.Ports) {
		c.edge(int(p.First)).begins = append(c.edge(int(p.First)).begins, i)
		c.edge(int(p.Last) + 1).ends = append(c.edge(int(p.Last)+1).ends, i)
	}
	return nil
}

func (c *chainCompiler) edge(port int) *portEdge {
	e := c.ports[port]
	if e == nil {
		e = new(portEdge)
		c.ports[port] = e
	}
	return e
}

// mergeRanges is the same ports, ascending, in ranges that neither overlap nor touch.
func mergeRanges(ranges []PortRange) []PortRange {
	ranges = slices.SortedFunc(slices.Values(ranges), func(a, b PortRange) int { return cmp.Compare(a.First, b.First) })
	merged := ranges[:1]
	for _, r := range ranges[1:] {
		if last := &merged[len(merged)-1]; int(r.First) <= int(last.Last)+1 {
			last.Last = max(last.Last, r.Last)
		} else {
			merged = append(merged, r)
		}
	}
	return merged
}

func (c *chainCompiler) readPeers(i int32, peers []Peer, l *peerLists) error {
	if len(peers) == 0 {
		for z := range l.zones {
			l.addZone(Zone(z), i)
		}
	}
	for _, p := range peers {
		switch p.Kind {
		case PeerHost:
			l.addZone(ZoneHost, i)
		case PeerUplink:
			l.addZone(ZoneUplink, i)
		case PeerPrefix:
			if err := l.addPrefix(p.Prefix, i); err != nil {
				return err
			}
		case PeerDomu:
			for _, q := range c.guest(p.Domu) {
				if err := l.addPrefix(q, i); err != nil {
					return fmt.Errorf("domu %q: %w", p.Domu, err)
				}
			}
		default:
			return fmt.Errorf("peer of kind %d is none", p.Kind)
		}
	}
	return nil
}

func (l *peerLists) addZone(z Zone, i int32) { l.zones[z] = append(l.zones[z], i) }

func (l *peerLists) addPrefix(p netip.Prefix, i int32) error {
	if !p.IsValid() || p != p.Masked() {
		return fmt.Errorf("prefix %v is none", p)
	}
	l.prefixes[p] = append(l.prefixes[p], i)
	return nil
}

func (c *chainCompiler) fill(m *Matcher) {
	some := c.sets.alter(0, nil, c.anyProto)
	for p := range m.protos {
		m.protos[p] = c.sets.alter(some, nil, c.protos[uint8(p)])
	}
	c.fillPorts(m)
	c.fillSide(&m.src, &c.src)
	c.fillSide(&m.dst, &c.dst)
	m.sets = c.sets.ruleSets
	m.sets.blocks, m.sets.words = slices.Clone(m.sets.blocks), slices.Clone(m.sets.words)
}

// fillPorts walks over the ports and makes a set where ranges begin or end.
func (c *chainCompiler) fillPorts(m *Matcher) {
	m.noPorts = c.sets.alter(0, nil, c.noPorts)
	m.starts, m.ports = []uint16{0}, []setID{0}
	var id setID
	for _, port := range slices.Sorted(maps.Keys(c.ports)) {
		if port > 65535 {
			break
		}
		id = c.sets.alter(id, c.ports[port].ends, c.ports[port].begins)
		m.starts, m.ports = append(m.starts, uint16(port)), append(m.ports, id)
	}
}

// fillSide gives each prefix the rules that name it and those of the next one around it, which has been made before it:
// prefixes ascend by address, then by length.
func (c *chainCompiler) fillSide(s *side, l *peerLists) {
	for z := range l.zones {
		s.zones[z] = c.sets.alter(0, nil, l.zones[z])
	}
	type made struct {
		prefix netip.Prefix
		id     setID
	}
	around := []made{{}}
	for _, p := range slices.SortedFunc(maps.Keys(l.prefixes), netip.Prefix.Compare) {
		for len(around) > 1 && !around[len(around)-1].prefix.Contains(p.Addr()) {
			around = around[:len(around)-1]
		}
		id := c.sets.alter(around[len(around)-1].id, nil, l.prefixes[p])
		around = append(around, made{p, id})
		s.prefixes.Insert(p, id)
	}
}
