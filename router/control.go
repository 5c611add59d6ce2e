package router

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"udrouter/config"
)

// ReloadAnswer is what POST /v1/reload answers: 200, or 422 with what is wrong.
type ReloadAnswer struct {
	Reloads     uint64       `json:"reloads"`
	Error       string       `json:"error"` // "": it went well
	Text        string       `json:"text"`  // all of what is wrong with the file, for a person to read
	Diagnostics []Diagnostic `json:"diagnostics"`
}

// reloadWait is how long an answer to POST /v1/reload may take.
const reloadWait = 2 * time.Minute

// uidKey is where a request's context has the user who has connected.
type uidKey struct{}

// serveControl answers on the control socket until ctx ends: GET /v1/status is Status as JSON, GET /v1/flows is Flows with a query,
// GET /v1/neighbours is Neighbours, GET /v1/capture a stream of frames (see capture), POST /v1/reload is Reload, and POST /v1/takeover
// becomes the protocol of TakeOver; POST /v1/keep has Store do something, for a while. Who may connect may ask, by so many connections at a time; only
// root may change something.
func (r *Router) serveControl(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		r.answer(w, r.Status())
	})
	mux.HandleFunc("GET /v1/flows", func(w http.ResponseWriter, req *http.Request) {
		list, err := r.Flows(req.URL.Query())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		r.answer(w, list)
	})
	mux.HandleFunc("GET /v1/neighbours", func(w http.ResponseWriter, _ *http.Request) {
		r.answer(w, r.Neighbours())
	})
	mux.HandleFunc("GET /v1/capture", r.root(r.answerCapture))
	mux.HandleFunc("POST /v1/reload", r.root(r.answerReload))
	mux.HandleFunc("POST /v1/vifs", r.root(r.answerVif))
	mux.HandleFunc("GET /v1/vifs", r.root(r.answerVifs))
	var server *http.Server
	mux.HandleFunc("POST /v1/takeover", r.root(func(w http.ResponseWriter, _ *http.Request) {
		if r.serveTakeOver(ctx, w) {
			server.Close()
		}
	}))
	mux.HandleFunc("POST /v1/keep", r.root(func(w http.ResponseWriter, req *http.Request) {
		if err := r.keep(req.URL.Query()); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
		}
	}))
	server = &http.Server{Handler: mux, ErrorLog: r.complaints(), ConnContext: func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, uidKey{}, peerUID(c))
	},
		ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: 30 * time.Second, MaxHeaderBytes: 1 << 16}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	err := server.Serve(newFairListener(r.Control))
	switch {
	case r.handedOver.Load():
		return ErrHandedOver
	case !errors.Is(err, http.ErrServerClosed):
		return err
	}
	return nil
}

// complaints are what package net/http has to say of who connects, which anybody can make it say.
func (r *Router) complaints() *log.Logger { return slog.NewLogLogger(r.log.Handler(), slog.LevelDebug) }

func (r *Router) answerReload(w http.ResponseWriter, _ *http.Request) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(reloadWait)) // net/http's own connections have one
	a := ReloadAnswer{Diagnostics: []Diagnostic{}}
	err := r.Reload()
	r.leaveToNext()
	var bad *ReloadError
	if errors.As(err, &bad) {
		a.Text, a.Diagnostics = bad.Text, bad.Diagnostics
	}
	w.Header().Set("Content-Type", "application/json")
	if a.Reloads = r.reloads.Load(); err != nil {
		a.Error = err.Error()
		w.WriteHeader(http.StatusUnprocessableEntity)
	}
	if err := json.NewEncoder(w).Encode(a); err != nil {
		r.log.Debug("answering on the control socket", "error", err)
	}
}

// leaveToNext ends a request without an answer where another process has taken over: who has asked asks that one.
func (r *Router) leaveToNext() {
	if r.handedOver.Load() {
		panic(http.ErrAbortHandler)
	}
}

// root lets only root in.
func (r *Router) root(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		if uid, ok := req.Context().Value(uidKey{}).(int); !ok || uid != 0 {
			http.Error(w, "only root may do this", http.StatusForbidden)
			return
		}
		next(w, req)
	}
}

// ListenControl opens the control socket.
func ListenControl(c config.Control) (net.Listener, error) {
	return listenUnix(c.Socket, c.Group, "control socket", "control.socket")
}

// listenUnix opens a socket, 0660, of a group. The directory is made where it is missing, 0750, and is the group's as the socket is.
// A socket that a killed run has left behind is replaced; one that is in use is an error. what it is and its key are for messages.
func listenUnix(path, group, what, key string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("making the %s's directory: %w", what, err)
	}
	// One that anybody may pass is somebody else's, such as /run.
	if fi, err := os.Stat(dir); err == nil && fi.Mode().Perm()&0o001 == 0 {
		if err := chgrp(dir, group); err != nil {
			return nil, err
		}
	}
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, fmt.Errorf("the %s %s is in use: another udrouter runs; stop it or set %s", what, path, key)
	}
	if fi, err := os.Lstat(path); err == nil {
		if fi.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("%s exists and is no socket: remove it or set %s", path, key)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("removing a stale %s: %w", what, err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		l.Close()
		return nil, fmt.Errorf("setting the mode of %s: %w", path, err)
	}
	if err := chgrp(path, group); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}
