package stack

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"

	"udrouter/policy"
)

// Side is a link as netstack sees it.
type Side int

// The sides, which are netstack's NIC identifiers. Resolver is on the uplink as well: ARP and ND for next hops, and
// nothing else. It has no other addresses than those that the uplink may be asked from, so that netstack cannot choose one of
// the guests' side as the sender.
const (
	Guests Side = iota + 1
	UplinkSide
	Host
	Resolver
)

var sides = []Side{Guests, UplinkSide, Host, Resolver}

// Netstack is what the router is as a host: its addresses on every side, echo, reassembly of what is sent to itself, and
// the neighbour cache of the uplink.
//
// It never forwards: with forwarding off, what stack/netstackfacts shows to panic, to repair checksums or to forward TTL 0 cannot
// be reached. Only Resolver has a neighbour cache. Who is behind the guests' side is in the bindings, so that no guest can
// fill, overwrite or evict anything.
type Netstack struct {
	stack  *gstack.Stack
	ports  [Resolver + 1]*port
	out    func(Side, *Frame)
	events chan NeighbourEvent

	// Panics counts recovered panics, after which the owner should make a new Netstack: a lock may have stayed held.
	Panics atomic.Uint64
}

// NeighbourEvent tells that netstack has learned or lost the MAC of an address on the uplink. A zero MAC is a loss.
type NeighbourEvent struct {
	Addr netip.Addr
	MAC  policy.MAC
}

// Addresses is what the router is toward all sides.
type Addresses struct {
	Own       []netip.Addr // toward guests; echo is answered for them on every side
	UplinkMAC policy.MAC
	UplinkMTU int
	GuestMTU  int
	UplinkLL  netip.Addr
	Address4  netip.Addr // dom0's, the sender of our ARP requests; may be zero
}

// NewNetstack makes a stack with no addresses. out gets what it sends, with complete checksums; but for Resolver's,
// without Ethernet addresses. It is called from any goroutine and must not call back into the Netstack.
func NewNetstack(clock tcpip.Clock, out func(Side, *Frame)) (*Netstack, error) {
	n := &Netstack{out: out, events: make(chan NeighbourEvent, 1024)}
	n.stack = gstack.New(gstack.Options{
		NetworkProtocols:   []gstack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []gstack.TransportProtocolFactory{icmp.NewProtocol4, icmp.NewProtocol6},
		Clock:              guardedClock{clock, n},
		NUDDisp:            n,
		// A gateway that has changed its MAC is noticed within 14 seconds, not 53; announcements are checked at once.
		NUDConfigs: gstack.NUDConfigurations{BaseReachableTime: 10 * time.Second, MinRandomFactor: 0.5, MaxRandomFactor: 1.5, DelayFirstProbeTime: time.Second},
	})
	// Errors about packets to the router itself are all that netstack makes; echo is limited per guest before it.
	for _, side := range sides {
		p := &port{side: side, owner: n}
		p.mtu.Store(1500)
		n.ports[side] = p
		if err := n.stack.CreateNIC(tcpip.NICID(side), p); err != nil {
			return nil, fmt.Errorf("creating netstack's NIC %d: %v", side, err)
		}
	}
	return n, nil
}

// Close ends all timers.
func (n *Netstack) Close() { n.stack.Destroy() }

// Events carries what NeighbourEvent tells. The reader may come late: Resolve always knows the truth.
func (n *Netstack) Events() <-chan NeighbourEvent { return n.events }

// SetAddresses makes the stack have exactly these addresses and routes. One goroutine at a time.
func (n *Netstack) SetAddresses(a Addresses) error {
	n.ports[Resolver].mac.Store(a.UplinkMAC.Bits())
	for _, side := range sides {
		mtu := a.GuestMTU
		if side == UplinkSide || side == Resolver {
			mtu = a.UplinkMTU
		}
		n.ports[side].mtu.Store(uint32(max(mtu, header.IPv6MinimumMTU)))
		want := map[tcpip.Address]bool{}
		if side == Resolver && a.Address4.IsValid() {
			want[address(a.Address4)] = true
		}
		if (side == Resolver || side == UplinkSide) && a.UplinkLL.IsValid() {
			want[address(a.UplinkLL)] = true
		}
		for _, own := range a.Own {
			if side == Guests || side == Host || side == UplinkSide && !own.IsLinkLocalUnicast() {
				want[address(own)] = true
			}
		}
		if err := n.setAddresses(side, want); err != nil {
			return err
		}
	}
	// An answer leaves by the side that the request came in on; where to from there is the router's matter.
	var routes []tcpip.Route
	for _, side := range sides {
		routes = append(routes, tcpip.Route{Destination: header.IPv4EmptySubnet, NIC: tcpip.NICID(side)},
			tcpip.Route{Destination: header.IPv6EmptySubnet, NIC: tcpip.NICID(side)})
	}
	n.stack.SetRouteTable(routes)
	return nil
}

func (n *Netstack) setAddresses(side Side, want map[tcpip.Address]bool) error {
	nic := tcpip.NICID(side)
	for _, have := range n.stack.AllAddresses()[nic] {
		if a := have.AddressWithPrefix.Address; !want[a] {
			if err := n.stack.RemoveAddress(nic, a); err != nil {
				return fmt.Errorf("removing %v from netstack: %v", a, err)
			}
		} else {
			delete(want, a)
		}
	}
	for a := range want {
		proto := ipv4.ProtocolNumber
		if a.Len() == 16 {
			proto = ipv6.ProtocolNumber
		}
		pa := tcpip.ProtocolAddress{Protocol: proto, AddressWithPrefix: a.WithPrefix()}
		if err := n.stack.AddProtocolAddress(nic, pa, gstack.AddressProperties{}); err != nil {
			return fmt.Errorf("adding %v to netstack: %v", a, err)
		}
	}
	return nil
}

// Deliver gives netstack a frame that is for the router itself. The caller has parsed it: only ARP replies, ND of the
// uplink and ICMP get here. It may call out before it returns.
func (n *Netstack) Deliver(side Side, p *policy.Packet) (ok bool) {
	defer func() {
		if recover() != nil {
			n.Panics.Add(1)
			ok = false
		}
	}()
	d := n.ports[side].dispatcher.Load()
	if d == nil {
		return false
	}
	pkt := gstack.NewPacketBuffer(gstack.PacketBufferOptions{Payload: buffer.MakeWithData(p.Frame[policy.EthernetLen:])})
	defer pkt.DecRef()
	pkt.PktType = tcpip.PacketHost
	if p.DstMAC.IsGroup() {
		pkt.PktType = tcpip.PacketMulticast
	}
	(*d).DeliverNetworkPacket(tcpip.NetworkProtocolNumber(p.EtherType), pkt)
	return true
}

// Resolve is the MAC of a neighbour on the uplink, if it is known. If not, netstack asks for it and an event follows; to
// call it about once a second for each neighbour in use keeps the answer true (RFC 4861 7.3).
func (n *Netstack) Resolve(a netip.Addr) (policy.MAC, bool) {
	var known policy.MAC
	err := n.stack.GetLinkAddress(tcpip.NICID(Resolver), address(a), tcpip.Address{}, protocol(a), func(r gstack.LinkResolutionResult) {
		var mac policy.MAC
		switch r.Err.(type) {
		case nil:
			copy(mac[:], r.LinkAddress)
		case *tcpip.ErrAborted:
			return // Forget: what is known stays until the question that follows is answered
		}
		known = mac
		n.notify(NeighbourEvent{a, mac})
	})
	if err != nil {
		return policy.MAC{}, false // the function above runs later, or never
	}
	return known, !known.IsZero()
}

// Forget makes netstack ask anew at the next Resolve.
func (n *Netstack) Forget(a netip.Addr) {
	// An address that is not in the cache is forgotten already.
	_ = n.stack.RemoveNeighbor(tcpip.NICID(Resolver), protocol(a), address(a))
}

func (n *Netstack) notify(e NeighbourEvent) {
	select {
	case n.events <- e:
	default: // the reader asks each second anyway
	}
}

// OnNeighborAdded implements stack.NUDDispatcher.
func (n *Netstack) OnNeighborAdded(_ tcpip.NICID, e gstack.NeighborEntry) { n.changed(e) }

// OnNeighborChanged implements stack.NUDDispatcher.
func (n *Netstack) OnNeighborChanged(_ tcpip.NICID, e gstack.NeighborEntry) { n.changed(e) }

// OnNeighborRemoved implements stack.NUDDispatcher.
func (n *Netstack) OnNeighborRemoved(_ tcpip.NICID, e gstack.NeighborEntry) {}

func (n *Netstack) changed(e gstack.NeighborEntry) {
	a, ok := netip.AddrFromSlice(e.Addr.AsSlice())
	if !ok {
		return
	}
	switch e.State {
	case gstack.Reachable, gstack.Stale, gstack.Delay, gstack.Probe:
		if len(e.LinkAddr) == 6 {
			n.notify(NeighbourEvent{a, policy.MAC([]byte(e.LinkAddr))})
		}
	case gstack.Unreachable:
		n.notify(NeighbourEvent{Addr: a})
	}
}

func address(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

func protocol(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

// guardedClock keeps a panic in a timer of netstack's from ending the process.
type guardedClock struct {
	tcpip.Clock
	owner *Netstack
}

func (c guardedClock) AfterFunc(d time.Duration, f func()) tcpip.Timer {
	return c.Clock.AfterFunc(d, func() {
		defer func() {
			if recover() != nil {
				c.owner.Panics.Add(1)
			}
		}()
		f()
	})
}

// port is a NIC's link endpoint: what netstack sends becomes a Frame.
type port struct {
	side       Side
	owner      *Netstack
	mac        atomic.Uint64
	mtu        atomic.Uint32
	dispatcher atomic.Pointer[gstack.NetworkDispatcher]
}

var _ gstack.LinkEndpoint = (*port)(nil)

func (p *port) MTU() uint32           { return p.mtu.Load() }
func (p *port) SetMTU(mtu uint32)     { p.mtu.Store(max(mtu, header.IPv6MinimumMTU)) }
func (*port) MaxHeaderLength() uint16 { return 0 }

func (p *port) LinkAddress() tcpip.LinkAddress {
	m := policy.MACFromBits(p.mac.Load())
	return tcpip.LinkAddress(m[:])
}

func (*port) SetLinkAddress(tcpip.LinkAddress) {}

func (p *port) Capabilities() gstack.LinkEndpointCapabilities {
	if p.side == Resolver {
		return gstack.CapabilityResolutionRequired
	}
	return gstack.CapabilityNone
}

func (p *port) Attach(d gstack.NetworkDispatcher) {
	if d == nil {
		p.dispatcher.Store(nil)
		return
	}
	p.dispatcher.Store(&d)
}

func (p *port) IsAttached() bool                      { return p.dispatcher.Load() != nil }
func (*port) Wait()                                   {}
func (*port) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }
func (*port) AddHeader(*gstack.PacketBuffer)          {}
func (*port) ParseHeader(*gstack.PacketBuffer) bool   { return true }
func (*port) Close()                                  {}
func (*port) SetOnCloseAction(func())                 {}

// WritePackets never fails: a link that loses a frame counts it, and netstack's own handling of errors is not to be
// relied on.
func (p *port) WritePackets(pkts gstack.PacketBufferList) (int, tcpip.Error) {
	for _, pkt := range pkts.AsSlice() {
		view := pkt.ToView()
		f := NewFrame(policy.EthernetLen + view.Size())
		copy(f.Bytes()[policy.EthernetLen:], view.AsSlice())
		view.Release()
		var dst, src policy.MAC
		copy(dst[:], pkt.EgressRoute.RemoteLinkAddress)
		copy(src[:], p.LinkAddress())
		f.SetEthernet(dst, src, uint16(pkt.NetworkProtocolNumber))
		p.owner.out(p.side, f)
	}
	return pkts.Len(), nil
}
