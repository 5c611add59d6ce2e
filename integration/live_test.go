package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"udrouter/config"
	"udrouter/integration/live"
	"udrouter/integration/wire"
	"udrouter/policy"
	"udrouter/router"
)

// liveRow is a test block in short, and what is to be seen of its packets.
type liveRow struct {
	from, src, to, proto string // to: a peer or an address
	port                 int
	expect, rule         string
	at                   string   // who gets it; "" for nobody
	counted              []string // what the router counts, whichever family it is
}

// liveRows are under the reference's policy.
var liveRows = []liveRow{
	{"domu:one", "", "9.9.9.9", "tcp", 443, "accept", "", "uplink", nil},
	{"domu:one", "", "2620:fe::9", "tcp", 443, "accept", "", "uplink", nil},
	{"domu:two", "", "9.9.9.9", "udp", 53, "accept", "", "uplink", nil},
	{"domu:two", "", "9.9.9.9", "icmp", 0, "accept", "", "uplink", nil},
	{"domu:two", "", "2620:fe::9", "icmpv6", 0, "accept", "", "uplink", nil},
	{"domu:one", "", "192.0.1.1", "icmp", 0, "accept", "", "uplink", nil},         // the provider's router
	{"domu:one", "", "2001:db8:3:2::1", "icmpv6", 0, "accept", "", "uplink", nil}, // it lies in the guests' prefix
	{"domu:one", "", "192.0.1.9", "tcp", 80, "accept", "", "uplink", nil},         // a station on the uplink
	{"domu:one", "", "9.9.9.9", "47", 0, "accept", "", "uplink", nil},             // no flow of the next one
	{"uplink", "9.9.9.9", "domu:one", "47", 0, "drop", "", "", []string{"ingress-policy"}},
	{"domu:one", "", "domu:two", "tcp", 22, "accept", "ssh", "domu:two", nil},
	{"domu:one", "", "domu:two", "tcp", 23, "drop", "", "", []string{"ingress-policy"}},
	{"domu:one", "", "domu:two", "icmpv6", 0, "accept", "ping6", "domu:two", nil},
	{"domu:one", "", "domu:two", "47", 0, "drop", "", "", []string{"ingress-policy"}},
	{"domu:one", "", "9.9.9.9", "tcp", 25, "reject", "no-smtp", "", []string{"egress-policy"}},
	{"domu:one", "", "2620:fe::9", "tcp", 25, "reject", "no-smtp", "", []string{"egress-policy"}},
	{"domu:one", "", "192.0.2.1", "icmp", 0, "accept", "", "router", nil},
	{"domu:one", "", "192.0.2.1", "tcp", 80, "drop", "", "", []string{"router-local"}},
	{"domu:one", "", "192.0.2.77", "udp", 53, "drop", "", "", []string{"unbound-dst"}},
	{"domu:one", "", "127.0.0.1", "icmp", 0, "drop", "", "", []string{"martian-dst"}},
	{"domu:one", "192.0.2.11", "9.9.9.9", "udp", 53, "drop", "", "", []string{"ip-binding"}},
	{"domu:one", "2001:db8:3:2:1::11", "domu:two", "tcp", 22, "drop", "", "", []string{"ip6-binding"}},
	{"uplink", "198.51.100.7", "domu:one", "tcp", 443, "accept", "web", "domu:one", nil},
	{"uplink", "2001:db8:cafe::1", "domu:one", "tcp", 22, "accept", "ssh", "domu:one", nil},
	{"uplink", "198.51.100.7", "domu:one", "udp", 53, "drop", "", "", []string{"ingress-policy"}},
	{"uplink", "198.51.100.7", "domu:two", "icmp", 0, "accept", "ping4", "domu:two", nil},
	{"uplink", "198.51.100.7", "192.0.2.77", "tcp", 22, "drop", "", "", []string{"unbound-dst"}},
	{"uplink", "192.0.2.11", "domu:one", "tcp", 22, "drop", "", "", []string{"spoof-ingress"}},
	{"uplink", "198.51.100.7", "host", "tcp", 22, "accept", "ssh", "host", []string{"uplink:ssh"}},
	{"uplink", "198.51.100.7", "host", "tcp", 23, "drop", "", "", []string{"uplink:"}},
	{"uplink", "198.51.100.7", "host", "47", 0, "drop", "", "", []string{"uplink:"}},
	{"uplink", "2001:db8:cafe::1", "host", "icmpv6", 0, "accept", "icmpv6", "host", []string{"uplink:icmpv6"}},
	{"uplink", "192.0.2.11", "host", "tcp", 22, "drop", "", "", nil}, // whatever the rules say
	{"uplink", "2001:db8:3:2:1::11", "host", "tcp", 22, "drop", "", "", nil},
	{"host", "", "domu:one", "tcp", 22, "accept", "ssh", "domu:one", nil},
	{"host", "", "domu:one", "udp", 53, "drop", "", "", []string{"ingress-policy"}},
	{"host", "", "9.9.9.9", "tcp", 25, "accept", "", "uplink", nil},
	{"host", "198.51.100.7", "domu:one", "tcp", 22, "drop", "", "", []string{"host-src"}},
	{"domu:two", "", "host", "udp", 53, "accept", "dns", "host", nil},
	{"domu:two", "", "host", "tcp", 53, "drop", "", "", []string{"host-policy"}},
	{"domu:one", "fe80::216:3eff:fe00:1", "fe80::1", "icmpv6", 0, "accept", "", "router", nil},
	{"domu:one", "fe80::bad", "2620:fe::9", "icmpv6", 0, "drop", "", "", []string{"link-local"}},
}

// block is the row as a file has it.
func (r liveRow) block(i int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "test %q {\n  from = %q\n", fmt.Sprintf("row %d: %v", i, r), r.from)
	to := "to"
	if r.to != "host" && !strings.HasPrefix(r.to, "domu:") {
		to = "dst"
	}
	for _, kv := range [][2]string{{"src", r.src}, {to, r.to}, {"proto", r.proto}, {"expect", r.expect}, {"rule", r.rule}} {
		if kv[1] != "" {
			fmt.Fprintf(&b, "  %s = %q\n", kv[0], kv[1])
		}
	}
	if r.port != 0 {
		fmt.Fprintf(&b, "  port = %d\n", r.port)
	}
	return b.String() + "}\n"
}

// withoutTests is the reference without its test blocks.
func withoutTests() string {
	src := string(config.Reference)
	from := strings.Index(src, "# A question to the policy")
	to := strings.Index(src, "# Where `udrouter status`")
	return src[:from] + src[to:]
}

func parsed(t *testing.T, src string) *config.Config {
	t.Helper()
	cfg, diags := config.Parse("router.hcl", []byte(src))
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return cfg
}

// runLive runs the tests of one file through a router of another, which is the same unless something is to go wrong.
func runLive(t *testing.T, src, routers string) []router.TestResult {
	t.Helper()
	results, err := live.Run(testContext(t), parsed(t, src), live.Options{Source: []byte(routers), Exe: wire.Exe, Args: []string{"--confine=strict"}})
	must(t, err)
	return results
}

// Real packets fare as the policy says, and are seen where they are to be and nowhere else; in whatever order.
func TestLive(t *testing.T) {
	for _, backward := range []bool{false, true} {
		rows := slices.Clone(liveRows)
		if backward {
			slices.Reverse(rows)
		}
		src := withoutTests()
		for i, r := range rows {
			src += r.block(i)
		}
		for i, r := range runLive(t, src, src) {
			row := rows[i]
			if r.Failed != "" {
				t.Errorf("%s: %s", r.Name, r.Failed)
			}
			for _, a := range r.Steps[0].Answers {
				at, counted := []string{}, append([]string{}, row.counted...)
				if row.at != "" {
					at = append(at, row.at)
				}
				if a.Live == nil || a.Live.Verdict != row.expect || !slices.Equal(a.Live.At, at) || !slices.Equal(a.Live.Counted, counted) || (a.Live.Told != "") != (row.expect == "reject") {
					t.Errorf("%s: %s to %s: %+v", r.Name, a.Src, a.Dst, a.Live)
				}
			}
		}
	}
}

// A router that does something else than the file says is found out.
func TestLiveFindsOut(t *testing.T) {
	edit := func(pairs ...string) func(string) string { return strings.NewReplacer(pairs...).Replace }
	for _, c := range []struct {
		name string
		row  liveRow
		edit func(string) string
		want string
	}{
		{"it lets through", liveRow{from: "uplink", src: "9.9.9.9", to: "domu:one", proto: "udp", port: 53, expect: "drop"}, edit("ingress {\n    default = \"drop\"\n    rule \"ssh\"", "ingress {\n    default = \"accept\"\n    rule \"ssh\""),
			"expected drop, but sent for real it is accept; seen at domu:one"},
		{"it drops", liveRow{from: "domu:one", to: "domu:two", proto: "tcp", port: 22, expect: "accept"}, edit("ports  = [22]", "ports  = [2222]"),
			"expected accept, but sent for real it is drop; counted ingress-policy"},
		{"it drops an answer", liveRow{from: "domu:one", to: "domu:two", proto: "icmpv6", expect: "accept"}, edit(`proto  = "icmpv6"`, `proto  = "icmp"`),
			"expected accept, but sent for real it is drop; counted ingress-policy"},
		{"it is silent", liveRow{from: "domu:one", to: "9.9.9.9", proto: "tcp", port: 25, expect: "reject"}, edit(`"reject"`, `"drop"`),
			"expected reject, but sent for real it is drop; counted egress-policy"},
		{"it tells", liveRow{from: "domu:one", to: "domu:two", proto: "udp", port: 53, expect: "drop"}, edit("ingress {\n    default = \"drop\"\n    rule \"ssh\"", "ingress {\n    default = \"reject\"\n    rule \"ssh\""),
			"expected drop, but sent for real it is reject; told by ICMP type 3 code "},
		{"another rule", liveRow{from: "domu:one", to: "9.9.9.9", proto: "tcp", port: 25, expect: "reject", rule: "no-smtp"}, edit("egress {\n    # When", "egress {\n    rule \"nothing\" {\n action = \"accept\"\n from = [\"domu:two\"]\n }\n # When"), ""},
		{"dom0 is open", liveRow{from: "uplink", src: "9.9.9.9", to: "host", proto: "tcp", port: 23, expect: "drop"}, edit("uplink {\n    default = \"drop\"", "uplink {\n    default = \"accept\""),
			"expected drop, but sent for real it is accept; seen at host"},
		{"another's guest gets it", liveRow{from: "domu:one", to: "domu:two", proto: "tcp", port: 22, expect: "accept"},
			edit(`ipv4   = ["192.0.2.11"]`, `ipv4   = ["192.0.2.10"]`, `ipv4 = ["192.0.2.10"]`, `ipv4 = ["192.0.2.11"]`), "expected accept, but sent for real it is drop"},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := withoutTests() + c.row.block(0)
			routers := c.edit(src)
			if routers == src {
				t.Fatal("the router's file is the same")
			}
			r := runLive(t, src, routers)[0]
			if !strings.HasPrefix(r.Failed, c.want) || (r.Failed == "") != (c.want == "") {
				t.Errorf("got %q, want %q", r.Failed, c.want)
			}
		})
	}
}

// Tests that have nothing to do with the router, or of which nothing can be known, are results like others, and say so; a group of the control socket that
// this machine lacks does not matter.
func TestLiveGoesOn(t *testing.T) {
	src := strings.NewReplacer(`upstream = "routed"`, `upstream = "proxied"`, `#group = "adm"`, `group = "nobody-has-this"`,
		`"2001:db8:3:2:1::11"`, `"2001:db8:3:2:1::11", "fe80::6"`).Replace(withoutTests())
	if strings.Count(src, `"proxied"`) < 2 || !strings.Contains(src, "fe80::6") || !strings.Contains(src, "nobody-has-this") {
		t.Fatal("the file is the same")
	}
	rows := []liveRow{
		{from: "host", to: "192.0.2.1", proto: "icmp", expect: "drop"}, // dom0's kernel has no route to the router there
		{from: "domu:one", to: "9.9.9.9", proto: "tcp", port: 443, expect: "accept"},
		{from: "domu:two", src: "fe80::6", to: "fe80::1", proto: "icmpv6", expect: "accept"}, // a link-local address of its own
	}
	for i, r := range rows {
		src += r.block(i)
	}
	for _, r := range runLive(t, src, src) {
		if r.Failed != "" || r.Steps[0].Answers[0].Live == nil {
			t.Errorf("%s: %s", r.Name, r.Failed)
		}
	}
}

// Guests of a bridge whose ports are not isolated meet in it, offline and live.
func TestLiveWithoutIsolation(t *testing.T) {
	src := strings.Replace(withoutTests(), "isolate = true", "isolate = false", 1)
	src += liveRow{from: "domu:one", to: "domu:two", proto: "tcp", port: 23, expect: "accept"}.block(0)
	for i, forge := range []string{"arp", "nd", "ra", "source", "mac"} {
		keys, expect := "", "accept"
		if forge == "source" || forge == "mac" {
			keys = "  proto = \"tcp\"\n  port = 23\n"
		}
		if forge == "mac" {
			expect = "drop"
		}
		src += fmt.Sprintf("test \"%d %s\" {\n  from = \"domu:one\"\n  to = \"domu:two\"\n  forge = %q\n%s  expect = %q\n}\n", i, forge, forge, keys, expect)
	}
	for _, r := range runLive(t, src, src) {
		if r.Failed != "" {
			t.Errorf("%s: %s", r.Name, r.Failed)
		}
		for _, a := range r.Steps[0].Answers {
			if want := map[string][]string{"accept": {"domu:two"}, "drop": {}}[r.Steps[0].Expect]; a.Live == nil || !slices.Equal(a.Live.At, want) {
				t.Errorf("%s: %+v, want it at %v", r.Name, a.Live, want)
			}
		}
	}
}

// Guests that hotplug names are there as well: those of a template, and one whose block has no vif.
func TestLiveHotplug(t *testing.T) {
	src := strings.Replace(withoutTests(), `  vif    = "vif2.0"`+"\n", "", 1) + `
domu "web" {
  match  = "web-*"
  policy = "untrusted"
}
`
	for i, r := range []liveRow{
		{from: "domu:web", to: "domu:two", proto: "tcp", port: 22, expect: "accept"},
		{from: "domu:two", to: "domu:web", proto: "tcp", port: 443, expect: "accept"},
		{from: "uplink", src: "9.9.9.9", to: "domu:web", proto: "udp", port: 443, expect: "drop"},
		{from: "domu:web", to: "9.9.9.9", proto: "47", expect: "accept"},
		{from: "uplink", src: "9.9.9.9", to: "domu:web", proto: "47", expect: "drop"},
	} {
		src += r.block(i)
	}
	for _, r := range runLive(t, src, src) {
		if r.Failed != "" || r.Steps[0].Answers[0].Live == nil {
			t.Errorf("%s: %s", r.Name, r.Failed)
		}
	}
}

// asUser is the environment of a process of this test that becomes a program as an ordinary user: the mode of the device TUN and the program.
const asUser = "UDROUTER_AS_USER"

func becomeOrdinary(user string) error {
	mode, program, _ := strings.Cut(user, " ")
	n, err := strconv.ParseUint(mode, 8, 32)
	if err != nil {
		return err
	}
	return becomeUser(program, uint32(n), nil)
}

// An ordinary user runs live tests in a user namespace, of the program's making or one that is there, and is told what is missing where that cannot be.
func TestLiveWithoutRoot(t *testing.T) {
	well := []string{"ok    anyone reaches the web server\n", "2 passed, 0 failed\n"}
	closed := []string{"opening /dev/net/tun: permission denied (its mode is 0600)", "chmod 0666 /dev/net/tun (as root)"}
	for _, c := range []struct {
		mode   string
		in     string // of unshare(1)
		status int
		want   []string
	}{
		{"0666", "", 0, well},
		{"0666", "-Ur", 0, well},
		{"0666", "-Urn", 0, well},
		{"0600", "", 1, closed},
		{"0600", "-Ur", 1, closed},
		{"0600", "-Urn", 1, closed},
	} {
		dir := publicDir(t)
		must(t, os.Mkdir(filepath.Join(dir, "tmp"), 0o777))
		must(t, os.Chmod(filepath.Join(dir, "tmp"), 0o777))
		program := writeFile(t, dir, "udrouter", []byte(readFile(t, wire.Exe)), 0o755)
		if c.in != "" {
			program = writeFile(t, dir, "inside", fmt.Appendf(nil, "#!/bin/sh\nexec unshare %s %s \"$@\"\n", c.in, program), 0o755)
		}
		cmd := exec.CommandContext(testContext(t), "/proc/self/exe", "test", "-c", writeFile(t, dir, "router.hcl", config.Reference, 0o644), "--live", "--junit", filepath.Join(dir, "tmp", "report.xml"))
		cmd.Env = append(os.Environ(), asUser+"="+c.mode+" "+program, "TMPDIR="+filepath.Join(dir, "tmp"))
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
		out, _ := cmd.CombinedOutput()
		if got := cmd.ProcessState.ExitCode(); got != c.status {
			t.Errorf("mode %s, in %q: status %d", c.mode, c.in, got)
		}
		contains(t, string(out), c.want...)
		if c.status == 0 {
			contains(t, readFile(t, filepath.Join(dir, "tmp", "report.xml")), `tests="2" failures="0"`)
		}
	}
}

// forgedRows are blocks of everything that can be forged, from whom it can be, and of answers.
const forgedRows = `
test "answers" {
  from   = "uplink"
  src    = "9.9.9.9"
  to     = "domu:one"
  proto  = "PROTO"
  PORT
  open   = true
  expect = "accept"
  then {
    src    = "8.8.8.8"
    expect = "drop"
  }
  then {
    forge  = "source"
    expect = "drop"
  }
  then {
    forge  = "mac"
    expect = "drop"
  }
}
`

// What is forged comes to nobody, and answers to whom they are due alone.
func TestLiveForged(t *testing.T) {
	src := withoutTests()
	for _, proto := range []string{"tcp", "udp", "icmp"} {
		port := "port = 5353"
		if proto == "icmp" {
			port = ""
		}
		src += strings.NewReplacer("answers", proto+" answers", "PROTO", proto, "PORT", port).Replace(forgedRows)
	}
	for i, r := range []struct{ from, keys string }{
		{"domu:one", `to = "domu:two"`}, {"domu:one", `dst = "9.9.9.9"`}, {"domu:two", `dst = "2620:fe::9"`},
		{"uplink", "src = \"9.9.9.9\"\n  to = \"domu:two\""}, {"uplink", "src = \"2620:fe::9\"\n  to = \"domu:one\""},
	} {
		for _, f := range policy.Forgeries() {
			v6 := strings.Contains(r.keys, "2620:")
			if v4 := strings.Contains(r.keys, "9.9.9.9"); v4 && !f.Has(false) || v6 && !f.Has(true) || r.from == "uplink" && f == policy.ForgeRA {
				continue
			}
			keys := r.keys
			if f == policy.ForgeSource && r.from == "uplink" {
				keys = keys[strings.Index(keys, "\n")+1:]
			}
			if !f.Message() {
				keys += "\n  proto = \"tcp\"\n  port = 22"
			}
			src += fmt.Sprintf("test \"forged %d %v\" {\n  from = %q\n  %s\n  forge = %q\n  expect = \"drop\"\n}\n", i, f, r.from, keys, f)
		}
	}
	for _, r := range runLive(t, src, src) {
		if r.Failed != "" {
			t.Errorf("%s: %s", r.Name, r.Failed)
		}
		for _, s := range r.Steps {
			for _, a := range s.Answers {
				if a.Live == nil || a.Live.Verdict != a.Verdict || s.Expect == "drop" && len(a.Live.At) > 0 {
					t.Errorf("%s, %s to %s: %v, but %+v", r.Name, a.Src, a.Dst, a, a.Live)
				}
				// The bridge stops some before the router counts them, and the kernel's filter on the uplink others.
				if a.Live != nil && s.Expect == "drop" && s.Forge != policy.ForgeMAC && !(a.From == "uplink" && len(a.Live.Counted) == 0) && !slices.Contains(a.Live.Counted, a.Reason) {
					t.Errorf("%s, %s to %s: counted %v, want %s", r.Name, a.Src, a.Dst, a.Live.Counted, a.Reason)
				}
			}
		}
	}
}
