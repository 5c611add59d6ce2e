package router

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"gvisor.dev/gvisor/pkg/tcpip/faketime"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/policy"
	"udrouter/stack"
	"udrouter/stack/stacktest"
)

var (
	eth0MAC    = policy.MAC{0x02, 0, 0, 0, 0, 0xe0}
	gatewayMAC = policy.MAC{0x02, 0, 0, 0, 0, 0x99}
)

// sim is a router with simulated links. Frames are handled in the caller's goroutine, so that what became of one is there
// when send returns; only netstack's answers to ARP and NS come through its clock.
type sim struct {
	*Router
	t      testing.TB
	clock  *faketime.ManualClock
	wall   *wallClock // the same as the router has it
	links  map[stack.Side]*stacktest.Link
	kernel stack.Kernel
	net    cases.Net
}

// wallClock is a clock whose time of day can be set, forwards and back; its monotonic time goes on as before.
type wallClock struct {
	*faketime.ManualClock
	set time.Duration
}

// Now is the time of day.
func (c *wallClock) Now() time.Time { return c.ManualClock.Now().Add(c.set) }

// seedKernel is dom0's kernel in the set-up of reference/: its address in the guests' prefix, the gateway there as well.
func seedKernel() stack.Kernel {
	all6, all4 := netip.MustParsePrefix("::/0"), netip.MustParsePrefix("0.0.0.0/0")
	return stack.Kernel{
		Uplink:  stack.Interface{Index: 2, MAC: eth0MAC, MTU: 1500, Up: true},
		Held:    []netip.Addr{cases.Dom04, cases.Router6},
		LL:      []netip.Addr{policy.EUI64(eth0MAC)},
		Subnets: []netip.Prefix{netip.MustParsePrefix("192.0.1.0/26")},
		Routes: []stack.Route{
			{Prefix: netip.MustParsePrefix("2001:db8:3:2::/64")}, {Prefix: netip.MustParsePrefix("192.0.1.0/26")},
			{Prefix: all4, Gateway: cases.Gateway4}, {Prefix: all6, Gateway: cases.Gateway6},
		},
		Up: map[string]bool{"vif1.0": true, "vif2.0": true},
	}
}

func parseConfig(t testing.TB, src string) *config.Config {
	t.Helper()
	cfg, diags := config.Parse("router.hcl", []byte(src))
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return cfg
}

func newSim(t testing.TB, cfg *config.Config, k stack.Kernel) *sim {
	t.Helper()
	clock := faketime.NewManualClock()
	s := &sim{t: t, clock: clock, wall: &wallClock{ManualClock: clock}, kernel: k,
		links: map[stack.Side]*stacktest.Link{stack.Guests: stacktest.NewLink("udr0"), stack.UplinkSide: stacktest.NewLink("eth0"), stack.Host: stacktest.NewLink("udrhost")}}
	o := Options{Config: cfg, Guests: s.links[stack.Guests], Uplink: s.links[stack.UplinkSide], Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		ReadKernel: func() (stack.Kernel, error) { return s.kernel, nil },
		Watch:      func(ctx context.Context, changed func() error) error { <-ctx.Done(); return nil },
		RouterMAC:  RouterMAC(cfg, eth0MAC), GuestMTU: GuestMTU(cfg, k), Clock: s.wall}
	if cfg.Host != nil {
		o.Host = s.links[stack.Host]
	}
	var err error
	if s.Router, err = New(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.netstack.Load().Close() })
	s.net = cases.Net{Router: s.RouterMAC, Eth0: eth0MAC, Gateway: gatewayMAC, UplinkLL: s.current.Load().UplinkLL}
	return s
}

// learn makes the gateways' MACs known, as their answers would.
func (s *sim) learn() {
	for _, a := range slices.SortedFunc(maps.Keys(s.current.Load().Upstream), netip.Addr.Compare) {
		s.neighbours.event(stack.NeighbourEvent{Addr: a, MAC: gatewayMAC})
	}
}

func side(p cases.Place) stack.Side {
	switch p {
	case cases.Uplink:
		return stack.UplinkSide
	case cases.Dom0:
		return stack.Host
	}
	return stack.Guests
}

// send handles frames as one batch.
func (s *sim) send(from stack.Side, frames ...[]byte) {
	var batch []*stack.Frame
	for _, f := range frames {
		batch = append(batch, stacktest.Frame(f, policy.Offload{}))
	}
	s.newWorker(from).batch(batch)
	s.clock.RunImmediatelyScheduledJobs()
}

func describe(f []byte) string {
	var words []string
	for _, l := range gopacket.NewPacket(f, layers.LayerTypeEthernet, gopacket.Default).Layers() {
		words = append(words, gopacket.LayerString(l))
	}
	return strings.Join(words, " | ")
}

func (s *sim) counts() map[policy.Reason]uint64 {
	m := map[policy.Reason]uint64{}
	for i := range s.drops {
		if n := s.drops[i].Load(); n > 0 {
			m[policy.Reason(i)] = n
		}
	}
	return m
}

// run runs a row in a router of its own and returns what is wrong.
func (s *sim) run(c cases.Case) []string {
	s.learn()
	s.newWorker(stack.Guests).appearedAll()
	for _, b := range c.Before {
		s.send(side(b.From), b.Frame(s.net))
	}
	if n := len(s.counts()); n > 0 {
		return []string{fmt.Sprintf("what was sent before counted %v", s.counts())}
	}
	for _, l := range s.links {
		l.Take()
	}
	s.send(side(c.From), c.Frame(s.net))
	for _, f := range c.Then {
		s.send(side(f.From), f.Frame(s.net))
	}
	var wrong []string
	want := map[stack.Side][][]byte{}
	for _, o := range c.Out {
		want[side(o.At)] = append(want[side(o.At)], o.Frame(s.net))
	}
	for _, sd := range []stack.Side{stack.Guests, stack.UplinkSide, stack.Host} {
		got := s.links[sd].Take()
		for i := range max(len(got), len(want[sd])) {
			switch {
			case i >= len(want[sd]):
				wrong = append(wrong, fmt.Sprintf("side %d: unexpected %s", sd, describe(got[i].Frame)))
			case i >= len(got):
				wrong = append(wrong, fmt.Sprintf("side %d: missing %s", sd, describe(want[sd][i])))
			case !bytes.Equal(normal(got[i].Frame), normal(want[sd][i])):
				wrong = append(wrong, fmt.Sprintf("side %d:\n got %x\nwant %x\n got %s\nwant %s", sd, got[i].Frame, want[sd][i], describe(got[i].Frame), describe(want[sd][i])))
			}
		}
	}
	counted := map[policy.Reason]uint64{}
	if n := c.Counts(); n > 0 {
		counted[c.Reason] = n
	}
	if counts := s.counts(); !maps.Equal(counts, counted) {
		wrong = append(wrong, fmt.Sprintf("counted %v, want %v", counts, counted))
	}
	return append(wrong, s.canary()...)
}

// canary looks at the guest that had no part in a row, and at the other: both still reach the internet, and the internet both.
func (s *sim) canary() (wrong []string) {
	for _, row := range cases.Canary() {
		s.send(side(row.From), row.Frame(s.net))
		if got := s.links[side(row.Out[0].At)].Take(); len(got) != 1 || !bytes.Equal(got[0].Frame, row.Out[0].Frame(s.net)) {
			wrong = append(wrong, fmt.Sprintf("afterwards, %s: %d frames, counted %v", row.Name, len(got), s.counts()))
		}
	}
	return wrong
}

// normal takes out the identification that netstack gives an IPv4 datagram of its own: it may be anything.
func normal(f []byte) []byte {
	if len(f) < 34 || f[12] != 8 || f[13] != 0 || f[23] != 1 || f[34] != 0 {
		return f
	}
	f = bytes.Clone(f)
	f[18], f[19], f[24], f[25] = 0, 0, 0, 0
	return f
}

// appearedAll makes every guest known, so that no announcement is among the answers.
func (w *worker) appearedAll() {
	w.world = w.current.Load()
	for _, g := range w.world.Guests {
		w.appeared(g)
	}
}

// ARP on the uplink for guests of a proxied network.
func TestProxiedARP(t *testing.T) {
	cfg := parseConfig(t, cases.Proxied(config.Reference))
	for _, c := range cases.ProxiedARP() {
		t.Run(c.Name, func(t *testing.T) {
			for _, w := range newSim(t, cfg, seedKernel()).run(c) {
				t.Errorf("%s: %s", c.Ref, w)
			}
		})
	}
}

func TestCases(t *testing.T) {
	open, reference := parseConfig(t, cases.Open(config.Reference)), parseConfig(t, string(config.Reference))
	for _, c := range cases.All() {
		t.Run(c.Name, func(t *testing.T) {
			cfg := open
			if c.Enforced {
				cfg = reference
			}
			for _, w := range newSim(t, cfg, seedKernel()).run(c) {
				t.Errorf("%s: %s", c.Ref, w)
			}
		})
	}
}

// frameOf is a frame without offloads.
func frameOf(b []byte) *stack.Frame { return stacktest.Frame(b, policy.Offload{}) }

// freshLimits gives everyone full buckets.
func (s *sim) freshLimits() {
	for _, g := range append(s.current.Load().states, s.nobody) {
		g.limitSet = newLimitSet()
	}
}
