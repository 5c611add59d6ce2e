package stack

import (
	"errors"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What the kernel has queued for links that are handed over is received by who takes them; nothing is received twice, and the device stays as long as
// the last one has not ended it.
func TestHandOver(t *testing.T) {
	enterNS(t)
	veth(t)
	const queues, frames = 2, 40
	oldTAP, err := OpenTAP("tap0", 1400, queues)
	check(t, err)
	quiet(t, "tap0")
	check(t, netlink.LinkSetUp(mustLink(t, "tap0")))
	oldUplink, err := OpenUplink("eth0", guests, queues)
	check(t, err)
	far := packetSocket(t, "far", false)
	toTAP := packetSocket(t, "tap0", false) // what a bridge would send into it
	send := func() {
		for i := range frames {
			for _, fd := range []int{far, toTAP} {
				f := endsOf(false, i, true).packet(17)
				copy(f, "\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02")
				_, err := unix.Write(fd, f)
				check(t, err)
			}
		}
	}
	drain := func(l Link) (n int) {
		batch := NewBatch(64)
		for _, q := range l.Queues() {
			for range 20 {
				got, err := q.Receive(batch)
				check(t, err)
				n += got
			}
		}
		return n
	}
	send()
	tapFDs, err := oldTAP.Descriptors()
	check(t, err)
	uplinkFDs, err := oldUplink.Descriptors()
	check(t, err)
	newTAP, err := AdoptTAP("tap0", 1400, tapFDs)
	check(t, err)
	newUplink, err := AdoptUplink("eth0", uplinkFDs)
	check(t, err)
	oldTAP.Release()
	check(t, oldTAP.Close())
	check(t, oldUplink.Close())
	send()
	if tap, up := drain(newTAP), drain(newUplink); tap != 2*frames || up != 2*frames || len(newTAP.Queues()) != queues {
		t.Errorf("%d frames by the TAP and %d by the uplink, want %d of each", tap, up, 2*frames)
	}
	if newUplink.Reopened.Load() != 0 {
		t.Error("the uplink was opened anew")
	}
	check(t, newTAP.Close()) // who made it is gone, and it is marked
	if _, err := netlink.LinkByName("tap0"); !errors.As(err, new(netlink.LinkNotFoundError)) {
		t.Errorf("the TAP is still there: %v", err)
	}
	if _, err := newTAP.Descriptors(); err == nil {
		t.Error("a closed link has descriptors")
	}
	check(t, newUplink.Close())
}

// Descriptors of another device, or of none, are refused and left to the caller.
func TestAdoptRefuses(t *testing.T) {
	enterNS(t)
	veth(t)
	tap, err := OpenTAP("tap0", 0, 1)
	check(t, err)
	defer tap.Close()
	tun, err := OpenTUN("tun0", 0, 1)
	check(t, err)
	defer tun.Close()
	up, err := OpenUplink("eth0", guests, 1)
	check(t, err)
	defer up.Close()
	var pipe [2]int
	check(t, unix.Pipe2(pipe[:], unix.O_CLOEXEC))
	defer CloseAll(pipe[:])
	of := func(l interface{ Descriptors() ([]int, error) }) []int {
		fds, err := l.Descriptors()
		check(t, err)
		t.Cleanup(func() { CloseAll(fds) })
		return fds
	}
	for name, err := range map[string]error{
		"a TUN for a TAP":          second(AdoptTAP("tap0", 0, of(tun))),
		"a TAP for a TUN":          second(AdoptTUN("tun0", 0, of(tap))),
		"another TAP":              second(AdoptTAP("tap1", 0, of(tap))),
		"a pipe for a TAP":         second(AdoptTAP("tap0", 0, pipe[:1])),
		"a pipe for an uplink":     second(AdoptUplink("eth0", pipe[:1])),
		"a TAP for an uplink":      second(AdoptUplink("eth0", of(tap))),
		"sockets of none's uplink": second(AdoptUplink("eth7", of(up))),
	} {
		if err == nil || strings.Contains(err.Error(), "panic") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What was refused is as it was.
	for _, fd := range append(of(tap), of(up)...) {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			t.Error(err)
		}
	}
}

func second[T any](_ T, err error) error { return err }
