package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"udrouter/integration/lab"
	"udrouter/policy"
	"udrouter/router"
)

// tool is a command line that an attacker runs.
type tool struct {
	args    string
	from    string         // guest or internet
	about   string         // which attacks, by number
	seconds int            // after which it is killed
	answer  *regexp.Regexp // a line of its output that is an answer; nil: it has none
	open    bool           // the neighbour's rules admit some of it
}

var (
	replies = regexp.MustCompile(`(?m)^\d+ bytes from|bytes from .*index=|^len=|Target link-layer address:|from fe80`)
	ports   = regexp.MustCompile(`(?m)^\d+/(tcp|udp) +open\b`)
	passed  = regexp.MustCompile(`(?i)(PASSED|SYN-ACK received|FIREWALL BYPASSED)`)
	hosts   = regexp.MustCompile(`(?m)^Host is up|^Nmap scan report`)
)

// The attacker is guest one, 192.0.2.10 and 2001:db8:3:2:1::10, its neighbour .11 and ::11. Nobody has .200 and ::dead.
var tools = []tool{
	{"arping -c 2 -w 1 -i eth0 192.0.2.1", "guest", "31", 5, replies, false},
	{"arping -c 2 -w 1 -i eth0 192.0.2.200", "guest", "31", 5, replies, false},
	{"arping -c 2 -w 1 -0 -i eth0 192.0.2.11", "guest", "35", 5, replies, false},
	{"arping -U -c 3 -i eth0 -S 192.0.2.11 192.0.2.11", "guest", "34", 5, nil, false},
	{"arping -P -U -c 3 -i eth0 -S 192.0.2.1 192.0.2.1", "guest", "34", 5, nil, false},
	{"ndisc6 -1 -r 1 -w 500 fe80::1 eth0", "guest", "43", 5, replies, false},
	{"ndisc6 -1 -r 1 -w 500 2001:db8:3:2:1::11 eth0", "guest", "43", 5, replies, false},
	{"ndisc6 -1 -r 1 -w 500 2001:db8:3:2:1::dead eth0", "guest", "43", 5, replies, false},
	{"rdisc6 -1 -r 1 -w 500 eth0", "guest", "54", 5, replies, false},
	{"atk6-fake_router26 -n 3 -i 1 -A 2001:db8:bad::/64 -l 9000 eth0", "guest", "51", 6, nil, false},
	{"atk6-fake_router26 -E H -n 2 -i 1 -A 2001:db8:bad::/64 -l 9000 eth0", "guest", "52", 5, nil, false},
	{"atk6-fake_router26 -E 1 -n 2 -i 1 -A 2001:db8:bad::/64 -l 9000 eth0", "guest", "52", 5, nil, false},
	{"atk6-fake_router26 -E D -n 2 -i 1 -A 2001:db8:bad::/64 -l 9000 eth0", "guest", "52", 5, nil, false},
	{"atk6-fake_router26 -E O -n 2 -i 1 -A 2001:db8:bad::/64 -l 9000 eth0", "guest", "52", 5, nil, false},
	{"atk6-kill_router6 eth0 fe80::1", "guest", "51", 3, nil, false},
	{"atk6-kill_router6 -H -F -D eth0 fe80::1", "guest", "52", 3, nil, false},
	{"atk6-flood_router26 -F eth0", "guest", "51", 3, nil, false},
	{"atk6-parasite6 -lR eth0", "guest", "45", 4, nil, false},
	{"atk6-dos-new-ip6 eth0", "guest", "44", 3, nil, false},
	{"atk6-fake_advertise6 -n 3 -w 1 eth0 2001:db8:3:2:1::11", "guest", "45", 5, nil, false},
	{"atk6-fake_advertise6 -H -F -n 3 -w 1 eth0 fe80::1", "guest", "45, 47", 5, nil, false},
	{"atk6-flood_advertise6 eth0", "guest", "45", 3, nil, false},
	{"atk6-flood_solicitate6 eth0", "guest", "49", 3, nil, false},
	{"atk6-redir6 eth0 2001:db8:3:2:1::11 2001:db8:ffff::7 fe80::1 fe80::10", "guest", "55", 4, nil, true},
	{"atk6-toobig6 -u eth0 2001:db8:3:2:1::11 2001:db8:ffff::7 1280", "guest", "67", 4, nil, false},
	{"atk6-smurf6 eth0 2001:db8:ffff::7", "guest", "26", 2, nil, false},
	{"atk6-rsmurf6 eth0 2001:db8:3:2:1::11", "guest", "26", 2, nil, false},
	{"atk6-fake_dhcps6 eth0 2001:db8:bad::/64 2001:db8:bad::53", "guest", "56", 2, nil, false},
	{"atk6-fake_mld6 eth0 query", "guest", "74", 2, nil, false},
	{"atk6-denial6 eth0 2001:db8:ffff::7 1", "guest", "65", 2, nil, false},
	{"atk6-denial6 eth0 2001:db8:ffff::7 3", "guest", "65", 2, nil, false},
	{"atk6-denial6 eth0 2001:db8:ffff::7 6", "guest", "61", 2, nil, false},
	{"atk6-exploit6 eth0 2001:db8:ffff::7", "guest", "8, 65", 10, nil, false},
	{"atk6-fuzz_ip6 -x -I -F -S -D -H -1 eth0 2001:db8:ffff::7", "guest", "8, 65", 5, nil, false},
	{"atk6-fuzz_ip6 -x -I -2 eth0 ff02::1", "guest", "40", 5, nil, false},
	{"atk6-firewall6 eth0 2001:db8:3:2:1::11 8080", "guest", "58, 71", 30, passed, false},
	{"atk6-implementation6 -p eth0 2001:db8:ffff::7", "guest", "58, 64, 65", 40, passed, false},
	{"ra6 -i eth0 -d ff02::1 -t 9000 -P 2001:db8:bad::/64#LA -e", "guest", "51", 3, nil, false},
	{"ra6 -i eth0 -d ff02::1 -t 9000 -P 2001:db8:bad::/64#LA -e --frag-hdr 32 --dst-opt-hdr 64", "guest", "52", 3, nil, false},
	{"na6 -i eth0 -d ff02::1 -t 2001:db8:3:2:1::11 -o -e", "guest", "45", 3, nil, false},
	{"na6 -i eth0 -d ff02::1 -t 2001:db8:3:2:1::11 -o -e --frag-hdr 16 --dst-opt-hdr 24", "guest", "45, 47, 48", 3, nil, false},
	{"ns6 -i eth0 -d ff02::1 -t 2001:db8:3:2:1::11 -e -F 1000 -l -z 1", "guest", "49", 3, nil, false},
	{"rs6 -i eth0 -d ff02::2 -e -F 1000 -l -z 1", "guest", "54", 3, nil, false},
	{"rd6 -i eth0 -s fe80::1 -d 2001:db8:3:2:1::11 -r 2001:db8:ffff::7 -t fe80::10 -n", "guest", "55", 3, nil, false},
	{"frag6 -i eth0 -O first -d 2001:db8:ffff::7", "guest", "61", 3, nil, false},
	{"frag6 -i eth0 -p -d 2001:db8:ffff::7", "guest", "59", 20, nil, false},
	{"frag6 -i eth0 -F 1000 -l -z 1 -d 2001:db8:ffff::7", "guest", "61", 4, nil, false},
	{"jumbo6 -i eth0 -d 2001:db8:ffff::7", "guest", "65", 10, nil, false},
	{"icmp6 -i eth0 -d 2001:db8:3:2:1::11 -t 2 -m 1280 -r 2001:db8:ffff::7 -p TCP", "guest", "67", 3, nil, false},
	{"flow6 -i eth0 -d 2001:db8:ffff::7 -P TCP -p 80", "guest", "65", 10, nil, false},
	{"trafgen -o eth0 -n 50000 { drnd(60) }", "guest", "4, 8, 10", 10, nil, false},
	{"trafgen -o eth0 -n 50000 { eth(sa=00:16:3e:00:00:01,type=0x8100), 0x00, 0x05, 0x08, 0x00, drnd(46) }", "guest", "9", 10, nil, false},
	{"mausezahn eth0 -c 20000 -A rand -B 192.0.2.11 -t udp dp=1-65535", "guest", "17", 15, nil, false},
	{"macof -i eth0 -n 50000", "guest", "2, 4", 15, nil, false},
	{"nmap -n -Pn -sS -p 1-1024 --max-retries 1 192.0.2.1", "guest", "76", 30, ports, false},
	{"nmap -n -Pn -sU -p 53,67,123,161,500 --max-retries 1 192.0.2.1", "guest", "76", 30, ports, false},
	{"nmap -6 -n -Pn -sS -p 22,53,80,179,443 --max-retries 1 -e eth0 fe80::1", "guest", "76", 30, ports, false},
	{"nmap -n -Pn -sA -p 8000-8010 --max-retries 0 192.0.2.11", "guest", "71", 20, ports, false},
	{"nmap -n -Pn -sX -f -p 8000-8010 --max-retries 0 192.0.2.11", "guest", "58, 71", 20, ports, false},
	{"nmap -n -Pn -sS --badsum -p 8000-8010 --max-retries 0 192.0.2.11", "guest", "14", 20, ports, false},
	{"nmap -n -Pn -sS -D 192.0.2.11,192.0.2.1 -p 80 --max-retries 0 198.51.100.7", "guest", "16, 18", 20, nil, false},
	{"nmap -n -Pn -sS --ip-options L -p 80 --max-retries 0 198.51.100.7", "guest", "66", 20, ports, false},
	{"hping3 -S --rand-source -p ++1 -i u1000 -c 1000 198.51.100.7", "guest", "17", 10, nil, false},
	{"hping3 -a 192.0.2.11 -S -p 80 -i u1000 -c 500 198.51.100.7", "guest", "16", 10, nil, false},
	{"hping3 -1 -C 13 -c 3 192.0.2.1", "guest", "70, 76", 8, replies, false},
	{"hping3 --udp -f -d 64 -p 5000 -c 3 192.0.2.11", "guest", "58", 8, nil, false},
	{"hping3 -S -p ++1000 --flood 198.51.100.7", "guest", "72", 4, nil, false},

	{"atk6-ndpexhaust26 -r -p eth0 2001:db8:3:2::", "internet", "50", 3, nil, true},
	{"nmap -n -sn -PE --min-rate 1000 --max-retries 0 192.0.2.0/24", "internet", "50", 30, hosts, true},
	{"nmap -n -Pn -sF -p 1-100 --max-retries 0 192.0.2.11", "internet", "71", 30, ports, false},
	{"nmap -n -Pn -sS -p 1-1024 --max-retries 1 192.0.2.1", "internet", "76", 30, ports, false},
	{"hping3 -a 192.0.2.10 -S -p 22 -i u1000 -c 500 192.0.2.11", "internet", "22", 10, nil, false},
	{"hping3 --udp --flood --rand-source -p ++1 192.0.2.11", "internet", "72", 4, nil, false},
}

// outcome is what came of a tool.
type outcome struct {
	missing   bool // the tool is not installed
	neighbour int  // frames
	provider  int
	answers   int
	lost      error
}

func (o outcome) String() string {
	var words []string
	if o.missing {
		return "not installed"
	}
	if o.neighbour > 0 {
		words = append(words, fmt.Sprintf("neighbour: %d", o.neighbour))
	}
	if o.provider > 0 {
		words = append(words, fmt.Sprintf("provider: %d", o.provider))
	}
	if o.lost != nil {
		words = append(words, "lost")
	}
	if len(words) == 0 {
		return "0"
	}
	return strings.Join(words, ", ")
}

func (o outcome) said(t tool) string {
	if t.answer == nil || o.missing {
		return ""
	}
	return fmt.Sprint(o.answers)
}

// bad tells whether an outcome is not to be.
func (o outcome) bad(t tool) bool {
	return o.neighbour > 0 && !t.open || o.provider > 0 || o.lost != nil
}

// scene is a network with a router, an attacker and its witnesses.
type scene struct {
	name   string
	lab    *lab.Lab
	router policy.MAC // toward guests
	conns  []*lab.Conn
}

// newScene makes one; without a program dom0's kernel is the router.
func newScene(ctx context.Context, exe string) (_ *scene, err error) {
	s := &scene{name: "udrouter"}
	if s.lab, err = buildLab(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.lab.Close())
		}
	}()
	l := s.lab
	if exe == "" {
		s.name = "kernel"
		if err := l.KernelRouter(lab.KernelOptions{Protect: true}); err != nil {
			return nil, err
		}
		if s.router, err = l.Dom0.LinkMAC(l.Config.Bridge.Name); err != nil {
			return nil, err
		}
	} else {
		p, err := l.StartRouter(ctx, exe)
		if err != nil {
			return nil, err
		}
		raw, err := p.Get(ctx, "/v1/status")
		if err != nil {
			return nil, err
		}
		var st router.Status
		if err := json.Unmarshal(raw, &st); err != nil {
			return nil, err
		}
		if s.router, err = policy.ParseMAC(st.RouterMAC); err != nil {
			return nil, err
		}
	}
	const port = 443
	if _, err := l.Internet.ServeTCP(port); err != nil {
		return nil, err
	}
	for _, a := range []netip.Addr{l.Internet.Addr4(), l.Internet.Addr6()} {
		c, err := l.Guest("three").Open(ctx, netip.AddrPortFrom(a, port))
		if err != nil {
			return nil, err
		}
		s.conns = append(s.conns, c)
	}
	return s, nil
}

func (s *scene) close() error {
	var err error
	for _, c := range s.conns {
		err = errors.Join(err, c.Close())
	}
	return errors.Join(err, s.lab.Close())
}

// leaked tells a frame at the neighbour that is there by the attacker's doing: not the router's, or a packet that the attacker's address or nobody's is the source of.
func (s *scene) leaked(f []byte, two *lab.Guest) bool {
	var p policy.Packet
	reason := p.Parse(f, policy.Offload{})
	switch {
	case p.SrcMAC == two.MAC:
		return false
	case p.SrcMAC != s.router:
		return p.SrcMAC != s.lab.Guest("three").MAC || reason != policy.None // that one's kernel talks of its groups
	case reason != policy.None || p.EtherType == policy.EtherARP || p.IsND():
		return reason != policy.None
	}
	answer := p.Proto == policy.ProtoICMP && p.ICMPType == 0 || p.Proto == policy.ProtoICMPv6 && p.ICMPType == 129 // to what the neighbour has asked
	return !p.Dst.IsMulticast() && !p.Src.IsLinkLocalUnicast() && !s.gateway(p.Src) && !(answer && s.lab.Internet.Has(p.Src))
}

func (s *scene) gateway(a netip.Addr) bool {
	for _, n := range s.lab.Config.Networks {
		if n.Gateway == a {
			return true
		}
	}
	return false
}

// forged tells a frame at the provider that no station behind dom0 may send: another MAC, or another's address.
func (s *scene) forged(f []byte) bool {
	var p policy.Packet
	if p.Parse(f, policy.Offload{}) != policy.None || p.SrcMAC == s.lab.Gateway.MAC {
		return p.SrcMAC != s.lab.Gateway.MAC && p.SrcMAC != s.lab.Dom0.MAC
	}
	if p.SrcMAC != s.lab.Dom0.MAC {
		return true
	}
	if p.EtherType == policy.EtherARP || p.Src.IsUnspecified() || p.Src.IsLinkLocalUnicast() && p.Dst.IsLinkLocalUnicast() || p.Dst.IsMulticast() || p.IsND() {
		return false
	}
	attacker := s.lab.Guest("one")
	for _, n := range s.lab.Nodes() {
		if n.Has(p.Src) && (n != attacker.Node || !p.Src.IsLinkLocalUnicast()) && n != s.lab.Guest("two").Node && n != s.lab.Internet {
			return false
		}
	}
	// The neighbour itself talks to the internet only when it is asked to: echo.
	return !s.gateway(p.Src) && !(s.lab.Guest("two").Has(p.Src) && (p.Proto == policy.ProtoICMP || p.Proto == policy.ProtoICMPv6))
}

// try runs a tool and looks what has come of it.
func (s *scene) try(ctx context.Context, t tool) (o outcome) {
	words := strings.Fields(t.args)
	if _, err := exec.LookPath(words[0]); err != nil {
		return outcome{missing: true}
	}
	from := s.lab.Guest("one").Node
	if t.from == "internet" {
		from = s.lab.Internet
	}
	two, gw := s.lab.Guest("two"), s.lab.Gateway
	neighbour, err := two.Sniff(two.Link, lab.SniffOptions{Keep: func(f []byte) bool { return s.leaked(f, two) }})
	if err != nil {
		return outcome{lost: err}
	}
	defer neighbour.Close()
	provider, err := gw.Sniff(gw.Link, lab.SniffOptions{Keep: s.forged})
	if err != nil {
		return outcome{lost: err}
	}
	defer provider.Close()
	timed, cancel := context.WithTimeout(ctx, time.Duration(t.seconds)*time.Second)
	cmd := from.Command(timed, words[0], words[1:]...)
	cmd.WaitDelay = time.Second
	// How it ends means nothing: many are killed, and many fail because nobody answers.
	said, _ := cmd.CombinedOutput()
	cancel()
	if t.answer != nil {
		o.answers = len(t.answer.FindAll(bytes.ReplaceAll(said, []byte("\r"), []byte("\n")), -1))
	}
	o.lost = s.witnesses(ctx)
	arrived := func(f lab.Frame) bool { return !f.Outgoing }
	o.neighbour, o.provider = neighbour.Count(arrived)+neighbour.Lost(), provider.Count(arrived)+provider.Lost()
	return o
}

// witnesses asks whether others are still served: the honest guest's connections, and the neighbour's way to the internet.
func (s *scene) witnesses(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var err error
	for _, c := range s.conns {
		err = errors.Join(err, c.Check(ctx))
	}
	for _, a := range []netip.Addr{s.lab.Internet.Addr4(), s.lab.Internet.Addr6()} {
		_, e := s.lab.Guest("two").Ping(ctx, a, lab.PingOptions{Every: 100 * time.Millisecond})
		err = errors.Join(err, e)
	}
	return err
}
