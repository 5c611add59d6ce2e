package policy

// ipv4Options walks the options of an IPv4 header (RFC 791 3.1).
func ipv4Options(b []byte) Reason {
	for len(b) > 0 {
		switch b[0] {
		case 0:
			return None
		case 1:
			b = b[1:]
			continue
		case 131, 137: // LSRR, SSRR: RFC 7126 4.3 and 4.4 advise to drop
			return SourceRoute
		}
		if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
			return Malformed
		}
		b = b[b[1]:]
	}
	return None
}

// ipv6Options walks the options of a header (RFC 8200 4.2), which begin at an offset of b, the datagram up to the header's end. It returns the
// offset of the first that a node must not skip when it does not know it, 0 for none, and badOptions for lengths that contradict the header and
// a second router alert (RFC 2711 2.1). This router knows none but padding; router alert and others may be skipped, jumbo payload (RFC 2675) may not.
func ipv6Options(b []byte, at int) int {
	const routerAlert = 5
	for alerts := 0; at < len(b); {
		switch {
		case b[at] == 0: // Pad1
			at++
			continue
		case len(b)-at < 2 || at+2+int(b[at+1]) > len(b):
			return badOptions
		case b[at]&0xc0 != 0:
			return at
		case b[at] == routerAlert:
			if alerts++; alerts > 1 {
				return badOptions
			}
		}
		at += 2 + int(b[at+1])
	}
	return 0
}

const badOptions = -1

// noteHeader notes what is wrong with an extension header, which ends with b, for those who have to look into it: every router into hop-by-hop
// options (RFC 9673 5.2), the packet's destination into the others.
func (p *Packet) noteHeader(header uint8, b []byte, at int) Reason {
	switch header {
	case ProtoHopByHop:
		if p.HopOption = ipv6Options(b, at+2); p.HopOption == badOptions {
			return Malformed
		}
	case ProtoDstOpts:
		if p.EndProblem == 0 {
			p.EndProblem = ipv6Options(b, at+2)
		}
	case ProtoRouting:
		p.RH0 = p.RH0 || b[at+2] == 0
		p.Routed = p.Routed || b[at+3] != 0
		if p.EndProblem == 0 && b[at+3] > 0 {
			p.EndProblem, p.EndRouting = at+2, true
		}
	}
	return None
}

// TellOption tells whether the sender is to be told of an option at an offset of the datagram (RFC 8200 4.2): its type says so. Nothing to a
// group gets so far, so that the difference between the two types that say so does not matter.
func (p *Packet) TellOption(at int) bool { return p.Frame[EthernetLen+at]&0x80 != 0 }
