package importer

import (
	"net/netip"
	"path/filepath"
	"strings"
)

// Why lines of the old set-up go.
const (
	whyForwarding = "udrouter forwards, and dom0's kernel is not to: take it out, or set it to 0"
	whyProxy      = "udrouter answers for each address that a domu block binds"
	whyPromisc    = "udrouter's filter on the uplink admits what concerns the guests"
	whyRoute      = "udrouter adds the routes that lead dom0 to its guests, and takes them away"
)

// command reads a command of an up line, or of a script.
func (in *setup) command(note *Note, dev string, words []string) {
	for len(words) > 0 && (words[0] == "sudo" || words[0] == "exec" || strings.HasPrefix(words[0], "IFACE=")) {
		words = words[1:]
	}
	if len(words) == 0 {
		return
	}
	switch name := filepath.Base(words[0]); name {
	case "ip":
		in.ipCommand(note, dev, words[1:])
	case "sysctl":
		for _, w := range words[1:] {
			if key, value, ok := strings.Cut(w, "="); ok {
				in.sysctl(note, key, value)
			}
		}
	case "echo":
		in.echo(note, words[1:])
	case "true", ":":
		note.needless("it does nothing")
	case "ifconfig":
		if len(words) == 3 && words[2] == "promisc" {
			note.needless(whyPromisc)
		} else if len(words) == 3 && words[2] == "up" {
			note.stays("")
		}
	case "ethtool", "brctl", "modprobe", "sleep":
		note.stays("udrouter has no opinion on it; `udrouter doctor` says where a setting is in its way")
	case "iptables", "ip6tables":
		in.rule(note, words[1:], name == "ip6tables")
	case "iptables-restore", "ip6tables-restore":
		v6 := name == "ip6tables-restore"
		if in.restored[family(v6)] {
			note.stays("its rules were read from where they were given, and hold beside udrouter's as long as it is here")
		} else {
			note.left("the rules that it loads were not read: give their file with --%s", strings.TrimSuffix(name, "-restore"))
		}
	}
}

func family(v6 bool) int {
	if v6 {
		return 1
	}
	return 0
}

// ipCommand reads `ip [-4|-6] route|addr|neigh|link ...` (ip(8), whose words may be shortened).
func (in *setup) ipCommand(note *Note, dev string, words []string) {
	v6 := false
	for len(words) > 0 && strings.HasPrefix(words[0], "-") {
		v6 = v6 || words[0] == "-6"
		words = words[1:]
	}
	if len(words) < 2 {
		return
	}
	object, verb, rest := words[0], words[1], words[2:]
	is := func(word, full string) bool { return word != "" && strings.HasPrefix(full, word) }
	adds := is(verb, "add") || is(verb, "replace") || is(verb, "append")
	switch {
	case is(object, "route") && adds:
		in.routeCommand(note, dev, v6, rest)
	case is(object, "route") && is(verb, "delete"):
		note.needless(whyRoute)
	case (is(object, "neighbour") || is(object, "neighbor")) && (adds || is(verb, "delete")):
		in.neighCommand(note, dev, rest)
	case is(object, "address") && (adds || is(verb, "change")):
		in.addrCommand(note, dev, rest)
	case is(object, "link") && is(verb, "set"):
		for _, w := range rest {
			if w == "promisc" {
				note.needless(whyPromisc)
				return
			}
		}
		note.stays("")
	case is(object, "link") && adds && strings.Contains(strings.Join(rest, " "), "dummy"):
		note.needless("no interface has to hold the guests' gateways")
	}
}

// pairs reads words that take a word, such as `via ADDR dev NAME`; others go to rest.
func pairs(words []string, keys ...string) (values map[string]string, rest []string) {
	values = map[string]string{}
next:
	for i := 0; i < len(words); i++ {
		for _, k := range keys {
			if words[i] == k && i+1 < len(words) {
				values[k] = words[i+1]
				i++
				continue next
			}
		}
		rest = append(rest, words[i])
	}
	return values, rest
}

func (in *setup) routeCommand(note *Note, dev string, v6 bool, words []string) {
	v, rest := pairs(words, "via", "dev", "metric", "src", "proto", "scope", "table", "mtu", "advmss", "hoplimit", "pref")
	if d := v["dev"]; d != "" {
		dev = d
	}
	r := route{dev: dev, note: note}
	if s := v["via"]; s != "" {
		a, err := netip.ParseAddr(s)
		if err != nil {
			note.left("%q is no address: a gateway is written as one", clean(s))
			return
		}
		r.via = a.WithZone("").Unmap()
		v6 = v6 || r.via.Is6()
	}
	if len(rest) > 0 && rest[0] == "default" {
		r.dst = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if v6 {
			r.dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
	} else if len(rest) > 0 {
		p, _, err := addrOrPrefix(rest[0])
		if err != nil {
			note.left("%q is no destination of a route", clean(rest[0]))
			return
		}
		r.dst = p.Masked()
	} else {
		note.left("the route has no destination")
		return
	}
	if v["table"] != "" && v["table"] != "main" {
		note.left("udrouter goes by the main table of dom0's routes only")
		return
	}
	note.stays("")
	in.routes = append(in.routes, r)
}

func (in *setup) neighCommand(note *Note, dev string, words []string) {
	v, rest := pairs(words, "dev", "proxy", "to", "lladdr", "nud")
	if v["proxy"] == "" {
		note.left("an entry for a neighbour: see whether dom0 still needs it (%s)", clean(strings.Join(rest, " ")))
		return
	}
	a, err := netip.ParseAddr(v["proxy"])
	if err != nil {
		note.left("%q is no address", clean(v["proxy"]))
		return
	}
	if v["dev"] != "" {
		dev = v["dev"]
	}
	note.needless(whyProxy)
	in.proxies = append(in.proxies, proxied{a.WithZone(""), dev, note})
}

func (in *setup) addrCommand(note *Note, dev string, words []string) {
	v, rest := pairs(words, "dev", "broadcast", "brd", "label", "scope", "valid_lft", "preferred_lft")
	if v["dev"] != "" {
		dev = v["dev"]
	}
	if len(rest) == 0 {
		return
	}
	p, _, err := addrOrPrefix(rest[0])
	if err != nil {
		note.left("%q is no address", clean(rest[0]))
		return
	}
	i := in.named(dev)
	note.stays("")
	i.notes = append(i.notes, note)
	i.addrs = append(i.addrs, ifaceAddr{p, note, true})
}

// sysctl judges a setting; keys may be written with dots or slashes.
func (in *setup) sysctl(note *Note, key, value string) {
	key = strings.ReplaceAll(strings.Trim(key, `"' `), "/", ".")
	on := strings.Trim(value, `"' `) != "0"
	switch {
	case strings.HasSuffix(key, "forwarding") || strings.HasSuffix(key, "ip_forward"):
		note.needless(whyForwarding)
	case strings.HasSuffix(key, ".proxy_ndp"):
		note.needless(whyProxy)
	case strings.HasSuffix(key, ".proxy_arp"):
		note.needless(whyProxy)
		in.proxyARP = in.proxyARP || on
	case strings.Contains(key, ".rp_filter") || strings.Contains(key, "bridge-nf-call") || strings.Contains(key, "send_redirects"):
		note.needless("guests' packets do not go through dom0's kernel")
	default:
		note.stays("udrouter has no opinion on it")
	}
}

// echo reads `echo 1 > /proc/sys/...`.
func (in *setup) echo(note *Note, words []string) {
	line := strings.Join(words, " ")
	value, path, ok := strings.Cut(line, ">")
	path, isSysctl := strings.CutPrefix(strings.TrimSpace(path), "/proc/sys/")
	switch {
	case ok && isSysctl:
		in.sysctl(note, path, strings.TrimSpace(value))
	case !ok:
		note.needless("it only says something")
	}
}
