package cases

import (
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"udrouter/policy"
)

// maker makes a frame of a kind between two MACs.
type maker func(dst, src policy.MAC) []byte

// framed puts a maker's frame into the right Ethernet frame for where it is sent.
func framed(p Place, m maker) Frame {
	return func(n Net) []byte { return m(n.macs(p)) }
}

// framesOf are the frames of makers, sent from a place.
func framesOf(p Place, makers ...maker) (frames []Frame) {
	for _, m := range makers {
		frames = append(frames, framed(p, m))
	}
	return
}

// as are the frames of makers, sent from a place with other MACs than the right ones; the zero MAC stands for the right one.
func as(p Place, dst, src policy.MAC, makers ...maker) (frames []Frame) {
	for _, m := range makers {
		frames = append(frames, framed(p, func(d, s policy.MAC) []byte {
			if !dst.IsZero() {
				d = dst
			}
			if !src.IsZero() {
				s = src
			}
			return m(d, s)
		}))
	}
	return
}

// changed is a maker's frame with something done to it.
func (m maker) changed(edit func(b []byte)) maker {
	return func(d, s policy.MAC) []byte { b := m(d, s); edit(b); return b }
}

// drops is a row of frames that are all dropped for one reason.
func drops(name, ref string, from Place, reason policy.Reason, frames []Frame) Case {
	c := drop(name, ref, from, reason, frames[0]).then(frames[1:]...)
	if reason != policy.None {
		c = c.times(uint64(len(frames)))
	}
	return c
}

// passes is a row of frames that are all forwarded.
func passes(name, ref string, from, to Place, frames []Frame) Case {
	c := pass(name, ref, from, frames[0], to).then(frames[1:]...)
	for _, f := range frames[1:] {
		c.Out = append(c.Out, pass("", "", from, f, to).Out...)
	}
	return c
}

// unheard is a row of frames that the filter of a real uplink's socket refuses before the router can count them.
func (c Case) unheard() Case {
	c.Bridge = true
	return c
}

// udpOf, echoOf, replyOf, synOf and protoOf are packets of a kind between two addresses; an IPv4-mapped address is an IPv6 one.
func udpOf(src, dst netip.Addr, edit ...func(gopacket.SerializableLayer)) maker {
	return func(d, s policy.MAC) []byte { return UDP(d, s, src, dst, 8, edit...) }
}

func echoOf(src, dst netip.Addr, edit ...func(gopacket.SerializableLayer)) maker {
	return func(d, s policy.MAC) []byte { return Echo(d, s, src, dst, false, 8, edit...) }
}

func replyOf(src, dst netip.Addr) maker {
	return func(d, s policy.MAC) []byte { return Echo(d, s, src, dst, true, 8) }
}

// synOf is a SYN with four bytes of data, to a port.
func synOf(src, dst netip.Addr, port uint16) maker {
	return func(d, s policy.MAC) []byte {
		return TCP(d, s, netip.AddrPortFrom(src, 43210), netip.AddrPortFrom(dst, port), 2, 999, 0, 4)
	}
}

// protoOf is a packet of any protocol, or any first IPv6 header.
func protoOf(src, dst netip.Addr, proto uint8, payload ...byte) maker {
	return func(d, s policy.MAC) []byte {
		if src.Is4() {
			return serialize(eth(d, s, layers.EthernetTypeIPv4), ip4(src, dst, layers.IPProtocol(proto)), raw(payload))
		}
		return serialize(eth(d, s, layers.EthernetTypeIPv6), ip6(src, dst, layers.IPProtocol(proto)), raw(payload))
	}
}

// laterFragment is the end of a datagram whose beginning nobody has seen.
func laterFragment(src, dst netip.Addr) maker {
	if !src.Is4() {
		return protoOf(src, dst, 44, append([]byte{17, 0, 0, 0x18, 0, 0, 0xde, 0xad}, make([]byte, 16)...)...)
	}
	return func(d, s policy.MAC) []byte {
		return serialize(eth(d, s, layers.EthernetTypeIPv4), edited(ip4(src, dst, layers.IPProtocolUDP), fragment(3, false), identified(0xdead)), pay(16))
	}
}

// everything is a packet of each kind between two addresses: none is told apart from the others by whom it is from.
func everything(src, dst netip.Addr) []maker {
	return []maker{udpOf(src, dst), udpOf(src, dst, TTL(1)), echoOf(src, dst), replyOf(src, dst), synOf(src, dst, 443), protoOf(src, dst, 253, make([]byte, 20)...), laterFragment(src, dst)}
}

// between is everything from each of some sources to each of some destinations, sent from a place.
func between(p Place, sources, destinations []netip.Addr) (frames []Frame) {
	for _, src := range sources {
		for _, dst := range destinations {
			frames = append(frames, framesOf(p, everything(src, dst)...)...)
		}
	}
	return
}

// toGroups is what the uplink sends to groups; no echo, which dom0's kernel answers.
func toGroups(src netip.Addr, groups []netip.Addr) (frames []Frame) {
	for _, dst := range groups {
		frames = append(frames, framesOf(Uplink, udpOf(src, dst), udpOf(src, dst, TTL(1)), synOf(src, dst, 443), protoOf(src, dst, 253, make([]byte, 20)...), laterFragment(src, dst))...)
	}
	return
}

func ips(addrs ...string) (out []netip.Addr) {
	for _, a := range addrs {
		out = append(out, ip(a))
	}
	return
}
