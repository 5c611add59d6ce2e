package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"udrouter/policy"
)

// Frame is what a Sniffer saw.
type Frame struct {
	Data     []byte    // from the Ethernet header on; a tag that the kernel had taken out is back in
	Time     time.Time // the kernel's
	Outgoing bool      // sent by the sniffer's own host
	Partial  bool      // the transport checksum is yet to be made
}

// SniffOptions vary a sniffer.
type SniffOptions struct {
	BPF  []bpf.Instruction       // what the kernel hands over at all; nil: everything
	Keep func(frame []byte) bool // what is kept of that; nil: everything; called by one goroutine at a time
	Max  int                     // frames kept; 0: 65536. More, or over 256 MiB, are counted as lost
}

// Arriving is a filter for what a link receives only: of that it does as prog says.
func Arriving(prog []bpf.Instruction) []bpf.Instruction {
	return append([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
	}, prog...)
}

const maxSniffed = 256 << 20 // bytes

// Sniffer collects the frames of a link, those sent and those received, from Sniff to Close. Its
// methods may be called from several goroutines.
type Sniffer struct {
	link string
	file *os.File
	raw  syscall.RawConn
	keep func([]byte) bool
	max  int
	done chan struct{}

	mu     sync.Mutex
	frames []Frame
	bytes  int // of frames
	lost   int
	err    error         // what ended it
	more   chan struct{} // closed when a frame was kept or err set
	buf    []byte
	oob    []byte
}

// Sniff starts to collect the frames of a link. It is closed with the namespace at the latest.
func (n *NS) Sniff(link string, o SniffOptions) (*Sniffer, error) {
	fd, err := n.PacketSocket(link, unix.ETH_P_ALL, func(fd int) error { return prepareSniff(fd, o.BPF) })
	if err != nil {
		return nil, fmt.Errorf("sniffing on %s of %s: %w", link, n.name, err)
	}
	s := &Sniffer{
		link: link + " of " + n.name,
		file: os.NewFile(uintptr(fd), "packet:"+link),
		keep: o.Keep,
		max:  o.Max,
		done: make(chan struct{}),
		more: make(chan struct{}),
		buf:  make([]byte, 1<<17), // a GSO frame has at most 64 KiB, unless BIG TCP is on
		oob:  make([]byte, 256),
	}
	if s.max == 0 {
		s.max = 1 << 16
	}
	if s.raw, err = s.file.SyscallConn(); err != nil {
		return nil, errors.Join(fmt.Errorf("sniffing on %s: %w", s.link, err), s.file.Close())
	}
	go s.run()
	n.OnClose(s.Close)
	return s, nil
}

// PacketSocket opens a raw AF_PACKET socket for an EtherType on a link; with 0 it receives nothing, and only sends. prepare, which may be nil,
// sets it up before a frame can come. The socket is close-on-exec and does not block; the caller closes it.
func (n *NS) PacketSocket(link string, etherType uint16, prepare func(fd int) error) (int, error) {
	index, err := n.LinkIndex(link)
	if err != nil {
		return -1, err
	}
	fd, err := n.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0) // bound later: nothing of other links slips in
	if err != nil {
		return -1, err
	}
	if prepare != nil {
		err = prepare(fd)
	}
	if err == nil {
		sa := &unix.SockaddrLinklayer{Protocol: etherType<<8 | etherType>>8, Ifindex: index}
		err = os.NewSyscallError("bind", unix.Bind(fd, sa))
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func prepareSniff(fd int, filter []bpf.Instruction) error {
	if filter != nil {
		if err := AttachFilter(fd, filter); err != nil {
			return err
		}
	}
	return errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		// Best for what is above the machine's limit; with less, frames may be lost, which is counted.
		setBuffer(fd, 32<<20),
	)
}

// AttachFilter has the kernel hand over to a socket what a program admits.
func AttachFilter(fd int, filter []bpf.Instruction) error {
	raw, err := bpf.Assemble(filter)
	if err != nil {
		return fmt.Errorf("assembling the filter: %w", err)
	}
	prog := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		prog[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &fprog); err != nil {
		return fmt.Errorf("attaching the filter: %w", err)
	}
	return nil
}

func setBuffer(fd, bytes int) error {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bytes) == nil {
		return nil
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, bytes)
}

// run collects until the socket is closed.
func (s *Sniffer) run() {
	defer close(s.done)
	err := s.raw.Read(func(fd uintptr) bool { // called when there may be something to read
		s.mu.Lock()
		defer s.mu.Unlock()
		s.drain(int(fd))
		return s.err != nil
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
		close(s.more)
	}
}

// drain reads what the socket has, under s.mu.
func (s *Sniffer) drain(fd int) {
	before := len(s.frames)
	for s.err == nil {
		n, oobn, _, from, err := unix.Recvmsg(fd, s.buf, s.oob, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
		switch err {
		case nil:
		case unix.EAGAIN:
			s.countLost(fd)
			if len(s.frames) > before {
				close(s.more)
				s.more = make(chan struct{})
			}
			return
		case unix.EINTR, unix.ENETDOWN: // a link that is down may come up again
			continue
		default:
			s.err = os.NewSyscallError("recvmsg", err)
			close(s.more)
			return
		}
		f := Frame{Data: s.buf[:min(n, len(s.buf))], Time: time.Now()}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok {
			f.Outgoing = ll.Pkttype == unix.PACKET_OUTGOING
		}
		f.control(s.oob[:oobn])
		if s.keep != nil && !s.keep(f.Data) {
			continue
		}
		if len(s.frames) == s.max || s.bytes+len(f.Data) > maxSniffed {
			s.lost++
			continue
		}
		f.Data = slices.Clone(f.Data)
		s.frames = append(s.frames, f)
		s.bytes += len(f.Data)
	}
}

// countLost adds what the kernel could not hand over since the last time; reading resets that.
func (s *Sniffer) countLost(fd int) {
	if st, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
		s.lost += int(st.Drops)
	}
}

// control reads a frame's timestamp, VLAN tag and checksum state from the control messages.
func (f *Frame) control(oob []byte) {
	list, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return
	}
	for _, m := range list {
		switch {
		case m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= 16:
			ts := (*unix.Timespec)(unsafe.Pointer(&m.Data[0]))
			f.Time = time.Unix(ts.Unix())
		case m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 20:
			aux := (*unix.TpacketAuxdata)(unsafe.Pointer(&m.Data[0]))
			f.Partial = aux.Status&unix.TP_STATUS_CSUMNOTREADY != 0
			if aux.Status&unix.TP_STATUS_VLAN_VALID != 0 && len(f.Data) >= 12 {
				tpid := uint16(unix.ETH_P_8021Q)
				if aux.Status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
					tpid = aux.Vlan_tpid
				}
				tag := binary.BigEndian.AppendUint16(nil, tpid)
				tag = binary.BigEndian.AppendUint16(tag, aux.Vlan_tci)
				f.Data = slices.Concat(f.Data[:12], tag, f.Data[12:])
			}
		}
	}
}

// Frames are those collected so far: all that the link carried before the call, as far as they
// were kept. The result is the caller's, the data is not to be changed.
func (s *Sniffer) Frames() []Frame { return s.FramesFrom(0) }

// FramesFrom are Frames without the first n.
func (s *Sniffer) FramesFrom(n int) []Frame {
	frames, _, _ := s.snapshot(n)
	return frames
}

// Take returns the frames that were collected since the last Take, or since Sniff, and forgets them: who takes now and then can go on without end.
// Indices, as AwaitFrom has them, begin anew.
func (s *Sniffer) Take() []Frame {
	_, _, _ = s.snapshot(0)
	s.mu.Lock()
	defer s.mu.Unlock()
	frames := s.frames
	s.frames, s.bytes = nil, 0
	return frames
}

// snapshot returns the frames from an index on, what is closed when there are more, and the error
// that ended the sniffer.
func (s *Sniffer) snapshot(from int) ([]Frame, <-chan struct{}, error) {
	_ = s.raw.Control(func(fd uintptr) { // fails when closed: then there is no more to read
		s.mu.Lock()
		defer s.mu.Unlock()
		s.drain(int(fd))
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.frames[from:]), s.more, s.err
}

// Lost is how many frames could not be kept.
func (s *Sniffer) Lost() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}

// Await waits until a frame that was collected since Sniff matches, whichever way it went.
func (s *Sniffer) Await(ctx context.Context, match func(frame []byte) bool) (Frame, error) {
	return s.AwaitFrame(ctx, func(f Frame) bool { return match(f.Data) })
}

// AwaitFrame is Await for a condition on more than the data.
func (s *Sniffer) AwaitFrame(ctx context.Context, match func(Frame) bool) (Frame, error) {
	return s.AwaitFrom(ctx, 0, match)
}

// AwaitFrom is AwaitFrame that does not look at the first n frames: with many behind it, a test that looks at all of them each time takes
// the square of its rows.
func (s *Sniffer) AwaitFrom(ctx context.Context, n int, match func(Frame) bool) (Frame, error) {
	seen := n
	for {
		frames, more, err := s.snapshot(seen)
		for _, f := range frames {
			if match(f) {
				return f, nil
			}
		}
		seen += len(frames)
		if err != nil {
			return Frame{}, fmt.Errorf("awaiting a frame on %s: %w", s.link, err)
		}
		select {
		case <-more:
		case <-ctx.Done():
			return Frame{}, fmt.Errorf("awaiting a frame on %s: %w", s.link, context.Cause(ctx))
		}
	}
}

// Count is how many frames so far match.
func (s *Sniffer) Count(match func(Frame) bool) int {
	n := 0
	for _, f := range s.Frames() {
		if match(f) {
			n++
		}
	}
	return n
}

// Close ends the collecting; Frames has what there was until then.
func (s *Sniffer) Close() error {
	s.snapshot(0)
	err := s.file.Close()
	<-s.done
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// shortFrames admits what probes are made of and little of what transfers are.
var shortFrames = []bpf.Instruction{
	bpf.LoadExtension{Num: bpf.ExtLen},
	bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: 400, SkipTrue: 1},
	bpf.RetConstant{Val: 400},
	bpf.RetConstant{Val: 0},
}

// FrameSender puts frames on a link as they are.
type FrameSender struct {
	link string
	file *os.File
}

// Sender opens a link for raw frames. It is closed with the namespace at the latest.
func (n *NS) Sender(link string) (*FrameSender, error) {
	fd, err := n.PacketSocket(link, 0, nil)
	if err != nil {
		return nil, fmt.Errorf("opening %s of %s for frames: %w", link, n.name, err)
	}
	s := &FrameSender{link: link + " of " + n.name, file: os.NewFile(uintptr(fd), "packet:"+link)}
	n.OnClose(s.Close)
	return s, nil
}

// Send sends one frame, from its Ethernet header on. The kernel refuses one that is shorter than
// that or longer than the link's MTU.
func (s *FrameSender) Send(frame []byte) error {
	if _, err := s.file.Write(frame); err != nil {
		return fmt.Errorf("sending a frame on %s: %w", s.link, err)
	}
	return nil
}

// Close closes the sender.
func (s *FrameSender) Close() error {
	if err := s.file.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// MACWatch counts the source addresses other than one's own that a link receives. The kernel
// filters, so no amount of traffic makes it miss one.
type MACWatch struct{ s *Sniffer }

// WatchMACs watches the frames that a link receives. On the upstream router's link to dom0, with
// the uplink's address, it sees whether a guest's ever leaves.
func (n *NS) WatchMACs(link string, own policy.MAC) (*MACWatch, error) {
	hi, lo := binary.BigEndian.Uint32(own[:4]), uint32(binary.BigEndian.Uint16(own[4:]))
	s, err := n.Sniff(link, SniffOptions{BPF: []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 5},
		bpf.LoadAbsolute{Off: 6, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: hi, SkipTrue: 2},
		bpf.LoadAbsolute{Off: 10, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: lo, SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 18},
		bpf.RetConstant{Val: 0},
	}})
	if err != nil {
		return nil, err
	}
	return &MACWatch{s}, nil
}

// Foreign is how many frames came from each other address so far.
func (w *MACWatch) Foreign() map[policy.MAC]int {
	seen := make(map[policy.MAC]int)
	for _, f := range w.s.Frames() {
		if len(f.Data) >= 12 {
			seen[policy.MAC(f.Data[6:12])]++
		}
	}
	return seen
}

// Close ends the watch; Foreign keeps its answer.
func (w *MACWatch) Close() error { return w.s.Close() }
