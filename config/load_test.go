package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/hcl/v2"
)

const minimal = `uplink "eth0" {}
bridge "xenbr0" {}
network "v4" {
  prefix   = "192.0.2.0/24"
  gateway  = "192.0.2.1"
  upstream = "routed"
}
`

// wantError fails unless there is exactly one diagnostic, whose text has every one of the parts.
func wantError(t *testing.T, cfg *Config, diags hcl.Diagnostics, parts ...string) {
	t.Helper()
	if cfg != nil || len(diags) != 1 || !diags.HasErrors() || diags[0].Subject == nil {
		t.Fatalf("config %v, diagnostics %v", cfg, diags)
	}
	got := diags[0].Summary + "\n" + diags[0].Detail
	for _, p := range parts {
		if !strings.Contains(got, p) {
			t.Errorf("%q is not in:\n%s", p, got)
		}
	}
}

func write(t *testing.T, name, text string, mode fs.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // past the umask
		t.Fatal(err)
	}
	return path
}

func TestLoad(t *testing.T) {
	path := write(t, "router.hcl", minimal, 0o664)
	cfg, diags := Load(path)
	if len(diags) > 0 {
		t.Fatal(written(t, diags))
	}
	if cfg.File != path || cfg.Networks[0].Range != (Range{path, 3, 1}) {
		t.Errorf("file %q, network at %+v", cfg.File, cfg.Networks[0].Range)
	}
}

func TestLoadRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, row := range map[string]struct {
		path  string
		parts []string
	}{
		"missing":   {filepath.Join(dir, "none.hcl"), []string{"not found", "none.hcl", "-c", "reference.hcl"}},
		"directory": {dir, []string{"is a directory", dir + "/router.hcl"}},
		"writable":  {write(t, "w.hcl", minimal, 0o646), []string{"writable by everyone", "chmod o-w "}},
		"large":     {write(t, "l.hcl", strings.Repeat("#", MaxSize+100), 0o600), []string{"too large", "l.hcl is 4194404 bytes; at most 4 MiB"}},
		"json":      {write(t, "router.json", "{}", 0o600), []string{"JSON is not supported", "HCL"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, diags := Load(row.path)
			wantError(t, cfg, diags, row.parts...)
		})
	}
}

func TestLoadReadsAPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{minimal: "", strings.Repeat("#", MaxSize+1): "more than 4 MiB"} {
		done := make(chan error)
		go func() {
			// The reader takes one byte more than it accepts, so that this ends.
			done <- os.WriteFile(path, []byte(text), 0o600)
		}()
		cfg, diags := Load(path)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if want == "" {
			if cfg == nil {
				t.Error(written(t, diags))
			}
			continue
		}
		wantError(t, cfg, diags, want)
	}
}

// Tests may run as root, who may read everything: so what the system says is made up.
func TestOpenErrors(t *testing.T) {
	for want, err := range map[string]error{
		"no permission":      &fs.PathError{Op: "open", Path: "r.hcl", Err: fs.ErrPermission},
		"Reading r.hcl: EIO": &fs.PathError{Op: "read", Path: "r.hcl", Err: errors.New("EIO")},
	} {
		wantError(t, nil, hcl.Diagnostics{openError("r.hcl", err)}, want)
	}
}

func TestSizes(t *testing.T) {
	fill := func(n int) []byte {
		return []byte(minimal + "#" + strings.Repeat("x", n-len(minimal)-1))
	}
	mustParse(t, "router.hcl", fill(MaxSize))
	cfg, diags := Parse("router.hcl", fill(MaxSize+1))
	wantError(t, cfg, diags, "more than 4 MiB")
}

// Each of these once made a parser recurse or loop in proportion to the file, or its square.
func TestHostileInput(t *testing.T) {
	for _, piece := range []string{
		"[", "{", "(", "!", "-", "a?", "a?b:", "\"${", "a(", "[for a in ", "{a=", "<<A\n${", "\"%{if a}", "%{if a}", "a::", "a==",
		"$", "\"$", "\"\n", "a {\n", "a{}\n", "a=1\n", "a[*]", "1,", "\r", "\u0301", "[}", "{]",
	} {
		for _, before := range []string{"", "x = ", "x = \"", minimal + "domu \"x\" {\nipv4 = ["} {
			src := []byte(before + strings.Repeat(piece, 20_000/len(piece)))
			cfg, diags := Parse("router.hcl", src)
			if cfg != nil || len(diags) == 0 {
				t.Errorf("%q after %q is accepted", piece, before)
			}
			if len(diags) > maxDiagnostics+1 {
				t.Errorf("%q after %q: %d diagnostics", piece, before, len(diags))
			}
			if out := written(t, diags); len(out) > 1<<20 {
				t.Errorf("%q after %q: %d bytes of text", piece, before, len(out))
			}
		}
	}
}

func TestTooManyMistakes(t *testing.T) {
	_, diags := Parse("router.hcl", []byte(minimal+strings.Repeat("a {}\n", maxDiagnostics+7)))
	if len(diags) != maxDiagnostics+1 || !strings.HasPrefix(diags[maxDiagnostics].Detail, "7 more") {
		t.Errorf("%d diagnostics, the last: %v", len(diags), diags[len(diags)-1])
	}
}
