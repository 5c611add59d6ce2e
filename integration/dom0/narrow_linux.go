package dom0

import (
	"errors"
	"net/netip"
	"reflect"
	"slices"

	"udrouter/policy"
)

// Narrow has the kernel let pass only what both the present spec and the next one admit, until Update. Between the two the router changes over: without
// it, a MAC that goes from one guest's vif to another's would for a moment have the rights of its former owner. Ports whose MACs stay are left alone. On an
// error the kernel is as it was.
func (d *Dom0) Narrow(next Spec) error {
	if err := next.validate(); err != nil {
		return err
	}
	d.mu.Lock()
	old := d.spec
	d.mu.Unlock()
	both := narrow(old, next)
	if reflect.DeepEqual(both, old) {
		return nil
	}
	if err := d.Update(both); err != nil {
		return errors.Join(err, d.Update(old))
	}
	return nil
}

// narrow is what two specs have in common of what they admit, and all of what either refuses. Routes and host.uplink stay the old one's.
func narrow(old, next Spec) Spec {
	s := old.clone()
	s.Isolate = old.Isolate || next.Isolate
	s.Ports = nil
	for _, p := range old.Ports {
		both := Port{Vif: p.Vif, Index: p.Index}
		if n := next.port(p.Vif); n != nil && n.Index == p.Index {
			both.MACs = slices.DeleteFunc(slices.Clone(p.MACs), func(m policy.MAC) bool { return !slices.Contains(n.MACs, m) })
		}
		s.Ports = append(s.Ports, both)
	}
	for _, p := range next.Ports {
		if old.port(p.Vif) == nil {
			s.Ports = append(s.Ports, Port{Vif: p.Vif, Index: p.Index})
		}
	}
	s.Guests, s.Bound, s.Answered = either(old.Guests, next.Guests), either(old.Bound, next.Bound), either(old.Answered, next.Answered)
	return s
}

// either is what is in one of two lists, the first one's order kept.
func either[T netip.Addr | netip.Prefix](a, b []T) []T {
	list := slices.Clone(a)
	for _, x := range b {
		if !slices.Contains(a, x) {
			list = append(list, x)
		}
	}
	return list
}
