package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"udrouter/integration/cases"
	"udrouter/integration/wire"
	"udrouter/policy"
)

// Every tool has something that is seen of it when it does what it is run for. Its reasons are such as there are.
func TestToolsShowSomething(t *testing.T) {
	reasons := map[string]bool{}
	for r := range policy.Reasons {
		reasons[policy.Reason(r).String()] = true
	}
	rows, err := rowsOf("TOOLS.md")
	wire.Must(t, err)
	text, err := table(rows) // each tool has a row
	wire.Must(t, err)
	if was, err := os.ReadFile("TOOLS.md"); err != nil || string(was) != text {
		t.Errorf("TOOLS.md is not what the list of tools makes of its rows: %v", err)
	}
	for _, l := range tools {
		if l.drops == "" && l.passes == 0 && !l.bridge && !l.anew && l.to == "" && l.answers.least == 0 {
			t.Errorf("%s: nothing tells whether it has sent anything", l.args)
		}
		for r := range strings.FieldsSeq(l.drops) {
			if !reasons[r] {
				t.Errorf("%s: there is no reason %s", l.args, r)
			}
		}
		if l.answers != (answers{}) && l.answer == nil {
			t.Errorf("%s has answers, and nothing that tells them", l.args)
		}
		if l.why != "" && !strings.Contains(text, "\n- "+strings.SplitN(l.why, "\n", 2)[0]+"\n") {
			t.Errorf("%s: the table does not say why", l.args)
		}
	}
}

// A choice of no tool, or of one that is not installed, is an error: it would be a success that shows nothing.
func TestChoice(t *testing.T) {
	for _, args := range [][]string{{"-only", "no such tool"}, {"-only", "("}} {
		if err := run(t.Context(), args, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "-only") {
			t.Errorf("%v: %v", args, err)
		}
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := chosen("arping -c"); err == nil || !strings.Contains(err.Error(), "not installed: arping; -install") {
		t.Errorf("without tools: %v", err)
	}
}

// What a tool's run is worth is told by what is seen of it: here by small tools of which it is known.
func TestToolsAreJudged(t *testing.T) {
	s, err := newScene(t.Context(), wire.Exe)
	wire.Must(t, err)
	t.Cleanup(func() { wire.Must(t, s.close()) })
	dir := t.TempDir()
	syn := func(most int) *opening {
		return &opening{"SYNs", func(p *policy.Packet) bool { return p.Proto == policy.ProtoTCP }, most}
	}
	for i, c := range []struct {
		script string
		tool   tool
		want   string // of what is said against it; "": nothing
	}{
		{"exit 3", tool{to: "198.51.100.7/32"}, "exit status 3"},
		{"echo usage: x; exit 255", tool{to: "198.51.100.7/32"}, "usage: x"},
		{"exec sleep 60", tool{to: "198.51.100.7/32"}, "did not end in 1 s"},
		{"true", tool{to: "198.51.100.7/32", endless: true}, "ended by itself"},
		{"true", tool{to: "198.51.100.7/32"}, "nothing of it came to the router"},
		{"true", tool{bridge: true}, "no frame with another's MAC"},
		{"echo x >/dev/udp/198.51.100.7/9", tool{to: "198.51.100.7/32", passes: 1}, ""},
		{"echo x >/dev/udp/198.51.100.7/9", tool{to: "198.51.100.7/32", passes: 9}, "want 9 at least"},
		{"echo x >/dev/udp/198.51.100.7/9", tool{drops: "arp-spoof"}, "nothing was dropped as arp-spoof"},
		{"echo x >/dev/udp/192.0.2.11/9; exit 1", tool{drops: "ingress-policy", status: 1}, ""},
		{"echo x >/dev/udp/192.0.2.11/9; exec sleep 60", tool{drops: "ingress-policy", endless: true}, ""},
		{"echo 80/tcp open http >&2; echo x >/dev/udp/192.0.2.11/9", tool{drops: "ingress-policy", answer: ports}, "1 answers, want 0 at most"},
		{"echo '80/tcp open|filtered http'; echo x >/dev/udp/192.0.2.11/9", tool{drops: "ingress-policy", answer: ports}, ""},
		{"echo x >/dev/udp/192.0.2.11/9", tool{drops: "ingress-policy", answer: ports, answers: some}, "0 answers, want 1 at least"},
		{"echo x >/dev/udp/192.0.2.11/443", tool{drops: "ingress-policy"}, ""},
		{"exec 3<>/dev/tcp/192.0.2.11/443", tool{to: "192.0.2.11/32", status: 1}, "frames came to the neighbour"}, // which its rules admit
		{"exec 3<>/dev/tcp/192.0.2.11/443", tool{to: "192.0.2.11/32", status: 1, open: syn(1)}, ""},
		{"exec 3<>/dev/tcp/192.0.2.11/443", tool{to: "192.0.2.11/32", status: 1, open: syn(0)}, "1 frames came to the neighbour, want 0 at most"},
		{"exec 3<>/dev/tcp/192.0.2.11/443", tool{to: "192.0.2.11/32", status: 1, open: echoes(5)}, "1 of 1 frames that came to the neighbour are no echo requests"},
	} {
		path := filepath.Join(dir, fmt.Sprintf("tool%d", i))
		wire.Must(t, os.WriteFile(path, []byte("#!/bin/bash\n"+c.script+"\n"), 0o755))
		c.tool.args, c.tool.seconds = path, 1
		why := strings.Join(s.try(t.Context(), c.tool).bad(c.tool), "; ")
		if (c.want == "") != (why == "") || !strings.Contains(why, c.want) {
			t.Errorf("%s, %+v: said is %q, want %q", c.script, c.tool, why, c.want)
		}
	}
	if o := s.try(t.Context(), tool{args: filepath.Join(dir, "none"), seconds: 1}); o.err == nil || len(o.bad(tool{})) != 1 || o.String() != "did not run" {
		t.Errorf("a tool that is not there: %v", o)
	}
}

// What a tool's rules admit to the neighbour is bounded by kind and number: of echo requests, nothing of TCP, and no fragment that is not the first.
func TestOpenings(t *testing.T) {
	for _, l := range tools {
		if o := l.open; o != nil && (o.is == nil || o.what == "" || o.most < 1 || o.most > 10) {
			t.Errorf("%s: what may come to the neighbour is not bounded: %+v", l.args, *o)
		}
	}
	x, one := netip.MustParseAddrPort("[2001:db8:ffff::7]:1"), netip.MustParseAddrPort("[2001:db8:3:2:1::11]:443")
	mac := policy.MAC{2}
	echo := cases.Echo(mac, mac, x.Addr(), one.Addr(), false, 8)
	for what, c := range map[string]struct {
		frame []byte
		want  bool
	}{
		"an echo request": {echo, true},
		"an echo reply":   {cases.Echo(mac, mac, x.Addr(), one.Addr(), true, 8), false},
		"TCP":             {cases.TCP(mac, mac, x, one, 2, 1, 0, 0), false},
		"UDP":             {cases.UDP(mac, mac, x.Addr(), one.Addr(), 8), false},
		"half a header":   {echo[:40], false},
	} {
		if got := echoes(1).admits(c.frame); got != c.want {
			t.Errorf("%s: admitted is %v, want %v", what, got, c.want)
		}
	}
}

// What harms others is said against a tool, and so is what a neighbour has heard or the kernel's has not.
func TestOutcomesAreJudged(t *testing.T) {
	fine := outcome{sent: 1, came: 1}
	for what, change := range map[string]func(*outcome){
		"1 frames came to the neighbour":   func(o *outcome) { o.neighbour = 1 },
		"2 forged frames came":             func(o *outcome) { o.provider = 2 },
		"believed: x":                      func(o *outcome) { o.believed = []string{"x"} },
		"others were not served: EOF":      func(o *outcome) { o.lost = fmt.Errorf("EOF") },
		"nothing of it came to the router": func(o *outcome) { o.came = 0 },
	} {
		o := fine
		if why := o.bad(tool{}); len(why) > 0 {
			t.Fatalf("%v", why)
		}
		change(&o)
		if why := o.bad(tool{}); len(why) != 1 || !strings.Contains(why[0], what) {
			t.Errorf("%s: said is %q", what, why)
		}
	}
	for want, o := range map[string]outcome{
		"":                     {came: 1, neighbour: 5},
		"want 5 at most":       {came: 1, neighbour: 6},
		"1 of 5 frames":        {came: 1, neighbour: 5, unlike: 1},
		"are no echo requests": {came: 1, neighbour: 1, unlike: 1},
	} {
		if why := strings.Join(o.bad(tool{open: echoes(5)}), "; "); (want == "") != (why == "") || !strings.Contains(why, want) {
			t.Errorf("%+v: said is %q, want %q", o, why, want)
		}
	}
	if why := (outcome{heard: 1}).bad(tool{anew: true}); len(why) != 1 {
		t.Errorf("the attacker has heard the neighbour: %q", why)
	}
	list := []tool{{args: "x", anew: true}}
	if why := judge(list, [2][]outcome{{{}}, {{}}}); len(why) != 1 || !strings.Contains(why[0], "nothing is shown") {
		t.Errorf("the kernel's attacker heard nothing: %q", why)
	}
	if why := judge(list, [2][]outcome{{{heard: 1}}, {{}}}); len(why) != 0 {
		t.Errorf("said is %q", why)
	}
	if why := judge(list, [2][]outcome{{{err: os.ErrNotExist}}, {{}}}); len(why) != 1 {
		t.Errorf("the kernel's did not run: %q", why)
	}
}
