// Package stack holds the links and netstack. It is the only place with system calls on the data path and the only one
// that imports gVisor.
//
//	frame.go link.go       a frame with its virtio_net_hdr; what a link promises
//	tuntap_linux.go        the guests' TAP and dom0's TUN
//	uplink_linux.go        AF_PACKET on the uplink, with filter.go in the kernel before it
//	offload.go fragment.go what a GSO frame or a partial checksum becomes where it cannot stay whole
//	icmp.go                ICMP and ICMPv6 errors
//	kernel_linux.go        what dom0's kernel knows: addresses, routes, the uplink's state
//	netstack.go            gVisor's netstack: the router's own addresses, echo, and next hops on the uplink
package stack
