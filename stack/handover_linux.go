package stack

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A process hands its links over to the next one as descriptors: what the kernel has queued in them stays, and a TAP keeps its carrier. Both processes
// have them until the first one lets go; only one at a time may use them.

// Descriptors are copies of those of the queues, in their order, which the caller closes. It errs where a queue has none now.
func (t *TunTap) Descriptors() ([]int, error) { return copies(t.name, t.queues, (*tunQueue).base) }

// Descriptors are copies of those of the queues, in their order, which the caller closes. It errs where a queue has none now.
func (u *Uplink) Descriptors() ([]int, error) { return copies(u.name, u.queues, (*packetQueue).base) }

func (q *queue) base() *queue { return q }

func copies[Q any](name string, queues []Q, of func(Q) *queue) (fds []int, err error) {
	for _, q := range queues {
		fd, err := of(q).dup()
		if err != nil {
			CloseAll(fds)
			return nil, fmt.Errorf("copying the descriptors of %s: %w", name, err)
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

func (q *queue) dup() (int, error) {
	q.mu.RLock()
	defer q.mu.RUnlock()
	if q.fd < 0 {
		return -1, errDetached
	}
	return unix.FcntlInt(uintptr(q.fd), unix.F_DUPFD_CLOEXEC, 0)
}

// CloseAll closes descriptors.
func CloseAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// Discard closes descriptors of a TAP or TUN that nobody goes on with, and deletes the device where the router has made it.
func Discard(fds []int) {
	for _, fd := range fds {
		if ifr, err := unix.NewIfreq(""); err == nil && unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr) == nil {
			if link, err := netlink.LinkByName(ifr.Name()); err == nil && link.Attrs().Alias == deviceAlias {
				_ = netlink.LinkDel(link) // what stays is in nobody's way: no bridge lets it talk to guests
			}
		}
	}
	CloseAll(fds)
}

// Release has Close leave the device to whoever has its descriptors.
func (t *TunTap) Release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.created = false
}

// Release does nothing: sockets are whose descriptors they are.
func (u *Uplink) Release() {}

// AdoptTAP goes on with a TAP of which another process has had these descriptors, a queue each. It has taken them over, unless it errs: they are then
// of another device, or not usable.
func AdoptTAP(name string, mtu int, fds []int) (*TunTap, error) {
	return adoptTunTap(name, mtu, fds, false)
}

// AdoptTUN does the same for a TUN.
func AdoptTUN(name string, mtu int, fds []int) (*TunTap, error) {
	return adoptTunTap(name, mtu, fds, true)
}

func adoptTunTap(name string, mtu int, fds []int, tun bool) (*TunTap, error) {
	t := newTunTap(name, mtu, tun)
	want := uint16(unix.IFF_TAP | unix.IFF_VNET_HDR | unix.IFF_NO_PI)
	if tun {
		want = unix.IFF_TUN | unix.IFF_VNET_HDR | unix.IFF_NO_PI
	}
	for _, fd := range fds {
		ifr, err := unix.NewIfreq(name)
		if err != nil {
			return nil, err
		}
		if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr); err != nil {
			return nil, fmt.Errorf("looking at a descriptor of %s: %w", name, err)
		}
		if got := strings.TrimRight(ifr.Name(), "\x00"); got != name || ifr.Uint16()&want != want {
			return nil, fmt.Errorf("a descriptor of %s is of %s, with flags %#x", name, got, ifr.Uint16())
		}
		if err := offload(fd); err != nil {
			return nil, err
		}
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("finding %s: %w", name, err)
	}
	if err := t.add(len(fds)); err != nil {
		return nil, err
	}
	t.created = link.Attrs().Alias == deviceAlias
	t.makeRings()
	for i, fd := range fds {
		t.queues[i].attach(fd)
	}
	return t, nil
}

// AdoptUplink goes on with sockets of another process's Uplink, a queue each. They have been taken over, unless it errs: they are then none of a packet
// socket's. They keep their filter until SetFilter. Sockets of an interface that has gone, or is another by now, are closed and opened anew.
func AdoptUplink(name string, fds []int) (*Uplink, error) {
	for _, fd := range fds {
		sa, err := unix.Getsockname(fd)
		if err != nil {
			return nil, fmt.Errorf("looking at a socket of %s: %w", name, err)
		}
		if _, ok := sa.(*unix.SockaddrLinklayer); !ok {
			return nil, fmt.Errorf("a socket of %s is no packet socket", name)
		}
	}
	u, err := newUplink(name, Filter{}, len(fds))
	if err != nil {
		return nil, err
	}
	for i, fd := range fds {
		u.queues[i].attach(fd)
	}
	u.inherited = true
	// It leaves those that have the interface.
	if _, err := u.open(); errors.Is(err, errNotUp) {
		u.gone.Store(true)
	} else if err != nil {
		return nil, err
	}
	return u, nil
}
