package integration

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"udrouter/integration/cases"
	"udrouter/integration/lab"
	"udrouter/policy"
	"udrouter/router"
)

// strangers are what the running router has dropped from guests for another MAC than theirs.
type strangers struct {
	*plugged
	t *testing.T
}

// counted is what `udrouter drops` tells of it, by guests' names, with the total as "".
func (s *strangers) counted() (map[string]uint64, router.DropExample) {
	s.t.Helper()
	var d struct {
		Drops    map[string]uint64
		Domus    map[string]map[string]uint64
		Examples map[string]router.DropExample
	}
	const reason = "mac-binding"
	out, _ := command(s.t, 0, "drops", "--json", "--reason", reason, "--socket", s.proc.Socket)
	must(s.t, json.Unmarshal([]byte(out), &d))
	m := map[string]uint64{"": d.Drops[reason]}
	for name, reasons := range d.Domus {
		m[name] = reasons[reason]
	}
	return m, d.Examples[reason]
}

// forge has a guest send so many frames from a MAC, and then waits for an answer to what it sends from its own.
func (s *strangers) forge(n *lab.Node, src policy.MAC, number int) {
	s.t.Helper()
	sender, err := n.Sender(n.Link)
	must(s.t, err)
	defer sender.Close()
	for i := range number {
		to := s.destinations()[i%4]
		must(s.t, sender.Send(cases.UDP(to, src, n.Addr4(), cases.X4, 100)))
	}
	ping(s.t, n, s.Internet.Addr4())
}

// destinations are MACs to which a forged frame goes.
func (s *strangers) destinations() []policy.MAC {
	return []policy.MAC{s.routerMAC(), policy.BroadcastMAC, cases.MAC2, {1, 0x80, 0xc2, 0, 0, 0xe}}
}

func (s *strangers) routerMAC() policy.MAC {
	s.t.Helper()
	mac, err := policy.ParseMAC(status(s.t, s.proc).RouterMAC)
	must(s.t, err)
	return mac
}

// want checks how many were counted since before.
func (s *strangers) want(when string, before map[string]uint64, want map[string]uint64) {
	s.t.Helper()
	now, example := s.counted()
	got := map[string]uint64{}
	for name, n := range now {
		if n -= before[name]; n > 0 {
			got[name] = n
		}
	}
	total := uint64(0)
	for _, n := range want {
		total += n
	}
	if total > 0 {
		want[""] = total
	}
	if !maps.Equal(got, want) {
		s.t.Errorf("%s: counted %v, want %v; an example: %+v", when, got, want, example)
	}
}

// What a guest sends with another MAC than its own the bridge drops, and it is counted for that guest all the same, once each, with an example, whoever's the
// MAC is: also of a port that hotplug brings, after the guest was given another MAC, on a vif that was made anew, and by the router that takes over.
func TestStrangersAreCounted(t *testing.T) {
	for name, src := range map[string]string{"isolated": hotplugFile, "not isolated": strings.Replace(hotplugFile, `bridge "xenbr0" {}`, `bridge "xenbr0" { isolate = false }`, 1)} {
		t.Run(name, func(t *testing.T) {
			state := t.TempDir() // which is taken away after the lab
			s := &strangers{&plugged{Lab: buildLab(t, src, lab.Options{}), t: t, state: state}, t}
			s.start()
			countStrangers(s, src)
		})
	}
}

func countStrangers(s *strangers, src string) {
	t := s.t
	one, two := s.Guest("one").Node, s.Guest("two").Node
	web := s.guest("vif7.0", "00:16:3e:00:00:77", "192.0.2.77", "2001:db8:3:2:1::77")
	contains(t, s.vif(0, "add", "--vif", "vif7.0", "--bridge", "xenbr0", "--mac", "00:16:3e:00:00:77", "--ip", "192.0.2.77, 2001:db8:3:2:1::77", "--domain", "web-1"), "bound")
	guests := []*lab.Node{one, two, web}
	for _, g := range guests {
		ping(t, g, s.Internet.Addr4())
		ping(t, g, s.Internet.Addr6())
	}
	// A port is watched from the moment at which the router is told of it, which nobody is told of.
	s.awaitWatch(web)
	before, _ := s.counted()
	for _, g := range guests {
		ping(t, g, s.Internet.Addr6())
	}
	s.want("honest frames", before, map[string]uint64{})

	for src, n := range map[policy.MAC]int{cases.Nobody: 40, cases.MAC2: 4, s.routerMAC(): 3, {}: 2, policy.BroadcastMAC: 1} {
		s.forge(one, src, n)
	}
	s.forge(web, cases.Nobody, 7)
	s.want("frames from other MACs", before, map[string]uint64{"one": 50, "web-1": 7})
	sniffer, err := two.Sniff(two.Link, lab.SniffOptions{Keep: func(f []byte) bool { return policy.MAC(f[6:12]) == cases.Nobody }})
	must(t, err)
	s.forge(one, cases.Nobody, 8)
	ping(t, two, s.Internet.Addr4())
	if n := sniffer.Count(func(lab.Frame) bool { return true }); n > 0 {
		t.Errorf("%d frames came to the neighbour", n)
	}
	_, e := s.counted()
	is := func(list []policy.MAC, mac string) bool {
		return slices.ContainsFunc(list, func(m policy.MAC) bool { return m.String() == mac })
	}
	if e.Domu != "web-1" && e.Domu != "one" || !is([]policy.MAC{cases.Nobody, cases.MAC2, s.routerMAC(), {}, policy.BroadcastMAC}, e.SrcMAC) || !is(s.destinations(), e.DstMAC) || e.Dst != cases.X4 {
		t.Errorf("the example is %+v", e)
	}
	out, _ := command(t, 0, "drops", "--reason", "mac-binding", "--socket", s.proc.Socket)
	contains(t, out, e.Domu, e.SrcMAC+" > "+e.DstMAC)

	before, _ = s.counted()
	was := s.proc
	s.proc = takeOver(t, s.Lab, was, "--state", s.state)
	<-was.Exited()
	must(t, was.Stop())
	s.want("after the next router has taken over", before, map[string]uint64{})
	s.forge(one, cases.MAC2, 9)
	s.forge(web, cases.MAC1, 2)
	s.want("by the next router", before, map[string]uint64{"one": 9, "web-1": 2})

	r := reloading{t, s.Lab, s.proc}
	mac := policy.MAC{0, 0x16, 0x3e, 0, 0, 0x71}
	r.reload(strings.Replace(src, "00:16:3e:00:00:01", mac.String(), 1), 0)
	must(t, one.SetLinkMAC(one.Link, mac))
	ping(t, one, s.Internet.Addr4())
	before, _ = s.counted()
	ping(t, one, s.Internet.Addr6())
	s.want("with the MAC of the new file", before, map[string]uint64{})
	s.forge(one, cases.MAC1, 5)
	s.want("with the MAC of the old file", before, map[string]uint64{"one": 5})

	one.MAC = mac
	must(t, s.Dom0.DelLink("vif1.0"))
	s.veth(one, "vif1.0")
	h, err := s.Dom0.Handle()
	must(t, err)
	vif, err := h.LinkByName("vif1.0")
	must(t, err)
	bridge, err := h.LinkByName("xenbr0")
	must(t, err)
	must(t, h.LinkSetMaster(vif, bridge))
	must(t, s.Dom0.SetUp("vif1.0"))
	for _, a := range one.Addrs {
		must(t, one.AddAddr(one.Link, a))
	}
	must(t, one.SetUp(one.Link))
	s.route(one)
	reaches(t, one, s.Internet.Addr4())
	s.awaitWatch(one)
	before, _ = s.counted()
	s.forge(one, cases.MAC1, 6)
	s.want("on a vif that was made anew", before, map[string]uint64{"one": 6})
}

// awaitWatch forges frames until one is counted.
func (s *strangers) awaitWatch(n *lab.Node) {
	s.t.Helper()
	before, _ := s.counted()
	must(s.t, lab.Await(testContext(s.t), "a frame to be counted", func() (bool, error) {
		s.forge(n, cases.Nobody, 1)
		now, _ := s.counted()
		return now[""] > before[""], nil
	}))
}
