package config

import (
	"reflect"
	"regexp"
	"strings"
)

// BlockDoc is a kind of block that a router.hcl may have: what the grammar admits in it, which mistakes are told from as well, with the
// explanations of Reference.
type BlockDoc struct {
	Path   string // from the top, as "network.proxy"
	Usage  string // how it begins, as `network "v4" {`
	Single bool   // it may stand once in its parent
	Text   string // what Reference says of it; "": nothing
	Like   string // the path of a block that takes the same, which explains it; "": none does
	Keys   []KeyDoc
	Subs   []string // the paths of the blocks in it
}

// KeyDoc is a key of a BlockDoc.
type KeyDoc struct {
	Name    string
	Example string // as it is written; "": Reference has none in this block
	Text    string // what Reference says of it, but for the next two; "": nothing
	Need    string // "required", with the condition where there is one; "": it is not
	Default string // "": Reference names none
}

// Outline is all blocks of the grammar, each before those in it, in the grammar's order. What a block that occurs several times in Reference has is
// explained by all of them together, the first one first.
func Outline() []BlockDoc {
	said := explanations(Reference)
	var list []BlockDoc
	first := make(map[reflect.Type]string) // the first path of a raw type
	var walk func(g *grammar, in string)
	walk = func(g *grammar, in string) {
		for _, b := range g.blocks {
			path := in + b.block
			d := BlockDoc{Path: path, Usage: b.usage(), Single: b.single, Text: said[path].text, Like: first[b.of]}
			if d.Like == "" {
				first[b.of] = path
			}
			for _, k := range b.keys {
				d.Keys = append(d.Keys, newKeyDoc(k, said[path+"."+k]))
			}
			for _, s := range b.blocks {
				d.Subs = append(d.Subs, path+"."+s.block)
			}
			list = append(list, d)
			walk(b, path+".")
		}
	}
	walk(grammarOf(reflect.TypeFor[rawFile]()), "")
	return list
}

var (
	// A sentence ends at a full stop before a space or the end; a default may go on after a colon or comma.
	requiredSentence = regexp.MustCompile(`(?:^|\s)(Required(?:[^.]|\.\S)*)\.(?:\s|$)`)
	defaultSentence  = regexp.MustCompile(`(?:^|\s)Default: ((?:[^.]|\.\S)*)\.(?:\s|$)`)
)

func newKeyDoc(name string, s explanation) KeyDoc {
	k := KeyDoc{Name: name, Example: s.example}
	take := func(sentence *regexp.Regexp) (found string) {
		if m := sentence.FindStringSubmatch(s.text); m != nil {
			found = m[1]
			s.text = strings.TrimSpace(sentence.ReplaceAllLiteralString(s.text, " "))
		}
		return found
	}
	k.Need = strings.Replace(take(requiredSentence), "Required", "required", 1)
	k.Default = take(defaultSentence)
	k.Text = s.text
	return k
}

// explanation is what a text says of a block or key: the comment above it, and the key's value.
type explanation struct{ text, example string }

var (
	commentLine = regexp.MustCompile(`^\s*# (.*)$`)
	blockLine   = regexp.MustCompile(`^\s*#?([a-z]\w*)(?: "[^"]*")? \{(\})?$`)
	keyLine     = regexp.MustCompile(`^\s*#?([a-z]\w*)\s+= (.*)$`)
	closeLine   = regexp.MustCompile(`^\s*#?\}$`)
)

// explanations reads a router.hcl as reference.hcl is written: a thing a line, comments above what they explain, and "#" with a word behind it for what
// is not in force. A key right below another shares its comment, unless it has one of its own somewhere. It returns explanations by path.
func explanations(text []byte) map[string]explanation {
	said := make(map[string]explanation)
	var in, above []string
	var shared string // the comment of the key in the line above
	add := func(name, example string) {
		path := strings.Join(append(in[:len(in):len(in)], name), ".")
		e := said[path]
		if e.text == "" {
			e.text = strings.Join(above, " ")
		} else if len(above) > 0 {
			e.text += " " + strings.Join(above, " ")
		}
		if e.text == "" {
			e.text = shared
		}
		if e.example == "" {
			e.example = example
		}
		said[path], above = e, nil
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		key := keyLine.FindStringSubmatch(line)
		if key == nil {
			shared = ""
		}
		if m := commentLine.FindStringSubmatch(line); m != nil {
			above = append(above, m[1])
		} else if m := blockLine.FindStringSubmatch(line); m != nil {
			add(m[1], "")
			if m[2] == "" {
				in = append(in, m[1])
			}
		} else if key != nil {
			if len(above) > 0 {
				shared = strings.Join(above, " ")
			}
			add(key[1], key[2])
		} else if closeLine.MatchString(line) {
			in, above = in[:len(in)-1], nil
		} else {
			above = nil // a blank line parts a comment from what follows
		}
	}
	return said
}
