package router

import (
	"bytes"
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
	"udrouter/stack/stacktest"
)

// servingFile is the reference's open network with guests that are configured by the router.
func servingFile() string {
	return strings.NewReplacer(
		"upstream = \"routed\"\n}", "upstream = \"routed\"\n  dhcp {\n    lease = \"10m\"\n    dns = [\"192.0.2.1\", \"198.51.100.53\"]\n  }\n}",
		"upstream = \"proxied\"\n", "upstream = \"proxied\"\n  ra {\n    lifetime = \"20m\"\n    dns = [\"2001:db8::53\"]\n  }\n  dhcp {\n    lease = \"10m\"\n    dns = [\"2001:db8::53\"]\n  }\n",
	).Replace(cases.Open(config.Reference))
}

func serving(t testing.TB) *sim {
	s := newSim(t, parseConfig(t, servingFile()), seedKernel())
	s.learn()
	s.newWorker(stack.Guests).appearedAll()
	return s
}

var nobody4, everybody4 = netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("255.255.255.255")

// client4 is a message of the first guest to DHCP servers.
func client4(t testing.TB, kind dhcpv4.MessageType, edit ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(cases.MAC1[:]), dhcpv4.WithMessageType(kind), dhcpv4.WithTransactionID(dhcpv4.TransactionID{1, 2, 3, 4})}, edit...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (s *sim) say4(from, to netip.Addr, m *dhcpv4.DHCPv4) {
	dst := s.RouterMAC
	if to == everybody4 {
		dst = policy.BroadcastMAC
	}
	s.send(stack.Guests, cases.Datagram(dst, cases.MAC1, netip.AddrPortFrom(from, 68), netip.AddrPortFrom(to, 67), m.ToBytes()))
}

// answer4 is the router's answer, with the address that it was sent to; nil: none. It goes to the asker alone, and its checksums are right.
func (s *sim) answer4(t *testing.T) (*dhcpv4.DHCPv4, netip.Addr) {
	t.Helper()
	sent := s.links[stack.Guests].Take()
	if len(sent) == 0 {
		return nil, netip.Addr{}
	}
	var p policy.Packet
	if r := p.Parse(sent[0].Frame, sent[0].Offload); len(sent) != 1 || r != policy.None || p.SrcPort != 67 || p.DstPort != 68 || p.DstMAC != cases.MAC1 || p.SrcMAC != s.RouterMAC || p.Src != cases.Router4 {
		t.Fatalf("%d frames, the first %v: %s", len(sent), r, describe(sent[0].Frame))
	}
	if !rightChecksum(t, sent[0].Frame) {
		t.Errorf("a wrong checksum: %x", sent[0].Frame)
	}
	m, err := dhcpv4.FromBytes(p.Frame[p.L4+8:])
	if err != nil {
		t.Fatal(err)
	}
	return m, p.Dst
}

// What a client says, and what it is told (RFC 2131 4.3).
func TestDHCPv4(t *testing.T) {
	one := net.IP(cases.One4.AsSlice())
	ours, other := net.IP(cases.Router4.AsSlice()), net.IP{192, 0, 2, 9}
	wants := func(a net.IP) dhcpv4.Modifier { return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(a)) }
	server := func(a net.IP) dhcpv4.Modifier { return dhcpv4.WithOption(dhcpv4.OptServerIdentifier(a)) }
	const silence = dhcpv4.MessageTypeNone
	for _, c := range []struct {
		name     string
		from, to netip.Addr
		m        *dhcpv4.DHCPv4
		kind     dhcpv4.MessageType
		dst      netip.Addr
		reason   policy.Reason
	}{
		{"DISCOVER", nobody4, everybody4, client4(t, dhcpv4.MessageTypeDiscover), dhcpv4.MessageTypeOffer, cases.One4, 0},
		{"DISCOVER of a client that wants a broadcast", nobody4, everybody4, client4(t, dhcpv4.MessageTypeDiscover, dhcpv4.WithBroadcast(true)), dhcpv4.MessageTypeOffer, everybody4, 0},
		{"DISCOVER that wishes for another's address", nobody4, everybody4, client4(t, dhcpv4.MessageTypeDiscover, wants(other)), dhcpv4.MessageTypeOffer, cases.One4, 0},
		{"REQUEST of the offer", nobody4, everybody4, client4(t, dhcpv4.MessageTypeRequest, wants(one), server(ours)), dhcpv4.MessageTypeAck, cases.One4, 0},
		{"REQUEST of another server's offer", nobody4, everybody4, client4(t, dhcpv4.MessageTypeRequest, wants(one), server(other)), silence, netip.Addr{}, 0},
		{"REQUEST of another's address", nobody4, everybody4, client4(t, dhcpv4.MessageTypeRequest, wants(other), server(ours)), dhcpv4.MessageTypeNak, everybody4, 0},
		{"REQUEST after a reboot", nobody4, everybody4, client4(t, dhcpv4.MessageTypeRequest, wants(one)), dhcpv4.MessageTypeAck, cases.One4, 0},
		{"REQUEST after a reboot elsewhere", nobody4, everybody4, client4(t, dhcpv4.MessageTypeRequest, wants(other)), dhcpv4.MessageTypeNak, everybody4, 0},
		{"REQUEST to renew", cases.One4, cases.Router4, client4(t, dhcpv4.MessageTypeRequest, dhcpv4.WithClientIP(one)), dhcpv4.MessageTypeAck, cases.One4, 0},
		{"REQUEST to rebind", cases.One4, everybody4, client4(t, dhcpv4.MessageTypeRequest, dhcpv4.WithClientIP(one)), dhcpv4.MessageTypeAck, cases.One4, 0},
		{"REQUEST for nothing", nobody4, everybody4, client4(t, dhcpv4.MessageTypeRequest), dhcpv4.MessageTypeNak, everybody4, 0},
		{"INFORM of a client that does not say its address", nobody4, everybody4, client4(t, dhcpv4.MessageTypeInform), dhcpv4.MessageTypeAck, everybody4, 0},
		{"INFORM", cases.One4, everybody4, client4(t, dhcpv4.MessageTypeInform, dhcpv4.WithClientIP(one)), dhcpv4.MessageTypeAck, cases.One4, 0},
		{"RELEASE", cases.One4, cases.Router4, client4(t, dhcpv4.MessageTypeRelease, dhcpv4.WithClientIP(one)), silence, netip.Addr{}, 0},
		{"DECLINE", nobody4, everybody4, client4(t, dhcpv4.MessageTypeDecline, wants(one)), silence, netip.Addr{}, 0},
		{"a server's ACK as a request", nobody4, everybody4, client4(t, dhcpv4.MessageTypeAck), silence, netip.Addr{}, policy.DHCPGuard},
		{"BOOTP", nobody4, everybody4, client4(t, silence), silence, netip.Addr{}, policy.DHCPGuard},
		{"DISCOVER from another's address", cases.Two4, everybody4, client4(t, dhcpv4.MessageTypeDiscover), silence, netip.Addr{}, policy.IPBinding},
		{"DISCOVER for another's MAC", nobody4, everybody4, client4(t, dhcpv4.MessageTypeDiscover, dhcpv4.WithHwAddr(cases.MAC2[:])), silence, netip.Addr{}, policy.DHCPGuard},
		{"DISCOVER through a relay", nobody4, everybody4, client4(t, dhcpv4.MessageTypeDiscover, dhcpv4.WithGatewayIP(ours)), silence, netip.Addr{}, policy.DHCPGuard},
		{"DISCOVER to a directed broadcast", nobody4, netip.MustParseAddr("192.0.2.255"), client4(t, dhcpv4.MessageTypeDiscover), silence, netip.Addr{}, policy.DHCPGuard},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serving(t)
			id := []byte{1, 2, 3}
			c.m.UpdateOption(dhcpv4.OptClientIdentifier(id))
			s.say4(c.from, c.to, c.m)
			m, dst := s.answer4(t)
			want := map[policy.Reason]uint64{}
			if c.reason != policy.None {
				want[c.reason] = 1
			}
			if diff := cmp.Diff(want, s.counts()); diff != "" {
				t.Error(diff)
			}
			if m == nil {
				if c.kind != silence {
					t.Fatal("no answer")
				}
				return
			}
			if m.MessageType() != c.kind || dst != c.dst || m.TransactionID != c.m.TransactionID || m.OpCode != dhcpv4.OpcodeBootReply || !m.ServerIdentifier().Equal(ours) ||
				!slices.Equal(m.Options.Get(dhcpv4.OptionClientIdentifier), id) {
				t.Errorf("to %v: %v", dst, m.Summary())
			}
			if c.kind == dhcpv4.MessageTypeNak {
				if !m.YourIPAddr.IsUnspecified() || m.Options.Has(dhcpv4.OptionRouter) {
					t.Error(m.Summary())
				}
				return
			}
			leased := c.m.MessageType() != dhcpv4.MessageTypeInform
			if m.YourIPAddr.Equal(one) != leased || (m.IPAddressLeaseTime(0) == 10*time.Minute) != leased || (m.IPAddressRenewalTime(0) == 5*time.Minute) != leased ||
				m.IPAddressRebindingTime(0) > 10*time.Minute {
				t.Error(m.Summary())
			}
			if ones, _ := m.SubnetMask().Size(); ones != 24 || !slices.EqualFunc(m.Router(), []net.IP{ours}, net.IP.Equal) ||
				!slices.EqualFunc(m.DNS(), []net.IP{ours, {198, 51, 100, 53}}, net.IP.Equal) || !slices.Equal(m.Options.Get(dhcpv4.OptionInterfaceMTU), []byte{5, 220}) {
				t.Error(m.Summary())
			}
		})
	}
}

// A client that has an address by hand is told what goes for that one, by unicast whatever it wishes (RFC 2131 4.3.5): any of its own, but nobody else's.
func TestDHCPv4Inform(t *testing.T) {
	const another = "network \"other\" {\n  prefix = \"203.0.113.0/24\"\n  gateway = \"203.0.113.1\"\n  upstream = \"routed\"\n"
	file := strings.Replace(servingFile(), `"192.0.2.10"`, `"192.0.2.10", "192.0.2.77", "192.0.2.80/30", "203.0.113.10"`, 1)
	served, unserved := file+another+"  dhcp {}\n}\n", file+another+"}\n"
	k := seedKernel()
	k.Held = append(k.Held, netip.MustParseAddr("192.0.2.82"))
	for _, c := range []struct{ file, ciaddr, src, router string }{
		{served, "192.0.2.10", "192.0.2.10", "192.0.2.1"},
		{served, "192.0.2.77", "192.0.2.77", "192.0.2.1"},
		{served, "192.0.2.77", "0.0.0.0", "192.0.2.1"},
		{served, "192.0.2.81", "192.0.2.81", "192.0.2.1"},
		{served, "203.0.113.10", "203.0.113.10", "203.0.113.1"},
		{served, "192.0.2.82", "0.0.0.0", ""}, // dom0's
		{served, "192.0.2.11", "0.0.0.0", ""}, // the other guest's
		{served, "192.0.2.99", "192.0.2.10", ""},
		{served, "198.51.100.7", "0.0.0.0", ""},
		{served, "255.255.255.255", "0.0.0.0", ""},
		{unserved, "203.0.113.10", "203.0.113.10", ""},
	} {
		s := newSim(t, parseConfig(t, c.file), k)
		s.newWorker(stack.Guests).appearedAll()
		addr := netip.MustParseAddr(c.ciaddr)
		m := client4(t, dhcpv4.MessageTypeInform, dhcpv4.WithClientIP(addr.AsSlice()), dhcpv4.WithBroadcast(true))
		s.say4(netip.MustParseAddr(c.src), everybody4, m)
		want := map[policy.Reason]uint64{}
		sent := s.links[stack.Guests].Take()
		if c.router == "" {
			want[policy.DHCPGuard] = 1
		}
		if diff := cmp.Diff(want, s.counts()); diff != "" || len(sent) != 1-len(want) {
			t.Errorf("%s from %s: %d answers, %s", c.ciaddr, c.src, len(sent), diff)
		}
		if len(sent) != 1 || c.router == "" {
			continue
		}
		var p policy.Packet
		p.Parse(sent[0].Frame, sent[0].Offload)
		got, err := dhcpv4.FromBytes(p.Frame[p.L4+8:])
		if err != nil {
			t.Fatal(err)
		}
		ours := net.IP(netip.MustParseAddr(c.router).AsSlice())
		if p.Dst != addr || p.DstMAC != cases.MAC1 || p.Src.String() != c.router || !got.YourIPAddr.IsUnspecified() || got.Options.Has(dhcpv4.OptionIPAddressLeaseTime) ||
			!got.ServerIdentifier().Equal(ours) || !slices.EqualFunc(got.Router(), []net.IP{ours}, net.IP.Equal) {
			t.Errorf("%s from %s: from %v to %v: %s", c.ciaddr, c.src, p.Src, p.Dst, got.Summary())
		}
	}
}

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

// Who asks for it is told which address of a prefix is not delegated with it, since the guest has that one by itself (RFC 6603); nobody else is, nor who has another address.
func TestDHCPExcludes(t *testing.T) {
	for _, c := range []struct {
		ipv6, held string
		want       []byte // length and subnet ID; nil: nothing
	}{
		{`"2001:db8:3:2:5::/80"`, "", []byte{128, 0, 0, 0, 0, 0, 1}},
		{`"2001:db8:3:2:5:6000::/84"`, "2001:db8:3:2:5:6000::1", []byte{128, 0, 0, 0, 0, 0, 0x20}},
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

// Where guests are served, everything is refused that is refused where they are not, but what a client says for itself.
func TestDHCPRowsWhereItIsServed(t *testing.T) {
	served := map[string]bool{
		"DHCP: DISCOVER from 0.0.0.0 to 255.255.255.255": true, "DHCP: DISCOVER from 192.0.2.10 to 255.255.255.255": true,
		"DHCP: DISCOVER from 192.0.2.11 to 255.255.255.255": true, // ip-binding, TestDHCPv4
		"DHCP: SOLICIT to ff02::1:2":                        true, // of nobody, TestDHCPv6
	}
	seen, cfg := 0, parseConfig(t, servingFile())
	for _, c := range slices.Concat(cases.DHCP(), cases.RouterAdvertisements(), cases.Services()) {
		if served[c.Name] {
			seen++
			continue
		}
		if wrong := newSim(t, cfg, seedKernel()).run(c); len(wrong) > 0 {
			t.Errorf("%s: %s", c.Name, strings.Join(wrong, "\n"))
		}
	}
	if seen != len(served) {
		t.Errorf("%d of %d rows that are served", seen, len(served))
	}
}

// Of a guest that asks all the time, so many messages are answered, and its neighbour's as ever.
func TestDHCPShare(t *testing.T) {
	s := serving(t)
	for range 100 {
		s.say4(nobody4, everybody4, client4(t, dhcpv4.MessageTypeDiscover))
	}
	if n := len(s.links[stack.Guests].Take()); n != dhcpPerSecond {
		t.Errorf("%d answers", n)
	}
	if n := s.counts()[policy.RouterLimit]; n != 100-dhcpPerSecond {
		t.Errorf("%d counted", n)
	}
	m := client4(t, dhcpv4.MessageTypeDiscover, dhcpv4.WithHwAddr(cases.MAC2[:]))
	s.send(stack.Guests, cases.Datagram(policy.BroadcastMAC, cases.MAC2, netip.AddrPortFrom(nobody4, 68), netip.AddrPortFrom(everybody4, 67), m.ToBytes()))
	if n := len(s.links[stack.Guests].Take()); n != 1 {
		t.Errorf("%d answers to the neighbour", n)
	}
	s.clock.Advance(time.Second)
	s.say4(nobody4, everybody4, client4(t, dhcpv4.MessageTypeDiscover))
	if n := len(s.links[stack.Guests].Take()); n != 1 {
		t.Errorf("%d answers a second later", n)
	}
}

// Defects of a datagram are told from one that is right.
func TestDHCPDatagrams(t *testing.T) {
	good := cases.Datagram(policy.BroadcastMAC, cases.MAC1, netip.AddrPortFrom(nobody4, 68), netip.AddrPortFrom(everybody4, 67), client4(t, dhcpv4.MessageTypeDiscover).ToBytes())
	const udp = 34
	for _, c := range []struct {
		name    string
		edit    func(b []byte)
		partial bool
		answers int
		reason  policy.Reason
	}{
		{"right", func([]byte) {}, false, 1, 0},
		{"a wrong checksum", func(b []byte) { b[udp+6] ^= 1 }, false, 0, policy.Checksum},
		{"no checksum", func(b []byte) { b[udp+6], b[udp+7] = 0, 0 }, false, 1, 0},
		{"a checksum that is still to be made", func(b []byte) { b[udp+6] ^= 1 }, true, 1, 0},
		{"longer than the guests' MTU", func([]byte) {}, false, 0, policy.Malformed},
		{"a length of nothing", func(b []byte) { b[udp+4], b[udp+5], b[udp+6], b[udp+7] = 0, 0, 0, 0 }, false, 0, policy.Malformed},
	} {
		s := serving(t)
		b := slices.Clone(good)
		if strings.HasPrefix(c.name, "longer") {
			m := client4(t, dhcpv4.MessageTypeDiscover).ToBytes()
			b = cases.Datagram(policy.BroadcastMAC, cases.MAC1, netip.AddrPortFrom(nobody4, 68), netip.AddrPortFrom(everybody4, 67), append(m, make([]byte, 1500-28-len(m)+1)...))
		}
		c.edit(b)
		var o policy.Offload
		if c.partial {
			o = policy.Offload{Flags: policy.NeedsCsum, CsumStart: udp, CsumOffset: 6}
		}
		s.newWorker(stack.Guests).batch([]*stack.Frame{stacktest.Frame(b, o)})
		if n := len(s.links[stack.Guests].Take()); n != c.answers || c.reason != policy.None && s.counts()[c.reason] != 1 {
			t.Errorf("%s: %d answers, %v", c.name, n, s.counts())
		}
	}
}

// Whatever a guest sends to the servers' ports, the router goes on, says nothing to anybody else, and no more than fits.
func FuzzDHCP(f *testing.F) {
	f.Add(true, client4(f, dhcpv4.MessageTypeDiscover).ToBytes())
	f.Add(true, client4(f, dhcpv4.MessageTypeRequest).ToBytes())
	f.Add(false, client6(1, &dhcpv6.OptIANA{}, &dhcpv6.OptIAPD{}).ToBytes())
	f.Add(false, client6(5, &dhcpv6.OptIANA{}).ToBytes())
	s := serving(f)
	f.Fuzz(func(t *testing.T, v4 bool, b []byte) {
		if len(b) > 1400 {
			return
		}
		s.clock.Advance(time.Second)
		if v4 {
			s.send(stack.Guests, cases.Datagram(policy.BroadcastMAC, cases.MAC1, netip.AddrPortFrom(nobody4, 68), netip.AddrPortFrom(everybody4, 67), b))
		} else {
			s.say6(policy.EUI64(cases.MAC1), agents, b)
		}
		if n := s.counts()[policy.Internal]; n > 0 {
			t.Fatalf("%d defects", n)
		}
		sent := s.links[stack.Guests].Take()
		if len(sent) > 1 || len(sent) == 1 && (policy.MAC(sent[0].Frame[:6]) != cases.MAC1 || len(sent[0].Frame) > 1514) {
			t.Fatalf("%d frames, %x", len(sent), sent[0].Frame)
		}
		if n := len(s.links[stack.UplinkSide].Take()) + len(s.links[stack.Host].Take()); n > 0 {
			t.Fatalf("%d frames to others", n)
		}
	})
}
