package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

// fakeRouter is a helper in the place of "udrouter run". Its last argument says how it is to behave.
func fakeRouter(args []string) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if len(args) < 6 || args[0] != "-c" || args[2] != "--state" || args[4] != "--socket" {
		return fmt.Errorf("called with %q", args)
	}
	if _, err := os.Stat(args[1]); err != nil {
		return err
	}
	how := args[len(args)-1]
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log.Info("link not ready yet")
	switch how {
	case "fails":
		return errors.New("router.hcl:3: no such uplink")
	case "hangs":
		<-ctx.Done()
		return nil
	case "litters":
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "litter"
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return err
		}
	}
	l, err := net.Listen("unix", args[5])
	if err != nil {
		return err
	}
	defer l.Close()
	foreign := 0
	if how == "foreign" {
		foreign = 3
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"version":"0","uptime_s":1.5,"links":[{"name":"eth0","rx_packets":7}],"domus":[{"name":"one","drops":2}],
			"flows":{"active":1,"max":9},"drops":{"ip-binding":4},"foreign_mac_uplink":%d,"reloads":0,"more":true}`, foreign)
	})
	go func() { _ = http.Serve(l, mux) }()
	log.Info("ready")
	<-ctx.Done()
	if how == "stumbles" {
		return errors.New("could not remove the TAP")
	}
	return nil
}

// withSource has the lab write the file, which these tests' configurations have not.
var withSource = Options{Source: []byte("# a router.hcl\n")}

func TestStartRouter(t *testing.T) {
	l := build(t, seed(), withSource)
	ctx := testContext(t)
	p, err := l.StartRouter(ctx, "/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(p.Log(), "level=INFO msg=ready") {
		t.Errorf("the log is %q", p.Log())
	}
	s, err := p.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if s.Version != "0" || s.Uptime != 1.5 || s.Links[0].RxPackets != 7 || s.Domus[0].Drops != 2 || s.Flows.Max != 9 ||
		s.Drops["ip-binding"] != 4 || !strings.Contains(string(s.Raw), `"more":true`) {
		t.Errorf("status is %+v", s)
	}
	if _, err := p.Get(ctx, "/v1/nothing"); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("a missing path: %v", err)
	}
	if m, err := p.RSS(); err != nil || m.RSS == 0 || m.Peak < m.RSS {
		t.Errorf("memory is %+v: %v", m, err)
	}
	// It runs in dom0.
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	var dom0 string
	if err := l.Dom0.Do(func() (err error) { dom0, err = here(); return err }); err != nil || ns != dom0 {
		t.Errorf("the router is in %s, dom0 is %s: %v", ns, dom0, err)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	if err := p.Stop(); err != nil {
		t.Errorf("stopping again: %v", err)
	}
	if _, err := p.Status(ctx); err == nil {
		t.Error("a stopped router gave its status")
	}
	// Another may follow.
	if p, err = l.StartRouter(ctx, "/proc/self/exe"); err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Error(err)
	}
	<-p.Exited()
	if err := p.Stop(); err == nil {
		t.Error("stopping a killed router succeeded")
	}
}

func TestStartRouterFails(t *testing.T) {
	l := build(t, seed(), withSource)
	_, err := l.StartRouter(testContext(t), "/proc/self/exe", "fails")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(err.Error(), "router.hcl:3: no such uplink") {
		t.Errorf("a router that fails: %v", err)
	}
	ctx, cancel := context.WithCancel(testContext(t))
	var hung error
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, hung = l.StartRouter(ctx, "/proc/self/exe", "hangs")
	}()
	cancel()
	<-done
	if !errors.Is(hung, context.Canceled) {
		t.Errorf("a router that is never ready: %v", hung)
	}
	if _, err := l.StartRouter(testContext(t), "/nonexistent"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing program: %v", err)
	}
	p, err := l.StartRouter(testContext(t), "/proc/self/exe", "stumbles")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(); err == nil || !strings.Contains(err.Error(), "could not remove the TAP") {
		t.Errorf("a router that ends badly: %v", err)
	}
}

func TestReadyLine(t *testing.T) {
	for line, want := range map[string]bool{
		"time=2026-01-02T15:04:05.000Z level=INFO msg=ready": true,
		`time=x level=INFO msg="ready to route" domus=2`:     true,
		`{"time":"x","level":"INFO","msg":"ready"}`:          true,
		"ready":                               true,
		`level=INFO msg="link not ready yet"`: false,
		"level=INFO msg=already":              false,
		"level=INFO msg=readying":             false,
		"level=WARN msg=waiting state=ready":  false,
	} {
		if got := readyLine.MatchString("something before\n" + line + "\n"); got != want {
			t.Errorf("%q: %t", line, got)
		}
	}
}

func TestLogIsBounded(t *testing.T) {
	b := newLogBuffer()
	for range 3 {
		if _, err := b.Write(slices.Repeat([]byte("x"), maxLog/2+1)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(b.String()); n > maxLog {
		t.Errorf("it holds %d bytes", n)
	}
}

func TestDom0State(t *testing.T) {
	l := build(t, seed(), withSource)
	before, err := l.Dom0State()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`^link eth0 veth mac 02:00:c0:00:01:03 mtu 1500`, `^link vif1\.0 veth .* master "xenbr0"`, `^port vif1\.0 .*isolated 0.* locked 0`,
		`^bridge xenbr0 multicast snooping true`, `^addr 192\.0\.1\.3/26 dev eth0`, `^route ::/0 via 2001:db8:3:2::1 dev eth0`,
		`^sysctl net\.ipv6\.conf\.vif1/0\.disable_ipv6=0`,
	} {
		if !slices.ContainsFunc(before, regexp.MustCompile(want).MatchString) {
			t.Errorf("the state has no %q", want)
		}
	}
	if now, err := l.Dom0State(); err != nil || len(DiffState(before, now)) > 0 {
		t.Errorf("it changed by itself: %q, %v", DiffState(before, now), err)
	}
	if err := l.KernelRouter(KernelOptions{Isolate: true, Bind: true}); err != nil {
		t.Fatal(err)
	}
	now, err := l.Dom0State()
	if err != nil {
		t.Fatal(err)
	}
	diff := strings.Join(DiffState(before, now), "\n")
	for _, want := range []string{
		"- sysctl net.ipv4.ip_forward=0", "+ sysctl net.ipv4.ip_forward=1", "+ addr 192.0.2.1/24 dev xenbr0",
		"+ port vif1.0 bcast_flood 1 flood 1 guard 0 hairpin 0 isolated 1", "+ nftables table lab",
	} {
		if !strings.Contains(diff, want) {
			t.Errorf("the difference lacks %q:\n%s", want, diff)
		}
	}
}
