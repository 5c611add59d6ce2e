package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"udrouter/router"
)

// Who is not answered, since another process takes over at that moment, asks again, and not for ever.
func TestAsksAgain(t *testing.T) {
	for _, silent := range []int64{0, 1, 3, 1 << 20} { // so many connections end without an answer
		socket := filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		var asked atomic.Int64
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if asked.Add(1) <= silent {
				panic(http.ErrAbortHandler)
			}
			fmt.Fprint(w, "yes")
		})}
		served := make(chan error, 1)
		go func() { served <- server.Serve(l) }()
		code, body, err := tell(t.Context(), socket, http.MethodPost, "/", time.Minute)
		if answered := err == nil && code == http.StatusOK && string(body) == "yes"; answered != (silent < askAgain) {
			t.Errorf("%d without an answer: %d, %q, %v", silent, code, body, err)
		}
		if err != nil && !strings.Contains(err.Error(), "no router answers") {
			t.Error(err)
		}
		server.Close()
		<-served
		if want := min(silent+1, askAgain); asked.Load() != want {
			t.Errorf("%d without an answer: asked %d times, want %d", silent, asked.Load(), want)
		}
	}
}

// Each number of the table stands in its column, and guests' lines fit a terminal.
func TestStatusTable(t *testing.T) {
	const kib = 1 << 10
	s := router.Status{
		Version: "1", Uptime: 61, RouterMAC: "fe:ff:ff:ff:ff:01", UplinkAddress: "fe80::1", Reloads: 2,
		Links: []router.LinkStatus{{Name: "eth0", RxPackets: 11, RxBytes: 12 * kib, TxPackets: 13, TxBytes: 14 * kib, Errors: 15}},
		Domus: []router.DomuStatus{{Name: "one", Flows: 26, RxPackets: 21, RxBytes: 22 * kib, TxPackets: 23, TxBytes: 24 * kib, Drops: 25},
			{Name: "backup-service", Flows: 65536, RxPackets: 1e9, RxBytes: 1023 << 30, TxPackets: 1e9, TxBytes: 1023 << 30, Drops: 1e6}},
		Drops:      map[string]uint64{"no-route": 31, "loop": 32},
		HostUplink: []router.HostRuleStatus{{Rule: "ssh", Action: "accept", Packets: 41, Bytes: 42 * kib, Source: "f:1"}, {Action: "drop", Packets: 43, Bytes: 44 * kib, Source: "f:2"}},
		Flows:      router.FlowStatus{Active: 51, Max: 52, Offloaded: 53, OffloadHits: 54}, ForeignMAC: 61, Warnings: []string{"beware"},
	}
	want := []string{
		"udrouter 1, up 1m1s", "router's MAC toward guests fe:ff:ff:ff:ff:01, link-local on the uplink fe80::1", "2 reloads", "",
		"LINK RX PACKETS RX BYTES TX PACKETS TX BYTES ERRORS", "eth0 11 12.0 KiB 13 14.0 KiB 15", "",
		"DOMU RX PACKETS RX BYTES TX PACKETS TX BYTES FLOWS DROPS", "one 21 22.0 KiB 23 24.0 KiB 26 25", "backup-service 1000000000 1023.0 GiB 1000000000 1023.0 GiB 65536 1000000", "",
		"DROPPED PACKETS", "loop 32", "no-route 31", "",
		"HOST.UPLINK RULE ACTION PACKETS BYTES SOURCE", "ssh accept 41 42.0 KiB f:1", "(default) drop 43 44.0 KiB f:2", "",
		"flows: 51 of 52, 53 of them forwarded by the kernel, 54 packets so far", "foreign MACs kept off the uplink: 61", "warning: beware",
	}
	var b bytes.Buffer
	if err := printStatus(&b, s); err != nil {
		t.Fatal(err)
	}
	if got := table(b.String()); !slices.Equal(got, want) {
		t.Errorf("\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, line := range strings.Split(b.String(), "\n") {
		if len(line) > 80 {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
}
