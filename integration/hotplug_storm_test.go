package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"udrouter/config"
	"udrouter/integration/dom0"
	"udrouter/integration/hotplug"
	"udrouter/integration/lab"
	"udrouter/policy"
	"udrouter/router"
)

// storm is what an oracle knows of vifs that come and go: which there are, and which of them hotplug has named.
type storm struct {
	*plugged
	store   *hotplug.Store
	rng     *rand.Rand
	domains []*lab.Node
	links   map[string]stormLink // by the name that they have now
	noted   map[string]stormLink // by the name that was noted
	next    int                  // number of the next vif
}

type stormLink struct{ index, domain int }

func (s *storm) mac(domain int) policy.MAC { return s.domains[domain].MAC }

// want are the ports that are bound: of each domain the youngest that was named and is there.
func (s *storm) want() map[string]int {
	youngest := map[int]string{}
	for vif, n := range s.noted {
		if s.links[vif] != n {
			continue
		}
		if y, ok := youngest[n.domain]; !ok || s.noted[y].index < n.index {
			youngest[n.domain] = vif
		}
	}
	bound := map[string]int{}
	for domain, vif := range youngest {
		bound[vif] = domain
	}
	return bound
}

// plug gives a domain another vif, and most often tells the router, which may be told twice.
func (s *storm) plug() {
	s.t.Helper()
	domain := s.rng.IntN(len(s.domains))
	vif := fmt.Sprintf("vif%d.0", s.next)
	s.next++
	n := s.domains[domain]
	n.Link = vif // there may be an older one
	s.veth(n, vif)
	index, err := s.Dom0.LinkIndex(vif)
	must(s.t, err)
	s.links[vif] = stormLink{index, domain}
	for range s.rng.IntN(3) {
		s.add(vif)
	}
}

func (s *storm) add(vif string) {
	s.t.Helper()
	l := s.links[vif]
	must(s.t, s.Dom0.Do(func() error { _, err := dom0.LockPort(vif, s.Config.Bridge.Name, true, 0); return err }))
	must(s.t, s.store.Put(config.Attachment{Vif: vif, Index: l.index, Domain: fmt.Sprint("web-", l.domain), MAC: s.mac(l.domain).String(), Addresses: []string{stormAddr(l.domain).String()}, Instance: vif}))
	s.noted[vif] = l
	s.tell(vif)
}

func stormAddr(domain int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + domain)}) }

// tell has the router go by the notes; a port that is bound is secured then.
func (s *storm) tell(vif string) {
	s.t.Helper()
	body, err := s.proc.Post(testContext(s.t), "/v1/vifs?vif="+vif)
	must(s.t, err)
	var a router.VifAnswer
	must(s.t, json.Unmarshal(body, &a))
	if a.Error != "" {
		s.t.Fatalf("%s: %s", vif, a.Error)
	}
}

// unplug takes a vif away: it is deleted, gets another name, or the script says so before or after.
func (s *storm) unplug(vif string) {
	s.t.Helper()
	remove := func() {
		_, err := s.store.Remove(vif, vif)
		must(s.t, err)
		delete(s.noted, vif)
		s.tell(vif)
	}
	how := s.rng.IntN(5)
	if how == 0 {
		remove()
	}
	switch how {
	case 1: // its new name means nothing
		h, err := s.Dom0.Handle()
		must(s.t, err)
		link, err := h.LinkByIndex(s.links[vif].index)
		must(s.t, err)
		other := "x" + vif
		must(s.t, errors.Join(h.LinkSetDown(link), h.LinkSetName(link, other), h.LinkSetUp(link)))
		s.links[other] = s.links[vif]
	default:
		must(s.t, s.Dom0.DelLink(vif))
	}
	delete(s.links, vif)
	switch {
	case how == 2:
		remove()
	case s.rng.IntN(4) > 0:
		s.tell(vif) // else it finds out by itself
	}
}

// settled waits until the router's ports and the bridge's entries are what they should be.
func (s *storm) settled(step int) {
	s.t.Helper()
	bound := s.want()
	for vif, n := range s.noted { // forgotten for good once the router has seen that it is gone
		if s.links[vif] != n {
			delete(s.noted, vif)
		}
	}
	h, err := s.Dom0.Handle()
	must(s.t, err)
	var differs string
	err = lab.Await(testContext(s.t), "the ports that there should be", func() (bool, error) {
		body, err := s.proc.Get(testContext(s.t), "/v1/vifs")
		if err != nil {
			return false, err
		}
		var list router.VifList
		if err := json.Unmarshal(body, &list); err != nil {
			return false, err
		}
		got := map[string]int{}
		for _, v := range list.Vifs {
			var domain int
			if _, err := fmt.Sscanf(v.Domu, "web-%d", &domain); v.State == config.AttachBound && err == nil {
				got[v.Vif] = domain
			}
		}
		entries, err := h.NeighList(0, unix.AF_BRIDGE)
		if err != nil {
			return false, err
		}
		macs := map[int][]string{}
		for _, e := range entries {
			if e.State&unix.NUD_PERMANENT == 0 {
				macs[e.LinkIndex] = append(macs[e.LinkIndex], e.HardwareAddr.String())
			}
		}
		differs = ""
		if !maps.Equal(got, bound) || len(list.Vifs) != len(s.noted) {
			differs = fmt.Sprintf("bound are %v of %d, want %v of %d", got, len(list.Vifs), bound, len(s.noted))
		}
		for vif, l := range s.links {
			var want []string
			if domain, ok := bound[vif]; ok {
				want = []string{s.mac(domain).String()}
			}
			if !slices.Equal(macs[l.index], want) {
				differs += fmt.Sprintf("; on %s are %v, want %v", vif, macs[l.index], want)
			}
		}
		return differs == "", nil
	})
	if err != nil {
		s.t.Fatalf("step %d: %v: %s", step, err, differs)
	}
}

// use has the guest at a port speak, if there is one there: by a port that is bound it is answered, else nobody hears it.
func (s *storm) use(vif string) {
	s.t.Helper()
	l := s.links[vif]
	n := *s.domains[l.domain]
	if n.Link = vif; strings.HasPrefix(vif, "x") {
		n.Link = vif[1:]
	}
	addr := netip.PrefixFrom(stormAddr(l.domain), 24)
	n.Addrs = []netip.Prefix{addr}
	must(s.t, n.AddAddr(n.Link, addr))
	must(s.t, n.SetUp(n.Link))
	must(s.t, s.Dom0.SetUp(vif))
	s.route(&n)
	if _, ok := s.want()[vif]; ok {
		ping(s.t, &n, s.Internet.Addr4())
	} else {
		s.silent(vif+" is not bound", &n)
	}
	must(s.t, n.DelAddr(n.Link, addr))
	must(s.t, n.SetDown(n.Link))
}

// A thousand vifs come and go, by word and without, are named twice, late, or not at all, get other names and take each other's place. After each
// step bound is who should be and nobody else; another guest's connection goes on, and the router holds no more at the end than at the beginning.
func TestHotplugStorm(t *testing.T) {
	p := plugLab(t)
	p.start()
	s := &storm{plugged: p, rng: rand.New(rand.NewPCG(7, 7)), links: map[string]stormLink{}, noted: map[string]stormLink{}, next: 10}
	must(t, p.Dom0.Do(func() (err error) { s.store, err = hotplug.Open(p.state); return err }))
	for i := range 8 {
		ns, err := lab.NewNS(fmt.Sprint("web-", i))
		must(t, err)
		t.Cleanup(func() { ns.Close() })
		s.domains = append(s.domains, &lab.Node{NS: ns, MAC: policy.MAC{0, 0x16, 0x3e, 1, 0, byte(i)}})
	}
	conn := openTCP(t, p.Guests[0].Node, p.Internet, p.Internet.Addr4(), 443)
	var before held
	const vifs = 1000
	for step := 0; s.next < 10+vifs; step++ {
		if len(s.links) == 0 || len(s.links) < 24 && s.rng.IntN(2) == 0 {
			s.plug()
		} else {
			names := slices.Sorted(maps.Keys(s.links))
			vif := names[s.rng.IntN(len(names))]
			switch {
			case strings.HasPrefix(vif, "x"):
				must(t, p.Dom0.DelLink(vif))
				delete(s.links, vif)
			case s.rng.IntN(6) == 0:
				s.add(vif) // once more, and perhaps after a younger one
			default:
				s.unplug(vif)
			}
		}
		s.settled(step)
		if step%25 == 0 && len(s.links) > 0 {
			names := slices.Sorted(maps.Keys(s.links))
			s.use(names[s.rng.IntN(len(names))])
		}
		if step%10 == 0 {
			must(t, conn.Check(testContext(t)))
		}
		if step == 200 {
			before = holds(t, p.proc)
		}
	}
	for vif := range s.links {
		must(t, p.Dom0.DelLink(vif))
		delete(s.links, vif)
	}
	s.settled(-1)
	must(t, conn.Check(testContext(t)))
	after := holds(t, p.proc)
	t.Logf("at step 200: %+v; at the end: %+v", before, after)
	if after.grown(before) {
		t.Errorf("it has grown from %+v to %+v", before, after)
	}
	if notes, err := filepath.Glob(filepath.Join(p.state, "vifs-*", "*")); err != nil || len(notes) > 0 {
		t.Errorf("left in the state directory: %v, %v", notes, err)
	}
	body, err := p.proc.Status(testContext(t))
	must(t, err)
	var st router.Status
	must(t, json.Unmarshal(body.Raw, &st))
	flows := 0
	for _, d := range st.Domus {
		flows += d.Flows
	}
	if len(st.Domus) != len(p.Config.Domus) || st.Flows.Active != flows || flows == 0 || st.ForeignMAC != 0 {
		t.Errorf("%d guests, flows %+v, of those who are there %d; %d foreign MACs", len(st.Domus), st.Flows, flows, st.ForeignMAC)
	}
}
