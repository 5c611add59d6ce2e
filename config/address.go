package config

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"udrouter/policy"
)

// family is the version of IP that a key wants.
type family uint8

const (
	anyIP family = iota
	ip4
	ip6
)

func (f family) String() string {
	return [...]string{"IP", "IPv4", "IPv6"}[f]
}

// example addresses and prefixes are from the documentation ranges (RFC 5737, RFC 3849).
func (f family) address() string {
	if f == ip6 {
		return `an IPv6 address in quotes, such as "2001:db8::1"`
	}
	return fmt.Sprintf(`an %v address in quotes, such as "192.0.2.1"`, f)
}

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return ip4
	}
	return ip6
}

// full is the prefix that holds one address only.
func full(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// parseAddr reads an address and reports what is none. Zones and IPv4-mapped addresses are refused, because
// neither occurs in a packet.
func (r *reporter) parseAddr(s string, at hcl.Range) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		if p, perr := netip.ParsePrefix(s); perr == nil {
			r.errorf(at, "Prefix where an address is wanted", "Write one address, without its length: %q.", p.Addr())
		} else {
			r.malformed(s, at, "address", "")
		}
	case a.Zone() != "":
		r.errorf(at, "Address with a zone", "Write the address without %q; which interface is meant is clear here.", excerpt("%"+a.Zone()))
	case a.Is4In6():
		r.errorf(at, "IPv4-mapped address", "No packet carries such an address. Write %q.", a.Unmap())
	default:
		return a, true
	}
	return netip.Addr{}, false
}

// parsePrefix reads a prefix, or an address as the prefix that holds it alone, and reports what is neither.
// The result may have host bits.
func (r *reporter) parsePrefix(s string, at hcl.Range) (netip.Prefix, bool) {
	if !strings.Contains(s, "/") {
		a, ok := r.parseAddr(s, at)
		if !ok {
			return netip.Prefix{}, false
		}
		return full(a), true
	}
	p, err := netip.ParsePrefix(s)
	switch addr, _, _ := strings.Cut(s, "/"); {
	case strings.Contains(s, "%"):
		r.errorf(at, "Prefix with a zone", "Write the prefix without the %% and what follows it; which interface is meant is clear here.")
	case err != nil:
		hint := ""
		if a, aerr := netip.ParseAddr(addr); aerr == nil {
			hint = fmt.Sprintf(" The length after / is a number from 0 to %d.", a.BitLen())
		}
		r.malformed(s, at, "prefix", hint)
	case p.Addr().Is4In6():
		r.errorf(at, "IPv4-mapped prefix", "No packet carries such an address. Write the IPv4 prefix.")
	default:
		return p, true
	}
	return netip.Prefix{}, false
}

// malformed reports a text that is no address or prefix, with a hint for the usual slips.
func (r *reporter) malformed(s string, at hcl.Range, what, hint string) {
	switch {
	case hint != "":
	case s == "":
		hint = " It is empty; leave the key or the element out if nothing is meant."
	case strings.TrimSpace(s) != s:
		hint = " Remove the spaces around it."
	case strings.Contains(s, ".") && strings.Trim(s, "0123456789./") == "":
		hint = " An IPv4 address has four numbers from 0 to 255, without leading zeros."
	case strings.Count(s, ":") == 5 && len(s) == 17:
		hint = " It looks like a MAC address."
	}
	r.errorf(at, "Malformed "+what, "%q is no IP %s.%s", excerpt(s), what, hint)
}

// unmasked reports bits beyond a prefix's length, naming the prefix without them. more is a further sentence.
func (r *reporter) unmasked(p netip.Prefix, at hcl.Range, more string) {
	r.errorf(at, "Prefix has host bits set", "%s has bits set after its first %d. Write %q.%s", p, p.Bits(), p.Masked(), more)
}

// orAddress is the other thing that a prefix with host bits may have meant.
func orAddress(p netip.Prefix) string {
	return fmt.Sprintf(" If the one address is meant, write %q.", p.Addr())
}

// wrongClass says what is wrong with an address that a router, a guest or dom0 cannot have; "" if nothing is.
func wrongClass(a netip.Addr) string {
	switch {
	case a.IsUnspecified():
		return "the unspecified address"
	case a.IsLoopback():
		return "a loopback address"
	}
	switch policy.Classify(a) {
	case policy.MulticastIP:
		return "a multicast address"
	case policy.BroadcastIP:
		return "the broadcast address"
	case policy.Martian:
		return "of a reserved range (RFC 6890)"
	}
	return ""
}

// addr is the unicast address of a key; link-local ones pass.
func (r *reporter) addr(a *hcl.Attribute, f family) (netip.Addr, hcl.Range) {
	ip, at := r.anyAddr(a, f)
	if !ip.IsValid() {
		return ip, at
	}
	if wrong := wrongClass(ip); wrong != "" {
		r.errorf(at, "Not a unicast address", "%s is %s. %s takes %s.", ip, wrong, a.Name, f.address())
		return netip.Addr{}, at
	}
	return ip, at
}

// anyAddr is the address of a key, whatever it is used for.
func (r *reporter) anyAddr(a *hcl.Attribute, f family) (netip.Addr, hcl.Range) {
	v := r.scalar(a, f.address())
	s, ok := r.str(v, f.address())
	if !ok {
		return netip.Addr{}, v.at
	}
	ip, ok := r.parseAddr(s, v.at)
	if ok && f != anyIP && familyOf(ip) != f {
		r.errorf(v.at, fmt.Sprintf("%v address where %v is wanted", familyOf(ip), f), "%s takes %s.", a.Name, f.address())
		return netip.Addr{}, v.at
	}
	return ip, v.at
}

// mac is the address of one station.
func (r *reporter) mac(a *hcl.Attribute) (policy.MAC, hcl.Range) {
	const takes = `six hexadecimal octets in quotes, such as "00:16:3e:00:00:01"`
	v := r.scalar(a, takes)
	s, ok := r.str(v, takes)
	if !ok {
		return policy.MAC{}, v.at
	}
	m, ok := r.parseMAC(s, v.at, a.Name, takes)
	if !ok {
		return policy.MAC{}, v.at
	}
	return m, v.at
}

// parseMAC reads a station's address and reports what is none; key is what it was given to.
func (r *reporter) parseMAC(s string, at hcl.Range, key, takes string) (policy.MAC, bool) {
	m, err := policy.ParseMAC(s)
	switch {
	case err != nil:
		r.errorf(at, "Malformed MAC address", "%q is no MAC address: %s takes %s.", excerpt(s), key, takes)
	case m.IsZero():
		r.errorf(at, "Zero MAC address", "No station has the MAC 00:00:00:00:00:00. Write the interface's own.")
	case m == policy.BroadcastMAC:
		r.errorf(at, "Broadcast MAC address", "%s is every station's. Write the interface's own.", m)
	case m.IsGroup():
		r.errorf(at, "Multicast MAC address", "The lowest bit of the first octet of %s is set, which makes it a group's. Write the interface's own; Xen's begin with 00:16:3e.", m)
	default:
		return m, true
	}
	return m, false
}
