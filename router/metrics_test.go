package router

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/policy"
	"udrouter/stack"
)

var update = flag.Bool("update", false, "rewrite METRICS.md")

// scrape is what a router offers, by name and labels. It complains of what client_golang or promlint do.
func scrape(t *testing.T, c prometheus.Collector) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(c); err != nil {
		t.Fatal(err)
	}
	problems, err := testutil.GatherAndLint(registry)
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetName() + "=" + l.GetValue()
			}
			got[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue() // it has one of the two
		}
	}
	return got
}

// seriesOf is what a status has to make, written down once more.
func seriesOf(r *Router, s Status) map[string]float64 {
	want := map[string]float64{
		"build_info version=" + s.Version: 1, "start_time_seconds": float64(r.started.UnixNano()) / 1e9, "warnings": float64(len(s.Warnings)),
		"foreign_mac_frames_total": float64(s.ForeignMAC), "flows tier=router": float64(s.Flows.Active - s.Flows.Offloaded), "flows tier=kernel": float64(s.Flows.Offloaded),
		"flows_limit": float64(s.Flows.Max), "tier_packets_total tier=router": float64(s.Flows.Hits), "tier_packets_total tier=kernel": float64(s.Flows.OffloadHits),
		"reloads_total": float64(s.Reloads), "takeover_gap_seconds": s.Gap,
		"captures": float64(s.Capture.Active), "captured_frames_total": float64(s.Capture.Frames), "capture_missed_frames_total": float64(s.Capture.Missed),
	}
	reasons := func(name string, m map[string]uint64) {
		for word, n := range m {
			want[name+" reason="+word] = float64(n)
		}
	}
	reasons("dropped_packets_total", s.Drops)
	reasons("would_drop_packets_total", s.WouldDrop)
	for _, l := range s.Links {
		for name, n := range map[string]uint64{"receive_packets": l.RxPackets, "transmit_packets": l.TxPackets, "receive_bytes": l.RxBytes, "transmit_bytes": l.TxBytes,
			"errors": l.Errors, "reopens": l.Reopened} {
			want["link_"+name+"_total link="+l.Name] = float64(n)
		}
		reasons("link_dropped_packets_total link="+l.Name, l.Reasons)
	}
	for _, d := range s.Domus {
		for name, n := range map[string]uint64{"receive_packets": d.RxPackets, "transmit_packets": d.TxPackets, "receive_bytes": d.RxBytes, "transmit_bytes": d.TxBytes} {
			want["domu_"+name+"_total domu="+d.Name] = float64(n)
		}
		want["domu_flows domu="+d.Name] = float64(d.Flows)
		reasons("domu_dropped_packets_total domu="+d.Name, d.Reasons)
		reasons("domu_would_drop_packets_total domu="+d.Name, d.WouldDrop)
	}
	for _, h := range s.HostUplink {
		want["host_uplink_packets_total action="+h.Action+" rule="+h.Rule] = float64(h.Packets)
		want["host_uplink_bytes_total action="+h.Action+" rule="+h.Rule] = float64(h.Bytes)
	}
	if l := s.LastReload; l != nil {
		want["last_reload_timestamp_seconds"] = float64(l.At.UnixNano()) / 1e9
		want["last_reload_successful"] = map[bool]float64{true: 1}[l.Error == ""]
	}
	all := map[string]float64{}
	for name, v := range want {
		all["udrouter_"+name] = v
	}
	return all
}

// Scrapes at the same time take no older count for a counter that has begun anew.
func TestMetricsScrapedAtOnce(t *testing.T) {
	s := reference(t)
	var n atomic.Uint64
	s.HostUplink = func() ([]HostCount, error) {
		count := n.Add(1)
		runtime.Gosched()
		return []HostCount{{count, count}, {}, {}}, nil
	}
	c := &collector{router: s.Router}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				out := make(chan prometheus.Metric)
				go func() {
					c.Collect(out)
					close(out)
				}()
				for range out {
				}
			}
		})
	}
	all.Wait()
	const name = "udrouter_host_uplink_packets_total action=accept rule=ssh"
	if got, ok := scrape(t, c)[name]; !ok || got != float64(n.Load()) {
		t.Errorf("%v of %d packets", got, n.Load())
	}
}

// What is scraped is what the status has: of links, guests, reasons and tiers, of shadow mode, and of reloads.
func TestMetrics(t *testing.T) {
	s := knowing(t, strings.Replace(edit(ingressOpen, "  egress {\n    rule \"no\" {\n      action = \"drop\"\n      proto = \"udp\"\n    }\n  }"), `policy "open" {`, "policy \"open\" {\n  mode = \"shadow\"", 1))
	s.HostUplink = func() ([]HostCount, error) { return []HostCount{{5, 6}}, nil }
	s.send(stack.Guests, cases.UDP(s.RouterMAC, cases.MAC1, cases.One4, cases.X4, 8), cases.UDP(s.RouterMAC, cases.MAC1, cases.Two4, cases.X4, 8))
	s.links[stack.UplinkSide].Counters().Drops[policy.QueueFull].Add(3)
	c := &collector{router: s.Router}
	for _, reload := range []func(){func() {}, func() { _ = s.reload(edit()) }, func() { s.Around = &around{err: errors.New("no")}; _ = s.Reload() }} {
		reload()
		got := scrape(t, c)
		for _, own := range []string{"udrouter_goroutines", "udrouter_heap_objects_bytes"} {
			if got[own] <= 0 {
				t.Errorf("%s is %v", own, got[own])
			}
			delete(got, own)
		}
		st := s.Status()
		if diff := cmp.Diff(seriesOf(s.Router, st), got); diff != "" {
			t.Error(diff)
		}
	}
	got := scrape(t, c)
	for _, some := range []string{"udrouter_domu_dropped_packets_total domu=one reason=ip-binding", "udrouter_domu_would_drop_packets_total domu=one reason=egress-policy",
		"udrouter_would_drop_packets_total reason=egress-policy", "udrouter_link_dropped_packets_total link=eth0 reason=queue-full", "udrouter_dropped_packets_total reason=queue-full",
		"udrouter_domu_transmit_packets_total domu=one"} {
		if got[some] == 0 {
			t.Errorf("no %s", some)
		}
	}
	if got["udrouter_last_reload_successful"] != 0 || got["udrouter_reloads_total"] != 1 {
		t.Errorf("%v reloads, the last one %v", got["udrouter_reloads_total"], got["udrouter_last_reload_successful"])
	}
}

// Counters of host.uplink, which the kernel begins anew with a reload, never fall; a rule that is gone is forgotten.
func TestHostMetricsRise(t *testing.T) {
	c := new(collector)
	rules := func(n ...uint64) (list []HostRuleStatus) {
		for i, n := range n {
			list = append(list, HostRuleStatus{Rule: strconv.Itoa(i), Action: "accept", Packets: n, Bytes: 10 * n})
		}
		return list
	}
	for i, step := range []struct{ counted, want []uint64 }{
		{[]uint64{5, 1}, []uint64{5, 1}}, {[]uint64{2, 1}, []uint64{7, 1}}, {nil, nil}, {[]uint64{3, 0}, []uint64{8, 1}}, {[]uint64{4}, []uint64{9}}, {[]uint64{4, 2}, []uint64{9, 2}},
	} {
		got := c.hostCounts(rules(step.counted...))
		if len(got) != len(step.want) {
			t.Errorf("step %d: %v", i, got)
		}
		for rule, n := range step.want {
			if h := got[[2]string{strconv.Itoa(rule), "accept"}]; h != (HostCount{n, 10 * n}) {
				t.Errorf("step %d: rule %d has %v, want %d packets", i, rule, h, n)
			}
		}
	}
}

// METRICS.md is what there is: names and labels are for others to rely on.
func TestMetricsDocument(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Metrics\n\nWhat `metrics { listen = ... }` offers. `go test ./router -run TestMetricsDocument -update` makes this table.\n\n| name | type | labels | what it is |\n|---|---|---|---|\n")
	for _, m := range metricFamilies {
		kind := "gauge"
		if m.counter {
			kind = "counter"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.name, kind, strings.Join(m.labels, ", "), m.help)
	}
	if *update {
		if err := os.WriteFile("METRICS.md", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile("METRICS.md")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b.String(), string(have)); diff != "" {
		t.Errorf("METRICS.md is not what there is; -update writes it\n%s", diff)
	}
}

// offering is a router that runs and offers metrics, and a client for them.
func offering(t *testing.T) (*sim, *http.Client, string) {
	t.Helper()
	s := knowing(t, edit())
	var err error
	if s.Metrics, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	s.start(t)
	client := &http.Client{Transport: new(http.Transport)}
	t.Cleanup(client.CloseIdleConnections)
	return s, client, "http://" + s.Metrics.Addr().String()
}

// Scrapers get the format that they ask for, and nothing else is answered.
func TestServeMetrics(t *testing.T) {
	_, client, url := offering(t)
	for _, c := range []struct {
		method, path, accept string
		code                 int
		kind, end            string
	}{
		{"GET evil.example", "/metrics", "", 421, "text/plain", "\n"},
		{"GET localhost:9469", "/metrics", "", 200, "text/plain; version=0.0.4", "\n"},
		{"GET [::1]:9469", "/metrics", "", 200, "text/plain; version=0.0.4", "\n"},
		{"GET", "/metrics", "", 200, "text/plain; version=0.0.4", "\n"},
		{"GET", "/metrics", "application/openmetrics-text; version=1.0.0", 200, "application/openmetrics-text; version=1.0.0", "# EOF\n"},
		{"POST", "/metrics", "", 405, "text/plain", "\n"},
		{"GET", "/", "", 404, "text/plain", "\n"},
		{"GET", "/v1/status", "", 404, "text/plain", "\n"},
	} {
		method, host, _ := strings.Cut(c.method, " ")
		req, err := http.NewRequestWithContext(t.Context(), method, url+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if host != "" { // by another name
			req.Host = host
		}
		req.Header.Set("Accept", c.accept)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != c.code || !strings.HasPrefix(resp.Header.Get("Content-Type"), c.kind) || !strings.HasSuffix(string(body), c.end) {
			t.Errorf("%s %s: %s %s, %v\n%s", c.method, c.path, resp.Status, resp.Header.Get("Content-Type"), err, body)
		}
		if c.code == 200 && !strings.Contains(string(body), "\nudrouter_domu_flows{domu=\"one\"} 0") {
			t.Errorf("%s: no flows of guest one in\n%s", c.kind, body)
		}
	}
}

// counted tells of the connections that a listener accepts, and how many were open at once.
type counted struct {
	net.Listener
	accepted   chan struct{}
	open, most atomic.Int64 // most is written by who accepts, alone
}

type countedConn struct {
	net.Conn
	l    *counted
	once sync.Once
}

func (l *counted) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.most.Store(max(l.most.Load(), l.open.Add(1)))
	l.accepted <- struct{}{}
	return &countedConn{Conn: c, l: l}, nil
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.l.open.Add(-1) })
	return c.Conn.Close()
}

// Connections that ask nothing take no more than their number, and the next has its turn when one of them ends.
func TestMetricsConnections(t *testing.T) {
	const all = 40
	s := knowing(t, edit())
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &counted{Listener: inner, accepted: make(chan struct{}, all)}
	s.Metrics = l
	s.start(t)
	var silent []net.Conn
	for range all {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		silent = append(silent, c)
	}
	for i := range all {
		if i >= scrapeConns {
			silent[i-scrapeConns].Close()
		}
		<-l.accepted
	}
	if n := l.most.Load(); n != scrapeConns {
		t.Errorf("%d connections at once, want %d", n, scrapeConns)
	}
}

// A connection has one answer and ends: those who would ask again and again by theirs keep nobody out.
func TestMetricsKeptAlive(t *testing.T) {
	_, client, url := offering(t)
	ask := func(c net.Conn, from *bufio.Reader) error {
		if _, err := io.WriteString(c, "GET /none HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n"); err != nil {
			return err
		}
		resp, err := http.ReadResponse(from, nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // it hangs where it is wrong
	defer cancel()
	var all sync.WaitGroup
	defer all.Wait()
	for range 40 {
		c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			defer c.Close()
			defer context.AfterFunc(ctx, func() { c.Close() })()
			for from := bufio.NewReader(c); ask(c, from) == nil; {
			}
		})
	}
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", url+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK || !resp.Close {
		t.Errorf("%s, %v, the connection ends: %v\n%s", resp.Status, err, resp.Close, body)
	}
}

// A socket of metrics is the control socket's group's; an address that is taken is an error that says what to set.
func TestListenMetrics(t *testing.T) {
	group, err := user.LookupGroupId("1")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "metrics.sock")
	c := &config.Config{Control: config.Control{Group: group.Name}, Metrics: &config.Metrics{Listen: "unix:" + path}}
	l, err := ListenMetrics(c)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o660 || fi.Sys().(*syscall.Stat_t).Gid != 1 {
		t.Errorf("%+v, %v", fi, err)
	}
	if _, err := ListenMetrics(c); err == nil || !strings.Contains(err.Error(), "set metrics.listen") {
		t.Errorf("a second one: %v", err)
	}
	tcp, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	c.Metrics.Listen = tcp.Addr().String()
	if _, err := ListenMetrics(c); err == nil || !strings.Contains(err.Error(), "metrics.listen") {
		t.Errorf("an address in use: %v", err)
	}
	c.Metrics = nil
	if l, err := ListenMetrics(c); l != nil || err != nil {
		t.Errorf("without metrics: %v, %v", l, err)
	}
}

// The next process gets where metrics are scraped if its file says the same, and opens its own if not.
func TestMetricsHandedOver(t *testing.T) {
	for _, c := range []struct {
		next func(path string) string
		same bool
	}{
		{func(path string) string { return "unix:" + path }, true},
		{func(path string) string { return "unix:" + path + "2" }, false},
		{func(string) string { return "" }, false},
	} {
		path := filepath.Join(t.TempDir(), "metrics.sock")
		cfg := *parseConfig(t, edit())
		cfg.Metrics = &config.Metrics{Listen: "unix:" + path}
		s, _, _, ended := lendingWith(t.Context(), t, &cfg)
		next := *s.Config
		next.Metrics = nil
		if listen := c.next(path); listen != "" {
			next.Metrics = &config.Metrics{Listen: listen}
		}
		h, err := TakeOver(t.Context(), &next)
		if err != nil {
			t.Fatal(err)
		}
		if (h.Metrics >= 0) != c.same {
			t.Errorf("%s: descriptor %d", c.next(path), h.Metrics)
		}
		l, err := h.MetricsListener()
		if err != nil || (l != nil) != c.same {
			t.Fatal(l, err)
		}
		if _, err := h.Freeze(); err != nil {
			t.Fatal(err)
		}
		if err := h.Taken(); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err == nil || !strings.Contains(err.Error(), ErrHandedOver.Error()) {
			t.Error(err)
		}
		if _, err := os.Stat(path); (err == nil) != c.same {
			t.Errorf("%s: the socket: %v", c.next(path), err)
		}
		if l == nil {
			continue
		}
		dialled, err := net.Dial("unix", path)
		if err != nil {
			t.Error(err)
		} else {
			dialled.Close()
		}
		l.Close()
		if _, err := os.Stat(path); err == nil {
			t.Error("the socket stays after the next process")
		}
	}
}
