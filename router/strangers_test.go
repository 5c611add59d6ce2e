package router

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"syscall"
	"testing"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/policy"
	"udrouter/stack"
)

// fakePort is a port that a test watches.
type fakePort struct {
	own    policy.MAC
	n      uint64
	frame  []byte
	closed bool
	refuse error // of SetMAC
}

func (p *fakePort) SetMAC(own policy.MAC) error {
	if p.refuse == nil {
		p.own = own
	}
	return p.refuse
}

func (p *fakePort) Close() error {
	p.closed = true
	return nil
}

func (p *fakePort) Take() (n uint64, frame []byte, err error) {
	n, frame, p.n, p.frame = p.n, p.frame, 0, nil
	return n, frame, nil
}

// watching is a router whose ports a test watches, by their indexes.
type watching struct {
	*sim
	ports map[int]*fakePort
	fail  error
	log   bytes.Buffer
}

func watchPorts(t *testing.T, ports map[string]stack.Port) *watching {
	w := &watching{sim: seed(t), ports: map[int]*fakePort{}}
	w.Router.log = slog.New(slog.NewTextHandler(&w.log, nil))
	w.WatchPort = func(index int, own policy.MAC) (PortWatch, error) {
		if w.fail != nil {
			return nil, w.fail
		}
		w.ports[index] = &fakePort{own: own}
		return w.ports[index], nil
	}
	w.place(ports)
	w.beginStrangers()
	return w
}

// place has the kernel have those ports.
func (w *watching) place(ports map[string]stack.Port) {
	w.t.Helper()
	w.kernel.Ports = ports
	if err := w.update(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *watching) watched(when string, want map[int]policy.MAC) {
	w.t.Helper()
	for index, p := range w.ports {
		if own, ok := want[index]; p.closed == ok || ok && p.own != own {
			w.t.Errorf("%s: port %d is watched for %v, closed %v; want %v", when, index, p.own, p.closed, own)
		}
	}
	for index := range want {
		if w.ports[index] == nil {
			w.t.Errorf("%s: port %d is not watched", when, index)
		}
	}
}

// Watched are the bridge's ports that guests are bound to, and no others; also when they are made anew. Flows are not decided anew for that.
func TestWatchedPorts(t *testing.T) {
	one, two := stack.Port{Index: 7, Master: "xenbr0"}, stack.Port{Index: 8, Master: "xenbr0"}
	w := watchPorts(t, map[string]stack.Port{"vif1.0": one, "vif2.0": {Index: 8, Master: "other"}, "vif3.0": {Index: 9, Master: "xenbr0"}})
	generation := w.current.Load().generation
	w.watched("at first", map[int]policy.MAC{7: cases.MAC1})
	w.place(map[string]stack.Port{"vif1.0": one, "vif2.0": two})
	w.watched("with two", map[int]policy.MAC{7: cases.MAC1, 8: cases.MAC2})
	w.ports[7].n = 3
	one.Index = 17
	w.place(map[string]stack.Port{"vif1.0": one, "vif2.0": two})
	w.watched("one made anew", map[int]policy.MAC{17: cases.MAC1, 8: cases.MAC2})
	if n := w.current.Load().ByMAC(cases.MAC1).Counters.Drops[policy.MACBinding].Load(); n != 3 {
		t.Errorf("%d of the last count were counted, want 3", n)
	}
	if w.current.Load().generation != generation {
		t.Error("flows are decided anew")
	}
	w.endStrangers()
	w.watched("at the end", nil)
	if w.countStrangers(); w.ports[17].closed == false {
		t.Error("a router that has ended watches")
	}
}

// A guest that hotplug has bound has the port of the index that was named, not another that has its name.
func TestWatchedPortOfHotplug(t *testing.T) {
	w := watchPorts(t, map[string]stack.Port{"vif1.0": {Index: 7, Master: "xenbr0"}})
	cfg := *w.current.Load().plan.config
	cfg.Domus = append([]config.Domu(nil), cfg.Domus...)
	for index, want := range map[int]bool{7: true, 8: false} {
		cfg.Domus[0].Index = index
		next, err := newPlan(&cfg, w.current.Load().plan)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.install(next); err != nil {
			t.Fatal(err)
		}
		if got := w.watches.ports[7] != nil; got != want {
			t.Errorf("port 7 of a guest at %d: watched %v", index, got)
		}
	}
}

// What a port has counted is the guest's, with an example; another MAC of the guest's is followed on the port itself, or by another watch.
func TestStrangersOfGuest(t *testing.T) {
	w := watchPorts(t, map[string]stack.Port{"vif1.0": {Index: 7, Master: "xenbr0"}})
	frame := cases.UDP(w.RouterMAC, cases.Nobody, cases.One4, cases.X4, 8)
	w.ports[7].n, w.ports[7].frame = 40, frame
	s := w.Status()
	if s.Drops["mac-binding"] != 40 || s.Domus[0].Reasons["mac-binding"] != 40 || s.Domus[1].Drops != 0 {
		t.Errorf("counted %v, %v", s.Drops, s.Domus)
	}
	if e := s.Examples["mac-binding"]; e.Domu != "one" || e.SrcMAC != cases.Nobody.String() || e.DstMAC != w.RouterMAC.String() || e.Src != cases.One4 || e.Dst != cases.X4 {
		t.Errorf("the example is %+v", e)
	}
	w.ports[7].n = 2
	w.countStrangers()
	if got := lines(&w.dropLog); len(got) != 1 || !strings.Contains(got[0], "reason=mac-binding packets=42") || !strings.Contains(got[0], "src_mac="+cases.Nobody.String()) {
		t.Errorf("the log says %q", got)
	}

	for _, refuse := range []error{nil, errors.New("no memory")} {
		mac := policy.MAC{0, 0x16, 0x3e, 0, 0, 0x71}
		if refuse != nil {
			mac[5]++
		}
		was := w.ports[7]
		was.refuse = refuse
		cfg := *w.current.Load().plan.config
		cfg.Domus = append([]config.Domu(nil), cfg.Domus...)
		cfg.Domus[0].MAC = mac
		next, err := newPlan(&cfg, w.current.Load().plan)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.install(next); err != nil {
			t.Fatal(err)
		}
		w.countStrangers()
		if (w.ports[7] == was) != (refuse == nil) || was.closed != (refuse != nil) {
			t.Errorf("SetMAC says %v: another watch %v, the first closed %v", refuse, w.ports[7] != was, was.closed)
		}
		w.watched("with another MAC", map[int]policy.MAC{7: mac})
	}
}

// A port that cannot be watched is told of once in the log, and in the status as long as it is so; one that has just gone is not.
func TestUnwatchedPort(t *testing.T) {
	w := watchPorts(t, nil)
	w.fail = syscall.ENODEV
	w.place(map[string]stack.Port{"vif1.0": {Index: 7, Master: "xenbr0"}})
	if s := w.Status(); w.log.Len() > 0 || len(s.Warnings) > 0 {
		t.Errorf("of a port that is gone: %q %s", s.Warnings, &w.log)
	}
	w.fail = errors.New("too many open files")
	for range 3 {
		if s := w.Status(); len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], `vif1.0: what guest "one" sends`) || strings.Count(w.log.String(), "too many open files") != 1 {
			t.Errorf("warnings %q, log %s", s.Warnings, &w.log)
		}
	}
	w.fail = nil
	if s := w.Status(); len(s.Warnings) > 0 {
		t.Errorf("warnings %q", s.Warnings)
	}
	w.watched("in the end", map[int]policy.MAC{7: cases.MAC1})
}
