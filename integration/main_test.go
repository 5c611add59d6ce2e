// Package integration tests the real program on real links: the lab's namespaces, TAP, TUN, bridge, veth, and the kernel's
// own stack as guests, upstream and dom0. It needs root and fails without.
package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"udrouter/config"
	"udrouter/integration/lab"
)

// exe is the program under test, built once.
var exe string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if program := os.Getenv(withoutRoot); program != "" {
		fmt.Fprintln(os.Stderr, becomeNobody(program))
		return 1
	}
	if user := os.Getenv(asUser); user != "" {
		fmt.Fprintln(os.Stderr, becomeOrdinary(user))
		return 1
	}
	dir, err := os.MkdirTemp("", "udrouter-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	exe = filepath.Join(dir, "udrouter")
	args := append([]string{"build", "-o", exe}, buildFlags...)
	if out, err := exec.Command("go", append(args, "udrouter/cmd/udrouter")...).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building udrouter: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// timeout ends a test that hangs; none waits for it otherwise.
const timeout = 120 * time.Second

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	t.Cleanup(cancel)
	return ctx
}

// buildLab makes the network of a file; "" is the reference.
func buildLab(t testing.TB, src string, o lab.Options) *lab.Lab {
	t.Helper()
	if src == "" {
		src = string(config.Reference)
	}
	cfg, diags := config.Parse("router.hcl", []byte(src))
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	o.Source = []byte(src)
	l, err := lab.Build(testContext(t), cfg, o)
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

// moreArgs are the program's in all tests, such as --offload: what holds has to hold with the kernel forwarding as well.
const moreArgs = "UDROUTER_TEST_ARGS"

// startRouter runs the program in a lab's dom0 and stops it with the test. A system call that it makes and confinement does not know ends it.
func startRouter(t testing.TB, l *lab.Lab, args ...string) *lab.Proc {
	t.Helper()
	args = append([]string{"--confine=strict"}, args...)
	p, err := l.StartRouter(testContext(t), exe, append(args, strings.Fields(os.Getenv(moreArgs))...)...)
	must(t, err)
	showLog(t, p)
	return p
}

// showLog shows a router's log when the test has failed.
func showLog(t testing.TB, p *lab.Proc) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the router's log:\n%s", p.Log())
		}
	})
}

// ended runs a command that is to end with a status, and returns what it says.
func ended(t testing.TB, cmd *lab.Cmd, status int) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != status {
		t.Errorf("%s ended with status %d, want %d\n%s", strings.Join(cmd.Args, " "), got, status, out)
	}
	return string(out)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
