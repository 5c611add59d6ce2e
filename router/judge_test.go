package router

import (
	"slices"
	"testing"

	"udrouter/integration/cases"
	"udrouter/policy"
)

// A router that drops what is right is found, whatever reason it gives, and one that gives none.
func TestJudge(t *testing.T) {
	n := cases.Net{Router: policy.MAC{2, 0, 0, 0, 0, 1}, Eth0: eth0MAC, Gateway: gatewayMAC, UplinkLL: policy.EUI64(policy.MAC{2, 0, 0, 0, 0, 9})}
	for name, c := range map[string]struct {
		from  cases.Place
		frame []byte
		to    string
	}{
		"a datagram, up":       {cases.One, cases.UDP(n.Router, cases.MAC1, cases.One4, cases.X4, 8), "to uplink"},
		"the same in IPv6":     {cases.Two, cases.UDP(n.Router, cases.MAC2, cases.Two6, cases.X6, 8), "to uplink"},
		"an echo, down":        {cases.Uplink, cases.Echo(n.Eth0, n.Gateway, cases.X4, cases.One4, false, 8), "to one"},
		"the same in IPv6, ":   {cases.Uplink, cases.Echo(n.Eth0, n.Gateway, cases.X6, cases.One6, false, 8), "to one"},
		"from guest to guest":  {cases.One, cases.UDP(n.Router, cases.MAC1, cases.One4, cases.Two4, 8), "to two"},
		"an echo to a gateway": {cases.One, cases.Echo(n.Router, cases.MAC1, cases.One4, cases.Router4, false, 8), "echo reply"},
		"to the provider":      {cases.Two, cases.Echo(n.Router, cases.MAC2, cases.Two6, cases.Gateway6, false, 8), "to uplink"},
	} {
		x := read(c.from, n, c.frame)
		if list := x.reasons(); len(list) > 0 {
			t.Errorf("%s: %v would be true", name, list)
		}
		if why := judge(x, c.to, c.to, nil); why != "the same" {
			t.Errorf("%s: what both do alike is %q", name, why)
		}
		for r := range policy.Reason(policy.Reasons) {
			counted := map[policy.Reason]uint64{r: 1}
			if r == policy.None {
				counted = nil
			}
			for _, kernels := range []string{c.to, "nothing"} {
				if why := judge(x, "nothing", kernels, counted); why != "" && (kernels == c.to || r != policy.None) {
					t.Errorf("%s: that it is dropped for %v passes as %q, when the kernel has %s", name, r, why, kernels)
				}
			}
		}
		// What must not go on does not, nor is it answered, though the kernel does alike.
		for r := policy.None + 1; r < policy.Reason(policy.Reasons); r++ {
			x.is = map[policy.Reason]bool{r: true}
			for _, both := range []string{"to one", "to two", "to uplink", "to dom0", "ARP answer", "echo reply", "advertisement"} {
				if why := judge(x, both, both, nil); (why == "") == slices.Contains(answered[both], r) {
					t.Errorf("%s: %q passes as %q, when by the RFCs it is %v", name, both, why, r)
				}
			}
			if why := judge(x, "error 3/1", "error 3/1", nil); (why == "") != slices.Contains(silent, r) {
				t.Errorf("%s: an error about it passes as %q, when by the RFCs it is %v", name, why, r)
			}
		}
		x.is = nil
		if why := judge(x, "error 11/0", c.to, nil); why != "" {
			t.Errorf("%s: an error about it passes as %q", name, why)
		}
	}
	// A question that is due an answer, and gets none; and an answer that nobody is due.
	for name, c := range map[string]struct {
		frame []byte
		ours  string
	}{
		"a gateway that is not answered for":   {frame: cases.ARP(policy.BroadcastMAC, cases.MAC1, 1, cases.MAC1, cases.One4, policy.MAC{}, cases.Router4), ours: "heard"},
		"a neighbour that is not answered for": {frame: cases.NS(policy.MulticastMAC(policy.SolicitedNode(cases.Two6)), cases.MAC1, cases.One6, policy.SolicitedNode(cases.Two6), cases.Two6, cases.MAC1), ours: "heard"},
		"nobody's address":                     {frame: cases.ARP(policy.BroadcastMAC, cases.MAC1, 1, cases.MAC1, cases.One4, policy.MAC{}, cases.Unbound4), ours: "ARP answer"},
		"its own address":                      {frame: cases.ARP(policy.BroadcastMAC, cases.MAC1, 1, cases.MAC1, cases.One4, policy.MAC{}, cases.One4), ours: "ARP answer"},
	} {
		if why := judge(read(cases.One, n, c.frame), c.ours, "nothing", nil); why != "" {
			t.Errorf("%s: passes as %q", name, why)
		}
	}
}
