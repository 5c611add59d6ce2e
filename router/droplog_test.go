package router

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/policy"
	"udrouter/stack"
)

// lines are what a log of drops would say now, without time, level and message.
func lines(l *dropLog) []string {
	var b bytes.Buffer
	l.write(slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey {
			return slog.Attr{}
		}
		return a
	}})), "")
	return strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
}

// at is the place of the first line of the reference after another that holds a text.
func at(after, text string) string {
	src := string(config.Reference)
	i := strings.Index(src, after)
	i += strings.Index(src[i:], text)
	return fmt.Sprint("router.hcl:", 1+strings.Count(src[:i], "\n"))
}

// A line says which rule or default has refused the packet that it describes, and where that is written; in shadow mode as well.
func TestLogNamesRule(t *testing.T) {
	shadow := strings.Replace(string(config.Reference), `"enforce"`+"\n", `"shadow"`+"\n", 1)
	if shadow == string(config.Reference) {
		t.Fatal("the reference has changed")
	}
	smtp := func(s *sim) []byte {
		return cases.TCP(s.RouterMAC, cases.MAC1, netip.AddrPortFrom(cases.One4, 40000), netip.AddrPortFrom(cases.X4, 25), 2, 999, 0, 0)
	}
	toTwo := func(s *sim) []byte { return cases.UDP(s.RouterMAC, cases.MAC1, cases.One4, cases.Two4, 8) }
	const packet = "src_mac=00:16:3e:00:00:01 dst_mac=MAC ethertype=0x0800 src=192.0.2.10"
	for _, c := range []struct {
		name  string
		src   string
		frame func(s *sim) []byte
		want  string // between what was counted and the packet's source
	}{
		{"a rule", string(config.Reference), smtp, "reason=egress-policy packets=2 seconds=10 domu=one policy=untrusted chain=egress rule=no-smtp source=" + at("egress {", "rule \"") + " " + packet},
		{"a rule in shadow mode", shadow, smtp, "reason=egress-policy packets=2 seconds=10 domu=one policy=untrusted chain=egress rule=no-smtp source=" + at("egress {", "rule \"") + " " + packet},
		{"a default", string(config.Reference), toTwo, "reason=ingress-policy packets=2 seconds=10 domu=two policy=untrusted chain=ingress rule=default source=" + at("# To the guest.", "ingress {") + " " + packet},
		{"a default in shadow mode", shadow, toTwo, "reason=ingress-policy packets=2 seconds=10 domu=two policy=untrusted chain=ingress rule=default source=" + at("# To the guest.", "ingress {") + " " + packet},
		{"host", string(config.Reference), func(s *sim) []byte { return cases.UDP(s.RouterMAC, cases.MAC1, cases.One4, cases.Dom04, 8) },
			"reason=host-policy packets=2 seconds=10 domu=one policy=host chain=ingress rule=default source=" + at("host {", "ingress {") + " " + packet},
		{"no rule", string(config.Reference), func(s *sim) []byte {
			return cases.TCP(s.RouterMAC, cases.MAC1, netip.AddrPortFrom(cases.One4, 40000), netip.AddrPortFrom(cases.X4, 443), 16, 999, 9, 0)
		}, "reason=no-flow packets=2 seconds=10 domu=one " + packet},
		{"a guard", shadow, func(s *sim) []byte { return cases.UDP(s.RouterMAC, cases.MAC2, cases.Two4, cases.Two4, 8) }, "reason=loop packets=2 seconds=10 domu=two src_mac=00:16:3e:00:00:02"},
	} {
		s := newSim(t, parseConfig(t, c.src), seedKernel())
		s.learn()
		s.newWorker(stack.Guests).appearedAll()
		l, other := &s.dropLog, &s.wouldLog
		if strings.HasSuffix(c.name, "shadow mode") {
			l, other = other, l
		}
		for range 2 { // intervals
			s.send(stack.Guests, c.frame(s), c.frame(s))
			got, want := lines(l), strings.Replace(c.want, "MAC ", s.RouterMAC.String()+" ", 1)
			if len(got) != 1 || !strings.HasPrefix(got[0], want) {
				t.Errorf("%s:\n got %s\nwant %s", c.name, strings.Join(got, "\n"), want)
			}
			if got := lines(other); len(got) != 1 || got[0] != "" {
				t.Errorf("%s: also %q", c.name, got)
			}
		}
		if got := lines(l); got[0] != "" {
			t.Errorf("%s: said again: %q", c.name, got)
		}
	}
}

// The packets of an interval that no line describes cost no memory.
func TestLogAllocates(t *testing.T) {
	s := reference(t)
	var p policy.Packet
	p.Parse(cases.UDP(s.RouterMAC, cases.MAC1, cases.One4, cases.Two4, 8), policy.Offload{})
	g := s.current.Load().Guests[0]
	s.countBy(s.current.Load().engine, 1, g, policy.EgressPolicy, &p)
	if n := testing.AllocsPerRun(100, func() { s.countBy(s.current.Load().engine, 1, g, policy.EgressPolicy, &p) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Whatever arrives, a log says a line for each reason and interval, with how many packets that were; in JSON each field is one.
func TestLogIsBounded(t *testing.T) {
	s := reference(t)
	const n = 5000
	for range n {
		s.send(stack.Guests, cases.UDP(s.RouterMAC, cases.MAC1, cases.One4, cases.Two4, 8), cases.UDP(s.RouterMAC, cases.MAC2, cases.One4, cases.X4, 8))
	}
	var b bytes.Buffer
	s.dropLog.write(slog.New(slog.NewJSONHandler(&b, nil)), "dropped")
	got := map[string]map[string]any{}
	for line := range strings.Lines(b.String()) {
		var r map[string]any
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		reason, _ := r["reason"].(string)
		if got[reason] != nil {
			t.Errorf("a second line for %s: %s", reason, line)
		}
		got[reason] = r
	}
	if len(got) != 2 {
		t.Errorf("%d lines: %s", len(got), b.String())
	}
	for reason, want := range map[string]map[string]any{
		"ingress-policy": {"msg": "dropped", "level": "INFO", "packets": float64(n), "domu": "two", "policy": "untrusted", "src": "192.0.2.10", "dst": "192.0.2.11", "proto": "udp"},
		"ip-binding":     {"msg": "dropped", "level": "INFO", "packets": float64(n), "domu": "two", "src_mac": "00:16:3e:00:00:02", "src": "192.0.2.10"},
	} {
		for key, v := range want {
			if got[reason][key] != v {
				t.Errorf("%s: %s is %v, want %v", reason, key, got[reason][key], v)
			}
		}
	}
}

// An example of ARP and ND says who claims to be where.
func TestExampleClaims(t *testing.T) {
	other := policy.MAC{0, 0x16, 0x3e, 0, 0, 9}
	foreign6 := netip.MustParseAddr("2001:db8:9::9")
	for _, c := range []struct {
		reason policy.Reason
		frame  []byte
		addr   netip.Addr
		mac    string
	}{
		{policy.ARPSpoof, cases.ARP(policy.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, cases.MAC1, 1, other, cases.Two4, policy.MAC{}, cases.One4), cases.Two4, other.String()},
		{policy.NDSpoof, cases.NA(policy.MAC{0x33, 0x33, 0, 0, 0, 1}, cases.MAC1, cases.One6, netip.MustParseAddr("ff02::1"), foreign6, other, 0x20), foreign6, other.String()},
		{policy.OtherHost, cases.UDP(cases.MAC2, cases.MAC1, cases.One4, cases.X4, 8), netip.Addr{}, ""},
	} {
		s := reference(t)
		s.send(stack.Guests, c.frame)
		e, ok := s.Status().Examples[c.reason.String()]
		if !ok || e.ClaimedAddr != c.addr || e.ClaimedMAC != c.mac {
			t.Errorf("%s: %+v, want %s at %q", c.reason, e, c.addr, c.mac)
		}
		line := strings.Join(lines(&s.dropLog), "\n")
		if claims := "claimed_addr=" + c.addr.String() + " claimed_mac=" + c.mac; strings.Contains(line, claims) != c.addr.IsValid() {
			t.Errorf("%s: %s", c.reason, line)
		}
	}
}
