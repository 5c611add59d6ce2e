package router

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"udrouter/integration/cases"
	"udrouter/policy"
	"udrouter/stack"
)

// errorSim is a router whose uplink takes 1400 bytes and which rejects TCP to port 25, so that a guest may be told anything.
func errorSim(t testing.TB) *sim {
	k := seedKernel()
	k.Uplink.MTU = 1400
	k.Routes = k.Routes[:len(k.Routes)-2]
	k.Routes = append(k.Routes, stack.Route{Prefix: netip.MustParsePrefix("198.51.100.0/24"), Gateway: cases.Gateway4}, stack.Route{Prefix: netip.MustParsePrefix("2001:db8:ffff::/48"), Gateway: cases.Gateway6})
	src := strings.NewReplacer("PROXY", "", `bridge "xenbr0" {}`, `bridge "xenbr0" { mtu = 1500 }`, "  gateway4 = \"192.0.1.1\"\n  gateway6 = \"2001:db8:3:2::1\"\n", "",
		"policy \"open\" {\n", "policy \"open\" {\n  egress {\n    default = \"accept\"\n    rule \"no\" {\n      action = \"reject\"\n      proto = \"udp\"\n      ports = [25]\n    }\n  }\n").Replace(seedFile)
	s := newSim(t, parseConfig(t, src), k)
	s.learn()
	s.newWorker(stack.Guests).appearedAll()
	return s
}

// What one guest makes the router report, whatever it is about, is bounded, and takes nothing from another guest, nor what says that packets are
// too big from other errors, and the other way round.
func TestErrorsOfAllKinds(t *testing.T) {
	type guest struct {
		mac policy.MAC
		v4  netip.Addr
		v6  netip.Addr
	}
	one, two := guest{cases.MAC1, cases.One4, cases.One6}, guest{cases.MAC2, cases.Two4, cases.Two6}
	kinds := []struct {
		name   string
		tooBig bool
		frame  func(s *sim, g guest) []byte
	}{
		{"TTL", false, func(s *sim, g guest) []byte { return cases.UDP(s.RouterMAC, g.mac, g.v4, cases.X4, 8, cases.TTL(1)) }},
		{"hop limit", false, func(s *sim, g guest) []byte { return cases.UDP(s.RouterMAC, g.mac, g.v6, cases.X6, 8, cases.TTL(1)) }},
		{"no route", false, func(s *sim, g guest) []byte {
			return cases.UDP(s.RouterMAC, g.mac, g.v4, netip.MustParseAddr("203.0.113.1"), 8)
		}},
		{"no route, IPv6", false, func(s *sim, g guest) []byte {
			return cases.UDP(s.RouterMAC, g.mac, g.v6, netip.MustParseAddr("2001:db8:eeee::1"), 8)
		}},
		{"rejected", false, func(s *sim, g guest) []byte {
			f := cases.UDP(s.RouterMAC, g.mac, g.v4, cases.X4, 8)
			f[36], f[37] = 0, 25
			return f
		}},
		{"link-local", false, func(s *sim, g guest) []byte { return cases.UDP(s.RouterMAC, g.mac, policy.EUI64(g.mac), cases.X6, 8) }},
		{"hop-by-hop option", false, func(s *sim, g guest) []byte {
			f := cases.UDP(s.RouterMAC, g.mac, g.v6, cases.X6, 8)
			f[18], f[19], f[20] = 0, byte(len(f)-54+8), 0
			return append(append(bytes.Clone(f[:54]), 17, 0, 0x9e, 4, 0, 0, 0, 0), f[54:]...)
		}},
		{"too big", true, func(s *sim, g guest) []byte { return cases.UDP(s.RouterMAC, g.mac, g.v4, cases.X4, 1450, cases.DF) }},
		{"too big, IPv6", true, func(s *sim, g guest) []byte { return cases.UDP(s.RouterMAC, g.mac, g.v6, cases.X6, 1450) }},
	}
	for _, flood := range kinds {
		t.Run(flood.name, func(t *testing.T) {
			s := errorSim(t)
			told := func(f []byte) int {
				s.send(stack.Guests, f)
				n := 0
				for _, p := range s.frames(stack.Guests) {
					if p.IsICMPError() {
						n++
					}
				}
				return n
			}
			n := 0
			for range 10 * errorsPerSecond {
				n += told(flood.frame(s, one))
			}
			if n < errorsPerSecond/2 || n > errorCost*errorsPerSecond {
				t.Errorf("told %d times of %d", n, 10*errorsPerSecond)
			}
			for _, k := range kinds {
				if told(k.frame(s, two)) != 1 {
					t.Errorf("the other guest is not told: %s", k.name)
				}
				if k.tooBig != flood.tooBig && told(k.frame(s, one)) != 1 {
					t.Errorf("takes from another share: %s", k.name)
				}
			}
		})
	}
}

// The same toward the uplink: the share is that of the guest which the packets were for.
func TestErrorsToUplink(t *testing.T) {
	k := seedKernel()
	k.Uplink.MTU = 9000
	s := newSim(t, parseConfig(t, strings.NewReplacer("PROXY", "", `bridge "xenbr0" {}`, `bridge "xenbr0" { mtu = 1500 }`).Replace(seedFile)), k)
	s.learn()
	told := func(f []byte) int {
		s.send(stack.UplinkSide, f)
		return len(s.frames(stack.UplinkSide))
	}
	expired := func(to netip.Addr) []byte { return cases.UDP(eth0MAC, gatewayMAC, cases.X4, to, 8, cases.TTL(1)) }
	big := func(to netip.Addr) []byte { return cases.UDP(eth0MAC, gatewayMAC, cases.X4, to, 2000, cases.DF) }
	for _, c := range []struct{ flood, other func(netip.Addr) []byte }{{expired, big}, {big, expired}} {
		s.freshLimits()
		n := 0
		for range 10 * errorsPerSecond {
			n += told(c.flood(cases.One4))
		}
		if n < errorsPerSecond/2 || n > errorCost*errorsPerSecond {
			t.Errorf("told %d times of %d", n, 10*errorsPerSecond)
		}
		if told(c.flood(cases.Two4)) != 1 || told(c.other(cases.One4)) != 1 || told(c.other(cases.Two4)) != 1 {
			t.Error("a flood for one takes from other shares")
		}
		// What a guest is told is not what the uplink is told about packets for it.
		s.send(stack.Guests, cases.UDP(s.RouterMAC, cases.MAC1, cases.One4, cases.X4, 8, cases.TTL(1)))
		if len(s.frames(stack.Guests)) != 1 {
			t.Error("a flood from the uplink takes from the guest's own share")
		}
	}
}

// An error comes from the gateway's address of the guest's network, in whichever direction it goes (RFC 1812 4.3.2.4, RFC 4443 2.2): on the uplink the
// router has no address but a link-local one, and eth0's are the kernel's. A gateway that is link-local itself is none for the internet.
func TestErrorSource(t *testing.T) {
	file := strings.Replace(seedFile, "PROXY", "", 1) + `
network "more" {
  prefix   = "203.0.113.0/28"
  gateway  = "203.0.113.1"
  upstream = "routed"
}
domu "three" {
  vif    = "vif3.0"
  mac    = "00:16:3e:00:00:03"
  ipv4   = ["203.0.113.2"]
  policy = "open"
}
`
	three, mac3 := netip.MustParseAddr("203.0.113.2"), policy.MAC{0, 0x16, 0x3e, 0, 0, 3}
	linkLocal := strings.Replace(file, `gateway  = "2001:db8:3:2:1::1"`, `gateway  = "fe80::1"`, 1)
	for _, c := range []struct {
		name     string
		file     string
		from     stack.Side
		mac      policy.MAC
		src, dst netip.Addr
		want     string // "": dom0's own global address
	}{
		{"to a guest", file, stack.Guests, cases.MAC1, cases.One4, cases.X4, "192.0.2.1"},
		{"to a guest of another network", file, stack.Guests, mac3, three, cases.X4, "203.0.113.1"},
		{"to a guest, about another one", file, stack.Guests, cases.MAC1, cases.One4, three, "192.0.2.1"},
		{"to the internet", file, stack.UplinkSide, gatewayMAC, cases.X4, cases.One4, "192.0.2.1"},
		{"to the internet, about another network", file, stack.UplinkSide, gatewayMAC, cases.X4, three, "203.0.113.1"},
		{"to a guest, IPv6", file, stack.Guests, cases.MAC1, cases.One6, cases.X6, "2001:db8:3:2:1::1"},
		{"to the internet, IPv6", file, stack.UplinkSide, gatewayMAC, cases.X6, cases.One6, "2001:db8:3:2:1::1"},
		{"to a guest, from a link-local gateway", linkLocal, stack.Guests, cases.MAC1, cases.One6, cases.X6, "fe80::1"},
		{"to the internet, of a link-local gateway", linkLocal, stack.UplinkSide, gatewayMAC, cases.X6, cases.One6, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := seedKernel()
			k.Up["vif3.0"], k.Global6 = true, netip.MustParseAddr("2001:db8:d0::1")
			s := newSim(t, parseConfig(t, c.file), k)
			s.learn()
			s.newWorker(stack.Guests).appearedAll()
			to := s.RouterMAC
			if c.from == stack.UplinkSide {
				to = eth0MAC
			}
			s.frames(c.from)
			s.send(c.from, cases.UDP(to, c.mac, c.src, c.dst, 8, cases.TTL(1)))
			want := k.Global6
			if c.want != "" {
				want = netip.MustParseAddr(c.want)
			}
			sent := s.frames(c.from)
			if len(sent) != 1 || !sent[0].IsICMPError() || sent[0].Src != want || sent[0].Dst != c.src || sent[0].DstMAC != c.mac {
				t.Errorf("got %+v, want an error from %v", sent, want)
			}
		})
	}
}

// How many errors a share still holds tells nobody how many there have been: each costs more or less (CVE-2020-25705).
func TestErrorCostVaries(t *testing.T) {
	seen := map[int]bool{}
	sum := 0
	const tries = 200
	for range tries {
		bucket, n := rate.NewLimiter(0, errorCost*errorsPerSecond), 0
		for range 10 * errorsPerSecond {
			if allowError(bucket, time.Time{}) {
				n++
			}
		}
		seen[n] = true
		sum += n
	}
	if len(seen) < 5 {
		t.Errorf("a share of errors is %v", seen)
	}
	if mean := sum / tries; mean < errorsPerSecond*9/10 || mean > errorsPerSecond*11/10 {
		t.Errorf("a share is %d errors on average", mean)
	}
}

// matrix6 tells what becomes of an ICMPv6 message that quotes a packet of a flow, on its way through: the words of RFC 4890 4.3, by type and code.
func matrix6(typ, code int) policy.Reason {
	switch {
	case typ == 1, typ == 2, typ == 3 && code == 0, typ == 4 && (code == 1 || code == 2): // 4.3.1: must not be dropped
		return policy.None
	case typ == 128: // 4.3.1 as well
		return policy.None
	case typ == 129: // but what nobody has asked for
		return policy.NoFlow
	case typ == 3 && code == 1, typ == 4 && code == 0: // 4.3.2: should not be
		return policy.None
	case typ == 4 && code >= 3 && code <= 10: // assigned since: RFC 7112, RFC 8986, RFC 8883
		return policy.None
	case typ >= 133 && typ <= 137: // 4.3.3: of the link, as hop limit 64 shows
		return policy.NDHopLimit
	}
	// 4.3.3 (130-132, 141-143, 148, 149, 151-153), 4.3.4 (150, 5-99, 102-126, 154-199, 202-254), 4.3.5 (138-140, 100, 101, 200, 201, 127, 255), and
	// mobility (144-147, 4.3.2), which is for networks of mobile hosts
	return policy.ICMPType
}

// matrix4 is the same of ICMP: RFC 1812 4.3, RFC 6633 (source quench), RFC 6918 (what is deprecated) and what is of the link, for the router or
// not assigned.
func matrix4(typ, _ int) policy.Reason {
	switch typ {
	case 3, 8, 11, 12:
		return policy.None
	case 0:
		return policy.NoFlow
	case 5:
		return policy.Redirect
	}
	return policy.ICMPType
}

// All 256 types and codes of ICMPv6 and ICMP cross the router, or do not, as the tables say: in both directions, as first packets and about a flow.
func TestICMPMatrix(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, from := range []stack.Side{stack.Guests, stack.UplinkSide} {
			t.Run(fmt.Sprintf("IPv6 %v from side %d", v6, from), func(t *testing.T) {
				s := seed(t)
				s.learn()
				s.newWorker(stack.Guests).appearedAll()
				one, x := cases.One4, cases.X4
				matrix, header := matrix4, policy.IPv4Len
				if v6 {
					one, x, matrix, header = cases.One6, cases.X6, matrix6, policy.IPv6Len
				}
				to, src, dst, macs := stack.UplinkSide, one, x, [2]policy.MAC{s.RouterMAC, cases.MAC1}
				backMACs := [2]policy.MAC{eth0MAC, gatewayMAC}
				if from == stack.UplinkSide {
					to, src, dst, macs, backMACs = stack.Guests, x, one, backMACs, macs
				}
				quoted := cases.UDP(backMACs[0], backMACs[1], dst, src, 24)
				s.send(to, quoted) // whose sender the messages are for
				s.links[from].Take()
				echo := cases.Echo(macs[0], macs[1], src, dst, false, 0)
				message := func(typ, code int, quote []byte) []byte {
					f := append(bytes.Clone(echo), quote...)
					if v6 {
						binary.BigEndian.PutUint16(f[18:], uint16(len(f)-policy.EthernetLen-header))
					} else {
						binary.BigEndian.PutUint16(f[16:], uint16(len(f)-policy.EthernetLen))
						f[24], f[25] = 0, 0
						binary.BigEndian.PutUint16(f[24:], ^policy.FoldChecksum(policy.Sum(f[14:34], 0)))
					}
					icmp := f[policy.EthernetLen+header:]
					icmp[0], icmp[1] = byte(typ), byte(code)
					binary.BigEndian.PutUint32(icmp[4:], 1400)
					return f
				}
				w := s.newWorker(from)
				check := func(typ, code int, quote []byte, want policy.Reason) {
					before := s.drops[want].Load()
					w.batch([]*stack.Frame{frameOf(message(typ, code, quote))})
					n := len(s.links[to].Take())
					if back := len(s.links[from].Take()); back != 0 {
						t.Fatalf("%d/%d: answered", typ, code)
					}
					if want == policy.None && n != 1 || want != policy.None && (n != 0 || s.drops[want].Load() != before+1) {
						t.Fatalf("%d/%d, %d bytes quoted: %d passed, counted %v, want %v", typ, code, len(quote), n, s.counts(), want)
					}
				}
				for typ := range 256 {
					for code := range 256 {
						want := matrix(typ, code)
						check(typ, code, quoted[policy.EthernetLen:], want)
						if isError := !v6 && typ != 8 || v6 && typ < 128; want == policy.None && isError { // as a first packet, about nothing
							want = policy.Unrelated
						}
						check(typ, code, nil, want)
					}
				}
			})
		}
	}
}
