package kernelfacts

import (
	"testing"

	"github.com/songgao/water"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// persistent makes a TAP that stays when its descriptor is closed, and closes it.
func persistent(t *testing.T, name string, flags uint16) {
	t.Helper()
	p, err := attach(name, flags)
	must(t, err)
	must(t, unix.IoctlSetInt(int(p), unix.TUNSETPERSIST, 1))
	must(t, unix.Close(int(p)))
}

// tapKeepsFlags: a device that exists is TAP or TUN, and multi-queue or not, as it was made.
func tapKeepsFlags(t *testing.T) {
	newNamespace(t)
	persistent(t, "one", 0)
	persistent(t, "many", unix.IFF_MULTI_QUEUE)
	for _, c := range []struct {
		name  string
		flags uint16
		want  error
	}{
		{"one", 0, nil}, {"one", unix.IFF_TUN, unix.EINVAL}, {"one", unix.IFF_MULTI_QUEUE, unix.EINVAL},
		{"many", unix.IFF_MULTI_QUEUE, nil}, {"many", 0, unix.EINVAL}, {"many", unix.IFF_MULTI_QUEUE | unix.IFF_TUN, unix.EINVAL},
	} {
		p, err := attach(c.name, c.flags)
		if err != c.want && (err != nil || c.want != nil) {
			t.Errorf("%s with %#x: %v, want %v", c.name, c.flags, err, c.want)
		}
		if err == nil {
			unix.Close(int(p))
		}
	}
	first, err := attach("many", unix.IFF_MULTI_QUEUE)
	must(t, err)
	t.Cleanup(func() { unix.Close(int(first)) })
	second, err := attach("many", unix.IFF_MULTI_QUEUE)
	must(t, err)
	t.Cleanup(func() { unix.Close(int(second)) })
	single, err := attach("one", 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(int(single)) })
	if _, err := attach("one", 0); err != unix.EBUSY {
		t.Errorf("second queue of a single-queue TAP: %v, want EBUSY", err)
	}
}

// tapVnetHeader: each attach to a TAP without a reader says anew whether there is a vnet header. It says so for the whole device: while a
// queue is attached, what the next one asks for is ignored, without an error.
func tapVnetHeader(t *testing.T) {
	newNamespace(t)
	persistent(t, "tap", unix.IFF_MULTI_QUEUE)
	l := up(t, "tap")
	out := tap(t, l, 0, unix.PACKET_QDISC_BYPASS) // the qdisc comes back some time after the reader
	for _, vnetHdr := range []bool{false, true, false} {
		flags, n := uint16(unix.IFF_MULTI_QUEUE), 60
		if vnetHdr {
			flags, n = flags|unix.IFF_VNET_HDR, vnetLen+60
		}
		p, err := attach("tap", flags)
		must(t, err)
		out.send(t, frame(broadcast, mac1, typeA))
		if got := p.next(t); len(got) != n {
			t.Errorf("vnet header %t: %d bytes", vnetHdr, len(got))
		}
		must(t, unix.Close(int(p)))
	}

	vnetOf := func(p port) bool {
		ifr, _ := unix.NewIfreq("")
		must(t, unix.IoctlIfreq(int(p), unix.TUNGETIFF, ifr))
		return ifr.Uint16()&unix.IFF_VNET_HDR != 0
	}
	for _, asked := range []uint16{unix.IFF_VNET_HDR, 0} {
		first, err := attach("tap", unix.IFF_MULTI_QUEUE|asked)
		must(t, err)
		second, err := attach("tap", unix.IFF_MULTI_QUEUE|asked^unix.IFF_VNET_HDR)
		must(t, err)
		if vnetOf(first) != (asked != 0) || vnetOf(second) != (asked != 0) {
			t.Errorf("first queue asked for %#x: first has a header %t, second %t", asked, vnetOf(first), vnetOf(second))
		}
		must(t, unix.Close(int(first)))
		must(t, unix.Close(int(second)))
	}
}

// waterCreates: the device comes from water, persistent, and its queues are attached by us with what water knows nothing of.
func waterCreates(t *testing.T) {
	newNamespace(t)
	for _, multiQueue := range []bool{false, true} {
		name, flags := "single", uint16(unix.IFF_VNET_HDR)
		if multiQueue {
			name, flags = "multi", unix.IFF_VNET_HDR|unix.IFF_MULTI_QUEUE
		}
		w, err := water.New(water.Config{DeviceType: water.TAP, PlatformSpecificParams: water.PlatformSpecificParams{
			Name: name, Persist: true, MultiQueue: multiQueue, Permissions: &water.DevicePermissions{Owner: 1, Group: 1}}})
		must(t, err)
		must(t, w.Close())
		p, l := newTAP(t, name, flags)
		tap(t, l, 0).send(t, frame(broadcast, mac1, typeA))
		if got := p.next(t); len(got) != vnetLen+60 {
			t.Errorf("%s: %d bytes", name, len(got))
		}
		if got := l.(*netlink.Tuntap); got.Owner != 1 || got.Group != 1 || got.NonPersist {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// tunOffload: USO since 6.2. USO4 and USO6 go together, and with CSUM only.
func tunOffload(t *testing.T) {
	const csum, tso4, tso6, uso4, uso6 = 1, 2, 4, 0x20, 0x40 // TUN_F_*
	newNamespace(t)
	dev, l := newTAP(t, "tap", unix.IFF_VNET_HDR)
	for _, c := range []struct {
		name  string
		flags int
		want  error
	}{
		{"none", 0, nil}, {"CSUM", csum, nil}, {"CSUM, TSO", csum | tso4 | tso6, nil}, {"all", csum | tso4 | tso6 | uso4 | uso6, nil},
		{"CSUM, USO", csum | uso4 | uso6, nil}, {"USO without CSUM", uso4 | uso6, unix.EINVAL}, {"unknown", csum | 0x4000, unix.EINVAL},
	} {
		if err := unix.IoctlSetInt(int(dev), unix.TUNSETOFFLOAD, c.flags); err != c.want && (err != nil || c.want != nil) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}

	s := sender(t, l, macRouter)
	must(t, unix.SetsockoptInt(s, unix.SOL_UDP, unix.UDP_SEGMENT, 1000))
	for _, c := range []struct {
		name   string
		flags  int
		frames int
		want   vnet
	}{
		{"none", 0, 3, vnet{}},
		{"CSUM", csum, 3, vnet{flags: needsCsum, csumStart: 34, csumOffset: 6}},
		{"all", csum | tso4 | tso6 | uso4 | uso6, 1, vnet{flags: needsCsum, gsoType: gsoUDPL4, hdrLen: 42, gsoSize: 1000, csumStart: 34, csumOffset: 6}},
	} {
		must(t, unix.IoctlSetInt(int(dev), unix.TUNSETOFFLOAD, c.flags))
		_, err := unix.Write(s, make([]byte, 3000))
		must(t, err)
		for range c.frames {
			b := dev.next(t)
			h := parseVnet(b)
			if h.gsoType == 0 { // hdrLen is of no meaning then
				h.hdrLen = 0
			}
			if len(b) != vnetLen+42+3000/c.frames || h != c.want || complete(b[vnetLen:]) != (c.flags == 0) {
				t.Errorf("%s: %d bytes, %+v, checksum complete %t", c.name, len(b), h, complete(b[vnetLen:]))
			}
		}
		dev.empty(t, c.name)
	}
}

// tapQueue: of a burst the first 1000 frames are kept; a longer txqueuelen takes effect at once.
func tapQueue(t *testing.T) {
	for _, c := range []struct {
		name   string
		length int // 0: as it is
	}{
		{"default", 0}, {"raised", 5000},
	} {
		t.Run(c.name, func(t *testing.T) {
			newNamespace(t)
			dev, l := newTAP(t, "tap", 0)
			if l.Attrs().TxQLen != 1000 {
				t.Errorf("txqueuelen %d", l.Attrs().TxQLen)
			}
			want := 1000
			if c.length != 0 {
				must(t, netlink.LinkSetTxQLen(l, c.length))
				want = 3000
			}
			out := tap(t, l, 0, unix.PACKET_QDISC_BYPASS)
			for range 3000 {
				unix.Write(int(out), frame(broadcast, mac1, typeA)) // ENOBUFS when it is full
			}
			must(t, unix.SetNonblock(int(dev), true))
			n, b := 0, make([]byte, 100)
			for {
				if _, err := unix.Read(int(dev), b); err == unix.EAGAIN {
					break
				}
				n++
			}
			if n != want {
				t.Errorf("%d frames of 3000 were kept, want %d", n, want)
			}
		})
	}
}

// tapCarrier: without a reader a TAP has no carrier, and its bridge port is disabled; a reader brings both back. The port follows the
// carrier in the kernel's own time.
func tapCarrier(t *testing.T) {
	newNamespace(t)
	newBridge(t)
	persistent(t, "tap", 0)
	l := up(t, "tap")
	must(t, netlink.LinkSetMaster(l, link(t, "br")))
	carrier := func() bool { return link(t, "tap").Attrs().RawFlags&unix.IFF_LOWER_UP != 0 }
	for range 2 {
		if carrier() {
			t.Error("carrier without a reader")
		}
		until(func() bool { return portState(t, l) == stateDisabled })
		p, err := attach("tap", 0)
		must(t, err)
		if !carrier() {
			t.Error("no carrier with a reader")
		}
		until(func() bool { return portState(t, l) == stateForwarding })
		must(t, unix.Close(int(p)))
	}
}
