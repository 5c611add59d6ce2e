package router

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
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
	fence uint32
	lame  error // why it can no longer be asked
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
	ok(l.Dom0.SetSysctl("net.ipv4.ip_no_pmtu_disc", "2")) // a forged MTU is not remembered
	k := &kernelPeer{tb: tb, lab: l, nodes: map[cases.Place]*lab.Node{cases.One: l.Guests[0].Node, cases.Two: l.Guests[1].Node, cases.Uplink: l.Gateway},
		send: map[cases.Place]*lab.FrameSender{}, seen: map[cases.Place]*lab.Sniffer{}}
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
	defer onOneCPU(k.tb)()
	ctx, cancel := context.WithTimeout(k.tb.Context(), patience)
	defer cancel()
	k.awaitFences(ctx)
	for _, s := range k.seen {
		s.Take()
	}
	if err := k.send[from].Send(frame); err != nil {
		k.tb.Skip(err) // larger than the link takes
	}
	k.awaitFences(ctx)
	var all []string
	for place, s := range k.seen {
		for _, f := range s.Take() {
			if f.Outgoing {
				continue
			}
			c := class(place, f.Data, frame, k.nodes[place].MAC, k.net)
			if c == elsewhen { // of a neighbour that was asked for, or of a datagram that was waited for
				continue
			}
			all, passed = append(all, c), append(passed, goesOn(c, f.Data)...)
		}
	}
	return joined(all), passed
}

// onOneCPU keeps the caller on the CPU that it is on until what it returns is called. The kernel has a queue of what came for each CPU, so that frames
// which are sent from several may overtake each other, and a fence the frame before it.
func onOneCPU(tb testing.TB) func() {
	runtime.LockOSThread()
	var all, one unix.CPUSet
	var cpu uint32
	if _, _, errno := unix.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&cpu)), 0, 0); errno != 0 {
		tb.Fatal(os.NewSyscallError("getcpu", errno))
	}
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		tb.Fatal(os.NewSyscallError("sched_getaffinity", err))
	}
	one.Set(int(cpu))
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		tb.Fatal(os.NewSyscallError("sched_setaffinity", err))
	}
	return func() {
		_ = unix.SchedSetaffinity(0, &all)
		runtime.UnlockOSThread()
	}
}

// goesOn is the packet of a frame of a class, where that goes on.
func goesOn(class string, f []byte) [][]byte {
	if !strings.HasPrefix(class, "to ") {
		return nil
	}
	return [][]byte{f[policy.EthernetLen:]}
}

// patience is how long the fences of a frame may take on a busy machine. A fuzzer's worker ends without a word what takes 10 s.
const patience = 8 * time.Second

// awaitFences sees to it that what was sent before has been dealt with: an echo request from everywhere to everywhere has come. One that a busy machine
// has lost is sent again.
func (k *kernelPeer) awaitFences(ctx context.Context) {
	k.tb.Helper()
	if k.lame != nil {
		k.tb.Fatal(k.lame) // at once: a fuzzer that minimizes asks many times
	}
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
		if err := k.pass(ctx, w.from, w.to, f, mark); err != nil {
			k.lame = fmt.Errorf("the fence from %s to %s: %w; %d frames were lost", w.from, w.to, err, k.seen[w.to].Lost())
			k.tb.Fatal(k.lame)
		}
	}
}

// pass sends a frame until one that ends with its mark has come.
func (k *kernelPeer) pass(ctx context.Context, from, to cases.Place, f, mark []byte) error {
	for {
		if err := k.send[from].Send(f); err != nil {
			return err
		}
		try, cancel := context.WithTimeout(ctx, patience/4)
		_, err := k.seen[to].AwaitFrame(try, func(f lab.Frame) bool { return !f.Outgoing && bytes.HasSuffix(f.Data, mark) })
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
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
		if header := int(ip[0]&15) * 4; ip[9] == policy.ProtoICMP && ip[6]&0x1f == 0 && ip[7] == 0 && len(ip) >= header+8 {
			return icmpClass(ip[header:], was, 0)
		}
	case typ == policy.EtherIPv6 && len(ip) >= 40:
		if len(was) >= 40 && bytes.Equal(ip[8:40], was[8:40]) {
			return "to " + string(at)
		}
		proto, m := ip[6], ip[40:]
		if proto == policy.ProtoFragment && len(m) >= 8 && m[2] == 0 && m[3]&^7 == 0 { // a long answer of a kernel that was told of a small MTU
			proto, m = m[0], m[8:]
		}
		if proto == policy.ProtoICMPv6 && len(m) >= 8 {
			switch t := m[0]; {
			case t == 136:
				return "advertisement"
			case t < 130:
				return icmpClass(m, was, 6)
			case t == 137:
				return "redirect"
			}
		}
	}
	return ""
}

// elsewhen is the class of an error about another packet.
const elsewhen = "error about another packet"

// icmpClass is the class of an ICMP message that came of a packet.
func icmpClass(m, sent []byte, v int) string {
	switch {
	case v == 0 && m[0] == 0, v == 6 && m[0] == 129:
		return "echo reply"
	case v == 0 && m[0] == 5:
		return "redirect"
	}
	quote := m[8:]
	if same := v == 0 && len(quote) >= 20 && len(sent) >= 20 && bytes.Equal(quote[4:6], sent[4:6]) && bytes.Equal(quote[12:20], sent[12:20]) ||
		v == 6 && len(quote) >= 40 && len(sent) >= 40 && bytes.Equal(quote[8:40], sent[8:40]); !same {
		return elsewhen
	}
	return fmt.Sprintf("error %d/%d", m[0], m[1])
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
// counted, and matches. What is counted has to be true of the frame, too, see judge.
var differences = []struct {
	reasons      []policy.Reason // one of them; none: nothing was counted
	ours, kernel string          // regular expressions
	when         func(x *reading) bool
	why          string
}{
	{[]policy.Reason{policy.Malformed, policy.Checksum, policy.VLAN, policy.EtherType, policy.HeaderChain, policy.TinyFragment, policy.OversizeFrag, policy.ARPMalformed}, "nothing", ".*", nil,
		"what contradicts itself goes no further; the kernel looks at the IP header alone"},
	{[]policy.Reason{policy.RoutingHeader, policy.IPv6Option, policy.SourceRoute}, "nothing|error 4/[02]", ".*", nil, "options and headers that let a sender choose the way, or that want their packet dropped"},
	{[]policy.Reason{policy.NDHopLimit, policy.NDMalformed, policy.NDFragment, policy.RAGuard, policy.Redirect, policy.ICMPType, policy.DHCPGuard}, "nothing", ".*", nil, "neighbours, routers and DHCP servers do not speak through a router"},
	{[]policy.Reason{policy.MACInvalid, policy.MACBinding, policy.L2Multicast, policy.OtherHost, policy.IPBinding, policy.IP6Binding, policy.ARPSpoof, policy.NDSpoof, policy.SpoofUplink}, "nothing", ".*", nil,
		"nobody sends with what is not his own; the kernel binds nothing"},
	{[]policy.Reason{policy.MartianSrc, policy.MartianDst, policy.Multicast, policy.Broadcast, policy.Loop}, "nothing", ".*", nil, "addresses that are never forwarded, and about which no error is sent"},
	{[]policy.Reason{policy.LinkLocal}, "nothing|error 1/2", ".*", nil, "link-local addresses are of their link (RFC 4291 2.5.6)"},
	{[]policy.Reason{policy.TCPFlags, policy.NoFlow, policy.Unrelated, policy.FragmentOrphan}, "nothing", ".*", nil, "the router has state; the kernel without conntrack has none"},
	{[]policy.Reason{policy.UnboundDst}, "nothing|error 3/1|error 1/3", ".*", nil, "an address that nobody is bound to is not asked for"},
	{[]policy.Reason{policy.KernelHeld, policy.RouterLocal}, "nothing|error .*", ".*", nil, "dom0 is met by the host policy alone; the kernel is dom0"},
	{nil, "to dom0", "nothing|echo reply|error .*", (*reading).forDom0, "dom0's kernel gets what is for it, and answers; here it is the test's"},
	{[]policy.Reason{policy.TTLExceeded}, "error 3/0|error 11/0", "nothing|echo reply|error .*", nil, "dom0 is a hop behind the router, also where they share an address"},
	{nil, "ARP answer|advertisement", "nothing|to .*|error .*", (*reading).answerDue, "guests are answered for each other, since their ports are isolated; the kernel has them talk directly, and forwards ND by unicast"},
	{nil, "heard", ".*", (*reading).nothingDue, "what neighbours say is heard, and is no packet that goes on; to the kernel ND is a packet like others"},
	{nil, "nothing", ".*", (*reading).groupOnUplink, "groups on the uplink are the kernel's own business"},
	{[]policy.Reason{policy.NoRoute, policy.NoNeighbour}, "nothing|error .*", ".*", nil, "next hops that do not answer are told of at another time"},
}

// silent are the reasons for which a packet is not even told of: its sender is not who it seems, or it was for many (RFC 1122 3.2.2, RFC 4443 2.4).
var silent = []policy.Reason{policy.Malformed, policy.Checksum, policy.VLAN, policy.EtherType, policy.MACInvalid, policy.MACBinding, policy.L2Multicast, policy.OtherHost,
	policy.IPBinding, policy.IP6Binding, policy.SpoofUplink, policy.MartianSrc, policy.Multicast, policy.Broadcast, policy.NDHopLimit, policy.NDMalformed,
	policy.NDFragment, policy.NDSpoof}

// answered are the answers of the router itself that are right though a reason would keep the packet from going on: it goes no further.
var answered = map[string][]policy.Reason{
	"echo reply":    {policy.TTLExceeded, policy.LinkLocal, policy.MartianDst}, // of its last hop, on its link, to fe80::1
	"advertisement": {policy.LinkLocal, policy.MartianDst, policy.Multicast, policy.ICMPType, policy.NoRoute},
}

// unheeded tells whether a packet went on, or was answered, that by the RFCs has to be dropped, whatever others make of it.
func (x *reading) unheeded(o string) bool {
	if o == "nothing" || o == "heard" {
		return false
	}
	due := x.reasons()
	if strings.HasPrefix(o, "error ") && !strings.Contains(o, ",") {
		return slices.ContainsFunc(due, func(r policy.Reason) bool { return slices.Contains(silent, r) })
	}
	return slices.ContainsFunc(due, func(r policy.Reason) bool { return !slices.Contains(answered[o], r) })
}

// judge is why the two differ about a frame, "" where they should not. A reason that is not true of the frame is none, and one that is true has to be heeded.
func judge(x *reading, o, k string, counted map[policy.Reason]uint64) string {
	for r := range counted {
		if !x.is[r] {
			return ""
		}
	}
	// The kernel tells guests now and then to talk to each other directly, which isolated ports do not let them. The router never does.
	told := slices.DeleteFunc(strings.Split(k, ", "), func(c string) bool { return c == "redirect" })
	if k = strings.Join(told, ", "); k == "" {
		k = "nothing"
	}
	if x.unheeded(o) {
		return ""
	}
	if o == k {
		return "the same"
	}
	for _, d := range differences {
		of := len(d.reasons) == 0 && len(counted) == 0 || slices.ContainsFunc(d.reasons, func(r policy.Reason) bool { return counted[r] > 0 })
		if of && (d.when == nil || d.when(x)) && regexp.MustCompile("^("+d.ours+")$").MatchString(o) && regexp.MustCompile("^("+d.kernel+")$").MatchString(k) {
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
	x := read(from, s.net, mine)
	why = judge(x, o, v, reasons)
	if why == "the same" && bytes.Equal(mine[policy.EthernetLen:], its[policy.EthernetLen:]) && !slices.EqualFunc(passed, kernels, bytes.Equal) {
		why = "the kernel records itself in options; what the router forwards changes in TTL alone"
		if !p.IsIPv4() || mine[policy.EthernetLen]&15 == 5 {
			t.Errorf("from %s, %s, but it is not the same packet: the router's is\n%x\nand the kernel's\n%x\n%s", from, o, passed, kernels, describe(mine))
		}
	}
	if why == "" {
		t.Errorf("from %s: the router: %s %v; the kernel: %s; by the RFCs it is %v\n%x\n%s", from, o, slices.Sorted(maps.Keys(reasons)), v, x.reasons(), mine, describe(mine))
	}
	if why == "the same" {
		why += ": " + o
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

// The router makes of packets what the kernel makes of them, but for what is meant to be otherwise. So many pass both, or are answered by both: a router
// that lets nothing out is not like the kernel.
func TestLikeTheKernel(t *testing.T) {
	k := newKernelPeer(t)
	count := map[string]int{}
	for seed := range uint64(1500) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			k.tb = t
			count[k.compare(t, drawn(seed))]++
		})
	}
	for _, why := range slices.Sorted(maps.Keys(count)) {
		t.Logf("%d: %s", count[why], why)
	}
	for outcome, least := range map[string]int{"to one": 15, "to two": 30, "to uplink": 20, "echo reply": 3, "error 1/2": 20, "error 11/0": 2, "error 3/0": 1} {
		if n := count["the same: "+outcome]; n < least {
			t.Errorf("%q is what became of %d, at both, want %d", outcome, n, least)
		}
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
