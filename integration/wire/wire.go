package wire

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"udrouter/integration/cases"
	"udrouter/integration/lab"
	"udrouter/policy"
)

// Wire is a lab whose guests and upstream router are the test's: their kernels have no address and keep silent, so that
// every frame that they are sent is the router's doing.
type Wire struct {
	T    *testing.T // the one whose failure it is what is not right now
	Lab  *lab.Lab
	Proc *lab.Proc // nil: none of ours routes
	Net  cases.Net
	Send map[cases.Place]*lab.FrameSender
	Seen map[cases.Place]*lab.Sniffer
	at   map[cases.Place]int // how many frames of a sniffer have been looked at
}

// New makes one in the network of a file, with the router under test.
func New(t *testing.T, src string) *Wire {
	w := Silent(t, src)
	w.StartRouter()
	return w
}

// Silent makes one without a router.
func Silent(t *testing.T, src string) *Wire {
	l := BuildLab(t, src, lab.Options{})
	w := &Wire{T: t, Lab: l, Send: map[cases.Place]*lab.FrameSender{}, Seen: map[cases.Place]*lab.Sniffer{}, at: map[cases.Place]int{}}
	for place, n := range map[cases.Place]*lab.Node{cases.One: l.Guests[0].Node, cases.Two: l.Guests[1].Node, cases.Uplink: l.Gateway} {
		for _, a := range n.Addrs {
			_ = n.DelAddr(n.Link, a) // not all are on this link
		}
		Must(t, n.SetSysctl("net.ipv6.conf."+n.Link+".disable_ipv6", "1"))
		s, err := n.Sniff(n.Link, lab.SniffOptions{})
		Must(t, err)
		w.Seen[place] = s
		w.Send[place], err = n.Sender(n.Link)
		Must(t, err)
	}
	w.Net = cases.Net{Eth0: l.Dom0.MAC, Gateway: l.Gateway.MAC}
	w.Answer(cases.Uplink, l.Gateway, func(f []byte) []byte { return gatewayAnswer(f, w.Net.Gateway) })
	return w
}

// StartRouter runs the router under test, with one worker: what the rows expect has an order, and several workers keep only that of each flow.
func (w *Wire) StartRouter(args ...string) {
	t, l := w.T, w.Lab
	w.Proc = StartRouter(t, l, append([]string{"--workers", "1"}, args...)...)
	st := Status(t, w.Proc)
	var err error
	w.Seen[cases.Dom0], err = l.Dom0.Sniff(l.Config.Host.Interface, lab.SniffOptions{})
	Must(t, err)
	w.Net.Router, err = policy.ParseMAC(st.RouterMAC)
	Must(t, err)
	w.Net.UplinkLL = netip.MustParseAddr(st.UplinkAddress)
	// A frame to the provider makes the router ask for both gateways; when it gets through they are known.
	for _, dst := range []netip.Addr{cases.X4, cases.X6} {
		w.Fence(cases.One, dst)
	}
}

// Answer answers what a node is asked, until the test ends, as its kernel would; reply makes the answer to a frame, nil for none.
func (w *Wire) Answer(at cases.Place, node *lab.Node, reply func(f []byte) []byte) {
	s, err := node.Sniff(node.Link, lab.SniffOptions{Keep: func(f []byte) bool { return reply(f) != nil }})
	Must(w.T, err)
	done := make(chan struct{})
	ctx := w.T.Context()
	go func() {
		defer close(done)
		for n := 0; ; n++ {
			f, err := s.AwaitFrom(ctx, n, func(lab.Frame) bool { return true })
			if err != nil {
				return
			}
			_ = w.Send[at].Send(reply(f.Data))
		}
	}()
	w.T.Cleanup(func() { s.Close(); <-done })
}

// isQuestion tells ARP requests for gateway4 and NS for gateway6, whoever in dom0 asks.
func isQuestion(f []byte) bool { return gatewayAnswer(f, policy.MAC{}) != nil }

func gatewayAnswer(f []byte, mac policy.MAC) []byte {
	var p policy.Packet
	if p.Parse(f, policy.Offload{}) != policy.None {
		return nil
	}
	switch {
	case p.EtherType == policy.EtherARP && p.ARP.Op == 1 && p.ARP.TPA == cases.Gateway4:
		return cases.ARP(p.SrcMAC, mac, 2, mac, p.ARP.TPA, p.ARP.SHA, p.ARP.SPA)
	case p.IsND() && p.ICMPType == policy.NeighborSolicitation && p.ND.Target == cases.Gateway6 && !p.Src.IsUnspecified():
		return cases.NA(p.SrcMAC, mac, cases.Gateway6, p.Src, cases.Gateway6, mac, policy.NARouter|policy.NASolicited|policy.NAOverride)
	}
	return nil
}

// background tells frames that dom0's kernel and the router send on the uplink by themselves.
func background(f []byte) bool {
	var p policy.Packet
	if p.Parse(f, policy.Offload{}) != policy.None {
		return false
	}
	announcement := p.EtherType == policy.EtherARP && p.ARP.SPA == p.ARP.TPA && p.SrcMAC == p.ARP.SHA && p.DstMAC.IsGroup() ||
		p.IsND() && p.ICMPType == policy.NeighborAdvertisement && p.Dst == cases.AllNodes && p.ND.Flags&policy.NASolicited == 0 && p.ND.Flags&policy.NARouter != 0 && (p.ND.Flags&policy.NAOverride != 0 || p.ND.Target != cases.One6)
	return isQuestion(f) || announcement || p.IsIPv6() && p.Proto == policy.ProtoICMPv6 && (p.ICMPType == 143 || p.ICMPType == 131 || p.ICMPType == 133) ||
		p.IsND() && p.Src.IsUnspecified()
}

var fences uint16

// fenceID is the identifier of the fences' echo requests: their flows are nobody else's.
const fenceID = 0xfe0e

// Fence sends something that certainly passes, and waits until it is seen: what was sent before has been dealt with then.
func (w *Wire) Fence(from cases.Place, dst netip.Addr) {
	w.T.Helper()
	fences++
	if from == cases.Uplink && dst.IsMulticast() { // an answer on the uplink itself: somebody's NUD, for one and two in turn, whose answers are limited
		asker := netip.MustParseAddr(fmt.Sprintf("fe80::abcd:%x", fences))
		target := []netip.Addr{cases.One6, cases.Two6}[fences*40503>>15]
		w.await(from, dst, from, cases.NS(w.Net.Eth0, w.Net.Gateway, asker, target, target, w.Net.Gateway), func(b []byte) bool {
			var p policy.Packet
			return p.Parse(b, policy.Offload{}) == policy.None && p.IsND() && p.ICMPType == policy.NeighborAdvertisement && p.Dst == asker
		})
		return
	}
	to, src, router, mac := cases.Uplink, cases.X4, w.Net.Router, cases.MAC1
	switch {
	case from == cases.Uplink:
		router, mac = w.Net.Eth0, w.Net.Gateway
	case from == cases.Two:
		src, mac = cases.Two4, cases.MAC2
	case dst.Is6():
		src = cases.One6
	default:
		src = cases.One4
	}
	switch dst {
	case cases.One4:
		to = cases.One
	case cases.Two4:
		to = cases.Two
	}
	f := cases.Echo(router, mac, src, dst, false, 20)
	id := f[policy.EthernetLen+policy.IPv4Len+4:]
	if dst.Is6() {
		id = f[policy.EthernetLen+policy.IPv6Len+4:]
	}
	binary.BigEndian.PutUint16(id, fenceID)
	mark := binary.BigEndian.AppendUint16([]byte("end!"), fences) // the checksum does not matter to a router
	copy(f[len(f)-len(mark):], mark)
	w.await(from, dst, to, f, func(b []byte) bool { return bytes.HasSuffix(b, mark) })
}

func (w *Wire) await(from cases.Place, dst netip.Addr, at cases.Place, f []byte, seen func([]byte) bool) {
	w.T.Helper()
	Must(w.T, w.Send[from].Send(f))
	ctx, cancel := context.WithTimeout(Context(w.T), 10*time.Second)
	defer cancel()
	if _, err := w.Seen[at].AwaitFrom(ctx, w.at[at], func(f lab.Frame) bool { return !f.Outgoing && seen(f.Data) }); err != nil {
		if w.Proc == nil {
			w.T.Fatalf("the fence from %s to %s was not seen: %v", from, dst, err)
		}
		w.T.Fatalf("the fence from %s to %s was not seen: %v; status %+v", from, dst, err, Status(w.T, w.Proc))
	}
}

// Passed waits until the router has taken what a place has sent; answers may still be on their way.
func (w *Wire) Passed(from cases.Place) {
	w.T.Helper()
	dst := cases.X4
	if from == cases.Uplink {
		dst = cases.Two4
	}
	w.Fence(from, dst)
}

// Settle waits until the router is done with what a place has sent, and sees that the other guest is served.
func (w *Wire) Settle(from cases.Place) {
	w.T.Helper()
	switch from {
	case cases.Uplink:
		w.Fence(from, cases.AllNodes)
		w.Fence(from, cases.One4)
		w.Fence(from, cases.Two4)
	case cases.Two:
		w.Fence(from, cases.One4)
		w.Fence(from, cases.X4)
	default:
		w.Fence(from, cases.Two4)
		w.Fence(from, cases.X4)
		w.Fence(cases.Two, cases.X4)
	}
}

// Take is what a place has been sent since the last take, background and fences apart.
func (w *Wire) Take(at cases.Place) [][]byte {
	var out [][]byte
	if w.Seen[at] == nil {
		return nil
	}
	frames := w.Seen[at].FramesFrom(w.at[at])
	w.at[at] += len(frames)
	for _, f := range frames {
		if f.Outgoing || bytes.Contains(f.Data, []byte("end!")) || bytes.Contains(f.Data, []byte{0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xab, 0xcd}) {
			continue
		}
		if at == cases.Uplink && background(f.Data) {
			continue
		}
		if at == cases.Dom0 { // a TUN has no Ethernet header
			f.Data = append(make([]byte, policy.EthernetLen), f.Data...)
			binary.BigEndian.PutUint16(f.Data[12:], map[byte]uint16{4: policy.EtherIPv4, 6: policy.EtherIPv6}[f.Data[14]>>4])
		}
		out = append(out, f.Data)
	}
	return out
}

// Places are those where frames are seen.
var Places = []cases.Place{cases.One, cases.Two, cases.Uplink, cases.Dom0}
