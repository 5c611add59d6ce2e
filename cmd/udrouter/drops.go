package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"udrouter/policy"
	"udrouter/router"
)

// dropReport is what `udrouter drops --json` prints; of domus those alone that had drops.
type dropReport struct {
	Drops map[string]uint64            `json:"drops"` // by reason
	Domus map[string]map[string]uint64 `json:"domus"` // by name and reason

	// What policies in shadow mode would have dropped.
	WouldDrop      map[string]uint64            `json:"would_drop"`
	WouldDropDomus map[string]map[string]uint64 `json:"would_drop_domus"`

	// One of the last packets of each reason.
	Examples      map[string]router.DropExample `json:"examples"`
	WouldExamples map[string]router.DropExample `json:"would_drop_examples"`
}

func dropsCommand() *cobra.Command {
	var socket, domu, reason string
	var asJSON bool
	c := &cobra.Command{
		Use: "drops", Short: "Show what did not pass, by reason and domu", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if _, err := policy.ParseReason(reason); reason != "" && err != nil {
				return err
			}
			s, err := askStatus(c.Context(), socket)
			if err != nil {
				return err
			}
			r, err := reportDrops(s, domu, reason)
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(c.OutOrStdout()).Encode(r)
			}
			return printDrops(painted(c.OutOrStdout()), r)
		},
	}
	socketFlags(c, &socket, &asJSON)
	c.Flags().StringVar(&domu, "domu", "", "only this guest's")
	c.Flags().StringVar(&reason, "reason", "", "only those for this reason")
	_ = c.RegisterFlagCompletionFunc("domu", completeDomus(&socket)) // they err for a flag that is not there
	_ = c.RegisterFlagCompletionFunc("reason", completeFixed(reasonWords()...)(&socket))
	return c
}

// reportDrops selects a status' drops of a guest, or with "" of all, and for a reason, or with "" for all.
func reportDrops(s router.Status, domu, reason string) (dropReport, error) {
	r := dropReport{Drops: s.Drops, Domus: map[string]map[string]uint64{}, WouldDrop: s.WouldDrop, WouldDropDomus: map[string]map[string]uint64{},
		Examples: s.Examples, WouldExamples: s.WouldExamples}
	known := domu == ""
	for _, d := range s.Domus {
		if domu != "" && d.Name != domu {
			continue
		}
		known = true
		if len(d.Reasons) > 0 {
			r.Domus[d.Name] = d.Reasons
		}
		if len(d.WouldDrop) > 0 {
			r.WouldDropDomus[d.Name] = d.WouldDrop
		}
	}
	if !known {
		return r, fmt.Errorf("there is no domu %q", domu)
	}
	if domu != "" {
		r.Drops, r.WouldDrop = nonNil(r.Domus[domu]), nonNil(r.WouldDropDomus[domu])
		of := func(_ string, e router.DropExample) bool { return e.Domu != domu }
		maps.DeleteFunc(r.Examples, of)
		maps.DeleteFunc(r.WouldExamples, of)
	}
	if reason != "" {
		for _, m := range []map[string]uint64{r.Drops, r.WouldDrop} {
			maps.DeleteFunc(m, func(word string, _ uint64) bool { return word != reason })
		}
		for _, m := range []map[string]router.DropExample{r.Examples, r.WouldExamples} {
			maps.DeleteFunc(m, func(word string, _ router.DropExample) bool { return word != reason })
		}
		for _, domus := range []map[string]map[string]uint64{r.Domus, r.WouldDropDomus} {
			for name, m := range domus {
				if maps.DeleteFunc(m, func(word string, _ uint64) bool { return word != reason }); len(m) == 0 {
					delete(domus, name)
				}
			}
		}
	}
	return r, nil
}

func nonNil(m map[string]uint64) map[string]uint64 {
	if m == nil {
		return map[string]uint64{}
	}
	return m
}

func printDrops(out io.Writer, r dropReport) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "REASON\tDOMU\tPACKETS\tONE OF THE LAST\n")
	printReasons(w, r.Drops, r.Domus, r.Examples)
	if len(r.WouldDrop) > 0 {
		fmt.Fprintf(w, "\nIN SHADOW MODE\tDOMU\tPACKETS\tONE OF THE LAST\n")
		printReasons(w, r.WouldDrop, r.WouldDropDomus, r.WouldExamples)
	}
	return w.Flush()
}

func printReasons(w io.Writer, total map[string]uint64, domus map[string]map[string]uint64, examples map[string]router.DropExample) {
	for _, reason := range slices.Sorted(maps.Keys(total)) {
		example := ""
		if e, ok := examples[reason]; ok {
			example = exampleLine(reason, e, time.Now())
		}
		fmt.Fprintf(w, "%s\t\t%d\t%s\n", reason, total[reason], example)
		for _, name := range slices.Sorted(maps.Keys(domus)) {
			if n := domus[name][reason]; n > 0 {
				fmt.Fprintf(w, "\t%s\t%d\t\n", name, n)
			}
		}
	}
}

// byMAC are the reasons for which a frame's MACs have decided.
var byMAC = []string{policy.MACInvalid.String(), policy.MACBinding.String(), policy.OtherHost.String(), policy.L2Multicast.String(), policy.NDSpoof.String(),
	policy.ForeignMAC.String()}

// exampleLine is a packet in a line: when, with the date where that is not today's, whence and whither, and what has decided.
func exampleLine(reason string, e router.DropExample, now time.Time) string {
	words := []string{dayTime(e.At.Local(), now.Local())}
	if e.Domu != "" {
		words = append(words, e.Domu)
	}
	if e.SrcMAC != "" && (!e.Src.IsValid() || slices.Contains(byMAC, reason)) {
		words = append(words, fmt.Sprintf("%#04x %s > %s", e.EtherType, e.SrcMAC, e.DstMAC))
	}
	if e.Src.IsValid() {
		words = append(words, fmt.Sprintf("%s %s > %s", e.Proto, end(e.Src, e.SrcPort), end(e.Dst, e.DstPort)))
	}
	if e.ClaimedAddr.IsValid() {
		words = append(words, strings.TrimSpace(fmt.Sprintf("claims %s %s", e.ClaimedAddr, e.ClaimedMAC)))
	}
	if e.Chain != "" {
		words = append(words, fmt.Sprintf("%s %s of %s, %s", e.Chain, e.Rule, e.Policy, e.Source))
	}
	return strings.Join(words, "  ")
}

func dayTime(at, now time.Time) string {
	if at.Format(time.DateOnly) == now.Format(time.DateOnly) {
		return at.Format(time.TimeOnly)
	}
	return at.Format(time.DateTime)
}

func end(a netip.Addr, port uint16) string {
	if port == 0 {
		return a.String()
	}
	return netip.AddrPortFrom(a, port).String()
}
