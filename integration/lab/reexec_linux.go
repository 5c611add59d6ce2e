package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// needed are the capabilities without which nothing here can be made.
var needed = []struct {
	name string
	bit  uint
}{{"CAP_SYS_ADMIN", unix.CAP_SYS_ADMIN}, {"CAP_NET_ADMIN", unix.CAP_NET_ADMIN}, {"CAP_NET_RAW", unix.CAP_NET_RAW}}

// NeedsReexec tells whether this process lacks the privilege to build a lab, so that Reexec has to
// run the program again in a user namespace, where it has it.
func NeedsReexec() (bool, error) {
	caps, err := effective()
	return err == nil && (len(lacking(caps)) > 0 || foreignNetNS()), err
}

// foreignNetNS tells whether this process is root of a user namespace to which its network namespace
// does not belong (`unshare -Ur`): whom it belongs to is beyond it, and none of its capabilities are
// for there (ioctl_ns(2), user_namespaces(7)).
func foreignNetNS() bool {
	fd, err := openThreadNS()
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	owner, err := unix.IoctlRetInt(fd, unix.NS_GET_USERNS)
	if err == nil {
		_ = unix.Close(owner)
	}
	return errors.Is(err, unix.EPERM)
}

// effective are the calling thread's capabilities, a bit each.
func effective() (uint64, error) {
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return 0, fmt.Errorf("reading capabilities: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		if text, ok := strings.CutPrefix(line, "CapEff:"); ok {
			caps, err := strconv.ParseUint(strings.TrimSpace(text), 16, 64)
			if err != nil {
				return 0, fmt.Errorf("reading capabilities: %w", err)
			}
			return caps, nil
		}
	}
	return 0, errors.New("reading capabilities: the kernel does not tell")
}

// lacking are the needed capabilities that are not among caps.
func lacking(caps uint64) (names []string) {
	for _, c := range needed {
		if caps&(1<<c.bit) == 0 {
			names = append(names, c.name)
		}
	}
	return names
}

// Reexec runs this program again with args (without its name) in a new user, network and mount
// namespace, as root of those, with this process's files, and returns its exit status. It passes
// SIGINT, SIGTERM and SIGHUP on. Where the machine does not allow for that, the error says what to
// do. The child is killed when this process ends.
func Reexec(ctx context.Context, args ...string) (status int, err error) {
	if err := usableTUN(); err != nil {
		return 0, err
	}
	cmd := exec.Command("/proc/self/exe", args...) // not by name: it may lie where the user cannot look
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		Pdeathsig:   unix.SIGKILL,
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(signals)

	// The child's death signal comes from the thread that made it: see Cmd.
	started, ended := make(chan error, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return 0, noUserNS(err, privilege())
	}
	done := ctx.Done()
	for {
		select {
		case <-done:
			done = nil
			_ = cmd.Process.Signal(unix.SIGTERM) // it may have ended: then ended tells
		case s := <-signals:
			// The terminal sends its own to the whole group; twice is not worse than once.
			_ = cmd.Process.Signal(s)
		case err := <-ended:
			var exit *exec.ExitError
			if errors.As(err, &exit) && exit.Exited() {
				return exit.ExitCode(), nil
			}
			if err != nil {
				return 0, fmt.Errorf("running in a user namespace: %w", err)
			}
			return 0, nil
		}
	}
}

// tunDevice is what the router needs to make its interfaces.
const tunDevice = "/dev/net/tun"

// usableTUN tells whether this user may open the device. It opens it, because modes are not all
// that decides; that alone makes no interface.
func usableTUN() error {
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == nil {
		return unix.Close(fd)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV):
		return fmt.Errorf("opening %s: %w: load the module first: modprobe tun (as root); a container needs the device as well, as by docker run --device=%s", tunDevice, err, tunDevice)
	case errors.Is(err, fs.ErrPermission):
		mode := ""
		if st, err := os.Stat(tunDevice); err == nil {
			mode = fmt.Sprintf(" (its mode is %#o)", st.Mode().Perm())
		}
		return fmt.Errorf("opening %s: %w%s: without root the lab needs it open to users, as distributions have it: "+
			"chmod 0666 %s (as root), or %s", tunDevice, err, mode, tunDevice, privilege())
	}
	return fmt.Errorf("opening %s: %w", tunDevice, err)
}

// privilege says what makes a user namespace unnecessary: to be root, or for who is, which capabilities.
func privilege() string {
	caps, err := effective()
	if os.Geteuid() != 0 || err != nil {
		return "run the lab as root"
	}
	return rootNeeds(caps)
}

// rootNeeds is what root lacks that has caps alone, as in a container.
func rootNeeds(caps uint64) string {
	names := lacking(caps)
	if len(names) == 0 {
		return "run the lab as root of the machine" // a security module or a device is in the way
	}
	var flags strings.Builder
	for _, name := range names {
		fmt.Fprintf(&flags, " --cap-add=%s", strings.TrimPrefix(name, "CAP_"))
	}
	s := fmt.Sprintf("give root %s, which it lacks here: of a container by docker run%s", strings.Join(names, ", "), &flags)
	if caps&(1<<unix.CAP_SETFCAP) == 0 {
		s += "; or CAP_SETFCAP, without which it may be root of no user namespace (user_namespaces(7))"
	}
	return s
}

// noUserNS says what to do when a user namespace could not be made; instead is what makes one unnecessary.
func noUserNS(err error, instead string) error {
	for _, s := range []struct{ key, bad, good string }{
		{"kernel/unprivileged_userns_clone", "0", "1"},
		{"kernel/apparmor_restrict_unprivileged_userns", "1", "0"},
		{"user/max_user_namespaces", "0", "10000"},
		{"user/max_net_namespaces", "0", "10000"},
	} {
		text, readErr := os.ReadFile("/proc/sys/" + s.key)
		if readErr == nil && strings.TrimSpace(string(text)) == s.bad {
			return fmt.Errorf("making a user namespace: %w: the machine forbids it: sysctl %s=%s (as root of the machine), or %s",
				err, strings.ReplaceAll(s.key, "/", "."), s.good, instead)
		}
	}
	return fmt.Errorf("making a user namespace: %w: it is forbidden here; %s", err, instead)
}

// initialUserNS tells whether this process is in the machine's first user namespace, the only one
// that maps every identifier to itself.
func initialUserNS() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(text)), " ") == "0 0 4294967295"
}
