package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"udrouter/config"
	"udrouter/integration/lab"
)

func labCommand() *cobra.Command {
	var file string
	var shell bool
	c := &cobra.Command{
		Use: "lab [-c FILE] [--shell]", Short: "Build a file's whole network in namespaces, run the router in it and show what it does", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			again, err := lab.NeedsReexec()
			if err != nil {
				return err
			}
			if again {
				return exitStatus(lab.Reexec(c.Context(), os.Args[1:]...))
			}
			cfg, src, err := labConfig(file, c)
			if err != nil {
				return err
			}
			exe, err := os.Executable()
			if err != nil {
				return fmt.Errorf("finding this program: %w", err)
			}
			// A terminal that is closed ends it in order as well.
			ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGHUP)
			defer stop()
			defer func() {
				if err != nil && ctx.Err() != nil {
					err = errors.New("interrupted; the lab is cleaned up")
				}
			}()
			out := c.OutOrStdout()
			l, err := lab.Build(ctx, cfg, lab.Options{Source: src})
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, l.Close()) }()
			p, err := l.StartRouter(ctx, exe)
			if err != nil {
				return err
			}
			held, err := l.Show(ctx, out, lab.ShowOptions{Router: p, Keep: shell, Enforced: true})
			if err != nil {
				return err
			}
			if shell {
				if err := l.Shell(ctx, out); err != nil {
					return err
				}
			}
			if !held {
				return errSaid
			}
			return nil
		},
	}
	c.Flags().StringVarP(&file, "config", "c", "", "the configuration (default: the reference that comes with the program)")
	c.Flags().BoolVar(&shell, "shell", false, "leave it up and say how to enter it, until Ctrl-C")
	return c
}

func labConfig(file string, c *cobra.Command) (*config.Config, []byte, error) {
	if file != "" {
		cfg, err := load(file, c.ErrOrStderr())
		return cfg, nil, err
	}
	cfg, diags := config.Parse("reference.hcl", config.Reference)
	if diags.HasErrors() {
		return nil, nil, diags
	}
	return cfg, config.Reference, nil
}

// exitStatus turns a child's status into an error that has been told already.
func exitStatus(status int, err error) error {
	if err == nil && status != 0 {
		return errSaid
	}
	return err
}
