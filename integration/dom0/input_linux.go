package dom0

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"udrouter/policy"
)

// What the counters of host.uplink count, and their comments. Each rule of the file has one too, see [CountInputRule].
const (
	CountInputStray   = "input: icmp error or echo reply of no flow"
	CountInputDefault = "input: default"
)

// CountInputRule is the comment of a rule of host.uplink. A quote in it would make the output of `nft list ruleset` unreadable for `nft -f`.
func CountInputRule(name string) string { return "input: rule " + strings.ReplaceAll(name, `"`, "'") }

// prioInput is where host.uplink stands among the filters of packets to dom0. Connection tracking (-200) comes before it. So do the filters of
// others (0; firewalld's 10): their counters, logs and limits see what they saw before, and what they drop is not counted here. Source NAT
// of what comes in (100) follows, so that rules see who really sent. A number of its own keeps the order when the table is replaced.
const prioInput = 20

// Names of chains and sets of host.uplink.
const (
	chainInput    = "input"
	chainRefuse   = "refuse"
	chainTracking = "tracking" // see track
	setPorts      = "ports"    // with a number
	setPeers4     = "peers4_"
	setPeers6     = "peers6_"
)

// namedSet is a set of ranges that rules look things up in.
type namedSet struct {
	name  string
	key   nftables.SetDatatype
	elems []nftables.SetElement
}

// inputRules writes host.uplink as nftables. Rules with the same lists share a set: the kernel looks sets up by name, one after the other.
type inputRules struct {
	sets  []namedSet
	names map[string]string // of the sets, by what is in them
}

// inputChains are host.uplink: the chain that answers what is rejected, and the one where a packet begins, with the sets of both. Accepting ends
// this chain and no other: other tables of dom0 still have their word.
//
// What connection tracking calls invalid is not dropped as such: a rule that admits a port admits it (the kernel's own TCP looks at
// sequence numbers as well), so that a table that has lost track of a connection locks nobody out; the default drops the rest. It only is
// never answered: a reset for a late segment would end the live connection that it belongs to (see REJECT in iptables-extensions(8)).
func inputChains(uplink string, c *policy.Chain) ([]namedSet, []chain) {
	w := &inputRules{names: map[string]string{}}
	rules := []rule{
		accept(concat(meta(expr.MetaKeyIIFNAME), isNot(ifname(uplink)...))),
		admit("input: established", ctState(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)),
		// 1. What no rule may take away, or dom0 would lose its neighbours, its groups and its own address. All of it ends on dom0's link: the
		// kernel checks that ND has hop limit 255 and that MLD comes from a link-local address. MLD, because a switch that snoops forwards
		// solicitations only to who has reported the group. Redirects (137) and IGMP, which no address depends on, are for rules to admit.
		admit("input: neighbour discovery and MLD", icmpType(unix.IPPROTO_ICMPV6, 130, 136)),
		admit("input: MLDv2 reports", icmpType(unix.IPPROTO_ICMPV6, 143, 143)),
		// Offers come by broadcast or to an address that dom0 does not have yet, and answer a request that went to a group: tracking does not
		// know them as replies. Whoever could forge them could do so to the raw socket of most clients as well. DHCPv6 is between
		// link-local addresses (RFC 8415 13), so nobody beyond the link has a way in.
		admit("input: DHCP", nfproto(unix.NFPROTO_IPV4), l4proto(unix.IPPROTO_UDP), load(l4Header, 0, 4), is(0, 67, 0, 68)),
		admit("input: DHCPv6", nfproto(unix.NFPROTO_IPV6), l4proto(unix.IPPROTO_UDP), load(l4Header, 0, 4), is(547>>8, 547&0xff, 546>>8, 546&0xff),
			prefix(8, netip.MustParsePrefix("fe80::/10"))),
		// 2. As everywhere in the file, a rule for icmp or icmpv6 is about queries: errors and echo replies pass by the flow that they are about.
		drop(CountInputStray, icmpType(unix.IPPROTO_ICMP, 0, 0)),
		drop(CountInputStray, icmpType(unix.IPPROTO_ICMP, 3, 4)),
		drop(CountInputStray, icmpType(unix.IPPROTO_ICMP, 11, 12)),
		drop(CountInputStray, icmpType(unix.IPPROTO_ICMPV6, 0, 127)),
		drop(CountInputStray, icmpType(unix.IPPROTO_ICMPV6, 129, 129)),
	}
	for i := range c.Rules {
		rules = append(rules, w.rule(&c.Rules[i])...)
	}
	rules = append(rules, rule{CountInputDefault, verdict(c.Default)})
	return w.sets, []chain{
		{nftables.TableFamilyINet, chainRefuse, nil, 0, "", []rule{
			{"", concat(ctState(expr.CtStateBitINVALID), []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}})},
			{"", concat(l4proto(unix.IPPROTO_TCP), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})},
			// What a closed port answers: the sender's socket is told at once.
			{"", concat(l4proto(unix.IPPROTO_UDP), reject(unix.NFT_REJECT_ICMPX_PORT_UNREACH))},
			{"", reject(unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED)},
		}},
		{nftables.TableFamilyINet, chainInput, nftables.ChainHookInput, prioInput, "", rules},
	}
}

// rule writes one of the file's rules: once when it says the same of both families, else once for each that it can match, which may be none.
func (w *inputRules) rule(r *policy.Rule) (out []rule) {
	from, to := sideOf(r.From, policy.PeerUplink), sideOf(r.To, policy.PeerHost)
	comment := CountInputRule(r.Name)
	var families []byte
	switch {
	case r.Proto == unix.IPPROTO_ICMP:
		families = []byte{unix.NFPROTO_IPV4}
	case r.Proto == unix.IPPROTO_ICMPV6:
		families = []byte{unix.NFPROTO_IPV6}
	case from.all && to.all:
		return []rule{{comment, concat(w.transport(r), verdict(r.Action))}}
	default:
		families = []byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6}
	}
	for _, f := range families {
		src, ok1 := w.address(f, from, 12, 8)
		dst, ok2 := w.address(f, to, 16, 24)
		if ok1 && ok2 {
			out = append(out, rule{comment, concat(nfproto(f), w.transport(r), src, dst, verdict(r.Action))})
		}
	}
	return out
}

// InputCount is what a rule of host.uplink has decided on: packets that belong to no known flow, and their bytes, from the IP header on.
type InputCount struct{ Packets, Bytes uint64 }

// InputCounts are those of the rules of host.uplink, in the file's order, and of the default, which is last; nil where there is no host.uplink. They
// start again at 0 as those of Counters do.
func (d *Dom0) InputCounts() ([]InputCount, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	in := d.guard.shape.input
	switch {
	case d.closed:
		return nil, errClosed
	case in == nil:
		return nil, nil
	}
	counts := make([]InputCount, len(in.Rules)+1)
	index := map[string]int{CountInputDefault: len(in.Rules)}
	for i := range in.Rules {
		index[CountInputRule(in.Rules[i].Name)] = i
	}
	err := d.guard.count(chain{family: nftables.TableFamilyINet, name: chainInput}, func(comment string, n *expr.Counter) {
		if i, ok := index[comment]; ok { // a rule may be there twice, once for each family
			counts[i].Packets += n.Packets
			counts[i].Bytes += n.Bytes
		}
	})
	if err != nil {
		return nil, err
	}
	return counts, nil
}

// transport matches protocol and destination ports. The header is the whole packet's: tracking has put fragments together.
func (w *inputRules) transport(r *policy.Rule) []expr.Any {
	if r.Proto == policy.AnyProto {
		return nil
	}
	m := l4proto(byte(r.Proto))
	if len(r.Ports) == 0 {
		return m
	}
	m = concat(m, load(l4Header, 2, 2))
	if p := r.Ports[0]; len(r.Ports) == 1 {
		if p.First == p.Last {
			return concat(m, is(be16(p.First)...))
		}
		return concat(m, within(be16(p.First), be16(p.Last)))
	}
	return concat(m, in(w.set(setPorts, nftables.TypeInetService, portIntervals(r.Ports))))
}

// side is who may stand at one end of a packet.
type side struct {
	all    bool
	v4, v6 []netip.Prefix
}

// sideOf reads peers at the end where everyone is of the kind there. Others never stand there: guests and dom0 send nothing through the uplink
// to dom0, and what comes to dom0 is not for others.
func sideOf(peers []policy.Peer, there policy.PeerKind) (s side) {
	s.all = len(peers) == 0
	for _, p := range peers {
		switch {
		case p.Kind == there:
			s.all = true
		case p.Kind != policy.PeerPrefix:
		case p.Prefix.Addr().Is4():
			s.v4 = append(s.v4, p.Prefix)
		default:
			s.v6 = append(s.v6, p.Prefix)
		}
	}
	return s
}

// address matches one end in one family, at that offset of its header; false when nobody of that family may stand there.
func (w *inputRules) address(family byte, s side, at4, at6 uint32) ([]expr.Any, bool) {
	list, at, size, key, name := s.v4, at4, uint32(4), nftables.TypeIPAddr, setPeers4
	if family == unix.NFPROTO_IPV6 {
		list, at, size, key, name = s.v6, at6, 16, nftables.TypeIP6Addr, setPeers6
	}
	if s.all {
		return nil, true
	}
	switch list = mergePrefixes(list); len(list) {
	case 0:
		return nil, false
	case 1:
		return prefix(at, list[0]), true
	}
	return concat(load(netHeader, at, size), in(w.set(name, key, intervals(list)))), true
}

// set names the set of that content.
func (w *inputRules) set(kind string, key nftables.SetDatatype, elems []nftables.SetElement) string {
	content := kind
	for _, e := range elems {
		content += string(e.Key) // starts and ends take turns
	}
	name, ok := w.names[content]
	if !ok {
		name = fmt.Sprintf("%s%d", kind, len(w.names)+1)
		w.names[content] = name
		w.sets = append(w.sets, namedSet{name, key, elems})
	}
	return name
}

// portIntervals writes ranges as half-open intervals, in order and with neighbours joined.
func portIntervals(ports []policy.PortRange) (out []nftables.SetElement) {
	ports = slices.Clone(ports)
	slices.SortFunc(ports, func(a, b policy.PortRange) int { return int(a.First) - int(b.First) })
	joined := ports[:1]
	for _, p := range ports[1:] {
		if last := &joined[len(joined)-1]; int(p.First) <= int(last.Last)+1 {
			last.Last = max(last.Last, p.Last)
		} else {
			joined = append(joined, p)
		}
	}
	for _, p := range joined {
		out = append(out, nftables.SetElement{Key: be16(p.First)})
		if p.Last < 0xffff {
			out = append(out, nftables.SetElement{Key: be16(p.Last + 1), IntervalEnd: true})
		}
	}
	return out
}

// verdict counts and decides. A rejected packet goes on in the chain that answers.
func verdict(a policy.Action) []expr.Any {
	v := &expr.Verdict{Kind: expr.VerdictDrop} // also for an action that validate would not have let through
	switch a {
	case policy.Accept:
		v.Kind = expr.VerdictAccept
	case policy.Reject:
		v.Kind, v.Chain = expr.VerdictGoto, chainRefuse
	}
	return []expr.Any{&expr.Counter{}, v}
}

// Pieces of rules, as in rules_linux.go.

// admit accepts with a comment for who reads the table, and without a counter.
func admit(comment string, match ...[]expr.Any) rule { return rule{comment, accept(match...).exprs} }

func reject(code uint8) []expr.Any {
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: code}}
}

func isNot(value ...byte) []expr.Any {
	return []expr.Any{&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: value}}
}

func within(first, last []byte) []expr.Any {
	return []expr.Any{&expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: first, ToData: last}}
}

func be16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }

// icmpType matches types of ICMP in IPv4 or of ICMPv6 in IPv6.
func icmpType(proto, first, last byte) []expr.Any {
	family := byte(unix.NFPROTO_IPV4)
	if proto == unix.IPPROTO_ICMPV6 {
		family = unix.NFPROTO_IPV6
	}
	return concat(nfproto(family), l4proto(proto), load(l4Header, 0, 1), within([]byte{first}, []byte{last}))
}

// ctState matches packets in one of those states.
func ctState(bits uint32) []expr.Any {
	return []expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)}}
}

// prefix matches an address of the IP header.
func prefix(at uint32, p netip.Prefix) []expr.Any {
	b, whole := p.Addr().AsSlice(), p.Bits()/8
	switch {
	case p.Bits() == 0:
		return nil // the family is everyone
	case p.Bits()%8 == 0:
		return concat(load(netHeader, at, uint32(whole)), is(b[:whole]...))
	}
	mask := make([]byte, whole+1)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	n := uint32(len(mask))
	masked := []expr.Any{&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: n, Mask: mask, Xor: make([]byte, n)}}
	return concat(load(netHeader, at, n), masked, is(b[:n]...))
}
