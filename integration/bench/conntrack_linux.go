package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// conntrackDir has the machine's settings, which hold for all namespaces and can be set in the first alone.
const conntrackDir = "/proc/sys/net/netfilter/"

// raiseConntrack lets the kernel track as many connections as the measures open; a full table would turn away new ones. restore
// puts back what there was. Where the machine does not let it, nothing changes.
func raiseConntrack(entries, buckets int) (restore func() error, err error) {
	var undo []func() error
	restore = func() error {
		var errs []error
		for _, f := range undo {
			errs = append(errs, f())
		}
		return errors.Join(errs...)
	}
	for _, s := range []struct {
		file  string
		least int
	}{{"nf_conntrack_buckets", buckets}, {"nf_conntrack_max", entries}} {
		path := conntrackDir + s.file
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return restore, err
		}
		old := strings.TrimSpace(string(text))
		n, err := strconv.Atoi(old)
		if err != nil {
			return restore, fmt.Errorf("reading %s: %w", path, err)
		}
		if n >= s.least {
			continue
		}
		err = os.WriteFile(path, []byte(strconv.Itoa(s.least)), 0)
		if errors.Is(err, fs.ErrPermission) {
			continue
		}
		if err != nil {
			return restore, err
		}
		undo = append(undo, func() error { return os.WriteFile(path, []byte(old), 0) })
	}
	return restore, nil
}
