package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"udrouter/config"
)

// TestGuestsMeetOnTheBridge is the reference set-up: the kernel routes, and the bridge carries what
// guests send each other.
func TestGuestsMeetOnTheBridge(t *testing.T) {
	l := build(t, seed(), Options{})
	if err := l.KernelRouter(KernelOptions{}); err != nil {
		t.Fatal(err)
	}
	ctx := testContext(t)
	one, two := l.Guest("one"), l.Guest("two")
	for _, a := range []netip.Addr{two.Addr4(), two.Addr6()} {
		if hops, err := one.Trace(ctx, a, TraceOptions{}); err != nil || len(hops) != 1 || hops[0] != a {
			t.Errorf("the way to %s: %v, %v", a, hops, err)
		}
	}
	for _, a := range []netip.Addr{l.Internet.Addr4(), l.Internet.Addr6()} {
		if _, err := one.Ping(ctx, a, PingOptions{}); err != nil {
			t.Error(err)
		}
	}
	if l.Guest("three") != nil || len(l.Nodes()) != 5 {
		t.Errorf("nodes: %d", len(l.Nodes()))
	}
}

// TestWithoutRouter: until there is a router, dom0 has its own connections and guests have none,
// not even to each other's prefix beyond the bridge.
func TestWithoutRouter(t *testing.T) {
	for _, c := range shapes {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := build(t, c.cfg(), Options{})
			ctx := testContext(t)
			_, err := families(l.Dom0, l.Internet, func(_, to netip.Addr) (string, error) {
				_, err := l.Dom0.Ping(ctx, to, PingOptions{})
				return "", err
			})
			var none notShown
			if err != nil && !errors.As(err, &none) {
				t.Error(err)
			}
			if on, err := l.Dom0.Sysctl("net.ipv4.ip_forward"); on != "0" || err != nil {
				t.Errorf("dom0 forwards: %s, %v", on, err)
			}
		})
	}
}

func TestGuestDAD(t *testing.T) {
	l := build(t, seed(), Options{GuestDAD: true})
	one := l.Guest("one")
	if v, err := one.Sysctl("net.ipv6.conf.eth0.accept_dad"); v != "1" || err != nil {
		t.Errorf("accept_dad is %q: %v", v, err)
	}
	// Another that takes an address which is in use finds out.
	two := l.Guest("two")
	if err := two.AddAddrDAD(two.Link, netip.PrefixFrom(one.Addr6(), 64)); err != nil {
		t.Fatal(err)
	}
	err := Await(testContext(t), "the address", func() (bool, error) { return two.ready(two.Link, true) })
	if err == nil || !strings.Contains(err.Error(), "somebody else has "+one.Addr6().String()) {
		t.Errorf("got %v", err)
	}
}

func TestMTU(t *testing.T) {
	cfg := seed()
	cfg.Bridge.MTU = 1400
	l := build(t, cfg, Options{MTU: 9000})
	for _, c := range []struct {
		n    *Node
		link string
		want int
	}{
		{l.Internet, InternetLink, 9000}, {l.Gateway, GatewayWAN, 9000}, {l.Gateway, GatewayLAN, 9000}, {l.Dom0, "eth0", 9000},
		{l.Dom0, "xenbr0", 1400}, {l.Dom0, "vif1.0", 1400}, {l.Guest("one").Node, GuestLink, 1400},
	} {
		err := c.n.onLink("reading the MTU of", c.link, func(_ *netlink.Handle, link netlink.Link) error {
			if got := link.Attrs().MTU; got != c.want {
				t.Errorf("%s of %s has MTU %d, want %d", c.link, c.n.Name(), got, c.want)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestOffloadEverywhere(t *testing.T) {
	l := kernel(t, seed(), Options{})
	if err := l.SetOffload(Offload{}); err != nil {
		t.Fatal(err)
	}
	ctx := testContext(t)
	two, x := l.Guest("two"), l.Internet
	if _, err := two.ServeTCP(22); err != nil {
		t.Fatal(err)
	}
	s, err := two.Sniff(two.Link, SniffOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := x.Transfer(ctx, netip.AddrPortFrom(two.Addr4(), 22), 1<<20); err != nil {
		t.Fatal(err)
	}
	if n := s.Count(func(f Frame) bool { return len(f.Data) > 1514 || f.Partial }); n > 0 {
		t.Errorf("%d frames were offloaded", n)
	}
	c, err := two.Count(two.Link)
	if err != nil || c.RxBytes < 1<<20 || c.TxBytes < 1<<20 {
		t.Errorf("counted %+v: %v", c, err)
	}
}

func TestDescribe(t *testing.T) {
	l := build(t, changed(func(c *config.Config) { c.Domus[0].Vif = "" }), withSource)
	p, err := l.StartRouter(testContext(t), "/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	b := watchedBuffer{on: func(s string) {
		if strings.Contains(s, "All of it is gone") {
			cancel()
		}
	}}
	if err := l.Shell(ctx, &b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"192.0.2.0/24 is routed to dom0", `domu "one" is not here: its block names no vif`,
		fmt.Sprintf("dom0       nsenter --net=/proc/%d/fd/%d", os.Getpid(), l.Dom0.FD()), "--socket " + p.Socket,
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in:\n%s", want, b.String())
		}
	}
	// What it says is so: the descriptor is the namespace.
	was, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), l.Dom0.FD()))
	if err != nil {
		t.Fatal(err)
	}
	var is string
	if err := l.Dom0.Do(func() (err error) { is, err = here(); return err }); err != nil || is != was {
		t.Errorf("%s is named, %s is entered: %v", was, is, err)
	}
}

// things are what a lab could leave behind in this process.
type things struct{ descriptors, goroutines, directories int }

func openThings(t *testing.T) things {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), "udrouter-lab-*"))
	if err != nil {
		t.Fatal(err)
	}
	return things{len(fds), runtime.NumGoroutine(), len(dirs)}
}

// awaitThings waits until no more is open than before: goroutines end a moment after what they
// served, those of the test before too.
func awaitThings(t *testing.T, before things) {
	t.Helper()
	var now things
	err := Await(testContext(t), "what was there before", func() (bool, error) {
		now = openThings(t)
		return now.descriptors <= before.descriptors && now.goroutines <= before.goroutines && now.directories <= before.directories, nil
	})
	if err != nil {
		t.Errorf("%v: %+v; there are %+v", err, before, now)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	before := openThings(t)
	l, err := Build(testContext(t), seed(), withSource)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.KernelRouter(KernelOptions{Isolate: true, Bind: true}); err != nil {
		t.Fatal(err)
	}
	p, err := l.StartRouter(testContext(t), "/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if _, failed := runShow(t, l, ShowOptions{Router: p, Keep: true}); failed != nil {
		t.Errorf("failed: %q", failed)
	}
	if _, err := l.Internet.Sniff(l.Internet.Link, SniffOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := l.Internet.ServeUDP(99); err != nil {
		t.Fatal(err)
	}
	outside := newNS(t, "outside")
	tie(t, outside, l.Gateway.NS)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("closing again: %v", err)
	}
	select {
	case <-p.Exited():
	default:
		t.Error("the router lives on")
	}
	awaitUntied(t, outside)
	if err := outside.Close(); err != nil {
		t.Error(err)
	}
	awaitThings(t, before)
}

// TestBuildLeavesNothingWhenItFails breaks at the beginning, in the middle and at the end.
func TestBuildLeavesNothingWhenItFails(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name string
		ctx  context.Context
		cfg  *config.Config
	}{
		{"no bridge", testContext(t), changed(func(c *config.Config) { c.Bridge.Name = "" })},
		{"a long name", testContext(t), changed(func(c *config.Config) { c.Bridge.Name = "a-name-of-many-letters" })},
		{"a vif twice", testContext(t), changed(func(c *config.Config) { c.Domus[1].Vif = c.Domus[0].Vif })},
		{"an interrupt", gone, seed()},
	} {
		before := openThings(t)
		l, err := Build(c.ctx, c.cfg, Options{})
		if err == nil || l != nil {
			t.Errorf("%s: a lab was built", c.name)
		}
		awaitThings(t, before)
	}
}

func TestParallelLabs(t *testing.T) {
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			l, err := Build(testContext(t), seed(), Options{})
			if err != nil {
				t.Error(err)
				return
			}
			defer func() {
				if err := l.Close(); err != nil {
					t.Error(err)
				}
			}()
			if err := l.KernelRouter(KernelOptions{Isolate: i%2 == 0, Bind: i%2 == 0}); err != nil {
				t.Error(err)
				return
			}
			for range 20 {
				if _, err := l.Guest("one").Ping(testContext(t), l.Internet.Addr4(), PingOptions{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// tie links two namespaces, so that the first sees when the kernel takes the second down: the
// link goes with it.
func tie(t *testing.T, outside, inside *NS) {
	t.Helper()
	if err := addVeth(end{ns: outside, link: "tie"}, end{ns: inside, link: "tie"}, defaultMTU); err != nil {
		t.Fatal(err)
	}
}

func awaitUntied(t *testing.T, outside *NS) {
	t.Helper()
	err := Await(testContext(t), "the end of the other namespace", func() (bool, error) {
		_, err := outside.LinkIndex("tie")
		var gone netlink.LinkNotFoundError
		if errors.As(err, &gone) {
			return true, nil
		}
		return false, err
	})
	if err != nil {
		t.Error(err)
	}
}

// holdLab is a helper that builds a lab with a router in it and holds it until it is told to end.
func holdLab([]string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	l, err := Build(ctx, seed(), withSource)
	if err != nil {
		return err
	}
	defer l.Close()
	p, err := l.StartRouter(ctx, "/proc/self/exe")
	if err != nil {
		return err
	}
	fmt.Println(l.Dom0.FD(), p.PID(), l.Dir())
	return l.Shell(ctx, os.Stderr)
}

// TestNothingIsLeft ends a lab's process in every way, from outside.
func TestNothingIsLeft(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGINT, syscall.SIGQUIT} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			tmp := t.TempDir()
			cmd := exec.Command("/proc/self/exe", "hold")
			cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(out).ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			var fd, router int
			var dir string
			if _, err := fmt.Sscan(line, &fd, &router, &dir); err != nil {
				t.Fatal(err)
			}
			outside := newNS(t, "outside")
			file, err := os.Open(fmt.Sprintf("/proc/%d/fd/%d", cmd.Process.Pid, fd))
			if err != nil {
				t.Fatal(err)
			}
			tie(t, outside, &NS{name: "dom0 of another process", file: file})
			if err := file.Close(); err != nil { // or we would hold it
				t.Fatal(err)
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			err = cmd.Wait()
			if sig == syscall.SIGINT && err != nil {
				t.Errorf("it ended with %v", err)
			}
			awaitUntied(t, outside)
			err = Await(testContext(t), "the router's end", func() (bool, error) {
				return errors.Is(syscall.Kill(router, 0), syscall.ESRCH), nil
			})
			if err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(dir); sig == syscall.SIGINT && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the directory is there: %v", err)
			}
		})
	}
}

// What makes the kernel the router can be undone.
func TestNoKernelRouter(t *testing.T) {
	for _, c := range shapes {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := build(t, c.cfg(), Options{})
			before, err := l.Dom0State()
			if err != nil {
				t.Fatal(err)
			}
			if err := l.KernelRouter(KernelOptions{Protect: true, Bind: true}); err != nil {
				t.Fatal(err)
			}
			with, err := l.Dom0State()
			if err != nil || len(DiffState(before, with)) == 0 {
				t.Fatalf("nothing has changed, or %v", err)
			}
			if err := l.NoKernelRouter(); err != nil {
				t.Fatal(err)
			}
			after, err := l.Dom0State()
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range DiffState(before, after) {
				t.Error(d)
			}
		})
	}
}
