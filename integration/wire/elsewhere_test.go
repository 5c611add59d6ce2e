package wire

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// How each test of a package ended is read of a run: one that is skipped has not passed, and one that was not selected has not run.
func TestReadEvents(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example\n\ngo 1.24\n",
		"a_test.go": `package a

import "testing"

func TestPasses(t *testing.T)  { t.Run("part", func(t *testing.T) {}) }
func TestFails(t *testing.T)   { t.Error("the defect") }
func TestSkips(t *testing.T)   { t.Skip("not today") }
func TestNotRun(t *testing.T)  {}
func FuzzSeeds(f *testing.F)   { f.Add(1); f.Fuzz(func(t *testing.T, n int) {}) }
`,
	} {
		Must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	cmd := exec.Command("go", "test", "-json", "-count=1", "-run", "^(TestPasses|TestFails|TestSkips|FuzzSeeds)$", ".")
	cmd.Dir = dir
	out, err := cmd.Output()
	if err == nil {
		t.Error("a run with a test that fails ends well")
	}
	did, said := readEvents(out)
	want := map[string]string{"TestPasses": "pass", "TestPasses/part": "pass", "TestFails": "fail", "TestSkips": "skip", "FuzzSeeds": "pass", "FuzzSeeds/seed#0": "pass"}
	if !maps.Equal(did, want) || !strings.Contains(said, "the defect") {
		t.Errorf("got %v, want %v; it said\n%s", did, want, said)
	}
}
