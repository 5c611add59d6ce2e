package router

import (
	"net"
	"sync"
)

// How many connections to the control socket its group may have at a time, each user of it and all of them. Root, who is not limited, reloads, takes over and
// captures there: others wait or are refused, never root.
const (
	userConns  = 8
	groupConns = 64
)

// fairListener accepts root's connections and so many of other users. One that is too many is closed, so that who waits behind it does not.
type fairListener struct {
	net.Listener
	uid func(net.Conn) int // who has connected

	mu    sync.Mutex
	all   int
	users map[int]int // their connections; those who have none are not in it
}

func newFairListener(l net.Listener) *fairListener {
	return &fairListener{Listener: l, uid: peerUID, users: make(map[int]int)}
}

// Accept implements net.Listener.
func (l *fairListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		uid := l.uid(c)
		if uid == 0 {
			return c, nil // as it is: a takeover sends descriptors by it
		}
		if l.take(uid) {
			return &fairConn{Conn: c, uid: uid, leave: sync.OnceFunc(func() { l.give(uid) })}, nil
		}
		c.Close()
	}
}

func (l *fairListener) take(uid int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all == groupConns || l.users[uid] == userConns {
		return false
	}
	l.all++
	l.users[uid]++
	return true
}

func (l *fairListener) give(uid int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.users[uid]--; l.users[uid] == 0 {
		delete(l.users, uid)
	}
}

// fairConn is a connection of a user who is not root.
type fairConn struct {
	net.Conn
	uid   int
	leave func()
}

// Close implements net.Conn.
func (c *fairConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
