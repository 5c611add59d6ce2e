package lab

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestPing(t *testing.T) {
	l := kernel(t, seed(), Options{})
	ctx := testContext(t)
	one, x := l.Guest("one"), l.Internet
	for _, to := range []netip.Addr{x.Addr4(), x.Addr6()} {
		for _, o := range []PingOptions{
			{}, {Size: 4000}, {Size: 1452, DontFragment: true}, {HopLimit: 3}, {ID: 77}, {Size: 1}, {Source: pick2(to, one.Addr4(), one.Addr6())},
		} {
			e, err := one.Ping(ctx, to, o)
			if err != nil || e.HopLimit != 62 || e.Sent != 1 || e.RTT <= 0 {
				t.Errorf("%s with %+v: %+v, %v", to, o, e, err)
			}
		}
		// One hop short.
		var icmp *ICMPError
		_, err := one.Ping(ctx, to, PingOptions{HopLimit: 2})
		if !errors.As(err, &icmp) || !icmp.exceeded() || !l.Gateway.Has(icmp.From) {
			t.Errorf("hop limit 2 to %s: %v", to, err)
		}
	}
}

func pick2(a netip.Addr, v4, v6 netip.Addr) netip.Addr {
	if a.Is4() {
		return v4
	}
	return v6
}

func TestPingMeetsASmallerHop(t *testing.T) {
	l := kernel(t, seed(), Options{})
	ctx := testContext(t)
	if err := l.SetHopMTU(1400); err != nil {
		t.Fatal(err)
	}
	one, x := l.Guest("one"), l.Internet
	for _, to := range []netip.Addr{x.Addr4(), x.Addr6()} {
		var icmp *ICMPError
		_, err := one.Ping(ctx, to, PingOptions{Size: 1440, DontFragment: true})
		if !errors.As(err, &icmp) || icmp.MTU != 1400 || !l.Gateway.Has(icmp.From) {
			t.Errorf("1440 bytes to %s: %v", to, err)
		}
		if _, err := one.Ping(ctx, to, PingOptions{Size: 1300, DontFragment: true}); err != nil {
			t.Errorf("1300 bytes to %s: %v", to, err)
		}
		if _, err := one.Ping(ctx, to, PingOptions{Size: 2000, DontFragment: true}); !errors.Is(err, unix.EMSGSIZE) {
			t.Errorf("2000 bytes to %s: %v", to, err)
		}
	}
}

func TestPingEnds(t *testing.T) {
	l := build(t, seed(), Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	// Nobody routes: nothing comes back, however often one asks.
	_, err := l.Guest("one").Ping(ctx, l.Internet.Addr4(), PingOptions{Every: 5 * time.Millisecond})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestTrace(t *testing.T) {
	l := kernel(t, seed(), Options{})
	ctx := testContext(t)
	one, two, x := l.Guest("one"), l.Guest("two"), l.Internet
	for _, c := range []struct {
		from *Node
		to   netip.Addr
		want []string
	}{
		{one.Node, x.Addr4(), []string{"192.0.2.1", "192.0.1.1", "198.51.100.7"}},
		{one.Node, x.Addr6(), []string{"2001:db8:3:2:1::1", "2001:db8:3:2::1", "2001:db8:ffff::7"}},
		{x, two.Addr4(), []string{"198.51.100.1", "192.0.1.3", "192.0.2.11"}},
		{x, two.Addr6(), []string{"2001:db8:ffff::1", "2001:db8:3:2:1::1", "2001:db8:3:2:1::11"}},
		{one.Node, two.Addr6(), []string{"2001:db8:3:2:1::1", "2001:db8:3:2:1::11"}},
	} {
		for _, udp := range []bool{false, true} {
			hops, err := c.from.Trace(ctx, c.to, TraceOptions{UDP: udp})
			same := err == nil && len(hops) == len(c.want)
			for i := range hops {
				same = same && hops[i].String() == c.want[i]
			}
			if !same {
				t.Errorf("%s to %s (UDP %t): %v, %v; want %v", c.from.Name(), c.to, udp, hops, err, c.want)
			}
		}
	}
}

// TestTraceSkipsTheSilent has a hop that says nothing.
func TestTraceSkipsTheSilent(t *testing.T) {
	l := kernel(t, seed(), Options{})
	if err := l.Dom0.SetSysctl("net.ipv4.icmp_ratemask", "2048"); err != nil { // time exceeded
		t.Fatal(err)
	}
	if err := l.Dom0.SetSysctl("net.ipv4.icmp_ratelimit", "1000000"); err != nil {
		t.Fatal(err)
	}
	ctx := testContext(t)
	for range 20 { // use up what the limit lets through at first
		soon, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		_, _ = l.Guest("one").Ping(soon, l.Internet.Addr4(), PingOptions{HopLimit: 1})
		cancel()
	}
	hops, err := l.Guest("one").Trace(ctx, l.Internet.Addr4(), TraceOptions{Timeout: 20 * time.Millisecond})
	if err != nil || len(hops) != 3 || hops[0].IsValid() || hops[1] != l.Gateway.Addr4() {
		t.Errorf("got %v, %v", hops, err)
	}
}

func TestTransfers(t *testing.T) {
	l := kernel(t, seed(), Options{})
	ctx := testContext(t)
	one, x := l.Guest("one"), l.Internet
	if _, err := x.ServeTCP(80); err != nil {
		t.Fatal(err)
	}
	if _, err := x.ServeTCP(80); err != nil {
		t.Errorf("serving again: %v", err)
	}
	if err := x.ServeUDP(80); err != nil {
		t.Fatal(err)
	}
	for _, a := range []netip.Addr{x.Addr4(), x.Addr6()} {
		to := netip.AddrPortFrom(a, 80)
		for _, size := range []int{0, 1, 100_000, 8 << 20} {
			if err := one.Transfer(ctx, to, size); err != nil {
				t.Errorf("%d bytes to %s: %v", size, to, err)
			}
		}
		for _, size := range []int{8, 1000, 8000} {
			if d, err := one.EchoUDP(ctx, to, size, time.Second); err != nil || d <= 0 {
				t.Errorf("a datagram of %d bytes to %s: %v, %v", size, to, d, err)
			}
		}
		up, err := one.Throughput(ctx, to, 50*time.Millisecond)
		if err != nil || up <= 0 {
			t.Errorf("to %s: %v bit/s, %v", to, up, err)
		}
		down, err := one.ThroughputFrom(ctx, to, 50*time.Millisecond)
		if err != nil || down <= 0 {
			t.Errorf("from %s: %v bit/s, %v", to, down, err)
		}
		t.Logf("%s: %.1f Gbit/s up, %.1f down", to, up/1e9, down/1e9)
		c, err := one.Open(ctx, to)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := c.Check(ctx); err != nil {
				t.Error(err)
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestTransfersFail(t *testing.T) {
	l := kernel(t, seed(), Options{})
	ctx := testContext(t)
	one, x := l.Guest("one"), l.Internet
	closed := netip.AddrPortFrom(x.Addr4(), 81)
	if err := one.Transfer(ctx, closed, 10); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a closed port: %v", err)
	}
	if _, err := one.EchoUDP(ctx, closed, 10, 0); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a closed port: %v", err)
	}
	s, err := x.ServeTCP(80)
	if err != nil {
		t.Fatal(err)
	}
	to := netip.AddrPortFrom(x.Addr4(), 80)
	c, err := one.Open(ctx, to)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// With the way cut a connection notices by its context alone.
	if err := x.SetDown(x.Link); err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if err := c.Check(soon); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the way is cut: %v", err)
	}
	if err := one.Transfer(soon, to, 1000); err == nil {
		t.Error("a transfer went through a cut")
	}
	if _, err := one.EchoUDP(soon, to, 10, time.Millisecond); err == nil {
		t.Error("an echo came through a cut")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
