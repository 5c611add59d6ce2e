package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"udrouter/policy"
	"udrouter/router"
)

// flowsWait is how long a router with a million flows may take to look at them.
const flowsWait = 30 * time.Second

func flowsCommand() *cobra.Command {
	var socket string
	var asJSON bool
	var follow time.Duration
	c := &cobra.Command{
		Use: "flows", Short: "Show connections, those with most bytes first", Args: cobra.NoArgs,
		Long: "Show connections: who has opened them, how far they have come, what they have carried, and by which rule.\n\n" +
			"Without --limit the first 100 are shown. The first column is the guest whose share of flows a connection takes.",
		RunE: func(c *cobra.Command, _ []string) error {
			query := url.Values{}
			for _, key := range flowKeys {
				if f := c.Flags().Lookup(key.name); f.Changed {
					query.Set(key.name, f.Value.String())
				}
			}
			if !c.Flags().Changed("follow") {
				return showFlows(c.Context(), c.OutOrStdout(), socket, query, asJSON)
			}
			if follow <= 0 {
				return errors.New("--follow wants a time above 0, such as 2s")
			}
			return repeat(c.Context(), c.OutOrStdout(), follow, func(out io.Writer) error {
				return showFlows(c.Context(), out, socket, query, asJSON)
			})
		},
	}
	socketFlags(c, &socket, &asJSON)
	for _, key := range flowKeys {
		c.Flags().String(key.name, "", key.usage)
		_ = c.RegisterFlagCompletionFunc(key.name, key.words(&socket)) // it errs for a flag that is not there
	}
	c.Flags().DurationVar(&follow, "follow", 0, "show them again and again, so often")
	f := c.Flags().Lookup("follow")
	f.NoOptDefVal, f.DefValue = "1s", "1s" // in manual pages what stands for a value that is left out is the default
	return c
}

// flowKeys are the flags that are keys of the question.
var flowKeys = []struct {
	name, usage string
	words       func(socket *string) cobra.CompletionFunc
}{
	{"domu", "only those with this guest at either end", completeDomus},
	{"proto", "only of this protocol: tcp, udp, icmp, icmpv6 or a number", completeFixed("tcp", "udp", "icmp", "icmpv6")},
	{"addr", "only those with this address, or one of this prefix, at either end", completeFixed()},
	{"port", "only those with this port at either end", completeFixed()},
	{"state", "only those in this state, such as established", completeFixed(policy.FlowStates()...)},
	{"sort", "which are the first: " + strings.Join(router.FlowOrders(), ", ") + "; those with most, the youngest, or the longest idle", completeFixed(router.FlowOrders()...)},
	{"limit", "how many at most (default 100)", completeFixed()},
}

// completeFixed completes one of some words.
func completeFixed(words ...string) func(*string) cobra.CompletionFunc {
	return func(*string) cobra.CompletionFunc {
		return cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)
	}
}

// completeDomus completes a name of the running router's guests.
func completeDomus(socket *string) cobra.CompletionFunc {
	return completeStatus(socket, func(s router.Status) (names []string) {
		for _, d := range s.Domus {
			names = append(names, d.Name)
		}
		return names
	})
}

// completeStatus completes what a running router's status has; nothing where none answers.
func completeStatus(socket *string, words func(router.Status) []string) cobra.CompletionFunc {
	return func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		s, err := askStatus(c.Context(), *socket)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return words(s), cobra.ShellCompDirectiveNoFileComp
	}
}

// repeat shows something again and again until ctx ends; on a terminal in the place of what was shown before.
func repeat(ctx context.Context, out io.Writer, every time.Duration, show func(io.Writer) error) error {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		if f, ok := out.(interface{ Fd() uintptr }); ok && term.IsTerminal(int(f.Fd())) {
			fmt.Fprint(out, "\x1b[H\x1b[2J")
		}
		if err := show(out); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// askFlows is a running router's answer to a question about flows.
func askFlows(ctx context.Context, socket string, query url.Values) ([]byte, error) {
	code, body, err := tell(ctx, socket, http.MethodGet, "/v1/flows?"+query.Encode(), flowsWait)
	switch {
	case err != nil:
		return nil, err
	case code == http.StatusBadRequest:
		return nil, errors.New(strings.TrimSpace(string(body)))
	case code != http.StatusOK:
		return nil, fmt.Errorf("the router answered %d", code)
	}
	return body, nil
}

func showFlows(ctx context.Context, out io.Writer, socket string, query url.Values, asJSON bool) error {
	body, err := askFlows(ctx, socket, query)
	if err != nil {
		return err
	}
	return show(out, body, asJSON, printFlows)
}

func printFlows(out io.Writer, l router.FlowList) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "DOMU\tFROM\tTO\tPROTO\tSOURCE\tDESTINATION\tSTATE\tAGE\tIDLE\tSENT\tREPLIED\tRULE")
	for _, f := range l.Flows {
		rule := cmp.Or(f.Rule, "-")
		if f.Shadow {
			rule += " (shadow)"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", f.Domu, f.From, f.To, f.Proto, f.Src, f.Dst, f.State,
			seconds(f.Age), seconds(f.Idle), bytesOf(f.Bytes), bytesOf(f.ReplyBytes), rule)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "%d of %d flows\n", len(l.Flows), l.Matched)
	return err
}

// seconds is a time as people read it, to a second.
func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(time.Second).String()
}

// bytesOf is a number of bytes as people read it, with binary units (IEC 80000-13).
func bytesOf(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return strconv.FormatUint(n, 10) + " B"
	}
	v, i := float64(n)/1024, 0
	for ; v >= 1024 && i < len(units)-1; i++ {
		v /= 1024
	}
	return strconv.FormatFloat(v, 'f', 1, 64) + " " + units[i:i+1] + "iB"
}
