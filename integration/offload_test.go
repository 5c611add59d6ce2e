package integration

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/integration/lab"
	"udrouter/integration/wire"
	"udrouter/policy"
	"udrouter/router"
)

// What the kernel forwards by itself arrives, in both directions and families, and is counted as if the router had forwarded it. The end of a
// connection ends that.
func TestOffload(t *testing.T) {
	const port, size = 443, 64 << 20
	l := buildLab(t, "", lab.Options{})
	p := startRouter(t, l, "--offload")
	guest, x := l.Guests[0].Node, l.Internet
	for _, node := range []*lab.Node{guest, x} {
		_, err := node.ServeTCP(port)
		must(t, err)
		must(t, node.ServeUDP(port))
	}
	macs, err := l.Gateway.WatchMACs(l.Gateway.Link, mustMAC(t, l.Dom0, l.Dom0.Link))
	must(t, err)
	for _, dir := range []struct {
		name     string
		from, to *lab.Node
	}{{"up", guest, x}, {"down", x, guest}} {
		for _, a := range []netip.Addr{dir.to.Addr4(), dir.to.Addr6()} {
			to := netip.AddrPortFrom(a, port)
			t.Run(fmt.Sprint("tcp ", dir.name, " ", a), func(t *testing.T) {
				before := status(t, p)
				must(t, dir.from.Transfer(testContext(t), to, size))
				after := status(t, p)
				hits := after.Flows.OffloadHits - before.Flows.OffloadHits
				if hits < 500 {
					t.Errorf("the kernel has forwarded %d packets", hits)
				}
				if all := sumOf(after, "udr0") - sumOf(before, "udr0"); hits > all || all > hits+200 {
					t.Errorf("%d packets passed the TAP, %d of them by the kernel", all, hits)
				}
				if domu, tap := domuSum(after)-domuSum(before), sumOf(after, "udr0")-sumOf(before, "udr0"); domu > tap || tap > domu+8 { // the router's own ARP and ND
					t.Errorf("%d packets are the guests', %d passed the TAP", domu, tap)
				}
				for reason, n := range after.Drops {
					// What waits in the TAP while the kernel begins to forward comes late, and may be refused as old.
					if n != before.Drops[reason] && (reason != "tcp-window" || n > before.Drops[reason]+64) {
						t.Errorf("%d packets were dropped as %s", n-before.Drops[reason], reason)
					}
				}
				if after.Flows.Offloaded != 0 {
					t.Errorf("%d connections that are over are forwarded", after.Flows.Offloaded)
				}
			})
		}
	}
	t.Run("udp", func(t *testing.T) {
		for _, a := range []netip.Addr{x.Addr4(), x.Addr6()} {
			before := status(t, p)
			c, err := guest.DialFrom(testContext(t), "udp", netip.Addr{}, netip.AddrPortFrom(a, port).String())
			must(t, err)
			must(t, c.SetDeadline(time.Now().Add(timeout)))
			const n = 100
			var b [100]byte
			for range n {
				_, err := c.Write(b[:])
				must(t, err)
				_, err = c.Read(b[:])
				must(t, err)
			}
			must(t, c.Close())
			after := status(t, p)
			if hits := after.Flows.OffloadHits - before.Flows.OffloadHits; hits != 2*n-16 && hits != 2*n-17 {
				t.Errorf("the kernel has forwarded %d packets of %d", hits, 2*n)
			}
			if after.Flows.Offloaded != before.Flows.Offloaded+1 {
				t.Errorf("%d flows are forwarded, %d were", after.Flows.Offloaded, before.Flows.Offloaded)
			}
		}
	})
	t.Run("echo", func(t *testing.T) {
		for _, ends := range [][2]*lab.Node{{guest, x}, {x, guest}} {
			for _, a := range []netip.Addr{ends[1].Addr4(), ends[1].Addr6()} {
				before := status(t, p)
				ping, err := ends[0].Pinger(testContext(t), a)
				must(t, err)
				const n = 20
				for range n {
					_, err := ping.Ping(timeout)
					must(t, err)
				}
				ping.Close()
				after := status(t, p)
				if hits := after.Flows.OffloadHits - before.Flows.OffloadHits; hits != 2*n-16 && hits != 2*n-17 {
					t.Errorf("from %s to %v: the kernel has forwarded %d packets of %d", ends[0].Addr4(), a, hits, 2*n)
				}
			}
		}
	})
	if s := status(t, p); s.ForeignMAC != 0 || len(macs.Foreign()) != 0 {
		t.Errorf("foreign MACs: %d, %v", s.ForeignMAC, macs.Foreign())
	}
}

func mustMAC(t *testing.T, n *lab.Node, link string) policy.MAC {
	t.Helper()
	mac, err := n.LinkMAC(link)
	must(t, err)
	return mac
}

// sumOf is what passed a link in both directions, domuSum what all guests were sent and have sent.
func sumOf(s router.Status, link string) (n uint64) {
	for _, l := range s.Links {
		if l.Name == link {
			n += l.RxPackets + l.TxPackets
		}
	}
	return n
}

func domuSum(s router.Status) (n uint64) {
	for _, d := range s.Domus {
		n += d.RxPackets + d.TxPackets
	}
	return n
}

// offloaded opens a connection between the first guest and the internet that the kernel forwards. It returns its last acknowledgements, as
// each end has sent them.
func offloaded(t *testing.T, l *lab.Lab, p *lab.Proc, a netip.Addr) (c *lab.Conn, up, down []byte) {
	t.Helper()
	const port = 443
	guest := l.Guests[0].Node
	plain := func(src, dst uint16) func([]byte) bool {
		return func(f []byte) bool {
			var pkt policy.Packet
			return pkt.Parse(f, policy.Offload{}) == policy.None && pkt.Proto == policy.ProtoTCP && pkt.TCPFlags == 16 && (src == 0 || pkt.SrcPort == src) && (dst == 0 || pkt.DstPort == dst)
		}
	}
	sent, err := guest.Sniff(guest.Link, lab.SniffOptions{Keep: plain(0, port)})
	must(t, err)
	got, err := l.Gateway.Sniff(l.Gateway.Link, lab.SniffOptions{Keep: plain(port, 0)})
	must(t, err)
	c = openTCP(t, guest, l.Internet, a, port)
	for range 20 {
		must(t, c.Check(testContext(t)))
	}
	if s := status(t, p); s.Flows.Offloaded != 1 {
		t.Fatalf("%d flows are forwarded by the kernel", s.Flows.Offloaded)
	}
	last := func(s *lab.Sniffer, outgoing bool) (f []byte) {
		for _, g := range s.Frames() {
			if g.Outgoing == outgoing {
				f = g.Data
			}
		}
		must(t, s.Close())
		return f
	}
	up, down = last(sent, true), last(got, true)
	if up == nil {
		t.Fatal("the guest has acknowledged nothing by itself")
	}
	return c, up, down
}

// Packets with the addresses and ports of a flow that the kernel forwards, but not of it, are not forwarded, and the flow lives on. What the kernel leaves
// to the router, which forwards it, is among the rows of package offload.
func TestOffloadForged(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprint("IPv6 ", v6), func(t *testing.T) {
			l := buildLab(t, "", lab.Options{})
			p := startRouter(t, l, "--offload", "--workers", "1")
			a, ttl, l4 := l.Internet.Addr4(), policy.EthernetLen+8, policy.EthernetLen+policy.IPv4Len
			if v6 {
				a, ttl, l4 = l.Internet.Addr6(), policy.EthernetLen+7, policy.EthernetLen+policy.IPv6Len
			}
			c, up, _ := offloaded(t, l, p, a)
			guest := l.Guests[0].Node
			sender, err := guest.Sender(guest.Link)
			must(t, err)
			seen, err := l.Gateway.Sniff(l.Gateway.Link, lab.SniffOptions{Keep: func(f []byte) bool {
				return bytes.Contains(f, up[l4+20:l4+32]) // the timestamps, which the guest's kernel sends once
			}})
			must(t, err)
			count := func() int { return seen.Count(func(f lab.Frame) bool { return !f.Outgoing }) }
			for _, r := range []struct {
				name   string
				forge  func(f []byte) []byte
				passes int
			}{
				{"as it was", func(f []byte) []byte { return f }, 1},
				{"source MAC", func(f []byte) []byte { copy(f[6:], cases.MAC2[:]); return f }, 0},
				{"destination MAC", func(f []byte) []byte { copy(f, policy.BroadcastMAC[:]); return f }, 0},
				{"source", func(f []byte) []byte { f[l4-5-(l4-ttl)/4] ^= 1; return f }, 0},
				{"TTL", func(f []byte) []byte { f[ttl] = 1; return f }, 0},
				{"tag", func(f []byte) []byte {
					return append(append(append([]byte{}, f[:12]...), 0x81, 0, 0, 5), f[12:]...)
				}, 0},
				{"SYN and FIN", func(f []byte) []byte { f[l4+13] = 3; return f }, 0},
				{"reset out of the window", func(f []byte) []byte { f[l4+13], f[l4+4] = 4, f[l4+4]^0x40; return f }, 0},
				{"out of the window", func(f []byte) []byte { f[l4+4] ^= 0x40; return f }, 0},
				{"acknowledges what was not sent", func(f []byte) []byte { f[l4+8] ^= 0x40; return f }, 0},
				{"as it was once more", func(f []byte) []byte { return f }, 1},
			} {
				f := r.forge(append([]byte{}, up...))
				if h := f[policy.EthernetLen:]; !v6 && f[12] == 8 {
					h[10], h[11] = 0, 0
					binary.BigEndian.PutUint16(h[10:], ^policy.FoldChecksum(policy.Sum(h[:policy.IPv4Len], 0)))
				}
				before := count()
				must(t, sender.Send(f))
				must(t, sender.Send(up))
				must(t, lab.Await(testContext(t), "the packet behind it", func() (bool, error) { return count() > before+r.passes, nil }))
				if got := count() - before - 1; got != r.passes {
					t.Errorf("%s: %d packets were forwarded, want %d", r.name, got, r.passes)
				}
			}
			must(t, c.Check(testContext(t)))
			must(t, lab.Await(testContext(t), "the router to refuse what was forged", func() (bool, error) { return status(t, p).Drops["tcp-window"] > 0, nil }))
			if n := status(t, p).Flows.Offloaded; n != 1 {
				t.Errorf("%d flows are forwarded by the kernel", n)
			}
		})
	}
}

// What changes about a flow's way is followed by the packets that the kernel forwards: the gateway's MAC, the routes, the uplink's MTU; and dom0's own
// connections go on.
func TestOffloadFollows(t *testing.T) {
	l := buildLab(t, "", lab.Options{})
	p := startRouter(t, l, "--offload")
	own := openTCP(t, l.Dom0, l.Internet, l.Internet.Addr4(), 80)
	must(t, own.Check(testContext(t)))
	c, _, _ := offloaded(t, l, p, l.Internet.Addr4())
	gw := l.Gateway
	forwards := func(what string) {
		t.Helper()
		for range 40 { // with what it takes to be offered again
			must(t, c.Check(testContext(t)))
		}
		before := status(t, p)
		must(t, c.Check(testContext(t)))
		if after := status(t, p); after.Flows.OffloadHits == before.Flows.OffloadHits || after.Flows.Offloaded != 1 {
			t.Errorf("after %s: the kernel has forwarded %d packets of %d flows", what, after.Flows.OffloadHits-before.Flows.OffloadHits, after.Flows.Offloaded)
		}
	}
	forwards("nothing")

	moved := policy.MAC{2, 0, 0, 0, 0x77, 0x77}
	must(t, gw.SetLinkMAC(gw.Link, moved))
	s, err := gw.Sender(gw.Link)
	must(t, err)
	must(t, s.Send(cases.ARP(policy.BroadcastMAC, moved, 1, moved, cases.Gateway4, policy.MAC{}, cases.Gateway4)))
	forwards("the gateway's move")

	before := status(t, p)
	must(t, l.Dom0.SetMTU(l.Dom0.Link, 1400))
	must(t, lab.Await(testContext(t), "the flow to be forgotten by the kernel", func() (bool, error) {
		if err := c.Check(testContext(t)); err != nil {
			return false, err
		}
		after := status(t, p)
		return after.Flows.Hits > before.Flows.Hits+2, nil
	}))
	forwards("another MTU")
	must(t, own.Check(testContext(t)))
}

// A router that has taken over has the kernel forward as soon as the flow is offered again, in both directions: the gateway's MAC is known already.
func TestOffloadTakenOver(t *testing.T) {
	l := buildLab(t, "", lab.Options{})
	p := startRouter(t, l, "--offload")
	c, _, _ := offloaded(t, l, p, l.Internet.Addr4())
	next := takeOver(t, l, p, "--offload")
	<-p.Exited()
	const checks = 40
	for range checks { // with what it takes to be offered again
		must(t, c.Check(testContext(t)))
	}
	before := status(t, next)
	for range checks {
		must(t, c.Check(testContext(t)))
	}
	if after := status(t, next); after.Flows.OffloadHits < before.Flows.OffloadHits+2*checks {
		t.Errorf("the kernel has forwarded %d packets of at least %d", after.Flows.OffloadHits-before.Flows.OffloadHits, 2*checks)
	}
}

// What is larger than the uplink's MTU when it leaves, alone or as the segments of a super-packet, is never forwarded by the kernel; what is as large as that is, whole.
func TestOffloadMTU(t *testing.T) {
	const mtu = 1400
	w := wire.Silent(t, cases.Open(config.Reference))
	must(t, w.Lab.Dom0.SetMTU(w.Lab.Dom0.Link, mtu))
	w.StartRouter("--offload")
	sockets := map[cases.Place]vnetSocket{cases.One: openVnet(t, w.Lab.Guests[0].Node), cases.Uplink: openVnet(t, w.Lab.Gateway)}
	for _, v6 := range []bool{false, true} {
		a, b := crossing(w, sockets, [2]cases.Place{cases.One, cases.Uplink}, v6, false, 30000)
		header := policy.IPv4Len + 8
		if v6 {
			header = policy.IPv6Len + 8
		}
		datagram := func(from, to end, n int) {
			f, o := superPacket(from, to, false, 0, 0, n)
			from.send(f, o)
		}
		for range 10 { // which is when the flow is offered
			datagram(a, b, 8)
			b.next(a.addr, b.addr)
			datagram(b, a, 8)
			a.next(b.addr, a.addr)
		}
		for _, c := range []struct {
			name    string
			size, n int // bytes of payload of a segment, 0: it is none, and in all
			passes  bool
		}{
			{"as large as the MTU", 0, mtu - header, true},
			{"a byte larger", 0, mtu - header + 1, false},
			{"segments as large as the MTU", mtu - header, 20_000, true},
			{"segments that are a byte larger", mtu - header + 1, 20_000, false},
		} {
			t.Run(fmt.Sprintf("%s, IPv6 %v", c.name, v6), func(t *testing.T) {
				a.t, b.t = t, t
				before := status(t, w.Proc)
				f, o := superPacket(a, b, false, 0, 0, c.n)
				if c.size > 0 {
					o.GSOType, o.GSOSize = policy.GSOUDPL4, uint16(c.size)
				}
				a.send(f, o)
				datagram(a, b, 9)
				got, arrived := b.next(a.addr, b.addr)
				if c.passes {
					if len(got) != len(f) || arrived.GSOSize != o.GSOSize {
						t.Errorf("%d bytes arrived with %+v, sent %d with %+v", len(got), arrived, len(f), o)
					}
					got, _ = b.next(a.addr, b.addr)
				}
				if want := policy.EthernetLen + header + 9; len(got) != want {
					t.Errorf("what arrived next has %d bytes, want %d", len(got), want)
				}
				want := uint64(1)
				if c.passes {
					want++
				}
				if hits := status(t, w.Proc).Flows.OffloadHits - before.Flows.OffloadHits; hits != want {
					t.Errorf("the kernel has forwarded %d of the two, want %d", hits, want)
				}
			})
		}
	}
}

// Nothing of it is left when the router has ended, in order or not.
func TestOffloadEnds(t *testing.T) {
	l := buildLab(t, "", lab.Options{})
	attached := func() (n int) {
		must(t, l.Dom0.Do(func() error {
			index, err := l.Dom0.LinkIndex(l.Dom0.Link)
			if err != nil {
				return err
			}
			r, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: ebpf.AttachTCXIngress})
			if err == nil {
				n = len(r.Programs)
			}
			return err
		}))
		return n
	}
	for _, end := range []func(*lab.Proc) error{(*lab.Proc).Stop, (*lab.Proc).Kill, (*lab.Proc).Stop} {
		p := startRouter(t, l, "--offload")
		if n := attached(); n != 1 {
			t.Errorf("%d programs are attached", n)
		}
		must(t, end(p))
		must(t, lab.Await(testContext(t), "the programs to be gone", func() (bool, error) { return attached() == 0, nil }))
	}
}

// Where the program on the uplink is taken away, or another comes before it, the router soon forwards everything by itself, until the other is gone.
func TestOffloadTakenAway(t *testing.T) {
	for name, change := range map[string]func(index int) (other link.Link, err error){
		"taken away": func(index int) (link.Link, error) {
			r, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: ebpf.AttachTCXIngress})
			if err != nil {
				return nil, err
			}
			id, _ := r.Programs[0].LinkID()
			k, err := link.NewFromID(id)
			if err != nil {
				return nil, err
			}
			return nil, errors.Join(k.Detach(), k.Close())
		},
		"another before it": func(index int) (link.Link, error) {
			const pass = 0 // TCX_PASS: no other program is asked
			prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, pass), asm.Return()}, License: "GPL"})
			if err != nil {
				return nil, err
			}
			return link.AttachTCX(link.TCXOptions{Interface: index, Program: prog, Attach: ebpf.AttachTCXIngress, Anchor: link.Head()})
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := buildLab(t, "", lab.Options{})
			p := startRouter(t, l, "--offload")
			c, _, _ := offloaded(t, l, p, l.Internet.Addr4())
			var other link.Link
			must(t, l.Dom0.Do(func() error {
				index, err := l.Dom0.LinkIndex(l.Dom0.Link)
				if err != nil {
					return err
				}
				other, err = change(index)
				return err
			}))
			for range 40 {
				must(t, c.Check(testContext(t)))
			}
			contains(t, p.Log(), "the kernel forwards nothing by itself any more")
			if n := status(t, p).Drops["internal"]; n != 0 {
				t.Errorf("%d internal errors", n)
			}
			if other == nil {
				return
			}
			forwarded := status(t, p).Flows.OffloadHits
			must(t, other.Close())
			must(t, lab.Await(testContext(t), "the kernel to forward again", func() (bool, error) {
				return status(t, p).Flows.OffloadHits > forwarded, c.Check(testContext(t))
			}))
			contains(t, p.Log(), "the kernel forwards by itself again")
		})
	}
}

// A kernel whose sockets do not take the program leaves everything to the router.
func TestOffloadRefused(t *testing.T) {
	l := buildLab(t, "", lab.Options{})
	must(t, l.Dom0.Do(func() error { return os.WriteFile("/proc/sys/net/core/optmem_max", []byte("4000"), 0) }))
	p := startRouter(t, l, "--offload", "--workers", "1")
	contains(t, p.Log(), "the kernel forwards nothing by itself; the router does")
	c := openTCP(t, l.Guests[0].Node, l.Internet, l.Internet.Addr4(), 443)
	for range 20 {
		must(t, c.Check(testContext(t)))
	}
	if s := status(t, p); s.Flows.OffloadHits != 0 || s.Flows.Hits == 0 {
		t.Errorf("%+v", s.Flows)
	}
}
