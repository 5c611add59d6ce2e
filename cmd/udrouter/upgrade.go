package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"udrouter/router"
)

func upgradeCommand() *cobra.Command {
	var file, socket, unit string
	c := &cobra.Command{
		Use: "upgrade -c FILE", Short: "Have systemd restart the router with this program, without loss", Args: cobra.NoArgs,
		Long: `Have systemd restart the router with this program, without loss.

The configuration is checked first. Then the router that runs is asked to leave its links, flows and counters to the next one, and its
unit is restarted. A router that is no service of systemd's goes on; start the next one by udrouter run --takeover.`,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := load(file, c.ErrOrStderr())
			if err != nil {
				return err
			}
			now := func() string { return cmp.Or(socket, serviceSocket(c.Context(), unit), cfg.Control.Socket) }
			code, body, err := tell(c.Context(), now(), http.MethodPost, router.KeepPath(cfg), 5*time.Second)
			switch {
			case err != nil:
				return err
			case code == http.StatusForbidden:
				return errors.New("only root may upgrade")
			case code != http.StatusOK:
				return fmt.Errorf("the router that runs answers: %s", body)
			}
			if out, err := exec.CommandContext(c.Context(), "systemctl", "restart", unit).CombinedOutput(); err != nil {
				return fmt.Errorf("restarting %s: %w\n%s", unit, err, out)
			}
			return awaitNext(c, now())
		},
	}
	configFlag(c, &file)
	c.Flags().StringVar(&socket, "socket", "", "the control socket (default: what the unit gives run, or the configuration's)")
	c.Flags().StringVar(&unit, "unit", "udrouter.service", "the unit that systemd restarts")
	return c
}

// serviceSocket is the control socket that a unit of systemd's has given the router which it runs; "" where it gives none, or runs none.
func serviceSocket(ctx context.Context, unit string) string {
	pid, err := exec.CommandContext(ctx, "systemctl", "show", "--value", "--property=MainPID", unit).Output()
	if err != nil {
		return ""
	}
	args, err := os.ReadFile(filepath.Join("/proc", strings.TrimSpace(string(pid)), "cmdline"))
	if err != nil {
		return ""
	}
	return socketIn(strings.Split(strings.TrimSuffix(string(args), "\x00"), "\x00"))
}

// socketIn is the control socket in the arguments of a process; "" where there is none, or they are not run's.
func socketIn(args []string) string {
	if len(args) < 2 || args[1] != "run" {
		return ""
	}
	var f runFlags
	c := &cobra.Command{FParseErrWhitelist: cobra.FParseErrWhitelist{UnknownFlags: true}} // another version's
	f.of(c)
	if err := c.ParseFlags(args[2:]); err != nil {
		return ""
	}
	return f.socket
}

// awaitNext says what the next router is, as soon as it answers.
func awaitNext(c *cobra.Command, socket string) error {
	ctx, cancel := context.WithTimeout(c.Context(), 30*time.Second)
	defer cancel()
	for {
		s, err := askStatus(ctx, socket)
		if err == nil {
			gap := time.Duration(s.Gap * float64(time.Second))
			fmt.Fprintf(c.OutOrStdout(), "udrouter %s runs; nobody forwarded for %v\n", s.Version, gap)
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the next router does not answer: %w", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
