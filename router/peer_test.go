package router

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"udrouter/integration/cases"
	"udrouter/integration/lab"
	"udrouter/policy"
	"udrouter/stack"
	"udrouter/stack/stacktest"
)

// kernelPeer is a kernel that routes the same network in namespaces, without a policy and with its neighbours told. Guests and the provider's router are the
// test's, and silent.
type kernelPeer struct {
	tb    testing.TB
	lab   *lab.Lab
	net   cases.Net
	nodes map[cases.Place]*lab.Node
	send  map[cases.Place]*lab.FrameSender
	seen  map[cases.Place]*lab.Sniffer
	at    map[cases.Place]int
	fence uint32
}

func newKernelPeer(tb testing.TB) *kernelPeer {
	ok := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	src := meeting(seedFile)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	l, err := lab.Build(ctx, parseConfig(tb, src), lab.Options{Source: []byte(src)})
	ok(err)
	tb.Cleanup(func() { ok(l.Close()) })
	ok(l.KernelRouter(lab.KernelOptions{}))
	ok(l.Dom0.SetSysctl("net.ipv4.icmp_ratemask", "0"))
	k := &kernelPeer{tb: tb, lab: l, nodes: map[cases.Place]*lab.Node{cases.One: l.Guests[0].Node, cases.Two: l.Guests[1].Node, cases.Uplink: l.Gateway},
		send: map[cases.Place]*lab.FrameSender{}, seen: map[cases.Place]*lab.Sniffer{}, at: map[cases.Place]int{}}
	for place, n := range k.nodes {
		for _, a := range n.Addrs {
			_ = n.DelAddr(n.Link, a) // not all are on this link
		}
		ok(n.SetSysctl("net.ipv6.conf."+n.Link+".disable_ipv6", "1"))
		k.send[place], err = n.Sender(n.Link)
		ok(err)
		k.seen[place], err = n.Sniff(n.Link, lab.SniffOptions{})
		ok(err)
	}
	bridge := l.Config.Bridge.Name
	k.net = cases.Net{Eth0: l.Dom0.MAC, Gateway: l.Gateway.MAC, UplinkLL: policy.EUI64(l.Dom0.MAC)}
	k.net.Router, err = l.Dom0.LinkMAC(bridge)
	ok(err)
	ok(l.Dom0.AddAddr(bridge, netip.PrefixFrom(linkLocal1, 64))) // as the router has it
	h, err := l.Dom0.Handle()
	ok(err)
	for _, g := range l.Guests { // whoever sends with whatever MAC, the bridge does not believe it
		vif, err := h.LinkByName(g.Domu.Vif)
		ok(err)
		ok(h.LinkSetLearning(vif, false))
		for _, a := range append([]netip.Addr{policy.EUI64(g.MAC)}, g.Addr4(), g.Addr6()) {
			ok(l.Dom0.AddNeighbour(bridge, a, g.MAC))
		}
	}
	for _, a := range []netip.Addr{cases.Gateway4, cases.Gateway6, netip.MustParseAddr("fe80::99")} {
		ok(l.Dom0.AddNeighbour(l.Dom0.Link, a, l.Gateway.MAC))
	}
	return k
}

// verdict is what the kernel makes of a frame, and the packets that go on.
func (k *kernelPeer) verdict(from cases.Place, frame []byte) (verdict string, passed [][]byte) {
	k.tb.Helper()
	k.awaitFences()
	for place, s := range k.seen {
		k.at[place] += len(s.FramesFrom(k.at[place]))
	}
	if err := k.send[from].Send(frame); err != nil {
		return "not sent", nil
	}
	k.awaitFences()
	var all []string
	for place, s := range k.seen {
		for _, f := range s.FramesFrom(k.at[place]) {
			if f.Outgoing {
				continue
			}
			c := class(place, f.Data, frame, k.nodes[place].MAC, k.net)
			all, passed = append(all, c), append(passed, goesOn(c, f.Data)...)
		}
	}
	return joined(all), passed
}

// goesOn is the packet of a frame of a class, where that goes on.
func goesOn(class string, f []byte) [][]byte {
	if !strings.HasPrefix(class, "to ") {
		return nil
	}
	return [][]byte{f[policy.EthernetLen:]}
}

// awaitFences sees to it that what was sent before has been dealt with: an echo request from everywhere to everywhere has come.
func (k *kernelPeer) awaitFences() {
	k.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, w := range []struct {
		from, to cases.Place
		dst, src policy.MAC
		a, b     netip.Addr
	}{
		{cases.One, cases.Uplink, k.net.Router, cases.MAC1, cases.One4, cases.X4}, {cases.Two, cases.One, k.net.Router, cases.MAC2, cases.Two4, cases.One4},
		{cases.One, cases.Two, k.net.Router, cases.MAC1, cases.One4, cases.Two4}, {cases.Uplink, cases.One, k.net.Eth0, k.net.Gateway, cases.X4, cases.One4},
	} {
		k.fence++
		mark := binary.BigEndian.AppendUint32([]byte("fence"), k.fence)
		f := append(cases.Echo(w.dst, w.src, w.a, w.b, false, 20)[:policy.EthernetLen+policy.IPv4Len+8+11], mark...)
		at := k.at[w.to]
		if err := k.send[w.from].Send(f); err != nil {
			k.tb.Fatal(err)
		}
		if _, err := k.seen[w.to].AwaitFrom(ctx, at, func(f lab.Frame) bool { return !f.Outgoing && bytes.HasSuffix(f.Data, mark) }); err != nil {
			k.tb.Fatalf("the fence from %s to %s: %v", w.from, w.to, err)
		}
	}
}

// ours is what the router makes of a frame, the packets that go on, and why where it drops it.
func ours(s *sim, from cases.Place, frame []byte) (verdict string, passed [][]byte, reasons map[policy.Reason]uint64) {
	s.send(side(from), frame)
	s.settle()
	var all []string
	sent := map[stack.Side][]stacktest.Sent{stack.Guests: s.links[stack.Guests].Take(), stack.UplinkSide: s.links[stack.UplinkSide].Take()}
	for place, mac := range map[cases.Place]policy.MAC{cases.One: cases.MAC1, cases.Two: cases.MAC2, cases.Uplink: gatewayMAC} {
		for _, f := range sent[side(place)] {
			c := class(place, f.Frame, frame, mac, s.net)
			all, passed = append(all, c), append(passed, goesOn(c, f.Frame)...)
		}
	}
	if len(s.links[stack.Host].Take()) > 0 {
		all = append(all, "to dom0")
	}
	return joined(all), passed, s.counts()
}

// class is what a frame that is seen at a place says of what became of another; "" is nothing.
func class(at cases.Place, f, sent []byte, own policy.MAC, n cases.Net) string {
	if len(f) < policy.EthernetLen+20 || f[0]&1 == 0 && policy.MAC(f[:6]) != own || policy.MAC(f[6:12]) != n.Router && policy.MAC(f[6:12]) != n.Eth0 || bytes.Contains(f, []byte("fence")) {
		return ""
	}
	ip, was := f[policy.EthernetLen:], sent[min(policy.EthernetLen, len(sent)):]
	switch typ := binary.BigEndian.Uint16(f[12:]); {
	case typ == policy.EtherARP && ip[7] == 2:
		return "ARP answer"
	case typ == policy.EtherIPv4:
		if len(was) >= 20 && bytes.Equal(ip[12:20], was[12:20]) && bytes.Equal(ip[4:6], was[4:6]) {
			return "to " + string(at)
		}
		if header := int(ip[0]&15) * 4; ip[9] == policy.ProtoICMP && len(ip) > header+1 {
			return icmpClass(ip[header], ip[header+1], 0)
		}
	case typ == policy.EtherIPv6 && len(ip) >= 40:
		if len(was) >= 40 && bytes.Equal(ip[8:40], was[8:40]) {
			return "to " + string(at)
		}
		if ip[6] == policy.ProtoICMPv6 && len(ip) > 41 {
			switch t := ip[40]; {
			case t == 136:
				return "advertisement"
			case t < 130:
				return icmpClass(t, ip[41], 6)
			case t == 137:
				return "redirect"
			}
		}
	}
	return ""
}

func icmpClass(typ, code byte, v int) string {
	switch {
	case v == 0 && typ == 0, v == 6 && typ == 129:
		return "echo reply"
	case v == 0 && typ == 5:
		return "redirect"
	}
	return fmt.Sprintf("error %d/%d", typ, code)
}

func joined(all []string) string {
	all = slices.DeleteFunc(all, func(s string) bool { return s == "" })
	slices.Sort(all)
	if all = slices.Compact(all); len(all) == 0 {
		return "nothing"
	}
	return strings.Join(all, ", ")
}

// differences are those between the router and a kernel that routes without a policy which are meant. The first row counts that is of what the router has
// counted, and matches.
var differences = []struct {
	reasons      []policy.Reason // one of them; none: whichever, also none
	ours, kernel string          // regular expressions
	why          string
}{
	{[]policy.Reason{policy.Malformed, policy.Checksum, policy.VLAN, policy.EtherType, policy.HeaderChain, policy.TinyFragment, policy.OversizeFrag, policy.ARPMalformed}, "nothing|error .*", ".*",
		"what contradicts itself goes no further; the kernel looks at the IP header alone"},
	{[]policy.Reason{policy.RoutingHeader, policy.IPv6Option, policy.SourceRoute}, "nothing|error .*", ".*", "options and headers that let a sender choose the way, or that want their packet dropped"},
	{[]policy.Reason{policy.NDHopLimit, policy.NDMalformed, policy.NDFragment, policy.RAGuard, policy.Redirect, policy.ICMPType, policy.DHCPGuard}, "nothing|error .*", ".*", "neighbours, routers and DHCP servers do not speak through a router"},
	{[]policy.Reason{policy.MACInvalid, policy.MACBinding, policy.L2Multicast, policy.OtherHost, policy.IPBinding, policy.IP6Binding, policy.ARPSpoof, policy.NDSpoof, policy.SpoofUplink}, "nothing|error .*", ".*",
		"nobody sends with what is not his own; the kernel binds nothing"},
	{[]policy.Reason{policy.MartianSrc, policy.MartianDst, policy.LinkLocal, policy.Multicast, policy.Broadcast, policy.Loop}, "nothing|error .*", ".*", "addresses that are never forwarded, and about which no error is sent"},
	{[]policy.Reason{policy.TCPFlags, policy.TCPState, policy.TCPWindow, policy.NoFlow, policy.FlowSide, policy.Unrelated, policy.FragmentOverlap, policy.FragmentOrphan, policy.FragmentLimit}, "nothing|error .*", ".*",
		"the router has state; the kernel without conntrack has none"},
	{[]policy.Reason{policy.UnboundDst}, "nothing|error .*", ".*", "an address that nobody is bound to is not asked for"},
	{[]policy.Reason{policy.KernelHeld, policy.RouterLocal, policy.HostPolicy}, "nothing|error .*", ".*", "dom0 is met by the host policy alone; the kernel is dom0"},
	{nil, "to dom0", "nothing|echo reply|error .*", "dom0's kernel gets what is for it, and answers; here it is the test's"},
	{[]policy.Reason{policy.TTLExceeded}, "error 3/0|error 11/0", "nothing|echo reply|error .*", "dom0 is a hop behind the router, also where they share an address"},
	{nil, "ARP answer|advertisement", "nothing", "guests are answered for each other, since their ports are isolated; the kernel has them talk directly"},
	{nil, "heard", ".*", "what neighbours say is heard, and is no packet that goes on; to the kernel ND is a packet like others"},
	{[]policy.Reason{policy.NDLimit, policy.RouterLimit}, "nothing|error .*", ".*", "answers have a limit for each guest"},
	{[]policy.Reason{policy.NoRoute, policy.NoNeighbour}, "nothing|error .*", ".*", "next hops that do not answer are told of at another time"},
}

// judge is why the two differ, "" where they should not.
func judge(o, k string, counted map[policy.Reason]uint64) string {
	// The kernel tells guests now and then to talk to each other directly, which isolated ports do not let them. The router never does.
	if told := slices.DeleteFunc(strings.Split(k, ", "), func(c string) bool { return c == "redirect" }); len(told) > 0 {
		k = strings.Join(told, ", ")
	} else {
		k = "nothing"
	}
	if o == k {
		return "the same"
	}
	for _, d := range differences {
		of := len(d.reasons) == 0 || slices.ContainsFunc(d.reasons, func(r policy.Reason) bool { return counted[r] > 0 })
		if of && regexp.MustCompile("^("+d.ours+")$").MatchString(o) && regexp.MustCompile("^("+d.kernel+")$").MatchString(k) {
			return d.why
		}
	}
	return ""
}

// compare draws a frame from bytes, for either network, and compares what becomes of it.
func (k *kernelPeer) compare(t *testing.T, b []byte) (why string) {
	s := knowing(t, meeting(seedFile))
	var from cases.Place
	var mine, its []byte
	rapid.MakeFuzz(func(rt *rapid.T) { from, mine = cases.Draw(rt, s.net) })(t, b)
	if from == cases.Dom0 {
		t.Skip("dom0 is the kernel")
	}
	rapid.MakeFuzz(func(rt *rapid.T) { _, its = cases.Draw(rt, k.net) })(t, b)
	o, passed, reasons := ours(s, from, mine)
	var p policy.Packet
	if r := p.Parse(mine, policy.Offload{}); o == "nothing" && r == policy.None && len(reasons) == 0 && (p.IsND() || p.EtherType == policy.EtherARP) {
		o = "heard"
	}
	v, kernels := k.verdict(from, its)
	if why = judge(o, v, reasons); why == "" { // what came late of the frame before may be among it
		v, kernels = k.verdict(from, its)
		why = judge(o, v, reasons)
	}
	if why == "the same" && bytes.Equal(mine[policy.EthernetLen:], its[policy.EthernetLen:]) && !slices.EqualFunc(passed, kernels, bytes.Equal) {
		why = "the kernel records itself in options; what the router forwards changes in TTL alone"
		if !p.IsIPv4() || mine[policy.EthernetLen]&15 == 5 {
			t.Errorf("from %s, %s, but it is not the same packet: the router's is\n%x\nand the kernel's\n%x\n%s", from, o, passed, kernels, describe(mine))
		}
	}
	if why == "" {
		t.Errorf("from %s: the router: %s %v; the kernel: %s\n%x\n%s", from, o, slices.Sorted(maps.Keys(reasons)), v, mine, describe(mine))
	}
	return why
}

// drawn are bytes to draw from.
func drawn(seed uint64) []byte {
	b := make([]byte, 512)
	for i, r := 0, rand.New(rand.NewPCG(seed, 0)); i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
	return b
}

// The router makes of packets what the kernel makes of them, but for what is meant to be otherwise.
func TestLikeTheKernel(t *testing.T) {
	k := newKernelPeer(t)
	count := map[string]int{}
	for seed := range uint64(600) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			k.tb = t
			count[k.compare(t, drawn(seed))]++
		})
	}
	for _, why := range slices.Sorted(maps.Keys(count)) {
		t.Logf("%d: %s", count[why], why)
	}
}

// FuzzLikeTheKernel is TestLikeTheKernel for inputs of the fuzzer's.
func FuzzLikeTheKernel(f *testing.F) {
	k := newKernelPeer(f)
	for seed := range uint64(32) {
		f.Add(drawn(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		k.tb = t
		k.compare(t, b)
	})
}
