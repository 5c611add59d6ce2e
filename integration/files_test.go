package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	must(t, err)
	return string(b)
}

func writeFile(t *testing.T, dir, name string, b []byte, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(dir, name)
	must(t, os.WriteFile(path, b, mode))
	must(t, os.Chmod(path, mode))
	return path
}

// publicDir is a directory that any user may look into.
func publicDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "udrouter-user-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	return dir
}

// README has a line for each folder here.
func TestReadmeNamesFolders(t *testing.T) {
	readme := readFile(t, "../README.md")
	entries, err := os.ReadDir(".")
	must(t, err)
	for _, e := range entries {
		if e.IsDir() && !strings.Contains(readme, "\n| `"+e.Name()+"` | ") {
			t.Errorf("README.md does not name integration/%s", e.Name())
		}
	}
}
