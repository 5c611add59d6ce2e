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
rule, whose it was, and whether it is of several segments (GSO). What the router itself sends is not there.
Where the kernel forwards by itself (run --offload), the router forwards all until the capture ends, so that all is seen; throughput is then what it is without.
With --verdict drop or --reason the kernel goes on, since it drops nothing.
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
			toFile := file != "" && file != "-"
			if out, ok := c.OutOrStdout().(*os.File); ok && !toFile && !asJSON && term.IsTerminal(int(out.Fd())) {
				return errors.New("pcapng is nothing for a terminal: pipe it to wireshark -k -i -, or give --write FILE or --json")
			}
			frames, err := capture(c.Context(), socket, query)
			if err != nil {
				return err
			}
			defer frames.Close()
			if !toFile {
				return copyFrames(c.Context(), c.OutOrStdout(), frames)
			}
			f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600) // not before, so that a question that is refused empties no file
			if err != nil {
				return err
			}
			return errors.Join(copyFrames(c.Context(), f, frames), f.Close())
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
	{"count", "end after so many frames (default 0: when it is told to)", completeFixed()},
}

// reasonWords are all that there are.
func reasonWords() (words []string) {
	for r := policy.Reason(1); int(r) < policy.Reasons; r++ {
		words = append(words, r.String())
	}
	slices.Sort(words)
	return words
}

// capture asks the router for frames until ctx ends. An error says why it sends none.
func capture(ctx context.Context, socket string, query url.Values) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://udrouter/v1/capture?"+query.Encode(), nil)
	if err != nil {
		return nil, err
	}
	transport := over(socket)
	transport.DisableKeepAlives = true
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, unreachable(socket, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusForbidden {
		return nil, errors.New("only root may capture: it shows what guests say")
	}
	why, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
	return nil, errors.New(strings.TrimSpace(string(why)))
}

// copyFrames writes what the router sends until ctx ends, the router does, or nobody reads any more; none of these is an error.
func copyFrames(ctx context.Context, out io.Writer, frames io.Reader) error {
	_, err := io.Copy(out, frames)
	if err == nil || ctx.Err() != nil || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) {
		return nil
	}
	return fmt.Errorf("capturing: %w", err)
}
