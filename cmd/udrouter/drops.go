package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// dropReport is what `udrouter drops --json` prints; of domus those alone that had drops.
type dropReport struct {
	Drops map[string]uint64            `json:"drops"` // by reason
	Domus map[string]map[string]uint64 `json:"domus"` // by name and reason
}

func dropsCommand() *cobra.Command {
	var socket string
	var asJSON bool
	c := &cobra.Command{
		Use: "drops", Short: "Show what did not pass, by reason and domu", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, _, err := askStatus(c.Context(), socket)
			if err != nil {
				return err
			}
			r := dropReport{Drops: s.Drops, Domus: map[string]map[string]uint64{}}
			for _, d := range s.Domus {
				if len(d.Reasons) > 0 {
					r.Domus[d.Name] = d.Reasons
				}
			}
			if asJSON {
				return json.NewEncoder(c.OutOrStdout()).Encode(r)
			}
			return printDrops(c.OutOrStdout(), r)
		},
	}
	socketFlags(c, &socket, &asJSON)
	return c
}

func printDrops(out io.Writer, r dropReport) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "REASON\tDOMU\tPACKETS\n")
	for _, reason := range slices.Sorted(maps.Keys(r.Drops)) {
		fmt.Fprintf(w, "%s\t\t%d\n", reason, r.Drops[reason])
		for _, name := range slices.Sorted(maps.Keys(r.Domus)) {
			if n := r.Domus[name][reason]; n > 0 {
				fmt.Fprintf(w, "\t%s\t%d\n", name, n)
			}
		}
	}
	return w.Flush()
}
