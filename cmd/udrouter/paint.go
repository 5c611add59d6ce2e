package main

import (
	"bytes"
	"io"
	"os"
	"regexp"

	"golang.org/x/term"
)

// painter colours tables line by line on their way to a terminal: headings, and what somebody should look at. Text and columns stay as they are.
type painter struct {
	out  io.Writer
	line []byte
}

// painted is out, with colours where it is a terminal and the user wants them (https://no-color.org).
func painted(out io.Writer) io.Writer {
	f, ok := out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return out
	}
	return &painter{out: out}
}

var (
	headingLine = regexp.MustCompile(`^[A-Z][A-Z. ]*(  [A-Z. ]+)*\n$`)
	warningLine = regexp.MustCompile(`^warning: |; the one at .* failed: `)
)

// Write implements io.Writer. A line that does not end yet is kept until it does.
func (p *painter) Write(b []byte) (int, error) {
	n := len(b)
	for {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			p.line = append(p.line, b...)
			return n, nil
		}
		line := append(p.line, b[:i+1]...)
		p.line, b = nil, b[i+1:]
		if _, err := p.out.Write(paint(line)); err != nil {
			return 0, err
		}
	}
}

func paint(line []byte) []byte {
	style := ""
	switch {
	case headingLine.Match(line):
		style = "\x1b[1m"
	case warningLine.Match(line):
		style = "\x1b[31m"
	default:
		return line
	}
	return append(append([]byte(style), line[:len(line)-1]...), "\x1b[0m\n"...)
}
