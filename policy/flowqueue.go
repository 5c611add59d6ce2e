package policy

import "time"

const (
	// queueGrain is by how much the order of a queue may be wrong: a busy flow moves to its end only so often.
	queueGrain = time.Second

	// sparedPart is the part of a guest's flows, as a power of two, that nobody need have answered yet when others are given up. What is being opened
	// has to live for a round trip among flows that stay for hours.
	sparedPart = 4
)

// queueID names a queue. A queue holds the flows with one idle time, those that were used last at its end, so that what has
// expired is at its head. They stand in the order in which a guest gives flows up, and once more for what the uplink has opened.
type queueID uint8

const (
	queueTCPOpening queueID = iota
	queueUDPUnreplied
	queueEchoUnreplied
	queueOtherUnreplied
	queueTCPClosing
	queueTCP
	queueUDP
	queueEcho
	queueOther
	queueKinds

	queueCount = 2 * queueKinds
)

var queueIdle = [queueKinds]time.Duration{
	queueTCPOpening: TCPTransitoryIdle, queueUDPUnreplied: UDPUnrepliedIdle, queueEchoUnreplied: EchoIdle, queueOtherUnreplied: OtherIdle,
	queueTCPClosing: TCPTransitoryIdle, queueTCP: TCPEstablishedIdle, queueUDP: UDPIdle, queueEcho: EchoIdle, queueOther: OtherIdle,
}

func (q queueID) idle() time.Duration { return queueIdle[q%queueKinds] }

// yields are the groups of queues in the order in which a guest gives flows up: what nobody has answered, what is over, the others.
var yields = [...][2]queueID{{queueTCPOpening, queueOtherUnreplied}, {queueTCPClosing, queueTCPClosing}, {queueTCP, queueOther}}

func (f *Flow) queueOf() queueID {
	if f.From == SideUplink {
		return queueKinds + f.kind()
	}
	return f.kind()
}

func (f *Flow) kind() queueID {
	switch f.State {
	case TCPSynSent, TCPSynReceived:
		return queueTCPOpening
	case TCPEstablished, TCPFinWait, TCPCloseWait:
		return queueTCP
	case TCPLastAck, TCPTimeWait, TCPClosed:
		return queueTCPClosing
	}
	q := queueOther
	switch f.Key.Proto {
	case ProtoUDP:
		q = queueUDP
	case ProtoICMP, ProtoICMPv6:
		q = queueEcho
	}
	if f.State == FlowUnreplied {
		q -= queueUDP - queueUDPUnreplied
	}
	return q
}

// queue is a list of flows.
type queue struct {
	oldest, newest uint32
	n              int
}

// touch refreshes a flow.
func (t *FlowTable) touch(i uint32, now time.Duration) {
	f := t.at(i)
	f.used = now
	if now-f.queued >= queueGrain || f.queueOf() != f.queue {
		t.requeue(i, now)
	}
}

func (t *FlowTable) requeue(i uint32, now time.Duration) {
	t.dequeue(i)
	t.enqueue(i, now)
}

func (t *FlowTable) enqueue(i uint32, now time.Duration) {
	f := t.at(i)
	f.queue, f.queued = f.queueOf(), now
	q := &t.queues[f.queue]
	f.older, f.newer = q.newest, 0
	if q.newest == 0 {
		q.oldest = i
	} else {
		t.at(q.newest).newer = i
	}
	q.newest = i
	q.n++
}

func (t *FlowTable) dequeue(i uint32) {
	f := t.at(i)
	q := &t.queues[f.queue]
	if f.older == 0 {
		q.oldest = f.newer
	} else {
		t.at(f.older).newer = f.newer
	}
	if f.newer == 0 {
		q.newest = f.older
	} else {
		t.at(f.newer).older = f.older
	}
	q.n--
}

// oldest is the flow that a guest gives up first; there must be one.
func (t *FlowTable) oldest() uint32 {
	unanswered := 0
	for q := yields[0][0]; q <= yields[0][1]; q++ {
		unanswered += t.queues[q].n + t.queues[q+queueKinds].n
	}
	for g, group := range yields {
		if g == 0 && unanswered <= t.count>>sparedPart {
			continue
		}
		if i := t.oldestOf(group); i != 0 {
			return i
		}
	}
	return t.oldestOf(yields[0])
}

// leastUsed is oldest, but for flows that turn out to be in use elsewhere, of which it asks for a few.
func (t *FlowTable) leastUsed(now time.Duration) uint32 {
	for range 4 {
		i := t.oldest()
		f := t.at(i)
		if t.catchUp(i); f.used-f.queued < queueGrain {
			return i
		}
		t.requeue(i, now)
	}
	return t.oldest()
}

// oldestOf is the oldest of the queue of a group that has most flows, or 0: what one side opens in numbers, pings or connections, costs the other
// side nothing, and nothing of another kind.
func (t *FlowTable) oldestOf(group [2]queueID) uint32 {
	var most *queue
	for q := group[0]; q <= group[1]; q++ {
		for _, q := range [2]*queue{&t.queues[q], &t.queues[q+queueKinds]} {
			if q.n > 0 && (most == nil || q.n > most.n || q.n == most.n && t.at(q.oldest).queued < t.at(most.oldest).queued) {
				most = q
			}
		}
	}
	if most == nil {
		return 0
	}
	return most.oldest
}

// expire forgets flows that have expired, at most n that seem so, and tells how many those were.
func (t *FlowTable) expire(now time.Duration, n int) int {
	done := 0
	for q := range t.queues {
		for done < n {
			i := t.queues[q].oldest
			if i == 0 || !t.at(i).expired(now) {
				break
			}
			if done++; !t.expired(i, now) { // it is in use elsewhere
				t.requeue(i, now)
				continue
			}
			t.remove(i)
		}
	}
	return done
}
