package stack

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"udrouter/policy"
)

// strangerLen is how much of a frame is kept, in bytes: the headers, by which it is described.
const strangerLen = 192

// maxKept is how many frames are taken out of a queue at a time, which holds less.
const maxKept = 16

// PortWatch is an AF_PACKET socket (packet(7)) on a guest's bridge port that counts the frames coming in with another source MAC than the guest's. It has
// its copy before the bridge, whose lock drops the frame. All others the kernel passes over, and nobody is woken for any. It is for one goroutine at a time.
type PortWatch struct {
	fd    int
	frame [strangerLen]byte
}

// strangers is the filter as the kernel runs it on each frame: it keeps those that come in from another MAC.
func strangers(own policy.MAC) []bpf.Instruction {
	const outgoing = 4 // PACKET_OUTGOING
	return []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: outgoing, SkipTrue: 4},
		bpf.LoadAbsolute{Off: 6, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(own[:]), SkipTrue: 3},
		bpf.LoadAbsolute{Off: 10, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(binary.BigEndian.Uint16(own[4:])), SkipTrue: 1},
		bpf.RetConstant{},
		bpf.RetConstant{Val: strangerLen},
	}
}

// WatchPort opens a watch on the interface with that index, whose guest may send with one MAC. It is there as long as the interface: what follows on one of
// that name needs a watch of its own.
func WatchPort(index int, own policy.MAC) (*PortWatch, error) {
	// Protocol 0 receives nothing until bind, so that no frame gets in ahead of the filter.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening a packet socket: %w", remedy(err))
	}
	w := &PortWatch{fd: fd}
	if err := w.setup(index, own); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

func (w *PortWatch) setup(index int, own policy.MAC) error {
	if err := unix.SetsockoptInt(w.fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
		return fmt.Errorf("setting PACKET_IGNORE_OUTGOING: %w", err)
	}
	// The kernel makes its minimum of it (socket(7)), which is room for a few frames: as many as are described.
	if err := unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 0); err != nil {
		return fmt.Errorf("setting SO_RCVBUF: %w", err)
	}
	if err := w.SetMAC(own); err != nil {
		return err
	}
	if err := unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: index}); err != nil {
		return fmt.Errorf("binding to interface %d: %w", index, err)
	}
	return nil
}

// SetMAC says with which MAC the guest may send now, in place of the one before: each frame is judged by one of them.
func (w *PortWatch) SetMAC(own policy.MAC) error { return attachProgram(w.fd, strangers(own)) }

// Take returns how many frames there were since it was called last, and the beginning of one of them, which is valid until the next call. It is nil where
// none was kept. An interface that goes down or away loses no count.
func (w *PortWatch) Take() (n uint64, frame []byte, err error) {
	// The kernel sets its counters back; the first has those that found no room as well (packet(7)).
	st, err := unix.GetsockoptTpacketStats(w.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0, nil, fmt.Errorf("reading PACKET_STATISTICS: %w", err)
	}
	n = uint64(st.Packets)
	var rest [policy.EthernetLen]byte
	into := w.frame[:]
	for range min(n, maxKept) { // no more, or the next count would be without its frame
		got, err := unix.Read(w.fd, into)
		switch {
		case err == nil:
			if frame == nil {
				frame, into = w.frame[:got], rest[:]
			}
		case errors.Is(err, unix.ENETDOWN), errors.Is(err, unix.EINTR): // reported once, before what waits
		default:
			return n, frame, nil
		}
	}
	return n, frame, nil
}

// Close closes it.
func (w *PortWatch) Close() error { return unix.Close(w.fd) }
