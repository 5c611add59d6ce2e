package live

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"udrouter/integration/lab"
	"udrouter/policy"
	"udrouter/router"
	"udrouter/stack"
)

// again is how long a packet is waited for before it is sent anew: that one was lost does not fail a test.
const again = 300 * time.Millisecond

// step sends a packet of each family that a step is of, and writes down what became of them.
func (s *stage) step(ctx context.Context, t *policy.TestCase, r *router.StepResult) error {
	for i := range r.Answers {
		a := &r.Answers[i]
		a.Live = &router.Seen{At: []string{}, Counted: []string{}}
		if err := s.fresh(ctx, a, r.Proto); err != nil {
			return err
		}
		if err := s.packet(ctx, t, &r.TestStep, a); err != nil {
			return fmt.Errorf("%s to %s: %w", a.Src, a.Dst, err)
		}
	}
	return nil
}

// withPatience bounds the time that a packet, or its sender's being told, is waited for.
func withPatience(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, patience, fmt.Errorf("nothing within %v", patience))
}

// packet sends one.
func (s *stage) packet(ctx context.Context, test *policy.TestCase, t *policy.TestStep, a *router.Answer) error {
	from, err := s.sender(t.From, a)
	if err != nil {
		return err
	}
	to, err := s.receiver(t.From, a)
	if err != nil {
		return err
	}
	if t.Expect == policy.Accept && to == nil && a.To != "router" {
		a.Live.Verdict, a.Live.Wrong = policy.Drop.String(), "there is nobody in the lab who has the address"
		return nil
	}
	before, err := s.status(ctx)
	if err != nil {
		return err
	}
	probe := router.ProbeOf(t.Question, a.Src, a.Dst, s.nextPort(), a.Opened != nil)
	p := s.newSent(a, mark{src: a.Src, dst: a.Dst, proto: protoOf(t.Question, a.Src.Is6()), srcPort: probe.SrcPort, dstPort: probe.DstPort}, from, to)
	echo := t.Proto == policy.ProtoICMP || t.Proto == policy.ProtoICMPv6
	// A link-local address would have to be named with its link.
	kernels := from.node.Has(a.Src) && !a.Src.IsLinkLocalUnicast() && s.between(from, to) && t.Forge == policy.NoForgery && (to != nil && (policy.RulePorts(t.Proto) || echo) || to == nil && echo && a.To == "router")
	if a.Opened != nil {
		kernels = kernels && t.Question == test.Question
		err = s.open(ctx, p, test, kernels)
	}
	switch {
	case err != nil || a.Live.Wrong != "":
	case kernels && a.Opened != nil: // the opener has had its answer
	case kernels:
		err = s.converse(ctx, p, t)
	default:
		err = s.inject(ctx, p, t, probe)
	}
	if err != nil {
		return err
	}
	after, err := s.status(ctx)
	if err != nil {
		return err
	}
	a.Live.Counted = counted(before, after, p.fenced)
	s.judge(p)
	return nil
}

// between tells whether what a host's kernel sends to another comes to the router, or to dom0: not what is for the host itself, or for somebody on the
// same side.
func (s *stage) between(from, to *witness) bool {
	outside := func(w *witness) bool { return w == s.uplink || w == s.internet }
	return (from != to || from == s.eth0) && !(outside(from) && outside(to))
}

// protoOf is the protocol of a packet: that of the question, or of the message that is forged. AnyProto: it is none of IP.
func protoOf(q policy.Question, v6 bool) int {
	switch {
	case q.Forge == policy.ForgeDHCP:
		return policy.ProtoUDP
	case q.Forge == policy.ForgeRedirect && !v6:
		return policy.ProtoICMP
	case q.Forge == policy.ForgeRedirect, q.Forge == policy.ForgeND, q.Forge == policy.ForgeRA:
		return policy.ProtoICMPv6
	}
	return q.Proto
}

// open has the receiver open the connection that a packet answers in: by that it is answered as well. own: the packet is that answer.
func (s *stage) open(ctx context.Context, p *sent, test *policy.TestCase, own bool) error {
	o := p.answer.Opened
	client, err := s.sender(s.peerOf(o.Src), o)
	if err != nil {
		return err
	}
	server, err := s.receiver(s.peerOf(o.Src), o)
	if err != nil {
		return err
	}
	if server == nil && o.To != "router" || !client.node.Has(o.Src) {
		p.answer.Live.Wrong = "there is nobody in the lab to open the connection that it answers in"
		return nil
	}
	port := p.srcPort
	if policy.RulePorts(p.proto) {
		port = p.dstPort
	}
	talk, err := s.talk(&sent{mark: mark{src: o.Src, dst: o.Dst, proto: test.Proto, srcPort: port, dstPort: test.Port}, from: client, to: server})
	if err != nil {
		return err
	}
	bounded, cancel := withPatience(ctx)
	defer cancel()
	switch err := talk(bounded); {
	case err != nil:
		p.answer.Live.Wrong = fmt.Sprintf("the connection that it answers in is not opened: %v", err)
	case own:
		p.heard.Store(true)
	}
	return nil
}

// peerOf is who has an address.
func (s *stage) peerOf(a netip.Addr) policy.Peer {
	switch w := s.bound(a); {
	case w != nil:
		return policy.Peer{Kind: policy.PeerDomu, Domu: w.node.Name()}
	case s.lab.Dom0.Has(a):
		return policy.Peer{Kind: policy.PeerHost}
	}
	return policy.Peer{Kind: policy.PeerUplink}
}

// counted are the words of what was counted between two times, without the fences, in alphabetical order; rules of host.uplink are "uplink:NAME".
func counted(before, after *router.Status, fenced map[string]uint64) []string {
	words := []string{}
	for word, n := range after.Drops {
		if n > before.Drops[word]+fenced[word] {
			words = append(words, word)
		}
	}
	for i, r := range after.HostUplink {
		if i < len(before.HostUplink) && r.Packets > before.HostUplink[i].Packets {
			words = append(words, "uplink:"+r.Rule)
		}
	}
	slices.Sort(words)
	return words
}

// converse has the sender's kernel talk with the receiver's.
func (s *stage) converse(ctx context.Context, p *sent, t *policy.TestStep) error {
	talk, err := s.talk(p)
	if err != nil {
		return err
	}
	bounded, cancel := withPatience(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- talk(bounded) }()
	ended := func(err error) {
		if err == nil {
			p.heard.Store(true)
		} else if there, _ := s.at(p); there && t.Expect == policy.Accept {
			p.answer.Live.Wrong = fmt.Sprintf("it came, but the answer did not: %v", err)
		}
	}
	switch t.Expect {
	case policy.Accept:
		ended(<-done)
		return nil
	case policy.Reject:
		_ = s.await(bounded, p) // what there is by then decides
	default:
		// It has left, or its own host has refused it.
		left := make(chan struct{})
		go func() {
			defer close(left)
			_, _ = p.from.AwaitFrom(bounded, p.before[p.from], func(f lab.Frame) bool { return f.Outgoing && p.in(p.from, f.Data) })
		}()
		select {
		case <-left:
		case err := <-done:
			done <- err
		}
		if err := s.fence(ctx, p); err != nil {
			return err
		}
	}
	cancel()
	if err := <-done; err == nil {
		p.heard.Store(true)
	}
	return nil
}

// talk is a function that has the two kernels talk until each has had an answer of the other, or the sender an error.
func (s *stage) talk(p *sent) (func(ctx context.Context) error, error) {
	from := p.from.node
	src, dst := netip.AddrPortFrom(p.src, p.srcPort), netip.AddrPortFrom(p.dst, p.dstPort)
	switch p.proto {
	case policy.ProtoTCP:
		if _, err := p.to.node.ServeTCP(int(p.dstPort)); err != nil {
			return nil, err
		}
		return func(ctx context.Context) error { return talkTCP(ctx, from, src, dst) }, nil
	case policy.ProtoUDP:
		if err := s.serveUDP(p.to.node, dst); err != nil {
			return nil, err
		}
		return func(ctx context.Context) error { return talkUDP(ctx, from, src, dst) }, nil
	}
	return func(ctx context.Context) error {
		_, err := from.Ping(ctx, p.dst, lab.PingOptions{Source: p.src, ID: p.srcPort, Every: again})
		return err
	}, nil
}

func talkTCP(ctx context.Context, from *lab.Node, src, dst netip.AddrPort) error {
	c, err := from.OpenFrom(ctx, src, dst)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Check(ctx)
}

func talkUDP(ctx context.Context, from *lab.Node, src, dst netip.AddrPort) error {
	c, err := from.ListenPacket("udp", src.String())
	if err != nil {
		return err
	}
	defer c.Close()
	text, buf := []byte("udrouter"), make([]byte, 64)
	for ctx.Err() == nil {
		if _, err := c.WriteTo(text, net.UDPAddrFromAddrPort(dst)); err != nil {
			return err
		}
		if err := c.SetReadDeadline(time.Now().Add(again)); err != nil {
			return err
		}
		n, _, err := c.ReadFrom(buf)
		if err == nil && bytes.Equal(buf[:n], text) {
			return nil
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
	return context.Cause(ctx)
}

// serveUDP echoes datagrams to an address, until the lab is closed: each address has a socket of its own, so that answers come from it.
func (s *stage) serveUDP(n *lab.Node, at netip.AddrPort) error {
	if s.servers[at.String()] {
		return nil
	}
	c, err := n.ListenPacket("udp", at.String())
	if err != nil {
		return err
	}
	s.servers[at.String()] = true
	n.Echo(c)
	return nil
}

// inject sends a packet that was made by hand.
func (s *stage) inject(ctx context.Context, p *sent, t *policy.TestStep, probe stack.Probe) error {
	send, err := s.injector(p, t, probe)
	if err != nil {
		return err
	}
	if p.to == s.eth0 && p.proto != policy.AnyProto {
		stop, err := s.listen(p)
		if err != nil {
			return err
		}
		defer stop()
	}
	if t.Expect == policy.Drop {
		if err := send(); err != nil {
			return err
		}
		return s.fence(ctx, p)
	}
	bounded, cancel := withPatience(ctx)
	defer cancel()
	for bounded.Err() == nil {
		if err := send(); err != nil {
			return err
		}
		soon, cancel := context.WithTimeout(bounded, again)
		err := s.await(soon, p)
		cancel()
		if err == nil {
			break
		}
	}
	return nil
}

// injector makes the packet, and is how to send it.
func (s *stage) injector(p *sent, t *policy.TestStep, probe stack.Probe) (func() error, error) {
	if t.From.Kind == policy.PeerHost {
		f := probe.Build().Bytes()[policy.EthernetLen:]
		return func() error { return sendIP(p.from.node, p.dst, f) }, nil
	}
	w := p.from
	if t.From.Kind == policy.PeerUplink {
		w = s.uplink
		router.Attach(&probe, s.lab.Gateway.MAC, s.lab.Dom0.MAC, s.routerMAC)
	} else {
		next := s.routerMAC
		if !s.cfg.Bridge.Isolate && p.to != nil && p.to != w && s.guests[p.to.node.Name()] == p.to {
			next = p.to.node.MAC // nothing keeps a guest from that
		}
		router.Attach(&probe, w.node.MAC, next, router.StrangersMAC(w.node.MAC))
	}
	f := probe.Build().Bytes()
	if t.Forge != policy.NoForgery || p.answer.Opened != nil { // what has the same ports may be true
		const most = 20 // no more than the header of a transport
		p.raw = f[max(policy.EthernetLen, len(f)-most):]
		if t.Forge == policy.ForgeFragment {
			p.raw = f[len(f)-8:]
		}
	}
	return s.wire(w, f)
}

// wire is how to send a frame on a witness's link.
func (s *stage) wire(w *witness, f []byte) (func() error, error) {
	if s.wires[w] == nil {
		var err error
		if s.wires[w], err = w.node.Sender(w.link); err != nil {
			return nil, err
		}
	}
	return func() error { return s.wires[w].Send(f) }, nil
}

// sendIP has a kernel send an IP packet as it is, from whatever address.
func sendIP(n *lab.Node, dst netip.Addr, packet []byte) error {
	domain, level, opt := unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_HDRINCL
	var to unix.Sockaddr = &unix.SockaddrInet6{Addr: dst.As16()}
	if dst.Is4() {
		domain, level, opt, to = unix.AF_INET, unix.IPPROTO_IP, unix.IP_HDRINCL, &unix.SockaddrInet4{Addr: dst.As4()}
	}
	fd, err := n.Socket(domain, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, level, opt, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	switch err := unix.Sendto(fd, packet, 0, to); err {
	case nil, unix.EPERM, unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL, unix.EADDRNOTAVAIL: // the kernel itself refuses it: it has not been sent
		return nil
	default:
		return os.NewSyscallError("sendto", err)
	}
}

// fence waits until the router is done with what the packet's sender has sent, or says of the packet that this cannot be told. The first one says that it has
// been decided on; the second, which the router takes in a later batch, that what came of it has been sent.
func (s *stage) fence(ctx context.Context, p *sent) error {
	send, word, err := s.fencer(p)
	if err != nil || send == nil {
		return err
	}
	bounded, cancel := withPatience(ctx)
	defer cancel()
	for range 2 {
		st, err := s.status(ctx)
		if err != nil {
			return err
		}
		was := st.Drops[word]
		if err := send(); err != nil {
			return err
		}
		p.fenced[word]++
		err = lab.Await(bounded, "the fence", func() (bool, error) {
			st, err := s.status(ctx)
			return err == nil && st.Drops[word] > was, err
		})
		if bounded.Err() != nil && ctx.Err() == nil {
			p.answer.Live.Wrong = fmt.Sprintf("what was sent behind it did not come to the router within %v, so that nothing is known of it", patience)
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// fencer sends something on the packet's way that the router certainly drops, for the reason of a word. nil: nothing goes to the router there.
func (s *stage) fencer(p *sent) (send func() error, word string, err error) {
	datagram := func(src, dst netip.Addr) *stack.Frame {
		return stack.Probe{Src: src, Dst: dst, Proto: policy.ProtoUDP, SrcPort: 9, DstPort: 9}.Build()
	}
	guest := s.anyGuest()
	etherType := uint16(policy.EtherIPv4)
	if guest.Is6() {
		etherType = policy.EtherIPv6
	}
	switch {
	case p.from == s.uplink || p.from == s.internet:
		if !guest.IsValid() {
			return nil, "", nil
		}
		f := datagram(guest, guest)
		f.SetEthernet(s.lab.Dom0.MAC, s.lab.Gateway.MAC, etherType)
		send, err = s.wire(s.uplink, f.Bytes())
		return send, policy.SpoofUplink.String(), err
	case p.from == s.tun:
		if !guest.IsValid() {
			return nil, "", nil
		}
		f := datagram(guest, guest)
		return func() error { return sendIP(s.lab.Dom0, guest, f.Bytes()[policy.EthernetLen:]) }, policy.HostSource.String(), nil
	case p.from == s.eth0:
		return nil, "", nil
	}
	f := datagram(netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2"))
	f.SetEthernet(s.routerMAC, p.from.node.MAC, policy.EtherIPv4)
	send, err = s.wire(p.from, f.Bytes())
	return send, policy.MartianSrc.String(), err
}

// anyGuest is an address that a guest has; the zero one where none has.
func (s *stage) anyGuest() netip.Addr {
	for _, g := range s.lab.Guests {
		for _, p := range g.Addrs {
			if !p.Addr().IsLinkLocalUnicast() {
				return p.Addr()
			}
		}
	}
	return netip.Addr{}
}
