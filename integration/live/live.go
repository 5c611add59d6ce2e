// Package live runs the test blocks of a file with real packets: in a lab of the file's network, through the router as a process of its own.
//
// What can be a connection is one: TCP is opened and carries data both ways, a datagram and an echo request are answered, each between the kernels of
// two hosts. What no kernel would send is a frame by hand. Everybody on the network watches: a packet that is to arrive must do so at its destination
// and nowhere else, and one that is not must be seen by nobody, its sender being told or not. What has not come is told from what will not come by a
// fence: a packet that was sent behind it on the same way, and which the router has counted.
//
// Addresses of the internet that a test names are given to the lab's host there. Each packet has ports of its own, so that no test finds what another
// one has opened; for protocols without ports the router starts anew.
package live

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclwrite"

	"udrouter/config"
	"udrouter/integration/lab"
	"udrouter/policy"
	"udrouter/router"
)

// Options are what a run needs besides the file's values.
type Options struct {
	Source []byte   // the file's text; nil: Config.File is read
	Exe    string   // the program that has the command "run"
	Args   []string // more of its arguments
}

// patience is how long a packet that is to arrive, or its sender's being told, is waited for. Nothing else waits for a time to pass.
const patience = 5 * time.Second

// Run runs the tests of a file. It errs when they cannot be run; a test that fails is a result. Each answer has what was seen beside what the policy
// says.
func Run(ctx context.Context, cfg *config.Config, o Options) (results []router.TestResult, err error) {
	s, err := newStage(ctx, cfg, o)
	if err != nil {
		return nil, fmt.Errorf("running the tests live: %w", err)
	}
	defer func() { err = errors.Join(err, s.lab.Close()) }()
	results = []router.TestResult{}
	for _, t := range cfg.Tests {
		r := s.explainer.Test(t)
		for i := range r.Steps {
			if err := s.step(ctx, &t, &r.Steps[i]); err != nil {
				return nil, fmt.Errorf("running test %q (%s) live: %w", t.Name, t.Source, err)
			}
		}
		results = append(results, r)
	}
	s.late()
	for i := range results {
		results[i].Judge()
	}
	return results, nil
}

// stage is a lab with its witnesses and a running router.
type stage struct {
	lab       *lab.Lab
	cfg       *config.Config // with a guest for each template, and a vif for each guest
	opts      Options
	explainer *router.Explainer
	proc      *lab.Proc
	routerMAC policy.MAC
	witnesses []*witness
	guests    map[string]*witness
	uplink    *witness // the upstream router's link to dom0
	internet  *witness // the host's in the internet
	tun       *witness // dom0's to the router; nil: there is none
	eth0      *witness // dom0's uplink
	wires     map[*witness]*lab.FrameSender
	servers   map[string]bool // those that answer datagrams
	port      uint16          // the last that was used
	portless  map[flow]bool   // of protocols without ports, since the router started
	sent      []*sent
}

// flow is all that tells one of a protocol without ports, whichever way.
type flow struct {
	a, b  netip.Addr
	proto int
}

func newStage(ctx context.Context, cfg *config.Config, o Options) (s *stage, err error) {
	if o.Source, err = withoutGroup(cfg, o.Source); err != nil {
		return nil, err
	}
	s = &stage{cfg: withVifs(cfg), opts: o, guests: map[string]*witness{}, wires: map[*witness]*lab.FrameSender{}, servers: map[string]bool{},
		port: firstPort, portless: map[flow]bool{}}
	if s.lab, err = lab.Build(ctx, s.cfg, lab.Options{Source: o.Source}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.lab.Close())
		}
	}()
	var held []netip.Addr
	for _, p := range s.lab.Dom0.Addrs {
		held = append(held, p.Addr())
	}
	if s.explainer, err = router.NewExplainerOf(cfg, held); err != nil {
		return nil, err
	}
	if err := s.watch(); err != nil {
		return nil, err
	}
	return s, s.start(ctx)
}

// withoutGroup is a file's text without the group that may use the control socket: a machine that tests a file need not know it.
func withoutGroup(cfg *config.Config, src []byte) ([]byte, error) {
	if src == nil {
		var err error
		if src, err = os.ReadFile(cfg.File); err != nil {
			return nil, fmt.Errorf("reading the file again: %w", err)
		}
	}
	file, diags := hclwrite.ParseConfig(src, cfg.File, hcl.InitialPos)
	if diags.HasErrors() {
		return nil, diags
	}
	if control := file.Body().FirstMatchingBlock("control", nil); control != nil {
		control.Body().RemoveAttribute("group")
	}
	return file.Bytes(), nil
}

// withVifs names a vif for each guest whose block leaves that to hotplug, and makes a guest of each template.
func withVifs(cfg *config.Config) *config.Config {
	with := *cfg.StandIns()
	with.Domus = slices.Clone(with.Domus)
	taken := map[string]bool{}
	for _, d := range with.Domus {
		taken[d.Vif] = true
	}
	n := 0
	for i := range with.Domus {
		for d := &with.Domus[i]; d.Vif == ""; {
			if vif := fmt.Sprintf("vifl%d.0", n); !taken[vif] {
				d.Vif = vif
			}
			n++
		}
	}
	return &with
}

// start starts a router and binds what hotplug would; it ends the one before, and with it every flow.
func (s *stage) start(ctx context.Context) (err error) {
	if s.proc != nil {
		if err := errors.Join(s.proc.Stop(), s.lab.Dom0.ForgetConnections()); err != nil {
			return err
		}
	}
	clear(s.portless)
	args := append([]string{"--workers", "1"}, s.opts.Args...) // the fence wants one order
	if s.proc, err = s.lab.StartRouter(ctx, s.opts.Exe, args...); err != nil {
		return err
	}
	for _, d := range s.cfg.Domus {
		if err := s.attach(ctx, d); err != nil {
			return err
		}
	}
	st, err := s.status(ctx)
	if err != nil {
		return err
	}
	if s.routerMAC, err = policy.ParseMAC(st.RouterMAC); err != nil {
		return err
	}
	return s.watchTUN()
}

// attach names a guest's vif to the router, where the file does not.
func (s *stage) attach(ctx context.Context, d config.Domu) error {
	if !slices.ContainsFunc(s.lab.Guests, func(g *lab.Guest) bool { return g.Name() == d.Name }) || s.named(d) {
		return nil
	}
	args := []string{"vif", "add", "--vif", d.Vif, "--mac", d.MAC.String(), "--state", s.proc.State, "--socket", s.proc.Socket}
	for _, t := range s.cfg.Templates {
		if t.Name == d.Template {
			args = append(args, "--domain", exampleOf(t))
		}
	}
	for _, p := range slices.Concat(d.IPv4, d.IPv6) {
		args = append(args, "--ip", p.Addr().String())
	}
	if out, err := s.lab.Dom0.Command(ctx, s.opts.Exe, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("naming %s for domu %q: %w: %s", d.Vif, d.Name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// named tells whether the file itself names a guest's vif.
func (s *stage) named(d config.Domu) bool { return !strings.HasPrefix(d.Vif, "vifl") }

// exampleOf is a domain's name that a template matches.
func exampleOf(t config.Template) string {
	if t.Match == config.MatchAny {
		return t.Name
	}
	return strings.NewReplacer("*", "x", "?", "x").Replace(t.Match)
}

// nextPort is one that no packet of this run has had.
func (s *stage) nextPort() uint16 {
	if s.port++; s.port == 0 {
		s.port = firstPort
	}
	return s.port
}

// firstPort leaves the kernels' own choice alone as long as that lasts: it begins at 32768.
const firstPort = 10000

// fresh has the router forget what it knows, where a packet's flow might be that of another one.
func (s *stage) fresh(ctx context.Context, a *router.Answer, proto int) error {
	if proto == policy.AnyProto || policy.RulePorts(proto) || proto == policy.ProtoICMP || proto == policy.ProtoICMPv6 {
		return nil
	}
	f := flow{a.Src, a.Dst, proto}
	if s.portless[f] || s.portless[flow{a.Dst, a.Src, proto}] {
		if err := s.start(ctx); err != nil {
			return err
		}
	}
	s.portless[f] = true
	return nil
}
