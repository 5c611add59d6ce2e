package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"udrouter/integration/lab"
	"udrouter/policy"
)

// Where the datagrams come from and go to on the internet's side: prefixes that the upstream router throws away without a word, so
// that the way ends where the router under test has done its work. Its own link to dom0 is where they are sent and counted.
var (
	far4 = netip.MustParsePrefix("203.0.113.0/24")
	far6 = netip.MustParsePrefix("2001:db8:eeee::/64")
)

const (
	usualFlows = 64
	batch      = 64   // datagrams a system call
	farPorts   = 8192 // flows of one guest with one address of the internet
	firstFar   = 1024 // the first of their ports; all lie below those of the rules
	minFlows   = 16   // of each guest, of many
	settle     = time.Second / 10
)

// swallow has the upstream router drop what goes to far4 and far6.
func (c *contestant) swallow() error {
	h, err := c.lab.Gateway.Handle()
	if err != nil {
		return err
	}
	for _, p := range []netip.Prefix{far4, far6} {
		dst := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
		if err := h.RouteReplace(&netlink.Route{Dst: dst, Type: unix.RTN_BLACKHOLE}); err != nil {
			return fmt.Errorf("throwing away %s: %w", p, err)
		}
	}
	return nil
}

// ignoreUDP has datagrams to udpPort end in a full socket, which costs less than to say that the port is closed.
func ignoreUDP(n *lab.NS) error {
	for _, network := range []string{"udp4", "udp6"} {
		c, err := n.ListenPacket(network, fmt.Sprintf(":%d", udpPort))
		if err != nil {
			return err
		}
		n.OnClose(c.Close)
		if err := c.(*net.UDPConn).SetReadBuffer(1); err != nil {
			return err
		}
	}
	return nil
}

// packets is the rate of datagrams that arrive while more are sent than pass, over a number of flows which each were answered
// before. size is the frame's, in bytes without its checksum; IPv6 does not fit into the least, and has 2 more.
func packets(w way, size int) measure {
	if w.family == ipv6 {
		size = max(size, 62)
	}
	name := fmt.Sprintf("udp/%s/%d", w, size)
	return measure{
		name:    name,
		columns: []column{{name, "kpps", false}},
		run: func(ctx context.Context, c *contestant, d time.Duration) ([]float64, error) {
			up, down, err := streams(c, w.family, size)
			if err != nil {
				return nil, err
			}
			defer up.close()
			defer down.close()
			if err := establish(ctx, up, down); err != nil {
				return nil, err
			}
			measured := up
			if w.down {
				measured = down
			}
			pps, err := measured.rate(ctx, c.senders, d)
			if err == nil {
				err = c.knows(ctx, measured.flows())
			}
			return []float64{pps / 1e3}, err
		},
	}
}

// stream is what goes one way: frames, one for each flow, the sockets that send them and those that count them.
type stream struct {
	frames  []byte
	size    int   // of each frame
	senders []int // sender[i] sends run frames, then the next
	run     int
	counts  []*counter
	link    func() (lab.LinkCount, error) // where the first counts
}

// burst is what one thread sends at a time.
type burst struct {
	msgs [batch]mmsghdr
	iovs [batch]unix.Iovec
}

func newBurst(size int) *burst {
	b := &burst{}
	for i := range b.msgs {
		b.iovs[i].SetLen(size)
		b.msgs[i].hdr.Iov = &b.iovs[i]
		b.msgs[i].hdr.SetIovlen(1)
	}
	return b
}

// mmsghdr is struct mmsghdr of sendmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

// streams are the two ways of a number of flows, or a few more, that all guests share.
func streams(c *contestant, f family, size int) (up, down *stream, err error) {
	guests := c.lab.Guests
	each := max((c.flows+len(guests)-1)/len(guests), min(minFlows, c.flows))
	mac, err := guests[0].GatewayMAC()
	if err != nil {
		return nil, nil, err
	}
	gw := c.lab.Gateway
	up = &stream{size: size, run: min(batch, each), link: func() (lab.LinkCount, error) { return gw.Count(gw.Link) }}
	down = &stream{size: size, run: min(batch, each), link: func() (lab.LinkCount, error) { return guests[0].Count(guests[0].Link) }}
	defer func() {
		if err != nil {
			up.close()
			down.close()
		}
	}()
	if err := down.sender(gw.NS, gw.Link); err != nil {
		return nil, nil, err
	}
	if err := up.counter(gw.NS, gw.Link, f, false); err != nil {
		return nil, nil, err
	}
	for _, g := range guests {
		if err := errors.Join(up.sender(g.NS, g.Link), down.counter(g.NS, g.Link, f, true)); err != nil {
			return nil, nil, err
		}
	}
	payload := make([]byte, size-headers(f))
	total := each * len(guests)
	up.frames, down.frames = make([]byte, 0, total*size), make([]byte, 0, total*size)
	for i := range total {
		g, n := guests[i%len(guests)], i/len(guests) // downward each goes to another guest
		down.add(gw.MAC, c.lab.Dom0.MAC, far(f, n), own(f, g), payload)
		g, n = guests[i/up.run%len(guests)], i/up.run/len(guests)*up.run+i%up.run
		up.add(g.MAC, mac, own(f, g), far(f, n), payload)
	}
	return up, down, nil
}

func headers(f family) int {
	if f == ipv4 {
		return 14 + 20 + 8
	}
	return 14 + 40 + 8
}

func own(f family, g *lab.Guest) netip.AddrPort { return netip.AddrPortFrom(f.of(g.Node), udpPort) }

// far is the n-th flow's end in the internet.
func far(f family, n int) netip.AddrPort {
	a := far4.Addr()
	if f == ipv6 {
		a = far6.Addr()
	}
	for range 1 + n/farPorts {
		a = a.Next()
	}
	return netip.AddrPortFrom(a, uint16(firstFar+n%farPorts))
}

func (s *stream) add(srcMAC, dstMAC policy.MAC, src, dst netip.AddrPort, payload []byte) {
	s.frames = append(s.frames, lab.UDP{SrcMAC: srcMAC, DstMAC: dstMAC, Src: src, Dst: dst, Payload: payload}.Frame()...)
}

func (s *stream) sender(n *lab.NS, link string) error {
	fd, err := n.PacketSocket(link, 0, func(fd int) error {
		return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1))
	})
	if err == nil {
		s.senders = append(s.senders, fd)
	}
	return err
}

// counter counts the datagrams of a family to or from udpPort that a link receives.
type counter struct{ fd int }

func (s *stream) counter(n *lab.NS, link string, f family, to bool) error {
	fd, err := datagrams(n, link, f, to, 1) // a full buffer is the cheapest to count with: there is nothing to copy or to wake up for
	if err == nil {
		s.counts = append(s.counts, &counter{fd})
	}
	return err
}

// datagrams is a socket that receives the datagrams of a family to or from udpPort on a link, with a buffer of so many bytes.
func datagrams(n *lab.NS, link string, f family, to bool, buffer int) (int, error) {
	etherType, proto, ports := uint16(unix.ETH_P_IP), uint32(23), uint32(34)
	if f == ipv6 {
		etherType, proto, ports = unix.ETH_P_IPV6, 20, 54
	}
	if to {
		ports += 2
	}
	return n.PacketSocket(link, etherType, func(fd int) error {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
		return lab.AttachFilter(fd, []bpf.Instruction{
			bpf.LoadAbsolute{Off: proto, Size: 1},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 3},
			bpf.LoadAbsolute{Off: ports, Size: 2},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: udpPort, SkipTrue: 1},
			bpf.RetConstant{Val: 64},
			bpf.RetConstant{Val: 0},
		})
	})
}

// take is how many came since the last time. The kernel's number has those that found the buffer full.
func (c *counter) take() (int, error) {
	st, err := unix.GetsockoptTpacketStats(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0, os.NewSyscallError("getsockopt", err)
	}
	return int(st.Packets), nil
}

func (s *stream) take() (n int, err error) {
	for _, c := range s.counts {
		k, err := c.take()
		if err != nil {
			return 0, err
		}
		n += k
	}
	return n, nil
}

func (s *stream) close() {
	for _, fd := range s.senders {
		unix.Close(fd)
	}
	for _, c := range s.counts {
		unix.Close(c.fd)
	}
	s.senders, s.counts = nil, nil
}

// flows is how many frames there are.
func (s *stream) flows() int { return len(s.frames) / s.size }

// send sends at most n frames from the at-th on, of one sender and beginning anew behind the last, and returns how many.
func (s *stream) send(b *burst, at, n int) (int, error) {
	sender, flows := 0, s.flows()
	if len(s.senders) > 1 {
		sender = at / s.run % len(s.senders)
		n = min(n, s.run-at%s.run)
	}
	for i := range n {
		b.iovs[i].Base = &s.frames[(at+i)%flows*s.size]
	}
	return b.send(s.senders[sender], n)
}

// send sends the first n frames on a socket and returns how many it took.
func (b *burst) send(fd, n int) (int, error) {
	k, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.msgs[0])), uintptr(n), 0, 0, 0)
	switch errno {
	case 0:
		return int(k), nil
	case unix.EAGAIN, unix.ENOBUFS, unix.EINTR: // what the link holds is still on its way
		return 0, nil
	}
	return 0, os.NewSyscallError("sendmmsg", errno)
}

// establish sends one datagram of each flow up and one down, each until it has arrived.
func establish(ctx context.Context, up, down *stream) error {
	for _, s := range []*stream{up, down} {
		if _, err := s.take(); err != nil {
			return err
		}
		b := newBurst(s.size)
		for at := 0; at < s.flows(); {
			n, err := s.arrive(ctx, b, at)
			if err != nil {
				return fmt.Errorf("opening flows: %w", err)
			}
			at += n
		}
	}
	return nil
}

// arrive sends a batch anew until as many have come; a flow may be lost when the way is still being found out.
func (s *stream) arrive(ctx context.Context, b *burst, at int) (int, error) {
	const tries, wait = 20, 100 * time.Millisecond
	var n, came int
	for range tries {
		n = 0
		for n == 0 && ctx.Err() == nil {
			var err error
			if n, err = s.send(b, at, min(batch, s.flows()-at)); err != nil {
				return 0, err
			}
		}
		came = 0
		for end := time.Now().Add(wait); time.Now().Before(end) && ctx.Err() == nil; {
			k, err := s.take()
			if came += k; err != nil || came >= n {
				return n, err
			}
			time.Sleep(20 * time.Microsecond)
		}
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
	}
	return 0, fmt.Errorf("%d of %d datagrams arrive", came, n)
}

// rate has some threads send as fast as they can and returns how many datagrams a second arrive.
func (s *stream) rate(ctx context.Context, senders int, d time.Duration) (float64, error) {
	var stop atomic.Bool
	var g errgroup.Group
	for i := range senders {
		g.Go(func() error {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			return s.flood(&stop, s.flows()/s.run*i/senders*s.run)
		})
	}
	pps, err := s.watch(ctx, d)
	stop.Store(true)
	return pps, errors.Join(err, g.Wait())
}

func (s *stream) flood(stop *atomic.Bool, at int) error {
	b, flows := newBurst(s.size), s.flows()
	for !stop.Load() {
		n, err := s.send(b, at, batch)
		if err != nil {
			return err
		}
		at = (at + n) % flows
	}
	return nil
}

func (s *stream) watch(ctx context.Context, d time.Duration) (float64, error) {
	if err := wait(ctx, settle); err != nil {
		return 0, err
	}
	if _, err := s.take(); err != nil {
		return 0, err
	}
	start := time.Now()
	before, err := s.link()
	if err != nil {
		return 0, err
	}
	if err := wait(ctx, d); err != nil {
		return 0, err
	}
	after, err := s.link() // frames are counted from before the bytes are until after
	if err != nil {
		return 0, err
	}
	first, err := s.counts[0].take()
	if err != nil {
		return 0, err
	}
	n, err := s.take()
	if err != nil {
		return 0, err
	}
	took := time.Since(start)
	// A router that joins datagrams would be counted too low.
	if whole := float64(after.RxBytes-before.RxBytes) / float64(s.size); whole > 1.3*float64(first)+1000 {
		return 0, fmt.Errorf("%d frames arrived, but bytes for %.0f: datagrams were joined", first, whole)
	}
	return float64(first+n) / took.Seconds(), nil
}

// wait waits for a time, or for the context's end.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
