package kernelfacts

import (
	"bytes"
	"encoding/binary"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// newBridge makes the bridge "br", up.
func newBridge(t *testing.T) netlink.Link {
	t.Helper()
	snooping := false
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br"}, MulticastSnooping: &snooping}))
	return up(t, "br")
}

const stateDisabled, stateForwarding = 0, 3 // BR_STATE_*

// enslave makes ports of links that have a carrier.
func enslave(t *testing.T, ports ...netlink.Link) {
	t.Helper()
	for _, p := range ports {
		must(t, netlink.LinkSetMaster(p, link(t, "br")))
		until(func() bool { return portState(t, p) == stateForwarding })
	}
}

// portState is a bridge port's IFLA_BRPORT_STATE.
func portState(t *testing.T, l netlink.Link) byte {
	t.Helper()
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfInfomsg(unix.AF_BRIDGE))
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	must(t, err)
	for _, m := range msgs {
		if nl.DeserializeIfInfomsg(m).Index != int32(l.Attrs().Index) {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[unix.SizeofIfInfomsg:])
		must(t, err)
		for _, a := range attrs {
			if a.Attr.Type&^unix.NLA_F_NESTED != unix.IFLA_PROTINFO {
				continue
			}
			info, err := nl.ParseRouteAttr(a.Value)
			must(t, err)
			for _, i := range info {
				if i.Attr.Type == nl.IFLA_BRPORT_STATE {
					return i.Value[0]
				}
			}
		}
	}
	t.Fatalf("no port state of %s", l.Attrs().Name)
	return 0
}

// guests is a bridge with two guests and a TAP:
//
//	g1 (mac1) --- p1 --- br --- p2 --- g2 (mac2)
//	                     |
//	                    tap
type guests struct {
	t              *testing.T
	g1, g2, dev    port // where the guests and the router read and write
	p1, p2, tapDev netlink.Link
}

func newGuests(t *testing.T) *guests {
	t.Helper()
	newNamespace(t)
	sysctl(t, "ipv6/conf/default/accept_dad", "0")
	newBridge(t)
	g := &guests{t: t}
	var l1, l2 netlink.Link
	g.p1, l1 = veth(t, "p1", "g1")
	g.p2, l2 = veth(t, "p2", "g2")
	g.dev, g.tapDev = newTAP(t, "tap", 0)
	must(t, netlink.LinkSetHardwareAddr(g.tapDev, macTAP))
	enslave(t, g.p1, g.p2, g.tapDev)
	g.g1, g.g2 = tap(t, l1, unix.ETH_P_ALL, unix.PACKET_IGNORE_OUTGOING), tap(t, l2, unix.ETH_P_ALL, unix.PACKET_IGNORE_OUTGOING)
	return g
}

// hear sends b from a guest and says who hears it: the second guest, the TAP. What the TAP sends the guest next makes certain of it.
func (g *guests) hear(from port, b []byte) (g2, dev bool) {
	g.t.Helper()
	from.send(g.t, b)
	g.dev.send(g.t, frame(broadcast, macRouter, typeB))
	for _, p := range []port{g.g1, g.g2} {
		for etherType(p.next(g.t)) != typeB {
			g2 = true
		}
	}
	must(g.t, unix.SetNonblock(int(g.dev), true))
	buf := make([]byte, 2000)
	for {
		n, err := unix.Read(int(g.dev), buf)
		if err == unix.EAGAIN {
			break
		}
		must(g.t, err)
		dev = dev || bytes.Equal(buf[:n], b)
	}
	return g2, dev
}

// wantHear wants exactly these to hear it.
func (g *guests) wantHear(what string, b []byte, g2, dev bool) {
	g.t.Helper()
	if gotG2, gotDev := g.hear(g.g1, b); gotG2 != g2 || gotDev != dev {
		g.t.Errorf("%s: heard by g2 %t, by the TAP %t; want %t, %t", what, gotG2, gotDev, g2, dev)
	}
}

// bridgePorts: on a plain bridge guests hear each other, and may take each other's MACs; with `isolated on locked on learning off` and a
// static entry each, they do not.
func bridgePorts(t *testing.T) {
	g := newGuests(t)
	toG2, toAll := frame(mac2, mac1, typeA), frame(broadcast, mac1, typeA)
	forged, toRouter := frame(macRouter, mac2, typeA), frame(macRouter, mac1, typeA)
	toTwo, lldp := frame([]byte("\x33\x33\x00\x00\x00\x01"), mac1, typeA), frame([]byte("\x01\x80\xc2\x00\x00\x0e"), mac1, typeA)

	g.wantHear("plain: to g2", toG2, true, true)
	g.wantHear("plain: broadcast", toAll, true, true)
	g.wantHear("plain: forged, to the router", forged, false, true)
	g.wantHear("plain: LLDP", lldp, false, false) // a bridge never forwards these

	for _, p := range []netlink.Link{g.p1, g.p2} {
		setPort(t, p, nl.IFLA_BRPORT_LEARNING, 0)
		setPort(t, p, nl.IFLA_BRPORT_FLUSH, 1)
		must(t, netlink.LinkSetIsolated(p, true))
	}
	setPort(t, g.tapDev, nl.IFLA_BRPORT_LEARNING, 0)
	g.wantHear("isolated: to g2", toG2, false, true)
	g.wantHear("isolated: broadcast", toAll, false, true)
	g.wantHear("isolated: multicast", toTwo, false, true)
	g.wantHear("isolated: forged", forged, false, true)

	for _, p := range []netlink.Link{g.p1, g.p2} {
		setPort(t, p, nl.IFLA_BRPORT_LOCKED, 1)
	}
	g.wantHear("locked, no entry: genuine", toRouter, false, false)
	must(t, netlink.NeighSet(fdb(g.p1, mac1)))
	must(t, netlink.NeighSet(fdb(g.p2, mac2)))
	must(t, netlink.NeighSet(fdb(g.tapDev, macRouter)))
	g.wantHear("locked: genuine", toRouter, false, true)
	g.wantHear("locked: broadcast", toAll, false, true)
	g.wantHear("locked: forged", forged, false, false)
	g.wantHear("locked: the router's MAC", frame(broadcast, macRouter, typeA), false, false)
	g.wantHear("locked: unknown MAC", frame(broadcast, macEvil, typeA), false, false)
	g.wantHear("locked: to g2", toG2, false, false) // there is an entry, and the port is isolated: not even the TAP hears it
	if g2, dev := g.hear(g.g2, frame(broadcast, mac2, typeA)); g2 || !dev {
		t.Errorf("locked: broadcast of g2: heard by g1 %t, by the TAP %t", g2, dev)
	}
}

// learnedPasses: a locked port takes what it had learned for bound; learning off does not forget, flushing does.
func learnedPasses(t *testing.T) {
	g := newGuests(t)
	forged := frame(broadcast, macEvil, typeA)
	g.wantHear("learned", forged, true, true)
	setPort(t, g.p1, nl.IFLA_BRPORT_LEARNING, 0)
	setPort(t, g.p1, nl.IFLA_BRPORT_LOCKED, 1)
	g.wantHear("locked after that", forged, true, true)
	setPort(t, g.p1, nl.IFLA_BRPORT_FLUSH, 1)
	g.wantHear("flushed", forged, false, false)
}

// swallowsPortMAC: frames to the TAP device's own MAC go up into dom0 by the bridge device, not to the TAP's reader.
func swallowsPortMAC(t *testing.T) {
	g := newGuests(t)
	br := tap(t, link(t, "br"), typeA)
	g.wantHear("to the TAP's own MAC", frame(macTAP, mac1, typeA), false, false)
	br.want(t, "bridge device", typeA)
	g.wantHear("to another MAC", frame(macRouter, mac1, typeA), false, true)
	br.empty(t, "bridge device")
}

// bridgeAddress: a bridge has an automatic fe80:: address unless disable_ipv6 is set, and a guest reaches dom0 by it, past the TAP.
func bridgeAddress(t *testing.T) {
	g := newGuests(t)
	br := link(t, "br")
	linkLocal := func() (ips []net.IP) {
		addrs, err := netlink.AddrList(br, unix.AF_INET6)
		must(t, err)
		for _, a := range addrs {
			ips = append(ips, a.IP)
		}
		return ips
	}
	if ips := linkLocal(); len(ips) != 0 {
		t.Errorf("addresses with IPv6 disabled: %v", ips)
	}
	sysctl(t, "ipv6/conf/br/disable_ipv6", "0")
	var ips []net.IP
	until(func() bool { ips = linkLocal(); return len(ips) > 0 })
	if len(ips) != 1 || !ips[0].IsLinkLocalUnicast() {
		t.Fatalf("addresses: %v", ips)
	}
	src := net.ParseIP("fe80::66")
	must(t, netlink.NeighAdd(&netlink.Neigh{LinkIndex: br.Attrs().Index, State: netlink.NUD_PERMANENT, IP: src, HardwareAddr: mac1}))
	echo := []byte{128, 0, 0, 0, 0, 1, 0, 1}
	sum := onesSum(bytes.Join([][]byte{src, ips[0], {0, 0, 0, 8, 0, 0, 0, 58}, echo}, nil))
	binary.BigEndian.PutUint16(echo[2:], ^sum)
	packet := bytes.Join([][]byte{{0x60, 0, 0, 0, 0, 8, 58, 64}, src, ips[0], echo}, nil)
	must(t, unix.SetNonblock(int(g.g1), true))
	until(func() bool { // the address is tentative at first
		g.g1.send(t, frame(br.Attrs().HardwareAddr, mac1, unix.ETH_P_IPV6, packet...))
		b := make([]byte, 2000)
		_, err := unix.Read(int(g.g1), b)
		return err == nil && etherType(b) == unix.ETH_P_IPV6 && b[20] == 58 && b[54] == 129 // not one of dom0's MLD reports
	})
}

// auxdata: the kernel takes a frame's outer tag off before our tap sees it; PACKET_AUXDATA alone tells.
func auxdata(t *testing.T) {
	newNamespace(t)
	a, b := veth(t, "a", "b")
	ours, sender := tap(t, a, unix.ETH_P_ALL, unix.PACKET_AUXDATA), tap(t, b, 0)
	tag := func(tpid, tci int, rest ...byte) []byte {
		return append([]byte{byte(tpid >> 8), byte(tpid), byte(tci >> 8), byte(tci)}, rest...)
	}
	ip := []byte{0x08, 0x00}
	for _, c := range []struct {
		name       string
		after      []byte // the MACs
		typ        int    // the EtherType we see
		valid      bool
		tci, tpid  uint16
		shortening int
	}{
		{"untagged", ip, unix.ETH_P_IP, false, 0, 0, 0},
		{"802.1Q, vid 5", tag(0x8100, 5, ip...), unix.ETH_P_IP, true, 5, 0x8100, 4},
		{"priority tag", tag(0x8100, 0, ip...), unix.ETH_P_IP, true, 0, 0x8100, 4},
		{"QinQ", tag(0x88a8, 7, tag(0x8100, 5, ip...)...), 0x8100, true, 7, 0x88a8, 4},
		{"0x9100", tag(0x9100, 7, ip...), 0x9100, false, 0, 0, 0}, // to Linux no tag
	} {
		sent := bytes.Join([][]byte{broadcast, mac1, c.after, make([]byte, 60)}, nil)
		sender.send(t, sent)
		buf, oob := make([]byte, 2000), make([]byte, 200)
		n, oobn, _, _, err := unix.Recvmsg(int(ours), buf, oob, 0)
		must(t, err)
		msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		must(t, err)
		if len(msgs) != 1 || msgs[0].Header.Level != 263 || msgs[0].Header.Type != 8 {
			t.Fatalf("%s: control messages %+v", c.name, msgs)
		}
		aux := msgs[0].Data // struct tpacket_auxdata
		status, tci, tpid := binary.NativeEndian.Uint32(aux), binary.NativeEndian.Uint16(aux[16:]), binary.NativeEndian.Uint16(aux[18:])
		if valid := status&unix.TP_STATUS_VLAN_VALID != 0; etherType(buf) != c.typ || n != len(sent)-c.shortening || valid != c.valid || valid && (tci != c.tci || tpid != c.tpid) {
			t.Errorf("%s: EtherType %#x, %d of %d bytes, tag valid %t, tci %d, tpid %#x", c.name, etherType(buf), n, len(sent), valid, tci, tpid)
		}
	}
}

// tagInTAP: the tag that the kernel has taken off on a bridge's other port is in the frame again where a TAP is read.
func tagInTAP(t *testing.T) {
	g := newGuests(t)
	tagged := bytes.Join([][]byte{broadcast, mac1, {0x81, 0, 0, 5, 0x08, 0}, make([]byte, 60)}, nil)
	g.wantHear("tagged", tagged, true, true) // the TAP hears exactly what was sent
}

// unprivileged: without any privilege, user and network namespaces are enough for veths, bridges, nft and packet sockets; for a TAP where
// /dev/net/tun lets one. The test runs itself twice, as nobody and then in new namespaces.
func unprivileged(t *testing.T) {
	const stage = "KERNELFACTS_STAGE"
	again := func(next string, attr *syscall.SysProcAttr) {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestFacts$/^K12_")
		cmd.Env = append(os.Environ(), stage+"="+next)
		cmd.SysProcAttr = attr
		cmd.Dir = "/"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("stage %s: %v: %s", next, err, out)
		}
	}
	switch os.Getenv(stage) {
	case "":
		again("nobody", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}})
	case "nobody":
		if err := unix.Unshare(unix.CLONE_NEWNET); err != unix.EPERM {
			t.Fatalf("nobody is privileged: %v", err)
		}
		again("namespace", &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		})
	case "namespace":
		runtime.LockOSThread()
		newBridge(t)
		p1, g1 := veth(t, "p1", "g1")
		enslave(t, p1)
		setPort(t, p1, nl.IFLA_BRPORT_LOCKED, 1)
		nftDrop(t, p1, typeA)
		c, err := nftables.New()
		must(t, err)
		c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "t"})
		must(t, c.Flush())
		ours := tap(t, p1, unix.ETH_P_ALL, unix.PACKET_IGNORE_OUTGOING, unix.PACKET_VNET_HDR)
		tap(t, g1, 0).send(t, frame(broadcast, mac1, typeA))
		for etherType(ours.next(t)[vnetLen:]) != typeA {
		}
		device, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
		if err != nil {
			t.Logf("no TAP here: %v", err)
			return
		}
		device.Close()
		newTAP(t, "tap", unix.IFF_VNET_HDR)
	}
}
