package main

import (
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Who is not answered, since another process takes over at that moment, asks again, and not for ever.
func TestAsksAgain(t *testing.T) {
	for _, silent := range []int64{0, 1, 3, 1 << 20} { // so many connections end without an answer
		socket := filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		var asked atomic.Int64
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if asked.Add(1) <= silent {
				panic(http.ErrAbortHandler)
			}
			fmt.Fprint(w, "yes")
		})}
		served := make(chan error, 1)
		go func() { served <- server.Serve(l) }()
		code, body, err := tell(t.Context(), socket, http.MethodPost, "/", time.Minute)
		if answered := err == nil && code == http.StatusOK && string(body) == "yes"; answered != (silent < askAgain) {
			t.Errorf("%d without an answer: %d, %q, %v", silent, code, body, err)
		}
		if err != nil && !strings.Contains(err.Error(), "no router answers") {
			t.Error(err)
		}
		server.Close()
		<-served
		if want := min(silent+1, askAgain); asked.Load() != want {
			t.Errorf("%d without an answer: asked %d times, want %d", silent, asked.Load(), want)
		}
	}
}
