package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/net/bpf"

	"udrouter/integration/lab"
	"udrouter/policy"
)

// nowhere are where forged packets go to: nobody sends anything else there.
var nowhere4, nowhere6 = netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8:ffff::9")

// part is what a frame has from an offset on.
type part struct {
	offset int
	bytes  []byte
}

// What a forgery is known by wherever it comes, as the guest sent it or with the router's MAC instead.
var (
	toNowhere4 = []part{{12, []byte{8, 0}}, {policy.EthernetLen + 16, nowhere4.AsSlice()}}
	toNowhere6 = []part{{12, []byte{0x86, 0xdd}}, {policy.EthernetLen + 24, nowhere6.AsSlice()}}
	// solicitedBy is a neighbour solicitation from a guest's address: the router asks with its own.
	solicitedBy = []part{{12, []byte{0x86, 0xdd}}, {policy.EthernetLen + 8, guests6}, {policy.EthernetLen + 40, []byte{policy.NeighborSolicitation}}, {20, []byte{policy.ProtoICMPv6}}}
)

// guestMACs and guests6 are what guests' MACs and IPv6 addresses begin with, guests4 their IPv4 addresses; the gateway's are the router's.
var (
	guestMACs = []byte{0, 0x16, 0x3e, 0, 1}
	guests4   = []byte{198, 18}
	guests6   = netip.MustParseAddr("2001:db8:3:2:1::").AsSlice()[:10]
)

// toProvider are forgeries at the provider's router: it hears of the guests' IPv4 addresses by no ARP, since their network is routed.
var toProvider = [][]part{toNowhere4, toNowhere6, solicitedBy, {{12, []byte{8, 6}}, {28, guests4}}}

// toGuest are forgeries at a guest: it hears of others' MACs neither as the source of a frame nor in ARP, since all comes from the router.
var toGuest = [][]part{toNowhere4, toNowhere6, {{6, guestMACs}}, {{12, []byte{8, 6}}, {22, guestMACs}}, solicitedFor}

// solicitedFor is solicitedBy about the gateway: the router asks guests for guests only, of whatever address.
var solicitedFor = append(solicitedBy[:len(solicitedBy):len(solicitedBy)], part{policy.EthernetLen + 48, netip.MustParseAddr("2001:db8:3:2:1::1").AsSlice()})

// anyOf is a filter that takes the frames that have all parts of one of several kinds.
func anyOf(kinds [][]part) (prog []bpf.Instruction) {
	for _, k := range kinds {
		var checks []bpf.Instruction
		for _, p := range k {
			for i, n := 0, 0; i < len(p.bytes); i += n {
				n = 1
				value := uint32(p.bytes[i])
				if len(p.bytes)-i >= 4 {
					n, value = 4, binary.BigEndian.Uint32(p.bytes[i:])
				} else if len(p.bytes)-i >= 2 {
					n, value = 2, uint32(binary.BigEndian.Uint16(p.bytes[i:]))
				}
				checks = append(checks, bpf.LoadAbsolute{Off: uint32(p.offset + i), Size: n}, bpf.JumpIf{Cond: bpf.JumpEqual, Val: value})
			}
		}
		for i, c := range checks { // what is unlike goes on behind this kind's return
			if jump, ok := c.(bpf.JumpIf); ok {
				jump.SkipFalse = uint8(len(checks) - i)
				checks[i] = jump
			}
		}
		prog = append(append(prog, checks...), bpf.RetConstant{Val: 1 << 16})
	}
	return append(prog, bpf.RetConstant{Val: 0})
}

// witness sees the forgeries that come to somebody.
type witness struct {
	who string
	*lab.Sniffer
}

// testify puts witnesses to the provider's router and to every guest that stays.
func (s *soak) testify() error {
	at := func(n *lab.Node, kinds [][]part) error {
		sniffer, err := n.Sniff(n.Link, lab.SniffOptions{BPF: lab.Arriving(anyOf(kinds)), Max: 16})
		if err != nil {
			return err
		}
		s.witnesses = append(s.witnesses, witness{n.Name(), sniffer})
		return nil
	}
	if err := at(s.Gateway, toProvider); err != nil {
		return err
	}
	for _, g := range s.Guests {
		if err := at(g.Node, toGuest); err != nil {
			return err
		}
	}
	return nil
}

// leaked complains of what witnesses have seen.
func (s *soak) leaked() {
	for _, w := range s.witnesses {
		if f := w.Frames(); len(f) > 0 || w.Lost() > 0 {
			first := "none was kept"
			if len(f) > 0 {
				first = fmt.Sprintf("the first is %x", f[0].Data)
			}
			s.complain("%d forged frames came to %s, %s", len(f)+w.Lost(), w.who, first)
		}
	}
}

func (s *soak) closeWitnesses() error {
	var errs []error
	for _, w := range s.witnesses {
		errs = append(errs, w.Close())
	}
	return errors.Join(errs...)
}
