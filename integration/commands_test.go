package integration

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/integration/wire"
	"udrouter/router"
)

// command runs the program outside of every lab and returns what it wrote.
func command(t *testing.T, wantStatus int, args ...string) (stdout, stderr string) {
	t.Helper()
	cmd := exec.CommandContext(testContext(t), wire.Exe, args...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	status := 0
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			t.Fatal(err)
		}
		status = exit.ExitCode()
	}
	if status != wantStatus {
		t.Errorf("udrouter %s ended with status %d, want %d\n%s%s", strings.Join(args, " "), status, wantStatus, out.String(), errs.String())
	}
	return out.String(), errs.String()
}

func contains(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("no %q in:\n%s", w, text)
		}
	}
}

// lineOf is the number of the first line with a text.
func lineOf(src, text string) string {
	return strconv.Itoa(strings.Count(src[:strings.Index(src, text)], "\n") + 1)
}

func TestCheckCommand(t *testing.T) {
	dir := t.TempDir()
	good := writeFile(t, dir, "router.hcl", config.Reference, 0o644)
	out, _ := command(t, 0, "check", "-c", good)
	contains(t, out, "is valid: 2 networks, 2 domus", "2 tests passed")
	wrong := strings.Replace(string(config.Reference), `expect = "reject"`, `expect = "accept"`, 1)
	out, errs := command(t, 1, "check", "-c", writeFile(t, dir, "wrong.hcl", []byte(wrong), 0o644))
	contains(t, errs, `test "guests send no mail"`, "wrong.hcl:"+lineOf(wrong, `test "guests send no mail"`), "expected accept, but it is reject", `rule "no-smtp"`, "1 of 2 tests failed")
	if out != "" {
		t.Errorf("failures are for stderr, but stdout has %q", out)
	}
	bad := strings.NewReplacer("192.0.2.0/24", "192.0.2.1/24", `"vif2.0"`, `"vif1.0"`).Replace(string(config.Reference))
	out, errs = command(t, 1, "check", "-c", writeFile(t, dir, "bad.hcl", []byte(bad), 0o644))
	contains(t, errs, "bad.hcl line "+lineOf(bad, "192.0.2.1/24"), "bad.hcl line "+lineOf(bad, `"vif1.0"`), `prefix = "192.0.2.1/24"`, "192.0.2.0/24", "vif1.0") // both mistakes, with the line
	if out != "" {
		t.Errorf("diagnostics are for stderr, but stdout has %q", out)
	}
	_, errs = command(t, 1, "check", "-c", dir+"/none.hcl")
	contains(t, errs, "none.hcl", "-c")
	_, errs = command(t, 1, "check")
	contains(t, errs, "config")
	_, errs = command(t, 1, "chekc")
	contains(t, errs, "check")
	out, _ = command(t, 0, "version")
	contains(t, out, "udrouter")
}

// Explain names what decides, with its line, whatever the verdict, and says what is wrong with a question.
func TestExplainCommand(t *testing.T) {
	src := string(config.Reference)
	file := writeFile(t, t.TempDir(), "router.hcl", config.Reference, 0o644)
	at := func(text string) string { return file + ":" + lineOf(src, text) }
	explain := func(status int, args ...string) (string, string) {
		t.Helper()
		return command(t, status, append([]string{"explain", "-c", file}, args...)...)
	}
	for _, c := range []struct {
		args                                           string
		verdict, by, reason, policy, chain, rule, from string
		source                                         string
	}{
		{"--from uplink --src 198.51.100.7 --dst 192.0.2.10 --proto tcp --port 22", "accept", "rule", "", "untrusted", "ingress", "ssh", "uplink", at(`rule "ssh"`)},
		{"--from domu:two --dst 2001:db8:ffff::7 --proto tcp --port 25", "reject", "rule", "egress-policy", "untrusted", "egress", "no-smtp", "domu:two", at(`rule "no-smtp"`)},
		{"--from domu:one --dst 192.0.2.11 --proto udp --port 53", "drop", "default", "ingress-policy", "untrusted", "ingress", "", "domu:one", at("  ingress {")},
		{"--from domu:one --src 192.0.2.11 --dst 198.51.100.7 --proto udp --port 53", "drop", "binding", "ip-binding", "", "", "", "domu:one", at(`domu "one"`)},
		{"--from domu:one --dst 127.0.0.1 --proto icmp", "drop", "guard", "martian-dst", "", "", "", "domu:one", ""},
		{"--from uplink --dst 2001:db8:3:2::dead --proto icmpv6", "drop", "way", "unbound-dst", "", "", "", "uplink", ""},
	} {
		out, _ := explain(0, append(strings.Fields(c.args), "--json")...)
		var a struct{ Verdict, By, Reason, Policy, Chain, Rule, Source, From, Text string }
		must(t, json.Unmarshal([]byte(out), &a))
		if a.Verdict != c.verdict || a.By != c.by || a.Reason != c.reason || a.Policy != c.policy || a.Chain != c.chain || a.Rule != c.rule || a.Source != c.source || a.From != c.from || a.Text == "" {
			t.Errorf("%s: %s", c.args, out)
		}
		out, _ = explain(0, strings.Fields(c.args)...)
		contains(t, out, c.verdict, c.reason, c.source)
	}
	out, _ := explain(0, strings.Fields("--from domu:one --dst domu:two --proto tcp --port 22")...)
	contains(t, out, "192.0.2.11", "2001:db8:3:2:1::11", at("  egress {"), at(`rule "ssh"`))
	for args, want := range map[string]string{
		"--from domu:three --dst 192.0.2.1 --proto icmp":              `no domu "three"`,
		"--from one --dst 192.0.2.1 --proto icmp":                     "domu:NAME",
		"--from uplink --dst 192.0.2.1/24 --proto icmp":               `--dst takes an IPv4 or IPv6 address, host or domu:NAME, not "192.0.2.1/24"`,
		"--from uplink --src host --dst 192.0.2.1 --proto icmp":       `--src takes an IPv4 or IPv6 address, not "host"`,
		"--from domu:one --dst uplink --proto icmp":                   `--dst takes an IPv4 or IPv6 address, host or domu:NAME, not "uplink"`,
		"--from uplink --dst 192.0.2.1 --proto tcp":                   "--port",
		"--from uplink --dst 192.0.2.1 --proto icmp --port 5":         "--port",
		"--from uplink --dst 192.0.2.1 --proto tpc --port 5":          "--proto",
		"--from uplink --src 2001:db8::1 --dst 192.0.2.1 --proto 132": "different families",
		"--from uplink --dst 192.0.2.1 --proto icmpv6":                "icmpv6",
		"--from uplink --dst 192.0.2.1":                               "proto",
	} {
		_, errs := explain(1, strings.Fields(args)...)
		contains(t, errs, want)
	}
}

// What the README shows of explain is what it says.
func TestREADMEExplains(t *testing.T) {
	text := readFile(t, "../README.md")
	_, text, ok := strings.Cut(text, "$ udrouter ")
	line, text, _ := strings.Cut(text, "\n")
	want, _, ok2 := strings.Cut(text, "```")
	if !ok || !ok2 {
		t.Fatal("README shows no command with its answer")
	}
	t.Chdir("..")
	if out, _ := command(t, 0, strings.Fields(line)...); out != want {
		t.Errorf("%s says\n%s", line, out)
	}
}

// The questions to a running router, for people and as JSON with the contract's keys, and without a router.
func TestQuestions(t *testing.T) {
	w := wire.New(t, strings.Replace(string(config.Reference), "\"enforce\"\n", "\"shadow\"\n", 1))
	must(t, w.Send[cases.One].Send(cases.UDP(w.Net.Router, cases.MAC1, cases.Two4, cases.X4, 8)))   // a drop
	must(t, w.Send[cases.One].Send(cases.UDP(w.Net.Router, cases.MAC1, cases.One4, cases.Two4, 8))) // which would be one
	w.Settle(cases.One)
	out, _ := command(t, 0, "status", "--socket", w.Proc.Socket)
	contains(t, out, "udr0", "eth0", "udrhost", "one", "ip-binding", "foreign MACs kept off the uplink: 0")
	out, _ = command(t, 0, "status", "--json", "--socket", w.Proc.Socket)
	var s map[string]any
	must(t, json.Unmarshal([]byte(out), &s))
	for _, key := range []string{"version", "uptime_s", "links", "domus", "flows", "drops", "foreign_mac_uplink", "reloads"} {
		if s[key] == nil {
			t.Errorf("status --json has no %s", key)
		}
	}
	for list, keys := range map[string][]string{
		"links": {"name", "rx_packets", "tx_packets", "rx_bytes", "tx_bytes", "errors"},
		"domus": {"name", "flows", "rx_packets", "tx_packets", "drops"},
	} {
		first := s[list].([]any)[0].(map[string]any)
		for _, key := range keys {
			if _, ok := first[key]; !ok {
				t.Errorf("status --json has no %s in %s", key, list)
			}
		}
	}
	if s["drops"].(map[string]any)["ip-binding"] != 1.0 || s["flows"].(map[string]any)["max"] == nil {
		t.Errorf("drops %v, flows %v", s["drops"], s["flows"])
	}
	out, _ = command(t, 0, "drops", "--socket", w.Proc.Socket)
	contains(t, out, "ip-binding", "IN SHADOW MODE", "ingress-policy")
	out, _ = command(t, 0, "drops", "--json", "--socket", w.Proc.Socket)
	var d struct {
		Drops map[string]int
		Domus map[string]map[string]int
		Would map[string]map[string]int `json:"would_drop_domus"`
	}
	must(t, json.Unmarshal([]byte(out), &d))
	if d.Would["two"]["ingress-policy"] != 1 {
		t.Errorf("drops --json says %s", out)
	}
	if d.Drops["ip-binding"] != 1 || d.Domus["one"]["ip-binding"] != 1 || len(d.Domus) != 1 {
		t.Errorf("drops --json says %s", out)
	}
	contains(t, out, `"src":"192.0.2.11"`)
	out, _ = command(t, 0, "drops", "--domu", "one", "--reason", "ip-binding", "--socket", w.Proc.Socket)
	contains(t, out, "one  udp 192.0.2.11:40000 > 198.51.100.7:5000")
	_, errs := command(t, 1, "drops", "--domu", "nobody", "--socket", w.Proc.Socket)
	contains(t, errs, `no domu "nobody"`)

	out, _ = command(t, 0, "flows", "--socket", w.Proc.Socket)
	contains(t, out, "STATE", "one", "domu:one", "domu:two", "192.0.2.10:40000", "192.0.2.11:5000", "unreplied", "(shadow)")
	var l router.FlowList
	out, _ = command(t, 0, "flows", "--json", "--domu", "two", "--proto", "udp", "--socket", w.Proc.Socket)
	must(t, json.Unmarshal([]byte(out), &l))
	if len(l.Flows) != 1 || !l.Flows[0].Shadow || l.Flows[0].Packets != 1 {
		t.Errorf("flows --json says %s", out)
	}
	_, errs = command(t, 1, "flows", "--state", "open", "--socket", w.Proc.Socket)
	contains(t, errs, `state "open"`, "established")
	out, _ = command(t, 0, "neighbours", "--socket", w.Proc.Socket)
	contains(t, out, "gateway", "reachable", "192.0.2.10", cases.MAC1.String(), "vif1.0")
	out, _ = command(t, 0, "__complete", "flows", "--socket", w.Proc.Socket, "--domu", "")
	contains(t, out, "one\ntwo\n")
	out, _ = command(t, 0, "__complete", "drops", "--socket", w.Proc.Socket, "--reason", "")
	contains(t, out, "ip-binding\n")

	must(t, w.Proc.Stop())
	for _, question := range []string{"status", "drops", "flows", "neighbours"} {
		_, errs := command(t, 1, question, "--socket", w.Proc.Socket)
		contains(t, errs, "no router answers", "--socket")
	}
}

// The first of the README's two commands, as a user runs it.
func TestLabCommand(t *testing.T) {
	out, _ := command(t, 0, "lab")
	contains(t, out, " held, 0 failed", "one MAC on the uplink")
}

// Ctrl-C, and a terminal that is closed, end a lab in order at any moment: nothing is left of it.
func TestLabInterrupted(t *testing.T) {
	for _, c := range []struct {
		name, at string // a word of its output
		signal   syscall.Signal
	}{
		{"at once", "", syscall.SIGINT},
		{"while it shows", "Who reaches whom", syscall.SIGINT},
		{"while a guest forges", "What a guest cannot do", syscall.SIGHUP},
	} {
		t.Run(c.name, func(t *testing.T) {
			tmp := t.TempDir()
			cmd := exec.CommandContext(testContext(t), wire.Exe, "lab")
			cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			out, err := cmd.StdoutPipe()
			must(t, err)
			must(t, cmd.Start())
			scan := bufio.NewScanner(out)
			for scan.Scan() && !strings.Contains(scan.Text(), c.at) {
			}
			must(t, cmd.Process.Signal(c.signal))
			for scan.Scan() {
			}
			var exit *exec.ExitError
			if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Errorf("ended with %v, want status 1", err)
			}
			if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
			if err := syscall.Kill(-cmd.Process.Pid, 0); err != syscall.ESRCH {
				t.Errorf("a process is left: %v", err)
			}
		})
	}
}

// A terminal is asked for nothing by commands that only print: what answers late, or not at all, as a serial console without anybody, would keep them waiting.
func TestTerminalIsNotAsked(t *testing.T) {
	cmd := exec.Command("script", "-qec", wire.Exe+" version", "/dev/null")
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "CI=") { // by which libraries forbear
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, "TERM=xterm")
	out, err := cmd.Output()
	must(t, err)
	if s := string(out); !strings.HasPrefix(s, "udrouter ") || strings.ContainsRune(s, '\x1b') {
		t.Errorf("%q", s)
	}
}
