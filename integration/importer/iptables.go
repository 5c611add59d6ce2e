package importer

import (
	"net/netip"
	"strconv"
	"strings"
)

// table is the filter table of one family.
type table struct {
	v6     bool
	chains map[string]*chain
	order  []string
}

// chain is a list of rules. A built-in one has a policy.
type chain struct {
	name   string
	policy string // "ACCEPT" or "DROP"; "": a user-defined chain
	policyNote,
	note *Note
	rules []*rule
}

// rule is one as it was written.
type rule struct {
	match  match
	target string         // of -j or -g; "": none
	jump   bool           // the target is a user-defined chain: -j comes back from it, -g does not
	goes   bool           // -g
	spec   string         // its words, for -D
	named  []netip.Prefix // what -s and -d name, without those that a ! excludes
	use    *usage
}

// usage is what becomes of a rule, which several of udrouter's chains may take up.
type usage struct {
	note     *Note
	carried  bool // a chain has it
	left     []string
	needless []string
}

func (u *usage) leave(why string) { u.left = appendNew(u.left, why) }
func (u *usage) need(why string)  { u.needless = appendNew(u.needless, why) }

func appendNew(list []string, s string) []string {
	for _, have := range list {
		if have == s {
			return list
		}
	}
	return append(list, s)
}

// settle gives the rule's line its outcome.
func (u *usage) settle() {
	switch {
	case len(u.left) > 0:
		u.note.left("%s", strings.Join(u.left, "; "))
		if u.carried {
			u.note.Why = "only in part: " + u.note.Why
		}
	case u.carried:
		u.note.carried()
	case len(u.needless) > 0:
		u.note.needless(strings.Join(u.needless, "; "))
	default:
		u.note.needless("it matches nothing that udrouter has to do with: neither a guest nor dom0 by the uplink")
	}
}

const maxRules = 20000 // of one family

var builtin = []string{"INPUT", "FORWARD", "OUTPUT"}

func (in *setup) table(v6 bool) *table {
	t := &in.tables[family(v6)]
	if *t == nil {
		*t = &table{v6: v6, chains: map[string]*chain{}}
		for _, name := range builtin {
			(*t).chain(name).policy = "ACCEPT"
		}
	}
	return *t
}

// chain is the chain of a name, made if there is none.
func (t *table) chain(name string) *chain {
	c := t.chains[name]
	if c == nil {
		c = &chain{name: name}
		t.chains[name] = c
		t.order = append(t.order, name)
	}
	return c
}

// readRules reads what iptables-save writes, or a script of iptables commands. v6 is the family of the former.
func (in *setup) readRules(file string, src []byte, v6 bool) {
	save := "" // the table that is being read, in the format of iptables-save
	sh := &shell{}
	entered := 0
	for _, l := range lines(src) {
		if l.text == "" || strings.HasPrefix(l.text, "#") {
			continue
		}
		if entered++; entered > maxRules {
			in.failf(file, l.number, "more than %d lines", maxRules)
			return
		}
		note := in.enter(file, l.number, l.text)
		if name, ok := strings.CutPrefix(l.text, "*"); ok {
			if save != "" {
				in.failf(file, l.number, "*%s begins before COMMIT has ended *%s", clean(name), save)
			}
			save = clean(name)
			note.carried()
			if save == "filter" {
				in.restore(note, v6)
			} else {
				in.otherTable(note, save)
			}
			continue
		}
		list, err := commands(l.text)
		if err != nil {
			in.failf(file, l.number, "%v", err)
			continue
		}
		if len(list) == 0 {
			note.needless("it does nothing")
			continue
		}
		if save == "" {
			if list, err = commands(sh.expand(l.text)); err != nil || len(list) == 0 {
				in.failf(file, l.number, "what its variables stand for makes no command of it")
				continue
			}
			in.shellLine(note, "", sh, list)
			continue
		}
		words := list[0].words
		if len(list) > 1 {
			in.failf(file, l.number, "more follows the rule (%s): write it as iptables-save does", clean(list[1].String()))
			continue
		}
		if strings.HasPrefix(words[0], "[") && strings.HasSuffix(words[0], "]") { // counters
			words = words[1:]
		}
		switch {
		case len(words) == 0:
			in.failf(file, l.number, "counters without a rule")
		case words[0] == "COMMIT":
			note.carried()
			save = ""
		case save != "filter":
			in.otherTable(note, save)
		case strings.HasPrefix(words[0], ":"):
			in.declare(note, words, v6)
		default:
			in.rule(note, words, v6)
		}
	}
	if save != "" {
		in.failf(file, len(lines(src)), "the table *%s is not ended by COMMIT", save)
	}
}

func (in *setup) otherTable(note *Note, name string) {
	switch name {
	case "nat":
		note.left("udrouter does not translate addresses: give guests addresses of their own; what dom0 translates for itself stays")
	default:
		note.left("only the table filter is carried over: see whether anything needs what %s did to guests", name)
	}
}

// restore empties a table before its rules are loaded, as iptables-restore does.
func (in *setup) restore(note *Note, v6 bool) {
	if t := in.tables[family(v6)]; t != nil {
		for _, c := range t.chains {
			for _, r := range c.rules {
				r.use.need("replaced by " + note.place())
			}
		}
	}
	in.tables[family(v6)] = nil
	in.table(v6)
}

// declare reads `:CHAIN POLICY [packets:bytes]`.
func (in *setup) declare(note *Note, words []string, v6 bool) {
	if len(words) < 2 || len(words[0]) < 2 {
		in.failf(note.File, note.Line, "a chain is declared as :NAME POLICY, such as :INPUT DROP [0:0]")
		return
	}
	in.setPolicy(note, words[0][1:], words[1], v6)
}

func (in *setup) setPolicy(note *Note, name, policy string, v6 bool) {
	c := in.table(v6).chain(name)
	note.carried()
	switch {
	case policy == "-":
		c.note = note
	case c.policy == "":
		in.failf(note.File, note.Line, "the chain %s is none of %s, which alone have a policy", clean(name), strings.Join(builtin, ", "))
	case policy != "ACCEPT" && policy != "DROP":
		in.failf(note.File, note.Line, "the policy %s is neither ACCEPT nor DROP", clean(policy))
	default:
		c.policy, c.policyNote = policy, note
	}
}

// rule reads the words of an iptables command, without its name.
func (in *setup) rule(note *Note, words []string, v6 bool) {
	for len(words) > 0 {
		switch words[0] {
		case "-w", "--wait", "-4", "-6", "--ipv4", "--ipv6", "-v", "-n":
			words = words[1:]
			if len(words) > 0 && strings.Trim(words[0], "0123456789") == "" {
				words = words[1:]
			}
			continue
		case "-t", "--table":
			if len(words) < 2 {
				in.failf(note.File, note.Line, "-t names no table")
				return
			}
			if words[1] != "filter" {
				in.otherTable(note, clean(words[1]))
				return
			}
			words = words[2:]
			continue
		}
		break
	}
	if len(words) == 0 {
		in.failf(note.File, note.Line, "a command of iptables is missing, such as -A INPUT")
		return
	}
	t := in.table(v6)
	arg := ""
	if len(words) > 1 {
		arg = words[1]
	}
	switch cmd := words[0]; cmd {
	case "-A", "--append", "-I", "--insert":
		if strings.Contains(arg, "$") {
			note.left("which chain it is for is not known: write it out and import again, or see whether what it drops still passes")
			return
		}
		if arg == "" || strings.HasPrefix(arg, "-") {
			in.failf(note.File, note.Line, "%s names no chain", cmd)
			return
		}
		rest := words[2:]
		at := len(t.chain(arg).rules)
		if strings.HasPrefix(cmd, "-I") || cmd == "--insert" {
			at = 0
			if len(rest) > 0 {
				if n, err := strconv.Atoi(rest[0]); err == nil {
					if n < 1 || n > len(t.chain(arg).rules)+1 {
						in.failf(note.File, note.Line, "%s has no place %d to insert a rule at", clean(arg), n)
						return
					}
					at, rest = n-1, rest[1:]
				}
			}
		}
		if r := in.parseRule(note, rest, v6); r != nil {
			if in.condition != "" {
				r.match.other = append(r.match.other, in.condition)
			}
			c := t.chain(arg)
			c.rules = append(c.rules[:at], append([]*rule{r}, c.rules[at:]...)...)
		}
	case "-P", "--policy":
		if len(words) != 3 {
			in.failf(note.File, note.Line, "-P takes a chain and a policy")
			return
		}
		if in.condition != "" && words[2] == "ACCEPT" {
			note.left("it depends on %s: the policy is left as it is", in.condition)
			return
		}
		in.setPolicy(note, arg, words[2], v6)
	case "-N", "--new-chain":
		if arg == "" {
			in.failf(note.File, note.Line, "-N names no chain")
			return
		}
		t.chain(arg).note = note
		note.carried()
	case "-F", "--flush":
		if in.condition != "" {
			note.left("the rules are taken to be there still")
			return
		}
		for name, c := range t.chains {
			if arg == "" || arg == name {
				for _, r := range c.rules {
					r.use.need("removed by " + note.place())
					r.use.settle()
				}
				c.rules = nil
			}
		}
		note.carried()
	case "-X", "--delete-chain", "-Z", "--zero":
		note.carried()
	case "-D", "--delete":
		if in.condition != "" {
			note.left("it depends on %s: the rule is taken to be there still, if it is one that drops; look at it", in.condition)
			return
		}
		in.deleteRule(note, t, arg, words)
	case "-L", "--list", "-S", "--list-rules", "-h":
		note.needless("it only shows rules")
	default:
		note.left("this command of iptables is not understood: write its result with iptables-save and import that")
	}
}

func (in *setup) deleteRule(note *Note, t *table, name string, words []string) {
	if c := t.chains[name]; c != nil && len(words) > 2 {
		spec := strings.Join(words[2:], " ")
		for i, r := range c.rules {
			if r.spec == spec || strconv.Itoa(i+1) == spec {
				c.rules = append(c.rules[:i], c.rules[i+1:]...)
				r.use.need("removed by " + note.place())
				r.use.settle()
				note.carried()
				return
			}
		}
	}
	note.needless("there is no such rule at that place")
}
