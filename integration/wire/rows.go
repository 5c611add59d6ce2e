package wire

import (
	"bytes"
	"maps"
	"testing"

	"udrouter/integration/cases"
	"udrouter/integration/lab"
	"udrouter/policy"
)

// Run runs a row: exactly what it says is seen, and exactly its reason counted.
func (w *Wire) Run(t *testing.T, c cases.Case) {
	w.T = t
	for _, b := range c.Before {
		Must(t, w.Send[b.From].Send(b.Frame(w.Net)))
		w.Passed(b.From)
	}
	before := Status(t, w.Proc).Drops
	for _, p := range Places {
		w.Take(p)
	}
	frame := c.Frame(w.Net)
	Must(t, w.Send[c.From].Send(frame))
	for _, f := range c.Then {
		Must(t, w.Send[f.From].Send(f.Frame(w.Net)))
	}
	w.Settle(c.From)
	want := map[cases.Place][][]byte{}
	for _, o := range c.Out {
		want[o.At] = append(want[o.At], o.Frame(w.Net))
	}
	for _, p := range Places {
		got := w.Take(p)
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
			case !bytes.Equal(AnyID(got[i]), AnyID(want[p][i])):
				t.Errorf("%s: at %s\n got %x\nwant %x", c.Ref, p, got[i], want[p][i])
			}
		}
	}
	wantDrops := map[string]uint64{}
	// A frame with another's source MAC dies in the bridge already, whatever else is wrong with it, and is counted there.
	if !stranger(c.From, frame) && c.Reason != policy.None && !c.Bridge {
		wantDrops[c.Reason.String()] = c.Counts()
	}
	for _, f := range append([]cases.Sent{{From: c.From, Frame: c.Frame}}, c.Then...) {
		if stranger(f.From, f.Frame(w.Net)) {
			wantDrops[policy.MACBinding.String()]++
		}
	}
	got := map[string]uint64{}
	for reason, n := range Status(t, w.Proc).Drops {
		if n -= before[reason]; n > 0 {
			got[reason] = n
		}
	}
	if !maps.Equal(got, wantDrops) {
		t.Errorf("%s: counted %v, want %v", c.Ref, got, wantDrops)
	}
}

// stranger tells whether a frame that a guest sends has another source MAC than the guest's.
func stranger(from cases.Place, frame []byte) bool {
	own := map[cases.Place]policy.MAC{cases.One: cases.MAC1, cases.Two: cases.MAC2}
	mac, guest := own[from]
	return guest && policy.MAC(frame[6:12]) != mac
}

// AnyID takes out the identification that netstack gives an echo reply: it may be anything.
func AnyID(f []byte) []byte {
	if len(f) < 35 || f[12] != 8 || f[13] != 0 || f[23] != policy.ProtoICMP || f[34] != 0 {
		return f
	}
	f = bytes.Clone(f)
	f[18], f[19], f[24], f[25] = 0, 0, 0, 0
	return f
}

// RunAll runs rows one after the other, as subtests, and tells of each whether it ran and passed; what one has left behind is there for the next.
func (w *Wire) RunAll(t *testing.T, rows []cases.Case) (passed []bool) {
	w.Announced()
	for _, c := range rows {
		ran := false // t.Run is content with what -run leaves out
		ok := t.Run(c.Name, func(t *testing.T) {
			w.Run(t, c)
			ran = true
		})
		passed = append(passed, ran && ok)
	}
	w.T = t
	w.Canary()
	if s := Status(t, w.Proc); s.ForeignMAC != 0 || s.Drops[policy.Internal.String()] != 0 {
		t.Errorf("foreign MACs %d, drops %v", s.ForeignMAC, s.Drops)
	}
	return passed
}

// Announced waits until guest one was announced three times: an answer to somebody's DAD for its address looks the same.
func (w *Wire) Announced() {
	n := 0
	if _, err := w.Seen[cases.Uplink].AwaitFrame(Context(w.T), func(f lab.Frame) bool {
		var p policy.Packet
		if p.Parse(f.Data, policy.Offload{}) == policy.None && p.IsND() && p.ICMPType == policy.NeighborAdvertisement && p.Dst == cases.AllNodes && p.ND.Target == cases.One6 {
			n++
		}
		return n == 3
	}); err != nil {
		w.T.Fatalf("announced %d times: %v", n, err)
	}
}

// Canary sends what passes whatever was sent before, and wants to see it.
func (w *Wire) Canary() {
	w.T.Helper()
	for _, c := range cases.Canary() {
		Must(w.T, w.Send[c.From].Send(c.Frame(w.Net)))
		want := c.Out[0].Frame(w.Net)
		if _, err := w.Seen[c.Out[0].At].AwaitFrom(w.T.Context(), w.at[c.Out[0].At], func(f lab.Frame) bool { return !f.Outgoing && bytes.Equal(f.Data, want) }); err != nil {
			w.T.Fatalf("%s: %v", c.Name, err)
		}
	}
}
