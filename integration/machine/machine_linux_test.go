package machine

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"udrouter/integration/lab"
)

// What a machine writes stays in it, its processes and network are its own, and nothing of it is left.
func TestMachine(t *testing.T) {
	for _, boot := range []bool{false, true} {
		t.Run(map[bool]string{false: "bare", true: "booted"}[boot], func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			ns, err := lab.NewNS("machine")
			if err != nil {
				t.Fatal(err)
			}
			defer ns.Close()
			m, err := Start(ctx, ns, boot)
			if err != nil {
				t.Fatal(err)
			}
			out, err := m.Command(ctx, "sh", "-c", "echo here > /etc/udrouter-test; cat /proc/1/comm; ls /sys/class/net; cat /proc/1/cgroup").CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			want := "sh\nlo\n"
			if boot {
				want = "systemd\nlo\n"
			}
			if !strings.HasPrefix(string(out), want) {
				t.Errorf("the machine says %q, want %q", out, want)
			}
			if b, err := os.ReadFile(m.Path("/etc/udrouter-test")); err != nil || string(b) != "here\n" {
				t.Errorf("in the machine's file is %q, %v", b, err)
			}
			if _, err := os.Stat("/etc/udrouter-test"); err == nil {
				t.Error("the machine writes to the host")
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
			if left, _ := filepath.Glob(m.dir + "*"); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}
