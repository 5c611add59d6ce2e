package integration

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"udrouter/integration/lab"
	"udrouter/integration/wire"
)

// What each thread of a router is to have in /proc/PID/task/TID/status.
var (
	confined = map[string]string{"NoNewPrivs": "1", "Seccomp": "2", "CapPrm": capNet, "CapEff": capNet, "CapBnd": capNone, "CapInh": capNone, "CapAmb": capNone}
	capNet   = fmt.Sprintf("%016x", 1<<unix.CAP_NET_ADMIN|1<<unix.CAP_NET_RAW)
	capNone  = fmt.Sprintf("%016x", 0)
)

// threads checks what the kernel says of each of a process's threads, and returns how many there are.
func threads(t *testing.T, pid int, want map[string]string) int {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	must(t, err)
	n := 0
	for _, task := range tasks {
		b, err := os.ReadFile(task)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // a thread that has ended meanwhile
		}
		must(t, err)
		n++
		seen := 0
		for line := range strings.Lines(string(b)) {
			key, value, _ := strings.Cut(line, ":")
			if w, ok := want[key]; ok {
				seen++
				if got := strings.TrimSpace(value); got != w {
					t.Errorf("%s: %s is %s, want %s", task, key, got, w)
				}
			}
		}
		if seen != len(want) {
			t.Errorf("%s has %d of %d lines", task, seen, len(want))
		}
	}
	return n
}

// Confinement is on by default and of every thread, those made later as well; it can be switched off.
func TestConfined(t *testing.T) {
	for _, c := range []struct {
		arg  []string
		want map[string]string
		log  string
	}{
		{nil, confined, "msg=confined landlock_abi="},
		{[]string{"--confine=off", "--workers=2"}, map[string]string{"NoNewPrivs": "0", "Seccomp": "0", "CapInh": capNone}, ""},
		{[]string{"--confine=strict", "--workers=2"}, confined, "seccomp=true"},
	} {
		t.Run(fmt.Sprint(c.arg), func(t *testing.T) {
			l := buildLab(t, "", lab.Options{})
			p, err := l.StartRouter(testContext(t), wire.Exe, c.arg...)
			must(t, err)
			ping(t, l.Guests[0].Node, l.Internet.Addr4())
			if n := threads(t, p.PID(), c.want); n < 3 {
				t.Errorf("%d threads", n)
			}
			if !strings.Contains(p.Log(), c.log) || c.log == "" && strings.Contains(p.Log(), "msg=confined") {
				t.Errorf("no %q in:\n%s", c.log, p.Log())
			}
			must(t, p.Stop())
		})
	}
	_, errs := command(t, 1, "run", "-c", "x.hcl", "--confine=on")
	contains(t, errs, "--confine", "auto", "off")
}

// A user with the two capabilities, as a unit with User= and AmbientCapabilities= makes one, can run the router: it follows what comes and
// goes, and leaves dom0 as it was.
func TestWithoutRoot(t *testing.T) {
	l := buildLab(t, "", lab.Options{})
	before, err := l.Dom0State()
	must(t, err)
	file, err := l.ConfigPath()
	must(t, err)
	dir := publicDir(t)
	state := filepath.Join(dir, "state")
	must(t, os.Mkdir(state, 0o700))
	must(t, os.Chown(state, 65534, 65534))
	program := writeFile(t, dir, "udrouter", []byte(readFile(t, wire.Exe)), 0o755)
	cmd := l.Dom0.Command(testContext(t), program, "run", "-c", writeFile(t, dir, "router.hcl", []byte(readFile(t, file)), 0o644),
		"--state", state, "--socket", state+"/control.sock", "--confine=strict")
	cmd.Path, cmd.Env = "/proc/self/exe", append(os.Environ(), withoutRoot+"="+program)
	errs, err := cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	ready, ended := make(chan bool, 1), make(chan string, 1)
	go func() {
		var log strings.Builder
		for s := bufio.NewScanner(errs); s.Scan(); {
			fmt.Fprintln(&log, s.Text())
			if strings.Contains(s.Text(), "msg=ready") {
				ready <- true
			}
		}
		ended <- log.String()
	}()
	select {
	case <-ready:
	case log := <-ended:
		t.Fatalf("it ended: %v\n%s", cmd.Wait(), log)
	}
	want := map[string]string{"Uid": "65534\t65534\t65534\t65534"}
	for key, value := range confined {
		if key != "CapBnd" { // to drop from it takes CAP_SETPCAP
			want[key] = value
		}
	}
	threads(t, cmd.Process.Pid, want)
	reach := func() {
		t.Helper()
		for _, a := range []netip.Addr{l.Guests[0].Addr4(), l.Guests[0].Addr6()} {
			reaches(t, l.Internet, a)
			reaches(t, l.Dom0, a)
		}
	}
	reach()
	for _, name := range []string{l.Config.Bridge.TAP, l.Config.Host.Interface} {
		must(t, l.Dom0.DelLink(name))
		reach()
	}
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	log := <-ended
	if err := cmd.Wait(); err != nil || regexp.MustCompile(`level=ERROR|ermission`).MatchString(log) {
		t.Errorf("%v\n%s", err, log)
	}
	same(t, l, before)
}

// withoutRoot is the environment of a process of this test that becomes the program which it names, as nobody.
const withoutRoot = "UDROUTER_WITHOUT_ROOT"

// becomeNobody executes a program as nobody with the router's two capabilities, as systemd does, and with a device TUN that is open to users.
func becomeNobody(program string) error {
	const caps = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW
	return becomeUser(program, 0o666, func() error {
		data := [2]unix.CapUserData{{Effective: caps, Permitted: caps, Inheritable: caps}}
		if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
			return err
		}
		for _, c := range []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW} {
			if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, c, 0, 0); err != nil {
				return err
			}
		}
		return nil
	})
}

// becomeUser gives the device TUN a mode, in the process's own view of mounts, becomes nobody, calls caps, which may be nil, to keep capabilities, and
// executes a program.
func becomeUser(program string, tunMode uint32, caps func() error) error {
	const uid = 65534
	runtime.LockOSThread()
	tun := filepath.Join(filepath.Dir(program), "tun")
	if err := errors.Join(unix.Mknod(tun, unix.S_IFCHR, int(unix.Mkdev(10, 200))), unix.Chmod(tun, tunMode), unix.Mount(tun, "/dev/net/tun", "", unix.MS_BIND, "")); err != nil {
		return fmt.Errorf("opening up the device: %w", err)
	}
	if caps != nil {
		if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
			return err
		}
	}
	if _, _, e := syscall.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); e != 0 {
		return e
	}
	for _, nr := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} { // of this thread alone, which is the one to stay
		if _, _, e := syscall.RawSyscall(nr, uid, uid, uid); e != 0 {
			return e
		}
	}
	if caps != nil {
		if err := caps(); err != nil {
			return err
		}
	}
	return unix.Exec(program, os.Args, os.Environ())
}

// Who is in the group may ask, nobody else may even connect.
func TestControlAccess(t *testing.T) {
	group, err := user.LookupGroupId("1")
	must(t, err)
	src := string(readFile(t, "../config/reference.hcl"))
	if !strings.Contains(src, "control {") {
		src += fmt.Sprintf("\ncontrol {\n  group = %q\n}\n", group.Name)
	} else {
		src = regexp.MustCompile(`(?s)control \{.*?\n\}`).ReplaceAllLiteralString(src, fmt.Sprintf("control {\n  group = %q\n}", group.Name))
	}
	l := buildLab(t, src, lab.Options{})
	dir := publicDir(t)
	socket := filepath.Join(dir, "run", "control.sock")
	startRouter(t, l, "--socket", socket)
	program := writeFile(t, dir, "udrouter", []byte(readFile(t, wire.Exe)), 0o755)
	for path, mode := range map[string]os.FileMode{filepath.Dir(socket): 0o750 | os.ModeDir, socket: 0o660 | os.ModeSocket} {
		fi, err := os.Stat(path)
		must(t, err)
		own := fi.Sys().(*syscall.Stat_t)
		if fi.Mode() != mode || own.Uid != 0 || strconv.Itoa(int(own.Gid)) != group.Gid {
			t.Errorf("%s is %v of %d:%d, want %v of 0:%s", path, fi.Mode(), own.Uid, own.Gid, mode, group.Gid)
		}
	}
	for _, c := range []struct {
		name   string
		groups []uint32
		status int
		want   string
	}{{"nobody", nil, 1, "this user may not ask"}, {"a member of the group", []uint32{1}, 0, "up "}} {
		cmd := exec.CommandContext(testContext(t), program, "status", "--socket", socket)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534, Groups: c.groups}}
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != c.status || !strings.Contains(string(out), c.want) {
			t.Errorf("%s: %v, want status %d and %q:\n%s", c.name, err, c.status, c.want, out)
		}
	}
}
