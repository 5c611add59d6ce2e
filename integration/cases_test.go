package integration

import (
	"testing"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/integration/wire"
)

// The rows that package router runs over simulated links, here over real ones, with dom0's kernel beside the router. All rows of a policy
// meet one router: what one has left behind is there for the next.
func TestCases(t *testing.T) {
	for _, enforced := range []bool{false, true} {
		src := cases.Open(config.Reference)
		if enforced {
			src = string(config.Reference)
		}
		var rows []cases.Case
		for _, c := range cases.All() {
			if c.Enforced == enforced {
				rows = append(rows, c)
			}
		}
		wire.New(t, src).RunAll(t, rows)
	}
}

// ARP on the uplink for guests of a proxied network.
func TestProxiedARP(t *testing.T) {
	wire.New(t, cases.Proxied(config.Reference)).RunAll(t, cases.ProxiedARP())
}
