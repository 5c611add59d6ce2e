package importer_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"udrouter/config"
	"udrouter/integration/importer"
	"udrouter/policy"
	"udrouter/router"
)

// The oracle reads rules as iptables(8) does, one packet at a time, from the text: it knows nothing of how they are translated. Its packets open
// a connection.

type oraclePacket struct {
	in, out  string // interfaces of dom0's kernel; "": its own
	port     string // the bridge's, that of the sender
	src, dst netip.Addr
	proto    string // as udrouter's questions have it
	dport    int
}

// oracle is a rule set. What it cannot know of a packet, such as how many there have been, is as unknown says.
type oracle struct {
	chains  map[string][]string
	policy  map[string]string
	unknown bool
}

func newOracle(rules string) *oracle {
	o := &oracle{chains: map[string][]string{}, policy: map[string]string{}}
	for l := range strings.SplitSeq(rules, "\n") {
		switch words := strings.Fields(l); {
		case strings.HasPrefix(l, ":"):
			o.policy[words[0][1:]] = words[1]
		case strings.HasPrefix(l, "-A"):
			o.chains[words[1]] = append(o.chains[words[1]], strings.Join(words[2:], " "))
		}
	}
	return o
}

// verdict is what a built-in chain says: "accept", "drop" or "reject".
func (o *oracle) verdict(chain string, p oraclePacket) string {
	switch v := o.walk(chain, p); v {
	case "":
		return strings.ToLower(o.policy[chain])
	default:
		return strings.ToLower(v)
	}
}

func (o *oracle) walk(chain string, p oraclePacket) string {
	for _, r := range o.chains[chain] {
		target, hit := o.match(strings.Fields(r), p)
		switch {
		case !hit || target == "LOG":
		case target == "RETURN" && o.policy[chain] != "-":
			return o.policy[chain]
		case target == "RETURN":
			return ""
		case target == "ACCEPT" || target == "DROP" || target == "REJECT":
			return target
		default:
			if v := o.walk(target, p); v != "" {
				return v
			}
		}
	}
	return ""
}

func (o *oracle) match(words []string, p oraclePacket) (target string, hit bool) {
	hit = true
	for i := 0; i < len(words); i++ {
		not := words[i] == "!"
		if not {
			i++
		}
		yes := true
		option, arg := words[i], words[i+1]
		i++
		switch option {
		case "-j":
			target = arg
			continue
		case "-m":
			continue
		case "-s":
			yes = netip.MustParsePrefix(arg).Contains(p.src)
		case "-d":
			yes = netip.MustParsePrefix(arg).Contains(p.dst)
		case "-i":
			yes = p.in == arg || strings.HasSuffix(arg, "+") && strings.HasPrefix(p.in, strings.TrimSuffix(arg, "+"))
		case "-o":
			yes = p.out == arg
		case "--physdev-in":
			yes = p.port == arg
		case "-p":
			yes = p.proto == strings.Replace(arg, "ipv6-icmp", "icmpv6", 1)
		case "--dport", "--dports":
			yes = false
			for r := range strings.SplitSeq(arg, ",") {
				lo, hi, ok := strings.Cut(r, ":")
				if !ok {
					hi = lo
				}
				a, _ := strconv.Atoi(lo)
				b, _ := strconv.Atoi(hi)
				yes = yes || p.dport >= a && p.dport <= b
			}
		case "--state":
			yes = strings.Contains(arg, "NEW")
		case "--icmp-type", "--icmpv6-type":
			yes = arg == "echo-request"
		case "--limit":
			yes = o.unknown
		default:
			panic(option)
		}
		hit = hit && yes != not
	}
	return target, hit
}

const oracleInterfaces = `iface eth0 inet static
 address 192.0.1.3/26
 gateway 192.0.1.1
iface eth0 inet6 static
 address 2001:db8:ffff:ffff::d0/64
 up ip -6 route add default via 2001:db8:3:2::1 dev eth0
iface xenbr0 inet static
 address 192.0.2.1/24
 bridge_ports none
iface xenbr0 inet6 static
 address 2001:db8:3:2:1::1/64
`

const oracleGuest = `name = "%s"
vif = ['mac=00:16:3e:00:00:0%d,bridge=xenbr0,vifname=vif%d.0,ip=192.0.2.1%d 2001:db8:3:2:1::1%d']
`

// What rules may speak of; addresses of dom0, guests and two networks of the internet, of which one holds a station that packets come from.
var oracleWords = [2]struct{ prefixes, icmp []string }{
	{[]string{"192.0.2.10/32", "192.0.2.11/32", "192.0.2.0/24", "192.0.2.10/31", "198.51.100.0/24", "203.0.113.0/24", "0.0.0.0/0", "192.0.1.3/32", "192.0.0.0/22", "192.0.2.76/30"},
		[]string{"icmp", "--icmp-type"}},
	{[]string{"2001:db8:3:2:1::10/128", "2001:db8:3:2:1::11/128", "2001:db8:3:2::/64", "2001:db8:3:2:1::/80", "2001:db8:fffe::/48", "2001:db8::/32", "::/0",
		"2001:db8:ffff:ffff::d0/128", "2001:db8:3:2::1/128"}, []string{"ipv6-icmp", "--icmpv6-type"}},
}

// drawRules writes a rule set. fuzzy ones also have conditions that udrouter's rules cannot say, such as the source of what dom0 sends.
func drawRules(r *rand.Rand, v6, fuzzy bool) string {
	w := oracleWords[0]
	if v6 {
		w = oracleWords[1]
	}
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	maybe := func(n int) bool { return r.IntN(n) == 0 }
	not := func() string {
		if maybe(5) {
			return "! "
		}
		return ""
	}
	rule := func(chain string) string {
		s := "-A " + chain
		if (chain != "OUTPUT" || fuzzy) && maybe(3) {
			s += " " + not() + "-s " + pick(w.prefixes...)
		}
		if maybe(3) {
			s += " " + not() + "-d " + pick(w.prefixes...)
		}
		if chain != "OUTPUT" && maybe(4) {
			s += " " + not() + "-i " + pick("eth0", "xenbr0", "lo", "eth+")
		}
		if (chain == "FORWARD" || chain == "OUTPUT") && maybe(4) {
			s += " " + not() + "-o " + pick("eth0", "xenbr0")
		}
		if chain != "OUTPUT" && maybe(12) {
			s += " -m physdev --physdev-in " + pick("vif1.0", "vif2.0")
		}
		switch r.IntN(5) {
		case 0, 1:
			s += " -p " + pick("tcp", "udp")
			if !maybe(4) {
				s += " -m multiport " + not() + "--dports " + pick("22", "80,443", "1:1023", "22,5000:6000")
			}
		case 2:
			s += " -p " + w.icmp[0]
			if fuzzy && maybe(2) {
				s += " " + w.icmp[1] + " echo-request"
			}
		}
		switch r.IntN(8) {
		case 0:
			s += " -m state --state NEW"
		case 1:
			if fuzzy {
				s += " -m limit --limit 5/s"
			}
		}
		targets := []string{"ACCEPT", "ACCEPT", "DROP", "REJECT", "LOG"}
		if chain != "sub" && (chain != "OUTPUT" || fuzzy) {
			targets = append(targets, "sub", "RETURN")
		} else if fuzzy {
			targets = append(targets, "RETURN", "RETURN", "RETURN")
		}
		return s + " -j " + pick(targets...) + "\n"
	}
	var s strings.Builder
	s.WriteString("*filter\n")
	for _, c := range []string{"INPUT", "FORWARD", "OUTPUT"} {
		fmt.Fprintf(&s, ":%s %s [0:0]\n", c, pick("ACCEPT", "DROP"))
	}
	s.WriteString(":sub - [0:0]\n")
	for _, c := range []string{"INPUT", "FORWARD", "OUTPUT", "sub"} {
		if maybe(2) && c != "sub" {
			fmt.Fprintf(&s, "-A %s -m state --state ESTABLISHED,RELATED -j ACCEPT\n", c)
		}
		n := r.IntN(map[string]int{"INPUT": 6, "FORWARD": 6, "OUTPUT": 2, "sub": 9}[c])
		for range n {
			s.WriteString(rule(c))
		}
	}
	s.WriteString("COMMIT\n")
	return s.String()
}

// Rules mean what they meant. Those that udrouter can say give the same verdict for every packet that opens a connection; those that it
// cannot never let pass what would not have passed, whatever the conditions are that it does not know.
func TestOracle(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return name
	}
	s := importer.Sources{Interfaces: []string{write("interfaces", oracleInterfaces)},
		XL: []string{write("one.cfg", fmt.Sprintf(oracleGuest, "one", 1, 1, 0, 0)), write("two.cfg", fmt.Sprintf(oracleGuest, "two", 2, 2, 1, 1))}}
	seen := map[string]int{}
	for seed := range uint64(400) {
		fuzzy := seed%2 == 1
		r := rand.New(rand.NewPCG(seed, 6))
		rules := [2]string{drawRules(r, false, fuzzy), drawRules(r, true, fuzzy)}
		s.IPTables, s.IP6Tables = []string{write("rules4", rules[0])}, []string{write("rules6", rules[1])}
		res, err := importer.Import(s)
		if err != nil {
			t.Fatalf("seed %d: %v\n%s%s", seed, err, rules[0], rules[1])
		}
		if !fuzzy && res.TODO > 0 {
			t.Fatalf("seed %d: something is left to be filled in\n%s%s%s", seed, rules[0], rules[1], res.Config)
		}
		text := strings.ReplaceAll(string(res.Config), `action = "TODO"`, `action = "drop"`)
		cfg, diags := config.Parse("router.hcl", []byte(text))
		if diags.HasErrors() {
			t.Fatalf("seed %d: %v\n%s", seed, diags, text)
		}
		e, err := router.NewExplainer(cfg)
		if err != nil {
			t.Fatal(err)
		}
		for range 60 {
			v6 := r.IntN(2) == 1
			chain, p, q := drawPacket(r, v6)
			o := newOracle(rules[0])
			if v6 {
				o = newOracle(rules[1])
			}
			answers, err := e.Explain(q)
			if err != nil || len(answers) != 1 {
				t.Fatalf("seed %d: %+v: %v, %v", seed, q, answers, err)
			}
			got := answers[0].Verdict
			want := o.verdict(chain, p)
			o.unknown = true
			other := o.verdict(chain, p)
			seen[fmt.Sprintf("%s %s", chain, got)]++
			if fuzzy && got != "accept" || got == want && got == other {
				continue
			}
			if !fuzzy || want != "accept" || other != "accept" {
				t.Fatalf("seed %d: %s of %+v: iptables says %s or %s, the import %s\n%s%s%s\n%v", seed, chain, p, want, other, got, rules[0], rules[1], text, answers[0])
			}
		}
	}
	for _, chain := range []string{"INPUT", "FORWARD", "OUTPUT"} {
		for _, v := range []string{"accept", "drop", "reject"} {
			if seen[chain+" "+v] < 20 {
				t.Errorf("only %d packets of %s came to %s: the test shows too little", seen[chain+" "+v], chain, v)
			}
		}
	}
}

// drawPacket is a packet, the chain that it meets in dom0's kernel, and the same as a question to udrouter.
func drawPacket(r *rand.Rand, v6 bool) (chain string, p oraclePacket, q policy.Question) {
	addr := func(list ...string) netip.Addr {
		if v6 {
			list = list[len(list)/2:]
		} else {
			list = list[:len(list)/2]
		}
		return netip.MustParseAddr(list[r.IntN(len(list))])
	}
	guests := []netip.Addr{addr("192.0.2.10", "2001:db8:3:2:1::10"), addr("192.0.2.11", "2001:db8:3:2:1::11")}
	internet := addr("198.51.100.7", "203.0.113.7", "9.9.9.9", "2001:db8:fffe::7", "2001:db8:fffd::7", "2620:fe::9")
	dom0 := addr("192.0.1.3", "2001:db8:ffff:ffff::d0")
	kinds := []string{"tcp", "udp", "icmp", "47"}
	if v6 {
		kinds[2] = "icmpv6"
	}
	p.proto = kinds[r.IntN(len(kinds))]
	if q.Proto = 47; p.proto != "47" {
		q.Proto, _ = policy.ParseProto(p.proto)
	}
	if p.proto == "tcp" || p.proto == "udp" {
		ports := []int{22, 25, 80, 443, 1023, 1024, 5000, 6001}
		p.dport = ports[r.IntN(len(ports))]
		q.Port = uint16(p.dport)
	}
	name := []string{"one", "two"}
	one := r.IntN(2)
	two := 1 - one
	domu := policy.Peer{Kind: policy.PeerDomu, Domu: name[one]}
	vif := fmt.Sprintf("vif%d.0", one+1)
	switch r.IntN(7) {
	case 0, 1:
		chain, p.in, p.out, p.src, p.dst = "FORWARD", "eth0", "xenbr0", internet, guests[one]
		q.From = policy.Peer{Kind: policy.PeerUplink}
	case 2:
		chain, p.in, p.port, p.out, p.src, p.dst = "FORWARD", "xenbr0", vif, "eth0", guests[one], internet
		q.From = domu
	case 3:
		chain, p.in, p.port, p.out, p.src, p.dst = "FORWARD", "xenbr0", vif, "xenbr0", guests[one], guests[two]
		q.From = domu
	case 4:
		chain, p.in, p.src, p.dst = "INPUT", "eth0", internet, dom0
		q.From = policy.Peer{Kind: policy.PeerUplink}
	case 5:
		chain, p.in, p.port, p.src, p.dst = "INPUT", "xenbr0", vif, guests[one], dom0
		q.From = domu
	case 6:
		chain, p.out, p.src, p.dst = "OUTPUT", "xenbr0", dom0, guests[one]
		q.From = policy.Peer{Kind: policy.PeerHost}
	}
	q.Src, q.Dst = p.src, p.dst
	return chain, p, q
}
