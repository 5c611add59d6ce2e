package lab

import (
	"bytes"
	"context"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// frame is an Ethernet frame from a to b of an EtherType for experiments.
func frame(text string) []byte {
	return append(ethernet(mac(1), mac(2), 0x88b5), text...)
}

func has(text string) func([]byte) bool {
	return func(f []byte) bool { return bytes.Contains(f, []byte(text)) }
}

func TestSniffer(t *testing.T) {
	a, b := pairOf(t)
	ctx := testContext(t)
	s, err := b.Sniff("eth0", SniffOptions{Keep: func(f []byte) bool { return !has("secret")(f) }})
	if err != nil {
		t.Fatal(err)
	}
	there, err := a.Sender("eth0")
	if err != nil {
		t.Fatal(err)
	}
	back, err := b.Sender("eth0")
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	for _, x := range []struct {
		w    *FrameSender
		text string
	}{{there, "first"}, {there, "secret"}, {back, "second"}, {there, "third"}} {
		if err := x.w.Send(frame(x.text)); err != nil {
			t.Fatal(err)
		}
	}
	// Frames needs no waiting: what the link carried before the call is in.
	var got []string
	for _, f := range s.Frames() {
		if binary.BigEndian.Uint16(f.Data[12:]) != 0x88b5 {
			continue // the kernel's own, as multicast reports are
		}
		dir := "<"
		if f.Outgoing {
			dir = ">"
		}
		got = append(got, dir+string(f.Data[14:]))
		if f.Time.Before(start.Add(-time.Minute)) || f.Time.After(time.Now().Add(time.Minute)) {
			t.Errorf("a frame of %v, sniffed at %v", f.Time, start)
		}
	}
	if len(got) != 3 || got[0] != "<first" || got[1] != ">second" || got[2] != "<third" {
		t.Errorf("got %q", got)
	}
	if f, err := s.Await(ctx, has("third")); err != nil || f.Outgoing {
		t.Errorf("awaiting what was there: %v", err)
	}
	go func() { _ = there.Send(frame("late")) }()
	if _, err := s.Await(ctx, has("late")); err != nil {
		t.Error(err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.Await(gone, has("never")); err == nil {
		t.Error("what never came was awaited with success")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.Await(ctx, has("never")); err == nil {
		t.Error("a closed sniffer found something")
	}
	if s.Count(func(f Frame) bool { return has("third")(f.Data) }) != 1 {
		t.Error("a closed sniffer has lost its frames")
	}
	if err := s.Close(); err != nil {
		t.Errorf("closing again: %v", err)
	}
}

func TestSnifferSeesTags(t *testing.T) {
	a, b := pairOf(t)
	s, err := b.Sniff("eth0", SniffOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := a.Sender("eth0")
	if err != nil {
		t.Fatal(err)
	}
	// The kernel takes the tag out of what it hands to sockets.
	want := append(ethernet(mac(1), mac(2), unix.ETH_P_8021Q), 0, 5, 0x88, 0xb5, 't', 'a', 'g')
	if err := w.Send(want); err != nil {
		t.Fatal(err)
	}
	f, err := s.Await(testContext(t), has("tag"))
	if err != nil || !bytes.Equal(f.Data, want) {
		t.Errorf("got % x, sent % x: %v", f.Data, want, err)
	}
}

func TestSnifferIsBounded(t *testing.T) {
	a, b := pairOf(t)
	s, err := b.Sniff("eth0", SniffOptions{Max: 10, Keep: has("many")})
	if err != nil {
		t.Fatal(err)
	}
	w, err := a.Sender("eth0")
	if err != nil {
		t.Fatal(err)
	}
	for range 25 {
		if err := w.Send(frame("many")); err != nil {
			t.Fatal(err)
		}
	}
	if got, lost := len(s.Frames()), s.Lost(); got != 10 || lost != 15 {
		t.Errorf("%d kept, %d lost", got, lost)
	}
	// Who takes what there is has room again, without end.
	for round := range 3 {
		want := 10
		if taken := len(s.Take()); taken != want || len(s.Frames()) != 0 {
			t.Fatalf("in round %d, %d were taken, and %d are left", round, taken, len(s.Frames()))
		}
		for range want {
			if err := w.Send(frame("many")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if lost := s.Lost(); lost != 15 {
		t.Errorf("%d lost, though there was room", lost)
	}
}

func TestSenderRefuses(t *testing.T) {
	a, _ := pairOf(t)
	w, err := a.Sender("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Send([]byte{1, 2, 3}); err == nil {
		t.Error("three bytes were sent")
	}
	if err := w.Send(frame(string(make([]byte, defaultMTU+1)))); err == nil {
		t.Error("more than the MTU was sent")
	}
	if _, err := a.Sender("eth9"); err == nil {
		t.Error("a missing link was opened")
	}
}

func TestMACWatch(t *testing.T) {
	a, b := pairOf(t)
	w, err := b.WatchMACs("eth0", mac(1))
	if err != nil {
		t.Fatal(err)
	}
	there, err := a.Sender("eth0")
	if err != nil {
		t.Fatal(err)
	}
	back, err := b.Sender("eth0")
	if err != nil {
		t.Fatal(err)
	}
	near := mac(1) // differs in the half that is compared last
	near[5] ^= 0x80
	far := mac(1) // and first
	far[0] ^= 0x80
	for _, x := range []struct {
		w    *FrameSender
		from byte
		raw  []byte
	}{
		{w: there, raw: ethernet(mac(1), mac(2), 0x88b5)},
		{w: there, raw: ethernet(near, mac(2), 0x88b5)},
		{w: there, raw: ethernet(far, mac(2), 0x88b5)},
		{w: there, raw: ethernet(far, mac(2), 0x88b5)},
		{w: back, raw: ethernet(mac(9), mac(1), 0x88b5)}, // the watcher's own side
	} {
		if err := x.w.Send(append(x.raw, "hello"...)); err != nil {
			t.Fatal(err)
		}
	}
	got := w.Foreign()
	if len(got) != 2 || got[near] != 1 || got[far] != 2 {
		t.Errorf("got %v", got)
	}
}

// TestFrames has the kernel read what is built here, and builds what the kernel sent anew.
func TestFrames(t *testing.T) {
	a, b := pairOf(t)
	ctx := testContext(t)
	s, err := a.Sniff("eth0", SniffOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := a.Sender("eth0")
	if err != nil {
		t.Fatal(err)
	}
	ask := WhoHas(mac(1), addr("192.0.2.1"), addr("192.0.2.2"))
	if got, ok := ParseARP(ask.Frame()); !ok || got != ask {
		t.Errorf("read %+v, built %+v", got, ask)
	}
	sol := Solicit(mac(1), addr("2001:db8::1"), addr("2001:db8::2"))
	if got, ok := ParseND(sol.Frame()); !ok || got != sol {
		t.Errorf("read %+v, built %+v", got, sol)
	}
	for _, f := range [][]byte{ask.Frame(), sol.Frame()} {
		if err := w.Send(f); err != nil {
			t.Fatal(err)
		}
	}
	f, err := s.Await(ctx, func(f []byte) bool { return isAnswer(f, ask.TPA) })
	if err != nil {
		t.Fatal(err)
	}
	p, _ := ParseARP(f.Data)
	if p.SHA != mac(2) || !bytes.Equal(p.Frame(), f.Data) {
		t.Errorf("% x was read as %+v", f.Data, p)
	}
	f, err = s.Await(ctx, func(f []byte) bool { return isAnswer(f, sol.Target) })
	if err != nil {
		t.Fatal(err)
	}
	m, _ := ParseND(f.Data)
	if m.LinkAddr != mac(2) || m.Flags != NASolicited|NAOverride || !bytes.Equal(m.Frame(), f.Data) {
		t.Errorf("% x was read as %+v", f.Data, m)
	}
	// A datagram with its checksum comes to a socket, and its answer to the sniffer.
	if err := b.ServeUDP(7); err != nil {
		t.Fatal(err)
	}
	for _, u := range []UDP{
		{SrcMAC: mac(1), DstMAC: mac(2), Src: netip.MustParseAddrPort("192.0.2.1:4000"), Dst: netip.MustParseAddrPort("192.0.2.2:7"), Payload: []byte("over four!")},
		{SrcMAC: mac(1), DstMAC: mac(2), Src: netip.MustParseAddrPort("[2001:db8::1]:4000"), Dst: netip.MustParseAddrPort("[2001:db8::2]:7"), Payload: []byte("over six")},
	} {
		if err := w.Send(u.Frame()); err != nil {
			t.Fatal(err)
		}
		_, err := s.AwaitFrame(ctx, func(f Frame) bool { return !f.Outgoing && bytes.HasSuffix(f.Data, u.Payload) })
		if err != nil {
			t.Errorf("%s: %v", u.Payload, err)
		}
	}
}

func FuzzParseFrames(f *testing.F) {
	f.Add(WhoHas(mac(1), addr("192.0.2.1"), addr("192.0.2.2")).Frame())
	f.Add(Solicit(mac(1), addr("2001:db8::1"), addr("2001:db8::2")).Frame())
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, ok := ParseARP(b); ok && !bytes.Equal(a.Frame(), b[:42]) {
			t.Errorf("% x was read as %+v", b, a)
		}
		if m, ok := ParseND(b); ok && m.Advertise != (b[54] == ndAdvertise) {
			t.Errorf("% x was read as %+v", b, m)
		}
	})
}
