package router

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/policy"
	"udrouter/stack"
)

// behindHeader is an IPv6 frame with an extension header of a type put before what it carries.
func behindHeader(frame []byte, kind uint8, header []byte) []byte {
	const next, upper = policy.EthernetLen + 6, policy.EthernetLen + policy.IPv6Len
	f := slices.Concat(frame[:upper], header, frame[upper:])
	f[upper], f[next] = f[next], kind
	binary.BigEndian.PutUint16(f[policy.EthernetLen+4:], uint16(len(f)-upper))
	return f
}

// What a guest says to DHCPv6 servers is not served from where a client never says it, nor behind headers that a client has no use for.
func TestDHCPv6Guards(t *testing.T) {
	ll := policy.EUI64(cases.MAC1)
	solicit := func(from netip.Addr) []byte {
		return cases.Datagram(policy.MulticastMAC(agents), cases.MAC1, netip.AddrPortFrom(from, 546), netip.AddrPortFrom(agents, 547), client6(1, &dhcpv6.OptIANA{}).ToBytes())
	}
	routing := append([]byte{0, 2, 4, 1, 0, 0, 0, 0}, cases.Two6.AsSlice()...)
	for _, c := range []struct {
		name  string
		frame []byte
		want  map[policy.Reason]uint64 // empty: an answer
	}{
		{"as clients do", solicit(ll), nil},
		{"from its global address", solicit(cases.One6), map[policy.Reason]uint64{policy.DHCPGuard: 1}},
		{"from nowhere", solicit(netip.IPv6Unspecified()), map[policy.Reason]uint64{policy.DHCPGuard: 1}},
		{"from the other guest's link-local address", solicit(policy.EUI64(cases.MAC2)), map[policy.Reason]uint64{policy.IP6Binding: 1}},
		{"from the router's", solicit(linkLocal1), map[policy.Reason]uint64{policy.IP6Binding: 1}},
		{"behind an option that nobody knows", behindHeader(solicit(ll), policy.ProtoHopByHop, []byte{0, 0, 0x5e, 4, 0, 0, 0, 0}), map[policy.Reason]uint64{policy.DHCPGuard: 1}},
		{"in an atomic fragment", behindHeader(solicit(ll), policy.ProtoFragment, make([]byte, 8)), map[policy.Reason]uint64{policy.DHCPGuard: 1}},
		{"by way of a router", behindHeader(solicit(ll), policy.ProtoRouting, routing), map[policy.Reason]uint64{policy.DHCPGuard: 1}},
	} {
		s := serving(t)
		s.send(stack.Guests, c.frame)
		if n := len(s.links[stack.Guests].Take()); (n == 1) != (c.want == nil) {
			t.Errorf("%s: %d answers", c.name, n)
		}
		if c.want == nil {
			c.want = map[policy.Reason]uint64{}
		}
		if diff := cmp.Diff(c.want, s.counts()); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

// Where no network of a guest has a dhcp block of the family, what it says to servers is dropped by the guard, though the other family is served.
func TestDHCPWhereItIsNotServed(t *testing.T) {
	for _, c := range []struct {
		name, without string
		v4, v6        int // answers
	}{
		{"neither", "", 0, 0},
		{"IPv4 alone", "2001:db8::53", 1, 0},
		{"IPv6 alone", "198.51.100.53", 0, 1},
	} {
		file := cases.Open(config.Reference)
		if c.without != "" {
			file = withoutDHCP(t, servingFile(), c.without)
		}
		s := newSim(t, parseConfig(t, file), seedKernel())
		s.newWorker(stack.Guests).appearedAll()
		s.links[stack.Guests].Take()
		s.say4(nobody4, everybody4, client4(t, dhcpv4.MessageTypeDiscover))
		v4 := len(s.links[stack.Guests].Take())
		s.say6(policy.EUI64(cases.MAC1), agents, client6(1, &dhcpv6.OptIANA{}).ToBytes())
		v6 := len(s.links[stack.Guests].Take())
		want := map[policy.Reason]uint64{policy.DHCPGuard: uint64(2 - c.v4 - c.v6)}
		if diff := cmp.Diff(want, s.counts()); diff != "" || v4 != c.v4 || v6 != c.v6 {
			t.Errorf("%s: %d and %d answers, %s", c.name, v4, v6, diff)
		}
	}
}

// withoutDHCP is a file without the dhcp block that names a server.
func withoutDHCP(t *testing.T, file, server string) string {
	at := strings.LastIndex(file, server)
	if at < 0 {
		t.Fatalf("%s is not in the file", server)
	}
	from, to := strings.LastIndex(file[:at], "  dhcp {"), at+strings.Index(file[at:], "}\n")
	return file[:from] + file[to+2:]
}

// An address that the router's machine has by itself is given to no guest.
func TestDHCPOfTakenAddresses(t *testing.T) {
	k := seedKernel()
	k.Held = append(k.Held, cases.One4, cases.One6)
	s := newSim(t, parseConfig(t, servingFile()), k)
	s.newWorker(stack.Guests).appearedAll()
	s.say4(nobody4, everybody4, client4(t, dhcpv4.MessageTypeDiscover))
	if m, _ := s.answer4(t); m != nil {
		t.Error(m.Summary())
	}
	s.say6(policy.EUI64(cases.MAC1), agents, client6(1, &dhcpv6.OptIANA{IaId: [4]byte{1}}).ToBytes())
	if m := s.answer6(t); m == nil || outline(m) != "ADVERTISE preferred, 1: NoAddrsAvail" {
		t.Errorf("%v", m)
	}
	old := &dhcpv6.OptIANA{IaId: [4]byte{1}}
	old.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: cases.One6.AsSlice(), ValidLifetime: time.Hour})
	for kind, want := range map[dhcpv6.MessageType]string{dhcpv6.MessageTypeRebind: "REPLY, 1: NoBinding", dhcpv6.MessageTypeConfirm: "REPLY NotOnLink"} {
		s.say6(policy.EUI64(cases.MAC1), agents, client6(kind, old).ToBytes())
		if m := s.answer6(t); m == nil || outline(m) != want {
			t.Errorf("%v, want %s", m, want)
		}
	}
}

// An answer that would be longer than the guests' MTU is not given: of many associations each has more in the answer than in the question.
func TestDHCPAnswerIsNoLongerThanTheMTU(t *testing.T) {
	const fit, tooMany = 55, 80
	for _, n := range []int{fit, tooMany} {
		s := serving(t)
		m := client6(1)
		for i := range n {
			m.AddOption(&dhcpv6.OptIANA{IaId: [4]byte{byte(i)}})
		}
		if len(m.ToBytes()) > s.current.Load().guestMTU-policy.IPv6Len-8 {
			t.Fatal("the question itself is too long")
		}
		s.say6(policy.EUI64(cases.MAC1), agents, m.ToBytes())
		sent := s.links[stack.Guests].Take()
		if answered := len(sent) == 1; answered != (n == fit) || s.counts()[policy.Malformed] != uint64(1-len(sent)) {
			t.Errorf("%d associations: %d answers, %v", n, len(sent), s.counts())
		}
	}
}

// Of two associations for prefixes one gets the guest's: the one that names it, or else the first.
func TestDHCPOfTwoDelegations(t *testing.T) {
	s := newSim(t, parseConfig(t, strings.ReplaceAll(servingFile(), `"2001:db8:3:2:1::10"`, `"2001:db8:3:2:5::/80"`)), seedKernel())
	s.newWorker(stack.Guests).appearedAll()
	one, two := &dhcpv6.OptIAPD{IaId: [4]byte{8}}, &dhcpv6.OptIAPD{IaId: [4]byte{9}}
	has := &dhcpv6.OptIAPD{IaId: [4]byte{9}}
	has.Options.Add(&dhcpv6.OptIAPrefix{Prefix: &net.IPNet{IP: netip.MustParseAddr("2001:db8:3:2:5::").AsSlice(), Mask: net.CIDRMask(80, 128)}})
	ours := dhcpv6.OptServerID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: s.RouterMAC[:]})
	for _, c := range []struct {
		m    *dhcpv6.Message
		want string
	}{
		{client6(1, one, two), "ADVERTISE preferred, prefixes 8: 2001:db8:3:2:5::/80 for 10m0s, prefixes 9: NoPrefixAvail"},
		{client6(1, one, has), "ADVERTISE preferred, prefixes 8: NoPrefixAvail, prefixes 9: 2001:db8:3:2:5::/80 for 10m0s"},
		{client6(6, one, has), "REPLY, prefixes 8: NoBinding, prefixes 9: 2001:db8:3:2:5::/80 for 10m0s"},
		{client6(8, one, has, ours), "REPLY Success, prefixes 8: NoBinding"},
	} {
		s.say6(policy.EUI64(cases.MAC1), agents, c.m.ToBytes())
		if m := s.answer6(t); m == nil || outline(m) != c.want {
			t.Errorf("%v, want %s", m, c.want)
		}
	}
}
