package policy

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"
	"time"
)

// The smallest MTUs that links have, in bytes (RFC 791 3.2, RFC 8200 5).
const (
	minMTU4 = 68
	minMTU6 = 1280
)

// Related finds the flow that an ICMP or ICMPv6 error is about. The packet that it quotes must be one that the flow may have sent
// (RFC 5927 4), and the error must come from where that packet went and go to whom that packet was from. It refreshes and counts
// nothing. Errors about nothing are Unrelated. Reply and Next are those of the error's own direction.
func (t *FlowTable) Related(p *Packet, from Side, now time.Duration) (hit FlowHit, ok bool) {
	return t.related(p, from, anySide, now)
}

// related is Related of an error that goes to a side.
func (t *FlowTable) related(p *Packet, from, to Side, now time.Duration) (hit FlowHit, ok bool) {
	inner, l4, ok := p.quoted()
	if !ok || inner.Src != p.Dst {
		return hit, false
	}
	key, reversed, ok := inner.FlowKey()
	if !ok {
		return hit, false
	}
	hash := uint32(maphash.Comparable(t.seed, key))
	t.mu.Lock()
	defer t.mu.Unlock()
	now = t.clock(now)
	i := t.find(&key, hash)
	if i == 0 || t.at(i).expired(now) {
		return hit, false
	}
	f := t.at(i)
	dir := f.dir(reversed) // of the quoted packet
	if from != f.side(1-dir) || !f.leads(1-dir, to) || f.Packets[dir] == 0 {
		return hit, false
	}
	if key.Proto == ProtoTCP && !f.tcp.sent(dir, binary.BigEndian.Uint32(l4[4:])) {
		return hit, false
	}
	return f.hit(FlowRef{i, f.serial}, 1-dir, None), true
}

// quoted reads what an error says of the packet that it is about, as far as a key needs it, and that packet's transport header,
// of which there are 8 bytes at least. Only errors that hosts may get from afar have one: RFC 1122 3.2.2 without Source Quench
// (RFC 6633) and Redirect, RFC 4443 3. None of them is ever sent in fragments.
func (p *Packet) quoted() (q Packet, l4 []byte, ok bool) {
	if p.L4 == 0 || p.Fragment || p.Hiding || len(p.Frame) < p.L4+8 || !p.possibleMTU() {
		return q, nil, false
	}
	b := p.Frame[p.L4+8:]
	switch {
	case p.IsIPv4() && p.Proto == ProtoICMP && (p.ICMPType == 3 || p.ICMPType == 11 || p.ICMPType == 12):
		l4, ok = q.quotedIPv4(b)
	case p.IsIPv6() && p.Proto == ProtoICMPv6 && p.ICMPType >= 1 && p.ICMPType <= 4:
		l4, ok = q.quotedIPv6(b)
	}
	if !ok || len(l4) < 8 {
		return q, nil, false
	}
	q.EtherType, q.L4 = p.EtherType, p.L4+8
	switch {
	case q.hasPorts():
		q.SrcPort, q.DstPort = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
	case q.Proto == ProtoICMP, q.Proto == ProtoICMPv6:
		q.ICMPType, q.ICMPCode, q.EchoID = l4[0], l4[1], binary.BigEndian.Uint16(l4[4:])
	}
	return q, l4, true
}

// possibleMTU tells whether what an error says of a next hop's MTU can be: hosts must not believe less than 1280 in IPv6 (RFC 8201 4), and no
// IPv4 link takes less than 68 (RFC 791 3.2). Routers from before RFC 1191 say 0.
func (p *Packet) possibleMTU() bool {
	b := p.Frame[p.L4+4 : p.L4+8]
	switch {
	case p.IsIPv6() && p.ICMPType == 2:
		return binary.BigEndian.Uint32(b) >= minMTU6
	case p.IsIPv4() && p.ICMPType == 3 && p.ICMPCode == 4:
		mtu := binary.BigEndian.Uint16(b[2:])
		return mtu == 0 || mtu >= minMTU4
	}
	return true
}

// quotedIPv4 reads an IPv4 header. Its length and checksum are not tested: routers on the way have changed it.
func (p *Packet) quotedIPv4(b []byte) (l4 []byte, ok bool) {
	if len(b) < IPv4Len || b[0]>>4 != 4 {
		return nil, false
	}
	ihl := int(b[0]&15) * 4
	if ihl < IPv4Len || ihl > len(b) || binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
		return nil, false
	}
	p.Proto, p.Src, p.Dst = b[9], netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	return b[ihl:], true
}

// quotedIPv6 reads an IPv6 header and walks the extension headers within the bounds of the parser.
func (p *Packet) quotedIPv6(b []byte) (l4 []byte, ok bool) {
	if len(b) < IPv6Len || b[0]>>4 != 6 {
		return nil, false
	}
	p.Src, p.Dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	next, at := b[6], IPv6Len
	for range MaxHeaders + 1 {
		if at > len(b) || at-IPv6Len > MaxChain {
			return nil, false
		}
		switch next {
		case ProtoHopByHop, ProtoRouting, ProtoDstOpts, ProtoMobility, ProtoHIP, ProtoShim6, ProtoAH, ProtoFragment:
		default:
			p.Proto = next
			return b[at:], true
		}
		if len(b)-at < 8 {
			return nil, false
		}
		if isMessage(next, b[at:]) {
			p.Proto = next
			return b[at:], true
		}
		size := (int(b[at+1]) + 1) * 8
		switch next {
		case ProtoAH:
			size = (int(b[at+1]) + 2) * 4
		case ProtoFragment:
			if binary.BigEndian.Uint16(b[at+2:])&^7 != 0 {
				return nil, false
			}
			size = 8
		}
		next, at = b[at], at+size
	}
	return nil, false
}
