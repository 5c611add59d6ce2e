package lab

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ICMP message types that the probes send and read.
const (
	icmp4EchoReply    = 0
	icmp4Unreachable  = 3
	icmp4Echo         = 8
	icmp4TimeExceeded = 11
	icmp4ParamProblem = 12

	icmp6Unreachable  = 1
	icmp6TooBig       = 2
	icmp6TimeExceeded = 3
	icmp6ParamProblem = 4
	icmp6Echo         = 128
	icmp6EchoReply    = 129
)

// ICMPError is the answer of a router or host that did not take a probe on.
type ICMPError struct {
	From       netip.Addr
	Type, Code uint8
	MTU        int // bytes; of "too big" alone
}

func (e *ICMPError) Error() string {
	s := fmt.Sprintf("ICMP type %d code %d from %s", e.Type, e.Code, e.From)
	if e.MTU != 0 {
		s += fmt.Sprintf(" (MTU %d)", e.MTU)
	}
	return s
}

// exceeded tells whether the hop limit ran out in transit.
func (e *ICMPError) exceeded() bool {
	want := uint8(icmp6TimeExceeded)
	if e.From.Is4() {
		want = icmp4TimeExceeded
	}
	return e.Type == want && e.Code == 0
}

// PingOptions vary an echo request.
type PingOptions struct {
	Source       netip.Addr    // zero: the kernel's choice
	Size         int           // bytes after the ICMP header, at least 16; 0: 56
	DontFragment bool          // set DF, and let the sender not fragment either
	HopLimit     int           // 0: the kernel's
	ID           uint16        // pings with the same are of one flow; 0: a new one
	Every        time.Duration // ask again when there is no answer for so long; 0: ask once
}

// Echo is an answer to an echo request.
type Echo struct {
	RTT      time.Duration // since the request that was answered
	HopLimit int           // what arrived
	Sent     int           // how many requests it took
}

// Ping sends an echo request and waits for its answer until ctx is done. An ICMP error about it
// ends that with an *ICMPError, and a packet that the sender itself may not send with EMSGSIZE.
// A link-local dst needs its link's index as zone: package net caches names across namespaces.
func (n *NS) Ping(ctx context.Context, dst netip.Addr, o PingOptions) (Echo, error) {
	e, err := n.ping(ctx, dst, o)
	if err != nil {
		return e, fmt.Errorf("pinging %s from %s: %w", dst, n.name, err)
	}
	return e, nil
}

func (n *NS) ping(ctx context.Context, dst netip.Addr, o PingOptions) (Echo, error) {
	c, err := n.openICMP(ctx, dst, o.Source)
	if err != nil {
		return Echo{}, err
	}
	defer c.close()
	if err := c.options(o.HopLimit, o.DontFragment); err != nil {
		return Echo{}, err
	}
	size := o.Size
	if size == 0 {
		size = 56
	}
	data := make([]byte, max(size, 16))
	for i := range data {
		data[i] = byte(i)
	}
	binary.BigEndian.PutUint64(data, rand.Uint64()) // tells this ping from others with its identifier
	id := o.ID
	if id == 0 {
		id = uint16(rand.Uint32())
	}
	var sent []time.Time
	for {
		sent = append(sent, time.Now()) // before: in a lab the answer may be there when the call returns
		if err := c.sendEcho(id, uint16(len(sent)-1), data); err != nil {
			return Echo{}, err
		}
		var until time.Time
		if o.Every > 0 {
			until = time.Now().Add(o.Every)
		}
		m, err := c.await(ctx, until, func(m *icmpMessage) bool {
			if m.err != nil {
				return m.aboutEcho(id)
			}
			seq, ok := m.echoReply(id)
			return ok && int(seq) < len(sent) && bytes.Equal(m.body[4:], data)
		})
		switch {
		case errors.Is(err, errAgain):
			continue
		case err != nil:
			return Echo{}, err
		case m.err != nil:
			return Echo{}, m.err
		}
		seq, _ := m.echoReply(id)
		return Echo{RTT: m.when.Sub(sent[seq]), HopLimit: m.hopLimit, Sent: len(sent)}, nil
	}
}

// TraceOptions vary a trace.
type TraceOptions struct {
	Source  netip.Addr
	UDP     bool          // probe with UDP to ports from 33435 instead of echo requests
	Max     int           // hops; 0: 16
	Timeout time.Duration // for one hop, asked twice; 0: 2 s
}

// Trace finds the routers on the way to dst by letting the hop limit run out at each. A hop that
// did not answer is the zero Addr; the last one is dst when it was reached.
func (n *NS) Trace(ctx context.Context, dst netip.Addr, o TraceOptions) ([]netip.Addr, error) {
	hops, err := n.trace(ctx, dst, o)
	if err != nil {
		return hops, fmt.Errorf("tracing %s from %s: %w", dst, n.name, err)
	}
	return hops, nil
}

func (n *NS) trace(ctx context.Context, dst netip.Addr, o TraceOptions) (hops []netip.Addr, err error) {
	if o.Max == 0 {
		o.Max = 16
	}
	if o.Timeout == 0 {
		o.Timeout = 2 * time.Second
	}
	c, err := n.openICMP(ctx, dst, o.Source)
	if err != nil {
		return nil, err
	}
	defer c.close()
	id := uint16(rand.Uint32())
	for hop := 1; hop <= o.Max; hop++ {
		about := func(m *icmpMessage) bool { return m.aboutEcho(id) }
		probe := func() error { return c.sendEcho(id, uint16(hop), make([]byte, 32)) }
		if o.UDP {
			u, err := n.DialFrom(ctx, "udp", o.Source, netip.AddrPortFrom(dst, uint16(33434+hop)).String())
			if err != nil {
				return hops, err
			}
			defer u.Close()
			if err := setHopLimit(u.(*net.UDPConn), dst, hop); err != nil {
				return hops, err
			}
			port := u.LocalAddr().(*net.UDPAddr).AddrPort().Port()
			about = func(m *icmpMessage) bool { return m.aboutUDP(port, uint16(33434+hop)) }
			probe = func() error {
				// The kernel tells this socket of the error that the last one met: not a failure to send.
				if _, err := u.Write(make([]byte, 32)); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
					return err
				}
				return nil
			}
		} else if err := c.options(hop, false); err != nil {
			return hops, err
		}
		m, err := askTwice(ctx, c, o.Timeout, probe, func(m *icmpMessage) bool {
			if m.err != nil {
				return about(m)
			}
			_, ok := m.echoReply(id)
			return ok && !o.UDP
		})
		switch {
		case errors.Is(err, errAgain):
			hops = append(hops, netip.Addr{})
			continue
		case err != nil:
			return hops, err
		}
		hops = append(hops, m.from)
		if m.err == nil || !m.err.exceeded() {
			return hops, nil
		}
	}
	return hops, nil
}

func askTwice(ctx context.Context, c *icmpConn, timeout time.Duration, probe func() error,
	match func(*icmpMessage) bool) (m *icmpMessage, err error) {
	for range 2 {
		if err := probe(); err != nil {
			return nil, err
		}
		if m, err = c.await(ctx, time.Now().Add(timeout/2), match); !errors.Is(err, errAgain) {
			return m, err
		}
	}
	return nil, err
}

// errAgain: the time until which to wait has come, the context's has not.
var errAgain = errors.New("no answer yet")

// icmpConn is a raw ICMP socket toward one address. It sees all ICMP of its namespace.
type icmpConn struct {
	*net.IPConn
	dst  netip.Addr
	stop func() bool
	buf  []byte
}

// icmpMessage is what such a socket received: an error, or something else.
type icmpMessage struct {
	from     netip.Addr
	when     time.Time
	hopLimit int
	typ      uint8
	body     []byte     // after type, code and checksum: of an echo its identifier, number and data
	err      *ICMPError // nil: not an error
	inner    []byte     // of an error: the transport header and data of the packet that it is about
	innerDst netip.Addr
	proto    uint8 // of inner
}

func (n *NS) openICMP(ctx context.Context, dst, source netip.Addr) (*icmpConn, error) {
	network, local := "ip6:58", "::"
	if dst.Is4() {
		network, local = "ip4:1", "0.0.0.0"
	}
	if source.IsValid() {
		local = source.String()
	}
	pc, err := n.ListenPacket(network, local)
	if err != nil {
		return nil, err
	}
	c := &icmpConn{IPConn: pc.(*net.IPConn), dst: dst, buf: make([]byte, 1<<16)}
	c.stop = context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })
	if dst.Is6() {
		err = c.setsockopt(unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1)
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *icmpConn) close() {
	c.stop()
	c.IPConn.Close()
}

func (c *icmpConn) options(hopLimit int, df bool) error {
	if hopLimit != 0 {
		if err := setHopLimit(c.IPConn, c.dst, hopLimit); err != nil {
			return err
		}
	}
	if !df {
		return nil
	}
	if c.dst.Is4() {
		return c.setsockopt(unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
	}
	if err := c.setsockopt(unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE); err != nil {
		return err
	}
	return c.setsockopt(unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1)
}

func (c *icmpConn) setsockopt(level, opt, value int) error {
	return setsockopt(c.IPConn, level, opt, value)
}

func setHopLimit(c syscall.Conn, dst netip.Addr, hops int) error {
	if dst.Is4() {
		return setsockopt(c, unix.IPPROTO_IP, unix.IP_TTL, hops)
	}
	return setsockopt(c, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, hops)
}

func setsockopt(c syscall.Conn, level, opt, value int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), level, opt, value) })
	return errors.Join(err, os.NewSyscallError("setsockopt", set))
}

func (c *icmpConn) sendEcho(id, seq uint16, data []byte) error {
	m := make([]byte, 8, 8+len(data))
	m[0] = icmp6Echo
	if c.dst.Is4() {
		m[0] = icmp4Echo
	}
	binary.BigEndian.PutUint16(m[4:], id)
	binary.BigEndian.PutUint16(m[6:], seq)
	m = append(m, data...)
	if c.dst.Is4() { // for IPv6 the kernel does it
		binary.BigEndian.PutUint16(m[2:], checksum(m, 0))
	}
	_, err := c.WriteToIP(m, &net.IPAddr{IP: c.dst.AsSlice(), Zone: c.dst.Zone()})
	return err
}

// await reads until a message matches, a time that is not zero has come (errAgain), or ctx is done.
func (c *icmpConn) await(ctx context.Context, until time.Time, match func(*icmpMessage) bool) (*icmpMessage, error) {
	oob := make([]byte, 64)
	for {
		if err := c.SetReadDeadline(until); err != nil {
			return nil, err
		}
		if ctx.Err() != nil { // it may have ended just before the deadline was set anew
			return nil, context.Cause(ctx)
		}
		k, oobk, _, from, err := c.ReadMsgIP(c.buf, oob)
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, errAgain
		case err != nil:
			return nil, err
		}
		m := &icmpMessage{when: time.Now()}
		m.from, _ = netip.AddrFromSlice(from.IP)
		m.from = m.from.Unmap()
		if c.parse(m, c.buf[:k], oob[:oobk]) && match(m) {
			m.body, m.inner = slices.Clone(m.body), slices.Clone(m.inner)
			return m, nil
		}
	}
}

// parse reads what the socket gave: with its IP header in IPv4, without in IPv6.
func (c *icmpConn) parse(m *icmpMessage, b, oob []byte) bool {
	if c.dst.Is4() {
		if len(b) < 20 || len(b) < int(b[0]&15)*4 {
			return false
		}
		m.hopLimit = int(b[8])
		b = b[int(b[0]&15)*4:]
	} else if list, err := unix.ParseSocketControlMessage(oob); err == nil {
		for _, cm := range list {
			if cm.Header.Level == unix.IPPROTO_IPV6 && cm.Header.Type == unix.IPV6_HOPLIMIT && len(cm.Data) >= 4 {
				m.hopLimit = int(binary.NativeEndian.Uint32(cm.Data))
			}
		}
	}
	if len(b) < 8 {
		return false
	}
	m.typ, m.body = b[0], b[4:]
	e := &ICMPError{From: m.from, Type: b[0], Code: b[1]}
	if c.dst.Is4() {
		switch b[0] {
		case icmp4Unreachable:
			if b[1] == 4 {
				e.MTU = int(binary.BigEndian.Uint16(b[6:]))
			}
		case icmp4TimeExceeded, icmp4ParamProblem:
		default:
			return true
		}
		inner := b[8:]
		if len(inner) < 20 || len(inner) < int(inner[0]&15)*4 {
			return false
		}
		m.err, m.proto, m.inner = e, inner[9], inner[int(inner[0]&15)*4:]
		m.innerDst = netip.AddrFrom4([4]byte(inner[16:20]))
		return m.innerDst == c.dst.WithZone("")
	}
	switch b[0] {
	case icmp6TooBig:
		e.MTU = int(binary.BigEndian.Uint32(b[4:]))
	case icmp6Unreachable, icmp6TimeExceeded, icmp6ParamProblem:
	default:
		return true
	}
	inner := b[8:]
	if len(inner) < 40 {
		return false
	}
	m.err, m.proto, m.inner = e, inner[6], inner[40:]
	if m.proto == unix.IPPROTO_FRAGMENT && len(m.inner) >= 8 {
		m.proto, m.inner = m.inner[0], m.inner[8:]
	}
	m.innerDst = netip.AddrFrom16([16]byte(inner[24:40]))
	return m.innerDst == c.dst.WithZone("")
}

// echoReply is the number of an answer to an echo request with an identifier.
func (m *icmpMessage) echoReply(id uint16) (seq uint16, ok bool) {
	want := uint8(icmp6EchoReply)
	if m.from.Is4() {
		want = icmp4EchoReply
	}
	if m.typ != want || len(m.body) < 4 || binary.BigEndian.Uint16(m.body) != id {
		return 0, false
	}
	return binary.BigEndian.Uint16(m.body[2:]), true
}

// aboutEcho tells whether an error is about an echo request with an identifier.
func (m *icmpMessage) aboutEcho(id uint16) bool {
	if m.err == nil || len(m.inner) < 8 || binary.BigEndian.Uint16(m.inner[4:]) != id {
		return false
	}
	return m.proto == unix.IPPROTO_ICMP && m.inner[0] == icmp4Echo || m.proto == unix.IPPROTO_ICMPV6 && m.inner[0] == icmp6Echo
}

// aboutUDP tells whether an error is about a datagram between two ports.
func (m *icmpMessage) aboutUDP(src, dst uint16) bool {
	return m.err != nil && m.proto == unix.IPPROTO_UDP && len(m.inner) >= 4 &&
		binary.BigEndian.Uint16(m.inner) == src && binary.BigEndian.Uint16(m.inner[2:]) == dst
}
