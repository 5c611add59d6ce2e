package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"udrouter/integration/dom0"
)

func pidCommand() *cobra.Command {
	var state string
	c := &cobra.Command{
		Use: "pid", Short: "Print the process of the router that runs in this network namespace, or nothing where none does (for scripts)", Args: cobra.NoArgs,
		Long: `Print the process of the router that runs in this network namespace, or nothing where none does.

It is the one that holds the lock in the state directory now, after a takeover as well. No file can name another one: the kernel gives the
lock up when its holder ends, however it does. Where somebody has the lock who cannot be seen, such as a router in another PID namespace, the
status is 1.

Of run's flags --state counts, and the others are allowed, for scripts that give it what they give run.`,
		Example: `  kill $(udrouter pid)`,
		RunE: func(c *cobra.Command, _ []string) error {
			pid, err := dom0.Running(state)
			if err == nil && pid != 0 {
				_, err = fmt.Fprintln(c.OutOrStdout(), pid)
			}
			return err
		},
	}
	c.Flags().StringVar(&state, "state", defaultState, "the router's state directory")
	takeRunFlags(c)
	return c
}
