package tool

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// A program says by what Go it was built; another file has no revision.
func TestRevision(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if got := Revision(self); !strings.HasSuffix(got, ", "+runtime.Version()) {
		t.Errorf("this test is %q", got)
	}
	if got := Revision(filepath.Join(t.TempDir(), "none")); got != "unknown revision" {
		t.Errorf("a file that is not there is %q", got)
	}
}
