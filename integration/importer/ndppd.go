package importer

import (
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// ndpProxy is a proxy block of ndppd.conf(5).
type ndpProxy struct {
	dev     string
	router  *bool
	ttl     time.Duration // 0: not said
	timeout time.Duration
	rules   []ndpRule
	note    *Note
	notes   []*Note // of what is in it
}

// ndpRule is a rule of one.
type ndpRule struct {
	prefix netip.Prefix // masked
	static bool         // answered without asking the guest
	iface  string       // where guests are asked; "": where the kernel's routes say
	note   *Note
}

// token is a word of ndppd.conf, "{", "}", or the end of a line or statement as "\n".
type token struct {
	text string
	line int
}

// ndpTokens splits a file. Comments are those of C, C++ and the shell.
func (in *setup) ndpTokens(file string, src []byte) (list []token) {
	s, line := string(src), 1
	for i := 0; i < len(s); {
		switch c := s[i]; {
		case c == '\n':
			list = append(list, token{"\n", line})
			line++
			i++
		case c == ';':
			list = append(list, token{"\n", line})
			i++
		case c == ' ' || c == '\t' || c == '\r':
			i++
		case c == '#' || strings.HasPrefix(s[i:], "//"):
			for i < len(s) && s[i] != '\n' {
				i++
			}
		case strings.HasPrefix(s[i:], "/*"):
			end := strings.Index(s[i:], "*/")
			if end < 0 {
				in.failf(file, line, "a comment (/*) is not closed")
				return nil
			}
			line += strings.Count(s[i:i+end], "\n")
			i += end + 2
		case c == '{' || c == '}':
			list = append(list, token{string(c), line})
			i++
		default:
			start := i
			for i < len(s) && !strings.ContainsRune(" \t\r\n;{}#", rune(s[i])) {
				i++
			}
			list = append(list, token{strings.Trim(s[start:i], `"'`), line})
		}
	}
	return append(list, token{"\n", line})
}

// readNDPPD reads ndppd.conf: statements of words, of which those with a block are `proxy IFACE {` and `rule PREFIX {`.
func (in *setup) readNDPPD(file string, src []byte) {
	var proxy *ndpProxy
	var rule *ndpRule
	var words []string
	depth, line := 0, 0
	for _, t := range in.ndpTokens(file, src) {
		switch t.text {
		case "{":
			if len(words) == 0 {
				in.failf(file, t.line, "a block without a name: `proxy INTERFACE {` or `rule PREFIX {` is wanted")
				return
			}
			note := in.enter(file, line, strings.Join(words, " ")+" {")
			switch {
			case depth == 0 && words[0] == "proxy" && len(words) == 2:
				proxy = &ndpProxy{dev: words[1], note: note}
				in.ndppd = append(in.ndppd, proxy)
			case depth == 1 && words[0] == "rule" && len(words) == 2:
				p, _, err := addrOrPrefix(words[1])
				if err != nil || !p.Addr().Is6() {
					in.failf(file, line, "rule %q is no IPv6 prefix", clean(words[1]))
					return
				}
				proxy.rules = append(proxy.rules, ndpRule{prefix: p.Masked(), note: note})
				rule = &proxy.rules[len(proxy.rules)-1]
			default:
				in.failf(file, line, "%q begins no block here: `proxy INTERFACE {` does, and `rule PREFIX {` in it", clean(strings.Join(words, " ")))
				return
			}
			depth++
			words = nil
		case "\n", "}":
			if len(words) > 0 {
				note := in.enter(file, line, strings.Join(words, " "))
				in.ndpStatement(note, proxy, rule, words)
				words = nil
			}
			if t.text == "}" {
				if depth--; depth < 0 {
					in.failf(file, t.line, "a } without its {")
					return
				}
				rule = nil
				if depth == 0 {
					proxy = nil
				}
			}
		default:
			if len(words) == 0 {
				line = t.line
			}
			words = append(words, t.text)
		}
	}
	if depth > 0 {
		in.failf(file, len(lines(src)), "the file ends in a block that is not closed")
	}
}

func (in *setup) ndpStatement(note *Note, proxy *ndpProxy, rule *ndpRule, words []string) {
	key, value := words[0], ""
	if len(words) > 1 {
		value = words[1]
	}
	number := func() (time.Duration, bool) {
		n, err := strconv.ParseUint(value, 10, 31)
		if err != nil {
			in.failf(note.File, note.Line, "%s %q is no number of milliseconds", clean(key), clean(value))
		}
		return time.Duration(n) * time.Millisecond, err == nil
	}
	switch {
	case proxy == nil && key == "route-ttl" || key == "address-ttl":
		note.needless("udrouter hears of changed routes and addresses at once")
	case proxy == nil:
	case rule != nil:
		switch key {
		case "auto":
		case "static":
			rule.static = true
		case "iface":
			rule.iface = value
		case "autovia":
			note.needless("routes to guests come from their domu blocks")
			return
		default:
			return
		}
		note.carried()
	case key == "router":
		yes := value == "yes" || value == "true"
		if !yes && value != "no" && value != "false" {
			in.failf(note.File, note.Line, "router is yes or no, not %q", clean(value))
			return
		}
		proxy.router = &yes
		note.carried()
	case key == "ttl":
		if d, ok := number(); ok {
			proxy.ttl = d
			note.carried()
		}
	case key == "timeout":
		if d, ok := number(); ok {
			proxy.timeout = d
			note.carried()
		}
	case key == "autowire" || key == "keepalive" || key == "retries" || key == "promiscuous" || key == "deadtime":
		note.needless("guests are bound, and udrouter keeps their neighbour entries itself")
	}
	if proxy != nil && rule == nil {
		proxy.notes = append(proxy.notes, note)
	}
}
