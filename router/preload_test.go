package router

import (
	"bytes"
	"net/netip"
	"testing"

	"udrouter/integration/cases"
	"udrouter/stack"
)

// What was loaded of a router that ends before it has said all is out of date: its connections are picked up as those of which nothing came.
func TestPickUpForgetsWhatWasLoaded(t *testing.T) {
	s, next := knowing(t, edit()), knowing(t, edit())
	guest, x := netip.AddrPortFrom(cases.One4, 40000), netip.AddrPortFrom(cases.X4, 443)
	s.connect(guest, x)
	var b bytes.Buffer
	if err := s.saveRound(&b, flowRounds{}); err != nil {
		t.Fatal(err)
	}
	if n, err := next.Preload(bytes.NewReader(b.Bytes()), int64(b.Len())); n != 1 || err != nil || len(next.flows()) != 1 {
		t.Fatalf("%d flows, %v", n, err)
	}
	next.PickUp()
	next.send(stack.Guests, cases.TCP(next.RouterMAC, cases.MAC1, guest, x, 16, 1<<20, 1<<24, 10)) // it has come so far meanwhile
	if n := len(next.links[stack.UplinkSide].Take()); n != 1 {
		t.Errorf("the connection does not go on: %v", next.counts())
	}
}
