package main

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"udrouter/integration/lab"
)

// talks are connections through the router, over which something is asked and answered all the time.
type talks struct {
	h      *host
	rounds []*atomic.Uint64
	err    chan error // of the first that ended by itself
}

// talk opens them between the first guest and the internet, of both families and directions.
func (h *host) talk() *talks {
	h.t.Helper()
	t := &talks{h: h, err: make(chan error, 1)}
	var g errgroup.Group
	var stop atomic.Bool
	guest, x := h.Guests[0].Node, h.Internet
	for _, ends := range [][2]*lab.Node{{guest, x}, {x, guest}} {
		from, to := ends[0], ends[1]
		_, err := to.ServeTCP(443)
		must(h.t, err)
		for _, addr := range []netip.Addr{to.Addr4(), to.Addr6()} {
			c, err := from.Open(testContext(h.t), netip.AddrPortFrom(addr, 443))
			must(h.t, err)
			n := new(atomic.Uint64)
			t.rounds = append(t.rounds, n)
			ctx := testContext(h.t)
			g.Go(func() error {
				for !stop.Load() {
					if err := c.Check(ctx); err != nil {
						err = errors.Join(fmt.Errorf("a connection to %s after %d rounds: %w", addr, n.Load(), err), c.Close())
						select {
						case t.err <- err:
						default:
						}
						return nil
					}
					n.Add(1)
				}
				return c.Close()
			})
		}
	}
	h.t.Cleanup(func() {
		stop.Store(true)
		must(h.t, g.Wait())
	})
	return t
}

// goOn fails unless each of them has an answer to something that was asked now.
func (t *talks) goOn(when string) {
	t.h.t.Helper()
	for _, n := range t.rounds {
		was := n.Load()
		must(t.h.t, lab.Await(testContext(t.h.t), "an answer "+when, func() (bool, error) {
			select {
			case err := <-t.err:
				return false, err
			default:
				return n.Load() > was+1, nil // one may have been asked before
			}
		}))
	}
}
