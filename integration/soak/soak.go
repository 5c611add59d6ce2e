package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"text/template"
	"time"

	"golang.org/x/sync/errgroup"

	"udrouter/config"
	"udrouter/integration/lab"
)

// comers is for how many guests of hotplug there is a place; the others stay.
const comers = 4

// The ports that are served: by the internet and by every guest.
const tcpPort, udpPort = 443, 5000

// patience is how long something may take that has to come in the end: a uplink that comes back, and then TCP's own timers.
const patience = 90 * time.Second

// soak is a network in which everything goes on.
type soak struct {
	options
	*lab.Lab
	proc      *lab.Proc
	conns     []*lab.Conn // of guests that behave, by number
	watch     *lab.MACWatch
	witnesses []witness // of forgeries
	progress  io.Writer
	started   time.Time

	comer [comers]*comer

	mu         sync.Mutex
	complaints []string
	samples    []sample
	done       map[string]*count
	traffic    map[string]*tries
	disturbed  disturbances
}

// count is how often something was done, and how often it came to nothing.
type count struct{ well, ill atomic.Uint64 }

func newSoak(ctx context.Context, o options, progress io.Writer) (*soak, error) {
	s := &soak{options: o, progress: progress, done: map[string]*count{}, traffic: map[string]*tries{}}
	src, err := s.source(false)
	if err != nil {
		return nil, err
	}
	cfg, diags := config.Parse("soak.hcl", src)
	if diags.HasErrors() {
		return nil, diags
	}
	s.say("building a network of %d guests", o.guests-comers)
	if s.Lab, err = lab.Build(ctx, cfg, lab.Options{Source: src}); err != nil {
		return nil, err
	}
	if err := s.begin(ctx); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// begin starts the router, and what the guests talk with.
func (s *soak) begin(ctx context.Context) (err error) {
	if s.proc, err = s.StartRouter(ctx, s.exe, "--confine=strict"); err != nil {
		return err
	}
	if s.watch, err = s.Gateway.WatchMACs(s.Gateway.Link, s.Dom0.MAC); err != nil {
		return err
	}
	if err := s.testify(); err != nil {
		return err
	}
	// A provider's router that gets another MAC tells everybody.
	for _, key := range []string{"ipv4.conf.%s.arp_notify", "ipv6.conf.%s.ndisc_notify"} {
		if err := s.Gateway.SetSysctl("net."+fmt.Sprintf(key, s.Gateway.Link), "1"); err != nil {
			return err
		}
	}
	servers := []*lab.Node{s.Internet, s.Dom0}
	for _, g := range s.Guests {
		servers = append(servers, g.Node)
	}
	for _, n := range servers {
		if _, err := n.ServeTCP(tcpPort); err != nil {
			return err
		}
		if err := n.ServeUDP(udpPort); err != nil {
			return err
		}
	}
	for i, g := range s.Guests {
		c, err := g.Open(ctx, netip.AddrPortFrom(pick(i%2 == 0, s.Internet), tcpPort))
		if err != nil {
			return err
		}
		s.conns = append(s.conns, c)
	}
	return nil
}

func pick(v6 bool, n *lab.Node) netip.Addr {
	if v6 {
		return n.Addr6()
	}
	return n.Addr4()
}

func (s *soak) close() error {
	var errs []error
	for _, c := range s.conns {
		errs = append(errs, c.Close())
	}
	for _, c := range s.comer {
		if c != nil {
			errs = append(errs, c.ns.Close())
		}
	}
	errs = append(errs, s.closeWitnesses())
	if s.watch != nil {
		errs = append(errs, s.watch.Close())
	}
	return errors.Join(append(errs, s.Lab.Close())...)
}

// run lets everything go on for as long as it shall, and sees in the end that all are served.
func (s *soak) run(ctx context.Context) error {
	s.started = time.Now()
	s.say("for %v, with seed %d", s.time, s.seed)
	limited, cancel := context.WithTimeout(ctx, s.time)
	defer cancel()
	g, limited := errgroup.WithContext(limited)
	for i := range talkers {
		g.Go(func() error { s.converse(limited, i); return nil })
		g.Go(func() error { s.mix(limited, s.random(10+i)); return nil })
	}
	g.Go(func() error { return s.forge(limited, s.random(1)) })
	g.Go(func() error { s.events(limited, s.random(2)); return nil })
	g.Go(func() error { return s.sampling(limited) })
	if err := g.Wait(); err != nil {
		return err
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	s.say("seeing that all are served")
	s.served(ctx)
	if err := s.sample(ctx); err != nil {
		return err
	}
	s.leaked()
	if seen := s.watch.Foreign(); len(seen) > 0 {
		s.complain("the provider's router has seen foreign MACs: %v", seen)
	}
	s.judge()
	return s.proc.Stop()
}

// random is a source of its own for one of those that draw.
func (s *soak) random(n int) *rand.Rand { return rand.New(rand.NewPCG(s.seed, uint64(n))) }

func (s *soak) say(format string, args ...any) {
	at := time.Duration(0)
	if !s.started.IsZero() {
		at = time.Since(s.started).Round(time.Second)
	}
	fmt.Fprintf(s.progress, "%v\t%s\n", at, fmt.Sprintf(format, args...))
}

// complain notes what did not hold.
func (s *soak) complain(format string, args ...any) {
	text := fmt.Sprintf("%v: %s", time.Since(s.started).Round(time.Second), fmt.Sprintf(format, args...))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.complaints = append(s.complaints, text)
	fmt.Fprintln(s.progress, "DOES NOT HOLD:", text)
}

// counted notes that something was done.
func (s *soak) counted(what string, err error) {
	s.mu.Lock()
	c := s.done[what]
	if c == nil {
		c = &count{}
		s.done[what] = c
	}
	s.mu.Unlock()
	c.add(err)
}

// source is the file; another one that admits as much has one rule more.
func (s *soak) source(another bool) ([]byte, error) {
	var b bytes.Buffer
	err := file.Execute(&b, map[string]any{"Guests": s.guests - comers, "Another": another, "Port": tcpPort})
	return b.Bytes(), err
}

var file = template.Must(template.New("soak.hcl").Funcs(template.FuncMap{"add": func(a, b int) int { return a + b }}).Parse(`uplink "eth0" {
  gateway4 = "192.0.1.1"
  gateway6 = "2001:db8:3:2::1"
}
bridge "xenbr0" {}
network "v4" {
  prefix   = "198.18.0.0/16"
  gateway  = "198.18.0.1"
  upstream = "routed"
}
network "v6" {
  prefix   = "2001:db8:3:2::/64"
  gateway  = "2001:db8:3:2:1::1"
  upstream = "proxied"
}
policy "soak" {
  egress {
    rule "no-smtp" {
      action = "reject"
      proto  = "tcp"
      ports  = [25]
    }
{{- if .Another}}
    rule "no-netbios" {
      action = "drop"
      proto  = "udp"
      ports  = ["137-139"]
    }
{{- end}}
  }
  ingress {
    default = "drop"
    rule "served" {
      action = "accept"
      proto  = "tcp"
      ports  = [{{.Port}}]
    }
    rule "datagrams" {
      action = "accept"
      proto  = "udp"
      ports  = [5000]
    }
    rule "ping" {
      action = "accept"
      proto  = "icmp"
    }
    rule "ping6" {
      action = "accept"
      proto  = "icmpv6"
    }
  }
  limits {
    flows = 4096
  }
}
{{- range $i := .Guests}}
domu "g{{$i}}" {
  vif    = "vif{{add $i 1}}.0"
  mac    = "{{printf "00:16:3e:00:01:%02x" $i}}"
  ipv4   = ["198.18.1.{{add $i 1}}"]
  ipv6   = ["{{printf "2001:db8:3:2:1::%x" (add $i 16)}}"]
  policy = "soak"
}
{{- end}}
domu "come" {
  match  = "come-*"
  policy = "soak"
}
host {
  ingress {
    default = "accept"
  }
}
`))
