package importer

import (
	"fmt"
	"slices"
	"strings"
)

// Kind tells what became of a line.
type Kind uint8

const (
	Left     Kind = iota // not carried over: something has to be done, or is lost. What nobody has looked at is this.
	Carried              // in the new file
	Needless             // not needed any more
	Stays                // dom0's own business, before and after
)

func (k Kind) String() string {
	return [...]string{"not carried over", "carried over", "not needed any more", "stays where it is"}[k]
}

// Note is a line of a file, or one command of it, and what became of it.
type Note struct {
	File string
	Line int // from 1; 0: the file as a whole
	Text string
	Kind Kind
	Why  string // and what to do; a phrase without a full stop
}

// String is the note for a person, in one line.
func (n Note) String() string {
	at := n.File
	if n.Line > 0 {
		at = n.place()
	}
	parts := slices.DeleteFunc([]string{at, n.Text, n.Why}, func(s string) bool { return s == "" })
	return strings.Join(parts, ": ")
}

// ledger is every line that was read.
type ledger struct {
	notes []*Note
	errs  []error
}

// enter notes a line as left until something is made of it.
func (l *ledger) enter(file string, line int, text string) *Note {
	n := &Note{File: file, Line: line, Text: clean(text), Why: "udrouter import does not understand this: see whether it is still needed"}
	l.notes = append(l.notes, n)
	return n
}

// failf notes a mistake that leaves no meaning to guess at.
func (l *ledger) failf(file string, line int, format string, args ...any) {
	if len(l.errs) < maxErrors {
		l.errs = append(l.errs, fmt.Errorf("%s:%d: %s", file, line, fmt.Sprintf(format, args...)))
	}
}

// maxErrors bounds what a file that is none of its kind has to say.
const maxErrors = 50

// listed are the notes that a person is told of: all but what was simply carried over.
func (l *ledger) listed() (list []Note) {
	for _, n := range l.notes {
		if n.Kind != Carried || n.Why != "" {
			list = append(list, *n)
		}
	}
	return list
}

func (n *Note) is(k Kind, why string) { n.Kind, n.Why = k, why }

func (n *Note) carried()                        { n.is(Carried, "") }
func (n *Note) needless(why string)             { n.is(Needless, why) }
func (n *Note) stays(why string)                { n.is(Stays, why) }
func (n *Note) left(format string, args ...any) { n.is(Left, fmt.Sprintf(format, args...)) }
