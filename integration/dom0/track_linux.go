package dom0

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// track has the kernel track connections, and with them those that it has not seen the beginning of. It does so only where some table's rule
// asks for it, and where none did so far, a connection that dom0 has opened is unknown: the next packet that comes in would be the first of
// a new one, and dropped. A download would stall for ever, since dom0 has nothing to send. So connections are tracked first, then
// those that sockets have are entered, and only then may rules drop anything: none falls in between.
//
// The rule stands in a chain that nothing calls. The tables are replaced next, and the new one's rules go on asking for tracking.
func (g *guard) track() error {
	t := g.conn.AddTable(&nftables.Table{Name: TableName, Family: nftables.TableFamilyINet})
	ch := g.conn.AddChain(&nftables.Chain{Name: chainTracking, Table: t})
	g.conn.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: ctState(expr.CtStateBitESTABLISHED)})
	if err := g.flush(); err != nil {
		return fmt.Errorf("having connections tracked (is the module nf_conntrack there?): %w", err)
	}
	g.untracked = g.ns.do(adoptConnections)
	return nil
}

// Values of include/uapi/linux/netfilter that neither x/sys/unix nor nl names.
const (
	ipsAdopted  = 1<<1 | 1<<2 | 1<<3 // nf_conntrack_common.h IPS_SEEN_REPLY, IPS_ASSURED, IPS_CONFIRMED
	tcpFlags    = 0x02 | 0x08        // nf_conntrack_tcp.h IP_CT_TCP_FLAG_SACK_PERM, IP_CT_TCP_FLAG_BE_LIBERAL: the windows' scale is not known
	tcpTimeout  = 5 * 24 * 60 * 60   // seconds, the kernel's default for an established connection
	udpTimeout  = 120                // seconds, for a stream
	maxSockDump = 8                  // repetitions of a dump that changed under us
)

// adoptable are the states of sockets (net/tcp_states.h) whose connection goes on. Who is about to open one repeats its first packet.
const adoptable = 1<<unix.BPF_TCP_ESTABLISHED | 1<<unix.BPF_TCP_FIN_WAIT1 | 1<<unix.BPF_TCP_FIN_WAIT2 | 1<<unix.BPF_TCP_CLOSE_WAIT |
	1<<unix.BPF_TCP_LAST_ACK | 1<<unix.BPF_TCP_CLOSING

// adoptConnections enters the connections of the calling thread's network namespace into its table; those that are there stay as they are.
func adoptConnections() error {
	s, err := nl.Subscribe(unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("opening netfilter netlink: %w", err)
	}
	defer s.Close()
	sockets := map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: {Socket: s}}
	var errs []error
	for _, q := range []struct {
		proto uint8
		dump  func(family uint8) ([]*netlink.Socket, error)
	}{{unix.IPPROTO_TCP, netlink.SocketDiagTCP}, {unix.IPPROTO_UDP, netlink.SocketDiagUDP}} {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			list, err := q.dump(family)
			for i := 0; errors.Is(err, netlink.ErrDumpInterrupted) && i < maxSockDump; i++ {
				list, err = q.dump(family)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("listing sockets (are the modules tcp_diag and udp_diag there?): %w", err))
			}
			for _, sock := range list {
				if err := adopt(sockets, q.proto, sock); err != nil {
					return errors.Join(append(errs, err)...)
				}
			}
		}
	}
	return errors.Join(errs...)
}

// adopt enters a socket's connection. Which side has opened it is not known, and makes no difference to who is established.
func adopt(sockets map[int]*nl.SocketHandle, proto uint8, s *netlink.Socket) error {
	own, ok1 := netip.AddrFromSlice(s.ID.Source)
	peer, ok2 := netip.AddrFromSlice(s.ID.Destination)
	own, peer = own.Unmap(), peer.Unmap()
	if !ok1 || !ok2 || 1<<s.State&adoptable == 0 || peer.IsUnspecified() || own.IsLoopback() {
		return nil
	}
	family, timeout := uint8(unix.AF_INET), uint32(udpTimeout)
	if own.Is6() {
		family = unix.AF_INET6
	}
	if proto == unix.IPPROTO_TCP {
		timeout = tcpTimeout
	}
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_NEW, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.Sockets = sockets
	req.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
	req.AddData(tuple(nl.CTA_TUPLE_ORIG, proto, netip.AddrPortFrom(own, s.ID.SourcePort), netip.AddrPortFrom(peer, s.ID.DestinationPort)))
	req.AddData(tuple(nl.CTA_TUPLE_REPLY, proto, netip.AddrPortFrom(peer, s.ID.DestinationPort), netip.AddrPortFrom(own, s.ID.SourcePort)))
	req.AddData(nl.NewRtAttr(nl.CTA_STATUS, binary.BigEndian.AppendUint32(nil, ipsAdopted)))
	req.AddData(nl.NewRtAttr(nl.CTA_TIMEOUT, binary.BigEndian.AppendUint32(nil, timeout)))
	if proto == unix.IPPROTO_TCP {
		info := nl.NewRtAttr(nl.CTA_PROTOINFO|unix.NLA_F_NESTED, nil)
		tcp := info.AddRtAttr(nl.CTA_PROTOINFO_TCP|unix.NLA_F_NESTED, nil)
		tcp.AddRtAttr(nl.CTA_PROTOINFO_TCP_STATE, []byte{nl.TCP_CONNTRACK_ESTABLISHED})
		tcp.AddRtAttr(nl.CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, []byte{tcpFlags, tcpFlags}) // value and mask
		tcp.AddRtAttr(nl.CTA_PROTOINFO_TCP_FLAGS_REPLY, []byte{tcpFlags, tcpFlags})
		req.AddData(info)
	}
	if _, err := req.Execute(unix.NETLINK_NETFILTER, 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("entering a connection (is the module nf_conntrack_netlink there?): %w", err)
	}
	return nil
}

// tuple is one direction of a connection.
func tuple(direction int, proto uint8, src, dst netip.AddrPort) *nl.RtAttr {
	srcType, dstType := nl.CTA_IP_V4_SRC, nl.CTA_IP_V4_DST
	if src.Addr().Is6() {
		srcType, dstType = nl.CTA_IP_V6_SRC, nl.CTA_IP_V6_DST
	}
	t := nl.NewRtAttr(direction|unix.NLA_F_NESTED, nil)
	ip := t.AddRtAttr(nl.CTA_TUPLE_IP|unix.NLA_F_NESTED, nil)
	ip.AddRtAttr(srcType, src.Addr().AsSlice())
	ip.AddRtAttr(dstType, dst.Addr().AsSlice())
	l4 := t.AddRtAttr(nl.CTA_TUPLE_PROTO|unix.NLA_F_NESTED, nil)
	l4.AddRtAttr(nl.CTA_PROTO_NUM, []byte{proto})
	l4.AddRtAttr(nl.CTA_PROTO_SRC_PORT, be16(src.Port()))
	l4.AddRtAttr(nl.CTA_PROTO_DST_PORT, be16(dst.Port()))
	return t
}
