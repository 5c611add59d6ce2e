package live

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"udrouter/integration/lab"
	"udrouter/policy"
	"udrouter/router"
)

// witness is a link of a host on which everything is looked at.
type witness struct {
	name string // as a test names who is there
	node *lab.Node
	link string
	ip   bool // frames begin with the IP header
	*lab.Sniffer
}

// watch begins to look at every link but dom0's to the router, which start does.
func (s *stage) watch() error {
	add := func(name string, n *lab.Node) (*witness, error) {
		sn, err := n.Sniff(n.Link, lab.SniffOptions{})
		w := &witness{name: name, node: n, link: n.Link, Sniffer: sn}
		s.witnesses = append(s.witnesses, w)
		return w, err
	}
	for _, g := range s.lab.Guests {
		w, err := add(policy.Peer{Kind: policy.PeerDomu, Domu: g.Name()}.String(), g.Node)
		if err != nil {
			return err
		}
		s.guests[g.Name()] = w
	}
	var errs [3]error
	s.uplink, errs[0] = add("uplink", s.lab.Gateway)
	s.internet, errs[1] = add("uplink", s.lab.Internet)
	s.eth0, errs[2] = add("host", s.lab.Dom0)
	return errors.Join(errs[:]...)
}

// watchTUN looks at dom0's link to the router, which is another one with each router.
func (s *stage) watchTUN() error {
	if s.cfg.Host == nil {
		return nil
	}
	link := s.cfg.Host.Interface
	sn, err := s.lab.Dom0.Sniff(link, lab.SniffOptions{})
	if err != nil {
		return err
	}
	s.tun = &witness{name: "host", node: s.lab.Dom0, link: link, ip: true, Sniffer: sn}
	s.witnesses = append(s.witnesses, s.tun)
	return nil
}

// mark is how a packet is known again, whatever router it has passed.
type mark struct {
	src, dst         netip.Addr
	proto            int
	srcPort, dstPort uint16 // as of a stack.Probe
	raw              []byte // of what is forged: its end, which no router or bridge changes
}

// in tells whether a frame that a witness has seen carries the packet.
func (m *mark) in(w *witness, f []byte) bool {
	l4, proto, src, dst := dissect(f, w.ip)
	if m.raw != nil {
		// An error about it carries it as well.
		return bytes.Contains(f, m.raw) && !(len(l4) > 0 && (proto == policy.ProtoICMP && (l4[0] == 3 || l4[0] == 11 || l4[0] == 12) || proto == policy.ProtoICMPv6 && l4[0] < 128))
	}
	return l4 != nil && src == m.src && dst == m.dst && proto == m.proto && m.inL4(l4)
}

// answeredBy tells whether a frame carries an answer to the packet.
func (m *mark) answeredBy(w *witness, f []byte) bool {
	if m.proto != policy.ProtoICMP && m.proto != policy.ProtoICMPv6 && !policy.RulePorts(m.proto) {
		return false
	}
	back := mark{src: m.dst, dst: m.src, proto: m.proto, srcPort: m.dstPort, dstPort: m.srcPort}
	if m.proto == policy.ProtoICMP || m.proto == policy.ProtoICMPv6 {
		back.srcPort = m.srcPort // the identifier of both
	}
	return back.in(w, f)
}

// inL4 tells whether a packet's data begins as that of this one does. Of protocols without ports the data was made by hand and goes on to the end.
func (m *mark) inL4(l4 []byte) bool {
	if len(l4) < 8 {
		return false
	}
	switch m.proto {
	case policy.ProtoTCP, policy.ProtoUDP:
		return binary.BigEndian.Uint16(l4) == m.srcPort && binary.BigEndian.Uint16(l4[2:]) == m.dstPort
	case policy.ProtoICMP, policy.ProtoICMPv6:
		return binary.BigEndian.Uint16(l4[4:]) == m.srcPort
	}
	return len(l4) >= 20 && binary.BigEndian.Uint16(l4[18:]) == m.srcPort
}

// refusal tells whether a frame tells the packet's sender that it did not get through, and in what words.
func (m *mark) refusal(w *witness, f []byte) (string, bool) {
	l4, proto, src, dst := dissect(f, w.ip)
	if len(l4) < 8 || dst != m.src {
		return "", false
	}
	switch {
	case proto == policy.ProtoTCP && m.proto == policy.ProtoTCP && src == m.dst && len(l4) >= 20:
		const rst = 4
		if binary.BigEndian.Uint16(l4) == m.dstPort && binary.BigEndian.Uint16(l4[2:]) == m.srcPort && l4[13]&rst != 0 {
			return fmt.Sprintf("TCP reset from %s", src), true
		}
	case proto == policy.ProtoICMP && l4[0] == 3 && l4[1] > hostUnreachable4, proto == policy.ProtoICMPv6 && l4[0] == 1 && !slices.Contains(noWay6, l4[1]):
		inner, p, s, d := dissect(l4[8:], true)
		if p == m.proto && s == m.src && d == m.dst && m.inL4(inner) {
			return fmt.Sprintf("ICMP type %d code %d from %s", l4[0], l4[1], src), true
		}
	}
	return "", false
}

// Codes of destination unreachable that say that there is no way, nobody there, or that an address is of its link alone: nobody refuses (RFC 1812
// 5.2.7.1, RFC 4443 3.1). Those of ICMP are the first two.
const hostUnreachable4 = 1

var noWay6 = []byte{0, 2, 3}

// dissect finds what is behind the IP header of a packet that is no later fragment; nil: there is none.
func dissect(f []byte, ip bool) (l4 []byte, proto int, src, dst netip.Addr) {
	if !ip {
		if len(f) < policy.EthernetLen {
			return
		}
		f = f[policy.EthernetLen:]
	}
	switch {
	case len(f) >= policy.IPv4Len && f[0]>>4 == 4:
		n := int(f[0]&15) * 4
		if n < policy.IPv4Len || len(f) < n || binary.BigEndian.Uint16(f[6:])&0x1fff != 0 {
			return
		}
		return f[n:], int(f[9]), netip.AddrFrom4([4]byte(f[12:16])), netip.AddrFrom4([4]byte(f[16:20]))
	case len(f) >= policy.IPv6Len && f[0]>>4 == 6:
		return f[policy.IPv6Len:], int(f[6]), netip.AddrFrom16([16]byte(f[8:24])), netip.AddrFrom16([16]byte(f[24:40]))
	}
	return
}

// sent is a packet that was sent, to be looked for until the end.
type sent struct {
	mark
	answer *router.Answer
	from   *witness
	to     *witness          // nil: nobody, or the router itself
	heard  atomic.Bool       // its receiver has said so
	before map[*witness]int  // how many frames there were; who is not in it had none yet
	fenced map[string]uint64 // what the router has counted of fences
}

// newSent begins to look for a packet.
func (s *stage) newSent(a *router.Answer, m mark, from, to *witness) *sent {
	p := &sent{mark: m, answer: a, from: from, to: to, before: map[*witness]int{}, fenced: map[string]uint64{}}
	for _, w := range s.witnesses {
		p.before[w] = len(w.Frames())
	}
	s.sent = append(s.sent, p)
	return p
}

// at tells who has been brought the packet so far: whether it is at its destination, and where else. Dom0's uplink is left out, where the kernel
// decides what gets in, and so is a host that sends, and the provider's router where dom0 itself sends by it.
func (s *stage) at(p *sent) (there bool, elsewhere []string) {
	there = p.heard.Load()
	for _, w := range s.witnesses {
		before, known := p.before[w]
		if !known || w == s.eth0 || s.byProvider(p) && w == s.uplink && w != p.to || !slices.ContainsFunc(w.FramesFrom(before), func(f lab.Frame) bool { return !f.Outgoing && p.in(w, f.Data) }) {
			continue
		}
		if w == p.to {
			there = true
		} else if !slices.Contains(elsewhere, w.name) {
			elsewhere = append(elsewhere, w.name)
		}
	}
	if p.to == nil && p.answer.To == "router" {
		there = there || slices.ContainsFunc(p.from.FramesFrom(p.before[p.from]), func(f lab.Frame) bool { return !f.Outgoing && p.answeredBy(p.from, f.Data) })
	}
	if there && p.to == s.internet { // it comes by the upstream router
		elsewhere = slices.DeleteFunc(elsewhere, func(name string) bool { return name == s.uplink.name })
	}
	return there, elsewhere
}

// byProvider tells whether dom0's kernel may send a packet by the provider's router: all but what is for a guest whom it knows behind the TUN.
func (s *stage) byProvider(p *sent) bool {
	return p.from == s.eth0 || p.from.node == s.eth0.node && p.to == nil
}

// strayed tells who besides its sender has got the answer to a packet. On the way to and from the internet is the provider's router. Whose address it is
// gets what answers a forged one.
func (s *stage) strayed(p *sent) (who []string) {
	if !p.from.node.Has(p.src) || p.answer.Forge != "" {
		return nil
	}
	outside := func(w *witness) bool { return w == s.uplink || w == s.internet }
	beyond := outside(p.from) || p.to != nil && outside(p.to)
	for _, w := range s.witnesses {
		before, known := p.before[w]
		if !known || w == s.eth0 || w.node == p.from.node || p.to != nil && w.node == p.to.node || beyond && outside(w) || slices.Contains(who, w.name) {
			continue
		}
		if slices.ContainsFunc(w.FramesFrom(before), func(f lab.Frame) bool { return !f.Outgoing && p.answeredBy(w, f.Data) }) {
			who = append(who, w.name)
		}
	}
	return who
}

// toldSender is what the sender was told, "" for nothing.
func (s *stage) toldSender(p *sent) (text string) {
	for _, f := range p.from.FramesFrom(p.before[p.from]) {
		if said, ok := p.refusal(p.from, f.Data); ok && !f.Outgoing {
			text = said
		}
	}
	return text
}

// judge writes down what became of a packet.
func (s *stage) judge(p *sent) {
	there, elsewhere := s.at(p)
	seen := p.answer.Live
	seen.Told = s.toldSender(p)
	seen.At = append(seen.At[:0], elsewhere...)
	switch {
	case there:
		seen.Verdict, seen.Told = policy.Accept.String(), "" // what its receiver says
		to := p.answer.To
		if to == "" && p.to != nil {
			to = p.to.name
		}
		seen.At = append([]string{to}, elsewhere...)
	case seen.Told != "":
		seen.Verdict = policy.Reject.String()
	default:
		seen.Verdict = policy.Drop.String()
	}
	if len(elsewhere) > 0 {
		seen.Wrong = "it was seen where it is not to be"
	}
	if who := s.strayed(p); len(who) > 0 {
		seen.Wrong = "its answer was seen where it is not to be: by " + strings.Join(who, ", ")
	}
}

// late looks once more for every packet: what came late came all the same.
func (s *stage) late() {
	for _, p := range s.sent {
		s.judge(p)
	}
}

// await waits until a packet has come to its destination or its sender was told that it will not.
func (s *stage) await(ctx context.Context, p *sent) error {
	return lab.Await(ctx, "the packet or news of it", func() (bool, error) {
		there, _ := s.at(p)
		return there || s.toldSender(p) != "", nil
	})
}
