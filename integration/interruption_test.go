package integration

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"udrouter/integration/lab"
	"udrouter/integration/wire"
	"udrouter/policy"
)

// The router is stopped (as by a debugger, a machine that sleeps, or one that has no time for it) while so much changes that its netlink sockets lose most
// of the news, and the last of them. It finds out what became of everything when it goes on.
func TestNetlinkOverrun(t *testing.T) {
	l := buildLab(t, "", lab.Options{})
	p := startRouter(t, l)
	g := l.Guests[0]
	conn := openTCP(t, g.Node, l.Internet, l.Internet.Addr4(), 443)
	for round := range 3 {
		before := netlinkDrops(t, p)
		must(t, p.Signal(syscall.SIGSTOP))
		for i := range 1500 {
			a := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(round), byte(i >> 8), byte(i)}), 32)
			must(t, l.Dom0.AddAddr("lo", a))
			must(t, l.Dom0.DelAddr("lo", a))
		}
		must(t, l.Dom0.DelLink(l.Dom0.Link))
		must(t, l.MakeUplink())
		must(t, l.Dom0.DelLink(l.Config.Bridge.TAP))
		if lost := netlinkDrops(t, p) - before; lost == 0 {
			t.Error("no message was lost: this test shows nothing")
		}
		must(t, p.Signal(syscall.SIGCONT))
		for _, a := range []netip.Addr{l.Internet.Addr4(), l.Internet.Addr6(), l.Guests[1].Addr6()} {
			reaches(t, g.Node, a)
		}
		for _, a := range []netip.Addr{g.Addr4(), g.Addr6()} {
			reaches(t, l.Internet, a)
			reaches(t, l.Dom0, a)
		}
		must(t, conn.Check(testContext(t)))
	}
	if s := status(t, p); s.ForeignMAC != 0 || s.Drops[policy.Internal.String()] != 0 {
		t.Errorf("foreign MACs %d, drops %v", s.ForeignMAC, s.Drops)
	}
	must(t, p.Stop())
}

// netlinkDrops is how many messages the netlink sockets of the router's namespace have lost.
func netlinkDrops(t *testing.T, p *lab.Proc) (n int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/netlink", p.PID()))
	must(t, err)
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line) // sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
		var drops int
		if len(f) == 10 && f[0] != "sk" {
			_, err := fmt.Sscan(f[8], &drops)
			must(t, err)
		}
		n += drops
	}
	return n
}

// A log that takes nothing (a full disk, a pipe whose reader has gone, one that nobody reads) stops neither packets nor what follows the kernel.
func TestLogFails(t *testing.T) {
	for _, c := range []struct {
		name string
		fail func(t *testing.T, from, to *os.File) // what becomes of the pipe once the router is ready
	}{
		{"full disk", nil},
		{"its reader has gone", func(t *testing.T, from, _ *os.File) { must(t, from.Close()) }},
		{"nobody reads", func(t *testing.T, _, to *os.File) { fill(t, to) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := buildLab(t, "", lab.Options{})
			from, to, err := os.Pipe()
			must(t, err)
			defer from.Close()
			defer to.Close()
			if c.fail == nil {
				to, err = os.OpenFile("/dev/full", os.O_WRONLY, 0)
				must(t, err)
				defer to.Close()
			}
			socket := filepath.Join(l.Dir(), "control.sock")
			path, err := l.ConfigPath()
			must(t, err)
			cmd := l.Dom0.Command(t.Context(), wire.Exe, "run", "-c", path, "--state", l.Dir(), "--socket", socket, "--confine=strict")
			cmd.Stderr = to
			must(t, cmd.Start())
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			if c.fail != nil {
				ready := make(chan bool, 1)
				lines := bufio.NewReader(from)
				go func() {
					for {
						line, err := lines.ReadString('\n')
						if ok := regexp.MustCompile(`msg=ready\b`).MatchString(line); ok || err != nil {
							ready <- ok
							return
						}
					}
				}()
				if !<-ready {
					t.Fatal("the router does not get ready")
				}
				c.fail(t, from, to)
			}
			answers := func() (bool, error) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				return l.Dom0.Command(ctx, wire.Exe, "status", "--socket", socket).Run() == nil, nil
			}
			must(t, lab.Await(testContext(t), "the router's answer", answers))
			for range 2 {
				reaches(t, l.Guests[0].Node, l.Internet.Addr4())
				reaches(t, l.Internet, l.Guests[0].Addr6())
				// It has much to say, and to follow.
				must(t, l.Dom0.DelLink(l.Dom0.Link))
				must(t, l.MakeUplink())
				must(t, l.Dom0.SetDown(l.Dom0.Link))
				must(t, l.Dom0.SetLinkMAC(l.Dom0.Link, policy.MAC{2, 0, 0xc0, 7, 7, 7}))
				must(t, l.Dom0.SetUp(l.Dom0.Link))
				must(t, l.RestoreUplink())
			}
			reaches(t, l.Guests[0].Node, l.Internet.Addr6())
			must(t, lab.Await(testContext(t), "the router's answer", answers))
			must(t, cmd.Process.Signal(syscall.SIGTERM))
			select {
			case err := <-ended:
				if err != nil {
					t.Errorf("the router ended with %v", err)
				}
			case <-testContext(t).Done():
				t.Error("the router does not end")
			}
		})
	}
}

// fill makes a pipe full.
func fill(t *testing.T, to *os.File) {
	t.Helper()
	fd := int(to.Fd())
	must(t, unix.SetNonblock(fd, true))
	for {
		if _, err := unix.Write(fd, make([]byte, 1)); err == unix.EAGAIN {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	must(t, unix.SetNonblock(fd, false))
}
