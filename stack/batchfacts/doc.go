// Package batchfacts measures ways to move frames between a process and the kernel, so that the links of package stack are chosen with
// evidence. It has benchmarks, and tests of two facts that the figures rest on; both want root and make network namespaces of their own.
//
//	go test ./stack/batchfacts -run '^$' -bench UplinkReceive
//
// Rivals take turns within one run. Each is a line: ns/frame is its median, x-first the median of its rounds' times divided by the first
// rival's of the group. Ratios hold where times do not: the figures below are of a virtual machine of 2 CPUs, Linux 6.18, in which an empty
// system call takes 1.1 us (page table isolation without PCID, under a hypervisor in software). A machine whose calls are cheaper gains less
// by saving calls, and as much by saving copies. Frames are of 60 and 1400 bytes ("small") and GSO frames of 64 KiB ("big").
//
//	                                                     small       big
//	TAP to uplink, 4, 8, 64 frames a batch, against 1    0.66 0.61 0.55   0.75 0.76 0.83-1.19
//	the same, io_uring reads, 4, 8, 64                   0.36 0.25 0.16   0.54 0.52 0.55-0.64
//	uplink to TAP, 4, 8, 64 frames a batch               0.69 0.64 0.60   0.81 0.85 0.86-1.31
//	the same, io_uring writes, 4, 8, 64                  0.34 0.23 0.13   0.56 0.54 0.53-0.64
//	uplink receive: recvmmsg 8, 64 against recvfrom      0.24 0.13        0.62 0.53-0.69
//	uplink send: sendmmsg 8, 64 against sendto           0.33 0.24        0.50 0.44
//	uplink send: a ring of TPACKET_V2                    0.30             1.15, 1.6 with a copy into it
//	TAP receive: io_uring 8, 64 against read             0.27 0.14        0.63 0.56
//	TAP receive: a veth with recvmmsg 64, senders too    0.41             0.79
//	TAP receive: EAGAIN and poll before 1, 4, 64         2.9 1.46 1.03    1.5 1.0 1.03
//	TAP send: io_uring 8, 64 against write               0.44 0.34        0.55 0.47
//	TAP send: sendmmsg 8, 64 on the bridge               0.30 0.22        0.48 0.42
//	TAP send: a veth into the bridge with sendmmsg 64    0.39             0.51
//	TAP send: writev; IFF_NAPI                           1.04; 1.1        1.03; 1.05
//	RawSyscall6 against Syscall, unix.Read (TAP read)    0.95, 0.91
//
// What follows:
//
//   - Big frames: a batch of 4 to 8. 64 of them are 4 MiB, which leave the cache between reading and writing: up to 1.6 times as slow as 4, and
//     slower than one at a time. Small frames want 64. So a batch ends at 64 frames or at about 256 KiB, and uses the same buffers first.
//   - Uplink: recvmmsg and sendmmsg, as is. Rings: TPACKET_V3 saves some 200 ns a small frame and nothing on big ones, has a lone frame wait
//     its 1 ms, and overflows when blocks retire nearly empty; of a TX ring the kernel copies what is big on its way over a veth (TestSlotReuse).
//     PACKET_QDISC_BYPASS saves a tenth of a small frame where there is a qdisc, and loses its queue: leave it.
//   - TAP: one call a frame is the dearest that is left. io_uring mends it in both directions where it is allowed; its reads want RWF_NOWAIT,
//     or else they wait although the descriptor does not block. Without it, a packet socket on the bridge is the cheapest way to send, but
//     passes other hooks of the bridge than a port does; a veth in place of the TAP has both directions batched with what the uplink uses.
//   - IFF_NAPI has no use here: a write is polled before it returns, and so GRO never has two frames (TestNAPI).
//   - The Go runtime adds 5 to 9 % to a small read, with a busy goroutine or without: RawSyscall does not pay.
//   - A wait (EAGAIN, poll) costs about two reads; batches of more than 4 hide it.
//   - TCP through such a process, senders and receivers on the same CPUs, is as fast with each bound within the noise (0.9 to 1.1).
package batchfacts
