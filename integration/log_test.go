package integration

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/integration/wire"
)

// A router that logs JSON says nothing else, from its start to its end, and also of why it does not start; what it drops it names by reason and guest.
func TestLogJSON(t *testing.T) {
	src := strings.Replace(string(config.Reference), `format = "text"`, `format = "json"`, 1)
	w := wire.New(t, src)
	for range 3 {
		must(t, w.Send[cases.One].Send(cases.UDP(w.Net.Router, cases.MAC1, cases.Two4, cases.X4, 8)))
	}
	w.Passed(cases.One)
	must(t, w.Proc.AwaitLog(testContext(t), regexp.MustCompile(`"msg":"dropped","reason":"ip-binding","packets":\d,"seconds":10,"domu":"one"`)))
	must(t, w.Proc.Stop())
	messages(t, w.Proc.Log(), "confined", "ready", "dropped", "told to end")

	file := writeFile(t, t.TempDir(), "router.hcl", []byte(strings.Replace(src, `uplink "eth0"`, `uplink "eth7"`, 1)), 0o600)
	out := ended(t, w.Lab.Dom0.Command(testContext(t), wire.Exe, "run", "-c", file, "--state", t.TempDir(), "--socket", t.TempDir()+"/control.sock"), 1)
	messages(t, out, "the router ends")
}

// messages wants a log of JSON alone, with these messages in it.
func messages(t *testing.T, log string, want ...string) {
	t.Helper()
	seen := map[string]bool{}
	for line := range strings.Lines(log) {
		var r struct{ Time, Level, Msg string }
		if err := json.Unmarshal([]byte(line), &r); err != nil || r.Time == "" || r.Level == "" || r.Msg == "" {
			t.Errorf("%v: %s", err, line)
		}
		seen[r.Msg] = true
	}
	for _, m := range want {
		if !seen[m] {
			t.Errorf("no %q in:\n%s", m, log)
		}
	}
}
