package integration

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"udrouter/integration/lab"
	"udrouter/policy"
	"udrouter/router"
)

// tun is the device of TAP and host TUN, as /proc/PID/fd names it.
const tun = "/dev/net/tun"

// faulty are the system calls of the links, what they may say, and on which link that is counted as an error; "" is on none, since nothing went wrong
// with a packet. Each lasts until it was met often enough, or has met the calls that it is for.
var faulty = []struct {
	call    string
	fault   *fault
	counted string
}{
	{"read", &fault{Calls: []uint64{unix.SYS_READ}, On: tun, Errno: unix.EIO}, "udr0"},
	{"read", &fault{Calls: []uint64{unix.SYS_READ}, On: tun, Errno: unix.ENOMEM}, "udr0"},
	{"read", &fault{Calls: []uint64{unix.SYS_READ}, On: tun, Errno: unix.ENOBUFS}, "udr0"},
	{"read", &fault{Calls: []uint64{unix.SYS_READ}, On: tun, Errno: unix.ENETDOWN}, "udr0"},
	{"read", &fault{Calls: []uint64{unix.SYS_READ}, On: tun, Errno: unix.EINTR}, ""},
	{"read", &fault{Calls: []uint64{unix.SYS_READ}, On: tun, Errno: unix.EAGAIN}, ""},
	{"read", &fault{Calls: []uint64{unix.SYS_READ}, On: tun, Errno: unix.EBADFD}, "udr0"}, // what a device says that was deleted
	{"read", &fault{Calls: []uint64{unix.SYS_READ}, On: tun, Errno: unix.ENODEV}, "udr0"},
	{"read of 5 bytes", &fault{Calls: []uint64{unix.SYS_READ}, On: tun, Short: 5}, "udr0"},
	{"read of 20 bytes", &fault{Calls: []uint64{unix.SYS_READ}, On: tun, Short: 20}, ""},
	{"write", &fault{Calls: []uint64{unix.SYS_WRITE}, On: tun, Errno: unix.ENOBUFS}, "udr0"},
	{"write", &fault{Calls: []uint64{unix.SYS_WRITE}, On: tun, Errno: unix.ENOMEM}, "udr0"},
	{"write", &fault{Calls: []uint64{unix.SYS_WRITE}, On: tun, Errno: unix.EAGAIN}, "udr0"},
	{"write", &fault{Calls: []uint64{unix.SYS_WRITE}, On: tun, Errno: unix.EINTR}, "udr0"},
	{"write", &fault{Calls: []uint64{unix.SYS_WRITE}, On: tun, Errno: unix.EIO}, "udr0"},
	{"write", &fault{Calls: []uint64{unix.SYS_WRITE}, On: tun, Errno: unix.ENODEV}, "udr0"},
	{"write", &fault{Calls: []uint64{unix.SYS_WRITE}, On: tun, Errno: unix.ENETDOWN}, "udr0"},
	{"write of 20 bytes", &fault{Calls: []uint64{unix.SYS_WRITE}, On: tun, Short: 20}, "udr0"},
	{"recvmmsg", &fault{Calls: []uint64{unix.SYS_RECVMMSG}, Errno: unix.ENETDOWN}, "eth0"},
	{"recvmmsg", &fault{Calls: []uint64{unix.SYS_RECVMMSG}, Errno: unix.ENXIO}, "eth0"},
	{"recvmmsg", &fault{Calls: []uint64{unix.SYS_RECVMMSG}, Errno: unix.ENODEV}, "eth0"},
	{"recvmmsg", &fault{Calls: []uint64{unix.SYS_RECVMMSG}, Errno: unix.EIO}, "eth0"},
	{"recvmmsg", &fault{Calls: []uint64{unix.SYS_RECVMMSG}, Errno: unix.ENOMEM}, "eth0"},
	{"recvmmsg", &fault{Calls: []uint64{unix.SYS_RECVMMSG}, Errno: unix.ENOBUFS}, "eth0"},
	{"recvmmsg", &fault{Calls: []uint64{unix.SYS_RECVMMSG}, Errno: unix.EINVAL}, "eth0"}, // a super-packet that no header expresses
	{"recvmmsg", &fault{Calls: []uint64{unix.SYS_RECVMMSG}, Errno: unix.EINTR}, ""},
	{"recvmmsg", &fault{Calls: []uint64{unix.SYS_RECVMMSG}, Errno: unix.EAGAIN}, ""},
	{"recvmmsg of one message", &fault{Calls: []uint64{unix.SYS_RECVMMSG}, Short: 1}, ""},
	{"sendmmsg", &fault{Calls: []uint64{unix.SYS_SENDMMSG}, Errno: unix.ENOBUFS}, "eth0"},
	{"sendmmsg", &fault{Calls: []uint64{unix.SYS_SENDMMSG}, Errno: unix.ENOMEM}, "eth0"},
	{"sendmmsg", &fault{Calls: []uint64{unix.SYS_SENDMMSG}, Errno: unix.ENETDOWN}, "eth0"},
	{"sendmmsg", &fault{Calls: []uint64{unix.SYS_SENDMMSG}, Errno: unix.EIO}, "eth0"},
	{"sendmmsg", &fault{Calls: []uint64{unix.SYS_SENDMMSG}, Errno: unix.EAGAIN}, "eth0"},
	{"sendmmsg", &fault{Calls: []uint64{unix.SYS_SENDMMSG}, Errno: unix.ENXIO}, "eth0"},
	{"sendmmsg", &fault{Calls: []uint64{unix.SYS_SENDMMSG}, Errno: unix.ENODEV}, "eth0"},
	{"sendmmsg", &fault{Calls: []uint64{unix.SYS_SENDMMSG}, Errno: unix.EINTR, Times: 100}, ""},
	{"poll", &fault{Calls: []uint64{unix.SYS_POLL, unix.SYS_PPOLL}, Errno: unix.ENOMEM}, ""},
	{"poll", &fault{Calls: []uint64{unix.SYS_POLL, unix.SYS_PPOLL}, Errno: unix.EIO}, ""},
	{"poll", &fault{Calls: []uint64{unix.SYS_POLL, unix.SYS_PPOLL}, Errno: unix.EINTR}, ""},
}

// faultLab is a network with a router whose system calls fail when they are told to.
type faultLab struct {
	*lab.Lab
	t    *testing.T
	proc *lab.Proc
	in   *faults
	conn *lab.Conn // through it all
}

func newFaultLab(t *testing.T, args ...string) *faultLab {
	l := &faultLab{Lab: buildLab(t, "", lab.Options{}), t: t}
	l.proc = startRouter(t, l.Lab, append([]string{"--workers", "1"}, args...)...)
	l.conn = openTCP(t, l.Guests[0].Node, l.Internet, l.Internet.Addr4(), 443)
	l.in = inject(t, l.proc.PID())
	return l
}

// ways are who asks whom.
func (l *faultLab) ways() map[*lab.Node][]netip.Addr {
	g := l.Guests[0]
	return map[*lab.Node][]netip.Addr{
		g.Node:     {l.Internet.Addr4(), l.Internet.Addr6(), l.Guests[1].Addr4()},
		l.Internet: {g.Addr4(), g.Addr6()},
		l.Dom0:     {g.Addr4(), g.Addr6()},
	}
}

// try sends something every way; what becomes of it does not matter.
func (l *faultLab) try() {
	for from, to := range l.ways() {
		for _, a := range to {
			ctx, cancel := context.WithTimeout(l.t.Context(), 5*time.Millisecond)
			_, _ = from.Ping(ctx, a, lab.PingOptions{})
			cancel()
		}
	}
}

// serves checks that everybody is served, and the connection goes on.
func (l *faultLab) serves(t *testing.T) {
	t.Helper()
	for from, to := range l.ways() {
		for _, a := range to {
			must(t, lab.Await(testContext(t), "an answer from "+a.String(), func() (bool, error) {
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				defer cancel()
				_, err := from.Ping(ctx, a, lab.PingOptions{})
				return err == nil, l.alive()
			}))
		}
	}
	must(t, l.conn.Check(testContext(t)))
	must(t, l.alive())
}

// alive tells whether the router has not ended, and how it did.
func (l *faultLab) alive() error {
	select {
	case <-l.proc.Exited():
		return fmt.Errorf("the router has ended: %w", l.proc.Stop())
	default:
		return nil
	}
}

// suffers has a fault while something is done, and packets go every way, until it was met a few times.
func (l *faultLab) suffers(t *testing.T, f *fault, do func(*testing.T)) {
	t.Helper()
	const often = 3
	l.in.set(f)
	defer l.in.set(nil)
	do(t)
	must(t, lab.Await(testContext(t), "the fault", func() (bool, error) {
		l.try()
		return l.in.hits() >= often, l.alive()
	}))
}

func errorsOf(s router.Status, link string) uint64 {
	for _, l := range s.Links {
		if l.Name == link {
			return l.Errors
		}
	}
	return 0
}

// Each system call of the links fails in each way in which it may: the router lives, counts what it loses, serves everybody again when the fault
// is gone, and holds no more at the end than at the beginning.
func TestFaultsOfLinks(t *testing.T) {
	l := newFaultLab(t)
	for _, errno := range []unix.Errno{unix.ENOBUFS, unix.ENOMEM, unix.EIO} {
		t.Run("io_uring completes with "+errno.Error(), func(t *testing.T) { l.completes(t, fault{Errno: errno}) })
	}
	t.Run("io_uring completes 5 bytes", func(t *testing.T) { l.completes(t, fault{Short: 5}) })
	t.Run("sendmmsg of one message", l.sendsOne)
	t.Run("io_uring", l.givesUpRing)
	l.meets(t)
}

// The same, where the kernel forwards by itself what it may.
func TestFaultsOfLinksWithOffload(t *testing.T) {
	l := newFaultLab(t, "--offload")
	t.Run("io_uring", l.givesUpRing)
	l.meets(t)
}

// sendsOne has the uplink take one message of each call that has several: the others are sent by the next calls, and nothing is lost or counted.
func (l *faultLab) sendsOne(t *testing.T) {
	const often = 3
	was := status(t, l.proc)
	again, all := segments(t, l.Guests[0].Node)
	l.in.set(&fault{Calls: []uint64{unix.SYS_SENDMMSG}, Short: 1})
	defer l.in.set(nil)
	must(t, lab.Await(testContext(t), "calls with several messages", func() (bool, error) {
		must(t, l.conn.Check(testContext(t)))
		l.flood()
		return l.in.hits() >= often, l.alive()
	}))
	if now := status(t, l.proc); errorsOf(now, "eth0") != errorsOf(was, "eth0") {
		t.Errorf("%d errors are counted on eth0", errorsOf(now, "eth0")-errorsOf(was, "eth0"))
	}
	againNow, allNow := segments(t, l.Guests[0].Node)
	if lost := againNow - again; lost*20 > allNow-all { // a busy machine has TCP send a few again by itself
		t.Errorf("%d segments of %d were sent again", lost, allNow-all)
	}
	l.serves(t)
}

// segments are how many TCP segments a host has sent again, and how many in all (RFC 4022).
func segments(t *testing.T, n *lab.Node) (again, all int) {
	t.Helper()
	said, err := n.Command(t.Context(), "cat", "/proc/net/snmp").Output()
	must(t, err)
	values := map[string]int{}
	var names []string
	for line := range strings.Lines(string(said)) {
		fields := strings.Fields(line)
		if fields[0] != "Tcp:" {
			continue
		}
		for i, name := range names {
			values[name], _ = strconv.Atoi(fields[i])
		}
		names = fields
	}
	if values["OutSegs"] == 0 {
		t.Fatalf("no segment was sent: %s", said)
	}
	return values["RetransSegs"], values["OutSegs"]
}

// givesUpRing has a ring fail, after which there is a call for each packet.
func (l *faultLab) givesUpRing(t *testing.T) {
	f := &fault{Calls: []uint64{unix.SYS_IO_URING_ENTER}, Errno: unix.EIO}
	l.in.set(f)
	must(t, lab.Await(testContext(t), "the fault, or plain calls", func() (bool, error) {
		must(t, l.conn.Check(testContext(t))) // nothing is lost
		l.flood()
		return l.in.hits() > 0, l.alive()
	}))
	l.in.set(nil)
	l.serves(t)
}

// The kernel refuses what the offload asks of it: the router forwards by itself meanwhile, serves everybody, and leaves it to the kernel again afterwards.
func TestFaultsOfOffload(t *testing.T) {
	l := newFaultLab(t, "--offload")
	l.serves(t)
	before := holds(t, l.proc)
	for _, errno := range []unix.Errno{unix.ENOMEM, unix.E2BIG, unix.EPERM} {
		t.Run("bpf: "+errno.Error(), func(t *testing.T) {
			l.suffers(t, &fault{Calls: []uint64{unix.SYS_BPF}, Errno: errno}, func(*testing.T) { l.flood() })
			l.serves(t)
			forwarded := status(t, l.proc).Flows.OffloadHits
			must(t, lab.Await(testContext(t), "the kernel to forward again", func() (bool, error) {
				l.flood()
				return status(t, l.proc).Flows.OffloadHits > forwarded, l.alive()
			}))
		})
	}
	l.settled(before)
}

// completes has some of what a ring does fail, or be short: what is lost is counted, and the ring stays in use.
func (l *faultLab) completes(t *testing.T, f fault) {
	const often = 3
	f.Calls, f.Completed, f.Times = []uint64{unix.SYS_IO_URING_ENTER}, true, often
	was := errorsOf(status(t, l.proc), "udr0")
	for range 2 { // a ring that was given up would not be entered again
		l.in.set(&f)
		must(t, lab.Await(testContext(t), "the fault", func() (bool, error) {
			l.flood()
			return l.in.hits() >= often, l.alive()
		}))
		l.in.set(nil)
		l.serves(t)
	}
	if now := errorsOf(status(t, l.proc), "udr0"); now < was+often {
		t.Errorf("%d errors are counted on udr0, of %d", now-was, 2*often)
	}
}

// meets has each of the links' system calls fail in each way.
func (l *faultLab) meets(t *testing.T) {
	t.Helper()
	before := holds(t, l.proc)
	for _, c := range faulty {
		what := c.fault.Errno.Error()
		if c.fault.Short > 0 {
			what = "short"
		}
		t.Run(c.call+": "+what, func(t *testing.T) {
			was := errorsOf(status(t, l.proc), c.counted)
			l.suffers(t, c.fault, func(*testing.T) {})
			l.serves(t)
			if c.counted != "" && errorsOf(status(t, l.proc), c.counted) == was {
				t.Errorf("no error is counted on %s", c.counted)
			}
		})
	}
	l.settled(before)
}

// settled checks that the router holds no more than it did, has met no defect and has kept to its MAC.
func (l *faultLab) settled(before held) {
	l.t.Helper()
	l.in.end()
	after := holds(l.t, l.proc)
	l.t.Logf("before: %+v; after: %+v", before, after)
	if after.grown(before) {
		l.t.Errorf("it has grown from %+v to %+v", before, after)
	}
	if s := status(l.t, l.proc); s.ForeignMAC != 0 || s.Drops[policy.Internal.String()] != 0 {
		l.t.Errorf("foreign MACs %d, drops %v", s.ForeignMAC, s.Drops)
	}
	must(l.t, l.proc.Stop())
}

// flood has a guest send many packets at once, for which a ring is made.
func (l *faultLab) flood() {
	must(l.t, l.Guests[0].Transfer(testContext(l.t), netip.AddrPortFrom(l.Internet.Addr4(), 443), 1<<20))
}

// What opens a device anew fails for a while: it is tried again, and nothing is left of the tries that failed.
func TestFaultsOfOpening(t *testing.T) {
	l := newFaultLab(t)
	l.serves(t)
	before := holds(t, l.proc)
	deleteUplink := func(t *testing.T) {
		must(t, l.Dom0.DelLink(l.Dom0.Link))
		must(t, l.MakeUplink())
	}
	deleteTAP := func(t *testing.T) { must(t, l.Dom0.DelLink(l.Config.Bridge.TAP)) }
	deleteTUN := func(t *testing.T) { must(t, l.Dom0.DelLink(l.Config.Host.Interface)) }
	for _, c := range []struct {
		name  string
		fault *fault
		do    func(*testing.T)
	}{
		{"TAP: openat", &fault{Calls: []uint64{unix.SYS_OPENAT}, Errno: unix.EMFILE}, deleteTAP},
		{"TAP: openat", &fault{Calls: []uint64{unix.SYS_OPENAT}, Errno: unix.ENOMEM}, deleteTAP},
		{"TAP: ioctl", &fault{Calls: []uint64{unix.SYS_IOCTL}, On: tun, Errno: unix.EBUSY}, deleteTAP},
		{"TAP: ioctl", &fault{Calls: []uint64{unix.SYS_IOCTL}, On: tun, Errno: unix.ENOMEM}, deleteTAP},
		{"TUN: ioctl", &fault{Calls: []uint64{unix.SYS_IOCTL}, On: tun, Errno: unix.ENOBUFS}, deleteTUN},
		{"uplink: socket", &fault{Calls: []uint64{unix.SYS_SOCKET}, Errno: unix.EMFILE}, deleteUplink},
		{"uplink: socket", &fault{Calls: []uint64{unix.SYS_SOCKET}, Errno: unix.ENOBUFS}, deleteUplink},
		{"uplink: setsockopt", &fault{Calls: []uint64{unix.SYS_SETSOCKOPT}, Errno: unix.ENOMEM}, deleteUplink},
		{"uplink: bind", &fault{Calls: []uint64{unix.SYS_BIND}, Third: unix.SizeofSockaddrLinklayer, Errno: unix.ENODEV}, deleteUplink},
		{"uplink: bind", &fault{Calls: []uint64{unix.SYS_BIND}, Third: unix.SizeofSockaddrLinklayer, Errno: unix.ENETDOWN}, deleteUplink},
		{"uplink: getsockname", &fault{Calls: []uint64{unix.SYS_GETSOCKNAME}, Errno: unix.ENOBUFS, Times: 20}, deleteUplink},
		{"netlink: sendto", &fault{Calls: []uint64{unix.SYS_SENDTO}, On: "socket:", Errno: unix.ENOBUFS}, deleteUplink},
		{"netlink: sendto", &fault{Calls: []uint64{unix.SYS_SENDTO}, On: "socket:", Errno: unix.ENOMEM}, deleteTAP},
		{"netlink: recvfrom", &fault{Calls: []uint64{unix.SYS_RECVFROM}, On: "socket:", Errno: unix.ENOBUFS}, deleteUplink},
		{"netlink: recvfrom", &fault{Calls: []uint64{unix.SYS_RECVFROM}, On: "socket:", Errno: unix.ENOMEM}, deleteUplink},
		{"netlink: recvmsg", &fault{Calls: []uint64{unix.SYS_RECVMSG}, On: "socket:", Errno: unix.ENOBUFS}, deleteTAP},
		{"control socket: accept", &fault{Calls: []uint64{unix.SYS_ACCEPT4}, Errno: unix.EMFILE, Times: 5}, func(t *testing.T) { status(t, l.proc) }},
		{"log: write", &fault{Calls: []uint64{unix.SYS_WRITE}, On: "pipe:", Errno: unix.ENOSPC}, deleteUplink},
	} {
		t.Run(c.name+": "+strings.ReplaceAll(c.fault.Errno.Error(), " ", "_"), func(t *testing.T) {
			l.suffers(t, c.fault, c.do)
			l.serves(t)
		})
	}
	l.settled(before)
}
