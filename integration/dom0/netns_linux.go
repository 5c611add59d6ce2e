package dom0

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// netNS is a network namespace, held by descriptor: what is done later happens in it whichever thread does it.
// Its methods may be called concurrently until close.
type netNS struct {
	fd     int
	cookie uint64 // SO_NETNS_COOKIE (Linux 5.14): no other namespace of this boot has it
}

// openNetNS holds the calling thread's network namespace.
func openNetNS() (*netNS, error) {
	fd, err := unix.Open(threadNS, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the network namespace: %w", err)
	}
	n := &netNS{fd: fd}
	err = n.do(func() error {
		s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		n.cookie, err = unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	})
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("asking for the network namespace's cookie (Linux 5.14 or newer): %w", err)
	}
	return n, nil
}

const threadNS = "/proc/thread-self/ns/net"

func (n *netNS) close() { unix.Close(n.fd) }

// do runs f on a thread that is in the namespace. A thread that already is needs no privilege;
// to move one needs CAP_SYS_ADMIN, which only a process that serves several namespaces has to have.
func (n *netNS) do(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		back, err := n.enter()
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		err = f()
		if back() == nil {
			runtime.UnlockOSThread()
		} // else the thread ends with this goroutine
		done <- err
	}()
	return <-done
}

// enter moves the calling thread, which has to be locked, and returns its way back.
func (n *netNS) enter() (back func() error, err error) {
	var here, there unix.Stat_t
	if err := unix.Stat(threadNS, &here); err != nil {
		return nil, fmt.Errorf("looking at the thread's network namespace: %w", err)
	}
	if err := unix.Fstat(n.fd, &there); err != nil {
		return nil, fmt.Errorf("looking at the network namespace: %w", err)
	}
	if here.Dev == there.Dev && here.Ino == there.Ino {
		return func() error { return nil }, nil
	}
	old, err := unix.Open(threadNS, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the thread's network namespace: %w", err)
	}
	if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
		unix.Close(old)
		return nil, fmt.Errorf("entering the network namespace: %w", err)
	}
	return func() error {
		defer unix.Close(old)
		return unix.Setns(old, unix.CLONE_NEWNET)
	}, nil
}

// setDisableIPv6 writes the interface's disable_ipv6. Writing 1 removes its IPv6 addresses and routes.
func (n *netNS) setDisableIPv6(ifname string, v int) error {
	path := filepath.Join("/proc/sys/net/ipv6/conf", ifname, "disable_ipv6")
	err := n.do(func() error { return os.WriteFile(path, []byte(strconv.Itoa(v)), 0) })
	if err != nil {
		return fmt.Errorf("setting disable_ipv6 of %s to %d (is /proc/sys read-only?): %w", ifname, v, err)
	}
	return nil
}

// bridgeNetfilter tells whether br_netfilter shows bridged frames to dom0's own IP rules.
func (n *netNS) bridgeNetfilter() (on bool) {
	_ = n.do(func() error {
		for _, f := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"} {
			b, err := os.ReadFile(filepath.Join("/proc/sys/net/bridge", f)) // absent without the module
			on = on || err == nil && strings.TrimSpace(string(b)) != "0"
		}
		return nil
	})
	return on
}

// bootID tells one boot from another.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("reading the boot's id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
