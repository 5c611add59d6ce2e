package lab

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// The reference's list lets SSH and ping in to dom0, and no datagram; to guests and beyond it changes nothing.
func TestKernelProtects(t *testing.T) {
	l := build(t, seed(), Options{})
	if err := l.KernelRouter(KernelOptions{Protect: true}); err != nil {
		t.Fatal(err)
	}
	fd, err := l.Dom0.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_UDP)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := l.Dom0.ServeTCP(22); err != nil {
		t.Fatal(err)
	}
	g := l.Guests[0]
	to := &unix.SockaddrInet4{Addr: l.Dom0.Addr4().As4(), Port: 5000}
	udp, err := g.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(udp)
	ctx := testContext(t)
	if err := unix.Sendto(udp, []byte("x"), 0, to); err != nil {
		t.Fatal(err)
	}
	for _, a := range []netip.Addr{l.Dom0.Addr4(), l.Internet.Addr4(), l.Internet.Addr6()} { // by then the datagram has been dealt with
		if _, err := g.Ping(ctx, a, PingOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	c, err := g.Open(ctx, netip.AddrPortFrom(l.Dom0.Addr4(), 22))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if n, _, err := unix.Recvfrom(fd, make([]byte, 100), unix.MSG_DONTWAIT); err != unix.EAGAIN {
		t.Errorf("a datagram of %d bytes came to dom0, %v", n, err)
	}
}
