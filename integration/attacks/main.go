// Command attacks lets well-known tools loose on the router, in the lab's namespaces and nowhere else:
//
//	go run ./integration/attacks -install     # apt-get installs them on this machine, Debian's
//	go run ./integration/attacks              # runs them, some minutes; -only REGEXP, -update
//
// A guest runs them, or a host on the internet, once where dom0's kernel is the router and once with udrouter. Meanwhile another guest has connections
// open, and afterwards the attacker's neighbour must still reach the internet. It ends with status 1 when something came through udrouter. -update
// writes TOOLS.md. It needs root. Tools that are not installed are passed over, and named.
//
// The rows that are sent frame by frame are this package's tests: go test ./integration/attacks.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
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
	update := flags.Bool("update", false, "write "+doc+", from the module's directory")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *install {
		cmd := exec.CommandContext(ctx, "apt-get", append([]string{"install", "-y", "--no-install-recommends"}, debian...)...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		cmd.Stdout, cmd.Stderr = out, os.Stderr
		return cmd.Run()
	}
	match, err := regexp.Compile(*only)
	if err != nil {
		return err
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
	var list []tool
	for _, t := range tools {
		if match.MatchString(t.args) {
			list = append(list, t)
		}
	}
	var outcomes [2][]outcome
	for i, router := range []string{"", exe} {
		s, err := newScene(ctx, router)
		if err != nil {
			return err
		}
		for _, t := range list {
			o := s.try(ctx, t)
			fmt.Fprintf(out, "%-9s %-100s %s\n", s.name, t.args, o)
			outcomes[i] = append(outcomes[i], o)
			if o.lost != nil { // the next is not to meet what this one has left behind
				if err := s.close(); err != nil {
					return err
				}
				if s, err = newScene(ctx, router); err != nil {
					return err
				}
			}
		}
		if err := errors.Join(s.close(), context.Cause(ctx)); err != nil {
			return err
		}
	}
	if *update {
		if err := os.WriteFile(doc, []byte(table(list, outcomes)), 0o644); err != nil {
			return err
		}
	}
	var through []string
	for i, o := range outcomes[1] {
		if o.bad(list[i]) {
			through = append(through, fmt.Sprintf("%s: %s", list[i].args, o))
		}
	}
	if len(through) > 0 {
		return fmt.Errorf("through udrouter:\n%s", strings.Join(through, "\n"))
	}
	return nil
}

func table(list []tool, outcomes [2][]outcome) string {
	var b strings.Builder
	b.WriteString(`# Tools

What came of well-known tools in runs of ` + "`go run ./integration/attacks -update`" + `; its comment says how they are run. Frames are counted that came to the neighbour by the
attacker's doing, but for what its rules admit ("open"), and those with a forged source or a foreign MAC that came to the provider; "lost" is a neighbour who does not reach the internet
afterwards, or whose connections have broken. Answers are what the tool itself takes for some: for nmap
silence to UDP, FIN or XMAS is "open|filtered".

| tool | from | about | answers | through the kernel | answers | through udrouter |
|---|---|---|---|---|---|---|
`)
	for i, t := range list {
		k, u := outcomes[0][i], outcomes[1][i]
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s | %s |\n", t.args, t.from, t.about, k.said(t), k, u.said(t), u)
	}
	return b.String()
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

// buildLab makes the reference's network with the honest guest.
func buildLab(ctx context.Context) (*lab.Lab, error) {
	src := append(config.Reference[:len(config.Reference):len(config.Reference)], three...)
	cfg, diags := config.Parse("router.hcl", src)
	if diags.HasErrors() {
		return nil, diags
	}
	return lab.Build(ctx, cfg, lab.Options{Source: src})
}
