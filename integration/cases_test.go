package integration

import (
	"bytes"
	"maps"
	"testing"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/integration/lab"
	"udrouter/policy"
)

func (w *wire) run(t *testing.T, c cases.Case) {
	w.t = t
	for _, b := range c.Before {
		must(t, w.send[b.From].Send(b.Frame(w.net)))
		w.passed(b.From)
	}
	before := status(t, w.proc).Drops
	for _, p := range places {
		w.take(p)
	}
	frame := c.Frame(w.net)
	must(t, w.send[c.From].Send(frame))
	for _, f := range c.Then {
		must(t, w.send[f.From].Send(f.Frame(w.net)))
	}
	w.settle(c.From)
	want := map[cases.Place][][]byte{}
	for _, o := range c.Out {
		want[o.At] = append(want[o.At], o.Frame(w.net))
	}
	for _, p := range places {
		got := w.take(p)
		if c.Kernel && p == c.From {
			if len(got) != 1 {
				t.Errorf("%s: dom0's kernel answers once, but %d answers came", c.Ref, len(got))
			}
			continue
		}
		for i := range max(len(got), len(want[p])) {
			switch {
			case i >= len(want[p]):
				t.Errorf("%s: at %s unexpected %x", c.Ref, p, got[i])
			case i >= len(got):
				t.Errorf("%s: at %s missing %x", c.Ref, p, want[p][i])
			case !bytes.Equal(anyID(got[i]), anyID(want[p][i])):
				t.Errorf("%s: at %s\n got %x\nwant %x", c.Ref, p, got[i], want[p][i])
			}
		}
	}
	wantDrops := map[string]uint64{}
	// A frame with another's source MAC dies in the bridge already, and the router has nothing to count.
	if mac := policy.MAC(frame[6:12]); c.Reason != policy.None && !c.Bridge && (c.From == cases.Uplink || mac == cases.MAC1 && c.From == cases.One || mac == cases.MAC2 && c.From == cases.Two) {
		wantDrops[c.Reason.String()] = c.Counts()
	}
	got := map[string]uint64{}
	for reason, n := range status(t, w.proc).Drops {
		if n -= before[reason]; n > 0 {
			got[reason] = n
		}
	}
	if !maps.Equal(got, wantDrops) {
		t.Errorf("%s: counted %v, want %v", c.Ref, got, wantDrops)
	}
}

// anyID takes out the identification that netstack gives an echo reply: it may be anything.
func anyID(f []byte) []byte {
	if len(f) < 35 || f[12] != 8 || f[13] != 0 || f[23] != policy.ProtoICMP || f[34] != 0 {
		return f
	}
	f = bytes.Clone(f)
	f[18], f[19], f[24], f[25] = 0, 0, 0, 0
	return f
}

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
		newWire(t, src).runAll(t, rows)
	}
}

// ARP on the uplink for guests of a proxied network.
func TestProxiedARP(t *testing.T) {
	newWire(t, cases.Proxied(config.Reference)).runAll(t, cases.ProxiedARP())
}

func (w *wire) runAll(t *testing.T, rows []cases.Case) {
	w.announced()
	for _, c := range rows {
		t.Run(c.Name, func(t *testing.T) { w.run(t, c) })
	}
	w.t = t
	w.canary()
	if s := status(t, w.proc); s.ForeignMAC != 0 || s.Drops[policy.Internal.String()] != 0 {
		t.Errorf("foreign MACs %d, drops %v", s.ForeignMAC, s.Drops)
	}
}

// announced waits until guest one was announced three times: an answer to somebody's DAD for its address looks the same.
func (w *wire) announced() {
	n := 0
	if _, err := w.seen[cases.Uplink].AwaitFrame(testContext(w.t), func(f lab.Frame) bool {
		var p policy.Packet
		if p.Parse(f.Data, policy.Offload{}) == policy.None && p.IsND() && p.ICMPType == policy.NeighborAdvertisement && p.Dst == cases.AllNodes && p.ND.Target == cases.One6 {
			n++
		}
		return n == 3
	}); err != nil {
		w.t.Fatalf("announced %d times: %v", n, err)
	}
}

// canary sends what passes whatever was sent before, and wants to see it.
func (w *wire) canary() {
	w.t.Helper()
	for _, c := range cases.Canary() {
		must(w.t, w.send[c.From].Send(c.Frame(w.net)))
		want := c.Out[0].Frame(w.net)
		if _, err := w.seen[c.Out[0].At].AwaitFrom(w.t.Context(), w.at[c.Out[0].At], func(f lab.Frame) bool { return !f.Outgoing && bytes.Equal(f.Data, want) }); err != nil {
			w.t.Fatalf("%s: %v", c.Name, err)
		}
	}
}
