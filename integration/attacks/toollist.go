package main

import (
	"regexp"

	"udrouter/policy"
)

// tool is a command line that an attacker runs, and what shows that its packets came to the router and what became of them.
type tool struct {
	args    string
	from    attacker
	about   string         // which attacks, by number
	seconds int            // after which it is killed
	endless bool           // it has no end, or none that is worth the wait; any other must end by itself
	status  int            // with which it may end as well as with 0: some say so when nobody answers
	answer  *regexp.Regexp // a line of its output that is an answer; nil: it has none
	answers answers        // how many it may and must have of udrouter
	open    *opening       // what of it the neighbour's rules admit; nil: nothing

	drops  string // reasons, each of which the router must count for the attacker
	passes int    // how many packets of the attacker's own the provider must see at least: it may send them
	bridge bool   // other stations' MACs: all ends at the bridge's port, nothing at the router
	anew   bool   // the neighbour looks for its gateway and tries its address meanwhile, as a host does that comes up; the tool waits for that
	why    string // what its frames are and why that becomes of them, where reasons do not say it; lines of a list
	to     string // whom its packets are for or ask about, a prefix: they must come to the router
}

type attacker int

const (
	guest attacker = iota
	internet
)

func (a attacker) String() string { return [...]string{"guest", "internet"}[a] }

// answers are bounds of how many; most is -1 where there is none.
type answers struct{ least, most int }

var some = answers{1, -1}

// opening bounds what may come to the neighbour by the attacker's doing: packets of one kind, and at most so many.
type opening struct {
	what string
	is   func(*policy.Packet) bool
	most int
}

func echoes(most int) *opening {
	return &opening{"echo requests", (*policy.Packet).IsEchoRequest, most}
}

func (o *opening) admits(frame []byte) bool {
	var p policy.Packet
	return p.Parse(frame, policy.Offload{}) == policy.None && o.is(&p)
}

var (
	replies = regexp.MustCompile(`(?m)^\d+ bytes from|bytes from .*index=|^len=|Target link-layer address:|from fe80`)
	ports   = regexp.MustCompile(`(?m)^\d+/(tcp|udp) +open +`)
	passed  = regexp.MustCompile(`(?i)(PASSED|SYN-ACK received|FIREWALL BYPASSED)`)
	hosts   = regexp.MustCompile(`(?m)^Nmap scan report`)
)

// The attacker is guest one, 192.0.2.10 and 2001:db8:3:2:1::10, its neighbour .11 and ::11. Nobody has .200 and ::dead.
var tools = []tool{
	{args: "arping -c 2 -w 1 -i eth0 192.0.2.1", about: "31", seconds: 5, answer: replies, answers: some},
	{args: "arping -c 2 -w 1 -i eth0 192.0.2.200", about: "31", seconds: 5, answer: replies, status: 1, to: "192.0.2.200/32"},
	{args: "arping -c 2 -w 1 -0 -i eth0 192.0.2.11", about: "35", seconds: 5, answer: replies, answers: some},
	{args: "arping -U -c 3 -i eth0 -S 192.0.2.11 192.0.2.11", about: "34", seconds: 5, status: 1, drops: "arp-spoof"},
	{args: "arping -P -U -c 3 -i eth0 -S 192.0.2.1 192.0.2.1", about: "34", seconds: 5, status: 1, drops: "arp-spoof"},
	{args: "ndisc6 -1 -r 1 -w 500 fe80::1 eth0", about: "43", seconds: 5, answer: replies, status: 2, answers: some},
	{args: "ndisc6 -1 -r 1 -w 500 2001:db8:3:2:1::11 eth0", about: "43", seconds: 5, answer: replies, status: 2, to: "2001:db8:3:2:1::11/128"},
	{args: "ndisc6 -1 -r 1 -w 500 2001:db8:3:2:1::dead eth0", about: "43", seconds: 5, answer: replies, status: 2, to: "2001:db8:3:2:1::dead/128"},
	{args: "rdisc6 -1 -r 1 -w 500 eth0", about: "54", seconds: 5, answer: replies, status: 2, to: "ff02::2/128"},
	{args: "atk6-fake_router26 -n 3 -i 1 -A 2001:db8:bad::/64 -l 9000 eth0", about: "51", seconds: 6, drops: "ra-guard"},
	{args: "atk6-fake_router26 -E H -n 2 -i 1 -A 2001:db8:bad::/64 -l 9000 eth0", about: "52", seconds: 5, drops: "ra-guard"},
	{args: "atk6-fake_router26 -E 1 -n 2 -i 1 -A 2001:db8:bad::/64 -l 9000 eth0", about: "52", seconds: 5, drops: "ra-guard"},
	{args: "atk6-fake_router26 -E D -n 2 -i 1 -A 2001:db8:bad::/64 -l 9000 eth0", about: "52", seconds: 5, drops: "header-chain multicast"},
	{args: "atk6-fake_router26 -E F -n 2 -i 1 -A 2001:db8:bad::/64 -l 9000 eth0", about: "52", seconds: 5, drops: "multicast tiny-fragment"},
	{args: "atk6-fake_router26 -E o -n 2 -i 1 -A 2001:db8:bad::/64 -l 9000 eth0", about: "52", seconds: 5, drops: "header-chain multicast"},
	{args: "atk6-fake_router26 -E O -n 2 -i 1 -A 2001:db8:bad::/64 -l 9000 eth0", about: "52", seconds: 5, drops: "header-chain multicast"},
	{args: "atk6-fake_router26 -E H111 -n 2 -i 1 -A 2001:db8:bad::/64 -l 9000 eth0", about: "48, 52", seconds: 5, drops: "ra-guard"},
	{args: "atk6-kill_router6 eth0 fe80::1", about: "51", seconds: 3, endless: true, drops: "ra-guard"},
	{args: "atk6-kill_router6 -H -F -D eth0 fe80::1", about: "52", seconds: 3, endless: true, drops: "ip6-binding malformed"},
	{args: "atk6-flood_router26 -F eth0", about: "51", seconds: 3, endless: true, bridge: true},
	{args: "atk6-parasite6 -lR eth0", about: "45", seconds: 10, endless: true, anew: true},
	{args: "atk6-parasite6 -lRH eth0", about: "45, 47, 48", seconds: 10, endless: true, anew: true},
	{args: "atk6-parasite6 -lRF eth0", about: "45, 47, 48", seconds: 10, endless: true, anew: true},
	{args: "atk6-parasite6 -lRD eth0", about: "45, 47, 48", seconds: 10, endless: true, anew: true},
	{args: "atk6-dos-new-ip6 eth0", about: "44", seconds: 10, endless: true, anew: true},
	{args: "atk6-dos-new-ip6 -S eth0", about: "44", seconds: 10, endless: true, anew: true},
	{args: "atk6-fake_advertise6 -n 3 -w 1 eth0 2001:db8:3:2:1::11", about: "45", seconds: 5, drops: "ip6-binding"},
	{args: "atk6-fake_advertise6 -H -F -n 3 -w 1 eth0 fe80::1", about: "45, 47", seconds: 5, drops: "ip6-binding tiny-fragment"},
	{args: "atk6-flood_advertise6 eth0", about: "45", seconds: 3, endless: true, bridge: true},
	{args: "atk6-flood_solicitate6 eth0", about: "49", seconds: 3, endless: true, bridge: true},
	{args: "atk6-flood_solicitate6 -a -k eth0 2001:db8:3:2:1::11", about: "48, 49", seconds: 3, endless: true, drops: "nd-spoof"},
	{args: "atk6-redir6 eth0 2001:db8:3:2:1::11 2001:db8:ffff::7 2001:db8:3:2:1::1 fe80::10", about: "55", seconds: 15, to: "2001:db8:3:2:1::11/128"},
	{args: "atk6-toobig6 -u eth0 2001:db8:3:2:1::11 2001:db8:ffff::7 1280", about: "67", seconds: 4, drops: "ip6-binding"},
	{args: "atk6-smurf6 eth0 2001:db8:ffff::7", about: "26", seconds: 2, endless: true, bridge: true},
	{args: "atk6-rsmurf6 eth0 2001:db8:3:2:1::11", about: "26", seconds: 2, endless: true, bridge: true},
	{args: "atk6-fake_dhcps6 eth0 2001:db8:bad::/64 2001:db8:bad::53", about: "56", seconds: 10, endless: true, anew: true},
	{args: "atk6-fake_mld6 eth0 query", about: "74", seconds: 2, endless: true, drops: "multicast"},
	{args: "atk6-denial6 eth0 2001:db8:ffff::7 1", about: "65", seconds: 60, endless: true, to: "2001:db8:ffff::7/128", passes: 1},
	{args: "atk6-denial6 eth0 2001:db8:ffff::7 2", about: "65", seconds: 60, endless: true, to: "2001:db8:ffff::7/128", drops: "header-chain"},
	{args: "atk6-denial6 eth0 2001:db8:ffff::7 3", about: "65", seconds: 60, endless: true, to: "2001:db8:ffff::7/128", drops: "header-chain"},
	{args: "atk6-denial6 eth0 2001:db8:ffff::7 4", about: "65", seconds: 60, endless: true, to: "2001:db8:ffff::7/128", drops: "header-chain"},
	{args: "atk6-denial6 eth0 2001:db8:ffff::7 5", about: "65", seconds: 60, endless: true, to: "2001:db8:ffff::7/128", passes: 1, why: "An echo request behind an AH header: read through, the rules admit it."},
	{args: "atk6-denial6 eth0 2001:db8:ffff::7 6", about: "61", seconds: 60, endless: true, to: "2001:db8:ffff::7/128", drops: "malformed"},
	{args: "atk6-denial6 eth0 2001:db8:ffff::7 7", about: "65", seconds: 60, endless: true, to: "2001:db8:ffff::7/128", passes: 1,
		why: "Unknown hop-by-hop options whose type does not want the packet dropped: passed (RFC 8200 4.2, RFC 9673 5.2). Linux drops more than 8 of them."},
	{args: "atk6-thcsyn6 eth0 2001:db8:ffff::7 80", about: "72", seconds: 3, endless: true, drops: "limit-new-flows", passes: 1},
	{args: "atk6-thcsyn6 -R eth0 2001:db8:ffff::7 80", about: "17, 72", seconds: 3, endless: true, drops: "ip6-binding"},
	{args: "atk6-thcsyn6 -r eth0 2001:db8:ffff::7 80", about: "17, 72", seconds: 3, endless: true, drops: "ip6-binding"},
	{args: "atk6-thcsyn6 -D eth0 2001:db8:ffff::7 80", about: "72", seconds: 3, endless: true, drops: "limit-new-flows", passes: 1},
	{args: "atk6-randicmp6 -p eth0 2001:db8:ffff::7", about: "70", seconds: 90, drops: "icmp-type icmp-unrelated"},
	{args: "atk6-flood_redir6 eth0 2001:db8:3:2:1::11", about: "55", seconds: 3, endless: true, drops: "nd-malformed"},
	{args: "atk6-fragmentation6 -p eth0 2001:db8:ffff::7", about: "58, 59, 61", seconds: 150, drops: "fragment-overlap malformed oversize-fragment", passes: 1},
	{args: "atk6-fragmentation6 -f -p eth0 2001:db8:ffff::7 18", about: "61", seconds: 30, endless: true, passes: 1},
	{args: "atk6-fragmentation6 -f -p eth0 2001:db8:ffff::7 22", about: "61", seconds: 30, endless: true, passes: 1},
	{args: "atk6-exploit6 eth0 2001:db8:ffff::7", about: "8, 65", seconds: 10, drops: "fragment-overlap oversize-fragment nd-malformed", passes: 1},
	{args: "atk6-fuzz_ip6 -x -I -F -S -D -H -1 eth0 2001:db8:ffff::7", about: "8, 65", seconds: 5, endless: true, drops: "routing-header malformed header-chain", passes: 1},
	{args: "atk6-fuzz_ip6 -x -I -2 eth0 ff02::1", about: "40", seconds: 5, drops: "nd-malformed nd-hoplimit checksum"},
	{args: "atk6-fuzz_ip6 -x -I -F -S -D -H -1 eth0 fe80::1", about: "8, 65", seconds: 30, status: 255, drops: "header-chain malformed router-local routing-header"},
	// Of the kinds 2 to 9 the target is no destination: they go to groups whatever it is.
	{args: "atk6-fuzz_ip6 -a -x -I -F -S -D -H -1 eth0 ff02::1", about: "8, 65", seconds: 30, drops: "header-chain malformed multicast routing-header"},
	{args: "atk6-fuzz_ip6 -a -x -I -3 eth0 ff02::1", about: "8, 40", seconds: 30, drops: "checksum malformed multicast nd-hoplimit nd-malformed nd-spoof"},
	{args: "atk6-fuzz_ip6 -a -x -I -4 eth0 ff02::1", about: "8, 51", seconds: 3, endless: true, bridge: true},
	{args: "atk6-fuzz_ip6 -a -x -I -H -R -5 eth0 ff02::1", about: "8, 74", seconds: 30, drops: "header-chain malformed multicast"},
	{args: "atk6-fuzz_ip6 -a -x -I -H -R -6 eth0 ff02::1", about: "8, 74", seconds: 30, drops: "header-chain malformed multicast"},
	{args: "atk6-fuzz_ip6 -a -x -I -H -R -7 eth0 ff02::1", about: "8, 74", seconds: 30, drops: "header-chain malformed multicast"},
	{args: "atk6-fuzz_ip6 -a -x -I -H -R -8 eth0 ff02::1", about: "8, 74", seconds: 30, drops: "header-chain malformed multicast"},
	{args: "atk6-fuzz_ip6 -a -x -I -H -R -9 eth0 ff02::1", about: "8, 74", seconds: 30, drops: "header-chain malformed multicast"},
	{args: "atk6-firewall6 eth0 2001:db8:3:2:1::11 8080", about: "58, 71", seconds: 300, open: echoes(5), answer: passed, drops: "fragment-orphan header-chain ingress-policy malformed", why: firewall6},
	{args: "atk6-firewall6 -u eth0 2001:db8:3:2:1::11 53", about: "58, 71", seconds: 300, open: echoes(5), answer: passed, drops: "fragment-orphan header-chain ingress-policy malformed", why: "The cases of TCP, with a datagram to a port that the rules do not admit."},
	{args: "atk6-implementation6 -p eth0 2001:db8:ffff::7", about: "58, 64, 65", seconds: 150, answer: passed, answers: some, drops: "fragment-orphan header-chain malformed routing-header", passes: 1},
	{args: "ra6 -i eth0 -d ff02::1 -t 9000 -P 2001:db8:bad::/64#LA -e", about: "51", seconds: 3, drops: "ra-guard"},
	{args: "ra6 -i eth0 -d ff02::1 -t 9000 -P 2001:db8:bad::/64#LA -e --frag-hdr 32 --dst-opt-hdr 64", about: "52", seconds: 3, drops: "multicast tiny-fragment"},
	{args: "na6 -i eth0 -d ff02::1 -t 2001:db8:3:2:1::11 -o -e", about: "45", seconds: 3, drops: "nd-spoof"},
	{args: "na6 -i eth0 -d ff02::1 -t 2001:db8:3:2:1::11 -o -e --frag-hdr 16 --dst-opt-hdr 24", about: "45, 47, 48", seconds: 3, drops: "multicast tiny-fragment"},
	{args: "ns6 -i eth0 -d ff02::1 -t 2001:db8:3:2:1::11 -e -F 1000 -l -z 1", about: "49", seconds: 3, endless: true, bridge: true},
	{args: "ns6 -i eth0 -s fe80::216:3eff:fe00:1 -S 00:16:3e:00:00:01 -d ff02::1:ff00:11 -t 2001:db8:3:2:1::11 -e --frag-hdr 16 --dst-opt-hdr 24", about: "47, 48", seconds: 3, drops: "multicast tiny-fragment"},
	{args: "rs6 -i eth0 -s fe80::216:3eff:fe00:1 -S 00:16:3e:00:00:01 -d ff02::2 -e -l -z 1", about: "54", seconds: 3, endless: true, drops: "nd-malformed",
		why: "It sends no RS: before, it solicits the MAC of the group ff02::2 itself. `nd-malformed`, since the target of an NS is no multicast address (RFC 4861 7.1.1)."},
	{args: "rd6 -i eth0 -s fe80::1 -d 2001:db8:3:2:1::11 -r 2001:db8:ffff::7 -t fe80::10 -n", about: "55", seconds: 3, drops: "redirect"},
	{args: "rd6 -i eth0 -s fe80::1 -d 2001:db8:3:2:1::11 -r 2001:db8:ffff::7 -t fe80::10 -n --frag-hdr 16 --dst-opt-hdr 24", about: "55", seconds: 3, drops: "ip6-binding tiny-fragment"},
	{args: "frag6 -i eth0 -O first -d 2001:db8:ffff::7", about: "61", seconds: 5, endless: true, passes: 1},
	{args: "frag6 -i eth0 -p -d 2001:db8:ffff::7", about: "59", seconds: 30, endless: true, drops: "fragment-overlap", passes: 1},
	{args: "frag6 -i eth0 -F 1000 -l -z 1 -d 2001:db8:ffff::7", about: "61", seconds: 4, endless: true, drops: "malformed"},
	{args: "jumbo6 -i eth0 -d 2001:db8:ffff::7", about: "65", seconds: 10, drops: "malformed"},
	{args: "icmp6 -i eth0 -d 2001:db8:3:2:1::11 -t 2 -m 1280 -r 2001:db8:ffff::7 -p TCP", about: "67", seconds: 3, drops: "icmp-unrelated"},
	{args: "flow6 -i eth0 -d 2001:db8:ffff::7 -P TCP -p 443 -W", about: "65", seconds: 60, status: 1, drops: "ip6-binding", passes: 1},
	{args: "trafgen -o eth0 -n 50000 { drnd(60) }", about: "4, 8, 10", seconds: 10, bridge: true},
	{args: "trafgen -o eth0 -n 50000 { eth(da=ff:ff:ff:ff:ff:ff,sa=00:16:3e:00:00:01,type=0x0800), drnd(46) }", about: "8", seconds: 10, drops: "malformed"},
	{args: "trafgen -o eth0 -n 50000 { eth(da=ff:ff:ff:ff:ff:ff,sa=00:16:3e:00:00:01,type=0x8100), 0x00, 0x05, 0x08, 0x00, drnd(46) }", about: "9", seconds: 10, drops: "vlan"},
	{args: "trafgen -o eth0 -n 50000 { eth(da=ff:ff:ff:ff:ff:ff,sa=00:16:3e:00:00:01,type=0x88a8), 0x00, 0x05, 0x81, 0x00, 0x00, 0x05, 0x08, 0x00, drnd(42) }", about: "9", seconds: 10, drops: "vlan"},
	{args: "trafgen -o eth0 -n 50000 { eth(da=ff:ff:ff:ff:ff:ff,sa=00:16:3e:00:00:01,type=0x0026), 0xaa, 0xaa, 0x03, drnd(43) }", about: "11", seconds: 10, drops: "ethertype"},
	{args: "trafgen -o eth0 -n 50000 { eth(da=ff:ff:ff:ff:ff:ff,sa=00:16:3e:00:00:01), drnd(46) }", about: "7, 11", seconds: 10, drops: "ethertype"},
	{args: "mausezahn eth0 -c 20000 -A rand -B 192.0.2.11 -t udp dp=1-65535", about: "17", seconds: 15, endless: true, drops: "ip-binding"},
	{args: "macof -i eth0 -n 50000", about: "2, 4", seconds: 15, bridge: true},
	{args: "nmap -n -Pn -sS -p 1-1024 --max-retries 1 --min-rate 500 192.0.2.1", about: "76", seconds: 60, answer: ports, drops: "router-local"},
	{args: "nmap -n -Pn -sU -p 53,67,123,161,500 --max-retries 1 192.0.2.1", about: "76", seconds: 30, answer: ports, drops: "router-local"},
	{args: "nmap -6 -n -Pn -sS -p 22,53,80,179,443 --max-retries 1 -e eth0 fe80::1", about: "76", seconds: 30, answer: ports, drops: "router-local"},
	{args: "nmap -n -Pn -sA -p 8000-8010 --max-retries 0 192.0.2.11", about: "71", seconds: 20, answer: ports, drops: "ingress-policy"},
	{args: "nmap -n -Pn -sW -p 8000-8010 --max-retries 0 192.0.2.11", about: "71", seconds: 20, answer: ports, drops: "ingress-policy"},
	{args: "nmap -n -Pn -sN -p 8000-8010 --max-retries 0 192.0.2.11", about: "71", seconds: 20, answer: ports, drops: "ingress-policy"},
	{args: "nmap -n -Pn -sO --max-retries 0 --min-rate 500 192.0.2.11", about: "66, 71", seconds: 30, answer: ports, open: echoes(1), drops: "ingress-policy"},
	{args: "nmap -n -Pn -sX -f -p 8000-8010 --max-retries 0 192.0.2.11", about: "58, 71", seconds: 20, answer: ports, drops: "fragment-orphan tiny-fragment"},
	{args: "nmap -n -Pn -sS --mtu 8 -p 8000-8010 --max-retries 0 192.0.2.11", about: "58, 71", seconds: 20, answer: ports, drops: "fragment-orphan tiny-fragment"},
	{args: "nmap -n -Pn -sS --badsum -p 8000-8010 --max-retries 0 192.0.2.11", about: "14", seconds: 20, answer: ports, drops: "ingress-policy"},
	{args: "nmap -n -Pn -sS -D 192.0.2.11,192.0.2.1 -p 80 --max-retries 0 198.51.100.7", about: "16, 18", seconds: 20, drops: "ip-binding martian-src", passes: 1},
	{args: "nmap -n -Pn -sS -D RND:10 -p 80 --max-retries 0 198.51.100.7", about: "16, 17", seconds: 20, drops: "ip-binding", passes: 1},
	{args: "nmap -n -Pn -sS --ip-options L -p 80 --max-retries 0 198.51.100.7", about: "66", seconds: 20, answer: ports, drops: "source-route"},
	{args: "nmap -n -Pn -sS --ip-options S -p 80 --max-retries 0 198.51.100.7", about: "66", seconds: 20, answer: ports, drops: "source-route"},
	{args: "nmap -n -Pn -sS --ip-options R -p 80 --max-retries 0 198.51.100.7", about: "66", seconds: 20, answer: ports, passes: 1},
	{args: "hping3 -S --rand-source -p ++1 -i u1000 -c 1000 198.51.100.7", about: "17", seconds: 10, status: 1, drops: "ip-binding martian-src"},
	{args: "hping3 -S --flood --rand-source -p ++1 198.51.100.7", about: "17", seconds: 4, endless: true, drops: "ip-binding martian-src"},
	{args: "hping3 -a 192.0.2.11 -S -p 80 -i u1000 -c 500 198.51.100.7", about: "16", seconds: 10, status: 1, drops: "ip-binding"},
	{args: "hping3 -1 -C 13 -c 3 192.0.2.1", about: "70, 76", seconds: 8, answer: replies, status: 1, drops: "icmp-type"},
	{args: "hping3 --lsrr 203.0.113.1 -S -p 80 -c 3 198.51.100.7", about: "66", seconds: 8, status: 1, drops: "source-route"},
	{args: "hping3 --ssrr 203.0.113.1 -S -p 80 -c 3 198.51.100.7", about: "66", seconds: 8, status: 1, drops: "source-route"},
	{args: "hping3 -S -y -d 1472 -p 80 -c 3 198.51.100.7", about: "67", seconds: 8, status: 1, passes: 3},
	{args: "hping3 --udp -f -d 64 -p 5000 -c 3 192.0.2.11", about: "58", seconds: 8, status: 1, drops: "fragment-orphan ingress-policy"},
	{args: "hping3 -S -p ++1000 --flood 198.51.100.7", about: "72", seconds: 4, endless: true, drops: "limit-new-flows", passes: 1},
	{args: "atk6-ndpexhaust26 -r -p eth0 2001:db8:3:2::", from: internet, about: "50", seconds: 60, endless: true, to: "2001:db8:3:2::/64"},
	{args: "atk6-ndpexhaust26 -r -T eth0 2001:db8:3:2::", from: internet, about: "50", seconds: 5, endless: true, to: "2001:db8:3:2::/64"},
	{args: "atk6-ndpexhaust26 -r -U eth0 2001:db8:3:2::", from: internet, about: "50", seconds: 5, endless: true, to: "2001:db8:3:2::/64"},
	{args: "atk6-ndpexhaust26 -r -p -a eth0 2001:db8:3:2::", from: internet, about: "50", seconds: 5, endless: true, to: "2001:db8:3:2::/64"},
	{args: "atk6-ndpexhaust26 -r -p -m eth0 2001:db8:3:2::", from: internet, about: "50", seconds: 5, endless: true, to: "2001:db8:3:2::/64"},
	{args: "atk6-ndpexhaust26 -r -p -c eth0 2001:db8:3:2::", from: internet, about: "50", seconds: 5, endless: true, to: "2001:db8:3:2::/64"},
	{args: "atk6-ndpexhaust26 -R -p eth0 2001:db8:3:2::", from: internet, about: "50", seconds: 5, endless: true, to: "2001:db8:3:2::/64"},
	{args: "nmap -n -sn -PE --min-rate 5000 --max-retries 0 192.0.2.0/24", from: internet, about: "50", seconds: 30, answer: hosts, open: echoes(1), drops: "unbound-dst broadcast", answers: answers{4, 4}},
	{args: "nmap -n -Pn -sF -p 1-100 --max-retries 0 192.0.2.11", from: internet, about: "71", seconds: 30, answer: ports, drops: "ingress-policy"},
	{args: "nmap -n -Pn -sS -p 1-1024 --max-retries 1 --min-rate 500 192.0.2.1", from: internet, about: "76", seconds: 60, answer: ports, drops: "router-local"},
	{args: "hping3 -a 192.0.2.10 -S -p 22 -i u1000 -c 500 192.0.2.11", from: internet, about: "22", seconds: 10, status: 1, drops: "spoof-ingress"},
	{args: "hping3 --udp --flood --rand-source -p ++1 192.0.2.11", from: internet, about: "72", seconds: 4, endless: true, drops: "ingress-policy martian-src"},
}

// firewall6 are its cases by their numbers. The port is one that the neighbour's rules do not admit; echo requests they do.
const firewall6 = `1, 2, 39a-k: a SYN, also with data and from ports of servers: ` + "`ingress-policy`" + `, as the rules say.
3, 4: an IPv6 packet in a frame of IPv4, and version 5: ` + "`malformed`" + ` (RFC 791 3.1, RFC 8200 3).
5 to 8, 10: the SYN behind padding, a router alert, three options headers, an atomic fragment: read through, ` + "`ingress-policy`" + ` (RFC 7112 5, RFC 6946 4).
9: 130 options headers: ` + "`header-chain`" + `, more than 10 are no host's (RFC 8504 5.3).
11 to 18: 2 to 260 Fragment headers in one packet: ` + "`malformed`" + `; those parts that have no first fragment: ` + "`fragment-orphan`" + `.
19 to 23: options of 2 KB and several headers before and behind fragments: ` + "`header-chain`" + ` in the first (RFC 7112 5), ` + "`fragment-orphan`" + ` for what follows it.
24, 25, 27, 28: the SYN in a first fragment: ` + "`ingress-policy`" + `; what follows it: ` + "`fragment-orphan`" + `; one that contradicts its own length: ` + "`malformed`" + `.
28: one frame passes: the first fragment of an echo request that the rules admit, with its whole ICMPv6 header. Nothing of TCP follows it.
26, 32, 35: a first fragment with more than 10 headers, or more than 512 bytes of them: ` + "`header-chain`" + `; others: ` + "`fragment-orphan`" + `.
29 to 31: a first fragment of an ICMPv6 type that crosses no router (RFC 4890 4.3): ` + "`icmp-type`" + `; the others: ` + "`fragment-orphan`" + `.
33, 34: a first fragment that is too short for its transport header: ` + "`tiny-fragment`" + ` (RFC 7112 5); the others: ` + "`fragment-orphan`" + `.
36, 37: two frames each pass: echo requests that the rules admit. An option of their Destination Options header is longer than that, which is for the destination to see (RFC 8200 4.2).
38: the same before a SYN: ` + "`ingress-policy`" + `.`
