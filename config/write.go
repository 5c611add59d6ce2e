package config

import (
	"bytes"
	"fmt"
	"io"
	"sort"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

const (
	textWidth    = 80  // columns to which details are wrapped
	snippetWidth = 120 // runes of a source line that are shown
)

// source is a file as the user wrote it, to show snippets of.
type source struct {
	name  string
	bytes []byte
	lines []int           // offset of each line's start
	body  *hclsyntax.Body // nil until it is parsed
}

func newSource(name string, src []byte) *source {
	s := &source{name: name, bytes: src, lines: []int{0}}
	for i, c := range src {
		if c == '\n' {
			s.lines = append(s.lines, i+1)
		}
	}
	return s
}

// line is the text of a line, counted from 1, and the offset at which it begins.
func (s *source) line(n int) (text []byte, start int) {
	if n < 1 || n > len(s.lines) {
		return nil, len(s.bytes)
	}
	start, end := s.lines[n-1], len(s.bytes)
	if n < len(s.lines) {
		end = s.lines[n]
	}
	text = bytes.TrimSuffix(s.bytes[start:end], []byte{'\n'})
	return bytes.TrimSuffix(text, []byte{'\r'}), start
}

// at is the position of an offset; columns count runes.
func (s *source) at(offset int) hcl.Pos {
	n := sort.SearchInts(s.lines, offset+1)
	return hcl.Pos{Line: n, Column: utf8.RuneCount(s.bytes[s.lines[n-1]:offset]) + 1, Byte: offset}
}

// text is what stands in a range.
func (s *source) text(at hcl.Range) string {
	if !at.CanSliceBytes(s.bytes) {
		return ""
	}
	return string(at.SliceBytes(s.bytes))
}

// blocks are those around an offset, outermost first.
func (s *source) blocks(offset int) []*hclsyntax.Block {
	var found []*hclsyntax.Block
	for body := s.body; body != nil; {
		// Blocks of one body stand in the order of the file and do not overlap.
		i := sort.Search(len(body.Blocks), func(i int) bool { return body.Blocks[i].Range().End.Byte > offset })
		if i == len(body.Blocks) || body.Blocks[i].Range().Start.Byte > offset {
			break
		}
		found = append(found, body.Blocks[i])
		body = body.Blocks[i].Body
	}
	return found
}

// context names the blocks around an offset: `domu "one"`, or `policy "p", ingress, rule "r"`.
func (s *source) context(offset int) string {
	var names []string
	for _, b := range s.blocks(offset) {
		name := b.Type
		for _, l := range b.Labels {
			if l != "" {
				name += fmt.Sprintf(" %q", excerpt(l))
			}
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}

// WriteDiagnostics writes what Load or Parse found wrong for a person to read: summary, file and line, the
// source with the place marked, and what to do. With color, ANSI sequences highlight it for a terminal.
// The error is the writer's.
func WriteDiagnostics(w io.Writer, diags hcl.Diagnostics, color bool) error {
	var b bytes.Buffer
	for _, d := range diags {
		if d == nil {
			continue
		}
		writeDiagnostic(&b, d, color)
		if _, err := w.Write(b.Bytes()); err != nil {
			return fmt.Errorf("writing diagnostics: %w", err)
		}
		b.Reset()
	}
	return nil
}

func writeDiagnostic(b *bytes.Buffer, d *hcl.Diagnostic, color bool) {
	style := func(code, s string) string {
		if !color {
			return s
		}
		return "\x1b[" + code + "m" + s + "\x1b[0m"
	}
	severity := style("1;31", "Error")
	if d.Severity == hcl.DiagWarning {
		severity = style("1;33", "Warning")
	}
	fmt.Fprintf(b, "%s: %s\n\n", severity, style("1", clean(d.Summary)))

	ex, _ := d.Extra.(*extra)
	if d.Subject != nil && ex != nil && ex.src != nil {
		writeSnippet(b, ex.src, "on", *d.Subject, style)
		if ex.other != nil {
			writeSnippet(b, ex.src, strings.ToLower(order(*d.Subject, *ex.other))+" definition on", *ex.other, style)
		}
	}
	if d.Detail != "" {
		b.WriteString(wrap(clean(d.Detail), textWidth))
		b.WriteString("\n\n")
	}
}

func writeSnippet(b *bytes.Buffer, src *source, intro string, at hcl.Range, style func(code, s string) string) {
	fmt.Fprintf(b, "  %s %s line %d", intro, at.Filename, at.Start.Line)
	if in := src.context(at.Start.Byte); in != "" {
		fmt.Fprintf(b, ", in %s", clean(in))
	}
	line, start := src.line(at.Start.Line)
	if len(bytes.TrimSpace(line)) == 0 || at.Empty() {
		b.WriteString("\n\n") // a file's end, or nothing to see
		return
	}
	b.WriteString(":\n")

	// Columns of HCL are grapheme clusters; bytes are what marks the place exactly.
	from := min(max(at.Start.Byte-start, 0), len(line))
	to := min(max(at.End.Byte-start, from), len(line))
	if at.End.Line > at.Start.Line {
		to = len(line)
	}
	// A line may be the whole file: cut it before anything else looks at it.
	before := strings.ToValidUTF8(string(line[max(0, from-4*snippetWidth):from]), "")
	marked := strings.ToValidUTF8(string(line[from:min(to, from+4*snippetWidth)]), string(utf8.RuneError))
	after := strings.ToValidUTF8(string(line[to:min(len(line), to+4*snippetWidth)]), "")
	before = keepEnd(before, snippetWidth/2)
	marked = keepStart(marked, snippetWidth/2)
	after = keepStart(after, max(0, snippetWidth-utf8.RuneCountInString(before)-utf8.RuneCountInString(marked)))
	before, marked, after = clean(before), clean(marked), clean(after)

	fmt.Fprintf(b, "%5d: %s%s%s\n", at.Start.Line, before, style("1", marked), after)
	indent := strings.Map(func(c rune) rune {
		if c == '\t' {
			return c
		}
		return ' '
	}, before)
	fmt.Fprintf(b, "       %s%s\n\n", indent, style("1;31", strings.Repeat("^", max(1, utf8.RuneCountInString(marked)))))
}

// clean keeps a file's control characters off the administrator's terminal.
func clean(s string) string {
	return strings.Map(func(c rune) rune {
		if c == '\uFEFF' {
			return -1 // a byte order mark takes no column
		}
		if unicode.IsControl(c) && c != '\t' && c != '\n' || unicode.Is(unicode.Bidi_Control, c) {
			return utf8.RuneError
		}
		return c
	}, s)
}

// printable tells what names may contain and terminals can show.
func printable(c rune) bool { return unicode.IsPrint(c) && c != utf8.RuneError }

// firstRune is the character at which a text goes wrong, for quoting.
func firstRune(s string) string {
	_, n := utf8.DecodeRuneInString(s)
	return s[:n]
}

func keepStart(s string, n int) string {
	for i := range s {
		if n == 0 {
			return s[:i] + "…"
		}
		n--
	}
	return s
}

func keepEnd(s string, n int) string {
	if drop := utf8.RuneCountInString(s) - n; drop > 0 {
		for i := range s {
			if drop == 0 {
				return "…" + s[i:]
			}
			drop--
		}
	}
	return s
}

// wrap breaks text at spaces so that no line is longer than width columns, if its words allow.
func wrap(s string, width int) string {
	var b strings.Builder
	column := 0
	for i, word := range strings.Fields(s) {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case column+1+n > width:
			b.WriteByte('\n')
			column = 0
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += n
	}
	return b.String()
}
