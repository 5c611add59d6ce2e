package router

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/policy"
	"udrouter/stack"
)

// around is a file and a kernel for reloads, which notes what it was told.
type around struct {
	next    *config.Config
	err     error // of Load
	refuse  error // of Narrow
	late    error // of Follow
	log     []string
	narrows func()
}

func (a *around) Load() (*config.Config, error) { return a.next, a.err }

func (a *around) Narrow(*config.Config) error {
	a.log = append(a.log, "narrow")
	if a.narrows != nil {
		a.narrows()
	}
	return a.refuse
}

func (a *around) Follow(cfg *config.Config) error {
	a.log = append(a.log, "follow "+map[bool]string{true: "next", false: "old"}[cfg == a.next])
	return a.late
}

// reload goes on with another file.
func (s *sim) reload(src string) error {
	s.t.Helper()
	s.Around = &around{next: parseConfig(s.t, src)}
	return s.Reload()
}

// edit is the seed's file with pairs of old and new replaced.
func edit(pairs ...string) string {
	src := meeting(seedFile)
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(src, pairs[i]) {
			panic("the file has no " + pairs[i])
		}
		src = strings.Replace(src, pairs[i], pairs[i+1], 1)
	}
	return src
}

const ingressOpen = "  ingress {\n    default = \"accept\"\n  }"

// Which flows live on when the file changes, and what becomes of the next packet of those that do not: what would become of it if it had never had a
// flow. The next packet goes the way named; the guest is "one" but where mac says otherwise.
func TestReloadFlows(t *testing.T) {
	const one4, one6 = `ipv4 = ["192.0.2.10"]`, `ipv6 = ["2001:db8:3:2:1::10"]`
	policyOf := func(egress, ingress string) string {
		return edit(ingressOpen, "  egress {\n"+egress+"\n  }\n  ingress {\n"+ingress+"\n  }")
	}
	accept, drop, reject := `default = "accept"`, `default = "drop"`, `default = "reject"`
	rule := func(action, match string) string {
		return fmt.Sprintf("rule \"it\" {\n action = %q\n %s\n}\n", action, match)
	}
	for _, c := range []struct {
		name string
		src  string
		in   bool // who is outside has opened it
		back bool // the next packet answers who has opened it
		want policy.Reason
		told bool // the sender of the next packet gets a reset
	}{
		{"nothing has changed", edit(), false, true, policy.None, false},
		{"rules for others", policyOf(rule("drop", `to = ["198.51.100.9"]`)+accept, accept), false, false, policy.None, false},
		{"its answers need no rule", policyOf(accept, drop), false, true, policy.None, false},
		{"nor do answers to the outside", policyOf(drop, accept), true, true, policy.None, false},
		{"a rule drops it", policyOf(rule("drop", `to = ["203.0.113.9"]`)+accept, accept), false, false, policy.EgressPolicy, false},
		{"and its answers meet the rules for them", policyOf(rule("drop", `proto = "tcp"`)+accept, drop), false, true, policy.IngressPolicy, false},
		{"which may admit them, but they open nothing", policyOf(rule("drop", `proto = "tcp"`)+accept, accept), false, true, policy.NoFlow, false},
		{"a rule rejects it", policyOf(rule("reject", "proto = \"tcp\"\n ports = [443]")+accept, accept), false, false, policy.EgressPolicy, true},
		{"the default rejects it", policyOf(accept, reject), true, false, policy.IngressPolicy, true},
		{"a rule for its port", policyOf(rule("accept", "proto = \"tcp\"\n ports = [443]")+drop, drop), false, true, policy.None, false},
		{"a rule for another port", policyOf(rule("accept", "proto = \"tcp\"\n ports = [444]")+drop, drop), false, false, policy.EgressPolicy, false},
		{"in shadow mode", strings.Replace(policyOf(drop, drop), `policy "open" {`, "policy \"open\" {\n mode = \"shadow\"", 1), false, true, policy.None, false},
		{"the guest has another address as well", edit(one4, `ipv4 = ["192.0.2.10", "192.0.2.12"]`, one6, `ipv6 = ["2001:db8:3:2:1::10", "2001:db8:3:2:1::12"]`), false, true, policy.None, false},
		{"the guest has a prefix around its address", edit(one4, `ipv4 = ["192.0.2.8/29"]`, one6, `ipv6 = ["2001:db8:3:2:1::10/124"]`, `ipv4 = ["192.0.2.11"]`, `ipv4 = ["192.0.2.99"]`,
			`ipv6 = ["2001:db8:3:2:1::11"]`, `ipv6 = ["2001:db8:3:2:1::99"]`), false, true, policy.None, false},
		{"the address is gone", edit(one4, `ipv4 = ["192.0.2.12"]`, one6, `ipv6 = ["2001:db8:3:2:1::12"]`), false, false, policy.IPBinding, false},
		{"the address is another guest's", edit(one4, `ipv4 = ["192.0.2.12"]`, one6, `ipv6 = ["2001:db8:3:2:1::12"]`, `ipv4 = ["192.0.2.11"]`, `ipv4 = ["192.0.2.10"]`,
			`ipv6 = ["2001:db8:3:2:1::11"]`, `ipv6 = ["2001:db8:3:2:1::10"]`), false, true, policy.NoFlow, false},
		{"the guest has another name", edit(`domu "one"`, `domu "uno"`), false, false, policy.NoFlow, false},
		{"the guest has another vif", edit(`"vif1.0"`, `"vif7.0"`), false, true, policy.None, false},
		{"guests in another order", edit(`domu "one" {`, "domu \"zero\" {\n vif = \"vif9.0\"\n mac = \"00:16:3e:00:00:09\"\n}\ndomu \"one\" {"), false, true, policy.None, false},
		{"the guest is gone", edit("domu \"one\" {\n  vif  = \"vif1.0\"\n  mac  = \"00:16:3e:00:00:01\"", "domu \"other\" {\n  vif  = \"vif1.0\"\n  mac  = \"00:16:3e:00:00:77\""), false, false, policy.MACBinding, false},
	} {
		for _, v6 := range []bool{false, true} {
			t.Run(c.name+map[bool]string{false: ", IPv4", true: ", IPv6"}[v6], func(t *testing.T) {
				s := knowing(t, meeting(seedFile))
				guest, x := netip.AddrPortFrom(cases.One4, 40000), netip.AddrPortFrom(netip.MustParseAddr("203.0.113.9"), 443)
				if v6 {
					guest, x = netip.AddrPortFrom(cases.One6, 40000), netip.AddrPortFrom(cases.X6, 443)
					c.src = strings.ReplaceAll(c.src, "203.0.113.9", cases.X6.String())
				}
				if c.in {
					guest, x = netip.AddrPortFrom(guest.Addr(), 443), netip.AddrPortFrom(x.Addr(), 40000)
				}
				send := func(opener bool, flags uint8, seq, acked uint32) {
					side, b := stack.UplinkSide, cases.TCP(eth0MAC, gatewayMAC, x, guest, flags, seq, acked, 0)
					if opener != c.in {
						side, b = stack.Guests, cases.TCP(s.RouterMAC, cases.MAC1, guest, x, flags, seq, acked, 0)
					}
					s.send(side, b)
				}
				send(true, syn, 999, 0)
				send(false, syn|ack, 1999, 1000)
				send(true, ack, 1000, 2000)
				send(false, ack, 2000, 1000)
				if n := s.counts(); len(n) != 0 || s.current.Load().engine.Budget().Used() != 1 {
					t.Fatalf("before: counted %v", n)
				}
				if err := s.reload(c.src); err != nil {
					t.Fatal(err)
				}
				lives := 0
				if c.want == policy.None {
					lives = 1
				}
				if n := s.Status().Flows.Active; n != lives {
					t.Errorf("%d flows after the reload, want %d", n, lives)
				}
				for _, l := range s.links {
					l.Take()
				}
				var passed []policy.Packet
				resets := 0
				if c.back {
					send(false, ack, 2000, 1000)
				} else {
					send(true, ack, 1000, 2000)
				}
				for _, sd := range []stack.Side{stack.Guests, stack.UplinkSide} {
					for _, p := range s.frames(sd) {
						if p.Proto == policy.ProtoTCP && p.TCPFlags&rst != 0 {
							resets++
						} else if p.Proto == policy.ProtoTCP {
							passed = append(passed, p)
						}
					}
				}
				want := map[policy.Reason]uint64{c.want: 1}
				if c.want == policy.IPBinding && v6 {
					want = map[policy.Reason]uint64{policy.IP6Binding: 1}
				}
				if c.want == policy.None {
					want = map[policy.Reason]uint64{}
				}
				if n := s.counts(); fmt.Sprint(n) != fmt.Sprint(want) || len(passed) != lives || resets != map[bool]int{true: 1}[c.told] {
					t.Errorf("%d passed, %d resets, counted %v; want %v", len(passed), resets, n, want)
				}
			})
		}
	}
}

// A guest with another MAC keeps its flows: they are of its addresses. What dom0 and other guests have with it lives on the same way.
func TestReloadMAC(t *testing.T) {
	s := knowing(t, meeting(seedFile))
	for _, k := range talks() {
		sides, frames := k.exchange(s)
		for i := range sides {
			s.send(sides[i], frames[i])
		}
	}
	flows := s.Status().Flows.Active
	if err := s.reload(edit(`"00:16:3e:00:00:01"`, `"00:16:3e:00:00:71"`)); err != nil {
		t.Fatal(err)
	}
	if n := s.Status().Flows.Active; n != flows {
		t.Errorf("%d flows, %d before", n, flows)
	}
	for _, l := range s.links {
		l.Take()
	}
	before := s.counts()[policy.MACBinding]
	for i, mac := range []policy.MAC{cases.MAC1, {0, 0x16, 0x3e, 0, 0, 0x71}} {
		s.send(stack.Guests, cases.TCP(s.RouterMAC, mac, netip.AddrPortFrom(cases.One4, 40000), netip.AddrPortFrom(cases.X4, 443), ack, 1020, 1010, 0))
		if n := len(s.frames(stack.UplinkSide)); n != i {
			t.Errorf("from %v %d packets passed, want %d: %v", mac, n, i, s.counts())
		}
	}
	if n := s.counts()[policy.MACBinding]; n != before+1 {
		t.Errorf("counted %v", s.counts())
	}
}

// Counters, and what is owed to limits that have not changed, go on; those of a guest that has gone do not.
func TestReloadKeepsCounts(t *testing.T) {
	few := func(more string) string {
		return edit(ingressOpen, "  limits {\n    packets = 70\n"+more+"  }\n"+ingressOpen)
	}
	s := knowing(t, few(""))
	ask := func() int {
		for range 200 {
			s.send(stack.Guests, cases.UDP(s.RouterMAC, cases.MAC1, cases.One4, cases.X4, 8))
		}
		return len(s.frames(stack.UplinkSide))
	}
	first := ask()
	if err := s.reload(few("    flows = 7\n")); err != nil {
		t.Fatal(err)
	}
	if n := ask(); first == 0 || n != 0 {
		t.Errorf("%d passed at first, and %d more after a reload that leaves the limit as it is", first, n)
	}
	if c := s.Status().Domus[0]; c.TxPackets != 400 || c.Reasons["limit-packets"] != uint64(400-first) {
		t.Errorf("the guest's counters are %+v", c)
	}
	if err := s.reload(strings.Replace(few(""), `packets = 70`, `packets = 700`, 1)); err != nil {
		t.Fatal(err)
	}
	if n := ask(); n == 0 {
		t.Error("another limit begins with the debt of the one before")
	}
	if err := s.reload(strings.Replace(few(""), `domu "one"`, `domu "uno"`, 1)); err != nil {
		t.Fatal(err)
	}
	if c := s.Status().Domus[0]; c.TxPackets != 0 || c.Drops != 0 {
		t.Errorf("a guest of another name has %+v", c)
	}
	if n := s.Status().Reloads; n != 3 {
		t.Errorf("%d reloads", n)
	}
}

// What cannot change in place, a file with mistakes, and a kernel that refuses: the reload says so, and nothing has changed.
func TestReloadRefused(t *testing.T) {
	for _, c := range []struct{ name, src, key string }{
		{"uplink", edit(`uplink "eth0"`, `uplink "eth1"`), "uplink's name"},
		{"bridge", edit(`bridge "xenbr0" {}`, `bridge "br1" {}`), "bridge's name"},
		{"TAP", edit(`bridge "xenbr0" {}`, "bridge \"xenbr0\" {\n tap = \"udr1\"\n}"), "bridge.tap"},
		{"MAC", edit(`bridge "xenbr0" {}`, "bridge \"xenbr0\" {\n mac = \"02:00:00:00:00:07\"\n}"), "bridge.mac"},
		{"MTU", edit(`bridge "xenbr0" {}`, "bridge \"xenbr0\" {\n mtu = 1400\n}"), "bridge.mtu"},
		{"no host", strings.Split(edit(), "host {")[0], "host"},
		{"host's interface", edit("host {", "host {\n interface = \"other\""), "host.interface"},
		{"socket", edit() + "control {\n socket = \"/run/other.sock\"\n}\n", "control.socket"},
		{"group", edit() + "control {\n group = \"daemon\"\n}\n", "control.group"},
		{"metrics", edit() + "metrics {\n listen = \"[::1]:9469\"\n}\n", "metrics.listen"},
		{"log", edit() + "log {\n format = \"json\"\n}\n", "log.format"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := knowing(t, meeting(seedFile))
			wd := s.current.Load()
			err := s.reload(c.src)
			var bad *ReloadError
			if !errors.As(err, &bad) || len(bad.Diagnostics) != 1 || bad.Diagnostics[0].Line == 0 || !strings.HasPrefix(bad.Diagnostics[0].Summary, c.key+" has changed") || !strings.Contains(bad.Text, "restart") {
				t.Errorf("%v", err)
			}
			if s.current.Load() != wd || s.Around.(*around).log != nil {
				t.Error("something has changed")
			}
		})
	}
	s := knowing(t, meeting(seedFile))
	wd := s.current.Load()
	next := parseConfig(t, edit(`ipv4 = ["192.0.2.10"]`, `ipv4 = ["192.0.2.12"]`))
	failed := errors.New("no")
	for _, c := range []struct {
		a   *around
		log []string
	}{{&around{err: failed}, nil}, {&around{next: next, refuse: failed}, []string{"narrow"}}} {
		s.Around = c.a
		if err := s.Reload(); !errors.Is(err, failed) || s.current.Load() != wd || !slices.Equal(c.a.log, c.log) {
			t.Errorf("%v, told %v", err, c.a.log)
		}
		if st := s.Status(); st.Reloads != 0 || st.LastReload == nil || st.LastReload.Error != "no" || st.LastReload.At.IsZero() {
			t.Errorf("status has %+v", st.LastReload)
		}
	}
	// The router has taken it over when the kernel cannot follow, and says so.
	s.Around = &around{next: next, late: failed}
	if err := s.Reload(); !errors.Is(err, failed) || !strings.Contains(err.Error(), "in force in the router") || s.current.Load().ByAddr(netip.MustParseAddr("192.0.2.12")) == nil {
		t.Errorf("%v", err)
	}
	if err := s.reload(edit()); err != nil {
		t.Fatal(err)
	}
	if st := s.Status(); st.Reloads != 1 || st.LastReload.Error != "" {
		t.Errorf("status has %d and %+v", st.Reloads, st.LastReload)
	}
	if got := s.Around.(*around).log; !slices.Equal(got, []string{"narrow", "follow next"}) {
		t.Errorf("the surroundings were told %v", got)
	}
}

// The uplink's filter refuses: the router is as it was, and the kernel is told so.
func TestReloadUndone(t *testing.T) {
	s := knowing(t, meeting(seedFile))
	wd := s.current.Load()
	uplink := &refusing{UplinkLink: s.Uplink, left: 1}
	s.Uplink = uplink
	err := s.reload(edit(`"192.0.2.0/24"`, `"192.0.2.0/25"`))
	if !errors.Is(err, errRefused) || s.current.Load() != wd || !slices.Equal(s.Around.(*around).log, []string{"narrow", "follow old"}) {
		t.Errorf("%v, told %v", err, s.Around.(*around).log)
	}
	if !slices.Equal(uplink.filter.Prefixes, wd.filter().Prefixes) {
		t.Errorf("the filter is for %v", uplink.filter.Prefixes)
	}
}

var errRefused = errors.New("refused")

// refusing is an uplink whose filter cannot be set a few times.
type refusing struct {
	UplinkLink
	left   int
	filter stack.Filter
}

func (l *refusing) SetFilter(f stack.Filter) error {
	if l.left--; l.left >= 0 {
		return errRefused
	}
	l.filter = f
	return nil
}

// Of a guest that has gone nothing is left: flows, hosts on the uplink that are known for it alone, link-local addresses.
func TestReloadGuestGoes(t *testing.T) {
	s := knowing(t, meeting(seedFile))
	host, ll := netip.MustParseAddr("192.0.1.7"), netip.MustParseAddr("fe80::77")
	s.send(stack.Guests, cases.UDP(s.RouterMAC, cases.MAC1, cases.One4, host, 8), cases.UDP(s.RouterMAC, cases.MAC1, cases.One4, cases.X4, 8),
		cases.NA(s.RouterMAC, cases.MAC1, ll, cases.LL1, ll, cases.MAC1, policy.NAOverride))
	if _, claimed := s.linkLocals.Owner(ll); s.neighbours.lookup(host) == nil || !claimed {
		t.Fatal("the guest has nothing to lose")
	}
	first := strings.Index(edit(), `domu "one"`)
	src := edit()[:first] + edit()[strings.Index(edit(), `domu "two"`):]
	if err := s.reload(src); err != nil {
		t.Fatal(err)
	}
	if _, claimed := s.linkLocals.Owner(ll); s.neighbours.lookup(host) != nil || claimed || s.Status().Flows.Active != 0 {
		t.Errorf("left are the neighbour %v, the link-local address %v, %d flows", s.neighbours.lookup(host) != nil, claimed, s.Status().Flows.Active)
	}
	if n := s.counts()[policy.NoNeighbour]; n != 1 {
		t.Errorf("what waited is counted %v", s.counts())
	}
	// It comes back as a new one, and the table that it had takes no place.
	if err := s.reload(edit()); err != nil {
		t.Fatal(err)
	}
	s.send(stack.Guests, cases.UDP(s.RouterMAC, cases.MAC1, cases.One4, cases.X4, 8))
	if st := s.Status(); st.Flows.Active != 1 || st.Domus[0].TxPackets != 1 {
		t.Errorf("%+v, %+v", st.Flows, st.Domus[0])
	}
}

// A packet that waits for its next hop goes on only if the new file admits it.
func TestReloadWaiting(t *testing.T) {
	host := netip.MustParseAddr("192.0.1.7")
	for name, c := range map[string]struct {
		src    string
		passed int
		reason policy.Reason
	}{
		"admitted":  {edit(`"vif1.0"`, `"vif7.0"`), 1, policy.None},
		"refused":   {edit(ingressOpen, "  egress {\n    default = \"drop\"\n  }"), 0, policy.EgressPolicy},
		"not bound": {edit(`ipv4 = ["192.0.2.10"]`, `ipv4 = ["192.0.2.12"]`), 0, policy.IPBinding},
	} {
		s := knowing(t, meeting(seedFile))
		s.send(stack.Guests, cases.UDP(s.RouterMAC, cases.MAC1, cases.One4, host, 8))
		if err := s.reload(c.src); err != nil {
			t.Fatal(err)
		}
		s.frames(stack.UplinkSide)
		s.neighbours.event(stack.NeighbourEvent{Addr: host, MAC: gatewayMAC})
		n := 0
		for _, p := range s.frames(stack.UplinkSide) {
			if p.Proto == policy.ProtoUDP {
				n++
			}
		}
		if n != c.passed || c.reason != policy.None && s.counts()[c.reason] != 1 {
			t.Errorf("%s: %d passed, counted %v", name, n, s.counts())
		}
		if sh := s.current.Load().states[0].share; sh != (share{}) {
			t.Errorf("%s: %+v still wait", name, sh)
		}
	}
}

// New addresses are announced and asked for; those that were there are not.
func TestReloadTells(t *testing.T) {
	s := knowing(t, meeting(seedFile))
	for range announceFor { // what there was to tell before
		s.presence.work(true)
	}
	s.links[stack.UplinkSide].Take()
	if err := s.reload(edit(`ipv6 = ["2001:db8:3:2:1::10"]`, `ipv6 = ["2001:db8:3:2:1::10", "2001:db8:3:2:1::12"]`)); err != nil {
		t.Fatal(err)
	}
	s.presence.work(false)
	probed, announced := s.frames(stack.Guests), s.frames(stack.UplinkSide)
	if len(probed) != 1 || probed[0].ND.Target != netip.MustParseAddr("2001:db8:3:2:1::12") || probed[0].DstMAC != cases.MAC1 {
		t.Errorf("asked %+v", probed)
	}
	if len(announced) != 2 || announced[1].ND.Target != probed[0].ND.Target {
		t.Errorf("announced %+v", announced)
	}
	if err := s.reload(edit(`policy = "open"`, "")); err != nil {
		t.Fatal(err)
	}
	s.presence.work(false)
	if n := len(s.frames(stack.Guests)) + len(s.frames(stack.UplinkSide)); n != 0 {
		t.Errorf("%d frames about nothing new", n)
	}
	if err := s.reload(edit(`gateway  = "192.0.2.1"`, `gateway  = "192.0.2.3"`)); err != nil {
		t.Fatal(err)
	}
	if told := s.frames(stack.Guests); len(told) != 3 || told[0].ARP.SPA != netip.MustParseAddr("192.0.2.3") {
		t.Errorf("of another gateway the guests were told %+v", told)
	}
}

// files are what a router is reloaded with in the tests below.
var files = []string{edit(), edit(ingressOpen, "  ingress {\n    default = \"drop\"\n  }"),
	edit(ingressOpen, "  egress {\n    rule \"no\" {\n      action = \"reject\"\n      proto = \"tcp\"\n      ports = [443]\n    }\n  }\n  ingress {\n    default = \"reject\"\n  }"),
	edit(ingressOpen, "  egress {\n    default = \"drop\"\n    rule \"yes\" {\n      action = \"accept\"\n      proto = \"udp\"\n    }\n  }\n  ingress {\n    default = \"accept\"\n  }"),
	edit(ingressOpen, "  mode = \"shadow\"\n  egress {\n    default = \"drop\"\n  }\n  ingress {\n    default = \"drop\"\n  }"),
	edit(`ipv4 = ["192.0.2.10"]`, `ipv4 = ["192.0.2.12"]`), edit(`ipv6 = ["2001:db8:3:2:1::11"]`, `ipv6 = ["2001:db8:3:2:1::12"]`),
	edit(`"192.0.2.10"`, `"192.0.2.77"`, `"192.0.2.11"`, `"192.0.2.10"`, `"192.0.2.77"`, `"192.0.2.11"`),
	edit(`"00:16:3e:00:00:01"`, `"00:16:3e:00:00:77"`, `"00:16:3e:00:00:02"`, `"00:16:3e:00:00:01"`, `"00:16:3e:00:00:77"`, `"00:16:3e:00:00:02"`),
	edit(`domu "one"`, `domu "three"`), edit(`policy = "open"`, ""),
	edit("ingress {\n    default = \"accept\"\n  }\n}\n", "ingress {\n    default = \"drop\"\n  }\n}\n"),
	strings.Replace(edit(), "ingress {\n    default = \"accept\"\n  }\n}", "ingress {\n    default = \"drop\"\n  }\n}", 2)}

// After a reload a router decides as one that was started with that file and has seen, of all that was before, what belongs to flows that live on.
func TestReloadIsAStart(t *testing.T) {
	list := talks()
	survived, ended := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		first, next := rapid.SampledFrom(files).Draw(rt, "first"), rapid.SampledFrom(files).Draw(rt, "next")
		old, fresh := knowing(t, first), knowing(t, next)
		judge := knowing(t, next) // admits what opens a flow, or not
		few := rapid.SliceOfNDistinct(rapid.SampledFrom(list), 1, 4, func(k talk) talk { return k }).Draw(rt, "talks")
		for _, k := range few {
			sides, frames := k.opened(old, rapid.Bool().Draw(rt, "from outside"))
			opening, lives := -1, false
			for i := range sides {
				before := old.flows()
				old.send(sides[i], old.owned(sides[i], frames[i]))
				if now := old.flows(); opening < 0 && len(now) > len(before) {
					opening = i
					known := judge.flows()
					judge.send(sides[i], judge.owned(sides[i], frames[i]))
					for _, f := range judge.flows() {
						lives = lives || !slices.Contains(known, f) && slices.Contains(now, f)
					}
				}
				if lives {
					fresh.send(sides[i], fresh.owned(sides[i], frames[i]))
				}
			}
			switch {
			case lives:
				survived++
			case opening >= 0:
				ended++
			}
		}
		if err := old.reload(next); err != nil {
			rt.Fatal(err)
		}
		if a, b := old.flows(), fresh.flows(); !slices.Equal(a, b) {
			rt.Fatalf("after the reload there are\n%s\nafter the start\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"))
		}
		for range rapid.IntRange(5, 30).Draw(rt, "steps") {
			from, b := rapid.SampledFrom(few).Draw(rt, "talk").packet(rt, old, rapid.Bool().Draw(rt, "back"))
			if a, b := old.fate(from, b), fresh.fate(from, b); a != b {
				rt.Fatalf("after the reload\n%s\nafter the start\n%s", a, b)
			}
		}
	})
	if survived == 0 || ended == 0 {
		t.Errorf("%d flows lived on and %d ended: nothing was tested", survived, ended)
	}
}

// owned is a guest's frame from the MAC that the guest of its source address has here.
func (s *sim) owned(from stack.Side, f []byte) []byte {
	var p policy.Packet
	if p.Parse(f, policy.Offload{}); from == stack.Guests && s.current.Load().ByAddr(p.Src) != nil {
		f = slices.Clone(f)
		copy(f[6:], s.current.Load().ByAddr(p.Src).MAC[:])
	}
	return f
}

// flows are those of all guests, with the names of their ends.
func (s *sim) flows() (list []string) {
	e := s.current.Load().engine
	name := func(side policy.Side) string {
		if g := e.Guest(side); g != nil {
			return g.Name
		}
		return map[policy.Side]string{policy.SideUplink: "the uplink", policy.SideHost: "dom0"}[side]
	}
	for _, g := range s.current.Load().Guests {
		e.Flows(g).Each(s.now(), func(f *policy.Flow) bool {
			list = append(list, fmt.Sprint(f.Src(), " of ", name(f.From), " to ", f.Dst(), " of ", name(f.To), " ", f.Key.Proto))
			return true
		})
	}
	slices.Sort(list)
	return list
}

// fate is what becomes of a frame: what is sent of it, how it is counted, and the flows that there are then. Errors are a matter of chance.
func (s *sim) fate(from stack.Side, b []byte) string {
	for _, l := range s.links {
		l.Take()
	}
	type counts [2][policy.Reasons]uint64
	read := func() (n counts) {
		for i := range n[0] {
			n[0][i], n[1][i] = s.drops[i].Load(), s.would[i].Load()
		}
		return n
	}
	before := read()
	s.send(from, b)
	var text strings.Builder
	for _, side := range []stack.Side{stack.Guests, stack.UplinkSide, stack.Host} {
		for _, p := range s.frames(side) {
			if p.Proto == policy.ProtoTCP || p.Proto == policy.ProtoUDP {
				fmt.Fprintf(&text, "sent %v %x\n", side, p.Frame)
			}
		}
	}
	for i, now := range read() {
		for r := range now {
			if n := now[r] - before[i][r]; n > 0 {
				fmt.Fprintf(&text, "%v %d, %v\n", policy.Reason(r), n, i == 1)
			}
		}
	}
	return text.String() + strings.Join(s.flows(), "\n")
}
