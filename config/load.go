package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

const (
	// MaxSize is the largest router.hcl that is read, in bytes: room for 10,000 guests and as many rules.
	MaxSize = 4 << 20
	// maxDepth bounds nested brackets, because the parser recurses; the grammar needs 5.
	maxDepth = 32
	// maxOperators bounds operators and templates, on which it recurses too; the grammar has none.
	maxOperators = 1000
	// maxString bounds one string, in bytes, because the parser's work grows with the square of its pieces.
	maxString = 4096
)

// Load reads and validates the file at path, which may be a pipe. The file must not be writable by others.
// With any error among the diagnostics the Config is nil; warnings may come with one. Every diagnostic has a Subject.
func Load(path string) (*Config, hcl.Diagnostics) {
	src, diag := read(path)
	if diag != nil {
		return nil, hcl.Diagnostics{diag}
	}
	return Parse(path, src)
}

// Parse validates the text of a router.hcl; filename serves messages and ranges. It keeps and may not change
// src. With any error among the diagnostics the Config is nil. Every diagnostic has a Subject.
func Parse(filename string, src []byte) (*Config, hcl.Diagnostics) {
	if strings.HasSuffix(filename, ".json") {
		return nil, hcl.Diagnostics{fileError(filename, "JSON is not supported", "%s is taken for JSON by its name. Write the configuration in HCL's native syntax, as reference.hcl shows it, in a file named .hcl.", filename)}
	}
	if len(src) > MaxSize {
		return nil, hcl.Diagnostics{tooLarge(filename, int64(len(src)))}
	}
	r := &reporter{src: newSource(filename, src)}
	body := r.parse()
	if body == nil {
		return nil, r.result()
	}
	r.prune(body, grammarOf(reflect.TypeFor[rawFile]()))
	var raw rawFile
	// After prune, gohcl has nothing of its own to say.
	for _, d := range gohcl.DecodeBody(body, nil, &raw) {
		if !r.full() {
			d.Extra = &extra{src: r.src}
			r.add(d)
		}
	}
	cfg := decode(r, &raw)
	diags := r.result()
	if diags.HasErrors() {
		return nil, diags
	}
	return cfg, diags
}

func read(path string) ([]byte, *hcl.Diagnostic) {
	f, err := os.Open(path)
	if err != nil {
		return nil, openError(path, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, openError(path, err)
	}
	switch {
	case st.IsDir():
		return nil, fileError(path, "A directory, not a file", "%s is a directory. Name the file in it with -c, for example %s.", path, strings.TrimRight(path, "/")+"/router.hcl")
	case st.Mode().IsRegular() && st.Mode().Perm()&0o002 != 0:
		return nil, fileError(path, "Configuration is writable by everyone", "Any user of this host could change what the router admits. Take the permission away: chmod o-w %s", path)
	case st.Size() > MaxSize:
		return nil, tooLarge(path, st.Size())
	}
	// The size of a pipe is not known beforehand, and a file may grow while it is read.
	src, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, openError(path, err)
	}
	return src, nil
}

func openError(path string, err error) *hcl.Diagnostic {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fileError(path, "Configuration not found", "There is no file %s. Name another with -c, or start from reference.hcl, which documents every key.", path)
	case errors.Is(err, fs.ErrPermission):
		return fileError(path, "Configuration may not be read", "This user has no permission to read %s. Run as root, or make the file readable.", path)
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return fileError(path, "Configuration cannot be read", "Reading %s: %v.", path, err)
}

// fileError is about a file as a whole; it shows no source.
func fileError(path, summary, detail string, args ...any) *hcl.Diagnostic {
	start := hcl.Range{Filename: path, Start: hcl.InitialPos, End: hcl.InitialPos}
	return &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: fmt.Sprintf(detail, args...), Subject: &start, Extra: &extra{}}
}

func tooLarge(path string, size int64) *hcl.Diagnostic {
	n := fmt.Sprintf("%d bytes", size)
	if size == MaxSize+1 {
		n = "more than 4 MiB" // a pipe of which no more was read
	}
	return fileError(path, "Configuration is too large", "%s is %s; at most 4 MiB is read.", path, n)
}

// parse turns the text into a body, or reports why it is none.
func (r *reporter) parse() *hclsyntax.Body {
	if !r.readable() || !r.shallow() {
		return nil
	}
	file, diags := hclsyntax.ParseConfig(r.src.bytes, r.src.name, hcl.InitialPos)
	body := file.Body.(*hclsyntax.Body)
	r.src.body = body
	usable := true
	// What the parser calls an argument is a key everywhere else here.
	key := strings.NewReplacer("An argument", "A key", "an argument", "a key", "Argument", "Key", "argument", "key")
	for _, d := range diags {
		if d.Summary == "Attribute redefined" {
			// The parser goes on with the first definition, and so do we.
			r.redefined(*d.Subject)
			continue
		}
		usable = false
		if r.full() {
			continue
		}
		d.Summary = key.Replace(d.Summary)
		d.Detail = key.Replace(d.Detail) + r.quotes(d.Subject.Start.Line)
		d.Extra = &extra{src: r.src}
		r.add(d)
	}
	if !usable {
		return nil
	}
	return body
}

// readable reports bytes that cannot be HCL, before a parser stumbles over their consequences.
func (r *reporter) readable() bool {
	src := r.src.bytes
	point := func(offset, width int) hcl.Range {
		at := r.src.at(offset)
		end := at
		end.Byte, end.Column = at.Byte+width, at.Column+1
		return hcl.Range{Filename: r.src.name, Start: at, End: end}
	}
	if i := bytes.IndexByte(src, 0); i >= 0 {
		r.errorf(point(i, 1), "NUL byte", "The file is not text, or it is UTF-16. Save it as UTF-8.")
		return false
	}
	for i := 0; i < len(src); {
		c, n := utf8.DecodeRune(src[i:])
		if c == utf8.RuneError && n == 1 {
			r.errorf(point(i, 1), "Not UTF-8", "The byte 0x%02x here is not valid UTF-8. Save the file as UTF-8.", src[i])
			return false
		}
		i += n
	}
	return true
}

// shallow refuses what would make the parser recurse without bound, which no recover could catch, or work
// for hours.
func (r *reporter) shallow() bool {
	tokens, _ := hclsyntax.LexConfig(r.src.bytes, r.src.name, hcl.InitialPos) // the parser repeats its complaints
	depth, operators, quote := 0, 0, 0
	for _, t := range tokens {
		switch t.Type {
		case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack, hclsyntax.TokenOParen,
			hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl:
			depth++
			if t.Type == hclsyntax.TokenTemplateInterp || t.Type == hclsyntax.TokenTemplateControl {
				operators++
			}
		case hclsyntax.TokenOQuote:
			quote = t.Range.Start.Byte
		case hclsyntax.TokenQuotedLit:
			if t.Range.End.Byte-quote > maxString {
				r.errorf(t.Range, "String is too long", "No value needs more than %d bytes. Look for a quote that is not closed.", maxString)
				return false
			}
		case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack, hclsyntax.TokenCParen,
			hclsyntax.TokenTemplateSeqEnd:
			depth = max(0, depth-1)
		case hclsyntax.TokenOHeredoc:
			r.errorf(t.Range, "Heredoc", "Values of several lines have no use here. Write the value in quotes.")
			return false
		case hclsyntax.TokenBang, hclsyntax.TokenMinus, hclsyntax.TokenPlus, hclsyntax.TokenStar, hclsyntax.TokenSlash,
			hclsyntax.TokenPercent, hclsyntax.TokenQuestion, hclsyntax.TokenAnd, hclsyntax.TokenOr, hclsyntax.TokenEqualOp,
			hclsyntax.TokenDoubleColon, hclsyntax.TokenNotEqual, hclsyntax.TokenLessThan, hclsyntax.TokenLessThanEq, hclsyntax.TokenGreaterThan,
			hclsyntax.TokenGreaterThanEq:
			operators++
		}
		if depth > maxDepth {
			r.errorf(t.Range, "Nested too deeply", "More than %d brackets are open here. No block or list of the configuration needs as many; look for one that is not closed.", maxDepth)
			return false
		}
		if operators > maxOperators {
			r.errorf(t.Range, "Too many operators", "The configuration knows no expressions. Write each value itself, addresses and prefixes in quotes.")
			return false
		}
	}
	return true
}

// redefined reports a key that stands twice in one body.
func (r *reporter) redefined(at hcl.Range) {
	name := r.src.text(at)
	body := r.src.body
	if around := r.src.blocks(at.Start.Byte); len(around) > 0 {
		body = around[len(around)-1].Body
	}
	first := at
	if a := body.Attributes[name]; a != nil {
		first = a.NameRange
	}
	r.conflictf(at, first, fmt.Sprintf("Key %q set twice", name), "Each key may be set once in its block. Remove one of them.")
}

// unquoted is a line whose value was probably meant as a string.
var unquoted = regexp.MustCompile(`^\s*\w+\s*=\s*([0-9A-Za-z:.%_/-]+)\s*(#.*|//.*)?$`)

// quotes is a hint for a line on which the parser failed, because addresses and the like need quotes.
func (r *reporter) quotes(line int) string {
	text, _ := r.src.line(line)
	if m := unquoted.FindSubmatch(text[:min(len(text), 200)]); m != nil {
		return fmt.Sprintf(" Addresses, prefixes, MACs, names and durations stand in quotes: %q.", m[1])
	}
	return ""
}
