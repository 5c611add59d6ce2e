package hotplug

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"udrouter/config"
	"udrouter/policy"
)

const file = `uplink "eth0" {}
bridge "xenbr0" {}
network "v4" {
  prefix   = "192.0.2.0/24"
  gateway  = "192.0.2.1"
  upstream = "routed"
}
domu "rest" {
  match = "any"
}
`

// What is named is attached once; nothing new is nothing changed, and another file gets the same. The router's own MAC is nobody's, though the file has none.
func TestPorts(t *testing.T) {
	s, _ := open(t)
	var log bytes.Buffer
	interfaces := map[string]int{"vif7.0": 7, "vif8.0": 8}
	p := &Ports{Store: s, Interfaces: func() (map[string]int, error) { return interfaces, nil }, RouterMAC: policy.MAC{2, 0, 0, 0, 0, 1}, Log: slog.New(slog.NewTextHandler(&log, nil))}
	base, diags := config.Parse("router.hcl", []byte(file))
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	attach := func(c *config.Config, guests string) *config.Config {
		t.Helper()
		next, err := p.Attach(c)
		must(t, err)
		names := ""
		for _, d := range next.Domus {
			names += d.Name + " "
		}
		if names != guests || next.Bridge != base.Bridge {
			t.Errorf("guests are %q, want %q; bridge %+v", names, guests, next.Bridge)
		}
		return next
	}
	first := attach(base, "")
	must(t, s.Put(config.Attachment{Vif: "vif7.0", Index: 7, Domain: "a", MAC: "00:16:3e:00:00:07"}))
	must(t, s.Put(config.Attachment{Vif: "vif8.0", Index: 8, Domain: "b", MAC: "02:00:00:00:00:01"}))
	second := attach(first, "a ")
	if at := second.Attached[1]; at.State != config.AttachRefused || !strings.Contains(at.Text, "the router") {
		t.Errorf("the router's MAC: %+v", at)
	}
	if attach(second, "a ") != second {
		t.Error("nothing has changed, and it is another configuration")
	}
	other := *base
	if next := attach(&other, "a "); next.Base != &other || next == second {
		t.Error("another file's configuration is the one of before")
	}
	p.Tell(nil, second.Attached)
	p.Tell(second.Attached, second.Attached)
	if text := log.String(); strings.Count(text, "\n") != 2 || !strings.Contains(text, "vif bound") || !strings.Contains(text, "level=WARN msg=\"vif refused\"") {
		t.Errorf("%s", text)
	}
	if list, _ := load(t, s, interfaces); list[0].Refused || !list[1].Refused {
		t.Errorf("noted as refused: %+v", list)
	}
	if attach(second, "a ") != second {
		t.Error("that one is noted as refused makes another configuration")
	}
	log.Reset()
	must(t, os.WriteFile(filepath.Join(s.dir, "vif9.0.json"), nil, 0o600))
	delete(interfaces, "vif7.0")
	third := attach(second, "")
	p.Tell(second.Attached, third.Attached)
	if text := log.String(); strings.Count(text, "\n") != 2 || !strings.Contains(text, "vif9.0.json") || !strings.Contains(text, "vif gone") {
		t.Errorf("%s", text)
	}
	p.Interfaces = func() (map[string]int, error) { return nil, errors.New("no netlink") }
	if _, err := p.Attach(third); err == nil {
		t.Error("without the interfaces it attaches")
	}
}
