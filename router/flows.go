package router

import (
	"cmp"
	"container/heap"
	"fmt"
	"math"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"udrouter/policy"
)

const (
	defaultFlows = 100
	maxListed    = 50_000 // flows of an answer

	muchLater = time.Duration(math.MaxInt64 / 2) // than any flow's last packet

	walkStep = 4096 // flows, after which a walk over all of them gives way, as a review
)

// FlowList is what GET /v1/flows answers, and `udrouter flows --json` prints. Fields are only ever added.
type FlowList struct {
	Matched int          `json:"matched"` // flows that the question selects
	Flows   []FlowRecord `json:"flows"`   // the first of them in the order that was asked for
}

// FlowRecord is a flow. Packets count a GSO frame once, bytes from the IP header on; times are in seconds.
type FlowRecord struct {
	Domu    string  `json:"domu"` // whose share it takes: who has opened it, or is at its other end
	From    string  `json:"from"` // who opened it: "uplink", "host" or "domu:NAME"
	To      string  `json:"to"`
	Proto   string  `json:"proto"`
	Src     string  `json:"src"` // with the port, or the identifier of echo, where there is one
	Dst     string  `json:"dst"`
	State   string  `json:"state"`
	Age     float64 `json:"age_s"`
	Idle    float64 `json:"idle_s"`
	Expires float64 `json:"expires_s"`

	Packets      uint64 `json:"packets"` // of who opened it
	Bytes        uint64 `json:"bytes"`
	ReplyPackets uint64 `json:"reply_packets"`
	ReplyBytes   uint64 `json:"reply_bytes"`

	Rule      string `json:"rule"`   // that admitted it; "": a default, or none
	Source    string `json:"source"` // file:line of that; "": none
	Shadow    bool   `json:"shadow"` // it would have been refused, were its policy not in shadow mode
	Offloaded bool   `json:"offloaded"`
}

// flowQuestion is the query of GET /v1/flows.
type flowQuestion struct {
	domu, state string
	proto       int // -1: any
	addr        netip.Prefix
	port        int // -1: any
	order       func(a, b *policy.Flow) int
	limit       int
}

// flowOrders are the orders in which flows are listed: the first is the first of the answer.
var flowOrders = map[string]func(a, b *policy.Flow) int{
	"bytes":   func(a, b *policy.Flow) int { return cmp.Compare(b.Bytes[0]+b.Bytes[1], a.Bytes[0]+a.Bytes[1]) },
	"packets": func(a, b *policy.Flow) int { return cmp.Compare(b.Packets[0]+b.Packets[1], a.Packets[0]+a.Packets[1]) },
	"age":     func(a, b *policy.Flow) int { return cmp.Compare(b.Opened, a.Opened) },                   // the youngest first
	"idle":    func(a, b *policy.Flow) int { return cmp.Compare(b.Idle(muchLater), a.Idle(muchLater)) }, // the longest first
}

// FlowOrders are the names of the orders of GET /v1/flows, the usual one first.
func FlowOrders() []string { return []string{"bytes", "packets", "age", "idle"} }

// parseFlowQuestion reads a query, all keys of which are optional.
func parseFlowQuestion(v url.Values) (q flowQuestion, err error) {
	q = flowQuestion{proto: -1, port: -1, order: flowOrders["bytes"], limit: defaultFlows}
	for key := range v {
		s := v.Get(key)
		if len(v[key]) > 1 {
			return q, fmt.Errorf("%s is there %d times: want one", key, len(v[key]))
		}
		switch key {
		case "domu":
			q.domu = s
		case "state":
			q.state = s
			if !slices.Contains(policy.FlowStates(), s) {
				return q, fmt.Errorf("state %q: want one of %s", s, strings.Join(policy.FlowStates(), ", "))
			}
		case "proto":
			var ok bool
			if q.proto, ok = policy.ParseProtoOrNumber(s); !ok {
				return q, fmt.Errorf("proto %q: want tcp, udp, icmp, icmpv6, or a number up to 255", s)
			}
		case "addr":
			if q.addr, err = parsePrefix(s); err != nil {
				return q, fmt.Errorf("addr %q: want an address or a prefix", s)
			}
		case "port":
			if q.port, err = strconv.Atoi(s); err != nil || q.port < 1 || q.port > 65535 {
				return q, fmt.Errorf("port %q: want a number from 1 to 65535", s)
			}
		case "sort":
			if q.order = flowOrders[s]; q.order == nil {
				return q, fmt.Errorf("sort %q: want one of %s", s, strings.Join(FlowOrders(), ", "))
			}
		case "limit":
			if q.limit, err = strconv.Atoi(s); err != nil || q.limit < 1 || q.limit > maxListed {
				return q, fmt.Errorf("limit %q: want a number from 1 to %d", s, maxListed)
			}
		default:
			return q, fmt.Errorf("there is no key %q", key)
		}
	}
	return q, nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(s)
	return netip.PrefixFrom(a, a.BitLen()), err
}

// selects tells whether a flow is meant.
func (q *flowQuestion) selects(f *policy.Flow) bool {
	src, dst := f.Src(), f.Dst()
	return (q.proto < 0 || int(f.Key.Proto) == q.proto) && (q.state == "" || f.State.String() == q.state) &&
		(!q.addr.IsValid() || q.addr.Contains(src.Addr()) || q.addr.Contains(dst.Addr())) &&
		(q.port < 0 || int(src.Port()) == q.port || int(dst.Port()) == q.port)
}

// owned is a flow and whose it is.
type owned struct {
	policy.Flow
	guest *policy.Guest
}

// lastOf is a heap with the last of an order on top.
type lastOf struct {
	list  []owned
	order func(a, b *policy.Flow) int
}

func (h *lastOf) Len() int           { return len(h.list) }
func (h *lastOf) Less(i, j int) bool { return h.order(&h.list[i].Flow, &h.list[j].Flow) > 0 }
func (h *lastOf) Swap(i, j int)      { h.list[i], h.list[j] = h.list[j], h.list[i] }
func (h *lastOf) Push(x any)         { h.list = append(h.list, x.(owned)) }
func (h *lastOf) Pop() any {
	x := h.list[len(h.list)-1]
	h.list = h.list[:len(h.list)-1]
	return x
}

// Flows lists flows by a query, whose keys are domu (at either end), state, proto, addr (an address or prefix of either end), port (of either end), sort (see FlowOrders) and limit.
// It looks at all flows, a few at a time, so that those that come or go meanwhile may be missed. An error says what is wrong with the query.
func (r *Router) Flows(query url.Values) (FlowList, error) {
	q, err := parseFlowQuestion(query)
	if err != nil {
		return FlowList{}, err
	}
	wd, now, looked := r.current.Load(), r.now(), 0
	first, out := &lastOf{order: q.order}, FlowList{Flows: []FlowRecord{}}
	var domu *policy.Guest
	if i := slices.IndexFunc(wd.Guests, func(g *policy.Guest) bool { return g.Name == q.domu }); i >= 0 {
		domu = wd.Guests[i]
	} else if q.domu != "" {
		return out, fmt.Errorf("there is no domu %q", q.domu)
	}
	for _, g := range wd.Guests {
		wd.engine.Flows(g).Each(now, func(f *policy.Flow) bool {
			if looked++; looked%walkStep == 0 {
				time.Sleep(reviewPause)
			}
			if domu != nil && f.From != domu.Side && f.To != domu.Side || !q.selects(f) {
				return true
			}
			out.Matched++
			if len(first.list) < q.limit {
				heap.Push(first, owned{*f, g})
			} else if q.order(f, &first.list[0].Flow) < 0 {
				first.list[0] = owned{*f, g}
				heap.Fix(first, 0)
			}
			return true
		})
	}
	slices.SortFunc(first.list, func(a, b owned) int { return q.order(&a.Flow, &b.Flow) })
	for i := range first.list {
		out.Flows = append(out.Flows, wd.record(&first.list[i].Flow, first.list[i].guest, now))
	}
	return out, nil
}

func (wd *world) record(f *policy.Flow, g *policy.Guest, now time.Duration) FlowRecord {
	end := func(a netip.AddrPort) string {
		if f.Key.APort == 0 && f.Key.BPort == 0 {
			return a.Addr().String()
		}
		return a.String()
	}
	rec := FlowRecord{
		Domu: g.Name, From: wd.sideName(f.From), To: wd.sideName(f.To), Proto: policy.ProtoName(int(f.Key.Proto)), Src: end(f.Src()), Dst: end(f.Dst()), State: f.State.String(),
		Age: max(now-f.Opened, 0).Seconds(), Idle: f.Idle(now).Seconds(), Expires: max(f.Expires()-now, 0).Seconds(),
		Packets: f.Packets[0], Bytes: f.Bytes[0], ReplyPackets: f.Packets[1], ReplyBytes: f.Bytes[1], Offloaded: f.Offloaded(),
	}
	id, shadow := f.Rule()
	if info, ok := wd.engine.Rule(id); ok {
		rec.Rule, rec.Source = info.Rule, info.Source
	}
	rec.Shadow = shadow
	return rec
}

// sideName names a side as questions do; "" for a guest that is gone.
func (wd *world) sideName(s policy.Side) string {
	switch s {
	case policy.SideUplink:
		return policy.Peer{Kind: policy.PeerUplink}.String()
	case policy.SideHost:
		return policy.Peer{Kind: policy.PeerHost}.String()
	}
	if g := wd.engine.Guest(s); g != nil {
		return policy.Peer{Kind: policy.PeerDomu, Domu: g.Name}.String()
	}
	return ""
}
