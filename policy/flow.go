package policy

import (
	"bytes"
	"hash/maphash"
	"net/netip"
	"time"
)

// Idle times after which a flow is forgotten.
const (
	TCPEstablishedIdle = 2*time.Hour + 4*time.Minute // RFC 5382 5, also half-closed as in RFC 6146 3.5.2.2: data may go on one way
	TCPTransitoryIdle  = 4 * time.Minute             // RFC 5382 5 while it opens or closes; RFC 7857 2.2 after a reset
	UDPIdle            = 5 * time.Minute             // RFC 4787 4.3, once answered
	UDPUnrepliedIdle   = 30 * time.Second            // as netfilter; RFC 4787 is about mappings that are in use
	EchoIdle           = 30 * time.Second            // netfilter's; RFC 5508 3.2 asks for 60 s of a NAT, whose mapping the identifier needs
	OtherIdle          = 10 * time.Minute            // netfilter's generic timeout
)

// Side is a place where packets come from and go to. The owner may give the numbers from SideGuest on to guests as it likes, if the
// same guest keeps its number as long as its flows live.
type Side uint32

const (
	SideUplink Side = iota
	SideHost
	SideGuest

	anySide Side = 1<<32 - 1 // whoever it is for
)

// FlowKey names a flow. It is the same for both directions: A is the lower end, but for echo, where A is who asks, so that
// both ends may ask each other with the same identifier. It is comparable and has no padding.
type FlowKey struct {
	A, B         [16]byte // IPv4 addresses are mapped (RFC 4291 2.5.5.2)
	APort, BPort uint16   // of protocols that have ports; the identifier of echo in both; else 0
	Proto        uint8
	Family       uint8 // 4 or 6
}

// FlowKey is the key of the flow that a packet belongs to, and whether the packet goes from B to A. ok is false for what has no
// flow: later fragments, ARP, all of ICMP but echo, what hides behind a message, and what a host sends to itself.
func (p *Packet) FlowKey() (key FlowKey, reversed, ok bool) {
	if p.L4 == 0 || p.Src == p.Dst || p.Hiding {
		return key, false, false
	}
	key = FlowKey{A: p.Src.As16(), B: p.Dst.As16(), Proto: p.Proto, Family: 4}
	if p.IsIPv6() {
		key.Family = 6
	}
	switch {
	case p.hasPorts():
		key.APort, key.BPort = p.SrcPort, p.DstPort
	case p.Proto == ProtoICMP, p.Proto == ProtoICMPv6:
		key.APort, key.BPort = p.EchoID, p.EchoID
		if p.isEchoReply() {
			key.A, key.B = key.B, key.A
			return key, true, true
		}
		return key, false, p.IsEchoRequest()
	}
	if bytes.Compare(key.A[:], key.B[:]) > 0 {
		key.A, key.B, key.APort, key.BPort = key.B, key.A, key.BPort, key.APort
		return key, true, true
	}
	return key, false, true
}

func (p *Packet) isEchoReply() bool {
	return p.L4 != 0 && (p.IsIPv4() && p.Proto == ProtoICMP && p.ICMPType == 0 || p.IsIPv6() && p.Proto == ProtoICMPv6 && p.ICMPType == 129)
}

// FlowState is how far a flow has come.
type FlowState uint8

const (
	FlowUnreplied FlowState = iota + 1 // all but TCP: one way only so far
	FlowReplied
	TCPSynSent     // who opened has sent a SYN
	TCPSynReceived // both have, and not both are acknowledged
	TCPEstablished
	TCPFinWait   // one side has sent a FIN
	TCPCloseWait // and the other has acknowledged it; it may go on sending
	TCPLastAck   // both have sent a FIN
	TCPTimeWait  // and both are acknowledged; a SYN makes a new flow
	TCPClosed    // reset; a SYN makes a new flow

	flowStates
)

var flowStateWords = [flowStates]string{
	FlowUnreplied: "unreplied", FlowReplied: "replied", TCPSynSent: "syn-sent", TCPSynReceived: "syn-received",
	TCPEstablished: "established", TCPFinWait: "fin-wait", TCPCloseWait: "close-wait", TCPLastAck: "last-ack",
	TCPTimeWait: "time-wait", TCPClosed: "closed",
}

func (s FlowState) String() string {
	if s > 0 && s < flowStates {
		return flowStateWords[s]
	}
	return "invalid"
}

// FlowStates are the words of all states.
func FlowStates() []string { return append([]string{}, flowStateWords[1:]...) }

// NextHop is the forwarder's own memory of where one direction of a flow goes. The table only keeps it.
type NextHop [8]byte

// Flow is an entry of a FlowTable. It has no pointers, so that the garbage collector does not look at a million of them. What a
// lookup reads stands in its first 64 bytes.
type Flow struct {
	Key        FlowKey
	State      FlowState
	Reversed   bool // who opened it is the key's B
	hash       uint32
	chain      uint32 // the next of the same bucket, or free
	serial     uint32 // 0: no flow is here
	Verdict    uint32 // the owner's: what admitted it
	Generation uint32 // the owner's: of the policy that did
	queue      queueID
	epoch      uint8  // of the table's, in which it was admitted
	offloaded  uint16 // its place in the table's tier, 0: none

	used         time.Duration // when it was refreshed last
	queued       time.Duration // and when it went to the end of its queue
	Opened       time.Duration
	From, To     Side // who opened it, and for whom it is
	older, newer uint32

	// Of both directions, the original one first. A GSO frame counts as one packet and with all its bytes, from the IP header on.
	Packets, Bytes [2]uint64
	next           [2]NextHop
	tcp            tcpConn
}

// Src and Dst are the ends of the flow, as who opened it sees them.
func (f *Flow) Src() netip.AddrPort { return f.Key.end(f.Reversed) }
func (f *Flow) Dst() netip.AddrPort { return f.Key.end(!f.Reversed) }

func (k *FlowKey) end(b bool) netip.AddrPort {
	a, port := k.A, k.APort
	if b {
		a, port = k.B, k.BPort
	}
	addr := netip.AddrFrom16(a)
	if k.Family == 4 {
		addr = addr.Unmap()
	}
	return netip.AddrPortFrom(addr, port)
}

// Expires is when the flow is forgotten if nothing refreshes it.
func (f *Flow) Expires() time.Duration { return f.used + f.queue.idle() }

// Idle is for how long nothing has refreshed the flow.
func (f *Flow) Idle(now time.Duration) time.Duration { return max(now-f.used, 0) }

// FlowRef names a flow that was found, until it is gone. The zero value names none.
type FlowRef struct{ index, serial uint32 }

// FlowHit is what a lookup has found.
type FlowHit struct {
	Ref                 FlowRef
	Reason              Reason // None, or why the packet must be dropped
	Reply               bool   // the packet goes toward who opened the flow
	State               FlowState
	Verdict, Generation uint32
	Next                NextHop // of this direction
}

// Lookup finds the flow of a packet that comes from a side at the monotonic time now. When the packet is acceptable it advances
// the flow's state, puts off its end and counts the packet. ok is false when the packet has no flow here: the policy then
// decides whether it may open one with Create; ICMP errors go to Related. A later fragment that is not found is a
// FragmentOrphan.
func (t *FlowTable) Lookup(p *Packet, from Side, now time.Duration) (hit FlowHit, ok bool) {
	return t.LookupIf(p, from, anySide, now, nil)
}

// LookupIf is Lookup of a packet that goes to a side, which must be where the flow has its other end: an address may be another's by now. It asks admit
// about a packet that is acceptable: when that has a reason to refuse it, it has not come, as far as the flow knows. admit is called at most once, under
// the table's lock.
func (t *FlowTable) LookupIf(p *Packet, from, to Side, now time.Duration, admit func() Reason) (hit FlowHit, ok bool) {
	if p.L4 == 0 {
		if !p.Fragment {
			return hit, false
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.laterFragment(p, from, to, t.clock(now), admit)
	}
	key, reversed, ok := p.FlowKey()
	if !ok {
		return hit, false
	}
	hash := uint32(maphash.Comparable(t.seed, key))
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lookup(p, &key, hash, reversed, from, to, t.clock(now), admit)
}

func (t *FlowTable) lookup(p *Packet, key *FlowKey, hash uint32, reversed bool, from, to Side, now time.Duration, admit func() Reason) (hit FlowHit, ok bool) {
	i := t.find(key, hash)
	if i != 0 && t.at(i).expired(now) {
		t.remove(i)
		i = 0
	}
	var ref FlowRef
	if i != 0 {
		ref = FlowRef{i, t.at(i).serial}
	}
	known := false
	if p.Fragment {
		var r Reason
		if known, r = t.firstFragment(p, ref, from, now); r != None {
			return FlowHit{Ref: ref, Reason: r}, true
		}
	}
	if i == 0 {
		return hit, false
	}
	f := t.at(i)
	dir := f.dir(reversed)
	if from != f.side(dir) || !f.leads(dir, to) {
		return f.hit(ref, dir, FlowSide), true
	}
	r, ok := t.accept(p, i, dir, now, admit)
	if !ok {
		return hit, false
	}
	if r == None && p.Fragment && !known {
		t.follow(p, ref, dir, from, now)
	}
	return f.hit(ref, dir, r), true
}

// accept takes a packet as the next of a direction of the flow i: it advances the flow's state, puts off its end and counts the packet. What is not
// acceptable, or what admit (nil: nobody) has a reason to refuse, leaves no trace. ok is false for a SYN that opens a new connection where this one
// is over.
func (t *FlowTable) accept(p *Packet, i uint32, dir int, now time.Duration, admit func() Reason) (r Reason, ok bool) {
	f := t.at(i)
	conn, state, r, quiet, ok := f.advance(p, dir)
	if !ok || r != None {
		return r, ok
	}
	if f.offloaded != 0 && !f.settled(state) {
		t.withdraw(i)
		if conn, state, r, quiet, ok = f.advance(p, dir); !ok || r != None {
			return r, ok
		}
	}
	if admit != nil {
		if r := admit(); r != None {
			return r, true
		}
	}
	f.tcp, f.State = conn, state
	f.count(dir, p)
	t.changed.note(i)
	if !quiet {
		t.touch(i, now)
	}
	t.raise(i)
	return None, true
}

// advance judges a packet as the next of a direction, and tells what would become of the flow by it. The results are those of accept and of
// tcpConn.advance.
func (f *Flow) advance(p *Packet, dir int) (conn tcpConn, state FlowState, r Reason, quiet, ok bool) {
	conn, state = f.tcp, f.State
	switch {
	case f.Key.Proto == ProtoTCP:
		g, ok := p.segment()
		if !ok {
			return conn, state, Malformed, false, true
		}
		if g.opens() && (f.State == TCPTimeWait || f.State == TCPClosed) {
			return conn, state, None, false, false
		}
		if r, quiet = conn.advance(dir, &g); r == None {
			state = conn.state()
		}
	case dir == 1:
		state = FlowReplied
	}
	return conn, state, r, quiet, true
}

// Create makes the flow of a packet that the policy has admitted, on its way between two sides. Where the flow has come to be in
// the meantime, it is found as by Lookup. Only what may open a flow does: of TCP a SYN alone, of ICMP an echo request, anything
// else of other protocols.
func (t *FlowTable) Create(p *Packet, from, to Side, verdict, generation uint32, now time.Duration) (hit FlowHit, r Reason) {
	return t.create(p, from, to, verdict, generation, now, false)
}

// create is Create, also of what continues a connection.
func (t *FlowTable) create(p *Packet, from, to Side, verdict, generation uint32, now time.Duration, pickUp bool) (hit FlowHit, r Reason) {
	key, reversed, ok := p.FlowKey()
	if !ok {
		return hit, p.opens()
	}
	hash := uint32(maphash.Comparable(t.seed, key))
	t.mu.Lock()
	defer t.mu.Unlock()
	now = t.clock(now)
	if hit, ok := t.lookup(p, &key, hash, reversed, from, to, now, nil); ok {
		return hit, hit.Reason
	}
	if r := p.opens(); r != None && !pickUp {
		return hit, r
	}
	state, conn := FlowUnreplied, tcpConn{}
	if key.Proto == ProtoTCP {
		g, _ := p.segment()
		if pickUp {
			conn.pickUp(&g)
		} else {
			conn.open(&g)
		}
		state = conn.state()
	}
	if i := t.find(&key, hash); i != 0 { // closed, as lookup says
		t.remove(i)
	}
	f := Flow{Key: key, hash: hash, Reversed: reversed, State: state, Verdict: verdict, Generation: generation,
		From: from, To: to, Opened: now, tcp: conn}
	f.count(0, p)
	ref, ok := t.insert(&f, now)
	if !ok {
		return hit, FlowLimit
	}
	if p.Fragment {
		t.follow(p, ref, 0, from, now)
	}
	return f.hit(ref, 0, None), None
}

// opens tells why a packet without a flow may not open one: None when it may.
func (p *Packet) opens() Reason {
	if p.L4 == 0 && p.Fragment {
		return FragmentOrphan
	}
	if _, _, ok := p.FlowKey(); !ok || p.isEchoReply() {
		return NoFlow
	}
	if p.Proto != ProtoTCP {
		return None
	}
	g, ok := p.segment()
	switch {
	case !ok:
		return Malformed
	case !g.possible():
		return TCPFlags
	case !g.opens():
		return NoFlow
	}
	return None
}

// dir is the direction of a packet: 0 for that of who opened the flow, 1 back. reversed is what Packet.FlowKey says of it.
func (f *Flow) dir(reversed bool) int {
	if reversed != f.Reversed {
		return 1
	}
	return 0
}

// side is where packets of a direction come from.
func (f *Flow) side(dir int) Side {
	if dir == 0 {
		return f.From
	}
	return f.To
}

// leads tells whether packets of a direction go to a side.
func (f *Flow) leads(dir int, to Side) bool { return to == anySide || to == f.side(1-dir) }

func (f *Flow) count(dir int, p *Packet) {
	f.Packets[dir]++
	f.Bytes[dir] += uint64(p.L3Len())
}

func (f *Flow) hit(ref FlowRef, dir int, r Reason) FlowHit {
	return FlowHit{Ref: ref, Reason: r, Reply: dir == 1, State: f.State, Verdict: f.Verdict, Generation: f.Generation, Next: f.next[dir]}
}

func (f *Flow) expired(now time.Duration) bool { return now-f.used >= f.queue.idle() }
