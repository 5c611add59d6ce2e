package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"udrouter/config"
)

func TestVersion(t *testing.T) {
	at := time.Date(2026, 11, 25, 15, 30, 57, 0, time.UTC)
	for _, c := range []struct{ described, want string }{
		{"", "0.1.0~git20261125153057.abcdef"},
		{"v1.2.3", "1.2.3"},
		{"v1.2.3-4-gabcdef", "1.2.3+4.abcdef"},
		{"v1.0.0-rc1", "1.0.0~rc1"},
		{"v1.0.0-rc1-4-gabcdef", "1.0.0~rc1+4.abcdef"},
	} {
		if got := version(c.described, "abcdef", at); got != c.want {
			t.Errorf("%q is version %s, want %s", c.described, got, c.want)
		}
	}
	for _, less := range [][2]string{{"0.1.0~git20261125153057.abcdef", "0.1.0"}, {"1.0.0~rc1+4.abcdef", "1.0.0"}, {"1.2.3", "1.2.3+4.abcdef"}} {
		verify(t, "dpkg", "--compare-versions", less[0], "lt", less[1])
	}
}

// A copy of the sources elsewhere, with other modes, by another user's settings, makes the same bytes.
func TestReproducible(t *testing.T) {
	copied, out := filepath.Join(t.TempDir(), "elsewhere"), t.TempDir()
	verify(t, "cp", "-r", built.root, copied)
	verify(t, "chmod", "-R", "go-rwx,u+x", copied)
	defer syscall.Umask(syscall.Umask(0o077))
	t.Setenv("TZ", "Asia/Tokyo")
	t.Setenv("LC_ALL", "C")
	t.Setenv("GOFLAGS", "-race")
	b := built
	b.root = copied
	deb2, tarball2, err := b.build(buildContext(t), out)
	must(t, err)
	for first, second := range map[string]string{deb: deb2, tarball: tarball2} {
		if !bytes.Equal(readFile(t, first), readFile(t, second)) {
			t.Errorf("two builds of %s differ", filepath.Base(first))
		}
	}
}

// The tarball is for systems without dpkg: the program runs as it is.
func TestTarball(t *testing.T) {
	dir := t.TempDir()
	verify(t, "tar", "-xzf", tarball, "--strip-components=1", "-C", dir)
	if out := verify(t, filepath.Join(dir, "usr/sbin/udrouter"), "version"); out != "udrouter "+built.version+"\n" {
		t.Errorf("it says %q", out)
	}
	for _, name := range []string{"usr/lib/systemd/system/udrouter.service", "usr/share/man/man8/udrouter-run.8.gz", "usr/share/man/man5/router.hcl.5.gz",
		"etc/network/if-up.d/udrouter", "etc/xen/scripts/vif-udrouter", "usr/share/doc/udrouter/examples/router.hcl"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	// What it says of files beside it is so where it is installed.
	links := 0
	pages, err := filepath.Glob(filepath.Join(dir, "usr/share/doc/udrouter/docs/*.md"))
	must(t, err)
	if len(pages) == 0 {
		t.Error("there is no page in docs")
	}
	for _, name := range append(pages, filepath.Join(dir, "usr/share/doc/udrouter/README.md"), filepath.Join(dir, "usr/share/doc/udrouter/LIMITS.md")) {
		at := strings.TrimPrefix(name, dir)
		for _, m := range regexp.MustCompile(`\]\(([^)]*)\)`).FindAllStringSubmatch(string(readFile(t, filepath.Join(dir, at))), -1) {
			target := m[1]
			if strings.Contains(target, "://") {
				continue
			}
			links++
			target, _, _ = strings.Cut(target, "#")
			if target == "" {
				continue // a heading of the page itself
			}
			if !filepath.IsAbs(target) {
				target = filepath.Join(filepath.Dir(at), target)
			}
			if _, err := os.Stat(filepath.Join(dir, target)); err != nil {
				t.Errorf("%s has a link to %s: %v", at, m[1], err)
			}
		}
	}
	if links < 5 {
		t.Errorf("there are %d links", links)
	}
	if _, err := exec.LookPath("ldd"); err == nil {
		if out, err := exec.CommandContext(testContext(t), "ldd", filepath.Join(dir, "usr/sbin/udrouter")).CombinedOutput(); err == nil {
			t.Errorf("the program needs libraries: %s", out)
		}
	}
}

// The README's way for systems without dpkg.
func TestTarballService(t *testing.T) {
	h := start(t, true)
	h.write("/root/udrouter.tar.gz", readFile(t, tarball))
	h.run("tar", "-xzf", "/root/udrouter.tar.gz", "-C", "/", "--strip-components=1")
	h.run("useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", "udrouter")
	h.run("install", "-d", "-g", "udrouter", "-m", "750", "/etc/udrouter")
	h.configure()
	h.run("systemctl", "daemon-reload")
	h.run("systemctl", "enable", "--now", "udrouter")
	h.forwards()

	// Unpacked again, as for a newer one, it leaves what the administrator has made.
	options := "UDROUTER_OPTS=\"--workers 2\"\n"
	h.write("/etc/default/udrouter", []byte(options))
	h.run("tar", "-xzf", "/root/udrouter.tar.gz", "-C", "/", "--strip-components=1")
	if got := string(readFile(t, h.Path("/etc/default/udrouter"))); got != options {
		t.Errorf("of the options there is left:\n%s", got)
	}
	if got := readFile(t, h.Path("/etc/udrouter/router.hcl")); !bytes.Equal(got, config.Reference) {
		t.Errorf("of the configuration there is left:\n%s", got)
	}
}

// Installed, upgraded and purged by the real dpkg: what the administrator has changed is kept, and nothing is left.
func TestPackage(t *testing.T) {
	newer := built
	newer.version += "+next"
	next, _, err := newer.build(buildContext(t), t.TempDir())
	must(t, err)
	h := start(t, true)
	before := h.files()
	h.install(deb)
	if out := h.run("udrouter", "version"); out != "udrouter "+built.version {
		t.Errorf("installed is %q", out)
	}
	if out := h.run("stat", "-c", "%U:%G %a", "/etc/udrouter"); out != "root:udrouter 750" {
		t.Errorf("/etc/udrouter is %s", out)
	}
	h.run("man", "--warnings", "--encoding=utf8", "udrouter-run")
	h.run("bash", "-n", "/usr/share/bash-completion/completions/udrouter")
	h.run("udrouter", "check", "-c", "/usr/share/doc/udrouter/examples/router.hcl")
	h.configure()
	options := func(socket string) {
		h.write("/etc/default/udrouter", []byte("UDROUTER_OPTS=\"--workers 2 --state /run/udrouter/other --socket "+socket+"\"\n"))
	}
	options("/run/udrouter/one.sock")
	h.run("systemctl", "start", "udrouter")
	h.run("systemctl", "reload", "udrouter")
	options("/run/udrouter/two.sock") // for the next one

	talks := h.talk()
	pid := h.run("systemctl", "show", "--value", "--property=MainPID", "udrouter")
	h.install(next)
	talks.goOn("after the upgrade")
	if out := h.run("udrouter", "version"); out != "udrouter "+newer.version {
		t.Errorf("upgraded to %q", out)
	}
	if out := string(readFile(t, h.Path("/etc/default/udrouter"))); !strings.Contains(out, "--workers 2") {
		t.Errorf("the upgrade has replaced what was changed:\n%s", out)
	}
	if out := h.run("systemctl", "show", "--value", "--property=MainPID", "udrouter"); out == pid || out == "0" {
		t.Errorf("after the upgrade its process is %s, it was %s", out, pid)
	}
	var status struct {
		Version string
		Gap     float64 `json:"takeover_gap_s"`
	}
	must(t, json.Unmarshal([]byte(h.run("udrouter", "status", "--json", "--socket", "/run/udrouter/two.sock")), &status))
	if status.Version != newer.version || status.Gap == 0 {
		t.Errorf("after the upgrade %+v runs, which has taken nothing over", status)
	}
	t.Logf("while the package was upgraded nobody forwarded for %v s", status.Gap)
	h.forwards()

	// What runs is not given up for a program that refuses its file.
	pid = h.run("systemctl", "show", "--value", "--property=MainPID", "udrouter")
	h.write("/etc/udrouter/router.hcl", []byte("uplink {\n"))
	h.install(deb)
	if out := h.run("systemctl", "show", "--value", "--property=MainPID", "udrouter"); out != pid {
		t.Errorf("an upgrade with a mistake in the file has replaced process %s by %s", pid, out)
	}
	h.configure()
	h.forwards()
	talks.goOn("after an upgrade that was none")

	h.run("systemctl", "stop", "udrouter")
	h.install(deb) // a downgrade, which is an upgrade to dpkg
	if out, _ := h.try("systemctl", "is-active", "udrouter"); out != "inactive" {
		t.Errorf("an upgrade has started what was stopped: %s", out)
	}

	h.run("systemctl", "start", "udrouter")
	h.run("dpkg", "--remove", "udrouter")
	if out, _ := h.try("pgrep", "-x", "udrouter"); out != "" {
		t.Errorf("it runs after its removal: %s", out)
	}
	if !h.exists("/etc/udrouter/router.hcl") || !h.exists("/etc/default/udrouter") {
		t.Error("the removal, which is no purge, has taken the configuration")
	}
	h.run("dpkg", "--purge", "udrouter")
	if after := h.files(); after != before {
		t.Errorf("of it was there, then is:\n%s\n--\n%s", before, after)
	}
}

// files lists what a package could leave, but for what dpkg and systemd keep of their own.
func (h *host) files() string {
	h.t.Helper()
	return h.run("sh", "-c", `
		find /etc /usr /var/lib /var/log /run -path '*udrouter*' ! -path '/usr/local/*' | sort
		getent passwd udrouter
		getent group udrouter
		dpkg --get-selections | grep udrouter
		true`)
}

// The maintainers' scripts are sh, whatever sh is.
func TestScripts(t *testing.T) {
	for _, f := range files {
		if f.mode&0o111 != 0 {
			verify(t, "sh", "-n", source(f.src))
		}
	}
}
