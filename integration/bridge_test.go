package integration

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/integration/lab"
	"udrouter/integration/wire"
	"udrouter/policy"
)

// mark is in every frame that must not get past the router.
var mark = []byte("past the router")

// linkFrames are what a station may say to a bridge and to its neighbours without IP, or with IP that is not for the router: to two's MAC, to all, to the
// groups of IEEE 802.1Q-2018 8.6.3 and of vendors.
func linkFrames() map[string][]byte {
	frame := func(dst policy.MAC, typ uint16, payload ...byte) []byte {
		f := append(append(append([]byte(nil), dst[:]...), cases.MAC1[:]...), byte(typ>>8), byte(typ))
		return append(append(append(f, payload...), mark...), make([]byte, 40)...)
	}
	llc := func(dst policy.MAC, payload ...byte) []byte {
		return frame(dst, uint16(len(payload)+len(mark)), payload...)
	}
	group := func(last byte) policy.MAC { return policy.MAC{1, 0x80, 0xc2, 0, 0, last} }
	allNodes := policy.MAC{0x33, 0x33, 0, 0, 0, 1}
	udp := func(dst policy.MAC, from, to netip.Addr) []byte {
		f := cases.UDP(dst, cases.MAC1, from, to, len(mark))
		copy(f[len(f)-len(mark):], mark)
		return f
	}
	// Root of priority 0 (IEEE 802.1Q-2018 14).
	root := append(append([]byte{0, 0}, cases.MAC1[:]...), 0, 0, 0, 0, 0, 0)
	bpdu := append(append([]byte{0x42, 0x42, 3, 0, 0, 0, 0, 0}, root...), cases.MAC1[:]...)
	out := map[string][]byte{
		"IPv4 to the neighbour": udp(cases.MAC2, cases.One4, cases.Two4), "IPv6 to the neighbour": udp(cases.MAC2, cases.One6, cases.Two6),
		"IPv4 to all": udp(policy.BroadcastMAC, cases.One4, cases.Two4), "IPv6 to all": udp(allNodes, cases.One6, cases.Two6),
		"a router advertisement": frame(allNodes, policy.EtherIPv6, slices.Concat([]byte{0x60, 0, 0, 0, 0, 32 + 15, 58, 255}, cases.LL1.AsSlice(), cases.AllNodes.AsSlice(),
			[]byte{134, 0, 0, 0, 64, 0, 0x23, 0x28, 0, 0, 0, 0, 0, 0, 0, 0})...),
		"a DHCP offer":  udp(policy.BroadcastMAC, cases.One4, netip.MustParseAddr("255.255.255.255")),
		"an ARP claim":  frame(policy.BroadcastMAC, policy.EtherARP, cases.ARP(policy.BroadcastMAC, cases.MAC1, 2, cases.MAC1, cases.Router4, cases.MAC2, cases.Two4)[14:]...),
		"STP":           llc(group(0), bpdu...),
		"RSTP":          llc(group(0), 0x42, 0x42, 3, 0, 0, 2, 2, 0x3c),
		"topology":      llc(group(0), 0x42, 0x42, 3, 0, 0, 0, 0x80),
		"provider STP":  llc(group(8), bpdu...),
		"PVST":          llc(policy.MAC{1, 0, 0xc, 0xcc, 0xcc, 0xcd}, 0xaa, 0xaa, 3, 0, 0, 0xc, 1, 0xb),
		"CDP":           llc(policy.MAC{1, 0, 0xc, 0xcc, 0xcc, 0xcc}, 0xaa, 0xaa, 3, 0, 0, 0xc, 0x20, 0),
		"LACP":          frame(group(2), 0x8809, 1, 1),
		"PAUSE":         frame(group(1), 0x8808, 0, 1, 0xff, 0xff),
		"EAPOL":         frame(group(3), 0x888e, 1, 1),
		"EAPOL to two":  frame(cases.MAC2, 0x888e, 1, 1),
		"MVRP":          frame(group(0x21), 0x88f5, 0),
		"loopback":      frame(policy.MAC{0xcf}, 0x9000, 0, 0),
		"802.1Q to two": frame(cases.MAC2, 0x8100, 0, 5, 8, 0),
		"an IGMP query": frame(policy.MAC{1, 0, 0x5e, 0, 0, 1}, policy.EtherIPv4, 0x46, 0, 0, 32+15, 0, 0, 0, 0, 1, 2, 0, 0, 192, 0, 2, 10, 224, 0, 0, 1, 0x94, 4, 0, 0, 0x11, 100, 0, 0, 0, 0, 0, 0),
	}
	for last := range byte(16) {
		out[fmt.Sprintf("LLDP to group %x", last)] = frame(group(last), 0x88cc, 2, 7, 4)
		out[fmt.Sprintf("IPv4 to group %x", last)] = udp(group(last), cases.One4, cases.Dom04)
		out[fmt.Sprintf("IPv6 to group %x", last)] = udp(group(last), cases.One6, cases.Router6)
	}
	return out
}

// fdb lists the entries of dom0's bridge, learned ones as well.
func fdb(t *testing.T, l *lab.Lab) (list []string) {
	t.Helper()
	h, err := l.Dom0.Handle()
	must(t, err)
	entries, err := h.NeighList(0, unix.AF_BRIDGE)
	must(t, err)
	for _, e := range entries {
		if e.MasterIndex != 0 {
			list = append(list, fmt.Sprintf("%s on %d state %#x flags %#x", e.HardwareAddr, e.LinkIndex, e.State, e.Flags))
		}
	}
	slices.Sort(list)
	return list
}

// drain takes what has come so far, from before the router ran as well.
func drain(w *wire.Wire) {
	w.T.Helper()
	w.Announced()
	w.Settle(cases.One)
	for _, p := range wire.Places {
		w.Take(p)
	}
}

// A guest gets nothing past the router: neither to its neighbour, nor to dom0, nor by another's MAC, whatever it sends on the link. Nothing comes back, and
// the bridge is the same afterwards: its ports, its settings and its forwarding entries, also after more MACs than any table holds (attacks 1, 2 and 3).
func TestBridge(t *testing.T) {
	w := wire.New(t, string(config.Reference))
	dom0, c := w.Lab.Dom0, w.Lab.Config
	tap, err := dom0.Sniff(c.Bridge.TAP, lab.SniffOptions{Keep: func(f []byte) bool { return bytes.Contains(f, mark) }})
	must(t, err)
	drain(w)
	before, err := w.Lab.Dom0State()
	must(t, err)
	entries := fdb(t, w.Lab)
	same := func(when string) {
		t.Helper()
		if now := fdb(t, w.Lab); !slices.Equal(now, entries) {
			t.Errorf("%s: forwarding entries %v, were %v", when, now, entries)
		}
		now, err := w.Lab.Dom0State()
		must(t, err)
		if d := lab.DiffState(before, now); len(d) > 0 {
			t.Errorf("%s: dom0 is not as it was: %v", when, d)
		}
		for _, p := range wire.Places {
			for _, f := range w.Take(p) {
				t.Errorf("%s: at %s: %x", when, p, f)
			}
		}
	}
	macs := map[string]policy.MAC{"its own": cases.MAC1, "the neighbour's": cases.MAC2, "the router's": w.Net.Router, "nobody's": cases.Nobody, "the provider's": w.Net.Gateway}
	for name, link := range map[string]string{"the bridge's": c.Bridge.Name, "its port's": w.Lab.Guests[0].Domu.Vif, "the TAP's": c.Bridge.TAP, "dom0's": c.Uplink.Name} {
		macs[name], err = dom0.LinkMAC(link)
		must(t, err)
	}
	frames := linkFrames()
	for _, whose := range slices.Sorted(maps.Keys(macs)) {
		for _, what := range slices.Sorted(maps.Keys(frames)) {
			f := bytes.Clone(frames[what])
			mac := macs[whose]
			copy(f[6:], mac[:])
			must(t, w.Send[cases.One].Send(f))
			if mac == cases.MAC1 { // as for dom0's links, past which nothing must get by their own MACs
				for _, to := range macs {
					copy(f, to[:])
					if to != w.Net.Router {
						must(t, w.Send[cases.One].Send(f))
					}
				}
			}
		}
		w.Settle(cases.One)
		same("with " + whose + " MAC")
	}
	forged := func(f lab.Frame) bool { return policy.MAC(f.Data[6:12]) != cases.MAC1 }
	if n, all := tap.Count(forged), tap.Count(func(lab.Frame) bool { return true }); n > 0 || all == 0 {
		t.Errorf("%d of %d frames came to the router by a MAC that is not the guest's", n, all)
	}

	const stations = 50000
	f := cases.UDP(w.Net.Router, cases.MAC1, cases.One4, cases.X4, len(mark))
	copy(f[len(f)-len(mark):], mark)
	for i := range stations {
		binary.BigEndian.PutUint64(f[4:], rand.Uint64()) // the source, between two bytes of what is set anew
		copy(f, w.Net.Router[:])
		if i%3 == 0 {
			copy(f, policy.BroadcastMAC[:])
		}
		f[6] &^= 1
		must(t, w.Send[cases.One].Send(f))
		if i%1000 == 999 { // none of the neighbour's is lost
			w.Fence(cases.Two, cases.X4)
			w.Fence(cases.Uplink, cases.Two4)
		}
	}
	w.Settle(cases.One)
	same("after so many MACs")
	if n := tap.Count(forged); n > 0 {
		t.Errorf("%d frames came to the router by random MACs", n)
	}
}

// dom0's kernel says nothing to a guest on the link: not to a ping to all nodes, not on a link-local address that its links would have, not by its own
// addresses (attack 3).
func TestDom0IsSilent(t *testing.T) {
	w := wire.New(t, string(config.Reference))
	dom0, c := w.Lab.Dom0, w.Lab.Config
	_, err := dom0.ServeTCP(22)
	must(t, err)
	drain(w)
	own := policy.EUI64(cases.MAC1)
	at := netip.AddrPortFrom
	const syn, ack = 2, 16
	for _, src := range []netip.Addr{own, cases.One6} {
		for _, group := range []string{"ff02::1", "ff02::2", "ff01::1", "ff05::2", "ff02::1:ff00:1"} {
			to := netip.MustParseAddr(group)
			must(t, w.Send[cases.One].Send(cases.Echo(policy.MulticastMAC(to), cases.MAC1, src, to, false, 8, cases.TTL(1))))
		}
	}
	must(t, w.Send[cases.One].Send(cases.Echo(policy.BroadcastMAC, cases.MAC1, cases.One4, netip.MustParseAddr("255.255.255.255"), false, 8)))
	for _, link := range []string{c.Bridge.Name, w.Lab.Guests[0].Domu.Vif, c.Bridge.TAP, c.Uplink.Name, c.Host.Interface} {
		mac, err := dom0.LinkMAC(link)
		if err != nil {
			continue // a TUN has none
		}
		for _, to := range []policy.MAC{mac, policy.BroadcastMAC, {1, 0x80, 0xc2, 0, 0, 0}, {1, 0x80, 0xc2, 0, 0, 2}, {1, 0x80, 0xc2, 0, 0, 0xe}} {
			for _, a := range []netip.Addr{policy.EUI64(mac), dom0.Addr6()} {
				for _, f := range [][]byte{
					cases.NS(to, cases.MAC1, own, a, a, cases.MAC1), cases.NS(policy.MulticastMAC(policy.SolicitedNode(a)), cases.MAC1, own, policy.SolicitedNode(a), a, cases.MAC1),
					cases.TCP(to, cases.MAC1, at(own, 999), at(a, 22), syn, 1, 0, 0), cases.TCP(to, cases.MAC1, at(cases.One6, 999), at(a, 22), syn, 1, 0, 0),
					cases.TCP(to, cases.MAC1, at(own, 999), at(a, 23), ack, 1, 1, 0), cases.UDP(to, cases.MAC1, own, a, 8), cases.Echo(to, cases.MAC1, own, a, false, 8),
				} {
					if a != dom0.Addr6() || f[0] != 0x33 { // for that the router answers: it shares it
						must(t, w.Send[cases.One].Send(f))
					}
				}
			}
			for _, f := range [][]byte{
				cases.ARP(to, cases.MAC1, 1, cases.MAC1, cases.One4, policy.MAC{}, dom0.Addr4()), cases.TCP(to, cases.MAC1, at(cases.One4, 999), at(dom0.Addr4(), 22), syn, 1, 0, 0),
				cases.UDP(to, cases.MAC1, cases.One4, dom0.Addr4(), 8), cases.Echo(to, cases.MAC1, cases.One4, dom0.Addr4(), false, 8),
			} {
				must(t, w.Send[cases.One].Send(f))
			}
		}
	}
	w.Settle(cases.One)
	for _, p := range wire.Places {
		for _, f := range w.Take(p) {
			// What the router shares with dom0, and is asked for in a broadcast, it may answer for itself; it has a MAC of its own.
			if p == cases.One && policy.MAC(f[6:12]) == w.Net.Router {
				continue
			}
			t.Errorf("at %s: %x", p, f)
		}
	}
}

// Beside a kernel that forwards and has routes everywhere, every row is the same: one copy of what passes, one answer, no reset and no error of the
// kernel's for what is the router's (attack 3; packet(7)).
func TestCasesBesideForwarding(t *testing.T) {
	w := wire.New(t, cases.Open(config.Reference))
	for _, key := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		must(t, w.Lab.Dom0.SetSysctl(key, "1"))
	}
	var rows []cases.Case
	for _, c := range cases.All() {
		if !c.Enforced && !kernelRoutes(c, w.Net) {
			rows = append(rows, c)
		}
	}
	w.RunAll(t, rows)
}

// kernelRoutes tells whether a row sends, from the uplink to dom0's MAC, what is for none of ours. A kernel that
// forwards, by its owner's will, sends that back, or a redirect about it.
func kernelRoutes(c cases.Case, n cases.Net) bool {
	if c.From != cases.Uplink {
		return false
	}
	for _, sent := range append([]cases.Sent{{Frame: c.Frame}}, c.Then...) {
		var p policy.Packet
		p.Parse(sent.Frame(n), policy.Offload{})
		ours := p.Dst.Is4() && netip.MustParsePrefix("192.0.2.0/24").Contains(p.Dst) || p.Dst.Is6() && netip.MustParsePrefix("2001:db8:3:2::/64").Contains(p.Dst)
		if p.DstMAC == n.Eth0 && p.Dst.IsValid() && !ours && p.Dst != n.UplinkLL {
			return true
		}
	}
	return false
}
