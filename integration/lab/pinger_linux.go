package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNoEcho is that an echo request was not answered in time.
var ErrNoEcho = errors.New("no echo in time")

// Pinger sends echo requests to one address through one socket, all with one identifier, for those who want many of them and a time that
// says more about the way than about this process: an answer's arrival is the kernel's, not when a goroutine came to read it. It is for one
// goroutine at a time.
type Pinger struct {
	c    *icmpConn
	id   uint16
	seq  uint16
	data []byte
	oob  []byte
}

// Pinger opens a socket toward dst. The context ends whatever it does later on; the caller closes.
func (n *NS) Pinger(ctx context.Context, dst netip.Addr) (*Pinger, error) {
	c, err := n.openICMP(ctx, dst, netip.Addr{})
	if err != nil {
		return nil, err
	}
	if err := c.setsockopt(unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		c.close()
		return nil, err
	}
	return &Pinger{c: c, id: uint16(rand.Uint32()), data: make([]byte, 56), oob: make([]byte, 128)}, nil
}

// Ping sends one request and returns the time until its answer, or ErrNoEcho. Answers to earlier ones are passed over.
func (p *Pinger) Ping(timeout time.Duration) (time.Duration, error) {
	p.seq++
	sent := time.Now()
	if err := p.c.sendEcho(p.id, p.seq, p.data); err != nil {
		return 0, fmt.Errorf("pinging %s: %w", p.c.dst, err)
	}
	if err := p.c.SetReadDeadline(sent.Add(timeout)); err != nil {
		return 0, err
	}
	for {
		n, oobn, _, from, err := p.c.ReadMsgIP(p.c.buf, p.oob)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, ErrNoEcho
		}
		if err != nil {
			return 0, fmt.Errorf("pinging %s: %w", p.c.dst, err)
		}
		var m icmpMessage
		m.from, _ = netip.AddrFromSlice(from.IP)
		m.from = m.from.Unmap()
		if !p.c.parse(&m, p.c.buf[:n], nil) {
			continue
		}
		if seq, ok := m.echoReply(p.id); !ok || seq != p.seq {
			continue
		}
		when, err := arrival(p.oob[:oobn])
		return when.Sub(sent.Round(0)), err // by the wall clock, which is the kernel's
	}
}

// arrival is the kernel's time in the control messages of a socket with SO_TIMESTAMPNS.
func arrival(oob []byte) (time.Time, error) {
	list, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return time.Time{}, os.NewSyscallError("recvmsg", err)
	}
	for _, m := range list {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= 16 {
			return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:]))), nil
		}
	}
	return time.Time{}, errors.New("the kernel gave no time of arrival")
}

// Close closes the socket.
func (p *Pinger) Close() { p.c.close() }
