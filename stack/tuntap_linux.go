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

	queues []*tunQueue

	mu      sync.Mutex // held while the device is opened or closed
	created bool
	lost    bool // it was there, and has gone
	closed  bool
	tries   pace
}

// OpenTAP attaches to the TAP of that name, or makes it: persistent, multi-queue, with a transmit queue of TxQueueLen and that MTU in bytes (0: the
// default). It attaches that many queues; a device that somebody else has made for one has one.
func OpenTAP(name string, mtu, queues int) (*TunTap, error) {
	return openTunTap(name, mtu, queues, false)
}

// OpenTUN does the same for a TUN, whose packets have no Ethernet header.
func OpenTUN(name string, mtu, queues int) (*TunTap, error) {
	return openTunTap(name, mtu, queues, true)
}

func openTunTap(name string, mtu, queues int, tun bool) (*TunTap, error) {
	t := newTunTap(name, mtu, tun)
	if err := t.add(max(queues, 1)); err != nil {
		return nil, err
	}
	attached, err := t.open()
	if err != nil {
		return nil, err
	}
	t.queues = t.queues[:attached]
	t.makeRings()
	return t, nil
}

// makeRings gives the queues their rings; without one, frames go by one call each.
func (t *TunTap) makeRings() {
	for _, q := range t.queues {
		q.ring, _ = makeRing(batchLen)
	}
}

func newTunTap(name string, mtu int, tun bool) *TunTap {
	t := &TunTap{name: name, tun: tun, packet: ethStart, mtu: mtu}
	if tun {
		t.packet = ipStart
	}
	return t
}

// add makes queues that are not attached yet.
func (t *TunTap) add(n int) error {
	for range n {
		q := &tunQueue{t: t}
		if err := q.init(); err != nil {
			return err
		}
		t.queues = append(t.queues, q)
	}
	return nil
}

// Queues implements Link.
func (t *TunTap) Queues() []Queue { return listed(t.queues) }

// Name is the device's name.
func (t *TunTap) Name() string { return t.name }

// open makes the device where it is missing and attaches the queues, or as many as it takes.
func (t *TunTap) open() (attached int, err error) {
	kind := "TAP"
	if t.tun {
		kind = "TUN"
	}
	created := false
	link, err := netlink.LinkByName(t.name)
	switch {
	case errors.As(err, new(netlink.LinkNotFoundError)):
		if err := t.create(); err != nil {
			return 0, fmt.Errorf("creating %s %s: %w", kind, t.name, remedy(err))
		}
		if link, err = netlink.LinkByName(t.name); err != nil {
			return 0, fmt.Errorf("finding %s %s: %w", kind, t.name, err)
		}
		if err := netlink.LinkSetAlias(link, deviceAlias); err != nil {
			return 0, fmt.Errorf("marking %s %s: %w", kind, t.name, err)
		}
		created = true
	case err != nil:
		return 0, fmt.Errorf("finding %s %s: %w", kind, t.name, err)
	}
	device, ok := link.(*netlink.Tuntap)
	if !ok {
		return 0, fmt.Errorf("%s is a %s, not a %s: remove it or choose another name", t.name, link.Type(), kind)
	}
	if isTUN := device.Mode == netlink.TUNTAP_MODE_TUN; isTUN != t.tun {
		return 0, fmt.Errorf("%s exists, but is no %s: remove it (ip link del %s) or choose another name", t.name, kind, t.name)
	}
	if device.Queues > 0 { // a multi-queue device would give us some of the other's frames
		return 0, fmt.Errorf("attaching to %s %s: another process reads it (is another udrouter running?): stop it or choose another name", kind, t.name)
	}
	created = created || link.Attrs().Alias == deviceAlias // this run, or one that was killed
	var fds []int
	for range t.queues {
		fd, err := attach(t.name, t.tun)
		if err != nil && len(fds) == 0 {
			return 0, fmt.Errorf("attaching to %s %s: %w", kind, t.name, remedy(err))
		}
		if err != nil { // the device was made for one queue
			break
		}
		fds = append(fds, fd)
	}
	if created { // the user's own is set up by package dom0, which remembers what it was like
		if err := t.configure(link); err != nil {
			for _, fd := range fds {
				unix.Close(fd)
			}
			return 0, fmt.Errorf("setting up %s %s: %w", kind, t.name, err)
		}
	}
	t.created = created
	for i, fd := range fds {
		t.queues[i].attach(fd)
	}
	return len(fds), nil
}

func (t *TunTap) create() error {
	if t.lost { // a try of package water's that fails keeps its descriptor for ever, and this one is repeated
		fd, err := attach(t.name, t.tun)
		if err != nil {
			return err
		}
		unix.Close(fd) // with which the device goes
	}
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
	if err := offload(fd); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// offload says what the router takes in one piece.
func offload(fd int) error {
	if unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tunOffloadUSO) == nil {
		return nil
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tunOffload); err != nil {
		return fmt.Errorf("negotiating offloads: %w", err)
	}
	return nil
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

// reopen makes the device again when it is gone. It tells whether it is there.
func (t *TunTap) reopen() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || t.queues[0].attached() { // another queue's goroutine came first
		return true
	}
	if !t.tries.due() {
		return false
	}
	t.lost = true
	attached, err := t.open()
	if err != nil {
		t.Errors.Add(1)
		return false
	}
	for _, q := range t.queues[attached:] {
		q.attach(-1)
	}
	t.Reopened.Add(1)
	return true
}

// abandon gives the queues up when the device is gone. The news comes from a queue, and is of that opening of it; by now another queue's goroutine may
// have opened all again.
func (t *TunTap) abandon(from *tunQueue, opening int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || !from.still(opening) {
		return
	}
	for _, q := range t.queues {
		q.attach(-1)
	}
}

// Write implements Link.
func (t *TunTap) Write(batch []*Frame) { t.queues[0].send(batch, false) }

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
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	t.closed = true
	for _, q := range t.queues {
		q.waker.Close()
		q.attach(-1)
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
		return fmt.Errorf("%w: load the tun module (modprobe tun); a container needs the device as well, as by docker run --device=/dev/net/tun", err)
	}
	return err
}
