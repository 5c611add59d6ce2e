package config

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/gaissmai/bart"
	"github.com/hashicorp/hcl/v2"

	"udrouter/policy"
)

const (
	// maxName bounds names, in bytes; they become words of logs and labels of metrics.
	maxName = 128
	// maxIfname is Linux's IFNAMSIZ without the final NUL.
	maxIfname = 15
	// maxNetworks bounds the kernel's filter on the uplink, which has a few instructions a prefix, of 4096.
	maxNetworks = 128
	// maxSocket is sun_path of unix(7) without the final NUL.
	maxSocket = 107
)

// decoder turns the raw blocks into values, one block after the other. What concerns one value is reported
// while it is read; what concerns several is left to validate.go, which works on the places kept here.
type decoder struct {
	*reporter
	cfg          *Config
	uplink       uplinkAt
	bridge       bridgeAt
	networks     []networkAt
	domus        []domuAt
	hostIfAt     hcl.Range
	networkNames names // for references to them
	policies     names
	guests       names
	rules        names
	byPrefix     bart.Table[int] // index in networks, of those that do not overlap
	claims       claims
}

type uplinkAt struct {
	at, name, gateway4, gateway6, address4 hcl.Range
}

type bridgeAt struct{ at, name, tap, mac, mtu hcl.Range }

type networkAt struct {
	*Network
	prefix, gateway hcl.Range
	raw             *rawNetwork
}

type domuAt struct {
	*Domu
	vif, mac, policy hcl.Range
	addrs            []addrAt
	listed           [3]int // by family: how many elements the lists have, right or wrong
}

// addrAt is one address or prefix of a guest.
type addrAt struct {
	netip.Prefix
	at hcl.Range
}

// decode is the configuration of the raw blocks, complete only where nothing was reported.
func decode(r *reporter, raw *rawFile) *Config {
	d := &decoder{
		reporter: r,
		cfg: &Config{
			File:    r.src.name,
			Control: Control{Socket: "/run/udrouter/control.sock"},
			Log:     Log{Level: "info", Format: "text"},
		},
	}
	d.collectNames(raw)
	d.missing(raw)
	d.decodeUplink(raw.Uplink)
	d.decodeBridge(raw.Bridge)
	d.decodeNetworks(raw.Networks)
	d.decodePolicies(raw.Policies)
	d.decodeDomus(raw.Domus)
	d.decodeHost(raw.Host)
	d.decodeControl(raw.Control)
	d.decodeMetrics(raw.Metrics)
	d.decodeLog(raw.Log)
	d.validate()
	d.decodeTests(raw.Tests)
	return d.cfg
}

// names are those of one kind of block, each with its first place.
type names struct {
	first map[string]hcl.Range
	list  []string // in the order of the file
}

func (n *names) enter(name string, at hcl.Range) (previous hcl.Range, dup bool) {
	if previous, dup = n.first[name]; dup {
		return previous, true
	}
	if n.first == nil {
		n.first = make(map[string]hcl.Range)
	}
	n.first[name] = at
	n.list = append(n.list, name)
	return hcl.Range{}, false
}

func (n *names) has(name string) bool {
	_, ok := n.first[name]
	return ok
}

// collectNames gathers what references may name, and reports names that stand twice.
func (d *decoder) collectNames(raw *rawFile) {
	var tests names
	for i := range raw.Networks {
		d.name("network", raw.Networks[i].Name, raw.Networks[i].NameAt, &d.networkNames)
	}
	for i := range raw.Policies {
		d.name("policy", raw.Policies[i].Name, raw.Policies[i].NameAt, &d.policies)
	}
	for i := range raw.Domus {
		d.name("domu", raw.Domus[i].Name, raw.Domus[i].NameAt, &d.guests)
	}
	for i := range raw.Tests {
		d.name("test", raw.Tests[i].Name, raw.Tests[i].NameAt, &tests)
	}
}

// name checks one name and enters it where it is the first of its kind.
func (d *decoder) name(kind, name string, at hcl.Range, seen *names) {
	if at.Empty() {
		return // reported by labels
	}
	free := kind == "test" || kind == "rule" // texts for people; the others become words of references
	switch wrong := strings.IndexFunc(name, func(c rune) bool { return !nameRune(c) && !(free && printable(c)) }); {
	case name == "":
		d.errorf(at, fmt.Sprintf("Empty name of a %s", kind), "Messages and commands name the %s by it. Write a name between the quotes.", kind)
		return
	case len(name) > maxName:
		d.errorf(at, fmt.Sprintf("Name of a %s is too long", kind), "It has %d bytes; at most %d are allowed.", len(name), maxName)
	case wrong >= 0 && free:
		d.errorf(at, fmt.Sprintf("Character not allowed in the name of a %s", kind), "%q is not printable. Take it out.", firstRune(name[wrong:]))
	case !free && (wrong >= 0 || name[0] == '-'):
		d.errorf(at, fmt.Sprintf("Character not allowed in the name of a %s", kind), "A name consists of letters, digits and . _ + : - and does not begin with a hyphen; it has %q.", firstRune(name[max(wrong, 0):]))
	}
	if previous, dup := seen.enter(name, at); dup {
		d.conflictf(at, previous, fmt.Sprintf("Duplicate %s %q", kind, excerpt(name)), "Give one of the two another name.")
	}
}

func nameRune(c rune) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("._+:-", c)
}

// missing reports blocks without which there is nothing to route.
func (d *decoder) missing(raw *rawFile) {
	end := d.src.at(len(d.src.bytes))
	at := hcl.Range{Filename: d.src.name, Start: end, End: end}
	if raw.Uplink == nil {
		d.errorf(at, "No uplink block", `Name the interface toward the provider: uplink "eth0" {}`)
	}
	if raw.Bridge == nil {
		d.errorf(at, "No bridge block", `Name the bridge that joins the guests' vifs: bridge "xenbr0" {}`)
	}
	if len(raw.Networks) == 0 {
		d.errorf(at, "No network block", `Declare at least one prefix of guests' addresses: network "v4" { … } with prefix, gateway and upstream.`)
	}
}

func (d *decoder) decodeUplink(raw *rawUplink) {
	if raw == nil {
		return
	}
	u, at := &d.cfg.Uplink, &d.uplink
	u.Name, u.Range = raw.Name, rangeOf(raw.At)
	at.at, at.name = raw.At, raw.NameAt
	d.ifname(raw.Name, raw.NameAt)
	u.Gateway4, at.gateway4 = d.addr(raw.Gateway4, ip4)
	u.Gateway6, at.gateway6 = d.addr(raw.Gateway6, ip6)
	u.Address4, at.address4 = d.addr(raw.Address4, ip4)
	if u.Address4.IsValid() && u.Address4 == u.Gateway4 {
		d.conflictf(at.address4, at.gateway4, "Uplink address is the gateway's", "address4 is dom0's own address on the uplink, gateway4 the provider's router. They differ.")
	}
}

func (d *decoder) decodeBridge(raw *rawBridge) {
	if raw == nil {
		return
	}
	b, at := &d.cfg.Bridge, &d.bridge
	b.Name, b.Range = raw.Name, rangeOf(raw.At)
	at.at, at.name = raw.At, raw.NameAt
	d.ifname(raw.Name, raw.NameAt)
	b.TAP, at.tap = d.interfaceKey(raw.TAP, "udr0", raw.At)
	b.MAC, at.mac = d.mac(raw.MAC)
	mtu := d.scalar(raw.MTU, takesMTU)
	at.mtu = mtu.at
	if n, ok := d.integer(mtu, minMTU4, maxMTU, takesMTU); ok {
		b.MTU = int(n)
	}
	b.Isolate = d.boolean(raw.Isolate, true)
}

// interfaceKey is the interface that a key names, or the default; at is where messages point for that.
func (d *decoder) interfaceKey(a *hcl.Attribute, dflt string, at hcl.Range) (string, hcl.Range) {
	const takes = `the name of an interface in quotes`
	v := d.scalar(a, takes)
	s, ok := d.str(v, takes)
	if !ok {
		return dflt, at
	}
	d.ifname(s, v.at)
	return s, v.at
}

// ifname reports what Linux takes for no interface's name.
func (d *decoder) ifname(name string, at hcl.Range) {
	if at.Empty() {
		return // a label that labels has reported
	}
	if isTODO(name) {
		d.todo(name, at, "the name of an interface")
		return
	}
	why := ""
	switch wrong := strings.IndexFunc(name, func(c rune) bool { return c == '/' || c == ':' || c == ' ' || !printable(c) }); {
	case name == "":
		why = "it is empty"
	case len(name) > maxIfname:
		why = fmt.Sprintf("it has %d bytes, and Linux allows %d", len(name), maxIfname)
	case name == "." || name == "..":
		why = "it names a directory"
	case wrong >= 0:
		why = fmt.Sprintf("it contains %q", firstRune(name[wrong:]))
	case name == "lo":
		why = "it is the loopback interface"
	default:
		return
	}
	d.errorf(at, "Not an interface name", "%q cannot name an interface: %s. `ip link` lists those there are.", excerpt(name), why)
}

func (d *decoder) decodeNetworks(raws []rawNetwork) {
	if len(raws) > maxNetworks {
		d.errorf(raws[maxNetworks].At, "Too many networks", "At most %d are routed. Neighbouring prefixes may be one network, and a guest may be bound to a prefix.", maxNetworks)
		raws = raws[:maxNetworks]
	}
	d.cfg.Networks = make([]Network, len(raws))
	d.networks = make([]networkAt, len(raws))
	for i := range raws {
		d.decodeNetwork(&raws[i], i)
	}
}

func (d *decoder) decodeNetwork(raw *rawNetwork, i int) {
	n := &d.cfg.Networks[i]
	d.networks[i] = networkAt{Network: n, raw: raw}
	at := &d.networks[i]
	n.Name, n.Range = raw.Name, rangeOf(raw.At)

	const takesPrefix = `a prefix in quotes, such as "192.0.2.0/24"`
	if d.require(raw.Prefix, raw.At, "prefix", takesPrefix) {
		v := d.scalar(raw.Prefix, takesPrefix)
		at.prefix = v.at
		if s, ok := d.str(v, takesPrefix); ok {
			n.Prefix = d.networkPrefix(s, v.at)
		}
	}
	f := anyIP
	if n.Prefix.IsValid() {
		f = familyOf(n.Prefix.Addr())
	}
	if d.require(raw.Gateway, raw.At, "gateway", f.address()) {
		n.Gateway, at.gateway = d.addr(raw.Gateway, f)
	}
	if d.require(raw.Upstream, raw.At, "upstream", `"routed" or "proxied"`) {
		n.Upstream, _ = oneWord(d.reporter, raw.Upstream, 0, choice[Upstream]{"routed", Routed}, choice[Upstream]{"proxied", Proxied})
	}
	d.decodeProxy(raw.Proxy, n, f)
	if raw.RA != nil {
		if f == ip4 {
			d.errorf(raw.RA.At, "Router advertisements in an IPv4 network", "Only IPv6 has them. Remove the block; dhcp configures the guests of an IPv4 network.")
		}
		n.RA = &RA{Lifetime: d.duration(raw.RA.Lifetime, 30*time.Minute, minLifetime, maxLifetime), DNS: d.addrs(raw.RA.DNS, ip6), OnLink: d.boolean(raw.RA.OnLink, false)}
	}
	if raw.DHCP != nil {
		n.DHCP = &DHCP{Lease: d.duration(raw.DHCP.Lease, time.Hour, minLease, 365*24*time.Hour), DNS: d.addrs(raw.DHCP.DNS, f)}
	}
}

// minLifetime and maxLifetime bound the Router Lifetime (RFC 4861 6.2.1): a router advertises every four seconds at most, and three times in a lifetime, so that one may
// get lost.
const (
	minLifetime = 12 * time.Second
	maxLifetime = 9000 * time.Second
)

// minLease keeps guests from asking all the time.
const minLease = time.Minute

// addrs is a list of unicast addresses of one family.
func (d *decoder) addrs(a *hcl.Attribute, f family) (list []netip.Addr) {
	elems, _ := d.list(a, fmt.Sprintf("a list of %v addresses in quotes", f))
	for _, e := range elems {
		v := d.literal(e, a.Name, f.address())
		s, ok := d.str(v, f.address())
		if !ok {
			continue
		}
		ip, ok := d.parseAddr(s, v.at)
		switch {
		case !ok:
		case f != anyIP && familyOf(ip) != f:
			d.errorf(v.at, fmt.Sprintf("%v address where %v is wanted", familyOf(ip), f), "%s takes addresses of the network's family.", a.Name)
		case wrongClass(ip) != "":
			d.errorf(v.at, "Not a unicast address", "%s is %s. %s takes the addresses of servers.", ip, wrongClass(ip), a.Name)
		default:
			list = append(list, ip)
		}
	}
	return list
}

// networkPrefix is the prefix of a network, without host bits even where they are reported, so that the rest
// of the file is judged by what was meant.
func (d *decoder) networkPrefix(s string, at hcl.Range) netip.Prefix {
	if !strings.Contains(s, "/") {
		if a, err := netip.ParseAddr(s); err == nil {
			d.errorf(at, "Prefix without a length", "Write how many bits the network has, such as %q.", fmt.Sprintf("%v/%d", a, map[bool]int{true: 24, false: 64}[a.Is4()]))
			return netip.Prefix{}
		}
	}
	p, ok := d.parsePrefix(s, at)
	if !ok {
		return netip.Prefix{}
	}
	if wrong := wrongPrefix(p.Masked()); wrong != "" {
		d.errorf(at, "Not a prefix for guests", "%s %s. Write the prefix that the provider has assigned.", p.Masked(), wrong)
		return netip.Prefix{}
	}
	if p != p.Masked() {
		more := ""
		if g := d.cfg.Uplink.Gateway6; g.IsValid() && p.Contains(g) {
			more = fmt.Sprintf(" The uplink's gateway6 %s lies in it; that is handled: it is always reached through the uplink.", g)
		}
		d.unmasked(p, at, more)
	}
	return p.Masked()
}

// notForGuests are ranges that no network may hold a part of.
var notForGuests = []struct{ prefix, what string }{
	{"127.0.0.0/8", "loopback"}, {"169.254.0.0/16", "link-local"}, {"224.0.0.0/4", "multicast"}, {"240.0.0.0/4", "reserved"},
	{"::/96", "loopback and reserved"}, {"fe80::/10", "link-local"}, {"ff00::/8", "multicast"},
}

func wrongPrefix(p netip.Prefix) string {
	if p.Bits() == 0 {
		return "is every address"
	}
	for _, n := range notForGuests {
		if q := netip.MustParsePrefix(n.prefix); q.Overlaps(p) {
			if q.Bits() <= p.Bits() {
				return "is " + n.what
			}
			return fmt.Sprintf("contains %s, which is %s", q, n.what)
		}
	}
	if wrong := wrongClass(p.Addr()); wrong != "" {
		return "is " + wrong
	}
	return ""
}

func (d *decoder) decodeProxy(raw *rawProxy, n *Network, f family) {
	p := Proxy{Router: true, TTL: 30 * time.Second, Timeout: 500 * time.Millisecond, Announce: true}
	if raw != nil {
		if n.Upstream == Routed {
			d.errorf(raw.At, "Proxy block of a routed network", `The provider routes this network to the host, so nothing is answered for it. Remove the block, or set upstream = "proxied".`)
		}
		if f == ip4 {
			for _, a := range []*hcl.Attribute{raw.Router, raw.Override, raw.Source} {
				if given(a) {
					d.errorf(a.NameRange, fmt.Sprintf("%s in an IPv4 network", a.Name), "%s concerns neighbour advertisements, which only IPv6 has. Remove it.", a.Name)
				}
			}
		}
		p.Answer, _ = oneWord(d.reporter, raw.Answer, p.Answer, choice[Answer]{"bound", AnswerBound}, choice[Answer]{"learned", AnswerLearned})
		p.Router = d.boolean(raw.Router, p.Router)
		p.Override = d.boolean(raw.Override, p.Override)
		p.TTL = d.duration(raw.TTL, p.TTL, time.Millisecond, 24*time.Hour)
		p.Timeout = d.duration(raw.Timeout, p.Timeout, time.Millisecond, 10*time.Second)
		p.Announce = d.boolean(raw.Announce, p.Announce)
		p.Source, _ = oneWord(d.reporter, raw.Source, p.Source, choice[Source]{"link-local", SourceLinkLocal}, choice[Source]{"target", SourceTarget})
	}
	if n.Upstream == Proxied {
		n.Proxy = p
	}
}

func (d *decoder) decodeDomus(raws []rawDomu) {
	var guests, templates []*rawDomu
	for i := range raws {
		if given(raws[i].Match) {
			templates = append(templates, &raws[i])
		} else {
			guests = append(guests, &raws[i])
		}
	}
	d.decodeTemplates(templates)
	if len(guests) == 0 {
		return
	}
	d.cfg.Domus = make([]Domu, len(guests))
	d.domus = make([]domuAt, len(guests))
	for i, raw := range guests {
		d.decodeDomu(raw, i)
	}
}

func (d *decoder) decodeDomu(raw *rawDomu, i int) {
	g := &d.cfg.Domus[i]
	d.domus[i] = domuAt{Domu: g}
	at := &d.domus[i]
	g.Name, g.Range = raw.Name, rangeOf(raw.At)
	if given(raw.Vif) {
		g.Vif, at.vif = d.interfaceKey(raw.Vif, "", raw.At)
	}
	if d.require(raw.MAC, raw.At, "mac", `the guest's MAC address in quotes, such as "00:16:3e:00:00:01"`) {
		g.MAC, at.mac = d.mac(raw.MAC)
	}
	g.IPv4 = d.guestAddrs(raw.IPv4, ip4, at)
	g.IPv6 = d.guestAddrs(raw.IPv6, ip6, at)
	g.Policy, at.policy = d.policyName(raw.Policy)
	for _, a := range []*hcl.Attribute{raw.Networks, raw.Addresses, raw.Prefix6} {
		if given(a) {
			d.errorf(a.NameRange, fmt.Sprintf("%s of a single guest", a.Name), "%s bounds what hotplug may give to the guests of a template. Remove it, or make the block a template with match.", a.Name)
		}
	}
}

// policyName is the policy that a guest or template names.
func (d *decoder) policyName(a *hcl.Attribute) (string, hcl.Range) {
	const takes = "the name of a policy in quotes"
	v := d.scalar(a, takes)
	name, ok := d.str(v, takes)
	if !ok {
		return "", v.at
	}
	if !d.policies.has(name) {
		hint := d.didYouMean(name, d.policies.list)
		if hint == "" {
			hint = " Add it, or leave policy out for the default: egress accept, ingress drop."
		}
		d.errorf(v.at, fmt.Sprintf("Unknown policy %q", excerpt(name)), "The file has no policy of that name.%s", hint)
	}
	return name, v.at
}

// guestAddrs are the addresses and prefixes of one family that a guest is bound to.
func (d *decoder) guestAddrs(a *hcl.Attribute, f family, g *domuAt) []netip.Prefix {
	takes := fmt.Sprintf("a list of %v addresses or prefixes in quotes", f)
	elems, _ := d.list(a, takes)
	g.listed[f] = len(elems)
	var prefixes []netip.Prefix
	for _, e := range elems {
		v := d.literal(e, a.Name, f.address())
		s, ok := d.str(v, f.address())
		if !ok {
			continue
		}
		p, ok := d.guestAddr(s, v.at)
		if !ok {
			continue
		}
		if other := familyOf(p.Addr()); other != f {
			d.errorf(v.at, fmt.Sprintf("%v address in %s", other, a.Name), "Move %s to %s.", s, map[family]string{ip4: "ipv4", ip6: "ipv6"}[other])
			continue
		}
		prefixes = append(prefixes, p)
		g.addrs = append(g.addrs, addrAt{p, v.at})
	}
	return prefixes
}

// guestAddr is an address or prefix that a guest may have, as far as that shows by itself.
func (r *reporter) guestAddr(s string, at hcl.Range) (p netip.Prefix, ok bool) {
	if p, ok = r.parsePrefix(s, at); !ok {
		return p, false
	}
	switch {
	case p.Addr().IsLinkLocalUnicast() && p.Addr().Is6() && !p.IsSingleIP():
		r.errorf(at, "Link-local prefix", "A guest is pinned to single link-local addresses. Write each, or leave them out: then any that no other has is free to it.")
		return p, false
	case p != p.Masked():
		r.unmasked(p, at, orAddress(p))
		p = p.Masked()
	}
	if wrong := wrongClass(p.Addr()); wrong != "" {
		r.errorf(at, "Not a unicast address", "%s is %s. A guest cannot have it.", s, wrong)
		return p, false
	}
	return p, true
}

func (d *decoder) decodeHost(raw *rawHost) {
	if raw == nil {
		return
	}
	h := &Host{Range: rangeOf(raw.At)}
	h.Interface, d.hostIfAt = d.interfaceKey(raw.Interface, "udrhost", raw.At)
	h.Ingress = d.decodeChain(raw.Ingress, policy.Drop, raw.At, nil)
	if raw.Uplink != nil {
		c := d.decodeChain(raw.Uplink, policy.Drop, raw.At, uplinkToHost)
		h.Uplink = &c
	}
	d.cfg.Host = h
}
