package stack

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"udrouter/policy"
)

// uplinkBuffer is the socket's send and receive buffer in bytes: a burst of full GSO frames.
const uplinkBuffer = 8 << 20

// Uplink is an AF_PACKET socket (packet(7)) on the interface toward the provider. It implements Link.
//
// It gets a copy of what the interface receives, as far as its filter admits it, before dom0's kernel handles the frame,
// and nothing of what dom0 sends. It writes only frames whose source MAC is the interface's.
type Uplink struct {
	Stats
	name    string
	wait    *waiter
	reading sync.Mutex   // held by Read, so that Close does not close a descriptor under it
	using   sync.RWMutex // held for reading by all else that uses fd, for writing by Close
	fd      int          // -1 after Close
	gone    atomic.Bool  // the interface is missing: bind again

	mac     atomic.Uint64
	Foreign atomic.Uint64 // frames with another source MAC that were kept off the uplink

	rx *mmsgs
	tx sync.Pool // of *mmsgs
}

// OpenUplink opens the socket. An interface that does not exist is an error here, and waited for later.
func OpenUplink(name string, filter Filter) (*Uplink, error) {
	w, err := newWaiter()
	if err != nil {
		return nil, err
	}
	// Protocol 0 receives nothing until bind, so that no frame gets in ahead of the filter.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		w.close()
		return nil, fmt.Errorf("opening a packet socket: %w", remedy(err))
	}
	u := &Uplink{name: name, wait: w, fd: fd, rx: newMmsgs(true)}
	u.tx.New = func() any { return newMmsgs(false) }
	if err := u.setup(filter); err != nil {
		w.close()
		unix.Close(fd)
		return nil, err
	}
	return u, nil
}

func (u *Uplink) setup(filter Filter) error {
	for _, o := range []struct {
		name          string
		level, option int
	}{
		{"PACKET_VNET_HDR", unix.SOL_PACKET, unix.PACKET_VNET_HDR},
		{"PACKET_IGNORE_OUTGOING", unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING},
		{"PACKET_AUXDATA", unix.SOL_PACKET, unix.PACKET_AUXDATA},
	} {
		if err := unix.SetsockoptInt(u.fd, o.level, o.option, 1); err != nil {
			return fmt.Errorf("setting %s: %w", o.name, err)
		}
	}
	// Without CAP_NET_ADMIN the kernel's limit has to do.
	for _, o := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(u.fd, unix.SOL_SOCKET, o[0], uplinkBuffer) != nil {
			_ = unix.SetsockoptInt(u.fd, unix.SOL_SOCKET, o[1], uplinkBuffer)
		}
	}
	if err := u.SetFilter(filter); err != nil {
		return err
	}
	return u.bind()
}

// SetFilter replaces the kernel's filter at once; no frame passes unfiltered in between.
func (u *Uplink) SetFilter(filter Filter) error {
	raw, err := bpf.Assemble(filter.program())
	if err != nil {
		return fmt.Errorf("assembling the filter: %w", err)
	}
	u.using.RLock()
	defer u.using.RUnlock()
	if u.fd < 0 {
		return ErrClosed
	}
	prog := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		prog[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	if err := unix.SetsockoptSockFprog(u.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}); err != nil {
		return fmt.Errorf("attaching the filter: %w", err)
	}
	return nil
}

// bind ties the socket to the interface that has the name now. Multicast memberships go with the old one.
func (u *Uplink) bind() error {
	link, err := netlink.LinkByName(u.name)
	if err != nil {
		return fmt.Errorf("finding the uplink %s: %w", u.name, err)
	}
	index := link.Attrs().Index
	if err := unix.Bind(u.fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: index}); err != nil {
		return fmt.Errorf("binding to %s: %w", u.name, err)
	}
	// Solicitations for guests go to their solicited-node groups, which the interface does not belong to.
	mreq := unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_ALLMULTI}
	if err := unix.SetsockoptPacketMreq(u.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &mreq); err != nil && !errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("receiving all multicast on %s: %w", u.name, err)
	}
	if hw := link.Attrs().HardwareAddr; len(hw) == 6 {
		u.SetMAC(policy.MAC(hw))
	}
	return nil
}

// SetMAC says what the interface's MAC is now.
func (u *Uplink) SetMAC(m policy.MAC) { u.mac.Store(m.Bits()) }

// Rebind makes the reader look for the interface again, after it was deleted and made anew.
func (u *Uplink) Rebind() {
	u.gone.Store(true)
	u.wait.nudge()
}

// Name is the interface's name.
func (u *Uplink) Name() string { return u.name }

// Read implements Link.
func (u *Uplink) Read(batch []*Frame) (int, error) {
	u.reading.Lock()
	defer u.reading.Unlock()
	for !u.wait.isClosed() {
		if u.gone.Load() && !u.rebind() {
			u.wait.pause()
			continue
		}
		n, err := u.receive(batch)
		if n > 0 {
			return n, nil
		}
		switch {
		case err == nil, errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			u.wait.forInput(u.fd)
		case errors.Is(err, unix.EINVAL):
			// A GSO frame of a type that a virtio_net_hdr cannot express; the kernel has dropped it.
			u.Errors.Add(1)
			u.drop(policy.Malformed, 1)
		case errors.Is(err, unix.ENETDOWN), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
			// Reported once. The socket goes on by itself when the interface comes up, unless it was deleted.
			u.Errors.Add(1)
			if !u.bound() {
				u.gone.Store(true)
			}
		default:
			u.Errors.Add(1)
			u.wait.pause()
		}
	}
	return 0, ErrClosed
}

// rebind binds to the interface that has come back; false where it has not.
func (u *Uplink) rebind() bool {
	u.gone.Store(false) // before bind, so that what vanishes meanwhile is noticed
	if err := u.bind(); err != nil {
		u.gone.Store(true)
		u.Errors.Add(1)
		return false
	}
	u.Reopened.Add(1)
	return true
}

// bound tells whether the socket still has its interface.
func (u *Uplink) bound() bool {
	sa, err := unix.Getsockname(u.fd)
	if err != nil {
		return false
	}
	ll, ok := sa.(*unix.SockaddrLinklayer)
	return ok && ll.Ifindex > 0
}

func (u *Uplink) receive(batch []*Frame) (int, error) {
	m := u.rx
	max := min(len(batch), len(m.hdrs))
	for i, f := range batch[:max] {
		m.set(i, f.buf[ethStart-vnetLen:])
		m.hdrs[i].hdr.Controllen = controlLen
	}
	got, err := m.recv(u.fd, max)
	n := 0
	for i := range got {
		f := batch[i]
		if !f.received(ethStart-vnetLen, int(m.hdrs[i].n)) {
			u.Errors.Add(1)
			continue
		}
		f.Truncated = m.hdrs[i].hdr.Flags&unix.MSG_TRUNC != 0
		f.VLAN = m.vlan(i)
		u.RxBytes.Add(uint64(len(f.Bytes())))
		batch[i], batch[n] = batch[n], batch[i]
		n++
	}
	u.RxPackets.Add(uint64(n))
	return n, err
}

// Write implements Link.
func (u *Uplink) Write(batch []*Frame) {
	u.using.RLock()
	defer u.using.RUnlock()
	if u.fd < 0 {
		u.drop(policy.LinkDown, len(batch))
		return
	}
	m := u.tx.Get().(*mmsgs)
	defer u.tx.Put(m)
	mac := u.mac.Load()
	for len(batch) > 0 {
		n := 0
		for len(batch) > 0 && n < len(m.hdrs) {
			f := batch[0]
			batch = batch[1:]
			if b := f.buf[ethStart:]; policy.MAC(b[6:12]).Bits() != mac {
				u.Foreign.Add(1)
				u.drop(policy.ForeignMAC, 1)
				continue
			}
			m.set(n, f.transmit(ethStart))
			n++
		}
		u.send(m, n)
	}
}

func (u *Uplink) send(m *mmsgs, n int) {
	var packets, bytes uint64
	for at := 0; at < n; {
		sent, err := m.send(u.fd, at, n)
		for i := at; i < at+sent; i++ {
			packets++
			bytes += m.iovs[i].Len - vnetLen
		}
		at += sent
		if err == nil || errors.Is(err, unix.EINTR) {
			continue
		}
		u.Errors.Add(1)
		lost := 1
		reason := dropReason(err)
		if reason == policy.LinkDown || errors.Is(err, unix.EAGAIN) {
			lost = n - at // the rest would fare no better
		}
		u.drop(reason, lost)
		at += lost
	}
	u.TxPackets.Add(packets)
	u.TxBytes.Add(bytes)
}

// Close implements Link.
func (u *Uplink) Close() error {
	if !u.wait.close() {
		return nil
	}
	u.reading.Lock()
	defer u.reading.Unlock()
	u.using.Lock()
	defer u.using.Unlock()
	fd := u.fd
	u.fd = -1 // the number may be another's at once
	return unix.Close(fd)
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// Filter says which frames concern the guests.
type Filter struct {
	Prefixes []netip.Prefix // the guests'
	Held     []netip.Addr   // addresses in them that dom0's kernel serves
	Own      []netip.Addr   // the router's on the uplink
}

// batchLen is how many frames one system call may move.
const batchLen = 64

const controlLen = 64

// mmsgs are the arguments of recvmmsg(2) and sendmmsg(2), made once.
type mmsgs struct {
	hdrs    [batchLen]mmsghdr
	iovs    [batchLen]unix.Iovec
	control []byte
}

type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

func newMmsgs(control bool) *mmsgs {
	m := new(mmsgs)
	if control {
		m.control = make([]byte, batchLen*controlLen)
	}
	for i := range m.hdrs {
		m.hdrs[i].hdr.Iov = &m.iovs[i]
		m.hdrs[i].hdr.SetIovlen(1)
		if control {
			m.hdrs[i].hdr.Control = &m.control[i*controlLen]
		}
	}
	return m
}

func (m *mmsgs) set(i int, b []byte) {
	m.iovs[i].Base = &b[0]
	m.iovs[i].SetLen(len(b))
}

func (m *mmsgs) recv(fd, n int) (int, error) {
	got, _, e := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&m.hdrs[0])), uintptr(n), unix.MSG_DONTWAIT, 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(got), nil
}

func (m *mmsgs) send(fd, from, to int) (int, error) {
	sent, _, e := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&m.hdrs[from])), uintptr(to-from), unix.MSG_DONTWAIT, 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(sent), nil
}

// vlan tells whether the kernel has stripped a tag from message i (packet(7), PACKET_AUXDATA).
func (m *mmsgs) vlan(i int) bool {
	b := m.control[i*controlLen : i*controlLen+int(m.hdrs[i].hdr.Controllen)]
	for len(b) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
		if h.Len < unix.SizeofCmsghdr || int(h.Len) > len(b) {
			return false
		}
		data := b[unix.SizeofCmsghdr:h.Len]
		if h.Level == unix.SOL_PACKET && h.Type == unix.PACKET_AUXDATA && len(data) >= int(unsafe.Sizeof(unix.TpacketAuxdata{})) {
			return (*unix.TpacketAuxdata)(unsafe.Pointer(&data[0])).Status&unix.TP_STATUS_VLAN_VALID != 0
		}
		b = b[min(len(b), (int(h.Len)+7)&^7):]
	}
	return false
}
