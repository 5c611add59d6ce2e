package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func newNS(t *testing.T, name string) *NS {
	t.Helper()
	n, err := NewNS(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("closing %s: %v", name, err)
		}
	})
	return n
}

// pairOf links two new namespaces, a (192.0.2.1) and b (192.0.2.2), by their eth0.
func pairOf(t *testing.T) (a, b *NS) {
	t.Helper()
	a, b = newNS(t, "a"), newNS(t, "b")
	if err := addVeth(end{a, "eth0", mac(1)}, end{b, "eth0", mac(2)}, defaultMTU); err != nil {
		t.Fatal(err)
	}
	err := errors.Join(a.SetUp("eth0"), b.SetUp("eth0"),
		a.AddAddr("eth0", netip.MustParsePrefix("192.0.2.1/24")), b.AddAddr("eth0", netip.MustParsePrefix("192.0.2.2/24")),
		a.AddAddr("eth0", netip.MustParsePrefix("2001:db8::1/64")), b.AddAddr("eth0", netip.MustParsePrefix("2001:db8::2/64")))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []*NS{a, b} {
		if err := Await(testContext(t), "eth0", func() (bool, error) { return n.ready("eth0", true) }); err != nil {
			t.Fatal(err)
		}
	}
	return a, b
}

// here identifies the namespace of the calling thread.
func here() (string, error) { return os.Readlink("/proc/thread-self/ns/net") }

func TestDoComesBack(t *testing.T) {
	home, err := here()
	if err != nil {
		t.Fatal(err)
	}
	n := newNS(t, "n")
	var inside string
	if err := n.Do(func() (err error) { inside, err = here(); return err }); err != nil {
		t.Fatal(err)
	}
	if inside == home {
		t.Error("Do called its function outside")
	}
	want := errors.New("no")
	if err := n.Do(func() error { return want }); !errors.Is(err, want) {
		t.Errorf("got %v from Do", err)
	}
	if err := n.Do(func() error { runtime.Goexit(); return nil }); err == nil {
		t.Error("Do succeeded with a function that never returned")
	}
	// Every thread that the runtime still has must be where it was.
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			if now, err := here(); now != home || err != nil {
				t.Errorf("a thread was left in %s: %v", now, err)
			}
		})
	}
	wg.Wait()
}

func TestDoNests(t *testing.T) {
	a, b := newNS(t, "a"), newNS(t, "b")
	var one, two, again string
	err := a.Do(func() (err error) {
		if one, err = here(); err != nil {
			return err
		}
		if err := b.Do(func() (err error) { two, err = here(); return err }); err != nil {
			return err
		}
		again, err = here()
		return err
	})
	if err != nil || one == two || one != again {
		t.Errorf("in %s, then %s, then %s: %v", one, two, again, err)
	}
}

func TestClosedNS(t *testing.T) {
	n := newNS(t, "n")
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Errorf("closing again: %v", err)
	}
	if err := n.Do(func() error { return nil }); err == nil {
		t.Error("Do entered a closed namespace")
	}
	if _, err := n.Handle(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Handle: %v", err)
	}
	if _, err := n.ServeTCP(80); err == nil {
		t.Error("ServeTCP serves in a closed namespace")
	}
	if err := n.Command(t.Context(), "true").Run(); err == nil {
		t.Error("Command ran in a closed namespace")
	}
}

func TestSysctl(t *testing.T) {
	n := newNS(t, "n")
	if err := n.SetSysctl("net.ipv4.ip_forward", "1"); err != nil {
		t.Fatal(err)
	}
	if v, err := n.Sysctl("net.ipv4.ip_forward"); v != "1" || err != nil {
		t.Errorf("read %q: %v", v, err)
	}
	other := newNS(t, "other")
	if v, err := other.Sysctl("net.ipv4.ip_forward"); v != "0" || err != nil {
		t.Errorf("another namespace has %q: %v", v, err)
	}
	if err := n.SetSysctl("kernel.hostname", "x"); err == nil {
		t.Error("a setting of the whole machine was let through")
	}
	if p, err := sysctlPath("net.ipv4.conf.vif1/0.forwarding"); p != "/proc/sys/net/ipv4/conf/vif1.0/forwarding" || err != nil {
		t.Errorf("path %q: %v", p, err)
	}
}

// links is a helper: it prints what links a program sees by netlink and by /sys.
func links([]string) error {
	list, err := net.Interfaces()
	if err != nil {
		return err
	}
	var names []string
	for _, l := range list {
		names = append(names, l.Name)
	}
	inSys, err := filepath.Glob("/sys/class/net/*")
	if err != nil {
		return err
	}
	for i, p := range inSys {
		inSys[i] = filepath.Base(p)
	}
	slices.Sort(names)
	fmt.Printf("%s; %s\n", strings.Join(names, " "), strings.Join(inSys, " "))
	return nil
}

func TestCommand(t *testing.T) {
	n := newNS(t, "n")
	if err := n.addBridge("br7", defaultMTU); err != nil {
		t.Fatal(err)
	}
	out, err := n.Command(t.Context(), "/proc/self/exe", "links").CombinedOutput()
	if err != nil || string(out) != "br7 lo; br7 lo\n" {
		t.Errorf("the child sees %q: %v", out, err)
	}
	if err := n.Command(t.Context(), "/nonexistent").Run(); err == nil {
		t.Error("a missing program ran")
	}
	// The mounts of this process are as before.
	if _, err := os.Stat("/sys/class/net/br7"); err == nil {
		t.Error("the child's /sys is ours too")
	}
}

func TestCommandEndsWithItsContext(t *testing.T) {
	n := newNS(t, "n")
	ctx, cancel := context.WithCancel(t.Context())
	c := n.Command(ctx, "/proc/self/exe", "sleep")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := c.Wait(); err == nil {
		t.Error("the child ended well")
	}
}

func TestDialWantsNumbers(t *testing.T) {
	n := newNS(t, "n")
	if _, err := n.Dial(t.Context(), "tcp", "localhost:80"); err == nil {
		t.Error("a name was dialed")
	}
}

func TestListenAndDial(t *testing.T) {
	a, b := pairOf(t)
	ctx := testContext(t)
	l, err := b.Listen("tcp", ":8080")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, to := range []string{"192.0.2.2:8080", "[2001:db8::2]:8080"} {
		c, err := a.Dial(ctx, "tcp", to)
		if err != nil {
			t.Fatal(err)
		}
		in, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		in.Close()
		c.Close()
	}
	// The socket option shows that the connection is in the namespace, not in ours.
	if _, err := net.Dial("tcp", "192.0.2.2:8080"); err == nil {
		t.Error("the listener is reachable from outside")
	}
}

func TestAwait(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	err := Await(ctx, "rain", func() (bool, error) { return false, nil })
	if err == nil || err.Error() != "awaiting rain: enough" {
		t.Errorf("got %v", err)
	}
	if err := Await(ctx, "rain", func() (bool, error) { return true, nil }); err != nil {
		t.Errorf("it held: %v", err)
	}
	if err := Await(ctx, "rain", func() (bool, error) { return false, unix.EIO }); !errors.Is(err, unix.EIO) {
		t.Errorf("got %v", err)
	}
}

func TestOffload(t *testing.T) {
	for _, c := range []struct {
		name string
		set  Offload
		want bool // frames over the MTU and partial checksums
	}{
		{"the kernel's default", Offload{TxChecksum: true, TSO: true, GSO: true}, true},
		{"off", Offload{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := pairOf(t)
			ctx := testContext(t)
			if err := errors.Join(a.SetOffload("eth0", c.set), b.SetOffload("eth0", c.set)); err != nil {
				t.Fatal(err)
			}
			if _, err := b.ServeTCP(80); err != nil {
				t.Fatal(err)
			}
			s, err := b.Sniff("eth0", SniffOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if err := a.Transfer(ctx, netip.MustParseAddrPort("192.0.2.2:80"), 1<<20); err != nil {
				t.Fatal(err)
			}
			long, partial := 0, 0
			for _, f := range s.Frames() {
				if len(f.Data) > defaultMTU+14 {
					long++
				}
				if f.Partial {
					partial++
				}
			}
			if long > 0 != c.want || partial > 0 != c.want {
				t.Errorf("of %d frames %d were long and %d had partial checksums", len(s.Frames()), long, partial)
			}
		})
	}
	if err := newNS(t, "n").SetOffload("eth7", Offload{}); !errors.Is(err, unix.ENODEV) {
		t.Errorf("a missing link: %v", err)
	}
}
