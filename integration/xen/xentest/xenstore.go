// Package xentest stands in for Xen's xenstore in tests: a key's value is a file, its path that of the key below $XENSTORE, and what has no file is not there.
package xentest

import (
	"errors"
	"os"
	"path/filepath"
)

// getopt is what the real programs do with their arguments: what begins with a dash is an option, wherever it stands, but after a --.
const getopt = `if [ "$1" = -- ]; then shift; else for a; do case $a in -*) echo "unknown option $a" >&2; exit 1 ;; esac; done; fi
`

// WriteTools makes the programs of Xen's tools that a hotplug script calls, in a directory.
func WriteTools(dir string) error {
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "xenstore-read"), []byte("#!/bin/sh\n"+getopt+"for k; do cat \"$XENSTORE/${k#/}\" || exit 1; echo; done\n"), 0o755),
		os.WriteFile(filepath.Join(dir, "xenstore-write"), []byte("#!/bin/sh\n"+getopt+
			"while [ $# -gt 0 ]; do mkdir -p \"$(dirname \"$XENSTORE/${1#/}\")\"; printf %s \"$2\" >\"$XENSTORE/${1#/}\"; shift 2; done\n"), 0o755))
}
