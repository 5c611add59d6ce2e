package router

import (
	"context"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/ndp"

	"udrouter/config"
	"udrouter/policy"
	"udrouter/stack"
)

// Of RFC 4861 6.2.1 and 10.
const (
	maxInterval           = 10 * time.Minute // MaxRtrAdvInterval, at most
	minInterval           = 4 * time.Second  // and at least
	initialInterval       = 16 * time.Second // MAX_INITIAL_RTR_ADVERT_INTERVAL
	initialAdvertisements = 3                // MAX_INITIAL_RTR_ADVERTISEMENTS
	maxAnswerDelay        = 500 * time.Millisecond
	betweenAdvertisements = 3 * time.Second // MIN_DELAY_BETWEEN_RAS, here for those that one guest asks for,
	advertisementBurst    = 3               // of which it may have so many at once: as many as it sends solicitations
)

// advertiser tells guests about their router (RFC 4861 6.2). Each is told by itself, in a frame to its MAC (RFC 6085 3), what goes for its own addresses.
type advertiser struct {
	r    *Router
	wake chan struct{} // somebody has asked, or is to be told that something has changed

	mu     sync.Mutex          // taken by who is aside already
	ceased bool                // nobody is told of the router any more
	told   map[policy.MAC]bool // who has been told of it, by this process or the one before, and not that it is none any more
}

func newAdvertiser(r *Router) *advertiser {
	return &advertiser{r: r, wake: make(chan struct{}, 1), told: map[policy.MAC]bool{}}
}

// solicited answers a router solicitation, a little later.
func (w *worker) solicited(g *policy.Guest) {
	if !w.world.advertises(g) {
		return
	}
	s := w.world.of(g)
	if !w.take(s.advertisements) {
		w.drop(g, policy.NDLimit)
		return
	}
	w.advertiser.tell(s)
}

// tell has a guest be told soon.
func (a *advertiser) tell(s *guestState) {
	s.solicits.Store(true)
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// run advertises until ctx ends: to all guests now and then, more often at the beginning, and to those that ask.
func (a *advertiser) run(ctx context.Context, asked <-chan struct{}) error {
	all, answer := time.NewTimer(0), time.NewTimer(0)
	defer all.Stop()
	defer answer.Stop()
	waiting := false // somebody, for the answer
	<-answer.C
	for sent := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-asked:
		case <-a.wake:
			if !waiting {
				waiting = true
				answer.Reset(rand.N(maxAnswerDelay))
			}
		case <-answer.C:
			waiting = false
			a.send(func(s *guestState) bool { return s.solicits.Swap(false) })
		case <-all.C:
			a.send(everyone)
			sent++
			all.Reset(a.r.current.Load().advertiseAfter(sent))
		}
	}
}

// advertiseAfter is how long after the so manieth time all are told again.
func (wd *world) advertiseAfter(sent int) time.Duration {
	most := maxInterval
	for _, n := range wd.config {
		if n.RA != nil {
			most = min(most, n.RA.Lifetime/3)
		}
	}
	most = max(most, minInterval)
	d := most/3 + rand.N(most-most/3)
	if sent < initialAdvertisements {
		d = min(d, initialInterval)
	}
	return d
}

// send tells those guests that are chosen. Who is told nothing any more is told that the router is no longer one (RFC 4861 6.2.5).
func (a *advertiser) send(chosen func(*guestState) bool) {
	wd, done := a.r.aside() // what is handed over says whom nobody else is told after that
	defer done()
	a.mu.Lock() // so that nothing comes after the farewell
	defer a.mu.Unlock()
	var out []*stack.Frame
	for _, g := range wd.Guests {
		if !chosen(wd.of(g)) {
			continue
		}
		var ra *ndp.RouterAdvertisement
		if !a.ceased {
			ra = wd.advertisement(g)
		}
		switch {
		case ra != nil:
			a.told[g.MAC] = true
		case a.told[g.MAC]:
			ra = new(ndp.RouterAdvertisement)
			delete(a.told, g.MAC)
		default:
			continue
		}
		out = wd.appendRA(out, g, ra)
	}
	maps.DeleteFunc(a.told, func(mac policy.MAC, _ bool) bool { return wd.ByMAC(mac) == nil })
	if len(out) > 0 {
		a.r.links[stack.Guests].Write(out)
	}
}

// hearers are the MACs of those who have been told of the router.
func (a *advertiser) hearers() (list []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for mac := range a.told {
		list = append(list, mac.String())
	}
	slices.Sort(list)
	return list
}

// restore goes on with whom the router before this one has told of itself. A guest that this one's file says nothing to is told that with the first advertisements.
func (a *advertiser) restore(hearers []string) {
	wd := a.r.current.Load()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, text := range hearers {
		if mac, err := policy.ParseMAC(text); err == nil && wd.ByMAC(mac) != nil {
			a.told[mac] = true
		}
	}
}

// everyone chooses all guests.
func everyone(*guestState) bool { return true }

// cease tells all guests that have been told of the router that it is none any more: at its end, not where another process goes on.
func (a *advertiser) cease() {
	a.mu.Lock()
	a.ceased = true
	a.mu.Unlock()
	a.send(everyone)
}

func (wd *world) appendRA(out []*stack.Frame, g *policy.Guest, ra *ndp.RouterAdvertisement) []*stack.Frame {
	ra.Options = append(ra.Options, &ndp.LinkLayerAddress{Direction: ndp.Source, Addr: wd.RouterMAC[:]})
	b, err := ndp.MarshalMessage(ra)
	if err != nil { // which the file's checks leave no reason for
		return out
	}
	return append(out, stack.BuildRA(g.MAC, wd.RouterMAC, linkLocal1, allNodes, b))
}

// advertises tells whether a guest is told anything.
func (wd *world) advertises(g *policy.Guest) bool {
	return slices.ContainsFunc(g.Addrs, func(a netip.Prefix) bool {
		n := wd.config[wd.Network(a.Addr())]
		return n != nil && n.RA != nil
	})
}

// advertisement is what a guest is told: of each network with an ra block in which it has an address. Nil: nothing.
//
// A network's prefix is said to be on-link only where the file wants it. Guests send each other's packets to the router in either case, as it answers for their
// neighbours. A guest makes an address of its own out of a prefix only where it may use it: one of 64 bits that it is bound to as a whole, or one in which it is bound to
// the address that its MAC makes and no dhcp block gives it that.
func (wd *world) advertisement(g *policy.Guest) *ndp.RouterAdvertisement {
	var ra *ndp.RouterAdvertisement
	var dns []netip.Addr
	var onLink, autonomous []netip.Prefix
	for _, a := range g.Addrs {
		n := wd.config[wd.Network(a.Addr())]
		if n == nil || n.RA == nil {
			continue
		}
		if ra == nil {
			ra = &ndp.RouterAdvertisement{CurrentHopLimit: 64}
		}
		ra.RouterLifetime = max(ra.RouterLifetime, wholeSeconds(n.RA.Lifetime))
		ra.ManagedConfiguration = ra.ManagedConfiguration || n.DHCP != nil
		dns = appendNew(dns, n.RA.DNS...)
		if n.RA.OnLink {
			onLink = appendNew(onLink, n.Prefix)
		}
		if p, ok := wd.autonomous(g, a, n); ok {
			autonomous = appendNew(autonomous, p)
		}
	}
	if ra == nil {
		return nil
	}
	ra.Options = append(ra.Options, ndp.NewMTU(uint32(wd.guestMTU)))
	for _, p := range appendNew(slices.Clone(onLink), autonomous...) {
		ra.Options = append(ra.Options, &ndp.PrefixInformation{Prefix: p.Addr(), PrefixLength: uint8(p.Bits()),
			OnLink: slices.Contains(onLink, p), AutonomousAddressConfiguration: slices.Contains(autonomous, p),
			ValidLifetime: max(4*ra.RouterLifetime, 2*time.Hour), PreferredLifetime: ra.RouterLifetime})
	}
	if len(dns) > 0 {
		ra.Options = append(ra.Options, &ndp.RecursiveDNSServer{Lifetime: ra.RouterLifetime, Servers: dns})
	}
	return ra
}

// slaacBits is what Ethernet leaves of a prefix out of which hosts make addresses (RFC 4862 5.5.3, RFC 2464 4).
const slaacBits = 64

// autonomous is the prefix out of which a guest may make itself the address, or one of the prefix, that it is bound to; none where what its MAC makes is taken.
func (wd *world) autonomous(g *policy.Guest, a netip.Prefix, n *config.Network) (p netip.Prefix, ok bool) {
	switch {
	case a.Bits() == slaacBits:
		p = a
	case a.IsSingleIP() && n.DHCP == nil && n.Prefix.Bits() == slaacBits:
		p = n.Prefix
	default:
		return p, false
	}
	own, host := p.Addr().As16(), policy.EUI64(g.MAC).As16()
	copy(own[slaacBits/8:], host[slaacBits/8:])
	made := netip.AddrFrom16(own)
	return p, a.Contains(made) && !wd.Taken[made]
}
