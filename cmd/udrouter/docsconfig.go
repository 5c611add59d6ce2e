package main

import (
	"fmt"
	"strings"

	"github.com/cpuguy83/go-md2man/v2/md2man"
	"github.com/spf13/cobra/doc"

	"udrouter/config"
	"udrouter/router"
)

const configurationIntro = `Blocks and keys of router.hcl, as the program knows them. Values are literals: strings in quotes, numbers, true and false, and lists of them in
brackets. A line that begins with # is a comment. "udrouter check -c FILE" finds every mistake at once, with its line and what to do.`

// configurationPage is the reference of router.hcl in Markdown.
func configurationPage() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Configuration\n\n%s\n[reference.hcl](../../config/reference.hcl) is a complete example with the same explanations.\n", configurationIntro)
	b.WriteString("\nWritten by `udrouter docs` from the grammar and from that file: change it there.\n")
	for _, d := range config.Outline() {
		fmt.Fprintf(&b, "\n## %s\n\n`%s`, %s\n", d.Path, d.Usage, standing(d))
		if d.Text != "" {
			fmt.Fprintf(&b, "\n%s\n", escaped(d.Text))
		}
		if d.Like != "" {
			fmt.Fprintf(&b, "\nKeys and blocks are those of [%s](#%s): %s.\n", d.Like, strings.ReplaceAll(d.Like, ".", ""), all(contents(d), "`%s`"))
			continue
		}
		if len(d.Subs) > 0 {
			fmt.Fprintf(&b, "\nBlocks in it: %s.\n", links(d.Subs))
		}
		if len(d.Keys) == 0 {
			continue
		}
		b.WriteString("\n| key | example | required | default | |\n|---|---|---|---|---|\n")
		for _, k := range d.Keys {
			text := k.Text
			if text+k.Need+k.Default == "" {
				text = "As in " + parent(d) + "."
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", k.Name, code(k.Example), escaped(need(k)), escaped(k.Default), escaped(text))
		}
	}
	return b.String()
}

// configurationManual is the same as a manual page of section 5.
func configurationManual(header doc.GenManHeader) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "%% \"ROUTER.HCL\" \"5\" %q %q %q\n", header.Date.Format("Jan 2006"), "udrouter "+router.Version, "udrouter")
	fmt.Fprintf(&b, "# NAME\nrouter.hcl \\- configuration of udrouter\n\n# DESCRIPTION\n%s\n", escaped(configurationIntro))
	for _, d := range config.Outline() {
		fmt.Fprintf(&b, "\n# %s\n**%s**, %s\n", strings.ToUpper(d.Path), escaped(d.Usage), standing(d))
		if d.Text != "" {
			fmt.Fprintf(&b, "\n%s\n", escaped(d.Text))
		}
		if d.Like != "" {
			fmt.Fprintf(&b, "\nKeys and blocks are those of %s: %s.\n", strings.ToUpper(d.Like), all(contents(d), "**%s**"))
			continue
		}
		if len(d.Subs) > 0 {
			fmt.Fprintf(&b, "\nBlocks in it: %s.\n", all(bases(d.Subs), "**%s**"))
		}
		for _, k := range d.Keys {
			text := k.Text
			if k.Need != "" {
				text += " " + upper(k.Need) + "."
			}
			if k.Default != "" {
				text += " Default: " + k.Default + "."
			}
			if text == "" {
				text = "As in " + strings.ToUpper(parent(d)) + "."
			}
			fmt.Fprintf(&b, "\n**%s**", k.Name)
			if k.Example != "" {
				fmt.Fprintf(&b, " = %s", escaped(k.Example))
			}
			fmt.Fprintf(&b, "\n:   %s\n", escaped(strings.TrimSpace(text)))
		}
	}
	b.WriteString("\n# FILES\n/etc/udrouter/router.hcl\n:   the configuration of the service\n\n")
	b.WriteString("/usr/share/doc/udrouter/examples/router.hcl\n:   a complete example, with every key\n\n")
	b.WriteString("# SEE ALSO\n**udrouter(8)**, **udrouter-run(8)**, **udrouter-check(8)**, **udrouter-explain(8)**, **udrouter-test(8)**\n")
	return md2man.Render([]byte(b.String()))
}

// standing says where a block may stand.
func standing(d config.BlockDoc) string {
	often := "any number of times"
	if d.Single {
		often = "once"
	}
	if in := parent(d); in != "" {
		return often + " in " + in + "."
	}
	return often + "."
}

// parent is the path of the block around one; "" at the top.
func parent(d config.BlockDoc) string {
	return d.Path[:max(0, strings.LastIndexByte(d.Path, '.'))]
}

func contents(d config.BlockDoc) []string {
	var names []string
	for _, k := range d.Keys {
		names = append(names, k.Name)
	}
	return append(names, bases(d.Subs)...)
}

func bases(paths []string) []string {
	var names []string
	for _, p := range paths {
		names = append(names, p[strings.LastIndexByte(p, '.')+1:])
	}
	return names
}

// all are names, each in a format, and commas between them.
func all(names []string, format string) string {
	var list []string
	for _, n := range names {
		list = append(list, fmt.Sprintf(format, n))
	}
	return strings.Join(list, ", ")
}

// links are paths of blocks as links to their headings, whose anchors have no dots.
func links(paths []string) string {
	var list []string
	for _, p := range paths {
		list = append(list, fmt.Sprintf("[%s](#%s)", p, strings.ReplaceAll(p, ".", "")))
	}
	return strings.Join(list, ", ")
}

func need(k config.KeyDoc) string {
	if k.Need == "required" {
		return "yes"
	}
	return k.Need
}

func code(example string) string {
	if example == "" {
		return ""
	}
	return "`" + strings.ReplaceAll(example, "|", `\|`) + "`"
}

// escaped is plain text in Markdown, but that code stays code.
func escaped(text string) string {
	parts := strings.Split(text, "`")
	for i := 0; i < len(parts); i += 2 {
		parts[i] = strings.NewReplacer("*", `\*`, "|", `\|`, "_", `\_`, "<", "&lt;", "[", `\[`, "]", `\]`).Replace(parts[i])
	}
	return strings.Join(parts, "`")
}

func upper(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
