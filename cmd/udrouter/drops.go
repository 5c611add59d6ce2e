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

	// What policies in shadow mode would have dropped.
	WouldDrop      map[string]uint64            `json:"would_drop"`
	WouldDropDomus map[string]map[string]uint64 `json:"would_drop_domus"`
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
			r := dropReport{Drops: s.Drops, Domus: map[string]map[string]uint64{}, WouldDrop: s.WouldDrop, WouldDropDomus: map[string]map[string]uint64{}}
			for _, d := range s.Domus {
				if len(d.Reasons) > 0 {
					r.Domus[d.Name] = d.Reasons
				}
				if len(d.WouldDrop) > 0 {
					r.WouldDropDomus[d.Name] = d.WouldDrop
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
	printReasons(w, r.Drops, r.Domus)
	if len(r.WouldDrop) > 0 {
		fmt.Fprintf(w, "\nIN SHADOW MODE\tDOMU\tPACKETS\n")
		printReasons(w, r.WouldDrop, r.WouldDropDomus)
	}
	return w.Flush()
}

func printReasons(w io.Writer, total map[string]uint64, domus map[string]map[string]uint64) {
	for _, reason := range slices.Sorted(maps.Keys(total)) {
		fmt.Fprintf(w, "%s\t\t%d\n", reason, total[reason])
		for _, name := range slices.Sorted(maps.Keys(domus)) {
			if n := domus[name][reason]; n > 0 {
				fmt.Fprintf(w, "\t%s\t%d\n", name, n)
			}
		}
	}
}
