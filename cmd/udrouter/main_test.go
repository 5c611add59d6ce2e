package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Whoever waits for the router to be ready is told that it will not be.
func TestTellFailure(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("creating TAP udr0: %w", &os.PathError{Op: "open", Path: "/dev/net/tun", Err: syscall.EACCES}), "ERRNO=13"},
		{errors.New("no bridge"), "ERRNO=22"},
		{errSaid, "ERRNO=22"},
	} {
		name := filepath.Join(t.TempDir(), "notify")
		conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv("NOTIFY_SOCKET", name)
		tellFailure(c.err)
		b := make([]byte, 100)
		n, err := conn.Read(b)
		if err != nil || string(b[:n]) != c.want {
			t.Errorf("%v is told as %q, %v; want %q", c.err, b[:n], err, c.want)
		}
		conn.Close()
	}
}
