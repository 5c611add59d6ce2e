package batchfacts

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkGoSyscall is what the Go runtime adds to a system call that does not block. A round does as many as a batch has frames, on a
// locked thread, alone and, on two CPUs, with a goroutine that is busy.
func BenchmarkGoSyscall(b *testing.B) {
	newNamespace(b)
	fd, dev := newTAP(b, "tap0", 0)
	send := sender(b, packet(b, dev, false, unix.PACKET_QDISC_BYPASS), 60)
	buf := make([]byte, maxLen)
	p := pointer(buf)
	repeat := func(before func(n int), call func() uintptr) func() time.Duration {
		return func() time.Duration {
			before(queued)
			start := time.Now()
			for range queued {
				if call() == 0 {
					b.Error("no frame")
				}
			}
			return time.Since(start)
		}
	}
	rivals := []rival{
		{"getppid/Syscall", repeat(atOnce, func() uintptr { n, _, _ := syscall.Syscall(unix.SYS_GETPPID, 0, 0, 0); return n })},
		{"getppid/RawSyscall", repeat(atOnce, func() uintptr { n, _, _ := syscall.RawSyscall(unix.SYS_GETPPID, 0, 0, 0); return n })},
		{"read/unix.Read", repeat(send, func() uintptr { n, _ := unix.Read(fd, buf); return uintptr(max(n, 0)) })},
		{"read/Syscall", repeat(send, func() uintptr { n, _, _ := syscall.Syscall(unix.SYS_READ, uintptr(fd), p, maxLen); return n })},
		{"read/RawSyscall6", repeat(send, func() uintptr {
			n, _, _ := syscall.RawSyscall6(unix.SYS_READ, uintptr(fd), p, maxLen, 0, 0, 0)
			return n
		})},
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	for _, busy := range []bool{false, true} {
		var stop atomic.Bool
		done := make(chan bool)
		go func() {
			for busy && !stop.Load() {
			}
			close(done)
		}()
		compare(b, fmt.Sprintf("busy=%v", busy), 60, rivals...)
		stop.Store(true)
		<-done
	}
}
