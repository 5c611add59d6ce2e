package main

import (
	"cmp"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"udrouter/router"
)

func neighboursCommand() *cobra.Command {
	var socket string
	var asJSON bool
	c := &cobra.Command{
		Use: "neighbours", Short: "Show next hops on the uplink, and the addresses that guests are bound to", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			body, err := ask(c.Context(), socket, "/v1/neighbours")
			if err != nil {
				return err
			}
			return show(c.OutOrStdout(), body, asJSON, printNeighbours)
		},
	}
	socketFlags(c, &socket, &asJSON)
	return c
}

func printNeighbours(out io.Writer, l router.NeighbourList) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "ON THE UPLINK\tMAC\tSTATE\tFOR")
	for _, n := range l.Uplink {
		whose := cmp.Or(n.Domu, "-")
		if n.Gateway {
			whose = "gateway"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", n.Addr, cmp.Or(n.MAC, "-"), n.State, whose)
	}
	fmt.Fprintln(w, "\nOF A GUEST\tMAC\tSTATE\tDOMU\tVIF")
	for _, n := range l.Guests {
		state := n.State
		if n.Expires > 0 {
			state += " for " + seconds(n.Expires)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", n.Addr, n.MAC, state, n.Domu, cmp.Or(n.Vif, "-"))
	}
	return w.Flush()
}
