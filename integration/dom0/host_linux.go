package dom0

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// RouteProtocol marks the routes that this package sets (`ip route show proto 117`). rtnetlink.h leaves it to anyone.
const RouteProtocol = 117

// Where another route has the same destination ours is to win: dom0's traffic for a guest has to meet the router's host
// policy. IPv6 compares metrics, and 1 is the lowest; IPv4 takes the first of equal metric, and ours is put before it.
const hostMetric6 = 1

// route is an entry of the main table.
type route struct {
	dst     netip.Prefix
	link    int
	gateway netip.Addr
	source  netip.Addr // preferred source of dom0's own packets
	proto   uint8
}

func (r route) String() string {
	if r.dst.Bits() == 0 {
		return "default"
	}
	return r.dst.String()
}

// routes lists the main table's routes of a family; link and proto filter in the kernel, 0 for any.
func (r *rtnl) routes(family, link int, proto uint8) ([]route, error) {
	h := &nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(family), Table: unix.RT_TABLE_MAIN, Protocol: proto}}
	parts := []nl.NetlinkRequestData{h}
	if link != 0 {
		parts = append(parts, uint32Attr(unix.RTA_OIF, uint32(link)))
	}
	msgs, err := r.dump(unix.RTM_GETROUTE, parts...)
	if gone(err) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil // no such table or no such family
	}
	if err != nil {
		return nil, fmt.Errorf("listing routes: %w", err)
	}
	var out []route
	for _, m := range msgs {
		if len(m) < unix.SizeofRtMsg || m[0] != uint8(family) {
			continue
		}
		h, a := nl.DeserializeRtMsg(m), parseAttrs(m[unix.SizeofRtMsg:])
		if h.Flags&unix.RTM_F_CLONED != 0 || link == 0 && proto == 0 && h.Type != unix.RTN_UNICAST {
			continue
		}
		dst, ok := netip.AddrFromSlice(a[unix.RTA_DST])
		if !ok {
			dst = netip.IPv6Unspecified()
			if family == unix.AF_INET {
				dst = netip.IPv4Unspecified()
			}
		}
		oif, _ := a.uint32(unix.RTA_OIF)
		rt := route{dst: netip.PrefixFrom(dst, int(h.Dst_len)), link: int(oif), proto: h.Protocol}
		rt.gateway, _ = netip.AddrFromSlice(a[unix.RTA_GATEWAY])
		rt.source, _ = netip.AddrFromSlice(a[unix.RTA_PREFSRC])
		out = append(out, rt)
	}
	return out, nil
}

// userRoutes6 are the device's IPv6 routes that taking IPv6 off it would lose: the kernel makes its own again.
func (r *rtnl) userRoutes6(link int) (out []route, err error) {
	all, err := r.routes(unix.AF_INET6, link, 0)
	for _, rt := range all {
		if rt.link == link && rt.proto != unix.RTPROT_KERNEL && rt.proto != unix.RTPROT_RA && rt.proto != RouteProtocol {
			out = append(out, rt)
		}
	}
	return out, err
}

func (rt route) request() []nl.NetlinkRequestData {
	a := rt.dst.Addr()
	h := &nl.RtMsg{RtMsg: unix.RtMsg{
		Family: uint8(family(a)), Dst_len: uint8(rt.dst.Bits()), Table: unix.RT_TABLE_MAIN,
		Protocol: RouteProtocol, Type: unix.RTN_UNICAST, Scope: unix.RT_SCOPE_LINK,
	}}
	parts := []nl.NetlinkRequestData{h, nl.NewRtAttr(unix.RTA_DST, a.AsSlice()), uint32Attr(unix.RTA_OIF, uint32(rt.link))}
	if a.Is6() {
		h.Scope = unix.RT_SCOPE_UNIVERSE // IPv6 routes have none
		parts = append(parts, uint32Attr(unix.RTA_PRIORITY, hostMetric6))
	}
	if rt.source.IsValid() {
		parts = append(parts, nl.NewRtAttr(unix.RTA_PREFSRC, rt.source.AsSlice()))
	}
	return parts
}

// addRoute puts the route before others of its destination.
func (r *rtnl) addRoute(rt route) error {
	err := r.set(unix.RTM_NEWROUTE, unix.NLM_F_CREATE, rt.request()...)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

func (r *rtnl) delRoute(rt route) error { return r.set(unix.RTM_DELROUTE, 0, rt.request()...) }

// hostRoutes are all of ours.
func (r *rtnl) hostRoutes() (out []route, err error) {
	for _, f := range []int{unix.AF_INET, unix.AF_INET6} {
		list, err := r.routes(f, 0, RouteProtocol)
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
	}
	return out, nil
}

// host brings up the host TUN and sets its routes.
func (p *pass) host() {
	t := p.st.hostTUN
	if t != nil {
		p.hostTUN(t)
	}
	have, err := p.rt.hostRoutes()
	if err != nil {
		p.errs = append(p.errs, err)
		return
	}
	want := map[route]bool{}
	if t != nil && t.up {
		keep := p.avoidConflicts()
		source := p.st.source4()
		for _, dst := range keep {
			r := route{dst: dst, link: t.index, proto: RouteProtocol}
			if dst.Addr().Is4() {
				r.source = source
			}
			want[r] = false
		}
	}
	for _, r := range have {
		if _, ok := want[r]; ok {
			want[r] = true
			continue
		}
		p.did(fmt.Sprintf("removing the route %s", r), p.rt.delRoute(r))
	}
	for r, there := range want {
		if !there {
			p.did(fmt.Sprintf("routing %s to %s", r, p.spec.HostTUN), p.rt.addRoute(r))
		}
	}
}

// hostTUN brings the interface up. It has no addresses: a link-local would make the kernel send solicitations into it, and the
// source of dom0's packets is another interface's. rp_filter may be strict: the way back to a guest leads here.
func (p *pass) hostTUN(t *link) {
	if t.genMode != genModeNone && t.hasIPv6 {
		p.did("keeping "+t.name+" from making a link-local address", p.rt.setGenMode(t.index, genModeNone))
	}
	p.setMTU(t)
	p.setTxQueueLen(t)
	for _, a := range p.st.addresses {
		if a.link == t.index && a.proto == ifaProtoKernelLL {
			p.did(fmt.Sprintf("removing %s from %s", a.prefix, t.name), p.rt.delAddress(a))
		}
	}
	if t.noIPv6 && t.hasIPv6 && containsV6(p.spec.HostRoutes) {
		p.did("putting IPv6 on "+t.name, p.ns.setDisableIPv6(t.name, 0))
	}
	if !t.up {
		p.did("bringing up "+t.name, p.rt.setUp(t.index, true))
		_, _ = p.rt.noticeCarrier(t.index) // what it is like shows in the next pass
	}
}

func containsV6(list []netip.Prefix) bool {
	for _, p := range list {
		if p.Addr().Is6() {
			return true
		}
	}
	return false
}

// source4 is the uplink's address: without it the kernel would take the first one of any interface. For IPv6 it
// chooses by RFC 6724 among all of them.
func (st *state) source4() (a netip.Addr) {
	if st.uplink == nil {
		return a
	}
	for _, ad := range st.addresses {
		if ad.link == st.uplink.index && ad.prefix.Addr().Is4() && ad.scope == unix.RT_SCOPE_UNIVERSE && ad.flags&unix.IFA_F_SECONDARY == 0 {
			return ad.prefix.Addr()
		}
	}
	return a
}

// avoidConflicts leaves out the routes that would take something from the uplink, and warns of others' routes that concern the same
// addresses. The table is looked through once after Open and Update, for it may be long.
func (p *pass) avoidConflicts() (keep []netip.Prefix) {
	if p.conflicts == nil {
		c, err := p.findConflicts()
		if err != nil {
			p.errs = append(p.errs, err)
			return nil
		}
		p.conflicts = c
	}
	for _, w := range p.conflicts.warnings {
		p.warnf("%s", w)
	}
	for _, dst := range p.spec.HostRoutes {
		if !p.conflicts.skip[dst] {
			keep = append(keep, dst)
		}
	}
	return keep
}

// routeConflicts is what findConflicts found.
type routeConflicts struct {
	skip     map[netip.Prefix]bool
	warnings []string
}

func (p *pass) findConflicts() (*routeConflicts, error) {
	c := &routeConflicts{skip: map[netip.Prefix]bool{}}
	tun := p.spec.HostTUN
	for _, f := range []int{unix.AF_INET, unix.AF_INET6} {
		list, err := p.rt.routes(f, 0, 0)
		if err != nil {
			return nil, err
		}
		for _, r := range list {
			l := p.st.links[r.link]
			if l == nil || l == p.st.hostTUN || r.proto == RouteProtocol {
				continue
			}
			for _, dst := range p.spec.HostRoutes {
				if dst.Addr().Is4() != r.dst.Addr().Is4() {
					continue
				}
				remove := fmt.Sprintf("`ip %sroute del %s dev %s`", map[bool]string{true: "", false: "-6 "}[f == unix.AF_INET], r, l.name)
				onUplink := l == p.st.uplink
				switch {
				case r.gateway.IsValid() && dst.Contains(r.gateway):
					c.skip[dst] = true
					c.warnings = append(c.warnings, fmt.Sprintf("not routing %s to %s: %s, the gateway of `%s dev %s`, lies in it", dst, tun, r.gateway, r, l.name))
				case r.dst == dst && onUplink:
					c.skip[dst] = true
					c.warnings = append(c.warnings, fmt.Sprintf("not routing %s to %s: it is on the link of %s", dst, tun, l.name))
				case r.dst == dst:
					c.warnings = append(c.warnings, fmt.Sprintf("the route `%s dev %s` is passed over in favour of %s: %s", r, l.name, tun, remove))
				case !onUplink && dst.Bits() < r.dst.Bits() && dst.Contains(r.dst.Addr()):
					c.warnings = append(c.warnings, fmt.Sprintf("the route `%s dev %s` is more specific than %s to %s and takes dom0's packets there: %s",
						r, l.name, dst, tun, remove))
				}
			}
		}
	}
	if len(c.warnings) > maxConflicts {
		rest := len(c.warnings) - maxConflicts
		c.warnings = append(c.warnings[:maxConflicts:maxConflicts], fmt.Sprintf("... and %d more routes", rest))
	}
	return c, nil
}

// maxConflicts bounds how many routes are named.
const maxConflicts = 8
