package dom0

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"udrouter/policy"
)

// remember writes down what was found of each device that will be changed and is not in the journal yet, and forgets
// what has gone. After it returns everything may be changed.
func (p *pass) remember() error {
	j, st := p.journal, p.st
	changed := !p.journalled
	note := func(l *link) *device {
		d := j.Devices[l.index]
		if d == nil {
			d = &device{Name: l.name}
			j.Devices[l.index] = d
			changed = true
		}
		return d
	}
	ipv6 := func(d *device, l *link) {
		if d.NoIPv6 == nil && l.hasIPv6 {
			d.NoIPv6, d.LinkLocals = &l.noIPv6, linkLocals(st.addresses, l.index)
			changed = true
		}
	}

	for index, d := range j.Devices {
		l := st.links[index]
		if l == nil {
			delete(j.Devices, index)
			changed = true
			continue
		}
		if d.Port != nil && !st.isPort(l) {
			// It left the bridge, and with that the kernel dropped its flags.
			d.Port = nil
			changed = true
			if d.Master == nil {
				if err := p.undoDevice(l, d); err != nil && !gone(err) {
					p.errs = append(p.errs, err)
					continue
				}
				delete(j.Devices, index)
			}
		}
	}
	if b := st.bridge; b != nil {
		if j.Created != "" && j.Created != b.mac.String() {
			j.Created, changed = "", true // somebody made another one
		}
		d := note(b)
		if d.Bridge == nil {
			d.Up, d.MTU, d.Bridge = &b.up, &b.mtu, map[string]uint32{}
			if len(st.ports) == 0 {
				d.MAC = b.mac.String()
			}
			for _, s := range bridgeSettings {
				if v, ok := s.value(b.bridge); ok {
					d.Bridge[s.name] = v
				}
			}
			changed = true
		}
		ipv6(d, b)
	}
	for index, f := range st.ports {
		l := st.links[index]
		if !st.isPort(l) {
			continue
		}
		d := note(l)
		// The TAP's flags are its own only if it was a port before.
		if d.Port == nil && (d.Master == nil || *d.Master == st.bridge.index) {
			d.Port = &portRecord{Flags: f, Entries: recordEntries(st.entries(index))}
			changed = true
		}
		// Without a router it passes nothing, whatever it was in the moment before it was locked, and also when hotplug names it no more.
		if d.Port != nil && slices.Contains(p.spec.Hotplugged, index) && !maps.Equal(d.Port.Flags, lockedFlags()) {
			d.Port.Flags, changed = lockedFlags(), true
		}
		ipv6(d, l)
	}
	if t := st.tap; t != nil {
		d := note(t)
		if d.Master == nil {
			d.Up, d.MTU, d.TxQueueLen, d.Master = &t.up, &t.mtu, &t.txqlen, &t.master
			changed = true
		}
		ipv6(d, t)
	}
	if t := st.hostTUN; t != nil {
		d := note(t)
		if d.Up == nil {
			d.Up, d.MTU, d.TxQueueLen, d.GenMode = &t.up, &t.mtu, &t.txqlen, &t.genMode
			changed = true
		}
		ipv6(d, t)
	}
	if !changed {
		return nil
	}
	if err := j.save(); err != nil {
		return err
	}
	p.journalled = true
	return nil
}

func recordEntries(list []fdbEntry) (out []staticEntry) {
	for _, e := range list {
		if !e.local() && !e.learned() {
			out = append(out, staticEntry{e.mac.String(), e.vlan, e.state, e.flags})
		}
	}
	return out
}

// undo puts everything back that the journal knows, the guard last, so that no moment on the way is more open than what was found.
// It goes on after a failure, and what could not be restored stays in the journal.
func (d *Dom0) undo(j *journal) error {
	var errs undoErrors
	links, err := d.rt.links()
	if err != nil {
		return err
	}
	byIndex := map[int]*link{}
	var bridge *link
	for _, l := range links {
		byIndex[l.index] = l
		if l.name == j.Bridge && l.kind == "bridge" {
			bridge = l
		}
	}
	order := slices.Sorted(maps.Keys(j.Devices))

	// 1. The TAP leaves, so that the router hears nobody who is not locked.
	for _, index := range order {
		l, rec := byIndex[index], j.Devices[index]
		if l == nil || rec.Master == nil || *rec.Master == l.master {
			continue
		}
		if *rec.Master == 0 || byIndex[*rec.Master] != nil {
			errs.add(wrap(d.rt.setMaster(index, *rec.Master), "taking %s out of %s", l.name, j.Bridge))
		}
	}
	// 2. dom0's routes.
	routes, err := d.rt.hostRoutes()
	errs.add(err)
	for _, r := range routes {
		errs.add(wrap(d.rt.delRoute(r), "removing the route %s", r))
	}
	// 3. The ports, and then the interfaces' other settings.
	if bridge != nil {
		errs.add(d.undoPorts(j, bridge, byIndex))
	}
	for _, index := range order {
		if l := byIndex[index]; l != nil && l != bridge {
			errs.add(d.undoDevice(l, j.Devices[index]))
		}
	}
	// 4. The bridge.
	if bridge != nil {
		errs.add(d.undoBridge(j, bridge))
	}
	// 5. The guard.
	errs.add(d.guard.remove())
	if len(errs) > 0 {
		return fmt.Errorf("restoring what was found: %w", errors.Join(errs...))
	}
	return j.remove()
}

// undoPorts restores flags and forwarding entries of the ports that are still the bridge's.
func (d *Dom0) undoPorts(j *journal, bridge *link, byIndex map[int]*link) error {
	fdb, err := d.rt.fdb(bridge.index)
	if err != nil {
		return err
	}
	var errs undoErrors
	for index, rec := range j.Devices {
		l := byIndex[index]
		if l == nil || rec.Port == nil || l.master != bridge.index {
			continue
		}
		var found []fdbEntry
		for _, s := range rec.Port.Entries {
			if mac, err := policy.ParseMAC(s.MAC); err == nil {
				found = append(found, fdbEntry{index, mac, s.VLAN, s.State, s.Flags})
			}
		}
		// While still locked: nothing is learned before the flags are back.
		for _, e := range fdb {
			if e.port == index && !e.local() && !slices.Contains(found, e) {
				errs.add(wrap(d.rt.delFDB(e), "removing %s from %s", e.mac, l.name))
			}
		}
		for _, e := range found {
			if !slices.Contains(fdb, e) {
				errs.add(wrap(d.rt.setFDB(e), "putting %s back on %s", e.mac, l.name))
			}
		}
		errs.add(wrap(d.rt.setPort(index, rec.Port.Flags, false), "restoring the flags of %s", l.name))
	}
	return errors.Join(errs...)
}

// undoDevice restores what any interface has.
func (d *Dom0) undoDevice(l *link, rec *device) error {
	var errs undoErrors
	if rec.MTU != nil && *rec.MTU != l.mtu {
		errs.add(wrap(d.rt.setMTU(l.index, *rec.MTU), "restoring the MTU of %s", l.name))
	}
	if rec.TxQueueLen != nil && *rec.TxQueueLen != l.txqlen {
		errs.add(wrap(d.rt.setTxQueueLen(l.index, *rec.TxQueueLen), "restoring the queue length of %s", l.name))
	}
	if rec.Up != nil && *rec.Up != l.up {
		errs.add(wrap(d.rt.setUp(l.index, *rec.Up), "restoring the state of %s", l.name))
	}
	if rec.GenMode != nil && *rec.GenMode != l.genMode {
		errs.add(wrap(d.rt.setGenMode(l.index, *rec.GenMode), "restoring the address generation of %s", l.name))
	}
	if rec.NoIPv6 != nil && *rec.NoIPv6 != l.noIPv6 {
		v := 0
		if *rec.NoIPv6 {
			v = 1
		}
		errs.add(d.ns.setDisableIPv6(l.name, v))
	}
	if rec.NoIPv6 != nil && !*rec.NoIPv6 {
		errs.add(d.undoLinkLocals(l, rec.LinkLocals))
	}
	return errors.Join(errs...)
}

// undoLinkLocals gives the interface the link-local addresses that it had: those that the kernel has just made are of its present
// MAC, or were not there.
func (d *Dom0) undoLinkLocals(l *link, found []linkLocal) error {
	all, err := d.rt.addresses()
	if err != nil {
		return err
	}
	var errs undoErrors
	now := linkLocals(all, l.index)
	same := func(a linkLocal) func(linkLocal) bool {
		return func(b linkLocal) bool { return a.Prefix == b.Prefix }
	}
	addr := func(a linkLocal) address {
		return address{link: l.index, prefix: a.Prefix, scope: unix.RT_SCOPE_LINK, flags: a.Flags, proto: a.Proto}
	}
	for _, a := range now {
		if a.Proto == ifaProtoKernelLL && !slices.ContainsFunc(found, same(a)) {
			errs.add(wrap(d.rt.delAddress(addr(a)), "removing %s from %s", a.Prefix, l.name))
		}
	}
	for _, a := range found {
		if !slices.ContainsFunc(now, same(a)) {
			errs.add(wrap(d.rt.addAddress(addr(a)), "putting %s back on %s", a.Prefix, l.name))
		}
	}
	return errors.Join(errs...)
}

// undoBridge deletes the bridge if it was created here and nobody else's port is in it, or restores it.
func (d *Dom0) undoBridge(j *journal, b *link) error {
	rec := j.Devices[b.index]
	if j.Created != "" && j.Created == b.mac.String() {
		ports, err := d.portsOf(b.index)
		if err != nil {
			return err
		}
		if len(ports) == 0 {
			return wrap(d.rt.delLink(b.index), "deleting bridge %s", b.name)
		}
		d.log.Warn(fmt.Sprintf("dom0: bridge %s stays, for there are ports in it", b.name), "ports", ports)
	}
	if rec == nil {
		return nil
	}
	var errs undoErrors
	for _, s := range slices.Backward(bridgeSettings) {
		if v, ok := rec.Bridge[s.name]; ok {
			if have, ok := s.value(b.bridge); ok && have != v {
				errs.add(wrap(s.set(d.rt, b.index, v), "restoring %s of %s", s.name, b.name))
			}
		}
	}
	errs.add(d.undoDevice(b, rec))
	// A bridge takes its address from its ports. One that had none has lost its own with the TAP.
	if mac, err := policy.ParseMAC(rec.MAC); err == nil {
		now, err := d.rt.links()
		errs.add(err)
		for _, l := range now {
			if l.index == b.index && l.mac.IsZero() {
				errs.add(wrap(d.rt.setMAC(b.index, mac), "restoring the address of %s", b.name))
			}
		}
	}
	return errors.Join(errs...)
}

func (d *Dom0) portsOf(bridge int) (names []string, err error) {
	links, err := d.rt.links()
	for _, l := range links {
		if l.master == bridge {
			names = append(names, l.name)
		}
	}
	return names, err
}

// undoErrors are failures to restore something that is still there.
type undoErrors []error

func (u *undoErrors) add(err error) {
	if err != nil && !gone(err) {
		*u = append(*u, err)
	}
}

// wrap adds what was being done; nil stays nil.
func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), err)
}
