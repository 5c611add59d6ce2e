package stack

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/net/bpf"

	"udrouter/policy"
)

// Filter says which frames concern the guests.
type Filter struct {
	Prefixes []netip.Prefix // the guests'
	Held     []netip.Addr   // addresses in them that dom0's kernel serves
	Own      []netip.Addr   // the router's on the uplink
}

// maxHeldInFilter bounds the program; the guards refuse what more there is.
const maxHeldInFilter = 64

// program is the filter as the kernel runs it on each received frame: ARP, Neighbor Discovery, and IP to the guests'
// prefixes but not to what dom0's kernel serves itself. It looks behind a VLAN tag that the kernel has stripped, so that
// such frames are seen and counted.
func (f Filter) program() []bpf.Instruction {
	const (
		none = 0
		all  = 1 << 18
	)
	pass := bpf.RetConstant{Val: all}
	refuse := bpf.RetConstant{Val: none}
	v4 := []bpf.Instruction{}
	v6 := []bpf.Instruction{
		bpf.LoadAbsolute{Off: policy.EthernetLen + 6, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: policy.ProtoICMPv6, SkipTrue: 4},
		bpf.LoadAbsolute{Off: policy.EthernetLen + policy.IPv6Len, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: policy.RouterSolicitation, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: policy.RedirectMessage, SkipTrue: 1},
		pass,
	}
	const dst4, dst6 = policy.EthernetLen + 16, policy.EthernetLen + 24
	for _, a := range f.Held[:min(len(f.Held), maxHeldInFilter)] {
		if !f.concerns(a) {
			continue
		}
		if a.Is4() {
			v4 = append(v4, match(dst4, netip.PrefixFrom(a, 32), refuse)...)
		} else {
			v6 = append(v6, match(dst6, netip.PrefixFrom(a, 128), refuse)...)
		}
	}
	for _, a := range f.Own {
		if a.Is6() {
			v6 = append(v6, match(dst6, netip.PrefixFrom(a, 128), pass)...)
		}
	}
	for _, p := range f.Prefixes {
		if p.Addr().Is4() {
			v4 = append(v4, match(dst4, p, pass)...)
		} else {
			v6 = append(v6, match(dst6, p, pass)...)
		}
	}
	v4 = append(v4, refuse)
	v6 = append(v6, refuse)
	const outgoing = 4 // PACKET_OUTGOING
	prog := []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: outgoing, SkipTrue: 1},
		refuse,
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: policy.EtherARP, SkipTrue: 1},
		pass,
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: policy.EtherIPv4, SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: policy.EtherIPv6, SkipTrue: 1},
		refuse,
		bpf.Jump{Skip: uint32(len(v4))},
	}
	return append(append(prog, v4...), v6...)
}

func (f Filter) concerns(a netip.Addr) bool {
	for _, p := range f.Prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// match returns then where the address at off lies in a prefix, and goes on behind it otherwise.
func match(off uint32, p netip.Prefix, then bpf.Instruction) []bpf.Instruction {
	addr := p.Addr().AsSlice()
	var words [][2]uint32 // value, mask
	for bits, i := p.Bits(), 0; bits > 0; bits, i = bits-32, i+4 {
		mask := ^uint32(0)
		if bits < 32 {
			mask <<= 32 - bits
		}
		words = append(words, [2]uint32{binary.BigEndian.Uint32(addr[i:]) & mask, mask})
	}
	var prog []bpf.Instruction
	for i, w := range words {
		left := uint8(3*(len(words)-1-i) + 1) // instructions behind this word's jump
		prog = append(prog,
			bpf.LoadAbsolute{Off: off + uint32(4*i), Size: 4},
			bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: w[1]},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: w[0], SkipTrue: left})
	}
	return append(prog, then)
}
