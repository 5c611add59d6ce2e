package router

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/policy"
	"udrouter/stack"
	"udrouter/stack/stacktest"
)

// A packet of any size beyond the MTU is told to be too big, or arrives whole in pieces that fit: none is cut, and none is lost without a word.
func TestOversize(t *testing.T) {
	for _, size := range []int{1501, 1504, 1514, 1518, 2900, 3000, 9000, 32768, 65535} {
		for _, from := range []cases.Place{cases.One, cases.Uplink} {
			for _, kind := range []string{"IPv4", "DF", "IPv6"} {
				s := ready(t, cases.Open(config.Reference))
				s.oversize(fmt.Sprintf("%s of %d bytes from %s", kind, size, from), size, from, kind)
			}
		}
	}
}

func (s *sim) oversize(name string, size int, from cases.Place, kind string) {
	s.t.Helper()
	a, b, header := cases.One4, cases.X4, 28
	if kind == "IPv6" {
		a, b, header = cases.One6, cases.X6, 48
	}
	dst, src, in, out := s.RouterMAC, cases.MAC1, stack.Guests, stack.UplinkSide
	if from == cases.Uplink {
		dst, src, in, out, a, b = eth0MAC, gatewayMAC, out, in, b, a
	}
	var edit []func(gopacket.SerializableLayer)
	if kind == "DF" {
		edit = append(edit, cases.DF)
	}
	f := cases.UDP(dst, src, a, b, size-header, edit...)
	s.send(in, f)
	got, told := s.frames(out), s.frames(in)
	if kind != "IPv4" {
		if len(got) != 0 || len(told) != 1 || !told[0].IsICMPError() || binary.BigEndian.Uint32(told[0].Frame[told[0].L4+4:]) != 1500 || s.counts()[policy.TooBig] != 1 {
			s.t.Errorf("%s: %d frames left, told %d times, counted %v", name, len(got), len(told), s.counts())
		}
		return
	}
	var whole []byte
	for _, p := range got {
		if p.L3Len() > 1500 || p.FragOff != len(whole) {
			s.t.Fatalf("%s: %d bytes at %d, with %d before", name, p.L3Len(), p.FragOff, len(whole))
		}
		whole = append(whole, p.Frame[policy.EthernetLen+policy.IPv4Len:]...)
	}
	if !bytes.Equal(whole, f[policy.EthernetLen+policy.IPv4Len:]) || len(told) != 0 || len(s.counts()) != 0 || got[len(got)-1].More {
		s.t.Errorf("%s: %d bytes arrived, told %d times, counted %v", name, len(whole), len(told), s.counts())
	}
}

// Super-packets of every size go on whole, with what the next kernel needs to split them. One whose metadata lies does not pass.
func TestSuperPackets(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, payload := range []int{1, 1359, 1360, 1361, 1448, 2900, 9000, 40000, 65400} {
			s := ready(t, cases.Open(config.Reference))
			one, x := family(v6, cases.One4, cases.One6), family(v6, cases.X4, cases.X6)
			l4, typ := 34, uint8(policy.GSOTCPv4)
			if v6 {
				l4, typ = 54, policy.GSOTCPv6
			}
			a, b := netip.AddrPortFrom(x, 40000), netip.AddrPortFrom(one, 443)
			handshake(s, a, b)
			f := cases.TCP(eth0MAC, gatewayMAC, a, b, 16, 1000, 2000, payload)
			o := policy.Offload{Flags: policy.NeedsCsum, GSOType: typ, GSOSize: 1360, HdrLen: uint16(l4 + 20), CsumStart: uint16(l4), CsumOffset: 16}
			s.newWorker(stack.UplinkSide).batch([]*stack.Frame{stacktest.Frame(f, o)})
			want := o
			if payload <= 1360 { // a single segment is none to split
				want = policy.Offload{Flags: policy.NeedsCsum, CsumStart: o.CsumStart, CsumOffset: o.CsumOffset}
			}
			got := s.links[stack.Guests].Take()
			if len(got) != 1 || got[0].Offload != want || !bytes.Equal(got[0].Frame, cases.Forwarded(f, cases.MAC1, s.RouterMAC)) {
				t.Errorf("IPv6 %v, %d bytes: %d frames, counted %v", v6, payload, len(got), s.counts())
			}
			for name, lie := range map[string]func(*policy.Offload){
				"no size":               func(o *policy.Offload) { o.GSOSize = 0 },
				"the other family":      func(o *policy.Offload) { o.GSOType ^= policy.GSOTCPv4 ^ policy.GSOTCPv6 },
				"UDP":                   func(o *policy.Offload) { o.GSOType = policy.GSOUDPL4 },
				"UFO":                   func(o *policy.Offload) { o.GSOType = policy.GSOUDP },
				"checksum elsewhere":    func(o *policy.Offload) { o.CsumStart-- },
				"checksum in the ports": func(o *policy.Offload) { o.CsumOffset = 0 },
				"checksum beyond":       func(o *policy.Offload) { o.CsumOffset = 0xffff },
			} {
				bad, before := o, s.counts()[policy.Malformed]
				lie(&bad)
				s.newWorker(stack.UplinkSide).batch([]*stack.Frame{stacktest.Frame(f, bad)})
				if n := s.quiet(); n != 0 || s.counts()[policy.Malformed] != before+1 {
					t.Errorf("IPv6 %v, %d bytes, %s: %d frames, counted %v", v6, payload, name, n, s.counts())
				}
			}
		}
	}
	// A frame for which the buffer was too small is none, whatever is left of it.
	s := ready(t, cases.Open(config.Reference))
	f := stacktest.Frame(cases.UDP(s.RouterMAC, cases.MAC1, cases.One4, cases.X4, 1000), policy.Offload{})
	f.Truncated = true
	s.newWorker(stack.Guests).batch([]*stack.Frame{f})
	if n := s.quiet(); n != 0 || s.counts()[policy.Malformed] != 1 {
		t.Errorf("truncated: %d frames, counted %v", n, s.counts())
	}
}

// handshake opens a connection from the uplink to guest one, in either family.
func handshake(s *sim, a, b netip.AddrPort) {
	s.t.Helper()
	s.send(stack.UplinkSide, cases.TCP(eth0MAC, gatewayMAC, a, b, 2, 999, 0, 0))
	s.send(stack.Guests, cases.TCP(s.RouterMAC, cases.MAC1, b, a, 2|16, 1999, 1000, 0))
	s.send(stack.UplinkSide, cases.TCP(eth0MAC, gatewayMAC, a, b, 16, 1000, 2000, 0))
	if n := s.quiet(); n != 3 {
		s.t.Fatalf("%d segments of a handshake passed: %v", n, s.counts())
	}
}
