package machine

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Install installs packages of the Debian that the machine's root is of; what they depend on is there or named as well. They are fetched by apt once and
// kept in the user's cache; the real machine's own apt and dpkg are not changed.
func (m *Machine) Install(ctx context.Context, names ...string) error {
	return m.dpkg(ctx, []string{"--install", "--force-confold"}, names)
}

// Unpack does the same without their dependencies, and so without configuring them.
func (m *Machine) Unpack(ctx context.Context, names ...string) error {
	return m.dpkg(ctx, []string{"--unpack", "--force-depends"}, names)
}

func (m *Machine) dpkg(ctx context.Context, args, names []string) error {
	cache, err := fetch(ctx, names)
	if err != nil {
		return fmt.Errorf("fetching Debian's %s, which this test needs (it takes apt-get and a mirror): %w", strings.Join(names, " and "), err)
	}
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(cache, name+".deb"))
		if err != nil {
			return err
		}
		file := filepath.Join("/root", name+".deb")
		if err := os.WriteFile(m.Path(file), text, 0o644); err != nil {
			return err
		}
		args = append(args, file)
	}
	if out, err := m.Command(ctx, "dpkg", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("installing %s: %w: %s", strings.Join(names, " "), err, out)
	}
	return nil
}

// fetch returns a directory with these packages' files, NAME.deb. Those that are missing there come by apt.
func fetch(ctx context.Context, names []string) (cache string, err error) {
	if cache, err = os.UserCacheDir(); err != nil {
		return "", err
	}
	cache = filepath.Join(cache, "udrouter", "debian")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	missing := slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		_, err := os.Stat(filepath.Join(cache, name+".deb"))
		return err == nil
	})
	if len(missing) == 0 {
		return cache, nil
	}
	dir, err := os.MkdirTemp(cache, "apt-") // where files can be moved into the cache: they are there whole or not at all
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	for _, sub := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return "", err
		}
	}
	apt := func(args ...string) error {
		// Lists and locks of its own: the machine's stay as they are, and may be of last year.
		own := []string{"-qq", "-o", "Dir::State::Lists=" + dir + "/lists", "-o", "Dir::Cache=" + dir + "/cache", "-o", "APT::Sandbox::User=root"}
		c := exec.CommandContext(ctx, "apt-get", append(own, args...)...)
		c.Dir = dir
		out, err := c.CombinedOutput()
		if err != nil {
			return fmt.Errorf("apt-get %s: %w: %s", args[0], err, out)
		}
		return nil
	}
	if err := apt("update"); err != nil {
		return "", err
	}
	if err := apt(append([]string{"download"}, missing...)...); err != nil {
		return "", err
	}
	for _, name := range missing {
		debs, err := filepath.Glob(filepath.Join(dir, name+"_*.deb"))
		if err != nil || len(debs) != 1 {
			return "", fmt.Errorf("apt-get download %s brought %q", name, debs)
		}
		if err := os.Rename(debs[0], filepath.Join(cache, name+".deb")); err != nil {
			return "", err
		}
	}
	return cache, nil
}
