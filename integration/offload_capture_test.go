package integration

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/gopacket/gopacket/pcapgo"

	"udrouter/integration/lab"
)

// What the kernel would forward by itself is in a capture, in both directions, since the router forwards it as long as the capture goes on. One that wants nothing of it
// leaves it to the kernel, and so does the end of the capture, however it comes.
func TestOffloadCapture(t *testing.T) {
	const checks = 20
	l := buildLab(t, "", lab.Options{})
	p := startRouter(t, l, "--offload")
	c, _, _ := offloaded(t, l, p, l.Internet.Addr4())
	// hits are the packets of some question and answer that the kernel has forwarded.
	hits := func() uint64 {
		t.Helper()
		before := status(t, p)
		for range checks {
			must(t, c.Check(testContext(t)))
		}
		return status(t, p).Flows.OffloadHits - before.Flows.OffloadHits
	}
	byRouter := func(when string) {
		t.Helper()
		if n := hits(); n != 0 {
			t.Errorf("%s: the kernel has forwarded %d packets", when, n)
		}
	}
	byKernel := func(when string) {
		t.Helper()
		hits() // what was withdrawn meanwhile is offered again with one of 64 packets
		hits()
		if n := hits(); n < 2*checks {
			t.Errorf("%s: the kernel has forwarded %d packets, of at least %d", when, n, 2*checks)
		}
	}
	ended := func(c *capturer, active int) {
		t.Helper()
		must(t, lab.Await(testContext(t), "the capture's end", func() (bool, error) { return status(t, p).Capture.Active == active, nil }))
		_ = c.cmd.Wait()
	}
	byKernel("nobody captures")

	all := startCapture(t, p, "--domu", "one")
	byRouter("somebody captures what the guest says")
	ng, err := pcapgo.NewNgReader(all.out, pcapgo.NgReaderOptions{WantMixedLinkType: true})
	must(t, err)
	var from [3]int // the uplink, guests and dom0
	for range 2 * checks {
		_, ci, err := ng.ReadPacketData()
		must(t, err)
		from[ci.InterfaceIndex]++
	}
	if from[0] < checks/2 || from[1] < checks/2 { // some are acknowledgements alone
		t.Errorf("%d frames from the uplink and %d from the guest are in the capture", from[0], from[1])
	}
	must(t, all.cmd.Process.Signal(os.Interrupt))
	ended(all, 0)
	byKernel("a capture has ended")

	dropped := startCapture(t, p, "--verdict", "drop")
	byKernel("somebody captures what is dropped")
	all = startCapture(t, p, "--domu", "two")
	byRouter("somebody captures what another guest says")
	r := reloading{t, l, p}
	file, err := l.ConfigPath()
	must(t, err)
	r.reload(strings.Replace(readFile(t, file), `"5201-5210"`, `"5201-5211"`, 1), 0)
	byRouter("a reload while somebody captures")
	must(t, all.cmd.Process.Kill())
	ended(all, 1)
	byKernel("who captures was killed")

	all = startCapture(t, p)
	next := takeOver(t, l, p, "--offload")
	<-p.Exited()
	p = next
	_, err = io.Copy(io.Discard, all.out)
	must(t, err)
	must(t, all.cmd.Wait())
	must(t, dropped.cmd.Wait())
	byKernel("another has taken over from a router of which somebody captured")

	few := startCapture(t, p, "--count", fmt.Sprint(checks))
	for range checks {
		must(t, c.Check(testContext(t)))
	}
	got, _ := frames(t, few.out)
	ended(few, 0)
	if n := len(got["eth0"]) + len(got["udr0"]); n != checks {
		t.Errorf("%d frames are in the capture, want %d", n, checks)
	}
	byKernel("a capture has had as many as it wanted")
	if s := status(t, p); s.Drops["internal"] != 0 || s.ForeignMAC != 0 {
		t.Errorf("%+v", s)
	}
}
