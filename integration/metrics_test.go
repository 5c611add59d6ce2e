package integration

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"udrouter/config"
	"udrouter/integration/lab"
	"udrouter/integration/wire"
	"udrouter/router"
)

// scraped is what a router offers at an address in dom0, by name and labels as they are written.
func scraped(t *testing.T, l *lab.Lab, network, address string) (map[string]float64, error) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		if network == "unix" {
			return new(net.Dialer).DialContext(ctx, network, address)
		}
		return l.Dom0.Dial(ctx, network, address)
	}}}
	req, err := http.NewRequestWithContext(testContext(t), http.MethodGet, "http://localhost/metrics", nil)
	must(t, err)
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		return nil, fmt.Errorf("%s: %s", resp.Status, text)
	}
	series := map[string]float64{}
	for s := bufio.NewScanner(resp.Body); s.Scan(); {
		if strings.HasPrefix(s.Text(), "#") {
			continue
		}
		at := strings.LastIndexByte(s.Text(), ' ')
		v, err := strconv.ParseFloat(s.Text()[at+1:], 64)
		must(t, err)
		series[s.Text()[:at]] = v
	}
	return series, nil
}

// of picks from a status what its series have to be.
func of(s router.Status) map[string]float64 {
	want := map[string]float64{}
	say := func(n uint64, format string, args ...any) {
		want["udrouter_"+fmt.Sprintf(format, args...)] = float64(n)
	}
	for _, l := range s.Links {
		say(l.RxPackets, "link_receive_packets_total{link=%q}", l.Name)
		say(l.TxBytes, "link_transmit_bytes_total{link=%q}", l.Name)
	}
	for _, d := range s.Domus {
		say(d.RxPackets, "domu_receive_packets_total{domu=%q}", d.Name)
		say(d.TxBytes, "domu_transmit_bytes_total{domu=%q}", d.Name)
		say(uint64(d.Flows), "domu_flows{domu=%q}", d.Name)
		for reason, n := range d.Reasons {
			say(n, "domu_dropped_packets_total{domu=%q,reason=%q}", d.Name, reason)
		}
	}
	for reason, n := range s.Drops {
		say(n, "dropped_packets_total{reason=%q}", reason)
	}
	for _, h := range s.HostUplink {
		say(h.Packets, "host_uplink_packets_total{action=%q,rule=%q}", h.Action, h.Rule)
	}
	say(s.Flows.Hits, "tier_packets_total{tier=%q}", "router")
	say(s.Flows.OffloadHits, "tier_packets_total{tier=%q}", "kernel")
	say(s.Reloads, "reloads_total")
	return want
}

// sameAsStatus waits until status and metrics say the same, as they do when no packet comes between them.
func sameAsStatus(t *testing.T, l *lab.Lab, p *lab.Proc, network, address string) (series map[string]float64) {
	t.Helper()
	var wrong []string
	err := lab.Await(testContext(t), "metrics that are the status", func() (bool, error) {
		wrong = nil
		want := of(status(t, p))
		var err error
		if series, err = scraped(t, l, network, address); err != nil {
			return false, err
		}
		for name, n := range want {
			if got, ok := series[name]; !ok || got != n {
				wrong = append(wrong, fmt.Sprintf("%s is %v, and %v in the status", name, got, n))
			}
		}
		return len(wrong) == 0, nil
	})
	if err != nil {
		t.Fatal(err, wrong)
	}
	return series
}

// fell names counters that are lower than they were.
func fell(was, now map[string]float64) (list []string) {
	for name, n := range was {
		if strings.Contains(name, "_total") && now[name] < n {
			list = append(list, fmt.Sprintf("%s was %v and is %v", name, n, now[name]))
		}
	}
	return list
}

// What a confined router offers to Prometheus is what its status says, by each way to listen. A reload keeps what was counted, and refuses to listen elsewhere;
// a takeover keeps what was counted and may listen elsewhere, and no scrape fails meanwhile.
func TestMetrics(t *testing.T) {
	const address = "127.0.0.1:9469"
	with := func(listen string) string {
		return string(config.Reference) + fmt.Sprintf("\nmetrics {\n  listen = %q\n}\n", listen)
	}
	l := buildLab(t, with(address), lab.Options{})
	file, err := l.ConfigPath()
	must(t, err)
	p := startRouter(t, l)
	x := l.Internet
	ping(t, l.Guests[0].Node, x.Addr4())
	ping(t, l.Guests[1].Node, x.Addr6())
	must(t, openTCP(t, l.Guests[0].Node, x, x.Addr4(), 443).Check(testContext(t)))
	if _, err := l.Guests[1].Open(testContext(t), netip.AddrPortFrom(x.Addr4(), 25)); err == nil {
		t.Fatal("guests send mail")
	}
	was := sameAsStatus(t, l, p, "tcp", address)
	if n := was[`udrouter_domu_dropped_packets_total{domu="two",reason="egress-policy"}`]; n == 0 {
		t.Errorf("nothing was dropped: %v", was)
	}

	r := reloading{t, l, p}
	r.reload(strings.Replace(with(address), `"5201-5210"`, `"5201-5211"`, 1), 0)
	now := sameAsStatus(t, l, p, "tcp", address)
	if list := fell(was, now); len(list) > 0 || now["udrouter_reloads_total"] != 1 || now["udrouter_last_reload_successful"] != 1 {
		t.Errorf("after a reload %v; %v", list, now)
	}
	socket := filepath.Join(l.Dir(), "metrics.sock")
	_, errs := r.reload(with("unix:"+socket), 1)
	contains(t, errs, "metrics.listen has changed", "It was "+address, "needs a restart")
	if now := sameAsStatus(t, l, p, "tcp", address); now["udrouter_last_reload_successful"] != 0 {
		t.Error("a reload that was refused went well")
	}
	was = sameAsStatus(t, l, p, "tcp", address)

	stop, scraping := make(chan struct{}), make(chan error, 1)
	go func() {
		for last := was; ; {
			now, err := scraped(t, l, "tcp", address)
			if err == nil {
				last = maps.Clone(now)
			}
			select {
			case <-stop:
				scraping <- err
				return
			default:
			}
			if list := fell(last, now); err != nil || len(list) > 0 {
				scraping <- fmt.Errorf("%v %v", list, err)
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	must(t, os.WriteFile(file, []byte(with(address)), 0o600))
	next := takeOver(t, l, p)
	<-p.Exited()
	now = sameAsStatus(t, l, next, "tcp", address)
	close(stop)
	if err := <-scraping; err != nil {
		t.Errorf("scraping while the next one takes over: %v", err)
	}
	if list := fell(was, now); len(list) > 0 {
		t.Error(list)
	}

	other := writeFile(t, l.Dir(), "socket.hcl", []byte(with("unix:"+socket)), 0o600)
	last := takeOver(t, l, next, "-c", other)
	<-next.Exited()
	now = sameAsStatus(t, l, last, "unix", socket)
	if list := fell(was, now); len(list) > 0 {
		t.Error(list)
	}
	if _, err := scraped(t, l, "tcp", address); err == nil {
		t.Errorf("somebody still listens on %s", address)
	}
	must(t, last.Stop())
	if _, err := os.Stat(socket); err == nil {
		t.Errorf("%s is left", socket)
	}
}

// A router that may not listen where it is to says so and ends, with dom0 as it was; and one whose machine's metrics a lab would take offers none.
func TestMetricsTaken(t *testing.T) {
	l := buildLab(t, string(config.Reference)+"\nmetrics {\n  listen = \"[::1]:9469\"\n}\n", lab.Options{})
	before, err := l.Dom0State()
	must(t, err)
	taken, err := l.Dom0.Listen("tcp", "[::1]:9469")
	must(t, err)
	_, err = l.StartRouter(testContext(t), wire.Exe)
	if err == nil || !strings.Contains(err.Error(), "set metrics.listen to what is free") {
		t.Errorf("the router started: %v", err)
	}
	must(t, taken.Close())
	after, err := l.Dom0State()
	must(t, err)
	if strings.Join(before, "\n") != strings.Join(after, "\n") {
		t.Errorf("dom0 was\n%s\nand is\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
	elsewhere := filepath.Join(t.TempDir(), "metrics.sock")
	l2 := buildLab(t, string(config.Reference)+fmt.Sprintf("\nmetrics {\n  listen = %q\n}\n", "unix:"+elsewhere), lab.Options{})
	startRouter(t, l2)
	if _, err := os.Stat(elsewhere); err == nil {
		t.Errorf("%s is there", elsewhere)
	}
}
