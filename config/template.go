package config

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

const (
	// maxTemplates bounds the comparisons of templates with each other.
	maxTemplates = 128
	// defaultAddresses and maxAddresses bound what a template lets hotplug give to one guest.
	defaultAddresses = 16
	maxAddresses     = 1024
)

func (d *decoder) decodeTemplates(raws []*rawDomu) {
	if len(raws) > maxTemplates {
		d.errorf(raws[maxTemplates].At, "Too many templates", "At most %d domu blocks may have match. A pattern such as \"web-*\" is for many domains.", maxTemplates)
		raws = raws[:maxTemplates]
	}
	var ats []hcl.Range // of match
	for _, raw := range raws {
		t, at := d.decodeTemplate(raw)
		ats = append(ats, at)
		d.cfg.Templates = append(d.cfg.Templates, t)
	}
	for j, t := range d.cfg.Templates {
		for i, earlier := range d.cfg.Templates {
			if first := i < j && (earlier.Match != MatchAny || t.Match == MatchAny); first && earlier.Match != "" && t.Match != "" && covers(earlier.pattern(), t.pattern()) {
				d.warnf(ats[j], ats[i], "Template that never matches", "Every domain that %q matches is bound by domu %q before it. Put it first, or remove it.", t.Match, earlier.Name)
				break
			}
		}
	}
	// Whoever is for any domain is asked last.
	slices.SortStableFunc(d.cfg.Templates, func(a, b Template) int { return b2i(a.Match == MatchAny) - b2i(b.Match == MatchAny) })
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (d *decoder) decodeTemplate(raw *rawDomu) (Template, hcl.Range) {
	t := Template{Name: raw.Name, Addresses: defaultAddresses, Prefix6: 128, Range: rangeOf(raw.At)}
	for _, a := range []*hcl.Attribute{raw.Vif, raw.MAC, raw.IPv4, raw.IPv6} {
		if given(a) {
			d.errorf(a.NameRange, fmt.Sprintf("%s of a template", a.Name), "With match the block stands for many guests, and hotplug tells the vif, MAC and addresses of each. Remove %s, or match where one guest is meant.", a.Name)
		}
	}
	const takes = `"any", or a pattern of domains' names in quotes, such as "web-*"`
	v := d.scalar(raw.Match, takes)
	if s, ok := d.str(v, takes); ok {
		switch wrong := strings.IndexFunc(s, func(c rune) bool { return !nameRune(c) && c != '*' && c != '?' }); {
		case s == "":
			d.errorf(v.at, "Empty pattern", "It would match no domain. match takes %s.", takes)
		case len(s) > maxName:
			d.errorf(v.at, "Pattern is too long", "It has %d bytes; at most %d are allowed.", len(s), maxName)
		case wrong >= 0:
			d.errorf(v.at, "Character not allowed in a pattern", "A pattern consists of what names do, letters, digits and . _ + : -, of * for any text and ? for one character; it has %q.", firstRune(s[wrong:]))
		default:
			t.Match = s
		}
	}
	t.Policy, _ = d.policyName(raw.Policy)
	t.Networks = d.networkList(raw.Networks)
	takesCount := fmt.Sprintf("a whole number from 1 to %d", maxAddresses)
	if n, ok := d.integer(d.scalar(raw.Addresses, takesCount), 1, maxAddresses, takesCount); ok {
		t.Addresses = int(n)
	}
	const takesBits = "the length of a prefix in bits, from 1 to 128"
	if n, ok := d.integer(d.scalar(raw.Prefix6, takesBits), 1, 128, takesBits); ok {
		t.Prefix6 = int(n)
	}
	return t, v.at
}

// networkList are names of the file's networks.
func (d *decoder) networkList(a *hcl.Attribute) (list []string) {
	const takes = "the name of a network in quotes"
	elems, ok := d.list(a, `a list of networks' names, such as ["v4"]`)
	if ok && len(elems) == 0 {
		d.errorf(a.Expr.Range(), "Empty list of networks", "The guests would have no addresses. Leave %s out for every network, or name some.", a.Name)
	}
	for _, e := range elems {
		v := d.literal(e, a.Name, takes)
		s, ok := d.str(v, takes)
		if !ok {
			continue
		}
		if !d.networkNames.has(s) {
			hint := d.didYouMean(s, d.networkNames.list)
			if hint == "" && len(d.networkNames.list) > 0 {
				hint = fmt.Sprintf(" The networks are %s.", someOf(d.networkNames.list))
			}
			d.errorf(v.at, fmt.Sprintf("Unknown network %q", excerpt(s)), "The file has no network of that name.%s", hint)
			continue
		}
		list = append(list, s)
	}
	return list
}

// pattern is Match as a pattern.
func (t *Template) pattern() string {
	if t.Match == MatchAny {
		return "*"
	}
	return t.Match
}

// Matches tells whether the template is for domains of that name.
func (t *Template) Matches(domain string) bool {
	ok, _ := path.Match(t.pattern(), domain) // no other special character is allowed in a pattern, nor a slash in a name
	return ok
}

// Allows tells whether guests of the template may have addresses of a network.
func (t *Template) Allows(n *Network) bool {
	return t.Networks == nil || slices.Contains(t.Networks, n.Name)
}

// covers tells whether pattern a surely matches all that b matches: b's own special characters are matched as what they stand for.
func covers(a, b string) bool {
	fits := make([]bool, len(a)+1) // fits[i]: a[:i] covers what of b was looked at
	fits[0] = true
	for i := 0; i < len(a) && a[i] == '*'; i++ {
		fits[i+1] = true
	}
	for j := range len(b) {
		next := make([]bool, len(a)+1)
		for i := range len(a) {
			switch {
			case a[i] == '*':
				next[i+1] = next[i] || fits[i+1] || fits[i]
			case b[j] != '*' && (a[i] == '?' || a[i] == b[j]):
				next[i+1] = fits[i]
			}
		}
		fits = next
	}
	return fits[len(a)]
}
