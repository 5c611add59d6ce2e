package main

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"udrouter/config"
	"udrouter/router"
)

//go:embed web
var webFiles embed.FS

func webCommand() *cobra.Command {
	var socket, listen, file string
	c := &cobra.Command{
		Use: "web", Short: "Show the running router on a page in the browser, on this machine alone", Args: cobra.NoArgs,
		Long: "Show the running router on a page in the browser: the network, rates, drops, and what becomes of a packet.\n\n" +
			"It listens on a loopback address alone, and shows the page to whoever has the address that it prints, which has a secret in it. From elsewhere:\n" +
			"`ssh -L 9470:127.0.0.1:9470 SERVER`. It is a process of its own that asks over the control socket, needs no more rights than `status`, and\n" +
			"changes nothing.",
		RunE: func(c *cobra.Command, _ []string) error {
			addr, err := loopback(listen)
			if err != nil {
				return err
			}
			l, err := new(net.ListenConfig).Listen(c.Context(), "tcp", addr.String())
			if err != nil {
				return fmt.Errorf("listening on %s: %w (--listen names another address)", addr, err)
			}
			p := newPage(socket, file)
			fmt.Fprintf(c.OutOrStdout(), "%s\n", p.address(l))
			return p.serve(c.Context(), l)
		},
	}
	c.Flags().StringVar(&socket, "socket", defaultSocket, "the router's control socket")
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:9470", "a loopback address with a port; 0: any that is free")
	c.Flags().StringVarP(&file, "config", "c", "/etc/udrouter/router.hcl", "the configuration by which packets are explained")
	return c
}

// loopback reads an address to listen on, which nobody reaches from elsewhere.
func loopback(s string) (netip.AddrPort, error) {
	a, err := netip.ParseAddrPort(s)
	if err != nil || !a.Addr().IsLoopback() {
		return a, fmt.Errorf("--listen takes a loopback address with a port, such as 127.0.0.1:9470 or [::1]:9470, not %q: to look from elsewhere, forward the port by ssh -L", s)
	}
	return a, nil
}

// page serves the page, its files, and what it asks for. What it knows is the control socket's, so that only who has the token gets it: any user of this machine, and any page in
// any browser on it, reaches a loopback port.
type page struct {
	socket, file, token string
}

func newPage(socket, file string) *page { return &page{socket, file, rand.Text()} }

// Limits of a server for one person.
const (
	pageHeaders = 10 * time.Second
	pageAnswer  = flowsWait + 10*time.Second
)

// serve serves until ctx ends.
func (p *page) serve(ctx context.Context, l net.Listener) error {
	s := &http.Server{Handler: p.handler(), ReadTimeout: pageHeaders, WriteTimeout: pageAnswer, IdleTimeout: time.Minute, MaxHeaderBytes: 1 << 14}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (p *page) handler() http.Handler {
	files, err := fs.Sub(webFiles, "web")
	if err != nil { // the files are in the program
		panic(err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(files))
	mux.HandleFunc("GET /v1/status", p.ask("/v1/status"))
	mux.HandleFunc("GET /v1/flows", p.ask("/v1/flows"))
	mux.HandleFunc("GET /v1/explain", p.explain)
	return p.guard(mux)
}

// address is where the page is.
func (p *page) address(l net.Listener) string { return fmt.Sprintf("http://%s/%s/", l.Addr(), p.token) }

// guard lets in who has the token, which all paths begin with. A cookie would not do: browsers send a host's cookies to all its ports (RFC 6265 8.5), where any user of this
// machine may listen. The host must be this one by its address, so that no name that somebody else controls stands for it (DNS rebinding).
func (p *page) guard(next http.Handler) http.Handler {
	next = http.StripPrefix("/"+p.token, next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		if !router.OwnHost(r.Host) {
			http.Error(w, "ask by the address that `udrouter web` has printed", http.StatusMisdirectedRequest)
			return
		}
		if token, _, below := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/"); !below || !p.is(token) {
			http.Error(w, "ask by the address that `udrouter web` has printed, all of it", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (p *page) is(token string) bool {
	return subtle.ConstantTimeCompare([]byte(token), []byte(p.token)) == 1
}

// ask hands a question to the router.
func (p *page) ask(path string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		code, body, err := tell(r.Context(), p.socket, http.MethodGet, path+"?"+r.URL.RawQuery, flowsWait)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		if code == http.StatusOK {
			w.Header().Set("Content-Type", "application/json")
		}
		w.WriteHeader(code)
		_, _ = w.Write(body) // who has asked may have gone
	}
}

// explain answers as `udrouter explain` does, by the file.
func (p *page) explain(w http.ResponseWriter, r *http.Request) {
	answers, err := p.answers(r.URL.Query())
	if err != nil {
		http.Error(w, strings.ReplaceAll(err.Error(), "--", ""), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answers)
}

// explained is an answer, and how `udrouter explain` writes it.
type explained struct {
	router.Answer
	Lines string `json:"lines"`
}

func (p *page) answers(v url.Values) (list []explained, err error) {
	var port uint64
	if s := v.Get("port"); s != "" {
		if port, err = strconv.ParseUint(s, 10, 16); err != nil {
			return nil, fmt.Errorf("port takes a number from 1 to 65535, not %q", s)
		}
	}
	q, err := question(v.Get("from"), v.Get("src"), v.Get("dst"), v.Get("proto"), uint16(port))
	if err != nil {
		return nil, err
	}
	cfg, diags := config.Load(p.file)
	if diags.HasErrors() {
		return nil, fmt.Errorf("%s has mistakes: udrouter check -c %s names them", p.file, p.file)
	}
	e, err := router.NewExplainer(cfg)
	if err != nil {
		return nil, err
	}
	answers, err := e.Explain(q)
	for _, a := range answers {
		list = append(list, explained{a, a.String()})
	}
	return list, err
}
