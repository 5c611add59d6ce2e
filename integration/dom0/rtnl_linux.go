package dom0

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"udrouter/policy"
)

// Values of the kernel's interface (include/uapi/linux) that x/sys/unix does not name.
const (
	rtextFilterSkipStats = 1 << 3 // rtnetlink.h RTEXT_FILTER_SKIP_STATS

	devconfDisableIPv6 = 26 // ipv6.h DEVCONF_DISABLE_IPV6, an index into IFLA_INET6_CONF
	genModeNone        = 1  // if_link.h IN6_ADDR_GEN_MODE_NONE

	ifaProto         = 11 // if_addr.h IFA_PROTO
	ifaProtoKernelLL = 3  // if_addr.h IFAPROT_KERNEL_LL: made by the kernel when the interface came up

	ntfSticky     = 0x40 // neighbour.h NTF_STICKY: the entry does not roam
	ntfExtLearned = 0x10
	ntfMaster     = 0x04
	ntfSelf       = 0x02

	nudNoARP     = 0x40 // a static entry
	nudPermanent = 0x80 // a local one: frames to it go up to dom0
)

// maxDump bounds how often a dump that changed under us is repeated.
const maxDump = 8

var ne = nl.NativeEndian()

// rtnl is a route netlink socket in one namespace. Its methods may be called concurrently until close.
type rtnl struct {
	sockets map[int]*nl.SocketHandle
}

func openRtnl(ns *netNS) (*rtnl, error) {
	var s *nl.NetlinkSocket
	err := ns.do(func() (err error) {
		s, err = nl.Subscribe(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("opening route netlink: %w", err)
	}
	_ = s.SetExtAck(true) // the kernel's own words in errors, where it has some
	// Dumps are then filtered by the kernel: a host may have a million routes.
	if err := unix.SetsockoptInt(s.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1); err != nil {
		s.Close()
		return nil, fmt.Errorf("asking route netlink for filtered dumps: %w", err)
	}
	limit := unix.NsecToTimeval(int64(10 * time.Second))
	_ = s.SetReceiveTimeout(&limit)
	_ = s.SetSendTimeout(&limit)
	return &rtnl{map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}}, nil
}

func (r *rtnl) close() { r.sockets[unix.NETLINK_ROUTE].Close() }

func (r *rtnl) request(typ, flags int, parts ...nl.NetlinkRequestData) ([][]byte, error) {
	req := nl.NewNetlinkRequest(typ, flags)
	req.Sockets = r.sockets
	for _, p := range parts {
		req.AddData(p)
	}
	return req.Execute(unix.NETLINK_ROUTE, 0)
}

// set sends a change and waits for its acknowledgement.
func (r *rtnl) set(typ, flags int, parts ...nl.NetlinkRequestData) error {
	_, err := r.request(typ, flags|unix.NLM_F_ACK, parts...)
	return err
}

// dump repeats a dump until no change of the kernel's tables fell into it.
func (r *rtnl) dump(typ int, parts ...nl.NetlinkRequestData) ([][]byte, error) {
	for i := 0; ; i++ {
		msgs, err := r.request(typ, unix.NLM_F_DUMP, parts...)
		if !errors.Is(err, nl.ErrDumpInterrupted) || i == maxDump {
			return msgs, err
		}
	}
}

// attrs are a message's attributes by type.
type attrs map[uint16][]byte

func parseAttrs(b []byte) attrs {
	list, err := nl.ParseRouteAttr(b)
	if err != nil {
		return nil // of the kernel's own making: what is missing reads as absent
	}
	m := make(attrs, len(list))
	for _, a := range list {
		m[a.Attr.Type&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER)] = a.Value
	}
	return m
}

func (a attrs) nested(t uint16) attrs { return parseAttrs(a[t]) }

func (a attrs) uint8(t uint16) (uint8, bool) {
	if b := a[t]; len(b) >= 1 {
		return b[0], true
	}
	return 0, false
}

func (a attrs) uint32(t uint16) (uint32, bool) {
	if b := a[t]; len(b) >= 4 {
		return ne.Uint32(b), true
	}
	return 0, false
}

func (a attrs) string(t uint16) string {
	return unix.ByteSliceToString(a[t])
}

// link is an interface as the kernel describes it.
type link struct {
	index   int
	name    string
	kind    string // "bridge", "tun", "veth", ...; "" for hardware
	mac     policy.MAC
	mtu     int
	txqlen  int // packets
	up      bool
	master  int // index, 0 for none
	hasIPv6 bool
	noIPv6  bool  // disable_ipv6
	genMode uint8 // how link-local addresses are made
	bridge  attrs // IFLA_BR_*, of a bridge
}

// links lists the interfaces.
func (r *rtnl) links() ([]*link, error) {
	msgs, err := r.dump(unix.RTM_GETLINK, nl.NewIfInfomsg(unix.AF_UNSPEC), uint32Attr(unix.IFLA_EXT_MASK, rtextFilterSkipStats))
	if err != nil {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	var out []*link
	for _, m := range msgs {
		if len(m) < unix.SizeofIfInfomsg {
			continue
		}
		h := nl.DeserializeIfInfomsg(m)
		a := parseAttrs(m[unix.SizeofIfInfomsg:])
		l := &link{index: int(h.Index), name: a.string(unix.IFLA_IFNAME), up: h.Flags&unix.IFF_UP != 0}
		copy(l.mac[:], a[unix.IFLA_ADDRESS])
		if v, ok := a.uint32(unix.IFLA_MTU); ok {
			l.mtu = int(v)
		}
		if v, ok := a.uint32(unix.IFLA_TXQLEN); ok {
			l.txqlen = int(v)
		}
		if v, ok := a.uint32(unix.IFLA_MASTER); ok {
			l.master = int(v)
		}
		info := a.nested(unix.IFLA_LINKINFO)
		if l.kind = info.string(unix.IFLA_INFO_KIND); l.kind == "bridge" {
			l.bridge = info.nested(unix.IFLA_INFO_DATA)
		}
		if v6, ok := a.nested(unix.IFLA_AF_SPEC)[unix.AF_INET6]; ok {
			v6 := parseAttrs(v6)
			if conf := v6[unix.IFLA_INET6_CONF]; len(conf) >= 4*(devconfDisableIPv6+1) {
				l.hasIPv6 = true
				l.noIPv6 = ne.Uint32(conf[4*devconfDisableIPv6:]) != 0
			}
			l.genMode, _ = v6.uint8(unix.IFLA_INET6_ADDR_GEN_MODE)
		}
		out = append(out, l)
	}
	return out, nil
}

// address is one that the kernel holds.
type address struct {
	link      int
	prefix    netip.Prefix // the local address with the length of its prefix
	broadcast netip.Addr   // IPv4
	scope     uint8
	flags     uint32
	proto     uint8 // IFA_PROTO: who made it
}

func (r *rtnl) addresses() ([]address, error) {
	msgs, err := r.dump(unix.RTM_GETADDR, nl.NewIfAddrmsg(unix.AF_UNSPEC))
	if err != nil {
		return nil, fmt.Errorf("listing addresses: %w", err)
	}
	var out []address
	for _, m := range msgs {
		if len(m) < unix.SizeofIfAddrmsg {
			continue
		}
		h := nl.DeserializeIfAddrmsg(m)
		a := parseAttrs(m[unix.SizeofIfAddrmsg:])
		local, ok := netip.AddrFromSlice(a[unix.IFA_LOCAL])
		if !ok {
			if local, ok = netip.AddrFromSlice(a[unix.IFA_ADDRESS]); !ok {
				continue
			}
		}
		ad := address{link: int(h.Index), prefix: netip.PrefixFrom(local, int(h.Prefixlen)), scope: h.Scope, flags: uint32(h.Flags)}
		ad.broadcast, _ = netip.AddrFromSlice(a[unix.IFA_BROADCAST])
		if v, ok := a.uint32(unix.IFA_FLAGS); ok {
			ad.flags = v
		}
		ad.proto, _ = a.uint8(ifaProto)
		out = append(out, ad)
	}
	return out, nil
}

func (r *rtnl) addAddress(a address) error {
	return r.set(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, a.request()...)
}

func (r *rtnl) delAddress(a address) error {
	return r.set(unix.RTM_DELADDR, 0, a.request()...)
}

func (a address) request() []nl.NetlinkRequestData {
	m := nl.NewIfAddrmsg(family(a.prefix.Addr()))
	m.Index, m.Prefixlen, m.Scope = uint32(a.link), uint8(a.prefix.Bits()), a.scope
	ip := a.prefix.Addr().AsSlice()
	return []nl.NetlinkRequestData{m, nl.NewRtAttr(unix.IFA_LOCAL, ip), nl.NewRtAttr(unix.IFA_ADDRESS, ip), uint32Attr(unix.IFA_FLAGS, a.flags),
		nl.NewRtAttr(ifaProto, []byte{a.proto})}
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// Changes of an interface.

func (r *rtnl) setUp(index int, up bool) error {
	m := nl.NewIfInfomsg(unix.AF_UNSPEC)
	m.Index, m.Change = int32(index), unix.IFF_UP
	if up {
		m.Flags = unix.IFF_UP
	}
	return r.set(unix.RTM_NEWLINK, 0, m)
}

func (r *rtnl) setLinkAttr(index int, a *nl.RtAttr) error {
	m := nl.NewIfInfomsg(unix.AF_UNSPEC)
	m.Index = int32(index)
	return r.set(unix.RTM_NEWLINK, 0, m, a)
}

func (r *rtnl) setMTU(index, mtu int) error {
	return r.setLinkAttr(index, uint32Attr(unix.IFLA_MTU, uint32(mtu)))
}

func (r *rtnl) setTxQueueLen(index, n int) error {
	return r.setLinkAttr(index, uint32Attr(unix.IFLA_TXQLEN, uint32(n)))
}

func (r *rtnl) setName(index int, name string) error {
	return r.setLinkAttr(index, nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
}

func (r *rtnl) setMaster(index, master int) error {
	return r.setLinkAttr(index, uint32Attr(unix.IFLA_MASTER, uint32(master)))
}

func (r *rtnl) setMAC(index int, mac policy.MAC) error {
	return r.setLinkAttr(index, nl.NewRtAttr(unix.IFLA_ADDRESS, mac[:]))
}

func (r *rtnl) setGenMode(index int, mode uint8) error {
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	spec.AddRtAttr(unix.AF_INET6, nil).AddRtAttr(unix.IFLA_INET6_ADDR_GEN_MODE, []byte{mode})
	return r.setLinkAttr(index, spec)
}

// setBridge sets one IFLA_BR_* of a bridge; value has the width that the kernel reports.
func (r *rtnl) setBridge(index int, attr uint16, value []byte) error {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(unix.IFLA_INFO_KIND, []byte("bridge"))
	info.AddRtAttr(unix.IFLA_INFO_DATA, nil).AddRtAttr(int(attr), value)
	return r.setLinkAttr(index, info)
}

// addBridge creates a bridge that is down and has that address.
func (r *rtnl) addBridge(name string, mac policy.MAC) error {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(unix.IFLA_INFO_KIND, []byte("bridge"))
	return r.set(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, nl.NewIfInfomsg(unix.AF_UNSPEC),
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)), nl.NewRtAttr(unix.IFLA_ADDRESS, mac[:]), info)
}

func (r *rtnl) delLink(index int) error {
	m := nl.NewIfInfomsg(unix.AF_UNSPEC)
	m.Index = int32(index)
	return r.set(unix.RTM_DELLINK, 0, m)
}

func uint32Attr(t int, v uint32) *nl.RtAttr {
	return nl.NewRtAttr(t, binary.NativeEndian.AppendUint32(nil, v))
}

// gone tells whether an error says that the device or entry is no longer there.
func gone(err error) bool {
	return errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ESRCH)
}
