package policy

import (
	"container/list"
	"encoding/binary"
	"net/netip"
	"sync"
	"time"
)

// Idle times after which what dom0 has opened is forgotten: RFC 5382 5 and RFC 4787 4.3 for TCP and UDP.
const (
	hostTCPIdle   = 2*time.Hour + 4*time.Minute
	hostTCPClosed = 4 * time.Minute
	hostUDPIdle   = 5 * time.Minute
	hostOtherIdle = 10 * time.Minute
	hostEchoIdle  = 30 * time.Second
	hostFragIdle  = 30 * time.Second

	// MaxHostFlows bounds the memory; the flow that has been idle for longest goes first.
	MaxHostFlows = 16384

	// maxHostFragments is how many datagrams of a guest may be on their way in pieces. Guests make these themselves.
	maxHostFragments = 64
)

// HostFlows remembers what dom0 has opened toward guests, so that the answers reach it and nothing else does. It is safe
// for concurrent use.
type HostFlows struct {
	mu    sync.Mutex
	flows map[hostKey]*list.Element
	lru   list.List // of hostFlow, the one used last in front
	frags map[*Guest]*[maxHostFragments]hostFragment
}

// hostFragment is a datagram to dom0 whose first fragment was admitted.
type hostFragment struct {
	src, dst netip.Addr
	proto    uint8
	id       uint32
	expires  time.Duration // 0: none
}

type hostKey struct {
	guest, host         netip.Addr
	proto               uint8
	guestPort, hostPort uint16
}

type hostFlow struct {
	key     hostKey
	expires time.Duration
	closing bool
}

// NewHostFlows makes an empty table.
func NewHostFlows() *HostFlows {
	return &HostFlows{flows: map[hostKey]*list.Element{}, frags: map[*Guest]*[maxHostFragments]hostFragment{}}
}

// Len is the number of flows, expired ones included until they are met.
func (h *HostFlows) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.flows)
}

// Opened notes a packet from dom0 to a guest at the monotonic time now.
func (h *HostFlows) Opened(p *Packet, now time.Duration) {
	if p.L4 == 0 || p.IsICMPError() {
		return
	}
	k := hostKey{guest: p.Dst, host: p.Src, proto: p.Proto}
	k.guestPort, k.hostPort = p.DstPort, p.SrcPort
	if isEcho(p) {
		k.guestPort, k.hostPort = p.EchoID, p.EchoID
		if !p.IsEchoRequest() {
			return
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.touch(k, p, now, true)
}

// Admits tells whether a packet from a guest to dom0 answers something that dom0 has opened, or is an ICMP error about it. An error is
// about the guest's own part only: owns tells whether an address is that guest's.
func (h *HostFlows) Admits(p *Packet, from *Guest, owns func(netip.Addr) bool, now time.Duration) bool {
	k := hostKey{guest: p.Src, host: p.Dst, proto: p.Proto}
	h.mu.Lock()
	defer h.mu.Unlock()
	if p.L4 == 0 {
		return h.fragment(p, from, now) != nil
	}
	if p.IsICMPError() {
		inner, ok := innerKey(p)
		return ok && owns(inner.guest) && h.touch(inner, nil, now, false)
	}
	k.guestPort, k.hostPort = p.SrcPort, p.DstPort
	if isEcho(p) {
		if p.IsEchoRequest() {
			return false
		}
		k.guestPort, k.hostPort = p.EchoID, p.EchoID
	}
	if !h.touch(k, p, now, false) {
		return false
	}
	if p.Fragment && h.fragment(p, from, now) == nil {
		f := h.oldest(from)
		*f = hostFragment{src: p.Src, dst: p.Dst, proto: p.Proto, id: p.FragID, expires: now + hostFragIdle}
	}
	return true
}

// fragment is the datagram that a fragment belongs to, or nil.
func (h *HostFlows) fragment(p *Packet, from *Guest, now time.Duration) *hostFragment {
	all := h.frags[from]
	if all == nil {
		return nil
	}
	for i := range all {
		if f := &all[i]; f.expires > now && f.id == p.FragID && f.proto == p.Proto && f.src == p.Src && f.dst == p.Dst {
			return f
		}
	}
	return nil
}

// oldest is the place for another datagram of a guest, at the cost of its own that came first.
func (h *HostFlows) oldest(from *Guest) *hostFragment {
	all := h.frags[from]
	if all == nil {
		all = new([maxHostFragments]hostFragment)
		h.frags[from] = all
	}
	f := &all[0]
	for i := range all {
		if all[i].expires < f.expires {
			f = &all[i]
		}
	}
	return f
}

// touch finds or makes a flow and puts off its end; it tells whether there is one.
func (h *HostFlows) touch(k hostKey, p *Packet, now time.Duration, create bool) bool {
	e := h.flows[k]
	if e != nil && e.Value.(*hostFlow).expires <= now {
		h.remove(e)
		e = nil
	}
	if e == nil {
		if !create {
			return false
		}
		if len(h.flows) >= MaxHostFlows {
			h.remove(h.lru.Back())
		}
		e = h.lru.PushFront(&hostFlow{key: k})
		h.flows[k] = e
	}
	f := e.Value.(*hostFlow)
	h.lru.MoveToFront(e)
	if p == nil {
		return true
	}
	idle := hostOtherIdle
	switch {
	case k.proto == ProtoTCP:
		const fin, syn, rst = 1, 2, 4
		if p.TCPFlags&(fin|rst) != 0 {
			f.closing = true
		} else if create && p.TCPFlags&syn != 0 {
			f.closing = false
		}
		idle = hostTCPIdle
		if f.closing {
			idle = hostTCPClosed
		}
	case k.proto == ProtoUDP:
		idle = hostUDPIdle
	case isEcho(p):
		idle = hostEchoIdle
	}
	f.expires = now + idle
	return true
}

func (h *HostFlows) remove(e *list.Element) {
	delete(h.flows, e.Value.(*hostFlow).key)
	h.lru.Remove(e)
}

func isEcho(p *Packet) bool {
	return p.IsIPv4() && p.Proto == ProtoICMP && (p.ICMPType == 0 || p.ICMPType == 8) ||
		p.IsIPv6() && p.Proto == ProtoICMPv6 && (p.ICMPType == 128 || p.ICMPType == 129)
}

// innerKey is the flow that an ICMP error from a guest is about: the quoted packet went from dom0 to the guest.
func innerKey(p *Packet) (k hostKey, ok bool) {
	b := p.Frame[p.L4:]
	if len(b) < 8 {
		return k, false
	}
	b = b[8:]
	var l4 int
	switch {
	case p.IsIPv4() && len(b) >= IPv4Len && b[0]>>4 == 4:
		l4 = int(b[0]&15) * 4
		if l4 < IPv4Len || binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			return k, false
		}
		k.proto, k.host, k.guest = b[9], netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	case p.IsIPv6() && len(b) >= IPv6Len && b[0]>>4 == 6:
		l4 = IPv6Len
		k.proto, k.host, k.guest = b[6], netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	default:
		return k, false
	}
	if k.host != p.Dst || len(b) < l4+8 {
		return k, false
	}
	switch k.proto {
	case ProtoTCP, ProtoUDP:
		k.hostPort, k.guestPort = binary.BigEndian.Uint16(b[l4:]), binary.BigEndian.Uint16(b[l4+2:])
	case ProtoICMP, ProtoICMPv6:
		k.hostPort = binary.BigEndian.Uint16(b[l4+4:])
		k.guestPort = k.hostPort
	}
	return k, true
}
