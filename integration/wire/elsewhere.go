package wire

import (
	"bytes"
	"cmp"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// root is the module's directory, as seen from a package of tests in integration.
const root = "../.."

// dirOf is the directory of the package whose test is named "package.TestX".
func dirOf(name string) (dir, test string) {
	pkg, test, _ := strings.Cut(name, ".")
	for _, parent := range []string{"", "integration", "cmd", "stack"} {
		dir = filepath.Join(root, parent, pkg)
		if files, _ := filepath.Glob(filepath.Join(dir, "*_test.go")); len(files) > 0 {
			return dir, test
		}
	}
	return "", test
}

// TestExists looks for a test or a fuzz target of another package, "dom0.TestX", in its source.
func TestExists(t testing.TB, name string) bool {
	t.Helper()
	dir, fn := dirOf(name)
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	Must(t, err)
	return slices.ContainsFunc(files, func(f string) bool {
		b, err := os.ReadFile(f)
		Must(t, err)
		return strings.Contains(string(b), "\nfunc "+fn+"(")
	})
}

// RunElsewhere runs tests of other packages with the go command, a package after the other, as subtests. It tells which of them ran and passed:
// one that was skipped, or that there is not, has not.
func RunElsewhere(t *testing.T, names []string) (passed map[string]bool) {
	byDir, passed := map[string][]string{}, map[string]bool{}
	for _, name := range names {
		dir, _ := dirOf(name)
		byDir[dir] = append(byDir[dir], name)
	}
	for dir, names := range byDir {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "go", "test", "-json", "-count=1", "-run", "^("+strings.Join(tests(names), "|")+")$", ".")
			cmd.Dir = dir
			out, err := cmd.Output()
			did, said := readEvents(out)
			for _, name := range names {
				_, test := dirOf(name)
				if passed[name] = did[test] == "pass"; !passed[name] {
					t.Errorf("%s: %s", name, cmp.Or(did[test], "has not run"))
				}
			}
			if err != nil || t.Failed() {
				t.Errorf("%v\n%s", err, said)
			}
		})
	}
	return passed
}

func tests(names []string) (list []string) {
	for _, name := range names {
		_, test := dirOf(name)
		list = append(list, test)
	}
	return list
}

// readEvents reads what "go test -json" writes (cmd/test2json): how each test ended, pass, fail or skip, and all that was said.
func readEvents(out []byte) (did map[string]string, said string) {
	did = map[string]string{}
	var all strings.Builder
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var e struct{ Action, Test, Output string }
		if d.Decode(&e) != nil {
			return did, all.String()
		}
		all.WriteString(e.Output)
		if e.Test != "" && slices.Contains([]string{"pass", "fail", "skip"}, e.Action) {
			did[e.Test] = e.Action
		}
	}
}
