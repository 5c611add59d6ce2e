package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/spf13/cobra"

	"udrouter/config"
	"udrouter/policy"
	"udrouter/router"
)

func explainCommand() *cobra.Command {
	var file string
	var o struct {
		from, src, dst, proto string
		port                  uint16
		json                  bool
	}
	c := &cobra.Command{
		Use: "explain -c FILE --from uplink|host|domu:NAME [--src A] --dst A --proto P [--port N]", Args: cobra.NoArgs,
		Short: "Tell what becomes of a packet, and which guard, binding, rule or default decides",
		Long: `Tell what becomes of a packet, and which guard, binding, rule or default decides.

The packet is the first of a flow: a TCP SYN, a UDP datagram, an echo request. The file alone is looked at, not the machine.
The status is 0 whatever the verdict.`,
		Example: `  udrouter explain -c router.hcl --from uplink --dst 192.0.2.10 --proto tcp --port 22
  udrouter explain -c router.hcl --from domu:one --dst domu:two --proto icmpv6`,
		RunE: func(c *cobra.Command, _ []string) error {
			q, err := question(o.from, o.src, o.dst, o.proto, o.port)
			if err != nil {
				return err
			}
			cfg, err := load(file, c.ErrOrStderr())
			if err != nil {
				return err
			}
			e, err := router.NewExplainer(cfg)
			if err != nil {
				return err
			}
			answers, err := e.Explain(q)
			if err != nil {
				return err
			}
			out := c.OutOrStdout()
			for _, a := range answers {
				if !o.json {
					_, err = fmt.Fprintln(out, a)
				} else {
					enc := json.NewEncoder(out)
					enc.SetIndent("", "  ")
					err = enc.Encode(a)
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	configFlag(c, &file)
	c.Flags().StringVar(&o.from, "from", "", `who sends: "uplink", "host" or "domu:NAME"`)
	c.Flags().StringVar(&o.src, "src", "", "its address (default: the sender's own)")
	c.Flags().StringVar(&o.dst, "dst", "", `the destination: an address, or "host" or "domu:NAME" for their own`)
	c.Flags().StringVar(&o.proto, "proto", "", `"tcp", "udp", "icmp", "icmpv6" or a protocol number`)
	c.Flags().Uint16Var(&o.port, "port", 0, "the destination port, of tcp and udp")
	c.Flags().BoolVar(&o.json, "json", false, "print JSON, an object for each family that the destination's name stands for")
	for _, name := range []string{"from", "dst", "proto"} {
		required(c, name)
	}
	_ = c.RegisterFlagCompletionFunc("from", completePeers(&file, "uplink")) // it errs for a flag that is not there
	_ = c.RegisterFlagCompletionFunc("dst", completePeers(&file))
	_ = c.RegisterFlagCompletionFunc("proto", completeFixed("tcp", "udp", "icmp", "icmpv6")(nil))
	return c
}

// completePeers completes some words, and who is in the file: dom0, where guests may meet it, and the guests.
func completePeers(file *string, words ...string) cobra.CompletionFunc {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		cfg, diags := config.Load(*file)
		if diags.HasErrors() {
			return words, cobra.ShellCompDirectiveNoFileComp
		}
		list := slices.Clone(words)
		if cfg.Host != nil {
			list = append(list, "host")
		}
		for _, d := range cfg.Domus {
			list = append(list, "domu:"+d.Name)
		}
		return list, cobra.ShellCompDirectiveNoFileComp
	}
}

// question reads explain's flags.
func question(from, src, dst, proto string, port uint16) (q policy.Question, err error) {
	var errs []error
	add := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	var ok bool
	if q.From, ok = policy.ParsePeer(from); !ok {
		add(fmt.Errorf("--from takes uplink, host or domu:NAME, not %q", from))
	}
	if src != "" {
		q.Src, err = address("--src takes an IPv4 or IPv6 address", src)
		add(err)
	}
	if q.To, ok = policy.ParsePeer(dst); !ok || q.To.Kind == policy.PeerUplink {
		q.To = policy.Peer{}
		q.Dst, err = address("--dst takes an IPv4 or IPv6 address, host or domu:NAME", dst)
		add(err)
	}
	q.Proto, err = protocol(proto)
	add(err)
	hasPorts := policy.RulePorts(q.Proto)
	switch {
	case hasPorts && port == 0:
		add(fmt.Errorf("a packet of %s goes to a port: --port N", proto))
	case !hasPorts && port != 0 && err == nil:
		add(fmt.Errorf("%s has no ports: leave --port out", proto))
	}
	q.Port = port
	return q, errors.Join(errs...)
}

// address reads an address; IPv4 may not hide in IPv6, and an interface means nothing here.
func address(takes, s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Is4In6() || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%s, not %q", takes, s)
	}
	return a, nil
}

func protocol(s string) (int, error) {
	n, ok := policy.ParseProtoOrNumber(s)
	if !ok {
		return 0, fmt.Errorf("--proto takes tcp, udp, icmp, icmpv6 or a number from 0 to 255, not %q", s)
	}
	return n, nil
}
