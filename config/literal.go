package config

import (
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// value is a literal with its place. The zero value stands for one that is left out or was reported.
type value struct {
	key string // the key that it was given to, for messages
	v   cty.Value
	at  hcl.Range
}

func (v value) ok() bool { return v.v != cty.NilVal }

// given tells whether a key is in the file, be its value right or wrong.
func given(a *hcl.Attribute) bool { return a != nil }

// require reports a key that is left out. at is the block's header; takes is what to write.
func (r *reporter) require(a *hcl.Attribute, at hcl.Range, key, takes string) bool {
	if a == nil {
		r.errorf(at, fmt.Sprintf("Missing %s", key), "This block needs the key %s: %s.", key, takes)
		return false
	}
	return true
}

// scalar is the one value of a key. takes says what the key takes, with an example: `an address in quotes,
// such as "192.0.2.1"`.
func (r *reporter) scalar(a *hcl.Attribute, takes string) value {
	if a == nil {
		return value{}
	}
	return r.literal(a.Expr, a.Name, takes)
}

// list is the elements of a key's list; ok is false where it is none or left out.
func (r *reporter) list(a *hcl.Attribute, takes string) (elems []hclsyntax.Expression, ok bool) {
	if a == nil {
		return nil, false
	}
	t, ok := unwrap(a.Expr).(*hclsyntax.TupleConsExpr)
	if ok {
		return t.Exprs, true
	}
	if v := r.literal(a.Expr, a.Name, takes); v.ok() {
		r.errorf(v.at, "List wanted", "%s takes a list. Put brackets around it: [%s]", a.Name, excerpt(r.src.text(v.at)))
	}
	return nil, false
}

func unwrap(e hcl.Expression) hcl.Expression {
	for {
		p, ok := e.(*hclsyntax.ParenthesesExpr)
		if !ok {
			return e
		}
		e = p.Expression
	}
}

// literal is a string, number or boolean as it stands in the file. Everything that would have to be evaluated
// is reported: a configuration that decides what passes should say it in so many words.
func (r *reporter) literal(e hcl.Expression, key, takes string) value {
	at := e.Range()
	switch e := unwrap(e).(type) {
	case *hclsyntax.LiteralValueExpr:
		if e.Val.IsNull() {
			r.errorf(at, "No value", "null is none. Leave %s out, or write %s.", key, takes)
			return value{}
		}
		return value{key, e.Val, at}
	case *hclsyntax.TemplateExpr:
		if s, ok := text(e); ok && isTODO(s) {
			r.todo(s, at, takes)
			return value{}
		} else if ok {
			return value{key, cty.StringVal(s), at}
		}
		r.errorf(at, "Template in a value", "${ and %%{ sequences are not supported. Write the value itself.")
	case *hclsyntax.TemplateWrapExpr:
		r.errorf(at, "Template in a value", "${ and %%{ sequences are not supported. Write the value itself.")
	case *hclsyntax.UnaryOpExpr:
		if n, ok := unwrap(e.Val).(*hclsyntax.LiteralValueExpr); ok && e.Op == hclsyntax.OpNegate && n.Val.Type() == cty.Number && !n.Val.IsNull() {
			return value{key, n.Val.Negate(), at}
		}
		r.errorf(at, "Expression in a value", "Expressions are not supported. Write the value itself: %s takes %s.", key, takes)
	case *hclsyntax.ScopeTraversalExpr:
		word := excerpt(r.src.text(at))
		switch quoted := strings.Contains(takes, "in quotes") || strings.HasPrefix(takes, `"`); {
		case !quoted:
			r.errorf(at, "Not a value", "%s is none. %s takes %s.", word, key, takes)
		case len(e.Traversal) == 1:
			r.errorf(at, "Quotes missing", "%s is a word without quotes. Write %q.", word, word)
		default:
			r.errorf(at, "Variable in a value", "Variables are not supported. If %s is meant as it stands, write it in quotes: %q.", word, word)
		}
	case *hclsyntax.FunctionCallExpr:
		r.errorf(at, "Function in a value", "Functions are not supported. Write the value itself: %s takes %s.", key, takes)
	case *hclsyntax.TupleConsExpr:
		r.errorf(at, "List where one value is wanted", "%s takes %s, without brackets.", key, takes)
	case *hclsyntax.ObjectConsExpr:
		r.errorf(at, "Object in a value", "%s takes %s.", key, takes)
	default:
		r.errorf(at, "Expression in a value", "Expressions are not supported. Write the value itself: %s takes %s.", key, takes)
	}
	return value{}
}

// isTODO tells whether a string stands for a value that someone has yet to decide on, as `udrouter import` writes it.
func isTODO(s string) bool {
	word, _, _ := strings.Cut(s, ":")
	return word == "TODO"
}

// todo reports such a string; takes is what the value may be.
func (r *reporter) todo(s string, at hcl.Range, takes string) {
	what := ""
	if _, rest, ok := strings.Cut(s, ":"); ok {
		what = fmt.Sprintf(" Wanted is %s.", excerpt(rest))
	}
	r.errorf(at, "Value to be filled in", "TODO stands for what the configuration was made without.%s In its place write %s.", what, takes)
}

// text is a quoted string without templates.
func text(e *hclsyntax.TemplateExpr) (string, bool) {
	var b strings.Builder
	for _, part := range e.Parts {
		l, ok := part.(*hclsyntax.LiteralValueExpr)
		if !ok || l.Val.Type() != cty.String {
			return "", false
		}
		b.WriteString(l.Val.AsString())
	}
	return b.String(), true
}

// excerpt keeps a quotation of the file short and on one line.
func excerpt(s string) string { return keepStart(strings.Join(strings.Fields(s), " "), 60) }

// str is the string of a value, or reports that it is none.
func (r *reporter) str(v value, takes string) (string, bool) {
	if !v.ok() {
		return "", false
	}
	if v.v.Type() == cty.String {
		return v.v.AsString(), true
	}
	r.errorf(v.at, "String wanted", "%s is %s without quotes. It takes %s.", v.key, kindOf(v), takes)
	return "", false
}

func kindOf(v value) string {
	switch v.v.Type() {
	case cty.Number:
		return "a number"
	case cty.Bool:
		return "true or false"
	}
	return "a string"
}

// boolean is true, false, or the default.
func (r *reporter) boolean(a *hcl.Attribute, dflt bool) bool {
	v := r.scalar(a, "true or false")
	if !v.ok() {
		return dflt
	}
	if v.v.Type() != cty.Bool {
		detail := fmt.Sprintf("%s is either true or false", a.Name)
		if v.v.Type() == cty.String && (v.v.AsString() == "true" || v.v.AsString() == "false") {
			detail += ", without quotes"
		}
		r.errorf(v.at, "Neither true nor false", "%s.", detail)
		return dflt
	}
	return v.v.True()
}

// integer is a whole number from lo to hi; takes says so, with its unit.
func (r *reporter) integer(v value, lo, hi uint64, takes string) (uint64, bool) {
	if !v.ok() {
		return 0, false
	}
	if v.v.Type() != cty.Number {
		detail := fmt.Sprintf("%s takes %s.", v.key, takes)
		if v.v.Type() == cty.String && isDigits(v.v.AsString()) {
			detail += fmt.Sprintf(" Write it without quotes: %s.", excerpt(v.v.AsString()))
		}
		r.errorf(v.at, "Number wanted", "%s", detail)
		return 0, false
	}
	f := v.v.AsBigFloat()
	if !f.IsInt() && !f.IsInf() {
		r.errorf(v.at, "Not a whole number", "%s takes %s.", v.key, takes)
		return 0, false
	}
	n, exact := f.Uint64()
	if exact != big.Exact || n < lo || n > hi {
		r.errorf(v.at, "Number out of range", "%s takes %s.", v.key, takes)
		return 0, false
	}
	return n, true
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// choice is one of a key's words.
type choice[T any] struct {
	word  string
	means T
}

// oneWord is what the word means, or the default where the key is left out or wrong.
func oneWord[T any](r *reporter, a *hcl.Attribute, dflt T, choices ...choice[T]) (T, bool) {
	words := make([]string, len(choices))
	for i, c := range choices {
		words[i] = c.word
	}
	v := r.scalar(a, oneOf(words))
	s, ok := r.str(v, oneOf(words))
	if !ok {
		return dflt, false
	}
	for _, c := range choices {
		if c.word == s {
			return c.means, true
		}
	}
	r.errorf(v.at, fmt.Sprintf("Unknown %s %q", a.Name, excerpt(s)), "%s is %s.%s", a.Name, oneOf(words), r.didYouMean(s, words))
	return dflt, false
}

// duration is a time such as "30s", from least to most.
func (r *reporter) duration(a *hcl.Attribute, dflt, least, most time.Duration) time.Duration {
	takes := fmt.Sprintf("a duration in quotes, such as %q", short(dflt))
	v := r.scalar(a, takes)
	if v.ok() && v.v.Type() == cty.Number {
		r.errorf(v.at, "Duration without a unit", "%s takes %s. The units are ms, s, m and h.", a.Name, takes)
		return dflt
	}
	s, ok := r.str(v, takes)
	if !ok {
		return dflt
	}
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		r.errorf(v.at, "Malformed duration", "%s takes %s. The units are ms, s, m and h.", a.Name, takes)
	case d < least || d > most:
		r.errorf(v.at, "Duration out of range", "%s is from %s to %s.", a.Name, short(least), short(most))
	default:
		return d
	}
	return dflt
}

// short writes a duration without its zero parts: 24h, not 24h0m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
