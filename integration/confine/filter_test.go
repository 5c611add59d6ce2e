package confine

import (
	"encoding/binary"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// What the filter says of calls that this machine's tests cannot make.
func TestFilter(t *testing.T) {
	const pid, x32, other = 42, 0x40000000, 0xdead
	args := func(a ...uint64) []uint64 { return a }
	for _, c := range []struct {
		name   string
		arch   uint32
		nr     uint32
		args   []uint64
		want   uint32
		strict uint32
	}{
		{"read", auditArch, unix.SYS_READ, nil, allow, allow},
		{"another architecture's", other, unix.SYS_READ, nil, kill, kill},
		{"x32's", auditArch, unix.SYS_READ | x32, nil, refuse, unix.SECCOMP_RET_TRAP},
		{"unknown", auditArch, 9999, nil, refuse, unix.SECCOMP_RET_TRAP},
		{"clone3", auditArch, unix.SYS_CLONE3, nil, absent, absent},
		{"execve", auditArch, unix.SYS_EXECVE, nil, kill, kill},
		{"a thread", auditArch, unix.SYS_CLONE, args(unix.CLONE_VM | unix.CLONE_THREAD), allow, allow},
		{"a process", auditArch, unix.SYS_CLONE, args(unix.CLONE_VM | unix.CLONE_VFORK), refuse, unix.SECCOMP_RET_TRAP},
		{"its own priority", auditArch, unix.SYS_SETPRIORITY, args(unix.PRIO_PROCESS, 0, 10), allow, allow},
		{"another's priority", auditArch, unix.SYS_SETPRIORITY, args(unix.PRIO_PROCESS, 1, 10), refuse, unix.SECCOMP_RET_TRAP},
		{"netlink", auditArch, unix.SYS_SOCKET, args(unix.AF_NETLINK, unix.SOCK_RAW), allow, allow},
		{"a stream", auditArch, unix.SYS_SOCKET, args(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC), refuse, unix.SECCOMP_RET_TRAP},
		{"a datagram", auditArch, unix.SYS_SOCKET, args(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC), allow, allow},
		{"a domain with bits above", auditArch, unix.SYS_SOCKET, args(unix.AF_INET|1<<32, unix.SOCK_DGRAM), refuse, unix.SECCOMP_RET_TRAP},
		{"tgkill", auditArch, unix.SYS_TGKILL, args(pid), allow, allow},
		{"tgkill of another", auditArch, unix.SYS_TGKILL, args(pid + 1), refuse, unix.SECCOMP_RET_TRAP},
	} {
		for strict, want := range map[bool]uint32{false: c.want, true: c.strict} {
			vm, err := bpf.NewVM(program(pid, strict, false))
			if err != nil {
				t.Fatal(err)
			}
			var data [64]byte // struct seccomp_data, but for the VM, which reads in network order
			binary.BigEndian.PutUint32(data[offNr:], c.nr)
			binary.BigEndian.PutUint32(data[offArch:], c.arch)
			for i, a := range c.args {
				binary.BigEndian.PutUint32(data[offArgs+8*i:], uint32(a))
				binary.BigEndian.PutUint32(data[offArgs+8*i+4:], uint32(a>>32))
			}
			if got, err := vm.Run(data[:]); err != nil || uint32(got) != want {
				t.Errorf("%s, strict %v: %#x, %v, want %#x", c.name, strict, got, err, want)
			}
		}
	}
}
