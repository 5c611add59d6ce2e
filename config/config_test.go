package config

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
)

var update = flag.Bool("update", false, "write the goldens of testdata/bad")

// written is what an administrator sees.
func written(t testing.TB, diags hcl.Diagnostics) string {
	t.Helper()
	var b bytes.Buffer
	if err := WriteDiagnostics(&b, diags, false); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func mustParse(t testing.TB, name string, src []byte) *Config {
	t.Helper()
	cfg, diags := Parse(name, src)
	if len(diags) > 0 {
		t.Fatalf("%s: %d diagnostics\n%s", name, len(diags), written(t, diags[:min(len(diags), 5)]))
	}
	return cfg
}

func TestBad(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.hcl")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".hcl"), func(t *testing.T) {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			cfg, diags := Parse("router.hcl", src)
			if cfg != nil || !diags.HasErrors() {
				t.Fatal("accepted")
			}
			got := written(t, diags)
			golden := strings.TrimSuffix(file, ".hcl") + ".txt"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatalf("%v (go test ./config -update writes it)", err)
			}
			if got != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func TestGood(t *testing.T) {
	files, err := filepath.Glob("testdata/good/*.hcl")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		mustParse(t, file, src)
	}
}
