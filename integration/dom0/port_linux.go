package dom0

import (
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"udrouter/policy"
)

// flag is a switch of a bridge port (IFLA_BRPORT_*), one octet each.
type flag struct {
	name string // as bridge(8) calls it
	attr uint16
	// what it is on a guest's port, on the TAP's and on one that no guest is bound to
	guest, tap, stranger uint8
}

// flags are the switches that decide what passes; a port's others are left alone. Of the floods: the router's
// multicast and broadcast frames (RA, ND, ARP) have to reach guests, a frame to an address that is not in the forwarding
// database nobody: every station has a static entry.
var flags = []flag{
	{"locked", nl.IFLA_BRPORT_LOCKED, 1, 0, 1},
	{"isolated", nl.IFLA_BRPORT_ISOLATED, 1, 0, 1}, // a guest's: Spec.Isolate
	{"learning", nl.IFLA_BRPORT_LEARNING, 0, 0, 0},
	{"mab", nl.IFLA_BRPORT_MAB, 0, 0, 0}, // adds entries on a locked port
	{"flood", nl.IFLA_BRPORT_UNICAST_FLOOD, 0, 0, 0},
	{"mcast_flood", nl.IFLA_BRPORT_MCAST_FLOOD, 1, 1, 0},
	{"bcast_flood", nl.IFLA_BRPORT_BCAST_FLOOD, 1, 1, 0},
	{"hairpin", nl.IFLA_BRPORT_MODE, 0, 0, 0},
	{"proxy_arp", nl.IFLA_BRPORT_PROXYARP, 0, 0, 0},
	{"proxy_arp_wifi", nl.IFLA_BRPORT_PROXYARP_WIFI, 0, 0, 0},
	{"neigh_suppress", nl.IFLA_BRPORT_NEIGH_SUPPRESS, 0, 0, 0},
}

// portFlags are a port's switches by name; one that the kernel does not know is missing.
type portFlags map[string]uint8

// lockedFlags are those of a port that no guest is bound to.
func lockedFlags() portFlags {
	locked := portFlags{}
	for _, f := range flags {
		locked[f.name] = f.stranger
	}
	return locked
}

// portForwarding is the state of a port through which frames pass (linux/if_bridge.h BR_STATE_FORWARDING).
const portForwarding = 3

// ports lists the switches and the states of a bridge's ports by their indexes.
func (r *rtnl) ports(bridge int) (map[int]portFlags, map[int]uint8, error) {
	msgs, err := r.dump(unix.RTM_GETLINK, nl.NewIfInfomsg(unix.AF_BRIDGE))
	if err != nil {
		return nil, nil, fmt.Errorf("listing bridge ports: %w", err)
	}
	out, states := map[int]portFlags{}, map[int]uint8{}
	for _, m := range msgs {
		if len(m) < unix.SizeofIfInfomsg {
			continue
		}
		port := parseAttrs(m[unix.SizeofIfInfomsg:])
		info, ok := port[unix.IFLA_PROTINFO]
		if !ok {
			continue // the bridge itself
		}
		// Whose port it is has to come from the same message as its switches: it may just have moved to another bridge.
		if v, _ := port.uint32(unix.IFLA_MASTER); int(v) != bridge {
			continue
		}
		a, p := parseAttrs(info), portFlags{}
		for _, f := range flags {
			if v, ok := a.uint8(f.attr); ok {
				p[f.name] = v
			}
		}
		index := int(nl.DeserializeIfInfomsg(m).Index)
		out[index] = p
		states[index], _ = a.uint8(nl.IFLA_BRPORT_STATE)
	}
	return out, states, nil
}

// setPort sets a port's switches in one request: the bridge applies them together. flush then removes what the port has
// learned, in the same request and after the switches, so that nothing is learned anew in between.
func (r *rtnl) setPort(index int, p portFlags, flush bool) error {
	m := nl.NewIfInfomsg(unix.AF_BRIDGE)
	m.Index = int32(index)
	info := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	for _, f := range flags {
		if v, ok := p[f.name]; ok {
			info.AddRtAttr(int(f.attr), []byte{v})
		}
	}
	if flush {
		info.AddRtAttr(nl.IFLA_BRPORT_FLUSH, nil)
	}
	return r.set(unix.RTM_SETLINK, 0, m, info)
}

// noticeCarrier asks about one interface, which has the kernel act at once on a carrier that came (rtnl_getlink since Linux 6.8).
// By itself it does so up to a second later (net/core/link_watch.c), and the port is closed until then.
func (r *rtnl) noticeCarrier(index int) (carrier bool, err error) {
	m := nl.NewIfInfomsg(unix.AF_UNSPEC)
	m.Index = int32(index)
	msgs, err := r.request(unix.RTM_GETLINK, 0, m)
	if err != nil {
		return false, err
	}
	return len(msgs) == 1 && len(msgs[0]) >= unix.SizeofIfInfomsg && nl.DeserializeIfInfomsg(msgs[0]).Flags&unix.IFF_LOWER_UP != 0, nil
}

// equal tells whether the kernel's switches are as wanted, as far as the kernel has them.
func (p portFlags) equal(want portFlags) bool {
	for name, v := range want {
		if have, ok := p[name]; ok && have != v {
			return false
		}
	}
	return true
}

// fdbEntry is an entry of a bridge's forwarding database.
type fdbEntry struct {
	port  int // index of the port, or of the bridge for its own
	mac   policy.MAC
	vlan  uint16
	state uint16 // NUD_*
	flags uint8  // NTF_*
}

// local: frames to it go up to dom0 and frames from it are dropped by a lock.
func (e fdbEntry) local() bool { return e.state&nudPermanent != 0 }

// learned: it was not set by anyone, and comes back by itself.
func (e fdbEntry) learned() bool { return e.state&nudNoARP == 0 && e.flags&ntfExtLearned == 0 }

// bound: it is as this package sets it.
func (e fdbEntry) bound() bool {
	return e.state == nudNoARP && e.flags&ntfSticky != 0 && e.flags&ntfExtLearned == 0
}

// fdb lists a bridge's forwarding database.
func (r *rtnl) fdb(bridge int) ([]fdbEntry, error) {
	h := &ndmsg{family: unix.AF_BRIDGE}
	msgs, err := r.dump(unix.RTM_GETNEIGH, h, uint32Attr(unix.NDA_MASTER, uint32(bridge)))
	if err != nil {
		return nil, fmt.Errorf("listing the forwarding database: %w", err)
	}
	var out []fdbEntry
	for _, m := range msgs {
		if len(m) < ndmsgLen {
			continue
		}
		a := parseAttrs(m[ndmsgLen:])
		if v, ok := a.uint32(unix.NDA_MASTER); !ok || int(v) != bridge || m[10]&ntfSelf != 0 {
			continue // a device's own list, or another bridge's
		}
		e := fdbEntry{port: int(int32(ne.Uint32(m[4:]))), state: ne.Uint16(m[8:]), flags: m[10] &^ (ntfMaster | ntfSelf)}
		if copy(e.mac[:], a[unix.NDA_LLADDR]) != len(e.mac) {
			continue
		}
		if b := a[unix.NDA_VLAN]; len(b) >= 2 {
			e.vlan = ne.Uint16(b)
		}
		out = append(out, e)
	}
	return out, nil
}

// setFDB adds the entry, or moves and changes the one of its address. The kernel adds one without a VLAN to all
// of the port's.
func (r *rtnl) setFDB(e fdbEntry) error {
	return r.set(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, e.request()...)
}

// delFDB removes the entry if it is on that port.
func (r *rtnl) delFDB(e fdbEntry) error {
	e.flags = 0
	return r.set(unix.RTM_DELNEIGH, 0, e.request()...)
}

func (e fdbEntry) request() []nl.NetlinkRequestData {
	h := &ndmsg{family: unix.AF_BRIDGE, index: uint32(e.port), state: e.state, flags: e.flags | ntfMaster}
	parts := []nl.NetlinkRequestData{h, nl.NewRtAttr(unix.NDA_LLADDR, e.mac[:])}
	if e.vlan != 0 {
		parts = append(parts, nl.NewRtAttr(unix.NDA_VLAN, nl.Uint16Attr(e.vlan)))
	}
	return parts
}

// ndmsg is struct ndmsg of linux/neighbour.h.
type ndmsg struct {
	family uint8
	index  uint32
	state  uint16
	flags  uint8
}

const ndmsgLen = 12

func (h *ndmsg) Len() int { return ndmsgLen }

func (h *ndmsg) Serialize() []byte {
	b := make([]byte, ndmsgLen)
	b[0] = h.family
	ne.PutUint32(b[4:], h.index)
	ne.PutUint16(b[8:], h.state)
	b[10] = h.flags
	return b
}
