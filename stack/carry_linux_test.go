package stack

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"udrouter/policy"
	"udrouter/stack/gsotest"
)

// What is written to a TAP, a TUN or an uplink is, for the kernel, the segments that it was; and what the kernel gives them is read as that. The kernel's side is
// a socket with PACKET_VNET_HDR, whose headers are taken apart here.
func TestLinksCarrySegments(t *testing.T) {
	enterNS(t)
	links := everyLink(t)
	var sockets []int
	for _, n := range []string{"udr0", "udrhost", "far"} {
		sockets = append(sockets, packetSocket(t, n, true))
	}
	batch := NewBatch(batchLen)
	rapid.Check(t, func(t *rapid.T) {
		e := gsotest.Ends{DstMAC: farMAC, SrcMAC: nearMAC, TCP: rapid.Bool().Draw(t, "TCP"), Seq: rapid.Uint32().Draw(t, "seq"),
			Src: netip.MustParseAddrPort("198.51.100.7:443"), Dst: netip.MustParseAddrPort("192.0.2.10:40000")}
		if rapid.Bool().Draw(t, "IPv6") {
			e.Src, e.Dst = netip.MustParseAddrPort("[2001:db8:ffff::7]:443"), netip.MustParseAddrPort("[2001:db8:3:2:1::10]:40000")
		}
		write := rapid.Bool().Draw(t, "write")
		if !write {
			e.DstMAC, e.SrcMAC = nearMAC, farMAC
		}
		at := rapid.IntRange(0, len(links)-1).Draw(t, "link")
		l, socket := links[at], sockets[at]
		g := gsotest.Draw(t, gsotest.DrawKind(t, false), e, 1500)
		want, err := gsotest.Segments(g.Frame, g.Offload)
		if err != nil {
			t.Fatal(err)
		}
		f := NewFrame(len(g.Frame))
		f.Set(g.Frame)
		f.Offload = g.Offload
		var p policy.Packet
		if r := p.Parse(f.Bytes(), f.Offload); r != policy.None {
			t.Fatal(r)
		}
		if f.Trim(&p); f.GSOType == policy.GSONone && p.L3Len() > linkMTU {
			return
		}
		headless := l.packet - ethStart // of a TUN, all of the Ethernet header
		var got [][]byte
		take := func(b []byte, o policy.Offload) {
			s, err := gsotest.Segments(b, o)
			if err != nil {
				t.Fatalf("%s, %+v: %v", l.Name(), o, err)
			}
			if len(f.Bytes()) < 65536 && o.GSOType != f.GSOType { // gso_max_size
				t.Fatalf("%s: type %#x became %#x", l.Name(), f.GSOType, o.GSOType)
			}
			got = append(got, s...)
		}
		if write {
			l.Write([]*Frame{f})
			for len(got) < len(want) {
				take(fromKernel(t, socket, headless))
			}
		} else {
			toKernel(t, socket, f, headless)
			for len(got) < len(want) {
				n, err := wait(l, batch)
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range batch[:n] {
					take(f.Bytes(), f.Offload)
				}
			}
		}
		for i := range got {
			if i >= len(want) || !bytes.Equal(got[i][max(headless, 0):], want[i][max(headless, 0):]) {
				t.Fatalf("%s, written %v, %+v: segment %d of %d\n got %x\nwant %x", l.Name(), write, g.Offload, i, len(want), got[i], want[min(i, len(want)-1)])
			}
		}
	})
}

// fromKernel is the next frame of a socket; headless are the bytes of Ethernet header that it comes without.
func fromKernel(t *rapid.T, fd, headless int) ([]byte, policy.Offload) {
	b := make([]byte, 1<<17)
	n, err := unix.Read(fd, b[headless:])
	if err != nil {
		t.Fatal(err)
	}
	h, shift := b[headless:], uint16(headless)
	o := policy.Offload{Flags: h[0], GSOType: h[1], HdrLen: binary.NativeEndian.Uint16(h[2:]) + shift, GSOSize: binary.NativeEndian.Uint16(h[4:]),
		CsumStart: binary.NativeEndian.Uint16(h[6:]) + shift, CsumOffset: binary.NativeEndian.Uint16(h[8:])}
	f := b[vnetLen : headless+n]
	if headless > 0 {
		f[12], f[13] = 0x08, 0
		if f[14]>>4 == 6 {
			f[12], f[13] = 0x86, 0xdd
		}
	}
	return f, o
}

func toKernel(t *rapid.T, fd int, f *Frame, headless int) {
	h, shift := make([]byte, vnetLen), uint16(headless)
	if f.Flags&policy.NeedsCsum != 0 {
		h[0] = policy.NeedsCsum
		binary.NativeEndian.PutUint16(h[6:], f.CsumStart-shift)
		binary.NativeEndian.PutUint16(h[8:], f.CsumOffset)
	}
	if f.GSOType != policy.GSONone {
		h[1] = f.GSOType
		binary.NativeEndian.PutUint16(h[4:], f.GSOSize)
	}
	if _, err := unix.Write(fd, append(h, f.Bytes()[headless:]...)); err != nil {
		t.Fatalf("sending %d bytes with %+v: %v", len(f.Bytes()), f.Offload, err)
	}
}
