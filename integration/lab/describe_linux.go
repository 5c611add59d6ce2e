package lab

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"udrouter/config"
)

// draw draws the lab with its addresses.
func (l *Lab) draw(w io.Writer) {
	addrs := func(n *Node) string {
		var s []string
		for _, a := range n.Addrs {
			s = append(s, a.Addr().String())
		}
		return strings.Join(s, "  ")
	}
	fmt.Fprintf(w, "  %-18s %s\n", "internet (X)", addrs(l.Internet))
	fmt.Fprintf(w, "    |\n")
	fmt.Fprintf(w, "  %-18s %s\n", "upstream router gw", addrs(l.Gateway))
	for _, n := range l.Config.Networks {
		where := "is on its link, as far as it knows"
		if n.Upstream == config.Routed {
			where = "is routed to dom0"
		}
		fmt.Fprintf(w, "    |                  %s %s\n", n.Prefix, where)
	}
	fmt.Fprintf(w, "    | %s\n", l.Dom0.Link)
	fmt.Fprintf(w, "  %-18s %s  %s\n", "dom0", addrs(l.Dom0), l.Dom0.MAC)
	fmt.Fprintf(w, "    | %s\n", l.Config.Bridge.Name)
	for _, g := range l.Guests {
		fmt.Fprintf(w, "    +- %-8s %-6s %s  %s\n", g.Domu.Vif, g.Name(), addrs(g.Node), g.MAC)
	}
	for _, s := range l.Skipped {
		fmt.Fprintf(w, "  %s\n", s)
	}
}

// Describe draws the lab and says for each host how to enter it from another shell, as long as this
// process lives.
func (l *Lab) Describe(w io.Writer) error {
	out := &printer{w: w}
	l.draw(out)
	enter := "nsenter "
	if !initialUserNS() {
		// The namespaces belong to our user namespace: only from within that may they be entered.
		enter += fmt.Sprintf("--preserve-credentials --user=/proc/%d/ns/user ", os.Getpid())
	}
	fmt.Fprintf(out, "\nTo look around, in another shell:\n")
	for _, n := range l.Nodes() {
		fmt.Fprintf(out, "  %-10s %s--net=/proc/%d/fd/%d\n", n.Name(), enter, os.Getpid(), n.FD())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.procs {
		fmt.Fprintf(out, "The router is process %d; ask it with: udrouter status --socket %s\n", p.PID(), p.Socket)
	}
	return out.err
}

// Shell is what "udrouter lab --shell" does once all is up: Describe, and wait until ctx ends.
func (l *Lab) Shell(ctx context.Context, w io.Writer) error {
	if err := l.Describe(w); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(w, "All of it is gone when this ends (Ctrl-C)."); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// isTerminal tells whether a writer is one.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
