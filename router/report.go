package router

import (
	"math/rand/v2"
	"net/netip"
	"time"

	"golang.org/x/time/rate"
	"gvisor.dev/gvisor/pkg/tcpip"

	"udrouter/policy"
	"udrouter/stack"
)

// Shares per guest and second, with bursts of the same size. Where no guest is concerned there is one more share.
const (
	errorsPerSecond     = 100  // ICMP errors, on average; a traceroute sends three a hop
	tooBigPerSecond     = 100  // the same, of their own, since path MTU discovery dies without them
	echoPerSecond       = 1000 // echo requests to the router
	neighbourPerSecond  = 200  // answers to ARP and NS
	newNextHopPerSecond = 20   // hosts on the uplink's own link
	answersPerSecond    = 200  // to the uplink, for the guest's addresses; as many to the gateways alone
)

// errorCost is what an error takes from its share on average. How much it really takes is a matter of chance, so that nobody can tell from what
// is left of the share of a guest how many errors others were sent about packets for it (CVE-2020-25705).
const errorCost = 2

func allowError(bucket *rate.Limiter, now time.Time) bool {
	return bucket.AllowN(now, 1+rand.IntN(2*errorCost-1))
}

// limits are token buckets, one set a guest; the last is for what no guest is behind. They go by the router's clock.
type limits struct {
	clock  tcpip.Clock
	sets   []limitSet
	nobody limitSet
}

type limitSet struct {
	errors, errorsToGuest, tooBig, tooBigToGuest, echoes, neighbours, nextHops, answers, answersToGateway *rate.Limiter
}

func newLimitSet() limitSet {
	bucket := func(n int) *rate.Limiter { return rate.NewLimiter(rate.Limit(n), n) }
	return limitSet{
		errors: bucket(errorCost * errorsPerSecond), errorsToGuest: bucket(errorCost * errorsPerSecond),
		tooBig: bucket(errorCost * tooBigPerSecond), tooBigToGuest: bucket(errorCost * tooBigPerSecond),
		echoes: bucket(echoPerSecond), neighbours: bucket(neighbourPerSecond), nextHops: bucket(newNextHopPerSecond),
		answers: bucket(answersPerSecond), answersToGateway: bucket(answersPerSecond),
	}
}

func newLimits(guests int, clock tcpip.Clock) *limits {
	l := &limits{clock: clock, sets: make([]limitSet, guests), nobody: newLimitSet()}
	for i := range l.sets {
		l.sets[i] = newLimitSet()
	}
	return l
}

func (l *limits) of(g *policy.Guest) *limitSet {
	if g == nil {
		return &l.nobody
	}
	return &l.sets[g.ID]
}

func (l *limits) echo(g *policy.Guest, side stack.Side) bool {
	return side == stack.Host || l.take(l.of(g).echoes)
}
func (l *limits) neighbour(g *policy.Guest) bool    { return l.take(l.of(g).neighbours) }
func (l *limits) newNeighbour(g *policy.Guest) bool { return l.take(l.of(g).nextHops) }

func (l *limits) take(bucket *rate.Limiter) bool { return bucket.AllowN(l.clock.Now(), 1) }

// report tells a packet's sender what became of it, where that may be told (RFC 1812 4.3.2.7, RFC 4443 2.4(e)) and the
// guest concerned has not used up its share: the sender, or else the destination.
func (w *worker) report(p *policy.Packet, from *policy.Guest, e stack.ICMPError) {
	if !stack.MayReport(p) {
		return
	}
	if !w.mayReport(p, from, e.IsTooBig()) {
		return
	}
	about := p.Src
	if from == nil {
		about = p.Dst
	}
	src := w.world.gatewayAddress(about, from != nil)
	if w.world.Own[p.Dst] || p.Dst == w.world.UplinkLL { // RFC 4443 2.2 (a): it was spoken to
		src = p.Dst
	}
	if !src.IsValid() || src.Is4() != p.Src.Is4() {
		return
	}
	w.sendError(stack.BuildError(p, src, e), p, from)
}

// mayReport takes an answer to a packet from the share of the guest concerned: the sender, or else the destination. What says that
// packets are too big has a share of its own.
func (w *worker) mayReport(p *policy.Packet, from *policy.Guest, tooBig bool) bool {
	concerned, toGuest := from, true
	if from == nil {
		concerned, toGuest = w.world.ByAddr(p.Dst), false
	}
	set := w.limits.of(concerned)
	bucket := set.errors
	switch {
	case toGuest && tooBig:
		bucket = set.tooBigToGuest
	case toGuest:
		bucket = set.errorsToGuest
	case tooBig:
		bucket = set.tooBig
	}
	return allowError(bucket, w.limits.clock.Now())
}

// sendError puts an error on the link that the packet came from.
func (w *worker) sendError(f *stack.Frame, p *policy.Packet, from *policy.Guest) {
	etherType := p.EtherType
	switch {
	case from != nil:
		f.SetEthernet(from.MAC, w.world.RouterMAC, etherType)
		w.out[stack.Guests] = append(w.out[stack.Guests], f)
	case w.side == stack.Host:
		w.out[stack.Host] = append(w.out[stack.Host], f)
	default:
		if mac, ok := w.knownNextHop(p.Src); ok {
			f.SetEthernet(mac, w.world.UplinkMAC, etherType)
			w.out[stack.UplinkSide] = append(w.out[stack.UplinkSide], f)
		}
	}
}

// knownNextHop is the MAC for an address on the uplink's side, if it is known already; nothing is asked for on behalf of
// whoever made us send an error.
func (w *worker) knownNextHop(a netip.Addr) (policy.MAC, bool) {
	addr, ok := w.world.nextHop(a)
	if !ok {
		return policy.MAC{}, false
	}
	n := w.neighbours.lookup(addr)
	if n == nil {
		return policy.MAC{}, false
	}
	return n.mac()
}
