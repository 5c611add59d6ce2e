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
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NS is a network namespace that exists only as a descriptor of this process (and of what runs in
// it), so that it is gone when the process is, however that ends. Its methods may be called from
// several goroutines.
type NS struct {
	name string
	file *os.File

	mu      sync.Mutex
	handle  *netlink.Handle
	servers map[int]*Server // by port, those of ServeTCP
	closers []func() error  // newest last
	closed  bool
}

// NewNS makes a namespace with its loopback up. The name is for messages alone. Duplicate address
// detection is off in it: a second's wait for each IPv6 address would buy nothing here (SetDAD
// turns it on for one link).
func NewNS(name string) (*NS, error) {
	n := &NS{name: name, servers: make(map[int]*Server)}
	err := onThread(func() (bool, error) {
		home, err := openThreadNS()
		if err != nil {
			return true, err
		}
		defer unix.Close(home)
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return true, fmt.Errorf("unsharing the network namespace: %w", err)
		}
		fd, err := openThreadNS()
		if err == nil {
			n.file = os.NewFile(uintptr(fd), "netns:"+name)
		}
		if back := unix.Setns(home, unix.CLONE_NEWNET); back != nil {
			return false, errors.Join(err, fmt.Errorf("returning to the first namespace: %w", back))
		}
		return true, err
	})
	if err == nil {
		err = n.prepare()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making namespace %s: %w", name, err), n.Close())
	}
	return n, nil
}

// prepare sets what every namespace of a lab has in common.
func (n *NS) prepare() error {
	for _, s := range [][2]string{
		{"net.ipv6.conf.all.accept_dad", "0"},
		{"net.ipv6.conf.default.accept_dad", "0"},
		// IPv4 settings are copied from the machine's first namespace: be independent of that.
		{"net.ipv4.conf.all.rp_filter", "0"},
		{"net.ipv4.conf.default.rp_filter", "0"},
		{"net.ipv4.ip_forward", "0"},
		// The one that every kernel has: BBR would pace by its own clock, and throughput say more about that than about the way.
		{"net.ipv4.tcp_congestion_control", "reno"},
	} {
		if err := n.SetSysctl(s[0], s[1]); err != nil {
			return err
		}
	}
	return n.SetUp("lo")
}

// Name is what NewNS was given.
func (n *NS) Name() string { return n.name }

// FD is the descriptor, valid until Close: /proc/PID/fd/FD names the namespace to others.
func (n *NS) FD() int { return int(n.file.Fd()) }

// Do calls f on a thread that is in the namespace, and on a goroutine of its own: a thread that
// cannot be brought back ends with that goroutine instead of serving others in the wrong place.
// What f starts with go runs outside the namespace; sockets that f opens stay inside.
func (n *NS) Do(f func() error) error {
	return onThread(func() (bool, error) {
		home, err := openThreadNS()
		if err != nil {
			return true, err
		}
		defer unix.Close(home)
		if err := n.enter(); err != nil {
			return true, err
		}
		err = f()
		if back := unix.Setns(home, unix.CLONE_NEWNET); back != nil {
			return false, errors.Join(err, fmt.Errorf("returning from namespace %s: %w", n.name, back))
		}
		return true, err
	})
}

// enter moves the calling thread, which must be locked.
func (n *NS) enter() error {
	if n.file == nil {
		return fmt.Errorf("entering namespace %s: %w", n.name, os.ErrClosed)
	}
	raw, err := n.file.SyscallConn() // holds the descriptor against a Close meanwhile
	if err == nil {
		var in error
		err = raw.Control(func(fd uintptr) { in = unix.Setns(int(fd), unix.CLONE_NEWNET) })
		err = errors.Join(err, in)
	}
	if err != nil {
		return fmt.Errorf("entering namespace %s: %w", n.name, err)
	}
	return nil
}

// onThread calls f on a new goroutine with a thread of its own and waits for it. f tells whether
// the thread is as it was; if not, it ends.
func onThread(f func() (clean bool, err error)) error {
	err := errors.New("a function in a namespace left its goroutine") // runtime.Goexit, as t.FailNow does
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		var clean bool
		if clean, err = f(); clean {
			runtime.UnlockOSThread()
		}
	}()
	<-done
	return err
}

func openThreadNS() (int, error) {
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("opening the thread's namespace: %w", err)
	}
	return fd, nil
}

// Handle is a route netlink handle in the namespace; it is closed with it.
func (n *NS) Handle() (*netlink.Handle, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, fmt.Errorf("opening netlink in namespace %s: %w", n.name, os.ErrClosed)
	}
	if n.handle == nil {
		err := n.Do(func() (err error) {
			n.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("opening netlink in namespace %s: %w", n.name, err)
		}
	}
	return n.handle, nil
}

// OnClose has f called by Close, the latest first.
func (n *NS) OnClose(f func() error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closers = append(n.closers, f)
}

// Close stops what was opened through the namespace's own methods and gives the namespace up. The
// kernel takes it down when nothing else is in it: processes, and sockets that a caller opened.
func (n *NS) Close() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.closed = true
	closers, handle := n.closers, n.handle
	n.closers, n.handle = nil, nil
	n.mu.Unlock()

	var errs []error
	for _, f := range slices.Backward(closers) {
		errs = append(errs, f())
	}
	if handle != nil {
		handle.Close()
	}
	if n.file != nil {
		errs = append(errs, n.file.Close())
	}
	return errors.Join(errs...)
}

// SetSysctl writes one of the namespace's settings, all of which begin with "net.". A "/" in key
// stands for a dot in an interface's name, as sysctl(8) has it.
func (n *NS) SetSysctl(key, value string) error {
	path, err := sysctlPath(key)
	if err != nil {
		return err
	}
	// Which namespace these files show is decided by the thread that opens them.
	err = n.Do(func() error { return os.WriteFile(path, []byte(value), 0) })
	if errors.Is(err, unix.EROFS) {
		return fmt.Errorf("setting %s=%s in %s: %w: the lab sets what its own namespaces' kernels do, and /proc/sys is read-only here, as in a container: "+
			"docker run --security-opt systempaths=unconfined gives one that is not, or before the lab: mount -o remount,rw /proc/sys", key, value, n.name, err)
	}
	if err != nil {
		return fmt.Errorf("setting %s=%s in %s: %w", key, value, n.name, err)
	}
	return nil
}

// Sysctl reads a setting, without the newline.
func (n *NS) Sysctl(key string) (string, error) {
	path, err := sysctlPath(key)
	if err != nil {
		return "", err
	}
	var text []byte
	err = n.Do(func() (err error) {
		text, err = os.ReadFile(path)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("reading %s in %s: %w", key, n.name, err)
	}
	return strings.TrimSuffix(string(text), "\n"), nil
}

func sysctlPath(key string) (string, error) {
	if !strings.HasPrefix(key, "net.") {
		return "", fmt.Errorf("sysctl %s does not belong to a network namespace", key)
	}
	swap := strings.NewReplacer(".", "/", "/", ".")
	return filepath.Join("/proc/sys", swap.Replace(key)), nil
}

// Socket opens a socket in the namespace; it is close-on-exec and does not block. The caller closes it.
func (n *NS) Socket(domain, typ, proto int) (int, error) {
	fd := -1
	err := n.Do(func() (err error) {
		fd, err = unix.Socket(domain, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("opening a socket in %s: %w", n.name, err)
	}
	return fd, nil
}

// Dial connects from within the namespace. The address must be numeric: names would be resolved by
// goroutines outside. The caller closes the connection.
func (n *NS) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return n.DialFrom(ctx, network, netip.Addr{}, address)
}

// DialFrom is Dial with a source address; the zero Addr leaves the choice to the kernel.
func (n *NS) DialFrom(ctx context.Context, network string, source netip.Addr, address string) (net.Conn, error) {
	return n.dialFrom(ctx, network, netip.AddrPortFrom(source, 0), address)
}

func (n *NS) dialFrom(ctx context.Context, network string, source netip.AddrPort, address string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("dialing from %s: %w", n.name, err)
	}
	var d net.Dialer
	if source.Addr().IsValid() {
		if strings.HasPrefix(network, "udp") {
			d.LocalAddr = net.UDPAddrFromAddrPort(source)
		} else {
			d.LocalAddr = net.TCPAddrFromAddrPort(source)
		}
	}
	var c net.Conn
	err := n.Do(func() (err error) {
		c, err = d.DialContext(ctx, network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("dialing from %s: %w", n.name, err)
	}
	return c, nil
}

// ForgetConnections has the kernel forget what it has seen of connections (conntrack).
func (n *NS) ForgetConnections() error {
	return n.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
		if err != nil {
			return fmt.Errorf("forgetting the connections of %s: %w", n.name, err)
		}
		defer h.Close()
		if err := h.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
			return fmt.Errorf("forgetting the connections of %s: %w", n.name, err)
		}
		return nil
	})
}

// Listen listens in the namespace; the caller closes the listener.
func (n *NS) Listen(network, address string) (net.Listener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // Go's default; plain TCP is what the labs measure
	var l net.Listener
	err := n.Do(func() (err error) {
		l, err = lc.Listen(context.Background(), network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listening in %s: %w", n.name, err)
	}
	return l, nil
}

// ListenPacket opens a packet socket of package net in the namespace; the caller closes it.
func (n *NS) ListenPacket(network, address string) (net.PacketConn, error) {
	var lc net.ListenConfig
	var c net.PacketConn
	err := n.Do(func() (err error) {
		c, err = lc.ListenPacket(context.Background(), network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listening in %s: %w", n.name, err)
	}
	return c, nil
}

// Await looks at a condition until it holds, at first every millisecond. It returns the
// condition's error, or the context's with what was awaited.
func Await(ctx context.Context, what string, cond func() (bool, error)) error {
	wait := time.Millisecond
	for {
		ok, err := cond()
		if err != nil {
			return fmt.Errorf("awaiting %s: %w", what, err)
		}
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("awaiting %s: %w", what, context.Cause(ctx))
		case <-time.After(wait):
			wait = min(2*wait, 50*time.Millisecond)
		}
	}
}
