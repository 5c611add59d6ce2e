package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"udrouter/integration/lab"
)

// contestant is a router of dom0 with a lab of its own.
type contestant struct {
	name   string
	kernel *lab.KernelOptions // nil: a program
	exe    string             // of a program
	args   []string           // beyond those that lab.StartRouter gives
	shape  shape

	flows, senders int // that the packet rate is measured with

	lab  *lab.Lab
	proc *lab.Proc // nil: the kernel
}

// program is a build of the router under a name.
type program struct{ name, path string }

// base is what every figure is held against: the kernel that does what the program does.
const base = "kernel+nft"

// tierName marks a program that has the kernel forward what it has decided.
const tierName = "+ebpf"

// contestants are all of a run. Another way of running the program is one more entry.
func contestants(programs []program) []*contestant {
	cs := []*contestant{
		{name: "kernel", kernel: &lab.KernelOptions{Isolate: true}},
		{name: base, kernel: &lab.KernelOptions{Isolate: true, Bind: true}},
	}
	for _, p := range programs {
		cs = append(cs, &contestant{name: p.name, exe: p.path}, &contestant{name: p.name + tierName, exe: p.path, args: []string{"--offload"}})
	}
	for _, c := range cs {
		c.shape, c.flows, c.senders = usual, usualFlows, 1
	}
	return cs
}

// up builds the contestant's lab and has it route. After an error nothing is left.
func (c *contestant) up(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 3*time.Minute, errors.New("it takes more than 3 minutes"))
	defer cancel()
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("setting up %s: %w", c.name, err), c.down())
		}
	}()
	cfg, src, err := c.shape.config()
	if err != nil {
		return err
	}
	if c.lab, err = lab.Build(ctx, cfg, lab.Options{Source: src}); err != nil {
		return err
	}
	if c.kernel != nil {
		err = c.lab.KernelRouter(*c.kernel)
	} else {
		c.proc, err = c.lab.StartRouter(ctx, c.exe, c.args...)
	}
	if err != nil {
		return err
	}
	if err := c.listen(); err != nil {
		return err
	}
	if err := c.meet(ctx); err != nil {
		return err
	}
	if c.kernel != nil && !c.kernel.Bind {
		return nil
	}
	return c.refuses(ctx)
}

// allUp has them all route, on a machine that holds them.
func allUp(ctx context.Context, cs []*contestant, m *machine, progress io.Writer) error {
	if err := m.raise(moreNeighbours); err != nil {
		return err
	}
	for _, c := range cs {
		fmt.Fprintln(progress, "setting up", c.name)
		if err := c.up(ctx); err != nil {
			return err
		}
	}
	return m.raise(moreConnections) // conntrack is there when somebody has rules for it
}

func allDown(cs []*contestant) error {
	var errs []error
	for _, c := range cs {
		errs = append(errs, c.down())
	}
	return errors.Join(errs...)
}

// listen has every end of the measures answer, or keep quiet, as they want it.
func (c *contestant) listen() error {
	for _, n := range []*lab.Node{c.lab.Internet, c.lab.Guests[0].Node} {
		if _, err := n.ServeTCP(tcpPort); err != nil {
			return err
		}
	}
	if err := c.swallow(); err != nil {
		return err
	}
	// The fewer ports there are, the sooner a new connection has the ports of one that is not yet forgotten.
	for _, n := range []*lab.Node{c.lab.Internet, c.lab.Guests[0].Node} {
		if err := n.SetSysctl("net.ipv4.ip_local_port_range", "1024 65535"); err != nil {
			return err
		}
	}
	for _, g := range c.lab.Guests {
		if err := ignoreUDP(g.NS); err != nil {
			return err
		}
	}
	return nil
}

// meet has each guest and the internet exchange a packet in both families, so that every neighbour on the way is known.
func (c *contestant) meet(ctx context.Context) error {
	for _, g := range c.lab.Guests {
		for _, f := range []family{ipv4, ipv6} {
			if _, err := g.Ping(ctx, f.of(c.lab.Internet), lab.PingOptions{Every: time.Second}); err != nil {
				return err
			}
		}
	}
	return nil
}

// knows fails when the contestant tracks fewer than so many flows: then it was measured at something else.
func (c *contestant) knows(ctx context.Context, flows int) error {
	var n int
	switch {
	case c.proc != nil:
		s, err := c.proc.Status(ctx)
		if err != nil {
			return err
		}
		n = int(s.Flows.Active)
	case c.kernel.Bind:
		text, err := c.lab.Dom0.Sysctl("net.netfilter.nf_conntrack_count")
		if err != nil {
			return err
		}
		if n, err = strconv.Atoi(text); err != nil {
			return err
		}
	default:
		return nil
	}
	if n < flows {
		return fmt.Errorf("of %d flows it knows %d", flows, n)
	}
	return nil
}

// down leaves nothing of what up made. It may be called twice.
func (c *contestant) down() error {
	if c.lab == nil {
		return nil
	}
	var err error
	if c.proc != nil {
		err = c.proc.Stop() // so that it writes its profile
	}
	err = errors.Join(err, c.lab.Close())
	c.lab, c.proc = nil, nil
	if err != nil {
		return fmt.Errorf("taking down %s: %w", c.name, err)
	}
	return nil
}
