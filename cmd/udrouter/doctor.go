package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"udrouter/config"
	"udrouter/integration/doctor"
)

const defaultConfig = "/etc/udrouter/router.hcl"

func doctorCommand() *cobra.Command {
	var file, state, socket string
	var asJSON bool
	c := &cobra.Command{
		Use: "doctor", Short: "Find what on this machine is in the router's way, and say what to do", Args: cobra.NoArgs,
		Long: `Find what on this machine is in the router's way, and say what to do. It changes nothing. The exit status is 1 when there is a problem,
and 0 when there are warnings alone, which may be meant.`,
		RunE: func(c *cobra.Command, _ []string) error {
			o := doctor.Options{ConfigFile: file, StateDir: state}
			if _, err := os.Stat(defaultConfig); file == "" && err == nil {
				o.ConfigFile = defaultConfig
			}
			if o.ConfigFile != "" {
				cfg, diags := config.Load(o.ConfigFile)
				if o.Invalid = diags.HasErrors(); !o.Invalid {
					o.Config = cfg
				}
			}
			if socket == "" {
				socket = defaultSocket
				if o.Config != nil {
					socket = o.Config.Control.Socket
				}
			}
			s, err := askStatus(c.Context(), socket)
			o.Router = doctor.Router{Err: err, ForeignMAC: s.ForeignMAC, Warnings: s.Warnings}
			findings, err := doctor.Run(o)
			if e := showFindings(c, o, findings, asJSON); e != nil {
				return e
			}
			if err != nil {
				return err
			}
			for _, f := range findings {
				if f.Severity == doctor.Problem {
					return errSaid
				}
			}
			return nil
		},
	}
	c.Flags().StringVarP(&file, "config", "c", "", "the configuration (default: "+defaultConfig+", if it exists)")
	c.Flags().StringVar(&state, "state", "/run/udrouter", "the directory that run was given as --state")
	c.Flags().StringVar(&socket, "socket", "", "the router's control socket (default: the configuration's)")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// doctorReport is what `udrouter doctor --json` prints. Fields are only ever added.
type doctorReport struct {
	Findings []doctor.Finding `json:"findings"`
}

func showFindings(c *cobra.Command, o doctor.Options, findings []doctor.Finding, asJSON bool) error {
	out := c.OutOrStdout()
	if asJSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(doctorReport{findings})
	}
	for _, f := range findings {
		if _, err := fmt.Fprintln(out, f); err != nil {
			return err
		}
	}
	what := "nothing is in the way"
	if len(findings) > 0 {
		what = fmt.Sprintf("%d findings", len(findings))
	}
	if o.Config == nil {
		what += "; without a configuration (-c) only some of it was looked at"
	}
	_, err := fmt.Fprintln(out, what)
	return err
}
