package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"udrouter/config"
)

func checkCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: "check -c FILE", Short: "Check a configuration, without a look at the machine", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := load(file, c.ErrOrStderr())
			if err != nil {
				return err
			}
			out := c.OutOrStdout()
			fmt.Fprintf(out, "%s is valid: %d networks, %d domus, %d policies\n", file, len(cfg.Networks), len(cfg.Domus), len(cfg.Policies))
			for _, text := range cfg.NotEnforced() {
				fmt.Fprintf(out, "note: %s\n", text)
			}
			return nil
		},
	}
	configFlag(c, &file)
	return c
}

// configFlag adds the -c that most commands need.
func configFlag(c *cobra.Command, file *string) {
	c.Flags().StringVarP(file, "config", "c", "", "the configuration, router.hcl")
	if err := c.MarkFlagRequired("config"); err != nil {
		panic(err) // there is no such flag: a defect of this program
	}
}

// load reads a configuration; all that is wrong with it is written to w.
func load(file string, w io.Writer) (*config.Config, error) {
	cfg, diags := config.Load(file)
	if err := config.WriteDiagnostics(w, diags, isTerminal(w)); err != nil {
		return nil, err
	}
	if diags.HasErrors() {
		return nil, errSaid
	}
	return cfg, nil
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	fi, err := f.Stat()
	return err == nil && fi.Mode()&os.ModeCharDevice != 0 && os.Getenv("NO_COLOR") == ""
}
