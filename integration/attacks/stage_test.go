package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/integration/lab"
	"udrouter/integration/wire"
	"udrouter/policy"
)

// stage is a wire on which hostile rows are sent for real, with an honest guest beside, and witnesses: guests, uplink, and dom0 with
// what gets past its own protection and what its tables say. The router is the one under test (proc) or dom0's kernel.
//
//	guest one, guest two    frames by hand, both attacker and witness
//	guest three             a kernel; two TCP connections to the internet live on
//	uplink                  frames by hand; the upstream router's kernel forwards for guest three alone
type stage struct {
	*wire.Wire
	honest *lab.Guest
	conns  []*lab.Conn
	socks  []int                 // of dom0, that get what its protection lets in
	ports  map[policy.MAC]string // of the bridge; "nobody" for what is behind none of the guests'
	table  string                // dom0's routes
	serves bool                  // the router tells guests of itself

	strayed int // packets of the honest guest's connections that came to others
}

// newStage makes one under a policy; kernel has dom0's kernel route, in the reference's own way.
func newStage(t *testing.T, src string, kernel bool) *stage {
	w := wire.Silent(t, src+three)
	s := &stage{Wire: w, honest: w.Lab.Guest("three"), ports: map[policy.MAC]string{}}
	if kernel {
		s.startKernel()
	} else {
		s.StartRouter()
		s.Announced()
		s.ports[s.Net.Router] = w.Lab.Config.Bridge.TAP
	}
	for _, g := range w.Lab.Guests {
		s.ports[g.MAC] = g.Domu.Vif
	}
	for _, m := range []policy.MAC{s.Net.Gateway, s.Net.Eth0} {
		s.ports[m] = "nobody"
	}
	for _, p := range []cases.Place{cases.One, cases.Two} {
		g := w.Lab.Guest(string(p))
		w.Answer(p, g.Node, func(f []byte) []byte { return guestAnswer(f, w.Net.Router, g) })
	}
	s.serveHonest()
	for _, domain := range []int{unix.AF_INET, unix.AF_INET6} {
		for _, proto := range []int{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
			fd, err := w.Lab.Dom0.Socket(domain, unix.SOCK_RAW, proto)
			wire.Must(t, err)
			t.Cleanup(func() { unix.Close(fd) })
			s.socks = append(s.socks, fd)
		}
	}
	s.repair()
	s.table = s.routes()
	return s
}

// startKernel makes dom0's kernel the router, as the reference does.
func (s *stage) startKernel() {
	t, l := s.T, s.Lab
	wire.Must(t, l.KernelRouter(lab.KernelOptions{Protect: true}))
	// For a second after a change the kernel lets no other ARP answer count. That puts answers in order, and protects nobody; here it
	// would only have a row's outcome depend on the time since the last.
	for _, link := range []string{l.Config.Bridge.Name, l.Dom0.Link} {
		wire.Must(t, l.Dom0.SetSysctl("net.ipv4.neigh."+link+".locktime", "0"))
	}
	var err error
	s.Net.Router, err = l.Dom0.LinkMAC(l.Config.Bridge.Name)
	wire.Must(t, err)
	s.Net.UplinkLL = policy.EUI64(s.Net.Eth0)
}

// serveHonest opens the honest guest's connections. The upstream router's kernel knows the way to that guest without asking, and has no
// address toward dom0, so that it stays silent about all others.
func (s *stage) serveHonest() {
	t, gw, g := s.T, s.Lab.Gateway, s.honest
	for _, key := range []string{"addr_gen_mode=1", "disable_ipv6=0"} {
		k, v, _ := strings.Cut(key, "=")
		wire.Must(t, gw.SetSysctl("net.ipv6.conf."+gw.Link+"."+k, v))
	}
	// What the guest's kernel believes of advertisements and redirects is not what is looked at, and would not go away by itself.
	for _, key := range []string{"ipv6.conf.%s.accept_ra", "ipv6.conf.%s.accept_redirects", "ipv4.conf.%s.accept_redirects", "ipv4.conf.all.accept_redirects"} {
		if strings.Contains(key, "%s") {
			key = fmt.Sprintf(key, g.Link)
		}
		wire.Must(t, g.SetSysctl("net."+key, "0"))
	}
	for _, a := range []netip.Addr{g.Addr4(), g.Addr6()} {
		wire.Must(t, gw.AddRoute(gw.Link, lab.Route{Dst: netip.PrefixFrom(a, a.BitLen())}))
		wire.Must(t, gw.AddNeighbour(gw.Link, a, s.Net.Eth0))
	}
	_, err := s.Lab.Internet.ServeTCP(443)
	wire.Must(t, err)
	s.openHonest()
	t.Cleanup(s.closeHonest)
}

func (s *stage) openHonest() {
	for _, a := range []netip.Addr{s.Lab.Internet.Addr4(), s.Lab.Internet.Addr6()} {
		c, err := s.honest.Open(wire.Context(s.T), netip.AddrPortFrom(a, 443))
		wire.Must(s.T, err)
		s.conns = append(s.conns, c)
	}
}

func (s *stage) closeHonest() {
	for _, c := range s.conns {
		c.Close()
	}
	s.conns = nil
}

// guestAnswer answers the router's questions for what a guest is bound to.
func guestAnswer(f []byte, router policy.MAC, g *lab.Guest) []byte {
	var p policy.Packet
	if p.Parse(f, policy.Offload{}) != policy.None || p.SrcMAC != router {
		return nil
	}
	switch {
	case p.EtherType == policy.EtherARP && p.ARP.Op == 1 && g.Has(p.ARP.TPA):
		return cases.ARP(router, g.MAC, 2, g.MAC, p.ARP.TPA, p.ARP.SHA, p.ARP.SPA)
	case p.IsND() && p.ICMPType == policy.NeighborSolicitation && (g.Has(p.ND.Target) || p.ND.Target == policy.EUI64(g.MAC)) && !p.Src.IsUnspecified():
		return cases.NA(router, g.MAC, p.ND.Target, p.Src, p.ND.Target, g.MAC, policy.NASolicited|policy.NAOverride)
	}
	return nil
}

// hostile tells rows that are worth a comparison: what a guest or a station on the uplink sends and must not come through, or must
// not be answered.
func hostile(c cases.Case) bool {
	return c.Attack() != 0 && c.From != cases.Dom0 && !c.Kernel && (c.Reason != policy.None || len(c.Out) == 0)
}

// harm is who has seen of an attack.
type harm struct{ neighbour, provider, dom0, sender bool }

func (h harm) String() string {
	var words []string
	for _, w := range []struct {
		is   bool
		name string
	}{{h.neighbour, "neighbour"}, {h.provider, "provider"}, {h.dom0, "dom0"}, {h.sender, "sender"}} {
		if w.is {
			words = append(words, w.name)
		}
	}
	return strings.Join(words, ", ")
}

func (h harm) or(o harm) harm {
	return harm{h.neighbour || o.neighbour, h.provider || o.provider, h.dom0 || o.dom0, h.sender || o.sender}
}

// suffer sends a hostile row while the honest guest's connections are used, and tells who has seen what of it.
//
// It has come through when
//   - a frame that is not the network's own noise is seen at another guest, whether the router or the bridge brought it;
//   - or at the uplink, unless a router without a policy forwards it rightly (see rightly);
//   - or a TCP or UDP packet gets past dom0's own protection (SSH apart, which that admits);
//   - or a packet of the honest guest's connections comes to another guest, of those that are used when the row has been sent;
//   - or dom0 or the honest guest believe something that is not true: neighbours, forwarding database, routes;
//   - or a packet to nobody's address has dom0 ask all guests for it, and keep a place in its table (RFC 6583);
//   - or its sender gets an ICMP error about what no error may be sent about (RFC 1812 4.3.2.7, RFC 4443 2.4(e)).
//
// It has not, when the sender gets an ICMP error instead of silence, or is told where the router itself is.
//
// A row without a reason is one that the router has nothing to do with: a question that is not for it. There only an answer counts, and a
// copy that was routed: that stations of one link see each other's broadcasts is no attack. So it is with unicast in broadcasts. Of the
// rows about errors nothing but errors counts.
func (s *stage) suffer(t *testing.T, c cases.Case) (harm, []string) {
	s.T = t
	for _, b := range c.Before {
		wire.Must(t, s.Send[b.From].Send(b.Frame(s.Net)))
		s.Fence(b.From, beyond(b.From))
	}
	s.repair()
	s.reached()
	for _, p := range wire.Places {
		s.Take(p)
	}
	talk := s.talk()

	wire.Must(t, s.Send[c.From].Send(c.Frame(s.Net)))
	for _, f := range c.Then {
		wire.Must(t, s.Send[f.From].Send(f.Frame(s.Net)))
	}
	s.through(c.From)
	// Once more, by what kernels believe now: who is deceived sends to another than is meant, and nothing comes back until it is repaired.
	if talk.isBack() {
		if err := talk.end(); err != nil {
			t.Errorf("the neighbour's connections: %v", err)
		}
		talk = s.talk()
		talk.isBack()
	}
	o := &observed{}
	s.watchTables(c, o)
	s.repair()
	s.Fence(cases.Two, cases.X4) // the bridge knows again who is where
	s.Fence(cases.One, cases.Two4)
	s.Fence(beside(c.From), cases.One4)
	if c.From == cases.Uplink {
		s.Fence(c.From, cases.Two4)
	}
	if err := talk.end(); err != nil {
		t.Errorf("the neighbour's connections: %v", err)
	}
	if n := s.reached(); n > 0 {
		o.see(&o.dom0, "%d packets past dom0's protection", n)
	}
	for _, p := range wire.Places {
		for _, f := range s.strange(c, p) {
			if s.stolen(p, f) {
				s.strayed++
				o.see(&o.neighbour, "another's connection at %s: %x", p, f)
				continue
			}
			s.watchFrame(c, p, f, o)
		}
	}
	return o.harm, o.what
}

// observed is what the witnesses of a row have seen.
type observed struct {
	harm
	what []string
}

func (o *observed) see(harmed *bool, format string, args ...any) {
	*harmed = true
	o.what = append(o.what, fmt.Sprintf(format, args...))
}

func (s *stage) watchTables(c cases.Case, o *observed) {
	for _, e := range s.believed() {
		switch {
		case e.asked && c.Reason != policy.UnboundDst:
		case e.node == s.honest.Node:
			o.see(&o.neighbour, "believed: %s", e.what)
		default:
			o.see(&o.dom0, "believed: %s", e.what)
		}
	}
	if now := s.routes(); now != s.table {
		o.see(&o.dom0, "routes: %s", now)
	}
}

func (s *stage) watchFrame(c cases.Case, at cases.Place, f []byte, o *observed) {
	switch {
	case at == c.From:
		if told(c, f) {
			o.see(&o.sender, "told: %x", f)
		}
	case c.Attack() == 68 && !isError(f):
	case c.Reason == policy.VLAN && s.fromRouter(f): // a priority tag, which 802.1Q lets a station take off
	case (c.Reason == policy.None || noError(c)) && !s.fromRouter(f):
	case at == cases.Uplink:
		if s.Proc != nil || !rightly(c.Reason) {
			o.see(&o.provider, "at the uplink: %x", f)
		}
	case at == cases.Dom0:
		o.see(&o.dom0, "at dom0: %x", f)
	default:
		o.see(&o.neighbour, "at %s: %x", at, f)
	}
}

// through waits until the router is done with what a place has sent, by ways that hold whatever became of the neighbours' entries.
func (s *stage) through(from cases.Place) {
	if from == cases.Uplink {
		s.Fence(from, cases.AllNodes)
		return
	}
	s.Fence(from, cases.X4)
}

// beyond is where what a place sends goes past the router; beside is who is to reach guest one, when a place has sent.
func beyond(from cases.Place) netip.Addr {
	if from == cases.Uplink {
		return cases.Two4
	}
	return cases.X4
}

func beside(from cases.Place) cases.Place {
	if from == cases.Uplink {
		return from
	}
	return cases.Two
}

// talk is a use of the honest guest's connections.
type talk struct {
	s      *stage
	done   chan struct{}
	err    error // when done
	cancel context.CancelFunc
}

func (s *stage) talk() *talk {
	ctx, cancel := context.WithCancel(wire.Context(s.T))
	t := &talk{s: s, done: make(chan struct{}), cancel: cancel}
	go func() {
		defer close(t.done)
		t.err = s.converse(ctx)
	}()
	return t
}

// isBack waits for the answers, long enough for packets that go astray to be seen: that nothing comes back has no event.
func (t *talk) isBack() bool {
	select {
	case <-t.done:
		return true
	case <-time.After(50 * time.Millisecond):
		return false
	}
}

// end tells what came of it. Behind the kernel, that nothing came back is no error: the connections are made anew, when the tables have been repaired.
func (t *talk) end() error {
	defer t.cancel()
	if t.s.Proc != nil || t.isBack() {
		<-t.done
		return t.err
	}
	t.cancel()
	<-t.done
	t.s.closeHonest()
	t.s.openHonest()
	return nil
}

// converse uses the honest guest's connections.
func (s *stage) converse(ctx context.Context) error {
	var all errgroup.Group
	for _, c := range s.conns {
		all.Go(func() error { return c.Check(ctx) })
	}
	return all.Wait()
}

// reached is how many packets got to dom0's sockets since the last time.
func (s *stage) reached() (n int) {
	buf := make([]byte, 1<<16)
	for i, fd := range s.socks {
		for {
			k, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
			if err != nil {
				break
			}
			at := 0
			if i < 2 { // IPv4 comes with its header
				at = int(buf[0]&15) * 4
			}
			if tcp := i%2 == 1; tcp && k >= at+4 && binary.BigEndian.Uint16(buf[at+2:]) == 22 {
				continue
			}
			n++
		}
	}
	return n
}

// strange are the frames seen at a place that neither belong to the row nor are noise.
func (s *stage) strange(c cases.Case, at cases.Place) (out [][]byte) {
	want := map[string]int{}
	for _, o := range c.Out {
		if o.At == at {
			want[string(wire.AnyID(o.Frame(s.Net)))]++
		}
	}
	for _, f := range s.Take(at) {
		if key := string(wire.AnyID(f)); want[key] > 0 {
			want[key]--
			continue
		}
		if s.stolen(at, f) || !s.noise(f) {
			out = append(out, f)
		}
	}
	return out
}

// stolen tells a packet of the honest guest's connections that came to another guest: where the application is not.
func (s *stage) stolen(at cases.Place, f []byte) bool {
	var p policy.Packet
	return (at == cases.One || at == cases.Two) && p.Parse(f, policy.Offload{}) == policy.None && p.Proto == policy.ProtoTCP && (s.honest.Has(p.Src) || s.honest.Has(p.Dst))
}

func (s *stage) fromRouter(f []byte) bool {
	return macOf(f[6:]) == s.Net.Router || macOf(f[6:]) == s.Net.Eth0
}

// noise tells what a router and an honest guest say by themselves.
func (s *stage) noise(f []byte) bool {
	if macOf(f) == s.honest.MAC || macOf(f[6:]) == s.honest.MAC {
		return true
	}
	var p policy.Packet
	if p.Parse(f, policy.Offload{}) != policy.None {
		return false
	}
	switch {
	case !s.fromRouter(f):
		return s.honest.Has(p.Src) || s.honest.Has(p.Dst)
	case p.EtherType == policy.EtherARP:
		return p.ARP.Op == 1 && p.ARP.SHA == p.SrcMAC
	case s.honest.Has(p.Src) || s.honest.Has(p.Dst):
		return true
	case p.IsIPv6() && p.Proto == policy.ProtoICMPv6:
		switch p.ICMPType {
		case policy.NeighborSolicitation:
			return p.TTL == 255
		case policy.RouterAdvertisement:
			return s.serves && p.Src == cases.LL1 && p.SrcMAC == s.Net.Router
		case 130, 131, 132, 143, 133: // MLD and router solicitations
			return p.Dst.IsMulticast()
		case 1, 3: // nobody answered, for seconds; a fragment that was waited for
			return p.ICMPType == 1 && p.ICMPCode == 3 || p.ICMPType == 3 && p.ICMPCode == 1
		}
	case p.Proto == policy.ProtoICMP && p.FragOff == 0:
		return p.ICMPType == 3 && p.ICMPCode == 1 || p.ICMPType == 11 && p.ICMPCode == 1
	case p.Proto == 2: // IGMP
		return p.Dst.IsMulticast()
	}
	return false
}

// rightly tells what a router without policy and state forwards to the internet as RFC 1812 and RFC 8200 have it. To a guest it is
// still what that guest has not asked for.
func rightly(r policy.Reason) bool {
	switch r {
	case policy.Malformed, // beyond the IP header, which alone is a router's business
		policy.TinyFragment, policy.OversizeFrag, policy.FragmentOverlap, policy.FragmentOrphan, policy.FragmentLimit,
		policy.HeaderChain, policy.RoutingHeader, policy.SourceRoute, policy.ICMPType, policy.DHCPGuard, policy.Unrelated,
		policy.TCPFlags, policy.TCPState, policy.TCPWindow, policy.NoFlow, policy.FlowSide, policy.FlowLimit,
		policy.EgressPolicy, policy.IngressPolicy, policy.LimitPackets, policy.LimitBandwidth, policy.LimitNewFlows:
		return true
	}
	return false
}

// told tells answers to a row's sender that must not be: errors about what none may be sent about, and, where the row is a question that
// nobody may answer, the claim that somebody is there.
func told(c cases.Case, f []byte) bool {
	var p policy.Packet
	if len(c.Out) > 0 || p.Parse(f, policy.Offload{}) != policy.None {
		return false
	}
	if c.Reason == policy.None {
		return p.EtherType == policy.EtherARP && p.ARP.Op == 2 && p.ARP.SPA != cases.Dom04 && p.ARP.SPA != cases.Router4 ||
			p.IsND() && p.ICMPType == policy.NeighborAdvertisement && p.ND.Target != cases.Router6
	}
	return noError(c) && isError(f)
}

// isError tells ICMP errors.
func isError(f []byte) bool {
	var p policy.Packet
	return p.Parse(f, policy.Offload{}) == policy.None && (p.IsIPv6() && p.Proto == policy.ProtoICMPv6 && p.ICMPType < 128 ||
		p.IsIPv4() && p.Proto == policy.ProtoICMP && bytes.Contains([]byte{3, 4, 5, 11, 12}, []byte{p.ICMPType}))
}

// noError tells rows whose point is that no ICMP error comes of them.
func noError(c cases.Case) bool { return c.Attack() == 7 || c.Attack() == 68 }

// sourceOf is the configuration that a row is written for.
func sourceOf(enforced bool) string {
	if enforced {
		return string(config.Reference)
	}
	return cases.Open(config.Reference)
}
