package router

import (
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"udrouter/integration/cases"
	"udrouter/policy"
	"udrouter/stack"
)

// listing is a router with a TCP connection of each guest, and datagrams of the first: one, three and two of them to three ports.
func listing(t *testing.T) *sim {
	t.Helper()
	s := knowing(t, edit())
	for i, g := range []struct {
		mac  policy.MAC
		addr netip.Addr
	}{{cases.MAC1, cases.One4}, {cases.MAC2, cases.Two6}} {
		x := netip.AddrPortFrom([]netip.Addr{cases.X4, cases.X6}[i], 443)
		s.send(stack.Guests, cases.TCP(s.RouterMAC, g.mac, netip.AddrPortFrom(g.addr, 40000), x, 2, 999, 0, 0))
		s.clock.Advance(time.Second)
	}
	for port, n := range map[uint16]int{1: 1, 2: 3, 3: 2} {
		for range n {
			s.send(stack.Guests, cases.Datagram(s.RouterMAC, cases.MAC1, netip.AddrPortFrom(cases.One4, 30000), netip.AddrPortFrom(cases.X4, 5000+port), make([]byte, 100)))
		}
	}
	return s
}

// The flows that a query selects, in its order.
func TestFlows(t *testing.T) {
	s := listing(t)
	const (
		tcp1, tcp2       = "tcp 192.0.2.10:40000", "tcp [2001:db8:3:2:1::11]:40000"
		one, two, three4 = "udp 198.51.100.7:5001", "udp 198.51.100.7:5002", "udp 198.51.100.7:5003"
	)
	for _, c := range []struct {
		query string
		want  []string // those of TCP by their source, those of UDP by their destination
	}{
		{"proto=udp", []string{two, three4, one}},
		{"proto=17&sort=bytes&limit=2", []string{two, three4}},
		{"sort=packets&limit=1", []string{two}},
		{"sort=age&proto=tcp", []string{tcp2, tcp1}},
		{"sort=idle&proto=6", []string{tcp1, tcp2}},
		{"domu=two", []string{tcp2}},
		{"domu=one&proto=6", []string{tcp1}},
		{"addr=2001:db8:3:2::/64", []string{tcp2}},
		{"addr=192.0.2.10&port=443", []string{tcp1}},
		{"port=5003", []string{three4}},
		{"state=syn-sent&sort=age", []string{tcp2, tcp1}},
		{"state=established", nil},
		{"proto=icmp", nil},
		{"port=30000&sort=packets&addr=198.51.100.0/24", []string{two, three4, one}},
	} {
		q, err := url.ParseQuery(c.query)
		if err != nil {
			t.Fatal(err)
		}
		l, err := s.Flows(q)
		var got []string
		for _, f := range l.Flows {
			end := f.Src
			if f.Proto == "udp" {
				end = f.Dst
			}
			got = append(got, f.Proto+" "+end)
		}
		if err != nil || !slices.Equal(got, c.want) || strings.Contains(c.query, "limit") != (l.Matched > len(got)) {
			t.Errorf("%s: %d, %q, %v; want %q", c.query, l.Matched, got, err, c.want)
		}
	}
	l, err := s.Flows(url.Values{"port": {"5002"}})
	if err != nil {
		t.Fatal(err)
	}
	want := FlowRecord{Domu: "one", From: "domu:one", To: "uplink", Proto: "udp", Src: "192.0.2.10:30000", Dst: "198.51.100.7:5002", State: "unreplied", Expires: 30, Packets: 3, Bytes: 3 * 128}
	if got := l.Flows[0]; got.Source == "" || got.Rule != "" {
		t.Errorf("%+v", got)
	} else if got.Source = ""; got != want {
		t.Errorf("%+v\nwant %+v", got, want)
	}
	for _, bad := range []string{"proto=quic", "proto=256", "port=0", "port=65536", "addr=x", "state=open", "sort=size", "limit=0", "limit=50001", "domu=three", "colour=red"} {
		q, _ := url.ParseQuery(bad)
		if l, err := s.Flows(q); err == nil || len(l.Flows) > 0 {
			t.Errorf("%s: %+v", bad, l)
		} else if key, _, _ := strings.Cut(bad, "="); !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// Neighbours of both sides, as they are known.
func TestNeighbours(t *testing.T) {
	s := listing(t)
	l := s.Neighbours()
	if n := l.Uplink[0]; !n.Gateway || n.State != "reachable" || n.MAC != gatewayMAC.String() || n.Domu != "" {
		t.Errorf("the gateway is %+v", n)
	}
	if n := l.Uplink[len(l.Uplink)-1]; n.Gateway && len(l.Uplink) > 2 {
		t.Errorf("gateways are not the first: %+v", l.Uplink)
	}
	one := slices.IndexFunc(l.Guests, func(n GuestNeighbour) bool { return n.Addr == cases.One4.String() })
	if one < 0 || l.Guests[one].Domu != "one" || l.Guests[one].MAC != cases.MAC1.String() || l.Guests[one].Vif != "vif1.0" {
		t.Errorf("%+v", l.Guests)
	}
}

// Who looks for connections that have been idle for long finds them first, however old they are.
func TestFlowsIdle(t *testing.T) {
	s := knowing(t, edit())
	for _, port := range []uint16{5001, 5002, 5003, 5001} {
		s.send(stack.Guests, cases.Datagram(s.RouterMAC, cases.MAC1, netip.AddrPortFrom(cases.One4, 30000), netip.AddrPortFrom(cases.X4, port), make([]byte, 100)))
		s.clock.Advance(time.Second)
	}
	for limit, want := range map[string][]string{"3": {":5002", ":5003", ":5001"}, "1": {":5002"}} {
		l, err := s.Flows(url.Values{"sort": {"idle"}, "limit": {limit}})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range l.Flows {
			got = append(got, strings.TrimPrefix(f.Dst, cases.X4.String()))
		}
		if !slices.Equal(got, want) {
			t.Errorf("the first %s are %q, want %q", limit, got, want)
		}
	}
}
