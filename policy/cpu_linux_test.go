package policy

import (
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime is what the calling thread has had of the processor: what others on the machine take is no pause of ours. The caller locks its goroutine
// to the thread.
func cpuTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic(err)
	}
	return time.Duration(t.Nano())
}
