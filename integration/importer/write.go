package importer

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2/hclwrite"

	"udrouter/policy"
)

// writer collects the text of a router.hcl; its layout is put right at the end.
type writer struct {
	strings.Builder
	todos int
}

func (w *writer) line(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }

// comment writes a text as comments of at most commentWidth columns, if its words allow.
func (w *writer) comment(prefix, text string) {
	line := "#"
	for i, word := range strings.Fields(text) {
		if i > 0 && len(line)+1+len(word) > commentWidth {
			w.line("%s", line)
			line = "#  "
		}
		if i == 0 {
			line += prefix
		}
		line += " " + word
	}
	w.line("%s", line)
}

const commentWidth = 118

// quote writes a string as HCL has it.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "${", "$${", "%{", "%%{").Replace(clean(s)) + `"`
}

func quoted(list []string) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = quote(s)
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// orTODO is a value, or what has to be filled in.
func (w *writer) orTODO(value, what string) string {
	if value == "" {
		w.todos++
		value = todo + ": " + what
	}
	return quote(value)
}

// write is the whole file.
func (p *plan) write() []byte {
	w := &writer{}
	p.remarks()
	w.line("# Written by udrouter import. `udrouter check -c FILE` refuses it as long as a %s is in it; look at the rest as well.", todo)
	p.writeNotes(w)
	w.line("\nuplink %s {", w.orTODO(p.uplink, "the interface toward the provider"))
	for _, a := range []struct {
		key  string
		addr netip.Addr
	}{{"gateway4", p.gateway4}, {"gateway6", p.gateway6}, {"address4", p.address4}} {
		if a.addr.IsValid() {
			w.line("%s = %s", a.key, quote(a.addr.String()))
		}
	}
	w.line("}\n\nbridge %s {", w.orTODO(p.bridge, "the bridge that joins the guests' vifs"))
	if p.mtu > 0 {
		w.line("mtu = %d", p.mtu)
	}
	w.line("}")
	for _, n := range p.nets {
		n.write(w)
	}
	for _, gp := range p.policies {
		w.line("\npolicy %s {", quote(gp.name))
		gp.write(w)
		w.line("}")
	}
	for _, g := range p.guests {
		g.write(w, len(p.vifs) > 0)
	}
	if len(p.guests) == 0 {
		p.writeTemplate(w)
	}
	w.line("\nhost {")
	p.host.ingress.write(w, "ingress")
	if p.host.uplink != nil {
		p.host.uplink.write(w, "uplink")
	}
	w.line("}")
	p.todos = w.todos
	return hclwrite.Format([]byte(w.String()))
}

// remarks notes what concerns no line.
func (p *plan) remarks() {
	remark := func(format string, args ...any) { p.enter("", 0, "").left(format, args...) }
	for f, t := range p.tables {
		if name := []string{"iptables", "ip6tables"}[f]; t == nil && len(p.netsOf(f == 1)) > 0 {
			remark("no rules of %s were given (--%s): nobody opens connections of that family to guests, or from guests to dom0; what reaches dom0 by the uplink is left to dom0's own firewall", name, name)
		}
	}
	if len(p.nets) == 0 {
		remark("no network of guests was found: write network blocks with the prefixes that the provider has assigned, and the guests' gateways")
	}
	if len(p.guests) == 0 {
		remark("no guest was found, and nothing passes that no domu block binds: give the guests' files with --xl, or write a domu block for each")
	}
	if len(p.vifs) == 0 && len(p.guests) > 0 {
		remark("which addresses belong to one guest no file says: merge domu blocks of the same guest")
	}
}

// writeNotes lists what is not simply carried over. Lines that follow each other and have the same fate stand together.
func (p *plan) writeNotes(w *writer) {
	for _, part := range []struct {
		kinds []Kind
		title string
	}{
		{[]Kind{Left}, "Not carried over:"},
		{[]Kind{Carried}, "Carried over, with something to do or to know:"},
		{[]Kind{Needless}, "Not needed any more; take it out of the old files, but rules of one chain only all together:"},
		{[]Kind{Stays}, "Stays in the old files:"},
	} {
		list := Summary(p.listed(), part.kinds...)
		if len(list) == 0 {
			continue
		}
		w.line("#\n# %s", part.title)
		for _, l := range list {
			w.comment(" -", l)
		}
	}
}

// Summary is the notes of some kinds, a line each; neighbours that differ in the line number alone make one.
func Summary(notes []Note, kinds ...Kind) (out []string) {
	notes = slices.DeleteFunc(slices.Clone(notes), func(n Note) bool { return !slices.Contains(kinds, n.Kind) })
	for i := 0; i < len(notes); {
		n, j := notes[i], i+1
		for n.Kind != Left && n.Line > 0 && j < len(notes) && notes[j].File == n.File && notes[j].Why == n.Why && notes[j].Kind == n.Kind {
			j++
		}
		at := []string{}
		for _, m := range notes[i:j] {
			at = appendNew(at, strconv.Itoa(m.Line))
		}
		switch {
		case j == i+1:
			out = append(out, n.String())
		case len(at) == 1:
			out = append(out, fmt.Sprintf("%s: %s", n.place(), n.Why))
		default:
			out = append(out, fmt.Sprintf("%s, lines %s: %s", n.File, strings.Join(at, " "), n.Why))
		}
		i = j
	}
	return out
}

func (n *network) write(w *writer) {
	gateway := ""
	if n.gateway.IsValid() {
		gateway = n.gateway.String()
	}
	w.line("\n# %s", n.from.place())
	w.line("network %s {\nprefix = %s\ngateway = %s", quote(n.name), quote(n.prefix.String()), w.orTODO(gateway, "what guests have as their gateway"))
	if !n.proxied {
		w.line("upstream = \"routed\"\n}")
		return
	}
	w.line("upstream = \"proxied\"")
	v6 := n.prefix.Addr().Is6()
	learned := n.asked && !n.static
	if learned || v6 && n.router != nil || n.ttl > 0 || n.timeout > 0 {
		w.line("\nproxy {")
		if learned {
			w.line("answer = \"learned\" # as ndppd: for guests that are there")
		}
		if n.router != nil && v6 {
			w.line("router = %v", *n.router)
		}
		if n.ttl > 0 {
			w.line("ttl = %s", quote(short(min(n.ttl, 24*time.Hour))))
		}
		if n.timeout > 0 {
			w.line("timeout = %s", quote(short(min(n.timeout, 10*time.Second))))
		}
		w.line("}")
	}
	w.line("}")
}

// short is a duration without zero parts.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	return s
}

// write writes the block. With hotplug, a vif that no file names is left out.
func (g *guest) write(w *writer, hotplug bool) {
	at := g.from.File
	if g.from.Line > 0 {
		at = g.from.place()
	}
	mac := ""
	if !g.mac.IsZero() {
		mac = g.mac.String()
	}
	w.line("\n# %s", at)
	w.line("domu %s {", quote(g.name))
	if g.vif != "" || !hotplug {
		w.line("vif = %s", w.orTODO(g.vif, "the guest's vif; without this line, hotplug (script="+hotplugScript+" in Xen's file) finds it by the MAC"))
	}
	w.line("mac = %s", w.orTODO(mac, "the guest's MAC"))
	for f, key := range []string{"ipv4", "ipv6"} {
		var list []netip.Prefix
		for _, a := range g.addrs {
			if a.Addr().Is6() == (f == 1) {
				list = append(list, a)
			}
		}
		if len(list) > 0 {
			w.line("%s = %s", key, quoted(prefixStrings(list)))
		}
	}
	if g.policy != nil {
		w.line("policy = %s", quote(g.policy.name))
	}
	w.line("}")
}

// writeTemplate shows what a guest's block is like.
func (p *plan) writeTemplate(w *writer) {
	w.line("\n# domu \"one\" {\n#   vif  = \"vif1.0\"\n#   mac  = \"00:16:3e:00:00:01\"\n#   ipv4 = [\"...\"]\n#   ipv6 = [\"...\"]")
	for _, gp := range p.policies {
		w.line("#   policy = %s", quote(gp.name))
	}
	w.line("# }")
}

// text is what stands in the block.
func (gp *guestPolicy) text() string {
	w := &writer{}
	gp.write(w)
	return w.String()
}

func (gp *guestPolicy) write(w *writer) {
	gp.egress.write(w, "egress")
	gp.ingress.write(w, "ingress")
}

func (c *newChain) write(w *writer, block string) {
	w.line("%s {\ndefault = %s", block, quote(c.dflt.String()))
	taken := map[string]int{} // how often a name was wanted
	for _, r := range c.rules {
		name := r.title()
		for base := name; taken[name] > 0; {
			taken[base]++
			name = fmt.Sprintf("%s-%d", base, taken[base])
		}
		taken[name]++
		if r.says != "" {
			w.comment("", r.says)
		}
		if len(r.sources) > 0 {
			w.comment("", strings.Join(r.sources, ", "))
		}
		if r.todo != "" {
			w.todos++
			w.comment(" "+todo+":", r.todo)
		}
		w.line("rule %s {\naction = %s", quote(name), quote(r.action))
		if r.proto != policy.AnyProto {
			word := policy.ProtoName(r.proto)
			if _, named := policy.ParseProto(word); named {
				word = quote(word)
			}
			w.line("proto = %s", word)
		}
		if len(r.ports) > 0 {
			w.line("ports = [%s]", strings.Join(portStrings(r.ports, quote), ", "))
		}
		if r.from != nil {
			w.line("from = %s", quoted(r.from))
		}
		if r.to != nil {
			w.line("to = %s", quoted(r.to))
		}
		w.line("}")
	}
	w.line("}")
}

// portStrings are ports as numbers, and ranges as mark writes them.
func portStrings(list []policy.PortRange, mark func(string) string) (out []string) {
	for _, p := range list {
		s := strconv.Itoa(int(p.First))
		if p.Last != p.First {
			s = mark(fmt.Sprintf("%d-%d", p.First, p.Last))
		}
		out = append(out, s)
	}
	return out
}

// title is the comment that the rule had, or what it is about.
func (r *newRule) title() string {
	const most = 60
	name := clean(r.name)
	if name == "" {
		words := []string{}
		if r.proto != policy.AnyProto {
			words = append(words, policy.ProtoName(r.proto))
		}
		words = append(words, portStrings(r.ports, func(s string) string { return s })...)
		if len(words) == 0 && len(r.from) > 0 && !strings.HasSuffix(r.from[0], "/0") {
			words = append(words, "from", strings.TrimPrefix(r.from[0], "domu:"))
		}
		if len(words) == 0 && len(r.to) > 0 {
			words = append(words, "to", strings.TrimPrefix(r.to[0], "domu:"))
		}
		if len(words) == 0 {
			words = []string{"everything"}
		}
		name = strings.Join(words, "-")
	}
	if runes := []rune(name); len(runes) > most {
		name = strings.TrimSpace(string(runes[:most]))
	}
	return name
}
