package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/agext/levenshtein"
	"github.com/hashicorp/hcl/v2"
)

const (
	// maxDiagnostics bounds what one file can make us say.
	maxDiagnostics = 1000
	// maxComparisons bounds the search for what an unknown word may have meant, over the whole file.
	maxComparisons = 200_000
)

// extra travels in hcl.Diagnostic.Extra, so that WriteDiagnostics can show the source without being given it.
type extra struct {
	src   *source
	other *hcl.Range // the second place of a conflict
}

// reporter collects the complaints about one file.
type reporter struct {
	src         *source
	diags       hcl.Diagnostics
	more        int // complaints beyond maxDiagnostics
	comparisons int
}

// errorf reports a mistake at the given place. The summary is terse; the detail says what to do.
func (r *reporter) errorf(at hcl.Range, summary, detail string, args ...any) {
	if r.full() {
		return
	}
	r.add(&hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: fmt.Sprintf(detail, args...), Subject: &at, Extra: &extra{src: r.src}})
}

// conflictf reports a mistake that takes two places; other is shown too.
func (r *reporter) conflictf(at, other hcl.Range, summary, detail string, args ...any) {
	r.twof(hcl.DiagError, at, other, summary, detail, args...)
}

// warnf is conflictf for what does no harm.
func (r *reporter) warnf(at, other hcl.Range, summary, detail string, args ...any) {
	r.twof(hcl.DiagWarning, at, other, summary, detail, args...)
}

func (r *reporter) twof(severity hcl.DiagnosticSeverity, at, other hcl.Range, summary, detail string, args ...any) {
	if r.full() {
		return
	}
	detail = fmt.Sprintf("%s %s definition at %s.", fmt.Sprintf(detail, args...), order(at, other), place(other))
	r.add(&hcl.Diagnostic{Severity: severity, Summary: summary, Detail: detail, Subject: &at, Extra: &extra{src: r.src, other: &other}})
}

// order is what the second place of a complaint is called.
func order(at, other hcl.Range) string {
	if other.Start.Byte > at.Start.Byte {
		return "Other"
	}
	return "Previous"
}

func (r *reporter) add(d *hcl.Diagnostic) {
	r.diags = append(r.diags, d)
}

// full tells whether enough was said, and counts what is not.
func (r *reporter) full() bool {
	if len(r.diags) < maxDiagnostics {
		return false
	}
	r.more++
	return true
}

// result is everything that was reported, in the order of the file.
func (r *reporter) result() hcl.Diagnostics {
	slices.SortStableFunc(r.diags, func(a, b *hcl.Diagnostic) int { return a.Subject.Start.Byte - b.Subject.Start.Byte })
	if r.more > 0 {
		last := *r.diags[len(r.diags)-1].Subject
		r.diags = append(r.diags, &hcl.Diagnostic{
			Severity: hcl.DiagError, Summary: "Too many mistakes",
			Detail:  fmt.Sprintf("%d more were found and are not shown. Mend these first.", r.more),
			Subject: &last, Extra: &extra{},
		})
	}
	return r.diags
}

// place names a line for messages: "router.hcl:12".
func place(at hcl.Range) string { return fmt.Sprintf("%s:%d", at.Filename, at.Start.Line) }

func rangeOf(at hcl.Range) Range {
	return Range{File: at.Filename, Line: at.Start.Line, Column: at.Start.Column}
}

// didYouMean is ` Did you mean "x"?` for the candidate nearest to an unknown word, or "".
func (r *reporter) didYouMean(word string, candidates []string) string {
	if s := r.nearest(word, candidates); s != "" {
		return fmt.Sprintf(" Did you mean %q?", s)
	}
	return ""
}

func (r *reporter) nearest(word string, candidates []string) string {
	if s := synonyms[word]; s != "" && slices.Contains(candidates, s) {
		return s
	}
	best, limit := "", 2 // slips allowed, plus one
	if len(word) >= 6 {
		limit = 3
	}
	for _, c := range candidates {
		if len(c)-len(word) >= limit || len(word)-len(c) >= limit || len(word) < 2 || len(word) > maxName {
			continue
		}
		if r.comparisons++; r.comparisons > maxComparisons {
			return ""
		}
		d := levenshtein.Distance(word, c, nil)
		if len(word) == len(c) && d == 2 && sorted(word) == sorted(c) || strings.EqualFold(word, c) {
			d = 1 // two letters changed places, or the wrong case
		}
		if d < limit {
			best, limit = c, d
		}
	}
	return best
}

// synonyms are words of other firewalls and loggers.
var synonyms = map[string]string{"deny": "drop", "block": "drop", "allow": "accept", "pass": "accept", "permit": "accept", "warning": "warn"}

func sorted(s string) string {
	b := []byte(s)
	slices.Sort(b)
	return string(b)
}

// oneOf writes a choice of quoted words: `"a", "b" or "c"`.
func oneOf(words []string) string {
	return enumerate(words, "or", func(w string) string { return fmt.Sprintf("%q", w) })
}

// all writes an enumeration of bare words: `a, b and c`.
func all(words []string) string {
	return enumerate(words, "and", func(w string) string { return w })
}

func enumerate(words []string, last string, write func(string) string) string {
	s := ""
	for i, w := range words {
		switch {
		case i == 0:
		case i == len(words)-1:
			s += " " + last + " "
		default:
			s += ", "
		}
		s += write(w)
	}
	return s
}

// someOf is at most four of many names, for a detail that lists what there is.
func someOf(words []string) string {
	if len(words) <= 4 {
		return all(words)
	}
	return fmt.Sprintf("%s, %s, %s and %d more", words[0], words[1], words[2], len(words)-3)
}
