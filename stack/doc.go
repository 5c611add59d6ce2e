// Package stack holds the links and netstack. It is the only place with system calls on the data path and the only one
// that imports gVisor.
//
//	frame.go link.go       a frame with its virtio_net_hdr; what a link and its queues promise
//	queue_linux.go         what all queues have
//	tuntap_linux.go        the guests' TAP and dom0's TUN; tunqueue_linux.go and ring_linux.go move their frames
//	uplink_linux.go        AF_PACKET on the uplink, with filter.go in the kernel before it; packetqueue_linux.go moves its frames
//	strangers_linux.go     AF_PACKET on the guests' ports: what the bridge drops there for its source MAC
//	wait_linux.go          what a worker waits with
//	offload.go fragment.go what a GSO frame or a partial checksum becomes where it cannot stay whole
//	icmp.go                ICMP and ICMPv6 errors
//	probe.go               packets that rules are asked about, and live tests send
//	kernel_linux.go        what dom0's kernel knows: addresses, routes, the uplink's state
//	netstack.go            gVisor's netstack: the router's own addresses, echo, and next hops on the uplink
//
// # How frames are moved
//
// By what package batchfacts has measured (2 cores, Linux 6.18, a system call of 1.1 us; ratios of the time a frame takes):
//
//   - Uplink: recvmmsg(2) and sendmmsg(2) of up to 64 frames, 0.13 and 0.24 of a call a frame. TPACKET_V3 saves another 0.2 us of a small frame and
//     nothing of a big one, but keeps a lone frame for a millisecond and loses frames when blocks retire nearly empty; of a TX ring the kernel
//     copies what crosses a veth, 1.15 of a call a frame and more. PACKET_QDISC_BYPASS saves a tenth where there is a queue, and loses the queue.
//   - TAP and TUN: io_uring(7), 0.14 of read(2) and 0.34 of write(2) for small frames, 0.56 and 0.47 for 64 KiB. Where the kernel does not let us, or is
//     older than 6.1, read(2) and write(2). writev(2) and IFF_NAPI gain nothing. A packet socket on the bridge would write small frames in 0.22,
//     but by other hooks of the bridge than a port's, and past the port's isolation.
//   - A batch ends at 64 frames or 256 KiB: 64 frames of 64 KiB leave the cache between the two calls and take up to 1.6 times as long as four. The
//     next batch asks for as many as the last one makes likely, and uses the same buffers.
//   - A worker waits in poll(2) when no queue has anything, and looks at once who has: a lone packet is not kept, and nothing spins. Calls that do
//     not wait are made past Go's scheduler, which would else take the processor away from a thread that is long in one.
//   - Queues are spread by a hash of addresses and ports that is the same for both directions, in TAP and AF_PACKET alike.
package stack
