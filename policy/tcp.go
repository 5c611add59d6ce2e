package policy

import "encoding/binary"

// TCP flags (RFC 9293 3.1).
const (
	tcpFIN = 1 << iota
	tcpSYN
	tcpRST
	tcpPSH
	tcpACK
	tcpURG
)

// windowSlack is how old a segment or an acknowledgement may be at least, whatever window its receiver has shown: a whole unscaled
// window. It lets what was overtaken or repeated pass, which a receiver only answers.
const windowSlack = 66000

// maxFragmentedTCP is what a segment may hold of which the first fragment has come.
const maxFragmentedTCP = 0xffff

// segment is what tracking takes from a TCP header.
type segment struct {
	seq, ack uint32
	end      uint32 // the sequence number behind it; SYN and FIN count (RFC 9293 3.4)
	window   uint32 // as it stands there
	flags    uint8
	scale    uint8 // of a SYN's window scale option
	scales   bool  // there is one
	data     bool
	partial  bool // of a fragmented segment, which is longer
}

// segment reads the TCP header of a packet, whose payload may be that of many segments (GSO).
func (p *Packet) segment() (g segment, ok bool) {
	b := p.Frame[p.L4:]
	if len(b) < 20 {
		return g, false
	}
	header := int(b[12]>>4) * 4
	if header < 20 || header > len(b) {
		return g, false
	}
	g.seq, g.ack = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
	g.flags, g.window = b[13], uint32(binary.BigEndian.Uint16(b[14:]))
	g.data, g.partial = len(b) > header, p.Fragment
	g.end = g.seq + uint32(len(b)-header)
	if g.flags&tcpFIN != 0 {
		g.end++
	}
	if g.flags&tcpSYN != 0 {
		g.end++
		g.readScale(b[20:header])
	}
	return g, true
}

// readScale finds the window scale option (RFC 7323 2.2). What is malformed ends the options.
func (g *segment) readScale(b []byte) {
	for len(b) > 0 {
		switch {
		case b[0] == 0:
			return
		case b[0] == 1:
			b = b[1:]
			continue
		case len(b) < 2 || b[1] < 2 || int(b[1]) > len(b):
			return
		case b[0] == 3 && b[1] == 3:
			g.scale, g.scales = min(b[2], 14), true // RFC 7323 2.3
		}
		b = b[b[1]:]
	}
}

// possible tells whether a TCP sends such flags: scans do not (RFC 9293 3.5 to 3.10; all but the first SYN and a reset
// acknowledge).
func (g *segment) possible() bool {
	switch g.flags & (tcpFIN | tcpSYN | tcpRST | tcpACK) {
	case tcpSYN, tcpSYN | tcpACK, tcpRST, tcpRST | tcpACK, tcpACK, tcpFIN | tcpACK:
		return true
	}
	return false
}

// opens tells whether the segment may open a connection.
func (g *segment) opens() bool { return g.flags&(tcpSYN|tcpACK|tcpRST|tcpFIN) == tcpSYN }

// before and after compare sequence numbers (RFC 9293 3.4).
func before(a, b uint32) bool { return int32(a-b) < 0 }
func after(a, b uint32) bool  { return int32(a-b) > 0 }

// within tells whether a <= n <= b.
func within(n, a, b uint32) bool { return !before(n, a) && !after(n, b) }

// What is known of one side of a connection.
const (
	sideSYN        = 1 << iota // it has sent a SYN
	sideOpen                   // which the other has acknowledged
	sideFIN                    // it has sent a FIN
	sideFINAcked               // which the other has acknowledged
	sideRST                    // it has reset the connection
	sideScales                 // it has offered to scale its window
	sideChallenged             // it has answered the SYN out of another connection
	sidePicked                 // of a connection whose beginning nobody has seen, see pickUp
)

// tcpSide is one side of a connection as Guido van Rooij's "Real Stateful TCP Packet Filtering" has it.
type tcpSide struct {
	iss    uint32 // of its SYN
	una    uint32 // the highest acknowledgement that it was sent; iss before
	end    uint32 // behind the highest sequence number that it has sent
	edge   uint32 // behind the highest that it was allowed to send
	fin    uint32 // behind its FIN
	window uint32 // the largest that it has offered, in bytes
	scale  uint8
	flags  uint8
}

// tcpConn follows a connection; side 0 has opened it. How far it is follows from what each side has sent and acknowledged, so
// that simultaneous open, split handshakes and simultaneous close need no transitions of their own.
type tcpConn struct {
	side      [2]tcpSide
	again     tcpSYNAgain
	challenge uint32 // the acknowledgement by which a peer that knows another connection has answered the SYN
}

// tcpSYNAgain is another SYN of who opened: it may have lost its memory. It passes, since the peer answers it by what it
// knows, and the connection starts again only if the peer agrees (RFC 9293 3.5.1, RFC 5961 4).
type tcpSYNAgain struct {
	seq, end uint32
	window   uint16
	scale    uint8
	flags    uint8 // as of a side, sideSYN if there is one
}

func (c *tcpConn) state() FlowState {
	a, b := c.side[0].flags, c.side[1].flags
	switch {
	case (a|b)&sideRST != 0:
		return TCPClosed
	case b&sideSYN == 0:
		return TCPSynSent
	case a&b&sideOpen == 0:
		return TCPSynReceived
	case a&b&sideFINAcked != 0:
		return TCPTimeWait
	case a&b&sideFIN != 0:
		return TCPLastAck
	case (a|b)&sideFINAcked != 0:
		return TCPCloseWait
	case (a|b)&sideFIN != 0:
		return TCPFinWait
	}
	return TCPEstablished
}

// open starts a connection with the SYN of who opens it.
func (c *tcpConn) open(g *segment) {
	*c = tcpConn{}
	c.side[0].start(g)
}

func (x *tcpSide) start(g *segment) {
	*x = tcpSide{iss: g.seq, una: g.seq, end: g.end, edge: g.end, window: max(g.window, 1), scale: g.scale, flags: g.sideFlags()}
}

// sideFlags is what a SYN says of its side.
func (g *segment) sideFlags() uint8 {
	if g.scales {
		return sideSYN | sideScales
	}
	return sideSYN
}

// answer starts the other side with its SYN. A SYN's window is not scaled (RFC 7323 2.2).
func (c *tcpConn) answer(g *segment) {
	x, y := &c.side[1], &c.side[0]
	x.start(g)
	x.edge = x.end + y.window
	y.edge = y.end + x.window
}

// advance judges a segment of side s and notes what it says. quiet: it passes, but proves nothing, and must not keep the flow
// alive.
func (c *tcpConn) advance(s int, g *segment) (r Reason, quiet bool) {
	switch {
	case !g.possible():
		return TCPFlags, false
	case g.flags&tcpRST != 0:
		return c.reset(s, g)
	case g.opens():
		return c.syn(s, g)
	case g.flags&tcpSYN != 0:
		return c.synACK(s, g)
	}
	return c.plain(s, g)
}

func (c *tcpConn) syn(s int, g *segment) (r Reason, quiet bool) {
	x := &c.side[s]
	heard := c.side[1].flags&sideSYN != 0
	switch {
	case !heard && s == 0: // again, or with another number: nobody has answered yet, and asking keeps nothing alive
		c.open(g)
		return None, true
	case !heard: // simultaneous open (RFC 9293 3.5, figure 7)
		c.answer(g)
	case g.seq == x.iss:
		return None, true
	case s == 0:
		c.again = tcpSYNAgain{g.seq, g.end, uint16(g.window), g.scale, g.sideFlags()}
		return None, true
	default: // the other side would open a connection that the policy has not seen
		return TCPState, false
	}
	return None, false
}

func (c *tcpConn) synACK(s int, g *segment) (r Reason, quiet bool) {
	x, y := &c.side[s], &c.side[1-s]
	if (x.flags|y.flags)&sideRST != 0 {
		return TCPState, false
	}
	if s == 1 {
		if a := c.again; a.flags&sideSYN != 0 && g.ack == a.end {
			c.open(&segment{seq: a.seq, end: a.end, window: uint32(a.window), scale: a.scale, scales: a.flags&sideScales != 0})
		}
		// Until the opener has acknowledged a number of the other side, it may have been somebody else's.
		if x.flags&sideSYN == 0 || x.flags&sideOpen == 0 && g.seq != x.iss {
			if !within(g.ack, y.iss+1, y.end) {
				return TCPWindow, false
			}
			c.answer(g)
		}
	} else if y.flags&sideSYN == 0 {
		return TCPState, false
	}
	if g.seq != x.iss || !within(g.ack, y.iss+1, y.end) {
		return TCPWindow, false
	}
	quiet = y.flags&sideOpen != 0 // sent again
	c.note(x, y, g)
	return None, quiet
}

// plain judges what is neither SYN nor RST, and so acknowledges.
func (c *tcpConn) plain(s int, g *segment) (r Reason, quiet bool) {
	x, y := &c.side[s], &c.side[1-s]
	idle := !g.data && g.flags&tcpFIN == 0
	switch {
	case (x.flags|y.flags)&sideRST != 0:
		// Who was reset may answer that the reset is not exact (RFC 5961 3.2), and nothing else passes.
		if x.flags&sideRST != 0 || !idle || c.side[1].flags&sideSYN == 0 || !c.plausible(x, y, g) {
			return TCPState, false
		}
		return None, true
	case c.side[1].flags&sideSYN == 0:
		// The peer may know another connection, and says so; the opener then resets that (RFC 9293 3.5.1).
		if s == 0 || !idle {
			return TCPState, false
		}
		c.challenge = g.ack
		x.flags |= sideChallenged
		return None, true
	case !c.plausible(x, y, g):
		return TCPWindow, false
	}
	c.note(x, y, g)
	return None, false
}

// plausible is the window check: it starts within what the peer has allowed or behind a byte that probes the window, does not
// repeat what is long past, acknowledges what the peer has sent, and not what is long acknowledged (RFC 5961 5.2).
func (c *tcpConn) plausible(x, y *tcpSide, g *segment) bool {
	if y.flags&sideOpen == 0 && !after(g.ack, y.iss) {
		return false
	}
	return !after(g.seq, x.edge+1) && !before(g.end, x.end-max(y.window, windowSlack)) &&
		!after(g.ack, y.acked()) && !before(g.ack, y.una-max(x.window, windowSlack))
}

// note takes what a segment of x has shown.
func (c *tcpConn) note(x, y *tcpSide, g *segment) {
	c.heard(x, y, g)
	end := g.end
	if g.partial { // it may be as long as its window lets it
		end = g.seq + maxFragmentedTCP
		if after(end, x.edge) {
			end = x.edge
		}
		if before(end, g.end) {
			end = g.end
		}
	}
	if x.flags&sideFIN != 0 && after(g.end, x.fin) {
		x.flags &^= sideFIN | sideFINAcked // data behind it: it was no FIN of the sender's
	}
	if after(end, x.end) {
		x.end = end
	}
	if g.flags&tcpFIN != 0 {
		x.flags |= sideFIN
		x.fin = end
	}
	window := g.window
	if x.flags&y.flags&sideScales != 0 && g.flags&tcpSYN == 0 {
		window <<= x.scale
	}
	x.window = max(x.window, window)
	if after(g.ack+window, y.edge) {
		y.edge = g.ack + window
	}
	if after(g.ack, y.una) {
		y.una = g.ack
		y.flags |= sideOpen
	}
	if y.flags&sideFIN != 0 && !before(g.ack, y.fin) {
		y.flags |= sideFINAcked
	}
}

// reset judges a RST. Its receiver obeys only one with exactly the number that it expects (RFC 5961 3.2), which lies between
// what it has acknowledged and what the sender has sent: nothing else passes, not even within the window, since a receiver
// without RFC 5961 would obey it, and a peer that is gone resets exactly what it is sent next. Of those the table believes the
// two ends, and lets the receiver speak about the others.
func (c *tcpConn) reset(s int, g *segment) (r Reason, quiet bool) {
	x, y := &c.side[s], &c.side[1-s]
	switch {
	case c.side[1].flags&sideSYN == 0 && s == 1: // RFC 9293 3.10.7.3: only what acknowledges the SYN
		if g.flags&tcpACK == 0 || !within(g.ack, y.iss+1, y.end) {
			return TCPWindow, false
		}
	case c.side[1].flags&sideSYN == 0:
		if !within(g.seq, x.iss+1, x.end) {
			if y.flags&sideChallenged != 0 && g.seq == c.challenge { // of the peer's other connection; the SYN comes again
				return None, true
			}
			return TCPWindow, false
		}
	case s == 1 && c.again.flags&sideSYN != 0 && g.flags&tcpACK != 0 && g.ack == c.again.end: // refuses the other SYN
	case g.seq == x.una || g.seq == x.end:
	case within(g.seq, x.una, x.end):
		return None, true
	default:
		// A connection that is over has nothing to lose by a reset that answers an older segment.
		over := (x.flags|y.flags)&sideRST != 0 || x.flags&y.flags&sideFIN != 0
		if over && within(g.seq, x.end-max(y.window, windowSlack), x.edge) {
			return None, true
		}
		return TCPWindow, false
	}
	quiet = (x.flags|y.flags)&sideRST != 0
	x.flags |= sideRST
	return None, quiet
}

// sent tells whether a segment with that number may be on its way from side s (RFC 5927 4.1).
func (c *tcpConn) sent(s int, seq uint32) bool {
	x := &c.side[s]
	return x.flags&sideSYN != 0 && within(seq, x.una, x.end)
}
