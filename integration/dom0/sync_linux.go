package dom0

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"udrouter/policy"
)

// maxPasses bounds how often a sync goes over everything before it leaves the rest to later. Two passes change
// something at the start (locking, then admitting what was seen locked), the last finds nothing to do.
const maxPasses = 6

// sync brings the kernel to the spec and returns when a pass over everything found nothing to change. changed tells
// whether an earlier one did. d.mu is held.
func (d *Dom0) sync() (changed bool, err error) {
	if d.held {
		return false, nil
	}
	var vanished error
	for range maxPasses {
		p := &pass{Dom0: d}
		err = p.run()
		d.warn(p.warnings)
		changed = changed || p.changed
		if err != nil || !p.changed {
			return changed, err
		}
		vanished = p.vanished
	}
	if vanished != nil {
		return changed, fmt.Errorf("%w (%w)", errUnsettled, vanished)
	}
	return changed, errUnsettled
}

// errUnsettled tells that someone else undoes what is set as fast as it is set.
var errUnsettled = errors.New("what was set did not stay: is another program changing the bridge or the nftables table?")

// pass reads the kernel's state once and sets what differs. A step that fails leaves the others to go on:
// a port that cannot be locked must not keep the next from being locked.
type pass struct {
	*Dom0
	st       *state
	changed  bool
	vanished error // the last change whose object was not there any more
	errs     []error
	warnings []string
}

// run goes through the steps. Their order keeps every moment closed: ports are locked before the bridge or the TAP comes up, and
// nothing is admitted to forwarding but what this pass has read as locked.
func (p *pass) run() (err error) {
	if p.st, err = p.observe(); err != nil {
		return err
	}
	if err := p.check(); err != nil {
		return err
	}
	if err := p.remember(); err != nil { // 1. the way back, before anything is changed
		return err
	}
	p.guardTables() // 2. nothing is forwarded but between secured ports, nothing reaches dom0
	p.bridge()      // 3. a bridge that does not think for itself
	p.guestPorts()  // 4. locked, isolated, bound
	p.tapPort()     // 5. the router's port, and the bridge up
	p.host()        // 6. dom0's way to the guests
	return errors.Join(p.errs...)
}

// did notes the outcome of a change. What has vanished meanwhile is no failure: its going is an event that
// starts another pass.
func (p *pass) did(what string, err error) {
	switch {
	case err == nil:
		p.changed = true
		p.log.Info("dom0: " + what)
	case gone(err):
		p.changed = true
		p.vanished = fmt.Errorf("%s: %w", what, err)
	default:
		p.errs = append(p.errs, fmt.Errorf("%s: %w", what, err))
	}
}

func (p *pass) warnf(format string, args ...any) {
	p.warnings = append(p.warnings, fmt.Sprintf(format, args...))
}

// check refuses what this package must not touch.
func (p *pass) check() error {
	st, s := p.st, p.spec
	if b := st.bridge; b != nil && b.kind != "bridge" {
		return fmt.Errorf("%s is not a bridge: name another one in the bridge block", s.Bridge)
	}
	if st.isPort(st.uplink) {
		return fmt.Errorf("uplink %s is a port of bridge %s, and locking it would cut dom0 off: "+
			"take it out of the bridge, or make a bridge of the guests' vifs alone", s.Uplink, s.Bridge)
	}
	if t := st.tap; t != nil && t.mac == s.RouterMAC {
		return fmt.Errorf("the router's MAC %s is that of %s itself, and the bridge would keep its frames to itself: "+
			"set another one in the bridge block", s.RouterMAC, s.TAP)
	}
	if st.uplink == nil {
		p.warnf("uplink %s is not there: its guard is put back when it comes", s.Uplink)
	}
	if st.bridge == nil && !p.mayCreate() {
		p.warnf("bridge %s is not there: its ports are locked when it comes", s.Bridge)
	}
	if st.tap == nil {
		p.warnf("%s is not there: it joins bridge %s when it comes", s.TAP, s.Bridge)
	}
	if s.HostTUN != "" && st.hostTUN == nil {
		p.warnf("%s is not there: its routes are set when it comes", s.HostTUN)
	}
	return nil
}

// mayCreate: a bridge that the user made and took away is the user's to bring back.
func (d *Dom0) mayCreate() bool { return !d.opened || d.journal.Created != "" }

// guardTables installs the nftables tables, or has them follow the kernel's addresses and the ports' state.
func (p *pass) guardTables() {
	st, s := p.st, p.spec
	sh := shape{uplink: s.Uplink, bridge: s.Bridge, tap: s.TAP, hostTUN: s.HostTUN, input: s.HostUplink}
	if st.uplink != nil {
		sh.uplinkIndex = st.uplink.index
	}
	if st.bridge != nil {
		sh.bridgeIndex = st.bridge.index
	}
	prefixes := s.guestPrefixes()
	vifs := []string{s.TAP}
	for _, port := range s.Ports {
		vifs = append(vifs, port.Vif)
	}
	c := contents{held: st.held(prefixes), secured: p.secured(st), vifs: vifs}
	slices.SortFunc(c.held, netip.Addr.Compare)
	slices.Sort(c.secured)
	slices.Sort(c.vifs)
	if changed, err := p.guard.apply(sh, prefixes, c); changed || err != nil {
		p.did(fmt.Sprintf("setting the nftables guard (%d ports secured)", len(c.secured)), err)
	}
	if err := p.guard.untracked; err != nil && s.HostUplink != nil {
		p.warnf("host.uplink: connections that dom0 had already may stall until dom0 sends something on them: %v", err)
	}
}

// bridgeSettings are in the order in which they can be made: without STP the forward delay may be 0. They are restored in the
// opposite order.
var bridgeSettings = []bridgeSetting{
	{"stp_state", unix.IFLA_BR_STP_STATE, 4, 0},
	{"forward_delay", unix.IFLA_BR_FORWARD_DELAY, 4, 0}, // 1/100 s
	// With snooping a forged MLD query takes the TAP out of the groups that solicitations go to.
	{"mcast_snooping", unix.IFLA_BR_MCAST_SNOOPING, 1, 0},
	{"mcast_querier", unix.IFLA_BR_MCAST_QUERIER, 1, 0},
	// Frames to 01:80:c2:00:00:03 to :0f are then forwarded like others, that is, past the port's lock, instead of being taken in on
	// the vif without (see the package comment). The kernel allows no more bits.
	{"group_fwd_mask", unix.IFLA_BR_GROUP_FWD_MASK, 2, 0xfff8},
}

type bridgeSetting struct {
	name  string
	attr  uint16
	width int // bytes
	want  uint32
}

// value is what the kernel reports of it; false for a kernel without it.
func (s bridgeSetting) value(a attrs) (uint32, bool) {
	b := a[s.attr]
	if len(b) < s.width {
		return 0, false
	}
	switch s.width {
	case 1:
		return uint32(b[0]), true
	case 2:
		return uint32(ne.Uint16(b)), true
	}
	return ne.Uint32(b), true
}

func (s bridgeSetting) set(r *rtnl, index int, v uint32) error {
	b := nl.Uint32Attr(v)
	switch s.width {
	case 1:
		b = []byte{byte(v)}
	case 2:
		b = nl.Uint16Attr(uint16(v))
	}
	return r.setBridge(index, s.attr, b)
}

// bridge makes the bridge, or what is wrong about it.
func (p *pass) bridge() {
	b := p.st.bridge
	if b == nil {
		if p.mayCreate() {
			p.createBridge()
		}
		return
	}
	for _, s := range bridgeSettings {
		if v, ok := s.value(b.bridge); ok && v != s.want {
			p.did(fmt.Sprintf("setting %s of %s to %#x", s.name, b.name, s.want), s.set(p.rt, b.index, s.want))
		}
	}
	p.setMTU(b)
	p.noIPv6(b)
	if v, _ := b.bridge.uint8(unix.IFLA_BR_VLAN_FILTERING); v != 0 {
		p.warnf("bridge %s filters VLANs: guests are reached in their ports' default VLAN only. "+
			"`ip link set %s type bridge vlan_filtering 0` unless you need them", b.name, b.name)
	}
	for _, a := range p.st.addresses {
		if a.link == b.index && !a.prefix.Addr().IsLinkLocalUnicast() {
			p.warnf("bridge %s has the address %s: guests do not reach dom0 on it while the router runs, and do when it does not. "+
				"`ip addr del %s dev %s`; the host block lets guests reach dom0 under rules", b.name, a.prefix, a.prefix, b.name)
		}
	}
	if p.ns.bridgeNetfilter() {
		p.warnf("net.bridge.bridge-nf-call-iptables or -ip6tables is 1: dom0's own FORWARD rules see the guests' frames, and a policy of DROP stops them. " +
			"Set both to 0 unless another bridge needs them")
	}
}

// createBridge writes down that the bridge of that address is ours before it makes it.
func (p *pass) createBridge() {
	if p.journal.Created == "" {
		var mac policy.MAC
		rand.Read(mac[:])
		mac[0] = mac[0]&^0x03 | 0x02 // locally administered, of one station
		p.journal.Created = mac.String()
		if err := p.journal.save(); err != nil {
			p.errs = append(p.errs, err)
			return
		}
	}
	mac, err := policy.ParseMAC(p.journal.Created)
	if err == nil {
		err = p.rt.addBridge(p.spec.Bridge, mac)
	}
	p.did("creating bridge "+p.spec.Bridge, err)
}

// guestPorts locks every port of the bridge but the TAP and binds the guests' MACs.
func (p *pass) guestPorts() {
	for _, index := range slices.Sorted(maps.Keys(p.st.ports)) {
		l := p.st.links[index]
		if !p.st.isPort(l) || l.name == p.spec.TAP {
			continue
		}
		p.noIPv6(l)
		p.port(l)
	}
}

// port sets a port's flags and entries.
func (p *pass) port(l *link) {
	_, want, macs := p.want(l)
	have := p.st.ports[l.index]
	if !have.supported() {
		p.errs = append(p.errs, fmt.Errorf("locking %s: this kernel's bridge cannot (Linux 5.18 or newer is needed)", l.name))
		return
	}
	flush := !have.equal(want)
	if flush {
		// What was learned goes in the same request: a learned entry passes a locked port.
		p.did("locking "+l.name, p.rt.setPort(l.index, want, true))
	}
	set, del := p.st.plan(l.index, macs)
	for _, e := range del {
		if flush && e.learned() {
			continue
		}
		p.did(fmt.Sprintf("removing %s from %s", e.mac, l.name), p.rt.delFDB(e))
	}
	for _, e := range set {
		if of := p.st.localTo(e.mac); of != nil {
			p.warnf("%s, bound to %s, is the address of %s itself, and the bridge would keep its frames to itself: "+
				"give one of them another", e.mac, l.name, of.name)
			continue
		}
		p.did(fmt.Sprintf("binding %s to %s", e.mac, l.name), p.rt.setFDB(e))
	}
}

// tapPort brings up the bridge and joins the TAP to it.
func (p *pass) tapPort() {
	b, t := p.st.bridge, p.st.tap
	if b == nil {
		return
	}
	if len(p.errs) > 0 && (!p.st.isPort(t) || !b.up) {
		return // fail closed: not before everything else is right
	}
	if !b.up {
		p.did("bringing up "+b.name, p.rt.setUp(b.index, true))
	}
	if t == nil {
		return
	}
	p.setMTU(t)
	p.setTxQueueLen(t)
	p.noIPv6(t)
	if !p.st.isPort(t) {
		p.did("joining "+t.name+" to "+b.name, p.rt.setMaster(t.index, b.index))
		return // the next pass reads its flags
	}
	p.port(t)
	if !t.up {
		p.did("bringing up "+t.name, p.rt.setUp(t.index, true))
		return
	}
	if p.st.states[t.index] != portForwarding {
		// Without a reader the TAP has no carrier, and its coming is an event that starts another pass.
		if _, err := p.rt.noticeCarrier(t.index); err != nil && !gone(err) {
			p.errs = append(p.errs, fmt.Errorf("looking at the carrier of %s: %w", t.name, err))
		}
	}
}

func (p *pass) setTxQueueLen(l *link) {
	if n := p.spec.TxQueueLen; l.txqlen < n {
		p.did(fmt.Sprintf("setting the queue length of %s to %d", l.name, n), p.rt.setTxQueueLen(l.index, n))
	}
}

func (p *pass) setMTU(l *link) {
	if m := p.spec.MTU; m != 0 && l.mtu != m {
		p.did(fmt.Sprintf("setting the MTU of %s to %d", l.name, m), p.rt.setMTU(l.index, m))
	}
}

// noIPv6 takes the kernel's IPv6 off a device that guests can reach. Addresses and routes that somebody put there are left:
// they would be lost.
func (p *pass) noIPv6(l *link) {
	if !l.hasIPv6 || l.noIPv6 {
		return
	}
	for _, a := range p.st.addresses {
		if a.link == l.index && a.prefix.Addr().Is6() && !a.prefix.Addr().IsLinkLocalUnicast() {
			p.warnf("%s has the address %s, so that its IPv6 is left on: `ip addr del %s dev %s`", l.name, a.prefix, a.prefix, l.name)
			return
		}
	}
	own, err := p.rt.userRoutes6(l.index)
	if err != nil {
		p.errs = append(p.errs, err)
		return
	}
	if len(own) > 0 {
		p.warnf("%s has the route %s, so that its IPv6 is left on: `ip route del %s dev %s`", l.name, own[0], own[0], l.name)
		return
	}
	p.did("taking IPv6 off "+l.name, p.ns.setDisableIPv6(l.name, 1))
}
