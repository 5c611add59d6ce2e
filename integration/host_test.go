package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/integration/lab"
	"udrouter/policy"
)

// Guests open TCP and UDP to dom0 as the host policy admits, and nothing else: at its own address and at those that it shares with the router, the
// gateways of both networks. dom0 opens both to guests from each of its addresses. What is larger than a frame passes as well, and the router goes on
// to answer pings to the shared addresses.
func TestDom0AndGuests(t *testing.T) {
	src := strings.Replace(cases.Open(config.Reference), `    rule "dns" {`, `    rule "proxy" {
      action = "accept"
      proto  = "tcp"
      ports  = [3128]
    }
    rule "dns" {`, 1)
	l := buildLab(t, src, lab.Options{})
	dom0 := l.Dom0
	must(t, dom0.AddAddr(dom0.Link, netip.PrefixFrom(cases.Router4, 32))) // shared as the IPv6 gateway is
	p := startRouter(t, l)
	const proxy, dns, ssh, other, service = 3128, 53, 22, 54, 7000
	addrs := []netip.Addr{dom0.Addr4(), cases.Router4, cases.Router6}
	for _, a := range addrs {
		serveEcho(t, dom0.NS, netip.AddrPortFrom(a, proxy))
		serveEcho(t, dom0.NS, netip.AddrPortFrom(a, dns))
		serveEcho(t, dom0.NS, netip.AddrPortFrom(a, ssh))
		serveEcho(t, dom0.NS, netip.AddrPortFrom(a, other))
	}
	refused, err := dom0.Sniff(l.Config.Host.Interface, lab.SniffOptions{Keep: func(f []byte) bool {
		var p policy.Packet
		f = append(make([]byte, policy.EthernetLen), f...) // a TUN has no Ethernet header
		f[12], f[13] = 0x08, 0
		if f[policy.EthernetLen]>>4 == 6 {
			f[12], f[13] = 0x86, 0xdd
		}
		return p.Parse(f, policy.Offload{}) == policy.None && (p.DstPort == ssh || p.DstPort == other)
	}})
	must(t, err)
	for _, g := range l.Guests {
		for _, own := range []netip.Addr{g.Addr4(), g.Addr6()} {
			serveEcho(t, g.NS, netip.AddrPortFrom(own, service))
		}
		for _, a := range addrs {
			own := g.Addr4()
			if a.Is6() {
				own = g.Addr6()
			}
			t.Run(g.Name()+" and "+a.String(), func(t *testing.T) {
				if a != dom0.Addr4() { // which the router does not answer for
					ping(t, g.Node, a)
				}
				must(t, exchange(testContext(t), g.NS, "tcp", own, netip.AddrPortFrom(a, proxy), 1<<20))
				must(t, exchange(testContext(t), dom0.NS, "tcp", a, netip.AddrPortFrom(own, service), 4<<20))
				for _, size := range []int{100, 1400, 4000} {
					must(t, exchange(testContext(t), g.NS, "udp", own, netip.AddrPortFrom(a, dns), size))
					must(t, exchange(testContext(t), dom0.NS, "udp", a, netip.AddrPortFrom(own, service), size))
				}
				_, err := dom0.Ping(testContext(t), own, lab.PingOptions{Size: 4000, Every: 100 * time.Millisecond})
				must(t, err)
				for network, ports := range map[string][]uint16{"tcp": {ssh, dns, other}, "udp": {ssh, proxy, other}} {
					for _, port := range ports {
						refuse(t, p, g, network, own, netip.AddrPortFrom(a, port))
					}
				}
			})
		}
	}
	if n := refused.Count(func(f lab.Frame) bool { return !f.Outgoing }); n > 0 {
		t.Errorf("%d packets that no rule admits came to dom0", n)
	}
}

// refuse tries to reach dom0 where no rule admits it, until the router has counted that.
func refuse(t *testing.T, p *lab.Proc, g *lab.Guest, network string, from netip.Addr, to netip.AddrPort) {
	t.Helper()
	drops := func() uint64 { return status(t, p).Drops[policy.HostPolicy.String()] }
	before := drops()
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- exchange(ctx, g.NS, network, from, to, 100) }()
	must(t, lab.Await(testContext(t), "the refusal", func() (bool, error) { return drops() > before, nil }))
	cancel()
	if err := <-done; err == nil {
		t.Errorf("a guest was answered by dom0: %s to %s", network, to)
	}
}

// serveEcho echoes on a port of one address, by TCP and UDP, until the namespace is closed.
func serveEcho(t *testing.T, n *lab.NS, at netip.AddrPort) {
	t.Helper()
	l, err := n.Listen("tcp", at.String())
	must(t, err)
	u, err := n.ListenPacket("udp", at.String())
	must(t, err)
	n.OnClose(l.Close)
	n.OnClose(u.Close)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	go func() {
		buf := make([]byte, 1<<16)
		for {
			k, from, err := u.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = u.WriteTo(buf[:k], from)
			}
		}
	}()
}

// exchange sends so many bytes from an address and wants them back from whom they were sent to; datagrams are sent again until they are answered.
func exchange(ctx context.Context, n *lab.NS, network string, from netip.Addr, to netip.AddrPort, size int) error {
	c, err := n.DialFrom(ctx, network, from, to.String())
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	sent, back := bytes.Repeat([]byte("some text "), size/10), make([]byte, size/10*10)
	if network == "tcp" {
		go func() { _, _ = c.Write(sent) }()
		_, err = io.ReadFull(c, back)
	} else {
		for {
			if _, err = c.Write(sent); err != nil {
				break
			}
			if err = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
				break
			}
			if _, err = c.Read(back); !errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
		}
	}
	if err == nil && !bytes.Equal(sent, back) {
		err = errors.New("other bytes came back")
	}
	if err != nil {
		return fmt.Errorf("%d bytes from %s to %s by %s: %w", size, from, to, network, err)
	}
	return nil
}
