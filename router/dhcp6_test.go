package router

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"udrouter/integration/cases"
	"udrouter/policy"
	"udrouter/stack"
)

// client6 is a message of the first guest to DHCPv6 servers.
func client6(kind dhcpv6.MessageType, options ...dhcpv6.Option) *dhcpv6.Message {
	m := &dhcpv6.Message{MessageType: kind, TransactionID: dhcpv6.TransactionID{1, 2, 3}}
	m.AddOption(dhcpv6.OptClientID(clientDUID))
	for _, o := range options {
		m.AddOption(o)
	}
	return m
}

var (
	clientDUID = &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: cases.MAC1[:]}
	agents     = netip.MustParseAddr("ff02::1:2")
)

func (s *sim) say6(from, to netip.Addr, m []byte) {
	dst := s.RouterMAC
	if to.IsMulticast() {
		dst = policy.MulticastMAC(to)
	}
	s.send(stack.Guests, cases.Datagram(dst, cases.MAC1, netip.AddrPortFrom(from, 546), netip.AddrPortFrom(to, 547), m))
}

func (s *sim) answer6(t *testing.T) *dhcpv6.Message {
	t.Helper()
	sent := s.links[stack.Guests].Take()
	if len(sent) == 0 {
		return nil
	}
	var p policy.Packet
	if r := p.Parse(sent[0].Frame, sent[0].Offload); len(sent) != 1 || r != policy.None || p.SrcPort != 547 || p.DstPort != 546 || p.DstMAC != cases.MAC1 || p.SrcMAC != s.RouterMAC ||
		p.Src != linkLocal1 || p.Dst != policy.EUI64(cases.MAC1) {
		t.Fatalf("%d frames, the first %v: %s", len(sent), r, describe(sent[0].Frame))
	}
	if !rightChecksum(t, sent[0].Frame) {
		t.Errorf("a wrong checksum: %x", sent[0].Frame)
	}
	m, err := dhcpv6.MessageFromBytes(p.Frame[p.L4+8:])
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// What a client says, and what it is told (RFC 8415 16 and 18.3). An answer is written as its type, its status and what is in its associations.
func TestDHCPv6(t *testing.T) {
	ll := policy.EUI64(cases.MAC1)
	s := serving(t)
	ours := dhcpv6.OptServerID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: s.RouterMAC[:]})
	other := dhcpv6.OptServerID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: cases.MAC2[:]})
	na := func(id byte, addrs ...netip.Addr) dhcpv6.Option {
		o := &dhcpv6.OptIANA{IaId: [4]byte{id}}
		for _, a := range addrs {
			o.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: a.AsSlice(), PreferredLifetime: time.Hour, ValidLifetime: time.Hour})
		}
		return o
	}
	rapid := &dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit}
	pd := &dhcpv6.OptIAPD{IaId: [4]byte{9}}
	ta := func(addrs ...netip.Addr) dhcpv6.Option {
		return &dhcpv6.OptIATA{IaId: [4]byte{7}, Options: na(7, addrs...).(*dhcpv6.OptIANA).Options}
	}
	const leased = "1: 2001:db8:3:2:1::10 for 10m0s"
	const yes = "REPLY"
	for _, c := range []struct {
		name   string
		m      *dhcpv6.Message
		want   string // "": silence
		reason policy.Reason
	}{
		{"SOLICIT", client6(1, na(1)), "ADVERTISE preferred, " + leased, 0},
		{"SOLICIT and at once", client6(1, na(1), rapid), yes + " rapid, " + leased, 0},
		{"SOLICIT for two interfaces", client6(1, na(1), na(2)), "ADVERTISE preferred, " + leased + ", 2: NoAddrsAvail", 0},
		{"SOLICIT for a prefix, of a guest without one", client6(1, na(1), pd), "ADVERTISE preferred, " + leased + ", prefixes 9: NoPrefixAvail", 0},
		{"SOLICIT for a temporary address", client6(1, na(1), ta()), "ADVERTISE preferred, " + leased + ", temporary 7: NoAddrsAvail", 0},
		{"SOLICIT of nobody", &dhcpv6.Message{MessageType: 1}, "", policy.Malformed},
		{"SOLICIT to one server", client6(1, na(1), ours), "", policy.Malformed},
		{"REQUEST", client6(3, na(1), ours), yes + ", " + leased, 0},
		{"REQUEST of another link's", client6(3, na(1, cases.One6, cases.X6), ours), yes + ", 1: NotOnLink", 0},
		{"REQUEST for a temporary address", client6(3, ta(), ours), yes + ", temporary 7: NoAddrsAvail", 0},
		{"REQUEST to another", client6(3, na(1), other), "", 0},
		{"REQUEST to nobody", client6(3, na(1)), "", policy.Malformed},
		{"CONFIRM", client6(4, na(1, cases.One6)), yes + " Success", 0},
		{"CONFIRM of another's", client6(4, na(1, cases.One6, cases.Two6)), yes + " NotOnLink", 0},
		{"CONFIRM of nothing", client6(4, na(1)), "", 0},
		{"CONFIRM of a temporary address", client6(4, ta(cases.Two6)), yes + " NotOnLink", 0},
		{"RENEW", client6(5, na(1, cases.One6), ours), yes + ", " + leased, 0},
		{"RENEW of another's", client6(5, na(1, cases.Two6), ours), yes + ", " + leased + " 2001:db8:3:2:1::11 for 0s", 0},
		{"RENEW of what another association has", client6(5, na(2), na(1, cases.One6), ours), yes + ", 2: NoBinding, " + leased, 0},
		{"RENEW of a prefix, of a guest without one", client6(5, na(1, cases.One6), pd, ours), yes + ", " + leased + ", prefixes 9: NoBinding", 0},
		{"RENEW of a temporary address", client6(5, ta(cases.One6), ours), yes + ", temporary 7: NoBinding", 0},
		{"REBIND", client6(6, na(1, cases.One6)), yes + ", " + leased, 0},
		{"REBIND to one server", client6(6, na(1, cases.One6), ours), "", policy.Malformed},
		{"REBIND of two", client6(6, na(1, cases.One6), na(2, cases.One6)), yes + ", " + leased + ", 2: NoBinding", 0},
		{"REBIND of a prefix, of a guest without one", client6(6, pd), yes + ", prefixes 9: NoBinding", 0},
		{"REBIND of a temporary address", client6(6, ta()), yes + ", temporary 7: NoBinding", 0},
		{"RELEASE", client6(8, na(1, cases.One6), ours), yes + " Success", 0},
		{"RELEASE of another's", client6(8, na(1, cases.Two6), ours), yes + " Success, 1: NoBinding", 0},
		{"RELEASE of nothing", client6(8, na(1), ours), yes + " Success, 1: NoBinding", 0},
		{"RELEASE of all", client6(8, na(2, cases.Two6), na(1, cases.Two6, cases.One6), ta(cases.One6), pd, ours),
			yes + " Success, 2: NoBinding, prefixes 9: NoBinding, temporary 7: NoBinding", 0},
		{"DECLINE", client6(9, na(1, cases.One6), ours), yes + " Success", 0},
		{"DECLINE of another's", client6(9, na(1, cases.Two6), ours), yes + " Success, 1: NoBinding", 0},
		{"DECLINE twice", client6(9, na(1, cases.One6), na(2, cases.One6), ours), yes + " Success, 2: NoBinding", 0},
		{"INFORMATION-REQUEST", client6(11), yes, 0},
		{"INFORMATION-REQUEST to another", client6(11, other), "", 0},
		{"INFORMATION-REQUEST with an association", client6(11, na(1)), "", policy.Malformed},
		{"INFORMATION-REQUEST with a temporary association", client6(11, ta()), "", policy.Malformed},
		{"INFORMATION-REQUEST with an association for prefixes", client6(11, pd), "", policy.Malformed},
		{"a server's REPLY", client6(7, na(1), ours), "", policy.DHCPGuard},
		{"RELAY-FORW", client6(12), "", policy.DHCPGuard},
		{"a message of no known type", client6(200), "", policy.DHCPGuard},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serving(t)
			b := c.m.ToBytes()
			if c.m.MessageType == 12 {
				b = append(b, make([]byte, 40)...)
			}
			s.say6(ll, agents, b)
			got := ""
			if m := s.answer6(t); m != nil {
				got = outline(m)
				if !m.Options.ServerID().Equal(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: s.RouterMAC[:]}) ||
					!m.Options.ClientID().Equal(clientDUID) || m.TransactionID != c.m.TransactionID || len(m.Options.DNS()) != 1 {
					t.Error(m.Summary())
				}
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			want := map[policy.Reason]uint64{}
			if c.reason != policy.None {
				want[c.reason] = 1
			}
			if diff := cmp.Diff(want, s.counts()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// outline writes what matters of an answer.
func outline(m *dhcpv6.Message) string {
	text := m.MessageType.String()
	if m.Options.Preference() == 255 {
		text += " preferred"
	}
	if m.GetOneOption(dhcpv6.OptionRapidCommit) != nil {
		text += " rapid"
	}
	if st := m.Options.Status(); st != nil {
		text += " " + st.StatusCode.String()
	}
	for _, ia := range m.Options.IANA() {
		text += ", " + string('0'+ia.IaId[0]) + ":"
		if st := ia.Options.Status(); st != nil {
			text += " " + st.StatusCode.String()
		}
		for _, a := range ia.Options.Addresses() {
			text += " " + a.IPv6Addr.String() + " for " + a.ValidLifetime.String()
		}
	}
	for _, ia := range m.Options.IAPD() {
		text += ", prefixes " + string('0'+ia.IaId[0]) + ":"
		if st := ia.Options.Status(); st != nil {
			text += " " + st.StatusCode.String()
		}
		for _, p := range ia.Options.Prefixes() {
			text += " " + p.Prefix.String() + " for " + p.ValidLifetime.String()
		}
	}
	for _, ia := range m.Options.IATA() {
		text += ", temporary " + string('0'+ia.IaId[0]) + ":"
		if st := ia.Options.Status(); st != nil {
			text += " " + st.StatusCode.String()
		}
		for _, a := range ia.Options.Addresses() {
			text += " " + a.IPv6Addr.String() + " for " + a.ValidLifetime.String()
		}
	}
	return text
}

// A guest with a prefix gets it to route, and an address out of it where it has none besides.
func TestDHCPOfPrefixes(t *testing.T) {
	for _, c := range []struct{ ipv4, ipv6, held, want4, want6 string }{
		{`"192.0.2.16/29"`, `"2001:db8:3:2:5::/80"`, "", "192.0.2.17", "ADVERTISE preferred, 1: 2001:db8:3:2:5::1 for 10m0s, prefixes 9: 2001:db8:3:2:5::/80 for 10m0s"},
		{`"192.0.2.20/31"`, `"2001:db8:3:2:5::/80", "2001:db8:3:2:1::10"`, "", "192.0.2.20", "ADVERTISE preferred, 1: 2001:db8:3:2:1::10 for 10m0s, prefixes 9: 2001:db8:3:2:5::/80 for 10m0s"},
		{`"192.0.2.16/29"`, `"2001:db8:3:2:5::/80"`, "192.0.2.17 2001:db8:3:2:5::1", "192.0.2.18", "ADVERTISE preferred, 1: 2001:db8:3:2:5::2 for 10m0s, prefixes 9: 2001:db8:3:2:5::/80 for 10m0s"},
	} {
		file := strings.NewReplacer(`"192.0.2.10"`, c.ipv4, `"2001:db8:3:2:1::10"`, c.ipv6,
			`"192.0.2.11"`, `"192.0.2.99"`, `"2001:db8:3:2:1::11"`, `"2001:db8:3:2:9::11"`).Replace(servingFile())
		if !strings.Contains(file, c.ipv4) || !strings.Contains(file, c.ipv6) {
			t.Fatalf("the reference configuration has changed:\n%s", file)
		}
		k := seedKernel()
		for _, a := range strings.Fields(c.held) { // dom0's, which comes before the guest
			k.Held = append(k.Held, netip.MustParseAddr(a))
		}
		s := newSim(t, parseConfig(t, file), k)
		s.newWorker(stack.Guests).appearedAll()
		s.say4(nobody4, everybody4, client4(t, dhcpv4.MessageTypeDiscover))
		if m, _ := s.answer4(t); m == nil || m.YourIPAddr.String() != c.want4 {
			t.Errorf("%s: %v, want %s", c.ipv4, m, c.want4)
		}
		s.say6(policy.EUI64(cases.MAC1), agents, client6(1, &dhcpv6.OptIANA{IaId: [4]byte{1}}, &dhcpv6.OptIAPD{IaId: [4]byte{9}}).ToBytes())
		if m := s.answer6(t); m == nil || outline(m) != c.want6 {
			t.Errorf("%s: %v, want %s", c.ipv6, m, c.want6)
		}
		// One that it is not given is over.
		old := &dhcpv6.OptIAPD{IaId: [4]byte{9}}
		for _, p := range []string{"2001:db8:3:2:7::/80", "2001:db8:3:2:5::/80"} {
			n := netip.MustParsePrefix(p)
			old.Options.Add(&dhcpv6.OptIAPrefix{Prefix: &net.IPNet{IP: n.Addr().AsSlice(), Mask: net.CIDRMask(80, 128)}, ValidLifetime: time.Hour})
		}
		s.say6(policy.EUI64(cases.MAC1), agents, client6(6, old).ToBytes())
		if m := s.answer6(t); m == nil || outline(m) != "REPLY, prefixes 9: 2001:db8:3:2:5::/80 for 10m0s 2001:db8:3:2:7::/80 for 0s" {
			t.Errorf("%s: %v", c.ipv6, m)
		}
	}
}

// Of many addresses, and of many prefixes, a guest is given the first, in the order of its block: as many as fit.
func TestDHCPOfMany(t *testing.T) {
	for _, c := range []struct{ kind, format string }{{"addresses", "2001:db8:3:2:1::%x"}, {"prefixes", "2001:db8:3:2:%x::/80"}} {
		for _, n := range []int{maxLeased, maxLeased + 1, 2 * maxLeased} {
			var bound, want, given []string
			for i := range n {
				bound = append(bound, fmt.Sprintf(c.format, 0x100+i))
			}
			want = bound[:maxLeased]
			s := newSim(t, parseConfig(t, strings.Replace(servingFile(), `"2001:db8:3:2:1::10"`, `"`+strings.Join(bound, `", "`)+`"`, 1)), seedKernel())
			s.newWorker(stack.Guests).appearedAll()
			s.say6(policy.EUI64(cases.MAC1), agents, client6(1, &dhcpv6.OptIANA{}, &dhcpv6.OptIAPD{}).ToBytes())
			m := s.answer6(t)
			if m == nil {
				t.Fatalf("%d %s: no answer, %v", n, c.kind, s.counts())
			}
			if c.kind == "addresses" {
				for _, a := range m.Options.IANA()[0].Options.Addresses() {
					given = append(given, a.IPv6Addr.String())
				}
			} else {
				for _, p := range m.Options.IAPD()[0].Options.Prefixes() {
					given = append(given, p.Prefix.String())
				}
			}
			if diff := cmp.Diff(want, given); diff != "" {
				t.Errorf("%d %s: %s", n, c.kind, diff)
			}
		}
	}
}

// Who asks for it is told which address of a prefix is not delegated with it, since the guest has that one by itself (RFC 6603); nobody else is, nor who has another address.
func TestDHCPExcludes(t *testing.T) {
	for _, c := range []struct {
		ipv6, held string
		want       []byte // length and subnet ID; nil: nothing
	}{
		{`"2001:db8:3:2:5::/80"`, "", []byte{128, 0, 0, 0, 0, 0, 1}},
		{`"2001:db8:3:2:5:6000::/84"`, "2001:db8:3:2:5:6000::1", []byte{128, 0, 0, 0, 0, 0, 0x20}},
		{`"2001:db8:3:2:5::/119"`, "2001:db8:3:2:5::1", []byte{128, 1, 0}},
		{`"2001:db8:3:2:5::2/127"`, "2001:db8:3:2:5::2", []byte{128, 0x80}},
		{`"2001:db8:3:2:5::/80", "2001:db8:3:2:1::10"`, "", nil},
	} {
		k := seedKernel()
		if c.held != "" {
			k.Held = append(k.Held, netip.MustParseAddr(c.held))
		}
		s := newSim(t, parseConfig(t, strings.Replace(servingFile(), `"2001:db8:3:2:1::10"`, c.ipv6, 1)), k)
		s.newWorker(stack.Guests).appearedAll()
		for asked, want := range map[dhcpv6.OptionCode][]byte{dhcpv6.OptionPDExclude: c.want, dhcpv6.OptionDNSRecursiveNameServer: nil} {
			s.say6(policy.EUI64(cases.MAC1), agents, client6(1, &dhcpv6.OptIANA{}, &dhcpv6.OptIAPD{}, dhcpv6.OptRequestedOption(asked)).ToBytes())
			m := s.answer6(t)
			if m == nil || len(m.Options.IANA()[0].Options.Addresses()) != 1 || len(m.Options.IAPD()[0].Options.Prefixes()) != 1 {
				t.Fatalf("%s: %v", c.ipv6, m)
			}
			var got []byte
			if o := m.Options.IAPD()[0].Options.Prefixes()[0].Options.GetOne(dhcpv6.OptionPDExclude); o != nil {
				got = o.ToBytes()
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s, asked for %v: %x, want %x", c.ipv6, asked, got, want)
			}
		}
	}
}
