package router

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
)

// chgrp lets a group use a file; "" leaves it.
func chgrp(path, group string) error {
	if group == "" {
		return nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return fmt.Errorf("looking up control.group: %w", err)
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return fmt.Errorf("reading the id of group %s: %w", group, err)
	}
	err = os.Chown(path, -1, gid)
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("giving %s to group %s: %w: a router that is not root has to be in it (in systemd's unit: SupplementaryGroups=%s)", path, group, err, group)
	}
	if err != nil {
		return fmt.Errorf("giving %s to group %s: %w", path, group, err)
	}
	return nil
}
