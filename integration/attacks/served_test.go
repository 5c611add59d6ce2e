package main

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/integration/lab"
	"udrouter/integration/wire"
	"udrouter/policy"
)

// serving is a file with the router's own advertisements and DHCP.
func serving(source []byte) string {
	return strings.NewReplacer(
		"upstream = \"routed\"\n}", "upstream = \"routed\"\n  dhcp {}\n}",
		"upstream = \"proxied\"\n", "upstream = \"proxied\"\n  ra {}\n  dhcp {}\n",
	).Replace(string(source))
}

// configured counts what a guest is told of its configuration.
type configured struct{ ra, dhcp4, dhcp6, foreign atomic.Int64 }

// listen counts at a guest until the test ends; foreign is what is told by another, or is for another.
func listen(t *testing.T, router policy.MAC, g *lab.Guest) *configured {
	c := &configured{}
	s, err := g.Sniff(g.Link, lab.SniffOptions{Keep: func(f []byte) bool {
		var p policy.Packet
		if p.Parse(f, policy.Offload{}) != policy.None || p.SrcMAC == g.MAC {
			return false
		}
		var n *atomic.Int64
		switch {
		case p.IsND() && p.ICMPType == policy.RouterAdvertisement:
			n = &c.ra
		case p.IsIPv4() && p.Proto == policy.ProtoUDP && p.DstPort == 68:
			n = &c.dhcp4
		case p.IsIPv6() && p.Proto == policy.ProtoUDP && p.DstPort == 546:
			n = &c.dhcp6
		default:
			return false
		}
		if n.Add(1); p.SrcMAC != router || p.DstMAC != g.MAC {
			c.foreign.Add(1)
		}
		return false
	}})
	wire.Must(t, err)
	t.Cleanup(func() { s.Close() })
	return c
}

// discover is what a client of guest one's asks every server for.
func discover() []byte {
	b := make([]byte, 240, 244)
	b[0], b[1], b[2] = 1, 1, 6
	copy(b[28:], cases.MAC1[:])
	binary.BigEndian.PutUint32(b[236:], 0x63825363)
	nobody, everybody := netip.AddrPortFrom(netip.IPv4Unspecified(), 68), netip.AddrPortFrom(netip.MustParseAddr("255.255.255.255"), 67)
	return cases.Datagram(toAll, cases.MAC1, nobody, everybody, append(b, 53, 1, 1, 255))
}

// Where the router tells guests of itself and gives them their addresses, nobody else does, and what is refused elsewhere is refused here, for
// the same reason, but what a client says for itself.
func TestRowsWhereItIsServed(t *testing.T) {
	served := map[string]policy.Reason{ // and what becomes of them
		"DHCP: DISCOVER from 0.0.0.0 to 255.255.255.255":    policy.None,
		"DHCP: DISCOVER from 192.0.2.10 to 255.255.255.255": policy.None,
		"DHCP: DISCOVER from 192.0.2.11 to 255.255.255.255": policy.IPBinding,
		"DHCP: SOLICIT to ff02::1:2":                        policy.None, // it names no client: nobody is answered
	}
	s := newStage(t, serving([]byte(sourceOf(false))), false)
	s.serves = true
	one, two := listen(t, s.Net.Router, s.Lab.Guest("one")), listen(t, s.Net.Router, s.Lab.Guest("two"))
	seen, solicited := 0, one.ra.Load()
	for _, c := range cases.All() {
		if !hostile(c) || c.Enforced || !slices.Contains([]int{51, 52, 54, 56}, c.Attack()) {
			continue
		}
		reason, is := served[c.Name]
		if is {
			seen++
		} else {
			reason = c.Reason
		}
		t.Run(c.Name, func(t *testing.T) {
			told, before := one.dhcp4.Load()+one.dhcp6.Load(), wire.Status(t, s.Proc).Drops
			if h, what := s.suffer(t, c); h != (harm{}) {
				t.Errorf("through udrouter to %s\n%s", h, strings.Join(what, "\n"))
			}
			after := wire.Status(t, s.Proc).Drops
			if reason != policy.None && !c.Bridge && after[reason.String()] == before[reason.String()] {
				t.Errorf("nothing was dropped as %s", reason)
			}
			answered := is && reason == policy.None && strings.Contains(c.Name, "DISCOVER")
			if n := one.dhcp4.Load() + one.dhcp6.Load() - told; (n > 0) != answered {
				t.Errorf("%d answers of DHCP", n)
			}
		})
	}
	if seen != len(served) {
		t.Errorf("%d of %d rows that are served", seen, len(served))
	}
	s.T = t
	wire.Must(t, lab.Await(wire.Context(t), "an advertisement for who has asked", func() (bool, error) { return one.ra.Load() > solicited, nil }))
	for _, g := range []*configured{one, two} {
		if n := g.foreign.Load(); n > 0 {
			t.Errorf("%d advertisements or leases of others", n)
		}
	}
	if n := two.dhcp4.Load() + two.dhcp6.Load(); n > 0 {
		t.Errorf("the neighbour, who has asked for nothing, was told %d times", n)
	}
	s.Canary()
}

// A guest that asks for advertisements and leases without end is told as often as its share allows. Its neighbours open connections meanwhile.
func TestFloodsWhereItIsServed(t *testing.T) {
	s, err := newSceneOf(t.Context(), wire.Exe, serving(config.Reference))
	wire.Must(t, err)
	t.Cleanup(func() { wire.Must(t, s.close()) })
	one, two := listen(t, s.router, s.lab.Guest("one")), listen(t, s.router, s.lab.Guest("two"))
	solicitation := slices.IndexFunc(floods, func(f flood) bool { return f.args == "RS" })
	for _, c := range []struct {
		flood     flood
		told      *atomic.Int64
		burst     float64 // of answers, and how many a second there are
		perSecond float64
	}{
		{flood{tool: tool{args: "RS", drops: "nd-limit"}, frame: floods[solicitation].frame}, &one.ra, 3, 1. / 3},
		{flood{tool: tool{args: "DISCOVER", drops: "router-limit"}, frame: func(*scene, int) []byte { return discover() }}, &one.dhcp4, 10, 10},
	} {
		t.Run(c.flood.args, func(t *testing.T) {
			before, start := c.told.Load(), time.Now()
			o := s.suffer(wire.Context(t), c.flood.tool, func() ([]byte, error, error) { return c.flood.send(wire.Context(t), t, s) })
			wire.Must(t, lab.Await(wire.Context(t), "an answer, which may be delayed", func() (bool, error) { return c.told.Load() > before, nil }))
			told, most := c.told.Load()-before, c.burst+c.perSecond*time.Since(start).Seconds()+1
			t.Logf("%d answers; %s", told, o.detail())
			for _, why := range o.bad(c.flood.tool) {
				t.Error(why)
			}
			if float64(told) > most {
				t.Errorf("told %d times, of %.0f at most", told, most)
			}
		})
	}
	for _, g := range []*configured{one, two} {
		if n := g.foreign.Load(); n > 0 {
			t.Errorf("%d advertisements or leases of others", n)
		}
	}
}
