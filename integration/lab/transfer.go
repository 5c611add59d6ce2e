package lab

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// The first byte of a connection to a Server says what the rest is.
const (
	modeEcho   = 'e' // send back what comes
	modeSink   = 's' // read to the end, then tell how many bytes came
	modeSource = 'r' // send until the other side closes
)

const transferBuffer = 256 << 10 // bytes a read or write: large, so that system calls do not set the pace

// Server answers the probes of this file on one TCP port, in both families.
type Server struct {
	l  net.Listener
	wg sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]bool
	closed bool
}

// ServeTCP answers Transfer, Throughput and Conn on a port until the namespace is closed. Asking
// for a port again gives the same server.
func (n *NS) ServeTCP(port int) (*Server, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.servers[port]; s != nil {
		return s, nil
	}
	if n.closed {
		return nil, fmt.Errorf("serving in %s: %w", n.name, os.ErrClosed)
	}
	l, err := n.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return nil, err
	}
	s := &Server{l: l, conns: make(map[net.Conn]bool)}
	n.servers[port] = s
	n.closers = append(n.closers, s.Close)
	s.wg.Go(s.accept)
	return s, nil
}

func (s *Server) accept() {
	for {
		c, err := s.l.Accept()
		if err != nil {
			return // closed: nothing else ends a listener here
		}
		s.mu.Lock()
		if s.closed {
			c.Close()
		} else {
			s.conns[c] = true
			s.wg.Go(func() { s.serve(c) })
		}
		s.mu.Unlock()
	}
}

// serve answers one connection. Its errors are the other side's to notice: an answer is missing.
func (s *Server) serve(c net.Conn) {
	defer func() {
		c.Close()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	var mode [1]byte
	if _, err := io.ReadFull(c, mode[:]); err != nil {
		return
	}
	buf := make([]byte, transferBuffer)
	switch mode[0] {
	case modeEcho:
		for {
			k, err := c.Read(buf)
			if k > 0 {
				if _, err := c.Write(buf[:k]); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	case modeSink:
		var total uint64
		for {
			k, err := c.Read(buf)
			total += uint64(k)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return
			}
		}
		_, _ = c.Write(binary.BigEndian.AppendUint64(nil, total))
	case modeSource:
		for {
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	}
}

// Close ends the server and its connections. It may be called twice.
func (s *Server) Close() error {
	s.mu.Lock()
	var err error
	if !s.closed {
		err = s.l.Close()
	}
	s.closed = true
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	return err
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// dialServer connects to a Server and says what for; ctx ends whatever the connection does.
func (n *NS) dialServer(ctx context.Context, source netip.Addr, to netip.AddrPort, mode byte) (*net.TCPConn, func(), error) {
	c, err := n.DialFrom(ctx, "tcp", source, to.String())
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	done := func() {
		stop()
		c.Close()
	}
	if _, err := c.Write([]byte{mode}); err != nil {
		done()
		return nil, nil, err
	}
	return c.(*net.TCPConn), done, nil
}

// Transfer sends size bytes of noise over TCP to a Server while reading them back, and compares.
func (n *NS) Transfer(ctx context.Context, to netip.AddrPort, size int) error {
	if err := n.transfer(ctx, to, size); err != nil {
		return fmt.Errorf("transferring %d bytes from %s to %s: %w", size, n.name, to, orCause(ctx, err))
	}
	return nil
}

func (n *NS) transfer(ctx context.Context, to netip.AddrPort, size int) error {
	c, done, err := n.dialServer(ctx, netip.Addr{}, to, modeEcho)
	if err != nil {
		return err
	}
	defer done()
	seed := [32]byte{}
	binary.BigEndian.PutUint64(seed[:], rand.Uint64())
	sent := make(chan error, 1)
	var crc uint32
	go func() {
		noise := io.LimitReader(rand.NewChaCha8(seed), int64(size))
		buf := make([]byte, transferBuffer)
		for {
			k, err := noise.Read(buf)
			crc = crc32.Update(crc, castagnoli, buf[:k])
			if k > 0 {
				if _, err := c.Write(buf[:k]); err != nil {
					sent <- err
					return
				}
			}
			if errors.Is(err, io.EOF) {
				sent <- c.CloseWrite()
				return
			}
		}
	}()
	back := crc32.New(castagnoli)
	got, err := io.CopyBuffer(back, struct{ io.Reader }{c}, make([]byte, transferBuffer))
	if err != nil {
		c.Close()
	}
	if err := errors.Join(<-sent, err); err != nil {
		return err
	}
	if got != int64(size) || back.Sum32() != crc {
		return fmt.Errorf("%d bytes came back with checksum %08x, %d went with %08x", got, back.Sum32(), size, crc)
	}
	return nil
}

// orCause is why a context ended, if it has: then an error of the network is the context's doing.
func orCause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w (%w)", context.Cause(ctx), err)
	}
	return err
}

// Throughput sends zeros over one TCP connection to a Server for some time, and returns the bits a
// second that arrived, counted by the receiver over the time until it had the last of them.
func (n *NS) Throughput(ctx context.Context, to netip.AddrPort, d time.Duration) (bitsPerSecond float64, err error) {
	c, done, err := n.dialServer(ctx, netip.Addr{}, to, modeSink)
	if err != nil {
		return 0, err
	}
	defer done()
	buf := make([]byte, transferBuffer)
	var total uint64
	start := time.Now()
	for time.Since(start) < d {
		k, err := c.Write(buf)
		total += uint64(k)
		if err != nil {
			return 0, fmt.Errorf("sending from %s to %s: %w", n.name, to, orCause(ctx, err))
		}
	}
	if err := c.CloseWrite(); err != nil {
		return 0, fmt.Errorf("sending from %s to %s: %w", n.name, to, err)
	}
	var sum [8]byte
	if _, err := io.ReadFull(c, sum[:]); err != nil {
		return 0, fmt.Errorf("awaiting the count of %s: %w", to, orCause(ctx, err))
	}
	took := time.Since(start)
	if got := binary.BigEndian.Uint64(sum[:]); got != total {
		return 0, fmt.Errorf("%d of %d bytes came to %s", got, total, to)
	}
	return float64(total) * 8 / took.Seconds(), nil
}

// ThroughputFrom is Throughput in the other direction: the server sends, n receives and counts.
func (n *NS) ThroughputFrom(ctx context.Context, from netip.AddrPort, d time.Duration) (bitsPerSecond float64, err error) {
	c, done, err := n.dialServer(ctx, netip.Addr{}, from, modeSource)
	if err != nil {
		return 0, err
	}
	defer done()
	buf := make([]byte, transferBuffer)
	var total uint64
	start := time.Now()
	for time.Since(start) < d {
		k, err := c.Read(buf)
		total += uint64(k)
		if err != nil {
			return 0, fmt.Errorf("receiving from %s in %s: %w", from, n.name, orCause(ctx, err))
		}
	}
	return float64(total) * 8 / time.Since(start).Seconds(), nil
}

// Conn is an open connection to a Server, to see whether it lives through something.
type Conn struct {
	c  net.Conn
	to netip.AddrPort
}

// Open connects to a Server. The context is for the connecting alone; the caller closes.
func (n *NS) Open(ctx context.Context, to netip.AddrPort) (*Conn, error) {
	return n.OpenFrom(ctx, netip.AddrPort{}, to)
}

// OpenFrom is Open with a source, of which the kernel chooses what is left out.
func (n *NS) OpenFrom(ctx context.Context, source, to netip.AddrPort) (*Conn, error) {
	c, err := n.dialFrom(ctx, "tcp", source, to.String())
	if err != nil {
		return nil, err
	}
	if _, err := c.Write([]byte{modeEcho}); err != nil {
		c.Close()
		return nil, fmt.Errorf("opening a connection to %s: %w", to, err)
	}
	return &Conn{c: c, to: to}, nil
}

// Check sends some bytes and awaits them back. After an error the connection is of no more use.
func (c *Conn) Check(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { c.c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var sent, back [16]byte
	binary.BigEndian.PutUint64(sent[:], rand.Uint64())
	_, err := c.c.Write(sent[:])
	if err == nil {
		_, err = io.ReadFull(c.c, back[:])
	}
	if err != nil {
		return fmt.Errorf("using the open connection to %s: %w", c.to, orCause(ctx, err))
	}
	if back != sent {
		return fmt.Errorf("using the open connection to %s: % x came back for % x", c.to, back, sent)
	}
	return nil
}

// Close closes the connection.
func (c *Conn) Close() error { return c.c.Close() }

// ServeUDP echoes datagrams on a port until the namespace is closed, in both families.
func (n *NS) ServeUDP(port int) error {
	// One socket a family: answers then come from the address that was asked, if it is the only one.
	for _, network := range []string{"udp4", "udp6"} {
		c, err := n.ListenPacket(network, fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		n.Echo(c)
	}
	return nil
}

// Echo sends back what a socket receives until the namespace is closed, which closes the socket.
func (n *NS) Echo(c net.PacketConn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1<<16)
		for {
			k, from, err := c.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil { // else an ICMP error about an earlier answer
				_, _ = c.WriteTo(buf[:k], from)
			}
		}
	}()
	n.OnClose(func() error {
		err := c.Close()
		<-done
		return err
	})
}

// EchoUDP sends a datagram of size bytes (at least 8) and awaits it back; every so often it sends
// it anew, if that is not 0. It returns the time since the first.
func (n *NS) EchoUDP(ctx context.Context, to netip.AddrPort, size int, every time.Duration) (time.Duration, error) {
	c, err := n.DialFrom(ctx, "udp", netip.Addr{}, to.String())
	if err != nil {
		return 0, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	msg := make([]byte, max(size, 8))
	binary.BigEndian.PutUint64(msg, rand.Uint64())
	buf := make([]byte, 1<<16)
	start := time.Now()
	for {
		if _, err := c.Write(msg); err != nil {
			return 0, fmt.Errorf("sending from %s to %s: %w", n.name, to, err)
		}
		var until time.Time
		if every > 0 {
			until = time.Now().Add(every)
		}
		if err := c.SetReadDeadline(until); err != nil {
			return 0, err
		}
		for ctx.Err() == nil {
			k, err := c.Read(buf)
			if err == nil && bytes.Equal(buf[:k], msg) {
				return time.Since(start), nil
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return 0, fmt.Errorf("awaiting an echo of %s in %s: %w", to, n.name, orCause(ctx, err))
			}
		}
		if ctx.Err() != nil {
			return 0, fmt.Errorf("awaiting an echo of %s in %s: %w", to, n.name, context.Cause(ctx))
		}
	}
}
