package router

import (
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"udrouter/config"
)

// The socket and the directory that is made for it are the group's, and nobody else's.
func TestControlGroup(t *testing.T) {
	group, err := user.LookupGroupId("1")
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.Atoi(group.Gid)
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "run", "control.sock")
	l, err := ListenControl(config.Control{Socket: socket, Group: group.Name})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for path, mode := range map[string]os.FileMode{socket: 0o660, filepath.Dir(socket): 0o750} {
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode().Perm() != mode || int(fi.Sys().(*syscall.Stat_t).Gid) != gid {
			t.Errorf("%s has mode %v and group %d, want %v and %d", path, fi.Mode().Perm(), fi.Sys().(*syscall.Stat_t).Gid, mode, gid)
		}
	}
	// One that anyone may pass is somebody else's, and stays.
	public := t.TempDir()
	if err := os.Chmod(public, 0o755); err != nil {
		t.Fatal(err)
	}
	other, err := ListenControl(config.Control{Socket: filepath.Join(public, "control.sock"), Group: group.Name})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if fi, err := os.Stat(public); err != nil || int(fi.Sys().(*syscall.Stat_t).Gid) == gid {
		t.Errorf("%s was given to the group, %v", public, err)
	}
}

// A socket in use is another router's; one that nobody listens on was left behind; what is no socket is not ours.
func TestControlSocketTaken(t *testing.T) {
	dir := t.TempDir()
	c := config.Control{Socket: filepath.Join(dir, "control.sock")}
	first, err := ListenControl(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ListenControl(c); err == nil || !strings.Contains(err.Error(), "another udrouter runs") {
		t.Errorf("a second one: %v", err)
	}
	first.(*net.UnixListener).SetUnlinkOnClose(false)
	first.Close()
	again, err := ListenControl(c)
	if err != nil {
		t.Errorf("a stale socket is in the way: %v", err)
	} else {
		again.Close()
	}
	file := config.Control{Socket: filepath.Join(dir, "file")}
	if err := os.WriteFile(file.Socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ListenControl(file); err == nil || !strings.Contains(err.Error(), "is no socket") {
		t.Errorf("a file: %v", err)
	}
}
