package confine

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// Options are what the process still needs.
type Options struct {
	Config string   // the configuration file, which is read again; others of its directory may be read as well
	State  string   // the state directory
	Socket string   // the control socket
	Remove []string // further sockets that are open, and removed at the end
	Read   []string // further files to read
	Strict bool     // a refused call ends the process with a stack trace

	// Offload tells that the kernel forwards flows for the process, which then goes on writing maps, and after a change of addresses or links loads the uplink's
	// filter and attaches programs.
	Offload bool

	Log *slog.Logger // told what applies
}

// keep are the capabilities that are kept.
var keep = []cap.Value{cap.NET_ADMIN, cap.NET_RAW}

// Apply confines the process, all of its threads, for good. What the kernel is too old for is left out, with a warning. After an error the process
// may be confined in part.
func Apply(o Options) error {
	if _, err := cap.Prctlw(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("setting no_new_privs: %w", err)
	}
	kept, err := dropCapabilities(o)
	if err != nil {
		return fmt.Errorf("dropping capabilities: %w", err)
	}
	abi, err := restrictFiles(o)
	if err != nil {
		return fmt.Errorf("restricting files by Landlock: %w", err)
	}
	filtered := true
	if err := installFilter(program(os.Getpid(), o.Strict, o.Offload)); errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		filtered = false
		o.Log.Warn("this kernel has no seccomp filters: the process may make any system call")
	} else if err != nil {
		return fmt.Errorf("installing the seccomp filter: %w", err)
	}
	if abi == 0 {
		o.Log.Warn("this kernel has no Landlock, or it is not among its lsm=: the process may open what its user may")
	}
	o.Log.Info("confined", "landlock_abi", abi, "seccomp", filtered, "capabilities", kept, "uid", os.Geteuid())
	return nil
}

// dropCapabilities leaves keep, as far as they are there.
func dropCapabilities(o Options) (kept *cap.Set, err error) {
	now, kept := cap.GetProc(), cap.NewSet()
	settable, err := now.GetFlag(cap.Permitted, cap.SETPCAP)
	if err != nil {
		return nil, err
	}
	if settable {
		if err := emptyBounding(now); err != nil {
			return nil, fmt.Errorf("emptying the bounding set: %w", err)
		}
	} else {
		o.Log.Debug("the bounding set stays as it is without CAP_SETPCAP; with no_new_privs nothing can be had from it")
	}
	if err := cap.ResetAmbient(); err != nil {
		return nil, fmt.Errorf("emptying the ambient set: %w", err)
	}
	list := keep
	if o.Offload {
		list = append(slices.Clone(keep), cap.BPF)
	}
	for _, c := range list {
		has, err := now.GetFlag(cap.Permitted, c)
		if err := errors.Join(err, kept.SetFlag(cap.Permitted, has, c), kept.SetFlag(cap.Effective, has, c)); err != nil {
			return nil, err
		}
	}
	return kept, kept.SetProc()
}

// emptyBounding needs CAP_SETPCAP, which is permitted.
func emptyBounding(now *cap.Set) error {
	raised, err := now.Dup()
	if err != nil {
		return err
	}
	if err := errors.Join(raised.SetFlag(cap.Effective, true, cap.SETPCAP), raised.SetProc()); err != nil {
		return err
	}
	for c := range cap.MaxBits() {
		if err := cap.DropBound(c); err != nil {
			return err
		}
	}
	return nil
}

const (
	readFile = landlock.AccessFSSet(ll.AccessFSReadFile)
	readTree = readFile | ll.AccessFSReadDir
	// A file that is replaced by renaming, and its directory, which is synced.
	replaceFiles  = readTree | ll.AccessFSWriteFile | ll.AccessFSTruncate | ll.AccessFSMakeReg | ll.AccessFSRemoveFile
	replaceSocket = landlock.AccessFSSet(ll.AccessFSMakeSock | ll.AccessFSRemoveFile)
	useDevice     = readFile | ll.AccessFSWriteFile | ll.AccessFSIoctlDev
	setSysctl     = readTree | ll.AccessFSWriteFile | ll.AccessFSTruncate
)

// configDirs are where the configuration file is read from: its directory and, where it is a symbolic link, that of what it leads to now.
func (o Options) configDirs() []string {
	dirs := []string{filepath.Dir(o.Config)}
	if target, err := filepath.EvalSymlinks(o.Config); err == nil && !slices.Contains(dirs, filepath.Dir(target)) {
		dirs = append(dirs, filepath.Dir(target))
	}
	return dirs
}

// Moved is called before Apply, and what it returns after it, when the configuration could not be read: that tells whether Landlock is why, since the
// file is not in the directories any more in which it was at the start: a symbolic link in its path leads elsewhere, or its directory was made anew.
// The error says what to do; nil is another reason.
func Moved(o Options) func() error {
	if _, err := ll.LandlockGetABIVersion(); err != nil {
		return func() error { return nil } // it refuses nothing where the kernel does not have it
	}
	var allowed []os.FileInfo
	for _, dir := range o.configDirs() {
		if fi, err := os.Stat(dir); err == nil {
			allowed = append(allowed, fi)
		}
	}
	return func() error {
		target, err := filepath.EvalSymlinks(o.Config)
		if err != nil {
			return nil
		}
		if f, err := os.Open(target); !errors.Is(err, unix.EACCES) {
			if err == nil {
				f.Close()
			}
			return nil
		}
		dir := filepath.Dir(target)
		for at := dir; ; at = filepath.Dir(at) { // the directories that hold it
			fi, err := os.Stat(at)
			if err != nil || slices.ContainsFunc(allowed, func(a os.FileInfo) bool { return os.SameFile(a, fi) }) {
				return nil
			}
			if at == filepath.Dir(at) {
				break
			}
		}
		return fmt.Errorf("refused by Landlock: the file is in %s now, and the running router may only read in the directories in which its configuration was at its start. Restart the router", dir)
	}
}

// restrictFiles tells which ABI of Landlock applies, 0 for none.
func restrictFiles(o Options) (abi int, err error) {
	if abi, err = ll.LandlockGetABIVersion(); err != nil {
		return 0, nil
	}
	// Of directories of /proc that the kernel has forgotten it makes other inodes, to which no rule applies: a descriptor keeps it from that. That of
	// the sysctls is never closed. Linked with the C library, libpsx looks at the tasks when they are restricted, for which go-landlock has a rule.
	const sysctls, tasks = "/proc/sys/net", "/proc/self/task"
	if _, err := pin(sysctls); err != nil {
		return 0, err
	}
	held, err := pin(tasks)
	if err != nil {
		return 0, err
	}
	defer unix.Close(held)
	rules := []landlock.Rule{
		landlock.PathAccess(readTree, o.configDirs()...),
		landlock.PathAccess(readFile, o.Read...),
		landlock.PathAccess(replaceFiles, o.State),
		landlock.PathAccess(replaceSocket, filepath.Dir(o.Socket)),
		landlock.PathAccess(useDevice, "/dev/net/tun"),
		landlock.PathAccess(setSysctl, sysctls),
	}
	c := landlock.V11
	// Not of signals: before Linux 6.15 that would keep threads of this process, each of which has a domain of its own, from signalling
	// each other. The seccomp filter does it.
	c.Scoped = ll.ScopeAbstractUnixSocket
	for _, path := range o.Remove {
		rules = append(rules, landlock.PathAccess(ll.AccessFSRemoveFile, filepath.Dir(path)))
	}
	switch notify := os.Getenv("NOTIFY_SOCKET"); {
	case strings.HasPrefix(notify, "@"):
		c.Scoped = 0
	case notify != "":
		rules = append(rules, landlock.PathAccess(ll.AccessFSResolveUnix, notify).IgnoreIfMissing())
	}
	return abi, c.BestEffort().Restrict(rules...)
}

func pin(path string) (fd int, err error) {
	if fd, err = unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}
