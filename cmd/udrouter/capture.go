package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"udrouter/policy"
)

func captureCommand() *cobra.Command {
	var socket, file string
	var asJSON bool
	c := &cobra.Command{
		Use: "capture", Short: "Write frames and what became of them as pcapng", Args: cobra.NoArgs,
		Long: `Write frames and what became of them as pcapng: udrouter capture --domu one | wireshark -k -i -

Frames are shown as they have arrived from the uplink, from guests and from dom0, each with a comment: whether it was accepted, or why not and by which
rule, whose it was, and whether it is of several segments (GSO). What the kernel forwards by itself (run --offload), and what the router itself sends, are not there.
Only root may capture. Frames for which there is no room, since nobody reads, are missed; their number stands beside the next one.`,
		RunE: func(c *cobra.Command, _ []string) error {
			query := url.Values{}
			for _, key := range captureKeys {
				if f := c.Flags().Lookup(key.name); f.Changed {
					query.Set(key.name, f.Value.String())
				}
			}
			if asJSON {
				query.Set("format", "json")
			}
			out := c.OutOrStdout()
			switch f, ok := out.(*os.File); {
			case file != "" && file != "-":
				f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
				if err != nil {
					return err
				}
				err = capture(c.Context(), f, socket, query)
				return errors.Join(err, f.Close())
			case ok && !asJSON && term.IsTerminal(int(f.Fd())):
				return errors.New("pcapng is nothing for a terminal: pipe it to wireshark -k -i -, or give --write FILE or --json")
			}
			return capture(c.Context(), out, socket, query)
		},
	}
	socketFlags(c, &socket, &asJSON)
	c.Flags().Lookup("json").Usage = "write a line of JSON for each frame instead"
	for _, key := range captureKeys {
		c.Flags().String(key.name, "", key.usage)
		_ = c.RegisterFlagCompletionFunc(key.name, key.words(&socket)) // it errs for a flag that is not there
	}
	c.Flags().StringVarP(&file, "write", "w", "", "write to this file (default: standard output)")
	return c
}

// captureKeys are the flags that are keys of the question.
var captureKeys = []struct {
	name, usage string
	words       func(socket *string) cobra.CompletionFunc
}{
	{"domu", "only from or to this guest", completeDomus},
	{"verdict", "only what was accepted or dropped: accept or drop", completeFixed("accept", "drop")},
	{"reason", "only what was dropped for this reason", completeFixed(reasonWords()...)},
	{"snaplen", "bytes of a frame that are kept (default 2048)", completeFixed()},
	{"count", "end after so many frames", completeFixed()},
}

// reasonWords are all that there are.
func reasonWords() (words []string) {
	for r := policy.Reason(1); int(r) < policy.Reasons; r++ {
		words = append(words, r.String())
	}
	slices.Sort(words)
	return words
}

// capture writes what the router sends until ctx ends, the router does, or nobody reads any more; none of these is an error.
func capture(ctx context.Context, out io.Writer, socket string, query url.Values) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://udrouter/v1/capture?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	transport := over(socket)
	transport.DisableKeepAlives = true
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return unreachable(socket, err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusForbidden:
		return errors.New("only root may capture: it shows what guests say")
	default:
		why, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return errors.New(strings.TrimSpace(string(why)))
	}
	_, err = io.Copy(out, resp.Body)
	if ctx.Err() != nil || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("capturing: %w", err)
	}
	return nil
}
