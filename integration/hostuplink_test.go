package integration

import (
	"context"
	"net/netip"
	"testing"

	"udrouter/integration/cases"
	"udrouter/integration/lab"
	"udrouter/policy"
	"udrouter/router"
)

// The reference's host.uplink: the internet reaches port 22 of dom0 and its ICMPv6, and nothing else, while the router runs. What was open before
// stays open, and dom0's own connections work in both families before, while and after.
func TestHostUplink(t *testing.T) {
	l := buildLab(t, "", lab.Options{})
	x, dom0 := l.Internet, l.Dom0
	families := map[string][2]netip.Addr{"IPv4": {x.Addr4(), dom0.Addr4()}, "IPv6": {x.Addr6(), dom0.Addr6()}}
	const denied = 80
	_, err := x.ServeTCP(443)
	must(t, err)
	for _, port := range []int{22, denied} {
		_, err := dom0.ServeTCP(port)
		must(t, err)
	}
	var conns []*lab.Conn
	for _, a := range families {
		for _, port := range []uint16{22, denied} {
			c, err := x.Open(testContext(t), netip.AddrPortFrom(a[1], port))
			must(t, err)
			t.Cleanup(func() { c.Close() })
			conns = append(conns, c)
		}
		c, err := dom0.Open(testContext(t), netip.AddrPortFrom(a[0], 443))
		must(t, err)
		t.Cleanup(func() { c.Close() })
		conns = append(conns, c)
	}
	works := func(when string) {
		t.Helper()
		for _, c := range conns {
			if err := c.Check(testContext(t)); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
		for name, a := range families {
			if err := dom0.Transfer(testContext(t), netip.AddrPortFrom(a[0], 443), 1<<20); err != nil {
				t.Errorf("%s, %s: dom0 to the internet: %v", when, name, err)
			}
			if err := x.Transfer(testContext(t), netip.AddrPortFrom(a[1], 22), 1<<20); err != nil {
				t.Errorf("%s, %s: the internet to port 22: %v", when, name, err)
			}
			ping(t, dom0, a[0])
		}
		ping(t, x, dom0.Addr6())
	}
	open := func(when string) {
		t.Helper()
		works(when)
		for name, a := range families {
			if err := x.Transfer(testContext(t), netip.AddrPortFrom(a[1], denied), 1000); err != nil {
				t.Errorf("%s, %s: port %d: %v", when, name, denied, err)
			}
		}
		ping(t, x, dom0.Addr4())
	}
	open("before")
	p := startRouter(t, l)
	works("while it runs")
	for name, a := range families {
		unanswered(t, l, name, a[1], denied)
	}
	works("after what was denied")
	must(t, p.Stop())
	open("after")
}

// What the rules of host.uplink have decided on is in the status, to the packet and the byte: those that open something, and not what follows.
func TestHostUplinkCounters(t *testing.T) {
	l := buildLab(t, "", lab.Options{})
	p := startRouter(t, l)
	gw, dom0, x := l.Gateway, l.Dom0, l.Internet
	mac, err := dom0.LinkMAC(l.Config.Uplink.Name)
	must(t, err)
	sender, err := gw.Sender(gw.Link)
	must(t, err)
	_, err = dom0.ServeTCP(22)
	must(t, err)
	counted := func() map[string]router.HostRuleStatus {
		m := map[string]router.HostRuleStatus{}
		for _, r := range status(t, p).HostUplink {
			m[r.Rule] = r
		}
		return m
	}
	if before := counted(); len(before) != 3 || before["ssh"].Action != "accept" || before[""].Action != "drop" || before["ssh"].Packets != 0 {
		t.Fatalf("at the start %+v", before)
	}
	const ssh, denied = 7, 11
	var bytes [2]uint64
	before := counted()
	for i := range uint16(ssh) { // each opens a connection, and nobody answers dom0
		f := cases.TCP(mac, gw.MAC, netip.AddrPortFrom(netip.MustParseAddr("203.0.113.99"), 1000+i), netip.AddrPortFrom(dom0.Addr4(), 22), 2, 999, 0, 0)
		bytes[0] += uint64(len(f) - policy.EthernetLen)
		must(t, sender.Send(f))
	}
	for i := range denied {
		f := cases.UDP(mac, gw.MAC, x.Addr4(), dom0.Addr4(), 10*i)
		bytes[1] += uint64(len(f) - policy.EthernetLen)
		must(t, sender.Send(f))
	}
	must(t, lab.Await(testContext(t), "the last packet", func() (bool, error) { return counted()[""].Packets >= before[""].Packets+denied, nil }))
	ping(t, x, dom0.Addr6()) // what was sent before has been dealt with
	after := counted()
	for i, c := range []struct {
		rule string
		n    uint64
	}{{"ssh", ssh}, {"", denied}} {
		packets, length := after[c.rule].Packets-before[c.rule].Packets, after[c.rule].Bytes-before[c.rule].Bytes
		if packets != c.n || length != bytes[i] {
			t.Errorf("rule %q counted %d packets and %d bytes, not %d and %d", c.rule, packets, length, c.n, bytes[i])
		}
	}
	if n := after["icmpv6"].Packets - before["icmpv6"].Packets; n != 1 {
		t.Errorf("an echo request counted %d times", n)
	}
	must(t, x.Transfer(testContext(t), netip.AddrPortFrom(dom0.Addr4(), 22), 1<<20))
	if n := counted()["ssh"].Packets - after["ssh"].Packets; n != 1 {
		t.Errorf("a connection of a MiB counted %d times", n)
	}
	out, _ := command(t, 0, "status", "--socket", p.Socket)
	contains(t, out, "HOST.UPLINK RULE", "ssh", "(default)", after["ssh"].Source)
}

// unanswered shows that the internet gets nothing from a port of dom0: neither a connection nor a refusal.
func unanswered(t *testing.T, l *lab.Lab, name string, a netip.Addr, port uint16) {
	t.Helper()
	s, err := l.Gateway.Sniff(l.Gateway.Link, lab.SniffOptions{Keep: func(f []byte) bool {
		var p policy.Packet
		return p.Parse(f, policy.Offload{}) == policy.None && p.Proto == policy.ProtoTCP &&
			(p.Dst == a && p.DstPort == port || p.Src == a && p.SrcPort == port)
	}})
	must(t, err)
	defer s.Close()
	from := func(outgoing bool) int {
		return s.Count(func(f lab.Frame) bool { return f.Outgoing == outgoing })
	}
	ctx, cancel := context.WithCancel(testContext(t))
	opened := make(chan error, 1)
	go func() {
		c, err := l.Internet.Open(ctx, netip.AddrPortFrom(a, port))
		if err == nil {
			c.Close()
		}
		opened <- err
	}()
	must(t, lab.Await(ctx, "the SYN", func() (bool, error) { return from(true) > 0, nil }))
	must(t, l.Internet.Transfer(ctx, netip.AddrPortFrom(a, 22), 1000)) // what came before has been dealt with
	cancel()
	if err := <-opened; err == nil {
		t.Errorf("%s: port %d opened", name, port)
	}
	// The connection from before is quiet meanwhile.
	if n := from(false); n > 0 {
		t.Errorf("%s: %d packets came from port %d", name, n, port)
	}
}
