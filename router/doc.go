// Package router puts links, netstack and policy together. A packet's way through its files:
//
//  1. ingress.go    a worker takes a batch from its queue of one link after the other, and parses each frame once
//     hit.go        the short way of what belongs to a flow that remembers where it goes; what follows is the long one
//     ingress.go    the guards
//  2. proxy.go      ARP and ND: answers on both sides, for what is bound and for nothing else
//     presence.go   which guests are there: learned answers and announcements
//     advertise.go  router solicitations, and what guests are told of their router, asked or not
//     dhcp.go       DHCP to the router: dhcp4.go and dhcp6.go make the answers, out of the bindings alone
//  3. way.go        whom it is for: a guest, the uplink, dom0, the router itself, or nobody
//     forward.go    getting it there: TTL, MTU, MACs
//     admit.go      what state, rules and limits say of it; resets and errors where a rule rejects
//     neighbour.go  next hops on the uplink, with a bounded queue while one is being asked for
//     report.go     ICMP errors, a share for each guest
//  4. egress        the worker hands the batch to its queues of the links, whole; tally.go counts for guests, droplog.go keeps examples of what did not pass, strangers.go counts what died at a guest's port
//
// world.go is what all of them look at: one immutable value, replaced when dom0's kernel changes something, or the file. plan.go compiles a file, and
// reload.go puts it in the place of another; vifs.go is told of guests by hotplug. router.go starts the tasks and ends them; rounds.go tells when all have come
// round; control.go, status.go, flows.go and neighbourlist.go answer questions. handover.go, preload.go and snapshot.go leave everything to another process, store_linux.go by
// systemd's store. offload.go has the kernel forward what is decided. explain.go asks ways and policy of a packet by a file alone, and
// ask.go a file's tests.
package router
