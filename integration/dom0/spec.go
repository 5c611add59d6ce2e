package dom0

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"udrouter/policy"
)

// Spec is what dom0's kernel shall look like while the router runs.
type Spec struct {
	// Uplink is the interface toward the provider. It has to exist at Open; later it may go and come back.
	Uplink string

	// Bridge joins the guests' vifs. It is created when missing, and deleted by Close if it was.
	Bridge string

	// MTU of the bridge, the TAP and the host TUN in bytes; 0 leaves them.
	MTU int
	// TxQueueLen is the least length of TAP's and host TUN's transmit queues, in packets.
	TxQueueLen int

	// TAP is the router's port, made by package stack before Open; later it may go and come back.
	TAP string

	// RouterMAC is the router's address toward guests. It must not be the TAP's own: a bridge keeps frames to
	// a port's own address for itself.
	RouterMAC policy.MAC

	// Isolate keeps guests from exchanging frames in the bridge.
	Isolate bool

	// Ports are the guests' vifs. Those that do not exist yet are locked when they come. A port of
	// the bridge that is not among them passes nothing.
	Ports []Port

	// Hotplugged are the indexes of the interfaces that hotplug has named, whether a guest is bound to them or not. They have joined the bridge for a router, so
	// that they stay locked when everything else is put back.
	Hotplugged []int

	// HostTUN is dom0's way to the guests, made by package stack; "" for none.
	HostTUN string

	// HostRoutes lead to HostTUN.
	HostRoutes []netip.Prefix

	// Guests are the networks' prefixes, Bound the guests' addresses, Answered the gateways that the router answers for.
	// Of all of them the kernel takes nothing in from the uplink and forwards nothing, unless it holds the address.
	Guests   []netip.Prefix
	Bound    []netip.Prefix
	Answered []netip.Addr

	// UplinkLL is the router's own link-local address on the uplink, for which the same holds; zero for none.
	UplinkLL netip.Addr

	// HostUplink are the rules for what comes by the uplink to dom0 itself; nil: none at all, dom0's firewall is the user's. Everyone
	// there is "uplink", dom0 is "host", and guests are neither: what names them there matches nothing.
	HostUplink *policy.Chain

	// StateDir holds the lock and the journal, such as /run/udrouter.
	StateDir string

	// Log tells what is done; nil for silence.
	Log *slog.Logger
}

// Port is a guest's vif and the source addresses that it may use.
type Port struct {
	Vif   string
	Index int // of the interface; another one of the name is not the guest's. 0: it is, whichever has the name
	MACs  []policy.MAC
}

// maxName is the longest interface name (IFNAMSIZ of linux/if.h with its NUL is 16).
const maxName = 15

// validate finds what no kernel state can mend. The messages name the field as the configuration does.
func (s *Spec) validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	names := map[string]string{}
	name := func(what, n string, optional bool) {
		if n == "" && optional {
			return
		}
		if n == "" || len(n) > maxName {
			fail("%s: %q is not an interface name of 1 to %d bytes", what, n, maxName)
			return
		}
		if other, ok := names[n]; ok {
			fail("%s and %s are both named %s", other, what, n)
		}
		names[n] = what
	}
	name("uplink", s.Uplink, false)
	name("bridge", s.Bridge, false)
	name("tap", s.TAP, false)
	name("host interface", s.HostTUN, true)

	owner := map[policy.MAC]string{s.RouterMAC: "the router"}
	if s.RouterMAC.IsZero() || s.RouterMAC.IsGroup() {
		fail("the router's MAC %s is not a station's", s.RouterMAC)
	}
	for _, p := range s.Ports {
		name("vif", p.Vif, false)
		for _, m := range p.MACs {
			if m.IsZero() || m.IsGroup() {
				fail("%s: MAC %s is not a station's", p.Vif, m)
				continue
			}
			if other, ok := owner[m]; ok {
				fail("%s: MAC %s is already bound to %s", p.Vif, m, other)
			}
			owner[m] = p.Vif
		}
	}
	if s.MTU < 0 || s.MTU > 0 && s.MTU < 68 {
		fail("mtu %d is less than 68, which IPv4 needs", s.MTU)
	}
	if s.StateDir == "" {
		fail("no state directory")
	}
	if len(s.HostRoutes) > 0 && s.HostTUN == "" {
		fail("routes to the host interface without one")
	}
	for _, list := range [][]netip.Prefix{s.HostRoutes, s.Guests, s.Bound} {
		for _, p := range list {
			if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
				fail("%s is not a prefix", p)
			}
		}
	}
	if c := s.HostUplink; c != nil {
		if c.Default < policy.Accept || c.Default > policy.Reject {
			fail("host.uplink: the default %s is no action", c.Default)
		}
		for i := range c.Rules {
			if what := badRule(&c.Rules[i]); what != "" {
				fail("host.uplink: rule %q: %s", c.Rules[i].Name, what)
			}
		}
	}
	return errors.Join(errs...)
}

// maxRuleName keeps a rule's comment in what the kernel stores of it.
const maxRuleName = 200 // bytes

// badRule tells what is wrong with a rule, as package config would not have let it through.
func badRule(r *policy.Rule) string {
	switch {
	case r.Name == "" || len(r.Name) > maxRuleName:
		return fmt.Sprintf("its name is not of 1 to %d bytes", maxRuleName)
	case r.Action < policy.Accept || r.Action > policy.Reject:
		return "it has no action"
	case r.Proto != policy.AnyProto && (r.Proto < 0 || r.Proto > 255):
		return fmt.Sprintf("%d is not a protocol", r.Proto)
	case len(r.Ports) > 0 && r.Proto != policy.ProtoTCP && r.Proto != policy.ProtoUDP:
		return "only tcp and udp have ports"
	}
	for _, p := range r.Ports {
		if p.First == 0 || p.First > p.Last {
			return fmt.Sprintf("%d-%d is not a range of ports", p.First, p.Last)
		}
	}
	for _, p := range slices.Concat(r.From, r.To) {
		if p.Kind == policy.PeerPrefix && (!p.Prefix.IsValid() || p.Prefix != p.Prefix.Masked() || p.Prefix.Addr().Is4In6()) {
			return fmt.Sprintf("%s is not a prefix", p.Prefix)
		}
	}
	return ""
}

// guestPrefixes is every address that belongs to guests, as prefixes of which none contains another, in order.
// Link-local ones are left out, since the same address may be someone else's on the uplink, but for the router's own there.
func (s *Spec) guestPrefixes() []netip.Prefix {
	all := slices.Concat(s.Guests, s.Bound)
	for _, a := range s.Answered {
		all = append(all, netip.PrefixFrom(a, a.BitLen()))
	}
	all = slices.DeleteFunc(all, func(p netip.Prefix) bool { return p.Addr().IsLinkLocalUnicast() })
	if s.UplinkLL.IsValid() {
		all = append(all, netip.PrefixFrom(s.UplinkLL, s.UplinkLL.BitLen()))
	}
	return mergePrefixes(all)
}

// mergePrefixes puts prefixes in order and leaves out what another contains.
func mergePrefixes(list []netip.Prefix) (out []netip.Prefix) {
	all := slices.Clone(list)
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	for _, p := range all {
		// A container sorts before what it contains.
		if n := len(out); n > 0 && out[n-1].Contains(p.Addr()) {
			continue
		}
		out = append(out, p)
	}
	return out
}

// port is the guest on that vif, or nil.
func (s *Spec) port(vif string) *Port {
	for i := range s.Ports {
		if s.Ports[i].Vif == vif {
			return &s.Ports[i]
		}
	}
	return nil
}
