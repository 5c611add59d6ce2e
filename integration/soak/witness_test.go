package main

import (
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/bpf"

	"udrouter/config"
	"udrouter/integration/lab"
	"udrouter/policy"
)

// Every kind of forgery is seen by the guests and by the provider's router, as it was sent and when the router had made itself its sender; what the router
// has to say is no forgery.
func TestWitnesses(t *testing.T) {
	s := lone(t)
	router := policy.MAC{2, 0, 0, 0, 0, 1}
	g, victim := s.Guests[0], s.Guests[1]
	provider, guest := filterOf(t, toProvider), filterOf(t, toGuest)
	for _, f := range forgeries {
		frame := f.make(g, victim, router, [4]byte{1, 2, 3, 4})
		routed := slices.Clone(frame)
		copy(routed[6:], router[:])
		for _, f := range []struct {
			what  string
			frame []byte
		}{{f.what + ", as it is", frame}, {f.what + ", from the router", routed}} {
			if !provider(f.frame) {
				t.Errorf("%s: the provider's router does not see it", f.what)
			}
			if !guest(f.frame) {
				t.Errorf("%s: guests do not see it", f.what)
			}
		}
	}
	x4, x6 := netip.AddrPortFrom(s.Internet.Addr4(), 9), netip.AddrPortFrom(s.Internet.Addr6(), 9)
	own := policy.EUI64(router)
	for what, f := range map[string][]byte{
		"ARP of the gateway":         lab.WhoHas(router, g.Net4.Gateway, g.Addr4()).Frame(),
		"ARP for another guest":      lab.ARP{Src: router, Dst: g.MAC, Op: lab.ARPReply, SHA: router, SPA: victim.Addr4(), THA: g.MAC, TPA: g.Addr4()}.Frame(),
		"a solicitation":             lab.Solicit(router, own, g.Addr6()).Frame(),
		"a solicitation for another": lab.Solicit(router, victim.Addr6(), g.Addr6()).Frame(),
		"a datagram":                 lab.UDP{SrcMAC: router, DstMAC: g.MAC, Src: x4, Dst: netip.AddrPortFrom(g.Addr4(), 9)}.Frame(),
		"a datagram of IPv6":         lab.UDP{SrcMAC: router, DstMAC: g.MAC, Src: x6, Dst: netip.AddrPortFrom(g.Addr6(), 9)}.Frame(),
	} {
		if guest(f) {
			t.Errorf("%s to a guest is taken for a forgery", what)
		}
	}
	for what, f := range map[string][]byte{
		"ARP":            lab.WhoHas(router, s.Dom0.Addr4(), s.Gateway.Addr4()).Frame(),
		"a solicitation": lab.Solicit(router, own, s.Gateway.Addr6()).Frame(),
		"a datagram":     lab.UDP{SrcMAC: router, DstMAC: s.Gateway.MAC, Src: netip.AddrPortFrom(g.Addr6(), 9), Dst: x6}.Frame(),
	} {
		if provider(f) {
			t.Errorf("%s to the provider is taken for a forgery", what)
		}
	}
}

// What comes to a guest or to the provider's router is complained of, and what they send themselves is not.
func TestLeaks(t *testing.T) {
	s := lone(t)
	check(t, s.Dom0.DelLink(s.Config.Bridge.Name)) // which floods without the router's guard
	check(t, s.testify())
	t.Cleanup(func() { check(t, s.closeWitnesses()) })
	g, victim := s.Guests[0], s.Guests[1]
	send := func(from *lab.Node, link string) {
		t.Helper()
		w, err := from.Sender(link)
		check(t, err)
		for _, f := range forgeries {
			check(t, w.Send(f.make(g, victim, policy.MAC{2, 0, 0, 0, 0, 1}, [4]byte{1, 2, 3, 4})))
		}
		check(t, w.Close())
	}
	send(g.Node, g.Link)
	send(s.Dom0, victim.Domu.Vif)
	send(s.Dom0, s.Dom0.Link)
	s.leaked()
	for _, want := range []string{"7 forged frames came to " + victim.Name(), "7 forged frames came to " + s.Gateway.Name()} {
		if !strings.Contains(strings.Join(s.complaints, "\n"), want) {
			t.Errorf("not complained of: %s\n%s", want, strings.Join(s.complaints, "\n"))
		}
	}
	if strings.Contains(strings.Join(s.complaints, "\n"), "came to "+g.Name()) {
		t.Errorf("what a guest sends is no leak: %s", s.complaints)
	}
}

// lone is a soak's network without a router.
func lone(t *testing.T) *soak {
	t.Helper()
	s := &soak{options: options{guests: 2 * comers}, progress: io.Discard}
	src, err := s.source(false)
	check(t, err)
	cfg, diags := config.Parse("soak.hcl", src)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	s.Lab, err = lab.Build(t.Context(), cfg, lab.Options{Source: src})
	check(t, err)
	t.Cleanup(func() { check(t, s.Lab.Close()) })
	return s
}

func filterOf(t *testing.T, kinds [][]part) func([]byte) bool {
	t.Helper()
	vm, err := bpf.NewVM(anyOf(kinds))
	check(t, err)
	return func(frame []byte) bool {
		n, err := vm.Run(frame)
		check(t, err)
		return n > 0
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
