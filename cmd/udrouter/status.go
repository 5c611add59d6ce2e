package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"udrouter/router"
)

const defaultSocket = "/run/udrouter/control.sock"

func statusCommand() *cobra.Command {
	var socket string
	var asJSON bool
	c := &cobra.Command{
		Use: "status", Short: "Show what the running router does", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			body, err := ask(c.Context(), socket, "/v1/status")
			if err != nil {
				return err
			}
			return show(c.OutOrStdout(), body, asJSON, printStatus)
		},
	}
	socketFlags(c, &socket, &asJSON)
	return c
}

// socketFlags adds what every question to a running router takes.
func socketFlags(c *cobra.Command, socket *string, asJSON *bool) {
	c.Flags().StringVar(socket, "socket", defaultSocket, "the router's control socket")
	c.Flags().BoolVar(asJSON, "json", false, "print JSON")
}

// askStatus is a running router's status.
func askStatus(ctx context.Context, socket string) (s router.Status, err error) {
	body, err := ask(ctx, socket, "/v1/status")
	if err != nil {
		return s, err
	}
	return s, decode(body, &s)
}

// show prints an answer as it came, or with print what it says.
func show[T any](out io.Writer, body []byte, asJSON bool, print func(io.Writer, T) error) error {
	if asJSON {
		_, err := out.Write(body)
		return err
	}
	var what T
	if err := decode(body, &what); err != nil {
		return err
	}
	return print(painted(out), what)
}

func decode(body []byte, into any) error {
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	return nil
}

// ask sends a GET to the control socket and returns the answer's body.
func ask(ctx context.Context, socket, path string) ([]byte, error) {
	code, body, err := tell(ctx, socket, http.MethodGet, path, 5*time.Second)
	switch {
	case err != nil:
	case code == http.StatusForbidden:
		err = errForbidden
	case code != http.StatusOK:
		err = fmt.Errorf("the router answered %d", code)
	}
	return body, err
}

// errForbidden is the answer to a user who may ask, but not this.
var errForbidden = errors.New("only root may do this")

// How often and how soon tell asks again.
const (
	askAgain   = 20
	againPause = 50 * time.Millisecond
)

// unanswered tells whether a router has ended a connection without an answer: one that has ended, or that another process has just taken over from.
func unanswered(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// tell sends a request without a body to the control socket and returns status and body of the answer, for which it waits so long. Where a router ends the
// connection without one, it asks again, a few times: what is asked for may be done twice.
func tell(ctx context.Context, socket, method, path string, wait time.Duration) (code int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for range askAgain {
		if code, body, err = tellOnce(ctx, socket, method, path); !unanswered(err) {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(againPause):
		}
	}
	return code, body, err
}

// over is the way to a control socket.
func over(socket string) *http.Transport {
	return &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
}

func tellOnce(ctx context.Context, socket, method, path string) (code int, body []byte, err error) {
	client := &http.Client{Transport: over(socket)}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, method, "http://udrouter"+path, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, unreachable(socket, err)
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(io.LimitReader(resp.Body, 64<<20)); err != nil {
		return 0, nil, fmt.Errorf("reading the answer: %w", err)
	}
	return resp.StatusCode, body, nil
}

// unreachable says why a router could not be asked.
func unreachable(socket string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("this user may not ask the router on %s: be root, or in the group that control.group names", socket)
	}
	return fmt.Errorf("no router answers on %s (is it running? --socket names another one): %w", socket, err)
}

func printStatus(out io.Writer, s router.Status) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "udrouter %s, up %v\n", s.Version, time.Duration(s.Uptime*float64(time.Second)).Round(time.Second))
	fmt.Fprintf(w, "router's MAC toward guests %s, link-local on the uplink %s\n", s.RouterMAC, s.UplinkAddress)
	fmt.Fprintf(w, "%d reloads", s.Reloads)
	if l := s.LastReload; l != nil && l.Error == "" {
		fmt.Fprintf(w, ", the last at %s", l.At.Format(time.RFC3339))
	} else if l != nil {
		fmt.Fprintf(w, "; the one at %s failed: %s", l.At.Format(time.RFC3339), l.Error)
	}
	fmt.Fprintf(w, "\n\nLINK\tRX PACKETS\tRX BYTES\tTX PACKETS\tTX BYTES\tERRORS\n")
	for _, l := range s.Links {
		fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%s\t%d\n", l.Name, l.RxPackets, bytesOf(l.RxBytes), l.TxPackets, bytesOf(l.TxBytes), l.Errors)
	}
	fmt.Fprintf(w, "\nDOMU\tRX PACKETS\tRX BYTES\tTX PACKETS\tTX BYTES\tFLOWS\tDROPS\n")
	for _, d := range s.Domus {
		fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%s\t%d\t%d\n", d.Name, d.RxPackets, bytesOf(d.RxBytes), d.TxPackets, bytesOf(d.TxBytes), d.Flows, d.Drops)
	}
	fmt.Fprintf(w, "\nDROPPED\tPACKETS\n")
	for _, reason := range slices.Sorted(maps.Keys(s.Drops)) {
		fmt.Fprintf(w, "%s\t%d\n", reason, s.Drops[reason])
	}
	if len(s.HostUplink) > 0 {
		fmt.Fprintf(w, "\nHOST.UPLINK RULE\tACTION\tPACKETS\tBYTES\tSOURCE\n")
	}
	for _, r := range s.HostUplink {
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", cmp.Or(r.Rule, "(default)"), r.Action, r.Packets, bytesOf(r.Bytes), r.Source)
	}
	fmt.Fprintf(w, "\nflows: %d of %d, %d of them forwarded by the kernel, %d packets so far\n", s.Flows.Active, s.Flows.Max, s.Flows.Offloaded, s.Flows.OffloadHits)
	fmt.Fprintf(w, "foreign MACs kept off the uplink: %d\n", s.ForeignMAC)
	for _, text := range s.Warnings {
		fmt.Fprintf(w, "warning: %s\n", text)
	}
	return w.Flush()
}
