package integration

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"udrouter/config"
	"udrouter/policy"
	"udrouter/router"
)

// liveSeed is the environment's name for the first seed of TestLiveAgrees, to see again what has failed; "random" draws one.
const liveSeed = "UDROUTER_LIVE_SEED"

// What the policy says by itself and what is seen of real packets is the same, for networks, rules and tests that are drawn by lot: the verdict, who gets
// the packet and what the router counts. Of dom0's addresses a file does not tell, so that tests about them may come out otherwise on a machine.
func TestLiveAgrees(t *testing.T) {
	const files, tests = 8, 20
	first := uint64(1)
	switch s := os.Getenv(liveSeed); s {
	case "":
	case "random":
		first = rand.Uint64()
	default:
		var err error
		first, err = strconv.ParseUint(s, 10, 64)
		must(t, err)
	}
	compared := 0
	for seed := first; seed != first+files; seed++ {
		src, blocks := drawLive(t, seed, tests)
		for i, r := range runLive(t, src+strings.Join(blocks, ""), src) {
			var wrong []string
			for _, s := range r.Steps {
				for _, a := range s.Answers {
					if a.Verdict != s.Expect {
						continue
					}
					compared++
					if text := disagreement(&a); text != "" {
						wrong = append(wrong, fmt.Sprintf("%s to %s: %s; it is %s, and sent for real %s", a.Src, a.Dst, text, a.Decided(), a.Live))
					}
				}
			}
			if wrong != nil {
				t.Errorf("%s=%d: %s\nrouter.hcl:\n%s%s", liveSeed, seed, strings.Join(wrong, "\n"), src, blocks[i])
			}
		}
	}
	if compared < files*tests {
		t.Errorf("%d packets were compared: too few to tell", compared)
	}
}

// disagreement tells in what else than the verdict a packet's fate is not what the policy says.
func disagreement(a *router.Answer) string {
	word := a.Reason
	if a.Chain == "uplink" {
		word = "uplink:" + a.Rule
	}
	switch {
	case a.Live == nil:
		return "it was not sent"
	case a.Live.Verdict != a.Verdict || a.Live.Wrong != "":
		return "it fares otherwise"
	case a.Verdict == policy.Accept.String() && !slices.Equal(a.Live.At, []string{a.To}) && a.By != "dom0":
		return "it came to others than " + a.To
	case word == "" || a.Verdict == policy.Accept.String() || slices.Contains(a.Live.Counted, word):
		return ""
	// The bridge stops some before the router counts them, the kernel's filter on the uplink others, and dom0's kernel much of its own.
	case a.Forge == policy.ForgeMAC.String(), a.From == "uplink" && a.Chain == "", a.From == "host", a.By == "dom0":
		return ""
	case word == policy.LinkLocal.String() && (a.Forge == policy.ForgeARP.String() || a.Forge == policy.ForgeND.String()): // true claims are heard, and are nothing to count
		return ""
	}
	return "it was not counted as " + word
}

// liveDraw draws a file.
type liveDraw struct {
	*rand.Rand
	guests []string
	peers  []string // what rules may name besides addresses
	rules  int
}

// one is one of a list.
func one[T any](d *liveDraw, list ...T) T { return list[d.IntN(len(list))] }

// in tells once in n times.
func (d *liveDraw) in(n int) bool { return d.IntN(n) == 0 }

// Ports and addresses are few, so that tests meet rules, and at their edges.
var (
	drawnPorts  = []string{"22", "25", `"50-60"`, "53", "443", `"5201-5210"`}
	askedPorts  = []int{1, 21, 22, 23, 25, 49, 50, 53, 60, 61, 443, 5200, 5201, 5210, 5211, 65535}
	drawnProtos = []string{"tcp", "tcp", "udp", "udp", "icmp", "icmpv6", "47"}
	drawnPeers  = []string{"9.9.9.9", "9.9.9.8/31", "198.51.100.0/24", "0.0.0.0/0", "192.0.2.0/28", "192.0.2.12/31", "192.0.1.0/26", "2620:fe::/32", "2620:fe::9", "::/0",
		"2001:db8:3:2::/64", "2001:db8:3:2:1::10/125"}
	station   = "192.0.1.9" // on the uplink
	dom0s     = []string{"192.0.1.3", "2001:db8:3:2:1::1"}
	outsiders = []string{"9.9.9.9", "9.9.9.8", "198.51.100.7", "203.0.113.1", station, "192.0.1.1", "2620:fe::9", "2620:fe::a", "2001:db8:cafe::1"}
	// Addresses of guests, of nobody and of the router, and such as nobody may have.
	insiders = []string{"192.0.2.10", "192.0.2.11", "192.0.2.12", "192.0.2.13", "192.0.2.20", "192.0.2.77", "192.0.2.1", "192.0.2.0", "192.0.2.255", "192.0.1.3",
		"2001:db8:3:2:1::10", "2001:db8:3:2:1::11", "2001:db8:3:2:2::7", "2001:db8:3:2:1::dead", "2001:db8:3:2:1::1", "2001:db8:3:2::1", "fe80::1"}
	nobodies = []string{"127.0.0.1", "169.254.169.254", "224.0.0.5", "255.255.255.255", "240.0.0.1", "0.0.0.0", "::1", "ff02::1", "fe80::bad", "::"}
)

// drawLive draws a network with its rules, and test blocks with what the policy says by itself.
func drawLive(t *testing.T, seed uint64, tests int) (src string, blocks []string) {
	t.Helper()
	d := &liveDraw{Rand: rand.New(rand.NewPCG(seed, 0))}
	for ok := false; !ok; { // some rules match nothing, and the file's reader says so
		src = d.network()
		_, diags := config.Parse("router.hcl", []byte(src))
		ok = !diags.HasErrors()
	}
	e := explainerOf(t, src)
	for len(blocks) < tests {
		if b, ok := d.test(t, e, src, len(blocks)); ok {
			blocks = append(blocks, b)
		}
	}
	return src, blocks
}

func explainerOf(t *testing.T, src string) *router.Explainer {
	t.Helper()
	e, err := router.NewExplainer(parsed(t, src))
	must(t, err)
	return e
}

// network is a file without tests.
func (d *liveDraw) network() string {
	var b strings.Builder
	host := !d.in(4)
	d.guests = []string{"one", "two", "three", "four"}[:2+d.IntN(3)]
	d.peers = []string{"uplink"}
	if host {
		d.peers = append(d.peers, "host")
	}
	for _, g := range d.guests {
		d.peers = append(d.peers, "domu:"+g)
	}
	upstream6 := one(d, "routed", "proxied", "proxied")
	gateways := []string{"fe80::1", "2001:db8:fffe::1"}
	if upstream6 == "proxied" {
		gateways = append(gateways, "2001:db8:3:2::1")
	}
	fmt.Fprintf(&b, "uplink \"eth0\" {\n  address4 = \"192.0.1.3\"\n  gateway4 = \"192.0.1.1\"\n  gateway6 = %q\n}\nbridge \"xenbr0\" {\n  tap = \"udr0\"\n}\n",
		one(d, gateways...))
	fmt.Fprintf(&b, "network \"v4\" {\n  prefix   = \"192.0.2.0/24\"\n  gateway  = \"192.0.2.1\"\n  upstream = %q\n}\n", one(d, "routed", "routed", "proxied"))
	fmt.Fprintf(&b, "network \"v6\" {\n  prefix   = \"2001:db8:3:2::/64\"\n  gateway  = %q\n  upstream = %q\n}\n", one(d, "2001:db8:3:2:1::1", "fe80::1"), upstream6)
	policies := []string{"strict", "loose"}[:1+d.IntN(2)]
	for _, p := range policies {
		fmt.Fprintf(&b, "policy %q {\n", p)
		if d.in(6) {
			b.WriteString("  mode = \"shadow\"\n")
		}
		b.WriteString(d.chain("egress", "accept", "accept", "drop", "reject") + d.chain("ingress", "drop", "drop", "reject", "accept") + "}\n")
	}
	for i, g := range d.guests {
		fmt.Fprintf(&b, "domu %q {\n  vif = \"vif%d.0\"\n  mac = \"00:16:3e:00:00:%02x\"\n", g, i+1, i+1)
		families := d.IntN(6) // most are of both
		if families != 0 {
			list := []string{fmt.Sprintf("192.0.2.%d", 10+i)}
			if i == 0 && d.in(2) {
				list = append(list, "192.0.2.20")
			}
			fmt.Fprintf(&b, "  ipv4 = [%s]\n", quoted(list))
		}
		if families != 1 {
			list := []string{fmt.Sprintf("2001:db8:3:2:1::%x", 0x10+i)}
			if i == 0 && d.in(2) {
				list = append(list, "2001:db8:3:2:2::/80")
			}
			fmt.Fprintf(&b, "  ipv6 = [%s]\n", quoted(list))
		}
		if !d.in(5) {
			fmt.Fprintf(&b, "  policy = %q\n", one(d, policies...))
		}
		b.WriteString("}\n")
	}
	if host {
		b.WriteString("host {\n" + d.chain("ingress", "drop", "drop", "reject", "accept"))
		if !d.in(3) {
			b.WriteString(d.chain("uplink", "drop", "accept"))
		}
		b.WriteString("}\n")
	}
	return b.String()
}

func quoted(list []string) string {
	var words []string
	for _, s := range list {
		words = append(words, strconv.Quote(s))
	}
	return strings.Join(words, ", ")
}

// chain is a block of rules with one of some defaults.
func (d *liveDraw) chain(name string, defaults ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "  %s {\n    default = %q\n", name, one(d, defaults...))
	for range d.IntN(5) {
		d.rules++
		fmt.Fprintf(&b, "    rule \"r%d\" {\n      action = %q\n", d.rules, one(d, "accept", "accept", "drop", "reject"))
		if !d.in(4) {
			proto := one(d, drawnProtos...)
			fmt.Fprintf(&b, "      proto = %q\n", proto)
			if (proto == "tcp" || proto == "udp") && !d.in(3) {
				fmt.Fprintf(&b, "      ports = [%s]\n", strings.Join(d.some(drawnPorts, func(s string) string { return s }), ", "))
			}
		}
		for _, key := range []string{"from", "to"} {
			if d.in(3) {
				fmt.Fprintf(&b, "      %s = [%s]\n", key, strings.Join(d.some(append(drawnPeers, d.peers...), strconv.Quote), ", "))
			}
		}
		b.WriteString("    }\n")
	}
	return b.String() + "  }\n"
}

// some are one to three of a list, each once.
func (d *liveDraw) some(list []string, as func(string) string) (words []string) {
	for _, i := range d.Perm(len(list))[:1+d.IntN(3)] {
		words = append(words, as(list[i]))
	}
	return words
}

// test is a block that the file takes, and expects what the policy says of it by itself.
func (d *liveDraw) test(t *testing.T, e *router.Explainer, src string, n int) (block string, ok bool) {
	t.Helper()
	const open = "expect = \"accept\"" // what is expected is not known yet
	var b strings.Builder
	fmt.Fprintf(&b, "test \"drawn %d\" {\n%s", n, d.packet("  ", true))
	if d.in(5) {
		b.WriteString("  open = true\n")
	}
	b.WriteString("  " + open + "\n")
	for d.in(4) {
		fmt.Fprintf(&b, "  then {\n%s    %s\n  }\n", d.packet("    ", false), open)
	}
	b.WriteString("}\n")
	cfg, diags := config.Parse("router.hcl", []byte(src+b.String()))
	if diags.HasErrors() {
		return "", false // it makes no sense, and the file's reader says so
	}
	r := e.Test(cfg.Tests[0])
	parts := strings.Split(b.String(), open)
	block = parts[0]
	for i, s := range r.Steps {
		if len(s.Answers) == 0 {
			return "", false // nothing in common
		}
		for _, a := range s.Answers {
			switch {
			case a.Verdict != s.Answers[0].Verdict: // a test expects one thing of both families
				return "", false
			case a.Opened != nil && (a.Opened.Verdict != policy.Accept.String() || a.Opened.From == "uplink" && slices.Contains(insiders, a.Opened.Src.String())): // there is nobody to open it
				return "", false
			case a.Verdict == policy.Reject.String() && a.Src.String() == station: // nobody asks for its MAC to tell it, unless it is known
				return "", false
			case a.From == "host" && (a.Dst.IsLinkLocalUnicast() || policy.Classify(a.Src) != policy.Unicast): // on which link does not stand there; its kernel may send such or not
				return "", false
			case a.From == "host" && a.Reason == policy.HostSource.String() && (!strings.Contains(src, "\nhost {") || a.Opened != nil): // by the provider it may come to a guest all the same, or the true end answers
				return "", false
			case a.From == "uplink" && a.Reason == policy.NDSpoof.String() && (s.To.Kind == policy.PeerHost || slices.Contains(dom0s, a.Dst.String())): // the router does not believe it; dom0's kernel hears it by itself
				return "", false
			}
		}
		block += fmt.Sprintf("expect = %q", s.Answers[0].Verdict) + parts[i+1]
	}
	return block, true
}

// packet is a test's or step's: who sends what to whom. A step may leave out anything.
func (d *liveDraw) packet(indent string, whole bool) string {
	var b strings.Builder
	set := func(key, value string) { fmt.Fprintf(&b, "%s%s = %s\n", indent, key, value) }
	given := func() bool { return whole || d.in(3) }
	if given() {
		from := one(d, append([]string{"uplink", "uplink", "host"}, d.guestPeers()...)...)
		set("from", strconv.Quote(from))
		switch {
		case from == "uplink":
			set("src", strconv.Quote(d.address(outsiders, insiders)))
		case d.in(5):
			set("src", strconv.Quote(d.address(insiders, outsiders)))
		}
	}
	if given() {
		if d.in(2) {
			set("to", strconv.Quote(one(d, append([]string{"host"}, d.guestPeers()...)...)))
		} else {
			set("dst", strconv.Quote(d.address(outsiders, insiders)))
		}
	}
	message := false
	if d.in(4) {
		f := one(d, policy.Forgeries()...)
		message = f.Message()
		set("forge", strconv.Quote(f.String()))
	}
	if !message && given() {
		proto := one(d, append(drawnProtos, "132")...)
		set("proto", strconv.Quote(proto))
		if proto == "tcp" || proto == "udp" {
			set("port", strconv.Itoa(one(d, askedPorts...)))
		}
	}
	return b.String()
}

func (d *liveDraw) guestPeers() (list []string) {
	for _, g := range d.guests {
		list = append(list, "domu:"+g)
	}
	return list
}

// address is one of two lists, more often of the first, or seldom one that nobody may have.
func (d *liveDraw) address(often, seldom []string) string {
	switch n := d.IntN(12); {
	case n == 0:
		return one(d, nobodies...)
	case n < 4:
		return one(d, seldom...)
	}
	return one(d, often...)
}
