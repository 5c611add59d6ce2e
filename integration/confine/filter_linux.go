package confine

import (
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// call is a system call that is let through. One that stands in the table several times needs one of the rows.
type call struct {
	nr   uint32
	when []argument // all of these
}

// argument is what one is to be; nothing looks at the upper half of any.
type argument struct {
	n    int
	mask uint32 // the bits that count
	want []uint32
}

func is(n int, want ...uint32) argument       { return argument{n, 1<<32 - 1, want} }
func without(n int, bits uint32) argument     { return argument{n, bits, []uint32{0}} }
func with(n int, bits uint32) argument        { return argument{n, bits, []uint32{bits}} }
func plain(nrs ...uint32) (list []call)       { return rows(nrs) }
func only(nr uint32, when ...argument) []call { return rows([]uint32{nr}, when...) }

func rows(nrs []uint32, when ...argument) (list []call) {
	for _, nr := range nrs {
		list = append(list, call{nr, when})
	}
	return list
}

// IORING_REGISTER_ENABLE_RINGS of linux/io_uring.h, and SOCK_TYPE_MASK of linux/net.h.
const enableRings, socketType = 12, 0xf

// prSetVMA is PR_SET_VMA: Go names its memory.
const prSetVMA = 0x53564d41

// table is what is let through. The kernel remembers by number those that are not asked for arguments (since Linux 5.11), so that they cost nothing
// wherever they stand; the others are ordered by how often they come.
func table(pid int, offload bool) []call {
	var all []call
	for _, group := range [][]call{
		// Packets, netlink, the control socket.
		plain(unix.SYS_IO_URING_ENTER, unix.SYS_PPOLL, unix.SYS_RECVMMSG, unix.SYS_SENDMMSG, unix.SYS_READ, unix.SYS_WRITE, unix.SYS_SENDMSG, unix.SYS_RECVMSG,
			unix.SYS_SENDTO, unix.SYS_RECVFROM, unix.SYS_ACCEPT4, unix.SYS_BIND, unix.SYS_CONNECT, unix.SYS_SHUTDOWN, unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME,
			unix.SYS_GETSOCKOPT, unix.SYS_SETSOCKOPT, unix.SYS_EVENTFD2),
		// Go's scheduler, timers, signals and threads; profiles; what the C library adds where Go is linked with it.
		plain(unix.SYS_FUTEX, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_CREATE1, unix.SYS_SCHED_YIELD,
			unix.SYS_SCHED_GETAFFINITY, unix.SYS_GETPID, unix.SYS_GETPPID, unix.SYS_GETTID, unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID, unix.SYS_GETRANDOM, unix.SYS_RESTART_SYSCALL, unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
			unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_SETITIMER, unix.SYS_TIMER_CREATE,
			unix.SYS_TIMER_SETTIME, unix.SYS_TIMER_DELETE, unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_BRK, unix.SYS_RSEQ, unix.SYS_SET_ROBUST_LIST),
		// Files; Landlock knows which.
		plain(unix.SYS_OPENAT, unix.SYS_CLOSE, unix.SYS_FSTAT, fstatat, unix.SYS_READLINKAT, unix.SYS_GETCWD, unix.SYS_GETDENTS64, unix.SYS_LSEEK, unix.SYS_PREAD64, unix.SYS_PWRITE64,
			unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_FCNTL, unix.SYS_FSYNC, unix.SYS_FTRUNCATE, unix.SYS_FLOCK, unix.SYS_RENAMEAT, unix.SYS_UNLINKAT),
		only(unix.SYS_TGKILL, is(0, uint32(pid))),
		only(unix.SYS_MMAP, without(2, unix.PROT_EXEC)),
		only(unix.SYS_MPROTECT, without(2, unix.PROT_EXEC)),
		only(unix.SYS_SOCKET, is(0, unix.AF_NETLINK, unix.AF_PACKET)),
		only(unix.SYS_SOCKET, is(0, unix.AF_UNIX), argument{1, socketType, []uint32{unix.SOCK_DGRAM}}),
		only(unix.SYS_CLONE, with(0, unix.CLONE_THREAD)),
		only(unix.SYS_PRCTL, is(0, prSetVMA)),
		only(unix.SYS_SETPRIORITY, is(0, unix.PRIO_PROCESS), is(1, 0)), // of the thread that asks
		only(unix.SYS_IO_URING_REGISTER, is(1, enableRings)),
		only(unix.SYS_IOCTL, is(1, unix.TUNSETIFF, unix.TUNSETOFFLOAD, unix.TUNSETPERSIST)),
	} {
		all = append(all, group...)
	}
	if offload {
		all = append(all, only(unix.SYS_BPF, is(0, unix.BPF_MAP_UPDATE_ELEM, unix.BPF_MAP_DELETE_ELEM, unix.BPF_PROG_LOAD, unix.BPF_LINK_CREATE, unix.BPF_OBJ_GET_INFO_BY_FD, unix.BPF_PROG_QUERY))...)
	}
	return all
}

// deadly are the calls that end the process: no part of it, nor any library, makes them.
var deadly = []uint32{unix.SYS_EXECVE, unix.SYS_EXECVEAT, unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV}

// Offsets into struct seccomp_data (linux/seccomp.h); an argument has eight bytes in the order of the machine.
const offNr, offArch, offArgs = 0, 4, 16

const (
	allow  = unix.SECCOMP_RET_ALLOW
	kill   = unix.SECCOMP_RET_KILL_PROCESS
	refuse = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	absent = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
)

// program is the filter. What has another architecture's numbers is ended; numbers of x32, which has the same architecture, are in no row.
func program(pid int, strict, offload bool) []bpf.Instruction {
	refused := uint32(refuse)
	if strict {
		refused = unix.SECCOMP_RET_TRAP
	}
	load := func(off uint32) bpf.Instruction { return bpf.LoadAbsolute{Off: off, Size: 4} }
	unless := func(value uint32, skip int) bpf.Instruction {
		return bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: value, SkipTrue: uint8(skip)}
	}
	list := []bpf.Instruction{load(offArch), bpf.JumpIf{Cond: bpf.JumpEqual, Val: auditArch, SkipTrue: 1}, bpf.RetConstant{Val: kill}, load(offNr)}
	for _, c := range table(pid, offload) {
		var checks []bpf.Instruction // each leaves by its last instruction where it does not hold
		for _, a := range c.when {
			checks = append(checks, load(offArgs+8*uint32(a.n)), bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: a.mask})
			for i, v := range a.want {
				checks = append(checks, bpf.JumpIf{Cond: bpf.JumpEqual, Val: v, SkipTrue: uint8(len(a.want) - i)})
			}
			checks = append(checks, bpf.Jump{})
		}
		checks = append(checks, bpf.RetConstant{Val: allow})
		for i := range checks {
			if _, ok := checks[i].(bpf.Jump); ok {
				checks[i] = bpf.Jump{Skip: uint32(len(checks) - 1 - i)}
			}
		}
		list = append(append(list, unless(c.nr, len(checks))), checks...)
		if len(c.when) > 0 {
			list = append(list, load(offNr))
		}
	}
	// Without clone3, whose flags no filter sees, the C library uses clone. Where it makes the threads, the kernel logs that once for each.
	list = append(list, unless(unix.SYS_CLONE3, 1), bpf.RetConstant{Val: absent})
	for _, nr := range deadly {
		list = append(list, unless(nr, 1), bpf.RetConstant{Val: kill})
	}
	return append(list, bpf.RetConstant{Val: refused})
}

// installFilter has all threads, and those to come, filtered.
func installFilter(list []bpf.Instruction) error {
	raw, err := bpf.Assemble(list)
	if err != nil {
		return fmt.Errorf("assembling it: %w", err)
	}
	code := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		code[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	prog := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	runtime.LockOSThread() // no_new_privs is each thread's
	defer runtime.UnlockOSThread()
	tid, _, errno := syscall.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC|unix.SECCOMP_FILTER_FLAG_LOG, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return errno
	}
	if tid != 0 {
		return fmt.Errorf("thread %d has a filter of its own", tid)
	}
	return nil
}
