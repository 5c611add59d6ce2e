package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// nobody is a user without any privilege.
const nobody = 65534

// userMounts is a helper, run as root in a mount namespace of its own. It puts a TUN device of the
// given mode, which is everybody's where distributions have it, and runs the next helper as nobody.
func userMounts(args []string) error {
	mode := fs.FileMode(0)
	if _, err := fmt.Sscanf(args[0], "%o", &mode); err != nil {
		return err
	}
	dir := args[1]
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mounting a tmpfs: %w", err)
	}
	tun := filepath.Join(dir, "tun")
	if err := unix.Mknod(tun, unix.S_IFCHR, int(unix.Mkdev(10, 200))); err != nil {
		return fmt.Errorf("making a TUN device: %w", err)
	}
	if err := os.Chmod(tun, mode); err != nil { // whatever the umask
		return err
	}
	if err := unix.Mount(tun, tunDevice, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("putting the TUN device in its place: %w", err)
	}
	tmp, err := os.MkdirTemp("/tmp", "nobody-") // t.TempDir is for root's eyes only
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chown(tmp, nobody, nobody); err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", append([]string{"user"}, args[2:]...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	return cmd.Run()
}

// asUser is a helper, run as nobody: what main does.
func asUser(args []string) error {
	again, err := NeedsReexec()
	if err != nil {
		return err
	}
	if !again || os.Geteuid() != nobody {
		return fmt.Errorf("user %d needs no privilege", os.Geteuid())
	}
	status, err := Reexec(context.Background(), append([]string{"lab"}, args...)...)
	if err != nil {
		return err
	}
	fmt.Println("status", status)
	return nil
}

// userLab is a helper, run as root in a user namespace: everything that a lab does.
func userLab(args []string) error {
	if again, err := NeedsReexec(); again || err != nil {
		return fmt.Errorf("there is still too little privilege: %w", err)
	}
	if len(args) > 0 && args[0] == "fail" {
		os.Exit(7)
	}
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	l, err := Build(ctx, seed(), withSource)
	if err != nil {
		return err
	}
	defer l.Close()
	if err := l.KernelRouter(KernelOptions{Isolate: true, Bind: true}); err != nil {
		return err
	}
	// What the router needs most: a TAP in dom0.
	err = l.Dom0.Do(func() error {
		fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		l.Dom0.OnClose(func() error { return unix.Close(fd) })
		req, err := unix.NewIfreq("udr0")
		if err != nil {
			return err
		}
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	})
	if err != nil {
		return fmt.Errorf("making a TAP: %w", err)
	}
	if err := l.Dom0.enslave("udr0", "xenbr0"); err != nil {
		return err
	}
	p, err := l.StartRouter(ctx, "/proc/self/exe")
	if err != nil {
		return err
	}
	if out, err := l.Dom0.Command(ctx, "/proc/self/exe", "links").CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "eth0 lo udr0 vif1.0 vif2.0 xenbr0;") {
		return fmt.Errorf("a program in dom0 sees %q: %w", out, err)
	}
	var b bytes.Buffer
	held, err := l.Show(ctx, &b, ShowOptions{Router: p, Enforced: true})
	if err != nil {
		return err
	}
	if !held {
		return fmt.Errorf("not all held:\n%s", b.String())
	}
	return l.Describe(os.Stdout)
}

// withoutRoot runs the helpers as nobody with a TUN device of a mode.
func withoutRoot(t *testing.T, mode string, args ...string) (string, error) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test begins as root")
	}
	cmd := exec.Command("/proc/self/exe", append([]string{"mount", mode, t.TempDir()}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestLabWithoutRoot(t *testing.T) {
	out, err := withoutRoot(t, "0666")
	if err != nil || !strings.HasSuffix(out, "status 0\n") || !strings.Contains(out, "nsenter --preserve-credentials --user=/proc/") {
		t.Errorf("%v:\n%s", err, out)
	}
}

func TestReexecTellsTheStatus(t *testing.T) {
	out, err := withoutRoot(t, "0666", "fail")
	if err != nil || out != "status 7\n" {
		t.Errorf("%v:\n%s", err, out)
	}
}

func TestReexecTellsWhatToDo(t *testing.T) {
	out, err := withoutRoot(t, "0600")
	if err == nil || !strings.Contains(out, "chmod 0666 /dev/net/tun (as root), or run the lab as root") || !strings.Contains(out, "its mode is 0600") {
		t.Errorf("%v:\n%s", err, out)
	}
	if err := noUserNS(unix.EPERM, "run the lab as root"); !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "run the lab as root") {
		t.Errorf("got %v", err)
	}
}

// fewerCaps is a helper, run as root: it gives up capabilities for good, and runs the next helper, as a container does.
func fewerCaps(args []string) error {
	runtime.LockOSThread()
	for name := range strings.FieldsSeq(args[0]) {
		bit, ok := map[string]uintptr{"CAP_NET_ADMIN": unix.CAP_NET_ADMIN, "CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN, "CAP_NET_RAW": unix.CAP_NET_RAW, "CAP_SETFCAP": unix.CAP_SETFCAP}[name]
		if !ok {
			return fmt.Errorf("no capability is called %s", name)
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, bit, 0, 0, 0); err != nil {
			return fmt.Errorf("dropping %s: %w", name, err)
		}
	}
	return unix.Exec("/proc/self/exe", []string{"test", "weak", "fail"}, os.Environ())
}

// asWeakRoot is a helper, run as root that lacks something: what main does.
func asWeakRoot(args []string) error {
	again, err := NeedsReexec()
	if err != nil || !again || os.Geteuid() != 0 {
		return fmt.Errorf("root lacks nothing: %w", err)
	}
	status, err := Reexec(context.Background(), append([]string{"lab"}, args...)...)
	if err != nil {
		return err
	}
	fmt.Println("status", status)
	return nil
}

// Root with too few capabilities, as in a container, makes a user namespace if it may, and is told exactly what it lacks if not.
func TestRootLacksCapabilities(t *testing.T) {
	for _, c := range []struct{ without, says string }{
		{"CAP_NET_ADMIN", "status 7\n"},
		{"CAP_SYS_ADMIN", "status 7\n"},
		{"CAP_NET_ADMIN CAP_SETFCAP", "making a user namespace: fork/exec /proc/self/exe: operation not permitted: it is forbidden here; give root CAP_NET_ADMIN, which it lacks here: " +
			"of a container by docker run --cap-add=NET_ADMIN; or CAP_SETFCAP, without which it may be root of no user namespace (user_namespaces(7))\n"},
		{"CAP_SYS_ADMIN CAP_NET_RAW CAP_SETFCAP", "give root CAP_SYS_ADMIN, CAP_NET_RAW, which it lacks here: of a container by docker run --cap-add=SYS_ADMIN --cap-add=NET_RAW; or CAP_SETFCAP, "},
	} {
		out, err := exec.Command("/proc/self/exe", "caps", c.without).CombinedOutput()
		if !strings.Contains(string(out), c.says) || (err == nil) != strings.HasPrefix(c.says, "status") || strings.Contains(string(out), "as root") {
			t.Errorf("without %s: %v:\n%s", c.without, err, out)
		}
	}
	if got := rootNeeds(^uint64(0) &^ (1 << unix.CAP_NET_ADMIN)); got != "give root CAP_NET_ADMIN, which it lacks here: of a container by docker run --cap-add=NET_ADMIN" {
		t.Errorf("got %q", got)
	}
}

// Where the kernel's settings are read-only, as in a container even with capabilities, root is told so.
func TestReadOnlySysctls(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "fixed")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "/proc/sys is read-only here") || !strings.Contains(string(out), "systempaths=unconfined") {
		t.Errorf("%v: %s", err, out)
	}
}

// fixedSysctls is a helper, run in a mount namespace of its own. It makes a network namespace where /proc/sys is mounted read-only.
func fixedSysctls([]string) error {
	const sysctls = "/proc/sys"
	if err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount(sysctls, sysctls, "", unix.MS_BIND, ""),
		unix.Mount("", sysctls, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")); err != nil {
		return err
	}
	ns, err := NewNS("fixed")
	if err == nil {
		return ns.Close()
	}
	return err
}

func TestRootNeedsNoReexec(t *testing.T) {
	if again, err := NeedsReexec(); again || err != nil {
		t.Errorf("got %t, %v", again, err)
	}
	if !initialUserNS() {
		t.Error("these tests are in a user namespace")
	}
}
