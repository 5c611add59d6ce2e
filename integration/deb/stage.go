package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// files are where the repository's files go, under a stage: root and etc are the system's, scripts the package's.
var files = []struct {
	src, dst string
	mode     fs.FileMode
}{
	{"integration/deb/nfpm.yaml", "nfpm.yaml", 0o644},
	{"integration/deb/debian/postinst", "scripts/postinst", 0o755},
	{"integration/deb/debian/prerm", "scripts/prerm", 0o755},
	{"integration/deb/debian/postrm", "scripts/postrm", 0o755},
	{"integration/deb/debian/copyright", doc + "copyright", 0o644},
	{"integration/deb/debian/lintian-overrides", "root/usr/share/lintian/overrides/udrouter", 0o644},
	{"integration/deb/debian/udrouter.default", defaults, 0o644},
	{"integration/deb/debian/udrouter.default", examples + "udrouter.default", 0o644},
	{"integration/ifupdown/udrouter.logrotate", "etc/logrotate.d/udrouter", 0o644},
	{"integration/ifupdown/hook", "etc/network/if-up.d/udrouter", 0o755},
	{"integration/ifupdown/hook", "etc/network/if-down.d/udrouter", 0o755},
	{"integration/xen/vif-udrouter", "etc/xen/scripts/vif-udrouter", 0o755},
	{"integration/libvirt/qemu", examples + "libvirt/qemu", 0o755},
	{"integration/proxmox/udrouter.sh", examples + "proxmox/udrouter.sh", 0o755},
	{"integration/ifupdown/interfaces", examples + "interfaces", 0o644},
	{"integration/ifupdown/interfaces.ip", examples + "interfaces.ip", 0o644},
	{"integration/systemd/networkd", examples + "networkd", 0o644},
	{"integration/systemd/netplan", examples + "netplan", 0o644},
	{"integration/prometheus/prometheus.yml", examples + "prometheus/prometheus.yml", 0o644},
	{"integration/prometheus/alerts.yml", examples + "prometheus/alerts.yml", 0o644},
	{"integration/prometheus/dashboard.json", examples + "prometheus/dashboard.json", 0o644},
	{"integration/systemd/metrics.conf", examples + "systemd/metrics.conf", 0o644},
	{"integration/systemd/udrouter.service", "root/usr/lib/systemd/system/udrouter.service", 0o644},
	{"config/reference.hcl", examples + "router.hcl", 0o644},
	{"README.md", doc + "README.md", 0o644},
	{"router/METRICS.md", doc + "METRICS.md", 0o644},
	{"integration/bench/LIMITS.md", doc + "LIMITS.md", 0o644},
	{"integration/bench/ratios.svg", doc + "ratios.svg", 0o644},
	{"cmd/udrouter/top.svg", doc + "top.svg", 0o644},
	{"cmd/udrouter/page.png", doc + "page.png", 0o644},
	{"integration/attacks/ATTACKS.md", doc + "ATTACKS.md", 0o644},
	{"integration/attacks/TOOLS.md", doc + "TOOLS.md", 0o644},
	{"integration/conformance/CONFORMANCE.md", doc + "CONFORMANCE.md", 0o644},
	{"cmd/docs", doc + "docs", 0o644},
	{"integration/ci/github.yml", examples + "ci/github.yml", 0o644},
	{"integration/ci/gitlab-ci.yml", examples + "ci/gitlab-ci.yml", 0o644},
}

const (
	doc      = "root/usr/share/doc/udrouter/"
	examples = doc + "examples/"
	program  = "root/usr/sbin/udrouter"
	defaults = "etc/default/udrouter"
)

// onSystem is where the system has a file of the stage, from its root on.
func onSystem(dst string) string { return "/" + strings.TrimPrefix(dst, "root/") }

// link is one of Markdown's to a file beside the one that it stands in.
var link = regexp.MustCompile(`\]\(([^):#]+)(#[^)]*)?\)`)

// relinked has a text of the repository's that is installed elsewhere name files where they are installed.
func relinked(src string, text []byte) ([]byte, error) {
	var err error
	return link.ReplaceAllFunc(text, func(m []byte) []byte {
		parts := link.FindSubmatch(m)
		target := path.Join(path.Dir(src), string(parts[1]))
		for _, f := range files {
			if rest, ok := strings.CutPrefix(target, f.src); ok && (rest == "" || rest[0] == '/') {
				return []byte("](" + onSystem(f.dst) + rest + string(parts[2]) + ")")
			}
		}
		err = errors.Join(err, fmt.Errorf("%s has a link to %s, which is not installed", src, target))
		return m
	}), err
}

// generated are where the files go that "udrouter docs" writes, but for the manual pages.
var generated = map[string]string{
	"udrouter.bash": "root/usr/share/bash-completion/completions/udrouter",
	"_udrouter":     "root/usr/share/zsh/vendor-completions/_udrouter",
	"udrouter.fish": "root/usr/share/fish/vendor_completions.d/udrouter.fish",
}

// stage fills a directory with all that is to be installed. Modes do not depend on how the repository was checked out.
func (b build) stage(ctx context.Context, dir string) error {
	for _, f := range files {
		src := filepath.Join(b.root, f.src)
		err := filepath.WalkDir(src, func(file string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			text, err := os.ReadFile(file)
			if err == nil && filepath.Ext(file) == ".md" {
				text, err = relinked(path.Join(f.src, strings.TrimPrefix(filepath.ToSlash(file), filepath.ToSlash(src))), text)
			}
			if err != nil {
				return err
			}
			return write(filepath.Join(dir, f.dst, strings.TrimPrefix(file, src)), text, f.mode)
		})
		if err != nil {
			return err
		}
	}
	bin := filepath.Join(dir, program)
	if err := mkdirs(filepath.Dir(bin)); err != nil {
		return err
	}
	ldflags := "-s -w -X udrouter/router.Version=" + b.version
	if _, err := output(ctx, b.root, b.env(), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", ldflags, "-o", bin, "./cmd/udrouter"); err != nil {
		return err
	}
	if err := os.Chmod(bin, 0o755); err != nil {
		return err
	}
	if err := b.manuals(ctx, dir, bin); err != nil {
		return err
	}
	changes := fmt.Sprintf("udrouter (%s) unstable; urgency=medium\n\n  * Made of commit %s.\n\n -- udrouter maintainers <maintainers@udrouter.invalid>  %s\n",
		b.version, b.commit, b.time.Format(time.RFC1123Z))
	return compressed(filepath.Join(dir, doc, "changelog.gz"), []byte(changes))
}

// manuals puts the manual pages and completions that the program itself writes in their places.
func (b build) manuals(ctx context.Context, dir, bin string) error {
	docs := filepath.Join(dir, "docs")
	if err := os.Mkdir(docs, 0o755); err != nil {
		return err
	}
	if _, err := output(ctx, dir, b.env(), bin, "docs", docs); err != nil {
		return err
	}
	entries, err := os.ReadDir(docs)
	if err != nil {
		return err
	}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(docs, e.Name()))
		if err != nil {
			return err
		}
		section := strings.TrimPrefix(filepath.Ext(e.Name()), ".")
		if dst, ok := generated[e.Name()]; ok {
			err = write(filepath.Join(dir, dst), text, 0o644)
		} else if section != "md" { // pages are files of the repository, which hold what is generated
			err = compressed(filepath.Join(dir, "root/usr/share/man/man"+section, e.Name()+".gz"), text)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func compressed(path string, text []byte) error {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return err
	}
	_, err = z.Write(text)
	if err := errors.Join(err, z.Close()); err != nil {
		return err
	}
	return write(path, out.Bytes(), 0o644)
}

func write(path string, text []byte, mode fs.FileMode) error {
	if err := mkdirs(filepath.Dir(path)); err != nil {
		return err
	}
	if err := os.WriteFile(path, text, mode); err != nil {
		return err
	}
	return os.Chmod(path, mode) // whatever the umask
}

func mkdirs(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := mkdirs(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o755)
}

// tarball writes a stage's files for the system, below a directory of the tarball's name; but for the one that is the administrator's, which no tar would keep: it
// is optional, and among the examples.
func (b build) tarball(stage, path string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	z, err := gzip.NewWriterLevel(f, gzip.BestCompression)
	if err != nil {
		return err
	}
	w := tar.NewWriter(z)
	top := strings.TrimSuffix(filepath.Base(path), ".tar.gz")
	for _, part := range []struct{ from, to string }{{"root", top}, {"etc", top + "/etc"}} {
		if err := b.add(w, filepath.Join(stage, part.from), part.to); err != nil {
			return err
		}
	}
	return errors.Join(w.Close(), z.Close())
}

// add writes the files of a directory, in the order of their names.
func (b build) add(w *tar.Writer, from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, "/"+defaults) {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		h := &tar.Header{Name: to + strings.TrimPrefix(path, from), Mode: int64(info.Mode().Perm()), Size: int64(len(text)),
			ModTime: b.time, Uname: "root", Gname: "root", Format: tar.FormatUSTAR}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		_, err = w.Write(text)
		return err
	})
}
