package config

import (
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"

	"udrouter/policy"
)

func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/bad/*.hcl", "testdata/good/*.hcl"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatalf("%s: no files: %v", pattern, err)
		}
		for _, file := range files {
			src, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(src)
		}
	}
	f.Add(Reference)
	f.Fuzz(func(t *testing.T, src []byte) {
		cfg, diags := Parse("router.hcl", src)
		if (cfg == nil) != diags.HasErrors() {
			t.Fatalf("config %v with %v", cfg, diags)
		}
		if len(diags) > maxDiagnostics+1 {
			t.Fatalf("%d diagnostics", len(diags))
		}
		for _, d := range diags {
			checkDiagnostic(t, d, src)
		}
		if text := written(t, diags); strings.ContainsRune(text, '\x1b') {
			t.Fatalf("a control character reaches the terminal: %q", text)
		}
		if cfg != nil {
			checkInvariants(t, cfg)
		}
	})
}

func checkDiagnostic(t *testing.T, d *hcl.Diagnostic, src []byte) {
	if d.Summary == "" || d.Detail == "" || strings.HasSuffix(d.Summary, ".") {
		t.Errorf("incomplete: %+v", d)
	}
	places := []*hcl.Range{d.Subject}
	if ex, ok := d.Extra.(*extra); !ok {
		t.Errorf("%v has no source", d)
	} else if ex.other != nil {
		places = append(places, ex.other)
	}
	lines := strings.Count(string(src), "\n") + 1
	for _, at := range places {
		if at == nil || at.Filename != "router.hcl" || at.Start.Line < 1 || at.Start.Column < 1 || at.End.Line > lines+1 ||
			at.Start.Byte < 0 || at.Start.Byte > at.End.Byte || at.End.Byte > len(src) {
			t.Errorf("%v points to %+v in %d lines, %d bytes", d, at, lines, len(src))
		}
	}
}

// checkInvariants says again, in the plainest way, what the rest of the program relies on.
func checkInvariants(t *testing.T, c *Config) {
	if c.Uplink.Name == "" || c.Bridge.Name == "" || c.Bridge.TAP == "" || len(c.Networks) == 0 {
		t.Errorf("incomplete: %+v", c)
	}
	for _, a := range []netip.Addr{c.Uplink.Gateway4, c.Uplink.Address4} {
		if a.IsValid() && (!a.Is4() || a.IsMulticast() || a.IsLoopback() || a.IsUnspecified()) {
			t.Errorf("uplink has %v", a)
		}
	}
	if a := c.Uplink.Gateway6; a.IsValid() && (!a.Is6() || a.Is4In6() || a.Zone() != "" || a.IsMulticast() || a.IsLoopback() || a.IsUnspecified()) {
		t.Errorf("uplink has %v", a)
	}
	interfaces := map[string]bool{c.Uplink.Name: true}
	only := func(name string) {
		if interfaces[name] || len(name) > 15 || strings.ContainsAny(name, "/: \t\n") {
			t.Errorf("interface %q", name)
		}
		interfaces[name] = name != ""
	}
	only(c.Bridge.Name)
	only(c.Bridge.TAP)
	if c.Host != nil {
		only(c.Host.Interface)
		checkChain(t, c, c.Host.Ingress)
		if c.Host.Uplink != nil {
			checkChain(t, c, *c.Host.Uplink)
		}
	}
	six := false
	for i, n := range c.Networks {
		p := n.Prefix
		six = six || p.Addr().Is6()
		if p != p.Masked() || p.Bits() == 0 || p.Addr().Is4In6() || policy.Classify(p.Addr()) != policy.Unicast || n.Upstream != Routed && n.Upstream != Proxied {
			t.Errorf("network %+v", n)
		}
		if n.Gateway.Is4() != p.Addr().Is4() || !p.Contains(n.Gateway) && !n.Gateway.IsLinkLocalUnicast() {
			t.Errorf("network %+v has a gateway elsewhere", n)
		}
		if !n.Gateway.IsLinkLocalUnicast() && (n.Gateway == c.Uplink.Gateway4 || n.Gateway == c.Uplink.Gateway6) {
			t.Errorf("network %+v has the provider's gateway", n)
		}
		for _, m := range c.Networks[:i] {
			if m.Prefix.Overlaps(p) || m.Name == n.Name {
				t.Errorf("networks %+v and %+v", m, n)
			}
		}
	}
	if mtu := c.Bridge.MTU; mtu != 0 && (mtu < 576 || mtu > 65535 || six && mtu < 1280) {
		t.Errorf("MTU %d", mtu)
	}
	checkGuests(t, c, only)
	for _, tmpl := range c.Templates {
		if tmpl.Match == "" || tmpl.Addresses < 1 || tmpl.Prefix6 < 1 || tmpl.Prefix6 > 128 || slices.ContainsFunc(c.Domus, func(d Domu) bool { return d.Name == tmpl.Name }) {
			t.Errorf("template %+v", tmpl)
		}
	}
	if with := c.Attach(nil); len(with.Domus) != len(c.Domus) {
		t.Errorf("nothing attached, and %d guests are %d", len(c.Domus), len(with.Domus))
	}
	for _, p := range c.Policies {
		checkChain(t, c, p.Egress)
		checkChain(t, c, p.Ingress)
		if p.Limits.Flows == 0 {
			t.Errorf("policy %q admits no flow", p.Name)
		}
	}
	for _, tc := range c.Tests {
		for _, s := range tc.Steps() {
			if s.From.Kind == 0 || (s.To.Kind == 0) != s.Dst.IsValid() || s.Expect == 0 || (s.Proto < 0) != s.Forge.Message() || s.Proto > 255 ||
				s.From.Kind == policy.PeerUplink && s.Src.IsValid() == (s.Forge == policy.ForgeSource) {
				t.Errorf("test %+v", tc)
			}
		}
	}
}

func checkGuests(t *testing.T, c *Config, only func(string)) {
	macs := map[policy.MAC]bool{c.Bridge.MAC: true}
	var taken []netip.Prefix
	for i := range c.Domus {
		d := &c.Domus[i]
		if d.Vif != "" {
			only(d.Vif)
		}
		if macs[d.MAC] || d.MAC.IsZero() || d.MAC.IsGroup() {
			t.Errorf("domu %q has MAC %v", d.Name, d.MAC)
		}
		macs[d.MAC] = true
		if p := c.PolicyFor(d); p == nil || d.Policy != "" && p.Name != d.Policy {
			t.Errorf("domu %q has policy %+v", d.Name, p)
		}
		for _, a := range append(append([]netip.Prefix{}, d.IPv4...), d.IPv6...) {
			if a != a.Masked() || c.NetworkOf(a.Addr()) == nil && !(a.Addr().IsLinkLocalUnicast() && a.IsSingleIP()) {
				t.Errorf("domu %q has %v", d.Name, a)
			}
			for _, n := range c.Networks {
				if a.Contains(n.Gateway) {
					t.Errorf("domu %q has %v, and a gateway with it", d.Name, a)
				}
			}
			for _, b := range taken {
				if a.Overlaps(b) {
					t.Errorf("domu %q has %v, which overlaps %v", d.Name, a, b)
				}
			}
			taken = append(taken, a)
		}
	}
}

func checkChain(t *testing.T, c *Config, chain policy.Chain) {
	if chain.Default == 0 || chain.Source == "" {
		t.Errorf("chain %+v", chain)
	}
	for _, r := range chain.Rules {
		if r.Action == 0 || r.Proto < policy.AnyProto || r.Proto > 255 || r.Source == "" {
			t.Errorf("rule %+v", r)
		}
		for _, p := range r.Ports {
			if p.First == 0 || p.First > p.Last || r.Proto != policy.ProtoTCP && r.Proto != policy.ProtoUDP {
				t.Errorf("rule %+v", r)
			}
		}
		for _, p := range append(append([]policy.Peer{}, r.From...), r.To...) {
			if p.Kind == 0 || p.Kind == policy.PeerPrefix && (!p.Prefix.IsValid() || p.Prefix != p.Prefix.Masked()) {
				t.Errorf("rule %+v", r)
			}
		}
	}
}

// Bytes that change at random seldom still parse, so this shuffles whole lines and values of all the files.
func TestShuffledFiles(t *testing.T) {
	var files [][]string
	var lines, values []string
	for _, pattern := range []string{"testdata/bad/*.hcl", "testdata/good/*.hcl", "reference.hcl"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			src, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			file := strings.Split(string(src), "\n")
			if !strings.Contains(pattern, "bad") {
				files = append(files, file)
			}
			for _, line := range file {
				lines = append(lines, line)
				if _, v, ok := strings.Cut(line, " = "); ok {
					values = append(values, v)
				}
			}
		}
	}
	const rounds = 2000
	rnd := rand.New(rand.NewPCG(1, 2))
	valid := 0
	for range rounds {
		file := slices.Clone(files[rnd.IntN(len(files))])
		for range 1 + rnd.IntN(4) {
			i := rnd.IntN(len(file))
			switch rnd.IntN(6) {
			case 0:
				file[i] = lines[rnd.IntN(len(lines))]
			case 1:
				file = slices.Delete(file, i, i+1)
			case 2:
				file = slices.Insert(file, i, file[rnd.IntN(len(file))])
			default:
				if key, _, ok := strings.Cut(file[i], " = "); ok {
					file[i] = key + " = " + values[rnd.IntN(len(values))]
				}
			}
			if len(file) == 0 {
				break
			}
		}
		src := []byte(strings.Join(file, "\n"))
		cfg, diags := Parse("router.hcl", src)
		for _, d := range diags {
			checkDiagnostic(t, d, src)
		}
		written(t, diags)
		if cfg != nil {
			valid++
			checkInvariants(t, cfg)
		}
		if t.Failed() {
			t.Fatalf("%s", src)
		}
	}
	if valid < rounds/100 || valid > rounds*9/10 {
		t.Errorf("%d of %d files are valid, which tests little", valid, rounds)
	}
}
