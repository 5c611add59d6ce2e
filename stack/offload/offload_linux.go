package offload

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"udrouter/policy"
)

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go@v0.22.0 -target bpfel -go-package offload -cflags "-O2 -g -Wall -Wextra -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu" flow flow.c

// ErrNotSupported tells that this kernel cannot do it: it needs tcx (Linux 6.6) and its own type information (/sys/kernel/btf).
var ErrNotSupported = errors.New("the kernel has no tcx (Linux 6.6) or no type information (CONFIG_DEBUG_INFO_BTF)")

// grace is how long a place stays unused after its flow: longer than any program may still be at work that has found it before.
const grace = 2 * time.Second

// Tier is the programs with their maps. It is safe for concurrent use.
type Tier struct {
	tap   string
	objs  flowObjects
	clock time.Time // the monotonic time of Go, and the kernel's then
	base  uint64

	// The maps that the programs share with it. They are mapped as long as the process lives, since nobody waits for those who look at them.
	world      *flowWorld
	neighbours []flowNeighbour
	flows      []flowFlow
	guests     []policy.Side // of the flow in a place, whose guest it is

	mu       sync.Mutex
	closed   bool
	links    [2]link.Link   // of the uplink and the TAP
	id       ebpf.ProgramID // of the program that is for the uplink
	indexes  [2]int         // of the interfaces that they are for
	filter   *ebpf.Program
	fresh    int                      // places from here on were never used
	resting  []rest                   // those that were, the oldest first
	active   int                      // flows
	share    int                      // of places, that are kept for each guest
	common   int                      // places beyond the shares that are taken
	used     map[policy.Side]int      // places
	finished map[policy.Side]Counters // what flows have had whose places others have now
	gone     Counters                 // and what there was of guests that are gone
}

type rest struct {
	place uint16
	since time.Duration
}

// World is what all flows depend on. Flows of another generation are not forwarded, and none while it is 0.
type World struct {
	Generation           uint32
	MTU                  int // the least of all links, in bytes of IP
	Uplink               int // interface index
	RouterMAC, UplinkMAC policy.MAC
}

// Counters are what was forwarded, by policy.Direction. Bytes are those of frames, and a GSO frame counts once.
type Counters struct{ Packets, Bytes [2]uint64 }

// Open loads the programs, for a TAP that may come and go, with slots for so many neighbours. Half of the flows that it takes are kept for the guests, in
// equal shares.
func Open(tap string, guests, neighbours int) (*Tier, error) {
	t := &Tier{tap: tap, clock: time.Now(), fresh: 1, used: map[policy.Side]int{}, finished: map[policy.Side]Counters{}}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return nil, fmt.Errorf("reading the clock: %w", err)
	}
	t.base = uint64(now.Nano())
	spec, err := loadFlow()
	if err != nil {
		return nil, fmt.Errorf("reading the eBPF programs: %w", err)
	}
	const flows = MaxFlows
	spec.Maps["flows"].MaxEntries, spec.Maps["places"].MaxEntries = uint32(flows+1), uint32(flows)
	spec.Maps["neighbours"].MaxEntries = uint32(neighbours)
	if err := spec.LoadAndAssign(&t.objs, nil); err != nil {
		if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, os.ErrNotExist) {
			err = fmt.Errorf("%w: %w", ErrNotSupported, err)
		}
		return nil, fmt.Errorf("loading the eBPF programs: %w", err)
	}
	info, err := t.objs.FromUplink.Info()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("asking for the program's number: %w", err), t.objs.Close())
	}
	t.id, _ = info.ID()
	worlds, err1 := shared[flowWorld](t.objs.Worlds, 1)
	var err2, err3 error
	t.neighbours, err2 = shared[flowNeighbour](t.objs.Neighbours, neighbours)
	t.flows, err3 = shared[flowFlow](t.objs.Flows, flows+1)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, errors.Join(err, t.objs.Close())
	}
	t.world, t.guests = &worlds[0], make([]policy.Side, flows+1)
	t.split(guests)
	return t, nil
}

// split gives so many guests their shares, which are kept, taken or not. t.mu is held, but in Open.
func (t *Tier) split(guests int) {
	t.share = (len(t.flows) - 1) / (2 * max(guests, 1))
	t.common = t.share * guests
	for _, n := range t.used {
		t.common += max(0, n-t.share)
	}
}

// Retain says who is a guest from now on. What was forwarded for others stays in the sum of all.
func (t *Tier) Retain(guests []policy.Side) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for g, c := range t.finished {
		if !slices.Contains(guests, g) {
			t.gone = t.gone.and(c)
			delete(t.finished, g)
		}
	}
	t.split(len(guests))
}

// MaxFlows is how many flows there may be, at about 300 bytes each; those that there is no room for stay with the router.
const MaxFlows = policy.DefaultTotalFlows / 32

// shared maps the values of an array into the program's memory.
func shared[T any](m *ebpf.Map, n int) ([]T, error) {
	var zero T
	page := os.Getpagesize()
	size := (n*int(unsafe.Sizeof(zero)) + page - 1) / page * page
	b, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping %v: %w", m, err)
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&b[0])), n), nil
}

// now is CLOCK_MONOTONIC.
func (t *Tier) now() uint64 { return t.base + uint64(time.Since(t.clock)) }

// SetWorld makes flows of a generation be forwarded, and no others. After an error none are.
func (t *Tier) SetWorld(w World) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	tap := 0
	if i, err := net.InterfaceByName(t.tap); err == nil {
		tap = i.Index
	}
	if t.closed || w.Generation == atomic.LoadUint32(&t.world.Generation) && t.indexes == [2]int{w.Uplink, tap} {
		return nil
	}
	atomic.StoreUint32(&t.world.Generation, 0)
	if w.Generation == 0 || w.Uplink == 0 || tap == 0 {
		return nil
	}
	for i, index := range [2]int{w.Uplink, tap} {
		if err := t.attach(i, index); err != nil {
			return err
		}
	}
	t.world.Mtu, t.world.Uplink, t.world.Tap = uint32(w.MTU), uint32(w.Uplink), uint32(tap)
	t.world.RouterMac, t.world.UplinkMac = words(w.RouterMAC), words(w.UplinkMAC)
	atomic.StoreUint32(&t.world.Generation, w.Generation)
	return nil
}

// attach puts a program on an interface, before all others, so that what admit leaves to it is not another's first. t.mu is held.
func (t *Tier) attach(i, index int) error {
	if t.links[i] != nil && t.indexes[i] == index {
		return nil
	}
	if t.links[i] != nil {
		_ = t.links[i].Close() // its interface is gone
		t.links[i], t.indexes[i] = nil, 0
	}
	o := link.TCXOptions{Interface: index, Program: t.objs.FromUplink, Attach: ebpf.AttachTCXIngress, Anchor: link.Head()}
	if i == 1 {
		o.Program, o.Attach = t.objs.FromGuest, ebpf.AttachTCXEgress
	}
	l, err := link.AttachTCX(o)
	if errors.Is(err, ebpf.ErrNotSupported) {
		err = fmt.Errorf("%w: %w", ErrNotSupported, err)
	}
	if err != nil {
		return fmt.Errorf("attaching to the interface with index %d: %w", index, err)
	}
	t.links[i], t.indexes[i] = l, index
	return nil
}

// InFront is an error where what the uplink receives does not meet the program there before all others, or where that cannot be told. Nothing is forwarded
// where no program was ever put, nor on an interface that is gone.
func (t *Tier) InFront() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || t.links[0] == nil {
		return nil
	}
	r, err := link.QueryPrograms(link.QueryOptions{Target: t.indexes[0], Attach: ebpf.AttachTCXIngress})
	if err != nil {
		// The library asks after an error whether the kernel can do it, and gives that answer ever after: the error tells nothing of the interface.
		if _, gone := net.InterfaceByIndex(t.indexes[0]); gone != nil {
			return nil
		}
		return fmt.Errorf("looking for the program on the uplink: %w", err)
	}
	if len(r.Programs) == 0 || r.Programs[0].ID != t.id {
		return errors.New("the program on the uplink was taken away, or there is another before it")
	}
	return nil
}

func words(m policy.MAC) (w [3]uint16) {
	for i := range w {
		w[i] = binary.NativeEndian.Uint16(m[2*i:])
	}
	return w
}

// SetNeighbour says who is in a slot, and at which MAC; the zero MAC stops what goes there.
func (t *Tier) SetNeighbour(slot int, serial uint32, mac policy.MAC) {
	n := &t.neighbours[slot]
	if atomic.LoadUint32(&n.Serial) != serial {
		atomic.StoreUint64(&n.Mac, 0)
		atomic.StoreUint32(&n.Serial, serial)
	}
	var b [8]byte
	copy(b[:], mac[:])
	binary.LittleEndian.PutUint16(b[6:], uint16(serial))
	atomic.StoreUint64(&n.Mac, binary.LittleEndian.Uint64(b[:]))
}

// NeighbourUsed tells whether packets were forwarded to who is in a slot since it was asked last.
func (t *Tier) NeighbourUsed(slot int) bool {
	used := &t.neighbours[slot].Used
	return atomic.LoadUint32(used) != 0 && atomic.SwapUint32(used, 0) != 0
}

// Put begins to forward a flow's packets, those of the guest to the neighbour in a slot. It tells the flow's place, or that there is no room.
func (t *Tier) Put(o *policy.OffloadFlow, slot int, serial uint32) (place uint16, ok bool) {
	if o.Generation != atomic.LoadUint32(&t.world.Generation) {
		return 0, false
	}
	if place, ok = t.take(o.Guest.Side); !ok {
		return 0, false
	}
	f := &t.flows[place]
	*f = flowFlow{
		Key:    key(o),
		Serial: serial, Neighbour: uint16(slot), Mac: words(o.Guest.MAC),
		Used: t.now() - uint64(o.Unused), Idle: uint64(o.Idle),
	}
	for i, w := range o.Window {
		f.Side[i].Una, f.Side[i].End, f.Side[i].Edge, f.Side[i].Window, f.Side[i].Shift = w.UNA, w.End, w.Edge, w.Window, uint32(w.Shift)
	}
	atomic.StoreUint32(&f.Generation, o.Generation)
	if err := t.objs.Places.Update(&f.Key, uint32(place), ebpf.UpdateNoExist); err != nil {
		atomic.StoreUint32(&f.Generation, 0)
		t.rest(place)
		return 0, false
	}
	return place, true
}

// take is a place for a guest's flow. It counts for the guest what the place's last flow has had.
func (t *Tier) take(g policy.Side) (place uint16, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	beyond := t.used[g] >= t.share
	switch {
	case t.closed || beyond && t.common >= len(t.flows)-1:
		return 0, false
	case len(t.resting) > 0 && time.Since(t.clock)-t.resting[0].since >= grace:
		place = t.resting[0].place
		t.resting = t.resting[1:]
		f := &t.flows[place]
		t.finished[t.guests[place]] = t.finished[t.guests[place]].plus(f)
		f.Packets, f.Bytes = [2]uint64{}, [2]uint64{}
	case t.fresh < len(t.flows):
		place = uint16(t.fresh)
		t.fresh++
	default:
		return 0, false
	}
	if beyond {
		t.common++
	}
	t.used[g]++
	t.active++
	t.guests[place] = g
	return place, true
}

// rest gives a place back. What its flow has had is still counted there.
func (t *Tier) rest(place uint16) {
	t.mu.Lock()
	defer t.mu.Unlock()
	g := t.guests[place]
	if t.used[g]--; t.used[g] >= t.share {
		t.common--
	}
	if t.used[g] == 0 {
		delete(t.used, g)
	}
	t.active--
	t.resting = append(t.resting, rest{place, time.Since(t.clock)})
}

// Look implements policy.Tier.
func (t *Tier) Look(place uint16, w *[2]policy.WindowState) (o policy.Offloaded) {
	f := &t.flows[place]
	o.Unused = time.Duration(max(0, int64(t.now()-atomic.LoadUint64(&f.Used))))
	for i := range w {
		o.Packets[i] = atomic.LoadUint64(&f.Packets[i])
		o.Bytes[i] = atomic.LoadUint64(&f.Bytes[i]) - policy.EthernetLen*o.Packets[i]
		s := &f.Side[i]
		w[i].UNA, w[i].End, w[i].Edge = atomic.LoadUint32(&s.Una), atomic.LoadUint32(&s.End), atomic.LoadUint32(&s.Edge)
		w[i].Window = atomic.LoadUint32(&s.Window)
	}
	return o
}

// Raise implements policy.Tier.
func (t *Tier) Raise(place uint16, w *[2]policy.WindowState, unused time.Duration) {
	f := &t.flows[place]
	for used := t.now() - uint64(unused); ; {
		old := atomic.LoadUint64(&f.Used)
		if int64(used-old) <= 0 || atomic.CompareAndSwapUint64(&f.Used, old, used) {
			break
		}
	}
	later := func(a, b uint32) bool { return int32(a-b) > 0 }
	for i := range w {
		s := &f.Side[i]
		raise(&s.Una, w[i].UNA, later)
		raise(&s.End, w[i].End, later)
		raise(&s.Edge, w[i].Edge, later)
		raise(&s.Window, w[i].Window, func(a, b uint32) bool { return a > b })
	}
}

// raise makes a shared number a greater one, as the programs do.
func raise(shared *uint32, to uint32, greater func(a, b uint32) bool) {
	for {
		old := atomic.LoadUint32(shared)
		if !greater(to, old) || atomic.CompareAndSwapUint32(shared, old, to) {
			return
		}
	}
}

// Withdraw implements policy.Tier.
func (t *Tier) Withdraw(place uint16, w *[2]policy.WindowState) policy.Offloaded {
	f := &t.flows[place]
	atomic.StoreUint32(&f.Generation, 0)
	_ = t.objs.Places.Delete(&f.Key) // of a tier that is closed, or it is there
	o := t.Look(place, w)
	t.rest(place)
	return o
}

func key(o *policy.OffloadFlow) (k flowKey) {
	k.Proto, k.Family = o.Proto, 4
	if o.Inner.Addr().Is6() {
		k.Family = 6
	}
	k.GuestPort, k.OtherPort = swap(o.Inner.Port()), swap(o.Outer.Port())
	if o.Proto == policy.ProtoICMP || o.Proto == policy.ProtoICMPv6 {
		k.Opener = uint8(o.Opener)
	}
	k.Guest, k.Other = address(o.Inner.Addr()), address(o.Outer.Addr())
	return k
}

func swap(port uint16) uint16 { return port<<8 | port>>8 }

func address(a netip.Addr) (w [4]uint32) {
	for i, b := 0, a.AsSlice(); i < len(b)/4; i++ {
		w[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return w
}

// Flows is how many flows are forwarded, and how many may be.
func (t *Tier) Flows() (active, max int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.active, len(t.flows) - 1
}

// Counters is what was forwarded for each guest, by its side, and in all, for those that are gone as well. It looks at all flows.
func (t *Tier) Counters() (guests map[policy.Side]Counters, all Counters) {
	t.mu.Lock()
	defer t.mu.Unlock()
	guests = make(map[policy.Side]Counters, len(t.finished)+1)
	maps.Copy(guests, t.finished)
	for i := 1; i < t.fresh; i++ {
		guests[t.guests[i]] = guests[t.guests[i]].plus(&t.flows[i])
	}
	all = t.gone
	for _, c := range guests {
		all = all.and(c)
	}
	return guests, all
}

func (c Counters) plus(f *flowFlow) Counters {
	for i := range c.Packets {
		c.Packets[i] += atomic.LoadUint64(&f.Packets[i])
		c.Bytes[i] += atomic.LoadUint64(&f.Bytes[i])
	}
	return c
}

func (c Counters) and(d Counters) Counters {
	for i := range c.Packets {
		c.Packets[i] += d.Packets[i]
		c.Bytes[i] += d.Bytes[i]
	}
	return c
}

// SetFilter says what the packet sockets that have Screen see of what is not forwarded here.
func (t *Tier) SetFilter(program []bpf.Instruction) error {
	ins, err := translate(program)
	if err != nil {
		return err
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "filter", Type: ebpf.SocketFilter, Instructions: ins, License: "Dual MIT/GPL"})
	if err != nil {
		return fmt.Errorf("loading the filter: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.objs.Filters.Put(uint32(0), p); err != nil {
		return errors.Join(fmt.Errorf("replacing the filter: %w", err), p.Close())
	}
	if t.filter != nil {
		_ = t.filter.Close()
	}
	t.filter = p
	return nil
}

// Screen has a packet socket see only what the filter admits and is not forwarded here.
func (t *Tier) Screen(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, t.objs.Admit.FD()); err != nil {
		return fmt.Errorf("attaching the filter: %w", err)
	}
	return nil
}

// translate writes a classic program, which does nothing but what a filter of package stack does, in the instructions of eBPF: A is R0.
func translate(program []bpf.Instruction) (asm.Instructions, error) {
	at := func(i int) string { return fmt.Sprint("at", i) }
	jumps := map[bpf.JumpTest]asm.JumpOp{bpf.JumpEqual: asm.JEq, bpf.JumpNotEqual: asm.JNE, bpf.JumpLessThan: asm.JLT, bpf.JumpGreaterThan: asm.JGT}
	sizes := map[int]asm.Size{1: asm.Byte, 2: asm.Half, 4: asm.Word}
	const pktType = 4 // where struct __sk_buff (linux/bpf.h) has it
	out := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}
	for i, in := range program {
		var code asm.Instructions
		switch in := in.(type) {
		case bpf.LoadAbsolute:
			code = asm.Instructions{asm.LoadAbs(int32(in.Off), sizes[in.Size])}
		case bpf.LoadExtension:
			if in.Num != bpf.ExtType {
				return nil, fmt.Errorf("the filter has an unknown extension: %v", in)
			}
			code = asm.Instructions{asm.LoadMem(asm.R0, asm.R6, pktType, asm.Word)}
		case bpf.ALUOpConstant:
			if in.Op != bpf.ALUOpAnd {
				return nil, fmt.Errorf("the filter has an unknown operation: %v", in)
			}
			code = asm.Instructions{asm.And.Imm32(asm.R0, int32(in.Val))}
		case bpf.Jump:
			code = asm.Instructions{asm.Ja.Label(at(i + 1 + int(in.Skip)))}
		case bpf.JumpIf:
			op, ok := jumps[in.Cond]
			if !ok || in.SkipFalse != 0 {
				return nil, fmt.Errorf("the filter has an unknown jump: %v", in)
			}
			code = asm.Instructions{op.Imm32(asm.R0, int32(in.Val), at(i+1+int(in.SkipTrue)))}
		case bpf.RetConstant:
			code = asm.Instructions{asm.Mov.Imm32(asm.R0, int32(in.Val)), asm.Return()}
		default:
			return nil, fmt.Errorf("the filter has an unknown instruction: %v", in)
		}
		code[0] = code[0].WithSymbol(at(i))
		out = append(out, code...)
	}
	return out, nil
}

// Close takes the programs off. What is still asked of it, it does as far as there is something to do.
func (t *Tier) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	t.closed = true
	atomic.StoreUint32(&t.world.Generation, 0)
	var errs []error
	for _, l := range t.links {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	if t.filter != nil {
		errs = append(errs, t.filter.Close())
	}
	return errors.Join(append(errs, t.objs.Close())...)
}
