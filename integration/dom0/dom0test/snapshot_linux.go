// Package dom0test writes down a network namespace's whole configuration, so that a test can show that a run left
// no trace.
package dom0test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Snapshot describes a namespace: interfaces with all their attributes, bridge ports, forwarding database, addresses,
// routes of every table, rules, configured neighbours and proxies, sysctls, and nftables, one fact a line and in an order that
// does not depend on when things were made. Two snapshots of the same configuration are equal; counters, timers,
// learned entries, the progress of duplicate address detection and the numbers of interfaces are left out.
func Snapshot(ns netns.NsHandle) (string, error) {
	var out string
	err := Do(ns, func() (err error) {
		out, err = snapshot()
		return err
	})
	return out, err
}

// Do runs f on a thread that is in the namespace. f must not leave goroutines behind that need it.
func Do(ns netns.NsHandle, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		old, err := netns.Get()
		if err == nil {
			err = netns.Set(ns)
		}
		if err == nil {
			err = f()
		}
		if old.IsOpen() {
			if netns.Set(old) == nil {
				runtime.UnlockOSThread()
			} // else the thread ends here
			old.Close()
		}
		done <- err
	}()
	return <-done
}

// writer collects lines.
type writer struct {
	lines []string
	names map[uint32]string // of interfaces
}

func (w *writer) line(format string, args ...any) {
	w.lines = append(w.lines, fmt.Sprintf(format, args...))
}

func snapshot() (string, error) {
	w := &writer{names: map[uint32]string{}}
	for _, step := range []func() error{
		w.links, w.ports, w.neighbours, w.addresses, w.routes, w.sysctls, w.tables,
	} {
		if err := step(); err != nil {
			return "", err
		}
	}
	sort.Strings(w.lines)
	return strings.Join(w.lines, "\n") + "\n", nil
}

// dump asks the kernel for a table, again when it changed meanwhile.
func dump(typ, res int, head ...nl.NetlinkRequestData) ([][]byte, error) {
	for range 10 {
		req := nl.NewNetlinkRequest(typ, unix.NLM_F_DUMP)
		for _, h := range head {
			req.AddData(h)
		}
		msgs, err := req.Execute(unix.NETLINK_ROUTE, uint16(res))
		if errors.Is(err, nl.ErrDumpInterrupted) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("dumping %d: %w", typ, err)
		}
		return msgs, nil
	}
	return nil, nl.ErrDumpInterrupted
}

// fields writes attributes in one line, see list.
func fields(b []byte, skip []uint16, nest map[uint16]func([]byte) string) string {
	return strings.Join(list(b, skip, nest), " ")
}

// each writes a line for every attribute, see list.
func (w *writer) each(what string, b []byte, skip []uint16, nest map[uint16]func([]byte) string) {
	for _, f := range list(b, skip, nest) {
		w.line("%s %s", what, f)
	}
}

// list writes attributes, but for those of skip; a nested one as the function of nest writes it.
func list(b []byte, skip []uint16, nest map[uint16]func([]byte) string) (out []string) {
	list, err := nl.ParseRouteAttr(b)
	if err != nil {
		return []string{"?" + hex.EncodeToString(b)}
	}
	for _, a := range list {
		t := a.Attr.Type &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		if slices.Contains(skip, t) {
			continue
		}
		v := hex.EncodeToString(a.Value)
		if f, ok := nest[t]; ok {
			if v = f(a.Value); v == "" {
				continue
			}
		}
		out = append(out, fmt.Sprintf("%d=%s", t, v))
	}
	sort.Strings(out)
	return out
}

func text(b []byte) string { return unix.ByteSliceToString(b) }

func (w *writer) name(b []byte) string {
	if len(b) < 4 {
		return "?"
	}
	i := nl.NativeEndian().Uint32(b)
	if n, ok := w.names[i]; ok {
		return n
	}
	return fmt.Sprintf("#%d", i)
}

// inSkip are attributes of IFLA_INET6 that change by themselves.
var inSkip = []uint16{unix.IFLA_INET6_FLAGS, unix.IFLA_INET6_STATS, unix.IFLA_INET6_CACHEINFO, unix.IFLA_INET6_ICMP6STATS, unix.IFLA_INET6_TOKEN}

// bridgeSkip are attributes of a bridge that change by themselves or follow from its address.
var bridgeSkip = []uint16{unix.IFLA_BR_ROOT_ID, unix.IFLA_BR_BRIDGE_ID, unix.IFLA_BR_HELLO_TIMER, unix.IFLA_BR_TCN_TIMER,
	unix.IFLA_BR_TOPOLOGY_CHANGE_TIMER, unix.IFLA_BR_GC_TIMER, unix.IFLA_BR_TOPOLOGY_CHANGE, unix.IFLA_BR_TOPOLOGY_CHANGE_DETECTED,
	unix.IFLA_BR_FDB_N_LEARNED, unix.IFLA_BR_MCAST_QUERIER_STATE}

func (w *writer) links() error {
	msgs, err := dump(unix.RTM_GETLINK, unix.RTM_NEWLINK, nl.NewIfInfomsg(unix.AF_UNSPEC), nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(1<<3)))
	if err != nil {
		return err
	}
	for _, m := range msgs {
		list, _ := nl.ParseRouteAttr(m[unix.SizeofIfInfomsg:])
		for _, a := range list {
			if a.Attr.Type == unix.IFLA_IFNAME {
				w.names[uint32(nl.DeserializeIfInfomsg(m).Index)] = text(a.Value)
			}
		}
	}
	nest := map[uint16]func([]byte) string{
		unix.IFLA_IFNAME: text,
		unix.IFLA_MASTER: w.name,
		unix.IFLA_AF_SPEC: func(b []byte) string {
			return "{" + fields(b, nil, map[uint16]func([]byte) string{
				unix.AF_INET6: func(b []byte) string { return "{" + fields(b, inSkip, nil) + "}" },
			}) + "}"
		},
		unix.IFLA_LINKINFO: func(b []byte) string {
			return "{" + fields(b, []uint16{unix.IFLA_INFO_XSTATS, unix.IFLA_INFO_SLAVE_KIND, unix.IFLA_INFO_SLAVE_DATA}, map[uint16]func([]byte) string{
				unix.IFLA_INFO_KIND: text,
				unix.IFLA_INFO_DATA: func(b []byte) string { return "{" + fields(b, bridgeSkip, nil) + "}" },
			}) + "}"
		},
	}
	skip := []uint16{unix.IFLA_STATS, unix.IFLA_STATS64, unix.IFLA_CARRIER_CHANGES, unix.IFLA_CARRIER_UP_COUNT, unix.IFLA_CARRIER_DOWN_COUNT,
		unix.IFLA_OPERSTATE,                            // follows the flags, up to a second late (net/core/link_watch.c)
		unix.IFLA_TSO_MAX_SIZE, unix.IFLA_TSO_MAX_SEGS} // nobody can set these two
	for _, m := range msgs {
		h := nl.DeserializeIfInfomsg(m)
		at := "link " + w.names[uint32(h.Index)]
		w.line("%s type %d flags %x", at, h.Type, h.Flags)
		skip := skip
		if h.Flags&unix.IFF_UP == 0 {
			skip = append(slices.Clone(skip), unix.IFLA_QDISC, unix.IFLA_CARRIER) // which the first coming up leaves behind
		}
		w.each(at, m[unix.SizeofIfInfomsg:], skip, nest)
	}
	return nil
}

func (w *writer) ports() error {
	msgs, err := dump(unix.RTM_GETLINK, unix.RTM_NEWLINK, nl.NewIfInfomsg(unix.AF_BRIDGE))
	if err != nil {
		return err
	}
	for _, m := range msgs {
		list, _ := nl.ParseRouteAttr(m[unix.SizeofIfInfomsg:])
		for _, a := range list {
			if a.Attr.Type&^unix.NLA_F_NESTED == unix.IFLA_PROTINFO {
				skip := []uint16{nl.IFLA_BRPORT_DESIGNATED_PORT, nl.IFLA_BRPORT_ID, nl.IFLA_BRPORT_NO, // by the order of joining
					nl.IFLA_BRPORT_MCAST_EHT_HOSTS_CNT, nl.IFLA_BRPORT_MCAST_N_GROUPS, nl.IFLA_BRPORT_ROOT_ID, nl.IFLA_BRPORT_BRIDGE_ID, nl.IFLA_BRPORT_TOPOLOGY_CHANGE_ACK, nl.IFLA_BRPORT_CONFIG_PENDING,
					nl.IFLA_BRPORT_MESSAGE_AGE_TIMER, nl.IFLA_BRPORT_FORWARD_DELAY_TIMER, nl.IFLA_BRPORT_HOLD_TIMER}
				w.each("port "+w.names[uint32(nl.DeserializeIfInfomsg(m).Index)], a.Value, skip, nil)
			}
		}
	}
	return nil
}

// neighbours are forwarding entries that were not learned, neighbours that were configured, and proxies.
func (w *writer) neighbours() error {
	const sizeofNdmsg = 12
	for _, q := range []struct {
		family, flags byte
	}{{unix.AF_BRIDGE, 0}, {unix.AF_UNSPEC, 0}, {unix.AF_INET, unix.NTF_PROXY}, {unix.AF_INET6, unix.NTF_PROXY}} {
		head := raw(make([]byte, sizeofNdmsg))
		head[0], head[10] = q.family, q.flags
		msgs, err := dump(unix.RTM_GETNEIGH, unix.RTM_NEWNEIGH, head)
		if err != nil {
			return err
		}
		for _, m := range msgs {
			state, flags := nl.NativeEndian().Uint16(m[8:]), m[10]
			const configured = unix.NUD_PERMANENT | unix.NUD_NOARP
			if state&configured == 0 && flags&(unix.NTF_EXT_LEARNED|unix.NTF_PROXY) == 0 {
				continue
			}
			if q.family == unix.AF_UNSPEC && state&unix.NUD_PERMANENT == 0 {
				continue // NOARP: of multicast addresses, made when used
			}
			if flags&unix.NTF_SELF != 0 {
				continue // a device's own filter: follows from its memberships
			}
			w.line("neigh %d %s state %x flags %x %s", m[0], w.name(m[4:]), state, flags,
				fields(m[sizeofNdmsg:], []uint16{unix.NDA_CACHEINFO, unix.NDA_PROBES}, map[uint16]func([]byte) string{unix.NDA_MASTER: w.name}))
		}
	}
	return nil
}

func (w *writer) addresses() error {
	msgs, err := dump(unix.RTM_GETADDR, unix.RTM_NEWADDR, nl.NewIfAddrmsg(unix.AF_UNSPEC))
	if err != nil {
		return err
	}
	nest := map[uint16]func([]byte) string{
		unix.IFA_LABEL: text,
		unix.IFA_FLAGS: func(b []byte) string {
			const progress = unix.IFA_F_TENTATIVE | unix.IFA_F_OPTIMISTIC
			return fmt.Sprintf("%x", nl.NativeEndian().Uint32(b)&^progress)
		},
	}
	for _, m := range msgs {
		h := nl.DeserializeIfAddrmsg(m)
		w.line("addr %s /%d scope %d %s", w.names[h.Index], h.Prefixlen, h.Scope, fields(m[unix.SizeofIfAddrmsg:], []uint16{unix.IFA_CACHEINFO}, nest))
	}
	return nil
}

func (w *writer) routes() error {
	for _, q := range []struct {
		what     string
		typ, res int
	}{{"route", unix.RTM_GETROUTE, unix.RTM_NEWROUTE}, {"rule", unix.RTM_GETRULE, unix.RTM_NEWRULE}} {
		for _, f := range []uint8{unix.AF_INET, unix.AF_INET6} {
			msgs, err := dump(q.typ, q.res, &nl.RtMsg{RtMsg: unix.RtMsg{Family: f}})
			if err != nil {
				return err
			}
			nest := map[uint16]func([]byte) string{}
			var skip []uint16
			if q.what == "route" {
				nest[unix.RTA_OIF] = w.name
				skip = []uint16{unix.RTA_CACHEINFO}
			}
			for _, m := range msgs {
				h := nl.DeserializeRtMsg(m)
				if q.what == "route" && (h.Flags&unix.RTM_F_CLONED != 0 || h.Protocol == unix.RTPROT_KERNEL && h.Type != unix.RTN_UNICAST) {
					continue // of the cache, or following from addresses when their detection of duplicates is through
				}
				w.line("%s %x %s", q.what, m[:8], fields(m[unix.SizeofRtMsg:], skip, nest))
			}
		}
	}
	return nil
}

func (w *writer) sysctls() error {
	for _, pattern := range []string{"ipv4/conf/*/*", "ipv6/conf/*/*", "ipv4/neigh/*/*", "ipv6/neigh/*/*", "ipv4/ip_forward", "bridge/*"} {
		files, err := filepath.Glob("/proc/sys/net/" + pattern)
		if err != nil {
			return err
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				continue // write-only, or a secret that is not set
			}
			w.line("sysctl %s = %s", strings.TrimPrefix(f, "/proc/sys/net/"), strings.TrimSpace(string(b)))
		}
	}
	return nil
}

func (w *writer) tables() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("opening nftables: %w", err)
	}
	tables, err := c.ListTables()
	if err != nil {
		return fmt.Errorf("listing nftables tables: %w", err)
	}
	for _, t := range tables {
		w.line("nft %d %s", t.Family, t.Name)
		sets, err := c.GetSets(t)
		if err != nil {
			return fmt.Errorf("listing nftables sets: %w", err)
		}
		for _, s := range sets {
			w.line("nft %d %s set %s %s interval %v size %d", t.Family, t.Name, s.Name, s.KeyType.Name, s.Interval, s.Size)
			elems, err := c.GetSetElements(s)
			if err != nil {
				return fmt.Errorf("listing nftables set elements: %w", err)
			}
			for _, e := range elems {
				w.line("nft %d %s set %s has %x end %v", t.Family, t.Name, s.Name, e.Key, e.IntervalEnd)
			}
		}
	}
	chains, err := c.ListChains()
	if err != nil {
		return fmt.Errorf("listing nftables chains: %w", err)
	}
	for _, ch := range chains {
		at := fmt.Sprintf("nft %d %s chain %s", ch.Table.Family, ch.Table.Name, ch.Name)
		w.line("%s hook %s priority %s policy %s device %q", at, value(ch.Hooknum), value(ch.Priority), value(ch.Policy), ch.Device)
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil {
			return fmt.Errorf("listing nftables rules: %w", err)
		}
		for i, r := range rules {
			var parts []string
			for _, e := range r.Exprs {
				if n, ok := e.(*expr.Counter); ok {
					n.Bytes, n.Packets = 0, 0
				}
				b, err := json.Marshal(e)
				if err != nil {
					return fmt.Errorf("writing an nftables rule: %w", err)
				}
				parts = append(parts, fmt.Sprintf("%T%s", e, b))
			}
			w.line("%s rule %03d %s", at, i, strings.Join(parts, " "))
		}
	}
	return nil
}

func value[T any](p *T) string {
	if p == nil {
		return "-"
	}
	return fmt.Sprint(*p)
}

// raw is a request's fixed header.
type raw []byte

func (r raw) Len() int          { return len(r) }
func (r raw) Serialize() []byte { return r }
