package router

import (
	"slices"
	"sync/atomic"

	"udrouter/config"
	"udrouter/policy"
)

// plan is what a file has been compiled to. It is immutable but for the state of guests, which is safe for concurrent use.
type plan struct {
	config   *config.Config
	bindings *policy.Bindings
	engine   *policy.Engine
	states   []*guestState // by ID
	nobody   *guestState   // for what no guest is behind
	nextSide policy.Side   // of the next guest that comes
}

// guestState is what the router remembers of a guest, for as long as the files have one of that name.
type guestState struct {
	limitSet
	guestPresence
	share
	solicits atomic.Bool // it has asked for a router advertisement
}

func newGuestState() *guestState { return &guestState{limitSet: newLimitSet()} }

// of is the state of a guest of this plan; nil is nobody.
func (pl *plan) of(g *policy.Guest) *guestState {
	if g == nil {
		return pl.nobody
	}
	return pl.states[g.ID]
}

func (wd *world) of(g *policy.Guest) *guestState { return wd.plan.of(g) }

// newPlan compiles a file. Guests of the same name as in the old plan, which is nil at the start, keep their state, counters and flows. A guest without
// a vif is bound all the same: its frames tell who it is.
func newPlan(cfg *config.Config, old *plan) (*plan, error) {
	pl := &plan{config: cfg, nextSide: policy.SideGuest, nobody: newGuestState()}
	known := map[string]*policy.Guest{}
	var before *policy.Engine
	if old != nil {
		pl.nextSide, pl.nobody, before = old.nextSide, old.nobody, old.engine
		for _, g := range old.bindings.Guests {
			known[g.Name] = g
		}
	}
	var networks []*policy.Network
	for _, n := range cfg.Networks {
		networks = append(networks, &policy.Network{Name: n.Name, Prefix: n.Prefix, Gateway: n.Gateway, Proxied: n.Upstream == config.Proxied, DHCP: n.DHCP != nil})
	}
	var guests []*policy.Guest
	for _, d := range cfg.Domus {
		g := &policy.Guest{Name: d.Name, Group: d.Template, Vif: d.Vif, MAC: d.MAC, Addrs: slices.Concat(d.IPv4, d.IPv6)}
		if was := known[d.Name]; was != nil {
			g.Side, g.Counters = was.Side, was.Counters
			pl.states = append(pl.states, old.of(was))
		} else {
			g.Side = pl.nextSide
			pl.nextSide++
			pl.states = append(pl.states, newGuestState())
		}
		guests = append(guests, g)
	}
	var err error
	if pl.bindings, err = policy.NewBindings(networks, guests); err != nil {
		return nil, err
	}
	pl.engine, err = newEngine(cfg, pl.bindings, before)
	return pl, err
}
