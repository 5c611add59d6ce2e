package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// Over TCP so many bytes go each way: more than one segment, and little against any bandwidth limit.
const shownTransfer = 64 << 10

// A lost packet does not fail a check that is about something else: pings are repeated so often.
const askAgain = 500 * time.Millisecond

// reach shows who reaches whom.
func (s *show) reach() {
	s.group(fmt.Sprintf("Who reaches whom (TCP carries %d KiB each way)", shownTransfer>>10))
	x := s.Internet
	for _, g := range s.shown() {
		name := g.Name()
		s.check("ping: "+name+" to the internet", func(ctx context.Context) (string, error) {
			return families(g.Node, x, func(from, to netip.Addr) (string, error) {
				return s.ping(ctx, g.Node, guestParty(g, from), s.internet(to), 0)
			})
		})
		s.check("ping: the internet to "+name, func(ctx context.Context) (string, error) {
			return families(x, g.Node, func(from, to netip.Addr) (string, error) {
				return s.ping(ctx, x, s.internet(from), guestParty(g, to), 0)
			})
		})
		s.check("ping, 4000 bytes: "+name+" to the internet", func(ctx context.Context) (string, error) {
			return families(g.Node, x, func(from, to netip.Addr) (string, error) {
				return s.ping(ctx, g.Node, guestParty(g, from), s.internet(to), 4000)
			})
		})
		s.check("TCP: "+name+" to the internet", func(ctx context.Context) (string, error) {
			return families(g.Node, x, func(from, to netip.Addr) (string, error) {
				return s.tcp(ctx, g.Node, x, guestParty(g, from), s.internet(to))
			})
		})
		s.check("TCP: the internet to "+name, func(ctx context.Context) (string, error) {
			return families(x, g.Node, func(from, to netip.Addr) (string, error) {
				return s.tcp(ctx, x, g.Node, s.internet(from), guestParty(g, to))
			})
		})
	}
	for i, b := range s.shown() {
		if i > 0 {
			s.pair(s.Guests[i-1], b)
		}
	}
	s.others()
	s.host()
}

// pair shows two guests that reach each other.
func (s *show) pair(a, b *Guest) {
	s.check("ping: "+a.Name()+" to "+b.Name(), func(ctx context.Context) (string, error) {
		return families(a.Node, b.Node, func(from, to netip.Addr) (string, error) {
			return s.ping(ctx, a.Node, guestParty(a, from), guestParty(b, to), 0)
		})
	})
	s.check("TCP: "+a.Name()+" to "+b.Name(), func(ctx context.Context) (string, error) {
		return families(a.Node, b.Node, func(from, to netip.Addr) (string, error) {
			return s.tcp(ctx, a.Node, b.Node, guestParty(a, from), guestParty(b, to))
		})
	})
}

// others shows that the guests which are not shown in full reach the internet too.
func (s *show) others() {
	rest := s.Guests[len(s.shown()):]
	if len(rest) == 0 {
		return
	}
	s.check(fmt.Sprintf("ping: %d more guests to the internet", len(rest)), func(ctx context.Context) (string, error) {
		var all errgroup.Group
		all.SetLimit(16)
		for _, g := range rest {
			all.Go(func() error {
				_, err := families(g.Node, s.Internet, func(from, to netip.Addr) (string, error) {
					return s.ping(ctx, g.Node, guestParty(g, from), s.internet(to), 0)
				})
				var skip notShown
				if err != nil && !errors.As(err, &skip) {
					return fmt.Errorf("%s: %w", g.Name(), err)
				}
				return nil
			})
		}
		return "all that may", all.Wait()
	})
}

// host shows dom0: its own way out, and to the guests.
func (s *show) host() {
	x, dom0 := s.Internet, s.Dom0
	s.check("ping: dom0 to the internet", func(ctx context.Context) (string, error) {
		return families(dom0, x, func(from, to netip.Addr) (string, error) {
			return s.ping(ctx, dom0, s.dom0(from), s.internet(to), 0)
		})
	})
	s.check("TCP: dom0 to the internet", func(ctx context.Context) (string, error) {
		return families(dom0, x, func(from, to netip.Addr) (string, error) {
			return s.tcp(ctx, dom0, x, s.dom0(from), s.internet(to))
		})
	})
	s.check("TCP: dom0 opens what is to last", func(ctx context.Context) (string, error) {
		return families(dom0, x, func(_, to netip.Addr) (string, error) {
			if _, err := x.ServeTCP(443); err != nil {
				return "", err
			}
			c, err := dom0.Open(ctx, netip.AddrPortFrom(to, 443))
			if err != nil {
				return "", err
			}
			s.mu.Lock()
			s.open = append(s.open, c)
			s.closer = append(s.closer, c.Close)
			s.mu.Unlock()
			return "open", c.Check(ctx)
		})
	})
	if s.Config.Host == nil {
		s.line("TCP: dom0 to the guests", "", notShown("without a host block guests and dom0 do not meet"))
		return
	}
	for _, g := range s.shown() {
		s.check("TCP: dom0 to "+g.Name(), func(ctx context.Context) (string, error) {
			return families(dom0, g.Node, func(from, to netip.Addr) (string, error) {
				return s.tcp(ctx, dom0, g.Node, s.dom0(from), guestParty(g, to))
			})
		})
	}
}

// ping is one family's part of a check.
func (s *show) ping(ctx context.Context, n *Node, from, to party, size int) (string, error) {
	proto := protoICMPv6
	if to.addr.Is4() {
		proto = protoICMP
	}
	if !s.allows(from, to, proto, 0) {
		return "", notShown("the policy accepts no ping")
	}
	ctx, cancel := s.patience(ctx, from, to)
	defer cancel()
	e, err := n.Ping(ctx, to.addr, PingOptions{Size: size, Every: askAgain})
	var said *ICMPError
	if errors.As(err, &said) && said.MTU != 0 {
		e, err = n.Ping(ctx, to.addr, PingOptions{Size: size, Every: askAgain}) // its kernel knows now how large the pieces may be
	}
	if err != nil {
		s.setDead(from, to)
		return "", err
	}
	text := short(e.RTT)
	if e.Sent > 1 {
		text += fmt.Sprintf(" (%d requests)", e.Sent)
	}
	return text, nil
}

// way is a direction between two addresses.
type way struct{ from, to netip.Addr }

// On a way that has failed a check before, the next one fails after this time.
const impatience = 300 * time.Millisecond

// patience bounds how long a check waits for something on a way.
func (s *show) patience(ctx context.Context, from, to party) (context.Context, context.CancelFunc) {
	if s.isDead(from, to) {
		return context.WithTimeoutCause(ctx, impatience, errors.New("no success either"))
	}
	return context.WithCancel(ctx)
}

// setDead remembers that nothing comes through on a way, so that it is not waited for again.
func (s *show) setDead(from, to party) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dead[way{from.addr, to.addr}] = true
}

func (s *show) isDead(from, to party) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dead[way{from.addr, to.addr}]
}

// tcp is one family's part of a check: bytes both ways with their checksums.
func (s *show) tcp(ctx context.Context, n, server *Node, from, to party) (string, error) {
	port, ok := s.port(from, to, protoTCP, true)
	if !ok {
		return "", notShown("the policy accepts no TCP")
	}
	if _, err := server.ServeTCP(int(port)); err != nil {
		return "", err
	}
	ctx, cancel := s.patience(ctx, from, to)
	defer cancel()
	if err := n.Transfer(ctx, netip.AddrPortFrom(to.addr, port), shownTransfer); err != nil {
		s.setDead(from, to)
		return "", err
	}
	return fmt.Sprintf("port %d", port), nil
}

// paths shows that a guest's packets meet its network's gateway and then the upstream router.
func (s *show) paths() {
	s.group("The way")
	for _, g := range s.shown() {
		s.check("trace: "+g.Name()+" to the internet", func(ctx context.Context) (string, error) {
			return families(g.Node, s.Internet, func(from, to netip.Addr) (string, error) {
				return s.trace(ctx, g, from, to)
			})
		})
	}
}

func (s *show) trace(ctx context.Context, g *Guest, from, to netip.Addr) (string, error) {
	n, icmp := g.Net6, protoICMPv6
	if to.Is4() {
		n, icmp = g.Net4, protoICMP
	}
	if n == nil {
		return "", notShown("its network has no gateway")
	}
	o := TraceOptions{Source: from, Max: 5}
	if !s.allows(guestParty(g, from), s.internet(to), icmp, 0) {
		o.UDP = true
		for port := uint16(33435); port < 33438; port++ {
			if !s.allows(guestParty(g, from), s.internet(to), protoUDP, port) {
				return "", notShown("the policy accepts no trace")
			}
		}
	}
	ctx, cancel := s.patience(ctx, guestParty(g, from), s.internet(to))
	defer cancel()
	hops, err := g.Trace(ctx, to, o)
	if err != nil {
		return "", err
	}
	var names []string
	for _, h := range hops {
		if h.IsValid() {
			names = append(names, h.String())
		} else {
			names = append(names, "*")
		}
	}
	text := strings.Join(names, " ")
	switch {
	case len(hops) != 3 || hops[2] != to:
		return "", fmt.Errorf("expected two routers and %s, got %s", to, text)
	case hops[0] != n.Gateway && !(n.Gateway.IsLinkLocalUnicast() && !s.Gateway.Has(hops[0])):
		// A router with a link-local address here may well report errors from a global one.
		return "", fmt.Errorf("the first hop is not the network's gateway %s: %s", n.Gateway, text)
	case !s.Gateway.Has(hops[1]):
		return "", fmt.Errorf("the second hop is not the upstream router's: %s", text)
	}
	return text, nil
}
