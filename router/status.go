package router

import (
	"time"

	"udrouter/policy"
	"udrouter/stack"
)

// Version is the router's own; the linker may set it.
var Version = "0.1.0-dev"

// Status is what `udrouter status --json` prints. Fields are only ever added. Packets and bytes count a GSO frame once.
type Status struct {
	Version       string            `json:"version"`
	Uptime        float64           `json:"uptime_s"`
	Links         []LinkStatus      `json:"links"`
	Domus         []DomuStatus      `json:"domus"`
	Flows         FlowStatus        `json:"flows"`
	Drops         map[string]uint64 `json:"drops"` // by reason; those that never happened are left out
	ForeignMAC    uint64            `json:"foreign_mac_uplink"`
	Reloads       uint64            `json:"reloads"`
	RouterMAC     string            `json:"router_mac"`
	UplinkAddress string            `json:"uplink_link_local"`
	Warnings      []string          `json:"warnings"`
}

// LinkStatus is a link's share of Status.
type LinkStatus struct {
	Name      string `json:"name"`
	RxPackets uint64 `json:"rx_packets"`
	TxPackets uint64 `json:"tx_packets"`
	RxBytes   uint64 `json:"rx_bytes"`
	TxBytes   uint64 `json:"tx_bytes"`
	Errors    uint64 `json:"errors"`
	Reopened  uint64 `json:"reopened"`
}

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
}

// FlowStatus counts flows: as yet those that dom0 has opened toward guests.
type FlowStatus struct {
	Active int `json:"active"`
	Max    int `json:"max"`
}

// Status is a snapshot; counters that belong together may be a packet apart.
func (r *Router) Status() Status {
	wd := r.current.Load()
	s := Status{
		Version: Version, Uptime: time.Since(r.started).Seconds(), Drops: map[string]uint64{},
		Flows:     FlowStatus{Active: r.hostFlows.Len(), Max: policy.MaxHostFlows},
		RouterMAC: r.RouterMAC.String(), UplinkAddress: wd.UplinkLL.String(), Warnings: append([]string{}, wd.warnings...),
		Links: []LinkStatus{}, Domus: []DomuStatus{},
	}
	for i := range r.drops {
		if n := r.drops[i].Load(); n > 0 {
			s.Drops[policy.Reason(i).String()] += n
		}
	}
	for _, link := range r.links {
		c, ok := link.(interface{ Counters() *stack.Stats })
		if !ok {
			continue
		}
		st := c.Counters()
		s.Links = append(s.Links, LinkStatus{Name: link.Name(), RxPackets: st.RxPackets.Load(), TxPackets: st.TxPackets.Load(),
			RxBytes: st.RxBytes.Load(), TxBytes: st.TxBytes.Load(), Errors: st.Errors.Load(), Reopened: st.Reopened.Load()})
		for i := range st.Drops {
			if n := st.Drops[i].Load(); n > 0 {
				s.Drops[policy.Reason(i).String()] += n
			}
		}
	}
	if u, ok := r.Uplink.(*stack.Uplink); ok {
		s.ForeignMAC = u.Foreign.Load()
	}
	for _, g := range wd.Guests {
		c := &g.Counters
		d := DomuStatus{Name: g.Name, RxPackets: c.RxPackets.Load(), TxPackets: c.TxPackets.Load(), RxBytes: c.RxBytes.Load(),
			TxBytes: c.TxBytes.Load(), Drops: c.DropTotal(), Reasons: map[string]uint64{}}
		for i := range c.Drops {
			if n := c.Drops[i].Load(); n > 0 {
				d.Reasons[policy.Reason(i).String()] = n
			}
		}
		s.Domus = append(s.Domus, d)
	}
	return s
}
