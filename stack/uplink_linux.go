package stack

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"udrouter/policy"
)

// uplinkBuffer is the socket's send and receive buffer in bytes: a burst of full GSO frames.
const uplinkBuffer = 8 << 20

// Uplink is a group of AF_PACKET sockets (packet(7)) on the interface toward the provider, over which the kernel spreads frames by flow
// (PACKET_FANOUT_HASH). It implements Link.
//
// It gets a copy of what the interface receives, as far as its filter admits it, before dom0's kernel handles the frame,
// and nothing of what dom0 sends. It writes only frames whose source MAC is the interface's.
type Uplink struct {
	Stats
	name   string
	queues []*packetQueue

	mu     sync.Mutex // held while sockets are opened, changed or closed
	filter Filter
	screen Screen // nil: sockets have the filter itself

	inherited bool // sockets have the filter of who has handed them over, until there is another
	closed    bool
	tries     pace
	gone      atomic.Bool // the interface is missing: bind again

	mac     atomic.Uint64
	Foreign atomic.Uint64 // frames with another source MAC that were kept off the uplink

	tx sync.Pool // of *mmsgs
}

// Screen stands between an interface and the packet sockets that it is given. They see of what its filter admits what it leaves to them.
type Screen interface {
	SetFilter(program []bpf.Instruction) error
	Screen(fd int) error
}

// errNotUp says that the interface has to come up first: before Linux 6.13, no socket of one that is down can be put into a group.
var errNotUp = errors.New("the interface is down")

// OpenUplink opens that many sockets. An interface that does not exist is an error here, and waited for later.
func OpenUplink(name string, filter Filter, queues int) (*Uplink, error) {
	u, err := newUplink(name, filter, max(queues, 1))
	if err != nil {
		return nil, err
	}
	if _, err := u.open(); errors.Is(err, errNotUp) {
		u.gone.Store(true)
	} else if err != nil {
		return nil, err
	}
	return u, nil
}

func newUplink(name string, filter Filter, queues int) (*Uplink, error) {
	u := &Uplink{name: name, filter: filter}
	u.tx.New = func() any { return newMmsgs(false) }
	for range queues {
		q := &packetQueue{u: u, rx: newMmsgs(true), tx: newMmsgs(false)}
		if err := q.init(); err != nil {
			return nil, err
		}
		u.queues = append(u.queues, q)
	}
	return u, nil
}

// open replaces all sockets, since those of a group cannot be bound again. It leaves sockets that have the interface, with what they have received; false then.
func (u *Uplink) open() (bool, error) {
	link, err := netlink.LinkByName(u.name)
	if err != nil {
		return false, fmt.Errorf("finding the uplink %s: %w", u.name, err)
	}
	if u.queues[0].interfaceIndex() == link.Attrs().Index {
		return false, nil
	}
	if hw := link.Attrs().HardwareAddr; len(hw) == 6 {
		u.SetMAC(policy.MAC(hw))
	}
	fds, err := u.sockets(link.Attrs().Index)
	if err != nil {
		for _, fd := range fds {
			unix.Close(fd)
		}
		if errors.Is(err, unix.EINVAL) && link.Attrs().Flags&net.FlagUp == 0 {
			err = errNotUp
		}
		return false, err
	}
	for i, q := range u.queues {
		q.attach(fds[i])
	}
	return true, nil
}

// sockets makes a socket for each queue. They see nothing until all are in the group: before, each would get frames that the group gets as well.
func (u *Uplink) sockets(index int) (fds []int, err error) {
	for range u.queues {
		// Protocol 0 receives nothing until bind, so that no frame gets in ahead of the filter.
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return fds, fmt.Errorf("opening a packet socket: %w", remedy(err))
		}
		before := fds
		fds = append(fds, fd)
		if err := u.setup(fd, index, before); err != nil {
			return fds, err
		}
	}
	for _, fd := range fds {
		if err := u.attachFilter(fd); err != nil {
			return fds, err
		}
	}
	return fds, nil
}

// setup binds a socket to the interface and, where there are several queues, puts it into one group with those before it.
func (u *Uplink) setup(fd, index int, before []int) error {
	for _, o := range []struct {
		name          string
		level, option int
	}{
		{"PACKET_VNET_HDR", unix.SOL_PACKET, unix.PACKET_VNET_HDR},
		{"PACKET_IGNORE_OUTGOING", unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING},
		{"PACKET_AUXDATA", unix.SOL_PACKET, unix.PACKET_AUXDATA},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.option, 1); err != nil {
			return fmt.Errorf("setting %s: %w", o.name, err)
		}
	}
	// Without CAP_NET_ADMIN the kernel's limit has to do.
	for _, o := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[0], uplinkBuffer) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[1], uplinkBuffer)
		}
	}
	if err := attachNone(fd); err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: index}); err != nil {
		return fmt.Errorf("binding to %s: %w", u.name, err)
	}
	if len(u.queues) > 1 {
		if err := join(fd, before); err != nil {
			return err
		}
	}
	// Solicitations for guests go to their solicited-node groups, which the interface does not belong to.
	mreq := unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_ALLMULTI}
	if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &mreq); err != nil && !errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("receiving all multicast on %s: %w", u.name, err)
	}
	return nil
}

// PACKET_FANOUT_FLAG_ of linux/if_packet.h.
const flagUniqueID, flagIgnoreOutgoing = 0x2000, 0x4000

// groupFlags are those that a kernel may not know, or a test's.
var groupFlags = flagIgnoreOutgoing

// setFanout sets PACKET_FANOUT, or is a test's.
var setFanout = func(fd, arg int) error { return unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_FANOUT, arg) }

// join puts a socket into the group of those before it. A group's own flag says that what dom0 sends is none of it; the filter does so
// where a kernel does not know that flag.
func join(fd int, before []int) error {
	arg := unix.PACKET_FANOUT_HASH << 16
	if len(before) == 0 {
		arg |= flagUniqueID << 16
	} else {
		group, err := unix.GetsockoptInt(before[0], unix.SOL_PACKET, unix.PACKET_FANOUT)
		if err != nil {
			return fmt.Errorf("reading PACKET_FANOUT: %w", err)
		}
		arg |= group & 0xffff
	}
	if setFanout(fd, arg|groupFlags<<16) == nil {
		return nil
	}
	if err := setFanout(fd, arg); err != nil {
		return fmt.Errorf("setting PACKET_FANOUT: %w", err)
	}
	return nil
}

// SetFilter replaces the kernel's filter at once; no frame passes unfiltered in between.
func (u *Uplink) SetFilter(filter Filter) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return ErrClosed
	}
	u.filter = filter
	if u.screen != nil {
		if err := u.screen.SetFilter(filter.program()); err != nil || !u.inherited {
			return err
		}
	}
	u.inherited = false
	return u.attachFilters()
}

// SetScreen puts something before all sockets, those that are opened later as well; nil takes it away. On an error all is as it was.
func (u *Uplink) SetScreen(s Screen) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return ErrClosed
	}
	if s != nil {
		if err := s.SetFilter(u.filter.program()); err != nil {
			return err
		}
	}
	was := u.screen
	u.screen = s
	if u.inherited {
		return nil
	}
	if err := u.attachFilters(); err != nil {
		u.screen = was
		return errors.Join(err, u.attachFilters())
	}
	return nil
}

// attachFilters has each socket that there is see what it is to see; others get their filter when they are opened.
func (u *Uplink) attachFilters() error {
	for _, q := range u.queues {
		if q.fd < 0 {
			continue
		}
		if err := u.attachFilter(q.fd); err != nil {
			return err
		}
	}
	return nil
}

func (u *Uplink) attachFilter(fd int) error {
	if u.screen != nil {
		return u.screen.Screen(fd)
	}
	return u.filter.attach(fd)
}

// SetMAC says what the interface's MAC is now.
func (u *Uplink) SetMAC(m policy.MAC) { u.mac.Store(m.Bits()) }

// Rebind makes the queues look for the interface again, at once, after it was deleted and made anew.
func (u *Uplink) Rebind() {
	u.mu.Lock()
	u.tries = pace{}
	u.mu.Unlock()
	u.gone.Store(true)
	for _, q := range u.queues {
		q.waker.Wake()
	}
}

// Name is the interface's name.
func (u *Uplink) Name() string { return u.name }

// Queues implements Link.
func (u *Uplink) Queues() []Queue { return listed(u.queues) }

// Write implements Link.
func (u *Uplink) Write(batch []*Frame) {
	m := u.tx.Get().(*mmsgs)
	defer u.tx.Put(m)
	u.queues[0].write(m, batch)
}

// rebind binds to the interface that has come back; false where it has not.
func (u *Uplink) rebind() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed || !u.gone.Load() { // another queue's goroutine came first
		return true
	}
	if !u.tries.due() {
		return false
	}
	u.gone.Store(false) // before bind, so that what vanishes meanwhile is noticed
	opened, err := u.open()
	if err != nil {
		u.gone.Store(true)
		u.Errors.Add(1)
		return false
	}
	if opened {
		u.Reopened.Add(1)
		u.tries = pace{} // late news of the old sockets is soon found wrong
	}
	return true
}

// Close implements Link.
func (u *Uplink) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	for _, q := range u.queues {
		q.waker.Close()
		q.attach(-1)
	}
	return nil
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }
