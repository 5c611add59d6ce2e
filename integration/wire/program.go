package wire

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"udrouter/config"
	"udrouter/integration/lab"
	"udrouter/router"
)

// Exe is the program under test, which Main has built.
var Exe string

// Main builds the program under test, once, runs a package's tests and returns their exit status.
func Main(m *testing.M) int {
	dir, err := os.MkdirTemp("", "udrouter-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	Exe = filepath.Join(dir, "udrouter")
	args := append([]string{"build", "-o", Exe}, buildFlags...)
	if out, err := exec.Command("go", append(args, "udrouter/cmd/udrouter")...).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building udrouter: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// Timeout ends a test that hangs; none waits for it otherwise.
const Timeout = 120 * time.Second

// Context is a test's, with Timeout.
func Context(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Timeout)
	t.Cleanup(cancel)
	return ctx
}

// Must ends a test that cannot go on.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// BuildLab makes the network of a file, until the test ends; "" is the reference.
func BuildLab(t testing.TB, src string, o lab.Options) *lab.Lab {
	t.Helper()
	if src == "" {
		src = string(config.Reference)
	}
	cfg, diags := config.Parse("router.hcl", []byte(src))
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	o.Source = []byte(src)
	l, err := lab.Build(Context(t), cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("closing the lab: %v", err)
		}
	})
	return l
}

// MoreArgs are the program's in all tests, such as --offload: what holds has to hold with the kernel forwarding as well.
const MoreArgs = "UDROUTER_TEST_ARGS"

// StartRouter runs the program in a lab's dom0 and stops it with the test. A system call that it makes and confinement does not know ends it.
func StartRouter(t testing.TB, l *lab.Lab, args ...string) *lab.Proc {
	t.Helper()
	args = append([]string{"--confine=strict"}, args...)
	p, err := l.StartRouter(Context(t), Exe, append(args, strings.Fields(os.Getenv(MoreArgs))...)...)
	Must(t, err)
	ShowLog(t, p)
	return p
}

// ShowLog shows a router's log when the test has failed.
func ShowLog(t testing.TB, p *lab.Proc) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the router's log:\n%s", p.Log())
		}
	})
}

// Status is what a running router tells of itself.
func Status(t testing.TB, p *lab.Proc) router.Status {
	t.Helper()
	raw, err := p.Get(Context(t), "/v1/status")
	Must(t, err)
	var s router.Status
	Must(t, json.Unmarshal(raw, &s))
	return s
}

// Ping asks until there is an answer, so that a state that is about to come is awaited and not guessed at.
func Ping(t testing.TB, from *lab.Node, to netip.Addr) {
	t.Helper()
	_, err := from.Ping(Context(t), to, lab.PingOptions{Every: 50 * time.Millisecond})
	Must(t, err)
}
