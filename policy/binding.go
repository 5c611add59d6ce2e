package policy

import (
	"fmt"
	"net/netip"
	"sync/atomic"

	"github.com/gaissmai/bart"
)

// Guest is a domu: what it is bound to. It is immutable but for its counters, which any goroutine may touch.
type Guest struct {
	ID    int // index in Bindings.Guests
	Name  string
	Group string // another name that rules may have for it, which it shares with others; "": none
	Vif   string
	MAC   MAC
	Addrs []netip.Prefix // its addresses and prefixes, masked; pinned link-local addresses among them

	// Pinned tells that Addrs lists a link-local address, so that no other one may be used.
	Pinned bool

	// Side is where its packets come from and go to, as flows know it: for as long as the guest is one, however the bindings change. NewBindings
	// gives one to who has none.
	Side Side

	Counters *GuestCounters // who has none gets them from NewBindings
}

// GuestCounters count from the guest's side: Rx is what the guest has been sent, Tx what it sent. A GSO frame counts once.
type GuestCounters struct {
	RxPackets, RxBytes atomic.Uint64
	TxPackets, TxBytes atomic.Uint64
	Drops              [Reasons]atomic.Uint64
	Would              [Reasons]atomic.Uint64 // what a policy in shadow mode would have dropped
}

// DropTotal is the sum of all drops.
func (c *GuestCounters) DropTotal() uint64 {
	var n uint64
	for i := range c.Drops {
		n += c.Drops[i].Load()
	}
	return n
}

// Network is a prefix of guests' addresses.
type Network struct {
	Name    string
	Prefix  netip.Prefix
	Gateway netip.Addr // the router's address in it; may be link-local
	Proxied bool       // on-link at the provider
	DHCP    bool       // the router serves its guests
}

// Bindings tell which guest a MAC or an address belongs to. They are immutable; concurrent use is safe. Lookups cost the
// same for one guest and for thousands.
type Bindings struct {
	Guests   []*Guest
	Networks []*Network

	byMAC  map[MAC]*Guest
	byAddr bart.Table[*Guest]
	byNet  bart.Table[*Network]
	// reserved are link-local addresses that only one guest may use: pinned ones, and those derived from a MAC.
	reserved map[netip.Addr]*Guest
}

// NewBindings compiles the table. It errs where two guests share a MAC or an address, which package config reports first.
func NewBindings(networks []*Network, guests []*Guest) (*Bindings, error) {
	b := &Bindings{Guests: guests, Networks: networks, byMAC: make(map[MAC]*Guest, len(guests)), reserved: make(map[netip.Addr]*Guest, len(guests))}
	for _, n := range networks {
		b.byNet.Insert(n.Prefix, n)
	}
	for i, g := range guests {
		g.ID = i
		if g.Side == 0 {
			g.Side = SideGuest + Side(i)
		}
		if g.Counters == nil {
			g.Counters = new(GuestCounters)
		}
		if other, ok := b.byMAC[g.MAC]; ok {
			return nil, fmt.Errorf("guests %q and %q share the MAC %v", other.Name, g.Name, g.MAC)
		}
		b.byMAC[g.MAC] = g
		b.reserved[EUI64(g.MAC)] = g
	}
	for _, g := range guests {
		for _, p := range g.Addrs {
			if p.Addr().IsLinkLocalUnicast() {
				b.reserved[p.Addr()] = g
				g.Pinned = true
				continue
			}
			if other, ok := b.byAddr.Get(p); ok {
				return nil, fmt.Errorf("guests %q and %q share %v", other.Name, g.Name, p)
			}
			b.byAddr.Insert(p, g)
		}
	}
	return b, nil
}

// ByMAC is the guest that a MAC is bound to, or nil.
func (b *Bindings) ByMAC(m MAC) *Guest { return b.byMAC[m] }

// ByAddr is the guest that a global address is bound to, or nil.
func (b *Bindings) ByAddr(a netip.Addr) *Guest {
	g, _ := b.byAddr.Lookup(a)
	return g
}

// Network is the network whose prefix holds the address, or nil.
func (b *Bindings) Network(a netip.Addr) *Network {
	n, _ := b.byNet.Lookup(a)
	return n
}

// MayUseLinkLocal tells whether a guest may use a link-local address, as far as the bindings alone say: not another
// guest's, and only a pinned one where one is pinned. Which of two guests came first is the caller's memory.
func (b *Bindings) MayUseLinkLocal(g *Guest, a netip.Addr) bool {
	if owner := b.reserved[a]; owner != nil {
		if owner != g {
			return false
		}
		return !g.Pinned || g.has(a)
	}
	return !g.Pinned
}

func (g *Guest) has(a netip.Addr) bool {
	for _, p := range g.Addrs {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
