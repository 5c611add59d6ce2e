package integration

import (
	"path/filepath"
	"strings"
	"testing"
)

// An import of the set-up that udrouter replaces is a file that check accepts; what is not in it is said.
func TestImportCommand(t *testing.T) {
	const dir = "importer/testdata/seed/"
	args := []string{"import", "--interfaces", dir + "interfaces", "--ndppd", dir + "ndppd.conf", "--iptables", dir + "iptables.rules", "--ip6tables", dir + "ip6tables.rules",
		"--xl", dir + "one.cfg", "--xl", dir + "two.cfg"}
	out, errs := command(t, 0, args...)
	contains(t, out, `domu "one"`, `gateway  = "2001:db8:3:2:1::1"`)
	contains(t, errs, "not needed any more: "+dir+"interfaces, lines 33 34: ", "stays where it is: ")
	file := filepath.Join(t.TempDir(), "router.hcl")
	command(t, 0, append(args, "-o", file)...)
	if readFile(t, file) != out {
		t.Error("-o writes something else than the standard output")
	}
	contains(t, first(command(t, 0, "check", "-c", file)), "is valid: 2 networks, 2 domus")
	_, errs = command(t, 1, append(args, "-o", file)...)
	contains(t, errs, "exists: move it away")

	out, errs = command(t, 0, args[:7]...)
	contains(t, errs, "places are marked TODO", "not carried over: ")
	file = writeFile(t, t.TempDir(), "router.hcl", []byte(out), 0o644)
	_, errs = command(t, 1, "check", "-c", file)
	if n := strings.Count(errs, "Value to be filled in"); n != strings.Count(out, `"TODO`) {
		t.Errorf("check finds %d places to fill in, of\n%s", n, out)
	}

	bad := writeFile(t, t.TempDir(), "bad", []byte("*filter\n-A INPUT --dport\nCOMMIT\n"), 0o644)
	out, errs = command(t, 1, "import", "--iptables", bad, "--interfaces", bad)
	contains(t, errs, bad+":2: --dport takes a word", bad+":1: ") // both files' mistakes
	if out != "" {
		t.Errorf("a failed import writes %q", out)
	}
	_, errs = command(t, 1, "import")
	contains(t, errs, "--interfaces")
}

func first(a, _ string) string { return a }
