package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"udrouter/config"
	"udrouter/integration/dom0"
	"udrouter/integration/hotplug"
	"udrouter/router"
)

func vifCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "vif", Short: "Tell the router of guests' ports that come and go (for hotplug scripts), or list them", Args: cobra.NoArgs,
		Long: `Tell the router of guests' ports that come and go, or list them.

The scripts of Xen, libvirt and Proxmox call add and remove. What they tell is kept in the state directory: a router that starts
later, or again, knows it. Both may be called twice, and late: the younger interface counts.`,
	}
	c.AddCommand(vifAddCommand(), vifRemoveCommand(), vifListCommand(), vifBridgeCommand(), vifLibvirtCommand())
	return c
}

// vifFlags are what the commands about one vif have in common.
type vifFlags struct {
	at     config.Attachment
	state  string
	file   string
	socket string
	json   bool
}

// of are the flags that tell the router.
func (f *vifFlags) of(c *cobra.Command) {
	c.Flags().StringVar(&f.state, "state", defaultState, "the router's state directory")
	c.Flags().StringVarP(&f.file, "config", "c", defaultConfig, "the configuration, for the uplink, and for the bridge while no router runs")
	c.Flags().StringVar(&f.socket, "socket", defaultSocket, "the router's control socket")
}

func (f *vifFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.at.Vif, "vif", "", "the interface, such as vif1.0")
	c.Flags().StringVar(&f.at.Instance, "instance", "", "a word for this life of the guest's device: a remove with another one comes too late")
	c.Flags().BoolVar(&f.json, "json", false, "print JSON")
	f.of(c)
	required(c, "vif")
}

func vifAddCommand() *cobra.Command {
	var f vifFlags
	var o struct {
		bridge, rename string
		mtu            int
		ips            []string
	}
	c := &cobra.Command{
		Use: "add --vif VIF --mac MAC [--ip ADDRESS]... [--domain NAME]", Args: cobra.NoArgs,
		Short: "Bind a guest's port by the domu block that has its MAC, or by a template, and wait until it is secured",
		Long: `Bind a guest's port by the domu block that has its MAC, or by a template that matches the domain's name, and wait until it is secured.

Without a running router the port is locked and noted for the one that starts, and the status is 0. It is 1 when the router refuses the
port, which stays locked then.`,
		Example: `  udrouter vif add --vif vif1.0 --bridge xenbr0 --mac 00:16:3e:00:00:01 --ip 192.0.2.10 --domain one`,
		RunE: func(c *cobra.Command, _ []string) error {
			f.at.Addresses = words(o.ips)
			if err := f.notUplink(f.at.Vif, o.rename); err != nil {
				return err
			}
			if o.rename != "" {
				if err := dom0.Rename(o.rename, f.at.Vif); err != nil {
					return err
				}
			}
			var err error
			joins := o.bridge != ""
			if !joins {
				if o.bridge, err = f.bridge(); err != nil {
					return err
				}
			}
			if f.at.Index, err = dom0.LockPort(f.at.Vif, o.bridge, joins, o.mtu); err != nil {
				return err
			}
			store, err := hotplug.Open(f.state)
			if err != nil {
				return err
			}
			if err := store.Put(f.at); err != nil {
				return err
			}
			a, running, err := f.tell(c.Context())
			if err != nil {
				return err
			}
			if !running {
				a.Attachment, a.Text = f.at, "No router runs. The port is locked, and noted for when one does."
			}
			return f.print(c.OutOrStdout(), a, running)
		},
	}
	f.add(c)
	c.Flags().StringVar(&f.at.MAC, "mac", "", "the guest's MAC")
	c.Flags().StringArrayVar(&o.ips, "ip", nil, "addresses and prefixes from the domain's configuration, for guests of a template")
	c.Flags().StringVar(&f.at.Domain, "domain", "", "the domain's name, by which templates match")
	c.Flags().StringVar(&f.at.Guest, "guest", "", "who the domain is, in a word that nobody chooses who chooses its name, such as its UUID")
	c.Flags().IntVar(&f.at.Device, "device", 0, "which of the domain's interfaces it is")
	c.Flags().StringVar(&o.bridge, "bridge", "", "join this bridge, locked, and bring the interface up (default: it is a port of the router's bridge already)")
	c.Flags().IntVar(&o.mtu, "mtu", 0, "the interface's MTU in bytes (default, with --bridge: the bridge's)")
	c.Flags().StringVar(&o.rename, "rename", "", "give this interface the name first")
	required(c, "mac")
	return c
}

// notUplink refuses the interface that the configuration has as the uplink, if it can be read.
func (f *vifFlags) notUplink(names ...string) error {
	cfg, diags := config.Load(f.file)
	if diags.HasErrors() || !slices.Contains(names, cfg.Uplink.Name) {
		return nil
	}
	return fmt.Errorf("%s is the uplink in %s, and no guest's port", cfg.Uplink.Name, f.file)
}

// words are those of texts that separate them by spaces or commas, as toolstacks do.
func words(texts []string) (list []string) {
	for _, s := range texts {
		list = append(list, strings.FieldsFunc(s, func(c rune) bool { return c == ' ' || c == ',' || c == '\t' || c == '\n' })...)
	}
	return list
}

func vifRemoveCommand() *cobra.Command {
	var f vifFlags
	c := &cobra.Command{
		Use: "remove --vif VIF", Short: "Forget a guest's port, which passes nothing then", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			store, err := hotplug.Open(f.state)
			if err != nil {
				return err
			}
			was, err := store.Remove(f.at.Vif, f.at.Instance)
			if err != nil {
				return err
			}
			a, _, err := f.tell(c.Context())
			if err != nil {
				return err
			}
			if a.Vif = f.at.Vif; a.State == "" {
				a.Text = map[bool]string{true: "It is forgotten.", false: "It was not known."}[was]
			}
			return f.print(c.OutOrStdout(), a, false)
		},
	}
	f.add(c)
	return c
}

// tell has the running router, if there is one, go by what is noted, and asks what became of the vif.
func (f *vifFlags) tell(ctx context.Context) (a router.VifAnswer, running bool, err error) {
	const wait = time.Minute
	code, body, err := tell(ctx, f.socket, http.MethodPost, "/v1/vifs?vif="+url.QueryEscape(f.at.Vif), wait)
	switch {
	// One that is about to end may have taken the question.
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), unanswered(err):
		return a, false, nil
	case err != nil:
		return a, false, err
	case code == http.StatusForbidden:
		return a, false, errors.New("only root may tell the router of vifs")
	case code != http.StatusOK:
		return a, false, fmt.Errorf("the router answered %d", code)
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return a, false, fmt.Errorf("reading the answer: %w", err)
	}
	return a, true, nil
}

// print writes what became of a vif. Where it is to be bound, it is an error that it is not.
func (f *vifFlags) print(out io.Writer, a router.VifAnswer, bind bool) error {
	failed := bind && (a.Error != "" || a.State == "" || a.State == config.AttachRefused)
	if f.json {
		if err := json.NewEncoder(out).Encode(a); err != nil {
			return err
		}
		if failed {
			return errSaid
		}
		return nil
	}
	switch {
	case bind && a.State == "" && a.Error == "":
		return fmt.Errorf("%s: the router knows nothing of it: is its state directory another than %s (--state)?", a.Vif, f.state)
	case failed:
		return fmt.Errorf("%s: %s", a.Vif, strings.TrimSpace(cmp.Or(a.Error, a.Text)))
	}
	_, err := fmt.Fprintln(out, strings.TrimSpace(strings.Join([]string{a.Vif + ":", describe(a.Attached), a.Text, a.Error}, " ")))
	return err
}

// describe says what became of a vif.
func describe(a config.Attached) string {
	switch a.State {
	case config.AttachBound:
		return fmt.Sprintf("bound to domu %q (%s).", a.Domu, a.By)
	case config.AttachWaiting:
		return fmt.Sprintf("waits to be domu %q's.", a.Domu)
	}
	return string(a.State)
}

func printVifs(out io.Writer, list router.VifList) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "VIF\tMAC\tDOMAIN\tSTATE\tDOMU\tBY\tADDRESSES\n")
	for _, v := range list.Vifs {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", printable(v.Vif), printable(v.MAC), printable(v.Domain), v.State, v.Domu, v.By, printable(strings.Join(v.Addresses, " ")))
		if v.Text != "" {
			fmt.Fprintf(w, "\t%s\n", v.Text)
		}
	}
	return w.Flush()
}

func vifListCommand() *cobra.Command {
	var socket string
	var asJSON bool
	c := &cobra.Command{
		Use: "list", Short: "List the ports that hotplug has named to the running router, and what became of them", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			body, err := ask(c.Context(), socket, "/v1/vifs")
			if errors.Is(err, errForbidden) {
				return errors.New("only root may list the vifs: they have what the domains' configurations say")
			}
			if err != nil {
				return err
			}
			return show(c.OutOrStdout(), body, asJSON, printVifs)
		},
	}
	socketFlags(c, &socket, &asJSON)
	return c
}

// printable is what the domain's configuration says, for a terminal and a table: it may be a guest's owner who has written it.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return unicode.ReplacementChar
		}
		return c
	}, s)
}
