package lab

import (
	"bytes"
	"context"
	"os/exec"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// Cmd is an exec.Cmd whose child runs in a namespace. The child sees that namespace's /sys/class/net
// as well, is in a process group of its own (the terminal's Ctrl-C is for the lab, which then ends
// its children in order), and is killed when the lab's process ends, so that it cannot keep the
// namespace alive. Start must be followed by Wait. Methods of exec.Cmd that are not repeated here
// and that start the child are not for use.
type Cmd struct {
	*exec.Cmd
	ns      *NS
	release chan struct{}
	once    sync.Once
}

// Command prepares a program to run in the namespace; ctx kills it.
func (n *NS) Command(ctx context.Context, name string, args ...string) *Cmd {
	c := &Cmd{Cmd: exec.CommandContext(ctx, name, args...), ns: n, release: make(chan struct{})}
	c.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	return c
}

// Start starts the child.
func (c *Cmd) Start() error {
	started := make(chan error, 1)
	go func() {
		// A child is killed (Pdeathsig) when the *thread* that made it ends: keep that until Wait.
		// It is not unlocked, so it ends with the goroutine; its mount namespace is not fit for others.
		runtime.LockOSThread()
		err := c.ns.enter()
		if err == nil {
			mountSys()
			err = c.Cmd.Start()
		}
		started <- err
		if err == nil {
			<-c.release
		}
	}()
	return <-started
}

// mountSys gives the thread a private view of mounts with /sys of the thread's network namespace,
// as "ip netns exec" does. Where that is not allowed the child sees the machine's, which only
// programs that look there notice.
func mountSys() {
	if unix.Unshare(unix.CLONE_NEWNS) != nil {
		return
	}
	if unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") != nil {
		return
	}
	_ = unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
}

// Wait waits for the child as exec.Cmd does.
func (c *Cmd) Wait() error {
	defer c.once.Do(func() { close(c.release) })
	return c.Cmd.Wait()
}

// Run starts the child and waits for it.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// CombinedOutput runs the child and returns what it wrote to stdout and stderr.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	var b bytes.Buffer
	c.Stdout, c.Stderr = &b, &b
	err := c.Run()
	return b.Bytes(), err
}

// Output runs the child and returns what it wrote to stdout.
func (c *Cmd) Output() ([]byte, error) {
	var b bytes.Buffer
	c.Stdout = &b
	err := c.Run()
	return b.Bytes(), err
}
