package integration

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/integration/lab"
	"udrouter/integration/wire"
	"udrouter/policy"
	"udrouter/stack/gsotest"
)

// vnetSocket is an AF_PACKET socket with PACKET_VNET_HDR on a node's link.
type vnetSocket struct {
	t  *testing.T
	fd int
}

const vnetLen = 10 // struct virtio_net_hdr

func openVnet(t *testing.T, n *lab.Node) vnetSocket {
	t.Helper()
	fd, err := n.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	must(t, unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1))
	must(t, unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1))
	must(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20))
	must(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}))
	must(t, unix.SetNonblock(fd, false)) // a read waits, as long as SO_RCVTIMEO says
	index, err := n.LinkIndex(n.Link)
	must(t, err)
	must(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8, Ifindex: index}))
	return vnetSocket{t, fd}
}

func (s vnetSocket) send(f []byte, o policy.Offload) {
	s.t.Helper()
	b := make([]byte, vnetLen, vnetLen+len(f))
	b[0], b[1] = o.Flags, o.GSOType
	for i, v := range []uint16{o.HdrLen, o.GSOSize, o.CsumStart, o.CsumOffset} {
		binary.NativeEndian.PutUint16(b[2+2*i:], v)
	}
	if _, err := unix.Write(s.fd, append(b, f...)); err != nil {
		s.t.Fatalf("sending %d bytes with %+v: %v", len(f), o, err)
	}
}

// next is the next frame of a flow.
func (s vnetSocket) next(src, dst netip.AddrPort) ([]byte, policy.Offload) {
	s.t.Helper()
	b := make([]byte, 1<<17)
	for {
		n, err := unix.Read(s.fd, b)
		if err != nil {
			s.t.Fatalf("awaiting a frame from %v to %v: %v", src, dst, err)
		}
		word := func(i int) uint16 { return binary.NativeEndian.Uint16(b[i:]) }
		o := policy.Offload{Flags: b[0], GSOType: b[1], HdrLen: word(2), GSOSize: word(4), CsumStart: word(6), CsumOffset: word(8)}
		f := bytes.Clone(b[vnetLen:n])
		var p policy.Packet
		if p.Parse(f, o) == policy.None && netip.AddrPortFrom(p.Src, p.SrcPort) == src && netip.AddrPortFrom(p.Dst, p.DstPort) == dst {
			return f, o
		}
	}
}

// Super-packets of every type cross the router whole where the link takes them, and arrive as the segments that the RFCs want, also where it does not: up, down
// and between guests.
func TestSuperPackets(t *testing.T) {
	w := wire.New(t, cases.Open(config.Reference))
	nodes := map[cases.Place]*lab.Node{cases.One: w.Lab.Guests[0].Node, cases.Two: w.Lab.Guests[1].Node, cases.Uplink: w.Lab.Gateway}
	sockets := map[cases.Place]vnetSocket{}
	for p, n := range nodes {
		sockets[p] = openVnet(t, n)
	}
	port := uint16(20000)
	for _, whole := range []bool{true, false} {
		offload := lab.Offload{TxChecksum: whole, TSO: whole, GSO: whole}
		must(t, w.Lab.Dom0.SetOffload(w.Lab.Config.Uplink.Name, offload))
		for _, g := range w.Lab.Guests[:2] {
			must(t, w.Lab.Dom0.SetOffload(g.Domu.Vif, offload))
		}
		for _, way := range [][2]cases.Place{{cases.One, cases.Uplink}, {cases.Uplink, cases.One}, {cases.One, cases.Two}} {
			for _, c := range superPackets {
				port++
				a, b := crossing(w, sockets, way, c.v6, c.tcp, port)
				t.Run(fmt.Sprintf("%s, whole %v, %s to %s", c.name, whole, way[0], way[1]), func(t *testing.T) {
					a.t, b.t = t, t
					a.crosses(b, c, whole)
				})
			}
		}
	}
}

type super struct {
	name    string
	v6, tcp bool
	typ     uint8
	flags   uint8 // of TCP, besides ACK
	ecn     uint8 // of the IP header
	size, n int   // bytes of payload of a segment, and in all
}

var superPackets = []super{
	{"TSO4", false, true, policy.GSOTCPv4, 1 | 8, 2, 1460, 60000},
	{"TSO6", true, true, policy.GSOTCPv6, 8, 1, 1440, 60001},
	{"TSO4 with CWR", false, true, policy.GSOTCPv4 | policy.GSOECN, 8 | 0x80, 3, 1000, 20011},
	{"TSO6 with CWR and ECE", true, true, policy.GSOTCPv6 | policy.GSOECN, 0xc0, 2, 1000, 20012},
	{"TSO4 with ECE", false, true, policy.GSOTCPv4, 0x40, 3, 1448, 2900},
	{"TSO4 of two segments", false, true, policy.GSOTCPv4, 0, 0, 1460, 1461},
	{"USO4", false, false, policy.GSOUDPL4, 0, 2, 1472, 60000},
	{"USO6", true, false, policy.GSOUDPL4, 0, 3, 1452, 60001},
	{"USO4 of many", false, false, policy.GSOUDPL4, 0, 0, 100, 6399},
}

// end is one of a flow's.
type end struct {
	vnetSocket
	addr        netip.AddrPort
	router, mac policy.MAC
}

// crossing makes the ends of a flow. A TCP connection is open: its first end is at 1000, the other at 2000.
func crossing(w *wire.Wire, sockets map[cases.Place]vnetSocket, way [2]cases.Place, v6, tcp bool, port uint16) (a, b end) {
	w.T.Helper()
	ends := map[cases.Place]end{
		cases.One:    {addr: netip.AddrPortFrom(cases.One4, port), router: w.Net.Router, mac: cases.MAC1},
		cases.Two:    {addr: netip.AddrPortFrom(cases.Two4, port), router: w.Net.Router, mac: cases.MAC2},
		cases.Uplink: {addr: netip.AddrPortFrom(cases.X4, port), router: w.Net.Eth0, mac: w.Net.Gateway},
	}
	six := map[cases.Place]netip.Addr{cases.One: cases.One6, cases.Two: cases.Two6, cases.Uplink: cases.X6}
	for i, e := range []*end{&a, &b} {
		*e = ends[way[i]]
		e.vnetSocket = sockets[way[i]]
		if v6 {
			e.addr = netip.AddrPortFrom(six[way[i]], port)
		}
	}
	if tcp {
		const syn, ack = 2, 16
		for _, s := range []struct {
			from, to end
			flags    uint8
			seq, ack uint32
		}{{a, b, syn, 999, 0}, {b, a, syn | ack, 1999, 1000}, {a, b, ack, 1000, 2000}} {
			s.from.send(cases.TCP(s.from.router, s.from.mac, s.from.addr, s.to.addr, s.flags, s.seq, s.ack, 0), policy.Offload{})
			s.to.next(s.from.addr, s.to.addr)
		}
	}
	return a, b
}

// crosses sends a super-packet to b and looks at what arrives there: one frame, where the links take it whole.
func (a end) crosses(b end, c super, whole bool) {
	t := a.t
	f, o := superPacket(a, b, c.tcp, c.flags, c.ecn, c.n)
	o.GSOType, o.GSOSize = c.typ, uint16(c.size)
	want, err := gsotest.Segments(f, o)
	must(t, err)
	a.send(f, o)
	var got [][]byte
	for frames := 0; len(got) < len(want); frames++ {
		f, arrived := b.next(a.addr, b.addr)
		segments, err := gsotest.Segments(f, arrived)
		must(t, err)
		got = append(got, segments...)
		if whole && (arrived.GSOType != o.GSOType || arrived.GSOSize != o.GSOSize || frames > 0) {
			t.Errorf("frame %d arrived with %+v, sent with %+v", frames, arrived, o)
		}
		if !whole && (arrived.GSOType != policy.GSONone || arrived.Flags&policy.NeedsCsum != 0 || len(f) > policy.EthernetLen+1500) {
			t.Errorf("frame %d has %d bytes and %+v on a link without offloads", frames, len(f), arrived)
		}
	}
	for i := range got {
		if i >= len(want) || !bytes.Equal(got[i], cases.Forwarded(want[i], b.mac, b.router)) {
			t.Fatalf("segment %d of %d, want %d\n got %x", i, len(got), len(want), got[i])
		}
	}
}

// superPacket is n bytes of payload from a to b, with a partial checksum.
func superPacket(a, b end, tcp bool, flags, ecn uint8, n int) ([]byte, policy.Offload) {
	f := cases.UDP(a.router, a.mac, a.addr.Addr(), b.addr.Addr(), n)
	o := policy.Offload{Flags: policy.NeedsCsum, CsumOffset: 6}
	if tcp {
		f = cases.TCP(a.router, a.mac, a.addr, b.addr, 16|flags, 1000, 2000, n)
		o.CsumOffset = 16
	}
	if ip := f[policy.EthernetLen:]; a.addr.Addr().Is4() {
		ip[1], ip[6], o.CsumStart = ecn, 0x40, 34
		binary.BigEndian.PutUint16(ip[10:], 0)
		binary.BigEndian.PutUint16(ip[10:], ^policy.FoldChecksum(policy.Sum(ip[:policy.IPv4Len], 0)))
	} else {
		ip[1], o.CsumStart = ecn<<4, 54
	}
	l4, proto := f[o.CsumStart:], uint8(policy.ProtoUDP)
	o.HdrLen = o.CsumStart + 8
	if tcp {
		proto, o.HdrLen = policy.ProtoTCP, o.CsumStart+20
	}
	binary.BigEndian.PutUint16(l4, a.addr.Port())
	binary.BigEndian.PutUint16(l4[2:], b.addr.Port())
	binary.BigEndian.PutUint16(l4[o.CsumOffset:], policy.FoldChecksum(policy.PseudoSum(a.addr.Addr(), b.addr.Addr(), proto, len(l4))))
	return f, o
}
