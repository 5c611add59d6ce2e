// Package machine is a Debian of its own for tests: what the real machine's root holds, under a layer in memory that
// takes whatever is written, in namespaces of its own, with systemd as its first process where that is wanted. So a package can be
// installed, ifup run and a unit started for real, and nothing of it reaches the machine that the tests run on. It needs
// root, systemd and the programs of util-linux.
package machine

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"udrouter/integration/lab"
)

//go:embed start.sh
var startScript string

//go:embed stop.sh
var stopScript string

// Machine is a running one. Its methods may be called from several goroutines.
type Machine struct {
	init  *lab.Cmd
	dir   string // where it is built; empty outside of its namespaces
	group string
	done  chan struct{}
	said  bytes.Buffer // of start.sh, until the root is in place
}

// Start starts a machine whose network is that namespace. With boot, systemd brings it up to basic.target, and Start returns when it is there;
// without, nothing runs in it but what Command starts. ctx concerns the start alone.
func Start(ctx context.Context, ns *lab.NS, boot bool) (*Machine, error) {
	dir, err := os.MkdirTemp("", "udrouter-machine-")
	if err != nil {
		return nil, err
	}
	m := &Machine{dir: dir, group: filepath.Base(dir), done: make(chan struct{})}
	init := []string{"sh", "-c", ": >" + upFile + "; sleep infinity & wait"} // a shell that waits reaps whatever ends
	if boot {
		init = []string{"env", "-i", "container=udrouter", "PATH=" + path, "/lib/systemd/systemd", "--system", "--unit=basic.target"}
	}
	m.init = ns.Command(context.Background(), "sh", append([]string{"-c", startScript, "sh", dir, m.group}, init...)...)
	m.init.SysProcAttr.Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	m.init.Stdout, m.init.Stderr = &m.said, &m.said
	if err := m.init.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting a machine: %w", err), os.Remove(dir))
	}
	go func() {
		_ = m.init.Wait()
		close(m.done)
	}()
	if err := lab.Await(ctx, "the machine's start", func() (bool, error) { return m.up(ctx, boot) }); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// upFile is what tells that a machine without systemd is there.
const upFile = "/run/udrouter-machine"

// path is where the machine's programs look for others.
const path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func (m *Machine) up(ctx context.Context, boot bool) (bool, error) {
	select {
	case <-m.done:
		return false, fmt.Errorf("the machine ended while it started: %s", m.said.String())
	default:
	}
	if !boot {
		_, err := os.Stat(m.Path(upFile))
		return err == nil, nil
	}
	if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", m.init.Process.Pid)); err != nil || string(name) != "systemd\n" {
		return false, err
	}
	out, _ := m.Command(ctx, "systemctl", "is-active", "basic.target").Output()
	return strings.TrimSpace(string(out)) == "active", nil
}

// Command prepares a program to run in the machine; ctx kills it.
func (m *Machine) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	all := []string{"-t", strconv.Itoa(m.init.Process.Pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd", "--",
		"env", "-i", "PATH=" + path, "LC_ALL=C.UTF-8", "HOME=/root", "DEBIAN_FRONTEND=noninteractive", name}
	return exec.CommandContext(ctx, "nsenter", append(all, args...)...)
}

// Path is a file of the machine as this process sees it.
func (m *Machine) Path(name string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", m.init.Process.Pid), name)
}

// Close ends the machine and everything that runs in it.
func (m *Machine) Close() error {
	_ = m.init.Process.Kill() // the kernel ends the others of its PID namespace
	<-m.done
	c := exec.Command("sh", "-c", stopScript, "sh", m.dir, m.group)
	c.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	out, err := c.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("removing the machine's cgroup: %w: %s", err, out)
	}
	return errors.Join(err, os.Remove(m.dir))
}
