package importer

import (
	"path/filepath"
	"slices"
	"strings"
)

// shell is what is known of a script between two of its lines. It knows variables with a plain value; whether a condition holds it does not.
type shell struct {
	vars  map[string]string
	depth int // of ifs, loops and functions that have begun and not ended
}

// knownCommands are those that a set-up is made with: they succeed, so what && joins to them happens.
var knownCommands = []string{"ip", "sysctl", "echo", "iptables", "ip6tables", "iptables-restore", "ip6tables-restore", "ifconfig", "route", "true", ":", "modprobe", "ethtool",
	"brctl", "sleep"}

// openers and closers are the words by which what is between them comes to depend on something.
var (
	openers = []string{"if", "for", "while", "until", "case", "{", "("}
	closers = []string{"fi", "done", "esac", "}", ")"}
)

// condition is what a command depends on, "" if it happens anyway. before is the one in front of it on its line, or nil.
func (s *shell) condition(c shellCommand, before *shellCommand) string {
	switch {
	case s.depth > 0:
		return "a condition of the script"
	case before == nil || c.after == ";" || c.after == "&":
		return ""
	case c.after == "&&" && slices.Contains(knownCommands, filepath.Base(before.words[0])):
		return ""
	}
	return "what comes of " + clean(before.String())
}

// expand puts in the values of variables that are known.
func (s *shell) expand(line string) string {
	for name, value := range s.vars {
		line = strings.ReplaceAll(line, "${"+name+"}", value)
		for at := 0; ; {
			i := strings.Index(line[at:], "$"+name)
			if i < 0 {
				break
			}
			at += i
			end := at + 1 + len(name)
			if end < len(line) && (isWordByte(line[end])) { // a longer name
				at = end
				continue
			}
			line = line[:at] + value + line[end:]
			at += len(value)
		}
	}
	return line
}

func isWordByte(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// assign takes NAME=VALUE up. A value that is not plain, and one that depends on something, makes the name an unknown one.
func (s *shell) assign(word, condition string) bool {
	name, value, ok := strings.Cut(word, "=")
	if !ok || name == "" || strings.ContainsFunc(name, func(c rune) bool { return c > 127 || !isWordByte(byte(c)) }) {
		return false
	}
	if condition != "" || strings.ContainsAny(value, "$`\"'\\;&|#") || s.vars[name] != "" && s.vars[name] != value {
		value = "$" + name // stays as it is, for ever
	}
	if len(s.vars) < maxVars {
		if s.vars == nil {
			s.vars = map[string]string{}
		}
		s.vars[name] = value
	}
	return true
}

const maxVars = 200

// shellLine reads a line of a script. Each of its commands has an outcome of its own.
func (in *setup) shellLine(note *Note, dev string, sh *shell, list []shellCommand) {
	for n, c := range list {
		if n > 0 {
			note = in.enter(note.File, note.Line, c.String())
		} else if len(list) > 1 {
			note.Text = clean(c.String())
		}
		note.left("this command is not understood, or stands in a condition or has a variable of unknown value: see whether it is still needed, or write it out and import again")
		var before *shellCommand
		if n > 0 {
			before = &list[n-1]
		}
		words := c.words
		first := words[0]
		switch {
		case slices.Contains(closers, first):
			sh.depth = max(0, sh.depth-1)
			note.needless("it belongs to the script")
			continue
		case slices.Contains(openers, first) || strings.HasSuffix(first, "()") || len(words) > 1 && words[1] == "()":
			sh.depth++
			continue
		case first == "then" || first == "else" || first == "elif" || first == "do" || first == "!":
			if words = words[1:]; len(words) == 0 {
				note.needless("it belongs to the script")
				continue
			}
		}
		in.condition = sh.condition(c, before)
		switch first = filepath.Base(words[0]); {
		case len(words) == 1 && sh.assign(words[0], in.condition) || first == "exit" || first == "set" || first == "export":
			if first == "export" && len(words) == 2 {
				sh.assign(words[1], in.condition)
			}
			note.needless("it belongs to the script")
		case strings.Contains(words[0], "$"):
		case in.condition != "" && first != "iptables" && first != "ip6tables":
		default:
			in.command(note, dev, words)
		}
		in.condition = ""
	}
}
