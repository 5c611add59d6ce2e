package main

import (
	"cmp"
	"encoding/json"
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
			if asJSON {
				_, err := c.OutOrStdout().Write(body)
				return err
			}
			var l router.NeighbourList
			if err := json.Unmarshal(body, &l); err != nil {
				return fmt.Errorf("reading the answer: %w", err)
			}
			return printNeighbours(c.OutOrStdout(), l)
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
