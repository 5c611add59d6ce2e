package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"udrouter/policy"
)

// One pinger's answers are each to its latest request; where nobody answers, the time is kept.
func TestPinger(t *testing.T) {
	l := kernel(t, seed(), Options{})
	g := l.Guests[0]
	for _, dst := range []netip.Addr{l.Internet.Addr4(), l.Internet.Addr6()} {
		p, err := g.Pinger(testContext(t), dst)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		for range 20 {
			if rtt, err := p.Ping(testTimeout); err != nil || rtt <= 0 || rtt > testTimeout {
				t.Fatalf("%s: %v, %v", dst, rtt, err)
			}
			// With every neighbour known the answer to this one is there when the next is sent; its time would be negative.
			if _, err := p.Ping(0); !errors.Is(err, ErrNoEcho) {
				t.Fatalf("%s: %v without time for an answer", dst, err)
			}
		}
	}
	p, err := g.Pinger(testContext(t), addr("192.0.2.99")) // no guest's
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := p.Ping(time.Millisecond); !errors.Is(err, ErrNoEcho) {
		t.Errorf("nobody's address: %v", err)
	}
}

// More rules than one message's worth are loaded, and the last of them decides.
func TestKernelManyRules(t *testing.T) {
	cfg := seed()
	p := untrusted()
	for i := range 3*rulesAtOnce + 1 {
		p.Ingress.Rules = append(p.Ingress.Rules, policy.Rule{
			Name: fmt.Sprintf("r%d", i), Action: policy.Accept, Proto: protoTCP,
			Ports: []policy.PortRange{{First: uint16(1000 + i), Last: uint16(1000 + i)}},
		})
	}
	cfg.Policies = []policy.Policy{p}
	l := build(t, cfg, Options{})
	if err := l.KernelRouter(KernelOptions{Isolate: true, Bind: true}); err != nil {
		t.Fatal(err)
	}
	last := 1000 + 3*rulesAtOnce
	if _, err := l.Guests[0].ServeTCP(last); err != nil {
		t.Fatal(err)
	}
	c, err := l.Internet.Open(testContext(t), netip.AddrPortFrom(l.Guests[0].Addr4(), uint16(last)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Check(testContext(t)); err != nil {
		t.Error(err)
	}
}
