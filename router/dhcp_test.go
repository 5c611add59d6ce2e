package router

import (
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
				(m.IPAddressRebindingTime(0) == 8*time.Minute+45*time.Second) != leased { // 7/8 of the lease (RFC 2131 4.4.5)
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

// Whatever a guest sends to the servers' ports, be it one with addresses or with prefixes, the router goes on, says nothing to anybody else, and no more than fits.
func FuzzDHCP(f *testing.F) {
	f.Add(true, client4(f, dhcpv4.MessageTypeDiscover).ToBytes())
	f.Add(true, client4(f, dhcpv4.MessageTypeRequest).ToBytes())
	f.Add(true, client4(f, dhcpv4.MessageTypeInform, dhcpv4.WithClientIP(cases.One4.AsSlice())).ToBytes())
	prefixes := &dhcpv6.OptIAPD{}
	prefixes.Options.Add(&dhcpv6.OptIAPrefix{Prefix: &net.IPNet{IP: netip.MustParseAddr("2001:db8:3:2:5::").AsSlice(), Mask: net.CIDRMask(83, 128)}})
	f.Add(false, client6(1, &dhcpv6.OptIANA{}, &dhcpv6.OptIATA{}, &dhcpv6.OptIAPD{}, dhcpv6.OptRequestedOption(dhcpv6.OptionPDExclude)).ToBytes())
	f.Add(false, client6(5, &dhcpv6.OptIANA{}).ToBytes())
	f.Add(false, client6(6, &dhcpv6.OptIANA{}, prefixes).ToBytes())
	ours := &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: serving(f).RouterMAC[:]}
	f.Add(false, client6(8, &dhcpv6.OptIANA{}, prefixes, dhcpv6.OptServerID(ours)).ToBytes())
	sims := []*sim{serving(f)}
	sims = append(sims, newSim(f, parseConfig(f, strings.NewReplacer(`"192.0.2.10"`, `"192.0.2.16/29"`, `"2001:db8:3:2:1::10"`, `"2001:db8:3:2:5::/83", "2001:db8:3:2:6::2/127"`).Replace(servingFile())), seedKernel()))
	sims[1].newWorker(stack.Guests).appearedAll()
	f.Fuzz(func(t *testing.T, v4 bool, b []byte) {
		if len(b) > 1400 {
			return
		}
		for _, s := range sims {
			s.survives(t, v4, b)
		}
	})
}

func (s *sim) survives(t *testing.T, v4 bool, b []byte) {
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
}
