// Package dom0 is everything that a running router changes in dom0's kernel, but for the descriptors
// (TAP, TUN, AF_PACKET), which package stack owns: the bridge and its ports, an nftables guard, the
// routes to the host TUN, and the way back from all of it.
//
// # A frame's way through what this package sets up
//
//	guest -> vif          locked: only the guest's own MAC passes; learning off, so nothing else ever will
//	  bridge forward      nft "bridge": only ports seen locked, and the TAP, may exchange frames
//	                      isolated: guest to guest dies, guest to TAP passes
//	  bridge output       nft "bridge": nor does dom0's own stack send to guests or to the TAP
//	  bridge input        nft "bridge" and "netdev": nothing a guest sends goes up into dom0's own stack
//	    -> TAP -> router
//	provider -> uplink    the router's AF_PACKET socket has its copy
//	  netdev ingress      nft "netdev": what is for the guests ends here, unless the kernel holds the address
//	    -> dom0's stack   nft "inet" forward: nothing is routed to, from or between guests by the kernel
//	dom0 -> udrhost       routes of protocol [RouteProtocol]
//
// # Why netdev ingress
//
// The guard on the uplink may sit at netdev ingress or at inet prerouting before conntrack's defragmentation
// (-450). Measured on 6.18 over a veth, 60-byte UDP to a guest's address, nanoseconds a packet, best of 25, sender
// included: no guard 2006, netdev 1592, inet 1750; to dom0's own address the two cost the same within noise.
// netdev ends the packet earlier, sees ARP in the same place, and needs no third table for it. Its price is
// that the chain is bound to a device: before Linux 6.16 it disappears with the uplink and has to be put back.
//
// # The window of a new port
//
// A port enters a bridge unlocked, and stays so until someone has seen it: milliseconds while the router runs, for ever
// when it was killed. nftables closes it: a frame is forwarded only between ports of the set "secured"
// (interface indexes, so that a successor of the same name is not taken for its predecessor), and a port comes
// into the set only after it has been read back locked, isolated and without foreign forwarding entries. Matching the
// bridge's name at prerouting would say the same in one rule, but needs CONFIG_NFT_BRIDGE_META, which is not
// everywhere. Static entries are sticky, so that an unlocked port cannot make a guest's MAC roam to it
// meanwhile. Cost, 60-byte frames veth to veth over the bridge: 2.00 us without, 2.10-2.18 us with; TCP: not measurable.
//
// # What a locked port drops
//
// The bridge counts nothing that a lock drops. The router counts it, by an AF_PACKET socket on each guest's port, which sees a frame before the bridge does
// (stack.WatchPort).
//
// # What a locked port does not stop
//
// Frames to 01:80:c2:00:00:0X never reach the bridge's forwarding and so no lock; the kernel takes them in on the vif
// itself, and those to :0e (LLDP) not even a bridge filter sees (found on 6.18). An IPv4 packet inside one reached a UDP socket on
// dom0's uplink address: dom0's stack accepts its addresses on every interface. An address on the bridge is not needed for that either:
// a guest that sends to the bridge's MAC, or an ARP broadcast, gets an answer for any address of dom0. Hence three
// things: the bridge's group_fwd_mask turns :03 to :0f into ordinary frames, which meet the lock; the bridge
// family's input chain stops :02 (:00 is forwarded without STP, :01 the kernel drops); and the netdev chain on the bridge device
// stops whatever else would go up.
//
// # What the internet may send to dom0
//
// host.uplink is the chain "input" of the inet table, at a priority after the filters of others: it admits nothing that they drop,
// and they see what they saw before. It looks at what comes by the uplink only. Replies and related errors pass by connection
// tracking, which is switched on before the rules are there, and is told of the connections that dom0's sockets have already
// (track_linux.go): a filter whose coming ends an administrator's download is none that one dares to install.
//
// # Undo
//
// Before the first change a journal with what was found is written to Spec.StateDir; a killed run leaves it there, and
// the next Open uses its values instead of the current ones. See journal.go.
package dom0
