package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"udrouter/policy"
)

// bindByKernel is what an administrator would write by hand in nftables to get near udrouter: on the
// bridge only what has the guest's MAC and addresses, and in the forwarding path connection
// tracking with each guest's rules. Rules that name peers are beyond it.
func (l *Lab) bindByKernel() error {
	conn, err := nftables.New(nftables.WithNetNSFd(l.Dom0.FD()))
	if err != nil {
		return err
	}
	bridge := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyBridge, Name: "lab"})
	ports := conn.AddChain(&nftables.Chain{
		Name: "ports", Table: bridge, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	})
	inet := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "lab"})
	drop := nftables.ChainPolicyDrop
	forward := conn.AddChain(&nftables.Chain{
		Name: "forward", Table: inet, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &drop,
	})
	var rules int
	var failed error
	add := func(c *nftables.Chain, r rule, verdict expr.Any) {
		conn.AddRule(&nftables.Rule{Table: c.Table, Chain: c, Exprs: append(slices.Clone(r), verdict)})
		if rules++; rules%rulesAtOnce == 0 {
			failed = errors.Join(failed, conn.Flush())
		}
	}
	add(forward, rule{}.state(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), accept)
	for i, g := range l.Guests {
		port := conn.AddChain(&nftables.Chain{Name: fmt.Sprintf("port%d", i), Table: bridge})
		add(ports, rule{}.inputIs(g.Domu.Vif), jump(port))
		bindPort(g, func(r rule, verdict expr.Any) { add(port, r, verdict) })

		for _, dir := range []struct {
			name       string
			chain      policy.Chain
			v4At, v6At uint32 // where the guest's address is in the IP header
		}{
			{name: "egress", chain: l.policy(&g.Domu).Egress, v4At: 12, v6At: 8},
			{name: "ingress", chain: l.policy(&g.Domu).Ingress, v4At: 16, v6At: 24},
		} {
			c := conn.AddChain(&nftables.Chain{Name: fmt.Sprintf("%s%d", dir.name, i), Table: inet})
			for _, a := range append(slices.Clone(g.Domu.IPv4), g.Domu.IPv6...) {
				add(forward, rule{}.network(a, dir.v4At, dir.v6At), jump(c))
			}
			if err := chainRules(dir.chain, func(r rule, verdict expr.Any) { add(c, r, verdict) }); err != nil {
				return fmt.Errorf("%s of %s: %w", dir.name, g.Name(), err)
			}
		}
	}
	add(forward, nil, accept) // what came back from every chain that concerns it
	return l.loadForNow(func() error { return errors.Join(failed, conn.Flush()) }, conn, bridge, inet)
}

// rulesAtOnce is how many rules are loaded together: the kernel acknowledges each, and a socket's buffer holds so many answers.
const rulesAtOnce = 100

// ProtectDom0 loads the reference's ip6tables list as nftables, for both families. NoKernelRouter takes it away.
func (l *Lab) ProtectDom0() error {
	conn, err := nftables.New(nftables.WithNetNSFd(l.Dom0.FD()))
	if err != nil {
		return err
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "protect"})
	drop := nftables.ChainPolicyDrop
	input := conn.AddChain(&nftables.Chain{
		Name: "input", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter, Policy: &drop,
	})
	for _, r := range []rule{
		rule{}.inputIs("lo"),
		rule{}.state(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED),
		rule{}.proto(protoTCP).destination(policy.PortRange{First: 22, Last: 22}),
		rule{}.proto(protoICMP),
		rule{}.proto(protoICMPv6),
	} {
		conn.AddRule(&nftables.Rule{Table: table, Chain: input, Exprs: append(r, accept)})
	}
	return l.loadForNow(conn.Flush, conn, table)
}

// loadForNow loads tables that NoKernelRouter deletes.
func (l *Lab) loadForNow(load func() error, conn *nftables.Conn, tables ...*nftables.Table) error {
	return l.forNow(func() error {
		if err := load(); err != nil {
			return fmt.Errorf("loading nftables: %w", err)
		}
		return nil
	}, func() error {
		for _, t := range tables {
			conn.DelTable(t)
		}
		return conn.Flush()
	})
}

// bindPort admits on a guest's port what the guest may be.
func bindPort(g *Guest, add func(rule, expr.Any)) {
	add(rule{}.payload(expr.PayloadBaseLLHeader, 6, expr.CmpOpNeq, g.MAC[:]), discard)
	arp := rule{}.etherType(etherARP).payload(expr.PayloadBaseNetworkHeader, 8, expr.CmpOpEq, g.MAC[:])
	for _, p := range g.Domu.IPv4 {
		add(arp.prefix(p, 14), accept)
		add(rule{}.network(p, 12, 8), accept)
	}
	own := append(slices.Clone(g.Domu.IPv6), host(linkLocal(g.MAC)))
	for _, p := range own {
		na := rule{}.etherType(etherIPv6).icmp6(ndAdvertise)
		add(na.prefixAt(expr.PayloadBaseTransportHeader, p, 8), accept)
	}
	for _, t := range []byte{ndAdvertise, 134, 137} { // other advertisements, and those of routers; redirects
		add(rule{}.etherType(etherIPv6).icmp6(t), discard)
	}
	for _, p := range append(own, host(netip.IPv6Unspecified())) {
		add(rule{}.network(p, 12, 8), accept)
	}
	add(nil, discard)
}

// chainRules writes a policy's chain; accepting is to return, so that the other guest's is asked too.
func chainRules(c policy.Chain, add func(rule, expr.Any)) error {
	back := &expr.Verdict{Kind: expr.VerdictReturn}
	for _, r := range c.Rules {
		if len(r.From)+len(r.To) > 0 {
			return fmt.Errorf("rule %s names peers: %w", r.Name, errors.ErrUnsupported)
		}
		var m rule
		if r.Proto != policy.AnyProto {
			m = m.proto(byte(r.Proto))
		}
		ports := r.Ports
		if len(ports) == 0 {
			ports = []policy.PortRange{{}}
		}
		for _, p := range ports {
			mp := m
			if p.Last != 0 {
				mp = m.destination(p)
			}
			switch r.Action {
			case policy.Accept:
				add(mp, back)
			case policy.Reject:
				if r.Proto == protoTCP {
					add(mp, &expr.Reject{Type: unix.NFT_REJECT_TCP_RST})
					continue
				}
				add(mp, &expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED})
			default:
				add(mp, discard)
			}
		}
	}
	if c.Default != policy.Accept {
		add(nil, discard)
	}
	return nil
}

var (
	accept  = &expr.Verdict{Kind: expr.VerdictAccept}
	discard = &expr.Verdict{Kind: expr.VerdictDrop}
)

func jump(c *nftables.Chain) expr.Any { return &expr.Verdict{Kind: expr.VerdictJump, Chain: c.Name} }

// rule is what a packet has to match; its methods return a longer one.
type rule []expr.Any

func (r rule) and(e ...expr.Any) rule { return append(r[:len(r):len(r)], e...) }

func (r rule) meta(key expr.MetaKey, value []byte) rule {
	return r.and(&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value})
}

func (r rule) payload(base expr.PayloadBase, at uint32, op expr.CmpOp, value []byte) rule {
	return r.and(&expr.Payload{DestRegister: 1, Base: base, Offset: at, Len: uint32(len(value))},
		&expr.Cmp{Op: op, Register: 1, Data: value})
}

// prefixAt compares an address somewhere in the packet with a prefix.
func (r rule) prefixAt(base expr.PayloadBase, p netip.Prefix, at uint32) rule {
	size := uint32(p.Addr().BitLen() / 8)
	mask := make([]byte, size)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return r.and(
		&expr.Payload{DestRegister: 1, Base: base, Offset: at, Len: size},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: mask, Xor: make([]byte, size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()})
}

func (r rule) prefix(p netip.Prefix, at uint32) rule {
	return r.prefixAt(expr.PayloadBaseNetworkHeader, p, at)
}

// network compares an address in the IP header of a prefix's family.
func (r rule) network(p netip.Prefix, v4At, v6At uint32) rule {
	if p.Addr().Is4() {
		return r.etherType(etherIPv4).prefix(p, v4At)
	}
	return r.etherType(etherIPv6).prefix(p, v6At)
}

func (r rule) etherType(t uint16) rule {
	return r.meta(expr.MetaKeyPROTOCOL, binary.BigEndian.AppendUint16(nil, t))
}

func (r rule) proto(p byte) rule { return r.meta(expr.MetaKeyL4PROTO, []byte{p}) }

func (r rule) icmp6(typ byte) rule {
	return r.proto(protoICMPv6).payload(expr.PayloadBaseTransportHeader, 0, expr.CmpOpEq, []byte{typ})
}

func (r rule) destination(p policy.PortRange) rule {
	return r.and(&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Range{
			Op: expr.CmpOpEq, Register: 1,
			FromData: binary.BigEndian.AppendUint16(nil, p.First), ToData: binary.BigEndian.AppendUint16(nil, p.Last),
		})
}

func (r rule) inputIs(link string) rule {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, link)
	return r.meta(expr.MetaKeyIIFNAME, name)
}

func (r rule) state(bits uint32) rule {
	return r.and(&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binary.NativeEndian.AppendUint32(nil, bits), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)})
}
