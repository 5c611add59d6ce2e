package main

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"udrouter/config"
	"udrouter/integration/dom0"
	"udrouter/integration/libvirt"
)

// bridge is the one of the router that runs, or of the configuration while none does.
func (f *vifFlags) bridge() (string, error) {
	running, _, err := dom0.Look(f.state)
	if err != nil {
		return "", err
	}
	if running != nil && running.Bridge != "" {
		return running.Bridge, nil
	}
	cfg, diags := config.Load(f.file)
	if diags.HasErrors() {
		return "", fmt.Errorf("no router runs, and %s, which would have its bridge, cannot be read: mend it, or name the bridge (--bridge, UDROUTER_BRIDGE)", f.file)
	}
	return cfg.Bridge.Name, nil
}

func vifBridgeCommand() *cobra.Command {
	var f vifFlags
	c := &cobra.Command{
		Use: "bridge", Short: "Print the router's bridge, by the one that runs or else by the configuration (for hooks)", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			bridge, err := f.bridge()
			if err == nil {
				_, err = fmt.Fprintln(c.OutOrStdout(), bridge)
			}
			return err
		},
	}
	f.of(c)
	return c
}

func vifLibvirtCommand() *cobra.Command {
	var f vifFlags
	var bridge string
	c := &cobra.Command{
		Use: "libvirt", Short: "List the interfaces of a libvirt domain, whose XML is on the standard input, for its hook", Args: cobra.NoArgs,
		Long: `List the interfaces of a libvirt domain, whose XML is on the standard input, for its hook.

A line each has the interface's number, device and MAC, the domain's UUID, and the addresses that its metadata has for the MAC. Interfaces that are
none of the router's bridge are named on the standard error, with the reason.`,
		RunE: func(c *cobra.Command, _ []string) error {
			var err error
			if bridge == "" {
				if bridge, err = f.bridge(); err != nil {
					return err
				}
			}
			d, err := libvirt.Read(c.InOrStdin(), bridge)
			if err != nil {
				return err
			}
			for _, i := range d.Interfaces {
				if i.Over != "" {
					fmt.Fprintf(c.ErrOrStderr(), "udrouter: passed over interface %d (%s, %s): %s\n", i.Number, printable(cmp.Or(i.MAC, "no MAC")), printable(cmp.Or(i.Device, "no device")), printable(i.Over))
					continue
				}
				words := append([]string{fmt.Sprint(i.Number), i.Device, i.MAC, d.UUID}, i.Addresses...)
				if _, err := fmt.Fprintln(c.OutOrStdout(), strings.Join(words, " ")); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&bridge, "bridge", "", "the router's bridge (default: that of the router that runs, or of the configuration)")
	f.of(c)
	return c
}
