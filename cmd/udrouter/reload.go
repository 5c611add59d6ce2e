package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"udrouter/config"
	"udrouter/integration/dom0"
	"udrouter/integration/hotplug"
	"udrouter/router"
)

func reloadCommand() *cobra.Command {
	var socket string
	var asJSON bool
	c := &cobra.Command{
		Use: "reload", Short: "Have the running router read its configuration anew", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			const wait = 2 * time.Minute
			code, body, err := tell(c.Context(), socket, http.MethodPost, "/v1/reload", wait)
			switch {
			case err != nil:
				return err
			case code == http.StatusForbidden:
				return fmt.Errorf("only root may reload")
			case code != http.StatusOK && code != http.StatusUnprocessableEntity:
				return fmt.Errorf("the router answered %d", code)
			}
			return printReload(c.OutOrStdout(), c.ErrOrStderr(), body, asJSON)
		},
	}
	socketFlags(c, &socket, &asJSON)
	takeRunFlags(c) // for the unit
	return c
}

func printReload(out, errs io.Writer, body []byte, asJSON bool) error {
	var a router.ReloadAnswer
	if err := json.Unmarshal(body, &a); err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if asJSON {
		if _, err := out.Write(body); err != nil {
			return err
		}
		if a.Error != "" {
			return errSaid
		}
		return nil
	}
	if a.Error == "" {
		fmt.Fprintf(out, "reloaded (%d times so far)\n", a.Reloads)
		return nil
	}
	if a.Text != "" {
		fmt.Fprint(errs, a.Text)
		return errSaid
	}
	return fmt.Errorf("reloading failed: %s", a.Error)
}

// surroundings implement router.Surroundings for `run`.
type surroundings struct {
	load  func(io.Writer) (*config.Config, []router.Diagnostic, error)
	spec  func(*config.Config) dom0.Spec
	guard *dom0.Dom0
	level *slog.LevelVar
	log   *slog.Logger
	ports *hotplug.Ports // attached to what is loaded
	moved func() error   // why the file may not be read any more; nil: the process is not confined
}

func (s *surroundings) Load() (*config.Config, error) {
	var text bytes.Buffer
	cfg, list, err := s.load(&text)
	if len(list) > 0 {
		if s.moved != nil {
			if why := s.moved(); why != nil {
				return nil, why
			}
		}
		return nil, &router.ReloadError{Text: text.String(), Diagnostics: list}
	}
	if err != nil {
		return nil, err
	}
	return s.ports.Attach(cfg)
}

// vifs implement router.Hotplug for `run`.
type vifs struct {
	*hotplug.Ports
	guard *dom0.Dom0
}

func (v vifs) Secured(vif string, index int) error { return v.guard.PortSecured(vif, index) }

func (s *surroundings) Narrow(next *config.Config) error { return s.guard.Narrow(s.spec(next)) }

func (s *surroundings) Follow(cfg *config.Config) error {
	setLevel(s.level, cfg.Log)
	return s.guard.Update(s.spec(cfg))
}

// hangups reloads for each SIGHUP, but once for those that come while it does, and tells systemd (Type=notify-reload in systemd.service(5)). hup has
// room for one: what comes during a reload is not lost.
func hangups(ctx context.Context, r *router.Router, log *slog.Logger, hup <-chan os.Signal) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hup:
		}
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
			return fmt.Errorf("reading the clock: %w", err)
		}
		notify(log, fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000))
		status := "STATUS=reloaded"
		if err := r.Reload(); err != nil {
			status = "STATUS=the last reload failed, the router goes on with what it had"
		}
		notify(log, daemon.SdNotifyReady+"\n"+status)
	}
}

// hangupSignal is where SIGHUP goes.
func hangupSignal() (hup chan os.Signal, stop func()) {
	hup = make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	return hup, func() { signal.Stop(hup) }
}

// watchdog tells systemd that the router is alive, twice in the time after which it would be ended (WatchdogSec= in systemd.service(5)), as long as
// what forwards comes round.
func watchdog(ctx context.Context, r interface{ Alive(context.Context) error }, log *slog.Logger) error {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("reading WATCHDOG_USEC: %w", err)
	}
	if limit == 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(limit / 2)
	defer tick.Stop()
	for {
		wait, cancel := context.WithTimeout(ctx, limit/4)
		err := r.Alive(wait)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			notify(log, daemon.SdNotifyWatchdog)
		} else {
			log.Error("the watchdog is not told that the router is alive", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
