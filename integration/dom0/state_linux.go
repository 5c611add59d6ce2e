package dom0

import (
	"net/netip"

	"udrouter/policy"
)

// state is what the kernel has, read at the start of a pass.
type state struct {
	links     map[int]*link
	ports     map[int]portFlags // of the bridge
	states    map[int]uint8     // of its ports
	fdb       []fdbEntry
	addresses []address

	// Those that the spec names; nil when they are not there.
	uplink, bridge, tap, hostTUN *link
}

// observe reads what a pass compares with the spec.
func (d *Dom0) observe() (*state, error) {
	links, err := d.rt.links()
	if err != nil {
		return nil, err
	}
	st := &state{links: make(map[int]*link, len(links))}
	for _, l := range links {
		st.links[l.index] = l
		switch l.name {
		case d.spec.Uplink:
			st.uplink = l
		case d.spec.Bridge:
			st.bridge = l
		case d.spec.TAP:
			st.tap = l
		case d.spec.HostTUN:
			st.hostTUN = l
		}
	}
	if st.bridge != nil {
		if st.ports, st.states, err = d.rt.ports(st.bridge.index); err != nil {
			return nil, err
		}
		if st.fdb, err = d.rt.fdb(st.bridge.index); err != nil {
			return nil, err
		}
	}
	st.addresses, err = d.rt.addresses()
	return st, err
}

// isPort tells whether the interface is a port of the bridge.
func (st *state) isPort(l *link) bool {
	return l != nil && st.bridge != nil && l.master == st.bridge.index
}

// held is every address of the prefixes that the kernel has, and of the uplink's its broadcast addresses: where the
// guests' network is the uplink's, they are dom0's as well.
func (st *state) held(prefixes []netip.Prefix) (out []netip.Addr) {
	seen := map[netip.Addr]bool{}
	add := func(a netip.Addr) {
		if !a.IsValid() || seen[a] {
			return
		}
		for _, p := range prefixes {
			if p.Contains(a) {
				seen[a] = true
				out = append(out, a)
				return
			}
		}
	}
	for _, a := range st.addresses {
		add(a.prefix.Addr())
		if st.uplink != nil && a.link == st.uplink.index {
			add(a.broadcast)
			if a.prefix.Addr().Is4() && a.prefix.Bits() < 31 {
				add(lastAddr(a.prefix)) // is one whether it was configured or not
			}
		}
	}
	return out
}

// linkLocals are the device's, for an undo that has to make them again. The kernel's own are among them: it made them of the
// address that the device had then.
func linkLocals(list []address, index int) (out []linkLocal) {
	for _, a := range list {
		if a.link == index && a.prefix.Addr().Is6() && a.prefix.Addr().IsLinkLocalUnicast() {
			out = append(out, linkLocal{a.prefix, a.flags, a.proto})
		}
	}
	return out
}

// entries are the forwarding entries on a port.
func (st *state) entries(port int) (out []fdbEntry) {
	for _, e := range st.fdb {
		if e.port == port {
			out = append(out, e)
		}
	}
	return out
}

// role is what a port of the bridge is there for.
type role uint8

const (
	roleStranger role = iota // no guest is bound to it
	roleGuest
	roleTAP
)

// want is what a port of the bridge shall be like.
func (d *Dom0) want(l *link) (r role, f portFlags, macs []policy.MAC) {
	switch p := d.spec.port(l.name); {
	case l.name == d.spec.TAP:
		r, macs = roleTAP, []policy.MAC{d.spec.RouterMAC}
	case p != nil && (p.Index == 0 || p.Index == l.index):
		r, macs = roleGuest, p.MACs
	}
	f = make(portFlags, len(flags))
	for _, fl := range flags {
		f[fl.name] = [...]uint8{fl.stranger, fl.guest, fl.tap}[r]
	}
	if r == roleGuest && !d.spec.Isolate {
		f["isolated"] = 0
	}
	return r, f, macs
}

// plan tells which forwarding entries of a port have to be set and which to go. What dom0 itself answers to (the
// interfaces' own addresses) stays: a lock drops frames from it.
func (st *state) plan(port int, macs []policy.MAC) (set, del []fdbEntry) {
	good := map[policy.MAC]bool{}
	for _, m := range macs {
		good[m] = false
	}
	for _, e := range st.entries(port) {
		_, wanted := good[e.mac]
		switch {
		case e.local():
		case wanted && e.bound():
			good[e.mac] = true
		case wanted && e.flags&ntfExtLearned == 0: // replaced in place
		default:
			del = append(del, e)
		}
	}
	for _, m := range macs {
		if !good[m] {
			set = append(set, fdbEntry{port: port, mac: m, state: nudNoARP, flags: ntfSticky})
		}
	}
	return set, del
}

// localTo is the interface whose own address that is in the bridge, or nil.
func (st *state) localTo(m policy.MAC) *link {
	for _, e := range st.fdb {
		if e.mac == m && e.local() {
			return st.links[e.port]
		}
	}
	return nil
}

// secured are the ports that were read as they shall be. Only they may exchange frames.
func (d *Dom0) secured(st *state) (out []uint32) {
	for index := range st.ports {
		l := st.links[index]
		if !st.isPort(l) {
			continue
		}
		r, f, macs := d.want(l)
		set, del := st.plan(index, macs)
		if r != roleStranger && st.ports[index].equal(f) && st.ports[index].supported() && len(set)+len(del) == 0 {
			out = append(out, uint32(index))
		}
	}
	return out
}

// supported tells whether the kernel's bridge can lock and isolate ports (Linux 5.18).
func (p portFlags) supported() bool {
	_, locked := p["locked"]
	_, isolated := p["isolated"]
	return locked && isolated
}
