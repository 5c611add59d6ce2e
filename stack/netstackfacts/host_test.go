package netstackfacts

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// These rows are not on the sheet: how netstack behaves as udrouter means to use it, with forwarding off.

// echo4 is an echo request packet.
func echo4(src, dst string) []byte {
	return ip4(src, dst, protoICMP, icmp4(icmpEcho, 0, []byte{0, 1, 0, 1}))
}

// hostNeverPanics: handleForwardingError is reached only where the NIC forwards (ipv4.go:1287, ipv6.go:1532).
func hostNeverPanics(t *testing.T) {
	r := newRouter(t, conf{host: true, mtuUp: 60})
	r.up.fail = &tcpip.ErrInvalidEndpointState{}
	for _, packet := range [][]byte{
		ip6(d1v6, xv6, protoNone, make([]byte, 1241)),
		ip6(d1v6, xv6, protoDst, ext(protoUDP, 1248, nil)),
		ip4(d1, x, protoUDP, datagram(d1, x, nil)),
		ip4(d1, x, protoUDP, datagram(d1, x, nil), ttl(0)),
		ip6(d1v6, xv6, protoUDP, datagram(d1v6, xv6, nil)),
		ip4(d1, d2, protoUDP, datagram(d1, d2, nil)),
		ns(d1v6, d2v6, d2v6, macD1),
		ip6(d1v6, lan6, protoNone, make([]byte, 1241)), // to itself as well
		ip6(d1v6, lan6, protoDst, ext(protoNone, 1248, nil)),
	} {
		r.lan.in(packet)
	}
	r.up.in(echo4(gw, up4))
	r.up.in(echo6(gwv6, up6, nil))
	r.silent(r.lan, r.up)
}

// hostOtherNIC: with forwarding off a NIC takes what is for its own addresses only. With forwarding on the other NIC answers, and by itself,
// if it has any route to whoever asks: here d1's echo reply goes to the internet's gateway.
func hostOtherNIC(t *testing.T) {
	for _, packet := range [][]byte{echo4(d1, up4), echo6(d1v6, up6, nil)} {
		r := newRouter(t, conf{host: true})
		r.lan.in(packet)
		r.silent(r.lan, r.up)

		r = newRouter(t, conf{})
		r.lan.in(packet)
		if f := r.one(r.up); f.to != macGW {
			t.Errorf("answer: %v", f)
		}
		r.silent(r.lan)
	}
}

// sameAddressTwice: each NIC answers for its own and by itself, if it has a route to whoever asks.
func sameAddressTwice(t *testing.T) {
	r := newRouter(t, conf{host: true})
	r.address(upNIC, lan4+"/32", lan6+"/128", lanLocal+"/64")
	r.static(upNIC, "fe80::fe", macGW)
	r.static(lanNIC, "fe80::a", macD1)
	for _, c := range []struct {
		name    string
		w, idle *wire
		mac     tcpip.LinkAddress
		packet  []byte
		from    string
	}{
		{"echo on lan", r.lan, r.up, macD1, echo4(d1, lan4), lan4},
		{"echo on up", r.up, r.lan, macGW, echo4(x, lan4), lan4},
		{"echo over IPv6 on lan", r.lan, r.up, macD1, echo6(d1v6, lan6, nil), lan6},
		{"echo over IPv6 on up", r.up, r.lan, macGW, echo6(xv6, lan6, nil), lan6},
		{"echo to the link-local address on lan", r.lan, r.up, macD1, echo6("fe80::a", lanLocal, nil), lanLocal},
		{"echo to the link-local address on up", r.up, r.lan, macGW, echo6("fe80::fe", lanLocal, nil), lanLocal},
		{"NS on lan", r.lan, r.up, macD1, ns(d1v6, solicited(lan6), lan6, macD1), lan6},
		{"NS on up", r.up, r.lan, macGW, ns(gwv6, solicited(lan6), lan6, macGW), lan6},
		{"NS for the link-local address on up", r.up, r.lan, macGW, ns(gwv6, solicited(lanLocal), lanLocal, macGW), lanLocal},
	} {
		c.w.in(c.packet)
		f := r.one(c.w)
		src := f.b[12:16]
		if f.proto == protoIPv6 {
			src = f.b[8:24]
		}
		if f.to != c.mac || string(src) != string(octets(c.from)) {
			t.Errorf("%s: %v", c.name, f)
		}
		r.silent(c.idle)
	}
	for _, w := range []*wire{r.lan, r.up} {
		w.in(arpPacket(arpRequest, macD1, d1, lan4))
		if f := r.one(w); string(f.b[8:14]) != string(w.LinkAddress()) {
			t.Errorf("ARP: %v", f)
		}
	}
	r.lan.in(echo4(x, lan4)) // the route to x goes by the other NIC
	r.lan.in(echo6(xv6, lan6, nil))
	r.silent(r.lan, r.up)
}

// nothingUnasked: no DAD, RS, MLD or IGMP unless an option wants them.
func nothingUnasked(t *testing.T) {
	r := newRouter(t, conf{host: true})
	r.clock.Advance(time.Hour)
	r.silent(r.lan, r.up)
	r.lan.in(ip6("fe80::66", "ff02::1", protoICMP6, icmp6("fe80::66", "ff02::1", icmp6RA, 0, // an RA with a prefix
		append([]byte{64, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 4, 64, 0xc0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0}, octets("2001:db8:66::")...)), hops(255)))
	for _, a := range r.s.AllAddresses()[lanNIC] {
		if a.AddressWithPrefix.Subnet() == subnet("2001:db8:66::/64") {
			t.Errorf("an RA gave the address %s", a.AddressWithPrefix)
		}
	}
	r.silent(r.lan, r.up)
}

// duplicateAddressCheck: CheckDuplicateAddress works once the endpoint's DAD is configured, which concerns addresses added later as well.
func duplicateAddressCheck(t *testing.T) {
	for _, c := range []struct {
		ip     string
		ep     tcpip.NetworkProtocolNumber // whose endpoint does it
		answer []byte
	}{
		{"192.0.2.77", protoARP, arpPacket(arpReply, macEvil, "192.0.2.77", "0.0.0.0")},
		{"2001:db8:1::77", protoIPv6, na("2001:db8:1::77", "ff02::1", "2001:db8:1::77", 0x20, macEvil)},
	} {
		r := newRouter(t, conf{host: true})
		var result stack.DADResult
		check := func() stack.DADCheckAddressDisposition {
			d, err := r.s.CheckDuplicateAddress(lanNIC, family(addr(c.ip)), addr(c.ip), func(res stack.DADResult) { result = res })
			r.ok(err)
			return d
		}
		if d := check(); d != stack.DADDisabled {
			t.Errorf("%s: %d by default", c.ip, d)
		}
		ep, err := r.s.GetNetworkEndpoint(lanNIC, c.ep)
		r.ok(err)
		dad := ep.(stack.DuplicateAddressDetector)
		dad.SetDADConfigurations(stack.DefaultDADConfigurations())
		if d := check(); d != stack.DADStarting {
			t.Errorf("%s: %d", c.ip, d)
		}
		dad.SetDADConfigurations(stack.DADConfigurations{})
		r.one(r.lan) // the question
		r.clock.Advance(time.Second)
		if _, ok := result.(*stack.DADSucceeded); !ok {
			t.Errorf("%s: result %#v", c.ip, result)
		}
		dad.SetDADConfigurations(stack.DefaultDADConfigurations())
		check()
		r.one(r.lan)
		r.lan.in(c.answer)
		if got, ok := result.(*stack.DADDupAddrDetected); !ok || got.HolderLinkAddress != macEvil {
			t.Errorf("%s: result %#v", c.ip, result)
		}
	}
}

// unregisteredTransports: where only ICMP is registered, TCP and UDP to the router get an error, not silence. So do pings to groups.
func unregisteredTransports(t *testing.T) {
	r := newRouter(t, conf{host: true})
	r.icmpError(r.lan, r.up, ip4(d1, lan4, protoTCP, segment(d1, lan4, 1, 2, nil)), icmpUnreach, 2)
	r.icmpError(r.lan, r.up, ip4(d1, lan4, protoUDP, datagram(d1, lan4, nil)), icmpUnreach, 2)
	r.icmpError(r.lan, r.up, ip6(d1v6, lan6, protoTCP, segment(d1v6, lan6, 1, 2, nil)), icmp6Param, 1)
	r.icmpError(r.lan, r.up, ip6(d1v6, lan6, protoUDP, datagram(d1v6, lan6, nil)), icmp6Param, 1)
	for _, dst := range []string{"192.0.2.255", "255.255.255.255", "224.0.0.1"} {
		r.lan.in(echo4(d1, dst))
		if f := r.one(r.lan); header.IPv4(f.b).SourceAddress() != addr(lan4) || f.b[20] != icmpEchoReply {
			t.Errorf("echo to %s: %v", dst, f)
		}
	}
	r.lan.in(echo6(d1v6, "ff02::1", nil))
	if f := r.one(r.lan); header.IPv6(f.b).SourceAddress() != addr(lan6) || f.b[40] != icmp6EchoReply {
		t.Errorf("echo to ff02::1: %v", f)
	}
}

// noGoroutines: with the real clock, a stack with two NICs has none.
func noGoroutines(t *testing.T) {
	before := runtime.NumGoroutine()
	r := newRouter(t, conf{opts: func(o *stack.Options) { o.Clock = nil }})
	r.lan.in(echo4(d1, lan4))
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines more", n-before)
	}
}

// recoveredPanic: the panics of rows 1 and 2 hold no lock, so a recover in the reader is of use.
func recoveredPanic(t *testing.T) {
	r := newRouter(t, conf{})
	good4, good6 := ip4(d1, x, protoUDP, datagram(d1, x, nil)), ip6(d1v6, xv6, protoUDP, datagram(d1v6, xv6, nil))
	for i := range 3 {
		r.up.fail = &tcpip.ErrWouldBlock{}
		for _, packet := range [][]byte{good4, good6, ip6(d1v6, xv6, protoNone, make([]byte, 1241))} {
			if panicOf(func() { r.lan.in(packet) }) == "" {
				t.Error("no panic")
			}
		}
		r.up.fail = nil
		r.transit(r.lan, r.up, good4)
		r.transit(r.lan, r.up, good6)
		r.address(lanNIC, fmt.Sprintf("10.0.0.%d/24", i), fmt.Sprintf("fd00::%d/64", i))
		r.lan.in(echo4(d1, lan4))
		r.one(r.lan)
	}
	r.ok(r.s.DisableNIC(upNIC))
	r.ok(r.s.EnableNIC(upNIC))
	r.ok(r.s.RemoveNIC(upNIC))
}
