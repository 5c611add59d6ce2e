package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"udrouter/config"
	"udrouter/router"
)

// askedRouter is a control socket that answers with what top's tests have, looked at once more each time.
func askedRouter(t *testing.T, change func(*router.Status)) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "control.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	looks := uint64(0)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		looks++
		s := busyStatus(looks)
		for i := range s.Domus {
			if s.Domus[i].Reasons == nil {
				s.Domus[i].Reasons = map[string]uint64{}
			}
		}
		s.Warnings = []string{}
		if change != nil {
			change(&s)
		}
		_ = json.NewEncoder(w).Encode(s)
	})
	mux.HandleFunc("GET /v1/flows", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("domu") == "" {
			http.Error(w, "there is no key", http.StatusBadRequest)
			return
		}
		_, _ = io.WriteString(w, `{"matched":0,"flows":[]}`)
	})
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
	return socket
}

func referenceFile(t *testing.T) string {
	name := filepath.Join(t.TempDir(), "router.hcl")
	if err := os.WriteFile(name, config.Reference, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// Who gets an answer: who has the token and asks this machine by its own address, to read.
func TestPageIsGuarded(t *testing.T) {
	p := newPage(askedRouter(t, nil), referenceFile(t))
	h, own := p.handler(), "/"+p.token
	for _, c := range []struct {
		name, method, host, target string
		code                       int
	}{
		{"the address that is printed", "GET", "127.0.0.1:9470", own + "/", 200},
		{"by the name localhost", "GET", "localhost:9470", own + "/page.js", 200},
		{"by ::1", "GET", "[::1]:9470", own + "/style.css", 200},
		{"status", "GET", "127.0.0.1:9470", own + "/v1/status", 200},
		{"flows", "GET", "127.0.0.1:9470", own + "/v1/flows?domu=one", 200},
		{"what the router refuses", "GET", "127.0.0.1:9470", own + "/v1/flows", 400},
		{"explain", "GET", "127.0.0.1:9470", own + "/v1/explain?from=domu:two&dst=198.51.100.7&proto=tcp&port=25", 200},
		{"explain what is no question", "GET", "127.0.0.1:9470", own + "/v1/explain?from=x&dst=y&proto=tcp&port=70000", 400},
		{"no token", "GET", "127.0.0.1:9470", "/", 403},
		{"no token for a file", "GET", "127.0.0.1:9470", "/page.js", 403},
		{"no token for the status", "GET", "127.0.0.1:9470", "/v1/status", 403},
		{"a wrong token", "GET", "127.0.0.1:9470", "/x/", 403},
		{"an empty token", "GET", "127.0.0.1:9470", "//", 403},
		{"a part of the token", "GET", "127.0.0.1:9470", own[:len(own)-1] + "/v1/status", 403},
		{"more than the token", "GET", "127.0.0.1:9470", own + "x/v1/status", 403},
		{"the token as a query", "GET", "127.0.0.1:9470", "/v1/status?token=" + p.token, 403},
		{"a name that leads here", "GET", "evil.example:9470", own + "/v1/status", 421},
		{"another address", "GET", "192.0.2.1:9470", own + "/", 421},
		{"no host", "GET", "", own + "/", 421},
		{"something is to change", "POST", "127.0.0.1:9470", own + "/v1/reload", 405},
		{"what there is not", "GET", "127.0.0.1:9470", own + "/v1/vifs", 404},
	} {
		r := httptest.NewRequest(c.method, "http://127.0.0.1"+c.target, nil)
		r.Host = c.host
		r.AddCookie(&http.Cookie{Name: "udrouter", Value: p.token})
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.code {
			t.Errorf("%s: %d, want %d: %s", c.name, w.Code, c.code, w.Body)
		}
		if !strings.Contains(w.Header().Get("Content-Security-Policy"), "default-src 'none'") || w.Code < 400 && w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %v", c.name, w.Header())
		}
		if set := w.Header().Get("Set-Cookie"); set != "" { // which the browser would send to whoever listens on another port
			t.Errorf("%s: cookie %q", c.name, set)
		}
	}
	if newPage("", "").token == p.token || len(p.token) < 26 {
		t.Errorf("the token %q can be guessed", p.token)
	}
	gone := newPage(filepath.Join(t.TempDir(), "none"), "")
	w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "http://127.0.0.1/"+gone.token+"/v1/status", nil)
	if gone.handler().ServeHTTP(w, r); w.Code != 502 || !strings.Contains(w.Body.String(), "no router answers") {
		t.Errorf("without a router: %d %s", w.Code, w.Body)
	}
}

// It listens where nobody comes from elsewhere.
func TestPageListensOnLoopback(t *testing.T) {
	for s, ok := range map[string]bool{"127.0.0.1:9470": true, "127.8.8.8:1": true, "[::1]:0": true, "0.0.0.0:9470": false, "[::]:9470": false, "192.0.2.1:80": false, ":9470": false, "localhost:9470": false, "": false} {
		if _, err := loopback(s); (err == nil) != ok {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// browser is a headless one; where the machine has none, the test of the page needs `apt install chromium`.
func browser(t *testing.T) string {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skip("this machine has no chromium: apt install chromium")
	return ""
}

// browse opens the page in a browser, waits in its own time, and returns what is on it then.
func browse(t *testing.T, p *page, fragment string, flags ...string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- p.serve(ctx, l) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	args := append([]string{"--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--user-data-dir=" + t.TempDir(), "--window-size=1000,760", "--hide-scrollbars", "--virtual-time-budget=5000"}, flags...)
	cmd := exec.CommandContext(ctx, browser(t), append(args, p.address(l)+fragment)...)
	cmd.Env = append(os.Environ(), "LANG=C.UTF-8")
	cmd.WaitDelay = time.Minute
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// What a browser makes of the page: the network with its rates, drops, an explanation, and names of guests as text only.
func TestPageInABrowser(t *testing.T) {
	browser(t)
	hostile := `<img src=x onerror=document.title='owned'>`
	p := newPage(askedRouter(t, func(s *router.Status) { s.Domus[0].Name, s.Warnings = hostile, []string{"<b>beware</b>"} }), referenceFile(t))
	dom := browse(t, p, "#from=domu:two&dst=198.51.100.7&proto=tcp&port=25", "--dump-dom")
	for _, want := range []string{
		">eth0<", ">udr0<", ">udrhost (dom0)<", ">5 guests<", ">web-1<", "20 drops/s", `class="guest dropping"`, "<td>mac-binding</td>", "web-1 3",
		`<pre id="answer" class="reject">tcp port 25 from 192.0.2.11 (domu:two) to 198.51.100.7 (uplink)`, "no-smtp", "&lt;b&gt;beware", "&lt;img src=x", "1234 of 1048576 flows",
	} {
		if !strings.Contains(dom, want) {
			t.Errorf("no %q on the page", want)
		}
	}
	// Rates are over the time that has passed, in the browser's own time about a second.
	for _, want := range []string{`tx 4\d\dMbit/s`, `(9\d\dM|1\.\dG)bit/s out`} {
		if !regexp.MustCompile(want).MatchString(dom) {
			t.Errorf("no %s on the page", want)
		}
	}
	drawn(t, dom)
	if strings.Contains(dom, "<img") || strings.Contains(dom, "owned<") || strings.Contains(dom, "<b>") {
		t.Error("a guest's name is markup")
	}
	if t.Failed() {
		t.Log(dom)
	}
	if *updateTop {
		name, err := filepath.Abs("page.png")
		if err != nil {
			t.Fatal(err)
		}
		t.Chdir(filepath.Dir(referenceFile(t)))
		p := newPage(askedRouter(t, nil), "router.hcl")
		browse(t, p, "#from=domu:two&dst=198.51.100.7&proto=tcp&port=25", "--screenshot="+name)
	}
}

// drawn checks where the page has what: the uplink left of the router, the guests' TAP and the guests right of it, dom0 below it.
func drawn(t *testing.T, dom string) {
	t.Helper()
	at := map[string][2]float64{}
	for _, m := range regexp.MustCompile(`<rect x="([\d.]+)" y="([\d.]+)"[^>]*></rect><text [^>]*>([^<]*)</text>`).FindAllStringSubmatch(dom, -1) {
		x, _ := strconv.ParseFloat(m[1], 64)
		y, _ := strconv.ParseFloat(m[2], 64)
		at[m[3]] = [2]float64{x, y}
	}
	uplink, r, tap, guest, host := at["eth0"], at["udrouter"], at["udr0"], at["web-1"], at["udrhost (dom0)"]
	if len(at) != 4+5 || uplink[0] >= r[0] || r[0] >= tap[0] || tap[0] >= guest[0] || host[0] != r[0] || host[1] <= r[1] {
		t.Errorf("drawn at (x, y): %v", at)
	}
}
