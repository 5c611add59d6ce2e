package kernelfacts

import (
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// nftDrop makes nft drop frames with this EtherType at l's netdev ingress; the function it returns says how many have come there.
func nftDrop(t *testing.T, l netlink.Link, etherType int) func() uint64 {
	t.Helper()
	c, err := nftables.New()
	must(t, err)
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyNetdev, Name: "t"})
	chain := c.AddChain(&nftables.Chain{Table: table, Name: "c", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookIngress,
		Priority: nftables.ChainPriorityFilter, Device: l.Attrs().Name})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(etherType >> 8), byte(etherType)}},
		&expr.Counter{},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	must(t, c.Flush())
	return func() uint64 {
		t.Helper()
		rules, err := c.GetRules(table, chain)
		must(t, err)
		for _, e := range rules[0].Exprs {
			if counter, ok := e.(*expr.Counter); ok {
				return counter.Packets
			}
		}
		t.Fatal("no counter")
		return 0
	}
}

// xdpDrop makes generic XDP drop frames of typeA.
func xdpDrop(t *testing.T, l netlink.Link) {
	t.Helper()
	const xdpDrop, xdpPass = 1, 2
	fd := loadBPF(t, unix.BPF_PROG_TYPE_XDP,
		insn(0x61, 2, 1, 0, 0),       // r2 = ctx->data
		insn(0x61, 3, 1, 4, 0),       // r3 = ctx->data_end
		insn(0xb7, 0, 0, 0, xdpPass), // r0 = XDP_PASS
		insn(0xbf, 4, 2, 0, 0),       // r4 = r2
		insn(0x07, 4, 0, 0, 14),      // r4 += 14
		insn(0x2d, 4, 3, 3, 0),       // if r4 > r3 goto exit
		insn(0x71, 5, 2, 13, 0),      // r5 = the EtherType's second byte
		insn(0x55, 5, 0, 1, typeA&0xff),
		insn(0xb7, 0, 0, 0, xdpDrop),
		insn(0x95, 0, 0, 0, 0))
	must(t, netlink.LinkSetXdpFdWithFlags(l, fd, nl.XDP_FLAGS_SKB_MODE))
}

// tcDrop makes tc ingress drop frames of typeA.
func tcDrop(t *testing.T, l netlink.Link) {
	t.Helper()
	const ok, shot = 0, 2
	fd := loadBPF(t, unix.BPF_PROG_TYPE_SCHED_CLS,
		insn(0x61, 2, 1, 16, 0), // r2 = skb->protocol, in network order
		insn(0xdc, 2, 0, 0, 16), // r2 = be16(r2)
		insn(0xb7, 0, 0, 0, ok),
		insn(0x55, 2, 0, 1, typeA),
		insn(0xb7, 0, 0, 0, shot),
		insn(0x95, 0, 0, 0, 0))
	must(t, netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}))
	must(t, netlink.FilterAdd(&netlink.BpfFilter{Fd: fd, Name: "drop", DirectAction: true, FilterAttrs: netlink.FilterAttrs{
		LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1}}))
}

// receiveOrder: generic XDP, ETH_P_ALL taps, tc ingress, nft netdev ingress, sockets of one EtherType (and so the kernel's own IP).
func receiveOrder(t *testing.T) {
	for _, c := range []struct {
		name             string
		drop             func(*testing.T, netlink.Link)
		tap, nft, socket bool // where the frame comes to
	}{
		{"XDP drops", xdpDrop, false, false, false},
		{"tc drops", tcDrop, true, false, false},
		{"nft drops", func(*testing.T, netlink.Link) {}, true, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			newNamespace(t)
			a, b := veth(t, "a", "b")
			c.drop(t, a)
			count := nftDrop(t, a, typeA)
			all, one, sender := tap(t, a, unix.ETH_P_ALL), tap(t, a, typeA), tap(t, b, 0)
			sender.send(t, frame(broadcast, mac1, typeA))
			sender.send(t, frame(broadcast, mac1, typeB)) // nobody drops it: when it has come, the first one has gone its way
			if c.tap {
				all.want(t, "tap", typeA)
			}
			all.want(t, "tap", typeB)
			if n := count(); (n == 1) != c.nft {
				t.Errorf("%d frames came to nft", n)
			}
			one.empty(t, "socket")
		})
	}
	t.Run("nobody drops", func(t *testing.T) {
		newNamespace(t)
		a, b := veth(t, "a", "b")
		one := tap(t, a, typeA)
		tap(t, b, 0).send(t, frame(broadcast, mac1, typeA))
		one.want(t, "socket", typeA)
	})
}

// nftBeforeBridge: what nft drops at a port's netdev ingress the bridge never sees, our tap on the port does; what the bridge takes does not
// come to sockets of its EtherType on the port.
func nftBeforeBridge(t *testing.T) {
	newNamespace(t)
	newBridge(t)
	p1, g1 := veth(t, "p1", "g1")
	p2, g2 := veth(t, "p2", "g2")
	enslave(t, p1, p2)
	nftDrop(t, p1, typeA)
	all, one, out := tap(t, p1, unix.ETH_P_ALL), tap(t, p1, typeB), tap(t, g2, unix.ETH_P_ALL)
	sender := tap(t, g1, 0)
	sender.send(t, frame(broadcast, mac1, typeA))
	sender.send(t, frame(broadcast, mac1, typeB))
	all.want(t, "tap on the port", typeA, typeB)
	out.want(t, "beyond the bridge", typeB)
	// A broadcast comes back from the bridge device itself, for dom0's own IP; a unicast frame to another port does not.
	one.empty(t, "socket on the port")
}

// kernelSilent: the kernel neither answers ARP nor echo requests that nft drops, and our tap has them. nft drops ARP first, IPv4 then.
func kernelSilent(t *testing.T) {
	newNamespace(t)
	a, b := veth(t, "a", "b")
	address(t, a, "192.0.2.1/24")
	static(t, a, [4]byte{192, 0, 2, 10}, b.Attrs().HardwareAddr)
	peer, ours := tap(t, b, unix.ETH_P_ALL, unix.PACKET_IGNORE_OUTGOING), tap(t, a, unix.ETH_P_ALL, unix.PACKET_IGNORE_OUTGOING)
	macA, macB := a.Attrs().HardwareAddr, b.Attrs().HardwareAddr
	arp := func() []byte {
		return frame(broadcast, macB, unix.ETH_P_ARP, append(append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, macB...), 192, 0, 2, 10, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1)...)
	}
	echo := frame(macA, macB, unix.ETH_P_IP, ip4([4]byte{192, 0, 2, 10}, [4]byte{192, 0, 2, 1}, unix.IPPROTO_ICMP, []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0})...)

	peer.send(t, arp())
	peer.want(t, "answer", unix.ETH_P_ARP)
	peer.send(t, echo)
	peer.want(t, "answer", unix.ETH_P_IP)
	ours.want(t, "our tap", unix.ETH_P_ARP, unix.ETH_P_IP)

	nftDrop(t, a, unix.ETH_P_ARP)
	peer.send(t, arp())
	peer.send(t, echo)
	peer.want(t, "answer", unix.ETH_P_IP)
	ours.want(t, "our tap", unix.ETH_P_ARP, unix.ETH_P_IP)
	peer.empty(t, "answer")
}

// socketFilter: a filter on our socket that takes nothing does not keep anything from the kernel.
func socketFilter(t *testing.T) {
	newNamespace(t)
	a, b := veth(t, "a", "b")
	ours, other := tap(t, a, unix.ETH_P_ALL), tap(t, a, typeA)
	nothing := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	must(t, unix.SetsockoptSockFprog(int(ours), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing[0]}))
	tap(t, b, 0).send(t, frame(broadcast, mac1, typeA))
	other.want(t, "socket", typeA)
	ours.empty(t, "our tap")
}

// ignoreOutgoing: since 4.20.
func ignoreOutgoing(t *testing.T) {
	newNamespace(t)
	a, b := veth(t, "a", "b")
	plain, ignoring := tap(t, a, unix.ETH_P_ALL), tap(t, a, unix.ETH_P_ALL, unix.PACKET_IGNORE_OUTGOING)
	tap(t, a, 0).send(t, frame(mac2, mac1, typeA)) // by another socket on a
	tap(t, b, 0).send(t, frame(mac1, mac2, typeB))
	plain.want(t, "plain", typeA, typeB)
	ignoring.want(t, "ignoring", typeB)
}
