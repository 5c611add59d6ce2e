package config

import (
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// All that the grammar admits is in the outline, and explained: by the reference's comment on it, by that on the block that it is like, or, in a
// block within a block, by that on the key of the same name around it.
func TestOutlineIsTheGrammar(t *testing.T) {
	blocks := make(map[string]BlockDoc)
	for _, b := range Outline() {
		blocks[b.Path] = b
	}
	var walk func(g *grammar, in string)
	walk = func(g *grammar, in string) {
		for _, sub := range g.blocks {
			path := in + sub.block
			b, ok := blocks[path]
			if !ok {
				t.Errorf("there is no block %s", path)
				continue
			}
			delete(blocks, path)
			if b.Text == "" && b.Like == "" {
				t.Errorf("nothing explains block %s", path)
			}
			var keys []string
			for _, k := range b.Keys {
				keys = append(keys, k.Name)
				if k.Text+k.Need+k.Default == "" && b.Like == "" && !slices.Contains(g.keys, k.Name) {
					t.Errorf("nothing explains %s.%s", path, k.Name)
				}
			}
			if !slices.Equal(keys, sub.keys) {
				t.Errorf("%s has the keys %q, want %q", path, keys, sub.keys)
			}
			walk(sub, path+".")
		}
	}
	walk(grammarOf(reflect.TypeFor[rawFile]()), "")
	for path := range blocks {
		t.Errorf("the grammar has no block %s", path)
	}
}

// A key is required exactly if a file without it is refused: what the reference says of that is tried, where it names no condition.
func TestOutlineRequires(t *testing.T) {
	src, _ := uncommented(t, allGroups)
	mustParse(t, "reference.hcl", src)
	said := explanations(src)
	key := regexp.MustCompile(`^\s*([a-z]\w*)\s+= `)
	lines := strings.SplitAfter(string(src), "\n")
	tried := 0
	var in []string
	for i, line := range lines {
		if m := blockLine.FindStringSubmatch(strings.TrimSuffix(line, "\n")); m != nil && m[2] == "" {
			in = append(in, m[1])
		} else if closeLine.MatchString(strings.TrimSuffix(line, "\n")) {
			in = in[:len(in)-1]
		}
		m := key.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		path := strings.Join(append(in[:len(in):len(in)], m[1]), ".")
		if strings.Contains(path, "rule") && !strings.HasPrefix(path, "policy.egress") {
			continue // explained there
		}
		k := newKeyDoc(m[1], said[path])
		if strings.HasPrefix(k.Need, "required ") || strings.HasPrefix(k.Need, "required, but") || strings.HasPrefix(path, "test.") {
			continue // on a condition, and tests do not hold with less
		}
		_, diags := Parse("reference.hcl", []byte(strings.Join(slices.Delete(slices.Clone(lines), i, i+1), "")))
		refused := false
		for _, d := range diags {
			refused = refused || d.Summary == "Missing "+m[1]
		}
		tried++
		if want := k.Need != ""; refused != want {
			t.Errorf("line %d: without %s: %v; the reference says %q", i+1, path, diags, k.Need)
		}
	}
	if tried < 30 {
		t.Errorf("%d keys were tried", tried)
	}
}

// What is taken from a comment, and what is left.
func TestNewKeyDoc(t *testing.T) {
	for text, want := range map[string]KeyDoc{
		"Bytes; 1280 to 65535, from 576 on. Default: the uplink's.":          {Text: "Bytes; 1280 to 65535, from 576 on.", Default: "the uplink's"},
		"Without host bits. Required.":                                       {Text: "Without host bits.", Need: "required"},
		"Required from the uplink. Default: 1.5 s, or dom0's. A later word.": {Text: "A later word.", Need: "required from the uplink", Default: "1.5 s, or dom0's"},
		"Not required where it is the Default.":                              {Text: "Not required where it is the Default."},
	} {
		if got := newKeyDoc("", explanation{text: text}); got != want {
			t.Errorf("%q is %+v, want %+v", text, got, want)
		}
	}
}
