// Package lab builds the whole network of a configuration file in network namespaces, runs the
// router in it and shows what it does: "udrouter lab", and the stage of every integration test.
//
//	internet (X)
//	   | eth0 - wan                the hop whose MTU SetHopMTU sets
//	upstream router gw             gateway4, gateway6; forwards; knows the routed networks behind
//	   | lan - eth0                dom0's address, and the proxied ones on its link
//	dom0                           the uplink's name and address; what is tested runs here
//	   | bridge, vif1.0 - eth0
//	   +- guest "one"              MAC and addresses of its domu block, the whole prefix on-link,
//	   +- guest "two"              default route to its network's gateway
//
// Everything is made by this process over netlink and held by descriptors; no program is called,
// and no name appears outside. So labs do not disturb each other, and nothing is left when the
// process ends, by whatever: namespaces go with their last descriptor, and children are killed
// with the thread that made them. A lab needs root, or a user namespace in which it is root:
// NeedsReexec and Reexec.
//
// A test builds a lab, starts a router in dom0 (StartRouter; KernelRouter is the kernel in its
// place) and asks the nodes: Ping, Trace, Transfer, Throughput, EchoUDP, Sniff, Sender, Command and
// everything else that NS has. Show is all of this as a report.
//
// Probes end with their context, never with a sleep: what has not come yet is told from what will
// not come by a later packet on the same way that has.
package lab
