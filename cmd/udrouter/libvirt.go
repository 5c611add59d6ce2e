package main

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"udrouter/integration/libvirt"
)

func vifLibvirtCommand() *cobra.Command {
	var bridge string
	c := &cobra.Command{
		Use: "libvirt", Short: "List the interfaces of a libvirt domain, whose XML is on the standard input, for its hook", Args: cobra.NoArgs,
		Long: `List the interfaces of a libvirt domain, whose XML is on the standard input, for its hook.

A line each has the interface's number, device and MAC, the domain's UUID, and the addresses that its metadata has for the MAC. Interfaces that are
none of the router's bridge are named on the standard error, with the reason.`,
		RunE: func(c *cobra.Command, _ []string) error {
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
	c.Flags().StringVar(&bridge, "bridge", "", "the router's bridge (default: that of each interface of type bridge)")
	return c
}
