package router

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/policy"
	"udrouter/stack"
)

var (
	fromUplink = policy.Peer{Kind: policy.PeerUplink}
	fromHost   = policy.Peer{Kind: policy.PeerHost}
	fromOne    = policy.Peer{Kind: policy.PeerDomu, Domu: "one"}
	fromTwo    = policy.Peer{Kind: policy.PeerDomu, Domu: "two"}
)

// What explain says of a packet is what a router does with it: the same verdict, for the same reason, toward the same place.
func TestExplainIsWhatHappens(t *testing.T) {
	shadow := strings.Replace(string(config.Reference), `mode = "enforce"`, `mode = "shadow"`, 1)
	for name, src := range map[string]string{"reference": string(config.Reference), "shadow": shadow} {
		cfg := parseConfig(t, src)
		e, err := NewExplainer(cfg)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]int{}
		s := newSim(t, cfg, e.world.kernel)
		s.learn()
		s.newWorker(stack.Guests).appearedAll()
		for _, q := range questions() {
			answers, err := e.Explain(q)
			if err != nil {
				continue // no such packet
			}
			for _, a := range answers {
				seen[a.Verdict+" by "+a.By]++
				if a.By == "dom0" || q.From == fromUplink && a.To == "host" {
					continue // the kernel's matter
				}
				s.forget()
				if wrong := s.happens(a, q); wrong != "" {
					t.Errorf("%s: %+v\n%v\n%s", name, q, a, wrong)
				}
			}
		}
		if len(seen) < 6 {
			t.Errorf("%s: the questions met %v only", name, seen)
		}
	}
}

// forget makes a router that has met packets like one that has met none: no flows, no link-local addresses, whole shares, nothing counted.
func (s *sim) forget() {
	s.current.Load().engine.Forget()
	s.clock.Advance(10 * time.Millisecond) // in which the policies' limits give back what a packet took
	s.freshLimits()
	s.current.Load().LinkLocals = policy.NewLinkLocals()
	for i := range s.drops {
		s.drops[i].Store(0)
		s.would[i].Store(0)
	}
	s.quiet()
}

// questions are of all that may be sent from all to all.
func questions() (list []policy.Question) {
	addrs := []netip.Addr{cases.One4, cases.Two4, cases.One6, cases.Two6, cases.Unbound4, cases.Unbound6, cases.Router4, cases.Router6, cases.Gateway4, cases.Gateway6, cases.X4, cases.X6}
	for _, s := range []string{"127.0.0.1", "224.0.0.1", "255.255.255.255", "192.0.2.255", "240.0.0.1", "169.254.169.254", "fe80::1", "fe80::77", "ff02::1", "::1", "2002:7f00:1::", "0.0.0.0", "::"} {
		addrs = append(addrs, netip.MustParseAddr(s))
	}
	protos := []struct {
		proto int
		port  uint16
	}{{policy.ProtoTCP, 22}, {policy.ProtoTCP, 25}, {policy.ProtoTCP, 81}, {policy.ProtoUDP, 53}, {policy.ProtoUDP, 67}, {policy.ProtoUDP, 68}, {policy.ProtoUDP, 546},
		{policy.ProtoICMP, 0}, {policy.ProtoICMPv6, 0}, {132, 0}, {0, 0}, {44, 0}, {60, 0}}
	for _, from := range []policy.Peer{fromOne, fromTwo, fromHost, fromUplink} {
		for _, p := range protos {
			for _, to := range []policy.Peer{fromOne, fromTwo, fromHost} {
				list = append(list, policy.Question{From: from, To: to, Proto: p.proto, Port: p.port})
			}
			for _, dst := range addrs {
				list = append(list, policy.Question{From: from, Dst: dst, Proto: p.proto, Port: p.port})
			}
		}
		for _, src := range addrs {
			for _, dst := range []netip.Addr{cases.One4, cases.Two6, cases.X4, cases.X6} {
				list = append(list, policy.Question{From: from, Src: src, Dst: dst, Proto: policy.ProtoTCP, Port: 443})
			}
		}
	}
	return list
}

// happens sends the packet of an answer and tells what is not as the answer says.
func (s *sim) happens(a Answer, q policy.Question) string {
	f := stack.Probe{Src: a.Src, Dst: a.Dst, Proto: uint8(q.Proto), SrcPort: ephemeralPort, DstPort: q.Port}.Build()
	side, dst, src := stack.Guests, s.RouterMAC, cases.MAC1
	switch q.From {
	case fromTwo:
		src = cases.MAC2
	case fromUplink:
		side, dst, src = stack.UplinkSide, s.current.Load().UplinkMAC, gatewayMAC
	case fromHost:
		side = stack.Host
	}
	f.SetEthernet(dst, src, uint16(f.Bytes()[12])<<8|uint16(f.Bytes()[13]))
	s.newWorker(side).batch([]*stack.Frame{f})
	s.clock.RunImmediatelyScheduledJobs()
	out := map[string]int{}
	for name, sd := range map[string]stack.Side{"domu": stack.Guests, "uplink": stack.UplinkSide, "host": stack.Host} {
		out[name] = len(s.links[sd].Take())
	}
	counts := s.counts()
	if a.Verdict == "accept" {
		to, _, _ := strings.Cut(a.To, ":")
		if a.To == "router" {
			to = map[stack.Side]string{stack.Guests: "domu", stack.UplinkSide: "uplink", stack.Host: "host"}[side]
		}
		if len(counts) > 0 || out[to] != 1 || out["domu"]+out["uplink"]+out["host"] != 1 {
			return fmt.Sprintf("it counted %v, and frames came out at %v", counts, out)
		}
		return ""
	}
	if a.Reason == policy.Multicast.String() && len(counts) == 0 {
		return "" // the link's business
	}
	for r, n := range counts {
		if r.String() != a.Reason || n != 1 {
			return fmt.Sprintf("it counted %v", counts)
		}
	}
	if len(counts) == 0 {
		return fmt.Sprintf("it was not dropped: %v", out)
	}
	if told := out["domu"]+out["uplink"]+out["host"] > 0; a.Verdict == "reject" && !told && q.From != fromUplink {
		return "nobody was told"
	}
	return ""
}

// What dom0 sends without the router is its kernel's matter, and a guest that is pinned to a link-local address speaks from it.
func TestExplainBeside(t *testing.T) {
	src := string(config.Reference)
	at := strings.Index(src, "\nhost {")
	alone := src[:at] + src[at+strings.Index(src[at:], "\n}\n")+3:]
	pinned := strings.Replace(src, `["2001:db8:3:2:1::10"]`, `["fe80::10", "2001:db8:3:2:1::10"]`, 1)
	echo := func(from policy.Peer, dst string) policy.Question {
		return policy.Question{From: from, Dst: netip.MustParseAddr(dst), Proto: policy.ProtoICMPv6}
	}
	toDom0 := func(from netip.Addr, forge policy.Forgery) policy.Question {
		return policy.Question{From: fromUplink, Src: from, To: fromHost, Proto: policy.ProtoTCP, Port: 22, Forge: forge}
	}
	for _, c := range []struct {
		name, src                string
		q                        policy.Question
		verdict, by, reason, sub string
	}{
		{"dom0 to the internet", src, echo(fromHost, "2001:db8:ffff::7"), "accept", "dom0", "", "without the router"},
		{"dom0 to the provider's router", src, echo(fromHost, "2001:db8:3:2::1"), "accept", "dom0", "", "without the router"},
		{"dom0 to itself", src, policy.Question{From: fromHost, To: fromHost, Proto: policy.ProtoICMPv6}, "accept", "dom0", "", "without the router"},
		{"dom0 to a guest", src, echo(fromHost, "2001:db8:3:2:1::10"), "accept", "rule", "", "ping6"},
		{"dom0 to nobody", src, echo(fromHost, "2001:db8:3:2::dead"), "drop", "way", "unbound-dst", ""},
		{"dom0 as a guest", src, policy.Question{From: fromHost, Src: cases.One6, Dst: cases.Two6, Proto: policy.ProtoICMPv6}, "drop", "guard", "host-src", ""},
		{"dom0 as a guest to the internet", src, policy.Question{From: fromHost, Src: cases.One6, Dst: cases.X6, Proto: policy.ProtoICMPv6}, "accept", "dom0", "", "without the router"},
		{"the internet to dom0, as dom0", src, toDom0(standInHost[0], policy.NoForgery), "drop", "dom0", "martian-src", "such a source"},
		{"the internet to dom0, from nowhere", src, toDom0(netip.MustParseAddr("127.0.0.1"), policy.NoForgery), "drop", "dom0", "martian-src", "such a source"},
		{"a routing header to dom0", src, toDom0(cases.X6, policy.ForgeRoute), "drop", "dom0", "routing-header", "no routing header"},
		{"an ICMPv6 redirect to dom0, which a rule admits", src, toDom0(netip.MustParseAddr("fe80::9"), policy.ForgeRedirect), "accept", "rule", "", `rule "icmpv6" of uplink`},
		{"what a DHCP server says to dom0", src, toDom0(cases.X4, policy.ForgeDHCP), "accept", "dom0", "", "DHCP"},
		{"a DHCPv6 server from beyond the link", src, toDom0(cases.X6, policy.ForgeDHCP), "drop", "default", "host-policy", "uplink"},
		{"an echo reply that dom0 has not asked for", src, policy.Question{From: fromUplink, Src: cases.X6, To: fromHost, Proto: policy.ProtoICMPv6, Forge: policy.ForgeAnswer}, "drop", "dom0", "no-flow", "nothing of its own"},
		{"dom0 to a guest, without a host block", alone, echo(fromHost, "2001:db8:3:2:1::10"), "drop", "dom0", "no-route", "host block"},
		{"dom0 to the internet, without a host block", alone, echo(fromHost, "2001:db8:ffff::7"), "accept", "dom0", "", "without the router"},
		{"a guest to dom0, without a host block", alone, policy.Question{From: fromOne, To: fromHost, Proto: policy.ProtoICMPv6}, "drop", "way", "host-policy", ""},
		{"a guest to what dom0 may share", src, policy.Question{From: fromOne, Dst: cases.Router4, Proto: policy.ProtoTCP, Port: 22}, "drop", "way", "router-local", "host.ingress decides"},
		{"the internet to what dom0 may share", src, policy.Question{From: fromUplink, Dst: cases.Router4, Proto: policy.ProtoTCP, Port: 22}, "drop", "way", "router-local", "its kernel gets it"},
		{"the same, without a host block", alone, policy.Question{From: fromUplink, Dst: cases.Router4, Proto: policy.ProtoTCP, Port: 22}, "drop", "way", "router-local", "its kernel gets it"},
		{"a guest to the router, without a host block", alone, policy.Question{From: fromOne, Dst: cases.Router4, Proto: policy.ProtoTCP, Port: 22}, "drop", "way", "router-local", "only echo."},
		{"a pinned guest to its gateway", pinned, echo(fromOne, "fe80::1"), "accept", "router", "", "from fe80::10 "},
		{"a guest to its gateway", src, echo(fromOne, "fe80::1"), "accept", "router", "", "from fe80::216:3eff:fe00:1 "},
	} {
		e, err := NewExplainer(parseConfig(t, c.src))
		if err != nil {
			t.Fatal(err)
		}
		answers, err := e.Explain(c.q)
		if err != nil || len(answers) != 1 {
			t.Fatalf("%s: %v, %v", c.name, answers, err)
		}
		if a := answers[0]; a.Verdict != c.verdict || a.By != c.by || a.Reason != c.reason || !strings.Contains(a.String(), c.sub) {
			t.Errorf("%s: by %s\n%v", c.name, a.By, a)
		}
	}
}

// Test blocks ask the policy: those that hold, and each way not to.
func TestRunTests(t *testing.T) {
	const blocks = `
test "a" {
  from   = "domu:one"
  to     = "domu:two"
  proto  = "tcp"
  port   = 22
  expect = "accept"
  rule   = "ssh"
}
test "b" {
  from   = "domu:one"
  to     = "domu:two"
  proto  = "tcp"
  port   = 22
  expect = "drop"
}
test "c" {
  from   = "uplink"
  src    = "198.51.100.7"
  to     = "domu:one"
  proto  = "tcp"
  port   = 443
  expect = "accept"
  rule   = "ssh"
}
test "d" {
  from   = "domu:one"
  src    = "192.0.2.11"
  dst    = "198.51.100.7"
  proto  = "udp"
  port   = 53
  expect = "drop"
}
test "e" {
  from   = "uplink"
  src    = "198.51.100.7"
  to     = "host"
  proto  = "tcp"
  port   = 22
  expect = "accept"
  rule   = "ssh"
}
`
	failed := func(src string) (words []string) {
		t.Helper()
		results, err := RunTests(parseConfig(t, src))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range results {
			if r.Failed != "" {
				words = append(words, r.Name+": "+r.Failed)
			}
		}
		return words
	}
	src := string(config.Reference) + blocks
	if got, want := fmt.Sprint(failed(src)), `[b: expected drop, but it is accept c: expected rule "ssh" to decide]`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	got := fmt.Sprint(failed(strings.Replace(src, `mode = "enforce"`, `mode = "shadow"`, 1)))
	if want := "guests send no mail: expected reject, but it passes: a policy in shadow mode refuses nothing"; !strings.Contains(got, want) {
		t.Errorf("in shadow mode: %s", got)
	}
	at := strings.Index(src, "policy \"untrusted\"")
	block := src[at : at+strings.Index(src[at:], "\n}\n")+3]
	watched := strings.NewReplacer("\"untrusted\"", "\"watched\"", "\"enforce\"", "\"shadow\"", "ports = [25]", "ports = [81]").Replace(block)
	got = fmt.Sprint(failed(strings.Replace(string(config.Reference), "policy = \"untrusted\"", "policy = \"watched\"", 1) + watched + `
test "both refuse" {
  from   = "domu:one"
  to     = "domu:two"
  proto  = "tcp"
  port   = 81
  expect = "accept"
}
`))
	if want := "[both refuse: expected accept, but it is drop]"; got != want {
		t.Errorf("to who enforces: got %s, want %s", got, want)
	}
}

// A rule is covered when a test meets it, on whichever side; what stands behind a refusal is not, and in shadow mode nothing is refused.
func TestCoverage(t *testing.T) {
	test := func(from, to, proto string, port int) string {
		return fmt.Sprintf("test %q {\n from = %q\n to = %q\n proto = %q\n port = %d\n expect = \"drop\"\n}\n", fmt.Sprint(from, to, proto, port), from, to, proto, port)
	}
	none := string(config.Reference)
	none = none[:strings.Index(none, "\ntest ")] + "\n"
	for _, c := range []struct {
		name, tests string
		shadow      bool
		want        string
	}{
		{"none", "", false, "[]"},
		{"both ends", test("domu:one", "domu:two", "tcp", 22), false, "[untrusted egress  untrusted ingress ssh]"},
		{"egress refuses", test("domu:one", "domu:two", "tcp", 25), false, "[untrusted egress no-smtp]"},
		{"egress would refuse", test("domu:one", "domu:two", "tcp", 25), true, "[untrusted egress no-smtp untrusted ingress ]"},
		{"dom0", test("domu:one", "host", "udp", 53) + test("domu:one", "host", "udp", 54), false, "[untrusted egress  host ingress dns host ingress ]"},
		{"a guard", strings.Replace(test("domu:one", "domu:two", "udp", 53), " to =", " src = \"192.0.2.77\"\n to =", 1), false, "[]"},
	} {
		src := none + c.tests
		if c.shadow {
			src = strings.Replace(src, `mode = "enforce"`, `mode = "shadow"`, 1)
		}
		cfg := parseConfig(t, src)
		results, err := RunTests(cfg)
		if err != nil {
			t.Fatal(err)
		}
		missed := map[Decision]bool{}
		got := CoverageOf(cfg, results)
		for _, d := range got.Missed {
			missed[d] = true
		}
		var hit []string
		for _, d := range CoverageOf(cfg, nil).Missed {
			if !missed[d] {
				hit = append(hit, d.Policy+" "+d.Chain+" "+d.Rule)
			}
		}
		if fmt.Sprint(hit) != c.want || got.Hit != len(hit) || got.Total != got.Hit+len(got.Missed) || got.Total != 12 {
			t.Errorf("%s: %q of %d are met, %d, want %s", c.name, hit, got.Total, got.Hit, c.want)
		}
	}
}

// decided are the verdicts of a file's tests, a word each: of the steps, and within them of the families.
func decided(t *testing.T, src string) (words []string) {
	t.Helper()
	results, err := RunTests(parseConfig(t, src))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		for _, s := range r.Steps {
			for _, a := range s.Answers {
				words = append(words, fmt.Sprintf("%s: %s by %s", r.Name, a.Verdict, a.By))
			}
		}
	}
	return words
}

// withTests is the reference with other tests than its own.
func withTests(edit *strings.Replacer, blocks string) string {
	src := string(config.Reference)
	return edit.Replace(src[:strings.Index(src, "# A question to the policy")]) + blocks
}

// What comes for dom0 in a connection of its own is that connection's other direction, and nothing else is.
func TestAnswersToDom0(t *testing.T) {
	src := withTests(strings.NewReplacer(), `
test "tcp" {
  from   = "uplink"
  src    = "9.9.9.9"
  to     = "host"
  proto  = "tcp"
  port   = 443
  open   = true
  expect = "accept"
  then {
    src    = "9.9.9.10"
    expect = "drop"
  }
  then {
    port   = 444
    expect = "drop"
  }
  then {
    proto  = "udp"
    port   = 443
    expect = "drop"
  }
  then {
    expect = "accept"
  }
}
test "echo" {
  from   = "uplink"
  src    = "9.9.9.9"
  to     = "host"
  proto  = "icmp"
  open   = true
  expect = "accept"
  then {
    src    = "9.9.9.10"
    expect = "drop"
  }
}
`)
	results, err := RunTests(parseConfig(t, src))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.Failed != "" {
			t.Errorf("%s: %s", r.Name, r.Failed)
		}
	}
	if said := results[0].Steps[2].Answers[0].String(); !strings.Contains(said, "an answer from port 444") {
		t.Errorf("said of port 444 is %s", said)
	}
	if said := results[1].Steps[1].Answers[0].String(); !strings.Contains(said, ", an answer") || strings.Contains(said, "port") {
		t.Errorf("said of an echo reply is %s", said)
	}
}

// Guests of a bridge whose ports are not isolated meet in it: what one may send the other is not the router's to refuse, but for a foreign MAC.
func TestExplainWithoutIsolation(t *testing.T) {
	blocks := ""
	for _, forge := range []string{"", "arp", "source", "mac"} {
		blocks += fmt.Sprintf("test %q {\n  from   = \"domu:one\"\n  to     = \"domu:two\"\n  expect = \"drop\"\n", "forge "+forge)
		if forge != "arp" {
			blocks += "  proto  = \"tcp\"\n  port   = 23\n"
		}
		if forge != "" {
			blocks += fmt.Sprintf("  forge  = %q\n", forge)
		}
		blocks += "}\n"
	}
	for isolate, want := range map[string]map[string]string{
		"true":  {"": "drop by default", "arp": "drop by guard", "source": "drop by guard", "mac": "drop by guard"},
		"false": {"": "accept by dom0", "arp": "accept by dom0", "source": "accept by dom0", "mac": "drop by guard"},
	} {
		words := decided(t, withTests(strings.NewReplacer("isolate = true", "isolate = "+isolate), blocks))
		for _, w := range words {
			name, got, _ := strings.Cut(strings.TrimPrefix(w, "forge "), ": ")
			if got != want[name] {
				t.Errorf("isolate = %s, forge %q: %s, want %s", isolate, name, got, want[name])
			}
		}
		if len(words) < 7 {
			t.Errorf("isolate = %s: %d answers only", isolate, len(words))
		}
	}
}

// From the uplink dom0 itself takes nothing from a guest's address: of a proxied network, from none that a guest is bound to.
func TestExplainSpoofedToDom0(t *testing.T) {
	blocks := ""
	for _, src := range []string{"192.0.2.10", "192.0.2.77", "2001:db8:3:2:1::10", "2001:db8:3:2:1::77", "9.9.9.9"} {
		blocks += fmt.Sprintf("test %q {\n  from   = \"uplink\"\n  src    = %q\n  to     = \"host\"\n  proto  = \"tcp\"\n  port   = 22\n  expect = \"drop\"\n}\n", src, src)
	}
	want := []string{"192.0.2.10: drop by dom0", "192.0.2.77: drop by dom0", "2001:db8:3:2:1::10: drop by dom0", "2001:db8:3:2:1::77: accept by rule", "9.9.9.9: accept by rule"}
	if got := decided(t, withTests(strings.NewReplacer(), blocks)); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Dom0 reaches the router's addresses of a routed network, to which its kernel has a route, and not those of a proxied one.
func TestExplainDom0ToTheRouter(t *testing.T) {
	block := `
test "ping" {
  from   = "host"
  dst    = "192.0.2.1"
  proto  = "icmp"
  expect = "accept"
}
`
	for upstream, want := range map[string]string{"routed": "accept by router", "proxied": "drop by dom0"} {
		src := withTests(strings.NewReplacer(`upstream = "routed"`, fmt.Sprintf("upstream = %q", upstream)), block)
		if got := decided(t, src); len(got) != 1 || got[0] != "ping: "+want {
			t.Errorf("%s: %v, want %s", upstream, got, want)
		}
	}
}
