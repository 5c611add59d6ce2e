package stack

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"udrouter/policy"
)

// While the sockets of an uplink are opened, one by one, frames come: each comes once all the same.
func TestUplinkOpensUnderLoad(t *testing.T) {
	enterNS(t)
	veth(t)
	far := packetSocket(t, "far", true)
	var stop atomic.Bool
	var senders sync.WaitGroup
	senders.Add(1)
	sameNS(t, func() {
		defer senders.Done()
		for n := 0; !stop.Load(); n++ {
			send(t, far, endsOf(false, n%flowsOfTest, true).tcp(), n)
		}
	})
	defer senders.Wait()
	defer stop.Store(true)
	for range 40 {
		u, err := OpenUplink("eth0", guests, 4)
		check(t, err)
		byNumber(t, collect(t, 500, u))
		check(t, u.Close())
	}
}

// An uplink that is down when it is opened receives by all queues when it comes up, also where the kernel lets no socket of an interface that is
// down into a group.
func TestUplinkDownAtStart(t *testing.T) {
	for _, old := range []bool{false, true} {
		t.Run(fmt.Sprint("old kernel ", old), func(t *testing.T) {
			enterNS(t)
			veth(t)
			check(t, netlink.LinkSetDown(mustLink(t, "eth0")))
			if old {
				setFanout = func(fd, arg int) error {
					if mustLink(t, "eth0").Attrs().Flags&net.FlagUp == 0 {
						return unix.EINVAL
					}
					return unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_FANOUT, arg)
				}
				t.Cleanup(func() {
					setFanout = func(fd, arg int) error { return unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_FANOUT, arg) }
				})
			}
			u, err := OpenUplink("eth0", Filter{}, 4)
			check(t, err)
			t.Cleanup(func() { check(t, u.Close()) })
			check(t, u.SetFilter(guests))
			if u.Write(batchOf(0, 1)); u.Drops[policy.LinkDown].Load() != 1 {
				t.Error("a frame that could not be sent was not counted")
			}
			if n, err := u.Queues()[1].Receive(NewBatch(1)); n != 0 || err != nil {
				t.Errorf("received %d frames, %v", n, err)
			}
			check(t, netlink.LinkSetUp(mustLink(t, "eth0")))
			u.Rebind() // or in a moment
			for _, q := range u.Queues() {
				_, err := q.Receive(NewBatch(1))
				check(t, err)
			}
			if used := usedBy(t, u, packetSocket(t, "far", true)); used != 4 {
				t.Errorf("frames came by %d of 4 queues", used)
			}
		})
	}
}

// usedBy is by how many queues frames of many flows come.
func usedBy(t *testing.T, u *Uplink, far int) int {
	t.Helper()
	for i := range flowsOfTest {
		send(t, far, endsOf(false, i, true).tcp(), i)
	}
	used := map[int]bool{}
	for _, q := range byNumber(t, collect(t, flowsOfTest, u)) {
		used[q] = true
	}
	return len(used)
}

// Nothing of what the machine itself sends through the uplink is read, whether the group or only the filter knows.
func TestUplinkGroupIgnoresOutgoing(t *testing.T) {
	for _, flag := range []bool{true, false} {
		t.Run(fmt.Sprint("flag ", flag), func(t *testing.T) {
			if !flag {
				groupFlags = 0
				t.Cleanup(func() { groupFlags = flagIgnoreOutgoing })
			}
			_, u, _, far := openBoth(t, 4)
			own := packetSocket(t, "eth0", true)
			for i := range flowsOfTest {
				send(t, own, endsOf(false, i, true).tcp(), 1<<16+i)
			}
			if used := usedBy(t, u, far); used != 4 { // of frames that were sent later
				t.Errorf("frames came by %d of 4 queues", used)
			}
			if n := u.RxPackets.Load(); n != flowsOfTest {
				t.Errorf("%d frames were read, the machine's own among them", n)
			}
		})
	}
}

// A filter holds for all queues, also for those that are opened later.
func TestSetFilterForAll(t *testing.T) {
	_, u, _, far := openBoth(t, 4)
	check(t, u.SetFilter(Filter{Prefixes: []netip.Prefix{netip.MustParsePrefix("2001:db8:3:2::/64")}}))
	only6 := func(far int) {
		t.Helper()
		for i := range flowsOfTest {
			send(t, far, endsOf(false, i, true).tcp(), 1<<16+i)
			send(t, far, endsOf(true, i, true).tcp(), i)
		}
		for n := range byNumber(t, collect(t, flowsOfTest, u)) {
			if n >= 1<<16 {
				t.Errorf("frame %d passed", n)
			}
		}
	}
	only6(far)
	check(t, netlink.LinkDel(mustLink(t, "eth0")))
	veth(t)
	u.Rebind()
	if !u.rebind() {
		t.Fatal("opening again failed")
	}
	only6(packetSocket(t, "far", true))
}

// A TAP that somebody has made for one queue gives one, and a router that has several keeps a second one off.
func TestTAPQueues(t *testing.T) {
	enterNS(t)
	check(t, netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "udr0"}, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI}))
	single := openTAP(t, 4)
	if n := len(single.Queues()); n != 1 {
		t.Errorf("%d queues of a TAP for one", n)
	}
	near := packetSocket(t, "udr0", false)
	put(t, near, 0, 100)
	take(t, single, NewBatch(batchLen), 0, 100)
	several, err := OpenTAP("udr1", 0, 4)
	check(t, err)
	defer several.Close()
	if n := len(several.Queues()); n != 4 {
		t.Errorf("%d queues of 4", n)
	}
	for _, n := range []int{1, 4} {
		for _, name := range []string{"udr0", "udr1"} {
			if second, err := OpenTAP(name, 0, n); err == nil {
				second.Close()
				t.Errorf("a second router attached to %s", name)
			}
		}
	}
}

// What a queue was told of a device that is gone says nothing about the one that was made since, although its descriptors have the same numbers.
func TestLateNewsOfDeletion(t *testing.T) {
	enterNS(t)
	tap := openTAP(t, 2)
	first, late := tap.queues[0], tap.queues[1]
	check(t, netlink.LinkDel(mustLink(t, "udr0")))
	batch := NewBatch(1)
	_, _, opening, err := late.receive(batch)
	if !errors.Is(err, unix.EBADFD) {
		t.Fatalf("reading of a deleted device: %v", err)
	}
	for range 2 { // once to learn of it, once to open
		_, err := first.Receive(batch)
		check(t, err)
	}
	tap.abandon(late, opening)
	if !first.attached() || !late.attached() {
		t.Error("the new device was given up")
	}
}

// A link whose device is missing is not looked for at every call: the other links' frames would wait for that, and each try counts an error.
func TestMissingIsLookedForNowAndThen(t *testing.T) {
	tap, u, _, _ := openBoth(t, 2)
	check(t, netlink.LinkDel(mustLink(t, "eth0")))
	check(t, netlink.LinkDel(mustLink(t, "udr0")))
	check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "udr0"}, PeerName: "other"})) // so that it cannot be made
	u.Rebind()
	batch := NewBatch(1)
	const rounds = 2000
	for range rounds {
		for _, q := range append(tap.Queues(), u.Queues()...) {
			_, err := q.Receive(batch)
			check(t, err)
		}
	}
	if a, b := tap.Errors.Load(), u.Errors.Load(); a == 0 || b == 0 || a > rounds/4 || b > rounds/4 {
		t.Errorf("%d and %d errors in %d rounds", a, b, rounds)
	}
	for _, q := range append(tap.Queues(), u.Queues()...) {
		if q.Input() != -1 {
			t.Error("a queue whose device is missing has a descriptor to wait for")
		}
	}
}

// Rebind keeps sockets that have the interface, with what they have received.
func TestRebindKeepsWhatIsBound(t *testing.T) {
	_, u, _, far := openBoth(t, 2)
	for i := range flowsOfTest {
		send(t, far, endsOf(false, i, true).tcp(), i)
	}
	u.Rebind()
	byNumber(t, collect(t, flowsOfTest, u))
	if u.Reopened.Load() != 0 {
		t.Error("sockets were opened again")
	}
}

// Links are closed while workers wait and work, others write, and interfaces come and go. No descriptor stays open.
func TestCloseUnderLoad(t *testing.T) {
	enterNS(t)
	before := descriptors(t, 0)
	for round := range 6 {
		closeUnderLoad(t, round)
	}
	if after := descriptors(t, len(before)); len(after) > len(before) {
		t.Errorf("%d descriptors, %d before: %v", len(after), len(before), after)
	}
}

// descriptors are the open ones, when no more than so many are left or no more are closed by garbage collection.
func descriptors(t *testing.T, want int) (list []string) {
	t.Helper()
	for range 50 {
		runtime.GC()
		entries, err := os.ReadDir("/proc/self/fd")
		check(t, err)
		list = nil
		for _, e := range entries {
			to, _ := os.Readlink("/proc/self/fd/" + e.Name())
			list = append(list, to)
		}
		if len(list) <= want {
			break
		}
	}
	slices.Sort(list)
	return list
}

func closeUnderLoad(t *testing.T, round int) {
	const queues = 3
	check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0", HardwareAddr: nearMAC[:]}, PeerName: "far", PeerHardwareAddr: farMAC[:]}))
	u, err := OpenUplink("eth0", guests, queues)
	check(t, err)
	tap, err := OpenTAP("udr0", 1500, queues)
	check(t, err)
	for _, n := range []string{"udr0", "eth0", "far"} {
		quiet(t, n)
		check(t, netlink.LinkSetUp(mustLink(t, n)))
	}
	var all sync.WaitGroup
	run := func(f func()) {
		all.Add(1)
		sameNS(t, func() { defer all.Done(); f() })
	}
	var passed atomic.Int64
	for i := range queues {
		run(func() { testWorker(t, tap.Queues()[i], u.Queues()[i], &passed) })
	}
	var stop atomic.Bool
	for l, from := range map[Link]string{tap: "udr0", u: "far"} {
		to := &unix.SockaddrLinklayer{Ifindex: mustLink(t, from).Attrs().Index}
		run(func() {
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer unix.Close(fd)
			for i := 0; !stop.Load(); i++ {
				l.Write(batchOf(0, 10))
				_ = unix.Sendto(fd, endsOf(false, i%flowsOfTest, true).tcp(), 0, to) // which fails when it is gone
			}
		})
	}
	for range 20 {
		check(t, u.SetFilter(guests))
		u.Rebind()
	}
	if round%2 == 1 { // closed while it is looked for
		check(t, netlink.LinkDel(mustLink(t, "udr0")))
		check(t, netlink.LinkDel(mustLink(t, "eth0")))
	} else {
		for passed.Load() < 100 {
			runtime.Gosched()
		}
	}
	check(t, u.Close())
	check(t, tap.Close())
	stop.Store(true)
	all.Wait()
	if l, err := netlink.LinkByName("eth0"); err == nil {
		check(t, netlink.LinkDel(l))
	}
	if _, err := netlink.LinkByName("udr0"); err == nil {
		t.Error("the TAP is still there")
	}
}

// testWorker passes frames between two queues until one is closed.
func testWorker(t *testing.T, a, b Queue, passed *atomic.Int64) {
	batch := NewBatch(batchLen)
	queues := []Queue{a, b}
	var p Poll
	for {
		for i, q := range queues {
			n, err := q.Receive(batch)
			if errors.Is(err, ErrClosed) {
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			passed.Add(int64(n))
			if n > 0 {
				for _, f := range batch[:n] {
					f.SetEthernet(farMAC, nearMAC, policy.EtherIPv4)
				}
				queues[1-i].Write(batch[:n])
			}
		}
		p.Wait(queues, true)
	}
}

// An error of what was received costs nothing of what is sent next: the kernel tells of it at whichever call comes first.
func TestUplinkErrorOfTheOtherDirection(t *testing.T) {
	enterNS(t)
	fd := tapUplink(t)
	u := openUplink(t)
	f := NewFrame(4000)
	for _, super := range []bool{false, true} { // the second is of a kind that no virtio_net_hdr expresses
		f.Set(udp4(nearMAC, farMAC, 10, 3000))
		if super {
			f.Offload = policy.Offload{Flags: policy.NeedsCsum, GSOType: policy.GSOUDP, HdrLen: 42, GSOSize: 1000, CsumStart: 34, CsumOffset: 6}
		}
		_, err := unix.Write(fd, f.transmit(ethStart))
		check(t, err)
	}
	if got := read(t, u); len(got) != 1 {
		t.Fatalf("read %d frames", len(got))
	}
	u.Write(batchOf(0, 3))
	b := make([]byte, 1000)
	for i := range 3 {
		n, err := unix.Read(fd, b)
		if err != nil || numberOf(b[:n]) != i {
			t.Fatalf("frame %d: number %d, %v", i, numberOf(b[:max(n, 4)]), err)
		}
	}
	if tx, errs, drops := u.TxPackets.Load(), u.Errors.Load(), u.Drops[policy.Malformed].Load(); tx != 3 || errs != 1 || drops != 1 {
		t.Errorf("%d sent, %d errors, %d drops", tx, errs, drops)
	}
	u.Write(batchOf(0, 1)) // and what is wrong with a frame is said of it once
	f.Set(udp4(farMAC, nearMAC, 10, 30))
	f.Offload = policy.Offload{GSOType: 0x44, GSOSize: 1}
	u.Write([]*Frame{f})
	if tx, errs, drops := u.TxPackets.Load(), u.Errors.Load(), u.Drops[policy.Malformed].Load(); tx != 4 || errs != 2 || drops != 2 {
		t.Errorf("%d sent, %d errors, %d drops", tx, errs, drops)
	}
}

// An interface that goes down before it is deleted says nothing of the latter to those who receive; who writes learns of it.
func TestWriteNoticesDeletion(t *testing.T) {
	enterNS(t)
	veth(t)
	u, err := OpenUplink("eth0", guests, 2)
	check(t, err)
	t.Cleanup(func() { check(t, u.Close()) })
	receive := func() {
		t.Helper()
		for _, q := range u.Queues() {
			_, err := q.Receive(NewBatch(1))
			check(t, err)
		}
	}
	check(t, netlink.LinkSetDown(mustLink(t, "eth0")))
	receive()
	check(t, netlink.LinkDel(mustLink(t, "eth0")))
	receive()
	veth(t)
	u.Write(batchOf(0, 1))
	receive()
	if n := u.Reopened.Load(); n != 1 {
		t.Fatalf("opened %d times again", n)
	}
	if used := usedBy(t, u, packetSocket(t, "far", true)); used != 2 {
		t.Errorf("frames came by %d of 2 queues", used)
	}
}
