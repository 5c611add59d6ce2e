package lab

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"udrouter/config"
	"udrouter/policy"
)

// runShow runs Show and returns the report with the names of the checks that failed.
func runShow(t *testing.T, l *Lab, o ShowOptions) (report string, failed []string) {
	t.Helper()
	var b bytes.Buffer
	held, err := l.Show(testContext(t), &b, o)
	if err != nil {
		t.Fatalf("%v\n%s", err, b.String())
	}
	for _, m := range regexp.MustCompile(`(?m)^  FAIL  (.*?)  `).FindAllStringSubmatch(b.String(), -1) {
		failed = append(failed, m[1])
	}
	if held != (failed == nil) {
		t.Errorf("held is %t, and these failed: %q", held, failed)
	}
	return b.String(), failed
}

// TestShow holds every shape of network against a router that does all that is asked of one: the
// kernel with nftables.
func TestShow(t *testing.T) {
	for _, c := range shapes {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // labs do not disturb each other
			l := build(t, c.cfg(), Options{})
			if err := l.KernelRouter(KernelOptions{Isolate: true, Bind: true}); err != nil {
				t.Fatal(err)
			}
			report, failed := runShow(t, l, ShowOptions{Enforced: true})
			if failed != nil {
				t.Errorf("%q failed:\n%s", failed, report)
			}
		})
	}
}

// TestShowTells has the kernel alone as router, which binds nothing, so that each check of that has
// something to find.
func TestShowTells(t *testing.T) {
	l := kernel(t, seed(), Options{})
	report, failed := runShow(t, l, ShowOptions{})
	want := []string{
		"one sends from nobody's addresses",
		"one sends from two's IPv4 address",
		"one sends from two's IPv6 address",
		"one sends as two, MAC and all",
		"one claims the gateway and two by NDP",
		"two's pings meanwhile",
	}
	// What the kernel's neighbour table has taken up it corrects after some seconds: this may hold again.
	failed = slices.DeleteFunc(failed, func(s string) bool { return s == "ping: the internet still to two" })
	if !slices.Equal(failed, want) {
		t.Errorf("failed: %q\nwant: %q\n%s", failed, want, report)
	}
}

// TestShowFindsHarm has a good router and something beside it that does harm.
func TestShowFindsHarm(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(*Lab) error
		want []string // checks that fail, among others
	}{
		{"a guest's MAC on the uplink", func(l *Lab) error {
			return onUplink(l, func(f Frame, send func([]byte)) {
				if a, ok := ParseARP(f.Data); ok && a.Src == l.plan.strangerMAC {
					send(frame("here I am"))
				}
			})
		}, []string{"one MAC on the uplink"}},
		{"a second proxy, for everything", func(l *Lab) error {
			return onUplink(l, func(f Frame, send func([]byte)) {
				if m, ok := ParseND(f.Data); ok && !m.Advertise {
					send(ND{
						SrcMAC: l.Dom0.MAC, DstMAC: m.SrcMAC, Src: m.Target, Dst: m.Src,
						Advertise: true, Flags: NASolicited, Target: m.Target, LinkAddr: l.Dom0.MAC,
					}.Frame())
				}
			})
		}, []string{
			"each question answered once, if at all", // found then at the latest: it is slower than the router
		}},
		{"no proxy", func(l *Lab) error {
			return l.Dom0.SetSysctl("net.ipv6.conf.all.proxy_ndp", "0")
		}, []string{"asked for one's address: answered", "ping: one to the internet", "trace: one to the internet"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := build(t, changed(func(c *config.Config) { c.Domus = c.Domus[:1] }), Options{})
			if err := l.KernelRouter(KernelOptions{Isolate: true, Bind: true}); err != nil {
				t.Fatal(err)
			}
			if err := c.do(l); err != nil {
				t.Fatal(err)
			}
			report, failed := runShow(t, l, ShowOptions{})
			for _, w := range c.want {
				if !slices.Contains(failed, w) {
					t.Errorf("%q held:\n%s", w, report)
				}
			}
		})
	}
}

// onUplink calls f with each frame that dom0 receives on its uplink, until the lab is closed.
func onUplink(l *Lab, f func(f Frame, send func([]byte))) error {
	s, err := l.Dom0.Sniff(l.Dom0.Link, SniffOptions{})
	if err != nil {
		return err
	}
	w, err := l.Dom0.Sender(l.Dom0.Link)
	if err != nil {
		return err
	}
	go func() {
		for done := 0; ; done++ {
			i := 0
			fr, err := s.AwaitFrame(context.Background(), func(f Frame) bool {
				if f.Outgoing {
					return false
				}
				i++
				return i > done
			})
			if err != nil {
				return
			}
			f(fr, func(b []byte) { _ = w.Send(b) })
		}
	}()
	return nil
}

func TestShowRouterLife(t *testing.T) {
	for _, c := range []struct {
		how  string
		want []string
	}{
		{"works", nil},
		{"litters", []string{"dom0 is as it was before"}},
		{"stumbles", []string{"it ends when asked to"}},
		{"foreign", []string{"the router counts no foreign MAC"}},
	} {
		t.Run(c.how, func(t *testing.T) {
			t.Parallel()
			l := build(t, seed(), withSource)
			if err := l.KernelRouter(KernelOptions{Isolate: true, Bind: true}); err != nil {
				t.Fatal(err)
			}
			p, err := l.StartRouter(testContext(t), "/proc/self/exe", c.how)
			if err != nil {
				t.Fatal(err)
			}
			report, failed := runShow(t, l, ShowOptions{Router: p})
			if !slices.Equal(failed, c.want) {
				t.Errorf("failed: %q, want %q\n%s", failed, c.want, report)
			}
		})
	}
}

func TestShowKeepsTheRouter(t *testing.T) {
	l := build(t, seed(), withSource)
	p, err := l.StartRouter(testContext(t), "/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.KernelRouter(KernelOptions{Isolate: true, Bind: true}); err != nil {
		t.Fatal(err)
	}
	if report, failed := runShow(t, l, ShowOptions{Router: p, Keep: true}); failed != nil {
		t.Errorf("%q failed:\n%s", failed, report)
	}
	if _, err := p.Status(testContext(t)); err != nil {
		t.Errorf("the router is gone: %v", err)
	}
}

func TestShowEndsWithItsContext(t *testing.T) {
	l := build(t, seed(), Options{}) // without a router a check would wait long
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("Ctrl-C")
	var b watchedBuffer
	b.on = func(line string) {
		if strings.Contains(line, "Who reaches whom") {
			cancel(why)
		}
	}
	if held, err := l.Show(ctx, &b, ShowOptions{}); held || !errors.Is(err, why) {
		t.Errorf("got %t, %v", held, err)
	}
	if strings.Contains(b.String(), "FAIL") {
		t.Errorf("what was interrupted is said to have failed:\n%s", b.String())
	}
}

// TestShowSaysWhatIsNotShown has files that allow for little.
func TestShowSaysWhatIsNotShown(t *testing.T) {
	closed := changed(func(c *config.Config) {
		c.Policies[0].Egress = policy.Chain{Default: policy.Drop}
		c.Policies[0].Ingress = policy.Chain{Default: policy.Drop}
		c.Host = nil
	})
	alone := changed(func(c *config.Config) {
		c.Domus = c.Domus[:1]
		c.Networks[1].Upstream = config.Routed
		c.Uplink.Gateway6 = netip.Addr{}
	})
	for _, c := range []struct {
		name string
		cfg  *config.Config
		want []string
	}{
		{"nothing is accepted", closed, []string{
			`-     ping: one to the internet .* the policy accepts no ping`, `-     TCP: the internet to one .* the policy accepts no TCP`,
			`-     trace: one to the internet .* the policy accepts no trace`, `-     TCP: dom0 to the guests .* without a host block`,
			`ok    TCP: dom0 to the internet`,
		}},
		{"one guest", alone, []string{
			`-     a neighbour's pings meanwhile`, `-     asked for a guest's address .* no network is proxied`, `ok    one claims the gateway by ARP +not on the uplink`,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := build(t, c.cfg, Options{})
			if err := l.KernelRouter(KernelOptions{Isolate: true, Bind: true}); err != nil {
				t.Fatal(err)
			}
			report, failed := runShow(t, l, ShowOptions{Enforced: true})
			if c.name != "nothing is accepted" && failed != nil {
				t.Errorf("%q failed:\n%s", failed, report)
			}
			for _, w := range c.want {
				if !regexp.MustCompile(`(?m)^  ` + w).MatchString(report) {
					t.Errorf("no line %q in\n%s", w, report)
				}
			}
		})
	}
}

// watchedBuffer calls on with what is written.
type watchedBuffer struct {
	bytes.Buffer
	on func(string)
}

func (b *watchedBuffer) Write(p []byte) (int, error) {
	b.on(string(p))
	return b.Buffer.Write(p)
}
