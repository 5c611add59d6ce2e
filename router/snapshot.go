package router

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"net/netip"
	"sync/atomic"
	"time"

	"udrouter/policy"
	"udrouter/stack"
)

// A snapshot is what the next process goes on with: a magic, a version and the length of what follows, JSON about all but the flows, the flows
// as policy.Flow.AppendState writes them, and the CRC-32C of all before it; numbers are big-endian. Packets that wait for a neighbour, datagrams in
// fragments, link-local addresses that guests have been seen with, another address that the router took for itself, and what the shares of ICMP errors
// and ARP are owed are left out.
const (
	snapshotMagic   = "udrouter"
	snapshotVersion = 1
	snapshotHeader  = len(snapshotMagic) + 8
	maxSnapshotMeta = 64 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type snapshotMeta struct {
	FlowLen    int               `json:"flow_len"`
	Taken      int64             `json:"taken"`           // CLOCK_BOOTTIME, in ns as all times here
	Ahead      int64             `json:"ahead,omitempty"` // the flows' ages are those of so much later
	Uptime     int64             `json:"uptime"`
	PickUp     int64             `json:"pick_up"` // what is left of it
	Reloads    uint64            `json:"reloads"`
	Hits       uint64            `json:"hits"`
	Offloaded  uint64            `json:"offload_hits"`
	Foreign    uint64            `json:"foreign"`
	Drops      map[string]uint64 `json:"drops"`
	Would      map[string]uint64 `json:"would"`
	Links      []snapshotLink    `json:"links"`
	Guests     []snapshotGuest   `json:"guests"`
	Neighbours []snapshotHop     `json:"neighbours"`
	Advertised []string          `json:"advertised"` // MACs of guests that have been told of the router; null where nobody has, or an older program does not say
}

type snapshotLink struct {
	Name     string            `json:"name"`
	Counters [6]uint64         `json:"counters"`
	Drops    map[string]uint64 `json:"drops"`
}

type snapshotGuest struct {
	Name     string            `json:"name"`
	Side     policy.Side       `json:"side"`
	Counters [4]uint64         `json:"counters"`
	Drops    map[string]uint64 `json:"drops"`
	Would    map[string]uint64 `json:"would"`
	Owed     [6]int64          `json:"owed"`
	Seen     bool              `json:"seen"`
	Present  []snapshotAddr    `json:"present"`
}

type snapshotAddr struct {
	Addr netip.Addr `json:"addr"`
	For  int64      `json:"for"`
}

type snapshotHop struct {
	Addr netip.Addr `json:"addr"`
	MAC  string     `json:"mac"`
}

// linkCounters are a link's, in the order of snapshotLink; nil for a link that does not count.
func linkCounters(l stack.Link) (st *stack.Stats, list [6]*atomic.Uint64) {
	c, ok := l.(interface{ Counters() *stack.Stats })
	if !ok {
		return nil, list
	}
	st = c.Counters()
	return st, [...]*atomic.Uint64{&st.RxPackets, &st.RxBytes, &st.TxPackets, &st.TxBytes, &st.Errors, &st.Reopened}
}

func guestCounters(c *policy.GuestCounters) [4]*atomic.Uint64 {
	return [...]*atomic.Uint64{&c.RxPackets, &c.RxBytes, &c.TxPackets, &c.TxBytes}
}

// save writes a snapshot, of flows only what has changed since rounds listed them; none: all. Nobody forwards meanwhile.
func (r *Router) save(out io.Writer, rounds flowRounds) error {
	r.countStrangers()
	wd, now := r.current.Load(), r.now()
	m := snapshotMeta{FlowLen: policy.FlowStateLen, Taken: bootTime(), Uptime: int64(time.Since(r.started)), PickUp: int64(max(wd.engine.PicksUp()-now, 0)),
		Reloads: r.reloads.Load(), Hits: r.hits.Load(), Drops: words(&r.drops), Would: words(&r.would)}
	guests, all := r.offloaded()
	m.Offloaded = r.offloadedBefore.Load() + all.Packets[policy.Egress] + all.Packets[policy.Ingress]
	if u, ok := r.Uplink.(*stack.Uplink); ok {
		m.Foreign = u.Foreign.Load()
	}
	for _, l := range r.links {
		if st, counters := linkCounters(l); st != nil {
			s := snapshotLink{Name: l.Name(), Drops: words(&st.Drops)}
			for i, c := range counters {
				s.Counters[i] = c.Load()
			}
			for i, n := range r.passed(l.Name(), all) {
				s.Counters[i] += n
			}
			m.Links = append(m.Links, s)
		}
	}
	for i, g := range wd.Guests {
		s := snapshotGuest{Name: g.Name, Side: g.Side, Drops: words(&g.Counters.Drops), Would: words(&g.Counters.Would), Owed: wd.engine.Meter(g).Owed(now)}
		for i, c := range guestCounters(g.Counters) {
			s.Counters[i] = c.Load()
		}
		in, out := policy.Ingress, policy.Egress
		for i, n := range [...]uint64{guests[g.Side].Packets[in], guests[g.Side].Bytes[in], guests[g.Side].Packets[out], guests[g.Side].Bytes[out]} {
			s.Counters[i] += n
		}
		s.Seen, s.Present = wd.states[i].saved(now)
		m.Guests = append(m.Guests, s)
	}
	for _, n := range r.neighbours.all() {
		if mac, ok := n.mac(); ok {
			m.Neighbours = append(m.Neighbours, snapshotHop{n.addr, mac.String()})
		}
	}
	m.Advertised = r.advertiser.hearers()
	return m.write(out, now, func(f func(*policy.Flow)) {
		if len(rounds) > 0 {
			for r.list(rounds, f, nil) > 0 { // the sweep may move flows meanwhile to where they were passed over
			}
			return
		}
		for _, g := range wd.Guests {
			wd.engine.Flows(g).Save(now, f)
		}
	})
}

// write writes a snapshot with the flows that each passes to its argument, as they are at the time now.
func (m *snapshotMeta) write(out io.Writer, now time.Duration, each func(func(*policy.Flow))) error {
	meta, err := json.Marshal(m)
	if err != nil {
		return err
	}
	sum := crc32.New(castagnoli)
	w := bufio.NewWriterSize(io.MultiWriter(out, sum), 1<<20)
	head := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32([]byte(snapshotMagic), snapshotVersion), uint32(len(meta)))
	_, _ = w.Write(append(head, meta...)) // Flush tells of errors
	var b []byte
	each(func(f *policy.Flow) {
		b = f.AppendState(b[:0], now)
		_, _ = w.Write(b)
	})
	if err := w.Flush(); err != nil {
		return err
	}
	_, err = out.Write(sum.Sum(nil))
	return err
}

// readSnapshot checks a snapshot of size bytes and returns what stands before the flows, and where and how many those are.
func readSnapshot(f io.ReaderAt, size int64) (m snapshotMeta, flows *io.SectionReader, err error) {
	head := make([]byte, snapshotHeader)
	if size < int64(snapshotHeader)+4 || size > int64(snapshotHeader)+maxSnapshotMeta+int64(maxFlows)*int64(policy.FlowStateLen)+4 {
		return m, nil, fmt.Errorf("it has %d bytes", size)
	}
	if _, err := f.ReadAt(head, 0); err != nil {
		return m, nil, err
	}
	if string(head[:len(snapshotMagic)]) != snapshotMagic {
		return m, nil, errors.New("it is none")
	}
	if v := binary.BigEndian.Uint32(head[len(snapshotMagic):]); v != snapshotVersion {
		return m, nil, fmt.Errorf("its version is %d, and this program's %d", v, snapshotVersion)
	}
	sum, want := crc32.New(castagnoli), make([]byte, 4)
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, size-4)); err != nil {
		return m, nil, err
	}
	if _, err := f.ReadAt(want, size-4); err != nil {
		return m, nil, err
	}
	if !bytes.Equal(sum.Sum(nil), want) {
		return m, nil, errors.New("its checksum is wrong")
	}
	at := int64(snapshotHeader) + int64(binary.BigEndian.Uint32(head[len(snapshotMagic)+4:]))
	if at > size-4 || at > int64(snapshotHeader)+maxSnapshotMeta {
		return m, nil, errors.New("it is cut off")
	}
	if err := json.NewDecoder(io.NewSectionReader(f, int64(snapshotHeader), at-int64(snapshotHeader))).Decode(&m); err != nil {
		return m, nil, err
	}
	n := size - 4 - at
	if m.FlowLen != policy.FlowStateLen || n%int64(m.FlowLen) != 0 || n/int64(m.FlowLen) > int64(maxFlows) {
		return m, nil, fmt.Errorf("its flows have %d bytes of %d each", n, m.FlowLen)
	}
	return m, io.NewSectionReader(f, at, n), nil
}

// Restore goes on with a snapshot of size bytes, before Run. Guests are known by their names, and flows live on as far as the bindings and the
// policy admit what opened them. On an error nothing of it is taken.
func (r *Router) Restore(f io.ReaderAt, size int64) error {
	m, flows, err := readSnapshot(f, size)
	if err != nil {
		return fmt.Errorf("reading what the router before this one knew: %w", err)
	}
	wd, now, ago := r.current.Load(), r.now(), m.ago()
	r.stopped = m.Taken
	r.started = r.started.Add(-time.Duration(m.Uptime) - ago)
	r.reloads.Store(m.Reloads)
	r.hits.Store(m.Hits)
	r.offloadedBefore.Store(m.Offloaded)
	addWords(&r.drops, m.Drops)
	addWords(&r.would, m.Would)
	if u, ok := r.Uplink.(*stack.Uplink); ok {
		u.Foreign.Add(m.Foreign)
	}
	if left := min(time.Duration(m.PickUp), PickUpTime) - ago; left > 0 {
		wd.engine.PickUp(now + left)
	}
	for _, s := range m.Links {
		for _, l := range r.links {
			if st, counters := linkCounters(l); st != nil && l.Name() == s.Name {
				for i, c := range counters {
					c.Add(s.Counters[i])
				}
				addWords(&st.Drops, s.Drops)
			}
		}
	}
	for _, s := range m.Guests {
		for i, g := range wd.Guests {
			if g.Name != s.Name {
				continue
			}
			for i, c := range guestCounters(g.Counters) {
				c.Add(s.Counters[i])
			}
			addWords(&g.Counters.Drops, s.Drops)
			addWords(&g.Counters.Would, s.Would)
			wd.engine.Meter(g).Owe(s.Owed, now-ago)
			wd.states[i].restore(&s, now-ago)
		}
	}
	r.neighbours.restore(m.Neighbours)
	r.advertiser.restore(m.Advertised)
	taken, refused := r.adopt(m, flows)
	r.log.Info("flows of the router before this one were taken over", "flows", taken, "refused", refused)
	return nil
}

// ago is how long ago a snapshot was taken.
func (m *snapshotMeta) ago() time.Duration {
	return time.Duration(min(max(bootTime()-m.Taken, 0), math.MaxInt64/4))
}

// adopt takes over the flows of a snapshot, and returns how many there are now, and how many it has refused.
func (r *Router) adopt(m snapshotMeta, in io.Reader) (all, refused int) {
	wd := r.current.Load()
	then := r.now() - m.ago() + time.Duration(min(max(m.Ahead, 0), int64(roundAhead)))
	sides := map[policy.Side]policy.Side{policy.SideUplink: policy.SideUplink, policy.SideHost: policy.SideHost}
	for _, s := range m.Guests {
		for _, g := range wd.Guests {
			if g.Name == s.Name {
				sides[s.Side] = g.Side
			}
		}
	}
	buffered, b := bufio.NewReaderSize(in, 1<<20), make([]byte, policy.FlowStateLen)
	for {
		if _, err := io.ReadFull(buffered, b); err != nil {
			break
		}
		f, ok := policy.ReadFlow(b, then)
		from, knowsFrom := sides[f.From]
		to, knowsTo := sides[f.To]
		f.From, f.To = from, to
		owner := wd.engine.Guest(from)
		if owner == nil {
			owner = wd.engine.Guest(to)
		}
		if !ok || !knowsFrom || !knowsTo || owner == nil || !wd.admits(&f) || !wd.engine.Flows(owner).Adopt(f, r.now()) {
			refused++
		}
	}
	for _, g := range wd.Guests {
		t := wd.engine.Flows(g)
		t.Order()
		all += t.Len()
	}
	return all, refused
}

// addWords adds to counters what words says of them; words that this program does not know are left out.
func addWords(counters *[policy.Reasons]atomic.Uint64, m map[string]uint64) {
	for i := range counters {
		counters[i].Add(m[policy.Reason(i).String()])
	}
}

// saved is whether a guest was seen, and the addresses that have shown themselves.
func (p *guestPresence) saved(now time.Duration) (seen bool, list []snapshotAddr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for a, until := range p.until {
		list = append(list, snapshotAddr{a, int64(until - now)})
	}
	return p.seen.Load(), list
}

func (p *guestPresence) restore(s *snapshotGuest, then time.Duration) {
	p.seen.Store(s.Seen)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range s.Present[:min(len(s.Present), maxPresent)] {
		if p.until == nil {
			p.until = map[netip.Addr]time.Duration{}
		}
		p.until[a.Addr] = then + time.Duration(min(max(a.For, 0), int64(longestTTL)))
	}
}

// longestTTL bounds what a snapshot says of how long an address counts as present.
const longestTTL = 24 * time.Hour

// restore has neighbours be known by the MACs that they had. Netstack asks for them anew, while packets go on to them.
func (s *neighbours) restore(list []snapshotHop) {
	for _, h := range list[:min(len(list), maxNeighbours)] {
		mac, err := policy.ParseMAC(h.MAC)
		if err != nil || mac.IsGroup() || mac.IsZero() || !h.Addr.IsValid() {
			continue
		}
		s.mu.Lock()
		n := s.m[h.Addr]
		s.mu.Unlock()
		if n != nil { // a gateway; other hosts are asked for with their next packet
			s.learned(n, mac)
		}
	}
}
