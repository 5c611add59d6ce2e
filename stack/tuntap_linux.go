package stack

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/songgao/water"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"udrouter/policy"
)

// deviceAlias marks devices that the router has made, so that a later run knows that it may delete them.
const deviceAlias = "made by udrouter"

// Offloads to negotiate for a queue (linux/if_tun.h). USO came with Linux 6.2.
const (
	tunOffload    = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
	tunOffloadUSO = tunOffload | 0x20 | 0x40 // TUN_F_USO4, TUN_F_USO6
)

// TunTap is a TAP, toward the guests, or a TUN, toward dom0. It implements Link.
type TunTap struct {
	Stats
	name   string
	tun    bool
	packet int // where in a Frame the packet of this device starts
	mtu    int
	wait   *waiter

	reading sync.Mutex   // held by Read, so that Close does not close a descriptor under it
	mu      sync.RWMutex // held for reading while fd is written to, for writing while it is replaced
	fd      int          // -1: the device is gone
	created bool
}

// OpenTAP attaches to the TAP of that name, or makes it: persistent, multi-queue, with a queue of TxQueueLen and that MTU in bytes (0: the
// default).
func OpenTAP(name string, mtu int) (*TunTap, error) { return openTunTap(name, mtu, false) }

// OpenTUN does the same for a TUN, whose packets have no Ethernet header.
func OpenTUN(name string, mtu int) (*TunTap, error) { return openTunTap(name, mtu, true) }

func openTunTap(name string, mtu int, tun bool) (*TunTap, error) {
	w, err := newWaiter()
	if err != nil {
		return nil, err
	}
	t := &TunTap{name: name, tun: tun, packet: ethStart, mtu: mtu, wait: w, fd: -1}
	if tun {
		t.packet = ipStart
	}
	if err := t.open(); err != nil {
		w.close()
		return nil, err
	}
	return t, nil
}

// Name is the device's name.
func (t *TunTap) Name() string { return t.name }

// open makes the device where it is missing and attaches a queue.
func (t *TunTap) open() error {
	kind := "TAP"
	if t.tun {
		kind = "TUN"
	}
	created := false
	link, err := netlink.LinkByName(t.name)
	switch {
	case errors.As(err, new(netlink.LinkNotFoundError)):
		if err := t.create(); err != nil {
			return fmt.Errorf("creating %s %s: %w", kind, t.name, remedy(err))
		}
		if link, err = netlink.LinkByName(t.name); err != nil {
			return fmt.Errorf("finding %s %s: %w", kind, t.name, err)
		}
		if err := netlink.LinkSetAlias(link, deviceAlias); err != nil {
			return fmt.Errorf("marking %s %s: %w", kind, t.name, err)
		}
		created = true
	case err != nil:
		return fmt.Errorf("finding %s %s: %w", kind, t.name, err)
	}
	device, ok := link.(*netlink.Tuntap)
	if !ok {
		return fmt.Errorf("%s is a %s, not a %s: remove it or choose another name", t.name, link.Type(), kind)
	}
	if isTUN := device.Mode == netlink.TUNTAP_MODE_TUN; isTUN != t.tun {
		return fmt.Errorf("%s exists, but is no %s: remove it (ip link del %s) or choose another name", t.name, kind, t.name)
	}
	if device.Queues > 0 { // a multi-queue device would give us some of the other's frames
		return fmt.Errorf("attaching to %s %s: another process reads it (is another udrouter running?): stop it or choose another name", kind, t.name)
	}
	created = created || link.Attrs().Alias == deviceAlias // this run, or one that was killed
	fd, err := attach(t.name, t.tun)
	if err != nil {
		return fmt.Errorf("attaching to %s %s: %w", kind, t.name, remedy(err))
	}
	if created { // the user's own is set up by package dom0, which remembers what it was like
		if err := t.configure(link); err != nil {
			unix.Close(fd)
			return fmt.Errorf("setting up %s %s: %w", kind, t.name, err)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fd, t.created = fd, created
	return nil
}

func (t *TunTap) create() error {
	cfg := water.Config{DeviceType: water.TAP, PlatformSpecificParams: water.PlatformSpecificParams{Name: t.name, Persist: true, MultiQueue: true}}
	if t.tun {
		cfg.DeviceType = water.TUN
	}
	dev, err := water.New(cfg)
	if err != nil {
		return err
	}
	return dev.Close()
}

// attach opens a queue with a virtio_net_hdr. A device keeps the multi-queue flag that it was made with, and a queue must
// have the same.
func attach(name string, tun bool) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, &os.PathError{Op: "opening", Path: "/dev/net/tun", Err: err}
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	flags := uint16(unix.IFF_TAP)
	if tun {
		flags = unix.IFF_TUN
	}
	flags |= unix.IFF_NO_PI | unix.IFF_VNET_HDR
	for _, extra := range []uint16{unix.IFF_MULTI_QUEUE, 0} {
		ifr.SetUint16(flags | extra)
		if err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); !errors.Is(err, unix.EINVAL) {
			break
		}
	}
	if err != nil {
		unix.Close(fd)
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.E2BIG) {
			return -1, fmt.Errorf("another process holds it (is another udrouter running?): %w", err)
		}
		return -1, err
	}
	if unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tunOffloadUSO) != nil {
		if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tunOffload); err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("negotiating offloads: %w", err)
		}
	}
	return fd, nil
}

// TxQueueLen is the length of a TAP's or TUN's transmit queue, in packets: the default of 500 or 1000 overflows on a burst.
const TxQueueLen = 10000

// configure sets queue length and MTU.
func (t *TunTap) configure(link netlink.Link) error {
	if link.Attrs().TxQLen < TxQueueLen {
		if err := netlink.LinkSetTxQLen(link, TxQueueLen); err != nil {
			return fmt.Errorf("setting its queue length: %w", err)
		}
	}
	if t.mtu > 0 && link.Attrs().MTU != t.mtu {
		if err := netlink.LinkSetMTU(link, t.mtu); err != nil {
			return fmt.Errorf("setting its MTU to %d: %w", t.mtu, err)
		}
	}
	return nil
}

// Read implements Link.
func (t *TunTap) Read(batch []*Frame) (int, error) {
	t.reading.Lock()
	defer t.reading.Unlock()
	for !t.wait.isClosed() {
		fd := t.descriptor()
		if fd < 0 {
			t.reopen()
			continue
		}
		n := 0
		var bytes uint64
		var err error
		for n < len(batch) {
			f := batch[n]
			var got int
			got, err = unix.Read(fd, f.buf[t.packet-vnetLen:])
			if err != nil {
				break
			}
			if !f.received(t.packet-vnetLen, got) {
				t.Errors.Add(1)
				continue
			}
			f.Truncated = t.packet-vnetLen+got == len(f.buf)
			bytes += uint64(got - vnetLen)
			n++
		}
		if n > 0 {
			t.RxPackets.Add(uint64(n))
			t.RxBytes.Add(bytes)
			return n, nil
		}
		switch {
		case err == nil, errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			t.wait.forInput(fd)
		case errors.Is(err, unix.EBADFD), errors.Is(err, unix.ENODEV):
			t.Errors.Add(1)
			t.abandon(fd)
		default:
			t.Errors.Add(1)
			t.wait.pause()
		}
	}
	return 0, ErrClosed
}

// abandon gives up a queue whose device is gone.
func (t *TunTap) abandon(fd int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.fd == fd {
		t.fd = -1
		unix.Close(fd)
	}
}

// reopen makes the device again; where that fails it waits a moment, since the reader will be back.
func (t *TunTap) reopen() {
	if err := t.open(); err != nil {
		t.Errors.Add(1)
		t.wait.pause()
		return
	}
	t.Reopened.Add(1)
}

func (t *TunTap) descriptor() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.fd
}

// Write implements Link.
func (t *TunTap) Write(batch []*Frame) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.fd < 0 {
		t.drop(policy.LinkDown, len(batch))
		return
	}
	var packets, bytes uint64
	for _, f := range batch {
		b := f.transmit(t.packet)
		_, err := unix.Write(t.fd, b)
		if err == unix.EINTR {
			_, err = unix.Write(t.fd, b)
		}
		if err != nil {
			t.Errors.Add(1)
			t.drop(dropReason(err), 1)
			continue
		}
		packets++
		bytes += uint64(len(b) - vnetLen)
	}
	t.TxPackets.Add(packets)
	t.TxBytes.Add(bytes)
}

// dropReason is why a link lost a frame whose write failed.
func dropReason(err error) policy.Reason {
	switch err {
	case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM, unix.EINTR:
		return policy.QueueFull
	case unix.EMSGSIZE:
		return policy.TooBig
	case unix.EINVAL:
		return policy.Malformed
	}
	return policy.LinkDown
}

// Close implements Link. The device is deleted where the router has made it.
func (t *TunTap) Close() error {
	if !t.wait.close() {
		return nil
	}
	t.reading.Lock()
	defer t.reading.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.fd >= 0 {
		unix.Close(t.fd)
		t.fd = -1
	}
	if !t.created {
		return nil
	}
	link, err := netlink.LinkByName(t.name)
	if err != nil {
		return nil // gone already
	}
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("deleting %s: %w", t.name, err)
	}
	return nil
}

// remedy says what to do about an error that a user can mend.
func remedy(err error) error {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: run as root, or with CAP_NET_ADMIN and CAP_NET_RAW", err)
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%w: load the tun module (modprobe tun)", err)
	}
	return err
}
