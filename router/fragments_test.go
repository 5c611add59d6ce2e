package router

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"udrouter/integration/cases"
	"udrouter/policy"
	"udrouter/stack"
)

// A packet that is too long for the way out leaves in as few pieces as it takes, that say the same as the packet (RFC 791 3.2, RFC 1812 5.2.6): in
// both directions, with options, and when it is a piece itself.
func TestFragmentsByTheRouter(t *testing.T) {
	alert, record := layers.IPv4Option{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}, layers.IPv4Option{OptionType: 7, OptionLength: 7, OptionData: []byte{4, 0, 0, 0, 0}}
	nop := layers.IPv4Option{OptionType: 1, OptionLength: 1}
	for _, c := range []struct {
		name    string
		edit    func(*layers.IPv4)
		options int // bytes of options in the second piece
		pieces  int
	}{
		{"plain", func(*layers.IPv4) {}, 0, 2},
		{"identification 0", func(h *layers.IPv4) { h.Id = 0 }, 0, 2},
		{"options, one of them copied", func(h *layers.IPv4) { h.Options = []layers.IPv4Option{record, nop, alert} }, 4, 2},
		{"an option that is not copied", func(h *layers.IPv4) { h.Options = []layers.IPv4Option{record} }, 0, 2},
		{"a first fragment", func(h *layers.IPv4) { h.Flags = layers.IPv4MoreFragments }, 0, 2},
		{"a middle fragment", func(h *layers.IPv4) { h.Flags, h.FragOffset = layers.IPv4MoreFragments, 185 }, 0, 2},
		{"a last fragment", func(h *layers.IPv4) { h.FragOffset = 370 }, 0, 2},
	} {
		for _, up := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, up %v", c.name, up), func(t *testing.T) {
				k := seedKernel()
				guestMTU, out, in := 1500, stack.UplinkSide, stack.Guests
				if up {
					k.Uplink.MTU = 1400
				} else {
					guestMTU, out, in = 1400, stack.Guests, stack.UplinkSide
				}
				s := newSim(t, parseConfig(t, strings.NewReplacer("PROXY", "", `bridge "xenbr0" {}`, fmt.Sprintf(`bridge "xenbr0" { mtu = %d }`, guestMTU)).Replace(seedFile)), k)
				s.learn()
				s.newWorker(stack.Guests).appearedAll()
				send := func(size int, edit func(*layers.IPv4)) []byte {
					dst, src, from, to := s.RouterMAC, cases.MAC1, cases.One4, cases.X4
					if !up {
						dst, src, from, to = eth0MAC, gatewayMAC, cases.X4, cases.One4
					}
					f := cases.UDP(dst, src, from, to, size, func(l gopacket.SerializableLayer) { edit(l.(*layers.IPv4)) })
					s.send(in, f)
					return f
				}
				var header layers.IPv4
				c.edit(&header)
				if header.FragOffset > 0 {
					send(64, func(h *layers.IPv4) { h.Flags = layers.IPv4MoreFragments })
					s.links[out].Take()
				}
				sent := send(1448, c.edit)
				want := gopacket.NewPacket(sent, layers.LayerTypeEthernet, gopacket.Default).Layer(layers.LayerTypeIPv4).(*layers.IPv4)
				got := s.links[out].Take()
				if len(got) != c.pieces || len(s.counts()) > 0 || len(s.links[in].Take()) > 0 {
					t.Fatalf("%d pieces, counted %v", len(got), s.counts())
				}
				var payload []byte
				for i, g := range got {
					h := gopacket.NewPacket(g.Frame, layers.LayerTypeEthernet, gopacket.Default).Layer(layers.LayerTypeIPv4).(*layers.IPv4)
					last := i == len(got)-1
					more := h.Flags&layers.IPv4MoreFragments != 0
					switch {
					case int(h.Length) != len(g.Frame)-14 || h.Length > 1400:
						t.Errorf("piece %d has %d bytes, its header says %d", i, len(g.Frame)-14, h.Length)
					case h.Id != want.Id || h.TTL != want.TTL-1 || h.TOS != want.TOS || h.Protocol != want.Protocol || !h.SrcIP.Equal(want.SrcIP) || !h.DstIP.Equal(want.DstIP):
						t.Errorf("piece %d says %+v", i, h)
					case h.Flags&layers.IPv4DontFragment != 0 || more != (!last || want.Flags&layers.IPv4MoreFragments != 0):
						t.Errorf("piece %d has flags %v", i, h.Flags)
					case int(h.FragOffset) != int(want.FragOffset)+len(payload)/8:
						t.Errorf("piece %d is at %d", i, h.FragOffset)
					case !last && (len(h.Payload)%8 != 0 || len(h.Payload)+8 <= 1400-int(h.IHL)*4):
						t.Errorf("piece %d brings %d bytes", i, len(h.Payload))
					case policy.FoldChecksum(policy.Sum(g.Frame[14:14+int(h.IHL)*4], 0)) != 0xffff:
						t.Errorf("piece %d has a wrong checksum", i)
					}
					options := g.Frame[34 : 14+int(h.IHL)*4]
					if i == 0 && !bytes.Equal(options, sent[34:14+int(want.IHL)*4]) || i > 0 && (len(options) != c.options || len(options) > 0 && !bytes.Equal(options, []byte{148, 4, 0, 0})) {
						t.Errorf("piece %d has options %x", i, options)
					}
					payload = append(payload, h.Payload...)
				}
				if !bytes.Equal(payload, want.Payload) {
					t.Error("the pieces are not the packet")
				}
			})
		}
	}
}

// pieces are an echo request in fragments of at most 1480 bytes.
func pieces(dst, src policy.MAC, from, to netip.Addr, id uint16, n int) (list [][]byte) {
	whole := cases.Echo(dst, src, from, to, false, n)
	header := policy.EthernetLen + policy.IPv4Len
	if from.Is6() {
		header = policy.EthernetLen + policy.IPv6Len
	}
	const most = 1448
	for b, off := whole[header:], 0; off < len(b); off += most {
		part := b[off:min(len(b), off+most)]
		list = append(list, piece(whole[:header], id, off, off+most < len(b), part))
	}
	return list
}

// piece is a fragment of a packet with that Ethernet and IP header.
func piece(header []byte, id uint16, off int, more bool, b []byte) []byte {
	f := bytes.Clone(header)
	if header[12] == 8 {
		ip := f[policy.EthernetLen:]
		binary.BigEndian.PutUint16(ip[2:], uint16(policy.IPv4Len+len(b)))
		binary.BigEndian.PutUint16(ip[4:], id)
		field := uint16(off / 8)
		if more {
			field |= 0x2000
		}
		binary.BigEndian.PutUint16(ip[6:], field)
		ip[10], ip[11] = 0, 0
		binary.BigEndian.PutUint16(ip[10:], ^policy.FoldChecksum(policy.Sum(ip[:policy.IPv4Len], 0)))
		return append(f, b...)
	}
	field := uint16(off)
	if more {
		field |= 1
	}
	ext := []byte{f[policy.EthernetLen+6], 0, byte(field >> 8), byte(field), 0, 0, byte(id >> 8), byte(id)}
	f[policy.EthernetLen+6] = policy.ProtoFragment
	binary.BigEndian.PutUint16(f[policy.EthernetLen+4:], uint16(8+len(b)))
	return append(append(f, ext...), b...)
}

// One guest's fragments without end, or without beginning, do nothing to another's, nor those that the internet sends to one. Nothing is held back,
// and so nothing is reported when the rest does not come (RFC 792, RFC 4443 3.3).
func TestFragmentFlood(t *testing.T) {
	s := seed(t)
	s.learn()
	s.newWorker(stack.Guests).appearedAll()
	through := func(from, to stack.Side, list [][]byte) {
		t.Helper()
		for _, l := range s.links {
			l.Take()
		}
		s.send(from, list...)
		if n := len(s.links[to].Take()); n != len(list) {
			t.Errorf("%d of %d fragments passed, counted %v", n, len(list), s.counts())
		}
	}
	const rounds = 200
	for i := range rounds {
		id := uint16(i)
		for n := range uint16(50) {
			four := pieces(s.RouterMAC, cases.MAC1, cases.One4, cases.X4, id*50+n, 5000)
			six := pieces(s.RouterMAC, cases.MAC1, cases.One6, cases.X6, id*50+n, 5000)
			s.send(stack.Guests, four[0], six[0])
			s.send(stack.Guests, pieces(s.RouterMAC, cases.MAC1, cases.One4, cases.X4, id*50+n+0x8000, 5000)[3], six[3])
			s.send(stack.UplinkSide, pieces(eth0MAC, gatewayMAC, cases.X4, cases.One4, id*50+n, 5000)[0])
		}
		through(stack.Guests, stack.UplinkSide, pieces(s.RouterMAC, cases.MAC2, cases.Two4, cases.X4, id, 5000))
		through(stack.Guests, stack.UplinkSide, pieces(s.RouterMAC, cases.MAC2, cases.Two6, cases.X6, id, 5000))
		through(stack.UplinkSide, stack.Guests, pieces(eth0MAC, gatewayMAC, cases.X4, cases.Two4, id, 5000))
		through(stack.UplinkSide, stack.Guests, pieces(eth0MAC, gatewayMAC, cases.X6, cases.Two6, id, 5000))
	}
	if n := s.counts()[policy.FragmentOrphan]; n != rounds*50 {
		t.Errorf("counted %v, want %d orphans", s.counts(), rounds*50)
	}
	s.clock.Advance(2 * time.Minute)
	for side, l := range s.links {
		if n := len(l.Take()); n != 0 {
			t.Errorf("%d frames on side %d when their time was over", n, side)
		}
	}
}

// Half a minute after the first fragment the others do not pass any more; their sender is not told.
func TestFragmentTimeout(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		src, dst := cases.One4, cases.X4
		if v6 {
			src, dst = cases.One6, cases.X6
		}
		for _, late := range []bool{false, true} {
			s := seed(t)
			s.learn()
			s.newWorker(stack.Guests).appearedAll()
			list := pieces(s.RouterMAC, cases.MAC1, src, dst, 1, 5000)
			s.send(stack.Guests, list[0])
			s.clock.Advance(policy.FragmentIdle - time.Second)
			s.send(stack.Guests, list[1]) // keeps the flow, not the datagram
			if late {
				s.clock.Advance(time.Second)
			}
			s.send(stack.Guests, list[2])
			passed, told, want := len(s.links[stack.UplinkSide].Take()), len(s.links[stack.Guests].Take()), 3
			if late {
				want = 2
			}
			if passed != want || told != 0 || (s.counts()[policy.FragmentOrphan] == 1) != late {
				t.Errorf("IPv6 %v, late %v: %d passed, %d answers, counted %v", v6, late, passed, told, s.counts())
			}
		}
	}
}

// Echo requests in fragments to the router itself are put together, whatever fragments another guest leaves there; when their time is over, only
// who has sent a first fragment is told, and a few times only (RFC 8200 4.5). netstack tells nobody in IPv4.
func TestOwnReassembly(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("IPv6 %v", v6), func(t *testing.T) {
			s := seed(t)
			s.newWorker(stack.Guests).appearedAll()
			one, two, router := cases.One4, cases.Two4, cases.Router4
			if v6 {
				one, two, router = cases.One6, cases.Two6, cases.Router6
			}
			ping := func(id uint16) {
				t.Helper()
				s.links[stack.Guests].Take()
				s.send(stack.Guests, pieces(s.RouterMAC, cases.MAC2, two, router, id, 5000)...)
				total := 0
				for _, f := range s.links[stack.Guests].Take() {
					var p policy.Packet
					if r := p.Parse(f.Frame, f.Offload); r != policy.None || p.DstMAC != cases.MAC2 {
						t.Fatalf("%v: %x", r, f.Frame)
					}
					if total += p.FragLen; p.FragOff == 0 && (p.Src != router || p.ICMPType != 0 && p.ICMPType != 129) {
						t.Errorf("answered by %+v", p)
					}
				}
				if total != 5008 {
					t.Errorf("%d bytes of an answer, counted %v", total, s.counts())
				}
			}
			ping(1)
			const flood = 3 * echoPerSecond
			for i := range uint16(flood) {
				list := pieces(s.RouterMAC, cases.MAC1, one, router, i, 5000)
				s.send(stack.Guests, list[0])
				if i%2 == 0 {
					s.send(stack.Guests, pieces(s.RouterMAC, cases.MAC1, one, router, i+0x8000, 5000)[1+i%3])
				}
			}
			if s.counts()[policy.RouterLimit] == 0 {
				t.Error("no limit was met: this test shows nothing")
			}
			ping(2)
			s.links[stack.Guests].Take()
			s.clock.Advance(2 * time.Minute)
			told := s.frames(stack.Guests)
			for _, p := range told {
				if p.ICMPType != 3 || p.ICMPCode != 1 || p.Dst != one || p.Src != router {
					t.Fatalf("told %+v", p)
				}
			}
			if v6 != (len(told) > 0) || len(told) > errorsPerSecond {
				t.Errorf("told %d times that the rest of a datagram has not come", len(told))
			}
			ping(3)
		})
	}
}
