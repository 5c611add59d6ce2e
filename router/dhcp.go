package router

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"time"

	"udrouter/config"
	"udrouter/policy"
	"udrouter/stack"
)

// The DHCP server (RFC 2131, RFC 8415) has no leases to remember: what a guest gets is what it is bound to, whenever it asks. So there is nothing to run out of or to
// lose, and what a client declines or gives back is still its own. Answers go to the guest's MAC, whatever address they are for (RFC 6085 3): its neighbours hear
// none of it.

// serve answers a guest's message to the DHCP server.
func (w *worker) serve(p *policy.Packet, g *policy.Guest) {
	body, reason := datagram(p)
	var answer *stack.Frame
	switch {
	case reason != policy.None:
	case len(p.Frame)-policy.EthernetLen > w.world.guestMTU: // no guest has reason to, and what is in it is looked at by this goroutine
		reason = policy.Malformed
	case !w.take(w.world.of(g).dhcp):
		reason = policy.RouterLimit
	case p.IsIPv4():
		answer, reason = w.world.serve4(g, body)
	default:
		answer, reason = w.world.serve6(g, p.Src, body)
	}
	if answer != nil && len(answer.Bytes())-policy.EthernetLen > w.world.guestMTU { // so much is quoted by no client that means well
		reason = policy.Malformed
	}
	switch {
	case reason != policy.None:
		w.drop(g, reason)
	case answer != nil:
		answer.SetEthernet(g.MAC, w.world.RouterMAC, p.EtherType)
		w.out[stack.Guests] = append(w.out[stack.Guests], answer)
	}
}

// datagram is what a UDP datagram carries, if its length and checksum are right (RFC 768; of IPv4 it may have none).
func datagram(p *policy.Packet) ([]byte, policy.Reason) {
	b := p.Frame[p.L4:]
	n := int(binary.BigEndian.Uint16(b[4:]))
	if n < 8 || n > len(b) {
		return nil, policy.Malformed
	}
	b = b[:n]
	none := binary.BigEndian.Uint16(b[6:]) == 0
	if p.Flags&policy.NeedsCsum == 0 && !(none && p.IsIPv4()) &&
		(none || policy.FoldChecksum(policy.Sum(b, policy.PseudoSum(p.Src, p.Dst, policy.ProtoUDP, len(b)))) != 0xffff) {
		return nil, policy.Checksum
	}
	return b[8:], policy.None
}

// served are a guest's addresses and prefixes in networks with a dhcp block, with those.
func (wd *world) served(g *policy.Guest, v6 bool, each func(netip.Prefix, *config.Network)) {
	for _, a := range g.Addrs {
		n := wd.config[wd.Network(a.Addr())]
		if a.Addr().Is6() == v6 && n != nil && n.DHCP != nil && !(a.IsSingleIP() && wd.Taken[a.Addr()]) {
			each(a, n)
		}
	}
}

// firstAddress is the one that a guest with a whole prefix is given for itself: the first that no host takes for the subnet's own (RFC 4291 2.6.1), and that nobody
// comes before the guest with.
func (wd *world) firstAddress(p netip.Prefix) (netip.Addr, bool) {
	a := p.Addr()
	if p.Bits() < p.Addr().BitLen()-1 {
		a = a.Next()
	}
	for ; p.Contains(a); a = a.Next() {
		if !wd.Taken[a] {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// appendNew appends what a list does not have yet.
func appendNew[T comparable](list []T, more ...T) []T {
	for _, v := range more {
		if !slices.Contains(list, v) {
			list = append(list, v)
		}
	}
	return list
}

func netIPs(list []netip.Addr) (ips []net.IP) {
	for _, a := range list {
		ips = append(ips, a.AsSlice())
	}
	return ips
}

// wholeSeconds is a lifetime as messages have it: whole seconds, and one at least.
func wholeSeconds(d time.Duration) time.Duration { return max(d.Truncate(time.Second), time.Second) }
