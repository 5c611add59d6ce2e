package router

import (
	"fmt"
	"runtime/metrics"
	"sync/atomic"
	"time"

	"udrouter/policy"
	"udrouter/stack"
)

// Version is the router's own; the linker may set it.
var Version = "0.1.0-dev"

// Status is what `udrouter status --json` prints. Fields are only ever added. Packets and bytes count a GSO frame once.
type Status struct {
	Version       string                 `json:"version"`
	Uptime        float64                `json:"uptime_s"`
	Links         []LinkStatus           `json:"links"`
	Domus         []DomuStatus           `json:"domus"`
	Flows         FlowStatus             `json:"flows"`
	Drops         map[string]uint64      `json:"drops"`         // by reason; those that never happened are left out
	WouldDrop     map[string]uint64      `json:"would_drop"`    // what policies in shadow mode would have dropped
	Examples      map[string]DropExample `json:"drop_examples"` // by reason, one of the last packets
	WouldExamples map[string]DropExample `json:"would_drop_examples"`
	ForeignMAC    uint64                 `json:"foreign_mac_uplink"`
	Reloads       uint64                 `json:"reloads"`        // that went well
	Gap           float64                `json:"takeover_gap_s"` // how long nobody forwarded when this router took over from another; 0: it did not
	LastReload    *ReloadStatus          `json:"last_reload"`    // null: there was none
	RouterMAC     string                 `json:"router_mac"`
	UplinkAddress string                 `json:"uplink_link_local"`
	Warnings      []string               `json:"warnings"`
	Process       ProcessStatus          `json:"process"`
	Capture       CaptureStatus          `json:"capture"`

	// HostUplink is what the rules of host.uplink have decided on, in the file's order, the default last: packets of known flows pass before them.
	// Empty where there are none, or where they could not be read, of which there is a warning.
	HostUplink []HostRuleStatus `json:"host_uplink"`
}

// ProcessStatus is what the process holds, which stays as it is under any load that goes on.
type ProcessStatus struct {
	Goroutines uint64 `json:"goroutines"`
	Heap       uint64 `json:"heap_bytes"` // of objects, those among them that nobody needs and that have not been collected yet
}

// HostRuleStatus is a rule of host.uplink in Status. Bytes count from the IP header on.
type HostRuleStatus struct {
	Rule    string `json:"rule"` // "" for the default
	Action  string `json:"action"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
	Source  string `json:"source"` // file:line
}

// LinkStatus is a link's share of Status.
type LinkStatus struct {
	Name      string `json:"name"`
	Side      string `json:"side"` // "guests", "uplink" or "host"
	RxPackets uint64 `json:"rx_packets"`
	TxPackets uint64 `json:"tx_packets"`
	RxBytes   uint64 `json:"rx_bytes"`
	TxBytes   uint64 `json:"tx_bytes"`
	Errors    uint64 `json:"errors"`
	Reopened  uint64 `json:"reopened"`

	Reasons map[string]uint64 `json:"drop_reasons"` // of what the link itself has dropped, which Drops has as well
}

var sideNames = [...]string{stack.Guests: "guests", stack.UplinkSide: "uplink", stack.Host: "host"}

// DomuStatus is a guest's share of Status; rx is what it was sent.
type DomuStatus struct {
	Name      string            `json:"name"`
	Flows     int               `json:"flows"`
	RxPackets uint64            `json:"rx_packets"`
	TxPackets uint64            `json:"tx_packets"`
	RxBytes   uint64            `json:"rx_bytes"`
	TxBytes   uint64            `json:"tx_bytes"`
	Drops     uint64            `json:"drops"`
	Reasons   map[string]uint64 `json:"drop_reasons"`
	WouldDrop map[string]uint64 `json:"would_drop"`
}

// FlowStatus counts the flows of all guests.
type FlowStatus struct {
	Active int    `json:"active"`
	Max    int    `json:"max"`
	Hits   uint64 `json:"hits"` // packets that went where their flow remembered, without rules and lookups

	Offloaded   int    `json:"offloaded"`    // flows whose packets the kernel forwards
	OffloadHits uint64 `json:"offload_hits"` // packets that it has forwarded
}

// Status is a snapshot; counters that belong together may be a packet apart.
func (r *Router) Status() Status {
	unwatched := r.countStrangers()
	wd := r.current.Load()
	s := Status{
		Version: Version, Uptime: time.Since(r.started).Seconds(), WouldDrop: words(&r.would), Examples: r.dropLog.examples(), WouldExamples: r.wouldLog.examples(),
		Flows:     FlowStatus{Active: wd.engine.Budget().Used(), Max: wd.engine.Budget().Max(), Hits: r.hits.Load()},
		RouterMAC: r.RouterMAC.String(), UplinkAddress: wd.UplinkLL.String(), Warnings: append([]string{}, wd.warnings...),
		Links: []LinkStatus{}, Domus: []DomuStatus{}, Reloads: r.reloads.Load(), Gap: time.Duration(r.gap.Load()).Seconds(), LastReload: r.lastReload.Load(),
		Process: process(), Capture: r.capturing.status(),
	}
	s.Drops = words(&r.drops)
	for side, link := range r.links {
		c, ok := link.(interface{ Counters() *stack.Stats })
		if !ok {
			continue
		}
		st := c.Counters()
		s.Links = append(s.Links, LinkStatus{Name: link.Name(), Side: sideNames[side], RxPackets: st.RxPackets.Load(), TxPackets: st.TxPackets.Load(),
			RxBytes: st.RxBytes.Load(), TxBytes: st.TxBytes.Load(), Errors: st.Errors.Load(), Reopened: st.Reopened.Load(), Reasons: words(&st.Drops)})
		for reason, n := range s.Links[len(s.Links)-1].Reasons {
			s.Drops[reason] += n
		}
	}
	if u, ok := r.Uplink.(*stack.Uplink); ok {
		s.ForeignMAC = u.Foreign.Load()
	}
	for _, g := range wd.Guests {
		c := g.Counters
		d := DomuStatus{Name: g.Name, Flows: wd.engine.Flows(g).Len(), RxPackets: c.RxPackets.Load(), TxPackets: c.TxPackets.Load(), RxBytes: c.RxBytes.Load(),
			TxBytes: c.TxBytes.Load(), Drops: c.DropTotal(), Reasons: words(&c.Drops), WouldDrop: words(&c.Would)}
		s.Domus = append(s.Domus, d)
	}
	s.Warnings = append(s.Warnings, unwatched...)
	r.addOffloaded(&s)
	var err error
	if s.HostUplink, err = r.hostUplink(wd); err != nil {
		s.Warnings = append(s.Warnings, fmt.Sprintf("host.uplink: what its rules count cannot be read: %v", err))
	}
	return s
}

// process asks the runtime, which does not stop for it.
func process() ProcessStatus {
	m := []metrics.Sample{{Name: "/sched/goroutines:goroutines"}, {Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(m)
	return ProcessStatus{Goroutines: m[0].Value.Uint64(), Heap: m[1].Value.Uint64()}
}

// hostUplink reads what the rules of host.uplink count.
func (r *Router) hostUplink(wd *world) ([]HostRuleStatus, error) {
	list := []HostRuleStatus{}
	host := wd.plan.config.Host
	if r.HostUplink == nil || host == nil || host.Uplink == nil {
		return list, nil
	}
	chain := host.Uplink
	counts, err := r.HostUplink()
	if err == nil && len(counts) != len(chain.Rules)+1 {
		err = fmt.Errorf("there are %d counters for %d rules", len(counts), len(chain.Rules))
	}
	if err != nil {
		return list, err
	}
	for i, c := range counts {
		s := HostRuleStatus{Action: chain.Default.String(), Source: chain.Source, Packets: c.Packets, Bytes: c.Bytes}
		if i < len(chain.Rules) {
			rule := &chain.Rules[i]
			s.Rule, s.Action, s.Source = rule.Name, rule.Action.String(), rule.Source
		}
		list = append(list, s)
	}
	return list, nil
}

// words are counters by their reasons' words, without those that are 0.
func words(counters *[policy.Reasons]atomic.Uint64) map[string]uint64 {
	m := map[string]uint64{}
	for i := range counters {
		if n := counters[i].Load(); n > 0 {
			m[policy.Reason(i).String()] = n
		}
	}
	return m
}
