package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"udrouter/integration/lab"
)

const (
	connectPort    = 444 // a listener of its own, which does nothing but accept and reset
	connectors     = 8
	connectTimeout = 2500 * time.Millisecond // one lost SYN is asked again after a second
)

// connections is how many TCP connections a second are accepted of a few threads that each open one after the other. Who accepts resets it
// at once, and only then comes the next: there are never more than so many, so that none has to be asked for again because a queue was full.
// An end that opens by way "up" is the guest.
func connections(w way) measure {
	name := "connect/" + w.String()
	return measure{
		name:    name,
		columns: []column{{name, "conn/s", false}},
		run: func(ctx context.Context, c *contestant, d time.Duration) ([]float64, error) {
			client, server := c.lab.Guests[0].Node, c.lab.Internet
			if w.down {
				client, server = server, client
			}
			l, err := listen(server.NS, w.family)
			if err != nil {
				return nil, err
			}
			defer unix.Close(l)
			rate, err := connectRate(ctx, client.NS, l, netip.AddrPortFrom(w.family.of(server), connectPort), d)
			return []float64{rate}, err
		},
	}
}

func listen(n *lab.NS, f family) (int, error) {
	domain, sa := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: connectPort})
	if f == ipv6 {
		domain, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: connectPort}
	}
	fd, err := n.Socket(domain, unix.SOCK_STREAM, 0)
	if err != nil {
		return -1, err
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}), // what is accepted has it from here
	)
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	if err == nil {
		err = unix.Listen(fd, 4096)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("listening in %s: %w", n.Name(), err)
	}
	return fd, nil
}

func connectRate(ctx context.Context, client *lab.NS, listener int, to netip.AddrPort, d time.Duration) (float64, error) {
	var accepted, failed atomic.Int64
	var why atomic.Pointer[error]
	var stop, quiet atomic.Bool
	var clients, server errgroup.Group
	server.Go(func() error { return acceptAll(listener, &accepted, &quiet) })
	start := time.Now()
	for range connectors {
		clients.Go(func() error {
			return client.Do(func() error {
				for !stop.Load() {
					if err := open(to); err != nil && failed.Add(1) == 1 {
						why.Store(&err)
					}
				}
				return nil
			})
		})
	}
	err := wait(ctx, d)
	n, took := accepted.Load(), time.Since(start)
	stop.Store(true)
	err = errors.Join(err, clients.Wait())
	quiet.Store(true)
	if err = errors.Join(err, server.Wait()); err != nil {
		return 0, err
	}
	if bad := failed.Load(); bad > 10+n/100 {
		return 0, fmt.Errorf("%d connections failed, %d did not; the first: %w", bad, n, *why.Load())
	}
	return float64(n) / took.Seconds(), nil
}

// acceptAll resets and counts what comes, until told to stop.
func acceptAll(listener int, accepted *atomic.Int64, quiet *atomic.Bool) error {
	for !quiet.Load() {
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		switch err {
		case nil:
			unix.Close(fd)
			accepted.Add(1)
		case unix.EAGAIN:
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}, 50); err != nil && err != unix.EINTR {
				return os.NewSyscallError("poll", err)
			}
		case unix.EINTR, unix.ECONNABORTED:
		default:
			return os.NewSyscallError("accept4", err)
		}
	}
	return nil
}

// open makes a connection from the thread's namespace and waits for its reset. That may come before the connecting is seen to have ended;
// a router that does not let it through answers a SYN, which is another error.
func open(to netip.AddrPort) error {
	domain, sa := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(to.Port()), Addr: asArray4(to.Addr())})
	if to.Addr().Is6() {
		domain, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	}
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	timeout := unix.NsecToTimeval(int64(connectTimeout))
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout),
	)
	if err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	err = unix.Connect(fd, sa)
	if err == unix.EINTR { // the runtime's signals; the connecting goes on
		err = awaitConnected(fd)
	}
	for err == nil || err == unix.EINTR {
		_, err = unix.Read(fd, make([]byte, 1))
		if err == nil {
			return errors.New("a connection was not reset")
		}
	}
	if err == unix.ECONNRESET {
		return nil
	}
	return os.NewSyscallError("connect", err)
}

func awaitConnected(fd int) error {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	n, err := unix.Poll(p, int(connectTimeout.Milliseconds()))
	for err == unix.EINTR {
		n, err = unix.Poll(p, int(connectTimeout.Milliseconds()))
	}
	if err != nil {
		return err
	}
	if n == 0 {
		return unix.ETIMEDOUT
	}
	v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && v != 0 {
		err = unix.Errno(v)
	}
	return err
}

func asArray4(a netip.Addr) (b [4]byte) {
	if a.Is4() {
		b = a.As4()
	}
	return b
}
