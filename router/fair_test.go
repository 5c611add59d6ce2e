package router

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"

	"golang.org/x/sys/unix"
)

// queued is a listener whose connections are there already.
type queued struct {
	net.Listener
	conns chan net.Conn
}

func (q *queued) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	default:
		return nil, net.ErrClosed
	}
}

// Each user has a share of what all users have; root has as many as it wants, and a place that is left is another's.
func TestFairListener(t *testing.T) {
	const root = 0
	uids := map[net.Conn]int{}
	q := &queued{conns: make(chan net.Conn, 1)}
	l := newFairListener(q)
	l.uid = func(c net.Conn) int { return uids[c] }
	// connects tells whether a user's connection is accepted; one that is not has been closed.
	connects := func(uid int) net.Conn {
		t.Helper()
		c, far := net.Pipe()
		uids[c] = uid
		q.conns <- c
		got, err := l.Accept()
		if err == nil {
			return got
		}
		if _, err := far.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("a connection that was refused is open: %v", err)
		}
		return nil
	}
	var held []net.Conn
	for user := 1; len(held) < groupConns; user++ {
		for range userConns {
			c := connects(user)
			if c == nil {
				t.Fatalf("user %d was refused when %d connections were open", user, len(held))
			}
			held = append(held, c)
		}
		if connects(user) != nil {
			t.Errorf("user %d has more than %d connections", user, userConns)
		}
	}
	if connects(1000) != nil {
		t.Errorf("there are more than %d connections", groupConns)
	}
	for range 2 * groupConns {
		if connects(root) == nil {
			t.Fatal("root was refused")
		}
	}
	held[0].Close()
	held[0].Close() // which net/http does
	if connects(1000) == nil || connects(1000) != nil {
		t.Error("another user does not have the one place that was left")
	}
	for _, c := range held {
		c.Close()
	}
	if l.all != 1 || len(l.users) != 1 {
		t.Errorf("%d connections of %v, want one", l.all, l.users)
	}
}

// A user who holds as many connections as he gets keeps neither others of the group out, nor root.
func TestControlConnections(t *testing.T) {
	const group, hog, all = 1, 65534, 40
	s := knowing(t, edit())
	socket := s.controlOf(t, group)
	dial := func(uid int) net.Conn {
		t.Helper()
		var conn net.Conn
		var err error
		as(t, uid, group, func() { conn, err = net.Dial("unix", socket) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	var held []net.Conn
	for range all {
		held = append(held, dial(hog))
	}
	for _, c := range []struct {
		uid          int
		method, path string
	}{{0, "POST", "/v1/reload"}, {hog - 1, "GET", "/v1/status"}, {0, "GET", "/v1/status"}} {
		conn := dial(c.uid)
		s.Around = &around{next: s.Config}
		client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}}
		req, err := http.NewRequestWithContext(t.Context(), c.method, "http://udrouter"+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Errorf("user %d: %v", c.uid, err)
			continue
		}
		resp.Body.Close()
		client.CloseIdleConnections()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("user %d: %s", c.uid, resp.Status)
		}
	}
	// Connections are accepted in their order: all of the hog's have been by now.
	refused := 0
	for _, c := range held {
		if hungUp(t, c.(*net.UnixConn)) {
			refused++
		}
	}
	if refused < all-userConns {
		t.Errorf("%d of %d connections of a user were refused, want all but %d", refused, all, userConns)
	}
}

// hungUp tells whether the other side has closed a connection.
func hungUp(t *testing.T, c *net.UnixConn) (is bool) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		is = n == 0 && err == nil
	}); err != nil {
		t.Fatal(err)
	}
	return is
}
