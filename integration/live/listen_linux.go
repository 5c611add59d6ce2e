package live

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// listen hears what gets into dom0's kernel past its firewall. stop returns when all that has come by then is heard.
func (s *stage) listen(p *sent) (stop func(), err error) {
	network := fmt.Sprintf("ip6:%d", p.proto)
	if p.dst.Is4() {
		network = fmt.Sprintf("ip4:%d", p.proto)
	}
	c, err := s.lab.Dom0.ListenPacket(network, p.dst.String())
	if err != nil {
		return nil, err
	}
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			err := raw.Read(func(fd uintptr) bool { return p.hear(int(fd)) })
			if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
				return
			}
		}
	}()
	return func() {
		_ = c.SetReadDeadline(time.Now())
		<-done
		// What the sender has been told of may still wait to be read.
		_ = raw.Control(func(fd uintptr) {
			for p.hear(int(fd)) {
			}
		})
		c.Close()
	}, nil
}

// hear reads from a raw socket, and tells whether there was something.
func (p *sent) hear(fd int) bool {
	buf := make([]byte, 1<<16)
	n, from, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
	if err != nil {
		return err != unix.EAGAIN
	}
	var src netip.Addr
	l4 := buf[:n]
	switch a := from.(type) {
	case *unix.SockaddrInet4:
		src = netip.AddrFrom4(a.Addr)
		l4 = l4[min(n, int(buf[0]&15)*4):] // behind the IP header, which IPv6 leaves out
	case *unix.SockaddrInet6:
		src = netip.AddrFrom16(a.Addr)
	}
	if src == p.src && (p.raw == nil && p.inL4(l4) || p.raw != nil && bytes.HasSuffix(l4, p.raw)) {
		p.heard.Store(true)
	}
	return true
}
