package importer

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"udrouter/policy"
)

// states are those of connection tracking.
type states uint8

const (
	stateNew states = 1 << iota
	stateEstablished
	stateRelated
	stateInvalid
	stateUntracked

	anyState = stateNew | stateEstablished | stateRelated | stateInvalid | stateUntracked
)

var stateWords = map[string]states{"NEW": stateNew, "ESTABLISHED": stateEstablished, "RELATED": stateRelated, "INVALID": stateInvalid, "UNTRACKED": stateUntracked,
	"DNAT": 0, "SNAT": 0}

// match is what a rule looks at. All of it has to hold.
type match struct {
	in, out  []ifMatch
	src, dst addrSet
	proto    int                // policy.AnyProto: all
	ports    []policy.PortRange // destination's; nil: all
	states   states
	icmp     int      // a type; -1: all
	other    []string // what cannot be said in udrouter's rules
	comment  string
	never    bool // parts of it exclude each other
}

// ifMatch is a -i or -o: a name, or with a + at its end the beginning of one.
type ifMatch struct {
	name string
	not  bool
}

func (m ifMatch) matches(name string) bool {
	begin, open := strings.CutSuffix(m.name, "+")
	return (open && strings.HasPrefix(name, begin) || m.name == name) != m.not
}

// everything is a match without conditions.
func everything() match { return match{proto: policy.AnyProto, states: anyState, icmp: -1} }

// protocols are names of iptables(8) that are not udrouter's.
var protocols = map[string]int{"ipv6-icmp": policy.ProtoICMPv6, "icmp6": policy.ProtoICMPv6, "all": policy.AnyProto, "0": policy.AnyProto, "gre": 47, "esp": 50, "ah": 51, "sctp": 132,
	"ipv6": 41, "ipencap": 4, "igmp": 2, "ospf": 89, "vrrp": 112, "udplite": 136, "dccp": 33}

// icmpTypes are the names of types that rules are usually about. What has a code besides is not among them.
var icmpTypes = [2]map[string]int{
	{"echo-reply": 0, "pong": 0, "destination-unreachable": 3, "source-quench": 4, "redirect": 5, "echo-request": 8, "ping": 8, "router-advertisement": 9,
		"router-solicitation": 10, "time-exceeded": 11, "ttl-exceeded": 11, "parameter-problem": 12, "timestamp-request": 13, "timestamp-reply": 14, "any": -1},
	{"destination-unreachable": 1, "packet-too-big": 2, "time-exceeded": 3, "ttl-exceeded": 3, "parameter-problem": 4, "echo-request": 128, "echo-reply": 129,
		"router-solicitation": 133, "router-advertisement": 134, "neighbour-solicitation": 135, "neighbor-solicitation": 135,
		"neighbour-advertisement": 136, "neighbor-advertisement": 136, "redirect": 137},
}

// ruleReader reads the words of one rule.
type ruleReader struct {
	in    *setup
	note  *Note
	words []string
	v6    bool
	not   bool // a ! stood before the option
	bad   bool // it was reported
	r     *rule
}

// parseRule reads what follows the chain's name; nil when it was reported.
func (in *setup) parseRule(note *Note, words []string, v6 bool) *rule {
	r := &rule{match: everything(), spec: strings.Join(words, " "), use: &usage{note: note}}
	p := &ruleReader{in: in, note: note, words: words, v6: v6, r: r}
	for len(p.words) > 0 && !p.bad {
		p.option()
	}
	if p.bad {
		return nil
	}
	return r
}

func (p *ruleReader) fail(format string, args ...any) {
	p.in.failf(p.note.File, p.note.Line, format, args...)
	p.bad = true
}

// next is the word that an option takes. A ! before it is the old way to write one before the option.
func (p *ruleReader) next(option string) string {
	if len(p.words) > 0 && p.words[0] == "!" {
		p.not, p.words = !p.not, p.words[1:]
	}
	if len(p.words) == 0 {
		p.fail("%s takes a word", option)
		return ""
	}
	w := p.words[0]
	p.words = p.words[1:]
	return w
}

// others takes an option with its words as it stands.
func (p *ruleReader) others(option string) {
	text := option
	if p.not {
		text = "! " + text
	}
	for len(p.words) > 0 && !strings.HasPrefix(p.words[0], "-") && p.words[0] != "!" {
		text += " " + p.words[0]
		p.words = p.words[1:]
	}
	p.r.match.other = append(p.r.match.other, clean(text))
}

func (p *ruleReader) option() {
	m := &p.r.match
	p.not = false
	for len(p.words) > 0 && p.words[0] == "!" {
		p.not, p.words = !p.not, p.words[1:]
	}
	if len(p.words) == 0 {
		p.fail("a ! has nothing to negate")
		return
	}
	w := p.words[0]
	p.words = p.words[1:]
	if len(p.words) > 0 && strings.Contains(p.words[0], "$") && w != "--comment" { // a variable of a script, whose value is not known
		if w == "-j" || w == "-g" {
			p.r.target = p.words[0] // nobody knows what it does
		} else {
			m.other = append(m.other, clean(w+" "+p.words[0]))
		}
		p.words = p.words[1:]
		return
	}
	switch w {
	case "-s", "--source", "--src":
		p.addresses(&m.src, p.next(w))
	case "-d", "--destination", "--dst":
		p.addresses(&m.dst, p.next(w))
	case "-i", "--in-interface":
		name := p.next(w)
		m.in = append(m.in, ifMatch{name, p.not})
	case "-o", "--out-interface":
		name := p.next(w)
		m.out = append(m.out, ifMatch{name, p.not})
	case "--physdev-in":
		name := p.next(w)
		m.in = append(m.in, ifMatch{name, p.not})
	case "--physdev-out":
		name := p.next(w)
		m.out = append(m.out, ifMatch{name, p.not})
	case "-p", "--protocol", "--proto":
		p.protocol(p.next(w))
	case "-m", "--match":
		p.next(w)
	case "--dport", "--destination-port", "--dports", "--destination-ports":
		p.ports(p.next(w))
	case "--state", "--ctstate":
		p.state(p.next(w))
	case "--icmp-type", "--icmpv6-type":
		p.icmpType(p.next(w))
	case "--syn":
		if p.not {
			m.other = append(m.other, "! --syn")
		} // else it is what opens a connection, and nothing else is asked about
	case "--tcp-flags":
		mask, set := p.next(w), p.next(w)
		if !(sameWords(mask, "FIN,SYN,RST,ACK") && set == "SYN") || p.not {
			m.other = append(m.other, clean("--tcp-flags "+mask+" "+set))
		}
	case "--comment":
		m.comment = p.next(w)
	case "-j", "--jump", "-g", "--goto":
		p.r.target = p.next(w)
		p.r.goes = w == "-g" || w == "--goto"
		p.r.jump = !slices.Contains(targets, p.r.target)
	case "-c", "--set-counters":
		p.next(w)
		p.next(w)
	case "--reject-with", "--log-prefix", "--log-level", "--log-tcp-options", "--log-ip-options", "--log-uid", "--nflog-prefix", "--nflog-group", "--limit-burst":
		for len(p.words) > 0 && !strings.HasPrefix(p.words[0], "-") && p.words[0] != "!" { // how, not whether
			p.words = p.words[1:]
		}
	default:
		if !strings.HasPrefix(w, "-") {
			p.fail("%q stands where an option is wanted", clean(w))
			return
		}
		p.others(w)
	}
}

// targets are those that are no chain of the user's.
var targets = []string{"ACCEPT", "DROP", "REJECT", "RETURN", "LOG", "NFLOG", "ULOG", "QUEUE", "NFQUEUE", "MARK", "CONNMARK", "CT", "TCPMSS", "CLASSIFY", "SET", "TRACE", "AUDIT", "TEE"}

// quiet targets say nothing of whether a packet passes.
var quiet = []string{"LOG", "NFLOG", "ULOG", "MARK", "CONNMARK", "CT", "TCPMSS", "CLASSIFY", "SET", "TRACE", "AUDIT", "TEE", ""}

func sameWords(a, b string) bool {
	x, y := strings.Split(a, ","), strings.Split(b, ",")
	slices.Sort(x)
	slices.Sort(y)
	return slices.Equal(x, y)
}

// What one rule may list.
const (
	maxAddresses = 256
	maxPorts     = 15
)

func (p *ruleReader) addresses(set *addrSet, word string) {
	var list []netip.Prefix
	for s := range strings.SplitSeq(word, ",") {
		if p.bad {
			return
		}
		pre, _, err := addrOrPrefix(s)
		if err != nil {
			if strings.Trim(s, "0123456789./") == "" || strings.Contains(s, ":") || s == "" {
				p.fail("%q is no address or prefix", clean(s))
			} else {
				p.r.match.other = append(p.r.match.other, "the name "+clean(s)+" as an address")
			}
			return
		}
		if pre.Addr().Is6() != p.v6 {
			p.fail("%s is of the other family than the rule", pre)
			return
		}
		list = append(list, pre.Masked())
	}
	if !p.not {
		p.r.named = append(p.r.named, list...)
	}
	if len(list) > maxAddresses {
		p.fail("more than %d addresses in one rule: write several", maxAddresses)
		return
	}
	*set = set.and(addrSet{list: list, some: true}.maybeNot(p.not, p.v6))
}

func (p *ruleReader) protocol(word string) {
	word = strings.ToLower(word)
	n, ok := policy.ParseProto(word)
	if !ok {
		n, ok = protocols[word]
	}
	if !ok {
		v, err := strconv.ParseUint(word, 10, 8)
		if n, ok = int(v), err == nil; !ok {
			p.r.match.other = append(p.r.match.other, "-p "+clean(word))
			return
		}
	}
	if p.not {
		p.r.match.other = append(p.r.match.other, "! -p "+clean(word))
		return
	}
	p.r.match.proto = n
}

func (p *ruleReader) ports(word string) {
	var list []policy.PortRange
	for s := range strings.SplitSeq(word, ",") {
		if p.bad {
			return
		}
		a, b, ranged := strings.Cut(s, ":")
		if !ranged {
			b = a
		}
		if ranged && a == "" {
			a = "0"
		}
		if ranged && b == "" {
			b = "65535"
		}
		lo, ok1 := portNumber(a)
		hi, ok2 := portNumber(b)
		if !ok1 || !ok2 || lo > hi {
			p.fail("%q is no port or range of ports: a service's name has to be written as its number", clean(s))
			return
		}
		if lo == 0 { // no packet that a stack sends has it, and udrouter's rules do not name it
			if hi == 0 {
				continue
			}
			lo = 1
		}
		list = append(list, policy.PortRange{First: lo, Last: hi})
	}
	if len(list) > maxPorts {
		p.fail("more than %d ports in one rule: multiport(8) has no more either", maxPorts)
		return
	}
	if p.not {
		list = otherPorts(list)
	}
	if len(list) == 0 {
		p.r.match.never = true
		return
	}
	p.r.match.ports = list
}

// services are the names of ports that rules are usually written with (IANA's).
var services = map[string]uint16{"ftp": 21, "ssh": 22, "telnet": 23, "smtp": 25, "domain": 53, "bootps": 67, "bootpc": 68, "tftp": 69, "http": 80, "www": 80, "pop3": 110,
	"sunrpc": 111, "ntp": 123, "imap": 143, "imap2": 143, "snmp": 161, "ldap": 389, "https": 443, "submission": 587, "ldaps": 636, "imaps": 993, "pop3s": 995, "mysql": 3306,
	"postgresql": 5432}

func portNumber(s string) (uint16, bool) {
	if n, ok := services[s]; ok {
		return n, true
	}
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil
}

// otherPorts are all but those.
func otherPorts(list []policy.PortRange) (out []policy.PortRange) {
	list = slices.SortedFunc(slices.Values(list), func(a, b policy.PortRange) int { return int(a.First) - int(b.First) })
	next := 1
	for _, r := range list {
		if int(r.First) > next {
			out = append(out, policy.PortRange{First: uint16(next), Last: r.First - 1})
		}
		next = max(next, int(r.Last)+1)
	}
	if next <= 65535 {
		out = append(out, policy.PortRange{First: uint16(next), Last: 65535})
	}
	return out
}

func (p *ruleReader) state(word string) {
	var set states
	for s := range strings.SplitSeq(word, ",") {
		bit, ok := stateWords[s]
		if !ok {
			p.fail("%q is no state of a connection", clean(s))
			return
		}
		if bit == 0 {
			p.r.match.other = append(p.r.match.other, "--ctstate "+s)
			return
		}
		set |= bit
	}
	if p.not {
		set = anyState &^ set
	}
	p.r.match.states &= set
}

func (p *ruleReader) icmpType(word string) {
	n, ok := icmpTypes[family(p.v6)][word]
	if !ok {
		v, err := strconv.ParseUint(word, 10, 8)
		n, ok = int(v), err == nil
	}
	if !ok || p.not {
		text := "--icmp-type " + clean(word)
		if p.not {
			text = "! " + text
		}
		p.r.match.other = append(p.r.match.other, text)
		return
	}
	p.r.match.icmp = n
}
