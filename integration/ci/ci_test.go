// Package ci has examples for repositories in which a router.hcl is kept.
package ci

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"udrouter/config"
)

// Each command of the examples is one that the program knows and that ends with status 0, beside the reference as router.hcl.
func TestCommands(t *testing.T) {
	dir := t.TempDir()
	exe := filepath.Join(dir, "udrouter")
	if out, err := exec.Command("go", "build", "-o", exe, "udrouter/cmd/udrouter").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "router.hcl"), config.Reference, 0o644); err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^\s*- (?:run: )?(?:sudo )?(udrouter .*)$`)
	for _, name := range []string{"github.yml", "gitlab-ci.yml"} {
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		found := line.FindAllStringSubmatch(string(src), -1)
		if len(found) != 3 {
			t.Errorf("%s has %d commands, want 3", name, len(found))
		}
		for _, m := range found {
			args := strings.Fields(m[1])
			cmd := exec.Command(exe, args[1:]...)
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %s: %v\n%s", name, m[1], err, out)
			}
			if i := strings.Index(m[1], "--junit "); i >= 0 {
				report := m[1][i+len("--junit "):]
				if _, err := os.Stat(filepath.Join(dir, report)); err != nil {
					t.Errorf("%s: %s writes no report: %v", name, m[1], err)
				}
				if strings.Count(string(src), report) < 2 && !strings.Contains(string(src), `"*.xml"`) {
					t.Errorf("%s does not keep %s", name, report)
				}
			}
		}
	}
}
