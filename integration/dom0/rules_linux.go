package dom0

import (
	"encoding/binary"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Names of the sets.
const (
	setGuests4 = "guests4" // the guests' addresses
	setGuests6 = "guests6"
	setHeld4   = "held4" // those among them that dom0's kernel has on an interface
	setHeld6   = "held6"
	setVifs    = "vifs"    // names of the router's and the guests' ports, whether they exist or not
	setSecured = "secured" // indexes of the ports that may exchange frames
)

// What a rule's counter counts, and its comment in `nft list table`.
const (
	CountUplinkGuest  = "uplink: for a guest"             // packets that the router has its own copy of
	CountUplinkSource = "uplink: from a guest's address"  // packets to dom0 itself, whose source the kernel knows behind the host TUN
	CountUplinkARP    = "uplink: arp request for a guest" // that proxy_arp would answer
	CountUplinkND     = "uplink: solicitation of a guest" // that proxy_ndp would answer
	CountBridgeUp     = "bridge: for dom0"                // frames from a guest to dom0 past the router
	CountBridgeDown   = "bridge: from dom0"               // frames that dom0 itself would send to guests past the router
	CountUnsecured    = "bridge: port not secured"        // frames of a port that is not locked yet
	CountForwardLink  = "forward: host tun or bridge"     // packets that dom0 would have routed there
	CountForwardGuest = "forward: from or to a guest"     // packets that dom0 would have routed for a guest
)

type rule struct {
	comment string
	exprs   []expr.Any
}

type chain struct {
	family   nftables.TableFamily
	name     string
	hook     *nftables.ChainHook // nil: other chains lead there
	priority int32
	device   string // netdev
	rules    []rule
}

// chains are the guard's rules, in the order in which a packet meets them; chains without a hook come before those that lead there. Each chain
// accepts what it does not drop, so dom0's own firewall decides as it did.
func chains(s shape) []chain {
	var out []chain
	if s.uplinkIndex != 0 {
		out = append(out, chain{nftables.TableFamilyNetdev, "uplink", nftables.ChainHookIngress, prioFirst, s.uplink, []rule{
			// What dom0 itself is sent passes: its own address may lie in a guests' prefix, and so may its gateway's.
			drop(CountUplinkGuest, etherType(unix.ETH_P_IP), load(netHeader, 16, 4), in(setGuests4), notIn(setHeld4)),
			drop(CountUplinkGuest, etherType(unix.ETH_P_IPV6), load(netHeader, 24, 16), in(setGuests6), notIn(setHeld6)),
			// RFC 4861 4.3: a solicitation goes to a multicast address; its target is at 8.
			drop(CountUplinkND, etherType(unix.ETH_P_IPV6), l4proto(unix.IPPROTO_ICMPV6), load(l4Header, 0, 1), is(135),
				load(l4Header, 8, 16), in(setGuests6), notIn(setHeld6)),
			// RFC 826: operation at 6, target protocol address at 24.
			drop(CountUplinkARP, etherType(unix.ETH_P_ARP), load(netHeader, 6, 2), is(0, 1),
				load(netHeader, 24, 4), in(setGuests4), notIn(setHeld4)),
		}})
	}
	if s.bridgeIndex != 0 {
		// The bridge as an interface of dom0: whatever a guest sends to its MAC, to a group or to everyone.
		out = append(out, chain{nftables.TableFamilyNetdev, "bridge", nftables.ChainHookIngress, prioFirst, s.bridge, []rule{
			drop(CountBridgeUp),
		}})
	}
	secured := func(key expr.MetaKey) []expr.Any { return concat(meta(key), in(setSecured)) }
	named := func(key expr.MetaKey) []expr.Any { return concat(meta(key), in(setVifs)) }
	out = append(out,
		chain{nftables.TableFamilyBridge, "forward", nftables.ChainHookForward, prioFirst, "", []rule{
			accept(secured(expr.MetaKeyIIF), secured(expr.MetaKeyOIF)),
			drop(CountUnsecured, secured(expr.MetaKeyIIF)),
			drop(CountUnsecured, secured(expr.MetaKeyOIF)),
			drop(CountUnsecured, named(expr.MetaKeyIIFNAME)),
			drop(CountUnsecured, named(expr.MetaKeyOIFNAME)),
		}},
		// Frames to 01:80:c2:00:00:02 come here without having met a lock, see the package comment. Of a port that is not known yet, or of
		// another bridge, only what no protocol sends to such a group ends here: STP, LLDP and LACP are none of these.
		chain{nftables.TableFamilyBridge, "input", nftables.ChainHookInput, prioFirst, "", []rule{
			drop(CountBridgeUp, secured(expr.MetaKeyIIF)),
			drop(CountBridgeUp, named(expr.MetaKeyIIFNAME)),
			drop(CountBridgeUp, reservedGroup(), etherType(unix.ETH_P_IP)),
			drop(CountBridgeUp, reservedGroup(), etherType(unix.ETH_P_IPV6)),
			drop(CountBridgeUp, reservedGroup(), etherType(unix.ETH_P_ARP)),
		}},
		// What dom0 sends on the bridge as an interface of its own: group reports, discovery, addresses that were left there. It has
		// the same way to guests as they have to it, the router's, or none.
		chain{nftables.TableFamilyBridge, "output", nftables.ChainHookOutput, prioFirst, "", []rule{
			drop(CountBridgeDown, secured(expr.MetaKeyOIF)),
			drop(CountBridgeDown, named(expr.MetaKeyOIFNAME)),
		}},
		// br_netfilter shows bridged frames to the inet hooks as coming from the bridge. Untracked, a guest can
		// neither fill dom0's connection table nor be redirected by dom0's NAT rules.
		chain{nftables.TableFamilyINet, "prerouting", nftables.ChainHookPrerouting, prioRaw, "", append([]rule{
			{"", concat(iifname(s.bridge), []expr.Any{&expr.Notrack{}})},
		}, sources(s)...)},
	)
	forward := []rule{
		// Only br_netfilter comes from the bridge to the bridge; nothing else enters dom0 by it, see above.
		accept(iifname(s.bridge), oifname(s.bridge)),
		drop(CountForwardLink, iifname(s.bridge)),
		drop(CountForwardLink, oifname(s.bridge)),
	}
	if s.hostTUN != "" {
		forward = append(forward, drop(CountForwardLink, iifname(s.hostTUN)), drop(CountForwardLink, oifname(s.hostTUN)))
	}
	forward = append(forward,
		drop(CountForwardGuest, nfproto(unix.NFPROTO_IPV4), load(netHeader, 16, 4), in(setGuests4), notIn(setHeld4)),
		drop(CountForwardGuest, nfproto(unix.NFPROTO_IPV4), load(netHeader, 12, 4), in(setGuests4), notIn(setHeld4)),
		drop(CountForwardGuest, nfproto(unix.NFPROTO_IPV6), load(netHeader, 24, 16), in(setGuests6), notIn(setHeld6)),
		drop(CountForwardGuest, nfproto(unix.NFPROTO_IPV6), load(netHeader, 8, 16), in(setGuests6), notIn(setHeld6)),
	)
	out = append(out, chain{nftables.TableFamilyINet, "forward", nftables.ChainHookForward, prioRaw, "", forward})
	if s.input != nil {
		_, input := inputChains(s.uplink, s.input)
		out = append(out, input...)
	}
	return out
}

// sources refuse what comes by the uplink from an address to which the kernel's route leads by the host TUN: it is a guest's, and for dom0 itself nothing else
// would tell, since rp_filter is the machine's, and IPv6 has none. Link-local addresses have a route on every link.
func sources(s shape) []rule {
	if s.hostTUN == "" {
		return nil
	}
	back := concat([]expr.Any{&expr.Fib{Register: 1, FlagSADDR: true, ResultOIFNAME: true}}, is(ifname(s.hostTUN)...))
	linkLocal := []expr.Any{
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 2, Mask: []byte{0xff, 0xc0}, Xor: make([]byte, 2)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0xfe, 0x80}},
	}
	return []rule{
		drop(CountUplinkSource, iifname(s.uplink), nfproto(unix.NFPROTO_IPV4), back),
		drop(CountUplinkSource, iifname(s.uplink), nfproto(unix.NFPROTO_IPV6), load(netHeader, 8, 2), linkLocal, back),
	}
}

// Pieces of rules. Each works on register 1.

const (
	netHeader = expr.PayloadBaseNetworkHeader
	l4Header  = expr.PayloadBaseTransportHeader
)

func concat(parts ...[]expr.Any) (out []expr.Any) {
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

func drop(comment string, match ...[]expr.Any) rule {
	return rule{comment, append(concat(match...), &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop})}
}

func accept(match ...[]expr.Any) rule {
	return rule{"", append(concat(match...), &expr.Verdict{Kind: expr.VerdictAccept})}
}

func meta(key expr.MetaKey) []expr.Any { return []expr.Any{&expr.Meta{Key: key, Register: 1}} }

func is(value ...byte) []expr.Any {
	return []expr.Any{&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value}}
}

func load(base expr.PayloadBase, offset, length uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: length}}
}

func in(set string) []expr.Any { return []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: set}} }

func notIn(set string) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: set, Invert: true}}
}

func etherType(t uint16) []expr.Any {
	return concat(meta(expr.MetaKeyPROTOCOL), is(binary.BigEndian.AppendUint16(nil, t)...))
}

func nfproto(p byte) []expr.Any { return concat(meta(expr.MetaKeyNFPROTO), is(p)) }
func l4proto(p byte) []expr.Any { return concat(meta(expr.MetaKeyL4PROTO), is(p)) }

func iifname(n string) []expr.Any { return concat(meta(expr.MetaKeyIIFNAME), is(ifname(n)...)) }
func oifname(n string) []expr.Any { return concat(meta(expr.MetaKeyOIFNAME), is(ifname(n)...)) }

// ifname is a name as the kernel compares it, IFNAMSIZ bytes.
func ifname(n string) []byte { return append([]byte(n), make([]byte, unix.IFNAMSIZ-len(n))...) }

// reservedGroup matches 01:80:c2:00:00:0X, which bridges do not forward (IEEE 802.1Q-2018 8.6.3).
func reservedGroup() []expr.Any {
	return concat(load(expr.PayloadBaseLLHeader, 0, 6), []expr.Any{&expr.Bitwise{
		SourceRegister: 1, DestRegister: 1, Len: 6,
		Mask: []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xf0}, Xor: make([]byte, 6),
	}}, is(0x01, 0x80, 0xc2, 0, 0, 0))
}
