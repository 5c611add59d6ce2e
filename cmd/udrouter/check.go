package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"udrouter/config"
	"udrouter/router"
)

func checkCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: "check -c FILE", Short: "Check a configuration and run its tests, without a look at the machine", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := load(file, c.ErrOrStderr())
			if err != nil {
				return err
			}
			if err := runTests(cfg, c.ErrOrStderr()); err != nil {
				return err
			}
			out := c.OutOrStdout()
			templates := ""
			if n := len(cfg.Templates); n > 0 {
				templates = fmt.Sprintf(" and %d templates", n)
			}
			fmt.Fprintf(out, "%s is valid: %d networks, %d domus%s, %d policies, %d tests passed\n", file, len(cfg.Networks), len(cfg.Domus), templates, len(cfg.Policies), len(cfg.Tests))
			return nil
		},
	}
	configFlag(c, &file)
	return c
}

// runTests asks a file's test blocks of its policy; those that fail are written to w.
func runTests(cfg *config.Config, w io.Writer) error {
	results, err := router.RunTests(cfg)
	if err != nil {
		return err
	}
	failed := 0
	for _, r := range results {
		if r.Failed == "" {
			continue
		}
		failed++
		fmt.Fprintf(w, "test %q, %s: %s\n", r.Name, r.Source, r.Failed)
		for _, step := range r.Steps {
			fmt.Fprint(w, indented(step.Answers))
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d tests failed", failed, len(results))
	}
	return nil
}

const configUsage = "the configuration, router.hcl"

// configFlag adds the -c that most commands need.
func configFlag(c *cobra.Command, file *string) {
	c.Flags().StringVarP(file, "config", "c", "", configUsage)
	required(c, "config")
}

func required(c *cobra.Command, flag string) {
	if err := c.MarkFlagRequired(flag); err != nil {
		panic(err) // there is no such flag: a defect of this program
	}
}

// load reads a configuration; all that is wrong with it is written to w.
func load(file string, w io.Writer) (*config.Config, error) {
	cfg, _, err := loadAll(file, w)
	return cfg, err
}

// loadAll is load that lists what is wrong as well.
func loadAll(file string, w io.Writer) (*config.Config, []router.Diagnostic, error) {
	cfg, diags := config.Load(file)
	if err := config.WriteDiagnostics(w, diags, isTerminal(w)); err != nil {
		return nil, nil, err
	}
	if !diags.HasErrors() {
		return cfg, nil, nil
	}
	var list []router.Diagnostic
	for _, d := range diags {
		list = append(list, router.Diagnostic{File: d.Subject.Filename, Line: d.Subject.Start.Line, Column: d.Subject.Start.Column, Summary: d.Summary, Detail: d.Detail})
	}
	return nil, list, errSaid
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	fi, err := f.Stat()
	return err == nil && fi.Mode()&os.ModeCharDevice != 0 && os.Getenv("NO_COLOR") == ""
}
