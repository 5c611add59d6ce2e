package dom0

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
)

// How soon a sync follows another. A few follow each other at once, which is what a guest's start takes; an interface that flaps
// costs no more than ten a second. One that fails, or what someone else keeps undoing, is tried again after pauses that grow.
const (
	syncRate     = 10 // a second
	syncBurst    = 10
	patientSyncs = 20 // so many in a row may find something to change
	firstPause   = 100 * time.Millisecond
	longestPause = 5 * time.Second
)

// Run follows the kernel: interfaces and addresses that come, go and change, and nftables rules that others delete.
// It returns nil when ctx is done or Close was called, and an error when it can follow no longer.
func (d *Dom0) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		select {
		case <-ctx.Done():
		case <-d.closing:
			cancel()
		}
		return nil
	})
	g.Go(func() error { return d.events.follow(ctx, d.events.route, func([]byte) { d.wake() }) })
	g.Go(func() error { return d.events.follow(ctx, d.events.nftables, d.tableEvent) })
	g.Go(func() error { d.resync(ctx); return nil })
	return g.Wait()
}

// wake has resync look at everything.
func (d *Dom0) wake() {
	select {
	case d.kick <- struct{}{}:
	default: // it will anyway
	}
}

// resync syncs after events. However many arrive meanwhile they make one sync.
func (d *Dom0) resync(ctx context.Context) {
	limit := rate.NewLimiter(syncRate, syncBurst)
	pause, busy, failure := firstPause, 0, ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.kick:
		}
		if limit.Wait(ctx) != nil {
			return
		}
		changed, err := d.syncOpen()
		if errors.Is(err, errClosed) {
			return
		}
		d.report(&failure, err)
		if changed {
			busy++
		} else {
			busy = 0
		}
		if err == nil && busy <= patientSyncs {
			pause = firstPause
			continue
		}
		if err != nil {
			d.wake() // try again
		}
		wait := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			wait.Stop()
			return
		case <-wait.C:
		}
		pause = min(2*pause, longestPause)
	}
}

// report logs a failure when it is another than the last, and its end.
func (d *Dom0) report(last *string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text == *last {
		return
	}
	if *last = text; err != nil {
		d.log.Error("dom0: " + text)
	} else {
		d.log.Info("dom0: as it should be again")
	}
}

// syncOpen syncs unless Close came first.
func (d *Dom0) syncOpen() (changed bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false, errClosed
	}
	return d.sync()
}

// tableEvent has the guard installed anew when somebody else (`nft flush ruleset`, a firewall's restart) touched it.
func (d *Dom0) tableEvent(b []byte) {
	if b != nil && !foreignChange(b, d.guard.portID.Load()) {
		return
	}
	d.mu.Lock()
	d.guard.installed = false
	d.mu.Unlock()
	d.wake()
}

// foreignChange tells whether one of the notifications is about a table of ours and not of our own making.
func foreignChange(b []byte, own uint32) bool {
	msgs, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return true
	}
	for _, m := range msgs {
		if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || m.Header.Pid == own || len(m.Data) < nl.SizeofNfgenmsg {
			continue
		}
		if m.Header.Type&0xff == unix.NFT_MSG_NEWGEN {
			continue // names no table
		}
		// Attribute 1 of every other message is the name of the table.
		if parseAttrs(m.Data[nl.SizeofNfgenmsg:]).string(unix.NFTA_TABLE_NAME) == TableName {
			return true
		}
	}
	return false
}

// events are two netlink sockets that tell of changes. What they say only starts a look at everything, so nothing depends on
// every message being read: when the kernel drops some (ENOBUFS), the look is the same.
type events struct {
	route, nftables *os.File
}

func openEvents(ns *netNS) (*events, error) {
	var e events
	err := ns.do(func() (err error) {
		if e.route, err = subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR); err != nil {
			return err
		}
		e.nftables, err = subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
		return err
	})
	if err != nil {
		e.close()
		return nil, fmt.Errorf("subscribing to the kernel's notifications: %w", err)
	}
	return &e, nil
}

func subscribe(proto int, groups ...int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "netlink notifications")
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		f.Close()
		return nil, err
	}
	for _, g := range groups {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g); err != nil {
			f.Close()
			return nil, err
		}
	}
	return f, nil
}

// ignore keeps the guard's own changes out of the nftables socket. The kernel tells of every rule at once, and of thousands more than the
// socket holds: the loss would be taken for a change of somebody else's, and have them all installed again, for ever.
func (e *events) ignore(portID uint32) error {
	const portIDAt = 12 // struct nlmsghdr: nlmsg_pid; messages that come together are of one transaction
	own := binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, portID))
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: portIDAt},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: own},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	raw, err := e.nftables.SyscallConn()
	if err != nil {
		return err
	}
	set := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	})
	return errors.Join(set, err)
}

func (e *events) close() {
	for _, f := range []*os.File{e.route, e.nftables} {
		if f != nil {
			f.Close()
		}
	}
}

// follow hands every datagram to f until ctx is done or the socket is closed, and nil when some were lost.
func (e *events) follow(ctx context.Context, sock *os.File, f func([]byte)) error {
	_ = sock.SetReadDeadline(time.Time{})
	defer context.AfterFunc(ctx, func() { _ = sock.SetReadDeadline(time.Unix(1, 0)) })()
	buf := make([]byte, 1<<16)
	for {
		n, err := sock.Read(buf)
		switch {
		case err == nil:
			f(buf[:n])
		case ctx.Err() != nil, errors.Is(err, os.ErrClosed):
			return nil
		case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
			f(nil)
		default:
			return fmt.Errorf("reading the kernel's notifications: %w", err)
		}
	}
}
