package router

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"udrouter/config"
)

// serveControl answers on the control socket until ctx ends: GET /v1/status is Status as JSON.
func (r *Router) serveControl(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(r.Status()); err != nil {
			r.log.Debug("answering on the control socket", "error", err)
		}
	})
	server := &http.Server{Handler: mux, ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: 30 * time.Second, MaxHeaderBytes: 1 << 16}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(r.Control); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// ListenControl opens the control socket, 0660. The directory is made where it is missing, 0750, and is the group's as the socket is.
// A socket that a killed run has left behind is replaced; one that is in use is an error.
func ListenControl(c config.Control) (net.Listener, error) {
	dir := filepath.Dir(c.Socket)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("making the control socket's directory: %w", err)
	}
	// One that anybody may pass is somebody else's, such as /run.
	if fi, err := os.Stat(dir); err == nil && fi.Mode().Perm()&0o001 == 0 {
		if err := chgrp(dir, c.Group); err != nil {
			return nil, err
		}
	}
	if conn, err := net.Dial("unix", c.Socket); err == nil {
		conn.Close()
		return nil, fmt.Errorf("the control socket %s is in use: another udrouter runs; stop it or set control.socket", c.Socket)
	}
	if fi, err := os.Lstat(c.Socket); err == nil {
		if fi.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("%s exists and is no socket: remove it or set control.socket", c.Socket)
		}
		if err := os.Remove(c.Socket); err != nil {
			return nil, fmt.Errorf("removing a stale control socket: %w", err)
		}
	}
	l, err := net.Listen("unix", c.Socket)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", c.Socket, err)
	}
	if err := os.Chmod(c.Socket, 0o660); err != nil {
		l.Close()
		return nil, fmt.Errorf("setting the mode of %s: %w", c.Socket, err)
	}
	if err := chgrp(c.Socket, c.Group); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}
