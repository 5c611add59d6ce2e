package config

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/hcl/v2"

	"udrouter/policy"
)

func TestDefaults(t *testing.T) {
	got := mustParse(t, "router.hcl", []byte(minimal))
	want := &Config{
		File:   "router.hcl",
		Uplink: Uplink{Name: "eth0", Range: Range{"router.hcl", 1, 1}},
		Bridge: Bridge{Name: "xenbr0", TAP: "udr0", Isolate: true, Range: Range{"router.hcl", 2, 1}},
		Networks: []Network{{
			Name: "v4", Prefix: netip.MustParsePrefix("192.0.2.0/24"), Gateway: netip.MustParseAddr("192.0.2.1"),
			Upstream: Routed, Range: Range{"router.hcl", 3, 1},
		}},
		Control: Control{Socket: "/run/udrouter/control.sock"},
		Log:     Log{Level: "info", Format: "text"},
	}
	if diff := cmp.Diff(want, got, sameIPs); diff != "" {
		t.Error(diff)
	}
}

func TestProxyDefaults(t *testing.T) {
	src := strings.Replace(minimal, `"routed"`, `"proxied"`, 1)
	want := Proxy{Router: true, TTL: 30 * time.Second, Timeout: 500 * time.Millisecond, Announce: true}
	if got := mustParse(t, "router.hcl", []byte(src)).Networks[0].Proxy; got != want {
		t.Errorf("%+v", got)
	}
}

func TestRules(t *testing.T) {
	cfg := mustParse(t, "dir/router.hcl", []byte(minimal+`
domu "one" {
  mac = "00:16:3e:00:00:01"
}
policy "p" {
  mode = "shadow"
  egress {
    rule "r" {
      action = "reject"
      proto  = "17"
      ports  = [53, "5201-5210", "7"]
      from   = ["host", "uplink", "domu:one"]
      to     = ["192.0.2.10", "2001:db8::/32", "::/0"]
    }
    rule "any" {
      action = "drop"
    }
    rule "hopopt" {
      action = "drop"
      proto  = 0
    }
  }
  limits {
    packets   = 5
    bandwidth = "12 Mbit"
  }
}
`))
	want := policy.Policy{
		Name: "p", Mode: policy.Shadow, Source: "dir/router.hcl:12",
		Egress: policy.Chain{Default: policy.Accept, Source: "dir/router.hcl:14", Rules: []policy.Rule{
			{
				Name: "r", Action: policy.Reject, Proto: 17, Source: "dir/router.hcl:15",
				Ports: []policy.PortRange{{First: 53, Last: 53}, {First: 5201, Last: 5210}, {First: 7, Last: 7}},
				From:  []policy.Peer{{Kind: policy.PeerHost}, {Kind: policy.PeerUplink}, {Kind: policy.PeerDomu, Domu: "one"}},
				To: []policy.Peer{
					{Kind: policy.PeerPrefix, Prefix: netip.MustParsePrefix("192.0.2.10/32")},
					{Kind: policy.PeerPrefix, Prefix: netip.MustParsePrefix("2001:db8::/32")},
					{Kind: policy.PeerPrefix, Prefix: netip.MustParsePrefix("::/0")},
				},
			},
			{Name: "any", Action: policy.Drop, Proto: policy.AnyProto, Source: "dir/router.hcl:22"},
			{Name: "hopopt", Action: policy.Drop, Proto: 0, Source: "dir/router.hcl:25"},
		}},
		Ingress: policy.Chain{Default: policy.Drop, Source: "dir/router.hcl:12"},
		Limits:  policy.Limits{Packets: 5, Bandwidth: 12_000_000, Flows: policy.DefaultFlows},
	}
	if diff := cmp.Diff(want, cfg.Policies[0], sameIPs); diff != "" {
		t.Error(diff)
	}
}

func TestBandwidth(t *testing.T) {
	for text, want := range map[string]uint64{
		`8`: 8, `"8"`: 8, `"8bit"`: 8, `"8kbit"`: 8e3, `"8Kbit"`: 8e3, `"100Mbit"`: 1e8, `"100 mbit"`: 1e8, `"1Gbit"`: 1e9, `"2Tbit"`: 2e12, `1e9`: 1e9,
		`9223372036854775807`: 1<<63 - 1, `"9223372036854775807bit"`: 1<<63 - 1,
		`9223372036854775808`: 0, `"9223372036854775808"`: 0, `"9223373Tbit"`: 0, `"99999999999999999999"`: 0,
		`""`: 0, `"bit"`: 0, `"-1Mbit"`: 0, `"1.5Mbit"`: 0, `"1MB"`: 0, `"1Mbps"`: 0, `"1Mibit"`: 0, `"1 M bit"`: 0, `"0x10"`: 0, `0.5`: 0, `-1`: 0, `0`: 0, `"0"`: 0, `true`: 0, `[1]`: 0,
	} {
		cfg, diags := Parse("router.hcl", []byte(minimal+"policy \"p\" {\n limits {\n  bandwidth = "+text+"\n }\n}\n"))
		if want == 0 {
			if len(diags) != 1 {
				t.Errorf("%s: %d diagnostics", text, len(diags))
			}
			continue
		}
		if len(diags) > 0 || cfg.Policies[0].Limits.Bandwidth != want {
			t.Errorf("%s: want %d, got %v %v", text, want, cfg, diags)
		}
	}
}

func TestPolicyFor(t *testing.T) {
	cfg := mustParse(t, "router.hcl", []byte(minimal+`
policy "p" {}
domu "one" {
  mac    = "00:16:3e:00:00:01"
  policy = "p"
}
domu "two" {
  mac = "00:16:3e:00:00:02"
}
`))
	if p := cfg.PolicyFor(&cfg.Domus[0]); p != &cfg.Policies[0] {
		t.Errorf("one: %+v", p)
	}
	want := &policy.Policy{
		Name:    "default",
		Egress:  policy.Chain{Default: policy.Accept, Source: "router.hcl:14"},
		Ingress: policy.Chain{Default: policy.Drop, Source: "router.hcl:14"},
		Limits:  policy.Limits{Flows: policy.DefaultFlows},
		Source:  "router.hcl:14",
	}
	if diff := cmp.Diff(want, cfg.PolicyFor(&cfg.Domus[1]), sameIPs); diff != "" {
		t.Error(diff)
	}
}

func TestNetworkOf(t *testing.T) {
	cfg := mustParse(t, "reference.hcl", Reference)
	for addr, want := range map[string]string{
		"192.0.2.0": "v4", "192.0.2.255": "v4", "192.0.3.0": "", "2001:db8:3:2:ffff::": "v6", "2001:db8:3:3::": "", "fe80::1": "", "::ffff:192.0.2.1": "",
	} {
		got := ""
		if n := cfg.NetworkOf(netip.MustParseAddr(addr)); n != nil {
			got = n.Name
		}
		if got != want {
			t.Errorf("%s: %q, want %q", addr, got, want)
		}
	}
	if n := cfg.NetworkOf(netip.Addr{}); n != nil {
		t.Errorf("no address is in %v", n)
	}
}

func TestWriteDiagnosticsInColor(t *testing.T) {
	_, diags := Parse("router.hcl", []byte(strings.Replace(minimal, "192.0.2.0/24", "192.0.2.9/24", 1)))
	var b strings.Builder
	if err := WriteDiagnostics(&b, diags, true); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); !strings.Contains(got, "\x1b[1;31mError\x1b[0m: ") || !strings.Contains(got, "\x1b[1m\"192.0.2.9/24\"\x1b[0m") {
		t.Errorf("%q", got)
	}
}

// Diagnostics of other origin have no source of ours to show.
func TestWriteForeignDiagnostics(t *testing.T) {
	got := written(t, hcl.Diagnostics{nil, {Severity: hcl.DiagWarning, Summary: "a\x1bb"}})
	if got != "Warning: a\uFFFDb\n\n" {
		t.Errorf("%q", got)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, fmt.Errorf("disk full") }

func TestWriteDiagnosticsError(t *testing.T) {
	_, diags := Parse("router.hcl", nil)
	if err := WriteDiagnostics(brokenWriter{}, diags, false); err == nil || err.Error() != "writing diagnostics: disk full" {
		t.Error(err)
	}
}

// guests is a file with n guests in a /16, of which every one but the first breaks something if broken is set.
func guests(n int, broken bool) []byte {
	var b strings.Builder
	b.WriteString("uplink \"eth0\" {}\nbridge \"b\" {}\nnetwork \"v4\" {\n  prefix = \"10.0.0.0/8\"\n  gateway = \"10.255.0.1\"\n  upstream = \"routed\"\n}\n")
	for i := range n {
		k, policy := i, ""
		if broken {
			k, policy = 0, "policy=\"typo\"\n"
		}
		fmt.Fprintf(&b, "domu \"g%d\" {\nvif=\"vif%d.0\"\nmac=\"00:16:3e:%02x:%02x:%02x\"\nipv4=[\"10.%d.%d.%d\"]\n%s}\n",
			i, k, k>>16, k>>8&0xff, k&0xff, (k+1)>>16, (k+1)>>8&0xff, (k+1)&0xff, policy)
	}
	return []byte(b.String())
}

func TestTenThousandGuestsAndRules(t *testing.T) {
	const n = 10_000
	src := bytes.NewBuffer(guests(n, false))
	src.WriteString("policy \"p\" {\n  ingress {\n")
	for i := range n {
		fmt.Fprintf(src, "    rule \"port-%d-of-somebody\" {\n      action = \"accept\"\n      proto  = \"tcp\"\n      ports  = [%d]\n      from   = [\"2001:db8:%x::/48\", \"domu:g%d\"]\n    }\n", i, i+1, i, i)
	}
	src.WriteString("  }\n}\n")
	cfg := mustParse(t, "router.hcl", src.Bytes())
	if len(cfg.Domus) != n || len(cfg.Policies[0].Ingress.Rules) != n {
		t.Errorf("%d guests, %d rules", len(cfg.Domus), len(cfg.Policies[0].Ingress.Rules))
	}
	if _, diags := Parse("router.hcl", guests(10_000, true)); len(diags) != maxDiagnostics+1 {
		t.Errorf("%d diagnostics", len(diags))
	}
}

func BenchmarkParseTenThousandGuests(b *testing.B) {
	for name, broken := range map[string]bool{"good": false, "bad": true} {
		b.Run(name, func(b *testing.B) {
			src := guests(10_000, broken)
			for b.Loop() {
				if cfg, diags := Parse("router.hcl", src); (cfg == nil) != broken {
					b.Fatal(diags)
				}
			}
		})
	}
}
