package dom0

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	mdnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"udrouter/policy"
)

// TableName is the name of this package's nftables tables, one in each of the families netdev, inet and bridge.
const TableName = "udrouter"

// Priorities of the guard's chains; host.uplink has its own, see prioInput.
const (
	prioFirst = -500 // netdev and bridge: before any other rule
	prioRaw   = -450 // inet: before conntrack's defragmentation (NF_IP_PRI_CONNTRACK_DEFRAG, -400)
)

// Sizes of sets. A set of a declared size is a plain hash table, a lookup in which costs a third of that in a
// resizable one (measured: 40 against 130 ns).
const (
	minHeldSize    = 256
	minSecuredSize = 1024
)

// What the socket may hold at a time, in bytes; nothing is allocated before it is needed. A transaction is one message, which the kernel's
// default (208 KiB) would limit to a few hundred rules, and each rule is answered twice.
const (
	sendBuffer    = 64 << 20
	receiveBuffer = 256 << 20
)

// shape is all that the guard's rules depend on. When it changes the tables are replaced; contents change alone.
type shape struct {
	uplink, bridge, tap, hostTUN string
	uplinkIndex, bridgeIndex     int // 0: not there; another index is another device
	guests                       string
	heldSize, securedSize        uint32
	vifsSize                     uint32
	input                        *policy.Chain // host.uplink; another pointer is another chain
}

// contents are the parts of the guard that follow the kernel's state.
type contents struct {
	held    []netip.Addr // addresses of the guests' prefixes that the kernel holds, each once
	secured []uint32     // indexes of ports that may exchange frames, each once
	vifs    []string     // names of the router's and the guests' ports, each once
}

// guard is the nftables part. Not for concurrent use.
type guard struct {
	conn      *nftables.Conn
	portID    *atomic.Uint32 // netlink address of conn: notifications of its own changes carry it
	ns        *netNS
	setID     uint32 // of the last set; the library would take it from a counter that is not for concurrent use
	installed bool
	shape     shape
	contents  contents
	untracked error                     // why connections from before host.uplink may not be known to the kernel
	dialled   func(portID uint32) error // told of another socket; nil: nobody
}

func openGuard(ns *netNS) (*guard, error) {
	g := &guard{ns: ns, portID: new(atomic.Uint32)}
	return g, g.dial()
}

// dial opens a socket of the namespace. A batch that failed leaves answers in the old one.
func (g *guard) dial() error {
	if g.conn != nil {
		_ = g.conn.CloseLasting()
	}
	err := g.ns.do(func() (err error) {
		g.conn, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *mdnetlink.Conn) error {
			// Forced past the machine's limits where the privilege suffices.
			if err := errors.Join(c.SetWriteBuffer(sendBuffer), c.SetReadBuffer(receiveBuffer)); err != nil {
				return err
			}
			raw, err := c.SyscallConn()
			if err != nil {
				return err
			}
			return raw.Control(func(fd uintptr) {
				if a, err := unix.Getsockname(int(fd)); err == nil {
					g.portID.Store(a.(*unix.SockaddrNetlink).Pid)
				}
			})
		}))
		return err
	})
	if err != nil {
		return fmt.Errorf("opening nftables netlink: %w", err)
	}
	if g.dialled != nil {
		return g.dialled(g.portID.Load())
	}
	return nil
}

func (g *guard) close() { _ = g.conn.CloseLasting() }

// flush commits what was queued, all or nothing.
func (g *guard) flush() error {
	err := g.conn.Flush()
	if err != nil {
		g.installed = false
		if e := g.dial(); e != nil {
			return e
		}
	}
	return err
}

// apply brings the tables to that state in one transaction and tells whether anything had to change.
func (g *guard) apply(s shape, prefixes []netip.Prefix, c contents) (changed bool, err error) {
	s.heldSize = tableSize(len(c.held), minHeldSize)
	s.securedSize = tableSize(len(c.secured), minSecuredSize)
	s.vifsSize = tableSize(len(c.vifs), minSecuredSize)
	// A table that has become larger than need be is kept: replacing it would lose its counters.
	if g.installed {
		s.heldSize = max(s.heldSize, g.shape.heldSize)
		s.securedSize = max(s.securedSize, g.shape.securedSize)
		s.vifsSize = max(s.vifsSize, g.shape.vifsSize)
	}
	s.guests = fmt.Sprint(prefixes)
	switch {
	case !g.installed || s != g.shape:
		if s.input != nil && (!g.installed || g.shape.input == nil) {
			if err := g.track(); err != nil {
				return false, err
			}
		}
		if err := g.install(s, prefixes, c); err != nil {
			return false, fmt.Errorf("installing the nftables tables %s: %w", TableName, err)
		}
	case !slices.Equal(c.held, g.contents.held) || !slices.Equal(c.secured, g.contents.secured) || !slices.Equal(c.vifs, g.contents.vifs):
		if err := g.update(c); err != nil {
			return false, fmt.Errorf("updating the nftables tables %s: %w", TableName, err)
		}
	default:
		return false, nil
	}
	g.installed, g.shape, g.contents = true, s, contents{slices.Clone(c.held), slices.Clone(c.secured), slices.Clone(c.vifs)}
	return true, nil
}

// tableSize leaves room to grow, in powers of two.
func tableSize(n int, least uint32) uint32 {
	for least < 2*uint32(n) {
		least *= 2
	}
	return least
}

// remove deletes the tables, those of an earlier run as well.
func (g *guard) remove() error {
	for _, f := range families {
		t := &nftables.Table{Name: TableName, Family: f}
		g.conn.AddTable(t) // so that there is one to delete
		g.conn.DelTable(t)
	}
	g.installed = false
	if err := g.flush(); err != nil {
		return fmt.Errorf("removing the nftables tables %s: %w", TableName, err)
	}
	return nil
}

var families = []nftables.TableFamily{nftables.TableFamilyNetdev, nftables.TableFamilyINet, nftables.TableFamilyBridge}

// install replaces the tables. Deleting and adding them happens in the same transaction, so there is no moment without
// rules and none with two of each.
func (g *guard) install(s shape, prefixes []netip.Prefix, c contents) error {
	table := map[nftables.TableFamily]*nftables.Table{}
	for _, f := range families {
		t := &nftables.Table{Name: TableName, Family: f}
		g.conn.AddTable(t)
		g.conn.DelTable(t)
		table[f] = g.conn.AddTable(t)
	}
	var guests4, guests6 []netip.Prefix
	for _, p := range prefixes {
		if p.Addr().Is4() {
			guests4 = append(guests4, p)
		} else {
			guests6 = append(guests6, p)
		}
	}
	for _, f := range []nftables.TableFamily{nftables.TableFamilyNetdev, nftables.TableFamilyINet} {
		held4, held6 := splitHeld(c.held)
		for _, err := range []error{
			g.addSet(table[f], setGuests4, nftables.TypeIPAddr, 0, intervals(guests4)),
			g.addSet(table[f], setGuests6, nftables.TypeIP6Addr, 0, intervals(guests6)),
			g.addSet(table[f], setHeld4, nftables.TypeIPAddr, s.heldSize, held4),
			g.addSet(table[f], setHeld6, nftables.TypeIP6Addr, s.heldSize, held6),
		} {
			if err != nil {
				return err
			}
		}
	}
	if err := g.addSet(table[nftables.TableFamilyBridge], setVifs, nftables.TypeIFName, s.vifsSize, names(c.vifs)); err != nil {
		return err
	}
	if err := g.addSet(table[nftables.TableFamilyBridge], setSecured, nftables.TypeIFIndex, s.securedSize, indexes(c.secured)); err != nil {
		return err
	}
	if s.input != nil {
		sets, _ := inputChains(s.uplink, s.input)
		for _, set := range sets {
			if err := g.addSet(table[nftables.TableFamilyINet], set.name, set.key, 0, set.elems); err != nil {
				return err
			}
		}
	}
	for _, ch := range chains(s) {
		t := table[ch.family]
		chain := &nftables.Chain{Name: ch.name, Table: t}
		if ch.hook != nil {
			kept := nftables.ChainPolicyAccept
			chain.Type, chain.Device, chain.Hooknum, chain.Policy = nftables.ChainTypeFilter, ch.device, ch.hook, &kept
			chain.Priority = nftables.ChainPriorityRef(nftables.ChainPriority(ch.priority))
		}
		chain = g.conn.AddChain(chain)
		for _, r := range ch.rules {
			rule := &nftables.Rule{Table: t, Chain: chain, Exprs: r.exprs}
			if r.comment != "" {
				rule.UserData = userdata.AppendString(nil, userdata.TypeComment, r.comment)
			}
			g.conn.AddRule(rule)
		}
	}
	return g.flush()
}

// addSet adds a set and its elements, so many at a time that a message stays under a netlink attribute's 64 KiB.
func (g *guard) addSet(t *nftables.Table, name string, key nftables.SetDatatype, size uint32, elems []nftables.SetElement) error {
	set := g.set(t, name, key)
	g.setID++
	set.ID, set.Size, set.Interval = g.setID, size, size == 0
	if err := g.conn.AddSet(set, nil); err != nil {
		return err
	}
	for chunk := range slices.Chunk(elems, 512) {
		if err := g.conn.SetAddElements(set, chunk); err != nil {
			return err
		}
	}
	return nil
}

func (g *guard) set(t *nftables.Table, name string, key nftables.SetDatatype) *nftables.Set {
	s := &nftables.Set{Table: t, Name: name, KeyType: key, KeyByteOrder: binaryutil.BigEndian}
	if key.Name == nftables.TypeIFIndex.Name || key.Name == nftables.TypeIFName.Name {
		s.KeyByteOrder = binaryutil.NativeEndian
	}
	return s
}

// update adds and deletes elements, in one transaction for all tables.
func (g *guard) update(c contents) error {
	change := func(t *nftables.Table, name string, key nftables.SetDatatype, old, now []nftables.SetElement) error {
		set := g.set(t, name, key)
		for chunk := range slices.Chunk(without(old, now), 512) {
			if err := g.conn.SetDeleteElements(set, chunk); err != nil {
				return err
			}
		}
		for chunk := range slices.Chunk(without(now, old), 512) {
			if err := g.conn.SetAddElements(set, chunk); err != nil {
				return err
			}
		}
		return nil
	}
	old4, old6 := splitHeld(g.contents.held)
	now4, now6 := splitHeld(c.held)
	for _, f := range []nftables.TableFamily{nftables.TableFamilyNetdev, nftables.TableFamilyINet} {
		t := &nftables.Table{Name: TableName, Family: f}
		if err := change(t, setHeld4, nftables.TypeIPAddr, old4, now4); err != nil {
			return err
		}
		if err := change(t, setHeld6, nftables.TypeIP6Addr, old6, now6); err != nil {
			return err
		}
	}
	t := &nftables.Table{Name: TableName, Family: nftables.TableFamilyBridge}
	if err := change(t, setSecured, nftables.TypeIFIndex, indexes(g.contents.secured), indexes(c.secured)); err != nil {
		return err
	}
	if err := change(t, setVifs, nftables.TypeIFName, names(g.contents.vifs), names(c.vifs)); err != nil {
		return err
	}
	return g.flush()
}

func names(vifs []string) (out []nftables.SetElement) {
	for _, v := range vifs {
		out = append(out, nftables.SetElement{Key: ifname(v)})
	}
	return out
}

// without is the elements of a that b lacks.
func without(a, b []nftables.SetElement) []nftables.SetElement {
	have := map[string]bool{}
	for _, e := range b {
		have[string(e.Key)] = true
	}
	var out []nftables.SetElement
	for _, e := range a {
		if !have[string(e.Key)] {
			out = append(out, e)
		}
	}
	return out
}

func splitHeld(held []netip.Addr) (v4, v6 []nftables.SetElement) {
	for _, a := range held {
		if a.Is4() {
			v4 = append(v4, nftables.SetElement{Key: a.AsSlice()})
		} else {
			v6 = append(v6, nftables.SetElement{Key: a.AsSlice()})
		}
	}
	return v4, v6
}

func indexes(list []uint32) (out []nftables.SetElement) {
	for _, i := range list {
		out = append(out, nftables.SetElement{Key: binaryutil.NativeEndian.PutUint32(i)})
	}
	return out
}

// intervals writes prefixes as half-open intervals: the kernel's form of a set of ranges. Neighbours become one.
func intervals(list []netip.Prefix) (out []nftables.SetElement) {
	for _, p := range list {
		first := p.Addr().AsSlice()
		if n := len(out); n > 0 && slices.Equal(out[n-1].Key, first) {
			out = out[:n-1] // the previous one ends where this one starts
		} else {
			out = append(out, nftables.SetElement{Key: first})
		}
		if end := lastAddr(p).Next(); end.IsValid() {
			out = append(out, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return out
}

func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Counters tells how many packets each kind of rule has stopped since its table was installed, by the rule's
// comment; of host.uplink, how many each rule has decided on. Replacing the tables (another uplink, other networks, other rules)
// starts them again at 0.
func (d *Dom0) Counters() (map[string]uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, errClosed
	}
	sum := map[string]uint64{}
	for _, ch := range chains(d.guard.shape) {
		for _, r := range ch.rules {
			if slices.ContainsFunc(r.exprs, isCounter) {
				sum[r.comment] += 0
			}
		}
		if err := d.guard.count(ch, func(comment string, n *expr.Counter) { sum[comment] += n.Packets }); err != nil {
			return nil, err
		}
	}
	if in := d.guard.shape.input; in != nil {
		for i := range in.Rules {
			sum[CountInputRule(in.Rules[i].Name)] += 0 // also of those that can match nothing
		}
	}
	maps.DeleteFunc(sum, func(k string, _ uint64) bool { return k == "" })
	return sum, nil
}

// count reads the counters of a chain, each with the comment of its rule.
func (g *guard) count(ch chain, f func(comment string, n *expr.Counter)) error {
	t := &nftables.Table{Name: TableName, Family: ch.family}
	rules, err := g.conn.GetRules(t, &nftables.Chain{Name: ch.name, Table: t})
	if err != nil {
		return fmt.Errorf("reading the counters of nftables table %s: %w", TableName, err)
	}
	for _, r := range rules {
		comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
		for _, e := range r.Exprs {
			if n, ok := e.(*expr.Counter); ok {
				f(comment, n)
			}
		}
	}
	return nil
}

func isCounter(e expr.Any) bool {
	_, ok := e.(*expr.Counter)
	return ok
}
