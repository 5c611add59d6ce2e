// Package xentest stands in for Xen's xenstore in tests: a key's value is a file, its path that of the key below $XENSTORE, and what has no file is not there.
package xentest

import (
	"errors"
	"os"
	"path/filepath"
)

// WriteTools makes the programs of Xen's tools that a hotplug script calls, in a directory.
func WriteTools(dir string) error {
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "xenstore-read"), []byte("#!/bin/sh\nfor k; do cat \"$XENSTORE/${k#/}\" || exit 1; echo; done\n"), 0o755),
		os.WriteFile(filepath.Join(dir, "xenstore-write"), []byte("#!/bin/sh\n"+
			"while [ $# -gt 0 ]; do mkdir -p \"$(dirname \"$XENSTORE/${1#/}\")\"; printf %s \"$2\" >\"$XENSTORE/${1#/}\"; shift 2; done\n"), 0o755))
}
