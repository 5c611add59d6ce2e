package router

import (
	"math/rand/v2"
	"net/netip"
	"time"

	"golang.org/x/time/rate"

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
	dhcpPerSecond       = 10   // DHCP messages to the router
	answersPerSecond    = 200  // to the uplink, for the guest's addresses; as many to the gateways alone
)

// errorCost is what an error takes from its share on average. How much it really takes is a matter of chance, so that nobody can tell from what
// is left of the share of a guest how many errors others were sent about packets for it (CVE-2020-25705).
const errorCost = 2

func allowError(bucket *rate.Limiter, now time.Time) bool {
	return bucket.AllowN(now, 1+rand.IntN(2*errorCost-1))
}

// limitSet is a guest's token buckets, or those for what no guest is behind. They go by the router's clock.
type limitSet struct {
	errors, errorsToGuest, tooBig, tooBigToGuest, echoes, neighbours, nextHops, answers, answersToGateway, dhcp, advertisements *rate.Limiter
}

func newLimitSet() limitSet {
	bucket := func(n int) *rate.Limiter { return rate.NewLimiter(rate.Limit(n), n) }
	return limitSet{
		errors: bucket(errorCost * errorsPerSecond), errorsToGuest: bucket(errorCost * errorsPerSecond),
		tooBig: bucket(errorCost * tooBigPerSecond), tooBigToGuest: bucket(errorCost * tooBigPerSecond),
		echoes: bucket(echoPerSecond), neighbours: bucket(neighbourPerSecond), nextHops: bucket(newNextHopPerSecond),
		answers: bucket(answersPerSecond), answersToGateway: bucket(answersPerSecond), dhcp: bucket(dhcpPerSecond),
		advertisements: rate.NewLimiter(rate.Every(betweenAdvertisements), advertisementBurst),
	}
}

func (r *Router) take(bucket *rate.Limiter) bool { return bucket.AllowN(r.bucketTime(), 1) }

// bucketTime is now as token buckets have it. It is the monotonic time, so that they do not depend on the time of day, which can be set.
func (r *Router) bucketTime() time.Time { return time.Time{}.Add(r.now()) }

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
	set := w.world.of(concerned)
	bucket := set.errors
	switch {
	case toGuest && tooBig:
		bucket = set.tooBigToGuest
	case toGuest:
		bucket = set.errorsToGuest
	case tooBig:
		bucket = set.tooBig
	}
	return allowError(bucket, w.bucketTime())
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
