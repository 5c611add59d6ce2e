package stack

import (
	"errors"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"udrouter/policy"
)

// packetQueue is one AF_PACKET socket of an Uplink. It implements Queue.
type packetQueue struct {
	queue // without a descriptor before an interface that was down has come up, too
	u     *Uplink

	rx, tx *mmsgs // of the goroutine that receives
}

// Receive implements Queue.
func (q *packetQueue) Receive(batch []*Frame) (int, error) {
	if q.waker.Closed() {
		return 0, ErrClosed
	}
	if q.u.gone.Load() {
		if q.failed = !q.u.rebind(); q.failed {
			return 0, nil
		}
	}
	if q.failed = false; q.load.wasEmpty() {
		return 0, nil
	}
	n, err := q.receive(batch)
	switch {
	case err == nil, errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
	case errors.Is(err, unix.EINVAL):
		q.missed(err)
	case errors.Is(err, unix.ENETDOWN), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		// Reported once. The socket goes on by itself when the interface comes up, unless it was deleted.
		q.missed(err)
		if q.interfaceIndex() <= 0 {
			q.u.gone.Store(true)
		}
	default:
		q.u.Errors.Add(1)
		q.failed = true
	}
	return n, nil
}

// missed counts an error of what was received.
func (q *packetQueue) missed(err error) {
	q.u.Errors.Add(1)
	if errors.Is(err, unix.EINVAL) { // a GSO frame of a type that a virtio_net_hdr cannot express; the kernel has dropped it
		q.u.drop(policy.Malformed, 1)
	}
}

// interfaceIndex is that of the interface which the socket is bound to; 0 or less: of none.
func (q *packetQueue) interfaceIndex() int {
	q.mu.RLock()
	defer q.mu.RUnlock()
	sa, err := unix.Getsockname(q.fd)
	if err != nil {
		return 0
	}
	if ll, ok := sa.(*unix.SockaddrLinklayer); ok {
		return ll.Ifindex
	}
	return 0
}

func (q *packetQueue) receive(batch []*Frame) (n int, err error) {
	q.mu.RLock()
	defer q.mu.RUnlock()
	m, bytes := q.rx, 0
	ask := q.load.ask(min(len(batch), len(m.hdrs)), 0)
	for i, f := range batch[:ask] {
		m.set(i, f.buf[ethStart-vnetLen:])
		m.hdrs[i].hdr.Controllen = controlLen
	}
	got, err := m.recv(q.fd, ask)
	for i := range got {
		f := batch[i]
		if !f.received(ethStart-vnetLen, int(m.hdrs[i].n)) {
			q.u.Errors.Add(1)
			continue
		}
		f.Truncated = m.hdrs[i].hdr.Flags&unix.MSG_TRUNC != 0
		f.VLAN = m.vlan(i)
		bytes += len(f.Bytes())
		batch[i], batch[n] = batch[n], batch[i]
		n++
	}
	q.load.saw(n, bytes, n > 0 && got < ask)
	if n > 0 {
		q.u.RxPackets.Add(uint64(n))
		q.u.RxBytes.Add(uint64(bytes))
	}
	return n, err
}

// Write implements Queue.
func (q *packetQueue) Write(batch []*Frame) { q.write(q.tx, batch) }

func (q *packetQueue) write(m *mmsgs, batch []*Frame) {
	q.mu.RLock()
	defer q.mu.RUnlock()
	if q.fd < 0 {
		q.u.drop(policy.LinkDown, len(batch))
		return
	}
	mac := q.u.mac.Load()
	for len(batch) > 0 {
		n := 0
		for len(batch) > 0 && n < len(m.hdrs) {
			f := batch[0]
			batch = batch[1:]
			if b := f.buf[ethStart:]; policy.MAC(b[6:12]).Bits() != mac {
				q.u.Foreign.Add(1)
				q.u.drop(policy.ForeignMAC, 1)
				continue
			}
			m.set(n, f.transmit(ethStart))
			n++
		}
		q.send(m, n)
	}
}

func (q *packetQueue) send(m *mmsgs, n int) {
	var packets, bytes uint64
	var first error // of the frame at hand
	for at := 0; at < n; {
		sent, err := m.send(q.fd, at, n)
		for i := at; i < at+sent; i++ {
			packets++
			bytes += m.iovs[i].Len - vnetLen
		}
		at += sent
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if first != nil && err == nil {
			q.missed(first)
		}
		// An error of what the socket has received is told to whoever calls first. So one that may be such is not yet the frame's.
		if first == nil && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENETDOWN)) {
			first = err
			continue
		}
		if first = nil; err == nil {
			continue
		}
		at += q.unsent(err, n-at)
	}
	q.u.TxPackets.Add(packets)
	q.u.TxBytes.Add(bytes)
}

// unsent counts the first of so many frames, or all of them, as lost and tells how many that are.
func (q *packetQueue) unsent(err error, left int) (lost int) {
	q.u.Errors.Add(1)
	reason := dropReason(err)
	if lost = 1; reason == policy.LinkDown || errors.Is(err, unix.EAGAIN) {
		lost = left // the rest would fare no better
	}
	q.u.drop(reason, lost)
	if errors.Is(err, unix.ENXIO) { // the interface was deleted
		q.u.gone.Store(true)
		q.waker.Wake()
	}
	return lost
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
	got, _, e := syscall.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&m.hdrs[0])), uintptr(n), unix.MSG_DONTWAIT, 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(got), nil
}

func (m *mmsgs) send(fd, from, to int) (int, error) {
	sent, _, e := syscall.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&m.hdrs[from])), uintptr(to-from), unix.MSG_DONTWAIT, 0, 0)
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
