package integration

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/integration/wire"
	"udrouter/policy"
)

// A guest floods its neighbourhood with ARP and ND (attacks 37 and 49): it is answered within its share, the router's memory does not
// grow, and the other guest is answered as before.
func TestNeighbourFloods(t *testing.T) {
	w := wire.New(t, cases.Open(config.Reference))
	const kinds, each = 5, 4000
	flood := func(i int) []byte {
		var low [4]byte
		binary.BigEndian.PutUint32(low[:], uint32(i))
		a4 := netip.AddrFrom4([4]byte{10, low[1], low[2], low[3]})
		ll := netip.AddrFrom16([16]byte{0xfe, 0x80, 8: 0xaa, 12: low[0], 13: low[1], 14: low[2], 15: low[3]})
		switch i % kinds {
		case 0:
			return cases.ARP(policy.BroadcastMAC, cases.MAC1, 1, cases.MAC1, a4, policy.MAC{}, cases.Router4)
		case 1:
			return cases.ARP(policy.BroadcastMAC, cases.MAC1, 1, cases.MAC1, cases.One4, policy.MAC{}, cases.Two4)
		case 2:
			return cases.NS(w.Net.Router, cases.MAC1, ll, cases.LL1, cases.LL1, cases.MAC1)
		case 3:
			return cases.NA(policy.MAC{0x33, 0x33, 0, 0, 0, 1}, cases.MAC1, ll, cases.AllNodes, ll, cases.MAC1, policy.NAOverride)
		}
		return cases.NA(policy.MAC{0x33, 0x33, 0, 0, 0, 1}, cases.MAC1, cases.One6, cases.AllNodes, cases.Two6, cases.MAC1, policy.NAOverride)
	}
	send := func(from, to int) {
		for i := from; i < to; i++ {
			must(t, w.Send[cases.One].Send(flood(i)))
			if i%250 == 249 {
				w.Fence(cases.One, cases.X4)
			}
		}
	}
	send(0, kinds*each/4)
	w.Settle(cases.One)
	before, err := w.Proc.RSS()
	must(t, err)
	send(kinds*each/4, kinds*each)
	w.Settle(cases.One)
	after, err := w.Proc.RSS()
	must(t, err)
	if grown := int64(after.RSS) - int64(before.RSS); !wire.RaceEnabled && grown > 4<<20 {
		t.Errorf("memory grew by %d KiB", grown>>10)
	}
	if got := byRouter(w, cases.Two); len(got) > 0 {
		t.Errorf("%d frames came to the other guest, the first %x", len(got), got[0])
	}
	answers := uint64(len(byRouter(w, cases.One)))
	drops := status(t, w.Proc).Drops
	if n := drops[policy.NDLimit.String()]; n == 0 || n+answers != 2*each {
		t.Errorf("%d answers and %d beyond the share, of %d", answers, n, 2*each)
	}
	if n, m := drops[policy.ARPSpoof.String()], drops[policy.NDSpoof.String()]; n != each || m != each {
		t.Errorf("%d ARP and %d ND were forged, want %d each", n, m, each)
	}
	to := policy.SolicitedNode(cases.Router6)
	must(t, w.Send[cases.Two].Send(cases.ARP(policy.BroadcastMAC, cases.MAC2, 1, cases.MAC2, cases.Two4, policy.MAC{}, cases.One4)))
	must(t, w.Send[cases.Two].Send(cases.NS(policy.MulticastMAC(to), cases.MAC2, cases.Two6, to, cases.Router6, cases.MAC2)))
	w.Settle(cases.Two)
	if got := byRouter(w, cases.Two); len(got) != 2 {
		t.Errorf("the other guest got %d answers, want 2", len(got))
	}
	w.Canary()
}

// byRouter is what a guest has been sent by the router since the last look, but for its word to all guests at the start of where their gateways are: its
// bridge port says something of its own when it comes up.
func byRouter(w *wire.Wire, guest cases.Place) (frames [][]byte) {
	for _, f := range w.Take(guest) {
		if policy.MAC(f[6:12]) == w.Net.Router && f[0]&1 == 0 {
			frames = append(frames, f)
		}
	}
	return frames
}
