package stack

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"udrouter/policy"
)

const ipip, gre, esp = 4, 47, 50

// flowsOfTest is how many flows each shape is tested with: among so many, some differ where they may.
const flowsOfTest = 64

// shape is what the packets of a flow look like, from the guest and back to it.
type shape struct {
	name   string
	only   int // 4 or 6; 0: both
	make   func(e ends, back bool) []byte
	paired bool // both directions come by queues of the same number
	inFlow bool // and by that of the flow's TCP segments
}

// ends are those of a flow, in the direction of the packet.
type ends struct {
	src, dst   netip.Addr
	sport, dpo uint16
}

func endsOf(v6 bool, i int, back bool) ends {
	e := ends{netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + i%7)}), netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), uint16(40000 + i), 443}
	if v6 {
		e.src, e.dst = netip.MustParseAddr(fmt.Sprintf("2001:db8:3:2:1::%x", 16+i%7)), netip.MustParseAddr(fmt.Sprintf("2001:db8:ffff::%x", i))
	}
	if back {
		e = ends{e.dst, e.src, e.dpo, e.sport}
	}
	return e
}

// packet makes a frame; room for a number is at its end.
func (e ends) packet(next byte, body ...byte) []byte {
	body = append(body, 0, 0, 0, 0)
	if e.src.Is4() {
		b := append(make([]byte, 34), body...)
		ip := b[14:]
		binary.BigEndian.PutUint16(b[12:], policy.EtherIPv4)
		ip[0], ip[8], ip[9] = 0x45, 64, next
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		copy(ip[12:], e.src.AsSlice())
		copy(ip[16:], e.dst.AsSlice())
		ipv4Checksum(ip)
		return b
	}
	b := append(make([]byte, 54), body...)
	binary.BigEndian.PutUint16(b[12:], policy.EtherIPv6)
	b[14], b[20], b[21] = 0x60, next, 64
	binary.BigEndian.PutUint16(b[18:], uint16(len(body)))
	copy(b[22:], e.src.AsSlice())
	copy(b[38:], e.dst.AsSlice())
	return b
}

// transport is a TCP segment, or the beginning of a datagram.
func (e ends) transport() []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, e.sport)
	binary.BigEndian.PutUint16(b[2:], e.dpo)
	b[12], b[13] = 0x50, 0x10
	return b
}

func (e ends) tcp() []byte { return e.packet(policy.ProtoTCP, e.transport()...) }

// fragment is one of a TCP segment, at an offset in units of 8 bytes.
func (e ends) fragment(offset uint16, more bool) []byte {
	flags := offset << 3
	if more {
		flags |= 1
	}
	if e.src.Is6() {
		head := []byte{policy.ProtoTCP, 0, byte(flags >> 8), byte(flags), 0, 0, 0, 1}
		return e.packet(policy.ProtoFragment, append(head, e.transport()...)...)
	}
	b := e.tcp()
	flags = offset
	if more {
		flags |= 0x2000
	}
	binary.BigEndian.PutUint16(b[20:], flags)
	ipv4Checksum(b[14:])
	return b
}

func (e ends) icmp(typ4, typ6 byte, quote ...byte) []byte {
	if e.src.Is4() {
		return e.packet(policy.ProtoICMP, append([]byte{typ4, 0, 0, 0, 0, 0, 0, 0}, quote...)...)
	}
	return e.packet(policy.ProtoICMPv6, append([]byte{typ6, 0, 0, 0, 0, 0, 0, 0}, quote...)...)
}

// error is an ICMP error about a segment that was sent to where it goes.
func (e ends) error() []byte {
	sent := ends{e.dst, e.src, e.dpo, e.sport}
	return e.icmp(3, 1, sent.tcp()[14:]...)
}

// shapes are what Link.Queues promises, and where the promise ends: with what a segment does not look like to the kernel's flow dissector. So a
// flow's whole packets, its fragments and the ICMP errors about it may be at hand in several workers at a time, and both directions of ESP.
var shapes = []shape{
	{"TCP", 0, func(e ends, _ bool) []byte { return e.tcp() }, true, true},
	{"UDP", 0, func(e ends, _ bool) []byte { return e.packet(policy.ProtoUDP, e.transport()...) }, true, false},
	{"echo", 0, func(e ends, back bool) []byte {
		if back {
			return e.icmp(0, 129)
		}
		return e.icmp(8, 128)
	}, true, false},
	{"VLAN tag", 0, func(e ends, _ bool) []byte {
		b := e.tcp()
		return append(append(append([]byte{}, b[:12]...), 0x81, 0, 0, 5), b[12:]...)
	}, false, false}, // and dropped
	{"super-packet, segments back", 0, func(e ends, back bool) []byte {
		if back {
			return e.tcp()
		}
		return e.packet(policy.ProtoTCP, append(e.transport(), make([]byte, superLen)...)...)
	}, true, true},
	{"flow labels", 6, func(e ends, back bool) []byte {
		b := e.tcp()
		b[17] = byte(e.sport)
		if back {
			b[16] = 9
		}
		return b
	}, true, true},
	{"hop-by-hop and destination options", 6, func(e ends, back bool) []byte {
		head := []byte{policy.ProtoDstOpts, 0, 1, 4, 0, 0, 0, 0, policy.ProtoTCP, 0, 1, 4, 0, 0, 0, 0}
		if back {
			head = head[8:]
			return e.packet(policy.ProtoDstOpts, append(head, e.transport()...)...)
		}
		return e.packet(policy.ProtoHopByHop, append(head, e.transport()...)...)
	}, true, true},
	{"first fragment", 0, func(e ends, _ bool) []byte { return e.fragment(0, true) }, true, false},
	{"later fragment", 0, func(e ends, _ bool) []byte { return e.fragment(3, false) }, true, false},
	{"first fragment, later one back", 0, func(e ends, back bool) []byte {
		if back {
			return e.fragment(3, false)
		}
		return e.fragment(0, true)
	}, true, false},
	{"atomic fragment", 6, func(e ends, _ bool) []byte { return e.fragment(0, false) }, true, false},
	{"segments, fragments back", 0, func(e ends, back bool) []byte {
		if back {
			return e.fragment(0, true)
		}
		return e.tcp()
	}, false, true},
	{"segments, errors of the other end back", 0, func(e ends, back bool) []byte {
		if back {
			return e.error()
		}
		return e.tcp()
	}, false, true},
	{"echo, errors of the other end back", 0, func(e ends, back bool) []byte {
		if back {
			return e.error()
		}
		return e.icmp(8, 128)
	}, true, false},
	{"echo, errors of a router back", 0, func(e ends, back bool) []byte {
		if !back {
			return e.icmp(8, 128)
		}
		if e.src = netip.MustParseAddr("203.0.113.9"); e.dst.Is6() {
			e.src = netip.MustParseAddr("2001:db8:fffe::9")
		}
		return e.error()
	}, false, false},
	{"ESP with an SPI for each direction", 0, func(e ends, back bool) []byte {
		if back {
			return e.packet(esp, 0, 0, 0x10, 1, 0, 0, 0, 1)
		}
		return e.packet(esp, 0, 0, 0x20, 2, 0, 0, 0, 1)
	}, false, false},
	{"IP in IP, by the flow inside", 4, func(e ends, _ bool) []byte { return e.packet(ipip, e.tcp()[14:]...) }, true, true},
	{"GRE, by the flow inside", 4, func(e ends, _ bool) []byte {
		return e.packet(gre, append([]byte{0, 0, 8, 0}, e.tcp()[14:]...)...)
	}, true, true},
}

// openBoth opens a TAP and an uplink with that many queues each, and the test's ends of them, both with virtio_net_hdr.
func openBoth(t *testing.T, queues int) (tap *TunTap, u *Uplink, near, far int) {
	t.Helper()
	enterNS(t)
	veth(t)
	u, err := OpenUplink("eth0", guests, queues)
	check(t, err)
	t.Cleanup(func() { check(t, u.Close()) })
	tap = openTAP(t, queues)
	return tap, u, packetSocket(t, "udr0", true), packetSocket(t, "far", true)
}

// superLen is more than any frame has that is none, see send.
const superLen = 3000

// send gives the kernel a frame with a number, as a super-packet where it is large.
func send(t *testing.T, fd int, b []byte, number int) {
	t.Helper()
	b = append(make([]byte, vnetLen, vnetLen+len(b)), b...)
	if len(b) > superLen {
		l4 := uint16(34)
		b[0], b[1] = policy.NeedsCsum, policy.GSOTCPv4
		if b[vnetLen+12] == 0x86 {
			l4, b[1] = 54, policy.GSOTCPv6
		}
		binary.NativeEndian.PutUint16(b[2:], l4+20)
		binary.NativeEndian.PutUint16(b[4:], 1000)
		binary.NativeEndian.PutUint16(b[6:], l4)
		binary.NativeEndian.PutUint16(b[8:], 16)
	}
	binary.BigEndian.PutUint32(b[len(b)-4:], uint32(number))
	_, err := unix.Write(fd, b)
	check(t, err)
}

type arrival struct{ queue, number int }

// collect reads so many frames from the queues, of as many links as there are.
func collect(t *testing.T, want int, links ...Link) (list []arrival) {
	t.Helper()
	var queues []Queue
	var number []int
	for _, l := range links {
		for i, q := range l.Queues() {
			queues, number = append(queues, q), append(number, i)
		}
	}
	late := time.AfterFunc(20*time.Second, func() { panic("frames that were sent did not come") })
	defer late.Stop()
	batch := NewBatch(batchLen)
	var p Poll
	for {
		for i, q := range queues {
			n, err := q.Receive(batch)
			check(t, err)
			for _, f := range batch[:n] {
				list = append(list, arrival{number[i], numberOf(f.Bytes())})
			}
		}
		if len(list) >= want {
			return list
		}
		p.Wait(queues, true)
	}
}

// byNumber tells by which queue each frame came; each came once.
func byNumber(t *testing.T, list []arrival) map[int]int {
	t.Helper()
	m := map[int]int{}
	for _, a := range list {
		if _, twice := m[a.number]; twice {
			t.Errorf("frame %d came twice", a.number)
		}
		m[a.number] = a.queue
	}
	return m
}

// steered sends packets of a shape both ways and tells whether all flows had both directions by the same queue, and all flows had the same
// queue as their TCP segments.
func steered(t *testing.T, v6 bool, s shape, tap *TunTap, u *Uplink, near, far int) (paired, inFlow bool, used int) {
	t.Helper()
	const plain, back = 1 << 16, 1 << 17
	for i := range flowsOfTest {
		send(t, near, endsOf(v6, i, false).tcp(), plain+i)
		send(t, near, s.make(endsOf(v6, i, false), false), i)
		send(t, far, s.make(endsOf(v6, i, true), true), back+i)
	}
	m := byNumber(t, collect(t, 3*flowsOfTest, tap, u))
	if len(m) != 3*flowsOfTest {
		t.Fatalf("%d frames came of %d", len(m), 3*flowsOfTest)
	}
	paired, inFlow = true, true
	queues := map[int]bool{}
	for i := range flowsOfTest {
		paired = paired && m[i] == m[back+i]
		inFlow = inFlow && m[i] == m[plain+i]
		queues[m[plain+i]] = true
	}
	return paired, inFlow, len(queues)
}

func TestSteering(t *testing.T) {
	for _, queues := range []int{2, 4} {
		t.Run(fmt.Sprint(queues), func(t *testing.T) {
			tap, u, near, far := openBoth(t, queues)
			for _, s := range shapes {
				for _, v6 := range []bool{false, true} {
					if s.only == 4 && v6 || s.only == 6 && !v6 {
						continue
					}
					paired, inFlow, used := steered(t, v6, s, tap, u, near, far)
					if paired != s.paired || inFlow != s.inFlow || used != queues {
						t.Errorf("%s, IPv6 %v: paired %v, with the flow %v, over %d queues; want %v and %v over %d", s.name, v6, paired, inFlow, used, s.paired, s.inFlow, queues)
					}
				}
			}
		})
	}
}

// Both directions still come by the same queue when devices went down and up, and when they were deleted and made again.
func TestSteeringLater(t *testing.T) {
	const queues = 4
	tap, u, near, far := openBoth(t, queues)
	steady := func(when string, near, far int) {
		t.Helper()
		for _, v6 := range []bool{false, true} {
			if paired, _, used := steered(t, v6, shapes[0], tap, u, near, far); !paired || used != queues {
				t.Errorf("%s: paired %v, over %d queues", when, paired, used)
			}
		}
	}
	steady("at first", near, far)
	for _, n := range []string{"udr0", "eth0"} {
		check(t, netlink.LinkSetDown(mustLink(t, n)))
		check(t, netlink.LinkSetUp(mustLink(t, n)))
	}
	steady("down and up", packetSocket(t, "udr0", true), packetSocket(t, "far", true))

	check(t, netlink.LinkDel(mustLink(t, "eth0")))
	check(t, netlink.LinkDel(mustLink(t, "udr0")))
	veth(t)
	u.Rebind()
	batch := NewBatch(1)
	var p Poll
	for tap.Reopened.Load() == 0 || u.Reopened.Load() == 0 { // as workers do
		for _, q := range append(tap.Queues(), u.Queues()...) {
			_, err := q.Receive(batch)
			check(t, err)
		}
		p.Wait(tap.Queues(), false)
	}
	quiet(t, "udr0")
	check(t, netlink.LinkSetUp(mustLink(t, "udr0")))
	steady("made again", packetSocket(t, "udr0", true), packetSocket(t, "far", true))
	if tap.Reopened.Load() != 1 || u.Reopened.Load() != 1 {
		t.Errorf("opened %d and %d times again", tap.Reopened.Load(), u.Reopened.Load())
	}
}

// What a worker writes by its own queue of the TAP leaves the flow where it is. What is written by another queue, as Link.Write does, takes the flow there,
// until the flow's own worker writes again.
func TestWriteSteers(t *testing.T) {
	const queues = 4
	tap, _, near, _ := openBoth(t, queues)
	queueOf := func(round int) map[int]int {
		for i := range flowsOfTest {
			send(t, near, endsOf(false, i, false).tcp(), round<<16+i)
		}
		m := map[int]int{}
		for n, q := range byNumber(t, collect(t, flowsOfTest, tap)) {
			m[n&0xffff] = q
		}
		return m
	}
	write := func(by func(flow int) func([]*Frame)) {
		for i := range flowsOfTest {
			f := NewFrame(100)
			f.Set(endsOf(false, i, true).tcp())
			by(i)([]*Frame{f})
		}
	}
	home := queueOf(1)
	write(func(i int) func([]*Frame) { return tap.Queues()[home[i]].Write })
	for i, q := range queueOf(2) {
		if q != home[i] {
			t.Errorf("flow %d came by queue %d, then by %d", i, home[i], q)
		}
	}
	write(func(int) func([]*Frame) { return tap.Write })
	for i, q := range queueOf(3) {
		if q != 0 {
			t.Errorf("flow %d came by queue %d after a write by the first", i, q)
		}
	}
	write(func(i int) func([]*Frame) { return tap.Queues()[home[i]].Write })
	for i, q := range queueOf(4) {
		if q != home[i] {
			t.Errorf("flow %d did not come back to queue %d, but to %d", i, home[i], q)
		}
	}
}

// Each frame comes by one queue, those of a flow by the same and in order.
func TestQueuesInOrder(t *testing.T) {
	const queues, rounds = 4, 40
	tap, u, near, far := openBoth(t, queues)
	for name, c := range map[string]struct {
		link Link
		fd   int
		back bool
	}{"TAP": {tap, near, false}, "uplink": {u, far, true}} {
		for r := range rounds {
			for i := range flowsOfTest {
				send(t, c.fd, endsOf(r%2 == 1, i, c.back).tcp(), r<<16+i)
			}
		}
		type flow struct {
			number int
			v6     bool
		}
		last := map[flow]arrival{}
		list := collect(t, rounds*flowsOfTest, c.link)
		byNumber(t, list)
		for _, a := range list {
			f := flow{a.number & 0xffff, a.number>>16%2 == 1}
			if l, ok := last[f]; ok && (l.queue != a.queue || l.number >= a.number) {
				t.Errorf("%s: flow %v: %+v after %+v", name, f, a, l)
			}
			last[f] = a
		}
		if len(list) != rounds*flowsOfTest || len(last) != 2*flowsOfTest {
			t.Errorf("%s: %d frames of %d flows", name, len(list), len(last))
		}
	}
}
