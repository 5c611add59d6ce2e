package cases

import (
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"udrouter/policy"
)

// icmp4Error is an ICMP error about a frame from the router's address, with at most 548 quoted bytes.
func icmp4Error(dst, src policy.MAC, from, to netip.Addr, typ, code uint8, mtu uint16, about []byte) []byte {
	h := ip4(from, to, layers.IPProtocolICMPv4)
	h.TOS, h.Id = 0xc0, 0
	quote := about[14:]
	return serialize(eth(dst, src, layers.EthernetTypeIPv4), h, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, code), Seq: mtu}, raw(quote[:min(len(quote), 548)]))
}

func icmp6Error(dst, src policy.MAC, from, to netip.Addr, typ, code uint8, info uint32, about []byte) []byte {
	quote := about[14:]
	return icmp6(dst, src, ip6(from, to, layers.IPProtocolICMPv6), typ, code,
		raw([]byte{byte(info >> 24), byte(info >> 16), byte(info >> 8), byte(info)}), raw(quote[:min(len(quote), 1232)]))
}

// Errors are packets whose sender is told, and those whose sender is not.
func Errors() []Case {
	report := func(name, ref string, from Place, reason policy.Reason, f Frame, err func(n Net, about []byte) []byte) Case {
		return Case{Name: name, Ref: ref, From: from, Frame: f, Reason: reason, Out: []Out{{from, func(n Net) []byte { return err(n, f(n)) }}}}
	}
	to1 := func(typ, code uint8, info uint32) func(Net, []byte) []byte {
		return func(n Net, about []byte) []byte {
			if about[12] == 8 {
				return icmp4Error(MAC1, n.Router, Router4, One4, typ, code, uint16(info), about)
			}
			return icmp6Error(MAC1, n.Router, Router6, One6, typ, code, info, about)
		}
	}
	toGW := func(typ, code uint8) func(Net, []byte) []byte {
		return func(n Net, about []byte) []byte {
			if about[12] == 8 {
				return icmp4Error(n.Gateway, n.Eth0, Router4, X4, typ, code, 0, about)
			}
			return icmp6Error(n.Gateway, n.Eth0, Router6, X6, typ, code, 0, about)
		}
	}
	one := func(make func(d, s policy.MAC) []byte) Frame { return fromOne(make) }
	return []Case{
		report("TTL 1", "case 60; facts N5, F4", One, policy.TTLExceeded, one(func(d, s policy.MAC) []byte { return UDP(d, s, One4, X4, 8, TTL(1)) }), to1(11, 0, 0)),
		report("TTL 0", "case 60", One, policy.TTLExceeded, one(func(d, s policy.MAC) []byte { return UDP(d, s, One4, X4, 8, TTL(0)) }), to1(11, 0, 0)),
		report("hop limit 1", "case 60", One, policy.TTLExceeded, one(func(d, s policy.MAC) []byte { return UDP(d, s, One6, X6, 8, TTL(1)) }), to1(3, 0, 0)),
		report("hop limit 1, a long packet", "RFC 4443 2.4(c)", One, policy.TTLExceeded, one(func(d, s policy.MAC) []byte { return UDP(d, s, One6, X6, 1400, TTL(1)) }), to1(3, 0, 0)),
		report("TTL 1 from the internet", "case 60", Uplink, policy.TTLExceeded, fromGateway(func(d, s policy.MAC) []byte { return UDP(d, s, X4, One4, 8, TTL(1)) }), toGW(11, 0)),
		report("hop limit 1 from the internet", "case 60", Uplink, policy.TTLExceeded, fromGateway(func(d, s policy.MAC) []byte { return UDP(d, s, X6, One6, 8, TTL(1)) }), toGW(3, 0)),
		report("link-local source to the internet", "case 28; RFC 4443 3.1 code 2", One, policy.LinkLocal,
			one(func(d, s policy.MAC) []byte { return UDP(d, s, ip("fe80::10"), X6, 8) }),
			func(n Net, about []byte) []byte {
				return icmp6Error(MAC1, n.Router, LL1, ip("fe80::10"), 1, 2, 0, about)
			}),
		drop("to another's link-local address", "case 28", One, policy.LinkLocal, one(func(d, s policy.MAC) []byte { return UDP(d, s, One6, ip("fe80::77"), 8) })),

		drop("no error about an error", "case 68; RFC 1812 4.3.2.7", One, policy.TTLExceeded, one(func(d, s policy.MAC) []byte {
			quoted := UDP(d, s, X4, One4, 8)[14:]
			return serialize(eth(d, s, layers.EthernetTypeIPv4), edited(ip4(One4, X4, layers.IPProtocolICMPv4), TTL(1)), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 3)}, raw(quoted))
		})).after(Uplink, fromGateway(func(d, s policy.MAC) []byte { return UDP(d, s, X4, One4, 8) })),
		drop("no error about an ICMPv6 error", "case 68; RFC 4443 2.4(e.1)", One, policy.TTLExceeded, one(func(d, s policy.MAC) []byte {
			h := ip6(One6, X6, layers.IPProtocolICMPv6)
			h.HopLimit = 1
			return icmp6(d, s, h, 1, 4, raw(make([]byte, 4)), raw(UDP(d, s, X6, One6, 8)[14:]))
		})).after(Uplink, fromGateway(func(d, s policy.MAC) []byte { return UDP(d, s, X6, One6, 8) })),
		drop("no error about an ICMPv6 error in a first fragment", "case 68 (g)", One, policy.Unrelated, one(func(d, s policy.MAC) []byte {
			h := ip6(One6, X6, layers.IPProtocolIPv6Fragment)
			h.HopLimit = 1
			return serialize(eth(d, s, layers.EthernetTypeIPv6), h, raw([]byte{58, 0, 0, 1, 0, 0, 0, 9}), raw([]byte{1, 0, 0, 0, 0, 0, 0, 0}), pay(48))
		})),
		drop("no error about a later fragment", "case 68 (e)", One, policy.TTLExceeded, one(func(d, s policy.MAC) []byte {
			h := edited(ip4(One4, X4, layers.IPProtocolUDP), TTL(1), identified(3))
			h.FragOffset = 8
			return serialize(eth(d, s, layers.EthernetTypeIPv4), h, pay(24))
		})).after(One, one(func(d, s policy.MAC) []byte { return UDP(d, s, One4, X4, 56, fragment(0, true), identified(3)) })),
		drop("no error about a multicast", "case 68 (c); RFC 1812 4.3.2.7", One, policy.Multicast, one(func(d, s policy.MAC) []byte {
			return UDP(policy.MAC{1, 0, 0x5e, 1, 1, 1}, s, One4, ip("239.1.1.1"), 8, TTL(1))
		})),
		drop("no error about an IPv6 multicast", "case 68 (c); RFC 4443 2.4(e.3)", One, policy.Multicast, one(func(d, s policy.MAC) []byte {
			return UDP(policy.MAC{0x33, 0x33, 0, 0, 1, 1}, s, One6, ip("ff0e::101"), 8, TTL(1))
		})),
		drop("no error to a forged source", "case 68 (f)", One, policy.MartianSrc, one(func(d, s policy.MAC) []byte { return UDP(d, s, ip("127.0.0.1"), X4, 8, TTL(1)) })),
	}
}

// Local are packets to the router itself.
func Local() []Case {
	local := func(name, ref string, from Place, f, out Frame) Case { return answer(name, ref, from, f, out) }
	reply := func(dst, src policy.MAC, from, to netip.Addr, n int) []byte {
		return Echo(dst, src, from, to, true, n)
	}
	return []Case{
		local("echo to the gateway, IPv4", "", One, fromOne(func(d, s policy.MAC) []byte { return Echo(d, s, One4, Router4, false, 56) }),
			func(n Net) []byte { return reply(MAC1, n.Router, Router4, One4, 56) }),
		local("echo to the gateway with TTL 1", "case 60", One, fromOne(func(d, s policy.MAC) []byte { return Echo(d, s, One4, Router4, false, 56, TTL(1)) }),
			func(n Net) []byte { return reply(MAC1, n.Router, Router4, One4, 56) }),
		local("echo to the gateway with a type of service", "RFC 1812 4.3.2.5", One,
			fromOne(func(d, s policy.MAC) []byte { return Echo(d, s, One4, Router4, false, 56, tos(0xb8)) }),
			func(n Net) []byte { return Echo(MAC1, n.Router, Router4, One4, true, 56, tos(0xb8)) }),
		local("echo to the gateway, IPv6", "", One, fromOne(func(d, s policy.MAC) []byte { return Echo(d, s, One6, Router6, false, 56) }),
			func(n Net) []byte { return reply(MAC1, n.Router, Router6, One6, 56) }),
		local("echo to fe80::1", "", One, fromOne(func(d, s policy.MAC) []byte { return Echo(d, s, ip("fe80::10"), LL1, false, 56) }),
			func(n Net) []byte { return reply(MAC1, n.Router, LL1, ip("fe80::10"), 56) }),
		local("echo to the gateway from the internet", "", Uplink, fromGateway(func(d, s policy.MAC) []byte { return Echo(d, s, X4, Router4, false, 56) }),
			func(n Net) []byte { return reply(n.Gateway, n.Eth0, Router4, X4, 56) }),
		drop("UDP to the gateway", "case 76", One, policy.RouterLocal, fromOne(func(d, s policy.MAC) []byte { return UDP(d, s, One4, Router4, 8) })),
		drop("UDP to fe80::1", "case 76", One, policy.RouterLocal, fromOne(func(d, s policy.MAC) []byte { return UDP(d, s, ip("fe80::10"), LL1, 8) })),
		drop("UDP to the gateway from the internet", "case 76", Uplink, policy.RouterLocal, fromGateway(func(d, s policy.MAC) []byte { return UDP(d, s, X4, Router4, 8) })),
	}
}

// tos sets the type of service.
func tos(v uint8) func(gopacket.SerializableLayer) {
	return func(l gopacket.SerializableLayer) { l.(*layers.IPv4).TOS = v }
}
