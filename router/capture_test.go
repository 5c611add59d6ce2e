package router

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gopacket/gopacket/pcapgo"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/policy"
	"udrouter/stack"
	"udrouter/stack/stacktest"
)

// taken are the comments of what a capture has, in order.
func (c *capture) taken(s *sim) (list []string) {
	names := s.linkNames()
	for len(c.full) > 0 {
		one := <-c.full
		list = append(list, one.comment(&names))
		c.free <- one
	}
	return list
}

// A capture has the frames that it asks for, and no others, each with what became of it.
func TestCaptureFilters(t *testing.T) {
	s := reference(t)
	rule := at("egress {", "rule \"")
	smtp := cases.TCP(s.RouterMAC, cases.MAC2, netip.AddrPortFrom(cases.Two4, 40000), netip.AddrPortFrom(cases.X4, 25), 2, 999, 0, 0)
	forged := cases.UDP(s.RouterMAC, cases.MAC1, cases.Two4, cases.X4, 8)
	passes := cases.UDP(s.RouterMAC, cases.MAC1, cases.One4, cases.X4, 8)
	between := cases.UDP(s.RouterMAC, cases.MAC1, cases.One4, cases.Two4, 8)
	stranger := cases.UDP(eth0MAC, gatewayMAC, cases.X4, cases.Two4, 8)
	const (
		wasPassed = "accept to eth0; from domu one"
		wasForged = "drop ip-binding: An IPv4 source that is not bound to the guest; from domu one"
		wasAsked  = "router; from domu one"
	)
	wasSMTP := "drop egress-policy: What the sender's egress rules or their default refuse, no-smtp of egress in untrusted, " + rule + "; from domu two"
	dflt := "default of ingress in untrusted, " + at("# To the guest.", "ingress {")
	wasBetween := "drop ingress-policy: What the receiver's ingress rules or their default refuse, " + dflt + "; from domu one; to domu two"
	wasStranger := "drop ingress-policy: What the receiver's ingress rules or their default refuse, " + dflt + "; to domu two"
	arp := cases.ARP(policy.MAC{255, 255, 255, 255, 255, 255}, cases.MAC1, 1, cases.MAC1, cases.One4, policy.MAC{}, netip.MustParseAddr("192.0.2.1"))
	all := []string{wasSMTP, wasForged, wasPassed, wasPassed, wasBetween, wasAsked, wasStranger}
	for query, want := range map[string][]string{
		"":                               all,
		"domu=one":                       {wasForged, wasPassed, wasPassed, wasBetween, wasAsked},
		"domu=two":                       {wasSMTP, wasBetween, wasStranger},
		"verdict=accept":                 {wasPassed, wasPassed},
		"verdict=drop":                   {wasSMTP, wasForged, wasBetween, wasStranger},
		"reason=ip-binding":              {wasForged},
		"reason=ingress-policy&domu=one": {wasBetween},
		"reason=tcp-flags":               nil,
	} {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		c, err := s.newCapture(q)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.capturing.add(c); err != nil {
			t.Fatal(err)
		}
		s.send(stack.Guests, smtp, forged, passes, passes, between, arp)
		s.send(stack.UplinkSide, stranger)
		s.capturing.remove(c)
		s.send(stack.Guests, passes)
		if got := c.taken(s); strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s:\n%s\nwant\n%s", query, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		s.links[stack.UplinkSide].Take()
	}
	for query, want := range map[string]string{"domu=three": `no domu "three"`, "reason=none-such": "no reason", "verdict=reject": "accept or drop", "verdict=accept&reason=loop": "no reason: leave",
		"snaplen=1": "snaplen takes a number from 64", "snaplen=70000": "snaplen", "count=-1": "count", "count=x": "count"} {
		q, _ := url.ParseQuery(query)
		if _, err := s.newCapture(q); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", query, err, want)
		}
	}
}

// What policies in shadow mode would have done, and GSO, are in the comment.
func TestCaptureMarks(t *testing.T) {
	s := knowing(t, strings.Replace(string(config.Reference), `"enforce"`+"\n", `"shadow"`+"\n", 1))
	c, err := s.newCapture(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.capturing.add(c); err != nil {
		t.Fatal(err)
	}
	f := stacktest.Frame(cases.TCP(s.RouterMAC, cases.MAC2, netip.AddrPortFrom(cases.Two4, 40000), netip.AddrPortFrom(cases.X4, 25), 2, 999, 0, 0), policy.Offload{})
	names := s.linkNames()
	s.newWorker(stack.Guests).batch([]*stack.Frame{f})
	if got := c.taken(s); len(got) != 1 || !strings.HasPrefix(got[0], "accept to eth0; from domu two; in shadow mode: egress-policy, no-smtp of egress in untrusted, router.hcl:") {
		t.Errorf("%q", got)
	}
	gso := captured{fate: fate{passed: true, to: stack.UplinkSide}, offload: policy.Offload{GSOType: policy.GSOTCPv4, GSOSize: 1448, Flags: policy.NeedsCsum}}
	if got := gso.comment(&names); got != "accept to eth0; GSO: segments of 1448 bytes; checksum not filled in yet" {
		t.Error(got)
	}
}

// Workers do not wait for who does not read: what finds no slot is missed and counted, and the packets pass. Slots bound the memory, and frames are cut off.
func TestCaptureMisses(t *testing.T) {
	s := reference(t)
	c, err := s.newCapture(url.Values{"snaplen": {"64"}, "verdict": {"accept"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.capturing.add(c); err != nil {
		t.Fatal(err)
	}
	frame := cases.UDP(s.RouterMAC, cases.MAC1, cases.One4, cases.X4, 300)
	slots := cap(c.full)
	if slots != captureSlots {
		t.Errorf("%d slots", slots)
	}
	const more = 100
	for range slots + more {
		s.send(stack.Guests, frame)
	}
	if n := len(s.links[stack.UplinkSide].Take()); n != slots+more {
		t.Errorf("%d of %d packets passed", n, slots+more)
	}
	if st := s.Status().Capture; st != (CaptureStatus{1, uint64(slots), more}) {
		t.Errorf("%+v", st)
	}
	first := <-c.full
	if first.length != len(frame) || len(first.data) != 64 || !bytes.Equal(first.data, frame[:64]) || first.missed != 0 {
		t.Errorf("%d of %d bytes, missed %d", len(first.data), first.length, first.missed)
	}
	c.free <- first
	s.send(stack.Guests, frame)
	for range slots - 1 {
		c.free <- <-c.full
	}
	if last := <-c.full; last.missed != more {
		t.Errorf("the next one has missed %d, want %d", last.missed, more)
	}
	for range maxCaptures - 1 {
		if err := s.capturing.add(new(capture)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.capturing.add(new(capture)); !errors.Is(err, errCaptures) {
		t.Errorf("one capture too many: %v", err)
	}
}

// A frame that somebody captures costs no memory, beyond the slots; one that nobody does, nothing.
func TestCaptureAllocates(t *testing.T) {
	s := reference(t)
	w := s.newWorker(stack.Guests)
	c, err := s.newCapture(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.capturing.add(c); err != nil {
		t.Fatal(err)
	}
	src := cases.UDP(s.RouterMAC, cases.MAC1, cases.Two4, cases.X4, 8) // which is dropped: links of tests allocate
	batch := []*stack.Frame{stacktest.Frame(src, policy.Offload{})}
	w.batch(batch)
	if n := testing.AllocsPerRun(100, func() { w.batch(batch); c.free <- <-c.full }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// asksCapture is the answer to a question on the control socket.
func asksCapture(t *testing.T, s *sim, query string) *http.Response {
	t.Helper()
	client := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.Control.Addr().String())
	}}
	t.Cleanup(client.CloseIdleConnections)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://udrouter/v1/capture?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// listening is a router that runs, with a control socket.
func listening(t *testing.T) *sim {
	t.Helper()
	s := knowing(t, edit())
	var err error
	if s.Control, err = ListenControl(config.Control{Socket: filepath.Join(t.TempDir(), "control.sock")}); err != nil {
		t.Fatal(err)
	}
	s.start(t)
	return s
}

// The stream is pcapng with the three links, times, directions, lengths and comments, or lines of JSON; it ends when it has what was asked for, and the capture with it.
func TestCaptureStream(t *testing.T) {
	s := listening(t)
	frame := cases.UDP(s.RouterMAC, cases.MAC1, cases.One4, cases.X4, 300)
	stranger := cases.UDP(eth0MAC, gatewayMAC, cases.X4, cases.One4, 8)
	send := func() {
		s.links[stack.Guests].Inject(frame, policy.Offload{})
		s.links[stack.Guests].Inject(cases.UDP(s.RouterMAC, cases.MAC1, cases.Two4, cases.X4, 8), policy.Offload{})
	}
	resp := asksCapture(t, s, "count=3&snaplen=100")
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/x-pcapng" {
		t.Fatalf("%s, %v", resp.Status, resp.Header)
	}
	send()
	ng, err := pcapgo.NewNgReader(bufio.NewReader(resp.Body), pcapgo.NgReaderOptions{WantMixedLinkType: true})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		link    string
		length  int
		comment string
	}{{"udr0", len(frame), "accept to eth0; from domu one"}, {"udr0", len(frame) - 292, "drop ip-binding"}, {"eth0", len(stranger), "accept to udr0; to domu one"}} {
		if i == 2 {
			s.links[stack.UplinkSide].Inject(stranger, policy.Offload{})
		}
		data, ci, o, err := ng.ReadPacketDataWithOptions()
		if err != nil {
			t.Fatal(err)
		}
		link, err := ng.Interface(ci.InterfaceIndex)
		if err != nil || link.Name != want.link || link.SnapLength != 100 {
			t.Errorf("%+v, %v", link, err)
		}
		if ci.Length != want.length || len(data) != min(want.length, 100) || ci.Timestamp.Before(s.started) || o.Flags == nil || o.Flags.Direction != pcapgo.NgEpbFlagDirectionInbound ||
			len(o.Comments) != 1 || !strings.HasPrefix(o.Comments[0], want.comment) {
			t.Errorf("%d: %+v, %+v", i, ci, o)
		}
		if i == 0 && !bytes.Equal(data, frame[:100]) {
			t.Errorf("% x is not as it came", data)
		}
	}
	if _, _, err := ng.ReadPacketData(); !errors.Is(err, io.EOF) || ng.NInterfaces() != 3 {
		t.Errorf("then %v, %d interfaces", err, ng.NInterfaces())
	}

	resp = asksCapture(t, s, "format=json&count=1&verdict=drop")
	send()
	var r CaptureRecord
	if err := json.NewDecoder(resp.Body).Decode(&r); err != nil || r.Link != "udr0" || r.Verdict != "drop" || r.Reason != "ip-binding" || r.From != "one" || r.Length != len(r.Data) || r.Length == 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if resp := asksCapture(t, s, "domu=nobody"); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("an unknown guest: %s", resp.Status)
	}
	for s.Status().Capture.Active > 0 {
		if t.Context().Err() != nil {
			t.Fatal("captures go on")
		}
	}
}

// Who asks and does not read, or goes, holds up no packet; and its capture ends with it.
func TestCaptureReaderHangs(t *testing.T) {
	s := listening(t)
	resp := asksCapture(t, s, "verdict=accept")
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	big := cases.UDP(s.RouterMAC, cases.MAC1, cases.One4, cases.X4, 1400)
	for s.Status().Capture.Missed == 0 { // until socket and slots are full
		s.links[stack.Guests].Inject(big, policy.Offload{})
		s.links[stack.UplinkSide].Take()
	}
	forwards(t, s)
	resp.Body.Close()
	for s.Status().Capture.Active > 0 {
		if t.Context().Err() != nil {
			t.Fatal("the capture goes on")
		}
	}
}

// The kernel forwards nothing by itself while a capture is to see what is accepted, whatever changes meanwhile; it goes on when the last such capture ends.
func TestCaptureOffload(t *testing.T) {
	s := listening(t)
	forwards := func(when string, want bool) {
		t.Helper()
		s.updating.Lock()
		defer s.updating.Unlock()
		w := s.current.Load()
		if to := s.offloadWorld(w); to.MTU != w.leastMTU || to.Uplink != w.kernel.Uplink.Index || (to.Generation != 0) != want || want && to.Generation != w.generation {
			t.Errorf("%s: %+v, the kernel is to forward: %v", when, to, want)
		}
	}
	ended := func(active int) {
		t.Helper()
		for s.Status().Capture.Active > active {
			if t.Context().Err() != nil {
				t.Fatal("a capture goes on")
			}
		}
	}
	forwards("at first", true)
	asksCapture(t, s, "verdict=drop")
	asksCapture(t, s, "reason=ip-binding")
	forwards("captures of what is dropped", true)
	if resp := asksCapture(t, s, "domu=nobody"); resp.StatusCode != http.StatusBadRequest {
		t.Error(resp.Status)
	}
	forwards("a capture that is refused", true)
	all, accepted := asksCapture(t, s, "domu=one"), asksCapture(t, s, "verdict=accept")
	forwards("captures of what is accepted", false)
	if resp := asksCapture(t, s, ""); resp.StatusCode != http.StatusServiceUnavailable {
		t.Error(resp.Status)
	}
	forwards("a capture too many", false)
	if err := s.reload(edit(ingressOpen, "  ingress {\n    default = \"drop\"\n  }")); err != nil {
		t.Fatal(err)
	}
	forwards("a reload", false)
	all.Body.Close()
	ended(3)
	forwards("one of the two has ended", false)
	accepted.Body.Close()
	ended(2)
	forwards("both have ended", true)
}
