package wire

import (
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

// RunElsewhere runs tests of other packages with the go command, a package after the other, as subtests.
func RunElsewhere(t *testing.T, names []string) {
	byDir := map[string][]string{}
	for _, name := range names {
		dir, test := dirOf(name)
		if !slices.Contains(byDir[dir], test) {
			byDir[dir] = append(byDir[dir], test)
		}
	}
	for dir, tests := range byDir {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-run", "^("+strings.Join(tests, "|")+")$", ".")
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
