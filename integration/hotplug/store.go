// Package hotplug keeps what the hotplug scripts of Xen and KVM tell of guests' ports, in files, so that a router that
// starts later, or again, knows of them.
package hotplug

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"udrouter/config"
	"udrouter/integration/dom0"
)

// Store are the attachments of a network namespace in this boot, a file each. Several processes may use it at the same time.
type Store struct {
	dir  string
	boot string
}

// record is what a file holds. An interface's index says nothing in another boot.
type record struct {
	Boot string `json:"boot"`
	config.Attachment
}

// Open is the store of the calling thread's network namespace. stateDir is the router's, such as /run/udrouter; it is made when missing, for root alone.
func Open(stateDir string) (*Store, error) {
	boot, cookie, err := dom0.Namespace()
	if err != nil {
		return nil, err
	}
	s := &Store{dir: filepath.Join(stateDir, fmt.Sprintf("vifs-%x", cookie)), boot: boot}
	if err := os.MkdirAll(stateDir, 0o750); err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	err = os.Mkdir(s.dir, 0o700)
	if err == nil {
		var f *os.File
		if f, err = openDir(s.dir); err == nil {
			err = errors.Join(own(f, stateDir), f.Close())
		}
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("making the directory of vifs: %w", err)
	}
	return s, nil
}

// locked does something while no other process changes the store.
func (s *Store) locked(do func() error) error {
	d, err := openDir(s.dir)
	if err != nil {
		return fmt.Errorf("opening the directory of vifs: %w", err)
	}
	defer d.Close()
	for {
		err := unix.Flock(int(d.Fd()), unix.LOCK_EX) // held for moments
		if err == nil {
			return do()
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("locking %s: %w", s.dir, err)
		}
	}
}

// openDir opens a directory, and no link to one: the router's user may have put it there for root to follow.
func openDir(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
}

const suffix = ".json"

func (s *Store) path(vif string) string { return filepath.Join(s.dir, url.PathEscape(vif)+suffix) }

// Put notes an attachment, in place of an earlier one of the vif. Where that is of the same interface, it has to be of the same guest, or refused; so is this
// one then.
func (s *Store) Put(a config.Attachment) error {
	err := s.locked(func() error {
		if was, err := s.read(s.path(a.Vif)); err == nil && was.Index == a.Index {
			another := differ(was.Guest, a.Guest) || (was.Guest == "" || a.Guest == "") && differ(was.Domain, a.Domain)
			if another && !was.Refused {
				return fmt.Errorf("it is the port of domain %q: `udrouter vif remove --vif %s` first, if it is not", was.Domain, a.Vif)
			}
			a.Refused = was.Refused
		}
		return s.write(a)
	})
	if err != nil {
		return fmt.Errorf("noting %s: %w", a.Vif, err)
	}
	return nil
}

// differ tells whether two words are there and are not the same.
func differ(a, b string) bool { return a != "" && b != "" && a != b }

// Refuse notes that an attachment has been refused, if it is there.
func (s *Store) Refuse(vif string, index int) error {
	err := s.locked(func() error {
		a, err := s.read(s.path(vif))
		if errors.Is(err, fs.ErrNotExist) || err == nil && (a.Index != index || a.Refused) {
			return nil
		}
		if err != nil {
			return err
		}
		a.Refused = true
		return s.write(a)
	})
	if err != nil {
		return fmt.Errorf("noting that %s is refused: %w", vif, err)
	}
	return nil
}

// write writes an attachment's file.
func (s *Store) write(a config.Attachment) error {
	b, err := json.Marshal(record{s.boot, a})
	if err != nil {
		return err
	}
	tmp := s.path(a.Vif) + ".tmp"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) { // what a killed process has left
		return err
	}
	// The directory is the router's user's, who may have put a link there.
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err := errors.Join(err, own(f, s.dir), f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, s.path(a.Vif))
}

// own gives what root has made to whom a directory belongs: the router's user, which may be another, has to read and remove it.
func own(f *os.File, dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	var has, want unix.Stat_t
	if err := unix.Stat(dir, &want); err != nil {
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	if err := unix.Fstat(int(f.Fd()), &has); err != nil {
		return &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	if has.Uid == want.Uid && has.Gid == want.Gid {
		return nil // a confined router may not even ask
	}
	return f.Chown(int(want.Uid), int(want.Gid))
}

// Remove forgets a vif's attachment and tells whether there was one. One of another instance stays, where both are told: a vif of the name has come again.
func (s *Store) Remove(vif, instance string) (was bool, err error) {
	err = s.locked(func() error {
		a, err := s.read(s.path(vif))
		if err != nil && errors.Is(err, fs.ErrNotExist) || err == nil && instance != "" && a.Instance != "" && a.Instance != instance {
			return nil
		}
		was = true
		return os.Remove(s.path(vif))
	})
	if err != nil {
		return false, fmt.Errorf("forgetting %s: %w", vif, err)
	}
	return was, nil
}

// errStale is what is said of an attachment of another boot.
var errStale = errors.New("it is of another boot")

func (s *Store) read(path string) (config.Attachment, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return config.Attachment{}, err
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return config.Attachment{}, err
	}
	switch {
	case r.Boot != s.boot:
		return r.Attachment, errStale
	case s.path(r.Vif) != path:
		return r.Attachment, fmt.Errorf("it is about %s", r.Vif)
	}
	return r.Attachment, nil
}

// Load are the attachments whose interfaces are there; interfaces are the indexes by name. The others are forgotten, and so are files that cannot
// be read, of which damaged has an error each: their vifs stay locked until the script names them again.
func (s *Store) Load(interfaces func() (map[string]int, error)) (list []config.Attachment, damaged []error, err error) {
	err = s.locked(func() error {
		// After the lock is taken: whoever notes an attachment has looked at its interface before.
		indexes, err := interfaces()
		if err != nil {
			return err
		}
		entries, err := os.ReadDir(s.dir)
		if err != nil {
			return fmt.Errorf("listing the vifs that hotplug has named: %w", err)
		}
		for _, e := range entries {
			path := filepath.Join(s.dir, e.Name())
			a, err := s.read(path)
			switch {
			case !strings.HasSuffix(e.Name(), suffix) || errors.Is(err, errStale):
			case errors.Is(err, fs.ErrPermission):
				damaged = append(damaged, fmt.Errorf("what hotplug said of a vif may not be read: %w; give %s to the router's user", err, s.dir))
				continue
			case err != nil:
				damaged = append(damaged, fmt.Errorf("what hotplug said of a vif is lost: reading %s: %w", path, err))
			case indexes[a.Vif] != a.Index || a.Index == 0:
			default:
				list = append(list, a)
				continue
			}
			if err := os.RemoveAll(path); err != nil {
				damaged = append(damaged, fmt.Errorf("forgetting a vif: %w", err))
			}
		}
		return nil
	})
	slices.SortFunc(list, func(a, b config.Attachment) int { return a.Index - b.Index })
	return list, damaged, err
}
