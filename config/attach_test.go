package config

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"udrouter/policy"
)

// attachFile has guests whom the file names wholly, one that waits for hotplug, and templates; "any" stands first and is asked last.
const attachFile = `uplink "eth0" {
  gateway4 = "192.0.1.1"
  gateway6 = "2001:db8:3:2::1"
}
bridge "xenbr0" {
  mac = "02:00:5e:00:53:01"
}
network "v4" {
  prefix   = "192.0.2.0/24"
  gateway  = "192.0.2.1"
  upstream = "routed"
}
network "v6" {
  prefix   = "2001:db8:3:2::/64"
  gateway  = "2001:db8:3:2:1::1"
  upstream = "proxied"
}
policy "p" {}
domu "rest" {
  match     = "any"
  addresses = 2
  prefix6   = 80
}
domu "fixed" {
  vif  = "vif1.0"
  mac  = "00:16:3e:00:00:01"
  ipv4 = ["192.0.2.10"]
}
domu "waits" {
  mac    = "00:16:3e:00:00:02"
  ipv4   = ["192.0.2.11"]
  ipv6   = ["fe80::22"]
  policy = "p"
}
domu "web" {
  match    = "web-*"
  networks = ["v4"]
  policy   = "p"
}
`

func TestAttach(t *testing.T) {
	cfg := mustParse(t, "router.hcl", []byte(attachFile))
	mac := func(n int) string { return fmt.Sprintf("00:16:3e:00:00:%02x", n) }
	type row struct {
		Attachment
		state AttachState
		domu  string
		says  string // a part of the text
	}
	at := func(vif string, index int, domain string, m int, addrs ...string) Attachment {
		return Attachment{Vif: vif, Index: index, Domain: domain, MAC: mac(m), Addresses: addrs}
	}
	of := func(a Attachment, guest string) Attachment { a.Guest = guest; return a }
	refused := func(a Attachment) Attachment { a.Refused = true; return a }
	device := func(a Attachment, n int) Attachment { a.Device = n; return a }
	for name, rows := range map[string][]row{
		"nothing": nil,
		"a guest that waits, whatever its domain is called": {{at("vif7.0", 7, "other", 2), AttachBound, "waits", ""}},
		"with addresses that the file does not give it":     {{at("vif7.0", 7, "waits", 2, "192.0.2.11", "192.0.2.99"), AttachBound, "waits", "has 192.0.2.99, which the file does not give"}},
		"without a domain":                          {{at("vif7.0", 7, "", 2), AttachBound, "waits", ""}},
		"the vif that the file names":               {{at("vif1.0", 7, "fixed", 1), AttachBound, "fixed", ""}},
		"another than the file names":               {{at("vif7.0", 7, "fixed", 1), AttachRefused, "", `has vif = "vif1.0" in the file`}},
		"the file's vif with a waiting guest's MAC": {{at("vif1.0", 7, "waits", 2), AttachRefused, "", `the vif of domu "fixed"`}},
		"the file's vif with a MAC of nobody":       {{at("vif1.0", 7, "web-1", 9), AttachRefused, "", `the vif of domu "fixed"`}},
		"a template":                                {{at("vif7.0", 7, "web-1", 9, "192.0.2.20"), AttachBound, "web-1", ""}},
		"any, without an address":                   {{at("vif7.0", 7, "db", 9), AttachBound, "db", "has no address"}},
		"no domain, so no template":                 {{at("vif7.0", 7, "", 9), AttachRefused, "", "none with match is for"}},
		"two interfaces of a domain": {
			{at("vif7.0", 7, "db", 9, "192.0.2.20"), AttachBound, "db", ""},
			{device(at("vif7.1", 8, "db", 10, "192.0.2.21"), 1), AttachBound, "db.1", ""},
		},
		"started anew, with another MAC and the addresses that it had": {
			{at("vif7.0", 7, "db", 9, "192.0.2.20"), AttachReplaced, "", "vif8.0 is the younger"},
			{at("vif8.0", 8, "db", 10, "192.0.2.20"), AttachBound, "db", ""},
		},
		"another domain of the name": {
			{of(at("vif7.0", 7, "db", 9, "192.0.2.20"), "1"), AttachBound, "db", ""},
			{of(at("vif8.0", 8, "db", 10, "192.0.2.21"), "2"), AttachRefused, "", "Name used twice"},
			{at("vif9.0", 9, "db", 11, "192.0.2.22"), AttachRefused, "", "Name used twice"},
		},
		"another domain of the name, whose MAC the file has": {
			{of(at("vif7.0", 7, "db", 9, "192.0.2.20"), "1"), AttachBound, "db", ""},
			{of(at("vif8.0", 8, "db", 2), "2"), AttachBound, "waits", ""},
		},
		"a domain under another name": {
			{of(at("vif7.0", 7, "db", 9, "192.0.2.20"), "1"), AttachReplaced, "", "vif8.0 is the younger"},
			{of(at("vif8.0", 8, "db-new", 9, "192.0.2.20"), "1"), AttachBound, "db-new", ""},
		},
		"another domain's emulated card": {
			{of(at("vif7.0", 7, "db", 9), "1"), AttachBound, "db", ""},
			{of(at("vif7.0-emu", 8, "db", 10), "2"), AttachRefused, "", "Name used twice"},
		},
		"refused before, and the guest that had the address has started anew": {
			{refused(at("vif7.0", 7, "thief", 9, "192.0.2.20")), AttachRefused, "", "Address used twice"},
			{at("vif8.0", 8, "db", 10, "192.0.2.20"), AttachBound, "db", ""},
		},
		"refused before, and nobody wants the address": {
			{refused(at("vif7.0", 7, "thief", 9, "192.0.2.20")), AttachBound, "thief", ""},
		},
		"refused before, and replaced by its own next life": {
			{refused(at("vif7.0", 7, "db", 9, "192.0.2.20")), AttachReplaced, "", "vif8.0 is the younger"},
			{at("vif8.0", 8, "db", 9, "192.0.2.20"), AttachBound, "db", ""},
		},
		"a guest that waits started anew": {
			{at("vif7.0", 7, "waits", 2), AttachReplaced, "", "vif8.0 is the younger"},
			{at("vif8.0", 8, "waits", 2), AttachBound, "waits", ""},
		},
		"another domain with a waiting guest's MAC": {
			{at("vif7.0", 7, "waits", 2), AttachBound, "waits", ""},
			{at("vif8.0", 8, "thief", 2), AttachRefused, "", "whose port is vif7.0 of another domain"},
		},
		"another domain with a MAC on the fly": {
			{at("vif7.0", 7, "a", 9), AttachBound, "a", ""},
			{at("vif8.0", 8, "b", 9), AttachRefused, "", "MAC address used twice"},
		},
		"another domain with an address on the fly": {
			{at("vif7.0", 7, "a", 9, "2001:db8:3:2:a::/80"), AttachBound, "a", ""},
			{at("vif8.0", 8, "b", 10, "2001:db8:3:2:a::1"), AttachRefused, "", "Addresses overlap"},
			{at("vif9.0", 9, "c", 10, "2001:db8:3:2:b::1"), AttachBound, "c", ""}, // what b did not get is free
		},
		"what a refused one would make of its MAC is free": {
			{at("v1", 1, "a", 9, "192.0.2.10"), AttachRefused, "", "Address used twice"},
			{at("v2", 2, "b", 10, "fe80::216:3eff:fe00:9"), AttachBound, "b", ""},
		},
		"a name that came again": {
			{at("vnet0", 7, "a", 9), AttachReplaced, "", "Another interface has its name"},
			{at("vnet0", 8, "b", 10), AttachBound, "b", ""},
		},
		"an emulated card beside the vif, which is older": {
			{at("vif7.0", 7, "db", 9), AttachWaiting, "db", "vif7.0-emu"},
			{at("vif7.0-emu", 8, "db", 9), AttachBound, "db", ""},
		},
		"an emulated card beside the vif, which is younger": {
			{at("vif7.0-emu", 7, "db", 9), AttachBound, "db", ""},
			{at("vif7.0", 8, "db", 9), AttachWaiting, "db", "vif7.0-emu"},
		},
		"the emulated card of the life before": {
			{at("vif7.0", 7, "db", 9), AttachReplaced, "", "vif8.0 is the younger"},
			{at("vif7.0-emu", 8, "db", 9), AttachReplaced, "", "vif8.0 is the younger"},
			{at("vif8.0", 9, "db", 9), AttachBound, "db", ""},
		},
		"an emulated card alone": {{at("vif7.0-emu", 7, "db", 9), AttachBound, "db", ""}},
		"refused by what the file has": {
			{at("v1", 1, "fixed", 9), AttachRefused, "", `"fixed" is there already`},
			{at("v2", 2, "web", 9), AttachRefused, "", `"web" is there already`},
			{at("v3", 3, "a", 9, "192.0.2.10"), AttachRefused, "", `192.0.2.10 is bound to domu "fixed" and to domu "a"`},
			{at("v4", 4, "b", 9, "192.0.2.1"), AttachRefused, "", `the gateway of network "v4"`},
			{at("v5", 5, "c", 9, "2001:db8:3:2::1"), AttachRefused, "", "the provider's router"},
			{at("v6", 6, "d", 9, "198.51.100.1"), AttachRefused, "", "Address outside every network"},
			{at("v7", 7, "e", 9, "fe80::1"), AttachRefused, "", "Address is reserved"},
			{at("v8", 8, "f", 0x22), AttachBound, "f", ""},
			{at("eth0", 9, "g", 9), AttachRefused, "", "Interface eth0 used twice"},
			{at("udr0", 10, "waits", 2), AttachRefused, "", "Interface udr0 used twice"},
			{Attachment{Vif: "v11", Index: 11, Domain: "h", MAC: "02:00:5e:00:53:01"}, AttachRefused, "", "the router (the bridge's mac)"},
			{at("v12", 12, "i", 9, "fe80::216:3eff:fe00:1"), AttachRefused, "", `what domu "fixed" makes of its MAC`},
		},
		"refused by the template": {
			{at("v1", 1, "web-1", 9, "2001:db8:3:2:1::20"), AttachRefused, "", `domu "web" allows v4 (router.hcl:`},
			{at("v2", 2, "a", 9, "192.0.2.20", "192.0.2.21", "192.0.2.22"), AttachRefused, "", "has 3, and domu \"rest\" allows 2"},
			{at("v3", 3, "b", 9, "192.0.2.32/28"), AttachRefused, "", "single addresses of IPv4"},
			{at("v4", 4, "c", 9, "2001:db8:3:2:a00::/72"), AttachRefused, "", "prefixes of 80 bits"},
			{at("v5", 5, "d", 9, "2001:db8:3:2:a::/80"), AttachBound, "d", ""},
		},
		"what is no value": {
			{Attachment{Vif: "v1", Index: 1, Domain: "a", MAC: "01:00:5e:00:00:01"}, AttachRefused, "", "Multicast MAC address"},
			{Attachment{Vif: "v2", Index: 2, Domain: "b"}, AttachRefused, "", "Malformed MAC address"},
			{at("v3", 3, "c", 9, "192.0.2.300"), AttachRefused, "", "four numbers from 0 to 255"},
			{at("v4", 4, "d", 9, "192.0.2.20/24"), AttachRefused, "", "Prefix has host bits set"},
			{at("a name that is too long", 5, "e", 9), AttachRefused, "", "Not an interface name"},
			{at("v6", 6, "no name", 9), AttachRefused, "", "Character not allowed"},
			{at("v7", 7, "g", 9, "192.0.2.20", "192.0.2.20"), AttachRefused, "", "Address listed twice"},
			{at("v8", 8, "h", 9, "192.0.2.20"), AttachBound, "h", ""},
		},
		"a pinned address that another guest makes of its MAC": {
			{at("v1", 1, "a", 9, "fe80::216:3eff:fe00:a"), AttachBound, "a", ""},
			{at("v2", 2, "b", 10), AttachRefused, "", "makes of the MAC"},
			{at("v3", 3, "c", 11), AttachBound, "c", ""},
			{at("v4", 4, "d", 12, "fe80::216:3eff:fe00:b"), AttachRefused, "", `what domu "c" makes of its MAC`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var list []Attachment
			for _, r := range rows {
				list = append(list, r.Attachment)
			}
			effective := cfg.Attach(list)
			out := effective.Attached
			for i, r := range rows {
				if got := out[i]; got.State != r.state || got.Domu != r.domu || !strings.Contains(got.Text, r.says) || r.says == "" && got.Text != "" && len(r.Addresses) > 0 {
					t.Errorf("%+v", got)
				}
			}
			checkAttached(t, cfg, effective, out)
		})
	}
}

// The policy of a guest on the fly is its template's, and what the file says of others stays.
func TestAttachKeepsTheFile(t *testing.T) {
	cfg := mustParse(t, "router.hcl", []byte(attachFile))
	before := mustParse(t, "router.hcl", []byte(attachFile))
	got := cfg.Attach([]Attachment{{Vif: "vif7.0", Index: 7, Domain: "web-1", MAC: "00:16:3e:00:00:09", Addresses: []string{"192.0.2.20"}}, {Vif: "vif8.0", Index: 8, MAC: "00:16:3E:00:00:02"}})
	want := *before
	want.Attached, want.Base = got.Attached, cfg
	want.Domus = slices.Clone(before.Domus)
	want.Domus[1].Vif, want.Domus[1].Index = "vif8.0", 8
	want.Domus = append(want.Domus, Domu{Name: "web-1", Vif: "vif7.0", Index: 7, MAC: policy.MAC{0, 0x16, 0x3e, 0, 0, 9}, IPv4: []netip.Prefix{netip.MustParsePrefix("192.0.2.20/32")},
		Policy: "p", Template: "web", Range: before.Templates[0].Range})
	if diff := cmp.Diff(&want, got, sameIPs); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(before, cfg, sameIPs); diff != "" {
		t.Errorf("the file's own has changed:\n%s", diff)
	}
	if p := got.PolicyFor(&got.Domus[2]); p.Name != "p" {
		t.Errorf("policy %q", p.Name)
	}
}

// Whatever is attached, in whatever order: nothing belongs to two, the file's guests keep what they have, and who came later and is of another
// guest changes nothing for who was there.
func TestAttachProperties(t *testing.T) {
	cfg := mustParse(t, "router.hcl", []byte(attachFile))
	rng := rand.New(rand.NewPCG(1, 2))
	states := map[AttachState]int{}
	for range 3000 {
		var list []Attachment
		for i := range rng.IntN(12) {
			list = append(list, drawAttachment(rng, i+1))
		}
		effective := cfg.Attach(list)
		out := effective.Attached
		checkAttached(t, cfg, effective, out)
		for _, a := range out {
			states[a.State]++
		}

		shuffled := rng.Perm(len(list))
		other := make([]Attachment, len(list))
		for i, j := range shuffled {
			other[i] = list[j]
		}
		again := effective.Attach(other)
		outAgain := again.Attached
		if diff := cmp.Diff(effective, again, sameIPs, cmpopts.IgnoreFields(Config{}, "Attached")); diff != "" {
			t.Fatalf("%+v in another order:\n%s", list, diff)
		}
		for i, j := range shuffled {
			if diff := cmp.Diff(out[j], outAgain[i]); diff != "" {
				t.Fatalf("%+v in another order:\n%s", list, diff)
			}
		}

		young := drawAttachment(rng, 100)
		young.Vif, young.Domain, young.Guest = "young", either(rng, "young", "web-young"), either(rng, "", "young")
		with := cfg.Attach(append(list, young)).Attached
		if diff := cmp.Diff(out, with[:len(out)]); diff != "" {
			t.Fatalf("%+v, and then %+v:\n%s", list, young, diff)
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	for _, s := range []AttachState{AttachBound, AttachWaiting, AttachReplaced, AttachRefused} {
		if states[s] < 100 {
			t.Errorf("%s occurred %d times", s, states[s])
		}
	}
}

func either(rng *rand.Rand, words ...string) string { return words[rng.IntN(len(words))] }

// drawAttachment draws from so few of everything that most want what another has.
func drawAttachment(rng *rand.Rand, index int) Attachment {
	a := Attachment{Vif: fmt.Sprintf("vif%d.0", rng.IntN(6)), Index: index, Domain: either(rng, "", "a", "b", "web-1", "web-2", "waits", "fixed", "bad name"), Guest: either(rng, "", "", "1", "2"),
		Device: max(0, rng.IntN(4)-2), MAC: fmt.Sprintf("00:16:3e:00:00:%02x", rng.IntN(8))}
	if rng.IntN(4) == 0 {
		a.Vif += emulated
	}
	for range rng.IntN(3) {
		a.Addresses = append(a.Addresses, either(rng, "192.0.2.10", "192.0.2.20", "192.0.2.21", "2001:db8:3:2:a::/80", "2001:db8:3:2:a::1", "2001:db8:3:2:b::1",
			"fe80::5", "fe80::216:3eff:fe00:3", "192.0.2.1", "none"))
	}
	return a
}

// checkAttached compares everybody's with everybody else's, and with what was to be had.
func checkAttached(t *testing.T, file, c *Config, out []Attached) {
	t.Helper()
	vifs := map[string]int{c.Uplink.Name: 1, c.Bridge.Name: 1, c.Bridge.TAP: 1}
	names, macs := map[string]int{}, map[policy.MAC]int{c.Bridge.MAC: 1}
	for _, tmpl := range c.Templates {
		names[tmpl.Name]++
	}
	for i, g := range c.Domus {
		names[g.Name]++
		macs[g.MAC]++
		if g.Vif != "" {
			vifs[g.Vif]++
		}
		for _, p := range slices.Concat(g.IPv4, g.IPv6) {
			for _, other := range c.Domus[i+1:] {
				for _, q := range slices.Concat(other.IPv4, other.IPv6) {
					if p.Overlaps(q) {
						t.Errorf("%s of %s and %s of %s", p, g.Name, q, other.Name)
					}
				}
				if p == full(policy.EUI64(other.MAC)) && !slices.ContainsFunc(other.IPv6, func(q netip.Prefix) bool { return q.Addr().IsLinkLocalUnicast() }) {
					t.Errorf("%s of %s is what %s makes of its MAC", p, g.Name, other.Name)
				}
			}
			if n := c.NetworkOf(p.Addr()); n == nil && !p.Addr().IsLinkLocalUnicast() || n != nil && (p.Contains(n.Gateway) || p.Contains(c.Uplink.Gateway6)) {
				t.Errorf("%s of %s", p, g.Name)
			}
		}
		if i < len(file.Domus) {
			was := file.Domus[i]
			if was.Vif == "" {
				was.Vif, was.Index = g.Vif, g.Index
			}
			if !cmp.Equal(was, g, sameIPs) {
				t.Errorf("the file's %+v is %+v", was, g)
			}
			continue
		}
		if !slices.ContainsFunc(c.Templates, func(tmpl Template) bool { return tmpl.Name == g.Template && tmpl.Policy == g.Policy }) {
			t.Errorf("%+v is of no template", g)
		}
	}
	for name, n := range names {
		if n > 1 {
			t.Errorf("name %s %d times", name, n)
		}
	}
	for m, n := range macs {
		if n > 1 {
			t.Errorf("MAC %s %d times", m, n)
		}
	}
	for v, n := range vifs {
		if n > 1 {
			t.Errorf("vif %s %d times", v, n)
		}
	}
	// A port is a guest's when it is said to be, and only then, but for those that the file names.
	ports := map[string]string{}
	for _, g := range c.Domus {
		ports[g.Vif] = g.Name
	}
	for _, g := range file.Domus {
		delete(ports, g.Vif)
	}
	delete(ports, "")
	for _, a := range out {
		switch {
		case a.State == AttachBound && (a.Domu == "" || a.By == ""):
			t.Errorf("%+v", a)
		case a.State == AttachBound:
			if owner, there := ports[a.Vif]; there && owner != a.Domu {
				t.Errorf("%+v, and the port is %s's", a, owner)
			}
			delete(ports, a.Vif)
		case a.Text == "" || a.State == "":
			t.Errorf("%+v says nothing", a)
		}
	}
	if len(ports) > 0 {
		t.Errorf("ports of nobody: %v", ports)
	}
}

func TestTemplateCovers(t *testing.T) {
	alphabet := "ab*?"
	var patterns, names []string
	for n := range 4 {
		for i := range 1 << (2 * n) {
			p := ""
			for j := range n {
				p += string(alphabet[i>>(2*j)&3])
			}
			patterns = append(patterns, p)
			if !strings.ContainsAny(p, "*?") {
				names = append(names, p, p+"abab")
			}
		}
	}
	proper := 0
	for _, a := range patterns {
		for _, b := range patterns {
			if !covers(a, b) {
				continue
			}
			if a != b {
				proper++
			}
			for _, n := range names {
				if (&Template{Match: b}).Matches(n) && !(&Template{Match: a}).Matches(n) {
					t.Fatalf("%q covers %q, but not %q", a, b, n)
				}
			}
		}
	}
	if proper < 100 || !covers("web-*", "web-1*") || !covers("*", "any") || covers("web-*", "*") || covers("web-?", "web-*") {
		t.Errorf("%d pairs", proper)
	}
	if long := strings.Repeat("*a", 60); covers(long+"b", long) { // in bounded time
		t.Error("b is missing")
	}
}

// A template that no domain is left for is a warning, and the file is valid.
func TestTemplateThatNeverMatches(t *testing.T) {
	src := minimal + `
domu "a" {
  match = "any"
}
domu "b" {
  match = "web-*"
}
domu "c" {
  match = "web-1?"
}
domu "d" {
  match = "any"
}
`
	cfg, diags := Parse("router.hcl", []byte(src))
	var got []string
	for _, d := range diags {
		got = append(got, fmt.Sprintf("%d %s", d.Subject.Start.Line, d.Detail))
	}
	want := []string{`16 Every domain that "web-1?" matches is bound by domu "b" before it. Put it first, or remove it. Previous definition at router.hcl:13.`,
		`19 Every domain that "any" matches is bound by domu "a" before it. Put it first, or remove it. Previous definition at router.hcl:10.`}
	if cfg == nil || diags.HasErrors() || !slices.Equal(got, want) {
		t.Fatalf("%q", got)
	}
	var order []string
	for _, tmpl := range cfg.Templates {
		order = append(order, tmpl.Name)
	}
	if !slices.Equal(order, []string{"b", "c", "a", "d"}) {
		t.Errorf("asked in the order %v", order)
	}
}

// Each template gets a stand-in with an address of each network that it allows, which nobody has.
func TestStandIns(t *testing.T) {
	cfg := mustParse(t, "router.hcl", []byte(attachFile))
	with := cfg.StandIns()
	var got []string
	for _, g := range with.Domus[2:] {
		got = append(got, fmt.Sprint(g.Name, g.Policy, g.IPv4, g.IPv6))
	}
	want := []string{"webp[192.0.2.2/32] []", "rest[192.0.2.3/32] [2001:db8:3:2::2/128]"}
	if !slices.Equal(got, want) || len(cfg.Domus) != 2 {
		t.Errorf("%q", got)
	}
}
