package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"udrouter/integration/importer"
)

func importCommand() *cobra.Command {
	var s importer.Sources
	var out string
	c := &cobra.Command{
		Use: "import", Short: "Write a router.hcl from the files of a set-up with dummy0, proxy NDP and iptables", Args: cobra.NoArgs,
		Long: `Write a router.hcl from the files of a set-up with dummy0, proxy NDP and iptables.

What could not be carried over is said on the standard error and at the beginning of the file, with file, line and what to do. Rules
that cannot be said exactly become narrower, never wider. What only you know is marked TODO, which udrouter check refuses.`,
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := importer.Import(s)
			if err != nil {
				return err
			}
			if err := report(c.ErrOrStderr(), r); err != nil {
				return err
			}
			if out == "" {
				_, err = c.OutOrStdout().Write(r.Config)
				return err
			}
			return writeNew(out, r.Config)
		},
	}
	f := c.Flags()
	f.StringArrayVar(&s.Interfaces, "interfaces", nil, "a file as interfaces(5) has it, which includes others; may be repeated, as all of these")
	f.StringArrayVar(&s.NDPPD, "ndppd", nil, "an ndppd.conf")
	f.StringArrayVar(&s.IPTables, "iptables", nil, "the output of iptables-save, or a script of iptables commands")
	f.StringArrayVar(&s.IP6Tables, "ip6tables", nil, "the same of ip6tables")
	f.StringArrayVar(&s.XL, "xl", nil, "a guest's xl.cfg, which names its MAC, addresses and vif")
	f.StringVarP(&out, "output", "o", "", "write this file, which must not exist (default: the standard output)")
	return c
}

// report says what the new file is not, a line each.
func report(w io.Writer, r *importer.Result) error {
	for _, k := range []importer.Kind{importer.Left, importer.Carried, importer.Needless, importer.Stays} {
		for _, l := range importer.Summary(r.Notes, k) {
			if _, err := fmt.Fprintf(w, "%s: %s\n", k, l); err != nil {
				return err
			}
		}
	}
	if r.TODO > 0 {
		if _, err := fmt.Fprintf(w, "%d places are marked TODO: udrouter check names them\n", r.TODO); err != nil {
			return err
		}
	}
	return nil
}

// writeNew writes a file that must not exist: a configuration that someone has worked on is not to be lost.
func writeNew(name string, b []byte) (err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists: move it away, or give another name with -o", name)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = f.Write(b)
	return err
}
