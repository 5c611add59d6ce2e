package batchfacts

import (
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// BenchmarkWake is what it takes to wake a thread that waits in read(2): two of them wake each other by turns, each on a CPU of its own or both
// on one. A router in user space is woken for a lone packet, and so is who waits for its answer; where the kernel forwards, nobody is.
func BenchmarkWake(b *testing.B) {
	for name, cpus := range map[string][2]int{"own-cpu": {0, 1}, "same-cpu": {0, 0}} {
		b.Run(name, func(b *testing.B) {
			if cpus[1] >= runtime.NumCPU() {
				b.Skip("there is one CPU")
			}
			var events [2]int
			for i := range events {
				fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
				if err != nil {
					b.Fatal(err)
				}
				defer unix.Close(fd)
				events[i] = fd
			}
			turns := func(me int, first bool) {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				var old, set unix.CPUSet
				if unix.SchedGetaffinity(0, &old) == nil {
					defer func() { _ = unix.SchedSetaffinity(0, &old) }()
				}
				set.Set(cpus[me])
				if err := unix.SchedSetaffinity(0, &set); err != nil {
					b.Error(err)
				}
				one := uint64(1)
				token := (*[8]byte)(unsafe.Pointer(&one))[:]
				for i := range b.N {
					if i > 0 || !first {
						if _, err := unix.Read(events[me], token); err != nil {
							b.Error(err)
							return
						}
					}
					one = 1
					if _, err := unix.Write(events[1-me], token); err != nil {
						b.Error(err)
						return
					}
				}
			}
			done := make(chan bool)
			b.ResetTimer()
			go func() {
				turns(1, false)
				close(done)
			}()
			turns(0, true)
			<-done
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(2*b.N), "ns/wake")
			b.ReportMetric(0, "ns/op")
		})
	}
}
