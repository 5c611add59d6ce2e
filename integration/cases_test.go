package integration

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"testing"
	"time"

	"udrouter/config"
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

func newWire(t *testing.T) *wire {
	l := buildLab(t, cases.Open(config.Reference), lab.Options{})
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
	stop := w.beGateway()
	t.Cleanup(stop)
	w.proc = startRouter(t, l)
	st := status(t, w.proc)
	var err error
	w.net.Router, err = policy.ParseMAC(st.RouterMAC)
	must(t, err)
	w.net.UplinkLL = netip.MustParseAddr(st.UplinkAddress)
	// A frame to the provider makes the router ask for both gateways; when it gets through they are known.
	for _, dst := range []netip.Addr{cases.X4, cases.X6} {
		w.fence(cases.One, dst)
	}
	return w
}

// beGateway answers for the provider's gateways until it is stopped, as its kernel would.
func (w *wire) beGateway() (stop func()) {
	gw := w.lab.Gateway
	s, err := gw.Sniff(gw.Link, lab.SniffOptions{Keep: isQuestion})
	must(w.t, err)
	done := make(chan struct{})
	ctx := w.t.Context()
	go func() {
		defer close(done)
		for n := 0; ; {
			f, err := s.AwaitFrame(ctx, func(lab.Frame) bool { return len(s.Frames()) > n })
			_ = f
			if err != nil {
				return
			}
			for frames := s.Frames(); n < len(frames); n++ {
				if a := gatewayAnswer(frames[n].Data, w.net.Gateway); a != nil {
					_ = w.send[cases.Uplink].Send(a)
				}
			}
		}
	}()
	return func() { s.Close(); <-done }
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
		p.IsND() && p.ICMPType == policy.NeighborAdvertisement && p.Dst == cases.AllNodes && p.ND.Flags&policy.NASolicited == 0 && p.ND.Flags&policy.NARouter != 0 && p.ND.Target != cases.One6
	return isQuestion(f) || announcement || p.IsIPv6() && p.Proto == policy.ProtoICMPv6 && (p.ICMPType == 143 || p.ICMPType == 133) ||
		p.IsND() && p.Src.IsUnspecified()
}

var fences uint16

// fence sends something that certainly passes, and waits until it is seen: what was sent before has been dealt with then.
func (w *wire) fence(from cases.Place, dst netip.Addr) {
	w.t.Helper()
	fences++
	var f []byte
	see, seen := cases.Uplink, func(b []byte) bool {
		return len(b) > 60 && binary.BigEndian.Uint16(b[len(b)-2:]) == fences && bytes.Equal(b[len(b)-6:len(b)-2], []byte("end!"))
	}
	mark := func(b []byte) []byte {
		b = bytes.Clone(b)
		copy(b[len(b)-6:], "end!")
		binary.BigEndian.PutUint16(b[len(b)-2:], fences)
		return b
	}
	mac, src4, src6 := cases.MAC1, cases.One4, cases.One6
	if from == cases.Two {
		mac, src4, src6 = cases.MAC2, cases.Two4, cases.Two6
	}
	switch {
	case from == cases.Uplink && dst.IsMulticast(): // an answer on the uplink itself: somebody's NUD for guest two
		f = cases.NS(w.net.Eth0, w.net.Gateway, netip.MustParseAddr(fmt.Sprintf("fe80::abcd:%x", fences)), cases.Two6, cases.Two6, w.net.Gateway)
		seen = func(b []byte) bool {
			var p policy.Packet
			return p.Parse(b, policy.Offload{}) == policy.None && p.IsND() && p.ICMPType == policy.NeighborAdvertisement && p.Dst == netip.MustParseAddr(fmt.Sprintf("fe80::abcd:%x", fences))
		}
	case from == cases.Uplink:
		f, see = mark(cases.UDP(w.net.Eth0, w.net.Gateway, cases.X4, dst, 20)), cases.One
		if dst == cases.Two4 {
			see = cases.Two
		}
	case dst == cases.One4 || dst == cases.Two4:
		f, see = mark(cases.UDP(w.net.Router, mac, src4, dst, 20)), cases.One
		if dst == cases.Two4 {
			see = cases.Two
		}
	case dst.Is4():
		f = mark(cases.UDP(w.net.Router, mac, src4, dst, 20))
	default:
		f = mark(cases.UDP(w.net.Router, mac, src6, dst, 20))
	}
	must(w.t, w.send[from].Send(f))
	ctx, cancel := context.WithTimeout(testContext(w.t), 10*time.Second)
	defer cancel()
	if _, err := w.seen[see].AwaitFrame(ctx, func(f lab.Frame) bool { return !f.Outgoing && seen(f.Data) }); err != nil {
		w.t.Fatalf("the fence from %s to %s was not seen: %v; status %+v", from, dst, err, status(w.t, w.proc))
	}
}

// settle waits until the router is done with what a place has sent.
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
	}
}

// take is what a place has been sent since the last take, background and fences apart.
func (w *wire) take(at cases.Place) [][]byte {
	var out [][]byte
	frames := w.seen[at].Frames()
	for _, f := range frames[w.at[at]:] {
		if f.Outgoing || bytes.Contains(f.Data, []byte("end!")) || bytes.Contains(f.Data, []byte{0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xab, 0xcd}) {
			continue
		}
		if at == cases.Uplink && background(f.Data) {
			continue
		}
		out = append(out, f.Data)
	}
	w.at[at] = len(frames)
	return out
}

var places = []cases.Place{cases.One, cases.Two, cases.Uplink}

func (w *wire) run(t *testing.T, c cases.Case) {
	w.t = t
	for _, b := range c.Before {
		must(t, w.send[b.From].Send(b.Frame(w.net)))
		w.settle(b.From)
	}
	w.settle(c.From)
	before := status(t, w.proc).Drops
	for _, p := range places {
		w.take(p)
	}
	frame := c.Frame(w.net)
	must(t, w.send[c.From].Send(frame))
	w.settle(c.From)
	want := map[cases.Place][][]byte{}
	for _, o := range c.Out {
		want[o.At] = append(want[o.At], o.Frame(w.net))
	}
	for _, p := range places {
		got := w.take(p)
		if c.Kernel && p == c.From {
			if len(got) != 1 {
				t.Errorf("%s: dom0's kernel answers once, but %d answers came", c.Ref, len(got))
			}
			continue
		}
		for i := range max(len(got), len(want[p])) {
			switch {
			case i >= len(want[p]):
				t.Errorf("%s: at %s unexpected %x", c.Ref, p, got[i])
			case i >= len(got):
				t.Errorf("%s: at %s missing %x", c.Ref, p, want[p][i])
			case !bytes.Equal(anyID(got[i]), anyID(want[p][i])):
				t.Errorf("%s: at %s\n got %x\nwant %x", c.Ref, p, got[i], want[p][i])
			}
		}
	}
	wantDrops := map[string]uint64{}
	// A frame with another's source MAC dies in the bridge already, and the router has nothing to count.
	if mac := policy.MAC(frame[6:12]); c.Reason != policy.None && !c.Bridge && (c.From == cases.Uplink || mac == cases.MAC1 && c.From == cases.One || mac == cases.MAC2 && c.From == cases.Two) {
		wantDrops[c.Reason.String()] = 1
	}
	got := map[string]uint64{}
	for reason, n := range status(t, w.proc).Drops {
		if n -= before[reason]; n > 0 {
			got[reason] = n
		}
	}
	if !maps.Equal(got, wantDrops) {
		t.Errorf("%s: counted %v, want %v", c.Ref, got, wantDrops)
	}
}

// anyID takes out the identification that netstack gives an echo reply: it may be anything.
func anyID(f []byte) []byte {
	if len(f) < 35 || f[12] != 8 || f[13] != 0 || f[23] != policy.ProtoICMP || f[34] != 0 {
		return f
	}
	f = bytes.Clone(f)
	f[18], f[19], f[24], f[25] = 0, 0, 0, 0
	return f
}

// The rows that package router runs over simulated links, here over real ones, with dom0's kernel beside the router.
func TestCases(t *testing.T) {
	w := newWire(t)
	for _, c := range cases.All() {
		t.Run(c.Name, func(t *testing.T) { w.run(t, c) })
	}
	w.t = t
	if s := status(t, w.proc); s.ForeignMAC != 0 || s.Drops[policy.Internal.String()] != 0 {
		t.Errorf("foreign MACs %d, drops %v", s.ForeignMAC, s.Drops)
	}
}
