package router

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/ndp"

	"udrouter/integration/cases"
	"udrouter/policy"
	"udrouter/stack"
)

// told are the advertisements that each guest was sent, a line each. All are as a host accepts them (RFC 4861 6.1.2), and for one guest alone.
func (s *sim) told(t *testing.T) map[policy.MAC][]string {
	t.Helper()
	list := map[policy.MAC][]string{}
	for _, f := range s.links[stack.Guests].Take() {
		var p policy.Packet
		if r := p.Parse(f.Frame, f.Offload); r != policy.None || p.ICMPType != policy.RouterAdvertisement {
			continue
		}
		if p.Src != linkLocal1 || p.Dst != allNodes || p.TTL != 255 || p.SrcMAC != s.RouterMAC || p.ND.SourceLL != s.RouterMAC || !rightChecksum(t, f.Frame) {
			t.Errorf("advertised %x", f.Frame)
		}
		m, err := ndp.ParseMessage(p.Frame[p.L4:])
		if err != nil {
			t.Fatal(err)
		}
		list[p.DstMAC] = append(list[p.DstMAC], outlineRA(m.(*ndp.RouterAdvertisement)))
	}
	return list
}

// outlineRA writes an advertisement: flags, lifetime and options.
func outlineRA(ra *ndp.RouterAdvertisement) string {
	text := "for " + ra.RouterLifetime.String()
	if ra.ManagedConfiguration {
		text += " managed"
	}
	for _, o := range ra.Options {
		switch o := o.(type) {
		case *ndp.MTU:
			text += fmt.Sprintf(", mtu %d", o.MTU)
		case *ndp.PrefixInformation:
			text += fmt.Sprintf(", %v/%d onlink %t auto %t", o.Prefix, o.PrefixLength, o.OnLink, o.AutonomousAddressConfiguration)
		case *ndp.RecursiveDNSServer:
			text += fmt.Sprintf(", dns %v for %v", o.Servers, o.Lifetime)
		}
	}
	return text
}

// withNetwork is the open network whose IPv6 network has these blocks, and whose first guest these IPv6 addresses.
func withNetwork(blocks, ipv6 string) string {
	return strings.NewReplacer("PROXY", blocks, `"2001:db8:3:2:1::10"`, ipv6).Replace(seedFile)
}

// What a guest is told depends on what it is bound to.
func TestAdvertisement(t *testing.T) {
	const eui = "2001:db8:3:2:216:3eff:fe00:1"
	for _, c := range []struct{ name, blocks, ipv6, want string }{
		{"nothing without a block", "dhcp {}\n", `"2001:db8:3:2:1::10"`, ""},
		{"nothing for a guest without an address", "ra {}\n", ``, ""},
		{"the default", "ra {}\n", `"2001:db8:3:2:1::10"`, "for 30m0s, mtu 1500"},
		{"lifetime and name servers", "ra {\n lifetime = \"1m\"\n dns = [\"2001:db8::1\", \"2001:db8::2\"]\n }\n", `"2001:db8:3:2:1::10"`, "for 1m0s, mtu 1500, dns [2001:db8::1 2001:db8::2] for 1m0s"},
		{"DHCP", "ra {}\ndhcp {}\n", `"2001:db8:3:2:1::10"`, "for 30m0s managed, mtu 1500"},
		{"the address that its MAC makes", "ra {}\n", `"` + eui + `"`, "for 30m0s, mtu 1500, 2001:db8:3:2::/64 onlink false auto true"},
		{"that one, and it is told by DHCP", "ra {}\ndhcp {}\n", `"` + eui + `"`, "for 30m0s managed, mtu 1500"},
		{"on-link", "ra {\n on_link = true\n }\n", `"2001:db8:3:2:1::10"`, "for 30m0s, mtu 1500, 2001:db8:3:2::/64 onlink true auto false"},
		{"on-link, and DHCP", "ra {\n on_link = true\n }\ndhcp {}\n", `"2001:db8:3:2:1::10"`, "for 30m0s managed, mtu 1500, 2001:db8:3:2::/64 onlink true auto false"},
		{"on-link, and the address that its MAC makes", "ra {\n on_link = true\n }\n", `"2001:db8:3:2:1::10", "` + eui + `"`, "for 30m0s, mtu 1500, 2001:db8:3:2::/64 onlink true auto true"},
		{"not on-link", "ra {\n on_link = false\n }\n", `"2001:db8:3:2:1::10"`, "for 30m0s, mtu 1500"},
		{"a prefix too long for hosts to make addresses of", "ra {}\n", `"2001:db8:3:2:5::/80"`, "for 30m0s, mtu 1500"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSim(t, parseConfig(t, withNetwork(c.blocks, c.ipv6)), seedKernel())
			s.advertiser.send(everyone)
			got := strings.Join(s.told(t)[cases.MAC1], "; ")
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	// A guest with 64 bits of its own.
	src := strings.NewReplacer("2001:db8:3:2::/64", "2001:db8:3::/48", `"2001:db8:3:2:1::10"`, `"2001:db8:3:7::/64"`, "PROXY", "ra {}\ndhcp {}\n").Replace(seedFile)
	s := newSim(t, parseConfig(t, src), seedKernel())
	s.advertiser.send(everyone)
	want := map[policy.MAC][]string{cases.MAC1: {"for 30m0s managed, mtu 1500, 2001:db8:3:7::/64 onlink false auto true"}, cases.MAC2: {"for 30m0s managed, mtu 1500"}}
	if diff := cmp.Diff(want, s.told(t)); diff != "" {
		t.Error(diff)
	}
	// The network's is on-link, the guest's own in it is to make an address of.
	s = newSim(t, parseConfig(t, strings.Replace(src, "ra {}", "ra {\n on_link = true\n }", 1)), seedKernel())
	s.advertiser.send(everyone)
	const network = ", 2001:db8:3::/48 onlink true auto false"
	want = map[policy.MAC][]string{cases.MAC1: {"for 30m0s managed, mtu 1500" + network + ", 2001:db8:3:7::/64 onlink false auto true"}, cases.MAC2: {"for 30m0s managed, mtu 1500" + network}}
	if diff := cmp.Diff(want, s.told(t)); diff != "" {
		t.Error(diff)
	}
}

// A guest to whom its network is on-link asks for its neighbour, is answered by the router, and reaches the neighbour where policy lets it.
func TestOnLinkGuestsReachEachOtherByPolicy(t *testing.T) {
	for _, c := range []struct {
		ingress string
		reaches int
		drops   map[policy.Reason]uint64
	}{
		{"accept", 1, map[policy.Reason]uint64{}},
		{"drop", 0, map[policy.Reason]uint64{policy.IngressPolicy: 1}},
	} {
		src := strings.Replace(withNetwork("ra {\n on_link = true\n }\n", `"2001:db8:3:2:1::10"`), `default = "accept"`, `default = "`+c.ingress+`"`, 1)
		s := newSim(t, parseConfig(t, src), seedKernel())
		s.newWorker(stack.Guests).appearedAll()
		s.links[stack.Guests].Take()
		s.send(stack.Guests, cases.NS(policy.MulticastMAC(policy.SolicitedNode(cases.Two6)), cases.MAC1, cases.One6, policy.SolicitedNode(cases.Two6), cases.Two6, cases.MAC1))
		var p policy.Packet
		if sent := s.links[stack.Guests].Take(); len(sent) != 1 || p.Parse(sent[0].Frame, sent[0].Offload) != policy.None || p.DstMAC != cases.MAC1 || p.ND.Target != cases.Two6 || p.ND.TargetLL != s.RouterMAC {
			t.Fatalf("%s: %d answers, %+v", c.ingress, len(sent), p.ND)
		}
		s.send(stack.Guests, cases.UDP(p.ND.TargetLL, cases.MAC1, cases.One6, cases.Two6, 8))
		sent := s.links[stack.Guests].Take()
		if len(sent) != c.reaches || len(sent) == 1 && (p.Parse(sent[0].Frame, sent[0].Offload) != policy.None || p.DstMAC != cases.MAC2 || p.Dst != cases.Two6) {
			t.Errorf("%s: %d frames", c.ingress, len(sent))
		}
		if diff := cmp.Diff(c.drops, s.counts()); diff != "" {
			t.Errorf("%s: %s", c.ingress, diff)
		}
	}
}

// How long a prefix goes for (RFC 4861 4.6.2): as the default route, and its on-link mark and addresses two hours at least, as shorter ones are not believed (RFC 4862 5.5.3).
func TestPrefixLifetimes(t *testing.T) {
	for preferred, valid := range map[time.Duration]time.Duration{12 * time.Second: 2 * time.Hour, 30 * time.Minute: 2 * time.Hour, 2 * time.Hour: 8 * time.Hour} {
		s := newSim(t, parseConfig(t, withNetwork("ra {\n lifetime = \""+preferred.String()+"\"\n on_link = true\n }\n", `"2001:db8:3:2:1::10"`)), seedKernel())
		wd := s.current.Load()
		seen := 0
		for _, o := range wd.advertisement(wd.ByMAC(cases.MAC1)).Options {
			if o, ok := o.(*ndp.PrefixInformation); ok {
				seen++
				if o.ValidLifetime != valid || o.PreferredLifetime != preferred {
					t.Errorf("%v: valid %v, preferred %v", preferred, o.ValidLifetime, o.PreferredLifetime)
				}
			}
		}
		if seen != 1 {
			t.Errorf("%v: %d prefixes", preferred, seen)
		}
	}
}

// No guest is had to make itself an address that is another's already: dom0's, or of a router that dom0's kernel knows. Nor is the address its own when it makes it all the
// same: it is neither sent from, nor proxied, nor announced. What is taken elsewhere in a prefix does not matter.
func TestAutonomousAddressesAreNotTaken(t *testing.T) {
	const single, whole = "2001:db8:3:2:216:3eff:fe00:1", "2001:db8:3:7:216:3eff:fe00:1"
	inPrefix := strings.NewReplacer("2001:db8:3:2::/64", "2001:db8:3::/48", `"2001:db8:3:2:1::10"`, `"2001:db8:3:7::/64"`, "PROXY", "ra {}\n").Replace(seedFile)
	for _, c := range []struct{ name, file, made, taken, whose, want string }{
		{"single, free", withNetwork("ra {}\n", `"`+single+`"`), single, "", "", ", 2001:db8:3:2::/64 onlink false auto true"},
		{"single, dom0's", withNetwork("ra {}\n", `"`+single+`"`), single, single, "dom0", ""},
		{"single, a router's", withNetwork("ra {}\n", `"`+single+`"`), single, single, "router", ""},
		{"prefix, free", inPrefix, whole, "", "", ", 2001:db8:3:7::/64 onlink false auto true"},
		{"prefix, dom0's", inPrefix, whole, whole, "dom0", ""},
		{"prefix, a router's", inPrefix, whole, whole, "router", ""},
		{"prefix, dom0 has another one of it", inPrefix, whole, "2001:db8:3:7::1", "dom0", ", 2001:db8:3:7::/64 onlink false auto true"},
	} {
		k := seedKernel()
		switch c.whose {
		case "dom0":
			k.Held = append(k.Held, netip.MustParseAddr(c.taken))
		case "router":
			k.Routes = append(k.Routes, stack.Route{Prefix: netip.MustParsePrefix("2001:db8:77::/48"), Gateway: netip.MustParseAddr(c.taken)})
		}
		s := newSim(t, parseConfig(t, c.file), k)
		s.learn()
		s.newWorker(stack.Guests).appearedAll()
		s.advertiser.send(everyone)
		if got, want := strings.Join(s.told(t)[cases.MAC1], "; "), "for 30m0s, mtu 1500"+c.want; got != want {
			t.Errorf("%s: got %q, want %q", c.name, got, want)
		}
		made, own := netip.MustParseAddr(c.made), c.want != ""
		wd, asker := s.current.Load(), policy.MulticastMAC(policy.SolicitedNode(made))
		if got := slices.Contains(wd.announced(wd.ByMAC(cases.MAC1)), made); got != (own && c.made == single) {
			t.Errorf("%s: announced: %t", c.name, got)
		}
		s.links[stack.UplinkSide].Take()
		s.send(stack.Guests, cases.UDP(s.RouterMAC, cases.MAC1, made, cases.X6, 8))
		if n := len(s.links[stack.UplinkSide].Take()); (n == 1) != own {
			t.Errorf("%s: %d packets from %v pass, %v", c.name, n, made, s.counts())
		}
		s.send(stack.UplinkSide, cases.NS(asker, gatewayMAC, cases.Gateway6, policy.SolicitedNode(made), made, gatewayMAC))
		if n := len(s.links[stack.UplinkSide].Take()); (n == 1) != own {
			t.Errorf("%s: %d answers for %v", c.name, n, made)
		}
	}
}

// An address that the uplink's subnet has for its broadcast is no guest's there, whatever the file says.
func TestBroadcastsAreNotAnnounced(t *testing.T) {
	k := seedKernel()
	k.Subnets = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/28")}
	src := strings.NewReplacer(`upstream = "routed"`, `upstream = "proxied"`, `"192.0.2.10"`, `"192.0.2.10", "192.0.2.15"`, "PROXY", "").Replace(seedFile)
	s := newSim(t, parseConfig(t, src), k)
	s.learn()
	wd := s.current.Load()
	if list := wd.announced(wd.ByMAC(cases.MAC1)); slices.Contains(list, netip.MustParseAddr("192.0.2.15")) || !slices.Contains(list, cases.One4) {
		t.Errorf("announced are %v", list)
	}
	s.links[stack.UplinkSide].Take()
	for a, want := range map[string]int{"192.0.2.10": 1, "192.0.2.15": 0} {
		s.send(stack.UplinkSide, cases.ARP(policy.BroadcastMAC, gatewayMAC, 1, gatewayMAC, cases.Gateway4, policy.MAC{}, netip.MustParseAddr(a)))
		if n := len(s.links[stack.UplinkSide].Take()); n != want {
			t.Errorf("%d answers for %s", n, a)
		}
	}
}

// advertising runs the task in a bubble of its own time, and tells when the guest with a MAC was told.
func (s *sim) advertising(t *testing.T, mac policy.MAC, do func(when func() []time.Duration)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s.advertiser = newAdvertiser(s.Router) // with a channel of the bubble
		start := time.Now()
		go func() { _ = s.advertiser.run(ctx, nil) }()
		do(func() (list []time.Duration) {
			synctest.Wait()
			for range s.told(t)[mac] {
				list = append(list, time.Since(start))
			}
			return list
		})
		cancel()
		synctest.Wait()
	})
}

// Guests are told at once when the router starts, twice more soon after, and then so often that each lifetime has three (RFC 4861 6.2.4).
func TestAdvertisedTimes(t *testing.T) {
	for _, c := range []struct {
		lifetime string
		most     time.Duration
	}{{"12s", 4 * time.Second}, {"1m", 20 * time.Second}, {"30m", 10 * time.Minute}, {"2h30m", 10 * time.Minute}} {
		s := newSim(t, parseConfig(t, withNetwork("ra {\n lifetime = \""+c.lifetime+"\"\n }\n", `"2001:db8:3:2:1::10"`)), seedKernel())
		s.advertising(t, cases.MAC2, func(when func() []time.Duration) {
			last, sent := time.Duration(0), 0
			step := c.most / 60
			for sent < 30 {
				for _, told := range when() {
					gap := told - last
					most := c.most
					if sent < 3 {
						most = min(most, 16*time.Second)
					}
					if sent == 0 && gap > 0 || sent > 0 && (gap < min(c.most/3, 16*time.Second)-step || gap > most+step) {
						t.Fatalf("lifetime %s: the %dth comes after %v", c.lifetime, sent, gap)
					}
					last, sent = told, sent+1
				}
				time.Sleep(step) // of the bubble
			}
		})
	}
}

// Who asks is told within half a second, alone (RFC 4861 6.2.6); who keeps asking is not, and counted. A link with a thousand questions is told no more.
func TestSolicited(t *testing.T) {
	rs := func(from netip.Addr, mac policy.MAC) []byte {
		all := netip.MustParseAddr("ff02::2")
		f := stack.BuildDAD(policy.MulticastMAC(all), mac, all, all) // as long as, and then its own
		b := f.Bytes()[:14+40+8]
		b[18], b[19] = 0, 8
		src := from.As16()
		copy(b[22:38], src[:])
		icmp := b[54:]
		clear(icmp)
		icmp[0] = policy.RouterSolicitation
		sum := ^policy.FoldChecksum(policy.Sum(icmp, policy.PseudoSum(from, all, policy.ProtoICMPv6, len(icmp))))
		icmp[2], icmp[3] = byte(sum>>8), byte(sum)
		return b
	}
	for _, from := range []netip.Addr{netip.IPv6Unspecified(), policy.EUI64(cases.MAC1)} {
		s := newSim(t, parseConfig(t, withNetwork("ra {}\n", `"2001:db8:3:2:1::10"`)), seedKernel())
		s.newWorker(stack.Guests).appearedAll()
		s.advertising(t, cases.MAC1, func(when func() []time.Duration) {
			when()
			s.send(stack.Guests, rs(from, cases.MAC1))
			if list := when(); list != nil {
				t.Errorf("told at once")
			}
			time.Sleep(maxAnswerDelay) // of the bubble
			synctest.Wait()
			if told := s.told(t); len(told[cases.MAC1]) != 1 || len(told) != 1 {
				t.Errorf("from %v: told %v", from, told)
			}
			for range 1000 {
				s.send(stack.Guests, rs(from, cases.MAC1))
			}
			if n := s.counts()[policy.NDLimit]; n != 1000-advertisementBurst+1 {
				t.Errorf("%d counted", n)
			}
			time.Sleep(maxAnswerDelay)
			if list := when(); len(list) != 1 {
				t.Errorf("told %d times", len(list))
			}
		})
	}
	// Who is told nothing may ask as often as it likes.
	s := newSim(t, parseConfig(t, withNetwork("", `"2001:db8:3:2:1::10"`)), seedKernel())
	s.newWorker(stack.Guests).appearedAll()
	for range 100 {
		s.send(stack.Guests, rs(policy.EUI64(cases.MAC1), cases.MAC1))
	}
	if n := s.counts(); len(n) > 0 {
		t.Errorf("counted %v", n)
	}
}

// After a reload, those are told for whom something has changed: also that the router is none any more (RFC 4861 6.2.5).
func TestAdvertisedAfterReload(t *testing.T) {
	const one6 = `"2001:db8:3:2:1::10"`
	with, without := withNetwork("ra {}\n", one6), withNetwork("", one6)
	gone := "for 0s"
	is := "for 30m0s, mtu 1500"
	onLink := withNetwork("ra {\n on_link = true\n }\n", one6)
	isOnLink := is + ", 2001:db8:3:2::/64 onlink true auto false"
	for _, c := range []struct {
		name, from, to string
		want           map[policy.MAC][]string
	}{
		{"nothing has", with, with, map[policy.MAC][]string{}},
		{"a block comes", without, with, map[policy.MAC][]string{cases.MAC1: {is}, cases.MAC2: {is}}},
		{"a block goes", with, without, map[policy.MAC][]string{cases.MAC1: {gone}, cases.MAC2: {gone}}},
		{"the network is on-link now", with, onLink, map[policy.MAC][]string{cases.MAC1: {isOnLink}, cases.MAC2: {isOnLink}}},
		{"it is not any more", onLink, with, map[policy.MAC][]string{cases.MAC1: {is}, cases.MAC2: {is}}},
		{"it is, and the block goes", onLink, without, map[policy.MAC][]string{cases.MAC1: {gone}, cases.MAC2: {gone}}},
		{"a guest's address goes", with, withNetwork("ra {}\n", ""), map[policy.MAC][]string{cases.MAC1: {gone}}},
		{"a guest gets another address, and has heard what goes for it", with, withNetwork("ra {}\n", `"2001:db8:3:2:1::12"`), map[policy.MAC][]string{}},
		{"a guest has another vif", with, strings.Replace(with, "vif1.0", "vif7.0", 1), map[policy.MAC][]string{cases.MAC1: {is}}},
		{"a block goes and a guest has another name", with, renamed(without), map[policy.MAC][]string{cases.MAC1: {gone}, cases.MAC2: {gone}}},
		{"a block goes and a guest has another MAC", with, otherMAC(without), map[policy.MAC][]string{cases.MAC2: {gone}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSim(t, parseConfig(t, c.from), seedKernel())
			s.advertiser.send(everyone)
			s.told(t)
			if err := s.reload(c.to); err != nil {
				t.Fatal(err)
			}
			s.advertiser.send(func(g *guestState) bool { return g.solicits.Swap(false) })
			if diff := cmp.Diff(c.want, s.told(t)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func renamed(src string) string { return strings.Replace(src, `domu "one"`, `domu "uno"`, 1) }

func otherMAC(src string) string {
	return strings.Replace(src, cases.MAC1.String(), "00:16:3e:00:00:09", 1)
}

// Also when dom0's kernel does not follow yet.
func TestAdvertisedAfterReloadByHalf(t *testing.T) {
	const one6 = `"2001:db8:3:2:1::10"`
	s := newSim(t, parseConfig(t, withNetwork("ra {}\n", one6)), seedKernel())
	s.advertiser.send(everyone)
	s.told(t)
	s.Around = &around{next: parseConfig(t, withNetwork("", one6)), late: errors.New("no")}
	if err := s.Reload(); err == nil {
		t.Fatal("no error")
	}
	s.advertiser.send(func(g *guestState) bool { return g.solicits.Swap(false) })
	if diff := cmp.Diff(map[policy.MAC][]string{cases.MAC1: {"for 0s"}, cases.MAC2: {"for 0s"}}, s.told(t)); diff != "" {
		t.Error(diff)
	}
}

// The process that takes over goes on with who has been told of the router, by their MACs, and tells those that they have none any more to whom its own file
// says nothing. Of a process that says nothing about it nobody knows, so nobody is told.
func TestAdvertisedAfterHandOver(t *testing.T) {
	const one6 = `"2001:db8:3:2:1::10"`
	with, without := withNetwork("ra {}\n", one6), withNetwork("", one6)
	gone, is := "for 0s", "for 30m0s, mtu 1500"
	nobody := map[policy.MAC][]string{}
	for _, c := range []struct {
		name, from, to string
		silent, older  bool // the process before has told nobody yet, or its snapshots do not say whom
		want           map[policy.MAC][]string
	}{
		{"nothing has changed", with, with, false, false, map[policy.MAC][]string{cases.MAC1: {is}, cases.MAC2: {is}}},
		{"a block goes", with, without, false, false, map[policy.MAC][]string{cases.MAC1: {gone}, cases.MAC2: {gone}}},
		{"a block goes of which nobody had heard", with, without, true, false, nobody},
		{"there was none", without, without, false, false, nobody},
		{"a guest's address goes", with, withNetwork("ra {}\n", ""), false, false, map[policy.MAC][]string{cases.MAC1: {gone}, cases.MAC2: {is}}},
		{"a block goes and a guest has another name", with, renamed(without), false, false, map[policy.MAC][]string{cases.MAC1: {gone}, cases.MAC2: {gone}}},
		{"a block goes and a guest has another MAC", with, otherMAC(without), false, false, map[policy.MAC][]string{cases.MAC2: {gone}}},
		{"a block goes after an older version", with, without, false, true, nobody},
		{"a block stays after an older version", with, with, false, true, map[policy.MAC][]string{cases.MAC1: {is}, cases.MAC2: {is}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSim(t, parseConfig(t, c.from), seedKernel())
			s.advertiser.send(func(*guestState) bool {
				if s.besides.TryLock() {
					s.besides.Unlock()
					t.Error("somebody may be told while the snapshot is made")
				}
				return !c.silent
			})
			var b bytes.Buffer
			if err := s.save(&b, nil); err != nil {
				t.Fatal(err)
			}
			snapshot := b.Bytes()
			if c.older {
				snapshot = withoutField(t, snapshot, "advertised")
			}
			next := newSim(t, parseConfig(t, c.to), seedKernel())
			if err := next.Restore(bytes.NewReader(snapshot), int64(len(snapshot))); err != nil {
				t.Fatal(err)
			}
			next.advertiser.send(everyone)
			if diff := cmp.Diff(c.want, next.told(t)); diff != "" {
				t.Error(diff)
			}
			next.advertiser.send(everyone)
			for mac, list := range next.told(t) {
				if list[0] == gone {
					t.Errorf("%v is told twice", mac)
				}
			}
		})
	}
}

// withoutField is a snapshot of a program that does not know a field.
func withoutField(t *testing.T, snapshot []byte, field string) []byte {
	t.Helper()
	known, unknown := []byte(`"`+field+`":`), []byte(`"`+strings.Repeat("x", len(field))+`":`)
	if bytes.Count(snapshot, known) != 1 {
		t.Fatalf("the snapshot has no %s", field)
	}
	b := bytes.Replace(snapshot, known, unknown, 1)
	return summed(b[:len(b)-4])
}

// At its end the router tells guests that it is none any more, unless another process goes on.
func TestAdvertisedAtTheEnd(t *testing.T) {
	for _, handed := range []bool{false, true} {
		s := newSim(t, parseConfig(t, withNetwork("ra {}\n", `"2001:db8:3:2:1::10"`)), seedKernel())
		s.advertiser.send(everyone)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			ended <- s.Run(ctx, func() { s.told(t); s.handedOver.Store(handed); s.unpause = func() {}; cancel() })
		}()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		s.advertiser.send(everyone) // as it may be under way
		final := 0
		list := s.told(t)[cases.MAC1]
		for _, text := range list {
			if text == "for 0s" {
				final++
			}
		}
		if !handed && list[len(list)-1] != "for 0s" {
			t.Errorf("told after the farewell: %q", list)
		}
		if want := map[bool]int{false: 1, true: 0}[handed]; final != want {
			t.Errorf("handed over: %t: told %d times", handed, final)
		}
	}
}

// Who keeps asking costs no memory.
func TestSolicitedTooOftenAllocatesNothing(t *testing.T) {
	s := newSim(t, parseConfig(t, withNetwork("ra {}\n", `"2001:db8:3:2:1::10"`)), seedKernel())
	w := s.newWorker(stack.Guests)
	w.world = s.current.Load()
	g := w.world.ByMAC(cases.MAC1)
	for range advertisementBurst {
		w.solicited(g)
	}
	if n := testing.AllocsPerRun(100, func() { w.solicited(g) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
