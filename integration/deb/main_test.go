package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"udrouter/config"
	"udrouter/integration/lab"
	"udrouter/integration/machine"
)

// What users install is what is tested: the package is built once, and every test installs it in a machine of its own.
var (
	built        build
	deb, tarball string
)

func TestMain(m *testing.M) { os.Exit(test(m)) }

func test(m *testing.M) int {
	dir, err := os.MkdirTemp("", "udrouter-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	if built, err = release(ctx); err == nil {
		deb, tarball, err = built.build(ctx, dir)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "building the package: %v\n", err)
		return 1
	}
	return m.Run()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// These end a test that hangs; none waits for them otherwise. For a build, nfpm and all that it is made of may have to be fetched and compiled.
const (
	timeout      = 2 * time.Minute
	buildTimeout = 10 * time.Minute
)

func buildContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), buildTimeout)
	t.Cleanup(cancel)
	return ctx
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	t.Cleanup(cancel)
	return ctx
}

// A host is a lab's dom0 with a Debian of its own.
type host struct {
	*lab.Lab
	*machine.Machine
	t testing.TB
}

// start builds the reference's network and a machine as its dom0, in which nothing is installed yet.
func start(t testing.TB, boot bool) *host {
	t.Helper()
	cfg, diags := config.Parse("router.hcl", config.Reference)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	l, err := lab.Build(testContext(t), cfg, lab.Options{Source: config.Reference})
	must(t, err)
	t.Cleanup(func() { must(t, l.Close()) })
	m, err := machine.Start(testContext(t), l.Dom0.NS, boot)
	must(t, err)
	t.Cleanup(func() { must(t, m.Close()) })
	h := &host{Lab: l, Machine: m, t: t}
	t.Cleanup(func() {
		if t.Failed() && boot {
			log, _ := m.Command(context.Background(), "journalctl", "--no-pager", "--unit", "udrouter").CombinedOutput()
			t.Logf("the service's journal:\n%s", log)
		}
	})
	return h
}

// run runs a command in the machine and returns what it wrote to stdout and stderr.
func (h *host) run(name string, args ...string) string {
	h.t.Helper()
	out, err := h.try(name, args...)
	if err != nil {
		h.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func (h *host) try(name string, args ...string) (string, error) {
	h.t.Helper()
	out, err := h.Command(testContext(h.t), name, args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// install installs a package's file.
func (h *host) install(file string) string {
	h.t.Helper()
	h.write("/root/udrouter.deb", readFile(h.t, file))
	return h.run("dpkg", "--install", "/root/udrouter.deb")
}

// configure gives the router the reference as its file.
func (h *host) configure() { h.write("/etc/udrouter/router.hcl", config.Reference) }

func (h *host) write(path string, text []byte) {
	h.t.Helper()
	must(h.t, os.WriteFile(h.Path(path), text, 0o644))
}

func (h *host) exists(path string) bool {
	_, err := os.Lstat(h.Path(path))
	return err == nil
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	return text
}

// forwards fails unless each guest reaches the internet by both families.
func (h *host) forwards() {
	h.t.Helper()
	for _, g := range h.Guests {
		for _, dst := range []netip.Addr{h.Internet.Addr4(), h.Internet.Addr6()} {
			_, err := g.Ping(testContext(h.t), dst, lab.PingOptions{})
			must(h.t, err)
		}
	}
}

// recovers waits until the first guest reaches the internet again.
func (h *host) recovers() {
	h.t.Helper()
	must(h.t, lab.Await(testContext(h.t), "a guest to reach the internet", func() (bool, error) {
		_, err := h.Guests[0].Ping(brief(h.t), h.Internet.Addr4(), lab.PingOptions{})
		return err == nil, nil
	}))
}

// brief is a context for an attempt that is repeated.
func brief(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	t.Cleanup(cancel)
	return ctx
}

func contains(t testing.TB, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("no %q in:\n%s", w, text)
		}
	}
}

// source is a file of the repository.
func source(name string) string { return filepath.Join("..", "..", name) }

// verify runs a program of the real machine that only reads.
func verify(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(testContext(t), name, args...).CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}
