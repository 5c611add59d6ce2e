package dom0

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"udrouter/integration/dom0/dom0test"
	"udrouter/policy"
)

// fencePort is one that every list of rules of these tests admits over UDP. What arrives there ends a wait.
const fencePort = 4999

// ports makes ranges: two numbers each.
func ports(list ...uint16) (out []policy.PortRange) {
	for p := range slices.Chunk(list, 2) {
		out = append(out, policy.PortRange{First: p[0], Last: p[1]})
	}
	return out
}

func peers(list ...string) (out []policy.Peer) {
	for _, s := range list {
		switch {
		case s == "uplink":
			out = append(out, policy.Peer{Kind: policy.PeerUplink})
		case s == "host":
			out = append(out, policy.Peer{Kind: policy.PeerHost})
		case strings.HasPrefix(s, "domu:"):
			out = append(out, policy.Peer{Kind: policy.PeerDomu, Domu: s[5:]})
		default:
			out = append(out, policy.Peer{Kind: policy.PeerPrefix, Prefix: netip.MustParsePrefix(s)})
		}
	}
	return out
}

func chainOf(dflt policy.Action, rules ...policy.Rule) *policy.Chain {
	for i := range rules {
		if rules[i].Name == "" {
			rules[i].Name = fmt.Sprint("rule ", i)
		}
	}
	fence := policy.Rule{Name: "fence", Action: policy.Accept, Proto: unix.IPPROTO_UDP, Ports: ports(fencePort, fencePort)}
	return &policy.Chain{Default: dflt, Rules: append([]policy.Rule{fence}, rules...)}
}

// seedInput is the seed's ip6tables INPUT list (reference/xen-hetzner-proxy-ndp.txt), for both families.
func seedInput() *policy.Chain {
	return chainOf(policy.Drop,
		policy.Rule{Name: "ssh", Action: policy.Accept, Proto: unix.IPPROTO_TCP, Ports: ports(22, 22)},
		policy.Rule{Name: "icmpv6", Action: policy.Accept, Proto: unix.IPPROTO_ICMPV6})
}

func (w *world) input(c *policy.Chain) Spec {
	s := w.spec()
	s.HostUplink = c
	return s
}

// inbox are UDP sockets of dom0, for both families.
type inbox struct {
	w     *world
	a     *asker
	to    policy.MAC
	socks []int
	fence int
	n     int
}

func (w *world) inbox(ports ...uint16) *inbox {
	w.t.Helper()
	b := &inbox{w: w, a: w.asker(), to: w.macOf(w.dom0, "eth0")}
	for _, port := range append(ports, fencePort) {
		w.do(w.dom0, func() error {
			fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			b.socks = append(b.socks, fd)
			return unix.Bind(fd, &unix.SockaddrInet6{Port: int(port)})
		})
	}
	b.fence = b.socks[len(b.socks)-1]
	w.t.Cleanup(func() {
		for _, fd := range b.socks {
			unix.Close(fd)
		}
	})
	return b
}

// frame puts a packet to dom0 into a frame of the provider's.
func (b *inbox) frame(packet []byte) []byte {
	et := uint16(unix.ETH_P_IP)
	if packet[0]>>4 == 6 {
		et = unix.ETH_P_IPV6
	}
	return ether(b.to, b.a.mac, et, packet)
}

// get sends packets from the provider's side and returns what arrived, in the sockets' order. Packets arrive in the order in which they are
// sent, so that there is nothing to wait for but the last.
func (b *inbox) get(packets ...[]byte) (out []string) {
	t := b.w.t
	t.Helper()
	b.n++
	last := fmt.Sprint("fence ", b.n)
	var frames [][]byte
	for _, p := range append(packets, udp(askerV4, dom0V4, fencePort, last)) {
		frames = append(frames, b.frame(p))
	}
	send(t, b.a.f, frames...)
	buf := make([]byte, 2000)
	limit := unix.NsecToTimeval(int64(patience))
	must(t, unix.SetsockoptTimeval(b.fence, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit))
	for {
		n, _, err := unix.Recvfrom(b.fence, buf, 0)
		if err != nil {
			t.Fatalf("waiting for the last packet: %v", err)
		}
		if string(buf[:n]) == last {
			break
		}
	}
	for _, fd := range b.socks[:len(b.socks)-1] {
		for {
			n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
			if err != nil {
				break
			}
			out = append(out, string(buf[:n]))
		}
	}
	return out
}

// admitted are the packets of TestInputRules that a chain admits by itself, as explain asks it.
func admitted(t *testing.T, c *policy.Chain) (out []string) {
	t.Helper()
	m, err := policy.CompileChain(*c, func(string) []netip.Prefix { return nil })
	must(t, err)
	for port := range uint16(4) {
		for _, e := range [][3]string{{askerV4, dom0V4, "v4"}, {askerV6, dom0V6, "v6"}} {
			q := policy.Query{Src: netip.MustParseAddr(e[0]), Dst: netip.MustParseAddr(e[1]), SrcZone: policy.ZoneUplink, DstZone: policy.ZoneHost,
				Proto: unix.IPPROTO_UDP, DstPort: 5000 + port, HasPort: true}
			if action, _ := m.Match(&q); action == policy.Accept {
				out = append(out, fmt.Sprint(port, e[2]))
			}
		}
	}
	return out
}

func TestInputRules(t *testing.T) {
	w := newWorld(t)
	b := w.inbox(5000, 5001, 5002, 5003)
	var all [][]byte
	for port := range uint16(4) {
		all = append(all, udp(askerV4, dom0V4, 5000+port, fmt.Sprint(port, "v4")), udp(askerV6, dom0V6, 5000+port, fmt.Sprint(port, "v6")))
	}
	everything := []string{"0v4", "0v6", "1v4", "1v6", "2v4", "2v6", "3v4", "3v6"}
	rule := func(a policy.Action, p []policy.PortRange, from, to []policy.Peer) policy.Rule {
		return policy.Rule{Action: a, Proto: unix.IPPROTO_UDP, Ports: p, From: from, To: to}
	}
	d := w.open(w.spec())
	if got := b.get(all...); !slices.Equal(got, everything) {
		t.Fatalf("without rules %q arrived", got)
	}
	accept, drop := policy.Accept, policy.Drop
	for name, c := range map[string]struct {
		chain *policy.Chain
		want  []string
		count map[int]uint64 // by the rule's index, what it decides
	}{
		"default drop":   {chainOf(drop), nil, nil},
		"default accept": {chainOf(accept), everything, nil},
		"default reject": {chainOf(policy.Reject), nil, nil},
		"a port":         {chainOf(drop, rule(accept, ports(5001, 5001), nil, nil)), []string{"1v4", "1v6"}, map[int]uint64{0: 2}},
		"a range":        {chainOf(drop, rule(accept, ports(5001, 5002), nil, nil)), []string{"1v4", "1v6", "2v4", "2v6"}, nil},
		"ranges, unordered": {chainOf(drop, rule(accept, ports(5003, 65535, 5000, 5001, 1, 9), nil, nil)),
			[]string{"0v4", "0v6", "1v4", "1v6", "3v4", "3v6"}, nil},
		"every port":       {chainOf(drop, rule(accept, nil, nil, nil)), everything, map[int]uint64{0: 8}},
		"another protocol": {chainOf(drop, policy.Rule{Action: accept, Proto: unix.IPPROTO_TCP}), nil, nil},
		"a number":         {chainOf(drop, policy.Rule{Action: accept, Proto: 17}), everything, nil},
		"every protocol":   {chainOf(drop, policy.Rule{Action: accept, Proto: policy.AnyProto}), everything, nil},
		"icmp is not UDP":  {chainOf(drop, policy.Rule{Action: accept, Proto: 1}, policy.Rule{Action: accept, Proto: 58}), nil, nil},
		"first match": {chainOf(accept, rule(accept, ports(5001, 5001), nil, nil), rule(drop, ports(5000, 5002), nil, nil)),
			[]string{"1v4", "1v6", "3v4", "3v6"}, map[int]uint64{0: 2, 1: 4}},
		"from one":       {chainOf(drop, rule(accept, nil, peers(askerV4+"/32"), nil)), []string{"0v4", "1v4", "2v4", "3v4"}, nil},
		"from the other": {chainOf(drop, rule(accept, nil, peers(upV4+"/32"), nil)), nil, nil},
		"from a prefix":  {chainOf(drop, rule(accept, ports(5000, 5000), peers("2001:db8:2::/47"), nil)), []string{"0v6"}, nil},
		"from /0":        {chainOf(drop, rule(accept, ports(5000, 5000), peers("::/0"), nil)), []string{"0v6"}, nil},
		"from several": {chainOf(drop, rule(accept, ports(5000, 5000),
			peers("203.0.113.0/24", "192.0.0.0/22", "192.0.1.0/24", "10.0.0.0/8", "2001:db8:ffff::/48"), nil)), []string{"0v4"}, nil},
		"from several v6":     {chainOf(drop, rule(accept, ports(5000, 5001), peers("2001:db8:3:2::/127", "2001:db8:3:2::2/127"), nil)), []string{"0v6", "1v6"}, nil},
		"from the uplink":     {chainOf(drop, rule(accept, ports(5000, 5000), peers("uplink"), peers("host"))), []string{"0v4", "0v6"}, nil},
		"uplink among others": {chainOf(drop, rule(accept, ports(5000, 5000), peers("203.0.113.0/24", "uplink"), nil)), []string{"0v4", "0v6"}, nil},
		"who is not there": {chainOf(drop, rule(accept, nil, peers("domu:one", "host"), nil), rule(accept, nil, nil, peers("domu:one", "uplink"))),
			nil, map[int]uint64{0: 0, 1: 0}},
		"to dom0":              {chainOf(drop, rule(accept, ports(5000, 5000), nil, peers(dom0V4+"/32"))), []string{"0v4"}, nil},
		"to another":           {chainOf(drop, rule(accept, nil, nil, peers("192.0.1.4/32", "2001:db8:3:2::/80"))), nil, nil},
		"ends that never meet": {chainOf(drop, rule(accept, nil, peers("192.0.0.0/16"), peers("2001:db8::/32"))), nil, map[int]uint64{0: 0}},
	} {
		t.Run(name, func(t *testing.T) {
			must(t, d.Update(w.spec())) // another case may have had the same rules, and counted
			must(t, d.Update(w.input(c.chain)))
			if got := b.get(all...); !slices.Equal(got, c.want) {
				t.Errorf("%q arrived, not %q", got, c.want)
			}
			if got := admitted(t, c.chain); !slices.Equal(got, c.want) {
				t.Errorf("the compiled chain admits %q, not %q", got, c.want)
			}
			n, err := d.Counters()
			must(t, err)
			for i, want := range c.count {
				if got := n[CountInputRule(fmt.Sprint("rule ", i))]; got != want {
					t.Errorf("rule %d counted %d, not %d", i, got, want)
				}
			}
			if n[CountInputRule("fence")] != 1 {
				t.Errorf("counted %v", n)
			}
			// The same in the file's order, with the bytes; each packet has met one rule, or the default.
			list, err := d.InputCounts()
			must(t, err)
			var sum InputCount
			for i, got := range list {
				want := n[CountInputDefault]
				if i < len(c.chain.Rules) {
					want = n[CountInputRule(c.chain.Rules[i].Name)]
				}
				if got.Packets != want {
					t.Errorf("number %d counted %d packets, not %d", i, got.Packets, want)
				}
				sum.Packets, sum.Bytes = sum.Packets+got.Packets, sum.Bytes+got.Bytes
			}
			want := InputCount{1, uint64(len(udp(askerV4, dom0V4, fencePort, fmt.Sprint("fence ", b.n))))}
			for _, p := range all {
				want.Packets, want.Bytes = want.Packets+1, want.Bytes+uint64(len(p))
			}
			if len(list) != len(c.chain.Rules)+1 || sum != want {
				t.Errorf("%d counters for %d rules, together %v, not %v", len(list), len(c.chain.Rules), sum, want)
			}
			must(t, d.Update(w.input(c.chain))) // the same rules: nothing is replaced
			if again, err := d.Counters(); err != nil || again[CountInputRule("fence")] != 1 {
				t.Errorf("after an update that changes nothing %v, %v", again, err)
			}
		})
	}
	must(t, d.Update(w.spec()))
	if list, err := d.InputCounts(); list != nil || err != nil {
		t.Errorf("without rules %v, %v", list, err)
	}
	if got := b.get(all...); !slices.Equal(got, everything) {
		t.Errorf("when the rules were taken away %q arrived", got)
	}
}

// dial opens a TCP connection to a listener of another namespace; a is the end that opened it.
func (w *world) dial(from, to netns.NsHandle, addr string) *echo {
	w.t.Helper()
	var l net.Listener
	w.do(to, func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	})
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := l.Accept()
		accepted <- c
	}()
	e := new(echo)
	w.do(from, func() (err error) {
		e.a, err = (&net.Dialer{Timeout: patience}).Dial("tcp", l.Addr().String())
		return err
	})
	e.b = <-accepted
	w.t.Cleanup(func() { e.a.Close(); e.b.Close() })
	return e
}

// refused tells how the provider's side fails to open a connection: by an answer, or because it was given up when the counter had moved.
func (w *world) refused(d *Dom0, counter, addr string) error {
	w.t.Helper()
	count := func() uint64 {
		n, err := d.Counters()
		must(w.t, err)
		return n[counter]
	}
	before := count()
	ctx, giveUp := context.WithCancel(w.t.Context())
	defer giveUp()
	done := make(chan error, 1)
	go func() {
		done <- dom0test.Do(w.up, func() error {
			c, err := (&net.Dialer{FallbackDelay: -1}).DialContext(ctx, "tcp", addr) // in this thread
			if err == nil {
				c.Close()
			}
			return err
		})
	}()
	eventually(w.t, counter+" moves", func() bool { return count() > before })
	giveUp()
	return <-done
}

// The seed's list: ssh and ICMPv6 come in, nothing else does; dom0's own connections work, those from before as well, and the other
// interfaces do as they did.
func TestInputSeed(t *testing.T) {
	w := newWorld(t)
	lan := newNS(t)
	w.veth(w.dom0, "lan0", lan, "eth0", policy.MAC{})
	w.do(w.dom0, func() error { return addAddr("lan0", "10.9.0.1/24") })
	w.do(lan, func() error { return addAddr("eth0", "10.9.0.2/24") })
	before := w.snapshot()
	d := w.open(w.input(seedInput()))
	w.forgetNeighbours()
	for _, host := range []string{dom0V4, dom0V6} {
		w.dial(w.up, w.dom0, net.JoinHostPort(host, "22")).works(t, "ssh")
		if err := w.refused(d, CountInputDefault, net.JoinHostPort(host, "80")); err == nil || errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("port 80 of %s: %v, want no answer", host, err)
		}
		w.dial(w.dom0, w.dom0, net.JoinHostPort(host, "80")).works(t, "dom0 to itself")
	}
	for _, host := range []string{upV4, upV6} {
		w.dial(w.dom0, w.up, net.JoinHostPort(host, "80")).works(t, "dom0's own")
	}
	w.dial(lan, w.dom0, "10.9.0.1:80").works(t, "another interface")
	n, err := d.Counters()
	must(t, err)
	if n[CountInputRule("ssh")] != 2 {
		t.Errorf("counted %v", n)
	}
	must(t, d.Close())
	diff(t, before, w.snapshot())
}

// download sends from b to a.
func (e *echo) download(t testing.TB, size int64) {
	t.Helper()
	must(t, errors.Join(e.a.SetDeadline(time.Now().Add(patience)), e.b.SetDeadline(time.Now().Add(patience))))
	done := make(chan error, 1)
	go func() {
		_, err := e.b.Write(make([]byte, size))
		done <- err
	}()
	if _, err := io.CopyN(io.Discard, e.a, size); err != nil {
		t.Errorf("downloading: %v", err)
	}
	if err := <-done; err != nil {
		t.Errorf("downloading: %v", err)
	}
}

// Connections from before are nobody's new ones, whoever speaks first, whether the kernel has tracked them or not, and whatever the rules say.
func TestInputKeepsConnections(t *testing.T) {
	w := newWorld(t)
	var conns []*echo // of which b speaks first
	for _, p := range [][2]string{{dom0V4, upV4}, {dom0V6, upV6}} {
		in := w.dial(w.up, w.dom0, net.JoinHostPort(p[0], "0"))
		in.a, in.b = in.b, in.a
		conns = append(conns, in, w.dial(w.dom0, w.up, net.JoinHostPort(p[1], "0")))
		// A mapped address: an IPv6 socket that speaks IPv4.
		var c, peer *net.UDPConn
		w.do(w.up, func() (err error) {
			peer, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(p[1])})
			return err
		})
		w.do(w.dom0, func() (err error) {
			c, err = net.DialUDP("udp", nil, peer.LocalAddr().(*net.UDPAddr))
			return err
		})
		peer.Close()
		w.do(w.up, func() (err error) {
			peer, err = net.DialUDP("udp", peer.LocalAddr().(*net.UDPAddr), c.LocalAddr().(*net.UDPAddr))
			return err
		})
		e := &echo{c, peer}
		w.t.Cleanup(func() { e.a.Close(); e.b.Close() })
		conns = append(conns, e)
	}
	alive := func(when string) {
		t.Helper()
		for _, c := range conns {
			(&echo{c.b, c.a}).works(t, when)
		}
	}
	d := w.open(w.input(chainOf(policy.Drop)))
	alive("as soon as there are rules")
	for _, c := range conns {
		if _, ok := c.a.(*net.TCPConn); ok {
			c.download(t, 4<<20)
		}
	}
	// Connection tracking does not know these connections' windows, and must not take anything to be out of them.
	if n, err := d.Counters(); err != nil || n[CountInputDefault] > 0 {
		t.Errorf("counted %v, %v", n, err)
	}
	must(t, d.Update(w.input(chainOf(policy.Reject, policy.Rule{Action: policy.Drop, Proto: unix.IPPROTO_TCP}))))
	alive("under other rules")
	must(t, d.Update(w.spec()))
	alive("without rules")
	must(t, d.Update(w.input(chainOf(policy.Drop))))
	alive("when there are rules again")
	d.abandon()
	alive("after a kill")
	d = w.open(w.input(chainOf(policy.Drop)))
	alive("after the next start")
	if err := d.guard.untracked; err != nil {
		t.Error(err)
	}
	must(t, d.Close())
	alive("after the end")
}

// Flushed by somebody else, the rules return, and what was opened before goes on.
func TestInputReturns(t *testing.T) {
	w := newWorld(t)
	d := w.open(w.input(seedInput()))
	w.run(d)
	before := w.snapshot()
	c := w.dial(w.dom0, w.up, net.JoinHostPort(upV6, "0"))
	w.do(w.dom0, func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		c.FlushRuleset()
		return c.Flush()
	})
	eventually(t, "the tables are back", func() bool { return w.snapshot() == before })
	(&echo{c.b, c.a}).works(t, "after the tables' return")
	if err := w.refused(d, CountInputDefault, net.JoinHostPort(dom0V6, "80")); err == nil {
		t.Error("port 80 is open")
	}
}

// userTable is a firewall of dom0's own: a counter and a drop of one port.
func (w *world) userTable(port uint16) {
	w.t.Helper()
	w.do(w.dom0, func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		tb := c.AddTable(&nftables.Table{Name: "user", Family: nftables.TableFamilyINet})
		ch := c.AddChain(&nftables.Chain{Name: "in", Table: tb, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
		c.AddRule(&nftables.Rule{Table: tb, Chain: ch, Exprs: []expr.Any{&expr.Counter{}}})
		c.AddRule(&nftables.Rule{Table: tb, Chain: ch, Exprs: drop("", l4proto(unix.IPPROTO_UDP), load(l4Header, 2, 2), is(be16(port)...)).exprs})
		return c.Flush()
	})
}

// Other tables have their word, see everything, and stay as they are.
func TestInputBesideOthers(t *testing.T) {
	w := newWorld(t)
	w.userTable(5001)
	before := w.snapshot()
	b := w.inbox(5000, 5001)
	packets := [][]byte{udp(askerV4, dom0V4, 5000, "open"),
		udp(askerV4, dom0V4, 5001, "the user's drop"), udp(askerV6, dom0V6, 5001, "the user's drop")}
	d := w.open(w.input(chainOf(policy.Accept)))
	if got := b.get(packets...); !slices.Equal(got, []string{"open"}) {
		t.Errorf("%q arrived", got)
	}
	must(t, d.Update(w.input(chainOf(policy.Drop))))
	if got := b.get(packets...); len(got) > 0 {
		t.Errorf("%q arrived under our drop", got)
	}
	n, err := d.Counters()
	must(t, err)
	if n[CountInputDefault] != 1 {
		t.Errorf("the default counted %d, not the one that the user's table has let through", n[CountInputDefault])
	}
	must(t, d.Close())
	diff(t, before, w.snapshot())
	if got := b.get(packets...); !slices.Equal(got, []string{"open"}) {
		t.Errorf("%q arrived after the end", got)
	}
}

// So many rules are one transaction, and another many replace them in one.
func TestInputTenThousandRules(t *testing.T) {
	w := newWorld(t)
	before := w.snapshot()
	b := w.inbox(60000)
	many := func(first byte, last policy.Action) *policy.Chain {
		var rules []policy.Rule
		for i := range 10_000 {
			rules = append(rules, policy.Rule{Name: fmt.Sprint("no. ", i), Action: policy.Drop, Proto: unix.IPPROTO_UDP, Ports: ports(1000, 2000, 3000, 4000),
				From: peers(netip.AddrFrom4([4]byte{10, first, byte(i >> 8), byte(i)}).String()+"/32", "2001:db8:ffff::/48")})
		}
		return chainOf(policy.Drop, append(rules, policy.Rule{Name: "last", Action: last, Proto: unix.IPPROTO_UDP, Ports: ports(60000, 60000)})...)
	}
	start := time.Now()
	d := w.open(w.input(many(1, policy.Accept)))
	t.Logf("opened in %v", time.Since(start))
	w.run(d)
	packet := udp(askerV6, dom0V6, 60000, "through")
	if got := b.get(packet); len(got) != 1 {
		t.Errorf("%q arrived", got)
	}
	n, err := d.Counters()
	must(t, err)
	if n[CountInputRule("last")] != 1 || len(n) < 10_000 {
		t.Errorf("%d counters, the last rule has %d", len(n), n[CountInputRule("last")])
	}
	must(t, d.Update(w.input(many(2, policy.Drop))))
	if got := b.get(packet); len(got) != 0 {
		t.Errorf("%q arrived", got)
	}
	// The kernel tells of each rule. That is not taken for somebody else's change, or the rules would be replaced for ever.
	for _, a := range []string{"2001:db8:3:2:1::98", "2001:db8:3:2:1::99"} {
		w.do(w.dom0, func() error { return addAddr("eth0", host(a)) })
		eventually(t, a+" is held", func() bool { return slices.Contains(w.heldSet("held6"), netip.MustParseAddr(a)) })
	}
	if n, err = d.Counters(); err != nil || n[CountInputRule("last")] != 1 {
		t.Errorf("the last rule has %d, %v", n[CountInputRule("last")], err)
	}
	w.do(w.dom0, func() error {
		return errors.Join(delAddr("eth0", host("2001:db8:3:2:1::98")), delAddr("eth0", host("2001:db8:3:2:1::99")))
	})
	must(t, d.Close())
	diff(t, before, w.snapshot())
}
