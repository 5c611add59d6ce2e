package main

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A capture replaces a file only when the router sends frames: where it refuses, or there is none, what an earlier capture has written stays.
func TestCaptureKeepsFile(t *testing.T) {
	const earlier = "what was captured before"
	for _, c := range []struct {
		name           string
		status         int // 0: no router answers
		says, err, has string
	}{
		{"no router", 0, "", "no router answers", earlier},
		{"a filter that is not understood", http.StatusBadRequest, `there is no domu "three"`, `there is no domu "three"`, earlier},
		{"too many captures", http.StatusServiceUnavailable, "4 captures go on already", "4 captures", earlier},
		{"not root", http.StatusForbidden, "", "only root", earlier},
		{"frames", http.StatusOK, "frames", "", "frames"},
		{"no frames", http.StatusOK, "", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			socket, file := filepath.Join(t.TempDir(), "control.sock"), filepath.Join(t.TempDir(), "file.pcapng")
			if err := os.WriteFile(file, []byte(earlier), 0o600); err != nil {
				t.Fatal(err)
			}
			if c.status != 0 {
				l, err := net.Listen("unix", socket)
				if err != nil {
					t.Fatal(err)
				}
				s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					w.WriteHeader(c.status)
					_, _ = w.Write([]byte(c.says))
				})}
				done := make(chan error)
				go func() { done <- s.Serve(l) }()
				t.Cleanup(func() { s.Close(); <-done })
			}
			cmd := command()
			cmd.SetArgs([]string{"capture", "--socket", socket, "-w", file})
			err := cmd.ExecuteContext(t.Context())
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("the command says %v, want %q", err, c.err)
			}
			if got, err := os.ReadFile(file); err != nil || string(got) != c.has {
				t.Errorf("the file has %q, %v, want %q", got, err, c.has)
			}
		})
	}
}
