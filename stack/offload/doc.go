// Package offload is the third tier: it has the kernel forward packets of flows that were decided, by eBPF programs on the TAP (what the bridge sends into it)
// and on the uplink (what it receives). The programs are in flow.c; go generate compiles them, with clang and the headers of Linux, into an object that is
// part of the repository.
//
// What the programs look at lies in memory that they share with this package, so that what changes is followed by the next packet without a system call: a
// generation for everything that flows depend on, the MACs of neighbours, and of each flow its windows and counters.
package offload
