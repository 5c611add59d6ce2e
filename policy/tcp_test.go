package policy

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"
)

// flowEnds are two hosts; the first opens.
type flowEnds struct{ src, dst netip.AddrPort }

func ends(src, dst string) flowEnds {
	return flowEnds{netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)}
}

// packet makes a parsed packet from the opener, or back to it.
func (e flowEnds) packet(t testing.TB, back bool, proto uint8, l4 []byte) *Packet {
	t.Helper()
	return e.edited(t, back, proto, l4, nil)
}

func (e flowEnds) edited(t testing.TB, back bool, proto uint8, l4 []byte, edit func(ip []byte)) *Packet {
	t.Helper()
	p := new(Packet)
	if r := p.Parse(e.frame(back, proto, l4, edit), Offload{}); r != None {
		t.Fatalf("parsing: %v", r)
	}
	return p
}

func (e flowEnds) frame(back bool, proto uint8, l4 []byte, edit func(ip []byte)) []byte {
	src, dst := e.src, e.dst
	if back {
		src, dst = dst, src
	}
	l4 = append([]byte(nil), l4...)
	if (&Packet{Proto: proto}).hasPorts() {
		ports(l4, src.Port(), dst.Port())
	}
	if src.Addr().Is4() {
		return v4(proto, l4, func(ip []byte) {
			copy(ip[12:], src.Addr().AsSlice())
			copy(ip[16:], dst.Addr().AsSlice())
			if edit != nil {
				edit(ip)
			}
		})
	}
	return v6(proto, l4, func(ip []byte) {
		copy(ip[8:], src.Addr().AsSlice())
		copy(ip[24:], dst.Addr().AsSlice())
		if edit != nil {
			edit(ip)
		}
	})
}

// tcpBytes makes a TCP header and its payload.
func tcpBytes(flags byte, seq, ack uint32, window uint16, payload int, options ...byte) []byte {
	for len(options)%4 != 0 {
		options = append(options, 0)
	}
	b := make([]byte, 20+len(options)+payload)
	binary.BigEndian.PutUint32(b[4:], seq)
	binary.BigEndian.PutUint32(b[8:], ack)
	b[12], b[13] = byte(5+len(options)/4)<<4, flags
	binary.BigEndian.PutUint16(b[14:], window)
	copy(b[20:], options)
	return b
}

var tcpFlagLetters = map[rune]byte{'F': tcpFIN, 'S': tcpSYN, 'R': tcpRST, 'P': tcpPSH, 'A': tcpACK, 'U': tcpURG, '-': 0}

// step is a line of a script.
type step struct {
	line    string
	wait    time.Duration
	back    bool
	flags   byte
	seq     uint32
	ack     uint32
	payload int
	window  uint16
	scale   int
	want    string
}

func parseScript(t testing.TB, script string) (steps []step) {
	t.Helper()
	for line := range strings.Lines(script) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		s := step{line: line, window: 10000, scale: -1}
		if wait, ok := strings.CutPrefix(line, "wait "); ok {
			d, err := time.ParseDuration(wait)
			if err != nil {
				t.Fatal(err)
			}
			s.wait = d
			steps = append(steps, s)
			continue
		}
		left, want, _ := strings.Cut(line, " | ")
		w := strings.Fields(left)
		s.back, s.want = w[0] == "<", want
		for _, c := range w[1] {
			s.flags |= tcpFlagLetters[c]
		}
		number := func(v string) int {
			n, err := strconv.Atoi(v)
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			return n
		}
		s.seq = uint32(number(w[2]))
		for i := 3; i < len(w); i += 2 {
			n := number(w[i+1])
			switch w[i] {
			case "ack":
				s.ack = uint32(n)
			case "len":
				s.payload = n
			case "win":
				s.window = uint16(n)
			case "ws":
				s.scale = n
			default:
				t.Fatalf("%s: what is %q?", line, w[i])
			}
		}
		steps = append(steps, s)
	}
	return steps
}

// Every script holds for both families, whichever end has the lower address, and where sequence numbers wrap.
func TestTCP(t *testing.T) {
	variants := []struct {
		name string
		ends flowEnds
		base [2]uint32
	}{
		{"IPv4", ends("192.0.2.10:40000", "198.51.100.7:443"), [2]uint32{1e6, 3e9}},
		{"IPv4, reversed", ends("198.51.100.7:443", "192.0.2.10:40000"), [2]uint32{0xffffffff, 0x7fffffff}},
		{"IPv6, wrapping", ends("[2001:db8:3:2:1::10]:40000", "[2001:db8:ffff::7]:443"), [2]uint32{0xfffff000, 0xffffff00}},
	}
	for _, c := range tcpScripts {
		steps := parseScript(t, c.script)
		for _, v := range variants {
			t.Run(c.name+"/"+v.name, func(t *testing.T) {
				table := NewFlowTable(100, NewFlowBudget(100))
				now := time.Hour
				for n, s := range steps {
					if s.wait != 0 {
						now += s.wait
						continue
					}
					if got := playTCP(t, table, v.ends, v.base, s, now); got != s.want {
						t.Fatalf("step %d: %s\n got %s (%s)", n, s.line, got, c.ref)
					}
				}
			})
		}
	}
}

func playTCP(t testing.TB, table *FlowTable, e flowEnds, base [2]uint32, s step, now time.Duration) string {
	t.Helper()
	return pickTCP(t, table, e, base, s, now, false)
}

// pickTCP is playTCP for a table that may pick connections up.
func pickTCP(t testing.TB, table *FlowTable, e flowEnds, base [2]uint32, s step, now time.Duration, pickUp bool) string {
	t.Helper()
	own, other, from, to := base[0], base[1], SideGuest, SideUplink
	if s.back {
		own, other, from, to = other, own, to, from
	}
	ack := uint32(0)
	if s.flags&tcpACK != 0 {
		ack = s.ack + other
	}
	var options []byte
	if s.scale >= 0 {
		options = []byte{2, 4, 5, 0xb4, 1, 3, 3, byte(s.scale)}
	}
	p := e.packet(t, s.back, ProtoTCP, tcpBytes(s.flags, s.seq+own, ack, s.window, s.payload, options...))
	key, _, _ := p.FlowKey()
	before := entry(table, key, now)
	made := ""
	hit, ok := table.Lookup(p, from, now)
	if !ok {
		if hit, hit.Reason = table.create(p, from, to, 1, 1, now, pickUp && p.continues()); hit.Reason == None {
			made = "new "
		}
	}
	after := entry(table, key, now)
	state := "-"
	if after != nil {
		state = after.State.String()
	}
	if hit.Reason != None {
		if before != nil && (after == nil || *before != *after) {
			t.Errorf("%s: what was refused has changed the flow", s.line)
		}
		return fmt.Sprint(hit.Reason, " ", state)
	}
	if hit.State.String() != state {
		t.Errorf("%s: the hit says %v", s.line, hit.State)
	}
	return made + state
}

// snapshot lists what is in a table.
func snapshot(table *FlowTable, now time.Duration) (flows []Flow) {
	table.Each(now, func(f *Flow) bool { flows = append(flows, *f); return true })
	return flows
}

func entry(table *FlowTable, key FlowKey, now time.Duration) *Flow {
	for _, f := range snapshot(table, now) {
		if f.Key == key {
			return &f
		}
	}
	return nil
}

// A segment in fragments is longer than its first fragment shows; its acknowledgement must pass.
func TestTCPFragments(t *testing.T) {
	e := ends("192.0.2.10:40000", "198.51.100.7:443")
	table := NewFlowTable(100, NewFlowBudget(100))
	for _, s := range parseScript(t, handshake) {
		playTCP(t, table, e, [2]uint32{}, s, time.Hour)
	}
	piece := func(offset, n int, more bool) *Packet {
		l4 := tcpBytes(tcpACK, 1, 1, 10000, n-20)
		return e.edited(t, false, ProtoTCP, l4, fragmentField(9, offset, more))
	}
	for _, p := range []*Packet{piece(0, 1000, true), piece(1000, 2000, false)} {
		if hit, ok := table.Lookup(p, SideGuest, time.Hour); !ok || hit.Reason != None {
			t.Fatalf("offset %d: %v, %v", p.FragOff, ok, hit.Reason)
		}
	}
	beyond := e.packet(t, true, ProtoTCP, tcpBytes(tcpACK, 1, 10002, 10000, 0))
	if hit, ok := table.Lookup(beyond, SideUplink, time.Hour); !ok || hit.Reason != TCPWindow {
		t.Fatalf("an acknowledgement beyond the window: %v, %v", ok, hit.Reason)
	}
	ack := e.packet(t, true, ProtoTCP, tcpBytes(tcpACK, 1, 1+980+2000, 10000, 0))
	if hit, ok := table.Lookup(ack, SideUplink, time.Hour); !ok || hit.Reason != None {
		t.Fatalf("the acknowledgement: %v, %v", ok, hit.Reason)
	}
	next := e.packet(t, false, ProtoTCP, tcpBytes(tcpACK, 2981, 1, 10000, 1000))
	if hit, ok := table.Lookup(next, SideGuest, time.Hour); !ok || hit.Reason != None {
		t.Fatalf("the next segment: %v, %v", ok, hit.Reason)
	}
}

// Broken options are no reason to read beyond them.
func TestTCPScale(t *testing.T) {
	for _, c := range []struct {
		options []byte
		scale   uint8
		scales  bool
	}{
		{nil, 0, false},
		{[]byte{3, 3, 7, 0}, 7, true},
		{[]byte{1, 3, 3, 5}, 5, true},
		{[]byte{0, 3, 3, 5}, 0, false},
		{[]byte{2, 4, 1, 1, 4, 2, 3, 3, 9, 0, 0, 0}, 9, true},
		{[]byte{1, 1, 1, 3}, 0, false},
		{[]byte{1, 1, 3, 3}, 0, false},
		{[]byte{3, 0, 3, 3}, 0, false},
		{[]byte{8, 200, 3, 3}, 0, false},
		{[]byte{3, 4, 7, 7}, 0, false},
	} {
		p := ends("192.0.2.10:40000", "198.51.100.7:443").packet(t, false, ProtoTCP, tcpBytes(tcpSYN, 0, 0, 1, 0, c.options...))
		if g, ok := p.segment(); !ok || g.scale != c.scale || g.scales != c.scales {
			t.Errorf("%v: %+v", c.options, g)
		}
	}
}

// fragmentField edits an IPv4 header into that of a fragment.
func fragmentField(id uint16, offset int, more bool) func(ip []byte) {
	return func(ip []byte) {
		binary.BigEndian.PutUint16(ip[4:], id)
		v := uint16(offset / 8)
		if more {
			v |= 0x2000
		}
		binary.BigEndian.PutUint16(ip[6:], v)
	}
}
