package stack

import (
	"fmt"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// attach makes a packet socket see only what the filter admits.
func (f Filter) attach(fd int) error { return attachProgram(fd, f.program()) }

// attachNone makes it see nothing.
func attachNone(fd int) error { return attachProgram(fd, []bpf.Instruction{bpf.RetConstant{}}) }

func attachProgram(fd int, program []bpf.Instruction) error {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return fmt.Errorf("assembling the filter: %w", err)
	}
	prog := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		prog[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}); err != nil {
		return fmt.Errorf("attaching the filter: %w", err)
	}
	return nil
}
