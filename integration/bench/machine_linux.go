package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// setting is a bound of the machine's kernel, which holds for all its namespaces together and is set in the first alone.
type setting struct {
	path  string // in /proc/sys/net
	least int
}

// With many hosts on one machine its table of neighbours is full; with many connections that of conntrack, which then turns new ones
// away. How many places its hash has is left alone but where a million flows would make the lists long.
var (
	moreNeighbours = []setting{{"ipv4/neigh/default/gc_thresh3", 1 << 16}, {"ipv6/neigh/default/gc_thresh3", 1 << 16},
		{"ipv4/neigh/default/gc_thresh2", 1 << 15}, {"ipv6/neigh/default/gc_thresh2", 1 << 15}}
	moreConnections = []setting{{"netfilter/nf_conntrack_max", 1 << 21}}
	moreBuckets     = []setting{{"netfilter/nf_conntrack_buckets", 1 << 20}}
)

// machine remembers what of the machine's settings was changed.
type machine struct{ undo []func() error }

// raise makes settings no less than they have to be. One that is not there, or not ours to change, is left.
func (m *machine) raise(list []setting) error {
	for _, s := range list {
		path := filepath.Join("/proc/sys/net", s.path)
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		old := strings.TrimSpace(string(text))
		n, err := strconv.Atoi(old)
		if err != nil {
			return fmt.Errorf("reading %s: %w", path, err)
		}
		if n >= s.least {
			continue
		}
		err = os.WriteFile(path, []byte(strconv.Itoa(s.least)), 0)
		if errors.Is(err, fs.ErrPermission) {
			continue
		}
		if err != nil {
			return err
		}
		m.undo = append(m.undo, func() error { return os.WriteFile(path, []byte(old), 0) })
	}
	return nil
}

// restore puts everything back. It may be called twice.
func (m *machine) restore() error {
	var errs []error
	for _, f := range m.undo {
		errs = append(errs, f())
	}
	m.undo = nil
	return errors.Join(errs...)
}
