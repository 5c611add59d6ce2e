package integration

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"udrouter/integration/lab"
	"udrouter/policy"
)

// What a guest's or a host's kernel leaves to the hardware is done when a frame is on a wire without offloads: each segment has a right
// checksum, and none is longer than the MTU, whether the sender left that to the link or not (attacks 13 and 15).
func TestChecksums(t *testing.T) {
	for _, offload := range []lab.Offload{{TxChecksum: true, TSO: true, GSO: true}, {}} {
		l := buildLab(t, "", lab.Options{})
		startRouter(t, l)
		g := l.Guests[0]
		must(t, l.Dom0.SetOffload(l.Config.Uplink.Name, lab.Offload{}))
		must(t, l.Dom0.SetOffload(g.Domu.Vif, lab.Offload{}))
		for _, n := range []*lab.Node{g.Node, l.Gateway, l.Internet} {
			must(t, n.SetOffload(n.Link, offload))
		}
		for _, c := range []struct {
			from, to, wire *lab.Node
			port           int
		}{{g.Node, l.Internet, l.Gateway, 8080}, {l.Internet, g.Node, g.Node, 443}} {
			s, err := c.wire.Sniff(c.wire.Link, lab.SniffOptions{Keep: isTransport})
			must(t, err)
			_, err = c.to.ServeTCP(c.port)
			must(t, err)
			for _, a := range []netip.Addr{c.to.Addr4(), c.to.Addr6()} {
				must(t, c.from.Transfer(testContext(t), netip.AddrPortFrom(a, uint16(c.port)), 1<<20))
				if c.from == g.Node {
					datagram(t, c.from, a)
					_, err = s.AwaitFrame(testContext(t), func(f lab.Frame) bool { return !f.Outgoing && isDatagram(f.Data, a) })
					must(t, err)
				}
			}
			frames := 0
			for _, f := range s.Frames() {
				if f.Outgoing {
					continue
				}
				frames++
				var p policy.Packet
				if r := p.Parse(f.Data, policy.Offload{}); r != policy.None {
					t.Fatal(r)
				}
				l4 := p.Frame[p.L4:]
				if policy.FoldChecksum(policy.Sum(l4, policy.PseudoSum(p.Src, p.Dst, p.Proto, len(l4)))) != 0xffff || f.Partial || p.L3Len() > 1500 {
					t.Fatalf("with offloads %+v, from %v: %d bytes, partial %v, checksum wrong or too long: %x", offload, p.Src, p.L3Len(), f.Partial, f.Data[:min(len(f.Data), 80)])
				}
			}
			if frames < 2*(1<<20)/1500 {
				t.Errorf("only %d frames were seen", frames)
			}
			s.Close()
		}
	}
}

func isTransport(f []byte) bool {
	var p policy.Packet
	return p.Parse(f, policy.Offload{}) == policy.None && (p.Proto == policy.ProtoTCP || p.Proto == policy.ProtoUDP)
}

const datagramPort = 5999

func isDatagram(f []byte, to netip.Addr) bool {
	var p policy.Packet
	return p.Parse(f, policy.Offload{}) == policy.None && p.Proto == policy.ProtoUDP && p.Dst == to && p.DstPort == datagramPort
}

// datagram sends one by a socket, whose checksum the kernel leaves to the link where it may.
func datagram(t *testing.T, from *lab.Node, to netip.Addr) {
	t.Helper()
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: to.As16(), Port: datagramPort})
	if to.Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Addr: to.As4(), Port: datagramPort}
	}
	fd, err := from.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, unix.Sendto(fd, make([]byte, 333), 0, sa))
}
