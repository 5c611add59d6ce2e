package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"udrouter/policy"
)

// Attachment is a guest's port of the bridge that hotplug has named, and what the domain's own configuration says of it. Its texts are as they
// came; Attach judges them.
type Attachment struct {
	Vif string `json:"vif"`
	// Index is the interface's own. Kernels number interfaces in the order in which they appear, so that it tells a vif from an earlier one
	// of the same name, and the port of a domain that has started anew from the one that it had before.
	Index  int    `json:"index"`
	Domain string `json:"domain,omitempty"`
	// Guest is who the domain is, in a word of the toolstack's such as its UUID. A name is chosen, and two may have one; where the word is another,
	// so is the domain.
	Guest     string   `json:"guest,omitempty"`
	Device    int      `json:"device,omitempty"` // which of the domain's interfaces it is, from 0
	MAC       string   `json:"mac"`
	Addresses []string `json:"addresses,omitempty"` // addresses and prefixes
	Instance  string   `json:"instance,omitempty"`  // a word of the script's for this life of the device; "": none
	// Refused has it rank behind all others for as long as its interface is there: what it was refused would else be its own as soon as the guest that
	// has it starts anew, which is younger then.
	Refused bool `json:"refused,omitempty"`
}

// AttachState is what becomes of an Attachment.
type AttachState string

const (
	AttachBound    AttachState = "bound"    // it is a guest's port
	AttachWaiting  AttachState = "waiting"  // the guest's emulated card is its port, as long as there is one
	AttachReplaced AttachState = "replaced" // a younger one has taken its place
	AttachRefused  AttachState = "refused"  // it passes nothing
)

// Attached is an Attachment and what became of it.
type Attached struct {
	Attachment
	State AttachState `json:"state"`
	Domu  string      `json:"domu,omitempty"` // the guest's name, if it is or waits to be one's port
	By    string      `json:"by,omitempty"`   // file:line of the domu block that binds it
	Text  string      `json:"text,omitempty"` // why it is not bound, or what else there is to know; a sentence or more
}

// emulated ends the name of a port of an emulated card, which Xen makes beside the vif of the same guest.
const emulated = "-emu"

// Attach binds what hotplug has named to the file's guests, and makes guests of its templates. The result depends on the file and on what is in the list, not
// on its order: of attachments of one name, and of one device of one domain, the youngest counts, and of others that want the same the
// oldest, of those that were never refused before the others; what the file says comes before both. In the Config that it returns, nothing belongs to two. c stays as it is; where it is a result of
// Attach itself, its Base is what the list is attached to.
func (c *Config) Attach(list []Attachment) *Config {
	if c.Base != nil {
		c = c.Base
	}
	a := newAttacher(c)
	a.cfg.Base, a.cfg.Attached = c, make([]Attached, len(list))
	order := make([]*Attached, len(list))
	for i, at := range list {
		a.cfg.Attached[i] = Attached{Attachment: at}
		order[i] = &a.cfg.Attached[i]
	}
	slices.SortFunc(order, func(x, y *Attached) int { return x.Attachment.compare(&y.Attachment) })
	current := a.current(order)
	for _, behind := range []bool{false, true} {
		for _, at := range current {
			if at.Refused == behind {
				a.attach(at)
			}
		}
	}
	return a.cfg
}

// Equal tells whether two attachments say the same. That one was refused since changes nothing by itself.
func (a Attachment) Equal(b Attachment) bool { return a.compare(&b) == 0 && a.Instance == b.Instance }

// compare puts older ones first. The rest makes the order total.
func (a *Attachment) compare(b *Attachment) int {
	return cmp.Or(cmp.Compare(a.Index, b.Index), cmp.Compare(a.Vif, b.Vif), cmp.Compare(a.Domain, b.Domain), cmp.Compare(a.Guest, b.Guest), cmp.Compare(a.Device, b.Device),
		cmp.Compare(a.MAC, b.MAC), slices.Compare(a.Addresses, b.Addresses))
}

// device is whose port an attachment is, by which one replaces another.
func (a *Attachment) device() string {
	switch {
	case a.Guest != "":
		return fmt.Sprintf("guest %s/%d", a.Guest, a.Device)
	case a.Domain != "":
		return fmt.Sprintf("domain %s/%d", a.Domain, a.Device)
	}
	return strings.ToLower(a.MAC)
}

// current are those of the list that nothing has replaced, in its order.
func (a *attacher) current(list []*Attached) (out []*Attached) {
	byName := make(map[string]*Attached, len(list))
	for _, at := range list {
		byName[at.Vif] = at
	}
	// The youngest of a device, and an emulated card only where there is no other port.
	youngest := make(map[string]*Attached, len(list))
	for _, at := range list {
		k := at.device()
		if y := youngest[k]; byName[at.Vif] == at && (y == nil || strings.HasSuffix(y.Vif, emulated) || !strings.HasSuffix(at.Vif, emulated)) {
			youngest[k] = at
		}
	}
	for _, at := range list {
		if byName[at.Vif] != at {
			at.State, at.Text = AttachReplaced, "Another interface has its name now."
			continue
		}
		y := youngest[at.device()]
		emu := byName[y.Vif+emulated]
		if emu != nil && emu.device() != y.device() {
			emu = nil
		}
		switch {
		case at == y && emu != nil:
			at.State, at.Text = AttachWaiting, fmt.Sprintf("The guest has an emulated card, %s; this port follows when that is gone.", emu.Vif)
			at.Domu = a.nameOf(at)
		case at == y && emu == nil, at == emu:
			out = append(out, at)
		default:
			at.State, at.Text = AttachReplaced, fmt.Sprintf("%s is the younger port of the same guest.", cmp.Or(emu, y).Vif)
		}
	}
	return out
}

// attacher judges attachments one after the other, as decoder does a file's guests.
type attacher struct {
	*decoder
	cfg    *Config // the result
	byMAC  map[policy.MAC]int
	byVif  map[string]*Domu // what the file names
	byName map[string]string
	taken  map[policy.MAC]string // vif that a guest of the file got by its MAC
}

// newAttacher makes what the validation of a file has left, again from its values.
func newAttacher(c *Config) *attacher {
	cfg := *c
	cfg.Domus = slices.Clone(c.Domus)
	a := &attacher{decoder: &decoder{reporter: &reporter{}, cfg: c}, cfg: &cfg,
		byMAC: make(map[policy.MAC]int), byVif: make(map[string]*Domu), byName: make(map[string]string), taken: make(map[policy.MAC]string)}
	d := a.decoder
	at := hclRange(c.Uplink.Range)
	d.uplink = uplinkAt{at, at, at, at, at}
	at = hclRange(c.Bridge.Range)
	d.bridge = bridgeAt{at, at, at, at, at}
	if c.Host != nil {
		d.hostIfAt = hclRange(c.Host.Range)
	}
	for i := range c.Networks {
		n := &c.Networks[i]
		d.networks = append(d.networks, networkAt{Network: n, prefix: hclRange(n.Range), gateway: hclRange(n.Range)})
		d.byPrefix.Insert(n.Prefix, i)
	}
	for i := range c.Domus {
		g := &c.Domus[i]
		a.byMAC[g.MAC], a.byName[g.Name] = i, g.Range.String()
		if g.Vif != "" {
			a.byVif[g.Vif] = g
		}
		d.domus = append(d.domus, placed(g))
	}
	for _, t := range c.Templates {
		a.byName[t.Name] = t.Range.String()
	}
	d.claimOwn()
	d.deriveLinkLocals()
	for i := range d.domus {
		d.claimInterface(&d.domus[i])
		d.claimMAC(&d.domus[i])
		d.claimAddrs(&d.domus[i])
	}
	return a
}

// placed is a guest whose every value stands where its block does.
func placed(g *Domu) domuAt {
	at := hclRange(g.Range)
	p := domuAt{Domu: g, vif: at, mac: at, policy: at}
	for _, addr := range slices.Concat(g.IPv4, g.IPv6) {
		p.addrs = append(p.addrs, addrAt{addr, at})
	}
	return p
}

func hclRange(r Range) hcl.Range {
	start := hcl.Pos{Line: r.Line, Column: r.Column}
	return hcl.Range{Filename: r.File, Start: start, End: hcl.Pos{Line: r.Line, Column: r.Column + 1, Byte: 1}}
}

// said takes what was reported out of the reporter.
func (a *attacher) said() string {
	var texts []string
	for _, d := range a.diags {
		texts = append(texts, d.Summary+": "+d.Detail)
	}
	a.diags, a.more = nil, 0
	return strings.Join(texts, " ")
}

func (at *Attached) refuse(format string, args ...any) {
	at.State, at.Domu, at.Text = AttachRefused, "", fmt.Sprintf(format, args...)
}

// attach binds one, or says why not.
func (a *attacher) attach(at *Attached) {
	const takes = `six hexadecimal octets, such as "00:16:3e:00:00:01"`
	where := hclRange(Range{File: cmp.Or(at.Vif, "vif")})
	mac, _ := a.parseMAC(at.MAC, where, "mac", takes)
	a.ifname(at.Vif, where)
	addrs := a.addresses(at, where)
	if wrong := a.said(); wrong != "" {
		at.refuse("%s", wrong)
		return
	}
	if i, ok := a.byMAC[mac]; ok {
		a.attachToBlock(at, &a.cfg.Domus[i], addrs)
		return
	}
	a.attachToTemplate(at, mac, addrs, where)
}

func (a *attacher) addresses(at *Attached, where hcl.Range) (addrs []netip.Prefix) {
	for _, s := range at.Addresses {
		if p, ok := a.guestAddr(s, where); ok {
			addrs = append(addrs, p)
		}
	}
	return addrs
}

// attachToBlock gives a port to a guest of the file, which has the MAC.
func (a *attacher) attachToBlock(at *Attached, g *Domu, addrs []netip.Prefix) {
	own := a.cfg.Domus[a.byMAC[g.MAC]].Vif
	switch other := a.byVif[at.Vif]; {
	case other != nil && other.MAC != g.MAC:
		at.refuse("The file has %s as the vif of domu %q (%s), whose MAC is %s. This one's, %s, is domu %q's (%s). Leave vif out of the file where hotplug names it.",
			at.Vif, other.Name, other.Range, other.MAC, g.MAC, g.Name, g.Range)
		return
	case a.taken[g.MAC] != "":
		at.refuse("%s is the MAC of domu %q (%s), whose port is %s of another domain. Give this one another.", g.MAC, g.Name, g.Range, a.taken[g.MAC])
		return
	case own != "" && own != at.Vif:
		at.refuse("%s is the MAC of domu %q (%s), which has vif = %q in the file. Leave vif out there, or have this interface named so (vifname in the domain's configuration).", g.MAC, g.Name, g.Range, own)
		return
	}
	if own == "" {
		named := *g
		named.Vif = at.Vif
		p := placed(&named)
		if a.claimInterface(&p); len(a.diags) > 0 {
			at.refuse("%s", a.said())
			return
		}
		g.Vif, g.Index = at.Vif, at.Index
	}
	a.taken[g.MAC] = at.Vif
	at.State, at.Domu, at.By = AttachBound, g.Name, g.Range.String()
	var foreign []string
	for _, p := range addrs {
		if !slices.ContainsFunc(slices.Concat(g.IPv4, g.IPv6), func(q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) }) {
			foreign = append(foreign, show(p))
		}
	}
	if len(foreign) > 0 {
		at.Text = fmt.Sprintf("The domain's configuration has %s, which the file does not give to domu %q (%s): it does not pass.", all(foreign), g.Name, g.Range)
	}
}

// nameOf is what a guest is called whom a template binds.
func (a *attacher) nameOf(at *Attached) string {
	if mac, err := policy.ParseMAC(at.MAC); err == nil {
		if i, ok := a.byMAC[mac]; ok {
			return a.cfg.Domus[i].Name
		}
	}
	if at.Device == 0 {
		return at.Domain
	}
	return fmt.Sprintf("%s.%d", at.Domain, at.Device)
}

// attachToTemplate makes a guest.
func (a *attacher) attachToTemplate(at *Attached, mac policy.MAC, addrs []netip.Prefix, where hcl.Range) {
	if other := a.byVif[at.Vif]; other != nil {
		at.refuse("The file has %s as the vif of domu %q (%s), whose MAC is %s and not %s. Leave vif out of the file where hotplug names it.", at.Vif, other.Name, other.Range, other.MAC, mac)
		return
	}
	i := slices.IndexFunc(a.cfg.Templates, func(t Template) bool { return at.Domain != "" && t.Matches(at.Domain) })
	if i < 0 {
		at.refuse("No domu block has the MAC %s, and none with match is for domain %q. Add one to the file.", mac, at.Domain)
		return
	}
	t := &a.cfg.Templates[i]
	g := Domu{Name: a.nameOf(at), Vif: at.Vif, Index: at.Index, MAC: mac, Policy: t.Policy, Template: t.Name, Range: t.Range}
	var names names
	a.name("domu", g.Name, where, &names)
	if place, dup := a.byName[g.Name]; dup {
		a.errorf(where, "Name used twice", "A guest of the name %q is there already, bound by %s. Give the domain another name, or its block the MAC %s.", excerpt(g.Name), place, mac)
	}
	for _, p := range addrs {
		a.checkTemplate(t, p, where)
		if p.Addr().Is4() {
			g.IPv4 = append(g.IPv4, p)
		} else {
			g.IPv6 = append(g.IPv6, p)
		}
	}
	if len(addrs) > t.Addresses {
		a.errorf(where, "Too many addresses", "The domain's configuration has %d, and domu %q allows %d. Raise addresses there (%s), or name fewer.", len(addrs), t.Name, t.Addresses, t.Range)
	}
	a.claim(&g)
	if wrong := a.said(); wrong != "" {
		at.refuse("%s", wrong)
		return
	}
	a.byName[g.Name] = t.Range.String()
	a.cfg.Domus = append(a.cfg.Domus, g)
	at.State, at.Domu, at.By = AttachBound, g.Name, t.Range.String()
	if len(addrs) == 0 {
		at.Text = "It has no address, so nothing but ARP and discovery passes: name its addresses in the domain's configuration (ip)."
	}
}

// checkTemplate judges an address by what a template allows.
func (a *attacher) checkTemplate(t *Template, p netip.Prefix, where hcl.Range) {
	if n := a.cfg.NetworkOf(p.Addr()); n != nil && !t.Allows(n) {
		a.errorf(where, "Network is not the template's", "%s is of network %q; domu %q allows %s (%s).", show(p), n.Name, t.Name, all(t.Networks), t.Range)
	}
	if p.Addr().Is4() && !p.IsSingleIP() || p.Addr().Is6() && p.Bits() < t.Prefix6 {
		least := "single addresses of IPv4"
		if p.Addr().Is6() {
			least = fmt.Sprintf("IPv6 prefixes of %d bits and longer", t.Prefix6)
		}
		a.errorf(where, "Prefix is larger than the template allows", "%s has %d bits; domu %q allows %s (%s).", p, p.Bits(), t.Name, least, t.Range)
	}
}

// claim enters all that a guest has, or nothing where something was reported.
func (a *attacher) claim(g *Domu) {
	p := placed(g)
	ll := policy.EUI64(g.MAC)
	a.claimInterface(&p)
	a.claimMAC(&p)
	if !p.pinned() {
		if c, dup := a.claims.addrs.Get(full(ll)); dup {
			a.conflictf(p.mac, c.addr.at, "Address is reserved", "%s, which a guest makes of the MAC %s, is bound to domu %q. Give one of them another.", ll, g.MAC, c.guest.Name)
		}
	}
	if len(a.diags) == 0 && !p.pinned() {
		a.claims.derived[ll] = &p
	}
	a.claimAddrs(&p)
	if len(a.diags) == 0 {
		return
	}
	c := &a.claims
	if c.interfaces[g.Vif].guest == &p {
		delete(c.interfaces, g.Vif)
	}
	if c.macs[g.MAC].guest == &p {
		delete(c.macs, g.MAC)
	}
	if c.derived[ll] == &p {
		delete(c.derived, ll)
	}
	for _, addr := range p.addrs {
		if held, ok := c.addrs.Get(addr.Prefix); ok && held.guest == &p {
			c.addrs.Delete(addr.Prefix)
		}
	}
}

// StandIns is the file with a guest for each template, of the template's name and with an address in each network that it allows, as long as
// there is a free one: for questions to the policy.
func (c *Config) StandIns() *Config {
	if len(c.Templates) == 0 {
		return c
	}
	a := newAttacher(c)
	for i, t := range c.Templates {
		g := Domu{Name: t.Name, MAC: policy.MAC{2, 0xff, 0xff, 0xff, byte(i >> 8), byte(i)}, Policy: t.Policy, Template: t.Name, Range: t.Range}
		for _, n := range c.Networks {
			if !t.Allows(&n) {
				continue
			}
			if p, ok := a.unused(n.Prefix); !ok {
				continue
			} else if p.Addr().Is4() {
				g.IPv4 = append(g.IPv4, p)
			} else {
				g.IPv6 = append(g.IPv6, p)
			}
		}
		a.claim(&g)
		a.diags = nil
		a.cfg.Domus = append(a.cfg.Domus, g)
	}
	return a.cfg
}

// unused is an address of a network that nobody has, of the first ones; the very first may mean the network itself.
func (a *attacher) unused(p netip.Prefix) (netip.Prefix, bool) {
	addr := p.Addr().Next()
	for range 1 << 16 {
		if !p.Contains(addr) {
			break
		}
		_, kept := overlapping(a.claims.kept, full(addr))
		if _, taken := overlapping(&a.claims.addrs, full(addr)); !kept && !taken {
			return full(addr), true
		}
		addr = addr.Next()
	}
	return netip.Prefix{}, false
}
