// Command attacks lets well-known tools loose on the router, in the lab's namespaces and nowhere else:
//
//	go run ./integration/attacks -install     # apt-get installs them on this machine, Debian's
//	go run ./integration/attacks              # runs them, the better part of an hour; -only REGEXP, -update
//
// A guest runs them, or a host on the internet, once where dom0's kernel is the router and once with udrouter. Meanwhile another guest has connections
// open, and afterwards the attacker's neighbour must still reach the internet. It ends with status 1 when something came through udrouter, when a tool is
// missing or fails, and when it is not seen what became of what a tool sent. -update writes TOOLS.md; with -only, the rows of those tools. It needs root.
//
// The rows that are sent frame by frame are this package's tests: go test ./integration/attacks.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"udrouter/config"
	"udrouter/integration/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "attacks:", err)
		os.Exit(1)
	}
}

// debian are the packages that have the tools.
var debian = []string{"arping", "dsniff", "hping3", "ipv6toolkit", "ndisc6", "netsniff-ng", "nmap", "thc-ipv6"}

const doc = "integration/attacks/TOOLS.md"

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("attacks", flag.ContinueOnError)
	install := flags.Bool("install", false, "install the tools with apt-get, and end")
	only := flags.String("only", "", "run the tools whose command lines match this regular expression")
	update := flags.Bool("update", false, "write "+doc+", from the module's directory; with -only, the rows of those tools")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *install {
		cmd := exec.CommandContext(ctx, "apt-get", append([]string{"install", "-y", "--no-install-recommends"}, debian...)...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		cmd.Stdout, cmd.Stderr = out, os.Stderr
		return cmd.Run()
	}
	list, err := chosen(*only)
	if err != nil {
		return err
	}
	rows := map[string]string{}
	if *update && *only != "" {
		if rows, err = rowsOf(doc); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp("", "udrouter-attacks-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	exe := filepath.Join(dir, "udrouter")
	if said, err := exec.CommandContext(ctx, "go", "build", "-o", exe, "udrouter/cmd/udrouter").CombinedOutput(); err != nil {
		return fmt.Errorf("building udrouter: %w\n%s", err, said)
	}
	var outcomes [2][]outcome
	for i, router := range []string{"", exe} {
		if outcomes[i], err = attackAll(ctx, router, list, out); err != nil {
			return err
		}
	}
	if why := judge(list, outcomes); len(why) > 0 {
		return fmt.Errorf("not as it should be:\n%s", strings.Join(why, "\n"))
	}
	if *update {
		for i, t := range list {
			rows[t.args] = row(t, outcomes[0][i], outcomes[1][i])
		}
		text, err := table(rows)
		if err != nil {
			return err
		}
		return os.WriteFile(doc, []byte(text), 0o644)
	}
	return nil
}

// chosen are the tools that an expression matches. That there is none, or that one is not installed, is an error: nothing would be shown.
func chosen(only string) (list []tool, err error) {
	match, err := regexp.Compile(only)
	if err != nil {
		return nil, fmt.Errorf("-only: %w", err)
	}
	missing := map[string]bool{}
	for _, t := range tools {
		if !match.MatchString(t.args) {
			continue
		}
		list = append(list, t)
		if name := strings.Fields(t.args)[0]; !installed(name) {
			missing[name] = true
		}
	}
	switch {
	case len(list) == 0:
		return nil, fmt.Errorf("-only %s: no tool's command line is like that; see %s", only, doc)
	case len(missing) > 0:
		return nil, fmt.Errorf("not installed: %s; -install gets them from Debian, or leave them out with -only", words(missing))
	}
	return list, nil
}

func installed(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}

func words(m map[string]bool) string { return strings.Join(slices.Sorted(maps.Keys(m)), ", ") }

// attackAll runs tools one after the other at a router, "" for dom0's kernel.
func attackAll(ctx context.Context, router string, list []tool, out io.Writer) (outcomes []outcome, err error) {
	var s *scene
	defer func() {
		if s != nil {
			err = errors.Join(err, s.close())
		}
	}()
	for _, t := range list {
		if s == nil {
			if s, err = newScene(ctx, router); err != nil {
				return nil, err
			}
		}
		o := s.try(ctx, t)
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		fmt.Fprintf(out, "%-9s %-100s %s; %s\n", s.name, t.args, o, o.detail())
		outcomes = append(outcomes, o)
		if o.lost != nil || len(o.believed) > 0 { // the next is not to meet what this one has left behind
			if err := s.close(); err != nil {
				return nil, err
			}
			s = nil
		}
	}
	return outcomes, nil
}

// judge lists what is not as it should be: something came through udrouter, a tool did not run, or its run shows nothing.
func judge(list []tool, outcomes [2][]outcome) (why []string) {
	for i, t := range list {
		kernel := outcomes[0][i]
		if kernel.err != nil {
			why = append(why, "with the kernel as the router: "+kernel.err.Error())
		} else if t.anew && kernel.heard == 0 {
			why = append(why, t.args+": with the kernel as the router it heard nothing either, so that nothing is shown")
		}
		for _, w := range outcomes[1][i].bad(t) {
			why = append(why, t.args+": "+w)
		}
	}
	return why
}

// rowsOf are a table's rows, by their tools' command lines.
func rowsOf(path string) (map[string]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the rows that stay as they are: %w", err)
	}
	rows := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if args, _, ok := strings.Cut(strings.TrimPrefix(line, "| `"), "` | "); ok && strings.HasPrefix(line, "| `") {
			rows[args] = line
		}
	}
	return rows, nil
}

func row(t tool, k, u outcome) string {
	return fmt.Sprintf("| `%s` | %s | %s | %s | %s | %s | %s | %s |\n", t.args, t.from, t.about, k.said(t), k, u.said(t), u, u.fate(t))
}

// table is the document of all tools' rows. It errs where one is missing.
func table(rows map[string]string) (string, error) {
	var b strings.Builder
	b.WriteString(`# Tools

What came of well-known tools in runs of ` + "`go run ./integration/attacks -update`" + `, a row each of one run; its comment says how they are run. Frames are counted that came to the neighbour by the
attacker's doing, in two lines behind udrouter echo requests that its rules admit, and those with a forged source or a foreign MAC that came to the provider;
"lost" is a neighbour who does not reach the internet or, while it comes up, its gateway or an address of its own, or connections that have broken; "believed" are routes, addresses and stations' places in the
neighbours' kernels that are not true. Answers are what the tool itself takes for some. The last column has what udrouter did with what the tool sent, by the
reasons that it counts; where there is none, it is what became of it: a tool that is not seen to have sent anything is an error of the run.

| tool | from | about | answers | through the kernel | answers | through udrouter | what udrouter did |
|---|---|---|---|---|---|---|---|
`)
	for _, t := range tools {
		if rows[t.args] == "" {
			return "", fmt.Errorf("%s has no row for %s yet: run it with -update -only, or all with -update", doc, t.args)
		}
		b.WriteString(rows[t.args])
	}
	b.WriteString("\n## Why\n\nWhere reasons do not say it.\n")
	for _, t := range tools {
		if t.why == "" {
			continue
		}
		fmt.Fprintf(&b, "\n`%s`:\n\n", t.args)
		for line := range strings.Lines(t.why) {
			fmt.Fprintf(&b, "- %s\n", strings.TrimSpace(line))
		}
	}
	return b.String(), nil
}

// three is a guest that has no part in the attacks: its kernel talks with the internet's while they are sent.
const three = `
domu "three" {
  vif    = "vif3.0"
  mac    = "00:16:3e:00:00:03"
  ipv4   = ["192.0.2.99"]
  ipv6   = ["2001:db8:3:2:1::99"]
  policy = "untrusted"
}
`

// buildLab makes a file's network with the honest guest.
func buildLab(ctx context.Context, source string) (*lab.Lab, error) {
	src := []byte(source + three)
	cfg, diags := config.Parse("router.hcl", src)
	if diags.HasErrors() {
		return nil, diags
	}
	return lab.Build(ctx, cfg, lab.Options{Source: src})
}
