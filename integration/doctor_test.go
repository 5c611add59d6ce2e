package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"udrouter/config"
	"udrouter/integration/doctor"
	"udrouter/integration/lab"
	"udrouter/integration/wire"
)

// consult runs the doctor in dom0.
func consult(t *testing.T, l *lab.Lab, args ...string) (findings []doctor.Finding, status int) {
	t.Helper()
	out, err := l.Dom0.Command(testContext(t), wire.Exe, append([]string{"doctor", "--json"}, args...)...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status, err = exit.ExitCode(), nil
	}
	must(t, err)
	var answer struct{ Findings []doctor.Finding }
	if err := json.Unmarshal(out, &answer); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	return answer.Findings, status
}

// The doctor has nothing to say of a router that runs, warns of a killed one, and is satisfied again when the next one has started.
func TestDoctor(t *testing.T) {
	l := buildLab(t, "", lab.Options{})
	p := startRouter(t, l)
	file, err := l.ConfigPath()
	must(t, err)
	where := []string{"-c", file, "--state", p.State, "--socket", p.Socket}
	expect := func(when string, status int, want ...string) {
		t.Helper()
		findings, got := consult(t, l, where...)
		var checks []string
		for _, f := range findings {
			checks = append(checks, f.Check)
		}
		if strings.Join(checks, " ") != strings.Join(want, " ") || got != status {
			t.Errorf("%s: found %v with status %d, want %v with %d", when, findings, got, want, status)
		}
	}
	expect("a router that runs", 0)
	must(t, l.Dom0.SetSysctl("net.ipv4.ip_forward", "1"))
	expect("a warning alone", 0, "forwarding")
	must(t, l.Dom0.AddAddr("xenbr0", netip.MustParsePrefix("10.9.9.1/24")))
	expect("a problem too", 1, "forwarding", "addresses")
	must(t, l.Dom0.DelAddr("xenbr0", netip.MustParsePrefix("10.9.9.1/24")))
	must(t, l.Dom0.SetSysctl("net.ipv4.ip_forward", "0"))
	where[5] += ".none"
	expect("a socket that nobody listens on", 1, "router")
	where[5] = p.Socket
	where[3] = t.TempDir()
	expect("another state directory", 1, "leftovers")
	where[3] = p.State
	must(t, p.Kill())
	expect("a router that was killed", 0, "leftovers")
	next := l.Dom0.Command(testContext(t), wire.Exe, "run", "-c", file, "--state", p.State, "--socket", p.Socket)
	must(t, next.Start())
	must(t, lab.Await(testContext(t), "the next router", func() (bool, error) {
		findings, _ := consult(t, l, where...)
		return len(findings) == 0, nil
	}))
	must(t, next.Process.Signal(syscall.SIGTERM))
	must(t, next.Wait())
	expect("a router that has ended", 0)
}

func TestDoctorCommand(t *testing.T) {
	l := buildLab(t, "", lab.Options{})
	dir := t.TempDir()
	bad := writeFile(t, dir, "bad.hcl", []byte(strings.Replace(string(config.Reference), "192.0.2.0/24", "192.0.2.1/24", 1)), 0o666)
	cmd := l.Dom0.Command(testContext(t), wire.Exe, "doctor", "-c", bad, "--state", dir, "--socket", dir+"/none")
	out, err := cmd.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("ended with %v, want status 1", err)
	}
	contains(t, string(out), "udrouter check -c "+bad, "chmod go-w "+bad, "2 findings")
	out, err = l.Dom0.Command(testContext(t), wire.Exe, "doctor", "--state", dir, "--socket", dir+"/none").Output()
	must(t, err)
	contains(t, string(out), "nothing is in the way", "-c")
}

// The README lists what is looked for.
func TestREADMEListsChecks(t *testing.T) {
	text := readFile(t, "../README.md")
	for _, row := range doctor.Checks() {
		if line := fmt.Sprintf("| `%s` | %s |", row[0], row[1]); !strings.Contains(text, line) {
			t.Errorf("README.md has no line %s", line)
		}
	}
}
