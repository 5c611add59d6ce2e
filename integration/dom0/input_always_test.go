package dom0

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"udrouter/policy"
)

// dom0LL and strangerLL are link-local addresses: dom0's own, which the kernel has made, and one of the provider's side.
func (w *world) dom0LL() string { return policy.EUI64(w.macOf(w.dom0, "eth0")).String() }

const strangerLL = "fe80::99"

// icmp is a packet of ICMP or ICMPv6: type, code, the four bytes after the checksum, and the rest.
func icmp(src, dst string, typ, code byte, info uint32, rest []byte) []byte {
	s, d := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	m := append(binary.BigEndian.AppendUint32([]byte{typ, code, 0, 0}, info), rest...)
	if s.Is4() {
		binary.BigEndian.PutUint16(m[2:], checksum(m))
		ip := make([]byte, 20)
		ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_ICMP
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(m)))
		copy(ip[12:], s.AsSlice())
		copy(ip[16:], d.AsSlice())
		binary.BigEndian.PutUint16(ip[10:], checksum(ip))
		return append(ip, m...)
	}
	pseudo := slices.Concat(s.AsSlice(), d.AsSlice(), binary.BigEndian.AppendUint32(nil, uint32(len(m))), []byte{0, 0, 0, unix.IPPROTO_ICMPV6})
	binary.BigEndian.PutUint16(m[2:], checksum(slices.Concat(pseudo, m)))
	return append(ip6(s, d, unix.IPPROTO_ICMPV6, 64, len(m)), m...)
}

// answered reads frames of the provider's side up to one of ICMP or ICMPv6 with that type from an address, and returns its bytes.
func answered(t testing.TB, f *os.File, from string, types ...byte) []byte {
	t.Helper()
	must(t, f.SetReadDeadline(time.Now().Add(patience)))
	buf := make([]byte, 2000)
	for {
		n, err := f.Read(buf)
		if err != nil {
			t.Fatalf("waiting for ICMP %v from %s: %v", types, from, err)
		}
		var p policy.Packet
		if p.Parse(buf[:n], policy.Offload{}) == policy.None && (p.Proto == policy.ProtoICMP || p.Proto == policy.ProtoICMPv6) &&
			p.Src == netip.MustParseAddr(from) && slices.Contains(types, p.ICMPType) {
			return slices.Clone(buf[:n])
		}
	}
}

// What dom0 needs on its link passes a list without rules, and nothing else does.
func TestInputAlways(t *testing.T) {
	w := newWorld(t)
	d := w.open(w.input(chainOf(policy.Drop)))
	defaults := func() uint64 {
		n, err := d.Counters()
		must(t, err)
		return n[CountInputDefault]
	}
	ll := w.dom0LL()
	b := w.inbox(68, 546)
	t.Run("ND", func(t *testing.T) {
		for range 3 {
			w.forgetNeighbours()
			if got := b.a.answers(); len(got) > 0 { // waits for dom0's own answers
				t.Errorf("answered for %q", got)
			}
			for _, host := range []string{upV4, upV6} { // dom0 has to resolve these
				w.dial(w.dom0, w.up, net.JoinHostPort(host, "0")).works(t, "dom0's own")
			}
		}
	})
	t.Run("MLD", func(t *testing.T) {
		// A general query (RFC 3810 5.1) with a router alert, to be answered within a millisecond.
		q := icmp(strangerLL, "ff02::1", 130, 0, 1<<16, make([]byte, 20))
		q = slices.Concat(q[:40], []byte{unix.IPPROTO_ICMPV6, 0, 5, 2, 0, 0, 1, 0}, q[40:])
		q[6], q[7] = 0, 1
		binary.BigEndian.PutUint16(q[4:], uint16(len(q)-40))
		before := defaults()
		send(t, b.a.f, ether(policy.MAC{0x33, 0x33, 0, 0, 0, 1}, b.a.mac, unix.ETH_P_IPV6, q))
		answered(t, b.a.f, ll, 143)
		for _, typ := range []byte{131, 132, 143} { // others' reports: who hears one need not send its own
			b.get(icmp(strangerLL, "ff02::1:ff00:1", typ, 0, 0, make([]byte, 16)))
		}
		if n := defaults(); n != before {
			t.Errorf("%d packets of MLD were dropped", n-before)
		}
	})
	t.Run("DHCP", func(t *testing.T) {
		got := b.get(
			udpFrom(upV4, 67, "255.255.255.255", 68, "offer"), udpFrom(upV4, 67, dom0V4, 68, "ack"),
			udpFrom(upV4, 68, dom0V4, 68, "not from a server"), udpFrom(upV6, 67, dom0V6, 68, "not in IPv6"),
			udpFrom(strangerLL, 547, ll, 546, "reply"),
			udpFrom(upV6, 547, dom0V6, 546, "from beyond the link"), udpFrom(strangerLL, 546, ll, 546, "not from a server"))
		if want := []string{"offer", "ack", "reply"}; !slices.Equal(got, want) {
			t.Errorf("%q arrived, not %q", got, want)
		}
	})
	if n := defaults(); n < 4 {
		t.Errorf("the default counted %d", n)
	}
}

// ICMP errors pass by the flow that they are about, echo replies by the request, and queries by rules.
func TestInputICMP(t *testing.T) {
	w := newWorld(t)
	d := w.open(w.input(chainOf(policy.Drop,
		policy.Rule{Name: "icmp", Action: policy.Accept, Proto: unix.IPPROTO_ICMP},
		policy.Rule{Name: "icmpv6", Action: policy.Accept, Proto: unix.IPPROTO_ICMPV6})))
	b := w.inbox()
	stray := func() uint64 {
		n, err := d.Counters()
		must(t, err)
		return n[CountInputStray]
	}
	for _, c := range []struct {
		name, src, dst                  string
		request, reply, tooBig, errCode byte
		level, option                   int
	}{
		{"IPv4", upV4, dom0V4, 8, 0, 3, 4, unix.IPPROTO_IP, unix.IP_MTU},
		{"IPv6", upV6, dom0V6, 128, 129, 2, 0, unix.IPPROTO_IPV6, unix.IPV6_MTU},
	} {
		t.Run(c.name, func(t *testing.T) {
			send(t, b.a.f, b.frame(icmp(c.src, c.dst, c.request, 0, 7<<16|1, []byte("echo"))))
			answered(t, b.a.f, c.dst, c.reply)

			var conn *net.UDPConn
			w.do(w.dom0, func() (err error) {
				conn, err = net.DialUDP("udp", nil, &net.UDPAddr{IP: net.ParseIP(c.src), Port: 9})
				return err
			})
			defer conn.Close()
			mtu := func() (v int) {
				raw, err := conn.SyscallConn()
				must(t, err)
				must(t, raw.Control(func(fd uintptr) { v, err = unix.GetsockoptInt(int(fd), c.level, c.option) }))
				must(t, err)
				return v
			}
			tooBig := func(port uint16) []byte {
				about := udpFrom(c.dst, port, c.src, 9, "hello")
				return icmp(c.src, c.dst, c.tooBig, c.errCode, 1300, about)
			}
			own := uint16(conn.LocalAddr().(*net.UDPAddr).Port)
			before := stray()
			b.get(tooBig(own), icmp(c.src, c.dst, c.reply, 0, 8<<16|1, []byte("echo"))) // of no flow: nothing has been sent yet
			if n := stray() - before; n != 2 || mtu() != 1500 {
				t.Errorf("an error and a reply of no flow: %d counted, and the MTU is %d", n, mtu())
			}
			_, err := conn.Write([]byte("hello"))
			must(t, err)
			b.get(tooBig(own))
			if got := mtu(); got != 1300 {
				t.Errorf("an error about dom0's own packet: the MTU is %d", got)
			}
		})
	}
}

// What is rejected is told so, in the words of its protocol; an answer never meets a live connection's late segment.
func TestInputReject(t *testing.T) {
	w := newWorld(t)
	w.do(w.dom0, func() error {
		return errors.Join(sysctl("ipv4/icmp_ratelimit", "0"), sysctl("ipv6/icmp/ratelimit", "0"))
	})
	d := w.open(w.spec())
	b := w.inbox()
	all := policy.Rule{Name: "r", Action: policy.Reject, Proto: policy.AnyProto}
	for counter, c := range map[string]*policy.Chain{CountInputRule("r"): chainOf(policy.Drop, all), CountInputDefault: chainOf(policy.Reject)} {
		t.Run(counter, func(t *testing.T) {
			must(t, d.Update(w.input(c)))
			for _, p := range [][2]string{{upV4, dom0V4}, {upV6, dom0V6}} {
				w.do(w.up, func() error {
					l, err := net.Dial("tcp", net.JoinHostPort(p[1], "80"))
					if err == nil {
						l.Close()
					}
					if !errors.Is(err, syscall.ECONNREFUSED) {
						t.Errorf("TCP: %v, want a reset", err)
					}
					u, err := net.Dial("udp", net.JoinHostPort(p[1], "80"))
					if err != nil {
						return err
					}
					defer u.Close()
					if _, err := u.Write([]byte("x")); err != nil {
						return err
					}
					must(t, u.SetReadDeadline(time.Now().Add(patience)))
					if _, err := u.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
						t.Errorf("UDP: %v, want port unreachable", err)
					}
					return nil
				})
			}
			unreachable := func(packet []byte, from string, typ, code byte) {
				t.Helper()
				send(t, b.a.f, b.frame(packet))
				for {
					f := answered(t, b.a.f, from, typ)
					at := 14 + 20
					if f[12] == 0x86 {
						at = 14 + 40
					}
					if f[at+1] == code {
						return
					}
					if code := f[at+1]; !(typ == 3 && code == 3 || typ == 1 && code == 4) { // those of UDP, above
						t.Fatalf("code %d", code)
					}
				}
			}
			unreachable(icmp(upV4, dom0V4, 8, 0, 1, nil), dom0V4, 3, 13)
			unreachable(icmp(upV6, dom0V6, 128, 0, 1, nil), dom0V6, 1, 1)
			n, err := d.Counters()
			must(t, err)
			if n[counter] < 6 {
				t.Errorf("counted %v", n)
			}
		})
	}
	t.Run("a late segment", func(t *testing.T) {
		e := w.dial(w.dom0, w.up, net.JoinHostPort(upV4, "0"))
		e.works(t, "before")
		own, peer := e.a.LocalAddr().(*net.TCPAddr), e.a.RemoteAddr().(*net.TCPAddr)
		// An acknowledgement of what was never sent, far out of the window: invalid.
		h := make([]byte, 20)
		binary.BigEndian.PutUint16(h, uint16(peer.Port))
		binary.BigEndian.PutUint16(h[2:], uint16(own.Port))
		h[12], h[13], h[14] = 5<<4, 0x10, 0xff
		s, dst := netip.MustParseAddr(upV4), netip.MustParseAddr(dom0V4)
		var late [][]byte
		for seq := range uint32(8) { // over all of the numbers: most of them are out of the window, wherever that is
			binary.BigEndian.PutUint32(h[4:], seq<<29)
			binary.BigEndian.PutUint32(h[8:], seq<<29)
			h[16], h[17] = 0, 0
			binary.BigEndian.PutUint16(h[16:], checksum(slices.Concat(s.AsSlice(), dst.AsSlice(), []byte{0, 6, 0, 20}, h)))
			ip := udp(upV4, dom0V4, 1, strings.Repeat("x", 12)) // of the right length
			ip[9], ip[10], ip[11] = unix.IPPROTO_TCP, 0, 0
			binary.BigEndian.PutUint16(ip[10:], checksum(ip[:20]))
			late = append(late, append(ip[:20:20], h...))
		}
		must(t, d.Update(w.input(chainOf(policy.Reject)))) // counts from 0
		b.get(late...)
		n, err := d.Counters()
		must(t, err)
		if n[CountInputDefault] == 0 {
			t.Errorf("none of %d segments was invalid", len(late))
		}
		send(t, b.a.f, b.frame(icmp(upV4, dom0V4, 8, 0, 1, []byte("the last"))))
		buf := make([]byte, 2000)
		for must(t, b.a.f.SetReadDeadline(time.Now().Add(patience))); ; {
			n, err := b.a.f.Read(buf)
			must(t, err)
			var p policy.Packet
			if p.Parse(buf[:n], policy.Offload{}) != policy.None || p.Src != dst {
				continue
			}
			const reset = 0x04
			if p.Proto == policy.ProtoTCP && int(p.DstPort) == peer.Port && buf[14+20+13]&reset != 0 {
				t.Error("a late segment was answered by a reset")
			}
			if p.Proto == policy.ProtoICMP && p.ICMPType == 3 && strings.HasSuffix(string(buf[:n]), "the last") {
				break
			}
		}
		e.works(t, "after late segments")
	})
}

// text writes expressions in short.
func text(exprs []expr.Any) string {
	var out []string
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Meta:
			out = append(out, map[expr.MetaKey]string{expr.MetaKeyNFPROTO: "nfproto", expr.MetaKeyL4PROTO: "l4proto", expr.MetaKeyIIFNAME: "iifname"}[e.Key])
		case *expr.Payload:
			out = append(out, fmt.Sprintf("%s@%d+%d", map[expr.PayloadBase]string{netHeader: "net", l4Header: "l4"}[e.Base], e.Offset, e.Len))
		case *expr.Cmp:
			out = append(out, fmt.Sprintf("%s %x", map[expr.CmpOp]string{expr.CmpOpEq: "==", expr.CmpOpNeq: "!="}[e.Op], e.Data))
		case *expr.Bitwise:
			out = append(out, fmt.Sprintf("& %x", e.Mask))
		case *expr.Range:
			out = append(out, fmt.Sprintf("in %x-%x", e.FromData, e.ToData))
		case *expr.Lookup:
			out = append(out, "in "+e.SetName)
		case *expr.Counter:
			out = append(out, "counter")
		case *expr.Verdict:
			out = append(out, map[expr.VerdictKind]string{expr.VerdictAccept: "accept", expr.VerdictDrop: "drop", expr.VerdictGoto: "goto "}[e.Kind]+e.Chain)
		default:
			out = append(out, fmt.Sprintf("%T", e))
		}
	}
	return strings.Join(out, " ")
}

func TestInputIsWritten(t *testing.T) {
	c := &policy.Chain{Default: policy.Reject, Rules: []policy.Rule{
		{Name: "ssh", Action: policy.Accept, Proto: 6, Ports: ports(22, 22), From: peers("uplink"), To: peers("host")},
		{Name: "range", Action: policy.Drop, Proto: 17, Ports: ports(1000, 2000)},
		{Name: "icmp", Action: policy.Reject, Proto: 1},
		{Name: "gre", Action: policy.Accept, Proto: 47, From: peers("198.51.100.0/22")},
		{Name: "two", Action: policy.Accept, Proto: 6, Ports: ports(443, 443, 80, 80, 81, 90),
			From: peers("198.51.100.0/24", "2001:db8::/32", "198.51.100.7/32"), To: peers(dom0V4+"/32", dom0V6+"/128")},
		{Name: "same ports", Action: policy.Accept, Proto: 17, Ports: ports(80, 90, 443, 443)},
		{Name: "nobody", Action: policy.Accept, Proto: policy.AnyProto, From: peers("domu:one")},
		{Name: `"all"`, Action: policy.Accept, Proto: policy.AnyProto},
	}}
	sets, list := inputChains("eth0", c)
	var got []string
	for _, s := range sets {
		line := "set " + s.name
		for _, e := range s.elems {
			line += fmt.Sprintf(" %x", e.Key)
		}
		got = append(got, line)
	}
	in := list[len(list)-1]
	if in.name != "input" || in.priority <= 0 || text(in.rules[0].exprs) != fmt.Sprintf("iifname != %x accept", ifname("eth0")) {
		t.Errorf("chain %+v", in)
	}
	for _, r := range in.rules {
		if strings.HasPrefix(r.comment, "input: rule ") || r.comment == CountInputDefault {
			got = append(got, strings.TrimPrefix(r.comment, "input: ")+": "+text(r.exprs))
		}
	}
	want := []string{
		"set ports1 0050 005b 01bb 01bc",
		"rule ssh: l4proto == 06 l4@2+2 == 0016 counter accept",
		"rule range: l4proto == 11 l4@2+2 in 03e8-07d0 counter drop",
		"rule icmp: nfproto == 02 l4proto == 01 counter goto refuse",
		"rule gre: nfproto == 02 l4proto == 2f net@12+3 & fffffc == c63364 counter accept",
		"rule two: nfproto == 02 l4proto == 06 l4@2+2 in ports1 net@12+3 == c63364 net@16+4 == c0000103 counter accept",
		"rule two: nfproto == 0a l4proto == 06 l4@2+2 in ports1 net@8+4 == 20010db8 net@24+16 == 20010db8000300020001000000000001 counter accept",
		"rule same ports: l4proto == 11 l4@2+2 in ports1 counter accept",
		"rule 'all': counter accept",
		"default: counter goto refuse",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestInputSpec(t *testing.T) {
	good := policy.Rule{Name: "r", Action: policy.Accept, Proto: 6, Ports: ports(1, 2)}
	for what, change := range map[string]func(*policy.Chain){
		"no action":       func(c *policy.Chain) { c.Default = 0 },
		"has no action":   func(c *policy.Chain) { c.Rules[0].Action = 0 },
		"not a protocol":  func(c *policy.Chain) { c.Rules[0].Proto = 256 },
		"have ports":      func(c *policy.Chain) { c.Rules[0].Proto = 47 },
		"range of ports":  func(c *policy.Chain) { c.Rules[0].Ports = ports(2, 1) },
		"is not a prefix": func(c *policy.Chain) { c.Rules[0].To = peers("10.0.0.1/8") },
		"its name":        func(c *policy.Chain) { c.Rules[0].Name = strings.Repeat("x", maxRuleName+1) },
	} {
		c := &policy.Chain{Default: policy.Drop, Rules: []policy.Rule{good}}
		s := (&world{t: t}).input(c)
		s.StateDir, s.Log = t.TempDir(), nil
		must(t, s.validate())
		change(c)
		if err := s.validate(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
