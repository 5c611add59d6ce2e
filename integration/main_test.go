// Package integration tests the real program on real links: the lab's namespaces, TAP, TUN, bridge, veth, and the kernel's
// own stack as guests, upstream and dom0. It needs root and fails without.
package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"udrouter/integration/lab"
	"udrouter/integration/wire"
)

func TestMain(m *testing.M) {
	if pid := os.Getenv(injectInto); pid != "" {
		if err := obey(pid, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if program := os.Getenv(withoutRoot); program != "" {
		fmt.Fprintln(os.Stderr, becomeNobody(program))
		os.Exit(1)
	}
	if program := os.Getenv(asLeak); program != "" {
		fmt.Fprintln(os.Stderr, becomeLeak(program))
		os.Exit(1)
	}
	if user := os.Getenv(asUser); user != "" {
		fmt.Fprintln(os.Stderr, becomeOrdinary(user))
		os.Exit(1)
	}
	os.Exit(wire.Main(m))
}

// The tools of package wire, by the names that most tests use.
var (
	must        = wire.Must
	testContext = wire.Context
	buildLab    = wire.BuildLab
	startRouter = wire.StartRouter
	showLog     = wire.ShowLog
	status      = wire.Status
	ping        = wire.Ping
)

const timeout = wire.Timeout

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
