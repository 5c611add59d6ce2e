package router

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"testing"
	"time"

	"udrouter/integration/cases"
	"udrouter/policy"
	"udrouter/stack"
)

// busy is a router with flows of every kind, and what it has written of itself.
func busy(t testing.TB) (*sim, []byte) {
	t.Helper()
	return busyWhile(t, nil)
}

// busyWhile has another router load flows before some of the packets of each, and after them.
func busyWhile(t testing.TB, next *sim) (*sim, []byte) {
	t.Helper()
	s := newSim(t, parseConfig(t, edit()), seedKernel())
	s.learn()
	rounds := flowRounds{}
	preload := func() {
		if next == nil {
			return
		}
		var b bytes.Buffer
		if err := s.saveRound(&b, rounds); err != nil {
			t.Fatal(err)
		}
		n, err := next.Preload(bytes.NewReader(b.Bytes()), int64(b.Len()))
		if left := b.Len() - n*policy.FlowStateLen; err != nil || n == 0 || left < 0 || left > 1000 {
			t.Errorf("%d flows in %d bytes, %v", n, b.Len(), err)
		}
	}
	for i, k := range talks() {
		sides, frames := k.exchange(s)
		for j := range sides {
			if s.send(sides[j], frames[j]); i%5 == 1 && j == i%len(sides) {
				preload()
			}
		}
	}
	s.send(stack.Guests, cases.UDP(s.RouterMAC, cases.MAC1, cases.Two4, cases.X4, 8)) // forged
	var b bytes.Buffer
	if err := s.save(&b, rounds); err != nil {
		t.Fatal(err)
	}
	return s, b.Bytes()
}

// A router that goes on with a snapshot under another file has the flows that a reload of that file leaves, and the counters go on; also when it has loaded
// most flows while the other was running.
func TestRestore(t *testing.T) {
	for _, beforehand := range []bool{false, true} {
		t.Run(fmt.Sprint("beforehand ", beforehand), func(t *testing.T) { testRestore(t, beforehand) })
	}
}

func testRestore(t *testing.T, beforehand bool) {
	for name, src := range map[string]string{
		"the same file":    edit(),
		"ingress closed":   edit(ingressOpen, ""),
		"a guest renamed":  edit(`domu "one"`, `domu "uno"`),
		"another address":  edit(`ipv4 = ["192.0.2.10"]`, `ipv4 = ["192.0.2.12"]`),
		"addresses change": edit(`ipv4 = ["192.0.2.10"]`, `ipv4 = ["192.0.2.12"]`, `ipv4 = ["192.0.2.11"]`, `ipv4 = ["192.0.2.10"]`),
		"another order":    edit(`domu "one" {`, "domu \"zero\" {\n vif = \"vif9.0\"\n mac = \"00:16:3e:00:00:09\"\n}\ndomu \"one\" {"),
		"no egress":        edit(ingressOpen, "  egress {\n    default = \"drop\"\n  }\n"+ingressOpen),
	} {
		next := newSim(t, parseConfig(t, src), seedKernel())
		next.clock.Advance(time.Hour) // its clock is another
		loads := next
		if !beforehand {
			loads = nil
		}
		s, b := busyWhile(t, loads)
		all := s.flows()
		before := s.Status()
		if err := next.Restore(bytes.NewReader(b), int64(len(b))); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		now := next.Status()
		if err := s.reload(src); err != nil {
			t.Fatal(err)
		}
		if got, want := next.flows(), s.flows(); !slices.Equal(got, want) || len(all) < 5 || name == "the same file" && len(want) != len(all) {
			t.Errorf("%s: %d flows, a reload leaves %d of %d\n%s\n\n%s", name, len(got), len(want), len(all), strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if now.Drops["ip-binding"] != before.Drops["ip-binding"] || before.Drops["ip-binding"] == 0 || now.Flows.Hits != before.Flows.Hits || now.Uptime < before.Uptime {
			t.Errorf("%s: %+v, was %+v", name, now, before)
		}
		for i, l := range before.Links {
			if now.Links[i].TxPackets < l.TxPackets || now.Links[i].Name != l.Name {
				t.Errorf("%s: %+v, was %+v", name, now.Links[i], l)
			}
		}
		for _, d := range now.Domus {
			for _, was := range before.Domus {
				if d.Name == was.Name && (d.TxPackets != was.TxPackets || d.Drops != was.Drops || d.TxPackets == 0) {
					t.Errorf("%s: %+v, was %+v", name, d, was)
				}
			}
		}
		for a := range next.current.Load().Upstream {
			if mac, ok := next.neighbours.lookup(a).mac(); !ok || mac != gatewayMAC {
				t.Errorf("%s: the gateway %v is at %v, %v", name, a, mac, ok)
			}
		}
	}
}

// What limits are owed is owed after a restore as well.
func TestRestoreKeepsLimits(t *testing.T) {
	src := edit(ingressOpen, "  limits {\n    packets = 70\n  }\n"+ingressOpen)
	s := knowing(t, src)
	ask := func(s *sim) int {
		for range 200 {
			s.send(stack.Guests, cases.UDP(s.RouterMAC, cases.MAC1, cases.One4, cases.X4, 8))
		}
		return len(s.frames(stack.UplinkSide))
	}
	first := ask(s)
	var b bytes.Buffer
	if err := s.save(&b, nil); err != nil {
		t.Fatal(err)
	}
	next := knowing(t, src)
	if err := next.Restore(bytes.NewReader(b.Bytes()), int64(b.Len())); err != nil {
		t.Fatal(err)
	}
	if n := ask(next); first < 64 || n > 5 {
		t.Errorf("%d passed before and %d after", first, n)
	}
}

// A snapshot that is cut off or changed anywhere, or of another version, is refused whole.
func TestRestoreRefuses(t *testing.T) {
	_, b := busy(t)
	refused := func(what string, b []byte) {
		t.Helper()
		next := newSim(t, parseConfig(t, edit()), seedKernel())
		if err := next.Restore(bytes.NewReader(b), int64(len(b))); err == nil || len(next.flows()) != 0 || len(next.Status().Drops) != 0 {
			t.Errorf("%s: %v, %d flows", what, err, len(next.flows()))
		}
	}
	for n := 0; n < len(b); n += 1 + len(b)/100 {
		refused("cut off", b[:n])
		bad := slices.Clone(b)
		bad[n] ^= 4
		refused("changed", bad)
	}
	refused("longer", append(slices.Clone(b), 0))
	other := slices.Clone(b)
	other[len(snapshotMagic)+3]++
	refused("another version", summed(other[:len(other)-4]))
	long := slices.Clone(b)
	binary.BigEndian.PutUint32(long[len(snapshotMagic)+4:], 1<<32-1)
	refused("a length that lies", summed(long[:len(long)-4]))
}

// summed is a snapshot with the checksum that belongs to it.
func summed(b []byte) []byte {
	return binary.BigEndian.AppendUint32(slices.Clone(b), crc32.Checksum(b, castagnoli))
}

// Whatever stands in a snapshot with a right checksum, the router lives, has flows that its policy admits, and forwards.
func FuzzRestore(f *testing.F) {
	_, b := busy(f)
	f.Add(b[:len(b)-4])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		b = summed(b)
		s := newSim(t, parseConfig(t, edit(ingressOpen, "")), seedKernel())
		_, _ = s.Preload(bytes.NewReader(b), int64(len(b)))
		_ = s.Restore(bytes.NewReader(b), int64(len(b)))
		s.learn()
		wd := s.current.Load()
		for _, g := range wd.Guests {
			wd.engine.Flows(g).Each(s.now(), func(flow *policy.Flow) bool {
				if !wd.admits(flow) {
					t.Errorf("%+v is not admitted", flow)
				}
				return true
			})
		}
		s.send(stack.Guests, cases.UDP(s.RouterMAC, cases.MAC2, cases.Two6, cases.X6, 8))
		s.sweep()
		s.Status()
	})
}
