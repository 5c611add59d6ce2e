package importer

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxFile bounds a file, in bytes: those that a person or iptables-save has written are far smaller.
const maxFile = 4 << 20

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%s has more than %d MiB: it is no file of this kind", name, maxFile>>20)
	}
	return b, nil
}

// textLine is a line of a file with those that continue it.
type textLine struct {
	number int // of its first line, from 1
	text   string
}

// lines are the lines of a text without surrounding space. A backslash at a line's end continues it.
func lines(src []byte) (list []textLine) {
	var joined strings.Builder
	start := 0
	for i, l := range strings.Split(string(src), "\n") {
		l = strings.TrimSuffix(l, "\r")
		if start == 0 {
			start = i + 1
		}
		if head, more := strings.CutSuffix(l, `\`); more && !strings.HasPrefix(strings.TrimSpace(l), "#") {
			joined.WriteString(head)
			continue
		}
		joined.WriteString(l)
		list = append(list, textLine{start, strings.TrimSpace(joined.String())})
		joined.Reset()
		start = 0
	}
	if start > 0 {
		list = append(list, textLine{start, strings.TrimSpace(joined.String())})
	}
	return list
}

// shellCommand is a command of a script. after is what stands between it and the one before it: "", ";", "|", "&", "&&" or "||".
type shellCommand struct {
	words []string
	after string
}

func (c shellCommand) String() string { return strings.Join(c.words, " ") }

// commands splits a line of a shell script into its commands and each into words, without quotes and redirections' spaces. A
// comment ends the line. The error says what the shell would not take either.
func commands(line string) (list []shellCommand, err error) {
	var words []string
	after := ""
	var word strings.Builder
	inWord := false
	endWord := func() {
		if inWord {
			words = append(words, word.String())
			word.Reset()
			inWord = false
		}
	}
	endCommand := func() {
		endWord()
		if len(words) > 0 {
			list = append(list, shellCommand{words, after})
			words, after = nil, ""
		}
	}
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\'' || c == '"':
			end := i + 1
			for end < len(line) && line[end] != c {
				if c == '"' && line[end] == '\\' && end+1 < len(line) {
					end++
				}
				word.WriteByte(line[end])
				end++
			}
			if end == len(line) {
				return nil, fmt.Errorf("a quotation mark (%c) is not closed", c)
			}
			inWord, i = true, end
		case c == '\\' && i+1 < len(line):
			i++
			word.WriteByte(line[i])
			inWord = true
		case c == '#' && !inWord:
			endCommand()
			return list, nil
		case c == ' ' || c == '\t':
			endWord()
		case c == ';' || c == '|' || c == '&':
			endCommand()
			after += string(c)
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	endCommand()
	return list, nil
}

// clean makes a line of a file fit for a terminal and for a comment: one line, printable, of bounded length.
func clean(s string) string {
	const most = 200 // runes
	s = strings.Map(func(c rune) rune {
		switch {
		case c == '\n' || c == '\t' || c == '\r':
			return ' '
		case !unicode.IsPrint(c) || c == utf8.RuneError:
			return '?'
		}
		return c
	}, s)
	if utf8.RuneCountInString(s) > most {
		s = string([]rune(s)[:most]) + "…"
	}
	return strings.Join(strings.Fields(s), " ")
}
