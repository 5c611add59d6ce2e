// Package confine takes from a running router what it does not need any more once everything is open, so that who takes the process over
// through a packet has little of the machine.
//
// # What is left
//
//   - capabilities: CAP_NET_ADMIN (netlink, nftables, TUNSETIFF, sysctls of the network) and CAP_NET_RAW (the uplink's sockets are opened
//     again when the interface was made anew, and guests' ports that come are watched). A root that has no others cannot pass over a file's mode. The bounding, inheritable and
//     ambient sets are empty, and no_new_privs is set.
//   - system calls: those of the table in filter_linux.go. Sockets are netlink, packet, and unix datagrams, with which systemd is told; no
//     service of dom0 (systemd, D-Bus, docker) that believes a root's word listens on those. Memory is never made executable, and a process
//     is never made, only threads. io_uring, which no such filter sees into, takes reads and writes alone, on rings made before (package stack).
//   - files (Landlock): the configuration's directory to read; the state directory; in the control socket's directory, to make and remove
//     sockets and files; /dev/net/tun; /proc/sys/net.
//
// # What happens to the rest
//
// A refused call fails with EPERM, and the kernel logs it (audit; dmesg): a library that asks for something new does without it, or its
// error is in the router's log, and the guests stay connected. What only an attacker asks for (another program, another process's memory)
// ends the process at once. [Options.Strict] has every refused call end it with a stack trace; the tests of this repository run so, which
// is how a call that is missing in the table is found.
//
// # One process
//
// A privileged parent that opens descriptors and a worker that only parses packets would leave the worker without both capabilities,
// netlink and files. But who follows the kernel's interfaces, keeps the nftables guard, opens TAP and uplink again after a flap, and reloads
// is in this router the one who forwards: most of the code would be the parent's, behind a protocol of its own, over which the worker, who
// has the guests' packets in any case, asks for the same changes. What it would save is CAP_NET_ADMIN in the hands of who took the worker.
// That is paid with a second process to supervise and a gap whenever one of the two restarts. Go's memory safety and the checks before
// every parser stand in front of either.
package confine
