package dom0

import (
	"fmt"
	"slices"
	"strings"
)

// PortSecured tells whether an interface is a guest's port of the bridge, and frames pass by it: as the spec, and the kernel's state as it is now, have it.
// Else the error says what it is instead.
func (d *Dom0) PortSecured(vif string, index int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errClosed
	}
	st, err := d.observe()
	if err != nil {
		return err
	}
	l := st.links[index]
	switch {
	case l == nil || l.name != vif:
		return fmt.Errorf("there is no interface %s any more", vif)
	case !st.isPort(l):
		return fmt.Errorf("%s is no port of bridge %s: `ip link set %s master %s`", vif, d.spec.Bridge, vif, d.spec.Bridge)
	}
	if r, _, _ := d.want(l); r != roleGuest {
		return fmt.Errorf("%s is locked: no guest is bound to it", vif)
	}
	if _, err := d.sync(); err != nil { // it may have joined only now
		return explain(err)
	}
	if !slices.Contains(d.guard.contents.secured, uint32(index)) {
		return fmt.Errorf("%s is not secured yet", vif)
	}
	return nil
}

// Interfaces are those of the namespace, indexes by name.
func (d *Dom0) Interfaces() (map[string]int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, errClosed
	}
	return d.rt.indexes()
}

// Interfaces are those of the calling thread's network namespace, indexes by name.
func Interfaces() (map[string]int, error) {
	ns, rt, err := openNS()
	if err != nil {
		return nil, err
	}
	defer ns.close()
	defer rt.close()
	return rt.indexes()
}

func openNS() (ns *netNS, rt *rtnl, err error) {
	if ns, err = openNetNS(); err != nil {
		return nil, nil, err
	}
	if rt, err = openRtnl(ns); err != nil {
		ns.close()
		return nil, nil, err
	}
	return ns, rt, nil
}

// indexes of the interfaces by name.
func (r *rtnl) indexes() (map[string]int, error) {
	links, err := r.links()
	if err != nil {
		return nil, err
	}
	out := make(map[string]int, len(links))
	for _, l := range links {
		out[l.name] = l.index
	}
	return out, nil
}

// Rename gives an interface of the calling thread's network namespace another name. Where that is done already it does nothing; a name that
// is another interface's is an error.
func Rename(from, to string) error {
	ns, rt, err := openNS()
	if err != nil {
		return err
	}
	defer ns.close()
	defer rt.close()
	indexes, err := rt.indexes()
	if err != nil {
		return err
	}
	was, is := indexes[from], indexes[to]
	switch {
	case strings.HasPrefix(to, "-"):
		return fmt.Errorf("%s cannot be named %q: programs would take it for an option", from, to)
	case from == to || was == 0 && is != 0:
		return nil
	case was == 0:
		return fmt.Errorf("%s: no such interface", from)
	case is != 0:
		return fmt.Errorf("%s cannot be named %s: there is an interface of that name", from, to)
	}
	return explain(wrap(rt.setName(was, to), "naming %s %s", from, to))
}

// LockPort makes an interface of the calling thread's network namespace a port of the bridge that passes nothing, as a port is that no guest is
// bound to, and brings it up, but not before it is locked. mtu, in bytes, is the interface's; 0 is the bridge's. A router that runs, or starts later, goes on from
// there. One that does not join is only locked, if it is a port; that of another bridge is an error, since nothing would open it. It returns the interface's index.
// An interface that has addresses is dom0's and does not join.
func LockPort(vif, bridge string, joins bool, mtu int) (index int, err error) {
	ns, rt, err := openNS()
	if err != nil {
		return 0, err
	}
	defer ns.close()
	defer rt.close()
	links, err := rt.links()
	if err != nil {
		return 0, err
	}
	var l, b *link
	for _, o := range links {
		switch o.name {
		case vif:
			l = o
		case bridge:
			b = o
		}
	}
	switch {
	case l == nil:
		return 0, fmt.Errorf("%s: no such interface", vif)
	case !joins && l.master == 0:
		return l.index, nil
	case !joins && (b == nil || l.master != b.index):
		return 0, fmt.Errorf("%s is in another bridge than %s, the router's", vif, bridge)
	case b == nil || b.kind != "bridge":
		return 0, fmt.Errorf("%s: no such bridge: udrouter makes it when it runs, or dom0's network configuration does", bridge)
	}
	if l.master != b.index {
		addrs, err := rt.addresses()
		if err != nil {
			return 0, err
		}
		for _, a := range addrs {
			if a.link == l.index && !a.prefix.Addr().IsLinkLocalUnicast() {
				return 0, fmt.Errorf("%s has the address %s, so it is dom0's and no guest's port", vif, a.prefix)
			}
		}
	}
	return l.index, explain(rt.lockPort(ns, l, b, joins, mtu))
}

// lockPort makes l a locked port of b. What joins is given its MTU and brought up.
func (r *rtnl) lockPort(ns *netNS, l, b *link, joins bool, mtu int) error {
	if l.master != b.index {
		if l.up { // nothing may pass before the lock
			if err := r.setUp(l.index, false); err != nil {
				return wrap(err, "taking down %s", l.name)
			}
		}
		if err := r.setMaster(l.index, b.index); err != nil {
			return wrap(err, "joining %s to %s", l.name, b.name)
		}
	}
	locked := lockedFlags()
	ports, _, err := r.ports(b.index)
	if err != nil {
		return err
	}
	// A router that runs may have been here before: what it has bound stays bound.
	if have := ports[l.index]; have["locked"] != 1 || have["isolated"] != 1 {
		if err := r.setPort(l.index, locked, true); err != nil {
			return wrap(err, "locking %s", l.name)
		}
	}
	if l.hasIPv6 && !l.noIPv6 {
		if err := ns.setDisableIPv6(l.name, 1); err != nil {
			return err
		}
	}
	if mtu == 0 && joins {
		mtu = b.mtu
	}
	if mtu != 0 && l.mtu != mtu {
		if err := r.setMTU(l.index, mtu); err != nil {
			return wrap(err, "setting the MTU of %s to %d", l.name, mtu)
		}
	}
	if !joins {
		return nil
	}
	return wrap(r.setUp(l.index, true), "bringing up %s", l.name)
}

// Namespace tells the boot and, by a number that no other namespace of the boot has, the calling thread's network namespace.
func Namespace() (boot string, cookie uint64, err error) {
	ns, err := openNetNS()
	if err != nil {
		return "", 0, err
	}
	defer ns.close()
	boot, err = bootID()
	return boot, ns.cookie, err
}
