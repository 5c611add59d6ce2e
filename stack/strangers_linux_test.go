package stack

import (
	"bytes"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"udrouter/policy"
)

// incoming runs a program as the kernel does, on a frame that comes in.
func incoming(t *testing.T, program []bpf.Instruction, frame []byte) int {
	t.Helper()
	if program[0] != (bpf.LoadExtension{Num: bpf.ExtType}) {
		t.Fatalf("the program begins with %v", program[0])
	}
	program[0] = bpf.LoadConstant{Dst: bpf.RegA, Val: 0} // PACKET_HOST: the machine knows no extensions
	m, err := bpf.NewVM(program)
	check(t, err)
	n, err := m.Run(frame)
	check(t, err)
	return n
}

// The filter passes over the guest's own MAC alone: each other bit of the source makes a stranger, nothing else of the frame does.
func TestStrangersFilter(t *testing.T) {
	own := policy.MAC{0, 0x16, 0x3e, 0, 0, 1}
	frame := udp4(nearMAC, own, 7, 400)
	if n := incoming(t, strangers(own), frame); n != 0 {
		t.Errorf("%d bytes of the guest's own frame are kept", n)
	}
	for bit := range 14 * 8 {
		f := bytes.Clone(frame)
		f[bit/8] ^= 1 << (bit % 8)
		want := 0
		if bit/8 >= 6 && bit/8 < 12 {
			want = strangerLen
		}
		if n := incoming(t, strangers(own), f); n != want {
			t.Errorf("with bit %d turned: %d bytes are kept, want %d", bit, n, want)
		}
	}
	for n := range 12 {
		if got := incoming(t, strangers(own), frame[:n]); got != 0 {
			t.Errorf("%d bytes of %d are kept", got, n)
		}
	}
}

// A watch counts what comes in from another MAC, exactly, more than it keeps as well, and gives one of them; not what goes out, nor the guest's own. It judges by
// another MAC at once, goes on after the interface was down, and has its count when that is no more.
func TestWatchPort(t *testing.T) {
	enterNS(t)
	veth(t)
	near := mustLink(t, "eth0")
	w, err := WatchPort(near.Attrs().Index, farMAC)
	check(t, err)
	defer w.Close()
	far, out := packetSocket(t, "far", false), packetSocket(t, "eth0", false)
	other := policy.MAC{2, 0, 0, 0, 0, 9}
	send := func(src policy.MAC, number int) {
		t.Helper()
		for range number {
			_, err := unix.Write(far, udp4(nearMAC, src, 7, 400))
			check(t, err)
			recv(t, out) // it is through
		}
	}
	want := func(when string, n uint64, src policy.MAC) {
		t.Helper()
		got, frame, err := w.Take()
		if err != nil || got != n || (n > 0) != (frame != nil) || n > 0 && !bytes.Equal(frame, udp4(nearMAC, src, 7, 400)[:strangerLen]) {
			t.Errorf("%s: %d, %v, want %d; %x", when, got, err, n, frame)
		}
	}
	send(farMAC, 5)
	_, err = unix.Write(out, udp4(farMAC, other, 7, 8))
	check(t, err)
	want("the guest's own, and what goes out", 0, other)
	send(other, 1)
	want("one", 1, other)
	send(other, 1000)
	want("many", 1000, other)
	want("none since", 0, other)
	check(t, w.SetMAC(other))
	send(other, 3)
	send(farMAC, 2)
	want("by another MAC", 2, farMAC)
	check(t, netlink.LinkSetDown(near))
	check(t, netlink.LinkSetUp(near))
	out = packetSocket(t, "eth0", false)
	want("after it was down", 0, other)
	send(farMAC, 4)
	want("since it is up again", 4, farMAC)
	send(farMAC, 2)
	check(t, netlink.LinkDel(near))
	want("when it is gone", 2, farMAC)

	if w, err := WatchPort(near.Attrs().Index, farMAC); err == nil {
		w.Close()
		t.Error("an interface that is gone can be watched")
	}
	if n, err := unix.GetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUF); err != nil || n > 4096 {
		t.Errorf("the socket may keep %d bytes, %v", n, err)
	}
}
