package cases

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"udrouter/policy"
)

// ip is a frame from a place with one IP packet.
func (n Net) ip(at Place, src, dst netip.Addr, proto layers.IPProtocol, l4 func(gopacket.NetworkLayer) []gopacket.SerializableLayer) []byte {
	to, from := n.macs(at)
	if src.Is4() {
		h := ip4(src, dst, proto)
		return serialize(append([]gopacket.SerializableLayer{eth(to, from, layers.EthernetTypeIPv4), h}, l4(h)...)...)
	}
	h := ip6(src, dst, proto)
	return serialize(append([]gopacket.SerializableLayer{eth(to, from, layers.EthernetTypeIPv6), h}, l4(h)...)...)
}

// ported is a packet of a protocol whose header begins with two ports: UDP, UDP-Lite, DCCP, SCTP.
func ported(at Place, proto layers.IPProtocol, src, dst netip.AddrPort) Frame {
	return func(n Net) []byte {
		return n.ip(at, src.Addr(), dst.Addr(), proto, func(h gopacket.NetworkLayer) []gopacket.SerializableLayer {
			if proto == layers.IPProtocolUDP {
				u := &layers.UDP{SrcPort: layers.UDPPort(src.Port()), DstPort: layers.UDPPort(dst.Port())}
				must(u.SetNetworkLayerForChecksum(h))
				return []gopacket.SerializableLayer{u, pay(8)}
			}
			b := make([]byte, 16)
			binary.BigEndian.PutUint16(b, src.Port())
			binary.BigEndian.PutUint16(b[2:], dst.Port())
			return []gopacket.SerializableLayer{raw(b)}
		})
	}
}

// icmp is an ICMP or ICMPv6 message; rest is what follows the checksum.
func icmp(at Place, src, dst netip.Addr, type4, type6, code uint8, rest ...byte) Frame {
	return func(n Net) []byte {
		proto := layers.IPProtocolICMPv4
		if src.Is6() {
			proto = layers.IPProtocolICMPv6
		}
		return n.ip(at, src, dst, proto, func(h gopacket.NetworkLayer) []gopacket.SerializableLayer {
			if src.Is6() {
				i := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(type6, code)}
				must(i.SetNetworkLayerForChecksum(h))
				return []gopacket.SerializableLayer{i, raw(rest)}
			}
			return []gopacket.SerializableLayer{&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(type4, code), Id: binary.BigEndian.Uint16(rest), Seq: binary.BigEndian.Uint16(rest[2:])}, raw(rest[4:])}
		})
	}
}

// asks and replies are an echo request and its answer.
func asks(at Place, src, dst netip.Addr, id uint16) Frame {
	return icmp(at, src, dst, 8, 128, 0, byte(id>>8), byte(id), 0, 1, 'e', 'c', 'h', 'o')
}
func replies(at Place, src, dst netip.Addr, id uint16) Frame {
	return icmp(at, src, dst, 0, 129, 0, byte(id>>8), byte(id), 0, 1, 'e', 'c', 'h', 'o')
}

// unreachable is an error about a frame, as from a router on its way.
func unreachable(at Place, src, dst netip.Addr, about Frame) Frame {
	return func(n Net) []byte {
		quote := about(n)[policy.EthernetLen:]
		return icmp(at, src, dst, 3, 1, 0, append([]byte{0, 0, 0, 0}, quote[:min(len(quote), 500)]...)...)(n)
	}
}

// named makes a row of this file, in a family.
func (w network) named(c Case) Case {
	c.Name += map[bool]string{true: ", IPv4", false: ", IPv6"}[w.one.Is4()]
	return c.enforced()
}

func (w network) pass(name, ref string, from Place, f Frame, to Place) Case {
	return w.named(Case{Name: name, Ref: ref, From: from, Frame: f, Out: []Out{arrives(to, f)}})
}

func (w network) drop(name, ref string, from Place, r policy.Reason, frames ...Frame) Case {
	return w.named(drop(name, ref, from, r, frames[0]).then(frames[1:]...).times(uint64(len(frames))))
}

// datagrams are flows without connections: what has been asked is answered, by who was asked.
func (w network) datagrams() (rows []Case) {
	at := netip.AddrPortFrom
	for proto, name := range []string{33: "DCCP", 136: "UDP-Lite", 132: "SCTP", 17: "UDP"} {
		if name == "" {
			continue
		}
		p := layers.IPProtocol(proto)
		ref := "case 71; RFC 4787 4.3 and 5"
		one := func() (guest, x netip.AddrPort) { return at(w.one, w.port()), at(w.x, 5000) }
		guest, x := one()
		rows = append(rows,
			w.drop(name+" that nobody asked for", ref, Uplink, policy.IngressPolicy, ported(Uplink, p, x, guest), ported(Uplink, p, at(w.x, 53), at(w.two, 53))))
		guest, x = one()
		rows = append(rows, w.pass(name+" is answered", ref, Uplink, ported(Uplink, p, x, guest), One).after(One, ported(One, p, guest, x)))
		guest, x = one()
		others := []Frame{ported(Uplink, p, at(w.x, 5001), guest), ported(Uplink, p, at(w.other, 5000), guest), ported(Uplink, p, x, at(w.one, w.port())),
			ported(Uplink, p, x, at(w.two, guest.Port())), ported(Uplink, p, at(w.x, guest.Port()), at(w.one, 5000))}
		for _, q := range []layers.IPProtocol{17, 33, 47, 50, 132, 136, 253} {
			if q != p {
				others = append(others, ported(Uplink, q, x, guest))
			}
		}
		rows = append(rows, w.drop(name+" is answered by others", ref, Uplink, policy.IngressPolicy, others...).after(One, ported(One, p, guest, x)))
		guest, x = one()
		neighbour := at(w.two, guest.Port())
		rows = append(rows,
			w.pass(name+" of a neighbour from the same port", ref, Two, ported(Two, p, neighbour, x), Uplink).after(One, ported(One, p, guest, x)),
			w.drop(name+" of a neighbour by a guest's flow", ref, Two, map[bool]policy.Reason{true: policy.IPBinding, false: policy.IP6Binding}[w.one.Is4()],
				ported(Two, p, guest, x)).after(One, ported(One, p, guest, x)),
			w.drop(name+" of the neighbour as if it were the peer", ref, Two, map[bool]policy.Reason{true: policy.IPBinding, false: policy.IP6Binding}[w.one.Is4()],
				ported(Two, p, x, guest)).after(One, ported(One, p, guest, x)),
			w.drop(name+" of the neighbour to a guest's port", ref, Two, policy.IngressPolicy, ported(Two, p, at(w.two, 5000), guest)).after(One, ported(One, p, guest, x)))
	}
	rows = append(rows, w.echoes()...)
	return append(rows, w.drop("a guest asks dom0 for what it does not offer", "case 71", One, policy.HostPolicy,
		ported(One, 17, at(w.one, w.port()), at(w.dom0, 54)), ported(One, 132, at(w.one, w.port()), at(w.dom0, 53))))
}

// echoes are answers to what was asked, and to what was not (RFC 5508 3.2).
func (w network) echoes() []Case {
	const ref = "case 71; RFC 5508 3.2"
	a, b, c, d := w.port(), w.port(), w.port(), w.port()
	wrong := func(id uint16) []Frame {
		return []Frame{replies(Uplink, w.x, w.one, id+1000), replies(Uplink, w.other, w.one, id), replies(Uplink, w.x, w.two, id), replies(Uplink, w.x, w.one, 0)}
	}
	return []Case{
		w.pass("an echo is answered", ref, Uplink, replies(Uplink, w.x, w.one, a), One).after(One, asks(One, w.one, w.x, a)),
		w.drop("echo replies with another identifier, from others, to others", ref, Uplink, policy.NoFlow, wrong(b)...).after(One, asks(One, w.one, w.x, b)),
		w.drop("echo replies that nobody asked for", ref, One, policy.NoFlow, replies(One, w.one, w.x, c), replies(One, w.one, w.two, c)),
		w.drop("echo replies of the neighbour", ref, Two, policy.NoFlow, replies(Two, w.two, w.x, d), replies(Two, w.two, w.one, d)).after(Uplink, asks(Uplink, w.x, w.one, d)),
		w.pass("both ask with the same identifier", ref, One, asks(One, w.one, w.x, d), Uplink).after(Uplink, asks(Uplink, w.x, w.one, d)),
	}
}

// strangers are ICMP errors about flows by those who have no part in them (RFC 5927 4), the neighbour before all.
func (w network) strangers() []Case {
	const ref = "case 71; RFC 5927 4; RFC 5382 7"
	at := netip.AddrPortFrom
	guest, x := at(w.one, w.port()), at(w.x, 5000)
	sent := ported(One, 17, guest, x)
	of := func(src, dst netip.AddrPort, proto layers.IPProtocol) Frame { return ported(Uplink, proto, src, dst) }
	err := func(to netip.Addr, about Frame) Frame { return unreachable(Uplink, w.other, to, about) }
	c, t := w.from(One, Uplink, 443), w.from(One, Two, 22)
	connected := func(row Case, c conn) Case {
		for _, s := range append(handshake[:3:3], segment{flags: ack, seq: 1, ack: 1, n: 1000}) {
			row = row.after(map[bool]Place{false: c.a.at, true: c.b.at}[s.back], c.frame(s))
		}
		return row
	}
	var far []Frame
	for _, seq := range []uint32{0, 1002, 5000, 1 << 31, 1<<32 - 7} {
		far = append(far, err(w.one, c.frame(segment{flags: ack, seq: seq, ack: 1, n: 10})))
	}
	return []Case{
		w.pass("an error of a router on the way", ref, Uplink, err(w.one, sent), One).after(One, sent),
		w.drop("errors about what nobody has sent", ref, Uplink, policy.Unrelated,
			err(w.one, of(at(w.one, w.port()), x, 17)), err(w.one, of(guest, at(w.x, 5001), 17)), err(w.one, of(guest, at(w.other, 5000), 17)), err(w.one, of(guest, x, 136)),
			err(w.one, of(x, guest, 17)), err(w.two, sent), err(w.two, of(at(w.two, guest.Port()), x, 17)), err(w.one, err(w.one, sent)),
			err(w.one, c.frame(segment{flags: ack, seq: 1, n: 10}))).after(One, sent),
		w.drop("errors of the neighbour about a guest's flow", ref, Two, policy.Unrelated,
			unreachable(Two, w.two, w.one, sent), unreachable(Two, w.two, w.x, of(x, guest, 17)), unreachable(Two, w.two, w.x, sent)).after(One, sent),
		w.drop("errors of a guest about what it has not got", ref, One, policy.Unrelated, unreachable(One, w.one, w.x, of(x, guest, 17)), unreachable(One, w.one, w.other, sent)).after(One, sent),
		connected(w.pass("an error about a segment on its way", ref, Uplink, err(w.one, c.frame(segment{flags: ack, seq: 500, ack: 1, n: 10})), One), c),
		connected(w.drop("errors about segments that are not on their way", ref, Uplink, policy.Unrelated, far...), c),
		connected(w.drop("errors from the internet about a flow between guests", ref, Uplink, policy.Unrelated, err(w.one, t.frame(segment{flags: ack, seq: 1, ack: 1, n: 10}))), t),
	}
}

// rejected are segments that a rule refuses out loud: by a reset as of a closed port (RFC 9293 3.10.7.1), and never in answer to a reset.
func (w network) rejected() (rows []Case) {
	c := w.from(One, Uplink, 25)
	for _, s := range []segment{{flags: syn}, {flags: syn | psh | urg, n: 10}, {flags: syn | fin}, {flags: fin, n: 1}, {n: 3}, {flags: fin | psh | urg},
		{flags: ack, seq: 7, ack: 9, n: 100}, {flags: syn | ack, ack: 5}, {flags: fin | ack, seq: 7, ack: 9}} {
		s.seq += 100
		f := c.frame(s)
		answer := segment{flags: rst, seq: s.ack}
		if s.flags&ack == 0 {
			length := uint32(s.n)
			for _, b := range []uint8{syn, fin} {
				if s.flags&b != 0 {
					length++
				}
			}
			answer = segment{flags: rst | ack, ack: s.seq + length}
		}
		row := w.drop(fmt.Sprintf("a segment with flags %#x to a port that is rejected", s.flags), "case 71; RFC 9293 3.10.7.1", One, policy.EgressPolicy, f)
		row.Out = []Out{{One, c.refusal(answer)}}
		rows = append(rows, row)
	}
	resets := []Frame{}
	for _, s := range flagged(segment{seq: 1, ack: 1}, func(f uint8) bool { return f&rst != 0 }) {
		resets = append(resets, c.frame(s))
	}
	return append(rows, w.drop("no reset in answer to resets", "case 71; RFC 9293 3.10.7.1", One, policy.EgressPolicy, resets...))
}

// refusal is a reset of the router's in the name of b.
func (c conn) refusal(s segment) Frame {
	return func(n Net) []byte {
		t := &layers.TCP{SrcPort: layers.TCPPort(c.b.addr.Port()), DstPort: layers.TCPPort(c.a.addr.Port()), RST: true, ACK: s.flags&ack != 0}
		if t.ACK {
			t.Ack = isnA + s.ack
		} else {
			t.Seq = isnB + s.seq
		}
		src, dst := c.b.addr.Addr(), c.a.addr.Addr()
		if src.Is4() {
			h := ip4(src, dst, layers.IPProtocolTCP)
			h.Id, h.Flags = 0, layers.IPv4DontFragment
			must(t.SetNetworkLayerForChecksum(h))
			return serialize(eth(MAC1, n.Router, layers.EthernetTypeIPv4), h, t)
		}
		h := ip6(src, dst, layers.IPProtocolTCP)
		must(t.SetNetworkLayerForChecksum(h))
		return serialize(eth(MAC1, n.Router, layers.EthernetTypeIPv6), h, t)
	}
}
