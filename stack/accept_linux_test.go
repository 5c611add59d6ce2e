package stack

import (
	"fmt"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"udrouter/policy"
	"udrouter/stack/gsotest"
)

const linkMTU = 65521 // a TAP has no more

type openLink struct {
	Link
	fd     int
	packet int
	stats  *Stats
}

// everyLink are a TAP, a TUN and an uplink, up and without a limit for packets that are no super-packets.
func everyLink(t *testing.T) []openLink {
	t.Helper()
	veth(t)
	tap, err := OpenTAP("udr0", 0, 1)
	check(t, err)
	tun, err := OpenTUN("udrhost", 0, 1)
	check(t, err)
	for _, n := range []string{"eth0", "far", "udr0", "udrhost"} {
		quiet(t, n)
		check(t, netlink.LinkSetMTU(mustLink(t, n), linkMTU))
		check(t, netlink.LinkSetUp(mustLink(t, n)))
	}
	u := openUplink(t)
	t.Cleanup(func() { check(t, tap.Close()); check(t, tun.Close()) })
	return []openLink{{tap, tap.queues[0].fd, ethStart, &tap.Stats}, {tun, tun.queues[0].fd, ipStart, &tun.Stats}, {u, u.queues[0].fd, ethStart, &u.Stats}}
}

// drawLie makes a packet whose metadata may be anything.
func drawLie(t *rapid.T) *Frame {
	_, f := drawPacket(t, gsotest.DrawKind(t, true))
	word := func(name string, v *uint16) {
		near := rapid.Map(rapid.IntRange(-2, 2), func(n int) uint16 { return *v + uint16(n) })
		*v = rapid.OneOf(rapid.Just(*v), rapid.Just(*v), near, rapid.SampledFrom([]uint16{0, 1, 13, 14, 33, 34, 54, 0xfffe, 0xffff}), rapid.Uint16()).Draw(t, name)
	}
	word("header length", &f.HdrLen)
	word("segment size", &f.GSOSize)
	word("checksum start", &f.CsumStart)
	word("checksum offset", &f.CsumOffset)
	f.Flags = rapid.OneOf(rapid.Just(f.Flags), rapid.SampledFrom([]uint8{0, 1, 2, 3})).Draw(t, "flags")
	f.GSOType = rapid.OneOf(rapid.Just(f.GSOType), rapid.SampledFrom([]uint8{0, 1, 3, 4, 5, 0x80, 0x81, 0x83, 0x84, 0x85, 0x20, 0x41})).Draw(t, "type")
	if b := f.Bytes(); b[12] == 0x86 && b[20] == policy.ProtoDstOpts {
		b[20] = rapid.SampledFrom([]byte{policy.ProtoDstOpts, policy.ProtoMobility, policy.ProtoHIP}).Draw(t, "header")
	}
	return f
}

// The kernel takes on each link whatever the parser lets through, whatever was lied about, also where it has to split super-packets itself.
func TestKernelTakesWhatPasses(t *testing.T) {
	for _, offload := range []bool{true, false} {
		t.Run(fmt.Sprintf("offload %v", offload), func(t *testing.T) {
			enterNS(t)
			links := everyLink(t)
			if !offload {
				ethtool(t, "eth0", unix.ETHTOOL_STXCSUM, 0, 0, 0) // and with it what needs it
				if on := features(t, "eth0"); on["tx-tcp-segmentation"] || on["tx-checksum-ip-generic"] {
					t.Fatalf("%v", on)
				}
			}
			taken(t, links)
		})
	}
}

func taken(t *testing.T, links []openLink) {
	passed := 0
	rapid.Check(t, func(t *rapid.T) {
		f := drawLie(t)
		f.SetEthernet(farMAC, nearMAC, map[byte]uint16{4: policy.EtherIPv4, 6: policy.EtherIPv6}[f.Bytes()[14]>>4])
		var p policy.Packet
		if p.Parse(f.Bytes(), f.Offload) != policy.None {
			return
		}
		if f.GSOType != policy.GSONone && f.Flags&policy.NeedsCsum == 0 {
			MakePartial(f, &p)
		}
		passed++
		if f.Trim(&p); f.GSOType == policy.GSONone && p.L3Len() > linkMTU {
			return
		}
		for _, l := range links {
			before := l.stats.TxPackets.Load()
			if l.Write([]*Frame{f.Clone()}); l.stats.TxPackets.Load() != before+1 { // a TUN's header takes the place of the Ethernet header
				t.Errorf("%s does not take %d bytes with %+v", l.Name(), len(f.Bytes()), f.Offload)
			}
		}
	})
	if passed == 0 {
		t.Error("nothing passed")
	}
}

// The kernel refuses on a TAP and on an uplink what gsotest.Accepts says that it does, and nothing else.
func TestKernelAccepts(t *testing.T) {
	enterNS(t)
	links := everyLink(t)
	rapid.Check(t, func(t *rapid.T) {
		f := drawLie(t)
		if f.GSOType&^policy.GSOECN == policy.GSOUDP || f.CsumStart > 65000 {
			return // the kernel takes it still; it depends on the room before the frame
		}
		want := gsotest.Accepts(f.Bytes(), f.Offload)
		for _, l := range links {
			large := f.GSOType == policy.GSONone && len(f.Bytes()) > policy.EthernetLen+linkMTU
			if l.packet != ethStart || large || f.GSOType != policy.GSONone && f.Flags&policy.NeedsCsum == 0 {
				continue // the kernel looks for the headers itself
			}
			if _, err := unix.Write(l.fd, f.transmit(l.packet)); (err == unix.EINVAL) != (want != nil) { // another is that of who comes to split it
				t.Fatalf("%s, %d bytes with %+v: %v, want %v", l.Name(), len(f.Bytes()), f.Offload, err, want)
			}
		}
	})
}
