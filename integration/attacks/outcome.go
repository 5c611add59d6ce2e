package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// outcome is what came of a tool.
type outcome struct {
	err       error             // it did not run, or not to its end, so that nothing is shown
	sent      uint64            // frames by the attacker's link, few of them its kernel's own
	came      int               // of them to the router, with the guest's MAC at its TAP, or of the provider's on the uplink; to whom the tool attacks, where that is known
	drops     map[string]uint64 // the router's, by reason
	foreign   int               // frames with other MACs than the guest's, at its port; past of them at the router
	past      int
	heard     int // frames of the neighbour's, by the attacker
	own       int // packets of the attacker's own, seen by the provider
	neighbour int // frames by the attacker's doing
	unlike    int // of them, those that are not of the kind that the tool's opening has
	provider  int
	seen      [][]byte // the first of those at the neighbour and the provider
	answers   int
	believed  []string // what neighbours have come to believe
	lost      error    // others are not served, during the attack or afterwards
}

func (o outcome) String() string {
	if o.err != nil {
		return "did not run"
	}
	words := o.harm()
	for i, w := range words {
		if n := map[string]int{"neighbour": o.neighbour, "provider": o.provider}[w]; n > 0 {
			words[i] = fmt.Sprintf("%s: %d", w, n)
		}
	}
	return cmp.Or(strings.Join(words, ", "), "0")
}

// harm is who has come to harm, and how.
func (o outcome) harm() (words []string) {
	for _, h := range []struct {
		is   bool
		word string
	}{{o.neighbour > 0, "neighbour"}, {o.provider > 0, "provider"}, {len(o.believed) > 0, "believed"}, {o.lost != nil, "lost"}} {
		if h.is {
			words = append(words, h.word)
		}
	}
	return words
}

func (o outcome) said(t tool) string {
	if t.answer == nil || o.err != nil {
		return ""
	}
	return fmt.Sprint(o.answers)
}

// fate is what the router did with what the tool sent.
func (o outcome) fate(t tool) string {
	var words []string
	for _, r := range slices.Sorted(maps.Keys(o.drops)) {
		words = append(words, fmt.Sprintf("`%s`", r))
	}
	if o.own > 0 && t.passes > 0 {
		words = append(words, "passed")
	}
	switch {
	case t.bridge:
		words = append(words, "died at its port")
	case t.anew:
		words = append(words, "heard nothing")
	case len(words) == 0 && o.answers > 0:
		words = append(words, "answered")
	case len(words) == 0:
		words = append(words, "silence")
	}
	return strings.Join(words, ", ")
}

// detail is all that is known of it, for whoever watches.
func (o outcome) detail() string {
	return fmt.Sprintf("sent %d, came %d, foreign %d, past %d, heard %d, own %d, answers %d, dropped %v; %s %v %v", o.sent, o.came, o.foreign, o.past, o.heard, o.own, o.answers, o.drops, strings.Join(o.believed, ", "), o.lost, o.err)
}

// bad lists what is not to be of a tool with udrouter as the router: that it did not run, that something came through, and that it is not seen
// what became of its packets, without which all else shows nothing.
func (o outcome) bad(t tool) (why []string) {
	say := func(is bool, format string, args ...any) {
		if is {
			why = append(why, fmt.Sprintf(format, args...))
		}
	}
	if o.err != nil {
		return []string{o.err.Error()}
	}
	if t.open == nil {
		say(o.neighbour > 0, "%d frames came to the neighbour: %x", o.neighbour, o.seen)
	} else {
		say(o.unlike > 0, "%d of %d frames that came to the neighbour are no %s: %x", o.unlike, o.neighbour, t.open.what, o.seen)
		say(o.neighbour > t.open.most, "%d frames came to the neighbour, want %d at most: %x", o.neighbour, t.open.most, o.seen)
	}
	say(o.provider > 0, "%d forged frames came to the provider: %x", o.provider, o.seen)
	say(len(o.believed) > 0, "believed: %s", strings.Join(o.believed, "; "))
	say(o.lost != nil, "others were not served: %v", o.lost)
	say(o.answers < t.answers.least, "%d answers, want %d at least", o.answers, t.answers.least)
	say(t.answers.most >= 0 && o.answers > t.answers.most, "%d answers, want %d at most", o.answers, t.answers.most)
	for reason := range strings.FieldsSeq(t.drops) {
		say(o.drops[reason] == 0, "nothing was dropped as %s, of %d frames", reason, o.sent)
	}
	say(o.own < t.passes, "%d packets of its own passed, want %d at least", o.own, t.passes)
	switch {
	case t.bridge:
		say(o.foreign == 0, "no frame with another's MAC came to its port, of %d", o.sent)
		say(o.past > 0, "%d of %d frames with others' MACs came past its port", o.past, o.foreign)
	case t.anew:
		say(o.heard > 0, "it heard %d frames of the neighbour's", o.heard)
	default:
		say(o.came == 0, "nothing of it came to the router, of %d frames", o.sent)
	}
	return why
}
