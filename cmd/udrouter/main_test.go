package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
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

// The control socket of a router that runs, by its arguments.
func TestSocketIn(t *testing.T) {
	for args, want := range map[string]string{
		"udrouter run -c r.hcl":                                          "",
		"udrouter run -c r.hcl --workers 2 --socket /run/a":              "/run/a",
		"udrouter run -c r.hcl --offload --socket=/run/a --pick-up":      "/run/a",
		"udrouter run -c r.hcl --socket /run/a --socket /run/b":          "/run/b",
		"udrouter run -c r.hcl --of-another-version 7 --socket /run/a -": "/run/a",
		"udrouter run -c r.hcl --socket":                                 "",
		"sh -c exec udrouter run --socket /run/a":                        "",
		"udrouter": "",
	} {
		if got := socketIn(strings.Fields(args)); got != want {
			t.Errorf("%s: %q, want %q", args, got, want)
		}
	}
}

// Scripts give run's flags to commands that need one of them; a mistake in it is still one.
func TestTakesRunFlags(t *testing.T) {
	state := t.TempDir() // of no router
	for _, c := range []struct {
		args string
		ok   bool
	}{
		{"pid --workers 2 --offload --state " + state + " --socket /run/a --confine=off -c r.hcl", true},
		{"pid --stat " + state, false},
		{"pid --workers two", false},
	} {
		root := command()
		root.SetArgs(strings.Fields(c.args))
		if err := root.Execute(); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.args, err)
		}
	}
}
