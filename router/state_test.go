package router

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/policy"
	"udrouter/stack"
)

// What time does to flows, on a packet's whole way and in both families (attack 71; RFC 4787 4.3, RFC 5382 5, RFC 6146 3.5.2.2, RFC 7857 2.2): what has
// gone quiet for too long is nobody's any more, and what is only half closed lives.
func TestStateTimes(t *testing.T) {
	const udp, echo, tcp = "udp", "echo", "tcp"
	type step struct {
		wait       time.Duration
		back       bool
		flags      uint8
		seq, acked uint32
		n          int
		want       policy.Reason
	}
	opened := []step{{flags: syn, seq: 999}, {back: true, flags: syn | ack, seq: 1999, acked: 1000}, {flags: ack, seq: 1000, acked: 2000}}
	after := func(steps ...step) []step { return append(opened[:3:3], steps...) }
	data := func(wait time.Duration, want policy.Reason) step {
		return step{wait: wait, back: true, flags: ack, seq: 2000, acked: 1000, n: 10, want: want}
	}
	for _, c := range []struct {
		name, kind string
		steps      []step
	}{
		{"an answer in time", udp, []step{{}, {wait: 29 * time.Second, back: true}}},
		{"an answer that is late", udp, []step{{}, {wait: 30 * time.Second, back: true, want: policy.IngressPolicy}}},
		{"talk with pauses", udp, []step{{}, {back: true}, {wait: 299 * time.Second, back: true}, {wait: 299 * time.Second}, {wait: 299 * time.Second, back: true}}},
		{"talk that has ended", udp, []step{{}, {back: true}, {wait: 5 * time.Minute, back: true, want: policy.IngressPolicy}}},
		{"asked again", udp, []step{{}, {wait: 29 * time.Second}, {wait: 29 * time.Second, back: true}}},
		{"an echo in time", echo, []step{{}, {wait: 29 * time.Second, back: true}}},
		{"an echo that is late", echo, []step{{}, {wait: 30 * time.Second, back: true, want: policy.NoFlow}}},
		{"idle for two hours", tcp, after(data(2*time.Hour+3*time.Minute, policy.None))},
		{"idle for longer", tcp, after(data(2*time.Hour+4*time.Minute, policy.IngressPolicy))},
		{"half open", tcp, []step{opened[0], opened[1], {wait: 4 * time.Minute, flags: ack, seq: 1000, acked: 2000, want: policy.NoFlow}}},
		{"a SYN that is answered late", tcp, []step{opened[0], {wait: 4 * time.Minute, back: true, flags: syn | ack, seq: 1999, acked: 1000, want: policy.IngressPolicy}}},
		{"half closed for an hour", tcp, after(step{flags: fin | ack, seq: 1000, acked: 2000}, step{back: true, flags: ack, seq: 2000, acked: 1001},
			step{wait: time.Hour, back: true, flags: ack, seq: 2000, acked: 1001, n: 1000}, step{wait: 2 * time.Hour, flags: ack, seq: 1001, acked: 3000}, step{back: true, flags: fin | ack, seq: 3000, acked: 1001})},
		{"closed, and four minutes later", tcp, after(step{flags: fin | ack, seq: 1000, acked: 2000}, step{back: true, flags: fin | ack, seq: 2000, acked: 1001},
			step{flags: ack, seq: 1001, acked: 2001}, step{wait: 4 * time.Minute, back: true, flags: fin | ack, seq: 2000, acked: 1001, want: policy.IngressPolicy})},
		{"reset, and what the guest says to it", tcp, after(step{back: true, flags: rst, seq: 2000}, step{wait: 3 * time.Minute, flags: ack, seq: 1000, acked: 2000},
			step{wait: time.Minute, flags: ack, seq: 1000, acked: 2000, want: policy.NoFlow})},
	} {
		for _, v6 := range []bool{false, true} {
			t.Run(c.name+map[bool]string{false: ", IPv4", true: ", IPv6"}[v6], func(t *testing.T) {
				w := newFloodWorld(t, string(config.Reference), v6)
				for i, s := range c.steps {
					w.clock.Advance(s.wait)
					from, to, m, src, dst := stack.Guests, stack.UplinkSide, w.guest(cases.MAC1), w.one, w.x
					port, toPort := uint16(40000), uint16(8443)
					if s.back {
						from, to, m, src, dst, port, toPort = to, from, w.provider(), dst, src, toPort, port
					}
					frame := timed(c.kind, m, netip.AddrPortFrom(src, port), netip.AddrPortFrom(dst, toPort), s.back, s.flags, s.seq, s.acked, s.n)
					before := w.counts()[s.want]
					w.links[to].Take()
					w.send(from, frame)
					if n := len(w.links[to].Take()); (n == 1) != (s.want == policy.None) || s.want != policy.None && w.counts()[s.want] != before+1 {
						t.Fatalf("step %d: %d frames passed, counted %v, want %v", i, n, w.counts(), s.want)
					}
				}
				// What is over is forgotten, and takes no room.
				w.clock.Advance(3 * time.Hour)
				w.sweep()
				if n := w.current.Load().engine.Flows(w.current.Load().Guests[0]).Len(); n != 0 {
					t.Errorf("%d flows are left", n)
				}
			})
		}
	}
}

func timed(kind string, m [2]policy.MAC, src, dst netip.AddrPort, back bool, flags uint8, seq, acked uint32, n int) []byte {
	switch kind {
	case "udp":
		f := cases.UDP(m[0], m[1], src.Addr(), dst.Addr(), 8)
		at := policy.EthernetLen + policy.IPv6Len
		if src.Addr().Is4() {
			at = policy.EthernetLen + policy.IPv4Len
		}
		f[at], f[at+1], f[at+2], f[at+3] = byte(src.Port()>>8), byte(src.Port()), byte(dst.Port()>>8), byte(dst.Port())
		return f
	case "echo":
		return cases.Echo(m[0], m[1], src.Addr(), dst.Addr(), back, 8)
	}
	return cases.TCP(m[0], m[1], src, dst, flags, seq, acked, n)
}

// rejecting is the reference with rules that refuse out loud, everywhere.
var rejecting = strings.NewReplacer(
	"default = \"accept\"\n", "default = \"reject\"\n",
	"default = \"drop\"\n", "default = \"reject\"\n",
).Replace(string(config.Reference))

// told is the answer to a frame that a rule has refused: a reset as of a closed port (RFC 9293 3.10.7.1), or communication administratively
// prohibited (RFC 1812 5.2.7.1, RFC 4443 3.1) from the gateway of the guests' network.
func told(dst, src policy.MAC, about []byte) []byte {
	p := gopacket.NewPacket(about, layers.LayerTypeEthernet, gopacket.Default)
	v4, _ := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	v6, _ := p.Layer(layers.LayerTypeIPv6).(*layers.IPv6)
	quote := about[policy.EthernetLen:]
	t, isTCP := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
	var parts []gopacket.SerializableLayer
	e := &layers.Ethernet{DstMAC: dst[:], SrcMAC: src[:], EthernetType: layers.EthernetTypeIPv4}
	var network gopacket.NetworkLayer
	switch {
	case v4 != nil && isTCP:
		h := &layers.IPv4{Version: 4, TTL: 64, Flags: layers.IPv4DontFragment, Protocol: layers.IPProtocolTCP, SrcIP: v4.DstIP, DstIP: v4.SrcIP}
		parts, network = append(parts, e, h), h
	case v4 != nil:
		h := &layers.IPv4{Version: 4, TOS: 0xc0, TTL: 64, Protocol: layers.IPProtocolICMPv4, SrcIP: cases.Router4.AsSlice(), DstIP: v4.SrcIP}
		parts = append(parts, e, h, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 13)}, gopacket.Payload(quote[:min(len(quote), 548)]))
	case isTCP:
		h := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolTCP, SrcIP: v6.DstIP, DstIP: v6.SrcIP}
		parts, network = append(parts, e, h), h
	default:
		h := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolICMPv6, SrcIP: cases.Router6.AsSlice(), DstIP: v6.SrcIP}
		i := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(1, 1)}
		_ = i.SetNetworkLayerForChecksum(h)
		parts = append(parts, e, h, i, gopacket.Payload(make([]byte, 4)), gopacket.Payload(quote[:min(len(quote), 1232)]))
	}
	if v4 == nil {
		e.EthernetType = layers.EthernetTypeIPv6
	}
	if isTCP {
		answer := &layers.TCP{SrcPort: t.DstPort, DstPort: t.SrcPort, RST: true, ACK: !t.ACK}
		if t.ACK {
			answer.Seq = t.Ack
		} else {
			answer.Ack = t.Seq + uint32(len(t.Payload))
			if t.SYN {
				answer.Ack++
			}
			if t.FIN {
				answer.Ack++
			}
		}
		_ = answer.SetNetworkLayerForChecksum(network)
		parts = append(parts, answer)
	}
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, parts[1:]...); err != nil {
		panic(err)
	}
	return append(append(append(dst[:len(dst):len(dst)], src[:]...), byte(e.EthernetType>>8), byte(e.EthernetType)), b.Bytes()...)
}

// Every rule that rejects tells who sent, and nobody else, in every direction, byte for byte. Nothing is said to a reset, an echo reply, a later
// fragment or a frame to everyone (attack 71; RFC 1122 3.2.2, RFC 1812 4.3.2.7, RFC 4443 2.4(e)).
func TestReject(t *testing.T) {
	type way struct {
		name          string
		from          stack.Side
		dst, src      func(s *sim) policy.MAC // of the frame
		src4, src6    netip.Addr
		dst4, dst6    netip.Addr
		reason        policy.Reason
		answerDst     policy.MAC
		answerSrc     func(s *sim) policy.MAC
		echoIsRouters bool
	}
	router := func(s *sim) policy.MAC { return s.RouterMAC }
	fixed := func(m policy.MAC) func(*sim) policy.MAC { return func(*sim) policy.MAC { return m } }
	none := fixed(policy.MAC{})
	ways := []way{
		{"a guest to the internet", stack.Guests, router, fixed(cases.MAC1), cases.One4, cases.One6, cases.X4, cases.X6, policy.EgressPolicy, cases.MAC1, router, false},
		{"a guest to a neighbour", stack.Guests, router, fixed(cases.MAC1), cases.One4, cases.One6, cases.Two4, cases.Two6, policy.EgressPolicy, cases.MAC1, router, false},
		{"a guest to dom0", stack.Guests, router, fixed(cases.MAC1), cases.One4, cases.One6, cases.Dom04, cases.Router6, policy.EgressPolicy, cases.MAC1, router, true},
		{"the internet to a guest", stack.UplinkSide, fixed(eth0MAC), fixed(gatewayMAC), cases.X4, cases.X6, cases.One4, cases.One6, policy.IngressPolicy, gatewayMAC, fixed(eth0MAC), false},
		{"dom0 to a guest", stack.Host, none, none, cases.Dom04, cases.Router6, cases.One4, cases.One6, policy.IngressPolicy, policy.MAC{}, none, false},
	}
	for _, c := range ways {
		for _, v6 := range []bool{false, true} {
			t.Run(c.name+map[bool]string{false: ", IPv4", true: ", IPv6"}[v6], func(t *testing.T) {
				s := newSim(t, parseConfig(t, rejecting), seedKernel())
				s.learn()
				s.newWorker(stack.Guests).appearedAll()
				a, b, dst, src := c.src4, c.dst4, c.dst(s), c.src(s)
				if v6 {
					a, b = c.src6, c.dst6
				}
				at := netip.AddrPortFrom
				tcp := func(flags uint8, seq, acked uint32, n int) []byte {
					return cases.TCP(dst, src, at(a, 40000), at(b, 5000), flags, seq, acked, n)
				}
				ask := func(what string, f []byte, tell bool) {
					t.Helper()
					for _, l := range s.links {
						l.Take()
					}
					counted := s.counts()[c.reason]
					s.send(c.from, f)
					var got [][]byte
					for side, l := range s.links {
						for _, o := range l.Take() {
							if side != c.from {
								t.Errorf("%s: %s", what, describe(o.Frame))
							}
							got = append(got, o.Frame)
						}
					}
					want := told(c.answerDst, c.answerSrc(s), f)
					if tell && (len(got) != 1 || !bytes.Equal(got[0], want)) || !tell && len(got) != 0 {
						t.Errorf("%s: told %x\nwant %v %x; %v", what, got, tell, want, s.counts())
					}
					if tell && s.counts()[c.reason] != counted+1 {
						t.Errorf("%s: counted %v", what, s.counts())
					}
				}
				ask("a SYN", tcp(syn, 77, 0, 0), true)
				ask("a SYN with data", tcp(syn, 77, 0, 5), true)
				ask("an acknowledgement", tcp(ack, 77, 99, 10), true)
				ask("a SYN that acknowledges", tcp(syn|ack, 77, 1<<31, 0), true)
				ask("no flags", tcp(0, 1<<32-1, 0, 3), true)
				ask("a FIN", tcp(fin, 77, 0, 0), true)
				ask("FIN, PSH, URG", tcp(fin|8|32, 77, 0, 0), true)
				ask("a reset", tcp(rst, 77, 0, 0), false)
				ask("a reset that acknowledges", tcp(rst|ack, 77, 99, 0), false)
				ask("UDP", cases.UDP(dst, src, a, b, 8), true)
				ask("UDP, long", cases.UDP(dst, src, a, b, 1400), true)
				if !v6 {
					ask("a first fragment", cases.UDP(dst, src, a, b, 64, func(l gopacket.SerializableLayer) { l.(*layers.IPv4).Flags = layers.IPv4MoreFragments }), true)
					ask("a later fragment", cases.UDP(dst, src, a, b, 64, func(l gopacket.SerializableLayer) { l.(*layers.IPv4).FragOffset = 9 }), false)
				}
				if !c.echoIsRouters || !v6 { // at an address that is shared the router answers
					ask("an echo reply", cases.Echo(dst, src, a, b, true, 8), false)
				}
				if c.from != stack.Host { // whose frames have no MAC
					f := tcp(syn, 77, 0, 0)
					copy(f, policy.BroadcastMAC[:])
					ask("a SYN to everyone's MAC", f, false)
				}
			})
		}
	}
}
