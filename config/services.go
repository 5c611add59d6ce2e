package config

import (
	"fmt"
	"net/netip"
	"path"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

func (d *decoder) decodeControl(raw *rawControl) {
	if raw == nil {
		return
	}
	c := &d.cfg.Control
	const takes = `an absolute path in quotes, such as "/run/udrouter/control.sock"`
	v := d.scalar(raw.Socket, takes)
	if s, ok := d.str(v, takes); ok && d.socket(s, v.at) {
		c.Socket = s
	}
	const takesGroup = "the name of a group in quotes"
	v = d.scalar(raw.Group, takesGroup)
	if s, ok := d.str(v, takesGroup); ok {
		if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r == ':' || r == ',' || r == ' ' || !printable(r) }) {
			d.errorf(v.at, "No name of a group", "%q cannot name one. `getent group` lists those there are.", excerpt(s))
			return
		}
		c.Group = s
	}
}

// socket reports what cannot be the path of a Unix socket.
func (d *decoder) socket(s string, at hcl.Range) bool {
	switch {
	case !path.IsAbs(s):
		d.errorf(at, "Path is not absolute", "%q depends on where udrouter is started. Begin it with a slash.", excerpt(s))
	case len(s) > maxSocket:
		d.errorf(at, "Path is too long for a socket", "It has %d bytes; Linux allows %d.", len(s), maxSocket)
	case strings.HasSuffix(s, "/") || path.Base(s) == "." || path.Base(s) == "..":
		d.errorf(at, "Path is a directory", "Name the socket in it: %q.", path.Join(s, "udrouter.sock"))
	case strings.ContainsFunc(s, func(r rune) bool { return !printable(r) }):
		d.errorf(at, "Character not allowed in a path", "The path has a character that is not printable. Take it out.")
	default:
		return true
	}
	return false
}

func (d *decoder) decodeMetrics(raw *rawMetrics) {
	if raw == nil {
		return
	}
	const takes = `"127.0.0.1:9469", "[::1]:9469" or "unix:/path"`
	if !d.require(raw.Listen, raw.At, "listen", takes) {
		return
	}
	v := d.scalar(raw.Listen, takes)
	s, ok := d.str(v, takes)
	if !ok {
		return
	}
	if p, unix := strings.CutPrefix(s, "unix:"); unix {
		if d.socket(p, v.at) {
			if p == d.cfg.Control.Socket {
				d.errorf(v.at, "Metrics on the control socket", "%s is the control socket. Choose another path.", p)
				return
			}
			d.cfg.Metrics = &Metrics{Listen: s}
		}
		return
	}
	ap, err := netip.ParseAddrPort(s)
	switch {
	case err != nil:
		d.errorf(v.at, "Malformed address to listen on", "%q is none: listen takes %s.%s", excerpt(s), takes, listenHint(s))
	case ap.Port() == 0:
		d.errorf(v.at, "Number out of range", "A scraper needs to know the port: write one from 1 to 65535.")
	case !ap.Addr().IsLoopback() || ap.Addr().Is4In6() || ap.Addr().Zone() != "":
		d.errorf(v.at, "Metrics are offered on loopback only", "They name every guest and are sent to whoever asks, without a password. Listen on 127.0.0.1, [::1] or a socket, and put a proxy that authenticates in front for others.")
	default:
		d.cfg.Metrics = &Metrics{Listen: s}
	}
}

func listenHint(s string) string {
	host, port, _ := strings.Cut(s, ":")
	switch {
	case host == "localhost" && isDigits(port):
		return fmt.Sprintf(" Write %q.", "127.0.0.1:"+port)
	case host == "" && isDigits(port):
		return fmt.Sprintf(" Without an address it would be all of them. Write %q.", "127.0.0.1:"+port)
	case strings.HasPrefix(s, "/"):
		return fmt.Sprintf(" For a socket write %q.", "unix:"+excerpt(s))
	}
	return ""
}

func (d *decoder) decodeLog(raw *rawLog) {
	if raw == nil {
		return
	}
	d.cfg.Log.Level = d.sameWord(raw.Level, d.cfg.Log.Level, "debug", "info", "warn", "error")
	d.cfg.Log.Format = d.sameWord(raw.Format, d.cfg.Log.Format, "text", "json")
}

// sameWord is one of the words, each of which means itself.
func (d *decoder) sameWord(a *hcl.Attribute, dflt string, words ...string) string {
	choices := make([]choice[string], len(words))
	for i, w := range words {
		choices[i] = choice[string]{w, w}
	}
	w, _ := oneWord(d.reporter, a, dflt, choices...)
	return w
}
