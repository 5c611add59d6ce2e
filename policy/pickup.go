package policy

import "time"

// PickUp lets TCP segments make flows until the monotonic time until, of connections that were there before this engine and whose flows are lost:
// 0 is no longer. What the rules do not admit as the packet that opens a connection is not admitted so either (the model is
// nf_conntrack_tcp_loose). What other protocols have goes on anyway, since their packets open flows.
func (e *Engine) PickUp(until time.Duration) { e.pickUp.Store(int64(until)) }

// PicksUp is until when PickUp lets it.
func (e *Engine) PicksUp() time.Duration { return time.Duration(e.pickUp.Load()) }

// continues tells whether a packet can be of a TCP connection that is established: neither SYN nor RST, and whole.
func (p *Packet) continues() bool {
	if _, _, ok := p.FlowKey(); !ok || p.Proto != ProtoTCP || p.Fragment {
		return false
	}
	g, ok := p.segment()
	return ok && g.possible() && g.flags&(tcpSYN|tcpRST) == 0
}

const (
	largestScale  = 14 // RFC 7323 2.3
	largestWindow = 65535 << largestScale
)

// pickUp starts a connection with a segment from the middle of it, by side 0 as far as anybody knows. Neither side's window scale is known, so that
// windows are taken to be as large as they may be; numbers are learned from what each side sends.
func (c *tcpConn) pickUp(g *segment) {
	*c = tcpConn{}
	x, y := &c.side[0], &c.side[1]
	x.join(g.seq)
	x.edge += largestWindow
	x.end = g.end
	y.join(g.ack)
	c.note(x, y, g)
}

// join starts a side whose next number is thought to be n.
func (x *tcpSide) join(n uint32) {
	*x = tcpSide{iss: n - 1, una: n, end: n, edge: n, scale: largestScale, flags: sideSYN | sideOpen | sideScales | sidePicked}
}

// acked is the highest number that the other side may acknowledge: what was sent, and of a connection that was picked up what may have been sent
// before.
func (x *tcpSide) acked() uint32 {
	if x.flags&sidePicked != 0 && after(x.edge, x.end) {
		return x.edge
	}
	return x.end
}

// heard learns from the first segment of a side of a connection that was picked up what the other one was allowed to send; and from each one how far
// that has come. The first may be an old copy, whose window has been opened since.
func (c *tcpConn) heard(x, y *tcpSide, g *segment) {
	if x.flags&sidePicked == 0 {
		return
	}
	if after(g.ack, y.end) {
		y.end = g.ack
	}
	if x.window == 0 {
		x.window = 1
		y.edge = y.end + windowSlack
	}
}
