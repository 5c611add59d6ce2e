package importer

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// iface is what all stanzas of an interface say together.
type iface struct {
	name     string
	addrs    []ifaceAddr
	gateways []ifaceGateway
	dynamic  *Note    // the stanza of a method that asks others for the address, such as dhcp
	ports    []string // of a bridge
	bridge   bool
	bridgeAt *Note // the line that makes it one
	mtu      int   // bytes; 0: not said
	notes    []*Note
}

// ifaceAddr is an address with the length of its prefix.
type ifaceAddr struct {
	prefix netip.Prefix // not masked
	note   *Note
	given  bool // the length is, too
}

type ifaceGateway struct {
	addr netip.Addr
	note *Note
}

// named is the interface of a name, made if there is none.
func (in *setup) named(name string) *iface {
	name, _, _ = strings.Cut(name, ":") // an alias is another address of the same interface
	for _, i := range in.interfaces {
		if i.name == name {
			return i
		}
	}
	i := &iface{name: name}
	in.interfaces = append(in.interfaces, i)
	return i
}

// maxIncludes bounds files that include each other.
const maxIncludes = 200

// ifReader reads interfaces(5) and what it includes.
type ifReader struct {
	*setup
	files int
}

// stanza is an `iface` that is being read.
type stanza struct {
	iface *iface
	v6    bool
	addr  int // of iface.addrs, the one that a netmask is about; -1: none
}

func (in *setup) readInterfaces(file string, src []byte) { (&ifReader{setup: in}).read(file, src) }

func (r *ifReader) read(file string, src []byte) {
	if r.files++; r.files > maxIncludes {
		if r.files == maxIncludes+1 {
			r.failf(file, 1, "more than %d files include each other: see their source lines", maxIncludes)
		}
		return
	}
	var st *stanza
	other := false // in a mapping
	for _, l := range lines(src) {
		words := strings.Fields(l.text)
		if len(words) == 0 || strings.HasPrefix(l.text, "#") {
			continue
		}
		note := r.enter(file, l.number, l.text)
		switch w := words[0]; {
		case w == "auto" || strings.HasPrefix(w, "allow-") || w == "no-auto-down" || w == "no-scripts" || w == "rename":
			st, other = nil, false
			if len(words) < 2 {
				r.failf(file, l.number, "%s names no interface", w)
				continue
			}
			note.stays("the interfaces that go are named below")
			for _, name := range words[1:] {
				r.named(name).notes = append(r.named(name).notes, note)
			}
		case w == "mapping":
			st, other = nil, true
		case w == "source" || w == "source-directory":
			st, other = nil, false
			if len(words) != 2 {
				r.failf(file, l.number, "%s takes one path", w)
				continue
			}
			note.stays("its files were read")
			r.include(note, w == "source-directory", words[1])
		case w == "iface":
			st, other = r.begin(note, words), false
		case st == nil && !other:
			r.failf(file, l.number, "%q stands in no iface stanza: is a line missing before it?", clean(w))
		case st != nil:
			rest := strings.TrimSpace(strings.TrimPrefix(l.text, w))
			r.option(st, note, w, rest)
		}
	}
}

func (r *ifReader) include(note *Note, dir bool, pattern string) {
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(filepath.Dir(note.File), pattern)
	}
	if dir {
		pattern = filepath.Join(pattern, "*")
	}
	names, err := filepath.Glob(pattern)
	if err != nil {
		r.failf(note.File, note.Line, "%q is no pattern of file names", clean(pattern))
		return
	}
	if len(names) == 0 {
		note.left("no such file here: give what it names with --interfaces, if it exists on the server")
	}
	for _, name := range names {
		if fi, err := os.Stat(name); err == nil && fi.IsDir() || dir && strings.ContainsAny(filepath.Base(name), ".~#") {
			continue // as ifup(8) does
		}
		src, err := readFile(name)
		if err != nil {
			r.failf(note.File, note.Line, "%v", err)
			continue
		}
		r.read(name, src)
	}
}

func (r *ifReader) begin(note *Note, words []string) *stanza {
	if len(words) < 2 {
		r.failf(note.File, note.Line, "iface names no interface")
		return nil
	}
	family, method := "inet", ""
	if len(words) >= 4 {
		family, method = words[2], words[3]
	} else if len(words) == 3 {
		r.failf(note.File, note.Line, "iface %s needs a family and a method, such as inet static", clean(words[1]))
	}
	if family != "inet" && family != "inet6" {
		note.left("only inet and inet6 are understood")
		return &stanza{iface: &iface{}, addr: -1}
	}
	i := r.named(words[1])
	i.notes = append(i.notes, note)
	if method == "dhcp" || method == "auto" || method == "ppp" {
		i.dynamic = note
	}
	note.stays("")
	return &stanza{iface: i, v6: family == "inet6", addr: -1}
}

func (r *ifReader) option(st *stanza, note *Note, key, value string) {
	i := st.iface
	i.notes = append(i.notes, note)
	note.stays("")
	if i.name == "" {
		note.left("it belongs to a stanza that is not understood")
		return
	}
	switch key {
	case "address":
		st.addr = -1
		p, given, err := addrOrPrefix(value)
		if err != nil || p.Addr().Is6() != st.v6 && given {
			r.failf(note.File, note.Line, "address %q is no address of this family", clean(value))
			return
		}
		i.addrs = append(i.addrs, ifaceAddr{p, note, given})
		st.addr = len(i.addrs) - 1
	case "netmask":
		bits, err := maskBits(value, st.v6)
		if err != nil {
			r.failf(note.File, note.Line, "netmask %q is neither a mask nor a length", clean(value))
		} else if st.addr < 0 || bits > i.addrs[st.addr].prefix.Addr().BitLen() {
			r.failf(note.File, note.Line, "netmask %s has no address before it that it fits", clean(value))
		} else {
			a := &i.addrs[st.addr]
			a.prefix, a.given = netip.PrefixFrom(a.prefix.Addr(), bits), true
		}
	case "gateway":
		a, err := netip.ParseAddr(value)
		if err != nil {
			r.failf(note.File, note.Line, "gateway %q is no address", clean(value))
			return
		}
		i.gateways = append(i.gateways, ifaceGateway{a.WithZone("").Unmap(), note})
	case "bridge_ports", "bridge-ports":
		i.bridge, i.bridgeAt = true, note
		for _, p := range strings.Fields(value) {
			if p != "none" && p != "regex" {
				i.ports = append(i.ports, p)
			}
		}
	case "mtu":
		n, err := strconv.Atoi(value)
		if err != nil || n < 68 || n > 65535 {
			r.failf(note.File, note.Line, "mtu %q is no number of bytes from 68 to 65535", clean(value))
			return
		}
		i.mtu = n
	case "up", "post-up", "pre-up", "down", "pre-down", "post-down":
		r.hook(note, i.name, strings.Contains(key, "down"), value)
	}
}

// hook reads the commands of an up or down line.
func (r *ifReader) hook(note *Note, dev string, down bool, value string) {
	value = strings.NewReplacer("$IFACE", dev, "${IFACE}", dev).Replace(value)
	list, err := commands(value)
	if err != nil {
		r.failf(note.File, note.Line, "%v", err)
		return
	}
	if down {
		r.undoes(note, list)
		return
	}
	r.shellLine(note, dev, &shell{}, list)
}

// undoes judges a down line by whether its commands are of those that up lines are read for.
func (r *ifReader) undoes(note *Note, list []shellCommand) {
	for _, c := range list {
		if !slices.Contains(knownCommands, filepath.Base(c.words[0])) {
			note.left("this command is not understood: see whether dom0 still needs it")
			return
		}
	}
	note.stays("it undoes an up line: treat it as that")
}

// addrOrPrefix reads an address with or without a length; without one it is a single address.
func addrOrPrefix(s string) (p netip.Prefix, given bool, err error) {
	if strings.Contains(s, "/") {
		a, bits, _ := strings.Cut(s, "/")
		addr, err := netip.ParseAddr(a)
		if err != nil {
			return p, false, err
		}
		n, err := maskBits(bits, addr.Is6())
		if err != nil {
			return p, false, err
		}
		return netip.PrefixFrom(addr.WithZone(""), n), true, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return p, false, err
	}
	return netip.PrefixFrom(a.WithZone(""), a.BitLen()), false, nil
}

// maskBits reads a length, or an IPv4 mask whose ones are all in front.
func maskBits(s string, v6 bool) (int, error) {
	most := 32
	if v6 {
		most = 128
	}
	if n, err := strconv.Atoi(s); err == nil {
		if n < 0 || n > most {
			return 0, fmt.Errorf("%d is not from 0 to %d", n, most)
		}
		return n, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Is4() == v6 || !a.Is4() {
		return 0, fmt.Errorf("%q is no mask", s)
	}
	b := a.As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	for n := range 33 {
		if v == uint32(uint64(0xffffffff)<<(32-n)) {
			return n, nil
		}
	}
	return 0, fmt.Errorf("%s is no mask", s)
}
