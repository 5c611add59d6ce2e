package router

import (
	"fmt"
	"strings"
	"testing"

	"udrouter/config"
	"udrouter/policy"
)

// forgedBlock is a test block of a forged packet; "" leaves a key out.
func forgedBlock(name, from, src, to, proto string, port int, forge string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "test %q {\n  from = %q\n  %s\n  expect = \"drop\"\n  forge = %q\n", name, from, to, forge)
	if src != "" {
		fmt.Fprintf(&b, "  src = %q\n", src)
	}
	if proto != "" {
		fmt.Fprintf(&b, "  proto = %q\n", proto)
	}
	if port != 0 {
		fmt.Fprintf(&b, "  port = %d\n", port)
	}
	return b.String() + "}\n"
}

// Each forgery meets the guard that it is for, in each family that it is of.
func TestForgeries(t *testing.T) {
	const two, x4, x6 = `to = "domu:two"`, "198.51.100.7", "2001:db8:ffff::7"
	rows := []struct {
		from, src, to, proto string
		port                 int
		forge, reasons       string // of IPv4, then IPv6
	}{
		{"domu:one", "", two, "tcp", 22, "mac", "mac-binding mac-binding"},
		{"domu:one", "", two, "tcp", 22, "source", "martian-src martian-src"}, // there is no third guest
		{"domu:one", "", two, "tcp", 22, "answer", "ingress-policy ingress-policy"},
		{"domu:one", "", `dst = "` + x4 + `"`, "tcp", 443, "source", "ip-binding"},
		{"domu:one", "", `dst = "` + x6 + `"`, "udp", 443, "source", "ip6-binding"},
		{"domu:one", "", `dst = "` + x4 + `"`, "tcp", 443, "answer", "no-flow"},
		{"domu:one", "", `dst = "` + x4 + `"`, "icmp", 0, "answer", "no-flow"},
		{"domu:one", "", two, "tcp", 22, "flags", "tcp-flags tcp-flags"},
		{"domu:one", "", two, "tcp", 22, "fragment", "tiny-fragment tiny-fragment"},
		{"domu:one", "", two, "tcp", 22, "route", "source-route routing-header"},
		{"domu:one", "", two, "udp", 22, "vlan", "vlan vlan"},
		{"domu:one", "", two, "", 0, "arp", "arp-spoof"},
		{"domu:one", "", two, "", 0, "nd", "nd-spoof"},
		{"domu:one", "", two, "", 0, "ra", "ra-guard"},
		{"domu:one", "", two, "", 0, "redirect", "redirect redirect"},
		{"domu:one", "", two, "", 0, "dhcp", "dhcp-guard dhcp-guard"},
		{"uplink", x4, two, "tcp", 22, "mac", "mac-invalid"},
		{"uplink", "", two, "tcp", 22, "source", "spoof-ingress spoof-ingress"},
		{"uplink", x4, two, "tcp", 22, "answer", "ingress-policy"},
		{"uplink", x6, two, "tcp", 22, "flags", "tcp-flags"},
		{"uplink", x6, two, "tcp", 22, "fragment", "tiny-fragment"},
		{"uplink", x6, two, "tcp", 22, "route", "routing-header"},
		{"uplink", x4, two, "tcp", 22, "vlan", "vlan"},
		{"uplink", x4, two, "", 0, "arp", "arp-spoof"},
		{"uplink", x6, two, "", 0, "nd", "nd-spoof"},
		{"uplink", x4, two, "", 0, "redirect", "redirect"},
		{"uplink", x6, two, "", 0, "redirect", "redirect"},
		{"uplink", x6, two, "", 0, "dhcp", "dhcp-guard"},
		{"host", "", two, "tcp", 22, "source", "host-src host-src"},
	}
	src, forged := string(config.Reference), map[string]bool{}
	for i, r := range rows {
		src += forgedBlock(fmt.Sprint(i, r), r.from, r.src, r.to, r.proto, r.port, r.forge)
		forged[r.forge] = true
	}
	for _, f := range policy.Forgeries() {
		if !forged[f.String()] {
			t.Errorf("no row forges %v", f)
		}
	}
	results, err := RunTests(parseConfig(t, src))
	if err != nil {
		t.Fatal(err)
	}
	results = results[len(results)-len(rows):]
	for i, r := range results {
		var reasons []string
		for _, a := range r.Steps[0].Answers {
			reasons = append(reasons, a.Reason)
			if !strings.Contains(a.String(), ", forged: "+rows[i].forge) {
				t.Errorf("%s: %v", r.Name, a)
			}
		}
		if got := strings.Join(reasons, " "); r.Failed != "" || got != rows[i].reasons {
			t.Errorf("%s: %s, by %q", r.Name, r.Failed, got)
		}
	}
}

// An answer passes in the connection that its receiver has opened, and that of somebody else, or from another port, does not.
func TestOpen(t *testing.T) {
	const steps = `
test "dns" {
  from   = "uplink"
  src    = "9.9.9.9"
  to     = "domu:one"
  proto  = "%s"
  port   = %d
  open   = %t
  expect = "accept"
  then {
    src    = "8.8.8.8"
    expect = "drop"
  }
  then {
    port   = 54
    expect = "drop"
  }
  then {
    forge  = "source"
    expect = "drop"
  }
}
`
	for _, c := range []struct {
		proto  string
		port   int
		open   bool
		failed string
		want   string // by what each packet is decided
	}{
		{"udp", 53, true, "", "state default default guard"},
		{"tcp", 53, true, "", "state default default guard"},
		{"udp", 53, false, "expected accept, but it is drop", "default default default guard guard"},
		{"tcp", 25, true, "the connection that it answers in is not opened; 192.0.2.10 to 9.9.9.9: reject: egress-policy, rule \"no-smtp\" of egress in untrusted, ", "default default default guard"},
	} {
		cfg := parseConfig(t, string(config.Reference)+fmt.Sprintf(steps, c.proto, c.port, c.open))
		results, err := RunTests(cfg)
		if err != nil {
			t.Fatal(err)
		}
		r := results[len(results)-1]
		var by []string
		for _, s := range r.Steps {
			for _, a := range s.Answers {
				by = append(by, a.By)
			}
		}
		if got := strings.Join(by, " "); got != c.want || !strings.HasPrefix(r.Failed, c.failed) || (c.failed == "") != (r.Failed == "") {
			t.Errorf("%s %d, open %t: %q, by %s", c.proto, c.port, c.open, r.Failed, got)
		}
		if c.open && r.Failed == "" {
			if cov := CoverageOf(cfg, results[len(results)-1:]); cov.Hit != 2 { // what it was opened by, and what refused the others
				t.Errorf("%s: %d rules are met", c.proto, cov.Hit)
			}
		}
	}
}
