package importer

import (
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"udrouter/policy"
)

// xlVif is a virtual interface of a guest.
type xlVif struct {
	guest  string // its name
	vif    string // vifname; "": it depends on the domain's number
	bridge string
	mac    policy.MAC // zero: xl makes one up
	addrs  []netip.Addr
	script string   // its base name; "": Xen's default
	says   []string // what there is to do or to know about it
	note   *Note
}

// readXL reads what xl.cfg(5) says of a guest's name and network: `name = "..."` and `vif = ['KEY=VALUE,...', ...]`.
func (in *setup) readXL(file string, src []byte) {
	name := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
	var vifs []*xlVif
	var list strings.Builder // the rest of a vif list that goes on
	start := 0
	in.enter(file, 0, "").stays("what it says of other things than name and vif is Xen's")
	for i, l := range strings.Split(string(src), "\n") {
		l = withoutComment(l)
		if start == 0 {
			key, value, ok := strings.Cut(l, "=")
			switch key = strings.TrimSpace(key); {
			case ok && key == "name":
				name = strings.Trim(strings.TrimSpace(value), `"';`)
				in.enter(file, i+1, l).carried()
				continue
			case ok && key == "vif":
				start, l = i+1, value
			default:
				continue
			}
		}
		list.WriteString(l + "\n")
		if !strings.Contains(l, "]") {
			continue
		}
		vifs = append(vifs, in.xlVifs(file, start, list.String())...)
		list.Reset()
		start = 0
	}
	if start > 0 {
		in.failf(file, start, "the list of vif is not closed by a ]")
	}
	for _, v := range vifs {
		v.guest = name
	}
	in.vifs = append(in.vifs, vifs...)
	if len(vifs) == 0 && start == 0 {
		in.enter(file, 0, "").left("the guest has no vif, or none in a list such as vif = ['mac=00:16:3e:00:00:01,bridge=xenbr0']")
	}
}

// withoutComment cuts a comment off, but not a # in quotes.
func withoutComment(l string) string {
	var quote rune
	for i, c := range l {
		switch {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '\'' || c == '"':
			quote = c
		case c == '#':
			return l[:i]
		}
	}
	return l
}

// xlVifs are the elements of a list that begins in the line start.
func (in *setup) xlVifs(file string, start int, list string) (vifs []*xlVif) {
	for number, line := start, list; line != ""; number++ {
		var l string
		l, line, _ = strings.Cut(line, "\n")
		for l != "" {
			i := strings.IndexAny(l, `'"`)
			if i < 0 {
				break
			}
			spec, rest, closed := strings.Cut(l[i+1:], l[i:i+1])
			if !closed {
				in.failf(file, number, "a quotation mark (%s) is not closed", l[i:i+1])
				return vifs
			}
			note := in.enter(file, number, spec)
			note.carried()
			vifs = append(vifs, in.xlSpec(note, spec))
			l = rest
		}
	}
	return vifs
}

func (in *setup) xlSpec(note *Note, spec string) *xlVif {
	v := &xlVif{note: note}
	for field := range strings.SplitSeq(spec, ",") {
		key, value, ok := strings.Cut(strings.TrimSpace(field), "=")
		if !ok && strings.Count(key, ":") == 5 {
			key, value = "mac", key // the old way to write it
		}
		switch value = strings.TrimSpace(value); strings.TrimSpace(key) {
		case "mac":
			m, err := policy.ParseMAC(value)
			if err != nil || m.IsZero() || m.IsGroup() {
				in.failf(note.File, note.Line, "mac %q is no station's MAC address", clean(value))
				continue
			}
			v.mac = m
		case "bridge":
			v.bridge = value
		case "vifname":
			v.vif = value
		case "ip":
			for word := range strings.FieldsSeq(value) {
				p, _, err := addrOrPrefix(word)
				if err != nil {
					in.failf(note.File, note.Line, "ip %q is no address", clean(word))
					continue
				}
				if !slices.Contains(v.addrs, p.Addr()) {
					v.addrs = append(v.addrs, p.Addr())
				}
			}
		case "rate":
			v.says = append(v.says, "its rate is still Xen's to enforce; a policy's limits { bandwidth } would be udrouter's")
		case "script":
			v.script = filepath.Base(value)
		}
	}
	return v
}

// conclude notes what there is to do about it. Without a name of its own, a vif has another number at each start, and hotplug tells whose it is.
func (v *xlVif) conclude() {
	switch {
	case v.script == hotplugScript:
	case v.vif == "":
		v.says = append(v.says, "the domu block leaves vif out, since its number is another at each start: put script="+hotplugScript+" here, which tells the router (README, Xen)")
	case v.script != "" && v.script != "vif-bridge":
		v.says = append(v.says, "its script "+clean(v.script)+" is not needed any more: "+hotplugScript+" or vif-bridge joins the vif to the bridge")
	}
	if v.mac.IsZero() {
		v.says = append(v.says, "it has no mac=, and xl makes one up at each start: put the one that the domu block has here")
	}
	if len(v.addrs) == 0 {
		v.says = append(v.says, "it has no ip=: put the guest's addresses into its domu block")
	}
	v.note.is(v.note.Kind, strings.Join(v.says, "; "))
}

// hotplugScript is ours for Xen's toolstack.
const hotplugScript = "vif-udrouter"
