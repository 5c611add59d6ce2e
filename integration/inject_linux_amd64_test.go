package integration

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fault is what becomes of some of a process's system calls.
type fault struct {
	Calls []uint64
	On    string     // what the first argument is: the beginning of its link in /proc/PID/fd; "" is whatever it is
	Third uint64     // what the third argument is, such as the size of an address; 0 is whatever it is
	Errno unix.Errno // what comes back in place of the call; 0: see Short
	Short uint64     // the call is made, with its third argument, a number of bytes or of messages, no more than this
	Times int64      // how often; 0: as long as it is there

	// Completed is that the call, io_uring_enter(2), is made, and that what it has completed has failed with Errno, or was no longer than Short. A frame
	// that was read is lost with that, and one that was written is on its way all the same.
	Completed bool
}

// result is what something is made to have completed with: bytes, or less than 0 for an errno.
func (f *fault) result() int32 {
	if f.Errno != 0 {
		return -int32(f.Errno)
	}
	return int32(f.Short)
}

// faults has the system calls of a process fail, by a tracer that is a process of its own: one that traces its own child would get the child's end mixed up
// with what it is told of its calls.
type faults struct {
	t     *testing.T
	cmd   *exec.Cmd
	to    *json.Encoder
	from  *json.Decoder
	close func() error
}

// order is what the tracer is told, and answers with how often the fault at hand was met.
type order struct {
	Set   bool
	Fault *fault
}

// injectInto is the process that a test's program is to trace instead of running tests.
const injectInto = "UDROUTER_TEST_INJECT"

// inject gets hold of a process, until the test ends or end is called.
func inject(t *testing.T, pid int) *faults {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	f := &faults{t: t, cmd: exec.Command(self)}
	f.cmd.Env = append(os.Environ(), fmt.Sprint(injectInto, "=", pid))
	f.cmd.Stderr = os.Stderr
	in, err := f.cmd.StdinPipe()
	must(t, err)
	out, err := f.cmd.StdoutPipe()
	must(t, err)
	f.to, f.from = json.NewEncoder(in), json.NewDecoder(out)
	must(t, f.cmd.Start())
	f.close = sync.OnceValue(func() error { return errors.Join(in.Close(), f.cmd.Wait()) })
	t.Cleanup(f.end)
	f.set(nil) // it has begun when it answers
	return f
}

// set has a fault from now on; nil for none.
func (f *faults) set(what *fault) { f.ask(order{Set: true, Fault: what}) }

// hits is how often the fault at hand was met.
func (f *faults) hits() int64 { return f.ask(order{}) }

func (f *faults) ask(o order) (hits int64) {
	f.t.Helper()
	must(f.t, f.to.Encode(o))
	must(f.t, f.from.Decode(&hits))
	return hits
}

// end lets the process go.
func (f *faults) end() {
	if err := f.close(); err != nil {
		f.t.Errorf("tracing the router: %v", err)
	}
}

// injector makes system calls of a process fail, as strace's --inject does: the calls are the program's own, and nothing in it is made for that. The
// call is replaced by getpid(2), which every filter admits.
type injector struct {
	pid      int
	fault    atomic.Pointer[fault]
	hits     atomic.Int64
	ending   atomic.Bool
	traced   map[int]bool
	replaced map[int]unix.Errno // by thread: what its call returns
	entered  map[int]int32      // by thread: what its call completes with
}

// obey traces a process as it is told, until it is told no more.
func obey(pid string, orders io.Reader, answers io.Writer) error {
	number, err := strconv.Atoi(pid)
	if err != nil {
		return err
	}
	in := &injector{pid: number, traced: map[int]bool{}, replaced: map[int]unix.Errno{}, entered: map[int]int32{}}
	runtime.LockOSThread() // which alone may trace, and wait
	if err := in.seize(); err != nil {
		return err
	}
	go func() {
		defer in.ending.Store(true) // the process makes a call at least once a second
		from, to := json.NewDecoder(orders), json.NewEncoder(answers)
		for {
			var o order
			if from.Decode(&o) != nil {
				return
			}
			if o.Set {
				in.fault.Store(o.Fault)
				in.hits.Store(0)
			}
			if to.Encode(in.hits.Load()) != nil {
				return
			}
		}
	}()
	for len(in.traced) > 0 {
		if err := in.wait(); err != nil {
			return err
		}
	}
	return nil
}

const traceOptions = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE

// seize takes all threads, those as well that begin meanwhile.
func (in *injector) seize() error {
	for {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", in.pid))
		if err != nil {
			return err
		}
		more := false
		for _, e := range entries {
			tid, err := strconv.Atoi(e.Name())
			if err != nil || in.traced[tid] {
				continue
			}
			if _, _, e := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(tid), 0, traceOptions, 0, 0); e == unix.ESRCH || e == unix.EPERM {
				continue // it has ended, or is one that a traced thread has begun
			} else if e != 0 {
				return fmt.Errorf("PTRACE_SEIZE: %w", e)
			}
			more = true
			in.traced[tid] = true
			if err := unix.PtraceInterrupt(tid); err != nil {
				return fmt.Errorf("PTRACE_INTERRUPT: %w", err)
			}
		}
		if len(in.traced) == 0 {
			return errors.New("no thread may be traced")
		}
		if !more {
			return nil
		}
	}
}

// wait waits for a thread to stop, does what is to be done, and lets it go on.
func (in *injector) wait() error {
	var ws unix.WaitStatus
	tid, err := unix.Wait4(-1, &ws, unix.WALL|unix.WNOTHREAD, nil)
	switch {
	case errors.Is(err, unix.EINTR):
		return nil
	case err != nil:
		return fmt.Errorf("wait4: %w", err)
	case !ws.Stopped():
		delete(in.traced, tid)
		delete(in.replaced, tid)
		delete(in.entered, tid)
		return nil
	}
	in.traced[tid] = true
	signal := 0
	switch {
	case ws.StopSignal() == unix.SIGTRAP|0x80:
		if err := in.call(tid); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	case uint32(ws)>>16 == 0: // no event, so a signal on its way
		signal = int(ws.StopSignal())
	}
	if _, unfinished := in.replaced[tid]; in.ending.Load() && !unfinished {
		return in.release(tid, signal)
	}
	if err := unix.PtraceSyscall(tid, signal); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("PTRACE_SYSCALL: %w", err)
	}
	return nil
}

// release lets a thread go for good, and has the others stop, so that they can be let go as well.
func (in *injector) release(tid, signal int) error {
	delete(in.traced, tid)
	if _, _, e := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_DETACH, uintptr(tid), 0, uintptr(signal), 0, 0); e != 0 && e != unix.ESRCH {
		return fmt.Errorf("PTRACE_DETACH: %w", e)
	}
	for other := range in.traced {
		if err := unix.PtraceInterrupt(other); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("PTRACE_INTERRUPT: %w", err)
		}
	}
	return nil
}

// call is where a thread begins or ends a system call.
func (in *injector) call(tid int) error {
	var info struct { // ptrace_syscall_info of linux/ptrace.h, as far as a beginning has it
		op, _    uint8
		_        [2]uint8
		_        uint32
		_, _, nr uint64
		args     [6]uint64
		_        [3]uint64
	}
	const getSyscallInfo, entry, exit = 0x420e, 1, 2
	if _, _, e := unix.Syscall6(unix.SYS_PTRACE, getSyscallInfo, uintptr(tid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0); e != 0 {
		return fmt.Errorf("PTRACE_GET_SYSCALL_INFO: %w", e)
	}
	switch f := in.fault.Load(); {
	case info.op == exit:
		if errno, ok := in.replaced[tid]; ok {
			delete(in.replaced, tid)
			return in.registers(tid, func(r *unix.PtraceRegs) { r.Rax = uint64(-int64(errno)) })
		}
		if result, ok := in.entered[tid]; ok {
			delete(in.entered, tid)
			return in.complete(result)
		}
	case info.op != entry || f == nil || !slices.Contains(f.Calls, info.nr) || f.Third != 0 && f.Third != info.args[2] || !in.isOn(f.On, info.args[0]):
	case f.Completed:
		if f.Times == 0 || in.hits.Load() < f.Times {
			in.entered[tid] = f.result()
		}
	case f.Errno != 0:
		if n := in.hits.Add(1); f.Times != 0 && n > f.Times {
			return nil
		}
		in.replaced[tid] = f.Errno
		return in.registers(tid, func(r *unix.PtraceRegs) { r.Orig_rax = unix.SYS_GETPID })
	case info.args[2] > f.Short:
		in.hits.Add(1)
		return in.registers(tid, func(r *unix.PtraceRegs) { r.Rdx = f.Short })
	}
	return nil
}

// complete has what the process's rings hold that it has not looked at yet be failures, or short. What did not have to wait for anything, EAGAIN, stays.
func (in *injector) complete(become int32) error {
	at, err := ringLayout()
	if err != nil {
		return err
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", in.pid))
	if err != nil {
		return err
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", in.pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer mem.Close()
	for line := range strings.Lines(string(maps)) {
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[5] != "anon_inode:[io_uring]" || fields[2] != "00000000" { // the rings are at 0, the entries elsewhere
			continue
		}
		var base int64
		if _, err := fmt.Sscanf(line, "%x-", &base); err != nil {
			return err
		}
		word := func(off uint32) (v uint32, err error) {
			var b [4]byte
			_, err = mem.ReadAt(b[:], base+int64(off))
			return binary.LittleEndian.Uint32(b[:]), err
		}
		head, err1 := word(at.head)
		tail, err2 := word(at.tail)
		mask, err3 := word(at.mask)
		if err := errors.Join(err1, err2, err3); err != nil {
			return fmt.Errorf("reading a ring: %w", err)
		}
		for ; head != tail; head++ {
			result := at.cqes + (head&mask)*16 + 8 // res of struct io_uring_cqe
			if was, err := word(result); err != nil || int32(was) == -int32(unix.EAGAIN) || become >= 0 && int32(was) <= become {
				continue
			}
			if _, err := mem.WriteAt(binary.LittleEndian.AppendUint32(nil, uint32(become)), base+int64(result)); err != nil {
				return fmt.Errorf("writing to a ring: %w", err)
			}
			in.hits.Add(1)
		}
	}
	return nil
}

// completions are the offsets of a ring's completions, of what struct io_cqring_offsets has.
type completions struct{ head, tail, mask, cqes uint32 }

// ringLayout asks the kernel, which lays out all rings alike.
var ringLayout = sync.OnceValues(func() (completions, error) {
	var p struct { // struct io_uring_params
		_  [40]byte
		sq [40]byte
		cq struct{ head, tail, mask, entries, overflow, cqes, flags, resv uint32 }
		_  uint64
	}
	fd, _, e := unix.Syscall(unix.SYS_IO_URING_SETUP, 8, uintptr(unsafe.Pointer(&p)), 0)
	if e != 0 {
		return completions{}, fmt.Errorf("setting up an io_uring: %w", e)
	}
	unix.Close(int(fd))
	return completions{p.cq.head, p.cq.tail, p.cq.mask, p.cq.cqes}, nil
})

func (in *injector) registers(tid int, change func(*unix.PtraceRegs)) error {
	var r unix.PtraceRegs
	if err := unix.PtraceGetRegs(tid, &r); err != nil {
		return fmt.Errorf("PTRACE_GETREGS: %w", err)
	}
	change(&r)
	if err := unix.PtraceSetRegs(tid, &r); err != nil {
		return fmt.Errorf("PTRACE_SETREGS: %w", err)
	}
	return nil
}

// isOn tells whether a descriptor of the process is what a fault is about.
func (in *injector) isOn(what string, fd uint64) bool {
	if what == "" {
		return true
	}
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", in.pid, int32(fd)))
	return err == nil && strings.HasPrefix(link, what)
}
