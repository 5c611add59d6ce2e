package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"udrouter/policy"
	"udrouter/router"
)

// answering is a control socket that answers each request with a status and a text.
func answering(t *testing.T, code int, text string) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		fmt.Fprint(w, text)
	})}
	done := make(chan error)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() { server.Close(); <-done })
	return socket
}

// output is what a command prints.
func output(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	c := command()
	c.SetOut(&out)
	c.SetErr(&out)
	c.SetArgs(args)
	err := c.ExecuteContext(t.Context())
	return out.String(), err
}

// table is a text's lines, each with its columns by single spaces.
func table(text string) (lines []string) {
	for _, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return lines
}

// The tables of drops have the counts and examples that are asked for, and no others.
func TestDropsTable(t *testing.T) {
	const head, shadow = "REASON DOMU PACKETS ONE OF THE LAST", "IN SHADOW MODE DOMU PACKETS ONE OF THE LAST"
	at := time.Now()
	example := func(domu, to string) router.DropExample {
		return router.DropExample{At: at, Domu: domu, Src: netip.MustParseAddr("192.0.2.10"), Dst: netip.MustParseAddr(to), Proto: "tcp", SrcPort: 1, DstPort: 2}
	}
	line := func(domu, to string) string {
		return fmt.Sprintf("%s %s tcp 192.0.2.10:1 > %s:2", at.Format(time.TimeOnly), domu, to)
	}
	for _, c := range []struct {
		domu, reason string
		want         []string
	}{
		{"", "", []string{head, "ip-binding 7 " + line("one", "9.9.9.1"), "one 4", "two 3", "no-flow 5 " + line("two", "9.9.9.2"), "two 5", "",
			shadow, "egress-policy 6 " + line("one", "9.9.9.3"), "one 6", "ingress-policy 8 " + line("two", "9.9.9.4"), "two 8"}},
		{"one", "", []string{head, "ip-binding 4 " + line("one", "9.9.9.1"), "one 4", "", shadow, "egress-policy 6 " + line("one", "9.9.9.3"), "one 6"}},
		{"two", "", []string{head, "ip-binding 3", "two 3", "no-flow 5 " + line("two", "9.9.9.2"), "two 5", "", shadow, "ingress-policy 8 " + line("two", "9.9.9.4"), "two 8"}},
		{"", "no-flow", []string{head, "no-flow 5 " + line("two", "9.9.9.2"), "two 5"}},
		{"", "egress-policy", []string{head, "", shadow, "egress-policy 6 " + line("one", "9.9.9.3"), "one 6"}},
		{"two", "ip-binding", []string{head, "ip-binding 3", "two 3"}},
		{"one", "no-flow", []string{head}},
	} {
		s := router.Status{
			Drops: map[string]uint64{"ip-binding": 7, "no-flow": 5}, WouldDrop: map[string]uint64{"egress-policy": 6, "ingress-policy": 8},
			Examples:      map[string]router.DropExample{"ip-binding": example("one", "9.9.9.1"), "no-flow": example("two", "9.9.9.2")},
			WouldExamples: map[string]router.DropExample{"egress-policy": example("one", "9.9.9.3"), "ingress-policy": example("two", "9.9.9.4")},
			Domus: []router.DomuStatus{
				{Name: "one", Reasons: map[string]uint64{"ip-binding": 4}, WouldDrop: map[string]uint64{"egress-policy": 6}},
				{Name: "two", Reasons: map[string]uint64{"ip-binding": 3, "no-flow": 5}, WouldDrop: map[string]uint64{"ingress-policy": 8}},
			},
		}
		r, err := reportDrops(s, c.domu, c.reason)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(c.want, shadow) != (len(r.WouldExamples) > 0) || strings.Contains(fmt.Sprint(c.want), " > ") != (len(r.Examples)+len(r.WouldExamples) > 0) {
			t.Errorf("%q, %q: examples %v, %v", c.domu, c.reason, r.Examples, r.WouldExamples)
		}
		for _, e := range []map[string]router.DropExample{r.Examples, r.WouldExamples} {
			for reason, e := range e {
				if c.reason != "" && reason != c.reason || c.domu != "" && e.Domu != c.domu {
					t.Errorf("%q, %q: an example for %s of %s", c.domu, c.reason, reason, e.Domu)
				}
			}
		}
		var b bytes.Buffer
		if err := printDrops(&b, r); err != nil {
			t.Fatal(err)
		}
		if got := table(b.String()); !slices.Equal(got, c.want) {
			t.Errorf("%q, %q:\n%s\nwant\n%s", c.domu, c.reason, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
	}
}

// A line about a packet has what its reason goes by, and the date where it is another day's.
func TestExampleLine(t *testing.T) {
	const mac, to, claimed = "00:16:3e:00:00:09", "fe:ff:ff:ff:ff:01", "00:16:3e:00:00:02"
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.Local)
	a, b := netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("192.0.2.1")
	target := netip.MustParseAddr("2001:db8::9")
	ip := router.DropExample{At: now, SrcMAC: mac, DstMAC: to, EtherType: policy.EtherIPv4, Src: a, Dst: b, Proto: "icmp"}
	before := ip
	before.At = now.Add(-13 * time.Hour)
	na := router.DropExample{At: now, Domu: "one", SrcMAC: mac, DstMAC: to, EtherType: policy.EtherIPv6, Src: target, Dst: target, Proto: "icmpv6", ClaimedAddr: target, ClaimedMAC: claimed}
	for _, c := range []struct {
		reason string
		e      router.DropExample
		want   string
	}{
		{"no-route", ip, "12:00:00  icmp 192.0.2.9 > 192.0.2.1"},
		{"no-route", before, "2026-03-01 23:00:00  icmp 192.0.2.9 > 192.0.2.1"},
		{"mac-binding", ip, "12:00:00  0x0800 00:16:3e:00:00:09 > fe:ff:ff:ff:ff:01  icmp 192.0.2.9 > 192.0.2.1"},
		{"arp-spoof", router.DropExample{At: now, Domu: "one", SrcMAC: mac, DstMAC: to, EtherType: policy.EtherARP, ClaimedAddr: a, ClaimedMAC: claimed},
			"12:00:00  one  0x0806 00:16:3e:00:00:09 > fe:ff:ff:ff:ff:01  claims 192.0.2.9 00:16:3e:00:00:02"},
		{"nd-spoof", na, "12:00:00  one  0x86dd 00:16:3e:00:00:09 > fe:ff:ff:ff:ff:01  icmpv6 2001:db8::9 > 2001:db8::9  claims 2001:db8::9 00:16:3e:00:00:02"},
	} {
		if got := exampleLine(c.reason, c.e, now); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", c.reason, got, c.want)
		}
	}
}

// A reason that there is not is a mistake; completion offers all that there are.
func TestDropsReason(t *testing.T) {
	socket := answering(t, http.StatusOK, `{"drops": {"no-flow": 3}}`)
	for reason, want := range map[string]string{"bogus": `there is no reason "bogus"`, "none": `there is no reason "none"`, "no-flow": "", "malformed": ""} {
		out, err := output(t, "drops", "--socket", socket, "--reason", reason)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v\n%s", reason, err, out)
		}
	}
	out, err := output(t, "__complete", "drops", "--reason", "")
	if err != nil {
		t.Fatal(err)
	}
	for r := policy.Reason(1); int(r) < policy.Reasons; r++ {
		if !slices.Contains(strings.Split(out, "\n"), r.String()) {
			t.Errorf("completion has no %s:\n%s", r, out)
		}
	}
}

// Who asks and where to is completed from the file: guests, dom0 where the file has it, and the uplink as a sender.
func TestExplainCompletion(t *testing.T) {
	for _, c := range []struct {
		args string
		want []string
	}{
		{"-c ../../config/reference.hcl --from", []string{"uplink", "host", "domu:one", "domu:two"}},
		{"-c ../../config/reference.hcl --dst", []string{"host", "domu:one", "domu:two"}},
		{"-c ../../config/testdata/good/crlf.hcl --dst", []string{"domu:one"}},
		{"-c nothing.hcl --from", []string{"uplink"}},
	} {
		out, err := output(t, append(append([]string{"__complete", "explain"}, strings.Fields(c.args)...), "")...)
		if err != nil {
			t.Fatal(err)
		}
		list, _, _ := strings.Cut(out, ":4\n") // ShellCompDirectiveNoFileComp
		if got := strings.Fields(list); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.args, got, c.want)
		}
	}
}

// A user who may ask the router learns who may ask for vifs.
func TestVifListForbidden(t *testing.T) {
	if _, err := output(t, "vif", "list", "--socket", answering(t, http.StatusForbidden, "only root may do this")); err == nil || !strings.Contains(err.Error(), "only root may list") {
		t.Error(err)
	}
}
