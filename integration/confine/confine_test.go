package confine

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// attempt is something that a confined process may do or not. It is made in a process of its own, in namespaces of its own.
type attempt struct {
	name string
	do   func(w world) error
	want error // of a confined process; without confinement there is none
}

// world is what an attempt has: directories of state and configuration, another one, and descriptors from before.
type world struct {
	state, config, other string
	ring, pipe, caches   int // caches is /proc/sys/vm/drop_caches
}

// errEnded is a process that seccomp has killed.
var errEnded = errors.New("the process was ended")

func (w world) socket() string { return filepath.Join(w.state, "control.sock") }

func raw(nr uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	_, _, e := syscall.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
	if e != 0 {
		return e
	}
	return nil
}

func open(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func socket(domain, typ, proto int) error {
	fd, err := unix.Socket(domain, typ|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// abstract is a name of unix datagram sockets at which somebody listens.
const abstract = "@udrouter-confine-test"

var attempts = []attempt{
	{"another program", func(world) error { return unix.Exec("/bin/true", []string{"true"}, nil) }, errEnded},
	{"another program by descriptor", func(world) error {
		fd, err := unix.Open("/bin/true", unix.O_PATH, 0)
		if err != nil {
			return err
		}
		var empty, end uintptr
		return raw(unix.SYS_EXECVEAT, uintptr(fd), uintptr(unsafe.Pointer(&empty)), uintptr(unsafe.Pointer(&end)), 0, unix.AT_EMPTY_PATH)
	}, errEnded},
	// The end of the tracer lets the traced one go.
	{"trace another process", func(world) error { return raw(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(os.Getppid()), 0, 0) }, errEnded},
	{"read memory of a process", func(world) error {
		b := []byte{0}
		v := []unix.Iovec{{Base: &b[0], Len: 1}}
		_, err := unix.ProcessVMReadv(os.Getpid(), v, []unix.RemoteIovec{{Base: uintptr(unsafe.Pointer(&b[0])), Len: 1}}, 0)
		return err
	}, errEnded},
	{"another process", func(world) error {
		_, err := syscall.ForkExec("/bin/true", []string{"true"}, &syscall.ProcAttr{})
		return err
	}, unix.EPERM},
	{"another thread", func(world) error {
		done := make(chan error)
		for range 20 {
			go func() {
				runtime.LockOSThread() // it ends with the goroutine
				done <- unix.Access("/", unix.F_OK)
			}()
		}
		for range 20 {
			if err := <-done; !errors.Is(err, unix.EPERM) && err != nil { // faccessat itself is refused
				return err
			}
		}
		return nil
	}, nil},
	{"executable memory", func(world) error {
		_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
		return err
	}, unix.EPERM},
	{"memory made executable", func(world) error {
		b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return fmt.Errorf("mapping: %v", err)
		}
		return unix.Mprotect(b, unix.PROT_READ|unix.PROT_EXEC)
	}, unix.EPERM},
	{"memory", func(world) error {
		b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return err
		}
		return errors.Join(unix.Mprotect(b, unix.PROT_READ|unix.PROT_WRITE), unix.Munmap(b))
	}, nil},

	{"IPv4", func(world) error { return socket(unix.AF_INET, unix.SOCK_STREAM, 0) }, unix.EPERM},
	{"IPv6", func(world) error { return socket(unix.AF_INET6, unix.SOCK_DGRAM, 0) }, unix.EPERM},
	{"a stream to a service", func(world) error { return socket(unix.AF_UNIX, unix.SOCK_STREAM, 0) }, unix.EPERM},
	{"packets in sequence to a service", func(world) error { return socket(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0) }, unix.EPERM},
	{"a datagram", func(world) error { return socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0) }, nil},
	{"netlink", func(world) error { return socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE) }, nil},
	{"packets", func(world) error { return socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK, 0) }, nil},
	{"a pair of sockets", func(world) error {
		_, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	}, unix.EPERM},
	{"an abstract name", func(world) error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("opening: %v", err)
		}
		return unix.Connect(fd, &unix.SockaddrUnix{Name: abstract})
	}, unix.EPERM},

	{"read the passwords", func(world) error { return open("/etc/shadow", unix.O_RDONLY) }, unix.EACCES},
	{"read the configuration", func(w world) error { return open(filepath.Join(w.config, "router.hcl"), unix.O_RDONLY) }, nil},
	{"write the configuration", func(w world) error { return open(filepath.Join(w.config, "router.hcl"), unix.O_WRONLY) }, unix.EACCES},
	{"write elsewhere", func(w world) error { return open(filepath.Join(w.other, "new"), unix.O_WRONLY|unix.O_CREAT) }, unix.EACCES},
	{"read elsewhere", func(w world) error { return open(w.other, unix.O_RDONLY) }, unix.EACCES},
	{"replace a file of the state", func(w world) error {
		tmp := filepath.Join(w.state, "new.tmp")
		return errors.Join(os.WriteFile(tmp, nil, 0o600), os.WriteFile(tmp, []byte("x"), 0o600), os.Rename(tmp, filepath.Join(w.state, "new")),
			open(w.state, unix.O_RDONLY), os.Remove(filepath.Join(w.state, "new")))
	}, nil},
	{"somebody else's file", func(w world) error { return open(filepath.Join(w.state, "private"), unix.O_RDONLY) }, unix.EACCES},
	{"remove the socket", func(w world) error { return unix.Unlink(w.socket()) }, nil},
	{"set a sysctl of the network", func(world) error {
		return os.WriteFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6", []byte("1"), 0)
	}, nil},
	{"set a sysctl that the kernel has forgotten", func(w world) error {
		const dentries = "2"
		if _, err := unix.Write(w.caches, []byte(dentries)); err != nil {
			return fmt.Errorf("dropping caches: %v", err)
		}
		return os.WriteFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6", []byte("1"), 0)
	}, nil},
	{"set another sysctl", func(world) error { return open("/proc/sys/kernel/core_pattern", unix.O_WRONLY) }, unix.EACCES},
	{"read a process's environment", func(world) error { return open(fmt.Sprintf("/proc/%d/environ", os.Getppid()), unix.O_RDONLY) }, unix.EACCES},
	{"change a mode", func(w world) error { return unix.Chmod(w.state, 0o700) }, unix.EPERM},
	{"change an owner", func(w world) error { return unix.Chown(w.state, 0, 0) }, unix.EPERM},
	{"a symbolic link", func(w world) error { return unix.Symlink("/etc", filepath.Join(w.state, "link")) }, unix.EPERM},
	{"a file in memory", func(world) error { _, err := unix.MemfdCreate("x", unix.MFD_CLOEXEC); return err }, unix.EPERM},

	{"a TAP", func(world) error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		ifr, err := unix.NewIfreq("udr9")
		if err != nil {
			return err
		}
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}, nil},
	{"another ioctl", func(w world) error { _, err := unix.IoctlGetInt(w.pipe, unix.TIOCINQ); return err }, unix.EPERM},
	{"mount", func(w world) error { return unix.Mount("tmpfs", w.other, "tmpfs", 0, "") }, unix.EPERM},
	{"another namespace", func(world) error { return unix.Unshare(unix.CLONE_NEWNET) }, unix.EPERM},
	{"a program of the kernel's", func(world) error {
		attr := [18]uint32{unix.BPF_MAP_TYPE_ARRAY, 4, 4, 1}
		return raw(unix.SYS_BPF, unix.BPF_MAP_CREATE, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	}, unix.EPERM},
	{"a ring", func(world) error {
		var params [120]byte
		return raw(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)), 0)
	}, unix.EPERM},
	{"start a ring", func(w world) error { return raw(unix.SYS_IO_URING_REGISTER, uintptr(w.ring), enableRings, 0) }, nil},
	{"register with a ring", func(w world) error {
		const probe = 8
		var b [16 + 8]byte
		return raw(unix.SYS_IO_URING_REGISTER, uintptr(w.ring), probe, uintptr(unsafe.Pointer(&b)), 1, 0)
	}, unix.EPERM},
	{"signal another process", func(world) error { return unix.Kill(os.Getppid(), 0) }, unix.EPERM},
	{"signal a thread of another process", func(world) error { return unix.Tgkill(os.Getppid(), os.Getppid(), 0) }, unix.EPERM},
	{"signal itself", func(world) error { return unix.Tgkill(os.Getpid(), os.Getpid(), 0) }, nil},
	{"another prctl", func(world) error { return unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) }, unix.EPERM},
	{"another user", func(world) error { return unix.Setresuid(0, 0, 0) }, unix.EPERM},
}

// child is the environment of a process that makes an attempt, and moving of one whose configuration moves.
const child, moving = "UDROUTER_CONFINE_ATTEMPT", "UDROUTER_CONFINE_MOVING"

func TestMain(m *testing.M) {
	if name := os.Getenv(child); name != "" {
		os.Exit(attemptAlone(name, os.Args[1:]))
	}
	if kernel := os.Getenv(moving); kernel != "" {
		if err := movedAlone(kernel == withoutLandlock, os.Args[1], os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// attemptAlone prints what an attempt comes to; args are "confined" or "free", and the world's directories.
func attemptAlone(name string, args []string) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	w := world{state: args[1], config: args[2], other: args[3]}
	listener, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(listener, &unix.SockaddrUnix{Name: abstract})
	}
	if err != nil {
		return fail(err)
	}
	params := [30]uint32{2: 1 << 6} // IORING_SETUP_R_DISABLED
	fd, _, e := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)), 0)
	if e != 0 {
		return fail(e)
	}
	w.ring = int(fd)
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return fail(err)
	}
	w.pipe = p[0]
	if w.caches, err = unix.Open("/proc/sys/vm/drop_caches", unix.O_WRONLY|unix.O_CLOEXEC, 0); err != nil {
		return fail(err)
	}
	if args[0] == "confined" {
		log := slog.New(slog.NewTextHandler(os.Stderr, nil))
		if err := Apply(Options{Config: filepath.Join(w.config, "router.hcl"), State: w.state, Socket: w.socket(), Log: log}); err != nil {
			return fail(err)
		}
	}
	for _, a := range attempts {
		if a.name == name {
			var e syscall.Errno
			if err := a.do(w); err != nil && !errors.As(err, &e) {
				return fail(err)
			}
			fmt.Printf("errno %d\n", int(e))
			return 0
		}
	}
	return fail(fmt.Errorf("no attempt %q", name))
}

// Everything can be done without confinement; with it, only what the router needs.
func TestAttempts(t *testing.T) {
	for _, a := range attempts {
		for how, want := range map[string]error{"free": nil, "confined": a.want} {
			t.Run(a.name+" "+how, func(t *testing.T) {
				w := world{state: t.TempDir(), config: t.TempDir(), other: t.TempDir()}
				for path, uid := range map[string]int{filepath.Join(w.state, "private"): 65534, w.socket(): 0, filepath.Join(w.config, "router.hcl"): 0} {
					if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chown(path, uid, uid)); err != nil {
						t.Fatal(err)
					}
				}
				cmd := exec.CommandContext(t.Context(), "/proc/self/exe", how, w.state, w.config, w.other)
				cmd.Env = append(os.Environ(), child+"="+a.name)
				cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET}
				var out, errs strings.Builder
				cmd.Stdout, cmd.Stderr = &out, &errs
				err := cmd.Run()
				var exit *exec.ExitError
				got := error(nil)
				switch n := 0; {
				case errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGSYS:
					got = errEnded
				case err != nil:
					t.Fatalf("%v\n%s", err, &errs)
				case out.Len() > 0: // another program prints nothing
					if _, err := fmt.Sscanf(out.String(), "errno %d", &n); err != nil {
						t.Fatalf("%v: %q", err, out.String())
					}
					if n != 0 {
						got = syscall.Errno(n)
					}
				}
				if got != want {
					t.Errorf("%v, want %v\n%s", got, want, &errs)
				}
			})
		}
	}
}

const withLandlock, withoutLandlock = "a kernel with Landlock", "a kernel without Landlock"

// movedAlone confines the process, says so on stdout, and, once nothing more comes on stdin, why its configuration cannot be read any more.
func movedAlone(without bool, file, state string) error {
	if without {
		if err := installFilter([]bpf.Instruction{bpf.LoadAbsolute{Off: offNr, Size: 4},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.SYS_LANDLOCK_CREATE_RULESET, SkipFalse: 1}, bpf.RetConstant{Val: absent}, bpf.RetConstant{Val: allow}}); err != nil {
			return err
		}
	}
	o := Options{Config: file, State: state, Socket: filepath.Join(state, "control.sock"), Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	moved := Moved(o)
	if err := Apply(o); err != nil {
		return err
	}
	fmt.Println("confined")
	if _, err := io.ReadAll(os.Stdin); err != nil {
		return err
	}
	if f, err := os.Open(file); !errors.Is(err, unix.EACCES) {
		f.Close()
		return fmt.Errorf("opening the configuration: %v", err)
	}
	fmt.Println(moved())
	return nil
}

// Landlock is named as why a configuration that has moved cannot be read only where the kernel has it.
func TestMoved(t *testing.T) {
	for kernel, want := range map[string]string{withLandlock: "refused by Landlock", withoutLandlock: "<nil>"} {
		t.Run(kernel, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "etc")
			file := filepath.Join(dir, "router.hcl")
			create := func(uid int) error {
				return errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(file, nil, 0o600), os.Chown(file, uid, uid))
			}
			if err := create(0); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), "/proc/self/exe", file, t.TempDir())
			cmd.Env = append(os.Environ(), moving+"="+kernel)
			var errs strings.Builder
			cmd.Stderr = &errs
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewReader(out)
			_, err = lines.ReadString('\n')
			// Its directory is made anew, with a file of somebody else's.
			err = errors.Join(err, os.Rename(dir, dir+".old"), create(65534), in.Close())
			said, readErr := lines.ReadString('\n')
			if err := errors.Join(err, readErr, cmd.Wait()); err != nil || !strings.HasPrefix(said, want) {
				t.Errorf("it says %q, %v, want %q\n%s", said, err, want, &errs)
			}
		})
	}
}
