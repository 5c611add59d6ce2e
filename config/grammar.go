package config

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// grammar is what a body may contain, as the tags of its raw struct say.
type grammar struct {
	block  string // "" at the top
	label  bool   // the block is written with a name
	single bool   // it may stand once in its parent
	of     reflect.Type
	keys   []string
	blocks []*grammar
}

// grammarOf derives the grammar from a raw struct.
func grammarOf(t reflect.Type) *grammar {
	g := &grammar{of: t}
	for i := range t.NumField() {
		name, kind, _ := strings.Cut(t.Field(i).Tag.Get("hcl"), ",")
		switch kind {
		case "label":
			g.label = true
		case "optional":
			g.keys = append(g.keys, name)
		case "block":
			ft := t.Field(i).Type
			sub := grammarOf(ft.Elem())
			sub.block, sub.single = name, ft.Kind() == reflect.Pointer
			g.blocks = append(g.blocks, sub)
		}
	}
	return g
}

func (g *grammar) sub(name string) *grammar {
	for _, s := range g.blocks {
		if s.block == name {
			return s
		}
	}
	return nil
}

func (g *grammar) blockNames() []string {
	var names []string
	for _, s := range g.blocks {
		names = append(names, s.block)
	}
	return names
}

// contents says what the body may contain, for messages.
func (g *grammar) contents() string {
	keys, blocks := "Its keys are "+all(g.keys), "its blocks are "+all(g.blockNames())
	if len(g.keys) == 1 {
		keys = "Its key is " + g.keys[0]
	}
	if len(g.blocks) == 1 {
		blocks = "its block is " + g.blocks[0].block
	}
	switch {
	case len(g.blocks) == 0:
		return keys + "."
	case len(g.keys) == 0:
		return fmt.Sprintf("Blocks are %s.", all(g.blockNames()))
	}
	return keys + "; " + blocks + "."
}

// usage shows how the block is begun.
func (g *grammar) usage() string {
	if !g.label {
		return g.block + " {"
	}
	example := map[string]string{"uplink": "eth0", "bridge": "xenbr0", "network": "v6", "policy": "untrusted", "domu": "one", "rule": "ssh"}[g.block]
	return fmt.Sprintf("%s %q {", g.block, cmp.Or(example, "a name"))
}

// prune reports what the grammar does not know and takes it out of the body, so that gohcl has nothing left
// to complain of in other words, and what is right beside a mistake is still read.
func (r *reporter) prune(body *hclsyntax.Body, g *grammar) {
	var unknown []*hclsyntax.Attribute
	for name, a := range body.Attributes {
		if !slices.Contains(g.keys, name) {
			unknown = append(unknown, a)
			delete(body.Attributes, name)
		}
	}
	slices.SortFunc(unknown, func(a, b *hclsyntax.Attribute) int { return a.NameRange.Start.Byte - b.NameRange.Start.Byte })
	for _, a := range unknown {
		r.unknownKey(a.Name, a.NameRange, g)
	}

	first := make(map[string]*hclsyntax.Block)
	body.Blocks = slices.DeleteFunc(body.Blocks, func(b *hclsyntax.Block) bool {
		sub := g.sub(b.Type)
		if sub == nil {
			r.unknownBlock(b, g)
			return true
		}
		r.labels(b, sub)
		if prev := first[b.Type]; prev != nil && sub.single {
			r.prune(b.Body, sub)
			r.conflictf(b.DefRange(), prev.DefRange(), fmt.Sprintf("Second %s block", b.Type), "Only one %s block may stand here. Merge the two.", b.Type)
			return true
		}
		first[b.Type] = b
		r.prune(b.Body, sub)
		return false
	})
}

func (r *reporter) unknownKey(name string, at hcl.Range, g *grammar) {
	summary := fmt.Sprintf("Unknown key %q", name)
	in := "Keys stand in blocks only."
	if g.block != "" {
		in = fmt.Sprintf("%s has no such key.", g.block)
	}
	switch hint := r.didYouMean(name, g.keys); {
	case g.sub(name) != nil:
		r.errorf(at, summary, `%s is a block and is written without "=": %s`, name, g.sub(name).usage())
	case hint != "":
		r.errorf(at, summary, "%s%s", in, hint)
	default:
		r.errorf(at, summary, "%s %s", in, g.contents())
	}
}

func (r *reporter) unknownBlock(b *hclsyntax.Block, g *grammar) {
	summary := fmt.Sprintf("Unknown block %q", b.Type)
	in := "There is no such block at the top of the file."
	if g.block != "" {
		in = fmt.Sprintf("%s has no such block.", g.block)
	}
	switch hint := r.didYouMean(b.Type, g.blockNames()); {
	case slices.Contains(g.keys, b.Type):
		r.errorf(b.TypeRange, summary, `%s is a key and is written with "=": %s = …`, b.Type, b.Type)
	case hint != "":
		r.errorf(b.TypeRange, summary, "%s%s", in, hint)
	default:
		r.errorf(b.TypeRange, summary, "%s %s", in, g.contents())
	}
}

// labels reports a wrong number of names and makes it right: a missing name becomes "" at an empty range,
// which name takes for reported.
func (r *reporter) labels(b *hclsyntax.Block, g *grammar) {
	want := 0
	if g.label {
		want = 1
	}
	switch n := len(b.Labels); {
	case n < want:
		r.errorf(b.TypeRange, fmt.Sprintf("%s needs a name", b.Type), "Write %s", g.usage())
		b.Labels = []string{""}
		b.LabelRanges = []hcl.Range{{Filename: b.TypeRange.Filename, Start: b.TypeRange.End, End: b.TypeRange.End}}
	case n > want && want == 0:
		r.errorf(hcl.RangeBetween(b.LabelRanges[0], b.LabelRanges[n-1]), fmt.Sprintf("%s takes no name", b.Type), "Write %s", g.usage())
		b.Labels, b.LabelRanges = nil, nil
	case n > want:
		r.errorf(hcl.RangeBetween(b.LabelRanges[1], b.LabelRanges[n-1]), fmt.Sprintf("%s takes one name", b.Type), "Write %s", g.usage())
		b.Labels, b.LabelRanges = b.Labels[:1], b.LabelRanges[:1]
	}
}
