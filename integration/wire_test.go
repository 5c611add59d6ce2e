package integration

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

// wire is a lab whose guests and upstream router are the test's: their kernels have no address and keep silent, so that
// every frame that they are sent is the router's doing.
type wire struct {
	t    *testing.T
	lab  *lab.Lab
	proc *lab.Proc
	net  cases.Net
	send map[cases.Place]*lab.FrameSender
	seen map[cases.Place]*lab.Sniffer
	at   map[cases.Place]int // how many frames of a sniffer have been looked at
}

// newWire makes one in the network of a file, with the router under test.
func newWire(t *testing.T, src string) *wire {
	w := silentWire(t, src)
	w.startRouter()
	return w
}

// silentWire makes one without a router.
func silentWire(t *testing.T, src string) *wire {
	l := buildLab(t, src, lab.Options{})
	w := &wire{t: t, lab: l, send: map[cases.Place]*lab.FrameSender{}, seen: map[cases.Place]*lab.Sniffer{}, at: map[cases.Place]int{}}
	for place, n := range map[cases.Place]*lab.Node{cases.One: l.Guests[0].Node, cases.Two: l.Guests[1].Node, cases.Uplink: l.Gateway} {
		for _, a := range n.Addrs {
			_ = n.DelAddr(n.Link, a) // not all are on this link
		}
		must(t, n.SetSysctl("net.ipv6.conf."+n.Link+".disable_ipv6", "1"))
		s, err := n.Sniff(n.Link, lab.SniffOptions{})
		must(t, err)
		w.seen[place] = s
		w.send[place], err = n.Sender(n.Link)
		must(t, err)
	}
	w.net = cases.Net{Eth0: l.Dom0.MAC, Gateway: l.Gateway.MAC}
	w.answer(cases.Uplink, l.Gateway, func(f []byte) []byte { return gatewayAnswer(f, w.net.Gateway) })
	return w
}

// startRouter runs the router under test, with one worker: what the rows expect has an order, and several workers keep only that of each flow.
func (w *wire) startRouter() {
	t, l := w.t, w.lab
	w.proc = startRouter(t, l, "--workers", "1")
	st := status(t, w.proc)
	var err error
	w.seen[cases.Dom0], err = l.Dom0.Sniff(l.Config.Host.Interface, lab.SniffOptions{})
	must(t, err)
	w.net.Router, err = policy.ParseMAC(st.RouterMAC)
	must(t, err)
	w.net.UplinkLL = netip.MustParseAddr(st.UplinkAddress)
	// A frame to the provider makes the router ask for both gateways; when it gets through they are known.
	for _, dst := range []netip.Addr{cases.X4, cases.X6} {
		w.fence(cases.One, dst)
	}
}

// answer answers what a node is asked, until the test ends, as its kernel would; reply makes the answer to a frame, nil for none.
func (w *wire) answer(at cases.Place, node *lab.Node, reply func(f []byte) []byte) {
	s, err := node.Sniff(node.Link, lab.SniffOptions{Keep: func(f []byte) bool { return reply(f) != nil }})
	must(w.t, err)
	done := make(chan struct{})
	ctx := w.t.Context()
	go func() {
		defer close(done)
		for n := 0; ; n++ {
			f, err := s.AwaitFrom(ctx, n, func(lab.Frame) bool { return true })
			if err != nil {
				return
			}
			_ = w.send[at].Send(reply(f.Data))
		}
	}()
	w.t.Cleanup(func() { s.Close(); <-done })
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
	return isQuestion(f) || announcement || p.IsIPv6() && p.Proto == policy.ProtoICMPv6 && (p.ICMPType == 143 || p.ICMPType == 133) ||
		p.IsND() && p.Src.IsUnspecified()
}

var fences uint16

// fenceID is the identifier of the fences' echo requests: their flows are nobody else's.
const fenceID = 0xfe0e

// fence sends something that certainly passes, and waits until it is seen: what was sent before has been dealt with then.
func (w *wire) fence(from cases.Place, dst netip.Addr) {
	w.t.Helper()
	fences++
	if from == cases.Uplink && dst.IsMulticast() { // an answer on the uplink itself: somebody's NUD, for one and two in turn, whose answers are limited
		asker := netip.MustParseAddr(fmt.Sprintf("fe80::abcd:%x", fences))
		target := []netip.Addr{cases.One6, cases.Two6}[fences*40503>>15]
		w.await(from, dst, from, cases.NS(w.net.Eth0, w.net.Gateway, asker, target, target, w.net.Gateway), func(b []byte) bool {
			var p policy.Packet
			return p.Parse(b, policy.Offload{}) == policy.None && p.IsND() && p.ICMPType == policy.NeighborAdvertisement && p.Dst == asker
		})
		return
	}
	to, src, router, mac := cases.Uplink, cases.X4, w.net.Router, cases.MAC1
	switch {
	case from == cases.Uplink:
		router, mac = w.net.Eth0, w.net.Gateway
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

func (w *wire) await(from cases.Place, dst netip.Addr, at cases.Place, f []byte, seen func([]byte) bool) {
	w.t.Helper()
	must(w.t, w.send[from].Send(f))
	ctx, cancel := context.WithTimeout(testContext(w.t), 10*time.Second)
	defer cancel()
	if _, err := w.seen[at].AwaitFrom(ctx, w.at[at], func(f lab.Frame) bool { return !f.Outgoing && seen(f.Data) }); err != nil {
		if w.proc == nil {
			w.t.Fatalf("the fence from %s to %s was not seen: %v", from, dst, err)
		}
		w.t.Fatalf("the fence from %s to %s was not seen: %v; status %+v", from, dst, err, status(w.t, w.proc))
	}
}

// passed waits until the router has taken what a place has sent; answers may still be on their way.
func (w *wire) passed(from cases.Place) {
	w.t.Helper()
	dst := cases.X4
	if from == cases.Uplink {
		dst = cases.Two4
	}
	w.fence(from, dst)
}

// settle waits until the router is done with what a place has sent, and sees that the other guest is served.
func (w *wire) settle(from cases.Place) {
	w.t.Helper()
	switch from {
	case cases.Uplink:
		w.fence(from, cases.AllNodes)
		w.fence(from, cases.One4)
		w.fence(from, cases.Two4)
	case cases.Two:
		w.fence(from, cases.One4)
		w.fence(from, cases.X4)
	default:
		w.fence(from, cases.Two4)
		w.fence(from, cases.X4)
		w.fence(cases.Two, cases.X4)
	}
}

// take is what a place has been sent since the last take, background and fences apart.
func (w *wire) take(at cases.Place) [][]byte {
	var out [][]byte
	if w.seen[at] == nil {
		return nil
	}
	frames := w.seen[at].FramesFrom(w.at[at])
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

var places = []cases.Place{cases.One, cases.Two, cases.Uplink, cases.Dom0}
