package router

import (
	"net"

	"golang.org/x/sys/unix"
)

// peerUID is the user who has connected to a Unix socket (SO_PEERCRED of unix(7)), as the kernel noted it then; -1 where it is not known.
func peerUID(c net.Conn) int {
	if f, ok := c.(*fairConn); ok {
		return f.uid
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return -1
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return -1
	}
	uid := -1
	if err := raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			uid = int(cred.Uid)
		}
	}); err != nil {
		return -1
	}
	return uid
}
